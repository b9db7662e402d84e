"""Group commit: a parked request is answered by the sync that covers it, in any thread, and never before."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from streamlog.config import TopicConfig
from streamlog.errors import ClosedError, PoisonedLogError, StorageError
from streamlog.records import columns
from streamlog.records.batch import seed_of
from streamlog.replication.commit import PATIENCE_MS
from streamlog.replication.partition import Partition
from streamlog.runtime.api import Completion
from streamlog.runtime.threads import RawGate, new_lock, result_of, wait_for
from streamlog.storage.log import AppendRequest
from streamlog.storage.recovery.recovery import PreviousShutdown, open_log
from streamlog.testing import FaultyDisk
from streamlog.types import TopicPartition

NOW = 1_700_000_000_000
TOPIC_ID = bytes(16)
SEED = seed_of(TOPIC_ID, 0)


@pytest.fixture
def disk() -> FaultyDisk:
    return FaultyDisk()


@pytest.fixture
def partition(tmp_path: Path, disk: FaultyDisk) -> Iterator[Partition]:
    config = TopicConfig(segment_bytes=1024)
    log = open_log(disk, str(tmp_path / "p"), TOPIC_ID, 0, SEED, config, PreviousShutdown(True, True))
    yield Partition(TopicPartition("t", 0), TOPIC_ID, log, new_lock, durable=True)
    log.release()


def write(partition: Partition, records: int = 1, size: int = 1) -> Completion[int]:
    """Append one batch; what the sender is promised."""
    batch = AppendRequest([columns.seal(SEED, None, [b"x" * size] * records, NOW, count=records)])
    partition.append(batch, NOW)
    return partition.acknowledge(batch)


def drive(answer: Completion[int]) -> bool:
    """Have this thread do what a thread that waits for the answer does."""
    assert answer.work is not None
    return answer.work.drive()


def wait_turn(answer: Completion[int]) -> RawGate:
    """The gate that is opened when it is the turn of a thread that waits for the answer."""
    assert answer.work is not None
    gate = RawGate()
    answer.work.on_turn(gate)
    return gate


def syncs(disk: FaultyDisk) -> int:
    return [op for op, path in disk.calls if path.endswith(".log")].count("sync")


def test_one_sync_answers_everything_that_was_written_before_it(partition: Partition, disk: FaultyDisk) -> None:
    before = syncs(disk)
    parked = [write(partition, records) for records in (1, 3, 2)]
    assert [each.done() for each in parked] == [False] * 3
    assert partition.high_watermark == 0
    assert result_of(parked[0]) == 0
    assert [each.result() for each in parked] == [0, 1, 4]
    assert partition.high_watermark == 6
    assert syncs(disk) - before == 1


def test_what_is_synced_already_need_not_be_parked(partition: Partition) -> None:
    assert drive(write(partition))
    assert partition.await_high_watermark(1, 0).result() == 0
    assert partition.commit.everything().done()


def test_a_reader_is_woken_by_the_sync_and_not_by_the_append(partition: Partition) -> None:
    woken: list[int] = []
    partition.waiters.add(lambda: woken.append(partition.high_watermark))
    parked = write(partition)
    assert woken == []
    drive(parked)
    assert woken == [1]


def test_while_one_syncs_the_others_wait_and_one_of_those_left_has_the_next_turn(partition: Partition) -> None:
    covered = write(partition)
    before = partition.log.tail
    left, last = write(partition), write(partition)
    with partition.commit.syncing:
        assert not drive(covered)
        turns = [wait_turn(left), wait_turn(last)]
    synced_by_another(partition, before)
    assert covered.done()
    assert [turn.is_open() for turn in turns] == [True, False]
    assert not left.done()
    assert drive(left)
    assert last.done()
    assert not drive(last)


def synced_by_another(partition: Partition, tail: Any) -> None:
    """What another thread does whose round took `tail`."""
    with partition.commit.syncing:
        partition.commit.synced_end = tail.end_offset
        partition.commit._drop_covered()
    partition.commit.answer()


def test_a_thread_whose_write_is_covered_does_not_get_the_turn_of_one_that_is_left(partition: Partition) -> None:
    covered, left = write(partition), write(partition)
    gone, waits = wait_turn(covered), wait_turn(left)
    gone.open()
    partition.commit.answer()
    assert waits.is_open()


def test_turns_of_threads_that_wait_no_longer_are_not_kept(partition: Partition) -> None:
    for _ in range(100):
        each = write(partition)
        wait_turn(each).open()
        drive(each)
    assert len(partition.commit._turns) < 3


def test_a_request_made_during_a_sync_of_sealed_segments_has_the_next_turn(
    partition: Partition, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would wait until it looks for itself otherwise, 20 ms or more."""
    turns: list[RawGate] = []
    late: list[Completion[int]] = []
    drive(write(partition))

    def come(*_: object, **__: object) -> None:
        late.append(write(partition))
        assert not drive(late[0])
        turns.append(wait_turn(late[0]))

    write(partition, size=900)
    write(partition, size=900)
    monkeypatch.setattr(partition.log.durability, "sync_files", come)
    partition.maintenance.step(NOW)
    assert turns[0].is_open()
    assert not late[0].done()


