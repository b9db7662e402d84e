"""Offsets as a tenant asks for them: by position, by time, by leader epoch."""

from __future__ import annotations

import pytest

from streamlog.broker.reading import OffsetSpec
from streamlog.errors import FencedLeaderEpochError, UnknownLeaderEpochError, UnknownTopicOrPartitionError
from streamlog.runtime.threads import result_of
from streamlog.types import TopicPartition

from .conftest import Tenant

P0 = TopicPartition("t", 0)


def offset(tenant: Tenant, spec: OffsetSpec) -> tuple[int, int] | None:
    return result_of(tenant.service.find_offset(P0, spec, "read_committed"))


def test_an_offset_is_found_by_what_is_asked_for(tenant: Tenant) -> None:
    at = tenant.create()
    assert [offset(tenant, spec) for spec in ("earliest", "latest")] == [(0, -1), (0, -1)]
    assert offset(tenant, "max_timestamp") is offset(tenant, 0) is None
    tenant.produce(at, b"a", b"b", times=[30, 10])
    tenant.produce(at, b"c", b"d", times=[50, 20])
    tenant.produce(at, b"e", times=50)
    result_of(tenant.service.delete_records(P0, 1))
    assert offset(tenant, "earliest") == (1, -1)
    assert offset(tenant, "latest") == (5, -1)
    assert offset(tenant, "max_timestamp") == (2, 50)
    assert offset(tenant, 0) == (1, 10)
    assert offset(tenant, 11) == (2, 50)
    assert offset(tenant, 51) is None


@pytest.mark.parametrize("spec", ["earliest", "latest", "max_timestamp", 0])
def test_a_caller_that_takes_another_leader_for_this_one_is_refused(tenant: Tenant, spec: OffsetSpec) -> None:
    tenant.produce(tenant.create(), b"a")
    tenant.service._partitions[P0].leader_epoch = 4

    def error_of(epoch: int | None) -> BaseException | None:
        found = tenant.service.find_offset(P0, spec, "read_committed", epoch)
        assert type(found.error()) is type(tenant.service.epoch_end_offset(P0, 0, epoch).error())
        return found.error()

    assert error_of(None) is error_of(4) is None
    assert isinstance(error_of(3), FencedLeaderEpochError)
    error = error_of(5)
    assert isinstance(error, UnknownLeaderEpochError)
    assert (error.leader_epoch, error.current_epoch, error.retriable) == (5, 4, True)


def test_the_end_of_a_leader_epoch_is_where_the_next_one_begins(tenant: Tenant) -> None:
    at = tenant.create()
    for epoch in (0, 0, 3, 7):
        tenant.service._partitions[P0].leader_epoch = epoch
        tenant.produce(at, b"a", b"b")
    ends = [result_of(tenant.service.epoch_end_offset(P0, epoch)) for epoch in (0, 1, 3, 6, 7, 8)]
    assert ends == [(0, 4), (0, 4), (3, 6), (3, 6), (7, 8), None]


def test_a_partition_that_is_not_there_has_no_offsets(tenant: Tenant) -> None:
    tenant.create()
    for found in (
        tenant.service.find_offset(TopicPartition("t", 1), "latest", "read_committed"),
        tenant.service.epoch_end_offset(TopicPartition("u", 0), 0),
    ):
        assert isinstance(found.error(), UnknownTopicOrPartitionError)
