"""Which partition a record goes to.

`xxhash` is the default of streamlog, `murmur2` that of Java's clients, `crc32` that of librdkafka:
each hashes the key, so one key stays on one partition, whoever wrote it. Records without a key, and
all records under `sticky`, stay on one partition until its batch is done and then move to the next;
spread record by record they would fill every partition's batch a little and none of them well.
`round_robin` takes the partitions in turn and ignores keys.

A partitioner belongs to one producer, which calls it under a lock of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from itertools import repeat
from operator import index, mod
from struct import unpack_from
from typing import Any, Protocol, TypeAlias
from zlib import crc32

from xxhash import xxh64_intdigest

from ...errors import ConfigError, did_you_mean

PartitionFunction: TypeAlias = Callable[[str, bytes | None, int], int]


class Partitioner(Protocol):
    """What a producer asks. `count` is the topic's number of partitions now, and at least 1.

    REQUIRES of the caller: one thread at a time.
    """

    def partition(self, topic: str, key: bytes | None, count: int) -> int:
        """The partition of one record, from 0 to `count` - 1."""

    def partition_many(self, topic: str, keys: Sequence[bytes | None] | None, count: int, n: int = 0) -> list[int]:
        """The partitions of many records: what `partition` would say to each in turn.

        `keys=None` stands for `n` records without a key.
        """

    def on_new_batch(self, topic: str, count: int) -> None:
        """A batch of the topic is done: records without a key move on."""

    def keep_only(self, topics: Container[str]) -> None:
        """Topics other than these are gone: nothing is to be kept of them.

        The one call that may come while another thread is in here. Then a step of that thread may be lost: records
        without a key stay where they are for a batch more.
        """


def make_partitioner(spec: str | PartitionFunction, start: int = 0) -> Partitioner:
    """The partitioner that a setting asks for: a name, or a function (topic, key, count) -> partition.

    `start` is the partition where stickiness and turns begin. Give each producer another: many that
    send a record each and close would otherwise fill the same partition.

    Raises ConfigError for an unknown name, with the nearest known one.

    >>> make_partitioner("murmur2").partition("orders", b"TT0124", 15)
    10
    """
    if isinstance(spec, str):
        if spec in _HASHES:
            return KeyHash(_HASHES[spec], start)
        if spec in _OTHERS:
            return _OTHERS[spec](start)
        known = [*_HASHES, *_OTHERS]
        hint = did_you_mean(spec.lower(), known)
        raise ConfigError(
            f"no partitioner is called {spec!r}{hint}; take one of {', '.join(known)}, "
            "or a function (topic, key, count) -> partition"
        )
    if not callable(spec):
        raise ConfigError(
            f"partitioner is a {type(spec).__name__}, {spec!r}; "
            "give a name or a function (topic, key, count) -> partition"
        )
    return Custom(spec)


class Sticky:
    """One partition until its batch is done, then the next, for each topic by itself."""

    def __init__(self, start: int = 0) -> None:
        self._start = start
        self._current: dict[str, int] = {}

    def partition(self, topic: str, key: bytes | None, count: int) -> int:
        return self._current.get(topic, self._start) % count

    def partition_many(self, topic: str, keys: Sequence[bytes | None] | None, count: int, n: int = 0) -> list[int]:
        return [self.partition(topic, None, count)] * (n if keys is None else len(keys))

    def on_new_batch(self, topic: str, count: int) -> None:
        # The next one and not, as in Java, a random one: runs repeat, and no two batches meet on a
        # partition while another has none.
        self._current[topic] = (self._current.get(topic, self._start) + 1) % count

    def keep_only(self, topics: Container[str]) -> None:
        """Forget where it is in topics other than these."""
        self._current = {name: at for name, at in self._current.copy().items() if name in topics}


class KeyHash(Sticky):
    """The key's hash modulo the number of partitions; sticky without a key. An empty key is a key."""

    def __init__(self, hash_key: Callable[[bytes], int], start: int = 0) -> None:
        super().__init__(start)
        self._hash = hash_key

    def partition(self, topic: str, key: bytes | None, count: int) -> int:
        if key is None:
            return self._current.get(topic, self._start) % count
        return self._hash(key) % count

    def partition_many(self, topic: str, keys: Sequence[bytes | None] | None, count: int, n: int = 0) -> list[int]:
        if keys is None:
            return [self.partition(topic, None, count)] * n
        if count == 1:
            return [0] * len(keys)
        if None in keys:
            sticky, hash_key = self.partition(topic, None, count), self._hash
            return [sticky if key is None else hash_key(key) % count for key in keys]
        # No line of Python runs per record here, which is what makes `send_many` with keys fast.
        return list(map(mod, map(self._hash, keys), repeat(count)))  # type: ignore[arg-type]


