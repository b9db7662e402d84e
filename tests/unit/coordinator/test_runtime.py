"""Records, replay, failures: the log says all there is to say, and what it did not take did not happen."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest

from streamlog.coordinator.schema import MEMBER, member_key, offset_key
from streamlog.errors import (
    CoordinatorLoadInProgressError,
    DiskFullError,
    FormatError,
    NotCoordinatorError,
    NotLeaderError,
    UnknownMemberIdError,
)
from streamlog.types import TopicPartition

T0 = TopicPartition("t", 0)


def written(world: Any, since: int) -> list[tuple[Any, ...]]:
    """The keys of the records since a position, decoded; a tombstone's with a leading 'gone'."""
    return [
        (() if value is not None else ("gone",)) + (kind, *rest)
        for key, value in world.log[since:]
        for kind, _version, _group, *rest in [msgpack.unpackb(key)]
    ]


def test_a_heartbeat_that_changes_nothing_writes_nothing(world: Any) -> None:
    first, second = world.member(), world.member()
    world.poll_in_turn(first, second)
    before = len(world.log)
    for _ in range(3):
        world.later(1)
        world.poll_in_turn(first, second)
        first.heartbeat(polling=False)
    assert len(world.log) == before


def test_the_same_answer_is_handed_out_again(world: Any) -> None:
    member = world.joined()
    assert member.ask() is not member.ask()
    assert member.ask() is member.ask()


def test_only_members_that_change_are_written(world: Any) -> None:
    members = [world.member() for _ in range(4)]
    world.poll_in_turn(*members)
    before = len(world.log)
    members[3].leave()
    assert written(world, before) == [("gone", MEMBER, members[3].id), (1,), (MEMBER, members[0].id)]


def test_replaying_the_log_gives_the_same_state_however_compacted(world: Any) -> None:
    first, second = world.joined(), world.joined("t", "u", instance_id="one")
    first.heartbeat()
    first.commit({T0: 3})
    world.commit("other", {T0: 4})
    before = world.shard.snapshot()
    for records in (world.log[:], world.compacted()):
        world.open("1", records)
        assert world.shard.snapshot() == before
        world.shard.check()
    world.poll_in_turn(first, second)
    assert world.state == "Stable"


def test_members_of_a_crashed_process_are_removed_by_records(world: Any) -> None:
    world.poll_in_turn(world.member(), world.member())
    before = len(world.log)
    world.open("2")
    assert world.state == "Empty"
    assert {entry[0] for entry in written(world, before)} == {"gone", 1}


def test_a_full_disk_at_opening_only_delays_the_removal_of_the_dead(world: Any) -> None:
    dead = world.joined()
    dead.commit({T0: 3})
    world.failing = DiskFullError("full")
    with pytest.raises(DiskFullError):
        world.open("2")
    assert world.shard.committed("g")[T0].offset == 3
    world.failing = None
    assert world.joined().held == dead.held
    assert len(world.shard.describe("g").members) == 1


def test_a_remote_member_outlives_the_brokers_crash_if_it_heartbeats_in_time(world: Any) -> None:
    loyal, gone = world.joined(remote=True), world.joined(remote=True)
    world.poll_in_turn(loyal, gone)
    world.open("2")
    world.later(44)
    held = loyal.held
    assert loyal.poll() == held
    world.later(1)
    world.expire()
    assert [member.member_id for member in world.shard.describe("g").members] == [loyal.id]


def test_a_release_that_compaction_dropped_takes_nothing_from_the_next_owner(world: Any) -> None:
    first, second = world.joined(), world.joined()
    first.heartbeat()
    release = len(world.log)
    first.heartbeat()
    second.heartbeat()
    later_life_of_first = [world.log[release]]
    released, rest = world.log[:release], world.log[release + 1 :]
    world.open("1", released + rest + later_life_of_first)
    world.shard.check()
    world.poll_in_turn(first, second)
    assert (first.held | second.held, first.held & second.held) == ({("t", n) for n in range(4)}, frozenset())


# -- failures


