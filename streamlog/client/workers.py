"""The threads that handle a group's records, and how they stop. `record_handler` says how one record is handled."""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from ..config import ConsumerConfig
from ..errors import ConfigError, RequestTimedOutError, StreamlogError, describe
from ..runtime.threads import (
    RawGate,
    get_ident,
    inside,
    is_inside,
    join_thread,
    new_lock,
    new_thread,
    real_monotonic,
    refuse_reentry,
    result_of,
    start_thread,
)
from ..types import Record, TopicPartition
from .arguments import refuse_group, seconds_or_none
from .consumer.consumer import Consumer
from .dead_letters import DeadLetters
from .handle import Closing, Parent, closed
from .handler import check_handler
from .record_handler import Handler, RecordHandler, Stopped, WorkersConfig
from .worker_time import ClockFollower, WorkerTime, moved_clock

logger = logging.getLogger("streamlog.client")


class Workers(Closing):
    """The running workers of a group: threads, each with a consumer. Made by `group.start`. Thread-safe.

    `wait` for their end, `stop` them, or use a `with` block, at the end of which they are stopped and joined.

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
        config: WorkersConfig,
        consumer_config: dict[str, Any],
        *,
        blocks: bool = False,
    ) -> None:
        """For the library's own use: `group.start` makes it. `blocks`: the calling thread is going to wait for their end."""
        check_handler(handler)
        refuse_group(consumer_config)
        service = log._use()
        service.require_writable(f"Working as group {group!r}")
        self._log = log
        self._group = group
        self._lock = new_lock()
        self._error: BaseException | None = None
        self._stopping = RawGate()
        self._done = RawGate()
        serdes: dict[str, tuple[Any, Any]] = {}
        settings = ConsumerConfig.of_workers({**consumer_config, "group": group}, WorkersConfig.names())
        if not topics:
            raise ConfigError("Workers need something to read: give the topics after the handler.", name="topics")
        decoders = log._decoders(settings, serdes)
        self._consumers: list[Consumer[Any, Any]] = []
        try:
            self._make_consumers(config.workers, topics, serdes, consumer_config)
            dead_letters = self._dead_letters(config.dead_letter_topic) if config.on_error == "dead_letter" else None
            self._ends: dict[TopicPartition, int] | None = self._ends_now() if config.until_end else None
        except BaseException:
            for consumer in self._consumers:
                consumer.close()
            raise
        self._handler = RecordHandler(handler, decoders, config, dead_letters)
        self._clock = clock = moved_clock(service.clock)
        skips = blocks and clock is not None
        self._times = [WorkerTime(consumer, self._stopping, skips=skips) for consumer in self._consumers]
        self._begun: dict[WorkerTime, bool] = {}
        """Whether a worker begins: its thread and a close set this, each by one step in C, and the first of them counts."""
        self._threads = [
            new_thread(partial(self._work, time), f"streamlog-{group}-{n}") for n, time in enumerate(self._times)
        ]
        self._follower: ClockFollower | None = None

    def _begin(self) -> None:
        """Once: start the threads. After an error, or Ctrl-C, those that were started have ended."""
        self._log._adopt(self)
        try:
            if self._clock is not None:
                self._follower = ClockFollower(self._clock, self._times)
            for thread in self._threads:
                start_thread(thread)
        except BaseException:
            with contextlib.suppress(StreamlogError):  # the first error is raised
                self.close()
            raise

    def _make_consumers(
        self, count: int, topics: Sequence[Any], serdes: dict[str, tuple[Any, Any]], config: dict[str, Any]
    ) -> None:
        """Consumers that do not deserialize; `serdes` takes those of the topics that are given as handles."""
        names: list[Any] = []
        for topic in topics:
            if not isinstance(topic, re.Pattern):
                topic, *pair = self._log._name_of(topic)
                serdes[topic] = pair[0], pair[1]
            names.append(topic)
        plain = {**config, "key_deserializer": None, "value_deserializer": None}
        for _ in range(count):
            self._consumers.append(Consumer(self._log, *names, group=self._group, **plain))

    def _dead_letters(self, topic: str | None) -> DeadLetters:
        consumer = self._consumers[0]
        patterns = consumer._subscriptions.subscription.patterns
        return DeadLetters(self._log, topic, consumer.subscription(), patterns)

    def _ends_now(self) -> dict[TopicPartition, int]:
        """The end offsets of all partitions that the group reads."""
        service = self._log._use()
        image = service.image
        return {
            name: result_of(service.bounds(name, "read_committed"))[1]
            for topic in self._consumers[0].subscription()
            for name in [TopicPartition(topic, n) for n in range(image.topics[topic].partitions)]
        }

    # -- one worker ----------------------------------------------------------------------------------

    def _work(self, time: WorkerTime) -> None:
        if not self._begun.setdefault(time, True):
            return
        consumer = time.consumer
        time.begin()
        try:
            with consumer:
                records: Iterator[Record[Any, Any]] = consumer
                if self._ends is not None:
                    records = consumer._until(self._ends, None)
                self._handle_all(records, time)
        except Stopped:
            pass
        except BaseException as error:
            if not (isinstance(error, StreamlogError) and self._log.closed):
                logger.error(
                    "a worker of group %r failed, and the other workers stop: %s",
                    self._group,
                    describe(error),
                    exc_info=error,
                )
                with inside(), self._lock:
                    self._error = self._error or error
            self.stop()
        finally:
            self._end(time)

    def _end(self, time: WorkerTime) -> None:
        """A worker has ended, or never begins. The last one of all ends what they share; there may be two last ones."""
        time.end()
        if not self._running():
            if self._follower is not None:
                self._follower.detach()
            self._handler.close()
            self._done.open()
            self._log._cleanup.nudge()  # their close may be deferred until now

    def _running(self) -> int:
        return sum(not time.ended for time in self._times)

    def _handle_all(self, records: Iterator[Record[Any, Any]], time: WorkerTime) -> None:
        handle, pause = self._handler.handle, time.pause
        try:
            for record in records:
                time.turn += 1
                # A record that was taken before `stop` and is not begun. Another worker may have failed on it, and its
                # partition moved here since.
                if self._stopping.is_open():
                    raise Stopped
                handle(record, pause)
        except Stopped:
            raise
        except BaseException:
            # Before this consumer leaves the group: its partitions move to the others, and the failing record with them.
            self.stop()
            raise

    # -- stopping ------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Begin no further record. The records that are being handled are finished. Returns at once; safe anywhere."""
        self._stopping.open()
        for time in self._times:
            time.end_pause()
            time.consumer.stop()

    def wait(self, timeout: float | None = None) -> None:
        """Wait until all workers have ended, and raise the error that ended them, if one did.

        Raises RequestTimedOutError (a TimeoutError) after `timeout` real seconds.
        """
        refuse_reentry()
        if not self._done.wait(seconds_or_none(timeout)):
            raise RequestTimedOutError(f"The workers are still running after {timeout} s. Call stop() to end them.")
        with inside(), self._lock:
            error, self._error = self._error, None
        if error is not None:
            raise error

    def close(self) -> None:
        """Stop, and wait until the records that are being handled are finished, for `max_poll_interval_ms` at most.

        Raises the error that ended the workers, unless `wait` has raised it. In a signal handler or finalizer the close may
        be deferred until the call that was interrupted ends.
        """
        if self._closed_error is None and is_inside():
            self.stop()
            self._log._cleanup.defer_close(self._close_deferred)
            return
        self._close(self._consumers[0]._config.max_poll_interval_ms / 1000)

    def _close_deferred(self) -> None:
        """`close`. The background thread does not wait for a handler: it closes once the last worker has ended."""
        cleanup = self._log._cleanup
        if cleanup.background_thread == get_ident() and not self._done.is_open():
            cleanup.deferred_closes.append(self._close_deferred)
        else:
            self.close()

    def _close(self, limit: float) -> None:
        if self._closed_error is not None:
            return
        self.stop()
        for time in self._times:
            if not self._begun.setdefault(time, False):  # an interrupt came before its thread
                time.consumer.close()
                self._end(time)
        end = real_monotonic() + limit
        for time, thread in zip(self._times, self._threads, strict=True):
            if self._begun[time]:
                join_thread(thread, end - real_monotonic())  # a handler may close its own workers
        self._closed_error = closed("group's workers", self._log.path)
        self._log._forget(self)
        if not self._done.is_open():
            logger.warning("workers of group %r still run: the records that they handle are not finished", self._group)
            return
        self.wait(0.0)

    def __repr__(self) -> str:
        error = self._error
        failed = "" if error is None else f", failed: {describe(error)}"
        return f"<streamlog.Workers {self._running()} running{failed}>"
