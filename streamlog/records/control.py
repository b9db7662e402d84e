"""Control batches: what the log notes about itself, at offsets of their own. Readers skip them.

The marker that ends a transaction has one record, with the bytes of Kafka's EndTransactionMarker. Numbers are big-endian.
"""

from __future__ import annotations

from functools import lru_cache
from struct import Struct
from typing import Any

from . import columns
from .batch import ABORT, COMMIT, CONTROL, CONTROL_SHIFT, TRANSACTIONAL, SealedBatch

_KEY = Struct(">hh")  # version, control type
_VALUE = Struct(">hi")  # version, epoch of the coordinator
_VERSION = 0
_new_batch: Any = tuple.__new__  # namedtuple's own __new__ is a Python call


def end_transaction_marker(
    seed: int, producer_id: int, producer_epoch: int, timestamp: int, *, commit: bool, coordinator_epoch: int
) -> SealedBatch:
    """The marker that commits or aborts the open transaction of a producer in one partition, that of `seed`.

    `coordinator_epoch` is the leader epoch of the coordinator that decided; `timestamp`: ms.
    """
    sealed = _sealed(seed, COMMIT if commit else ABORT, coordinator_epoch)
    marker: SealedBatch = _new_batch(
        SealedBatch, (*sealed[:6], timestamp, timestamp, *sealed[8:10], producer_id, producer_epoch, *sealed[12:])
    )
    return marker


@lru_cache(maxsize=1024)
def _sealed(seed: int, kind: int, coordinator_epoch: int) -> SealedBatch:
    """A marker of no producer, at no time: all of a partition have the same payload."""
    return columns.seal(
        seed, [_KEY.pack(_VERSION, kind)], [_VALUE.pack(_VERSION, coordinator_epoch)], 0,
        count=1, attributes=TRANSACTIONAL | CONTROL | kind << CONTROL_SHIFT,
    )  # fmt: skip
