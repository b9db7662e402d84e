"""Groups: classic ones, those of KIP-848, both in one, and what is committed."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from streamlog.kafka import protocol

from ..wire import WAIT_S, ask, build, create, error_name, find_coordinator, topic_id, until
from . import scenario, short_scenario

_NOT_YET = ("COORDINATOR_LOAD_IN_PROGRESS", "NOT_COORDINATOR", "COORDINATOR_NOT_AVAILABLE")


def coordinated(bootstrap: str, group: str) -> None:
    """Wait until the coordinator of a group answers."""
    find_coordinator(bootstrap, group)
    until(lambda: error_name(committed(bootstrap, group).error_code) not in _NOT_YET)


def committed(bootstrap: str, group: str, topics: Any = None, *, stable: bool = False, version: int = 8, **given: Any) -> Any:  # fmt: skip
    wanted = [{"group_id": group, "topics": topics, **given}]
    return ask(bootstrap, "OffsetFetch", version, groups=wanted, require_stable=stable).groups[0]


def commit(
    bootstrap: str, group: str, topic: str, offset: int, *, partition: int = 0, member: str = "", epoch: int = -1, version: int = 8,
    **given: Any,
) -> str:  # fmt: skip
    wanted = {"partition_index": partition, "committed_offset": offset, "committed_metadata": "", **given}
    names: dict[str, Any] = {"name": topic} if version < 10 else {"topic_id": topic_id(bootstrap, topic)}
    answer = ask(
        bootstrap, "OffsetCommit", version, group_id=group, member_id=member, generation_id_or_member_epoch=epoch,
        topics=[{**names, "partitions": [wanted]}],
    )  # fmt: skip
    return error_name(answer.topics[0].partitions[0].error_code)


def subscription(*topics: str) -> bytes:
    message = build("ConsumerProtocolSubscription", topics=list(topics))
    return b"\0\0" + b"".join(protocol.encode("ConsumerProtocolSubscription", 0, message))


def assignment(topic: str, *partitions: int) -> bytes:
    message = build(
        "ConsumerProtocolAssignment", assigned_partitions=[{"topic": topic, "partitions": list(partitions)}]
    )
    return b"\0\0" + b"".join(protocol.encode("ConsumerProtocolAssignment", 0, message))


def join(
    bootstrap: str, group: str, member: str = "", *, version: int = 5, session_ms: int = 10_000, rebalance_ms: int = 10_000,
    kind: str = "consumer", protocols: dict[str, bytes] | None = None, instance: str | None = None,
) -> Any:  # fmt: skip
    known = {"range": subscription(group)} if protocols is None else protocols
    static = {"group_instance_id": instance} if instance is not None else {}
    return ask(
        bootstrap, "JoinGroup", version, group_id=group, member_id=member, session_timeout_ms=session_ms,
        rebalance_timeout_ms=rebalance_ms, protocol_type=kind,
        protocols=[{"name": name, "metadata": data} for name, data in known.items()], **static,
    )  # fmt: skip


def joined(bootstrap: str, group: str, **given: Any) -> Any:
    """Join as a new member, with the id that the coordinator gives."""
    first = join(bootstrap, group, **given)
    if error_name(first.error_code) == "MEMBER_ID_REQUIRED":
        return join(bootstrap, group, first.member_id, **given)
    return first


def sync(
    bootstrap: str, group: str, member: str, generation: int, assignments: dict[str, bytes] | None = None, *, version: int = 5,
    kind: str | None = "consumer", name: str | None = "range", instance: str | None = None,
) -> Any:  # fmt: skip
    given = [{"member_id": each, "assignment": data} for each, data in (assignments or {}).items()]
    return ask(
        bootstrap, "SyncGroup", version, group_id=group, member_id=member, generation_id=generation, group_instance_id=instance,
        assignments=given, **({"protocol_type": kind, "protocol_name": name} if version >= 5 else {}),
    )  # fmt: skip


def heartbeat(bootstrap: str, group: str, member: str, generation: int, instance: str | None = None) -> str:
    answer = ask(
        bootstrap,
        "Heartbeat",
        4,
        group_id=group,
        member_id=member,
        generation_id=generation,
        group_instance_id=instance,
    )
    return error_name(answer.error_code)


def leave(bootstrap: str, group: str, *members: str, instance: str | None = None) -> Any:
    wanted = [{"member_id": each, "group_instance_id": instance} for each in members]
    return ask(bootstrap, "LeaveGroup", 5, group_id=group, members=wanted)


def described(bootstrap: str, group: str, version: int = 6, *, order: Sequence[str] = ()) -> Any:
    """`order`: of the members, by their ids."""
    (answer,) = ask(bootstrap, "DescribeGroups", version, groups=[group]).groups
    answer.members = sorted(
        answer.members, key=lambda each: order.index(each.member_id) if each.member_id in order else len(order)
    )
    return answer


def listed(bootstrap: str, prefix: str, version: int = 5, **given: Any) -> Any:
    answer = ask(bootstrap, "ListGroups", version, **given)
    return sorted([each for each in answer.groups if each.group_id.startswith(prefix)], key=lambda each: each.group_id)  # type: ignore[no-any-return]


def stable(bootstrap: str, group: str, partitions: tuple[int, ...] = (0,), **given: Any) -> Any:
    """A group of one classic member, which has these partitions of the topic of the group's name."""
    coordinated(bootstrap, group)
    member = joined(bootstrap, group, **given)
    assert member.error_code == 0, error_name(member.error_code)
    sync(bootstrap, group, member.member_id, member.generation_id, {member.member_id: assignment(group, *partitions)})
    return member


