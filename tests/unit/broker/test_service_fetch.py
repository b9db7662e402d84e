"""Fetching through the Service: batches that decode themselves, and where the partition stands."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from streamlog.broker.fetched import FetchResult
from streamlog.broker.metadata import TopicIdPartition
from streamlog.errors import (
    ClosedError,
    CorruptRecordError,
    FencedLeaderEpochError,
    OffsetOutOfRangeError,
    StreamlogError,
    UnknownLeaderEpochError,
    UnknownTopicIdError,
    UnknownTopicOrPartitionError,
)
from streamlog.runtime.threads import result_of
from streamlog.types import TopicPartition

from .conftest import Tenant

P0 = TopicPartition("t", 0)
EVERYTHING = 1 << 20


def fetch(
    tenant: Tenant, at: TopicIdPartition, offset: int = 0, max_bytes: int = EVERYTHING, **given: Any
) -> FetchResult:
    return result_of(tenant.service.fetch(at, offset, max_bytes, "read_committed", **given))


def refusal(tenant: Tenant, at: TopicIdPartition, offset: int = 0, **given: Any) -> StreamlogError:
    error = tenant.service.fetch(at, offset, EVERYTHING, "read_committed", **given).error()
    assert isinstance(error, StreamlogError)
    return error


def test_what_was_produced_is_fetched_as_batches_that_decode_themselves(tenant: Tenant) -> None:
    at = tenant.create()
    tenant.produce(at, b"a", b"b", keys=[b"k", None], times=[5, 7])
    tenant.produce(at, b"c", times=9)
    batches = list(fetch(tenant, at).batches())
    first, second = (batch.columns for batch in batches)
    assert (list(first.offsets()), first.timestamps(), first.keys(), first.values()) == (
        [0, 1],
        [5, 7],
        [b"k", None],
        [b"a", b"b"],
    )
    assert (list(second.offsets()), second.timestamps_full(), second.keys(), batches[1].next_offset) == (
        [2],
        [9],
        None,
        3,
    )


def test_a_result_says_where_the_partition_stands(tenant: Tenant) -> None:
    at = tenant.create()
    for value in (b"a", b"b", b"c"):
        tenant.produce(at, value)
    result_of(tenant.service.delete_records(P0, 1))
    result = fetch(tenant, at, 1)
    assert (result.log_start_offset, result.high_watermark, result.last_stable_offset) == (1, 3, 3)
    assert (result.aborted, result.diverging_epoch) == ((), None)
    at_the_end = fetch(tenant, at, 3)
    assert (at_the_end.size, at_the_end.high_watermark, list(at_the_end.batches())) == (0, 3, [])


def test_a_fetch_goes_on_after_the_one_before(tenant: Tenant) -> None:
    at = tenant.create()
    for n in range(5):
        tenant.produce(at, b"%d" % n * 100)
    values: list[Any] = []
    result, offset = fetch(tenant, at, 0, 1), 0
    while result.size:
        for batch in result.batches():
            values += batch.columns.values() or []
            offset = batch.next_offset
        result = fetch(tenant, at, offset, 1, after=result)
    assert [value[:1] for value in values] == [b"0", b"1", b"2", b"3", b"4"]


def test_what_cannot_be_fetched_fails_the_completion(opened: Callable[..., Tenant]) -> None:
    tenant = opened()
    at = tenant.create()
    tenant.produce(at, b"a")
    out = refusal(tenant, at, 2)
    assert isinstance(out, OffsetOutOfRangeError)
    assert (out.log_start_offset, out.log_end_offset) == (0, 1)
    assert isinstance(refusal(tenant, at._replace(partition=1)), UnknownTopicOrPartitionError)
    result_of(tenant.service.delete_topic("t"))
    assert isinstance(refusal(tenant, at), UnknownTopicOrPartitionError)
    tenant.create()
    assert isinstance(refusal(tenant, at), UnknownTopicIdError)
    tenant.service.close()
    assert isinstance(refusal(tenant, at), ClosedError)


def test_a_reader_that_takes_another_leader_for_this_one_is_refused(tenant: Tenant) -> None:
    at = tenant.create()
    tenant.produce(at, b"a")
    tenant.service._partitions[P0].leader_epoch = 4
    assert fetch(tenant, at, current_leader_epoch=4).size
    assert isinstance(refusal(tenant, at, current_leader_epoch=3), FencedLeaderEpochError)
    assert isinstance(refusal(tenant, at, current_leader_epoch=5), UnknownLeaderEpochError)


def test_a_reader_whose_log_diverged_learns_where(tenant: Tenant) -> None:
    at = tenant.create()
    for epoch in (0, 0, 3):
        tenant.service._partitions[P0].leader_epoch = epoch
        tenant.produce(at, b"a", b"b")
    # Epoch 0 ended at 4, epoch 3 goes on to 6.
    assert fetch(tenant, at, 4, last_fetched_epoch=0).size
    assert fetch(tenant, at, 6, last_fetched_epoch=3).diverging_epoch is None
    longer = fetch(tenant, at, 5, last_fetched_epoch=0)  # it has a record of epoch 0 that this log never had
    assert (longer.diverging_epoch, longer.size, longer.high_watermark) == ((0, 4), 0, 6)
    other = fetch(tenant, at, 5, last_fetched_epoch=2)  # it has records of an epoch in which this log has none
    assert other.diverging_epoch == (0, 4)
    assert isinstance(refusal(tenant, at, 5, last_fetched_epoch=9), OffsetOutOfRangeError)


def test_a_replica_reads_past_the_high_watermark_and_no_other_reader_does(opened: Callable[..., Tenant]) -> None:
    tenant = opened(sync=True)
    at = tenant.create()
    tenant.produce(at, b"a")
    tenant.service.produce_one(at, None, b"b", 1, 1)  # and nobody waits for its sync
    assert [batch.columns.values() for batch in fetch(tenant, at).batches()] == [[b"a"]]
    replica = fetch(tenant, at, replica_id=2)
    assert [batch.columns.values() for batch in replica.batches()] == [[b"a"], [b"b"]]
    assert replica.high_watermark == 1
    assert isinstance(refusal(tenant, at, 2), OffsetOutOfRangeError)


def test_damage_is_found_by_the_batch_that_has_it(tmp_path: Path, opened: Callable[..., Tenant]) -> None:
    tenant = opened()
    at = tenant.create()
    tenant.produce(at, b"good")
    tenant.produce(at, b"damaged")
    log = tenant.service._partitions[P0].log
    log.reader.latest = None
    end = log.tail.end_position
    log.tail.segments[-1].file.pwrite([b"X"], end - 2)
    batches = fetch(tenant, at).batches()
    assert next(batches).columns.values() == [b"good"]
    with pytest.raises(CorruptRecordError, match="does not match its checksum"):
        next(batches)
    assert result_of(tenant.service.after_damage(P0, 1)) == 2


def test_a_result_is_its_own_completion_and_is_freed_at_once(tenant: Tenant) -> None:
    at = tenant.create()
    tenant.produce(at, b"a")
    done = tenant.service.fetch(at, 0, EVERYTHING, "read_committed")
    assert done.done() and done.error() is None and done.result() is done
    called: list[object] = []
    done.on_done(called.append)
    assert called == [done]
    assert done not in gc.get_referents(done), "no cycle keeps its bytes"
