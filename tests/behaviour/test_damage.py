"""Damage costs the damaged batch and nothing else, and it is named: no wrong record, none silently missing.

Bytes of a small log's segments are flipped, and lengths cut, in the log as `close` left it and as a kill -9 did.
The log lies on a simulated disk, so that each of these is a copy of the same machine.
"""

from __future__ import annotations

import errno
import logging
import random
from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple

import pytest

import streamlog
from streamlog import CorruptRecordError, FormatError, NotLeaderError, StorageError, StreamlogError
from streamlog.testing import FaultyDisk, ManualClock, SimulatedDisk
from tests.sampling import Sampled

PATH = "/data"
FOREVER = (1 << 63) - 1


class Batch(NamedTuple):
    """Where a batch lies, and the records in it: offset → value."""

    file: str
    position: int
    length: int
    records: dict[int, bytes]

    @property
    def offsets(self) -> tuple[int, int]:
        return min(self.records), max(self.records) + 1


class Small(NamedTuple):
    """A log of a few batches in two segments."""

    disk: SimulatedDisk
    batches: list[Batch]
    is_closed: bool

    @property
    def records(self) -> dict[int, bytes]:
        return {offset: value for batch in self.batches for offset, value in batch.records.items()}

    def may_cost(self, victim: Batch) -> tuple[tuple[int, int], ...]:
        """The offsets that damage of one batch may cost. After a kill, nothing but its header tells how far the last went."""
        if self.is_closed or victim is not self.batches[-1]:
            return (victim.offsets,)
        return victim.offsets, (victim.offsets[0], FOREVER)

    @property
    def files(self) -> list[str]:
        return sorted({batch.file for batch in self.batches})

    def without(self, *lost: Batch) -> dict[int, bytes]:
        return {offset: v for batch in self.batches if batch not in lost for offset, v in batch.records.items()}

    def copy(self) -> SimulatedDisk:
        return self.disk.kill()

    def flipped(self, file: str, position: int, bits: int) -> SimulatedDisk:
        disk = self.copy()
        handle = disk.open(file)
        (byte,) = handle.pread(1, position)
        handle.pwrite([bytes([byte ^ bits])], position)
        handle.sync()
        return disk

    def cut(self, file: str, length: int) -> SimulatedDisk:
        disk = self.copy()
        handle = disk.open(file)
        handle.truncate(length)
        handle.sync()
        return disk


def size_of(disk: SimulatedDisk, file: str) -> int:
    return disk.open(file, writable=False).size()


def make(clock: ManualClock, *, close: bool) -> Small:
    disk = SimulatedDisk()
    log = streamlog.open(PATH, disk=disk, clock=clock)
    topic = log.create_topic("t", segment_bytes=1024)
    (directory,) = disk.listdir(f"{PATH}/topics")
    batches: list[Batch] = []

    def sent(values: list[bytes], send: object) -> None:
        segment = max(name for name in disk.listdir(f"{PATH}/topics/{directory}") if name.endswith(".log"))
        file = f"{PATH}/topics/{directory}/{segment}"
        position = sum(batch.length for batch in batches if batch.file == file)
        first = sum(len(batch.records) for batch in batches)
        records = {first + n: value for n, value in enumerate(values)}
        batches.append(Batch(file, position, size_of(disk, file) - position, records))

    sent([b"one"], topic.send(b"one"))
    sent([b"two"], topic.send(b"two", key="k", headers={"h": b"x"}))
    sent([b"a", b"b", b"c"], topic.send_many([b"a", b"b", b"c"], ["k", "l", "k"]))
    sent([b"big" * 160], topic.send(b"big" * 160))  # rolls
    sent([b"four"], topic.send(b"four"))
    sent([b"d", b"e"], topic.send_many([b"d", b"e"]))
    assert len({batch.file for batch in batches}) == 2
    if close:
        log.close()
        return Small(disk, batches, True)
    left = disk.kill()
    log.close()
    return Small(left, batches, False)


@pytest.fixture(params=[True, False], ids=["closed", "killed"])
def small(request: pytest.FixtureRequest, clock: ManualClock) -> Small:
    return make(clock, close=request.param)


class Outcome(NamedTuple):
    """What reading the whole topic came to: the records, and the error that ended it."""

    records: dict[int, bytes]
    error: StreamlogError | None


