"""How workers handle records: they call the handler, again after a failure, and then do what `on_error` says."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ..config import check_topic_name, choice, integer, not_yet
from ..errors import ConfigError, DeserializationError, describe
from ..types import Record, TopicPartition
from .consumer.consumer import Consumer
from .consumer.decode import Decoder, undecodable
from .dead_letters import DeadLetters
from .handler import check_result
from .producer.producer import Producer
from .worker_time import WorkerTime

logger = logging.getLogger("streamlog.client")

Handler = Callable[[Record[Any, Any]], object]
Pause = Callable[[float], bool]
"""Waits so many seconds before a retry, and returns whether the workers are to stop instead."""


@dataclass(frozen=True, slots=True)
class WorkersConfig:
    """The settings of `ConsumerGroup.start` and `run`, checked. Raises ConfigError."""

    workers: int = 4
    ordering: str = "partition"
    concurrency: int | None = None
    on_error: str = "stop"
    retries: int = 0
    retry_backoff_ms: int = 100
    dead_letter_topic: str | None = None
    until_end: bool = False

    def __post_init__(self) -> None:
        integer("workers", self.workers, 1, 1000)
        choice("ordering", self.ordering, ("partition", "key"))
        if self.ordering != "partition":
            raise not_yet("ordering", self.ordering, "the records of a partition are handled in order.")
        if self.concurrency is not None:
            raise not_yet("concurrency", self.concurrency, "each worker handles one record at a time.")
        integer("retries", self.retries, 0)
        integer("retry_backoff_ms", self.retry_backoff_ms, 0)
        choice("until_end", self.until_end, (True, False))
        choice("on_error", self.on_error, ("stop", "skip", "dead_letter"))
        if self.dead_letter_topic is not None:
            check_topic_name(self.dead_letter_topic)
            if self.on_error != "dead_letter":
                raise ConfigError(
                    f"dead_letter_topic={self.dead_letter_topic!r} has no effect with on_error={self.on_error!r}; give "
                    f"on_error='dead_letter', or leave it out.",
                    name="dead_letter_topic",
                )

    @classmethod
    def names(cls) -> Sequence[str]:
        """The names of the settings."""
        return [each.name for each in dataclasses.fields(cls)]


class Stopped(Exception):
    """The workers were stopped before a record was finished. It is not committed."""


class RecordHandler:
    """Handles the records of one group's workers. Thread-safe if `handler` is.

    Records are deserialized here and not in the consumer, because a dead letter has the bytes of its record, and a record
    that cannot be deserialized is handled like one whose handler raises.
    """

    def __init__(
        self,
        handler: Handler,
        decoders: Callable[[TopicPartition], Decoder],
        config: WorkersConfig,
        dead_letters: DeadLetters | None,
    ) -> None:
        """`dead_letters` is None unless `on_error` asks for them."""
        self._handler = handler
        self._decoders = decoders
        self._config = config
        self._dead_letters = dead_letters

    def work(self, consumer: Consumer[Any, Any], ends: dict[TopicPartition, int] | None, time: WorkerTime) -> None:
        """Handle the records of one worker's consumer, up to `ends` or until it is stopped. Raises what `handle` raises."""
        for record in consumer if ends is None else consumer._until(ends, None):
            time.turn += 1
            # A record that was taken before `stop` and is not begun. Another worker may have failed on it, and its
            # partition moved here since.
            if time.is_stopping():
                raise Stopped
            self.handle(record, time.pause)

    def handle(self, record: Record[Any, Any], pause: Pause) -> None:
        """Handle a record; on return it is finished and may be committed.

        Raises the handler's error if `on_error` is "stop", Stopped if the workers stop before a retry, and ConfigError for
        a result that nothing would run.
        """
        try:
            result = attempts(self._handler, record, self._decoders(record.topic_partition), self._config, pause)
        except Stopped:
            raise
        except Exception as error:
            if self._config.on_error == "stop":
                note(error, record)
                raise
            give_up(record, error, self._dead_letters)
        else:
            check_result(result)

    def close(self) -> None:
        if self._dead_letters is not None:
            self._dead_letters.close()


def attempts(
    handler: Handler, record: Record[Any, Any], decoder: Decoder, config: WorkersConfig, pause: Pause
) -> object:
    """What the handler returns, called again after a failure as often as `config` says. Raises its last error, Stopped."""
    wait_s = config.retry_backoff_ms / 1000
    for _ in range(config.retries):
        try:
            return handler(_decoded(record, decoder))
        except Exception as error:
            if pause(wait_s):
                raise Stopped from error
            wait_s *= 2
    return handler(_decoded(record, decoder))


def place_of(record: Record[Any, Any]) -> str:
    return f"{record.topic}-{record.partition} at offset {record.offset}"


def note(error: Exception, record: Record[Any, Any]) -> None:
    """Have the traceback of the handler's error say which record it is about (PEP 678)."""
    if not isinstance(error, DeserializationError):  # whose message does
        error.add_note(f"The handler raised this for {place_of(record)}, which is not finished.")


def give_up(
    record: Record[Any, Any],
    error: Exception,
    dead_letters: DeadLetters | None,
    producer: Producer | None = None,
) -> None:
    """Skip the record, or send it to the dead-letter topic, through `producer` or one of the library's own."""
    where = place_of(record)
    if dead_letters is None:
        logger.error("the handler failed on %s, which is skipped: %s", where, describe(error), exc_info=error)
        return
    topic = dead_letters.send(record, error, producer)
    logger.error("the handler failed on %s, which went to %s: %s", where, topic, describe(error), exc_info=error)


def _decoded(record: Record[Any, Any], decoder: Decoder) -> Record[Any, Any]:
    if decoder.plain:
        return record
    key, value = record.key, record.value
    try:
        if decoder.deserialize_key is not None and key is not None:
            key = decoder.deserialize_key(key)
        if decoder.deserialize_value is not None and value is not None:
            value = decoder.deserialize_value(value)
    except Exception as error:
        raise undecodable(record, error, "workers go on after it with on_error='skip' or 'dead_letter'") from error
    return record._replace(key=key, value=value)
