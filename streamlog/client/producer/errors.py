"""The errors of a producer's own: what was not sent, or not in time; and what an error says of sending again."""

from __future__ import annotations

from ...broker.api import REQUEST_TIMEOUT_MS
from ...errors import (
    DeliveryTimeoutError,
    FencedLeaderEpochError,
    InvalidTxnStateError,
    NotEnoughReplicasError,
    NotLeaderError,
    RequestTimedOutError,
)
from ...types import TopicPartition

# After an error, the time until a request is sent again. Kafka's retry.backoff.ms.
RETRY_BACKOFF_MS = 100
# These errors say of records that they are in no log that counts. RequestTimedOutError does not.
IN_NO_LOG = (NotLeaderError, NotEnoughReplicasError, FencedLeaderEpochError)


def attempts(error: BaseException | None) -> int:
    """As how many attempts one counts that ended so: one that timed out as all that could have been made meanwhile."""
    return REQUEST_TIMEOUT_MS // RETRY_BACKOFF_MS if isinstance(error, RequestTimedOutError) else 1


def not_in_time(timeout: float | None) -> RequestTimedOutError:
    return RequestTimedOutError(
        f"The record was not written within {timeout} s. It is still on its way: ask again, or flush() with a longer "
        f"timeout."
    )


def not_delivered(records: int, at: TopicPartition, timeout_ms: int, error: BaseException) -> DeliveryTimeoutError:
    failed = DeliveryTimeoutError(
        f"{records} record{'s were' if records > 1 else ' was'} not delivered to {at.topic}-{at.partition} within {timeout_ms} ms "
        f"(delivery_timeout_ms). The last attempt failed: {type(error).__name__}: {error}"
    )
    failed.__cause__ = error
    return failed


def buffer_stayed_full(at: TopicPartition, timeout_ms: int) -> DeliveryTimeoutError:
    return DeliveryTimeoutError(
        f"The buffer stayed full for {timeout_ms} ms (delivery_timeout_ms): {at.topic}-{at.partition} accepts nothing. The "
        f"record was not taken. Look at the disk, or raise buffer_memory."
    )


def ended() -> InvalidTxnStateError:
    return InvalidTxnStateError(
        "The record was not taken: another thread has ended this producer's transaction. Begin the next one first."
    )
