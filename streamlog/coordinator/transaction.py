"""One transactional id: its producer, its transaction, and the rules by which they change: Kafka's (KIP-98, KIP-360, KIP-890).

    Empty ── add ──▶ Ongoing ── end ──▶ PrepareCommit | PrepareAbort ── markers written ──▶ CompleteCommit | CompleteAbort
                        ▲                                                                             │
                        └───────────────────────────────── add ───────────────────────────────────────┘

The record of a Prepare state decides the transaction: from then on its outcome is fixed, whatever is raised and whichever broker
goes on. A marker is written to each partition of it; then the record of the Complete state follows.

Every end raises the epoch of the producer, and its markers carry the new one (KIP-890). So a request of an earlier transaction
has an older epoch, and is refused by the coordinator and by every partition that got the marker. Clients of the older protocol keep their
epoch. When the epochs of a producer id run out, the producer goes on under a new id: the Prepare record already has it.

A request that is made again is answered again, for its answer may have been lost: `previous` is the id and epoch that the
producer had when it asked for the present ones. It is set only where the producer itself asked: never for a producer that was
fenced, by its successor, a timeout, or an operator.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import NamedTuple

from ..config import MAX_TRANSACTION_TIMEOUT_MS
from ..errors import (
    ConcurrentTransactionsError,
    ConfigError,
    InvalidPidMappingError,
    InvalidTxnStateError,
    ProducerFencedError,
)
from ..types import TopicPartition
from .schema import LogRecord, by_topic, damaged, pack, versioned_fields

EMPTY, ONGOING = "Empty", "Ongoing"
PREPARE_COMMIT, PREPARE_ABORT = "PrepareCommit", "PrepareAbort"
COMPLETE_COMMIT, COMPLETE_ABORT = "CompleteCommit", "CompleteAbort"
_DECIDED = {PREPARE_COMMIT: COMPLETE_COMMIT, PREPARE_ABORT: COMPLETE_ABORT}
_COMMITTED = (PREPARE_COMMIT, COMPLETE_COMMIT)

DEFAULT_TIMEOUT_MS = 60_000
"""Kafka's transaction.timeout.ms."""
LAST_EPOCH = (1 << 15) - 2
"""A producer id begins no transaction after the one of this epoch: the markers of that one have the epoch after it."""

BY_SUCCESSOR, BY_TIMEOUT, BY_OPERATOR, BY_REOPENING = "successor", "timeout", "operator", "reopening"
_TRANSACTION, _KEY_VERSION, _VALUE_VERSION = 1, 0, 0


class ProducerIdAndEpoch(NamedTuple):
    producer_id: int
    producer_epoch: int


NO_PRODUCER_ID = -1
NO_PREVIOUS = ProducerIdAndEpoch(NO_PRODUCER_ID, -1)


