"""Reading one partition forward from a position: fetch, verify, decode.

`Consumer` and `Topic.read` use it. It has nothing to do with groups and takes no lock.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

from ...broker.api import Service
from ...broker.fetched import NOTHING, UNKNOWN_END, FetchedBatch, FetchResult
from ...broker.metadata import TopicIdPartition
from ...errors import (
    CorruptRecordError,
    FencedLeaderEpochError,
    LogTruncationError,
    NotLeaderError,
    OffsetOutOfRangeError,
    StreamlogError,
    UnknownLeaderEpochError,
)
from ...records.batch import NOT_PLAIN
from ...runtime.api import Completion
from ...runtime.threads import result_of, wait_for
from ...types import Record, TopicPartition
from . import decode
from .decode import Decoder
from .record_batch import RecordBatch

if TYPE_CHECKING:
    from ..._core import Columns, RecordReader

logger = logging.getLogger("streamlog.client")

# The first fetch after a seek is one index interval, and of its batch only the records asked for are decoded, or these
# few: a program that seeks often reads little. Then both grow.
FIRST_BYTES = 4096
FIRST_RECORDS = 1
GROWTH = 4
# Just under the size from which the C library maps new pages for each allocation: those cost more than the read.
MAX_BYTES = (1 << 17) - 256
# How often one fetch finds the partition in an earlier leader epoch than it has heard of.
_LOOKS = 3
# Of which epochs the core in C takes batches; any other number is one epoch.
_ANY_EPOCH, _NO_EPOCH = -1, -2
_usual_batch: Callable[[Columns, Decoder], RecordBatch[Any, Any]] = RecordBatch._of
# Of how many leader epochs it is known where they began, of what was read last.
_EPOCHS = 16


class PartitionFetcher:
    """Gives the records of one partition in order. `position` is the next offset to give.

    `end` is where what may be read ended at the last fetch, UNKNOWN_END if the log may have grown since: a caller that
    hears of appends sets that. `queued` belongs to `SubscriptionState`.

    A call that raises a StreamlogError leaves `position` after the records it gave. A call that ends with anything else
    (Ctrl-C, a deserializer's SystemExit) may leave it further on: the caller seeks back to what it has returned.
    """

    __slots__ = ("_at", "_bytes", "_current", "_epoch", "_epochs", "_fetched", "_first_bytes", "_known_end", "_last_epoch", "_max_bytes", "_next",
        "_reader", "_rest", "_service", "_skip", "_whole", "_window", "at", "decoder", "end", "isolation", "name", "position", "queued",
        "topic_id")  # fmt: skip

    def __init__(
        self,
        service: Service,
        name: TopicPartition,
        decoder: Decoder,
        isolation: str,
        on_corrupt: str,
        position: int,
        max_bytes: int = MAX_BYTES,
        topic_id: bytes | None = None,
        leader_epoch: int | None = None,
    ) -> None:
        """`leader_epoch`: that of the record before `position`, if it is known: it was committed with it."""
        self._service = service
        self.name = name
        self.decoder = decoder
        self.isolation = isolation
        self._skip = on_corrupt == "skip"
        self._max_bytes = min(max_bytes, MAX_BYTES)
        self._first_bytes = min(max_bytes, FIRST_BYTES)
        self.topic_id = topic_id if topic_id is not None else result_of(service.topic(name.topic)).id_bytes
        self.at = TopicIdPartition(*name, self.topic_id)
        # The leader epoch that the partition was in at the last fetch, -1 before it; None in a log of one broker.
        self._epoch = -1 if service.is_replicated else None
        # The leader epochs of what was read, each with the offset from which on it is known: one entry for each election.
        self._epochs: list[tuple[int, int]] = []
        self._known_end = position
        if leader_epoch is not None and self._epoch is not None:
            self._epochs.append((position - 1, leader_epoch))
        self._whole = True  # the last call came to its end; otherwise what was prefetched is not used
        self.queued = False
        self.position = position
        self.seek(position)

    def seek(self, offset: int) -> None:
        """Go on at `offset`; what was prefetched is dropped."""
        # The leader epoch of the record before `position`; None if that is not known.
        self._last_epoch = None
        if self._epochs:
            self._last_epoch = self.epoch_before(offset)
            self._epochs = [] if self._last_epoch is None else [each for each in self._epochs if each[0] < offset]
        self.position = self._known_end = offset
        self._bytes = self._first_bytes
        self._window = FIRST_RECORDS
        self._forget()

    def epoch_before(self, offset: int) -> int | None:
        """The leader epoch of the record before `offset`, if that was read here."""
        if not self._epochs or offset > max(self._known_end, self.position):
            return None
        return next((epoch for since, epoch in reversed(self._epochs) if since < offset), None)

    def bounds_if_out_of_range(self, position: int) -> tuple[int, int] | None:
        """The bounds of the log (start, end) if `position` is outside it; None if it is inside.

        A fetch decides it. Comparing the bounds is not enough: a consumer may have read records that may not be read any
        more, and wait beyond the end. The bounds are returned rather than the error, which as a local of the caller would
        be in a cycle with the caller's frame.
        """
        try:
            result_of(self._service.fetch(self.at, position, 0, self.isolation))
        except OffsetOutOfRangeError as error:
            return error.log_start_offset, error.log_end_offset
        except StreamlogError:  # the next read raises it
            return None
        return None

    def has_no_leader(self) -> bool:
        """Whether no broker leads the partition now, so that nothing can be read."""
        return isinstance(self._service.fetch(self.at, self.position, 0, self.isolation).error(), NotLeaderError)

    def _forget(self) -> None:
        self._current: Iterator[Record[Any, Any]] | None = None
        self._reader: RecordReader | None = None  # of the batches from `_at` on, of which it may have given a part
        self._next = self.position
        self._fetched = NOTHING
        self._at = 0  # the index of the next batch in its data
        self._rest: FetchedBatch | None = None  # a batch of which a part was given
        self.end = UNKNOWN_END

    def release(self) -> None:
        """At the end: keep no bytes of what was given, only where reading goes on."""
        fetched = self._fetched
        if fetched.size > FIRST_BYTES and self.position >= self.end:
            self._current = self._rest = self._reader = None
            self._fetched = fetched.without_data()
            self._at = 0

    def take(self, out: list[Record[Any, Any]], n: int) -> int:
        """Append up to `n` records to `out`; how many.

        If there is an error after some records, the call gives those, and the next call raises the error, at the same
        position, until the caller seeks past it.
        """
        before = len(out)
        if not self._whole:
            self._forget()
        self._whole = False
        try:
            self._take(out, n)
        except StreamlogError:
            some = len(out) > before
            if some:  # also of a batch that failed in the middle
                self.position = out[-1].offset + 1
            self._forget()
            if not some:
                raise
        self._whole = True
        return len(out) - before

    def _take(self, out: list[Record[Any, Any]], n: int) -> None:
        want = n
        has_reader = FetchResult.has_reader and self.decoder.plain
        while True:
            current = self._current
            if current is not None:
                before = len(out)
                # extend keeps what it has when the iterator raises
                out.extend(islice(current, want))
                want -= len(out) - before
                if not want:
                    self.position = out[-1].offset + 1
                    return
                self._current = None
                self.position = self._next
            # With some records, and at the end that the last fetch has found: do not fetch again.
            may_fetch = want == n or self.position < self.end
            if has_reader and self._rest is None:
                if self._at >= self._fetched.size and not self._has_data(may_fetch):
                    return
                reader = self._reader or self._begin_reader()
                want -= reader.take(out, want)
                self._at, self.position = reader.at, reader.position
                if not want:
                    return
                self._reader = None
                if self._at >= self._fetched.size:
                    continue
            batch = self._next_batch(may_fetch)
            if batch is None:
                return
            self._current, self._next = decode.records(batch, self.decoder, self.position, max(want, self._window))
            if self._next < batch.next_offset:
                self._window *= GROWTH
                self._rest = batch

    def _begin_reader(self) -> RecordReader:
        epoch = _ANY_EPOCH
        if self._epoch is not None:  # it has to be noted in Python where an epoch begins
            epoch = _NO_EPOCH if self._last_epoch is None else self._last_epoch
        self._reader = reader = self._fetched.reader(self._at, self.position, Record, *self.name, epoch)
        return reader

    def take_batches(self, out: list[RecordBatch[Any, Any]], n: int, exactly: bool) -> int:
        """Append batches of about `n` records in all to `out`; how many records. The last one may be cut."""
        if self._current is not None or not self._whole:  # `take` gave a part of it, or the last call was interrupted
            self._forget()
        self._whole = False
        taken = 0
        while taken < n:
            reader = self._reader
            if reader is not None:
                taken += reader.take_batches(out, n - taken, exactly, _usual_batch, self.decoder)
                self._at, self.position = reader.at, reader.position
                if taken >= n:
                    break
                self._reader = None
            try:
                if FetchResult.has_reader and self._rest is None and (reader is None or self._at >= self._fetched.size):
                    if not self._has_data(fetch=True):
                        break
                    self._begin_reader()
                    continue
                batch = self._next_batch()
            except StreamlogError:
                self._forget()
                if taken:
                    return taken
                raise
            if batch is None:
                break
            made: RecordBatch[Any, Any] = RecordBatch(batch, self.decoder, self.position)
            if exactly and len(made) > n - taken:
                made = RecordBatch(batch, self.decoder, self.position, made.offsets[n - taken])
                self._rest = batch
            self.position = made.next_offset
            taken += len(made)
            if len(made):
                out.append(made)
        self._whole = True
        return taken

    def batches_until(self, end: int) -> Iterator[RecordBatch[Any, Any]]:
        """Whole batches from `position` up to `end`, the first and the last cut to those."""
        while self.position < end:
            columns = self._next_columns()
            if columns is not None:
                self.position = columns.next_offset
                if columns.base_offset >= end:
                    return
                usual: RecordBatch[Any, Any] = RecordBatch._of(columns, self.decoder)
                if columns.next_offset > end:
                    usual._cut(columns.base_offset, end)
                yield usual
                continue
            batch = self._next_batch()
            if batch is None or batch.header.base_offset >= end:
                return
            made: RecordBatch[Any, Any] = RecordBatch(batch, self.decoder, self.position, end)
            self.position = batch.next_offset
            if len(made):
                yield made

    def _next_columns(self) -> Columns | None:
        """Those of the next batch from the core in C; None if Python has to look at it, or nothing is left."""
        if not FetchResult.has_reader or self._rest is not None or not self._has_data(fetch=True):
            return None
        reader = self._reader or self._begin_reader()
        columns = reader.next_batch()
        self._at = reader.at
        return columns

    def _next_batch(self, fetch: bool = True) -> FetchedBatch | None:
        """The next batch with a record at or after `position`; None at the end of what may be read, or without a leader.

        Without `fetch`, only from what was fetched before.
        """
        self._reader = None  # it does not follow
        while True:
            batch = self._rest
            if batch is not None:
                self._rest = None
            elif not self._has_data(fetch):
                return None
            else:
                try:
                    batch = self._fetched.batch_at(self._at)
                except CorruptRecordError as error:
                    if not self._pass_damage(error):
                        raise
                    continue
                self._at += batch.header.batch_len
                if self._epoch is not None and batch.header.leader_epoch != self._last_epoch:
                    self._last_epoch = batch.header.leader_epoch
                    self._epochs = [*self._epochs[1 - _EPOCHS :], (batch.header.base_offset, self._last_epoch)]
            if batch.next_offset <= self.position:
                continue
            header = batch.header
            if not header.record_count or (header.attributes & NOT_PLAIN and self._fetched.hides(header)):
                self.position = batch.next_offset
                continue
            return batch

    def _has_data(self, fetch: bool) -> bool:
        """Whether something is left of what was fetched, or, with `fetch`, is brought now."""
        while self._at >= self._fetched.size:
            if not fetch:
                return False
            try:
                if self._epoch is None:
                    found = self._service.fetch(self.at, self.position, self._bytes, self.isolation, self._fetched)
                else:
                    found = self._fetch_in_epoch(self._epoch, self._fetched)
                fetched = found if type(found) is FetchResult else result_of(found)
            except CorruptRecordError as error:
                if not self._pass_damage(error):
                    raise
                continue
            except NotLeaderError:
                return False  # not the end: `end` says that there may be more, so the next call asks again
            if not fetched.size:
                self.end = self.position
                if self._fetched.size > FIRST_BYTES:
                    self.release()
                return False
            self._fetched, self._at, self._reader = fetched, 0, None
            self.end = fetched.end_offset
            self._bytes = min(self._bytes * GROWTH, self._max_bytes)
        return True

    def _pass_damage(self, error: CorruptRecordError) -> bool:
        """Go on with what another replica has, or, if the program wants that, after the damage; whether it does."""
        if self._fetch_elsewhere(error):
            return True
        if self._skip:
            self._skip_damage(error)
        return self._skip

    def _fetch_elsewhere(self, damage: CorruptRecordError) -> bool:
        """Go on with what another replica has in place of the damaged batch; whether one has it.

        Raises OffsetOutOfRangeError if its records were deleted since it was read.
        """
        found = self._service.fetch_elsewhere(self.at, self.position, self._bytes, self.isolation, damage)
        error = found.error()
        if isinstance(error, OffsetOutOfRangeError):
            raise error
        if error is not None:
            return False
        self._fetched, self._at, self._reader = result_of(found), 0, None
        self.end = self._fetched.end_offset
        return True

    def _fetch_in_epoch(self, epoch: int, after: FetchResult) -> Completion[FetchResult]:
        """Fetch, but after an election look first whether the new leader has what was read at the one before (KIP-320).

        Raises LogTruncationError if it has not.
        """
        looks = 0
        while True:
            found = self._service.fetch(
                self.at, self.position, self._bytes, self.isolation, after, current_leader_epoch=epoch
            )
            if type(found) is FetchResult:
                return found
            if not found.done():  # it is made again until there is a leader, and that leads in a later epoch
                wait_for(found, None)
            error = found.error()
            if isinstance(error, UnknownLeaderEpochError):
                looks += 1
            elif not isinstance(error, FencedLeaderEpochError):  # that ends: each time the epoch is a later one
                return found
            if looks == _LOOKS:
                return found
            epoch, after = error.current_epoch, NOTHING  # the place in the files of another replica is none here
            try:
                self.require_last_record(epoch)
            except (FencedLeaderEpochError, UnknownLeaderEpochError):  # and another election
                continue
            self._epoch = epoch

    def require_last_record(self, epoch: int | None = None) -> None:
        """Raise LogTruncationError if the log of the leader (in this epoch) has another record before `position`, or none."""
        last = self._last_epoch
        if last is None:
            return
        end = result_of(self._service.epoch_end_offset(self.name, last, epoch))
        if end is not None and end.epoch == last and end.end_offset >= self.position:
            return
        offset = None if end is None else min(end.end_offset, self.position)
        raise LogTruncationError(
            f"{self.name.topic}-{self.name.partition} was truncated: a broker leads it that was not in sync, and records before "
            f"offset {self.position}, which were read, are lost. The logs part at {'an unknown offset' if offset is None else offset}; "
            f"seek there, or let auto_offset_reset decide.",
            topic=self.name.topic,
            partition=self.name.partition,
            divergent_offset=offset,
        )

    def _skip_damage(self, error: CorruptRecordError) -> None:
        onward = result_of(self._service.after_damage(self.name, self.position))
        logger.error(
            "%s-%d: skipped offsets %d to %d, which are damaged: %s, byte %d",
            *self.name,
            self.position,
            onward - 1,
            error.path,
            error.position,
        )
        self.position = max(onward, self.position + 1)
        self._last_epoch = None
        self._epochs = []
        self._forget()
