"""The coordinator of transactions: its states, what a request may do in each, and requests that come late or again."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count

import pytest

from streamlog.coordinator.schema import LogRecord
from streamlog.coordinator.transaction import (
    BY_OPERATOR,
    BY_REOPENING,
    BY_TIMEOUT,
    LAST_EPOCH,
    ProducerIdAndEpoch,
    TransactionMetadata,
    decode,
    record_of,
)
from streamlog.coordinator.transaction_shard import EXPIRATION_MS, TransactionShard
from streamlog.errors import (
    ConcurrentTransactionsError,
    ConfigError,
    CoordinatorLoadInProgressError,
    DiskFullError,
    FormatError,
    InvalidTxnStateError,
    ProducerFencedError,
)
from streamlog.runtime.api import Completion
from streamlog.types import TopicPartition
from tests.times import START_MS

A, B = TopicPartition("a", 0), TopicPartition("b", 3)
ID = "enrich-1"


class World:
    """A shard over a list. `failing` makes appends fail, `parking` has them finish later."""

    def __init__(self) -> None:
        self.log: list[LogRecord] = []
        self.now_ms, self.now_s = START_MS, 50.0
        self.ids = count(100)
        self.failing: Exception | None = None
        self.parking = False
        self.parked: list[Completion[int]] = []
        self.open("1")

    def open(self, incarnation: str) -> None:
        self.shard = TransactionShard(self.append, lambda: next(self.ids), incarnation=incarnation)
        self.shard.replay(self.log, self.now_ms, self.now_s)
        self.shard.loaded()
        self.shard.check()

    def append(self, records: Sequence[LogRecord]) -> Completion[int]:
        if self.failing is not None:
            raise self.failing
        self.log += records
        if not self.parking:
            return Completion.of(len(self.log))
        self.parked.append(Completion())
        return self.parked[-1]

    def init(
        self, current: ProducerIdAndEpoch | None = None, timeout_ms: int = 60_000, *, remote: bool = False
    ) -> ProducerIdAndEpoch:
        return self.shard.init_producer_id(ID, timeout_ms, current, remote, self.now_ms).result()

    def add(self, producer: ProducerIdAndEpoch, *partitions: TopicPartition) -> None:
        self.shard.add_partitions(ID, producer, partitions or (A,), self.now_ms, self.now_s).result()
        self.shard.check()

    def end(self, producer: ProducerIdAndEpoch, commit: bool = True, *, bump: bool = True) -> ProducerIdAndEpoch:
        """Decide, and complete."""
        following = self.shard.end(ID, producer, commit, bump, self.now_ms).result()
        self.shard.check()
        self.complete()
        return following

    def complete(self) -> None:
        for decided in self.shard.decided():
            self.shard.complete(decided, self.now_ms).result()
        self.shard.check()

    @property
    def metadata(self) -> TransactionMetadata:
        return self.shard.transactions[ID]

    @property
    def state(self) -> str:
        return self.metadata.state


@pytest.fixture
def world() -> World:
    return World()


def test_a_transaction_is_ongoing_then_decided_then_complete(world: World) -> None:
    producer = world.init()
    assert (producer, world.state) == ((100, 0), "Empty")
    world.add(producer, A)
    world.add(producer, B)
    assert (world.state, world.metadata.partitions) == ("Ongoing", {A, B})
    assert world.shard.end(ID, producer, True, True, world.now_ms).result() == (100, 1)
    assert (world.state, world.metadata.partitions, world.metadata.producer) == ("PrepareCommit", {A, B}, (100, 1))
    world.complete()
    assert (world.state, world.metadata.partitions) == ("CompleteCommit", frozenset())
    assert world.end(world.metadata.producer, commit=False) == (100, 2)  # of nothing
    assert world.state == "CompleteAbort"


def test_replaying_the_log_gives_the_same_state(world: World) -> None:
    producer = world.init(remote=True)
    world.add(producer, A, B)
    before = dict(world.shard.transactions)
    world.open("2")
    assert world.shard.transactions == before
    assert world.shard.next_deadline_s() == world.now_s + 60
    world.end(producer)
    world.shard.write_completed().result()
    before = dict(world.shard.transactions)
    world.open("3")
    assert world.shard.transactions == before


def test_that_a_transaction_is_complete_is_written_once_nothing_else_of_the_id_follows(world: World) -> None:
    producer = world.init()
    for number in range(3):
        before = len(world.log)
        world.add(producer, A)
        producer = world.end(producer)
        assert len(world.log) == before + 2, number
        assert world.shard.has_completed
    world.failing = DiskFullError("full")
    assert isinstance(world.shard.write_completed().error(), DiskFullError)
    world.failing = None
    for _ in range(2):
        world.shard.write_completed().result()
        world.shard.check()
        assert (len(world.log), world.shard.has_completed) == (before + 3, False)
    world.open("2")
    assert (world.state, world.metadata.producer, world.shard.decided()) == ("CompleteCommit", producer, [])


def test_that_a_transaction_of_an_older_client_is_complete_is_written_at_once(world: World) -> None:
    producer = world.init(remote=True)
    world.add(producer, A)
    world.end(producer, bump=False)
    assert not world.shard.has_completed
    world.open("2")
    assert (world.state, world.shard.decided()) == ("CompleteCommit", [])


def test_a_transaction_whose_completion_was_not_written_is_completed_again_and_nothing_later_is(world: World) -> None:
    producer = world.init()
    world.add(producer, A)
    following = world.end(producer)
    world.open("2")
    assert [each.producer for each in world.shard.decided()] == [following]
    with pytest.raises(ConcurrentTransactionsError):
        world.add(following, B)
    world.complete()
    world.add(following, B)
    world.open("3")
    assert (world.state, world.metadata.partitions, world.shard.decided()) == ("Ongoing", {B}, [])
    world.end(following)
    assert world.init().producer_epoch > following.producer_epoch + 1
    assert not world.shard.has_completed


def test_every_record_is_decoded_as_it_was() -> None:
    full = TransactionMetadata(
        "x\udc80", 5, 7, 9, "PrepareAbort", frozenset({A, B}), 1, 2, ProducerIdAndEpoch(3, 4), 8, True, "i", BY_TIMEOUT
    )
    assert decode(*record_of(full)) == ("x\udc80", full)
    key, value = record_of(full)
    assert decode(key, None) == ("x\udc80", None)
    assert value is not None
    with pytest.raises(FormatError, match="damaged"):
        decode(key, value[:3])
    with pytest.raises(FormatError, match="damaged"):
        decode(key, b"\x92\x00\x01")


def test_an_end_that_is_asked_again_is_answered_again(world: World) -> None:
    producer = world.init()
    world.add(producer)
    following = world.end(producer)
    written = len(world.log)
    assert world.end(producer) == following
    assert len(world.log) == written
    with pytest.raises(InvalidTxnStateError, match="committed already"):
        world.end(producer, commit=False)


@pytest.mark.parametrize("commit", [True, False])
def test_a_delayed_end_does_not_touch_the_next_transaction(world: World, commit: bool) -> None:
    producer = world.init()
    world.add(producer)
    following = world.end(producer)
    world.add(following, B)
    with pytest.raises(ProducerFencedError):
        world.end(producer, commit)
    assert (world.state, world.metadata.producer) == ("Ongoing", following)
    with pytest.raises(ProducerFencedError):
        world.add(producer, A)
    assert world.metadata.partitions == {B}


def test_a_second_producer_aborts_what_is_open_and_fences(world: World) -> None:
    zombie = world.init()
    world.add(zombie)
    with pytest.raises(ConcurrentTransactionsError, match="PrepareAbort"):
        world.init()
    with pytest.raises(ConcurrentTransactionsError):
        world.init()
    world.complete()
    producer = world.init()
    assert producer == (100, 2)
    for late in (lambda: world.end(zombie), lambda: world.end(zombie, commit=False), lambda: world.add(zombie)):
        with pytest.raises(ProducerFencedError, match="taken over"):
            late()
    with pytest.raises(ProducerFencedError):
        world.init(zombie)
    world.add(producer)


def test_a_fenced_producer_never_gets_the_epoch_of_its_successor(world: World) -> None:
    zombie = world.init()
    producer = world.init()
    with pytest.raises(ProducerFencedError):
        world.init(zombie)
    world.add(producer)
    with pytest.raises(ProducerFencedError):
        world.init(zombie)
    assert world.state == "Ongoing"


def test_a_producer_that_begins_anew_with_its_epoch_may_ask_twice(world: World) -> None:
    producer = world.init()
    following = world.init(producer)
    assert following == (100, 1)
    assert world.init(producer) == following  # the answer was lost
    world.add(following)
    with pytest.raises(ProducerFencedError):
        world.init(producer)
    ended = world.end(following)
    assert world.init(following) == (100, 3)  # of which the end's answer was lost
    with pytest.raises(ProducerFencedError):
        world.end(ended)


def test_a_producer_id_whose_epochs_run_out_is_replaced(world: World) -> None:
    producer = world.init()
    world.shard.replay([record_of(world.metadata._replace(producer_epoch=LAST_EPOCH))], 0, 0.0)
    producer = ProducerIdAndEpoch(producer.producer_id, LAST_EPOCH)
    world.add(producer)
    assert world.shard.end(ID, producer, True, True, world.now_ms).result() == (101, 0)
    assert (world.metadata.producer, world.metadata.next_producer_id) == ((100, LAST_EPOCH + 1), 101)
    world.complete()
    assert (world.metadata.producer, world.metadata.next_producer_id) == ((101, 0), -1)
    assert world.end(producer) == (101, 0)
    world.add(ProducerIdAndEpoch(101, 0))
    with pytest.raises(ProducerFencedError):
        world.end(producer)


def test_a_producer_that_begins_anew_at_the_last_epoch_gets_another_id(world: World) -> None:
    world.init()
    world.shard.replay([record_of(world.metadata._replace(producer_epoch=LAST_EPOCH))], 0, 0.0)
    assert world.init() == (101, 0)


def test_clients_of_the_older_protocol_keep_their_epoch(world: World) -> None:
    producer = world.init(remote=True)
    with pytest.raises(InvalidTxnStateError):
        world.end(producer, commit=False, bump=False)
    world.add(producer)
    assert world.end(producer, bump=False) == producer
    assert world.end(producer, bump=False) == producer
    with pytest.raises(InvalidTxnStateError):
        world.end(producer, commit=False, bump=False)
    world.add(producer)
    assert world.end(producer, commit=False, bump=False) == producer
    assert world.state == "CompleteAbort"


def test_nothing_is_committed_of_no_transaction(world: World) -> None:
    producer = world.init()
    with pytest.raises(InvalidTxnStateError, match="no transaction to commit"):
        world.end(producer)
    world.add(producer)
    following = world.end(producer)
    with pytest.raises(InvalidTxnStateError, match="no transaction to commit"):
        world.end(following)


def test_no_partition_is_added_while_the_last_transaction_is_being_completed(world: World) -> None:
    producer = world.init()
    world.add(producer)
    following = world.shard.end(ID, producer, True, True, world.now_ms).result()
    with pytest.raises(ConcurrentTransactionsError, match="a-0"):
        world.add(following)
    world.complete()
    world.add(following)


def test_a_transaction_is_overdue_by_the_monotonic_clock(world: World) -> None:
    producer = world.init(timeout_ms=5_000)
    world.add(producer)
    world.now_ms += 10**9
    world.add(producer, B)
    assert world.shard.overdue(world.now_s + 4.9) == []
    assert world.shard.overdue(world.now_s + 5) == [ID]
    world.shard.abort(ID, BY_TIMEOUT, world.now_ms).result()
    world.complete()
    assert world.shard.overdue(world.now_s + 5) == []
    with pytest.raises(ProducerFencedError, match="timeout_ms=5000") as caught:
        world.end(producer)
    assert caught.value.timed_out
    with pytest.raises(ProducerFencedError, match="timeout_ms=5000"):
        world.init(producer)


def test_what_is_left_of_a_timeout_is_kept_over_a_replay(world: World) -> None:
    producer = world.init(timeout_ms=5_000, remote=True)
    world.add(producer)
    world.now_ms += 2_000
    world.now_s = 7.0
    world.open("2")
    assert world.shard.next_deadline_s() == 10.0
    world.now_ms -= 1_000_000  # the wall clock is set back: no longer than the timeout
    world.open("2")
    assert world.shard.next_deadline_s() == 12.0


def test_a_replay_in_the_same_process_changes_no_deadline_though_the_wall_clock_was_set(world: World) -> None:
    world.add(world.init(timeout_ms=5_000))
    for jump_ms in (10**9, -2 * 10**9):
        world.now_ms += jump_ms
        world.now_s += 1.0
        world.shard.elect()
        world.shard.elect()  # the first one was interrupted before the replay
        world.shard.replay(world.log, world.now_ms, world.now_s)
        world.shard.loaded()
        assert world.shard.next_deadline_s() == 55.0
    world.shard.check()


def test_open_transactions_of_a_process_that_is_gone_are_known(world: World) -> None:
    producer = world.init()
    world.add(producer)
    assert world.shard.left_open() == []
    world.open("2")
    assert world.shard.left_open() == [ID]
    world.shard.abort(ID, BY_REOPENING, world.now_ms).result()
    assert world.shard.left_open() == []
    world.complete()
    remote = world.init(remote=True)
    world.add(remote)
    world.open("3")
    assert world.shard.left_open() == []


def test_an_operator_aborts_what_is_open_and_nothing_else(world: World) -> None:
    producer = world.init()
    written = len(world.log)
    world.shard.abort(ID, BY_OPERATOR, world.now_ms).result()
    assert len(world.log) == written
    world.add(producer)
    world.shard.abort(ID, BY_OPERATOR, world.now_ms).result()
    world.complete()
    with pytest.raises(ProducerFencedError, match="abort_transaction"):
        world.add(producer)
    with pytest.raises(ProducerFencedError, match="no producer with"):
        world.shard.abort("other", BY_OPERATOR, world.now_ms).result()


def test_partitions_of_an_open_transaction_are_known_by_its_producer(world: World) -> None:
    producer = world.init()
    world.add(producer, A)
    assert world.shard.has(producer, A)
    assert not world.shard.has(producer, B)
    assert not world.shard.has(ProducerIdAndEpoch(100, 9), A)
    assert world.shard.open_partitions(ID, producer) == {A}
    assert world.shard.open_partitions(ID, ProducerIdAndEpoch(100, 9)) == frozenset()
    world.shard.end(ID, producer, True, True, world.now_ms).result()
    assert not world.shard.has(producer, A)


def test_ids_without_transactions_are_forgotten_after_a_week_and_open_ones_never(world: World) -> None:
    producer = world.init(timeout_ms=900_000)
    world.add(producer)
    world.shard.expire(world.now_ms + 10 * EXPIRATION_MS).result()
    assert world.state == "Ongoing"
    world.end(producer)
    world.shard.expire(world.now_ms + EXPIRATION_MS - 1).result()
    assert world.state == "CompleteCommit"
    world.shard.expire(world.now_ms + EXPIRATION_MS).result()
    assert not world.shard.transactions
    with pytest.raises(ProducerFencedError, match="forgotten"):
        world.add(producer)
    assert world.init() == (101, 0)


def test_a_timeout_that_is_too_long_is_refused(world: World) -> None:
    for timeout_ms in (0, 900_001):
        with pytest.raises(ConfigError, match="transaction_timeout_ms"):
            world.init(timeout_ms=timeout_ms)


def test_nothing_changes_if_the_append_fails(world: World) -> None:
    producer = world.init()
    world.failing = DiskFullError("full")
    with pytest.raises(DiskFullError):
        world.add(producer)
    world.failing = None
    world.shard.check()
    assert world.state == "Empty"


def test_a_producer_whose_predecessor_cannot_be_aborted_gets_the_error_and_does_not_ask_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ConcurrentTransactionsError would have the caller ask again at once, for ever."""
    world.add(world.init())
    monkeypatch.setattr(world.shard, "_append", lambda records: Completion.failed(DiskFullError("full")))
    with pytest.raises(DiskFullError):
        world.init()
    world.shard.check()
    assert world.state == "Ongoing"


