"""Which thread writes next, where several threads fill the batches of a queue faster than one of them writes.

One thread writes for all that send at the same time. If it does not keep up, it gives its turn to those that fill batches, in the
order in which they came. Rejected: one writer for all others. Of 64 threads that filled batches, the writer sent one record in
two seconds, and another thread 34,000.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sized

from ...runtime.api import Lock
from ...runtime.threads import RawGate, longest_sleep
from ...runtime.values import refuse_to_copy

# More batches than this in the queue are more than the writer keeps up with.
_MOST_WAITING = 8


class WriterTurns:
    """Thread-safe. `draining` is held by the thread that writes; `queue` has the batches that are not written yet.

    `waiting`: the gates of the threads that wait for their turn, in the order in which they came.
    """

    __reduce_ex__ = refuse_to_copy

    def __init__(self, draining: Lock, queue: Sized) -> None:
        self.waiting: deque[RawGate] = deque()
        self._next: RawGate | None = None  # of the thread that was given the turn and does not run yet
        self._draining = draining
        self._queue = queue

    @property
    def are_due(self) -> bool:
        """Whether the writer does not keep up."""
        return len(self._queue) > _MOST_WAITING

    @property
    def are_taken(self) -> bool:
        """Whether a thread writes, or is about to."""
        return self._next is not None or self._draining.locked()

    def pass_on(self) -> bool:
        """Have the thread that has waited longest go on, or all of them if the queue is short; whether one goes on."""
        passed = False
        while self.waiting:
            try:
                gate = self.waiting.popleft()
            except IndexError:  # another thread took the last one
                break
            passed = True
            if self.are_due:
                self._next = gate
                gate.open()
                break
            gate.open()
        return passed

    def wait(self) -> bool:
        """Wait until it is this thread's turn, but not for long: a slow disk must not stop a thread that only queues records.

        False if it did not come.
        """
        gate = RawGate()
        self.waiting.append(gate)
        left = False
        try:
            left = not self.are_taken  # before it saw the gate
            if not left:
                gate.wait(longest_sleep.turn_s)
        except BaseException:  # an interrupt, which may come when the turn was passed to this thread already
            if self._got(gate):
                self.pass_on()
            raise
        return self._got(gate) or left

    def _got(self, gate: RawGate) -> bool:
        """Whether the turn was passed to this gate, which does not wait for it any longer."""
        if self._next is gate:
            self._next = None
        try:
            self.waiting.remove(gate)
        except ValueError:
            return True
        return False
