"""Three replicas of a partition, in three directories of one disk, beside one; and how soon all of them have a record."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from queue import SimpleQueue
from statistics import median
from typing import Any

import streamlog
from benchmarks.figures import Row, rate_row
from benchmarks.measure import SETTLE_SECONDS, MeasurementError, Side, expect, interleave, stopwatch
from benchmarks.records import chunks, records
from benchmarks.run import Run, expect_records, fresh_topic

REPLICAS = 3
SENDERS = 4
# Three replicas write each byte three times, and may take a quarter longer than that.
COST_GOAL = 1 / (REPLICAS * 1.25)
ONE = "one replica"
WAIT_SECONDS = 30.0
STEP_SECONDS = 100e-6

Send = Callable[[Any, str], None]


def _await_replicas(log: streamlog.StreamLog, topic: str, count: int) -> None:
    """Return once every replica has `count` records: readers see what all have that are in sync, and all three are."""
    deadline = time.monotonic() + WAIT_SECONDS
    while log[topic].partition(0).high_watermark < count:
        if time.monotonic() > deadline:
            raise MeasurementError(f"{topic}: the replicas do not have everything after {WAIT_SECONDS} s")
        time.sleep(STEP_SECONDS)


def _side(log: streamlog.StreamLog, count: int, send: Send, replicas: int, **config: Any) -> Side:
    """Send to a new topic, until all replicas have everything."""

    def side() -> float:
        with fresh_topic(log) as topic, log.producer(**config) as producer:
            with stopwatch() as watch:
                send(producer, topic)
                producer.flush()
                _await_replicas(log, topic, count)
            expect("in-sync replicas", len(log[topic].partition(0).isr), replicas)
            expect_records(log, topic, count)
        return watch.seconds

    return side


def _many(keys: Sequence[bytes], values: Sequence[bytes]) -> Send:
    batches = chunks(keys, values)

    def send(producer: Any, topic: str) -> None:
        for some_keys, some_values in batches:
            producer.send_many(topic, some_values, some_keys)

    return send


def _one_by_one(keys: Sequence[bytes], values: Sequence[bytes]) -> Send:
    def send(producer: Any, topic: str) -> None:
        for key, value in zip(keys, values, strict=True):
            producer.send(topic, value, key)

    return send


def cost(run: Run) -> Iterator[Row]:
    """`send_many`, and `send` with a linger of 5 ms, to three replicas beside one, until all have everything."""
    for work, full, quick, make, linger_ms in (
        ("send_many", 500_000, 100_000, _many, 0),
        ("send, linger 5 ms", 300_000, 50_000, _one_by_one, 5),
    ):
        count = run.size(full, quick)
        send = make(*records(count))
        acks: tuple[Any, ...] = ("all", 1)
        with ExitStack() as stack:
            logs = {}
            for replicas in (1, REPLICAS):
                path = stack.enter_context(run.scratch("replicas"))
                logs[replicas] = stack.enter_context(streamlog.open(path / "data", brokers=replicas))
            sides = {
                f"{replicas} acks={each}": _side(log, count, send, replicas, acks=each, linger_ms=linger_ms)
                for each in acks
                for replicas, log in logs.items()
            }
            samples = interleave(sides, run.rounds)
        for each in acks:
            pair = {"streamlog": samples[f"{REPLICAS} acks={each}"], ONE: samples[f"1 acks={each}"]}
            counts = dict.fromkeys(pair, count)
            yield rate_row(f"{work}, three replicas, acks={each}", pair, ONE, counts=counts, goal=COST_GOAL)


def latency(run: Run) -> Iterator[Row]:
    """One record with acks="all" to three replicas, beside a round trip to another thread: p50 and p99, the best of the rounds.

    And four threads that send so at once, beside one.
    """
    count = run.size(3000, 500)
    _keys, values = records(count)
    with (
        run.scratch("replicas") as path,
        streamlog.open(path / "data", brokers=REPLICAS) as log,
        fresh_topic(log) as topic,
    ):
        tails: dict[str, list[float]] = {"streamlog": [], "round trip": []}

        def through_replicas() -> float:
            with log.producer(acks="all") as producer:
                return _call_p50(lambda number: producer.send(topic, values[number]), count, tails["streamlog"])

        sides = {"streamlog": through_replicas, "round trip": lambda: _round_trip_p50(count, tails["round trip"])}
        samples = interleave(sides, run.rounds)
        together = interleave(
            {f"{threads}": partial(_send_together, log, values, threads) for threads in (1, SENDERS)}, run.rounds
        )
    for name, found, goal in (("p50", samples, 2.0), ("p99", tails, None)):
        ours, peer = (1e6 * min(found[side]) for side in ("streamlog", "round trip"))
        work = f"send to three replicas, acks=all, {name}"
        yield Row(work, "µs", ours, "round trip of two threads", peer, goal, at_most=True, samples=found)
    pair = {"streamlog": together[f"{SENDERS}"], "one thread": together["1"]}
    counts = {"streamlog": SENDERS * count, "one thread": count}
    yield rate_row(f"{SENDERS} threads send to three replicas, acks=all", pair, "one thread", counts=counts)


def _send_together(log: streamlog.StreamLog, values: Sequence[bytes], threads: int) -> float:
    """Seconds in which so many threads send each of these values, by one producer, to a new topic."""
    with fresh_topic(log) as topic, log.producer(acks="all") as producer:

        def send() -> None:
            for value in values:
                producer.send(topic, value)

        senders = [threading.Thread(target=send, name="sending") for _ in range(threads)]
        with stopwatch() as watch:
            for sender in senders:
                sender.start()
            for sender in senders:
                sender.join()
        expect_records(log, topic, threads * len(values))
    return watch.seconds


def _call_p50(call: Callable[[int], object], count: int, p99s: list[float]) -> float:
    """Median seconds of a call; `p99s` gets those of the slowest hundredth. The pause before each lets other threads fall asleep."""
    times: list[int] = []
    with stopwatch():
        for number in range(count):
            time.sleep(SETTLE_SECONDS)
            started = time.perf_counter_ns()
            call(number)
            times.append(time.perf_counter_ns() - started)
    p99s.append(sorted(times)[count * 99 // 100] / 1e9)
    return median(times) / 1e9


def _round_trip_p50(count: int, p99s: list[float]) -> float:
    """Median seconds in which a thread that waits is woken and wakes this one, which waits for it."""
    there: SimpleQueue[int] = SimpleQueue()
    back: SimpleQueue[int] = SimpleQueue()

    def answer() -> None:
        for _ in range(count):
            back.put(there.get())

    thread = threading.Thread(target=answer, name="answering", daemon=True)
    thread.start()

    def call(number: int) -> None:
        there.put(number)
        expect("the answer", back.get(timeout=WAIT_SECONDS), number)

    figure = _call_p50(call, count, p99s)
    thread.join(WAIT_SECONDS)
    return figure
