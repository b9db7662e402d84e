"""The groups of a shard and the log they come from: records are appended, then replayed, then answered."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import count
from typing import TypeVar

from ..errors import StreamlogError
from ..runtime.api import Completion
from ..types import TopicPartition
from . import errors
from .group import Group
from .schema import GROUP, MEMBER, LogRecord, decode_group, decode_key, decode_member, decode_offset

T = TypeVar("T")


class CoordinatorRuntime:
    """What every request of a shard needs: the groups, the one way to change them, and who is to be told.

    The caller holds the shard's lock throughout, but for the callback of an append that finishes later:
    that one sets flags only, and the next request acts on them.
    """

    def __init__(
        self, append: Callable[[Sequence[LogRecord]], Completion[int]], topic_id: Callable[[str], bytes | None]
    ) -> None:
        self._topic_id = topic_id
        self._groups: dict[str, Group] = {}
        self._ready = False
        self._append = append
        self._versions = count(1)  # over all groups and lives, so that no version comes twice
        self._watchers: dict[str, list[Callable[[], object]]] = {}
        self._wakeups: dict[Callable[[], object], None] = {}
        self._parked: Completion[int] | None = None
        self._failed = False
        self.written = 0
        """How many records were appended and then replayed. Fewer than are in the log: an interrupt came in between."""

    def _current_id(self, partition: TopicPartition) -> bytes | None:
        return self._topic_id(partition.topic)

    def _existing(self, group: str) -> Group:
        """Raises GroupIdNotFoundError."""
        here = self._groups.get(group)
        if here is None:
            raise errors.no_group(group)
        return here

    def _require_ready(self) -> None:
        """Raises NotLeaderError before `loaded`, and once an append failed after its replay."""
        if self._ready:
            return
        if self._failed:
            self.unload()
        raise errors.loading()

    # -- replay

    def replay(self, records: Iterable[LogRecord], written: Completion[int] | None = None) -> None:
        """Apply records of the log, in order, before `loaded`. Raises FormatError for one not understood.

        `written` is done when they count as written; until then no answer that rests on them is given.
        """
        if self._failed:
            self.unload()
        self._replay(records)
        if written is not None and not written.done():
            self._parked = written
            written.on_done(self._on_appended)

    def _replay(self, records: Iterable[LogRecord]) -> None:
        for key, value in records:
            kind, name, rest = decode_key(key)
            group = self._groups.get(name)
            if group is None:
                group = self._groups[name] = Group(name)
            if kind == GROUP:
                group.replay_group(decode_group(value) if value is not None else None)
                self._touch(group)
            elif kind == MEMBER:
                if group.replay_member(rest[0], decode_member(rest[0], value) if value is not None else None):
                    self._touch(group)
            else:
                group.offsets.replay(TopicPartition(*rest), decode_offset(value) if value is not None else None)
            if not group.exists:
                del self._groups[name]

    def _touch(self, group: Group) -> None:
        group.changed(next(self._versions))
        self._wakeups.update(dict.fromkeys(self._watchers.get(group.name, ())))

    @property
    def ready(self) -> bool:
        """Whether requests are answered. False before `loaded`, and once the log has to be replayed anew."""
        return self._ready

    def unload(self) -> None:
        """Forget everything: leadership went away, or an append failed after its replay. Replay, then `loaded`."""
        self._ready = self._failed = False
        self._parked = None
        self._groups = {}
        for watchers in self._watchers.values():
            self._wakeups.update(dict.fromkeys(watchers))

    # -- writing

    def _write(self, records: Sequence[LogRecord], result: Callable[[], T]) -> Completion[T]:
        """Append, replay, answer. `result` is made after the replay and handed out when the append is done.

        If the append fails at once nothing was replayed. If it fails later the state is ahead of the log:
        the shard stops answering and has to be replayed. Without records the answer still waits for
        what is parked, since it may rest on it.
        """
        waits_for = self._parked
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
            self._parked = waits_for
            if waits_for is not None:
                waits_for.on_done(self._on_appended)
        value = result()
        return Completion.of(value) if waits_for is None else _After(waits_for, value)

    def _on_appended(self, appended: Completion[int]) -> None:
        # on whatever thread finished it, so without the lock
        if appended.error() is not None:
            self._failed = True
            self._ready = False
        elif self._parked is appended:
            self._parked = None

    # -- wake-ups

    def watch(self, group: str, callback: Callable[[], object]) -> None:
        """Have `callback` handed out by `take_wakeups` after every change that members of `group` can act on.

        Those are a new epoch, a member gone, a partition released, and the shard being unloaded; commits
        are not. `callback` must neither block nor raise. It stays until `unwatch`.
        """
        self._watchers.setdefault(group, []).append(callback)

    def unwatch(self, group: str, callback: Callable[[], object]) -> None:
        """Take one `watch` back; quiet if there is none."""
        watchers = self._watchers.get(group, [])
        if callback in watchers:
            watchers.remove(callback)
        if not watchers:
            self._watchers.pop(group, None)

    def take_wakeups(self) -> list[Callable[[], object]]:
        """What to call, each once, after leaving the shard's lock."""
        if not self._wakeups:
            return []
        wakeups, self._wakeups = self._wakeups, {}
        return list(wakeups)


class _After(Completion[T]):
    """An answer that is there when an append is done. It looks at the append, so an interrupt cannot part them."""

    __slots__ = ("_appended", "_value")

    def __init__(self, appended: Completion[int], value: T) -> None:
        super().__init__()
        self._appended = appended
        self._value = value

    def done(self) -> bool:
        return self._appended.done()

    def error(self) -> BaseException | None:
        return self._appended.error()

    def result(self) -> T:
        self._appended.result()
        return self._value

    def on_done(self, callback: Callable[[Completion[T]], object]) -> None:
        self._appended.on_done(lambda _: callback(self))

    def on_turn(self, wake: Callable[[Completion[T]], object]) -> None:
        self._appended.on_turn(lambda _: wake(self))

    def drive(self) -> bool:
        return self._appended.drive()

    def unattended(self) -> None:
        self._appended.unattended()


def gather(parts: Sequence[Completion[None]]) -> Completion[None]:
    """Done when all are, with the first error among them."""
    if all(part.done() for part in parts):
        failed = next((part for part in parts if part.error() is not None), None)
        return failed or Completion.of(None)
    whole: Completion[None] = Completion()

    def settle(_: Completion[None]) -> None:
        if all(part.done() for part in parts):
            error = next((part.error() for part in parts if part.error() is not None), None)
            if error is None:
                whole.complete(None)
            else:
                whole.fail(error)

    for part in parts:
        part.on_done(settle)
    return whole
