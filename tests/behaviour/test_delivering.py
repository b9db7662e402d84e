"""When a sent record is acknowledged, how one learns of it, and how one learns of a failure."""

from __future__ import annotations

import errno
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import streamlog
from streamlog import Delivery, Producer, RecordMetadata, StreamLog, Topic
from streamlog.testing import FaultyDisk, ManualClock, SimulatedDisk
from tests.contents import values_of

OpenLog = Callable[..., StreamLog]


@pytest.fixture
def topic(log: StreamLog) -> Topic:
    return log.create_topic("t")


# Linger, flush, close


def test_linger_ends_when_its_time_has_come(log: StreamLog, topic: Topic, clock: Any) -> None:
    with log.producer(linger_ms=100) as producer:
        first = producer.send("t", b"a")
        clock.advance(0.060)
        second = producer.send("t", b"b")
        clock.advance(0.039)
        assert (first.done(), second.done()) == (False, False)
        assert values_of(topic) == []
        clock.advance(0.001)
        assert (first.done(), second.done()) == (True, True)
        assert values_of(topic) == [b"a", b"b"]
        assert [batch.last_offset for batch in topic.read_batches()] == [1]


@pytest.mark.parametrize("end", ["result", "exception", "flush", "close", "full"])
def test_linger_is_ended_early(log: StreamLog, topic: Topic, end: str) -> None:
    producer = log.producer(linger_ms=10_000, batch_size=1000)
    first, second = producer.send("t", b"a"), producer.send("t", b"b")
    assert not first.done()
    if end == "result":
        assert second.result().offset == 1
    elif end == "exception":
        assert second.exception() is None
    elif end == "flush":
        producer.flush()
    elif end == "close":
        producer.close()
    else:
        for _ in range(20):
            producer.send("t", b"x" * 100)
    assert first.done()
    assert second.done()
    assert values_of(topic)[:2] == [b"a", b"b"]
    producer.close()


def test_closing_the_log_flushes_its_producers(log: StreamLog, topic: Topic, open_log: OpenLog) -> None:
    delivery = log.producer(linger_ms=10_000).send("t", b"x")
    log.close()
    assert delivery.done()
    assert delivery.result().offset == 0
    assert values_of(open_log()["t"]) == [b"x"]


def test_linger_keeps_order_within_a_partition(log: StreamLog, rng: Any, clock: Any) -> None:
    topic = log.create_topic("t", partitions=3)
    sent: dict[int, list[bytes]] = defaultdict(list)
    with log.producer(linger_ms=50, batch_size=300) as producer:
        for n in range(600):
            partition = rng.randrange(3)
            value = b"%d" % n + b"." * rng.randrange(60)
            if rng.random() < 0.1:
                producer.send_many("t", [value, value], partition=partition)
                sent[partition] += [value, value]
            else:
                producer.send("t", value, partition=partition)
                sent[partition].append(value)
            if rng.random() < 0.05:
                clock.advance(0.030)
            if rng.random() < 0.02:
                producer.flush()
    for partition in range(3):
        assert [record.value for record in topic.read(partition)] == sent[partition]


def test_send_many_keeps_its_place_behind_what_lingers(log: StreamLog, topic: Topic) -> None:
    with log.producer(linger_ms=100) as producer:
        producer.send("t", b"a")
        many = producer.send_many("t", [b"b", b"c"])
        producer.send("t", b"d")
        assert [metadata.offset for metadata in many.result()] == [1, 2]
    assert values_of(topic) == [b"a", b"b", b"c", b"d"]


def test_closed_producer_refuses_and_the_log_goes_on(log: StreamLog, topic: Topic) -> None:
    with log.producer() as producer:
        producer.send("t", b"x")
    for use in (lambda: producer.send("t", b"y"), lambda: producer.send_many("t", []), producer.flush):
        with pytest.raises(streamlog.ClosedError):
            use()
    topic.send(b"z")
    assert values_of(topic) == [b"x", b"z"]


# Deliveries


def test_callback_is_called_once_when_done_and_at_once_if_done_already(log: StreamLog, topic: Topic) -> None:
    called: list[Delivery[RecordMetadata]] = []
    with log.producer(linger_ms=1000) as producer:
        delivery = producer.send("t", b"x")
        delivery.add_done_callback(called.append)
        assert called == []
        producer.flush()
        assert called == [delivery]
        delivery.add_done_callback(called.append)
        assert called == [delivery, delivery]
        topic.send(b"y").add_done_callback(called.append)
        assert len(called) == 3


def test_failing_callback_affects_no_other_delivery(log: StreamLog, topic: Topic) -> None:
    called: list[object] = []
    with log.producer(linger_ms=1000) as producer:
        delivery = producer.send("t", b"x")
        delivery.add_done_callback(lambda _: 1 / 0)
        delivery.add_done_callback(called.append)
        producer.send("t", b"y")
        producer.flush()
    assert called == [delivery]
    assert values_of(topic) == [b"x", b"y"]


