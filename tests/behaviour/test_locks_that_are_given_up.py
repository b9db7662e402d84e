"""A disk that has hung answers in a moment in which no thread holds the lock of its replica: the thread that comes back, or one that
has waited, finds it released. No caller sees that: each call is made again, with the next leader.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import streamlog
from streamlog import NotLeaderError, StreamLog
from streamlog.broker.api import ProduceRequest
from streamlog.broker.metadata import TopicIdPartition
from streamlog.errors import DiskFullError, StorageError
from streamlog.records import columns
from streamlog.replication.fencing import fence
from streamlog.replication.partition import Partition
from streamlog.runtime.threads import new_lock
from streamlog.storage import copying
from streamlog.testing import SimulatedDisk

from .traffic import eventually, values


class Log:
    """A log of three brokers, and how one is given up in the middle of a call."""

    def __init__(self, log: StreamLog, patch: pytest.MonkeyPatch) -> None:
        self.log, self.patch = log, patch
        self.service: Any = log._engine.service
        self.brokers = self.service.brokers
        self.topic = log.create_topic("t", segment_bytes=1024)
        for n in range(30):
            self.topic.send(b"%d" % n + b"." * 100)
        self.sent = 30
        self.here: Partition = self.service.leader(("t", 0))
        self.at = TopicIdPartition("t", 0, self.topic.id.bytes)
        self.given_up: list[Partition] = []

    def give_up(self, replica: Partition) -> None:
        """As `DiskWatch` does, when it has released the locks and not taken them again."""
        if self.given_up:
            return
        self.given_up.append(replica)
        broker = self.brokers.of(replica)
        error = StorageError("The disk does not answer.", path=broker.directory.path, errno=errno.ETIMEDOUT)
        broker.hung = error
        self.brokers.on_failure(broker, error)
        for each in broker.replicas.all():
            for lock in fence(each, error, new_lock):
                lock.release()

    def in_the_middle(self, where: Any, name: str, replica: Partition | None = None) -> None:
        """Have the next call of this function give the replica up: the leader's, if it is not said."""
        call = getattr(where, name)

        def given_up(*arguments: Any, **options: Any) -> Any:
            self.give_up(replica or self.here)
            return call(*arguments, **options)

        self.patch.setattr(where, name, given_up)

    def request(self) -> ProduceRequest:
        batch = columns.seal(self.here.log.seed, None, [b"new"], 1_700_000_000_000, count=1)
        return ProduceRequest(self.at, [batch])

    def close(self) -> None:
        for replica in self.given_up:  # as the thread does that waits for the call to come back
            broker = next(each for each in self.brokers.all if each.id == replica.broker_id)
            eventually(lambda broker=broker: not (broker.running or broker.is_leaving))
            broker.close_late()
        self.log.close()


@pytest.fixture(params=[False, True], ids=["", "sync"])
def log(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> Iterator[Log]:
    caplog.set_level(logging.CRITICAL + 1, "streamlog")
    with monkeypatch.context() as patch:
        made = Log(streamlog.open("/data", brokers=3, disk=SimulatedDisk(), sync=request.param), patch)
        yield made
        made.close()


def sends(log: Log) -> None:
    log.topic.send("new").result()


def sends_together(log: Log) -> None:
    log.topic.send_many(["new"]).result()


@pytest.mark.parametrize("send", [sends, sends_together])
@pytest.mark.parametrize("name", ["append_one", "append"])
def test_in_the_middle_of_an_append(log: Log, send: Callable[[Log], None], name: str) -> None:
    log.in_the_middle(log.here.log, name)
    send(log)
    log.give_up(log.here)
    assert values(log.log)[log.sent :] == [b"new"]


@pytest.mark.parametrize("send", [sends, sends_together])
def test_in_the_middle_of_a_sync(log: Log, send: Callable[[Log], None]) -> None:
    log.in_the_middle(log.here.log.durability, "sync_files")
    send(log)
    log.give_up(log.here)
    assert values(log.log)[log.sent :] == [b"new"]


def test_in_the_middle_of_an_append_for_a_follower(log: Log) -> None:
    """On the thread of the sender, if that waits for no sync."""
    follower = next(each for each in log.brokers.replicas() if each.name == log.here.name and each is not log.here)
    for where, name in ((copying, "append_copy"), (follower.log, "append_as_follower")):
        log.in_the_middle(where, name, follower)
    while not log.given_up:
        log.topic.send("new").result()
        log.sent += 1
    assert len(values(log.log)) == log.sent


def test_in_the_middle_of_a_deletion(log: Log) -> None:
    log.in_the_middle(log.here.log, "store_start")
    log.topic.delete_records({0: 20})
    assert log.given_up
    assert log.topic.partition(0).log_start_offset == 20


def test_in_the_middle_of_an_append_that_was_refused_before(log: Log) -> None:
    """The disk was full for a change of topics, which is undone now; see `metadata_log`."""
    append, refused = log.here.log.append, [DiskFullError("full", path="x", errno=errno.ENOSPC)]

    def first(*arguments: Any) -> int:
        if refused:
            raise refused.pop()
        log.give_up(log.here)
        return append(*arguments)

    log.patch.setattr(log.here.log, "append", first)
    log.patch.setattr(log.service, "_may_append", lambda: True)
    assert isinstance(log.service.produce(log.request()).error(), NotLeaderError)


def test_in_the_middle_of_a_question_what_a_producer_has_written(log: Log) -> None:
    log.in_the_middle(log.here.log, "producer_state")
    assert isinstance(log.service.producer_state(log.at, 1).error(), NotLeaderError)


def test_in_the_middle_of_a_question_where_an_epoch_ended(log: Log) -> None:
    log.in_the_middle(log.here.log, "epoch_end_offset")
    assert isinstance(log.service.epoch_end_offset(log.here.name, 1).error(), NotLeaderError)


def test_in_the_middle_of_finding_out_what_an_interrupt_left(log: Log) -> None:
    request = log.request()
    log.in_the_middle(log.here.log, "resolve_append")
    assert log.service.settle(request) is None, "it came to no append"
    assert log.given_up
