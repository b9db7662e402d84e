"""The core in C under AddressSanitizer and UndefinedBehaviorSanitizer, with batches that were made to do harm; and its references.

    python -m tests.stress.core --rounds 200000 --seed 1

The core is compiled with the sanitizers beside a copy of the package, and a process that has them loaded gives it random
batches: as they are, with bytes changed, and with bytes changed and the checksums made right. What it makes of them is what its
twin in Python makes of them, or nothing. A read or write outside of a buffer, or undefined behaviour, ends the process.

    python -m tests.stress.core --leaks 1000000

Each operation of the core so many times, also where it fails: afterwards there are as many objects and as much memory as before.
"""

from __future__ import annotations

import argparse
import gc
import os
import random
import shutil
import struct
import subprocess
import sys
import sysconfig
import tempfile
import time
from array import array
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from xxhash import xxh3_64_intdigest

from streamlog.broker.fetched import FetchResult
from streamlog.errors import StreamlogError
from streamlog.records import columns, single
from streamlog.records.batch import (
    FIXED_LEN,
    HASH_AT,
    HASHED_FROM,
    MAX_HEADER_LEN,
    SealedBatch,
    python_end_of_whole_batches,
    seed_of,
    stamp,
)
from streamlog.records.columns import records_of
from streamlog.records.core import core
from streamlog.storage.tail import FetchData
from streamlog.types import Record
from tests.kafka_batches import Row, kafka_batch

