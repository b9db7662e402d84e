"""Reading records, alone or as a member of a group.

A poll, step by step: what was handed out before is finished; the group is heard (heartbeat, partitions
given up or taken over, listeners called); then each partition's reader hands out what it has; and if
that is nothing, the consumer waits on a gate that an append, a change in the group, `stop()` or
`close()` opens.

Locks: `_busy` is held by the thread inside a call; another one is refused. `_state` guards what the
consumer holds, for short, so that a newcomer to the group can take partitions from an idle member; it
is not held while waiting, and no lock of the log is taken with it but the coordinator's and the
partitions'. A listener is called with `_state` held: it may use this consumer, from this thread.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, Generic, Self

from ..broker.api import Service
from ..config import ConsumerConfig
from ..errors import (
    CommitFailedError,
    ConcurrentUseError,
    ConfigError,
    ConsumerStoppedError,
    OffsetOutOfRangeError,
    StreamlogError,
    UnknownMemberIdError,
    UnknownTopicOrPartitionError,
)
from ..runtime.threads import RawGate, get_ident, new_lock, real_monotonic
from ..types import K, OffsetAndMetadata, OffsetAndTimestamp, Record, TopicPartition, V
from .assignment import Assignment
from .handle import Closing, closed
from .membership import Bell, Membership
from .reader import PartitionReader
from .record_batch import RecordBatch
from .subscription import Subscription
from .times import to_ms

if TYPE_CHECKING:
    from .streamlog import StreamLog

logger = logging.getLogger("streamlog.client")

# Nothing is trusted to wake a waiter: an interrupted appender may not have. It looks for itself.
_LOOK_AGAIN_S = 0.5
# How often one poll goes back to the coordinator while partitions move.
_ROUNDS = 8
# A loop renews its place in the group this often, however long it works on one record.
_RENEW_S = 0.1
_CLOSE_WAIT_S = 5.0


class RebalanceListener:
    """Told, inside `poll` and in the polling thread, which partitions come and go. Override what you need."""

    def on_partitions_assigned(self, partitions: Iterable[TopicPartition]) -> None:
        """These are ours from now on; their positions are set."""

    def on_partitions_revoked(self, partitions: Iterable[TopicPartition]) -> None:
        """These will be another member's; commit now what should be committed."""

    def on_partitions_lost(self, partitions: Iterable[TopicPartition]) -> None:
        """These are another member's already: a commit would be refused."""


