"""The transactions of one partition: reading which there are, and the markers that end them (Kafka's WriteTxnMarkers)."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from functools import partial
from typing import NamedTuple, Protocol

from ..errors import ProducerFencedError, StreamlogError
from ..records.control import end_transaction_marker
from ..runtime.api import Completion
from ..runtime.threads import inside
from ..storage.log import AppendRequest, Log
from ..storage.transactions import UNREAD, TransactionSnapshot
from .repairs import Peer, Replica
from .replica_set import ReplicaSet

_READS = 3
"""How often the transactions are read, the last time under the lock: a truncation or a compaction may come in between."""


def read_transactions(replica: Replica) -> TransactionSnapshot | None:
    """The transactions of a replica, read from its files if they were not; None if there are none. Sealed segments are read
    under no lock. REQUIRES: no lock. Raises what reading raises."""
    for attempt in range(_READS):
        known = replica.reader.transactions
        if known is not UNREAD:
            return known
        if attempt < _READS - 1:
            sealed = replica.log.transactions.read_sealed()
            with inside(), replica.lock:
                replica.log.transactions.adopt(sealed)
        else:  # it was truncated, or compacted, again and again
            with inside(), replica.lock:
                replica.log.transactions.read()
    return replica.reader.transactions


def transactions_elsewhere(peers: Iterable[Peer], end: int) -> TransactionSnapshot | None:
    """`read_transactions` of the first other replica that has the same log up to `end`. Raises LookupError if none can say it."""
    for peer in peers:
        if peer.end >= end:
            with contextlib.suppress(StreamlogError):
                return read_transactions(peer.replica)
    raise LookupError


class Leader(Replica, Protocol):
    """What a marker needs of the leader's replica."""

    high_watermark: int
    replicas: ReplicaSet | None

    def append(self, write: AppendRequest, now_ms: int, check: Callable[[], object] | None = None) -> int: ...
    def acknowledge(self, write: AppendRequest, deadline_ms: int | None = None) -> Completion[int]: ...
    def require_in_sync(self) -> None: ...


class TransactionMarker(NamedTuple):
    """What ends the transaction of a producer in a partition, with the outcome that the coordinator has recorded.

    `is_bumped`: the epoch is greater than that of the transaction (KIP-890), so a marker that comes late is refused, also if the
    next transaction has begun; a late one of an older client, which is not bumped, cannot be told from one that is not, as in Kafka.
    """

    producer_id: int
    producer_epoch: int
    is_commit: bool
    coordinator_epoch: int
    is_bumped: bool = False


def append_marker(
    leader: Leader, marker: TransactionMarker, now_ms: int, deadline_ms: int | None = None
) -> Completion[int]:
    """Commit or abort the open transaction of a producer in this partition; the marker's offset, once readers may see it.

    Only the coordinator of transactions calls this; a second marker of the same outcome ends nothing and is harmless.
    `now_ms` is the log's clock. With a deadline (ms of real time) it
    fails with RequestTimedOutError then; the marker stays in the log. Raises NotLeaderError and NotEnoughReplicasError, which
    are retriable; ProducerFencedError if a newer epoch of the producer has written here; and what `Log.append` raises.
    """
    if leader.replicas is not None:
        leader.require_in_sync()
    log = leader.log
    producer_id, producer_epoch, commit, coordinator_epoch, is_bumped = marker
    sealed = end_transaction_marker(
        log.seed, producer_id, producer_epoch, now_ms, commit=commit, coordinator_epoch=coordinator_epoch
    )
    write = AppendRequest([sealed])
    leader.append(write, now_ms, partial(_refuse_late, log, producer_id, producer_epoch, now_ms) if is_bumped else None)
    with inside(), leader.lock:
        log.transactions.replicated(leader.high_watermark)
    return leader.acknowledge(write, deadline_ms)


def _refuse_late(log: Log, producer_id: int, producer_epoch: int, now_ms: int) -> None:
    """Raise ProducerFencedError if the transaction that is open began with the marker's own epoch. REQUIRES: the lock."""
    # An interrupt may have kept the marker from being noted, and this is it once more.
    log.transactions.note(log.reader.tail)
    log.transactions.read()
    if producer_id not in log.transactions.open:
        return
    known = log.producer_state(producer_id, now_ms)
    if known is not None and known.epoch >= producer_epoch:
        raise ProducerFencedError(
            f"A marker of producer {producer_id} with epoch {producer_epoch} comes too late: the transaction of that epoch has "
            f"begun here, and the marker is of the one before. Nothing was written.",
            producer_id=producer_id, producer_epoch=producer_epoch, current_epoch=known.epoch,
        )  # fmt: skip
