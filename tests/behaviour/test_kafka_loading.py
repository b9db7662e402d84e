"""The groups' log is loaded while a listener answers other requests."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import streamlog
from streamlog.broker import group_shard
from streamlog.kafka import Listener, messages
from streamlog.kafka.errors import ErrorCode
from tests.kafka.clients import WAIT_S, asked
from tests.kafka.members import commit, commit_in_transaction, heartbeat, new_producer


class HeldLoading:
    """Loading the groups waits for `go_on`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun, self.go_on = threading.Event(), threading.Event()
        replay = group_shard.replay_groups

        def replay_later(*arguments: Any) -> None:
            self.begun.set()
            self.go_on.wait(WAIT_S)
            replay(*arguments)

        monkeypatch.setattr(group_shard, "replay_groups", replay_later)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Of a log in which group g has committed."""
    with streamlog.open(tmp_path / "log") as log, Listener(log) as listener:
        log.create_topic("t")
        assert commit(listener, "", -1) == ErrorCode.NONE
        new_producer(listener, "x")
    return tmp_path / "log"


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[HeldLoading]:
    loading = HeldLoading(monkeypatch)
    yield loading
    loading.go_on.set()


def committed(listener: Listener) -> int:
    Fetch = messages.OffsetFetchRequest
    wanted = Fetch.OffsetFetchRequestTopics(name="t", partition_indexes=[0])
    group = Fetch.OffsetFetchRequestGroup(group_id="g", topics=[wanted])
    return int(asked(listener, 9, 8, Fetch(groups=[group])).groups[0].topics[0].partitions[0].committed_offset)


def joined(listener: Listener) -> int:
    Join = messages.JoinGroupRequest
    request = Join(group_id="new", session_timeout_ms=10_000, rebalance_timeout_ms=10_000, protocol_type="consumer")
    return int(asked(listener, 11, 9, request).error_code)


def listed(listener: Listener) -> list[str]:
    return [each.group_id for each in asked(listener, 16, 5, messages.ListGroupsRequest()).groups]


def described(listener: Listener) -> str:
    (group,) = asked(listener, 15, 5, messages.DescribeGroupsRequest(groups=["g"])).groups
    return str(group.group_state)


def deleted(listener: Listener) -> int:
    (result,) = asked(listener, 42, 2, messages.DeleteGroupsRequest(groups_names=["none"])).results
    return int(result.error_code)


def committed_in_transaction(listener: Listener) -> int:
    return commit_in_transaction(listener, "x", new_producer(listener, "x"), version=5)


def brokers(listener: Listener) -> int:
    """How many the metadata names, which has nothing to do with groups."""
    return len(asked(listener, 3, 12, messages.MetadataRequest(topics=[])).brokers)


ANSWERS: list[tuple[Callable[[Listener], Any], Any]] = [
    (committed, 0),
    (joined, ErrorCode.INCONSISTENT_GROUP_PROTOCOL),
    (listed, ["g"]),
    (described, "Empty"),
    (deleted, ErrorCode.GROUP_ID_NOT_FOUND),
    (lambda listener: commit(listener, "", -1), ErrorCode.NONE),
    (lambda listener: heartbeat(listener, "m", 0, group="new").error_code, ErrorCode.NONE),
    (committed_in_transaction, ErrorCode.NONE),
]


def test_other_requests_are_answered_while_the_groups_are_loaded(path: Path, held: HeldLoading) -> None:
    with streamlog.open(path) as log, Listener(log) as listener, ThreadPoolExecutor(len(ANSWERS)) as threads:
        try:
            asking = [threads.submit(ask, listener) for ask, _ in ANSWERS]
            assert held.begun.wait(WAIT_S)
            for _ in range(3):
                assert brokers(listener) == 1
                Find = messages.FindCoordinatorRequest  # which needs one of the threads for what blocks
                assert asked(listener, 10, 4, Find(coordinator_keys=["g"])).coordinators[0].error_code == ErrorCode.NONE
            assert not any(each.done() for each in asking)
        finally:
            held.go_on.set()
        assert [each.result() for each in asking] == [answer for _, answer in ANSWERS]


@pytest.mark.parametrize("number", range(len(ANSWERS)))
def test_no_request_has_the_listeners_thread_load_the_groups(
    path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    threads = []
    replay = group_shard.replay_groups

    def noted(*arguments: Any) -> None:
        threads.append(threading.current_thread().name)
        replay(*arguments)

    monkeypatch.setattr(group_shard, "replay_groups", noted)
    with streamlog.open(path) as log, Listener(log) as listener:
        ask, answer = ANSWERS[number]
        log._engine.service.groups.shards[0]._log.interrupted = True  # type: ignore[attr-defined]  # as after Ctrl-C in a request
        assert ask(listener) == answer
    assert threads
    assert not [each for each in threads if each == "streamlog-kafka"]


def test_groups_that_cannot_be_loaded_fail_their_requests_and_no_others(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise streamlog.CorruptRecordError(
            "the groups' log is damaged", topic="__consumer_offsets", partition=0, offset=0
        )

    monkeypatch.setattr(group_shard, "replay_groups", fail)
    with streamlog.open(path) as log, Listener(log) as listener:
        for _ in range(2):
            assert commit(listener, "", -1) != ErrorCode.NONE
        assert brokers(listener) == 1
        monkeypatch.undo()
        assert committed(listener) == 0
