"""A consumer's side of its group: joining, giving up and taking over partitions, committing."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from ...errors import (
    CommitFailedError,
    ConfigError,
    FencedInstanceIdError,
    GroupNotEmptyError,
    OffsetOutOfRangeError,
    StreamlogError,
    UnknownMemberIdError,
    UnknownTopicIdError,
    UnknownTopicOrPartitionError,
)
from ...runtime.threads import get_ident, look_again, refuse_reentry, result_of
from ...types import OffsetAndMetadata, Record, TopicPartition
from ..arguments import commit_offsets, partition_of
from .fetcher import PartitionReader
from .membership import Membership
from .reading import Reading

A = TypeVar("A")
logger = logging.getLogger("streamlog.client")

# How often one poll goes back to the coordinator while partitions move.
_ROUNDS = 8


class Sharing(Reading):
    """What a consumer holds, and why. REQUIRES, for all that begins with `_`: the state lock."""

    # -- the group -----------------------------------------------------------------------------------

    def _sync(self) -> None:
        """Bring what is held in line with the topics there are and with the group. REQUIRES: state lock."""
        if self._subscription.empty:
            raise ConfigError("This consumer reads nothing: subscribe() or assign() first.")
        if self._membership is None or self._subscription.manual is not None:
            if self._subscription.manual is None and self._subscription.resolve(self._service.image):
                self._refresh_alone()
        else:
            self._sync_group(self._membership, polling=True)
        if self._auto_commits:
            self._auto_commit_if_due()

    def _still_member(self) -> bool:
        """Whether a poll may go on with what it holds without hearing the group; a member's deadline is renewed."""
        membership = self._membership
        if membership is None or self._subscription.manual is not None:
            return True
        return membership.unchanged(self._subscription.names)

    def _refresh_alone(self) -> None:
        self._subscription.resolve(self._service.image)
        if self._subscription.manual is None:
            self._drop_deleted()
        wanted = self._subscription.partitions(self._service.image)
        held = self._held
        held.drop(held.names() - set(wanted))
        self._take_over([name for name in wanted if name not in held.readers])

    def _sync_group(self, membership: Membership, *, polling: bool) -> None:
        if self._subscription.resolve(self._service.image):
            self._drop_deleted()
        if polling:
            refuse_reentry()
            membership.polled()
            self._local_members.add(membership.group, self)
            self._local_members.evict_dead(membership.group)
            others = self._local_members.others(membership.group, self)
            if membership.unchanged(self._subscription.names):
                return
        else:  # asked by another: nothing that counts as a poll of this one
            others = []
        for _ in range(_ROUNDS):
            if not self._goes_on():
                return
            held = self._held.names()
            try:
                result = membership.heartbeat(self._subscription.names, held, polling=polling)
            except UnknownMemberIdError:
                self._warn_lost(membership, held)
                self._lost(held)
                if not polling:
                    return
                continue
            except FencedInstanceIdError:
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
                other._release_if_idle()
            others = []

    def _goes_on(self) -> bool:
        """Whether this is to be a member still: a listener may have closed it, or ended its subscription."""
        if self._dead is not None:
            raise self._dead.copy()
        return self._subscription.manual is None and not self._subscription.empty

    def _give_up(self, names: frozenset[TopicPartition]) -> None:
        """Partitions go to another member: commit what is finished there, tell the listener, let go."""
        if self._auto_commits:
            self._auto_commit(names)
        still = names & self._held.names()  # committing lets go of partitions whose topic was deleted meanwhile
        if still:
            self._tell_gone("on_partitions_revoked", still)

    def _warn_lost(self, membership: Membership, names: frozenset[TopicPartition]) -> None:
        if names and self._auto_commits:
            logger.warning(
                "this member of group %r was put out and lost %s: %s; what it finished there since the last commit will be "
                "handled again; it rejoins at its next poll",
                membership.group, ", ".join(f"{t}-{n}" for t, n in sorted(names)), membership.why_lost,
            )  # fmt: skip

    def _lost(self, names: frozenset[TopicPartition]) -> None:
        """Partitions are another member's already."""
        if names:
            self._tell_gone("on_partitions_lost", names)

    def _tell_gone(self, event: str, names: frozenset[TopicPartition]) -> None:
        """Tell the listener that partitions go, then let go.

        It may close the consumer, which then does not revoke them a second time, or assign them by hand.
        """
        readers = self._held.readers
        going = {name: readers[name] for name in names}
        self._going = names
        try:
            self._tell(event, names)
        finally:
            self._going = frozenset()
        self._held.drop([name for name, reader in going.items() if readers.get(name) is reader])

    def _tell(self, event: str, names: Iterable[TopicPartition]) -> None:
        """Call the listener, which may use this consumer: the state lock is this thread's already."""
        if self._listener is not None:
            before, self._inside = self._inside, get_ident()  # it may end what calls it once more
            try:
                getattr(self._listener, event)(sorted(names))
            finally:
                self._inside = before

    def _release_if_idle(self) -> None:
        """Asked by a newcomer, on its thread: hand over what the program has nothing of in its hands.

        It neither counts as a poll nor joins: a member that was put out, or whose thread has ended, is not to
        be kept in the group by others. What fails here this member meets at its own next poll.
        """
        if self._state.locked():
            return
        self._taker = get_ident()
        with self._state:
            membership = self._membership
            if (
                self._dead is None
                and self._listener is None
                and membership is not None
                and membership.joined
                and membership.thread_alive()
                and self._held.lock_loop_out()
            ):
                try:
                    self._sync_group(membership, polling=False)
                except StreamlogError as error:
                    logger.debug("a member of group %r could not hand over: %s", membership.group, error)

    def _polling_thread(self) -> int:
        """The thread that used this consumer last."""
        return self._owner

    def _waits_for_others(self) -> bool:
        """Whether partitions are on their way here from members that can move without this thread."""
        membership = self._membership
        if membership is None or self._subscription.manual is not None or membership.stable:
            return False
        here = get_ident()
        return any(other._polling_thread() != here for other in self._local_members.others(membership.group, self))

    def _longest_wait(self) -> float:
        """How long to wait at most before looking again, whoever rings: a member renews its place in the group in time.

        At half its poll interval, so that no other member that looks for stuck ones finds it overdue; and when the
        next one is overdue, which nobody tells.
        """
        step = look_again.data_s
        if self._next_check_s is not None:
            next_check = self._next_check_s - self._service.real_seconds()
            step = min(step, max(0.001, next_check), self._config.max_poll_interval_ms / 2000)
        return step

    def _evict_if_thread_ended(self) -> None:
        """Asked by another member, on its thread: leave the group if the thread that polled is dead.

        Only the coordinator is told. If somebody goes on with this consumer it learns like one that
        was put out: a commit is refused, a poll joins anew.
        """
        if self._membership is not None and not self._membership.thread_alive():
            self._membership.evict()

    def _take_over(self, names: Iterable[TopicPartition]) -> None:
        """Begin to read partitions at the committed offset, or where `auto_offset_reset` says."""
        new = list(names)
        if not new:
            return
        config = self._config
        # One id for the reader and for what was committed: a topic may be made anew between any two calls.
        ids = {name: self._service.topic(name.topic).id_bytes for name in new}
        committed = self._service.committed(config.group, new, ids) if config.group is not None else {}
        for name in new:
            start, end = self._service.bounds(name, config.isolation_level)
            known = committed.get(name)
            if known is not None:
                position = known.offset
            elif config.auto_offset_reset == "none":
                position = -1  # nowhere: the first read says so, unless somebody seeks before
            else:
                position = self._reset_to(name, start, end)
            if self._topic_ids.get(name, ids[name]) != ids[name]:
                self._made_anew.add(name)
            self._topic_ids[name] = ids[name]
            self._held.add(
                PartitionReader(
                    self._service,
                    name,
                    self._decoders(name),
                    config.isolation_level,
                    config.on_corrupt,
                    position,
                    config.fetch_max_bytes,
                    ids[name],
                )
            )
            if known is not None:
                self._last_commit[name] = known.offset
            else:
                self._last_commit.pop(name, None)

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
        held = self._held
        for name, reader in held.readers.items():
            bounds = held.placed(reader).bounds_if_lost()
            if bounds is not None:
                start, end = bounds
                onward = self._reset_to(name, start, end, reader.position)
                logger.warning(
                    "%s-%d: offset %d is outside the log (%d to %d); going on at %d (auto_offset_reset=%r)",
                    *name, reader.position, start, end, onward, self._config.auto_offset_reset,
                )  # fmt: skip
                held.seek(name, onward)

    def _collect(self, collect: Callable[[], A]) -> A:
        try:
            return collect()
        except (OffsetOutOfRangeError, UnknownTopicOrPartitionError, UnknownTopicIdError):
            return self._collect_elsewhere(collect)

    def _collect_elsewhere(self, collect: Callable[[], A]) -> A:
        """Some position is in no log any more: move on from there, or let go of it, then collect."""
        for _ in range(len(self._held.readers) + 1):
            try:
                return collect()
            except OffsetOutOfRangeError:
                self._reset_lost()
            except (UnknownTopicOrPartitionError, UnknownTopicIdError):
                if self._subscription.manual is not None:
                    raise
                self._drop_deleted()
        return collect()

    def _deleted(self) -> list[TopicPartition]:
        """The partitions held whose topic is gone, or is another one under the same name."""
        topics = self._service.image.topics
        return [
            name
            for name, reader in self._held.readers.items()
            if name.topic not in topics
            or topics[name.topic].id_bytes != reader.topic_id
            or name.partition >= topics[name.topic].partitions
        ]

    def _drop_deleted(self) -> list[TopicPartition]:
        """Let go of the partitions that are `_deleted`; those partitions. What `assign` named stays: who reads there is told."""
        gone = self._deleted()
        if gone and self._auto_commits:
            topics = self._service.image.topics
            self._warn_of_former([name for name in gone if name.topic in topics])
        if gone and self._subscription.manual is None:
            self._held.drop(gone)
            for name in gone:
                self._last_commit.pop(name, None)
            if self._membership is not None:
                self._membership.stable = False  # the coordinator has to hear of it
        return gone

    def _warn_of_former(self, names: list[TopicPartition]) -> None:
        """Say, once, that what is finished of topics that were made anew is not committed."""
        finished = self._held.finished()
        lost = [name for name in names if finished[name] > 0 and finished[name] != self._last_commit.get(name)]
        if lost:
            logger.warning(
                "auto-commit: nothing is committed for %s in group %r: the topic was deleted and made anew, and offsets of the "
                "former one mean nothing in it",
                ", ".join(f"{t}-{n}" for t, n in sorted(lost)), self._config.group,
            )  # fmt: skip
            self._last_commit.update((name, finished[name]) for name in lost)

    # -- committing ----------------------------------------------------------------------------------

    def commit(self, offsets: Any = None) -> None:
        """Commit all that was handed out (None), through a Record, or a mapping of partition → NEXT offset.

        Raises CommitFailedError if the group gave a partition to another member, whose records will be
        handled there, or if its topic was deleted and made anew. Nothing is committed then. Cost: an append of one
        small batch.
        """
        with self._enter(), self._guard():
            self._check()  # the log may have been closed on the way here: nothing is held then, and nothing would be committed
            if self._config.group is None:
                raise ConfigError("This consumer has no group=, so there is nowhere to commit to.", name="group")
            topics = self._service.image.topics
            if offsets is None:
                handed = self._held.handed().items()
                wanted = {n: OffsetAndMetadata(offset) for n, offset in handed if offset >= 0 and n.topic in topics}
            else:
                wanted = commit_offsets(offsets)
            former = sorted(name for name in self._drop_deleted() if name in wanted)
            if isinstance(offsets, Record) and self._is_of_former_topic(offsets):
                former = [offsets.topic_partition]
            if former:
                raise CommitFailedError(
                    f"Nothing was committed: {', '.join(f'{t}-{n}' for t, n in former)} is of a topic that was deleted, and its "
                    f"offsets mean nothing in the one that bears the name now, or there is none. Poll to go on with what "
                    f"there is.",
                    group=self._config.group,
                    partitions=tuple(former),
                )
            self._commit(wanted)
            for name, committed in wanted.items():
                self._held.finish_through(name, committed.offset)

    def _is_of_former_topic(self, record: Record[Any, Any]) -> bool:
        """Whether a record was handed out of a topic that was made anew since: no such offset was handed out of this one."""
        name = record.topic_partition
        return name in self._made_anew and record.offset >= self._held.handed().get(name, 0)

    def _commit(self, offsets: Mapping[TopicPartition, OffsetAndMetadata]) -> None:
        if not offsets:
            return
        assert self._config.group is not None
        membership = self._membership
        member_id, epoch = None, 0
        if membership is not None and self._subscription.manual is None and not self._subscription.empty:
            membership.refuse_if_fenced()
            if membership.why_lost:
                # Sent without a member id it would be taken if the group is empty by now, and move the group back.
                raise CommitFailedError(
                    f"The commit in group {self._config.group!r} was refused: this member was put out of the group, because "
                    f"{membership.why_lost}, and has not joined again. Nothing was committed; poll to join again, and expect "
                    f"the records since the last commit once more."
                )
            member_id, epoch = membership.member_id or None, membership.epoch
        try:
            ids = {name: self._topic_ids[name] for name in offsets if name in self._topic_ids}
            result_of(self._service.commit(self._config.group, member_id, epoch, offsets, ids))
        except UnknownMemberIdError as error:
            raise CommitFailedError(
                f"The commit in group {self._config.group!r} was refused: this member was put out of the group, because it "
                f"did not poll within max_poll_interval_ms={self._config.max_poll_interval_ms}. Its records will be handled "
                f"by another member; poll to join again."
            ) from error
        except GroupNotEmptyError as error:
            raise CommitFailedError(
                f"The commit in group {self._config.group!r} was refused: the group has members, who commit for it, and this "
                f"consumer, which has its partitions by assign() or has not polled yet, is none. Nothing was committed; "
                f"give consumers with assign() a group of their own."
            ) from error
        self._last_commit.update((name, committed.offset) for name, committed in offsets.items())

    def _auto_commit_if_due(self) -> None:
        now = self._service.clock.monotonic()
        if self._next_commit_s is None or now >= self._next_commit_s:
            if self._next_commit_s is not None:
                self._auto_commit(None)
            self._next_commit_s = now + self._config.auto_commit_interval_ms / 1000

    def _auto_commit(self, only: frozenset[TopicPartition] | None) -> None:
        """Commit what is finished and was not committed; a refusal is logged: the group will hear it again.

        A member that was put out has nothing to commit: what it still holds, told to a listener as lost, is others'.
        """
        membership = self._membership
        if membership is not None and self._subscription.manual is None and not membership.joined:
            return
        gone = set(self._drop_deleted())
        last = self._last_commit
        finished = {
            name: OffsetAndMetadata(offset)
            for name, offset in self._held.finished().items()
            if offset >= 0  # a position of 0 that was established is as good as any other
            and name not in gone
            and last.get(name) != offset
            and (only is None or name in only)
        }
        try:
            self._commit(finished)
        except CommitFailedError as error:
            logger.warning("auto-commit: %s", error)

    def committed(self, partition: TopicPartition) -> int | None:
        """The group's committed offset, the NEXT to read; None if there is none."""
        with self._enter(only_looks=True):
            if self._config.group is None:
                raise ConfigError("This consumer has no group=, so nothing is committed for it.", name="group")
            found = self._service.committed(self._config.group, [partition_of(partition)])
            return next((c.offset for c in found.values()), None)
