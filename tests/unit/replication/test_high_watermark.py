"""The high watermark never goes back, and is never past what it promises: the end of the log, or what is on the device."""

from __future__ import annotations

import contextlib
import errno
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamlog.config import TopicConfig
from streamlog.errors import ClosedError, NotLeaderError, StreamlogError
from streamlog.records import columns
from streamlog.records.batch import seed_of
from streamlog.replication.commit import GroupCommit
from streamlog.replication.partition import Partition
from streamlog.replication.replica_set import PartitionRegistration
from streamlog.runtime.api import Completion
from streamlog.runtime.threads import new_lock
from streamlog.storage.log import AppendRequest, Log
from streamlog.storage.recovery.recovery import PreviousShutdown, open_log
from streamlog.testing import FaultyDisk
from streamlog.types import TopicPartition
from tests.unit.replication.pair import LED_BY_1, Pair

NOW = 1_700_000_000_000
TOPIC_ID = bytes(16)
SEED = seed_of(TOPIC_ID, 0)
NAME = TopicPartition("t", 0)


def open_on(disk: FaultyDisk, path: str) -> Log:
    return open_log(disk, path, TOPIC_ID, 0, SEED, TopicConfig(segment_bytes=1024), PreviousShutdown(True, True))


def write(records: int) -> AppendRequest:
    return AppendRequest([columns.seal(SEED, None, [b"x" * 200] * records, NOW, count=records)])


STEPS = st.lists(
    st.sampled_from(["append", "append_one", "sync", "drive", "maintain", "delete", "advance", "settle", "fail"]),
    max_size=30,
)


@pytest.mark.parametrize("durable", [False, True])
@given(steps=STEPS)
@settings(max_examples=60, deadline=None)
def test_it_never_goes_back_and_never_runs_ahead(durable: bool, steps: list[str]) -> None:
    with TemporaryDirectory() as directory:
        disk = FaultyDisk()
        log = open_on(disk, f"{directory}/p")
        partition = Partition(NAME, TOPIC_ID, log, new_lock, durable=durable)
        promised: list[tuple[int, Completion[int]]] = []
        highest = partition.high_watermark
        for step in steps:
            with contextlib.suppress(StreamlogError):
                if step == "append":
                    request = write(2)
                    end = partition.append(request, NOW) + 2
                    promised.append((end, partition.acknowledge(request)))
                elif step == "append_one":
                    end = partition.append_one(None, b"x", NOW, NOW) + 1
                    promised.append((end, partition.await_high_watermark(end, end)))
                elif step == "sync":
                    partition.commit.sync()
                elif step == "drive":
                    partition.commit.drive()
                elif step == "maintain":
                    partition.maintenance.step(NOW)
                elif step == "delete":
                    partition.delete_records(partition.high_watermark)
                elif step == "advance":
                    partition.maybe_advance_high_watermark()
                elif step == "settle":
                    partition.settle(write(1))
                else:
                    disk.fail("sync", errno.EIO, path="*.log")
            assert partition.high_watermark >= highest
            highest = partition.high_watermark
            assert highest <= log.tail.end_offset
            assert highest == (log.durability.synced_end if durable else log.tail.end_offset)
            for end, promise in promised:
                assert not promise.done() or promise.error() is not None or end <= highest
                assert promise.done() or end > highest
        log.release()


def test_a_record_that_an_interrupt_follows_is_below_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The log has published the record, and the interrupt comes before the partition's next step."""
    log = open_on(FaultyDisk(), str(tmp_path / "p"))
    partition = Partition(NAME, TOPIC_ID, log, new_lock)
    append, append_one = log.append, log.append_one

    def interrupted(call):  # type: ignore[no-untyped-def]
        def then_interrupt(*args):  # type: ignore[no-untyped-def]
            call(*args)
            raise KeyboardInterrupt

        return then_interrupt

    monkeypatch.setattr(log, "append", interrupted(append))
    monkeypatch.setattr(log, "append_one", interrupted(append_one))
    with pytest.raises(KeyboardInterrupt):
        partition.append(write(2), NOW)
    assert partition.high_watermark == 2
    with pytest.raises(KeyboardInterrupt):
        partition.append_one(None, b"x", NOW, NOW)
    assert partition.high_watermark == 3
    log.release()


def test_one_that_an_interrupt_left_behind_is_raised_by_the_next_call_and_wakes_readers(tmp_path: Path) -> None:
    log = open_on(FaultyDisk(), str(tmp_path / "p"))
    partition = Partition(NAME, TOPIC_ID, log, new_lock)
    woken: list[int] = []
    partition.waiters.add(lambda: woken.append(partition.high_watermark))
    log.append(write(2), 0, NOW)
    assert partition.high_watermark == 0
    partition.maybe_advance_high_watermark()
    assert woken == [2]
    log.release()


def test_what_waits_for_it_has_a_deadline(tmp_path: Path) -> None:
    log = open_on(FaultyDisk(), str(tmp_path / "p"))
    partition = Partition(NAME, TOPIC_ID, log, new_lock, durable=True)
    partition.append(write(2), NOW)
    late = partition.await_high_watermark(2, 0, NOW + 5, ClosedError("late"))
    partition.purgatory.expire(NOW + 5)
    partition.commit.drive()
    assert partition.high_watermark == 2
    assert isinstance(late.error(), ClosedError)
    log.release()


def test_a_leader_with_sync_that_becomes_a_follower_meanwhile_does_not_raise_it_by_its_own_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another thread has it follow between two steps of the look at what the in-sync replicas have."""
    pair = Pair(tmp_path, durable=True)
    pair.send()
    leader = pair.leader
    leader.commit.sync()
    pair.fetcher.step(0)
    pair.send()
    leader.commit.sync()
    assert (leader.high_watermark, leader.commit.synced_end) == (1, 2)
    leader.high_watermark = 0  # the thread that raises it has come so far, and no further

    class Elsewhere(GroupCommit):
        looks = 0

        @property
        def synced_end(self) -> int:  # type: ignore[override]
            self.looks += 1
            if self.looks == 2:
                with leader.lock:
                    leader._take_role(LED_BY_1, 0)
            return 2

        @synced_end.setter
        def synced_end(self, end: int) -> None: ...

    monkeypatch.setattr(leader.commit, "__class__", Elsewhere)
    leader.maybe_advance_high_watermark()
    assert leader.high_watermark <= 1, "the other record is on this broker alone"


def test_what_was_lost_with_an_election_is_not_acknowledged_where_its_leader_is_alone_since(tmp_path: Path) -> None:
    """The sender comes to ask for the acknowledgement only after all of that."""
    pair = Pair(tmp_path)
    first = pair.leader
    write = pair.send(b"on one alone")
    pair.lead(LED_BY_1)
    pair.send(b"instead")
    pair.fetcher.step(0)
    first.follow(PartitionRegistration((0,), (0,), 0, 3, 3))
    assert first.high_watermark == 1
    assert isinstance(first.acknowledge(write).error(), NotLeaderError)
