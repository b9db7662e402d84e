"""A replica whose disk does not answer any more: other threads go on, and leave the one that is in a call to itself."""

from __future__ import annotations

from collections.abc import Callable

from ..errors import StreamlogError
from ..runtime.api import Lock
from . import errors
from .partition import Partition


def calls_of(replica: Partition) -> tuple[object, object]:
    """What tells the call that is under way under the replica's lock from the next one, None if there is none; and of its syncs."""
    return (
        replica.log.tail if replica.lock.locked() else None,
        replica.commit.synced_end if replica.commit.syncing.locked() else None,
    )


def fence(replica: Partition, error: StreamlogError, new_lock: Callable[[], Lock]) -> list[Lock]:
    """Refuse every call of a replica from now on, while a thread that is in one may hold a lock for ever. Takes no lock.

    Returns the locks that are held; the replica has others from now on. A thread that gets one of the old ones finds
    `closed`, and does nothing. The one in the call may end it: no other log has that record in this epoch, for this broker
    is about to lead no more, and does not count as one that follows.
    """
    replica.is_fenced = True
    replica.closed = replica.closed or errors.fenced(replica.name, replica.broker_id)
    replica.commit.refusal = replica.commit.refusal or error
    held = [each for each in (replica.lock, replica.commit.syncing, replica.maintenance.lock) if each.locked()]
    if replica.advancing is replica.lock:
        replica.advancing = new_lock()
    replica.lock, replica.commit.syncing, replica.maintenance.lock = new_lock(), new_lock(), new_lock()
    return held
