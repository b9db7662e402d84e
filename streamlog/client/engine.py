"""One open directory in this process, shared by every handle on it.

Opening a directory a second time with the same options gives another handle on the same engine: a
notebook cell that is run again just works. The files close with the last handle. The registry also
knows what to do at interpreter exit and after a fork.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable
from functools import partial
from itertools import count
from typing import Any

from ..broker.api import Service
from ..broker.log_directory import LogDirectory
from ..broker.scheduler import Scheduler
from ..broker.service import LocalService
from ..broker.tailing.service import TailingService
from ..config import OpenOptions
from ..errors import ConfigError, StreamlogError
from ..runtime.api import Disk
from ..runtime.disk import OsDisk
from ..runtime.disk_errors import check, ignored
from ..runtime.exits import ExitCallbacks, at_exit_of_forked_children
from ..runtime.threads import (
    BackgroundThread,
    RawGate,
    SystemClock,
    after_fork_in_child,
    get_ident,
    inside,
    new_lock,
    new_owned_lock,
    real_monotonic,
    refuse_reentry,
)
from ..runtime.values import refuse_to_copy
from .cleanup import Cleanup
from .consumer.membership import LocalMembers, snapshot

logger = logging.getLogger("streamlog.client")

# How long an exit waits for the workers' records in hand, for consumers in use, and for each producer's flush.
EXIT_S = 5.0


class Engine:
    """The service and the background work of one directory."""

    __reduce_ex__ = refuse_to_copy

    service: Service

    def __init__(self, path: str, options: OpenOptions, disk: Disk, *, temporary: bool) -> None:
        self.path = path
        self.place = (disk.filesystem, path)
        self.options = options
        self.temporary = temporary
        self.cleanup = Cleanup()
        self.local_members = LocalMembers(self.cleanup)
        self.numbers = count()
        self.handles: weakref.WeakSet[Any] = weakref.WeakSet()
        self.users: set[object] = set()
        self.ending = False
        self._disk = disk
        self._clock: Any = options.clock if options.clock is not None else SystemClock()
        self.scheduler = Scheduler(new_lock(), new_lock())

    def open(self) -> None:
        raise NotImplementedError

    def close(self) -> None:
        """Stop the background work and let go of the directory. Raises the first error, after everything was let go."""
        raise NotImplementedError

    def check(self) -> None:
        """Raise LogDirNotFoundError if the directory is not the one that was opened any more."""

    def discard(self) -> None:
        """After an open that failed or was interrupted: let go of what it took."""
        raise NotImplementedError

    def abandon(self) -> None:
        """In a forked child: every handle refuses from now on; nothing is written, locked or removed."""
        for handle in snapshot(self.handles):
            handle._abandon_all()


class OwningEngine(Engine):
    """The broker, the service and the background work of a directory that is this process's."""

    def __init__(self, path: str, options: OpenOptions, disk: Disk, *, temporary: bool) -> None:
        super().__init__(path, options, disk, temporary=temporary)
        self._broker = LogDirectory(path, self._disk, new_lock, RawGate, real_monotonic, sync=options.sync)
        self._local = self.service = LocalService(
            self._broker, self._clock, self.scheduler, options.defaults, new_lock, real_monotonic, force=options.force
        )
        self._local.publisher.is_silent = temporary
        self._threads: list[BackgroundThread] = []

    def open(self) -> None:
        moved_by_hand = hasattr(self._clock, "attach")
        if not moved_by_hand:
            self._make_threads()
        self._broker.open(self.options.lock_timeout)
        self._local.open()
        if moved_by_hand:
            self._clock.attach(self.scheduler)
        for thread in self._threads:
            thread.begin()

    def _make_threads(self) -> None:
        work = BackgroundThread(_Run(self), self._clock.time_ms, "streamlog-background")
        self._threads.append(work)
        self.scheduler.nudge = self.cleanup.nudge = work.nudge
        if self.temporary:
            return
        # Its own thread: a compaction in the other one would keep readers in other processes waiting.
        publisher = self._local.publisher
        publishing = BackgroundThread(publisher.tick, SystemClock().time_ms, "streamlog-published")
        self._threads.append(publishing)
        publisher.wake = publishing.nudge

    def check(self) -> None:
        self._local.check_owned()

    def close(self) -> None:
        """Stop the background work, close every partition, give up the directory, remove a temporary one."""
        try:
            self._local.stop_compacting()
            self._stop()
            if hasattr(self._clock, "detach"):
                self._clock.detach(self.scheduler)
        finally:
            self._close()

    def _stop(self) -> None:
        self._local.publisher.wake = None
        for thread in self._threads:
            thread.stop()

    def _close(self) -> None:
        is_ours = self._broker.is_ours()
        try:
            self._local.close()
        finally:
            if self.temporary and is_ours:
                try:
                    self._disk.rmtree(self.path)
                except OSError as error:
                    check(error)
                    logger.warning("could not remove the temporary log %s (%s)", self.path, error)

    def discard(self) -> None:
        self._stop()
        self._local.abandon()
        if self.temporary:
            with ignored(OSError):
                self._disk.rmtree(self.path)

    def abandon(self) -> None:
        super().abandon()
        self._local.abandon()


