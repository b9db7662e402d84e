"""Who waits for a partition's end to move."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from ..runtime.api import contained


class Waiters:
    """Callbacks, each called once. No lock: what is done to the list is done in one step."""

    def __init__(self) -> None:
        self.waiters: list[Callable[[], object]] = []

    def watch(self, callback: Callable[[], object]) -> None:
        """Call `callback` once, after the next append. The caller looks at the end again after this."""
        self.waiters.append(callback)

    def unwatch(self, callback: Callable[[], object]) -> None:
        with contextlib.suppress(ValueError):
            self.waiters.remove(callback)

    def wake(self) -> None:
        """Call every callback there is now, each from one caller only: `pop` is atomic. What one raises is logged."""
        for _ in range(len(self.waiters)):
            try:
                callback = self.waiters.pop(0)
            except IndexError:
                return
            try:
                contained(callback)
            except BaseException:  # an interrupt: the others are woken all the same
                self.wake()
                raise
