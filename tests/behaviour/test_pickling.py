"""Values, records and errors copy and pickle; what owns a descriptor, a lock or a thread refuses, before anything is made."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import gc
import mmap
import pickle
import subprocess
import threading
from _thread import LockType
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import streamlog
from streamlog import StreamLog
from streamlog.runtime.directory_lock import DirectoryLock
from streamlog.runtime.disk import OsDisk, OsFile
from streamlog.testing import FaultyDisk, ManualClock, SimulatedDisk
from tests.times import LONG

from .held_files import descriptors

OpenLog = Callable[..., StreamLog]
RunScript = Callable[..., "subprocess.CompletedProcess[str]"]


def test_handles_refuse_to_pickle(log: StreamLog) -> None:
    topic = log.create_topic("t")
    with log.producer() as producer, log.consumer("t") as consumer:
        for handle in (log, topic, producer, consumer, log.group("g"), topic.send(b"x"), topic.read()):
            for make in COPIES:
                with pytest.raises(TypeError):
                    make(handle)


def owned_by(thing: object) -> list[str]:
    """The names of the attributes of `thing` that are a lock, a thread, an open file or a mapping."""
    kinds = (LockType, threading.Thread, mmap.mmap, OsFile)
    slots = [name for kind in type(thing).__mro__ for name in getattr(kind, "__slots__", ())]
    return [name for name in [*slots, *getattr(thing, "__dict__", ())] if isinstance(getattr(thing, name, None), kinds)]


def descriptors_elsewhere(path: Path) -> list[str]:
    """All but those of a log below `path`, whose threads open and close files meanwhile."""
    return sorted(name for name in descriptors() if not name.startswith(str(path)))


COPIES: list[Callable[[Any], object]] = [copy.copy, copy.deepcopy, pickle.dumps]


def test_whatever_owns_a_lock_a_thread_or_a_file_refuses_to_be_copied(path: Path, open_log: OpenLog) -> None:
    """Every object of the library that is alive while a log is used in every way is tried."""
    log = open_log(path, segment_bytes=2048)
    topic = log.create_topic("t")
    topic.send_many([b"x" * 200] * 40).result()
    producer, consumer = log.producer(linger_ms=1000), log.consumer("t", group="g")
    producer.send("t", b"lingers")
    consumer.poll()
    list(topic.read())
    disk = FaultyDisk(SimulatedDisk())
    of_threads = path / "of threads"
    with (
        streamlog.open(of_threads) as running,
        running.group("g").start(lambda record: None, running.create_topic("t"), until_end=True) as workers,
        streamlog.open("data", disk=disk, clock=ManualClock()) as other,
    ):
        workers.wait(LONG)
        other.create_topic("t").send(b"x")
        owners = [
            each for each in gc.get_objects() if str(type(each).__module__).startswith("streamlog") and owned_by(each)
        ]
        owners += [DirectoryLock(str(path / "lock")), disk.open("/f", create=True), SimulatedDisk().lock("/l")]
        assert len({type(owner) for owner in owners}) > 20
        for owner in owners:
            for make in COPIES:
                before = descriptors_elsewhere(of_threads)
                with pytest.raises(TypeError, match=r"copied|pickled"):
                    make(owner)
                assert descriptors_elsewhere(of_threads) == before, owner


def test_a_copy_that_was_refused_gives_no_lock_away(path: Path, open_log: OpenLog, run_script: RunScript) -> None:
    topic = open_log().create_topic("t")
    delivery = topic.send_many(["a", "b"])
    for thing in (delivery, topic, delivery.result()):
        for make in COPIES:
            with contextlib.suppress(TypeError):
                make(thing)
    gc.collect()
    second = run_script("import sys, streamlog\nstreamlog.open(sys.argv[1])", path)
    assert "LogLockedError" in second.stderr


def test_results_of_many_are_values(log: StreamLog) -> None:
    topic = log.create_topic("t", partitions=2)
    result = topic.send_many([b"a", b"b", b"c"], ["k", "l", "m"]).result()
    for again in (copy.copy(result), copy.deepcopy(result), pickle.loads(pickle.dumps(result))):
        assert again == result and hash(again) == hash(result) and type(again) is type(result)
        assert list(again) == [result[n] for n in range(3)]
    assert result != topic.send_many([b"a", b"b", b"c"], ["k", "l", "m"]).result()
    assert dataclasses.asdict(Holder(result))["held"] == result


@dataclasses.dataclass
class Holder:
    held: object


def test_a_file_that_is_closed_twice_closes_no_other(tmp_path: Path) -> None:
    file = OsDisk().open(str(tmp_path / "first"), create=True)
    number = file.fd
    file.close()
    with (tmp_path / "second").open("w") as other:
        assert other.fileno() == number, "the number is given again"
        file.close()
        file.__del__()
        other.write("still open")
    lock = DirectoryLock(str(tmp_path / "lock"))
    lock.acquire()
    lock.release()
    with (tmp_path / "third").open("w") as other:
        lock.release()
        lock.abandon()
        lock.__del__()
        other.write("still open")


def test_values_pickle(log: StreamLog) -> None:
    topic = log.create_topic("t")
    metadata = topic.send(b"v", b"k", headers={"h": b"1"}).result()
    (record,) = topic.read()
    values = [
        metadata,
        record,
        topic.partition(0),
        record.topic_partition,
        streamlog.ProducerRecord(b"v"),
        streamlog.OffsetAndMetadata(3),
        streamlog.OffsetAndTimestamp(3, 4),
    ]
    for value in values:
        again = pickle.loads(pickle.dumps(value))
        assert again == value
        assert type(again) is type(value)
        assert copy.deepcopy(value) == value
        assert copy.copy(value) == value


def test_batches_pickle(log: StreamLog) -> None:
    topic = log.create_topic("t")
    topic.send_many([b"a", None, b"c"], [b"1", b"2", None], headers={"h": b"1"})
    (batch,) = topic.read_batches()
    for again in (pickle.loads(pickle.dumps(batch)), copy.copy(batch), copy.deepcopy(batch)):
        assert list(again) == list(batch)
        assert (again.base_offset, again.last_offset, again.next_offset) == (0, 2, 3)
        assert [again.buffers(name) for name in ("key", "value")] == [batch.buffers(name) for name in ("key", "value")]


def test_a_pickled_batch_has_the_buffers_from_before_its_deserializer(log: StreamLog) -> None:
    log.create_topic("t")
    topic = log.topic("t", value_serde=streamlog.serde.json)
    topic.send_many([{"a": 1}, None])
    (batch,) = topic.read_batches()
    again = pickle.loads(pickle.dumps(batch))
    assert (again.values, again.buffers("value")) == (batch.values, batch.buffers("value"))


def test_errors_pickle_with_their_fields(log: StreamLog) -> None:
    topic = log.create_topic("t", max_message_bytes=500)
    topic.send(b"x")
    causes: list[Callable[[], object]] = [
        lambda: log["u"],
        lambda: log.create_topic("t"),
        lambda: log.create_topic("a b"),
        lambda: topic.read(0, start=99),
        lambda: topic.send(b"x" * 1000),
        lambda: topic.send(7),
        lambda: topic.send(b"x", timestamp_ms=-5),
        lambda: topic.send(b"x", partition=9),
        lambda: log.producer(linger=5),
    ]
    for cause in causes:
        with pytest.raises(streamlog.StreamlogError) as caught:
            cause()
        error = caught.value
        again = pickle.loads(pickle.dumps(error))
        assert type(again) is type(error)
        assert str(again) == str(error)
        assert again.retriable == error.retriable
        assert vars(again) == vars(error)
