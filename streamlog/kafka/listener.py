"""The listener: Kafka's protocol in front of a log, on sockets of this machine. See the package for what it answers.

One thread runs one asyncio loop for all connections. Each broker of the log has a socket of its own, so that clients see as many
brokers as there are; a request for a partition that another one leads is refused with the error that has Kafka's clients
ask for the metadata again. What may block, changes of topics above all, runs on a few threads beside it.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import weakref
from collections.abc import Callable, Coroutine, Iterable, Mapping
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from functools import partial
from importlib.util import find_spec
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from ..broker.api import ClassicGroupConfig, Service
from ..broker.api import Listener as Attached
from ..broker.delayed_fetch import DelayedFetch
from ..config import choice, integer, text, typed
from ..errors import ClosedError, ConfigError, RequestTimedOutError, StreamlogError, forked
from ..runtime.api import Completion
from ..runtime.disk import descriptor_limit
from ..runtime.sockets import MAX_PORT, Socket, authority, let_go_of, listen_at
from ..runtime.threads import after_fork_in_child, is_current, join_thread, new_thread, start_thread
from ..runtime.values import refuse_to_copy
from ..types import Buffer
from . import (
    configs,
    consumer_groups,
    coordinators,
    fetch,
    groups,
    loading,
    log_dirs,
    metadata,
    offsets,
    produce,
    producers,
    protocol,
    quorum,
    reassignments,
    settings,
    topics,
    transactions,
)
from .api_keys import ApiKey
from .apis import CLOSE, Call, Endpoint, Handler, Later, Settings
from .compiler import MalformedMessageError
from .connection import Budget, Connection, Limits
from .control import Control, not_started
from .errors import ErrorCode
from .interceptor import Interceptor

if TYPE_CHECKING:
    import ssl

A = TypeVar("A", bound=Attached)
logger = logging.getLogger("streamlog.kafka")
# What the listener uses of the extra `kafka` once a client asks for it: modules, the packages that have them, and what is refused without.
_EXTRA = {
    "cramjam": ("cramjam", "records compressed with snappy, lz4 or zstd"),
    "re2": ("google-re2", "subscriptions to a pattern under KIP-848"),
}

_THREADS = 4
"""For what may block (see `Call.blocking`), and as many for administrators' requests. What comes while all of them are busy waits;
each connection has one request at a time.
"""
_OF_ADMINISTRATORS = frozenset(
    {
        ApiKey.CREATE_TOPICS,
        ApiKey.DELETE_TOPICS,
        ApiKey.DELETE_RECORDS,
        ApiKey.CREATE_PARTITIONS,
        ApiKey.ELECT_LEADERS,
        ApiKey.ALTER_PARTITION_REASSIGNMENTS,
        ApiKey.ALTER_CONFIGS,
        ApiKey.INCREMENTAL_ALTER_CONFIGS,
        ApiKey.DESCRIBE_CONFIGS,
        ApiKey.DESCRIBE_LOG_DIRS,
        ApiKey.DESCRIBE_PRODUCERS,
        ApiKey.DESCRIBE_QUORUM,
        ApiKey.DESCRIBE_TRANSACTIONS,
    }
)
"""APIs that may wait for other brokers for as long as a request takes at most: they have threads of their own, so that producers and
consumers do not wait for them.
"""
_TURN_S = 10.0
"""How long another thread waits for the listener's thread: until it listens, has ended, or has sockets for the brokers that run."""
_SWEEP_S = 1.0
"""How often connections are looked at for their deadlines, and how soon a socket is tried again that could not be had."""
_SHARE = 3
"""One of so many parts of the process's descriptors is for connections. The log takes half of all, and must not find them used up."""
_LONGEST_HOST = 255
"""Characters of a name, as DNS has them."""
_ANSWER_BYTES = 1 << 20
"""Of memory for a response that may have any size, until it is there."""
_WITH_LARGE_ANSWERS = frozenset(
    {
        ApiKey.FETCH,
        ApiKey.METADATA,
        ApiKey.OFFSET_FETCH,
        ApiKey.DESCRIBE_GROUPS,
        ApiKey.LIST_GROUPS,
        ApiKey.DESCRIBE_CONFIGS,
        ApiKey.DESCRIBE_LOG_DIRS,
        ApiKey.LIST_PARTITION_REASSIGNMENTS,
        ApiKey.DESCRIBE_PRODUCERS,
        ApiKey.DESCRIBE_TRANSACTIONS,
        ApiKey.LIST_TRANSACTIONS,
        ApiKey.CONSUMER_GROUP_DESCRIBE,
        ApiKey.LIST_CONFIG_RESOURCES,
        ApiKey.DESCRIBE_TOPIC_PARTITIONS,
    }
)
"""APIs whose responses may be far larger than the requests: they wait for memory. Others, heartbeats above all, do not."""
_LAST_TURNS = 10
"""Turns of the loop at the end. asyncio makes the protocol of a connection some turns after it has accepted it."""