class RoundRobin:
    """The partitions in turn, for each topic by itself."""

    def __init__(self, start: int = 0) -> None:
        self._start = start
        self._next: dict[str, int] = {}

    def partition(self, topic: str, key: bytes | None, count: int) -> int:
        turn = self._next.get(topic, self._start) % count
        self._next[topic] = turn + 1
        return turn

    def partition_many(self, topic: str, keys: Sequence[bytes | None] | None, count: int, n: int = 0) -> list[int]:
        n = n if keys is None else len(keys)
        first = self._next.get(topic, self._start) % count
        if n:
            self._next[topic] = (first + n - 1) % count + 1
        return list(map(mod, range(first, first + n), repeat(count)))

    def on_new_batch(self, topic: str, count: int) -> None:
        """Turns do not depend on batches."""

    def keep_only(self, topics: Container[str]) -> None:
        """Forget whose turn it is in topics other than these."""
        self._next = {name: turn for name, turn in self._next.copy().items() if name in topics}


class Custom:
    """A program's own function. It is asked for records without a key too, and its answer is checked."""

    def __init__(self, function: PartitionFunction) -> None:
        self._function = function

    def partition(self, topic: str, key: bytes | None, count: int) -> int:
        answer: Any = self._function(topic, key, count)
        if type(answer) is int and 0 <= answer < count:
            return answer
        try:
            partition = -1 if isinstance(answer, bool) else index(answer)
        except TypeError:
            partition = -1
        if not 0 <= partition < count:
            name = getattr(self._function, "__qualname__", repr(self._function))
            raise ConfigError(
                f"the partitioner {name} answered {answer!r} for topic {topic!r}; "
                f"it must return an int from 0 to {count - 1}"
            )
        return partition

    def partition_many(self, topic: str, keys: Sequence[bytes | None] | None, count: int, n: int = 0) -> list[int]:
        return [self.partition(topic, key, count) for key in (repeat(None, n) if keys is None else keys)]

    def on_new_batch(self, topic: str, count: int) -> None:
        """A function keeps what state it needs itself."""

    def keep_only(self, topics: Container[str]) -> None:
        """Nothing is known of any topic."""


def murmur2(data: bytes) -> int:
    """MurmurHash2 of 32 bits with Kafka's seed, as Java's clients compute it; unsigned.

    About 0.2 µs for each 4 bytes: a dependency for this one hash was not worth it.

    >>> murmur2(b"21") - 2**32
    -973932308
    """
    length = len(data)
    words = length >> 2
    h = 0x9747B28C ^ length
    for k in unpack_from(f"<{words}I", data):
        k = k * 0x5BD1E995 & 0xFFFFFFFF
        h = (h * 0x5BD1E995 ^ (k ^ k >> 24) * 0x5BD1E995) & 0xFFFFFFFF
    if length & 3:
        h = (h ^ int.from_bytes(data[words << 2 :], "little")) * 0x5BD1E995 & 0xFFFFFFFF
    h = (h ^ h >> 13) * 0x5BD1E995 & 0xFFFFFFFF
    return h ^ h >> 15


def _java_murmur2(key: bytes) -> int:
    # Java clears the sign of its int and does not negate it: the two differ, and so would the partition.
    return murmur2(key) & 0x7FFFFFFF


_HASHES: dict[str, Callable[[bytes], int]] = {"xxhash": xxh64_intdigest, "murmur2": _java_murmur2, "crc32": crc32}
_OTHERS: dict[str, Callable[[int], Partitioner]] = {"round_robin": RoundRobin, "sticky": Sticky}
