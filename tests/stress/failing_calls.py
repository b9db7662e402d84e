"""Each call of the disk fails in turn, with each error it can have: all end in a typed error and an intact log.

    python -m tests.stress.failing_calls --seed 1
    python -m tests.stress.failing_calls --seed 1 --brokers 3

A program does a little of everything on a log (`Program`): it opens, creates topics, sends, rolls, compacts, deletes,
commits, syncs, closes, opens again. It goes on after every error, which must be a StreamlogError, and remembers what it
was told: which offsets were given, which sends failed, what was committed. Then the fault goes away. The open log is
used further and closed, opened again, read whole, verified. Everything acknowledged is at its offset; what failed is
there once at most; nothing else is there.

Only a partition of which a sync failed may refuse until it is opened again; that file is not synced again before then.
Of several brokers one has a disk that fails. Then every record is taken and read all the same: only calls that change topics,
brokers or commits, or are about every replica (sync, compact), may raise what the disk does. When the fault is gone and the broker is started, it is in sync again, and the replicas are equal.

With `sync=True` the machine also loses its power while the disk still fails: what was acknowledged must be there. EINTR
is not among the errors: Python repeats a call that it ends.
"""

from __future__ import annotations

import argparse
import errno as errors
import logging
import random
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import date
from functools import cache
from typing import Any
from unittest import mock

import streamlog
from streamlog import (
    ConcurrentTransactionsError,
    DeliveryError,
    PoisonedLogError,
    RequestTimedOutError,
    StreamlogError,
    UnknownTopicOrPartitionError,
)
from streamlog.client import retrying
from streamlog.testing import Fault, FaultyDisk, SimulatedDisk
from tests.sim.schedule import Schedule
from tests.times import START_MS

from . import replicas
from .failing_program import PATH, Program

_MAY_FAIL = (
    "open",
    "start",
    "stop",
    "create",
    "delete brief",
    "commit",
    "elect",
    "compact",
    "sync",
    "retention",
    "transaction",
)
_BROKER = re.compile(rf".*{PATH}/broker-\d+/")
_FULL = (errors.ENOSPC, errors.EDQUOT)
ERRORS: dict[str, tuple[int, ...]] = {
    "open": (errors.EIO, errors.EMFILE, errors.ENFILE, errors.EACCES),
    "create": (*_FULL, errors.EIO, errors.EMFILE, errors.EROFS),
    "pread": (errors.EIO,),
    "pwrite": (*_FULL, errors.EFBIG, errors.EIO),
    "size": (errors.EIO,),
    "truncate": (errors.EIO, errors.EFBIG),
    "sync": (errors.EIO, *_FULL),
    "map": (errors.ENOMEM, errors.EIO, errors.EMFILE),
    "map_read": (errors.EIO,),
    "exists": (errors.EIO, errors.EACCES),
    "listdir": (errors.EIO, errors.EMFILE),
    "makedirs": (*_FULL, errors.EIO, errors.EROFS),
    "rename": (*_FULL, errors.EIO),
    "unlink": (errors.EIO, errors.EROFS),
    "rmtree": (errors.EIO,),
    "sync_dir": (errors.EIO, errors.ENOSPC, errors.EMFILE),
    "lock": (errors.EIO, errors.ENOLCK, errors.EMFILE),
}


class Violation(AssertionError):
    """What the run promised not to see; its text is how to see it again."""