PACKAGE = Path(columns.__file__).resolve().parents[1]
SEED = seed_of(bytes(16), 0)
FLAGS = ("-O1", "-g", "-fno-omit-frame-pointer", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
# What memory may grow by while each operation runs the second half of its times.
ROOM_BYTES = 1 << 20


class Missing(Exception):
    """No compiler, or one without the sanitizers."""


# -- what the process with the sanitizers does -------------------------------------------------------------------------


def random_rows(rng: random.Random, count: int) -> SealedBatch:
    """Payload form 1, as Kafka's clients send it."""

    def entry() -> bytes | None:
        return None if rng.random() < 0.1 else rng.randbytes(rng.choice([0, 1, 63, 64, 100, 300]))

    named = [("h", b"1")] if rng.random() < 0.1 else []
    spread = rng.choice([0, 1, 300, 1 << 33])
    rows = [Row(1_795_000_000_000 + rng.randrange(spread + 1), entry(), entry(), named) for _ in range(count)]
    return kafka_batch(
        SEED, rows, codec=rng.choice([0] * 9 + [1]), flags=rng.choice([0, 0, 1 << 8, 1 << 9]), knows=rng.random() < 0.5
    )


def random_batch(rng: random.Random, base: int) -> bytes:
    count = rng.choice([1, 1, 2, 3, 15, 16, 17, 300])
    if rng.random() < 0.3:
        rows = random_rows(rng, count)
        return stamp(rows, SEED, base, rng.choice([0, 3]), 1_795_000_000_001) + rows.payload
    width = rng.choice([0, 1, 8, 100, 255, 256, 70_000 if count < 3 else 300])

    def column() -> list[bytes | None] | None:
        if rng.random() < 0.2:
            return None
        return [None if rng.random() < 0.1 else rng.randbytes(rng.choice([width, 5])) for _ in range(count)]

    spread = rng.choice([0, 1, 300, 1 << 33])
    times = [1_795_000_000_000 + rng.randrange(spread + 1) for _ in range(count)]
    sealed = columns.seal(
        SEED,
        column(),
        column(),
        rng.choice([times, times[0]]),
        count=count,
        attributes=rng.choice([0, 0, 1 << 8, 1 << 9, 1 << 10]),
        codec=rng.choice([0] * 9 + [1]),
    )
    return stamp(sealed, SEED, base, rng.choice([0, 3]), 1_795_000_000_001) + sealed.payload


def with_right_checksums(batch: bytearray) -> None:
    header_len: int = struct.unpack_from("<H", batch, 5)[0] if len(batch) > FIXED_LEN else 0
    if not FIXED_LEN < header_len <= min(MAX_HEADER_LEN, len(batch)):
        return
    struct.pack_into("<Q", batch, HASHED_FROM, xxh3_64_intdigest(bytes(batch[header_len:]), SEED))
    hashed = bytes(batch[:HASH_AT]) + bytes(batch[HASHED_FROM:header_len])
    struct.pack_into("<I", batch, HASH_AT, xxh3_64_intdigest(hashed, SEED) & 0xFFFFFFFF)


def harmed(rng: random.Random, batch: bytes) -> bytes:
    """The batch with some bytes changed; every other time with checksums that are right."""
    changed = bytearray(batch)
    for _ in range(rng.choice([1, 1, 2, 5])):
        at = rng.randrange(len(changed)) if rng.random() < 0.5 else rng.randrange(min(len(changed), FIXED_LEN + 40))
        changed[at] = rng.choice([0, 1, 0x7F, 0x80, 0xC4, 0xC6, 0xDD, 0xFF, rng.randrange(256)])
    if rng.random() < 0.1:
        del changed[rng.randrange(1, len(changed)) :]
    if rng.random() < 0.5:
        with_right_checksums(changed)
    return bytes(changed)


def by_python(data: bytes, position: int) -> list[Record[Any, Any]]:
    """The records before the first batch that Python refuses, as the fetcher gives them: it does not go back where a batch that
    was made to do harm has offsets that others have too."""
    found: list[Record[Any, Any]] = []
    with suppress(StreamlogError, ValueError, TypeError):
        for batch in FetchResult(FetchData(data, SEED, "x.log", 0), 0, 0).batches():
            records = list(records_of(Record, "t", 0, batch.columns))
            found += [record for record in records if record.offset >= position]
            position = max(position, batch.next_offset)
    return found


def python_seal(keys: Any, values: Any, times: list[int]) -> Any:
    columns.core, kept = None, columns.core  # type: ignore[attr-defined]
    try:
        return columns.seal(SEED, keys, values, times, count=len(times))
    finally:
        columns.core = kept  # type: ignore[attr-defined]


def fuzz(rounds: int, seed: int) -> int:
    """How many records the core gave."""
    given = 0
    for number in range(rounds):
        rng = random.Random(f"{seed} {number}")
        base = rng.choice([0, 7, 1 << 40, (1 << 62) - 400])
        batches = [random_batch(rng, base + 300 * at) for at in range(rng.choice([1, 2, 3]))]
        if rng.random() < 0.7:
            at = rng.randrange(len(batches))
            batches[at] = harmed(rng, batches[at])
        data, position = b"".join(batches), base + rng.choice([0, 0, 1, 5, 400])
        assert core is not None
        reader = core.RecordReader(
            data, 0, position, SEED, Record, "t", 0, rng.choice([-1, -1, 0, 3]), rng.random() < 0.3
        )
        out: list[Record[Any, Any]] = []
        while True:
            if rng.random() < 0.3:
                batches_taken: list[Any] = []
                reader.take_batches(
                    batches_taken, rng.choice([1, 1000]), rng.random() < 0.5, lambda made, context: made, None
                )
                gathered_keys, gathered_values = core.gather(batches_taken, 3), core.gather(batches_taken, 4)
                for gathered, name in ((gathered_keys, "keys"), (gathered_values, "values")):
                    each = [
                        entry for one in batches_taken for entry in getattr(one, name)() or [None] * one.record_count
                    ]
                    assert (gathered is None) == (not any(getattr(one, name)() for one in batches_taken))
                    if gathered is not None:
                        assert tuple(part and bytes(part) for part in gathered) == columns.buffers(each)
                for kind, name in ((1, "offsets"), (2, "timestamps")):
                    listed = [number for one in batches_taken for number in getattr(one, name)()]
                    assert core.gather(batches_taken, kind).tolist() == listed  # type: ignore[union-attr]
                for taken in batches_taken:
                    keys, values = taken.keys(), taken.values()
                    offsets, times = taken.offsets(), taken.timestamps()
                    out += map(
                        Record._make,
                        zip(
                            ["t"] * len(offsets), [0] * len(offsets), offsets, times, keys or [None] * len(offsets),
                            values or [None] * len(offsets), [()] * len(offsets), strict=True,
                        ),
                    )  # fmt: skip
                    for column, buffers in ((keys, taken.key_buffers()), (values, taken.value_buffers())):
                        assert (column is None) == (buffers is None)
                        if column is not None:
                            assert tuple(each and bytes(each) for each in buffers) == columns.buffers(list(column))
                            assert column[rng.randrange(len(column))] in column
            want = rng.choice([1, 3, 1000])
            if reader.take(out, want) < want:
                break
        end = rng.randrange(len(data) + 9)
        assert core.end_of_whole_batches(data, 0, end) == python_end_of_whole_batches(data, 0, end)
        for find in (core.find_batch(data, SEED, position), core.find_batch(data, SEED, base + 450)):
            assert find is None or find[0] < len(data)
        expected = by_python(data, position)
        assert out == expected[: len(out)], f"round {number} of seed {seed}: the core gave what Python does not give"
        given += len(out)
        rows = [
            (rng.choice([None, b"k"]), rng.randbytes(rng.choice([0, 9, 300])), rng.choice([5, 1 << 40]))
            for _ in out[:20]
        ]
        packed = core.PackedRows()
        for row in rows:
            packed.append(row)
        assert packed[:] == rows, f"round {number} of seed {seed}: the rows of a batch are not those that joined it"
        made = columns.seal_rows(SEED, packed, rng.randint(0, len(rows) + 1), 0)
        if made is not None:
            keys, values, times = (list(column) for column in zip(*rows[: made[0].record_count], strict=True))
            expected = python_seal(None if set(keys) == {None} else keys, values, times)
            assert made[0] == expected, f"round {number} of seed {seed}: rows are sealed in another way than columns"
        key, value = rng.choice([None, rng.randbytes(300)]), rng.randbytes(rng.choice([0, 255, 256, 70_000]))
        one = (SEED, key, value, 5, base, 3, 7)
        assert core.encode_one(*one) == single.python_encode_one(*one)
    return given


# -- the process that starts it ----------------------------------------------------------------------------------------


def sanitized(work: Path) -> Mapping[str, str]:
    """Compile the core with the sanitizers beside a copy of the package; the environment of a process that uses it."""
    compiler = shutil.which("cc")
    if compiler is None:
        raise Missing("no C compiler `cc` was found")
    runtime = subprocess.run(
        [compiler, "-print-file-name=libasan.so"], check=True, capture_output=True, text=True
    ).stdout.strip()
    if not Path(runtime).is_absolute():
        raise Missing("the compiler has no libasan.so")
    package = work / "streamlog"
    shutil.copytree(PACKAGE, package, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    include, suffix = sysconfig.get_paths()["include"], sysconfig.get_config_var("EXT_SUFFIX")
    made = subprocess.run(
        [compiler, *FLAGS, "-shared", "-fPIC", f"-I{include}", package / "_core.c", "-o", package / f"_core{suffix}"],
        check=False,
        capture_output=True,
        text=True,
    )
    if made.returncode:
        raise Missing(f"the core could not be compiled with the sanitizers: {made.stderr}")
    return os.environ | {
        "PYTHONPATH": os.pathsep.join([str(work), str(Path(__file__).resolve().parents[2])]),
        "LD_PRELOAD": runtime,
        "PYTHONMALLOC": "malloc",  # else a byte after an object's end is one of the interpreter's
        "ASAN_OPTIONS": "detect_leaks=0",  # the interpreter frees little when it ends; see --leaks
        "STREAMLOG_PURE": "0",
    }


def run(rounds: int, seed: int) -> str:
    """What the process printed. Raises AssertionError if a sanitizer, or a comparison, has found something; Missing."""
    with tempfile.TemporaryDirectory() as work:
        environment = sanitized(Path(work))
        done = subprocess.run(
            [sys.executable, "-m", "tests.stress.core", "--child", "--rounds", str(rounds), "--seed", str(seed)],
            check=False,
            capture_output=True,
            text=True,
            env=environment,
            cwd=work,
        )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


# -- references --------------------------------------------------------------------------------------------------------


class Open:
    """As much of a batch as `SendMethod` needs."""

    __slots__ = ("closed", "limit", "rows", "size")

    def __init__(self) -> None:
        assert core is not None
        self.rows = core.PackedRows()
        self.size, self.limit, self.closed = 0, 25, False


class Sent:
    """As much of a delivery."""

    __slots__ = ("_batch", "_index")


class Queue:
    """As much of the queue of a partition."""

    __slots__ = ("batch_records", "queue")

    def __init__(self) -> None:
        self.queue, self.batch_records = deque([Open()]), 100

    def filled(self, batch: Open, index: int) -> None:
        self.queue[-1] = Open()


class Cached:
    """As much of what a producer knows of a topic."""

    __slots__ = ("lingering", "max_size")

    def __init__(self) -> None:
        self.lingering, self.max_size = Queue(), 1000


class Sender:
    """As much of a producer, which knows the topic "t"."""

    __slots__ = ("_now_ns", "_topics")

    def __init__(self) -> None:
        self._topics, self._now_ns = {"t": Cached()}, time.time_ns

    def send(self, topic: str, value: Any, key: Any = None, *, partition: int | None = None) -> None: ...

    def general(self, topic: str, value: Any, key: Any, headers: Any, partition: Any, timestamp_ms: Any) -> None: ...


def operations() -> dict[str, Callable[[], object]]:
    """One call of everything, also where it raises."""
    assert core is not None
    c = core
    keys: list[bytes | None] = [b"k1", None, b"k3"]
    values: list[bytes | None] = [b"a" * 300, b"", None]
    sealed = columns.seal(SEED, keys, values, [5, 900, 7], count=3)
    data = stamp(sealed, SEED, 10, 0, 5) + sealed.payload
    without_keys = columns.seal(SEED, None, [b"a", b"b"], 5, count=2)
    unkeyed = stamp(without_keys, SEED, 10, 0, 5) + without_keys.payload
    sealed_rows = kafka_batch(SEED, [Row(5, key, value) for key, value in zip(keys, values, strict=True)])
    rows = stamp(sealed_rows, SEED, 10, 0, 5) + sealed_rows.payload
    with_headers = kafka_batch(SEED, [Row(5, b"k", b"v"), Row(9, b"k", b"v", [("h", b"")])])
    unusual_rows = stamp(with_headers, SEED, 10, 0, 5) + with_headers.payload
    damaged = data[:-1] + bytes([data[-1] ^ 1])

    def reader(of: bytes = data, position: int = 0) -> Any:
        return c.RecordReader(of, 0, position, SEED, Record, "t", 0, -1, False)

    of_batch = list(zip(keys, values, [5, 900, 7], strict=True))
    send = c.SendMethod(Sender.send, Sender.general, Sender, Cached, Queue, Open, Sent, 8)
    sender = Sender()

    def packed(*more: tuple[Any, ...]) -> Any:
        made = c.PackedRows()
        for row in (*of_batch, *more):
            made.append(row)
        return made

    found = array("q", range(20))
    batch = reader().next_batch()
    column = batch.values()

    def raises(call: Callable[[], object]) -> Callable[[], object]:
        def tried() -> None:
            with suppress(TypeError, ValueError, IndexError):
                call()

        return tried

    return {
        "seal": lambda: c.seal(SEED, keys, values, [5, 900, 7], 3),
        "seal, unusual": lambda: c.seal(SEED, [bytearray()], None, 5, 1),
        "seal, wrong": raises(lambda: c.seal("x", keys, values, 5, 3)),  # type: ignore[arg-type]
        "PackedRows": lambda: packed().seal(SEED, 3),
        "PackedRows, at one time": lambda: packed().seal(SEED, 1),
        "PackedRows, unusual": lambda: packed((b"k", b"v", 1, (("h", b"1"),))).seal(SEED, 4),
        "PackedRows, wrong": raises(lambda: packed().seal("x", 3)),  # type: ignore[arg-type]
        "PackedRows, no row": raises(lambda: packed((b"k", b"v"))),
        "PackedRows, read": lambda: (packed((b"k", b"v", 1, (("h", b"1"),)))[:], packed()[1], len(packed())),
        "PackedRows, no such row": raises(lambda: packed()[7]),
        "send": lambda: send(sender, "t", b"v", b"k"),
        "send, with a key by name": lambda: send(sender, "t", b"v", key=b"k"),
        "send, in Python": lambda: send(sender, "t", b"v"),
        "send, with more": lambda: send(sender, "t", b"v", b"k", partition=1),
        "send, to no topic": lambda: send(sender, "another", b"v", b"k"),
        "send, wrong": raises(lambda: send(sender)),
        "encode_one": lambda: c.encode_one(SEED, b"k", b"v" * 300, 5, 6, 7, 8),
        "encode_one, sequenced": lambda: c.encode_one(SEED, None, b"v", 5, 6, 7, 8, 9, 1, 2, 0),
        "encode_one, wrong": raises(lambda: c.encode_one(SEED, b"k", None, 5, 6, 7, 8)),  # type: ignore[arg-type]
        "encode_one, of another seed": raises(lambda: c.encode_one("x", b"k", b"v", 5, 6, 7, 8)),  # type: ignore[arg-type]
        "take": lambda: reader().take([], 10),
        "take, a part": lambda: reader(data, 11).take([], 1),
        "take, damaged": lambda: reader(damaged).take([], 10),
        "take, wrong": raises(lambda: reader().take((), 1)),
        "reader, wrong": raises(lambda: c.RecordReader(data, 0, 0, SEED, list, "t", 0, -1, False)),  # type: ignore[arg-type]
        "next_batch": lambda: reader().next_batch(),
        "take, rows": lambda: reader(rows).take([], 2),
        "take, unusual rows": lambda: reader(unusual_rows).take([], 2),
        "next_batch, rows": lambda: reader(rows + data).next_batch(),
        "next_batch, damaged": lambda: reader(damaged).next_batch(),
        "take_batches": lambda: reader().take_batches([], 10, False, lambda made, context: made, None),
        "take_batches, failing": raises(
            lambda: reader().take_batches([], 10, False, lambda made, context: made[0], None)
        ),
        "take_batches, wrong": raises(lambda: reader().take_batches([], 10, False, None)),
        "end_of_whole_batches": lambda: c.end_of_whole_batches(data, 0, 1000),
        "end_of_whole_batches, wrong": raises(lambda: c.end_of_whole_batches("text", 0, 1000)),  # type: ignore[arg-type]
        "reader, of text": raises(lambda: c.RecordReader("text", 0, 0, SEED, Record, "t", 0, -1, False)),  # type: ignore[arg-type]
        "bisect_offsets": lambda: (c.bisect_offsets(found, 5), c.bisect_offsets(found, 1 << 70)),
        "bisect_offsets, wrong": raises(lambda: c.bisect_offsets([], 1)),  # type: ignore[arg-type]
        "find_batch": lambda: (c.find_batch(data, SEED, 11), c.find_batch(damaged, SEED, 99)),
        "find_batch, wrong": raises(lambda: c.find_batch("text", SEED, 11)),  # type: ignore[arg-type]
        "columns": lambda: (batch.keys(), batch.offsets(), batch.timestamps(), batch.headers()),
        "column, listed": lambda: list(column),
        "column, at": lambda: (column[2], column[-1], column[1:], batch.values()[0]),
        "column, past the end": raises(lambda: column[3]),
        "column, as a list": lambda: (column == values, repr(column), column.count(b""), column.__reduce__()),
        "buffers": lambda: (batch.key_buffers(), batch.value_buffers()),
        "gather": lambda: [c.gather([batch, batch], kind) for kind in (1, 2, 3, 4)],
        "gather, absent": lambda: c.gather([reader(unkeyed).next_batch()], 3),  # type: ignore[list-item]
        "gather, wrong": raises(lambda: c.gather([batch, 5], 3)),  # type: ignore[list-item]
        "buffers, absent": lambda: reader(unkeyed).next_batch().key_buffers(),
        "column, a part of it listed": lambda: next(iter(column)),
    }


def anonymous_memory() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return 1024 * int(line.split()[1])
    raise AssertionError("no RssAnon in /proc/self/status")


def leaks(times: int) -> list[str]:
    """The operations after which there were more objects, or more memory, than before."""
    found = []
    for name, operation in operations().items():
        for _ in range(times // 2):
            operation()
        gc.collect()
        blocks, memory = sys.getallocatedblocks(), anonymous_memory()
        for _ in range(times // 2):
            operation()
        gc.collect()
        more, grown = sys.getallocatedblocks() - blocks, anonymous_memory() - memory
        if more > max(100, times // 100) or grown > ROOM_BYTES:
            found.append(f"{name}: {more} more blocks, {grown} more bytes after {times // 2} times")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=200_000)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--leaks", type=int, metavar="TIMES", default=0)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    seed = random.SystemRandom().randrange(1 << 32) if options.seed is None else options.seed
    if options.child:
        print(fuzz(options.rounds, seed), "records")
    elif options.leaks:
        found = leaks(options.leaks)
        print(
            "\n".join(found) or f"{len(operations())} operations, {options.leaks} times each: nothing is left of them"
        )
        sys.exit(bool(found))
    else:
        print(
            f"--rounds {options.rounds} --seed {seed}: {run(options.rounds, seed).strip()}, nothing found", flush=True
        )


if __name__ == "__main__":
    main()