class FollowingEngine(Engine):
    """The service of a directory that is another process's, and the thread that looks for news while somebody waits.

    The thread is there under a clock that a test moves too: it is the other process's time that counts.
    """

    def __init__(self, path: str, options: OpenOptions, disk: Disk, *, temporary: bool) -> None:
        super().__init__(path, options, disk, temporary=temporary)
        self._following = self.service = TailingService(
            path, disk, self._clock, self.scheduler, new_owned_lock, RawGate, real_monotonic
        )
        self._thread: BackgroundThread | None = None

    def open(self) -> None:
        self._thread = BackgroundThread(_Look(self), SystemClock().time_ms, "streamlog-following")
        self._following.open(self.options.lock_timeout)
        self._following.nudge = self.cleanup.nudge = self._thread.nudge
        self._thread.begin()

    def close(self) -> None:
        self.discard()

    def discard(self) -> None:
        if self._thread is not None:
            self._thread.stop()
        self._following.close()


class _Run:
    """The background thread's work. It refers to the engine weakly: a thread must not keep a forgotten log."""

    def __init__(self, engine: Engine) -> None:
        self._scheduler = engine.scheduler
        self._cleanup = engine.cleanup
        self._local_members = engine.local_members

    def __call__(self, now_ms: int) -> int | None:
        self._cleanup.background_thread = get_ident()
        self._cleanup.run_deferred_closes()
        return earliest(self._local_members.run_due(now_ms), self._scheduler.run_due(now_ms))


class _Look:
    """The following thread's work. It does not refer to the engine: a thread must not keep a forgotten log."""

    def __init__(self, engine: FollowingEngine) -> None:
        self._tick = engine._following.tick
        self._cleanup = engine.cleanup
        self._local_members = engine.local_members

    def __call__(self, now_ms: int) -> int | None:
        self._cleanup.run_deferred_closes()
        return earliest(self._local_members.run_due(now_ms), self._tick(now_ms))


def earliest(*deadlines: int | None) -> int | None:
    return min((deadline for deadline in deadlines if deadline is not None), default=None)