@dataclass
class Case:
    """One fault: the `nth` call of the disk fails with `error`, once or from then on until the end."""

    seed: int
    nth: int
    op: str
    path: str
    error: int
    forever: bool
    short: int
    sync: bool
    patience: int = 0  # so many more steps of the program meet the fault
    brokers: int = 1

    def __str__(self) -> str:
        how = f"and all for {self.patience} more steps fail" if self.forever else "fails"
        return (
            f"seed {self.seed}, sync={self.sync}: call {self.nth}, {self.op} of {self.path}, {how} with "
            f"{errors.errorcode[self.error]} ({self.short} bytes written)"
        )

    def run(self) -> list[tuple[str, StreamlogError]]:
        """Let the program meet the fault, and check everything; the errors it was told of."""
        try:
            if self.brokers == 1:
                # A marker that a poisoned partition refuses is waited for, in real time.
                with mock.patch.object(retrying, "DEFAULT_API_TIMEOUT_S", 0.1):
                    return self._run(None)
            schedule = Schedule(self.seed, START_MS)
            with schedule.playing():
                return self._run(schedule)
        except Exception as error:
            raise Violation(str(self)) from error

    def _run(self, schedule: Schedule | None) -> list[tuple[str, StreamlogError]]:
        simulated = SimulatedDisk(self.seed)
        disk = FaultyDisk(simulated)
        faults = self._faults(disk)
        program = self._program(disk, schedule)
        steps_left = 1 + self.patience
        healed = 0

        def after_each() -> None:
            nonlocal steps_left, healed
            if steps_left and any(fault.fired for fault in faults):
                steps_left -= 1
                if not steps_left:
                    if self.sync:
                        self._lose_power(simulated, program)
                    disk.heal()
                    healed = len(program.errors)
                    program.go_on()

        program.run(after_each)
        told = list(program.errors)
        if not steps_left:
            self._check_goes_on(program, disk, faults, program.errors[healed:])
        self._check_sync_is_not_repeated(disk)
        if self.brokers > 1 and self._broker is not None:
            for what, error in told:
                # One that is stopped while another one's disk fails leaves too few in sync.
                is_allowed = isinstance(error, UnknownTopicOrPartitionError) or "NotEnoughReplicas" in str(error)
                if not (is_allowed or what.startswith(_MAY_FAIL)):
                    raise AssertionError(f"the disk of one of three brokers fails, and {what} does") from error
        if self.sync:
            self._lose_power(simulated, program)
        disk.heal()
        program.close()
        self._open_again(disk, program)
        if schedule is not None:
            with self._open_brokers(disk, schedule) as log:
                replicas.compare(log, lambda: schedule.elapse(0.1))
        return told

    def _program(self, disk: Any, schedule: Schedule | None) -> Program:
        clock = None if schedule is None else schedule.clock
        return Program(disk, sync=self.sync, brokers=self.brokers, clock=clock)

    @staticmethod
    def _open_brokers(disk: FaultyDisk, schedule: Schedule) -> streamlog.StreamLog:
        return streamlog.open(PATH, disk=disk, clock=schedule.clock)

    @property
    def _broker(self) -> str | None:
        """The directory of the broker whose disk fails."""
        found = _BROKER.match(self.path)
        return None if found is None else found[0]

    def _check_goes_on(
        self, program: Program, disk: FaultyDisk, faults: list[Fault], told: list[tuple[str, StreamlogError]]
    ) -> None:
        """Nothing fails for a fault that is gone, but what needs a topic that could not be made, or was poisoned."""
        struck = {fault.op for fault in faults if fault.fired} | {self.op}
        if not self.forever:  # threads may have made the calls in another order than without a fault
            struck.add(disk.calls[self.nth - 1][0])
        for what, error in told:
            for each in error.failed.values() if isinstance(error, DeliveryError) else (error,):
                poisoned = PoisonedLogError, ConcurrentTransactionsError, RequestTimedOutError
                if isinstance(each, poisoned) and struck & {"sync", "sync_dir"}:
                    continue
                if isinstance(each, UnknownTopicOrPartitionError) and not program.topics.get(
                    str(vars(each).get("topic"))
                ):
                    continue
                raise AssertionError(f"the fault is gone, and {what} still fails") from each

    def _check_sync_is_not_repeated(self, disk: FaultyDisk) -> None:
        """A sync that said EIO says nothing the next time: the file is left alone until it is opened again."""
        if self.op == "sync" and self.error == errors.EIO:
            struck = self._struck(disk)
            path = disk.calls[struck][1]
            if not path.endswith(".log"):  # the program did something else before, as of more threads than one
                return
            later = disk.calls[struck + 1 :]
            until_reopened = later[: next((n for n, (op, _) in enumerate(later) if op == "lock"), None)]
            for op in ("sync", "pwrite"):
                assert (op, path) not in until_reopened, f"{op} of {path} after its sync failed"

    def _struck(self, disk: FaultyDisk) -> int:
        """The index of the first call that failed."""
        if not self.forever:
            return self.nth - 1
        before = sum(op == self.op for op, _ in clean_run(self.sync, self.brokers, self._clean_seed)[: self.nth - 1])
        return [at for at, (op, _) in enumerate(disk.calls) if op == self.op][before]

    @property
    def _clean_seed(self) -> int:
        return self.seed if self.brokers > 1 else 0

    def _faults(self, disk: FaultyDisk) -> list[Fault]:
        """For ever: from the call on, all calls fail that can have this error. A full disk lists its files."""
        if not self.forever:
            return [disk.fail("any", self.error, nth=self.nth, short=self.short)]
        where = "" if self._broker is None else self._broker
        calls = clean_run(self.sync, self.brokers, self._clean_seed)[: self.nth - 1]
        before = Counter(op for op, path in calls if path.startswith(where))
        return [
            disk.fail(op, self.error, nth=before[op] + 1, times=None, path=f"{where}*", short=self.short)
            for op, possible in ERRORS.items()
            if self.error in possible
        ]

    def _lose_power(self, simulated: SimulatedDisk, program: Program) -> None:
        """While the disk still fails: what was acknowledged under sync is on the device."""
        after = Program(simulated.power_loss(), sync=True, brokers=self.brokers)
        after.clock.jump(60_000)
        for name in ("told", "refused", "starts", "topics", "committed", "transactions"):
            setattr(after, name, getattr(program, name))
        after.attempt("open", after.check)
        assert not after.errors, f"after the power loss: {after.errors}"
        after.close()

    def _open_again(self, disk: FaultyDisk, program: Program) -> None:
        before = len(program.errors)
        program.attempt("open again", program.check)
        program.close()
        assert program.errors[before:] == [], f"after reopening: {program.errors[before:]}"
        report = streamlog.verify(PATH, disk=disk)
        assert report.ok, report


