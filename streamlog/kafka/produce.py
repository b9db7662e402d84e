"""Produce (0): a client's batch is checked, and stored as it came.

acks=0 has no answer; acks=1 is answered when the leader has the records, -1 when readers may see them. A batch of an idempotent
producer that is in the log already is answered with the offset that it has. A batch is compressed anew where the topic's compression.type
is another codec than the client's. From version 12 on a partition to which a transaction writes is added to it by the first batch
(KIP-890); before, the client adds it.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

from ..broker.api import ProduceRequest, ProducerIdAndEpoch
from ..broker.metadata import Image, TopicView
from ..errors import (
    ConcurrentTransactionsError,
    CoordinatorLoadInProgressError,
    InvalidTimestampError,
    InvalidTopicError,
    InvalidTxnStateError,
    NotCoordinatorError,
    NotEnoughReplicasError,
    StreamlogError,
    UnsupportedCompressionTypeError,
)
from ..records import compression, kafka_wire
from ..records.batch import TRANSACTIONAL, seed_of
from ..runtime.api import AllDone, Completion
from ..types import TopicPartition
from . import broker_configs, messages
from .api_keys import ApiKey
from .apis import CLOSE, Call, Later, led_partition, topic_of
from .errors import ErrorCode, code_of
from .schema import ZERO_UUID

_ACKS: dict[int, Literal[0, 1, "all"]] = {0: 0, 1: 1, -1: "all"}
_FIRST_WITH_IDS = 13  # of topics (KIP-516)
_FIRST_WITH_ABORTABLE, _FIRST_THAT_ADDS = 11, 12  # TRANSACTION_ABORTABLE, and partitions to transactions (KIP-890)
_FIRST_WITH_ZSTD = 7  # KIP-110
_AS_SENT, _STAMPED = "producer", "LogAppendTime"  # compression.type, message.timestamp.type
_MAX_UNCOMPRESSED = 100 << 20
"""Of a batch, in bytes: what its compressed records may take in memory while they are checked."""
_MANY_RECORDS, _MANY_PARTITIONS, _MANY_BYTES, _MANY_COMPRESSED = 20_000, 1_000, 4 << 20, 4
"""Of a request with more than these the check, of tens of milliseconds and more, is left to a thread that may block. How large a
compressed batch is inside is only known once it is decompressed: so there may be few of these.
"""
_BEFORE_MAX_MS = "message.timestamp.before.max.ms"
# Errors that say nothing of the partition's log, so that the answer has no log start offset.
_SAY_NO_START = frozenset(
    {
        ErrorCode.UNKNOWN_TOPIC_OR_PARTITION,
        ErrorCode.UNKNOWN_TOPIC_ID,
        ErrorCode.NOT_LEADER_OR_FOLLOWER,
        ErrorCode.MESSAGE_TOO_LARGE,
        ErrorCode.CORRUPT_MESSAGE,
        ErrorCode.KAFKA_STORAGE_ERROR,
        ErrorCode.INVALID_TOPIC_EXCEPTION,
    }
)


def _check_age(view: TopicView, call: Call, least_ms: int) -> None:
    """Raises InvalidTimestampError for a batch whose oldest record is too old. The library has no setting for it: it is the clients'."""
    text = view.kafka_config.get(_BEFORE_MAX_MS) or broker_configs.text_of(f"log.{_BEFORE_MAX_MS}", call.settings)
    if text is None or view.config.message_timestamp_type == _STAMPED:
        return
    before_ms = call.service.clock.time_ms() - least_ms
    if before_ms > int(text):
        raise InvalidTimestampError(
            f"The timestamp {least_ms} is {before_ms} ms behind the clock; {view.name!r} allows {text} ({_BEFORE_MAX_MS}). Check the unit "
            f"(milliseconds), or raise the setting. Nothing was appended.",
            value=least_ms,
        )


