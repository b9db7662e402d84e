"""A reader in another process replays what was appended to the groups' log, and comes to the same as one that replays all of it."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import streamlog
import streamlog.broker.tailing.groups as tailing
from streamlog import StreamLog, TopicPartition
from streamlog.broker.replay import replay_groups
from streamlog.runtime.threads import new_lock
from streamlog.testing import FaultyDisk, ManualClock, SimulatedDisk

PATH = "/log"
GROUPS = ("g", "h", "k")


class OtherProcess(FaultyDisk):
    """The same disk, seen by a process that has opened nothing on it."""

    filesystem = object()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def disk() -> SimulatedDisk:
    return SimulatedDisk(1)


@pytest.fixture
def owner(disk: SimulatedDisk, clock: ManualClock) -> Iterator[StreamLog]:
    with streamlog.open(PATH, disk=disk, clock=clock) as log:
        log.create_topic("t", partitions=2).send_many([b"%d" % n for n in range(200)])
        log.create_topic("u").send_many([b"%d" % n for n in range(200)])
        yield log


@pytest.fixture
def reader(owner: StreamLog, disk: SimulatedDisk, clock: ManualClock) -> Iterator[StreamLog]:
    with streamlog.open(PATH, disk=OtherProcess(disk), clock=clock, read_only=True) as log:
        yield log


@pytest.fixture
def starts(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Where each replay of the groups' log began."""
    found: list[int] = []

    def noted(*arguments: Any, start: int = 0) -> int:
        found.append(start)
        return replay_groups(*arguments, start=start)

    monkeypatch.setattr(tailing, "replay_groups", noted)
    return found


def test_commits_are_replayed_once_each(owner: StreamLog, reader: StreamLog, starts: list[int]) -> None:
    group = reader.group("g")
    for offset in range(1, 6):
        owner.group("g").reset(to={TopicPartition("t", 0): offset})
        assert group.committed() == {TopicPartition("t", 0): offset}
        assert group.state == "Empty"
    assert len(starts) == 5 and starts[0] == 0
    assert starts == sorted(set(starts)), "each begins where the last one ended"


def test_a_compaction_and_another_owner_have_it_replayed_from_the_beginning(
    owner: StreamLog, reader: StreamLog, disk: SimulatedDisk, clock: ManualClock, starts: list[int]
) -> None:
    for offset in range(1, 4):
        owner.group("g").reset(to={TopicPartition("t", 0): offset})
    assert reader.group("g").committed() == {TopicPartition("t", 0): 3}
    owner.topic("__consumer_offsets").compact()
    owner.group("g").reset(to={TopicPartition("t", 0): 4})
    assert reader.group("g").committed() == {TopicPartition("t", 0): 4}
    owner.close()
    with streamlog.open(PATH, disk=disk, clock=clock) as again:
        again.group("g").reset(to={TopicPartition("t", 0): 5})
        clock.advance(seconds=1)
        assert reader.group("g").committed() == {TopicPartition("t", 0): 5}
    assert len(starts) >= 3 and set(starts) == {0}


@pytest.mark.filterwarnings("ignore:This consumer gets no records")  # there may be more members than partitions
@pytest.mark.parametrize("seed", range(6))
def test_after_every_change_it_is_what_the_whole_log_says(
    owner: StreamLog, reader: StreamLog, clock: ManualClock, seed: int
) -> None:
    rng = random.Random(seed)
    members: list[streamlog.Consumer[Any, Any]] = []

    def join() -> None:
        if len(members) < 4:
            topics = rng.choice([["t"], ["u"], ["t", "u"]])
            members.append(owner.consumer(*topics, group=rng.choice(GROUPS), enable_auto_commit=False))
            members[-1].poll(max_records=3)

    def poll() -> None:
        if members:
            rng.choice(members).poll(max_records=rng.randrange(1, 9))

    def commit() -> None:
        if members:
            rng.choice(members).commit()

    def leave() -> None:
        if members:
            members.pop(rng.randrange(len(members))).close()

    def in_transaction() -> None:
        with owner.consumer("u", group="x", enable_auto_commit=False) as consumer:
            records = consumer.poll(max_records=5)
            if records:
                with owner.transaction("tx", consumer=consumer) as producer:
                    producer.send("t", b"copied")

    def reset() -> None:
        if not members:
            owner.group("g").reset("t", to=rng.choice(["earliest", "latest"]))

    def compact() -> None:
        owner.topic("__consumer_offsets").compact()

    changes: list[Callable[[], None]] = [
        join,
        join,
        poll,
        poll,
        commit,
        commit,
        commit,
        leave,
        in_transaction,
        reset,
        compact,
    ]
    owner.group("g").reset("t", to="earliest")
    service: Any = reader._engine.service
    for _ in range(40):
        change = rng.choice(changes)
        change()
        anew = tailing.TailedGroups(service, new_lock(), service.real_seconds)
        assert [group.name for group in reader.groups()] == [each.name for each in anew.list()], change
        for name in (*GROUPS, "x"):
            assert reader.group(name).committed() == {
                place: at.offset for place, at in anew.committed(name, None).items()
            }, change
            described = anew.describe(name)
            assert reader.group(name).state == described.state, change
            assert {each.member_id: each.assignment for each in reader.group(name).members()} == {
                each.member_id: each.assignment for each in described.members
            }, change
    for member in members:
        member.close()


class NextOwner:
    """The service of a reader that knows of another owner already, which has not removed the members of the one before."""

    def __init__(self, service: Any) -> None:
        self._service = service

    def __getattr__(self, name: str) -> Any:
        return getattr(self._service, name)

    def living_owner(self) -> str:
        return "next"


def test_nothing_is_replayed_on_top_of_members_that_were_removed_in_memory_alone(
    owner: StreamLog, reader: StreamLog, starts: list[int]
) -> None:
    service: Any = reader._engine.service
    groups = tailing.TailedGroups(NextOwner(service), new_lock(), service.real_seconds)
    with owner.consumer("u", group="g", enable_auto_commit=False) as member:
        for offset in range(1, 4):
            member.poll(max_records=1)
            member.commit()
            described = groups.describe("g")
            assert (described.state, described.members) == ("Empty", ())
            assert [at.offset for at in groups.committed("g", None).values()] == [offset]
    assert starts == [0, 0, 0]
