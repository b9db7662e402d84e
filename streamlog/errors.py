"""The errors that streamlog raises: one tree under `StreamlogError`, with Kafka's names.

A message says what happened, why, and what to do next. An error has its facts as attributes, can be pickled, and has
`retriable`: whether the same call may succeed later without a change by the caller.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self

from .types import ProducerRecord, Record, RecordMetadata


def _rebuild(cls: type[StreamlogError], message: str, fields: dict[str, Any]) -> StreamlogError:
    error = cls.__new__(cls, message)
    error.args = (message,)
    error.__dict__.update(fields)
    return error


class StreamlogError(Exception):
    """The base class of all errors of the library. The message says what happened, why, and what to do next.

    The facts are attributes, which the docstring of each error lists. `.retriable`: whether the same call may succeed
    later without a change by the caller. Errors can be copied and pickled.

    >>> import streamlog
    >>> with streamlog.open() as log:
    ...     orders = log.create_topic("orders")
    ...     try:
    ...         orders.read(start=5)
    ...     except streamlog.StreamlogError as error:
    ...         print(type(error).__name__, error.log_end_offset, error.retriable)
    OffsetOutOfRangeError 0 False
    """

    retriable: bool = False

    def __init__(self, message: str = "", **fields: Any) -> None:
        """`fields` become attributes."""
        super().__init__(message)
        self.__dict__.update(fields)

    def __reduce__(self) -> tuple[Any, ...]:
        """For copy and pickle: the type, the message and the attributes."""
        fields = dict(self.__dict__)
        if not isinstance(fields.get("value"), (str, bytes, int, float)):  # the program's own object, of any type
            fields.pop("value", None)
        return _rebuild, (type(self), str(self.args[0]) if self.args else "", fields)

    def copy(self) -> Self:
        """A copy to raise. The traceback of a stored error would grow each time it is raised."""
        copy = _rebuild(type(self), str(self.args[0]) if self.args else "", dict(self.__dict__))
        copy.__cause__ = self.__cause__
        return copy  # type: ignore[return-value]


class ConfigError(StreamlogError, ValueError):
    """A setting or an argument is unknown, malformed, contradicts another one, or is not available yet.

    `.name`: which one; None if it is not about one by name.
    """

    name: str | None = None


class UnknownTopicOrPartitionError(StreamlogError, LookupError):
    """There is no topic of this name, or no partition of this number.

    `log.create_topic` makes a topic; `open(auto_create_topics=True)` makes each at its first use.
    """


class UnknownTopicIdError(StreamlogError, LookupError):
    """The topic of this handle was deleted, and another has its name, `.topic`, now: `log[name]` gives that one."""

    topic: str


class InvalidTopicError(StreamlogError, ValueError):
    """The name of a topic has to match `[a-zA-Z0-9._-]{1,249}` and be neither `.` nor `..`, as in Kafka."""


class TopicAlreadyExistsError(StreamlogError):
    """A topic of this name, `.topic`, exists already. `create_topic(…, exist_ok=True)` returns it.

    `.differences`, with `exist_ok`: from the name of each setting that differs to what the topic has and what was given.
    """

    topic: str
    differences: Mapping[str, tuple[Any, Any]] | None = None


class OffsetOutOfRangeError(StreamlogError, ValueError):
    """The offset is outside the log. `.log_start_offset` and `.log_end_offset` (exclusive) are the bounds."""

    log_start_offset: int
    log_end_offset: int


class RecordTooLargeError(StreamlogError, ValueError):
    """A record is larger than `max_request_size` or the topic's `max_message_bytes`. `.size`, `.max_size` in bytes.

    `.index`: which record of a `send_many`, `.value`: its value; None for a `send`.
    """

    size: int
    max_size: int
    index: int | None = None
    value: Any = None


class SerializationError(StreamlogError, TypeError):
    """A key, a value or a header cannot be converted to bytes. Nothing was written.

    `.index`: which record of a `send_many`, `.value`: the key or value that cannot; None for a `send`. A copy or a
    pickle has a `.value` that is text, bytes or a number, and None for any other.
    """

    index: int | None = None
    value: Any = None


class DeserializationError(StreamlogError):
    """A deserializer failed. `.record` is the record as bytes; seek past it to continue."""

    record: Record[bytes | None, bytes | None]


class CorruptRecordError(StreamlogError):
    """Bytes on disk are not those that were written: `.path`, `.position`, `.expected` and `.actual` checksums."""

    path: str
    position: int
    expected: int
    actual: int


class CommitFailedError(StreamlogError):
    """The group assigned the partition to another member, which handles its records. Nothing was committed; poll on.

    Of `ExternalOffsets.store`: the offset in the database is not the one that was loaded. Roll back, and load again.
    """


class RebalanceInProgressError(StreamlogError):
    """The group is rebalancing. Try again after the next poll."""

    retriable = True


class UnknownMemberIdError(StreamlogError):
    """The coordinator does not know this member: it left, was removed, or never joined. `.group`, `.member_id`."""

    group: str
    member_id: str


class MemberIdRequiredError(StreamlogError):
    """A member that joins `.group` gets its `.member_id` first, and has to join with that (KIP-394)."""

    group: str
    member_id: str


class IllegalGenerationError(CommitFailedError):
    """The member is not of this generation of `.group`: it missed a rebalance, and has to join again. `.member_id`."""

    group: str
    member_id: str


class StaleMemberEpochError(IllegalGenerationError):
    """The member has another epoch in its group than it says: it missed a heartbeat's answer, and has to send another one."""


