"""Bugs of transactions, most of them ones that others had, to be put back in: the simulation has to see each of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest

from streamlog.broker.service import LocalService
from streamlog.broker.transaction_coordinator import TransactionCoordinator
from streamlog.coordinator import commits
from streamlog.coordinator.commits import OffsetMetadataManager
from streamlog.coordinator.groups import Groups
from streamlog.coordinator.transaction import ONGOING, ProducerIdAndEpoch, TransactionMetadata
from streamlog.coordinator.transaction_shard import TransactionShard
from streamlog.replication.transactions import TransactionMarker
from streamlog.runtime.api import Completion
from streamlog.storage.log_transactions import LogTransactions, SealedTransactions
from streamlog.storage.producer_state import ProducerStates
from streamlog.storage.transactions import AbortedTransactions, TransactionSnapshot
from streamlog.types import TopicPartition

Bug = Callable[[pytest.MonkeyPatch], object]

# -- what readers see --------------------------------------------------------------------------------------


def readers_see_up_to_the_high_watermark(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(TransactionSnapshot, "last_stable_offset", lambda self, high_watermark, start_offset: high_watermark)


def aborted_transactions_are_not_remembered(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(AbortedTransactions, "add", lambda self, aborted: None)


def aborted_transactions_are_lost_by_an_open(patch: pytest.MonkeyPatch) -> None:
    """Scenario 14: aborted data looks committed (KAFKA-13727)."""
    adopt = LogTransactions.adopt

    def wrong(self: LogTransactions, sealed: SealedTransactions) -> bool:
        adopted = adopt(self, sealed)
        if self._known is not None:
            self._known.transactions.aborted = AbortedTransactions()
            self._publish()
        return adopted

    patch.setattr(LogTransactions, "adopt", wrong)


# -- the end of a transaction --------------------------------------------------------------------------------


def _ends_otherwise(
    patch: pytest.MonkeyPatch, change: Callable[[TopicPartition, TransactionMarker], TransactionMarker | None]
) -> None:
    """`change` gives what is written instead of a marker; None: it is not written."""
    append_marker = LocalService.append_marker

    def wrong(self: LocalService, name: TopicPartition, marker: TransactionMarker, deadline_ms: int) -> Completion[Any]:
        written = change(name, marker)
        return Completion.of(0) if written is None else append_marker(self, name, written, deadline_ms)

    patch.setattr(LocalService, "append_marker", wrong)


def a_marker_has_the_epoch_of_its_transaction(patch: pytest.MonkeyPatch) -> None:
    """Scenario 13: it fences nothing, and a delayed batch begins another transaction, unless the coordinator is asked (KIP-890)."""
    a_batch_of_no_transaction_is_taken(patch)
    _ends_otherwise(patch, lambda name, marker: marker._replace(producer_epoch=marker.producer_epoch - 1))


def one_partition_gets_no_marker(patch: pytest.MonkeyPatch) -> None:
    """Scenario 12: it hangs (KAFKA-12671)."""
    _ends_otherwise(patch, lambda name, marker: None if name == ("in", 1) else marker)


def one_partition_commits_what_is_aborted(patch: pytest.MonkeyPatch) -> None:
    _ends_otherwise(patch, lambda name, marker: marker._replace(is_commit=marker.is_commit or name == ("in", 1)))


def what_is_decided_is_aborted_by_the_next_process(patch: pytest.MonkeyPatch) -> None:
    replay = TransactionShard.replay

    def wrong(self: TransactionShard, records: Iterable[Any], *others: Any) -> None:
        replay(self, records, *others)
        for name, known in list(self.transactions.items()):
            if known.state == "PrepareCommit":
                self._put(name, known._replace(state="PrepareAbort"))

    patch.setattr(TransactionShard, "replay", wrong)


def what_a_process_left_open_waits_for_its_timeout(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(TransactionShard, "left_open", lambda self: [])


def a_commit_is_answered_before_it_is_decided(patch: pytest.MonkeyPatch) -> None:
    """The record of the decision is never written."""
    end = TransactionShard.end

    def wrong(
        self: TransactionShard,
        transactional_id: str,
        producer: ProducerIdAndEpoch,
        commit: bool,
        bump: bool,
        now_ms: int,
    ) -> Completion[ProducerIdAndEpoch]:
        known = self.transactions.get(transactional_id)
        if not commit or known is None or known.state != ONGOING or known.producer != producer:
            return end(self, transactional_id, producer, commit, bump, now_ms)
        made = known.ended(commit, now_ms, self._new_id, bump=bump)
        self._put(transactional_id, made)
        return Completion.of(made.producer_afterwards)

    patch.setattr(TransactionShard, "end", wrong)


# -- fencing -----------------------------------------------------------------------------------------------


def a_commit_after_a_fence_is_taken(patch: pytest.MonkeyPatch) -> None:
    """Scenario 13: a zombie commits what its successor has begun."""
    patch.setattr(TransactionMetadata, "require", lambda self, producer: None)


def a_delayed_end_ends_a_later_transaction(patch: pytest.MonkeyPatch) -> None:
    """Scenario 13: no transaction has an epoch of its own."""
    may_end = TransactionMetadata.may_end

    def wrong(self: TransactionMetadata, producer: ProducerIdAndEpoch, commit: bool, bump: bool) -> bool:
        if self.state == ONGOING and self.producer_id == producer.producer_id:
            return True
        return may_end(self, producer, commit, bump)

    patch.setattr(TransactionMetadata, "may_end", wrong)


def a_new_producer_does_not_end_what_is_open(patch: pytest.MonkeyPatch) -> None:
    """It goes on in the transaction of the one before."""
    init = TransactionShard.init_producer_id

    def wrong(
        self: TransactionShard, transactional_id: str, timeout_ms: int, current: Any, remote: bool, now_ms: int
    ) -> Completion[ProducerIdAndEpoch]:
        known = self.transactions.get(transactional_id)
        if known is not None and known.state == ONGOING:
            return Completion.of(known.producer)
        return init(self, transactional_id, timeout_ms, current, remote, now_ms)

    patch.setattr(TransactionShard, "init_producer_id", wrong)


def a_partition_takes_batches_of_older_epochs(patch: pytest.MonkeyPatch) -> None:
    """Neither it nor the coordinator refuses what a fenced producer writes."""
    check = ProducerStates.check

    def wrong(self: ProducerStates, batches: Any, now_ms: int) -> Any:
        known = self.get(batches[0].producer_id, now_ms)
        if known is not None and batches[0].producer_epoch < known.epoch:
            return None
        return check(self, batches, now_ms)

    patch.setattr(ProducerStates, "check", wrong)
    patch.setattr(TransactionCoordinator, "verify", lambda *_: None)


def a_batch_of_no_transaction_is_taken(patch: pytest.MonkeyPatch) -> None:
    """Scenario 12: it begins one that no coordinator knows, and that hangs (KIP-890)."""
    patch.setattr(TransactionCoordinator, "verify", lambda *_: None)


# -- offsets -----------------------------------------------------------------------------------------------


def offsets_count_before_the_marker(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Groups, "replay_pending", lambda self, producer_id, records: self._replay(records))


def offsets_count_though_the_transaction_is_aborted(patch: pytest.MonkeyPatch) -> None:
    replay_end = Groups.replay_end
    patch.setattr(Groups, "replay_end", lambda self, producer_id, commit: replay_end(self, producer_id, True))


def offsets_of_a_transaction_are_lost(patch: pytest.MonkeyPatch) -> None:
    replay_end = Groups.replay_end
    patch.setattr(Groups, "replay_end", lambda self, producer_id, commit: replay_end(self, producer_id, False))


def members_go_on_at_offsets_that_are_not_decided(patch: pytest.MonkeyPatch) -> None:
    """KIP-447: what the transaction has consumed is consumed twice."""
    patch.setattr(OffsetMetadataManager, "require_stable", lambda self, group, partitions: None)


def offsets_of_members_that_lost_their_partitions_are_taken(patch: pytest.MonkeyPatch) -> None:
    """KIP-447: nothing fences a worker by its group."""
    patch.setattr(commits, "_check_owned", lambda *_: None)


# -- time --------------------------------------------------------------------------------------------------


def a_jump_of_the_clock_ends_transactions(patch: pytest.MonkeyPatch) -> None:
    """After the coordinator's log was read again the wall clock says how long they are open."""
    elect = TransactionShard.elect

    def wrong(self: TransactionShard) -> None:
        elect(self)
        self._kept.clear()

    patch.setattr(TransactionShard, "elect", wrong)


