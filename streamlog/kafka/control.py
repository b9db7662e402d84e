"""What a test does to the clients of a listener: `Control`, which is `Listener.control`.

It is reached in this process only, by no request on a socket. Which faults (an error, a delay, a lost connection, a lost response)
fire for a request the rules of `faults` say. The rest does at once what otherwise happens at some time, such as an election, the
expiry of a member, or retention, through the log's Service.

The listener asks the `Interceptor` in place of a handler, and only once `Listener.control` was used. Every method here runs on the
thread that calls it, and may block.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import timedelta
from functools import partial
from types import TracebackType
from typing import Any, Protocol, Unpack

from ..broker.api import Service
from ..broker.controller import GROUPS_TOPIC, TRANSACTIONS_TOPIC
from ..broker.group_coordinator import partition_for
from ..broker.metadata import TopicView
from ..config import integer, text
from ..errors import ClosedError, ConfigError, RequestTimedOutError, UnknownMemberIdError
from ..runtime.threads import inside, new_lock, result_of, wait_for
from ..runtime.values import refuse_to_copy
from ..types import TopicPartition
from . import protocol, schema
from .api_keys import ApiKey
from .faults import MAX_DELAY_MS, Api, Fault, Kind, When, error_code, is_other, key_of, new_fault
from .interceptor import Interceptor, SeenRequest

MOVE_TIMEOUT_S = 60.0
"""How long `move_leader` waits for a broker to copy a partition, in real time."""


def not_started() -> ClosedError:
    """The error of what a listener that listens can do alone."""
    return ClosedError("The listener is not started, or was closed. Call start(), or use it in a with statement.")


# -- the control -----------------------------------------------------------------------------------------


class Host(Protocol):
    """What the control needs of a listener that listens."""

    @property
    def service(self) -> Service: ...
    @property
    def keys(self) -> frozenset[int]:
        """Of the APIs that are advertised."""

    def follow_brokers(self) -> None:
        """Wait until there is a socket for each broker that runs, and none for others."""


class Pin:
    """Versions that were pinned; as a context manager they are as before at the end of the block. See `Control.max_versions`.

    >>> import streamlog
    >>> from streamlog.kafka import Listener
    >>> with streamlog.open() as log, Listener(log) as listener:
    ...     with listener.control.max_versions({"Produce": 7}) as pin:
    ...         dict(pin.versions)
    {'Produce': 7}
    """

    __reduce_ex__ = refuse_to_copy

    def __init__(self, versions: Mapping[str, int | None], remove: Callable[[], object]) -> None:
        """For the library's own use: `Control` makes it."""
        self.versions = versions
        self.remove = remove

    def __enter__(self) -> Pin:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.remove()