# -- classic groups --------------------------------------------------------------------------------------


@short_scenario
def a_classic_member(bootstrap: str) -> Any:
    """Join, sync, heartbeat, leave of one member, the group described after each."""
    name = "a_classic_member"
    create(bootstrap, name)
    coordinated(bootstrap, name)
    found: dict[str, Any] = {"not there": described(bootstrap, name), "older": described(bootstrap, name, 5)}
    first = join(bootstrap, name)
    found["without an id"] = first
    found["described then"] = described(bootstrap, name).group_state
    member = join(bootstrap, name, first.member_id)
    found["joined"] = member
    found["before the sync"] = described(bootstrap, name), heartbeat(bootstrap, name, member.member_id, 1)
    found["synced"] = sync(bootstrap, name, member.member_id, 1, {member.member_id: assignment(name, 0)})
    found["synced again"] = sync(bootstrap, name, member.member_id, 1)
    found["described"] = described(bootstrap, name)
    found["listed"] = listed(bootstrap, name)
    found["heartbeat"] = heartbeat(bootstrap, name, member.member_id, 1)
    found["left"] = leave(bootstrap, name, member.member_id)
    found["left again"] = leave(bootstrap, name, member.member_id)
    found["in the end"] = described(bootstrap, name), listed(bootstrap, name)
    return found


@short_scenario
def joins_that_are_refused(bootstrap: str) -> Any:
    """JoinGroup with odd arguments."""
    name = "joins_that_are_refused"
    create(bootstrap, name)
    coordinated(bootstrap, name)
    stable(bootstrap, f"{name}.other", session_ms=30_000, rebalance_ms=500)
    return {
        "5 s": join(bootstrap, name, session_ms=5_999).error_code,
        "6 s": join(bootstrap, name, session_ms=6_000).error_code,
        "30 min": join(bootstrap, name, session_ms=1_800_000).error_code,
        "more": join(bootstrap, name, session_ms=1_800_001).error_code,
        "no group": join(bootstrap, "").error_code,
        "an unknown member": join(bootstrap, name, "nobody").error_code,
        "no protocols": join(bootstrap, name, protocols={}).error_code,
        "no type": join(bootstrap, name, kind="").error_code,
        "another type": join(bootstrap, f"{name}.other", kind="connect").error_code,
        "another protocol": join(bootstrap, f"{name}.other", protocols={"sticky": b""}).error_code,
    }


@short_scenario
def stale_members(bootstrap: str) -> Any:
    """Heartbeat, sync, commit and leave of members and generations that are not."""
    name = "stale_members"
    create(bootstrap, name)
    member = stable(bootstrap, name, session_ms=30_000)
    own = member.member_id
    return {
        "heartbeat of nobody": heartbeat(bootstrap, name, "nobody", 1),
        "heartbeat of before": heartbeat(bootstrap, name, own, 0),
        "heartbeat of later": heartbeat(bootstrap, name, own, 2),
        "heartbeat of no group": heartbeat(bootstrap, f"{name}.2", own, 1),
        "heartbeat of an empty name": heartbeat(bootstrap, "", own, 1),
        "sync of nobody": sync(bootstrap, name, "nobody", 1).error_code,
        "sync of before": sync(bootstrap, name, own, 0).error_code,
        "sync of another type": sync(bootstrap, name, own, 1, kind="connect").error_code,
        "sync of another protocol": sync(bootstrap, name, own, 1, name="sticky").error_code,
        "sync of no group": sync(bootstrap, f"{name}.2", own, 1).error_code,
        "commit": commit(bootstrap, name, name, 5, member=own, epoch=1),
        "commit of before": commit(bootstrap, name, name, 5, member=own, epoch=0),
        "commit of nobody": commit(bootstrap, name, name, 5, member="nobody", epoch=1),
        "commit without a member": commit(bootstrap, name, name, 5),
        "commit of another group": commit(bootstrap, f"{name}.2", name, 5, member=own, epoch=1),
        "leave of nobody": leave(bootstrap, name, "nobody"),
        "leave of no group": leave(bootstrap, f"{name}.2", own),
        "group": described(bootstrap, name).group_state,
    }


