"""A partition as the cluster sees it: its log, its lock, who waits for it, how far it may be read.

- `partition`: the leader's side. With one replica the high watermark is the log's end.
- `waiters`: who waits for that end to move; `listener`: what tells other processes of it.

Locks: the partition lock (around everything that changes the log) and the maintenance lock (around
retention and compaction, which may take long and never stop an append). Maintenance is taken first.
Knows nothing of groups: `coordinator/` and this room are blind to each other.
"""
