"""Producing: what is taken and what is refused, sequences, times, compression, sizes."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

from ..wire import (
    TRANSACTIONAL,
    add_partitions,
    answered,
    ask,
    batch,
    batches_of,
    create,
    error_name,
    fetch,
    init_producer,
    now_ms,
    offset_of,
    produce,
    read,
    record,
    try_produce,
)
from . import scenario, short_scenario

CONTROL = 0x20
LAST_SEQUENCE = 2**31 - 1
HOUR_MS = 3_600_000


@short_scenario
def odd_batches(bootstrap: str) -> Any:
    """Batches that no producer makes: each with the error that it gets."""
    create(bootstrap, "odd_batches")
    one = batch(record())
    return {
        title: answered(partial(try_produce, bootstrap, "odd_batches", data))
        for title, data in {
            "base offset not 0": batch(record(), base_offset=5),
            "two batches": one + one,
            "too large a count": batch(record(), record(), count=3),
            "too small a count": batch(record(), record(), count=1),
            "too large a last offset": batch(record(), last_delta=4),
            "control": batch(record(), attributes=CONTROL),
            "transactional without a transaction": batch(record(), attributes=TRANSACTIONAL, producer=(987, 0, 0)),
            "unknown codec": batch(record(), attributes=5),
            "wrong CRC": batch(record(), spoil=True),
            "magic 3": batch(record(), magic=3),
            "cut short": one[:-1],
            "of 5 bytes": b"12345",
            "more than the batch": one + b"x",
            "log append time": batch(record(), attributes=8),
            "no records": b"",
            "null": None,
            "not compressed though it says so": batch(record(), attributes=1),
        }.items()
    }


@short_scenario
def idempotence(bootstrap: str) -> Any:
    """Sequences of an idempotent producer: duplicates, gaps, epochs, producers that nobody knows."""
    name = "idempotence"
    create(bootstrap, name)
    made = init_producer(bootstrap)
    known = made.producer_id

    def send(sequence: int, epoch: int = 0, producer: int = known, count: int = 1) -> Any:
        rows = [record(b"%d" % number) for number in range(count)]
        return try_produce(bootstrap, name, batch(*rows, producer=(producer, epoch, sequence)))

    return {
        "init": (made.error_code, made.producer_epoch),
        "first": send(0, count=2),
        "second": send(2),
        "second again": send(2),
        "first again": send(0, count=2),
        "a gap": send(9),
        "new epoch not from 0": send(4, epoch=1),
        "new epoch": send(0, epoch=1),
        "old epoch": send(3),
        "unknown producer, sequence 7": send(7, producer=known + 1000),
        "unknown producer, next": send(8, producer=known + 1000),
        "unknown producer, gap": send(10, producer=known + 1000),
        "part of a batch again": send(0, epoch=1, count=2),
        "old duplicates": [send(number, epoch=1).base_offset for number in (1, 2, 3, 4, 5, 6)],
        "one of the last five": send(2, epoch=1),
        "none of the last five": send(0, epoch=1),
    }


@short_scenario
def sequences_that_wrap(bootstrap: str) -> Any:
    """After 2^31-1 a sequence goes on with 0."""
    name = "sequences_that_wrap"
    create(bootstrap, name)
    known = init_producer(bootstrap).producer_id

    def send(sequence: int, count: int) -> Any:
        return try_produce(bootstrap, name, batch(*[record()] * count, producer=(known, 0, sequence)))

    return {
        "near the end": send(LAST_SEQUENCE - 2, 2),
        "over it": send(LAST_SEQUENCE, 3),
        "over it again": send(LAST_SEQUENCE, 3),
        "next": send(2, 1),
        "a gap": send(9, 1),
    }


@short_scenario
def acknowledgements(bootstrap: str) -> Any:
    """acks of 0, 1, -1 and others."""
    name = "acknowledgements"
    create(bootstrap, name)
    return {acks: try_produce(bootstrap, name, batch(record()), acks=acks) for acks in (1, -1, 2, -2)}


@short_scenario
def refused_records(bootstrap: str) -> Any:
    """Topics and partitions that are not there, null keys in a compacted topic, internal topics."""
    name = "refused_records"
    create(bootstrap, name)
    create(bootstrap, f"{name}.compacted", cleanup__policy="compact")
    create(bootstrap, f"{name}.both", cleanup__policy="compact,delete")
    return {
        "no topic": try_produce(bootstrap, f"{name}.2", batch(record())),
        "no partition": try_produce(bootstrap, name, batch(record()), partition=1),
        "negative partition": try_produce(bootstrap, name, batch(record()), partition=-1),
        "name that none can have": try_produce(bootstrap, "a b", batch(record())),
        "null key": try_produce(bootstrap, f"{name}.compacted", batch(record(key=b"k"), record())),
        "null key, delete too": try_produce(bootstrap, f"{name}.both", batch(record())),
        "empty key": try_produce(bootstrap, f"{name}.compacted", batch(record(key=b""))),
        "null value": try_produce(bootstrap, f"{name}.compacted", batch(record(None, b"k"))),
    }


@scenario
def produce_by_version(bootstrap: str) -> Any:
    """The same in each version of Produce; zstd in an old one."""
    name = "produce_by_version"
    create(bootstrap, name)
    return {
        "plain": {
            version: try_produce(bootstrap, name, batch(record()), version=version)
            for version in (3, 5, 7, 8, 9, 11, 13)
        },
        "zstd": {
            version: try_produce(bootstrap, name, batch(record(), codec=4), version=version) for version in (3, 6, 7)
        },
    }


@short_scenario
def sizes(bootstrap: str) -> Any:
    """max.message.bytes counts the whole batch as it was sent."""
    name = "sizes"
    create(bootstrap, name)
    create(bootstrap, f"{name}.small", max__message__bytes="200")
    overhead = len(batch(record(b"")))

    def exact(size: int) -> bytes:
        value = b"x" * (size - overhead)
        while len(batch(record(value))) > size:
            value = value[:-1]
        return batch(record(value))

    return {
        "at the limit": try_produce(bootstrap, f"{name}.small", exact(200)),
        "one more": try_produce(bootstrap, f"{name}.small", exact(201)),
        "compressed below": try_produce(bootstrap, f"{name}.small", batch(record(b"x" * 1000), codec=1)),
        "many small ones": try_produce(bootstrap, f"{name}.small", batch(*[record(b"x" * 20)] * 20)),
        "default": try_produce(bootstrap, name, exact(1_048_588)),
        "above the default": try_produce(bootstrap, name, exact(1_048_589)),
    }


@short_scenario
def timestamps(bootstrap: str) -> Any:
    """Bounds of CreateTime, and what LogAppendTime makes of a record's time."""
    name = "timestamps"
    create(bootstrap, name)
    create(bootstrap, f"{name}.append", message__timestamp__type="LogAppendTime")
    create(bootstrap, f"{name}.after", message__timestamp__after__max__ms="1000")
    now = now_ms()
    appended = try_produce(bootstrap, f"{name}.append", batch(record(timestamp=5), record(timestamp=7)))
    return {
        "an hour ahead": try_produce(bootstrap, name, batch(record(timestamp=now + HOUR_MS - 60_000))),
        "more than an hour ahead": try_produce(bootstrap, name, batch(record(timestamp=now + HOUR_MS + 60_000))),
        "one of two ahead": try_produce(
            bootstrap, name, batch(record(timestamp=now), record(timestamp=now + HOUR_MS + 60_000))
        ),
        "long ago": try_produce(bootstrap, name, batch(record(timestamp=1))),
        "minus one": try_produce(bootstrap, name, batch(record(timestamp=-1))),
        "negative": try_produce(bootstrap, name, batch(record(timestamp=-9))),
        "appended": appended,
        "as it is read": batches_of(fetch(bootstrap, f"{name}.append", 0).records),
        "compressed": try_produce(bootstrap, f"{name}.append", batch(record(timestamp=5), codec=1)),
        "compressed as it is read": batches_of(fetch(bootstrap, f"{name}.append", 2).records),
        "ahead, appended": try_produce(bootstrap, f"{name}.append", batch(record(timestamp=now + 10 * HOUR_MS))),
        "too long after": try_produce(bootstrap, f"{name}.after", batch(record(timestamp=now + 60_000))),
    }


