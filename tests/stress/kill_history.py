"""What must still be true of a log after each kill: the history of one directory over all its processes."""

from __future__ import annotations

from collections import Counter
from typing import Any, NamedTuple

from tests.transaction_history import Transaction, TransactionHistory

from .kill_child import MOVES, RETENTION_BYTES
from .processes import head_of


class Violation(AssertionError):
    """The log broke a promise."""


def demand(condition: object, message: str) -> None:
    if not condition:
        raise Violation(message)


class PartitionHistory:
    """One partition whose records stay until retention or a deletion takes them from the front."""

    def __init__(self, name: str, *, bounded: bool) -> None:
        self.name = name
        self.start = 0
        self.end = 0
        self.deleted_to = 0
        self._bounded = bounded
        self._stored: dict[int, str] = {}
        self._acknowledged: dict[int, str] = {}
        self._counts: dict[str, int] = {}

    def sent(self, offset: int, head: str, _key: str) -> None:
        known = self._acknowledged.setdefault(offset, head)
        demand(known == head, f"{self.name}: {head} and {known} were acknowledged at offset {offset}")

    def check(self, found: dict[str, Any]) -> None:
        """Compare what was found after a kill with all that is known, then know that too."""
        self._check_bounds(found)
        seen = {offset: head_of(value.encode()) for offset, _key, value in found["records"]}
        position, end = found["position"], found["end"]
        demand(list(seen) == list(range(position, end)), f"{self.name}: offsets {position} to {end} are not dense")
        for offset, head in seen.items():
            known = self._stored.get(offset)
            demand(known in (None, head), f"{self.name}: offset {offset} held {known}, and now {head}")
        missed = position > self.end
        if missed:
            self._counts.clear()
        for offset in range(max(position, self.end), end):
            self._check_new(offset, seen[offset], missed)
        for offset, head in self._acknowledged.items():
            if offset >= self.start:
                now = seen.get(offset, self._stored.get(offset))
                demand(now == head, f"{self.name}: {head} was acknowledged at offset {offset}, which holds {now}")
        self._acknowledged.clear()
        self._stored.update(seen)
        self._stored = {offset: head for offset, head in self._stored.items() if offset >= self.start}
        self.end = end

    def _check_bounds(self, found: dict[str, Any]) -> None:
        start = found["log_start"]
        demand(self.start <= start <= found["end"], f"{self.name}: log start went from {self.start} to {start}")
        demand(found["end"] >= self.end, f"{self.name}: the end went back from {self.end} to {found['end']}")
        by_retention = self._bounded and found["size"] >= RETENTION_BYTES
        demand(
            start <= max(self.start, self.deleted_to) or by_retention,
            f"{self.name}: log start {start} was never asked for, and {found['size']} bytes are left",
        )
        self.start = start

    def _check_new(self, offset: int, head: str, missed: bool) -> None:
        """A record seen for the first time: of this partition, and the next one of its thread."""
        cycle, thread, topic, partition, number = head.split(".")
        demand(f"{topic}-{partition}" == self.name, f"{self.name}: {head} at {offset} belongs elsewhere")
        writer = f"{cycle}.{thread}"
        last = self._counts.get(writer)
        expected = 0 if last is None else last + 1
        demand(
            int(number) == expected or (missed and last is None),
            f"{self.name}: {head} at offset {offset} where number {expected} of its thread was due",
        )
        self._counts[writer] = int(number)


class Look(NamedTuple):
    """What a report found in a compacted partition: its `end`, the leader's `directory`, the `offsets` that were there, and the
    last one of each key."""

    end: int
    directory: str
    offsets: frozenset[int]
    last: dict[str, int]


