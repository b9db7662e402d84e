"""A process that goes on working while the kernel refuses what it asks for, and says what became of each record.

Whatever is refused has to come out as one of the library's own errors; anything else ends the process.
"""

from __future__ import annotations

import random
import resource
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import streamlog

from .processes import Journal, value_of

PARTITIONS = 2
PLAIN = {"partitions": PARTITIONS, "segment_bytes": 4096}
TABLE = {"cleanup_policy": "compact", "segment_bytes": 2048, "min_cleanable_dirty_ratio": 0.1}
# No error of a disk: nothing here may be answered with one of these.
_EXPECTED = (streamlog.DiskFullError, streamlog.StorageError, streamlog.PoisonedLogError, streamlog.DeliveryError)


def main() -> None:
    """`python -m tests.stress.faulted_child PATH JOURNAL SEED`: work for a while, under strace as a rule."""
    path, journal, seed = sys.argv[1:]
    work = Work(path, journal, random.Random(seed))
    if work.open():
        work.go(60)
        work.close()
    work.say("ended")


class Work:
    """Sends, compacts, deletes, commits; notes what was acknowledged and what was refused."""

    def __init__(self, path: str, journal: str, rng: random.Random) -> None:
        self.path = path
        self.say: Callable[..., object] = Journal(journal)
        self.rng = rng
        self.sync = rng.random() < 0.5
        self.count = 0
        self.log: Any = None

    def tried(self, name: str, work: Callable[[], object]) -> bool:
        """Do it; whether it went well."""
        try:
            work()
        except _EXPECTED as error:
            self.say("failed", name, type(error).__name__)
            return False
        return True

    def open(self) -> bool:
        def open_log() -> None:
            self.log = streamlog.open(self.path, sync=self.sync)

        if not self.tried("open", open_log):
            return False
        self.tried("create plain", lambda: self.log.create_topic("plain", exist_ok=True, **PLAIN))
        self.tried("create table", lambda: self.log.create_topic("table", exist_ok=True, **TABLE))
        return True

    def go(self, steps: int) -> None:
        for _ in range(steps):
            name = self.rng.choices(["plain", "table"], [0.7, 0.3])[0]
            if name not in self.log:
                continue
            choice = self.rng.randrange(10)
            if choice < 4:
                self.send(name)
            elif choice < 6:
                self.send_many(name)
            elif choice < 8:
                self.linger(name)
            elif choice == 8 and name == "table":
                self.tried("compact", self.log["table"].compact)
            elif choice == 8:
                self.delete_some()
            else:
                self.tried("commit", lambda name=name: self.commit(name))

    def close(self) -> bool:
        return self.tried("close", self.log.close)

    # -- steps ---------------------------------------------------------------------------------------

    def send(self, name: str, size: int | None = None) -> bool:
        """One record; whether it was acknowledged."""
        partition, [head] = self._next(name, 1)
        try:
            delivery = self.log[name].send(self._value(head, size), self._key(), partition=partition)
        except _EXPECTED as error:
            self._refused([head], error)
            return False
        self._sent(delivery.result(), head)
        return True

    def send_many(self, name: str) -> None:
        partition, heads = self._next(name, self.rng.randrange(2, 40))
        values, keys = [self._value(head) for head in heads], [self._key() for _ in heads]
        try:
            found: Sequence[Any] = self.log[name].send_many(values, keys, partition=partition).result()
        except streamlog.DeliveryError as error:
            for at, (head, metadata) in enumerate(zip(heads, error.metadata, strict=True)):
                if metadata is None:
                    self._refused([head], error.failed[at])
                else:
                    self._sent(metadata, head)
            return
        except _EXPECTED as error:
            self._refused(heads, error)
            return
        for metadata, head in zip(found, heads, strict=True):
            self._sent(metadata, head)

    def linger(self, name: str) -> None:
        sent: list[tuple[Any, str]] = []
        producer = self.log.producer(linger_ms=1000)
        for _ in range(self.rng.randrange(1, 10)):
            partition, [head] = self._next(name, 1)
            sent.append((producer.send(name, self._value(head), self._key(), partition=partition), head))
        self.tried("flush", producer.flush)
        for delivery, head in sent:
            error = delivery.exception()
            if error is None:
                self._sent(delivery.result(), head)
            else:
                self._refused([head], error)
        self.tried("close producer", producer.close)

    def commit(self, name: str) -> None:
        with self.log.consumer(name, group="g", enable_auto_commit=False) as consumer:
            if consumer.poll():
                consumer.commit()
                positions = {tp: consumer.position(tp) for tp in consumer.assignment()}
                for (topic, partition), offset in positions.items():
                    self.say("committed", f"{topic}-{partition}", offset)

    def delete_some(self, share: float = 0.3) -> None:
        """Delete the older records of a partition."""

        def delete() -> None:
            partition = self.rng.randrange(PARTITIONS)
            info = self.log["plain"].partition(partition)
            before = info.log_start_offset + int((info.high_watermark - info.log_start_offset) * share)
            self.say("deletes", f"plain-{partition}", before)
            self.log["plain"].delete_records({partition: before})

        self.tried("delete records", delete)

    # -- what became of it ---------------------------------------------------------------------------

    def _next(self, name: str, count: int) -> tuple[int, list[str]]:
        heads = [f"{name}.{n}" for n in range(self.count, self.count + count)]
        self.count += count
        return (self.rng.randrange(PARTITIONS) if name == "plain" else 0), heads

    def _value(self, head: str, size: int | None = None) -> bytes:
        return value_of(head, self.rng.randrange(300) if size is None else size)

    def _key(self) -> str:
        return f"k{self.rng.randrange(10)}"

    def _sent(self, metadata: Any, head: str) -> None:
        self.say("sent", f"{metadata.topic}-{metadata.partition}", metadata.offset, head)

    def _refused(self, heads: Sequence[str], error: BaseException) -> None:
        assert isinstance(error, _EXPECTED), error
        for head in heads:
            self.say("refused", head, type(error).__name__)


