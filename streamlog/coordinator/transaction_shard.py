"""The transactional ids of one partition of the coordinator's log: a request makes records, replaying them changes the state.

Like `shard.Shard` it has no lock, thread, clock or file. Soft state, not in the log: until when each open transaction may last, by
the log's monotonic clock, so that a jump of the wall clock ends none; and which decided ones were completed since (`complete`).

What follows a decision is the caller's: to write the markers of the transactions that are `decided`, once their records count as
written (`all_written`), and then to call `complete`. Whatever interrupts it, the same is to be done again: a marker that is
written twice is harmless.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from ..errors import CoordinatorLoadInProgressError
from ..runtime.api import Completion, failing
from ..types import TopicPartition
from . import transaction
from .runtime import CoordinatorRuntime
from .schema import LogRecord
from .transaction import ONGOING, ProducerIdAndEpoch, TransactionMetadata

T = TypeVar("T")

EXPIRATION_MS = 7 * 24 * 60 * 60 * 1000
"""How long a transactional id is kept that makes no transaction: Kafka's transactional.id.expiration.ms."""


Beginning = tuple[ProducerIdAndEpoch, int]
"""Which transaction it is: its producer, and when it began."""


def _beginning(open_: TransactionMetadata) -> Beginning:
    return open_.producer, open_.start_ms


