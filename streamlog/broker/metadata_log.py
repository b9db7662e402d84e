"""The metadata log, and how a change of topics comes into force, or to nothing.

A change takes these steps: the partitions that it adds are created on disk; its record is appended to the metadata log and
synced; replaying it makes a new image; the partitions follow the image. So a topic that the metadata names has its files, and
what the disk may refuse comes before the record, or is the record.

A change that was refused is void. What was created for it is removed. A record that may be on the device, because its write or
its sync failed, is removed from the log, on the device too, before the error is raised. If the disk refuses that as well, the
topic takes no records until it is done: a crash might put the change in force, and lose them with it.

A change that was interrupted is in force if its record is in the log and can be synced, and else void.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from ..errors import DiskFullError, StorageError, StreamlogError
from ..records import columns
from ..replication.partition import Partition
from ..runtime.api import without_traceback
from ..storage.log import AppendRequest
from ..storage.tail import LogSnapshot
from . import metadata
from .metadata import Image, LogRecord
from .replay import all_records


class Partitions(Protocol):
    """The image that is in force, and the partitions that follow it."""

    image: Image

    def stage(self, image: Image, name: str) -> None:
        """Make the partitions of a topic that are not there yet; `image`, which names them, is not in force yet."""

    def unstage(self) -> None:
        """Remove what was staged and is not in the image."""

    def take(self, image: Image, changed: Iterable[str] | None) -> None:
        """Have this image be in force, and the partitions of the topics `changed` follow it; None: of all topics."""

    def of_topic(self, name: str) -> list[Partition]: ...
    def replicate_metadata(self) -> None:
        """Have the metadata log of every broker end where this one does, on its device."""

    def at_controller(self, work: Callable[[], object]) -> None:
        """Do this at the metadata log, and wait no longer than for a disk that answers."""

    def metadata_failed(self, error: StreamlogError) -> None:
        """The metadata log cannot be written: of several brokers another one's is to be."""


class Change:
    """A change of which the metadata log may hold a record that the image does not have.

    `before` is the snapshot of the metadata log without it, and `refused` the error of its caller. `unknown` is the error of
    appends to the topic, while the record could not be removed.
    """

    def __init__(self, name: str, write: AppendRequest, before: LogSnapshot) -> None:
        self.name = name
        self.write = write
        self.before = before
        self.refused: StreamlogError | None = None
        self.unknown: StreamlogError | None = None


