"""The threads that handle a group's records, and how they stop. `record_handler` and `pipe` say how they handle them."""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

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
    results_of,
    start_thread,
)
from ..types import TopicPartition
from .arguments import refuse_group, seconds_or_none
from .consumer.consumer import Consumer
from .consumer.decode import Decoder, decoders_of
from .dead_letters import DeadLetters
from .handle import Closing, Parent, closed
from .record_handler import Stopped, WorkersConfig
from .worker_time import ClockFollower, WorkerTime, moved_clock

logger = logging.getLogger("streamlog.client")


class Job(Protocol):
    """What the workers of one `start` do with their records. Thread-safe."""

    def work(self, consumer: Consumer[Any, Any], ends: dict[TopicPartition, int] | None, time: WorkerTime) -> None:
        """Handle the records of one worker's consumer, up to `ends`, or until `time` says that the workers stop.

        The consumer returns no value deserialized. Raises Stopped in the middle of them, and what is to stop all workers.
        """

    def close(self) -> None:
        """The last worker has ended."""


_at_work: dict[int, Workers] = {}
"""The workers of which a thread is one, by the thread's id."""


class Workers(Closing):
    """The running workers of a group: threads, each with a consumer. Made by `group.start` and `start_pipe`. Thread-safe.

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
        make_job: Callable[[Callable[[TopicPartition], Decoder], DeadLetters | None], Job],
        topics: Sequence[Any],
        config: WorkersConfig,
        consumer_config: dict[str, Any],
        *,
        blocks: bool = False,
    ) -> None:
        """For the library's own use. `blocks`: the calling thread is going to wait for their end."""
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
        decoders = decoders_of(settings, serdes)
        self._consumers: list[Consumer[Any, Any]] = []
        try:
            self._make_consumers(config.workers, topics, serdes, consumer_config)
            self._reads = self._consumers[0].subscription()
            dead_letters = self._dead_letters(config.dead_letter_topic) if config.on_error == "dead_letter" else None
            self._ends: dict[TopicPartition, int] | None = self._ends_now() if config.until_end else None
        except BaseException:
            for consumer in self._consumers:
                consumer.close()
            raise
        self._job = make_job(decoders, dead_letters)
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
        bounds = results_of(
            {
                name: service.bounds(name, "read_committed")
                for topic in self._consumers[0].subscription()
                for name in [TopicPartition(topic, n) for n in range(image.topics[topic].partitions)]
            }
        )
        return {name: end for name, (_, end) in bounds.items()}

    # -- one worker ----------------------------------------------------------------------------------

    def _work(self, time: WorkerTime) -> None:
        if not self._begun.setdefault(time, True):
            return
        consumer = time.consumer
        time.begin()
        _at_work[time.thread] = self
        try:
            with consumer:
                self._work_through(consumer, time)
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
            _at_work.pop(time.thread, None)
            self._end(time)

    def _end(self, time: WorkerTime) -> None:
        """A worker has ended, or never begins. The last one of all ends what they share; there may be two last ones."""
        time.end()
        if not self._running():
            if self._follower is not None:
                self._follower.detach()
            self._job.close()
            self._done.open()
            self._log._cleanup.nudge()  # their close may be deferred until now

    def _running(self) -> int:
        return sum(not time.ended for time in self._times)

    def _work_through(self, consumer: Consumer[Any, Any], time: WorkerTime) -> None:
        try:
            self._job.work(consumer, self._ends, time)
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

        Raises RequestTimedOutError (a TimeoutError) after `timeout` real seconds, and ConfigError if a handler of the group
        waits without a timeout for workers that need the partitions of its own worker.
        """
        refuse_reentry()
        if timeout is None:
            self._refuse_endless_wait()
        if not self._done.wait(seconds_or_none(timeout)):
            raise RequestTimedOutError(f"The workers are still running after {timeout} s. Call stop() to end them.")
        with inside(), self._lock:
            error, self._error = self._error, None
        if error is not None:
            raise error

    def _refuse_endless_wait(self) -> None:
        """Raise ConfigError if the calling thread handles a record of the same group and topics: the wait would have no end."""
        here = _at_work.get(get_ident())
        if here is None or here._group != self._group or not here._log._same_log(self._log) or self._done.is_open():
            return
        topics = here._reads & self._reads
        if topics:
            raise ConfigError(
                f"A handler of group {self._group!r} waits for workers of the same group that read {', '.join(sorted(topics))} too. They "
                f"would wait for the partitions of the handler's own worker, which gives them up only after the handler has returned. "
                f"Give the inner workers a group of their own, or return from the handler first."
            )

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
        return f"<streamlog.Workers of group {self._group!r}: {self._running()} running{failed}>"
