"""What waits to be acknowledged when its leader stops: acknowledged if the record is kept, and no record is there twice."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest

import streamlog
from streamlog import RequestTimedOutError, StreamLog
from streamlog.broker.api import ProduceRequest
from streamlog.errors import ClosedError, NotLeaderError
from streamlog.records import columns
from streamlog.records.batch import seed_of
from streamlog.replication.follower import append
from streamlog.replication.partition import Partition
from streamlog.runtime.api import Completion
from streamlog.testing import FaultyDisk, ManualClock

from .test_broker_failures import eventually, values
from .test_moving_leaders import registration


class Unreplicated:
    """A log of two brokers, whose follower does not fetch: what is sent is in the leader's log alone, and is not acknowledged."""

    def __init__(self, log: StreamLog, **settings: Any) -> None:
        self.log = log
        self.service: Any = log._engine.service
        self.topic = log.create_topic("t", min_insync_replicas=1, **settings)
        self.leader = self.topic.partition(0).leader
        for broker in self.service.brokers.all:
            broker.fetcher.follow = lambda replica: None
            broker.fetcher.forget(("t", 0))

    def send(self, value: bytes, timeout_ms: int | None = None) -> tuple[ProduceRequest, Completion[int]]:
        view = self.service.image.topics["t"]
        now_ms = self.service.clock.time_ms()
        batch = columns.seal(seed_of(view.id_bytes, 0), [None], [value], now_ms, count=1)
        request = ProduceRequest(view.partition(0), [batch], timeout_ms=timeout_ms)
        return request, self.service.produce(request)

    def stop_both(self) -> None:
        """The follower leaves the in-sync set, and before the leader can count without it, it stops too."""
        before = registration(self.log, "t", 0)
        alone = before._replace(isr=(self.leader,), partition_epoch=before.partition_epoch + 1)
        partition = self.service._partitions["t", 0]
        partition._in_sync_end = lambda: partition.high_watermark
        partition.replicas.may_join = lambda *_: ()
        self.service._topics.alter_partitions({("t", 0): alone})
        self.log.brokers[self.leader].stop()
        assert self.topic.partition(0).leader == -1


