"""What may be copied, and what may not; and a copy of a weak set."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NoReturn, SupportsIndex, TypeVar

T = TypeVar("T")


def refuse_to_copy(self: Any, protocol: SupportsIndex) -> NoReturn:
    """As `__reduce_ex__`: neither copy, deepcopy nor pickle makes a second owner of a descriptor, a lock or a thread.

    It is asked before anything is made. A half-made copy would let go of what the original holds when it is collected.
    """
    raise TypeError(
        f"a {type(self).__name__} owns a lock, a thread or an open file, so it cannot be copied or pickled; copy records, and "
        f"what result() gives"
    )


def snapshot(members: Iterable[T]) -> list[T]:
    """A copy of a WeakSet: iterating over one raises RuntimeError while another thread adds to it."""
    while True:
        try:
            return list(members)
        except RuntimeError:
            continue