def produce(call: Call) -> Any:
    if not _takes_long(call.request):
        return _append(call, *_check(call))
    # The listener's thread would answer no other client meanwhile.
    return Later(call.blocking(partial(_check, call)).done, lambda checked: _append(call, *checked.result()))


def _takes_long(request: Any) -> bool:
    parts, size, records, compressed = 0, 0, 0, 0
    for topic in request.topic_data:
        parts += len(topic.partition_data)
        for each in topic.partition_data:
            if each.records:
                size += len(each.records)
                claimed = kafka_wire.claimed_records(each.records)
                if claimed > 0:  # else it is refused before anything is decompressed
                    records += claimed
                    compressed += kafka_wire.codec_of(each.records) != compression.NONE
    is_large = parts > _MANY_PARTITIONS or size > _MANY_BYTES
    return is_large or records > _MANY_RECORDS or compressed > _MANY_COMPRESSED


def _check(call: Call) -> tuple[Any, list[_Answer]]:
    """The response, to be filled in, and its answers. It may run on any thread."""
    request = call.request
    Response = messages.ProduceResponse
    acks = _ACKS.get(request.acks)
    image = call.service.image
    answers: list[_Answer] = []
    responses = []
    for topic in request.topic_data:
        topic_id = topic.topic_id if call.version >= _FIRST_WITH_IDS else None
        found = [_Answer(call, image, topic.name, topic_id, each, acks) for each in topic.partition_data]
        responses.append(
            Response.TopicProduceResponse(
                name=topic.name, topic_id=topic_id or ZERO_UUID, partition_responses=[each.response for each in found]
            )
        )
        answers += found
    return Response(responses=responses), answers


def _append(call: Call, response: Any, answers: list[_Answer]) -> Any:
    request = call.request
    acks = _ACKS.get(request.acks)
    if request.transactional_id is None and any(each.is_transactional for each in answers):
        # There is no id that anyone could be allowed to use.
        for answer in answers:
            answer.response.error_code = ErrorCode.TRANSACTIONAL_ID_AUTHORIZATION_FAILED
        return response if acks else CLOSE

    def respond(done: Completion[Any]) -> Any:
        for answer in answers:
            answer.finish(call)
        return response

    def append(added: Completion[Any]) -> Any:
        for answer in answers:
            answer.append(call, added.error())
        if acks == 0:
            # The client has no other way to learn that it has to ask for the metadata again.
            return CLOSE if any(each.appended.error() is not None for each in answers) else None
        return Later(AllDone([each.appended for each in answers]), respond)

    return Later(_added(call, answers), append)


def _added(call: Call, answers: list[_Answer]) -> Completion[Any]:
    """Done when the partitions are in the producer's transaction, if there is one that adds them so."""
    transactional_id = call.request.transactional_id
    sealed = [each.request for each in answers if each.request is not None]
    if call.version < _FIRST_THAT_ADDS or not transactional_id or not sealed:
        return Completion.of(None)
    batch = sealed[0].batches[0]
    producer = ProducerIdAndEpoch(batch.producer_id, batch.producer_epoch)
    partitions = [TopicPartition(*each.partition[:2]) for each in sealed]
    return call.service.add_partitions_to_txn(transactional_id, producer, partitions)


_OF_COORDINATOR = (ConcurrentTransactionsError, CoordinatorLoadInProgressError, NotCoordinatorError)


def _code(error: BaseException, *, is_not_added: bool) -> ErrorCode:
    """The code for a batch. `is_not_added`: it is of a transaction that its partition may not be in, and the client knows the code for it.

    What the coordinator of transactions says, clients do not expect here. They try again after NOT_ENOUGH_REPLICAS, and do not
    ask for the metadata for it: so Kafka's choice (KIP-890).
    """
    if is_not_added and isinstance(error, InvalidTxnStateError):
        return ErrorCode.TRANSACTION_ABORTABLE
    return ErrorCode.NOT_ENOUGH_REPLICAS if isinstance(error, _OF_COORDINATOR) else code_of(error)


