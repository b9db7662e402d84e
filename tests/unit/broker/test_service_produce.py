"""Encoded batches that are produced straight through the Service: what is taken, what is refused, and when it is done."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from streamlog.broker.api import ProduceRequest
from streamlog.broker.metadata import TopicIdPartition
from streamlog.errors import (
    ClosedError,
    CorruptRecordError,
    InvalidRecordError,
    InvalidTimestampError,
    OutOfOrderSequenceError,
    RecordTooLargeError,
    StreamlogError,
    UnknownTopicOrPartitionError,
)
from streamlog.records.batch import CONTROL, LOG_APPEND_TIME, SealedBatch, hash_payload, seed_of
from streamlog.records.single import SequencedRecord
from streamlog.runtime.threads import is_inside, result_of
from streamlog.storage.log import Log
from streamlog.types import TopicPartition
from tests.kafka_batches import Row, kafka_batch

from .conftest import Tenant

P0 = TopicPartition("t", 0)


def ends(tenant: Tenant) -> tuple[int, int]:
    return result_of(tenant.service.bounds(P0, "read_uncommitted"))


def refusal(tenant: Tenant, at: TopicIdPartition, batch: SealedBatch) -> BaseException | None:
    """The error of producing this batch; nothing of it, nor of a good one beside it, is in the log."""
    before = ends(tenant)
    done = tenant.service.produce(ProduceRequest(at, [tenant.seal(at, b"good", keys=[b"k"]), batch]))
    assert done.done()
    if done.error() is not None:
        assert ends(tenant) == before
    return done.error()


def test_a_batch_is_in_the_log_at_the_offset_that_its_request_says(tenant: Tenant) -> None:
    at = tenant.create()
    tenant.produce(at, b"a", b"b")
    request = ProduceRequest(at, [tenant.seal(at, b"c"), tenant.seal(at, b"d", b"e")])
    assert (request.base_offset, request.append_ms, request.log_start_offset) == (-1, -1, -1)
    assert result_of(tenant.service.produce(request)) == request.base_offset == 2
    assert (request.append_ms, request.log_start_offset) == (tenant.clock.time_ms(), 0)
    assert ends(tenant) == (0, 5)
    assert result_of(tenant.service.delete_records(P0, 2)) == 2
    request = ProduceRequest(at, [tenant.seal(at, b"f")])
    tenant.service.produce(request)
    assert request.log_start_offset == 2


def test_a_deleted_topic_takes_nothing_even_if_another_has_its_name(tenant: Tenant) -> None:
    at = tenant.create()
    batch = tenant.seal(at, b"a")
    result_of(tenant.service.delete_topic("t"))
    assert isinstance(tenant.service.produce(ProduceRequest(at, [batch])).error(), UnknownTopicOrPartitionError)
    again = tenant.create()
    assert isinstance(tenant.service.produce(ProduceRequest(at, [batch])).error(), UnknownTopicOrPartitionError)
    with pytest.raises(UnknownTopicOrPartitionError):
        tenant.service.produce_one(at, None, b"a", 1, 1)
    with pytest.raises(UnknownTopicOrPartitionError):
        tenant.service.produce_one_later(at, None, b"a", 1, 1)
    assert tenant.service.settle(ProduceRequest(at, [batch])) is None
    assert tenant.produce(again, b"a") == 0


def test_a_closed_service_answers_with_an_error(opened: Callable[..., Tenant]) -> None:
    tenant = opened()
    at = tenant.create()
    tenant.service.close()
    answers = [
        tenant.service.produce(ProduceRequest(at, [tenant.seal(at, b"a")])),
        tenant.service.topic("t"),
        tenant.service.create_topic("u"),
        tenant.service.sync(),
        tenant.service.leave_group("g", "m"),
        tenant.service.list_groups(),
    ]
    assert [type(answer.error()) for answer in answers] == [ClosedError] * len(answers)


@pytest.mark.parametrize(("acks", "waits"), [(0, False), (1, True), ("all", True)])
def test_acks_say_whether_a_sync_is_waited_for(opened: Callable[..., Tenant], acks: Any, waits: bool) -> None:
    tenant = opened(sync=True)
    at = tenant.create()
    request = ProduceRequest(at, [tenant.seal(at, b"a")], acks)
    done = tenant.service.produce(request)
    assert done.done() is not waits
    assert request.base_offset == 0
    assert ends(tenant) == (0, 0), "readers see what is on the device"
    tenant.service.timers.run_due(tenant.clock.time_ms() + 100)  # no thread waits, and it is synced all the same
    assert result_of(done) == 0
    assert ends(tenant) == (0, 1)


def test_a_single_record_of_an_idempotent_producer_is_stored_once(tenant: Tenant) -> None:
    at = tenant.create()
    now = tenant.clock.time_ms()
    producer_id, epoch = result_of(tenant.service.init_producer_id())
    produce = tenant.service.produce_one
    first = SequencedRecord(producer_id, epoch, 0)
    assert produce(at, None, b"plain", now, now) == 0
    assert [produce(at, None, b"a", now, now, first) for _ in range(2)] == [1, 1]
    batch = tenant.seal(at, b"b").sequenced(producer_id, epoch, 1)
    assert result_of(tenant.service.produce(ProduceRequest(at, [batch]))) == 2
    with pytest.raises(OutOfOrderSequenceError):
        produce(at, None, b"c", now, now, SequencedRecord(producer_id, epoch, 3))
    assert produce(at, None, b"c", now, now, SequencedRecord(producer_id, epoch, 2)) == 3


# -- what is refused, whatever made it -------------------------------------------------------------------


def test_a_batch_that_does_not_match_its_checksum_is_refused(tenant: Tenant) -> None:
    at = tenant.create()
    good = tenant.seal(at, b"value")
    for damaged in (
        good._replace(payload=good.payload[:-1] + b"X", seed=0),
        good._replace(payload_hash=good.payload_hash ^ 1, seed=0),
        tenant.seal(at._replace(partition=1), b"value"),
        tenant.seal(at._replace(topic_id=bytes(16)), b"value"),
    ):
        error = refusal(tenant, at, damaged)
        assert isinstance(error, CorruptRecordError)
        assert error.expected != error.actual
    assert refusal(tenant, at, good._replace(seed=0)) is None


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"last_offset_delta": 2}, "2 records at 3 offsets"),
        ({"record_count": 3}, "3 records at 2 offsets"),
        ({"record_count": 0, "last_offset_delta": -1}, "0 records"),
        ({"record_count": 3, "last_offset_delta": 2, "seed": 0}, "cannot be decoded"),
        ({"directory": b"\x09", "seed": 0}, "cannot be decoded"),
        ({"attributes": CONTROL}, "control batch"),
        ({"attributes": 2, "seed": 0}, "payload form 2"),
        ({"attributes": 1, "seed": 0}, "cannot be decoded"),
    ],
)
def test_a_batch_whose_header_contradicts_it_is_refused(tenant: Tenant, changed: dict[str, Any], why: str) -> None:
    at = tenant.create()
    error = refusal(tenant, at, tenant.seal(at, b"a", b"b")._replace(**changed))
    assert isinstance(error, InvalidRecordError)
    assert why in str(error)


def test_offsets_that_are_left_out_are_refused(tenant: Tenant) -> None:
    at = tenant.create()
    gap = tenant.seal(at, b"a", b"b", offset_deltas=[0, 5], last_offset_delta=5)
    assert isinstance(refusal(tenant, at, gap), InvalidRecordError)
    hidden = tenant.seal(at, b"a", b"b", offset_deltas=[1, 1])._replace(seed=0)
    assert isinstance(refusal(tenant, at, hidden), InvalidRecordError)


@pytest.mark.parametrize("foreign", [False, True])
def test_timestamps_outside_the_window_are_refused(tenant: Tenant, foreign: bool) -> None:
    at = tenant.create(message_timestamp_after_max_ms=1000)
    now = tenant.clock.time_ms()

    def error_of(times: list[int]) -> BaseException | None:
        batch = tenant.seal(at, *[b"v"] * len(times), times=times)
        return refusal(tenant, at, batch._replace(seed=0) if foreign else batch)

    assert error_of([now + 1000, 0]) is None
    for times in ([now, now + 1001], [-1, now], [1 << 62]):
        assert isinstance(error_of(times), InvalidTimestampError), times


def test_timestamps_that_the_header_hides_are_refused(tenant: Tenant) -> None:
    at = tenant.create()
    batch = tenant.seal(at, b"a", b"b", times=[5, 9])
    for changed in (
        {"max_timestamp": 8},
        {"base_timestamp": 4},
        {"max_timestamp_delta": 0},
        {"max_timestamp_delta": 2},
    ):
        assert isinstance(refusal(tenant, at, batch._replace(seed=0, **changed)), InvalidRecordError)


@pytest.mark.parametrize("codec", [0, 1])
def test_a_kafka_batch_is_taken_as_it_is_and_checked_as_any_other(tenant: Tenant, codec: int) -> None:
    at = tenant.create(cleanup_policy="compact", message_timestamp_after_max_ms=1000, max_message_bytes=100)
    seed, now = seed_of(at.topic_id, 0), tenant.clock.time_ms()

    def error_of(*rows: Row, **changed: Any) -> BaseException | None:
        return refusal(tenant, at, kafka_batch(seed, rows, codec=codec)._replace(**changed))

    assert error_of(Row(now, b"k", b"v"), Row(now + 1000, b"l", None)) is None
    assert isinstance(error_of(Row(now, None, b"v")), InvalidRecordError)
    assert isinstance(error_of(Row(now, b"k", b"x" * 100)), RecordTooLargeError)
    assert isinstance(error_of(Row(now + 1001, b"k", b"v")), InvalidTimestampError)
    assert isinstance(error_of(Row(now, b"k", b"v"), producer_id=7), CorruptRecordError)
    good = kafka_batch(seed, [Row(now, b"k", b"v")], codec=codec)
    damaged = good.payload[:-1] + bytes([good.payload[-1] ^ 1])
    wrong_crc = good._replace(payload=damaged, payload_hash=hash_payload(damaged, seed))
    assert isinstance(refusal(tenant, at, wrong_crc), (CorruptRecordError, InvalidRecordError))


def test_under_log_append_time_a_batch_is_stamped_whatever_it_says(tenant: Tenant) -> None:
    at = tenant.create(message_timestamp_type="LogAppendTime")
    for batch in (tenant.seal(at, b"a", times=1 << 63), tenant.seal(at, b"b", times=7, attributes=LOG_APPEND_TIME)):
        result_of(tenant.service.produce(ProduceRequest(at, [batch])))
    found = result_of(tenant.service.find_offset(P0, 1, "read_committed"))
    assert found is not None
    assert found.timestamp == tenant.clock.time_ms()
    assert result_of(tenant.service.find_offset(P0, tenant.clock.time_ms() + 1, "read_committed")) is None


@pytest.mark.parametrize("foreign", [False, True])
@pytest.mark.parametrize("codec", [0, 1])
def test_a_record_that_is_too_large_is_refused_and_a_batch_of_small_ones_is_not(
    tenant: Tenant, foreign: bool, codec: int
) -> None:
    at = tenant.create(max_message_bytes=100)

    def error_of(*values: bytes, **given: Any) -> BaseException | None:
        batch = tenant.seal(at, *values, codec=codec, **given)
        return refusal(tenant, at, batch._replace(seed=0) if foreign else batch)

    assert error_of(*[b"x" * 92] * 50) is None
    assert error_of(b"x" * 80, keys=[b"k" * 12]) is None
    for too_large in (
        error_of(b"a", b"x" * 93),
        error_of(b"x" * 80, keys=[b"k" * 13]),
        error_of(b"x", headers=[(("name", b"y" * 90),)]),
    ):
        assert isinstance(too_large, RecordTooLargeError)
        assert too_large.size > too_large.max_size == 100


@pytest.mark.parametrize("foreign", [False, True])
def test_a_compacted_topic_takes_no_record_without_a_key(tenant: Tenant, foreign: bool) -> None:
    at = tenant.create(cleanup_policy="compact")

    def error_of(keys: Any) -> BaseException | None:
        batch = tenant.seal(at, b"a", b"b", keys=keys)
        return refusal(tenant, at, batch._replace(seed=0) if foreign else batch)

    assert error_of([b"k", b"l"]) is None
    assert isinstance(error_of(None), InvalidRecordError)
    assert isinstance(error_of([b"k", None]), InvalidRecordError)


@pytest.mark.parametrize(
    ("key", "value", "timestamp", "error"),
    [
        (None, b"v", 0, InvalidRecordError),
        (b"k", b"x" * 92, 0, RecordTooLargeError),
        (b"k", b"v", -1, InvalidTimestampError),
        (b"k", b"v", 1_001_001, InvalidTimestampError),
    ],
)
def test_a_single_record_is_checked_as_a_batch_is(
    tenant: Tenant, key: bytes | None, value: bytes, timestamp: int, error: type[StreamlogError]
) -> None:
    at = tenant.create(cleanup_policy="compact", max_message_bytes=100, message_timestamp_after_max_ms=1000)
    now = tenant.clock.time_ms()
    assert tenant.service.produce_one(at, b"k", b"x" * 91, now + 1000, now) == 0
    with pytest.raises(error):
        tenant.service.produce_one(at, key, value, timestamp, now)
    assert ends(tenant) == (0, 1)


def test_the_settings_of_now_count(tenant: Tenant) -> None:
    at = tenant.create()
    tenant.produce(at, b"a")
    result_of(tenant.service.update_topic("t", {"cleanup_policy": "compact"}))
    with pytest.raises(InvalidRecordError):
        tenant.produce(at, b"b")
    result_of(tenant.service.update_topic("t", {"cleanup_policy": "delete", "message_timestamp_after_max_ms": None}))
    assert tenant.produce(at, b"b", times=1 << 60) == 1
    assert tenant.service.produce_one(at, None, b"c", 1 << 60, tenant.clock.time_ms()) == 2


def test_a_batch_of_this_process_is_checked_without_reading_its_payload(
    tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = tenant.create()
    batch = tenant.seal(at, *[b"v"] * 100)
    for name in ("hash_payload", "BatchColumns"):
        monkeypatch.delattr(f"streamlog.replication.validation.{name}")  # using it is an error
    assert result_of(tenant.service.produce(ProduceRequest(at, [batch]))) == 0


def test_an_append_is_made_under_the_mark_of_its_thread(tenant: Tenant, monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal handler that produces in the middle of it would wait for the lock that its own thread holds."""
    at = tenant.create()
    marked: list[bool] = []
    append = Log.append
    monkeypatch.setattr(Log, "append", lambda *given: marked.append(is_inside()) or append(*given))
    tenant.produce(at, b"a")
    assert marked == [True]
    assert not is_inside()
