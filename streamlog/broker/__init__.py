"""The broker: directories, topics, and every service that a client can ask for.

- `api`: the Service protocol, the one way in. `client/` speaks nothing else.
- `service`: the protocol over the partitions of this process; `reading`: the half of it that only reads.
- `following`: the protocol over a log that another process owns: `watching` sees what is new, `followed_groups`
  replays its groups, `refusing` says no to what would write. `publishing`: the owner's side, DIR/published.
- `broker`: a directory's life: lock, owner file, opening and closing partitions.
- `catalog`: what topics there are and a partition for each; `controller`, `metadata`: the same as pure functions.
- `lost_partitions`: what is known of partitions whose directories are gone, and the loss accepted.
- `groups`: consumer groups: the coordinator's shard over its internal topic.
- `scheduler`: background work by deadline. `waiting`: requests parked until there is something to read.

Lock order: metadata lock, shard lock, partition lock. None is held while a callback runs or a file is synced
on behalf of a waiting producer.
"""