class Consumer(Closing, Generic[K, V]):
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

    def __init__(self, log: StreamLog, *topics: Any, **config: Any) -> None:
        self._config = ConsumerConfig.of(config)
        self._log = log
        self._service: Service = log._use()
        self._room = log._room
        self.stopped = False
        self._stop_told = False
        self._busy = new_lock()
        self._state = new_lock()
        self._owner = 0
        self._inside = 0
        self._bell = Bell()
        self._subscription = Subscription()
        self._held = Assignment()
        self._listener: Any = self._config.listener
        self._last_commit: dict[TopicPartition, int] = {}
        self._next_commit_s: float | None = None
        self._renew_at = 0.0
        self._next_check_s: float | None = None
        self._resets: set[TopicPartition] = set()
        group = self._config.group
        self._membership = None if group is None else Membership(self._service, self._config, group, self._bell)
        self._serdes: dict[str, tuple[Any, Any]] = {}
        self._decoders = log._decoders(self._config, self._serdes)
        if topics:
            self.subscribe(topics)
        log._adopt(self)
        self._service.on_metadata(self._bell.ring)

    # -- what to read --------------------------------------------------------------------------------

    def subscribe(self, topics: Any, listener: RebalanceListener | None = None) -> None:
        """Read these topics (names, Topics, compiled patterns) from the next poll on; replaces what was read.

        Patterns match whole names, future topics too. Raises UnknownTopicOrPartitionError for a name
        that is no topic.
        """
        with self._enter():
            given = [topics] if isinstance(topics, str) or not isinstance(topics, Iterable) else list(topics)
            self._subscription.subscribe(given, self._note_topic, self._log._topic_view)
            if listener is not None:
                if self._membership is None:
                    raise ConfigError(
                        "A rebalance listener needs a group=: nothing moves without one.", name="listener"
                    )
                self._listener = listener
            with self._state:
                self._held.finish()
                if self._membership is None:
                    self._refresh_alone()
            self._bell.ring()

    def _note_topic(self, topic: Any) -> str:
        name, key_serde, value_serde = self._log._name_of(topic)
        self._serdes[name] = (key_serde, value_serde)
        return name

    def unsubscribe(self) -> None:
        """Read nothing any more; a member commits what is finished and leaves its group."""
        with self._enter(), self._guard():
            self._held.finish()
            self._leave()
            self._subscription.clear()

    def assign(self, partitions: Iterable[TopicPartition]) -> None:
        """Read exactly these partitions, outside any sharing; with a group= its committed offsets are used."""
        with self._enter(), self._guard():
            self._held.finish()
            chosen = list(partitions)
            if self._membership is not None and self._membership.joined:
                self._leave()
            self._subscription.assign(chosen, self._service.image)
            self._refresh_alone()

    def assignment(self) -> set[TopicPartition]:
        """The partitions this consumer has now; in a group none before the first poll."""
        with self._enter():
            return set(self._held.readers)

    def subscription(self) -> set[str]:
        """The names of the topics subscribed to, those that patterns match now included."""
        with self._enter():
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
        with self._enter():
            records: list[Record[K, V]] = self._poll(timeout, lambda: self._held.take(n))
            return records

    def poll_batches(self, timeout: float = 0.0, max_records: int | None = None) -> list[RecordBatch[K, V]]:
        """`poll`, by columns: no Python object per record. A batch that is too long is cut."""
        n = self._limit(max_records)
        with self._enter():
            batches: list[RecordBatch[K, V]] = self._poll(timeout, lambda: self._held.take_batches(n))
            return batches

    def _limit(self, max_records: int | None) -> int:
        n = self._config.max_poll_records if max_records is None else max_records
        if isinstance(n, bool) or not isinstance(n, int) or n < 1:
            raise ConfigError(f"max_records={max_records!r} is not a positive int.", name="max_records")
        return n

    def _poll(self, timeout: float | None, collect: Any) -> Any:
        if self.stopped:
            if self._stop_told:
                raise ConsumerStoppedError("This consumer was stopped; make a new one to read on.")
            self._stop_told = True
            return []
        end = None
        try:
            with self._state:
                self._held.finish()
            while True:
                out = self._look(collect)
                if out:
                    return out
                if self.stopped:
                    self._stop_told = True
                    return []
                left = None
                if timeout is not None:
                    now = real_monotonic()
                    end = now + timeout if end is None else end
                    left = end - now
                    if left <= 0:
                        return []
                out = self._wait(left, collect)
                if out:
                    return out
        except BaseException:
            # What was taken but not returned would otherwise count as handed out.
            with self._state:
                self._held.take_back()
            raise

    def _look(self, collect: Any) -> Any:
        """One look at the group and the partitions."""
        self._check()
        self._bell.rung = False
        with self._state:
            self._sync()
            return self._collect(collect)

    def _collect(self, collect: Any) -> Any:
        for _ in range(len(self._held.readers) + 1):
            try:
                return collect()
            except OffsetOutOfRangeError:
                self._reset_lost()
            except UnknownTopicOrPartitionError:
                if self._subscription.manual is not None:
                    raise
                self._drop_deleted()
        return collect()

    def _wait(self, left: float | None, collect: Any) -> Any:
        """Wait for an append, the group, or `stop`; the end is looked at once more after registering."""
        bell = self._bell
        bell.gate = gate = RawGate()
        parked = self._service.await_data(self._held.active())
        try:
            parked.on_done(gate.open)
            if bell.rung:
                return None
            with self._state:
                out = self._collect(collect)
            if out:
                return out
            step = _LOOK_AGAIN_S
            if self._next_check_s is not None:
                step = min(step, max(0.001, self._next_check_s - real_monotonic()))
            gate.wait(step if left is None else min(left, step))
        finally:
            parked.cancel()
        return None

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Record[K, V]:
        """The next record, waiting for it; ends after `stop()`. The one before is finished."""
        if not self._bell.rung and real_monotonic() < self._renew_at:
            for record in self._held.unread:
                self._held.in_hand = record
                return record
        found = self._next(None, None)
        if found is None:
            raise StopIteration
        return found

    def until_end(self, timeout: float | None = None) -> Iterator[Record[K, V]]:
        """The records up to the end offsets of now, then stop. `timeout`: longest wait for one record.

        A member waits while partitions are on their way to it. The record before is finished when the
        next is asked for.
        """
        return self._until({}, timeout)

    def _until(self, ends: dict[TopicPartition, int], timeout: float | None) -> Iterator[Record[K, V]]:
        """`until_end` with end offsets that are known; those of other partitions are added at first sight."""
        while True:
            record = self._next(ends, timeout)
            if record is None:
                return
            yield record
            held = self._held
            while not self._bell.rung and real_monotonic() < self._renew_at:
                record = next(held.unread, None)
                if record is None:
                    break
                held.in_hand = record
                yield record

    def _next(self, ends: dict[TopicPartition, int] | None, timeout: float | None) -> Record[K, V] | None:
        """The next record by the long way: hear the group, take records ahead, wait. None at the end."""
        with self._enter():
            deadline = None
            with self._state:
                self._held.finish()
            while True:
                self._check()
                if self.stopped:
                    self._stop_told = True
                    return None
                ready = self._look(lambda: self._ahead(ends))
                self._renew_at = real_monotonic() + _RENEW_S
                if ready:
                    record: Record[K, V] | None = next(self._held.unread, None)
                    self._held.in_hand = record
                    return record
                if ends is not None and not self._bell.rung and not self._waits_for_others():
                    return None
                left = None
                if timeout is not None:
                    deadline = real_monotonic() + timeout if deadline is None else deadline
                    left = deadline - real_monotonic()
                    if left <= 0:
                        return None
                self._wait(left, lambda: self._ahead(ends))

    def _ahead(self, ends: dict[TopicPartition, int] | None) -> bool:
        """Have records taken ahead; REQUIRES the state lock."""
        held = self._held
        ahead = next(held.unread, None)
        if ahead is not None:
            rest = list(held.unread)
            held.unread = iter([ahead, *rest])
            return True
        n = self._config.max_poll_records
        if ends is None:
            return held.take_ahead(n)
        for name in held.readers:
            if name not in ends:
                ends[name] = self._service.bounds(name, self._config.isolation_level)[1]
        return held.take_ahead_until(ends, n)

    def _waits_for_others(self) -> bool:
        """Whether partitions are on their way here from members that can move without this thread."""
        membership = self._membership
        if membership is None or self._subscription.manual is not None or membership.stable:
            return False
        here = get_ident()
        others = self._room.others(membership.group, self)
        return any(isinstance(other, Consumer) and other._owner != here for other in others)

    def stop(self) -> None:
        """Have the reader end: a waiting call returns, a loop ends. For good; safe from any thread or a signal handler."""
        self.stopped = True
        self._bell.ring()

    # -- the group -----------------------------------------------------------------------------------

    def _sync(self) -> None:
        """Bring what is held in line with the topics there are and with the group. REQUIRES: state lock."""
        if self._subscription.empty:
            raise ConfigError("This consumer reads nothing: subscribe() or assign() first.")
        if self._membership is None or self._subscription.manual is not None:
            if self._subscription.manual is None and self._subscription.resolve(self._service.image):
                self._refresh_alone()
            self._auto_commit_if_due()
            return
        self._sync_group(self._membership, polling=True)
        self._auto_commit_if_due()

    def _refresh_alone(self) -> None:
        self._subscription.resolve(self._service.image)
        wanted = self._subscription.partitions(self._service.image)
        held = self._held
        held.drop(held.names() - set(wanted))
        self._take_over([name for name in wanted if name not in held.readers])

    def _sync_group(self, membership: Membership, *, polling: bool) -> None:
        self._subscription.resolve(self._service.image)
        names = self._subscription.names
        others = self._room.others(membership.group, self) if polling else []
        if polling:
            self._room.reap(membership.group)
        if membership.unchanged(names):
            return
        for _ in range(_ROUNDS):
            held = self._held.names()
            try:
                result = membership.heartbeat(names, held, polling=polling)
            except UnknownMemberIdError:
                self._lost(held)
                if not polling:
                    return
                continue
            except StreamlogError:
                self._lost(held)
                raise
            self._next_check_s = result.next_check_s
            revoked = held - result.assignment
            if revoked:
                self._give_up(revoked)
                continue
            added = result.assignment - held
            if added:
                self._take_over(sorted(added))
                self._tell("on_partitions_assigned", added)
                continue
            if result.stable or not others:
                return
            for other in others:
                if isinstance(other, Consumer):
                    other.let_go_if_idle()
            others = []

    def _give_up(self, names: frozenset[TopicPartition]) -> None:
        """Partitions go to another member: commit what is finished there, tell the listener, let go."""
        if self._config.auto_commits:
            self._auto_commit(names)
        self._tell("on_partitions_revoked", names)
        self._held.drop(names)

    def _lost(self, names: frozenset[TopicPartition]) -> None:
        """Partitions are another member's already."""
        if not names:
            return
        if self._config.auto_commits:
            logger.warning(
                "this member of group %r was put out (no poll within max_poll_interval_ms=%d?) and lost %s: what it finished "
                "there since the last commit will be handled again; it rejoins",
                self._config.group, self._config.max_poll_interval_ms, ", ".join(f"{t}-{n}" for t, n in sorted(names)),
            )  # fmt: skip
        self._tell("on_partitions_lost", names)
        self._held.drop(names)

    def _tell(self, event: str, names: Iterable[TopicPartition]) -> None:
        """Call the listener, which may use this consumer: the state lock is this thread's already."""
        if self._listener is not None:
            self._inside = get_ident()
            try:
                getattr(self._listener, event)(sorted(names))
            finally:
                self._inside = 0

    def let_go_if_idle(self) -> None:
        """Asked by a newcomer, on its thread: hand over what the program has nothing of in its hands."""
        if self._state.locked():
            return
        with self._state:
            membership = self._membership
            if self._dead is None and self._listener is None and self._held.idle and membership is not None:
                self._sync_group(membership, polling=False)

    def take_out(self) -> None:
        """Asked by another member, on its thread: leave the group if the thread that polled is dead.

        Only the coordinator is told. If somebody goes on with this consumer it learns like one that
        was put out: a commit is refused, a poll joins anew.
        """
        if self._membership is not None and not self._membership.thread_alive():
            self._membership.put_out()

    def _take_over(self, names: Iterable[TopicPartition]) -> None:
        """Begin to read partitions at the committed offset, or where `auto_offset_reset` says."""
        new = list(names)
        if not new:
            return
        config = self._config
        committed = self._service.committed(config.group, new) if config.group is not None else {}
        for name in new:
            start, end = self._service.bounds(name, config.isolation_level)
            known = committed.get(name)
            if known is not None:
                position = known.offset
            elif config.auto_offset_reset == "none":
                position = -1  # nowhere: the first read says so, unless somebody seeks before
            else:
                position = self._reset_to(name, start, end)
            self._held.add(
                PartitionReader(
                    self._service,
                    name,
                    self._decoders(name),
                    config.isolation_level,
                    config.on_corrupt,
                    position,
                    config.fetch_max_bytes,
                )  # fmt: skip
            )
            if known is not None:
                self._last_commit[name] = known.offset
        room_group = config.group
        if room_group is not None and self._subscription.manual is None:
            self._room.enter(room_group, self)

    def _reset_to(self, name: TopicPartition, start: int, end: int, position: int | None = None) -> int:
        policy = self._config.auto_offset_reset
        if policy == "none":
            where = "nothing is committed for it" if position == -1 else f"offset {position} is not in it"
            raise OffsetOutOfRangeError(
                f"{name.topic}-{name.partition} holds offsets {start} up to, not including, {end}; {where}, and "
                f"auto_offset_reset='none' leaves the choice to you: seek, or commit an offset first.",
                log_start_offset=start,
                log_end_offset=end,
            )
        return start if policy == "earliest" else end

    def _reset_lost(self) -> None:
        """Positions that the log does not hold (deleted by retention): go where `auto_offset_reset` says."""
        for name, reader in self._held.readers.items():
            start, end = self._service.bounds(name, self._config.isolation_level)
            if not start <= reader.position <= end:
                onward = self._reset_to(name, start, end, reader.position)
                logger.warning(
                    "%s-%d: offset %d is outside the log (%d to %d); going on at %d (auto_offset_reset=%r)",
                    *name, reader.position, start, end, onward, self._config.auto_offset_reset,
                )  # fmt: skip
                reader.seek(onward)

    def _drop_deleted(self) -> None:
        topics = self._service.image.topics
        self._held.drop(
            [n for n in self._held.readers if n.topic not in topics or n.partition >= topics[n.topic].partitions]
        )

    # -- committing ----------------------------------------------------------------------------------

    def commit(self, offsets: Any = None) -> None:
        """Commit all that was handed out (None), through a Record, or a mapping of partition → NEXT offset.

        Raises CommitFailedError if the group gave a partition to another member: its records will be
        handled there. Nothing is committed then. Cost: an append of one small batch.
        """
        with self._enter(), self._guard():
            if self._config.group is None:
                raise ConfigError("This consumer has no group=, so there is nowhere to commit to.", name="group")
            if offsets is None:
                wanted = {n: OffsetAndMetadata(offset) for n, offset in self._held.handed().items() if offset >= 0}
            else:
                wanted = commit_offsets(offsets)
            self._commit(wanted)
            for name, committed in wanted.items():
                self._held.finish_through(name, committed.offset)

    def _commit(self, offsets: Mapping[TopicPartition, OffsetAndMetadata]) -> None:
        if not offsets:
            return
        assert self._config.group is not None
        membership = self._membership
        member_id, epoch = None, 0
        if membership is not None and self._subscription.manual is None and not self._subscription.empty:
            member_id, epoch = membership.member_id or None, membership.epoch
        try:
            self._service.commit(self._config.group, member_id, epoch, offsets).result()
        except UnknownMemberIdError as error:
            raise CommitFailedError(
                f"The commit in group {self._config.group!r} was refused: this member was put out of the group, because it "
                f"did not poll within max_poll_interval_ms={self._config.max_poll_interval_ms}. Its records will be handled "
                f"by another member; poll to join again."
            ) from error
        self._last_commit.update((name, committed.offset) for name, committed in offsets.items())

    def _auto_commit_if_due(self) -> None:
        if not self._config.auto_commits:
            return
        now = self._service.clock.monotonic()
        if self._next_commit_s is None or now >= self._next_commit_s:
            if self._next_commit_s is not None:
                self._auto_commit(None)
            self._next_commit_s = now + self._config.auto_commit_interval_ms / 1000

    def _auto_commit(self, only: frozenset[TopicPartition] | None) -> None:
        """Commit what is finished and was not committed; a refusal is logged: the group will hear it again."""
        last = self._last_commit
        finished = {
            name: OffsetAndMetadata(offset)
            for name, offset in self._held.finished().items()
            if offset >= 0 and last.get(name) != offset and (only is None or name in only) and (offset or name in last)
        }
        try:
            self._commit(finished)
        except CommitFailedError as error:
            logger.warning("auto-commit: %s", error)

    def committed(self, partition: TopicPartition) -> int | None:
        """The group's committed offset, the NEXT to read; None if there is none."""
        with self._enter():
            if self._config.group is None:
                raise ConfigError("This consumer has no group=, so nothing is committed for it.", name="group")
            found = self._service.committed(self._config.group, [TopicPartition(*partition)])
            return next((c.offset for c in found.values()), None)

    # -- positions -----------------------------------------------------------------------------------

    def _reader(self, partition: TopicPartition) -> PartitionReader:
        reader = self._held.readers.get(TopicPartition(*partition))
        if reader is None:
            raise UnknownTopicOrPartitionError(
                f"{tuple(partition)} is not assigned to this consumer; it has {sorted(self._held.readers) or 'nothing'}"
                f"{' (a member of a group gets its partitions in poll)' if self._membership else ''}."
            )
        return reader

    def seek(self, partition: TopicPartition, offset: int) -> None:
        """Go on at `offset`. One outside the log is found at the next read, and `auto_offset_reset` decides.

        Raises OffsetOutOfRangeError for what is no offset at all.
        """
        with self._enter(), self._guard():
            reader = self._reader(partition)
            if isinstance(offset, bool) or not isinstance(offset, int) or offset < 0:
                start, end = self._service.bounds(reader.name, self._config.isolation_level)
                raise OffsetOutOfRangeError(
                    f"{offset!r} is no offset: {reader.name.topic}-{reader.name.partition} holds {start} up to, not "
                    f"including, {end}.",
                    log_start_offset=start,
                    log_end_offset=end,
                )
            self._held.seek(reader.name, offset)
            self._bell.rung = True

    def seek_to_beginning(self, *partitions: TopicPartition) -> None:
        """Go to the first record; of all assigned partitions if none is named."""
        self._seek_to(partitions, 0)

    def seek_to_end(self, *partitions: TopicPartition) -> None:
        """Go behind the last record; of all assigned partitions if none is named."""
        self._seek_to(partitions, 1)

    def _seek_to(self, partitions: tuple[TopicPartition, ...], which: int) -> None:
        with self._enter(), self._guard():
            readers = [self._reader(p) for p in partitions] if partitions else list(self._held.readers.values())
            for reader in readers:
                bounds = self._service.bounds(reader.name, self._config.isolation_level)
                self._held.seek(reader.name, bounds[which])
            self._bell.rung = True

    def position(self, partition: TopicPartition) -> int:
        """The offset after the last record handed out, never a prefetched one."""
        with self._enter(), self._guard():
            name = self._reader(partition).name
            position = self._held.handed()[name]
            if position < 0:
                self._reset_to(name, *self._service.bounds(name, self._config.isolation_level), position)
            return position

    def offsets_for_times(
        self, times: Mapping[TopicPartition, int | datetime]
    ) -> dict[TopicPartition, OffsetAndTimestamp | None]:
        """The first record at or after each time (ms or aware datetime), None where all are earlier."""
        with self._enter():
            wanted = {TopicPartition(*p): to_ms(t) for p, t in times.items()}
            return {p: self._service.find_time(p, t) for p, t in wanted.items()}

    def beginning_offsets(self, partitions: Iterable[TopicPartition] | None = None) -> dict[TopicPartition, int]:
        """The first offset of each partition; of the assigned ones if None."""
        return self._bounds(partitions, 0)

    def end_offsets(self, partitions: Iterable[TopicPartition] | None = None) -> dict[TopicPartition, int]:
        """The offset after the last record of each partition; of the assigned ones if None."""
        return self._bounds(partitions, 1)

    def _bounds(self, partitions: Iterable[TopicPartition] | None, which: int) -> dict[TopicPartition, int]:
        with self._enter():
            names = list(self._held.readers) if partitions is None else [TopicPartition(*p) for p in partitions]
            return {name: self._service.bounds(name, self._config.isolation_level)[which] for name in names}

    def lag(self) -> dict[TopicPartition, int]:
        """How many offsets each assigned partition's end is ahead of the position."""
        with self._enter(), self._guard():
            handed = self._held.handed()
            isolation = self._config.isolation_level
            bounds = {name: self._service.bounds(name, isolation) for name in handed}
            return {name: max(0, bounds[name][1] - max(at, bounds[name][0])) for name, at in handed.items()}

    def pause(self, *partitions: TopicPartition) -> None:
        """Hand out nothing of these (all assigned if none is named) until `resume`; they stay assigned."""
        with self._enter(), self._guard():
            names = [self._reader(p).name for p in partitions] if partitions else list(self._held.readers)
            for record in reversed(self._held._ahead()):
                if record.topic_partition in names:
                    self._held._return(record.topic_partition, record.offset)
            self._held.unread = iter([r for r in self._held._ahead() if r.topic_partition not in names])
            self._held.paused.update(names)

    def resume(self, *partitions: TopicPartition) -> None:
        """Hand out records of these (all assigned if none is named) again."""
        with self._enter(), self._guard():
            names = [self._reader(p).name for p in partitions] if partitions else list(self._held.readers)
            self._held.paused.difference_update(names)

    def paused(self) -> set[TopicPartition]:
        """The partitions that are paused."""
        with self._enter():
            return set(self._held.paused)

    # -- one thread at a time, and the end -----------------------------------------------------------

    def _enter(self) -> Any:
        """What to hold during a call: the lock, or nothing for a listener that calls from within one."""
        self._check()
        here = get_ident()
        if self._busy.locked():
            if self._owner == here:
                return _WITHIN
            raise ConcurrentUseError(
                "This consumer is in use by another thread. Give each thread a consumer of its own (members of one group "
                "share the partitions); only stop() may come from anywhere."
            )
        self._owner = here
        return self._busy

    def _guard(self) -> Any:
        """The state lock, unless a listener is calling from inside a poll that holds it."""
        return _WITHIN if self._inside == get_ident() else self._state

    def __exit__(self, exc_type: object = None, *exc: object) -> None:
        if exc_type is None and self._dead is None:
            self._held.finish()
        self.close()

    def close(self) -> None:
        """Commit what is finished (if auto-committing), leave the group. Closing again does nothing.

        A bare `close()` does not finish the record in hand; leaving a `with` block without an exception does.
        """
        if self._dead is not None:
            return
        with self._enter():
            self._end(closed("consumer"))

    def _close_with_log(self) -> None:
        """The log is closing, maybe under a thread that waits in here: wake it, and wait for it, with a bound."""
        if self._busy.locked() and self._owner == get_ident():
            self._end(closed("log"))
            return
        self._dead = closed("log")
        self._bell.ring()
        if self._busy.acquire(timeout=_CLOSE_WAIT_S):
            try:
                self._dead = None
                self._end(closed("log"))
            finally:
                self._busy.release()

    def _end(self, error: StreamlogError) -> None:
        try:
            with self._guard():
                if self._dead is None:
                    self._leave()
        finally:
            self._dead = error
            self._bell.ring()
            self._service.off_metadata(self._bell.ring)
            self._log._forget(self)

    def _leave(self) -> None:
        """Commit what is finished, tell the listener, leave the group, let go of every partition."""
        names = self._held.names()
        try:
            if self._config.auto_commits:
                self._auto_commit(None)
            if names:
                self._tell("on_partitions_revoked", names)
        finally:
            if self._membership is not None:
                self._membership.leave()
                self._room.exit(self._membership.group, self)
            self._held.drop(names)

    def __del__(self) -> None:
        if self._dead is None and hasattr(self, "_last_commit"):
            self._warn_open()
            membership = self._membership
            if membership is not None:
                self._room.bury(membership.leave)

    def __repr__(self) -> str:
        group = "" if self._config.group is None else f" group={self._config.group!r}"
        state = " closed" if self._dead is not None else f" {len(self._held.readers)} partitions"
        return f"<streamlog.Consumer {', '.join(sorted(self._subscription.names)) or 'no topics'}{group}{state}>"


class _Within:
    """Stands in for a lock that this thread holds already."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, *exc: object) -> None:
        return None


_WITHIN = _Within()


def commit_offsets(offsets: Any) -> dict[TopicPartition, OffsetAndMetadata]:
    """What `commit` takes, a Record or a mapping, as the NEXT offset of each partition. Raises ConfigError."""
    if isinstance(offsets, Record):
        return {offsets.topic_partition: OffsetAndMetadata(offsets.offset + 1)}
    if not isinstance(offsets, Mapping):
        raise ConfigError(
            f"commit() takes a Record, or a mapping of TopicPartition to the next offset, not {offsets!r:.80}."
        )
    wanted: dict[TopicPartition, OffsetAndMetadata] = {}
    for name, at in offsets.items():
        made = at if isinstance(at, OffsetAndMetadata) else OffsetAndMetadata(at)
        if isinstance(made.offset, bool) or not isinstance(made.offset, int) or made.offset < 0:
            raise ConfigError(
                f"{made.offset!r} is no offset to commit for {tuple(name)}: an int from 0 on, the NEXT to read."
            )
        wanted[TopicPartition(*name)] = made
    return wanted
