"""The transactions of a producer, before a coordinator that a test answers by hand: what is asked, and what an interrupt leaves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from streamlog.broker.api import ProduceRequest, ProducerIdAndEpoch
from streamlog.client import retrying
from streamlog.client.consumer.group_offsets import GroupOffsets
from streamlog.client.producer.accumulator import RecordAccumulator
from streamlog.client.producer.delivery import Delivery
from streamlog.client.producer.transaction import State, TransactionManager, TransactionScope
from streamlog.config import ProducerConfig
from streamlog.errors import (
    CommitFailedError,
    ConcurrentUseError,
    DeliveryError,
    DiskFullError,
    InvalidTxnStateError,
    ProducerFencedError,
    RequestTimedOutError,
    StreamlogError,
    TransactionAbortedError,
)
from streamlog.records.batch import TRANSACTIONAL
from streamlog.runtime.api import Completion
from streamlog.types import OffsetAndMetadata, TopicPartition
from tests.unit.client.producer.conftest import HandService

BEFORE, AFTER = "before", "after"


class Coordinator(HandService):
    """A log and the coordinator of one transactional id, as `Service` says. `calls` has what was asked.

    `faults` has what the next call of a name raises, or answers, and whether that comes before or after the call has its effect;
    `meanwhile` what happens before it answers. Calls whose names are `unanswered` have no effect and no answer yet.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, ...]] = []
        self.faults: dict[str, tuple[BaseException, str]] = {}
        self.meanwhile: dict[str, Callable[[], object]] = {}
        self.unanswered: set[str] = set()
        self.epoch = -1
        self.outcome: bool | None = None
        self.is_open = False
        self.outcomes: list[bool] = []
        self.requests: list[ProduceRequest] = []

    def _answer(self, name: str, effect: Callable[[], Any]) -> Completion[Any]:
        if name in self.unanswered:
            return Completion()
        fault = self.faults.pop(name, None)
        answer = None
        if fault is None or fault[1] == AFTER:
            try:
                answer = effect()
            except StreamlogError as error:
                return Completion.failed(error)
        if (meanwhile := self.meanwhile.pop(name, None)) is not None:
            meanwhile()
        if fault is None:
            return Completion.of(answer)
        if isinstance(fault[0], StreamlogError):
            return Completion.failed(fault[0])
        raise fault[0]

    def _check(self, producer: ProducerIdAndEpoch) -> None:
        if producer.producer_epoch != self.epoch:
            raise ProducerFencedError("another producer has taken over")

    def init_producer_id(self, transactional_id: str, timeout_ms: int) -> Completion[ProducerIdAndEpoch]:
        def effect() -> ProducerIdAndEpoch:
            self.is_open, self.epoch, self.outcome = False, self.epoch + 1, None
            return ProducerIdAndEpoch(7, self.epoch)

        return self._answer("init", effect)

    def add_partitions_to_txn(
        self,
        transactional_id: str,
        producer: ProducerIdAndEpoch,
        partitions: Sequence[TopicPartition],
        groups: Sequence[str] = (),
    ) -> Completion[None]:
        def effect() -> None:
            self._check(producer)
            self.is_open = True
            self.calls.append(
                ("add", producer.producer_epoch, *[f"{name.topic}-{name.partition}" for name in partitions], *groups)
            )

        return self._answer("add", effect)

    def add_offsets_to_txn(self, transactional_id: str, producer: ProducerIdAndEpoch, group: str) -> Completion[None]:
        def effect() -> None:
            self._check(producer)
            self.is_open = True
            self.calls.append(("group", group))

        return self._answer("group", effect)

    def txn_commit_offsets(
        self, transactional_id: str, producer: ProducerIdAndEpoch, group: str, *given: Any
    ) -> Completion[None]:
        return self._answer("offsets", lambda: self.calls.append(("offsets", group)))

    def abort_transaction(self) -> None: ...
    def describe_transaction(self) -> None: ...
    def list_transactions(self) -> None: ...
    def end_txn(self, transactional_id: str, producer: ProducerIdAndEpoch, commit: bool) -> Completion[Any]:
        def effect() -> ProducerIdAndEpoch:
            if producer.producer_epoch == self.epoch - 1 and self.outcome is not None:  # asked again
                if self.outcome is not commit:
                    raise InvalidTxnStateError("it was decided otherwise")
                return ProducerIdAndEpoch(7, self.epoch)
            self._check(producer)
            if not self.is_open and commit:
                raise InvalidTxnStateError("there is nothing to commit")
            self.calls.append(("commit" if commit else "abort", producer.producer_epoch))
            self.outcomes.append(commit)
            self.is_open, self.outcome, self.epoch = False, commit, self.epoch + 1
            return ProducerIdAndEpoch(7, self.epoch)

        return self._answer("end", effect)

    def produce(self, request: ProduceRequest) -> Completion[int]:
        answer = super().produce(request)
        self.requests.append(request)
        return answer


