"""While a partition has no leader, or a group no coordinator, clients wait: a poll returns nothing, other calls have a bound."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

import streamlog
from streamlog import RequestTimedOutError, StreamLog, TopicPartition
from streamlog.errors import NotLeaderError
from streamlog.testing import ManualClock

from .test_broker_failures import eventually
from .test_moving_leaders import move, registration
from .test_replica_scenarios import Brokers, brokers

InThread = Callable[[Callable[[], Any]], "Future[Any]"]
GROUPS = "__consumer_offsets"
T0, T1 = TopicPartition("t", 0), TopicPartition("t", 1)
LONG_S = 30


@pytest.fixture
def log(path: Path, clock: ManualClock) -> Any:
    with streamlog.open(path, brokers=3, clock=clock) as log:
        yield log


@pytest.fixture
def topic(log: StreamLog) -> streamlog.Topic[Any, Any]:
    """Three records in each of two partitions, of which each has one replica, on a broker of its own."""
    topic = log.create_topic("t", partitions=2, replication_factor=1)
    for n in range(6):
        topic.send(b"%d" % n, partition=n % 2, timestamp_ms=1_000 + n)
    return topic


def stop_leader(log: StreamLog, number: int = 0) -> streamlog.Broker:
    broker = log.brokers[log["t"].partition(number).leader]
    broker.stop()
    assert log["t"].partition(number).leader == -1
    return broker


def hide_coordinator(log: StreamLog) -> Callable[[], None]:
    """Have no broker lead the groups' topic, until the function that is returned is called."""
    leader = registration(log, GROUPS, 0).leader
    move(log, GROUPS, 0, -1)
    return lambda: move(log, GROUPS, 0, leader)


def values(records: Any) -> list[bytes]:
    return [record.value for record in records]


def waits(call: Future[Any], log: StreamLog) -> None:
    """The call is under way: it was made again, and has not returned."""
    made = threading.Event()
    service: Any = log._engine.service
    partition = service._partition
    service._partition = lambda name: made.set() or partition(name)
    assert not made.wait(0.1) or not call.done()
    service._partition = partition
    assert not call.done()


def test_a_poll_returns_the_records_of_the_others_and_goes_on_when_there_is_a_leader(
    log: StreamLog, topic: Any
) -> None:
    with log.consumer("t") as consumer:
        broker = stop_leader(log)
        assert values(consumer.poll(LONG_S)) == [b"1", b"3", b"5"]
        topic.send(b"7", partition=1)
        assert values(consumer.poll(LONG_S)) == [b"7"]
        assert consumer.poll(0.05) == []
        broker.start()
        assert values(consumer.poll(LONG_S)) == [b"0", b"2", b"4"]
        topic.send(b"8", partition=0)
        assert values(consumer.poll(LONG_S)) == [b"8"]


def test_a_poll_that_waits_gets_the_records_of_the_new_leader(log: StreamLog, topic: Any, in_thread: InThread) -> None:
    with log.consumer() as consumer:
        consumer.assign([T0])
        assert values(consumer.poll(LONG_S)) == [b"0", b"2", b"4"]
        broker = stop_leader(log)
        waiting = threading.Event()
        consumer._on_wait = waiting.set
        found = in_thread(lambda: consumer.poll(LONG_S))
        assert waiting.wait(LONG_S)
        broker.start()
        topic.send(b"6", partition=0)
        assert values(found.result(LONG_S)) == [b"6"]


def test_a_consumer_that_waits_for_a_leader_sleeps(log: StreamLog, topic: Any) -> None:
    broker = stop_leader(log)
    service: Any = log._engine.service
    asked: list[Any] = []
    fetch = service.fetch
    service.fetch = lambda at, *args, **options: asked.append(at) or fetch(at, *args, **options)
    with log.consumer("t") as consumer:
        assert len(consumer.poll(LONG_S)) == 3
        asked.clear()
        assert consumer.poll(0.2) == []
        assert len(asked) < 20
    broker.start()


