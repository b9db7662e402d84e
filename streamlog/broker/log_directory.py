"""A broker directory: its owner, how it was closed last, and the partitions in it.

DIR/streamlog.json    format, ids, incarnation, boot id, and whether it was closed
DIR/lock              two locks of the kernel, and the pid of the owner
DIR/__cluster_metadata-0/
DIR/topics/ID-N/      ID is the topic's uuid in hex, so that case, length and reuse of names do not matter
"""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Callable, Container, Mapping
from typing import Any
from uuid import UUID

from ..config import TopicConfig
from ..errors import CorruptRecordError, FormatError, LogLockedError, PoisonedLogError, StreamlogError
from ..records.batch import seed_of
from ..replication.partition import Partition
from ..runtime.api import Disk, Gate, Lock
from ..runtime.disk import entropy
from ..runtime.disk_errors import ignored, require_disk_error
from ..runtime.owned_disk import OwnedDisk, StaleOwnerError
from ..runtime.values import refuse_to_copy
from ..storage.files import as_storage_error
from ..storage.lost import create_empty, is_lost, lost_error
from ..storage.recovery.recovery import PreviousShutdown, open_log
from ..storage.segment import size_of
from ..types import TopicPartition
from .metadata import TopicView
from .owner import OWNER_FILE, new_owner, read_owner, write_owner

logger = logging.getLogger("streamlog.broker")

METADATA_ID = UUID(int=1)
METADATA_DIR = "__cluster_metadata-0"
METADATA_CONFIG = TopicConfig(cleanup_policy="compact", segment_bytes=1 << 20, max_message_bytes=1 << 24)
_LEFTOVERS = {"lock", OWNER_FILE + ".tmp"}
# What an open that was interrupted may have made of a new log.
_UNFINISHED = {*_LEFTOVERS, "topics", METADATA_DIR, "published"}
_TOPIC_DIR = re.compile(r"([0-9a-f]{32})-(\d+)")
# How often a process that waits for the lock looks: the next in line first often, then as seldom as the others.
_FIRST_LOOK_S = 0.001
_LOOK_S = 0.02


