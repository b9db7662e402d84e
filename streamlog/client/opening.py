"""Opening a log: `streamlog.open`, its arguments, and the handle that it makes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Unpack

from ..broker.opening import url_of
from ..config import OpenOptions, choice, integer, open_defaults, real
from ..errors import ConfigError
from ..runtime.disk import PathLike
from ..types import Clock
from .arguments import TEMPORARY, broker_count_or_paths, check_clock, check_disk, refuse_for_reading
from .background import registry
from .config_types import TopicDefaults
from .streamlog import StreamLog


def open(
    path: str | PathLike[str] = TEMPORARY,
    *,
    brokers: int | Sequence[str | PathLike[str]] | None = None,
    read_only: bool = False,
    sync: bool = False,
    auto_create_topics: bool = False,
    clock: Clock | None = None,
    lock_timeout: float = 0.0,
    force: bool = False,
    replica_lag_time_max_ms: int = 30_000,
    disk: Any = None,
    **topic_defaults: Unpack[TopicDefaults],
) -> StreamLog:
    """Open the log in directory `path`, which is created if it does not exist. Close it, or use it in a `with` block.

    A second open of a directory in this process, with the same options, returns another handle on the same log.

    path: str or PathLike = a temporary log
        The directory. Without one the log is in a new directory, which is removed at close.
    read_only: bool = False
        Follow the directory of another process, which may be running or not. Any number of processes can. They see what
        the owner writes within 20 ms, and write nothing: what would write, `consumer(group=…)` too, raises ReadOnlyError.
    sync: bool = False
        Acknowledge a record when it is on the device, so that it survives a power loss; producers that wait at the same
        time share a sync. Without it a record survives the death of the process; `StreamLog.sync` makes all survive both.
    auto_create_topics: bool = False
        Sending to a topic that does not exist, or reading it, creates it.
    lock_timeout: float (seconds) = 0.0
        One process at a time owns a directory. How long to wait for another one; then LogLockedError, with its pid.
    force: bool = False
        Accept that partitions are lost whose directories are missing or were emptied. Each of them continues, empty, at
        the greatest offset that is known of it. Of a log with several brokers: open it without most of their directories;
        what those alone have, topics and acknowledged records, is lost then, and removed from them when they come back.
    clock: Clock = None
        A `streamlog.testing.ManualClock`, which a test moves, instead of the system's clock.
    disk: SimulatedDisk or FaultyDisk = None
        A disk of `streamlog.testing` instead of files.
    brokers: int, or list of str or PathLike = None
        How many brokers a new log has, each a directory in `path`, where an open finds them by itself; or their directories,
        maybe on different disks, at every open. Topics have min(brokers, 3) replicas, or `replication_factor`.
    replica_lag_time_max_ms: int (ms) = 30_000
        A follower that has not had everything for so long (real time) leaves the in-sync set.
    topic_defaults: the settings of TopicDefaults
        All other settings, such as `partitions=4`, are defaults of new topics: see `help(streamlog.TopicDefaults)`.

    Raises FormatError for a directory that is neither empty nor a log, or is of a newer format; ConfigError, also if
    Python runs without its global lock (set PYTHON_GIL=1); without `force` CorruptRecordError if a partition is lost,
    LogDirNotFoundError if too many brokers' directories are missing.

    >>> import streamlog
    >>> with streamlog.open(partitions=2) as log:
    ...     log.create_topic("orders").partitions
    2
    """
    if path is None or path == "":
        raise ConfigError(
            f"open({path!r}): a path names the log's directory; leave it out for a temporary log that is removed at close.",
            name="path",
        )
    directories = broker_count_or_paths(brokers, has_path=path is not TEMPORARY)
    defaults = open_defaults(topic_defaults)
    flags = {"auto_create_topics": auto_create_topics, "sync": sync, "force": force}
    for name, value in {**flags, "read_only": read_only}.items():
        choice(name, value, (False, True))
    if read_only:
        refuse_for_reading({**flags, **topic_defaults}, has_path=path is not TEMPORARY or directories is not None)
    options = OpenOptions(
        auto_create_topics,
        check_clock(clock),
        real("lock_timeout", lock_timeout, 0.0, 86_400.0),
        defaults,
        check_disk(disk),
        sync,
        read_only,
        directories,
        integer("replica_lag_time_max_ms", replica_lag_time_max_ms, 1, 86_400_000),
        force,
    )
    return _open(None if path is TEMPORARY or isinstance(directories, tuple) else url_of(path), options)


def _open(url: str | None, options: OpenOptions) -> StreamLog:
    user = object()
    engine = registry.open(url, options, user)
    try:
        return StreamLog(engine, user)
    except BaseException:
        registry.close(engine, user)
        raise
