"""The copies of the metadata log, one on each broker: which is the newest, and how the others come to be like it.

They are replicas like others, but that one thread makes them follow: the first broker's is appended to, and a change is in force when
the others have it on their devices.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

from ..errors import CorruptRecordError, StreamlogError
from ..records.batch import seed_of
from ..replication import follower
from ..replication.partition import Partition
from ..replication.repairs import Peer
from ..replication.replica_set import PartitionRegistration, ReplicaFetch
from ..runtime.api import Disk, without_traceback
from ..storage.tail import EMPTY
from ..storage.tailing import TailedLog
from .log_directory import METADATA_DIR, METADATA_ID
from .owner import OWNER_FILE, read_owner

logger = logging.getLogger("streamlog.broker")

# How much one append to a copy takes.
_COPY_BYTES = 1 << 20


def newest(copies: list[Partition]) -> Partition:
    """The copy of the metadata log that has come furthest, of those whose end is not damaged: what is in force is in half of all."""
    sound = [copy for copy in copies if copy.log.refusals.damage is None]
    return max(sound or copies, key=_end_of)


def _end_of(copy: Partition) -> tuple[int, int]:
    """How far a copy of the metadata log has come: the epoch of its last record, and its end."""
    epoch = copy.last_epoch()
    return -1 if epoch is None else epoch, copy.log.tail.end_offset


def end_of_files(disk: Disk, directory: str) -> tuple[int, int]:
    """How far the copy in a broker's directory has come, which another process may have open: the epoch that was reserved for it, and
    its end. (-1, -1) if it cannot be read."""
    log = TailedLog(disk, f"{directory}/{METADATA_DIR}", seed_of(METADATA_ID.bytes, 0), METADATA_ID.bytes, 0)
    try:
        log.follow_files(None, verify=False, is_alone=lambda: True)
        return int(read_owner(disk, f"{directory}/{OWNER_FILE}").get("metadata_epoch", 0)), log.tail.end_offset
    except StreamlogError as error:
        logger.debug("reading the metadata log in %s: %s", directory, error)
        return -1, -1
    finally:
        log.release()


def last_epoch(copies: list[Partition]) -> int:
    """The greatest leader epoch that these copies know of."""
    return max(max(copy.leader_epoch, _end_of(copy)[0]) for copy in copies)


def level(
    copies: list[Partition], epoch: int, now_ms: int, joining: Partition | None = None
) -> list[tuple[Partition, StreamlogError]]:
    """Have each copy of the metadata log end where the newest one does, and follow the first, in `epoch` and the next leader epoch.

    The newest but for that of a broker which is `joining` an open log: what it alone has is of a change that was refused, or taken back.

    A copy whose disk refuses that is left out; returns those, each with its error. Raises what keeps the newest one from being read:
    without it a change that is in force could be lost.
    """
    left = copies.copy()
    failed: list[tuple[Partition, StreamlogError]] = []
    for number in range(2):
        leader = left[0] if number else newest([copy for copy in left if copy is not joining])
        ids = tuple(copy.broker_id for copy in left)
        registration = PartitionRegistration(ids, ids, leader.broker_id, epoch + number, epoch + number)
        for copy in copies:  # also one that was left out: the next change brings it up, if its disk takes that then
            copy.follow(registration, now_ms)
        for copy in [each for each in left if each is not leader]:
            try:
                if copy.log.refusals.damage is not None:
                    follower.discard_damaged_end(copy)
                bring_up(leader, copy, now_ms)
            except StreamlogError as error:
                if failed_copy(leader, copy, error) is leader:
                    raise
                failed.append((copy, without_traceback(error.copy())))
                left.remove(copy)
        announce(leader, left)
    return failed


def failed_copy(leader: Partition, copy: Partition, error: StreamlogError) -> Partition:
    """The copy whose disk, or damage, an error of `bring_up` is about."""
    path = getattr(error, "path", "")
    is_leaders = path.startswith(f"{leader.log.directory}/") or isinstance(error, CorruptRecordError)
    return leader if is_leaders and not path.startswith(f"{copy.log.directory}/") else copy


def bring_up(leader: Partition, copy: Partition, now_ms: int) -> None:
    """Have a copy of the metadata log end where its leader does, on its device. What is damaged there is taken from other copies."""
    has_more = True
    while has_more:
        follower.sync(copy)
        try:
            fetched = leader.fetch_as_replica(
                copy.broker_id,
                0,
                copy.reader.tail.end_offset,
                copy.last_epoch(),
                copy.leader_epoch,
                _COPY_BYTES,
                now_ms,
            )
            has_more = follower.append_fetched(copy, fetched)
        except CorruptRecordError as error:
            if failed_copy(leader, copy, error) is copy or not _append_from_others(leader, copy):
                raise


def _append_from_others(leader: Partition, copy: Partition) -> bool:
    """Append what the leader cannot read, if a copy that is known to be the same has it whole; the leader is repaired later."""
    whole = leader.fetch_elsewhere(copy.reader.tail.end_offset, _COPY_BYTES, leader.reader.tail.end_offset)
    if whole.data:
        follower.append(copy, whole.data, copy.leader_epoch)
    return bool(whole.data)


def announce(leader: Partition, copies: list[Partition]) -> None:
    """Have copies of the metadata log take over the high watermark, which the last of them raised: they have readers too."""
    for copy in copies:
        if copy is not leader:
            follower.follow_leader(
                copy, ReplicaFetch(EMPTY, leader.high_watermark, leader.reader.tail.start_offset, leader.leader_epoch)
            )


def peers_of(copy: Partition, copies: Iterable[Partition]) -> list[Peer]:
    """The other copies of the metadata log, which are the same up to where all have it on their devices."""
    return [Peer(each, min(copy.high_watermark, each.high_watermark)) for each in copies if each is not copy]