@scenario
def timestamps_too_long_ago(bootstrap: str) -> Any:
    """message.timestamp.before.max.ms."""
    name = "timestamps_too_long_ago"
    create(bootstrap, name, message__timestamp__before__max__ms="1000")
    return {
        "too long before": try_produce(bootstrap, name, batch(record(timestamp=now_ms() - 60_000))),
        "not too long before": try_produce(bootstrap, name, batch(record(timestamp=now_ms()))),
    }


@short_scenario
def codecs(bootstrap: str) -> Any:
    """Each codec: stored as it was sent."""
    found = {}
    for codec in range(5):
        name = f"codecs.{codec}"
        create(bootstrap, name, retention__ms="-1")
        sent = batch(
            record(b"a" * 500, b"k", timestamp=9, headers=[("h", b"v")]), record(b"b", timestamp=3), codec=codec
        )
        produce(bootstrap, name, sent)
        answer = fetch(bootstrap, name, 0, version=12)
        found[codec] = batches_of(answer.records), bytes(answer.records)[21:] == sent[21:]
    return found


@scenario
def codecs_of_topics(bootstrap: str) -> Any:
    """`compression.type` of a topic other than `producer`: the broker compresses so."""
    found = {}
    for kind in ("gzip", "snappy", "lz4", "zstd", "uncompressed"):
        name = f"codecs_of_topics.{kind}"
        create(bootstrap, name, compression__type=kind, retention__ms="-1")
        produce(
            bootstrap, name, batch(record(b"a" * 500, timestamp=9)), batch(record(b"a" * 500, timestamp=9), codec=3)
        )
        found[kind] = [each["attributes"] for each in batches_of(fetch(bootstrap, name, 0).records)]
    return found


