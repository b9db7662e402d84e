"""From samples of a log to what is shown of it: rates, histories, lag, and when a group catches up.

A pure state machine: `Sampler.add` takes a `Sample` and returns a `Frame`. Time is what the samples say, so a sample that
comes late makes no rate too high. Its memory is bounded: `HISTORY` numbers for each topic that was written to of late, and for each
group; what is gone is forgotten.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from math import inf
from typing import NamedTuple

from ...types import TopicPartition

HISTORY = 60
"""How many values are kept for a sparkline."""
RATE_S = 10.0
"""A topic's rate is the mean of so long: steady enough to be read, and to sort by."""
GROUP_RATE_S = 30.0
"""A group's rate is the mean of so long: most consumers commit every five seconds."""
COMMITS_S = 6.0
"""Of a group with members that committed nothing for less than this nothing is concluded from that."""
KEEPS_UP_S = 1.0
"""A group that was at most so far from the end, by the rate of its topics, keeps up."""

Ends = tuple[int, int, int]
"""Of a partition: log start offset, log end offset, bytes."""


class TopicSample(NamedTuple):
    """A topic at one time. `ends` is by the partition's number, with None where the partition cannot be read here.

    `id` differs for another topic of the same name. `is_shown`: it is left out of the frame otherwise, but groups may read it.
    """

    id: object
    ends: Sequence[Ends | None]
    is_shown: bool = True
    is_compacted: bool = False


class GroupSample(NamedTuple):
    """A group at one time: its state, how many members it has, what is committed, the topics that it reads."""

    state: str
    members: int
    committed: Mapping[TopicPartition, int]
    topics: frozenset[str]


class BrokerRow(NamedTuple):
    """A broker. `in_sync`: of how many of its `replicas`."""

    id: int
    state: str
    leaders: int
    replicas: int
    in_sync: int
    path: str


class Sample(NamedTuple):
    """A log at one time: `at_s` on a clock that only runs forward, `time_ms` since 1970.

    `groups`: those that were looked at this time; `group_names`: all there are. `warnings` are lines of text, `brokers` is empty
    for a log of one broker.
    """

    at_s: float
    time_ms: int
    topics: Mapping[str, TopicSample]
    groups: Mapping[str, GroupSample]
    group_names: Iterable[str]
    writer: str = ""
    brokers: Sequence[BrokerRow] = ()
    warnings: Sequence[str] = ()


class TopicRow(NamedTuple):
    """A topic as it is shown. A rate is None before the second sample. `history` has records/s, the oldest first."""

    name: str
    partitions: int
    records: int
    size_bytes: int
    records_s: float | None
    bytes_s: float | None
    history: Sequence[float]
    is_compacted: bool


class GroupRow(NamedTuple):
    """A group as it is shown. `history` has its lag, the oldest first.

    `catch_up_s`: how long until its lag is gone if all goes on as it does: 0.0 if it keeps up, infinite if the lag does not get
    less, None if that is not known; nor is then `records_s`, before the first commit that is seen.
    """

    name: str
    state: str
    members: int
    lag: int
    lag_by_topic: Sequence[tuple[str, int]]
    records_s: float | None
    catch_up_s: float | None
    history: Sequence[float]


class Frame(NamedTuple):
    """All that is shown at one time. Topics are in the order of their rates, groups of their lag.

    `total` sums up the topics, with `history` and without a name; `partitions` that cannot be read are in no number but theirs.
    """

    time_ms: int
    writer: str
    total: TopicRow
    topics: Sequence[TopicRow]
    groups: Sequence[GroupRow]
    brokers: Sequence[BrokerRow]
    warnings: Sequence[str]

    def failed(self, time_ms: int, why: str) -> Frame:
        """This frame as the last that is known of a log which cannot be looked at now."""
        return self._replace(
            time_ms=time_ms,
            writer="",
            total=self.total._replace(records_s=None, bytes_s=None),
            topics=[row._replace(records_s=None, bytes_s=None) for row in self.topics],
            groups=[row._replace(records_s=None, catch_up_s=None) for row in self.groups],
            warnings=(why,),
        )


