"""Whether a log is one that the model allows. What is found then becomes part of the model."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, Any
from uuid import UUID

from streamlog import PoisonedLogError, StreamLog, StreamlogError

from .model import GroupModel, PartitionModel, Place, Progress, Settings, TopicModel, Violation, demand
from .producers import identity
from .topics import DEFAULTS, LETTERS

if TYPE_CHECKING:
    from .program import Program

FOREVER = 1 << 62


class Checker:
    def __init__(self, program: Program) -> None:
        self._program = program

    @property
    def _log(self) -> StreamLog:
        assert self._program.log is not None
        return self._program.log

    # -- when ----------------------------------------------------------------------------------------

    def opened(self, *, complete: bool) -> None:
        """The log was opened: what a crash left, and what was uncertain, is as it is found now.

        Where the disk failed on the way (not `complete`), less may be seen than is there.
        """
        with self._program.looking():
            self.names()
            try:
                self.everything()
            except StreamlogError:
                if complete:
                    raise
                return
            self.commits()
        if complete:
            self._settle()

    def _settle(self) -> None:
        model = self._program.model
        model.coming.clear()
        found = {topic.id: topic for topic in self._log.topics()}
        for id in [id for id, topic in model.topics.items() if topic.going and id not in found]:
            model.gone(id)
        for id, topic in model.topics.items():
            topic.going = False
            topic.grown_to(found[id].partitions)
            topic.settings = [self._settings(found[id], topic)]

    def everything(self) -> None:
        """Read every partition whole, and compare."""
        if self._program.model.doomed:
            return
        with self._program.looking():
            for topic in self._log.topics():
                model = self._program.model.topics[topic.id]
                for number in range(topic.partitions):
                    try:
                        self._partition(topic, model, number)
                    except PoisonedLogError:
                        if not self._program.hurt:  # else the sync of the open failed, and what may be lost is told
                            raise

    # -- topics --------------------------------------------------------------------------------------

    def names(self) -> None:
        """The topics, their partitions and settings are what the last call that returned made them."""
        model = self._program.model
        if model.doomed:
            return
        found = {topic.id: topic for topic in self._log.topics()}
        for id, topic in found.items():
            if id not in model.topics:
                self._new(topic)
            known = model.topics[id]
            demand(known.name == topic.name, f"topic {known.name} is called {topic.name}")
            demand(
                len(known.partitions) <= topic.partitions <= known.most_partitions,
                f"topic {topic.name} has {topic.partitions} partitions, not {len(known.partitions)}",
            )
            while len(known.partitions) < topic.partitions:
                known.partitions.append(PartitionModel())
            self._settings(topic, known)
        for id, known in model.topics.items():
            demand(id in found or known.going, f"topic {known.name} ({id}) is gone")

    def _new(self, topic: Any) -> None:
        model = self._program.model
        name = model.deleted.get(topic.id)
        demand(name is None, f"topic {topic.name} ({topic.id}) is there again, which was deleted")
        demand(
            topic.name in model.coming, f"topic {topic.name} ({topic.id}) is there, which was refused or never created"
        )
        tried = [
            (partitions, settings or {name: topic.config[name] for name in DEFAULTS if name != "segment_bytes"})
            for partitions, settings in model.coming[topic.name]
        ]
        partitions, settings = next((each for each in tried if self._is_like(topic, *each)), tried[-1])
        made = model.created(topic.id, topic.name, partitions, settings)
        made.dead_letters = topic.name.endswith(LETTERS)

    @staticmethod
    def _is_like(topic: Any, partitions: int, settings: Settings) -> bool:
        return topic.partitions == partitions and {name: topic.config[name] for name in settings} == settings

    def _settings(self, topic: Any, known: TopicModel) -> dict[str, Any]:
        names = known.settings[0]
        found = {name: topic.config[name] for name in names}
        demand(found in known.settings, f"topic {topic.name} has the settings {found}, not {known.settings}")
        return found

    # -- records -------------------------------------------------------------------------------------

    def _partition(self, topic: Any, model: TopicModel, number: int) -> None:
        where, partition = f"{model.name}-{number}", model.partitions[number]
        info = topic.partition(number)
        records = list(topic.read(number))
        start, end = info.log_start_offset, info.high_watermark
        offsets = [record.offset for record in records]
        demand(start <= end <= info.log_end_offset, f"{where}: {info}")
        demand(all(low < high for low, high in pairwise(offsets)), f"{where} is out of order: {offsets}")
        demand(
            not offsets or start <= offsets[0] <= offsets[-1] < end,
            f"{where} holds {start} to {end}, but has {offsets}",
        )
        self._start(where, model, partition, start, info)
        demand(
            end >= partition.end or start >= partition.end,
            f"{where} ends at {end}, but {partition.end} was acknowledged",
        )
        numbers = [self._record(where, model, number, partition, record) for record in records]
        if not model.dead_letters:  # of a record that was handled again, after a reset say, there are two
            demand(len(set(numbers)) == len(numbers), f"{where} has a record twice: {numbers}")
            self._order(where, numbers)
        self._complete(where, model, partition, start, end, dict(zip(offsets, records, strict=True)))
        for offset, found in zip(offsets, numbers, strict=True):
            partition.stored[offset] = found
        partition.end = max(partition.end, end)
        partition.start = max(partition.start, start)
        partition.start_limit = max(partition.start_limit, start)

    def _record(self, where: str, topic: TopicModel, number: int, partition: PartitionModel, record: Any) -> int:
        """The number of a record that may stand where it stands."""
        known = identity(record)
        sent = self._program.model.sent.get(known) if known is not None else None
        if sent is None or known is None:
            raise Violation(f"{where} has at {record.offset} what was never sent: {record!r:.200}")
        there = partition.stored.get(record.offset)
        demand(there in (None, known), f"{where} has record {known} at {record.offset}, where {there} was")
        if topic.dead_letters:
            self._letter(where, record, known)
            return known
        demand(sent.topic == topic.id, f"{where} has record {known}, which was sent to another topic")
        demand(
            sent.partition in (None, number),
            f"{where} has record {known}, which was sent to partition {sent.partition}",
        )
        same = (record.key, record.value, record.headers) == (sent.key, sent.value, sent.headers)
        demand(same, f"{where} has at {record.offset} not what was sent: {record!r:.200}, {sent!r:.200}")
        if topic.any_setting("message_timestamp_type") == ["CreateTime"]:
            demand(
                record.timestamp == sent.timestamp, f"{where}: record {known} has another timestamp, {record.timestamp}"
            )
        return known

    def _letter(self, where: str, record: Any, number: int) -> None:
        """A dead letter is what the source had, with headers that say from where."""
        names = ("dead_letter.topic", "dead_letter.partition", "dead_letter.offset")
        topic, partition, offset = (record.header(name) for name in names)
        letter = (topic.decode(), int(partition), int(offset), number)
        sent = self._program.model.sent[number]
        demand(letter in self._program.model.dead, f"{where}: nobody set {letter} aside")
        demand((record.key, record.value) == (sent.key, sent.value), f"{where}: {record!r:.200} is not {sent!r:.200}")

    def _order(self, where: str, numbers: list[int]) -> None:
        """Records of one producer are in the order in which they were sent."""
        last: dict[int, int] = {}
        for number in numbers:
            producer = self._program.model.sent[number].producer
            demand(
                last.get(producer, -1) < number, f"{where}: record {number} comes after {last.get(producer)}: {numbers}"
            )
            last[producer] = number

    def _start(self, where: str, topic: TopicModel, partition: PartitionModel, start: int, info: Any) -> None:
        demand(start >= partition.start, f"{where} starts at {start}, but {partition.start} were deleted before")
        if start <= max(partition.start_limit, partition.start):
            return
        by_count = partition.fewest is not None and start <= info.log_end_offset - partition.fewest
        # Compaction, or a power loss that took the end, may have left less than retention did.
        shrunk = partition.compacted_to > 0 or self._program.unobserved
        by_size = partition.smallest is not None and (shrunk or info.size_bytes >= partition.smallest)
        demand(by_count or by_size, f"{where} starts at {start}; no more than {partition.start_limit} may be gone")

    def _complete(
        self, where: str, topic: TopicModel, partition: PartitionModel, start: int, end: int, found: Mapping[int, Any]
    ) -> None:
        """No record is missing, but for those that compaction may take."""
        if topic.may_compact():
            partition.compacted_to = max(partition.compacted_to, end)
        last = {record.key: offset for offset, record in found.items()}
        for offset in range(start, end):
            if offset in found:
                continue
            demand(offset < partition.compacted_to, f"{where} holds {start} to {end}, but not {offset}: {list(found)}")
            number = partition.stored.get(offset)
            if number is None:  # it was never acknowledged that something is there
                continue
            sent = self._program.model.sent[number]
            if sent.key is None or sent.value is None or last.get(sent.key, -1) > offset:
                continue
            demand(
                self._was_deleted(topic, partition, sent.key, offset),
                f"{where}: record {number} with key {sent.key!r} at {offset} is gone, and nothing replaced it",
            )

    def _was_deleted(self, topic: TopicModel, partition: PartitionModel, key: bytes, offset: int) -> bool:
        """Whether a tombstone of the key may have come later; it may be gone too by now."""
        before = {number for at, number in partition.stored.items() if at < offset}
        return any(
            sent.topic == topic.id and sent.key == key and sent.value is None and sent.number not in before
            for sent in self._program.model.sent.values()
        )

    # -- retention -----------------------------------------------------------------------------------

    def retained(self) -> None:
        """How far retention may have come by now, with the clock and the settings as they are."""
        now = self._program.clock.time_ms()
        for topic in self._program.model.topics.values():
            for number, partition in enumerate(topic.partitions):
                if topic.may_compact():
                    partition.compacted_to = max(partition.compacted_to, self._end_now(topic, number, partition))
                for settings in topic.settings:
                    if "delete" in settings["cleanup_policy"]:
                        self._expire(topic, number, partition, settings, now)

    def _end_now(self, topic: TopicModel, number: int, partition: PartitionModel) -> int:
        """The end of a partition, also where its last records were not acknowledged."""
        log = self._program.log
        if (
            log is None
            or topic.name not in log
            or log[topic.name].id != topic.id
            or number >= log[topic.name].partitions
        ):
            return partition.end
        return max(partition.end, self._end(topic, number))

    def _expire(
        self, topic: TopicModel, number: int, partition: PartitionModel, settings: Mapping[str, Any], now: int
    ) -> None:
        count, size, age = (settings[name] for name in ("retention_records", "retention_bytes", "retention_ms"))
        if count is not None:
            partition.fewest = count if partition.fewest is None else min(count, partition.fewest)
            partition.start_limit = max(partition.start_limit, self._end_now(topic, number, partition) - count)
        if size is not None:
            partition.smallest = size if partition.smallest is None else min(size, partition.smallest)
        if age is not None:
            live = self._live(topic, partition)
            # What count or size let go is gone first; a young record among it keeps nothing.
            first = max(partition.start, partition.start_limit)
            young = [
                offset
                for offset, record in partition.stored.items()
                if (offset in live or offset >= partition.compacted_to)
                and offset >= first
                and self._timestamp(topic, record) > now - age
            ]
            if (
                size is not None
            ):  # how far it let go is not known: what is young and older than an old record may be gone
                last_old = max(partition.stored.keys() - set(young), default=-1)
                young = [offset for offset in young if offset > last_old]
            partition.start_limit = max(partition.start_limit, min(young, default=FOREVER))

    def _live(self, topic: TopicModel, partition: PartitionModel) -> dict[int, int]:
        """The records that compaction leaves for good: no later one has their key, nor one of unknown offset."""
        last: dict[bytes | None, int] = {}
        for offset in sorted(partition.stored):
            last[self._program.model.sent[partition.stored[offset]].key] = offset
        sent, placed = self._program.model.sent, set(partition.stored.values())
        unplaced = {each.key for each in sent.values() if each.topic == topic.id and each.number not in placed}
        kept = {offset: partition.stored[offset] for offset in last.values()}
        return {
            offset: number
            for offset, number in kept.items()
            if sent[number].value is not None and sent[number].key not in unplaced
        }

    def _timestamp(self, topic: TopicModel, number: int) -> int:
        """When a record was stamped, or late enough where the log stamped it."""
        if topic.any_setting("message_timestamp_type") != ["CreateTime"]:
            return 0
        return self._program.model.sent[number].timestamp

    # -- groups --------------------------------------------------------------------------------------

    def commits(self) -> None:
        """What every group has committed."""
        model = self._program.model
        if model.doomed:
            return
        ids = {topic.name: topic.id for topic in self._log.topics()}
        for group in model.groups.values():
            found: dict[Place, int] = {}
            try:
                committed = self._log.group(group.name).committed()
            except PoisonedLogError:
                if not self._program.hurt:
                    raise
                continue
            for name, offset in committed.items():
                demand(name.topic in ids, f"group {group.name} has an offset of {name.topic}, which is not there")
                found[ids[name.topic], name.partition] = offset
            there = set(ids.values())  # a topic that was being deleted is gone with what was committed of it
            for place in {*found, *(place for place in group.places if place[0] in there)}:
                self._commit(group, place, found.get(place))
            self._lag(group.name)
            group.going = group.going and self._program.hurt

    def _lag(self, name: str) -> None:
        """A group's lag is what its commits say it is."""
        group = self._log.group(name)
        lag = group.lag()
        for place, committed in group.committed().items():
            info = self._log[place.topic].partition(place.partition)
            # Where a failed sync of the open hides what may have been acknowledged, a lag counts it: who reads on is told.
            ends = [info.high_watermark, *([info.log_end_offset] if self._program.hurt else [])]
            expected = {max(0, end - max(committed, info.log_start_offset)) for end in ends}
            demand(lag.get(place) in expected, f"the lag of {name} in {place} is {lag.get(place)}, not {expected}")

    def _commit(self, group: GroupModel, place: Place, committed: int | None) -> None:
        topic = self._program.model.topics[place[0]]
        where = f"group {group.name} in {topic.name}-{place[1]}"
        demand(place[1] < len(topic.partitions), f"{where} has an offset, and there is no such partition")
        progress, partition = group.at(place), topic.partitions[place[1]]
        known = progress.committed
        told_to = committed in progress.tried or (committed is None and group.going)
        if committed == known or told_to or (progress.back_to is not None and (committed or 0) >= progress.back_to):
            pass
        elif committed is None:
            raise Violation(f"{where} has forgotten its offset {known}")
        elif known is not None and committed < known:
            lowered = self._program.unobserved and committed >= min(known, self._end(topic, place[1]))
            demand(lowered, f"{where} went back from {known} to {committed}")
        if committed is not None:
            end = self._end(topic, place[1])
            demand(committed <= end, f"{where} committed {committed}, but the log ends at {end}")
            if self._program.unobserved:
                progress.cut_to(end)
            self._skipped(where, progress, partition, committed, self._info(topic, place[1]).log_start_offset)
        progress.found(committed)
        if self._program.sync or committed is None:
            progress.durable = committed

    def _end(self, topic: TopicModel, number: int) -> int:
        return int(self._info(topic, number).log_end_offset)

    def _info(self, topic: TopicModel, number: int) -> Any:
        with self._program.looking():
            return self._log[topic.name].partition(number)

    def _skipped(self, where: str, progress: Progress, partition: PartitionModel, committed: int, start: int) -> None:
        """No record that is there still, and was never handed out, lies before the commit."""
        skipped = [
            offset for offset in range(max(progress.base, start), committed)
            if offset in partition.stored and offset not in progress.handed and offset >= partition.compacted_to
        ]  # fmt: skip
        demand(not skipped, f"{where} committed {committed}, and {skipped} were never handed out")

    def handed_out(self, group: GroupModel, topic: UUID, record: Any) -> None:
        """A group is given a record: the next one that is there, and none again unless something disturbed it."""
        model = self._program.model.topics.get(topic)
        if model is None:
            return
        progress, partition = group.at((topic, record.partition)), model.partitions[record.partition]
        where = f"group {group.name} in {model.name}-{record.partition}"
        number = identity(record)
        known = partition.stored.get(record.offset)
        demand(number is not None and known in (None, number), f"{where} was given {record!r:.200}, where {known} is")
        demand(
            progress.disturbed or record.offset not in progress.handed,
            f"{where} was given {record.offset} again, and nothing disturbed it",
        )
        self._skipped(where, progress, partition, record.offset, self._info(model, record.partition).log_start_offset)
        progress.handed.add(record.offset)
