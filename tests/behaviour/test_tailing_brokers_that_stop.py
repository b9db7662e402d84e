"""A reader in another process goes on when the broker that it follows is stopped, or says that it cannot."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import streamlog
from streamlog import ReplicaNotAvailableError, StreamLog, TopicPartition
from tests.times import LONG

from .owner_process import Child, Owner, eventually

InThread = Callable[[Callable[[], Any]], Future[Any]]
T0 = TopicPartition("t", 0)


@pytest.fixture
def owner(child: Child, path: Path) -> Owner:
    made = Owner(child, path, brokers=3)
    made("t = log.create_topic('t', partitions=3)")
    made("for n in range(30): t.send(b'%d' % n, partition=n % 3)")
    return made


def numbers(records: Any) -> list[int]:
    return [int(record.value) for record in records]


def followed(log: StreamLog) -> str:
    service: Any = log._engine.service
    return str(service._published.directory)


@pytest.mark.parametrize("how", ["log.brokers[{0}].stop()", "import shutil; shutil.rmtree(log.brokers[{0}].path)"])
def test_a_reader_of_the_whole_log_follows_another_replica(path: Path, owner: Owner, how: str) -> None:
    with streamlog.open(path, read_only=True) as log, log.consumer("t") as consumer:
        read: list[int] = []
        while len(read) < 30:
            read += numbers(consumer.poll(10))
        first = followed(log)
        owner(how.format(first[-1]))
        owner("for n in range(30, 60): t.send(b'%d' % n, partition=n % 3)")
        while len(read) < 60:
            more = numbers(consumer.poll(10))
            assert more, "it stays with the replica of a broker that does not run"
            read += more
        assert sorted(read) == list(range(60)), "each once"
        owner(f"import time; [time.sleep(0.01) for _ in iter(lambda: log.brokers[{first[-1]}].running, False)]")
        owner("log.create_topic('u').send('x')")
        eventually(lambda: "u" in log and [record.value for record in log["u"].read()], [b"x"])
        assert followed(log) != first
    owner.kill()


def test_it_goes_on_while_each_broker_stops_in_turn_twice(path: Path, owner: Owner) -> None:
    with streamlog.open(path, read_only=True) as log, log.consumer("t") as consumer:
        read: list[int] = []
        sent = 30
        for broker in (0, 1, 2, 0, 1, 2):
            owner(f"log.brokers[{broker}].stop()")
            owner(f"for n in range({sent}, {sent} + 30): t.send(b'%d' % n, partition=n % 3)")
            sent += 30
            while len(read) < sent:
                more = numbers(consumer.poll(10))
                assert more
                read += more
            owner(f"log.brokers[{broker}].start()")
            owner(
                "import time; [time.sleep(0.002) for _ in iter(lambda: any(len(t.partition(n).isr) < 3 for n in range(3)), False)]"
            )
        assert sorted(read) == list(range(sent))
    owner.close()


def test_a_reader_of_one_directory_reads_it_to_its_end_and_then_says_that_the_broker_was_stopped(
    path: Path, owner: Owner
) -> None:
    with streamlog.open(path / "broker-1", read_only=True) as log, log.consumer("t") as consumer:
        read: list[int] = []
        while len(read) < 30:
            read += numbers(consumer.poll(10))
        owner("log.brokers[1].stop()")
        with pytest.raises(ReplicaNotAvailableError, match=r"broker 1, was stopped.*path of the whole log"):
            while True:
                assert consumer.poll(1.0) == []
        assert len(list(log["t"].read())) == 30
        owner("log.brokers[1].start()")
        owner("t.send('30', partition=0)")
        while len(read) < 31:
            read += numbers(consumer.poll(10))
    owner.close()


def test_a_reader_of_one_directory_says_that_it_is_gone(path: Path, owner: Owner) -> None:
    with streamlog.open(path / "broker-1", read_only=True) as log, log.consumer("t") as consumer:
        read: list[int] = []
        while len(read) < 30:
            read += numbers(consumer.poll(10))
        shutil.rmtree(path / "broker-1")
        with pytest.raises(ReplicaNotAvailableError, match="is gone"):
            while True:
                assert consumer.poll(1.0) == []
    owner.kill()


def test_a_log_that_is_closed_is_read_to_its_end_without_an_error(path: Path, owner: Owner) -> None:
    with (
        streamlog.open(path, read_only=True) as whole,
        streamlog.open(path / "broker-1", read_only=True) as one,
        whole.consumer("t") as consumer,
        one.consumer("t") as other,
    ):
        assert len(consumer.poll(10)) > 0
        owner.close()
        for reader in (consumer, other):
            reader.seek_to_beginning()
            assert len(list(reader.until_end())) == 30
            assert reader.poll(0.3) == []


def test_a_read_while_another_thread_changes_to_another_replica_waits_for_that(
    path: Path, owner: Owner, in_thread: InThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    with streamlog.open(path, read_only=True) as log, log.consumer() as consumer:
        consumer.assign([T0])
        service: Any = log._engine.service
        held, may_go, made = threading.Event(), threading.Event(), service._tail_topic
        at = service._partitions[T0].broker_id

        def later(*arguments: Any) -> Any:
            if arguments[1] == 0 and not held.is_set():
                held.set()
                assert may_go.wait(LONG)
            return made(*arguments)

        monkeypatch.setattr(service, "_tail_topic", later)
        monkeypatch.setattr(service, "_look_if_stale", lambda: None)  # it was looked at just now
        owner(f"log.brokers[{at}].stop()")
        looking = in_thread(lambda: eventually(lambda: (service.look(), held.is_set())[1], True))
        assert held.wait(LONG)
        reading = in_thread(lambda: numbers(consumer.poll(LONG)))
        with pytest.raises(TimeoutError):
            reading.result(0.1)
        may_go.set()
        assert reading.result(LONG) == [*range(0, 30, 3)]
        looking.result(LONG)
    owner.kill()


def test_while_no_replica_of_a_running_broker_can_be_looked_at_another_one_is_read(
    path: Path, owner: Owner, monkeypatch: pytest.MonkeyPatch
) -> None:
    with streamlog.open(path, read_only=True) as log:
        service: Any = log._engine.service
        at, replica = service._partitions[T0].broker_id, service._replica
        with monkeypatch.context() as patch:
            patch.setattr(service, "_replica", lambda replicas: replica(replicas) if len(replicas) == 3 else None)
            owner(f"log.brokers[{at}].stop()")
            eventually(lambda: (service.look(), service._image.brokers[at].fenced)[1], True)
            assert log["t"].partition(0).high_watermark == 10
        owner("t.send(b'30', partition=0)")  # nothing that the metadata say changes
        eventually(lambda: log["t"].partition(0).high_watermark, 11)
        assert service._partitions[T0].broker_id != at
    owner.kill()


def members_seen(group: Any) -> int:
    """How many there are; none while a broker that was just started has no replica of the groups' topic yet."""
    try:
        return len(group.members())
    except ReplicaNotAvailableError:
        return 0


