"""Tells other processes how far each partition goes: the writer of DIR/published.

An append that nobody outside knows of yet is published by the thread that appended, if the last time was
5 ms ago; otherwise by a thread of its own, which looks every 5 ms at the partitions that are busy, and
sleeps while none is. So a partition costs two writes in 5 ms at most, and an append nothing but a look at
`PublishedSlot.quiet`. Not by the scheduler: a compaction would keep readers waiting. Real time throughout; under a
clock that a test moves there is no thread, and every append is published at once.

All other changes are published before the caller goes on, that is before a file is removed: who finds a
file gone also finds the slot changed.

The publisher's lock is a leaf. The state is looked at inside it, so an older one never overwrites a newer.
A disk that refuses fails no append: it is logged once, and tried again, at the next change of files at the latest.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable

from ...replication.partition import Partition
from ...runtime.api import Disk, File, Lock
from ...runtime.disk_errors import check
from ...runtime.threads import inside
from ...runtime.values import refuse_to_copy
from ...storage import published
from ...storage.published import CLOSED, EMPTY, NAME, OPEN, OPENING, SLOT_BYTES, Header, Slot
from ...storage.tail import LogSnapshot

logger = logging.getLogger("streamlog.broker")

INTERVAL_S = 0.005
RETRY_S = 1.0


class PublishedSlot:
    """One partition's slot. `quiet`: nobody will look at the next append unless `appended` is called."""

    __slots__ = ("_publisher", "eager", "index", "last", "partition", "quiet", "rewrites", "tail", "written_s")

    def __init__(self, publisher: PublishedWriter, partition: Partition, index: int, eager: bool) -> None:
        self._publisher = publisher
        self.eager = eager
        self.partition = partition
        self.index = index
        self.quiet = True
        self.rewrites = 0
        self.written_s = 0.0
        self.last: Slot | None = None
        self.tail: LogSnapshot | None = None

    def appended(self) -> None:
        """There are new records to be seen. No lock of the partition is held."""
        self._publisher.appended(self)

    def changed(self, *, rewritten: bool = False) -> None:
        """Something else changed. `rewritten`: the bytes behind a file's name did, or are about to."""
        self.rewrites += rewritten
        self._publisher.publish(self, urgent=True)

    def now(self) -> tuple[Slot, LogSnapshot]:
        """The partition as it is. The high watermark is taken first, so it is never ahead of the tail."""
        partition, last, before = self.partition, self.last, self.tail
        high_watermark = partition.high_watermark
        tail = partition.log.tail
        generation = 0
        if last is not None and before is not None:
            appended_only = (
                tail.segments is before.segments
                and tail.start_offset == before.start_offset
                and tail.end_offset >= before.end_offset
                and self.rewrites == last.rewrites
            )
            generation = last.generation if appended_only else last.generation + 1
        slot = Slot(
            partition.log.seed, generation, self.rewrites, tail.end_offset, high_watermark, high_watermark,
            tail.start_offset, tail.bases[-1], tail.end_position,
        )  # fmt: skip
        return slot, tail


