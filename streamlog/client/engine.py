"""One open directory in this process, shared by every handle on it.

Opening a directory a second time with the same options gives another handle on the same engine: a
notebook cell that is run again just works. The files close with the last handle. The registry also
knows what to do at interpreter exit and after a fork.
"""

from __future__ import annotations

import contextlib
import logging
import weakref
from itertools import count
from typing import Any

from ..broker.broker import Broker
from ..broker.scheduler import Scheduler
from ..broker.service import LocalService
from ..config import OpenOptions
from ..errors import ConfigError, StreamlogError
from ..runtime.disk import OsDisk, absolute, new_temporary_directory
from ..runtime.threads import (
    BackgroundThread,
    RawGate,
    SystemClock,
    after_fork_in_child,
    at_exit,
    new_lock,
    real_monotonic,
)
from .membership import Room, walk

logger = logging.getLogger("streamlog.client")

_FUNERALS_MS = 1_000


class Engine:
    """The broker, the service and the background work of one directory."""

    def __init__(self, path: str, options: OpenOptions, *, temporary: bool) -> None:
        self.path = path
        self.options = options
        self.temporary = temporary
        self.room = Room()
        self.numbers = count()
        self.handles: weakref.WeakSet[Any] = weakref.WeakSet()
        self.users = 0
        clock: Any = options.clock if options.clock is not None else SystemClock()
        self._disk = OsDisk()
        self.scheduler = Scheduler(new_lock(), new_lock())
        self._broker = Broker(path, self._disk, new_lock, RawGate, real_monotonic)
        self.service = LocalService(self._broker, clock, self.scheduler, options.defaults, new_lock, real_monotonic)
        self._clock = clock
        self._thread: BackgroundThread | None = None

    def open(self) -> None:
        self._broker.open(self.options.lock_timeout)
        self.service.open()
        if hasattr(self._clock, "attach"):
            self._clock.attach(self.scheduler)
        else:
            self._thread = BackgroundThread(_Run(self), self._clock.time_ms, "streamlog-background")
            self.scheduler.nudge = self._thread.nudge

    def close(self) -> None:
        """Stop the background work, close every partition, give up the directory, remove a temporary one."""
        try:
            if self._thread is not None:
                self._thread.stop()
            elif hasattr(self._clock, "detach"):
                self._clock.detach(self.scheduler)
        finally:
            self._close()

    def _close(self) -> None:
        try:
            self.service.close()
        finally:
            if self.temporary:
                try:
                    self._disk.rmtree(self.path)
                except OSError as error:
                    logger.warning("could not remove the temporary log %s (%s)", self.path, error)

    def discard(self) -> None:
        """After an open that failed or was interrupted: let go of what it took."""
        if self._thread is not None:
            self._thread.stop()
        self.service.abandon()
        if self.temporary:
            with contextlib.suppress(OSError):
                self._disk.rmtree(self.path)

    def abandon(self) -> None:
        """In a forked child: every handle refuses from now on; nothing is written, locked or removed."""
        for handle in walk(self.handles):
            handle._abandon_all()
        self.service.abandon()


class _Run:
    """The background thread's work. It refers to the engine weakly: a thread must not keep a forgotten log."""

    def __init__(self, engine: Engine) -> None:
        self._scheduler = engine.scheduler
        self._room = engine.room

    def __call__(self, now_ms: int) -> int | None:
        self._room.hold_funerals()
        return self._scheduler.run_due(now_ms)


class Registry:
    """The engines of this process, by real path."""

    def __init__(self) -> None:
        self._lock = new_lock()
        self._engines: dict[str, Engine] = {}
        self._hooked = False

    def open(self, path: str | None, options: OpenOptions) -> Engine:
        """The engine for a path, made if there is none; None makes a temporary one. Call `close` for each."""
        for known in list(self._engines.values()):
            known.room.hold_funerals()  # a handle that was dropped may be the last on this path
        with self._lock:
            self._hook()
            real = absolute(path) if path is not None else new_temporary_directory()
            engine = self._engines.get(real)
            if engine is not None:
                difference = engine.options.differs(options)
                if difference is not None:
                    raise ConfigError(
                        f"{real} is open in this process with another {difference}. Opening it again gives another handle "
                        f"on the same log, so the options have to be the same; close the first one to change them.",
                        name=difference,
                    )
                engine.users += 1
                return engine
            engine = Engine(real, options, temporary=path is None)
            try:
                engine.open()
            except BaseException:
                engine.discard()
                raise
            engine.users = 1
            self._engines[real] = engine
            return engine

    def close(self, engine: Engine) -> None:
        """Give up one use of an engine; the last one closes it."""
        with self._lock:
            engine.users -= 1
            if engine.users:
                return
            try:
                engine.close()
            finally:
                self._engines.pop(engine.path, None)

    def _hook(self) -> None:
        if not self._hooked:
            self._hooked = True
            at_exit(self._at_exit)
            after_fork_in_child(self._after_fork)

    def _at_exit(self) -> None:
        """Close what the program left open: consumers stop, producers flush (with a bound), temporary logs go."""
        for engine in list(self._engines.values()):
            for handle in walk(engine.handles):
                try:
                    handle._close_at_exit()
                except StreamlogError as error:
                    logger.error("closing %s at exit: %s", engine.path, error)

    def _after_fork(self) -> None:
        self._lock = new_lock()  # it may have been held by a thread that the child does not have
        engines, self._engines = self._engines, {}
        for engine in engines.values():
            engine.abandon()


registry = Registry()