class TransactionMetadata(NamedTuple):
    """The record of a transactional id.

    `partitions` are those of the open or decided transaction, the ones of `__consumer_offsets` for its groups too.
    `next_producer_id` is the id that the producer has once the markers are written, -1 if it keeps its own. `fenced_by` says
    what ended the last transaction, or replaced the producer, where the producer did not ask for it. Times are in ms of the log's
    clock. A `remote` producer may outlive the process that owns the log; another one ended with it, if the log has another
    `incarnation` now.
    """

    transactional_id: str
    producer_id: int
    producer_epoch: int
    timeout_ms: int
    state: str = EMPTY
    partitions: frozenset[TopicPartition] = frozenset()
    start_ms: int = -1
    update_ms: int = -1
    previous: ProducerIdAndEpoch = NO_PREVIOUS
    next_producer_id: int = NO_PRODUCER_ID
    remote: bool = False
    incarnation: str = ""
    fenced_by: str = ""

    @property
    def producer(self) -> ProducerIdAndEpoch:
        return ProducerIdAndEpoch(self.producer_id, self.producer_epoch)

    @property
    def producer_afterwards(self) -> ProducerIdAndEpoch:
        """What the producer has once the transaction is complete."""
        return (
            self.producer if self.next_producer_id == NO_PRODUCER_ID else ProducerIdAndEpoch(self.next_producer_id, 0)
        )

    @property
    def is_decided(self) -> bool:
        """Whether the outcome is fixed, and markers may be missing."""
        return self.state in _DECIDED

    @property
    def is_bumped(self) -> bool:
        """Of one that is decided: whether its epoch is greater than that of its records."""
        return self.previous != NO_PREVIOUS or bool(self.fenced_by)

    @property
    def is_commit(self) -> bool:
        return self.state in _COMMITTED

    # -- a producer begins

    def may_init(self, current: ProducerIdAndEpoch | None) -> bool:
        """Whether an init of this producer has to change something; False if it repeats one that was done.

        Raises ProducerFencedError if `current` is not the producer of this id, ConcurrentTransactionsError while a decided
        transaction is being completed. An open transaction has to be aborted first.
        """
        if current is not None and current != self.producer:
            if current != self.previous:
                raise self._fenced(current)
            if self.state == EMPTY:
                return False
        if self.is_decided:
            raise self.concurrent()
        return True

    def initialized(
        self,
        timeout_ms: int,
        current: ProducerIdAndEpoch | None,
        remote: bool,
        incarnation: str,
        now_ms: int,
        new_id: Callable[[], int],
        *,
        renew: bool = False,
    ) -> TransactionMetadata:
        """The same id with an epoch that no earlier producer of it has, or, if it `renew`s, with a producer id that none has.

        REQUIRES: `may_init`, and no open transaction.
        """
        if renew or self.producer_epoch >= LAST_EPOCH:
            producer_id, epoch = new_id(), 0
        else:
            producer_id, epoch = self.producer_id, self.producer_epoch + 1
        return TransactionMetadata(
            self.transactional_id,
            producer_id,
            epoch,
            timeout_ms,
            update_ms=now_ms,
            previous=NO_PREVIOUS if current is None else current,
            remote=remote,
            incarnation=incarnation,
            fenced_by=BY_SUCCESSOR if current is None else "",
        )

    # -- a transaction begins

    def require(self, producer: ProducerIdAndEpoch) -> None:
        """Raises InvalidPidMappingError or ProducerFencedError unless that is the producer, ConcurrentTransactionsError until the last transaction is complete."""
        if producer.producer_id != self.producer_id:
            raise self._fenced(producer, InvalidPidMappingError)
        if producer != self.producer:
            raise self._fenced(producer)
        if self.is_decided:
            raise self.concurrent()

    def added(self, partitions: Iterable[TopicPartition], now_ms: int) -> TransactionMetadata:
        """With these partitions in the transaction, which begins if none is open. REQUIRES: `require`."""
        if self.state == ONGOING:
            return self._replace(partitions=self.partitions.union(partitions), update_ms=now_ms)
        # Made as a whole, as in `ended` and `completed`: each transaction goes through the three, and `_replace` takes six
        # times as long.
        return TransactionMetadata(
            self.transactional_id,
            self.producer_id,
            self.producer_epoch,
            self.timeout_ms,
            ONGOING,
            frozenset(partitions),
            now_ms,
            now_ms,
            NO_PREVIOUS,
            self.next_producer_id,
            self.remote,
            self.incarnation,
            "",
        )

    # -- it ends

    def may_end(self, producer: ProducerIdAndEpoch, commit: bool, bump: bool) -> bool:
        """Whether this end of the producer has to change something; False if it repeats one that was decided.

        Raises ProducerFencedError for another producer or an end of an earlier transaction, InvalidTxnStateError if the
        transaction has ended otherwise, and for a commit of nothing.
        """
        ended = self.is_decided or self.state in _DECIDED.values()
        repeats = producer == self.previous if bump else producer == self.producer
        if ended and repeats:
            if commit != self.is_commit:
                raise InvalidTxnStateError(
                    f"The transaction of {self.transactional_id!r} cannot be {'committed' if commit else 'aborted'}: it was "
                    f"{'committed' if self.is_commit else 'aborted'} already. Begin another one.",
                    transactional_id=self.transactional_id, state=self.state,
                )  # fmt: skip
            return False
        self.require(producer)
        if self.state != ONGOING and (commit or not bump):
            raise InvalidTxnStateError(
                f"The producer of {self.transactional_id!r} has no transaction to {'commit' if commit else 'abort'}: nothing was "
                f"added to one since the last ended.",
                transactional_id=self.transactional_id, state=self.state,
            )  # fmt: skip
        return True

    def ended(
        self, commit: bool, now_ms: int, new_id: Callable[[], int], *, bump: bool = True, by: str = ""
    ) -> TransactionMetadata:
        """The transaction decided; complete at once if it has no partition. `by`: what ended it if the producer did not.

        REQUIRES: `may_end`, or a transaction that is open.
        """
        state = PREPARE_COMMIT if commit else PREPARE_ABORT
        if bump:
            made = TransactionMetadata(
                self.transactional_id,
                self.producer_id,
                self.producer_epoch + 1,
                self.timeout_ms,
                state,
                self.partitions,
                self.start_ms,
                now_ms,
                NO_PREVIOUS if by else self.producer,
                new_id() if self.producer_epoch >= LAST_EPOCH else NO_PRODUCER_ID,
                self.remote,
                self.incarnation,
                by,
            )
        else:
            made = self._replace(state=state, update_ms=now_ms, previous=NO_PREVIOUS, fenced_by=by)
        return made if self.state == ONGOING else made.completed(now_ms)

    def completed(self, now_ms: int) -> TransactionMetadata:
        """After the last marker. REQUIRES: it is decided."""
        return TransactionMetadata(
            self.transactional_id,
            *self.producer_afterwards,
            self.timeout_ms,
            _DECIDED[self.state],
            frozenset(),
            self.start_ms,
            now_ms,
            self.previous,
            NO_PRODUCER_ID,
            self.remote,
            self.incarnation,
            self.fenced_by,
        )

    # -- errors

    def concurrent(self) -> ConcurrentTransactionsError:
        return ConcurrentTransactionsError(
            f"The last transaction of {self.transactional_id!r} has ended ({self.state}), and its markers are not in all partitions "
            f"yet: {_names(self.partitions)}. Try again; that goes on by itself as soon as the partitions have leaders.",
            transactional_id=self.transactional_id, state=self.state,
        )  # fmt: skip

    def _fenced(
        self, producer: ProducerIdAndEpoch, kind: type[ProducerFencedError] = ProducerFencedError
    ) -> ProducerFencedError:
        why = _WHY_FENCED.get(self.fenced_by, _WHY_FENCED[""]).format(timeout_ms=self.timeout_ms)
        return kind(
            f"The producer of {self.transactional_id!r} with id {producer.producer_id} and epoch {producer.producer_epoch} was "
            f"fenced; the id and epoch are {self.producer_id} and {self.producer_epoch} now. {why}",
            transactional_id=self.transactional_id, producer_id=producer.producer_id, producer_epoch=producer.producer_epoch,
            current_epoch=self.producer_epoch, timed_out=self.fenced_by == BY_TIMEOUT,
        )  # fmt: skip


