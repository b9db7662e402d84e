"""The sockets of a listener: addresses, TLS, and what a forked child has of them."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import shutil
import socket
import ssl
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import streamlog
from streamlog.kafka import Listener, messages, protocol
from streamlog.kafka.connection import Limits
from streamlog.kafka.listener import Serving
from streamlog.runtime.sockets import bind_all
from tests.kafka.clients import WAIT_S, asked_at, frame_of
from tests.kafka.fixtures import temporary_log

from .traffic import eventually

log = temporary_log
LOOPBACK = (socket.AF_INET, ("127.0.0.1", 0))
ELSEWHERE = (socket.AF_INET, ("203.0.113.1", 0))  # of no machine (RFC 5737)


def has_ipv6() -> bool:
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET6) as probe:
        probe.bind(("::1", 0))
        return True
    return False


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")


# -- addresses -------------------------------------------------------------------------------------------


@needs_ipv6
def test_an_address_of_ipv6_has_brackets(log: streamlog.StreamLog) -> None:
    with Listener(log, host="::1") as listener:
        assert listener.bootstrap_servers.startswith("[::1]:")
        port = listener.bootstrap_servers.rpartition(":")[2]
        (broker,) = asked_at(f"::1:{port}", 3, 12, messages.MetadataRequest(topics=None)).brokers
        assert (broker.host, broker.port) == ("::1", int(port))
        Describe = messages.DescribeConfigsRequest
        resource = Describe.DescribeConfigsResource(
            resource_type=4, resource_name="0", configuration_keys=["advertised.listeners"]
        )
        (result,) = asked_at(f"::1:{port}", 32, 4, Describe(resources=[resource])).results
        assert [each.value for each in result.configs] == [f"PLAINTEXT://[::1]:{port}"]
        assert repr(listener) == f"<streamlog.kafka.Listener [::1]:{port}>"


@needs_ipv6
def test_a_host_of_several_addresses_is_reached_at_each_at_the_same_port(
    log: streamlog.StreamLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    def addresses(host: Any, port: Any, *arguments: Any, **named: Any) -> list[Any]:
        kind, number = socket.SOCK_STREAM, socket.IPPROTO_TCP
        return [
            (socket.AF_INET6, kind, number, "", ("::1", port, 0, 0)),
            (socket.AF_INET, kind, number, "", ("127.0.0.1", port)),
        ]

    with monkeypatch.context() as patched:
        patched.setattr(socket, "getaddrinfo", addresses)
        listener = Listener(log, host="localhost")
        listener.start()
    with listener:
        port = listener.bootstrap_servers.removeprefix("localhost:")
        for host in ("127.0.0.1", "::1"):
            assert asked_at(f"{host}:{port}", 3, 12, messages.MetadataRequest(topics=None)).brokers


def test_addresses_of_a_host_get_one_port_and_those_that_the_machine_does_not_have_are_left_out() -> None:
    another = (socket.AF_INET, ("127.0.0.2", 0))
    with contextlib.ExitStack() as stack:
        bound = bind_all([ELSEWHERE, LOOPBACK, another], 0)
        for each in bound:
            stack.enter_context(each)
        names = [each.getsockname() for each in bound]
        assert [host for host, _ in names] == ["127.0.0.1", "127.0.0.2"]
        assert len({port for _, port in names}) == 1
        with pytest.raises(OSError) as taken:
            bind_all([ELSEWHERE, LOOPBACK], names[0][1])
        assert taken.value.errno == errno.EADDRINUSE
    with pytest.raises(OSError) as nowhere:
        bind_all([ELSEWHERE], 0)
    assert nowhere.value.errno == errno.EADDRNOTAVAIL


# -- brokers that stop and start -------------------------------------------------------------------------


def free_ports(count: int) -> int:
    """The first of so many ports, one after another, that are free."""
    for _ in range(100):
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError, OverflowError):
            first = stack.enter_context(socket.create_server(("127.0.0.1", 0))).getsockname()[1]
            for port in range(first + 1, first + count):
                stack.enter_context(socket.create_server(("127.0.0.1", port)))
            return int(first)
    raise AssertionError(f"no {count} ports one after another are free")


def waiting_retries(serving: Serving) -> int:
    """How often the listener is going to look at the brokers again by itself."""

    async def count() -> int:
        if serving._following is not None:
            await serving._following
        scheduled = serving._loop._scheduled  # type: ignore[attr-defined]
        return sum("_follow_soon" in repr(each) and not each.cancelled() for each in scheduled)

    return asyncio.run_coroutine_threadsafe(count(), serving._loop).result(WAIT_S)


def test_a_broker_whose_port_was_taken_meanwhile_is_listened_for_once_the_port_is_free() -> None:
    first = free_ports(3)
    every = [f"127.0.0.1:{first + broker}" for broker in range(3)]
    with streamlog.open(brokers=3) as log, Listener(log, port=first) as listener:
        assert listener.bootstrap_servers.split(",") == every
        listener.control.broker_down(1)
        listener.control.broker_down(2)
        with socket.create_server(("127.0.0.1", first + 1)):
            with pytest.raises(OSError, match=str(first + 1)):
                listener.control.broker_up(1)
            with pytest.raises(OSError, match=str(first + 1)):  # broker 2 is reached all the same
                listener.control.broker_up(2)
            assert listener.bootstrap_servers.split(",") == [every[0], every[2]]
            serving = listener._serving
            assert serving is not None
            for number in range(5):
                log.create_topic(f"t{number}")  # each has the listener look at the brokers
            assert waiting_retries(serving) <= 1
        eventually(lambda: listener.bootstrap_servers.split(",") == every)
        assert asked_at(every[1], 3, 12, messages.MetadataRequest(topics=None)).brokers


def test_a_broker_for_which_there_is_no_port_left_is_an_oserror_of_start() -> None:
    with (
        streamlog.open(brokers=2) as log,
        pytest.raises(OSError, match=r"cannot listen at 127\.0\.0\.1:6553"),  # or the last port is taken
    ):
        Listener(log, port=65_535).start()


def test_a_host_that_is_not_found_is_named() -> None:
    with streamlog.open() as log, pytest.raises(OSError, match=r"cannot listen at a\.\.b"):
        Listener(log, host="a..b", allow_insecure=True).start()


def test_connections_leave_the_log_the_descriptors_that_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamlog.kafka.listener.descriptor_limit", lambda: 6)
    with streamlog.open() as log, Listener(log) as listener, contextlib.ExitStack() as stack:
        address = listener.bootstrap_servers
        clients = [stack.enter_context(socket.create_connection(address_of(listener), WAIT_S)) for _ in range(2)]
        refused = stack.enter_context(socket.create_connection(address_of(listener), WAIT_S))
        with contextlib.suppress(ConnectionResetError):
            assert refused.recv(1) == b"", "there was room for two alone"
        for client in clients:
            client.close()
        eventually(lambda: is_answered(address))


def is_answered(address: str) -> bool:
    try:
        return bool(asked_at(address, 3, 12, messages.MetadataRequest(topics=None)).brokers)
    except (OSError, AssertionError):  # those that were closed are still counted
        return False


# -- TLS -------------------------------------------------------------------------------------------------


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A certificate for 127.0.0.1 and its key, in one file."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("there is no openssl to make a certificate with")
    key, made = tmp_path / "key.pem", tmp_path / "cert.pem"
    command = [openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    names = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([*command, "-keyout", key, "-out", made, "-days", "36500", *names], check=True, capture_output=True)
    made.write_bytes(made.read_bytes() + key.read_bytes())
    return made


@pytest.fixture
def secured(certificate: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


def address_of(listener: Listener) -> tuple[str, int]:
    host, _, port = listener.bootstrap_servers.rpartition(":")
    return host, int(port)


def test_requests_come_by_tls_of_any_size_and_with_the_end_of_the_handshake(
    log: streamlog.StreamLog, certificate: Path, secured: ssl.SSLContext
) -> None:
    client = ssl.create_default_context(cafile=str(certificate))
    Request = messages.MetadataRequest
    with Listener(log, tls=secured, auto_create_topics=False) as listener:
        for size in (0, 1, 3000):
            topics = [Request.MetadataRequestTopic(name=f"{at:049d}") for at in range(size)]
            header = messages.RequestHeader(request_api_key=3, request_api_version=12, correlation_id=size)
            plain = socket.create_connection(address_of(listener), WAIT_S)
            with client.wrap_socket(plain, server_hostname="127.0.0.1") as connection:
                connection.sendall(b"".join(protocol.encode_request(header, Request(topics=topics))))
                answer = protocol.decode_response(header, frame_of(connection))
                assert len(answer.topics) == size


def test_a_handshake_that_does_not_end_counts_as_a_connection_and_is_given_up(
    log: streamlog.StreamLog, secured: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = Limits(connections=1, frame_s=2.0)
    monkeypatch.setitem(Serving.__init__.__kwdefaults__, "limits", limits)
    with Listener(log, tls=secured) as listener:
        with socket.create_connection(address_of(listener), WAIT_S) as silent:
            silent.sendall(b"\x16\x03\x01")  # the beginning of a client's hello
            second = socket.create_connection(address_of(listener), WAIT_S)
            with second, contextlib.suppress(ConnectionResetError):
                assert second.recv(1) == b"", "there was room for one alone"
            with contextlib.suppress(ConnectionResetError):
                assert silent.recv(1) == b""
        with socket.create_connection(address_of(listener), WAIT_S) as other:
            other.sendall(b"GET / HTTP/1.1\r\n\r\n")
            with contextlib.suppress(ConnectionResetError):
                while other.recv(100):  # an alert of TLS may come first
                    pass


# -- forks -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_secured", [False, True], ids=["plain", "TLS"])
def test_a_forked_child_keeps_no_socket_open(
    run_script: Callable[..., subprocess.CompletedProcess[str]], request: pytest.FixtureRequest, is_secured: bool
) -> None:
    certificate = request.getfixturevalue("certificate") if is_secured else ""
    done = run_script(
        """
        import os, socket, ssl, sys, warnings, streamlog
        from streamlog.kafka import Listener, messages
        from tests.kafka.clients import asked
        warnings.simplefilter("ignore", DeprecationWarning)
        tls = client = None
        if sys.argv[1]:
            tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            tls.load_cert_chain(sys.argv[1])
            client = ssl.create_default_context(cafile=sys.argv[1])
        log = streamlog.open()
        listener = Listener(log, tls=tls)
        listener.start()
        host, _, port = listener.bootstrap_servers.rpartition(":")
        connection = socket.create_connection((host, int(port)), 20)
        if client:
            connection = client.wrap_socket(connection, server_hostname=host)
        else:
            asked(listener, 3, 12, messages.MetadataRequest(topics=None))
        may_end, end = os.pipe()
        ready, is_ready = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(end)
            connection.detach()
            code = 1
            try:
                listener.bootstrap_servers
            except streamlog.ForkedError:
                listener.close()
                code = 0
            os.write(is_ready, b"x")
            os.read(may_end, 1)
            os._exit(code)
        os.read(ready, 1)
        if not client:
            asked(listener, 3, 12, messages.MetadataRequest(topics=None))  # the parent's goes on
        listener.close()
        try:
            assert connection.recv(1) == b""  # a time-out, if the child held it
        except (ConnectionResetError, ssl.SSLError):
            pass
        try:
            socket.create_connection((host, int(port)), 20)
        except ConnectionRefusedError:
            pass
        else:
            raise AssertionError("the child listens")
        os.write(end, b"x")
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        log.close()
        """,
        certificate,
    )
    assert (done.returncode, done.stderr) == (0, "")


# -- what is not Kafka's protocol, and what is not installed ----------------------------------------------


@pytest.mark.parametrize(
    ("begun", "said"),
    [
        (b"\x16\x03\x01\x02\x00\x01", "It looks like TLS"),
        (b"GET / HTTP/1.1\r\n\r\n", "It looks like HTTP"),
        (b"\x7f\xff\xff\xff\x00\x12", "2147483647 bytes, and at most 16777216 are taken"),
    ],
)
def test_a_client_of_another_protocol_is_named_in_the_log(
    log: streamlog.StreamLog, caplog: pytest.LogCaptureFixture, begun: bytes, said: str
) -> None:
    with Listener(log) as listener:
        host, _, port = listener.bootstrap_servers.rpartition(":")
        with socket.create_connection((host, int(port)), WAIT_S) as client:
            client.sendall(begun)
            assert client.recv(1) == b""
        (warning,) = [each.getMessage() for each in caplog.records if "is closed" in each.getMessage()]
    assert said in warning


def test_a_listener_without_its_extra_says_at_its_start_what_is_refused(
    log: streamlog.StreamLog, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Listener(log):
        assert not caplog.records
    monkeypatch.setattr("streamlog.kafka.listener.find_spec", lambda name: None)
    with Listener(log):
        (warning,) = [each.getMessage() for each in caplog.records]
    assert "no cramjam and no google-re2" in warning and "pip install 'streamlog-py[kafka]'" in warning
