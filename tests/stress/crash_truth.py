"""What a log has to hold after a crash, and whether it does.

The workload tells the `Truth` what it is about to do and what was acknowledged. The truth is then advanced
along the trace: for the machine after any number of operations it knows which promises had been given.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import combinations, pairwise
from typing import Any
from uuid import UUID

import streamlog
from streamlog import Record, StreamLog, TopicPartition
from streamlog.testing import ManualClock, SimulatedDisk
from tests.sim.schedule import Schedule
from tests.transaction_history import Violation

from . import crash_transactions, replicas
from .crash_transactions import Moves

PATH = "/log"
AFTER = b"sent after the crash"
Pair = tuple[bytes | None, bytes | None]
Found = list[tuple[int, bytes | None, bytes | None]]
Contents = dict[tuple[UUID, int], tuple[int, int, Found]]


@dataclass
class PartitionTruth:
    """One partition. Offsets are dense, so `sent[offset]` is what was sent for it; ends are exclusive.

    From `pending` on it is what a call sends that has not returned yet. The call sends it in batches; where the disk refuses
    some of them, the others are in the log all the same, in their order.
    """

    sent: list[Pair] = field(default_factory=list)
    pending: int = 0
    times: list[int] = field(default_factory=list)
    acknowledged: int = 0
    synced: int = 0
    start_acknowledged: int = 0
    start_tried: int = 0

    def histories(self, end: int, *, fails: bool) -> Iterator[list[Pair]]:
        """What the partition may hold, compaction aside, if it ends at `end`: the beginning of `sent`, and if the disk
        `fails` any others of what is pending in the place of those that it refused."""
        yield self.sent[:end]
        if fails and end > self.pending:
            for some in combinations(self.sent[self.pending :], end - self.pending):
                yield [*self.sent[: self.pending], *some]


@dataclass
class TopicTruth:
    name: str
    compacted: bool
    retention_ms: int | None
    partitions: list[PartitionTruth]
    going: bool = False


@dataclass
class Commits:
    acknowledged: int = 0
    synced: int = 0
    tried: int = 0


@dataclass
class Truth:
    """What had been promised at one moment."""

    now_ms: int
    topics: dict[UUID, TopicTruth] = field(default_factory=dict)
    coming: set[str] = field(default_factory=set)
    commits: dict[tuple[str, TopicPartition], Commits] = field(default_factory=dict)
    tried: dict[UUID, int] = field(default_factory=dict)
    moves: Moves = field(default_factory=Moves)
    fails: bool = False
    """Whether the disk fails."""

    # -- what the workload tells ---------------------------------------------------------------------

    def created(self, id: UUID, name: str, partitions: int, compacted: bool, retention_ms: int | None) -> None:
        self.coming.discard(name)
        self.topics[id] = TopicTruth(name, compacted, retention_ms, [PartitionTruth() for _ in range(partitions)])

    def deleted(self, id: UUID) -> None:
        del self.topics[id]

    def sending(self, id: UUID, number: int, records: list[tuple[bytes | None, bytes | None]]) -> None:
        partition = self.topics[id].partitions[number]
        partition.pending = len(partition.sent)
        partition.sent += records
        partition.times += [self.now_ms] * len(records)

    def acknowledged(self, id: UUID, number: int) -> None:
        partition = self.topics[id].partitions[number]
        partition.acknowledged = partition.pending = len(partition.sent)

    def deleting(self, id: UUID, number: int, before: int) -> None:
        partition = self.topics[id].partitions[number]
        partition.start_tried = max(partition.start_tried, before)

    def deleted_records(self, id: UUID, number: int, before: int) -> None:
        partition = self.topics[id].partitions[number]
        partition.start_acknowledged = max(partition.start_acknowledged, before)

    def synced(self) -> None:
        for topic in self.topics.values():
            for partition in topic.partitions:
                partition.synced = partition.acknowledged
        for commits in self.commits.values():
            commits.synced = commits.acknowledged
        self.moves.synced()

    def committing(self, group: str, name: TopicPartition, offset: int) -> None:
        self.commits.setdefault((group, name), Commits()).tried = offset

    def committing_in(self, id: UUID, offset: int) -> None:
        """A commit for a topic that comes and goes: it may be lost, but is never found in another one of that name."""
        self.tried[id] = max(self.tried.get(id, 0), offset)

    def committed(self, group: str, name: TopicPartition) -> None:
        commits = self.commits[group, name]
        commits.acknowledged = commits.tried

    def weakened(self) -> Truth:
        """A power loss without `sync=True`: nothing but what was synced is owed any more."""
        for topic in self.topics.values():
            for partition in topic.partitions:
                partition.acknowledged = partition.synced
        for commits in self.commits.values():
            commits.acknowledged = commits.synced
        self.moves.weakened()
        return self

    def reborn(self, contents: Contents, found: Mapping[UUID, Any], committed: Mapping[Any, int]) -> None:
        """The log was opened after a crash: what it holds now is what there is, and all of it counts as acknowledged."""
        for id in set(self.topics) - set(found):
            del self.topics[id]
        self.coming.clear()
        for id, (name, partitions, compacted, retention_ms) in found.items():
            if id not in self.topics:
                self.created(id, name, partitions, compacted, retention_ms)
            self.topics[id].going = False
        for (id, number), (start, end, records) in contents.items():
            topic = self.topics[id]
            partition = topic.partitions[number]
            partition.sent = self._history(topic, number, start, end, end, records)
            del partition.times[end:]
            partition.acknowledged = partition.pending = end
            partition.synced = min(partition.synced, end)
            partition.start_tried = max(partition.start_tried, start)
        for key, commits in self.commits.items():
            commits.tried = commits.acknowledged = committed.get(key, 0)
            commits.synced = min(commits.synced, commits.tried)

    # -- what must be so -----------------------------------------------------------------------------

    def compare(self, log: StreamLog, *, strong: bool) -> Contents:
        """Raise Violation unless `log` is one that this truth allows; what is in it.

        `strong`: everything acknowledged has to be there, else only what was before the last `log.sync()`.
        """
        contents: Contents = {}
        found = {topic.id: topic for topic in log.topics() if topic.name != crash_transactions.TOPIC}
        for id, topic in found.items():
            truth = self.topics.get(id)
            if truth is None:
                if topic.name not in self.coming:
                    raise Violation(f"topic {topic.name} ({id}) is there, which was deleted or never created")
                continue
            for number in range(topic.partitions):
                contents[id, number] = self._partition(topic, truth, number, strong)
        for id, truth in self.topics.items():
            if id not in found and not truth.going:
                raise Violation(f"topic {truth.name} ({id}) is gone")
        self._groups(log, strong)
        self.moves.compare(log, strong=strong)
        return contents

    def _partition(self, topic: Any, truth: TopicTruth, number: int, strong: bool) -> Any:
        where = f"{truth.name}-{number}"
        partition = truth.partitions[number]
        info = topic.partition(number)
        start, end = info.log_start_offset, info.log_end_offset
        records: list[Record[Any, Any]] = list(topic.read(number))
        if end > len(partition.sent):
            raise Violation(f"{where} ends at {end}, but {len(partition.sent)} were sent")
        offsets = [record.offset for record in records]
        if any(low >= high for low, high in pairwise(offsets)):
            raise Violation(f"{where} is out of order: {offsets}")
        if offsets and not start <= offsets[0] <= offsets[-1] < end:
            raise Violation(f"{where} holds {start} to {end}, but has {offsets}")
        allowed = max(partition.start_tried, self._expired(truth, partition))
        if not partition.start_acknowledged <= start <= allowed:
            raise Violation(
                f"{where} starts at {start}; {partition.start_acknowledged} were deleted, at most {allowed} may be"
            )
        floor = partition.acknowledged if strong else partition.synced
        if end < floor and start < floor:
            raise Violation(f"{where} ends at {end}, but {floor} was {'acknowledged' if strong else 'synced'}")
        if not truth.compacted and offsets != list(range(start, end)):
            raise Violation(f"{where} holds {start} to {end}, but only {offsets}")
        found = [(record.offset, record.key, record.value) for record in records]
        self._history(truth, number, start, end, floor, found)
        return start, end, found

    def _history(self, truth: TopicTruth, number: int, start: int, end: int, floor: int, records: Found) -> list[Pair]:
        """What was sent for each offset, as far as the partition goes: one history with which `records` agree."""
        violation: Violation | None = None
        for sent in truth.partitions[number].histories(end, fails=self.fails):
            try:
                _agree(f"{truth.name}-{number}", truth, sent, start, floor, records)
            except Violation as error:
                violation = violation or error
            else:
                return sent
        assert violation is not None
        raise violation

    def _expired(self, truth: TopicTruth, partition: PartitionTruth) -> int:
        """How many of the first records retention may have taken."""
        if truth.retention_ms is None:
            return 0
        young = self.now_ms + crash_transactions.SETTLES_MS - truth.retention_ms
        return next((at for at, time in enumerate(partition.times) if time > young), len(partition.times))

    def _groups(self, log: StreamLog, strong: bool) -> None:
        for (group, name), commits in self.commits.items():
            offset = log.group(group).committed().get(name, 0)
            floor = commits.acknowledged if strong else commits.synced
            if not floor <= offset <= commits.tried:
                raise Violation(f"group {group} is at {offset} of {name}: {floor} was committed, {commits.tried} tried")
        names = {topic.name: topic for topic in log.topics()}
        for each in log.groups():
            for name, offset in each.committed().items():
                if name.topic not in names:
                    raise Violation(f"group {each.name} is at {offset} of {name}, which is not there")
                topic = names[name.topic]
                end = topic.partition(name.partition).log_end_offset
                if offset > end:
                    raise Violation(
                        f"group {each.name} is at {offset} of {name}, which ends at {end}: it skips what comes"
                    )
                if topic.id in self.tried and offset > self.tried[topic.id]:
                    raise Violation(f"group {each.name} is at {offset} of {name}: {self.tried[topic.id]} was tried")
                if topic.name == "passing" and topic.id not in self.tried:
                    raise Violation(f"group {each.name} is at {offset} of {name}, in which nothing was committed")


def _agree(where: str, truth: TopicTruth, sent: list[Pair], start: int, floor: int, records: Found) -> None:
    for offset, *pair in records:
        if tuple(pair) != sent[offset]:
            raise Violation(f"{where} has at offset {offset} what was not sent for it: {pair!r:.200}")
    if truth.compacted:
        _keys(where, sent, start, floor, records)


def _keys(where: str, sent: list[Pair], start: int, floor: int, records: Found) -> None:
    """What compaction may not take: each key's last record, as of the end of the log and of what was promised."""
    found = {key: offset for offset, key, _ in records}
    for limit in (len(sent), floor):
        last = {key: offset for offset, (key, _) in enumerate(sent[:limit])}
        for key, offset in last.items():
            if offset < start or found.get(key, -1) >= offset:
                continue
            if key not in found and (key, None) in sent[offset:]:  # deleted, and the tombstone is gone too
                continue
            raise Violation(f"{where}: key {key!r} was sent at {offset}, but is last seen at {found.get(key)}")


