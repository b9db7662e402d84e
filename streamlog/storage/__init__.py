"""One partition in one directory: a log on disk. It knows no topic's name, takes no lock and starts no thread.

- `log`: the log: append, roll, delete. It holds a `reader`: fetch, find by time; and a `durability`: syncing, the recovery
  point, poisoning.
- `refusals`: what forbids appending.
- `truncation`: what a follower removes whose leader has another history. `leader_batches`: what a follower fetched, before it
  is appended. `copying`: a follower copies a record from its leader's memory.
- `tail`: what passes between a log and its callers: `LogSnapshot`, `AppendRequest`, `FetchData`.
- `segment`: one file of batches. `index`: where in it an offset or a time is. `scan`: iteration over its headers. `held`: the
  bound on open files, mappings and indexes.
- `files`: the names of the files, and how one segment replaces several. `checkpoint`: the file `partition.state`.
- `producer_summary`: what is stored with the index of a segment of its producers: `last_batches`, where they are, and
  `transaction_events`, where their transactions begin and end.
- `producer_state`, `leader_epochs`, `transactions`: which producer and which leader wrote what, and what was aborted, read
  from the headers. `log_transactions`: the transactions of one log, as it grows; `tailed_transactions`: of one that
  another process writes.
- `retention`: the policies that say which segments may be deleted. `compaction`: the rewriting of a compacted topic.
  `repair`: damage in a segment, filled from another replica. `replacement`: the new file of a segment that was rewritten.
- `recovery/`: from the files to a log after a close or a crash. `verify/`: every invariant of a directory. `lost`:
  whether a partition's directory is gone.
- `published`: the file that tells other processes how far they may read. `tailing`: the view of those processes, with
  `tailed_segment`: one file of it.

`replication/partition.py` holds the partition's lock around everything that changes the log. Readers need no lock: they
take `log.tail` once, an immutable value that one assignment replaces. `FORMAT.md` describes the bytes.
"""