class History:
    """The last values, the oldest first; empty while all are zero."""

    __slots__ = ("values",)

    def __init__(self) -> None:
        self.values = array("d")

    def add(self, value: float) -> None:
        values = self.values
        if value or values:
            values.append(value)
            if len(values) > HISTORY:
                del values[0]
            if not value and not any(values):
                del values[:]

    def mean(self, weights: Sequence[float]) -> float:
        """The mean of the last values, as many as there are `weights`, which belong to them: those of the last ones come last."""
        if not self.values:
            return 0.0
        pairs = zip(reversed(self.values), reversed(weights), strict=False)  # the values before the first were zero
        return sum(value * weight for value, weight in pairs) / sum(weights)


class _Topic:
    """A topic since it was first seen: what it was last, and how many intervals it is known."""

    __slots__ = ("bytes_s", "id", "intervals", "last", "records_s")

    def __init__(self, found: TopicSample) -> None:
        self.id = found.id
        self.last = found.ends
        self.intervals = 0
        self.records_s = History()
        self.bytes_s = History()

    def add(self, found: TopicSample, elapsed_s: float) -> None:
        records = size = 0.0
        if found.ends != self.last:
            for before, now in zip(self.last, found.ends, strict=False):  # there may be new partitions
                if before is not None and now is not None and now[1] > before[1]:  # less after a truncation
                    records += now[1] - before[1]
                    size += _written_bytes(before, now)
            self.last = found.ends
        self.intervals += 1
        self.records_s.add(records / elapsed_s)
        self.bytes_s.add(size / elapsed_s)


def _written_bytes(before: Ends, now: Ends) -> float:
    """How many bytes came between two samples of a partition that grew.

    Where retention or compaction took some away meanwhile, the mean size of what is there now tells.
    """
    start, end, size = now
    if start == before[0] and size >= before[2]:
        return size - before[2]
    return (end - before[1]) * size / max(1, end - start)


class _Group:
    """A group since it was first seen. `past` has when, how many records it had consumed since then, and its lag."""

    __slots__ = ("committed", "past", "row")

    def __init__(self) -> None:
        self.committed: Mapping[TopicPartition, int] = {}
        self.past: deque[tuple[float, int, int]] = deque(maxlen=HISTORY)
        self.row: GroupRow | None = None

    def add(self, name: str, found: GroupSample, topics: Mapping[str, TopicSample], at_s: float) -> None:
        lags = {topic: lag_in(topic, topics[topic], found.committed) for topic in found.topics if topic in topics}
        lag = sum(lags.values())
        consumed = self.past[-1][1] if self.past else 0
        for partition, offset in found.committed.items():
            consumed += max(0, offset - self.committed.get(partition, offset))  # less after a reset
        self.committed = found.committed
        self.past.append((at_s, consumed, lag))
        recent = [each for each in self.past if at_s - each[0] <= GROUP_RATE_S]
        (first_s, before, _), rate = recent[0], None
        catches_up_s = catch_up_s(recent)
        may_commit = found.members > 0 and at_s - first_s < COMMITS_S
        if at_s > first_s and (consumed > before or not may_commit):
            rate = (consumed - before) / (at_s - first_s)
        if catches_up_s == inf and may_commit:
            catches_up_s = None
        by_topic = sorted(lags.items(), key=lambda each: (-each[1], each[0]))
        self.row = GroupRow(
            name, found.state, found.members, lag, by_topic, rate, catches_up_s, [each[2] for each in self.past]
        )


def lag_in(name: str, topic: TopicSample, committed: Mapping[TopicPartition, int]) -> int:
    """How many offsets lie between what is committed and the log end; where nothing is committed, from the log start on."""
    lag = 0
    for number, ends in enumerate(topic.ends):
        if ends is not None:
            start, end, _ = ends
            lag += max(0, end - max(start, committed.get(TopicPartition(name, number), start)))
    return lag


def catch_up_s(past: Sequence[tuple[float, int, int]]) -> float | None:
    """How long until the lag is gone, from (time, consumed, lag), the oldest first; see `GroupRow`.

    Lag grows between commits and falls with each, so the least lag of the older half is compared with that of the newer half.

    >>> catch_up_s([(0.0, 0, 3000), (1.0, 200, 2900), (2.0, 400, 2800)])
    28.0
    >>> catch_up_s([(0.0, 0, 100), (1.0, 0, 200)])
    inf
    """
    lag = past[-1][2]
    if not lag:
        return 0.0
    if len(past) < 2:
        return None
    middle = len(past) // 2
    older_s, _, older = min(past[:middle], key=lambda each: (each[2], -each[0]))
    newer_s, _, newer = min(past[middle:], key=lambda each: (each[2], -each[0]))
    (first_s, consumed, lag_before), (last_s, consumed_last, _) = past[0], past[-1]
    elapsed_s = last_s - first_s
    if elapsed_s <= 0:
        return None
    arriving_s = max(consumed_last - consumed + lag - lag_before, 0) / elapsed_s
    if consumed_last > consumed and newer <= arriving_s * KEEPS_UP_S:
        return 0.0
    shrinks_s = (older - newer) / (newer_s - older_s)
    return lag / shrinks_s if shrinks_s > 0 else inf