def read(disk: SimulatedDisk, clock: ManualClock, on_corrupt: str) -> Outcome:
    """Read everything in a log of its own; what reading, or appending after it, raises counts as reported."""
    found: dict[int, bytes] = {}
    try:
        with streamlog.open(PATH, disk=disk, clock=clock) as log:
            for record in log["t"].read(on_corrupt=on_corrupt):
                assert record.offset not in found
                found[record.offset] = record.value
    except StreamlogError as error:
        return Outcome(found, error)
    return Outcome(found, None)


def step(total: int, wanted: int, rng: random.Random) -> Iterator[int]:
    """Every number below `total`, or as many of them as are wanted, from a random one on."""
    stride = max(1, total // wanted)
    return iter(range(rng.randrange(stride), total, stride))


# Flipped bytes


def check_flip(small: Small, clock: ManualClock, victim: Batch, position: int, bits: int) -> None:
    disk = small.flipped(victim.file, position, bits)
    place = f"byte {position} of {victim.file} flipped with {bits:#x}"
    report = streamlog.verify(PATH, disk=disk)
    (problem,) = report.problems
    assert (problem.path, problem.position) == (victim.file, victim.position), place
    assert problem.offsets_lost in small.may_cost(victim), place

    left = disk.kill()
    outcome = read(left, clock, "raise")
    before = {offset: value for offset, value in small.records.items() if offset < victim.offsets[0]}
    assert outcome.records == before, place
    error = outcome.error
    assert isinstance(error, CorruptRecordError), f"{place}: {error!r}"
    assert (error.path, error.position) == (victim.file, victim.position), place
    assert error.expected != error.actual, place

    left = disk.kill()
    assert read(left, clock, "skip") == Outcome(small.without(victim), None), place


@pytest.mark.slow
def test_every_flipped_byte_is_noticed_named_and_costs_its_batch_alone(
    small: Small, clock: ManualClock, rng: random.Random, sampled: Sampled
) -> None:
    """Every third of a batch's bytes is flipped, from a random one on; all by `python -m tests.stress.sweeps`."""
    for victim in small.batches:
        for inside in sampled(step(victim.length, 140, rng), 3):
            check_flip(small, clock, victim, victim.position + inside, rng.randrange(1, 256))


def test_two_damaged_batches_cost_those_two(small: Small, clock: ManualClock) -> None:
    first, second = small.batches[1], small.batches[4]
    disk = small.flipped(first.file, first.position + 30, 1)
    handle = disk.open(second.file)
    handle.pwrite([b"\xff\x00\xff"], second.position + 50)
    assert [problem.offsets_lost for problem in streamlog.verify(PATH, disk=disk).problems] == [
        first.offsets,
        second.offsets,
    ]
    assert read(disk, clock, "skip") == Outcome(small.without(first, second), None)


def test_what_is_skipped_is_logged_with_its_offsets(
    small: Small, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    victim = small.batches[2]
    disk = small.flipped(victim.file, victim.position + victim.length - 1, 0x10)
    with caplog.at_level(logging.ERROR, "streamlog"):
        read(disk, clock, "skip")
    skipped = [record.getMessage() for record in caplog.records if "skipped" in record.getMessage()]
    assert len(skipped) == 1
    assert "t-0: skipped offsets 2 to 4" in skipped[0]
    assert victim.file in skipped[0]
    assert "on_corrupt" not in skipped[0]  # it is what was asked for


def test_a_consumer_raises_on_damage_until_it_seeks_past_it(small: Small, clock: ManualClock) -> None:
    victim = small.batches[1]
    disk = small.flipped(victim.file, victim.position + 40, 0x20)
    with streamlog.open(PATH, disk=disk, clock=clock) as log, log.consumer("t", group="g") as consumer:
        assert [record.value for record in consumer.poll()] == [b"one"]
        for _ in range(2):
            with pytest.raises(CorruptRecordError):
                consumer.poll()
        (place,) = consumer.assignment()
        assert consumer.position(place) == 1
        consumer.seek(place, 2)
        assert [record.offset for record in consumer.until_end()] == [*range(2, len(small.records))]
    with streamlog.open(PATH, disk=disk, clock=clock) as log, log.consumer("t", on_corrupt="skip") as consumer:
        assert {record.offset: record.value for record in consumer.until_end()} == small.without(victim)


# Cut files


def test_a_closed_log_that_was_cut_tells_what_is_missing(
    clock: ManualClock, rng: random.Random, sampled: Sampled
) -> None:
    small = make(clock, close=True)
    for file in small.files:
        for length in sampled(step(size_of(small.disk, file), 150, rng), 3):
            disk = small.cut(file, length)
            lost = [batch for batch in small.batches if batch.file == file and batch.position + batch.length > length]
            report = streamlog.verify(PATH, disk=disk)
            ranges = [problem.offsets_lost for problem in report.problems if problem.offsets_lost is not None]
            assert {offset for low, high in ranges for offset in range(low, high)} >= {
                offset for batch in lost for offset in batch.records
            }, f"{file} cut at {length}: {report}"
            told = read(disk.kill(), clock, "raise")
            assert isinstance(told.error, CorruptRecordError), f"{file} cut at {length}: {told}"
            assert told.error.path == file or not length  # an emptied file is one that is missing
            skipped = read(disk.kill(), clock, "skip")
            assert skipped.records == small.without(*lost), f"{file} cut at {length}"


def test_a_killed_log_that_ends_anywhere_serves_the_whole_batches_and_goes_on(
    clock: ManualClock, sampled: Sampled
) -> None:
    small = make(clock, close=False)
    file = small.files[-1]
    for length in sampled(range(size_of(small.disk, file)), 3):
        disk = small.cut(file, length)
        whole = [batch for batch in small.batches if batch.file != file or batch.position + batch.length <= length]
        kept = {offset: value for batch in whole for offset, value in batch.records.items()}
        assert streamlog.verify(PATH, disk=disk).ok
        with streamlog.open(PATH, disk=disk, clock=clock) as log:
            assert {record.offset: record.value for record in log["t"].read()} == kept, length
            assert log["t"].send(b"next").result().offset == len(kept)
        assert read(disk, clock, "raise") == Outcome({**kept, len(kept): b"next"}, None)
        assert streamlog.verify(PATH, disk=disk).ok


def test_a_sealed_segment_that_was_cut_is_damage_after_a_kill_too(clock: ManualClock, rng: random.Random) -> None:
    small = make(clock, close=False)
    file = small.files[0]
    for length in step(size_of(small.disk, file), 60, rng):
        disk = small.cut(file, length)
        lost = [batch for batch in small.batches if batch.file == file and batch.position + batch.length > length]
        assert not streamlog.verify(PATH, disk=disk).ok
        told = read(disk.kill(), clock, "raise")
        assert isinstance(told.error, CorruptRecordError), f"cut at {length}: {told}"
        assert read(disk.kill(), clock, "skip").records == small.without(*lost), f"cut at {length}"


@pytest.mark.parametrize("which", [0, 1], ids=["first", "last"])
def test_a_missing_segment_is_reported_and_the_other_records_are_read(clock: ManualClock, which: int) -> None:
    small = make(clock, close=True)
    file = small.files[which]
    disk = small.copy()
    disk.unlink(file)
    lost = [batch for batch in small.batches if batch.file == file]
    report = streamlog.verify(PATH, disk=disk)
    assert [problem.offsets_lost for problem in report.problems] == [(lost[0].offsets[0], lost[-1].offsets[1])]
    told = read(disk.kill(), clock, "raise")
    assert isinstance(told.error, CorruptRecordError), told
    assert read(disk.kill(), clock, "skip").records == small.without(*lost)


def test_a_log_whose_end_is_missing_gives_no_offset_twice_however_often_it_is_opened(clock: ManualClock) -> None:
    small = make(clock, close=True)
    disk = small.copy()
    with streamlog.open(PATH, disk=disk, clock=clock) as log:
        acknowledged = log["t"].send(b"after the close").result().offset
        left = disk.kill()
    first = next(batch for batch in small.batches if batch.file == small.files[-1])
    handle = left.open(first.file)
    handle.truncate(first.length)  # between two batches, where nothing of the file itself looks wrong
    handle.sync()
    for _ in range(3):
        told = read(left, clock, "raise")
        assert isinstance(told.error, CorruptRecordError), told
        with streamlog.open(PATH, disk=left, clock=clock) as log, suppress(CorruptRecordError):
            assert log["t"].send(b"next").result().offset > acknowledged


# The other files


@pytest.mark.slow
def test_every_derived_file_may_be_damaged_anywhere_and_nothing_changes(
    small: Small, clock: ManualClock, rng: random.Random
) -> None:
    (directory,) = small.disk.listdir(f"{PATH}/topics")
    derived = [
        f"{PATH}/topics/{directory}/{n}" for n in small.disk.listdir(f"{PATH}/topics/{directory}") if "index" in n
    ]
    derived += [f"{PATH}/{name}" for name in small.disk.listdir(PATH) if name == "published"]
    assert derived
    for file in derived:
        for position in step(size_of(small.disk, file), 100, rng):
            disk = small.flipped(file, position, rng.randrange(1, 256))
            assert read(disk, clock, "raise") == Outcome(small.records, None), f"byte {position} of {file}"
        for length in step(size_of(small.disk, file), 20, rng):
            assert read(small.cut(file, length), clock, "raise") == Outcome(small.records, None), (
                f"{file} cut at {length}"
            )


@pytest.mark.parametrize("name", ["streamlog.json", "partition.state"])
def test_damage_in_what_is_written_down_about_a_log_is_a_typed_error_or_does_no_harm(
    small: Small, clock: ManualClock, rng: random.Random, name: str
) -> None:
    (directory,) = small.disk.listdir(f"{PATH}/topics")
    file = f"{PATH}/{name}" if name in small.disk.listdir(PATH) else f"{PATH}/topics/{directory}/{name}"
    told = 0
    for position in step(size_of(small.disk, file), 250, rng):
        outcome = read(small.flipped(file, position, rng.randrange(1, 256)), clock, "raise")
        if outcome.error is None:
            assert outcome.records == small.records, f"byte {position} of {file}"
        else:
            # NotLeaderError: the id of another broker, which leads nothing here.
            typed = isinstance(outcome.error, (FormatError, CorruptRecordError, NotLeaderError))
            assert typed, f"byte {position}: {outcome.error!r}"
            assert outcome.records.items() <= small.records.items()
            told += 1
    for length in step(size_of(small.disk, file), 30, rng):
        outcome = read(small.cut(file, length), clock, "raise")
        assert outcome.error is None or isinstance(outcome.error, (FormatError, CorruptRecordError)), outcome
        assert outcome.records.items() <= small.records.items()
        assert outcome.error is not None or outcome.records == small.records, f"{file} cut at {length}"
    if name == "streamlog.json":
        assert told, "no damage of the owner file was noticed"


# Putting it right


def test_repair_keeps_everything_but_the_damaged_batch(small: Small, clock: ManualClock, rng: random.Random) -> None:
    for victim in small.batches:
        for inside in step(victim.length, 6, rng):
            disk = small.flipped(victim.file, victim.position + inside, rng.randrange(1, 256))
            before = {file: disk.read(file) for file in small.files}
            report = streamlog.repair(PATH, "/repaired", disk=disk)
            (problem,) = report.problems
            assert problem.offsets_lost in small.may_cost(victim)
            assert {file: disk.read(file) for file in small.files} == before, "repair changed what it was to copy"
            with streamlog.open("/repaired", disk=disk, clock=clock) as log:
                assert {record.offset: record.value for record in log["t"].read()} == small.without(victim)
                assert log["t"].send(b"next").result().offset >= max(small.without(victim)) + 1
            assert streamlog.verify("/repaired", disk=disk).ok


# A disk that cannot be read


def test_a_read_error_under_a_mapping_names_the_file_and_is_no_damage(clock: ManualClock) -> None:
    small = make(clock, close=True)
    disk = FaultyDisk(small.copy())
    with streamlog.open(PATH, disk=disk, clock=clock) as log:
        fault = disk.fail("map_read", errno.EIO, path=small.files[0])
        with pytest.raises(StorageError) as raised:
            list(log["t"].read(on_corrupt="skip"))  # what cannot be read is not skipped: it may be there
        assert fault.fired == 1
        assert (raised.value.path, raised.value.errno) == (small.files[0], errno.EIO)
        assert {record.offset: record.value for record in log["t"].read()} == small.records
