"""A consumer group: its members, offsets and lag, and the start of workers that handle its records."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal, Unpack

from ..broker.api import Service
from ..broker.metadata import TopicView
from ..config import shown, text
from ..coordinator import GroupDescription
from ..errors import ConfigError, GroupIdNotFoundError, StreamlogError, UnknownMemberIdError, did_you_mean
from ..runtime.threads import result_of, results_of
from ..types import MemberInfo, OffsetAndMetadata, Record, TopicPartition
from .arguments import is_offset, no_place, offset_at, out_of_range, partition_of, refuse_group
from .config_types import ConsumerConfig, OnError
from .consumer.consumer import Consumer
from .consumer.decode import Decoder
from .dead_letters import DeadLetters
from .extras import notebook, plots
from .handle import Parent, check_log
from .handler import check_handler
from .record_handler import Handler, RecordHandler, WorkersConfig
from .topic import Subscription, TopicLike
from .workers import Workers

if TYPE_CHECKING:
    import altair


class ConsumerGroup:
    """A handle on a consumer group, which need not exist yet. Made by `log.group(name)`. Thread-safe.

    A group exists once it has a member or a committed offset. `name` is its name. An offset is the NEXT one to read.

    - Handling records: `run` and `start` call a function in threads; `consumer` leaves the loop to the program.
    - Where it is: `committed`, `offsets`, `lag`, `plot_lag`; `reset` moves it, to read again or to skip.
    - Its members: `members`, `state`, `evict`. Its end: `delete`.

    >>> import streamlog
    >>> with streamlog.open() as log:
    ...     _ = log.create_topic("orders").send_many(["1", "2", "3"])
    ...     seen = []
    ...     log.group("billing").run(lambda record: seen.append(record.value), "orders", workers=1, until_end=True)
    ...     seen, log.group("billing").lag()
    ([b'1', b'2', b'3'], {TopicPartition(topic='orders', partition=0): 0})
    """

    def __init__(self, log: Parent, name: str) -> None:
        """The same as `log.group(name)`. Raises ConfigError."""
        text("group", name)
        check_log(log, "ConsumerGroup", "group(name)")
        self._log = log
        self.name = name

    @property
    def state(self) -> str:
        """One of "Empty", "Reconciling" (partitions are moving), "Stable", and "Dead", if there is no such group."""
        return self._describe().state

    def members(self) -> list[MemberInfo]:
        """The members and the partitions of each; `MemberInfo` has an example."""
        described = self._describe()
        made = {member.member_id: member.created_at for member in self._log._local_members.others(self.name, None)}
        return [
            MemberInfo(
                each.member_id, each.client_id, each.group_instance_id, each.assignment, made.get(each.member_id)
            )
            for each in described.members
        ]

    def _describe(self) -> GroupDescription:
        service = self._log._use()
        self._log._local_members.evict_dead(self.name)
        return result_of(service.describe_group(self.name))

    def consumer(self, *topics: Subscription, **config: Any) -> Consumer[Any, Any]:
        """A consumer in this group; the same as `log.consumer(*topics, group=name, **config)`."""
        refuse_group(config)
        return Consumer(self._log, *topics, group=self.name, **config)

    # -- handling records ----------------------------------------------------------------------------

    def start(
        self,
        handler: Callable[[Record[Any, Any]], object],
        *topics: Subscription,
        workers: int = 4,
        ordering: Literal["partition", "key"] = "partition",
        concurrency: int | None = None,
        on_error: OnError = "stop",
        retries: int = 0,
        retry_backoff_ms: int = 100,
        dead_letter_topic: str | None = None,
        until_end: bool = False,
        **config: Unpack[ConsumerConfig],
    ) -> Workers:
        """Have threads call `handler(record)` for every record of the topics; return at once.

        A record is finished, and may be committed, when the handler returns.

        handler: a function of one Record
            What it returns is ignored. An async or generator function is refused, because nothing would run it.
        topics: str, Topic, or compiled pattern
            What to read, as in `log.consumer`.
        workers: int = 4
            How many threads. Each has a consumer, so more workers than partitions have nothing to do.
        ordering: "partition" = "partition"
            The records of a partition are handled in order. There is no other order in this version.
        concurrency: int = None
            Refused in this version: each worker handles one record at a time.
        retries: int = 0
            How often the handler is called again when it raises.
        retry_backoff_ms: int (ms) = 100
            How long the first retry waits. Each further one waits twice as long.
        on_error: "stop", "skip" or "dead_letter" = "stop"
            What follows the last retry. "stop": all workers stop, the record is not finished, and `wait` raises the
            error. "skip": the error is logged, and the record is finished. "dead_letter": the record is sent to
            `dead_letter_topic`, and is finished.
        dead_letter_topic: str = None
            None: `TOPIC.dead-letters`. It is created if it does not exist, and its `max_message_bytes` is raised if a
            record needs it. A dead letter has the record's key, value, headers and timestamp (the present time, if the
            topic refuses that), and the headers `dead_letter.topic`, `.partition`, `.offset`, `.timestamp`, `.error` and
            `.traceback` (the last frames).
        until_end: bool = False
            Whether the workers end at the end offsets of now. Otherwise they wait for more records.
        config: the settings of ConsumerConfig
            See `help(streamlog.ConsumerConfig)`. What deserializes is given with a topic: `log.topic(name, value_serde=…)`.

        The threads outlive the main thread, as Python's own threads do: a program whose main thread ends goes on handling
        records until `stop`, an error, or Ctrl-C. Workers that a daemon thread starts are daemon threads too.

        What ends the workers is raised by `wait`, and by `close` or the end of the `with` block. Until then it is shown by their
        repr, and logged by the logger `streamlog.client`, of which nothing is seen without `logging.basicConfig()`.

        Under a `testing.ManualClock` they follow the clock: when `advance` returns, they have handled what was sent, and
        their retries and commits that were due are done.

        Raises ConfigError, UnknownTopicOrPartitionError, ReadOnlyError.

        >>> import streamlog
        >>> with streamlog.open() as log:
        ...     _ = log.create_topic("jobs").send_many(["1", "?", "3"])
        ...     with log.group("crew").start(lambda job: int(job.value), "jobs", on_error="dead_letter", until_end=True) as crew:
        ...         crew.wait(timeout=30)
        ...     [record.value for record in log["jobs.dead-letters"].read()]
        [b'?']
        """
        settings = WorkersConfig(
            workers, ordering, concurrency, on_error, retries, retry_backoff_ms, dead_letter_topic, until_end
        )
        started = self._workers(handler, topics, settings, {**config})
        started._begin()
        return started

    def _workers(
        self,
        handler: Handler,
        topics: Sequence[Any],
        settings: WorkersConfig,
        config: dict[str, Any],
        *,
        blocks: bool = False,
    ) -> Workers:
        check_handler(handler)

        def make_job(decoders: Callable[[TopicPartition], Decoder], dead_letters: DeadLetters | None) -> RecordHandler:
            return RecordHandler(handler, decoders, settings, dead_letters)

        return Workers(self._log, self.name, make_job, topics, settings, config, blocks=blocks)

    def run(
        self,
        handler: Callable[[Record[Any, Any]], object],
        *topics: Subscription,
        workers: int = 4,
        ordering: Literal["partition", "key"] = "partition",
        concurrency: int | None = None,
        on_error: OnError = "stop",
        retries: int = 0,
        retry_backoff_ms: int = 100,
        dead_letter_topic: str | None = None,
        until_end: bool = False,
        **config: Unpack[ConsumerConfig],
    ) -> None:
        """`start`, and wait for the workers: to the end with `until_end`, else until an error, Ctrl-C, or `log.close()`.

        Takes what `start` takes. Raises what `start` raises, and the error that ended the workers. After Ctrl-C the
        records that are being handled are finished; then KeyboardInterrupt is raised. Under a `testing.ManualClock` a retry
        comes at once: this call blocks the thread that would move the clock.
        """
        settings = WorkersConfig(
            workers, ordering, concurrency, on_error, retries, retry_backoff_ms, dead_letter_topic, until_end
        )
        running = self._workers(handler, topics, settings, {**config}, blocks=True)
        try:  # not `with`, which refuses workers that are closed already, as at the end of the program
            running._refuse_endless_wait()
            running._begin()
            running.wait()
        finally:
            running.close()

    # -- offsets -------------------------------------------------------------------------------------

    def offsets(self) -> dict[TopicPartition, OffsetAndMetadata]:
        """What is committed for each partition: the NEXT offset to read, and its metadata."""
        return result_of(self._log._use().committed(self.name, None))

    def committed(self) -> dict[TopicPartition, int]:
        """The NEXT offset to read of each partition for which one is committed; `offsets` without the metadata."""
        return {name: committed.offset for name, committed in self.offsets().items()}

    def lag(self, *topics: TopicLike) -> dict[TopicPartition, int]:
        """How many offsets lie between what is committed and the end of each partition.

        The partitions are all those of `topics`, or without any of the topics that the members subscribe to or the group
        has committed for. Where nothing is committed, the lag counts from where a member would start: where the
        member of this process that has the partition did, else where the `auto_offset_reset` of the members of this process
        says, else at the first offset.

        Raises UnknownTopicOrPartitionError for one of `topics`. Cost: O(members and partitions).
        """
        return self._lag(self._log._use(), self._describe(), topics)

    def plot_lag(self, *topics: TopicLike) -> altair.Chart:
        """`lag` as a picture: of more than 5,000 partitions those with the largest. Needs the extra `notebook`.

        >>> import streamlog
        >>> with streamlog.open() as log:
        ...     _ = log.create_topic("orders").send_many(["9.50", "20.00"])
        ...     log.group("billing").plot_lag("orders").to_dict()["data"]["values"]
        [{'topic': 'orders', 'partition': 0, 'lag': 2}]
        """
        chart: altair.Chart = plots().lag(self.lag(*topics))
        return chart

    def _lag(
        self, service: Service, described: GroupDescription, topics: Iterable[Any] = ()
    ) -> dict[TopicPartition, int]:
        committed = {name: at.offset for name, at in result_of(service.committed(self.name, None)).items()}
        views = [result_of(service.topic(self._log._name_of(topic)[0])) for topic in topics]
        return self._lag_of(service, described, committed, views)

    def _lag_of(
        self,
        service: Service,
        described: GroupDescription,
        committed: Mapping[TopicPartition, int],
        views: Sequence[TopicView] = (),
    ) -> dict[TopicPartition, int]:
        known = service.image.topics
        if not views:
            names = {name.topic for name in committed}.union(*(member.topics for member in described.members))
            # Besides what they subscribe to: the topics that members of before still hold partitions of.
            names.update(name.topic for member in described.members for name in member.assignment)
            views = [known[topic] for topic in sorted(names) if topic in known]
        members = self._log._local_members.others(self.name, None)
        started = {name: at for member in members for name, at in member.started().items()}
        latest = bool(members) and all(member.auto_offset_reset == "latest" for member in members)
        lag: dict[TopicPartition, int] = {}
        partitions = [TopicPartition(view.name, number) for view in views for number in range(view.partitions)]
        bounds = results_of({name: service.bounds(name, "read_committed") for name in partitions})
        for name, (start, end) in bounds.items():
            at = committed.get(name, started.get(name, end if latest else start))
            lag[name] = max(0, end - max(start, at))
        return lag

    def reset(
        self, *topics: TopicLike, to: Literal["earliest", "latest"] | datetime | Mapping[TopicPartition, int]
    ) -> None:
        """Set the committed offsets of these topics, or of all topics that the group has committed for. Stop its members first.

        `to`: "earliest", "latest", an aware datetime (the first record at or after it), or a mapping of TopicPartition to
        the NEXT offset. Raises GroupIdNotFoundError if there is no such group and neither topics nor partitions are given,
        GroupNotEmptyError if the group has members, OffsetOutOfRangeError, and CommitFailedError if a topic is deleted
        meanwhile; then nothing has changed.

        >>> import streamlog
        >>> with streamlog.open() as log:
        ...     _ = log.create_topic("orders").send_many(["9.50", "20.00"])
        ...     log.group("billing").reset("orders", to="latest")
        ...     log.group("billing").reset(to={("orders", 0): 1})
        ...     log.group("billing").committed()
        {TopicPartition(topic='orders', partition=0): 1}
        """
        service = self._log._use()
        self._log._local_members.evict_dead(self.name)
        topics_now = service.image.topics  # read once: a topic that is recreated meanwhile is another topic
        names = [self._log._name_of(topic)[0] for topic in topics]
        if isinstance(to, Mapping):
            wanted = {partition_of(given): OffsetAndMetadata(offset) for given, offset in to.items()}
            self._check(wanted, names)
        else:
            if to not in ("earliest", "latest") and not isinstance(to, datetime):
                raise no_place("to", to, "a mapping of TopicPartition to the NEXT offset, ")
            wanted = {}
            for topic in names or self._topics_to_reset():
                for number in range(result_of(service.topic(topic)).partitions):
                    name = TopicPartition(topic, number)
                    wanted[name] = OffsetAndMetadata(self._where(name, to))
        ids = {name: topics_now[name.topic].id_bytes for name in wanted if name.topic in topics_now}
        result_of(service.commit(self.name, None, 0, wanted, ids))

    def _topics_to_reset(self) -> list[str]:
        """The topics that the group has committed for. Raises GroupIdNotFoundError if there is none."""
        topics = sorted({name.topic for name in self.offsets()})
        if topics:
            return topics
        if self._describe().state != "Dead":
            what = f"Group {self.name!r} has not committed anything"
        else:
            known = [group.name for group in result_of(self._log._use().list_groups())]
            what = f"There is no group {self.name!r}{did_you_mean(self.name, known)}"
        raise GroupIdNotFoundError(
            f"{what}, so there is no offset to reset. To set where a group starts that has not read yet, name the topics: "
            f'reset("orders", to="latest").',
            group=self.name,
        )

    def _check(self, wanted: Mapping[TopicPartition, OffsetAndMetadata], topics: list[str]) -> None:
        """Raise ConfigError for a partition of other topics, OffsetOutOfRangeError for an offset that it does not have."""
        for name, (offset, _, _) in wanted.items():
            if topics and name.topic not in topics:
                raise ConfigError(
                    f"reset: {tuple(name)} is not a partition of the topics given ({', '.join(topics)}).", name="to"
                )
            start, end = result_of(self._log._use().bounds(name, "read_committed"))
            if not is_offset(offset) or not start <= offset <= end:
                raise out_of_range("reset: offset ", offset, name, start, end)

    def _where(self, name: TopicPartition, to: Any) -> int:
        """The offset that "earliest", "latest" or a datetime means."""
        service = self._log._use()
        return offset_at(service, name, to, *result_of(service.bounds(name, "read_committed")))

    def evict(self, member_id: str) -> None:
        """Remove a member, as Kafka's removeMembersFromConsumerGroup does; the others may have its partitions at once.

        `member_id`: see `members()`. For a consumer that is out of reach, such as one that an earlier run of a notebook cell
        has left behind; `close()` is better where it can be called, because it commits what is finished. What the
        member has not committed will be handled again. Its own commits fail from now on. If it polls again, it logs a warning,
        and joins as a new member. The place of a static member (`group_instance_id`) is not kept.

        Raises UnknownMemberIdError, which names the members there are; ReadOnlyError.
        """
        service = self._log._use()
        service.require_writable(f"Evicting a member of group {self.name!r}")
        text("member_id", member_id)
        members = self.members()
        if not any(member.member_id == member_id for member in members):
            there = [f"{m.member_id} (client_id {m.client_id!r}, made at {m.created_at or '?'})" for m in members]
            raise UnknownMemberIdError(
                f"Group {self.name!r} has no member with the member_id {shown(member_id)}. "
                f"{'It has ' + ', '.join(there) if there else 'It has no members'}.",
                group=self.name,
                member_id=member_id,
            )
        for member in self._log._local_members.others(self.name, None):
            if member.member_id == member_id:  # before it is woken by its removal, and polls
                member.note_eviction()
        result_of(service.leave_group(self.name, member_id, force=True))

    def delete(self) -> None:
        """Delete the group and its offsets. Raises GroupNotEmptyError if it has members, GroupIdNotFoundError."""
        service = self._log._use()
        self._log._local_members.evict_dead(self.name)
        result_of(service.delete_group(self.name))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ConsumerGroup) and other.name == self.name and other._log._same_log(self._log)

    def __hash__(self) -> int:
        return hash((self._log._identity(), self.name))

    def __reduce__(self) -> Any:
        """Raise TypeError: a handle cannot be pickled."""
        raise TypeError("a ConsumerGroup is a handle on an open log and cannot be pickled; pass its name")

    def __repr__(self) -> str:
        """The name; and state and lag if this process owns the log, which has both in memory: a reader would look at files."""
        name = shown(self.name)
        service = self._log._if_open()
        if service is None:
            return f"<streamlog.ConsumerGroup {name}: the log is closed>"
        try:
            service.require_writable("A repr")
            described = result_of(service.describe_group(self.name))
            lag = sum(self._lag(service, described).values())
        except StreamlogError:  # a reader, a log that another handle closes, or in the middle of another call
            return f"<streamlog.ConsumerGroup {name}>"
        return f"<streamlog.ConsumerGroup {name}: {described.state}, lag {lag}>"

    def _repr_html_(self) -> str:
        """For notebooks: its state, its members, and where its lag is. It raises nothing."""
        html: str = notebook().of_group(self)
        return html
