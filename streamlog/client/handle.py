"""What every object a user holds has in common: it can be closed, and says so when it was not."""

from __future__ import annotations

import warnings
from typing import Any, Self

from ..errors import ClosedError, ForkedError, StreamlogError


class Closing:
    """Idempotent `close()`, a `with` block, ClosedError afterwards, ResourceWarning if collected open.

    `_dead` is None while the object is usable, otherwise the error that every use raises.
    """

    _dead: StreamlogError | None = None

    @property
    def closed(self) -> bool:
        """Whether `close()` was called, on this object or on the log it belongs to."""
        return self._dead is not None

    def close(self) -> None:
        raise AssertionError("every handle closes itself in its own way")

    def __enter__(self) -> Self:
        self._check()
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _check(self) -> None:
        if self._dead is not None:
            raise self._dead.again()

    def _abandon(self) -> None:
        """In a forked child: refuse from now on, touch nothing."""
        self._dead = forked()

    def _warn_open(self) -> None:
        warnings.warn(f"unclosed {self!r}; close it, or use a `with` block", ResourceWarning, source=self, stacklevel=3)

    def __reduce__(self) -> Any:
        raise TypeError(
            f"a {type(self).__name__} is a handle on an open log and cannot be pickled; pass the path and open it there, "
            f"or pass records"
        )

    def __copy__(self) -> Self:
        raise TypeError(f"a {type(self).__name__} is a handle and cannot be copied; make another one from the log")

    def __deepcopy__(self, memo: object) -> Self:
        return self.__copy__()


def closed(what: str) -> ClosedError:
    return ClosedError(f"The {what} was closed; make a new one from an open log.")


def forked() -> ForkedError:
    return ForkedError(
        "This log was opened before a fork, and a log belongs to the process that opened it. Open it after forking, "
        "or hand records over to the parent."
    )
