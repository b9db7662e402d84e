"""A partition directory on its own: written, reopened as after a crash, read back, checked when the test ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from streamlog.broker.reading import ReadableLog
from streamlog.config import TopicConfig
from streamlog.errors import CorruptRecordError
from streamlog.records import columns
from streamlog.records.batch import seed_of
from streamlog.records.decode import decode
from streamlog.replication.partition import Partition
from streamlog.runtime.disk import OsDisk
from streamlog.runtime.threads import new_lock
from streamlog.storage.log import AppendRequest, Log
from streamlog.storage.recovery.recovery import PreviousShutdown, open_log
from streamlog.storage.verify.check import Checked, CheckRequest, check_partition
from streamlog.types import HeaderTuple, SegmentInfo, TopicPartition

NOW = 1_700_000_000_000
TOPIC_ID = bytes(range(16))
PARTITION = 3
SEED = seed_of(TOPIC_ID, PARTITION)
CLEAN = PreviousShutdown(clean=True, same_boot=True)
KILLED = PreviousShutdown(clean=False, same_boot=True)
POWER_LOST = PreviousShutdown(clean=False, same_boot=False)


class Entry(NamedTuple):
    """A record as a test compares it."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: tuple[Any, ...] = ()


class Box:
    """One partition directory and what a test does to it."""

    def __init__(self, path: Path, **config: Any) -> None:
        self.path = path
        self.disk: Any = OsDisk()
        self.config = TopicConfig(**config)
        self.now = NOW
        self.log = self.open(CLEAN)

    # -- life ----------------------------------------------------------------------------------------

    def open(self, crash: PreviousShutdown = CLEAN) -> Log:
        self.log = open_log(self.disk, str(self.path), TOPIC_ID, PARTITION, SEED, self.config, crash)
        self.forget_high_watermark()
        return self.log

    def forget_high_watermark(self) -> None:
        """After the log was truncated by itself."""
        self._partition = Partition(TopicPartition("t", PARTITION), TOPIC_ID, self.log, new_lock)

    @property
    def partition(self) -> Partition:
        """The partition over the log. Tests append to the log itself, so the high watermark follows here."""
        self._partition.maybe_advance_high_watermark()
        return self._partition

    def close(self) -> None:
        self.log.close()
        self.log.release()

    def reopen(self, crash: PreviousShutdown = CLEAN) -> Log:
        """Close and open again; or, with a crash, release the files without a close and open what is there."""
        if crash.clean:
            self.close()
        else:
            self.log.release()
        return self.open(crash)

    # -- writing -------------------------------------------------------------------------------------

    def append(self, *values: bytes | None, keys: Sequence[bytes | None] | None = None, **options: Any) -> int:
        """One batch of these values; its base offset."""
        return self.log.append(self.write(*values, keys=keys, **options), 0, self.now)

    def write(
        self,
        *values: bytes | None,
        keys: Sequence[bytes | None] | None = None,
        timestamps: Sequence[int] | int | None = None,
        headers: Sequence[HeaderTuple] | None = None,
        **options: Any,
    ) -> AppendRequest:
        times = self.now if timestamps is None else timestamps
        return AppendRequest([columns.seal(SEED, keys, values, times, headers, count=len(values), **options)])

    # -- reading -------------------------------------------------------------------------------------

    def read(self, start: int | None = None, *, skip: bool = False, reader: ReadableLog | None = None) -> list[Entry]:
        """Every record from `start` on, batch after batch as a consumer gets them."""
        reader = reader or self.log.reader
        end = reader.tail.end_offset
        offset = reader.tail.start_offset if start is None else start
        found: list[Entry] = []
        while offset < end:
            try:
                offset = self._read_chunk(reader, offset, end, found)
            except CorruptRecordError:
                if not skip:
                    raise
                offset = reader.after_damage(max(offset, found[-1].offset + 1 if found else offset), end)
        return found

    def _read_chunk(self, reader: ReadableLog, offset: int, end: int, found: list[Entry]) -> int:
        from streamlog.records.batch import read_header, verify_payload

        chunk = reader.fetch(offset, 1 << 16, end)
        assert chunk.data, f"nothing at {offset}, though the log ends at {end}"
        at = 0
        while at < len(chunk.data):
            header = read_header(chunk.data, at, chunk.seed, chunk.path, chunk.position + at)
            payload = memoryview(chunk.data)[at + header.header_len : at + header.batch_len]
            verify_payload(header, payload, chunk.seed, chunk.path, chunk.position + at)
            full = decode(header, chunk.data, at).all()
            found += [Entry(*row) for row in zip(*full, strict=True) if offset <= row[0] < end]
            at += header.batch_len
            offset = max(offset, header.next_offset)
        return offset

    def sealed(self) -> list[SegmentInfo]:
        """What a retention policy sees: the sealed segments, oldest first."""
        return [segment.info() for segment in self.log.tail.segments[:-1]]

    def values(self, *, skip: bool = False) -> list[bytes | None]:
        return [entry.value for entry in self.read(skip=skip)]

    def table(self) -> dict[bytes | None, bytes | None]:
        """Key → last value, without deleted keys: what compaction must never change."""
        made: dict[bytes | None, bytes | None] = {}
        for entry in self.read():
            made[entry.key] = entry.value
        return {key: value for key, value in made.items() if value is not None}

    # -- files ---------------------------------------------------------------------------------------

    def names(self) -> list[str]:
        return sorted(file.name for file in self.path.iterdir())

    def logs(self) -> list[Path]:
        return sorted(self.path.glob("*.log"))

    def check(self, crash: PreviousShutdown = KILLED, **changes: Any) -> Checked:
        question = CheckRequest(str(self.path), TOPIC_ID, PARTITION, SEED, crash, self.config.compacts)
        return check_partition(OsDisk(), question._replace(**changes))

    def problems(self, crash: PreviousShutdown = KILLED) -> list[Any]:
        return [finding for finding in self.check(crash).findings if not finding.is_note]


@pytest.fixture
def box(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Callable[..., Box]]:
    """`box(**topic_config)` is an empty log; every one is checked when the test ends, unless it is marked `damaged`."""
    made: list[Box] = []

    def make(**config: Any) -> Box:
        made.append(Box(tmp_path / f"p{len(made)}", **config))
        return made[-1]

    yield make
    if request.node.get_closest_marker("damaged") is None:
        for each in made:
            found = each.check()
            assert not [finding for finding in found.findings if not finding.is_note], found
    for each in made:
        each.log.release()


def six_segments(make: Callable[..., Box], **config: Any) -> Box:
    """Six batches with two keys in turn, each in a segment of its own."""
    b = make(segment_bytes=1024, **config)
    for n in range(6):
        b.append(b"%d" % n * 600, keys=[b"k%d" % (n % 2)])
    return b


def four_segments(make: Callable[..., Box], *, synced: int = 0) -> tuple[Box, list[bytes | None]]:
    """Eight batches, two a segment; the recovery point is after the first `synced` segments. Released without a close."""
    b = make(segment_bytes=1500)
    values: list[bytes | None] = [b"%d" % n * 500 for n in range(8)]
    for n, value in enumerate(values):
        b.append(value)
        if n == 2 * synced:
            b.log.durability.sync_sealed(b.log.tail)
    assert len(b.logs()) == 4
    assert b.log.durability.recovery_point == 2 * synced
    b.log.release()
    return b, values
