"""What must be so, whatever happens to the brokers: everything that was sent, acknowledged, seen and committed.

`look` is called after each step, with the disks quiet. It reads every replica of every broker that runs, and demands:

- What was acknowledged with acks="all" is stored, at its offset; what was acknowledged with acks=1 too, unless its leader failed.
- Nothing is stored that was not sent. Of each producer the records are in order, and none is there twice. One exception: a
  record of a producer that is not idempotent, where two elections at least lie between the two (`twice`).
- Below its high watermark every replica has the same record at an offset, for ever, and every reader reads that.
- A member of the in-sync set has everything below the leader's high watermark, and that does not go back.
- What a group has committed does not go back, and no record before it was passed over.

`forgive` is how a loss that the promises allow is told to the history: a power loss without `sync=True`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from streamlog.errors import CorruptRecordError
from streamlog.records.batch import read_header, seed_of, verify_payload
from streamlog.records.decode import decode
from streamlog.storage.tail import LogSnapshot


class Violation(AssertionError):
    """A promise that was not kept."""


def demand(condition: object, message: str) -> None:
    if not condition:
        raise Violation(message)


class Sent(NamedTuple):
    """One record as it was given to a producer: its `number` grows with each record of the producer."""

    producer: int
    number: int
    idempotent: bool


class Stored(NamedTuple):
    """One record as a replica has it."""

    key: bytes | None
    value: bytes | None
    epoch: int


def identity(value: bytes | None) -> bytes:
    return (value or b"").partition(b":")[0]


Place = tuple[bytes, int]
"""A partition: the id of its topic, and its number."""


@dataclass
class Contents:
    """What a replica has, kept from one look to the next: only what is new is read."""

    tail: LogSnapshot | None = None
    segments: dict[str, bytes] = field(default_factory=dict)
    records: dict[int, Stored] = field(default_factory=dict)
    agreed: int = 0
    """Before this offset it was compared with what was seen."""


@dataclass
class PartitionHistory:
    name: str
    internal: bool
    compacted: bool = False
    acknowledged: dict[int, bytes] = field(default_factory=dict)
    """By acks="all"."""
    alone: dict[int, bytes] = field(default_factory=dict)
    """By acks=1, and not known to be on every member of the in-sync set."""
    seen: dict[int, Stored] = field(default_factory=dict)
    high: int = 0
    """The greatest high watermark."""
    start: int = 0
    durable_end: int = 0
    durable_epoch: int = -1
    """What `log.sync` promised, as long as the partition epoch is this one."""
    epoch: int = 0
    """The partition epoch at the last look."""
    isr: tuple[int, ...] = ()
    """The in-sync set at the last look."""
    unclean: int = 0
    """How many leaders were elected that were not in sync: what the others have is lost then."""
    relearns: bool = False
    """After an open the leader learns its high watermark anew."""
    ordered: int = 0
    first: dict[bytes, tuple[int, int]] = field(default_factory=dict)
    """The offset and the leader epoch at which a record was seen first."""
    last: dict[int, int] = field(default_factory=dict)
    """The greatest number of each producer."""

    def forget_before(self, start: int) -> None:
        if start > self.start:
            for promised in (self.acknowledged, self.alone, self.seen):
                for offset in [each for each in promised if each < start]:
                    del promised[offset]  # type: ignore[attr-defined]
            self.start = start
            self.ordered = max(self.ordered, start)

    def forgive(self, end: int) -> None:
        """Nothing is promised of the records from `end` on any more."""
        for promised in (self.acknowledged, self.alone, self.seen):
            for offset in [each for each in promised if each >= end]:
                del promised[offset]  # type: ignore[attr-defined]
        self.high = min(self.high, end)
        self.durable_end = min(self.durable_end, end)
        self.ordered = min(self.ordered, end)
        self.first = {value: found for value, found in self.first.items() if found[0] < end}
        self.last = {}
        self.ordered = self.start
        self.first.clear()


@dataclass
class GroupHistory:
    committed: dict[Place, int] = field(default_factory=dict)
    handed: dict[Place, set[int]] = field(default_factory=dict)


class History:
    def __init__(self, fired: Any) -> None:
        self.fired = fired
        self.failures = 0
        """How often a leader has failed."""
        self.unclean = 0
        """How many leaders were elected that were not in sync."""
        self.damaged: tuple[str, ...] = ()
        """The files of which a byte is not what was written."""
        self.gone: set[int] = set()
        """Brokers whose directory was removed."""
        self.sent: dict[bytes, Sent] = {}
        self.partitions: dict[Place, PartitionHistory] = {}
        self.groups: dict[str, GroupHistory] = {}
        self._contents: dict[tuple[int, bytes, int], Contents] = {}
        self.new: list[tuple[Place, int, bytes]] = []
        """Acknowledged with acks="all" since the last look."""

    # -- what the program is told --------------------------------------------------------------------

    def acknowledged(self, place: Place, offset: int, value: bytes, acks: Any) -> None:
        known = self.partitions.get(place)
        if known is None or offset < known.start or acks == 0:
            return
        self.fired[f"acknowledged, acks={acks}"] += 1
        if acks == 1:
            known.alone[offset] = value
            return
        before = known.acknowledged.setdefault(offset, value)
        demand(before == value, f"{known.name}: {before!r} and {value!r} were both given offset {offset}")
        self.new.append((place, offset, value))

    def read(self, place: Place, record: Any) -> None:
        """A consumer was given a record."""
        known = self.partitions.get(place)
        if known is None:
            return
        found = known.seen.get(record.offset)
        if found is not None and not known.unclean:  # else it may have been fetched from the leader before
            same = (found.key, found.value) == (record.key, record.value)
            demand(same, f"{known.name}: a reader got {record.value!r} at {record.offset}, others {found.value!r}")
        self.fired["read"] += 1

    def handed_out(self, group: str, place: Place, record: Any) -> None:
        self.read(place, record)
        self.groups.setdefault(group, GroupHistory()).handed.setdefault(place, set()).add(record.offset)

    # -- what the program does -----------------------------------------------------------------------

    def leader_failed(self) -> None:
        """A broker failed: what only a leader has that acknowledged it alone may be lost."""
        self.failures += 1
        for known in self.partitions.values():
            known.alone.clear()

    def synced(self, service: Any) -> None:
        """`log.sync` returned."""
        for place, leader, registration in self._led(service):
            known = self.partitions.get(place)
            if known is not None:
                known.durable_end = min(known.high, leader.high_watermark)
                known.durable_epoch = registration.partition_epoch
                known.epoch = registration.partition_epoch

    def closed(self) -> None:
        """The log was closed without an error: all of it is on the devices."""
        for known in self.partitions.values():
            known.durable_end, known.durable_epoch = known.high, -2

    def elections(self, before: Any, after: Any) -> None:
        """The metadata changes."""
        for topic_id, numbers in after.partitions.items():
            known = before.partitions.get(topic_id, {})
            for number, now in numbers.items():
                was = known.get(number)
                if was is not None and now.leader not in (was.leader, -1, *was.isr):
                    self._elected_uncleanly(after, (topic_id, number))

    def _elected_uncleanly(self, image: Any, place: Place) -> None:
        view = image.topics[image.names[place[0]]]
        demand(view.config.unclean_leader_election, f"{view.name}-{place[1]} got a leader that was not in sync")
        self.fired["unclean election"] += 1
        self.unclean += 1
        if place in self.partitions:
            self.forgive(place, 0)
            self.partitions[place].unclean += 1

    def new_process(self) -> None:
        """Every replica is read anew."""
        self._contents.clear()
        for known in self.partitions.values():
            known.relearns = True

    def opened(self, service: Any, *, power_lost: bool) -> None:
        """After an open: what was promised is there, or the loss was allowed (`power_lost`: of what was not on a device)."""
        self._follow(service.image)
        for place, leader, registration in self._led(service):
            known = self.partitions[place]
            view = service.image.topics[service.image.names[place[0]]]
            if known.isr and registration.leader not in known.isr and view.config.unclean_leader_election:
                self._elected_uncleanly(service.image, place)  # maybe: it was recorded, and then the process died
            end = leader.reader.tail.end_offset
            known.forget_before(leader.reader.tail.start_offset)
            if power_lost:
                # Of the members of a later in-sync set not all have synced it. The open itself begins a new epoch.
                is_same_set = known.durable_epoch == known.epoch >= registration.partition_epoch - 1
                kept = known.durable_end if is_same_set else 0
                demand(end >= kept, f"{known.name} ends at {end}, and all before {kept} was synced")
                if known.internal:  # the open has written there already: commits past the ends are lowered
                    self.forgive(place, kept)
                if end < max([known.high, *(each + 1 for each in (*known.acknowledged, *known.alone))]):
                    self.fired["tail lost with the power"] += 1
                    self.forgive(place, end)
            contents = self._read(leader, known)
            if contents is None:
                continue
            for offset, value in (*known.acknowledged.items(), *known.alone.items()):
                found = contents.records.get(offset)
                if found is None and known.compacted:
                    continue
                demand(
                    found is not None and identity(found.value) == value,
                    f"{known.name}: {value!r} was acknowledged at {offset}, and after an open {found} is there",
                )
            demand(end >= known.high, f"{known.name} ends at {end}, and readers saw all before {known.high}")
            if known.durable_epoch == -2:
                known.durable_epoch = registration.partition_epoch
            known.epoch = registration.partition_epoch
        self.new.clear()

    def forgive(self, place: Place, end: int) -> None:
        self.partitions[place].forgive(end)
        for group in self.groups.values():
            group.handed[place] = {each for each in group.handed.get(place, ()) if each < end}
            if place in group.committed:
                group.committed[place] = min(group.committed[place], end)
        for contents in self._contents.values():
            contents.agreed = min(contents.agreed, end)

    def commits_may_be_lost(self) -> None:
        """A power loss without `sync=True`."""
        for group in self.groups.values():
            group.committed.clear()

    # -- looking -------------------------------------------------------------------------------------

    def _follow(self, image: Any) -> None:
        """The topics that there are."""
        there: set[Place] = set()
        for view in image.topics.values():
            for number in range(view.partitions):
                place = view.id_bytes, number
                there.add(place)
                if place not in self.partitions:
                    self.partitions[place] = PartitionHistory(f"{view.name}-{number}", view.internal)
                known = self.partitions[place]
                known.compacted = known.compacted or view.config.compacts
        for place in [place for place in self.partitions if place not in there]:
            del self.partitions[place]
            for group in self.groups.values():
                group.committed.pop(place, None)
                group.handed.pop(place, None)

    def _led(self, service: Any) -> Iterator[tuple[Place, Any, Any]]:
        image = service.image
        for (name, number), leader in list(service.brokers.leaders.items()):
            view = image.topics.get(name)
            if view is not None and view.id_bytes == leader.topic_id and leader.broker_id not in self.gone:
                yield (view.id_bytes, number), leader, image.partition(view.id_bytes, number)

    def look(self, service: Any) -> None:
        """The invariants, over every replica of every broker that runs. Raises Violation."""
        self._follow(service.image)
        led = {place: (leader, registration) for place, leader, registration in self._led(service)}
        replicas: dict[Place, list[Any]] = {}
        for broker in service.brokers.all:
            if broker.id in self.gone or not (broker.running or broker.is_leaving):
                continue
            for replica in broker.replicas.partitions.values():
                replicas.setdefault((replica.topic_id, replica.name.partition), []).append(replica)
        for place, known in self.partitions.items():
            here = replicas.get(place, [])
            known.forget_before(max((each.reader.tail.start_offset for each in here), default=0))
            leader, registration = led.get(place, (None, None))
            if leader is not None:
                known.epoch, known.isr = registration.partition_epoch, registration.isr
                self._look_at_leader(known, leader)
            for replica in here:
                is_member = registration is not None and replica.broker_id in registration.isr
                if known.unclean and not is_member:  # it may have what its leader has not, until it has fetched
                    continue
                self._look_at(known, replica, leader if is_member else None)
            if not known.internal:
                self._look_at_order(known)
            if leader is not None:
                self._look_at_those_alone(known, leader)
        unread = []
        for place, offset, value in self.new:
            known_now = self.partitions.get(place)
            if known_now is None or offset < known_now.start or known_now.compacted or place not in led:
                continue
            found = known_now.seen.get(offset)
            if found is None and self._read(led[place][0], known_now) is None:
                unread.append((place, offset, value))
                continue
            demand(
                found is not None and identity(found.value) == value,
                f"{known_now.name}: {value!r} was acknowledged at {offset}, where readers see {found}",
            )
        self.new = unread

    @staticmethod
    def _look_at_leader(known: PartitionHistory, leader: Any) -> None:
        high = leader.high_watermark
        if high >= known.high:
            known.high, known.relearns = high, False
        demand(
            known.relearns or high >= known.high,
            f"{known.name}: its high watermark was {known.high}, and is {high} at broker {leader.broker_id}",
        )
        end = leader.reader.tail.end_offset
        demand(end >= known.high, f"{known.name} ends at {end} at its leader, and readers saw all before {known.high}")

    def _look_at(self, known: PartitionHistory, replica: Any, leader: Any) -> None:
        """One replica; `leader` is given if it is in sync with it."""
        tail, high = replica.reader.tail, replica.high_watermark
        demand(
            tail.start_offset <= high <= tail.end_offset,
            f"{known.name}: the high watermark {high} of broker {replica.broker_id} is not in its log "
            f"({tail.start_offset} to {tail.end_offset})",
        )
        if leader is not None:
            high = max(high, leader.high_watermark)
            demand(
                tail.end_offset >= high,
                f"{known.name}: broker {replica.broker_id} is in sync and ends at {tail.end_offset}, though the high watermark is {high}",
            )
        contents = self._read(replica, known)
        if contents is None:
            return
        at = max(contents.agreed, known.start, tail.start_offset)
        for offset in range(at, high):
            found, seen = contents.records.get(offset), known.seen.get(offset)
            if found is None:
                demand(
                    known.compacted, f"{known.name}: broker {replica.broker_id} has nothing at {offset}, below {high}"
                )
                continue
            if seen is None:
                known.seen[offset] = found
            else:
                demand(
                    seen == found,
                    f"{known.name}: at {offset} broker {replica.broker_id} has {found}, and readers saw {seen}",
                )
            known.alone.pop(offset, None)
        contents.agreed = max(high, at) if high > at else contents.agreed

    def _look_at_order(self, known: PartitionHistory) -> None:
        while known.ordered < known.high:
            offset = known.ordered
            known.ordered += 1
            stored = known.seen.get(offset)
            if stored is None:
                continue
            value = identity(stored.value)
            sent = self.sent.get(value)
            if sent is None:
                raise Violation(f"{known.name}: {value!r} at {offset} was never sent")
            before = known.first.get(value)
            if before is not None:
                self.fired["twice"] += 1
                demand(
                    twice(sent, before[1], stored.epoch),
                    f"{known.name}: {value!r} is at {before[0]} in epoch {before[1]}, and again at {offset} in epoch {stored.epoch}",
                )
                continue
            known.first[value] = offset, stored.epoch
            last = known.last.get(sent.producer, -1)
            demand(
                sent.number > last,
                f"{known.name}: record {sent.number} of producer {sent.producer} is at {offset}, behind record {last}",
            )
            known.last[sent.producer] = sent.number

    def _look_at_those_alone(self, known: PartitionHistory, leader: Any) -> None:
        if not known.alone or known.compacted:
            return
        contents = self._read(leader, known)
        if contents is None:
            return
        for offset, value in known.alone.items():
            found = contents.records.get(offset)
            demand(
                found is not None and identity(found.value) == value,
                f"{known.name}: {value!r} was acknowledged with acks=1 at {offset}, where the leader has {found}",
            )

    def committed(self, group: str, place: Place, offset: int) -> None:
        """What a group has committed now."""
        known = self.groups.setdefault(group, GroupHistory())
        before = known.committed.get(place, 0)
        partition = self.partitions.get(place)
        name = partition.name if partition is not None else place
        demand(
            offset >= before or (partition is not None and partition.unclean),
            f"group {group} had committed {before} of {name}, and has {offset}",
        )
        known.committed[place] = offset
        if partition is not None and not partition.compacted:
            handed = known.handed.get(place, set())
            missed = not partition.unclean and [
                each
                for each in range(max(partition.start, before), offset)
                if each in partition.seen and each not in handed
            ]
            demand(not missed, f"group {group} has committed {offset} of {name}, and was never given {missed}")

    def unread(self, group: str, place: Place) -> list[int]:
        """The records that the group was never given."""
        partition, handed = self.partitions[place], self.groups[group].handed.get(place, set())
        if partition.compacted or partition.unclean:
            return []
        return [each for each in partition.seen if each >= partition.start and each not in handed]

    # -- the replicas --------------------------------------------------------------------------------

    def all_equal(self, replicas: list[Any]) -> None:
        """Replicas have the same records, from the greatest start on."""
        start = max(each.reader.tail.start_offset for each in replicas)
        known = self.partitions[replicas[0].topic_id, replicas[0].name.partition]
        if known.compacted:  # each compacts by itself
            return
        first, *others = [
            {offset: each for offset, each in contents.records.items() if offset >= start}
            for replica in replicas
            if (contents := self._read(replica, known)) is not None
        ]
        for number, other in enumerate(others, 1):
            demand(
                other == first,
                f"{known.name}: broker {replicas[number].broker_id} has not what broker {replicas[0].broker_id} has",
            )

    def _read(self, replica: Any, known: PartitionHistory) -> Contents | None:
        """What a replica has; None if it is known to be damaged."""
        try:
            return self._contents_of(replica)
        except CorruptRecordError as error:
            demand(
                error.path.startswith(self.damaged),
                f"{known.name}: broker {replica.broker_id} is damaged: {error}",
            )
            return None

    def _contents_of(self, replica: Any) -> Contents:
        """Only what is new is decoded. The disk is quiet."""
        at = replica.broker_id, replica.topic_id, replica.name.partition
        contents = self._contents.get(at)
        if contents is None:
            contents = self._contents[at] = Contents()
        tail = replica.reader.tail
        if contents.tail is tail:
            return contents
        parts: dict[str, bytes] = {}
        is_longer = True
        seed = seed_of(replica.topic_id, replica.name.partition)
        offset = tail.start_offset
        while offset < tail.end_offset:
            fetched = replica.reader.fetch(offset, 1 << 24, tail.end_offset)
            data = bytes(fetched.data)
            if not data:  # compaction has left nothing up to the end
                break
            at = f"{fetched.path} {fetched.position}"
            parts[at] = data
            is_longer = is_longer and data.startswith(contents.segments.get(at, b""))
            offset = _end_of(data, seed, at)
        if not is_longer or [path for path in contents.segments if path not in parts]:
            contents.records, contents.segments = {}, {}
            contents.agreed = 0
        for path, data in parts.items():
            _decode(data, len(contents.segments.get(path, b"")), seed, path, contents.records)
        contents.segments, contents.tail = parts, tail
        return contents


def twice(sent: Sent, first_epoch: int, epoch: int) -> bool:
    """Whether a record may be there twice, appended in these leader epochs.

    Its leader was lost before it was acknowledged, and the next one did not have it, so it was sent again. A third leader has the
    first copy, for it was away meanwhile. Only the sequences of an idempotent producer would tell.
    """
    return not sent.idempotent and epoch - first_epoch >= 2


def _end_of(data: bytes, seed: int, path: str) -> int:
    at = end = 0
    while at < len(data):
        header = read_header(data, at, seed, path, at)
        at, end = at + header.batch_len, header.next_offset
    return end


def _decode(data: bytes, at: int, seed: int, path: str, records: dict[int, Stored]) -> None:
    while at < len(data):
        header = read_header(data, at, seed, path, at)
        verify_payload(header, memoryview(data)[at + header.header_len : at + header.batch_len], seed, path, at)
        for row in zip(*decode(header, data, at).all(), strict=True):
            records[row[0]] = Stored(row[2], row[3], header.leader_epoch)
        at += header.batch_len
