"""`sync=True`: each record on the device when `send` returns, by one thread and by eight that share the syncs.

Nothing is deleted while the sides take turns: a file system does some of the work of a deletion (such as trimming it on
the device) in the next sync, of whichever side. The rounds are many and short, because the time of a sync on the same
disk may double from one second to the next.
"""

import threading
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path

import streamlog
from benchmarks import baselines
from benchmarks.figures import Row, rate_row
from benchmarks.measure import Samples, Side, expect, interleave, one_processor, stopwatch
from benchmarks.records import records
from benchmarks.run import Run, expect_records

THREADS = 8
PLAIN = "plain write + fdatasync, one thread"
ONE = "one thread"
EIGHT = "eight threads"

_numbers = count()


def _send_side(log: streamlog.StreamLog, keys: Sequence[bytes], values: Sequence[bytes], threads: int) -> Side:
    """Send the records to a new topic, from one thread or from several on one producer, each its share."""
    shares = [list(zip(keys[first::threads], values[first::threads], strict=True)) for first in range(threads)]

    def side() -> float:
        errors: list[BaseException] = []
        topic = f"synced-{next(_numbers)}"
        log.create_topic(topic, partitions=1)
        with log.producer() as producer:

            def work(share: Sequence[tuple[bytes, bytes]]) -> None:
                try:
                    for key, value in share:
                        producer.send(topic, value, key)
                except BaseException as error:
                    errors.append(error)

            workers = [threading.Thread(target=work, args=(share,)) for share in shares[1:]]
            with stopwatch() as watch:
                for worker in workers:
                    worker.start()
                work(shares[0])
                for worker in workers:
                    worker.join()
            if errors:
                raise errors[0]
            expect_records(log, topic, len(keys))
        return watch.seconds

    return side


def _plain_side(directory: Path, keys: Sequence[bytes], values: Sequence[bytes]) -> Side:
    def side() -> float:
        path = directory / f"plain-{next(_numbers)}"
        path.touch()
        with stopwatch() as watch:
            baselines.plain_synced_write(path, keys, values)
        size = sum(map(len, keys)) + sum(map(len, values)) + 8 * len(keys)
        expect("bytes of the plain file", path.stat().st_size, size)
        return watch.seconds

    return side


def send_synced(run: Run) -> Iterator[Row]:
    """`send` with `sync=True`, one thread and eight, beside a plain write and an fdatasync for each record.

    Eight threads also on one processor.
    """
    count = run.size(200, 60)
    samples = _measured(run, count)
    counts = dict.fromkeys(samples, count)
    work = "8 threads send, sync=True, one producer"
    yield rate_row("send, sync=True, one thread", samples, PLAIN, counts=counts, goal=1.0, ours=ONE)
    yield rate_row(work, samples, PLAIN, counts=counts, goal=3.0, ours=EIGHT)
    with one_processor():
        samples = _measured(run, count)
    yield rate_row(f"{work}, on one processor", samples, PLAIN, counts=counts, ours=EIGHT)


def _measured(run: Run, count: int) -> Samples:
    keys, values = records(count)
    with run.scratch("synced") as path, streamlog.open(path / "data", sync=True) as log:
        sides = {
            ONE: _send_side(log, keys, values, 1),
            PLAIN: _plain_side(path, keys, values),
            EIGHT: _send_side(log, keys, values, THREADS),
        }
        return interleave(sides, run.size(40, 7))
