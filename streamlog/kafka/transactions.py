"""Producers: InitProducerId (22), and transactions: AddPartitionsToTxn (24), AddOffsetsToTxn (25), EndTxn (26), TxnOffsetCommit (28);
what is open: DescribeTransactions (65), ListTransactions (66).

A producer of the older protocol adds what belongs to a transaction, and keeps its epoch from one to the next. One of the newer one
(KIP-890), which it uses where the feature transaction.version is 2, adds nothing: its first batch of a partition does, and
TxnOffsetCommit; with each end (from version 5 on) it gets a new epoch. The producers are of another process: what they left open outlives the log's, and times out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from ..broker.api import ProducerIdAndEpoch, TransactionDescription
from ..errors import (
    ConfigError,
    InvalidPidMappingError,
    MissingExtraError,
    ProducerFencedError,
    StreamlogError,
)
from ..runtime.api import AllDone, Completion
from ..runtime.threads import result_of
from ..types import TopicPartition
from . import messages
from .api_keys import ApiKey
from .apis import Call, Later, by_topic, coordinates, not_coordinator
from .errors import ErrorCode
from .errors import coordinator_code_of as code_of
from .offsets import Commit, commit_code
from .patterns import matcher

_NO_PRODUCER, _NO_EPOCH = -1, -1
_FIRST_END_THAT_BUMPS = 5  # the producer's epoch (KIP-890)
_FIRST_THAT_FENCES, _FIRST_INIT_THAT_FENCES = 2, 4  # with PRODUCER_FENCED (KIP-588)
_FIRST_WITH_SEVERAL = 4  # transactions, in AddPartitionsToTxn (KIP-890)
_FIRST_COMMIT_WITH_IDS = 6  # of topics
_FIRST_COMMIT_THAT_ADDS = 5  # the group to the transaction (KIP-890)


def _code(error: BaseException, *, fences: bool) -> ErrorCode:
    """`fences`: the client knows PRODUCER_FENCED; older ones have INVALID_PRODUCER_EPOCH for it."""
    if isinstance(error, ProducerFencedError) and not isinstance(error, InvalidPidMappingError):
        return ErrorCode.PRODUCER_FENCED if fences else ErrorCode.INVALID_PRODUCER_EPOCH
    if isinstance(error, ConfigError):
        return ErrorCode.INVALID_TRANSACTION_TIMEOUT
    return code_of(error)


def _is_elsewhere(call: Call, transactional_id: str | None) -> bool:
    """Whether another broker coordinates this id. An empty one is refused for what it is."""
    return bool(transactional_id) and not coordinates(call, transactional_id or "", of_transactions=True)


# -- producer ids ----------------------------------------------------------------------------------------


def init_producer_id(call: Call) -> Any:
    request = call.request
    if request.transactional_id == "" or (request.producer_id == _NO_PRODUCER) != (request.producer_epoch == _NO_EPOCH):
        return _without_producer(messages.InitProducerIdResponse, ErrorCode.INVALID_REQUEST)
    if _is_elsewhere(call, request.transactional_id):
        return _without_producer(messages.InitProducerIdResponse, ErrorCode.NOT_COORDINATOR)
    return call.blocking(partial(_init_producer_id, call))  # the topic of transactions may have to be created


def _init_producer_id(call: Call) -> Any:
    request = call.request
    current = None
    if request.producer_id != _NO_PRODUCER:
        current = ProducerIdAndEpoch(request.producer_id, request.producer_epoch)
    try:
        answer = call.service.init_producer_id(
            request.transactional_id, request.transaction_timeout_ms, current=current, remote=True
        )
    except StreamlogError as error:
        answer = Completion.failed(error)
    return Later(answer, partial(_initialized, call))


def _initialized(call: Call, done: Completion[ProducerIdAndEpoch]) -> Any:
    return _with_producer(messages.InitProducerIdResponse, done, fences=call.version >= _FIRST_INIT_THAT_FENCES)


def _with_producer(Response: Any, done: Completion[ProducerIdAndEpoch], *, fences: bool) -> Any:
    """The answer to InitProducerId or EndTxn: the producer as it is from now on, or the error."""
    error = done.error()
    if error is not None:
        return _without_producer(Response, _code(error, fences=fences))
    producer = done.result()
    return Response(producer_id=producer.producer_id, producer_epoch=producer.producer_epoch)


def _without_producer(Response: Any, code: ErrorCode) -> Any:
    return Response(error_code=code, producer_id=_NO_PRODUCER, producer_epoch=_NO_EPOCH)


# -- what belongs to a transaction -----------------------------------------------------------------------


def add_partitions_to_txn(call: Call) -> Any:
    request = call.request
    Response = messages.AddPartitionsToTxnResponse
    if call.version < _FIRST_WITH_SEVERAL:
        producer = ProducerIdAndEpoch(request.v3_and_below_producer_id, request.v3_and_below_producer_epoch)
        one = _Added(call, request.v3_and_below_transactional_id, producer, request.v3_and_below_topics)
        return Later(one.done, lambda _: Response(results_by_topic_v3_and_below=one.results()))
    added = [
        _Added(
            call,
            each.transactional_id,
            ProducerIdAndEpoch(each.producer_id, each.producer_epoch),
            each.topics,
            verifies=each.verify_only,
        )
        for each in request.transactions
    ]
    return Later(
        AllDone([each.done for each in added]),
        lambda _: Response(
            results_by_transaction=[
                Response.AddPartitionsToTxnResult(transactional_id=each.transactional_id, topic_results=each.results())
                for each in added
            ]
        ),
    )


class _Added:
    """The partitions of one transaction, all or none: where one of them is not there, the others are not tried, as Kafka says."""

    def __init__(
        self,
        call: Call,
        transactional_id: str,
        producer: ProducerIdAndEpoch,
        topics: Iterable[Any],
        *,
        verifies: bool = False,
    ) -> None:
        """`verifies`: nothing is added, and each partition is asked whether it is in the transaction (KIP-890)."""
        image = call.service.image
        self._call, self.transactional_id, self._topics = call, transactional_id, topics
        wanted = [TopicPartition(topic.name, number) for topic in topics for number in topic.partitions]
        self._codes = dict.fromkeys(wanted, ErrorCode.NONE)
        for at in wanted:
            view = image.topics.get(at.topic)
            if view is None or view.internal or not 0 <= at.partition < view.partitions:
                self._codes[at] = ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
        self.done: Completion[None] = Completion.of(None)
        if not transactional_id:
            self._codes = dict.fromkeys(wanted, ErrorCode.INVALID_REQUEST)
        elif any(self._codes.values()):
            self._codes = {at: code or ErrorCode.OPERATION_NOT_ATTEMPTED for at, code in self._codes.items()}
        elif _is_elsewhere(call, transactional_id):
            self._codes = dict.fromkeys(wanted, ErrorCode.NOT_COORDINATOR)
        elif verifies:
            self._codes = _verified(call, transactional_id, producer, wanted)
        else:
            self.done = call.service.add_partitions_to_txn(transactional_id, producer, wanted)

    def results(self) -> list[Any]:
        """REQUIRES: `done`."""
        Response = messages.AddPartitionsToTxnResponse
        error = self.done.error()
        if error is not None:
            self._codes = dict.fromkeys(self._codes, _code(error, fences=self._call.version >= _FIRST_THAT_FENCES))
        return [
            Response.AddPartitionsToTxnTopicResult(
                name=topic.name,
                results_by_partition=[
                    Response.AddPartitionsToTxnPartitionResult(
                        partition_index=number, partition_error_code=self._codes[TopicPartition(topic.name, number)]
                    )
                    for number in topic.partitions
                ],
            )
            for topic in self._topics
        ]


def _verified(
    call: Call, transactional_id: str, producer: ProducerIdAndEpoch, wanted: list[TopicPartition]
) -> dict[TopicPartition, ErrorCode]:
    try:
        known = result_of(call.service.describe_transaction(transactional_id))
    except StreamlogError as error:
        return dict.fromkeys(wanted, code_of(error))
    if known is None or known.producer_id != producer.producer_id:
        return dict.fromkeys(wanted, ErrorCode.INVALID_PRODUCER_ID_MAPPING)
    if known.producer_epoch != producer.producer_epoch:
        return dict.fromkeys(wanted, ErrorCode.PRODUCER_FENCED)
    if known.state in _DECIDED:
        return dict.fromkeys(wanted, ErrorCode.CONCURRENT_TRANSACTIONS)
    open_ = known.partitions if known.state == _ONGOING else frozenset()
    return {at: ErrorCode.NONE if at in open_ else ErrorCode.TRANSACTION_ABORTABLE for at in wanted}


def add_offsets_to_txn(call: Call) -> Any:
    def respond(added: Completion[None]) -> Any:
        error = added.error()
        code = ErrorCode.NONE if error is None else _code(error, fences=call.version >= _FIRST_THAT_FENCES)
        return messages.AddOffsetsToTxnResponse(error_code=code)

    if not call.request.transactional_id:
        return messages.AddOffsetsToTxnResponse(error_code=ErrorCode.INVALID_REQUEST)
    if _is_elsewhere(call, call.request.transactional_id):
        return messages.AddOffsetsToTxnResponse(error_code=ErrorCode.NOT_COORDINATOR)
    return call.blocking(partial(_with_group, call, respond))


def _with_group(call: Call, respond: Callable[[Completion[None]], Any]) -> Later:
    """Add a group to the transaction. The topic of groups may have to be created, which blocks; the answer is waited for elsewhere."""
    request = call.request
    producer = ProducerIdAndEpoch(request.producer_id, request.producer_epoch)
    return Later(call.service.add_offsets_to_txn(request.transactional_id, producer, request.group_id), respond)


# -- the offsets of a group ------------------------------------------------------------------------------


def txn_offset_commit(call: Call) -> Any:
    request = call.request
    commit = Commit(call, request.topics, by_id=call.version >= _FIRST_COMMIT_WITH_IDS)
    producer = ProducerIdAndEpoch(request.producer_id, request.producer_epoch)
    if not (request.transactional_id and request.group_id):
        commit.fail(ErrorCode.INVALID_GROUP_ID if request.transactional_id else ErrorCode.INVALID_REQUEST)
        return _committed(call, commit, Completion.of(None))
    if not coordinates(call, request.group_id):
        return _committed(call, commit, Completion.failed(not_coordinator(call)))

    def write(added: Completion[None]) -> Any:
        done = added
        if commit.has_partitions and added.error() is None:
            done = call.service.txn_commit_offsets(
                request.transactional_id,
                producer,
                request.group_id,
                request.member_id,
                request.generation_id_or_member_epoch,
                commit.offsets,
                commit.topic_ids,
                instance_id=request.group_instance_id,
                by_epoch=True,
            )
        return Later(done, partial(_committed, call, commit))

    if call.version < _FIRST_COMMIT_THAT_ADDS:
        return write(Completion.of(None))
    return call.blocking(partial(_with_group, call, write))


def _committed(call: Call, commit: Commit, done: Completion[None]) -> Any:
    error = done.error()
    if error is not None:
        # A producer that is fenced is told of its epoch here, and the epochs of members have no code of their own.
        commit.fail(commit_code(error, knows_epochs=False))
    Response = messages.TxnOffsetCommitResponse
    return Response(
        topics=commit.results(Response.TxnOffsetCommitResponseTopic, Response.TxnOffsetCommitResponsePartition)
    )


# -- the end ---------------------------------------------------------------------------------------------


def end_txn(call: Call) -> Any:
    request = call.request
    if not request.transactional_id:
        return _without_producer(messages.EndTxnResponse, ErrorCode.INVALID_REQUEST)
    producer = ProducerIdAndEpoch(request.producer_id, request.producer_epoch)
    bumps = call.version >= _FIRST_END_THAT_BUMPS
    if _is_elsewhere(call, request.transactional_id):
        return _without_producer(messages.EndTxnResponse, ErrorCode.NOT_COORDINATOR)
    done = call.service.end_txn(request.transactional_id, producer, request.committed, bump=bumps)
    return Later(done, partial(_ended, call))


def _ended(call: Call, done: Completion[ProducerIdAndEpoch]) -> Any:
    return _with_producer(messages.EndTxnResponse, done, fences=call.version >= _FIRST_THAT_FENCES)


# -- what is open ----------------------------------------------------------------------------------------


def list_transactions(call: Call) -> Any:
    return Later(call.service.list_transactions(), partial(_listed, call))


def _any_name(name: str) -> bool:
    return True


def _listed(call: Call, done: Completion[list[TransactionDescription]]) -> Any:
    request = call.request
    Response = messages.ListTransactionsResponse
    try:
        found = done.result()
    except StreamlogError as error:
        return Response(error_code=code_of(error))
    pattern = request.transactional_id_pattern
    is_named: Callable[[str], bool] = _any_name
    try:
        if pattern:
            is_named = matcher(pattern)
    except (ValueError, MissingExtraError):
        return Response(error_code=ErrorCode.INVALID_REGULAR_EXPRESSION)
    now = call.service.clock.time_ms()
    wanted = [
        each
        for each in found
        if not _is_elsewhere(call, each.transactional_id)
        if not request.state_filters or each.state in request.state_filters
        if not request.producer_id_filters or each.producer_id in request.producer_id_filters
        # What was never begun began at -1, in Kafka too.
        if request.duration_filter < 0 or now - each.start_ms > request.duration_filter
        if is_named(each.transactional_id)
    ]
    states = [
        Response.TransactionState(
            transactional_id=each.transactional_id, producer_id=each.producer_id, transaction_state=each.state
        )
        for each in wanted
    ]
    return Response(
        transaction_states=states,
        unknown_state_filters=[each for each in request.state_filters if each not in _STATES],
    )


_ONGOING, _DECIDED = "Ongoing", ("PrepareCommit", "PrepareAbort")
_STATES = (
    "Empty", "Ongoing", "PrepareCommit", "PrepareAbort", "CompleteCommit", "CompleteAbort", "Dead", "PrepareEpochFence",
)  # fmt: skip


def describe_transactions(call: Call) -> Any:
    return call.blocking(partial(_describe_transactions, call))


def _describe_transactions(call: Call) -> Any:
    Response = messages.DescribeTransactionsResponse
    states = []
    for transactional_id in dict.fromkeys(call.request.transactional_ids):  # one that is named again is answered once
        state = Response.TransactionState(transactional_id=transactional_id)
        states.append(state)
        if not transactional_id:
            state.error_code = ErrorCode.INVALID_REQUEST
            continue
        if _is_elsewhere(call, transactional_id):
            state.error_code = ErrorCode.NOT_COORDINATOR
            continue
        try:
            known = result_of(call.service.describe_transaction(transactional_id))
        except StreamlogError as error:
            state.error_code = code_of(error)
            continue
        if known is None:
            state.error_code = ErrorCode.TRANSACTIONAL_ID_NOT_FOUND
            continue
        state.transaction_state, state.transaction_timeout_ms = known.state, known.timeout_ms
        state.transaction_start_time_ms = known.start_ms
        state.producer_id, state.producer_epoch = known.producer_id, known.producer_epoch
        state.topics = [
            Response.TopicData(topic=name, partitions=numbers) for name, numbers in by_topic(known.partitions).items()
        ]
    return Response(transaction_states=states)


handlers = {
    ApiKey.INIT_PRODUCER_ID: init_producer_id,
    ApiKey.ADD_PARTITIONS_TO_TXN: add_partitions_to_txn,
    ApiKey.ADD_OFFSETS_TO_TXN: add_offsets_to_txn,
    ApiKey.END_TXN: end_txn,
    ApiKey.TXN_OFFSET_COMMIT: txn_offset_commit,
    ApiKey.DESCRIBE_TRANSACTIONS: describe_transactions,
    ApiKey.LIST_TRANSACTIONS: list_transactions,
}