def test_a_failed_append_changes_nothing(world: Any) -> None:
    member = world.joined()
    before = world.shard.snapshot()
    newcomer, world.failing = world.member(), DiskFullError("full")
    commit = {T0: 1}
    for action in (newcomer.heartbeat, member.leave, lambda: member.commit(commit)):
        with pytest.raises(DiskFullError):
            action()
        assert world.shard.snapshot() == before
    world.failing = None
    assert member.poll() == member.held
    assert world.joined().id != ""


def test_an_append_that_raises_fails_the_request_alone(world: Any) -> None:
    def append(records: object) -> Any:
        raise DiskFullError("full")

    world.shard._groups._append = append
    with pytest.raises(DiskFullError):
        world.member().heartbeat()
    assert world.state == "Dead"


def test_an_answer_waits_for_its_append_and_so_does_one_that_rests_on_it(world: Any) -> None:
    member = world.joined()
    world.parking = True
    newcomer = world.member().ask()
    told_of_it = member.ask()
    unchanged = member.ask()  # nothing to write, but what it says may rest on what is not written yet
    assert not newcomer.done() and not told_of_it.done() and not unchanged.done()
    world.parking = False
    for parked in world.parked:
        parked.complete(0)
    assert newcomer.done() and told_of_it.done() and unchanged.done()
    assert member.ask().done()


def test_an_append_that_fails_after_its_replay_unloads_the_shard(world: Any) -> None:
    member = world.joined()
    durable = world.log[:]
    world.parking = True
    commit = world.shard.commit("g", member.id, member.epoch, {}, 0)
    assert commit.done()
    newcomer = world.member().ask()
    world.parked[0].fail(DiskFullError("full"))
    assert isinstance(newcomer.error(), DiskFullError)
    assert not world.shard.ready
    with pytest.raises(CoordinatorLoadInProgressError):
        member.heartbeat()
    with pytest.raises(CoordinatorLoadInProgressError):
        world.shard.describe("g")

    world.parking = False
    world.log = durable
    world.shard.elect()
    world.shard.replay(durable)
    world.shard.loaded(world.now_ms, world.now_s)
    assert member.poll() == member.held != frozenset()


def test_an_eviction_in_several_groups_is_done_when_all_appends_are(world: Any) -> None:
    for group in ("a", "b"):
        world.joined(group=group)
    world.later(300)
    world.parking = True
    expired = world.shard.expire(world.now_s, world.now_ms)
    assert [world.shard.describe(group).state for group in ("a", "b")] == ["Empty", "Empty"]
    world.parked[0].complete(0)
    assert not expired.done()
    world.parked[1].complete(0)
    assert expired.result() is None


def test_an_eviction_that_fails_in_one_group_fails_and_can_be_tried_again(world: Any) -> None:
    for group in ("a", "b"):
        world.joined(group=group)
    world.later(300)
    world.parking = True
    expired = world.shard.expire(world.now_s, world.now_ms)
    world.parked[1].complete(0)
    world.parked[0].fail(DiskFullError("full"))
    assert isinstance(expired.error(), DiskFullError)
    assert not world.shard.ready

    world.parking, world.log = False, world.log[:4]
    assert isinstance(world.shard.expire(world.now_s, world.now_ms).error(), CoordinatorLoadInProgressError)
    world.open("1")
    world.later(300)
    world.expire()
    assert [world.shard.describe(group).state for group in ("a", "b")] == ["Empty", "Empty"]


def test_that_a_member_has_left_is_said_once_that_counts_as_written(world: Any) -> None:
    """It may be lost with the leader of the log: the member is there again then, and has to leave again."""
    member = world.joined()
    before = world.log[:]
    world.parking = True

    def leave() -> Any:
        return world.shard.leave("g", member.id, world.now_ms, world.now_s)

    first, second = leave(), leave()
    assert not first.done()
    assert not second.done()
    world.parked[0].fail(NotLeaderError("another broker leads"))
    assert [type(each.error()) for each in (first, second)] == [NotLeaderError] * 2
    world.open("1", before)
    first, second = leave(), leave()
    world.parked[-1].complete(0)
    assert first.error() is None
    assert isinstance(second.error(), UnknownMemberIdError)


