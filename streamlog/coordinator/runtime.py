"""The groups of a shard and the log they come from: a request appends records, replays them, and then answers."""

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
from .schema import GroupRecord, LogRecord, MemberRecord, decode, newer

T = TypeVar("T")


class CoordinatorRuntime:
    """The groups, the one way to change them, and the callbacks to wake.

    `groups` is replaced as a whole by `elect` and `resign`, and changed by nothing but replay. `topic_id` gives the id of the topic that
    has a name now, or None. REQUIRES: the shard's lock for every call. The callback of an append that finishes later runs
    without it, so it sets flags only, on which the next request acts.
    """

    def __init__(
        self, append: Callable[[Sequence[LogRecord]], Completion[int]], topic_id: Callable[[str], bytes | None]
    ) -> None:
        self.topic_id = topic_id
        self.groups: dict[str, Group] = {}
        self.ready = False
        """Whether requests are answered: set by `loaded`, cleared when the log has to be replayed again."""
        self._append = append
        self._versions = count(1)  # over all groups and lives, so that no version comes twice
        self._watchers: dict[str, dict[str | None, list[Callable[[], object]]]] = {}  # by group and member id
        self._wakeups: dict[Callable[[], object], None] = {}
        self.unfinished: Completion[int] | None = None
        """The last append, while it is not known to count as written."""
        self._failed = self._resigned = False
        self._life = 0  # each ends with `elect` or `resign`
        self._waiting: list[_After[Any]] = []  # answers that an append was not done for
        self._newer: set[bytes] = set()  # the keys of records of an unknown kind or version
        self.written = 0
        """How many records were appended and then replayed. Less than the log has if an interrupt came in between."""

    def current_id(self, partition: TopicPartition) -> bytes | None:
        return self.topic_id(partition.topic)

    def existing(self, group: str) -> Group:
        """Raises GroupIdNotFoundError."""
        here = self.groups.get(group)
        if here is None:
            raise errors.no_group(group)
        return here

    def require_ready(self) -> None:
        """Raises NotCoordinatorError after `resign`; otherwise CoordinatorLoadInProgressError before `loaded`, and after an
        append that failed once it was replayed.
        """
        if self.ready:
            return
        if self._failed:
            self.elect()
        raise errors.resigned() if self._resigned else errors.loading()

    # -- replay

    def replay(self, records: Iterable[LogRecord], written: Completion[int] | None = None) -> None:
        """Apply records of the log, in order, before `loaded`. Raises FormatError for a record that is damaged.

        `written` is done when they count as written; no answer that depends on them is given before that.
        """
        if self._failed:
            self.elect()
        self._replay(records)
        if written is not None and not written.done():
            self.unfinished = written
            written.on_done(partial(self._on_appended, self._life))

    def _replay(self, records: Iterable[LogRecord]) -> None:
        for key, value in records:
            record = decode(key, value)
            self._newer.discard(key)
            if record is None:
                if value is not None:
                    self._newer.add(key)
                continue
            name = record.group
            group = self.groups.get(name)
            if group is None:
                group = self.groups[name] = Group(name)
            if isinstance(record, GroupRecord):
                group.replay_group(record.state)
            elif isinstance(record, MemberRecord):
                self.touch(group, group.replay_member(record.member_id, record.state))
                if record.state is None:
                    self._wake(name, record.member_id)
            else:
                group.offsets.replay(record.partition, record.state)
            if not group.exists:
                del self.groups[name]

    def refuse_newer(self) -> None:
        """Raises FormatError if the log has records that are not known here: a writer would contradict them."""
        for key in self._newer:
            raise newer(key)

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
        """Begin to load: forget everything. Next: `replay`, then `loaded`. Answers that wait for an append still wait for it."""
        self._forget()
        self._resigned = False

    def resign(self) -> None:
        """The leadership was lost: forget everything, and refuse requests until `elect`.

        Answers that wait for an append fail with NotCoordinatorError, unless the append is done before: each gets one answer.
        They fail with the wake-ups, since what waits for them is called.
        """
        self._forget()
        self._resigned = True
        waiting, self._waiting = self._waiting, []
        for answer in waiting:
            self._wakeups[partial(answer.abandon, errors.resigned())] = None

    def _forget(self) -> None:
        self.ready = self._failed = False
        self._life += 1
        self.unfinished = None
        self.groups = {}
        self._newer = set()
        for by_member in self._watchers.values():
            for watchers in by_member.values():
                self._wakeups.update(dict.fromkeys(watchers))

    # -- writing

    def write(self, records: Sequence[LogRecord], result: Callable[[], T]) -> Completion[T]:
        """Append, replay, answer. `result` is called after the replay, and its value given when the append is done.

        If the append fails at once, nothing was replayed. If it fails later, the state is ahead of the log: the shard stops
        answering, and its log has to be replayed. Without records the answer still waits for the append that is unfinished,
        since it may depend on it.
        """
        waits_for = self.unfinished
        if records:
            try:
                appended = self._append(records)
            except StreamlogError as error:
                return Completion.failed(error)
            finished = appended.done()
            if finished and (failure := appended.error()) is not None:
                return Completion.failed(failure)
            self._replay(records)
            self.written += len(records)
            waits_for = None if finished else appended
            self.unfinished = waits_for
            if waits_for is not None:
                waits_for.on_done(partial(self._on_appended, self._life))
        value = result()
        if waits_for is None:
            return Completion.of(value)
        answer = _After(waits_for, value)
        self._waiting = [*(each for each in self._waiting if not each.done()), answer]
        return answer

    def _on_appended(self, life: int, appended: Completion[int]) -> None:
        # It runs on the thread that finished the append, so without the lock.
        if life != self._life:  # the log was, or will be, replayed since
            return
        if appended.error() is not None:
            self._failed = True
            self.ready = False
        elif self.unfinished is appended:
            self.unfinished = None

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

    def take_wakeups(self) -> list[Callable[[], object]]:
        """The callbacks to call, each once, after the shard's lock was released."""
        if not self._wakeups:
            return []
        wakeups, self._wakeups = self._wakeups, {}
        return list(wakeups)


class _After(Completion[T]):
    """An answer that is done when an append is, or when it is abandoned before.

    It asks the append each time, so an interrupt cannot separate the two. Both ends take the same step, `_answer`, of which
    the first counts.
    """

    __slots__ = ("_appended", "_value", "work")

    def __init__(self, appended: Completion[int], value: T) -> None:
        super().__init__()
        self._appended = appended
        self.work = appended.work
        self._value = value
        appended.on_done(self._on_appended)

    def _on_appended(self, appended: Completion[int]) -> None:
        error = appended.error()
        self._answer((self._value, None) if error is None else (None, error))

    def abandon(self, error: StreamlogError) -> None:
        if not self.done():
            self._answer((None, error))

    def done(self) -> bool:
        if not self._answers and self._appended.done():
            self._on_appended(self._appended)
        return bool(self._answers)

    def error(self) -> BaseException | None:
        return super().error() if self.done() else None

    def result(self) -> T:
        self.done()
        return super().result()
