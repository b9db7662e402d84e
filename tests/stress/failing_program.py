"""A program that works on a log whatever its disk does, remembers what was acknowledged, and checks what became of it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

import streamlog
from streamlog import DeliveryError, NotLeaderError, RecordMetadata, StreamlogError, TopicPartition
from streamlog.testing import ManualClock
from tests.times import START_MS

T = TypeVar("T")

PATH = "data"


class _Aborted(Exception):
    """The program gives up a transaction."""


class Program:
    """Works on a log whatever its disk does, and remembers what was acknowledged."""

    def __init__(self, disk: Any, *, sync: bool, brokers: int = 1, clock: ManualClock | None = None) -> None:
        self.disk = disk
        self.sync = sync
        self.brokers = brokers
        self.clock = clock or ManualClock(start_ms=START_MS)
        self.log: streamlog.StreamLog | None = None
        self.errors: list[tuple[str, StreamlogError]] = []
        self.told: dict[TopicPartition, dict[int, bytes]] = defaultdict(dict)
        self.refused: dict[TopicPartition, set[bytes]] = defaultdict(set)
        self.starts: dict[TopicPartition, list[int]] = defaultdict(lambda: [0, 0])  # acknowledged, asked for
        self.topics: dict[str, bool] = {}  # whether it must be there; one that may be is not in here
        self.committed: set[int] = {0}
        # Of each transaction, by its values: whether it is committed; None if that is not known.
        self.transactions: dict[tuple[bytes, ...], bool | None] = {}
        self.mark: Callable[[str], None] = lambda label: None
        self._number = 0

    # -- doing things --------------------------------------------------------------------------------

    def attempt(self, what: str, call: Callable[[streamlog.StreamLog], T]) -> T | None:
        """What the call returns, or None if it failed as a call may."""
        try:
            if self.log is None:
                before, what = what, "open"
                self.log = streamlog.open(PATH, disk=self.disk, clock=self.clock, sync=self.sync, brokers=self.brokers)
                what = before
            return call(self.log)
        except StreamlogError as error:
            self.errors.append((what, error))
            return None

    def succeeds(self, what: str, call: Callable[[streamlog.StreamLog], object]) -> bool:
        before = len(self.errors)
        self.attempt(what, call)
        return len(self.errors) == before

    def new(self, size: int = 0) -> bytes:
        self._number += 1
        return (b"%d." % self._number).ljust(size, b".")

    def create(self, name: str, **settings: Any) -> None:
        self.topics.pop(name, None)
        if self.attempt(f"create {name}", lambda log: log.create_topic(name, exist_ok=True, **settings)) is not None:
            self.topics[name] = True

    def delete(self, name: str) -> None:
        self.topics.pop(name, None)
        if self.succeeds(f"delete {name}", lambda log: log.delete_topic(name)):
            self.topics[name] = False

    def send(self, topic: str, partition: int = 0, size: int = 0, key: str | None = None) -> None:
        value, place = self.new(size), TopicPartition(topic, partition)
        self.refused[place].add(value)
        done = self.attempt(
            f"send to {topic}", lambda log: log[topic].send(value, key=key, partition=partition).result()
        )
        if done is not None:
            self._acknowledged(place, done.offset, value)

    def send_many(self, topic: str, count: int, size: int = 0) -> None:
        values, place = [self.new(size) for _ in range(count)], TopicPartition(topic, 0)
        keys = [f"k{n % 3}" for n in range(count)]
        self.refused[place].update(values)
        before = len(self.errors)
        try:
            done = self.attempt("send_many", lambda log: log[topic].send_many(values, keys, partition=0).result())
            found: list[RecordMetadata | None] = [] if done is None else list(done)
        finally:
            last = self.errors[-1][1] if len(self.errors) > before else None
            if isinstance(last, DeliveryError) and len(last.metadata) == count:
                found = list(last.metadata)
        for value, each in zip(values, found, strict=False):
            if each is not None:
                self._acknowledged(place, each.offset, value)

    def linger(self, topic: str, count: int) -> None:
        place = TopicPartition(topic, 0)
        sent: list[tuple[bytes, Any]] = []

        def call(log: streamlog.StreamLog) -> None:
            with log.producer(linger_ms=1000) as producer:
                for _ in range(count):
                    value = self.new()
                    self.refused[place].add(value)
                    sent.append((value, producer.send(topic, value, partition=0)))
                producer.flush()

        self.attempt("flush", call)
        for value, delivery in sent:
            assert delivery.done(), "a closed producer left a record behind"
            if delivery.exception() is None:
                self._acknowledged(place, delivery.result().offset, value)

    def _acknowledged(self, place: TopicPartition, offset: int, value: bytes) -> None:
        assert offset not in self.told[place], f"offset {offset} of {place} was given twice"
        self.told[place][offset] = value
        self.refused[place].discard(value)
        self.mark(f"{place.topic} {place.partition} {offset} {value.decode()}")

    def commit(self, topic: str) -> None:
        def call(log: streamlog.StreamLog) -> int:
            with log.consumer(topic, group="g", enable_auto_commit=False) as consumer:
                consumer.poll()
                position = consumer.position(TopicPartition(topic, 0))
                self.committed.add(position)
                consumer.commit()
                return position

        done = self.attempt("commit", call)
        if done is not None:
            self.committed = {done}

    def transact(self, *, aborts: bool = False) -> None:
        """Three records in a transaction, of `x`."""
        values = tuple(self.new() for _ in range(3))
        self.transactions[values] = None

        def call(log: streamlog.StreamLog) -> None:
            with log.transaction("program") as producer:
                producer.send_many("x", values[:2])
                producer.send("x", values[2])
                if aborts:
                    raise _Aborted

        try:
            if self.succeeds("transaction", call):
                self.transactions[values] = True
        except _Aborted:
            self.transactions[values] = False

    def delete_records(self, topic: str, before: int) -> None:
        place = TopicPartition(topic, 0)
        start, before = self.starts[place], min(before, len(self.told[place]))
        start[1] = max(start[1], before)
        if self.succeeds("delete_records", lambda log: log[topic].delete_records({0: before})):
            start[0] = start[1]

    def close(self) -> None:
        if self.log is not None:
            log, self.log = self.log, None
            with suppress(StreamlogError):
                log.close()

    def run(self, after_each: Callable[[], None] = lambda: None) -> None:
        """A little of everything: each kind of call that the library makes is made by this."""
        for step in self.steps():
            step()
            after_each()

    def steps(self) -> Iterator[Callable[[], object]]:
        yield lambda: self.create("t", partitions=2, segment_bytes=1024)
        yield lambda: self.create("c", cleanup_policy="compact", segment_bytes=1024, min_cleanable_dirty_ratio=0.0)
        yield lambda: self.create("aged", retention_bytes=1500, segment_bytes=1024)
        for partition in (0, 1, 0, 0):
            yield partial(self.send, "t", partition, size=500)
        yield lambda: self.send_many("c", 4, size=200)
        yield lambda: self.send_many("c", 4, size=200)
        yield lambda: self.linger("t", 3)
        yield lambda: self.commit("t")
        yield lambda: self.create("x")
        yield self.transact
        yield partial(self.transact, aborts=True)
        yield self.transact
        yield lambda: self.attempt("sync", lambda log: log.sync())
        yield lambda: self.attempt("compact", lambda log: log["c"].compact())
        for _ in range(4):
            yield lambda: self.send("aged", size=600)
        if self.brokers > 1:
            yield from self.steps_of_brokers()
        yield lambda: self.attempt("retention", lambda log: log["aged"].apply_retention())
        yield lambda: self.delete_records("t", 2)
        yield lambda: self.attempt("advance", lambda log: self.clock.advance(20))
        yield lambda: self.create("brief")
        yield lambda: self.send("brief")
        yield lambda: self.delete("brief")
        yield self.read_some
        yield self.close
        yield lambda: self.send("t", size=700)
        yield self.transact
        yield self.read_some
        yield lambda: self.send("c", key="k0", size=600)
        yield lambda: self.attempt("compact", lambda log: log["c"].compact())
        yield lambda: self.commit("t")
        yield lambda: self.attempt("advance", lambda log: self.clock.advance(20))
        yield lambda: self.send("t", size=700)

    def steps_of_brokers(self) -> Iterator[Callable[[], object]]:
        """Each is stopped and started again, and leads a partition."""
        for number in range(self.brokers):
            yield partial(self.stop, number)
            yield lambda: self.send("t", size=300)
            yield self.start_brokers
            yield lambda: self.send("t", 1, size=300)
            yield partial(self.elect, number)
            yield lambda: self.send("t", size=300)

    def stop(self, broker: int) -> None:
        """Not if another one is away: then too few replicas would be in sync."""

        def call(log: streamlog.StreamLog) -> None:
            if not log.metrics()["replication"]["under_replicated_partitions"]:
                log.brokers[broker].stop()

        self.attempt("stop", call)

    def start_brokers(self) -> None:
        """Those that were stopped, or whose disk has failed."""
        for number in range(self.brokers):
            self.attempt("start", lambda log, number=number: log.brokers[number].start())  # type: ignore[misc]

    def elect(self, broker: int) -> None:
        def call(log: streamlog.StreamLog) -> None:
            with suppress(NotLeaderError):  # it is not in sync
                log.elect_leader(TopicPartition("t", 0), broker)

        self.attempt("elect", call)

    def read_some(self) -> None:
        self.attempt("read", lambda log: [list(log[name].read()) for name in list(log)])

    # -- and looking at what became of them ----------------------------------------------------------

    def go_on(self) -> None:
        """The fault is gone: the log that is open is used further."""
        if self.brokers > 1 and self.log is not None:
            self.start_brokers()
        for place in list(self.told):
            if self.topics.get(place.topic):
                self.send(*place, key="k")
        if self.topics.get("x"):
            self.transact()
        if self.log is not None:
            self.check(self.log)

    def check(self, log: streamlog.StreamLog) -> None:
        for name, there in self.topics.items():
            assert (name in log) is there, f"topic {name} is {'not ' if there else ''}there"
        for place in {*self.told, *self.refused}:
            if place.topic in log:
                self._check_partition(log, place)
        if "x" in log:
            self._check_transactions(log)
        assert log.group("g").committed().get(TopicPartition("t", 0), 0) in self.committed

    def _check_transactions(self, log: streamlog.StreamLog) -> None:
        """Each is there whole, once, or not at all."""
        found = [record.value for record in log["x"].read()]
        for values, committed in self.transactions.items():
            there = [value for value in found if value in values]
            assert there in ([], list(values)), f"a part of a transaction: {there} of {values}"
            assert committed is None or committed is bool(there), f"{values}: committed {committed}, and found {there}"

    def _check_partition(self, log: streamlog.StreamLog, place: TopicPartition) -> None:
        info = log[place.topic].partition(place.partition)
        found = {record.offset: record.value for record in log[place.topic].read(place.partition)}
        told, refused = self.told[place], self.refused[place]
        assert len(set(found.values())) == len(found), f"a record of {place} is there twice"
        for offset, value in found.items():
            assert told.get(offset) == value or value in refused, f"{place} invents {value!r} at {offset}"
        assert info.high_watermark > max(told, default=-1), f"{place} can be read up to {info.high_watermark}"
        if place.topic == "c":
            self._check_compacted(found, told)
            return
        assert list(found) == [*range(info.log_start_offset, info.high_watermark)], f"{place} has a gap: {list(found)}"
        low, high = self.starts[place]
        if self.brokers > 1:  # a leader answers before its followers know: another one may lead before they do
            low = 0
        if place.topic != "aged":
            assert low <= info.log_start_offset <= high, (
                f"{place} starts at {info.log_start_offset}, not {low} to {high}"
            )
        elif told:
            assert max(told) in found, "retention deleted the newest record"

    def _check_compacted(self, found: dict[int, bytes], told: dict[int, bytes]) -> None:
        """Of each key the last acknowledged record is there, or one that came after it."""
        for offset, value in told.items():
            if offset not in found:
                assert any(later > offset for later in found), f"compaction removed {value!r} at {offset}"