class Log(Protocol):
    """What a listener needs of a log: `StreamLog` has it."""

    def attach(self, make: Callable[[Service], A]) -> A: ...
    def detach(self, listener: Attached) -> None: ...


class Listener:
    """Have Kafka's clients, in any language, use this log, at `bootstrap_servers`.

    Broker i of the log listens at `port` + i, or each at a port that is free if `port` is 0. Clients are told to come to
    `advertised_host`, by default `host`. Anyone who reaches a socket can read and write everything, so `host` has to be of this machine
    alone (loopback), unless `tls` or `allow_insecure=True` is given.

    `auto_create_topics`: a topic that a client asks for is created, with Kafka's defaults, as by a broker of Kafka's.
    `initial_rebalance_delay_ms`: how long the first members of a classic group wait for others (Kafka: 3 s). With 0 some clients
    lose members that join at the same moment. `broker_config`: settings of Kafka's brokers by their names, such as
    `{"num.partitions": "3", "log.retention.ms": "-1"}`, for the topics that are made and for classic groups. Requests and answers take
    at most 256 MiB of memory together, beside the one that is being made; `queued.max.request.bytes` is another bound.

    Raises ConfigError for a host that others reach and for a setting that makes no sense, `start` OSError for a port that is taken. A
    context manager; closing the log closes it.

    >>> import streamlog
    >>> from streamlog.kafka import Listener
    >>> with streamlog.open() as log, Listener(log) as listener:
    ...     listener.bootstrap_servers.startswith("127.0.0.1:")
    True
    """

    __reduce_ex__ = refuse_to_copy

    def __init__(
        self,
        log: Log,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        advertised_host: str | None = None,
        tls: ssl.SSLContext | None = None,
        auto_create_topics: bool = True,
        initial_rebalance_delay_ms: int = 100,
        broker_config: Mapping[str, str] = MappingProxyType({}),
        allow_insecure: bool = False,
    ) -> None:
        self._serving: Serving | None = None
        self._control: Control | None = None
        self._interceptor: Interceptor | None = None
        if not hasattr(log, "attach"):
            raise ConfigError(f"A listener is for a log, as streamlog.open() returns it, not {typed(log)}.", name="log")
        for name, flag in (("auto_create_topics", auto_create_topics), ("allow_insecure", allow_insecure)):
            choice(name, flag, (True, False))
        port = integer("port", port, 0, MAX_PORT)
        _require_server_side(tls)
        check_hosts(host, advertised_host, is_open=tls is not None or allow_insecure)
        config = settings.broker_config(broker_config, settings.KAFKA_DEFAULTS)
        delay_ms = integer("initial_rebalance_delay_ms", initial_rebalance_delay_ms, 0)
        self._log = log
        self._make = partial(
            Serving,
            host=host,
            port=port,
            advertised_host=advertised_host or host,
            tls=tls,
            options=Settings(auto_create_topics, config.topics, config.partitions, config.given),
            groups={"initial_rebalance_delay_ms": delay_ms, **config.groups},
            bounds=config.bounds,
        )

    def start(self) -> None:
        """Listen. Does nothing if it does already."""
        if self._serving is None or self._serving.is_closed:
            if missing := [each for module, each in _EXTRA.items() if find_spec(module) is None]:
                packages, refused = zip(*missing, strict=True)
                logger.warning(
                    "the listener has no %s: %s are refused; run: pip install 'streamlog-py[kafka]'",
                    " and no ".join(packages),
                    ", and ".join(refused),
                )
            self._serving = self._log.attach(partial(self._make, interceptor=self._interceptor))

    def close(self) -> None:
        """Answer no more, and close all connections. Does nothing if it is closed."""
        serving, self._serving = self._serving, None
        if serving is not None:
            serving.close(_TURN_S)
            if not serving.is_forked:
                self._log.detach(serving)

    @property
    def bootstrap_servers(self) -> str:
        """The addresses of all brokers that run, as clients take them: `127.0.0.1:9092,127.0.0.1:9093`. Raises ClosedError."""
        serving = self._serving
        if serving is None or serving.is_closed:
            raise not_started()
        if serving.is_forked:
            raise forked()
        return ",".join(authority(each.host, each.port) for each in serving.endpoints.values())

    @property
    def control(self) -> Control:
        """What a test does to the clients of this listener: see `Control`. Until this is used requests are not looked at for it.

        >>> import streamlog
        >>> from streamlog.kafka import Listener
        >>> with streamlog.open() as log, Listener(log) as listener:
        ...     with listener.control.fail("Produce", "NOT_LEADER_OR_FOLLOWER") as fault:
        ...         pass  # here a client sends records, and has to send them again
        ...     fault.fired
        0
        """
        if self._control is None:
            self._interceptor = Interceptor()
            self._control = Control(self._interceptor, lambda: self._serving)
            if self._serving is not None:
                self._serving.interceptor = self._interceptor
        return self._control

    def __enter__(self) -> Listener:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        serving = self._serving
        is_open = serving is not None and not (serving.is_forked or serving.is_closed)
        return f"<streamlog.kafka.Listener {self.bootstrap_servers if is_open else 'closed'}>"