@short_scenario
def records_as_they_were(bootstrap: str) -> Any:
    """Null and empty keys and values, headers, times: read as they were sent."""
    name = "records_as_they_were"
    create(bootstrap, name, retention__ms="-1")
    headers = [("a", b"1"), ("a", None), ("", b""), ("ü", b"\xff")]
    rows = [
        record(None, None, timestamp=1000), record(b"", b"", timestamp=999), record(b"v", None, timestamp=5000, headers=headers),
        record(None, b"k", timestamp=5000),
    ]  # fmt: skip
    produce(bootstrap, name, batch(*rows), batch(*rows, codec=2))
    return read(bootstrap, name)


@scenario
def one_request_many_partitions(bootstrap: str) -> Any:
    """Each partition of a Produce request succeeds or fails by itself."""
    name = "one_request_many_partitions"
    create(bootstrap, name, 3)
    parts = [
        {"index": 0, "records": batch(record())},
        {"index": 1, "records": batch(record(), spoil=True)},
        {"index": 7, "records": batch(record())},
        {"index": 2, "records": batch(record())},
    ]
    topics = [{"name": name, "partition_data": parts}, {"name": f"{name}.2", "partition_data": parts[:1]}]
    answer = ask(bootstrap, "Produce", 9, acks=1, timeout_ms=1000, topic_data=topics)
    return {topic.name: {each.index: each for each in topic.partition_responses} for topic in answer.responses}


@scenario
def not_enough_replicas(bootstrap: str) -> Any:
    """min.insync.replicas above the number of replicas: acks=all is refused, acks=1 is not."""
    name = "not_enough_replicas"
    create(bootstrap, name, min__insync__replicas="2")
    return {acks: try_produce(bootstrap, name, batch(record()), acks=acks) for acks in (-1, 1)} | {
        "latest": offset_of(bootstrap, name, -1).offset
    }


@scenario
def records_that_go_by_age(bootstrap: str) -> Any:
    """Records with old timestamps go at the next check of retention: of 7 days by default."""
    name = "records_that_go_by_age"
    create(bootstrap, name)
    create(bootstrap, f"{name}.short", retention__ms="1000")
    old = now_ms() - 8 * 24 * HOUR_MS
    for each in (name, f"{name}.short"):
        produce(bootstrap, each, batch(record(b"old", timestamp=old)), batch(record(b"older", timestamp=old - 1)))

    def earliest(topic: str) -> int:
        end = time.monotonic() + 40
        while (found := offset_of(bootstrap, topic, -2).offset) < 2 and time.monotonic() < end:
            time.sleep(0.2)
        return int(found)

    return {
        "default": earliest(name),
        "short": earliest(f"{name}.short"),
        "latest": offset_of(bootstrap, name, -1).offset,
        "next": produce(bootstrap, name, batch(record())),
        "read": [each["base_offset"] for each in batches_of(fetch(bootstrap, name, 2).records)],
        "below": error_name(fetch(bootstrap, name, 0).error_code),
    }


@scenario
def transactional_batches_by_version(bootstrap: str) -> Any:
    """A transactional batch of a partition that is not in the transaction: added by new versions, refused in old ones."""
    name = "transactional_batches_by_version"
    create(bootstrap, name, 2)
    made = init_producer(bootstrap, name)
    producer = made.producer_id, made.producer_epoch

    def send(version: int, partition: int, sequence: int = 0, transactional_id: str | None = name) -> str:
        data = batch(record(), attributes=TRANSACTIONAL, producer=(*producer, sequence))
        answer = try_produce(
            bootstrap, name, data, partition=partition, version=version, transactional_id=transactional_id
        )
        return error_name(answer.error_code)

    return {
        "old": send(11, 0),
        "added": add_partitions(bootstrap, name, producer, name, 0),
        "old, added": send(11, 0),
        "new": send(12, 1),
        "without an id": send(12, 1, 1, None),
        "not transactional": error_name(
            try_produce(bootstrap, name, batch(record(), producer=(*producer, 1)), partition=1).error_code
        ),
    }