def test_a_consumer_begins_where_it_should_once_there_is_a_leader(log: StreamLog, topic: Any) -> None:
    topic.delete_records({0: 1})
    broker = stop_leader(log)
    with log.consumer("t") as consumer, log.consumer("t", auto_offset_reset="latest") as latest:
        assert consumer.assignment() == {T0, T1}
        assert sorted(values(consumer.poll(LONG_S))) == [b"1", b"3", b"5"]
        assert latest.poll() == []
        broker.start()
        assert values(consumer.poll(LONG_S)) == [b"2", b"4"]
        assert latest.poll() == []
        topic.send(b"6", partition=0)
        assert values(latest.poll(LONG_S)) == [b"6"]


def test_until_end_waits_for_a_leader(log: StreamLog, topic: Any, in_thread: InThread) -> None:
    with log.consumer("t") as consumer, log.consumer("t") as late:
        assert len(consumer.poll(max_records=1)) == 1
        broker = stop_leader(log)
        reads = [in_thread(lambda each=each: values(each.until_end())) for each in (consumer, late)]  # type: ignore[misc]
        assert not any(read.done() for read in reads)
        broker.start()
        assert [len(read.result(LONG_S)) for read in reads] == [5, 6]


def test_until_end_gives_up_at_last(log: StreamLog, topic: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamlog.client.retrying.DEFAULT_API_TIMEOUT_S", 0.05)
    with log.consumer("t") as consumer:
        broker = stop_leader(log)
        read: list[Any] = []
        with pytest.raises(RequestTimedOutError, match="no leader"):
            read.extend(consumer.until_end())
        assert values(read) == [b"1", b"3", b"5"]
        assert list(consumer.until_end(timeout=0.05)) == []
        broker.start()
        assert values(consumer.until_end()) == [b"0", b"2", b"4"]


CALLS: dict[str, tuple[Callable[[StreamLog, Any], Any], Any]] = {
    "read": (lambda log, consumer: values(log["t"].read(0)), [b"0", b"2", b"4"]),
    "read_batches": (lambda log, consumer: sum(len(batch) for batch in log["t"].read_batches()), 6),
    "end_offsets": (lambda log, consumer: consumer.end_offsets(), {T0: 3, T1: 3}),
    "beginning_offsets": (lambda log, consumer: consumer.beginning_offsets([T0]), {T0: 0}),
    "lag": (lambda log, consumer: consumer.lag(), {T0: 3, T1: 3}),
    "offsets_for_times": (lambda log, consumer: consumer.offsets_for_times({T0: 1_001})[T0].offset, 1),
    "seek_to_end": (lambda log, consumer: (consumer.seek_to_end(T0), consumer.position(T0))[1], 3),
    "group lag": (lambda log, consumer: log.group("g").lag("t"), {T0: 3, T1: 3}),
    "reset": (lambda log, consumer: log.group("g").reset("t", to="latest"), None),
    "delete_records": (lambda log, consumer: log["t"].delete_records({0: 1}), None),
    "apply_retention": (lambda log, consumer: log["t"].apply_retention(), None),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_call_about_a_partition_waits_for_its_leader(
    log: StreamLog, topic: Any, in_thread: InThread, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    call, expected = CALLS[name]
    with log.consumer("t") as consumer:
        broker = stop_leader(log)
        with monkeypatch.context() as patched:
            patched.setattr("streamlog.client.retrying.DEFAULT_API_TIMEOUT_S", 0.03)
            with pytest.raises(RequestTimedOutError, match="has no leader") as failed:
                call(log, consumer)
        assert isinstance(failed.value.__cause__, NotLeaderError)
        found = in_thread(lambda: call(log, consumer))
        waits(found, log)
        broker.start()
        assert found.result(LONG_S) == expected


@pytest.mark.parametrize("read_before", [0, 1])
def test_a_read_that_has_begun_waits_for_the_leader(log: StreamLog, in_thread: InThread, read_before: int) -> None:
    topic = log.create_topic("t", replication_factor=1)
    for _ in range(1_000):  # more than it takes at once
        topic.send(b"." * 1_000)
    records = topic.read()
    read = [next(records) for _ in range(read_before)]
    broker = stop_leader(log)
    rest = in_thread(lambda: list(records))
    waits(rest, log)
    broker.start()
    assert [record.offset for record in [*read, *rest.result(LONG_S)]] == list(range(1_000))


def test_a_read_of_batches_goes_on_in_the_epoch_of_the_leader_that_it_waited_for(
    log: StreamLog, topic: Any, in_thread: InThread
) -> None:
    batches = topic.read_batches(0)
    broker = stop_leader(log)
    read = in_thread(lambda: [value for batch in batches for value in batch.values])
    waits(read, log)
    broker.start()
    assert read.result(LONG_S) == [b"0", b"2", b"4"]


GROUP_CALLS: dict[str, tuple[Callable[[StreamLog, Any], Any], Any]] = {
    "commit": (lambda log, consumer: (consumer.commit(), log.group("g").committed())[1], {T0: 3, T1: 3}),
    "commit of offsets": (lambda log, consumer: (consumer.commit({T0: 2}), consumer.committed(T0))[1], 2),
    "committed": (lambda log, consumer: consumer.committed(T1), 1),
    "offsets": (lambda log, consumer: log.group("g").offsets()[T1].offset, 1),
    "members": (lambda log, consumer: len(log.group("g").members()), 1),
    "state": (lambda log, consumer: log.group("g").state, "Stable"),
    "groups": (lambda log, consumer: [each.name for each in log.groups()], ["g"]),
    "lag": (lambda log, consumer: log.group("g").lag(), {T0: 3, T1: 2}),
    "evict": (lambda log, consumer: log.group("g").evict(consumer._coordinator.member_id), None),
    "unsubscribe": (lambda log, consumer: (consumer.unsubscribe(), log.group("g").committed())[1], {T0: 3, T1: 3}),
    "close": (lambda log, consumer: (consumer.close(), log.group("g").committed())[1], {T0: 3, T1: 3}),
    "assign": (lambda log, consumer: (consumer.assign([T1]), consumer.position(T1))[1], 3),
}


@pytest.mark.parametrize("name", GROUP_CALLS)
def test_a_call_about_a_group_waits_for_its_coordinator(
    log: StreamLog, topic: Any, in_thread: InThread, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    call, expected = GROUP_CALLS[name]
    with log.consumer("t", group="g") as consumer:
        read = values(consumer.poll(LONG_S))
        while len(read) < 6:
            read += values(consumer.poll(LONG_S))
        consumer.commit({T1: 1})
        consumer.poll()
        bring_back = hide_coordinator(log)
        found = in_thread(lambda: call(log, consumer))
        waits(found, log)
        bring_back()
        assert found.result(LONG_S) == expected


def test_a_commit_gives_up_at_last_and_can_be_made_again(
    log: StreamLog, topic: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with log.consumer("t", group="g", enable_auto_commit=False) as consumer:
        consumer.poll(LONG_S)
        bring_back = hide_coordinator(log)
        monkeypatch.setattr("streamlog.client.retrying.DEFAULT_API_TIMEOUT_S", 0.03)
        with pytest.raises(RequestTimedOutError) as failed:
            consumer.commit({T0: 2})
        assert isinstance(failed.value.__cause__, NotLeaderError)
        bring_back()
        consumer.commit({T0: 2})
        assert log.group("g").committed() == {T0: 2}


def test_closing_the_log_ends_a_commit_that_waits(
    path: Path, in_thread: InThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamlog.client.consumer.consumer._CLOSE_WAIT_S", 3600.0)
    log = streamlog.open(path, brokers=3)
    log.create_topic("t").send("x")
    member = log.consumer("t", group="g", enable_auto_commit=False)
    assert len(member.poll(LONG_S)) == 1
    hide_coordinator(log)
    commit = in_thread(member.commit)
    waits(commit, log)
    log.close()
    assert isinstance(commit.exception(LONG_S), streamlog.ClosedError)


def test_polls_of_members_go_on_without_a_coordinator(log: StreamLog, topic: Any, clock: ManualClock) -> None:
    with log.consumer("t", group="g", auto_commit_interval_ms=100) as member:
        while not member.assignment():
            member.poll(LONG_S)
        while sum(member.lag().values()):
            member.poll(LONG_S)
        (before,) = log.group("g").members()
        bring_back = hide_coordinator(log)
        for n in range(6, 12):
            topic.send(b"%d" % n, partition=n % 2)
        read: list[bytes] = []
        while len(read) < 6:
            read += values(member.poll(LONG_S))
        clock.advance(1.0)
        assert member.poll() == []
        assert member.poll(0.05) == []
        bring_back()
        eventually(lambda: member.poll(0.001) or log.group("g").committed() == {T0: 6, T1: 6})
        assert log.group("g").members() == [before]


def test_a_member_joins_once_there_is_a_coordinator_and_leaves_no_ghost(log: StreamLog, topic: Any) -> None:
    with log.consumer("t", group="g") as first:
        first.poll(LONG_S)
    bring_back = hide_coordinator(log)
    with log.consumer("t", group="g") as member:
        for _ in range(5):
            assert member.poll() == []
        assert member.poll(0.1) == []
        bring_back()
        eventually(lambda: member.poll(0.01) or member.assignment() == {T0, T1})
        assert len(log.group("g").members()) == 1
    assert log.group("g").members() == []


def test_a_member_that_closes_without_a_coordinator_is_no_ghost(
    log: StreamLog, topic: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamlog.client.retrying.DEFAULT_API_TIMEOUT_S", 0.03)
    member = log.consumer("t", group="g", enable_auto_commit=False)
    member.poll(LONG_S)
    bring_back = hide_coordinator(log)
    member.close()
    bring_back()
    assert log.group("g").members() == []


def test_workers_until_the_end_go_on(log: StreamLog, topic: Any, in_thread: InThread) -> None:
    log.group("g").reset("t", to="earliest")
    bring_back = hide_coordinator(log)
    handled: list[bytes] = []
    run = in_thread(
        lambda: log.group("g").run(lambda record: handled.append(record.value), "t", workers=2, until_end=True)
    )
    broker = stop_leader(log)
    bring_back()
    broker.start()
    run.result(LONG_S)
    assert sorted(handled) == [b"%d" % n for n in range(6)]
    assert log.group("g").committed() == {T0: 3, T1: 3}


def test_a_log_of_one_broker_pays_nothing(path: Path) -> None:
    with streamlog.open(path) as log:
        assert log._use() is log._engine.service


ENDS: dict[str, Callable[[Brokers, Any], Any]] = {
    "end_offsets": lambda b, consumer: consumer.end_offsets(),
    "beginning_offsets": lambda b, consumer: consumer.beginning_offsets(),
    "lag": lambda b, consumer: consumer.lag(),
    "offsets_for_times": lambda b, consumer: consumer.offsets_for_times({TopicPartition("t", n): 0 for n in range(3)}),
    "seek_to_end": lambda b, consumer: consumer.seek_to_end(),
    "group lag": lambda b, consumer: b.log.group("g").lag("t"),
}


@pytest.mark.parametrize("call", ENDS.values(), ids=ENDS)
def test_a_call_about_several_partitions_waits_for_all_of_them_together(call: Callable[[Brokers, Any], Any]) -> None:
    """One is back before the call has waited as long as it may; the other ones are not waited for as long again."""
    with brokers(3) as b:
        b.log.create_topic("t", partitions=3, replication_factor=1)
        b.log.create_topic("other").send("x")
        leaders = [b.log["t"].partition(n).leader for n in range(3)]
        with b.log.consumer("t") as consumer:
            assert consumer.poll() == []
            for broker in leaders[:2]:
                b.log.brokers[broker].stop()
            began_s = b.schedule.now_s

            def start() -> None:
                if b.schedule.now_s - began_s > 50:
                    b.schedule.between = lambda: None
                    b.log.brokers[leaders[0]].start()

            b.schedule.between = start
            with pytest.raises(RequestTimedOutError, match="has no leader"):
                call(b, consumer)
            assert b.log.brokers[leaders[0]].running
            assert 59 < b.schedule.now_s - began_s < 62


def test_what_waits_for_the_end_of_a_transaction_gives_up_at_last(
    log: StreamLog, topic: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A marker cannot be written where there is no leader: neither a commit nor the next producer of the id waits for ever."""
    producer = log.producer(transactional_id="a")
    producer.begin_transaction()
    producer.send("t", b"6", partition=0)
    broker = stop_leader(log)
    with monkeypatch.context() as patched:
        patched.setattr("streamlog.client.retrying.DEFAULT_API_TIMEOUT_S", 0.03)
        for wait in (producer.commit_transaction, lambda: log.producer(transactional_id="a")):
            with pytest.raises(RequestTimedOutError, match="no leader"):
                wait()
    broker.start()
    with log.producer(transactional_id="a"), pytest.raises(streamlog.ProducerFencedError):
        producer.commit_transaction()
    assert values(log["t"].read(0)) == [b"0", b"2", b"4"]
