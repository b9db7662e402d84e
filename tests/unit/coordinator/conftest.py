"""A shard over a list instead of a log, and members that behave: every step ends in a check of all invariants."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import count

import pytest

from streamlog.coordinator import Heartbeat, HeartbeatResult, Shard
from streamlog.coordinator.messages import MemberIdentity
from streamlog.coordinator.schema import LogRecord
from streamlog.errors import StreamlogError
from streamlog.runtime.api import Completion
from streamlog.types import OffsetAndMetadata, TopicPartition
from tests.times import START_MS

DAY_MS = 24 * 60 * 60 * 1000


def partitions(*names: str) -> frozenset[TopicPartition]:
    """`partitions("t0", "t2")` is partitions 0 and 2 of topic t."""
    return frozenset(TopicPartition(name[:-1], int(name[-1])) for name in names)


class World:
    """A shard, its log, and the time. `failing` makes appends fail; `parking` makes them finish later."""

    def __init__(self) -> None:
        self.log: list[LogRecord] = []
        self.topics: dict[str, int] = {"t": 4, "u": 4}
        self.made: dict[str, int] = {}
        self.now_ms = START_MS
        self.now_s = 1000.0
        self.failing: Exception | None = None
        self.parking = False
        self.parked: list[Completion[int]] = []
        self.ids = count(1)
        self.retention_ms: int | None = 7 * DAY_MS
        self.open("1")

    def open(self, incarnation: str, records: Iterable[LogRecord] | None = None) -> None:
        """A process opens the log: all of it is replayed, or just `records`."""
        self.shard = Shard(
            self.append,
            self.topic_id,
            incarnation=incarnation,
            offsets_retention_ms=self.retention_ms,
            new_id=lambda: f"m{next(self.ids)}",
        )
        self.shard.replay(self.log[:] if records is None else records)
        self.shard.loaded(self.now_ms, self.now_s).result()

    def topic_id(self, topic: str) -> bytes | None:
        return b"%s %d" % (topic.encode(), self.made.get(topic, 0)) if topic in self.topics else None

    def make_anew(self, topic: str) -> None:
        """Delete a topic and make another of that name: its partitions are as many, its id is another one."""
        self.made[topic] = self.made.get(topic, 0) + 1

    def append(self, records: Sequence[LogRecord]) -> Completion[int]:
        if self.failing is not None:
            return Completion.failed(self.failing)
        self.log.extend(records)
        if self.parking:
            self.parked.append(Completion())
            return self.parked[-1]
        return Completion.of(len(self.log))

    def compacted(self) -> list[LogRecord]:
        """The log with only the last record of each key, where it lies, as compaction leaves it."""
        last = {key: position for position, (key, _) in enumerate(self.log)}
        return [record for position, record in enumerate(self.log) if last[record[0]] == position]

    def later(self, seconds: float) -> None:
        self.now_s += seconds
        self.now_ms += int(seconds * 1000)

    def member(self, *topics: str, **options: object) -> Member:
        """A member that has not joined yet."""
        return Member(self, frozenset(topics or ("t",)), **options)  # type: ignore[arg-type]

    def joined(self, *topics: str, **options: object) -> Member:
        member = self.member(*topics, **options)
        member.heartbeat()
        return member

    def poll_in_turn(self, *members: Member, rounds: int = 2) -> None:
        for _ in range(rounds):
            for member in members:
                member.poll()

    def wake(self) -> None:
        """What the broker does after each request, and after it has released the lock."""
        for wake in self.shard.take_wakeups():
            wake()
        if self.shard.ready:
            self.shard.check()

    def leave_classic(self, *members: MemberIdentity) -> list[StreamlogError | None]:
        left = self.shard.leave_classic_group("g", members, self.now_ms, self.now_s)
        self.wake()
        return left.result()

    def commit_as(self, member_id: str, generation: int) -> None:
        offsets = {TopicPartition("t", 0): OffsetAndMetadata(1)}
        self.shard.commit("g", member_id, generation, offsets, self.now_ms).result()

    def metadata_changed(self) -> None:
        self.shard.metadata_changed(self.topics, self.now_ms, self.now_s).result()
        self.shard.check()

    def expire(self) -> None:
        self.shard.expire(self.now_s, self.now_ms).result()
        self.wake()

    def commit(self, group: str, offsets: dict[TopicPartition, int]) -> None:
        """Without a member, as a reset does."""
        positions = {partition: OffsetAndMetadata(offset) for partition, offset in offsets.items()}
        self.shard.commit(group, None, -1, positions, self.now_ms).result()

    @property
    def state(self) -> str:
        return self.shard.describe("g").state

    @property
    def epoch(self) -> int:
        return self.shard.describe("g").epoch


class Member:
    """A consumer as the coordinator sees it: it takes and gives up partitions as the coordinator says, when a test asks for it."""

    def __init__(
        self,
        world: World,
        topics: frozenset[str],
        *,
        group: str = "g",
        instance_id: str | None = None,
        assignors: tuple[str, ...] = ("cooperative-sticky", "range"),
        session_timeout_s: float = 45.0,
        max_poll_interval_s: float = 300.0,
        remote: bool = False,
    ) -> None:
        self.world = world
        self.topics = topics
        self.group = group
        self.instance_id = instance_id
        self.assignors = assignors
        self.session_timeout_s = session_timeout_s
        self.max_poll_interval_s = max_poll_interval_s
        self.remote = remote
        self.id = ""
        self.epoch = 0
        self.held: frozenset[TopicPartition] = frozenset()
        self.answer: HeartbeatResult | None = None

    def ask(self, *, polling: bool = True) -> Completion[HeartbeatResult]:
        request = Heartbeat(
            self.group,
            self.id,
            self.epoch,
            self.instance_id,
            "client",
            self.topics,
            self.assignors,
            self.held,
            self.session_timeout_s,
            self.max_poll_interval_s,
            polling,
            self.remote,
        )
        return self.world.shard.heartbeat(request, self.world.topics, self.world.now_ms, self.world.now_s)

    def heartbeat(self, *, polling: bool = True) -> HeartbeatResult:
        """One request: what the answer leaves out is dropped, which only the next request tells."""
        answer = self.ask(polling=polling).result()
        self.world.shard.check()
        self.id, self.epoch, self.held, self.answer = answer.member_id, answer.member_epoch, answer.assignment, answer
        return answer

    def poll(self) -> frozenset[TopicPartition]:
        """A poll of a consumer: having dropped something, it says so in the same poll."""
        before = self.held
        if not before <= self.heartbeat().assignment:
            self.heartbeat()
        return self.held

    def leave(self, *, force: bool = False) -> None:
        world = self.world
        world.shard.leave(self.group, self.id, world.now_ms, world.now_s, force=force).result()
        world.shard.check()

    def commit(self, offsets: dict[TopicPartition, int], epoch: int | None = None) -> None:
        positions = {partition: OffsetAndMetadata(offset) for partition, offset in offsets.items()}
        member_epoch = self.epoch if epoch is None else epoch
        self.world.shard.commit(self.group, self.id, member_epoch, positions, self.world.now_ms).result()
        self.world.shard.check()


@pytest.fixture
def world() -> Iterator[World]:
    """A shard with a topic `t` of four partitions. At the end its log, whole or compacted, must say what it is."""
    world = World()
    yield world
    if not world.shard.ready:
        return
    world.shard.check()
    for records in (world.log, world.compacted()):
        replayed = Shard(world.append, world.topic_id, incarnation="check", new_id=str)
        replayed.replay(records)
        assert replayed.snapshot() == world.shard.snapshot()


@pytest.fixture
def tp() -> object:
    """`tp("t0", "t2")`: partitions 0 and 2 of topic t, as a frozenset."""
    return partitions
