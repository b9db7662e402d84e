"""Consumer groups: who is in one, which partitions each member has, and how far the group has read.

What is in the room, from the bottom up:

    schema      the records of the internal log: their keys, their values, and the states they hold
    messages    what is asked of a shard and what it answers: Heartbeat, HeartbeatResult, GroupDescription
    assignors   range, roundrobin, sticky, cooperative-sticky: partitions over members, nothing else
    offsets     committed offsets of one group, and when they expire
    group       one group as replaying its records made it, and the liveness of its members
    plan        what a request would change in one group, as records
    refusals    the errors, in words
    ledger      append, replay, answer: the one way to change groups; who is to be woken
    members     requests of members: join, heartbeat, leave, evict, metadata
    commits     requests about offsets: commit, read, delete, expire
    check       the invariants of a group, for tests
    shard       the door: every request comes in here and leaves as a Completion

How one request travels. The broker takes the shard's lock and calls `Shard.heartbeat`. The shard asks
the group whether anything is different from last time; usually nothing is, and the same answer goes
out again. Otherwise a `Transition` is drawn up over the group: the member's new subscription, a new target
for everybody if that is due, the partitions this member may have now. The plan is a list of records.
They are appended; only when the append was taken are they replayed, and only replaying changes a
group. So recovery, which replays the whole log, is the same code as life, and a failed append leaves
nothing behind. The answer waits for the append's Completion.

How partitions move (KIP-848's way, for every assignor). A rebalance gives each member a *target* at
once. What a member may hold, `given`, follows step by step: it loses a partition only when its own
heartbeat says that it no longer holds it (or when it is removed), and only then may the member whose
target has the partition be given it. So a partition has at most one owner at any time, and a member
that loses nothing never stops.

Nothing here owns a lock, a thread, a clock or a file: the caller holds the shard's lock for every
method that does not say otherwise, hands the time in (`now_ms`: the log's clock, for commits and
retention; `now_s`: real monotonic seconds, for liveness), and after leaving the lock calls what
`take_wakeups` hands out. Liveness deadlines are the only state that is not in the log.
"""

from .messages import GroupDescription, Heartbeat, HeartbeatResult
from .shard import DEFAULT_OFFSETS_RETENTION_MS, Shard

__all__ = ["DEFAULT_OFFSETS_RETENTION_MS", "GroupDescription", "Heartbeat", "HeartbeatResult", "Shard"]
