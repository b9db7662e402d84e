"""Times, timeouts, partitions, offsets, clocks, disks and directories, as callers give them: checked, and in one form."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sized
from datetime import datetime, timedelta
from itertools import islice
from typing import Any

from ..broker.api import Service
from ..broker.metadata import TopicView
from ..broker.opening import url_of
from ..config import integer, nearest, shown, typed
from ..errors import ConfigError, OffsetOutOfRangeError, UnknownTopicOrPartitionError
from ..runtime.disk import PathLike
from ..runtime.threads import result_of
from ..types import OffsetAndMetadata, Record, TopicPartition


class _Temporary:
    """The default path of `open`, with a repr for `help()`."""

    def __repr__(self) -> str:
        return "<temporary>"


TEMPORARY: Any = _Temporary()


def partition_of(given: Any) -> TopicPartition:
    """A TopicPartition, also from an equal plain tuple. Raises ConfigError for anything else."""
    if type(given) is TopicPartition and type(given.topic) is str and type(given.partition) is int:
        return given  # the usual one, by itself: part of each seek
    if isinstance(given, tuple) and len(given) == 2 and isinstance(given[0], str) and is_int(given[1]):
        return given if type(given) is TopicPartition else TopicPartition(*given)
    raise ConfigError(f"A partition is a TopicPartition, or an equal tuple such as ('orders', 0), not {typed(given)}.")


def partitions_of(given: Any) -> list[TopicPartition]:
    """`partition_of` each item. Raises ConfigError for what has no items, and for one partition alone."""
    if not isinstance(given, Iterable) or isinstance(given, (str, bytes)) or is_partition(given):
        raise ConfigError(f"The partitions are an iterable, such as [TopicPartition('orders', 0)], not {typed(given)}.")
    return [partition_of(each) for each in given]


def is_partition(given: Any) -> bool:
    return isinstance(given, tuple) and len(given) == 2 and isinstance(given[0], str)


def partition_number(given: Any, topic: TopicView) -> int:
    """The number of one of the topic's partitions. Raises UnknownTopicOrPartitionError."""
    if is_int(given) and 0 <= given < topic.partitions:
        number: int = given
        return number
    there = "partition 0 only" if topic.partitions == 1 else f"partitions 0 to {topic.partitions - 1}"
    no = f"and no {shown(given)}" if is_int(given) else f"and their numbers are ints, not {typed(given)}"
    raise UnknownTopicOrPartitionError(f"Topic {topic.name!r} has {there}, {no}.", topic=topic.name, partition=given)


def replicas_of(given: Any, topic: TopicView) -> dict[int, tuple[int, ...]]:
    """Brokers by partition. Raises ConfigError, UnknownTopicOrPartitionError."""
    if not isinstance(given, Mapping) or not all(
        isinstance(each, Iterable) and not isinstance(each, (str, bytes)) for each in given.values()
    ):
        raise ConfigError(
            f"replicas= is a mapping of partitions to brokers, such as {{0: [1, 2]}}, not {shown(given)}.",
            name="replicas",
        )
    wanted = {partition_number(number, topic): tuple(brokers) for number, brokers in given.items()}
    if not wanted or not all(is_int(broker) for brokers in wanted.values() for broker in brokers):
        raise ConfigError(
            f"replicas={shown(given)} names no brokers: they are ints, such as {{0: [1, 2]}}.", name="replicas"
        )
    return wanted


# The largest offset, here as in Kafka: a signed integer of 64 bits.
LARGEST_OFFSET = 2**63 - 1
# Longer than a program runs, and short enough to be added to any clock.
LONGEST_S = 1e9


def is_int(given: Any) -> bool:
    return isinstance(given, int) and not isinstance(given, bool)


def is_offset(given: Any) -> bool:
    """Whether it is an int from 0 to the largest offset."""
    return (type(given) is int or is_int(given)) and 0 <= given <= LARGEST_OFFSET


