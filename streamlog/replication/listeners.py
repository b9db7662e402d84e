"""What a partition calls when its log changes: the callbacks of calls that wait, and the listener for other processes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Protocol

from ..runtime.api import contained


class Waiters:
    """Callbacks that wait for a partition's end to move; each is called once.

    It takes no lock: every change of the list is one atomic step. `callbacks` may be read to see whether there are any.
    """

    __slots__ = ("callbacks",)

    def __init__(self) -> None:
        self.callbacks: list[Callable[[], object]] = []

    def add(self, callback: Callable[[], object]) -> None:
        """Call `callback` once, after the next append. The caller reads the end again after this call."""
        self.callbacks.append(callback)

    def remove(self, callback: Callable[[], object]) -> None:
        """Undo one `add`. Does nothing if the callback was called already."""
        with contextlib.suppress(ValueError):
            self.callbacks.remove(callback)

    def wake(self) -> None:
        """Call every callback that is there now. `pop` is atomic, so no two threads call the same one.

        REQUIRES: no lock is held. An exception of a callback is logged.
        """
        for _ in range(len(self.callbacks)):
            try:
                callback = self.callbacks.pop(0)
            except IndexError:
                return
            try:
                contained(callback)
            except BaseException:  # an interrupt: the other callbacks are called all the same
                self.wake()
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
