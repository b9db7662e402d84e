"""A request of several steps that each wait for a Completion: for records to be replicated, say, and then for others.

The steps are a generator. It yields what it waits for, is resumed with the result, or the error, and returns the answer. As far
as everything is done already it runs on the thread that made the request. After that it goes on where the wait ends: on a
thread that blocks on the answer, as its `work`, or in the background.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any, TypeVar

from ..errors import ReentrantCallError, RequestTimedOutError, StreamlogError
from ..runtime.api import Completion, Gate, Task

T = TypeVar("T")


class Steps(Completion[T]):
    """The answer of such a generator. `later` runs a task soon on a thread that may block. It begins at once, or with `drive`.

    One thread at a time runs the generator: the one that has taken it out of `_idle`. An interrupt ends the request, and is raised on
    the thread that it reached; the answer is RequestTimedOutError for all others. REQUIRES: the generator leaves nothing half
    done that is not found and done again.

    >>> first, second = Completion(), Completion()
    >>> def steps():
    ...     return (yield first) + (yield second)
    >>> answer = Steps(steps(), lambda task: task(0))
    >>> second.complete(2)
    >>> answer.done()
    False
    >>> first.complete(1)
    >>> answer.result()
    3
    """

    __slots__ = ("_awaited", "_gates", "_idle", "_later", "_steps", "work")

    def __init__(
        self, steps: Generator[Completion[Any], Any, T], later: Callable[[Task], None], *, begin: bool = True
    ) -> None:
        super().__init__()
        self.work = self
        self._later = later
        self._gates: list[Gate] = []
        self._awaited: Completion[Any] | None = None
        self._idle = [steps]
        self._steps: Any = steps
        if begin:
            self.drive()

    def _advance(self, steps: Generator[Completion[Any], Any, T]) -> None:
        try:
            awaited = self._awaited
            while awaited is None or awaited.done():
                if awaited is None:
                    awaited = next(steps)
                elif (error := awaited.error()) is not None:
                    awaited = steps.throw(error)
                else:
                    awaited = steps.send(awaited.result())
            self._awaited = awaited
            self._idle.append(steps)
            awaited.on_done(self._wake)
        except StopIteration as stop:
            self.complete(stop.value)
        except ReentrantCallError:
            self.fail(_interrupted())
            raise
        except StreamlogError as error:
            self.fail(error)
        except BaseException:
            self.fail(_interrupted())
            raise

    @property
    def is_lost(self) -> bool:
        """Whether no thread goes on with it, because one was interrupted twice. It may be so for a moment while one takes it."""
        return not self._idle and not self._steps.gi_running and not self.done()

    def _wake(self, _: object) -> None:
        """What it waits for is done: have the thread go on that blocks on it, or another one."""
        if not self._gates:
            self._later(self._go_on)
        while self._gates:
            self._gates.pop().open()

    def _go_on(self, now_ms: int) -> None:
        self.drive()

    def drive(self) -> bool:
        awaited = self._awaited
        if awaited is not None and not awaited.done():
            return awaited.work is not None and awaited.work.drive()
        try:
            try:
                steps = self._idle.pop()
            except IndexError:  # another thread runs it, or it is done
                return False
            self._advance(steps)
        except BaseException:  # also one that came between the two: no thread would go on with it any more
            self.fail(_interrupted())
            raise
        return True

    def on_turn(self, gate: Gate) -> None:
        self._gates.append(gate)
        awaited = self._awaited
        if awaited is None or awaited.done():
            gate.open()
        elif awaited.work is not None:
            awaited.work.on_turn(gate)

    def soon(self) -> None:
        """The thread that blocked on it has given up: it goes on in the background."""
        self._gates.clear()  # one that still waits looks again before long
        awaited = self._awaited
        if awaited is None or awaited.done():
            self._later(self._go_on)
        elif awaited.work is not None:
            awaited.work.soon()


def _interrupted() -> RequestTimedOutError:
    return RequestTimedOutError(
        "The thread that completed this request was interrupted, so it may or may not be done. Make the same request again."
    )
