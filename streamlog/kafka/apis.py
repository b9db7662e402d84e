"""Which request is answered by which function, and what such a function is given.

A handler gets a `Call` and returns the response, a `Later`, or None for a request that has no answer. It runs on the listener's
thread, so it does not block: what takes a sync, or waits for others, goes to `Call.blocking`, or is a Completion of the service.
What fails in part is said in the response. The connection of a handler that raises is closed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol, TypeAlias

from ..broker.api import Service
from ..broker.controller import GROUPS_TOPIC, TRANSACTIONS_TOPIC
from ..broker.group_coordinator import partition_for
from ..broker.metadata import BROKER_CONFIG, Image, TopicView
from ..errors import NotCoordinatorError, NotLeaderError, UnknownTopicIdError, UnknownTopicOrPartitionError
from ..runtime.api import Completion
from ..types import TopicPartition

_SHOWN = 249
"""Characters of a name in an error: the longest that a topic may have."""
Handler: TypeAlias = Callable[["Call"], Any]


CLOSE = object()
"""The answer to a request that has none, and failed: the connection is closed."""


class Later(NamedTuple):
    """The response is `respond(done)`, called on the listener's thread once `done` is. That may be another one of these."""

    done: Completion[Any]
    respond: Callable[[Completion[Any]], Any]


def within(done: Completion[Any], timeout_s: float, respond: Callable[[], Any]) -> Later:
    """The response is `respond()`, once `done` is or this real time has passed; no thread waits for it.

    REQUIRES: the listener's loop runs on this thread.
    """
    either: Completion[None] = Completion()
    timer = asyncio.get_running_loop().call_later(timeout_s, either.complete, None)

    def answer(_: Completion[None]) -> Any:
        timer.cancel()
        return respond()

    done.on_done(lambda _: either.complete(None))
    if done.work is not None:
        done.work.soon()
    return Later(either, answer)


class Endpoint(NamedTuple):
    """Where clients reach a broker of the log."""

    broker_id: int
    host: str
    port: int


class Memory(Protocol):
    """What is left of the memory for the answers of all connections; see `connection`."""

    def answer_bytes(self) -> int:
        """How many bytes an answer that is made now may have. If that is not above 0, it has to wait: `when_answerable`."""

    def when_answerable(self) -> Completion[None]: ...


class Settings(NamedTuple):
    """What the listener was made with, as far as handlers look at it, and what clients have set since then."""

    auto_create_topics: bool
    topic_defaults: Mapping[str, Any]
    """The settings of topics that are made through the listener, where the client gives none."""
    partitions: int
    """How many partitions such a topic has then."""
    broker_config: Mapping[str, str]
    """The broker's settings that were given, by Kafka's names."""
    of_broker: Mapping[str, str] = MappingProxyType({})
    """Those that clients have set for one broker. They come before those of all brokers, and these before all others."""
    of_all_brokers: Mapping[str, str] = MappingProxyType({})


class Call:
    """One request while it is answered. `broker_id`: of the broker to whose socket it came."""

    __slots__ = (
        "_blocking",
        "_settings",
        "broker_id",
        "client_id",
        "endpoints",
        "host",
        "memory",
        "refuses",
        "request",
        "service",
        "version",
    )

    def __init__(
        self,
        service: Service,
        settings: Settings,
        endpoints: Mapping[int, Endpoint],
        blocking: Callable[[Callable[[], Any]], Completion[Any]],
        broker_id: int,
        host: str,
        client_id: str,
        version: int,
        request: Any,
        memory: Memory,
    ) -> None:
        self.service = service
        self._settings = settings
        self.endpoints = endpoints
        """Those of the brokers that run, by id."""
        self._blocking = blocking
        self.broker_id = broker_id
        self.host = host
        """The client's address."""
        self.client_id = client_id
        self.version = version
        self.request = request
        self.memory = memory
        """An answer that may have any size has to be within what is left of it."""
        self.refuses: Callable[[str, int], int] | None = None
        """The error code that a test wants a Fetch to have for a topic and partition; 0 for none. See `control`."""

    @property
    def settings(self) -> Settings:
        """Those of the broker that was asked."""
        return self.settings_of(self.broker_id)

    def settings_of(self, broker_id: int) -> Settings:
        configs = self.service.image.kafka_configs
        if not configs:
            return self._settings
        return self._settings._replace(
            of_broker=configs.get((BROKER_CONFIG, str(broker_id)), {}),
            of_all_brokers=configs.get((BROKER_CONFIG, ""), {}),
        )

    def blocking(self, respond: Callable[[], Any]) -> Later:
        """The response is what this returns, on a thread that may block."""
        return Later(self._blocking(respond), Completion.result)


