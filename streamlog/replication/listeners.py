"""What a partition tells those outside this process: how far it goes, and that its files changed."""

from __future__ import annotations

from typing import Protocol


class LogListener(Protocol):
    """Called with no lock of the partition held. Neither blocks nor raises."""

    quiet: bool
    """Nobody will look at the next append by itself: `appended` has to be called."""

    def appended(self) -> None:
        """There are new records to be seen."""

    def changed(self, *, rewritten: bool = False) -> None:
        """Segments came or went, or the log start was raised; on return it is told, so files may be removed.

        `rewritten`: the bytes behind a file's name became others, or are about to.
        """


class NullListener:
    """For a partition that no other process reads."""

    quiet = False

    def appended(self) -> None: ...
    def changed(self, *, rewritten: bool = False) -> None: ...
