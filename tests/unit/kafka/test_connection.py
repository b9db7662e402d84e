"""The deadlines of one connection, with a transport and a time of the test's."""

from __future__ import annotations

from collections.abc import Sequence
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

    def writelines(self, buffers: Sequence[Buffer]) -> None:
        self.unsent += sum(map(len, buffers))

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
