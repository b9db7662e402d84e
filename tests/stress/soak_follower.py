"""A process that reads along while `soak` runs, and what a process takes."""

from __future__ import annotations

import gc
import os
import threading
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import streamlog

from .processes import Journal, head_of

_EVERY_S = 0.5
_GONE = (streamlog.OffsetOutOfRangeError, streamlog.UnknownTopicOrPartitionError, streamlog.UnknownTopicIdError)


class Size(NamedTuple):
    """What a process takes of the machine."""

    rss_anon_kib: int
    descriptors: int
    threads: int
    deleted: int
    """Descriptors and mappings of files that have no name any more: disk space that no listing shows."""

    @classmethod
    def now(cls) -> Size:
        until, status = time.monotonic() + 1.0, _status()
        # A thread that Python has joined, or never knew, may not be gone yet.
        while int(status["Threads"]) > threading.active_count() and time.monotonic() < until:
            time.sleep(0.001)
            status = _status()
        mapped = {
            line.split(None, 5)[-1] for line in Path("/proc/self/maps").read_text().splitlines() if "(deleted)" in line
        }
        names = os.listdir("/proc/self/fd")
        opened = sum("(deleted)" in _target(name) for name in names)
        return cls(int(status["RssAnon"].split()[0]), len(names) - 1, int(status["Threads"]), opened + len(mapped))


def _status() -> dict[str, str]:
    return dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())


def _target(descriptor: str) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{descriptor}")
    except OSError:
        return ""


class Order:
    """Records of each sender and partition, which come one after the other. Thread-safe."""

    def __init__(self) -> None:
        self.counts: Counter[tuple[str, int]] = Counter()
        self._lock = threading.Lock()

    def next(self, partition: int, head: str, *, may_jump: bool = False) -> None:
        """`may_jump`: what is before was deleted."""
        name, there, number = head.split(".")
        assert int(there) == partition, f"{head} is in partition {partition}"
        with self._lock:
            expected = self.counts[name, partition]
            assert int(number) == expected or (may_jump and int(number) > expected), (
                f"{head} came where {expected} was due"
            )
            self.counts[name, partition] = int(number) + 1


def follow(path: str, folder: str, number: int) -> None:
    """Read along until there is a file `stop`; say every half second what this process takes."""
    say, order = Journal(f"{folder}/follower-{number}"), Order()
    stop, look_at = Path(folder) / "stop", time.monotonic() + _EVERY_S
    with streamlog.open(path, read_only=True) as log, log.consumer("events") as consumer:
        while not stop.exists():
            try:
                # The owner deletes what its groups have handled: this one may find itself before the log's start.
                for record in consumer.poll(timeout=0.05):
                    order.next(record.partition, head_of(record.value), may_jump=True)
                if number % 2:
                    for topic in log.topics():
                        sum(1 for _ in topic.read())
            except _GONE:
                continue
            if time.monotonic() >= look_at:
                gc.collect()
                say(*Size.now())
                look_at += _EVERY_S
