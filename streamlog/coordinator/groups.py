"""The groups of a shard, as its log says, and the callbacks to wake when they change."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import count
from typing import Any, TypeVar

from ..errors import StreamlogError
from ..runtime.api import Completion
from ..types import TopicPartition
from . import errors
from .group import Group
from .runtime import After, CoordinatorRuntime, Delivery
from .schema import GroupRecord, LogRecord, MemberRecord, OffsetRecord, decode

T = TypeVar("T")


class Groups:
    """The groups, the one way to change them, and the callbacks to wake.

    `by_name` is replaced as a whole by `elect` and `resign`, and changed by nothing but replay. `topic_id` gives the id of the topic that
    has a name now, or None. REQUIRES: the shard's lock for every call.
    """

    def __init__(
        self, append: Callable[[Sequence[LogRecord]], Completion[int]], topic_id: Callable[[str], bytes | None]
    ) -> None:
        self.topic_id = topic_id
        self.by_name: dict[str, Group] = {}
        self._pending: dict[int, dict[str, None]] = {}
        """The groups with offsets of an undecided transaction, by producer id."""
        self.runtime = CoordinatorRuntime()
        self._append = append
        self._versions = count(1)  # over all groups and lives, so that no version comes twice
        self._watchers: dict[str, dict[str | None, list[Callable[[], object]]]] = {}  # by group and member id
        self._wakeups: dict[Callable[[], object], None] = {}
        self._resigned = False
        self._waiting: list[After[Any]] = []  # answers that an append was not done for
        self._deliveries: list[Delivery[Any]] = []

    def current_id(self, partition: TopicPartition) -> bytes | None:
        return self.topic_id(partition.topic)

    def existing(self, group: str) -> Group:
        """Raises GroupIdNotFoundError."""
        here = self.by_name.get(group)
        if here is None:
            raise errors.no_group(group)
        return here

    def forget_unknown(self, group: Group) -> None:
        """Drop a group of which nothing is known any more."""
        if not group.exists:
            self.by_name.pop(group.name, None)

    def require_ready(self) -> None:
        """Raises NotCoordinatorError after `resign`; otherwise CoordinatorLoadInProgressError before the log is loaded, and
        after an append that failed once it was replayed.
        """
        if not self.runtime.ready:
            raise errors.resigned() if self._resigned else errors.loading()

    # -- replay

    def replay(self, records: Iterable[LogRecord], written: Completion[int] | None = None) -> None:
        """Apply records of the log, in order, before it is loaded. Raises FormatError for a record that is damaged.

        `written` is done when they count as written; no answer that depends on them is given before that.
        """
        self._replay(records)
        if written is not None:
            self.runtime.await_written(written)

    def _replay(self, records: Iterable[LogRecord]) -> None:
        for key, value in records:
            record = decode(key, value)
            self.runtime.read(key, value, known=record is not None)
            if record is None:
                continue
            name = record.group
            group = self.by_name.get(name)
            if group is None:
                group = self.by_name[name] = Group(name)
            if isinstance(record, GroupRecord):
                group.replay_group(record.state)
            elif isinstance(record, MemberRecord):
                self.touch(group, group.replay_member(record.member_id, record.state))
                if record.state is None:
                    self._wake(name, record.member_id)
            else:
                group.offsets.replay(record.partition, record.state)
            if not group.exists:
                del self.by_name[name]

    def replay_pending(self, producer_id: int, records: Iterable[LogRecord]) -> None:
        """Records of a transaction: offsets, which count once `replay_end` says that it was committed."""
        for key, value in records:
            record = decode(key, value)
            if isinstance(record, OffsetRecord) and record.state is not None:
                group = self.by_name.get(record.group)
                if group is None:
                    group = self.by_name[record.group] = Group(record.group)
                group.offsets.replay_pending(producer_id, record.partition, record.state)
                self._pending.setdefault(producer_id, {})[record.group] = None

    def replay_end(self, producer_id: int, commit: bool) -> None:
        """The marker of a transaction."""
        for name in self._pending.pop(producer_id, ()):
            group = self.by_name.get(name)
            if group is not None:
                group.offsets.replay_end(producer_id, commit)
                if not group.exists:
                    del self.by_name[name]

    def touch(self, group: Group, member_ids: Iterable[str]) -> None:
        """These members can act on a change: no kept answer to them is valid any more, and their watchers are woken."""
        for member_id in member_ids:
            member = group.members.get(member_id)
            if member is not None:
                member.version = next(self._versions)
                member.answer = None
                self._wake(group.name, member_id)

    def _wake(self, group: str, member_id: str) -> None:
        watchers = self._watchers.get(group)
        if watchers:
            self._wakeups.update(dict.fromkeys(watchers.get(member_id, ())))
            self._wakeups.update(dict.fromkeys(watchers.get(None, ())))

    # -- elected and resigned

    def elect(self) -> None:
        """Begin to load: forget everything. Next: `replay`, then `loaded`. Answers that wait for an append still wait for it.

        Those that wait for other members fail with CoordinatorLoadInProgressError.
        """
        self._forget(errors.loading())
        self._resigned = False

    def resign(self) -> None:
        """The leadership was lost: forget everything, and refuse requests until `elect`.

        Answers that wait for an append, or for other members, fail with NotCoordinatorError, unless the append is done before:
        each gets one answer. They fail with the wake-ups, since what waits for them is called.
        """
        self._forget(errors.resigned())
        self._resigned = True
        waiting, self._waiting = self._waiting, []
        for answer in waiting:
            self._wakeups[partial(answer.abandon, errors.resigned())] = None

    @property
    def may_have_parked(self) -> bool:
        """Whether there may be answers that wait for other members. Takes no lock, and needs none."""
        return any(group.classic is not None for group in tuple(self.by_name.values()))

    def abandon(self, error: StreamlogError) -> None:
        """Answers that wait for other members fail."""
        for group in self.by_name.values():
            if group.classic is not None:
                group.classic.abandon(error)
                for answer, value, failed in group.classic.take_answers():
                    self.deliver(answer, value, failed, Completion.of(None))

    def _forget(self, error: StreamlogError) -> None:
        self.abandon(error)
        self.runtime.forget()
        self.by_name = {}
        self._pending = {}
        for by_member in self._watchers.values():
            for watchers in by_member.values():
                self._wakeups.update(dict.fromkeys(watchers))

    # -- writing

    def write(self, records: Sequence[LogRecord], result: Callable[[], T]) -> Completion[T]:
        """Append records, replay them, and answer; see `CoordinatorRuntime.write`."""
        return self.write_so(lambda: self._append(records), lambda: self._replay(records), len(records), result)

    def write_so(
        self, append: Callable[[], Completion[int]], replay: Callable[[], object], count: int, result: Callable[[], T]
    ) -> Completion[T]:
        """`write` of records that are appended and replayed in their own way: those of transactions."""
        answer = self.runtime.write(append, replay, count, result)
        if isinstance(answer, After):
            self._waiting = [*(each for each in self._waiting if not each.done()), answer]
        return answer

    # -- wake-ups

    def watch(self, group: str, callback: Callable[[], object], member_id: str | None = None) -> None:
        """Have `take_wakeups` return `callback` after every change that `member_id` can act on, until `unwatch`.

        Those are a new target, a partition of it that another member released, the end of the membership, an earlier
        liveness deadline in the group, and the unloading of the shard; commits are not. Without a `member_id`: whatever any
        member of `group` can act on. A member that chooses its id can watch before it joins. `callback` must neither block
        nor raise.
        """
        self._watchers.setdefault(group, {}).setdefault(member_id, []).append(callback)

    def unwatch(self, group: str, callback: Callable[[], object], member_id: str | None = None) -> None:
        """Undo one `watch`. Does nothing if there is none."""
        by_member = self._watchers.get(group, {})
        watchers = by_member.get(member_id, [])
        if callback in watchers:
            watchers.remove(callback)
        if not watchers:
            by_member.pop(member_id, None)
        if not by_member:
            self._watchers.pop(group, None)

    def deliver(
        self, answer: Completion[Any], value: Any, error: BaseException | None, written: Completion[None], *,
        now: bool = False,
    ) -> None:  # fmt: skip
        """Give an answer that was parked, once `written` is done: with the wake-ups, or `now`, if no caller has it yet."""
        delivery: Delivery[Any] = Delivery(answer, lambda: value, error, written)
        if now and (error is not None or written.done()):
            delivery()
        else:
            self._deliveries.append(delivery)

    def deliver_after(self, answer: Completion[T], done: Completion[T]) -> None:
        """Give an answer that was parked, once `done` is, with its value or error."""
        self._deliveries.append(Delivery(answer, done.result, None, done))

    def take_wakeups(self) -> list[Callable[[], object]]:
        """The callbacks to call, each once, after the shard's lock was released.

        An answer is among them until it was given: an interrupt may come before that.
        """
        if self._deliveries:
            self._deliveries = [each for each in self._deliveries if not each.is_given]
            self._wakeups.update(dict.fromkeys(self._deliveries))
        if not self._wakeups:
            return []
        wakeups, self._wakeups = self._wakeups, {}
        return list(wakeups)
