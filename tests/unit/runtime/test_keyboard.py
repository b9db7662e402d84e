"""Keys of a terminal, signals and times, in one wait; and the terminal as it was before."""

from __future__ import annotations

import os
import pty
import signal
import termios
from collections.abc import Iterator

import pytest

from streamlog.runtime.keyboard import RESIZED, STOPPED, Keyboard, keyboard
from tests.times import LONG

SIGNALS = (signal.SIGWINCH, signal.SIGTSTP, signal.SIGTERM)


@pytest.fixture
def ends() -> Iterator[tuple[int, int]]:
    """Both ends of a pseudo-terminal: the person's, the program's."""
    master, slave = pty.openpty()
    yield master, slave
    os.close(slave)
    os.close(master)


def test_keys_come_one_by_one_and_are_not_echoed(ends: tuple[int, int]) -> None:
    master, slave = ends
    with keyboard(slave) as keys:
        for key in ("q", " ", "é"):
            os.write(master, key.encode())
            assert keys.wait(LONG) == key
        assert keys.wait(0.0) == ""
        os.set_blocking(master, False)
        with pytest.raises(BlockingIOError):
            os.read(master, 1)


def test_a_key_that_sends_a_sequence_is_none_of_its_letters(ends: tuple[int, int]) -> None:
    master, slave = ends
    with keyboard(slave) as keys:
        for sequence in (b"\x1b[A", b"\x1bOq", b"\x1b"):  # an arrow, a key of the number block, Escape
            os.write(master, sequence)
            assert keys.wait(LONG) == ""


def test_signals_end_the_wait(ends: tuple[int, int]) -> None:
    with keyboard(ends[1]) as keys:
        os.kill(os.getpid(), signal.SIGWINCH)
        assert keys.wait(LONG) == RESIZED
        os.kill(os.getpid(), signal.SIGWINCH)
        os.kill(os.getpid(), signal.SIGTSTP)
        assert keys.wait(LONG) == STOPPED
        assert keys.wait(0.0) == ""
        for _ in range(100_000):  # more than the pipe holds
            signal.raise_signal(signal.SIGWINCH)
        assert keys.wait(LONG) == RESIZED


def test_sigterm_ends_the_block_as_an_exit(ends: tuple[int, int]) -> None:
    before = termios.tcgetattr(ends[1])
    with pytest.raises(SystemExit) as ended, keyboard(ends[1]) as keys:
        os.kill(os.getpid(), signal.SIGTERM)
        keys.wait(LONG)
    assert ended.value.code == 143
    assert termios.tcgetattr(ends[1]) == before


def test_the_terminal_and_the_signals_are_as_before(ends: tuple[int, int]) -> None:
    before = termios.tcgetattr(ends[1]), [signal.getsignal(number) for number in SIGNALS]
    with pytest.raises(KeyboardInterrupt), keyboard(ends[1]) as keys:
        assert not termios.tcgetattr(ends[1])[3] & (termios.ECHO | termios.ICANON)
        os.kill(os.getpid(), signal.SIGINT)
        keys.wait(LONG)
    assert (termios.tcgetattr(ends[1]), [signal.getsignal(number) for number in SIGNALS]) == before


def test_without_a_terminal_it_waits_for_time_and_signals() -> None:
    with keyboard(None) as keys:
        assert keys.wait(0.001) == ""
        assert keys.wait(-1.0) == ""
        os.kill(os.getpid(), signal.SIGWINCH)
        assert keys.wait(LONG) == RESIZED


def test_the_end_of_what_is_typed_is_no_key_and_is_not_waited_for_again() -> None:
    read, write = os.pipe()
    os.close(write)
    signals, sender = os.pipe()
    keys = Keyboard(signals, read)
    assert keys.wait(LONG) == ""  # it is ready from now on, with nothing
    os.write(sender, b"r")
    assert keys.wait(LONG) == RESIZED
    for descriptor in (read, signals, sender):
        os.close(descriptor)
