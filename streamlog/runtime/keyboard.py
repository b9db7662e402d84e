"""A terminal's keys as they are typed, and one wait for a key, a time, a change of the terminal's size, or a stop.

A thread is not needed: signals write to a pipe, and one `poll` waits for that and for the terminal. It is `poll` and not `select`,
which takes no descriptor above 1,023: a log with many partitions has that many files open.
"""

from __future__ import annotations

import os
import select
import signal
import termios
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from math import ceil
from types import FrameType

RESIZED, STOPPED = "resized", "stopped"
_SIGNALS = {signal.SIGWINCH: b"r", signal.SIGTSTP: b"s"}
_ESCAPE = b"\x1b"
_READ_BYTES = 256
# Of what `tcgetattr` answers: the local modes, the control characters.
_LFLAG, _CC = 3, 6


class Keyboard:
    """Made by `keyboard`. REQUIRES: used by the main thread, to which signals come."""

    def __init__(self, signals: int, terminal: int | None) -> None:
        self._signals = signals
        self._terminal = terminal

    def wait(self, seconds: float) -> str:
        """What comes first: keys that were typed, as text; `RESIZED`; `STOPPED`; or the end of the time, which gives "".

        Ctrl-C is a KeyboardInterrupt. A key that sends a sequence, such as an arrow, gives "" as well. Raises OSError if the
        terminal is gone.
        """
        waiting = select.poll()
        waiting.register(self._signals, select.POLLIN)
        if self._terminal is not None:
            waiting.register(self._terminal, select.POLLIN)
        ready = {descriptor for descriptor, _ in waiting.poll(ceil(max(0.0, seconds) * 1000))}
        if self._signals in ready:
            return STOPPED if b"s" in os.read(self._signals, _READ_BYTES) else RESIZED
        if self._terminal is None or self._terminal not in ready:
            return ""
        typed = os.read(self._terminal, _READ_BYTES)
        if not typed:  # its end: it is ready from now on, and has nothing
            self._terminal = None
        return "" if typed.startswith(_ESCAPE) else typed.decode("utf-8", "replace")


@contextmanager
def keyboard(terminal: int | None) -> Iterator[Keyboard]:
    """Take the keys of a terminal one by one, unseen, until the end of the block; then the terminal is as it was before.

    `terminal`: its descriptor, or None where there is none: then the wait is for time and signals. After `STOPPED` the caller
    leaves the block and calls `stop_process`: the shell that is shown then finds its terminal as it knows it.

    SIGTERM is a SystemExit meanwhile, so that a terminal is left in order then too.
    """
    with ExitStack() as undo:
        signals, write = os.pipe()
        undo.callback(os.close, signals)
        undo.callback(os.close, write)
        os.set_blocking(write, False)

        def note(number: int, frame: FrameType | None) -> None:
            with suppress(BlockingIOError):  # it is full of others
                os.write(write, _SIGNALS[signal.Signals(number)])

        for number, handler in {**dict.fromkeys(_SIGNALS, note), signal.SIGTERM: _end}.items():
            before = signal.signal(number, handler)
            undo.callback(signal.signal, number, signal.SIG_DFL if before is None else before)
        if terminal is not None:
            mode = termios.tcgetattr(terminal)
            undo.callback(termios.tcsetattr, terminal, termios.TCSANOW, mode)
            _take_keys(terminal)
        yield Keyboard(signals, terminal)


def stop_process() -> None:
    """Stop, as Ctrl-Z has a program do, until the shell continues it."""
    os.kill(os.getpid(), signal.SIGSTOP)


def _take_keys(terminal: int) -> None:
    """Without waiting for the end of a line, and without an echo. Ctrl-C, Ctrl-Z and Ctrl-\\ still send signals."""
    mode = termios.tcgetattr(terminal)
    mode[_LFLAG] &= ~(termios.ICANON | termios.ECHO)
    mode[_CC] = [*mode[_CC]]
    mode[_CC][termios.VMIN], mode[_CC][termios.VTIME] = 1, 0
    termios.tcsetattr(terminal, termios.TCSANOW, mode)


def _end(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)
