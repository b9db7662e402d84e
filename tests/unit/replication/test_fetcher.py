"""A broker follows its leaders: it fetches, truncates, appends, waits, and says what fails."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from streamlog.errors import (
    ClosedError,
    CorruptRecordError,
    FencedLeaderEpochError,
    NotEnoughReplicasError,
    NotLeaderError,
    RequestTimedOutError,
    StorageError,
    StreamlogError,
    UnknownLeaderEpochError,
)
from streamlog.replication import follower
from streamlog.replication.fetcher import RETRY_MS
from streamlog.replication.partition import Partition
from streamlog.replication.replica_set import PartitionRegistration
from streamlog.runtime.api import Completion
from streamlog.runtime.threads import result_of
from streamlog.storage.leader_epochs import LeaderEpochCache
from streamlog.storage.reader import LogReader
from tests.bytecodes import bytecodes
from tests.unit.replication.pair import LED_BY_0, LED_BY_1, NOW, Pair


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    return Pair(tmp_path)


def test_a_follower_fetches_until_it_has_everything_and_then_waits(pair: Pair) -> None:
    for n in range(5):
        pair.send(b"%d" % n)
    assert pair.fetcher.step(0) is None
    assert pair.follower.reader.tail.end_offset == 5
    nudges = pair.nudges
    pair.send()
    assert pair.nudges == nudges + 1
    pair.fetcher.step(0)
    assert pair.follower.reader.tail.end_offset == 6


def test_what_was_sent_is_acknowledged_once_the_follower_fetches_again(pair: Pair) -> None:
    done = pair.leader.acknowledge(pair.send())
    assert not done.done()
    assert pair.leader.high_watermark == 0
    pair.fetcher.step(0)
    assert done.result() == 0
    assert pair.leader.high_watermark == pair.follower.high_watermark == 1


def test_readers_wait_for_the_high_watermark_and_fetchers_for_the_end(pair: Pair) -> None:
    woken: list[str] = []
    pair.leader.waiters.add(lambda: woken.append("reader"))
    pair.fetcher.step(0)
    pair.fetcher.nudge = lambda: woken.append("fetcher")
    pair.send()
    assert woken == ["fetcher"]
    pair.fetcher.step(0)
    assert woken == ["fetcher", "reader"]


def test_a_follower_looks_for_no_high_watermark_that_a_senders_turn_has_brought(pair: Pair) -> None:
    """Another follower held it back. Before, its thread looked 200 times a second, for ever."""
    pair.lead(LED_BY_0._replace(replicas=(0, 1, 2), isr=(0, 1, 2), partition_epoch=2))
    pair.send()
    looks_at = pair.fetcher.step(0)
    assert looks_at is not None
    assert pair.fetcher.step(looks_at) is not None, "the other one may fetch soon"
    pair.leader.follow(LED_BY_0._replace(replicas=(0, 1, 2), isr=(0, 1), partition_epoch=3))
    pair.follower.follow_high_watermark(pair.leader.high_watermark)
    assert pair.follower.high_watermark == 1
    assert pair.fetcher.step(looks_at * 2) is None


def test_a_follower_truncates_what_its_leader_never_had(pair: Pair) -> None:
    pair.send(b"both")
    pair.fetcher.step(0)
    lost = pair.leader.acknowledge(pair.send(b"on one alone"))
    pair.lead(LED_BY_1)
    pair.send(b"instead")
    pair.fetcher.step(0)
    assert lost.done()
    assert isinstance(lost.error(), NotLeaderError)
    assert pair.follower.reader.tail.end_offset == 2
    assert pair.follower.last_epoch() == 2


def test_what_waited_at_a_leader_that_goes_on_as_a_follower_is_acknowledged_if_its_record_stays(pair: Pair) -> None:
    done = pair.leader.acknowledge(pair.send())
    step = pair.fetcher
    pair.leader.wake_followers()
    # The follower has the record, and its leader did not hear of that.
    data = pair.leader.reader.fetch(0, 1, 1).data
    follower.append(pair.follower, data)
    pair.lead(LED_BY_1)
    assert step is not pair.fetcher
    pair.fetcher.step(0)
    pair.fetcher.step(0)
    assert done.result() == 0


def test_what_waited_at_a_broker_that_is_gone_waits_at_the_next_leader_or_fails(pair: Pair) -> None:
    kept = pair.leader.acknowledge(pair.send())
    follower.append(pair.follower, pair.leader.reader.fetch(0, 1, 1).data)
    lost = pair.leader.acknowledge(pair.send())
    gone = pair.leader
    pair.lead(PartitionRegistration((0, 1), (1,), 1, 2, 2))
    gone.hand_over(pair.leader)
    assert kept.result() == 0
    assert isinstance(lost.error(), NotLeaderError)


@pytest.mark.parametrize(("epoch", "kind"), [(0, FencedLeaderEpochError), (9, UnknownLeaderEpochError)])
def test_a_fetch_for_another_leader_epoch_is_refused(pair: Pair, epoch: int, kind: type[StreamlogError]) -> None:
    with pytest.raises(kind):
        pair.leader.fetch_as_replica(1, 7, 0, None, epoch, 1, 0)


def test_a_fetch_from_who_does_not_lead_is_refused(pair: Pair) -> None:
    with pytest.raises(NotLeaderError):
        pair.follower.fetch_as_replica(0, 7, 0, None, 1, 1, 0)


def test_a_follower_asks_again_when_the_other_has_not_heard_of_the_election_yet(pair: Pair) -> None:
    pair.follower.follow(LED_BY_0._replace(leader_epoch=2, partition_epoch=2))
    pair.fetcher.follow(pair.follower)
    pair.send()
    assert pair.fetcher.step(100) == 100 + RETRY_MS
    pair.leader.follow(LED_BY_0._replace(leader_epoch=2, partition_epoch=2))
    pair.fetcher.step(100)
    assert pair.follower.reader.tail.end_offset == 1, "the leader's change wakes its followers"


def test_a_disk_that_fails_is_said_and_the_fetch_tried_again(pair: Pair) -> None:
    pair.send()
    pair.disk.fail("write", errno.EIO, path="*/1/*.log", times=1)
    assert pair.fetcher.step(0) == RETRY_MS
    assert len(pair.failed) == 1
    assert pair.fetcher.step(RETRY_MS) is None
    assert pair.follower.reader.tail.end_offset == 1


@pytest.mark.parametrize("error", [errno.EIO, errno.ENOENT])
def test_a_disk_that_fails_when_the_last_epoch_is_read_is_said_and_other_partitions_are_fetched(
    pair: Pair, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    pair.send()
    pair.fetcher.step(0)
    pair.send()

    def last_epoch() -> int:
        raise StorageError("no", path="x", errno=error)

    monkeypatch.setattr(pair.follower, "last_epoch", last_epoch)
    assert pair.fetcher.step(0) == RETRY_MS
    assert [type(each) for each in pair.failed] == [StorageError]
    monkeypatch.undo()
    pair.fetcher.step(RETRY_MS)
    assert pair.follower.reader.tail.end_offset == 2


def test_a_batch_that_is_damaged_at_the_leader_is_said_and_not_copied(pair: Pair, tmp_path: Path) -> None:
    pair.send(b"good")
    pair.send(b"to be damaged")
    [path] = (tmp_path / "0").glob("*.log")
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    pair.leader.reader.latest = None
    assert pair.fetcher.step(0) == RETRY_MS
    assert [type(error) for error in pair.corrupt] == [CorruptRecordError]
    assert pair.follower.reader.tail.end_offset == 1


def test_a_follower_begins_anew_where_its_leader_does(pair: Pair) -> None:
    for n in range(9):
        pair.send(b"%d" % n * 300)
    pair.lead(LED_BY_0._replace(isr=(0,), partition_epoch=2))
    pair.leader.delete_records(7)
    pair.fetcher.step(0)
    tail = pair.follower.reader.tail
    assert (tail.start_offset, tail.end_offset, pair.follower.high_watermark) == (7, 9, 9)


def test_a_follower_takes_over_the_log_start(pair: Pair) -> None:
    for n in range(9):
        pair.send(b"%d" % n * 300)
    pair.fetcher.step(0)
    pair.leader.delete_records(5)
    pair.fetcher.step(0)
    assert pair.follower.reader.tail.start_offset == 5


def deleted(pair: Pair, before: int, deadline_ms: int | None = None) -> Completion[int]:
    return pair.leader.delete_records(before, deadline_ms)


def test_a_deletion_waits_for_the_log_start_of_each_in_sync_replica(pair: Pair) -> None:
    for n in range(9):
        pair.send(b"%d" % n * 300)
    pair.fetcher.step(0)
    done = deleted(pair, 4)
    assert not done.done()
    pair.fetcher.step(0)
    assert [each.reader.tail.start_offset for each in (pair.leader, pair.follower)] == [0, 4], (
        "the follower comes first"
    )
    assert result_of(done) == pair.leader.reader.tail.start_offset == 4
    assert deleted(pair, 3).done()  # deleted on both already


def test_a_deletion_that_no_thread_waits_for_is_made_by_the_maintenance(pair: Pair) -> None:
    pair.send()
    pair.fetcher.step(0)
    done = deleted(pair, 1)
    due: list[Partition] = []
    pair.leader.on_work = due.append
    pair.fetcher.step(0)
    assert due == [pair.leader]
    assert not done.done()
    pair.leader.maintenance.step(0)
    assert done.result() == pair.leader.reader.tail.start_offset == 1


def test_a_deletion_waits_for_its_deadline_at_most(pair: Pair) -> None:
    pair.send()
    pair.fetcher.step(0)
    done = deleted(pair, 1, 5)
    pair.leader.deletions.purgatory.expire(5)
    assert isinstance(done.error(), RequestTimedOutError)


def test_a_deletion_does_not_wait_for_a_follower_that_leaves_the_in_sync_set(pair: Pair) -> None:
    pair.send()
    pair.fetcher.step(0)
    done = deleted(pair, 1)
    assert not done.done()
    pair.lead(LED_BY_0._replace(isr=(0,), partition_epoch=2))
    assert result_of(done) == 1


def test_a_deletion_under_way_fails_where_another_broker_leads_and_where_the_log_is_closed(pair: Pair) -> None:
    pair.send()
    pair.fetcher.step(0)
    done, leader = deleted(pair, 1), pair.leader
    pair.lead(LED_BY_1)
    assert isinstance(done.error(), NotLeaderError)
    with pytest.raises(NotLeaderError):
        leader.delete_records(1)
    pair.fetcher.step(0)
    pair.send()
    pair.fetcher.step(0)
    done = deleted(pair, 2)
    pair.leader.shut(ClosedError("closed"))
    assert isinstance(done.error(), ClosedError)


def test_with_sync_a_follower_has_on_its_device_what_it_says(tmp_path: Path) -> None:
    pair = Pair(tmp_path, durable=True)
    done = pair.leader.acknowledge(pair.send())
    pair.fetcher.step(0)
    assert pair.follower.commit.synced_end == 1
    assert not done.done(), "the leader has it in the page cache alone"
    pair.leader.commit.drive()
    assert done.result() == 0


def test_with_sync_a_follower_whose_sync_failed_does_not_say_that_it_has_the_record(tmp_path: Path) -> None:
    pair = Pair(tmp_path, durable=True)
    done = pair.leader.acknowledge(pair.send())
    pair.leader.commit.drive()
    pair.disk.fail("sync", errno.EIO, path="*/1/*.log")
    pair.fetcher.step(0)
    assert len(pair.failed) == 1
    pair.send()  # which wakes the follower, before its broker is stopped
    pair.fetcher.step(1)
    pair.fetcher.step(RETRY_MS)
    assert (pair.leader.high_watermark, done.done()) == (0, False)


def test_with_sync_a_follower_that_is_interrupted_before_its_sync_syncs_before_it_fetches_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = Pair(tmp_path, durable=True)
    pair.send()
    pair.leader.commit.sync()

    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(pair.follower.commit, "sync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        pair.fetcher.step(0)
    monkeypatch.undo()
    assert pair.follower.reader.tail.end_offset == 1
    pair.fetcher.step(0)
    assert pair.leader.high_watermark == pair.follower.commit.synced_end == 1


def test_too_few_in_sync_replicas_are_said_before_anything_is_appended(pair: Pair) -> None:
    pair.leader.require_in_sync()
    pair.lead(LED_BY_0._replace(isr=(0,), partition_epoch=2))
    with pytest.raises(NotEnoughReplicasError, match=r"1 in-sync replica,.*min_insync_replicas is 2"):
        pair.leader.require_in_sync()


def test_the_leader_asks_for_the_set_that_keeps_up(pair: Pair) -> None:
    asked: list[tuple[int, ...] | None] = []
    alive: Callable[[int], None] = lambda now: asked.append(pair.leader.wanted_isr(now, 1_000, {0: 3, 1: 7}))  # noqa: E731
    pair.send()
    alive(500)
    alive(2_000)
    assert asked == [None, (0,)]
    pair.lead(LED_BY_0._replace(isr=(0,), partition_epoch=2))
    changes: list[Partition] = []
    pair.leader.on_isr_change = changes.append
    pair.fetcher.step(2_000)
    assert changes and set(changes) == {pair.leader}
    alive(2_000)
    assert asked[2:] == [(0, 1)]


def test_a_leader_that_cannot_tell_where_logs_part_asks_once_for_another_one(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    def damaged(*_: object) -> None:
        raise CorruptRecordError("damaged", path="x", position=0, expected=0, actual=0)

    asked: list[Partition] = []
    pair.leader.on_isr_change = asked.append
    monkeypatch.setattr(pair.leader.log, "diverging_epoch", damaged)
    for _ in range(3):
        with pytest.raises(CorruptRecordError):
            pair.leader.diverging_epoch(0, 1)
    assert asked == [pair.leader]
    before = pair.leader.registration
    wanted = pair.leader.wanted(0, 1_000, {0: 3, 1: 7})
    assert wanted is not None
    assert (wanted.leader, wanted.isr, wanted.leader_epoch) == (1, (1,), before.leader_epoch + 1)
    assert pair.leader.wanted(0, 1_000, {0: 3}) is None  # there is none


def test_a_leader_that_is_alone_in_sync_waits_for_no_fetch(pair: Pair) -> None:
    pair.lead(PartitionRegistration((0, 1), (0,), 0, 1, 2))
    for n in range(2):
        woken: list[int] = []
        pair.leader.waiters.add(lambda woken=woken: woken.append(1))  # type: ignore[misc]
        pair.send()
        assert pair.leader.high_watermark == n + 1
        assert woken, "readers see it"
    assert pair.leader.append_one(None, b"z", NOW, NOW) == 2
    assert pair.leader.high_watermark == 3


def calls_of(patch: pytest.MonkeyPatch, owner: type, name: str) -> list[str]:
    """Has one entry for each call of a method from now on."""
    called: list[str] = []
    method = getattr(owner, name)

    def counted(*arguments: Any, **named: Any) -> Any:
        called.append(name)
        return method(*arguments, **named)

    patch.setattr(owner, name, counted)
    return called


def test_a_follower_that_keeps_up_searches_nothing(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """It goes on where its last fetch ended, in the epoch of its leader: two fetches for an append, one of them empty."""
    for _ in range(3):  # the first fetches look for their place, and the epochs are read
        pair.send()
        pair.fetcher.step(0)
    fetches, searches, epochs = (
        calls_of(monkeypatch, owner, name)
        for owner, name in (
            (Partition, "fetch_as_replica"),
            (LogReader, "_fetch"),
            (LeaderEpochCache, "written"),
        )
    )
    nudges = pair.nudges
    for _ in range(3):
        pair.send()
        pair.fetcher.step(0)
    assert pair.follower.reader.tail.end_offset == pair.leader.high_watermark == 6
    assert len(fetches) == 6
    assert not searches
    assert not epochs
    assert pair.nudges == nudges + 3


def test_what_a_follower_does_for_an_append_is_bounded(pair: Pair) -> None:
    """A fetch, the append, and the fetch that acknowledges it: about 3,000 bytecodes. It was 5,300 with a search for each."""
    for _ in range(3):
        pair.send()
        pair.fetcher.step(0)
    pair.send()
    assert bytecodes(lambda: pair.fetcher.step(0)) < 4_000
    assert pair.leader.high_watermark == 4


def test_appends_that_come_while_a_follower_is_busy_have_it_fetch_once(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair.fetcher.step(0)
    for _ in range(50):
        pair.send()
    fetches = calls_of(monkeypatch, Partition, "fetch_as_replica")
    pair.fetcher.max_bytes = 1 << 20
    pair.fetcher.step(0)
    segments = pair.leader.reader.tail.segments
    assert len(fetches) == len(segments) + 1, "one for each file, and one that acknowledges the last"
    assert pair.follower.reader.tail.end_offset == 50


def test_what_cannot_be_read_where_the_last_fetch_ended_is_searched(pair: Pair) -> None:
    pair.send()
    pair.fetcher.step(0)
    [following] = pair.fetcher._followed.values()
    following.after = following.after._replace(position=3)
    pair.send()
    pair.fetcher.step(0)
    assert not pair.corrupt
    assert pair.follower.reader.tail.end_offset == 2


def test_a_follower_goes_on_in_the_next_segment(pair: Pair) -> None:
    for n in range(60):
        pair.send(b"%d" % n * 100)
        if n % 7 == 0:
            pair.fetcher.step(0)
    pair.fetcher.step(0)
    tails = [replica.reader.tail for replica in pair.replicas]
    assert len(tails[0].segments) > 3
    assert tails[0].end_offset == tails[1].end_offset == 60


def test_a_new_leader_that_is_told_what_was_committed_shows_its_readers_no_less(pair: Pair) -> None:
    pair.send()
    follower.append(pair.follower, pair.leader.reader.fetch(0, 1, 1).data)
    before = pair.leader
    before.follow(LED_BY_0._replace(isr=(0,), partition_epoch=2))
    assert before.high_watermark == 1
    pair.lead(LED_BY_1._replace(partition_epoch=3))
    assert pair.leader.high_watermark == 0
    pair.leader.learn_high_watermark(before.high_watermark)
    assert pair.leader.high_watermark == 1
    pair.leader.learn_high_watermark(9)
    assert pair.leader.high_watermark == 1, "it has no more"


def test_what_was_fetched_before_an_election_is_not_taken_by_who_leads_now(pair: Pair) -> None:
    """The batches of the leader before would lie in the new leader's log, beside what others took from it."""
    pair.send(b"of epoch 1")
    fetched = pair.leader.fetch_as_replica(1, 7, 0, None, 1, 1 << 16, 0)
    elected = pair.follower
    pair.lead(LED_BY_1)
    with pytest.raises(NotLeaderError, match="fetched again"):
        follower.append_fetched(elected, fetched)
    with pytest.raises(NotLeaderError):
        follower.truncate_to(elected, 0, leader_epoch=1)
    with pytest.raises(NotLeaderError):
        follower.truncate_fully_and_start_at(elected, 5, leader_epoch=1)
    assert elected.reader.tail.end_offset == 0


def test_an_append_in_the_middle_of_a_fetch_has_the_follower_fetch_again(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its wake-up is not lost, wherever the thread of the follower is just then."""
    pair.send()
    fetch, sent = Partition.fetch_as_replica, []

    def fetched(*arguments: Any) -> Any:
        found = fetch(*arguments)
        if len(sent) < 3:
            sent.append(pair.send())
        return found

    monkeypatch.setattr(Partition, "fetch_as_replica", fetched)
    assert pair.fetcher.step(0) is None
    assert pair.follower.reader.tail.end_offset == pair.leader.high_watermark == 4
    for _ in range(3):
        pair.send()
        pair.fetcher.step(0)
    assert pair.leader.high_watermark == 7


def test_an_unexpected_error_leaves_the_fetch_to_be_done(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    pair.send()
    with monkeypatch.context() as patch:
        patch.setattr(Partition, "fetch_as_replica", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            pair.fetcher.step(0)
    pair.fetcher.step(0)
    assert pair.leader.high_watermark == 1
