"""Who reads along: a log opened with `read_only=True`, as if by another process."""

from __future__ import annotations

import random
import re
from typing import TYPE_CHECKING, Any

import streamlog
from streamlog import StreamlogError
from streamlog.testing import FaultyDisk, SimulatedDisk

from .model import PATH, GroupModel, demand
from .producers import identity

if TYPE_CHECKING:
    from .program import Program


class OtherProcess(FaultyDisk):
    """The same disk, seen by a process that has opened nothing on it."""

    def __init__(self, inner: SimulatedDisk) -> None:
        super().__init__(inner)
        self._filesystem = object()

    @property
    def filesystem(self) -> object:
        return self._filesystem


class Followers:
    def __init__(self, program: Program) -> None:
        self._program = program
        self._log: streamlog.StreamLog | None = None
        self._consumer: Any = None
        self._own = GroupModel("earliest-alone")

    def clear(self) -> None:
        log, self._log, self._consumer, self._own = self._log, None, None, GroupModel("earliest-alone")
        if log is not None:
            log.close()

    def close(self, rng: random.Random) -> None:
        self.clear()

    def look(self, rng: random.Random) -> None:
        """Read everything that is published, and go on where the consumer was."""
        if self._program.model.doomed or self._program.unobserved:
            return
        self._program.clock.advance(0.01)  # what was written is published within some milliseconds
        self._program.producers.harvest()
        self._program.checker.retained()  # what has lingered until now may be compacted already
        try:
            if self._log is None:
                self._log = streamlog.open(
                    PATH, disk=OtherProcess(self._program.disk), clock=self._program.clock, read_only=True
                )
            if self._consumer is None:
                self._consumer = self._log.consumer(re.compile("[a-d]"))
            self._read(self._log)
            self._go_on()
        except (
            streamlog.UnknownTopicOrPartitionError,
            streamlog.UnknownTopicIdError,
            streamlog.OffsetOutOfRangeError,
        ) as gone:
            self._program.note(f"the follower is told: {gone}")
        except streamlog.RequestTimedOutError:
            if not (self._program.hurt or self._program.faulty.untold):
                raise
        except StreamlogError:
            if not self._program.hurt:
                raise

    def _read(self, log: streamlog.StreamLog) -> None:
        model = self._program.model
        for topic in log.topics():
            known = model.topics.get(topic.id)
            if known is None:
                demand(topic.id in model.deleted, f"a follower sees topic {topic.name}, which never was")
                continue
            for number in range(min(topic.partitions, len(known.partitions))):
                partition, where = known.partitions[number], f"follower of {topic.name}-{number}"
                records = list(topic.read(number))
                for record in records:
                    found = identity(record)
                    demand(found in model.sent, f"{where} sees what was never sent: {record!r:.200}")
                    there = partition.stored.get(record.offset)
                    demand(there in (None, found), f"{where} sees record {found} at {record.offset}, where {there} is")

    def _go_on(self) -> None:
        """The consumer is given what came since, in order, nothing twice, and nothing that is there left out."""
        while records := self._consumer.poll():
            for record in records:
                sent = self._program.model.sent.get(identity(record) or 0)
                demand(sent is not None, f"a follower was given what was never sent: {record!r:.200}")
                assert sent is not None
                self._own.at((sent.topic, record.partition)).disturbed = False
                self._program.checker.handed_out(self._own, sent.topic, record)
