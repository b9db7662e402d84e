"""The consumer's side of its group: join, revoke and take over partitions, commit, leave.

Without a group, and after `assign()`, the same code keeps what is assigned in line with the topics that exist. What the
other members of this process ask of a consumer they ask of its coordinator, see `membership`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from math import inf
from typing import Any

from ...broker.api import Service
from ...config import ConsumerConfig
from ...errors import (
    CommitFailedError,
    ConfigError,
    FencedInstanceIdError,
    GroupNotEmptyError,
    UnknownMemberIdError,
    UnstableOffsetCommitError,
)
from ...types import OffsetAndMetadata, Record, TopicPartition
from .. import retrying
from ..arguments import commit_offsets
from ..call_site import warn
from .decode import Decoder
from .fetcher import PartitionFetcher
from .group_offsets import GroupOffsets
from .listener import check_listener
from .membership import LocalMembers, Member, Membership, Wakeup
from .offsets import OffsetFetcher
from .procedure import Bounded, Driver, ListenerCall, Procedure, ReleaseRequest, answer_of
from .subscription_state import SubscriptionState

logger = logging.getLogger("streamlog.client")

# How often one poll goes back to the group coordinator while partitions move.
_ROUNDS = 8
_NOISE_S = 1e-6  # by which the sum of two floats may be later than the clock that was moved by both
# How long (real seconds) a member that leaves waits for that to count as written. Kafka's default for `close`.
_LEAVE_WAIT_S = 30.0


class ConsumerCoordinator:
    """Keeps what is assigned in line with the subscription and the group. REQUIRES: the state lock, unless stated.

    `membership` is None without a group.
    """

    def __init__(
        self,
        service: Service,
        config: ConsumerConfig,
        local_members: LocalMembers,
        driver: Driver,
        subscriptions: SubscriptionState,
        offsets: OffsetFetcher,
        wakeup: Wakeup,
        decoder_of: Callable[[TopicPartition], Decoder],
        created_at: str | None = None,
    ) -> None:
        """`created_at`: the program's line that made the consumer, as `call_site` gives it."""
        self._service = service
        # For what the program asks for; a poll does not wait.
        self._patient = retrying.with_retries(service, lambda: driver.closed_error)
        self.leaders_move = service.is_replicated
        self._moves = retrying.MOVES if self.leaders_move else (UnstableOffsetCommitError,)
        self.retry_s: float | None = None
        """When a poll asks again (real seconds), if the group had no coordinator at the last one."""
        self._config = config
        self._driver = driver
        self._subscriptions = subscriptions
        self._offsets = offsets
        self._decoder_of = decoder_of
        self._local_members = local_members
        self.wakeup = wakeup
        self.created_at = created_at
        self.listener: Any = check_listener(config.listener)
        group = config.group
        self.membership = None if group is None else Membership(service, config, group, wakeup, local_members, driver)
        self.auto_commits = config.auto_commits
        self._revoking: frozenset[TopicPartition] = frozenset()  # of which the listener is being called
        self._last_commit: dict[TopicPartition, OffsetAndMetadata] = {}
        self._started: dict[
            TopicPartition, int
        ] = {}  # of what is assigned and was not committed then: the first position
        self._topic_ids: dict[TopicPartition, bytes] = {}  # of each partition that was ever assigned, the last one
        self._recreated: set[TopicPartition] = set()  # partitions that were assigned in a former topic too
        self._warned_deleted: set[str] = set()  # topics of the subscription that do not exist, as was said
        self._looked: object = None  # the image in which no assigned partition was found to be deleted
        self._next_commit_s: float | None = None
        self._next_check_s: float | None = None
        # Polls without anything assigned, and the time of the last; -1 after the warning. See `note_empty_poll`.
        self._empty_polls, self._last_empty_s = 0, 0.0

    # -- polling -------------------------------------------------------------------------------------

    def poll(self) -> Procedure[None] | None:
        """Bring what is assigned in line with the topics and the group; auto-commit if it is time. None if nothing is to be done."""
        subscription = self._subscriptions.subscription
        if subscription.empty:
            raise ConfigError("This consumer reads nothing: subscribe() or assign() first.")
        procedure = None
        if self.membership is None or subscription.manual is not None:
            if subscription.manual is None and subscription.resolve(self._service.image):
                procedure = self.assign_all()
                self._warn_deleted()
        else:
            procedure = self._poll_group(self.membership)
        if self.auto_commits and self._is_auto_commit_due():
            procedure = self._then_auto_commit(procedure)
        self.retry_s = None
        return None if procedure is None else self._while_coordinated(procedure)

    def _while_coordinated(self, procedure: Procedure[None]) -> Procedure[None]:
        """`procedure`, unless the group has no coordinator now, or a transaction of it is not decided: then the poll goes on with
        what is assigned, and a later one asks again."""
        try:
            yield from procedure
        except self._moves as error:
            self.retry_s = self._service.real_seconds() + retrying.RETRY_BACKOFF_S
            logger.debug("the group coordinator is asked again: %s", error)

    def _then_auto_commit(self, procedure: Procedure[None] | None) -> Procedure[None]:
        if procedure is not None:
            yield from procedure
        yield from self._auto_commit(None, self._service)
        self._set_next_commit()

    def is_up_to_date(self) -> bool:
        """Whether a poll may go on with what is assigned, without a heartbeat; a member's deadline is renewed."""
        membership = self.membership
        subscription = self._subscriptions.subscription
        return membership is None or subscription.manual is not None or membership.unchanged(subscription.names)

    def assign_all(self, *, patient: bool = False) -> Procedure[None]:
        """Read all partitions that the subscription names: the consumer has no group, or used `assign()`."""
        subscriptions = self._subscriptions
        subscription = subscriptions.subscription
        subscription.resolve(self._service.image)
        if subscription.manual is None:
            self.remove_deleted()
        wanted = subscription.partitions(self._service.image)
        subscriptions.remove(subscriptions.assigned() - set(wanted))
        yield from self._take_over([name for name in wanted if name not in subscriptions.fetchers], patient=patient)

    def _poll_group(self, membership: Membership) -> Procedure[None] | None:
        subscription = self._subscriptions.subscription
        if subscription.resolve(self._service.image):
            self.remove_deleted()
            self._warn_deleted()
        membership.polled()
        self._local_members.add(membership.group, self)
        self._local_members.evict_dead(membership.group)
        if membership.unchanged(subscription.names):
            return None
        return self._rebalance(membership, self._local_members.others(membership.group, self), polling=True)

    def _rebalance(self, membership: Membership, others: Collection[Member], *, polling: bool) -> Procedure[None]:
        """Send heartbeats, and do what the answers say, until the group is stable or others have to act.

        Not `polling`: another member asks for it, which does not count as a poll of this one.
        """
        subscriptions = self._subscriptions
        for _ in range(_ROUNDS):
            if not self._is_still_subscribed():
                return
            assigned = subscriptions.assigned()
            try:
                result = yield from membership.heartbeat(subscriptions.subscription.names, assigned, polling=polling)
            except UnknownMemberIdError:
                self._warn_evicted(membership, assigned)
                yield from self._lose(assigned)
                if not polling:
                    return
                continue
            except FencedInstanceIdError:
                yield from self._lose(assigned)
                raise
            self._next_check_s = result.next_check_s
            if revoked := assigned - result.assignment:
                yield from self._revoke(revoked)
            elif added := result.assignment - assigned:
                yield from self._take_over(sorted(added))
                yield from self._call_listener("on_partitions_assigned", added)
            elif not result.waits_for or not others:
                return
            else:
                for other in others:
                    if other.member_id in result.waits_for:
                        yield ReleaseRequest(other.release_if_idle)
                others = ()

    def _is_still_subscribed(self) -> bool:
        """Whether this is to stay a member: a listener may have closed the consumer, or ended its subscription."""
        if self._driver.closed_error is not None:
            raise self._driver.closed_error.copy()
        subscription = self._subscriptions.subscription
        return subscription.manual is None and not subscription.empty

    def waits_for_others(self) -> bool:
        """Whether partitions are about to be assigned to this member by members that other threads poll."""
        membership = self.membership
        if membership is None or self._subscriptions.subscription.manual is not None or membership.stable:
            return False
        return membership.joins_later or any(
            other.is_elsewhere() for other in self._local_members.others(membership.group, self)
        )

    def longest_wait_s(self) -> float:
        """How long to wait at most before the next poll, without a wakeup.

        A member renews its deadline at half its poll interval, so that another member that looks for overdue ones does not
        find it. There is no wakeup when another member is overdue, nor when it is time to auto-commit.
        """
        step = inf
        if self._next_check_s is not None:
            next_check = self._next_check_s - self._service.real_seconds()
            step = min(max(0.001, next_check), self._config.max_poll_interval_ms / 2000)
        if self.retry_s is not None:
            step = min(step, max(0.001, self.retry_s - self._service.real_seconds()))
        if (at := self.next_commit_s()) is not None:
            step = min(step, max(0.001, at - self._service.clock.monotonic()))
        return step

    def next_commit_s(self) -> float | None:
        """When to auto-commit what is finished, in monotonic seconds of the log's clock; None if there is nothing."""
        return self._next_commit_s if self.auto_commits and self._subscriptions.has_uncommitted else None

    def note_empty_poll(self, *, endless: bool = False) -> None:
        """A poll brings no record, and nothing is assigned to this member; `endless`: it is about to wait without a deadline.

        Issues a warning, once, if all partitions are with members that this thread polled, and has not polled between the
        last two polls of this one: while it goes on so, nothing can change. So it is after a notebook cell was run twice,
        where IPython keeps the first consumer alive. Not at the first poll, because members that one thread polls in turn
        share at the second. It takes no lock. Cost: O(members of this process) after 2, 4, 8, … such polls; nothing
        otherwise, for a member that stands by.
        """
        membership = self.membership
        if membership is None or self._empty_polls < 0 or membership.joins_later:
            return
        self._empty_polls = polls = self._empty_polls + 1
        before_s, self._last_empty_s = self._last_empty_s, membership.last_poll_s
        if polls & (polls - 1) or (polls == 1 and not endless):
            return
        holders = self._left_behind(membership, inf if endless else before_s)
        if holders:
            self._empty_polls = -1
            warn(self._kept_out(membership, holders))

    def _left_behind(self, membership: Membership, since_s: float) -> list[Member]:
        """The members that have all partitions of the subscription, if only this thread polled them, and not after `since_s`."""
        topics = self._service.image.topics
        wanted = self._subscriptions.subscription.names
        left = sum(topics[name].partitions for name in wanted if name in topics)
        holders: list[Member] = []
        for member in self._local_members.others(membership.group, self):
            if member.last_poll_s <= since_s and not member.is_elsewhere():
                held = sum(name.topic in wanted for name in member.assigned())
                if held:
                    left -= held
                    holders.append(member)
        return [] if left else holders

    def _kept_out(self, membership: Membership, holders: list[Member]) -> str:
        group, count = membership.group, len(holders)
        who, have = ("another consumer", "has") if count == 1 else (f"{count} other consumers", "have")
        made = "; ".join(f"{m.member_id}, made at {m.created_at or 'an unknown place'}" for m in holders[:3])
        more = f"; and {count - 3} more" if count > 3 else ""
        topics = ", ".join(map(repr, sorted(self._subscriptions.subscription.names)))
        return (
            f"This consumer gets no records: {who} of this program, polled by this same thread, {have} all partitions of "
            f"{topics} in group {group!r} ({made}{more}). close() what is no longer used (a notebook keeps what a cell has "
            f"shown, in Out), poll it too, or remove it: log.group({group!r}).evict({holders[0].member_id!r})."
        )

    # -- gaining and losing partitions ---------------------------------------------------------------

    def _take_over(self, names: Iterable[TopicPartition], *, patient: bool = False) -> Procedure[None]:
        """Read partitions from their committed offsets on, or from where `auto_offset_reset` says."""
        new = list(names)
        if not new:
            return
        # One id for the fetcher and for the committed offset: a topic may be recreated between any two calls.
        topics = {}
        for topic in dict.fromkeys(name.topic for name in new):
            topics[topic] = yield from answer_of(self._service.topic(topic))
        ids = {name: topics[name.topic].id_bytes for name in new}
        committed = yield from answer_of(self._offsets.committed(new, ids, patient=patient, require_stable=True))
        config = self._config
        for name in new:
            # Where compaction has removed all records of an epoch, nothing says whether the record before a commit is there.
            known, topic_id = committed.get(name), ids[name]
            start = yield from self._offsets.start(name, known)
            self._looked = None
            if self._topic_ids.get(name, topic_id) != topic_id:
                self._recreated.add(name)
            self._topic_ids[name] = topic_id
            fetcher = PartitionFetcher(
                self._service,
                name,
                self._decoder_of(name),
                config.isolation_level,
                config.on_corrupt,
                start,
                config.fetch_max_bytes,
                topic_id,
                None if known is None or topics[name.topic].config.compacts else known.leader_epoch,
            )
            self._offsets.check_committed(fetcher)
            self._subscriptions.add(fetcher)
            if known is not None:
                self._last_commit[name] = known
                self._started.pop(name, None)
            else:
                self._last_commit.pop(name, None)
                self._started[name] = start

    def _revoke(self, names: frozenset[TopicPartition]) -> Procedure[None]:
        """Partitions go to another member: commit what is finished there, call the listener, stop reading them."""
        if self.auto_commits:
            yield from self._auto_commit(names, self._service)
        still = names & self._subscriptions.assigned()  # a commit removes partitions of deleted topics
        if still:
            yield from self._remove_after_listener("on_partitions_revoked", still)

    def _lose(self, names: frozenset[TopicPartition]) -> Procedure[None]:
        """Partitions are already another member's."""
        if names:
            yield from self._remove_after_listener("on_partitions_lost", names)

    def _warn_evicted(self, membership: Membership, names: frozenset[TopicPartition]) -> None:
        if names and self.auto_commits:
            logger.warning(
                "this member of group %r was evicted and lost %s: %s; the records it finished there since the last commit "
                "will be handled again; it joins again at its next poll",
                membership.group, ", ".join(f"{t}-{n}" for t, n in sorted(names)), membership.why_lost,
            )  # fmt: skip

    def _remove_after_listener(self, event: str, names: frozenset[TopicPartition]) -> Procedure[None]:
        """Call the listener, which may close the consumer (partitions are not revoked twice) or assign them by hand."""
        fetchers = self._subscriptions.fetchers
        removed = {name: fetchers[name] for name in names}
        self._revoking = names
        try:
            yield from self._call_listener(event, names)
        finally:
            self._revoking = frozenset()
        self._subscriptions.remove([name for name, fetcher in removed.items() if fetchers.get(name) is fetcher])

    def _call_listener(self, event: str, names: Iterable[TopicPartition]) -> Procedure[None]:
        if self.listener is not None:
            yield ListenerCall(getattr(self.listener, event), sorted(names))

    def _deleted(self) -> list[TopicPartition]:
        """The assigned partitions whose topic was deleted, or deleted and recreated."""
        image = self._service.image
        if image is self._looked:
            return []
        topics = image.topics
        deleted = [
            name
            for name, fetcher in self._subscriptions.fetchers.items()
            if name.topic not in topics
            or topics[name.topic].id_bytes != fetcher.topic_id
            or name.partition >= topics[name.topic].partitions
        ]
        if not deleted:
            self._looked = image
        return deleted

    def remove_deleted(self) -> list[TopicPartition]:
        """Stop reading the partitions that are `_deleted`; returns them. Those given to `assign()` stay: reading them raises."""
        deleted = self._deleted()
        if deleted and self.auto_commits:
            topics = self._service.image.topics
            self._warn_recreated([name for name in deleted if name.topic in topics])
        if deleted and self._subscriptions.subscription.manual is None:
            self._subscriptions.remove(deleted)
            for name in deleted:
                self._last_commit.pop(name, None)
            if self.membership is not None:
                self.membership.stable = False  # the next poll sends a heartbeat
        return deleted

    def _warn_deleted(self) -> None:
        """Issue a warning, once for each topic that is subscribed to by its name and was deleted.

        Kafka's consumer logs UNKNOWN_TOPIC_OR_PARTITION and goes on, because the topic may be created again.
        """
        topics = self._service.image.topics
        deleted = {name for name in self._subscriptions.subscription.fixed if name not in topics}
        new, self._warned_deleted = deleted - self._warned_deleted, deleted
        if new:
            one = len(new) == 1
            warn(
                f"{'Topic' if one else 'Topics'} {', '.join(map(repr, sorted(new)))}, which this consumer reads, "
                f"{'was' if one else 'were'} deleted: no more records come from there. Created again, {'it is' if one else 'they are'} "
                f"read as new; otherwise close the consumer, or subscribe() to other topics."
            )

    def _warn_recreated(self, names: list[TopicPartition]) -> None:
        """Log, once, that the finished offsets of topics that were recreated are not committed."""
        finished = self._subscriptions.finished_positions(names)
        lost = [
            name
            for name in names
            if finished[name] > 0 and not self._is_committed(name, self._at(name, finished[name]))
        ]
        if lost:
            logger.warning(
                "auto-commit: nothing is committed for %s in group %r: the topic was deleted and created again, and offsets of "
                "the former one mean nothing in it",
                ", ".join(f"{t}-{n}" for t, n in sorted(lost)), self._config.group,
            )  # fmt: skip
            self._last_commit.update((name, self._at(name, finished[name])) for name in lost)

    # -- asked by other members of this process, on their threads, without this one's state lock ---------

    def release_if_idle(self) -> None:
        """A new member asks: release partitions if no record is in hand and there is no listener.

        It neither counts as a poll nor joins: other members do not keep one in the group that was evicted, or whose thread
        has ended. An error is logged here, and raised by this member's own next poll.
        """
        self._driver.run_for_another(self._release_if_idle)

    def _release_if_idle(self) -> Procedure[None] | None:
        membership = self.membership
        if (
            self._driver.closed_error is not None
            or self.listener is not None
            or membership is None
            or not membership.joined
            or not self._driver.is_alive()
            or not self._subscriptions.end_lock_free()
        ):
            return None
        return self._release(membership)

    def _release(self, membership: Membership) -> Procedure[None]:
        if self._subscriptions.subscription.resolve(self._service.image):
            self.remove_deleted()
        yield from self._rebalance(membership, (), polling=False)

    def evict_if_thread_ended(self) -> None:
        """Leave the group if the thread that polled has ended.

        Only the group coordinator is informed. If another thread goes on with this consumer, it is like a member that was
        evicted: a commit is refused, a poll joins again.
        """
        if self.membership is not None and not self._driver.is_alive():
            self.membership.evict()

    @property
    def member_id(self) -> str:
        """Empty without a group, and while it is not a member."""
        return "" if self.membership is None else self.membership.member_id

    def note_eviction(self) -> None:
        """The program is about to remove this member from its group."""
        if self.membership is not None:
            self.membership.evicted_by_program = True

    @property
    def auto_offset_reset(self) -> str:
        return self._config.auto_offset_reset

    @property
    def last_poll_s(self) -> float:
        return 0.0 if self.membership is None else self.membership.last_poll_s

    def assigned(self) -> list[TopicPartition]:
        return list(self._subscriptions.fetchers)

    def started(self) -> dict[TopicPartition, int]:
        """Where it began to read what is assigned, of the partitions for which nothing was committed then; -1 is nowhere."""
        fetchers = self._subscriptions.fetchers
        return {name: at for name, at in self._started.copy().items() if name in fetchers}

    def is_elsewhere(self) -> bool:
        """Whether another thread than the caller's polls this member."""
        return self._driver.is_elsewhere()

    # -- committing ----------------------------------------------------------------------------------

    def commit(self, offsets: Any) -> Procedure[None]:
        """`Consumer.commit`."""
        wanted = self._wanted(offsets)
        yield from self._commit(wanted, self._patient)
        self.note_committed(wanted)

    def offsets_to_commit(self, offsets: Any) -> GroupOffsets:
        """What a transaction is to commit for this consumer, given as to `Consumer.commit`. Raises what that raises."""
        group = self._config.group
        assert group is not None
        wanted = self._wanted(offsets)
        return GroupOffsets(group, *self._committing_member(group), wanted, self._ids_of(wanted))

    def note_committed(self, offsets: Mapping[TopicPartition, OffsetAndMetadata]) -> None:
        """These offsets are committed."""
        self._last_commit.update(offsets)
        done = {name: committed.offset for name, committed in offsets.items()}
        self._subscriptions.finish_through(done)
        self._subscriptions.committed(done)

    def _wanted(self, offsets: Any) -> dict[TopicPartition, OffsetAndMetadata]:
        """The offsets that the program gives to commit, as `Consumer.commit` takes them. Raises CommitFailedError."""
        subscriptions = self._subscriptions
        topics = self._service.image.topics
        if offsets is None:
            positions = subscriptions.returned_positions(self._to_commit()).items()
            wanted = {name: self._at(name, at) for name, at in positions if at >= 0 and name.topic in topics}
        else:
            wanted = commit_offsets(offsets)
            if isinstance(offsets, Record):
                wanted = {name: self._at(name, at.offset) for name, at in wanted.items()}
        former = sorted(name for name in self.remove_deleted() if name in wanted)
        if isinstance(offsets, Record) and self._is_of_former_topic(offsets):
            former = [offsets.topic_partition]
        if former:
            raise CommitFailedError(
                f"Nothing was committed: {', '.join(f'{t}-{n}' for t, n in former)} is of a topic that was deleted. Its "
                f"offsets mean nothing in a topic that was created with the same name since. Poll to go on with the topics "
                f"there are.",
                group=self._config.group,
                partitions=tuple(former),
            )
        return wanted

    def _at(self, name: TopicPartition, offset: int) -> OffsetAndMetadata:
        """A commit of a position, with the leader epoch of the last record before it, which the next reader from there looks for (KIP-320)."""
        return OffsetAndMetadata(offset, "", self._subscriptions.epoch_before(name, offset))

    def _to_commit(self) -> Collection[TopicPartition]:
        """The partitions to commit: those whose positions have moved, where only members of the group commit.

        If none has, all of them: the commit may be refused, and the program has to learn it.
        """
        membership, subscriptions = self.membership, self._subscriptions
        if membership is None or not membership.joined or subscriptions.subscription.manual is not None:
            return subscriptions.fetchers
        return subscriptions.uncommitted() or subscriptions.fetchers

    def _is_of_former_topic(self, record: Record[Any, Any]) -> bool:
        """Whether a record is of a topic that was recreated since: no such offset of the new one was returned."""
        name = record.topic_partition
        subscriptions = self._subscriptions
        position = subscriptions.returned_position(name) if name in subscriptions.fetchers else 0
        return name in self._recreated and record.offset >= position

    def _commit(self, offsets: Mapping[TopicPartition, OffsetAndMetadata], service: Service) -> Procedure[None]:
        if not offsets:
            return
        group = self._config.group
        assert group is not None
        member_id, epoch = self._committing_member(group)
        try:
            yield from answer_of(service.commit(group, member_id, epoch, offsets, self._ids_of(offsets)))
        except UnknownMemberIdError:
            membership = self.membership
            assert membership is not None  # a commit without a member id is never refused so
            raise CommitFailedError(
                f"The commit in group {group!r} was refused: this member was evicted from the group, because "
                f"{membership.why_it_is_lost()}. Its records will be handled by another member; poll to join again."
            ) from None
        except GroupNotEmptyError:
            raise CommitFailedError(
                f"The commit in group {group!r} was refused: the group has members, which commit for it, and this consumer is "
                f"not one of them: it has its partitions by assign(), or has not polled yet. Nothing was committed; give "
                f"consumers with assign() a group of their own."
            ) from None
        self._last_commit.update(offsets)

    def _is_committed(self, name: TopicPartition, at: OffsetAndMetadata) -> bool:
        """Whether that was committed last. After a truncation the same offset comes once more, with another leader epoch."""
        last = self._last_commit.get(name)
        if last is None or last.offset != at.offset:
            return False
        return None in (last.leader_epoch, at.leader_epoch) or last.leader_epoch == at.leader_epoch

    def _ids_of(self, names: Iterable[TopicPartition]) -> dict[TopicPartition, bytes]:
        return {name: self._topic_ids[name] for name in names if name in self._topic_ids}

    def _committing_member(self, group: str) -> tuple[str | None, int]:
        """The member id and epoch to commit with. Raises CommitFailedError for a member that was evicted."""
        membership = self.membership
        subscription = self._subscriptions.subscription
        if membership is None or subscription.manual is not None or subscription.empty:
            return None, 0
        membership.refuse_if_fenced()
        if membership.why_lost:
            # Sent without a member id, the commit would succeed if the group is empty by now, and move the group back.
            raise CommitFailedError(
                f"The commit in group {group!r} was refused: this member was evicted from the group, because "
                f"{membership.why_lost}, and has not joined again. Nothing was committed; poll to join again, and expect the "
                f"records since the last commit once more."
            )
        return membership.member_id or None, membership.epoch

    def _is_auto_commit_due(self) -> bool:
        if self._next_commit_s is None:
            self._set_next_commit()
            return False
        return self._service.clock.monotonic() >= self._next_commit_s - _NOISE_S

    def _set_next_commit(self) -> None:
        self._next_commit_s = self._service.clock.monotonic() + self._config.auto_commit_interval_ms / 1000

    def auto_commit(self) -> Procedure[None]:
        """Commit what is finished, if this consumer auto-commits. A refusal is logged: the records will be read again.

        It waits for a coordinator, but not while the log closes.
        """
        if self.auto_commits:
            yield from self._auto_commit(None, self._patient if self._driver.closed_error is None else self._service)

    def _auto_commit(self, only: frozenset[TopicPartition] | None, service: Service) -> Procedure[None]:
        """Commit what is finished and not committed yet.

        Nothing for a member that was evicted: what it still has, until its listener was called, is other members'.
        """
        membership = self.membership
        subscriptions = self._subscriptions
        if membership is not None and subscriptions.subscription.manual is None and not membership.joined:
            return
        deleted = set(self.remove_deleted())
        finished = {
            name: at
            for name, offset in subscriptions.finished_positions(subscriptions.uncommitted()).items()
            if offset >= 0  # a position of 0 is committed too, once it was established
            and name not in deleted
            and (only is None or name in only)
            and not self._is_committed(name, at := self._at(name, offset))
        }
        try:
            yield from self._commit(finished, service)
            subscriptions.committed({name: committed.offset for name, committed in finished.items()})
        except CommitFailedError as error:
            logger.warning("auto-commit: %s", error)

    # -- leaving -------------------------------------------------------------------------------------

    def leave(self) -> Procedure[None]:
        """Commit what is finished, call the listener, leave the group, stop reading every partition.

        Ends when the leave counts as written: then every process sees the member gone. Not while the log closes, which syncs
        all that is left at once.
        """
        subscriptions = self._subscriptions
        left = None
        names = subscriptions.assigned()
        try:
            yield from self.auto_commit()
            still = subscriptions.assigned() - self._revoking  # a commit removes partitions of deleted topics
            if still and subscriptions.subscription.manual is None:
                yield from self._call_listener("on_partitions_revoked", still)
        finally:
            if self.membership is not None:
                left = self.membership.leave()
                self._local_members.remove(self.membership.group, self)
            subscriptions.remove(names)
        if left is not None and not left.done() and self._driver.closed_error is None:
            yield Bounded(left, _LEAVE_WAIT_S)

    def __del__(self) -> None:
        membership = getattr(self, "membership", None)
        if membership is not None and self._driver.closed_error is None:
            self._local_members.leave_later(membership)
