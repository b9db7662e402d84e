"""The deadlines and the memory of connections, with a transport and a time of the test's."""

from __future__ import annotations

from typing import Any

import pytest

from streamlog.kafka.connection import Budget, Connection, Limits
from streamlog.types import Buffer

REQUEST = b"\0\0\0\x04\0\x12\0\0"
LIMITS = Limits(idle_s=600.0)


class Transport:
    """Keeps what is written until the test takes it."""

    def __init__(self) -> None:
        self.unsent = 0

    def get_extra_info(self, name: str) -> None:
        return None

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def write(self, data: Buffer) -> None:
        self.unsent += len(data)

    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...
    def abort(self) -> None: ...


class Client:
    """One connection of a listener that answers each request with 1,000 bytes at once, unless it `keeps` them."""

    def __init__(self, *, keeps: bool = False) -> None:
        self.now_s = 0.0
        self.transport: Any = Transport()

        def answer(connection: Connection, frame: Buffer) -> None:
            if not keeps:
                connection.reply([bytes(1000)])
                connection.pause_writing()

        self.connection = Connection(
            LIMITS, Budget(1 << 20), lambda: self.now_s, answer, lambda connection: True, lambda connection: None
        )
        self.connection.connection_made(self.transport)

    def send(self, data: bytes) -> None:
        self.connection.get_buffer(-1)[: len(data)] = data
        self.connection.buffer_updated(len(data))

    def is_late(self, after_s: float) -> bool:
        self.now_s += after_s
        return self.connection.is_late(self.now_s)


@pytest.mark.parametrize("requests", [1, 2])
def test_a_client_that_takes_no_answer_is_given_up_whatever_else_it_has_sent(requests: int) -> None:
    client = Client()
    client.send(REQUEST * requests)
    assert not client.is_late(1)
    assert not client.is_late(600)
    assert client.is_late(1)


def test_a_client_that_takes_its_answer_slowly_is_waited_for() -> None:
    client = Client()
    client.send(REQUEST * 2)
    for _ in range(9):
        client.transport.unsent -= 100
        assert not client.is_late(500)
    assert client.is_late(601)


def test_a_client_waits_for_its_answer_as_long_as_it_likes() -> None:
    client = Client(keeps=True)
    client.send(REQUEST * 2)
    assert not client.is_late(10_000)


# -- the memory of answers -------------------------------------------------------------------------------

HIGH, LOW = 64 << 10, 16 << 10
MIB = 1 << 20
"""How much lies in a transport of asyncio before it has a connection pause, and until it goes on."""


class Pausing(Transport):
    """Keeps what is written until the client takes it, and says when that is too much, as asyncio does."""

    def __init__(self) -> None:
        super().__init__()
        self.connection: Any = None
        self.written: list[bytes] = []
        self.most = 0
        self.is_paused = False

    def write(self, data: Buffer) -> None:
        self.written.append(bytes(data))
        self.unsent += len(self.written[-1])
        self.most = max(self.most, self.unsent)
        if self.unsent > HIGH and not self.is_paused:
            self.is_paused = True
            self.connection.pause_writing()

    def take(self, size: int) -> None:
        self.unsent -= min(size, self.unsent)
        if self.unsent <= LOW and self.is_paused:
            self.is_paused = False
            self.connection.resume_writing()


class Reader:
    """A client of a listener; the test answers its requests by `connection.reply`."""

    def __init__(self, budget: Budget) -> None:
        self.transport = Pausing()
        self.now_s = 0.0
        self.asked: list[bytes] = []
        self.connection = self.transport.connection = Connection(
            LIMITS, budget, lambda: self.now_s, lambda connection, frame: self.asked.append(bytes(frame)),
            lambda connection: True, lambda connection: None,
        )  # fmt: skip
        self.connection.connection_made(self.transport)
        self.ask()

    def ask(self) -> None:
        self.connection.get_buffer(-1)[: len(REQUEST)] = REQUEST
        self.connection.buffer_updated(len(REQUEST))

    def take_all(self) -> None:
        while self.transport.unsent:
            self.transport.take(10_000)


def test_a_large_answer_is_given_to_the_transport_in_parts_and_counted_until_it_was_taken() -> None:
    budget = Budget(64 * MIB)
    reader = Reader(budget)
    buffers = [bytes([number]) * size for number, size in enumerate((3, 5 * MIB, 100, 300_000, 7 * MIB, 1))]
    size = sum(map(len, buffers))
    reader.connection.reply(buffers)
    assert budget.left_for_answers() == 32 * MIB - size
    reader.ask()
    assert len(reader.asked) == 1, "the next request waits until the answer was taken"
    reader.transport.take(MIB)
    assert budget.left_for_answers() == 32 * MIB - size
    reader.take_all()
    assert b"".join(reader.transport.written) == b"".join(buffers)
    assert reader.transport.most <= HIGH + 2 * MIB
    assert budget.left_for_answers() == 32 * MIB
    assert len(reader.asked) == 2


def test_a_small_answer_that_the_transport_cannot_take_is_counted_too() -> None:
    budget = Budget(2 * MIB)
    reader = Reader(budget)
    reader.connection.reply([bytes(HIGH + 1)])
    assert budget.left_for_answers() == MIB - HIGH - 1
    reader.take_all()
    assert budget.left_for_answers() == MIB


