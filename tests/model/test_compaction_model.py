"""Compaction against a dict: the last value of each key, whenever and however often it runs."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

import streamlog
from streamlog.testing import ManualClock
from tests.times import START_MS

DELETE_RETENTION_MS = 60_000

keys = st.sampled_from([b"", b"a", b"b", b"c", b"key-" * 20])
values = st.one_of(st.none(), st.binary(max_size=8), st.integers(0, 700).map(lambda n: b"x" * n))


class CompactionMachine(RuleBasedStateMachine):
    """`history` is all that was ever sent; `last` the offset and value of each key's last record."""

    @initialize(lag_ms=st.sampled_from([0, 30_000]), codec=st.sampled_from(["producer", "gzip"]))
    def open_log(self, lag_ms: int, codec: str) -> None:
        self.directory = tempfile.TemporaryDirectory()
        self.path = Path(self.directory.name) / "data"
        self.clock = ManualClock(start_ms=START_MS)
        self.lag_ms = lag_ms
        self.history: list[tuple[int, bytes, bytes | None]] = []
        self.last: dict[bytes, int] = {}
        self.log = streamlog.open(self.path, clock=self.clock)
        self.topic = self.log.create_topic(
            "t",
            cleanup_policy="compact",
            segment_bytes=1024,
            delete_retention_ms=DELETE_RETENTION_MS,
            min_compaction_lag_ms=lag_ms,
            compression_type=codec,
        )

    def remember(self, key: bytes, value: bytes | None) -> None:
        self.last[key] = len(self.history)
        self.history.append((self.clock.time_ms(), key, value))

    @rule(key=keys, value=values)
    def send(self, key: bytes, value: bytes | None) -> None:
        assert self.topic.send(value, key).result().offset == len(self.history)
        self.remember(key, value)

    @rule(records=st.lists(st.tuples(keys, values), min_size=1, max_size=15))
    def send_many(self, records: list[tuple[bytes, bytes | None]]) -> None:
        self.topic.send_many([value for _, value in records], [key for key, _ in records])
        for key, value in records:
            self.remember(key, value)

    @rule(ms=st.sampled_from([1, 1000, 29_999, 30_000, 59_999, 60_000, 3_600_000]))
    def let_time_pass(self, ms: int) -> None:
        self.clock.advance(ms / 1000)

    @rule()
    def compact(self) -> None:
        self.topic.compact()
        if self.lag_ms == 0:
            self.assert_one_record_per_key()

    @rule()
    def compact_when_everything_is_old(self) -> None:
        self.clock.advance(self.lag_ms / 1000 + 1)
        self.topic.compact()
        self.assert_one_record_per_key()

    @rule()
    def forget_old_tombstones(self) -> None:
        self.clock.advance(self.lag_ms / 1000 + 1)
        self.topic.compact()
        self.clock.advance(DELETE_RETENTION_MS / 1000 + 1)
        self.topic.compact()
        living = {key for key, offset in self.last.items() if self.history[offset][2] is not None}
        assert {record.key for record in self.topic.read()} == living

    @rule()
    def reopen(self) -> None:
        self.log.close()
        self.log = streamlog.open(self.path, clock=self.clock)
        self.topic = self.log["t"]

    def assert_one_record_per_key(self) -> None:
        records = list(self.topic.read())
        assert len({record.key for record in records}) == len(records)

    @invariant()
    def what_is_read_was_sent_and_the_last_of_each_key_is_there(self) -> None:
        records = list(self.topic.read())
        offsets = [record.offset for record in records]
        assert offsets == sorted(set(offsets))
        for record in records:
            assert (record.timestamp, record.key, record.value) == self.history[record.offset]
        living = {offset for offset in self.last.values() if self.history[offset][2] is not None}
        assert living <= set(offsets)
        assert self.topic.partition(0).log_end_offset == len(self.history)

    @invariant()
    def young_records_and_young_tombstones_are_there(self) -> None:
        offsets = {record.offset for record in self.topic.read()}
        now = self.clock.time_ms()
        for offset, (timestamp, _, _) in enumerate(self.history):
            if now - timestamp < self.lag_ms:
                assert offset in offsets
        for offset in self.last.values():
            timestamp, _, value = self.history[offset]
            if value is None and now - timestamp < DELETE_RETENTION_MS:
                assert offset in offsets

    def teardown(self) -> None:
        if not hasattr(self, "log"):
            return
        self.log.close()
        report = streamlog.verify(self.path)
        assert report.ok, report
        self.directory.cleanup()


TestCompactionAgainstADict = CompactionMachine.TestCase
