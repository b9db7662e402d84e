"""Directories, topics and groups: every service that a client can ask for.

- `api`: the `Service` protocol, through which `client/` asks for everything. `service`: its implementation for the
  partitions of this process. `tailing/`: its implementation for a log that another process owns. `reading`: the calls that
  only read, for both. `appending`: those of producers.
- `delayed_fetch`: a fetch of several partitions that waits. `fetched`: what a fetch brings: batches that decode themselves.
- `opening`: opening a log by its URL. `registry`: which logs this process has open.
- `broker`: one broker. `brokers`: the brokers of a log, what is asked of all of them, their directories and metadata.
- `leadership`: which of them leads a partition.
- `presence`: which brokers are here when a log is opened. `metadata_copies`: their copies of the metadata log.
- `broker_changes`: brokers that stop, fail and come back. `disk_watch`: finds those whose disk does not answer.
- `leader_moves`: planned moves of leaders, which lose nothing. `reassignments`: partitions that get other replicas.
- `log_directory`: a directory: its lock, and opening and closing its partitions. `owner`: the file `streamlog.json`.
- `topics`: the image of all topics, and the requests that change it. `controller`: from a request to its record.
  `metadata_log`: how a change takes effect, or has none. `metadata`: from the records to the image. `policies`: retention
  policies that are objects, by topic. `replay`: reading an internal log from its beginning.
- `metrics`: the numbers of partitions, brokers and their replication. `descriptions`: what administrators ask of a log that runs.
- `producer_ids`: producer ids, allocated in blocks.
- `replica_manager`: a partition for each one that the image names, and that of the metadata log.
- `lost_partitions`: what is known of partitions whose directories are gone. `lost_transactions`: what a power loss leaves of those that
  only partitions know. `offline/`: verify and repair.
- `group_coordinator`: consumer groups, a shard for each partition of their internal topic. `group_shard`: one of them, which is
  elected and resigned with the leadership of its partition.
- `transaction_coordinator`: transactions, a shard for each partition of their internal topic. `coordinator_shard`: one of them, loaded
  from the replica that leads. `coordinator_log`: what both kinds of shards do with their partition.
  `steps`: requests that wait for one thing after another.
- `scheduler`: background work by deadline. `real_timers`: timeouts and sessions, by real time. `monotonic_timers`: the same under a clock that a test moves. `waiting`: fetches that wait for records.

Lock order: the lock of a log's place (`registry`), the metadata lock (`topics`), a shard's lock (`group_shard`), then those of a
partition (see `replication/`). The locks of the scheduler and of `PublishedWriter` are leaves. No lock is held while a
callback runs. While a file is synced for a producer that waits, only `GroupCommit.syncing` is held.
"""