def test_callback_may_use_the_log(log: StreamLog, topic: Topic) -> None:
    with log.producer(linger_ms=1000) as producer:
        producer.send("t", b"x").add_done_callback(lambda _: topic.send(b"from the callback"))
        producer.flush()
    assert values_of(topic) == [b"x", b"from the callback"]


def test_record_whose_topic_is_deleted_while_it_lingers_fails_in_its_delivery(log: StreamLog, topic: Topic) -> None:
    producer = log.producer(linger_ms=1000)
    delivery = producer.send("t", b"x")
    topic.delete()
    error = delivery.exception()
    assert isinstance(error, streamlog.StreamlogError)
    assert isinstance(error, LookupError)
    with pytest.raises(type(error)):
        delivery.result()
    producer.flush()
    producer.close()


@pytest.mark.parametrize("end", ["flush", "close"])
def test_failure_of_an_unobserved_delivery_is_raised_by_flush_and_close(log: StreamLog, topic: Topic, end: str) -> None:
    kept = log.create_topic("kept")
    producer = log.producer(linger_ms=1000)
    producer.send("t", b"lost", b"k", headers={"h": b"1"})
    producer.send("kept", b"safe")
    topic.delete()
    with pytest.raises(streamlog.DeliveryError) as caught:
        producer.flush() if end == "flush" else producer.close()
    (failure,) = caught.value.failed.values()
    assert isinstance(failure, LookupError)
    (record,) = caught.value.records
    assert (record.topic, record.value, record.key) == ("t", b"lost", b"k")
    assert values_of(kept) == [b"safe"]
    producer.close()
    assert producer.closed


HALF_FULL = """
    import resource, signal, sys, streamlog
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    log = streamlog.open(sys.argv[1])
    topic = log.create_topic("t", partitions=2)
    topic.send_many([b"x" * 1000] * 30, partition=1)
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (topic.partition(1).size_bytes + 10, unlimited[1]))
    with log.producer(linger_ms=int(sys.argv[2]), partitioner=lambda topic, key, count: int(key)) as producer:
        try:
            producer.send_many("t", [b"a" * 99, b"b" * 99, b"c" * 99, b"d" * 99], ["0", "1", "0", "1"]).result()
        except streamlog.DeliveryError as error:
            print(sorted(error.failed), {type(failure).__name__ for failure in error.failed.values()})
            print([record.value[:1] for record in error.records])
            print([metadata and metadata[:3] for metadata in error.metadata])
            resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
            for record in error.records:
                producer.send("t", record.value, record.key)
    print([(record.partition, record.value[:1]) for record in topic.read() if record.value[:1] != b"x"])
    log.close()
"""


@pytest.mark.parametrize("linger_ms", [0, 1000])
def test_failed_send_many_says_which_records_failed_and_they_can_be_sent_again(
    path: Path, child: Callable[..., Any], open_log: OpenLog, linger_ms: int
) -> None:
    output, complaint = child(HALF_FULL, path, linger_ms).communicate()
    assert output.splitlines() == [
        "[1, 3] {'DiskFullError'}",
        "[b'b', b'd']",
        "[('t', 0, 0), None, ('t', 0, 1), None]",
        "[(0, b'a'), (0, b'c'), (1, b'b'), (1, b'd')]",
    ], complaint
    assert open_log()["t"].partition(1).log_end_offset == 32


# Acks


def test_acks_0_is_done_at_once_and_knows_no_offset(log: StreamLog, topic: Topic) -> None:
    with log.producer(acks=0, linger_ms=1000) as producer:
        delivery = producer.send("t", b"x", partition=0)
        assert delivery.done()
        assert delivery.result().offset == -1
        assert [metadata.offset for metadata in producer.send_many("t", [b"y", b"z"]).result()] == [-1, -1]
    assert values_of(topic) == [b"x", b"y", b"z"]


@pytest.mark.parametrize("acks", [1, "all"])
def test_acks_1_and_all_know_the_offset(log: StreamLog, topic: Topic, acks: Any) -> None:
    with log.producer(acks=acks) as producer:
        assert [producer.send("t", b"x").result().offset for _ in range(3)] == [0, 1, 2]


@pytest.mark.parametrize("acks", [2, -5, "none", "", None, True, 1.0], ids=repr)
def test_other_acks_are_refused(log: StreamLog, acks: Any) -> None:
    with pytest.raises(streamlog.ConfigError, match="acks"):
        log.producer(acks=acks)


@pytest.mark.parametrize("config", [{"linger": 5}, {"linger.ms": 5}, {"lingerMs": 5}], ids=str)
def test_unknown_producer_config_is_answered_with_the_name_that_was_meant(log: StreamLog, config: Any) -> None:
    with pytest.raises(streamlog.ConfigError, match="linger_ms"):
        log.producer(**config)
    with pytest.raises(streamlog.ConfigError, match="linger_ms"):
        Producer(log, **config)


