"""Few beside many: what a call costs must not grow with the topics, partitions, segments or records taken ahead.

Both sides are the processor time of the thread that calls: its costs, whatever else the machine does.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import cycle, islice

import streamlog
from benchmarks.figures import Row, flat_row
from benchmarks.measure import Samples, Side, expect, interleave, stopwatch
from benchmarks.run import Run, fresh_topic
from benchmarks.workloads.consume import WAIT_SECONDS

FEW = 10
VALUE = bytes(100)
SEGMENT_BYTES = 1024
CALLS = 1_000
ROUNDS = 3
"""Where a round touches thousands of files, untimed."""
LONG_LINGER_MS = 60_000
BATCH_BYTES = 1 << 20
BUFFER_BYTES = 1 << 30


def many_topics(run: Run) -> Iterator[Row]:
    """A lingering send, a flush after it, a new topic: with 10 and with 2,000 topics in the log (100 in a short run)."""
    many, count, flushes = run.size(2_000, 100), run.size(20_000, 2_000), run.size(1_000, 200)
    with run.log() as small, run.log() as large:
        logs = {"small": small, "large": large}
        counts = {"small": FEW, "large": many}
        for name, log in logs.items():
            for number in range(counts[name]):
                log.create_topic(f"topic-{number}", partitions=1)
        samples = interleave({name: _send_side(log, counts[name], count) for name, log in logs.items()}, ROUNDS)
        yield flat_row(f"send, lingering, {many:,} topics", samples, f"{FEW} topics", "µs", 1e6 / count)
        samples = interleave({name: _flush_side(log, counts[name], flushes) for name, log in logs.items()}, ROUNDS)
        yield flat_row(f"send and flush, {many:,} topics", samples, f"{FEW} topics", "µs", 1e6 / flushes)
        samples = interleave({name: _create_side(log) for name, log in logs.items()}, ROUNDS)
        yield flat_row(f"create_topic, {many:,} topics", samples, f"{FEW} topics", "ms", 1e3 / FEW)


def _send_side(log: streamlog.StreamLog, topics: int, count: int) -> Side:
    """Send to each topic in turn while every topic has an open batch, which the linger keeps open."""
    names = [f"topic-{number}" for number in range(topics)]

    def side() -> float:
        before = _records(log, names)
        with log.producer(linger_ms=LONG_LINGER_MS, batch_size=BATCH_BYTES, buffer_memory=BUFFER_BYTES) as producer:
            for name in names:
                producer.send(name, VALUE)
            with stopwatch(time.thread_time) as watch:
                for name in islice(cycle(names), count):
                    producer.send(name, VALUE)
            producer.flush()
        expect("records", _records(log, names) - before, topics + count)
        return watch.seconds

    return side


def _flush_side(log: streamlog.StreamLog, topics: int, count: int) -> Side:
    """Send one record and flush, with a producer that has sent to each topic."""
    names = [f"topic-{number}" for number in range(topics)]

    def side() -> float:
        with log.producer(linger_ms=LONG_LINGER_MS) as producer:
            for name in names:
                producer.send(name, VALUE)
            producer.flush()
            before = _records(log, names[:1])
            with stopwatch(time.thread_time) as watch:
                for _ in range(count):
                    producer.send(names[0], VALUE)
                    producer.flush()
            expect("records", _records(log, names[:1]) - before, count)
        return watch.seconds

    return side


def _records(log: streamlog.StreamLog, names: Sequence[str]) -> int:
    return sum(log[name].partition(0).log_end_offset for name in names)


def _create_side(log: streamlog.StreamLog) -> Side:
    """Create ten topics, which are deleted afterwards."""

    def side() -> float:
        with stopwatch(time.thread_time) as watch:
            for number in range(FEW):
                log.create_topic(f"new-{number}", partitions=1)
        for number in range(FEW):
            log.delete_topic(f"new-{number}")
        return watch.seconds

    return side


def many_partitions(run: Run) -> Iterator[Row]:
    """One record sent, and taken by `poll` and by `next`, by a consumer of 1 and of 5,000 partitions (100)."""
    many = run.size(5_000, 100)
    counts = {"small": 1, "large": many}
    with run.log() as log:
        for name, count in counts.items():
            log.create_topic(name, partitions=count)

        def poll(consumer: streamlog.Consumer) -> int:
            return len(consumer.poll(WAIT_SECONDS, max_records=1))

        def take(consumer: streamlog.Consumer) -> int:
            next(consumer)
            return 1

        for call, collect in (("poll", poll), ("next", take)):
            sides = {name: _collect_side(log, name, count - 1, collect) for name, count in counts.items()}
            samples = interleave(sides, ROUNDS)
            yield flat_row(f"send and {call}, {many:,} partitions", samples, "1 partition", "µs", 1e6 / CALLS)


def _collect_side(
    log: streamlog.StreamLog, topic: str, partition: int, collect: Callable[[streamlog.Consumer], int]
) -> Side:
    """Send a record to one partition and take it with a consumer of all of them, over and over."""

    def side() -> float:
        with log.consumer(topic, auto_offset_reset="latest") as consumer, log.producer() as producer:
            consumer.poll(0.0)
            taken = 0
            with stopwatch(time.thread_time) as watch:
                for _ in range(CALLS):
                    producer.send(topic, VALUE, partition=partition)
                    taken += collect(consumer)
        expect("records taken", taken, CALLS)
        return watch.seconds

    return side


def many_segments(run: Run) -> Iterator[Row]:
    """`seek` with `poll`, and the lookup of a time, in a log of 10 and of 5,000 segments (200)."""
    many = run.size(5_000, 200)
    counts = {"small": FEW, "large": many}
    first_ms = int(time.time() * 1000) - many
    with run.log() as log:
        for name, count in counts.items():
            log.create_topic(name, partitions=1, segment_bytes=SEGMENT_BYTES)
            with log.producer() as producer:
                for number in range(count):
                    producer.send(name, bytes(SEGMENT_BYTES - 200), timestamp_ms=first_ms + number)
            expect("segments", log[name].partition(0).segments, count)
        # As many distinct offsets of each, so that both find the files of what they read as open, or closed, as the other.
        offsets = {name: [number * (count // FEW) for number in range(FEW)] for name, count in counts.items()}
        for work, side_of in (("seek and poll", _seek_side), ("offset of a time", _time_side)):
            sides = {name: side_of(log, name, offsets[name], first_ms) for name in counts}
            samples = interleave(sides, run.rounds)
            yield flat_row(f"{work}, {many:,} segments", samples, f"{FEW} segments", "µs", 1e6 / CALLS)


def _seek_side(log: streamlog.StreamLog, topic: str, offsets: Sequence[int], _: int) -> Side:
    partition = streamlog.TopicPartition(topic, 0)
    asked = list(islice(cycle(offsets), CALLS))

    def side() -> float:
        with log.consumer() as consumer:
            consumer.assign([partition])
            found = []
            with stopwatch(time.thread_time) as watch:
                for offset in asked:
                    consumer.seek(partition, offset)
                    found.append(consumer.poll(WAIT_SECONDS, max_records=1)[0].offset)
        expect("offsets read", found == asked, True)
        return watch.seconds

    return side


def _time_side(log: streamlog.StreamLog, topic: str, offsets: Sequence[int], first_ms: int) -> Side:
    partition = streamlog.TopicPartition(topic, 0)
    asked = list(islice(cycle(offsets), CALLS))

    def side() -> float:
        with log.consumer() as consumer, stopwatch(time.thread_time) as watch:
            found = [consumer.offsets_for_times({partition: first_ms + offset})[partition] for offset in asked]
        expect("offsets found", [at and at.offset for at in found] == asked, True)
        return watch.seconds

    return side


def many_ahead(run: Run) -> Iterator[Row]:
    """`position`, `lag` and `commit` of a member that has taken 10 and 50,000 records ahead of the one it handed out."""
    many = 50_000
    counts = {"small": FEW, "large": many}
    with run.log() as log, fresh_topic(log) as small, fresh_topic(log) as large:
        topics = {"small": small, "large": large}
        for name, topic in topics.items():
            with log.producer(batch_size=16 << 20) as producer:
                producer.send_many(topic, [b"value"] * counts[name])

        def position(consumer: streamlog.Consumer, partition: streamlog.TopicPartition) -> None:
            consumer.position(partition)

        def lag(consumer: streamlog.Consumer, _: streamlog.TopicPartition) -> None:
            consumer.lag()

        def commit(consumer: streamlog.Consumer, _: streamlog.TopicPartition) -> None:
            consumer.commit()

        for call in (position, lag, commit):
            samples = _ahead(run, log, topics, call)
            work = f"{call.__name__}, {many:,} records ahead"
            yield flat_row(work, samples, f"{FEW} ahead", "µs", 1e6 / (FEW - 1))


def _ahead(
    run: Run,
    log: streamlog.StreamLog,
    topics: Mapping[str, str],
    call: Callable[[streamlog.Consumer, streamlog.TopicPartition], None],
) -> Samples:
    """The time of `call` after each of nine records, each of which moves the position that a commit writes."""

    def side_of(topic: str) -> Side:
        partition = streamlog.TopicPartition(topic, 0)

        def side() -> float:
            called = 0.0
            group = f"{topic}-{time.monotonic_ns()}"
            with log.consumer(topic, group=group, enable_auto_commit=False) as consumer, stopwatch():
                for number in range(1, FEW):
                    next(consumer)
                    started = time.thread_time()
                    call(consumer, partition)
                    called += time.thread_time() - started
                    expect("position", consumer.position(partition), number)
            return called

        return side

    return interleave({name: side_of(topic) for name, topic in topics.items()}, run.rounds)