_WHY_FENCED = {
    "": "A newer producer with the same transactional_id has taken over, or this is a request of an earlier transaction. Close this producer.",
    BY_SUCCESSOR: "A newer producer with the same transactional_id has taken over. Close this producer.",
    BY_TIMEOUT: "Its transaction was open for longer than transaction_timeout_ms={timeout_ms}, and was aborted: nothing of it counts. "
    "Make a new producer, and do less in one transaction or give it a longer timeout.",
    BY_OPERATOR: "Its transaction was aborted by a call of abort_transaction: nothing of it counts. Make a new producer.",
    BY_REOPENING: "Its transaction was open when the log was closed or its process ended, and was aborted. Make a new producer.",
}


def check_timeout(timeout_ms: int) -> None:
    """Raises ConfigError for a transaction_timeout_ms that no coordinator takes."""
    if not 0 < timeout_ms <= MAX_TRANSACTION_TIMEOUT_MS:
        raise ConfigError(
            f"transaction_timeout_ms={timeout_ms} is not from 1 to {MAX_TRANSACTION_TIMEOUT_MS}: readers wait for an open "
            f"transaction so long.",
            name="transaction_timeout_ms",
        )


def unknown_id(transactional_id: str) -> InvalidPidMappingError:
    return InvalidPidMappingError(
        f"There is no producer with transactional_id {transactional_id!r}: none was made, or it made no transaction for 7 days and was "
        f"forgotten. Make a new producer.",
        transactional_id=transactional_id, timed_out=False,
    )  # fmt: skip


