"""What all handles have in common: they belong to a log, can be closed, and warn if they were not."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, Protocol, Self

from ..broker.api import Service
from ..broker.metadata import TopicView
from ..config import typed
from ..errors import ClosedError, ConfigError, StreamlogError, forked
from ..runtime.threads import real_monotonic
from .cleanup import Cleanup
from .consumer.membership import LocalMembers


class Parent(Protocol):
    """What the handles made by a log use of it. They import this protocol only, so that no two files import each other."""

    _cleanup: Cleanup
    _local_members: LocalMembers

    @property
    def closed(self) -> bool: ...
    @property
    def path(self) -> str | None: ...
    def _use(self, *, retries: bool = True) -> Service: ...
    def _if_open(self) -> Service | None: ...
    def _adopt(self, child: Any) -> None: ...
    def _forget(self, child: Any) -> None: ...
    def _next_number(self) -> int: ...
    def _topic_view(self, name: Any) -> TopicView: ...
    def _name_of(self, topic: Any) -> tuple[str, Any, Any]: ...
    def _topic_producer(self) -> Any: ...
    def _same_log(self, other: Any) -> bool: ...
    def _identity(self) -> int: ...
    def __getitem__(self, name: str) -> Any: ...
    def __contains__(self, name: object) -> bool: ...
    def create_topic(
        self, name: str, *, partitions: int | None = None, exist_ok: bool = False, max_message_bytes: int = ...
    ) -> Any: ...
    def delete_topic(self, name: str) -> None: ...


class Closing:
    """Idempotent `close()`, a `with` block, ClosedError afterwards, ResourceWarning if collected open.

    `_closed_error` is None while the object is usable, otherwise the error that every use raises.
    """

    _closed_error: StreamlogError | None = None
    _made = False  # True at the end of the constructor: an object whose constructor failed has nothing to close

    @property
    def closed(self) -> bool:
        """Whether `close()` was called, on this object or on the log it belongs to."""
        return self._closed_error is not None

    def close(self) -> None:
        raise NotImplementedError

    def __enter__(self) -> Self:
        """The object itself. Raises ClosedError."""
        self._check()
        return self

    def __exit__(self, *exc: object) -> None:
        """Close it."""
        self.close()

    def _check(self) -> None:
        if self._closed_error is not None:
            raise self._closed_error.copy()

    def _abandon(self) -> None:
        """In a forked child: raise ForkedError from now on, and touch nothing."""
        self._closed_error = forked()

    def _warn_open(self) -> None:
        warnings.warn(f"unclosed {self!r}; close it, or use a `with` block", ResourceWarning, source=self, stacklevel=3)

    def __reduce__(self) -> Any:
        """Raise TypeError: a handle cannot be pickled."""
        raise TypeError(
            f"a {type(self).__name__} is a handle on an open log and cannot be pickled; pass the path and open it there, "
            f"or pass records"
        )

    def __copy__(self) -> Self:
        """Raise TypeError: a handle cannot be copied."""
        raise TypeError(f"a {type(self).__name__} is a handle and cannot be copied; make another one from the log")

    def __deepcopy__(self, memo: object) -> Self:
        """Raise TypeError: a handle cannot be copied."""
        return self.__copy__()


def closed(what: str, path: str | None) -> ClosedError:
    """The error of every call on what was closed. `path`: of the log, None for a temporary one."""
    if what == "log" and path is None:
        return ClosedError(
            "The log was temporary, and was removed when it was closed; streamlog.open() makes a new one."
        )
    opening = "streamlog.open()" if path is None else f"streamlog.open({path!r})"
    again = (
        f"open it again with {opening}" if what == "log" else f"make a new one from an open log, as {opening} returns"
    )
    return ClosedError(f"The {what} was closed; {again}.", path=path)


def check_log(log: Any, made: str, method: str) -> None:
    """Raise ConfigError for what is not a log. `made`: the class that was called, `method`: that of a log which does the same."""
    if not hasattr(log, "_adopt"):
        raise ConfigError(
            f"{made}(…) takes an open log first, not {typed(log)}: log = streamlog.open(path), then log.{method}.",
            name="log",
        )


def time_left(limit_s: float | None) -> Callable[[], float]:
    """The seconds that are left of a limit that begins now; 0.0 if there is none."""
    end = real_monotonic() + (limit_s or 0.0)
    return lambda: max(0.0, end - real_monotonic())
