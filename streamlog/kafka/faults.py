"""Faults: what goes wrong for the clients of a listener because a test wants it, and for which requests.

`Rules` is a state machine without I/O: for each request it says which faults fire. `control` makes the faults and carries them out.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import cache, partial
from random import Random
from types import TracebackType
from typing import Any, Literal, NamedTuple, TypeAlias, TypedDict

from ..config import choice, integer, text, typed
from ..errors import ConfigError, RequestTimedOutError, did_you_mean
from ..runtime.threads import RawGate, inside, new_lock
from ..runtime.values import refuse_to_copy
from . import error_responses, protocol, schema
from .error_responses import Place
from .errors import ErrorCode

Api: TypeAlias = str | int
"""An API by Kafka's name, such as "Produce", or by its key, such as 0."""
Times: TypeAlias = int | Literal["always"]
Kind: TypeAlias = Literal["error", "delay", "disconnect", "drop_response"]

logger = logging.getLogger("streamlog.kafka")

MAX_DELAY_MS = 3_600_000
"""The longest delay of a request, on the log's clock: a connection waits for it."""
_TOPIC = 2  # a resource that is a topic, in DescribeConfigs and what changes them
_TOPIC_NAMES = ("name", "topic", "topic_name")
_PARTITION_NAMES = ("index", "partition", "partition_index", "partition_id")


class When(TypedDict, total=False):
    """For which requests a fault is meant, and when it fires. Each may be left out.

    broker: int = None
        The broker that a request comes to.
    topic: str = None
        A topic that it names; for a Fetch one of its session. A request for all topics is meant too.
    partition: int = None
        A partition that it names, of `topic` if that is given. Other partitions of the request are answered as ever.
    client_id: str = None
        What the client calls itself.
    nth: int = 1
        It fires from the nth of these requests on.
    times: int or "always" = None
        For so many of them. None: for one, and with a probability always.
    probability: float = None
        For each of them with this probability, by random numbers of `seed`.
    seed: int = 0
        With the same seed it fires for the same requests again.
    optional: bool = False
        That it never fires is no error: `Control.unfired` does not list it.
    """

    broker: int | None
    topic: str | None
    partition: int | None
    client_id: str | None
    nth: int | None
    times: Times | None
    probability: float | None
    seed: int | None
    optional: bool


class Asked(NamedTuple):
    """What the rules look at of a request. `partitions`: by topic the numbers; none of a topic: all; None: all topics."""

    key: int
    version: int
    broker_id: int
    client_id: str
    partitions: Mapping[str, frozenset[int]] | None


class Fault:
    """Something that goes wrong for a client. Made by `Control`; as a context manager it is removed at the end of the block.

    - `fired`: how often it did. `wait` waits until it has; `assert_fired` fails if it has not.
    - `remove`: it fires no more. `optional`: that it never fired is no error, see `Control.unfired`.
    - `seed`: with a probability, what makes it fire for the same requests again.

    >>> import streamlog
    >>> from streamlog.kafka import Listener
    >>> with streamlog.open() as log, Listener(log) as listener:
    ...     with listener.control.fail("Produce", "NOT_LEADER_OR_FOLLOWER", topic="orders") as fault:
    ...         pass  # here the program under test sends records
    ...     fault, fault.fired
    (<Fault error NOT_LEADER_OR_FOLLOWER for Produce, topic 'orders', fired 0 times>, 0)
    """

    __reduce_ex__ = refuse_to_copy

    def __init__(
        self,
        kind: Kind,
        key: int | None,
        when: When,
        remove: Callable[[Fault], object] = lambda fault: None,
        *,
        code: ErrorCode = ErrorCode.NONE,
        after: bool = False,
        delay_ms: int = 0,
    ) -> None:
        """For the library's own use: `Control` makes it."""
        self.kind, self.key = kind, key
        self.broker, self.topic = when.get("broker"), when.get("topic")
        self.partition, self.client_id = when.get("partition"), when.get("client_id")
        self.nth = when.get("nth") or 1
        self.probability, self.seed = when.get("probability"), when.get("seed")
        self.times: Times = when.get("times") or (1 if self.probability is None else "always")
        self.optional = bool(when.get("optional"))
        self.code, self.after, self.delay_ms = code, after, delay_ms
        self.fired = 0
        self._met = 0
        self._random = Random(self.seed)
        self._remove = remove
        self._gates: list[RawGate] = []

    @property
    def is_spent(self) -> bool:
        """Whether it has fired as often as it may."""
        return self.times != "always" and self.fired >= self.times

    def fires(self, asked: Asked) -> bool:
        """Whether it fires for this request, which is counted. For the listener's thread alone."""
        if self.is_spent or not self._is_meant(asked):
            return False
        self._met += 1
        if self._met < self.nth or (self.probability is not None and self._random.random() >= self.probability):
            return False
        self.fired += 1
        while self._gates:
            self._gates.pop().open()
        return True

    def _is_meant(self, asked: Asked) -> bool:
        if self.key is not None and self.key != asked.key:
            return False
        if self.broker is not None and self.broker != asked.broker_id:
            return False
        if self.client_id is not None and self.client_id != asked.client_id:
            return False
        if (self.topic is None and self.partition is None) or asked.partitions is None:
            return True
        return any(
            not numbers or self.partition is None or self.partition in numbers
            for name, numbers in asked.partitions.items()
            if self.is_for(name, None)
        )

    def is_for(self, topic: str | None, partition: int | None) -> bool:
        """Whether it is meant for this topic and partition. None: not known, or of no concern."""
        return (self.topic is None or topic is None or topic == self.topic) and (
            self.partition is None or partition is None or partition == self.partition
        )

    def wait(self, timeout: float = 10.0) -> None:
        """Wait until it has fired, so many real seconds at most. Raises RequestTimedOutError then."""
        gate = RawGate()
        self._gates.append(gate)
        if not self.fired and not gate.wait(timeout) and not self.fired:
            raise RequestTimedOutError(
                f"{self!r} has not fired within {timeout} s: no request that it is meant for came. control.requests() lists those "
                f"that did."
            )

    def assert_fired(self) -> None:
        """Raises AssertionError if it never fired."""
        if not self.fired:
            raise AssertionError(
                f"{self!r} did not fire: no request that it is meant for came. control.requests() lists those that did."
            )

    def remove(self) -> None:
        """Have it fire no more. `Control.unfired` lists it all the same if it never did."""
        self._remove(self)

    def __enter__(self) -> Fault:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.remove()

    def __repr__(self) -> str:
        what = {"error": f"error {self.code.name}", "delay": f"delay of {self.delay_ms} ms"}.get(self.kind, self.kind)
        for_ = "every API" if self.key is None else schema.names()[self.key]
        facts = [
            f"{name} {value!r}"
            for name, value in (
                ("broker", self.broker),
                ("topic", self.topic),
                ("partition", self.partition),
                ("client_id", self.client_id),
                ("seed", self.seed),
            )
            if value is not None
        ]
        return f"<Fault {', '.join([f'{what} for {for_}', *facts])}, fired {self.fired} times>"


