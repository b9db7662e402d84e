"""`log.replay`: the records of a topic sent to another one, as fast after each other as their timestamps say, or faster.

The records of all partitions come in the order of their timestamps (`time_order`), and are sent by the thread that called.
The first is sent at once; one that is `t` seconds later in event time is sent `t / speed` seconds after that, on the clock
of the log, or at once if that is past. What is due at the same time goes in one batch; before a wait everything is written.

Event time: each record keeps its timestamp, which is when the event was, as Kafka's CreateTime is. A program that reads the
target by time sees what it would have seen of the source; when a record was replayed is not recorded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import inf
from typing import Any, NamedTuple, Protocol

from ..config import LARGEST_RECORD, choice, typed
from ..errors import ClosedError, ConfigError, DeliveryError
from ..runtime.threads import RawGate, get_ident, longest_sleep, real_monotonic
from ..runtime.values import refuse_to_copy
from ..types import Clock, Record
from .arguments import LONGEST_S, partition_number
from .bounded_read import BoundedRead
from .extras import notebook
from .handle import Parent, closed
from .producer.producer import Producer
from .topic import Topic, TopicLike
from .worker_time import ClockFollower, moved_clock

_FLUSH = 1_000  # records, after which they are written though more are due
_LINGER_MS = 100  # longer than it takes to gather so many: they are flushed before a wait
_SHOWN_EVERY_S = 0.25
_FASTEST = 1e300
_NOISE_S = 1e-6  # by which a sum of floats may miss a time


class Replayed(NamedTuple):
    """What `log.replay` has done.

    records: int
        How many records it has sent.
    next_offsets: mapping of int to int
        By partition of the source, the offset at which to go on: `log.replay(…, start=done.next_offsets)`.

    >>> import streamlog
    >>> with streamlog.open() as log:
    ...     _ = log.create_topic("orders").send_many(["9.50", "20.00"], timestamps_ms=[1_000, 1_500])
    ...     log.replay("orders", speed=3600, into="live")
    Replayed(records=2, next_offsets={0: 2})
    """

    records: int
    next_offsets: Mapping[int, int]


class Progress(Protocol):
    """Where progress is shown: a line that replaces the one before. Its methods raise nothing but an interrupt."""

    def show(self, text: str) -> None: ...
    def close(self) -> None: ...


def replay(log: Parent, topic: TopicLike, speed: Any, into: TopicLike, start: Any, end: Any, progress: Any) -> Replayed:
    """See `StreamLog.replay`."""
    choice("progress", progress, (True, False))
    rate = _speed(speed)
    log._use().require_writable("A replay")
    source: Topic[Any, Any] = Topic(log, log._name_of(topic)[0])  # without serdes: the bytes are sent as they are
    read = _read_of(source, start, end)
    sink = _sink(log, into, source)
    return Replay(log, read, sink, rate, notebook().new_progress() if progress else None).run()


def _speed(speed: Any) -> float:
    """Raises ConfigError unless it is a positive number."""
    if isinstance(speed, bool) or not isinstance(speed, (int, float)) or not 0 < speed < _FASTEST:
        if speed == inf:
            return inf
        raise ConfigError(
            f"speed={typed(speed)} is not a positive number: 1 is as fast as it was, 3600 an hour in each second, "
            f"float('inf') without a wait.",
            name="speed",
        )
    return float(speed)


def _read_of(source: Topic[Any, Any], start: Any, end: Any) -> BoundedRead:
    if not isinstance(start, Mapping):
        return source._bounded(start=start, end=end, order="time")
    view = source._view()
    at = {partition_number(number, view): offset for number, offset in start.items()}
    reads = [source._bounded(n, at.get(n, "earliest"), end, order="time") for n in range(view.partitions)]
    return reads[0]._replace(ranges=tuple(read.ranges[0] for read in reads))


def _sink(log: Parent, into: TopicLike, source: Topic[Any, Any]) -> Topic[Any, Any]:
    """The topic to send to, as one without serdes; created like the source if there is none of the name. Raises ConfigError."""
    name = log._name_of(into)[0]
    if name == source.name:
        raise ConfigError(
            f"into={name!r} is the topic that is replayed: it would hold every record twice. Give another one.",
            name="into",
        )
    if isinstance(into, str) and name not in log:
        largest = source.config["max_message_bytes"]
        log.create_topic(name, partitions=source.partitions, exist_ok=True, max_message_bytes=largest)
    return Topic(log, name)


class Replay:
    """One call of `log.replay`. Closing the log ends it: its `close` may be called by any thread, the rest by the caller's."""

    __reduce_ex__ = refuse_to_copy

    def __init__(
        self, log: Parent, read: BoundedRead, sink: Topic[Any, Any], speed: float, progress: Progress | None
    ) -> None:
        self._log = log
        self._read = read
        self._sink = sink
        self._speed = speed
        self._progress = progress
        self._time = ReplayTime(log._use().clock)
        self._keeps_partition = sink.partitions == len(read.ranges)
        self._next = {each.name.partition: each.start for each in read.ranges}
        self._records = 0
        self._written = dict(self._next), 0  # what was known to be in the log at the last flush
        self._first_ms = 0
        self._begun_s = 0.0
        self._shown_s = 0.0

    def run(self) -> Replayed:
        """Send the records. Raises ClosedError if the log is closed meanwhile, and with any error a note of where to go on."""
        self._log._adopt(self)
        try:
            self._time.begin()
            with Producer(
                self._log, linger_ms=_LINGER_MS, max_request_size=LARGEST_RECORD, buffer_memory=LARGEST_RECORD
            ) as producer:
                self._send_all(producer)
            for each in self._read.ranges:  # past markers of transactions
                self._next[each.name.partition] = max(each.start, each.end)
            return Replayed(self._records, self._next)
        except (DeliveryError, ClosedError) as error:
            self._next, self._records = self._written  # what came after that may be in the log, or not
            error.add_note(self._note("some of those that follow may have been sent as well"))
            raise
        except BaseException as error:  # Ctrl-C, say; the producer was closed, so it has written all that was sent
            error.add_note(self._note("the next one may have been sent as well"))
            raise
        finally:
            self._time.end()
            self._log._forget(self)
            if self._progress is not None:
                self._progress.close()

    def _send_all(self, producer: Producer) -> None:
        send, sink, keeps = producer.send, self._sink, self._keeps_partition
        monotonic = self._log._use().clock.monotonic
        unwritten = 0
        self._begun_s = monotonic()
        for record in self._read.records():
            if not self._records:
                self._first_ms = record.timestamp
            due_s = self._begun_s + min((record.timestamp - self._first_ms) / 1000 / self._speed, LONGEST_S)
            waits = due_s - monotonic() > _NOISE_S
            if waits or unwritten >= _FLUSH:
                self._flush(producer, record)
                unwritten = 0
                if waits:
                    self._time.wait_until(due_s)
            if self._time.is_stopped:
                raise closed("log", self._log.path)
            send(
                sink,
                record.value,
                record.key,
                headers=record.headers or None,
                partition=record.partition if keeps else None,
                timestamp_ms=record.timestamp if record.timestamp >= 0 else None,  # -1: it has none
            )
            self._next[record.partition] = record.offset + 1
            self._records += 1
            unwritten += 1
        producer.flush()
        self._show(None)

    def _flush(self, producer: Producer, record: Record[Any, Any]) -> None:
        producer.flush()
        self._written = dict(self._next), self._records
        if self._progress is not None and real_monotonic() - self._shown_s >= _SHOWN_EVERY_S:
            self._show(record)

    def _show(self, following: Record[Any, Any] | None) -> None:
        """Show how far it is. `following`: the record that is sent next, None at the end."""
        if self._progress is None:
            return
        self._shown_s = real_monotonic()
        source = self._read.ranges[0].name.topic
        text = f"replay of {source} into {self._sink.name}: {self._records:,} record{'' if self._records == 1 else 's'}"
        if following is None:
            self._progress.show(f"{text}, done")
            return
        sizes = [(each.start, max(each.start, each.end), self._next[each.name.partition]) for each in self._read.ranges]
        share = sum(at - start for start, _, at in sizes) / max(1, sum(stop - start for start, stop, _ in sizes))
        self._progress.show(f"{text}, {share:.0%}, at {_moment(following)}")

    def _note(self, besides: str) -> str:
        return (
            f"The replay into {self._sink.name!r} has sent {self._records:,} {'record' if self._records == 1 else 'records'}; {besides}. "
            f"To go on: start={self._next}"
        )

    # -- for the log, which closes its children ------------------------------------------------------

    def close(self) -> None:
        self._time.stop()

    def _close(self, limit_s: float) -> None:
        self._time.stop()

    def _abandon(self) -> None:
        self._time.stop()


