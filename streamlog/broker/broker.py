"""A broker directory: who owns it, how it was left, and the partitions in it.

DIR/streamlog.json    format, ids, incarnation, boot id, and whether it was closed
DIR/lock              flock and the owner's pid
DIR/__cluster_metadata-0/
DIR/topics/ID-N/      ID is the topic's uuid in hex: no trouble with case, length, or a name used again
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
from collections.abc import Callable
from typing import Any
from uuid import UUID

from ..config import TopicConfig
from ..errors import FormatError, LogLockedError
from ..records.batch import seed_of
from ..replication.partition import Partition
from ..runtime import disk as real_disk
from ..runtime.api import Disk, Gate, Lock
from ..storage.faults import typed
from ..storage.recovery import Crash, open_log
from ..types import TopicPartition
from .metadata import TopicView

logger = logging.getLogger("streamlog.broker")

FORMAT = 1
OWNER_FILE = "streamlog.json"
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
    ) -> None:
        self.path = path
        self.disk = disk
        self.new_lock = new_lock
        self._new_gate = new_gate
        self._monotonic = monotonic
        self._lock = real_disk.DirectoryLock(f"{path}/lock")
        self.owner: dict[str, Any] = {}
        self.crash = Crash(clean=False, same_boot=True)

    @property
    def incarnation(self) -> str:
        return str(self.owner["incarnation"])

    # -- opening -------------------------------------------------------------------------------------

    def open(self, lock_timeout: float) -> None:
        """Take the directory: create it if absent, lock it, mark it in use. Nothing is written if refused."""
        disk, path = self.disk, self.path
        try:
            existed = disk.exists(path)
            if existed:
                self._refuse_strangers()
            else:
                disk.makedirs(path)
            if real_disk.is_network_filesystem(path):
                raise FormatError(
                    f"{path} is on a network file system, where a lock does not keep other machines out and a cached page "
                    f"may be stale. Put the log on a local disk.",
                    path=path,
                )
            self._acquire(lock_timeout)
        except OSError as error:
            raise typed(error, "open", error.filename or path) from error
        try:
            self._take_over()
            disk.makedirs(f"{path}/topics")
        except OSError as error:
            self._lock.release()
            raise typed(error, "open", error.filename or path) from error
        except BaseException:
            self._lock.release()
            raise

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
                    f"{self.path} is in use by process {pid or 'unknown'}. One process owns a log at a time: stop that one, "
                    f"or wait for it with lock_timeout=. (Reading along with read_only=True comes with a later version.)",
                    path=self.path,
                    pid=pid,
                )
            self._new_gate().wait(min(_LOCK_STEP_S, left))

    def _take_over(self) -> None:
        """Read how the directory was left, and write down that it is ours and in use."""
        path = f"{self.path}/{OWNER_FILE}"
        boot = real_disk.boot_id()
        if self.disk.exists(path):
            self.owner = read_owner(self.disk, path)
            self.crash = Crash(clean=bool(self.owner["clean"]), same_boot=self.owner["boot_id"] == boot and bool(boot))
        else:
            self.owner = {
                "format": FORMAT,
                "min_reader": FORMAT,
                "features": [],
                "cluster_id": real_disk.entropy(16).hex(),
                "broker_id": 0,
                "directory_id": real_disk.entropy(16).hex(),
                "incarnation": 0,
            }
            self.crash = Crash(clean=True, same_boot=True)
        self.owner = {**self.owner, "incarnation": self.owner["incarnation"] + 1, "boot_id": boot, "clean": False}
        self._write_owner()

    def _write_owner(self) -> None:
        data = json.dumps(self.owner, indent=1).encode() + b"\n"
        self.disk.write_atomic(f"{self.path}/{OWNER_FILE}", data)

    # -- partitions ----------------------------------------------------------------------------------

    def open_metadata(self) -> Partition:
        return self._open(METADATA_DIR, TopicPartition("__cluster_metadata", 0), METADATA_ID.bytes, METADATA_CONFIG)

    def open_partition(self, view: TopicView, number: int) -> Partition:
        name = TopicPartition(view.name, number)
        return self._open(f"topics/{view.id.hex}-{number}", name, view.id_bytes, view.config)

    def _open(self, directory: str, name: TopicPartition, topic_id: bytes, config: TopicConfig) -> Partition:
        seed = seed_of(topic_id, name.partition)
        is_new = not self.disk.exists(f"{self.path}/{directory}")
        log = open_log(self.disk, f"{self.path}/{directory}", topic_id, name.partition, seed, config, self.crash)
        if is_new:  # the entry in the directory above must not be lost before the metadata that names it
            path = f"{self.path}/{directory}"
            self.disk.sync_dir(path[: path.rindex("/")])
        return Partition(name, topic_id, log, self.new_lock)

    def remove_partition_files(self, topic_hex: str, number: int) -> None:
        """Unlink a deleted topic's files. What fails is removed as an orphan at the next open."""
        path = f"{self.path}/topics/{topic_hex}-{number}"
        try:
            self.disk.rmtree(path)
        except FileNotFoundError:
            return
        except OSError as error:
            logger.warning("could not remove %s (%s); it will be removed at the next open", path, error)

    def remove_orphans(self, known: set[str]) -> None:
        """Remove directories of topics that are not in the metadata: their deletion was interrupted."""
        for name in self.disk.listdir(f"{self.path}/topics"):
            match = _TOPIC_DIR.fullmatch(name)
            if match is not None and match[1] not in known:
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


def read_owner(disk: Disk, path: str) -> dict[str, Any]:
    """The owner file's contents. Raises FormatError if it is damaged or of a newer format."""
    try:
        owner = json.loads(disk.read(path, 1 << 20))
        format_, min_reader = owner["format"], owner["min_reader"]
        for name, kind in (("incarnation", int), ("boot_id", str), ("clean", bool), ("features", list)):
            if not isinstance(owner[name], kind):
                raise ValueError(name)
    except (ValueError, KeyError, TypeError) as error:
        raise FormatError(
            f"{path} cannot be understood ({error}), so this is no log, or a damaged one. Nothing was changed; "
            f"restore the file from a copy, or repair the directory into another one.",
            path=path,
        ) from error
    except OSError as error:
        raise FormatError(f"{path} cannot be read as a file of a log: {error.strerror or error}.", path=path) from error
    if min_reader > FORMAT or owner["features"]:
        raise FormatError(
            f"{path} is of format {format_} (readable from {min_reader} on, features {owner['features']}); this streamlog "
            f"knows format {FORMAT}. Open it with a newer streamlog.",
            path=path,
        )
    result: dict[str, Any] = owner
    return result
