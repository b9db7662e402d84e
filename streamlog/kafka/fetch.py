"""Reading: Fetch (1) with long polling and sessions, ListOffsets (2), OffsetForLeaderEpoch (23).

What is fetched are whole batches, the first of which may begin before the offset that was asked for, as Kafka's do. A client that
reads committed records gets aborted ones too, and the list of the aborted transactions by which it leaves them out.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Mapping
from functools import partial
from typing import Any

from ..broker.delayed_fetch import FetchRequest
from ..broker.fetched import FetchResult
from ..broker.metadata import Image, TopicView
from ..errors import (
    CorruptRecordError,
    StreamlogError,
    UnsupportedCompressionTypeError,
)
from ..records import kafka_wire
from ..runtime.api import Completion
from ..runtime.disk import entropy
from ..types import Buffer, TopicPartition
from . import messages
from .api_keys import ApiKey
from .apis import Call, Handler, Later, epoch_or_none, led_partition, topic_of
from .errors import ErrorCode, code_of
from .schema import ZERO_UUID

MAX_SESSIONS = 1000
"""Of fetches, for a listener (Kafka's max.incremental.fetch.session.cache.slots)."""
MAX_BYTES = 57_671_680
"""Of a response, but for one batch that is larger (Kafka's fetch.max.bytes)."""
MAX_SESSION_PARTITIONS = 10_000
"""Of one session. A client that reads more is answered without a session, which it takes for a listener that has no room for one."""
MAX_KEPT_PARTITIONS = 200_000
"""Of all sessions together: 70 MB. Kafka has no such bound."""
_INITIAL, _FINAL, _LAST_EPOCH = 0, -1, 2**31 - 1  # epochs of sessions (KIP-227)
_COMMITTED = "read_committed"
_FIRST_FETCH_WITH_IDS = 13  # of topics (KIP-516)
_FIRST_WITH_ZSTD, _ZSTD = 10, "zstd"  # KIP-110
_LATEST, _EARLIEST, _MAX_TIMESTAMP, _EARLIEST_LOCAL, _LATEST_TIERED, _EARLIEST_PENDING_UPLOAD = -1, -2, -3, -4, -5, -6
_SPECS = {_LATEST: "latest", _EARLIEST: "earliest", _MAX_TIMESTAMP: "max_timestamp", _EARLIEST_LOCAL: "earliest"}
_FIRST_WITH_SPEC = {
    _LATEST: 1,
    _EARLIEST: 1,
    _MAX_TIMESTAMP: 7,  # KIP-734
    _EARLIEST_LOCAL: 8,  # KIP-405
    _LATEST_TIERED: 9,  # KIP-1005
    _EARLIEST_PENDING_UPLOAD: 11,  # KIP-1023
}
_OF_TIERS = (_LATEST_TIERED, _EARLIEST_PENDING_UPLOAD)  # here nothing is tiered


def _isolation(level: int) -> str:
    return _COMMITTED if level else "read_uncommitted"


# -- Fetch -----------------------------------------------------------------------------------------------


class Fetches:
    """The Fetch requests of one listener, and their sessions (KIP-227). It runs on the listener's thread.

    A client with a session names only the partitions that it reads from another position than the listener knows, and gets only
    those in which something has changed. There are at most `MAX_SESSIONS`, of at most `MAX_KEPT_PARTITIONS`; the one that was used
    least recently gives way.
    """

    def __init__(self) -> None:
        self._sessions: OrderedDict[int, _Session] = OrderedDict()
        self.handlers: dict[int, Handler] = {
            ApiKey.FETCH: self.fetch,
            ApiKey.LIST_OFFSETS: list_offsets,
            ApiKey.OFFSET_FOR_LEADER_EPOCH: offset_for_leader_epoch,
        }

    def fetch(self, call: Call) -> Any:
        request = call.request
        session, is_new, error = self._session(call)
        if error:
            return messages.FetchResponse(error_code=error)
        if session is None:
            session = _Session(by_id=call.version >= _FIRST_FETCH_WITH_IDS)
            session.add(request.topics)
        return session.answer(call, session.session_id, is_full=is_new or not session.session_id)

    def _session(self, call: Call) -> tuple[_Session | None, bool, ErrorCode]:
        """The session that a request goes on with or begins, and whether it begins; or what is wrong with it."""
        request = call.request
        session_id, epoch = request.session_id, request.session_epoch
        by_id = call.version >= _FIRST_FETCH_WITH_IDS
        if epoch in (_FINAL, _INITIAL):
            self._sessions.pop(session_id, None)
            if epoch == _FINAL:
                return None, True, ErrorCode.NONE
            is_kept = sum(len(topic.partitions) for topic in request.topics) <= MAX_SESSION_PARTITIONS
            session = _Session(by_id=by_id, session_id=self._new_id() if is_kept else 0)
            session.add(request.topics)
            if not is_kept:
                return session, True, ErrorCode.NONE
            self._sessions[session.session_id] = session
            self._make_room()
            return session, True, ErrorCode.NONE
        known = self._sessions.get(session_id)
        if known is None:
            return None, False, ErrorCode.FETCH_SESSION_ID_NOT_FOUND
        if epoch != known.epoch:
            return None, False, ErrorCode.INVALID_FETCH_SESSION_EPOCH
        if known.by_id != by_id:
            return None, False, ErrorCode.FETCH_SESSION_TOPIC_ID_ERROR
        self._sessions.move_to_end(session_id)
        before = len(known)
        known.add(request.topics)
        known.forget(request.forgotten_topics_data)
        if len(known) > MAX_SESSION_PARTITIONS:  # the client comes again with all that it reads
            del self._sessions[session_id]
            return None, False, ErrorCode.FETCH_SESSION_ID_NOT_FOUND
        if len(known) > before:
            self._make_room()
        known.epoch = known.epoch % _LAST_EPOCH + 1
        return known, False, ErrorCode.NONE

    def _make_room(self) -> None:
        """Have sessions give way to the last one, which was just used."""
        kept = sum(map(len, self._sessions.values()))
        while len(self._sessions) > MAX_SESSIONS or (kept > MAX_KEPT_PARTITIONS and len(self._sessions) > 1):
            _, gone = self._sessions.popitem(last=False)
            kept -= len(gone)

    def partitions(self, request: Any, names: Mapping[bytes, str]) -> dict[str, frozenset[int]]:
        """The topics and partitions that a request fetches, with those of its session."""
        known = self._sessions.get(request.session_id)
        keys = set() if known is None else known.keys()
        keys |= {
            (topic.topic or topic.topic_id, each.partition) for topic in request.topics for each in topic.partitions
        }
        found: dict[str, set[int]] = {}
        for topic, number in keys:
            name = topic if isinstance(topic, str) else names.get(topic)
            if name is not None:
                found.setdefault(name, set()).add(number)
        return {name: frozenset(numbers) for name, numbers in found.items()}

    def _new_id(self) -> int:
        while (made := int.from_bytes(entropy(4), "big") & 0x7FFFFFFF) in self._sessions or not made:
            pass
        return made


class _Session:
    """The partitions that a client reads, by the topic's name or id and their number; of a request without one, its own."""

    def __init__(self, *, by_id: bool, session_id: int = 0) -> None:
        self.by_id = by_id
        self.session_id = session_id
        self.epoch = _INITIAL + 1
        """That of the next request."""
        self._partitions: OrderedDict[tuple[Any, int], Any] = OrderedDict()
        self._answered: dict[tuple[Any, int], tuple[int, int, int]] = {}
        """The high watermark, the log start, and the error code that the client was answered last."""

    def _key(self, topic: Any) -> Any:
        return topic.topic_id if self.by_id else topic.topic

    def __len__(self) -> int:
        return len(self._partitions)

    def keys(self) -> set[tuple[Any, int]]:
        return set(self._partitions)

    def add(self, topics: Any) -> None:
        for topic in topics:
            for each in topic.partitions:
                self._partitions[self._key(topic), each.partition] = each

    def forget(self, topics: Any) -> None:
        for topic in topics:
            for number in topic.partitions:
                self._partitions.pop((self._key(topic), number), None)
                self._answered.pop((self._key(topic), number), None)

    def answer(self, call: Call, session_id: int, *, is_full: bool) -> Any:
        """Fetch from all partitions. `is_full`: the response has those too in which nothing has changed."""
        request, image = call.request, call.service.image
        found: dict[tuple[Any, int], Any] = {}
        asked: list[tuple[Any, FetchRequest]] = []
        most = max(0, min(request.max_bytes, MAX_BYTES, call.memory.answer_bytes()))
        is_refused = False
        for key, each in self._partitions.items():
            part = messages.FetchResponse.PartitionData(
                partition_index=key[1],
                high_watermark=-1,
                records=b"",
            )
            found[key] = part
            if call.refuses is not None:
                name = image.names.get(key[0], "") if self.by_id else key[0]
                part.error_code = call.refuses(name, key[1])
                if part.error_code:
                    is_refused = True
                    continue
            try:
                view = topic_of(image, None if self.by_id else key[0], key[0] if self.by_id else None)
                led_partition(call, image, view, key[1])
                if call.version < _FIRST_WITH_ZSTD and view.config.compression_type == _ZSTD:
                    raise UnsupportedCompressionTypeError(
                        f"{view.name!r} is compressed with zstd, which Fetch has from version {_FIRST_WITH_ZSTD} on. Use a newer client."
                    )
            except StreamlogError as error:
                part.error_code = code_of(error)
                continue
            asked.append((part, _request(view, each)))
        isolation = _isolation(request.isolation_level)
        fetched = call.service.fetch_many(
            [each for _, each in asked],
            isolation,
            min_bytes=min(request.min_bytes, most),
            max_wait_ms=max(0, request.max_wait_ms) if asked and not is_refused else 0,
            max_bytes=most,
        )

        def respond(_: Completion[Any]) -> Any:
            left = call.memory.answer_bytes()
            if left <= 0:  # it was used up while this one waited
                return Later(call.memory.when_answerable(), respond)
            most = max(0, min(request.max_bytes, MAX_BYTES, left))
            size = 0
            for (part, wanted), result in zip(asked, fetched.read(most), strict=True):
                size += _fill(call, part, wanted, result, most - size, isolation, is_first=not size)
            return messages.FetchResponse(session_id=session_id, responses=self._grouped(found, is_full=is_full))

        return Later(fetched, respond)

    def _grouped(self, found: dict[tuple[Any, int], Any], *, is_full: bool) -> list[Any]:
        """The response's topics. Partitions that brought records come last the next time: so each has its turn."""
        topics: dict[Any, Any] = {}
        for key, part in found.items():
            state = part.high_watermark, part.log_start_offset, part.error_code
            is_news = bool(part.records) or part.diverging_epoch.epoch >= 0 or bool(part.error_code)
            if not (is_full or is_news or self._answered.get(key) != state):
                continue
            self._answered[key] = state
            topic = topics.get(key[0])
            if topic is None:
                topic = topics[key[0]] = messages.FetchResponse.FetchableTopicResponse(
                    topic="" if self.by_id else key[0], topic_id=key[0] if self.by_id else ZERO_UUID, partitions=[]
                )
            topic.partitions.append(part)
            if part.records and key in self._partitions:
                self._partitions.move_to_end(key)
        return list(topics.values())


def _request(view: TopicView, each: Any) -> FetchRequest:
    return FetchRequest(
        view.partition(each.partition),
        each.fetch_offset,
        max(1, each.partition_max_bytes),
        epoch_or_none(each.current_leader_epoch),
        epoch_or_none(each.last_fetched_epoch),
    )


def _fill(
    call: Call, found: Any, asked: FetchRequest, result: Completion[FetchResult], left: int, isolation: str, *, is_first: bool
) -> int:  # fmt: skip
    """Put what was fetched of a partition in its part of the response; how many bytes of records those are."""
    found.aborted_transactions = None
    try:
        is_left_out = not is_first and result.error() is None and result.result().size > left
        left = min(left, asked.max_bytes)
        fetched, buffers = (
            (result.result(), []) if is_left_out else _read(call, asked, result, isolation, left, is_first=is_first)
        )
        found.high_watermark = fetched.high_watermark
        found.last_stable_offset = fetched.last_stable_offset
        found.log_start_offset = fetched.log_start_offset
        diverging = fetched.diverging_epoch
        if diverging is not None:
            Epoch = messages.FetchResponse.EpochEndOffset
            found.diverging_epoch = Epoch(epoch=diverging.epoch, end_offset=diverging.end_offset)
            return 0
        if is_left_out:
            return 0
        if isolation == _COMMITTED:
            Aborted = messages.FetchResponse.AbortedTransaction
            found.aborted_transactions = [
                Aborted(producer_id=each.producer_id, first_offset=each.first_offset) for each in fetched.aborted
            ]
        found.records = buffers
        return sum(map(len, buffers))
    except StreamlogError as error:
        found.error_code = code_of(error)
        return 0


def _read(
    call: Call, asked: FetchRequest, result: Completion[FetchResult], isolation: str, left: int, *, is_first: bool
) -> tuple[FetchResult, list[Buffer]]:
    """What was fetched, and its batches for the client; from another replica where the leader's is damaged, which repairs it."""
    try:
        fetched = result.result()
        return fetched, _served(fetched, left, is_first=is_first)
    except CorruptRecordError as damage:
        elsewhere = call.service.fetch_elsewhere(asked.partition, asked.offset, max(1, left), isolation, damage)
        fetched = elsewhere.result()
        return fetched, _served(fetched, left, is_first=is_first)


def _served(fetched: FetchResult, left: int, *, is_first: bool) -> list[Buffer]:
    """The batches, up to one that is damaged; the client comes again for that. Raises CorruptRecordError if it is the first.

    For clients they may be several times as large as they are stored: they end before `left` bytes are exceeded, but for the first
    batch of a response.
    """
    buffers: list[Buffer] = []
    size = 0
    try:
        for batch in fetched.batches():
            try:
                made = kafka_wire.served(batch.header, batch.columns)
            except ValueError as error:
                raise batch.damaged(error) from error
            size += sum(map(len, made))
            if size > left and (buffers or not is_first):
                break
            buffers += made
    except CorruptRecordError:
        if not buffers:
            raise
    return buffers


# -- ListOffsets -----------------------------------------------------------------------------------------


def list_offsets(call: Call) -> Any:
    """The ends of partitions are known; what is looked up by a timestamp is read from the disk."""
    asked = (each.timestamp for topic in call.request.topics for each in topic.partitions)
    are_known = all(timestamp in (_LATEST, _EARLIEST, _EARLIEST_LOCAL, *_OF_TIERS) for timestamp in asked)
    return _list_offsets(call) if are_known else call.blocking(partial(_list_offsets, call))


def _list_offsets(call: Call) -> Any:
    request, image = call.request, call.service.image
    Response = messages.ListOffsetsResponse
    isolation = _isolation(request.isolation_level)
    times = Counter((topic.name, each.partition_index) for topic in request.topics for each in topic.partitions)
    topics = []
    for topic in request.topics:
        partitions = []
        for each in topic.partitions:
            found = Response.ListOffsetsPartitionResponse(
                partition_index=each.partition_index, timestamp=-1, offset=-1, leader_epoch=-1
            )
            partitions.append(found)
            if times[topic.name, each.partition_index] > 1:
                found.error_code = ErrorCode.INVALID_REQUEST
                continue
            try:
                view = topic_of(image, topic.name, None)
                _look_up(call, image, view, each, isolation, found)
            except StreamlogError as error:
                found.error_code = code_of(error)
        topics.append(Response.ListOffsetsTopicResponse(name=topic.name, partitions=partitions))
    return Response(topics=topics)


def _look_up(call: Call, image: Image, view: TopicView, each: Any, isolation: str, found: Any) -> None:
    timestamp = each.timestamp
    first = 0 if timestamp >= 0 else _FIRST_WITH_SPEC.get(timestamp)
    if first is None or call.version < first:
        found.error_code = ErrorCode.UNSUPPORTED_VERSION
        return
    at = led_partition(call, image, view, each.partition_index)
    if timestamp in _OF_TIERS:
        return
    spec: Any = _SPECS.get(timestamp, timestamp)
    current_epoch = epoch_or_none(each.current_leader_epoch)
    record = call.service.find_offset(at, spec, isolation, current_epoch).result()
    if record is None:
        return
    found.offset, found.timestamp = record.offset, record.timestamp
    current = image.partition(view.id_bytes, at.partition).leader_epoch
    found.leader_epoch = current if timestamp == _LATEST else _epoch_of(call, at, record.offset, current)


def _epoch_of(call: Call, at: TopicPartition, offset: int, current: int) -> int:
    """The epoch in which the record at `offset` was written; that of the log's end is the current one. O(later epochs)."""
    epoch = current
    while epoch > 0:
        before = call.service.epoch_end_offset(at, epoch - 1).result()
        if before is None or before.end_offset <= offset:
            break
        epoch = before.epoch
    return epoch


# -- OffsetForLeaderEpoch --------------------------------------------------------------------------------


def offset_for_leader_epoch(call: Call) -> Any:
    image = call.service.image
    Response = messages.OffsetForLeaderEpochResponse
    topics = []
    for topic in call.request.topics:
        partitions = []
        for each in topic.partitions:
            found = Response.EpochEndOffset(partition=each.partition, leader_epoch=-1, end_offset=-1)
            partitions.append(found)
            try:
                at = led_partition(call, image, topic_of(image, topic.topic, None), each.partition)
                current_epoch = epoch_or_none(each.current_leader_epoch)
                end = call.service.epoch_end_offset(at, each.leader_epoch, current_epoch).result()
                if end is not None:
                    found.leader_epoch, found.end_offset = end.epoch, end.end_offset
            except StreamlogError as error:
                found.error_code = code_of(error)
        topics.append(Response.OffsetForLeaderTopicResult(topic=topic.topic, partitions=partitions))
    return Response(topics=topics)
