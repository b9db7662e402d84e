"""Which leader wrote which part of a log: the start offset of each leader epoch.

A follower whose log diverged from its leader's asks the leader where the follower's last epoch ended, and truncates its log
to that offset (KIP-101). A consumer asks the same to detect that records it has read were truncated (KIP-320). Both
answers are wrong if the table does not agree with the log. Kafka lost data that way: it stores the epochs in a file of
their own, which was not truncated together with the log (KAFKA-10706). Here they are read from the headers.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import NamedTuple

from ..errors import CorruptRecordError, NotLeaderError
from ..records.batch import BatchHeader
from .scan import first_header
from .tail import LogSnapshot


class EpochStart(NamedTuple):
    """An epoch, and the offset at which it begins."""

    epoch: int
    start_offset: int


class EpochEnd(NamedTuple):
    """The largest epoch in a log that is not above the requested one, and the offset at which it ended."""

    epoch: int
    end_offset: int


class LeaderEpochs:
    """The epochs of one log; both columns increase. REQUIRES: the partition's lock, for every call.

    >>> epochs = LeaderEpochs([EpochStart(0, 0), EpochStart(3, 40)])
    >>> epochs.end_offset_for(0, log_end_offset=90)
    EpochEnd(epoch=0, end_offset=40)
    """

    def __init__(self, entries: list[EpochStart] | None = None) -> None:
        self.entries: list[EpochStart] = entries or []

    @property
    def latest(self) -> int | None:
        return self.entries[-1].epoch if self.entries else None

    def assign(self, epoch: int, start_offset: int) -> None:
        """Batches from `start_offset`, the end of the log, on belong to `epoch`.

        Entries from there on are removed: nothing was written in those epochs, or the log would end later. Raises
        NotLeaderError if the log has a later epoch.
        """
        self.truncate_from_end(start_offset)
        latest = self.latest
        if latest is not None and epoch < latest:
            raise older_epoch(epoch, latest)
        if latest is None or epoch > latest:
            self.entries = [*self.entries, EpochStart(epoch, start_offset)]

    def truncate_from_end(self, end_offset: int) -> None:
        """The log ends at `end_offset` now: remove the epochs that begin there or later."""
        self.entries = [entry for entry in self.entries if entry.start_offset < end_offset]

    def truncate_from_start(self, start_offset: int) -> None:
        """The log starts at `start_offset` now: remove the epochs that ended before; the first one begins there."""
        keep = max(0, bisect_right(self.entries, start_offset, key=lambda entry: entry.start_offset) - 1)
        entries = self.entries[keep:]
        if entries and entries[0].start_offset < start_offset:
            entries[0] = EpochStart(entries[0].epoch, start_offset)
        self.entries = entries

    def epoch_of(self, offset: int) -> int | None:
        """The epoch that `offset`, which is before the end of the log, belongs to."""
        at = bisect_right(self.entries, offset, key=lambda entry: entry.start_offset)
        return self.entries[max(0, at - 1)].epoch if self.entries else None

    def end_offset_for(self, epoch: int, log_end_offset: int) -> EpochEnd | None:
        """Where `epoch`, or else the largest one below it, ended: at the start of the next, the last one at the log's end.

        An epoch older than all in the log ended where the first of them starts. None for one that is newer than all.
        """
        if epoch == self.latest:
            return EpochEnd(epoch, log_end_offset)
        at = bisect_right(self.entries, epoch, key=lambda entry: entry.epoch)
        if at == len(self.entries) or epoch < 0:
            return None
        return EpochEnd(self.entries[at - 1].epoch if at else epoch, self.entries[at].start_offset)


def older_epoch(epoch: int, latest: int) -> NotLeaderError:
    return NotLeaderError(
        f"An append came with leader epoch {epoch}, but the log has batches of epoch {latest}: another broker has led "
        f"the partition since. Nothing was written; ask the metadata who leads it now.",
        leader_epoch=epoch,
        current_epoch=latest,
    )


# -- the epochs of one log ---------------------------------------------------------------------------


class LeaderEpochCache:
    """The leader epochs of one log, read from its headers when first needed and updated by each append.

    REQUIRES: the partition's lock, for every call; `tail` is the current tail of the log. A method that has to read the log
    raises what reading raises, and has changed nothing then. Damage is stepped over.
    """

    def __init__(self) -> None:
        self.current: int | None = None
        """The epoch of the last append; None if it is not known, so that the next append calls `begin`."""
        self.last: int | None = None
        """The epoch of the last batch, after an append of a leader's batches; None if it has to be looked up."""
        self.assigned: int | None = None
        """The epoch that a leader has begun at the end of the log. Nothing may be written in it yet."""
        self._epochs: LeaderEpochs | None = None

    def begin(self, epoch: int, tail: LogSnapshot) -> None:
        """The next append has `epoch`, which is not `current`. Raises NotLeaderError if the log has a later epoch."""
        if self._epochs is not None:
            self._epochs.assign(epoch, tail.end_offset)
        else:
            latest = _last_epoch(tail)
            if latest is not None and epoch < latest:
                raise older_epoch(epoch, latest)
        self.current, self.last = epoch, None

    def begin_batches(self, headers: Sequence[BatchHeader], tail: LogSnapshot) -> None:
        """The next append is of these batches of a leader's. Their epochs count once the tail covers them.

        REQUIRES: the caller calls `appended` after the append. After a gap an epoch begins where the gap does; see `_read`.
        """
        if self.last == headers[0].leader_epoch == headers[-1].leader_epoch:
            return
        self.written(tail)
        assert self._epochs is not None
        # If the append fails, the next one removes these epochs. Another broker leads now, so nothing was begun here.
        self.current = self.last = self.assigned = None
        offset = tail.end_offset
        self._epochs.truncate_from_end(offset)
        for header in headers:
            if header.leader_epoch != self._epochs.latest:
                self._epochs.assign(header.leader_epoch, offset)
            offset = header.next_offset

    def appended(self, headers: Sequence[BatchHeader]) -> None:
        """The tail covers the batches of `begin_batches`."""
        self.current = self.last = headers[-1].leader_epoch

    def latest(self, tail: LogSnapshot) -> int | None:
        """The epoch of the last batch; None if there is none."""
        return self.written(tail).latest if self.last is None else self.last

    def epochs(self, tail: LogSnapshot) -> LeaderEpochs:
        """The leader epochs of the published log, from its start to its end, and the one that a leader has begun there."""
        view = self.written(tail)
        if self.assigned is not None and (view.latest is None or view.latest < self.assigned):
            view.assign(self.assigned, tail.end_offset)
        return view

    def written(self, tail: LogSnapshot) -> LeaderEpochs:
        """The leader epochs of the batches of the published log.

        Cost, the first time: one header of each segment, and a walk over the segments in which the epoch changes.
        """
        if self._epochs is None:
            self._epochs = LeaderEpochs(_read(tail))
            self.current = None  # an epoch that was begun and in which nothing was written is not in the log
        view = LeaderEpochs(self._epochs.entries)
        view.truncate_from_end(tail.end_offset)
        view.truncate_from_start(tail.start_offset)
        return view

    def require_whole(self, tail: LogSnapshot, epoch: int, until: int) -> None:
        """Raise CorruptRecordError if a batch is damaged from the begin of `epoch` on, before offset `until`: it may hide an epoch.

        Cost: every header in between.
        """
        starts = [entry.start_offset for entry in self.epochs(tail).entries if entry.epoch == epoch]
        since = starts[0] if starts else tail.start_offset
        bases = [*tail.bases[1:], tail.end_offset]
        for (segment, end), next_base in zip(tail.places(), bases, strict=True):
            offset, damage = segment.base_offset, None
            for _, found in segment.scan(0, end) if next_base > since else ():
                if offset >= until:
                    return
                if isinstance(found, CorruptRecordError):
                    damage = found
                    continue
                if damage is not None and found.base_offset > since:
                    raise damage
                offset, damage = found.next_offset, None
            if damage is not None:
                raise damage

    def repaired(self) -> None:
        """Batches are there that were damaged before, and stepped over: as `truncated`, but a leader goes on."""
        self.current = self.last = self._epochs = None

    def truncated(self) -> None:
        """The log was truncated: read the epochs again when they are needed next."""
        self.current = self.last = self._epochs = self.assigned = None


