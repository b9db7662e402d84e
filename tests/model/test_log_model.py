"""The log against a list per partition: whatever is done to both, they say the same."""

from __future__ import annotations

import bisect
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import streamlog
from streamlog.testing import ManualClock
from tests.times import START_MS

PARTITIONS = 2
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Entry(NamedTuple):
    """What the model remembers of one record; it lies at its index in the partition's list."""

    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]


blobs = st.one_of(st.none(), st.binary(max_size=12), st.integers(0, 900).map(lambda n: b"x" * n))
header_lists = st.lists(st.tuples(st.text(max_size=4), st.one_of(st.none(), st.binary(max_size=5))), max_size=2)
timestamps = st.integers(START_MS - 100, START_MS + 100)
partitions = st.integers(0, PARTITIONS - 1)
fractions = st.floats(0, 1)
codecs = st.sampled_from([None, "gzip"])


class LogMachine(RuleBasedStateMachine):
    """Segments are so small that nearly every step rolls one."""

    @initialize(codec=codecs, linger_ms=st.sampled_from([0, 50]), batch_size=st.sampled_from([1, 300, 16_384]))
    def open_log(self, codec: str | None, linger_ms: int, batch_size: int) -> None:
        self.directory = tempfile.TemporaryDirectory()
        self.path = Path(self.directory.name) / "data"
        self.clock = ManualClock(start_ms=START_MS)
        self.config = {"compression_type": codec, "linger_ms": linger_ms, "batch_size": batch_size}
        self.entries: list[list[Entry]] = [[] for _ in range(PARTITIONS)]
        self.starts = [0] * PARTITIONS
        self.log = streamlog.open(self.path, clock=self.clock)
        self.log.create_topic("t", partitions=PARTITIONS, segment_bytes=1024)
        self.attach()

    def attach(self) -> None:
        self.topic = self.log["t"]
        self.producer = self.log.producer(**self.config)

    def offset_at(self, partition: int, fraction: float) -> int:
        """An offset between the partition's start and end."""
        start, end = self.starts[partition], len(self.entries[partition])
        return start + round((end - start) * fraction)

    def expect(self, partition: int, start: int, end: int) -> list[tuple[int, Entry]]:
        start = max(start, self.starts[partition])
        return list(enumerate(self.entries[partition]))[start:end]

    @staticmethod
    def seen(records: object) -> list[tuple[int, Entry]]:
        return [(r.offset, Entry(r.timestamp, r.key, r.value, r.headers)) for r in records]  # type: ignore[attr-defined]

    @rule(partition=partitions, value=blobs, key=blobs, headers=header_lists, timestamp=timestamps, wait=st.booleans())
    def send(
        self,
        partition: int,
        value: bytes | None,
        key: bytes | None,
        headers: list[tuple[str, bytes | None]],
        timestamp: int,
        wait: bool,
    ) -> None:
        delivery = self.producer.send("t", value, key, headers=headers, partition=partition, timestamp_ms=timestamp)
        self.entries[partition].append(Entry(timestamp, key, value, tuple(headers)))
        if wait:
            assert delivery.result() == ("t", partition, len(self.entries[partition]) - 1, timestamp)

    @rule(partition=partitions, records=st.lists(st.tuples(blobs, blobs, timestamps), max_size=12))
    def send_many(self, partition: int, records: list[tuple[bytes | None, bytes | None, int]]) -> None:
        delivery = self.producer.send_many(
            "t",
            [value for value, _, _ in records],
            [key for _, key, _ in records],
            partition=partition,
            timestamps_ms=[timestamp for _, _, timestamp in records],
        )
        base = len(self.entries[partition])
        self.entries[partition] += [Entry(timestamp, key, value, ()) for value, key, timestamp in records]
        assert [metadata.offset for metadata in delivery.result()] == list(range(base, base + len(records)))

    @rule(partition=partitions)
    def refuse_a_batch_with_one_bad_record(self, partition: int) -> None:
        with pytest.raises(streamlog.SerializationError):
            self.producer.send_many("t", [b"fine", 7], partition=partition)

    @rule()
    def flush(self) -> None:
        self.producer.flush()

    @rule(seconds=st.floats(0, 3600))
    def let_time_pass(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule(partition=partitions, one=fractions, other=fractions, batches=st.booleans())
    def read_between_offsets(self, partition: int, one: float, other: float, batches: bool) -> None:
        self.producer.flush()
        start, end = sorted((self.offset_at(partition, one), self.offset_at(partition, other)))
        if batches:
            records = [r for batch in self.topic.read_batches(partition, start=start, end=end) for r in batch]
        else:
            records = list(self.topic.read(partition, start=start, end=end))
        assert self.seen(records) == self.expect(partition, start, end)

    @rule(partition=partitions, timestamp=timestamps)
    def read_from_a_time(self, partition: int, timestamp: int) -> None:
        self.producer.flush()
        stamps = [entry.timestamp for entry in self.entries[partition]]
        first = next((n for n in range(self.starts[partition], len(stamps)) if stamps[n] >= timestamp), len(stamps))
        records = self.topic.read(partition, start=EPOCH + timedelta(milliseconds=timestamp))
        assert self.seen(records) == self.expect(partition, first, len(stamps))

    @rule(partition=partitions, beyond=st.integers(1, 10**6))
    def read_out_of_range(self, partition: int, beyond: int) -> None:
        self.producer.flush()
        start, end = self.starts[partition], len(self.entries[partition])
        for offset in {end + beyond, start - 1}:
            if offset >= 0:
                with pytest.raises(streamlog.OffsetOutOfRangeError) as error:
                    self.topic.read(partition, start=offset)
                assert (error.value.log_start_offset, error.value.log_end_offset) == (start, end)

    @rule(partition=partitions, fraction=fractions)
    def delete_records(self, partition: int, fraction: float) -> None:
        self.producer.flush()
        before = self.offset_at(partition, fraction)
        self.topic.delete_records({partition: before})
        self.starts[partition] = before

    @rule()
    def roll(self) -> None:
        self.producer.flush()
        self.topic.apply_retention()

    @rule(without_derived_files=st.booleans())
    def reopen(self, without_derived_files: bool) -> None:
        self.log.close()
        if without_derived_files:
            for file in [*self.path.rglob("*.index"), *self.path.rglob("published")]:
                file.unlink()
        self.log = streamlog.open(self.path, clock=self.clock)
        self.attach()

    @precondition(lambda self: self.config["linger_ms"] == 0)
    @invariant()
    def every_record_is_there(self) -> None:
        for partition in range(PARTITIONS):
            info = self.topic.partition(partition)
            assert (info.log_start_offset, info.log_end_offset) == (
                self.starts[partition],
                len(self.entries[partition]),
            )
            assert self.seen(self.topic.read(partition)) == self.expect(partition, 0, info.log_end_offset)

    def teardown(self) -> None:
        if not hasattr(self, "log"):
            return
        self.log.close()
        with streamlog.open(self.path, clock=self.clock) as log:
            for partition in range(PARTITIONS):
                expected = self.expect(partition, 0, len(self.entries[partition]))
                assert self.seen(log["t"].read(partition)) == expected
        report = streamlog.verify(self.path)
        assert report.ok, report
        self.directory.cleanup()


TestLogAgainstAList = LogMachine.TestCase


def test_first_record_at_or_after_a_time_is_not_a_bisection() -> None:
    """The model's own rule, shown on times that go back: a bisection would find another record."""
    stamps = [10, 30, 20, 40]
    assert next(n for n, stamp in enumerate(stamps) if stamp >= 25) == 1
    assert bisect.bisect_left(stamps, 25) != 1