def test_memory_of_answers_comes_back_with_the_connection_and_goes_to_those_who_wait_in_their_order() -> None:
    budget = Budget(4 * MIB)
    stuck, *waiting = (Reader(budget) for _ in range(4))
    stuck.connection.reply([bytes(3 * MIB)])
    assert budget.left_for_answers() <= 0
    order: list[int] = []

    def answer(number: int) -> None:
        order.append(number)
        waiting[number].connection.reply([bytes(MIB)])

    for number, reader in enumerate(waiting):
        reader.connection.when_answerable().on_done(lambda _, number=number: answer(number))
    waiting[1].connection.connection_lost(None)  # it is not waited for any more
    assert not order
    stuck.connection.connection_lost(None)
    assert order == [0, 2], "both have room: half of the memory is for answers"
    assert budget.left_for_answers() == 0
    for reader in waiting:
        reader.connection.connection_lost(None)
    assert budget.left_for_answers() == 2 * MIB


def test_while_others_wait_for_memory_an_answer_has_a_small_share_of_it() -> None:
    """Else two hundred clients that take nothing would have all of it, three at a time, before the next one had any."""
    budget = Budget(256 * MIB)
    stuck, *waiting = (Reader(budget) for _ in range(100))
    stuck.connection.reply([bytes(128 * MIB)])
    given: list[int] = []
    for reader in waiting:
        reader.connection.when_answerable().on_done(
            lambda _, each=reader.connection: (given.append(each.answer_bytes()), each.reply([bytes(given[-1])]))
        )
    stuck.connection.connection_lost(None)
    assert given == [MIB] * 98 + [30 * MIB], "all of them have some, and the last one what is left"


def test_what_is_reserved_for_an_answer_is_given_back_by_the_answer_or_the_end_of_the_connection() -> None:
    budget = Budget(4 * MIB)
    for end in (lambda each: each.reply([b"small"]), lambda each: each.connection_lost(None)):
        reader = Reader(budget)
        reader.connection.reserve(MIB)
        assert budget.left_for_answers() == MIB
        end(reader.connection)
        assert budget.left_for_answers() == 2 * MIB


def test_requests_wait_for_the_memory_of_answers_and_have_half_of_it_for_themselves() -> None:
    budget = Budget(4 * MIB)
    stuck = Reader(budget)
    stuck.connection.reply([bytes(2 * MIB)])
    assert budget.take("small", 2 * MIB, lambda: None)
    grown: list[str] = []
    assert not budget.take("one", 2 * MIB, lambda: grown.append("one"))
    assert not budget.take("two", 1, lambda: grown.append("two"))
    stuck.connection.connection_lost(None)
    assert grown == ["one", "two"]


def test_an_answer_that_is_taken_too_slowly_is_given_up_while_others_wait_for_memory() -> None:
    budget = Budget(20 * MIB)
    reader, other = Reader(budget), Reader(budget)
    reader.connection.reply([bytes(10 * MIB)])
    for reader.now_s in range(0, 500, 10):  # one byte now and then
        reader.transport.take(1)
        assert not reader.connection.is_late(reader.now_s), "nobody needs the memory"
    other.connection.when_answerable()
    assert reader.connection.is_late(reader.now_s)
    assert not other.connection.is_late(reader.now_s)
    for each in (reader, other):
        each.connection.connection_lost(None)
    slow, other = Reader(budget), Reader(budget)
    slow.connection.reply([bytes(10 * MIB)])
    other.connection.when_answerable()
    for now_s in range(30 + 10):  # 30 s and one for each MiB; it takes a tenth in each 3 s
        if now_s % 3 == 0:
            slow.transport.take(MIB)
        assert not slow.connection.is_late(now_s)


def test_a_request_that_waits_behind_an_answer_nobody_takes_is_given_up_while_others_wait_for_memory() -> None:
    budget = Budget(4 * MIB)
    reader = Reader(budget)
    reader.connection.reply([bytes(HIGH + 1)])
    frame = (3 * MIB).to_bytes(4, "big") + b"\0\3" + bytes(3 * MIB - 2)
    at = 0
    while at < len(frame):
        buffer = reader.connection.get_buffer(-1)
        size = min(len(buffer), len(frame) - at)
        buffer[:size] = frame[at : at + size]
        reader.connection.buffer_updated(size)
        at += size
    assert not budget.take("other", 2 * MIB, lambda: None)
    assert not reader.connection.is_late(30.0)
    assert reader.connection.is_late(30.2)


# -- requests that wait ----------------------------------------------------------------------------------


def test_where_much_waits_of_all_clients_nothing_is_read_of_one_that_has_a_request_under_way() -> None:
    """Each may have a megabyte of requests there, and there may be thousands of clients."""
    budget = Budget(MIB)
    one, other = Reader(budget), Reader(budget)
    reading: list[bool] = []
    other.transport.pause_reading = lambda: reading.append(False)  # type: ignore[method-assign]
    other.transport.resume_reading = lambda: reading.append(True)  # type: ignore[method-assign]
    other.ask()
    other.connection.reply([b""])
    assert reading == [], "there is room for one that waits"
    large = (10_000).to_bytes(4, "big") + bytes(10_000)
    for _ in range(30):
        one.connection.get_buffer(-1)[: len(large)] = large
        one.connection.buffer_updated(len(large))
    other.ask()
    assert reading == [False]
    other.connection.reply([b""])
    assert reading == [False, True], "nothing of it waits any more"
    one.connection.connection_lost(None)
    other.ask()
    assert (reading, budget.waiting) == ([False, True], 4)