def _read(tail: LogSnapshot) -> list[EpochStart]:
    """Where each epoch begins.

    After a gap that compaction left, an epoch begins at the start of the gap: a follower that truncates too much fetches
    it again, one that truncates too little keeps records that its leader never had.
    """
    found: list[EpochStart] = []
    places = [
        (segment, end, first) for segment, end in tail.places() if (first := first_header(segment, end)) is not None
    ]
    last = _last_epoch(tail)
    for at, (segment, end, first) in enumerate(places):
        next_epoch = places[at + 1][2].leader_epoch if at + 1 < len(places) else last
        next_offset = segment.base_offset
        headers = [(0, first)] if first.leader_epoch == next_epoch else segment.scan(0, end)
        for _, header in headers:
            if not isinstance(header, BatchHeader):  # damage
                continue
            if not found or header.leader_epoch > found[-1].epoch:
                found.append(EpochStart(header.leader_epoch, next_offset))
            if header.leader_epoch == next_epoch:
                break
            next_offset = header.next_offset
    return found


def _last_epoch(tail: LogSnapshot) -> int | None:
    """The epoch of the last batch of the log; None if there is none. Cost: one index interval."""
    for segment, end in reversed(tail.places()):
        positions = segment.index.positions if end else ()
        for position in (positions[-1] if positions else 0, 0):
            epochs = [found.leader_epoch for _, found in segment.scan(position, end) if isinstance(found, BatchHeader)]
            if epochs:
                return max(epochs)
    return None
