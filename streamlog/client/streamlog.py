"""The log that `streamlog.open` returns."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from operator import is_not
from typing import Any, TypeVar, Unpack, overload

from ..broker.api import Listener, Service
from ..broker.metadata import TopicView
from ..broker.registry import Engine
from ..config import (
    check_replication_factor,
    check_topic_name,
    choice,
    integer,
    typed,
)
from ..errors import ConfigError, InvalidTopicError, StreamlogError, TopicAlreadyExistsError
from ..runtime.disk import PathLike, path_of
from ..runtime.threads import inside, is_inside, new_lock, refuse_reentry, result_of
from ..runtime.values import raise_first, snapshot
from ..types import K, MaybeNone, TopicPartition, TransactionInfo, V
from . import extras
from .arguments import (
    partition_number,
    partition_of,
    replicas_of,
)
from .background import Background, registry
from .broker import Broker
from .cleanup import Cleanup
from .config_types import ColumnConfig, ConsumerConfig, ProducerConfig, TopicConfig
from .consumer.consumer import Consumer
from .consumer.membership import LocalMembers
from .group import ConsumerGroup
from .handle import Closing, closed, time_left
from .producer.producer import Producer, SharedProducer
from .reassignment import Reassignment
from .replay import Replayed, replay
from .retrying import with_retries
from .serde import De, DeByTopic, Serde
from .sql import Queries, SqlResult
from .topic import At, Subscription, Topic, TopicLike
from .transaction import TransactionalProducers, abort_transaction, open_transactions

ListenerT = TypeVar("ListenerT", bound=Listener)
LISTENER_CLOSE_S = 10.0


class StreamLog(Closing):
    """A log: topics, and the producers, consumers and groups that write and read them. Thread-safe.

    Made by `streamlog.open`. Closing it, by `close` or at the end of a `with` block, closes its workers, its consumers,
    and its producers, which are flushed; then every call raises ClosedError.

    - Topics: `create_topic`; `log["orders"]` or `topic` gives one that exists, with serdes if it is to have them;
      `"orders" in log`; `for name in log`; `topics`; `delete_topic`.
    - Writing and reading: `producer`, `consumer`; a Topic has `send` and `read`. Both at once, all or nothing: `transaction`.
      Which are open: `transactions`, `abort_transaction`. Records of the past, sent once more as time goes by: `replay`.
    - Groups, their offsets and workers: `group`, `groups`. SQL over topics: `sql`.
    - Its brokers: `brokers`, `add_broker`, `retire_broker`. Where its replicas are, and which of them lead: `elect_leader`,
      `reassign`, `reassignments`, `replication_throttle_bytes_per_s`.
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
        self._patient_service = with_retries(engine.service)
        self._user = user
        self._ended = False
        self._cleanup: Cleanup = engine.work.cleanup
        self._local_members: LocalMembers = engine.work.local_members
        self._children: weakref.WeakKeyDictionary[Any, None] = weakref.WeakKeyDictionary()
        self._lock = new_lock()
        self._topic_sender = SharedProducer()
        self._transactional_producers = TransactionalProducers()
        self._listeners: list[Listener] = []
        self._attaches = True
        self._queries = Queries()
        engine.handles[self] = None
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
    def topic(
        self, name: str, *, value_serde: Serde[V], **columns: Unpack[ColumnConfig]
    ) -> Topic[bytes | MaybeNone, V | MaybeNone]: ...
    @overload
    def topic(
        self, name: str, *, key_serde: Serde[K], value_serde: Serde[V], **columns: Unpack[ColumnConfig]
    ) -> Topic[K | MaybeNone, V | MaybeNone]: ...
    @overload
    def topic(self, name: str, *, key_serde: Serde[K]) -> Topic[K | MaybeNone]: ...
    def topic(
        self,
        name: str,
        *,
        key_serde: Serde[Any] | None = None,
        value_serde: Serde[Any] | None = None,
        **columns: Unpack[ColumnConfig],
    ) -> Topic[Any, Any]:
        """A handle on a topic, with serdes for its keys and values if they are given (`streamlog.Serde`).

        Without serdes, keys and values are bytes, and a str that is sent becomes UTF-8.

        `schema`: the fields of the values, which have to be mappings, for exports to Arrow and data frames. Then the column `value` is
        a struct, and each field is a column too, unless a column such as `key` or `offset` has its name. "infer" finds the fields in
        the first 1,000 records when this handle is first exported. `on_mismatch`: a value that does not fit raises DeserializationError,
        or is null and counted in `topic.mismatches`.

        Raises UnknownTopicOrPartitionError if there is no such topic, unless `auto_create_topics` creates it; with a `schema` also
        MissingExtraError without pyarrow, and ConfigError.

        >>> import streamlog
        >>> with streamlog.open(auto_create_topics=True) as log:
        ...     orders = log.topic("orders", value_serde=streamlog.serde.json)
        ...     _ = orders.send({"price": 9.5})
        ...     [record.value for record in orders.read()]
        [{'price': 9.5}]
        """
        self._topic_view(name)
        topic: Topic[Any, Any] = Topic(self, name, key_serde=key_serde, value_serde=value_serde, **columns)
        if columns.get("schema") is not None:
            self._queries.note(topic)
        return topic

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

    # -- SQL -----------------------------------------------------------------------------------------

    def sql(self, query: str, *, tables: Mapping[str, Any] | None = None, into: TopicLike | None = None) -> SqlResult:
        """Run one SELECT, in the SQL of DuckDB, over topics. Needs the extra `sql`.

        Each topic is a table of its name, with the columns of `Topic.to_arrow`: partition, "offset" (in quotes: SQL has a word of
        that name), timestamp, key, value, headers. If `log.topic(name, …, schema=…)` made a handle on it, the last one counts, and
        the fields of its values are columns. `tables` are others by name: topics, data frames of pandas and polars, and whatever
        has data of Arrow. `into`: the rows are also sent to that topic, one record each: as it says in `SqlResult.send`.

        The query sees the records that there are when it begins. Only the columns that it uses are decoded (of values
        with a schema, all fields), and of records only those that the conditions on partition, "offset" and timestamp leave. Times without a zone are of UTC. It has no
        access to files, to the network, or to variables of the program; it may take 2 GiB of memory. The result is in memory;
        sums of integers are int64 in it if they fit, else decimals, since Arrow has no larger integers.

        Raises ConfigError for anything but one SELECT, duckdb.Error for what DuckDB does not accept, with a note of what to do where that
        is known, and what `topic.read` raises; UnknownTopicOrPartitionError for the topic of `into` before the query runs.

        >>> import streamlog, json
        >>> with streamlog.open() as log:
        ...     _ = log.create_topic("orders").send_many([json.dumps({"price": 9.5}), json.dumps({"price": 20})])
        ...     orders = log.topic("orders", value_serde=streamlog.serde.json, schema="infer")
        ...     log.sql("SELECT sum(price) FROM orders").fetchall()
        [(29.5,)]
        """
        # Looked up first: a query that takes minutes is not lost to a name that is misspelt.
        topic = self.topic(into) if into is not None and not isinstance(into, Topic) else into
        result = self._queries.run(self, query, tables)
        if topic is not None:
            result.send(topic)
        return result

    # -- replicas ------------------------------------------------------------------------------------

    def elect_leader(self, partition: TopicPartition, broker_id: int | None = None) -> None:
        """Have a broker lead a partition: `broker_id`, or the preferred one, which is the first of its replicas (KIP-460).

        Nothing is lost, and producers carry on: the partition takes no records until the replicas in sync have everything,
        a few milliseconds. Does nothing if that broker leads already. After brokers were stopped and started, this spreads
        the leaders again.

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
        """Move partitions of a topic to other brokers, or change how many replicas they have, while it is written and read (KIP-455).

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
        """What is under way: one for each topic, and one for each broker that is retired. Those too of before the last open."""
        return [Reassignment(self, moves) for moves in self._use().reassignments()]

    # -- brokers -------------------------------------------------------------------------------------

    @property
    def brokers(self) -> list[Broker]:
        """The brokers of this log, in the order of their ids: see `streamlog.Broker`. A log without `brokers=` has one.

        >>> import streamlog
        >>> with streamlog.open(brokers=2) as log:
        ...     [(broker.id, broker.running) for broker in log.brokers]
        [(0, True), (1, True)]
        """
        paths = self._use().broker_paths()
        return [Broker(self, broker_id, self.path and path) for broker_id, path in sorted(paths.items())]

    def add_broker(self, path: str | PathLike[str]) -> Broker:
        """Add a broker to a log of several, in a directory of its own, which may lie on another disk.

        path: str or PathLike
            An empty directory, or one that does not exist. A relative path is taken from the working directory. It is recorded:
            the next `open` finds it. In the log's own directory it has to be `broker-N`, with the broker's number.

        New topics use it; what is there does not move by itself: `reassign` moves it. If this fails, the directory is left empty.

        Raises ConfigError for a directory that is not empty or is in another broker's, and for a log of one broker: open
        that with `brokers=[its directory, a new one]`, and it has two. Raises what opening a directory raises.

        >>> import os, streamlog, tempfile
        >>> with tempfile.TemporaryDirectory() as disks, streamlog.open(disks + "/log", brokers=2) as log:
        ...     added = log.add_broker(disks + "/disk2")
        ...     orders = log.create_topic("orders", replication_factor=3)
        ...     added.id, added.running, len(orders.partition(0).replicas)
        (2, True, 3)
        """
        broker_id = self._use().add_broker(path_of(path))
        return Broker(self, broker_id, self._use().broker_paths()[broker_id])

    def retire_broker(self, broker_id: int) -> Reassignment:
        """Take a broker out of the log, while it is written and read: what it has moves to the other brokers, then it is closed.

        broker_id: int
            The broker, which may be stopped, or have lost its directory: the others have its records.

        Returns when it is recorded; new topics do not use the broker from then on. The others get its replicas evenly, and lead
        what it led; the log's own topics have fewer replicas then, if they must. Its directory is left, and can be
        removed, unless no other broker is in the directory that `open` was given: it finds the others by the retired one then.

        Raises ConfigError for a broker that there is not, if too few others are left for the replicas of a topic, or if it
        does not run and has the last replica of a partition that is in sync.

        >>> import streamlog
        >>> with streamlog.open(brokers=4) as log:
        ...     orders = log.create_topic("orders", partitions=4)
        ...     log.retire_broker(0).wait(10)
        ...     [broker.id for broker in log.brokers], {orders.partition(n).replicas.count(0) for n in range(4)}
        ([1, 2, 3], {0})
        """
        integer("broker_id", broker_id, 0, 1 << 31)
        return Reassignment(self, result_of(self._use().retire_broker(broker_id)))

    @property
    def replication_throttle_bytes_per_s(self) -> int | None:
        """How fast `reassign` and `retire_broker` copy: bytes in a second, of each broker that gets replicas. None: no limit.

        It can be set at any time, also for what is under way. It is not stored: the next `open` begins with None. Followers that
        are in sync are not throttled, nor those of a broker that comes back. Kafka's throttled rates (KIP-73), for all brokers.
        """
        return self._use().replication_throttle

    @replication_throttle_bytes_per_s.setter
    def replication_throttle_bytes_per_s(self, bytes_per_s: int | None) -> None:
        if bytes_per_s is not None:
            integer("replication_throttle_bytes_per_s", bytes_per_s, 1)
        service = self._use()
        service.require_writable("Copying replicas")
        service.replication_throttle = bytes_per_s

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

    def transaction(
        self, transactional_id: str, *, consumer: Consumer[Any, Any] | None = None
    ) -> AbstractContextManager[Producer]:
        """A block in which records consumed, records produced and the offsets count together, or not at all. Its value is a Producer.

        transactional_id: str
            The name of what does this, over restarts. Another process or handle that uses it takes over. The log keeps a producer for
            each name until it is closed, so a block costs no more than its transaction: use the same few names.
        consumer: Consumer = None
            One in a group, with `enable_auto_commit=False`. At the end of the block its positions are committed with the transaction, so
            all that it has returned counts as handled; its own `commit` is refused meanwhile. After an abort, or a block that could not
            begin, it goes on at what was committed last. It is in one transaction at a time.

        The block commits at its end, and aborts on an exception of any kind. Once the commit is decided it counts, whatever is raised
        after that. Only what this producer sends is in it: `Topic.send` sends outside of it. Threads that work at the same time need names of their own. The producer has no serializers: send to a `Topic`
        that has a serde, as `producer.send(log.topic(name, value_serde=…), value)`, or bytes and str.

        Raises ConfigError; InvalidTxnStateError if a transaction of the name or the consumer is open already; TransactionAbortedError if
        the last one, whose end was not known, turns out to be aborted: drop what the consumer has returned since, and poll again; at
        the end what `Producer.commit_transaction` and `send_offsets_to_transaction` raise.

        >>> import streamlog
        >>> with streamlog.open(auto_create_topics=True) as log:
        ...     _ = log.create_topic("orders").send_many(["9.50", "20.00"])
        ...     with log.consumer("orders", group="billing", enable_auto_commit=False) as consumer:
        ...         with log.transaction("billing-1", consumer=consumer) as producer:
        ...             for order in consumer.poll():
        ...                 _ = producer.send("invoices", order.value)
        ...     log.group("billing").committed(), [invoice.value for invoice in log["invoices"].read()]
        ({TopicPartition(topic='orders', partition=0): 2}, [b'9.50', b'20.00'])
        """
        self._use()
        return self._transactional_producers.scope(self, transactional_id, consumer)

    def transactions(self) -> list[TransactionInfo]:
        """The transactions that are open now, or decided and not complete; `TransactionInfo` has an example.

        Consumers see nothing that comes after the first record of the oldest one in a partition: `Topic.partition` has its
        `last_stable_offset`.
        """
        return open_transactions(self._use())

    def abort_transaction(self, transactional_id: str) -> None:
        """Abort an open transaction, whatever its producer is doing, which is fenced: its next call raises ProducerFencedError.

        For one that hangs and holds readers back; its timeout, `transaction_timeout_ms`, does so too. Raises InvalidTxnStateError if no
        transaction of this id is open, or its commit is decided; RequestTimedOutError if a partition of it has no leader for a minute: it is decided then, and
        complete once that partition has one.

        >>> import streamlog
        >>> with streamlog.open(auto_create_topics=True) as log, log.producer(transactional_id="billing") as producer:
        ...     producer.begin_transaction()
        ...     _ = producer.send("orders", "9.50")
        ...     log.abort_transaction("billing")
        ...     log.transactions()
        []
        """
        abort_transaction(self._use(), transactional_id)

    def replay(
        self,
        topic: Topic[Any, Any] | str,
        *,
        speed: float = 1.0,
        into: Topic[Any, Any] | str,
        start: At | Mapping[int, int] = "earliest",
        end: At = "latest",
        progress: bool = True,
    ) -> Replayed:
        """Send the records of a topic to another one, in the order and at the pace of their timestamps, `speed` times as fast.

        `start`, `end`: as `Topic.read` takes them, or an offset for each partition; the end is the one of now. `speed=float("inf")` does
        not wait. `into`: if there is no topic of this name it is created, with as many partitions. Records keep their bytes, headers and
        timestamps, and their partition if it has as many; else their keys decide. Those with one key stay in order if the source had them so.

        `progress`: shown on a terminal, or in a notebook. It takes time on the log's clock: under a `testing.ManualClock` another thread has to
        move that. Ctrl-C ends it at once; all that was sent is in the log then, and a note of the exception says where to go on.

        Raises ConfigError, what `Topic.read` and `Producer.send` raise, and ClosedError if the log is closed meanwhile.

        >>> import streamlog
        >>> with streamlog.open() as log:
        ...     _ = log.create_topic("orders").send_many(["9.50", "20.00"], timestamps_ms=[1_000, 61_000])
        ...     done = log.replay("orders", speed=36_000, into="live")
        ...     done.records, [record.timestamp for record in log["live"].read()]
        (2, [1000, 61000])
        """
        return replay(self, topic, speed, into, start, end, progress)

    def group(self, name: str) -> ConsumerGroup:
        """A handle on a consumer group, which need not exist yet; see `ConsumerGroup`. Raises ConfigError."""
        self._use()
        return ConsumerGroup(self, name)

    def groups(self) -> list[ConsumerGroup]:
        """Handles on all groups, in the order of their names."""
        return [ConsumerGroup(self, group.name) for group in result_of(self._use().list_groups())]

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

        Of each broker, as `["brokers"]["0"]`: `path`, `running`, `failure` (why it does not run, if it was not stopped; or None),
        `retiring`, `leaders` and `replicas` (how many partitions it leads, and has),
        `lag_records` (the sum) and `lag_ms` (the greatest) of those that it follows.

        Of all, in `["replication"]`: `offline_partitions`, `under_replicated_partitions` (a replica is not in sync),
        `under_min_isr_partitions` (too few are in sync for acks="all"), and since the log was opened `isr_shrinks`, `isr_expands`,
        `unclean_leader_elections`, `damaged` (places in segments that did not verify), `repaired` (those that were filled from another
        replica) and `scrubbed_bytes` (what was read in search of damage; of a log with several brokers).

        Of transactions, in `["transactions"]`: `open`, `completing` (decided, and their markers are being written), `oldest_open_ms`, and
        `hanging`: a list of those that hold back a partition and of which the coordinator does not know, so that no timeout ends
        them. Each has `topic`, `partition`, `producer_id` and `first_offset`.

        A log that was opened with `read_only=True` has no numbers of other processes' work: no counts since the log was
        opened, no `lag`, no `transactions`; `failures` has only why a partition cannot be read, which has no other numbers then. `running` is what the owner recorded last, and `path` is left out where it is not known.

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
        listener = make(self._use(retries=False))
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
        self._queries.close()
        try:
            registry.close(self._engine, self._user)
        except StreamlogError as error:
            errors.append(error)
        self._ended = True
        raise_first(errors)

    def _closers(self, limit_s: float | None) -> Iterator[Callable[[], None]]:
        """How to close each child: listeners, workers, consumers, producers. `limit_s`: for each of the four kinds."""
        children = snapshot(self._children)
        left = time_left(LISTENER_CLOSE_S if limit_s is None else limit_s)
        for listener in list(self._listeners):
            yield partial(self._close_listener, listener, left)
        left = time_left(limit_s)
        for child in children:
            if not isinstance(child, (Consumer, Producer)):
                yield child.close if limit_s is None else partial(child._close, left())
        left = time_left(limit_s)
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

    def _repr_html_(self) -> str:
        """For notebooks: its brokers and its first topics. It raises nothing."""
        html: str = extras.notebook().of_log(self)
        return html

    # -- for its children ----------------------------------------------------------------------------

    def _use(self, *, retries: bool = True) -> Service:
        """The service, whose calls wait while a partition has no leader if it `retries`. Raises ClosedError, ReentrantCallError.

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
        return self._patient_service if retries else self._engine.service

    def _if_open(self) -> Service | None:
        """The service, or None if the log is closed. For a repr: it does nothing else, and raises nothing."""
        return None if self._closed_error is not None else self._engine.service

    def _adopt(self, child: Any) -> None:
        self._children[child] = None

    def _forget(self, child: Any) -> None:
        self._children.pop(child, None)

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

    def _topic_producer(self) -> Producer:
        """The producer of `Topic.send`, without a linger."""
        return self._topic_sender.of(self)

    def _same_log(self, other: Any) -> bool:
        return isinstance(other, StreamLog) and other._engine is self._engine

    def _identity(self) -> int:
        return id(self._engine)
