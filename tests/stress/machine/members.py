"""Consumers, in groups and alone: joining, polling, committing, seeking, leaving in every way."""

from __future__ import annotations

import gc
import random
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from uuid import UUID

import streamlog
from streamlog import DeserializationError, RebalanceListener, TopicPartition

from .model import GroupModel, Progress, Violation, demand
from .producers import identity

if TYPE_CHECKING:
    from .program import Program

GROUPS = ["earliest-0", "earliest-1", "latest-0"]
STRATEGIES = {
    "earliest-0": "range", "earliest-1": ["sticky", "range"], "latest-0": ["roundrobin", "cooperative-sticky"],
}  # fmt: skip
MANUAL = "earliest-manual"
_MOST = 5


class Odd(BaseException):
    """What no library plans for."""


class Listener(RebalanceListener):
    """Does nothing; a member that has one is asked before a partition goes."""

    def __repr__(self) -> str:
        return "a listener"


BOMBS: list[type[BaseException]] = [ValueError, SystemExit, MemoryError, TimeoutError, Odd, KeyboardInterrupt]


@dataclass
class Member:
    number: int
    consumer: Any
    group: str | None
    commits: bool
    instance: str | None = None
    manual: bool = False
    in_hand: list[Any] = field(default_factory=list)
    bomb: tuple[int, type[BaseException]] | None = None
    fenced: bool = False
    own: GroupModel = field(default_factory=lambda: GroupModel("earliest-alone"))
    """How far it is, where it is in no group."""

    def deserialize(self, data: bytes) -> bytes:
        """Goes off at the chosen record."""
        if self.bomb is not None:
            left, error = self.bomb
            self.bomb = (left - 1, error) if left else None
            if not left:
                raise error("a deserializer that fails")
        return data


