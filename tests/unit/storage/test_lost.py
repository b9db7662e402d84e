"""A directory that lost its records is distinguished from an empty one; an empty log can take its place."""

from __future__ import annotations

import pytest

from streamlog.config import TopicConfig
from streamlog.records.batch import seed_of
from streamlog.storage.log import Log
from streamlog.storage.lost import create_empty, is_lost
from streamlog.storage.recovery.recovery import PreviousShutdown, open_log
from streamlog.testing import SimulatedDisk

DIRECTORY, TOPIC_ID, PARTITION = "/p", bytes(range(16)), 3
SEED = seed_of(TOPIC_ID, PARTITION)
SEGMENT = f"{DIRECTORY}/{0:020d}.log"


def opened(disk: SimulatedDisk, *, is_known: bool) -> Log:
    crash = PreviousShutdown(clean=True, same_boot=True)
    return open_log(disk, DIRECTORY, TOPIC_ID, PARTITION, SEED, TopicConfig(), crash, is_known=is_known)


@pytest.fixture
def disk() -> SimulatedDisk:
    """A disk with one partition of seven records, closed."""
    disk = SimulatedDisk()
    log = opened(disk, is_known=False)
    for n in range(7):
        log.append_one(None, b"%d" % n, 0, 0, 0)
    log.close()
    return disk


def lost(disk: SimulatedDisk, *, was_clean: bool) -> bool:
    return is_lost(disk, DIRECTORY, TOPIC_ID, PARTITION, was_clean=was_clean)


def test_a_directory_with_a_segment_is_not_lost(disk: SimulatedDisk) -> None:
    assert not lost(disk, was_clean=True) and not lost(disk, was_clean=False)


@pytest.mark.parametrize("name", [f"{0:020d}-{7:020d}.swap", f"{0:020d}.log.cut-0"])
def test_what_takes_a_segments_place_half_way_is_as_good_as_one(disk: SimulatedDisk, name: str) -> None:
    disk.rename(SEGMENT, f"{DIRECTORY}/{name}")
    assert not lost(disk, was_clean=False)


def test_without_a_segment_the_state_tells_after_a_clean_close_alone(disk: SimulatedDisk) -> None:
    disk.unlink(SEGMENT)
    assert not lost(disk, was_clean=True)
    assert lost(disk, was_clean=False)
    disk.unlink(f"{DIRECTORY}/partition.state")
    assert lost(disk, was_clean=True)


def test_a_directory_that_is_not_there_is_lost(disk: SimulatedDisk) -> None:
    disk.rmtree(DIRECTORY)
    assert lost(disk, was_clean=True)


@pytest.mark.parametrize(
    ("harm", "offset", "start"),
    [("directory", 5, 5), ("segment", 5, 7), ("segment", 9, 9)],
    ids=["nothing is left", "the state knows more", "the state knows less"],
)
def test_an_empty_log_goes_on_at_the_greatest_offset_known(
    disk: SimulatedDisk, harm: str, offset: int, start: int
) -> None:
    disk.unlink(SEGMENT)
    if harm == "directory":
        disk.rmtree(DIRECTORY)
    assert create_empty(disk, DIRECTORY, TOPIC_ID, PARTITION, SEED, offset) == start
    log = opened(disk, is_known=True)
    assert (log.tail.start_offset, log.tail.end_offset, log.durability.recovery_point) == (start, start, start)
    assert log.append_one(None, b"next", 0, 0, 0) == start
