"""What a group writes is taken while enough replicas of the groups' topic are in sync, as what a producer sends with acks="all"."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from streamlog import NotEnoughReplicasError, RequestTimedOutError
from streamlog.coordinator import Heartbeat

from .test_reading_of_commits import GROUPS, begin, commit
from .test_replica_scenarios import T0, Brokers, brokers


def join(service: Any) -> Any:
    return service.heartbeat(
        Heartbeat("new", "", 0, None, None, frozenset({"t"}), ("range",), frozenset(), 45.0, 300.0)
    )


WRITES: dict[str, Callable[[Any], Any]] = {
    "commit": lambda service: commit(service, 2),
    "join": join,
    "delete offsets": lambda service: service.delete_offsets("g", [T0]),
    "delete a group": lambda service: service.delete_group("g"),
}


def end_of_the_groups(b: Brokers) -> int:
    service: Any = b.log._engine.service
    end: int = service.groups_partition(0, False).reader.tail.end_offset
    return end


def stop_two(b: Brokers) -> None:
    b.log.elect_leader(GROUPS, 0)
    for broker in (1, 2):
        b.log.brokers[broker].stop()


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_with_fewer_in_sync_nothing_is_written(write: Callable[[Any], Any]) -> None:
    with brokers(3) as b:
        service = begin(b)
        assert b.log[GROUPS.topic].config["min_insync_replicas"] == 2
        stop_two(b)
        before = end_of_the_groups(b)
        error = write(service).error()
        assert isinstance(error, NotEnoughReplicasError)
        assert error.retriable
        assert end_of_the_groups(b) == before
        assert b.log.group("g").committed() == {T0: 1}, "what is written is read"
        assert [group.name for group in b.log.groups()] == ["g"]
        b.start(1, 2)
        assert write(service).error() is None


def test_a_commit_waits_for_a_second_replica() -> None:
    with brokers(3) as b:
        begin(b)
        with b.log.consumer("t", group="g", enable_auto_commit=False) as consumer:
            assert len(consumer.poll(1.0)) == 2
            stop_two(b)
            assert consumer.poll(1.0) == [], "a member polls on"

            def start() -> None:
                b.schedule.between = lambda: None
                b.log.brokers[1].start()

            b.schedule.between = start
            consumer.commit()
            assert b.log.group("g").committed() == {T0: 3}


def test_a_commit_waits_for_a_second_replica_for_a_minute_at_most() -> None:
    with brokers(3) as b:
        begin(b)
        with b.log.consumer("t", group="g", enable_auto_commit=False) as consumer:
            assert len(consumer.poll(1.0)) == 2
            stop_two(b)
            with pytest.raises(RequestTimedOutError) as error:
                consumer.commit()
            assert isinstance(error.value.__cause__, NotEnoughReplicasError)
            b.start(1, 2)
            consumer.commit()
        assert b.log.group("g").committed() == {T0: 3}
