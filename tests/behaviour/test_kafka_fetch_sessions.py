"""Fetch sessions (KIP-227): a client says what has changed, and is told what has changed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

import streamlog
from streamlog.kafka import Listener, messages
from streamlog.kafka.errors import ErrorCode
from tests.kafka.clients import asked
from tests.kafka.fixtures import listener_of_log

listener = listener_of_log

Request = messages.FetchRequest


@pytest.fixture
def log() -> Iterator[streamlog.StreamLog]:
    with streamlog.open() as log:
        log.create_topic("t", partitions=3)
        yield log


def topic_of(version: int, log: streamlog.StreamLog) -> dict[str, Any]:
    return {"topic_id": log["t"].id.bytes} if version >= 13 else {"topic": "t"}


class Client:
    """What a client keeps of its session: `fetch` gives the partitions that an answer has, with how many bytes came of each."""

    def __init__(self, log: streamlog.StreamLog, listener: Listener, version: int) -> None:
        self._log, self._listener, self._version = log, listener, version
        self.session_id = self.epoch = 0

    def ask(self, offsets: dict[int, int], forgotten: tuple[int, ...] = ()) -> Any:
        named = topic_of(self._version, self._log)
        partitions = [
            Request.FetchPartition(partition=number, fetch_offset=offset, partition_max_bytes=10_000)
            for number, offset in offsets.items()
        ]
        request = Request(
            max_wait_ms=0,
            min_bytes=1,
            max_bytes=100_000,
            session_id=self.session_id,
            session_epoch=self.epoch,
            topics=[Request.FetchTopic(**named, partitions=partitions)] if partitions else [],
            forgotten_topics_data=[Request.ForgottenTopic(**named, partitions=list(forgotten))] if forgotten else [],
        )
        return asked(self._listener, 1, self._version, request)

    def fetch(self, offsets: dict[int, int], forgotten: tuple[int, ...] = ()) -> dict[int, int]:
        answer = self.ask(offsets, forgotten)
        assert answer.error_code == ErrorCode.NONE
        self.session_id = answer.session_id
        self.epoch += 1
        return {
            each.partition_index: len(each.records or b"") for topic in answer.responses for each in topic.partitions
        }


@pytest.fixture(params=[7, 12, 17])
def client(request: pytest.FixtureRequest, log: streamlog.StreamLog, listener: Listener) -> Client:
    return Client(log, listener, request.param)


def test_only_what_has_changed_is_said(log: streamlog.StreamLog, client: Client) -> None:
    assert client.fetch({0: 0, 1: 0, 2: 0}) == {0: 0, 1: 0, 2: 0}
    assert client.session_id
    assert client.fetch({}) == {}
    log["t"].send(b"a", partition=1).result()
    answer = client.fetch({})
    assert list(answer) == [1]
    assert answer[1] > 0
    assert client.fetch({1: 1}) == {}
    log["t"].delete_records({1: 1})
    assert client.fetch({}) == {1: 0}  # its log start has moved
    assert client.fetch({}) == {}


def test_a_partition_that_is_forgotten_is_not_read_any_more(log: streamlog.StreamLog, client: Client) -> None:
    client.fetch({0: 0, 1: 0})
    assert client.fetch({}, forgotten=(1,)) == {}
    log["t"].send(b"a", partition=1).result()
    log["t"].send(b"b", partition=0).result()
    assert list(client.fetch({})) == [0]
    assert set(client.fetch({2: 0})) == {0, 2}


def test_an_error_of_a_partition_is_said_each_time(client: Client) -> None:
    client.fetch({0: 0, 7: 0})
    answer = client.ask({})
    (topic,) = answer.responses
    assert [(each.partition_index, each.error_code) for each in topic.partitions] == [
        (7, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION)
    ]


def test_a_session_that_is_gone_or_out_of_step_is_refused(client: Client) -> None:
    client.fetch({0: 0})
    client.epoch += 1
    assert client.ask({}).error_code == ErrorCode.INVALID_FETCH_SESSION_EPOCH
    client.epoch = -1
    answer = client.ask({0: 0})
    assert (answer.error_code, answer.session_id) == (ErrorCode.NONE, 0)
    client.epoch = 2
    assert client.ask({}).error_code == ErrorCode.FETCH_SESSION_ID_NOT_FOUND


def test_the_session_that_was_used_least_recently_gives_way(
    log: streamlog.StreamLog, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamlog.kafka.fetch.MAX_SESSIONS", 2)
    one, two, three = (Client(log, listener, 12) for _ in range(3))
    for each in one, two:
        each.fetch({0: 0})
    one.fetch({})
    three.fetch({0: 0})
    assert two.ask({}).error_code == ErrorCode.FETCH_SESSION_ID_NOT_FOUND
    assert one.fetch({}) == three.fetch({}) == {}


@pytest.mark.parametrize("grows", [False, True])
def test_sessions_give_way_where_all_have_too_many_partitions_together(
    log: streamlog.StreamLog, listener: Listener, monkeypatch: pytest.MonkeyPatch, grows: bool
) -> None:
    monkeypatch.setattr("streamlog.kafka.fetch.MAX_KEPT_PARTITIONS", 4)
    one, two, three = (Client(log, listener, 12) for _ in range(3))
    one.fetch({0: 0, 1: 0})
    two.fetch({0: 0})
    if grows:
        two.fetch({1: 0, 2: 0})
    else:
        three.fetch({0: 0, 1: 0})
    assert one.ask({}).error_code == ErrorCode.FETCH_SESSION_ID_NOT_FOUND
    assert two.fetch({}) == {}
    one.epoch = 0
    one.fetch({0: 0})


def test_a_session_that_gets_too_many_partitions_ends(
    log: streamlog.StreamLog, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a client could have the listener keep names of topics without end. Its next request is one without a session."""
    monkeypatch.setattr("streamlog.kafka.fetch.MAX_SESSION_PARTITIONS", 2)
    client = Client(log, listener, 12)
    client.fetch({0: 0, 1: 0})
    assert client.fetch({0: 0, 1: 0}) == {}, "partitions that it has do not count twice"
    assert client.ask({2: 0}).error_code == ErrorCode.FETCH_SESSION_ID_NOT_FOUND
    assert client.ask({}).error_code == ErrorCode.FETCH_SESSION_ID_NOT_FOUND
    client.epoch = 0
    assert set(client.fetch({0: 0, 1: 0, 2: 0})) == {0, 1, 2}
    assert client.session_id == 0


def test_a_session_by_names_does_not_go_on_by_ids(log: streamlog.StreamLog, listener: Listener) -> None:
    client = Client(log, listener, 12)
    client.fetch({0: 0})
    client._version = 17
    assert client.ask({}).error_code == ErrorCode.FETCH_SESSION_TOPIC_ID_ERROR
