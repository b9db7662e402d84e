"""One partition in one directory: a log on disk. It knows no topic's name, takes no lock and starts no thread.

- `log`: the log: append, roll, delete. It holds a `reader`: fetch, find by time; and a `durability`: syncing, the recovery
  point, poisoning.
- `truncation`: the files of a log that a follower truncates. `leader_batches`: what a follower fetched, before it is appended.
- `tail`: what passes between a log and its callers: `LogSnapshot`, `AppendRequest`, `FetchData`.
- `segment`: one file of batches. `index`: where in it an offset or a time is. `scan`: iteration over its headers. `held`: the
  bound on open files, mappings and indexes.
- `files`: the names of the files, and how one segment replaces several. `checkpoint`: the file `partition.state`.
- `last_batches`: where the producers of a segment are, stored with its index.
- `producer_state`, `leader_epochs`, `transactions`: which producer and which leader wrote what, and what was aborted, read
  from the headers.
- `retention`: the policies that say which segments may be deleted. `compaction`: the rewriting of a compacted topic.
- `recovery/`: from the files to a log after a close or a crash. `verify/`: every invariant of a directory. `lost`:
  whether a partition's directory is gone.
- `published`: the file that tells other processes how far they may read. `tailing`: the view of those processes, with
  `tailed_segment`: one file of it.

`replication/partition.py` holds the partition's lock around everything that changes the log. Readers need no lock: they
take `log.tail` once, an immutable value that one assignment replaces. `FORMAT.md` describes the bytes.
"""
