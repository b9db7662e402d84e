"""`pipe`: consume, transform, produce, exactly once (KIP-98, KIP-447).

Each worker has a consumer and a transactional producer. It takes up to `_MOST_RECORDS` records of one partition, handles
them for up to `_LONGEST_S`, and then writes what came of them, and the offset after them, in one transaction. So a handler,
or a pause before a retry, never runs into the transaction's timeout. What is handled and not committed is always of records that
the worker has in hand, which keeps their partition with it; it commits before it polls the group again.

A transactional id names a worker over restarts: the lowest number that no other worker of the group has in this log. A restart
fences its predecessor so. A worker that has lost its partition is fenced by the group: its offsets are refused, and the
transaction with them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from operator import itemgetter
from typing import Any, NamedTuple

from ..config import LARGEST_RECORD, text, typed
from ..errors import (
    CommitFailedError,
    ConfigError,
    InvalidRecordError,
    InvalidTimestampError,
    InvalidTopicError,
    RecordTooLargeError,
    SerializationError,
    UnknownTopicIdError,
    UnknownTopicOrPartitionError,
)
from ..runtime.threads import inside, new_lock, real_monotonic
from ..runtime.values import refuse_to_copy
from ..types import Headers, OffsetAndMetadata, ProducerRecord, Record, TopicPartition
from .config_types import OnError
from .consumer.consumer import Consumer
from .consumer.decode import Decoder
from .consumer.subscription_state import EndOffsets, Prefetched
from .consumer.transactional import GroupReader
from .dead_letters import DeadLetters
from .handle import Parent
from .handler import check_handler, check_result
from .producer.producer import Producer
from .producer.transaction import TransactionScope
from .record_handler import Handler, Stopped, WorkersConfig, attempts, give_up, note, place_of
from .topic import Topic
from .worker_time import WorkerTime
from .workers import Workers

logger = logging.getLogger("streamlog.client")

# A transaction has what came of so many records at most, handled in so long (real seconds).
_MOST_RECORDS = 500
_LONGEST_S = 0.1
# What a send raises because of what the handler has returned, before anything is written.
_REFUSED = (InvalidRecordError, InvalidTimestampError, RecordTooLargeError, SerializationError)
_PLAIN = frozenset((bytes, str, dict, int, float, list, type(None), ProducerRecord))
"""Types of results that need no check."""
_timestamp_of, _key_of = itemgetter(3), itemgetter(4)

_lock = new_lock()
_ids_in_use: set[tuple[int, str]] = set()
"""Transactional ids of running workers, each with the identity of its log."""


def pipe(
    source: Topic[Any, Any],
    handler: Callable[[Record[Any, Any]], Any],
    sink: Topic[Any, Any],
    *,
    group: str,
    workers: int = 1,
    until_end: bool = False,
    on_error: OnError = "stop",
    retries: int = 0,
    retry_backoff_ms: int = 100,
    dead_letter_topic: str | None = None,
) -> None:
    """`start_pipe`, and wait for the workers: to the end with `until_end`, else until an error, Ctrl-C, or `log.close()`.

    Takes what `start_pipe` takes. Raises what that raises, and the error that ended the workers. Under a `testing.ManualClock`
    a retry comes at once: this call blocks the thread that would move the clock.

    >>> import streamlog
    >>> with streamlog.open() as log:
    ...     prices, doubled = log.create_topic("prices"), log.create_topic("doubled")
    ...     _ = prices.send_many([b"2", b"?", b"4"])
    ...     streamlog.pipe(prices, lambda price: b"%d" % (2 * int(price.value)), doubled, group="double", until_end=True, on_error="skip")
    ...     [record.value for record in doubled.read()]
    [b'4', b'8']
    """
    settings = WorkersConfig(
        workers, "partition", None, on_error, retries, retry_backoff_ms, dead_letter_topic, until_end
    )
    running = _workers(source, handler, sink, group, settings, blocks=True)
    try:
        running._refuse_endless_wait()
        running._begin()
        running.wait()
    finally:
        running.close()


def start_pipe(
    source: Topic[Any, Any],
    handler: Callable[[Record[Any, Any]], Any],
    sink: Topic[Any, Any],
    *,
    group: str,
    workers: int = 1,
    until_end: bool = False,
    on_error: OnError = "stop",
    retries: int = 0,
    retry_backoff_ms: int = 100,
    dead_letter_topic: str | None = None,
) -> Workers:
    """Have threads call `handler(record)` for every record of `source`, and write to `sink` what it returns, exactly once.

    What comes of a record, and that it is handled, are committed together: whatever ends the process, readers of `sink` see the
    outcome of each record once. The handler itself may be called again for a record, so its other effects may come twice.

    source, sink: Topic
        Topics of one log, by their handles, whose serdes are used: `log.topic(name, value_serde=…)`.
    handler: a function of one Record
        It returns a value, which gets the key (the same bytes) and the timestamp of the record; a `ProducerRecord`, with a key, headers and
        timestamp of its own, to the sink or to its `topic`; a list of several of these; or None, for nothing. A list as a value goes into a
        ProducerRecord. An async or generator function is refused.
    group: str
        The consumer group that the pipe reads as. It names its producers too: "GROUP-pipe-0", and so on.
    workers: int = 1
        How many threads. Each has a consumer, so more workers than partitions of `source` have nothing to do.
    until_end: bool = False
        Whether the workers end at the end offsets of now. Otherwise they wait for more records.
    retries, retry_backoff_ms, on_error, dead_letter_topic
        As in `ConsumerGroup.start`. Before "stop" what is finished is committed. A value that cannot be sent, because of its serde say,
        counts as a failure of the handler, without retries. A dead letter is in the transaction too.

    A transaction is committed after 500 records or 100 ms, or when no further record waits. `stop` commits what is finished.
    The threads, and what ends them, are as in `ConsumerGroup.start`.

    Raises ConfigError, UnknownTopicOrPartitionError, ReadOnlyError.

    >>> import streamlog
    >>> with streamlog.open() as log:
    ...     orders, invoices = log.create_topic("orders"), log.create_topic("invoices")
    ...     _ = orders.send("9.50", key="alice")
    ...     with streamlog.start_pipe(orders, lambda order: b"to pay: " + order.value, invoices, group="billing", until_end=True) as workers:
    ...         workers.wait(timeout=30)
    ...     [(invoice.key, invoice.value) for invoice in invoices.read()]
    [(b'alice', b'to pay: 9.50')]
    """
    settings = WorkersConfig(
        workers, "partition", None, on_error, retries, retry_backoff_ms, dead_letter_topic, until_end
    )
    started = _workers(source, handler, sink, group, settings)
    started._begin()
    return started


def _workers(
    source: Any, handler: Any, sink: Any, group: str, settings: WorkersConfig, *, blocks: bool = False
) -> Workers:
    for name, topic in (("source", source), ("sink", sink)):
        if not isinstance(topic, Topic):
            raise ConfigError(f"{name}={typed(topic)} is not a Topic: give log.topic(name).", name=name)
    text("group", group)
    check_handler(handler)
    log = source._log
    if not sink._log._same_log(log):
        raise ConfigError(
            f"{source!r} and {sink!r} are in two logs, and a transaction is within one. Handle the records in a group, and send them so that a "
            f"second time does no harm.",
            name="sink",
        )
    sink._view()

    def make_job(decoders: Callable[[TopicPartition], Decoder], dead_letters: DeadLetters | None) -> Pipe:
        return Pipe(log, group, handler, sink, decoders, settings, dead_letters)

    return Workers(log, group, make_job, [source], settings, {"enable_auto_commit": False}, blocks=blocks)


class Failure(NamedTuple):
    """In place of a result: the handler failed on the record, which is skipped or becomes a dead letter."""

    error: Exception


_SPECIAL = frozenset((list, type(None), ProducerRecord, Failure))
"""Types of results that are not simply a value."""


class Pipe:
    """The `Job` of the workers of a pipe. Thread-safe if `handler` is."""

    __reduce_ex__ = refuse_to_copy

    def __init__(
        self,
        log: Parent,
        group: str,
        handler: Handler,
        sink: Topic[Any, Any],
        decoders: Callable[[TopicPartition], Decoder],
        config: WorkersConfig,
        dead_letters: DeadLetters | None,
    ) -> None:
        self.log = log
        self.group = group
        self.handler = handler
        self.sink = sink
        # For values that keep the key of their record, which is bytes already.
        self.keeping = Topic[Any, Any](log, sink.name, value_serde=sink._value_serde)
        self.decoders = decoders
        self.config = config
        self.dead_letters = dead_letters

    def work(self, consumer: Consumer[Any, Any], ends: dict[TopicPartition, int] | None, time: WorkerTime) -> None:
        with (
            _transactional_id(self.log, self.group) as name,
            Producer(self.log, transactional_id=name, max_request_size=LARGEST_RECORD, buffer_memory=LARGEST_RECORD)
            as producer,
        ):  # fmt: skip
            _PipeWorker(self, consumer, producer, time).run(ends)

    def close(self) -> None:
        if self.dead_letters is not None:
            self.dead_letters.close()


@contextmanager
def _transactional_id(log: Parent, group: str) -> Iterator[str]:
    """The first id of the group that no other worker of this log has meanwhile."""
    identity = log._identity()
    with inside(), _lock:
        name = _first_free(identity, group)
        _ids_in_use.add((identity, name))
    try:
        yield name
    finally:
        _ids_in_use.discard((identity, name))


def _first_free(identity: int, group: str) -> str:
    return next(name for n in count() if (identity, name := f"{group}-pipe-{n}") not in _ids_in_use)


class _ResultRefused(Exception):
    """What the handler has returned for a record cannot be sent. Nothing of the transaction counts."""

    def __init__(self, index: int, error: Exception) -> None:
        self.index = index
        self.error = error


class _Lost(Exception):
    """The group has given the partition to another member, which handles the records that are not committed."""


class _PipeWorker:
    """One worker: the records that it has in hand, and what came of them."""

    __reduce_ex__ = refuse_to_copy

    def __init__(self, job: Pipe, consumer: Consumer[Any, Any], producer: Producer, time: WorkerTime) -> None:
        self._job = job
        self._consumer = consumer
        self._producer = producer
        self._time = time
        self._taken: Prefetched
        # The records that are handled and not committed, and the result of each.
        self._records: list[Record[Any, Any]] = []
        self._results: list[Any] = []
        self._failed: Exception | None = None
        """What a commit before a pause has raised."""

    def run(self, ends: dict[TopicPartition, int] | None) -> None:
        """Handle records up to `ends`, or until the consumer is stopped. Raises Stopped, or the error that is to stop all workers."""
        bounds = None if ends is None else EndOffsets(ends)
        while (taken := self._consumer._next(bounds, None)) is not None:
            self._taken = taken
            self._time.turn += 1
            try:
                try:
                    self._handle_some()
                except Exception:
                    self._commit()  # what is finished
                    raise
                self._commit()
            except _Lost as lost:
                logger.warning("a pipe of group %r: %s", self._job.group, lost)
                GroupReader(self._consumer).rewind(ask=False)

    def _handle_some(self) -> None:
        """Handle records of those taken. Raises Stopped, and the handler's error if `on_error` is "stop"."""
        job, taken, time = self._job, self._taken, self._time
        handler, decoder, config = job.handler, job.decoders(taken.name), job.config
        stops, end_s = config.on_error == "stop", real_monotonic() + _LONGEST_S
        results, done, is_stopping = self._results, self._records, time.is_stopping
        once = (
            not config.retries and decoder.plain
        )  # then the handler is called from here: a fifth of what a record costs
        for at, record in enumerate(taken.records[taken.at : taken.at + _MOST_RECORDS], taken.at + 1):
            if is_stopping():
                raise Stopped
            try:
                result = handler(record) if once else attempts(handler, record, decoder, config, self._pause)
            except Stopped:
                raise self._failed or Stopped from None
            except Exception as error:
                if stops:
                    note(error, record)
                    raise
                result = Failure(error)
            if type(result) not in _PLAIN:
                check_result(result)
            results.append(result)
            done.append(record)
            taken.at = at
            if real_monotonic() >= end_s:
                return

    def _pause(self, seconds: float) -> bool:
        """Wait before a retry; what is finished is committed before. Whether the worker stops instead."""
        taken = self._taken
        # It stays in hand, so that no other member gets the partition meanwhile.
        self._consumer._subscriptions.in_hand = taken.records[taken.at]
        try:
            self._commit()
        except Exception as error:  # not the handler's
            self._failed = error
            return True
        return self._time.pause(seconds)

    # -- committing ----------------------------------------------------------------------------------

    def _commit(self) -> None:
        """Commit what is finished, in one transaction.

        Raises what stops the workers: the error of a result that cannot be sent, after what came before it is committed; _Lost.
        """
        records, results, position = self._records[:], self._results[:], self._taken.position
        self._records.clear()
        self._results.clear()
        refused: Exception | None = None
        while records:
            try:
                self._commit_once(records, results, position)
                break
            except _ResultRefused as result:
                index = result.index
                _name_record(result.error, records[index])
                if self._job.config.on_error == "stop":
                    refused, position = result.error, records[index].offset
                    del records[index:], results[index:]
                else:
                    results[index] = Failure(result.error)
            except CommitFailedError as error:
                raise _Lost(str(error)) from None
        if refused is not None:
            raise refused

    def _commit_once(self, records: list[Record[Any, Any]], results: list[Any], position: int) -> None:
        producer, name = self._producer, self._taken.name
        # An abort does not take the consumer back: what it has in hand may be sent in another form.
        with TransactionScope(producer._transactional(), producer, group=self._job.group):
            self._send(records, results)
            producer.send_offsets_to_transaction({name: OffsetAndMetadata(position)}, self._consumer)

    def _send(self, records: list[Record[Any, Any]], results: list[Any]) -> None:
        """Send what came of the records. Raises _ResultRefused before anything of its topic is written."""
        sink = self._job.sink.name
        if _SPECIAL.isdisjoint(map(type, results)):
            self._send_run(_Run(sink, self._job.keeping, None, (), records, results, list(range(len(records)))))
            return
        runs = _Runs(sink, self._job.sink, self._job.keeping, self._job.log._use().clock.time_ms())
        failures: list[int] = []
        for index, (record, result) in enumerate(zip(records, results, strict=True)):
            if type(result) is Failure:
                failures.append(index)
            else:
                for each in result if type(result) is list else (result,):
                    runs.add(index, record, each)
        for run in runs.runs:
            self._send_run(run)
        for index in failures:
            give_up(records[index], results[index].error, self._job.dead_letters, self._producer)

    def _send_run(self, run: _Run) -> None:
        keys = list(map(_key_of, run.records))
        any_keys = keys if keys.count(None) < len(keys) else None  # without, whole batches take the partitions in turn
        times = list(map(_timestamp_of, run.records))
        try:
            self._producer.send_many(
                run.topic,
                run.values,
                any_keys,
                headers=run.headers or None,
                partition=run.partition,
                timestamps_ms=times,
            )
        except _REFUSED as error:
            raise _ResultRefused(run.indexes[getattr(error, "index", None) or 0], error) from None
        except (UnknownTopicOrPartitionError, UnknownTopicIdError, InvalidTopicError) as error:
            if run.topic is not self._job.keeping:
                self._job.sink._view()  # raises if it is the sink that there is no more
                raise _ResultRefused(run.indexes[0], error) from None
            raise


