"""Opening a log: what its URL names, the background work of an open log, and which logs this process has open.

A path without a scheme names a directory, and that is all that can be opened today; `OPENERS` has the way to open each
scheme. A second open of the same log with the same options gives another handle on the same `Engine`, so a notebook cell
can be run again. The files close with the last handle. The registry also closes what the program left open when the
interpreter exits, and gives everything up in a forked child.

`client/` is above this package, so it hands in what the background thread does for it: see `ClientWork`.

Lock order: the lock of a place, which is held while the log there is opened or closed, comes before every lock of a service.
So an open waits for no open or close of another log.
"""

from __future__ import annotations

import logging
import re
import weakref
from collections.abc import Callable
from functools import partial
from itertools import count
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from ..config import OpenOptions
from ..errors import ConfigError, FormatError, StreamlogError
from ..runtime.api import Disk, Lock
from ..runtime.disk import OsDisk, entropy, path_of
from ..runtime.disk_errors import ignored, require_disk_error
from ..runtime.exits import ExitCallbacks, at_exit_of_forked_children
from ..runtime.threads import (
    BackgroundThread,
    RawGate,
    SystemClock,
    after_fork_in_child,
    inside,
    new_lock,
    new_owned_lock,
    real_monotonic,
    refuse_reentry,
)
from ..runtime.values import raise_first, refuse_to_copy, snapshot
from ..storage.files import as_storage_error
from .api import Service
from .log_directory import LogDirectory
from .owner import OWNER_FILE, broker_names
from .scheduler import Scheduler
from .service import LocalService
from .tailing.service import TailingService

logger = logging.getLogger("streamlog.broker")

# How long an exit waits for the records that workers handle, for consumers in use, and for each producer's flush.
EXIT_S = 5.0
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")


class ClientWork(Protocol):
    """What the background thread does for the client. It refers to no open log: the thread must not keep one alive."""

    def wake_with(self, nudge: Callable[[], None]) -> None:
        """Take what wakes the background thread. It takes no lock, and may be called from a finalizer."""

    def run_due(self, now_ms: int) -> int | None:
        """Do all work there is, on the background thread; when to come again (ms), or None."""

    def clean_up(self) -> None:
        """Do what objects that were collected unclosed left to be done, on any thread. REQUIRES: no lock."""


class Handle(Protocol):
    """A `StreamLog`, as far as its engine knows it."""

    def _close_at_exit(self, limit_s: float) -> None: ...
    def _abandon_all(self) -> None: ...


Place = tuple[object, str]


class Location(NamedTuple):
    """Where a log is. Two opens of the same `place` are of the same log."""

    disk: Disk
    path: str
    temporary: bool
    directories: tuple[str, ...]
    """Those of the brokers: the path itself, if there is one."""

    @property
    def place(self) -> Place:
        return self.disk.filesystem, self.path


class Backend(Protocol):
    """One way to have a log open: its service and its threads."""

    @property
    def service(self) -> Service: ...

    def open(self) -> None: ...

    def check(self) -> None:
        """Raise LogDirNotFoundError if the log's directory is not the one that was opened any more."""

    def close(self) -> None:
        """Stop the background work and close the log. Raises the first error, after everything was released."""

    def discard(self) -> None:
        """After an open that failed or was interrupted, or a close that was: release what it took."""

    def abandon(self) -> None:
        """In a forked child: write nothing, lock nothing, remove nothing."""