class Reader:
    def __init__(self) -> None:
        self.notes: list[Any] = []

    def begin(self, manager: TransactionManager) -> None: ...
    def take_part(self, open_transaction: Any) -> None: ...
    def is_of(self, consumer: object) -> bool:
        return False

    def position(self) -> dict[Any, int]:
        return {}

    def has_moved_from(self, position: object) -> bool:
        return False

    def not_begun(self) -> None:
        self.notes.append("not begun")

    def committed(self, offsets: Any) -> None:
        self.notes.append("committed")

    def rewind(self, *, ask: bool) -> None:
        self.notes.append("asked" if ask else "rewound")


class One:
    """A transactional producer without its handle."""

    def __init__(self, **config: Any) -> None:
        self.service = Coordinator()
        self.manager = TransactionManager(self.service, "t-1", 60_000)  # type: ignore[arg-type]
        settings = ProducerConfig(**{"linger_ms": 1000, **config})
        self.accumulator = RecordAccumulator(self.service, settings, None, self.manager)  # type: ignore[arg-type]
        self.view = self.service.add_topic("t", 3)

    def send(self, partition: int = 0) -> Delivery[Any]:
        batch, index = self.accumulator.add(self.accumulator.queue(self.view, partition), (None, b"v", 1), 20)
        return Delivery(batch, index)

    @property
    def calls(self) -> list[tuple[Any, ...]]:
        return self.service.calls

    def stamps(self) -> list[tuple[int, int, bool]]:
        """Epoch, sequence and whether it is transactional, of each batch that was written."""
        return [
            (batch.producer_epoch, batch.base_sequence, bool(batch.attributes & TRANSACTIONAL))
            for request in self.service.requests
            for batch in request.batches
        ]


@pytest.fixture
def one() -> One:
    return One()


def offsets() -> GroupOffsets:
    return GroupOffsets("g", None, 0, {TopicPartition("in", 0): OffsetAndMetadata(5)}, {})


# -- the course of a transaction --------------------------------------------------------------------------


def test_a_partition_is_added_once_in_a_transaction_before_its_first_record(one: One) -> None:
    one.manager.begin()
    assert one.calls == []  # the beginning costs no request
    one.send()
    one.send()
    one.accumulator.flush(None)
    one.send()
    assert one.calls == [("add", 0, "t-0")]
    one.send(2)
    one.manager.commit()
    assert one.calls == [("add", 0, "t-0"), ("add", 0, "t-2"), ("commit", 0)]


def test_the_partitions_of_one_call_are_added_together(one: One) -> None:
    one.manager.begin()
    one.manager.enter([one.accumulator.queue(one.view, n) for n in (0, 1, 1, 2)])
    assert one.calls == [("add", 0, "t-0", "t-1", "t-2")]


def test_each_transaction_has_the_epoch_that_the_last_one_brought_and_sequences_from_zero(one: One) -> None:
    for _ in range(2):
        one.manager.begin()
        one.send()
        one.accumulator.flush(None)
        one.send()
        one.manager.commit()
    assert one.stamps() == [(0, 0, True), (0, 1, True), (1, 0, True), (1, 1, True)]


def test_a_commit_writes_what_lingers_before_it_is_decided(one: One) -> None:
    one.manager.begin()
    delivery = one.send()
    assert one.service.writes == []
    one.manager.commit()
    assert one.service.writes == [[1]]
    assert delivery.done()


def test_a_transaction_without_records_asks_nothing_of_the_coordinator(one: One) -> None:
    one.manager.begin()
    one.manager.commit()
    one.manager.begin()
    one.manager.abort()
    assert one.calls == []
    assert one.manager.producer.producer_epoch == 0


def test_an_abort_drops_what_is_not_written_and_its_deliveries_say_so(one: One) -> None:
    one.manager.begin()
    delivery = one.send()
    one.manager.abort()
    assert one.service.writes == []
    assert isinstance(delivery.exception(), TransactionAbortedError)
    assert one.calls[-1] == ("abort", 0)
    one.accumulator.report()  # nothing
    one.manager.begin()
    one.send()
    one.manager.commit()
    assert one.stamps() == [(1, 0, True)]


def test_an_abort_gives_the_buffer_back() -> None:
    one = One(buffer_memory=60, batch_size=60)
    for _ in range(3):
        one.manager.begin()
        one.send()
        one.manager.abort()


