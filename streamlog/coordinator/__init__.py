"""Consumer groups: the members of each, which partitions each member has, and how far the group has read. And transactions.

- `schema`: the records of the internal log: keys, values, and the states they hold.
- `messages`: requests to a shard and its answers: Heartbeat, HeartbeatResult, GroupDescription. `errors`: its errors.
- `assignors`: range, roundrobin, sticky, cooperative-sticky: partitions over members, as pure functions.
- `offsets`: the committed offsets of one group, and when they expire.
- `group`: one group as replayed from its records, and the liveness of its members.
- `transition`: the changes that one request makes to one group, as records.
- `runtime`: `CoordinatorRuntime`: append, replay, answer, for groups and for transactions.
- `groups`: `Groups`: the groups of a shard, by replay; which callbacks to wake.
- `classic`: a classic group (JoinGroup, SyncGroup), as a pure state machine. `classic_members`: `ClassicGroupManager`, its requests.
- `mixed`: `ClassicProtocolManager`: the same requests to groups with members of both protocols.
- `members`: `GroupMetadataManager`: join, heartbeat, leave, eviction, metadata.
- `commits`: `OffsetMetadataManager`: commit, read, delete, expire offsets.
- `shard`: `Shard`, made of the last five: every request, each answered by a Completion. `check`: invariants, for tests.
- `transaction`: one transactional id, its states and its record. `transaction_shard`: every request about transactions.

How one request travels. The broker takes the shard's lock and calls `Shard.heartbeat`. If nothing is different from the last
heartbeat, which is the usual case, the same answer is given again. Otherwise a `Transition` is made over the group: the
member's new subscription, new targets if they are due, the partitions that this member may have now. Its records are appended;
when the append was taken they are replayed, and only replaying changes a group. So recovery, which replays the whole log, runs
the same code, and a failed append leaves nothing to undo. The answer waits for the append's Completion.

How partitions move (as in KIP-848, for every assignor). A rebalance gives each member a *target* at once. What a member may hold,
`given`, follows step by step: a member loses a partition only when its own heartbeat says that it no longer holds it, or when it
is removed, and only then the member whose target has the partition is given it. So a partition has at most one owner at any
time, and a member that loses nothing never stops.

This package has no lock, thread, clock or file: the caller holds the shard's lock for every call but `renew`, passes the time
(`now_ms`: the log's clock, for commits and retention; `now_s`: real monotonic seconds, for liveness), and calls what
`take_wakeups` returns after releasing the lock. Liveness deadlines are the only state that is not in the log.
"""

from .messages import GroupDescription, GroupListing, Heartbeat, HeartbeatResult
from .shard import DEFAULT_OFFSETS_RETENTION_MS, Shard

__all__ = ["DEFAULT_OFFSETS_RETENTION_MS", "GroupDescription", "GroupListing", "Heartbeat", "HeartbeatResult", "Shard"]