class FencedInstanceIdError(StreamlogError):
    """Another consumer has taken over this `.group_instance_id` of `.group`. Close this one."""

    group: str
    group_instance_id: str


class InvalidSessionTimeoutError(StreamlogError, ValueError):
    """The session timeout of a member is not within the bounds that classic groups have."""


class InvalidGroupIdError(StreamlogError, ValueError):
    """The name of a group is empty."""


class GroupMaxSizeReachedError(StreamlogError):
    """The classic group `.group` has as many members as it may have."""

    group: str


class InconsistentGroupProtocolError(StreamlogError):
    """The members of the group use another group protocol, or another type of protocol."""


class GroupNotEmptyError(StreamlogError):
    """The group `.group` has members. Stop them first."""

    group: str


class GroupSubscribedToTopicError(StreamlogError):
    """A member of the group subscribes to the topic, so the offsets of its partitions are in use."""


class UnexpectedAppendOffsetError(StreamlogError):
    """A follower got a batch of its leader that overlaps its log, which ends at `.log_end_offset`.

    `.first_offset` and `.last_offset` are the batch's.
    """

    first_offset: int
    last_offset: int
    log_end_offset: int


class GroupIdNotFoundError(StreamlogError, LookupError):
    """There is no such group: it has no members and no committed offsets."""


class ReplicaNotAvailableError(StreamlogError):
    """The directories that are read have no replica of the partition."""


class NotLeaderError(StreamlogError):
    """No broker leads the partition at the moment, or another one than the caller asked.

    Producers wait for the next leader, up to `delivery_timeout_ms`. A partition has no leader while none of its in-sync replicas
    runs: see `Broker.start`.
    """

    retriable = True


class FencedLeaderEpochError(StreamlogError):
    """The request was made for a leader that another one has replaced: its leader epoch is over (KIP-320).

    `.leader_epoch` is that of the request, `.current_epoch` that of the partition.
    """

    retriable = True
    leader_epoch: int
    current_epoch: int


class UnknownLeaderEpochError(StreamlogError):
    """The request was made for a leader epoch that this broker does not know of yet (KIP-320).

    `.leader_epoch` is that of the request, `.current_epoch` that of the partition.
    """

    retriable = True
    leader_epoch: int
    current_epoch: int


class NotCoordinatorError(NotLeaderError):
    """This broker is not, or no longer, the coordinator of the group."""


class CoordinatorLoadInProgressError(StreamlogError):
    """The coordinator of the group is reading its log."""

    retriable = True


class ProducerFencedError(StreamlogError):
    """A newer producer with the same transactional id has taken over, or its transaction was aborted: `.timed_out` if by its timeout."""

    timed_out: bool = False


class InvalidPidMappingError(ProducerFencedError):
    """The producer's id is not the one that its transactional id has, or the log has no such transactional id."""


class OutOfOrderSequenceError(StreamlogError):
    """The sequence of a producer has a gap: a record in between is missing."""


class InvalidTxnStateError(StreamlogError):
    """The call is not allowed in the present state of the transaction."""


class ConcurrentTransactionsError(StreamlogError):
    """The last transaction of this transactional id was decided, and is not complete yet: its markers are being written."""

    retriable = True


class UnstableOffsetCommitError(StreamlogError):
    """Offsets of the group were committed in a transaction that is not decided yet, so what is committed is not known.

    `.partitions`: those of them that were asked for.
    """

    retriable = True
    partitions: tuple[tuple[str, int], ...]


class TransactionAbortedError(StreamlogError):
    """The transaction of a record was aborted before the record was written.

    A block of `log.transaction` raises it at its begin if the transaction before, whose end was not known, turns out to be aborted: what
    its consumer has returned since comes again, behind the records of that transaction. Drop it, and poll again.
    """


