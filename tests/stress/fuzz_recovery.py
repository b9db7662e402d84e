"""Bytes of every kind of file of a small log are changed, and it is opened, read, verified and repaired.

    python -m tests.stress.fuzz_recovery --rounds 20000 --seed 1

Whatever is changed: only a StreamlogError comes out, nothing hangs, memory stays bounded, and no record is served
that was not written. Every third round is hostile: the change of the bytes also makes the checksums right, so then
it is only asked that nothing breaks. A failure prints its round; `--only ROUND` with the same seed does it again.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import random
import resource
import shutil
import signal
import struct
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

from xxhash import xxh3_64_intdigest

import streamlog
from streamlog.errors import StreamlogError
from streamlog.records.batch import FIXED_LEN, seed_of
from streamlog.testing import ManualClock
from tests.times import START_MS

ROUND_S = 60
MEMORY = 64 << 20
_WARM_UP = 100
_HOSTILE = (0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 1 << 62, (1 << 63) - 1, (1 << 64) - 1)
Place = tuple[str, int, int]


class Violation(AssertionError):
    """Something came out that never may."""


@dataclass
class Figures:
    """What a run adds up to."""

    rounds: int = 0
    opened: int = 0
    refused: int = 0
    records: int = 0
    memory: int = 0
    kinds: dict[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        kinds = ", ".join(f"{name} {count:,}" for name, count in sorted(self.kinds.items()))
        return (
            f"{self.rounds:,} rounds, opened {self.opened:,}, refused {self.refused:,}, {self.records:,} records read, "
            f"memory grew by {self.memory >> 20} MiB; files changed: {kinds}"
        )


# -- the log ---------------------------------------------------------------------------------------------


def build(path: Path, *, close: bool) -> dict[Place, Any]:
    """A small log with something of everything; the records it ever had, by place. Left as by a kill unless `close`."""
    clock = ManualClock(start_ms=START_MS)
    log = streamlog.open(path, clock=clock)
    log.create_topic("plain", partitions=2, segment_bytes=2048)
    log.create_topic("table", segment_bytes=1024, cleanup_policy="compact", min_cleanable_dirty_ratio=0.1)
    log.create_topic("packed", segment_bytes=4096)
    log.create_topic("gone")
    log.delete_topic("gone")
    found: dict[Place, Any] = {}
    with log.producer(compression_type="gzip") as packed, log.producer() as producer:
        for n in range(40):
            value, key = b"%d" % n * 30, b"k%d" % (n % 3)
            headers = [("n", b"%d" % n)]
            sent = [producer.send("plain", value, key=key, partition=n % 2, headers=headers)]
            sent.append(producer.send("table", value, key=key))
            found |= {(at.topic, at.partition, at.offset): value for at in (delivery.result() for delivery in sent)}
            if not n % 10:
                values = [b"%d" % m * 50 for m in range(n, n + 10)]
                places = packed.send_many("packed", values).result()
                found |= {(at.topic, at.partition, at.offset): v for at, v in zip(places, values, strict=True)}
            clock.advance(20)
    log["plain"].delete_records({1: 3})
    with log.consumer("plain", group="g") as consumer:
        for _, record in zip(range(9), consumer.until_end(), strict=False):
            consumer.commit(record)
    if close:
        log.close()
    else:
        copy = path.with_name(f"{path.name}-as-killed")
        shutil.copytree(path, copy)
        log.close()
        shutil.rmtree(path)
        copy.rename(path)
    return found


# -- changes ---------------------------------------------------------------------------------------------


def change(rng: random.Random, data: bytearray, other: bytes) -> bytearray:
    """Some of the bytes become others, go, or are new."""
    at = rng.randrange(len(data) + 1)
    length = min(len(data) - at, rng.choice((1, 1, 2, 4, 8, 50, 500, 5000)))
    kind = rng.randrange(9)
    if kind == 0 and at < len(data):
        data[at] ^= 1 << rng.randrange(8)
    elif kind == 1:
        data[at : at + length] = rng.randbytes(length)
    elif kind == 2:
        data[at : at + length] = bytes(length)
    elif kind == 3:
        del data[at:]
    elif kind == 4:
        del data[at : at + length]
    elif kind == 5:
        data[at:at] = rng.choice((bytes(length), rng.randbytes(length), data[at : at + length]))
    elif kind == 6:
        data += rng.choice((bytes(length), rng.randbytes(length), bytes(data[:length])))
    elif kind == 7:
        width = rng.choice((2, 4, 8))
        data[at : at + width] = (rng.choice(_HOSTILE) & ((1 << 8 * width) - 1)).to_bytes(width, "little")
    else:
        data[:] = other
    return data


def seed_at(path: Path) -> int | None:
    """What the checksums of a file in a partition directory are seeded with."""
    topic, _, number = path.parent.name.rpartition("-")
    if topic == "__cluster_metadata":
        return seed_of((1).to_bytes(16, "big"), 0)
    with contextlib.suppress(ValueError):
        return seed_of(bytes.fromhex(topic), int(number))
    return None


def change_hostile(rng: random.Random, path: Path, data: bytearray) -> bytearray:
    """Change a field and make the checksums right."""
    seed = seed_at(path)
    hostile = rng.choice((*_HOSTILE, rng.getrandbits(64), rng.getrandbits(8)))
    if path.suffix == ".log" and seed is not None:
        return _hostile_batch(rng, data, seed, hostile)
    if path.suffix == ".index" and seed is not None and len(data) >= 80:
        at = 4 if rng.random() < 0.3 else 8 * rng.randrange(1, len(data) // 8)
        width = 4 if at == 4 else 8
        data[at : at + width] = (hostile & ((1 << 8 * width) - 1)).to_bytes(width, "little")
        data[64:72] = xxh3_64_intdigest(bytes(data[80:]), seed).to_bytes(8, "little")
        data[72:80] = xxh3_64_intdigest(bytes(data[:72]), seed).to_bytes(8, "little")
    elif path.name == "partition.state":
        for slot in (0, 4096):
            if len(data) >= slot + 76 and any(data[slot : slot + 76]):
                at = slot + rng.choice((8, 36, 44, 52, 60))
                data[at : at + 8] = (hostile & ((1 << 64) - 1)).to_bytes(8, "little")
                data[slot + 68 : slot + 76] = xxh3_64_intdigest(bytes(data[slot : slot + 68])).to_bytes(8, "little")
    elif path.name == "published" and len(data) >= 64:
        slot = 64 * rng.randrange(len(data) // 64)
        at = slot + rng.choice((4, 8, 12, 16, 24, 32, 40, 48, 52))
        data[at : at + 4] = (hostile & 0xFFFFFFFF).to_bytes(4, "little")
        data[slot + 56 : slot + 64] = xxh3_64_intdigest(bytes(data[slot : slot + 56])).to_bytes(8, "little")
    elif path.name == "streamlog.json":
        owner: dict[str, Any] = json.loads(bytes(data))
        owner[rng.choice(list(owner))] = rng.choice((None, -1, 10**30, "x", [], {}, True, [["x"]], 1.5, "ü" * 400))
        return bytearray(json.dumps(owner).encode())
    return data


def _hostile_batch(rng: random.Random, data: bytearray, seed: int, hostile: int) -> bytearray:
    starts = []
    at = 0
    while at + FIXED_LEN < len(data):
        starts.append(at)
        at += max(FIXED_LEN, struct.unpack_from("<I", data, at + 7)[0])
    if not starts:
        return data
    at = rng.choice(starts)
    header_len, batch_len = struct.unpack_from("<HI", data, at + 5)
    if rng.random() < 0.5 and batch_len > header_len:
        place = at + rng.randrange(header_len, batch_len)
        data[place] = hostile & 0xFF
    else:
        offset, width = rng.choice(
            ((4, 1), (5, 2), (7, 4), (23, 4), (27, 8), (35, 4), (39, 4), (43, 4), (47, 8), (55, 8), (63, 4), (67, 8),
             (75, 8), (83, 8), (91, 2), (93, 4), (97, 4), (109, 1), (110, 1), (111, 4), (115, 1), (116, 4))
        )  # fmt: skip
        data[at + offset : at + offset + width] = (hostile & ((1 << 8 * width) - 1)).to_bytes(width, "little")
    header_len, batch_len = struct.unpack_from("<HI", data, at + 5)
    payload = bytes(data[at + header_len : at + batch_len])
    data[at + 15 : at + 23] = xxh3_64_intdigest(payload, seed).to_bytes(8, "little")
    header = bytes(data[at : at + header_len])
    data[at + 11 : at + 15] = (xxh3_64_intdigest(header[:11] + header[15:], seed) & 0xFFFFFFFF).to_bytes(4, "little")
    return data


def kind_of(path: Path) -> str:
    if path.parent.name.startswith("__cluster_metadata"):
        return f"metadata{path.suffix}"
    return path.suffix.lstrip(".") if path.suffix in (".log", ".index") else path.name


def harm(rng: random.Random, path: Path, *, hostile: bool) -> list[Path]:
    """Change one to three files, kinds of files being as likely as each other; which."""
    by_kind: dict[str, list[Path]] = {}
    for file in sorted(file for file in path.rglob("*") if file.is_file()):
        by_kind.setdefault(kind_of(file), []).append(file)
    by_kind.pop("lock", None)
    changed = []
    for _ in range(rng.choice((1, 1, 2, 3))):
        file = rng.choice(by_kind[rng.choice(sorted(by_kind))])
        if not file.is_file() or file.is_symlink():
            continue
        changed.append(file)
        data = bytearray(file.read_bytes())
        if hostile:
            with contextlib.suppress(ValueError, struct.error):
                data = change_hostile(rng, file, data)
            file.write_bytes(data)
        elif rng.random() < 0.06:
            file.unlink()
            _put_a_stranger(rng, file, path.parent / "elsewhere")
        else:
            other = rng.choice([other for others in by_kind.values() for other in others if other.is_file()])
            file.write_bytes(change(rng, data, other.read_bytes()))
    return changed


def _put_a_stranger(rng: random.Random, file: Path, elsewhere: Path) -> None:
    """Nothing, or something that is no regular file, where a file of the log was."""
    kind = rng.choice(("nothing", "pipe", "link", "directory"))
    if kind == "pipe":
        os.mkfifo(file)
    elif kind == "link":
        file.symlink_to(elsewhere)
    elif kind == "directory":
        file.mkdir()


# -- a round ---------------------------------------------------------------------------------------------


def read(log: streamlog.StreamLog, known: dict[Place, Any], figures: Figures, *, hostile: bool) -> None:
    """Everything that can be asked, also past damage."""
    for topic in list(log):
        for how in ({}, {"on_corrupt": "skip"}):
            with contextlib.suppress(StreamlogError):
                for record in log[topic].read(**how):
                    figures.records += 1
                    place = (record.topic, record.partition, record.offset)
                    if not hostile and record.value != b"new" and known.get(place, record) != record.value:
                        raise Violation(f"{place} is {record.value!r}, and was {known.get(place)!r}")
        for ask in (lambda topic: log[topic].partitions, lambda topic: list(log[topic].read(start=START_MS))):
            with contextlib.suppress(StreamlogError):
                ask(topic)
    with contextlib.suppress(StreamlogError):
        for group in log.groups():
            log.group(group.name).committed()


def write(log: streamlog.StreamLog, clock: ManualClock) -> None:
    for topic in list(log):
        with contextlib.suppress(StreamlogError):
            log[topic].send(b"new", key=b"k")
    with contextlib.suppress(StreamlogError):
        clock.advance(60_000)


def one_round(rng: random.Random, template: Path, work: Path, known: dict[Place, Any], figures: Figures) -> list[Path]:
    hostile = rng.random() < 1 / 3
    path, into = work / "log", work / "into"
    shutil.copytree(template, path)
    changed = harm(rng, path, hostile=hostile)
    for file in changed:
        figures.kinds[kind_of(file)] = figures.kinds.get(kind_of(file), 0) + 1
    if rng.random() < 0.3:
        _other_boot(path)
    steps: list[Callable[[], object]] = [
        lambda: str(streamlog.verify(path)),
        lambda: _repaired(path, into, known, figures, hostile=hostile),
        lambda: _opened(path, known, figures, hostile=hostile, read_only=True),
        lambda: _opened(path, known, figures, hostile=hostile),
        lambda: str(streamlog.verify(path)),
    ]
    for step in steps:
        with contextlib.suppress(StreamlogError):
            step()
    return changed


def _other_boot(path: Path) -> None:
    file = path / "streamlog.json"
    if file.is_file() and not file.is_symlink():
        with contextlib.suppress(ValueError, TypeError):
            owner = json.loads(file.read_bytes())
            file.write_text(json.dumps({**owner, "boot_id": "another", "clean": False}))


def _opened(path: Path, known: dict[Place, Any], figures: Figures, *, hostile: bool, read_only: bool = False) -> None:
    clock = ManualClock(start_ms=START_MS + 10_000)
    try:
        log = streamlog.open(path, clock=clock, read_only=read_only)
    except StreamlogError:
        figures.refused += 1
        raise
    try:
        figures.opened += 1
        read(log, known, figures, hostile=hostile)
        if not read_only:
            write(log, clock)
            read(log, known, figures, hostile=hostile)
    finally:
        log.close()


def _repaired(path: Path, into: Path, known: dict[Place, Any], figures: Figures, *, hostile: bool) -> None:
    str(streamlog.repair(path, into))
    if hostile:
        _opened(into, known, figures, hostile=hostile)
        return
    report = streamlog.verify(into)
    if not report.ok:
        raise Violation(f"the repaired log is not whole: {report}")
    with streamlog.open(into, clock=ManualClock(start_ms=START_MS)) as log:
        for topic in log:
            for record in log[topic].read():
                figures.records += 1
                place = (record.topic, record.partition, record.offset)
                if not record.topic.startswith("recovered-") and known.get(place, record) != record.value:
                    raise Violation(f"{place} is {record.value!r} after repair, and was {known.get(place)!r}")


# -- the loop --------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _bounded(seconds: int) -> Iterator[None]:
    """Raise Violation where a round hangs."""

    def ring(_: int, __: Any) -> None:
        raise Violation(f"a round took longer than {seconds} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def resident() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def run(rounds: int, seed: int, work: Path, *, only: int | None = None, until: float | None = None) -> Figures:
    """Raises Violation, or whatever came out that is no StreamlogError, saying which round it was."""
    figures = Figures()
    templates = [
        (work / "closed", build(work / "closed", close=True)),
        (work / "killed", build(work / "killed", close=False)),
    ]
    logging.disable(logging.CRITICAL)
    before = 0
    try:
        for number in range(rounds) if only is None else (only,):
            if until is not None and time.monotonic() > until:
                break
            if number == _WARM_UP:
                before = resident()
            rng = random.Random(f"{seed} {number}")
            template, known = rng.choice(templates)
            place = work / f"round-{number}"
            place.mkdir()
            try:
                with _bounded(ROUND_S):
                    one_round(rng, template, place, known, figures)
            except Exception as error:
                error.add_note(f"seed {seed}, round {number}; the files are in {place}")
                raise
            shutil.rmtree(place)
            figures.rounds += 1
            figures.memory = resident() - before if before else 0
            if figures.memory > MEMORY:
                raise Violation(f"memory grew by {figures.memory >> 20} MiB until round {number} of seed {seed}")
    finally:
        logging.disable(logging.NOTSET)
    return figures


def memory() -> str | None:
    """A directory without a device below it, if there is one: nothing here asks how durable anything is."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2000)
    parser.add_argument("--seconds", type=float, help="end after so long")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    parser.add_argument("--only", type=int, help="this round alone")
    options = parser.parse_args()
    sys.stdout.write(f"seed {options.seed}\n")
    sys.stdout.flush()
    work = Path(tempfile.mkdtemp(prefix="streamlog-fuzz-", dir=memory()))
    until = None if options.seconds is None else time.monotonic() + options.seconds
    figures = run(options.rounds, options.seed, work, only=options.only, until=until)
    shutil.rmtree(work)
    sys.stdout.write(f"{figures}\n{date.today()}, Python {sys.version.split()[0]}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
