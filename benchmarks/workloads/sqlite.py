"""sqlite3 with a write-ahead log, in which many programs keep their events. For orientation."""

from collections.abc import Iterator

from benchmarks import baselines
from benchmarks.figures import Row, rate_row
from benchmarks.measure import expect, interleave, stopwatch
from benchmarks.records import chunks, records
from benchmarks.run import Run, fresh_topic
from benchmarks.workloads.consume import fill, poll_side
from benchmarks.workloads.produce import SEND_MANY, send_many_side


def insert_and_select(run: Run) -> Iterator[Row]:
    """`send_many` and `poll` beside sqlite3's insert and select, for orientation."""
    count = run.size(500_000, 100_000)
    keys, values = records(count)
    with run.log() as log, run.scratch("sqlite") as path:
        connection = baselines.sqlite_open(path / "records.db")

        def insert() -> float:
            with connection:
                connection.execute("DELETE FROM records")
            with stopwatch() as watch:
                baselines.sqlite_insert(connection, keys, values)
            return watch.seconds

        def select() -> float:
            size = 0
            with stopwatch() as watch:
                for _key, value in baselines.sqlite_select(connection):
                    size += len(value)
            expect("bytes selected", size, sum(map(len, values)))
            return watch.seconds

        writes = interleave({"streamlog": send_many_side(log, chunks(keys, values)), "sqlite3": insert}, run.rounds)
        with fresh_topic(log) as topic:
            fill(log, topic, keys, values)
            reads = interleave({"streamlog": poll_side(log, topic, values), "sqlite3": select}, run.rounds)
        connection.close()
    counts = {"streamlog": count, "sqlite3": count}
    yield rate_row(SEND_MANY, writes, "sqlite3", counts=counts)
    yield rate_row("poll, Records", reads, "sqlite3", counts=counts)
