"""What a partition calls when its log changes: the callbacks of calls that wait, and the listener for other processes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Protocol

from ..runtime.api import contained

# How many waiters an append calls itself, and how many the background calls before other work has its turn.
AT_ONCE = 32
SOME = 32
_ABSENT = object()


class Waiters:
    """Callbacks that wait for a partition's end to move; each is called once, the oldest first.

    It takes no lock: every change of an OrderedDict is one step in C, as it is for a list, but removing any one is O(1).
    `callbacks` may be read to see whether there are any.

    Waking a thread costs the thread that wakes it about 0.2 ms, if thousands are woken at once: each that runs takes the
    interpreter away from it. So an append that finds more than `AT_ONCE` has them called in the background, if there is a
    thread for it: `later` has `wake_some` called soon, and is None if there is none.
    """

    __slots__ = ("_due", "callbacks", "later")

    def __init__(self) -> None:
        self.callbacks: OrderedDict[Callable[[], object], None] = OrderedDict()
        self._due: OrderedDict[Callable[[], object], None] = OrderedDict()
        self.later: Callable[[], object] | None = None

    def add(self, callback: Callable[[], object]) -> None:
        """Call `callback` once, after the next append. The caller reads the end again after this call."""
        self.callbacks[callback] = None

    def remove(self, callback: Callable[[], object]) -> bool:
        """Undo `add`; False, with nothing done, if the callback was called already, or is about to be. Cost: O(1)."""
        waited = self.callbacks.pop(callback, _ABSENT) is None
        return self._due.pop(callback, _ABSENT) is None or waited

    def wake(self) -> None:
        """Have every callback that is there now called, here or in the background. REQUIRES: no lock is held."""
        count = len(self.callbacks)
        if count <= AT_ONCE or self.later is None:
            _call(self.callbacks, count)
            return
        try:
            for _ in range(count):
                self._due[self.callbacks.popitem(last=False)[0]] = None
        except KeyError:  # another thread took the last ones
            pass
        finally:
            self.later()

    def wake_all(self) -> None:
        """Call every callback that is there now, on this thread: no background thread may come any more. REQUIRES: as `wake`."""
        _call(self._due, len(self._due))
        _call(self.callbacks, len(self.callbacks))

    def wake_some(self, now_ms: int) -> int | None:
        """Background work: call some of those that `wake` left; when to come again (ms), or None if that were all."""
        _call(self._due, SOME)
        return now_ms if self._due else None


def _call(callbacks: OrderedDict[Callable[[], object], None], count: int) -> None:
    """Call the first `count`. `popitem` is atomic, so no two threads call the same one. An exception of a callback is logged."""
    for left in range(count, 0, -1):
        try:
            callback, _ = callbacks.popitem(last=False)
        except KeyError:
            return
        try:
            contained(callback)
        except BaseException:  # an interrupt: the other callbacks are called all the same
            _call(callbacks, left - 1)
            raise


class LogListener(Protocol):
    """Publishes changes of a partition to other processes. Called without a lock of the partition; neither blocks nor raises."""

    quiet: bool
    """Whether the next append has to be announced with `appended`: nothing looks at the log by itself."""

    def appended(self) -> None:
        """There are new records to be read."""

    def changed(self, *, rewritten: bool = False) -> None:
        """Segments were added or removed, or the log start was raised. On return this is published, so files may be removed.

        `rewritten`: the contents of a file were replaced by others under the same name, or are about to be.
        """


class NullListener:
    """The listener of a partition that no other process reads."""

    quiet = False

    def appended(self) -> None: ...
    def changed(self, *, rewritten: bool = False) -> None: ...
