"""Four threads that call `send` on one producer, beside one thread that sends all records."""

import threading
from collections.abc import Iterator, Sequence

import streamlog
from benchmarks.figures import Row, rate_row
from benchmarks.measure import Samples, Side, interleave, one_processor, stopwatch
from benchmarks.records import records
from benchmarks.run import Run, expect_records, fresh_topic

THREADS = 4
ONE = "one thread"


def _threads_side(
    log: streamlog.StreamLog, keys: Sequence[bytes], values: Sequence[bytes], linger_ms: int, threads: int
) -> Side:
    """Send the records from `threads` threads, each its share. Timed from the start of the first thread to the flush.

    One thread is measured in the same way, with a start and a join.
    """
    shares = [list(zip(keys[first::threads], values[first::threads], strict=True)) for first in range(threads)]

    def side() -> float:
        errors: list[BaseException] = []
        with fresh_topic(log) as topic, log.producer(linger_ms=linger_ms) as producer:

            def work(share: Sequence[tuple[bytes, bytes]]) -> None:
                try:
                    for key, value in share:
                        producer.send(topic, value, key)
                except BaseException as error:
                    errors.append(error)

            workers = [threading.Thread(target=work, args=(share,)) for share in shares]
            with stopwatch() as watch:
                for worker in workers:
                    worker.start()
                for worker in workers:
                    worker.join()
                producer.flush()
            if errors:
                raise errors[0]
            expect_records(log, topic, len(keys))
        return watch.seconds

    return side


def four_threads(run: Run) -> Iterator[Row]:
    """Four threads on one producer beside one thread, with a linger and without; the latter also on one processor."""
    for linger_ms, count, goal in ((5, run.size(300_000, 50_000), 0.8), (0, run.size(100_000, 20_000), 0.4)):
        work = f"{THREADS} threads send, one producer, linger {linger_ms}"
        samples = _beside_one(run, linger_ms, count)
        yield rate_row(work, samples, ONE, counts=dict.fromkeys(samples, count), goal=goal)
    with one_processor():
        samples = _beside_one(run, linger_ms, count)
    yield rate_row(f"{work}, on one processor", samples, ONE, counts=dict.fromkeys(samples, count))


def _beside_one(run: Run, linger_ms: int, count: int) -> Samples:
    keys, values = records(count)
    with run.log() as log:
        sides = {
            "streamlog": _threads_side(log, keys, values, linger_ms, THREADS),
            ONE: _threads_side(log, keys, values, linger_ms, 1),
        }
        return interleave(sides, run.rounds)