class Members:
    def __init__(self, program: Program) -> None:
        self._program = program
        self._members: list[Member] = []

    @property
    def _log(self) -> streamlog.StreamLog:
        assert self._program.log is not None
        return self._program.log

    def clear(self) -> None:
        self._members = []

    def closing(self) -> None:
        """The log is about to close them: what they have in hand will come again."""
        for member in self._members:
            self._left(member, finished=False)

    def disturbed(self) -> None:
        """The disk failed: what members had finished may not be committed."""
        for group in self._program.model.groups.values():
            for progress in group.places.values():
                progress.disturbed, progress.established = True, False

    # -- coming and going ----------------------------------------------------------------------------

    def join(self, rng: random.Random) -> None:
        names = self._names(rng)
        if len(self._members) >= _MOST or not names:
            return
        alone = rng.random() < 0.15
        group = None if alone else rng.choice([name for name in GROUPS if name not in self._program.without])
        config: dict[str, Any] = {"max_poll_records": rng.choice([1, 3, 500])}
        commits = group is not None and rng.random() < 0.75
        if group is not None:
            config["enable_auto_commit"] = commits
            config["auto_commit_interval_ms"] = rng.choice([0, 0, 5000, 3_600_000])
            config["auto_offset_reset"] = group.partition("-")[0]
            if rng.random() < 0.3:
                config["listener"] = Listener()
            if rng.random() < 0.2:
                config["group_instance_id"] = f"i{rng.randrange(2)}"
            if rng.random() < 0.5:  # those of one group have one in common
                config["partition_assignment_strategy"] = STRATEGIES[group]
        given: list[Any] = [re.compile("[a-d]")] if rng.random() < 0.1 else [*names]
        self._add(group, given, config, commits)

    def _add(self, group: str | None, names: list[Any], config: dict[str, Any], commits: bool) -> None:
        number = self._program.number()
        member = Member(number, None, group, commits, config.get("group_instance_id"))
        self._program.note(f"member {number} of {group}: {names}, {config}")
        member.consumer = self._log.consumer(*names, group=group, value_deserializer=member.deserialize, **config)
        self._members.append(member)
        if group is not None:
            self._program.model.group(group)

    def assign(self, rng: random.Random) -> None:
        """A member of no sharing: it is given its partitions, and commits in a group of its own."""
        names = self._names(rng)
        if len(self._members) >= _MOST or not names:
            return
        commits = rng.random() < 0.7
        # Nothing keeps two of them apart. Before the new one is there: a close that the disk refuses leaves it unassigned.
        for other in [other for other in self._members if other.group == MANUAL]:
            self._drop(other)
            other.consumer.close()
        self._add(MANUAL, [], {"enable_auto_commit": commits, "auto_commit_interval_ms": 0}, commits)
        member = self._members[-1]
        member.manual = True
        topic = self._log[names[0]]
        chosen = [TopicPartition(topic.name, n) for n in range(topic.partitions) if rng.random() < 0.7]
        self._program.note(f"assigned {chosen}")
        member.consumer.assign(chosen or [TopicPartition(topic.name, 0)])
        self._disturb(MANUAL)

    def subscribe(self, rng: random.Random) -> None:
        member, names = self._pick(rng), self._names(rng)
        if member is not None and names and not member.manual:
            self._program.note(f"member {member.number}: {names}")
            member.consumer.subscribe(names)
            if member.group is None:  # nobody remembers how far it was in what it leaves
                topics = self._program.model.topics
                kept = {id for id, model in topics.items() if model.name in names}
                member.own.places = {place: at for place, at in member.own.places.items() if place[0] in kept}

    def leave(self, rng: random.Random) -> None:
        """By a `with` block that ends well, by a bare close, by an exception in the block, by being forgotten."""
        member = self._pick(rng)
        if member is None:
            return
        how = rng.choice(["well", "well", "close", "exception", "forgotten"])
        self._program.note(f"member {member.number}: {how}")
        self._drop(member)
        self._left(member, finished=how == "well")
        if how == "well":
            with member.consumer:
                pass
        elif how == "exception":
            member.consumer.__exit__(ValueError, ValueError(), None)
        elif how == "close":
            member.consumer.close()
        elif member.group is not None:
            self._forgotten(member.group)
        if how != "forgotten":
            self._refuses(member)
        member.consumer = None
        if how == "forgotten":
            gc.collect()

    @staticmethod
    def _refuses(member: Member) -> None:
        """Whatever is closed says so."""
        try:
            member.consumer.poll()
        except streamlog.ClosedError:
            return
        raise Violation("a closed consumer was polled")

    def _drop(self, member: Member) -> None:
        self._members = [known for known in self._members if known is not member]

    def _left(self, member: Member, *, finished: bool) -> None:
        """What a member that goes has in hand is not finished; what one without auto-commit has is not committed."""
        if member.group is None or (finished and member.commits and not member.fenced):
            return
        if member.in_hand or not member.commits or member.fenced:
            self._disturb(member.group)

    def _disturb(self, name: str) -> None:
        for progress in self._program.model.group(name).places.values():
            progress.disturbed = True

    def _forgotten(self, name: str) -> None:
        """Nothing is committed for a member that is collected."""
        for progress in self._program.model.group(name).places.values():
            progress.disturbed, progress.established = True, False

    # -- reading -------------------------------------------------------------------------------------

    def poll(self, rng: random.Random) -> None:
        member = self._pick(rng)
        if member is not None:
            self._poll(member, rng)

    def _poll(self, member: Member, rng: random.Random) -> None:
        most = rng.choice([None, 1, 4])
        columns = rng.random() < 0.2
        self._program.note(f"member {member.number}: poll{'_batches' if columns else ''} of {most}")
        consumer = member.consumer

        def call() -> list[Any]:
            if columns:
                return self._records_of(member, consumer.poll_batches(max_records=most))
            found: list[Any] = consumer.poll(max_records=most)
            return found

        member.in_hand = self._handing(member, call)
        self._program.note(
            f"member {member.number} was given {[(r.topic, r.partition, r.offset) for r in member.in_hand]}"
        )

    def _records_of(self, member: Member, batches: Iterable[Any]) -> list[Any]:
        """The records of batches. They are handed out, whatever a deserializer makes of them when they are looked at."""
        found: list[Any] = []
        for batch in batches:
            try:
                found += batch
            except BaseException:
                for left in batches:
                    progress = self._progress(member, TopicPartition(left.topic, left.partition))
                    if progress is not None:
                        progress.handed.update(left.offsets)
                        progress.disturbed = True
                raise
        return found

    def loop(self, rng: random.Random) -> None:
        """A loop to the end, or one that is left in the middle."""
        member = self._pick(rng)
        if member is not None:
            self._loop(member, rng)

    def _loop(self, member: Member, rng: random.Random) -> None:
        most = rng.choice([1, 3, 10, 1000])
        self._program.note(f"member {member.number}: a loop over {most}")
        given: list[Any] = []

        def call() -> list[Any]:
            for record in member.consumer.until_end():
                given.append(record)
                member.in_hand = [record]
                if len(given) >= most:
                    return given
            member.in_hand = []
            return given

        self._handing(member, call, given)
        self._program.note(f"member {member.number} was given {[(r.topic, r.partition, r.offset) for r in given]}")

    def detonate(self, rng: random.Random) -> None:
        """A deserializer raises whatever it likes: what was taken and not handed out is not lost."""
        member = self._pick(rng)
        if member is None:
            return
        error = rng.choice(BOMBS)
        member.bomb = rng.randrange(6), error
        self._program.note(f"member {member.number}: {error.__name__} at record {member.bomb[0]}")
        try:
            if rng.random() < 0.5:
                self._poll(member, rng)
            else:
                self._loop(member, rng)
        except DeserializationError as failed:
            demand(error is ValueError or issubclass(error, Exception), f"{error} became {failed!r}")
        except (SystemExit, KeyboardInterrupt, Odd, MemoryError, TimeoutError) as odd:
            demand(isinstance(odd, error), f"{error} became {odd!r}")
        finally:
            member.bomb = None

    def _handing(self, member: Member, call: Callable[[], list[Any]], given: list[Any] | None = None) -> list[Any]:
        """Have a member hand out records, and tell the model which, also where an error ends it."""
        self._program.allow(streamlog.FencedInstanceIdError)
        if member.fenced:
            self._program.allow(streamlog.StreamlogError)
        if member.manual:
            self._allow_deleted()
        if any(self._rivals(member, other) for other in self._members):
            self._disturb(str(member.group))  # what the one that is fenced has in hand comes again
        ids = {topic.name: topic.id for topic in self._log.topics()}
        group = None if member.group is None else self._program.model.group(member.group)
        if group is not None and group.latest:
            self._about_to_read(member, group)
        try:
            out = call()
        except streamlog.FencedInstanceIdError:
            member.fenced = True
            raise
        finally:
            if given is not None:
                self._tell(member, group, ids, given)
        if given is None:
            self._tell(member, group, ids, out)
        if group is not None:
            self._assigned(member)
        return out

    @staticmethod
    def _rivals(member: Member, other: Member) -> bool:
        """Whether two consumers claim one place in a group."""
        same = (member.group, member.instance) == (other.group, other.instance)
        return member is not other and member.instance is not None and same

    def _tell(self, member: Member, group: GroupModel | None, ids: dict[str, UUID], records: Iterable[Any]) -> None:
        group = group or member.own
        for record in records:
            id = ids.get(record.topic)
            sent = self._program.model.sent.get(identity(record) or 0)
            if member.manual and sent is not None and sent.topic != id:
                continue  # fetched before its topic was deleted
            demand(
                id is not None, f"group {group.name} was given a record of a topic that is not there: {record!r:.100}"
            )
            assert id is not None
            progress = group.at((id, record.partition))
            if group is member.own:  # nobody else reads for it, so nothing comes twice
                progress.disturbed = False
            self._program.checker.handed_out(group, id, record)
            progress.disturbed = progress.disturbed or not member.commits

    def _about_to_read(self, member: Member, group: GroupModel) -> None:
        """Where a group has no position, or one before the log's start, "latest" passes over what is there."""
        for topic in self._log.topics():
            for number in range(topic.partitions):
                progress = group.at((topic.id, number))
                info = topic.partition(number)
                known = [progress.committed] if progress.committed is not None else []
                if (topic.name, number) in member.consumer.assignment():
                    known.append(member.consumer.position(TopicPartition(topic.name, number)))
                nowhere = progress.committed is None and not progress.established
                if nowhere or any(position < info.log_start_offset for position in known):
                    progress.passed_over(info.high_watermark)

    def _assigned(self, member: Member) -> None:
        if not member.commits:
            return
        for name in member.consumer.assignment():
            progress = self._progress(member, name)
            if progress is not None:
                progress.established = True

    # -- positions -----------------------------------------------------------------------------------

    def seek(self, rng: random.Random) -> None:
        self._allow_deleted()
        member = self._pick(rng)
        assigned = sorted(member.consumer.assignment()) if member is not None else []
        if member is None or not assigned:
            return
        name = rng.choice(assigned)
        bounds = member.consumer.beginning_offsets([name])[name], member.consumer.end_offsets([name])[name]
        to = rng.choice([*bounds, rng.randint(*bounds)])
        self._program.note(f"member {member.number}: {name} to {to}")
        progress = self._progress(member, name)
        if progress is not None:
            progress.moved(to) if member.group is None else progress.sought(to)
        how = rng.random()
        if how < 0.1 and to == bounds[0]:
            member.consumer.seek_to_beginning(name)
        elif how < 0.2 and to == bounds[1]:
            member.consumer.seek_to_end(name)
        else:
            member.consumer.seek(name, to)
        demand(member.consumer.position(name) == to, f"position of {name} is not {to}")
        member.in_hand = [record for record in member.in_hand if record.topic_partition != name]

    def _progress(self, member: Member, name: TopicPartition) -> Progress | None:
        if name.topic not in self._log or name.partition >= self._log[name.topic].partitions:
            return None
        group = member.own if member.group is None else self._program.model.group(member.group)
        return group.at((self._log[name.topic].id, name.partition))

    def pause(self, rng: random.Random) -> None:
        self._allow_deleted()
        member = self._pick(rng)
        assigned = sorted(member.consumer.assignment()) if member is not None else []
        if member is None or not assigned:
            return
        paused = member.consumer.paused()
        if paused:
            self._program.note(f"member {member.number} resumes")
            member.consumer.resume()
        else:
            name = rng.choice(assigned)
            self._program.note(f"member {member.number} pauses {name}")
            member.consumer.pause(name)

    # -- committing ----------------------------------------------------------------------------------

    def commit(self, rng: random.Random) -> None:
        member = self._pick(rng)
        if member is None or member.group is None:
            return
        self._allow_deleted()
        self._program.allow(streamlog.CommitFailedError)
        if member.fenced:
            self._program.allow(streamlog.StreamlogError)
        record = rng.choice(member.in_hand) if member.in_hand and rng.random() < 0.5 else None
        self._program.note(
            f"member {member.number} commits {record and record.topic_partition} {record and record.offset}"
        )
        if record is None:
            expected = {name: member.consumer.position(name) for name in member.consumer.assignment()}
        else:
            expected = {record.topic_partition: record.offset + 1}
        for name, offset in expected.items():
            progress = self._progress(member, name)
            if progress is not None:
                progress.tried.add(offset)
        member.consumer.commit(record) if record is not None else member.consumer.commit()
        still = member.consumer.assignment()  # the others' topics were deleted
        self._committed(member.group, {name: offset for name, offset in expected.items() if name in still})
        if record is None:
            member.in_hand = []

    def _committed(self, group: str, expected: dict[TopicPartition, int]) -> None:
        """What was just committed is what the group has."""
        with self._program.looking():
            found = self._log.group(group).committed()
        for name, offset in expected.items():
            if name.topic in self._log:
                demand(found.get(name) == offset, f"{name} was committed at {offset}, and is at {found.get(name)}")

    def reset(self, rng: random.Random) -> None:
        """An operator sets a group's offsets; it must have no members."""
        name, found = rng.choice([*GROUPS, "workers-0"]), self._program.topics.pick(rng)
        if found is None:
            return
        topic, model = found
        self._program.allow(streamlog.GroupNotEmptyError)
        # The end that a consumer is told, not the high watermark: after an open whose sync failed more may be there than
        # may be read.
        with self._log.consumer(topic) as alone:
            places = [TopicPartition(topic.name, n) for n in range(topic.partitions)]
            starts, ends = alone.beginning_offsets(places), alone.end_offsets(places)
        bounds = {name.partition: (starts[name], ends[name]) for name in ends}
        to = rng.choice(["earliest", "latest", "mapping"])
        where = {
            n: {"earliest": low, "latest": high}.get(to, rng.randint(low, high)) for n, (low, high) in bounds.items()
        }
        self._program.note(f"group {name} in {topic.name} to {to}: {where}")
        group = self._program.model.group(name)
        for n, offset in where.items():
            group.at((model.id, n)).tried.add(offset)
        given: Any = {TopicPartition(topic.name, n): offset for n, offset in where.items()} if to == "mapping" else to
        try:
            self._log.group(name).reset(topic.name, to=given)
        except streamlog.GroupNotEmptyError:
            for n, offset in where.items():
                group.at((model.id, n)).tried.discard(offset)
            raise
        except streamlog.StreamlogError:  # it may have come to be
            for n, offset in where.items():
                group.at((model.id, n)).sought(offset)
            raise
        self._committed(name, {TopicPartition(topic.name, n): offset for n, offset in where.items()})
        for n, offset in where.items():
            progress = group.at((model.id, n))
            progress.sought(offset) if self._program.model.doomed else progress.moved(offset)

    def delete_group(self, rng: random.Random) -> None:
        name = rng.choice([*GROUPS, "workers-0"])
        self._program.note(name)
        self._program.allow(streamlog.GroupNotEmptyError, streamlog.GroupIdNotFoundError)
        group = self._program.model.group(name)
        try:
            self._log.group(name).delete()
        except (streamlog.GroupNotEmptyError, streamlog.GroupIdNotFoundError):
            raise
        except streamlog.StreamlogError:  # what was written of it may be found at the next open
            group.going = True
            raise
        group.going = group.going or self._program.model.doomed
        if not self._program.model.doomed:
            for progress in group.places.values():
                progress.forgotten()

    # -- choices -------------------------------------------------------------------------------------

    def _pick(self, rng: random.Random) -> Member | None:
        if not self._members:
            self.join(rng)
        return rng.choice(self._members) if self._members else None

    def _allow_deleted(self) -> None:
        """Until its next poll a consumer has partitions of topics that were deleted."""
        self._program.allow(streamlog.UnknownTopicOrPartitionError, streamlog.UnknownTopicIdError)

    def _names(self, rng: random.Random) -> list[str]:
        with self._program.looking():
            names = [name for name in self._log if not name.endswith(".dead-letters")]
        return sorted(rng.sample(names, rng.randint(1, len(names)))) if names else []
