"""What makes a seed do the same every time: time, ids, and the order of what has none."""

from __future__ import annotations

import gc
import random
import sys
import weakref
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import count
from typing import Any
from unittest.mock import patch


class Ordered(dict[Any, None]):
    """A set in the order of insertion, as far as a WeakSet uses one."""

    def add(self, item: Any) -> None:
        self.setdefault(item)

    def discard(self, item: Any) -> None:
        self.pop(item, None)


class OrderedWeakSet(weakref.WeakSet[Any]):
    """A WeakSet whose order does not follow from where its objects lie in memory."""

    def __init__(self) -> None:
        super().__init__()
        self.data: Any = Ordered()


@contextmanager
def repeatable(ids: random.Random) -> Iterator[None]:
    """The library's ids come from `ids`, its real time goes by a millisecond at each look, its sets keep their order.

    Nothing is collected unless it is asked for. A string's hash is the interpreter's: give PYTHONHASHSEED.
    """
    ticks = count(1)

    def now() -> float:
        return next(ticks) / 1000

    with ExitStack() as stack:
        stack.enter_context(patch("os.urandom", ids.randbytes))
        stack.enter_context(patch("weakref.WeakSet", OrderedWeakSet))
        for name, module in sorted(sys.modules.items()):
            if name.startswith("streamlog.") and hasattr(module, "real_monotonic"):
                stack.enter_context(patch.object(module, "real_monotonic", now))
        gc.disable()
        try:
            yield
        finally:
            gc.enable()
