"""What goes wrong with brokers in `failover`: they are stopped, lose their directories, and have disks that fail or are slow."""

from __future__ import annotations

import errno
import os
import random
import shutil
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path

import streamlog
from streamlog.testing import FaultyDisk

from .failover_ledger import Violation, demand

LONGEST_S = 60.0
LAG_MS = 1_000
KINDS = ("stop", "remove", "take away", "EIO", "ENOSPC", "slow", "stuck")


class _Forgetful(list[tuple[str, str]]):
    def append(self, call: tuple[str, str]) -> None:
        """Nobody looks at the calls of so long a run."""


class StressedDisk(FaultyDisk):
    """Real files, on which calls fail, and take their time where a path begins with one of `delays` (s)."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = _Forgetful()
        self.delays: dict[str, float] = {}

    def _struck(self, op: str, path: str) -> streamlog.testing.Fault | None:
        for start, seconds in list(self.delays.items()):
            if path.startswith(start):
                time.sleep(seconds)
        return super()._struck(op, path)


class Saboteur:
    """Hurts one broker after another, and has it come back; no more at once than every partition can do without.

    `moves`: how long (s) the leaderships of a broker took to be elsewhere, by what had happened to it.
    """

    def __init__(self, log: streamlog.StreamLog, disk: StressedDisk, stopping: threading.Event) -> None:
        self.counts: Counter[str] = Counter()
        self.moves: defaultdict[str, list[float]] = defaultdict(list)
        self._log = log
        self._disk = disk
        self._stopping = stopping
        self._lock = threading.Lock()
        self._hurt: set[int] = set()

    def hurt_one(self, rng: random.Random, kind: str | None = None) -> None:
        """One broker, from the fault to the moment when it is in sync again."""
        with self._lock:
            broker = rng.choice([each for each in self._log.brokers if each.id not in self._hurt])
            self._hurt.add(broker.id)
        kind = kind or rng.choice(KINDS)
        self.counts[kind] += 1
        try:
            getattr(self, "_" + kind.lower().replace(" ", "_"))(broker, rng)
            self._await_sync(broker)
        except BaseException as error:
            error.add_note(f"{kind} of broker {broker.id}")
            raise
        finally:
            with self._lock:
                self._hurt.discard(broker.id)

    # -- what can happen -----------------------------------------------------------------------------

    def _stop(self, broker: streamlog.Broker, rng: random.Random) -> None:
        began = time.monotonic()
        broker.stop()
        self._await_elsewhere("stop", broker, began)
        self._pause(rng)
        broker.start()

    def _remove(self, broker: streamlog.Broker, rng: random.Random) -> None:
        """rm -rf, while it runs. `start` rebuilds it."""
        began = time.monotonic()
        while os.path.exists(str(broker.path)):  # its broker makes files meanwhile
            shutil.rmtree(str(broker.path), ignore_errors=True)
        self._await_failure("remove", broker, began)
        self._pause(rng)
        demand(not os.path.exists(str(broker.path)), f"{broker.path} was made anew before its broker was started")
        broker.start()

    def _take_away(self, broker: streamlog.Broker, rng: random.Random) -> None:
        """Renamed away and, when that was noticed, back: a disk that was pulled out and put in again."""
        here = Path(str(broker.path))
        there = here.parent.parent / f"{here.name}-away"
        began = time.monotonic()
        here.rename(there)
        self._await_failure("take away", broker, began)
        self._pause(rng)
        if here.exists():  # made by a call that had begun before
            raise Violation(f"{here} was made anew")
        there.rename(here)
        broker.start()

    def _fail(self, kind: str, error: int, broker: streamlog.Broker, rng: random.Random) -> None:
        """Nothing is written any more, until the broker has stopped, and then a while longer."""
        began = time.monotonic()
        op = rng.choice(("write", "pwrite"))
        fault = self._disk.fail(op, error, times=None, path=f"{broker.path}/*", short=rng.choice((0, 100)))
        try:
            self._await_failure(kind, broker, began)
            self._pause(rng)
        finally:
            self._disk.heal(fault)
        broker.start()

    def _eio(self, broker: streamlog.Broker, rng: random.Random) -> None:
        self._fail("EIO", errno.EIO, broker, rng)

    def _enospc(self, broker: streamlog.Broker, rng: random.Random) -> None:
        self._fail("ENOSPC", errno.ENOSPC, broker, rng)

    def _slow(self, broker: streamlog.Broker, rng: random.Random) -> None:
        """Each call takes its time; the followers of the others carry on."""
        self._delay(f"{broker.path}/topics/", rng.choice((0.001, 0.005, 0.02)), rng.uniform(0.1, 0.6))

    def _stuck(self, broker: streamlog.Broker, rng: random.Random) -> None:
        """One call after the other takes longer than a follower may lag."""
        self._delay(f"{broker.path}/topics/", 1.3 * LAG_MS / 1000, 0.5)

    def _delay(self, start: str, seconds: float, for_s: float) -> None:
        self._disk.delays[start] = seconds
        try:
            self._stopping.wait(for_s)
        finally:
            self._disk.delays.pop(start, None)

    # -- waiting -------------------------------------------------------------------------------------

    def _pause(self, rng: random.Random) -> None:
        self._stopping.wait(rng.choice((0.0, 0.05, 0.3)))

    def _await_failure(self, kind: str, broker: streamlog.Broker, began: float) -> None:
        await_until(lambda: not broker.running, f"it is not noticed that broker {broker.id} has failed: {kind}")
        self._await_elsewhere(kind, broker, began)

    def _await_elsewhere(self, kind: str, broker: streamlog.Broker, began: float) -> None:
        def leads_nothing() -> bool:
            # Where a busy machine had the others leave the in-sync set just before, nobody may lead until it is back.
            topics = self._log.metrics()["topics"].values()
            return all(
                each["leader"] not in (broker.id, -1) or (each["leader"] == -1 and list(each["isr"]) == [broker.id])
                for topic in topics
                for each in topic.values()
            )

        await_until(leads_nothing, f"broker {broker.id} still leads, or nobody does: {kind}")
        self.moves[kind].append(time.monotonic() - began)

    def _await_sync(self, broker: streamlog.Broker) -> None:
        def is_in_sync() -> bool:
            topics = self._log.metrics()["topics"].values()
            return all(
                broker.id in each["isr"] or broker.id not in each["replicas"]
                for topic in topics
                for each in topic.values()
            )

        await_until(is_in_sync, f"broker {broker.id} does not catch up", lambda: f"; running: {broker.running}")


def await_until(look: Callable[[], bool], what: str, more: Callable[[], str] = lambda: "") -> None:
    """Look until it is so. Raises Violation after a minute."""
    until = time.monotonic() + LONGEST_S
    while not look():
        if time.monotonic() > until:
            raise Violation(f"after {LONGEST_S:.0f} s {what} {more()}")
        time.sleep(0.002)
