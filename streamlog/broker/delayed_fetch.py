"""A fetch of several partitions that waits until they have enough together: Kafka's DelayedFetch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple, Protocol, TypeAlias

from ..runtime.api import Completion, Lock
from ..runtime.values import refuse_to_copy
from ..types import TopicPartition
from .fetched import NOTHING, FetchResult
from .metadata import TopicIdPartition
from .real_timers import RealTimers
from .waiting import FetchSession

Answers: TypeAlias = list[Completion[FetchResult]]
"""What each partition answers, in the order of the requests; all are done."""


class Found(NamedTuple):
    """What a fetch that is done has: its answers, and the places of those that have grown meanwhile, which are still to be read."""

    answers: Answers
    grown: tuple[int, ...] = ()


class FetchRequest(NamedTuple):
    """What one partition is asked for; see `Records.fetch`."""

    partition: TopicIdPartition
    offset: int
    max_bytes: int
    current_leader_epoch: int | None = None
    last_fetched_epoch: int | None = None


class Reads(Protocol):
    """What it needs of the service that it is a call of."""

    def fetch(
        self,
        partition: TopicIdPartition,
        offset: int,
        max_bytes: int,
        isolation_level: str,
        after: FetchResult = NOTHING,
        *,
        current_leader_epoch: int | None = None,
        last_fetched_epoch: int | None = None,
        replica_id: int = -1,
    ) -> Completion[FetchResult]: ...
    def fetch_size(
        self, partition: TopicIdPartition, found: FetchResult, max_bytes: int, current_leader_epoch: int | None
    ) -> int | None: ...
    def before_wait(self, partition: TopicIdPartition, offset: int, found: FetchResult) -> FetchResult: ...
    def fetch_session(self, wake: Callable[[], object]) -> FetchSession: ...
    @property
    def real_timers(self) -> RealTimers: ...


class DelayedFetch(Completion[Found]):
    """Done once the partitions have `min_bytes` together, one of them failed or diverged, after `max_wait_ms`, or by `expire`.

    Its timer, an append and the caller's `expire` may race; the first answer holds, and ends the rest. An append looks only at
    the partitions that have grown, on its own thread and under no lock, and counts what they have. What was counted is read when
    the caller takes the answers: `read`. So one that waits holds no bytes, and a thousand that are done at once hold none before
    the caller comes to them. One that is answered at once has no timer. `max_bytes` bounds what is read for an answer, in the
    order of the requests.
    """

    __slots__ = ("_found", "_grown", "_isolation_level", "_looking", "_max_bytes", "_min_bytes", "_places", "_replica_id",
        "_requests", "_service", "_session", "_timers")  # fmt: skip

    __reduce_ex__ = refuse_to_copy

    def __init__(
        self,
        service: Reads,
        requests: Sequence[FetchRequest],
        isolation_level: str,
        min_bytes: int,
        max_wait_ms: int | None,
        replica_id: int,
        lock: Lock,
        max_bytes: int | None = None,
    ) -> None:
        super().__init__()
        self._service = service
        self._requests = requests
        self._isolation_level = isolation_level
        self._min_bytes = min_bytes
        self._max_bytes = max_bytes
        self._replica_id = replica_id
        # Held by the thread that looks. No thread waits for it: one that finds it held leaves its news in the session.
        self._looking = lock
        self._places: dict[TopicPartition, list[int]] = {}
        for place, request in enumerate(requests):
            self._places.setdefault(TopicPartition(*request.partition[:2]), []).append(place)
        self._session = session = service.fetch_session(self._look)
        self._timers: RealTimers | None = None
        self._grown: dict[int, int] = {}
        """By place, how many bytes there are now, at most, of those that have to be read for the answer."""
        self._found: Answers = []
        self._found.extend(self._read_in_order([(request, NOTHING) for request in requests], 0, max_bytes))
        if max_wait_ms is not None and max_wait_ms <= 0:
            self.expire()
        if self._answer_if_enough():
            return
        for place in range(len(requests)):
            self._release(place)
        if max_wait_ms is not None:
            self._timers = service.real_timers
            self._timers.at(self._timers.now_ms() + max_wait_ms, self._expire_at)
        session.begin_wait()
        session.ready.extend(self._places)
        self._look()

    def _ask(
        self, request: FetchRequest, after: FetchResult = NOTHING, max_bytes: int | None = None
    ) -> Completion[FetchResult]:
        return self._service.fetch(
            request.partition, request.offset, request.max_bytes if max_bytes is None else max_bytes,
            self._isolation_level, after,
            current_leader_epoch=request.current_leader_epoch, last_fetched_epoch=request.last_fetched_epoch,
            replica_id=self._replica_id,
        )  # fmt: skip

    def _read_in_order(
        self, wanted: Iterable[tuple[FetchRequest, FetchResult]], size: int, max_bytes: int | None
    ) -> Iterator[Completion[FetchResult]]:
        """What each brings, until all of it, with the `size` bytes that are there, is `max_bytes`: of the others nothing is read.

        The first batch of all comes whole, however large.
        """
        left = None if max_bytes is None else max(0, max_bytes - size)
        for request, after in wanted:
            if left is None:
                yield self._ask(request, after)
                continue
            is_first = not size
            answer = self._ask(request, after, min(request.max_bytes, max(left, 1 if is_first else 0)))
            read = 0 if answer.error() is not None else answer.result().size
            if read > left and not is_first:
                answer, read, left = self._ask(request, NOTHING, 0), 0, 0
            size, left = size + read, max(0, left - read)
            yield answer

    def _look(self) -> None:
        """Fetch from the partitions that have grown, and answer if that is enough."""
        taken = [True]
        while taken[-1] and self._session.ready and not self.done():
            taken.clear()
            try:
                # One step in C: an interrupt finds the lock taken and noted, or neither.
                taken.extend(map(self._looking.acquire, (False,)))
                if taken[0]:
                    self._look_at_ready()
            finally:
                if any(taken):
                    self._looking.release()
        if self.done():
            self._end()

    def _look_at_ready(self) -> None:
        """REQUIRES: `_looking`."""
        session = self._session
        while session.ready and not self.done():
            name = session.ready[0]
            session.watched.pop(name, None)
            self._look_at(name)
            session.ready.popleft()  # last: an interrupt before it has this done again

    def _look_at(self, name: TopicPartition) -> None:
        self._session.watch(name)  # before the look: no append falls between the two
        for place in self._places.get(name, ()):
            size = self._size_now(place)
            if size is None:
                self._read(place)
                self._release(place)
            elif size:
                self._grown[place] = size
        self._answer_if_enough()

    def _release(self, place: int) -> None:
        """Forget the bytes of a place: they are read again for the answer. Of one without any, note where they will begin."""
        found = self._found[place]
        if found.error() is not None or found.result().diverging_epoch is not None:
            return
        if found.result().size:
            self._grown[place] = found.result().size  # first: an interrupt in between has the place read once more
            self._found[place] = found.result().again()
        else:
            request = self._requests[place]
            self._found[place] = self._service.before_wait(request.partition, request.offset, found.result())

    def _size_now(self, place: int) -> int | None:
        """How many bytes the fetch of this place would bring now, at most; None if it has to be read to know."""
        request, found = self._requests[place], self._found[place]
        if found.error() is not None or found.result().diverging_epoch is not None:
            return None
        return self._service.fetch_size(
            request.partition, found.result(), request.max_bytes, request.current_leader_epoch
        )

    def _read(self, place: int) -> None:
        self._found[place] = self._ask(self._requests[place])
        self._grown.pop(place, None)

    def _answer_if_enough(self) -> bool:
        if self.done() or not self._has_enough():
            return self.done()
        self._finish()
        return True

    def _finish(self) -> None:
        self.complete(Found(list(self._found), tuple(sorted(self._grown))))

    def read(self, max_bytes: int | None = None) -> Answers:
        """The answers; those of partitions that have grown are read now, once. `max_bytes`: instead of that which it was made with.

        REQUIRES: it is done.
        """
        found, grown = self.result()
        answers = list(found)
        held = sum(
            each.result().size for place, each in enumerate(answers) if place not in grown and each.error() is None
        )
        wanted = [(self._requests[place], answers[place].result().again()) for place in grown]
        most = self._max_bytes if max_bytes is None else max_bytes
        for place, answer in zip(grown, self._read_in_order(wanted, held, most), strict=True):
            answers[place] = answer
        return answers

    def _has_enough(self) -> bool:
        size = 0
        for place, found in enumerate(self._found):
            if found.error() is not None or found.result().diverging_epoch is not None:
                return True
            size += self._grown.get(place, found.result().size)
        return size >= self._min_bytes

    def expire(self) -> None:
        """Answer with what there is. Does nothing if it is done."""
        if not self.done():
            self._finish()
        self._end()

    def _expire_at(self, now_ms: int) -> None:
        self.expire()

    def _end(self) -> None:
        """Wait for nothing any more. It may be called twice, and by two threads at once."""
        if self._timers is not None:
            self._timers.cancel(self._expire_at)
        self._session.close()
