"""What a group's coordinator says is in its log for good: no failover takes it back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from streamlog import RequestTimedOutError, TopicPartition
from streamlog.broker.controller import GROUPS_TOPIC
from streamlog.errors import NotLeaderError
from streamlog.types import OffsetAndMetadata

from .test_replica_scenarios import T0, Brokers, brokers

GROUPS = TopicPartition(GROUPS_TOPIC, 0)


def begin(b: Brokers) -> Any:
    """A topic with records, a group that has committed 1 of it, and broker 0 as its coordinator; the service."""
    b.log.create_topic("t")
    b.send(b"1", b"2", b"3")
    with b.log.consumer("t", group="g", enable_auto_commit=False) as consumer:
        consumer.poll(1.0, max_records=1)
        consumer.commit()
    b.log.elect_leader(GROUPS, 0)
    b.log.elect_leader(T0, 2)
    b.schedule.elapse(1.0)
    return b.log._engine.service


def commit(service: Any, offset: int) -> Any:
    return service.commit("g", None, -1, {T0: OffsetAndMetadata(offset)})


READS: dict[str, Callable[[Any], Any]] = {
    "committed": lambda service: service.committed("g", None),
    "describe_group": lambda service: service.describe_group("g"),
    "list_groups": lambda service: service.list_groups(),
}


@pytest.mark.parametrize("read", READS.values(), ids=READS)
def test_an_answer_waits_until_what_it_says_is_replicated(read: Callable[[Any], Any]) -> None:
    with brokers(3) as b:
        service = begin(b)
        b.hold(1, 2)
        committing = commit(service, 2)
        answer = read(service)
        assert not committing.done()
        assert not answer.done()
        b.release(1, 2)
        b.schedule.elapse(1.0)
        assert committing.done()
        assert answer.error() is None
        assert read(service).done(), "nothing is under way any more"


def test_a_commit_that_a_failover_takes_back_was_never_answered() -> None:
    with brokers(3) as b:
        service = begin(b)
        b.hold(1, 2)
        committing, answer = commit(service, 2), service.committed("g", None)
        b.fail(0)
        b.release(1, 2)
        for each in (committing, answer):
            assert isinstance(each.error(), NotLeaderError), (
                "what makes the call again gets the next coordinator's answer"
            )
        assert b.log.group("g").committed() == {T0: 1}


def test_a_group_that_is_asked_for_its_commits_meanwhile_says_what_the_next_coordinator_has() -> None:
    with brokers(3) as b:
        service = begin(b)
        b.hold(1, 2)
        committing = commit(service, 2)

        def fail() -> None:
            b.schedule.between = lambda: None
            b.fail(0)
            b.release(1, 2)

        b.schedule.between = fail
        assert b.log.group("g").committed() == {T0: 1}
        assert committing.error() is not None


def test_an_answer_waits_for_a_stuck_follower_as_long_as_a_commit_does() -> None:
    with brokers(3) as b:
        service = begin(b)
        b.hold(1, 2)
        committing, answer = commit(service, 2), service.committed("g", None)
        b.schedule.elapse(6.0)
        assert isinstance(committing.error(), RequestTimedOutError)
        assert isinstance(answer.error(), RequestTimedOutError)
        again = service.committed("g", None)  # of a coordinator that has loaded the groups again
        assert not again.done()
        b.schedule.elapse(6.0)
        assert again.done()
        b.schedule.elapse(20.0)
        assert b.log.group("g").committed() == {T0: 2}, "the leader goes on alone"