def test_a_failed_request_leaves_the_deadline_where_it_was(world: Any) -> None:
    world.joined()
    world.later(300)
    world.failing = DiskFullError("full")
    assert isinstance(world.shard.expire(world.now_s, world.now_ms).error(), DiskFullError)
    assert world.shard.next_expiry_s() == world.now_s
    world.failing = None
    world.expire()
    assert world.state == "Empty"


def test_a_member_that_left_its_place_cannot_renew_it(world: Any) -> None:
    member = world.joined(instance_id="one")
    member.leave()
    assert not world.shard.renew("g", member.id, member.answer.version, world.now_s)


def test_a_tombstone_of_what_was_never_there_is_nothing(world: Any) -> None:
    member = world.joined()
    member.leave()
    tombstones = [record for record in world.log if record[1] is None]
    world.shard.replay([*tombstones, (offset_key("h", T0), None), (member_key("h", "m"), None)])
    assert [group.name for group in world.shard.list_groups()] == ["g"]


def test_a_shard_that_is_not_loaded_refuses_everything_and_says_to_try_again(world: Any) -> None:
    member = world.joined()
    world.shard.elect()
    assert member.ask().error().retriable
    assert not world.shard.renew("g", member.id, member.answer.version, world.now_s)
    for refused in (
        world.shard.leave("g", member.id, 0, 0.0),
        world.shard.expire(0.0, 0),
        world.shard.metadata_changed({}, 0, 0.0),
        world.shard.commit("g", None, -1, {}, 0),
        world.shard.delete_group("g"),
        world.shard.delete_offsets("g", []),
        world.shard.expire_offsets(0),
    ):
        assert isinstance(refused.error(), CoordinatorLoadInProgressError)
    for read in (world.shard.list_groups, lambda: world.shard.committed("g")):
        with pytest.raises(CoordinatorLoadInProgressError):
            read()


@pytest.mark.parametrize(
    "record",
    [
        (b"\xc1", b""),
        (msgpack.packb("group"), None),
        (msgpack.packb((1, "g")), None),
        (msgpack.packb((1,)), None),
        (msgpack.packb((1, 0, "g", "too much")), None),
        (msgpack.packb((1, 0, "g")), msgpack.packb((0, "consumer", 1))),
        (msgpack.packb((3, 0, "g", "t", 0)), b"\x93"),
    ],
)
def test_a_damaged_record_is_refused(world: Any, record: tuple[bytes, bytes | None]) -> None:
    with pytest.raises(FormatError):
        world.shard.replay([record])
    world.shard.elect()


@pytest.mark.parametrize(
    "record",
    [
        (msgpack.packb((9, 0, "h")), b""),
        (msgpack.packb((1, 1, "h")), b""),
        (msgpack.packb((1, 0, "h")), msgpack.packb((1, "and more"))),
    ],
    ids=["kind", "version of the key", "version of the value"],
)
def test_a_record_of_a_newer_version_is_passed_over_by_a_reader_and_refused_by_a_writer(
    world: Any, record: tuple[bytes, bytes | None]
) -> None:
    member = world.joined()
    world.shard.elect()
    world.shard.replay([*world.log, record])
    with pytest.raises(FormatError, match="newer version"):
        world.shard.loaded(world.now_ms, world.now_s)
    assert not world.shard.ready
    world.shard.loaded(world.now_ms, world.now_s, writes=False)
    assert [each.member_id for each in world.shard.describe("g").members] == [member.id]

    world.shard.elect()
    world.shard.replay([*world.log, record, (record[0], None)])
    world.shard.loaded(world.now_ms, world.now_s)
    assert world.shard.ready


# -- resigned


def test_a_heartbeat_in_the_middle_of_a_resignation_gets_exactly_one_answer(world: Any) -> None:
    world.joined()
    world.parking = True
    answers: list[Any] = []
    lost, kept = world.member().ask(), world.member().ask()
    lost.on_done(answers.append)
    kept.on_done(answers.append)
    world.parked[1].complete(0)  # in time: it counts as written
    assert answers == [kept]
    world.shard.resign()
    assert answers == [kept], "an answer comes when the lock is released"
    for wake in world.shard.take_wakeups():
        wake()
    world.parked[0].complete(0)  # too late: the answer was given
    assert answers == [kept, lost]
    assert kept.result().member_id == "m3"
    assert isinstance(lost.error(), NotCoordinatorError) and lost.error().retriable


