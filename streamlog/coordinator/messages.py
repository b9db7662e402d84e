"""The requests to a shard, and its answers."""

from __future__ import annotations

from typing import NamedTuple

from ..types import TopicPartition


class Heartbeat(NamedTuple):
    """A member's heartbeat, with everything it has to say: join, subscribe, and what it holds.

    `member_id` is empty to join; the answer has the new id. `owned` is what the member still holds: partitions that it was
    given and does not name are released. `polling` is True for a real poll, which renews the poll deadline; every heartbeat
    renews the session. Only a `remote` member (in another process, with heartbeats of its own) has a session that can
    expire. A member in this process sends `leave`, and `session_timeout_s` is only how long a static member's place is kept.

    `wanted_id` is the id that a joining member has chosen for itself (KIP-848): if it never gets the answer, it knows which
    member has to leave.
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
    client_host: str = "localhost"
    wanted_id: str = ""


class HeartbeatResult(NamedTuple):
    """What the member should hold now.

    A member drops what it holds outside `assignment`, and may use all of `assignment` at once. `stable` is False while this
    member has to release a partition, or waits for another member to release one: a member that has dropped something sends
    a heartbeat again in the same poll. `next_check_s` (monotonic seconds) is no later than the next liveness deadline in the
    group: a member that waits longer would miss an eviction. `version` is for `Shard.renew`. `waits_for` are the members that
    have to release a partition before this one can have it; none, and not `stable`: it has to send a heartbeat again, by
    `next_check_s`, to have a target.
    """

    member_id: str
    member_epoch: int
    assignment: frozenset[TopicPartition]
    stable: bool
    next_check_s: float | None
    version: int
    waits_for: frozenset[str] = frozenset()


class MemberDescription(NamedTuple):
    """A member at one moment.

    `assignment` is what it may hold; that of a static member that is away is what is kept for it. Those two of a member of a
    classic group are empty: it has its own bytes, `metadata` for the protocol of the generation and `assigned`.
    """

    member_id: str
    group_instance_id: str | None
    client_id: str | None
    client_host: str
    member_epoch: int
    topics: frozenset[str]
    assignment: frozenset[TopicPartition]
    target: frozenset[TopicPartition]
    metadata: bytes = b""
    assigned: bytes = b""


class GroupDescription(NamedTuple):
    """A group at one moment.

    `state`: Empty, Reconciling or Stable for a consumer group; Empty, PreparingRebalance, CompletingRebalance or Stable for a
    classic one; Dead where there is no such group. `protocol` is its assignor, or the protocol of the generation; `epoch` is
    the group epoch, or the generation.
    """

    name: str
    state: str
    protocol: str
    epoch: int
    members: tuple[MemberDescription, ...]
    type: str = "consumer"
    protocol_type: str = "consumer"


class GroupListing(NamedTuple):
    """A group in a list. `type`, `protocol_type` and `state` as in its GroupDescription."""

    name: str
    type: str
    protocol_type: str
    state: str
