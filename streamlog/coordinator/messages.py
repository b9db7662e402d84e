"""What is asked of a shard, and what it answers."""

from __future__ import annotations

from typing import NamedTuple

from ..types import MemberInfo, TopicPartition


class Heartbeat(NamedTuple):
    """A member's sign of life, and all it has to say: join, subscribe, and what it holds.

    `member_id` is empty to join; the answer has the new one. `owned` is what the member still holds,
    so what it was given and does not name is released. `polling` is True for a real poll, which renews
    the poll deadline; any heartbeat renews the session. Only a `remote` member (one that lives in
    another process and heartbeats by itself) has a session to lose; a member in this process is told
    by `leave`, and `session_timeout_s` is then just how long a static member's place is kept.

    `wanted_id` is the id that a joining member has chosen for itself (KIP-848): it then knows whom to take
    out of the group if it never hears the answer.
    """

    group: str
    member_id: str
    member_epoch: int
    instance_id: str | None
    client_id: str | None
    topics: frozenset[str]
    assignors: tuple[str, ...]
    owned: frozenset[TopicPartition]
    session_timeout_s: float
    max_poll_interval_s: float
    polling: bool = True
    remote: bool = False
    wanted_id: str = ""


class HeartbeatResult(NamedTuple):
    """What the member should hold now.

    A member drops what it holds outside `assignment`, and may use all of `assignment` at once.
    `stable` is False while a partition has still to be released by this member or by another one for
    it: having dropped something, heartbeat again in the same poll. `next_check_s` (monotonic seconds)
    is no later than the next liveness deadline of anybody in the group: whoever waits longer would
    miss an eviction. `version` is for `Shard.changed` and `Shard.renew`.
    """

    member_id: str
    member_epoch: int
    assignment: frozenset[TopicPartition]
    stable: bool
    next_check_s: float | None
    version: int


class GroupDescription(NamedTuple):
    """A group at one moment. `state` is Empty, Reconciling, Stable, or Dead where there is no such group."""

    name: str
    state: str
    assignor: str
    epoch: int
    members: tuple[MemberInfo, ...]
