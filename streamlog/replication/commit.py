"""Group commit: many writes share one sync.

A write that has to be on the device before it is acknowledged is appended to the page cache like any other, and parked
here. A thread that blocks on a parked write syncs: if no other thread is syncing, it takes the tail, syncs every file with
bytes up to there, and completes all writes that this covers. A thread that comes meanwhile waits on a gate of its own, and
then finds its write covered or has the next turn. So a single thread pays for its own sync and no hand-over, and eight
threads share one sync.

There may be no thread that blocks: a batch whose linger is over, a program that was interrupted. For those a task of the
scheduler calls `maybe_sync`.

`syncing` is a leaf. It is held across the sync, with no other lock. It also excludes the partition's other syncs, because
the kernel reports a failure only once.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from ..errors import PoisonedLogError, ReentrantCallError, StreamlogError
from ..runtime.api import Completion, Lock
from ..runtime.threads import inside
from ..runtime.values import refuse_to_copy
from ..storage.log import Log

# How long (ms) a parked write waits for a thread to block on it before the scheduler syncs it.
PATIENCE_MS = 20
# How long (s) a round waits at most for threads that may join it: the time that a few threads need to wake and write.
GATHER_S = 0.0001
ALONE = (1, 1)


class Parked(Completion[int]):
    """A write that is in the log and waits to be on the device; done with its base offset."""

    __slots__ = ("_commit", "end", "offset", "turn")

    def __init__(self, commit: GroupCommit, end: int, offset: int) -> None:
        # Not by the base's __init__: there is one for every record that is sent alone, and its thread waits.
        self._answers = []
        self._callbacks = []
        self._commit = commit
        self.end = end
        self.offset = offset
        self.turn: Callable[[Completion[int]], object] | None = None

    def drive(self) -> bool:
        return self._commit.sync_through(self.end)

    def on_turn(self, wake: Callable[[Completion[int]], object]) -> None:
        self.turn = wake
        self.on_done(wake)

    def unattended(self) -> None:
        self._commit.soon(0)


class GroupCommit:
    """What of one partition is on the device, and the writes that wait to be. Thread-safe.

    Everything before `synced_end` is on the device. `moved` is called, under no lock, after it grew.
    """

    __reduce_ex__ = refuse_to_copy

    def __init__(self, log: Log, new_lock: Callable[[], Lock], synced_end: int, moved: Callable[[], None]) -> None:
        self._log = log
        self._durability = log.durability
        self.synced_end = synced_end
        self.syncing = new_lock()
        self._moved = moved
        self._announced = synced_end
        self._parked: list[Parked] = []
        self._refused: StreamlogError | None = None
        self._armed = False
        self.schedule: Callable[[int], None] = lambda delay_ms: None
        self.syncs = 0
        self._new_lock = new_lock
        # How many writes the last two rounds completed, and the gate of a round that waits for as many again.
        self._rounds = ALONE
        self._wanted = 0
        self._joined: Lock | None = None

    # -- waiting -------------------------------------------------------------------------------------

    def await_sync(self, end: int, offset: int) -> Completion[int]:
        """Done with `offset` once everything before `end` is on the device. REQUIRES: it is in the log."""
        if end <= self.synced_end:
            return Completion.of(offset)
        parked = Parked(self, end, offset)
        self._parked.append(parked)
        joined = self._joined
        if joined is not None and len(self._parked) >= self._wanted:
            self._joined = None
            with contextlib.suppress(RuntimeError):  # two threads came at once, and the other one was faster
                joined.release()
        if end <= self.synced_end or self._refused is not None:  # since the look above
            self.answer()
        elif not self._armed:
            self.soon(PATIENCE_MS)
            self._armed = True
        return parked

    def everything(self) -> Completion[int]:
        """Done once all that is in the log now is on the device; failed if that can never be known."""
        poison = self._durability.poison
        return self.await_sync(self._log.tail.end_offset, 0) if poison is None else Completion.failed(poison.copy())

    def sync_through(self, end: int) -> bool:
        """Have everything before `end` on the device, by a sync on this thread; False if another is at one.

        REQUIRES: no lock. If the sync fails, the parked writes fail.
        """
        failure = self._refused
        if end > self.synced_end and failure is None:
            if self.syncing.locked():
                return False
            with inside(), self.syncing:
                if end > self.synced_end and self._refused is None:
                    if self._rounds != ALONE:
                        self._gather()
                    try:
                        self._sync()
                    except ReentrantCallError:  # a signal handler's call in the middle of it: no write has failed
                        raise
                    except StreamlogError as error:
                        failure = self._note(error)
                    self._rounds = (len(self._parked), self._rounds[0])
        self.answer(failure)
        return True

    def _sync(self) -> None:
        """One round. REQUIRES: `syncing`. Raises what `Durability.sync_files` raises, at once if the log is poisoned."""
        tail = self._log.tail
        self._durability.sync_files(self.synced_end, tail)
        self.syncs += 1
        self.synced_end = tail.end_offset

    def _gather(self) -> None:
        """Wait for the threads whose writes the last rounds completed, which are about to write again. REQUIRES: `syncing`.

        Without it eight threads fall into two groups that take turns, and share half as much.
        """
        wanted = max(self._rounds)
        if len(self._parked) < wanted:
            gate = self._new_lock()
            gate.acquire()
            self._wanted, self._joined = wanted, gate
            if len(self._parked) < wanted:
                gate.acquire(True, GATHER_S)
            self._joined = None

    def _note(self, error: StreamlogError) -> StreamlogError:
        """Keep the error of a poisoned log, which refuses for good. A copy of `error`, without the frames that it came through."""
        kept = error.copy()
        if isinstance(error, PoisonedLogError):
            self._refused = kept
        return kept

    def answer(self, failure: StreamlogError | None = None) -> None:
        """Complete or fail the writes whose wait is over, the oldest first, and give one of the others the next turn.

        It has to follow every use of `syncing`, or the writes that came meanwhile wait until their threads look again. It may
        be called twice, and by two threads at once.
        """
        synced_end = self.synced_end
        failure = failure or self._refused
        for parked in self._parked[:]:
            if parked.end <= synced_end:
                parked.complete(parked.offset)
            elif failure is not None:
                parked.fail(failure.copy())
            else:
                continue
            try:  # not `suppress`, two calls for each record
                self._parked.remove(parked)
            except ValueError:  # another thread did
                continue
        if self._announced < synced_end:
            self._moved()
            self._announced = synced_end
        if self._parked and not self.syncing.locked():
            self._pass_on()

    def _pass_on(self) -> None:
        """A write was parked while this thread synced: the next round is for a thread that blocks on one."""
        for parked in self._parked[:]:
            turn, parked.turn = parked.turn, None
            if turn is not None:
                turn(parked)
                return
        self.soon(0)

    # -- in the background --------------------------------------------------------------------------------

    def soon(self, delay_ms: int) -> None:
        """Have the scheduler call `maybe_sync`."""
        self.schedule(delay_ms)

    def maybe_sync(self, now_ms: int) -> int | None:
        """Background work: sync the writes on which no thread blocks; when to come again (ms), or None."""
        parked = self._parked[-1:]
        if parked or self._announced < self.synced_end:
            self.sync_through(parked[0].end if parked else 0)
        self._armed = bool(self._parked)
        return now_ms + PATIENCE_MS if self._armed else None

    # -- other syncs of the partition ----------------------------------------------------------------

    def sync(self) -> None:
        """Have everything that is in the log now on the device; waits for a sync that is under way.

        Raises PoisonedLogError, StorageError. For callers that cannot wait for a Completion: changes of metadata, and opening.
        """
        end = self._log.tail.end_offset
        try:
            with inside(), self.syncing:
                if self.synced_end < end or self._durability.poison is not None:
                    self._sync()
        finally:
            self.answer()

    def clip(self, end: int) -> None:
        """The records from `end` on were removed from the log: the writes that wait for them wait for what is before.

        REQUIRES: `syncing`, and that the removed records were never synced; `answer` follows.
        """
        for parked in self._parked[:]:
            parked.end = min(parked.end, end)

    def sync_sealed(self) -> None:
        """Sync what was sealed and move the recovery point. REQUIRES: as `Durability.sync_sealed`; `answer` follows."""
        tail = self._log.tail
        with inside(), self.syncing:
            try:
                self._durability.sync_files(self._durability.recovery_point, tail, active=False)
            except StreamlogError as error:
                self._note(error)
                raise
            self.synced_end = max(self.synced_end, tail.bases[-1])
        self._durability.advance_recovery_point(tail)

    # -- the end -------------------------------------------------------------------------------------

    def close(self) -> None:
        """Close the log, which syncs everything. REQUIRES: as `Log.close`; `answer` follows."""
        try:
            with inside(), self.syncing:
                self._log.close()
                self.synced_end = self._log.tail.end_offset
        except StreamlogError as error:
            self._refused = error.copy()
            raise

    def refuse(self, error: StreamlogError) -> None:
        """Fail the parked writes, and all that come later: there is nothing to sync any more."""
        self._refused = error
        self.answer()