class OwnedDirectory:
    """A directory that this process owns: the broker, its service, and the background threads."""

    def __init__(self, location: Location, options: OpenOptions, work: ClientWork) -> None:
        self._location = location
        self._options = options
        self._work = work
        self._clock: Any = options.clock if options.clock is not None else SystemClock()
        self._scheduler = Scheduler(new_lock(), new_lock())
        self._maintenance = Scheduler(new_lock(), new_lock())
        cluster_id = entropy(16).hex()
        self._directories = [
            LogDirectory(
                path, location.disk, new_lock, RawGate, real_monotonic, sync=options.sync, broker_id=number,
                cluster_id=cluster_id,
            )
            for number, path in enumerate(location.directories)
        ]  # fmt: skip
        self.service = LocalService(
            self._directories, self._clock, self._scheduler, self._maintenance, options.defaults, new_lock,
            RawGate, real_monotonic, force=options.force, replica_lag_ms=options.replica_lag_ms,
        )  # fmt: skip
        for broker in self.service.brokers.all:
            broker.publisher.is_silent = location.temporary
        self._threads: list[BackgroundThread] = []

    def open(self) -> None:
        moved_by_hand = hasattr(self._clock, "attach")
        if not moved_by_hand:
            self._make_threads()
        opened: list[LogDirectory] = []
        try:
            for directory in self._directories:
                directory.open(self._options.lock_timeout)
                opened.append(directory)
        except BaseException:
            for directory in opened:
                directory.close(clean=directory.crash.clean)
            raise
        self.service.open()
        if moved_by_hand:
            self._clock.attach(self._scheduler)
            self._clock.attach(self._maintenance)
        self._make_fetching_threads()
        for thread in self._threads:
            thread.begin()
        self.service.real_timers.open()

    def _make_threads(self) -> None:
        background = BackgroundThread(
            BackgroundWork(self._work, self._scheduler.run_due),
            self._clock.time_ms,
            "streamlog-background",
        )
        self._threads.append(background)
        self._scheduler.nudge = background.nudge
        self.service.has_background_thread()
        self._work.wake_with(background.nudge)
        # Maintenance has its own thread: a policy of the user's, the sync of a large file or a step of a compaction would
        # delay records that linger. The publisher too: it would keep readers in other processes waiting.
        maintaining = BackgroundThread(self._maintenance.run_due, self._clock.time_ms, "streamlog-maintenance")
        self._threads.append(maintaining)
        self._maintenance.nudge = maintaining.nudge
        if self._location.temporary:
            return
        brokers = self.service.brokers
        for number, broker in enumerate(brokers.all):
            publishing = BackgroundThread(
                partial(brokers.publish, number), SystemClock().time_ms, "streamlog-published"
            )
            self._threads.append(publishing)
            broker.publisher.wake = publishing.nudge

    def _make_fetching_threads(self) -> None:
        """One for each broker of a log with several. They run under a clock that a test moves too: real time is theirs."""
        brokers, now_ms = self.service.brokers, self.service.real_timers.now_ms
        for number, broker in enumerate(brokers.all):
            if broker.fetcher is not None:
                fetching = BackgroundThread(partial(brokers.fetch, number), now_ms, f"streamlog-replica-{broker.id}")
                broker.fetcher.nudge = fetching.nudge
                self._threads.append(fetching)

    def check(self) -> None:
        self.service.check_owned()

    def close(self) -> None:
        """Stop the background work, close every partition, give up the directory, remove a temporary one."""
        try:
            self.service.brokers.stop_compacting()
            self._stop()
            if hasattr(self._clock, "detach"):
                self._clock.detach(self._scheduler)
                self._clock.detach(self._maintenance)
        finally:
            self._close()

    def _stop(self) -> None:
        for broker in self.service.brokers.all:
            broker.publisher.wake = None
        for thread in self._threads:
            thread.stop()
        self.service.real_timers.close()

    def _close(self) -> None:
        is_ours = all(directory.is_ours() for directory in self._directories)
        try:
            self.service.close()
        finally:
            if self._location.temporary and is_ours:
                try:
                    self._location.disk.rmtree(self._location.path)
                except OSError as error:
                    require_disk_error(error)
                    logger.warning("could not remove the temporary log %s (%s)", self._location.path, error)

    def discard(self) -> None:
        self._stop()
        self.service.abandon()
        if self._location.temporary:
            with ignored(OSError):
                self._location.disk.rmtree(self._location.path)

    def abandon(self) -> None:
        self.service.abandon()


class TailedDirectory:
    """A directory that another process owns, or none: its service, and the thread that looks for news while a call waits.

    The thread runs under a clock that a test moves too: it is the other process's time that counts.
    """

    def __init__(self, location: Location, options: OpenOptions, work: ClientWork) -> None:
        self._options = options
        self._work = work
        clock: Any = options.clock if options.clock is not None else SystemClock()
        first, *others = _logs_first(location)
        self.service = TailingService(
            first, location.disk, clock, Scheduler(new_lock(), new_lock()), new_owned_lock, RawGate,
            real_monotonic, others,
        )  # fmt: skip
        self._thread: BackgroundThread | None = None

    def open(self) -> None:
        work = BackgroundWork(self._work, self.service.tick)
        self._thread = BackgroundThread(work, SystemClock().time_ms, "streamlog-tailing")
        self.service.open(self._options.lock_timeout)
        self.service.nudge = self._thread.nudge
        self._work.wake_with(self._thread.nudge)
        self._thread.begin()
        self.service.real_timers.open()

    def check(self) -> None:
        """A reader notices in the service that the log was replaced."""

    def close(self) -> None:
        self.discard()

    def discard(self) -> None:
        if self._thread is not None:
            self._thread.stop()
        self.service.real_timers.close()
        self.service.close()

    def abandon(self) -> None:
        """It holds nothing that has to be given up."""


def _logs_first(location: Location) -> list[str]:
    """The broker directories to read from; those that are missing, or are empty, come last."""
    disk = location.disk
    try:
        return sorted(location.directories, key=lambda path: not disk.exists(f"{path}/{OWNER_FILE}"))
    except OSError as error:
        require_disk_error(error)
        raise as_storage_error(error, "open", location.path) from error


