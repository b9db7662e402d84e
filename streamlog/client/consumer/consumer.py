"""`Consumer`: reading records, alone or as a member of a group.

A poll, step by step. The records returned before are finished. The coordinator brings the assignment in line with the
topics and the group (`coordinator`); the fetchers of the partitions that may have records give what they have
(`subscription_state`, `fetcher`): that is one step of the core (`core`). If it brings no records, the consumer waits
(`_wait`) until an append, a change in the group, `stop()` or `close()` wakes it, or until a deadline, and makes the next
step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from sys import maxsize
from typing import Any, Generic, Self, TypeVar, Unpack

from ...config import ConsumerConfig as ConsumerSettings
from ...config import shown, typed
from ...errors import (
    ConfigError,
    ConsumerStoppedError,
    OffsetOutOfRangeError,
    StreamlogError,
    UnknownTopicOrPartitionError,
)
from ...runtime.threads import RawGate, get_ident, is_inside, longest_sleep, real_monotonic, refuse_reentry, result_of
from ...types import K, OffsetAndTimestamp, Offsets, Record, TopicPartition, V
from .. import retrying
from ..arguments import is_int, is_offset, partition_of, partitions_of, seconds, seconds_or_none, to_ms
from ..call_site import call_site
from ..config_types import ConsumerConfig
from ..handle import Closing, Parent, check_log, closed
from ..serde import De, DeByTopic
from ..topic import Subscription
from .access import Access
from .coordinator import ConsumerCoordinator
from .core import ConsumerCore
from .decode import decoders_of
from .driver import BlockingDriver
from .fetcher import PartitionFetcher
from .listener import RebalanceListener, check_listener
from .membership import Wakeup
from .offsets import OffsetFetcher
from .record_batch import RecordBatch
from .subscription import Subscription as _Subscription
from .subscription_state import EndOffsets, Prefetched, SubscriptionState

A = TypeVar("A")
T = TypeVar("T")

# An iteration makes a step this often, however long the program works on one record: a member renews its deadline.
_RENEW_S = 0.1
_SHOWN = 4  # topics in the repr
_CLOSE_WAIT_S = 5.0


class Consumer(Closing, Generic[K, V]):
    """Reads topics, alone or as a member of a group. One thread at a time; `stop` from anywhere.

    Made by `log.consumer(…)`, its settings are those of `streamlog.ConsumerConfig`.

    Without `group=` it reads all partitions, starts by `auto_offset_reset`, and refuses commits. In a group the
    partitions are shared among the members, and committed offsets say where to go on. A record is finished, and so may be
    auto-committed, when the next one is asked for: in a loop the next record, after `poll` the next `poll`. A `with` block
    that ends without an exception finishes all that was returned.

    - Reading: `for record in consumer` waits for more, `until_end` does not; `poll` and `poll_batches` return lists.
      `stop` ends it for good; `close`.
    - What it reads: `subscribe`, `unsubscribe`, `assign`; `subscription`, `assignment`; `pause`, `resume`, `paused`.
    - Where it is: `position`, `lag`; `seek`, `seek_to_beginning`, `seek_to_end`; `beginning_offsets`, `end_offsets`,
      `offsets_for_times`.
    - What is done: `commit`, `committed`; by default it commits by itself.

    A partition is a TopicPartition or an equal tuple, such as `("orders", 0)`; times are real seconds. A call while another
    thread is in one raises ConcurrentUseError.

    >>> import streamlog
    >>> with streamlog.open() as log:
    ...     _ = log.create_topic("orders").send("9.50", key="alice")
    ...     with log.consumer("orders", group="billing") as consumer:
    ...         [record.value for record in consumer.until_end()]
    [b'9.50']
    """

    _refuse_commit: Callable[[], None] = staticmethod(lambda: None)
    """Raises while a transaction is to commit the offsets; a `GroupReader` sets it."""
    _transactional: Callable[[], Any] = staticmethod(lambda: None)
    """A weak reference to the manager of the transaction that it was taken into last; a `GroupReader` sets it."""

    def __init__(
        self,
        log: Parent,
        *topics: Subscription,
        group: str | None = None,
        key_deserializer: De[K] | DeByTopic | None = None,
        value_deserializer: De[V] | DeByTopic | None = None,
        **config: Unpack[ConsumerConfig],
    ) -> None:
        """The same as `log.consumer(…)`, which describes the parameters."""
        given = {
            "group": group,
            "key_deserializer": key_deserializer,
            "value_deserializer": value_deserializer,
            **config,
        }
        self._config = settings = ConsumerSettings.of(given)
        check_log(log, "Consumer", "consumer(topic, …)")
        self._log = log
        self._service = service = log._use(retries=False)  # a poll returns to the program meanwhile
        if settings.group is not None:
            service.require_writable(f"A consumer with group={settings.group!r} (one without only reads)")
        self._cleanup = log._cleanup
        self._deferred_closes = log._cleanup.deferred_closes
        self._access = Access(log._cleanup)
        self._driver = BlockingDriver(self._access)
        self._wakeup = Wakeup()
        self._session = service.fetch_session(self._wakeup.open)
        self._subscriptions = SubscriptionState(self._session)
        self._offsets = OffsetFetcher(service, settings, self._subscriptions)
        self._serdes: dict[str, tuple[Any, Any]] = {}
        self._coordinator = ConsumerCoordinator(
            service,
            settings,
            log._local_members,
            self._driver,
            self._subscriptions,
            self._offsets,
            self._wakeup,
            decoders_of(settings, self._serdes),
            call_site(),
        )
        self._core = ConsumerCore(self._coordinator, self._subscriptions, self._offsets)
        self._max_poll_records = min(settings.max_poll_records, maxsize)  # a list holds no more
        self.stopped: bool = False
        self._stop_reported = False
        self._ending = False
        self._renew_at = 0.0
        self._look_at = real_monotonic() + longest_sleep.data_s
        self._on_wait: Callable[[], object] | None = None
        if topics:
            self.subscribe(topics)
        log._adopt(self)
        service.on_metadata(self._wakeup.wake)
        self._made = True

    # -- what to read --------------------------------------------------------------------------------

    def subscribe(
        self, topics: Subscription | Iterable[Subscription], listener: RebalanceListener | None = None
    ) -> None:
        """Read these topics (a name, a Topic, a compiled pattern, or several) from the next poll on; replaces what was read.

        Patterns match whole names, of future topics too. Partitions of `assign` are no longer read, and what is finished
        of them is committed: those that the subscription gives are read from the committed offset, like all others. Raises
        UnknownTopicOrPartitionError for a name that is not a topic; then nothing changed.

        >>> import re, streamlog
        >>> with streamlog.open() as log, log.consumer() as consumer:
        ...     consumer.subscribe(re.compile("orders-.*"))
        ...     _ = log.create_topic("orders-eu").send("9.50")
        ...     [record.topic for record in consumer.poll()]
        ['orders-eu']
        """
        if check_listener(listener) is not None and self._config.group is None:
            raise ConfigError(
                "A rebalance listener needs a group=: without one no partitions are moved.", name="listener"
            )
        access, subscriptions, coordinator = self._access, self._subscriptions, self._coordinator
        with access.call():
            given = [topics] if isinstance(topics, str) or not isinstance(topics, Iterable) else list(topics)
            subscription = _Subscription()
            subscription.subscribe(given, self._note_topic, self._log._topic_view)
            with access.state():
                if subscriptions.subscription.manual is not None:
                    self._driver.run(coordinator.leave())
                subscriptions.subscription = subscription
                if listener is not None:
                    coordinator.listener = listener
                if coordinator.membership is None:
                    self._driver.run(coordinator.assign_all(patient=True))
            self._wakeup.wake()

    def _note_topic(self, topic: Any) -> str:
        name, key_serde, value_serde = self._log._name_of(topic)
        self._serdes[name] = (key_serde, value_serde)
        return name

    def unsubscribe(self) -> None:
        """Read nothing any more; a member commits what is finished and leaves its group."""
        refuse_reentry()
        with self._access.call(), self._access.state():
            self._driver.run(self._coordinator.leave())
            self._subscriptions.subscription.clear()

    def assign(self, partitions: Iterable[TopicPartition]) -> None:
        """Read exactly these partitions, without sharing them in the group; its committed offsets are used.

        What is finished of the partitions read before is committed. Of those assigned before, the ones that stay keep
        their position. While the group has members, which commit for it, `commit` raises CommitFailedError and auto-commit
        warns. Raises UnknownTopicOrPartitionError; then nothing changed.

        >>> import streamlog
        >>> with streamlog.open(partitions=2) as log, log.consumer() as consumer:
        ...     _ = log.create_topic("orders").send("9.50", partition=1)
        ...     consumer.assign([("orders", 1)])
        ...     [record.partition for record in consumer.poll()]
        [1]
        """
        refuse_reentry()
        subscriptions, coordinator = self._subscriptions, self._coordinator
        with self._access.call(), self._access.state():
            subscription = _Subscription()
            subscription.assign(partitions, self._service.image)
            if coordinator.membership is not None and subscriptions.subscription.manual is None:
                self._driver.run(coordinator.leave())
            else:
                self._driver.run(coordinator.auto_commit())
            subscriptions.subscription = subscription
            self._driver.run(coordinator.assign_all(patient=True))

    def assignment(self) -> set[TopicPartition]:
        """The partitions this consumer has now; in a group none before the first poll."""
        with self._access.call(reads_only=True):
            return set(self._subscriptions.fetchers)

    def subscription(self) -> set[str]:
        """The names of the topics subscribed to, those that patterns match now included."""
        with self._access.call(reads_only=True):
            return set(self._subscriptions.subscription.matching(self._service.image))

    # -- reading -------------------------------------------------------------------------------------

    def poll(self, timeout: float = 0.0, max_records: int | None = None) -> list[Record[K, V]]:
        """Up to `max_records` records (`max_poll_records` if None), waiting up to `timeout` real seconds for one.

        `[]` at the timeout; after `stop()` once `[]`, then ConsumerStoppedError. What the last poll returned is finished.
        Raises CorruptRecordError, DeserializationError (seek past the record to go on), OffsetOutOfRangeError under
        `auto_offset_reset="none"`. Cost: a few µs, and a fifth of a µs a record.

        >>> import streamlog
        >>> with streamlog.open() as log:
        ...     _ = log.create_topic("orders").send_many(["9.50", "20.00"])
        ...     with log.consumer("orders") as consumer:
        ...         [record.value for record in consumer.poll(timeout=1.0)], consumer.poll()
        ([b'9.50', b'20.00'], [])
        """
        out = self._poll(timeout, max_records, None)
        subscriptions = self._subscriptions
        subscriptions.returned = subscriptions.polled  # the last thing done: nothing from here to the caller can raise
        return out

    def poll_batches(self, timeout: float = 0.0, max_records: int | None = None) -> list[RecordBatch[K, V]]:
        """`poll`, by columns: no Python object per record.

        Exactly up to `max_records` if given, cutting the last batch. Without it batches are whole, so there may be more
        records than `max_poll_records`. Cost: about half of `poll`'s.

        >>> import streamlog
        >>> with streamlog.open() as log:
        ...     _ = log.create_topic("orders").send_many([b"1", b"2", b"3"])
        ...     with log.consumer("orders") as consumer:
        ...         [batch.values for batch in consumer.poll_batches(timeout=1.0)]
        [[b'1', b'2', b'3']]
        """
        out = self._poll(timeout, max_records, max_records is not None)
        subscriptions = self._subscriptions
        subscriptions.returned = subscriptions.polled  # as in poll
        return out

    def _poll(self, timeout: float, max_records: int | None, exactly: bool | None) -> list[Any]:
        """What `SubscriptionState.take` gives, waiting for it. It is returned to the program once the caller has noted it as returned."""
        if max_records is None:
            n = self._max_poll_records
        elif type(max_records) is int and 0 < max_records < maxsize:  # the usual one, without a call: part of each poll
            n = max_records
        else:
            n = _limit(max_records)
        at_once = timeout == 0.0
        if not at_once:
            timeout = seconds(timeout)
        subscriptions = self._subscriptions

        def fetch() -> list[Any]:
            return subscriptions.take(n, exactly, at_once)

        call, state = self._access.call_and_state()
        with call:
            stopped = self.stopped
            if stopped and self._stop_reported:
                raise ConsumerStoppedError("This consumer was stopped; make a new one to read on.")
            try:
                with state:
                    self._core.begin()
                    out = None if stopped else self._step(fetch)
                if not out:
                    out = self._poll_until(timeout, fetch)
            except BaseException:
                with self._access.state():  # not for what is committed: other members may get the partitions at once
                    subscriptions.finish()
                raise
        if not out and not subscriptions.fetchers:
            self._coordinator.note_empty_poll()
        if self._deferred_closes:
            self._cleanup.run_deferred_closes()
        return out

    def _poll_until(self, timeout: float, fetch: Callable[[], list[T]]) -> list[T]:
        """Wait for what `fetch` gives, after a step that brought nothing, or if the consumer was stopped."""
        end: float | None = None
        while True:
            if self.stopped:
                self._stop_reported = True
                return []
            if timeout == 0.0:
                return []
            now = real_monotonic()
            end = now + timeout if end is None else end
            if end <= now:
                return self._look_again(fetch) or []
            found = self._wait(end - now, fetch)
            if found:
                return found
            if not self.stopped:
                with self._access.state():
                    found = self._step(fetch)
                if found:
                    return found

    def _step(self, fetch: Callable[[], A]) -> A | None:
        """Let the coordinator poll, then fetch what there is. It does not wait. REQUIRES: the state lock."""
        wakeup, access, core = self._wakeup, self._access, self._core
        wakeup.pending = False
        # After the line above: a close or a stop in another thread sets its mark first, and then wakes.
        if access.closed_error is not None:
            access.check()
        if self.stopped:
            wakeup.pending = True
        out = core.step(fetch)
        return out if core.wanted is None else self._driver.go_on(core, fetch)

    def _look_again(self, fetch: Callable[[], A], *, everywhere: bool = False) -> A:
        """Fetch where no append was heard of, see `SubscriptionState.look_again`."""
        with self._access.state():
            self._subscriptions.look_again(everywhere=everywhere)
            return self._core.fetch(fetch)

    def _wait(self, left: float | None, fetch: Callable[[], A]) -> A | None:
        """Wait for an append or a wakeup. What an append brought is returned.

        It is fetched at once: no wakeup is pending, so neither the group nor the topics have changed.
        """
        wakeup, session = self._wakeup, self._session
        wakeup.gate = gate = RawGate()
        session.begin_wait()
        try:
            if self._on_wait is not None:
                self._on_wait()
            if wakeup.pending:
                return None
            if not session.ready:  # read after the gate was set
                step = min(self._core.waits().timeout_s, longest_sleep.data_s)
                if not gate.wait(step if left is None else min(left, step)):
                    now = real_monotonic()
                    if now < self._look_at:
                        return None
                    self._look_at = now + longest_sleep.data_s
                    return self._look_again(fetch, everywhere=True)
            if wakeup.pending:
                return None
            with self._access.state():
                return self._core.step_after_append(fetch)
        finally:
            session.end_wait()

    def _is_waiting(self) -> bool:
        """Whether a call waits, and nothing has come that ends the wait. Any thread may ask."""
        session, wakeup = self._session, self._wakeup
        return session.waits and not (wakeup.pending or wakeup.gate.is_open() or session.ready)

    def __iter__(self) -> Self:
        """The consumer itself: `for record in consumer`."""
        return self

    def __next__(self) -> Record[K, V]:
        """The next record, waiting for it; ends after `stop()`. The one before is finished."""
        subscriptions = self._subscriptions
        prefetched = subscriptions.lock_free
        at = prefetched.at
        if at < len(prefetched.records) and not self._wakeup.pending and real_monotonic() < self._renew_at:
            record = subscriptions.in_hand = prefetched.records[at]
            if subscriptions.lock_free is prefetched:  # the partition is not being revoked: see `SubscriptionState`
                prefetched.at = at + 1
                return record
        found = self._next(None, None)
        if self._deferred_closes:
            self._cleanup.run_deferred_closes()
        if found is None:
            raise StopIteration
        at = found.at
        record = found.records[at]
        found.at = at + 1  # now it is returned: the last thing done
        return record

    def until_end(self, timeout: float | None = None) -> Iterator[Record[K, V]]:
        """The records up to the end offsets of now. `timeout`: the longest wait for one record, in seconds.

        A member waits while partitions are about to be assigned to it. A record is finished when the next one is asked
        for. Where no broker leads a partition now, it waits for one: without a timeout for a minute, then it raises
        RequestTimedOutError.
        """
        return self._until({}, seconds_or_none(timeout))

    def _until(self, ends: dict[TopicPartition, int], timeout: float | None) -> Iterator[Record[K, V]]:
        """`until_end` with end offsets that are known; those of other partitions are added when they are assigned."""
        subscriptions = self._subscriptions
        bounded = EndOffsets(ends)
        while True:
            prefetched = self._next(bounded, timeout)
            if prefetched is None and not subscriptions.fetchers:
                self._coordinator.note_empty_poll()
            if self._deferred_closes:
                self._cleanup.run_deferred_closes()
            if prefetched is None:
                return
            records, at = prefetched.records, prefetched.at
            record = records[at]
            prefetched.at = at = at + 1  # now it is returned: the last thing done
            yield record
            while (
                subscriptions.lock_free is prefetched
                and at == prefetched.at < len(records)
                and not self._wakeup.pending
                and real_monotonic() < self._renew_at
            ):
                record = subscriptions.in_hand = records[at]
                if subscriptions.lock_free is not prefetched:  # the partition is being revoked
                    break
                prefetched.at = at = at + 1
                yield record

    def _next(self, ends: EndOffsets | None, timeout: float | None) -> Prefetched | None:
        """The next record by the long way: step, prefetch, wait. None at the end.

        It is the one at `at`, in hand already; the caller returns it by moving `at`.
        """
        with self._access.call():
            deadline = None if timeout is None else real_monotonic() + timeout
            with self._access.state():
                self._core.begin()
            return self._next_until(ends, deadline)

    def _next_until(self, ends: EndOffsets | None, deadline: float | None) -> Prefetched | None:
        """REQUIRES: the call lock."""
        subscriptions, give_up_s = self._subscriptions, None
        while True:
            if self.stopped:
                self._stop_reported = True
                return None
            # In hand before the state lock is released: a new member may ask for the partition then.
            with self._access.state():
                found = self._step(lambda: subscriptions.next_prefetched() if self._prefetch(ends) else None)
            self._renew_at = real_monotonic() + _RENEW_S
            if found is not None:
                return found
            now = real_monotonic()
            if ends is not None and not self._wakeup.pending and not self._coordinator.waits_for_others():
                if not self._core.awaits_leader(ends):
                    return None
                give_up_s = now + retrying.DEFAULT_API_TIMEOUT_S if give_up_s is None else give_up_s
                if deadline is None and give_up_s <= now:
                    raise retrying.no_leader_in_time()
            if deadline is not None and deadline <= now:
                if ends is None and self._look_again(lambda: self._prefetch(None)):
                    continue
                return None
            if deadline is None and not subscriptions.fetchers:
                self._coordinator.note_empty_poll(endless=True)
            until = deadline if deadline is not None else give_up_s
            self._wait(None if until is None else until - now, lambda: self._prefetch(ends))

    def _prefetch(self, ends: EndOffsets | None) -> bool:
        """Have records ready for an iteration; False if there are none. REQUIRES: the state lock."""
        subscriptions, n = self._subscriptions, self._max_poll_records
        if ends is None:
            return subscriptions.prefetch(n, None)
        if ends.additions != subscriptions.additions or ends.unknown:
            self._offsets.find_ends(ends)
        return subscriptions.prefetch(n, ends) or (
            subscriptions.look_again_before(ends) and subscriptions.prefetch(n, ends)
        )

    def stop(self) -> None:
        """End reading, for good: a waiting call returns, a loop ends. Safe in other threads and in signal handlers.

        >>> import streamlog
        >>> with streamlog.open() as log:
        ...     _ = log.create_topic("orders").send_many(["9.50", "20.00"])
        ...     with log.consumer("orders") as consumer:
        ...         for record in consumer:  # would wait for a third record
        ...             if record.value == b"20.00":
        ...                 consumer.stop()
        """
        self.stopped = True
        self._wakeup.wake()

    # -- committing ----------------------------------------------------------------------------------

    def commit(self, offsets: Offsets | Record[Any, Any] | None = None) -> None:
        """Commit all that was returned (None), through a Record, or a mapping of partition → NEXT offset.

        Raises CommitFailedError if the group gave a partition to another member, whose records will be handled there, or
        if its topic was deleted, or deleted and created again; InvalidTxnStateError in a block of `log.transaction`, which commits
        the offsets of its consumer itself. Nothing is committed then. Cost: an append of one small batch.

        >>> import streamlog
        >>> with streamlog.open() as log:
        ...     _ = log.create_topic("orders").send_many(["9.50", "20.00"])
        ...     with log.consumer("orders", group="billing", enable_auto_commit=False) as consumer:
        ...         first, second = consumer.poll()
        ...         consumer.commit(first)
        ...         consumer.committed(("orders", 0)), consumer.position(("orders", 0))
        (1, 2)
        """
        with self._access.call(), self._access.state():
            self._check()  # the log may have been closed meanwhile: then nothing is assigned, and nothing would be committed
            if self._config.group is None:
                raise ConfigError("This consumer has no group=, so there is nowhere to commit to.", name="group")
            self._refuse_commit()
            self._driver.run(self._coordinator.commit(offsets))

    def committed(self, partition: TopicPartition) -> int | None:
        """The group's committed offset, the NEXT to read; None if there is none. Raises ConfigError without a group."""
        with self._access.call(reads_only=True):
            if self._config.group is None:
                raise ConfigError("This consumer has no group=, so nothing is committed for it.", name="group")
            found = result_of(self._offsets.committed([partition_of(partition)], patient=True))
            return next((c.offset for c in found.values()), None)

    # -- positions and offsets -----------------------------------------------------------------------

    def _fetcher(self, partition: TopicPartition) -> PartitionFetcher:
        fetchers = self._subscriptions.fetchers
        name = partition_of(partition)
        fetcher = fetchers.get(name)
        if fetcher is None:
            raise UnknownTopicOrPartitionError(
                f"{tuple(name)} is not assigned to this consumer; it has {sorted(fetchers) or 'nothing'}"
                f"{' (a member of a group gets its partitions in poll)' if self._config.group is not None else ''}."
            )
        return fetcher

    def _names(self, partitions: tuple[TopicPartition, ...]) -> list[TopicPartition]:
        """The names of these assigned partitions; of all if none is given."""
        return [self._fetcher(p).name for p in partitions] if partitions else list(self._subscriptions.fetchers)

    def seek(self, partition: TopicPartition, offset: int) -> None:
        """Go on at `offset`. One outside the log is found at the next read, and `auto_offset_reset` decides.

        Raises OffsetOutOfRangeError for what cannot be an offset, UnknownTopicOrPartitionError for a partition that is
        not assigned: a member of a group gets its partitions in its first `poll`.

        >>> import streamlog
        >>> with streamlog.open() as log:
        ...     _ = log.create_topic("orders").send_many(["9.50", "20.00", "3.25"])
        ...     with log.consumer("orders") as consumer:
        ...         consumer.seek(("orders", 0), 1)
        ...         [record.value for record in consumer.until_end()]
        [b'20.00', b'3.25']
        """
        call, state = self._access.call_and_state()
        with call, state:
            name = self._fetcher(partition).name
            if not is_offset(offset):
                [(start, end)] = self._offsets.bounds([name]).values()
                raise OffsetOutOfRangeError(
                    f"{typed(offset)} is not an offset: {name.topic}-{name.partition} holds {start} up to, not including, "
                    f"{end}.",
                    log_start_offset=start,
                    log_end_offset=end,
                )
            self._subscriptions.seek(name, offset)
            self._wakeup.pending = True

    def seek_to_beginning(self, *partitions: TopicPartition) -> None:
        """Go to the first record; of all assigned partitions if none is named."""
        self._seek_to(partitions, 0)

    def seek_to_end(self, *partitions: TopicPartition) -> None:
        """Go after the last record; of all assigned partitions if none is named."""
        self._seek_to(partitions, 1)

    def _seek_to(self, partitions: tuple[TopicPartition, ...], which: int) -> None:
        with self._access.call(), self._access.state():
            self._seek_each(self._names(partitions), which)
            self._wakeup.pending = True

    def _seek_each(self, names: list[TopicPartition], which: int) -> None:
        """REQUIRES: the state lock."""
        for name, bounds in self._offsets.bounds(names).items():
            self._subscriptions.seek(name, bounds[which])

    def position(self, partition: TopicPartition) -> int:
        """The offset after the last record that was returned, never a prefetched one."""
        with self._access.call(), self._access.state():
            return self._offsets.position(self._fetcher(partition).name)

    def offsets_for_times(
        self, times: Mapping[TopicPartition, int | datetime]
    ) -> dict[TopicPartition, OffsetAndTimestamp | None]:
        """The first record at or after each time (ms or aware datetime), None where all are earlier.

        `OffsetAndTimestamp` has an example. Raises ConfigError for a naive datetime.
        """
        with self._access.call(reads_only=True):
            if not isinstance(times, Mapping):
                raise ConfigError(
                    f"offsets_for_times takes a mapping of TopicPartition to a time, not {typed(times)}.", name="times"
                )
            return self._offsets.for_times({partition_of(p): to_ms(t) for p, t in times.items()})

    def beginning_offsets(self, partitions: Iterable[TopicPartition] | None = None) -> dict[TopicPartition, int]:
        """The first offset of each partition; of the assigned ones if None."""
        return self._bounds(partitions, 0)

    def end_offsets(self, partitions: Iterable[TopicPartition] | None = None) -> dict[TopicPartition, int]:
        """The offset after the last record of each partition; of the assigned ones if None.

        With `isolation_level="read_committed"` the last stable offset: an open transaction holds back what comes after it.
        """
        return self._bounds(partitions, 1)

    def _bounds(self, partitions: Iterable[TopicPartition] | None, which: int) -> dict[TopicPartition, int]:
        with self._access.call(reads_only=True):
            names = list(self._subscriptions.fetchers) if partitions is None else partitions_of(partitions)
            return {name: bounds[which] for name, bounds in self._offsets.bounds(names).items()}

    def lag(self) -> dict[TopicPartition, int]:
        """How many offsets the end of each assigned partition is ahead of the position."""
        with self._access.call(), self._access.state():
            return self._offsets.lag()

    def pause(self, *partitions: TopicPartition) -> None:
        """Return no records of these (all assigned if none is named) until `resume`; they stay assigned."""
        with self._access.call(), self._access.state():
            self._subscriptions.pause(self._names(partitions))

    def resume(self, *partitions: TopicPartition) -> None:
        """Return records of these (all assigned if none is named) again."""
        with self._access.call(), self._access.state():
            self._subscriptions.resume(self._names(partitions))

    def paused(self) -> set[TopicPartition]:
        """The partitions that are paused."""
        with self._access.call(reads_only=True):
            return set(self._subscriptions.paused)

    # -- the end -------------------------------------------------------------------------------------

    @property
    def _closed_error(self) -> StreamlogError | None:
        return self._access.closed_error

    @_closed_error.setter
    def _closed_error(self, error: StreamlogError | None) -> None:
        self._access.closed_error = error

    def _check(self) -> None:
        self._access.check()

    def __exit__(self, exc_type: object = None, *exc: object) -> None:
        """Close it; without an exception, all that was returned is finished first."""
        if exc_type is None and (entered := self._enter_if_open()) is not None:
            with entered, self._access.state():
                self._subscriptions.finish()
        self.close()

    def _enter_if_open(self) -> Any:
        """`access.call()`; None if the consumer is closed, maybe since this call began: by another thread, or deferred."""
        try:
            return self._access.call()
        except StreamlogError:
            if self._closed_error is None:
                raise
            return None

    def close(self) -> None:
        """Commit what is finished (if auto-committing), leave the group. Closing again does nothing.

        It returns when the leave counts as written, which with `sync=True` takes a sync, or after 30 s.

        A bare `close()` does not finish the record in hand; leaving a `with` block without an exception does. In a signal
        handler or finalizer it may be deferred until the call that was interrupted ends: a waiting poll at once, with [].
        """
        if self._closed_error is not None:
            return
        if self._end_call_soon() or is_inside():
            self._cleanup.defer_close(self._close_deferred)
            return
        if (entered := self._enter_if_open()) is not None:
            with entered:
                self._end(closed("consumer", self._log.path))

    def _end_call_soon(self) -> bool:
        """Whether the caller interrupted a call of this consumer, which then ends as after `stop`."""
        if not self._access.has_interrupted_call():
            return False
        self.stop()
        return True

    def _close_deferred(self) -> None:
        """Close it, unless a call is not over yet."""
        if self._closed_error is not None:
            return
        if self._access.call_lock.locked():
            # The thread of that call looks here when it ends, and so does the background thread in time.
            self._cleanup.deferred_closes.append(self._close_deferred)
        else:
            self._close_with_log(error=closed("consumer", self._log.path))

    def _close_with_log(self, limit_s: float = _CLOSE_WAIT_S, error: StreamlogError | None = None) -> None:
        """The log closes, maybe while another thread waits in a call of this consumer: wake it, and wait for it, with a bound."""
        access = self._access
        error = error or closed("log", self._log.path)
        if access.is_in_call():
            self._end(error)
            return
        self._closed_error = error
        self._wakeup.wake()
        taken: list[bool] = []
        try:
            # One step in C, as `with` is, which has no timeout: an interrupt finds it taken and noted, or neither. A lock
            # that stayed taken would look like a call of this thread, and the next close of the log waits for its end.
            taken.extend(map(access.call_lock.acquire, (True,), (limit_s,)))
            if taken[0]:
                access.owner = get_ident()
                self._end(error)
        finally:
            if taken and taken[0]:
                access.call_lock.release()

    def _end(self, error: StreamlogError) -> None:
        # A listener closes the consumer while it is called for its closing. For any other caller the mark does not count: a
        # second Ctrl-C, in the handler below, leaves it set.
        if self._ending and self._access.listener_thread == get_ident():
            return
        self._ending = True
        try:
            with self._access.state():
                self._driver.run(self._coordinator.leave())
        except BaseException as failure:
            membership = self._coordinator.membership
            if isinstance(failure, Exception) and not (membership is not None and membership.joined):
                self._end_for_good(error)
            else:  # Ctrl-C, or an error before it has left: it is still open, and the next close goes on
                self._ending = False
            raise
        self._end_for_good(error)

    def _end_for_good(self, error: StreamlogError) -> None:
        self._service.off_metadata(self._wakeup.wake)
        self._session.close()
        self._log._forget(self)
        self._closed_error = error

    def __del__(self) -> None:
        """Leave the group and close the consumer, with a ResourceWarning, if it was not closed."""
        if self._made and self._closed_error is None:
            service, wakeup, session = self._service, self._wakeup, self._session
            # The coordinator adds a finalizer of its own, which leaves the group.
            self._cleanup.add_finalizer(lambda: service.off_metadata(wakeup.wake))
            self._cleanup.add_finalizer(session.close)
            self._warn_open()  # last: where warnings are errors, it raises

    def __repr__(self) -> str:
        group = "" if self._config.group is None else f" group={self._config.group!r}"
        count = len(self._subscriptions.fetchers)
        state = (
            " closed" if self._closed_error is not None else f" {count} {'partition' if count == 1 else 'partitions'}"
        )
        names = sorted(self._subscriptions.subscription.names)
        shown = ", ".join(names[:_SHOWN]) or "no topics"
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        return f"<streamlog.Consumer {shown}{more}{group}{state}>"


def _limit(max_records: Any) -> int:
    if isinstance(max_records, bool) or not isinstance(max_records, int) or max_records < 1:
        raise ConfigError(
            f"max_records={shown(max_records) if is_int(max_records) else typed(max_records)} is not a positive int.",
            name="max_records",
        )
    return min(max_records, maxsize)  # more than any list holds: all there is
