"""How many of its cases a sweep takes: the fixture `sampled` (`conftest.py`)."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Protocol, TypeVar

T = TypeVar("T")

SWEEPS, WHOLE = "STREAMLOG_SWEEPS", "whole"
"""The variable of the environment, and its value, with which every sweep takes all of its cases."""


def takes_all() -> bool:
    """Whether this is a run of `python -m tests.stress.sweeps`."""
    return os.environ.get(SWEEPS) == WHOLE


class Sampled(Protocol):
    """`sampled(cases, n)`: every nth of them, from a random one on; every `full`th, if that is given, in a run with --full."""

    def __call__(self, cases: Iterable[T], every: int, *, full: int = 0) -> list[T]: ...
