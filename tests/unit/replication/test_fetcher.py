"""A broker follows its leaders: it fetches, truncates, appends, waits, and says what fails."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from streamlog.config import TopicConfig
from streamlog.errors import (
    CorruptRecordError,
    FencedLeaderEpochError,
    NotEnoughReplicasError,
    NotLeaderError,
    StreamlogError,
    UnknownLeaderEpochError,
)
from streamlog.records import columns
from streamlog.records.batch import seed_of
from streamlog.replication.fetcher import RETRY_MS, ReplicaFetcher
from streamlog.replication.partition import Partition
from streamlog.replication.replica_set import PartitionRegistration
from streamlog.runtime.threads import new_lock
from streamlog.storage.leader_epochs import LeaderEpochCache
from streamlog.storage.log import AppendRequest
from streamlog.storage.reader import LogReader
from streamlog.storage.recovery.recovery import PreviousShutdown, open_log
from streamlog.testing import FaultyDisk
from streamlog.types import TopicPartition
from tests.bytecodes import bytecodes

NAME = TopicPartition("t", 0)
TOPIC_ID = bytes(range(16))
SEED = seed_of(TOPIC_ID, 0)
NOW = 1_700_000_000_000
LED_BY_0 = PartitionRegistration((0, 1), (0, 1), 0, 1, 1)
LED_BY_1 = PartitionRegistration((0, 1), (0, 1), 1, 2, 2)


class Pair:
    """Two brokers with a replica each, on one disk."""

    def __init__(self, path: Path, *, durable: bool = False) -> None:
        self.disk = FaultyDisk()
        self.failed: list[StreamlogError] = []
        self.corrupt: list[CorruptRecordError] = []
        self.nudges = 0
        self.replicas = [self._open(path, broker, durable) for broker in range(2)]
        self.leader, self.follower = self.replicas
        self.fetchers = [
            ReplicaFetcher(broker, 7, lambda name: self.leader, self, self._nudge, max_bytes=1) for broker in range(2)
        ]
        self.lead(LED_BY_0)

    def _open(self, path: Path, broker: int, durable: bool) -> Partition:
        crash = PreviousShutdown(clean=True, same_boot=True)
        config = TopicConfig(segment_bytes=1024, min_insync_replicas=2)
        log = open_log(self.disk, str(path / str(broker)), TOPIC_ID, 0, SEED, config, crash)
        return Partition(NAME, TOPIC_ID, log, new_lock, broker, durable=durable)

    def _nudge(self) -> None:
        self.nudges += 1

    def replica_failed(self, replica: Partition, error: StreamlogError) -> None:
        self.failed.append(error)

    def leader_corrupt(self, leader: Partition, error: CorruptRecordError) -> None:
        self.corrupt.append(error)

    def lead(self, registration: PartitionRegistration) -> None:
        for replica in self.replicas:
            replica.follow(registration)
        self.leader = self.replicas[registration.leader]
        self.follower = self.replicas[1 - registration.leader]
        self.fetchers[registration.leader].forget(NAME)
        self.fetcher = self.fetchers[1 - registration.leader]
        self.fetcher.follow(self.follower)

    def send(self, value: bytes = b"x") -> AppendRequest:
        write = AppendRequest([columns.seal(SEED, None, [value], NOW, count=1)])
        self.leader.append(write, NOW)
        return write


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
    pair.leader.follower_waiters.add(lambda: woken.append("fetcher"))
    pair.send()
    assert woken == ["fetcher"]
    pair.fetcher.step(0)
    assert woken == ["fetcher", "reader"]


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
    pair.leader.follower_waiters.wake_all()
    # The follower has the record, and its leader did not hear of that.
    data = pair.leader.reader.fetch(0, 1, 1).data
    pair.follower.append_as_follower(data)
    pair.lead(LED_BY_1)
    assert step is not pair.fetcher
    pair.fetcher.step(0)
    pair.fetcher.step(0)
    assert done.result() == 0


def test_what_waited_at_a_broker_that_is_gone_waits_at_the_next_leader_or_fails(pair: Pair) -> None:
    kept = pair.leader.acknowledge(pair.send())
    pair.follower.append_as_follower(pair.leader.reader.fetch(0, 1, 1).data)
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
    pair.send()
    pair.fetcher.step(0)
    assert pair.follower.reader.tail.start_offset == 5


def test_with_sync_a_follower_has_on_its_device_what_it_says(tmp_path: Path) -> None:
    pair = Pair(tmp_path, durable=True)
    done = pair.leader.acknowledge(pair.send())
    pair.fetcher.step(0)
    assert pair.follower.commit.synced_end == 1
    assert not done.done(), "the leader has it in the page cache alone"
    pair.leader.commit.drive()
    assert done.result() == 0


def test_too_few_in_sync_replicas_are_said_before_anything_is_appended(pair: Pair) -> None:
    pair.leader.require_in_sync()
    pair.lead(LED_BY_0._replace(isr=(0,), partition_epoch=2))
    with pytest.raises(NotEnoughReplicasError, match=r"1 in-sync replicas.*min_insync_replicas is 2"):
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


def test_appends_that_come_while_a_follower_is_busy_wake_it_once(pair: Pair) -> None:
    pair.fetcher.step(0)
    nudges = pair.nudges
    for _ in range(50):
        pair.send()
    assert pair.nudges == nudges + 1
    pair.fetcher.step(0)
    assert pair.follower.reader.tail.end_offset == 50


def test_what_cannot_be_read_where_the_last_fetch_ended_is_searched(pair: Pair) -> None:
    pair.send()
    pair.fetcher.step(0)
    [place] = pair.fetcher._places.values()
    place.after = place.after._replace(position=3)
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
    pair.follower.append_as_follower(pair.leader.reader.fetch(0, 1, 1).data)
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
        elected.take(fetched)
    with pytest.raises(NotLeaderError):
        elected.truncate_to(0, leader_epoch=1)
    with pytest.raises(NotLeaderError):
        elected.truncate_fully_and_start_at(5, leader_epoch=1)
    assert elected.reader.tail.end_offset == 0
