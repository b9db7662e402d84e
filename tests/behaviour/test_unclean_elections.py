"""A topic that allows it gets a leader that is not in sync, when no other one runs; what that loses is noticed, and counted."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import streamlog
from streamlog import LogTruncationError, StreamLog, TopicPartition
from streamlog.replication.fetcher import ReplicaFetcher
from streamlog.testing import ManualClock

from .test_broker_failures import eventually, in_sync, values
from .test_moving_leaders import registration

T0 = TopicPartition("t", 0)


class Lagging:
    """A log of two brokers, of which one has fallen behind, and the other has stopped: broker `behind` has the first records."""

    def __init__(self, log: StreamLog, unclean: bool) -> None:
        self.log = log
        self.topic = log.create_topic("t", min_insync_replicas=1, unclean_leader_election=unclean)
        self.ahead = self.topic.partition(0).leader
        self.behind = 1 - self.ahead

    def send(self, *records: str) -> None:
        for record in records:
            self.topic.send(record)

    def part(self, common: list[str], lost: list[str]) -> None:
        self.send(*common)
        self.log.brokers[self.behind].stop()
        self.send(*lost)

    def swap(self) -> None:
        """The one that is ahead stops as the other starts, before that could catch up."""
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(ReplicaFetcher, "follow", lambda fetcher, replica: None)  # it does not fetch
            self.log.brokers[self.behind].start()
        assert self.topic.partition(0).isr == (self.ahead,)
        self.log.brokers[self.ahead].stop()


@pytest.fixture
def made(path: Path, clock: ManualClock) -> Any:
    opened: list[StreamLog] = []

    def make(unclean: bool = True) -> Lagging:
        opened.append(streamlog.open(path, brokers=2, clock=clock))
        return Lagging(opened[0], unclean)

    yield make
    opened[0].close()


Make = Callable[..., Lagging]


def test_without_the_setting_the_partition_waits_for_its_in_sync_set(made: Make) -> None:
    lagging = made(unclean=False)
    lagging.part(["a"], ["b", "c"])
    lagging.swap()
    assert lagging.topic.partition(0).leader == -1
    assert lagging.log.metrics()["replication"]["unclean_leader_elections"] == 0
    lagging.log.brokers[lagging.ahead].start()
    lagging.send("d")
    assert values(lagging.log) == [b"a", b"b", b"c", b"d"]


def test_with_it_the_best_replica_that_is_there_leads_and_that_is_counted(made: Make) -> None:
    lagging = made()
    lagging.part(["a"], ["b", "c"])
    lagging.swap()
    info = lagging.topic.partition(0)
    assert (info.leader, info.isr) == (lagging.behind, (lagging.behind,))
    assert lagging.log.metrics()["replication"]["unclean_leader_elections"] == 1
    lagging.send("d")
    assert values(lagging.log) == [b"a", b"d"]
    lagging.log.brokers[lagging.ahead].start()
    eventually(lambda: in_sync(lagging.topic) == {frozenset({0, 1})})
    lagging.log.brokers[lagging.behind].stop()
    assert values(lagging.log) == [b"a", b"d"]


def test_the_setting_can_be_changed_while_there_is_no_leader(made: Make) -> None:
    lagging = made(unclean=False)
    lagging.part(["a"], ["b"])
    lagging.swap()
    assert lagging.topic.partition(0).leader == -1
    lagging.topic.update_config(unclean_leader_election=True)
    assert lagging.topic.partition(0).leader == lagging.behind
    assert values(lagging.log) == [b"a"]


@pytest.mark.parametrize("unclean", [False, True])
def test_so_it_is_at_an_open_without_the_directory_of_the_last_in_sync_replica(path: Path, unclean: bool) -> None:
    with streamlog.open(path, brokers=3) as log:
        topic = log.create_topic("t", replication_factor=2, min_insync_replicas=1, unclean_leader_election=unclean)
        ahead, behind = topic.partition(0).replicas
        topic.send("a")
        log.brokers[behind].stop()
        topic.send("b")
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(ReplicaFetcher, "follow", lambda fetcher, replica: None)
            log.brokers[behind].start()
    (path / f"broker-{ahead}").rename(path.parent / "elsewhere")
    with streamlog.open(path) as log:
        assert log["t"].partition(0).leader == (behind if unclean else -1)
        assert log.metrics()["replication"]["unclean_leader_elections"] == unclean
        if unclean:
            assert values(log) == [b"a"]


@pytest.mark.parametrize("more", [0, 1, 2, 3])
def test_a_consumer_that_has_read_what_is_lost_goes_on_where_the_logs_part(
    made: Make, caplog: pytest.LogCaptureFixture, more: int
) -> None:
    """Whether the new leader's log is shorter than the position by then, as long, or longer."""
    lagging = made()
    with lagging.log.consumer("t") as consumer:
        lagging.part(["a"], ["b", "c"])
        assert [record.value for record in consumer.until_end()] == [b"a", b"b", b"c"]
        lagging.swap()
        sent = [f"new {n}" for n in range(more)]
        lagging.send(*sent)
        with caplog.at_level(logging.WARNING, "streamlog.client"):
            read = [record.value for record in consumer.until_end()]
        lagging.send("last")
        read += [record.value for record in consumer.poll(10)]
        assert read == [*(each.encode() for each in sent), b"last"]
    assert "was truncated" in caplog.text
    assert "going on at 1" in caplog.text


