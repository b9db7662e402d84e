"""The requests to a shard, and its answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from ..types import TopicPartition
from .schema import Protocols


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


class ClassicGroupConfig(NamedTuple):
    """The settings of Kafka's broker that classic groups depend on, by Kafka's names, and with its defaults but for the delay.

    That (Kafka: 3 s) is how long the first members of an empty group wait for others.
    """

    initial_rebalance_delay_ms: int = 0
    min_session_timeout_ms: int = 6_000
    max_session_timeout_ms: int = 1_800_000
    max_size: int = 2**31 - 1


class JoinGroup(NamedTuple):
    """A JoinGroup request: a member joins, or joins again after a heartbeat was answered with RebalanceInProgressError.

    `member_id` is empty to join. `protocols` are in the member's order of preference, each with metadata of which nothing is
    known here. For the protocol type "consumer" `topics` and `owned` are what that metadata says: the subscription, and what
    the member still holds. With `requires_known_member_id` a member that is not static gets MemberIdRequiredError first, and
    joins with that id (KIP-394); `can_skip_assignment`: see `JoinGroupResult`.
    """

    group: str
    member_id: str
    instance_id: str | None
    client_id: str | None
    client_host: str
    protocol_type: str
    protocols: Protocols
    session_timeout_s: float
    rebalance_timeout_s: float
    topics: frozenset[str] = frozenset()
    owned: frozenset[TopicPartition] = frozenset()
    requires_known_member_id: bool = True
    can_skip_assignment: bool = False
    reason: str = ""


class JoinGroupMember(NamedTuple):
    """A member, as its leader sees it: `metadata` is that for the protocol of the generation."""

    member_id: str
    group_instance_id: str | None
    metadata: bytes


class JoinGroupResult(NamedTuple):
    """The generation that a member is of. The leader gets the `members`, and has to assign.

    With `skip_assignment` it gets them and does not assign: it is a static leader that took its place again, and the
    generation goes on (KIP-814).
    """

    member_id: str
    generation_id: int
    protocol_type: str
    protocol: str
    leader: str
    members: tuple[JoinGroupMember, ...] = ()
    skip_assignment: bool = False


class SyncGroup(NamedTuple):
    """A SyncGroup request. The leader's has the `assignments` by member id, of which nothing is known here.

    For the protocol type "consumer" `partitions` is what they say. `protocol_type` and `protocol`: what the member takes the
    generation's for, or None (KIP-559).
    """

    group: str
    member_id: str
    instance_id: str | None
    generation_id: int
    protocol_type: str | None = None
    protocol: str | None = None
    assignments: Mapping[str, bytes] = {}
    partitions: Mapping[str, frozenset[TopicPartition]] = {}


class SyncGroupResult(NamedTuple):
    """What a member is to hold: the bytes that its leader sent, or `partitions` if the coordinator assigned them, which has no bytes."""

    protocol_type: str
    protocol: str
    assignment: bytes
    partitions: frozenset[TopicPartition] | None = None


class MemberIdentity(NamedTuple):
    """A member that is to leave: by its id, or by the `instance_id` of a static one where that is empty."""

    member_id: str
    instance_id: str | None = None
    reason: str = ""


class MemberDescription(NamedTuple):
    """A member at one moment.

    `assignment` is what it may hold; that of a static member that is away is what is kept for it. A member of a classic group
    has its own bytes too, `metadata` for the protocol of the generation and `assigned`, and `assignment` is what they say if
    the protocol type is "consumer". `is_classic`: it uses the classic protocol.
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
    is_classic: bool = False


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
