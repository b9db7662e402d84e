"""The writer of DIR/published, which tells other processes how far each partition may be read.

An append after a pause is published by the thread that appended. While any partition is busy, appends are published by a
thread of the publisher's own, which looks at the busy partitions every 5 ms and sleeps while there is none. So a partition
costs at most two writes in 5 ms, and an append costs a look at `PublishedSlot.quiet`. The scheduler does not do it, because
a compaction would keep readers waiting. All times are real; under a clock that a test moves there is no thread, and every
append is published at once.

All other changes are published before the caller goes on, and so before a file is removed: a reader that finds a file gone
also finds the slot changed.

Each slot has a lock of its own. The state is read and written while it is held, so an older state never overwrites a newer
one. An append waits neither for that lock nor for another append that is being published: it leaves its slot to the thread.
(With one lock for all slots, twelve senders beside a thread that computes waited for one another: each write gives up the
interpreter lock, and gets it back after 5 ms.) The publisher's lock is for the list of slots and for writing the whole file
again; it is taken before those of slots. All are leaves otherwise.

If the disk refuses a write, no append fails: the failure is logged once, and the write is repeated, at the next change of files
at the latest.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from typing import Any

from ...replication.partition import Partition
from ...runtime.api import Disk, File, Lock
from ...runtime.disk_errors import require_disk_error
from ...runtime.threads import inside
from ...runtime.values import refuse_to_copy
from ...storage import published
from ...storage.published import CLOSED, EMPTY, NAME, OPEN, OPENING, SLOT_BYTES, Header, Slot
from ...storage.tail import LogSnapshot
from ...storage.transactions import UNREAD

logger = logging.getLogger("streamlog.broker")

_new_slot: Any = tuple.__new__  # namedtuple's own __new__ is a Python call
INTERVAL_S = 0.005
RETRY_S = 1.0


class PublishedSlot:
    """One partition's slot. `quiet`: the next append is not published unless `appended` is called. `last` and `tail`: what
    was written last. REQUIRES `lock` for these two, for `index` and for writing it. Nothing writes it once it `is_removed`."""

    __slots__ = (
        "_publisher", "eager", "index", "is_removed", "last", "lock", "partition", "quiet", "rewrites", "tail", "written_s",
    )  # fmt: skip

    __reduce_ex__ = refuse_to_copy

    def __init__(self, publisher: PublishedWriter, partition: Partition, index: int, lock: Lock, eager: bool) -> None:
        self._publisher = publisher
        self.lock = lock
        self.is_removed = False
        self.eager = eager
        self.partition = partition
        self.index = index
        self.quiet = True
        self.rewrites = 0
        self.written_s = 0.0
        self.last: Slot | None = None
        self.tail: LogSnapshot | None = None

    def appended(self) -> None:
        """There are new records to be published. REQUIRES: no lock of the partition."""
        self._publisher.appended(self)

    def changed(self, *, rewritten: bool = False) -> None:
        """Something else changed; see `LogListener`."""
        if rewritten:
            with inside(), self.lock:  # a truncation and a compaction may come at once, and readers have to see both
                self.rewrites += 1
        self._publisher.publish(self, urgent=True)

    def now(self) -> tuple[Slot, LogSnapshot]:
        """The partition's current state. The high watermark is read first, so it is never past the end of the snapshot."""
        partition, last, before = self.partition, self.last, self.tail
        high_watermark = partition.high_watermark
        transactions = partition.reader.transactions
        tail = partition.log.tail
        last_stable_offset = high_watermark
        if transactions is not None and transactions is not UNREAD:
            last_stable_offset = transactions.last_stable_offset(high_watermark, tail.start_offset)
        generation = 0
        if last is not None and before is not None:
            appended_only = (
                tail.segments is before.segments
                and tail.start_offset == before.start_offset
                and tail.end_offset >= before.end_offset
                and self.rewrites == last.rewrites
            )
            generation = last.generation if appended_only else last.generation + 1
        slot: Slot = _new_slot(
            Slot,
            (
                partition.log.seed, generation, self.rewrites, tail.end_offset, high_watermark, last_stable_offset,
                tail.start_offset, tail.bases[-1], tail.end_position,
            ),
        )  # fmt: skip
        return slot, tail


