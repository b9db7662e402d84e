"""Threads that handle a group's records: retries, dead letters, a clean stop."""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from ..config import ConsumerConfig, check_topic_name, choice, integer
from ..errors import ConcurrentUseError, ConfigError, RequestTimedOutError, StreamlogError, describe
from ..runtime.threads import (
    RawGate,
    get_ident,
    inside,
    is_inside,
    join_thread,
    new_lock,
    real_monotonic,
    refuse_reentry,
    start_thread,
)
from ..types import Record, TopicPartition
from .arguments import seconds_or_none
from .consumer.consumer import Consumer
from .consumer.decode import Decoder, undecodable
from .dead_letters import DeadLetters
from .handle import Closing, Parent, closed
from .handler import check_handler, check_result

logger = logging.getLogger("streamlog.client")

Handler = Callable[[Record[Any, Any]], object]


class Workers(Closing):
    """Running workers of a group; made by `group.start`. Thread-safe. Leaving the block stops and joins them.

    >>> import streamlog
    >>> with streamlog.open() as log:
    ...     _ = log.create_topic("jobs").send_many(["a", "b"])
    ...     done = []
    ...     handle = lambda record: done.append(record.value)
    ...     with log.group("crew").start(handle, "jobs", workers=2, until_end=True) as workers:
    ...         workers.wait(timeout=30)
    ...     sorted(done)
    [b'a', b'b']
    """

    def __init__(
        self,
        log: Parent,
        group: str,
        handler: Handler,
        topics: Sequence[Any],
        config: dict[str, Any],
        *,
        workers: int,
        on_error: str,
        retries: int,
        retry_backoff_ms: int,
        dead_letter_topic: str | None,
        until_end: bool,
    ) -> None:
        check_handler(handler)
        integer("workers", workers, 1, 1000)
        integer("retries", retries, 0)
        integer("retry_backoff_ms", retry_backoff_ms, 0)
        choice("on_error", on_error, ("stop", "skip", "dead_letter"))
        if dead_letter_topic is not None:
            check_topic_name(dead_letter_topic)
        if "group" in config:
            raise ConfigError("group= is this group's own name; leave it out.", name="group")
        log._use().require_writable(f"Working as group {group!r}")
        self._log = log
        self._group = group
        self._handler = handler
        self._on_error = on_error
        self._retries = retries
        self._backoff_s = retry_backoff_ms / 1000
        self._dead_letters: DeadLetters | None = None
        self._lock = new_lock()
        self._error: BaseException | None = None
        self._stopping = RawGate()
        self._done = RawGate()
        # Records are deserialized here rather than in the consumer: a dead letter is the bytes that
        # came in, and a record that cannot be deserialized is handled like one whose handler raises.
        self._serdes: dict[str, tuple[Any, Any]] = {}
        self._decoders = log._decoders(ConsumerConfig.of({**config, "group": group}), self._serdes)
        names = [topic if isinstance(topic, re.Pattern) else self._note_topic(topic) for topic in topics]
        plain = {**config, "key_deserializer": None, "value_deserializer": None}
        self._consumers: list[Consumer[Any, Any]] = []
        try:
            for _ in range(workers):
                self._consumers.append(Consumer(log, *names, group=group, **plain))
            if on_error == "dead_letter":
                reading = self._consumers[0]
                patterns = reading._subscriptions.subscription.patterns
                self._dead_letters = DeadLetters(log, dead_letter_topic, reading.subscription(), patterns)
            self._ends: dict[TopicPartition, int] | None = self._ends_now() if until_end else None
        except BaseException:
            for consumer in self._consumers:
                consumer.close()
            raise
        self._left = workers
        self._threads: list[Any] = []
        log._adopt(self)
        try:
            for n, consumer in enumerate(self._consumers):
                self._threads.append(start_thread(partial(self._work, consumer), f"streamlog-{group}-{n}"))
        except BaseException:  # Ctrl-C half-way, or no thread can be made any more: whoever has begun ends
            self._give_up_half_made()
            raise

    def _give_up_half_made(self) -> None:
        missing = self._consumers[len(self._threads) :]
        with inside(), self._lock:
            self._left -= len(missing)
            if not self._left:
                self._done.open()
        for consumer in missing:
            with contextlib.suppress(ConcurrentUseError):  # its thread had begun, and ends by itself
                consumer.close()
        with contextlib.suppress(
            StreamlogError
        ):  # of a worker whose consumer was just closed: what ended this is raised
            self.close()

    def _note_topic(self, topic: Any) -> str:
        name, key_serde, value_serde = self._log._name_of(topic)
        self._serdes[name] = (key_serde, value_serde)
        return name

    def _ends_now(self) -> dict[TopicPartition, int]:
        service = self._log._use()
        image = service.image
        return {
            name: service.bounds(name, "read_committed")[1]
            for topic in self._consumers[0].subscription()
            for name in [TopicPartition(topic, n) for n in range(image.topics[topic].partitions)]
        }

    # -- one worker ----------------------------------------------------------------------------------

    def _work(self, consumer: Consumer[Any, Any]) -> None:
        try:
            with consumer:
                records: Iterator[Record[Any, Any]] = consumer
                if self._ends is not None:
                    records = consumer._until(self._ends, None)
                self._handle_all(records)
        except _Stopped:
            pass
        except BaseException as error:
            if not (isinstance(error, StreamlogError) and self._log.closed):
                logger.error(
                    "a worker of group %r ends, and the others with it: %s",
                    self._group,
                    describe(error),
                    exc_info=error,
                )
                with inside(), self._lock:
                    self._error = self._error or error
            self.stop()
        finally:
            with inside(), self._lock:
                self._left -= 1
                last = not self._left
            if last:
                if self._dead_letters is not None:
                    self._dead_letters.close()
                self._done.open()
                self._log._cleanup.nudge()  # its closing may have been put off until now

    def _handle_all(self, records: Iterator[Record[Any, Any]]) -> None:
        try:
            for record in records:
                # Handed out before `stop`, and not begun: it may be one that another worker failed on and left to the group.
                if self._stopping.is_open():
                    raise _Stopped
                self._handle(record)
        except _Stopped:
            raise
        except BaseException:
            self.stop()  # before this consumer leaves: its partitions go to the others, and the failing record with them
            raise

    def _handle(self, record: Record[Any, Any]) -> None:
        wait = self._backoff_s
        for attempt in range(self._retries + 1):
            try:
                result = self._handler(_decoded(record, self._decoders(record.topic_partition)))
            except Exception as error:
                if attempt < self._retries:
                    if self._stopping.wait(wait):
                        raise _Stopped from error  # unfinished: the group will see it again
                    wait *= 2
                    continue
                if self._on_error == "stop":
                    raise
                self._set_aside(record, error)
            else:
                check_result(result)
                return

    def _set_aside(self, record: Record[Any, Any], error: Exception) -> None:
        where = f"{record.topic}-{record.partition} at offset {record.offset}"
        if self._dead_letters is None:
            logger.error("the handler failed on %s, which is skipped: %s", where, describe(error), exc_info=error)
            return
        topic = self._dead_letters.send(record, error)
        logger.error("the handler failed on %s, which went to %s: %s", where, topic, describe(error), exc_info=error)

    # -- from outside --------------------------------------------------------------------------------

    def stop(self) -> None:
        """Hand out no new record; records in hand are finished. Returns at once; safe from anywhere."""
        self._stopping.open()
        for consumer in self._consumers:
            consumer.stop()

    def wait(self, timeout: float | None = None) -> None:
        """Wait until all workers have ended; raise the handler's error. RequestTimedOutError after `timeout` s."""
        refuse_reentry()
        if not self._done.wait(seconds_or_none(timeout)):
            raise RequestTimedOutError(f"The workers are still at it after {timeout} s; stop() asks them to end.")
        with inside(), self._lock:
            error, self._error = self._error, None
        if error is not None:
            raise error

    def close(self) -> None:
        """Stop, and wait for the records in hand, for `max_poll_interval_ms` at most; raise an error nobody took.

        In a signal handler or finalizer it may be put off until the call that was interrupted ends.
        """
        if self._closed_error is None and is_inside():
            self.stop()
            self._log._cleanup.defer_close(self._close_deferred)
            return
        self._close(self._consumers[0]._config.max_poll_interval_ms / 1000)

    def _close_deferred(self) -> None:
        """`close`; on the background thread, which is not to wait for a handler, when the last worker has ended."""
        cleanup = self._log._cleanup
        if cleanup.background_thread == get_ident() and not self._done.is_open():
            cleanup.deferred_closes.append(self._close_deferred)
        else:
            self.close()

    def _close(self, limit: float) -> None:
        if self._closed_error is not None:
            return
        self.stop()
        end = real_monotonic() + limit
        for thread in self._threads:
            join_thread(thread, end - real_monotonic())  # a handler may close its own workers
        self._closed_error = closed("group's workers")
        self._log._forget(self)
        if not self._done.is_open():
            logger.warning("workers of group %r are still at it; their records in hand are not finished", self._group)
            return
        self.wait(0.0)

    def __repr__(self) -> str:
        return f"<streamlog.Workers {self._left} running>"


class _Stopped(Exception):
    """A worker was stopped between two attempts; its record is not finished."""


def _decoded(record: Record[Any, Any], decoder: Decoder) -> Record[Any, Any]:
    if decoder.plain:
        return record
    key, value = record.key, record.value
    try:
        if decoder.deserialize_key is not None and key is not None:
            key = decoder.deserialize_key(key)
        if decoder.deserialize_value is not None and value is not None:
            value = decoder.deserialize_value(value)
    except Exception as error:
        raise undecodable(record, error) from error
    return record._replace(key=key, value=value)
