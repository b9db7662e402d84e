"""Which logs this process has open.

A second open of the same log with the same options gives another handle on the same `Engine`, so a notebook cell can be run
again. The files close with the last handle. The registry also closes what the program left open when the interpreter exits, and
gives everything up in a forked child.

Lock order: the lock of a place, which is held while the log there is opened or closed, comes before every lock of a service.
So an open waits for no open or close of another log.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable
from itertools import count
from typing import Any, Generic, Protocol, TypeVar

from ..config import OpenOptions
from ..errors import ConfigError, StreamlogError
from ..runtime.api import Lock
from ..runtime.exits import ExitCallbacks, at_exit_of_forked_children
from ..runtime.interpreter_lock import require_interpreter_lock
from ..runtime.threads import after_fork_in_child, inside, new_lock, refuse_reentry
from ..runtime.values import raise_first, refuse_to_copy, snapshot
from .opening import ClientWork, Location, Opener, Place, opener_of

logger = logging.getLogger("streamlog.broker")

# How long an exit waits for the records that workers handle, for consumers in use, and for each producer's flush.
EXIT_S = 5.0


class Handle(Protocol):
    """A `StreamLog`, as far as its engine knows it."""

    def _close_at_exit(self, limit_s: float) -> None: ...
    def _abandon_all(self) -> None: ...


W = TypeVar("W", bound=ClientWork)


class Engine(Generic[W]):
    """One log that this process has open, shared by every handle on it."""

    __reduce_ex__ = refuse_to_copy

    def __init__(self, location: Location, options: OpenOptions, opener: Opener, work: W) -> None:
        self.path = location.path
        self.place = location.place
        self.temporary = location.temporary
        self.options = options
        self.work = work
        self.numbers = count()
        self.handles: weakref.WeakKeyDictionary[Any, None] = weakref.WeakKeyDictionary()
        self.users: set[object] = set()
        self.ending = False
        self.backend = opener.connect(location, options, work)
        self.service = self.backend.service

    def check(self) -> None:
        """Raise LogDirNotFoundError if the directory is not the one that was opened any more."""
        self.backend.check()

    def abandon(self) -> None:
        """In a forked child: every handle refuses from now on; nothing is written, locked or removed."""
        for handle in self._handles():
            handle._abandon_all()
        self.backend.abandon()

    def close_at_exit(self) -> None:
        """Close what the program left open: consumers stop, producers flush, temporary logs go. With a bound for each.

        It comes after the last non-daemon thread, or after the Ctrl-C that ended the wait for them. Another Ctrl-C
        ends what is waited for here, and the log is closed all the same.
        """
        errors: list[BaseException] = []
        self.work.clean_up()
        for handle in self._handles():
            for limit_s in (EXIT_S, 0.0):
                try:
                    handle._close_at_exit(limit_s)
                except KeyboardInterrupt as error:
                    errors.insert(0, error)
                    continue
                except StreamlogError as error:
                    logger.error("closing %s at exit: %s", self.path, error)
                except Exception as error:  # raised by a handler, and taken by no caller
                    errors.append(error)
                break
        raise_first(errors)

    def _handles(self) -> list[Handle]:
        return snapshot(self.handles)


class Registry(Generic[W]):
    """The engines of this process, by place. Thread-safe. `new_work` makes the client's part of an engine."""

    __reduce_ex__ = refuse_to_copy

    def __init__(self, new_work: Callable[[], W]) -> None:
        self._new_work = new_work
        self._engines: dict[Place, Engine[W]] = {}
        self._opening: dict[Place, Engine[W]] = {}
        self._places: dict[Place, Lock] = {}
        self._at_exits = ExitCallbacks()
        self._at_exits_lock = new_lock()  # a leaf
        self._exits: dict[Place, Callable[[], None]] = {}
        self._hooked = False

    def open(self, path: str | None, options: OpenOptions, user: object) -> Engine[W]:
        """The engine for a path, made if there is none; None makes a temporary one. Call `close` for each `user`.

        An interrupt anywhere leaves no use of it registered. Raises ConfigError for a URL that cannot be opened, for
        options that differ from those of the engine there is, and where Python runs without its lock.
        """
        require_interpreter_lock()
        refuse_reentry()
        opener = opener_of(path)
        opened: list[Engine[W]] = []
        try:
            self._open(path, options, opener, user, opened)
        except BaseException:
            for engine in opened:
                self.close(engine, user)
            raise
        return opened[0]

    def _open(
        self, path: str | None, options: OpenOptions, opener: Opener, user: object, opened: list[Engine[W]]
    ) -> None:
        for known in list(self._engines.values()):
            known.work.clean_up()  # a handle that was dropped may be the last on this path
        self._hook()
        location = opener.locate(path, options)
        self._at(location.place, lambda: self._open_here(location, options, opener, user, opened))

    def _at(self, place: Place, work: Callable[[], None]) -> None:
        """Do `work` while no other thread opens or closes the log at `place`. Places that have no log have no lock either."""
        is_done = False
        while not is_done:
            lock = self._places.setdefault(place, new_lock())
            with inside(), lock:
                if self._places.get(place) is not lock:  # the thread that had it took it out
                    continue
                try:
                    work()
                    is_done = True
                finally:
                    if place not in self._engines:
                        self._places.pop(place, None)

    def _open_here(
        self, location: Location, options: OpenOptions, opener: Opener, user: object, opened: list[Engine[W]]
    ) -> None:
        engine = self._engines.get(location.place)
        if engine is not None and not engine.users:  # its closing was interrupted
            self._end(engine)
            engine = None
        if engine is not None:
            _refuse_other_options(engine, options)
            engine.check()
            opened.append(engine)
            engine.users.add(user)
            return
        engine = Engine(location, options, opener, self._new_work())
        self._opening[engine.place] = engine
        try:
            engine.backend.open()
            with inside(), self._at_exits_lock:
                self._exits[engine.place] = self._at_exits.add(engine.close_at_exit)
            self._engines[engine.place] = engine
        except BaseException:
            self._forget(engine)
            engine.backend.discard()
            raise
        finally:
            self._opening.pop(engine.place, None)
        opened.append(engine)
        engine.users.add(user)

    def close(self, engine: Engine[W], user: object) -> None:
        """Give up one use of an engine; the last one closes it. Can be interrupted, and done again."""

        def close() -> None:
            engine.users.discard(user)
            if not engine.users and self._engines.get(engine.place) is engine:
                self._end(engine)

        self._at(engine.place, close)

    def _end(self, engine: Engine[W]) -> None:
        """Close an engine. REQUIRES: the lock. One whose closing was interrupted is released; the next open recovers it."""
        try:
            if engine.ending:
                engine.backend.discard()
            else:
                engine.ending = True
                engine.backend.close()
        except StreamlogError:
            self._forget(engine)
            raise
        self._forget(engine)

    def _forget(self, engine: Engine[W]) -> None:
        self._engines.pop(engine.place, None)
        no_exit = self._exits.pop(engine.place, None)
        if no_exit is not None:
            no_exit()

    def _hook(self) -> None:
        with inside(), self._at_exits_lock:
            if not self._hooked:
                self._hooked = True
                at_exit_of_forked_children(self._close_all_at_exit)
                after_fork_in_child(self._after_fork)

    def _close_all_at_exit(self) -> None:
        for engine in list(self._engines.values()):
            engine.close_at_exit()

    def _after_fork(self) -> None:
        self._at_exits_lock = new_lock()  # it may have been held by a thread that the child does not have
        self._places = {}
        for no_exit in self._exits.values():
            no_exit()
        self._exits = {}
        engines, self._engines = [*self._engines.values(), *self._opening.values()], {}
        self._opening = {}
        for engine in engines:
            engine.abandon()


def _refuse_other_options(engine: Engine[Any], options: OpenOptions) -> None:
    """Raise ConfigError if the log is open with other options."""
    difference = engine.options.differs(options)
    if difference == "read_only":
        held = "for reading only" if engine.options.read_only else "for writing"
        raise ConfigError(
            f"{engine.path} is open in this process {held} already. Use that handle, or close it first: a process that "
            f"owns a log reads through it, and read_only=True is for other processes.",
            name=difference,
        )
    if difference is not None:
        raise ConfigError(
            f"{engine.path} is open in this process with {'other' if difference.endswith('s') else 'another'} {difference}. Opening it again gives another handle "
            f"on the same log, so the options have to be the same; close the first one to change them.",
            name=difference,
        )