def topic_of(image: Image, name: str | None, topic_id: bytes | None) -> TopicView:
    """The topic that a request means, by its id where the version has ids. Raises UnknownTopicIdError, or for a name
    UnknownTopicOrPartitionError.
    """
    if topic_id is not None:
        name = image.names.get(topic_id)
        if name is None:
            raise UnknownTopicIdError(
                f"There is no topic of id {topic_id.hex()}: it was deleted. Ask for the metadata by its name."
            )
    view = image.topics.get(name or "")
    if view is None:
        raise UnknownTopicOrPartitionError(
            f"There is no topic {(name or '')[:_SHOWN]!r}. Create it, or use another name."
        )
    return view


def partition_of(view: TopicView, number: int) -> TopicPartition:
    """A partition that a request means. Raises UnknownTopicOrPartitionError."""
    if not 0 <= number < view.partitions:
        raise UnknownTopicOrPartitionError(
            f"{view.name!r} has no partition {number}: it has {view.partitions}, from 0 on. Ask for its metadata, or add partitions."
        )
    return TopicPartition(view.name, number)


def led_partition(call: Call, image: Image, view: TopicView, number: int) -> TopicPartition:
    """A partition that a request means. Raises UnknownTopicOrPartitionError, and NotLeaderError for the leader is another broker than
    the one that was asked.
    """
    at = partition_of(view, number)
    if not leads(call, image, view, number):
        raise NotLeaderError(
            f"Broker {call.broker_id} does not lead {view.name}-{number}. Ask for the metadata, and send the request to the leader."
        )
    return at


def by_topic(partitions: Iterable[TopicPartition]) -> dict[str, list[int]]:
    """The numbers of partitions, in order, by the names of their topics, in order."""
    numbers: dict[str, list[int]] = {}
    for name, number in sorted(partitions):
        numbers.setdefault(name, []).append(number)
    return numbers


def leads(call: Call, image: Image, view: TopicView, number: int) -> bool:
    """Whether the broker that was asked leads this partition, as its clients were told. Of a log with one broker it does."""
    return len(call.endpoints) < 2 or image.partition(view.id_bytes, number).leader == call.broker_id


def coordinates(call: Call, name: str, *, of_transactions: bool = False) -> bool:
    """Whether the broker that was asked coordinates this group, or this transactional id, as its clients were told."""
    if len(call.endpoints) < 2:
        return True
    image = call.service.image
    view = image.topics.get(TRANSACTIONS_TOPIC if of_transactions else GROUPS_TOPIC)
    if view is None:
        return False
    return image.partition(view.id_bytes, partition_for(name, view.partitions)).leader == call.broker_id


def not_coordinator(call: Call) -> NotCoordinatorError:
    """The error of a request about a group that another broker coordinates."""
    return NotCoordinatorError(
        f"Broker {call.broker_id} does not coordinate this group. Look for its coordinator (FindCoordinator), and send the request there."
    )


def epoch_or_none(leader_epoch: int) -> int | None:
    """The leader epoch in a request; None for -1, by which a client says that it knows none (KIP-320)."""
    return None if leader_epoch < 0 else leader_epoch
