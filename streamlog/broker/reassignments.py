"""Reassignments: partitions that move to other brokers, or get more or fewer replicas, while they are written and read.

What is under way is in the metadata (KIP-455), so it goes on after a crash: the partition has the replicas of before and after,
those that are added fetch like every follower and join the in-sync set, a replica that stays leads, and then the others leave.
Each of these is a change of the metadata, and each change has a look at what can be done next, on the thread of the timers.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence

from ..errors import ConfigError, StreamlogError
from ..replication import election
from ..replication.replica_set import PartitionRegistration
from ..runtime.api import Completion
from ..runtime.values import refuse_to_copy
from ..types import TopicPartition
from . import controller
from .brokers import Brokers
from .leader_moves import LeaderMoves
from .metadata import Image
from .real_timers import RealTimers
from .topics import Topics

logger = logging.getLogger("streamlog.broker")

RETRY_MS = 1_000
"""How soon (real time) what failed is tried again."""
_ALMOST = 0.99
Targets = Mapping[TopicPartition, tuple[int, ...]]
"""The replicas that partitions are to have."""


class Reassignments:
    """Thread-safe."""

    __reduce_ex__ = refuse_to_copy

    def __init__(self, topics: Topics, brokers: Brokers, moves: LeaderMoves, timers: RealTimers) -> None:
        self._topics = topics
        self._brokers = brokers
        self._moves = moves
        self._timers = timers
        self._under_way: set[str] = set()
        """The topics of which partitions are reassigned; maybe some more."""
        self._waiting: list[tuple[Targets, Completion[None]]] = []

    def open(self) -> None:
        """Go on with what was under way when the log was closed, or crashed."""
        image = self._topics.image
        self._under_way.update(name.topic for name in _moving(image, image.topics))
        self._topics.on_metadata(self._look)
        self._look()

    def close(self, error: StreamlogError) -> None:
        """What is under way goes on at the next open. REQUIRES: the timers have ended."""
        for _, done in self._waiting:
            done.fail(error.copy())

    # -- requests ------------------------------------------------------------------------------------

    def begin(self, topic: str, replicas: Mapping[int, Sequence[int]] | None, factor: int | None) -> Targets:
        """Begin to move partitions to these replicas, the preferred leader first, or all to `factor` replicas; where each goes.

        On return it is recorded. Raises ConfigError for replicas that cannot be, UnknownTopicOrPartitionError.
        """
        brokers = [broker.id for broker in self._brokers.all]
        if factor is not None:
            self._brokers.factor(factor)
        chosen: dict[int, tuple[int, ...]] = {}

        def targets(image: Image) -> dict[int, tuple[int, ...]]:
            view = controller.find(image, topic)
            chosen.clear()
            if factor is not None:
                placed = [election.target_of(image.partition(view.id_bytes, each)) for each in range(view.partitions)]
                chosen.update(enumerate(election.resize(brokers, placed, factor)))
            for number, wanted in (replicas or {}).items():
                chosen[number] = _checked(topic, number, wanted, brokers)
            return chosen

        self._under_way.add(topic)
        self._topics.reassign(topic, targets)
        self._under_way.add(topic)  # a step that came before the change saw nothing under way
        self._look()
        return {TopicPartition(topic, number): target for number, target in chosen.items()}

    def cancel(self, targets: Targets) -> None:
        """Have the partitions that are still on their way to these replicas go back to those that they had."""
        for topic in {name.topic for name in self._left(targets)}:
            self._topics.reassign(topic, lambda image, topic=topic: self._origins(image, topic, targets))  # type: ignore[misc]

    @staticmethod
    def _origins(image: Image, topic: str, targets: Targets) -> dict[int, tuple[int, ...]]:
        return {
            name.partition: election.origin_of(partition)
            for name, partition in _moving(image, [topic]).items()
            if targets.get(name) == election.target_of(partition)
        }

    def all(self) -> dict[TopicPartition, tuple[int, ...]]:
        """Where each partition goes that is reassigned now."""
        return targets_in(self._topics.image, list(self._under_way))

    def _left(self, targets: Targets) -> dict[TopicPartition, PartitionRegistration]:
        return left_in(self._topics.image, targets)

    def progress(self, targets: Targets) -> float:
        """How much of it is done, from 0 to 1: 1 only at the end. Of replicas that are added, it counts what they have."""
        left = self._left(targets)
        return (
            1.0 if not left else (len(targets) - len(left) + sum(map(self._part, left, left.values()))) / len(targets)
        )

    def _part(self, name: TopicPartition, partition: PartitionRegistration) -> float:
        leader = self._brokers.leaders.get(name)
        replicas = None if leader is None else leader.replicas
        if leader is None or replicas is None:
            return 0.0
        start, end = leader.reader.tail.start_offset, leader.reader.tail.end_offset
        followers = [replicas.followers.get(broker) for broker in partition.adding_replicas]
        ends = [start if each is None else max(start, each.end_offset) for each in followers]
        parts = [1.0 if end <= start else min(1.0, (each - start) / (end - start)) for each in ends]
        return _ALMOST * sum(parts) / len(parts) if parts else _ALMOST

    def wait(self, targets: Targets) -> Completion[None]:
        """Done when none of these partitions is on its way any more."""
        done: Completion[None] = Completion()
        self._waiting.append((targets, done))
        self._timers.at(
            self._timers.now_ms(), self.step
        )  # which alone ends a reassignment, and knows that files are gone
        return done

    # -- going on ------------------------------------------------------------------------------------

    def _look(self) -> None:
        """A change of the metadata may have made the next step possible."""
        if self._under_way and self._topics.closed is None:
            self._timers.at(self._timers.now_ms(), self.step)

    def step(self, now_ms: int) -> int | None:
        """Do what can be done; when to come again (ms of real time), or None until the next change."""
        again = None
        for topic in list(self._under_way):
            try:
                self._go_on(topic)
            except StreamlogError as error:
                if self._topics.closed is not None:
                    return None
                logger.warning("the reassignment of %s does not go on yet, and is tried again: %s", topic, error)
                again = now_ms + RETRY_MS
        self._answer()
        return again

    def _go_on(self, topic: str) -> None:
        if any(election.finish(each) is not each for each in _moving(self._topics.image, [topic]).values()):
            self._topics.finish_reassignment(topic)
        moving = _moving(self._topics.image, [topic])
        if not moving:
            self._under_way.discard(topic)
            if _moving(self._topics.image, [topic]):  # another thread has begun one meanwhile
                self._under_way.add(topic)
            return
        for name, partition in moving.items():
            leader = election.successor(partition)
            if leader is not None:
                self._moves.begin(name, leader).on_done(self._moved)

    def _moved(self, done: Completion[None]) -> None:
        """A leader has moved, and the change of the metadata was noticed; or it has not, and is asked again."""
        if done.error() is not None and self._topics.closed is None:
            self._timers.at(self._timers.now_ms() + RETRY_MS, self.step)

    def _answer(self) -> None:
        for each in self._waiting[:]:
            targets, done = each
            if not self._left(targets):
                if each in self._waiting:
                    self._waiting.remove(each)
                done.complete(None)


def _moving(image: Image, topics: Iterable[str]) -> dict[TopicPartition, PartitionRegistration]:
    """The partitions of these topics that are reassigned."""
    views = [view for name in topics if (view := image.topics.get(name)) is not None]
    return {
        TopicPartition(view.name, number): partition
        for view in views
        for number, partition in image.partitions.get(view.id_bytes, {}).items()
        if partition.adding_replicas or partition.removing_replicas
    }


def targets_in(image: Image, topics: Iterable[str]) -> dict[TopicPartition, tuple[int, ...]]:
    """Where each partition of these topics goes that is reassigned."""
    return {name: election.target_of(partition) for name, partition in _moving(image, topics).items()}


def left_in(image: Image, targets: Targets) -> dict[TopicPartition, PartitionRegistration]:
    """The partitions that are still on their way to these replicas."""
    moving = _moving(image, {name.topic for name in targets})
    return {name: each for name, each in moving.items() if targets.get(name) == election.target_of(each)}


def _checked(topic: str, number: int, replicas: Sequence[int], brokers: Sequence[int]) -> tuple[int, ...]:
    unknown = [each for each in replicas if each not in brokers]
    if unknown or not replicas or len(set(replicas)) < len(replicas):
        raise ConfigError(
            f"replicas={{{number}: {list(replicas)!r}}} for topic {topic!r}: the replicas of a partition are different brokers of this "
            f"log ({', '.join(map(str, brokers))}), at least one.",
            name="replicas",
        )
    return tuple(replicas)
