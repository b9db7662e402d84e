"""A small log beside a large one: costs that must not grow with the number of records."""

import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import streamlog
from benchmarks.figures import Row, flat_row
from benchmarks.measure import MeasurementError, Samples, Side, expect, interleave, stopwatch
from benchmarks.records import large_log_chunks
from benchmarks.run import Run, expect_records
from benchmarks.workloads.consume import WAIT_SECONDS
from benchmarks.workloads.footprint import tail_memory
from benchmarks.workloads.random_read import seek_side

SMALL = 100_000
TOPIC = "records"
PARTITION = streamlog.TopicPartition(TOPIC, 0)
LOOKUPS = 2_000


def build(path: Path, count: int, first_ms: int) -> None:
    """A closed log of `count` records, one per millisecond from `first_ms` on."""
    with streamlog.open(path) as log:
        log.create_topic(TOPIC, partitions=1)
        with log.producer() as producer:
            for first, (keys, values) in large_log_chunks(count):
                times = range(first_ms + first, first_ms + first + len(keys))
                producer.send_many(TOPIC, values, keys, timestamps_ms=times)
        expect_records(log, TOPIC, count)


def _seek_time_side(log: streamlog.StreamLog, offsets: Sequence[int], first_ms: int) -> Side:
    """Look up the offset of a time, seek to it, poll one record."""

    def side() -> float:
        found = []
        with log.consumer() as consumer:
            consumer.assign([PARTITION])
            with stopwatch() as watch:
                for offset in offsets:
                    at = consumer.offsets_for_times({PARTITION: first_ms + offset})[PARTITION]
                    if at is None:
                        raise MeasurementError(f"no record at or after the time of offset {offset}")
                    consumer.seek(PARTITION, at.offset)
                    found.append(consumer.poll(WAIT_SECONDS, max_records=1)[0].offset)
        expect("offsets read", found == list(offsets), True)
        return watch.seconds

    return side


def _open_side(path: Path, count: int) -> Side:
    """Open a closed log and ask for the end of its topic."""

    def side() -> float:
        with ExitStack() as stack:
            with stopwatch() as watch:
                log = stack.enter_context(streamlog.open(path))
                end = log[TOPIC].partition(0).log_end_offset
            expect("log end offset", end, count)
        return watch.seconds

    return side


def flatness(run: Run) -> Iterator[Row]:
    """Seeking, opening and the memory of a tailing process, at 0.1M and at 10M records (1M in a short run)."""
    large = run.size(10_000_000, 1_000_000)
    first_ms = int(time.time() * 1000) - large
    source = random.Random(large)
    with run.scratch("scale") as directory:
        paths = {"small": directory / "small", "large": directory / "large"}
        counts = {"small": SMALL, "large": large}
        for name, path in paths.items():
            build(path, counts[name], first_ms)
        offsets = {name: [source.randrange(count) for _ in range(LOOKUPS)] for name, count in counts.items()}
        tail = f"{large // 1_000_000}M records"

        def measured(side: Callable[[str], Side]) -> Samples:
            return interleave({name: side(name) for name in paths}, run.rounds)

        with ExitStack() as stack:
            logs = {name: stack.enter_context(streamlog.open(path)) for name, path in paths.items()}
            by_offset = measured(lambda name: seek_side(logs[name], TOPIC, offsets[name]))
            by_time = measured(lambda name: _seek_time_side(logs[name], offsets[name], first_ms))
        yield flat_row(f"seek to an offset, {tail}", by_offset, f"{SMALL:,}", "µs", 1e6 / LOOKUPS)
        yield flat_row(f"seek to a time, {tail}", by_time, f"{SMALL:,}", "µs", 1e6 / LOOKUPS)
        opening = measured(lambda name: _open_side(paths[name], counts[name]))
        yield flat_row(f"open a closed log, {tail}", opening, f"{SMALL:,}", "ms", 1e3)
        yield tail_memory(paths["large"], TOPIC, f"RssAnon to open and tail, {tail}")
