"""Which leader wrote which part of a log: the start offset of each leader epoch.

A follower whose log went another way than its leader's asks where its last epoch ended, and cuts its log back
to there (KIP-101); a consumer asks the same to notice that what it read was cut off (KIP-320). Both answers are
wrong if the table says something that the log does not, which is how Kafka lost data: its epochs are a file of
their own that was not cut together with the log (KAFKA-10706). Here they are read off the headers.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import NamedTuple

from ..errors import NotLeaderError


class EpochStart(NamedTuple):
    """An epoch, and the offset from which on the log is its own."""

    epoch: int
    start_offset: int


class EpochEnd(NamedTuple):
    """The largest epoch in a log that is not above the one asked for, and the offset at which it ended."""

    epoch: int
    end_offset: int


class LeaderEpochs:
    """The epochs of one log, both columns growing. REQUIRES: the partition's lock, for every call.

    >>> epochs = LeaderEpochs([EpochStart(0, 0), EpochStart(3, 40)])
    >>> epochs.end_offset_for(0, log_end_offset=90)
    EpochEnd(epoch=0, end_offset=40)
    """

    def __init__(self, entries: list[EpochStart] | None = None) -> None:
        self.entries: list[EpochStart] = entries or []

    @property
    def latest(self) -> int | None:
        return self.entries[-1].epoch if self.entries else None

    def begin(self, epoch: int, start_offset: int) -> None:
        """Batches from `start_offset`, the end of the log, on are of `epoch`.

        What was begun there before is forgotten: nothing was written in it, or it would not be the end. Raises
        NotLeaderError if the log has seen a later epoch.
        """
        self.cut(start_offset)
        latest = self.latest
        if latest is not None and epoch < latest:
            raise older_epoch(epoch, latest)
        if latest is None or epoch > latest:
            self.entries = [*self.entries, EpochStart(epoch, start_offset)]

    def cut(self, end_offset: int) -> None:
        """The log ends at `end_offset` now: forget what would begin there or later."""
        self.entries = [entry for entry in self.entries if entry.start_offset < end_offset]

    def raise_start(self, start_offset: int) -> None:
        """The log starts at `start_offset` now: forget what ended before, and have the first begin there."""
        keep = max(0, bisect_right(self.entries, start_offset, key=lambda entry: entry.start_offset) - 1)
        entries = self.entries[keep:]
        if entries and entries[0].start_offset < start_offset:
            entries[0] = EpochStart(entries[0].epoch, start_offset)
        self.entries = entries

    def end_offset_for(self, epoch: int, log_end_offset: int) -> EpochEnd | None:
        """Where `epoch`, or else the largest one below it, ended: at the start of the next, the last one at the end.

        An epoch older than all that the log still has ended where the first of them starts. None for one that is
        newer than all: this log has nothing to say about it.
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
