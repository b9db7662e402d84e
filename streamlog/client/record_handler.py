"""How a worker handles one record: it calls the handler, again after a failure, and then does what `on_error` says."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ..config import check_topic_name, choice, integer, not_yet
from ..errors import ConfigError, describe
from ..types import Record, TopicPartition
from .consumer.decode import Decoder, undecodable
from .dead_letters import DeadLetters
from .handler import check_result

logger = logging.getLogger("streamlog.client")

Handler = Callable[[Record[Any, Any]], object]


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

    def handle(self, record: Record[Any, Any], pause: Callable[[float], bool]) -> None:
        """Handle a record; on return it is finished and may be committed.

        `pause(seconds)` waits before a retry, and returns whether the workers are to stop instead.

        Raises the handler's error if `on_error` is "stop", Stopped if the workers stop before a retry, and ConfigError for
        a result that nothing would run.
        """
        wait_s = self._config.retry_backoff_ms / 1000
        for attempt in range(self._config.retries + 1):
            try:
                result = self._handler(_decoded(record, self._decoders(record.topic_partition)))
            except Exception as error:
                if attempt < self._config.retries:
                    if pause(wait_s):
                        raise Stopped from error
                    wait_s *= 2
                    continue
                if self._config.on_error == "stop":
                    raise
                self._give_up(record, error)
            else:
                check_result(result)
                return

    def _give_up(self, record: Record[Any, Any], error: Exception) -> None:
        """Skip the record, or send it to the dead-letter topic."""
        where = f"{record.topic}-{record.partition} at offset {record.offset}"
        if self._dead_letters is None:
            logger.error("the handler failed on %s, which is skipped: %s", where, describe(error), exc_info=error)
            return
        topic = self._dead_letters.send(record, error)
        logger.error("the handler failed on %s, which went to %s: %s", where, topic, describe(error), exc_info=error)

    def close(self) -> None:
        if self._dead_letters is not None:
            self._dead_letters.close()


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
