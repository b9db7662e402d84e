"""Reading records, alone or as a member of a group.

A poll, step by step: what was handed out before is finished; the group is heard (heartbeat, partitions
given up or taken over, listeners called: `sharing`); then each partition's reader hands out what it
has; and if that is nothing, the consumer waits on a gate that an append, a change in the group,
`stop()` or `close()` opens. The locks are explained in `reading`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from sys import maxsize
from typing import Any, Generic, Self, TypeVar, Unpack

from ...config import ConsumerConfig, shown
from ...errors import ConfigError, ConsumerStoppedError, StreamlogError
from ...runtime.threads import RawGate, get_ident, is_inside, real_monotonic, refuse_reentry
from ...types import K, Record, TopicPartition, V
from .. import config_types
from ..arguments import seconds, seconds_or_none
from ..handle import Parent, closed
from .listener import RebalanceListener, check_listener
from .offsets import Positions
from .record_batch import RecordBatch
from .subscription import Subscription
from .subscription_state import Ahead

A = TypeVar("A")
T = TypeVar("T")

# A loop renews its place in the group this often, however long it works on one record.
_RENEW_S = 0.1
_CLOSE_WAIT_S = 5.0


class Consumer(Positions, Generic[K, V]):
    """Reads topics, alone or as a member of a group; its own iterator. One thread at a time.

    Without `group=` it has all partitions, starts by `auto_offset_reset`, and refuses commits. In a
    group partitions are shared out, and committed offsets say where to go on. A record is finished,
    and so may be auto-committed, when the next one is asked for: in a loop the next record, after
    `poll` the next `poll`; a `with` block that ends well finishes everything handed out.

    >>> import streamlog
    >>> with streamlog.open() as log:
    ...     _ = log.create_topic("orders").send("9.50", key="alice")
    ...     with log.consumer("orders", group="billing") as consumer:
    ...         [record.value for record in consumer.until_end()]
    [b'9.50']
    """

    def __init__(
        self,
        log: Parent,
        *topics: Any,
        group: str | None = None,
        key_deserializer: Any = None,
        value_deserializer: Any = None,
        **config: Unpack[config_types.ConsumerConfig],
    ) -> None:
        given = {
            "group": group,
            "key_deserializer": key_deserializer,
            "value_deserializer": value_deserializer,
            **config,
        }
        super().__init__(log, ConsumerConfig.of(given))
        self.stopped = False
        self._stop_told = False
        self._ending = False
        self._renew_at = 0.0
        if topics:
            self.subscribe(topics)
        log._adopt(self)
        self._service.on_metadata(self._wakeup.wake)
        self._made = True

    # -- what to read --------------------------------------------------------------------------------

    def subscribe(self, topics: Any, listener: RebalanceListener | None = None) -> None:
        """Read these topics (names, Topics, compiled patterns) from the next poll on; replaces what was read.

        Patterns match whole names, future topics too. Partitions of `assign` are let go of, what is finished of them
        committed: those of them that a subscription gives are read from where the group is, like all others. Raises
        UnknownTopicOrPartitionError for a name that is no topic; then nothing changed.
        """
        if check_listener(listener) is not None and self._membership is None:
            raise ConfigError("A rebalance listener needs a group=: nothing moves without one.", name="listener")
        with self._enter():
            given = [topics] if isinstance(topics, str) or not isinstance(topics, Iterable) else list(topics)
            subscription = Subscription()
            subscription.subscribe(given, self._note_topic, self._log._topic_view)
            with self._guard():
                if self._subscription.manual is not None:
                    self._leave()
                self._subscription = subscription
                if listener is not None:
                    self._listener = listener
                if self._membership is None:
                    self._refresh_alone()
            self._wakeup.wake()

    def _note_topic(self, topic: Any) -> str:
        name, key_serde, value_serde = self._log._name_of(topic)
        self._serdes[name] = (key_serde, value_serde)
        return name

    def unsubscribe(self) -> None:
        """Read nothing any more; a member commits what is finished and leaves its group."""
        refuse_reentry()
        with self._enter(), self._guard():
            self._leave()
            self._subscription.clear()

    def assign(self, partitions: Iterable[TopicPartition]) -> None:
        """Read exactly these partitions, outside any sharing; with a group= its committed offsets are used.

        What is finished of the partitions read before is committed; of those assigned before, the ones that stay keep
        their position. While the group has members, who commit for it, `commit` raises CommitFailedError and auto-commit
        warns. Raises UnknownTopicOrPartitionError; then nothing changed.
        """
        refuse_reentry()
        with self._enter(), self._guard():
            subscription = Subscription()
            subscription.assign(partitions, self._service.image)
            if self._membership is not None and self._subscription.manual is None:
                self._leave()
            elif self._auto_commits:
                self._auto_commit(None)
            self._subscription = subscription
            self._refresh_alone()

    def assignment(self) -> set[TopicPartition]:
        """The partitions this consumer has now; in a group none before the first poll."""
        with self._enter(only_looks=True):
            return set(self._held.readers)

    def subscription(self) -> set[str]:
        """The names of the topics subscribed to, those that patterns match now included."""
        with self._enter(only_looks=True):
            self._subscription.resolve(self._service.image)
            return set(self._subscription.names)

    # -- reading -------------------------------------------------------------------------------------

    def poll(self, timeout: float = 0.0, max_records: int | None = None) -> list[Record[K, V]]:
        """Up to `max_records` records (`max_poll_records` if None), waiting up to `timeout` real seconds for one.

        `[]` at the timeout; after `stop()` once `[]`, then ConsumerStoppedError. What the last poll handed
        out is finished. Raises CorruptRecordError, DeserializationError (seek past the record to go on),
        OffsetOutOfRangeError under `auto_offset_reset="none"`. Cost: a few µs, and a fifth of a µs a record.
        """
        n = self._limit(max_records)
        held = self._held
        out = self._poll(timeout, lambda: held.take(n))
        held.returned = held.polled  # handed out: the last thing done, nothing between here and the caller can raise
        return out

    def poll_batches(self, timeout: float = 0.0, max_records: int | None = None) -> list[RecordBatch[K, V]]:
        """`poll`, by columns: no Python object per record.

        Exactly up to `max_records` if given, cutting the last batch; without it whole batches, so that the last
        one may go past `max_poll_records`.
        """
        n = self._limit(max_records)
        held = self._held
        out = self._poll(timeout, lambda: held.take_batches(n, max_records is not None))
        held.returned = held.polled  # as in poll
        return out

    def _limit(self, max_records: int | None) -> int:
        n = self._config.max_poll_records if max_records is None else max_records
        if type(n) is int and 0 < n < maxsize:
            return n
        if isinstance(n, bool) or not isinstance(n, int) or n < 1:
            raise ConfigError(f"max_records={shown(max_records)} is not a positive int.", name="max_records")
        return min(n, maxsize)  # more than any list holds: all there is

    def _poll(self, timeout: float, collect: Callable[[], list[T]]) -> list[T]:
        """What one poll takes; it is handed out once the caller has put it down as returned."""
        if timeout != 0.0:
            timeout = seconds(timeout)
        with self._enter():
            if self.stopped and self._stop_told:
                raise ConsumerStoppedError("This consumer was stopped; make a new one to read on.")
            with self._guard():
                self._held.finish()
            try:
                out = self._poll_inside(timeout, collect)
            except BaseException:
                with self._guard():  # not needed for what is committed: other members may have the partitions at once
                    self._held.finish()
                raise
        if self._deferred_closes:
            self._cleanup.run_deferred_closes()
        return out

    def _poll_inside(self, timeout: float, collect: Callable[[], list[T]]) -> list[T]:
        end: float | None = None
        while True:
            if self.stopped:
                self._stop_told = True
                return []
            out = self._look(collect)
            if out:
                return out
            now = real_monotonic()
            end = now + timeout if end is None else end
            if end <= now:
                return []
            found = self._wait(end - now, collect)
            if found:
                return found

    def _look(self, collect: Callable[[], A]) -> A:
        """One look at the group and the partitions."""
        self._check()
        self._wakeup.pending = False
        if self.stopped:  # between the caller's look and the line above
            self._wakeup.pending = True
        with self._guard():
            self._sync()
            return self._collect(collect)

    def _wait(self, left: float | None, collect: Callable[[], A]) -> A | None:
        """Wait for an append, the group, or `stop`; the end is looked at once more after registering.

        What an append brought is collected at once: no wakeup is pending, so neither group nor topics have news.
        """
        wakeup = self._wakeup
        wakeup.gate = gate = RawGate()
        parked = self._service.await_data(self._held.active())
        try:
            parked.on_done(gate.open)
            if wakeup.pending:
                return None
            with self._guard():
                out = self._collect(collect)
            if out:
                return out
            step = self._longest_wait()
            if not gate.wait(step if left is None else min(left, step)) or wakeup.pending:
                return None
            with self._guard():
                return self._collect(collect) if self._still_member() else None
        finally:
            parked.cancel()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Record[K, V]:
        """The next record, waiting for it; ends after `stop()`. The one before is finished."""
        held = self._held
        ahead = held.unlocked
        at = ahead.at
        if at < len(ahead.records) and not self._wakeup.pending and real_monotonic() < self._renew_at:
            record = held.in_hand = ahead.records[at]
            if held.unlocked is ahead:  # nobody takes the partition: `Assignment` has the rule
                ahead.at = at + 1
                return record
        found = self._next(None, None)
        if self._deferred_closes:
            self._cleanup.run_deferred_closes()
        if found is None:
            raise StopIteration
        at = found.at
        record = found.records[at]
        found.at = at + 1  # handed out: the last thing done
        return record

    def until_end(self, timeout: float | None = None) -> Iterator[Record[K, V]]:
        """The records up to the end offsets of now, then stop. `timeout`: longest wait for one record.

        A member waits while partitions are on their way to it. The record before is finished when the
        next is asked for.
        """
        return self._until({}, seconds_or_none(timeout))

    def _until(self, ends: dict[TopicPartition, int], timeout: float | None) -> Iterator[Record[K, V]]:
        """`until_end` with end offsets that are known; those of other partitions are added at first sight."""
        held = self._held
        while True:
            ahead = self._next(ends, timeout)
            if self._deferred_closes:
                self._cleanup.run_deferred_closes()
            if ahead is None:
                return
            records, at = ahead.records, ahead.at
            record = records[at]
            ahead.at = at = at + 1  # handed out: the last thing done
            yield record
            while (
                held.unlocked is ahead
                and at == ahead.at < len(records)
                and not self._wakeup.pending
                and real_monotonic() < self._renew_at
            ):
                record = held.in_hand = records[at]
                if held.unlocked is not ahead:  # somebody takes the partition: `Assignment` has the rule
                    break
                ahead.at = at = at + 1
                yield record

    def _next(self, ends: dict[TopicPartition, int] | None, timeout: float | None) -> Ahead | None:
        """The next record by the long way: hear the group, take records ahead, wait. None at the end.

        It is the one at `at`, in hand already; the caller hands it out by moving `at`.
        """
        with self._enter():
            deadline = None if timeout is None else real_monotonic() + timeout
            with self._guard():
                self._held.finish()
            while True:
                if self.stopped:
                    self._stop_told = True
                    return None
                # Offered under the state lock: a newcomer may ask for the partition the moment it is free.
                ahead = self._look(lambda: self._held.offer() if self._ahead(ends) else None)
                self._renew_at = real_monotonic() + _RENEW_S
                if ahead is not None:
                    return ahead
                if ends is not None and not self._wakeup.pending and not self._waits_for_others():
                    return None
                left = None if deadline is None else deadline - real_monotonic()
                if left is not None and left <= 0:
                    return None
                self._wait(left, lambda: self._ahead(ends))

    def _ahead(self, ends: dict[TopicPartition, int] | None) -> bool:
        """Have records taken ahead; REQUIRES the state lock."""
        held = self._held
        if ends is not None:
            for name in held.readers:
                if name not in ends:
                    ends[name] = self._service.bounds(name, self._config.isolation_level)[1]
        return held.take_ahead(self._limit(None), ends)

    def stop(self) -> None:
        """Have the reader end: a waiting call returns, a loop ends. For good; safe from anywhere."""
        self.stopped = True
        self._wakeup.wake()

    # -- the end ---------------------------------------------------------------------------------------

    def __exit__(self, exc_type: object = None, *exc: object) -> None:
        if exc_type is None and (entered := self._enter_if_open()) is not None:
            with entered, self._guard():
                self._held.finish()
        self.close()

    def _enter_if_open(self) -> Any:
        """As `_enter`; None where it is closed, or its log was meanwhile: by another thread, or because that was put off."""
        try:
            return self._enter()
        except StreamlogError:
            if self._dead is None:
                raise
            return None

    def close(self) -> None:
        """Commit what is finished (if auto-committing), leave the group. Closing again does nothing.

        A bare `close()` does not finish the record in hand; leaving a `with` block without an exception does. In a signal
        handler or finalizer it may be put off until the call that was interrupted ends: a waiting poll at once, with [].
        """
        if self._dead is not None:
            return
        if self._end_call_soon() or is_inside():
            self._cleanup.defer_close(self._close_deferred)
            return
        if (entered := self._enter_if_open()) is not None:
            with entered:
                self._end(closed("consumer"))

    def _end_call_soon(self) -> bool:
        """Whether the caller, no listener, interrupted a call of this consumer's, which then ends as after `stop`."""
        here = get_ident()
        if not self._busy.locked() or self._owner != here or self._inside == here:
            return False
        self.stop()
        return True

    def _close_deferred(self) -> None:
        """Close it, unless a call is not over yet."""
        if self._dead is not None:
            return
        if self._busy.locked():
            self._cleanup.deferred_closes.append(
                self._close_deferred
            )  # whoever ends that call looks; and the background thread, in time
        else:
            self._close_with_log(error=closed("consumer"))

    def _close_with_log(self, limit_s: float = _CLOSE_WAIT_S, error: StreamlogError | None = None) -> None:
        """The log is closing, maybe under a thread that waits in here: wake it, and wait for it, with a bound."""
        error = error or closed("log")
        if self._busy.locked() and self._owner == get_ident():
            self._end(error)
            return
        self._dead = error
        self._wakeup.wake()
        taken: list[bool] = []
        try:
            # One step in C, as `with` is, which has no timeout: an interrupt finds it taken and noted, or neither. A lock
            # that stayed taken would look like a call of this thread, whose end the next close of the log waits for.
            taken.extend(map(self._busy.acquire, (True,), (limit_s,)))
            if taken[0]:
                self._owner = get_ident()
                self._end(error)
        finally:
            if taken and taken[0]:
                self._busy.release()

    def _end(self, error: StreamlogError) -> None:
        if self._ending:  # a listener that closes the consumer while it is told of its closing
            return
        self._ending = True
        try:
            with self._guard():
                self._leave()
        except BaseException as failure:
            membership = self._membership
            if isinstance(failure, Exception) and not (membership is not None and membership.joined):
                self._let_go(error)
            else:  # Ctrl-C, or what else came before it had left: it is still open, and closing it again goes on
                self._ending = False
            raise
        self._let_go(error)

    def _let_go(self, error: StreamlogError) -> None:
        self._service.off_metadata(self._wakeup.wake)
        self._log._forget(self)
        self._dead = error

    def _leave(self) -> None:
        """Commit what is finished, tell the listener, leave the group, let go of every partition."""
        names = self._held.names()
        try:
            if self._auto_commits:
                self._auto_commit(None)
            still = self._held.names() - self._going  # committing lets go of partitions whose topic was deleted
            if still and self._subscription.manual is None:
                self._tell("on_partitions_revoked", still)
        finally:
            if self._membership is not None:
                self._membership.leave()
                self._local_members.remove(self._membership.group, self)
            self._held.drop(names)

    def __del__(self) -> None:
        if self._dead is None and self._made:
            service, wakeup, membership = self._service, self._wakeup, self._membership
            local_members = self._local_members

            def finalizer() -> None:
                service.off_metadata(wakeup.wake)
                if membership is not None:
                    membership.leave()
                    local_members.remove_if_empty(membership.group)

            self._cleanup.add_finalizer(finalizer)
            self._warn_open()  # last: where warnings are errors, it raises

    def __repr__(self) -> str:
        group = "" if self._config.group is None else f" group={self._config.group!r}"
        state = " closed" if self._dead is not None else f" {len(self._held.readers)} partitions"
        return f"<streamlog.Consumer {', '.join(sorted(self._subscription.names)) or 'no topics'}{group}{state}>"
