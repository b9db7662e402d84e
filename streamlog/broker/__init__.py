"""Directories, topics and groups: every service that a client can ask for.

- `api`: the `Service` protocol, through which `client/` asks for everything. `service`: its implementation for the
  partitions of this process. `tailing/`: its implementation for a log that another process owns. `reading`: the calls that
  only read, for both.
- `opening`: opening a log by its URL, and which logs this process has open.
- `log_directory`: a directory: its lock, and opening and closing its partitions. `owner`: the file `streamlog.json`.
- `metadata_log`: how a change of topics takes effect, or has none. `controller`: from a change to its records. `metadata`:
  from the records to the image of all topics. `replica_manager`: a partition for each of them. `replay`: reading an
  internal log from its beginning.
- `lost_partitions`: what is known of partitions whose directories are gone. `offline/`: verify and repair.
- `groups`: consumer groups: the coordinator's shard over its internal topic.
- `scheduler`: background work by deadline. `waiting`: fetches that wait for records.

Lock order: metadata lock, shard lock, partition lock. None is held while a callback runs, or while a file is synced for
a producer that waits.
"""
