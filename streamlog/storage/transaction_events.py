"""The batches of a segment that say which transactions begin and end in it.

They are stored behind the index of a segment that does not grow any more, so that the transactions of a log are read without
a walk over the headers. Derived: noting these batches gives the same open and aborted transactions as noting all of the
segment's.
"""

from __future__ import annotations

from collections.abc import Iterable
from struct import Struct
from typing import NamedTuple, Protocol

from ..records.batch import ABORT, COMMIT, CONTROL, CONTROL_MASK, CONTROL_SHIFT, NOT_PLAIN

# Transactions that were committed are left out, so only programs that abort, or take a new producer id, many times come to
# this: their segments are walked. 1.2 MB.
MAX_EVENTS = 1 << 16
_ENTRY = Struct("<qqH")
_STORED_BITS = NOT_PLAIN | CONTROL_MASK
_TOO_MANY = b"\0"  # no list of entries is as short


class ProducedBatch(Protocol):
    """What transactions need of a batch: of its header, or of what was made of that."""

    @property
    def producer_id(self) -> int: ...
    @property
    def base_offset(self) -> int: ...
    @property
    def attributes(self) -> int: ...


class TransactionEvent(NamedTuple):
    """The first batch of a transaction, or a marker. Of the attributes it has those that say which."""

    base_offset: int
    producer_id: int
    attributes: int


def ends_transaction(attributes: int) -> bool:
    """Whether these are the attributes of a marker."""
    return attributes & CONTROL != 0 and attributes & CONTROL_MASK in (ABORT << CONTROL_SHIFT, COMMIT << CONTROL_SHIFT)


def aborts(attributes: int) -> bool:
    """Whether this marker aborts. REQUIRES: `ends_transaction`."""
    return attributes & CONTROL_MASK == ABORT << CONTROL_SHIFT


class TransactionEvents:
    """The events of the batches that were noted, in the order of offsets.

    Of each producer: the first batch of each transaction and its marker, but for the transactions that were committed: of
    these only the first one counts, which may have begun in an earlier segment.
    """

    __slots__ = ("_begun", "_ended", "_events")

    def __init__(self) -> None:
        self._events: dict[int, TransactionEvent] | None = {}  # by offset; None if there were too many
        self._begun: dict[int, int] = {}  # producer id → where its open transaction begins
        self._ended: set[int] = set()  # the producers that have a marker here

    @classmethod
    def of(cls, events: Iterable[TransactionEvent] | None) -> TransactionEvents:
        """From what was stored."""
        made = cls()
        if events is None:
            made._events = None
        else:
            for each in events:
                made.note(each)
        return made

    def note(self, batch: ProducedBatch) -> None:
        """Note a batch that has a producer id. REQUIRES: in the order of offsets; the last ones once more is harmless."""
        attributes = batch.attributes
        if not attributes & NOT_PLAIN or self._events is None:
            return
        producer_id, offset = batch.producer_id, batch.base_offset
        if not attributes & CONTROL:
            if producer_id not in self._begun:
                self._add(offset, producer_id, attributes)
                self._begun[producer_id] = offset
            return
        if not ends_transaction(attributes) or (first := self._begun.get(producer_id, -1)) > offset:
            return
        if producer_id not in self._ended or (first >= 0 and aborts(attributes)):
            self._add(offset, producer_id, attributes)
        elif first >= 0:
            self._events.pop(first, None)
        self._ended.add(producer_id)
        self._begun.pop(producer_id, None)

    def _add(self, offset: int, producer_id: int, attributes: int) -> None:
        assert self._events is not None
        self._events[offset] = TransactionEvent(offset, producer_id, attributes & _STORED_BITS)
        if len(self._events) > MAX_EVENTS:
            self._events = None

    def events(self) -> list[TransactionEvent] | None:
        """All of them, in the order of offsets; None if they were too many."""
        return None if self._events is None else sorted(self._events.values())

    def to_bytes(self) -> bytes:
        events = self.events()
        return _TOO_MANY if events is None else b"".join([_ENTRY.pack(*each) for each in events])


def events_from(data: bytes) -> list[TransactionEvent] | None:
    """What `TransactionEvents.to_bytes` made; None if they were too many, and for bytes of another length."""
    if len(data) % _ENTRY.size:
        return None
    return [TransactionEvent._make(fields) for fields in _ENTRY.iter_unpack(data)]