def transactions_last_for_half_of_their_timeouts(patch: pytest.MonkeyPatch) -> None:
    add = TransactionShard.add_partitions

    def wrong(
        self: TransactionShard, transactional_id: str, producer: Any, partitions: Any, now_ms: int, now_s: float
    ) -> Completion[None]:
        half_s = self.transactions[transactional_id].timeout_ms / 2000
        return add(self, transactional_id, producer, partitions, now_ms, now_s - half_s)

    patch.setattr(TransactionShard, "add_partitions", wrong)


BUGS: list[Bug] = [
    readers_see_up_to_the_high_watermark,
    aborted_transactions_are_not_remembered,
    aborted_transactions_are_lost_by_an_open,
    a_marker_has_the_epoch_of_its_transaction,
    one_partition_gets_no_marker,
    one_partition_commits_what_is_aborted,
    what_is_decided_is_aborted_by_the_next_process,
    what_a_process_left_open_waits_for_its_timeout,
    a_commit_is_answered_before_it_is_decided,
    a_commit_after_a_fence_is_taken,
    a_delayed_end_ends_a_later_transaction,
    a_new_producer_does_not_end_what_is_open,
    a_partition_takes_batches_of_older_epochs,
    a_batch_of_no_transaction_is_taken,
    offsets_count_before_the_marker,
    offsets_count_though_the_transaction_is_aborted,
    offsets_of_a_transaction_are_lost,
    members_go_on_at_offsets_that_are_not_decided,
    offsets_of_members_that_lost_their_partitions_are_taken,
    a_jump_of_the_clock_ends_transactions,
    transactions_last_for_half_of_their_timeouts,
]
