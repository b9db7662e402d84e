"""`open`, and the log that it returns."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from operator import is_not
from typing import Any, TypeVar, Unpack, overload

from ..broker.api import Listener, Service
from ..broker.metadata import TopicView
from ..broker.opening import Engine, Registry, url_of
from ..config import ConsumerConfig as ConsumerSettings
from ..config import (
    OpenOptions,
    check_replication_factor,
    check_topic_name,
    choice,
    integer,
    open_defaults,
    real,
    typed,
)
from ..errors import ConfigError, InvalidTopicError, StreamlogError, TopicAlreadyExistsError
from ..runtime.disk import PathLike
from ..runtime.threads import inside, is_inside, new_lock, real_monotonic, refuse_reentry, result_of
from ..runtime.values import raise_first, snapshot
from ..types import Clock, K, MaybeNone, TopicPartition, V
from .arguments import check_clock, check_disk, partition_number, partition_of, replicas_of
from .background import Background
from .broker import Broker
from .cleanup import Cleanup
from .config_types import ConsumerConfig, ProducerConfig, TopicConfig, TopicDefaults
from .consumer.consumer import Consumer
from .consumer.decode import Decoder
from .consumer.membership import LocalMembers
from .group import ConsumerGroup
from .handle import Closing, closed
from .producer.producer import Producer, SharedProducer
from .reassignment import Reassignment
from .serde import De, DeByTopic, Serde, resolve_deserializer
from .topic import Subscription, Topic

ListenerT = TypeVar("ListenerT", bound=Listener)
LISTENER_CLOSE_S = 10.0


class _Temporary:
    """The default path of `open`, with a repr for `help()`."""

    def __repr__(self) -> str:
        return "<temporary>"


_UNSET: Any = _Temporary()
registry: Registry[Background] = Registry(Background)
"""The logs that this process has open."""


def open(
    path: str | PathLike[str] = _UNSET,
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
        time share a sync. Without it a record survives the death of the process, and `StreamLog.sync` makes what was
        acknowledged so far survive a power loss.
    auto_create_topics: bool = False
        Sending to a topic that does not exist, or reading it, creates it.
    lock_timeout: float (seconds) = 0.0
        One process at a time owns a directory. How long to wait for another one; then LogLockedError, with its pid.
    force: bool = False
        Accept that partitions are lost whose directories are missing or were emptied. Each of them continues, empty, at
        the greatest offset that is known of it, from its state or from committed offsets.
    clock: Clock = None
        A `streamlog.testing.ManualClock`, which a test moves, instead of the system's clock.
    disk: SimulatedDisk or FaultyDisk = None
        A disk of `streamlog.testing` instead of files.
    brokers: int, or list of str or PathLike = None
        How many brokers a new log has, each a directory in `path`; or their directories, which may lie on different disks.
        Topics have min(brokers, 3) replicas, or `replication_factor`. Leave it out for a log that is there.
    replica_lag_time_max_ms: int (ms) = 30_000
        A follower that has lagged behind its leader for so long leaves the in-sync set.
    topic_defaults: the settings of TopicDefaults
        All other settings, such as `partitions=4`, are defaults of new topics: see `help(streamlog.TopicDefaults)`.

    Raises FormatError for a directory that is neither empty nor a log, or is of a newer format; CorruptRecordError if a
    partition is lost, at every open without `force`; ConfigError.

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
    directories = broker_count_or_paths(brokers, path)
    real("lock_timeout", lock_timeout, 0.0, 86_400.0)
    defaults = open_defaults(topic_defaults)
    flags = {"auto_create_topics": auto_create_topics, "sync": sync, "force": force}
    for name, value in {**flags, "read_only": read_only}.items():
        choice(name, value, (False, True))
    if read_only:
        _refuse_for_reading(path, {**flags, **topic_defaults})
    options = OpenOptions(
        auto_create_topics,
        check_clock(clock),
        float(lock_timeout),
        defaults,
        check_disk(disk),
        sync,
        read_only,
        directories,
        integer("replica_lag_time_max_ms", replica_lag_time_max_ms, 1, 86_400_000),
        force,
    )
    return _open(None if path is _UNSET or isinstance(directories, tuple) else url_of(path), options)


def _open(url: str | None, options: OpenOptions) -> StreamLog:
    user = object()
    engine = registry.open(url, options, user)
    try:
        return StreamLog(engine, user)
    except BaseException:
        registry.close(engine, user)
        raise


def broker_count_or_paths(brokers: Any, path: Any) -> int | tuple[str, ...] | None:
    """`open(brokers=)` as it is stored: None, a number, or paths. Raises ConfigError."""
    if brokers is None:
        return None
    if isinstance(brokers, (str, bytes, PathLike)) or not isinstance(brokers, (int, Iterable)):
        raise ConfigError(
            f"brokers={typed(brokers)} is neither a number of brokers nor a list of their directories.", name="brokers"
        )
    if isinstance(brokers, int):
        return integer("brokers", brokers, 1, 100)
    paths = tuple(url_of(each) for each in brokers)
    if not paths:
        raise ConfigError("brokers=[] names no directory.", name="brokers")
    if path is not _UNSET:
        raise ConfigError(
            "brokers= names the directories of the log, so there is no path besides them.", name="brokers"
        )
    return paths


def _refuse_for_reading(path: Any, settings: Mapping[str, Any]) -> None:
    """Raise ConfigError for settings that contradict `read_only=True`."""
    if path is _UNSET:
        raise ConfigError("read_only=True needs a path: a temporary log is new, and has nothing to read.", name="path")
    for name, value in settings.items():
        if value:
            raise ConfigError(
                f"{name}={value!r} and read_only=True contradict each other: a log that is only read has nothing to apply it "
                f"to. Leave it out here; give it in the process that owns the log.",
                name=name,
            )


class StreamLog(Closing):
    """A log: topics, and the producers, consumers and groups that write and read them. Thread-safe.

    Made by `streamlog.open`. Closing it, by `close` or at the end of a `with` block, closes its workers, its consumers,
    and its producers, which are flushed; then every call raises ClosedError.

    - Topics: `create_topic`; `log["orders"]` or `topic` gives one that exists, with serdes if it is to have them;
      `"orders" in log`; `for name in log`; `topics`; `delete_topic`.
    - Writing and reading: `producer`, `consumer`; a Topic has `send` and `read`.
    - Groups, their offsets and workers: `group`, `groups`.
    - Where its replicas are, and which of them lead: `brokers`, `elect_leader`, `reassign`,
      `reassignments`.
    - All that was acknowledged is on the device: `sync`. What it holds, in numbers: `metrics`. Where it is: `path`.
    - For extensions, such as a network protocol: `attach`, `detach`.

    >>> import streamlog
    >>> with streamlog.open() as log:
    ...     orders = log.create_topic("orders")
    ...     _ = orders.send("9.50", key="alice")
    ...     [record.value for record in log["orders"].read()], list(log)
    ([b'9.50'], ['orders'])
    """

    def __init__(self, engine: Engine[Background], user: object = None) -> None:
        """For the library's own use: `streamlog.open` makes it."""
        if not isinstance(engine, Engine):
            raise ConfigError(
                f"A log is opened by streamlog.open(path), not made by StreamLog(…), which was given {typed(engine)}.",
                name="engine",
            )
        self._engine = engine
        self._user = user
        self._ended = False
        self._cleanup: Cleanup = engine.work.cleanup
        self._local_members: LocalMembers = engine.work.local_members
        self._children: weakref.WeakSet[Any] = weakref.WeakSet()
        self._lock = new_lock()
        self._topic_sender = SharedProducer()
        self._listeners: list[Listener] = []
        self._attaches = True
        engine.handles.add(self)
        self._made = True

    @property
    def path(self) -> str | None:
        """The directory, or None for a temporary log."""
        return None if self._engine.temporary else self._engine.path

    # -- topics --------------------------------------------------------------------------------------

    def create_topic(
        self,
        name: str,
        *,
        partitions: int | None = None,
        replication_factor: int | None = None,
        exist_ok: bool = False,
        **topic_config: Unpack[TopicConfig],
    ) -> Topic:
        """Create a topic; its settings are those of `streamlog.TopicConfig`.

        Settings that are not given come from the defaults of `open`, then from those of the library. Without
        `partitions` and a default, it has one. With `exist_ok` a topic that exists is returned, if it has the settings given
        here; those that are not given may be any.

        Raises InvalidTopicError for a name that is not allowed, TopicAlreadyExistsError, ConfigError.

        >>> import streamlog
        >>> with streamlog.open() as log:
        ...     log.create_topic("orders", partitions=4, retention_bytes=1 << 30).partitions
        4
        """
        choice("exist_ok", exist_ok, (True, False))
        settings: dict[str, Any] = dict(topic_config)
        if replication_factor is not None:
            settings["replication_factor"] = replication_factor
        result_of(self._use().create_topic(check_topic_name(name), partitions, settings, exist_ok=exist_ok))
        return Topic(self, name)

    @overload
    def topic(self, name: str) -> Topic: ...
    @overload
    def topic(self, name: str, *, value_serde: Serde[V]) -> Topic[bytes | MaybeNone, V | MaybeNone]: ...
    @overload
    def topic(
        self, name: str, *, key_serde: Serde[K], value_serde: Serde[V]
    ) -> Topic[K | MaybeNone, V | MaybeNone]: ...
    @overload
    def topic(self, name: str, *, key_serde: Serde[K]) -> Topic[K | MaybeNone]: ...
    def topic(
        self, name: str, *, key_serde: Serde[Any] | None = None, value_serde: Serde[Any] | None = None
    ) -> Topic[Any, Any]:
        """A handle on a topic, with serdes for its keys and values if they are given (`streamlog.Serde`).

        Without serdes, keys and values are bytes, and a str that is sent becomes UTF-8.

        Raises UnknownTopicOrPartitionError if there is no such topic, unless `auto_create_topics` creates it.

        >>> import streamlog
        >>> with streamlog.open(auto_create_topics=True) as log:
        ...     orders = log.topic("orders", value_serde=streamlog.serde.json)
        ...     _ = orders.send({"price": 9.5})
        ...     [record.value for record in orders.read()]
        [{'price': 9.5}]
        """
        self._topic_view(name)
        return Topic(self, name, key_serde=key_serde, value_serde=value_serde)

    def topics(self, *, internal: bool = False) -> list[Topic]:
        """Handles on all topics, in the order of their names; with `internal`, also the topics of the log itself."""
        views = self._use().image.topics.values()
        return [Topic(self, view.name) for view in sorted(views) if internal or not view.internal]

    def __getitem__(self, name: str) -> Topic:
        """`log["orders"]`: `topic` without serdes. Raises UnknownTopicOrPartitionError."""
        return self.topic(name)

    def __contains__(self, name: object) -> bool:
        """`"orders" in log`: whether there is a topic of this name; of a Topic, whether it is this log's and was not deleted."""
        topics = self._use().image.topics
        if isinstance(name, Topic):
            return name._log._same_log(self) and name.name in topics and topics[name.name].id == name.id
        return isinstance(name, str) and name in topics

    def __iter__(self) -> Iterator[str]:
        """The names of the topics, in order, without those of the log itself."""
        topics = self._use().image.topics
        return iter(sorted(name for name, view in topics.items() if not view.internal))

    def _ipython_key_completions_(self) -> list[str]:
        """What IPython and Jupyter complete after `log["`: the names of the topics."""
        try:
            return list(self)
        except StreamlogError:  # closed, or the directory is gone
            return []

    def delete_topic(self, name: str) -> None:
        """Delete a topic, its records and its committed offsets. This cannot be undone.

        Raises UnknownTopicOrPartitionError.
        """
        result_of(self._use().delete_topic(check_topic_name(name)))

    # -- replicas ------------------------------------------------------------------------------------

    def elect_leader(self, partition: TopicPartition, broker_id: int | None = None) -> None:
        """Have a broker lead a partition: `broker_id`, or the preferred one, which is the first of its replicas.

        Nothing is lost, and producers carry on: the partition takes no records until the replicas in sync have everything,
        a few milliseconds. Does nothing if that broker leads already. After brokers were away, this spreads the leaders again.

        Raises UnknownTopicOrPartitionError, ConfigError for a broker without a replica, NotLeaderError for one that is not in
        sync, RequestTimedOutError if the replicas do not catch up within 5 s; the last two can be tried again.

        >>> import streamlog
        >>> with streamlog.open(brokers=3) as log:
        ...     orders = log.create_topic("orders")
        ...     log.elect_leader(streamlog.TopicPartition("orders", 0), 2)
        ...     orders.partition(0).leader
        2
        """
        name = partition_of(partition)
        partition_number(name.partition, result_of(self._use().topic(name.topic)))
        if broker_id is not None:
            integer("broker_id", broker_id, 0, 1 << 31)
        result_of(self._use().elect_leader(name, broker_id))

    def reassign(
        self,
        topic: Topic[Any, Any] | str,
        *,
        replicas: Mapping[int, Sequence[int]] | None = None,
        replication_factor: int | None = None,
    ) -> Reassignment:
        """Move partitions of a topic to other brokers, or change how many replicas they have, while it is written and read.

        replicas: mapping of int to a sequence of int = None
            The brokers that each of these partitions is to have, the preferred leader first. Other partitions stay.
        replication_factor: int = None
            How many replicas every partition is to have; brokers with few replicas of the topic get the new ones.

        One of the two. Returns when it is recorded: new replicas then copy the partition, join the in-sync set, and the others
        leave. A `min_insync_replicas` that is the default of the old factor, factor - 1, becomes that of the new one. To cancel
        it give the old replicas, or call `Reassignment.cancel`.

        Raises UnknownTopicOrPartitionError, ConfigError.

        >>> import streamlog
        >>> with streamlog.open(brokers=3) as log:
        ...     orders = log.create_topic("orders", replication_factor=1)
        ...     _ = orders.send("9.50")
        ...     log.reassign("orders", replication_factor=3).wait(10)
        ...     orders.partition(0).replicas, orders.config["min_insync_replicas"]
        ((0, 1, 2), 2)
        """
        name = self._name_of(topic)[0]
        if (replicas is None) == (replication_factor is None):
            raise ConfigError(
                "reassign(…) takes either replicas={partition: brokers} or replication_factor=.", name="replicas"
            )
        view = result_of(self._use().topic(name))
        if replication_factor is not None:
            check_replication_factor(replication_factor)
        wanted = None if replicas is None else replicas_of(replicas, view)
        return Reassignment(self, result_of(self._use().reassign(name, wanted, replication_factor)))

    def reassignments(self) -> list[Reassignment]:
        """The reassignments under way, one for each topic, whoever began them: also those of before the log was opened."""
        topics: dict[str, dict[TopicPartition, tuple[int, ...]]] = {}
        for name, target in sorted(self._use().reassignments().items()):
            topics.setdefault(name.topic, {})[name] = target
        return [Reassignment(self, targets) for targets in topics.values()]

    # -- clients -------------------------------------------------------------------------------------

    def producer(self, **config: Unpack[ProducerConfig]) -> Producer:
        """A producer; see `Producer`. Its settings are those of `streamlog.ProducerConfig`.

        Raises ConfigError, ReadOnlyError.
        """
        self._use()
        self._local_members.clean_up()
        return Producer(self, **config)

    @overload  # topics by their handles: what their serdes make
    def consumer(
        self, *topics: Topic[K, V], group: str | None = None, **config: Unpack[ConsumerConfig]
    ) -> Consumer[K, V]: ...
    @overload
    def consumer(
        self,
        *topics: Subscription,
        group: str | None = None,
        key_deserializer: De[K] = ...,
        value_deserializer: De[V] = ...,
        **config: Unpack[ConsumerConfig],
    ) -> Consumer[K | MaybeNone, V | MaybeNone]: ...
    @overload  # deserializers by topic name
    def consumer(
        self,
        *topics: Subscription,
        group: str | None = None,
        key_deserializer: De[Any] | DeByTopic = ...,
        value_deserializer: DeByTopic,
        **config: Unpack[ConsumerConfig],
    ) -> Consumer[Any, Any]: ...
    @overload
    def consumer(
        self,
        *topics: Subscription,
        group: str | None = None,
        key_deserializer: DeByTopic,
        value_deserializer: De[V] = ...,
        **config: Unpack[ConsumerConfig],
    ) -> Consumer[Any, V | MaybeNone]: ...
    def consumer(
        self,
        *topics: Subscription,
        group: str | None = None,
        key_deserializer: De[Any] | DeByTopic | None = None,
        value_deserializer: De[Any] | DeByTopic | None = None,
        **config: Unpack[ConsumerConfig],
    ) -> Consumer[Any, Any]:
        """A consumer of topics, alone or as a member of a group; see `Consumer`.

        topics: str, Topic, or compiled pattern
            What to read. A pattern matches whole names, also of topics that are created later.
        group: str = None
            The group that it joins. Without one it reads all partitions, and commits nothing.
        key_deserializer: a Serde, a function from bytes, or a mapping of these by topic = None
            What makes a key of bytes. None: the serde of the Topic given, or bytes as they are.
        value_deserializer: a Serde, a function from bytes, or a mapping of these by topic = None
            The same for values.
        config: the settings of ConsumerConfig
            All other settings: see `help(streamlog.ConsumerConfig)`.

        Raises ConfigError, UnknownTopicOrPartitionError, ReadOnlyError for a group of a log that is only read.
        """
        self._use()
        self._local_members.clean_up()
        return Consumer(
            self,
            *topics,
            group=group,
            key_deserializer=key_deserializer,
            value_deserializer=value_deserializer,
            **config,
        )

    def group(self, name: str) -> ConsumerGroup:
        """A handle on a consumer group, which need not exist yet; see `ConsumerGroup`. Raises ConfigError."""
        self._use()
        return ConsumerGroup(self, name)

    def groups(self) -> list[ConsumerGroup]:
        """Handles on all groups, in the order of their names."""
        return [ConsumerGroup(self, group.name) for group in result_of(self._use().list_groups())]

    @property
    def brokers(self) -> list[Broker]:
        """The brokers of this log, each a directory: see `streamlog.Broker`. A log that was opened without `brokers=` has one."""
        paths = self._use().broker_paths()
        return [Broker(self._use, broker_id, self.path and path) for broker_id, path in sorted(paths.items())]

    def metrics(self) -> dict[str, Any]:
        """Numbers of partitions, brokers and their replication. They can be written as JSON. Cost: O(partitions).

        Of each partition, as `metrics()["topics"]["orders"]["0"]`:

        - now: `log_start_offset`, `log_end_offset`, `size_bytes`, `segments`; these and the next are left out while the
          partition is offline
        - since the log was opened: `appended_batches`, `appended_bytes`, `deleted_segments`
        - `failures`: what fails in the background now, such as a sync or retention, and why; `{}` if nothing does
        - `leader` (-1 while the partition is offline), `leader_epoch`, `replicas`, `isr`: ids of brokers, as in
          `Topic.partition`
        - `lag`, of a log with several brokers: for each follower, how many `records` it is behind the leader, and for how
          many `ms` it has not had everything

        Of each broker, as `["brokers"]["0"]`: `path`, `running`, `leaders` and `replicas` (how many partitions it leads, and has),
        `lag_records` (the sum) and `lag_ms` (the greatest) of those that it follows.

        Of all, in `["replication"]`: `offline_partitions`, `under_replicated_partitions` (a replica is not in sync),
        `under_min_isr_partitions` (too few are in sync for acks="all"), and since the log was opened `isr_shrinks`, `isr_expands`.

        A log that was opened with `read_only=True` has no numbers of other processes' work: no counts since the log was
        opened, no `failures`, no `lag`, no `path` and no `running`.

        >>> import streamlog
        >>> with streamlog.open() as log:
        ...     _ = log.create_topic("orders").send_many(["9.50", "20.00"])
        ...     log.metrics()["topics"]["orders"]["0"]["log_end_offset"]
        2
        """
        return self._use().metrics()

    def sync(self) -> None:
        """Sync every partition: what was acknowledged so far is on the device, and survives a power loss.

        With `sync=True` it is there already. Records that linger in a producer are not written; `Producer.flush` writes
        them. Calls at the same time share their syncs. Cost: one `fdatasync` for each partition that was written to since
        the last sync.

        Raises PoisonedLogError or StorageError for the first partition that failed, after all were tried.

        >>> import streamlog
        >>> with streamlog.open() as log:
        ...     _ = log.create_topic("orders").send("9.50", key="alice")
        ...     log.sync()
        """
        result_of(self._use().sync())

    # -- listeners -----------------------------------------------------------------------------------

    def attach(self, make: Callable[[Service], ListenerT]) -> ListenerT:
        """Make a listener, which gets the log's Service and serves others through it; returns it. For extensions.

        The Service (`streamlog.broker.api`) takes and gives encoded batches, and answers with Completions: what is built on
        it never blocks a thread of its own. Closing the log closes its listeners before anything else, and gives them
        `LISTENER_CLOSE_S` in all. A listener that is closed earlier is to be `detach`ed. Raises ClosedError, and what `make`
        raises.

        >>> import streamlog
        >>> class Topics:
        ...     def __init__(self, service):
        ...         self.names = lambda: list(service.image.topics)
        ...     def close(self, timeout_s):
        ...         print("closed")
        >>> with streamlog.open() as log:
        ...     topics = log.attach(Topics)
        ...     _ = log.create_topic("orders")
        ...     topics.names()
        ['orders']
        closed
        """
        if not callable(make):
            raise ConfigError(
                f"attach(…) takes what makes a listener of the log's Service, not {typed(make)}.", name="make"
            )
        listener = make(self._use())
        with inside(), self._lock:
            if self._attaches:
                self._listeners.append(listener)
                return listener
        listener.close(0.0)  # the log was closed meanwhile
        raise closed("log", self.path)

    def detach(self, listener: Listener) -> None:
        """Leave a listener to its owner: closing the log does not close it. Does nothing if it is not attached.

        For extensions; see `attach`.
        """
        with inside(), self._lock:
            self._listeners = list(filter(partial(is_not, listener), self._listeners))

    # -- closing -------------------------------------------------------------------------------------

    def close(self) -> None:
        """Close the log's listeners, workers, consumers and producers, then the log. Raises the first error; all is closed all the same.

        In a signal handler or finalizer the close may be deferred until the call that was interrupted ends.
        """
        if self._ended:  # and not interrupted by Ctrl-C
            return
        if is_inside() or self._wakes_a_call():
            self._cleanup.defer_close(self.close)
        else:
            self._close(None)

    def _wakes_a_call(self) -> bool:
        """Whether the caller interrupted a call of this thread on a consumer, which is woken then, and ends soon."""
        waking = [child._end_call_soon() for child in snapshot(self._children) if isinstance(child, Consumer)]
        return any(waking)

    def _close(self, limit_s: float | None) -> None:
        with inside(), self._lock:
            self._attaches = False
        self._local_members.clean_up()
        errors: list[BaseException] = []
        for close in self._closers(limit_s):
            try:
                close()
            except Exception as error:  # the others are closed all the same
                errors.append(error)
        with inside(), self._lock:
            if self._ended:
                return
            self._closed_error = self._closed_error or closed("log", self.path)
        try:
            registry.close(self._engine, self._user)
        except StreamlogError as error:
            errors.append(error)
        self._ended = True
        raise_first(errors)

    def _closers(self, limit_s: float | None) -> Iterator[Callable[[], None]]:
        """How to close each child: listeners, workers, consumers, producers. `limit_s`: for each of the four kinds."""
        children = snapshot(self._children)
        left = _time_left(LISTENER_CLOSE_S if limit_s is None else limit_s)
        for listener in list(self._listeners):
            yield partial(self._close_listener, listener, left)
        left = _time_left(limit_s)
        for child in children:
            if not isinstance(child, (Consumer, Producer)):
                yield child.close if limit_s is None else partial(child._close, left())
        left = _time_left(limit_s)
        for child in children:
            if isinstance(child, Consumer):
                yield child._close_with_log if limit_s is None else partial(child._close_with_log, left())
        for child in children:
            if isinstance(child, Producer):
                yield partial(child.close, limit_s)

    def _close_listener(self, listener: Listener, left: Callable[[], float]) -> None:
        try:
            listener.close(left())
        except Exception:
            self.detach(listener)
            raise
        self.detach(listener)  # not after an interrupt: the next close calls it again

    def _close_at_exit(self, limit_s: float) -> None:
        if not self._ended:
            for child in snapshot(self._children):
                if isinstance(child, Consumer):
                    child.stop()  # a loop over it in another thread ends without an error
            self._close(limit_s)

    def _abandon_all(self) -> None:
        self._listeners = []
        for child in snapshot(self._children):
            child._abandon()
        self._abandon()
        self._ended = True

    def __del__(self) -> None:
        """Close the log, with a ResourceWarning, if it was not closed."""
        if self._made and not self._ended:
            engine, user = self._engine, self._user
            self._cleanup.add_finalizer(lambda: registry.close(engine, user))
            self._warn_open()  # last: where warnings are errors, it raises

    def __repr__(self) -> str:
        where = "temporary" if self._engine.temporary else repr(self._engine.path)
        return f"<streamlog.StreamLog {where}{' closed' if self._closed_error is not None else ''}>"

    # -- for its children ----------------------------------------------------------------------------

    def _use(self) -> Service:
        """The service. Raises ClosedError, and ReentrantCallError in the middle of another call of this thread.

        Every call of a child begins here, so deferred closes are run here.
        """
        refuse_reentry()
        if self._cleanup.deferred_closes:
            self._cleanup.run_deferred_closes()
        self._check()
        try:
            self._engine.check()
        except StreamlogError:
            self._check()  # another thread may have closed the log meanwhile
            raise
        return self._engine.service

    def _if_open(self) -> Service | None:
        """The service, or None if the log is closed. For a repr: it does nothing else, and raises nothing."""
        return None if self._closed_error is not None else self._engine.service

    def _adopt(self, child: Any) -> None:
        self._children.add(child)

    def _forget(self, child: Any) -> None:
        self._children.discard(child)

    def _next_number(self) -> int:
        return next(self._engine.numbers)

    def _topic_view(self, name: Any) -> TopicView:
        """The topic as it is now; created if it does not exist and the log was opened with `auto_create_topics`."""
        service = self._use()
        view = service.image.topics.get(name) if isinstance(name, str) else None
        if view is not None:
            return view
        check_topic_name(name)
        if self._engine.options.auto_create_topics:
            try:
                return result_of(service.create_topic(name))
            except TopicAlreadyExistsError:  # another thread was faster
                return result_of(service.topic(name))
        return result_of(service.topic(name))

    def _name_of(self, topic: Any) -> tuple[str, Any, Any]:
        """A topic's name and serdes, from its name or a handle. Raises ConfigError, InvalidTopicError."""
        if isinstance(topic, str):
            return topic, None, None
        if isinstance(topic, Topic):
            if not topic._log._same_log(self):
                raise ConfigError(
                    f"{topic!r} is a topic of another log; use this log's own, log[{topic.name!r}].", name="topic"
                )
            topic._view()
            return topic.name, topic._key_serde, topic._value_serde
        several = " To give several topics, give each as an argument." if isinstance(topic, (list, tuple, set)) else ""
        raise InvalidTopicError(f"A topic is given by its name or a Topic, not {typed(topic)}.{several}")

    def _decoders(
        self, config: ConsumerSettings, serdes: dict[str, tuple[Any, Any]]
    ) -> Callable[[TopicPartition], Decoder]:
        """How to deserialize the records of a partition: by the consumer's settings, else by the serdes of the Topic given."""
        resolve_deserializer(config.key_deserializer, "", "key")
        resolve_deserializer(config.value_deserializer, "")

        def decoder(name: TopicPartition) -> Decoder:
            key, value = serdes.get(name.topic, (None, None))
            key = config.key_deserializer if config.key_deserializer is not None else key
            value = config.value_deserializer if config.value_deserializer is not None else value
            return Decoder(
                name.topic,
                name.partition,
                resolve_deserializer(key, name.topic, "key"),
                resolve_deserializer(value, name.topic),
            )

        return decoder

    def _topic_producer(self) -> Producer:
        """The producer of `Topic.send`, without a linger."""
        return self._topic_sender.of(self)

    def _same_log(self, other: Any) -> bool:
        return isinstance(other, StreamLog) and other._engine is self._engine

    def _identity(self) -> int:
        return id(self._engine)


def _time_left(limit_s: float | None) -> Callable[[], float]:
    end = real_monotonic() + (limit_s or 0.0)
    return lambda: max(0.0, end - real_monotonic())
