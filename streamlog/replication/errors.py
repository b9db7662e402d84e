"""The errors of a partition that another broker leads, or that waits for others: what happened, and what to do."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Protocol

from ..errors import (
    FencedLeaderEpochError,
    NotEnoughReplicasError,
    NotLeaderError,
    RequestTimedOutError,
    StreamlogError,
    UnknownLeaderEpochError,
)
from ..runtime.threads import was_released_meanwhile
from ..types import TopicPartition


def not_leader(name: TopicPartition, leader: int, leader_epoch: int) -> NotLeaderError:
    there = f"broker {leader} is its leader" if leader >= 0 else "it has no leader"
    return NotLeaderError(
        f"This broker does not lead {name.topic}-{name.partition}: {there} in epoch {leader_epoch}. Send to the leader, or "
        f"try again when there is one."
    )


def fenced(name: TopicPartition, broker_id: int) -> NotLeaderError:
    return NotLeaderError(
        f"The disk of broker {broker_id}, which has led {name.topic}-{name.partition}, does not answer. Another one is about to lead it; "
        f"try again."
    )


class Fenceable(Protocol):
    is_fenced: bool
    closed: StreamlogError | None


@contextlib.contextmanager
def fenced_is_closed(replica: Fenceable) -> Iterator[None]:
    """Raise why a replica was given up, which can be retried, for the RuntimeError of its lock: the disk has answered, or a thread that
    waited for the lock has left it, in a moment in which no thread holds it; see `DiskWatch`.
    """
    try:
        yield
    except RuntimeError as error:
        if replica.is_fenced and replica.closed is not None and was_released_meanwhile(error):
            raise replica.closed.copy() from error
        raise


def late(name: TopicPartition, base_offset: int, end: int) -> RequestTimedOutError:
    return RequestTimedOutError(
        f"The records of {name.topic}-{name.partition} from {base_offset} to {end - 1} were not acknowledged within the timeout "
        f"of their request: they are in the log, but the high watermark has not passed them. Readers may see them later. "
        f"Records that are sent again are in the log twice, unless their producer is idempotent."
    )


def late_deletion(name: TopicPartition, before: int) -> RequestTimedOutError:
    return RequestTimedOutError(
        f"The records of {name.topic}-{name.partition} before {before} were not deleted by every in-sync replica within the timeout of "
        f"the request, so they are there still. They are deleted later, unless another broker leads by then: repeat the deletion."
    )


def truncated(name: TopicPartition) -> NotLeaderError:
    return NotLeaderError(
        f"Records of {name.topic}-{name.partition} that waited to be acknowledged were removed: another broker leads the "
        f"partition and does not have them. Send them again."
    )


def not_enough_replicas(name: TopicPartition, isr: tuple[int, ...], least: int) -> NotEnoughReplicasError:
    members = len(isr)
    return NotEnoughReplicasError(
        f"{name.topic}-{name.partition} has {members} in-sync replica{'s' * (members != 1)}, brokers {list(isr)}, and its "
        f"min_insync_replicas is {least}. Nothing was appended. Start a broker, or lower min_insync_replicas."
    )


def other_epoch(
    name: TopicPartition, broker_id: int, leader_epoch: int, current: int
) -> FencedLeaderEpochError | UnknownLeaderEpochError:
    kind = FencedLeaderEpochError if leader_epoch < current else UnknownLeaderEpochError
    return kind(
        f"The fetch was made for leader epoch {leader_epoch} of {name.topic}-{name.partition}, and broker {broker_id} is at "
        f"{current}. Look at the metadata, and fetch from the leader again.",
        leader_epoch=leader_epoch,
        current_epoch=current,
    )


def not_after(name: TopicPartition, epoch: int, wanted: int) -> FencedLeaderEpochError:
    return FencedLeaderEpochError(
        f"{name.topic}-{name.partition} is in leader epoch {epoch}, and the records are to follow others that were appended in "
        f"epoch {wanted}. Send those again first, if they are not acknowledged."
    )


def not_following(name: TopicPartition, broker_id: int, leader_epoch: int) -> NotLeaderError:
    return NotLeaderError(
        f"What was fetched for {name.topic}-{name.partition} is from leader epoch {leader_epoch}, and broker {broker_id} does not "
        f"follow in that any more. It is fetched again."
    )