def seconds(timeout: Any) -> float:
    """A timeout in real seconds: a negative one becomes 0, a very long one LONGEST_S. Raises ConfigError."""
    if type(timeout) is float and 0.0 <= timeout <= LONGEST_S:
        return timeout
    try:
        if not isinstance(timeout, (bool, str, bytes)) and timeout == timeout:
            return float(min(max(timeout, 0.0), LONGEST_S))
    except (TypeError, ValueError):
        pass
    if timeout is None:
        raise ConfigError(
            "timeout=None: this call takes a number of seconds, such as 0.5. A loop over the consumer waits without a limit.",
            name="timeout",
        )
    hint = "; a timedelta has it as .total_seconds()" if isinstance(timeout, timedelta) else ""
    raise ConfigError(f"timeout={typed(timeout)} is not a number of seconds, such as 0.5{hint}.", name="timeout")


def seconds_or_none(timeout: Any) -> float | None:
    """`seconds`, or None for a wait without a timeout."""
    return None if timeout is None else seconds(timeout)


def up_to(limit: int, given: Iterable[Any]) -> Iterable[Any]:
    """The items given; of an iterator, which may have no end, only the first `limit`."""
    return islice(given, limit) if isinstance(given, Iterable) and not isinstance(given, Sized) else given


def count_of(given: object, taken: Sized) -> str:
    """How many items there are, as text, if `taken` is what `up_to` took of them."""
    return f"{len(taken)}" if isinstance(given, Sized) else f"{len(taken)} or more"


def commit_offsets(offsets: Any) -> dict[TopicPartition, OffsetAndMetadata]:
    """The NEXT offset of each partition, from a Record or a mapping, as `commit` takes them. Raises ConfigError."""
    if isinstance(offsets, Record):
        offsets = {offsets.topic_partition: offsets.offset + 1 if is_offset(offsets.offset) else offsets.offset}
    if not isinstance(offsets, Mapping):
        raise ConfigError(
            f"commit() takes a Record, or a mapping of TopicPartition to the next offset, not {typed(offsets)}."
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
            f"{typed(offset)} cannot be committed for {shown(name)}: give an int from 0 to 2**63 - 1, the NEXT offset to read."
        )
    if metadata is not None and not isinstance(metadata, str):
        raise ConfigError(f"The metadata of a commit is a str, not {typed(metadata)}.")
    if leader_epoch is not None and not (is_offset(leader_epoch) and leader_epoch < 2**31):
        raise ConfigError(
            f"The leader epoch of a commit is None or an int from 0 to 2**31 - 1, not {typed(leader_epoch)}."
        )
    return made if metadata is not None else OffsetAndMetadata(offset, "", leader_epoch)


def out_of_range(what: str, offset: Any, name: TopicPartition, start: int, end: int) -> OffsetOutOfRangeError:
    """The error for an offset that a partition does not have; `what` stands before it in the message."""
    wrong = f"{shown(offset)} is outside" if is_int(offset) else f"{typed(offset)} is not an int, as are the offsets of"
    return OffsetOutOfRangeError(
        f"{what}{wrong} {name.topic}-{name.partition}, which holds {start} up to, not including, {end}.",
        log_start_offset=start,
        log_end_offset=end,
    )


def no_place(what: str, at: Any, also: str = "") -> ConfigError:
    """The error for a `start`, `end` or `to` that is none; `what` is the parameter's name. `also`: what else it takes."""
    hint = nearest(at, ("earliest", "latest"))
    return ConfigError(
        f"{what}={typed(at)} names no offset{hint}: give {also}an aware datetime, 'earliest' or 'latest'.", name=what
    )


