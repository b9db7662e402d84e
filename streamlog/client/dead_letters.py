"""Dead letters: records that a group's handler failed on, kept in a topic of their own.

A record that could not be kept would stop its group for good, so the dead-letter topic takes whatever the source topic
did. A topic that is created here takes larger records than the source, because headers are added. An existing topic gets
a larger `max_message_bytes` when a record needs it. If the topic refuses the record's timestamp, only a header has it.
"""

from __future__ import annotations

import contextlib
import logging
import re
import traceback
from collections.abc import Iterable
from typing import Any

from ..config import LARGEST_RECORD, check_topic_name
from ..errors import ConfigError, InvalidTimestampError, RecordTooLargeError, TopicAlreadyExistsError, describe
from ..runtime.threads import result_of
from ..types import HeaderTuple, Record
from .handle import Parent
from .producer.producer import Producer, SharedProducer

logger = logging.getLogger("streamlog.client")

SUFFIX = ".dead-letters"
HEADERS_BYTES = 1 << 16  # more than the headers added here take
_LONGEST_NAME = 249
_TEXT_BYTES = 4096
_FRAMES = 10


def topic_of(source: str) -> str:
    """The topic for the dead letters of `source`. A name that would be too long is cut, and gets a digest of all of it."""
    if len(source) + len(SUFFIX) > _LONGEST_NAME:
        from hashlib import sha256  # here: it would take 3 ms of each import of streamlog

        digest = sha256(source.encode()).hexdigest()[:16]
        source = f"{source[: _LONGEST_NAME - len(SUFFIX) - len(digest) - 1]}-{digest}"
    return source + SUFFIX


class DeadLetters:
    """Sends records to `topic`, or if that is None to `TOPIC.dead-letters` of each record's topic. Thread-safe."""

    def __init__(
        self, log: Parent, topic: str | None, sources: Iterable[str], patterns: Iterable[re.Pattern[str]]
    ) -> None:
        """`sources` are the topics that the group reads now, `patterns` those by which it finds others.

        Raises ConfigError if the group would read its own dead letters, or if they would replace each other.
        """
        self._log = log
        self._topic = None if topic is None else check_topic_name(topic)
        self._producer = SharedProducer(max_request_size=LARGEST_RECORD, buffer_memory=LARGEST_RECORD)
        names = set(sources)
        for name in sorted({self._target(source) for source in names}):
            if (name == topic and name in names) or any(pattern.fullmatch(name) for pattern in patterns):
                raise ConfigError(
                    f"The group reads {name!r}, the topic of its own dead letters: it would fail on them again and again. Read "
                    f"other topics (a pattern may exclude names), or give another dead_letter_topic.",
                    name="dead_letter_topic",
                )
            view = log._use().image.topics.get(name)
            if view is not None and view.config.compacts:
                raise ConfigError(
                    f"{name!r} is compacted: it would keep the last dead letter of each key, and refuse those without a key. "
                    f"Give a dead_letter_topic with cleanup_policy='delete'.",
                    name="dead_letter_topic",
                )

    def _target(self, source: str) -> str:
        return self._topic or topic_of(source)

    def send(self, record: Record[Any, Any], error: BaseException, producer: Producer | None = None) -> str:
        """Write a record to its dead-letter topic, whose name is returned; headers say where it comes from, and why.

        `producer`: one that takes large records, in whose transaction the dead letter is to be.
        """
        topic = self._target(record.topic)
        if topic not in self._log:
            self._create(topic, record.topic)
        origin: HeaderTuple = (
            ("dead_letter.topic", record.topic.encode()),
            ("dead_letter.partition", str(record.partition).encode()),
            ("dead_letter.offset", str(record.offset).encode()),
            ("dead_letter.timestamp", str(record.timestamp).encode()),
        )
        why: HeaderTuple = (
            ("dead_letter.error", _encoded(describe(error))[:_TEXT_BYTES]),
            ("dead_letter.traceback", _last_frames(error)),
        )
        # The largest records leave no space for headers. The caller logs where the record comes from.
        for added in (origin + why, origin):
            try:
                self._send(topic, record, (*record.headers, *added), producer)
                return topic
            except RecordTooLargeError as refused:
                if refused.size <= LARGEST_RECORD:
                    raise
        self._send(topic, record, record.headers, producer)
        return topic

    def _create(self, topic: str, source: str) -> None:
        settings = {
            "cleanup_policy": "delete",
            "max_message_bytes": self._largest_of(source),
            "message_timestamp_after_max_ms": None,
        }
        with contextlib.suppress(TopicAlreadyExistsError):  # another worker was faster
            result_of(self._log._use().create_topic(topic, None, settings))

    def _largest_of(self, source: str, size: int = 0) -> int:
        """The `max_message_bytes` for dead letters of `size` bytes, and of the largest records of `source` with headers."""
        view = self._log._use().image.topics.get(source)
        allowed = view.config.max_message_bytes if view is not None else 0
        return min(LARGEST_RECORD, max(size, allowed + HEADERS_BYTES))

    def _send(self, topic: str, record: Record[Any, Any], headers: HeaderTuple, producer: Producer | None) -> None:
        """Send it. If the topic refuses its timestamp, send it with the present time; if its size, raise the topic's limit."""
        timestamp: int | None = record.timestamp
        grown = False
        while True:
            try:
                sender = producer or self._producer.of(self._log)
                sender.send(topic, record.value, record.key, headers=headers, timestamp_ms=timestamp).result()
                return
            except InvalidTimestampError:
                if timestamp is None:
                    raise
                timestamp = None
            except RecordTooLargeError as error:
                if grown or error.size > LARGEST_RECORD:
                    raise
                grown = True
                logger.warning(
                    "%s takes records of %d bytes, and a dead letter has %d: its max_message_bytes is raised",
                    topic, error.max_size, error.size,
                )  # fmt: skip
                largest = self._largest_of(record.topic, error.size)
                result_of(self._log._use().update_topic(topic, {"max_message_bytes": largest}))

    def close(self) -> None:
        self._producer.close()


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "replace")


def _last_frames(error: BaseException) -> bytes:
    """The innermost frames of the traceback. The message, which may be long, is in another header."""
    return _encoded("".join(traceback.format_tb(error.__traceback__, limit=-_FRAMES)))[-_TEXT_BYTES:]