class PublishedWriter:
    """The file `published` of one broker directory. Thread-safe. A disk that refuses it fails no caller.

    `wake` makes a thread call `tick` soon; it is None if there is no thread. `is_silent`: no other process knows the
    directory, so nothing is written.
    """

    __reduce_ex__ = refuse_to_copy

    def __init__(
        self, disk: Disk, directory: str, new_lock: Callable[[], Lock], monotonic: Callable[[], float]
    ) -> None:
        self._disk = disk
        self._path = f"{directory}/{NAME}"
        self._new_lock = new_lock
        self._lock = new_lock()
        # Held by a thread that publishes its append. No thread waits for it: if an interrupt leaves it held, appends are
        # left to the publisher's thread.
        self._appending = new_lock()
        self._monotonic = monotonic
        self._header = Header(0, OPENING, 0)
        self._file: File | None = None
        self._ended = True
        self._slots: dict[int, PublishedSlot] = {}
        self._kept: dict[int, tuple[int, Slot]] = {}  # by seed, index and slot: until the log is open
        self._free: list[int] = []
        self._greatest = 0  # of all indexes: one that an interrupt loses is not used again
        self._fresh: deque[PublishedSlot] = deque()
        self._busy: dict[PublishedSlot, None] = {}
        self._due_s = 0.0
        self._retry_s = 0.0
        self._refused = False
        self.is_silent = False
        self.wake: Callable[[], None] | None = None

    # -- the owner's life ----------------------------------------------------------------------------

    def open(self, incarnation: int, pid: int) -> None:
        """Publish that the log is being opened, before recovery changes its files.

        The slots of the earlier owner are kept, marked so that readers ignore them, until the log is open: where a lost
        partition ended may be recorded nowhere else, and this open may be refused because of it.
        """
        if self.is_silent:
            return
        with inside(), self._lock:
            self._ended = False
            self._slots, self._free = {}, []
            self._kept = {seed: (index, slot) for index, (seed, slot) in enumerate(self._found().items(), 1)}
            self._greatest = len(self._kept)
            self._header = Header(incarnation, OPENING, pid)
            self._start_over()

    def opened(self) -> None:
        """Publish that the log is open: every partition has a slot, and slots that are left are freed."""
        with inside(), self._lock:
            if not self._ended:
                self._free_kept()
                self._set_state(OPEN)
        self._try_again_soon()

    def _free_kept(self) -> None:
        """Free the slots of the earlier owner that no partition has. REQUIRES: the publisher's lock."""
        for seed, (index, _) in list(self._kept.items()):
            del self._kept[seed]
            if seed not in self._slots:
                self._pwrite(EMPTY, index * SLOT_BYTES)
                self._free.append(index)

    def close(self, *, clean: bool) -> None:
        """Publish that the log is closed. Not without `clean`: readers then find the owner gone, and look at the files."""
        with inside(), self._lock:
            self._write_finally()
            if clean and not self._ended:
                self._set_state(CLOSED)
        self.abandon()

    def _write_finally(self) -> None:
        """Write every slot for the last time. REQUIRES: the publisher's lock."""
        for slot in list(self._slots.values()):
            self._write(slot, finally_=True)

    def abandon(self) -> None:
        """Write nothing any more. Takes no lock: in a forked child it may be held for ever."""
        self._ended = True
        self._file = None

    # -- partitions ----------------------------------------------------------------------------------

    def add(self, partition: Partition, *, eager: bool = False) -> None:
        """Give a partition a slot, and publish it. `eager`: publish each append at once; for a log that is rarely appended to."""
        if self._ended:
            return
        seed = partition.log.seed
        with inside(), self._lock:
            known = self._slots.get(seed)  # of an attempt that was interrupted
            if known is not None:
                self._retire(known)
                index = known.index
            elif seed in self._kept:
                index = self._kept[seed][0]
            else:
                index = self._free_index()
            slot = self._slots[seed] = PublishedSlot(self, partition, index, self._new_lock(), eager)
            self._kept.pop(seed, None)
        self.publish(slot)
        partition.listener = slot

    def _free_index(self) -> int:
        if self._free:
            return self._free.pop()
        self._greatest += 1
        return self._greatest

    def remove(self, partition: Partition) -> None:
        """Free the slot: the partition was deleted."""
        with inside(), self._lock:
            slot = self._slots.pop(partition.log.seed, None)
            if slot is not None:
                self._retire(slot)
                self._free.append(slot.index)
                if not self._ended and not self._pwrite(EMPTY, slot.index * SLOT_BYTES):
                    self._start_over()  # at once, whatever it refused last: its files are about to go
        self._try_again_soon()

    def _retire(self, slot: PublishedSlot) -> None:
        with inside(), slot.lock:
            slot.is_removed = True

    def _try_again_soon(self) -> None:
        """If the disk refused a write, have the file written again, though no partition changed: readers may wait for it."""
        if self._file is None and not self._ended:
            for slot in list(self._slots.values())[:1]:
                self._look_soon(slot)

    def appended(self, slot: PublishedSlot) -> None:
        if slot.eager:
            self.publish(slot, urgent=True)
        elif self.wake is None:
            self.publish(slot)
        elif (
            self._busy
            or self._fresh
            or self._file is None
            or slot.lock.locked()
            or self._monotonic() - slot.written_s < INTERVAL_S
            or not self._appending.acquire(False)
        ):
            self._look_soon(slot)
        else:
            try:
                self.publish(slot)
            finally:
                self._appending.release()

    def publish(self, slot: PublishedSlot, *, urgent: bool = False) -> None:
        """Write the slot if it has changed. After a refusal, try only from time to time, unless it is `urgent`."""
        self._write(slot)
        if self._file is None and not self._ended and (urgent or self._monotonic() >= self._retry_s):
            self._start_over_if_refused()
            self._write(slot)  # another thread may have written the file, and read this slot's state before it changed
        if self._file is None and not self._ended:
            self._look_soon(slot)

    def _look_soon(self, slot: PublishedSlot) -> None:
        wake = self.wake
        if wake is not None:
            # In this order: an interrupt in between must leave no slot that is neither quiet nor looked at.
            self._fresh.append(slot)
            slot.quiet = False
            if not self._busy:  # otherwise it comes within 5 ms, and looks at `_fresh` before it sleeps
                wake()

    def tick(self, now_ms: int) -> int | None:
        """Publish the busy partitions, if it is time; when to come again (ms, wall clock), or None if none is busy."""
        now = self._monotonic()
        if not self._busy:
            self._due_s = now + INTERVAL_S
        while self._fresh:
            self._busy[self._fresh.popleft()] = None
        if self._busy and now >= self._due_s:
            self._due_s = now + INTERVAL_S
            if self._file is None and now >= self._retry_s:
                self._start_over_if_refused()
            for slot in list(self._busy):
                self._look(slot)
        if not self._busy and not self._fresh:
            return None
        return now_ms + max(1, round((self._due_s - now) * 1000))

    def _look(self, slot: PublishedSlot) -> None:
        if self._write(slot):
            return
        slot.quiet = True
        if self._write(slot):  # by an append that came after the look, and before the line above
            slot.quiet = False
        else:
            del self._busy[slot]

    # -- the file ------------------------------------------------------------------------------------

    def _write(self, slot: PublishedSlot, *, finally_: bool = False) -> bool:
        """Write a slot that has changed, `finally_` for the last time. False if it has not changed; True even if the disk
        refused the write, now or before. REQUIRES: no lock of a slot."""
        with inside(), slot.lock:
            if self._ended or slot.is_removed:
                return False
            slot.is_removed = finally_
            state, tail = slot.now()
            if state == slot.last and self._file is not None:
                return False
            if self._pwrite(published.pack_slot(state), slot.index * SLOT_BYTES):
                slot.last, slot.tail = state, tail
                slot.written_s = self._monotonic()
            return True

    def _start_over_if_refused(self) -> None:
        with inside(), self._lock:
            if self._file is None and not self._ended:
                self._start_over()

    def _found(self) -> dict[int, Slot]:
        try:
            return published.kept_slots(self._disk.read(self._path))
        except OSError as error:
            require_disk_error(error)
            return {}

    def _set_state(self, state: int) -> None:
        self._header = self._header._replace(state=state)
        if not self._pwrite(published.pack_header(self._header), 0):
            self._start_over()

    def _start_over(self) -> None:
        """Write the whole file again, in place: readers have it open. REQUIRES: the publisher's lock, and none of a slot.

        No other thread writes to it before it is complete; those that write to the file from before hold their slot's lock.
        """
        self._file = None
        try:
            file = self._disk.open(self._path, create=True)
            kept = {index: published.pack_slot(slot, kept=True) for index, slot in self._kept.values()}
            slots = [kept.get(index, EMPTY) for index in range(1, max(kept, default=0) + 1)]
            file.pwrite([b"".join([published.pack_header(self._header), *slots])], 0)
            file.truncate((len(slots) + 1) * SLOT_BYTES)
            for slot in self._slots.values():
                with inside(), slot.lock:
                    state, tail = slot.now()
                    file.pwrite([published.pack_slot(state)], slot.index * SLOT_BYTES)
                    slot.last, slot.tail = state, tail
            self._file = file
        except OSError as error:
            require_disk_error(error)
            self._refuse(error)

    def _pwrite(self, data: bytes, position: int) -> bool:
        file = self._file
        if file is None:
            return False
        try:
            file.pwrite([data], position)
        except OSError as error:
            require_disk_error(error)
            self._refuse(error)
            return False
        self._refused = False
        return True

    def _refuse(self, error: OSError) -> None:
        self._file = None
        self._retry_s = self._monotonic() + RETRY_S
        if not self._refused:
            self._refused = True
            logger.warning(
                "could not write %s (%s): processes that read along see nothing new until it can be written; nothing "
                "else suffers", self._path, error,
            )  # fmt: skip