def offset_at(service: Service, name: TopicPartition, at: Any, start: int, end: int) -> int:
    """The offset in a partition from `start` to `end` that `at` means: "earliest", "latest", or an aware datetime.

    A datetime means the first record at or after it, or `end` if there is none. Raises ConfigError for a naive one.
    """
    if isinstance(at, datetime):
        found = result_of(service.find_offset(name, to_ms(at), "read_committed"))
        return end if found is None else found.offset
    return start if at == "earliest" else end


def to_ms(at: Any) -> int:
    """Milliseconds since the epoch, from an int or an aware datetime. Raises ConfigError for a naive datetime."""
    if isinstance(at, datetime):
        if at.tzinfo is None or at.utcoffset() is None:
            raise ConfigError(
                f"{at!r} has no time zone, so it does not name a moment. Pass an aware datetime, such as "
                f"datetime(..., tzinfo=datetime.UTC); astimezone() makes one of a local time."
            )
        whole = at.replace(microsecond=0)
        # Rounded up: a record at or after a moment is at or after the next whole millisecond.
        return round(whole.timestamp()) * 1000 + -(-at.microsecond // 1000)
    if is_int(at):
        ms: int = at
        return ms
    raise ConfigError(f"{typed(at)} is not a time: pass an int of milliseconds since the epoch, or an aware datetime.")


def refuse_group(config: Mapping[str, Any]) -> None:
    """Raise ConfigError if the settings of a group's consumer name a group."""
    if "group" in config:
        raise ConfigError("group= is this group's own name; leave it out.", name="group")


def check_clock(clock: Any) -> Any:
    """`clock`, which may be None. Raises ConfigError if it has not a clock's methods."""
    if clock is not None and (
        isinstance(clock, type) or not all(callable(getattr(clock, name, None)) for name in ("time_ms", "monotonic"))
    ):
        raise ConfigError(
            f"clock={typed(clock)} is no object with time_ms() and monotonic(): give a streamlog.testing.ManualClock, or leave it out.",
            name="clock",
        )
    return clock


def check_disk(disk: Any) -> Any:
    """`disk`, which may be None. Raises ConfigError if it has not a disk's methods."""
    if disk is not None and (
        isinstance(disk, type) or not all(callable(getattr(disk, name, None)) for name in ("open", "sync_dir", "lock"))
    ):
        raise ConfigError(
            f"disk={typed(disk)} is not a disk: give a streamlog.testing.SimulatedDisk or FaultyDisk, or leave it out.",
            name="disk",
        )
    return disk


def broker_count_or_paths(brokers: Any, *, has_path: bool) -> int | tuple[str, ...] | None:
    """`open(brokers=)` as it is stored: None, a number, or paths. Raises ConfigError."""
    if brokers is None:
        return None
    if isinstance(brokers, (str, bytes, PathLike)) or not isinstance(brokers, (int, Iterable)):
        raise ConfigError(
            f"brokers={typed(brokers)} is neither a number of brokers, such as 3, nor a list of their directories, such as "
            f"['/disk1/log', '/disk2/log', '/disk3/log'].",
            name="brokers",
        )
    if isinstance(brokers, int):
        return integer("brokers", brokers, 1, 100)
    paths = tuple(url_of(each, f"brokers[{number}]") for number, each in enumerate(brokers))
    if not paths:
        raise ConfigError("brokers=[] names no directory.", name="brokers")
    if has_path:
        raise ConfigError(
            "brokers= names the directories of the log, so there is no path besides them: leave the path out.",
            name="brokers",
        )
    return paths


def refuse_for_reading(settings: Mapping[str, Any], *, has_path: bool) -> None:
    """Raise ConfigError for settings that contradict `read_only=True`."""
    if not has_path:
        raise ConfigError("read_only=True needs a path: a temporary log is new, and has nothing to read.", name="path")
    for name, value in settings.items():
        if value:
            raise ConfigError(
                f"{name}={value!r} and read_only=True contradict each other: a log that is only read has nothing to apply it "
                f"to. Leave it out here; give it in the process that owns the log.",
                name=name,
            )