def test_records_that_wait_to_be_acknowledged_are_aborted_too(one: One) -> None:
    one.manager.begin()
    one.service.answers = [pending := Completion()]
    delivery = one.send()
    queue = one.accumulator.queue(one.view, 0)
    queue.close_batch()
    queue.drain()
    one.manager.abort()
    assert isinstance(delivery.exception(), TransactionAbortedError)
    pending.complete(0)  # late
    assert isinstance(delivery.exception(), TransactionAbortedError)


def test_offsets_are_committed_with_the_transaction_and_the_group_is_added_once(one: One) -> None:
    reader = Reader()
    one.manager.begin()
    one.manager.send_offsets(reader, offsets())
    one.manager.send_offsets(reader, offsets())
    assert reader.notes == []
    one.manager.commit()
    assert one.calls == [("group", "g"), ("offsets", "g"), ("offsets", "g"), ("commit", 0)]
    assert set(reader.notes) == {"committed"}


def test_a_group_that_is_known_from_the_beginning_is_added_with_the_first_partition(one: One) -> None:
    with TransactionScope(one.manager, None, group="g"):
        one.send()
        one.send(1)
        one.manager.send_offsets(Reader(), offsets())
    assert one.calls == [("add", 0, "t-0", "g"), ("add", 0, "t-1"), ("offsets", "g"), ("commit", 0)]


def test_no_offsets_are_no_request(one: One) -> None:
    one.manager.begin()
    one.manager.send_offsets(Reader(), offsets()._replace(offsets={}))
    assert one.calls == []


# -- what is refused ------------------------------------------------------------------------------------------


def test_outside_of_a_transaction_nothing_is_sent_and_nothing_ends(one: One) -> None:
    with pytest.raises(InvalidTxnStateError, match="begin_transaction"):
        one.send()
    for call in (one.manager.commit, one.manager.abort, lambda: one.manager.send_offsets(Reader(), offsets())):
        with pytest.raises(InvalidTxnStateError):
            call()
    one.manager.begin()
    one.send()
    one.manager.commit()
    with pytest.raises(InvalidTxnStateError):
        one.send()
    assert one.service.writes == [[1]]


def test_a_second_begin_is_refused(one: One) -> None:
    one.manager.begin()
    with pytest.raises(InvalidTxnStateError, match="open already"):
        one.manager.begin()


def test_a_nested_block_is_refused_and_both_are_aborted(one: One) -> None:
    with pytest.raises(InvalidTxnStateError, match="open already"), TransactionScope(one.manager, None):
        one.send()
        with TransactionScope(one.manager, None):
            pass
    assert one.service.outcomes == [False]


def test_a_call_that_begins_or_ends_another_one_meanwhile_is_refused(one: One) -> None:
    one.manager.begin()
    one.send()
    refused: list[BaseException] = []

    def meanwhile() -> None:
        for call in (one.manager.abort, one.manager.begin):
            try:
                call()
            except ConcurrentUseError as error:
                refused.append(error)
        assert one.manager.is_ending_here()

    one.service.meanwhile["end"] = meanwhile
    one.manager.commit()
    assert len(refused) == 2
    assert not one.manager.is_ending_here()


def test_a_record_that_comes_while_another_thread_ends_the_transaction_is_refused(one: One) -> None:
    one.manager.begin()
    one.send()
    one.service.meanwhile["add"] = one.manager.commit
    with pytest.raises(InvalidTxnStateError):
        one.send(1)
    assert one.service.writes == [[1]]


# -- failures ---------------------------------------------------------------------------------------------


def test_after_a_record_that_failed_only_an_abort_is_possible(one: One) -> None:
    one.manager.begin()
    one.service.answers = [DiskFullError("full")]
    one.send()
    with pytest.raises(DeliveryError):
        one.manager.commit()
    with pytest.raises(InvalidTxnStateError, match="only be aborted") as raised:
        one.manager.commit()
    assert isinstance(raised.value.__cause__, DiskFullError)
    with pytest.raises(InvalidTxnStateError, match="only be aborted"):
        one.send(1)
    one.manager.abort()
    assert one.service.outcomes == [False]
    one.accumulator.report()


def test_a_failed_record_of_which_the_program_knows_fails_the_commit_all_the_same(one: One) -> None:
    one.manager.begin()
    one.service.answers = [DiskFullError("full")]
    delivery = one.send()
    assert isinstance(delivery.exception(), DiskFullError)
    with pytest.raises(InvalidTxnStateError, match="DiskFullError: full"):
        one.manager.commit()