def test_no_request_gets_the_turn_while_another_syncs(partition: Partition) -> None:
    turn = wait_turn(write(partition))
    with partition.commit.syncing:
        partition.commit.answer()
        assert not turn.is_open()
    partition.commit.answer()
    assert turn.is_open()


def test_a_request_that_no_call_blocks_on_is_left_to_the_scheduler(partition: Partition) -> None:
    asked: list[int] = []
    partition.commit.schedule = asked.append
    first = write(partition)
    second = write(partition)
    assert asked == [PATIENCE_MS]  # once for both
    assert second.work is not None
    second.work.soon()
    assert asked == [PATIENCE_MS, 0]
    assert partition.commit.maybe_sync(NOW) is None
    assert first.done()
    assert second.done()
    write(partition)
    assert asked == [PATIENCE_MS, 0, PATIENCE_MS]


def test_a_request_made_during_a_sync_that_no_call_blocks_on_is_left_to_the_scheduler_at_once(
    partition: Partition,
) -> None:
    covered = write(partition)
    before = partition.log.tail
    left = write(partition)
    asked: list[int] = []
    partition.commit.schedule = asked.append
    synced_by_another(partition, before)
    assert covered.done()
    assert not left.done()
    assert asked == [0]


def test_the_scheduler_comes_again_while_another_thread_syncs(partition: Partition) -> None:
    parked = write(partition)
    with partition.commit.syncing:
        assert partition.commit.maybe_sync(NOW) == NOW + PATIENCE_MS
    assert not parked.done()
    assert partition.commit.maybe_sync(NOW) is None
    assert parked.done()


def test_readers_whose_wake_up_an_interrupt_swallowed_are_woken_by_the_scheduler(partition: Partition) -> None:
    woken: list[int] = []
    drive(write(partition))
    partition.waiters.add(lambda: woken.append(1))
    write(partition)
    partition.commit.synced_end = 2  # and then Ctrl-C
    partition.commit.maybe_sync(NOW)
    assert woken == [1]


def test_a_round_waits_for_no_more_than_a_moment_for_those_of_the_last_one(
    partition: Partition, disk: FaultyDisk
) -> None:
    for each in [write(partition) for _ in range(3)]:
        drive(each)
    before = syncs(disk)
    alone = write(partition)
    assert drive(alone)  # two more may come, and do not
    assert alone.done()
    assert syncs(disk) - before == 1


def test_a_round_begins_when_as_many_have_come_as_the_last_one_had(partition: Partition) -> None:
    for each in [write(partition) for _ in range(2)]:
        drive(each)
    first = write(partition)
    second: list[Completion[int]] = []
    real = partition.commit._new_lock

    def lock_then_come() -> Any:
        lock = real()
        partition.commit._new_lock = real
        return _Waited(lock, lambda: second.append(write(partition)))

    partition.commit._new_lock = lock_then_come
    assert drive(first)
    assert second[0].done()


class _Waited:
    """A lock in whose second `acquire`, the wait, something happens."""

    def __init__(self, lock: Any, happens: Any) -> None:
        self._lock = lock
        self._happens = [happens, lambda: None]

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        if timeout >= 0:
            self._happens.pop(0)()
            assert self._lock.acquire(False), "it was not opened"
        else:
            self._lock.acquire()
        return True

    def release(self) -> None:
        self._lock.release()


