"""The peers. A change here changes every ratio.

Each function does the work of one round; the caller times it. It is the fastest of the idiomatic forms that were tried.
"""

import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from struct import Struct
from typing import Any

LENGTHS = Struct("<II")
BUFFER_BYTES = 1 << 20
MOCK_CONFIG = {"bootstrap.servers": "mock", "test.mock.num.brokers": 1, "acks": "all", "linger.ms": 5, "log_level": 0}


def plain_write(path: Path, keys: Iterable[bytes], values: Iterable[bytes]) -> None:
    """Write the records to a file: two u32 lengths, key, value, through a buffer of 1 MiB, one by one.

    One write of the joined parts per record; three writes of one part each were 15% slower.
    """
    pack = LENGTHS.pack
    with open(path, "wb", buffering=BUFFER_BYTES) as file:
        write = file.write
        for key, value in zip(keys, values, strict=True):
            write(pack(len(key), len(value)) + key + value)


def plain_synced_write(path: Path, keys: Iterable[bytes], values: Iterable[bytes]) -> None:
    """Write the same records to a file, each with one write and one fdatasync before the next begins.

    Without Python's buffer, which would have to be flushed for each record: a fifth faster if syncs cost nothing.
    """
    pack, fdatasync = LENGTHS.pack, os.fdatasync
    with open(path, "wb", buffering=0) as file:
        write, descriptor = file.write, file.fileno()
        for key, value in zip(keys, values, strict=True):
            write(pack(len(key), len(value)) + key + value)
            fdatasync(descriptor)


def plain_walk(path: Path) -> Iterator[tuple[bytes, bytes]]:
    """Yield (key, value) of each record of `plain_write`'s file, read through a buffer of 1 MiB.

    A generator, because `poll` returns records to its caller as well; three reads per record. One read of key and value
    together was a fifth slower. The same loop without a generator varies too much: CPython 3.11 specialises a loop with
    a walrus condition only after eight calls of its function, so it takes from 160 to 280 ns a record.
    """
    unpack = LENGTHS.unpack
    with open(path, "rb", buffering=BUFFER_BYTES) as file:
        read = file.read
        while lengths := read(8):
            key_bytes, value_bytes = unpack(lengths)
            yield read(key_bytes), read(value_bytes)


def sqlite_open(path: Path) -> sqlite3.Connection:
    """A database with a write-ahead log, not synced at commit, with one table keyed by offset."""
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=OFF")
    connection.execute("CREATE TABLE records (record_offset INTEGER PRIMARY KEY, key BLOB, value BLOB)")
    connection.commit()
    return connection


def sqlite_insert(connection: sqlite3.Connection, keys: Sequence[bytes], values: Sequence[bytes]) -> None:
    """Insert the records by one `executemany` in one transaction."""
    with connection:
        connection.executemany("INSERT INTO records VALUES (?, ?, ?)", zip(range(len(keys)), keys, values, strict=True))


def sqlite_select(connection: sqlite3.Connection) -> Iterator[tuple[bytes, bytes]]:
    """A cursor over (key, value) of all records in the order of their offsets."""
    return connection.execute("SELECT key, value FROM records ORDER BY record_offset")


def lmdb_open(lmdb: Any, path: Path, payload_bytes: int) -> Any:
    """An environment large enough for `payload_bytes` and their overhead, not synced at commit."""
    return lmdb.open(str(path), map_size=3 * payload_bytes + (64 << 20), sync=False, metasync=False)


def lmdb_putmulti(environment: Any, keys: Iterable[bytes], values: Iterable[bytes]) -> None:
    """Put the records, whose keys ascend, by one `putmulti` in one transaction.

    With `append=True` LMDB does not search for each key, which is a tenth faster.
    """
    with environment.begin(write=True) as transaction, transaction.cursor() as cursor:
        cursor.putmulti(zip(keys, values, strict=True), append=True)


def lmdb_get(environment: Any, keys: Iterable[bytes]) -> int:
    """Get each of `keys` in one read transaction; return the bytes of the values got."""
    size = 0
    with environment.begin() as transaction:
        get = transaction.get
        for key in keys:
            size += len(get(key))
    return size


def mock_producer(confluent_kafka: Any, queue_records: int) -> Any:
    """A confluent-kafka producer on librdkafka's built-in mock cluster, already connected.

    Its queue is large enough for a whole round, so that it never waits for space.
    """
    producer = confluent_kafka.Producer({**MOCK_CONFIG, "queue.buffering.max.messages": queue_records + 1})
    producer.produce("records", b"value", b"key", partition=0)
    if producer.flush(30):
        raise RuntimeError("librdkafka's mock cluster did not take the first record within 30 seconds")
    return producer


def mock_produce_with_callback(producer: Any, keys: Iterable[bytes], values: Iterable[bytes]) -> int:
    """Produce each record with a delivery callback, then flush; return how many were delivered.

    Callbacks are served every 1,000 records. Serving them after each record, as its guide does, was a tenth slower.
    """
    delivered = 0

    def on_delivery(error: object, _message: object) -> None:
        nonlocal delivered
        delivered += error is None

    produce, poll = producer.produce, producer.poll
    for number, (key, value) in enumerate(zip(keys, values, strict=True)):
        produce("records", value, key, partition=0, on_delivery=on_delivery)
        if not number % 1000:
            poll(0)
    producer.flush(60)
    return delivered


def mock_produce_and_forget(producer: Any, keys: Iterable[bytes], values: Iterable[bytes]) -> int:
    """Produce each record without a callback, then flush; return how many are still queued."""
    produce = producer.produce
    for key, value in zip(keys, values, strict=True):
        produce("records", value, key, partition=0)
    left: int = producer.flush(60)
    return left
