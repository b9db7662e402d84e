"""A process that follows a log which another one changes, and checks every record that it is given."""

from __future__ import annotations

import contextlib
import json
import random
import time
from array import array
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import streamlog
from streamlog import TopicPartition

from .processes import Journal, head_of
from .tail_owner import PASSING, TOPICS

PARTITIONS = [TopicPartition(name, n) for name, settings in TOPICS.items() for n in range(settings["partitions"])]
WAYS = ("poll", "poll without a reset", "poll_batches and reopen", "read")
# How often in a row a compaction can come between a read of the table and what it is about to find.
_READS = 5
_GONE = (streamlog.UnknownTopicOrPartitionError, streamlog.UnknownTopicIdError)


def follow(path: str, folder: str, seed: int, number: int) -> None:
    """Follow the log at `path` in one of `WAYS` until the owner has finished and everything was received."""
    Follower(path, Path(folder), random.Random(f"{seed}.{number}"), number).run()


class Follower:
    """One reader in a process of its own."""

    def __init__(self, path: str, folder: Path, rng: random.Random, number: int) -> None:
        self.path = path
        self.folder = folder
        self.rng = rng
        self.number = number
        self.say = Journal(str(folder / f"follower-{number}"))
        self.next = dict.fromkeys(PARTITIONS, 0)
        self.lives = dict.fromkeys(PARTITIONS, 0)
        self.table: dict[bytes, int] = {}
        self.counts = Counter(received=0, jumps=0, read_again=0, passing=0)
        self.sent_ns, self.delays_ns = array("q"), array("q")
        self.open()

    def open(self) -> None:
        self.log = streamlog.open(self.path, read_only=True)
        self.attentive_ns = time.monotonic_ns()
        reset = "none" if self.number == 1 else "earliest"
        self.consumer = self.log.consumer(auto_offset_reset=reset)
        self.consumer.assign(PARTITIONS)
        for partition, offset in self.next.items():
            self.consumer.seek(partition, offset)

    def run(self) -> None:
        ends: dict[str, int] | None = None
        while ends is None or any(self.next[tp] < ends[f"{tp.topic}-{tp.partition}"] for tp in PARTITIONS):
            if ends is None and (self.folder / "final").exists():
                ends = json.loads((self.folder / "final").read_text())["ends"]
                until = time.monotonic() + 60
            assert ends is None or time.monotonic() < until, f"only {self.next} of {ends} came"
            (self.poll, self.poll_without_reset, self.poll_batches, self.read)[self.number % 4]()
            if self.number and self.rng.random() < 0.1:
                self.turn_away()
        self.read_table()
        self.log.close()
        with open(self.folder / f"result-{self.number}", "w") as file:
            json.dump(
                {
                    "table": {key.decode(): offset for key, offset in self.table.items()},
                    **self.counts,
                    "sent_ns": list(self.sent_ns),
                    "delays_ns": list(self.delays_ns),
                },
                file,
            )

    # -- ways to read --------------------------------------------------------------------------------

    def poll(self) -> None:
        self.take(self.consumer.poll(0.1))

    def poll_without_reset(self) -> None:
        try:
            self.take(self.consumer.poll(0.1))
        except streamlog.OffsetOutOfRangeError as error:
            for partition, offset in self.consumer.beginning_offsets().items():
                if offset > self.next[partition]:
                    self.consumer.seek(partition, offset)
            assert error.log_start_offset > 0

    def poll_batches(self) -> None:
        for batch in self.consumer.poll_batches(0.1):
            self.take(batch)
        if self.rng.random() < 0.01:
            self.log.close()
            self.open()

    def read(self) -> None:
        for partition in PARTITIONS:
            topic = self.log[partition.topic]
            start = max(self.next[partition], topic.partition(partition.partition).log_start_offset)
            try:
                self.take(topic.read(partition.partition, start=start))
            except streamlog.OffsetOutOfRangeError:
                assert topic.partition(partition.partition).log_start_offset > start
        time.sleep(0.002)

    # -- something else for a while ------------------------------------------------------------------

    def turn_away(self) -> None:
        """Do something other than following, which then has to catch up."""
        kind = self.rng.choice([self.nap, self.read_passing, self.read_again, self.read_again, self.read_table])
        with contextlib.suppress(streamlog.OffsetOutOfRangeError):  # of records that were deleted meanwhile
            kind()
        self.attentive_ns = time.monotonic_ns()

    def nap(self) -> None:
        time.sleep(self.rng.uniform(0.0, 0.4))

    def read_again(self) -> None:
        """Read some of what was read before: it is still the same, and all there from the log's start on."""
        place = self.rng.choice(PARTITIONS)
        topic = self.log[place.topic]
        start = topic.partition(place.partition).log_start_offset
        if start >= self.next[place]:
            return
        expected = self.rng.randrange(start, self.next[place])
        for record in topic.read(place.partition, start=expected, end=self.next[place]):
            self._check_itself(record)
            assert record.offset == expected if place.topic == "plain" else record.offset >= expected, record
            expected = record.offset + 1
            self.counts["read_again"] += 1

    def read_table(self) -> None:
        """Read the compacted topic whole: each key that is known is there.

        Unless its last record was replaced, and compacted away, while this read: then the next read finds what replaced it.
        """
        known = dict(self.table)
        for _ in range(_READS):
            for record in self.log["table"].read():
                self._check_itself(record)
                self.counts["read_again"] += 1
                if record.offset >= known.get(record.key, 0):
                    known.pop(record.key, None)
            if not known:
                return
        raise AssertionError(f"{known} were compacted away, and nothing has replaced them")

    def read_passing(self) -> None:
        """Read the topic that comes and goes: one of them, from its beginning on, as far as it was there."""
        try:
            heads = [head_of(record.value).split(".") for record in self.log[PASSING].read()]
        except _GONE:
            return
        assert [int(offset) for _, offset, _ in heads] == list(range(len(heads))), heads
        assert len({(topic, count) for topic, _, count in heads}) <= 1, heads
        self.counts["passing"] += len(heads)

    # -- what comes ----------------------------------------------------------------------------------

    def take(self, records: Iterable[streamlog.Record[Any, Any]]) -> None:
        for record in records:
            now = time.monotonic_ns()
            life, sent = self._check_itself(record)
            place = record.topic_partition
            self._check_life(place, life, record.offset)
            self._check_place(place, record.offset)
            if record.topic == "table":
                self.table[record.key] = record.offset
            self.counts["received"] += 1
            if sent > self.attentive_ns:
                self.sent_ns.append(sent)
                self.delays_ns.append(now - sent)

    def _check_itself(self, record: streamlog.Record[Any, Any]) -> tuple[int, int]:
        """The value says where it belongs, in which life it was sent, and when."""
        life, topic, partition, offset, sent = head_of(record.value).split(".")
        assert (topic, int(partition), int(offset)) == record[:3], f"{record} stands in the wrong place"
        return int(life), int(sent)

    def _check_place(self, place: TopicPartition, offset: int) -> None:
        expected = self.next[place]
        assert offset >= expected, f"{place}: offset {offset} came after {expected - 1}"
        if offset > expected and place.topic == "plain":
            start = self.log["plain"].partition(place.partition).log_start_offset
            assert offset <= start, f"{place}: {expected} to {offset - 1} were left out, but the log starts at {start}"
            self.counts["jumps"] += 1
        self.next[place] = offset + 1

    def _check_life(self, place: TopicPartition, life: int, offset: int) -> None:
        """Tell where the first record of each life was seen: an offset must never have had two."""
        before = self.lives[place]
        assert life >= before, f"{place}: offset {offset} of life {life} came after one of life {before}"
        if life > before:
            self.lives[place] = life
            self.say("life", f"{place.topic}-{place.partition}", life, self.next[place], offset)
