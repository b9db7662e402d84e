"""Records for tests: made by hand, and those that a topic has."""

from __future__ import annotations

from typing import Any, TypeVar, overload

from ..client.serde import header_tuple
from ..client.streamlog import StreamLog
from ..client.topic import Topic
from ..runtime.threads import result_of
from ..types import Headers, Record
from .clock import NEW_YEAR_2026_MS

K = TypeVar("K")
V = TypeVar("V")


def make_record(
    *,
    topic: str = "topic",
    partition: int = 0,
    offset: int = 0,
    timestamp: int = NEW_YEAR_2026_MS,
    key: Any = None,
    value: Any = b"",
    headers: Headers = (),
) -> Record[Any, Any]:
    """A record as a consumer gives it, for the test of a function that takes one. No log is needed.

    Key and value are kept as they are given: bytes as of a topic without a serde, or what a deserializer makes. Headers are
    given as to a producer: a mapping, or pairs. `timestamp` is in ms since the epoch, by default where a `ManualClock` begins.
    Raises TypeError for a field that a record does not have, SerializationError for headers that a producer would refuse.

    >>> from streamlog.testing import make_record
    >>> def total(record):
    ...     return float(record.value) * int(record.header("count", b"1"))
    >>> total(make_record(value=b"9.50", headers={"count": b"2"}))
    19.0
    """
    return Record(topic, partition, offset, timestamp, key, value, header_tuple(headers))


@overload
def records(log: StreamLog, topic: str) -> list[Record]: ...
@overload
def records(log: StreamLog, topic: Topic[K, V]) -> list[Record[K, V]]: ...
def records(log: StreamLog, topic: str | Topic[Any, Any]) -> list[Record[Any, Any]]:
    """All records of a topic up to its end: partition after partition, in each in the order of offsets.

    Records of transactions that are open or aborted are not among them. A topic with a serde gives its own keys and values.
    Cost: all of them are in memory. Raises UnknownTopicOrPartitionError, and creates no topic.

    >>> import streamlog
    >>> from streamlog.testing import records
    >>> with streamlog.open() as log:
    ...     _ = log.create_topic("orders").send_many(["9.50", "20.00"])
    ...     [record.value for record in records(log, "orders")]
    [b'9.50', b'20.00']
    """
    if isinstance(topic, str):
        result_of(log._use().topic(topic))  # where topics are created by their use too: a misspelt one is no empty one
        topic = log[topic]
    return list(topic.read())