@short_scenario
def two_classic_members(bootstrap: str) -> Any:
    """A second member: the barrier, generations, who leads; a member that leaves, and one whose session ends."""
    name = "two_classic_members"
    create(bootstrap, name, 2)
    first = stable(bootstrap, name, session_ms=6_000)
    found: dict[str, Any] = {}
    with ThreadPoolExecutor(2) as pool:
        newcomer = join(bootstrap, name, session_ms=6_000)
        ids = [first.member_id, newcomer.member_id]
        found["members"] = [{"member_id": each} for each in ids]
        other = pool.submit(join, bootstrap, name, newcomer.member_id, session_ms=6_000)
        found["told"] = until(
            lambda: code if (code := heartbeat(bootstrap, name, first.member_id, 1)) != "NONE" else None
        )
        found["while it joins"] = described(bootstrap, name, order=ids)
        found["commit meanwhile"] = commit(bootstrap, name, name, 3, member=first.member_id, epoch=1)
        again = join(bootstrap, name, first.member_id, session_ms=6_000)
        second = other.result()
        again.members = sorted(again.members, key=lambda each: each.member_id != first.member_id)
        found["joined"] = again, second
        waiting = pool.submit(sync, bootstrap, name, second.member_id, 2)
        time.sleep(0.3)
        found["while it syncs"] = described(bootstrap, name).group_state
        found["commit then"] = commit(bootstrap, name, name, 4, member=first.member_id, epoch=2)
        parts = {first.member_id: assignment(name, 0), second.member_id: assignment(name, 1)}
        found["synced"] = sync(bootstrap, name, first.member_id, 2, parts), waiting.result()
    found["stable"] = described(bootstrap, name, order=ids)
    found["left"] = leave(bootstrap, name, second.member_id)
    found["told again"] = until(
        lambda: code if (code := heartbeat(bootstrap, name, first.member_id, 2)) != "NONE" else None
    )
    last = join(bootstrap, name, first.member_id, session_ms=6_000)
    found["alone"] = last
    sync(bootstrap, name, first.member_id, 3, {first.member_id: assignment(name, 0, 1)})
    found["silent"] = until(lambda: (now := described(bootstrap, name)).group_state == "Empty" and now, 60)
    found["heartbeat too late"] = heartbeat(bootstrap, name, first.member_id, 3)
    return found


@short_scenario
def static_members(bootstrap: str) -> Any:
    """A static member that comes again keeps its place, and the process before it is fenced."""
    name = "static_members"
    create(bootstrap, name)
    coordinated(bootstrap, name)
    first = joined(bootstrap, name, instance="i", session_ms=30_000)
    found: dict[str, Any] = {"first": first}
    found["synced"] = sync(bootstrap, name, first.member_id, 1, {first.member_id: assignment(name, 0)}, instance="i")
    second = join(bootstrap, name, instance="i", session_ms=30_000)
    second.members = []
    found["again"] = second, second.member_id != first.member_id
    found["its sync"] = sync(bootstrap, name, second.member_id, second.generation_id, instance="i")
    found["the old one"] = {
        "heartbeat": heartbeat(bootstrap, name, first.member_id, 1, "i"),
        "sync": sync(bootstrap, name, first.member_id, 1, instance="i").error_code,
        "join": join(bootstrap, name, first.member_id, instance="i").error_code,
        "leave": leave(bootstrap, name, first.member_id, instance="i"),
    }
    found["described"] = described(bootstrap, name)
    found["left by its instance"] = leave(bootstrap, name, "", instance="i")
    found["an unknown instance"] = leave(bootstrap, name, "", instance="j")
    found["in the end"] = described(bootstrap, name).group_state
    return found


@scenario
def join_by_version(bootstrap: str) -> Any:
    """JoinGroup and SyncGroup in each version."""
    found = {}
    for version in (0, 1, 2, 3, 4, 5, 6, 7, 9):
        name = f"join_by_version.{version}"
        coordinated(bootstrap, name)
        member = joined(bootstrap, name, version=version)
        sync_version = {0: 0, 1: 1, 2: 1, 3: 2, 4: 2, 5: 3, 6: 4}.get(version, 5)
        found[version] = (
            member,
            sync(
                bootstrap, name, member.member_id, member.generation_id, {member.member_id: b"x"}, version=sync_version
            ),
        )
        leave(bootstrap, name, member.member_id)
    return found