class Control:
    """What a test does to the clients of a listener. `Listener.control`; thread-safe, and in this process only.

    - Faults: `fail`, `delay`, `disconnect`, `drop_response`. Which there are: `faults`; those that never fired: `unfired`;
      none any more: `clear`.
    - Brokers: `broker_down`, `broker_up`, `move_leader`, `move_coordinator`.
    - Groups: `rebalance`, `expire`.
    - Time, and what the log does in the background: `advance`, `apply_retention`, `compact`.
    - What clients send: `requests`, `clear_requests`; which versions they may use: `max_versions`.

    Faults, pins and the requests seen outlive a `close` and `start` of the listener. What each does is in the table of `KAFKA.md`.

    >>> import streamlog
    >>> from streamlog.kafka import Listener
    >>> with streamlog.open() as log, Listener(log) as listener:
    ...     fault = listener.control.fail("Fetch", "OFFSET_OUT_OF_RANGE", topic="orders", partition=0)
    ...     listener.control.unfired() == [fault]
    True
    """

    __reduce_ex__ = refuse_to_copy

    def __init__(self, interceptor: Interceptor, host: Callable[[], Host | None]) -> None:
        """For the library's own use: `Listener.control` makes it. `host`: the listener while it listens."""
        self._interceptor = interceptor
        self._host = host
        self._lock = new_lock()
        self._faults: tuple[Fault, ...] = ()
        self._pins: tuple[Mapping[int, int], ...] = ()

    # -- faults --------------------------------------------------------------------------------------

    def fail(
        self,
        api: Api,
        error: str | int,
        *,
        after: bool = False,
        **when: Unpack[When],
    ) -> Fault:
        """Answer requests with an error, in the place that the response has for it in the client's version.

        error: str or int
            By Kafka's name, such as "NOT_LEADER_OR_FOLLOWER", or code, such as 6.
        after: bool = False
            False: the request has no effect, as with a broker that refuses it. True: it takes effect, and then is answered with the
            error all the same.
        when: the settings of When
            For which requests, and how often: once by default. See `help(streamlog.kafka.When)`.

        Where a response has codes at several levels, an error of the coordinator, the group or the session is in the response
        itself, others are in each partition, or other part, that is meant. Several faults: the first for a partition counts. What a
        request without an answer (Produce with acks=0) is refused for, the connection is closed for, as by Kafka.

        Raises ConfigError for an unknown API, error or setting, and for a topic where requests name none.

        >>> import streamlog
        >>> from streamlog.kafka import Listener
        >>> with streamlog.open() as log, Listener(log) as listener:
        ...     listener.control.fail("Produce", "NOT_LEADER_OR_FOLLOWER", nth=2, times=3)
        <Fault error NOT_LEADER_OR_FOLLOWER for Produce, fired 0 times>
        """
        return self._add("error", self._key(api), when, code=error_code(error), after=after)

    def delay(
        self,
        api: Api | None,
        delay_ms: int,
        **when: Unpack[When],
    ) -> Fault:
        """Have requests wait for so long before they are looked at; an hour at most. `api` None: those of every API.

        `when` is that of `fail`. The time is that of the log's clock: under a ManualClock a request waits until
        the test advances it, and is answered soon after that. Later requests of the same connection wait too, as with Kafka; several
        delays of a request add up.

        >>> import streamlog
        >>> from streamlog.kafka import Listener
        >>> with streamlog.open() as log, Listener(log) as listener:
        ...     listener.control.delay(None, 50, times="always", optional=True)
        <Fault delay of 50 ms for every API, fired 0 times>
        """
        return self._add("delay", api, when, delay_ms=integer("delay_ms", delay_ms, 0, MAX_DELAY_MS))

    def disconnect(
        self,
        api: Api | None,
        **when: Unpack[When],
    ) -> Fault:
        """Close the connection when such a request comes, which has no effect. `api` None: whatever comes. `when` is that of
        `fail`.

        >>> import streamlog
        >>> from streamlog.kafka import Listener
        >>> with streamlog.open() as log, Listener(log) as listener:
        ...     listener.control.disconnect("Fetch", broker=0, times=2)
        <Fault disconnect for Fetch, broker 0, fired 0 times>
        """
        return self._add("disconnect", api, when)

    def drop_response(
        self,
        api: Api | None,
        **when: Unpack[When],
    ) -> Fault:
        """Let such a request take effect, and close the connection in place of its answer. `when` is that of
        `fail`.

        So a client cannot know what became of it: an idempotent producer has to send its records again, and the log to
        know them.

        >>> import streamlog
        >>> from streamlog.kafka import Listener
        >>> with streamlog.open() as log, Listener(log) as listener:
        ...     listener.control.drop_response("Produce", probability=0.1, seed=7)
        <Fault drop_response for Produce, seed 7, fired 0 times>
        """
        return self._add("drop_response", api, when)

    def _add(self, kind: Kind, api: Api | None, when: When, **facts: Any) -> Fault:
        fault = new_fault(kind, None if api is None else self._key(api), when, self._remove, **facts)
        with inside(), self._lock:
            self._faults = (*self._faults, fault)
        self._interceptor.rules.add(fault)
        return fault

    def _key(self, api: Api) -> int:
        host = self._host()
        return key_of(api, None if host is None else host.keys)

    def _remove(self, fault: Fault) -> None:
        self._interceptor.rules.remove(fault)
        if fault.fired:
            with inside(), self._lock:
                self._faults = tuple(filter(partial(is_other, fault), self._faults))

    @property
    def faults(self) -> list[Fault]:
        """Those that were made and not removed, and those that were removed without having fired. `clear` forgets them."""
        return list(self._faults)

    def unfired(self) -> list[Fault]:
        """The faults that never fired and are not optional: a test that has some tests something else than it says.

        >>> import streamlog
        >>> from streamlog.kafka import Listener
        >>> with streamlog.open() as log, Listener(log) as listener:
        ...     with listener.control.disconnect("Fetch"), listener.control.disconnect("Fetch", optional=True):
        ...         pass
        ...     listener.control.unfired()
        [<Fault disconnect for Fetch, fired 0 times>]
        """
        return [fault for fault in self._faults if not fault.fired and not fault.optional]

    def clear(self) -> None:
        """Remove all faults, and forget those that never fired. Pins stay."""
        self._interceptor.rules.clear()
        with inside(), self._lock:
            self._faults = ()

    # -- brokers -------------------------------------------------------------------------------------

    def broker_down(self, broker: int) -> None:
        """Stop a broker of the log, as `log.brokers[i].stop()` does; on return no client reaches it.

        Its connections are closed, and other brokers lead its partitions. Raises ConfigError for the last one that runs.

        >>> import streamlog
        >>> from streamlog.kafka import Listener
        >>> with streamlog.open(brokers=3) as log, Listener(log) as listener:
        ...     listener.control.broker_down(1)
        ...     stopped = len(listener.bootstrap_servers.split(","))
        ...     listener.control.broker_up(1)
        ...     stopped, len(listener.bootstrap_servers.split(","))
        (2, 3)
        """
        host = self._started()
        host.service.stop_broker(integer("broker", broker, 0))
        host.follow_brokers()

    def broker_up(self, broker: int) -> None:
        """Start a broker again, as `log.brokers[i].start()` does; on return clients reach it, at the port that it had.

        Leaders stay where they are: `move_leader` moves one back, once the broker has caught up. Raises OSError where another process
        has taken the port; the broker runs then, and the listener tries each second to have the port again.
        """
        host = self._started()
        host.service.start_broker(integer("broker", broker, 0))
        host.follow_brokers()

    def move_leader(self, topic: str, partition: int, broker: int) -> None:
        """Have another broker lead a partition; nothing is lost, and clients learn it by NOT_LEADER_OR_FOLLOWER.

        A broker that has no replica of it gets one in place of the last of the others first. Raises UnknownTopicOrPartitionError,
        ConfigError for a broker that there is not, NotLeaderError for one that has not caught up, RequestTimedOutError after
        60 s (real time).

        >>> import streamlog
        >>> from streamlog.kafka import Listener
        >>> with streamlog.open(brokers=3) as log, Listener(log) as listener:
        ...     orders = log.create_topic("orders", replication_factor=1)
        ...     listener.control.move_leader("orders", 0, 2)
        ...     orders.partition(0).leader
        2
        """
        service = self._started().service
        name = TopicPartition(topic, integer("partition", partition, 0))
        broker = integer("broker", broker, 0)
        view = result_of(service.topic(topic))
        result_of(service.partition_info(name))  # raises for a partition that there is not
        if broker not in service.broker_paths():
            raise ConfigError(
                f"There is no broker {broker}: the log has {sorted(service.broker_paths())}.", name="broker"
            )
        replicas = service.image.partition(view.id_bytes, name.partition).replicas
        if broker not in replicas:
            moves = result_of(service.reassign(topic, {name.partition: (broker, *replicas[:-1])}, None))
            moved = service.await_reassignment(moves)
            if not wait_for(moved, MOVE_TIMEOUT_S):
                raise RequestTimedOutError(
                    f"Broker {broker} has not copied {topic}-{partition} within {MOVE_TIMEOUT_S:.0f} s. It goes on in the "
                    f"background; try again later."
                )
            moved.result()
        result_of(service.elect_leader(name, broker))

    def move_coordinator(self, name: str, broker: int, *, of_transactions: bool = False) -> None:
        """Have another broker coordinate a group, or with `of_transactions` a transactional id.

        It is the leader of that partition of the internal topic which has this name, so all others that are in it move along. Raises
        as `move_leader` does.

        >>> import streamlog
        >>> from streamlog.kafka import Listener
        >>> with streamlog.open(brokers=3) as log, Listener(log) as listener:
        ...     listener.control.move_coordinator("billing", 2)
        ...     log.elect_leader(streamlog.TopicPartition("__consumer_offsets", 0), 2)  # it is that one
        """
        text("name", name)
        service = self._started().service
        result_of(service.find_coordinator(name, of_transactions=of_transactions))  # the topic is there then
        topic = TRANSACTIONS_TOPIC if of_transactions else GROUPS_TOPIC
        self.move_leader(topic, partition_for(name, service.image.topics[topic].partitions), broker)

    # -- groups --------------------------------------------------------------------------------------

    def rebalance(self, group: str) -> None:
        """Have a group rebalance, though nothing has changed. Does nothing if it rebalances already.

        The members of a classic group learn it by REBALANCE_IN_PROGRESS with their next heartbeat, and all join again. In a group
        that the coordinator assigns (KIP-848, and with Python members) each member gets the partitions of another one that subscribes
        to the same topics, if there is one. Raises GroupIdNotFoundError.

        >>> import streamlog
        >>> from streamlog.kafka import Listener
        >>> with streamlog.open() as log, Listener(log) as listener:
        ...     _ = log.create_topic("orders", partitions=2)
        ...     one, two = log.consumer("orders", group="g"), log.consumer("orders", group="g")
        ...     _ = [one.poll(), two.poll(), one.poll(), two.poll()]
        ...     before = one.assignment(), two.assignment()
        ...     listener.control.rebalance("g")
        ...     _ = [one.poll(), two.poll(), one.poll(), two.poll()]
        ...     before == (two.assignment(), one.assignment())
        True
        """
        text("group", group)
        result_of(self._started().service.rebalance_group(group))

    def expire(self, group: str, member: str | None = None) -> None:
        """Remove a member from its group, as if its session were over; others get its partitions. `member` None: the only one.

        Its client learns it by UNKNOWN_MEMBER_ID with its next request, and joins again. Sessions are of real time, under a ManualClock
        too; this does not wait for them. Raises UnknownMemberIdError, ConfigError for None if there are several.
        """
        text("group", group)
        service = self._started().service
        if member is None:
            members = [each.member_id for each in result_of(service.describe_group(group)).members]
            if not members:
                raise UnknownMemberIdError(f"Group {group!r} has no members. Wait until one has joined.")
            if len(members) > 1:
                raise ConfigError(f"Group {group!r} has several members: give one of {members}.", name="member")
            (member,) = members
        result_of(service.leave_group(group, member, force=True))

    # -- time, and the background --------------------------------------------------------------------

    def advance(self, seconds: float | timedelta) -> None:
        """Move the log's clock, which has to be a ManualClock, and do what becomes due: `ManualClock.advance`. Raises ConfigError.

        >>> import streamlog, streamlog.testing
        >>> from streamlog.kafka import Listener
        >>> clock = streamlog.testing.ManualClock(start_ms=1_000)
        >>> with streamlog.open(clock=clock) as log, Listener(log) as listener:
        ...     listener.control.advance(2.5)
        >>> clock.time_ms()
        3500
        """
        clock: Any = self._started().service.clock
        if not hasattr(clock, "advance"):
            raise ConfigError(
                "This log has the clock of the machine, which no test moves: open it with "
                "streamlog.open(clock=streamlog.testing.ManualClock()).",
                name="clock",
            )
        clock.advance(seconds)

    def apply_retention(self, topic: str | None = None) -> None:
        """Delete now what the retention of a topic, or of all, says. Raises UnknownTopicOrPartitionError.

        >>> import streamlog, streamlog.testing
        >>> from streamlog.kafka import Listener
        >>> clock = streamlog.testing.ManualClock()
        >>> with streamlog.open(clock=clock) as log, Listener(log) as listener:
        ...     orders = log.create_topic("orders", retention_ms=1_000)
        ...     _ = orders.send("9.50")
        ...     clock.jump(2_000)
        ...     listener.control.apply_retention()
        ...     list(orders.read())
        []
        """
        service = self._started().service
        for name in self._topics(service, topic):
            result_of(service.apply_retention(name))

    def compact(self, topic: str | None = None) -> None:
        """Compact now a topic, or all that are compacted. Raises UnknownTopicOrPartitionError, ConfigError for one that is not.

        >>> import streamlog
        >>> from streamlog.kafka import Listener
        >>> with streamlog.open() as log, Listener(log) as listener:
        ...     prices = log.create_topic("prices", cleanup_policy="compact")
        ...     _ = prices.send_many(["1", "2"], ["a", "a"])
        ...     listener.control.compact()
        ...     [record.value for record in prices.read()]
        [b'2']
        """
        service = self._started().service
        for name in self._topics(service, topic, lambda view: view.config.compacts):
            result_of(service.compact(name))

    @staticmethod
    def _topics(
        service: Service, topic: str | None, is_meant: Callable[[TopicView], bool] = lambda view: True
    ) -> list[str]:
        if topic is not None:
            return [result_of(service.topic(topic)).name]
        return [view.name for view in service.image.topics.values() if is_meant(view)]

    # -- what clients send ---------------------------------------------------------------------------

    def requests(self, api: Api | None = None, *, topic: str | None = None) -> list[SeenRequest]:
        """The requests that came since `Listener.control` was first used, the oldest first: the last 10,000.

        Those of one API, and those that name one topic, if these are given. A request that could not be read is not there.

        >>> import streamlog
        >>> from streamlog.kafka import Listener
        >>> with streamlog.open() as log, Listener(log) as listener:
        ...     listener.control.requests("Produce", topic="orders")
        []
        """
        name = None if api is None else schema.names()[self._key(api)]
        return [
            each
            for each in self._interceptor.seen.copy()
            if (name is None or each.api == name) and (topic is None or topic in each.topics)
        ]

    def clear_requests(self) -> None:
        """Forget the requests that came."""
        self._interceptor.seen.clear()

    def max_versions(self, versions: Mapping[Api, int | None]) -> Pin:
        """Have the listener know these APIs up to these versions only, as an older broker does; None: not at all.

        ApiVersions says so. A client that sends a later version all the same is answered with UNSUPPORTED_VERSION; for an API that is
        not there the connection is closed, as Kafka does for both. Clients that are connected have asked already: pin before
        they come. Several pins: the lowest counts. Raises ConfigError for a version that the listener does not have.

        >>> import streamlog
        >>> from streamlog.kafka import Listener
        >>> with streamlog.open() as log, Listener(log) as listener:
        ...     with listener.control.max_versions({"Produce": 7, "ConsumerGroupHeartbeat": None}):
        ...         pass  # here a client finds a broker of before KIP-848
        """
        wanted: dict[int, int] = {}
        for api, version in versions.items():
            key = self._key(api)
            low, high = protocol.versions_of(key)
            if key in wanted:  # by its name and by its key
                raise ConfigError(f"{schema.names()[key]} is given twice: give each API once.", name="versions")
            if version is None and key == ApiKey.API_VERSIONS:
                raise ConfigError("ApiVersions cannot be taken away: it is what clients ask first.", name="versions")
            wanted[key] = -1 if version is None else integer(f"versions[{schema.names()[key]!r}]", version, low, high)
        with inside(), self._lock:
            self._pin((*self._pins, wanted))

        def remove() -> None:
            with inside(), self._lock:
                self._pin(tuple(filter(lambda each: each is not wanted, self._pins)))

        return Pin({schema.names()[key]: versions[api] for api, key in zip(versions, wanted, strict=True)}, remove)

    def _pin(self, pins: tuple[Mapping[int, int], ...]) -> None:
        """REQUIRES: the lock. Else one of two threads that pin at once could have the interceptor know the pins of before."""
        self._pins = pins
        lowest: dict[int, int] = {}
        for pin in pins:
            for key, version in pin.items():
                lowest[key] = min(version, lowest.get(key, version))
        self._interceptor.max_versions = lowest

    def _started(self) -> Host:
        host = self._host()
        if host is None:
            raise not_started()
        return host
