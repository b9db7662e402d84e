"""The timing of the benchmarks: a timed block, and sides that take turns."""

import gc
import importlib
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from queue import SimpleQueue
from statistics import median
from typing import Any

Side = Callable[[], float]
"""Does the work once and returns the seconds it took. It also prepares, checks and cleans up, untimed."""

Samples = dict[str, list[float]]

SETTLE_SECONDS = 100e-6
"""How long a waiting thread has to fall asleep before the next handover."""


class MeasurementError(Exception):
    """A measurement did not do the work that it timed."""


class Stopwatch:
    """The seconds of one timed block."""

    seconds: float = 0.0


@contextmanager
def stopwatch(clock: Callable[[], float] = time.perf_counter) -> Iterator[Stopwatch]:
    """Time the block. Objects that exist before are collected or frozen, and unfrozen afterwards.

    `time.thread_time` as the clock gives the processor time of the calling thread.
    """
    gc.collect()
    gc.freeze()
    watch = Stopwatch()
    started = clock()
    try:
        yield watch
    finally:
        watch.seconds = clock() - started
        gc.unfreeze()


def interleave(sides: Mapping[str, Side], rounds: int) -> Samples:
    """Run the sides in turn, A B A B, for `rounds` rounds after one round that does not count."""
    for side in sides.values():
        side()
    samples: Samples = {name: [] for name in sides}
    for _ in range(rounds):
        for name, side in sides.items():
            samples[name].append(side())
    return samples


@contextmanager
def one_processor() -> Iterator[None]:
    """Run this thread, and the threads that it starts, on one processor.

    For orientation: Python runs one thread at a time on any number of processors. But a thread that is woken on another
    processor, above all on a virtual one that sleeps, starts late and with cold caches.
    """
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def expect(what: str, actual: object, expected: object) -> None:
    """Raise MeasurementError if the work was not done. Not an assert, because it has to work with -O too."""
    if actual != expected:
        raise MeasurementError(f"{what}: {actual!r} instead of {expected!r}: the measured time is meaningless")


def optional(name: str) -> Any | None:
    """The module of an optional peer, or None if it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def handover_p50(put: Callable[[int], object], take: Callable[[], object], count: int) -> float:
    """Median seconds from the call of `put` to the return of `take` in a waiting thread.

    A second thread signals that it is about to call `take`; `put` follows after a pause in which that thread falls
    asleep, so that each handover wakes a thread that waits. All threads read the same clock.
    """
    ready: SimpleQueue[None] = SimpleQueue()
    arrived: list[int] = []
    sent: list[int] = []

    def taker() -> None:
        for _ in range(count):
            ready.put(None)
            take()
            arrived.append(time.perf_counter_ns())

    thread = threading.Thread(target=taker, name="taker", daemon=True)
    with stopwatch():
        thread.start()
        for number in range(count):
            ready.get(timeout=30)
            time.sleep(SETTLE_SECONDS)
            sent.append(time.perf_counter_ns())
            put(number)
        thread.join(timeout=30)
    expect("handovers", len(arrived), count)
    return median(end - start for start, end in zip(sent, arrived, strict=True)) / 1e9
