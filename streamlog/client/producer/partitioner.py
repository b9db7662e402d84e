"""Which partition a record goes to.

`xxhash` is the default of streamlog, `murmur2` that of Java's clients, `crc32` that of librdkafka:
each hashes the key, so all clients send the records of one key to one partition. Records without a key, and
all records with `sticky`, stay on one partition until its batch ends, and then move to the next (KIP-480): spread
record by record, they would leave every partition with a small batch. Without a linger each send is a batch.
`round_robin` takes the partitions in turn and ignores keys.

Java's clients have moved by bytes since KIP-794, because a slow broker's batches grow while they wait, so that by batches
it gets the most records. Here the thread that sends also writes: no partition is slower than another. By bytes, 160 jobs
of 100 bytes that are sent one by one would all be on one partition, and all but one of a group's workers idle.

A partitioner belongs to one producer, which calls it under a lock.
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
    """What a producer calls. `count` is the topic's number of partitions now, at least 1.

    REQUIRES: one thread at a time.
    """

    def partition(self, topic: str, key: bytes | None, count: int) -> int:
        """The partition of one record, from 0 to `count` - 1."""

    def partition_many(self, topic: str, keys: Sequence[bytes | None] | None, count: int, n: int = 0) -> list[int]:
        """The partitions of many records, which are one batch on each: what `partition` would return for each in turn.

        `keys=None` means `n` records without a key.
        """

    def on_new_batch(self, topic: str, count: int) -> None:
        """A batch of the topic ends: records without a key move to another partition."""

    def keep_only(self, topics: Container[str]) -> None:
        """Forget what is known of topics other than these.

        This is the only method that may be called while another thread is in one. A step of that thread may be lost then:
        records without a key stay on their partition for another batch.
        """


def make_partitioner(spec: str | PartitionFunction, start: int = 0, *, unbatched: bool = False) -> Partitioner:
    """The partitioner that a setting asks for: a name, or a function (topic, key, count) -> partition.

    `start` is the partition at which it begins. Each producer begins at another one; otherwise many producers that send one
    record each would all send it to the same partition. `unbatched`: each call of `partition` or `partition_many` is a batch
    of its own, and the producer does not call `on_new_batch`.

    Raises ConfigError for an unknown name, with the nearest known one.

    >>> make_partitioner("murmur2").partition("orders", b"TT0124", 15)
    10
    """
    if isinstance(spec, str):
        if spec in _HASHES:
            return KeyHash(_HASHES[spec], start, unbatched=unbatched)
        if spec == "sticky":
            return Sticky(start, unbatched=unbatched)
        if spec == "round_robin":
            return RoundRobin(start)
        known = [*_HASHES, "round_robin", "sticky"]
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
    """One partition until its batch ends, then the next; each topic has its own."""

    ignores_keys = True

    def __init__(self, start: int = 0, *, unbatched: bool = False) -> None:
        self._start = start
        self._unbatched = unbatched
        self._current: dict[str, int] = {}

    def partition(self, topic: str, key: bytes | None, count: int) -> int:
        at = self._current.get(topic, self._start) % count
        if self._unbatched:  # here, because a call of `on_new_batch` would be 3% of a send without a linger
            self._current[topic] = at + 1
        return at

    def partition_many(self, topic: str, keys: Sequence[bytes | None] | None, count: int, n: int = 0) -> list[int]:
        return [self.partition(topic, None, count)] * (n if keys is None else len(keys))

    def on_new_batch(self, topic: str, count: int) -> None:
        # The next one and not, as in Java, a random one: a run can be repeated, and no partition gets two batches before
        # each has one.
        self._current[topic] = (self._current.get(topic, self._start) + 1) % count

    def keep_only(self, topics: Container[str]) -> None:
        """Forget the partition of topics other than these."""
        self._current = {name: at for name, at in self._current.copy().items() if name in topics}


class KeyHash(Sticky):
    """The hash of the key modulo the number of partitions; sticky for records without a key. An empty key is a key."""

    ignores_keys = False

    def __init__(self, hash_key: Callable[[bytes], int], start: int = 0, *, unbatched: bool = False) -> None:
        super().__init__(start, unbatched=unbatched)
        self._hash = hash_key

    def partition(self, topic: str, key: bytes | None, count: int) -> int:
        if key is None:
            at = self._current.get(topic, self._start) % count
            if self._unbatched:  # as in Sticky, without its call
                self._current[topic] = at + 1
            return at
        return self._hash(key) % count

    def partition_many(self, topic: str, keys: Sequence[bytes | None] | None, count: int, n: int = 0) -> list[int]:
        if keys is None:
            return [self.partition(topic, None, count)] * n
        if count == 1:
            return [0] * len(keys)
        if None in keys:
            sticky, hash_key = self.partition(topic, None, count), self._hash
            return [sticky if key is None else hash_key(key) % count for key in keys]
        # No Python code runs for each record here, which is what makes `send_many` with keys fast.
        return list(map(mod, map(self._hash, keys), repeat(count)))  # type: ignore[arg-type]


class RoundRobin:
    """The partitions in turn; each topic has its own turn."""

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
        """Forget the turn of topics other than these."""
        self._next = {name: turn for name, turn in self._next.copy().items() if name in topics}


class Custom:
    """A function of the program's. It is called for records without a key too, and its result is checked."""

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
                f"the partitioner {name} returned {answer!r} for topic {topic!r}; "
                f"it must return an int from 0 to {count - 1}"
            )
        return partition

    def partition_many(self, topic: str, keys: Sequence[bytes | None] | None, count: int, n: int = 0) -> list[int]:
        return [self.partition(topic, key, count) for key in (repeat(None, n) if keys is None else keys)]

    def on_new_batch(self, topic: str, count: int) -> None:
        """A function keeps its own state."""

    def keep_only(self, topics: Container[str]) -> None:
        """It keeps nothing of any topic."""


def murmur2(data: bytes) -> int:
    """MurmurHash2 of 32 bits with Kafka's seed, as Java's clients compute it; unsigned.

    It takes about 0.2 µs for each 4 bytes. A dependency for this one hash was not worth it.

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
    # Java clears the sign bit and does not negate the number: negated, it would give another partition.
    return murmur2(key) & 0x7FFFFFFF


_HASHES: dict[str, Callable[[bytes], int]] = {"xxhash": xxh64_intdigest, "murmur2": _java_murmur2, "crc32": crc32}
