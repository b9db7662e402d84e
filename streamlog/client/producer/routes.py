"""The routes of one producer: worked out when a topic is first sent to, forgotten when any topic changes."""

from __future__ import annotations

from typing import Any

from ...broker.api import Service
from ...broker.metadata import TopicView
from ...config import ProducerConfig
from ...errors import InvalidRecordError
from ...runtime.threads import inside, new_lock, new_reentrant_lock
from ...runtime.values import refuse_to_copy
from ..handle import Parent
from .accumulator import RecordAccumulator
from .partition_queue import PartitionQueue
from .partitioner import make_partitioner
from .topic_cache import Route

# Each handle with serdes of its own has a route of its own: a program that makes them again and again is not to fill
# the memory with them.
_MOST = 1000


class TopicCache:
    """See the module. Thread-safe.

    `known` has a topic's route under its name, and under what a `Topic` is known by, for handles of one topic may
    have serdes of their own. `lingering` has, of topics with one partition and no serializer, the queue: the short way
    of `send` with a linger.
    """

    __reduce_ex__ = refuse_to_copy

    def __init__(self, log: Parent, service: Service, config: ProducerConfig, outbox: RecordAccumulator) -> None:
        self.known: dict[Any, Route] = {}
        self.lingering: dict[Any, PartitionQueue] = {}
        self.forget = _Forget(self.known, self.lingering)
        self._log = log
        self._service = service
        self._config = config
        self._outbox = outbox
        self._lock = new_lock()
        self._partition_lock = (
            new_reentrant_lock()
        )  # a partitioner is the program's code, and may be interrupted by more of it
        self._partitioners: dict[Any, Any] = {}
        self._start = log._next_number()

    def find(self, topic: Any) -> Route:
        """The route of a topic, given by name or handle. Raises UnknownTopicOrPartitionError, InvalidTopicError,
        InvalidRecordError for an internal one."""
        name, key_serde, value_serde = self._log._name_of(topic)
        view = self._log._topic_view(name) if isinstance(topic, str) else topic._view()
        if len(self.known) >= _MOST:
            self.forget()
        with inside(), self._lock:
            if key_serde is None and value_serde is None:
                route = self.known.get(name) or self._make(view, None, None)
                self.known[name] = route
                if route.only is not None and route.plain and self._config.linger_ms and self._config.acks != 0:
                    route.only.max_size = route.max_size
                    self.lingering[name] = route.only
            else:
                route = self._make(view, key_serde, value_serde)
            if not isinstance(topic, str):
                self.known[topic._known] = route
        if self._service.image.topics.get(name) is not view:  # it changed meanwhile, and emptied the routes too early
            self.forget()
        return route

    def _make(self, view: TopicView, key_serde: Any, value_serde: Any) -> Route:
        """REQUIRES: the lock."""
        config = self._config
        if view.internal:
            raise InvalidRecordError(f"{view.name!r} is internal to the log; records cannot be sent to it.")
        topics = self._service.image.topics
        self._outbox.forget_topics(topic.id_bytes for topic in topics.values())
        for known in (
            self._partitioners.values()
        ):  # without their lock: a partitioner of the program's may be asking for this route
            known.keep_only(topics)
        spec = config.partitioner if config.partitioner is not None else view.config.partitioner
        partitioner = self._partitioners.get(spec)
        if partitioner is None:
            partitioner = self._partitioners[spec] = make_partitioner(spec, self._start)
        return Route(
            view,
            config,
            partitioner,
            self._partition_lock,
            [self._outbox.queue(view, n) for n in range(view.partitions)],
            config.key_serializer if config.key_serializer is not None else key_serde,
            config.value_serializer if config.value_serializer is not None else value_serde,
        )


class _Forget:
    """What the service calls when topics change. It knows the routes alone: a forgotten producer is not kept."""

    def __init__(self, *routes: dict[Any, Any]) -> None:
        self._routes = routes

    def __call__(self) -> None:
        for known in self._routes:
            known.clear()
