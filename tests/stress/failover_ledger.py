"""What is known of the records of each partition while brokers come and go: below the high watermark nothing ever changes.

Whoever learns which record has an offset says so here: the sender to whom it was acknowledged, every reader, the final look
at each replica. All have to agree, and the looks along the way find everything, in the order of its senders.
"""

from __future__ import annotations

import threading
from array import array
from collections import Counter
from collections.abc import Iterable

import xxhash


class Violation(AssertionError):
    """A promise that was not kept."""


def demand(condition: object, message: str) -> None:
    if not condition:
        raise Violation(message)


def fingerprint(head: str) -> int:
    """Eight bytes that stand for a head; never 0."""
    return xxhash.xxh3_64_intdigest(head.encode()) | 1


class Place:
    """One partition. Thread-safe. It takes eight bytes for each offset."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.end = 0
        """The end of what was acknowledged."""
        self.deleted_to = 0
        """What the program asked to be deleted, at most."""
        self.checked = 0
        """The end of what a look has found in order."""
        self._known = array("Q")
        self._lock = threading.Lock()
        self._next: Counter[str] = Counter()
        self._may_double: set[str] = set()
        self._doubles: list[tuple[str, int]] = []

    def know(self, offset: int, head: str) -> None:
        """The record at `offset` is this one. Raises Violation if it was another."""
        with self._lock:
            if offset >= len(self._known):
                self._known.extend([0] * (offset + 1 - len(self._known)))
            mark = fingerprint(head)
            known = self._known[offset]
            self._known[offset] = known or mark
        demand(known in (0, mark), f"{self.name}: {head} is at offset {offset}, where another record was")

    def acknowledged(self, offset: int, head: str) -> None:
        self.know(offset, head)
        with self._lock:
            self.end = max(self.end, offset + 1)

    def may_double(self, heads: Iterable[str]) -> None:
        """Two elections took place while these were sent.

        The leader of the second may have what that of the first had not, and to which it was sent again: without idempotence
        such a record is in the log twice.
        """
        with self._lock:
            self._may_double.update(heads)

    def look(self, offset: int, head: str, *, complete: bool) -> None:
        """The next record, in the order of offsets. `complete`: none that a sender sent before may be missing."""
        start = self.checked
        demand(
            offset == start or start < offset <= self.deleted_to, f"{self.name}: offset {offset} where {start} was due"
        )
        self.know(offset, head)
        self.checked = offset + 1
        name, partition, number = head.split(".")
        demand(f"-{partition}" == self.name[-2:], f"{self.name}: {head} at {offset} belongs elsewhere")
        due = self._next[name]
        if int(number) < due:
            self._doubles.append((head, offset))
            return
        demand(int(number) == due or not complete, f"{self.name}: {head} at {offset}, where number {due} was due")
        self._next[name] = int(number) + 1

    def check_doubles(self) -> int:
        """How many records were found twice, or late. Raises Violation for one that may not be. REQUIRES: all is acknowledged."""
        for head, offset in self._doubles:
            demand(head in self._may_double, f"{self.name}: {head} is there twice, the second time at {offset}")
        return len(self._doubles)

    def known(self) -> array[int]:
        with self._lock:
            return array("Q", self._known)


class Ledger:
    """Every partition of a log, by topic and number."""

    def __init__(self) -> None:
        self.places: dict[tuple[str, int], Place] = {}

    def __getitem__(self, at: tuple[str, int]) -> Place:
        try:
            return self.places[at]
        except KeyError:
            return self.places.setdefault(at, Place(f"{at[0]}-{at[1]}"))