class BackgroundWork:
    """What the background thread runs. It does not refer to the engine: a thread must not keep a forgotten log open."""

    def __init__(self, client: ClientWork, run_due: Callable[[int], int | None]) -> None:
        self._client = client
        self._run_due = run_due

    def __call__(self, now_ms: int) -> int | None:
        return earliest(self._client.run_due(now_ms), self._run_due(now_ms))


def earliest(*deadlines: int | None) -> int | None:
    return min((deadline for deadline in deadlines if deadline is not None), default=None)


# -- URL schemes -------------------------------------------------------------------------------------


class Opener(NamedTuple):
    """How logs of one URL scheme are opened. `locate` finds out which log a path names, `connect` makes its backend."""

    locate: Callable[[str | None, OpenOptions], Location]
    connect: Callable[[Location, OpenOptions, ClientWork], Backend]


def _locate_directory(path: str | None, options: OpenOptions) -> Location:
    """The directory of a path, made absolute, or those of its brokers; a new temporary one for None."""
    disk: Disk = options.disk if options.disk is not None else OsDisk()
    brokers = options.brokers
    if isinstance(brokers, tuple):
        directories = tuple(disk.absolute(each) for each in brokers)
        if path is not None or len(set(directories)) < len(directories):
            raise ConfigError(
                f"brokers={list(brokers)!r} names the directories of the log, each once, so there is no path besides them.",
                name="brokers",
            )
        return Location(disk, directories[0], False, directories)
    real = disk.absolute(path) if path is not None else disk.new_temporary_directory()
    try:
        directories = _broker_directories(disk, real, brokers)
    except OSError as error:
        require_disk_error(error)
        raise as_storage_error(error, "open", real) from error
    return Location(disk, real, path is None, directories)


def _broker_directories(disk: Disk, path: str, brokers: int | None) -> tuple[str, ...]:
    """The broker directories of the log at `path`: itself, or those in it. Raises ConfigError if there are others than `brokers`."""
    try:
        names = disk.listdir(path)
    except (FileNotFoundError, NotADirectoryError) as error:
        require_disk_error(error)
        names = []
    found = broker_names(names)
    # All directories are there before the first of them becomes a log's; what a creation that was cut short left is none.
    is_log = OWNER_FILE in names or any(disk.exists(f"{path}/{name}/{OWNER_FILE}") for name in found)
    count = 0 if not is_log else len(found) if OWNER_FILE not in names else 1
    if brokers is not None and count and brokers != count:
        raise ConfigError(
            f"{path} is a log of {count} broker{'s' * (count > 1)}, and was opened with brokers={brokers}. Leave `brokers` out: an "
            f"open finds out by itself.",
            name="brokers",
        )
    if (count or brokers or 1) == 1 and not found:
        return (path,)
    strangers = [name for name in names if name not in found]
    if strangers:
        raise FormatError(
            f"{path} is not empty and no log of several brokers (it has {sorted(strangers)[0]}). Give an empty or a new directory, so "
            f"that nothing of yours is mixed with files of a log.",
            path=path,
        )
    wanted = found if count or brokers is None else [f"broker-{number}" for number in range(brokers)]
    return tuple(f"{path}/{name}" for name in wanted)


def _connect_directory(location: Location, options: OpenOptions, work: ClientWork) -> Backend:
    kind = TailedDirectory if options.read_only else OwnedDirectory
    return kind(location, options, work)


OPENERS: dict[str, Opener] = {"": Opener(_locate_directory, _connect_directory)}
"""By URL scheme, in lower case; a path without a scheme is a directory."""


def opener_of(path: str | None) -> Opener:
    """How to open what `path` names. Raises ConfigError for a scheme that is not known."""
    match = _SCHEME.match(path) if path is not None else None
    scheme = match[1].lower() if match is not None else ""
    opener = OPENERS.get(scheme)
    if opener is None:
        known = "".join(f", {name}://" for name in OPENERS if name)
        raise ConfigError(
            f"path={path!r}: streamlog cannot open {scheme}:// URLs. Supported: the path of a directory, without a "
            f"scheme{known}.",
            name="path",
        )
    return opener


def url_of(given: object) -> str:
    """A URL as it was given, or the path of a directory as a str. Raises ConfigError for what is neither."""
    if isinstance(given, str) and _SCHEME.match(given):
        opener_of(given)
        return given
    return path_of(given)


# -- what is open in this process --------------------------------------------------------------------

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
        self.handles: weakref.WeakSet[Any] = weakref.WeakSet()
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

        An interrupt anywhere leaves no use of it registered. Raises ConfigError for a URL that cannot be opened, and for
        options that differ from those of the engine there is.
        """
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
