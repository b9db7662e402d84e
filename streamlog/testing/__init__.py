"""Shipped helpers for the tests of programs that use streamlog. Nothing in the library imports them.

`ManualClock` is given to `streamlog.open(clock=…)`: time stands still until the test advances it,
and everything that time drives has happened when `advance` returns. `Clock` is the protocol it follows.
"""

from ..types import Clock
from .clock import ManualClock

__all__ = ["Clock", "ManualClock"]
