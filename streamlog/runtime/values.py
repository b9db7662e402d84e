"""Refusal of copies, a copy of a weak set, and the first error of several steps."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NoReturn, SupportsIndex, TypeVar

T = TypeVar("T")


def refuse_to_copy(self: Any, protocol: SupportsIndex) -> NoReturn:
    """The `__reduce_ex__` of an object that owns a descriptor, a lock or a thread: copy, deepcopy and pickle are refused.

    It is called before a copy is created. A half-created copy would release what the original owns when it is collected.
    """
    raise TypeError(
        f"a {type(self).__name__} owns a lock, a thread or an open file, so it cannot be copied or pickled; copy records, and "
        f"what result() gives"
    )


def snapshot(members: Iterable[T]) -> list[T]:
    """The keys of a WeakKeyDictionary: iterating over one raises RuntimeError while another thread adds to it."""
    while True:
        try:
            return list(members)
        except RuntimeError:
            continue


def raise_first(errors: list[BaseException]) -> None:
    """Raise the first error of steps that were all taken, if one failed; `errors` is empty then.

    A traceback refers to the frames that the error passed through. A caller that kept the error in a local variable would
    make a cycle of the two, which holds what the frame refers to, open files too, until the cyclic collector runs.
    """
    if errors:
        try:
            raise errors[0]
        finally:
            errors.clear()