class LogDirectory:
    """One broker directory, owned by this process from `open` to `close`."""

    __reduce_ex__ = refuse_to_copy

    def __init__(
        self,
        path: str,
        disk: Disk,
        new_lock: Callable[[], Lock],
        new_gate: Callable[[], Gate],
        monotonic: Callable[[], float],
        *,
        sync: bool = False,
        broker_id: int = 0,
        cluster_id: str = "",
    ) -> None:
        self.path = path
        self._new_ids = cluster_id, broker_id
        self._disk = disk
        # Called once, when the directory is found not to be the one that was opened; any lock may be held.
        self.on_stale: Callable[[], object] = lambda: None
        self.new_lock = new_lock
        self._new_gate = new_gate
        self._monotonic = monotonic
        self.sync = sync
        self._lock = disk.lock(f"{path}/lock")
        self.disk = self._owned = OwnedDisk(disk, self._lock, lambda: self.on_stale())
        self.owner: dict[str, Any] = {}
        self.crash = PreviousShutdown(clean=False, same_boot=True)
        self._boot_id = ""
        self._is_new = False

    @property
    def incarnation(self) -> str:
        return str(self.owner["incarnation"])

    @property
    def broker_id(self) -> int:
        """As its owner file says; before it was opened, the id that a new directory gets."""
        return int(self.owner.get("broker_id", self._new_ids[1]))

    @property
    def cluster_id(self) -> str:
        return str(self.owner["cluster_id"])

    @property
    def directory_id(self) -> str:
        return str(self.owner["directory_id"])

    @property
    def reserved_epoch(self) -> int:
        """Up to which leader epoch the metadata log may have been written to, on this broker or on another; 0 of a new directory."""
        return int(self.owner.get("metadata_epoch", 0))

    def reserve_epoch(self, epoch: int) -> None:
        """Record that leader epochs up to this one may be used. It is on the device on return."""
        self.owner = {**self.owner, "metadata_epoch": epoch}
        try:
            self._write_owner()
        except OSError as error:
            raise as_storage_error(error, "write", error.filename or self.path) from error

    @property
    def is_new(self) -> bool:
        """Whether it has no owner file yet: `open_metadata` makes it."""
        return self._is_new

    def beside(self, path: str, broker_id: int) -> LogDirectory:
        """The directory of a broker of the same log, to be opened; made anew if it is gone. `join` says of which log."""
        return LogDirectory(
            path, self._disk, self.new_lock, self._new_gate, self._monotonic, sync=self.sync, broker_id=broker_id
        )

    def absolute(self, path: str) -> str:
        return self._disk.absolute(path)

    def clear(self) -> None:
        """Remove what was made of a broker that is not one after all. REQUIRES: it was new, and is locked.

        It stays removed when power is lost: another directory may have the broker's id by then.
        """
        with ignored(OSError):
            for name in self._disk.listdir(self.path):
                path = f"{self.path}/{name}"
                (self._disk.rmtree if name in ("topics", METADATA_DIR) else self._disk.unlink)(path)
            self._disk.sync_dir(self.path)

    def is_there(self) -> bool:
        """Whether a log lies in it. If not, it is missing, or empty, or what an interrupted creation left.

        Raises FormatError for what is not a log's, StorageError if it cannot be read. Writes nothing.
        """
        try:
            return OWNER_FILE in self._refuse_strangers()
        except FileNotFoundError as error:
            require_disk_error(error)
            return False
        except OSError as error:
            raise as_storage_error(error, "open", error.filename or self.path) from error

    def join(self, cluster_id: str) -> None:
        """A new directory, of this log."""
        self.owner["cluster_id"] = cluster_id

    # -- opening -------------------------------------------------------------------------------------

    def open(self, lock_timeout: float) -> None:
        """Take the directory: create it if absent, lock it, mark it in use. Nothing is written if refused."""
        disk, path = self.disk, self.path
        new: list[str] = []
        doing = "open"
        try:
            if disk.exists(path):
                self._refuse_strangers()
            else:
                doing = "create"
                new = self._missing()
                disk.makedirs(path)
            if disk.is_network_filesystem(path):
                raise FormatError(
                    f"{path} is on a network file system, where a lock does not keep other machines out and a cached page "
                    f"may be stale. Put the log on a local disk.",
                    path=path,
                )
            self._acquire(lock_timeout)
            self._owned.is_guarding = True
        except OSError as error:
            raise as_storage_error(error, doing, error.filename or path) from error
        try:
            self._take_over(new)
            had_topics = disk.exists(f"{path}/topics")
            if not had_topics:  # the lock's name first: without it the rest of a new log is not known for one
                disk.sync_dir(path)
            disk.makedirs(f"{path}/topics")
            if not had_topics or not self.crash.clean:
                disk.sync_dir(path)
                disk.sync_dir(f"{path}/topics")
        except OSError as error:
            require_disk_error(error)
            self._let_go()
            raise as_storage_error(error, "open", error.filename or path) from error
        except BaseException:
            self._let_go()
            raise

    def _missing(self) -> list[str]:
        """The directories that have to be made for `path`, the deepest first."""
        missing = [self.path]
        while _above(missing[-1]) and not self.disk.exists(_above(missing[-1])):
            missing.append(_above(missing[-1]))
        return missing

    def _sync_names(self, new: list[str]) -> None:
        """Sync the names of the directories themselves, before an owner file makes this a log.

        An earlier open may have made some and come no further, so those that were there are synced too, as far
        as they can be.
        """
        directory = self.path
        while directory:
            above = _above(directory)
            try:
                self.disk.sync_dir(above or "/")
            except OSError as error:  # another user's, and not to be read by us, or none that has to be synced
                require_disk_error(error)
                if directory in new and not isinstance(error, PermissionError):
                    raise
            directory = above

    def _refuse_strangers(self) -> list[str]:
        """The names in the directory, if it is a log's, or may become one."""
        try:
            names = self.disk.listdir(self.path)
        except NotADirectoryError as error:
            require_disk_error(error)
            raise FormatError(f"{self.path} is a file; a log is a directory.", path=self.path) from error
        if OWNER_FILE not in names and set(names) - _LEFTOVERS and not self._is_unfinished(names):
            raise FormatError(
                f"{self.path} is not empty and no log (it has no {OWNER_FILE}). Give an empty or a new directory, so that "
                f"nothing of yours is mixed with files of a log.",
                path=self.path,
            )
        return names

    def _is_unfinished(self, names: list[str]) -> bool:
        """Whether these are of a log whose first open was interrupted: the owner file comes last, before the first topic.

        The lock comes first. What has none is a repair that did not come to its end.
        """
        if set(names) - _UNFINISHED or "lock" not in names:
            return False
        if "topics" in names and self.disk.listdir(f"{self.path}/topics"):
            return False
        directory = f"{self.path}/{METADATA_DIR}"
        inner = self.disk.listdir(directory) if METADATA_DIR in names else []
        return all(not size_of(self.disk, f"{directory}/{name}") for name in inner if name.endswith(".log"))

    def _acquire(self, timeout: float) -> None:
        """Take the lock, in the order in which processes began to wait for it."""
        now = self._monotonic()
        deadline = now + timeout
        next_since = now
        try:
            while True:
                pid = self._lock.acquire()
                if pid is None:
                    if self._lock.is_current():
                        return
                    self._lock.release()  # the directory, or its lock file, was removed just before
                left = deadline - self._monotonic()
                if left <= 0:
                    raise _is_locked(self.path, pid)
                self._lock.enqueue()
                now = self._monotonic()
                if not self._lock.is_next:
                    next_since = now
                look = max(_FIRST_LOOK_S, (now - next_since) / 8) if self._lock.is_next else _LOOK_S
                self._new_gate().wait(min(look, _LOOK_S, left))
        except BaseException:
            self._lock.release()
            raise

    def _take_over(self, new: list[str]) -> None:
        """Read how the directory was left, and write down that it is ours and in use.

        Of a new log that is written by `open_metadata`, as the last thing: a directory with an owner file has its
        metadata log, so one without is a log that lost it.
        """
        path = f"{self.path}/{OWNER_FILE}"
        boot = self._boot_id = self.disk.boot_id()
        kept = boot
        self._is_new = not self.disk.exists(path)
        if not self._is_new:
            self.owner = read_owner(self.disk, path)
            self.crash = PreviousShutdown(
                clean=bool(self.owner["clean"]),
                same_boot=self.owner["boot_id"] == boot and bool(boot),
                unsynced=self.owner.get("unsynced") is True,
            )
            if not self.crash.clean:  # until every partition was looked at, this crash is the one to recover from
                kept = self.owner["boot_id"]
        else:
            self._sync_names(new or [self.path])
            cluster_id, broker_id = self._new_ids
            self.owner = new_owner(cluster_id or entropy(16).hex(), entropy(16).hex(), broker_id)
            self.crash = PreviousShutdown(clean=True, same_boot=True)
        self.owner = {**self.owner, "incarnation": self.owner["incarnation"] + 1, "boot_id": kept, "clean": False}
        self.owner.pop("stopped", None)
        if not self._is_new:
            self._write_owner()

    def recovered(self, *, completely: bool) -> None:
        """Everything is open. Unless some file is still to be brought in order, what comes next is another crash."""
        if completely and (self.owner["boot_id"] != self._boot_id or self.crash.unsynced):
            self.owner = {**self.owner, "boot_id": self._boot_id}
            self.owner.pop("unsynced", None)
            try:
                self._write_owner()
            except OSError as error:
                raise as_storage_error(error, "open", error.filename or self.path) from error

    def _write_owner(self) -> None:
        write_owner(self.disk, f"{self.path}/{OWNER_FILE}", self.owner)

    # -- partitions ----------------------------------------------------------------------------------

    def open_metadata(self) -> Partition:
        """Always durable: a topic that vanished would take along what was synced of it."""
        name = TopicPartition("__cluster_metadata", 0)
        if not self._is_new:
            try:
                if is_lost(self.disk, f"{self.path}/{METADATA_DIR}", METADATA_ID.bytes, 0, was_clean=self.crash.clean):
                    raise _no_metadata(f"{self.path}/{METADATA_DIR}")
            except OSError as error:
                raise as_storage_error(error, "open", f"{self.path}/{METADATA_DIR}") from error
            return self._open(METADATA_DIR, name, METADATA_ID.bytes, METADATA_CONFIG, durable=True)
        partition = self._make(METADATA_DIR, name, METADATA_ID.bytes, METADATA_CONFIG, durable=True)
        try:
            self.disk.sync_dir(self.path)
            self._write_owner()
        except OSError as error:
            partition.log.release()
            raise as_storage_error(error, "open", error.filename or self.path) from error
        self._is_new = False
        return partition

    def make_metadata(self) -> Partition:
        """An empty copy of the metadata log in place of one that cannot be opened, and counts nowhere."""
        name = TopicPartition("__cluster_metadata", 0)
        return self._make(METADATA_DIR, name, METADATA_ID.bytes, METADATA_CONFIG, durable=True)

    def open_partition(self, view: TopicView, number: int) -> Partition:
        """Open a partition that the metadata names. Raises CorruptRecordError if it is not there: it was made before."""
        name = TopicPartition(view.name, number)
        return self._open(directory_of(view, number), name, view.id_bytes, view.config, durable=self.sync)

    def make_partition(self, view: TopicView, number: int) -> Partition:
        """Make the directory of a partition that the metadata does not name yet. `sync_topics` puts it on the device.

        So a partition that the metadata names and that has no directory is lost, whatever happened. What an earlier
        attempt left is removed: nothing was ever appended to it.
        """
        name = TopicPartition(view.name, number)
        return self._make(directory_of(view, number), name, view.id_bytes, view.config, durable=self.sync)

    def sync_topics(self) -> None:
        """Have the names of the partitions' directories on the device: one sync, however many were made."""
        self._sync_dir(f"{self.path}/topics")

    def is_lost(self, view: TopicView, number: int) -> bool:
        """Whether a partition that the metadata names cannot be opened for want of its directory, or of what was in it."""
        directory = f"{self.path}/{directory_of(view, number)}"
        try:
            return is_lost(self.disk, directory, view.id_bytes, number, was_clean=self.crash.clean)
        except OSError as error:
            raise as_storage_error(error, "open", directory) from error

    def begin_again(self, view: TopicView, number: int, offset: int) -> None:
        """Accept that a partition is lost: an empty one is in its place on return, which goes on at `offset` or later."""
        directory = directory_of(view, number)
        seed = seed_of(view.id_bytes, number)
        try:
            start = create_empty(self.disk, f"{self.path}/{directory}", view.id_bytes, number, seed, offset)
            self.disk.sync_dir(f"{self.path}/topics")
        except OSError as error:
            raise as_storage_error(error, "create", f"{self.path}/{directory}") from error
        logger.warning(
            "%s-%d: the records of this partition are lost, as force=True accepts; it goes on, empty, at offset %d",
            view.name, number, start,
        )  # fmt: skip

    def _make(
        self, directory: str, name: TopicPartition, topic_id: bytes, config: TopicConfig, *, durable: bool
    ) -> Partition:
        path, seed = f"{self.path}/{directory}", seed_of(topic_id, name.partition)
        try:
            if self.disk.exists(path):
                self.disk.rmtree(path)
        except OSError as error:
            raise as_storage_error(error, "create", path) from error
        log = open_log(
            self.disk, path, topic_id, name.partition, seed, config, PreviousShutdown(clean=True, same_boot=True)
        )
        log.durability.acknowledged_is_synced = durable
        return Partition(
            name, topic_id, log, self.new_lock, self.broker_id, durable=durable, synced_end=log.tail.end_offset
        )

    def _open(
        self, directory: str, name: TopicPartition, topic_id: bytes, config: TopicConfig, *, durable: bool
    ) -> Partition:
        """Open one partition. A durable one begins with everything that recovery found on the device."""
        seed, crash, path = seed_of(topic_id, name.partition), self.crash, f"{self.path}/{directory}"
        try:
            if is_lost(self.disk, path, topic_id, name.partition, was_clean=crash.clean):
                raise lost_error(path, f"{name.topic}-{name.partition}", is_there=self.disk.exists(path))
        except OSError as error:
            raise as_storage_error(error, "open", path) from error
        log = open_log(self.disk, path, topic_id, name.partition, seed, config, crash, is_known=True)
        if not crash.clean:  # a file whose entry was never synced may have been found there
            try:
                self._sync_dir(path)
            except StreamlogError:
                log.release()
                raise
        partition = Partition(
            name, topic_id, log, self.new_lock, self.broker_id, durable=durable, synced_end=log.durability.synced_end
        )
        if durable and log.durability.poison is None:
            # A partition whose sync fails is opened all the same, and can be read as far as that is safe.
            with contextlib.suppress(PoisonedLogError):
                partition.commit.sync()
                log.durability.acknowledged_is_synced = True
        partition.hide_what_may_be_lost()
        return partition

    def _sync_dir(self, path: str) -> None:
        try:
            self.disk.sync_dir(path)
        except OSError as error:
            raise as_storage_error(error, "sync", path) from error

    def remove_partition_files(self, topic_hex: str, number: int) -> None:
        """Unlink a deleted topic's files. What fails is removed as an orphan at the next open."""
        path = f"{self.path}/topics/{topic_hex}-{number}"
        try:
            self.disk.rmtree(path)
        except FileNotFoundError as error:
            require_disk_error(error)
            return
        except OSError as error:
            require_disk_error(error)
            logger.warning("could not remove %s (%s); it will be removed at the next open", path, error)

    def remove_orphans(self, known: Mapping[str, Container[int]]) -> None:
        """Remove partitions that the metadata does not name here: `known` has the numbers of those it does, by topic id.

        A deletion was interrupted, or a change that made them was, or was refused.
        """
        try:
            names = self.disk.listdir(f"{self.path}/topics")
        except OSError as error:
            raise as_storage_error(error, "open", f"{self.path}/topics") from error
        for name in names:
            match = _TOPIC_DIR.fullmatch(name)
            if match is not None and int(match[2]) not in known.get(match[1], ()):
                with ignored(OSError):
                    self.disk.rmtree(f"{self.path}/topics/{name}")

    # -- closing -------------------------------------------------------------------------------------

    def close(self, *, clean: bool, unsynced: bool = False, stopped: bool = False) -> None:
        """Mark the directory closed if everything in it was, and give up the lock. Does nothing if it is not open.

        `unsynced`: a sync failed, and that could not be recorded in the partition, so it is recorded here. `stopped`: other
        brokers of the log go on, for those who read in this directory.
        """
        try:
            if (clean or unsynced or stopped) and self._owned.is_guarding and not self._is_new:
                self.owner = {**self.owner, "clean": clean}
                if stopped:
                    self.owner["stopped"] = True
                if unsynced:
                    self.owner["unsynced"] = True
                self._write_owner()
        except OSError as error:  # a full disk: the next open walks the headers, nothing is lost
            require_disk_error(error)
            logger.warning("could not mark %s as closed (%s); the next open will check it", self.path, error)
        finally:
            self._let_go()

    def retire(self) -> None:
        """Mark the directory as that of a broker which the log does not have any more, and close it."""
        self.owner = {**self.owner, "retired": True}
        self.close(clean=True)

    def check_owned(self) -> None:
        """Raise LogDirNotFoundError unless the directory is still the one that was opened."""
        try:
            self._owned.check(self.path)
        except StaleOwnerError as error:
            raise as_storage_error(error, "look at", self.path) from None
        except OSError as error:
            raise as_storage_error(error, "look at", self.path) from error

    def is_ours(self) -> bool:
        """Whether the directory is the one that was opened; False too if that cannot be found out."""
        try:
            return self._lock.is_current()
        except OSError as error:
            require_disk_error(error)
            return False

    def _let_go(self) -> None:
        self._owned.is_guarding = False
        self._lock.release()

    def abandon(self) -> None:
        """In a forked child: close the descriptor of the lock, and touch nothing else."""
        self._owned.is_inherited = True
        self._lock.abandon()


def _above(path: str) -> str:
    return path[: path.rindex("/")]


def directory_of(view: TopicView, number: int) -> str:
    """Where partition `number` of a topic lies in the log's directory."""
    return f"topics/{view.id.hex}-{number}"


def _is_locked(path: str, pid: int | None) -> LogLockedError:
    owner = f"process {pid}" if pid else "another process"
    return LogLockedError(
        f"{path} is in use by {owner}. One process owns a log at a time. To read along with it open the log with "
        f"read_only=True. For several processes to write, and to share groups, let one own it for all of them, with "
        f"`streamlog serve` or a streamlog.kafka.Listener in it, and use Kafka's clients in the others. To own it here, stop that "
        f"process, or wait for it with lock_timeout=.",
        path=path,
        pid=pid,
    )


def _no_metadata(directory: str) -> CorruptRecordError:
    return CorruptRecordError(
        f"{directory} is missing, or has no segment any more: it says which topics there are, so no record can be read "
        f"without it. Restore the directory from a copy; or copy the records, under names made of the ids of their topics, "
        f"into a new log with streamlog.repair().",
        path=directory,
        position=0,
        expected=0,
        actual=0,
    )