class _Answer:
    """What becomes of the records of one partition: a part of the response, to be filled in by `finish` when they are `appended`."""

    def __init__(
        self, call: Call, image: Image, name: str, topic_id: bytes | None, data: Any, acks: Literal[0, 1, "all"] | None
    ) -> None:
        self.response = messages.ProduceResponse.PartitionProduceResponse(
            index=data.index, base_offset=-1, log_append_time_ms=-1, log_start_offset=-1
        )
        self.appended: Completion[int] = Completion.of(-1)
        self.request: ProduceRequest | None = None
        self._is_stamped = False
        self._at: TopicPartition | None = None
        if acks is None:
            self.response.error_code = ErrorCode.INVALID_REQUIRED_ACKS
            return
        try:
            view = topic_of(image, name, topic_id)
            self._at = TopicPartition(view.name, data.index)
            self.request = self._sealed(call, image, view, data, acks)
            self._is_stamped = view.config.message_timestamp_type == _STAMPED
        except StreamlogError as error:
            self.appended = Completion.failed(error)

    @property
    def is_transactional(self) -> bool:
        return self.request is not None and bool(self.request.batches[0].attributes & TRANSACTIONAL)

    def append(self, call: Call, refused: BaseException | None) -> None:
        """Append, unless the transaction `refused` the partitions."""
        if self.request is not None:
            self.appended = call.service.produce(self.request) if refused is None else Completion.failed(refused)

    @staticmethod
    def _sealed(call: Call, image: Image, view: TopicView, data: Any, acks: Literal[0, 1, "all"]) -> ProduceRequest:
        number = data.index
        if view.internal:
            raise InvalidTopicError(f"{view.name!r} belongs to the log itself, and takes no records of clients.")
        led_partition(call, image, view, number)
        known = image.partition(view.id_bytes, number)
        # More than there are replicas, of which only Kafka's clients can ask, counts as all of them (KIP-966).
        least, isr = min(view.config.min_insync_replicas, len(known.replicas)), known.isr
        if acks == "all" and least > len(isr):
            raise NotEnoughReplicasError(
                f"{view.name}-{number} has {len(isr)} in-sync replicas, and its min.insync.replicas is {least}. Nothing was appended. "
                f"Start a broker, or lower min.insync.replicas."
            )
        codec = view.config.compression_type
        sealed = kafka_wire.sealed(
            seed_of(view.id_bytes, number),
            data.records or b"",
            codec=None if codec == _AS_SENT else compression.codec_id(codec),
            max_bytes=view.config.max_message_bytes,
            max_uncompressed=_MAX_UNCOMPRESSED,
        )
        _check_age(view, call, sealed.base_timestamp)
        if call.version < _FIRST_WITH_ZSTD and kafka_wire.codec_of(data.records) == compression.ZSTD:
            raise UnsupportedCompressionTypeError(
                f"Produce has zstd from version {_FIRST_WITH_ZSTD} on (KIP-110), and this one has version {call.version}. Nothing was "
                f"appended; use a newer client, or another codec."
            )
        return ProduceRequest(view.partition(number), [sealed], acks, call.request.timeout_ms)

    def finish(self, call: Call) -> None:
        """REQUIRES: `appended` is done."""
        error, request = self.appended.error(), self.request
        if error is not None:
            is_not_added = self.is_transactional and call.version == _FIRST_WITH_ABORTABLE  # later ones add it
            self.response.error_code = code = _code(error, is_not_added=is_not_added)
            self.response.error_message = str(error)
            if self._at is not None and code not in _SAY_NO_START:
                bounds = call.service.bounds(self._at, "read_uncommitted")
                if bounds.done() and bounds.error() is None:
                    self.response.log_start_offset = bounds.result()[0]
        elif request is not None:
            self.response.base_offset = self.appended.result()
            self.response.log_start_offset = request.log_start_offset
            if self._is_stamped or request.is_repeated:
                self.response.log_append_time_ms = request.append_ms


handlers = {ApiKey.PRODUCE: produce}