def test_a_consumer_that_is_to_decide_gets_the_offset_where_the_logs_part(made: Make) -> None:
    lagging = made()
    with lagging.log.consumer("t", auto_offset_reset="none") as consumer:
        lagging.part(["a"], ["b", "c"])
        consumer.seek(T0, 0)
        assert len(consumer.poll(10)) == 3
        lagging.swap()
        lagging.send("d", "e", "f")
        for _ in range(2):
            with pytest.raises(LogTruncationError, match="was truncated") as failed:
                consumer.poll()
            assert (failed.value.topic, failed.value.partition, failed.value.divergent_offset) == ("t", 0, 1)
        consumer.seek(T0, 1)
        assert [record.value for record in consumer.poll(10)] == [b"d", b"e", b"f"]


def test_a_read_that_has_begun_raises(made: Make) -> None:
    lagging = made()
    lagging.part(["a"], ["b" * 100_000] * 5)
    batches = lagging.topic.read_batches()
    assert [next(batches).base_offset for _ in range(2)] == [0, 1]
    lagging.swap()
    lagging.send(*["x" * 100_000] * 5)
    with pytest.raises(LogTruncationError):
        list(batches)


def test_consumers_notice_no_truncation_where_leaders_move_and_nothing_is_lost(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with streamlog.open(path, brokers=3) as log:
        topic = log.create_topic("t")
        with log.consumer("t", auto_offset_reset="none") as consumer:
            consumer.seek(T0, 0)
            read: list[bytes] = []
            for n in range(12):
                topic.send(b"%d" % n)
                if n % 2:
                    read += [record.value for record in consumer.poll(10)]
                known = registration(log, "t", 0)
                log.elect_leader(T0, known.isr[(known.isr.index(known.leader) + 1) % len(known.isr)])
            while len(read) < 12:
                read += [record.value for record in consumer.poll(10)]
            assert read == [b"%d" % n for n in range(12)]
    assert not caplog.records


# What a group has committed


def committed(log: StreamLog) -> Any:
    service: Any = log._engine.service
    return service.committed("g", None).result().get(T0)


def read_as_member(log: StreamLog, **config: Any) -> list[Any]:
    with log.consumer("t", group="g", **config) as member:
        return [record.value for record in member.until_end()]


def lose_what_was_committed(lagging: Lagging, *sent: str) -> None:
    """A member reads three records and commits; two of them are lost, and others are `sent` in their place."""
    lagging.part(["a"], ["b", "c"])
    assert read_as_member(lagging.log) == [b"a", b"b", b"c"]
    lagging.swap()
    lagging.send(*sent)
    lagging.log.brokers[lagging.ahead].start()
    eventually(lambda: in_sync(lagging.topic) == {frozenset({0, 1})})


@pytest.mark.parametrize("more", [0, 1, 2, 3, 4])
def test_a_group_whose_committed_records_are_lost_goes_on_where_the_logs_part(
    made: Make, caplog: pytest.LogCaptureFixture, more: int
) -> None:
    lagging = made()
    sent = [f"new {n}" for n in range(more)]
    lose_what_was_committed(lagging, *sent)
    with caplog.at_level(logging.WARNING, "streamlog.client"):
        assert read_as_member(lagging.log) == [each.encode() for each in sent]
    assert "going on at 1" in caplog.text
    caplog.clear()
    lagging.send("last")
    assert read_as_member(lagging.log) == [b"last"]
    assert "was truncated" not in caplog.text


def test_a_group_that_is_to_decide_gets_the_offset_where_the_logs_part(made: Make) -> None:
    lagging = made()
    lose_what_was_committed(lagging, "d", "e", "f", "g")
    with lagging.log.consumer("t", group="g", auto_offset_reset="none") as member:
        for _ in range(2):
            with pytest.raises(LogTruncationError) as failed:
                member.poll(10)
            assert failed.value.divergent_offset == 1
        member.seek(T0, 1)
        assert [record.value for record in member.poll(10)] == [b"d", b"e", b"f", b"g"]


@pytest.mark.parametrize("how", ["auto", "commit", "record", "batches", "again"])
def test_a_commit_of_a_position_has_the_leader_epoch_of_the_record_before(path: Path, how: str) -> None:
    with streamlog.open(path, brokers=3) as log:
        topic = log.create_topic("t")
        topic.send_many(["a", "b"])
        first = topic.partition(0).leader_epoch
        log.elect_leader(T0, next(each for each in (0, 1, 2) if each != topic.partition(0).leader))
        topic.send_many(["c", "d"])
        second = topic.partition(0).leader_epoch
        assert first < second
        for end, epoch in ((2, first), (3, second), (4, second)):
            with log.consumer("t", group="g", enable_auto_commit=how == "auto") as member:
                if how == "batches":
                    member.poll_batches(10, max_records=2 if end == 2 else 1)
                else:
                    records = member.poll(10, max_records=2 if end == 2 else 1)
                if how == "record":
                    member.commit(records[-1])
                elif how != "auto":
                    member.commit()
            assert committed(log) == (end, "", epoch)
        if how == "again":
            with log.consumer("t", group="g", enable_auto_commit=False) as member:
                assert member.poll() == []
                member.seek(T0, 4)
                member.commit()
                assert committed(log) == (4, "", second)
                member.seek(T0, 1)
                member.commit()
                assert committed(log) == (1, "", None), "the record before was not read here"


def test_a_group_goes_on_in_a_log_that_retention_has_shortened(made: Make, caplog: pytest.LogCaptureFixture) -> None:
    lagging = made()
    lagging.send("a", "b")
    with lagging.log.consumer("t", group="g", enable_auto_commit=False) as member:
        member.poll(10, max_records=1)
        member.commit()
    lagging.log.elect_leader(T0, lagging.behind)
    lagging.send("c")
    lagging.topic.delete_records({0: 2})
    assert read_as_member(lagging.log) == [b"c"]
    assert "was truncated" not in caplog.text


def test_a_group_goes_on_in_a_compacted_topic_of_whose_epoch_no_record_is_left(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with streamlog.open(path, brokers=2) as log:
        topic = log.create_topic("t", cleanup_policy="compact", segment_bytes=1024)
        first = topic.partition(0).leader
        with log.producer(enable_idempotence=False) as producer:  # of whose batches compaction keeps nothing
            producer.send("t", "x", key="other")
            log.elect_leader(T0, 1 - first)
            producer.send("t", "y", key="k")
            read_as_member(log)
            log.elect_leader(T0, first)
            producer.send("t", "z", key="k")
            producer.send("t", "after", key="l")
        topic.compact()
    with streamlog.open(path) as log:
        assert read_as_member(log, auto_offset_reset="none") == [b"z", b"after"]
    assert "was truncated" not in caplog.text
