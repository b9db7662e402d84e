"""Work that is left to be done later: for objects that were collected, and for objects closed in the middle of a call.

A log has one `Cleanup`. Its background thread does the work, and so do the next calls on the log.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable

from ..errors import StreamlogError

logger = logging.getLogger("streamlog.client")


class Cleanup:
    """Finalizers and deferred closes. It takes no lock: adding to it is one append to a deque."""

    def __init__(self) -> None:
        self.deferred_closes: deque[Callable[[], object]] = deque()
        """Closes that were requested in the middle of a call, which has to end first."""
        self.background_thread = 0
        """The ident of the background thread. It has other work, so it never waits for code of the user's."""
        self.nudge: Callable[[], None] = lambda: None
        """Wakes the background thread, where there is one. It takes no lock."""
        self._finalizers: deque[Callable[[], None]] = deque()

    def add_finalizer(self, finalizer: Callable[[], None]) -> None:
        """Have `finalizer` called soon, for an object that is being collected.

        `__del__` can run in the middle of anything, under any lock, so it must not take a lock itself.
        """
        self._finalizers.append(finalizer)
        self.nudge()

    def run_finalizers(self) -> None:
        """Run the finalizers that were added. Call with no lock held."""
        while self._finalizers:
            try:
                finalizer = self._finalizers.popleft()
            except IndexError:  # another thread took the last one
                break
            try:
                finalizer()
            except StreamlogError as error:
                logger.error("cleaning up after an object that was never closed: %s", error)

    def defer_close(self, close: Callable[[], object]) -> None:
        """Have `close` called when the call that the caller interrupted has ended, by its thread or the background thread."""
        self.deferred_closes.append(close)
        self.nudge()

    def run_deferred_closes(self) -> None:
        """Call each deferred close once. Call with no lock held; in the middle of a call, a close defers itself again."""
        for _ in range(len(self.deferred_closes)):
            try:
                close = self.deferred_closes.popleft()
            except IndexError:  # another thread took the last one
                return
            try:
                close()
            except Exception as error:  # the code that asked for it has gone on
                logger.error("a close was deferred until another call had ended, and then failed: %s", error)
