"""Writing to a coordinator's log: a request appends records, replays them, and answers once they count as written."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Generic, TypeVar

from ..errors import StreamlogError
from ..runtime.api import Completion
from .schema import newer

T = TypeVar("T")


class CoordinatorRuntime:
    """What a shard has written, and whether it answers requests. Named after Kafka's.

    REQUIRES: the shard's lock for every call. The callback of an append that finishes later runs without it, so it sets flags only,
    on which the next request acts.
    """

    def __init__(self) -> None:
        self.ready = False
        """Whether requests are answered: set by `loaded`, cleared when the log has to be replayed again."""
        self.written = 0
        """How many records were appended and then replayed. Less than the log has if an interrupt came in between."""
        self.unfinished: Completion[int] | None = None
        """The last append, while it is not known to count as written."""
        self._life = 0  # each ends with `forget`
        self._newer: set[bytes] = set()  # the keys of records of an unknown kind or version

    # -- loading

    def forget(self) -> None:
        """The log is replayed next. Answers that wait for an append still wait for it."""
        self.ready = False
        self._life += 1
        self.unfinished = None
        self._newer = set()

    def read(self, key: bytes, value: bytes | None, *, known: bool) -> None:
        """A record of the log was read. `known`: it is of a kind and version that is known here."""
        self._newer.discard(key)
        if not known and value is not None:
            self._newer.add(key)

    def await_written(self, written: Completion[int]) -> None:
        """Give no answer before this is done: it depends on what was replayed. If it fails, the log has to be replayed again."""
        if not written.done():
            self.unfinished = written
            written.on_done(partial(self._on_written, self._life))

    def _on_written(self, life: int, written: Completion[int]) -> None:
        # It runs on the thread that finished the append, so without the lock.
        if life != self._life:  # the log was, or will be, replayed since
            return
        if written.error() is not None:
            self.ready = False
        elif self.unfinished is written:
            self.unfinished = None

    def loaded(self, *, writes: bool = True) -> None:
        """Answer requests. Raises FormatError if the log has records that are not known here, and it `writes`: that would
        contradict them.
        """
        if writes:
            for key in self._newer:
                raise newer(key)
        self.ready = True

    # -- writing

    def write(
        self, append: Callable[[], Completion[int]], replay: Callable[[], object], count: int, result: Callable[[], T]
    ) -> Completion[T]:
        """Append `count` records, replay, answer. `result` is called after the replay, and its value given when the append is done.

        If the append fails at once, nothing was replayed. If it fails later, the state is ahead of the log: the shard stops
        answering, and its log has to be replayed. Without records the answer still waits for the append that is unfinished,
        since it may depend on it.
        """
        if count:
            try:
                appended = append()
            except StreamlogError as error:
                return Completion.failed(error)
            if appended.done() and (failure := appended.error()) is not None:
                return Completion.failed(failure)
            replay()
            self.written += count
            self.unfinished = None
            self.await_written(appended)
        return self.after(result())

    def after(self, value: T) -> Completion[T]:
        """Done with `value` once all that was replayed counts as written."""
        unfinished = self.unfinished
        return Completion.of(value) if unfinished is None else After(unfinished, value)

    def refused(self, refusal: StreamlogError) -> Completion[Any]:
        """Fails with `refusal`, which may depend on what was replayed, once all of that counts as written."""
        unfinished = self.unfinished
        return Completion.failed(refusal) if unfinished is None else After(unfinished, None, refusal)


class Delivery(Generic[T]):
    """The end of an answer that was parked, with `value` once `written` is done. Calling it twice does no harm."""

    __slots__ = ("_answer", "_error", "_value", "_written", "is_given")

    def __init__(
        self, answer: Completion[T], value: Callable[[], T], error: BaseException | None, written: Completion[Any]
    ) -> None:
        self._answer = answer
        self._value = value
        self._error = error
        self._written = written
        self.is_given = False

    def __call__(self) -> None:
        written = self._written
        if self._error is not None:
            self._answer.fail(self._error)
        else:
            written.on_done(self._on_written)
            if not written.done() and written.work is not None:
                written.work.soon()  # no thread blocks on it
        self.is_given = True

    def _on_written(self, written: Completion[Any]) -> None:
        error = written.error()
        if error is None:
            self._answer.complete(self._value())
        else:
            self._answer.fail(error)


class After(Completion[T]):
    """An answer that is done when an append is, or when it is abandoned before.

    It asks the append each time, so an interrupt cannot separate the two. Both ends take the same step, `_answer`, of which
    the first counts.
    """

    __slots__ = ("_appended", "_refusal", "_value", "work")

    def __init__(self, appended: Completion[int], value: T, refusal: StreamlogError | None = None) -> None:
        """With a `refusal` it fails with that in place of the value."""
        super().__init__()
        self._appended = appended
        self.work = appended.work
        self._value = value
        self._refusal = refusal
        appended.on_done(self._on_appended)

    def _on_appended(self, appended: Completion[int]) -> None:
        error = appended.error()
        self._answer((self._value, self._refusal) if error is None else (None, error))

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