def test_offsets_that_are_refused_leave_only_an_abort(one: One) -> None:
    one.manager.begin()
    one.service.faults["offsets"] = CommitFailedError("another member has it"), BEFORE
    with pytest.raises(CommitFailedError):
        one.manager.send_offsets(Reader(), offsets())
    with pytest.raises(InvalidTxnStateError, match="another member has it"):
        one.manager.commit()
    one.manager.abort()


@pytest.mark.parametrize("call", ["add", "group", "end"])
def test_a_fenced_producer_does_nothing_more(one: One, call: str) -> None:
    one.manager.begin()
    delivery = None
    if call == "end":
        delivery = one.send()
    one.service.epoch += 1  # another one has the id now
    with pytest.raises(ProducerFencedError):
        {"add": one.send, "group": lambda: one.manager.send_offsets(Reader(), offsets()), "end": one.manager.commit}[
            call
        ]()
    if call != "end":
        with pytest.raises(ProducerFencedError):
            one.manager.abort()
    assert delivery is None or delivery.done()
    assert one.manager.state is State.FATAL_ERROR
    for again in (one.manager.begin, one.manager.commit, one.manager.abort, one.send):
        with pytest.raises(ProducerFencedError):
            again()
    one.manager.close(None, InvalidTxnStateError("closed"))  # quiet
    one.accumulator.report()


def test_the_consumer_of_a_fenced_producer_goes_back_to_what_its_group_has_committed(one: One) -> None:
    reader = Reader()
    with pytest.raises(ProducerFencedError), TransactionScope(one.manager, None, reader):
        one.send()
        one.service.epoch += 1
    assert reader.notes == ["asked"]


def test_closing_aborts(one: One) -> None:
    one.manager.begin()
    one.send()
    one.manager.close(None, InvalidTxnStateError("closed"))
    assert one.service.outcomes == [False]
    assert one.manager.state is State.READY


def test_closing_after_a_commit_that_was_decided_leaves_it_committed(one: One) -> None:
    one.manager.begin()
    one.send()
    one.service.faults["end"] = KeyboardInterrupt(), AFTER
    with pytest.raises(KeyboardInterrupt):
        one.manager.commit()
    one.manager.close(None, InvalidTxnStateError("closed"))
    assert one.service.outcomes == [True]


def test_closing_waits_for_another_threads_call_no_longer_than_its_timeout(one: One) -> None:
    one.manager.begin()
    one.send()
    with one.manager._turn:
        one.manager.close(0.0, InvalidTxnStateError("closed"))
    assert one.service.outcomes == []


# -- blocks -----------------------------------------------------------------------------------------------