@cache
def clean_run(sync: bool, brokers: int = 1, seed: int = 0) -> Sequence[tuple[str, str]]:
    """The calls that the program makes of a disk that does not fail. The `seed` is that of the schedule of several brokers."""
    disk = FaultyDisk(SimulatedDisk())
    schedule = Schedule(seed, START_MS)
    with schedule.playing() if brokers > 1 else nullcontext():
        program = Program(disk, sync=sync, brokers=brokers, clock=schedule.clock)
        program.run()
    assert program.errors == [], program.errors
    return list(disk.calls)


def cases(seed: int, *, sync: bool, forever: bool, brokers: int = 1) -> Iterator[Case]:
    """Every call × every error it can have."""
    rng = random.Random(seed)
    for nth, (op, path) in enumerate(clean_run(sync, brokers, seed if brokers > 1 else 0), 1):
        for error in ERRORS[op]:
            for short in (0, 7) if op == "pwrite" else (0,):
                patience = rng.choice((0, 0, 1, 2, 5, 40)) if forever else 0
                yield Case(seed, nth, op, path, error, forever, short, sync, patience, brokers)


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    parser.add_argument("--nth", type=int, default=0, help="this call alone")
    parser.add_argument("--brokers", type=int, default=1)
    chosen = parser.parse_args()
    logging.getLogger("streamlog").setLevel(logging.CRITICAL + 1)
    brokers = f" --brokers {chosen.brokers}" if chosen.brokers > 1 else ""
    say(f"python -m tests.stress.failing_calls --seed {chosen.seed}{brokers}, {date.today()}")
    total = told = 0
    for sync in (False, True):
        for forever in (False, True):
            for case in cases(chosen.seed, sync=sync, forever=forever, brokers=chosen.brokers):
                if chosen.nth in (0, case.nth):
                    told += bool(case.run())
                    total += 1
            say(f"sync={sync}, {'for ever' if forever else 'once'}: {total:,} faults")
    say(f"{total:,} faults, {told:,} of them raised in the program: all typed, every log intact")


if __name__ == "__main__":
    main()
