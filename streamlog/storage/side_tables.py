"""What a log knows of its producers and leader epochs: read off its headers when first asked for, kept up at append.

Neither is in a file. Opening costs nothing, there is nothing to lose, nothing to sync, and nothing that could tell
of batches which the log does not have. Segments that cannot matter are not walked: for producers, those that were
written before the expiration; for epochs, those that begin and end in the same one.

What lies beyond the tail does not count. A batch is staged before it is written, and noted once the tail has
passed it: by the append itself or, if that was interrupted in between, by whoever looks next.
"""

from __future__ import annotations

from collections.abc import Iterator

from ..records.batch import BatchHeader
from .leader_epochs import EpochStart, LeaderEpochs, older_epoch
from .producer_state import Producers
from .scan import walk
from .segment import Segment
from .tail import AppendRequest, LogSnapshot


class ProducerStateManager:
    """Those of one log. REQUIRES: the partition's lock, for every call; `tail` is the log's own, now.

    What has to read the log raises what reading raises, and has then changed nothing. Damage is stepped over.
    """

    def __init__(self) -> None:
        self.leader_epoch: int | None = None  # of the append before; None makes the next one ask
        self._producers: Producers | None = None
        self._epochs: LeaderEpochs | None = None
        self._staged: tuple[AppendRequest, int] | None = None

    # -- producers -----------------------------------------------------------------------------------

    def producers(self, tail: LogSnapshot, now_ms: int) -> Producers:
        """The producers of the log as it is published.

        Cost, the first time: a walk over the headers of what was appended within the expiration.
        """
        if self._producers is None:
            self._producers = _read_producers(tail, now_ms)
        self.note(tail)
        return self._producers

    def admit(self, write: AppendRequest, tail: LogSnapshot, now_ms: int) -> bool:
        """Whether a write with batches of a producer is to be appended. If not, it is in the log already, and is told
        where and when as if it had just been put there. Raises what `Producers.check` raises.
        """
        repeated = self.producers(tail, now_ms).check(write.batches, now_ms)
        if repeated is not None:
            write.append_ms = repeated.append_ms
            write.base_offset = repeated.base_offset
            return False
        write.base_offset = -1
        self._staged = (write, tail.end_offset)
        return True

    def note(self, tail: LogSnapshot) -> None:
        """Take note of what was staged, if the tail has passed it; forget it if it was undone."""
        if self._staged is None:
            return
        write, offset = self._staged
        if write.base_offset == offset:
            if tail.end_offset <= offset:
                return  # still on its way
            assert self._producers is not None
            for batch in write.batches:
                self._producers.note(batch, offset, write.append_ms)
                offset += batch.last_offset_delta + 1
        self._staged = None

    # -- leader epochs -------------------------------------------------------------------------------

    def begin_epoch(self, epoch: int, tail: LogSnapshot) -> None:
        """The next append is of `epoch`, other than the one before. Raises NotLeaderError if the log has a later one."""
        if self._epochs is not None:
            self._epochs.begin(epoch, tail.end_offset)
        else:
            latest = _last_epoch(tail)
            if latest is not None and epoch < latest:
                raise older_epoch(epoch, latest)
        self.leader_epoch = epoch

    def epochs(self, tail: LogSnapshot) -> LeaderEpochs:
        """The leader epochs of the log as it is published, from its start to its end.

        Cost, the first time: one header of each segment, and a walk over those in which the epoch changes.
        """
        if self._epochs is None:
            self._epochs = LeaderEpochs(_read_epochs(tail))
            self.leader_epoch = None  # one that was begun, with nothing written in it, is not in the log
        view = LeaderEpochs(self._epochs.entries)
        view.cut(tail.end_offset)
        view.raise_start(tail.start_offset)
        return view

    # -- forgetting ----------------------------------------------------------------------------------

    def truncated(self) -> None:
        """The tail went back: read again, when needed, what is left. What was cut off may have been anybody's last."""
        self.leader_epoch = self._producers = self._epochs = self._staged = None


def _headers(segment: Segment, end: int, position: int = 0) -> Iterator[BatchHeader | None]:
    """The headers from `position` on; None for one that is damaged."""
    for _, found in segment.scan(position, end):
        yield found if isinstance(found, BatchHeader) else None


def _first(segment: Segment, end: int) -> BatchHeader | None:
    """The first header that verifies."""
    return next((header for header in _headers(segment, end) if header is not None), None)


def _read_producers(tail: LogSnapshot, now_ms: int) -> Producers:
    producers = Producers()

    def note(header: BatchHeader | None) -> None:
        if header is None:
            producers.mark_incomplete()
        else:
            producers.note(header, header.base_offset, header.append_timestamp)

    for segment, end in _since(tail, now_ms - producers.expiration_ms):
        next_offset = tail.end_offset if segment is tail.segments[-1] else segment.next_offset
        if walk(segment, end, on_producer=note).stats.next_offset != next_offset:
            producers.mark_incomplete()
    producers.expire(now_ms)
    return producers


def _since(tail: LogSnapshot, horizon_ms: int) -> list[tuple[Segment, int]]:
    """The segments, oldest first, that may hold what was appended at `horizon_ms` or later.

    A segment was written between its own first batch and the next one's. Both have to be before the horizon: if the
    clock was wrong for a moment, it shows in one of them only.
    """
    places = tail.places()
    following: int | None = None
    for at in range(len(places) - 1, -1, -1):
        first = _first(*places[at])
        began = following if first is None else first.append_timestamp
        if began is not None and following is not None and max(began, following) < horizon_ms:
            return places[at + 1 :]
        following = began
    return places


def _read_epochs(tail: LogSnapshot) -> list[EpochStart]:
    """Where each epoch begins. In a gap that compaction left, at its beginning: a follower that is cut back too far
    fetches it again, one that is cut back too little keeps records that its leader never had.
    """
    found: list[EpochStart] = []
    firsts = [(segment, end, first) for segment, end in tail.places() if (first := _first(segment, end)) is not None]
    last = _last_epoch(tail)
    for at, (segment, end, first) in enumerate(firsts):
        onward = firsts[at + 1][2].leader_epoch if at + 1 < len(firsts) else last
        next_offset = segment.base_offset
        for header in (first,) if first.leader_epoch == onward else _headers(segment, end):
            if header is None:
                continue
            if not found or header.leader_epoch > found[-1].epoch:
                found.append(EpochStart(header.leader_epoch, next_offset))
            if header.leader_epoch == onward:
                break
            next_offset = header.next_offset
    return found


def _last_epoch(tail: LogSnapshot) -> int | None:
    """The epoch of the last batch of all; None if there is none. Cost: one index interval."""
    for segment, end in reversed(tail.places()):
        positions = segment.index.positions if end else ()
        for position in (positions[-1] if positions else 0, 0):
            epochs = [header.leader_epoch for header in _headers(segment, end, position) if header is not None]
            if epochs:
                return max(epochs)
    return None
