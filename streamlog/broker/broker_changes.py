"""Brokers that stop, fail and come back while the log is open.

Each is done whole, on the thread of the timers: an interrupt of a caller, who waits for it, leaves no broker half stopped.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Sequence
from functools import wraps
from typing import ParamSpec, TypeVar

from ..errors import DiskFullError, LogDirNotFoundError, NotLeaderError, StreamlogError
from ..replication.partition import Partition
from ..runtime.api import Completion, Gate
from ..runtime.threads import inside, result_of, was_released_meanwhile
from ..runtime.values import raise_first, refuse_to_copy
from ..storage.files import stale_owner
from .broker import Broker
from .brokers import Brokers
from .real_timers import RealTimers
from .topics import Topics

P = ParamSpec("P")
T = TypeVar("T")
logger = logging.getLogger("streamlog.broker")

HAND_OVER_S = 5.0
"""How long (real time) stopping a broker waits at most until others have everything that it leads."""


class BrokerChanges:
    """Thread-safe. `started` is called with each broker that was started, `shut` when the directory of the only one is gone."""

    __reduce_ex__ = refuse_to_copy

    def __init__(
        self,
        topics: Topics,
        brokers: Brokers,
        timers: RealTimers,
        new_gate: Callable[[], Gate],
        shut: Callable[[], object],
        started: Callable[[Broker], object],
    ) -> None:
        self._topics = topics
        self._brokers = brokers
        self._timers = timers
        self._new_gate = new_gate
        self._shut = shut
        self._started = started
        self._failures: dict[Broker, StreamlogError] = {}
        self._whole_work: dict[Completion[None], None] = {}

    def replace_gone(self) -> None:
        """Have others replace the brokers whose failure is known, or whose directory is gone, before the log is closed: the next
        open looks for them no more then. REQUIRES: the timers have ended, so that no other thread does this."""
        for broker in self._brokers.running if self._brokers.is_replicated else ():
            with contextlib.suppress(
                StreamlogError
            ):  # reported by `watch_stale`; what else the disk refuses, the close meets too
                self._brokers.watch.run_on(broker, broker.directory.check_owned)
        with contextlib.suppress(StreamlogError):  # which cannot be recorded; the close goes on
            self._replace_failed(self._timers.now_ms())

    def close(self, error: StreamlogError) -> None:
        """The log is being closed: what is not done yet fails. REQUIRES: the topics are closed, and the timers have ended."""
        for done in list(self._whole_work):
            done.fail(error.copy())

    def watch_stale(self, broker: Broker) -> None:
        if not self._brokers.is_replicated:
            broker.directory.on_stale = self._shut
            return
        path = broker.directory.path
        broker.directory.on_stale = lambda: self.report_failure(broker, stale_owner(path))

    def report_failure(self, broker: Broker, error: StreamlogError) -> None:
        """The disk under a broker fails: have others lead its partitions, soon, on the thread of the timers. Takes no lock.

        Does nothing for one that has been stopped meanwhile, also if it was started again since: that is another Broker. Nor for one
        that no other can replace: a replacement of another one that fails because of it would be tried again at once, for ever.
        """
        if self.can_replace(broker, error):
            self._failures.setdefault(broker, error)
            self._timers.at(self._timers.now_ms(), self._replace_failed)

    def _replace_failed(self, now_ms: int) -> int | None:
        for broker, error in list(self._failures.items()):
            self._failures.pop(broker, None)
            is_left = not (broker.running or broker.is_leaving)
            if self._topics.closed is not None or is_left or not self.can_replace(broker, error):
                continue
            is_gone = isinstance(error, LogDirNotFoundError)
            path = broker.directory.path
            why = f"its directory {path} was removed, renamed or replaced" if is_gone else str(error).rstrip(".")
            if broker.running and broker.hung is None:  # else it is tried again, or was said
                logger.error(
                    "broker %d has failed, and others lead its partitions: %s. log.brokers[%d].start() starts it again, with a new "
                    "directory if there is none.",
                    *(broker.id, why, broker.id),
                )
            try:
                self._topics.stop_broker(broker.id, error)
            except StreamlogError as failure:  # the next controller has failed too: it is replaced first
                self._failures.setdefault(broker, error)
                leadership = self._brokers.leadership
                leadership.bound_waits(leadership.led_by(broker.id), failure)
                raise
            self._brokers.close_broker(broker, error)
        return None

    def answering_moves(self, call: Callable[P, Completion[T]]) -> Callable[P, Completion[T]]:
        """`call`, which may fail on the disk of a broker: its answer is NotLeaderError then if others take over what that one does. So it
        is where a lock was given up that it held, or waited for: see `DiskWatch`.

        So each call that meets a broker which has just failed is made again, as one that meets an election, by what retries.
        """

        @wraps(call)
        def answer(*args: P.args, **kwargs: P.kwargs) -> Completion[T]:
            try:
                done = call(*args, **kwargs)
            except RuntimeError as given_up:
                hung = [broker for broker in self._brokers.all if broker.hung is not None]
                if not hung or not was_released_meanwhile(given_up):
                    raise
                return Completion.failed(_has_moved(hung[0], hung[0].hung))
            error = done.error()
            moved = self.moved(error) if isinstance(error, StreamlogError) else None
            return done if moved is None else Completion.failed(moved)

        return answer

    def moved(self, error: StreamlogError) -> NotLeaderError | None:
        """What a caller is told in place of the error of a disk whose broker others replace: it can try again. None for other errors."""
        broker = self._brokers.failed_in(error)
        if broker is None:
            return None
        if broker.running:
            path = getattr(error, "path", "")
            is_alone = any(
                path.startswith(f"{each.log.directory}/") and not each.has_successors
                for each in self._brokers.leadership.led_by(broker.id)
            )
            if is_alone or not self.can_replace(broker, error):
                return None
            self.report_failure(broker, error)
        return _has_moved(broker, error)

    def can_replace(self, broker: Broker, error: StreamlogError) -> bool:
        """Whether other brokers take over what this one does: not from the last one that runs, nor from one whose disk is full,
        if it is full under every other one too."""
        others = [each for each in self._brokers.running if each is not broker]
        return any(each.has_space() for each in others) if isinstance(error, DiskFullError) else bool(others)

    def stop(self, broker_id: int) -> None:
        """Stop a broker: others lead its partitions, when they have everything. Raises ConfigError for the last one that runs."""
        broker = self._brokers.by_id(broker_id)
        error = NotLeaderError(f"Broker {broker_id} was stopped. Another one leads its partitions; try again.")
        led = self._brokers.leadership.led_by(broker_id)

        def unblock() -> None:
            for partition in led:
                partition.unblock(error)

        def hand_over() -> None:
            try:
                self._topics.stop_broker(broker_id, None)
                raise_first(self._brokers.close_broker(broker, error))
            finally:
                unblock()

        result_of(self._begin_hand_over(led, error, hand_over, unblock))

    def _begin_hand_over(
        self,
        led: Sequence[Partition],
        error: NotLeaderError,
        hand_over: Callable[[], None],
        unblock: Callable[[], None],
    ) -> Completion[None]:
        """Have the partitions `led` take no more records, and `hand_over` called once others have theirs, or `HAND_OVER_S` are over.

        Inside, though no lock is held: only this thread ends the block before `hand_over` is under way. A call of a signal handler
        would be made again until then, and this thread waits for that call.
        """
        with inside():
            begun = False
            try:
                self._block_until_replicated(led, error)
                done = self._whole(hand_over)
                begun = True
                return done
            finally:
                if not begun:
                    unblock()

    def _block_until_replicated(self, led: Sequence[Partition], error: NotLeaderError) -> None:
        for partition in led:
            partition.block(error)
        deadline_ms = self._timers.now_ms() + HAND_OVER_S * 1000
        while self._timers.now_ms() < deadline_ms and any(
            each.has_successors and not each.is_replicated for each in led
        ):
            self._new_gate().wait(0.001)

    def start(self, broker_id: int) -> None:
        """Start a broker that was stopped or has failed. A directory that is missing or empty is made anew, and filled."""
        if self._brokers.by_id(broker_id).is_leaving:  # that it does not run could not be recorded yet
            self.stop(broker_id)
        result_of(self._whole(lambda: self._start(broker_id)))

    def _start(self, broker_id: int) -> None:
        try:
            self._topics.start_broker(broker_id)
        except StreamlogError as error:  # it may have come as far as to be registered
            if self._topics.stop_broker(broker_id, error):
                self._brokers.close_broker(self._brokers.by_id(broker_id), error)
            raise
        broker = self._brokers.by_id(broker_id)
        self.watch_stale(broker)
        self._started(broker)

    def _whole(self, work: Callable[[], None]) -> Completion[None]:
        """Have the thread of the timers do this: an interrupt of the caller, who waits for it, leaves nothing half done."""
        done: Completion[None] = Completion()

        def task(now_ms: int) -> None:
            try:
                work()
            except BaseException as error:
                done.fail(error)
            else:
                done.complete(None)
            self._whole_work.pop(done, None)

        self._whole_work[done] = None
        self._timers.at(self._timers.now_ms(), task)
        if self._topics.closed is not None:  # maybe after `close` has looked, and the timers have ended
            done.fail(self._topics.closed.copy())
        return done


def _has_moved(broker: Broker, error: StreamlogError | None) -> NotLeaderError:
    moved = NotLeaderError(f"Broker {broker.id} has failed ({error}). Another one is about to take over; try again.")
    moved.__cause__ = error
    return moved
