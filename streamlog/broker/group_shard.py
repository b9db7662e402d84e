"""One partition of the groups' internal topic: the coordinator's shard over it, its lock, loading, election and resignation.

The shard's lock is held around each request, and never while a callback runs. The shard answers while this broker leads the
partition: `elect` and `resign` follow the leadership. What was written before is loaded with the next request.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from math import ceil, inf
from typing import Protocol, TypeVar

from ..coordinator import GroupDescription, GroupListing, Heartbeat, HeartbeatResult, Shard
from ..coordinator.errors import no_group, unknown_member
from ..coordinator.messages import (
    ClassicGroupConfig,
    JoinGroup,
    JoinGroupResult,
    MemberIdentity,
    SyncGroup,
    SyncGroupResult,
)
from ..coordinator.schema import LogRecord
from ..coordinator.transaction import ProducerIdAndEpoch
from ..errors import (
    CorruptRecordError,
    FormatError,
    NotCoordinatorError,
    NotLeaderError,
    PoisonedLogError,
    StorageError,
    StreamlogError,
)
from ..replication.partition import Partition
from ..replication.transactions import TransactionMarker
from ..runtime.api import Completion, Lock, Timers, contained, failing
from ..runtime.threads import inside, refuse_reentry
from ..runtime.values import refuse_to_copy
from ..types import Clock, OffsetAndMetadata, TopicPartition
from .coordinator_log import AppendAsCoordinator, CoordinatorLog, raise_closed
from .metadata import Image, TopicView
from .replay import replay_groups
from .scheduler import RETRY_MS

T = TypeVar("T")
logger = logging.getLogger("streamlog.broker")

EXPIRY_INTERVAL_MS = 600_000


class Host(Protocol):
    """What the groups need of the broker they live in."""

    clock: Clock

    @property
    def incarnation(self) -> str: ...

    def groups_partition(self, number: int, create: bool) -> Partition | None:
        """A partition of the groups' topic; None if there is no such topic yet, and it is not to be created."""

    @property
    def append_as_coordinator(self) -> AppendAsCoordinator: ...
    @property
    def image(self) -> Image: ...
    def new_id(self) -> str: ...
    def real_seconds(self) -> float: ...

    classic_group_config: ClassicGroupConfig

    @property
    def real_timers(self) -> Timers:
        """Work by real time: deadlines are in ms of `real_seconds`."""


class PartitionCounts(Mapping[str, int]):
    """How many partitions each topic has. Made in O(1): a change of one topic does not look at the others."""

    def __init__(self, topics: Mapping[str, TopicView]) -> None:
        self._topics = topics

    def __getitem__(self, name: str) -> int:
        return self._topics[name].partitions

    def __iter__(self) -> Iterator[str]:
        return iter(self._topics)

    def __len__(self) -> int:
        return len(self._topics)


