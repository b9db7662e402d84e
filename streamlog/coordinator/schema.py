"""The records of the coordinator's log: keys, values, and the states they carry.

A key is a msgpack array that begins with the kind of record; a later record with the same key replaces
an earlier one, and one whose value is None removes it, so compaction may keep just the last of each.

    key                                  value
    [1, group]                           [0, epoch, assignor, {topic: partitions}, empty_since_ms | nil]
    [2, group, member_id]                [0, instance_id | nil, client_id | nil, [topic], [assignor],
                                          session_timeout_s, max_poll_interval_s, remote, incarnation,
                                          member_epoch, [[topic, [partition], [epoch]]], [[topic, [partition]]]]
    [3, group, topic, partition]         [0, offset, metadata, leader_epoch | nil, commit_ms, topic_id]

An offset belongs to the topic of `topic_id` (16 bytes), and means nothing in another topic of the same name. The key has the
name, so that a commit for the topic that has the name now replaces one for a former topic. The two lists of a member are what
it was given, with the group epoch at which that was, and its target. The leading 0 is the version of the value's form. Lists
inside a value are sorted, so equal states are equal bytes. No record refers to another one: after compaction they may be
replayed in any order of keys.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, TypeAlias

import msgpack

from ..errors import FormatError
from ..types import TopicPartition

GROUP, MEMBER, OFFSET = 1, 2, 3
VALUE_VERSION = 0
AWAY_EPOCH = -2
"""The member epoch of a static member that left, while its place is kept, as in Kafka."""

LogRecord: TypeAlias = tuple[bytes, bytes | None]


class GroupState(NamedTuple):
    """The record of a group as a whole.

    `counts` has the partition counts that the targets were computed from, of subscribed topics that exist.
    `empty_since_ms` is None while the group has members.
    """

    epoch: int = 0
    assignor: str = ""
    counts: Mapping[str, int] = {}
    empty_since_ms: int | None = None


class MemberState(NamedTuple):
    """The record of a member.

    `given` is what it may hold, each partition with the group epoch at which it was given: a commit with an older epoch comes
    from before the partition was last lost. `target` is what it should come to hold.
    """

    member_id: str
    instance_id: str | None
    client_id: str | None
    topics: frozenset[str]
    assignors: tuple[str, ...]
    session_timeout_s: float
    max_poll_interval_s: float
    remote: bool
    incarnation: str
    member_epoch: int
    given: Mapping[TopicPartition, int]
    target: frozenset[TopicPartition]

    @property
    def away(self) -> bool:
        """It is static and has left: it holds nothing, and its target is kept for the member that takes its place."""
        return self.member_epoch == AWAY_EPOCH


class CommittedOffset(NamedTuple):
    """A committed position, when (ms, the log's clock) it was committed, and the id of the topic it is a position in."""

    offset: int
    metadata: str
    leader_epoch: int | None
    commit_ms: int
    topic_id: bytes


def _pack(value: Any) -> bytes:
    # surrogatepass: a name or metadata that is not valid text must not make a commit fail
    packed: bytes = msgpack.packb(value, unicode_errors="surrogatepass")
    return packed


def _unpack(data: bytes) -> Any:
    try:
        return msgpack.unpackb(data, use_list=False, unicode_errors="surrogatepass")
    except ValueError as error:
        raise FormatError(
            f"a record of the coordinator's log cannot be decoded ({error}): it was damaged or written by something "
            "else; run streamlog.verify on the directory"
        ) from error


def _by_topic(partitions: Iterable[TopicPartition]) -> list[tuple[str, list[int]]]:
    topics: dict[str, list[int]] = {}
    for topic, partition in sorted(partitions):
        topics.setdefault(topic, []).append(partition)
    return list(topics.items())


def group_key(group: str) -> bytes:
    return _pack((GROUP, group))


def member_key(group: str, member_id: str) -> bytes:
    return _pack((MEMBER, group, member_id))


def offset_key(group: str, partition: TopicPartition) -> bytes:
    return _pack((OFFSET, group, partition[0], partition[1]))


def group_value(state: GroupState) -> bytes:
    return _pack((VALUE_VERSION, state.epoch, state.assignor, dict(sorted(state.counts.items())), state.empty_since_ms))


def member_value(state: MemberState) -> bytes:
    given = [
        (topic, numbers, [state.given[TopicPartition(topic, number)] for number in numbers])
        for topic, numbers in _by_topic(state.given)
    ]
    return _pack(
        (
            VALUE_VERSION,
            state.instance_id,
            state.client_id,
            sorted(state.topics),
            state.assignors,
            state.session_timeout_s,
            state.max_poll_interval_s,
            state.remote,
            state.incarnation,
            state.member_epoch,
            given,
            _by_topic(state.target),
        )
    )


def offset_value(state: CommittedOffset) -> bytes:
    return _pack((VALUE_VERSION, *state))


def decode_key(key: bytes) -> tuple[int, str, tuple[Any, ...]]:
    """Kind, group, and the rest of the key. Raises FormatError for a kind that is not known here."""
    fields = _unpack(key)
    if not isinstance(fields, tuple) or len(fields) < 2 or fields[0] not in (GROUP, MEMBER, OFFSET):
        raise FormatError(
            f"a record of the coordinator's log is of a kind not known here (key {key[:40]!r}): it was written by a "
            "newer version of streamlog; open the log with that version"
        )
    return fields[0], fields[1], fields[2:]


def _fields(value: bytes) -> tuple[Any, ...]:
    fields = _unpack(value)
    if not isinstance(fields, tuple) or not fields or fields[0] != VALUE_VERSION:
        raise FormatError(
            f"a record of the coordinator's log has a form not known here (value {value[:20]!r}): it was written by "
            "a newer version of streamlog; open the log with that version"
        )
    return fields[1:]


def decode_group(value: bytes) -> GroupState:
    return GroupState(*_fields(value))


def decode_member(member_id: str, value: bytes) -> MemberState:
    fields = _fields(value)
    instance_id, client_id, topics, assignors, session_s, poll_s, remote, incarnation, epoch, given, target = fields
    return MemberState(
        member_id,
        instance_id,
        client_id,
        frozenset(topics),
        assignors,
        session_s,
        poll_s,
        remote,
        incarnation,
        epoch,
        {
            TopicPartition(topic, number): given_epoch
            for topic, numbers, epochs in given
            for number, given_epoch in zip(numbers, epochs, strict=True)
        },
        frozenset(TopicPartition(topic, number) for topic, numbers in target for number in numbers),
    )


def decode_offset(value: bytes) -> CommittedOffset:
    fields = _fields(value)
    if len(fields) != len(CommittedOffset._fields):
        raise FormatError(
            f"a committed offset in the coordinator's log has {len(fields)} fields where {len(CommittedOffset._fields)} are "
            f"due (value {value[:40]!r}): it was damaged or written by something else; run streamlog.verify on the directory"
        )
    return CommittedOffset(*fields)