class MetadataLog:
    """See the module. Not thread-safe: the caller holds the metadata lock, but to read the properties."""

    def __init__(self, partition: Partition, partitions: Partitions) -> None:
        self.partition = partition
        self._partitions = partitions
        self._change: Change | None = None

    @property
    def is_resolved(self) -> bool:
        """Whether the image is what the log says."""
        return self._change is None

    @property
    def is_interrupted(self) -> bool:
        """Whether a change is under way, or was interrupted, that may come into force."""
        change = self._change
        return change is not None and change.refused is None

    @property
    def is_blocking(self) -> bool:
        """Whether a topic takes no records, because a change of it could not be undone."""
        change = self._change
        return change is not None and change.unknown is not None

    def replay(self) -> Image:
        """The image that the log's records make."""
        return metadata.replay(metadata.EMPTY, all_records(self.partition))

    def make(self, request: Callable[[Image], Sequence[LogRecord]], now_ms: int) -> None:
        """Have the change that `request` answers in force on return. REQUIRES: resolved; one topic at most gets partitions.

        Its records are one batch, so that all of them are in the log or none is. Without records there is nothing to do.
        Raises what `request` and the disk raise: the change is void then, or the error says that this is not known.
        """
        image = self._partitions.image
        records = request(image)
        if not records:
            return
        after = metadata.replay(image, records)
        keys, values = [key for key, _ in records], [value for _, value in records]
        changed = list(dict.fromkeys(metadata.topic_of(after, key) or metadata.topic_of(image, key) for key in keys))
        name = changed[0]
        try:
            self._partitions.stage(after, name)
        except StreamlogError:
            self._partitions.unstage()
            raise
        log = self.partition.log
        batch = columns.seal(log.seed, keys, values, now_ms, count=len(records))
        self._change = change = Change(name, AppendRequest([batch]), log.tail)
        try:
            # It is on the device before any thread can see it. The metadata lock is held during the sync: changes are
            # rare, and sending and reading do not take that lock.
            self._partitions.at_controller(lambda: self._write(change, now_ms))
        except StreamlogError as error:
            change.refused = without_traceback(error.copy())
            self._partitions.metadata_failed(error)
            if self.partition.is_fenced or self._void(change):  # the next change is made at another copy
                raise
        self._partitions.replicate_metadata()
        self._take(after, changed)

    def _write(self, change: Change, now_ms: int) -> None:
        self.partition.append(change.write, now_ms)
        self.partition.commit.sync()

    def resolve(self) -> bool:
        """Complete a change that was interrupted, or undo one that was refused; whether one came into force.

        Raises the error that keeps the outcome of the change from being known.
        """
        change = self._change
        if change is None:
            return False
        if change.refused is None:
            try:
                self._partitions.at_controller(lambda: self._settle(change))
            except StreamlogError as error:
                change.refused = without_traceback(error.copy())
                self._partitions.metadata_failed(error)
        if (change.refused is not None or change.write.base_offset < 0) and self._void(change):
            return False
        self._partitions.replicate_metadata()
        self._take_all()
        return True

    def _settle(self, change: Change) -> None:
        self.partition.settle(change.write)
        self.partition.commit.sync()

    def move_to(self, partition: Partition) -> None:
        """Another broker's copy may be the one that is appended to from now on: what it has of an unfinished change is in force."""
        change, self.partition = self._change, partition
        if change is not None:
            self._unblock(change)
            self._take_all()

    def _take_all(self) -> None:
        """Have in force what the log says, to its end: what an interrupt left of a change is not known.

        The high watermark may be behind, for a broker that is about to run has its copy brought up later.
        """
        records = all_records(self.partition, self.partition.log.tail.end_offset)
        self._take(metadata.replay(metadata.EMPTY, records, self._partitions.image.version), None)

    def let_go(self, error: StreamlogError) -> None:
        """The log is being closed: `error` takes the place of what a topic's records were refused with."""
        change = self._change
        if change is not None:
            for partition in self._partitions.of_topic(change.name):
                partition.shut(error)
            self._unblock(change)

    def _take(self, image: Image, changed: Iterable[str] | None) -> None:
        """The change is on the device."""
        self._partitions.take(image, changed)
        self._change = None
        self._partitions.unstage()

    def _void(self, change: Change) -> bool:
        """Undo the change on the disk; False if its record is known to be on the device, so that it is in force.

        If that cannot be done it raises, and the topic refuses records until it can.
        """
        if change.write.append_ms >= 0:  # else it came to no write
            try:
                is_void = self._take_back(change)
            except StreamlogError as failure:
                self._unblock(change)
                refused = change.refused or failure
                message = _is_unknown(change.name, refused, failure)
                change.unknown = error = _as_storage_error(refused, message)
                for partition in self._partitions.of_topic(change.name):
                    partition.block(error)
                raised = refused.copy()
                raised.args = (message,)
                raise raised from failure
            self._unblock(change)
            if not is_void:
                return False
        self._change = None
        self._partitions.unstage()
        return True

    def _take_back(self, change: Change) -> bool:
        done: list[bool] = []
        self._partitions.at_controller(lambda: done.append(self.partition.take_back(change.before)))
        return done[0]

    def _unblock(self, change: Change) -> None:
        if change.unknown is not None:
            for partition in self._partitions.of_topic(change.name):
                partition.unblock(change.unknown)


def _is_unknown(name: str, refused: StreamlogError, failure: StreamlogError) -> str:
    return (
        f"A change of topic {name!r} was refused ({_first_sentence(refused)}), and could not be undone on the "
        f"disk ({_first_sentence(failure)}). So it is not known whether the change would take effect after a crash, and until it is, "
        f"topic {name!r} takes no records; those in it can be read. Free space on the disk, or repair it, then send again or change "
        f"a topic: each call tries to undo it first. Or close the log and open it again: then what the disk holds counts."
    )


def _as_storage_error(refused: StreamlogError, message: str) -> StreamlogError:
    """What the topic's records are refused with. Not a PoisonedLogError: the topic's own syncs did not fail."""
    kind = DiskFullError if isinstance(refused, DiskFullError) else StorageError
    return kind(message, path=getattr(refused, "path", ""), errno=getattr(refused, "errno", 0))


def _first_sentence(error: StreamlogError) -> str:
    return str(error).partition(". ")[0].rstrip(".")