def under_a_file_limit(path: str, journal: str, seed: int, limit: int) -> None:
    """Produce until a file may grow no further, some more, then with the limit lifted."""
    work = Work(path, journal, random.Random(seed))
    log = work.log = streamlog.open(path, sync=work.sync)
    log.create_topic("plain", partitions=PARTITIONS, segment_bytes=1 << 20)
    log.create_topic("table", cleanup_policy="compact", segment_bytes=1 << 20)
    aloud, said = work.say, []
    work.say = lambda *words: said.append(words)  # the journal is a file too
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    work.go(400)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    work.say = aloud
    for words in said:
        work.say(*words)
    work.say("lifted")
    work.go(50)
    assert work.close()
    work.say("ended")


def on_a_full_disk(path: str, journal: str, seed: int, ballast: str) -> None:
    """Fill the disk; free space by deleting records; fill it again; close and open on the full disk; go on."""
    work = Work(path, journal, random.Random(seed))
    assert work.open()
    fill(work)
    work.say("full")
    for _ in range(2 * PARTITIONS):
        work.delete_some(0.6)
    work.go(20)
    work.say("freed")
    fill(work)
    assert work.close(), "a log could not be closed on a full disk"
    work.say("closed")
    assert work.open(), "a log could not be opened on a full disk"
    stored = sum(1 for _ in work.log["plain"].read())
    work.send("plain")
    assert work.close()
    work.say("reopened", stored)
    with open(ballast, "wb"):  # cut to nothing: there is space again
        pass
    assert work.open()
    work.go(20)
    assert work.close()
    work.say("ended")


def send_synced(path: str, journal: str, count: int) -> None:
    """Send records that say when they were sent, each of which is on the device when `send` returns."""
    say = Journal(journal)
    with streamlog.open(path, sync=True) as log:
        topic = log.create_topic("plain")
        say("ready")
        for _ in range(count):
            topic.send(value_of(str(time.monotonic_ns()), 10))
            say("sent")


def fill(work: Work) -> None:
    """Send until not even a small record fits any more."""
    for size in (2000, 300, 10):
        refused = 0
        while refused < 3:
            refused += not work.send("plain", size)


if __name__ == "__main__":
    main()