class NotEnoughReplicasError(StreamlogError):
    """Fewer replicas are in sync than `min_insync_replicas`, so `acks="all"` appends nothing (Kafka's NotEnoughReplicasException).

    A producer tries again until `delivery_timeout_ms` is over; then `send` or the Delivery raises DeliveryTimeoutError, and this
    error is its `__cause__`. Start a broker, or lower the topic's `min_insync_replicas`. `acks=1` does not ask for it. What groups
    write does, of their internal topic: a commit is tried again for a minute, and a consumer that joins at each poll.

    >>> import streamlog
    >>> with streamlog.open(brokers=2, min_insync_replicas=2) as log:
    ...     orders = log.create_topic("orders")
    ...     log.brokers[1].stop()
    ...     with log.producer(delivery_timeout_ms=1) as hasty:
    ...         try:
    ...             hasty.send("orders", "9.50")
    ...         except streamlog.DeliveryTimeoutError as error:
    ...             print(type(error.__cause__).__name__)
    NotEnoughReplicasError
    """

    retriable = True


class LogTruncationError(StreamlogError):
    """The log was truncated before the position of the reader: a leader was elected that lacks records which it has read.

    `.divergent_offset` is the first offset that may have another record now; None if that is not known. `.topic`, `.partition`.
    """

    topic: str
    partition: int
    divergent_offset: int | None = None


class ClosedError(StreamlogError):
    """The object, or the log that it belongs to, is closed."""


class ReadOnlyError(StreamlogError):
    """The log was opened with `read_only=True`, and the call would write. Make it in the process that owns the log."""


class LogLockedError(StreamlogError):
    """Another process has the log in directory `.path` open: `.pid`, None if it is not known.

    `open(lock_timeout=…)` waits for it; `open(read_only=True)` reads along. Several processes write through one that owns the log
    and serves it: `streamlog serve`, or `streamlog.kafka.Listener`.
    """

    retriable = True
    path: str
    pid: int | None


class ForkedError(StreamlogError):
    """A log was used in a forked child. Open it again there, or send records to the parent."""


class FormatError(StreamlogError):
    """A directory or a file is not a log of streamlog, or has a newer format."""


class DiskFullError(StreamlogError):
    """The disk, the quota or the largest file size is exhausted. What was acknowledged is safe. Free some space."""

    retriable = True


class StorageError(StreamlogError):
    """The file system refused a call: `.path`, `.errno`."""

    path: str
    errno: int


class LogDirNotFoundError(StorageError):
    """The log's directory was removed, renamed or replaced while the log was open; or directories of too many brokers are missing
    at `open`. Nothing was written there."""


class PoisonedLogError(StreamlogError):
    """A sync failed, so it is unknown what is on the device. The partition refuses appends until the next open."""


class ConcurrentUseError(StreamlogError):
    """Two threads use a consumer, or what `topic.read` gave, at the same time. Make one for each thread; `stop()` may be called by any."""


class ReentrantCallError(StreamlogError):
    """A signal handler or a finalizer made a call that would wait for the call of its own thread that it interrupts.

    Nothing was done. `stop()` and `close()` may always be called in signal handlers and finalizers.
    """

    retriable = True


class ConsumerStoppedError(StreamlogError):
    """`stop()` was called on the consumer, and `poll` has returned `[]` for it. Make a new consumer to read on."""


class RequestTimedOutError(StreamlogError, TimeoutError):
    """The call did not finish within its timeout."""

    retriable = True


class DeliveryTimeoutError(StreamlogError, TimeoutError):
    """A record was not written within `delivery_timeout_ms`, or found no space in `buffer_memory` for so long."""

    retriable = True


class InvalidTimestampError(StreamlogError, ValueError):
    """A timestamp is negative, or further in the future than the topic allows.

    `.index`: which record of a `send_many`, `.value`: its timestamp; None for a `send`.
    """

    index: int | None = None
    value: Any = None


class InvalidRecordError(StreamlogError, ValueError):
    """The topic refuses the record, for example one without a key in a compacted topic.

    `.index`: which record of a `send_many`, `.value`: its key; None for a `send`.
    """

    index: int | None = None
    value: Any = None


class UnsupportedCompressionTypeError(StreamlogError):
    """A codec is unknown or not installed: all but gzip need the extra `compression`."""


class MissingExtraError(StreamlogError, ImportError):
    """An optional package is missing. The message names the extra to install."""


class DeliveryError(StreamlogError):
    """Records could not be written.

    `.failed`: from the index of a record in the call to its error. `.records`: the failed records, to send them again.
    `.metadata`: by index; None for a failed record.
    """

    failed: Mapping[int, StreamlogError]
    records: Sequence[ProducerRecord]
    metadata: Sequence[RecordMetadata | None]


def message_of(error: BaseException) -> str:
    """The message of an exception, even if its `__str__` raises."""
    try:
        return str(error)
    except Exception:
        return "no message: its __str__ raises"


def describe(error: BaseException) -> str:
    """The type and the message of an exception, even if its `__str__` raises.

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
    """The error of a log that was opened before a fork."""
    return ForkedError(
        "This log was opened before a fork, and only the process that opened a log can use it. Open the log after the "
        "fork, or send the records to the parent."
    )