def test_a_reader_shows_the_members_of_groups_while_their_process_runs(path: Path, owner: Owner) -> None:
    """Whichever directory it reads, and however often each of them was opened."""
    owner("m = log.consumer('t', group='g'); m.poll(5)")
    owner("[(log.brokers[n].stop(), log.brokers[n].start()) for n in (1, 2)]")
    for directory in (path, *(path / f"broker-{n}" for n in range(3))):
        with streamlog.open(directory, read_only=True) as log:
            eventually(partial(members_seen, log.group("g")), 1)
    with streamlog.open(path, read_only=True) as log:
        owner.kill()
        eventually(lambda: log.group("g").members(), [])


def test_a_reader_of_a_directory_that_is_made_anew_is_not_said_that_its_records_are_lost(
    path: Path, owner: Owner
) -> None:
    """In the moment in which the new directory has no metadata yet."""
    directory = path / "broker-2"
    with streamlog.open(directory, read_only=True) as log:
        eventually(lambda: len(list(log["t"].read())), 30)
        owner("log.brokers[2].stop()")
        shutil.rmtree(directory / "__cluster_metadata-0")
        shutil.rmtree(directory / "topics")
        service: Any = log._engine.service
        with pytest.raises(ReplicaNotAvailableError, match="filled from the other brokers"):
            service._metadata.log.follow_files(None, verify=True, is_alone=lambda: True)
        with pytest.raises(ReplicaNotAvailableError, match="filled from the other brokers"):
            service._partitions[T0].log.follow_files(None, verify=True, is_alone=lambda: True)
    shutil.rmtree(directory)
    owner("log.brokers[2].start()")
    owner.close()