@scenario
def other_kinds_of_groups(bootstrap: str) -> Any:
    """Any protocol type and any bytes: Connect and Streams have their own."""
    name = "other_kinds_of_groups"
    coordinated(bootstrap, name)
    given = {"kind": "connect", "protocols": {"compatible": b"\xff\0", "default": b""}}
    member = joined(bootstrap, name, **given)
    synced = sync(
        bootstrap, name, member.member_id, 1, {member.member_id: b"\x01\x02"}, kind="connect", name="compatible"
    )
    return {
        "joined": member, "synced": synced, "described": described(bootstrap, name), "listed": listed(bootstrap, name),
        "by type": listed(bootstrap, name, types_filter=["classic"]),
    }  # fmt: skip


# -- offsets ---------------------------------------------------------------------------------------------


@short_scenario
def offsets_of_groups(bootstrap: str) -> Any:
    """OffsetCommit and OffsetFetch of a group without members: of unknown groups and topics, with metadata, in all versions."""
    name = "offsets_of_groups"
    create(bootstrap, name, 3)
    coordinated(bootstrap, name)
    asked = [{"name": name, "partition_indexes": [0, 1, 7]}, {"name": f"{name}.2", "partition_indexes": [0]}]
    found: dict[str, Any] = {
        "unknown group": committed(bootstrap, name, asked),
        "unknown group, all": committed(bootstrap, name),
        "empty name": committed(bootstrap, "", asked).error_code,
        "committed": commit(bootstrap, name, name, 5),
        "4095": commit(bootstrap, name, name, 6, partition=1, committed_metadata="m" * 4095),
        "4096": commit(bootstrap, name, name, 7, partition=1, committed_metadata="m" * 4096),
        "4097": commit(bootstrap, name, name, 8, partition=1, committed_metadata="m" * 4097),
        "4096 bytes": commit(bootstrap, name, name, 8, partition=1, committed_metadata="ü" * 2048 + "m"),
        "leader epoch": commit(bootstrap, name, name, 9, partition=2, committed_leader_epoch=3),
        "past the end": commit(bootstrap, name, name, 1 << 40, partition=2, committed_leader_epoch=3),
        "negative": commit(bootstrap, name, name, -1, partition=2),
        "no topic": commit(bootstrap, name, f"{name}.2", 5),
        "no partition": commit(bootstrap, name, name, 5, partition=7),
        "as a member": commit(bootstrap, name, name, 5, member="m", epoch=1),
        "with a generation": commit(bootstrap, name, name, 5, epoch=4),
        "empty group name": commit(bootstrap, "", name, 5),
        "null metadata": commit(bootstrap, name, name, 5, committed_metadata=None),
    }
    answer = committed(bootstrap, name, asked)
    for each in answer.topics[0].partitions:
        each.metadata = len(each.metadata)
    found["fetched"] = answer
    found["all"] = sorted(each.partition_index for each in committed(bootstrap, name).topics[0].partitions)
    found["by version"] = {
        version: ask(
            bootstrap, "OffsetFetch", version, group_id=name, topics=[{"name": name, "partition_indexes": [0, 7]}]
        )
        for version in (1, 2, 3, 5, 7)
    }
    found["group"] = described(bootstrap, name), listed(bootstrap, name)
    return found


@scenario
def offsets_by_topic_id(bootstrap: str) -> Any:
    """Version 10 of OffsetCommit and OffsetFetch has ids in place of names."""
    name = "offsets_by_topic_id"
    create(bootstrap, name)
    coordinated(bootstrap, name)
    known = topic_id(bootstrap, name)
    return {
        "commit": commit(bootstrap, name, name, 4, version=10),
        "fetch": committed(bootstrap, name, [{"topic_id": known, "partition_indexes": [0, 5]}], version=10),
        "unknown": committed(bootstrap, name, [{"topic_id": b"q" * 16, "partition_indexes": [0]}], version=10),
        "all": committed(bootstrap, name, None, version=10),
        "commit to an unknown one": ask(
            bootstrap, "OffsetCommit", 10, group_id=name, generation_id_or_member_epoch=-1,
            topics=[{"topic_id": b"q" * 16, "partitions": [{"partition_index": 0, "committed_offset": 1}]}],
        ),
    }  # fmt: skip