class GroupShard:
    """The groups of one partition of the groups' topic. Thread-safe."""

    __reduce_ex__ = refuse_to_copy

    def __init__(self, host: Host, number: int, lock: Lock) -> None:
        self._host = host
        self.number = number
        self._leader_epoch = 0
        self._is_leader = True
        self._has_timer = False  # since the shard was elected
        self._lock = lock
        self._log = CoordinatorLog(
            host, lambda append: Shard(append, self._topic_id, incarnation=host.incarnation, new_id=host.new_id)
        )
        self._shard = self._log.state
        # Where partitions end that may have commits past that, and the id of the topic that each is of.
        self._ends: Mapping[TopicPartition, tuple[int, bytes]] = {}

    def _topic_id(self, name: str) -> bytes | None:
        view = self._host.image.topics.get(name)
        return None if view is None else view.id_bytes

    def _counts(self) -> PartitionCounts:
        """How many partitions each topic has. REQUIRES: the lock, or another thread's newer image was acted on already."""
        return PartitionCounts(self._host.image.topics)

    # -- leadership ----------------------------------------------------------------------------------

    @property
    def is_leader(self) -> bool:
        return self._is_leader

    def elect(self, leader_epoch: int) -> None:
        """This broker leads the partition: answer requests. The log is loaded with the next one."""
        with inside(), self._lock:
            if leader_epoch >= self._leader_epoch:
                self._leader_epoch = leader_epoch
                self._is_leader = True

    def resign(self, leader_epoch: int) -> None:
        """Another broker leads the partition: forget the groups, refuse requests with NotCoordinatorError, wake the members.

        A request that is under way is completed first. An answer that waits for its records to count as written fails.
        """
        with inside(), self._lock:
            if leader_epoch < self._leader_epoch or not self._is_leader:
                return
            self._leader_epoch = leader_epoch
            self._is_leader = self._has_timer = False
            self._log.interrupted = True  # what the next leader writes is not known here
            self._ends = {}
            self._shard.resign()
            wakeups = self._shard.take_wakeups()
        for wake in wakeups:
            contained(wake)

    def _load(self, partition: Partition | None) -> bool:
        """Load the groups of this partition, if they are not; False if there is no topic for them yet. REQUIRES: the lock."""
        if not self._is_leader:
            raise NotCoordinatorError(
                f"Another broker coordinates this group: partition {self.number} of the groups' topic is led there in epoch "
                f"{self._leader_epoch}. Ask that broker, or try again after an election."
            )
        if partition is None:
            return False
        if self._log.is_loaded(partition):
            return True
        end, written = self._log.begin_loading(partition)
        replay_groups(self._shard, partition, end)
        self._shard.replay((), written)
        # Not waited for: the shard answers already, and on a full disk removes the dead members later.
        self._shard.loaded(self._host.clock.time_ms(), self._host.real_seconds())
        self._shard.forget_former_topics()
        due_s = self._shard.next_expiry_s()
        if due_s is not None and not self._has_timer:  # of members in other processes, which may be gone meanwhile
            self._expire_at(due_s)
        self._has_timer = True
        self._log.loaded()
        return True

    @property
    def is_loaded(self) -> bool:
        """Whether the next request need not load the groups. Takes no lock: it may be otherwise a moment later."""
        if not self._is_leader:
            return True
        try:
            partition = self._host.groups_partition(self.number, False)
        except StreamlogError:  # which the request meets too
            return True
        return partition is None or self._log.is_loaded(partition)

    def load(self) -> None:
        """Load the groups, if they are not."""
        if not self.is_loaded:
            self._ask(lambda shard: None, False, lambda: None)

    # -- after a crash -------------------------------------------------------------------------------

    def recover(
        self, ends: Mapping[TopicPartition, int], lossy: Iterable[TopicPartition]
    ) -> dict[TopicPartition, StreamlogError]:
        """Move back, durably, what is committed past the end that recovery found of a partition.

        Those records are lost, and the next ones take their offsets: a group would skip them. So this comes before
        anything is appended. Returns the partitions that may take no record yet, and why: it could not be done, on a full
        disk say, and `recover_again` tries again; those of `lossy`, which may have lost records, where what was committed
        last is not known. Raises StorageError where the commits cannot be read.
        """
        partition = self._host.groups_partition(self.number, False)
        with inside(), self._lock:
            return self._recover(partition, ends, lossy) if self._is_leader else {}

    def _recover(
        self, partition: Partition | None, ends: Mapping[TopicPartition, int], lossy: Iterable[TopicPartition]
    ) -> dict[TopicPartition, StreamlogError]:
        """REQUIRES: the lock."""
        try:
            if self._load(partition):
                self._ends = self._with_ids({each.partition: each.after for each in self._shard.beyond(ends)})
        except (CorruptRecordError, FormatError) as error:
            # No group is served while its topic is damaged, but partitions take records.
            logger.error("what groups committed could not be compared with the ends of the logs: %s", error)
        except PoisonedLogError as error:
            self._ends = self._with_ids({name: ends[name] for name in lossy if name in ends})
            return dict.fromkeys(self._ends, error)
        try:
            self._lower()
        except StreamlogError as error:
            return dict.fromkeys(self._ends, error)
        return {}

    def _with_ids(self, ends: Mapping[TopicPartition, int]) -> dict[TopicPartition, tuple[int, bytes]]:
        ids = {name: self._topic_id(name.topic) for name in ends}
        return {name: (end, topic_id) for name, end in ends.items() if (topic_id := ids[name]) is not None}

    def _known_ends(self) -> dict[TopicPartition, int]:
        """`_ends`, without those of topics that were deleted since: another one of that name has nothing to do with them."""
        return {name: end for name, (end, topic_id) in self._ends.items() if self._topic_id(name.topic) == topic_id}

    def recover_again(self) -> bool:
        """Try again to lower commits; whether none lies past the end of its log any more.

        Does nothing while another thread makes a request: the caller may hold a lock that comes after the shard's.
        """
        if self._lock.locked():
            return False
        with inside(), contextlib.suppress(StreamlogError), self._lock:
            if self._ends and self._load(self._log.partition):
                self._lower()
        return not self._ends

    def _lower(self) -> None:
        """Lower the commits past `_ends`. REQUIRES: the lock, and that these partitions take no records. Raises StorageError."""
        partition = self._log.partition
        if not self._ends or partition is None:
            return
        ends = self._known_ends()
        beyond = self._shard.beyond(ends)
        self._log.requires_in_sync = False  # it promises nothing that a failover could take back
        try:
            lowered = self._log.run(lambda shard: shard.lower_offsets(ends))
        finally:
            self._log.requires_in_sync = True
        if lowered.error() is not None:
            lowered.result()  # raises it
        partition.commit.sync()  # while a log of several brokers is opened, no follower fetches yet: they are not waited for
        for group, (topic, number), before, after in beyond:
            logger.warning(
                "group %r had committed offset %d of %s-%d, which ends at %d since the machine went down: its records from "
                "there on are lost; the commit is lowered to %d, so that the group reads what is sent from now on",
                group, before, topic, number, after, after,
            )  # fmt: skip
        self._ends = {}

    def _ask(self, request: Callable[[Shard], T], create: bool, otherwise: Callable[[], T]) -> T:
        """Run one request under the lock, wake outside it.

        After an interrupt the shard is replayed before it answers again. Raises ReentrantCallError in the middle of a call of
        this thread that may hold a lock.
        """
        refuse_reentry()
        return self._do(request, create, otherwise)

    def _do(self, request: Callable[[Shard], T], create: bool, otherwise: Callable[[], T]) -> T:
        """`_ask` for a caller that refuses reentry itself."""
        partition = self._host.groups_partition(self.number, create)
        with inside(), self._lock:
            try:
                if not self._load(partition):
                    return otherwise()
                result = self._log.run(request)
            except StorageError:
                raise_closed(partition)
                raise
            wakeups = self._shard.take_wakeups()
        for wake in wakeups:
            contained(wake)
        return result

    # -- requests ------------------------------------------------------------------------------------

    def heartbeat(self, request: Heartbeat) -> Completion[HeartbeatResult]:
        host = self._host

        def ask(shard: Shard) -> Completion[HeartbeatResult]:
            topics = host.image.topics
            counts: Mapping[str, int] = {name: topics[name].partitions for name in request.topics if name in topics}
            if shard.is_classic(request.group):  # it becomes a group of the coordinator, which assigns to all members
                counts = self._counts()
            return shard.heartbeat(request, counts, host.clock.time_ms(), host.real_seconds())

        if request.remote:  # another process may end and say nothing; a member in this one leaves
            self._expire_at(host.real_seconds() + min(request.session_timeout_s, request.max_poll_interval_s))
        return self._ask(ask, True, _unreachable)

    def renew(self, group: str, member_id: str, seen_version: int) -> bool:
        return not self._log.interrupted and self._shard.renew(
            group, member_id, seen_version, self._host.real_seconds()
        )

    def leave(self, group: str, member_id: str, force: bool) -> Completion[None]:
        host = self._host

        def ask(shard: Shard) -> Completion[None]:
            return shard.leave(group, member_id, host.clock.time_ms(), host.real_seconds(), force=force)

        return self._ask(ask, False, _done)

    # Each comes with a timer that is set before it, so that an interrupt cannot leave an answer parked without one: at most a
    # session timeout from now the shard looks at all deadlines.

    def join_group(self, request: JoinGroup) -> Completion[JoinGroupResult]:
        host = self._host
        config = host.classic_group_config

        def ask(shard: Shard) -> Completion[JoinGroupResult]:
            return shard.join_group(request, config, self._counts(), host.clock.time_ms(), host.real_seconds())

        self._expire_at(host.real_seconds() + min(request.session_timeout_s, request.rebalance_timeout_s))
        return self._ask_for(request.group, ask, None)

    def sync_group(self, request: SyncGroup) -> Completion[SyncGroupResult]:
        host = self._host

        def ask(shard: Shard) -> Completion[SyncGroupResult]:
            return shard.sync_group(request, host.clock.time_ms(), host.real_seconds())

        return self._ask_for(request.group, ask, partial(unknown_member, request.group, request.member_id))

    def classic_heartbeat(
        self, group: str, member_id: str, instance_id: str | None, generation_id: int
    ) -> Completion[None]:
        def ask(shard: Shard) -> Completion[None]:
            now_ms, now_s = self._host.clock.time_ms(), self._host.real_seconds()
            return shard.classic_heartbeat(group, member_id, instance_id, generation_id, now_ms, now_s)

        return self._ask_for(group, ask, partial(unknown_member, group, member_id))

    def leave_classic_group(
        self, group: str, members: Sequence[MemberIdentity]
    ) -> Completion[list[StreamlogError | None]]:
        host = self._host

        def ask(shard: Shard) -> Completion[list[StreamlogError | None]]:
            return shard.leave_classic_group(group, members, host.clock.time_ms(), host.real_seconds())

        return self._ask_for(group, ask, partial(unknown_member, group, members[0].member_id if members else ""))

    def rebalance(self, group: str) -> Completion[None]:
        host = self._host

        def ask(shard: Shard) -> Completion[None]:
            return shard.rebalance(group, host.clock.time_ms(), host.real_seconds())

        return self._ask_for(group, ask, partial(no_group, group))

    def _ask_for(
        self, group: str, request: Callable[[Shard], Completion[T]], refused: Callable[[], StreamlogError] | None
    ) -> Completion[T]:
        """A request about a classic group, which may set a deadline. `refused`: the error where there is no group at all; None if it joins.

        An answer that waits for other members fails when the log is closed, see `close`.
        """
        no_deadline = inf

        def ask(shard: Shard) -> tuple[Completion[T], float]:
            return request(shard), shard.next_check_s(group)

        def unknown() -> tuple[Completion[T], float]:
            assert refused is not None, "the groups topic was to be created"
            return Completion.failed(refused()), no_deadline

        answer, due_s = self._ask(ask, refused is None, unknown)
        if due_s != no_deadline:
            self._expire_at(due_s)
        return answer

    def close(self, error: StreamlogError) -> None:
        """The log is closed: answers that wait for other members fail. Takes the lock only if there may be any."""
        if not self._shard.may_have_parked:
            return
        with inside(), self._lock:
            self._shard.abandon(error)
            wakeups = self._shard.take_wakeups()
        for wake in wakeups:
            contained(wake)

    def expire_members(self) -> float | None:
        """Evict members whose poll interval or session is over; when to come again (real monotonic seconds). O(groups)."""
        self._expire(None)
        return None if self._log.partition is None or not self._is_leader else self._shard.next_expiry_s()

    def expire_members_of(self, group: str) -> None:
        """Those of one group alone: the time does not depend on how many others there are."""
        self._expire(group)

    def _expire(self, group: str | None) -> None:
        host = self._host
        if self._log.partition is not None and self._is_leader:
            _check(
                self._ask(lambda shard: shard.expire(host.real_seconds(), host.clock.time_ms(), group), False, _done)
            )

    def watch(self, group: str, callback: Callable[[], object], member_id: str | None) -> None:
        with inside(), self._lock:
            self._shard.watch(group, callback, member_id)

    def unwatch(self, group: str, callback: Callable[[], object], member_id: str | None) -> None:
        with inside(), self._lock:
            self._shard.unwatch(group, callback, member_id)

    def commit(
        self,
        group: str,
        member_id: str | None,
        member_epoch: int,
        offsets: Mapping[TopicPartition, OffsetAndMetadata],
        topic_ids: Mapping[TopicPartition, bytes] | None,
        instance_id: str | None,
        by_epoch: bool,
        knows_epochs: bool,
    ) -> Completion[None]:
        now, now_s = self._host.clock.time_ms(), self._host.real_seconds() if by_epoch else None

        def ask(shard: Shard) -> Completion[None]:
            return shard.commit(
                group, member_id, member_epoch, offsets, now, topic_ids,
                instance_id=instance_id, by_epoch=by_epoch, knows_epochs=knows_epochs, now_s=now_s,
            )  # fmt: skip

        return self._ask(ask, True, _unreachable)

    def commit_pending(
        self,
        producer: ProducerIdAndEpoch,
        verify: Callable[[], object],
        group: str,
        member_id: str | None,
        member_epoch: int,
        offsets: Mapping[TopicPartition, OffsetAndMetadata],
        topic_ids: Mapping[TopicPartition, bytes] | None,
        instance_id: str | None,
        by_epoch: bool,
    ) -> Completion[None]:
        """Commit in the transaction of a producer. `verify` raises if that is not open; see `TransactionCoordinator.commit_offsets`."""
        now = self._host.clock.time_ms()

        def append(records: Sequence[LogRecord]) -> Completion[int]:
            verify()
            return self._log.append(records, producer)

        return self._ask(
            lambda shard: shard.commit_pending(
                producer.producer_id,
                append,
                group,
                member_id,
                member_epoch,
                offsets,
                now,
                topic_ids,
                instance_id=instance_id,
                by_epoch=by_epoch,
            ),
            True,
            _unreachable,
        )

    def append_marker(self, marker: TransactionMarker, deadline_ms: int) -> Completion[None]:
        """End the transaction of a producer here; see `replication/transactions.py`."""
        now = self._host.clock.time_ms()

        def append() -> Completion[int]:
            return self._log.append_so(lambda partition: partition.append_marker(marker, now, deadline_ms))

        return self._do(lambda shard: shard.end_transaction(marker.producer_id, marker.is_commit, append), False, _done)

    def committed(
        self,
        group: str,
        partitions: Iterable[TopicPartition] | None,
        topic_ids: Mapping[TopicPartition, bytes] | None,
        require_stable: bool,
        member: tuple[str, int] | None,
    ) -> Completion[dict[TopicPartition, OffsetAndMetadata]]:
        def read(shard: Shard) -> dict[TopicPartition, OffsetAndMetadata]:
            if member is not None:
                shard.require_member(group, *member)
            return self._committed(shard, group, partitions, topic_ids, require_stable)

        return self._read(read, {})

    def _committed(
        self,
        shard: Shard,
        group: str,
        partitions: Iterable[TopicPartition] | None,
        topic_ids: Mapping[TopicPartition, bytes] | None,
        require_stable: bool,
    ) -> dict[TopicPartition, OffsetAndMetadata]:
        if require_stable:
            shard.require_stable(group, partitions)
        found = shard.committed(group, partitions, topic_ids)
        ends = self._known_ends() if self._ends else {}
        return {
            name: at._replace(offset=min(at.offset, ends[name])) if name in ends else at for name, at in found.items()
        }

    def describe(self, group: str) -> Completion[GroupDescription]:
        return self._read(lambda shard: shard.describe(group), GroupDescription(group, "Dead", "", 0, ()))

    def list(self, states: Iterable[str] = (), types: Iterable[str] = ()) -> Completion[list[GroupListing]]:
        return self._read(lambda shard: shard.list_groups(states, types), [])

    def _read(self, read: Callable[[Shard], T], otherwise: T) -> Completion[T]:
        """What `read` gives, once no failover takes it back. Without followers there is none, and no sync is waited for.

        What it raises is its answer: it is no interrupt, after which the log would be loaded again.
        """

        @failing
        def ask(shard: Shard) -> Completion[T]:
            partition, value = self._log.partition, read(shard)
            return Completion.of(value) if partition is None or partition.replicas is None else shard.settled(value)

        return self._ask(ask, False, lambda: Completion.of(otherwise))

    def delete_offsets(
        self, group: str, partitions: Iterable[TopicPartition]
    ) -> Completion[dict[TopicPartition, StreamlogError]]:
        return self._ask(lambda shard: shard.delete_offsets(group, partitions), True, _unreachable)

    def delete(self, group: str) -> Completion[None]:
        return self._ask(lambda shard: shard.delete_group(group), True, _unreachable)

    def metadata_changed(self) -> None:
        """Give groups that read what changed a new target, and forget the offsets of topics that are gone.

        The change itself is in force, so an error here does not fail it: heartbeats compare the counts themselves, an offset
        of a former topic does not count, and the expiry of offsets forgets it later.
        """
        host = self._host
        try:
            if not self._is_leader or host.groups_partition(self.number, False) is None:
                return
            _check(
                self._ask(
                    lambda shard: shard.metadata_changed(self._counts(), host.clock.time_ms(), host.real_seconds()),
                    False,
                    _done,
                )
            )
        except NotLeaderError:  # the next coordinator loads the groups, and compares
            pass
        except StreamlogError as error:
            logger.warning("a change of topics could not be written down in the groups' topic yet: %s", error)

    # -- background work -----------------------------------------------------------------------------

    def _expire_at(self, deadline_s: float) -> None:
        self._host.real_timers.at(ceil(deadline_s * 1000), self.expire_due)

    def expire_due(self, now_ms: int) -> int | None:
        """Evict members whose session is over, by a timer of real time; when to come again (ms), or None."""
        if not self._is_leader:
            return None
        try:
            self.expire_members()
            due_s = self._ask(lambda shard: shard.next_expiry_s(), False, lambda: None)
        except StreamlogError as error:
            logger.warning("members whose session is over could not be evicted yet: %s", error)
            return now_ms + RETRY_MS
        return None if due_s is None else ceil(due_s * 1000)

    def expire_offsets(self, now_ms: int) -> int:
        """Forget offsets that outlived their retention; when to come again (ms)."""
        later = now_ms + EXPIRY_INTERVAL_MS  # a group that becomes empty in between sets a new deadline
        if not self._is_leader:
            return later
        try:
            _check(self._ask(lambda shard: shard.expire_offsets(now_ms), False, _done))
            due = self._ask(lambda shard: shard.next_offset_expiry_ms(), False, lambda: None)
        except StreamlogError as error:
            logger.warning("what groups committed long ago could not be forgotten yet: %s", error)
            return later
        return later if due is None else min(due, later)


def _done() -> Completion[None]:
    return Completion.of(None)


def _check(answer: Completion[None]) -> None:
    """Raise the error of an answer that has failed. One that waits for a sync is not waited for: no caller needs it."""
    if answer.done():
        answer.result()
    elif answer.work is not None:
        answer.work.soon()


def _unreachable() -> T:  # type: ignore[type-var]
    raise AssertionError("the groups topic was to be created")
