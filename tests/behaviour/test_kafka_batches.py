"""Each face reads what the other wrote: Kafka's record batches go in and come out of a log that Python uses too."""

from __future__ import annotations

from struct import pack
from typing import Any

import pytest

import streamlog
from streamlog.broker.api import ProduceRequest, Service
from streamlog.records import compression, kafka_v2, kafka_wire
from streamlog.records.batch import seed_of
from streamlog.testing import ManualClock
from tests.kafka_batches import Row, kafka_payload

CODECS = ["none", "gzip", "snappy", "lz4", "zstd"]
HEADERS = (("trace", b"\x00\xff"), ("none", None))


class KafkaFace:
    """Sends and fetches Kafka batches as a listener does."""

    def __init__(self, service: Service) -> None:
        self.service = service

    def close(self, timeout_s: float) -> None:
        pass

    def produce(self, *rows: Row, **options: Any) -> int:
        payload, _ = kafka_payload(rows, **options)
        at = self.service.image.topics["t"].partition(0)
        data = pack(">qii", 0, len(payload) + 4, -1) + payload
        batch = kafka_wire.sealed(seed_of(at.topic_id, 0), data)
        return self.service.produce(ProduceRequest(at, [batch])).result()

    def fetch(self) -> list[tuple[kafka_v2.Fixed, list[Any]]]:
        """The batches of the whole partition: their fixed fields, and offset, timestamp, key, value, headers of their records."""
        at = self.service.image.topics["t"].partition(0)
        data, offset = b"", 0
        while (result := self.service.fetch(at, offset, 1 << 30, "read_uncommitted").result()).size:
            for batch in result.batches():
                data += b"".join(kafka_wire.served(batch.header, batch.columns))
                offset = batch.next_offset
        found, at_byte = [], 0
        while at_byte < len(data):
            base, length, _ = kafka_wire.PREFIX.unpack_from(data, at_byte)
            payload = data[at_byte + 16 : at_byte + 12 + length]
            fixed = kafka_v2.fixed_fields(payload)
            assert fixed.crc == kafka_v2.crc32c(payload[kafka_v2.CRC_FROM :])
            raw = compression.decompress_up_to(fixed.attributes & 7, payload[45:], 1 << 30)
            deltas, times, *rest = kafka_v2._rows(raw, fixed.record_count)
            offsets = [base + delta for delta in deltas]
            times = [
                fixed.max_timestamp if fixed.attributes & kafka_v2.KAFKA_APPEND_TIME else fixed.base_timestamp + time
                for time in times
            ]
            found.append((fixed, list(zip(offsets, times, *rest, strict=True))))
            at_byte += 12 + length
        return found

    def records(self) -> list[Any]:
        return [record for _, records in self.fetch() for record in records]


def read(topic: streamlog.Topic) -> list[Any]:
    return [(r.offset, r.timestamp, r.key, r.value, r.headers) for r in topic.read()]


@pytest.mark.parametrize("codec", range(5), ids=CODECS)
def test_python_reads_what_a_kafka_client_sent(log: streamlog.StreamLog, clock: ManualClock, codec: int) -> None:
    topic = log.create_topic("t")
    now = clock.time_ms()
    rows = [Row(now, b"k", b"v", HEADERS), Row(now + 5, None, None), Row(now - 9, b"", b"x" * 500)]
    face = log.attach(KafkaFace)
    assert face.produce(*rows, codec=codec) == 0
    assert read(topic) == [(n, row.timestamp, row.key, row.value, tuple(row.headers)) for n, row in enumerate(rows)]
    found = face.service.find_offset(streamlog.TopicPartition("t", 0), now + 1, "read_committed").result()
    assert found == (1, now + 5)


@pytest.mark.parametrize("codec", CODECS)
def test_a_kafka_client_reads_what_python_sent(log: streamlog.StreamLog, codec: str) -> None:
    topic = log.create_topic("t")
    with log.producer(compression_type=codec, linger_ms=50) as producer:
        producer.send("t", b"v", key=b"k", headers=HEADERS)
        producer.send("t", b"x" * 500, timestamp_ms=5)
        producer.send("t", None, key=b"gone")
    face = log.attach(KafkaFace)
    assert face.records() == read(topic)
    assert {fixed.attributes & 7 for fixed, _ in face.fetch()} == {CODECS.index(codec)}


