"""A broker directory: who owns it, how it was left, and the partitions in it.

DIR/streamlog.json    format, ids, incarnation, boot id, and whether it was closed
DIR/lock              flock and the owner's pid
DIR/__cluster_metadata-0/
DIR/topics/ID-N/      ID is the topic's uuid in hex: no trouble with case, length, or a name used again
"""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Callable, Mapping
from typing import Any
from uuid import UUID

from ..config import TopicConfig
from ..errors import CorruptRecordError, FormatError, LogLockedError, PoisonedLogError
from ..records.batch import seed_of
from ..replication.partition import Partition
from ..runtime.api import Disk, Gate, Lock
from ..runtime.disk import entropy
from ..storage.faults import typed
from ..storage.recovery import Crash, open_log
from ..types import TopicPartition
from .metadata import TopicView
from .owner import OWNER_FILE, new_owner, read_owner, write_owner

logger = logging.getLogger("streamlog.broker")

METADATA_ID = UUID(int=1)
METADATA_DIR = "__cluster_metadata-0"
METADATA_CONFIG = TopicConfig(cleanup_policy="compact", segment_bytes=1 << 20, max_message_bytes=1 << 24)
_LEFTOVERS = {"lock", OWNER_FILE + ".tmp"}
_TOPIC_DIR = re.compile(r"([0-9a-f]{32})-(\d+)")
_LOCK_STEP_S = 0.02