def not_added(known: TransactionMetadata, partition: TopicPartition) -> InvalidTxnStateError:
    return InvalidTxnStateError(
        f"{partition.topic}-{partition.partition} is no partition of an open transaction of {known.transactional_id!r} ({known.state}). "
        f"Add it to one first.",
        transactional_id=known.transactional_id, state=known.state,
    )  # fmt: skip


def _names(partitions: Iterable[TopicPartition]) -> str:
    names = [f"{topic}-{number}" for topic, number in sorted(partitions)]
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


# -- the record:  [1, 0, transactional_id] → [0, producer_id, producer_epoch, timeout_ms, state, [[topic, [partition]]], start_ms,
#    update_ms, previous_producer_id, previous_producer_epoch, next_producer_id, remote, incarnation, fenced_by]


@lru_cache(maxsize=1024)
def transaction_key(transactional_id: str) -> bytes:
    return pack((_TRANSACTION, _KEY_VERSION, transactional_id))


def record_of(metadata: TransactionMetadata) -> LogRecord:
    _, producer_id, epoch, timeout_ms, state, partitions, start_ms, update_ms, previous, *others = metadata
    value = (
        _VALUE_VERSION, producer_id, epoch, timeout_ms, state, by_topic(partitions), start_ms, update_ms, *previous, *others
    )  # fmt: skip
    return transaction_key(metadata.transactional_id), pack(value)


def record_for(transactional_id: str, metadata: TransactionMetadata | None) -> LogRecord:
    """`metadata` None: the id is forgotten."""
    return (transaction_key(transactional_id), None) if metadata is None else record_of(metadata)


def decode(key: bytes, value: bytes | None) -> tuple[str, TransactionMetadata | None] | None:
    """The transactional id, and its metadata or None if it was forgotten; None for a kind or version that is not known here.

    Raises FormatError for a record that is damaged.
    """
    kind, version, *names = versioned_fields(key, 2)
    if kind != _TRANSACTION or version != _KEY_VERSION:
        return None
    try:
        (transactional_id,) = names
        if value is None:
            return transactional_id, None
        version, *rest = versioned_fields(value, 1)
        if version != _VALUE_VERSION:
            return None
        producer_id, epoch, timeout_ms, state, topics, start_ms, update_ms, previous_id, previous_epoch, *others = rest
        partitions = frozenset(TopicPartition(topic, number) for topic, numbers in topics for number in numbers)
        previous = ProducerIdAndEpoch(previous_id, previous_epoch)
        return transactional_id, TransactionMetadata(
            transactional_id, producer_id, epoch, timeout_ms, state, partitions, start_ms, update_ms, previous, *others
        )  # fmt: skip
    except (TypeError, ValueError) as error:
        raise damaged(key if value is None else value, str(error)) from error