class TransactionShard:
    """The transactional ids whose records are in one partition of the log.

    `append` takes records and returns a Completion that is done when they count as written; it may also raise. `new_id` gives a
    producer id that no producer ever had. `incarnation` names this opening of the log. REQUIRES: the shard's lock for every call
    but `has`. A request fails through its Completion, and then nothing has changed.

    >>> log = []
    >>> append = lambda records: (log.extend(records), Completion.of(0))[1]
    >>> shard = TransactionShard(append, lambda: 7, incarnation="1")
    >>> shard.loaded()
    >>> producer = shard.init_producer_id("enrich-1", 60_000, None, False, 0).result()
    >>> shard.add_partitions("enrich-1", producer, [TopicPartition("orders", 0)], 0, 0.0).result()
    >>> shard.end("enrich-1", producer, True, True, 0).result()
    ProducerIdAndEpoch(producer_id=7, producer_epoch=1)
    >>> [decided] = shard.decided()
    >>> shard.complete(decided, 0).result()
    >>> shard.transactions["enrich-1"].state
    'CompleteCommit'
    """

    def __init__(
        self,
        append: Callable[[Sequence[LogRecord]], Completion[int]],
        new_id: Callable[[], int],
        *,
        incarnation: str,
        expiration_ms: int = EXPIRATION_MS,
    ) -> None:
        self._append = append
        self._new_id = new_id
        self._incarnation = incarnation
        self._expiration_ms = expiration_ms
        self._runtime = CoordinatorRuntime()
        self._to_renew: dict[str, None] = {}
        self._kept: dict[Beginning, float] = {}
        """The deadlines of the transactions that were open before the log was replayed again."""
        self.transactions: dict[str, TransactionMetadata] = {}
        self._deadlines: dict[str, float] = {}  # of the open ones: monotonic seconds
        self._forget()

    def _forget(self) -> None:
        self._runtime.forget()
        for transactional_id, deadline_s in self._deadlines.items():
            open_ = self.transactions.get(transactional_id)
            if open_ is not None:  # an interrupt may have come in between
                self._kept[_beginning(open_)] = deadline_s
        self.transactions = {}
        self._open: dict[int, TransactionMetadata] = {}  # by producer id
        self._decided: dict[str, TransactionMetadata] = {}
        self._completed: dict[str, TransactionMetadata] = {}  # whose records are not in the log yet
        self._deadlines = {}

    @property
    def ready(self) -> bool:
        """Whether requests are answered. False before `loaded`, and when the log has to be replayed again."""
        return self._runtime.ready

    @property
    def written(self) -> int:
        """See `CoordinatorRuntime.written`."""
        return self._runtime.written

    # -- loading

    def elect(self) -> None:
        """Begin to load: forget everything. Next: `replay`, then `loaded`. An answer that waits for its records to count waits on."""
        self._forget()

    def replay(
        self, records: Iterable[LogRecord], now_ms: int, now_s: float, written: Completion[int] | None = None
    ) -> None:
        """Apply the records of the log, in order. An open transaction that was known before keeps its deadline; another one
        has what is left of its timeout, by its start and `now_ms`.

        `written` is done when they count as written; no answer that depends on them is given before that.
        """
        for key, value in records:
            self._replay(key, value)
        for transactional_id, open_ in self.transactions.items():
            if open_.state == ONGOING:
                left_ms = open_.timeout_ms - max(0, now_ms - open_.start_ms)
                left_s = max(0, left_ms) / 1000
                self._deadlines[transactional_id] = self._kept.get(_beginning(open_), now_s + left_s)
        self._kept.clear()
        if written is not None:
            self._runtime.await_written(written)

    def loaded(self) -> None:
        """Answer requests. Raises FormatError if the log has records that are not known here: a writer would contradict them."""
        self._runtime.loaded()

    def _replay(self, key: bytes, value: bytes | None) -> None:
        record = transaction.decode(key, value)
        self._runtime.read(key, value, known=record is not None)
        if record is not None:
            self._put(*record)

    def _put(self, transactional_id: str, metadata: TransactionMetadata | None) -> None:
        before = self.transactions.pop(transactional_id, None)
        if before is not None:
            self._open.pop(before.producer_id, None)
        self._decided.pop(transactional_id, None)
        self._completed.pop(transactional_id, None)
        if metadata is None:
            self._deadlines.pop(transactional_id, None)
            return
        self.transactions[transactional_id] = metadata
        if metadata.state == ONGOING:
            self._open[metadata.producer_id] = metadata
            return
        self._deadlines.pop(transactional_id, None)
        if metadata.is_decided:
            self._decided[transactional_id] = metadata

    # -- writing

    def require_ready(self) -> None:
        """Raises CoordinatorLoadInProgressError before `loaded`, and after a write that failed."""
        if not self._runtime.ready:
            raise CoordinatorLoadInProgressError(
                "The coordinator of this transactional id is loading its log (it was just opened, or a write to it failed). Try again."
            )

    def _write(self, metadata: TransactionMetadata, value: T) -> Completion[T]:
        return self._write_all([(metadata.transactional_id, metadata)], value)

    def _write_all(self, changes: Sequence[tuple[str, TransactionMetadata | None]], value: T) -> Completion[T]:
        """A change is replayed as it is, not as it is read from its record, which is the same: that saves a decoding."""

        def append() -> Completion[int]:
            return self._append([transaction.record_for(*change) for change in changes])

        def replay() -> None:
            for change in changes:
                self._put(*change)

        return self._runtime.write(append, replay, len(changes), lambda: value)

    def all_written(self) -> Completion[None]:
        """Done when everything that was replayed counts as written."""
        return self._runtime.after(None)

    # -- requests of producers

    @failing
    def init_producer_id(
        self, transactional_id: str, timeout_ms: int, current: ProducerIdAndEpoch | None, remote: bool, now_ms: int
    ) -> Completion[ProducerIdAndEpoch]:
        """The id and epoch of a new producer; the ones before it are fenced.

        `current`: the producer goes on with a new epoch, and is fenced if it is not the newest any more. Fails with
        ConcurrentTransactionsError while the last transaction is not complete; one that is open is aborted first. Ask again
        then. Fails with ConfigError for the timeout.
        """
        transaction.check_timeout(timeout_ms)
        self.require_ready()
        known = self.transactions.get(transactional_id)
        if known is None:
            made = TransactionMetadata(
                transactional_id, self._new_id(), 0, timeout_ms, update_ms=now_ms, remote=remote, incarnation=self._incarnation
            )  # fmt: skip
            return self._write(made, made.producer)
        if not known.may_init(current):
            return self._runtime.after(known.producer)
        if known.state == ONGOING:
            by = transaction.BY_SUCCESSOR if current is None else ""
            aborted = known.ended(False, now_ms, self._new_id, by=by)
            failure = self._write(aborted, None).error()
            if failure is not None:  # it is still open: the caller would ask again at once, for ever
                return Completion.failed(failure)
            raise aborted.concurrent()
        made = known.initialized(
            timeout_ms,
            current,
            remote,
            self._incarnation,
            now_ms,
            self._new_id,
            renew=transactional_id in self.to_renew(),
        )
        return self._write(made, made.producer)

    # -- after a power loss

    def may_lack_records(self) -> None:
        """A power loss may have taken the last records of the log: the ids in it go on with new producer ids.

        An epoch that is given out once more would have partitions take new records for ones that they have.
        """
        self._to_renew.update((name, None) for name, known in self.transactions.items() if self._is_of_before(known))

    def _is_of_before(self, known: TransactionMetadata) -> bool:
        return known.incarnation != self._incarnation

    def to_renew(self) -> list[str]:
        """The ids to `renew` that are not in a transaction. Cost: O(those of before that are)."""
        if not self._to_renew:
            return []
        known = {name: self.transactions[name] for name in self._to_renew if name in self.transactions}
        self._to_renew = {name: None for name, each in known.items() if self._is_of_before(each)}
        return [name for name in self._to_renew if not known[name].partitions]

    @failing
    def renew(self, transactional_id: str, now_ms: int) -> Completion[None]:
        """Give the id a new producer id, unless a producer has taken over meanwhile. Its last producer is fenced."""
        self.require_ready()
        if transactional_id not in self.to_renew():
            return self._runtime.after(None)
        known = self.transactions[transactional_id]
        made = known.initialized(
            known.timeout_ms, None, known.remote, self._incarnation, now_ms, self._new_id, renew=True
        )
        return self._write(made._replace(fenced_by=transaction.BY_REOPENING), None)

    @failing
    def add_partitions(
        self, transactional_id: str, producer: ProducerIdAndEpoch, partitions: Sequence[TopicPartition], now_ms: int, now_s: float
    ) -> Completion[None]:  # fmt: skip
        """Add partitions to the producer's transaction, which begins with the first.

        Fails with ProducerFencedError, and ConcurrentTransactionsError while the last transaction is not complete.
        """
        known = self._existing(transactional_id)
        known.require(producer)
        if known.partitions.issuperset(partitions):
            return self._runtime.after(None)
        answer = self._write(known.added(partitions, now_ms), None)
        if known.producer_id in self._open:
            self._deadlines.setdefault(transactional_id, now_s + known.timeout_ms / 1000)
        return answer

    @failing
    def end(
        self, transactional_id: str, producer: ProducerIdAndEpoch, commit: bool, bump: bool, now_ms: int
    ) -> Completion[ProducerIdAndEpoch]:
        """Decide the producer's transaction; what the producer is from now on. `bump`: with a new epoch. See the module for what follows.

        An end that was decided so before is answered again. Fails with ProducerFencedError, and with InvalidTxnStateError if
        there is no such transaction, or it was decided otherwise.
        """
        known = self._existing(transactional_id)
        if not known.may_end(producer, commit, bump):
            return self._runtime.after(known.producer_afterwards)
        made = known.ended(commit, now_ms, self._new_id, bump=bump)
        return self._write(made, made.producer_afterwards)

    def _existing(self, transactional_id: str) -> TransactionMetadata:
        self.require_ready()
        known = self.transactions.get(transactional_id)
        if known is None:
            raise transaction.unknown_id(transactional_id)
        return known

    def require_added(self, transactional_id: str, producer: ProducerIdAndEpoch, partition: TopicPartition) -> None:
        """Raises ProducerFencedError, and InvalidTxnStateError unless that is a partition of the producer's open transaction."""
        known = self._existing(transactional_id)
        known.require(producer)
        if known.state != ONGOING or partition not in known.partitions:
            raise transaction.not_added(known, partition)

    def verify(self, producer: ProducerIdAndEpoch, partition: TopicPartition) -> bool:
        """Whether that is a partition of an open transaction; False if no transactional id has this producer id. O(ids) if it is not.

        Raises ProducerFencedError and InvalidTxnStateError if the producer id is known, and that is not so.
        """
        if self.has(producer, partition):
            return True
        self.require_ready()
        for known in self.transactions.values():
            if known.producer_id == producer.producer_id:
                self.require_added(known.transactional_id, producer, partition)
        return False

    def open_partitions(self, transactional_id: str, producer: ProducerIdAndEpoch) -> frozenset[TopicPartition]:
        """Those of the producer's open transaction."""
        self.require_ready()
        known = self.transactions.get(transactional_id)
        is_open = known is not None and known.state == ONGOING and known.producer == producer
        return known.partitions if known is not None and is_open else frozenset()

    def has(self, producer: ProducerIdAndEpoch, partition: TopicPartition) -> bool:
        """Whether that is a partition of the producer's open transaction. Takes no lock: any thread may ask. O(1)."""
        known = self._open.get(producer.producer_id)
        return known is not None and known.producer_epoch == producer.producer_epoch and partition in known.partitions

    # -- what is not asked by a producer

    @failing
    def abort(self, transactional_id: str, by: str, now_ms: int) -> Completion[None]:
        """Abort the open transaction and fence its producer, with `by` for the reason. Does nothing if none is open."""
        known = self._existing(transactional_id)
        if known.state != ONGOING:
            return self._runtime.after(None)
        return self._write(known.ended(False, now_ms, self._new_id, by=by), None)

    def decided(self) -> list[TransactionMetadata]:
        """The transactions whose outcome is fixed, and that are not complete."""
        return list(self._decided.values())

    def decided_of(self, transactional_id: str) -> TransactionMetadata | None:
        return self._decided.get(transactional_id)

    @failing
    def complete(self, decided: TransactionMetadata, now_ms: int) -> Completion[None]:
        """All markers of this decided transaction are written. Does nothing if it was completed before.

        Its record is left to `write_completed`, for as a rule the next transaction of the id begins before that, and replaces it. If
        it is lost, the markers are written once more, before any later record of the id. Of a transaction whose epoch was not
        raised it is written at once: after a power loss that lost the begin of the next one, its marker would end that too.
        """
        self.require_ready()
        if self._decided.get(decided.transactional_id) != decided:
            return self._runtime.after(None)
        made = decided.completed(now_ms)
        if not decided.is_bumped:
            return self._write(made, None)
        self._put(made.transactional_id, made)
        self._completed[made.transactional_id] = made
        return self._runtime.after(None)

    @property
    def has_completed(self) -> bool:
        """Whether `write_completed` has something to write. Takes no lock."""
        return bool(self._completed)

    @failing
    def write_completed(self) -> Completion[None]:
        """Append the records of the transactions that were completed since, and were not followed by others."""
        self.require_ready()
        return self._write_all(list(self._completed.items()), None)

    def overdue(self, now_s: float) -> list[str]:
        """The ids whose transactions are open for longer than their timeouts. O(open transactions)."""
        return [each for each, deadline_s in self._deadlines.items() if deadline_s <= now_s]

    def left_open(self) -> list[str]:
        """The ids whose transactions are open, of producers that were in a process which is gone."""
        return [
            each.transactional_id
            for each in self._open.values()
            if not each.remote and each.incarnation != self._incarnation
        ]

    @failing
    def expire(self, now_ms: int) -> Completion[None]:
        """Forget the ids that made no transaction for longer than the expiration. O(ids)."""
        self.require_ready()
        gone = [each for each in self.transactions.values() if self._expires_ms(each) <= now_ms]
        return self._write_all([(each.transactional_id, None) for each in gone], None)

    def _expires_ms(self, each: TransactionMetadata) -> float:
        idle = each.state != ONGOING and not each.is_decided
        return each.update_ms + self._expiration_ms if idle else float("inf")

    def next_deadline_s(self) -> float | None:
        """When the first open transaction is overdue (monotonic seconds); None if none is open."""
        return min(self._deadlines.values(), default=None)

    # -- for tests

    def check(self) -> None:
        """Assert that what is derived agrees with the metadata."""
        known = self.transactions.values()
        assert self._open == {each.producer_id: each for each in known if each.state == ONGOING}
        assert self._decided == {each.transactional_id: each for each in known if each.is_decided}
        assert all(self.transactions[each] == made and not made.is_decided for each, made in self._completed.items())
        assert self._deadlines.keys() == {each.transactional_id for each in known if each.state == ONGOING}
        for each in known:
            assert bool(each.partitions) == (each.state == ONGOING or each.is_decided), each
            assert each.next_producer_id == -1 or each.is_decided, each
            assert 0 <= each.producer_epoch <= transaction.LAST_EPOCH + each.is_decided, each