def check_hosts(host: str, advertised_host: str | None, *, is_open: bool) -> None:
    """Raises ConfigError for a host that is none, and, unless the listener `is_open` to others, for one that others reach."""
    _require_host("host", host)
    if advertised_host is not None:
        _require_host("advertised_host", advertised_host)
    if not is_open:
        _require_loopback(host)
    if advertised_host is None and host in ("0.0.0.0", "::"):
        raise ConfigError(
            f"host={host!r} means every address of this machine, and clients need one that they can come to: give "
            f"advertised_host.",
            name="advertised_host",
        )


def _require_host(name: str, host: object) -> None:
    """Raises ConfigError for what is neither a name nor an address, above all for one with a port."""
    text(name, host)
    host = str(host)
    if len(host) > _LONGEST_HOST or (":" in host and not _is_address(host)) or any(map(str.isspace, host)):
        raise ConfigError(
            f"{name}={host[:_LONGEST_HOST]!r} is not the name or the address of a host. Give it alone, and the port by port=.",
            name=name,
        )


def _require_server_side(tls: object) -> None:
    if tls is None:
        return
    import ssl  # as late as it is needed

    if not isinstance(tls, ssl.SSLContext):
        raise ConfigError(f"tls has to be an ssl.SSLContext, not {typed(tls)}.", name="tls")
    if tls.protocol == ssl.PROTOCOL_TLS_CLIENT:
        raise ConfigError(
            "tls is a context for clients, with which no client could connect. Make one with ssl.create_default_context("
            "ssl.Purpose.CLIENT_AUTH), and have it load a certificate by load_cert_chain.",
            name="tls",
        )


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _require_loopback(host: str) -> None:
    is_loopback = host.lower() == "localhost" or (_is_address(host) and ipaddress.ip_address(host).is_loopback)
    if not is_loopback:
        raise ConfigError(
            f"host={host!r} may be reached from other machines, and anyone who reaches it could read and write everything. Give a "
            f"loopback address, tls=, or allow_insecure=True.",
            name="host",
        )


