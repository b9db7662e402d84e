"""Which errors are right: what a call of the program may raise, by what it is and by what has happened to the brokers.

While each partition has enough replicas in sync on brokers to which nothing has happened, as many as `min_insync_replicas`, producers
and consumers see no error at all, whatever happens to the other brokers, and to however many. If that is not so while the call is
made, or something has happened to every broker, it may time out, or say what is wrong with the disk that is; and that a batch is
damaged, if it is so on all that are left. What the one who looks after the brokers calls (`OPERATOR`) may be refused as its
documentation says, and may fail with the disks that it concerns.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from streamlog import (
    CommitFailedError,
    ConfigError,
    CorruptRecordError,
    DeliveryError,
    DeliveryTimeoutError,
    DiskFullError,
    InvalidTimestampError,
    LogDirNotFoundError,
    NotEnoughReplicasError,
    NotLeaderError,
    OffsetOutOfRangeError,
    PoisonedLogError,
    RequestTimedOutError,
    StorageError,
    StreamlogError,
    UnknownTopicIdError,
    UnknownTopicOrPartitionError,
)

if TYPE_CHECKING:
    from .cluster import Cluster

Errors = tuple[type[StreamlogError], ...]

CLIENTS: dict[str, Errors] = {
    **dict.fromkeys(("send", "send_many", "flush", "close_producer", "poll", "read_on", "join", "leave"), ()),
    "read_all": (OffsetOutOfRangeError,),  # retention has deleted what was to be read next
    "commit": (CommitFailedError,),
}
# What is of partitions without a leader, or with too few replicas in sync.
_SHORT: Errors = (DeliveryTimeoutError, RequestTimedOutError, NotEnoughReplicasError, NotLeaderError)
OPERATOR: dict[str, Errors] = {
    "start": (ConfigError,),  # it has left the log, or could not be added
    "stop": (ConfigError,),  # the others have failed meanwhile
    "elect": (NotLeaderError, RequestTimedOutError),
    "reassign": (ConfigError,),
    "retire": (ConfigError,),
    "cancel": (ConfigError,),
    "create": (ConfigError,),
    "grow": (ConfigError,),
    "delete_records": (
        OffsetOutOfRangeError,
        *_SHORT,
    ),  # retention may have deleted them, and the start is not known without a leader
    "retain": _SHORT,
    "compact": _SHORT,
    "delete": _SHORT,
}
_FAILS: Errors = (StorageError, PoisonedLogError)
_FILLED: Errors = (DiskFullError, StorageError)


class Expected:
    """`observe` before a call, whenever something happens to a broker, and after it; then `judge` what it raised."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._short_s = -1.0
        """When there were too few replicas in sync, last (simulated)."""
        self._fails_s = self._full_s = self._ill_s = self._unread_s = -1.0
        """When a disk failed, or was full, or something was wrong with a broker, or a partition was damaged where it could be read, last."""

    def observe(self) -> None:
        """Look at the brokers."""
        cluster, now_s = self._cluster, self._cluster.schedule.now_s
        faults = cluster.faults
        if faults.broken or faults.lost:
            self._fails_s = now_s
        if faults.full:
            self._full_s = now_s
        if cluster.log is None:
            self._short_s = now_s
            return
        service = cluster.service
        ill = faults.lost | faults.full | faults.broken
        for broker in service.brokers.all:
            if broker.running and broker.replicas.is_faulty:  # until the next open
                self._fails_s = now_s
                ill.add(broker.id)
            if not broker.running or cluster.schedule.is_held(broker.directory.path):
                ill.add(broker.id)
        if ill:
            self._ill_s = now_s
        if any(broker.failure is not None for broker in service.brokers.all):
            self._fails_s = now_s
        if ill.issuperset(broker.id for broker in service.brokers.all):  # the topic of the groups may not be there yet
            self._short_s = now_s
        damaged = {
            (broker.id, path.split("/")[-2])
            for path in cluster.history.damaged
            for broker in service.brokers.all
            if path.startswith(f"{broker.directory.path}/")
        }
        image = service.image
        for view in image.topics.values():
            for number in range(view.partitions):
                registration = image.partition(view.id_bytes, number)
                least = max(1, view.config.min_insync_replicas)
                sound = set(registration.isr) - ill
                if registration.leader < 0 or len(sound) < least:
                    self._short_s = now_s
                if all((broker, f"{view.id_bytes.hex()}-{number}") in damaged for broker in sound):
                    self._unread_s = now_s

    def count(self, kind: str, since_s: float) -> None:
        """Count a call that was made since then if it may not fail."""
        if kind in CLIENTS and self._short_s < since_s:
            self._cluster.fired["calls that may not fail"] += 1
            self._cluster.fired["calls that may not fail, of a cluster with a fault"] += self._ill_s >= since_s

    def allowed(self, kind: str, since_s: float, *, hasty: bool) -> Errors:
        """The errors that a call may raise that concerns what was sent since then. `hasty`: by a producer with a short timeout."""
        cluster = self._cluster
        errors: list[type[StreamlogError]] = [*CLIENTS.get(kind, OPERATOR.get(kind, ()))]
        if cluster.fired["topic deleted"]:  # until its next poll a consumer has partitions of topics that were deleted
            errors += [UnknownTopicOrPartitionError, UnknownTopicIdError]
        if cluster.jumped_back_ms:  # a record that lingered may be too far ahead of a clock that was put back
            errors.append(InvalidTimestampError)
        is_short = self._short_s >= since_s
        if is_short or (hasty and self._ill_s >= since_s - 30.0):
            errors += _SHORT
        if self._unread_s >= since_s and cluster.history.damaged:
            errors.append(CorruptRecordError)
        if kind not in CLIENTS or is_short:
            if self._fails_s >= since_s:
                errors += _FAILS
            if self._full_s >= since_s:
                errors += _FILLED
            if cluster.history.damaged:
                errors.append(CorruptRecordError)
            if kind not in CLIENTS:
                errors += [NotLeaderError, RequestTimedOutError] if is_short or self._ill_s >= since_s else []
        if kind == "open":
            errors.append(LogDirNotFoundError)
        return tuple(errors)

    def judge(self, kind: str, error: StreamlogError, since_s: float, *, hasty: bool) -> list[StreamlogError]:
        """What of an error is not right."""
        allowed = self.allowed(kind, since_s, hasty=hasty)
        causes = list(error.failed.values()) if isinstance(error, DeliveryError) else [error]
        return [each for each in causes if not isinstance(each, allowed)]
