"""One connection of a client: bytes to frames, and one request at a time, as in Kafka.

Everything that a client can make grow has a bound, `Limits`: a frame, the bytes of all requests that are being read or answered
and of all answers that clients have not taken, the time that a frame may take to arrive. A buffer grows with what has arrived, not
by the length that a client claims. While a request is answered, or a client does not take its answers, nothing more is read than
what is in the buffers.

Answers have half of the memory (`Budget`), so that clients that take none cannot keep others from sending. A request whose answer may
be large waits until there is some of it left, and a Fetch brings no more than what is left, but for a first batch that is larger
(KIP-74). While something waits for memory, an answer has to be taken at `_LEAST_RATE`, or its connection is closed.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from struct import Struct
from typing import Any, NamedTuple

from ..runtime.api import Completion
from ..types import Buffer
from .api_keys import ApiKey

logger = logging.getLogger("streamlog.kafka")

_SIZE, _SIZE_AND_KEY = Struct(">i"), Struct(">ih")
_SIZE_BYTES = 4
_KEY_BYTES, _NO_KEY = 2, -1
_BUFFER_BYTES = 1 << 16
# A larger frame's buffer grows by so much at least, and by as much as there is: each time what has arrived is copied.
_STEP_BYTES = (1 << 20) - _BUFFER_BYTES
# Requests that a client has sent before the last one was answered: when there are more nothing is read.
_WAITING, _WAITING_BYTES = 100, 1 << 20
_WAITING_SHARE = 4
"""Where more than one of so many parts of the memory waits so, of all connections, nothing is read of one that has any."""
_PART_BYTES = 1 << 21
"""Of a large answer so much at a time is given to the transport, which copies what it cannot send at once."""
_LEAST_RATE = 1 << 20
"""Bytes of an answer that a client has to take in a second while others wait for memory."""
_SHARES, _LEAST_SHARE = 128, 1 << 16
"""While something waits for memory an answer has one of so many parts of that of answers, and at least so many bytes."""
_ANSWERS = 2
"""Answers have one of so many parts of the memory."""


class Limits(NamedTuple):
    """Bytes of a Produce request and of others, bytes of all requests and answers in memory, connections, and seconds: for a frame
    to arrive, and between two of them (Kafka's connections.max.idle.ms).
    """

    produce_bytes: int = 100 << 20
    request_bytes: int = 16 << 20
    in_flight_bytes: int = 256 << 20
    connections: int = 10_000
    frame_s: float = 30.0
    idle_s: float = 600.0

    def bounded(self, bounds: Mapping[str, int]) -> Limits:
        """With other bounds, by their names. A request is never larger than all that may be in memory: it would wait for ever."""
        found = self._replace(**bounds)
        largest = min(found.produce_bytes, found.in_flight_bytes)
        return found._replace(produce_bytes=largest, request_bytes=min(found.request_bytes, largest))


class Budget:
    """The bytes of all large requests in memory, and of all answers that clients have not taken. One thread uses it.

    What finds it used up waits here, each under a key of its own, first come, first served: requests that grow, and those that
    are to be answered.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._used = 0
        self._answers = 0
        """Of these, the bytes of answers."""
        self.waiting = 0
        """Bytes of requests that clients have sent before the last one was answered. Small ones are counted here alone."""
        self._growing: dict[object, tuple[int, Callable[[], object]]] = {}
        self._unanswered: dict[object, Callable[[], object]] = {}
        self._is_resuming = False

    @property
    def is_short(self) -> bool:
        """Whether something waits for memory."""
        return bool(self._growing or self._unanswered)

    @property
    def may_wait(self) -> bool:
        """Whether clients may send requests before the last one was answered."""
        return self.waiting <= self._limit // _WAITING_SHARE

    def add(self, size: int) -> None:
        """Count bytes that are there."""
        self._used += size

    def take(self, key: object, size: int, resume: Callable[[], object]) -> bool:
        """Count bytes of a request that are to be there. If they are too many now, `resume` is called once they are not."""
        if self._used + size > self._limit:
            self._growing[key] = size, resume
            return False
        self._used += size
        return True

    def give_back(self, size: int) -> None:
        if size:
            self._used -= size
            self._resume()

    def left_for_answers(self) -> int:
        """How many bytes the next answer may have; none is to be made if that is not above 0.

        While others wait it is a small share: else a few clients that take nothing would have all of it again and again.
        """
        left = min(self._limit // _ANSWERS - self._answers, self._limit - self._used)
        return min(left, max(_LEAST_SHARE, self._limit // _ANSWERS // _SHARES)) if self.is_short else left

    def wait_for_answers(self, key: object, resume: Callable[[], object]) -> None:
        """Have `resume` called once there is something left for answers."""
        self._unanswered[key] = resume

    def add_answer(self, size: int) -> None:
        self._answers += size
        self._used += size

    def give_back_answer(self, size: int) -> None:
        self._answers -= size
        self.give_back(size)

    def forget(self, key: object) -> None:
        """Wait no more under this key."""
        if key in self._growing or key in self._unanswered:
            self._growing.pop(key, None)
            self._unanswered.pop(key, None)
            self._resume()

    def _resume(self) -> None:
        if self._is_resuming:  # what is resumed gives back itself
            return
        self._is_resuming = True
        try:
            while self._growing:
                key, (size, grow) = next(iter(self._growing.items()))
                if self._used + size > self._limit:
                    break
                del self._growing[key]
                grow()
            while self._unanswered and self.left_for_answers() > 0:
                key, answer = next(iter(self._unanswered.items()))
                del self._unanswered[key]
                answer()
        finally:
            self._is_resuming = False


def _other_protocol(size: int) -> str:
    """What a client that speaks another protocol was taken for: the first four bytes of that, as a size."""
    begun = (size & 0xFFFFFFFF).to_bytes(4, "big")
    if begun[:2] == b"\x16\x03":
        return ". It looks like TLS, which this listener has not: set the client's security.protocol to PLAINTEXT"
    if begun in (b"GET ", b"POST", b"PUT ", b"HEAD", b"OPTI"):
        return ". It looks like HTTP, and this is Kafka's protocol"
    return ""


class Connection(asyncio.BufferedProtocol):
    """`answer(connection, frame)` begins to answer; it ends with `reply`, on the thread of the loop, also at once.

    `opened` says whether there is room for one more. It closes itself when the client sends what is no frame. With TLS,
    `secure(connection, transport)` begins that, and calls `secured`; to begin may take as long as a frame.
    """

    def __init__(
        self,
        limits: Limits,
        budget: Budget,
        now_s: Callable[[], float],
        answer: Callable[[Connection, Buffer], object],
        opened: Callable[[Connection], bool],
        closed: Callable[[Connection], object],
        secure: Callable[[Connection, Any], object] | None = None,
    ) -> None:
        self._limits = limits
        self._budget = budget
        self._now_s = now_s
        self._answer = answer
        self._opened = opened
        self._closed = closed
        self._secure = secure
        self._is_secured = secure is None
        self._is_lost = False
        self.socket: Any = None
        self._transport: Any = None
        self._small = bytearray(_BUFFER_BYTES)
        self._filled = 0
        self._large: bytearray | None = None  # the frame that is being read, if it does not fit in the small buffer
        self._large_size = self._large_filled = 0
        self._waiting: deque[Buffer] = deque()  # whole frames
        self._waiting_bytes = 0
        self._counted = 0  # bytes of large frames: the one that is read, those that wait, and the one that is answered
        self._answered = 0  # of these, the one that is answered
        self._outgoing: deque[Buffer] = deque()  # of an answer, what the transport has not been given yet
        self._outgoing_bytes = 0
        """Of answers that the client has not taken, counted whole: parts may share their memory."""
        self._untaken_s: float | None = None  # since when there is such an answer
        self._reserved = 0  # bytes of the answer that is being made
        self._is_busy = self._is_pumping = self._is_slow = self._is_paused = self._has_no_budget = False
        self._began_s: float | None = None
        self._last_s = now_s()
        self._unsent = 0, 0
        """Bytes of answers in the transport, and buffers that are still to come, when that was looked at last."""
        self.host = ""
        self.parked: Any = None
        """What the request that is answered waits for, if it can be given up: a DelayedFetch."""
        self.answerable: Completion[None] | None = None
        """What it has waited for last: see `when_answerable`."""
        self.is_closed = False

    def is_late(self, now_s: float) -> bool:
        """Whether the rest of a frame has not come in time, or the client has sent and taken nothing for long."""
        unsent = 0 if self._transport is None else self._transport.get_write_buffer_size(), len(self._outgoing)
        if unsent != self._unsent:  # the client takes its answer
            self._unsent, self._last_s = unsent, now_s
        began_s = self._began_s
        waits_for_client = not self._is_paused or self._has_no_budget  # those that wait for memory hold some
        is_half = began_s is not None and waits_for_client and now_s - began_s > self._limits.frame_s
        # A client that reads one byte now and then would keep the memory that others wait for.
        allowed_s = self._limits.frame_s + self._outgoing_bytes / _LEAST_RATE
        untaken_s, holds_memory = self._untaken_s, bool(self._outgoing_bytes or self._counted)
        is_slow = self._budget.is_short and holds_memory and untaken_s is not None and now_s - untaken_s > allowed_s
        # Requests that wait because the client takes no answer are no reason to keep it, and its answer, for ever.
        is_waiting = self._is_busy or (bool(self._waiting) and not self._is_slow)
        is_idle = not is_waiting and now_s - self._last_s > self._limits.idle_s
        return is_half or is_slow or is_idle

    def close(self) -> None:
        """Close it without what has not been sent."""
        self.is_closed = True
        if self._transport is not None:
            self._transport.abort()

    def reply(self, buffers: Sequence[Buffer] | None) -> None:
        """Answer the request that is under way, or end it without an answer; go on with the next one."""
        answered, self._answered = self._answered, 0
        reserved, self._reserved = self._reserved, 0
        self._is_busy = False
        self._last_s = self._now_s()
        if buffers is not None and not self.is_closed:
            self._send(buffers)  # it is counted before anything is given back
        if reserved:
            self._budget.give_back_answer(reserved)
        self._release(answered)
        if not self.is_closed:
            self._pump()

    # -- the memory of answers -------------------------------------------------------------------------

    def answer_bytes(self) -> int:
        """How many bytes the answer that is to be made may have. If that is not above 0, it has to wait: `when_answerable`."""
        return self._budget.left_for_answers()

    def when_answerable(self) -> Completion[None]:
        """Done, on the thread of the loop, when there is memory for an answer again; never, if the connection is lost before."""
        self.answerable = done = Completion[None]()
        self._budget.wait_for_answers(self, partial(done.complete, None))
        return done

    def reserve(self, size: int) -> None:
        """Count bytes of the answer that is to be made, whose size is not known yet, until `reply`."""
        self._reserved += size
        self._budget.add_answer(size)

    def _send(self, buffers: Sequence[Buffer]) -> None:
        size = sum(map(len, buffers))
        if size <= _PART_BYTES:
            self._write(buffers)
        else:
            self._outgoing.extend(buffers)
        if self._outgoing or self._is_slow:
            self._outgoing_bytes += size
            self._budget.add_answer(size)
            self._send_on()

    def _write(self, buffers: Sequence[Buffer]) -> None:
        # Not by writelines: that of Python 3.12.0 to 3.12.8, 3.13.0 and 3.13.1 never says that the client takes nothing
        # (CVE-2024-12254), so that what a client asks for and does not take would grow without a bound.
        self._transport.write(buffers[0] if len(buffers) == 1 else b"".join(buffers))

    def _send_on(self) -> None:
        """Give the transport more of the answer, as far as it takes it."""
        outgoing = self._outgoing
        while outgoing and not (self._is_slow or self.is_closed):
            part: list[Buffer] = []
            left = _PART_BYTES
            while outgoing and left:
                each = outgoing.popleft()
                if len(each) > left:
                    view = memoryview(each)
                    outgoing.appendleft(view[left:])
                    each = view[:left]
                part.append(each)
                left -= len(each)
            self._write(part)
        if not (outgoing or self._is_slow):
            self._end_answer()

    def _end_answer(self) -> None:
        size, self._outgoing_bytes = self._outgoing_bytes, 0
        if size:
            self._budget.give_back_answer(size)

    # -- what asyncio calls ----------------------------------------------------------------------------

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self.socket = transport.get_extra_info("socket")
        peer = transport.get_extra_info("peername")
        self.host = str(peer[0]) if isinstance(peer, tuple) else ""
        if not self._opened(self):
            self.close()
        elif self._secure is not None:
            transport.pause_reading()  # what comes first is not a request
            self._began_s = self._now_s()
            self._secure(self, transport)

    def secured(self, transport: Any) -> None:
        """TLS has begun: `transport` is what requests come by. Some may have come already."""
        self._transport = transport
        self._is_secured = True
        if self.is_closed:
            self.close()
            return
        if not self._filled and self._large is None:
            self._began_s = None
        self._pump()

    def connection_lost(self, error: Exception | None) -> None:
        self.is_closed = True
        if self._is_lost:
            return
        self._is_lost = True
        self._waiting.clear()
        self._count_waiting(-self._waiting_bytes)
        self._outgoing.clear()
        self._large = None
        self._outgoing_bytes += self._reserved
        self._reserved = 0
        self._end_answer()
        self._budget.forget(self)
        self._release(self._counted)
        self._closed(self)

    def pause_writing(self) -> None:
        self._is_slow = True
        if self._untaken_s is None:
            self._untaken_s = self._now_s()

    def resume_writing(self) -> None:
        self._is_slow = False
        self._send_on()
        if not self._is_slow:
            self._untaken_s = None
            self._pump()

    def get_buffer(self, sizehint: int) -> memoryview:
        if self._large is not None:
            return memoryview(self._large)[self._large_filled :]
        return memoryview(self._small)[self._filled :]

    def buffer_updated(self, size: int) -> None:
        if self.is_closed:
            return
        self._last_s = self._now_s()
        if self._large is None:
            self._filled += size
            self._take_frames()
        else:
            self._large_filled += size
            self._grow()
        self._pump()

    # -- frames ----------------------------------------------------------------------------------------

    def _take_frames(self) -> None:
        """Take the whole frames out of the small buffer, and keep the rest at its beginning."""
        buffer, at, end = self._small, 0, self._filled
        while end - at >= _SIZE_BYTES:
            (size,) = _SIZE.unpack_from(buffer, at)
            if end - at < _SIZE_AND_KEY.size and size >= _KEY_BYTES:
                break  # the limit is that of the API, whose key is still to come
            key = _SIZE_AND_KEY.unpack_from(buffer, at)[1] if size >= _KEY_BYTES else _NO_KEY
            if not self._is_allowed(size, key):
                return
            begin, stop = at + _SIZE_BYTES, at + _SIZE_BYTES + size
            if stop <= end:
                self._add(bytes(memoryview(buffer)[begin:stop]))
                at = stop
            elif size > _BUFFER_BYTES // 2:
                self._begin_large(size, memoryview(buffer)[begin:end])
                return
            else:
                break
        left = end - at
        if at and left:
            buffer[:left] = bytes(memoryview(buffer)[at:end])
        self._filled = left
        if not left:
            self._began_s = None
        elif at or self._began_s is None:
            self._began_s = self._now_s()

    def _is_allowed(self, size: int, key: int) -> bool:
        limit = self._limits.produce_bytes if key == ApiKey.PRODUCE else self._limits.request_bytes
        if _KEY_BYTES <= size <= limit:
            return True
        logger.warning(
            "a connection from %s is closed: it began a request of %d bytes, and at most %d are taken%s",
            self.host,
            size,
            limit,
            _other_protocol(size),
        )
        self.close()
        return False

    def _begin_large(self, size: int, begun: memoryview) -> None:
        room = min(size, _BUFFER_BYTES)  # never more than the frame has: the next one's bytes do not belong there
        self._large = bytearray(room)
        self._large[: len(begun)] = begun
        self._large_size, self._large_filled = size, len(begun)
        self._counted += room
        self._budget.add(room)
        self._filled = 0
        self._began_s = self._now_s()
        self._grow()

    def _grow(self) -> None:
        """Take the large frame if it is whole; give it more room if it has none."""
        large, filled = self._large, self._large_filled
        if large is None or filled < min(len(large), self._large_size):
            return
        if filled == self._large_size:
            self._large = self._began_s = None
            self._add(large)
            return
        room = min(self._large_size, max(2 * len(large), len(large) + _STEP_BYTES))
        if not self._budget.take(self, room - len(large), self._on_budget):
            self._has_no_budget = True
            return
        self._counted += room - len(large)
        self._large = bytearray(room)  # a view of the old one is still in use
        self._large[:filled] = large

    def _on_budget(self) -> None:
        self._has_no_budget = False
        if not self.is_closed:
            self._grow()
            self._pump()

    def _add(self, frame: Buffer) -> None:
        self._waiting.append(frame)
        self._count_waiting(len(frame))

    def _count_waiting(self, size: int) -> None:
        self._waiting_bytes += size
        self._budget.waiting += size

    def _pump(self) -> None:
        """Answer one request after another, and read on unless enough of them wait."""
        if self._is_pumping or not self._is_secured:
            return
        self._is_pumping = True
        try:
            while self._waiting and not (self._is_busy or self._is_slow or self.is_closed):
                frame = self._waiting.popleft()
                self._count_waiting(-len(frame))
                self._is_busy = True
                self._answered = len(frame) if isinstance(frame, bytearray) else 0
                self._answer(self, frame)
        finally:
            self._is_pumping = False
        most = _WAITING_BYTES if self._budget.may_wait else 0
        self._pause(self._waiting_bytes > most or len(self._waiting) > _WAITING or self._has_no_budget)

    def _pause(self, is_paused: bool) -> None:
        if is_paused == self._is_paused or self.is_closed:
            return
        self._is_paused = is_paused
        if is_paused:
            self._transport.pause_reading()
        else:
            if self._began_s is not None:  # while it was paused, the client was not waited for
                self._began_s = self._now_s()
            self._transport.resume_reading()

    def _release(self, size: int) -> None:
        size = min(size, self._counted)
        self._counted -= size
        self._budget.give_back(size)
