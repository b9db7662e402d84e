"""Who waits for a partition's end to move."""

from __future__ import annotations

import contextlib
from collections.abc import Callable


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
        """Hand out every callback there is now, each to one caller only: `pop` is atomic."""
        for _ in range(len(self.waiters)):
            try:
                callback = self.waiters.pop(0)
            except IndexError:
                return
            callback()