class Sampler:
    """See the module. Cost of `add`: O(partitions and groups), 50 ms for 10,000 partitions."""

    def __init__(self) -> None:
        self._at_s: float | None = None
        self._elapsed_s: deque[float] = deque(maxlen=HISTORY)
        self._topics: dict[str, _Topic] = {}
        self._groups: dict[str, _Group] = {}
        self._total = History()

    def add(self, sample: Sample) -> Frame:
        """The frame that shows `sample`, which comes after those of before. One at the same time changes no rate."""
        elapsed_s = 0.0 if self._at_s is None else sample.at_s - self._at_s
        if elapsed_s > 0:
            self._elapsed_s.append(elapsed_s)
        if self._at_s is None or elapsed_s > 0:
            self._at_s = sample.at_s
            self._add_topics(sample, elapsed_s)
            self._add_groups(sample)
            if elapsed_s > 0:
                shown = (self._topics[name].records_s.values for name, each in sample.topics.items() if each.is_shown)
                self._total.add(sum(values[-1] for values in shown if values))
        return self._frame(sample)

    def _add_topics(self, sample: Sample, elapsed_s: float) -> None:
        known, self._topics = self._topics, {}
        for name, found in sample.topics.items():
            topic = known.get(name)
            if topic is None or topic.id != found.id:
                topic = _Topic(found)
            else:
                topic.add(found, elapsed_s)
            self._topics[name] = topic

    def _add_groups(self, sample: Sample) -> None:
        known = self._groups
        self._groups = {name: known.get(name) or _Group() for name in sample.group_names}
        for name, found in sample.groups.items():
            if name in self._groups:
                self._groups[name].add(name, found, sample.topics, sample.at_s)

    def _frame(self, sample: Sample) -> Frame:
        weights = self._weights()
        rows = [self._row(name, found, weights) for name, found in sample.topics.items() if found.is_shown]
        rows.sort(key=lambda row: (-(row.records_s or 0.0), -(row.bytes_s or 0.0), row.name))
        groups = [group.row for group in self._groups.values() if group.row is not None]
        groups.sort(key=lambda row: (-row.lag, row.name))
        return Frame(
            sample.time_ms, sample.writer, self._sum(rows), rows, groups, sample.brokers, tuple(sample.warnings)
        )

    def _weights(self) -> list[float]:
        """The lengths of the last intervals, as many as make up `RATE_S`."""
        weights: list[float] = []
        for elapsed_s in reversed(self._elapsed_s):
            weights.append(elapsed_s)
            if sum(weights) >= RATE_S:
                break
        return weights[::-1]

    def _row(self, name: str, found: TopicSample, weights: list[float]) -> TopicRow:
        topic = self._topics[name]
        records_s = bytes_s = None
        if topic.intervals:
            own = weights[-topic.intervals :]
            records_s, bytes_s = topic.records_s.mean(own), topic.bytes_s.mean(own)
        records = size = 0
        for ends in found.ends:
            if ends is not None:
                records += ends[1] - ends[0]
                size += ends[2]
        history = topic.records_s.values[:]
        return TopicRow(name, len(found.ends), records, size, records_s, bytes_s, history, found.is_compacted)

    def _sum(self, rows: Sequence[TopicRow]) -> TopicRow:
        """All topics that are shown, as one."""
        rates = [(row.records_s, row.bytes_s or 0.0) for row in rows if row.records_s is not None]
        return TopicRow(
            "",
            sum(row.partitions for row in rows),
            sum(row.records for row in rows),
            sum(row.size_bytes for row in rows),
            sum(rate for rate, _ in rates) if rates else None,
            sum(rate for _, rate in rates) if rates else None,
            self._total.values[:],
            any(row.is_compacted for row in rows),
        )
