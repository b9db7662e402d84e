"""One partition: its log, the lock around its changes, group commit, its replicas, and what is called when it changes.

- `partition`: `Partition`, one replica, and its high watermark: with one replica the end of the log, or of what is synced.
- `follower`: what a replica does as a follower: appends, truncates, deletes as its leader does.
- `replica_set`: `ReplicaSet`, what a leader knows of its followers. `fetcher`: `ReplicaFetcher`, how a follower follows.
  `throttle`: how fast the replicas that a reassignment adds do so.
- `turns`: `FollowerTurns`, how a sender that waits for its record has the followers take it, on its own thread.
- `fencing`: a replica whose disk does not answer any more, which others go on without.
- `errors`: what a partition that another broker leads, or that waits for others, raises.
- `election`: which replica leads, and where replicas are placed.
- `validation`: `RecordValidator`, what a produced batch has to be before it is appended.
- `transactions`: reading which there are in a partition, and the markers that end them.
- `commit`: `GroupCommit`, one sync for many writes that request it.
- `deletions`: `Deletions`, deletions from the front of a log: the followers first, the leader last.
- `purgatory`: `Purgatory`, the operations that wait for the high watermark, or for a sync.
- `maintenance`: `Maintenance`, the background work: rolling, retention, compaction, repair, syncing sealed segments.
- `repairs`: `Repairs`, what is damaged in a replica, and is filled from others. `scrub`: `Scrub`, which looks for damage.
- `listeners`: `Waiters`, callbacks of calls that wait for an append; `LogListener`, which publishes changes to other processes.

Lock order: the turn of a follower (`fetcher.Following`; only the thread of its fetcher waits for it), `Maintenance.lock` (held
around deleting and replacing segments; may be long, never stops an append),
`Partition.lock` (around everything that changes the log), `GroupCommit.syncing` (around each sync). The lock of a purgatory, and the
one under which the high watermark is raised, are leaves. A caller that needs
only one of them takes only that one. This package and `coordinator/` do not import each other.
"""