class PublishedWriter:
    """The file `published` of one broker directory. Thread-safe, and there whether the disk plays along or not.

    `wake` has `tick` called by a thread soon; None where there is no thread. `is_silent`: nobody outside knows of
    this directory, so nothing is written.
    """

    __reduce_ex__ = refuse_to_copy

    def __init__(self, disk: Disk, directory: str, lock: Lock, monotonic: Callable[[], float]) -> None:
        self._disk = disk
        self._path = f"{directory}/{NAME}"
        self._lock = lock
        self._monotonic = monotonic
        self._header = Header(0, OPENING, 0)
        self._file: File | None = None
        self._ended = True
        self._places: dict[int, PublishedSlot] = {}
        self._kept: dict[int, tuple[int, Slot]] = {}  # by seed, index and slot: until the log is open
        self._free: list[int] = []
        self._fresh: deque[PublishedSlot] = deque()
        self._busy: dict[PublishedSlot, None] = {}
        self._due_s = 0.0
        self._retry_s = 0.0
        self._refused = False
        self.is_silent = False
        self.wake: Callable[[], None] | None = None

    # -- the owner's life ----------------------------------------------------------------------------

    def open(self, incarnation: int, pid: int) -> None:
        """Begin: readers learn that what they know of the files may change, before recovery changes it.

        What an earlier owner said of each partition stays, unseen by readers, until the log is open: of one that is
        lost, and for which this open is refused, nobody else may know where it ended.
        """
        if self.is_silent:
            return
        with inside(), self._lock:
            self._ended = False
            self._places, self._free = {}, []
            self._kept = {seed: (index, slot) for index, (seed, slot) in enumerate(self._found().items(), 1)}
            self._header = Header(incarnation, OPENING, pid)
            self._start_over()

    def opened(self) -> None:
        """Every partition has its place: what is there is all there is."""
        with inside(), self._lock:
            if not self._ended:
                for seed, (index, _) in list(self._kept.items()):
                    del self._kept[seed]
                    if seed not in self._places:
                        self._pwrite(EMPTY, index * SLOT_BYTES)
                        self._free.append(index)
                self._set_state(OPEN)
        self._try_again_soon()

    def close(self, *, clean: bool) -> None:
        """The last word. Without `clean` none is said: readers find the owner gone, and look at the files."""
        with inside(), self._lock:
            for place in list(self._places.values()):
                self._write(place)
            if clean and not self._ended:
                self._set_state(CLOSED)
        self.abandon()

    def abandon(self) -> None:
        """Write nothing any more. No lock: in a forked child it may be held for ever."""
        self._ended = True
        self._file = None

    # -- partitions ----------------------------------------------------------------------------------

    def add(self, partition: Partition, *, eager: bool = False) -> None:
        """Give a partition its place, and publish it. `eager`: each append at once; for what is rarely appended to."""
        if self._ended:
            return
        seed = partition.log.seed
        with inside(), self._lock:
            known = self._places.get(seed)  # of an attempt that was interrupted
            if known is not None:
                index = known.index
            elif seed in self._kept:
                index = self._kept[seed][0]
            else:
                index = self._free.pop() if self._free else len(self._places.keys() | self._kept.keys()) + 1
            place = self._places[seed] = PublishedSlot(self, partition, index, eager)
            self._kept.pop(seed, None)
            self._write(place)
        partition.listener = place

    def remove(self, partition: Partition) -> None:
        """Take the place back: the partition was deleted."""
        with inside(), self._lock:
            place = self._places.pop(partition.log.seed, None)
            if place is not None:
                self._free.append(place.index)
                if not self._ended and not self._pwrite(EMPTY, place.index * SLOT_BYTES):
                    self._start_over()  # at once, whatever it refused last: its files are about to go
        self._try_again_soon()

    def _try_again_soon(self) -> None:
        """If the disk refused, have the file written anew though no partition has news: readers may wait for it alone."""
        if self._file is None and not self._ended:
            for place in list(self._places.values())[:1]:
                self._look_soon(place)

    def appended(self, place: PublishedSlot) -> None:
        if place.eager:
            self.publish(place, urgent=True)
        elif self.wake is None or self._monotonic() - place.written_s >= INTERVAL_S:
            self.publish(place)
        else:
            self._look_soon(place)

    def publish(self, place: PublishedSlot, *, urgent: bool = False) -> None:
        """Write the slot if there is anything new in it; after a refusal only from time to time, unless it is `urgent`."""
        with inside(), self._lock:
            self._write(place, urgent=urgent)
            failed = self._file is None
        if failed and not self._ended:
            self._look_soon(place)

    def _look_soon(self, place: PublishedSlot) -> None:
        if self.wake is not None:
            # In this order: an interrupt in between must leave no place that is neither quiet nor looked at.
            self._fresh.append(place)
            place.quiet = False
            self.wake()

    def tick(self, now_ms: int) -> int | None:
        """Look at the busy partitions, if it is time; when to come again (ms, wall clock), None if none is busy."""
        now = self._monotonic()
        if not self._busy:
            self._due_s = now + INTERVAL_S
        while self._fresh:
            self._busy[self._fresh.popleft()] = None
        if self._busy and now >= self._due_s:
            self._due_s = now + INTERVAL_S
            with inside(), self._lock:
                for place in list(self._busy):
                    self._look(place)
        return now_ms + max(1, round((self._due_s - now) * 1000)) if self._busy else None

    def _look(self, place: PublishedSlot) -> None:
        if self._write(place):
            return
        place.quiet = True
        if self._write(place):  # by an append that came after the look, and before the line above
            place.quiet = False
        else:
            del self._busy[place]

    # -- the file, all under the lock ----------------------------------------------------------------

    def _found(self) -> dict[int, Slot]:
        try:
            return published.kept_slots(self._disk.read(self._path))
        except OSError as error:
            check(error)
            return {}

    def _set_state(self, state: int) -> None:
        self._header = self._header._replace(state=state)
        if not self._pwrite(published.pack_header(self._header), 0):
            self._start_over()

    def _start_over(self) -> None:
        """Write the whole file anew. In place: readers have it open."""
        try:
            self._file = file = self._disk.open(self._path, create=True)
            kept = {index: published.pack_slot(slot, kept=True) for index, slot in self._kept.values()}
            slots = [kept.get(index, EMPTY) for index in range(1, max(kept, default=0) + 1)]
            file.pwrite([b"".join([published.pack_header(self._header), *slots])], 0)
            file.truncate((len(slots) + 1) * SLOT_BYTES)
            for place in self._places.values():
                slot, tail = place.now()
                file.pwrite([published.pack_slot(slot)], place.index * SLOT_BYTES)
                place.last, place.tail = slot, tail
        except OSError as error:
            check(error)
            self._refuse(error)

    def _write(self, place: PublishedSlot, *, urgent: bool = False) -> bool:
        """Publish what is new in a place; False if nothing is, True even if the disk refused it, now or before."""
        if self._ended or self._places.get(place.partition.log.seed) is not place:
            return False
        slot, tail = place.now()
        if slot == place.last and self._file is not None:
            return False
        if self._file is None:
            if urgent or self._monotonic() >= self._retry_s:
                self._start_over()
        elif self._pwrite(published.pack_slot(slot), place.index * SLOT_BYTES):
            place.last, place.tail = slot, tail
            place.written_s = self._monotonic()
        return True

    def _pwrite(self, data: bytes, position: int) -> bool:
        if self._file is None:
            return False
        try:
            self._file.pwrite([data], position)
        except OSError as error:
            check(error)
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