def test_an_append_that_is_done_during_a_resignation_is_the_answer(world: Any) -> None:
    world.parking = True
    joined = world.member().ask()
    world.shard.resign()
    world.parked[0].complete(0)
    for wake in world.shard.take_wakeups():
        wake()
    assert joined.result().member_id == "m1"


def test_an_append_that_fails_after_a_resignation_changes_nothing_any_more(world: Any) -> None:
    world.parking = True
    joined = world.member().ask()
    world.shard.resign()
    for wake in world.shard.take_wakeups():
        wake()
    world.parked[0].fail(DiskFullError("full"))
    assert isinstance(joined.error(), NotCoordinatorError)
    assert isinstance(world.member().ask().error(), NotCoordinatorError)


def test_a_shard_that_resigned_refuses_requests_until_it_is_elected_and_loaded_again(world: Any) -> None:
    member = world.joined()
    woken: list[str] = []
    world.shard.watch("g", lambda: woken.append("member"), member.id)
    world.shard.resign()
    for wake in world.shard.take_wakeups():
        wake()
    assert woken == ["member"]
    assert isinstance(member.ask().error(), NotCoordinatorError)
    assert not world.shard.renew("g", member.id, member.answer.version, world.now_s)
    with pytest.raises(NotCoordinatorError):
        world.shard.describe("g")

    world.shard.elect()
    assert isinstance(member.ask().error(), CoordinatorLoadInProgressError)
    world.shard.replay(world.log)
    world.shard.loaded(world.now_ms, world.now_s)
    assert member.poll() == member.held != frozenset()


# -- versions and wake-ups


def test_a_member_may_skip_its_heartbeat_while_nothing_changed(world: Any) -> None:
    member = world.joined()
    version = member.answer.version
    assert world.shard.renew("g", member.id, version, world.now_s)
    world.joined()
    assert not world.shard.renew("g", member.id, version, world.now_s)
    assert not world.shard.renew("nowhere", member.id, version, world.now_s)


def test_renewing_without_a_heartbeat_keeps_a_member_alive(world: Any) -> None:
    member = world.joined()
    world.later(200)
    assert world.shard.renew("g", member.id, member.answer.version, world.now_s)
    world.later(200)
    world.expire()
    assert world.state == "Stable"
    member.heartbeat()
    assert not world.shard.renew("g", "other", member.answer.version, world.now_s)
    assert not world.shard.renew("g", member.id, member.answer.version - 1, world.now_s)


def test_renewing_is_refused_when_somebody_is_overdue_so_that_a_heartbeat_evicts(world: Any) -> None:
    world.joined(max_poll_interval_s=10.0)
    member = world.joined()
    world.later(10)
    assert not world.shard.renew("g", member.id, member.answer.version, world.now_s)
    member.poll()
    assert len(world.shard.describe("g").members) == 1


def test_what_others_can_act_on_wakes_the_watchers_once(world: Any) -> None:
    calls: list[str] = []

    def callback() -> None:
        calls.append("woken")

    first, second = world.joined(), world.joined()
    first.heartbeat()
    world.shard.take_wakeups()
    world.shard.watch("g", callback)
    first.heartbeat()  # it released two partitions: the second can have them now
    assert world.shard.take_wakeups() == [callback]
    assert calls == [], "the shard itself calls nobody"
    second.heartbeat()  # it took them: no other caller can do anything about it
    second.commit({TopicPartition("t", 3): 1})
    assert world.shard.take_wakeups() == []
    second.leave()
    world.topics["t"] = 5
    world.metadata_changed()
    assert world.shard.take_wakeups() == [callback]
    world.shard.elect()
    assert world.shard.take_wakeups() == [callback]


def test_watching_ends(world: Any) -> None:
    def callback() -> None: ...

    world.shard.watch("g", callback)
    world.shard.watch("other", callback)
    world.shard.unwatch("g", callback)
    world.shard.unwatch("g", callback)
    world.joined()
    assert world.shard.take_wakeups() == []
