"""Many callers at once: none waits long for another, and those that wait cost next to nothing."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from statistics import median

import streamlog
from benchmarks.children import results_of
from benchmarks.figures import Row
from benchmarks.measure import expect, stopwatch
from benchmarks.records import records
from benchmarks.run import Run, fresh_topic
from streamlog.testing import ManualClock

VALUE = bytes(100)
STACK_BYTES = 128 << 10
SETTLE_SECONDS = 0.5
"""How long waiting threads have to fall asleep, besides half a millisecond each."""
WAIT_SECONDS = 600.0
LINGER_MS = 5
DEFAULT_BUFFER, SMALL_BUFFER = 32 << 20, 64 << 10


@contextmanager
def _threads(works: Sequence[Callable[[], object]], stop: Callable[[], object]) -> Iterator[None]:
    """Run each of `works` in a thread of its own, with a small stack; `stop` is called when the block ends."""
    before = threading.stack_size(STACK_BYTES)
    errors: list[BaseException] = []

    def guarded(work: Callable[[], object]) -> None:
        try:
            work()
        except BaseException as error:
            errors.append(error)

    try:
        threads = [threading.Thread(target=guarded, args=(work,)) for work in works]
        for thread in threads:
            thread.start()
    finally:
        threading.stack_size(before)
    try:
        yield
    finally:
        stop()
        for thread in threads:
            thread.join()
    if errors:
        raise errors[0]


def _p99(values: Sequence[float]) -> float:
    return sorted(values)[len(values) * 99 // 100]


def waking(run: Run) -> Iterator[Row]:
    """Processor time of a `send` that wakes 10 and 10,000 consumers waiting in `poll` (300 in a short run)."""
    many = run.size(10_000, 300)
    waking_ms = {10: [_wake(run, 10) for _ in range(3)], many: [_wake(run, many)]}
    note = f"{median(waking_ms[10]):.2f} ms for 10"
    samples = {"large": waking_ms[many], "small": waking_ms[10]}
    work = f"send that wakes {many:,} calls of poll"
    yield Row(work, "ms", median(waking_ms[many]), goal=10.0, at_most=True, note=note, samples=samples)


def _wake(run: Run, count: int) -> float:
    """Milliseconds of processor time in the thread that sends."""
    with run.log() as log, fresh_topic(log) as topic, ExitStack() as stack:
        consumers = [stack.enter_context(log.consumer(topic)) for _ in range(count)]
        woken: list[int] = []

        def poll(consumer: streamlog.Consumer) -> None:
            woken.append(len(consumer.poll(WAIT_SECONDS)))

        works = [partial(poll, each) for each in consumers]
        producer = stack.enter_context(log.producer())
        with _threads(works, lambda: None):
            time.sleep(SETTLE_SECONDS + count / 2_000)
            with stopwatch(time.thread_time) as watch:
                producer.send(topic, VALUE)
        expect("consumers woken", sum(woken), count)
    return 1e3 * watch.seconds


def idle(run: Run) -> Iterator[Row]:
    """Processor time of 1,000 consumers that wait in `poll`, times ten (200 in a short run, times fifty)."""
    count, seconds = run.size(1_000, 200), run.size(30, 3)
    with run.log() as log, fresh_topic(log) as topic, ExitStack() as stack:
        consumers = [stack.enter_context(log.consumer(topic)) for _ in range(count)]

        def stop() -> None:
            for each in consumers:
                each.stop()

        works = [partial(each.poll, WAIT_SECONDS) for each in consumers]
        with _threads(works, stop):
            time.sleep(SETTLE_SECONDS + count / 2_000)
            used, started = time.process_time(), time.monotonic()
            time.sleep(seconds)
            used, passed = time.process_time() - used, time.monotonic() - started
    share = 100 * used / passed * 10_000 / count
    yield Row(
        "10,000 waiting consumers, share of a core",
        "%",
        share,
        goal=2.0,
        at_most=True,
        note=f"{count:,} times {10_000 // count}",
    )


def linger_beside_compaction(run: Run) -> Iterator[Row]:
    """How late a linger of 5 ms ends while 1 GiB is compacted (64 MiB in a short run), and while nothing is."""
    size = run.size(1 << 30, 64 << 20)
    keys, values = records(10_000, 1024)
    with run.log() as log, fresh_topic(log) as topic, fresh_topic(log, cleanup_policy="compact") as compacted:
        with log.producer() as producer:
            for _ in range(size // (len(keys) * 1024)):
                producer.send_many(compacted, values, keys)
        alone = _lateness(log, topic, time.monotonic() + 2)
        compaction = threading.Thread(target=log[compacted].compact)
        compaction.start()
        beside = _lateness(log, topic, compaction)
        compaction.join()
    note = f"without {_p99(alone):.1f} ms, {len(beside)} lingers"
    samples = {"beside": beside, "alone": alone}
    work = f"linger beside compaction of {size >> 20} MiB, late by, p99"
    yield Row(work, "ms", _p99(beside), goal=20.0, at_most=True, note=note, samples=samples)


def _note(done: list[float], _: object) -> None:
    done.append(time.perf_counter())


def _lateness(log: streamlog.StreamLog, topic: str, until: threading.Thread | float) -> list[float]:
    """Milliseconds past the linger at which each record was done, until the thread, or the time, has come to an end."""
    late: list[float] = []
    with log.producer(linger_ms=LINGER_MS) as producer:
        while until.is_alive() if isinstance(until, threading.Thread) else time.monotonic() < until:
            done: list[float] = []
            started = time.perf_counter()
            delivery = producer.send(topic, VALUE)
            delivery.add_done_callback(partial(_note, done))
            while not done:
                time.sleep(0.001)
            late.append(1e3 * (done[0] - started) - LINGER_MS)
    return late


def beside_computing(run: Run) -> Iterator[Row]:
    """The p99 of a send of twelve threads, each to its topic with pauses of 20 ms, beside a thread that computes."""
    beside, alone = _paused_sends(run, computing=True), _paused_sends(run, computing=False)
    note = f"without it {_p99(alone):.1f} ms"
    samples = {"beside": beside, "alone": alone}
    work = "12 threads send beside one that computes, p99"
    yield Row(work, "ms", _p99(beside), goal=15.0, at_most=True, note=note, samples=samples)


def _paused_sends(run: Run, *, computing: bool) -> list[float]:
    """Milliseconds of each send."""
    taken: list[float] = []
    stopped = threading.Event()
    with run.log() as log, ExitStack() as stack:
        topics = [stack.enter_context(fresh_topic(log)) for _ in range(12)]
        producer = stack.enter_context(log.producer())

        def send(topic: str) -> None:
            while not stopped.wait(0.02):
                started = time.perf_counter()
                producer.send(topic, VALUE)
                taken.append(1e3 * (time.perf_counter() - started))

        def compute() -> None:
            number = 0
            while not stopped.is_set():
                number += 1

        works: list[Callable[[], object]] = [partial(send, topic) for topic in topics]
        with _threads(works + [compute] * computing, stopped.set):
            time.sleep(run.size(8, 1))
    return taken


def fairness(run: Run) -> Iterator[Row]:
    """64 threads that send on one producer: the largest share beside the smallest."""
    for linger_ms, buffer_memory in ((0, DEFAULT_BUFFER), (LINGER_MS, DEFAULT_BUFFER), (LINGER_MS, SMALL_BUFFER)):
        counts = [0] * 64
        stopped = threading.Event()
        with (
            run.log() as log,
            fresh_topic(log) as topic,
            log.producer(linger_ms=linger_ms, buffer_memory=buffer_memory) as producer,
        ):

            def send(number: int, counts: list[int] = counts, stopped: threading.Event = stopped) -> None:
                while not stopped.is_set():
                    producer.send(topic, VALUE)
                    counts[number] += 1

            with _threads([partial(send, number) for number in range(64)], stopped.set):
                time.sleep(run.size(5, 2))
        buffer = "" if buffer_memory == DEFAULT_BUFFER else f", buffer of {buffer_memory >> 10} KiB"
        work = f"64 threads send, linger {linger_ms}{buffer}, largest share"
        yield Row(work, "records", max(counts), "smallest", min(counts), goal=3.0, at_most=True)


def joining(run: Run) -> Iterator[Row]:
    """500 members that join a group of 100 partitions (100 in a short run): processor time, records a member."""
    count = run.size(500, 100)
    with run.scratch("log") as path, streamlog.open(path / "data", clock=ManualClock()) as log, ExitStack() as stack:
        log.create_topic("t", partitions=100)
        members = [stack.enter_context(log.consumer("t", group="g")) for _ in range(count)]
        with stopwatch(time.process_time) as watch:
            for _ in range(20):
                for member in members:
                    member.poll(0.0)
                if log.group("g").state == "Stable":
                    break
        expect("state", log.group("g").state, "Stable")
        expect("partitions assigned", sum(len(member.assignment()) for member in members), 100)
        written = log["__consumer_offsets"].partition(0).log_end_offset
    yield Row(f"{count} members join, processor time", "s", watch.seconds, goal=2.0, at_most=True)
    yield Row(f"{count} members join, records a member", "records", written / count, goal=10.0, at_most=True)


def opening(run: Run) -> Iterator[Row]:
    """20 processes that open one log in turn, hold it for 25 ms, and wait up to 2 s for it (6 in a short run): how many opens
    are refused."""
    processes, times = run.size(20, 6), run.size(30, 5)
    with run.scratch("log") as path:
        streamlog.open(path / "data").close()
        results = results_of("opening", [[str(path / "data"), str(times)]] * processes)
    refused = sum(result["refused"] for result in results)
    longest = max(result["longest"] for result in results)
    note = f"longest wait {longest:.2f} s"
    work = f"{processes} processes open one log {times} times, refused"
    yield Row(work, f"of {processes * times} opens", refused, goal=0.0, at_most=True, note=note)
