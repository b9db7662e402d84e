"""Ctrl-C, and what else a signal handler may raise, at every place of a call at which Python can deliver one.

    python -m tests.stress.interrupts --seed 1

Python looks for signals at few instructions: where a function begins, after a call, where a loop jumps back. Before
each of these (and of no other: a signal that comes elsewhere waits for the next of them) the sweep flags a SIGINT, and
Python itself raises KeyboardInterrupt where it would. So what is tested is what can happen: raising from the trace
function would also raise inside the end of a `with lock`, where no signal is ever delivered. The flag is set through
`__getitem__`, since a call would have the trace function interrupted itself. Frames of other libraries and of the
standard library count too: a Ctrl-C can come inside those as well.

A handler of the user's may raise anything: SystemExit to end the program, TimeoutError (an OSError) to bound a call, an
exception of its own, MemoryError. Each of `KINDS` is swept like KeyboardInterrupt, and has to come out as it is.

The first run of a call is interrupted at its first such place, the next at its second, until one comes to its end. After
each interrupt the log is used, within a bound, and what was acknowledged is compared with what is there.
"""

from __future__ import annotations

import _thread
import argparse
import random
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from dis import opname
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

from streamlog import testing

from . import interrupted_calls, interrupted_transactions
from .interrupted_calls import Action, Story

LONGEST_S = 50.0
CALLS_PER_LOG = 100
ACTIONS = interrupted_calls.ACTIONS + interrupted_transactions.ACTIONS
_OWN = frozenset({__file__, interrupted_calls.__file__, interrupted_transactions.__file__})
# The simulated disk stands in for calls of the system, in the middle of which Python looks for no signal.
_KERNEL = tuple(
    f"{Path(testing.__file__).parent}/{name}.py" for name in ("simulated", "handles", "model", "crashes", "faults")
)
_LOOKS = frozenset(
    number for number, name in enumerate(opname) if name.startswith(("CALL", "JUMP_BACKWARD", "POP_JUMP_BACKWARD"))
)


class Cancelled(BaseException):
    """What a program of the user's raises in its signal handlers; no exception of Python's, and none of ours."""


KINDS: tuple[type[BaseException], ...] = (KeyboardInterrupt, SystemExit, Cancelled, TimeoutError, MemoryError)


class _Flag:
    """`flag[SIGINT]` marks a signal as pending, as its C handler does."""

    __getitem__ = staticmethod(_thread.interrupt_main)


class Interrupter:
    """Interrupts a call at one place. `places` counts those that the last call came by, `where` is the one."""

    def __init__(self, error: type[BaseException] = KeyboardInterrupt, within: CodeType | None = None) -> None:
        self.error = error
        self.within = within
        self.places = 0
        self.where = ""
        self._nth = 0
        self._again = 0
        self._flag = _Flag()

    def interrupt(self, call: Callable[[], object], nth: int, again: int = 0) -> bool:
        """Run `call` with a signal at its `nth` place (from 1), and one `again` places later; whether it has that many."""
        self.places, self._nth, self._again = 0, nth, again
        before, handler = sys.gettrace(), signal.signal(signal.SIGINT, self._raise)
        try:
            sys.settrace(self._enter)
            call()
        except self.error:
            pass
        finally:
            sys.settrace(before)
            signal.signal(signal.SIGINT, handler)
        return nth <= self.places

    def _raise(self, *_: object) -> None:
        raise self.error

    def _strike(self) -> None:
        self._flag[signal.SIGINT]

    def _is_place(self, frame: FrameType) -> bool:
        return self.within in (None, frame.f_code) and frame.f_code.co_code[frame.f_lasti] in _LOOKS

    def _enter(self, frame: FrameType, event: str, arg: object) -> Any:
        if frame.f_code.co_filename in _OWN or frame.f_code.co_filename.startswith(_KERNEL):
            return None
        frame.f_trace = self._trace  # before what follows, which Python 3.13 ignores of a frame without one
        frame.f_trace_lines = False
        frame.f_trace_opcodes = True
        return self._trace

    def _trace(self, frame: FrameType, event: str, arg: object) -> Any:
        if event != "opcode" or not self._is_place(frame):
            return self._trace
        self.places += 1
        if self.places != self._nth and (not self._again or self.places != self._nth + self._again):
            return self._trace
        self.where = f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_qualname}"
        self._strike()
        return self._trace


