"""The program that a seed describes: one log, everything that uses it, and the crashes that end its processes."""

from __future__ import annotations

import contextlib
import gc
import logging
import random
import traceback
import warnings
from collections.abc import Collection, Iterable, Iterator
from typing import Any

import streamlog
from streamlog import StreamlogError
from streamlog.testing import Fault, FaultyDisk, ManualClock, SimulatedDisk
from tests.times import START_MS

from .checker import Checker
from .followers import Followers
from .members import Members
from .model import PATH, Model, Violation, demand
from .offline import Offline
from .operations import CrashPlan, FaultPlan, Operation
from .producers import Producers
from .repeatable import repeatable
from .topics import Topics
from .workers import WorkerGroups

_CHECK_EVERY = 10
# A call that says no more than this does not say what happened, why, and what to do.
_SHORTEST_MESSAGE = 12


class Disk(FaultyDisk):
    """A disk whose faults can be put aside while it is looked at, and that counts how often one struck.

    The mark that a sync failed can always be written: where it cannot, nobody knows after a restart that what is in the
    page cache is not on the device. For the same reason no process is killed between a sync that failed and its mark.
    """

    def __init__(self, inner: SimulatedDisk) -> None:
        super().__init__(inner)
        self.strikes = 0
        self.hard_strikes = 0
        self.sync_failed = False
        """A sync was refused in the operation that is being done."""
        self.untold = False
        """A write of `published` was refused: without a thread of the log's own, readers wait for the next append."""
        self.quiet = False

    def _struck(self, op: str, path: str) -> Fault | None:
        if self.quiet or "/poisoned-" in path:
            return None
        fault = super()._struck(op, path)
        self.calls.clear()
        if fault is not None:
            self.strikes += 1
            self.sync_failed = self.sync_failed or op in ("sync", "sync_dir")
            self.untold = self.untold or path.endswith("/published")
            self.hard_strikes += fault.error != 28 or op.startswith("sync")
        return fault

    def _available(self, n: int) -> int:
        available = n if self.quiet else super()._available(n)
        if available < n:
            self.strikes += 1
            self.untold = True
        return available


