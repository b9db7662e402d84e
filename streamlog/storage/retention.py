"""Retention: which of the oldest sealed segments may be deleted.

A policy gets the sealed segments of one partition, oldest first, and the time; it returns how many of the oldest may be
deleted. The active segment is never among them. It is sealed when it is full, or after `segment_ms` also if nothing is
appended, or when all of its records are older than `retention_ms`; then the policy gets it too. Policies are plain values: they can be compared and combined, and have no state.

The policies of a topic (its settings and `retention=`) are joined with `|`: each may delete what the others would keep.
A policy that sets a floor, such as "keep at least 1000 records", therefore has to be combined with `&` with a policy
that deletes.

A new policy is a class beside `MaxAge`. A topic stores only its name, such as `max_age(1000)`: one number in
parentheses. `_NAME` has to match that name, and `_KINDS` has the class. `streamlog/retention.py` exports it. If it has
a setting of a topic too, `policy_of` makes it from that field of `TopicConfig` (`config.py`, `client/config_types.py`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol, overload

from ..config import FOREVER, TopicConfig, duration_ms, integer
from ..errors import ConfigError
from ..types import Policy, SegmentInfo


class Sealed(Protocol):
    """A sealed segment: its size is known, and `info` may have to read its headers."""

    size: int

    def info(self) -> SegmentInfo: ...


class Segments(Sequence[SegmentInfo]):
    """The sealed segments that a policy gets, oldest first. Each one's information is read when it is accessed."""

    def __init__(self, sealed: Sequence[Sealed]) -> None:
        self._sealed = sealed

    def sizes(self) -> list[int]:
        """The size of each in bytes; nothing is read."""
        return [segment.size for segment in self._sealed]

    def __len__(self) -> int:
        return len(self._sealed)

    @overload
    def __getitem__(self, at: int) -> SegmentInfo: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[SegmentInfo]: ...
    def __getitem__(self, at: int | slice) -> SegmentInfo | Sequence[SegmentInfo]:
        return Segments(self._sealed[at]) if isinstance(at, slice) else self._sealed[at].info()


class Combinable:
    """The base class of policies, which can be combined by `|` and `&`. For one of your own, define `name` and `expired`.

    `streamlog.Policy` describes both. A policy need not derive from this class: then it can still be combined with one
    that does.

    >>> class Nothing(Combinable):
    ...     name = "nothing"
    ...     def expired(self, segments, now_ms):
    ...         return 0
    >>> (Nothing() & MaxBytes(5)).name
    '(nothing & max_bytes(5))'
    """

    name = ""

    def expired(self, segments: Sequence[SegmentInfo], now_ms: int) -> int:
        """How many of the oldest sealed segments may be deleted."""
        raise TypeError(f"{type(self).__name__} is not a policy yet: it has to define expired(segments, now_ms) -> int")

    def __or__(self, other: Policy) -> AnyOf:
        """Delete what either policy allows."""
        return AnyOf(self, other)

    def __ror__(self, other: Policy) -> AnyOf:
        """Delete what either policy allows."""
        return AnyOf(other, self)

    def __and__(self, other: Policy) -> AllOf:
        """Delete only what both policies allow."""
        return AllOf(self, other)

    def __rand__(self, other: Policy) -> AllOf:
        """Delete only what both policies allow."""
        return AllOf(other, self)


@dataclass(frozen=True)
class MaxAge(Combinable):
    """Segments whose newest record is older than `age` may be deleted. The setting `retention_ms` does the same.

    age: int (ms) or timedelta
        0 or more; kept as an int of ms. Raises ConfigError for an age that is unlimited.

    >>> from datetime import timedelta
    >>> MaxAge(timedelta(days=7))
    MaxAge(age=604800000)
    """

    age: int | timedelta

    def __post_init__(self) -> None:
        age = duration_ms("age", self.age)
        if age == FOREVER:
            raise ConfigError(
                f"age={self.age} is unlimited, and no record is ever older; leave this policy out.", name="age"
            )
        object.__setattr__(self, "age", age)

    @property
    def name(self) -> str:  # type: ignore[override]
        """`max_age(MS)`, which the topic stores."""
        return f"max_age({self.age})"

    def expired(self, segments: Sequence[SegmentInfo], now_ms: int) -> int:
        assert isinstance(self.age, int)
        horizon = now_ms - self.age
        for count, segment in enumerate(segments):
            if segment.max_timestamp >= horizon:
                return count
        return len(segments)


@dataclass(frozen=True)
class MaxBytes(Combinable):
    """The oldest segments may be deleted while the remaining sealed ones hold at least `size` bytes.

    The setting `retention_bytes` does the same.

    size: int (bytes)
        0 or more.

    >>> MaxBytes(1 << 30).name
    'max_bytes(1073741824)'
    """

    size: int

    def __post_init__(self) -> None:
        integer("size", self.size, 0)

    @property
    def name(self) -> str:  # type: ignore[override]
        """`max_bytes(BYTES)`, which the topic stores."""
        return f"max_bytes({self.size})"

    def expired(self, segments: Sequence[SegmentInfo], now_ms: int) -> int:
        sizes = segments.sizes() if isinstance(segments, Segments) else [segment.size_bytes for segment in segments]
        return _surplus(sizes, self.size)


