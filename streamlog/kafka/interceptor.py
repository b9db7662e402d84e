"""What becomes of the requests of clients once a test looks at them: `Interceptor`, which a listener asks in place of a handler.

It remembers the requests, knows the versions that are pinned, and carries out the faults that fire (`faults` says which). Its other
side, which a test has, is `control.Control`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple, Protocol

from ..broker.api import Service
from ..runtime.api import Completion
from . import error_responses, schema
from .api_keys import ApiKey
from .apis import CLOSE, Call, Handler, Later
from .error_responses import Refusal, then
from .errors import ErrorCode
from .faults import MAX_DELAY_MS, Asked, Fault, Rules, depth_of, partitions_named, topic_and_partition

MAX_REQUESTS = 10_000
"""How many requests are remembered: the last ones."""
_INJECTED = "This error was injected by a test, through listener.control."


class SeenRequest(NamedTuple):
    """A request that came to a listener.

    api: str
        Kafka's name of it, such as "Produce".
    version: int
        The version in which the client sent it.
    broker_id: int
        The broker that it came to.
    client_id: str
        What the client calls itself.
    topics: tuple of str
        The topics that it names; for a Fetch all that its session has.
    time_ms: int (ms)
        When it came, by the log's clock.

    >>> SeenRequest("Produce", 12, 0, "shop", ("orders",), 1_767_225_600_000).topics
    ('orders',)
    """

    api: str
    version: int
    broker_id: int
    client_id: str
    topics: tuple[str, ...]
    time_ms: int


class Listening(Protocol):
    """What it needs of a listener that listens."""

    @property
    def service(self) -> Service: ...
    def partitions_fetched(self, request: Any) -> Mapping[str, frozenset[int]]:
        """The topics and partitions of a Fetch request, with those of its session."""


class Interceptor:
    """Called by the listener's thread. Any thread may change `rules`, replace `max_versions` as a whole, and copy or clear `seen`."""

    def __init__(self) -> None:
        self.rules = Rules()
        self.max_versions: Mapping[int, int] = {}
        """The greatest version of each API that is pinned; -1: the API is not there."""
        self.seen: deque[SeenRequest] = deque(maxlen=MAX_REQUESTS)
        """The last requests, the oldest first."""

    def max_version(self, key: int, high: int) -> int:
        """The greatest version of an API that it knows, `high` unless another is pinned."""
        return min(high, self.max_versions.get(key, high))

    def pin_versions(self, response: Any) -> Any:
        """An answer to ApiVersions, as the pins have it."""
        pinned = self.max_versions
        for each in response.api_keys:
            each.max_version = min(each.max_version, pinned.get(each.api_key, each.max_version))
        response.api_keys = [each for each in response.api_keys if each.max_version >= 0]
        return response

    def _pinned_versions(self, handler: Handler, call: Call) -> Any:
        return self.pin_versions(handler(call))

    def answer(self, listener: Listening, key: int, call: Call, handler: Handler) -> Any:
        """What `handler(call)` would be, with what the test wants of it."""
        service = listener.service
        names = service.image.names
        named = (
            listener.partitions_fetched(call.request)
            if key == ApiKey.FETCH
            else partitions_named(key, call.version, call.request, names)
        )
        self.seen.append(
            SeenRequest(
                schema.names()[key], call.version, call.broker_id, call.client_id, tuple(named or ()),
                service.clock.time_ms(),
            )
        )  # fmt: skip
        pinned = self.max_versions.get(key)
        if pinned is not None and pinned < 0:
            return CLOSE
        if pinned is not None and call.version > pinned:
            code = ErrorCode.UNSUPPORTED_VERSION
            message = f"The listener is pinned to version {pinned} of this API."
            depth = error_responses.depth_of(key, call.version, code)
            refusal = Refusal(code, depth, lambda place: True, after=False, message=message)
            return _refused(key, call, handler, [refusal])
        if key == ApiKey.API_VERSIONS and self.max_versions:
            handler = partial(self._pinned_versions, handler)
        fired = (
            self.rules.decide(Asked(key, call.version, call.broker_id, call.client_id, named))
            if self.rules.active
            else []
        )
        if not fired:
            return handler(call)
        delay_ms = min(MAX_DELAY_MS, sum(fault.delay_ms for fault in fired))
        if not delay_ms:
            return _carried_out(key, call, handler, fired)
        return Later(_after(service, delay_ms), lambda _: _carried_out(key, call, handler, fired))


def _carried_out(key: int, call: Call, handler: Handler, fired: list[Fault]) -> Any:
    """What becomes of a request for which these faults fire."""
    kinds = {fault.kind for fault in fired}
    if "disconnect" in kinds:
        return CLOSE
    names = call.service.image.names
    refusals = [
        Refusal(
            fault.code,
            depth_of(fault, key, call.version),
            lambda place, fault=fault: fault.is_for(*topic_and_partition(place, names)),  # type: ignore[misc]
            fault.after,
            _INJECTED,
        )
        for fault in fired
        if fault.kind == "error"
    ]
    response = _refused(key, call, handler, refusals) if refusals else handler(call)
    return then(response, lambda _: CLOSE) if "drop_response" in kinds else response


def _refused(key: int, call: Call, handler: Handler, refusals: list[Refusal]) -> Any:
    if key == ApiKey.FETCH and all(each.depth for each in refusals):
        # Its partitions are those of the session, which has to know what the client was told.
        call.refuses = partial(_fetch_refusal, refusals)
        return handler(call)
    answers = key != ApiKey.PRODUCE or bool(call.request.acks)
    return error_responses.answer(key, call.version, call.request, refusals, lambda: handler(call), answers=answers)


def _fetch_refusal(refusals: list[Refusal], topic: str, number: int) -> int:
    place = ({"topic": topic}, {"partition": number})
    return next((each.code for each in refusals if each.selects(place)), ErrorCode.NONE)


def _after(service: Service, delay_ms: int) -> Completion[None]:
    """Done after this time of the log's clock. REQUIRES: the loop of the listener runs on this thread."""
    done: Completion[None] = Completion()
    if hasattr(service.clock, "attach"):  # a clock that a test moves
        service.timers.at(service.clock.time_ms() + delay_ms, lambda now_ms: done.complete(None))
    else:
        asyncio.get_running_loop().call_later(delay_ms / 1000, done.complete, None)
    return done