class TableHistory:
    """A compacted partition: the last record of each key stays, what it replaced may go, oldest first.

    Each of several `brokers` compacts its replica by itself, as in Kafka, and a report finds what the leader has. What one
    replica has removed is there again when another one leads. No report need have found it before: a process may be killed before
    it is acknowledged, and the next leader compact before the report. But what a report did not find was replaced by then: that
    report found a later record of its key. And in one directory nothing comes back, and no older record of its key is left.
    What a replica has not fetched before the leader removed it, it never has: there older records of the key may be left.

    Of several brokers no tombstone goes: `delete_retention_ms` is longer than a log lives.
    """

    def __init__(self, name: str, brokers: int = 1) -> None:
        self.name = name
        self.end = 0
        self._brokers = brokers
        self._known: dict[int, tuple[str, str]] = {}  # offset → key, head of each record that was found or acknowledged
        self._acknowledged: dict[int, tuple[str, str]] = {}
        self._buried: set[str] = set()
        self._looks: list[Look] = []

    def sent(self, offset: int, head: str, key: str) -> None:
        known = self._acknowledged.setdefault(offset, (key, head))
        demand(known == (key, head), f"{self.name}: {head} and {known} were acknowledged at offset {offset}")

    def buries(self, key: str) -> None:
        """A tombstone for the key is about to be sent: from now on its last value may be missing."""
        self._buried.add(key)

    def check(self, found: dict[str, Any]) -> None:
        end, directory = found["end"], found["directory"]
        demand(found["log_start"] == 0, f"{self.name}: log start {found['log_start']} in a compacted topic")
        demand(end >= self.end, f"{self.name}: the end went back from {self.end} to {end}")
        seen = {
            offset: (key, head_of(value.encode()) if ":" in value else value) for offset, key, value in found["records"]
        }
        demand(list(seen) == sorted(seen) and all(offset < end for offset in seen), f"{self.name}: offsets in disorder")
        offsets: dict[str, list[int]] = {}
        for offset, (key, _) in seen.items():
            offsets.setdefault(key, []).append(offset)
        known = self._known | self._acknowledged
        for offset, (key, head) in known.items():
            demand(offset < end, f"{self.name}: {head}, acknowledged at {offset}, is past the end")
            if offset in seen:
                demand(seen[offset] == (key, head), f"{self.name}: {offset} held {key}={head}, and now {seen[offset]}")
            else:
                self._check_gone(offset, key, head, offsets.get(key, []), directory)
        for offset, (key, head) in seen.items():
            self._check_new(offset, key, head, directory)
        self._known = known | seen
        self._check_order()
        # A key that is gone with its tombstone begins anew.
        self._known = {offset: record for offset, record in self._known.items() if record[0] in offsets}
        self._buried = {key for key, places in offsets.items() if seen[places[-1]][1].endswith("t")}
        self._looks.append(Look(end, directory, frozenset(seen), {key: places[-1] for key, places in offsets.items()}))
        self._acknowledged.clear()
        self.end = end

    def _check_gone(self, offset: int, key: str, head: str, left: list[int], directory: str) -> None:
        """A known record is not there, but the records of its key at `left`: it was replaced, and what it had replaced is gone."""
        is_buried = self._brokers == 1 and key in self._buried
        demand(left or is_buried, f"{self.name}: {key}={head} at {offset} is lost")
        was_there = self._brokers == 1 or any(
            look.directory == directory and offset in look.offsets for look in self._looks
        )
        demand(
            not left or left[0 if was_there else -1] > offset,
            f"{self.name}: {key} is back at {left[:1]}, {head} at {offset} is gone",
        )

    def _check_new(self, offset: int, key: str, head: str, directory: str) -> None:
        """A record that is there was there before, or that report found a later one of its key in another directory."""
        for look in self._looks:
            if offset >= look.end or offset in look.offsets:
                continue
            appeared = f"{self.name}: {head} appeared at {offset} after what follows it"
            demand(look.directory != directory, f"{appeared}, in the directory that had compacted it")
            demand(
                look.last.get(key, -1) > offset, f"{appeared}; the record of {key} before was at {look.last.get(key)}"
            )

    def _check_order(self) -> None:
        """Each record is known once, in the order in which its thread sent them."""
        counts: dict[str, int] = {}
        for offset, (_, head) in sorted(self._known.items()):
            cycle, thread, topic, partition, number = head.rstrip("t").split(".")
            demand(f"{topic}-{partition}" == self.name, f"{self.name}: {head} at {offset} belongs elsewhere")
            writer = f"{cycle}.{thread}"
            demand(counts.get(writer, -1) < int(number), f"{self.name}: {head} at {offset} is twice or late")
            counts[writer] = int(number)