@contextmanager
def at_most(seconds: float, what: Callable[[], str]) -> Iterator[None]:
    """A lock that stays held is a failure with its place, and no hang."""

    def late(*_: object) -> None:
        raise AssertionError(f"still waiting after {seconds} s, {what()}")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def without_losses(error: type[BaseException]) -> Iterator[None]:
    """Python itself loses an exception that is raised in a finalizer: no fault of ours."""
    before = sys.unraisablehook

    def hook(lost: Any) -> None:
        if lost.exc_type is not error:
            before(lost)

    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = before


@dataclass
class Swept:
    """How far a sweep came."""

    places: int = 0
    interrupts: int = 0


# Python 3.12 has no event of an opcode in the first trace of the process that asks for them: a sweep found no place to be at.
Interrupter().interrupt(Swept, 10**9)


def sweep(
    kind: type[Action],
    *,
    first: int = 1,
    step: int = 1,
    again: Callable[[], int] = lambda: 0,
    error: type[BaseException] = KeyboardInterrupt,
    within: CodeType | None = None,
) -> Swept:
    """Raise `error` at the call's place `first`, `first + step`, …, and a second time `again()` places later; of all its
    places, or of those in the function `within` alone.

    It is over when three calls in a row came to their end: one alone may have had less to do than another.
    """
    swept = Swept()
    interrupter = Interrupter(error, within)
    story: Story | None = None
    nth, ended = first, 0

    def place() -> str:
        return f"{kind.__name__}, {error.__name__} at place {nth}: {interrupter.where}"

    with without_losses(error):
        while ended < 3:
            if story is None:
                story = Story(dict(kind.settings), kind.padding, kind.sync, kind.brokers)
                action = kind(story)
            with at_most(LONGEST_S, place):
                try:
                    action.prepare()
                    hit = interrupter.interrupt(action.call, nth, again())
                    ended = 0 if hit else ended + 1
                    swept.places = max(swept.places, interrupter.places)
                    swept.interrupts += hit
                    action.after()
                    story.send()
                    story.check()
                    if kind.fresh or (not ended and not swept.interrupts % CALLS_PER_LOG):
                        story.end()
                        story = None
                except BaseException as failure:
                    failure.add_note(f"interrupted: {place()}")
                    raise
            nth += step
        if story is not None:
            story.end()
    return swept


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    parser.add_argument("--rounds", type=int, default=1, help="sweeps of each call with a second Ctrl-C soon after")
    parser.add_argument("--only", default="", help="the name of one action")
    parser.add_argument("--error", default="", help="the name of one of the exceptions")
    chosen = parser.parse_args()
    rng = random.Random(chosen.seed)
    say(f"python -m tests.stress.interrupts --seed {chosen.seed} --rounds {chosen.rounds}, {date.today()}")
    total = 0
    for kind in ACTIONS:
        if chosen.only not in ("", kind.__name__):
            continue
        for error in KINDS:
            if chosen.error not in ("", error.__name__):
                continue
            swept = sweep(kind, error=error)
            total += swept.interrupts
            # Not an OSError: a second one, while it is decided whether the first was the disk's, poisons the log, as it must.
            twice = kind.twice and not issubclass(error, OSError)
            for _ in range(chosen.rounds if twice else 0):
                total += sweep(kind, again=lambda: rng.choice((1, 1, 2, 3, 5, 8, 13)), error=error).interrupts
            say(f"{kind.__name__:>24}: {error.__name__} at {swept.places:,} places")
    say(f"{total:,} calls interrupted: nothing acknowledged lost, nothing twice, no lock held")


if __name__ == "__main__":
    main()
