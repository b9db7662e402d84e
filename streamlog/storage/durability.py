"""What of a log is on the device: syncing its files, the recovery point, and poisoning.

The kernel reports a failed sync only once: it then marks the pages that it could not write as clean, and the next
sync of the same bytes succeeds without having written them. So the first failure poisons the log. It refuses
appends, rolls and syncs until it is opened again, and nothing is synced a second time; what readers may see stays
readable. `recovery/resync.py` is the other half, at the next open.

A segment is rolled under the partition's lock, so without a sync: neither the name of the new file is on the device then,
nor all that the old one holds. Every sync begins with both (`synced_base`), before anything after `synced_end` counts as
being on the device. Until then a power loss may take the new file as it may take what is in it; the log then ends before it
(`recovery/power_loss.py`). To sync the name at the roll made every send of the partition wait for it. What removes files
has the new names synced first (`sync_names`), so that a power loss never leaves a directory without a segment.

A sealed file is opened anew for its sync, and so is one that was closed because there were too many. That serves as well
while the kernel has the inode in memory: it reports a failed write-back that it has not reported yet to the next descriptor
of the file. Once the inode was evicted the failure is forgotten, the sync succeeds, and what was not written is found by its
checksum when it is read. Only a descriptor kept open from the write to the sync would prevent that (PostgreSQL keeps one),
one for each unsynced segment.
"""

from __future__ import annotations

import logging
from bisect import bisect_right
from collections.abc import Callable, Sequence
from errno import EMFILE, ENFILE, ESTALE

from ..errors import DiskFullError, PoisonedLogError, StreamlogError
from ..runtime.api import Disk, without_traceback
from ..runtime.disk_errors import is_the_disks, require_disk_error
from .checkpoint import StateFile
from .files import as_storage_error
from .recovery import resync
from .segment import Segment, with_descriptors
from .tail import LogSnapshot

logger = logging.getLogger("streamlog.storage")

# Errors of syncing a directory that say nothing about what is on the device: it could not be opened, because no descriptor
# was left or another log's directory is at its path.
_NOT_SYNCED = (EMFILE, ENFILE, ESTALE)
_UNKNOWN = PoisonedLogError(
    "A sync failed, so what the disk holds is unknown. Look at the disk, then close the log and open it again."
)


