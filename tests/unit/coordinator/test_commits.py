"""Committed offsets: who may commit, what is remembered, when it is forgotten."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest

from streamlog.coordinator import schema
from streamlog.errors import (
    CommitFailedError,
    CoordinatorLoadInProgressError,
    DiskFullError,
    FormatError,
    GroupIdNotFoundError,
    GroupNotEmptyError,
    GroupSubscribedToTopicError,
)
from streamlog.types import OffsetAndMetadata, TopicPartition

T0, T3 = TopicPartition("t", 0), TopicPartition("t", 3)
DAY_MS = 24 * 60 * 60 * 1000


def days_later(world: Any, days: float) -> None:
    world.now_ms += int(days * DAY_MS)
    world.shard.expire_offsets(world.now_ms).result()
    world.shard.check()


def test_a_member_commits_what_it_owns(world: Any) -> None:
    member = world.joined()
    positions = {T0: OffsetAndMetadata(5, "note", 2)}
    world.shard.commit("g", member.id, member.epoch, positions, world.now_ms).result()
    assert world.shard.committed("g") == positions
    assert world.shard.committed("g", [T0, T3]) == positions
    assert world.shard.committed("g", [T3]) == world.shard.committed("other") == {}


def test_a_commit_of_a_lost_partition_is_refused_as_a_whole(world: Any) -> None:
    first, second = world.member(), world.member()
    world.poll_in_turn(first, second)
    with pytest.raises(CommitFailedError, match="t-3") as refused:
        first.commit({T0: 5, T3: 5})
    assert refused.value.partitions == (T3,)
    assert world.shard.committed("g") == {}


def test_a_partition_being_revoked_can_still_be_committed_until_it_is_released(world: Any) -> None:
    first = world.joined()
    world.joined()
    first.heartbeat()
    first.commit({T3: 7})
    first.heartbeat()
    with pytest.raises(CommitFailedError):
        first.commit({T3: 8})
    assert world.shard.committed("g")[T3].offset == 7


def test_a_consumer_that_was_evicted_can_no_longer_commit(world: Any) -> None:
    # scenario 15
    stuck, other = world.member(), world.member()
    world.poll_in_turn(stuck, other)
    world.later(299)
    other.poll()
    world.later(1)
    assert T0 in other.poll()
    other.commit({T0: 20})
    with pytest.raises(CommitFailedError, match="max_poll_interval_ms"):
        stuck.commit({T0: 3})
    assert world.shard.committed("g")[T0].offset == 20


def test_a_delayed_commit_from_before_the_partition_was_lost_and_won_back_is_refused(world: Any) -> None:
    first = world.joined(assignors=("range",))
    old_epoch = first.epoch
    second = world.joined(assignors=("range",))
    world.poll_in_turn(first, second)
    second.commit({T3: 50})
    second.leave()
    first.poll()
    with pytest.raises(CommitFailedError):
        first.commit({T3: 4}, epoch=old_epoch)
    first.commit({T0: 4}, epoch=old_epoch)  # it never lost this one
    assert world.shard.committed("g")[T3].offset == 50


def test_without_a_member_only_an_empty_group_can_be_committed(world: Any) -> None:
    world.commit("g", {T0: 3})
    assert world.state == "Empty"
    member = world.joined()
    with pytest.raises(GroupNotEmptyError, match="Close its consumers"):
        world.commit("g", {T0: 4})
    member.leave()
    world.commit("g", {T0: 5})
    assert world.shard.committed("g")[T0].offset == 5


def test_an_empty_commit_writes_nothing(world: Any) -> None:
    member = world.joined()
    written = len(world.log)
    member.commit({})
    assert len(world.log) == written


def test_any_note_can_be_committed(world: Any) -> None:
    note = "no text: \udcff"
    world.shard.commit("g", None, -1, {T0: OffsetAndMetadata(1, note)}, 0).result()
    assert world.shard.committed("g")[T0].metadata == note


# -- deleting


def test_deleting_a_group_forgets_its_offsets(world: Any) -> None:
    member = world.joined()
    member.commit({T0: 1})
    with pytest.raises(GroupNotEmptyError):
        world.shard.delete_group("g").result()
    member.leave()
    world.shard.delete_group("g").result()
    assert (world.state, world.shard.list_groups(), world.shard.committed("g")) == ("Dead", [], {})


def test_an_unknown_group_cannot_be_deleted(world: Any) -> None:
    with pytest.raises(GroupIdNotFoundError, match="Check the name"):
        world.shard.delete_group("nothing").result()
    with pytest.raises(GroupIdNotFoundError):
        world.shard.delete_offsets("nothing", [T0]).result()


def test_offsets_of_topics_that_a_member_reads_cannot_be_deleted(world: Any) -> None:
    world.commit("g", {T0: 1, TopicPartition("u", 0): 2})
    world.joined("t")
    refused = world.shard.delete_offsets("g", [T0, ("u", 0), ("u", 1)]).result()
    assert list(world.shard.committed("g")) == [T0]
    assert list(refused) == [T0] and isinstance(refused[T0], GroupSubscribedToTopicError)


def test_offsets_of_a_deleted_topic_are_forgotten(world: Any) -> None:
    world.topics["u"] = 1
    world.commit("g", {T0: 1, TopicPartition("u", 0): 2})
    del world.topics["t"]
    world.metadata_changed()
    assert list(world.shard.committed("g")) == [("u", 0)]


def test_a_group_whose_last_offset_is_forgotten_is_gone(world: Any) -> None:
    world.commit("g", {T0: 1})
    world.shard.delete_offsets("g", [T0]).result()
    assert world.state == "Dead"


# -- expiry


def test_offsets_expire_a_retention_after_the_group_became_empty(world: Any) -> None:
    member = world.joined()
    member.commit({T0: 1})
    days_later(world, 6)
    member.leave()
    days_later(world, 6.9)
    assert world.shard.committed("g") != {}
    assert world.shard.next_offset_expiry_ms() == world.now_ms + int(0.1 * DAY_MS)
    days_later(world, 0.1)
    assert (world.state, world.shard.next_offset_expiry_ms()) == ("Dead", None)


def test_offsets_never_expire_while_a_member_subscribes_not_even_in_a_rebalance(world: Any) -> None:
    # scenario 15
    first = world.joined()
    first.commit({T0: 1, T3: 1})
    second = world.joined()
    first.heartbeat()
    first.heartbeat()
    assert world.state == "Reconciling"  # t3 has no owner at this moment
    assert second.held == frozenset()
    days_later(world, 100)
    assert set(world.shard.committed("g")) == {T0, T3}
    assert world.shard.next_offset_expiry_ms() is None


def test_offsets_do_not_expire_while_the_place_of_a_static_member_is_kept(world: Any) -> None:
    member = world.joined(instance_id="one")
    member.commit({T0: 1})
    member.leave()
    days_later(world, 100)
    assert world.shard.committed("g") != {}


def test_offsets_of_topics_that_no_member_reads_expire_counted_from_the_commit(world: Any) -> None:
    world.commit("g", {TopicPartition("u", 0): 1})
    member = world.joined("t")
    member.commit({T0: 1})
    days_later(world, 7)
    assert list(world.shard.committed("g")) == [T0]


def test_a_group_that_never_had_members_keeps_each_offset_a_retention_from_its_commit(world: Any) -> None:
    world.commit("g", {T0: 1})
    days_later(world, 4)
    world.commit("g", {T3: 1})
    days_later(world, 3)
    assert list(world.shard.committed("g")) == [T3]
    days_later(world, 4)
    assert world.state == "Dead"


def test_a_reset_of_a_long_empty_group_lasts_a_full_retention(world: Any) -> None:
    member = world.joined()
    member.commit({T0: 1})
    member.leave()
    days_later(world, 6)
    world.commit("g", {T0: 9})
    days_later(world, 6)
    assert world.shard.committed("g")[T0].offset == 9
    days_later(world, 1)
    assert world.state == "Dead"


def test_after_a_crash_the_retention_counts_from_the_reopening(world: Any) -> None:
    world.joined().commit({T0: 1})
    world.now_ms += 30 * DAY_MS
    world.open("2")
    assert world.state == "Empty"
    days_later(world, 6.9)
    assert world.shard.committed("g") != {}
    days_later(world, 0.1)
    assert world.state == "Dead"


def test_a_group_without_offsets_is_remembered_for_a_retention_too(world: Any) -> None:
    world.joined().leave()
    assert world.shard.next_offset_expiry_ms() == world.now_ms + 7 * DAY_MS
    days_later(world, 7)
    assert world.state == "Dead"


def test_without_a_retention_offsets_stay_for_ever(world: Any) -> None:
    world.retention_ms = None
    world.open("2")
    world.commit("g", {T0: 1})
    days_later(world, 10_000)
    assert world.shard.committed("g") != {}
    assert world.shard.next_offset_expiry_ms() is None


# -- topics that are made anew


def test_an_offset_of_a_former_topic_does_not_count_though_no_deletion_was_reported(world: Any) -> None:
    world.commit("g", {T0: 5})
    world.make_anew("t")
    assert world.shard.committed("g") == world.shard.committed("g", [T0]) == {}
    world.commit("g", {T0: 1})
    assert world.shard.committed("g")[T0].offset == 1


def test_a_commit_replaces_the_one_of_a_former_topic_in_the_compacted_log(world: Any) -> None:
    world.commit("g", {T0: 5})
    world.make_anew("t")
    world.commit("g", {T0: 1})
    assert len(world.compacted()) == 1


def test_a_commit_that_names_a_former_topic_is_refused_as_a_whole(world: Any) -> None:
    member = world.joined()
    former = world.topic_id("t")
    world.make_anew("t")
    positions = {T0: OffsetAndMetadata(5), T3: OffsetAndMetadata(5)}
    for member_id, epoch in ((member.id, member.epoch), ("", 0)):
        refused = world.shard.commit("g", member_id, epoch, positions, world.now_ms, {T0: former})
        assert isinstance(refused.error(), CommitFailedError)
    assert world.shard.committed("g") == {}
    world.shard.commit("g", member.id, member.epoch, positions, world.now_ms, {T0: world.topic_id("t")}).result()
    assert set(world.shard.committed("g")) == {T0, T3}


def test_a_commit_for_a_topic_that_is_not_there_is_refused(world: Any) -> None:
    gone = TopicPartition("gone", 0)
    for ids in (None, {gone: b"its id"}):
        refused = world.shard.commit("g", None, -1, {gone: OffsetAndMetadata(5)}, world.now_ms, ids)
        assert isinstance(refused.error(), CommitFailedError)
        assert refused.error().partitions == (gone,)


def test_committed_offsets_can_be_asked_for_by_the_topic_they_are_of(world: Any) -> None:
    world.commit("g", {T0: 5, T3: 6})
    former = world.topic_id("t")
    world.make_anew("t")
    assert world.shard.committed("g", [T0, T3], {T0: former}) == {T0: OffsetAndMetadata(5)}
    assert world.shard.committed("nobody", [T0], {T0: former}) == {}


def test_offsets_of_a_former_topic_are_forgotten_with_the_next_expiry(world: Any) -> None:
    world.retention_ms = None
    world.open("2")
    world.commit("g", {T0: 5})
    world.make_anew("t")
    world.shard.expire_offsets(world.now_ms).result()
    assert world.state == "Dead"


# -- logs that end before what was committed


def test_offsets_past_the_end_of_their_log_are_lowered_and_nothing_else_of_them(world: Any) -> None:
    u0 = TopicPartition("u", 0)
    world.shard.commit("g", None, -1, {T0: OffsetAndMetadata(9, "note", 3), T3: OffsetAndMetadata(4)}, world.now_ms)
    world.commit("h", {T0: 7, u0: 9})
    days_later(world, 4)
    lowered = world.shard.lower_offsets({T0: 7, T3: 7}).result()
    assert lowered == [("g", T0, 9, 7)]
    assert world.shard.committed("g") == {T0: OffsetAndMetadata(7, "note"), T3: OffsetAndMetadata(4)}
    assert world.shard.committed("h") == {T0: OffsetAndMetadata(7), u0: OffsetAndMetadata(9)}
    days_later(world, 3)
    assert world.shard.list_groups() == [], "their age counts from the commit"


def test_lowering_again_writes_nothing(world: Any) -> None:
    world.commit("g", {T0: 9})
    world.shard.lower_offsets({T0: 7}).result()
    written = len(world.log)
    assert world.shard.lower_offsets({T0: 7}).result() == []
    assert len(world.log) == written


def test_an_offset_of_a_former_topic_is_not_lowered_in_the_new_one(world: Any) -> None:
    world.commit("g", {T0: 9})
    world.make_anew("t")
    assert world.shard.beyond({T0: 7}) == []


def test_offsets_that_cannot_be_lowered_stay_as_they_were(world: Any) -> None:
    world.commit("g", {T0: 9})
    world.failing = DiskFullError("full")
    with pytest.raises(DiskFullError):
        world.shard.lower_offsets({T0: 7}).result()
    assert world.shard.committed("g")[T0].offset == 9
    world.shard.elect()
    assert isinstance(world.shard.lower_offsets({T0: 7}).error(), CoordinatorLoadInProgressError)


def test_a_committed_offset_without_all_its_fields_is_refused_with_a_typed_error() -> None:
    with pytest.raises(FormatError, match="it was damaged"):
        schema.decode(schema.offset_key("g", T0), msgpack.packb([0, 5, "", None, 1]))
