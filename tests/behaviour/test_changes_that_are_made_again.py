"""A change of topics, or of groups, meets a disk that fails, and is made again: it may have been in force the first time.

The call that failed had been recorded, for the disk refused what came after the record. The next attempt raised that the topic
exists already, or is not there any more.
"""

from __future__ import annotations

from collections.abc import Callable
from errno import EIO

import pytest

import streamlog
from streamlog.runtime.api import Completion

from .test_replica_scenarios import LAG_S, PATH, Brokers, brokers

OPS = ("pread", "pwrite", "sync", "any")
MOST_CALLS = 12


def create(log: streamlog.StreamLog) -> None:
    assert log.create_topic("new", partitions=2).partitions == 2


def create_with_a_policy(log: streamlog.StreamLog) -> None:
    assert log.create_topic("new", partitions=2, retention_records=100).config["retention_records"] == 100


def grow(log: streamlog.StreamLog) -> None:
    log["t"].add_partitions(3)
    assert log["t"].partitions == 3


def delete(log: streamlog.StreamLog) -> None:
    log.delete_topic("t")
    assert "t" not in log


def delete_group(log: streamlog.StreamLog) -> None:
    log.group("g").delete()
    assert "g" not in [group.name for group in log.groups()]


CHANGES = {change.__name__: change for change in (create, create_with_a_policy, grow, delete, delete_group)}


def prepare(b: Brokers) -> None:
    b.log.create_topic("t")
    b.send(b"1")
    b.log.group("g").reset("t", to="latest")
    b.settle()


@pytest.mark.slow
@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_made_once_whichever_call_to_the_disk_of_the_controller_fails(change: str, op: str) -> None:
    for nth in range(1, MOST_CALLS):
        with brokers(3) as b:
            prepare(b)
            fault = b.disk.fail(op, EIO, path=f"{PATH}/broker-0/*", nth=nth, times=None)
            CHANGES[change](b.log)
            struck = fault.fired
            b.disk.heal()
        if not struck:
            return


class Lost:
    """A call whose answers are lost, that of the first attempt: it was in force."""

    def __init__(self, call: Callable[..., Completion[object]]) -> None:
        self._call = call
        self.attempts = 0

    def __call__(self, *args: object, **named: object) -> Completion[object]:
        self.attempts += 1
        answer = self._call(*args, **named)
        return answer if self.attempts > 1 else Completion.failed(streamlog.NotLeaderError("the controller has failed"))


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_whose_answer_was_lost_is_done(change: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name = {"grow": "add_partitions", "delete_group": "delete_group", "delete": "delete_topic"}.get(
        change, "create_topic"
    )
    with brokers(3) as b:
        prepare(b)
        service = b.log._engine.service  # type: ignore[attr-defined]
        call = Lost(getattr(service, name))
        monkeypatch.setattr(service, name, call)
        with streamlog.open(
            PATH, disk=b.disk, clock=b.schedule.clock, replica_lag_time_max_ms=int(LAG_S * 1000)
        ) as log:
            CHANGES[change](log)
        assert call.attempts == 2


def test_a_topic_of_another_call_is_not_taken_for_that_of_the_attempt_before() -> None:
    with brokers(3) as b:
        b.log.create_topic("t")
        service = b.log._engine.service  # type: ignore[attr-defined]
        with pytest.raises(streamlog.TopicAlreadyExistsError):
            service.create_topic("t", topic_id=bytes(16)).result()
        with pytest.raises(streamlog.TopicAlreadyExistsError):
            b.log.create_topic("t")
        with pytest.raises(streamlog.UnknownTopicOrPartitionError):
            b.log.delete_topic("unknown")
        with pytest.raises(streamlog.ConfigError):
            b.log["t"].add_partitions(1)
        with pytest.raises(streamlog.GroupIdNotFoundError):
            b.log.group("unknown").delete()
