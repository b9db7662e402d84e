"""Opening a log: what its URL names, and the background work of an open log.

A path without a scheme names a directory, and that is all that can be opened today; `OPENERS` has the way to open each
scheme. `registry` has the logs that this process has open.

`client/` is above this package, so it hands in what the background thread does for it: see `ClientWork`.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol

from ..config import OpenOptions
from ..errors import ConfigError, FormatError, LogDirNotFoundError
from ..runtime.api import Disk
from ..runtime.disk import OsDisk, entropy, path_of
from ..runtime.disk_errors import ignored, require_disk_error
from ..runtime.threads import (
    BackgroundThread,
    RawGate,
    SystemClock,
    new_lock,
    new_owned_lock,
    real_monotonic,
)
from ..storage.files import as_storage_error
from .api import Service
from .broker import Broker
from .brokers import Brokers
from .log_directory import LogDirectory
from .metadata_copies import end_of_files
from .owner import OWNER_FILE, broker_names, is_retired
from .presence import other_count
from .scheduler import Scheduler
from .service import LocalService
from .tailing.service import TailingService

logger = logging.getLogger("streamlog.broker")

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")


class ClientWork(Protocol):
    """What the background thread does for the client. It refers to no open log: the thread must not keep one alive."""

    def wake_with(self, nudge: Callable[[], None]) -> None:
        """Take what wakes the background thread. It takes no lock, and may be called from a finalizer."""

    def run_due(self, now_ms: int) -> int | None:
        """Do all work there is, on the background thread; when to come again (ms), or None."""

    def clean_up(self) -> None:
        """Do what objects that were collected unclosed left to be done, on any thread. REQUIRES: no lock."""


Place = tuple[object, str]


class Location(NamedTuple):
    """Where a log is. Two opens of the same `place` are of the same log."""

    disk: Disk
    path: str
    temporary: bool
    directories: tuple[str, ...]
    """Those of the brokers: the path itself, if there is one. Of a log that is there, those that were found, or were given."""
    root: str | None = None
    """The path, if brokers have their directories in it."""

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
        directories = [
            LogDirectory(
                path, location.disk, new_lock, RawGate, real_monotonic, sync=options.sync, broker_id=number,
                cluster_id=cluster_id,
            )
            for number, path in enumerate(location.directories)
        ]  # fmt: skip
        self.service = LocalService(
            directories, self._clock, self._scheduler, self._maintenance, options.defaults, new_lock,
            RawGate, real_monotonic, root=location.root,
            count=options.brokers if isinstance(options.brokers, int) else None, lock_timeout=options.lock_timeout,
            force=options.force, replica_lag_ms=options.replica_lag_ms, is_temporary=location.temporary,
        )  # fmt: skip
        self._threads: list[BackgroundThread] = []
        self._watching: BackgroundThread | None = None
        """Of several brokers: what finds a disk that does not answer, until the log is closed."""
        self._of_brokers: dict[str, _BrokerThreads] = {}

    def open(self) -> None:
        moved_by_hand = hasattr(self._clock, "attach")
        if not moved_by_hand:
            self._make_threads()
        self.service.take_directories()
        self.service.open()
        if moved_by_hand:
            self._clock.attach(self._scheduler)
            self._clock.attach(self._maintenance)
            self._clock.attach(self.service.monotonic_timers)
        for thread in self._threads:
            thread.begin()
        if self._watching is not None:
            self.service.brokers.watch.is_looking = True
            self._watching.begin()
        for broker in self.service.brokers.all:
            path = broker.directory.path
            (self._of_brokers.get(path) or self._new_broker_threads(path)).begin(broker)
        self.service.new_threads = self._new_broker_threads
        self.service.brokers.on_removal = self._end_broker_threads
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
        brokers = self.service.brokers
        if brokers.is_replicated:
            background.left = lambda: self._scheduler.leave(new_lock())
            maintaining.left = lambda: self._maintenance.leave(new_lock())
            brokers.watch.workers = [background, maintaining]
            self._watching = BackgroundThread(brokers.watch.look, self.service.real_timers.now_ms, "streamlog-watch")
        for broker in brokers.all:
            self._new_broker_threads(broker.directory.path)

    def _new_broker_threads(self, path: str) -> _BrokerThreads:
        publishes = not (self._location.temporary or hasattr(self._clock, "attach"))
        made = _BrokerThreads(self.service.brokers, path, self.service.real_timers.now_ms, publishes=publishes)
        self._of_brokers[path] = made
        return made

    def _end_broker_threads(self, path: str) -> None:
        threads = self._of_brokers.pop(path, None)
        if threads is not None:
            threads.stop(0.0)  # one of them may be waiting for the caller

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
                self._clock.detach(self.service.monotonic_timers)
        finally:
            try:
                self._close()
            finally:
                self._stop_broker_threads()  # of a broker that was added until then
                self._stop_watching()

    def _stop(self) -> None:
        for broker in self.service.brokers.all:
            broker.publisher.wake = None
        for thread in self._threads:
            thread.stop()
        self._stop_broker_threads()
        self.service.real_timers.close()

    def _stop_watching(self) -> None:
        self.service.brokers.watch.is_looking = False
        if self._watching is not None:
            self._watching.stop()

    def _stop_broker_threads(self) -> None:
        hung = [broker.directory.path for broker in self.service.brokers.all if broker.hung is not None]
        for path, threads in list(self._of_brokers.items()):  # a broker may be added or removed meanwhile
            threads.stop(0.0 if path in hung else 10.0)

    def _close(self) -> None:
        is_ours = self._location.temporary and all(each.directory.is_ours() for each in self.service.brokers.running)
        try:
            self.service.close()
        finally:
            if is_ours:
                try:
                    self._location.disk.rmtree(self._location.path)
                except OSError as error:
                    require_disk_error(error)
                    logger.warning("could not remove the temporary log %s (%s)", self._location.path, error)

    def discard(self) -> None:
        self._stop()
        self._stop_watching()
        self.service.abandon()
        if self._location.temporary:
            with ignored(OSError):
                self._location.disk.rmtree(self._location.path)

    def abandon(self) -> None:
        self.service.abandon()


class _BrokerThreads:
    """The threads of one broker: what publishes for it, and in a log of several what fetches for it. They wait for `begin`.

    Those that fetch run under a clock that a test moves too: real time is theirs. A broker that does not run has them for when it
    starts.
    """

    def __init__(self, brokers: Brokers, path: str, now_ms: Callable[[], int], *, publishes: bool) -> None:
        self._publishing = self._fetching = None
        try:
            if publishes:
                work = partial(brokers.publish, path)
                self._publishing = BackgroundThread(work, SystemClock().time_ms, "streamlog-published")
            if brokers.is_replicated:
                self._fetching = BackgroundThread(partial(brokers.fetch, path), now_ms, "streamlog-replica")
        except BaseException:  # the first one has nothing to do without the second
            self.stop()
            raise

    def begin(self, broker: Broker) -> None:
        if self._publishing is not None:
            broker.publisher.wake = self._publishing.nudge
            self._publishing.begin()
        if self._fetching is not None:
            broker.nudge = self._fetching.nudge
            if broker.fetcher is not None:
                broker.fetcher.nudge = broker.nudge
            self._fetching.begin()

    def stop(self, timeout: float = 10.0) -> None:
        for thread in (self._publishing, self._fetching):
            if thread is not None:
                thread.stop(timeout)


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
    """The broker directories to read from, that with the newest metadata first: a broker that was stopped, or was missing at the
    last open, has old ones. Those that are missing, empty or retired come last.
    """
    disk = location.disk

    def age(path: str) -> tuple[bool, int, int]:
        try:
            if disk.exists(f"{path}/{OWNER_FILE}") and not is_retired(disk, path):
                epoch, end = end_of_files(disk, path)
                return False, -epoch, -end
        except OSError as error:
            require_disk_error(error)
        return True, 0, 0

    return sorted(location.directories, key=age) if len(location.directories) > 1 else list(location.directories)


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
        _require_apart(directories)
        return Location(disk, directories[0], False, directories)
    real = disk.absolute(path) if path is not None else disk.new_temporary_directory()
    try:
        names = _broker_names(disk, real, brokers)
    except OSError as error:
        require_disk_error(error)
        raise as_storage_error(error, "look at", real) from error
    if not names:
        return Location(disk, real, path is None, (real,))
    return Location(disk, real, path is None, tuple(f"{real}/{name}" for name in names), root=real)


def _require_apart(directories: Sequence[str]) -> None:
    """Raise ConfigError if two brokers were given the same directory, or one inside the other's."""
    for number, directory in enumerate(directories):
        for other in directories[:number]:
            if directory == other:
                raise ConfigError(
                    f"brokers= names the directory {directory} twice. Each broker has a directory of its own.",
                    name="brokers",
                )
            outer, inner = sorted((directory, other))
            if inner.startswith(f"{outer.rstrip('/')}/"):
                raise ConfigError(
                    f"brokers= names {inner}, which is inside another broker's directory, {outer}: both would be lost at once. Give "
                    f"directories beside one another, best on different disks.",
                    name="brokers",
                )


