"""How partitions are spread over members: range, roundrobin, sticky, cooperative-sticky.

Pure functions of subscriptions and partition counts, with Kafka's results. Members come in Kafka's
order: static members first, by instance id, then the others by member id. The group moves partitions from the old
assignment to the new one, in the same way for all four, so `sticky` and `cooperative-sticky` differ in name only.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple, TypeAlias

from ..errors import ConfigError, did_you_mean
from ..types import TopicPartition

Assignment: TypeAlias = dict[str, frozenset[TopicPartition]]


class Subscription(NamedTuple):
    """One member as an assignor sees it. `owned` is what it had so far, for the sticky assignors."""

    topics: frozenset[str]
    owned: frozenset[TopicPartition] = frozenset()
    instance_id: str | None = None


class Assignor(NamedTuple):
    """A named way to spread partitions.

    `assign(members by id, partition counts by topic)` gives every member a set, which may be empty; every partition of a
    topic with a subscriber is in exactly one. A topic without a count has no partitions.
    """

    name: str
    assign: Callable[[Mapping[str, Subscription], Mapping[str, int]], Assignment]


def in_order(members: Mapping[str, Subscription]) -> list[str]:
    """Member ids in Kafka's order: static members by instance id, then the others by member id."""

    def order(member: str) -> tuple[bool, str]:
        instance_id = members[member].instance_id
        return (True, member) if instance_id is None else (False, instance_id)

    return sorted(members, key=order)


def _subscribers(members: Mapping[str, Subscription], partitions: Mapping[str, int]) -> dict[str, list[str]]:
    topics: dict[str, list[str]] = {}
    for member in in_order(members):
        for topic in members[member].topics:
            if partitions.get(topic, 0) > 0:
                topics.setdefault(topic, []).append(member)
    return dict(sorted(topics.items()))


def _frozen(spread: Mapping[str, Iterable[TopicPartition]]) -> Assignment:
    return {member: frozenset(held) for member, held in spread.items()}


def assign_range(members: Mapping[str, Subscription], partitions: Mapping[str, int]) -> Assignment:
    """Consecutive partitions of each topic to one member; the first members get the larger shares.

    >>> spread = assign_range({"a": Subscription(frozenset("t")), "b": Subscription(frozenset("t"))}, {"t": 3})
    >>> sorted(tp.partition for tp in spread["a"]), [tp.partition for tp in spread["b"]]
    ([0, 1], [2])
    """
    spread: dict[str, list[TopicPartition]] = {member: [] for member in members}
    for topic, subscribers in _subscribers(members, partitions).items():
        share, larger = divmod(partitions[topic], len(subscribers))
        start = 0
        for position, member in enumerate(subscribers):
            end = start + share + (position < larger)
            spread[member] += [TopicPartition(topic, number) for number in range(start, end)]
            start = end
    return _frozen(spread)


def assign_roundrobin(members: Mapping[str, Subscription], partitions: Mapping[str, int]) -> Assignment:
    """All partitions in order of topic and number, in turn to the members that subscribe to the topic."""
    spread: dict[str, list[TopicPartition]] = {member: [] for member in members}
    ring = deque(in_order(members))
    for topic in _subscribers(members, partitions):
        for number in range(partitions[topic]):
            while topic not in members[ring[0]].topics:
                ring.rotate(-1)
            spread[ring[0]].append(TopicPartition(topic, number))
            ring.rotate(-1)
    return _frozen(spread)


def assign_sticky(members: Mapping[str, Subscription], partitions: Mapping[str, int]) -> Assignment:
    """As balanced as the subscriptions allow, with as few moves from `owned` as that allows.

    A partition that two members claim stays with the first. With equal subscriptions the counts differ by at most one, and
    the cost is O(partitions); otherwise there are some more passes over members times topics.
    """
    subscribers = _subscribers(members, partitions)
    claimed: set[TopicPartition] = set()
    spread: dict[str, list[TopicPartition]] = {}
    for member in in_order(members):
        subscription = members[member]
        kept = sorted(
            tp
            for tp in subscription.owned
            if tp[0] in subscription.topics and 0 <= tp[1] < partitions.get(tp[0], 0) and tp not in claimed
        )
        claimed.update(kept)
        spread[member] = kept
    everybody = len(members)
    if all(len(names) == everybody for names in subscribers.values()):
        everything = [TopicPartition(topic, number) for topic in subscribers for number in range(partitions[topic])]
        _spread_evenly(spread, everything)
    else:
        _Balance(spread, subscribers, partitions).run()
    return _frozen(spread)


def _spread_evenly(spread: dict[str, list[TopicPartition]], everything: Sequence[TopicPartition]) -> None:
    """Kafka's constrained assignment: every member may have every partition, so only the counts matter."""
    if not spread:
        return
    quota, larger = divmod(len(everything), len(spread))
    short: deque[str] = deque()
    exact: deque[str] = deque()
    for member, kept in spread.items():
        if len(kept) < quota:
            short.append(member)
        elif len(kept) > quota and larger:
            larger -= 1
            del kept[quota + 1 :]
        else:
            del kept[quota:]
            exact.append(member)
    taken = {tp for kept in spread.values() for tp in kept}
    for tp in everything:
        if tp in taken:
            continue
        if short:
            member = short.popleft()
            (exact if len(spread[member]) + 1 == quota else short).append(member)
        else:
            member = exact.popleft()
        spread[member].append(tp)


