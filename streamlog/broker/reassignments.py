"""Reassignments: partitions that move to other brokers, or get more or fewer replicas, while they are written and read.

What is under way is in the metadata (KIP-455), so it goes on after a crash: the partition has the replicas of before and after,
those that are added fetch like every follower and join the in-sync set, a replica that stays leads, and then the others leave.
Each of these is a change of the metadata, and each change has a look at what can be done next, on the thread of the timers.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from ..errors import ConfigError, NotLeaderError, StreamlogError
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


class Retirement(NamedTuple):
    """A broker that leaves the log; it had so many replicas when that was looked at."""

    broker_id: int
    replicas: int


Moves = Targets | Retirement


class Reassignments:
    """Thread-safe."""

    __reduce_ex__ = refuse_to_copy

    def __init__(self, topics: Topics, brokers: Brokers, moves: LeaderMoves, timers: RealTimers) -> None:
        self._topics = topics
        self._brokers = brokers
        self._moves = moves
        self._timers = timers
        self._under_way: dict[str, None] = {}
        """The topics of which partitions are reassigned; maybe some more. In the order in which that began."""
        self._waiting: list[tuple[Moves, Completion[None]]] = []

    def open(self) -> None:
        """Go on with what was under way when the log was closed, or crashed."""
        image = self._topics.image
        self._under_way.update((name.topic, None) for name in _moving(image, image.topics))
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
        if factor is not None:
            self._brokers.factor(factor, self._topics.image)
        chosen: dict[int, tuple[int, ...]] = {}

        def targets(image: Image) -> dict[int, tuple[int, ...]]:
            view, brokers = controller.find(image, topic), self._brokers.ranks(image)
            chosen.clear()
            if factor is not None:
                placed = [election.target_of(image.partition(view.id_bytes, each)) for each in range(view.partitions)]
                chosen.update(enumerate(election.resize(brokers, placed, factor)))
            for number, wanted in (replicas or {}).items():
                chosen[number] = _checked(topic, number, wanted, brokers)
            return chosen

        self._under_way[topic] = None
        self._topics.reassign(topic, targets)
        self._under_way[topic] = None  # a step that came before the change saw nothing under way
        self._look()
        return {TopicPartition(topic, number): target for number, target in chosen.items()}

    def retire(self, broker_id: int) -> Retirement:
        """Have a broker leave the log: what it has moves to others, which get it evenly; then it is unregistered and closed.

        On return that is recorded. Raises what `controller.retire_broker` raises.
        """
        if not self._brokers.is_replicated:
            raise ConfigError(
                "This log has one broker, which cannot be retired: its records would have no place.", name="broker_id"
            )
        self._topics.retire_broker(broker_id)
        self._look()
        return _retirement(self._topics.image, broker_id)

    def cancel(self, moves: Moves) -> None:
        """Have the partitions that are still on their way to these replicas go back to those that they had; a broker stays."""
        targets = self._keep(moves.broker_id) if isinstance(moves, Retirement) else moves
        for topic in dict.fromkeys(name.topic for name in self._left(targets)):
            self._topics.reassign(topic, lambda image, topic=topic: self._origins(image, topic, targets))  # type: ignore[misc]

    def _keep(self, broker_id: int) -> Targets:
        """Retire a broker no more; where its partitions are on their way."""
        self._topics.keep_broker(broker_id)
        on_it = controller.replicas_on(self._topics.image, broker_id)
        return {name: election.target_of(each) for name, each in on_it if broker_id in each.removing_replicas}

    @staticmethod
    def _origins(image: Image, topic: str, targets: Targets) -> dict[int, tuple[int, ...]]:
        return {
            name.partition: election.origin_of(partition)
            for name, partition in _moving(image, [topic]).items()
            if targets.get(name) == election.target_of(partition)
        }

    def all(self) -> list[Moves]:
        """See `moves_in`."""
        return moves_in(self._topics.image, list(self._under_way))

    def _left(self, moves: Moves) -> dict[TopicPartition, PartitionRegistration]:
        return left_in(self._topics.image, moves)

    def progress(self, moves: Moves) -> float:
        """How much of it is done, from 0 to 1: 1 only at the end. Of replicas that are added, it counts what they have."""
        return progress_of(self._topics.image, moves, self._part)

    def _part(self, name: TopicPartition, partition: PartitionRegistration) -> float:
        leader = self._brokers.leaders.get(name)
        replicas = None if leader is None else leader.replicas
        if leader is None or replicas is None:
            return 0.0
        start, end = leader.reader.tail.start_offset, leader.reader.tail.end_offset
        followers = [replicas.followers.get(broker) for broker in partition.adding_replicas]
        ends = [start if each is None else max(start, each.end_offset) for each in followers]
        parts = [1.0 if end <= start else min(1.0, (each - start) / (end - start)) for each in ends]
        if not parts:
            return _ALMOST if partition.removing_replicas else 0.0
        return _ALMOST * sum(parts) / len(parts)

    def wait(self, moves: Moves) -> Completion[None]:
        """Done when none of these partitions is on its way any more, or the broker has left the log."""
        waited_for = [done for known, done in self._waiting.copy() if known == moves and not done.done()]
        done: Completion[None] = (
            waited_for[0] if waited_for else Completion()
        )  # one, however often a caller's wait ends
        if not waited_for:
            self._waiting.append((moves, done))
        self._timers.at(
            self._timers.now_ms(), self.step
        )  # which alone ends a reassignment, and knows that files are gone
        if self._topics.closed is not None:  # maybe after `close` has looked, and the timers have ended
            done.fail(self._topics.closed.copy())
        return done

    # -- going on ------------------------------------------------------------------------------------

    def _look(self) -> None:
        """A change of the metadata may have made the next step possible."""
        if (self._under_way or self._retiring()) and self._topics.closed is None:
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
        for broker_id in self._retiring():
            try:
                if self._retire_on(broker_id):
                    again = now_ms
            except StreamlogError as error:
                if self._topics.closed is not None:
                    return None
                logger.warning("broker %d cannot be retired yet, and is tried again: %s", broker_id, error)
                again = again or now_ms + RETRY_MS
        self._answer()
        return again

    def _retiring(self) -> list[int]:
        return [broker.id for broker in self._topics.image.brokers.values() if broker.retiring]

    def _retire_on(self, broker_id: int) -> bool:
        """Have the next topic leave a broker, or the broker leave the log when it has nothing; whether there is more to do at once."""
        is_left = True
        for name, partition in controller.replicas_on(self._topics.image, broker_id):
            if broker_id in election.target_of(partition):
                self._under_way[name.topic] = None
                self._topics.reassign(name.topic, lambda image: self._away(image, name.topic, broker_id))  # noqa: B023
                return True
            is_left = False
        if is_left:
            self._unregister(broker_id)
        return False

    def _away(self, image: Image, topic: str, broker_id: int) -> dict[int, tuple[int, ...]]:
        """Where the partitions of a topic go that a broker has: to those that have the fewest replicas."""
        view = image.topics.get(topic)
        brokers = self._brokers.ranks(image)
        if view is None or not image.brokers[broker_id].retiring:
            return {}
        counts = Counter(broker for each in _all_partitions(image) for broker in election.target_of(each))
        targets: dict[int, tuple[int, ...]] = {}
        for number in range(view.partitions):
            before = election.target_of(image.partition(view.id_bytes, number))
            if broker_id in before:
                [targets[number]] = election.resize(brokers, [before], min(len(before), len(brokers)), counts)
        return targets

    def _unregister(self, broker_id: int) -> None:
        broker = self._brokers.by_id(broker_id)
        error = NotLeaderError(f"Broker {broker_id} was retired. Another one leads its partitions; try again.")
        if self._topics.stop_broker(broker_id, None):
            for failure in self._brokers.close_broker(broker, error):
                logger.warning("closing broker %d, which is retired: %s", broker_id, failure)
        self._topics.unregister_broker(broker_id)
        if broker_id not in self._topics.image.brokers:
            self._brokers.remove(broker)
            path = broker.directory.path
            if self._brokers.are_found:
                logger.info("broker %d was retired; its directory %s is left, and can be removed", broker_id, path)
            else:
                logger.warning(
                    "broker %d was retired; keep its directory %s: no other broker is in %s, so that open finds the log by what retired "
                    "ones have there. Before it is removed, add a broker there (log.add_broker)",
                    broker_id, path, self._brokers.root,
                )  # fmt: skip

    def _go_on(self, topic: str) -> None:
        if _finished(self._topics.image, topic):
            self._topics.finish_reassignment(topic, lambda image: self._check_there(_finished(image, topic)))
        moving = _moving(self._topics.image, [topic])
        if not moving:
            self._under_way.pop(topic, None)
            if _moving(self._topics.image, [topic]):  # another thread has begun one meanwhile
                self._under_way[topic] = None
            return
        for name, partition in moving.items():
            leader = election.successor(partition)
            if leader is not None:
                self._moves.begin(name, leader).on_done(self._moved)

    def _check_there(self, after: Iterable[PartitionRegistration]) -> None:
        """Raise LogDirNotFoundError if the directory of an in-sync replica that stays is gone, which may not have been noticed yet.

        The others are about to be removed, and are all that is left then. It is looked under the metadata lock: another change, which
        may take long, comes before that, or after they were removed.
        """
        for broker_id in {broker_id for each in after for broker_id in each.isr}:
            broker = self._brokers.by_id(broker_id)
            self._brokers.watch.run_on(broker, broker.directory.check_owned)

    def _moved(self, done: Completion[None]) -> None:
        """A leader has moved, and the change of the metadata was noticed; or it has not, and is asked again."""
        if done.error() is not None and self._topics.closed is None:
            self._timers.at(self._timers.now_ms() + RETRY_MS, self.step)

    def _answer(self) -> None:
        for each in self._waiting[:]:
            moves, done = each
            if is_done(self._topics.image, moves):
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


def _finished(image: Image, topic: str) -> list[PartitionRegistration]:
    """What becomes of the partitions of a topic whose reassignment can be finished."""
    moving = _moving(image, [topic]).values()
    return [after for before in moving if (after := election.finish(before)) is not before]


def _all_partitions(image: Image) -> Iterator[PartitionRegistration]:
    return (partition for numbers in image.partitions.values() for partition in numbers.values())


def moves_in(image: Image, topics: Iterable[str]) -> list[Moves]:
    """What is under way: where the partitions of each of these topics go, and each broker that is retired, with all that it has."""
    retiring = sorted(broker.id for broker in image.brokers.values() if broker.retiring)
    by_topic: dict[str, dict[TopicPartition, tuple[int, ...]]] = {}
    for name, partition in sorted(_moving(image, topics).items()):
        if not set(retiring).intersection(partition.removing_replicas):
            by_topic.setdefault(name.topic, {})[name] = election.target_of(partition)
    return [*by_topic.values(), *(_retirement(image, each) for each in retiring)]


def _retirement(image: Image, broker_id: int) -> Retirement:
    return Retirement(broker_id, sum(1 for _ in controller.replicas_on(image, broker_id)))


def left_in(image: Image, moves: Moves) -> dict[TopicPartition, PartitionRegistration]:
    """The partitions that are still on their way to these replicas, or that the broker has still."""
    if isinstance(moves, Retirement):
        return dict(controller.replicas_on(image, moves.broker_id))
    moving = _moving(image, dict.fromkeys(name.topic for name in moves))
    return {name: each for name, each in moving.items() if moves.get(name) == election.target_of(each)}


def progress_of(image: Image, moves: Moves, part: Callable[[TopicPartition, PartitionRegistration], float]) -> float:
    """How much of it is done: 1 only at the end. `part`: how much of a partition that is left."""
    if is_done(image, moves):
        return 1.0
    left = left_in(image, moves)
    count = max(moves.replicas if isinstance(moves, Retirement) else len(moves), len(left), 1)
    return min(_ALMOST, (count - len(left) + sum(map(part, left, left.values()))) / count)


def is_done(image: Image, moves: Moves) -> bool:
    if isinstance(moves, Retirement):
        broker = image.brokers.get(moves.broker_id)
        return broker is None or not broker.retiring
    return not left_in(image, moves)


def _checked(topic: str, number: int, replicas: Sequence[int], brokers: Collection[int]) -> tuple[int, ...]:
    unknown = [each for each in replicas if each not in brokers]
    if unknown or not replicas or len(set(replicas)) < len(replicas):
        raise ConfigError(
            f"replicas={{{number}: {list(replicas)!r}}} for topic {topic!r}: the replicas of a partition are different brokers of this "
            f"log ({', '.join(map(str, brokers))}), at least one.",
            name="replicas",
        )
    return tuple(replicas)
