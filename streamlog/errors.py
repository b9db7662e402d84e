"""Every error streamlog raises: one tree under `StreamlogError`, named after Kafka's.

Each error says what happened, why, and what to do next; carries its facts as attributes; pickles;
and has `retriable`: whether the same call may succeed later without the caller changing anything.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from .types import ProducerRecord, Record, RecordMetadata


def _rebuild(cls: type[StreamlogError], message: str, fields: dict[str, Any]) -> StreamlogError:
    error = cls.__new__(cls, message)
    error.args = (message,)
    error.__dict__.update(fields)
    return error


class StreamlogError(Exception):
    """The root of the tree. Facts given by keyword become attributes.

    >>> OffsetOutOfRangeError("gone", log_start_offset=5, log_end_offset=9).log_start_offset
    5
    """

    retriable = False

    def __init__(self, message: str = "", **fields: Any) -> None:
        super().__init__(message)
        self.__dict__.update(fields)

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), str(self.args[0]) if self.args else "", dict(self.__dict__))

    def copy(self) -> Self:
        """A fresh copy to raise: one stored error raised twice would grow its traceback each time."""
        copy = _rebuild(type(self), str(self.args[0]) if self.args else "", dict(self.__dict__))
        copy.__cause__ = self.__cause__
        return copy  # type: ignore[return-value]


class ConfigError(StreamlogError, ValueError):
    """An unknown, contradictory, malformed or not yet available setting."""


class UnknownTopicOrPartitionError(StreamlogError, LookupError):
    """No topic of that name, or no partition of that number."""


class UnknownTopicIdError(StreamlogError, LookupError):
    """The topic this handle was made for was deleted, though another may bear its name now."""


class InvalidTopicError(StreamlogError, ValueError):
    """A name that Kafka's rule refuses: `[a-zA-Z0-9._-]{1,249}`, not `.` or `..`."""


class TopicAlreadyExistsError(StreamlogError):
    """A topic of that name is there already."""


class OffsetOutOfRangeError(StreamlogError, ValueError):
    """The offset lies outside the log. `.log_start_offset` and `.log_end_offset` (exclusive) are the bounds."""

    log_start_offset: int
    log_end_offset: int


class RecordTooLargeError(StreamlogError, ValueError):
    """A record larger than `max_request_size` or the topic's `max_message_bytes`. `.size` and `.max_size` in bytes."""

    size: int
    max_size: int


class SerializationError(StreamlogError, TypeError):
    """A key, value or header that could not be turned into bytes."""


class DeserializationError(StreamlogError):
    """A deserializer failed. `.record` is the record as bytes; seek past it to go on."""

    record: Record[Any, Any]


class CorruptRecordError(StreamlogError):
    """Bytes on disk that are not what was written: `.path`, `.position`, both checksums."""

    path: str
    position: int
    expected: int
    actual: int


class CommitFailedError(StreamlogError):
    """The group gave the partition to another member; its records will be handled there."""


class RebalanceInProgressError(StreamlogError):
    """The group is moving partitions; ask again after the next poll."""

    retriable = True


class UnknownMemberIdError(StreamlogError):
    """The coordinator does not know this member: it left, was evicted, or never joined."""


class FencedInstanceIdError(StreamlogError):
    """Another consumer has taken over this `group_instance_id`."""


class GroupNotEmptyError(StreamlogError):
    """The group has members; stop them first."""


class GroupIdNotFoundError(StreamlogError, LookupError):
    """No such group: nothing was ever committed in it and nobody is in it."""


class NotLeaderError(StreamlogError):
    """This broker does not lead the partition (any more)."""

    retriable = True


class ProducerFencedError(StreamlogError):
    """A newer producer of the same transactional id took over."""


class OutOfOrderSequenceError(StreamlogError):
    """A producer's sequence skipped a number: a record in between is missing."""


class InvalidTxnStateError(StreamlogError):
    """The call does not fit the state the transaction is in."""


class NotEnoughReplicasError(StreamlogError):
    """Fewer replicas in sync than `min_insync_replicas`."""

    retriable = True


class LogTruncationError(StreamlogError):
    """The log was cut back behind the reader's position."""


class ClosedError(StreamlogError):
    """The object was closed."""


class ReadOnlyError(StreamlogError):
    """The log was opened for reading only."""


class LogLockedError(StreamlogError):
    """Another process has the log in directory `.path` open: `.pid`, None if it is not known."""

    retriable = True
    path: str
    pid: int | None


class ForkedError(StreamlogError):
    """A log used in a forked child. Open it again there, or hand records over to the parent."""


class FormatError(StreamlogError):
    """A directory or file that is no streamlog log, or one of a newer format."""


class DiskFullError(StreamlogError):
    """No space, quota or file size left. What was acknowledged is safe; free space and go on."""

    retriable = True


class StorageError(StreamlogError):
    """The file system refused a call for another reason: `.path`, `.errno`."""

    path: str
    errno: int


class LogDirNotFoundError(StorageError):
    """The log's directory is not where it was opened: it was removed, renamed or replaced. Nothing was written there."""


class PoisonedLogError(StreamlogError):
    """A sync failed, so what the disk holds is unknown. The partition refuses appends until reopened."""


class ConcurrentUseError(StreamlogError):
    """A consumer used by two threads at once."""


class ReentrantCallError(StreamlogError):
    """A signal handler or a finalizer called in the middle of a call of the same thread, which it would have waited for.

    Nothing was done. `stop()` and `close()` may always be called there.
    """

    retriable = True


class ConsumerStoppedError(StreamlogError):
    """The consumer was told to stop."""


class RequestTimedOutError(StreamlogError, TimeoutError):
    """The call did not finish in the time given."""

    retriable = True


class DeliveryTimeoutError(StreamlogError, TimeoutError):
    """A record could not be written within `delivery_timeout_ms`."""

    retriable = True


class InvalidTimestampError(StreamlogError, ValueError):
    """A timestamp that is negative or further ahead than the topic allows."""


class InvalidRecordError(StreamlogError, ValueError):
    """A record that the topic refuses, such as one without a key in a compacted topic."""


class UnsupportedCompressionTypeError(StreamlogError):
    """A codec that is unknown, or not installed here."""


class MissingExtraError(StreamlogError, ImportError):
    """An optional package is missing; the message names the extra to install."""


class DeliveryError(StreamlogError):
    """Records that could not be written.

    `.failed`: index of the record in the call → its error. `.records`: what failed, to be sent again.
    `.metadata`: by index, None where failed.
    """

    failed: Mapping[int, StreamlogError]
    records: Sequence[ProducerRecord]
    metadata: Sequence[RecordMetadata | None]


def message_of(error: BaseException) -> str:
    """The message of an exception, also of one whose `__str__` raises."""
    try:
        return str(error)
    except Exception:
        return "no message: its __str__ raises"


def describe(error: BaseException) -> str:
    """An exception in one line, whatever its `__str__` and `__repr__` do.

    >>> describe(ValueError("no amount"))
    'ValueError: no amount'
    """
    return f"{type(error).__name__}: {message_of(error)}".removesuffix(": ")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`" (did you mean 'x'?)"` for the nearest known name, or an empty string.

    >>> did_you_mean("linger", ["linger_ms", "acks"])
    " (did you mean 'linger_ms'?)"
    """
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f" (did you mean {close[0]!r}?)" if close else ""


def forked() -> ForkedError:
    return ForkedError(
        "This log was opened before a fork, and a log belongs to the process that opened it. Open it after forking, "
        "or hand records over to the parent."
    )
