"""Groups as a tenant has them: listed, their offsets committed and deleted."""

from __future__ import annotations

from typing import Any

import pytest

from streamlog.coordinator import Heartbeat
from streamlog.errors import GroupIdNotFoundError, GroupSubscribedToTopicError
from streamlog.runtime.threads import result_of
from streamlog.types import OffsetAndMetadata, TopicPartition

from .conftest import Tenant

P0, P1 = TopicPartition("t", 0), TopicPartition("t", 1)


def join(tenant: Tenant, group: str, topic: str = "t") -> str:
    request = Heartbeat(group, "", 0, None, None, frozenset({topic}), ("range",), frozenset(), 45.0, 300.0)
    return result_of(tenant.service.heartbeat(request)).member_id


def names(tenant: Tenant, **wanted: Any) -> list[str]:
    return [group.name for group in result_of(tenant.service.list_groups(**wanted))]


@pytest.fixture
def grouped(tenant: Tenant) -> Tenant:
    """A group with a member, and one that has only committed."""
    tenant.create(partitions=2)
    tenant.produce(result_of(tenant.service.topic("t")).partition(0), b"a", b"b")
    join(tenant, "reading")
    offsets = {P0: OffsetAndMetadata(1), P1: OffsetAndMetadata(0)}
    result_of(tenant.service.commit("idle", None, 0, offsets))
    return tenant


def test_groups_are_listed_by_state_and_type_in_any_case_of_letters(grouped: Tenant) -> None:
    assert result_of(grouped.service.list_groups()) == [
        ("idle", "classic", "", "Empty"),  # it has offsets, and never had a member
        ("reading", "consumer", "consumer", "Stable"),
    ]
    assert names(grouped, states=["stable"]) == ["reading"]
    assert names(grouped, states=["Empty", "STABLE"]) == ["idle", "reading"]
    assert names(grouped, types=["Classic"], states=["empty"]) == ["idle"]
    assert names(grouped, types=["share"]) == names(grouped, states=["Nonsense"]) == []


def test_committed_offsets_are_deleted(grouped: Tenant) -> None:
    service = grouped.service
    assert result_of(service.delete_offsets("idle", [P0])) == {}
    assert result_of(service.committed("idle", None)) == {P1: OffsetAndMetadata(0)}
    assert isinstance(service.delete_offsets("nobody", [P0]).error(), GroupIdNotFoundError)


def test_offsets_of_topics_that_members_read_are_kept(grouped: Tenant) -> None:
    service = grouped.service
    other = TopicPartition("other", 0)
    grouped.create("other")
    result_of(service.commit("idle", None, 0, {other: OffsetAndMetadata(0)}))
    member_id = join(grouped, "idle")
    refused = result_of(service.delete_offsets("idle", [P0, other]))
    assert [(each, type(error)) for each, error in refused.items()] == [(P0, GroupSubscribedToTopicError)]
    assert set(result_of(service.committed("idle", None))) == {P0, P1}
    result_of(service.leave_group("idle", member_id))
    assert result_of(service.delete_offsets("idle", [P0, P1])) == {}
    assert result_of(service.committed("idle", None)) == {}
