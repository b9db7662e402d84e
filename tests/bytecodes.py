"""How much a call does, counted and not timed."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


def bytecodes(call: Callable[[], object]) -> int:
    """How many bytecodes of Python `call` executes, on this thread."""
    count = 0

    def trace(frame: FrameType, event: str, _: object) -> object:
        nonlocal count
        frame.f_trace = trace  # type: ignore[assignment]  # before what follows, which Python 3.13 ignores of a frame without one
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        count += event == "opcode"
        return trace

    before = sys.gettrace()
    sys._getframe().f_trace_opcodes = True  # Python 3.12 asks for it at `settrace`
    with without_collections():
        sys.settrace(trace)  # type: ignore[arg-type]
        try:
            call()
        finally:
            sys.settrace(before)
    return count


@contextmanager
def without_collections() -> Iterator[None]:
    """No garbage is collected meanwhile: finalizers of what other tests left would be counted as part of a call."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()
