"""The clock of the benchmarks: one timed stretch, and sides that take turns."""

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
"""Does the work once and returns what it took; preparing, checking and cleaning are its own business, untimed."""

Samples = dict[str, list[float]]

SETTLE_SECONDS = 100e-6
"""What a taker gets to fall asleep in its wait before the next handover."""


class MeasurementError(Exception):
    """A measurement did not do the work it claims to have timed."""


class Stopwatch:
    """The seconds of one timed stretch."""

    seconds: float = 0.0


@contextmanager
def stopwatch() -> Iterator[Stopwatch]:
    """Time the block. Whatever lives already is collected or frozen first, and thawed afterwards."""
    gc.collect()
    gc.freeze()
    watch = Stopwatch()
    started = time.perf_counter()
    try:
        yield watch
    finally:
        watch.seconds = time.perf_counter() - started
        gc.unfreeze()


def interleave(sides: Mapping[str, Side], rounds: int) -> Samples:
    """Let the sides take turns, A B A B, for `rounds` rounds after one that only warms up."""
    for side in sides.values():
        side()
    samples: Samples = {name: [] for name in sides}
    for _ in range(rounds):
        for name, side in sides.items():
            samples[name].append(side())
    return samples


@contextmanager
def one_processor() -> Iterator[None]:
    """Have this thread, and those it starts, run on one processor alone.

    For orientation: Python runs one thread at a time whatever it has. But a thread that is woken on another processor,
    most of all on a virtual one that sleeps, comes late and finds nothing of what it needs in the caches there.
    """
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def expect(what: str, actual: object, expected: object) -> None:
    """Refuse a figure whose work was not done. Untimed, and not an assert: it must hold under -O as well."""
    if actual != expected:
        raise MeasurementError(f"{what}: {actual!r} where {expected!r} was expected; the time means nothing")


def optional(name: str) -> Any | None:
    """The module of an optional peer, or None where it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def handover_p50(put: Callable[[int], object], take: Callable[[], object], count: int) -> float:
    """Median seconds from just before `put` to `take` having returned in a waiting thread.

    `take` is called in a second thread, which says that it is about to wait; `put` follows after a pause in which it
    can fall asleep, so that each handover wakes a thread that really waits. The clock of the machine is
    one for all threads.
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
