"""What is on the device: syncing a log's files, the recovery point that vouches for it, and poisoning.

A sync that failed tells one time only: the kernel then marks the pages it could not write as clean, and
the next sync of the same bytes succeeds without having written them. So the first failure poisons the log.
It refuses appends, rolls and syncs until it is opened again, and nothing is ever synced a second time;
what readers may see stays readable. `salvage` is the other half, at the next open.
"""

from __future__ import annotations

import logging
from bisect import bisect_right
from collections.abc import Callable, Sequence
from errno import EDQUOT, EFBIG, EMFILE, ENFILE, ENOSPC
from functools import partial

from ..errors import DiskFullError, PoisonedLogError, StreamlogError
from ..runtime.api import Disk, without_traceback
from ..runtime.disk_errors import check, is_the_disks
from .checkpoint import StateFile
from .files import as_storage_error
from .reader import LogReader
from .recovery import resync
from .segment import Segment
from .tail import LogSnapshot

logger = logging.getLogger("streamlog.storage")

# Not a word about what is on the device: the directory could not be opened for want of descriptors, or there
# is no room for a new name, and then no name is given up for lost that something rests on.
_NOT_SYNCED = (EMFILE, ENFILE, ENOSPC, EDQUOT, EFBIG)
_UNTOLD = PoisonedLogError(
    "A sync failed, so what the disk holds is unknown. Look at the disk, then close the log and open it again."
)


class DurableLog(LogReader):
    """The part of a log that has its bytes on the device."""

    disk: Disk
    directory: str
    fault: StreamlogError | None
    mend: Callable[[], None] | None
    synced_end: int
    """Everything before this offset is on the device. The recovery point follows it when a file is sealed or closed."""
    acknowledged_is_synced: bool
    """Whether nothing from `synced_end` on counts as acknowledged: whoever appends waits for the sync."""
    may_have_lost_its_end: bool
    """Whether recovery had to look for the end: the machine, or the disk, may have lost records that were read."""
    _state: StateFile

    @property
    def recovery_point(self) -> int:
        """The offset up to which everything is on the device, as the files say."""
        return self._state.state.recovery_point

    @property
    def poison(self) -> PoisonedLogError | None:
        """The sync that failed, or None. Never gone once it is there."""
        return self.fault if isinstance(self.fault, PoisonedLogError) else None

    def refuse_if_poisoned(self) -> None:
        if isinstance(self.fault, PoisonedLogError):
            raise self.fault.copy()

    def sync_files(self, start: int, tail: LogSnapshot, *, active: bool = True) -> None:
        """Have all of `tail` from offset `start` on, or what is sealed of it, on the device: oldest file first.

        REQUIRES: one caller at a time. No other lock: appending goes on. Raises PoisonedLogError, StorageError
        if a file could not be opened.
        """
        if self.fault is not None:
            self.refuse_if_poisoned()
        if start < tail.bases[-1]:
            for segment in tail.segments[max(0, bisect_right(tail.bases, start) - 1) : -1]:
                self._sync(segment)
        if active and tail.end_offset > start:
            self._sync(tail.segments[-1])
        self.synced_end = max(self.synced_end, tail.end_offset if active else tail.bases[-1])

    def _sync(self, segment: Segment) -> None:
        try:
            # A sealed segment keeps no descriptor; one of its own does, as the kernel tells a failed write-back
            # to whoever opens the file next if it told nobody yet.
            own = segment.sealed  # looked at once: a roll may seal it meanwhile, and a reader has the other one
            file = self.disk.open(segment.path) if own else segment.file
        except (
            FileNotFoundError
        ) as error:  # removed by retention or with its topic, or compacted into one that was synced
            check(error)
            return
        except OSError as error:
            raise as_storage_error(error, "sync", segment.path) from error
        self._sync_once(file.sync, segment.path)
        if own:
            file.close()

    def sync_directory(self) -> None:
        """Have the name of a new file on the device, before anything is in it.

        Raises PoisonedLogError; StorageError if nothing rests on the outcome, for the caller removes the file.
        """
        self._sync_once(partial(self.disk.sync_dir, self.directory), self.directory, harmless=_NOT_SYNCED)

    def _sync_once(self, sync: Callable[[], None], path: str, *, harmless: Sequence[int] = ()) -> None:
        """Sync; a failure poisons the log, but for errors that are not the disk's, and those `harmless`."""
        try:
            sync()
        except OSError as error:
            try:
                told = is_the_disks(error)
            except BaseException:  # a Ctrl-C came just now: the kernel tells of a failed sync only once
                self.mend = None
                self.fault = _UNTOLD
                raise
            if not told:
                raise
            if error.errno in harmless:
                raise as_storage_error(error, "create a file in", path) from error
            self.mend = None
            self.fault = _UNTOLD  # first of all, and without a call: a Ctrl-C comes between two calls
            raise self._poison(error, path) from error

    def _poison(self, error: OSError, path: str) -> PoisonedLogError:
        self.fault = poison = PoisonedLogError(
            f"A sync of {path} failed ({error.strerror or error}), so what the disk holds of it is unknown; a second "
            f"sync would prove nothing. Nothing more is appended to this partition, and what was readable stays so. "
            f"Look at the disk, then close the log and open it again: what was not known to be on the device is then "
            f"copied to a new file before it counts.",
            path=path,
            errno=error.errno or 0,
        )
        poison.__cause__ = without_traceback(error)
        resync.mark(self.disk, self.directory, self.synced_end, is_all=self.acknowledged_is_synced)
        logger.error("%s", poison)
        return poison.copy()  # what is kept is never raised itself: it would keep the frames that it came through

    # -- the recovery point --------------------------------------------------------------------------

    def sync_sealed(self) -> None:
        """Sync segments sealed since the recovery point and move it past them. Call without the partition lock.

        REQUIRES: one caller at a time (the partition's maintenance lock), also of `sync_files`.
        """
        tail = self.tail
        self.sync_files(self.recovery_point, tail, active=False)
        self.advance_recovery_point(tail)

    def advance_recovery_point(self, tail: LogSnapshot) -> None:
        """Move the recovery point past the sealed segments of `tail`. REQUIRES: they are on the device."""
        point = self.recovery_point
        for segment in tail.segments[:-1]:
            if segment.next_offset > self.recovery_point:
                segment.keep_index()  # only now: it vouches for data that is on the device
                point = segment.next_offset
            elif segment.is_unsaved:
                segment.keep_index()
        if point > self.recovery_point:
            self._state.write(self._state.state._replace(recovery_point=point), sync=True)

    def sync_end(self, tail: LogSnapshot) -> None:
        """The last sync of all, at close; moves the recovery point to the end.

        REQUIRES: as `sync_sealed`. A disk that is full only costs the recovery point.
        """
        if self.recovery_point < tail.end_offset:
            self.sync_files(self.recovery_point, tail)
            try:
                self._state.write(self._state.state._replace(recovery_point=tail.end_offset), sync=True)
            except DiskFullError as error:
                logger.warning("%s; the next open has more to check, nothing is lost", error)
