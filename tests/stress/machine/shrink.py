"""Fewer operations that still fail."""

from __future__ import annotations

import re
import time
import traceback
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

from .model import Violation
from .operations import Operation
from .program import Program

_BUDGET_S = 120.0


def failure_of(
    seed: int, operations: Sequence[Operation], without: Collection[str] = ()
) -> tuple[str, list[str]] | None:
    """What is violated by these operations of a seed, and the story until then; None if nothing is."""
    program = Program(seed, without)
    try:
        program.run(operations)
    except Violation as violation:
        return str(violation), program.story
    except Exception:  # of the machine itself
        return traceback.format_exc(), program.story
    return None


def shrink(
    seed: int, operations: Sequence[Operation], without: Collection[str] = (), budget_s: float = _BUDGET_S
) -> list[Operation]:
    """Leave out operations, faults and crashes while the same kind of violation is left. Bounded by time."""
    found = failure_of(seed, operations, without)
    assert found is not None
    kind, until = kind_of(found[0]), time.monotonic() + budget_s

    def fails(candidate: Sequence[Operation]) -> bool:
        again = failure_of(seed, candidate, without)
        return again is not None and kind_of(again[0]) == kind

    left = _without_parts(list(operations), fails, until)
    for n, operation in enumerate(left):
        for plain in (replace(operation, fault=None), replace(operation, crash=None)):
            candidate = [*left[:n], plain, *left[n + 1 :]]
            if plain != left[n] and time.monotonic() < until and fails(candidate):
                left = candidate
    return left


def _without_parts(
    left: list[Operation], fails: Callable[[Sequence[Operation]], bool], until: float
) -> list[Operation]:
    size = max(1, len(left) // 2)
    while time.monotonic() < until:
        at, before = 0, len(left)
        while at < len(left) and time.monotonic() < until:
            candidate = [*left[:at], *left[at + size :]]
            if fails(candidate):
                left = candidate
            else:
                at += size
        if size == 1 and len(left) == before:
            return left
        size = max(1, size // 2)
    return left


def kind_of(message: str) -> str:
    """A violation's words, without the numbers and names that change when something is left out."""
    return re.sub(r"[\d\[\]{}(),'\" :.-]+|\b[a-d]\b|0x\w+", " ", message.partition("\n")[0])[:60]