class History:
    """Every partition of a directory, and its group's offsets."""

    def __init__(self, brokers: int = 1) -> None:
        self._table = TableHistory("table-0", brokers)
        self.partitions: dict[str, PartitionHistory | TableHistory] = {
            "kept-0": PartitionHistory("kept-0", bounded=False),
            "plain-0": PartitionHistory("plain-0", bounded=True),
            "plain-1": PartitionHistory("plain-1", bounded=True),
            "table-0": self._table,
        }
        self._transactions = TransactionHistory()
        self._open: dict[str, Transaction] = {}
        self._commits: dict[str, int] = {}
        self._committed: dict[str, int] = {}
        self.acknowledged = 0

    def positions(self, *, everything: bool) -> dict[str, int]:
        """Where the next report begins: behind what is known, or at the start. A table is always told whole."""
        return {
            name: 0 if everything or isinstance(known, TableHistory) else known.end
            for name, known in self.partitions.items()
        }

    def note(self, lines: list[list[str]]) -> None:
        """Take in what a process has said."""
        for what, *words in lines:
            if what == "sent":
                self.partitions[words[0]].sent(int(words[1]), *words[2:])
                self.acknowledged += 1
            elif what == "buries":
                self._table.buries(words[0])
            elif what == "deletes":
                known = self.partitions[words[0]]
                assert isinstance(known, PartitionHistory)
                known.deleted_to = max(known.deleted_to, int(words[1]))
            elif what == "commits":
                self._commits[words[0]] = max(self._commits.get(words[0], 0), int(words[1]))
            elif what == "committed":
                self._committed[words[0]] = int(words[1])
            elif what in ("fenced", "begins", "moves", "deciding", "decided", "aborted"):
                self._note_transaction(what, *words)
            elif what == "failed":
                raise Violation(f"a delivery failed: {' '.join(words)}")

    def _note_transaction(self, what: str, transactional_id: str, *words: str) -> None:
        history = self._transactions
        if what == "fenced":
            history.fenced(transactional_id, int(words[0]))
        elif what == "begins":
            self._open[transactional_id] = history.begin(transactional_id, int(words[0]))
        elif what == "moves":
            history.sends(self._open[transactional_id], (MOVES, int(words[0])), words[1])
        elif what == "deciding":
            history.commits(self._open[transactional_id])
        elif what == "decided":
            history.committed(self._open[transactional_id])
        else:
            history.aborted(self._open[transactional_id])

    @property
    def transactions(self) -> Counter[str]:
        """How many were committed, and aborted."""
        return self._transactions.counts

    def check(self, found: dict[str, Any]) -> None:
        self._transactions.process_ended()
        for number, records in found["moves"].items():
            self._transactions.see_committed((MOVES, int(number)), records, found["ends"][number])
        self._transactions.settled()
        for name, known in self.partitions.items():
            known.check(found["partitions"][name])
        for name, offset in self._committed.items():
            now = found["committed"].get(name, -1)
            demand(now >= offset, f"{name}: offset {offset} was committed, and now {now} is")
        for name, offset in found["committed"].items():
            # A commit of all that was handed out takes a partition along of which that is nothing: its start.
            asked = max(self._commits.get(name, 0), found["partitions"][name]["log_start"])
            demand(offset <= asked, f"{name}: {offset} is committed, which nobody asked for")
            self._committed[name] = max(self._committed.get(name, 0), offset)