def test_both_read_a_log_that_both_wrote(log: streamlog.StreamLog, clock: ManualClock) -> None:
    topic = log.create_topic("t")
    face = log.attach(KafkaFace)
    for number in range(3):
        topic.send(b"python %d" % number)
        face.produce(Row(clock.time_ms(), b"k", b"kafka %d" % number), codec=number)
    assert face.records() == read(topic)
    assert [record[0] for record in face.records()] == list(range(6))


def test_under_log_append_time_both_see_the_time_of_the_append(log: streamlog.StreamLog, clock: ManualClock) -> None:
    topic = log.create_topic("t", message_timestamp_type="LogAppendTime")
    face = log.attach(KafkaFace)
    face.produce(Row(5, b"k", b"v"), Row(7, b"k", b"w"), codec=1)
    topic.send(b"python", timestamp_ms=9)
    assert face.records() == read(topic)
    assert {record[1] for record in face.records()} == {clock.time_ms()}


def test_markers_and_the_tail_that_compaction_emptied_reach_a_kafka_client(
    log: streamlog.StreamLog, clock: ManualClock
) -> None:
    """A client that skips control batches and empty ones gets to the end of the partition all the same."""
    topic = log.create_topic("t", cleanup_policy="compact", segment_bytes=1024, min_compaction_lag_ms=0)
    with log.producer(transactional_id="x") as producer, producer.transaction():
        producer.send("t", b"old", key=b"k")
    face = log.attach(KafkaFace)
    commits = [fixed for fixed, _ in face.fetch() if fixed.attributes & kafka_v2.KAFKA_CONTROL]
    assert [fixed.attributes for fixed in commits] == [kafka_v2.KAFKA_CONTROL | kafka_v2.KAFKA_TRANSACTIONAL]
    face.produce(Row(clock.time_ms(), b"k", b"new"), producer=(77, 0, 0))
    for number in range(40):
        topic.send(b"x" * 100, key=b"other %d" % (number % 2))
    topic.compact()
    batches = face.fetch()
    assert [record[3] for _, records in batches for record in records if record[2] == b"k"] == [b"new"]
    seen = [record for fixed, records in batches if not fixed.attributes & kafka_v2.KAFKA_CONTROL for record in records]
    assert seen == read(topic)
    assert any(fixed.record_count == 0 for fixed, _ in batches)
    assert sum(fixed.last_offset_delta + 1 for fixed, _ in batches) <= 43


@pytest.mark.parametrize("codec", range(2), ids=CODECS[:2])
def test_a_batch_that_the_topic_does_not_take_leaves_nothing(
    log: streamlog.StreamLog, clock: ManualClock, codec: int
) -> None:
    topic = log.create_topic("t", cleanup_policy="compact", message_timestamp_after_max_ms=1000)
    face = log.attach(KafkaFace)
    now = clock.time_ms()
    with pytest.raises(streamlog.InvalidRecordError, match="needs a key"):
        face.produce(Row(now, b"k", b"v"), Row(now, None, b"v"), codec=codec)
    with pytest.raises(streamlog.InvalidTimestampError, match="ahead of the clock"):
        face.produce(Row(now, b"k", b"v"), Row(now + 1001, b"k", b"v"), codec=codec)
    assert read(topic) == []


def test_a_kafka_batch_that_is_sent_again_is_appended_once(log: streamlog.StreamLog, clock: ManualClock) -> None:
    topic = log.create_topic("t")
    face = log.attach(KafkaFace)
    now = clock.time_ms()
    assert [face.produce(Row(now, b"k", b"v"), producer=(77, 0, 0)) for _ in range(2)] == [0, 0]
    assert face.produce(Row(now, b"k", b"w"), producer=(77, 0, 1)) == 1
    with pytest.raises(streamlog.OutOfOrderSequenceError):
        face.produce(Row(now, b"k", b"x"), producer=(77, 0, 5))
    assert len(read(topic)) == 2
