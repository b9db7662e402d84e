"""Times, timeouts, partitions, offsets and disks as callers give them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sized
from datetime import datetime
from itertools import islice
from typing import Any

from ..config import shown
from ..errors import ConfigError
from ..types import OffsetAndMetadata, Record, TopicPartition


def partition_of(given: Any) -> TopicPartition:
    """A TopicPartition, also from an equal plain tuple. Raises ConfigError for anything else."""
    if isinstance(given, tuple) and len(given) == 2 and isinstance(given[0], str) and isinstance(given[1], int):
        return given if type(given) is TopicPartition else TopicPartition(*given)
    raise ConfigError(f"A partition is a TopicPartition, or an equal tuple such as ('orders', 0), not {given!r:.80}.")


# What a record's offset can be, here as in Kafka: 64 bits with a sign.
LARGEST_OFFSET = 2**63 - 1
# Longer than any program runs, and short enough to be added to any clock.
LONGEST_S = 1e9


def is_offset(given: Any) -> bool:
    """Whether it is an int that an offset can be."""
    return isinstance(given, int) and not isinstance(given, bool) and 0 <= given <= LARGEST_OFFSET


def seconds(timeout: Any) -> float:
    """A timeout in real seconds; less than none is none, more than any program runs is cut. Raises ConfigError."""
    try:
        if isinstance(timeout, (bool, str, bytes)) or timeout != timeout:
            raise TypeError
        return float(min(max(timeout, 0.0), LONGEST_S))
    except (TypeError, ValueError) as error:
        raise ConfigError(f"timeout={shown(timeout)} is no number of seconds, such as 0.5.", name="timeout") from error


def seconds_or_none(timeout: Any) -> float | None:
    """`seconds`, where None is a wait without an end."""
    return None if timeout is None else seconds(timeout)


def up_to(limit: int, given: Iterable[Any]) -> Iterable[Any]:
    """What is given, but of an iterator, which may have no end, no more than `limit`."""
    return given if isinstance(given, Sized) else islice(given, limit)


def count_of(given: object, taken: Sized) -> str:
    """How many there are, as far as they were `taken` by `up_to`."""
    return f"{len(taken)}" if isinstance(given, Sized) else f"{len(taken)} or more"


def commit_offsets(offsets: Any) -> dict[TopicPartition, OffsetAndMetadata]:
    """What `commit` takes, a Record or a mapping, as the NEXT offset of each partition. Raises ConfigError."""
    if isinstance(offsets, Record):
        offsets = {offsets.topic_partition: offsets.offset + 1 if is_offset(offsets.offset) else offsets.offset}
    if not isinstance(offsets, Mapping):
        raise ConfigError(
            f"commit() takes a Record, or a mapping of TopicPartition to the next offset, not {offsets!r:.80}."
        )
    wanted: dict[TopicPartition, OffsetAndMetadata] = {}
    for name, at in offsets.items():
        made = at if isinstance(at, OffsetAndMetadata) else OffsetAndMetadata(at)
        wanted[partition_of(name)] = _checked(name, made)
    return wanted


def _checked(name: Any, made: OffsetAndMetadata) -> OffsetAndMetadata:
    offset, metadata, leader_epoch = made
    if not is_offset(offset):
        raise ConfigError(
            f"{shown(offset)} is no offset to commit for {shown(name)}: an int from 0 to 2**63 - 1, the NEXT to read."
        )
    if metadata is not None and not isinstance(metadata, str):
        raise ConfigError(f"The metadata of a commit is a str, not {shown(metadata)}.")
    if leader_epoch is not None and not (is_offset(leader_epoch) and leader_epoch < 2**31):
        raise ConfigError(
            f"The leader epoch of a commit is None or an int from 0 to 2**31 - 1, not {shown(leader_epoch)}."
        )
    return made if metadata is not None else OffsetAndMetadata(offset, "", leader_epoch)


def to_ms(at: Any) -> int:
    """Milliseconds since the epoch from an int or an aware datetime. Raises ConfigError (a ValueError) for a naive one."""
    if isinstance(at, datetime):
        if at.tzinfo is None or at.utcoffset() is None:
            raise ConfigError(
                f"{at!r} has no time zone, so it names no moment; pass an aware datetime, such as "
                f"datetime(..., tzinfo=datetime.UTC)."
            )
        whole = at.replace(microsecond=0)
        # Rounded up: a record at or after a moment is at or after the next whole millisecond.
        return round(whole.timestamp()) * 1000 + -(-at.microsecond // 1000)
    if isinstance(at, bool) or not isinstance(at, int):
        raise ConfigError(f"{shown(at)} is no time: pass an int of milliseconds since the epoch, or an aware datetime.")
    return at


def check_clock(clock: Any) -> Any:
    """`clock` if it tells the time, or None; ConfigError otherwise."""
    if clock is not None and not all(callable(getattr(clock, name, None)) for name in ("time_ms", "monotonic")):
        raise ConfigError(
            f"clock={shown(clock)} has no time_ms() and monotonic(): give a streamlog.testing.ManualClock, or leave it out.",
            name="clock",
        )
    return clock


def check_disk(disk: Any) -> Any:
    """`disk` if it can be one, or None; ConfigError otherwise."""
    if disk is not None and not all(callable(getattr(disk, name, None)) for name in ("open", "sync_dir", "lock")):
        raise ConfigError(
            f"disk={shown(disk)} is no disk: give a streamlog.testing.SimulatedDisk or FaultyDisk, or leave it out.",
            name="disk",
        )
    return disk