@pytest.fixture
def log(path: Path, clock: ManualClock, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr("streamlog.broker.broker_changes.HAND_OVER_S", 0.0)
    with streamlog.open(path, brokers=2, clock=clock) as log:
        yield log


def test_a_leader_that_comes_back_with_the_record_acknowledges_it(log: StreamLog) -> None:
    kept = Unreplicated(log)
    _, done = kept.send(b"x")
    assert not done.done()
    kept.stop_both()
    assert not done.done(), "its leader may come back"
    log.brokers[kept.leader].start()
    eventually(done.done)
    assert done.result() == 0
    assert values(log) == [b"x"]


def test_a_leader_without_the_record_fails_it(log: StreamLog) -> None:
    kept = Unreplicated(log)
    _, done = kept.send(b"x")
    log.brokers[kept.leader].stop()
    eventually(done.done)
    assert isinstance(done.error(), NotLeaderError)


def test_it_fails_at_its_timeout_and_is_in_the_log_all_the_same(log: StreamLog) -> None:
    kept = Unreplicated(log)
    _, done = kept.send(b"x", timeout_ms=100)
    kept.stop_both()
    eventually(done.done)
    assert isinstance(done.error(), RequestTimedOutError)
    log.brokers[kept.leader].start()
    assert values(log) == [b"x"]


def test_without_a_timeout_of_its_own_it_has_a_bound(log: StreamLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamlog.broker.leadership.REQUEST_TIMEOUT_MS", 50)
    kept = Unreplicated(log)
    _, done = kept.send(b"x")
    kept.stop_both()
    eventually(done.done)
    assert isinstance(done.error(), RequestTimedOutError)


def test_a_timeout_counts_at_the_next_leader_too(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamlog.broker.broker_changes.HAND_OVER_S", 0.0)
    with streamlog.open(path, brokers=3) as log:
        kept = Unreplicated(log, replication_factor=3)
        first, _ = (kept.service.brokers.all[each] for each in registration(log, "t", 0).replicas[1:])
        _, done = kept.send(b"x", timeout_ms=300)
        next_leader = first.replicas.partitions["t", 0]
        append(next_leader, kept.service._partitions["t", 0].reader.fetch(0, 1, 1).data)
        log.brokers[kept.leader].stop()
        assert kept.topic.partition(0).leader == first.id
        assert not done.done(), "the other follower does not have it"
        eventually(done.done)
        assert isinstance(done.error(), RequestTimedOutError)


def test_an_interrupted_send_whose_leader_stopped_is_settled_with_its_record(log: StreamLog) -> None:
    kept = Unreplicated(log)
    request, done = kept.send(b"x")
    kept.stop_both()
    settled = kept.service.settle(request)
    assert settled is not None, "it is in the log of the broker that stopped: sent again, it would be there twice"
    assert not settled.done()
    log.brokers[kept.leader].start()
    eventually(settled.done)
    assert settled.result() == done.result() == 0


def test_a_request_that_was_not_appended_is_settled_as_that(log: StreamLog) -> None:
    kept = Unreplicated(log)
    kept.stop_both()
    request, done = kept.send(b"x")
    assert isinstance(done.error(), NotLeaderError)
    assert kept.service.settle(request) is None


def test_closing_the_log_answers_what_waits(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamlog.broker.broker_changes.HAND_OVER_S", 0.0)
    log = streamlog.open(path, brokers=2)
    kept = Unreplicated(log)
    _, done = kept.send(b"x")
    kept.stop_both()
    log.close()
    assert isinstance(done.error(), ClosedError)


def test_closing_the_log_answers_what_waits_for_a_follower(path: Path) -> None:
    """Its leader runs until the end, and the follower has not fetched."""
    log = streamlog.open(path, brokers=2)
    kept = Unreplicated(log)
    _, done = kept.send(b"x")
    assert not done.done()
    log.close()
    assert isinstance(done.error(), ClosedError)


def test_deleting_the_topic_answers_what_waits(log: StreamLog) -> None:
    kept = Unreplicated(log)
    _, done = kept.send(b"x")
    kept.stop_both()
    log.delete_topic("t")
    assert isinstance(done.error(), streamlog.UnknownTopicOrPartitionError)


def test_an_interrupt_between_an_append_and_its_followers_leaves_none_of_them_asleep(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with streamlog.open(path, brokers=2) as log:
        topic = log.create_topic("t", min_insync_replicas=1)
        topic.send("x")
        service: Any = log._engine.service
        eventually(lambda: service._partitions["t", 0].followers)

        def interrupted(partition: Partition) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patched:
            patched.setattr(Partition, "wake_followers", interrupted)
            view = service.image.topics["t"]
            batch = columns.seal(seed_of(view.id_bytes, 0), [None], [b"y"], service.clock.time_ms(), count=1)
            request = ProduceRequest(view.partition(0), [batch])
            with pytest.raises(KeyboardInterrupt):
                service.produce(request)
        settled = service.settle(request)
        eventually(settled.done)
        assert settled.result() == 1


def test_a_sync_that_fails_while_the_leader_is_replaced_fails_no_record(path: Path) -> None:
    """The record waits for the next leader: an error would have it sent again, or lost."""
    disk = FaultyDisk()
    with streamlog.open(path, brokers=3, sync=True, disk=disk) as log:
        topic = log.create_topic("t")
        topic.send("x")
        leader = topic.partition(0).leader
        service: Any = log._engine.service
        partition = service._partitions["t", 0]
        shut = partition.shut

        def shut_and_answer(error: streamlog.StreamlogError) -> None:
            shut(error)
            partition.commit.answer()  # of another thread, which waits for the sync too

        partition.shut = shut_and_answer
        disk.fail("sync", errno.EIO, path=f"*/broker-{leader}/topics/*.log")
        topic.send("y")
        assert topic.partition(0).leader != leader
        assert values(log) == [b"x", b"y"]


def test_a_call_that_looks_at_a_directory_as_its_broker_stops_is_not_failed_by_that(path: Path) -> None:
    with streamlog.open(path, brokers=3) as log:
        log.create_topic("t").send("x")
        service: Any = log._engine.service
        directory = service.brokers.all[1].directory
        check = directory.check_owned

        def check_late() -> None:
            service.stop_broker(1)
            check()

        directory.check_owned = check_late
        service.check_owned()
        assert values(log) == [b"x"]