@short_scenario
def deleting_groups(bootstrap: str) -> Any:
    """DeleteGroups and OffsetDelete: of groups with members, without, and that are not there."""
    name = "deleting_groups"
    create(bootstrap, name, 2)
    create(bootstrap, f"{name}.other")
    member = stable(bootstrap, name, session_ms=30_000)
    commit(bootstrap, name, name, 5, member=member.member_id, epoch=1)
    commit(bootstrap, name, f"{name}.other", 5, member=member.member_id, epoch=1)

    def delete(*groups: str) -> Any:
        return ask(bootstrap, "DeleteGroups", 2, groups_names=list(groups)).results

    def delete_offsets(group: str, topic: str = name, partition: int = 0) -> Any:
        return ask(
            bootstrap, "OffsetDelete", 0, group_id=group,
            topics=[{"name": topic, "partitions": [{"partition_index": partition}]}],
        )  # fmt: skip

    found: dict[str, Any] = {
        "with a member": delete(name), "not there": delete(f"{name}.2"),
        "offsets that are read": delete_offsets(name),
        "offsets of another topic": delete_offsets(name, f"{name}.other"),
        "offsets of no topic": delete_offsets(name, f"{name}.none"),
        "offsets of no group": delete_offsets(f"{name}.2"),
    }  # fmt: skip
    leave(bootstrap, name, member.member_id)
    found["empty: offsets"] = delete_offsets(name)
    found["empty: offsets never committed"] = delete_offsets(name, partition=1)
    found["left of it"] = committed(bootstrap, name)
    commit(bootstrap, name, name, 9)
    found["deleted"] = delete(name)
    found["afterwards"] = described(bootstrap, name), committed(bootstrap, name), delete(name)
    return found


@short_scenario
def lists_of_groups(bootstrap: str) -> Any:
    """ListGroups by state and by type."""
    name = "lists_of_groups"
    create(bootstrap, f"{name}.a")
    create(bootstrap, f"{name}.b")
    member = stable(bootstrap, f"{name}.a", session_ms=60_000)
    coordinated(bootstrap, f"{name}.b")
    commit(bootstrap, f"{name}.b", f"{name}.b", 1)
    modern = beat(bootstrap, f"{name}.c", "m-c", 0, f"{name}.a")
    return {
        "all": listed(bootstrap, name),
        "stable": listed(bootstrap, name, states_filter=["Stable"]),
        "lower case": listed(bootstrap, name, states_filter=["stable"]),
        "empty": listed(bootstrap, name, states_filter=["Empty"]),
        "no such state": listed(bootstrap, name, states_filter=["Open"]),
        "classic": listed(bootstrap, name, types_filter=["classic"]),
        "consumer": listed(bootstrap, name, types_filter=["Consumer"]),
        "share": listed(bootstrap, name, types_filter=["share"]),
        "older": listed(bootstrap, name, 4),
        "oldest": listed(bootstrap, name, 0),
        "modern": modern.error_code,
        "left": leave(bootstrap, f"{name}.a", member.member_id).error_code,
    }


# -- KIP-848 ---------------------------------------------------------------------------------------------


def beat(
    bootstrap: str, group: str, member: str, epoch: int, topic: str | None = None, *, owned: Any = (), version: int = 1,
    assignor: str | None = None, instance: str | None = None, rebalance_ms: int = 10_000, regex: str | None = None,
) -> Any:  # fmt: skip
    """A ConsumerGroupHeartbeat; with a topic it says all that a joining member says."""
    said: dict[str, Any] = {"subscribed_topic_names": None, "topic_partitions": None}
    if topic is not None or epoch == 0:
        said = {
            "subscribed_topic_names": [topic] if topic else [], "rebalance_timeout_ms": rebalance_ms,
            "topic_partitions": list(owned),
        }  # fmt: skip
    elif owned != ():
        said["topic_partitions"] = owned
    if regex is not None:
        said["subscribed_topic_regex"] = regex
    if assignor is not None:
        said["server_assignor"] = assignor
    answer = ask(
        bootstrap, "ConsumerGroupHeartbeat", version, group_id=group, member_id=member, member_epoch=epoch,
        instance_id=instance, **said,
    )  # fmt: skip
    answer.heartbeat_interval_ms = 0  # `heartbeat_interval` compares it
    return answer


def described_modern(bootstrap: str, group: str) -> Any:
    (answer,) = ask(bootstrap, "ConsumerGroupDescribe", 1, group_ids=[group]).groups
    answer.members = sorted(answer.members, key=lambda each: each.member_id)
    return answer


def partitions_of(answer: Any) -> Any:
    """The numbers of the partitions in the assignment of a heartbeat's answer; None if it has none."""
    if answer.assignment is None:
        return None
    return sorted(number for each in answer.assignment.topic_partitions for number in each.partitions)


@scenario
def heartbeat_interval(bootstrap: str) -> Any:
    """How often a member of KIP-848 is to send a heartbeat."""
    name = "heartbeat_interval"
    create(bootstrap, name)
    coordinated(bootstrap, name)
    return ask(
        bootstrap, "ConsumerGroupHeartbeat", 1, group_id=name, member_id="m", member_epoch=0, rebalance_timeout_ms=1000,
        subscribed_topic_names=[name], topic_partitions=[],
    ).heartbeat_interval_ms  # fmt: skip