@dataclass(frozen=True)
class MaxRecords(Combinable):
    """The oldest segments may be deleted while the remaining sealed ones hold at least `count` records.

    The setting `retention_records` does the same.

    count: int
        0 or more.

    >>> (MaxAge(60_000) & MaxRecords(1_000)).name  # delete what is old, and keep 1000 records
    '(max_age(60000) & max_records(1000))'
    """

    count: int

    def __post_init__(self) -> None:
        integer("count", self.count, 0)

    @property
    def name(self) -> str:  # type: ignore[override]
        """`max_records(COUNT)`, which the topic stores."""
        return f"max_records({self.count})"

    def expired(self, segments: Sequence[SegmentInfo], now_ms: int) -> int:
        return _surplus([segment.records for segment in segments], self.count)


def _surplus(amounts: Sequence[int], bound: int) -> int:
    left = sum(amounts)
    for count, amount in enumerate(amounts):
        left -= amount
        if left < bound:
            return count
    return len(amounts)


@dataclass(frozen=True)
class AnyOf(Combinable):
    """What either of two policies allows may be deleted: `left | right` makes it.

    left: Policy
        The one.
    right: Policy
        The other.

    >>> MaxAge(60_000) | MaxBytes(1 << 30)
    AnyOf(left=MaxAge(age=60000), right=MaxBytes(size=1073741824))
    """

    left: Policy
    right: Policy

    @property
    def name(self) -> str:  # type: ignore[override]
        """`(LEFT | RIGHT)`, which the topic stores."""
        return f"({self.left.name} | {self.right.name})"

    def expired(self, segments: Sequence[SegmentInfo], now_ms: int) -> int:
        return max(checked(self.left, segments, now_ms), checked(self.right, segments, now_ms))


@dataclass(frozen=True)
class AllOf(Combinable):
    """Only what both policies allow may be deleted: `left & right` makes it.

    left: Policy
        The one.
    right: Policy
        The other.

    >>> MaxAge(60_000) & MaxRecords(1_000)
    AllOf(left=MaxAge(age=60000), right=MaxRecords(count=1000))
    """

    left: Policy
    right: Policy

    @property
    def name(self) -> str:  # type: ignore[override]
        """`(LEFT & RIGHT)`, which the topic stores."""
        return f"({self.left.name} & {self.right.name})"

    def expired(self, segments: Sequence[SegmentInfo], now_ms: int) -> int:
        return min(checked(self.left, segments, now_ms), checked(self.right, segments, now_ms))


def checked(policy: Policy, segments: Sequence[SegmentInfo], now_ms: int) -> int:
    """The result of the policy, limited to the number of segments: a user's policy may return anything."""
    count = policy.expired(segments, now_ms)
    if isinstance(count, bool) or not isinstance(count, int):
        raise TypeError(f"retention policy {policy.name!r} returned {count!r}; it has to return an int")
    return max(0, min(count, len(segments)))


_NAME = re.compile(r"max_(age|bytes|records)\((\d+)\)")
_KINDS: dict[str, Callable[[int], Policy]] = {"age": MaxAge, "bytes": MaxBytes, "records": MaxRecords}


def named(name: str) -> Policy | None:
    """The policy with this name, or None if it is a user's own, which cannot be made from a name.

    >>> named("(max_age(1000) | max_bytes(5))")
    AnyOf(left=MaxAge(age=1000), right=MaxBytes(size=5))
    """
    match = _NAME.fullmatch(name)
    if match is not None:
        return _KINDS[match[1]](int(match[2]))
    if not (name.startswith("(") and name.endswith(")")):
        return None
    depth = 0
    for at, letter in enumerate(name):
        depth += (letter == "(") - (letter == ")")
        if depth == 1 and name[at : at + 3] in (" | ", " & "):
            left, right = named(name[1:at]), named(name[at + 3 : -1])
            if left is None or right is None:
                return None
            return AnyOf(left, right) if name[at + 1] == "|" else AllOf(left, right)
    return None


def policy_of(config: TopicConfig, custom: Policy | None) -> Policy | None:
    """The policy that follows from a topic's settings; None keeps everything.

    A custom policy is combined with the limits: what either allows may be deleted. If the settings name one that was
    not given since the log was opened, nothing is deleted.
    """
    if not config.deletes or (config.retention is not None and custom is None):
        return None
    policies: list[Policy] = []
    if config.retention_ms != FOREVER:
        policies.append(MaxAge(config.retention_ms))
    if config.retention_bytes != FOREVER:
        policies.append(MaxBytes(config.retention_bytes))
    if config.retention_records != FOREVER:
        policies.append(MaxRecords(config.retention_records))
    if custom is not None:
        policies.append(custom)
    if not policies:
        return None
    joined = policies[0]
    for policy in policies[1:]:
        joined = AnyOf(joined, policy)
    return joined