class _Balance:
    """The spread for unequal subscriptions.

    Partitions without an owner go to the least loaded member that may have them. Then, while there is a member with at least
    two partitions more than another one that it can pass a partition to, directly or through members in between, one
    partition moves along each step of the shortest such chain. When no chain is left the assignment is optimal (the theorem on semi-matchings of Harvey, Ladner, Lovász and Tamir); Kafka's own
    pairwise exchanges can stop short of that.
    """

    def __init__(
        self,
        spread: dict[str, list[TopicPartition]],
        subscribers: Mapping[str, list[str]],
        partitions: Mapping[str, int],
    ) -> None:
        self.spread = spread
        self.subscribers = subscribers
        self.partitions = partitions
        self.before = {tp: member for member, kept in spread.items() for tp in kept}

    def run(self) -> None:
        for topic in sorted(self.subscribers, key=lambda name: (len(self.subscribers[name]), name)):
            for number in range(self.partitions[topic]):
                tp = TopicPartition(topic, number)
                if tp not in self.before:
                    self.spread[min(self.subscribers[topic], key=self.load_of)].append(tp)
        while self._improve():
            pass

    def load_of(self, member: str) -> int:
        return len(self.spread[member])

    def _improve(self) -> bool:
        for member in sorted(self.spread, key=self.load_of, reverse=True):
            chain = self._chain(member)
            if chain:
                for giver, topic, taker in chain:
                    self._move(giver, topic, taker)
                return True
        return False

    def _chain(self, start: str) -> list[tuple[str, str, str]]:
        """The shortest chain that moves the load of one partition from `start` to a member with two less."""
        came: dict[str, tuple[str, str]] = {}
        seen = {start}
        queue = deque([start])
        while queue:
            giver = queue.popleft()
            for topic in dict.fromkeys(tp.topic for tp in self.spread[giver]):
                for taker in self.subscribers[topic]:
                    if taker in seen:
                        continue
                    seen.add(taker)
                    came[taker] = (giver, topic)
                    if self.load_of(taker) <= self.load_of(start) - 2:
                        return self._trace(came, start, taker)
                    queue.append(taker)
        return []

    @staticmethod
    def _trace(came: Mapping[str, tuple[str, str]], start: str, end: str) -> list[tuple[str, str, str]]:
        chain = []
        while end != start:
            giver, topic = came[end]
            chain.append((giver, topic, end))
            end = giver
        return chain

    def _move(self, giver: str, topic: str, taker: str) -> None:
        """Move the partition whose move costs least: one that returns to its owner, then one that the giver did not own."""
        tp = min(
            (tp for tp in self.spread[giver] if tp.topic == topic),
            key=lambda tp: (self.before.get(tp) != taker, self.before.get(tp) == giver, -tp.partition),
        )
        self.spread[giver].remove(tp)
        self.spread[taker].append(tp)


ASSIGNORS: Mapping[str, Assignor] = {
    "range": Assignor("range", assign_range),
    "roundrobin": Assignor("roundrobin", assign_roundrobin),
    "sticky": Assignor("sticky", assign_sticky),
    "cooperative-sticky": Assignor("cooperative-sticky", assign_sticky),
}


CLIENT_NAMES: Mapping[str, str] = {"RoundRobinAssigner": "roundrobin"}
"""What clients call an assignor otherwise: kafkajs."""


def known_assignors(names: Iterable[str]) -> tuple[str, ...]:
    """Those of a client's names that are assignors here, by the names that they have here."""
    found = (CLIENT_NAMES.get(name, name) for name in names)
    return tuple(name for name in found if name in ASSIGNORS)


def check_names(names: Iterable[str]) -> None:
    """Raise ConfigError for a name that no assignor has, or for no name at all."""
    count = 0
    for name in names:
        count += 1
        if name not in ASSIGNORS:
            raise ConfigError(
                f"partition_assignment_strategy names {name!r}, and there is no such assignor"
                f"{did_you_mean(name, ASSIGNORS)}; known are {', '.join(ASSIGNORS)}"
            )
    if not count:
        raise ConfigError(
            "partition_assignment_strategy is empty, and a group needs an assignor; "
            f"name one or more of {', '.join(ASSIGNORS)}"
        )


def choose(preferences: Sequence[Sequence[str]]) -> Assignor:
    """The assignor of a group: each member's list is in its order of preference.

    As in Kafka each member votes for the first of its own names that all members have; most votes
    win, and a tie goes to whichever the first member prefers. Where all have the same order this is
    the first name common to all.

    Raises ConfigError for an unknown name, and where no name is common to all (Kafka's
    InconsistentGroupProtocol).

    >>> choose([["cooperative-sticky", "range"], ["range"]]).name
    'range'
    """
    for names in preferences:
        check_names(names)
    common = [name for name in preferences[0] if all(name in names for names in preferences)]
    if not common:
        lists = "; ".join(sorted({", ".join(names) for names in preferences}))
        raise ConfigError(
            f"the members of this group have no partition_assignment_strategy in common ({lists}); "
            "give them all at least one name that the others have too"
        )
    votes = Counter(next(name for name in names if name in common) for names in preferences)
    return ASSIGNORS[max(common, key=lambda name: votes[name])]
