"""The records of the coordinator's log: keys, values, and the states they carry.

A key is a msgpack array that begins with the kind of record and the version of the key's form; a value begins with the version
of its own form. A later record with the same key replaces an earlier one, and one whose value is None removes it, so
compaction may keep just the last of each.

    key                                  value
    [1, 0, group]                        [0, type, epoch, protocol_type, protocol, leader | nil,
                                          {topic: partitions}, empty_since_ms | nil]
    [2, 0, group, member_id]             [0, instance_id | nil, client_id | nil, client_host, [topic],
                                          [[protocol, metadata]], session_timeout_ms, rebalance_timeout_ms, remote,
                                          incarnation, member_epoch, [[topic, [partition], [epoch]]],
                                          [[topic, [partition]]], assignment]
    [3, 0, group, topic, partition]      [0, offset, metadata, leader_epoch | nil, commit_ms, topic_id]

One record of a group and one of each member serve both types of groups:

- "consumer" (KIP-848): the coordinator assigns. `protocol` is the assignor, `epoch` the group epoch; a protocol of a member is
  an assignor that it accepts, without metadata; the two lists of a member are what it was given, with the group epoch at which
  that was, and its target. `leader` is nil and `assignment` empty. A member of such a group that uses the classic protocol has its
  protocols with their metadata.
- "classic" (JoinGroup, SyncGroup): the leader assigns. `protocol_type` ("consumer", "connect") and `protocol` are those of
  the generation, which is the `epoch` of the group and of its members; metadata and assignment are the clients' own bytes.
  Where the protocol type is "consumer" a member's topics are those that its metadata names, and its two lists are the partitions that
  its assignment names, or that it had and did not give up yet (each is in one member's); otherwise they are empty, as the
  counts of the group always are. A generation begins at 1; it is written when its leader has
  sent the assignments. So a group with members is stable after a replay, and a rebalance in progress begins again.

An offset belongs to the topic of `topic_id` (16 bytes), and means nothing in another topic of the same name. The key has the
name, so that a commit for the topic that has the name now replaces one for a former topic. Lists inside a value are sorted,
but for protocols, which are in the member's order of preference; so equal states are equal bytes. No record refers to another
one: after compaction they may be replayed in any order of keys.

A change of form is a new version, and a new kind of record has a new number. A process that only reads keeps a record whose
kind or version it does not know, and goes on without it. One that writes refuses the log: see `shard.Shard.loaded`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, TypeAlias

import msgpack

from ..errors import FormatError
from ..types import TopicPartition
from .assignors import ASSIGNORS, known_assignors

GROUP, MEMBER, OFFSET = 1, 2, 3
KEY_VERSION = VALUE_VERSION = 0
CONSUMER, CLASSIC = "consumer", "classic"
JOINING_EPOCH = 0
"""The member epoch of a member of a consumer group that no target was computed for yet."""
AWAY_EPOCH = -2
"""The member epoch of a static member that left, while its place is kept, as in Kafka."""

LogRecord: TypeAlias = tuple[bytes, bytes | None]
Protocols: TypeAlias = tuple[tuple[str, bytes], ...]


class GroupState(NamedTuple):
    """The record of a group as a whole.

    `counts` has the partition counts that the targets were computed from, of subscribed topics that exist.
    `empty_since_ms` is None while the group has members. The other fields: see the module.
    """

    epoch: int = 0
    protocol: str = ""
    counts: Mapping[str, int] = {}
    empty_since_ms: int | None = None
    type: str = CONSUMER
    protocol_type: str = CONSUMER
    leader: str | None = None


class MemberState(NamedTuple):
    """The record of a member.

    `given` is what it may hold, each partition with the group epoch at which it was given: a commit with an older epoch comes
    from before the partition was last lost. `target` is what it should come to hold. `rebalance_timeout_s` is Kafka's name for
    the longest time between two polls.
    """

    member_id: str
    instance_id: str | None
    client_id: str | None
    client_host: str
    topics: frozenset[str]
    protocols: Protocols
    session_timeout_s: float
    rebalance_timeout_s: float
    remote: bool
    incarnation: str
    member_epoch: int
    given: Mapping[TopicPartition, int] = {}
    target: frozenset[TopicPartition] = frozenset()
    assignment: bytes = b""

    @property
    def away(self) -> bool:
        """It is static and has left: it holds nothing, and its target is kept for the member that takes its place."""
        return self.member_epoch == AWAY_EPOCH

    @property
    def is_classic(self) -> bool:
        """Whether it uses JoinGroup and SyncGroup: each of its protocols has metadata then, and otherwise none has."""
        return any(metadata for _, metadata in self.protocols)

    @property
    def assignors(self) -> tuple[str, ...]:
        """The assignors that a member of a consumer group accepts, in its order of preference.

        A classic one does not assign there, so it accepts all, those first that it names.
        """
        names = (name for name, _ in self.protocols)
        return tuple(dict.fromkeys((*known_assignors(names), *ASSIGNORS))) if self.is_classic else tuple(names)


class CommittedOffset(NamedTuple):
    """A committed position, when (ms, the log's clock) it was committed, and the id of the topic it is a position in."""

    offset: int
    metadata: str
    leader_epoch: int | None
    commit_ms: int
    topic_id: bytes


class GroupRecord(NamedTuple):
    group: str
    state: GroupState | None


class MemberRecord(NamedTuple):
    group: str
    member_id: str
    state: MemberState | None


class OffsetRecord(NamedTuple):
    group: str
    partition: TopicPartition
    state: CommittedOffset | None


Record: TypeAlias = GroupRecord | MemberRecord | OffsetRecord


def pack(value: Any) -> bytes:
    # surrogatepass: a name or metadata that is not valid text must not make a commit fail
    packed: bytes = msgpack.packb(value, unicode_errors="surrogatepass")
    return packed


def unpack(data: bytes) -> Any:
    try:
        return msgpack.unpackb(data, use_list=False, unicode_errors="surrogatepass")
    except ValueError as error:
        raise damaged(data, str(error)) from error


def damaged(data: bytes, why: str) -> FormatError:
    return FormatError(
        f"a record of the coordinator's log cannot be decoded ({why}; {data[:40]!r}): it was damaged or written by something "
        "else; run streamlog.verify on the directory"
    )


def newer(key: bytes) -> FormatError:
    """The error of a log with a record, which has this key, of a kind or version that is not known here."""
    return FormatError(
        f"the coordinator's log has a record of a kind or version not known here (key {key[:40]!r}): it was written by a newer "
        "version of streamlog, and groups would lose what it says; use that version, or open the log with read_only=True"
    )


def by_topic(partitions: Iterable[TopicPartition]) -> list[tuple[str, list[int]]]:
    topics: dict[str, list[int]] = {}
    for topic, partition in sorted(partitions):
        topics.setdefault(topic, []).append(partition)
    return list(topics.items())


# -- encoding


def group_key(group: str) -> bytes:
    return pack((GROUP, KEY_VERSION, group))


def member_key(group: str, member_id: str) -> bytes:
    return pack((MEMBER, KEY_VERSION, group, member_id))


def offset_key(group: str, partition: TopicPartition) -> bytes:
    return pack((OFFSET, KEY_VERSION, group, partition[0], partition[1]))


def group_value(state: GroupState) -> bytes:
    counts = dict(sorted(state.counts.items()))
    kind = (state.type, state.epoch, state.protocol_type, state.protocol, state.leader)
    return pack((VALUE_VERSION, *kind, counts, state.empty_since_ms))


def member_value(state: MemberState) -> bytes:
    given = [
        (topic, numbers, [state.given[TopicPartition(topic, number)] for number in numbers])
        for topic, numbers in by_topic(state.given)
    ]
    return pack(
        (
            VALUE_VERSION,
            state.instance_id,
            state.client_id,
            state.client_host,
            sorted(state.topics),
            state.protocols,
            round(state.session_timeout_s * 1000),
            round(state.rebalance_timeout_s * 1000),
            state.remote,
            state.incarnation,
            state.member_epoch,
            given,
            by_topic(state.target),
            state.assignment,
        )
    )


def offset_value(state: CommittedOffset) -> bytes:
    return pack((VALUE_VERSION, *state))


# -- decoding


def decode(key: bytes, value: bytes | None) -> Record | None:
    """The record, or None for one of a kind or version that is not known here. Raises FormatError for one that is damaged."""
    kind, version, *names = versioned_fields(key, 2)
    decoder = _DECODERS.get(kind)
    if decoder is None or version != KEY_VERSION:
        return None
    fields = None  # of a tombstone
    if value is not None:
        version, *fields = versioned_fields(value, 1)
        if version != VALUE_VERSION:
            return None
    try:
        return decoder(names, fields)
    except (TypeError, ValueError) as error:
        raise damaged(key if value is None else value, str(error)) from error


def versioned_fields(data: bytes, versions: int) -> tuple[Any, ...]:
    """The fields of a key or value, the first of which are numbers: kind and version, or version."""
    fields = unpack(data)
    if isinstance(fields, tuple) and len(fields) >= versions and all(isinstance(n, int) for n in fields[:versions]):
        return fields
    raise damaged(data, "it has no version")


def _decode_group(names: list[Any], fields: list[Any] | None) -> GroupRecord:
    (group,) = names
    if fields is None:
        return GroupRecord(group, None)
    type_, epoch, protocol_type, protocol, leader, counts, empty_since_ms = fields
    return GroupRecord(group, GroupState(epoch, protocol, counts, empty_since_ms, type_, protocol_type, leader))


def _decode_member(names: list[Any], fields: list[Any] | None) -> MemberRecord:
    group, member_id = names
    if fields is None:
        return MemberRecord(group, member_id, None)
    instance_id, client_id, host, topics, protocols, session_ms, rebalance_ms, *rest = fields
    remote, incarnation, epoch, given, target, assignment = rest
    state = MemberState(
        member_id,
        instance_id,
        client_id,
        host,
        frozenset(topics),
        protocols,
        session_ms / 1000,
        rebalance_ms / 1000,
        remote,
        incarnation,
        epoch,
        {
            TopicPartition(topic, number): since
            for topic, numbers, epochs in given
            for number, since in zip(numbers, epochs, strict=True)
        },
        frozenset(TopicPartition(topic, number) for topic, numbers in target for number in numbers),
        assignment,
    )
    return MemberRecord(group, member_id, state)


def _decode_offset(names: list[Any], fields: list[Any] | None) -> OffsetRecord:
    group, topic, number = names
    return OffsetRecord(group, TopicPartition(topic, number), None if fields is None else CommittedOffset(*fields))


_DECODERS: Mapping[int, Callable[[list[Any], list[Any] | None], Record]] = {
    GROUP: _decode_group,
    MEMBER: _decode_member,
    OFFSET: _decode_offset,
}
