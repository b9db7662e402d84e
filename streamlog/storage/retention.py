"""Retention: which of the oldest sealed segments may go.

A policy is asked with the sealed segments of one partition, oldest first, and the time; it answers
how many of the oldest may go. Policies are plain values: comparable, combinable, and pure.
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
    """A sealed segment, of which the size is known and the rest may take a walk to find out."""

    size: int

    def info(self) -> SegmentInfo: ...


class Segments(Sequence[SegmentInfo]):
    """What a policy is asked with: the sealed segments, oldest first. Each is looked at when it is asked for."""

    def __init__(self, sealed: Sequence[Sealed]) -> None:
        self._sealed = sealed

    def sizes(self) -> list[int]:
        """The bytes of each, which need no look."""
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
    """A policy that joins others by `|` and `&`. A policy of your own may derive from it, or just have its shape.

    It needs a `name` (stored with the topic; the object cannot be) and
    `expired(segments: Sequence[SegmentInfo], now_ms: int) -> int`: how many of the oldest may go.

    >>> class Nothing(Combinable):
    ...     name = "nothing"
    ...     def expired(self, segments, now_ms):
    ...         return 0
    >>> (Nothing() & MaxBytes(5)).name
    '(nothing & max_bytes(5))'
    """

    name = ""

    def expired(self, segments: Sequence[SegmentInfo], now_ms: int) -> int:
        """How many of the oldest sealed segments may go."""
        raise TypeError(f"{type(self).__name__} is no policy yet: it has to define expired(segments, now_ms) -> int")

    def __or__(self, other: Policy) -> AnyOf:
        """What either allows may go."""
        return AnyOf(self, other)

    def __ror__(self, other: Policy) -> AnyOf:
        return AnyOf(other, self)

    def __and__(self, other: Policy) -> AllOf:
        """Only what both allow may go."""
        return AllOf(self, other)

    def __rand__(self, other: Policy) -> AllOf:
        return AllOf(other, self)


@dataclass(frozen=True)
class MaxAge(Combinable):
    """Segments whose latest record is older than `age` (milliseconds, or a timedelta) may go.

    >>> MaxAge(timedelta(days=7)).name
    'max_age(604800000)'
    """

    age: int | timedelta

    def __post_init__(self) -> None:
        age = duration_ms("age", self.age)
        if age == FOREVER:
            raise ConfigError(
                f"age={self.age} is unlimited, and nothing is ever older; leave this policy out.", name="age"
            )
        object.__setattr__(self, "age", age)

    @property
    def name(self) -> str:  # type: ignore[override]
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
    """The oldest segments may go while the sealed ones that stay hold at least `size` bytes."""

    size: int

    def __post_init__(self) -> None:
        integer("size", self.size, 0)

    @property
    def name(self) -> str:  # type: ignore[override]
        return f"max_bytes({self.size})"

    def expired(self, segments: Sequence[SegmentInfo], now_ms: int) -> int:
        sizes = segments.sizes() if isinstance(segments, Segments) else [segment.size_bytes for segment in segments]
        return _surplus(sizes, self.size)


@dataclass(frozen=True)
class MaxRecords(Combinable):
    """The oldest segments may go while the sealed ones that stay hold at least `count` records."""

    count: int

    def __post_init__(self) -> None:
        integer("count", self.count, 0)

    @property
    def name(self) -> str:  # type: ignore[override]
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
    """What any of two policies allows may go: `a | b`."""

    left: Policy
    right: Policy

    @property
    def name(self) -> str:  # type: ignore[override]
        return f"({self.left.name} | {self.right.name})"

    def expired(self, segments: Sequence[SegmentInfo], now_ms: int) -> int:
        return max(checked(self.left, segments, now_ms), checked(self.right, segments, now_ms))


@dataclass(frozen=True)
class AllOf(Combinable):
    """Only what both policies allow may go: `a & b`."""

    left: Policy
    right: Policy

    @property
    def name(self) -> str:  # type: ignore[override]
        return f"({self.left.name} & {self.right.name})"

    def expired(self, segments: Sequence[SegmentInfo], now_ms: int) -> int:
        return min(checked(self.left, segments, now_ms), checked(self.right, segments, now_ms))


def checked(policy: Policy, segments: Sequence[SegmentInfo], now_ms: int) -> int:
    """The policy's answer, held within what is there: a user's policy may answer anything."""
    count = policy.expired(segments, now_ms)
    if isinstance(count, bool) or not isinstance(count, int):
        raise TypeError(f"retention policy {policy.name!r} answered {count!r}; it has to answer an int")
    return max(0, min(count, len(segments)))


_NAME = re.compile(r"max_(age|bytes|records)\((\d+)\)")
_KINDS: dict[str, Callable[[int], Policy]] = {"age": MaxAge, "bytes": MaxBytes, "records": MaxRecords}


def named(name: str) -> Policy | None:
    """The policy that one of this module's names stands for, or None: a user's own cannot be rebuilt.

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
    """The policy that a topic's settings amount to; None keeps for ever.

    A custom policy stands beside the bounds: what either allows may go. While one is named in the
    settings but was not given since the log was opened, nothing is deleted at all.
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
