"""Members of groups, and producers, as single requests: what tests ask a listener of whose error codes they look at."""

from __future__ import annotations

from typing import Any

from streamlog.kafka import Listener, messages
from streamlog.kafka.errors import ErrorCode

from .clients import asked

JOIN, SYNC, COMMIT, FETCH, TXN_COMMIT, BEAT = 11, 14, 8, 9, 28, 68
RANGE = [
    messages.JoinGroupRequest.JoinGroupRequestProtocol(name="range", metadata=b"\0\1\0\0\0\0\xff\xff\xff\xff\0\0\0\0")
]


class ClassicMember:
    """A member of a classic group, alone in it: the leader of its generation, with an assignment that names nothing."""

    def __init__(self, listener: Listener, group: str = "g", instance_id: str | None = None, **fields: Any) -> None:
        self._listener, self._group, self._instance_id = listener, group, instance_id
        Join = messages.JoinGroupRequest
        request = Join(
            **{
                "group_id": group, "session_timeout_ms": 10_000, "rebalance_timeout_ms": 10_000,
                "protocol_type": "consumer", "group_instance_id": instance_id, "protocols": RANGE, **fields,
            }
        )  # fmt: skip
        joined = asked(listener, JOIN, 9, request)
        if joined.error_code == ErrorCode.MEMBER_ID_REQUIRED:
            request.member_id = joined.member_id
            joined = asked(listener, JOIN, 9, request)
        assert joined.error_code == ErrorCode.NONE
        self.member_id, self.generation = joined.member_id, joined.generation_id

    def sync(self) -> ErrorCode:
        Sync = messages.SyncGroupRequest
        request = Sync(
            group_id=self._group, generation_id=self.generation, member_id=self.member_id,
            group_instance_id=self._instance_id, protocol_type="consumer", protocol_name="range",
            assignments=[
                Sync.SyncGroupRequestAssignment(member_id=self.member_id, assignment=b"\0\0\0\0\0\0\0\0\0\0")
            ],
        )  # fmt: skip
        return ErrorCode(asked(self._listener, SYNC, 5, request).error_code)


def commit(
    listener: Listener,
    member_id: str,
    epoch: int,
    *,
    group: str = "g",
    instance_id: str | None = None,
    version: int = 9,
    partition: int = 0,
    metadata: str = "",
) -> ErrorCode:
    """What OffsetCommit says of an offset of topic t."""
    Commit = messages.OffsetCommitRequest
    one = Commit.OffsetCommitRequestPartition(
        partition_index=partition, committed_offset=0, committed_metadata=metadata
    )
    request = Commit(
        group_id=group, member_id=member_id, generation_id_or_member_epoch=epoch, group_instance_id=instance_id,
        topics=[Commit.OffsetCommitRequestTopic(name="t", partitions=[one])],
    )  # fmt: skip
    (topic,) = asked(listener, COMMIT, version, request).topics
    return ErrorCode(topic.partitions[0].error_code)


def commit_in_transaction(
    listener: Listener,
    transactional_id: str,
    producer: tuple[int, int],
    *,
    group: str = "g",
    member_id: str = "",
    epoch: int = -1,
    instance_id: str | None = None,
    version: int = 5,
) -> ErrorCode:
    Commit = messages.TxnOffsetCommitRequest
    one = Commit.TxnOffsetCommitRequestPartition(partition_index=0, committed_offset=0, committed_metadata="")
    request = Commit(
        transactional_id=transactional_id, group_id=group, producer_id=producer[0], producer_epoch=producer[1],
        member_id=member_id, generation_id_or_member_epoch=epoch, group_instance_id=instance_id,
        topics=[Commit.TxnOffsetCommitRequestTopic(name="t", partitions=[one])],
    )  # fmt: skip
    (topic,) = asked(listener, TXN_COMMIT, version, request).topics
    return ErrorCode(topic.partitions[0].error_code)


def heartbeat(listener: Listener, member_id: str, epoch: int, *, group: str = "g", **fields: Any) -> Any:
    """The answer to a ConsumerGroupHeartbeat of a member that subscribes to topic t."""
    request = messages.ConsumerGroupHeartbeatRequest(
        **{
            "group_id": group, "member_id": member_id, "member_epoch": epoch, "subscribed_topic_names": ["t"],
            "topic_partitions": [], "rebalance_timeout_ms": 10_000, **fields,
        }
    )  # fmt: skip
    return asked(listener, BEAT, 1, request)


def new_producer(listener: Listener, transactional_id: str, **fields: Any) -> tuple[int, int]:
    """The id and epoch of a producer."""
    request = messages.InitProducerIdRequest(
        **{
            "transactional_id": transactional_id, "transaction_timeout_ms": 60_000, "producer_id": -1,
            "producer_epoch": -1, **fields,
        }
    )  # fmt: skip
    answer = asked(listener, 22, 5, request)
    assert answer.error_code == ErrorCode.NONE
    return answer.producer_id, answer.producer_epoch
