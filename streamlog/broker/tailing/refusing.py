"""The calls of the Service protocol that write, for a log that may only be read: each fails with ReadOnlyError."""

from __future__ import annotations

from typing import Any, NoReturn, Protocol

from ...errors import ReadOnlyError
from ...runtime.api import answering


class ReadOnly(Protocol):
    def require_writable(self, what: str) -> NoReturn: ...


def refuses(what: str) -> Any:
    """A method whose answer is ReadOnlyError. `what` names what it would have done; `{0}` is its first argument.

    It is typed as Any, so that it stands for a method of any signature.
    """

    def refuse(self: ReadOnly, *arguments: Any, **named: Any) -> NoReturn:
        self.require_writable(what.format(*arguments))

    return answering(refuse)


def read_only(what: str, path: str) -> ReadOnlyError:
    return ReadOnlyError(
        f"{what} writes to the log, and {path} was opened with read_only=True. Do it in the process that owns "
        f"the log, or open it here without read_only while no other process has it.",
        path=path,
    )