class Rules:
    """Which faults fire for a request, in the order in which they were made. One thread asks; any may add and remove.

    A fault counts the requests that it is meant for and that come to it: one that disconnects, or answers with an error as a whole,
    leaves nothing for those after it.
    """

    def __init__(self) -> None:
        self._lock = new_lock()
        self.active: tuple[Fault, ...] = ()

    def add(self, fault: Fault) -> None:
        with inside(), self._lock:
            self.active = (*self.active, fault)

    def remove(self, fault: Fault) -> None:
        with inside(), self._lock:
            self.active = tuple(filter(partial(is_other, fault), self.active))

    def clear(self) -> None:
        with inside(), self._lock:
            self.active = ()

    def decide(self, asked: Asked) -> list[Fault]:
        """Those that fire; one that disconnects is the last."""
        fired = []
        for fault in self.active:
            if not fault.fires(asked):
                continue
            fired.append(fault)
            if fault.is_spent:
                self.remove(fault)
            if fault.kind == "disconnect" or (fault.kind == "error" and depth_of(fault, asked.key, asked.version) == 0):
                break
        return fired


def is_other(fault: Fault, each: Fault) -> bool:
    return each is not fault


def depth_of(fault: Fault, key: int, version: int) -> int:
    return error_responses.depth_of(key, version, fault.code, of_partition=fault.partition is not None)


# -- what a request names --------------------------------------------------------------------------------


def topic_and_partition(place: Place, names: Mapping[bytes, str]) -> tuple[str | None, int | None]:
    """The topic and the partition that a part of a request or response is about, as far as it says so."""
    topic: str | None = None
    number: int | None = None
    for part in place:
        if part.get("resource_type", _TOPIC) == _TOPIC:
            topic = next((part[each] for each in (*_TOPIC_NAMES, "resource_name") if part.get(each)), topic)
        if topic is None and part.get("topic_id"):
            topic = names.get(part["topic_id"])
        number = next((part[each] for each in _PARTITION_NAMES if each in part), number)
    return topic, number


class _Plan(NamedTuple):
    """Where the requests of a version name topics and partitions: fields, "" for an element that is the value itself."""

    above: tuple[str, ...]
    """The arrays around that of the topics."""
    topics: str
    name: str | None
    topic_id: str | None
    kind: str | None
    partitions: str | None
    number: str


@cache
def _plan(key: int, version: int) -> _Plan | None:
    """None if these requests name no topics."""
    above: list[str] = []
    shape = error_responses.shape_of(key, version)
    while shape.wanted is not None and shape.part is not None:
        array, shape = shape.wanted, shape.part
        same = dict(shape.same)
        name = next((same[each] for each in (*_TOPIC_NAMES, "resource_name") if each in same), None)
        if name is None and "topic_id" not in same:
            above.append(array)
            continue
        inner = shape.part
        number = None if inner is None else next((of for each, of in inner.same if each in _PARTITION_NAMES), None)
        return _Plan(
            tuple(above),
            array,
            name,
            same.get("topic_id"),
            same.get("resource_type"),
            None if number is None else shape.wanted,
            number or "",
        )
    return None


