"""The memory of a listener: what all requests and all answers take together, however many clients there are, and what they read."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import pytest

import streamlog
from streamlog.errors import ConfigError
from streamlog.kafka import Listener, messages, protocol
from streamlog.kafka.connection import Budget, Limits
from streamlog.kafka.listener import Serving
from tests.kafka.clients import WAIT_S, asked, frame_of

from .traffic import eventually

MIB = 1 << 20
VALUE, RECORDS = 100_000, 400
BATCH = VALUE + 200
"""At most so many bytes is the batch of one of these values."""
VERSION = 12


@pytest.fixture(scope="module")
def log() -> Iterator[streamlog.StreamLog]:
    """A topic of 40 MB in batches of 100 kB each."""
    with streamlog.open() as log:
        topic = log.create_topic("t", partitions=2)
        for number in range(RECORDS):
            topic.send(number.to_bytes(4, "big") * (VALUE // 4), partition=number % 2).result()
        yield log


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many bytes of answers there were, each time that some were added."""
    counts: list[int] = []
    add = Budget.add_answer

    def add_answer(budget: Budget, size: int) -> None:
        add(budget, size)
        counts.append(budget._answers)

    monkeypatch.setattr(Budget, "add_answer", add_answer)
    return counts


def fetch(max_bytes: int = 50 * MIB, *, offset: int = 0, min_bytes: int = 1, max_wait_ms: int = 0) -> Any:
    Fetch = messages.FetchRequest
    partitions = [
        Fetch.FetchPartition(partition=number, fetch_offset=offset, partition_max_bytes=max_bytes) for number in (0, 1)
    ]
    return Fetch(
        max_wait_ms=max_wait_ms, min_bytes=min_bytes, max_bytes=max_bytes,
        topics=[Fetch.FetchTopic(topic="t", partitions=partitions)],
    )  # fmt: skip


@contextmanager
def listening(log: streamlog.StreamLog, memory: int) -> Iterator[Listener]:
    """A listener whose connections have small buffers of the kernel, so that what a client does not read stays with the listener."""
    with Listener(log, broker_config={"queued.max.request.bytes": str(memory)}) as listener:
        serving = listener._serving
        assert serving is not None
        for server in serving._servers[0]:
            for each in server.sockets:
                each.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        yield listener


class Client:
    """A connection with small buffers of the kernel."""

    def __init__(self, listener: Listener) -> None:
        host, _, port = listener.bootstrap_servers.rpartition(":")
        self.socket = socket.socket()
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self.socket.settimeout(WAIT_S)
        self.socket.connect((host, int(port)))

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *error: object) -> None:
        self.socket.close()

    def ask(self, request: Any, key: int = 1) -> None:
        self.header = messages.RequestHeader(request_api_key=key, request_api_version=VERSION, correlation_id=1)
        self.socket.sendall(b"".join(protocol.encode_request(self.header, request)))

    def answer(self) -> Any:
        return protocol.decode_response(self.header, frame_of(self.socket))


def size_of(answer: Any) -> int:
    return sum(len(each.records or b"") for topic in answer.responses for each in topic.partitions)


def is_answered(listener: Listener) -> bool:
    """By a request that never waits for memory, after all that was sent before on other connections."""
    return bool(asked(listener, 18, 0, messages.ApiVersionsRequest()).api_keys)


def test_answers_that_no_client_takes_have_half_of_the_memory_and_each_client_gets_something_once_they_do(
    log: streamlog.StreamLog, counted: list[int]
) -> None:
    with listening(log, 2 * MIB) as listener, ExitStack() as stack:
        clients = [stack.enter_context(Client(listener)) for _ in range(6)]
        for client in clients:
            client.ask(fetch())
        eventually(lambda: bool(counted) and counted[-1] >= MIB)
        assert is_answered(listener)
        assert is_answered(listener)
        assert max(counted) <= MIB + BATCH
        sizes = [size_of(client.answer()) for client in clients]
        assert max(counted) <= MIB + BATCH
        assert 0 < min(sizes) <= max(sizes) <= MIB
        assert size_of(asked(listener, 1, VERSION, fetch())) > 8 * VALUE, "alone it has all of that"


