"""`streamlog top`: the command, and its loop."""

from __future__ import annotations

import logging
import sys
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Annotated, Protocol

import typer
from rich.console import Console
from rich.control import Control
from rich.screen import Screen as AllOfTheScreen

from ...errors import ConfigError, StreamlogError
from ...runtime.keyboard import RESIZED, STOPPED, Keyboard, keyboard, stop_process
from ...runtime.threads import SystemClock
from ...types import Clock
from .. import render as output
from ..app import Directory, Json, app, log_paths, message_for_terminal, open_log, option, wants_json
from .sampler import Frame, Sample, Sampler
from .screen import PLAIN, UNICODE, Screen, Style, as_json, render
from .source import Source, Wanted

FIRST_S = 1.0
"""Where frames are drawn over each other, the second one, which has rates, comes after so long at most."""
_LEAST_WAIT_S = 0.05
LONGEST_S = 3600.0
_LOGGED = 3


@app.command("top")
def top(
    ctx: typer.Context,
    path: Annotated[
        Path | None, typer.Argument(metavar="PATH", show_default=False, help="Directory of the log, as with -d.")
    ] = None,
    every: Annotated[
        float,
        option("--every", metavar="SECONDS", min=0.1, max=3600.0, help="How often to look, in seconds.  [default: 2]"),
    ] = 2.0,
    topic: Annotated[
        list[str] | None,
        option("--topic", "-t", metavar="NAME", help="Only topics of this name, or pattern ('a*'); may be repeated."),
    ] = None,
    group: Annotated[
        list[str] | None,
        option("--group", "-g", metavar="NAME", help="Only groups of this name, or pattern ('a*'); may be repeated."),
    ] = None,
    internal: Annotated[bool, option("--internal", help="Include the internal topics.")] = False,
    count: Annotated[int | None, option("--count", "-c", metavar="N", min=1, help="Exit after N frames.")] = None,
    once: Annotated[bool, option("--once", help="Print one frame, as to a pipe.")] = False,
    directory: Directory = None,
    as_json: Json = False,
) -> None:
    """Watch topics, groups, lag and brokers, refreshed. Another process may have the log open.

    Rates are those of the last 10 seconds, of groups of the last 30. A group catches up when its lag is gone, if all goes on as
    it does; it keeps up if it is within a second of the end. q and Ctrl-C exit, space pauses.

    A pipe, and a terminal that cannot move the cursor (TERM=dumb), get one frame after another, with --json one line each.
    The first comes when there are rates, after --every seconds.
    """
    if once and count not in (None, 1):
        raise ConfigError(f"--once and --count {count} contradict each other. Leave one of them out.")
    if path is not None and directory and [path] != directory:
        raise ConfigError(f"Two directories are given, {path} and {directory[0]}. Leave one of them out.")
    directory = directory if path is None else [path]
    paths = log_paths(ctx, directory)
    wanted = Wanted(topic or (), group or (), internal)
    clock = SystemClock()
    source = Source(lambda: open_log(ctx, directory, read_only=True), paths, clock, wanted)
    title = ", ".join(str(each.absolute()) for each in paths)
    console = output.console()
    is_full = sys.stdout.isatty() and console.is_terminal and not console.is_dumb_terminal
    shown: Shown
    try:
        source.open()  # before the screen changes
        if wants_json(ctx, as_json):
            shown = _JsonLines(title)
        elif once or not is_full:
            shown = _Lines(title, console)
        else:
            shown = _FullScreen(title, console)
        watch = Watch(source, clock, shown, every, 1 if once else count)
        while watch.run_in(shown.begin):
            stop_process()
    finally:
        source.close()


class Shown(Protocol):
    """Where frames go. `is_live`: each is drawn over the last one, and one without rates is worth showing."""

    is_live: bool

    def begin(self) -> AbstractContextManager[Keyboard]:
        """Frames are shown in this block only; it gives the keys that are typed meanwhile."""

    def show(self, frame: Frame, *, is_paused: bool) -> None: ...


class Gathers(Protocol):
    """The part of `Source` that a `Watch` calls."""

    def gather(self) -> Sample: ...


