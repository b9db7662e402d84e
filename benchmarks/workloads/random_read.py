"""One record at a random offset."""

import random
from collections.abc import Iterator, Sequence

import streamlog
from benchmarks import baselines
from benchmarks.figures import Row, rate_row, skipped
from benchmarks.measure import Side, expect, interleave, optional, stopwatch
from benchmarks.records import KEY_BYTES, VALUE_BYTES, records
from benchmarks.run import Run, fresh_topic
from benchmarks.workloads.consume import WAIT_SECONDS, fill

WORK = "seek and poll at a random offset"
SEALED_SEGMENT_BYTES = 16 << 20


def seek_side(log: streamlog.StreamLog, topic: str, offsets: Sequence[int]) -> Side:
    """Seek to each offset and poll one record there."""
    partition = streamlog.TopicPartition(topic, 0)

    def side() -> float:
        found = []
        with log.consumer() as consumer:
            consumer.assign([partition])
            with stopwatch() as watch:
                for offset in offsets:
                    consumer.seek(partition, offset)
                    found.append(consumer.poll(WAIT_SECONDS, max_records=1)[0].offset)
        expect("offsets read", found == list(offsets), True)
        return watch.seconds

    return side


def random_offsets(run: Run) -> Iterator[Row]:
    """`seek` and `poll` of one record beside an LMDB get, from the active segment and, for orientation, sealed ones."""
    count, lookups = run.size(1_000_000, 200_000), run.size(10_000, 3_000)
    keys, values = records(count)
    offsets = random.Random(count).sample(range(count), lookups)
    gets = [keys[offset] for offset in random.Random(count).choices(range(count), k=20 * lookups)]
    lmdb = optional("lmdb")
    with run.log() as log, fresh_topic(log) as active, fresh_topic(log, segment_bytes=SEALED_SEGMENT_BYTES) as sealed:
        fill(log, active, keys, values)
        fill(log, sealed, keys, values)
        sides = {"streamlog": seek_side(log, active, offsets), "sealed": seek_side(log, sealed, offsets)}
        if lmdb is None:
            samples = interleave(sides, run.rounds)
        else:
            with run.scratch("lmdb") as path:
                environment = baselines.lmdb_open(lmdb, path, count * (KEY_BYTES + VALUE_BYTES))
                baselines.lmdb_putmulti(environment, keys, values)

                def get() -> float:
                    with stopwatch() as watch:
                        size = baselines.lmdb_get(environment, gets)
                    expect("bytes got", size, VALUE_BYTES * len(gets))
                    return watch.seconds

                samples = interleave({**sides, "LMDB get": get}, run.rounds)
                environment.close()
    if lmdb is None:
        yield skipped(WORK, samples, "LMDB get", "lmdb", lookups, "reads/s")
        return
    counts = {"streamlog": lookups, "sealed": lookups, "LMDB get": len(gets)}
    yield rate_row(WORK, samples, "LMDB get", counts=counts, unit="reads/s", goal=0.05)
    yield rate_row(f"{WORK}, sealed segments", samples, "LMDB get", counts=counts, unit="reads/s", ours="sealed")
