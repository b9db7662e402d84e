"""The input of the benchmarks: keys and values, made once before any clock starts."""

import random
from collections.abc import Iterator, Sequence
from functools import lru_cache

KEY_BYTES = 8
VALUE_BYTES = 100
CHUNK_RECORDS = 10_000
"""How many records one `send_many` gets: enough to fill batches, and as few as a program that streams would send."""

Chunk = tuple[Sequence[bytes], Sequence[bytes]]


@lru_cache(maxsize=1)
def records(count: int, value_bytes: int = VALUE_BYTES) -> tuple[list[bytes], list[bytes]]:
    """`count` distinct keys in ascending order and as many random values.

    LMDB is fastest with ascending keys. Only the last input is cached: a benchmark uses one, and two would double the
    memory.
    """
    source = random.Random(count * value_bytes)
    return [key(number) for number in range(count)], [source.randbytes(value_bytes) for _ in range(count)]


def key(number: int) -> bytes:
    """The key of record `number`."""
    return number.to_bytes(KEY_BYTES, "big")


def chunks(keys: Sequence[bytes], values: Sequence[bytes], size: int = CHUNK_RECORDS) -> list[Chunk]:
    """The same records as lists of at most `size`: what one `send_many` call gets."""
    return [(keys[at : at + size], values[at : at + size]) for at in range(0, len(keys), size)]


def large_log_chunks(count: int) -> Iterator[tuple[int, Chunk]]:
    """`count` records as (number of the first, chunk), of which one is in memory at a time.

    The values repeat from chunk to chunk, because no benchmark looks into them; the keys do not.
    """
    source = random.Random(count)
    values = [source.randbytes(VALUE_BYTES) for _ in range(CHUNK_RECORDS)]
    for first in range(0, count, CHUNK_RECORDS):
        size = min(CHUNK_RECORDS, count - first)
        yield first, ([key(first + number) for number in range(size)], values[:size])


def readings(count: int) -> list[bytes]:
    """JSON values of about 100 bytes that resemble each other, as readings of sensors do, so that they can be compressed."""
    source = random.Random(count)
    line = '{{"sensor": "roof-{}", "unit": "celsius", "reading": {:.3f}, "battery": {}, "status": "{}", "seq": {}}}'
    return [
        line.format(
            source.randrange(32),
            source.gauss(18, 4),
            source.randrange(100),
            source.choice(("ok", "ok", "ok", "late", "retry")),
            number,
        ).encode()
        for number in range(count)
    ]
