"""Values of 1 KiB, measured in bytes instead of records."""

from collections.abc import Iterator

from benchmarks import baselines
from benchmarks.figures import Row, rate_row
from benchmarks.measure import interleave
from benchmarks.records import KEY_BYTES, chunks, records
from benchmarks.run import Run, fresh_topic
from benchmarks.workloads.consume import fill, plain_walk_side, poll_side
from benchmarks.workloads.produce import plain_write_side, send_many_side

VALUE_BYTES = 1024
CHUNK_RECORDS = 1000
MEGABYTE = 1_000_000


def one_kib(run: Run) -> Iterator[Row]:
    """`send_many` and `poll` of 1 KiB values beside the plain file, in MB/s of keys and values."""
    count = run.size(200_000, 40_000)
    keys, values = records(count, VALUE_BYTES)
    with run.log() as log, run.scratch("plain") as directory:
        writes = interleave(
            {
                "streamlog": send_many_side(log, chunks(keys, values, CHUNK_RECORDS)),
                "plain write": plain_write_side(run, keys, values),
            },
            run.rounds,
        )
        with fresh_topic(log) as topic:
            fill(log, topic, keys, values)
            baselines.plain_write(directory / "records", keys, values)
            reads = interleave(
                {
                    "streamlog": poll_side(log, topic, values),
                    "plain walk": plain_walk_side(directory / "records", values),
                },
                run.rounds,
            )
    size = dict.fromkeys((*writes, *reads), count * (KEY_BYTES + VALUE_BYTES))
    yield rate_row(
        "send_many, 1 KiB values", writes, "plain write", counts=size, scale=1 / MEGABYTE, unit="MB/s", goal=0.7
    )
    yield rate_row("poll, 1 KiB values", reads, "plain walk", counts=size, scale=1 / MEGABYTE, unit="MB/s", goal=1.2)
