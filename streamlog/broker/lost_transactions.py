"""After a power loss without `sync=True`: transactions of which partitions know something else than the coordinator.

Each partition has lost another part of its end, the coordinator's log too. So a partition may have records of a transaction that
is not in the coordinator's log any more, or not open there: no marker would ever come, and readers of committed records would wait
for ever. Or the marker that comes would be that of a later transaction, and would commit what was aborted. And the
coordinator may know an epoch of a producer id that was given out once more before: with that, partitions would take the records of
a new producer for ones that they have.

So what is open in a partition, and is not a transaction of the coordinator, is aborted there (`end_unknown`), before any marker is
written; and every transactional id goes on with a new producer id (`TransactionShard.renew`). What was acknowledged since
the last sync may be lost by a power loss, parts of a transaction included: the table of promises says so.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ..coordinator.transaction import ONGOING, ProducerIdAndEpoch, TransactionMetadata
from ..errors import StreamlogError
from ..replication.partition import Partition
from ..replication.transactions import read_transactions
from ..runtime.api import Completion
from ..runtime.threads import inside
from ..types import TopicPartition

logger = logging.getLogger("streamlog.broker")

Leaders = Mapping[tuple[str, int], Partition]
AppendMarker = Callable[[TopicPartition, ProducerIdAndEpoch], Completion[Any]]


def open_in(leaders: Leaders) -> dict[tuple[int, TopicPartition], int]:
    """Where each open transaction begins, by producer id and partition. Those that were not read from a log are not seen."""
    return {
        (producer_id, TopicPartition(*name)): first
        for name, leader in list(leaders.items())
        for producer_id, first in list(leader.log.transactions.open.items())
    }


def end_unknown(
    leaders: Leaders, known: Callable[[], Iterable[TransactionMetadata]], append_marker: AppendMarker, now_ms: int
) -> bool:
    """Abort what is open in the partitions and no transaction that the coordinator knows; False if something has to be tried again.

    `append_marker` aborts; it raises nothing. `known` is called after the partitions were looked at: a transaction is known to the coordinator before a partition has a
    record of it. Cost: two reads of each segment of which the transactions were not read. REQUIRES: no lock.
    """
    done = True
    for name, leader in list(leaders.items()):
        try:
            read_transactions(leader)
        except StreamlogError as error:
            done = False
            logger.warning("the transactions of %s-%d could not be read yet: %s", *name, error)
    begun = open_in(leaders)
    epochs = {at: _epoch_in(leaders[at[1]], at[0], now_ms) for at in begun if at[1] in leaders}
    live = {(each.producer_id, _epoch_of(each), name) for each in known() for name in each.partitions}
    for at, first in open_in(leaders).items():
        producer_id, name = at
        epoch = epochs.get(at)
        if epoch is None or begun.get(at) != first or (producer_id, epoch, name) in live:
            continue
        logger.warning(
            "a power loss has left a transaction of producer %d open in %s-%d, of which nothing else is known: it is aborted",
            producer_id, *name,
        )  # fmt: skip
        failure = append_marker(name, ProducerIdAndEpoch(producer_id, epoch + 1)).error()
        if failure is not None:
            done = False
            logger.warning("it could not be aborted yet: %s", failure)
    return done


def _epoch_in(leader: Partition, producer_id: int, now_ms: int) -> int | None:
    """The epoch of the last batch of a producer in a partition: of the open transaction, if there is one."""
    with inside(), leader.lock:
        known = leader.log.producer_state(producer_id, now_ms)
    return None if known is None else known.epoch


def _epoch_of(transaction: TransactionMetadata) -> int:
    """The epoch of the records of a transaction; -1 if there is none."""
    if transaction.state == ONGOING:
        return transaction.producer_epoch
    return transaction.producer_epoch - transaction.is_bumped if transaction.is_decided else -1
