"""What exactly once means, checked: which transactions producers made, and what readers saw of them.

A program tells what it does (`begin`, `sends`, `commits`, …) and what it sees (`see_committed`, `see_all`, `see_position`). Every
record is known by a head that no other one has. Nothing here knows the library. What is demanded:

- Readers of committed records see nothing of a transaction that is open or aborted, and nothing behind one that is open.
- Of a transaction they see all in a partition, or nothing; once it is settled (no marker is missing), all in every partition, and
  the positions of the groups that it committed with it. What was answered as committed is all there at once.
- Nothing is there that was not sent, or twice, or in another order than its producer sent it. An offset has one record for ever.
- A producer that was fenced has written nothing behind its fence, and what it had not asked to commit is aborted.
- Of a compacted partition the last committed record of each key is there, and none that was aborted; what retention has deleted, or
  compaction replaced, may be missing.
- A group's position is one that a committed transaction gave it, and does not go back.

`check_effects` compares what a pipe has read with what it has written: each record before the group's position has its effect once, no other one has any.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple

Place = tuple[str, int]
"""A partition: topic and number."""


class Violation(AssertionError):
    """A promise that was not kept."""


def demand(condition: object, message: str) -> None:
    if not condition:
        raise Violation(message)


class Outcome(Enum):
    OPEN = "open"
    DECIDING = "asked to commit"
    """No answer is known: it may be committed, or aborted."""
    COMMITTED = "committed"
    ABORTED = "aborted"


@dataclass(eq=False)
class Transaction:
    """One transaction of one producer. `instance` grows with each producer that is made with the transactional id."""

    transactional_id: str
    instance: int
    number: int
    outcome: Outcome = Outcome.OPEN
    may_be_over: bool = False
    """It may have been aborted by a timeout, an operator, or a producer that is being made."""
    is_late: bool = False
    """Its producer had been fenced when it asked to commit."""
    is_answered: bool = False
    """A commit was answered, so all of it is there at once; otherwise only when it is settled."""
    sent: dict[str, Place] = field(default_factory=dict)
    first: dict[Place, int] = field(default_factory=dict)
    """The offset of its first acknowledged record of each partition."""
    positions: dict[tuple[str, Place], int] = field(default_factory=dict)
    """What it commits, by group and partition."""

    @property
    def is_empty(self) -> bool:
        return not (self.sent or self.positions)

    def __str__(self) -> str:
        return f"transaction {self.number} of {self.transactional_id!r} ({self.instance}), {self.outcome.value}"


class Sent(NamedTuple):
    transaction: Transaction
    place: Place
    order: tuple[int, int]
    """Grows with each record of a transactional id: the instance, and the number of the record."""


class TransactionHistory:
    """See the module. One thread at a time."""

    def __init__(self) -> None:
        self.sent: dict[str, Sent] = {}
        self.transactions: list[Transaction] = []
        self.counts: Counter[str] = Counter()
        self._live: list[Transaction] = []  # open, or asked to commit
        self._incomplete: list[Transaction] = []  # committed, and not seen whole at a settled look
        self._stored: dict[Place, dict[int, str]] = {}
        self._offsets: dict[str, int] = {}
        self._committed: dict[Place, dict[int, str]] = {}
        self._starts: dict[Place, int] = {}  # the log starts that were seen
        self._keys: dict[str, str] = {}  # of the records of compacted partitions, by head
        self._tables: dict[Place, dict[str, int]] = {}  # the offset of the last committed record of each key
        self._positions: dict[tuple[str, Place], int] = {}
        self._fences: dict[str, list[tuple[int, Mapping[Place, int]]]] = {}
        self._newest: Counter[str] = Counter()  # the instance of each transactional id that was made last
        self._numbers: Counter[str] = Counter()

    # -- what producers do ---------------------------------------------------------------------------

    def begin(self, transactional_id: str, instance: int) -> Transaction:
        self._numbers["transactions"] += 1
        made = Transaction(transactional_id, instance, self._numbers["transactions"])
        self.transactions.append(made)
        self._live.append(made)
        return made

    def sends(self, transaction: Transaction, place: Place, head: str, key: str | None = None) -> None:
        """It is about to send a record. `key`: of one for a compacted partition."""
        if key is not None:
            self._keys[head] = key
        demand(head not in self.sent, f"{head} is sent twice")
        self._numbers["sent"] += 1
        self.sent[head] = Sent(transaction, place, (transaction.instance, self._numbers["sent"]))
        transaction.sent[head] = place

    def refused(self, head: str) -> None:
        """The send raised before anything of the record was kept, and the transaction may be committed without it."""
        del self.sent[head].transaction.sent[head]

    def acknowledged(self, head: str, offset: int) -> None:
        transaction, place, _ = self.sent[head]
        self._store(place, offset, head)
        transaction.first[place] = min(offset, transaction.first.get(place, offset))

    def positions(self, transaction: Transaction, group: str, positions: Mapping[Place, int]) -> None:
        """It is about to commit these offsets of a group."""
        for place, position in positions.items():
            transaction.positions[group, place] = position

    def commits(self, transaction: Transaction) -> None:
        """It is about to be committed."""
        transaction.is_late = transaction.instance < self._newest[transaction.transactional_id]
        if transaction.outcome is Outcome.OPEN:
            transaction.outcome = Outcome.DECIDING

    def committed(self, transaction: Transaction) -> None:
        """The commit was answered."""
        if transaction.is_empty:  # the coordinator was never asked
            return
        demand(transaction.outcome is not Outcome.ABORTED, f"a commit was answered: {transaction}")
        demand(not transaction.is_late, f"a commit of a fenced producer was answered: {transaction}")
        transaction.is_answered = True
        self._is_committed(transaction)

    def _is_committed(self, transaction: Transaction) -> None:
        if transaction.outcome is not Outcome.COMMITTED:
            self.counts["committed"] += 1
            self._incomplete.append(transaction)
        transaction.outcome = Outcome.COMMITTED

    def aborted(self, transaction: Transaction) -> None:
        """It will never be committed: an abort was answered, or nothing ever asked to commit it."""
        demand(
            transaction.outcome is not Outcome.COMMITTED or transaction.is_empty,
            f"an abort was answered: {transaction}",
        )
        self.counts["aborted"] += transaction.outcome is not Outcome.ABORTED
        transaction.outcome = Outcome.ABORTED

    def may_be_over(self, transactional_id: str | None = None) -> None:
        """The open transactions, or those of this id, may have been aborted by something else than their producers."""
        for transaction in self._live:
            if transactional_id in (None, transaction.transactional_id):
                transaction.may_be_over = True

    def fenced(self, transactional_id: str, instance: int, ends: Mapping[Place, int] | None = None) -> None:
        """A producer of this id and `instance` was made. `ends`: where the partitions ended then."""
        self._newest[transactional_id] = instance
        for transaction in self._live:
            if transaction.transactional_id == transactional_id and transaction.instance < instance:
                self._ends_undecided(transaction)
        if ends is not None:
            self._fences.setdefault(transactional_id, []).append((instance, dict(ends)))

    def process_ended(self) -> None:
        """The process is gone: what it had not asked to commit is aborted by the next one."""
        for transaction in self._live:
            self._ends_undecided(transaction)

    def _ends_undecided(self, transaction: Transaction) -> None:
        transaction.may_be_over = True
        if transaction.outcome is Outcome.OPEN:
            self.aborted(transaction)

    # -- what is seen --------------------------------------------------------------------------------

    def see_committed(self, place: Place, records: Iterable[tuple[int, str]], end: int, start: int = 0) -> None:
        """What a reader of committed records was given of a partition, from its `start` to `end`: the last stable offset."""
        found = dict(records)
        self._starts[place] = start
        for offset, head in found.items():
            self.given(place, offset, head)
        for offset, head in self._committed.get(place, {}).items():
            demand(
                offset < start or found.get(offset) == head,
                f"{place}: {head} at {offset} was seen, and now {found.get(offset)} is",
            )
        self._in_order(place, found)
        self._all_or_nothing(place, found, end)
        self._behind_none_open(place, end)
        self._committed[place] = found

    def see_compacted(self, place: Place, records: Iterable[tuple[int, str]], end: int) -> None:
        """`see_committed`, of a compacted partition."""
        found = dict(records)
        table: dict[str, int] = {}
        for offset, head in found.items():
            self.given(place, offset, head)
            table[self._keys[head]] = max(offset, table.get(self._keys[head], -1))
        for key, offset in self._tables.get(place, {}).items():
            demand(table.get(key, -1) >= offset, f"{place}: {key} was seen at {offset}, and now at {table.get(key)}")
        self._in_order(place, found)
        self._behind_none_open(place, end)
        self._tables[place] = table
        for transaction in self._incomplete:
            if transaction.is_answered:
                missing = [head for head in self._missing(transaction) if transaction.sent[head] == place]
                known = [head for head in missing if self._offsets.get(head, end) < end]
                demand(
                    not known,
                    f"{place}: {known} are missing of {transaction}, and no later record of their keys is there",
                )

    def _missing(self, transaction: Transaction) -> list[str]:
        """The records of a committed transaction that were not seen last, and that neither retention nor compaction explains."""
        return [head for head, place in transaction.sent.items() if not self._is_there(head, place)]

    def _is_there(self, head: str, place: Place) -> bool:
        if place in self._tables:
            return self._tables[place].get(self._keys[head], -1) >= self._offsets.get(head, 0)
        start = self._starts.get(place, 0)
        if start and self._offsets.get(head, -1) < start:
            return True
        offset = self._offsets.get(head)
        return offset is not None and self._committed.get(place, {}).get(offset) == head

    def given(self, place: Place, offset: int, head: str) -> None:
        """A consumer of committed records was given one."""
        sent = self._store(place, offset, head)
        self._is_seen(sent.transaction, f"{place}: {head} at {offset}")

    def _is_seen(self, transaction: Transaction, what: str) -> None:
        demand(
            transaction.outcome in (Outcome.COMMITTED, Outcome.DECIDING), f"{what} is seen as committed: {transaction}"
        )
        self._is_committed(transaction)

    def _all_or_nothing(self, place: Place, found: Mapping[int, str], end: int) -> None:
        """Before `end`: what lies behind it is hidden by an open transaction, whatever became of its own one."""
        heads = dict.fromkeys(found.values())
        transactions = dict.fromkeys(self.sent[head].transaction for head in heads)
        transactions.update((each, None) for each in self._incomplete if each.is_answered)
        for transaction in transactions:
            missing = [
                head
                for head, its in transaction.sent.items()
                if its == place and head not in heads and self._starts[place] <= self._offsets.get(head, end) < end
            ]
            demand(not missing, f"{place}: {missing} are missing of {transaction}")

    def _behind_none_open(self, place: Place, end: int) -> None:
        for transaction in self._live:
            first = transaction.first.get(place)
            if first is None or transaction.outcome is not Outcome.OPEN or transaction.may_be_over:
                continue
            start = self._starts.get(place, 0)
            here = [head for head, its in transaction.sent.items() if its == place]
            if all(self._offsets.get(head, first) < start for head in here):
                continue  # a replica may know of it no more: nothing of it can be seen
            first = max(first, start)  # its first records may have been deleted
            demand(
                end <= first, f"{place}: all before {end} is seen, and at {first} is the first record of {transaction}"
            )

    def see_all(self, place: Place, records: Iterable[tuple[int, str]]) -> None:
        """What a reader of all records was given."""
        found = dict(records)
        for offset, head in found.items():
            self._store(place, offset, head)
            self._not_behind_a_fence(place, offset, head)
        self._in_order(place, found)

    def _store(self, place: Place, offset: int, head: str) -> Sent:
        sent = self.sent.get(head)
        if sent is None:
            raise Violation(f"{place}: {head} at {offset} was never sent")
        demand(sent.place == place, f"{place}: {head} at {offset} was sent to {sent.place}")
        known = self._stored.setdefault(place, {}).setdefault(offset, head)
        demand(known == head, f"{place}: {known} and {head} are both at {offset}")
        self._offsets[head] = offset
        return sent

    def _in_order(self, place: Place, found: Mapping[int, str]) -> None:
        last: dict[str, tuple[tuple[int, int], str]] = {}
        for offset in sorted(found):
            head = found[offset]
            transaction, _, order = self.sent[head]
            before = last.get(transaction.transactional_id)
            demand(
                before is None or before[0] < order,
                f"{place}: {head} at {offset} is twice, or behind {before[1] if before else ''}, which was sent later",
            )
            last[transaction.transactional_id] = order, head

    def _not_behind_a_fence(self, place: Place, offset: int, head: str) -> None:
        transaction = self.sent[head].transaction
        for instance, ends in self._fences.get(transaction.transactional_id, ()):
            if transaction.instance < instance and place in ends:
                demand(
                    offset < ends[place],
                    f"{place}: {head} at {offset} was written by a fenced producer, whose fence is at {ends[place]}: {transaction}",
                )

    def see_position(self, group: str, place: Place, position: int) -> None:
        """What a group has committed of a partition now, all of it in transactions."""
        at = group, place
        before = self._positions.get(at, 0)
        demand(position >= before, f"group {group} had {before} of {place}, and has {position}")
        if position == before:
            return
        givers = [each for each in self.transactions if each.positions.get(at) == position]
        demand(givers, f"group {group} has {position} of {place}, which no transaction gave it")
        able = [each for each in givers if each.outcome in (Outcome.COMMITTED, Outcome.DECIDING)]
        demand(able, f"group {group} has {position} of {place}, which was given by {givers[-1]}")
        if len(able) == 1:
            self._is_committed(able[0])
        self._positions[at] = position

    def settled(self) -> None:
        """Nothing is open, all that is decided is complete, and `see_committed` and `see_position` were told of every partition since then."""
        for transaction in self._incomplete:
            missing = self._missing(transaction)
            demand(not missing, f"{missing} are missing of {transaction}")
            for (group, place), position in transaction.positions.items():
                now = self._positions.get((group, place), 0)
                demand(now >= position, f"group {group} has {now} of {place}, and {position} in {transaction}")
        self._incomplete = []
        for transaction in self._live:  # what is nowhere, and nothing decides any more, is aborted
            if transaction.outcome is Outcome.DECIDING and transaction.may_be_over and transaction.sent:
                self.aborted(transaction)
        self._live = [
            each
            for each in self._live
            if each.outcome is Outcome.OPEN or (each.outcome is Outcome.DECIDING and not each.may_be_over)
        ]

    def contents(self, place: Place) -> dict[int, str]:
        """The committed records of a partition, as they were seen."""
        return self._committed.get(place, {})


Effects = Callable[[Place, int, str], Sequence[str]]
"""The heads that a pipe makes of a record: its partition, its offset, its head."""


def check_effects(
    sources: Mapping[Place, Mapping[int, str]],
    positions: Mapping[Place, int],
    sinks: Mapping[Place, Sequence[str]],
    effects: Effects,
) -> int:
    """Compare what a pipe was to read with what it has written, all of it committed; returns how many records had their effect.

    `positions`: how far the group is. `sinks`: in the order of offsets. Of each source partition the effects are in order, in each
    sink partition.
    """
    expected: dict[str, tuple[Place, int, int]] = {}
    done = 0
    for place, records in sources.items():
        for offset, head in records.items():
            if offset < positions.get(place, 0):
                done += 1
                expected |= {effect: (place, offset, n) for n, effect in enumerate(effects(place, offset, head))}
    found: Counter[str] = Counter()
    for sink, heads in sinks.items():
        last: dict[Place, tuple[int, int, str]] = {}
        for head in heads:
            found[head] += 1
            demand(
                head in expected, f"{sink}: {head} is the effect of no record that the group has committed: {positions}"
            )
            demand(found[head] == 1, f"{sink}: {head} is there twice")
            place, offset, n = expected[head]
            before = last.get(place)
            demand(before is None or before[:2] < (offset, n), f"{sink}: {head} is behind {before}, of a later record")
            last[place] = offset, n, head
    missing = [head for head in expected if not found[head]]
    demand(not missing, f"the group has committed {positions}, and the effects {missing[:5]} are missing")
    return done
