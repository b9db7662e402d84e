"""What each compression codec costs and saves, compared with none. For orientation."""

from collections.abc import Iterator

from benchmarks.figures import Row, rate_row
from benchmarks.measure import interleave, optional
from benchmarks.records import chunks, key, readings
from benchmarks.run import Run
from benchmarks.workloads.consume import fill, poll_side
from benchmarks.workloads.produce import send_many_side

NONE = "none"
BUILT_IN = ("gzip",)
CRAMJAM = ("snappy", "lz4", "zstd")


def compression(run: Run) -> Iterator[Row]:
    """`send_many` and `poll` of JSON readings under each codec; the note says how large they are then."""
    count = run.size(200_000, 20_000)
    rounds = min(run.rounds, 3)
    keys, values = [key(number) for number in range(count)], readings(count)
    codecs = BUILT_IN + (CRAMJAM if optional("cramjam") is not None else ())
    counts = dict.fromkeys((NONE, *codecs), count)
    with run.log() as log:
        writes = interleave(
            {codec: send_many_side(log, chunks(keys, values), compression_type=codec) for codec in counts}, rounds
        )
        topics = {codec: f"readings-{codec}" for codec in counts}
        sizes = {}
        for codec, topic in topics.items():
            log.create_topic(topic, partitions=1)
            fill(log, topic, keys, values, compression_type=codec)
            sizes[codec] = log[topic].partition(0).size_bytes
        reads = interleave({codec: poll_side(log, topic, values) for codec, topic in topics.items()}, rounds)
    for codec in codecs:
        note = f"{sizes[codec] / sizes[NONE]:.0%} of the size"
        yield rate_row(f"send_many, {codec}", writes, NONE, counts=counts, note=note, ours=codec)
        yield rate_row(f"poll, {codec}", reads, NONE, counts=counts, note=note, ours=codec)