@short_scenario
def a_modern_member(bootstrap: str) -> Any:
    """One member of KIP-848: its heartbeats, described, listed, its commits, how it leaves."""
    name = "a_modern_member"
    create(bootstrap, name, 2)
    coordinated(bootstrap, name)
    found: dict[str, Any] = {"not there": described_modern(bootstrap, name)}
    first = beat(bootstrap, name, "m1", 0, name)
    found["joined"] = first
    epoch = first.member_epoch
    known = topic_id(bootstrap, name)
    owned = [{"topic_id": known, "partitions": [0, 1]}]
    found["confirmed"] = beat(bootstrap, name, "m1", epoch, owned=owned)
    found["nothing new"] = beat(bootstrap, name, "m1", epoch)
    found["described"] = described_modern(bootstrap, name)
    found["as a classic one"] = described(bootstrap, name)
    found["listed"] = listed(bootstrap, name)
    found["commits"] = {
        "its own": commit(bootstrap, name, name, 5, member="m1", epoch=epoch, version=9),
        "older epoch": commit(bootstrap, name, name, 6, member="m1", epoch=epoch - 1, version=9),
        "newer epoch": commit(bootstrap, name, name, 6, member="m1", epoch=epoch + 1, version=9),
        "nobody": commit(bootstrap, name, name, 6, member="m2", epoch=epoch, version=9),
        "without a member": commit(bootstrap, name, name, 6, version=9),
        "in an old version": commit(bootstrap, name, name, 6, member="m1", epoch=epoch - 1, version=8),
    }
    asked = [{"name": name, "partition_indexes": [0]}]
    found["fetches"] = {
        "its own": committed(bootstrap, name, asked, version=9, member_id="m1", member_epoch=epoch),
        "older epoch": committed(bootstrap, name, asked, version=9, member_id="m1", member_epoch=epoch - 1).error_code,
        "nobody": committed(bootstrap, name, asked, version=9, member_id="m2", member_epoch=epoch).error_code,
        "without a member": committed(bootstrap, name, asked, version=9),
    }
    found["left"] = beat(bootstrap, name, "m1", -1)
    found["in the end"] = described_modern(bootstrap, name), listed(bootstrap, name)
    return found


def _advanced(bootstrap: str, group: str, epoch: int, topic: str) -> int | None:
    """The next epoch of m1, once it has subscribed to this topic."""
    answer = beat(bootstrap, group, "m1", epoch, topic)
    assert answer.error_code == 0, error_name(answer.error_code)
    return int(answer.member_epoch) if answer.member_epoch > epoch else None


@short_scenario
def heartbeats_that_are_refused(bootstrap: str) -> Any:
    """ConsumerGroupHeartbeat with odd arguments, of members and epochs that are not."""
    name = "heartbeats_that_are_refused"
    create(bootstrap, name)
    coordinated(bootstrap, name)
    create(bootstrap, f"{name}.more")
    member = beat(bootstrap, name, "m1", 0, name)
    epoch = member.member_epoch
    for topic in (f"{name}.more", name):  # each subscription has another epoch
        epoch = until(partial(_advanced, bootstrap, name, epoch, topic))

    def refused(**given: Any) -> str:
        fields: dict[str, Any] = {
            "group_id": name, "member_id": "m9", "member_epoch": 0, "rebalance_timeout_ms": 1000,
            "subscribed_topic_names": [name], "topic_partitions": [], **given,
        }  # fmt: skip
        return error_name(ask(bootstrap, "ConsumerGroupHeartbeat", 1, **fields).error_code)

    return {
        "empty group": refused(group_id=""),
        "empty member": refused(member_id=""),
        "epoch -3": refused(member_epoch=-3),
        "no topics": refused(subscribed_topic_names=None),
        "no partitions owned": refused(topic_partitions=None),
        "no time-out": refused(rebalance_timeout_ms=-1),
        "an empty instance": refused(instance_id=""),
        "an empty rack": refused(rack_id=""),
        "an unknown assignor": refused(server_assignor="mine"),
        "an empty assignor": refused(server_assignor=""),
        "owns while it joins": refused(topic_partitions=[{"topic_id": b"q" * 16, "partitions": [0]}]),
        "an odd regex": refused(subscribed_topic_regex="(", subscribed_topic_names=None),
        "an unknown member": error_name(beat(bootstrap, name, "m2", 3).error_code),
        "an older epoch": error_name(beat(bootstrap, name, "m1", epoch - 2).error_code),
        "a newer epoch": error_name(beat(bootstrap, name, "m1", epoch + 1).error_code),
        "an unknown member leaves": beat(bootstrap, name, "m2", -1),
        "a group that is not there": error_name(beat(bootstrap, f"{name}.2", "m1", 2).error_code),
        "range": refused(server_assignor="range", member_id="m3"),
    }