def _moment(record: Record[Any, Any]) -> str:
    try:
        return record.datetime.replace(tzinfo=None).isoformat(" ", "seconds") + " UTC"
    except (ValueError, OverflowError, OSError):  # no year that a calendar of Python has
        return f"timestamp {record.timestamp}"


class ReplayTime:
    """The waits of a replay on the clock of its log. A clock that a test moves waits for it, as for workers; see `worker_time`.

    What is not marked otherwise is called by the thread of the replay.
    """

    __reduce_ex__ = refuse_to_copy

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._moved = moved_clock(clock)
        self._follower: ClockFollower | None = None
        self._gate = RawGate()
        self._note: Callable[[], None] = lambda: None
        self._due_s: float | None = None
        self._thread = get_ident()
        self._ended = False
        self.turn = 0
        self.stuck_at = -1
        self.is_stopped = False

    def begin(self) -> None:
        if self._moved is not None:
            self._follower = ClockFollower(self._moved, [self])

    def end(self) -> None:
        self._ended = True
        self._waits()
        if self._follower is not None:
            self._follower.detach()
            self._follower = None

    def wait_until(self, due_s: float) -> None:
        """Wait until the clock has come to `due_s` (monotonic seconds), or `stop` is called. Ctrl-C interrupts it."""
        while not self.is_stopped and (left := due_s - self._clock.monotonic()) > _NOISE_S:
            gate = self._gate = RawGate()  # before `is_stopped` is looked at: `stop` opens it afterwards
            if self.is_stopped:
                return
            if self._moved is None:
                gate.wait(min(left, longest_sleep.work_s))
                continue
            self._due_s = due_s
            try:
                self._waits()
                gate.wait(longest_sleep.work_s)
            finally:
                self._due_s = None
                self.turn += 1

    def _waits(self) -> None:
        self.turn += 1
        self._note()

    # -- on any thread -------------------------------------------------------------------------------

    def stop(self) -> None:
        self.is_stopped = True
        self._gate.open()

    def follow(self, clock: Clock, note: Callable[[], None]) -> None:
        self._note = note

    def is_settled(self) -> bool:
        """Whether it waits for the clock, or has ended; or a clock has given it up."""
        return (
            self._ended
            or self.stuck_at == self.turn
            or (self._due_s is not None and not self._gate.is_open())
            or self._thread == get_ident()
        )

    def deadline_s(self) -> float | None:
        return None if self._gate.is_open() else self._due_s

    def go_on(self) -> None:
        self._gate.open()
