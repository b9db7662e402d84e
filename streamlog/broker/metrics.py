"""What `StreamLog.metrics()` says: numbers of each partition and each broker, and how many partitions lack something.

Pulled from plain attributes, without a lock: no call waits for it. Cost: O(partitions), 30 µs for each with three replicas.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ..replication.partition import Partition
from ..replication.replica_set import NO_LEADER, PartitionRegistration
from ..storage.tail import LogSnapshot
from .metadata import Image

PartitionNumbers = Callable[[str, int], Mapping[str, Any]]


def of_log(tail: LogSnapshot) -> dict[str, int]:
    return {
        "log_start_offset": tail.start_offset,
        "log_end_offset": tail.end_offset,
        "size_bytes": tail.size_bytes(),
        "segments": len(tail.segments),
    }


def of_leader(partition: Partition, now_ms: int) -> dict[str, Any]:
    """Of a partition's leader; with followers, how far behind each is. `now_ms` is real time."""
    log = partition.log
    numbers = {
        **of_log(log.tail),
        "appended_batches": log.appended_batches,
        "appended_bytes": log.appended_bytes,
        "deleted_segments": log.deleted_segments,
        "failures": dict(partition.maintenance.failures),
    }
    replicas = partition.replicas
    if replicas is not None:
        lags = replicas.lags(log.tail.start_offset, log.tail.end_offset, now_ms)
        numbers["lag"] = {str(broker): {"records": records, "ms": ms} for broker, (records, ms) in lags.items()}
    return numbers


def gather(image: Image, numbers_of: PartitionNumbers, brokers: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
    """The whole answer. `numbers_of` a partition may be empty, where it cannot be asked; `brokers`: what is known of each."""
    topics: dict[str, Any] = {}
    lacking = {"offline_partitions": 0, "under_replicated_partitions": 0, "under_min_isr_partitions": 0}
    totals: dict[int, dict[str, Any]] = {
        each: {
            **about,
            "retiring": each in image.brokers and image.brokers[each].retiring,
            "leaders": 0,
            "replicas": 0,
            "lag_records": 0,
            "lag_ms": 0,
        }
        for each, about in brokers.items()
    }
    for name, view in sorted(image.topics.items()):
        partitions = topics[name] = {}
        for number in range(view.partitions):
            registration = image.partition(view.id_bytes, number)
            lacking["offline_partitions"] += registration.leader == NO_LEADER
            lacking["under_replicated_partitions"] += len(registration.isr) < len(registration.replicas)
            lacking["under_min_isr_partitions"] += len(registration.isr) < view.config.min_insync_replicas
            numbers = partitions[str(number)] = {**numbers_of(name, number), **_of_registration(registration)}
            _add(totals, registration, numbers.get("lag", {}))
    return {"topics": topics, "brokers": {str(each): about for each, about in totals.items()}, "replication": lacking}


def _of_registration(registration: PartitionRegistration) -> dict[str, Any]:
    return {
        "leader": registration.leader,
        "leader_epoch": registration.leader_epoch,
        "replicas": list(registration.replicas),
        "isr": list(registration.isr),
    }


def _add(totals: dict[int, dict[str, Any]], registration: PartitionRegistration, lags: Mapping[str, Any]) -> None:
    """Add one partition to the numbers of its brokers."""
    for broker in registration.replicas:
        total = totals.setdefault(broker, {"leaders": 0, "replicas": 0, "lag_records": 0, "lag_ms": 0})
        total["replicas"] += 1
        total["leaders"] += broker == registration.leader
        lag = lags.get(str(broker))
        if lag is not None:
            total["lag_records"] += lag["records"]
            total["lag_ms"] = max(total["lag_ms"], lag["ms"])


def isr_changes(before: Image, after: Image, changed: Iterable[str] | None) -> tuple[int, int, int]:
    """How many in-sync sets lost a member between two images, how many gained one, and how many leaders were not in theirs.

    O(partitions of changed topics).
    """
    shrinks = expands = unclean = 0
    for name in after.topics if changed is None else changed:
        view = after.topics.get(name)
        partitions = after.partitions.get(view.id_bytes, {}) if view is not None else {}
        known = before.partitions.get(view.id_bytes, {}) if view is not None else {}
        if known is partitions:
            continue
        for number, registration in partitions.items():
            was = known.get(number)
            if was is not None and was is not registration:
                shrinks += not set(was.isr) <= set(registration.isr)
                expands += not set(registration.isr) <= set(was.isr)
                unclean += registration.leader not in (was.leader, NO_LEADER, *was.isr)
    return shrinks, expands, unclean
