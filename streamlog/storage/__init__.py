"""A log on disk: one partition, one directory. Knows no topic name, no peer, no lock, no thread.

- `log`: the log itself: append, roll, forget; `reading`: fetch, find by time. `tail`: its published state, and
  what goes in and out.
- `segment`: one file of batches; `index`: where in it an offset or a time lies; `lookup`: walks over several.
- `published`: how far other processes may read, as bytes; `following`: their view of a log that is not theirs, made of
  `followed` files.
- `recovery`: from the files back to a log after a close or a crash.
- `checkpoint`: `partition.state`, two checksummed slots.
- `producer_state`, `leader_epochs`: which producer and which leader wrote what, read from the headers.
- `retention`, `compaction`: what may be forgotten, and how a compacted topic is rewritten. `swap`: the file
  names, and the step that puts one segment in place of several.
- `check`, `batch_check`: every invariant of a directory, for `verify` and for the tests.
- `faults`: the disk's errors as the library's own.

Who calls: `replication/partition.py`, which holds the partition's lock around everything that changes
the log. Readers need none: they take `log.tail` once, an immutable value replaced in one assignment.
`FORMAT.md` describes the bytes.
"""
