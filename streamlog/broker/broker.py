"""One broker of a log: a directory with replicas, and what publishes them to other processes and fetches for them."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

from ..errors import StreamlogError
from ..replication.fetcher import ReplicaFetcher
from ..replication.partition import Partition
from ..runtime.disk_errors import require_disk_error
from ..runtime.threads import getpid
from ..runtime.values import refuse_to_copy
from .log_directory import LogDirectory
from .replica_manager import ReplicaManager
from .tailing.published_writer import PublishedWriter

_PROBE, _PROBE_BYTES = "probe", 1 << 14


class Broker:
    """One broker: its directory, its replicas, what publishes them to other processes, and what fetches for them."""

    __reduce_ex__ = refuse_to_copy

    def __init__(self, directory: LogDirectory, publisher: PublishedWriter, replicas: ReplicaManager) -> None:
        self.directory = directory
        self.publisher = publisher
        self.replicas = replicas
        self.fetcher: ReplicaFetcher | None = None
        self.nudge: Callable[[], object] = lambda: None
        """Wakes the thread that fetches for it."""
        self._probes = itertools.count()
        self.epoch = 0
        self.running = True
        self.is_leaving = False
        """Whether it does not run any more, and its files are to be closed, once that is recorded."""
        self.watched_ms = 0
        """When it was looked whether its directory is still there."""
        self.was_new = False
        """Whether its directory was empty when it was started again."""
        self.failure: StreamlogError | None = None
        """Why it does not run, if it was not stopped."""
        self.hung: StreamlogError | None = None
        """What is said of its disk, if that has stopped to answer: see `disk_watch`."""

    @property
    def id(self) -> int:
        return self.directory.broker_id

    def wake(self, now_ms: int = 0) -> None:
        """Have the thread that fetches for it look what there is to do."""
        if self.fetcher is not None:
            self.fetcher.nudge()

    def about(self) -> dict[str, Any]:
        """What `StreamLog.metrics()` says of it."""
        failure = None if self.failure is None else str(self.failure)
        return {"path": self.directory.path, "running": self.running, "failure": failure}

    def open_metadata(self, *, made_anew: bool = False) -> Partition:
        """Its copy of the metadata log. REQUIRES: its directory is open. It is not registered yet.

        `made_anew`: if it is damaged so that it cannot be opened, for it does not count.
        """
        self.publisher.open(int(self.directory.incarnation), getpid())
        return self.replicas.open_metadata(made_anew=made_anew)

    def drop(self, *, untouched: bool = False, clears: bool = False) -> None:
        """Close the files, and sync nothing. `untouched`: nothing was written, so it is as cleanly closed as it was. `clears`: remove
        them, for it was no broker before."""
        self.running = False
        self.publisher.abandon()
        self.replicas.release()
        self.replicas.metadata = None
        if clears and self.directory.owner:  # else another process has it
            self.directory.clear()
        self.directory.close(clean=untouched and self.directory.crash.clean)

    def close_directory(self, *, clean: bool, stopped: bool = False) -> None:
        """Mark the directory as closed, if everything in it was, and give it up. `stopped`: other brokers go on."""
        replicas = self.replicas
        unsynced = any(
            each.log.durability.poison is not None and not each.log.durability.is_marked for each in replicas.all()
        )
        is_clean = clean and not replicas.is_faulty
        try:
            self.publisher.close(clean=is_clean)
        finally:
            self.directory.close(clean=is_clean, unsynced=unsynced, stopped=stopped)

    def close_late(self) -> None:
        """Close the files of a broker whose disk did not answer, and does again."""
        self.replicas.release()
        self.close_directory(clean=False, stopped=True)

    def has_space(self) -> bool:
        """Whether its disk takes a file of some KB now. Threads may ask at once: each makes a file of its own."""
        disk, path = self.directory.disk, f"{self.directory.path}/{_PROBE}-{next(self._probes)}"
        try:
            file = disk.open(path, create=True)
            try:
                file.pwrite([bytes(_PROBE_BYTES)], 0)
                file.sync()
            finally:
                file.close()
                disk.unlink(path)
        except OSError as error:
            require_disk_error(error)
            return False
        return True