class Durability:
    """What is on the device of one log. It knows the log's directory and state file, and syncs what it is given.

    `synced_end`: everything before this offset is on the device. The recovery point follows it when a segment is
    sealed or the log is closed. `synced_base`: so are the name of every segment that begins at or before this offset, and all
    that was sealed before it. `acknowledged_is_synced`: nothing from `synced_end` on counts as acknowledged, because
    every append waits for its sync. `is_marked`: at close, a file was left that marks the failed sync for the next open.
    `has_unsynced_truncation`: the active file was truncated, perhaps by an earlier process, and has not been synced since.
    `is_half_replaced`: a copy of the active file is taking its place, and its name may not be on the device.
    """

    def __init__(self, disk: Disk, directory: str, state: StateFile, poison: PoisonedLogError | None) -> None:
        self.poison = poison  # the sync that failed, or None; never reset
        self.synced_end = state.state.recovery_point
        # The recovery point moves to the end of a segment, of which a process that was killed may have truncated more since.
        self.synced_base = state.state.recovery_point - 1
        self.acknowledged_is_synced = False
        self.is_marked = False
        self.has_unsynced_truncation = False
        self.is_half_replaced = False
        self._disk = disk
        self._directory = directory
        self._state = state

    @property
    def recovery_point(self) -> int:
        """The offset up to which everything is on the device, as the state file says."""
        return self._state.state.recovery_point

    def refuse_if_poisoned(self) -> None:
        if self.poison is not None:
            raise self.poison.copy()

    def sync_files(self, start: int, tail: LogSnapshot, *, active: bool = True) -> None:
        """Have everything in `tail` on the device that is not, from offset `start` on: the names of new segments, the sealed
        ones, oldest first, and the active one, if that is asked for.

        A sealed segment is synced once after it was sealed, even if it was synced to its end before: bytes may have been
        removed from it since. REQUIRES: one caller at a time. No other lock: appends go on meanwhile. Raises
        PoisonedLogError, StorageError if a file could not be opened.
        """
        self.sync_names(tail)
        if self.synced_base < tail.bases[-1]:
            for segment in tail.segments[max(0, bisect_right(tail.bases, self.synced_base) - 1) : -1]:
                self.sync(segment)
            self.synced_base = tail.bases[-1]
        if active and tail.end_offset > start:
            self.sync(tail.segments[-1])
        self.synced_end = max(self.synced_end, tail.end_offset if active else tail.bases[-1])

    def sync_names(self, tail: LogSnapshot) -> None:
        """Have the names of the segments of `tail` on the device. REQUIRES, raises: as `sync_files`."""
        self.refuse_if_poisoned()
        if self.synced_base < tail.bases[-1]:
            self._sync_once(self._sync_directory, self._directory, harmless=_NOT_SYNCED)

    def sync(self, segment: Segment) -> None:
        """Have the bytes of one segment on the device. Raises PoisonedLogError, StorageError."""
        try:
            # A sealed segment keeps no descriptor open
            own = segment.sealed  # read once: a roll may seal the segment meanwhile, and readers use its descriptor
            file = with_descriptors(lambda: self._disk.open(segment.path)) if own else segment.file
        except FileNotFoundError as error:
            # Deleted by retention or with its topic, or compacted into one that was synced
            require_disk_error(error)
            return
        except OSError as error:
            raise as_storage_error(error, "sync", segment.path) from error
        self._sync_once(file.sync, segment.path)
        if own:
            file.close()

    def _sync_directory(self) -> None:
        try:
            with_descriptors(lambda: self._disk.sync_dir(self._directory))
        except FileNotFoundError as error:  # deleted with its topic
            require_disk_error(error)

    def _sync_once(self, sync: Callable[[], None], path: str, *, harmless: Sequence[int] = ()) -> None:
        """Sync; a failure poisons the log, except for errors that are not the disk's and those in `harmless`."""
        try:
            sync()
        except OSError as error:
            try:
                is_failure = is_the_disks(error)
            except BaseException:  # a Ctrl-C came just now, and the kernel reports a failed sync only once
                self.poison = _UNKNOWN
                raise
            if not is_failure:
                raise
            if error.errno in harmless:
                raise as_storage_error(error, "sync", path) from error
            self.poison = _UNKNOWN  # first, and without a call: a Ctrl-C comes between two calls
            raise self._poison(error, path) from error

    def _poison(self, error: OSError, path: str) -> PoisonedLogError:
        self.poison = poison = PoisonedLogError(
            f"A sync of {path} failed ({error.strerror or error}), so what the disk holds of it is unknown; a second "
            f"sync would prove nothing. Nothing more is appended to this partition, and what was readable stays so. "
            f"Look at the disk, then close the log and open it again: what was not known to be on the device is then "
            f"copied to a new file before it counts.",
            path=path,
            errno=error.errno or 0,
        )
        poison.__cause__ = without_traceback(error)
        self.mark_poisoned()
        logger.error("%s", poison)
        # The one that is kept is never raised itself: it would keep the frames that it came through
        return poison.copy()

    def mark_poisoned(self) -> None:
        """Leave a file that marks the failed sync for the next open, if the disk allows it."""
        is_all = self.acknowledged_is_synced
        self.is_marked = resync.mark(self._disk, self._directory, self.synced_end, is_all=is_all)

    def sync_truncation(self, segment: Segment) -> None:
        """Have a truncation of the active segment on the device before the log is closed: nothing searches for a torn end
        later."""
        if self.has_unsynced_truncation:
            self.sync(segment)
            self.has_unsynced_truncation = False

    def truncate(self, active: Segment, position: int) -> bool:
        """Truncate the file of the active segment to `position`; whether that is on the device.

        After a failed sync, another sync of the same file proves nothing; nor does the sync of a file whose name is not known to
        be on the device. The file is truncated in these cases too: if the process is killed now, nothing after it is left.
        """
        try:
            active.file.truncate(position)
            if self.poison is not None or self.is_half_replaced:
                return False
            self.sync(active)
        except (OSError, StreamlogError) as error:
            if isinstance(error, OSError):
                require_disk_error(error)
            logger.warning("%s: could not be truncated to byte %d (%s)", active.path, position, error)
            return False
        return True

    # -- the recovery point --------------------------------------------------------------------------

    def sync_sealed(self, tail: LogSnapshot) -> None:
        """Sync the segments sealed since the recovery point, and move it past them. Call without the partition lock.

        REQUIRES: one caller at a time (the partition's maintenance lock), also of `sync_files`.
        """
        self.sync_files(self.recovery_point, tail, active=False)
        self.advance_recovery_point(tail)

    def advance_recovery_point(self, tail: LogSnapshot) -> None:
        """Move the recovery point past the sealed segments of `tail`. REQUIRES: they are on the device."""
        point = self.recovery_point
        for segment in tail.segments[:-1]:
            if segment.next_offset > self.recovery_point:
                segment.write_index()  # only now: what an index describes has to be on the device
                point = segment.next_offset
            elif segment.is_unsaved:
                segment.write_index()
        if point > self.recovery_point:
            self._state.write(self._state.state._replace(recovery_point=point), sync=True)

    def sync_end(self, tail: LogSnapshot) -> None:
        """The last sync, at close; moves the recovery point to the end.

        REQUIRES: as `sync_sealed`. A full disk only costs the recovery point.
        """
        if self.recovery_point < tail.end_offset:
            self.sync_files(self.recovery_point, tail)
            try:
                self._state.write(self._state.state._replace(recovery_point=tail.end_offset), sync=True)
            except DiskFullError as error:
                logger.warning("%s; the next open has more to check, nothing is lost", error)