def check(state: SimulatedDisk, truth: Truth, *, strong: bool, sync: bool, thorough: bool, brokers: int = 1) -> None:
    """Open the machine after a crash and compare; if `thorough`, go on working with it, verify, and open it again."""
    options: Mapping[str, Any] = {"disk": state, "sync": sync, "brokers": brokers}
    with _open(truth, options) as (log, clock):
        contents = truth.compare(log, strong=strong)
        if not thorough:
            return
        _append(log, contents)
        crash_transactions.go_on(log)
        clock.advance(0)  # what recovery left for the background
        producers = crash_transactions.producer_state(log) if crash_transactions.TOPIC in log else {}
    report = streamlog.verify(PATH, disk=state)
    if not report.ok:
        raise Violation(f"verify: {report}")
    with _open(truth, options) as (log, _):
        for topic in log.topics():
            for number in range(topic.partitions):
                if (topic.id, number) in contents:
                    _compare_again(topic, number, contents[topic.id, number], truth.topics[topic.id])
    if producers:
        crash_transactions.remove_what_is_derived(state, PATH, brokers)
        with _open(truth, options) as (log, _):
            crash_transactions.compare_producer_state(producers, log)


def _append(log: StreamLog, contents: Contents) -> None:
    for topic in log.topics():
        for number in range(topic.partitions):
            if (topic.id, number) in contents:
                start, end, records = contents[topic.id, number]
                offset = topic.send(AFTER, b"after", partition=number).result().offset
                read = [record.value for record in topic.read(number, start=offset)]
                if offset != end or read != [AFTER]:
                    raise Violation(f"{topic.name}-{number} ended at {end}; sent to offset {offset}, read {read}")
                records.append((offset, b"after", AFTER))
                contents[topic.id, number] = start, end + 1, records