# Records that share a batch, batches that share a flush


def test_observing_some_deliveries_of_a_batch_does_not_observe_the_others(clock: ManualClock) -> None:
    disk = FaultyDisk(SimulatedDisk())
    with streamlog.open("/log", disk=disk, clock=clock) as log:
        log.create_topic("t")
        with log.producer(linger_ms=60_000) as producer:
            producer.send("t", b"nobody asks", b"k")
            many = producer.send_many("t", [b"1", b"2"], [b"k"] * 2)
            disk.fail("pwrite", errno.ENOSPC, path="*/topics/*.log")
            assert many.exception() is not None
            with pytest.raises(streamlog.DeliveryError) as raised:
                producer.flush()
            assert [record.value for record in raised.value.records] == [b"nobody asks"]


def test_a_callback_of_send_many_is_called_whichever_partition_is_written_last(log: streamlog.StreamLog) -> None:
    log.create_topic("t", partitions=2)
    called: list[object] = []
    with log.producer(linger_ms=60_000, batch_size=300, partitioner=lambda topic, key, n: int(key or 0)) as producer:
        many = producer.send_many("t", [b"x" * 10] + [b"y" * 150] * 9, [b"0"] + [b"1"] * 9)
        many.add_done_callback(called.append)
        producer.flush()
        assert called == [many]


def test_a_flush_waits_for_the_sync_of_earlier_records_when_the_last_ones_fail(clock: ManualClock) -> None:
    disk = FaultyDisk(SimulatedDisk())
    with streamlog.open("/log", disk=disk, sync=True, clock=clock) as log:
        log.create_topic("t")
        with log.producer(linger_ms=60_000, batch_size=500_000) as producer:
            earlier = producer.send("t", b"a" * 600_000, b"k")
            producer.send("t", b"b", b"k")
            disk.fail("pwrite", errno.ENOSPC, path="*/topics/*.log")
            with pytest.raises(streamlog.DeliveryError):
                producer.flush()
            assert earlier.done()


@pytest.mark.parametrize("wait", [True, False], ids=["that waits", "that flushes"])
def test_any_number_of_callbacks_may_send(log: streamlog.StreamLog, wait: bool) -> None:
    log.create_topic("t")
    called: list[object] = []
    with log.producer(linger_ms=60_000) as producer:

        def again(delivery: object) -> None:
            sent = producer.send("t", b"again", b"k")
            if wait:
                sent.result()
            else:
                producer.flush()
            called.append(delivery)

        for n in range(600):
            producer.send("t", b"%d" % n, b"k").add_done_callback(again)
        producer.flush()
    assert len(called) == 600
    assert log["t"].partition(0).high_watermark == 1200


# How it is shown


def test_a_delivery_shows_where_its_record_is_and_whether(clock: ManualClock) -> None:
    disk = FaultyDisk(SimulatedDisk())
    with streamlog.open("data", disk=disk, clock=clock) as log:
        topic = log.create_topic("t")
        assert repr(topic.send(b"a")) == "<streamlog.Delivery to t-0: offset 0>"
        assert repr(topic.send_many([b"b", b"c"])) == "<streamlog.Delivery of 2 records to t: written>"
        with log.producer(linger_ms=60_000) as producer:
            one, many = producer.send("t", b"d"), producer.send_many("t", [b"e", b"f"])
            assert repr(one) == "<streamlog.Delivery to t-0: not written yet>"
            assert repr(many) == "<streamlog.Delivery of 2 records to t: not written yet>"
            producer.flush()
            assert repr(one) == "<streamlog.Delivery to t-0: offset 3>"
            lost, more = producer.send("t", b"g"), producer.send_many("t", [b"h", b"i"])
            disk.fail("pwrite", error=errno.ENOSPC, path="*/topics/*.log", times=None)
            with pytest.raises(streamlog.DeliveryError) as told:
                producer.flush()
            assert repr(lost).startswith("<streamlog.Delivery to t-0: failed, DiskFullError: ")
            assert repr(more).startswith("<streamlog.Delivery of 2 records to t: 2 failed, DiskFullError: ")
            assert len(repr(lost)) < 300 and len(repr(more)) < 300
            assert len(told.value.failed) == 3
            disk.heal()
        with log.producer(acks=0) as producer:
            assert repr(producer.send("t", b"j")) == "<streamlog.Delivery to t-0: not acknowledged (acks=0)>"
            unacknowledged = producer.send_many("t", [b"k", b"l"])
            assert repr(unacknowledged) == "<streamlog.Delivery of 2 records to t: not acknowledged (acks=0)>"
        assert repr(topic.send_many([])) == "<streamlog.Delivery of 0 records: written>"