class Watch:
    """The loop: look, show, wait for a key or for the next time. The first failure is raised; later ones are warnings on the last frame.

    `frames`: after how many it ends, or None.
    """

    def __init__(self, source: Gathers, clock: Clock, shown: Shown, every_s: float, frames: int | None) -> None:
        self._source = source
        self._clock = clock
        self._shown = shown
        self._every_s = every_s
        self._left = frames
        self._sampler = Sampler()
        self._looks = 0
        self._next_s = clock.monotonic()
        self._is_paused = False
        self._frame: Frame | None = None

    def run_in(self, begin: Callable[[], AbstractContextManager[Keyboard]]) -> bool:
        """`run` with the keys of a block that `begin` makes."""
        with begin() as keys:
            return self.run(keys.wait)

    def run(self, wait: Callable[[float], str]) -> bool:
        """Until the last frame, or q: False. Until the process is to stop (Ctrl-Z): True; then call it again afterwards.

        `wait`: see `Keyboard.wait`. Raises KeyboardInterrupt.
        """
        self._draw_again()
        while self._left != 0:
            now_s = self._clock.monotonic()
            if not self._is_paused and now_s >= self._next_s:
                self._look()
                is_first = self._looks == 1 and self._shown.is_live
                interval_s = min(self._every_s, FIRST_S) if is_first else self._every_s
                # Not from when the look ended, so that a slow one makes the interval no longer.
                self._next_s = max(now_s + interval_s, self._clock.monotonic() + _LEAST_WAIT_S)
                if self._shown.is_live or self._looks > 1:
                    self._show()
                    self._left = None if self._left is None else self._left - 1
                continue
            happened = wait(LONGEST_S if self._is_paused else self._next_s - now_s)
            if happened == STOPPED:
                return True
            if happened == RESIZED:
                self._draw_again()
            elif "q" in happened.lower():
                return False
            elif " " in happened:
                self._is_paused = not self._is_paused
                self._next_s = self._clock.monotonic()
                self._draw_again()
        return False

    def _look(self) -> None:
        self._looks += 1
        try:
            self._frame = self._sampler.add(self._source.gather())
        except (StreamlogError, OSError) as error:
            if self._frame is None or self._left == 1:
                raise
            self._frame = self._frame.failed(self._clock.time_ms(), message_for_terminal(error))

    def _draw_again(self) -> None:
        if self._shown.is_live:
            self._show()

    def _show(self) -> None:
        if self._frame is not None:
            self._shown.show(self._frame, is_paused=self._is_paused)


# -- where frames go -------------------------------------------------------------------------------------


class _JsonLines:
    """One line of JSON for each frame."""

    is_live = False

    def __init__(self, title: str) -> None:
        self._title = title

    def begin(self) -> AbstractContextManager[Keyboard]:
        return keyboard(None)

    def show(self, frame: Frame, *, is_paused: bool) -> None:
        output.json_line(as_json(frame, self._title))
        sys.stdout.flush()


class _Lines:
    """One frame after another, without control sequences that move the cursor."""

    is_live = False

    def __init__(self, title: str, console: Console) -> None:
        self._title = title
        self._console = console
        self._is_first = True

    def begin(self) -> AbstractContextManager[Keyboard]:
        return keyboard(None)

    def show(self, frame: Frame, *, is_paused: bool) -> None:
        if not self._is_first:
            self._console.print()
        self._is_first = False
        height = self._console.height - 1 if sys.stdout.isatty() else None
        self._console.print(render(frame, Screen(self._title, self._console.width, height, _style_of(self._console))))
        sys.stdout.flush()


class _FullScreen:
    """The alternate screen of a terminal, each frame over the last. What is logged meanwhile is shown as warnings."""

    is_live = True

    def __init__(self, title: str, console: Console) -> None:
        self._title = title
        self._console = console
        self._has_keys = sys.stdin.isatty()
        self._logged = _Logged()

    @contextmanager
    def begin(self) -> Iterator[Keyboard]:
        terminal = sys.stdin.fileno() if self._has_keys else None
        with keyboard(terminal) as keys, self._logged.instead(), self._console.screen(hide_cursor=True):
            yield keys

    def show(self, frame: Frame, *, is_paused: bool) -> None:
        width, height = self._console.size
        screen = Screen(self._title, width, height, _style_of(self._console), keys=self._has_keys)
        frame = frame._replace(warnings=(*frame.warnings, *self._logged.messages))
        with self._console:  # one write for all: a terminal that draws in between would flicker
            self._console.control(Control.home())
            self._console.print(AllOfTheScreen(render(frame, screen, is_paused=is_paused)), end="")


class _Logged(logging.Handler):
    """Keeps the last messages of the library's loggers, which would be written across the screen."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: deque[str] = deque(maxlen=_LOGGED)

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(" ".join(record.getMessage().split()))

    @contextmanager
    def instead(self) -> Iterator[None]:
        """Of all other handlers, in this block."""
        root = logging.getLogger()
        before, root.handlers = root.handlers, [self]
        try:
            yield
        finally:
            root.handlers = before


def _style_of(console: Console) -> Style:
    return UNICODE if console.encoding.startswith("utf") else PLAIN