def _name_record(error: Exception, record: Record[Any, Any]) -> None:
    """Have the error of a send say of which record it is the result, in place of which item it was of the columns that were sent."""
    message, value = str(error.args[0]), getattr(error, "value", None)
    if getattr(error, "index", None) is not None:
        message = message.partition("], ")[2]
        error.__dict__.pop("index")
    several = " Several outcomes of a record are a list." if isinstance(value, (tuple, set, frozenset)) else ""
    error.args = (f"What the handler returned for {place_of(record)} cannot be sent: {message}{several}",)


class _Run(NamedTuple):
    """Records that one call sends. Of `records` only the keys and timestamps count; `indexes` are those of the inputs."""

    name: str
    topic: Any
    partition: int | None
    headers: Headers
    records: list[Record[Any, Any]]
    values: list[Any]
    indexes: list[int]


class _Runs:
    """The outcomes of several records as few calls, which keep the order within each topic."""

    def __init__(self, sink: str, whole: Topic[Any, Any], keeping: Topic[Any, Any], now_ms: int) -> None:
        self.runs: list[_Run] = []
        self._last: dict[str, _Run] = {}
        self._sink = sink
        self._whole = whole
        self._keeping = keeping
        self._now_ms = now_ms

    def add(self, index: int, record: Record[Any, Any], result: Any) -> None:
        """`result`: what came of the record at `index`, or a part of it."""
        if result is None:
            return
        topic: Topic[Any, Any] | str = self._keeping
        name, partition, value, like = self._sink, None, result, record
        headers: Headers = ()
        if type(result) is ProducerRecord:
            value, key, headers, partition, timestamp, target = result
            topic = self._whole if target is None else target
            name = target or name
            like = record._replace(key=key, timestamp=self._now_ms if timestamp is None else timestamp)
        run = self._last.get(name)
        # By identity: two handles on the sink are equal, and have other serdes.
        if run is None or run.topic is not topic or (run.partition, run.headers) != (partition, headers):
            run = self._last[name] = _Run(name, topic, partition, headers, [], [], [])
            self.runs.append(run)
        run.records.append(like)
        run.values.append(value)
        run.indexes.append(index)