class Registry:
    """The engines of this process, by file system and real path."""

    __reduce_ex__ = refuse_to_copy

    def __init__(self) -> None:
        self._lock = new_lock()
        self._engines: dict[tuple[object, str], Engine] = {}
        self._at_exits = ExitCallbacks()
        self._exits: dict[tuple[object, str], Callable[[], None]] = {}
        self._hooked = False

    def open(self, path: str | None, options: OpenOptions, user: object) -> Engine:
        """The engine for a path, made if there is none; None makes a temporary one. Call `close` for each `user`.

        An interrupt anywhere leaves no use of it behind.
        """
        refuse_reentry()
        opened: list[Engine] = []
        try:
            self._open(path, options, user, opened)
        except BaseException:
            for engine in opened:
                self.close(engine, user)
            raise
        return opened[0]

    def _open(self, path: str | None, options: OpenOptions, user: object, opened: list[Engine]) -> None:
        for known in list(self._engines.values()):
            known.local_members.clean_up()  # a handle that was dropped may be the last on this path
        with inside(), self._lock:
            self._hook()
            disk: Disk = options.disk if options.disk is not None else OsDisk()
            real = disk.absolute(path) if path is not None else disk.new_temporary_directory()
            engine = self._engines.get((disk.filesystem, real))
            if engine is not None and not engine.users:  # its closing was interrupted
                self._end(engine)
                engine = None
            if engine is not None:
                difference = engine.options.differs(options)
                if difference == "read_only":
                    held = "for reading only" if engine.options.read_only else "for writing"
                    raise ConfigError(
                        f"{real} is open in this process {held} already. Use that handle, or close it first: a process that "
                        f"owns a log reads through it, and read_only=True is for other processes.",
                        name=difference,
                    )
                if difference is not None:
                    raise ConfigError(
                        f"{real} is open in this process with another {difference}. Opening it again gives another handle "
                        f"on the same log, so the options have to be the same; close the first one to change them.",
                        name=difference,
                    )
                engine.check()
                opened.append(engine)
                engine.users.add(user)
                return
            kind: type[Engine] = FollowingEngine if options.read_only else OwningEngine
            engine = kind(real, options, disk, temporary=path is None)
            try:
                engine.open()
                self._exits[engine.place] = self._at_exits.add(partial(self._at_exit, engine))
            except BaseException:
                self._forget(engine)
                engine.discard()
                raise
            self._engines[engine.place] = engine
            opened.append(engine)
            engine.users.add(user)

    def close(self, engine: Engine, user: object) -> None:
        """Give up one use of an engine; the last one closes it. Can be interrupted, and done again."""
        with inside(), self._lock:
            engine.users.discard(user)
            if not engine.users and self._engines.get(engine.place) is engine:
                self._end(engine)

    def _end(self, engine: Engine) -> None:
        """REQUIRES: the lock. What was interrupted while it closed is let go of: the next open looks after the rest."""
        try:
            if engine.ending:
                engine.discard()
            else:
                engine.ending = True
                engine.close()
        except StreamlogError:
            self._forget(engine)
            raise
        self._forget(engine)

    def _forget(self, engine: Engine) -> None:
        self._engines.pop(engine.place, None)
        no_exit = self._exits.pop(engine.place, None)
        if no_exit is not None:
            no_exit()

    def _hook(self) -> None:
        if not self._hooked:
            self._hooked = True
            at_exit_of_forked_children(self._at_exit_of_all)
            after_fork_in_child(self._after_fork)

    def _at_exit(self, engine: Engine) -> None:
        """Close what the program left open: consumers stop, producers flush, temporary logs go. With a bound for each.

        It comes after the last non-daemon thread, or after the Ctrl-C that ended the wait for them. Another Ctrl-C
        ends what is waited for here, and the log is closed all the same.
        """
        first: BaseException | None = None
        engine.local_members.clean_up()
        for handle in snapshot(engine.handles):
            for limit_s in (EXIT_S, 0.0):
                try:
                    handle._close_at_exit(limit_s)
                except KeyboardInterrupt as error:
                    first = error
                    continue
                except StreamlogError as error:
                    logger.error("closing %s at exit: %s", engine.path, error)
                except Exception as error:  # a handler's, that nobody took
                    first = first or error
                break
        if first is not None:
            try:
                raise first
            finally:
                del first  # it refers to this frame

    def _at_exit_of_all(self) -> None:
        for engine in list(self._engines.values()):
            self._at_exit(engine)

    def _after_fork(self) -> None:
        self._lock = new_lock()  # it may have been held by a thread that the child does not have
        for no_exit in self._exits.values():
            no_exit()
        self._exits = {}
        engines, self._engines = self._engines, {}
        for engine in engines.values():
            engine.abandon()


registry = Registry()