def _compare_again(topic: Any, number: int, before: Any, truth: TopicTruth) -> None:
    info = topic.partition(number)
    records = [(record.offset, record.key, record.value) for record in topic.read(number)]
    start, end, known = before
    if truth.compacted:  # a compaction may have run since
        known = [record for record in known if record in records]
        start = info.log_start_offset
    elif truth.retention_ms is not None:
        start = info.log_start_offset
        known = [record for record in known if record[0] >= start]
    if (info.log_start_offset, info.log_end_offset, records) != (start, end, known):
        raise Violation(
            f"{truth.name}-{number} held {start} to {end} before it was closed, now {info.log_start_offset} to "
            f"{info.log_end_offset}: {[r[0] for r in known]} and {[r[0] for r in records]}"
        )


@contextmanager
def _open(truth: Truth, options: Mapping[str, Any]) -> Iterator[tuple[StreamLog, ManualClock]]:
    """A log on a clock that stands at the moment of the crash; of several brokers, with the replicas equal."""
    if options["brokers"] == 1:
        clock = ManualClock(start_ms=truth.now_ms)
        with streamlog.open(PATH, clock=clock, **options) as log:
            crash_transactions.settle(log, lambda: clock.advance(crash_transactions.PAUSE_S))
            yield log, clock
        return
    schedule = Schedule(0, truth.now_ms)
    with schedule.playing(), streamlog.open(PATH, clock=schedule.clock, **options) as log:
        crash_transactions.settle(log, lambda: schedule.elapse(crash_transactions.PAUSE_S))
        replicas.compare(log, lambda: schedule.elapse(0.1))
        yield log, schedule.clock


Event = Callable[[Truth], object]
