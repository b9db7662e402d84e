"""Records consumed, records produced and offsets, all of them or none: the scopes of a transaction. And which are open."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

from ..broker.api import Service
from ..config import text
from ..runtime.threads import inside, new_lock
from ..runtime.values import refuse_to_copy
from ..types import Offsets, TransactionInfo
from .consumer.consumer import Consumer
from .consumer.transactional import GroupReader, check_reader
from .handle import Parent
from .producer.producer import Producer, SharedProducer
from .producer.transaction import State, TransactionScope
from .retrying import answer_of, with_coordinator_retries

# How long a record waits for others of its batch. Nothing is visible before the commit, which ends every linger.
_LINGER_MS = 100


def scope_with(
    producer: Producer, consumer: Consumer[Any, Any], offsets: Offsets | None = None
) -> AbstractContextManager[Producer]:
    """A transaction that commits `offsets` (None: the positions) of a consumer at its end, or takes the consumer back.

    REQUIRES: `check_reader` has accepted the consumer.
    """
    reader = GroupReader(consumer)
    return TransactionScope(
        producer._transactional(),
        producer,
        reader,
        lambda: producer.send_offsets_to_transaction(offsets, consumer),
        consumer._config.group,
    )


def open_transactions(service: Service) -> list[TransactionInfo]:
    """See `StreamLog.transactions`."""
    now_ms = service.clock.time_ms()
    return [
        TransactionInfo(
            each.transactional_id,
            each.state,
            each.producer_id,
            each.producer_epoch,
            max(0, now_ms - each.start_ms),
            each.partitions,
        )
        for each in answer_of(with_coordinator_retries(service).list_transactions())
        if each.partitions
    ]


def abort_transaction(service: Service, transactional_id: Any) -> None:
    """See `StreamLog.abort_transaction`."""
    text("transactional_id", transactional_id)
    answer_of(with_coordinator_retries(service).abort_transaction(transactional_id))


class TransactionalProducers:
    """The producers of `StreamLog.transaction`, one for each transactional id, so that a scope costs no new epoch. Thread-safe."""

    __reduce_ex__ = refuse_to_copy

    def __init__(self) -> None:
        self._lock = new_lock()
        self._producers: dict[str, SharedProducer] = {}

    def scope(
        self, log: Parent, transactional_id: str, consumer: Consumer[Any, Any] | None
    ) -> AbstractContextManager[Producer]:
        """See `StreamLog.transaction`."""
        if consumer is not None:
            check_reader(consumer, log)
        try:
            producer = self._of(log, transactional_id)
        except BaseException:
            if consumer is not None:
                GroupReader(consumer).not_begun()
            raise
        return producer.transaction() if consumer is None else scope_with(producer, consumer)

    def _of(self, log: Parent, transactional_id: str) -> Producer:
        """The producer of an id, made anew if it was closed or fenced."""
        text("transactional_id", transactional_id)
        with inside(), self._lock:
            shared = self._producers.get(transactional_id)
            if shared is None:
                shared = SharedProducer(transactional_id=transactional_id, linger_ms=_LINGER_MS)
                self._producers[transactional_id] = shared
        producer = shared.of(log)
        if producer._transactional().state is State.FATAL_ERROR:
            producer.close()
            producer = shared.of(log)
        return producer