@short_scenario
def two_modern_members(bootstrap: str) -> Any:
    """A second member of KIP-848 gets partitions once the first has released them; one leaves, and one is fenced."""
    name = "two_modern_members"
    create(bootstrap, name, 4)
    coordinated(bootstrap, name)
    known = topic_id(bootstrap, name)

    def owned(*numbers: int) -> Any:
        return [{"topic_id": known, "partitions": list(numbers)}] if numbers else []

    first = beat(bootstrap, name, "m1", 0, name)
    found: dict[str, Any] = {"first": (first.member_epoch, partitions_of(first))}
    second = beat(bootstrap, name, "m2", 0, name)
    found["second"] = second.member_epoch, partitions_of(second)
    told = until(lambda: answer if (answer := beat(bootstrap, name, "m1", first.member_epoch, owned=owned(0, 1, 2, 3))).assignment else None)  # fmt: skip
    kept = partitions_of(told)
    found["first is told"] = told.member_epoch, len(kept)
    found["described meanwhile"] = described_modern(bootstrap, name).group_state
    released = beat(bootstrap, name, "m1", told.member_epoch, owned=owned(*kept))
    found["first has released"] = released.member_epoch, partitions_of(released)
    given = until(
        lambda: answer if (answer := beat(bootstrap, name, "m2", second.member_epoch)).assignment and partitions_of(answer) else None
    )  # fmt: skip
    found["second gets them"] = given.member_epoch, len(partitions_of(given)), not set(partitions_of(given)) & set(kept)
    found["stable"] = until(lambda: described_modern(bootstrap, name).group_state == "Stable")
    found["left"] = beat(bootstrap, name, "m2", -1)
    last = until(lambda: answer if (answer := beat(bootstrap, name, "m1", released.member_epoch, owned=owned(*kept))).assignment else None)  # fmt: skip
    found["first has all"] = last.member_epoch, partitions_of(last)
    found["its old epoch"] = beat(bootstrap, name, "m1", released.member_epoch - 1).error_code
    return found


@short_scenario
def static_modern_members(bootstrap: str) -> Any:
    """A static member of KIP-848 leaves for a while, and comes again with another id."""
    name = "static_modern_members"
    create(bootstrap, name)
    coordinated(bootstrap, name)
    first = beat(bootstrap, name, "m1", 0, name, instance="i")
    found: dict[str, Any] = {
        "first": first,
        "a second one meanwhile": beat(bootstrap, name, "m2", 0, name, instance="i"),
        "leaves for a while": beat(bootstrap, name, "m1", -2, instance="i"),
    }
    found["described"] = described_modern(bootstrap, name)
    found["comes again"] = beat(bootstrap, name, "m3", 0, name, instance="i")
    found["the old one"] = beat(bootstrap, name, "m1", 1, instance="i").error_code
    found["without an instance"] = beat(bootstrap, name, "m4", -2).error_code
    return found


@short_scenario
def regular_expressions(bootstrap: str) -> Any:
    """A member of KIP-848 that subscribes by a pattern, which the coordinator evaluates."""
    name = "regular_expressions"
    create(bootstrap, f"{name}.a", 1)
    create(bootstrap, f"{name}.b", 2)
    create(bootstrap, f"x{name}.c", 4)
    coordinated(bootstrap, name)

    def count() -> int:
        answer = beat(bootstrap, name, "m", 0, "", regex=f"{name}\\..*")
        return len(partitions_of(answer) or ())

    until(lambda: count() == 3)
    member = described_modern(bootstrap, name).members[0]
    return {
        "pattern": member.subscribed_topic_regex,
        "names": list(member.subscribed_topic_names),
        "assigned": sorted((each.topic_name, tuple(each.partitions)) for each in member.assignment.topic_partitions),
    }


