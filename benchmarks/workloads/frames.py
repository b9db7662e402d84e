"""Exports to Arrow beside `poll_batches`, and SQL beside DuckDB over a Parquet file of the same columns."""

import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import streamlog
from benchmarks.figures import Row, flat_row, pick, rate_row
from benchmarks.measure import Side, expect, interleave, optional, stopwatch
from benchmarks.records import VALUE_BYTES, records
from benchmarks.run import Run, fresh_topic
from benchmarks.workloads.consume import fill, poll_batches_side
from benchmarks.workloads.scale import TOPIC, build


def _to_arrow_side(log: streamlog.StreamLog, topic: str, count: int) -> Side:
    """Export the keys and values of all records."""

    def side() -> float:
        with stopwatch() as watch:
            table = log[topic].to_arrow(["key", "value"])
        expect("rows exported", table.num_rows, count)
        return watch.seconds

    return side


def arrow(run: Run) -> Iterator[Row]:
    """`to_arrow` of keys and values beside `poll_batches` that touches its columns."""
    count = run.size(1_000_000, 200_000)
    work = "to_arrow, keys and values"
    if optional("pyarrow") is None:
        yield Row(work, "records/s", None, "poll_batches", note="pyarrow is not installed")
        return
    keys, values = records(count)
    with run.log() as log, fresh_topic(log) as topic:
        fill(log, topic, keys, values)
        sides = {
            "to_arrow": _to_arrow_side(log, topic, count),
            "poll_batches": poll_batches_side(log, topic, values),
        }
        samples = interleave(sides, run.rounds)
    yield rate_row(work, samples, "poll_batches", counts=dict.fromkeys(samples, count), goal=0.7, ours="to_arrow")


def _sql_side(log: streamlog.StreamLog, query: str, expected: int) -> Side:
    def side() -> float:
        with stopwatch() as watch:
            found = log.sql(query).fetchall()
        expect("answer", int(found[0][0]), expected)
        return watch.seconds

    return side


def _parquet_side(path: Path, expected: int) -> Side:
    import duckdb

    connection = duckdb.connect()

    def side() -> float:
        with stopwatch() as watch:
            found = connection.execute(f"SELECT sum(octet_length(value)) FROM '{path}'").fetchall()
        expect("answer", int(found[0][0]), expected)
        return watch.seconds

    return side


def sql(run: Run) -> Iterator[Row]:
    """Aggregates of `log.sql`: beside DuckDB over Parquet, of a hundredth of the time, and `count(*)` of a log ten times as large."""
    large = run.size(10_000_000, 1_000_000)
    size = f"{large // 1_000_000}M records"
    if optional("pyarrow") is None or optional("duckdb") is None:
        yield Row(f"sql, sum of lengths, {size}", "ms", None, "DuckDB over Parquet", note="duckdb is not installed")
        return
    import pyarrow.parquet

    first_ms = int(time.time() * 1000) - large
    counts = {"small": large // 10, "large": large}
    with run.scratch("sql") as directory, ExitStack() as stack:
        logs = {}
        for name, count in counts.items():
            build(directory / name, count, first_ms)
            logs[name] = stack.enter_context(streamlog.open(directory / name))
        log, part = logs["large"], large // 100
        parquet = directory / "records.parquet"
        reader = pyarrow.RecordBatchReader.from_stream(log[TOPIC])
        with pyarrow.parquet.ParquetWriter(parquet, reader.schema) as writer:
            for batch in reader:
                writer.write_batch(batch)
        start, end = (f"make_timestamptz({(first_ms + large // 2 + more) * 1000})" for more in (0, part))
        whole = f"SELECT sum(octet_length(value)) FROM {TOPIC}"
        sides = {
            "sql": _sql_side(log, whole, large * VALUE_BYTES),
            "DuckDB over Parquet": _parquet_side(parquet, large * VALUE_BYTES),
            "a hundredth": _sql_side(
                log, f"{whole} WHERE timestamp >= {start} AND timestamp < {end}", part * VALUE_BYTES
            ),
        }
        samples = interleave(sides, run.rounds)
        counted = {
            name: _sql_side(logs[name], f"SELECT count(*) FROM {TOPIC}", count) for name, count in counts.items()
        }
        counting = interleave(counted, run.rounds)
    ms = {name: 1e3 * sorted(each)[len(each) // 2] for name, each in samples.items()}
    yield Row(
        f"sql, sum of lengths, {size}", "ms", ms["sql"], "DuckDB over Parquet", ms["DuckDB over Parquet"], 5.0, at_most=True,
        samples=pick(samples, "sql", "DuckDB over Parquet"),
    )  # fmt: skip
    yield Row(
        f"sql, 1% of the time, {size}", "ms", ms["a hundredth"], "all of it", ms["sql"], 0.05, at_most=True,
        samples=pick(samples, "a hundredth", "sql"),
    )  # fmt: skip
    yield flat_row(f"sql, count(*), {size}", counting, f"{counts['small']:,}", "ms", 1e3)
