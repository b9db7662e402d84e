"""The coordinator's states of a transactional id, by hypothesis: requests of several producers, delayed, repeated, in any order.

The model knows only what happened: which transaction is open, with which id and epoch, and how each ended. Whatever arrives, a
request changes nothing but the transaction that it was made for, and every transaction ends once.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from typing import NamedTuple

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from streamlog.coordinator.schema import LogRecord
from streamlog.coordinator.transaction import (
    BY_TIMEOUT,
    LAST_EPOCH,
    NO_PREVIOUS,
    ONGOING,
    ProducerIdAndEpoch,
    record_of,
)
from streamlog.coordinator.transaction_shard import TransactionShard
from streamlog.errors import ConcurrentTransactionsError, InvalidTxnStateError, ProducerFencedError
from streamlog.runtime.api import Completion
from streamlog.types import TopicPartition

ID = "id"
PARTITIONS = [TopicPartition("t", number) for number in range(3)]
REFUSED = (ProducerFencedError, InvalidTxnStateError, ConcurrentTransactionsError)
PICK = st.integers(0, 1 << 30)


class Ended(NamedTuple):
    """A transaction that was decided: by a request of `producer`, None for another reason."""

    producer: ProducerIdAndEpoch | None
    commit: bool
    partitions: frozenset[TopicPartition]


class TransactionalId(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.log: list[LogRecord] = []
        self.ids = count(1)
        self.now = 0
        self.failing = False
        self.given: list[ProducerIdAndEpoch] = []  # what producers were ever given: any may still be used
        self.newest: ProducerIdAndEpoch | None = None
        self.open: frozenset[TopicPartition] = frozenset()
        self.ended: list[Ended] = []
        self.marked: list[tuple[ProducerIdAndEpoch, TopicPartition, bool]] = []
        self.load()

    def load(self) -> None:
        self.shard = TransactionShard(self.append, lambda: next(self.ids), incarnation="1")
        self.shard.replay(self.log, self.now, self.now / 1000)
        self.shard.loaded()

    def append(self, records: Sequence[LogRecord]) -> Completion[int]:
        if self.failing:
            raise ConcurrentTransactionsError("the disk is full, say")
        self.log += records
        return Completion.of(len(self.log))

    def some(self, pick: int) -> ProducerIdAndEpoch:
        """One that a producer was given at some time: the newest in half of the cases."""
        return self.given[-1] if pick % 2 else self.given[pick // 2 % len(self.given)]

    def give(self, producer: ProducerIdAndEpoch) -> None:
        if producer != self.newest:
            assert producer not in self.given, "no producer gets what another one had"
            self.given.append(producer)
        self.newest = producer

    @rule(pick=PICK, goes_on=st.booleans())
    def init(self, pick: int, goes_on: bool) -> None:
        current = self.some(pick) if goes_on and self.given else None
        before, open_ = self.newest, self.open
        answer = self.shard.init_producer_id(ID, 60_000, current, False, self.now)
        known = self.shard.transactions.get(ID)
        if isinstance(answer.error(), ConcurrentTransactionsError) and open_ and known is not None and known.is_decided:
            assert current in (None, before), "only the newest producer, or a successor, aborts what is open"
            self.decide(current, False, known.producer_afterwards, given=False)
        elif answer.error() is None:
            assert not self.open
            assert known is not None and answer.result() == known.producer
            self.give(known.producer)
        else:
            assert isinstance(answer.error(), REFUSED)
            assert self.open == open_

    @precondition(lambda self: self.given)
    @rule(pick=PICK, partition=st.sampled_from(PARTITIONS))
    def add(self, pick: int, partition: TopicPartition) -> None:
        producer = self.some(pick)
        answer = self.shard.add_partitions(ID, producer, [partition], self.now, self.now / 1000)
        if answer.error() is None:
            assert producer == self.newest
            self.open |= {partition}
        else:
            assert isinstance(answer.error(), REFUSED)
            assert producer != self.newest or self.shard.decided() or self.shard.transactions[ID].producer != producer

    @precondition(lambda self: self.given)
    @rule(pick=PICK, commit=st.booleans())
    def end(self, pick: int, commit: bool) -> None:
        producer, open_ = self.some(pick), self.open
        written = len(self.log)
        answer = self.shard.end(ID, producer, commit, True, self.now)
        if answer.error() is not None:
            assert isinstance(answer.error(), REFUSED)
            assert len(self.log) == written
        elif len(self.log) > written:
            assert producer == self.newest
            assert open_ or not commit, "nothing is not committed"
            self.decide(producer, commit, answer.result())
        else:  # asked again
            assert self.ended[-1].producer == producer
            assert self.ended[-1].commit == commit
            assert answer.result() == self.newest

    def decide(
        self, producer: ProducerIdAndEpoch | None, commit: bool, following: ProducerIdAndEpoch, *, given: bool = True
    ) -> None:
        self.ended.append(Ended(producer, commit, self.open))
        self.open = frozenset()
        if given:
            self.give(following)
        else:
            self.newest = following

    @precondition(lambda self: self.open)
    @rule()
    def time_out(self) -> None:
        assert self.shard.overdue(self.now / 1000 + 60) == [ID]
        self.shard.abort(ID, BY_TIMEOUT, self.now).result()
        self.decide(None, False, self.shard.transactions[ID].producer_afterwards, given=False)

    @rule()
    def write_markers(self) -> None:
        for decided in self.shard.decided():
            assert decided.partitions == self.ended[-1].partitions
            assert decided.is_commit == self.ended[-1].commit
            for partition in decided.partitions:
                self.marked.append((decided.producer, partition, decided.is_commit))
            self.shard.complete(decided, self.now).result()
            self.shard.complete(decided, self.now).result()

    @rule()
    def the_log_is_replayed(self) -> None:
        """A transaction of which the last record is not in the log yet is decided again, and gets its markers again."""
        before = dict(self.shard.transactions)
        self.load()
        after = dict(self.shard.transactions)
        for decided in self.shard.decided():
            if not before[ID].is_decided:
                after[ID] = decided.completed(before[ID].update_ms)
                self.marked = [each for each in self.marked if each[0] != decided.producer]
        assert after == before

    @rule()
    def what_is_complete_is_written(self) -> None:
        self.shard.write_completed().result()
        assert not self.shard.has_completed

    @precondition(lambda self: self.newest is not None and not self.shard.decided())
    @rule()
    def epochs_run_out(self) -> None:
        """Many transactions later."""
        known = self.shard.transactions[ID]
        if known.state != ONGOING and known.producer_epoch < LAST_EPOCH - 3:
            record = record_of(known._replace(producer_epoch=LAST_EPOCH - 1, previous=NO_PREVIOUS))
            self.log.append(record)
            self.load()
            self.give(self.shard.transactions[ID].producer)

    @rule(seconds=st.integers(1, 10))
    def time_passes(self, seconds: int) -> None:
        self.now += 1000 * seconds

    @precondition(lambda self: self.given)
    @rule(pick=PICK, partition=st.sampled_from(PARTITIONS))
    def nothing_changes_if_the_append_fails(self, pick: int, partition: TopicPartition) -> None:
        before = dict(self.shard.transactions)
        self.failing = True
        self.shard.add_partitions(ID, self.some(pick), [partition], self.now, self.now / 1000)
        self.shard.end(ID, self.some(pick), True, True, self.now)
        self.failing = False
        assert self.shard.transactions == before

    @invariant()
    def the_state_is_that_of_the_model(self) -> None:
        self.shard.check()
        known = self.shard.transactions.get(ID)
        if known is not None:
            assert (known.partitions if known.state == ONGOING else frozenset()) == self.open
            assert known.producer_afterwards == self.newest

    @invariant()
    def no_two_transactions_have_markers_of_one_epoch(self) -> None:
        outcomes: dict[ProducerIdAndEpoch, bool] = {}
        for producer, _, commit in self.marked:
            assert outcomes.setdefault(producer, commit) == commit
        assert len(set(self.marked)) == len(self.marked)


TransactionalId.TestCase.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)
TestTransactionalId = TransactionalId.TestCase