class Program:
    """Does operations, one after the other, and tells the model what came of them."""

    def __init__(self, seed: int, without: Collection[str] = ()) -> None:
        self.seed = seed
        self.without = without
        rng = random.Random(f"program {seed}")
        self.sync = rng.random() < 0.5
        self.disk = SimulatedDisk(seed)
        self.faulty = Disk(self.disk)
        self.clock = ManualClock(start_ms=START_MS)
        self.model = Model()
        self.checker = Checker(self)
        self.log: streamlog.StreamLog | None = None
        self.hurt = False
        """A call to the disk failed for good since the log was opened, so others may fail until it is opened again."""
        self.unobserved = False
        """Since the last crash nothing was looked at: what of it survived is not known."""
        self.story: list[str] = []
        self.errors: dict[str, int] = {}
        self.crashes = 0
        self.strikes = 0
        self._allowed: tuple[type[StreamlogError], ...] = ()
        self._lasting: list[tuple[int, Fault | None]] = []
        self._numbers = 0
        self._done = 0
        self.topics = Topics(self)
        self.producers = Producers(self)
        self.members = Members(self)
        self.workers = WorkerGroups(self)
        self.followers = Followers(self)
        self.offline = Offline(self)

    # -- the operations ------------------------------------------------------------------------------

    def run(self, operations: Iterable[Operation]) -> None:
        """Do them all, then close, open once more and look. Raises Violation."""
        with quiet(), repeatable(random.Random(f"ids {self.seed}")):
            try:
                for operation in operations:
                    self.perform(operation)
                self._finish()
            finally:
                self._leave_behind()

    def perform(self, operation: Operation) -> None:
        self.story.append(str(operation))
        self._arm(operation.fault)
        self.model.doomed = operation.crash is not None
        before, strikes = len(self.disk.operations), self.faulty.strikes
        self.faulty.sync_failed = False
        self._allowed = ()
        try:
            if self.log is None:
                self._open()
            self._call(operation)
        except StreamlogError as error:
            self._judge(error, self.faulty.strikes > strikes)
        except Violation:
            raise
        except Exception as error:
            where = traceback.format_exc(limit=-4)
            raise Violation(f"{type(error).__name__} instead of a StreamlogError: {error}\n{where}") from error
        self._wear_out()
        if self.faulty.hard_strikes:
            self.hurt, self.faulty.hard_strikes = True, 0
        self.strikes += self.faulty.strikes - strikes
        if self.faulty.strikes > strikes:
            self.members.disturbed()
            self.producers.trouble()
        self.checker.retained()
        if operation.crash is not None:
            self._crash(operation.crash, before)
        else:
            self._look()
        self._done += 1

    def _call(self, operation: Operation) -> None:
        area, _, name = operation.kind.partition(".")
        owner: Any = self if area in ("log", "clock") else getattr(self, area)
        getattr(owner, f"do_{area}_{name}" if owner is self else name)(operation.rng())

    def _judge(self, error: StreamlogError, struck: bool) -> None:
        """Whether an error may be: it was asked for, or the disk failed."""
        name = type(error).__name__
        self.note(f"{name}: {error}")
        self.errors[name] = self.errors.get(name, 0) + 1
        demand(len(str(error)) >= _SHORTEST_MESSAGE, f"{name} does not say what happened: {error!r}")
        if not (struck or self.hurt or isinstance(error, self._allowed)):
            where = "".join(traceback.format_exception(error, limit=-6))
            raise Violation(f"{name} though the disk did not fail: {error}\n{where}")
        if self.log is not None and self.log.closed:
            self.log = None

    def allow(self, *errors: type[StreamlogError]) -> None:
        """These may come of the operation that is being done, whatever the disk does."""
        self._allowed += errors

    def note(self, what: object) -> None:
        self.story.append(f"    {what}")

    def log_open(self) -> streamlog.StreamLog:
        assert self.log is not None
        return self.log

    def number(self) -> int:
        """The number of a new record, producer, member."""
        self._numbers += 1
        return self._numbers

    # -- faults --------------------------------------------------------------------------------------

    def _arm(self, plan: FaultPlan | None) -> None:
        if plan is None:
            return
        if plan.op == "capacity":
            self.faulty.capacity = self.faulty.used + plan.nth * 40
            self._lasting.append((plan.lasting, None))
            return
        fault = self.faulty.fail(
            plan.op, plan.errno, nth=plan.nth, times=plan.times, path=self._glob(plan.place), short=plan.short
        )
        self._lasting.append((plan.lasting, fault))

    def _glob(self, place: str) -> str:
        if place == "offsets" and self.log is not None:
            with self.looking():
                ids = [topic.id.hex for topic in self.log.topics(internal=True) if topic.name.startswith("__")]
            return f"*/topics/{ids[-1]}-*" if ids else "*/topics/*"
        return {"metadata": "*/__cluster_metadata-0/*", "owner": "*/streamlog.json*", "topics": "*/topics/*"}.get(
            place, "*"
        )

    def _wear_out(self) -> None:
        """Faults last for a number of operations."""
        left: list[tuple[int, Fault | None]] = []
        for operations, fault in self._lasting:
            if operations > 1:
                left.append((operations - 1, fault))
            elif fault is None:
                self.faulty.capacity = None
            else:
                self.faulty.heal(fault)
        self._lasting = left

    @contextlib.contextmanager
    def looking(self) -> Iterator[None]:
        """The disk does not fail while it is only looked at."""
        before, self.faulty.quiet = self.faulty.quiet, True
        try:
            yield
        finally:
            self.faulty.quiet = before

    # -- opening, closing, crashing ------------------------------------------------------------------

    def _open(self) -> None:
        strikes = self.faulty.strikes
        self.log = streamlog.open(PATH, disk=self.faulty, clock=self.clock, sync=self.sync)
        self.hurt = self.faulty.strikes > strikes
        self.faulty.hard_strikes = 0
        self.note(f"opened with sync={self.sync}{', where the disk failed' if self.hurt else ''}")
        if not self.model.doomed:
            self.checker.opened(complete=not self.hurt)
            self.unobserved = self.unobserved and self.hurt

    def do_log_reopen(self, rng: random.Random) -> None:
        self.close()

    def do_log_switch_sync(self, rng: random.Random) -> None:
        self.close()
        self.sync = not self.sync

    def close(self) -> None:
        """Close the log. What its members had in hand is not finished; its producers are flushed."""
        assert self.log is not None
        strikes = self.faulty.strikes
        log, self.log = self.log, None
        self.members.closing()
        self.producers.allow_failures()
        try:
            log.close()
        finally:
            self.producers.harvest(everything=True)
            self.producers.clear()
            self.members.clear()
        if self.faulty.strikes == strikes and not self.hurt and not self.unobserved:
            self.model.synced()

    def do_log_sync(self, rng: random.Random) -> None:
        assert self.log is not None
        strikes = self.faulty.strikes
        self.log.sync()
        if self.faulty.strikes == strikes and not self.unobserved:
            self.model.synced()

    def _crash(self, plan: CrashPlan, before: int) -> None:
        """The process dies within the operation that was just done: the machine is as it was at one of its calls."""
        self.crashes += 1
        after = len(self.disk.operations)
        left = plan.left
        at = before + round(plan.after * (after - before))
        if self.faulty.sync_failed and "kill" in left:
            at = after
        if left == "kill-half" and (at == before or self.disk.operations[at - 1].kind != "pwrite"):
            left = "kill"  # half of a write of this operation: what others wrote was acknowledged whole
        disk = self.disk.state(f"{at}/{left}")
        self.note(f"crash at disk call {at - before} of {after - before}: {left}")
        self.model.crashed(power_loss="kill" not in left)
        self.model.doomed = False
        self._leave_behind()
        self.disk, self.faulty = disk, Disk(disk)
        self._lasting = []
        self.unobserved = True

    def _leave_behind(self) -> None:
        """Let go of what a dead process had. What it does on its old disk does not matter any more."""
        self.producers.clear()
        self.followers.clear()
        log, self.log = self.log, None
        self.members.clear()
        self.faulty.heal()
        self.faulty.quiet = True
        if log is not None:
            with contextlib.suppress(Exception):
                log.close()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            gc.collect()

    # -- time ----------------------------------------------------------------------------------------

    def do_clock_advance(self, rng: random.Random) -> None:
        seconds = rng.choice([0, 0.006, 0.1, 1, 6, 60, 400, 4000])
        self.note(f"{seconds} s")
        self.clock.advance(seconds)
        self.producers.harvest()

    def do_clock_jump(self, rng: random.Random) -> None:
        ms = rng.choice([-600_000, -5_000, 5_000, 600_000])
        self.note(f"{ms} ms")
        self.clock.jump(ms)

    # -- looking -------------------------------------------------------------------------------------

    def _look(self) -> None:
        self.producers.harvest()
        if self.log is None:
            return
        with self.looking():
            self.checker.names()
            try:
                self.checker.commits()
                if self._done % _CHECK_EVERY == 0:
                    self.checker.everything()
            except StreamlogError:  # where nothing can be served, an error says so
                if not self.hurt:
                    raise

    def _finish(self) -> None:
        """The disk works again: close the log, open it, look at everything, and let verify look too."""
        self.faulty.heal()
        self._lasting = []
        self.model.doomed = False
        self.story.append("the end")
        for _ in range(2):
            if self.log is None:
                self._open()
            self.checker.everything()
            try:
                self.close()
            except StreamlogError as error:
                self._judge(error, False)
        self.offline.verify(random.Random(0))


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Faults and crashes are logged by the thousand."""
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            yield
    finally:
        logging.disable(disabled)