_here: weakref.WeakSet[Serving] = weakref.WeakSet()
"""Those of this process, for `_after_fork`."""


def _require_same_groups(listener: Serving) -> None:
    """Raises ConfigError if another listener of the log has other settings of groups: they have one coordinator."""
    for other in list(_here):
        if (
            other.service is not listener.service
            or other.is_closed
            or other.is_forked
            or other.groups == listener.groups
        ):
            continue
        differing = sorted({name for name, _ in set(other.groups.items()) ^ set(listener.groups.items())})
        raise ConfigError(
            f"Another listener of this log has other settings of classic groups ({', '.join(differing)}), and a log has one coordinator "
            f"for each group. Give both the same, or close the other one.",
            name=differing[0],
        )


def _after_fork() -> None:
    for serving in list(_here):
        serving.abandon()


after_fork_in_child(_after_fork)


class Serving:
    """A listener that listens: its thread, its sockets and connections. All but `close` runs on its thread."""

    __reduce_ex__ = refuse_to_copy

    def __init__(
        self,
        service: Service,
        *,
        host: str,
        port: int,
        advertised_host: str,
        tls: ssl.SSLContext | None,
        options: Settings,
        groups: Mapping[str, int],
        bounds: Mapping[str, int] = MappingProxyType({}),
        interceptor: Interceptor | None = None,
        limits: Limits = Limits(),  # noqa: B008  (immutable)
    ) -> None:
        service.require_writable("What a client of Kafka's sends")
        self.service = service
        self.groups = groups
        """The settings of classic groups, which are those of the log."""
        _require_same_groups(self)
        service.classic_group_config = ClassicGroupConfig(**groups)  # nothing of those of a listener that was closed
        self.interceptor = interceptor
        """It is asked in place of the handlers, if there is one."""
        self._host, self._port, self._advertised_host, self._tls = host, port, advertised_host, tls
        self._settings = options
        self._limits = limits = limits.bounded(bounds)
        self._budget = Budget(limits.in_flight_bytes)
        self._fetches = fetch.Fetches()
        self._handlers = _handlers(service, self._fetches)
        self.keys = frozenset(self._handlers)
        self._connections: dict[Connection, int] = {}  # and the broker that each came to
        self._ports: dict[int, int] = {}
        self._is_closing = False
        self._servers: dict[int, list[asyncio.Server]] = {}  # one for each address of the host
        self.is_closed = False
        """By its listener, or because the log is."""
        self.is_forked = False
        """Whether this is the copy that a forked child has of its parent's."""
        _here.add(self)
        self.endpoints: dict[int, Endpoint] = {}
        """Where each broker that runs is reached; replaced when that changes."""
        self._executor: Executor = ThreadPoolExecutor(_THREADS, "streamlog-kafka")
        self._administration: Executor = ThreadPoolExecutor(_THREADS, "streamlog-kafka-admin")
        self._administer = partial(self._blocking, self._administration)
        self._work = partial(self._blocking, self._executor)
        self._loop = asyncio.new_event_loop()
        self._following: asyncio.Task[None] | None = None
        self._handshakes: set[asyncio.Task[None]] = set()  # the loop has weak references to its tasks alone
        self._has_changed = False
        self._unfollowed: Exception | None = None
        """Why there is no socket for a broker that runs; None if there is one for each."""
        self._retry: asyncio.TimerHandle | None = None
        self._thread = new_thread(self._run, "streamlog-kafka", daemon=True)
        start_thread(self._thread)
        try:
            self._on_loop(self._follow_brokers())
        except BaseException:
            self.close(_TURN_S)
            raise
        self._loop.call_soon_threadsafe(self._sweep)
        service.on_metadata(self._on_metadata)

    # -- the thread ------------------------------------------------------------------------------------

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()
        self._loop.run_until_complete(self._end())
        self._loop.close()

    async def _end(self) -> None:
        self._is_closing = True
        for server in _all(self._servers.values()):
            server.close()
        # A connection may have been accepted just now, and is made in one of the next turns.
        for _ in range(_LAST_TURNS):
            for connection in list(self._connections):
                connection.close()
            await asyncio.sleep(0)

    def abandon(self) -> None:
        """In a forked child: let go of the sockets, so that they close when the parent closes them.

        Each descriptor becomes one of the null device. Closing it would leave its number to the next file that is opened, which the
        socket objects of the parent, whenever they are collected here, would close.
        """
        self.is_forked = True
        sockets = [each for server in _all(self._servers.values()) for each in server.sockets]
        sockets += [each.socket for each in self._connections if each.socket is not None]
        let_go_of([each.fileno() for each in sockets])

    def close(self, timeout_s: float) -> None:
        if self.is_forked:  # the thread is the parent's, and the pipe by which it is woken too
            return
        self.is_closed = True
        self.service.off_metadata(self._on_metadata)
        if self._loop.is_closed():
            return
        self._soon(self._loop.stop)
        join_thread(self._thread, timeout_s)
        for executor in (self._executor, self._administration):
            executor.shutdown(wait=False, cancel_futures=True)

    # -- for its control -----------------------------------------------------------------------------

    def partitions_fetched(self, request: Any) -> Mapping[str, frozenset[int]]:
        return self._fetches.partitions(request, self.service.image.names)

    def follow_brokers(self) -> None:
        async def follow() -> None:
            self._follow_soon()
            assert self._following is not None
            await self._following
            if self._unfollowed is not None:
                raise self._unfollowed

        self._on_loop(follow())

    def _on_loop(self, work: Coroutine[Any, Any, None]) -> None:
        """Have the thread do this, and wait until it has. Raises what it raises, RequestTimedOutError."""
        try:
            asyncio.run_coroutine_threadsafe(work, self._loop).result(_TURN_S)
        except TimeoutError as error:
            raise RequestTimedOutError(
                f"The listener at {self._host} has not got its sockets within {_TURN_S:.0f} s: the name of the host may not be found, or "
                f"the machine be overloaded. Give an address of digits, such as 127.0.0.1, or try again."
            ) from error

    def _soon(self, work: Callable[[], object]) -> None:
        """Have the thread do this. Nothing is done any more once it has ended."""
        try:
            if is_current(self._thread):  # it need not be woken, which takes three system calls
                self._loop.call_soon(work)
            else:
                self._loop.call_soon_threadsafe(work)
        except RuntimeError:  # it was closed
            logger.debug("an answer came after the listener was closed")

    def _sweep(self) -> None:
        """Close the connections whose frames do not come to an end."""
        now_s = self._loop.time()
        for connection in [each for each in self._connections if each.is_late(now_s)]:
            logger.info(
                "a connection from %s is closed: what it began did not come to an end, its answer was not taken while others waited "
                "for memory, or nothing came",
                connection.host,
            )
            connection.close()
        self._loop.call_later(_SWEEP_S, self._sweep)

    # -- sockets ---------------------------------------------------------------------------------------

    def _on_metadata(self) -> None:
        self._soon(self._follow_soon)

    def _follow_soon(self) -> None:
        self._has_changed = True
        if self._following is None or self._following.done():
            self._following = self._loop.create_task(self._follow_changes())

    async def _follow_changes(self) -> None:
        while self._has_changed:
            self._has_changed = False
            try:
                await self._follow_brokers()
            except (OSError, StreamlogError) as error:  # the port of a broker was taken while it did not run, say
                logger.warning("a broker that runs cannot be reached yet, and it is tried again: %s", error)
                self._unfollowed = error
                if self._retry is not None:  # one at a time, however often the metadata changes meanwhile
                    self._retry.cancel()
                self._retry = self._loop.call_later(_SWEEP_S, self._follow_soon)
            else:
                self._unfollowed = None

    async def _follow_brokers(self) -> None:
        """Have a socket for each broker that runs, and none for others. Raises OSError for the first that gets none; others have theirs."""
        running = [each for each in self.service.broker_paths() if self.service.is_running(each)]
        for broker_id in [each for each in self._servers if each not in running]:
            for server in self._servers.pop(broker_id):
                server.close()
            for connection in [each for each, of in self._connections.items() if of == broker_id]:
                connection.close()
        refused: OSError | None = None
        for broker_id in running:
            if broker_id not in self._servers:
                try:
                    await self._listen(broker_id)
                except OSError as error:
                    refused = refused or error
        self.endpoints = {each: self.endpoints[each] for each in running if each in self._servers}
        if refused is not None:
            raise refused

    async def _listen(self, broker_id: int) -> None:
        """A broker that is started again has the port that it had, as far as any port may be taken."""
        made = partial(
            Connection,
            self._limits,
            self._budget,
            self._loop.time,
            partial(self._answer, broker_id),
            partial(self._opened, broker_id),
            self._forget,
            None if self._tls is None else self._secure,
        )
        port = self._ports.get(broker_id, self._port + broker_id if self._port else 0)
        try:
            sockets = await self._bind(port)
        except OSError:
            if self._port:
                raise
            sockets = await self._bind(0)
        self._ports[broker_id] = bound = sockets[0].getsockname()[1]
        self._servers[broker_id] = [await self._loop.create_server(made, sock=each) for each in sockets]
        self.endpoints = {**self.endpoints, broker_id: Endpoint(broker_id, self._advertised_host, bound)}

    async def _bind(self, port: int) -> list[Socket]:
        return await self._loop.run_in_executor(self._executor, listen_at, self._host, port)

    def _secure(self, connection: Connection, transport: asyncio.Transport) -> None:
        """Begin TLS on a connection, which counts as one from its first byte on, and has a deadline: `Connection.is_late`."""
        task = self._loop.create_task(self._shake_hands(connection, transport))
        self._handshakes.add(task)
        task.add_done_callback(self._handshakes.discard)

    async def _shake_hands(self, connection: Connection, transport: asyncio.Transport) -> None:
        assert self._tls is not None
        try:
            secured = await self._loop.start_tls(transport, connection, self._tls, server_side=True)
        except (OSError, ValueError) as error:  # the client speaks something else, or is gone
            logger.info("a connection from %s is closed: TLS could not begin (%s)", connection.host, error)
            secured = None
        if secured is None:
            connection.close()
            connection.connection_lost(None)
        else:
            connection.secured(secured)

    def _opened(self, broker_id: int, connection: Connection) -> bool:
        if self._is_closing:
            return False
        most = min(self._limits.connections, descriptor_limit() // _SHARE)
        if len(self._connections) >= most:
            logger.warning(
                "a connection from %s is refused: there are %d, and no more than %d, or a third of the descriptors that the process may "
                "have (ulimit -n), are taken",
                connection.host,
                len(self._connections),
                self._limits.connections,
            )
            return False
        self._connections[connection] = broker_id
        return True

    def _forget(self, connection: Connection) -> None:
        self._connections.pop(connection, None)
        parked, connection.parked = connection.parked, None
        if parked is not None:
            parked.expire()

    # -- requests --------------------------------------------------------------------------------------

    def _answer(self, broker_id: int, connection: Connection, frame: Buffer) -> None:
        if connection.is_closed:  # while it waited
            return
        try:
            header, at = protocol.decode_request_header(frame)
            key, version = header.request_api_key, header.request_api_version
            low, high = protocol.versions_of(key)
            interceptor = self.interceptor
            if interceptor is not None and key == ApiKey.API_VERSIONS:
                high = interceptor.max_version(key, high)
            handler = self._handlers.get(key)
            if handler is None or not low <= version <= high:
                self._refuse(connection, header)
                return
            if key in _WITH_LARGE_ANSWERS:
                if connection.answer_bytes() <= 0:
                    again = partial(self._answer, broker_id, connection, frame)
                    connection.when_answerable().on_done(lambda _: again())
                    return
                if key != ApiKey.FETCH:  # it knows how much it brings
                    connection.reserve(_ANSWER_BYTES)
            request = protocol.decode_request(header, frame, at)
            blocking = self._administer if key in _OF_ADMINISTRATORS else self._work
            call = Call(
                self.service, self._settings, self.endpoints, blocking, broker_id, connection.host,
                header.client_id or "", version, request, connection,
            )  # fmt: skip
            response = handler(call) if interceptor is None else interceptor.answer(self, key, call, handler)
            self._respond(connection, header, response)
        except MalformedMessageError as error:
            logger.warning("a connection from %s is closed: %s", connection.host, error)
            connection.close()
        except Exception:
            logger.exception("a request from %s could not be answered, and its connection is closed", connection.host)
            connection.close()

    def _refuse(self, connection: Connection, header: Any) -> None:
        """An unknown version of ApiVersions is answered in the first one, which every client reads; others are not answered."""
        key = header.request_api_key
        if key != ApiKey.API_VERSIONS:
            logger.warning(
                "a connection from %s is closed: there is no API %d of version %d here",
                connection.host, key, header.request_api_version,
            )  # fmt: skip
            connection.close()
            return
        response = metadata.versions_response([key], ErrorCode.UNSUPPORTED_VERSION)
        if self.interceptor is not None:
            response = self.interceptor.pin_versions(response)
        connection.reply(protocol.encode_response(header, response, 0))

    def _respond(self, connection: Connection, header: Any, response: Any) -> None:
        if not isinstance(response, Later):
            self._send(connection, header, response)
            return
        done, respond = response
        finish = partial(self._finish, connection, header, done, respond)
        if done.done():
            finish()
            return
        if isinstance(done, DelayedFetch):
            connection.parked = done
        if done is connection.answerable:  # it is done on this thread, and what is left of the memory is this one's
            done.on_done(lambda _: finish())
            return
        done.on_done(lambda _: self._soon(finish))
        if done.work is not None:
            done.work.soon()

    def _finish(
        self, connection: Connection, header: Any, done: Completion[Any], respond: Callable[[Completion[Any]], Any]
    ) -> None:
        if connection.is_closed:
            return
        connection.parked = None
        try:
            self._respond(connection, header, respond(done))
        except Exception:
            logger.exception("a request from %s could not be answered, and its connection is closed", connection.host)
            connection.close()

    @staticmethod
    def _send(connection: Connection, header: Any, response: Any) -> None:
        if response is CLOSE:
            connection.close()
            return
        connection.reply(None if response is None else protocol.encode_response(header, response))

    @staticmethod
    def _blocking(executor: Executor, respond: Callable[[], Any]) -> Completion[Any]:
        done: Completion[Any] = Completion()

        def finish(future: Future[Any]) -> None:
            error = future.exception() if not future.cancelled() else ClosedError("The listener was closed.")
            if error is not None:
                done.fail(error)
            else:
                done.complete(future.result())

        executor.submit(respond).add_done_callback(finish)
        return done


def _handlers(service: Service, fetches: fetch.Fetches) -> dict[int, Handler]:
    of_members = consumer_groups.ConsumerGroups(service).handlers
    handlers: dict[int, Handler] = {**fetches.handlers, **of_members, **configs.Configs().handlers}
    for family in (
        produce, topics, coordinators, offsets, groups, transactions, log_dirs, reassignments, quorum, producers,
    ):  # fmt: skip
        handlers.update(family.handlers)
    # The last two commit offsets of groups, or end the commit.
    of_groups = (*of_members, *groups.handlers, *offsets.handlers, ApiKey.TXN_OFFSET_COMMIT, ApiKey.END_TXN)
    handlers.update(loading.Loading().before({key: handlers[key] for key in of_groups}))
    handlers.update(metadata.handlers(handlers))
    return handlers


def _all(servers: Iterable[list[asyncio.Server]]) -> list[asyncio.Server]:
    return [each for of_one in servers for each in of_one]