def test_closing_waits_for_the_coordinator_no_longer_than_its_timeout(
    one: One, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    one.manager.begin()
    one.send()
    waits: list[float | None] = []

    def answered_late(completion: Completion[Any], timeout: float | None) -> bool:
        waits.append(timeout)
        return False

    monkeypatch.setattr(retrying, "wait_for", answered_late)
    one.service.unanswered.add("end")
    one.manager.close(0.5, DiskFullError("closed"))
    [wait] = waits
    assert wait is not None
    assert 0 <= wait <= 0.5
    assert "left to its timeout" in caplog.text


def test_a_block_commits_at_its_end_and_aborts_on_any_exception(one: One) -> None:
    for error in (None, ValueError(), KeyboardInterrupt(), GeneratorExit()):
        reader = Reader()
        try:
            with TransactionScope(one.manager, None, reader):
                one.send()
                if error is not None:
                    raise error
        except BaseException as raised:
            assert raised is error
        assert reader.notes == ([] if error is None else ["rewound"])
    assert one.service.outcomes == [True, False, False, False]


def test_a_block_that_has_ended_its_transaction_does_nothing_at_its_end(one: One) -> None:
    with TransactionScope(one.manager, None):
        one.send()
        one.manager.abort()
    with TransactionScope(one.manager, None):
        one.send()
        one.manager.commit()
    assert one.service.outcomes == [False, True]


def test_a_block_whose_commit_fails_is_aborted(one: One) -> None:
    reader = Reader()
    one.service.answers = [DiskFullError("full")]
    with pytest.raises(DeliveryError), TransactionScope(one.manager, None, reader):
        one.send()
    assert one.service.outcomes == [False]
    assert reader.notes == ["rewound"]
    one.manager.begin()


# -- interrupts -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", [BEFORE, AFTER])
def test_an_interrupted_commit_of_a_block_is_what_the_coordinator_has_decided(one: One, where: str) -> None:
    reader = Reader()
    one.service.faults["end"] = KeyboardInterrupt(), where
    with pytest.raises(KeyboardInterrupt), TransactionScope(one.manager, None, reader):
        one.manager.send_offsets(reader, offsets())
        one.send()
    assert one.service.outcomes == [where == AFTER]
    assert reader.notes == ["committed" if where == AFTER else "rewound"]
    with TransactionScope(one.manager, None):
        one.send()
    assert one.stamps()[-1] == (1, 0, True)


@pytest.mark.parametrize("where", [BEFORE, AFTER])
def test_an_interrupted_commit_goes_on_when_it_is_called_again(one: One, where: str) -> None:
    one.manager.begin()
    one.send()
    one.service.faults["end"] = KeyboardInterrupt(), where
    with pytest.raises(KeyboardInterrupt):
        one.manager.commit()
    with pytest.raises(InvalidTxnStateError, match="again"):
        one.send()
    one.manager.commit()
    assert one.service.outcomes == [True]
    assert one.manager.producer.producer_epoch == 1


def test_an_abort_after_an_interrupted_commit_says_whether_it_is_committed(one: One) -> None:
    for where in (BEFORE, AFTER):
        one.manager.begin()
        one.send()
        one.service.faults["end"] = KeyboardInterrupt(), where
        with pytest.raises(KeyboardInterrupt):
            one.manager.commit()
        if where == AFTER:
            with pytest.raises(InvalidTxnStateError, match="is committed"):
                one.manager.abort()
        else:
            one.manager.abort()
    assert one.service.outcomes == [False, True]
    assert one.manager.state is State.READY


@pytest.mark.parametrize("where", [BEFORE, AFTER])
def test_an_interrupted_abort_goes_on_when_it_is_called_again(one: One, where: str) -> None:
    one.manager.begin()
    one.send()
    one.service.faults["end"] = KeyboardInterrupt(), where
    with pytest.raises(KeyboardInterrupt):
        one.manager.abort()
    one.manager.abort()
    assert one.service.outcomes == [False]


@pytest.mark.parametrize("where", [BEFORE, AFTER])
def test_a_send_whose_partition_was_being_added_may_be_made_again(one: One, where: str) -> None:
    one.manager.begin()
    one.service.faults["add"] = KeyboardInterrupt(), where
    with pytest.raises(KeyboardInterrupt):
        one.send()
    one.send()
    one.manager.commit()
    assert one.stamps() == [(0, 0, True)]


@pytest.mark.parametrize("where", [BEFORE, AFTER])
def test_an_abort_of_what_may_not_have_begun_at_the_coordinator_ends_it(one: One, where: str) -> None:
    one.manager.begin()
    one.service.faults["add"] = KeyboardInterrupt(), where
    with pytest.raises(KeyboardInterrupt):
        one.send()
    one.manager.abort()
    with TransactionScope(one.manager, None):
        one.send()
    assert one.stamps() == [(1, 0, True)]


def test_a_transaction_of_a_block_that_was_left_without_its_end_is_aborted_by_the_next(one: One) -> None:
    scope = TransactionScope(one.manager, None)
    scope.__enter__()
    one.send()
    with pytest.raises(InvalidTxnStateError):
        one.manager.begin()
    del scope
    with TransactionScope(one.manager, None):
        one.send()
    assert one.service.outcomes == [False, True]


def test_a_commit_that_failed_is_resolved_at_once(one: One) -> None:
    for where in (BEFORE, AFTER):
        reader = Reader()
        one.service.faults["end"] = StreamlogError("disk"), where
        with pytest.raises(StreamlogError, match="disk"), TransactionScope(one.manager, None, reader):
            one.manager.send_offsets(reader, offsets())
            one.send()
        assert reader.notes == ["committed" if where == AFTER else "rewound"]
    assert one.service.outcomes == [False, True]


def test_a_commit_that_timed_out_is_resolved_by_the_next_transaction(one: One, monkeypatch: pytest.MonkeyPatch) -> None:
    for where in (BEFORE, AFTER):
        reader = Reader()
        one.service.faults["end"] = RequestTimedOutError("late"), where
        scope = TransactionScope(one.manager, None, reader)
        monkeypatch.setattr("streamlog.client.retrying.DEFAULT_API_TIMEOUT_S", 0.0)
        with pytest.raises(RequestTimedOutError, match="late"), scope:
            one.manager.send_offsets(reader, offsets())
            one.send()
        monkeypatch.undo()
        assert reader.notes == []
        one.manager.begin()
        one.manager.abort()
        assert reader.notes == ["committed" if where == AFTER else "rewound"]
    assert one.service.outcomes == [False, True]