class Broker:
    """One broker directory, owned by this process from `open` to `close`."""

    def __init__(
        self,
        path: str,
        disk: Disk,
        new_lock: Callable[[], Lock],
        new_gate: Callable[[], Gate],
        monotonic: Callable[[], float],
        *,
        sync: bool = False,
    ) -> None:
        self.path = path
        self.disk = disk
        self.new_lock = new_lock
        self._new_gate = new_gate
        self._monotonic = monotonic
        self.sync = sync
        self._lock = disk.lock(f"{path}/lock")
        self.owner: dict[str, Any] = {}
        self.crash = Crash(clean=False, same_boot=True)
        self._boot_id = ""
        # Until everything is open: after a clean close nothing of a topic may be missing.
        self._is_complete = False
        self._half_made: set[str] = set()

    @property
    def incarnation(self) -> str:
        return str(self.owner["incarnation"])

    # -- opening -------------------------------------------------------------------------------------

    def open(self, lock_timeout: float) -> None:
        """Take the directory: create it if absent, lock it, mark it in use. Nothing is written if refused."""
        disk, path = self.disk, self.path
        new: list[str] = []
        try:
            existed = disk.exists(path)
            if existed:
                self._refuse_strangers()
            else:
                new = self._missing()
                disk.makedirs(path)
            if disk.is_network_filesystem(path):
                raise FormatError(
                    f"{path} is on a network file system, where a lock does not keep other machines out and a cached page "
                    f"may be stale. Put the log on a local disk.",
                    path=path,
                )
            self._acquire(lock_timeout)
        except OSError as error:
            raise typed(error, "open", error.filename or path) from error
        try:
            is_new = self._take_over(new)
            disk.makedirs(f"{path}/topics")
            if is_new or not self.crash.clean:
                disk.sync_dir(path)
                disk.sync_dir(f"{path}/topics")
        except OSError as error:
            self._lock.release()
            raise typed(error, "open", error.filename or path) from error
        except BaseException:
            self._lock.release()
            raise

    def _missing(self) -> list[str]:
        """The directories that have to be made for `path`, the deepest first."""
        missing = [self.path]
        while _above(missing[-1]) and not self.disk.exists(_above(missing[-1])):
            missing.append(_above(missing[-1]))
        return missing

    def _sync_names(self, new: list[str]) -> None:
        """Have the names of the directories themselves on the device, before an owner file says that this is a log.

        An earlier open may have made some and come no further, so those that were there are synced too, as far
        as they can be.
        """
        directory = self.path
        while directory:
            above = _above(directory)
            try:
                self.disk.sync_dir(above or "/")
            except OSError as error:  # another user's, and not to be read by us, or none that has to be synced
                if directory in new and not isinstance(error, PermissionError):
                    raise
            directory = above

    def _refuse_strangers(self) -> None:
        try:
            names = self.disk.listdir(self.path)
        except NotADirectoryError as error:
            raise FormatError(f"{self.path} is a file; a log is a directory.", path=self.path) from error
        if OWNER_FILE not in names and set(names) - _LEFTOVERS:
            raise FormatError(
                f"{self.path} is not empty and no log (it has no {OWNER_FILE}). Give an empty or a new directory, so that "
                f"nothing of yours is mixed with files of a log.",
                path=self.path,
            )

    def _acquire(self, timeout: float) -> None:
        deadline = self._monotonic() + timeout
        while True:
            pid = self._lock.acquire()
            if pid is None:
                return
            left = deadline - self._monotonic()
            if left <= 0:
                raise LogLockedError(
                    f"{self.path} is in use by process {pid or 'unknown'}. One process owns a log at a time. To read "
                    f"along with it open the log with read_only=True; to write, stop that process or wait for it with "
                    f"lock_timeout=.",
                    path=self.path,
                    pid=pid,
                )
            self._new_gate().wait(min(_LOCK_STEP_S, left))

    def _take_over(self, new: list[str]) -> bool:
        """Read how the directory was left, and write down that it is ours and in use; whether there was no log yet."""
        path = f"{self.path}/{OWNER_FILE}"
        boot = self._boot_id = self.disk.boot_id()
        kept = boot
        is_new = not self.disk.exists(path)
        if not is_new:
            self.owner = read_owner(self.disk, path)
            self.crash = Crash(clean=bool(self.owner["clean"]), same_boot=self.owner["boot_id"] == boot and bool(boot))
            self._is_complete = self.crash.clean
            if not self.crash.clean:  # until every partition was looked at, this crash is the one to recover from
                kept = self.owner["boot_id"]
        else:
            self._sync_names(new or [self.path])
            self.owner = new_owner(entropy(16).hex(), entropy(16).hex())
            self.crash = Crash(clean=True, same_boot=True)
        self.owner = {**self.owner, "incarnation": self.owner["incarnation"] + 1, "boot_id": kept, "clean": False}
        self._write_owner()
        return is_new

    def recovered(self, *, completely: bool) -> None:
        """Everything is open. Unless some file is still to be brought in order, what comes next is another crash."""
        self._is_complete = False
        if completely and self.owner["boot_id"] != self._boot_id:
            self.owner = {**self.owner, "boot_id": self._boot_id}
            try:
                self._write_owner()
            except OSError as error:
                raise typed(error, "open", error.filename or self.path) from error

    def _write_owner(self) -> None:
        write_owner(self.disk, f"{self.path}/{OWNER_FILE}", self.owner)

    # -- partitions ----------------------------------------------------------------------------------

    def open_metadata(self) -> Partition:
        """Always durable: a topic that vanished would take along what was synced of it."""
        name = TopicPartition("__cluster_metadata", 0)
        return self._open(METADATA_DIR, name, METADATA_ID.bytes, METADATA_CONFIG, durable=True)

    def open_partition(self, view: TopicView, number: int) -> Partition:
        name = TopicPartition(view.name, number)
        return self._open(f"topics/{view.id.hex}-{number}", name, view.id_bytes, view.config, durable=self.sync)

    def _open(
        self, directory: str, name: TopicPartition, topic_id: bytes, config: TopicConfig, *, durable: bool
    ) -> Partition:
        """Open one partition. A durable one begins with everything that recovery found on the device."""
        seed = seed_of(topic_id, name.partition)
        half_made = directory in self._half_made  # then what is there may be in the page cache only
        crash = Crash(clean=False, same_boot=True) if half_made else self.crash
        try:
            is_new = half_made or not self.disk.exists(f"{self.path}/{directory}")
            unexpected = (
                is_new
                and not half_made
                and (
                    self._is_complete or (directory == METADATA_DIR and bool(self.disk.listdir(f"{self.path}/topics")))
                )
            )
        except OSError as error:
            raise typed(error, "open", f"{self.path}/{directory}") from error
        if unexpected:
            raise _is_missing(f"{self.path}/{directory}", name)
        if is_new:
            self._half_made.add(directory)
        log = open_log(
            self.disk, f"{self.path}/{directory}", topic_id, name.partition, seed, config, crash,
            is_known=self._is_complete and not is_new,
        )  # fmt: skip
        try:
            if not crash.clean:  # a file whose entry was never synced may have been found there
                self.disk.sync_dir(f"{self.path}/{directory}")
            if is_new:  # the entry in the directory above must not be lost before the metadata that names it
                self.disk.sync_dir(_above(f"{self.path}/{directory}"))
                self._half_made.discard(directory)
        except OSError as error:
            log.release()
            raise typed(error, "sync", f"{self.path}/{directory}") from error
        synced_end = log.tail.end_offset if crash.clean and log.poison is None else log.recovery_point
        partition = Partition(name, topic_id, log, self.new_lock, durable=durable, synced_end=synced_end)
        if durable and log.poison is None:
            # One whose sync fails is there all the same, to be read as far as it is safe.
            with contextlib.suppress(PoisonedLogError):
                partition.commit.sync()
        return partition

    def remove_partition_files(self, topic_hex: str, number: int) -> None:
        """Unlink a deleted topic's files. What fails is removed as an orphan at the next open."""
        path = f"{self.path}/topics/{topic_hex}-{number}"
        try:
            self.disk.rmtree(path)
        except FileNotFoundError:
            return
        except OSError as error:
            logger.warning("could not remove %s (%s); it will be removed at the next open", path, error)

    def discard_partition(self, view: TopicView, number: int) -> None:
        """Remove a partition that was made for a change that is void. What stays of it is made anew, not taken for old."""
        self._half_made.add(f"topics/{view.id.hex}-{number}")
        self.remove_partition_files(view.id.hex, number)

    def remove_orphans(self, known: Mapping[str, int]) -> None:
        """Remove partitions that the metadata does not name, of topics by id and how many they have.

        A deletion was interrupted, or a change that made them was, or was refused.
        """
        try:
            names = self.disk.listdir(f"{self.path}/topics")
        except OSError as error:
            raise typed(error, "open", f"{self.path}/topics") from error
        for name in names:
            match = _TOPIC_DIR.fullmatch(name)
            if match is not None and int(match[2]) >= known.get(match[1], 0):
                self._half_made.add(f"topics/{name}")
                with contextlib.suppress(OSError):
                    self.disk.rmtree(f"{self.path}/topics/{name}")

    # -- closing -------------------------------------------------------------------------------------

    def close(self, *, clean: bool) -> None:
        """Mark the directory closed if everything in it was, and give up the lock."""
        try:
            if clean:
                self.owner = {**self.owner, "clean": True}
                self._write_owner()
        except OSError as error:  # a full disk: the next open walks the headers, nothing is lost
            logger.warning("could not mark %s as closed (%s); the next open will check it", self.path, error)
        finally:
            self._lock.release()

    def abandon(self) -> None:
        """In a forked child: let go of the lock's descriptor, touch nothing else."""
        self._lock.abandon()


def _above(path: str) -> str:
    return path[: path.rindex("/")]


def _is_missing(directory: str, name: TopicPartition) -> CorruptRecordError:
    return CorruptRecordError(
        f"{directory} is missing: the records of {name.topic}-{name.partition} were in it when the log was closed. "
        f"Restore the directory from a copy; streamlog.verify() tells what else is hurt, and streamlog.repair() copies "
        f"what is whole into a new log.",
        path=directory,
        position=0,
        expected=0,
        actual=0,
    )