def partitions_named(
    key: int, version: int, request: Any, names: Mapping[bytes, str]
) -> dict[str, frozenset[int]] | None:
    """The topics that a request names with the numbers of their partitions; None if it is for all topics."""
    plan = _plan(key, version)
    if plan is None:
        return {}
    elements = [request]
    for array in plan.above:
        elements = [inner for each in elements for inner in getattr(each, array)]
    found: dict[str, frozenset[int]] = {}
    for element in elements:
        topics = getattr(element, plan.topics)
        if topics is None:
            return None
        for each in topics:
            if plan.kind is not None and getattr(each, plan.kind) != _TOPIC:
                continue
            topic = None if plan.name is None else getattr(each, plan.name) if plan.name else each
            if not topic and plan.topic_id is not None:
                topic = names.get(getattr(each, plan.topic_id))
            if topic:
                numbers = () if plan.partitions is None else getattr(each, plan.partitions)
                known = frozenset([getattr(one, plan.number) for one in numbers] if plan.number else numbers)
                found[topic] = known | found[topic] if topic in found else known
    return found


def _names_topics(key: int) -> bool:
    """Whether requests of this API name topics, in some version."""
    low, high = protocol.versions_of(key)
    return any(_plan(key, version) is not None for version in range(low, high + 1))


# -- arguments -------------------------------------------------------------------------------------------


def key_of(api: Api, advertised: frozenset[int] | None) -> int:
    """Raises ConfigError."""
    names = {key: name for key, name in schema.names().items() if advertised is None or key in advertised}
    if isinstance(api, str):
        key = next((key for key, name in names.items() if name.lower() == api.lower()), None)
        if key is not None:
            return key
        raise ConfigError(f"There is no API {api!r} here{did_you_mean(api, names.values())}.", name="api")
    if isinstance(api, bool) or not isinstance(api, int):
        raise ConfigError(f"An API is given by Kafka's name or key, not {typed(api)}.", name="api")
    if api not in names:
        raise ConfigError(
            f"There is no API of key {int(api)} here: those that the listener has are {', '.join(map(str, sorted(names)))}.",
            name="api",
        )
    return int(api)


def error_code(error: str | int) -> ErrorCode:
    """Raises ConfigError."""
    codes = ErrorCode.__members__
    if isinstance(error, str):
        code = codes.get(error.upper())
        if code is None:
            raise ConfigError(f"Kafka has no error {error!r}{did_you_mean(error.upper(), codes)}.", name="error")
    else:
        if isinstance(error, bool) or not isinstance(error, int) or error not in list(ErrorCode):
            raise ConfigError(f"An error is given by Kafka's name or code, not {typed(error)}.", name="error")
        code = ErrorCode(error)
    if code is ErrorCode.NONE:
        raise ConfigError(
            "NONE is no error: give one that a broker answers with, such as NOT_LEADER_OR_FOLLOWER.", name="error"
        )
    return code


def new_fault(kind: Kind, key: int | None, when: When, remove: Callable[[Fault], object], **facts: Any) -> Fault:
    """Raises ConfigError."""
    unknown = next((name for name in when if name not in When.__annotations__), None)
    if unknown is not None:
        raise ConfigError(
            f"A fault has no setting {unknown!r}{did_you_mean(unknown, When.__annotations__)}: see "
            f"help(streamlog.kafka.When).",
            name=unknown,
        )
    for name, check in _CHECKS.items():
        if when.get(name) is not None:
            check(name, when.get(name))
    names_one = when.get("topic") is not None or when.get("partition") is not None
    if names_one and key is not None and not _names_topics(key):
        raise ConfigError(
            f"Requests of {schema.names()[key]} name no topics: leave out topic and partition.", name="topic"
        )
    return Fault(kind, key, _with_seed(when), remove, **facts)


def _check_times(name: str, times: object) -> None:
    if times != "always":
        integer(name, times, 1)


def _check_probability(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= 1:
        raise ConfigError(f"{name}={typed(value)} has to be a number above 0 and at most 1.", name=name)


_CHECKS: dict[str, Callable[[str, Any], object]] = {
    "broker": lambda name, value: integer(name, value, 0),
    "topic": text,
    "partition": lambda name, value: integer(name, value, 0),
    "client_id": text,
    "nth": lambda name, value: integer(name, value, 1),
    "times": _check_times,
    "probability": _check_probability,
    "seed": lambda name, value: integer(name, value, 0),
    "optional": lambda name, value: choice(name, value, (True, False)),
}


def _with_seed(when: When) -> When:
    """Raises ConfigError for a seed without a probability."""
    if when.get("probability") is None:
        if when.get("seed") is not None:
            raise ConfigError("A seed is for a probability, which was not given.", name="seed")
        return when
    return {**when, "seed": when.get("seed") or 0}
