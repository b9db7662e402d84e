"""Times, partitions, offsets and disks as callers give them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from ..config import shown
from ..errors import ConfigError
from ..types import OffsetAndMetadata, Record, TopicPartition


def partition_of(given: Any) -> TopicPartition:
    """A TopicPartition, also from an equal plain tuple. Raises ConfigError for anything else."""
    if isinstance(given, tuple) and len(given) == 2 and isinstance(given[0], str) and isinstance(given[1], int):
        return given if type(given) is TopicPartition else TopicPartition(*given)
    raise ConfigError(f"A partition is a TopicPartition, or an equal tuple such as ('orders', 0), not {given!r:.80}.")


def commit_offsets(offsets: Any) -> dict[TopicPartition, OffsetAndMetadata]:
    """What `commit` takes, a Record or a mapping, as the NEXT offset of each partition. Raises ConfigError."""
    if isinstance(offsets, Record):
        return {offsets.topic_partition: OffsetAndMetadata(offsets.offset + 1)}
    if not isinstance(offsets, Mapping):
        raise ConfigError(
            f"commit() takes a Record, or a mapping of TopicPartition to the next offset, not {offsets!r:.80}."
        )
    wanted: dict[TopicPartition, OffsetAndMetadata] = {}
    for name, at in offsets.items():
        made = at if isinstance(at, OffsetAndMetadata) else OffsetAndMetadata(at)
        if isinstance(made.offset, bool) or not isinstance(made.offset, int) or made.offset < 0:
            raise ConfigError(
                f"{made.offset!r} is no offset to commit for {tuple(name)}: an int from 0 on, the NEXT to read."
            )
        wanted[partition_of(name)] = made
    return wanted


def to_ms(at: Any) -> int:
    """Milliseconds since the epoch from an int or an aware datetime. Raises ValueError for a naive one."""
    if isinstance(at, datetime):
        if at.tzinfo is None or at.utcoffset() is None:
            raise ValueError(
                f"{at!r} has no time zone, so it names no moment; pass an aware datetime, such as "
                f"datetime(..., tzinfo=datetime.UTC)."
            )
        whole = at.replace(microsecond=0)
        # Rounded up: a record at or after a moment is at or after the next whole millisecond.
        return round(whole.timestamp()) * 1000 + -(-at.microsecond // 1000)
    if isinstance(at, bool) or not isinstance(at, int):
        raise ValueError(f"{at!r} is no time: pass an int of milliseconds since the epoch, or an aware datetime.")
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
