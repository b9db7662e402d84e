"""Workers of a group: handlers that fail, retries, dead letters."""

from __future__ import annotations

import random
from collections import Counter
from typing import TYPE_CHECKING, Any

import streamlog
from streamlog import TopicPartition

from .model import GroupModel, Violation, demand
from .producers import identity
from .topics import LETTERS
from .turns import Turns

if TYPE_CHECKING:
    from .program import Program

GROUP = "workers-0"


class HandlerError(Exception):
    """What a handler raises."""


class Unprintable(HandlerError):
    def __str__(self) -> str:
        raise ValueError("no words for it")


class Odd(BaseException):
    """What no library plans for."""


ODD: list[type[BaseException]] = [SystemExit, KeyboardInterrupt, Odd]


class WorkerGroups:
    def __init__(self, program: Program) -> None:
        self._program = program

    def run(self, rng: random.Random) -> None:
        """Workers handle one topic to its end; some records' handlers fail, once or always."""
        found = self._program.topics.pick(rng)
        if found is None or found[1].dead_letters:
            return
        topic, model = found
        failing = {} if rng.random() < 0.4 else {rng.randrange(8): rng.choice([1, 1, 99]) for _ in range(2)}
        on_error, retries = rng.choice(["stop", "skip", "dead_letter", "dead_letter"]), rng.choice([0, 1, 2])
        workers = rng.choice([1, 1, 2, 3])
        turns = Turns(random.Random(rng.random()))
        run = Run(
            self._program,
            turns,
            model.id,
            failing,
            on_error,
            retries,
            rng.choice([HandlerError, HandlerError, HandlerError, Unprintable, MemoryError, TimeoutError, *ODD]),
        )
        self._program.note(f"{workers} workers on {topic.name}, {on_error}, {retries} retries, {failing} fail")
        letters = self._program.model.topic(topic.name + LETTERS)
        if letters is not None and letters.may_compact():  # it would keep the last dead letter of each key alone
            self._program.allow(streamlog.ConfigError)
        if letters is None and on_error == "dead_letter":
            self._program.model.coming.setdefault(topic.name + LETTERS, []).append((1, {}))
        ends = {n: topic.partition(n).high_watermark for n in range(topic.partitions)}
        try:
            with turns.playing():
                self._program.log_open().group(GROUP).run(
                    run.handle, topic.name, workers=workers, on_error=on_error, retries=retries, retry_backoff_ms=0,
                    until_end=True, max_poll_records=rng.choice([1, 3, 500]),
                )  # fmt: skip
        except BaseException as error:
            run.raise_violation()
            if not isinstance(error, run.error):
                raise
            stops = on_error == "stop" or not issubclass(run.error, Exception)
            demand(stops and run.gave_up, f"on_error={on_error!r}, and {error!r} came out")
            run.stopped(self._program.model.group(GROUP))
            return
        finally:
            if not self._program.model.doomed:
                with self._program.looking():
                    self._program.checker.names()
        run.raise_violation()
        stops = on_error == "stop" or not issubclass(run.error, Exception)
        demand(not stops or not run.gave_up, f"on_error={on_error!r}, and the run went on after {run.error.__name__}")
        if on_error == "dead_letter" and run.gave_up:
            self._were_set_aside(topic.name + LETTERS, run.gave_up)
        committed = self._program.log_open().group(GROUP).committed()
        for n, end in ends.items():
            done = committed.get(TopicPartition(topic.name, n), 0)
            demand(done >= end or not end, f"{topic.name}-{n} is committed at {done} after a run to its end, {end}")

    def _were_set_aside(self, letters: str, records: list[Any]) -> None:
        """Every record that was given up is a dead letter."""
        with self._program.looking():
            there = Counter(identity(record) for record in self._program.log_open()[letters].read())
        missing = [identity(record) for record in records if not there[identity(record)]]
        demand(not missing, f"{missing} were given up, and are not among the dead letters {list(there)}")


class Run:
    """One `run`: which records fail, and what was called how often."""

    def __init__(
        self,
        program: Program,
        turns: Turns,
        topic: Any,
        failing: dict[int, int],
        on_error: str,
        retries: int,
        error: type[BaseException],
    ) -> None:
        self._program = program
        self._turns = turns
        self._topic = topic
        self._failing = failing
        self._on_error = on_error
        self._retries = retries
        self.error = error
        self._calls: Counter[tuple[int, int]] = Counter()
        self._violation: Violation | None = None
        self.gave_up: list[Any] = []

    def handle(self, record: streamlog.Record[Any, Any]) -> None:
        self._turns.pause()
        try:
            self._handle(record)
        except Violation as violation:  # to the workers it is a handler's error like another
            self._violation = self._violation or violation
            raise

    def raise_violation(self) -> None:
        if self._violation is not None:
            raise self._violation

    def _handle(self, record: streamlog.Record[Any, Any]) -> None:
        model, place = self._program.model, (record.partition, record.offset)
        if not self._calls[place]:
            self._program.checker.handed_out(model.group(GROUP), self._topic, record)
        self._calls[place] += 1
        calls = self._calls[place]
        demand(calls <= self._retries + 1, f"the handler was called {calls} times for {record!r:.100}")
        if calls > self._failing.get(record.offset % 8, 0):
            return
        if not issubclass(self.error, Exception):
            self.gave_up.append(record)
        elif calls == self._retries + 1:
            self.gave_up.append(record)
            number = identity(record)
            assert number is not None
            model.dead.add((record.topic, record.partition, record.offset, number))
        raise self.error(f"call {calls}")

    def stopped(self, group: GroupModel) -> None:
        """The record in hand is not finished, and other workers may have had some in hand too."""
        for progress in group.places.values():
            progress.disturbed = True