def _broker_names(disk: Disk, path: str, brokers: int | None) -> list[str]:
    """Where directories of brokers are, or are to be made, in the log at `path`; none if it has one broker, in `path` itself.

    Raises ConfigError if it has one broker and not `brokers`, LogDirNotFoundError if none of several is there.
    """
    try:
        names = disk.listdir(path)
    except (FileNotFoundError, NotADirectoryError) as error:
        require_disk_error(error)
        names = []
    if OWNER_FILE in names:
        if brokers not in (None, 1):
            raise other_count(path, 1, brokers)
        return []
    found = broker_names(names)
    if not found and brokers in (None, 1):
        return []
    is_log = any(_is_used(disk, f"{path}/{name}") for name in found)
    strangers = [name for name in names if name not in found]
    if strangers and not is_log:
        raise FormatError(
            f"{path} is not empty and no log of several brokers (it has {sorted(strangers)[0]}). Give an empty or a new directory, so "
            f"that nothing of yours is mixed with files of a log.",
            path=path,
        )
    if brokers is not None:
        wanted = [f"broker-{number}" for number in range(brokers)]
        return broker_names({*wanted, *(name for name in found if _is_used(disk, f"{path}/{name}"))})
    if not is_log:
        raise LogDirNotFoundError(
            f"{path} has directories of {len(found)} brokers ({', '.join(found)}), and all of them are empty: they may be disks that are not "
            f"mounted. Nothing was made there. Mount them and open again; for a new log give the number of its brokers (brokers={len(found)}).",
            path=path,
        )
    return found


def _is_used(disk: Disk, directory: str) -> bool:
    """Whether something is in a broker's directory, or that cannot be found out."""
    try:
        return bool(disk.listdir(directory))
    except FileNotFoundError as error:
        require_disk_error(error)
        return False
    except OSError as error:  # opening it says why
        require_disk_error(error)
        return True


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


def url_of(given: object, name: str = "path") -> str:
    """A URL as it was given, or the path of a directory as a str. Raises ConfigError for what is neither. `name`: the argument's."""
    if isinstance(given, str) and _SCHEME.match(given):
        opener_of(given)
        return given
    return path_of(given, name)