def test_an_answer_waits_until_its_records_count_as_written(world: World) -> None:
    producer = world.init()
    world.parking = True
    added = world.shard.add_partitions(ID, producer, [A], world.now_ms, world.now_s)
    again = world.shard.add_partitions(ID, producer, [A], world.now_ms, world.now_s)
    assert not added.done()
    assert not again.done()
    assert not world.shard.all_written().done()
    world.parked[0].complete(1)
    assert added.done()
    assert again.done()
    assert world.shard.all_written().done()


def test_after_a_write_that_failed_later_the_log_has_to_be_replayed(world: World) -> None:
    producer = world.init()
    world.parking = True
    ended = world.shard.add_partitions(ID, producer, [A], world.now_ms, world.now_s)
    world.parked[0].fail(DiskFullError("full"))
    assert isinstance(ended.error(), DiskFullError)
    with pytest.raises(CoordinatorLoadInProgressError):
        world.init()
    world.parking = False
    world.shard.elect()
    world.shard.replay(world.log[:1], world.now_ms, world.now_s)
    world.shard.loaded()
    world.add(producer)


def test_records_of_a_newer_version_are_refused(world: World) -> None:
    producer = world.init()
    key, value = record_of(world.metadata._replace(producer_epoch=producer.producer_epoch))
    assert value is not None
    newer = value.replace(b"\x00", b"\x09", 1)
    world.shard.elect()
    world.shard.replay([(key, newer)], 0, 0.0)
    with pytest.raises(FormatError, match="newer"):
        world.shard.loaded()
