"""Group commit: many writes share one sync.

A write that has to be on the device is appended to the page cache like any other, and its sync is requested here. A thread
that waits for it syncs: if no other thread is syncing, it takes the tail, and syncs every file with bytes up to there, which
covers all requests made until then. A thread that comes meanwhile waits on a gate of its own, and then finds its write
covered or has the next turn. So a single thread pays for its own sync and no hand-over, and eight threads share one sync.

No thread may wait: a batch whose linger is over, a program that was interrupted. For those a task of the scheduler calls
`maybe_sync`.

What a write waits for is another thing: the high watermark (`purgatory`), which a sync may advance. Only `log.sync()` waits
for the device itself.

`syncing` is a leaf. It is held across the sync, with no other lock. It also excludes the partition's other syncs, because
the kernel reports a failure only once.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable
from typing import Protocol, TypeVar

from ..errors import PoisonedLogError, ReentrantCallError, StreamlogError
from ..runtime.api import Completion, Gate, Lock, without_traceback
from ..runtime.threads import inside, refuse_reentry, was_released_meanwhile
from ..runtime.values import refuse_to_copy
from ..storage.log import Log
from .purgatory import DelayedOperation, Purgatory

T = TypeVar("T")
# How long (ms) a request waits for a thread to sync it before the scheduler does.
PATIENCE_MS = 20
# How long (s) a round waits at most for threads that may join it: the time that a few threads need to wake and write.
GATHER_S = 0.0001
ALONE = (1, 1)


class SyncListener(Protocol):
    """Called after each use of `syncing`, under no lock, and maybe twice or by two threads at once: an interrupt may have
    stopped the call before."""

    def synced(self) -> None:
        """`synced_end` may have grown."""

    def sync_failed(self, error: StreamlogError) -> None:
        """What is past `synced_end` now will not be synced, or not by the sync that was awaited."""


class GroupCommit:
    """What of one partition is on the device, and the requests for more. Thread-safe. It is a `Work`.

    Everything before `synced_end` is on the device. `refusal` is why nothing is synced any more, or None.
    """

    __reduce_ex__ = refuse_to_copy

    def __init__(self, log: Log, new_lock: Callable[[], Lock], synced_end: int, listener: SyncListener) -> None:
        self._log = log
        self._durability = log.durability
        self.synced_end = synced_end
        self.syncing = new_lock()
        self.refusal: StreamlogError | None = None
        self._listener = listener
        self.purgatory = Purgatory(new_lock())  # what waits for `synced_end`
        # The ends of writes that wait for a sync, about in order. Removed under `syncing` only.
        self._requests: deque[int] = deque()
        # The gates of threads that wait for their turn; those that are open have had it, or found their write covered. Removed
        # under `syncing` only.
        self._turns: deque[Gate] = deque()
        self._armed = False
        self.schedule: Callable[[int], None] = lambda delay_ms: None
        self._new_lock = new_lock
        # How many requests there were at the end of the last two rounds, and the gate of a round that waits for as many again.
        self._rounds = ALONE
        self._wanted = 0
        self._joined: Lock | None = None

    # -- requests ------------------------------------------------------------------------------------

    def request(self, end: int) -> None:
        """Have everything before `end` synced: by a thread that waits (`drive`), or soon in the background.

        REQUIRES: it is in the log. The caller looks at `synced_end` and `refusal` once more after this call.
        """
        self._requests.append(end)
        joined = self._joined
        if joined is not None and len(self._requests) >= self._wanted:
            self._joined = None
            with contextlib.suppress(RuntimeError):  # two threads came at once, and the other one was faster
                joined.release()
        if not self._armed:
            self.soon(PATIENCE_MS)
            self._armed = True

    def everything(self) -> Completion[int]:
        """Done once all that is in the log now is on the device; failed if that can never be known."""
        refuse_reentry()
        poison, end = self._durability.poison, self._log.tail.end_offset
        if poison is not None:
            return Completion.failed(poison.copy())
        return self.await_sync(end, end)

    def await_sync(
        self, end: int, value: T, deadline_ms: int | None = None, late: StreamlogError | None = None
    ) -> Completion[T]:
        """Done with `value` once everything before `end` is on the device. REQUIRES: it is in the log.

        With a deadline (ms of real time) it is answered then in any case: with `late`, if that is given.
        """
        if end <= self.synced_end:
            return Completion.of(value)
        operation = DelayedOperation(value, self, late)
        self.purgatory.add(end, operation, deadline_ms)
        self.request(end)
        if end <= self.synced_end or self.refusal is not None:  # since the look above
            self.answer()
        return operation

    def drive(self) -> bool:
        """One round: have all that is in the log on the device, if a request waits for it. See `Work`.

        If the sync fails, so does what waits for it.
        """
        if self.syncing.locked():
            return False
        done, failure = False, self.refusal
        try:
            with inside(), self.syncing:
                self._drop_covered()
                self._drop_past_turns()
                if self._requests and failure is None:
                    done = True
                    failure = self._round()
        except RuntimeError as error:
            failure = self.refusal
            if failure is None or not was_released_meanwhile(error):  # else the replica was fenced: see `fencing`
                raise
        self.answer(failure)
        return done

    def _round(self) -> StreamlogError | None:
        """Sync for the requests there are; the error of a sync that failed. REQUIRES: `syncing`, and a request."""
        if self._rounds != ALONE:
            self._gather()
        failure = None
        try:
            count = self._sync()
        except ReentrantCallError:  # a signal handler's call in the middle of it: no write has failed
            raise
        except StreamlogError as error:
            failure = self._note(error)
            count = len(self._requests)
            for _ in range(count):
                self._requests.popleft()
        self._rounds = (count, self._rounds[0])
        return failure

    def _sync(self) -> int:
        """Sync what is in the log now; how many requests there were at the end.

        REQUIRES: `syncing`. Raises what `Durability.sync_files` raises, at once if the log is poisoned.
        """
        tail = self._log.tail
        self._durability.sync_files(self.synced_end, tail)
        count = len(self._requests)
        self.synced_end = tail.end_offset
        self._drop_covered()
        return count

    def _drop_covered(self) -> None:
        """REQUIRES: `syncing`."""
        while self._requests and self._requests[0] <= self.synced_end:
            self._requests.popleft()

    def _drop_past_turns(self) -> None:
        """REQUIRES: `syncing`."""
        while self._turns and self._turns[0].is_open():
            self._turns.popleft()

    def _gather(self) -> None:
        """Wait for the threads whose writes the last rounds completed, which are about to write again. REQUIRES: `syncing`.

        Without it eight threads fall into two groups that take turns, and share half as much.
        """
        wanted = max(self._rounds)
        if len(self._requests) < wanted:
            gate = self._new_lock()
            gate.acquire()
            self._wanted, self._joined = wanted, gate
            if len(self._requests) < wanted:
                gate.acquire(True, GATHER_S)
            self._joined = None

    def _note(self, error: StreamlogError) -> StreamlogError:
        """Keep the error of a poisoned log, which refuses for good. A copy of `error`, without the frames that it came through."""
        kept = without_traceback(error.copy())
        if isinstance(error, PoisonedLogError):
            self.refusal = kept
        return kept

    def answer(self, failure: StreamlogError | None = None) -> None:
        """Answer what waited for the sync, and give one of the threads whose requests are left the next turn.

        It has to follow every use of `syncing`, or requests that came meanwhile wait until their threads look again. It may
        be called twice, and by two threads at once.
        """
        failure = failure or self.refusal
        self.purgatory.complete_through(self.synced_end)
        self._listener.synced()
        if failure is not None:
            self.purgatory.fail(failure)
            self._listener.sync_failed(failure)
        if self._requests and self.refusal is None and not self.syncing.locked():
            self._pass_on()

    def on_turn(self, gate: Gate) -> None:
        self._turns.append(gate)

    def _pass_on(self) -> None:
        """A request came while this thread synced: the next round is for a thread that waits."""
        for gate in self._turns.copy():
            if not gate.is_open():
                gate.open()
                return
        self.soon()

    # -- in the background --------------------------------------------------------------------------------

    def soon(self, delay_ms: int = 0) -> None:
        """Have the scheduler call `maybe_sync`."""
        self.schedule(delay_ms)

    def maybe_sync(self, now_ms: int) -> int | None:
        """Background work: sync for the requests for which no thread does; when to come again (ms), or None."""
        self.drive()
        self._armed = False
        if not self._requests or self.refusal is not None:
            return None
        self._armed = True
        return now_ms + PATIENCE_MS

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
        """The records from `end` on were removed from the log: what waits for them waits for what is before.

        REQUIRES: `syncing`; `answer` follows.
        """
        self.synced_end = min(self.synced_end, end)
        self.purgatory.clip(end)
        for at, requested in enumerate(self._requests.copy()):
            self._requests[at] = min(requested, end)
        self._drop_covered()

    def restart(self, offset: int) -> None:
        """The log has no records and goes on at `offset`: all of it is on the device. REQUIRES: as `clip`."""
        self.clip(offset)
        self.synced_end = offset
        self._drop_covered()

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
            self._drop_covered()
        self._durability.advance_recovery_point(tail)

    def sync_names(self) -> None:
        """Have the names of all segments on the device, for a caller that removes files. `answer` follows.

        Raises PoisonedLogError, StorageError.
        """
        with inside(), self.syncing:
            self._durability.sync_names(self._log.tail)

    # -- the end -------------------------------------------------------------------------------------

    def close(self) -> None:
        """Close the log, which syncs everything. REQUIRES: as `Log.close`; `answer` follows."""
        try:
            with inside(), self.syncing:
                self._log.close()
                self.synced_end = self._log.tail.end_offset
                self._drop_covered()
        except StreamlogError as error:
            self.refusal = without_traceback(error.copy())
            raise

    def refuse(self, error: StreamlogError) -> None:
        """Fail what waits for a sync, and all that comes later: there is nothing to sync any more."""
        self.refusal = error
        self.answer()