@short_scenario
def mixed_groups(bootstrap: str) -> Any:
    """A classic group becomes one of KIP-848 when such a member comes, and a classic one when the last has left."""
    name = "mixed_groups"
    create(bootstrap, name, 2)
    classic = stable(bootstrap, name, (0, 1), session_ms=45_000)
    found: dict[str, Any] = {"classic": listed(bootstrap, name)}
    modern = beat(bootstrap, name, "m1", 0, name)
    found["modern"] = modern.error_code, partitions_of(modern)
    found["mixed"] = listed(bootstrap, name)
    found["types"] = sorted(each.member_type for each in described_modern(bootstrap, name).members)
    found["told"] = until(
        lambda: code if (code := heartbeat(bootstrap, name, classic.member_id, 1)) != "NONE" else None
    )
    again = join(bootstrap, name, classic.member_id, session_ms=45_000)
    found["joined"] = again.error_code, again.protocol_name, again.leader == classic.member_id
    generation, epoch = again.generation_id, modern.member_epoch
    found["synced"] = sync(bootstrap, name, classic.member_id, generation).error_code

    def shared() -> Any:
        """Both do what they are told, until the new member has its partition."""
        nonlocal generation, epoch
        if heartbeat(bootstrap, name, classic.member_id, generation) == "REBALANCE_IN_PROGRESS":
            generation = join(bootstrap, name, classic.member_id, session_ms=45_000).generation_id
            sync(bootstrap, name, classic.member_id, generation)
        answer = beat(bootstrap, name, "m1", epoch)
        assert answer.error_code == 0, error_name(answer.error_code)
        epoch = answer.member_epoch
        return partitions_of(answer)

    until(shared)
    found["both have one"] = sorted(
        sum(len(each.partitions) for each in member.assignment.topic_partitions)
        for member in described_modern(bootstrap, name).members
    )
    found["leaves"] = beat(bootstrap, name, "m1", -1).error_code
    found["then"] = until(lambda: (now := listed(bootstrap, name))[0].group_type == "classic" and now)[0].group_type
    found["told again"] = until(
        lambda: code if (code := heartbeat(bootstrap, name, classic.member_id, generation)) != "NONE" else None
    )
    last = join(bootstrap, name, classic.member_id, session_ms=45_000)
    found["classic again"] = last.error_code, last.generation_id > generation, last.leader == classic.member_id
    return found


@scenario
def mixed_with_an_unknown_protocol(bootstrap: str) -> Any:
    """A member of KIP-848 cannot enter a classic group of another type, or while its assignor says nothing to the coordinator."""
    name = "mixed_with_an_unknown_protocol"
    create(bootstrap, name)
    coordinated(bootstrap, f"{name}.connect")
    joined(bootstrap, f"{name}.connect", kind="connect", protocols={"default": b""}, session_ms=30_000)
    coordinated(bootstrap, f"{name}.own")
    joined(bootstrap, f"{name}.own", protocols={"own": b"\xff\xff\xff"}, session_ms=30_000)
    return {
        "another type": error_name(beat(bootstrap, f"{name}.connect", "m", 0, name).error_code),
        "bytes of its own": error_name(beat(bootstrap, f"{name}.own", "m", 0, name).error_code),
    }


@scenario
def classic_into_modern(bootstrap: str) -> Any:
    """A classic member enters a group of KIP-848, if it speaks `consumer`."""
    name = "classic_into_modern"
    create(bootstrap, name, 2)
    coordinated(bootstrap, name)
    beat(bootstrap, name, "m1", 0, name)
    refused = join(bootstrap, name, kind="connect", protocols={"default": b""})
    entered = joined(bootstrap, name, session_ms=45_000)
    return {
        "another type": error_name(refused.error_code),
        "entered": (error_name(entered.error_code), entered.protocol_name, entered.leader == entered.member_id),
        "types": sorted(each.member_type for each in described_modern(bootstrap, name).members),
        "group": [each.group_type for each in listed(bootstrap, name)],
    }


@scenario
def coordinators(bootstrap: str) -> Any:
    """FindCoordinator of groups, transactions, several, and of what has none."""
    name = "coordinators"
    found: dict[str, Any] = {}
    for kind in (0, 1):
        answer = find_coordinator(bootstrap, name, kind)
        found[f"kind {kind}"] = answer
    find_coordinator(bootstrap, f"{name}.2")
    found["several"] = ask(bootstrap, "FindCoordinator", 4, key_type=0, coordinator_keys=[name, f"{name}.2"])
    found["older"] = ask(bootstrap, "FindCoordinator", 2, key_type=0, key=name)
    found["oldest"] = ask(bootstrap, "FindCoordinator", 0, key=name)
    found["no such kind"] = ask(bootstrap, "FindCoordinator", 4, key_type=7, coordinator_keys=[name]).coordinators
    found["empty"] = ask(bootstrap, "FindCoordinator", 4, key_type=0, coordinator_keys=[""]).coordinators
    return found


@scenario
def committing_while_others_read(bootstrap: str) -> Any:
    """Commits of many threads at once: each is kept."""
    name = "committing_while_others_read"
    create(bootstrap, name, 8)
    coordinated(bootstrap, name)
    threads = [
        threading.Thread(target=commit, args=(bootstrap, name, name, 10 + each), kwargs={"partition": each})
        for each in range(8)
    ]
    for each in threads:
        each.start()
    for each in threads:
        each.join(WAIT_S)
    answer = committed(bootstrap, name, [{"name": name, "partition_indexes": list(range(8))}])
    return [each.committed_offset for each in answer.topics[0].partitions]