def test_a_failed_sync_fails_all_parked_and_all_later_requests(partition: Partition, disk: FaultyDisk) -> None:
    assert drive(write(partition))
    parked = [write(partition), write(partition)]
    disk.fail("sync", errno.EIO, path="*.log")
    before = syncs(disk)
    for each in parked:
        with pytest.raises(PoisonedLogError):
            result_of(each)
    late = partition.await_high_watermark(9, 8)
    assert isinstance(late.error(), PoisonedLogError)
    assert isinstance(partition.commit.everything().error(), PoisonedLogError)
    with pytest.raises(PoisonedLogError):
        partition.commit.sync()
    assert syncs(disk) - before == 1
    assert partition.high_watermark == 1


def test_a_file_that_cannot_be_opened_fails_the_parked_requests_and_no_later_one(
    partition: Partition, disk: FaultyDisk
) -> None:
    write(partition, size=900)
    parked = write(partition, size=900)  # in the next segment, so the first one has to be opened again
    disk.fail("open", errno.EMFILE, path="*.log", times=2)
    with pytest.raises(StorageError, match="sync"):
        result_of(parked)
    assert result_of(write(partition)) == 2
    assert partition.high_watermark == 3


def test_the_sync_of_sealed_segments_counts(partition: Partition) -> None:
    first, second = write(partition, size=900), write(partition, size=900)
    assert partition.maintenance.step(NOW) is None
    assert first.done()
    assert not second.done()
    assert partition.high_watermark == 1


@pytest.mark.parametrize("fails", [False, True])
def test_closing_answers_the_parked_requests(partition: Partition, disk: FaultyDisk, fails: bool) -> None:
    parked = write(partition)
    if fails:
        disk.fail("sync", errno.EIO, path="*.log")
        with pytest.raises(PoisonedLogError):
            partition.close(ClosedError("closed"))
        assert isinstance(parked.error(), PoisonedLogError)
    else:
        partition.close(ClosedError("closed"))
        assert parked.result() == 0


def test_deleting_a_partition_fails_the_parked_requests(partition: Partition) -> None:
    parked = write(partition)
    partition.remove(ClosedError("gone"))
    assert isinstance(parked.error(), ClosedError)
    assert isinstance(partition.await_high_watermark(5, 4).error(), ClosedError)


def test_a_wait_ends_at_its_timeout_while_another_thread_syncs(partition: Partition) -> None:
    parked = write(partition)
    with partition.commit.syncing:
        assert not wait_for(parked, 0.001)
    assert wait_for(parked, 0.001)


def test_what_was_taken_back_is_waited_for_no_longer(partition: Partition, disk: FaultyDisk) -> None:
    assert result_of(write(partition)) == 0
    before = partition.log.tail
    refused, behind = write(partition), partition.commit.everything()
    assert partition.take_back(before)
    assert (refused.done(), behind.done(), partition.log.tail.end_offset) == (True, True, 1)
    assert result_of(write(partition)) == 1


def test_what_another_threads_sync_had_on_the_device_is_not_taken_back(partition: Partition) -> None:
    before = partition.log.tail
    assert result_of(write(partition)) == 0
    assert not partition.take_back(before)
    assert partition.log.tail.end_offset == 1


def test_a_blocked_partition_refuses_with_that_error_until_it_is_unblocked(partition: Partition) -> None:
    error = StorageError("blocked", path="", errno=0)
    partition.block(error)
    with pytest.raises(StorageError, match="blocked"):
        write(partition)
    partition.unblock(ClosedError("another"))
    with pytest.raises(StorageError, match="blocked"):
        write(partition)
    partition.unblock(error)
    assert result_of(write(partition)) == 0


def test_a_partition_that_is_blocked_twice_takes_records_after_both(partition: Partition) -> None:
    first, second = StorageError("first", path="", errno=0), StorageError("second", path="", errno=0)
    for one, other in ((first, second), (second, first)):
        partition.block(one)
        partition.block(other)
        partition.unblock(first)
        with pytest.raises(StorageError, match="second"):
            write(partition)
        partition.unblock(second)
        assert partition.log.refusals.first is None
    assert result_of(write(partition)) == 0


def test_a_partition_whose_sync_fails_while_it_is_blocked_stays_refused(partition: Partition) -> None:
    error, poison = StorageError("blocked", path="", errno=0), PoisonedLogError("poison", path="", errno=0)
    partition.block(error)
    partition.log.durability.poison = poison
    partition.unblock(error)
    partition.block(error)
    with pytest.raises(PoisonedLogError):
        write(partition)
