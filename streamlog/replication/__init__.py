"""One partition: its log, the lock around its changes, group commit, its replicas, and who is called when it changes.

- `partition`: `Partition`, one replica, and its high watermark: with one replica the end of the log, or of what is synced.
- `replica_set`: `ReplicaSet`, what a leader knows of its followers. `fetcher`: `ReplicaFetcher`, how a follower follows.
- `election`: who leads, and where replicas are placed.
- `validation`: `RecordValidator`, what a produced batch has to be before it is appended.
- `commit`: `GroupCommit`, one sync for many writes that request it.
- `purgatory`: `Purgatory`, the operations that wait for the high watermark, or for a sync.
- `maintenance`: `Maintenance`, the background work: rolling, retention, compaction, syncing sealed segments.
- `listeners`: `Waiters`, callbacks of calls that wait for an append; `LogListener`, which publishes changes to other processes.

Lock order: `Maintenance.lock` (held around deleting and replacing segments; may be long, never stops an append),
`Partition.lock` (around everything that changes the log), `GroupCommit.syncing` (around each sync). The lock of a purgatory, and the
one under which the high watermark is raised, are leaves. A caller that needs
only one of them takes only that one. This package and `coordinator/` do not import each other.
"""
