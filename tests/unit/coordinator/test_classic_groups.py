"""A classic group (JoinGroup, SyncGroup) in the records: what a shard keeps of it, says of it and refuses."""

from __future__ import annotations

from typing import Any

import pytest

from streamlog.coordinator import schema
from streamlog.coordinator.schema import CLASSIC, GroupState, MemberState
from streamlog.errors import (
    GroupNotEmptyError,
    GroupSubscribedToTopicError,
    IllegalGenerationError,
    InconsistentGroupProtocolError,
    UnknownMemberIdError,
)
from streamlog.types import OffsetAndMetadata, TopicPartition

T0 = TopicPartition("t", 0)


def replay_classic(world: Any, protocol_type: str = "consumer", protocol: str = "range") -> None:
    """Group g in generation 3, as written when its leader `a` had sent the assignments of `a` and `b`."""
    group = GroupState(3, protocol, type=CLASSIC, protocol_type=protocol_type, leader="a")
    topics = frozenset("t") if protocol_type == "consumer" else frozenset[str]()
    members = [
        MemberState(
            name, None, f"client {name}", "/10.0.0.1", topics, ((protocol, b"meta " + name.encode()),), 10.0, 60.0, True,
            "0", 3, assignment=b"part of " + name.encode(),
        )
        for name in "ab"
    ]  # fmt: skip
    records = [(schema.member_key("g", each.member_id), schema.member_value(each)) for each in members]
    records.append((schema.group_key("g"), schema.group_value(group)))
    world.log.extend(records)
    world.open("1")
    world.shard.check()


def test_a_replayed_classic_group_is_described_with_its_members_own_bytes(world: Any) -> None:
    replay_classic(world)
    group = world.shard.describe("g")
    assert (group.type, group.protocol_type, group.protocol, group.epoch, group.state) == (
        "classic",
        "consumer",
        "range",
        3,
        "Stable",
    )
    first = group.members[0]
    assert (first.member_id, first.client_id, first.client_host) == ("a", "client a", "/10.0.0.1")
    assert (first.metadata, first.assigned, first.topics) == (b"meta a", b"part of a", {"t"})
    [listing] = world.shard.list_groups()
    assert listing.type == "classic" and listing.state == "Stable"


@pytest.mark.parametrize(("protocol_type", "protocol"), [("connect", "range"), ("consumer", "mine")])
def test_a_consumer_of_the_other_protocol_is_refused_by_members_that_the_coordinator_cannot_assign_to(
    world: Any, protocol_type: str, protocol: str
) -> None:
    replay_classic(world, protocol_type, protocol)
    with pytest.raises(InconsistentGroupProtocolError, match="classic"):
        world.joined()
    for member_id in "ab":
        world.shard.leave("g", member_id, world.now_ms, world.now_s).result()
    assert world.shard.describe("g").type == "classic"
    assert world.joined().answer.stable
    assert world.shard.describe("g").type == "consumer"


def test_members_of_a_replayed_group_are_evicted_when_their_sessions_are_over(world: Any) -> None:
    replay_classic(world)
    world.later(9)
    assert world.shard.classic_heartbeat("g", "a", None, 3, world.now_ms, world.now_s).error() is None
    world.later(1)
    world.expire()
    assert (world.state, world.epoch) == ("PreparingRebalance", 3)
    world.later(9)
    world.expire()
    assert (world.state, world.epoch) == ("Empty", 4)


def test_a_change_of_topics_gives_a_classic_group_no_target(world: Any) -> None:
    replay_classic(world)
    world.topics["t"] = 9
    world.metadata_changed()
    assert world.epoch == 3


def test_a_classic_member_commits_any_partition_in_its_generation_and_none_in_another(world: Any) -> None:
    replay_classic(world)
    offsets = {T0: OffsetAndMetadata(5)}
    world.shard.commit("g", "a", 3, offsets, world.now_ms).result()
    assert world.shard.committed("g")[T0].offset == 5
    for generation in (2, 4):
        with pytest.raises(IllegalGenerationError):
            world.shard.commit("g", "a", generation, offsets, world.now_ms).result()
    with pytest.raises(UnknownMemberIdError):
        world.shard.commit("g", "c", 3, offsets, world.now_ms).result()


def test_offsets_of_topics_that_a_classic_member_names_are_in_use(world: Any) -> None:
    replay_classic(world)
    world.shard.commit("g", "a", 3, {T0: OffsetAndMetadata(5)}, world.now_ms).result()
    refused = world.shard.delete_offsets("g", [T0]).result()
    assert isinstance(refused[T0], GroupSubscribedToTopicError)


def test_what_a_connect_worker_reads_is_not_known_so_no_offset_of_its_group_is_deleted(world: Any) -> None:
    replay_classic(world, "connect")
    world.shard.commit("g", "a", 3, {T0: OffsetAndMetadata(5)}, world.now_ms).result()
    with pytest.raises(GroupNotEmptyError):
        world.shard.delete_offsets("g", [T0]).result()
    assert world.shard.next_offset_expiry_ms() is None
    world.shard.expire_offsets(world.now_ms * 2).result()
    assert world.shard.committed("g")[T0].offset == 5