def test_a_client_that_reads_gets_all_records_while_others_hold_nearly_all_of_the_memory(
    log: streamlog.StreamLog, counted: list[int]
) -> None:
    with listening(log, 8 * MIB) as listener, ExitStack() as stack:
        stuck = stack.enter_context(Client(listener))
        stuck.ask(fetch(4 * MIB - 2 * BATCH))
        eventually(lambda: bool(counted))
        reader = stack.enter_context(Client(listener))
        offset = 0
        while offset < RECORDS // 2:
            reader.ask(fetch(offset=offset))
            answer = reader.answer()
            assert 0 < size_of(answer) <= 3 * BATCH
            offset += sum(
                (len(each.records) + VALUE // 2) // VALUE
                for each in answer.responses[0].partitions
                if each.partition_index == 0
            )


@pytest.mark.parametrize("request_of", [lambda: (3, messages.MetadataRequest(topics=None)), lambda: (1, fetch())])
def test_a_request_whose_answer_may_be_large_waits_until_a_client_has_taken_its_answer(
    log: streamlog.StreamLog, counted: list[int], request_of: Callable[[], tuple[int, Any]]
) -> None:
    with listening(log, 8 * MIB) as listener, ExitStack() as stack:
        stuck = stack.enter_context(Client(listener))
        stuck.ask(fetch())
        stuck_too = stack.enter_context(Client(listener))
        stuck_too.ask(fetch())
        eventually(lambda: bool(counted) and counted[-1] >= 4 * MIB)
        waiting = stack.enter_context(Client(listener))
        key, request = request_of()
        waiting.ask(request, key)
        assert is_answered(listener)
        waiting.socket.settimeout(0.05)
        with pytest.raises(TimeoutError):
            waiting.socket.recv(1)
        waiting.socket.settimeout(WAIT_S)
        stuck.socket.close()
        assert waiting.answer()
        assert stuck_too.answer()


def test_fetches_that_wait_for_records_hold_nothing_and_are_answered_within_the_bound(counted: list[int]) -> None:
    """All of them are done by one append."""
    with streamlog.open() as log, ExitStack() as stack:
        topic = log.create_topic("t", partitions=2)
        listener = stack.enter_context(listening(log, 8 * MIB))
        clients = [stack.enter_context(Client(listener)) for _ in range(6)]
        for client in clients:
            client.ask(fetch(min_bytes=10 * VALUE, max_wait_ms=2**31 - 1))
        assert is_answered(listener)
        for _ in range(20):
            topic.send(bytes(VALUE), partition=0).result()
        eventually(lambda: bool(counted) and counted[-1] >= 4 * MIB)
        sizes = [size_of(client.answer()) for client in clients]
        assert max(counted) <= 4 * MIB + BATCH
        assert min(sizes) > 0


def test_records_that_are_larger_for_clients_than_they_are_stored_are_no_more_than_was_asked_for() -> None:
    """Records without keys and values take a byte or two in the log, and eight for a client."""
    with streamlog.open() as log, Listener(log) as listener:
        topic = log.create_topic("t", partitions=2)
        for _ in range(20):
            topic.send_many([b""] * 1000, partition=0)
        log.sync()
        whole = size_of(asked(listener, 1, VERSION, fetch()))
        part = size_of(asked(listener, 1, VERSION, fetch(whole // 4)))
        assert whole // 8 < part <= whole // 4


@pytest.mark.slow
def test_clients_that_take_no_answers_are_closed_while_others_wait_for_memory(
    log: streamlog.StreamLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = Limits(in_flight_bytes=2 * MIB, frame_s=0.0)
    monkeypatch.setitem(Serving.__init__.__kwdefaults__, "limits", limits)
    with Listener(log) as listener, ExitStack() as stack:
        for _ in range(20):
            stack.enter_context(Client(listener)).ask(fetch())
        last = stack.enter_context(Client(listener))
        last.ask(fetch())
        assert size_of(last.answer())


@pytest.mark.slow
def test_twenty_clients_that_read_nothing_of_fifty_mebibytes_each_leave_the_process_small(
    run_script: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    """It was 1.4 GB."""
    done = run_script(
        """
        import re, socket, time, warnings, streamlog
        from streamlog.kafka import Listener, messages, protocol
        from tests.behaviour.test_kafka_memory import MIB, fetch, is_answered
        warnings.simplefilter("ignore", DeprecationWarning)

        def memory(name):
            with open("/proc/self/status") as status:
                return int(re.search(name + r":\\s+(\\d+) kB", status.read())[1]) * 1024

        with streamlog.open() as log:
            topic = log.create_topic("t", partitions=2)
            for number in range(600):
                topic.send(bytes([number % 256]) * 100_000, partition=number % 2).result()
            with Listener(log) as listener:
                host, _, port = listener.bootstrap_servers.rpartition(":")
                header = messages.RequestHeader(request_api_key=1, request_api_version=12, correlation_id=1)
                frame = b"".join(protocol.encode_request(header, fetch()))
                before, before_all = memory("RssAnon"), memory("VmRSS")
                clients = [socket.create_connection((host, int(port))) for _ in range(20)]
                for client in clients:
                    client.sendall(frame)
                for _ in range(3):
                    assert is_answered(listener)
                held, most = memory("RssAnon") - before, memory("VmHWM") - before_all
                assert 100 * MIB < held < 200 * MIB, held  # half of 256 MiB, and what the allocator keeps of the last answer made
                assert most < 320 * MIB, most
                for client in clients:
                    client.close()
        """
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("name", ["queued.max.request.bytes", "socket.request.max.bytes"])
def test_the_bounds_are_settings_of_the_broker(log: streamlog.StreamLog, name: str) -> None:
    with pytest.raises(ConfigError, match=name):
        Listener(log, broker_config={name: "1000"})
    with Listener(log, broker_config={name: str(2 * MIB)}) as listener:
        Request = messages.DescribeConfigsRequest
        resource = Request.DescribeConfigsResource(resource_type=4, resource_name="0", configuration_keys=[name])
        (found,) = asked(listener, 32, 4, Request(resources=[resource])).results
        assert [(each.name, each.value, each.read_only) for each in found.configs] == [(name, str(2 * MIB), True)]
        with Client(listener) as client:
            client.socket.sendall((3 * MIB).to_bytes(4, "big") + b"\0\0")
            with suppress(ConnectionResetError):
                assert client.socket.recv(1) == b"", "a request that is larger is taken"
