"""A consumer group as its operator sees it, and the workers that handle its records."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from ..config import choice, shown, text
from ..coordinator import GroupDescription
from ..errors import ConfigError, OffsetOutOfRangeError
from ..runtime.threads import result_of
from ..types import MemberInfo, OffsetAndMetadata, Record, TopicPartition
from .arguments import partition_of, to_ms
from .consumer.consumer import Consumer
from .handle import Parent
from .workers import Workers


class ConsumerGroup:
    """A handle on a group, which need not exist yet; made by `log.group(name)`. Thread-safe.

    >>> import streamlog
    >>> with streamlog.open() as log:
    ...     _ = log.create_topic("orders").send_many(["1", "2", "3"])
    ...     seen = []
    ...     log.group("billing").run(lambda record: seen.append(record.value), "orders", workers=1, until_end=True)
    ...     seen, log.group("billing").lag()
    ([b'1', b'2', b'3'], {TopicPartition(topic='orders', partition=0): 0})
    """

    def __init__(self, log: Parent, name: str) -> None:
        text("group", name)
        self._log = log
        self.name = name

    @property
    def state(self) -> str:
        """Empty, Reconciling (partitions are moving), Stable, or Dead where there is no such group."""
        return self._describe().state

    def members(self) -> list[MemberInfo]:
        """The members and the partitions of each."""
        return list(self._describe().members)

    def _describe(self) -> GroupDescription:
        service = self._log._use()
        self._log._local_members.evict_dead(self.name)
        return service.describe_group(self.name)

    def consumer(self, *topics: Any, **config: Any) -> Consumer[Any, Any]:
        """A consumer in this group."""
        return Consumer(self._log, *topics, group=self.name, **config)

    # -- handling records ----------------------------------------------------------------------------

    def start(
        self,
        handler: Callable[[Record[Any, Any]], object],
        *topics: Any,
        workers: int = 4,
        on_error: str = "stop",
        retries: int = 0,
        retry_backoff_ms: int = 100,
        dead_letter_topic: str | None = None,
        until_end: bool = False,
        **config: Any,
    ) -> Workers:
        """Have `workers` threads call `handler(record)` for every record; returns at once.

        A record is finished, and may be committed, when the handler returned. When it raises it is called
        again, `retries` times, each wait twice as long as the one before, beginning with `retry_backoff_ms`;
        after that "stop" stops all workers (the record is not finished, and `wait` raises the error), "skip"
        logs it and goes on, "dead_letter" sends the record to `dead_letter_topic` (`TOPIC.dead-letters` if
        not given) with headers that tell from where and why, and goes on: `dead_letter.topic`, `.partition`, `.offset`,
        `.timestamp`, `.error` and `.traceback`, its last frames. A dead-letter topic that is too small for a record has
        its `max_message_bytes` raised; one that refuses the record's timestamp gets it with the present time. With `until_end` the workers end
        at the end offsets of now. Raises ConfigError for an async or generator function: nothing would run it.

        The threads outlive the main thread, as Python's own do: a program whose main thread ends goes on handling
        records until `stop`, an error, or Ctrl-C. Those started in a daemon thread are daemons too.
        """
        return Workers(
            self._log, self.name, handler, topics, config, workers=workers, on_error=on_error, retries=retries,
            retry_backoff_ms=retry_backoff_ms, dead_letter_topic=dead_letter_topic, until_end=until_end,
        )  # fmt: skip

    def run(
        self,
        handler: Callable[[Record[Any, Any]], object],
        *topics: Any,
        workers: int = 4,
        on_error: str = "stop",
        retries: int = 0,
        retry_backoff_ms: int = 100,
        dead_letter_topic: str | None = None,
        until_end: bool = False,
        **config: Any,
    ) -> None:
        """`start`, and wait: until the end with `until_end`, else until an error, Ctrl-C, or `log.close()`.

        Ctrl-C lets the records in hand be finished, then raises KeyboardInterrupt.
        """
        with self.start(
            handler, *topics, workers=workers, on_error=on_error, retries=retries, retry_backoff_ms=retry_backoff_ms,
            dead_letter_topic=dead_letter_topic, until_end=until_end, **config,
        ) as running:  # fmt: skip
            running.wait()

    # -- offsets -------------------------------------------------------------------------------------

    def offsets(self) -> dict[TopicPartition, OffsetAndMetadata]:
        """What is committed: the NEXT offset of each partition, and its metadata."""
        return self._log._use().committed(self.name, None)

    def committed(self) -> dict[TopicPartition, int]:
        """The NEXT offset of each partition something is committed for."""
        return {name: committed.offset for name, committed in self.offsets().items()}

    def lag(self) -> dict[TopicPartition, int]:
        """How many offsets the group's commits are behind the end of each partition it reads.

        Where nothing is committed yet all that the partition holds counts.
        """
        service = self._log._use()
        committed = self.committed()
        names = {name.topic for name in committed}
        for member in self.members():
            names |= {name.topic for name in member.assignment}
        lag: dict[TopicPartition, int] = {}
        for topic in sorted(names & set(service.image.topics)):
            for number in range(service.image.topics[topic].partitions):
                name = TopicPartition(topic, number)
                start, end = service.bounds(name, "read_committed")
                lag[name] = max(0, end - max(start, committed.get(name, start)))
        return lag

    def reset(self, *topics: Any, to: str | datetime | Mapping[TopicPartition, int]) -> None:
        """Set the committed offsets: of these topics, or of all the group has committed for.

        `to`: "earliest", "latest", an aware datetime, or a mapping of partition → next offset. Raises
        GroupNotEmptyError while the group has members, OffsetOutOfRangeError, CommitFailedError if a topic is
        deleted meanwhile; then nothing changed.
        """
        service = self._log._use()
        self._log._local_members.evict_dead(self.name)
        topics_now = service.image.topics  # once: a topic that is made anew meanwhile is another one
        names = [self._log._name_of(topic)[0] for topic in topics] or sorted({n.topic for n in self.offsets()})
        wanted: dict[TopicPartition, OffsetAndMetadata] = {}
        if isinstance(to, Mapping):
            for given, offset in to.items():
                name = partition_of(given)
                if topics and name.topic not in names:
                    raise ConfigError(
                        f"reset: {tuple(name)} is not of the topics given ({', '.join(names)}).", name="to"
                    )
                start, end = service.bounds(name, "read_committed")
                if isinstance(offset, bool) or not isinstance(offset, int) or not start <= offset <= end:
                    raise OffsetOutOfRangeError(
                        f"reset: offset {shown(offset)} is outside {name.topic}-{name.partition}, which holds {start} up to, not "
                        f"including, {end}.",
                        log_start_offset=start,
                        log_end_offset=end,
                    )
                wanted[name] = OffsetAndMetadata(offset)
        else:
            if not isinstance(to, datetime):
                choice("to", to, ("earliest", "latest"))
            for topic in names:
                for number in range(service.topic(topic).partitions):
                    name = TopicPartition(topic, number)
                    wanted[name] = OffsetAndMetadata(self._where(name, to))
        ids = {name: topics_now[name.topic].id_bytes for name in wanted if name.topic in topics_now}
        result_of(service.commit(self.name, None, 0, wanted, ids))

    def _where(self, name: TopicPartition, to: Any) -> int:
        service = self._log._use()
        start, end = service.bounds(name, "read_committed")
        if isinstance(to, datetime):
            found = service.find_time(name, to_ms(to))
            return end if found is None else found.offset
        return start if to == "earliest" else end

    def delete(self) -> None:
        """Forget the group and its offsets. Raises GroupNotEmptyError, GroupIdNotFoundError."""
        service = self._log._use()
        self._log._local_members.evict_dead(self.name)
        result_of(service.delete_group(self.name))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ConsumerGroup) and other.name == self.name and other._log._same_log(self._log)

    def __hash__(self) -> int:
        return hash((self._log._identity(), self.name))

    def __reduce__(self) -> Any:
        raise TypeError("a ConsumerGroup is a handle on an open log and cannot be pickled; pass its name")

    def __repr__(self) -> str:
        return f"<streamlog.ConsumerGroup {self.name!r}>"
