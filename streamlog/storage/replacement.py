"""A new file in place of neighbouring sealed segments: how compaction and repair rewrite what never changes otherwise.

If the process is killed, nothing is lost: the file is written beside the originals, synced, and renamed to `A-B.swap`. From
the rename on it counts, and it is published at once. If the call was interrupted in between, `publish_interrupted`
publishes it before anything else is done to the files. The remaining steps (`files.finish_swap`) are repeated, if they were
interrupted, before the next replacement or at the next open.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence

from ..errors import StreamlogError
from ..records import columns
from ..records.batch import NO_TIMESTAMP, BatchHeader, peek, stamp
from ..runtime.api import File
from ..runtime.disk_errors import require_disk_error
from .files import as_storage_error, cleaned_name, finish_interrupted, finish_swap, swap_name
from .index import IndexBuilder
from .log import Log
from .segment import Segment

_WRITE_BYTES = 1 << 20

Publish = Callable[[Sequence[Segment], Segment], None]
"""Takes the partition's lock and puts a segment in place of neighbouring ones in the tail."""


class Replacement:
    """Writes the file that takes the place of `group`: `begin`, `put` each batch, then `swap_in` or `abandon`.

    `size`: the bytes so far. `is_damaged`: whether some of them do not verify. REQUIRES: the partition's maintenance lock for each call. `begin` and `put` raise OSError, and
    the caller calls `abandon`.
    """

    def __init__(self, log: Log, group: Sequence[Segment], base_offset: int | None = None) -> None:
        """`base_offset`: where the new segment begins, by default where the first of the group does."""
        self._base_offset = group[0].base_offset if base_offset is None else base_offset
        self.path = f"{log.directory}/{cleaned_name(self._base_offset)}"
        self.size = 0
        self._log = log
        self._group = group
        self._file: File | None = None
        self._buffers: list[bytes] = []
        self._buffered = 0
        self._built = IndexBuilder(self._base_offset)
        self._last: BatchHeader | None = None
        self.is_damaged = False

    def begin(self) -> None:
        self._file = self._log.disk.open(self.path, create=True, exclusive=True)

    def put(self, header: BatchHeader, data: bytes) -> None:
        self._built.add(header, self.size)
        self._last = header
        self._write(data)

    @property
    def next_offset(self) -> int:
        """The offset after the last batch."""
        return self._built.next_offset

    def put_empty(self, end_offset: int) -> None:
        """A batch without records up to `end_offset`, as compaction leaves one: a segment ends where the next one begins."""
        last = self._last
        count, epoch, append_ms = end_offset - self.next_offset, 0, NO_TIMESTAMP
        if last is not None:
            epoch, append_ms = last.leader_epoch, last.append_timestamp
        seed = self._log.seed
        sealed = columns.seal(seed, None, None, NO_TIMESTAMP, count=0, last_offset_delta=count - 1)
        data = stamp(sealed, seed, self.next_offset, epoch, append_ms) + sealed.payload
        self.put(peek(data), data)

    def put_damaged(self, data: bytes) -> None:
        """Bytes that do not verify, as they are: what was in them stays known to be lost."""
        self.is_damaged = True
        self._write(data)

    def _write(self, data: bytes) -> None:
        self._buffers.append(data)
        self._buffered += len(data)
        self.size += len(data)
        if self._buffered >= _WRITE_BYTES:
            self._flush()

    def _flush(self) -> None:
        assert self._file is not None
        self._file.pwrite(self._buffers, self.size - self._buffered)
        self._buffers, self._buffered = [], 0

    def swap_in(self, publish: Publish) -> None:
        """Make the result count on disk by one rename, publish it, then finish the file operations.

        Raises StorageError, DiskFullError, with the log as it was unless the result was published.
        """
        log, group, file = self._log, self._group, self._file
        assert file is not None
        low, high = self._base_offset, group[-1].next_offset
        new = Segment(log.disk, log.directory, low, log.seed)
        new.set_stats(self._built.stats(self.size))
        new.set_index(self._built.index)
        if not self.is_damaged:
            new.summary = self._built.summary
        new.next_offset = max(new.next_offset, high) if self.is_damaged else new.next_offset
        new.use_file(file)
        swap = _swap_path(log, group, new)
        try:
            self._flush()
            file.sync()
            # The files at these paths change now, while readers use the segments.
            for segment in (*group, new):
                segment.pin()
            file.close()
            log.replacing = (group, new)
            log.disk.rename(self.path, swap)
            publish_interrupted(log, publish)
        except BaseException as error:
            with contextlib.suppress(StreamlogError):  # the next call of anything here does it
                publish_interrupted(log, publish)
            if new not in log.tail.segments:
                self.abandon()
            if isinstance(error, OSError):
                raise as_storage_error(error, "swap in", swap) from error
            raise
        try:
            finish_swap(log.disk, log.directory, low, high, log.disk.listdir(log.directory))
        except OSError as error:
            raise as_storage_error(error, "swap in", swap) from error
        if not self.is_damaged:
            new.write_index()
        new.unpin()

    def abandon(self) -> None:
        """Remove the result; if the unlink fails, the next open removes it."""
        if self._file is not None:
            self._file.close()
        try:
            if self._log.disk.exists(self.path):
                self._log.disk.unlink(self.path)
        except OSError as error:
            require_disk_error(error)
            return


def publish_interrupted(log: Log, publish: Publish) -> None:
    """Publish what an interrupted replacement has renamed, so that the log in memory is the same as on disk.

    REQUIRES: the maintenance lock. Call it before anything that finishes replacements or unlinks segments: applied to
    segments that are already replaced on disk, these leave offsets twice, or a segment in memory without its file.
    Raises StorageError.
    """
    if log.replacing is None:
        return
    old, new = log.replacing
    swap = _swap_path(log, old, new)
    try:
        is_renamed = log.disk.exists(swap)
    except OSError as error:
        raise as_storage_error(error, "check for", swap) from error
    if is_renamed and new not in log.tail.segments:
        publish(old, new)
    log.replacing = None


def _swap_path(log: Log, old: Sequence[Segment], new: Segment) -> str:
    return f"{log.directory}/{swap_name(new.base_offset, old[-1].next_offset)}"


def finish_earlier(log: Log) -> None:
    """Finish the file operations of an earlier replacement that was interrupted: two results must never overlap."""
    try:
        finish_interrupted(log.disk, log.directory, log.disk.listdir(log.directory))
    except OSError as error:
        raise as_storage_error(error, "finish an earlier replacement in", log.directory) from error
