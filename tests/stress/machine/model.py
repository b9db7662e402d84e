"""What must be so: everything that was sent, acknowledged, handed out, committed and refused."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

PATH = "/log"


class Violation(AssertionError):
    """A promise that was not kept."""


def demand(condition: object, message: str) -> None:
    if not condition:
        raise Violation(message)


Place = tuple[UUID, int]
Settings = dict[str, Any]


@dataclass
class Sent:
    """One record as it was given to a producer; `partition` is None where the key decides."""

    number: int
    producer: int
    topic: UUID
    partition: int | None
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]
    timestamp: int


@dataclass
class PartitionModel:
    """One partition. Ends are exclusive; the first number of each pair survives a kill, the second a power loss too."""

    stored: dict[int, int] = field(default_factory=dict)
    """Offset → number of the record that was acknowledged, or seen, there."""
    end: int = 0
    durable_end: int = 0
    start: int = 0
    durable_start: int = 0
    start_limit: int = 0
    """How far the log start may be by now: through deletions that were tried, and through retention."""
    fewest: int | None = None
    smallest: int | None = None
    """How many records, and bytes, the retention by count and by size had to leave, at any time."""
    compacted_to: int = 0
    """Records before this offset may have been compacted."""

    def acknowledged(self, offset: int, number: int, *, durable: bool) -> None:
        known = self.stored.setdefault(offset, number)
        demand(known == number, f"records {known} and {number} were both given offset {offset}")
        self.end = max(self.end, offset + 1)
        if durable:
            self.durable_end = max(self.durable_end, offset + 1)

    def power_lost(self) -> None:
        self.end, self.start = self.durable_end, self.durable_start
        self.stored = {offset: number for offset, number in self.stored.items() if offset < self.end}


@dataclass
class TopicModel:
    """One topic; of a name that is used again each is another."""

    id: UUID
    name: str
    settings: list[Settings]
    """What its settings may be: more than one where a process died while it changed them."""
    partitions: list[PartitionModel]
    most_partitions: int
    going: bool = False
    dead_letters: bool = False

    def any_setting(self, name: str) -> list[Any]:
        return [settings[name] for settings in self.settings]

    def may_compact(self) -> bool:
        return any("compact" in policy for policy in self.any_setting("cleanup_policy"))

    def grown_to(self, count: int) -> None:
        while len(self.partitions) < count:
            self.partitions.append(PartitionModel())
        self.most_partitions = len(self.partitions)


@dataclass
class Progress:
    """How far a group is in one partition."""

    committed: int | None = None
    durable: int | None = None
    tried: set[int | None] = field(default_factory=set)
    """What a commit that was refused, or one in which the process died, would have made of it."""
    handed: set[int] = field(default_factory=set)
    base: int = 0
    """The group passed over what is before this on purpose: a reset, a seek, "latest" with nothing committed."""
    before: set[int] = field(default_factory=set)
    """What was handed out or passed over before the group was moved, which a power loss may undo until the next sync."""
    back_to: int | None = None
    """A member went back to here, and its commits may too."""
    established: bool = False
    """A member has a position here that it commits, so that "latest" is not asked again."""
    disturbed: bool = True
    """Records may be delivered again: the member that had them left without finishing them."""

    def moved(self, offset: int) -> None:
        """Somebody sets the position: what is before was passed over on purpose, what is behind comes (again)."""
        self.before |= self.handed | set(range(self.base))
        self.base = offset
        self._unsettle(offset)
        self.handed = {known for known in self.handed if known < offset}
        self.disturbed = True

    def sought(self, offset: int) -> None:
        """A member goes elsewhere, and its commits with it; what is committed stays until then."""
        self.base = max(self.base, offset)
        self.back_to = offset if self.back_to is None else min(offset, self.back_to)
        self._unsettle(offset)
        self.disturbed = True

    def _unsettle(self, offset: int) -> None:
        """Until the next sync a power loss may leave what was committed in between."""
        if self.durable is not None:
            self.durable = min(self.durable, offset)

    def passed_over(self, offset: int) -> None:
        self.base = max(self.base, offset)

    def forgotten(self) -> None:
        """The group was deleted: nothing is committed, and without a sync a power loss brings back what was."""
        self.committed = self.durable = self.back_to = None
        self.established, self.disturbed = False, True

    def found(self, committed: int | None) -> None:
        if committed != self.committed and committed is not None:
            if committed > (self.committed or 0):
                self.back_to = None
            if committed > max(self.handed, default=-1):
                self.disturbed = False
        self.committed = committed
        self.tried.clear()

    def cut_to(self, end: int) -> None:
        """A power loss took the records from `end` on: their offsets will be others'."""
        self.handed = {offset for offset in self.handed if offset < end}
        self.before = {offset for offset in self.before if offset < end}
        self.base = min(self.base, end)


@dataclass
class GroupModel:
    name: str
    places: dict[Place, Progress] = field(default_factory=dict)
    going: bool = False
    """Its deletion was tried by a process that died."""

    @property
    def latest(self) -> bool:
        return self.name.startswith("latest")

    def at(self, place: Place) -> Progress:
        return self.places.setdefault(place, Progress())


@dataclass
class Model:
    sent: dict[int, Sent] = field(default_factory=dict)
    topics: dict[UUID, TopicModel] = field(default_factory=dict)
    coming: dict[str, list[tuple[int, Settings]]] = field(default_factory=dict)
    """Topics that processes were making when they died."""
    deleted: dict[UUID, str] = field(default_factory=dict)
    groups: dict[str, GroupModel] = field(default_factory=dict)
    dead: set[tuple[str, int, int, int]] = field(default_factory=set)
    """What workers set aside: topic, partition, offset, number of the record."""
    doomed: bool = False
    """Nothing that is acknowledged now is a promise: the process dies before it is over."""

    def topic(self, name: str) -> TopicModel | None:
        return next((topic for topic in self.topics.values() if topic.name == name), None)

    def group(self, name: str) -> GroupModel:
        return self.groups.setdefault(name, GroupModel(name))

    # -- topics --------------------------------------------------------------------------------------

    def created(self, id: UUID, name: str, partitions: int, settings: Settings) -> TopicModel:
        models = [PartitionModel() for _ in range(partitions)]
        topic = self.topics[id] = TopicModel(id, name, [settings], models, partitions)
        return topic

    def gone(self, id: UUID) -> None:
        """A topic was deleted, and the groups' offsets of it mean nothing any more."""
        self.deleted[id] = self.topics.pop(id).name
        for group in self.groups.values():
            group.places = {place: progress for place, progress in group.places.items() if place[0] != id}

    # -- what is durable -----------------------------------------------------------------------------

    def synced(self) -> None:
        """Everything acknowledged so far is on the device."""
        if self.doomed:
            return
        for topic in self.topics.values():
            for partition in topic.partitions:
                partition.durable_end = partition.end
                partition.durable_start = partition.start
        for group in self.groups.values():
            for progress in group.places.values():
                progress.durable = progress.committed
                progress.before.clear()

    def crashed(self, *, power_loss: bool) -> None:
        """The process died. What it was told before the operation in which it died still holds, as far as it may."""
        for topic in self.topics.values():
            for partition in topic.partitions:
                if power_loss:
                    partition.power_lost()
        for group in self.groups.values():
            for progress in group.places.values():
                progress.established, progress.disturbed = False, True
                if power_loss:
                    progress.handed |= progress.before
                if power_loss and progress.committed != progress.durable:
                    progress.tried.add(progress.committed)
                    progress.committed = progress.durable
