"""Classic groups (JoinGroup, SyncGroup) through the Service: what a listener asks of a log. The time of members is simulated."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

import streamlog
from streamlog.broker.api import ClassicGroupConfig, JoinGroup, JoinGroupResult, MemberIdentity, SyncGroup
from streamlog.errors import (
    ClosedError,
    CoordinatorLoadInProgressError,
    GroupIdNotFoundError,
    GroupNotEmptyError,
    GroupSubscribedToTopicError,
    IllegalGenerationError,
    InvalidSessionTimeoutError,
    ReadOnlyError,
    RebalanceInProgressError,
    UnknownMemberIdError,
    UnstableOffsetCommitError,
)
from streamlog.runtime.api import Completion
from streamlog.runtime.threads import result_of
from streamlog.testing import ManualClock, SimulatedDisk
from streamlog.types import OffsetAndMetadata, TopicPartition
from tests.behaviour.member_time import Liveness

T0, T1 = TopicPartition("t", 0), TopicPartition("t", 1)


class Client:
    """A member as a listener speaks for it."""

    def __init__(self, log: streamlog.StreamLog, name: str) -> None:
        self.service: Any = log._engine.service
        self.name = name
        self.id = ""
        self.joined: JoinGroupResult | None = None

    def join(self, **given: Any) -> Completion[JoinGroupResult]:
        protocols = (("range", b"meta " + self.name.encode()),)
        request = JoinGroup(
            "g", self.id, None, self.name, "/10.0.0.1", "consumer", protocols, 10.0, 60.0, frozenset("t"),
            requires_known_member_id=False,
        )  # fmt: skip
        answer: Completion[JoinGroupResult] = self.service.join_group(request._replace(**given))
        answer.on_done(self._on_joined)
        return answer

    def _on_joined(self, answer: Completion[JoinGroupResult]) -> None:
        if answer.error() is None:
            self.joined = answer.result()
            self.id = self.joined.member_id

    @property
    def generation(self) -> int:
        assert self.joined is not None
        return self.joined.generation_id

    def sync(self) -> Completion[Any]:
        assert self.joined is not None
        ids = [member.member_id for member in self.joined.members]
        parts = [frozenset([T0, T1])] if len(ids) == 1 else [frozenset([T0]), frozenset([T1])]
        request = SyncGroup(
            "g", self.id, None, self.generation, "consumer", "range", {each: each.encode() for each in ids},
            dict(zip(ids, parts, strict=False)),
        )  # fmt: skip
        answer: Completion[Any] = self.service.sync_group(request)
        return answer

    def heartbeat(self) -> Completion[None]:
        answer: Completion[None] = self.service.classic_heartbeat("g", self.id, None, self.generation)
        return answer

    def commit(self, offset: int, generation: int | None = None) -> Completion[None]:
        answer: Completion[None] = self.service.commit(
            "g", self.id, self.generation if generation is None else generation, {T0: OffsetAndMetadata(offset)}
        )
        return answer


def pair(log: streamlog.StreamLog) -> tuple[Client, Client]:
    """A stable group of two, of which the first leads."""
    a, b = Client(log, "a"), Client(log, "b")
    a.join()
    b.join()
    a.join()
    waiting = b.sync()
    assert result_of(a.sync()).assignment == a.id.encode()
    assert result_of(waiting).assignment == b.id.encode()
    return a, b


Open = Callable[..., streamlog.StreamLog]


@pytest.fixture
def reopen() -> Iterator[Open]:
    disk = SimulatedDisk()
    logs: list[streamlog.StreamLog] = []

    def reopened(**options: Any) -> streamlog.StreamLog:
        for log in logs:
            log.close()
        logs[:] = [streamlog.open("/data", disk=disk, clock=ManualClock(start_ms=1_000_000), **options)]
        return logs[0]

    yield reopened
    for log in logs:
        log.close()


@pytest.fixture
def log(reopen: Open) -> streamlog.StreamLog:
    log = reopen()
    log.create_topic("t", partitions=2)
    log["t"].send_many([b"x"] * 8, partition=0)
    return log


def fails(answer: Completion[Any], error: type[Exception]) -> None:
    assert answer.done() and isinstance(answer.error(), error), answer.error()


def run_timers(log: streamlog.StreamLog, time: Liveness) -> None:
    """What the thread of the timers does."""
    service: Any = log._engine.service
    service.real_timers.run_due(int(time.now_s * 1000))


def test_two_clients_share_a_group_and_commit(log: streamlog.StreamLog) -> None:
    a, b = pair(log)
    assert a.heartbeat().error() is None and b.heartbeat().error() is None
    result_of(a.commit(5))
    fails(a.commit(6, generation=a.generation - 1), IllegalGenerationError)
    assert log.group("g").committed() == {T0: 5}
    [described] = [each for each in log.group("g").members() if each.member_id == a.id]
    assert described.assignment == frozenset([T0])
    listed = result_of(a.service.list_groups(types=["classic"]))
    assert listed == [("g", "classic", "consumer", "Stable")]
    refused = result_of(a.service.delete_offsets("g", [T0]))
    assert isinstance(refused[T0], GroupSubscribedToTopicError)
    fails(a.service.delete_group("g"), GroupNotEmptyError)
    assert result_of(a.service.leave_classic_group("g", [MemberIdentity(a.id), MemberIdentity(b.id)])) == [None, None]
    assert log.group("g").committed() == {T0: 5}
    result_of(a.service.delete_group("g"))
    fails(a.service.delete_group("g"), GroupIdNotFoundError)


def test_a_group_goes_on_in_the_next_opening_of_the_log(log: streamlog.StreamLog, reopen: Open) -> None:
    a, b = pair(log)
    log = reopen()
    for client in (a, b):
        client.service = log._engine.service
        assert client.heartbeat().error() is None
    assert result_of(b.sync()).assignment == b.id.encode()
    assert not a.join().done()
    b.join()
    assert b.generation == 3


def test_the_timer_ends_sessions_and_barriers(log: streamlog.StreamLog) -> None:
    time = Liveness(log)
    a, b = pair(log)
    waiting = a.join()
    for _ in range(10):
        run_timers(log, time)
        assert not waiting.done()
        time.pass_ms(6000)
        fails(b.heartbeat(), RebalanceInProgressError)
    time.pass_ms(1)
    run_timers(log, time)
    assert waiting.done()
    assert [member.member_id for member in result_of(waiting).members] == [a.id]
    fails(b.heartbeat(), UnknownMemberIdError)
    time.pass_ms(10_001)
    run_timers(log, time)
    assert result_of(a.service.describe_group("g")).state == "Empty"


def test_a_client_that_is_gone_is_removed_though_no_other_request_comes(log: streamlog.StreamLog) -> None:
    time = Liveness(log)
    pair(log)
    for _ in range(3):
        time.pass_ms(10_001)
        run_timers(log, time)
    assert log._engine.service.real_timers.next_deadline_ms() is None  # type: ignore[attr-defined]


def test_the_initial_delay_and_the_bounds_are_settings_of_the_service(log: streamlog.StreamLog) -> None:
    time = Liveness(log)
    a, b = Client(log, "a"), Client(log, "b")
    a.service.classic_group_config = ClassicGroupConfig(initial_rebalance_delay_ms=100, min_session_timeout_ms=9000)
    waiting = a.join()
    fails(b.join(session_timeout_s=8.0), InvalidSessionTimeoutError)
    b.join()
    for _ in range(2):
        assert not waiting.done()
        time.pass_ms(101)
        run_timers(log, time)
    assert a.generation == b.generation == 1


def test_closing_the_log_ends_the_wait_for_other_members(log: streamlog.StreamLog) -> None:
    a, _b = pair(log)
    waiting = a.join()
    log.close()
    fails(waiting, ClosedError)


def test_a_read_that_is_refused_leaves_those_that_wait_where_they_are(log: streamlog.StreamLog) -> None:
    """The coordinator took the refusal for an interrupt, and loaded all groups of the partition again."""
    a, b = pair(log)
    waiting = a.join()
    assert not waiting.done()
    service: Any = log._engine.service
    with (
        log.producer(transactional_id="x") as producer,
        log.consumer("t", group="other", enable_auto_commit=False) as consumer,
    ):
        consumer.poll(timeout=0)
        producer.begin_transaction()
        producer.send_offsets_to_transaction({T0: 1}, consumer)
        fails(service.committed("other", [T0], require_stable=True), UnstableOffsetCommitError)
        producer.abort_transaction()
    b.join()
    assert waiting.result().generation_id == b.generation


def test_a_group_that_moves_to_another_broker_answers_those_that_wait(tmp_path: Any) -> None:
    with streamlog.open(str(tmp_path / "log"), brokers=2) as log:
        log.create_topic("t", partitions=2)
        a, b = Client(log, "a"), Client(log, "b")
        result_of(a.join())
        result_of(a.sync())
        waiting = b.join()
        service: Any = log._engine.service
        at = service.groups.partition_of("g")
        info = result_of(service.partition_info(at))
        other = next(each for each in info.replicas if each != info.leader)
        result_of(service.elect_leader(at, other))
        fails(waiting, CoordinatorLoadInProgressError)
        # The next coordinator is this process, too: the group is what its log says.
        assert a.heartbeat().error() is None


def test_a_reader_sees_a_classic_group_and_takes_no_part(log: streamlog.StreamLog, reopen: Open) -> None:
    a, _b = pair(log)
    reader = reopen(read_only=True)
    described = result_of(reader._engine.service.describe_group("g"))
    assert (described.state, described.type, len(described.members)) == ("Stable", "classic", 2)
    assert a.id.encode() in [member.assigned for member in described.members]
    fails(Client(reader, "c").join(), ReadOnlyError)


def test_a_request_about_a_group_before_there_is_any_is_of_an_unknown_member(log: streamlog.StreamLog) -> None:
    a = Client(log, "a")
    a.id, a.joined = "a", JoinGroupResult("a", 1, "consumer", "range", "a")
    fails(a.heartbeat(), UnknownMemberIdError)
    fails(a.sync(), UnknownMemberIdError)
    fails(a.join(), UnknownMemberIdError)
    (error,) = result_of(a.service.leave_classic_group("g", [MemberIdentity("a")]))
    assert isinstance(error, UnknownMemberIdError)


def test_a_consumer_of_the_log_and_classic_clients_share_a_group_and_handle_each_record_once(
    log: streamlog.StreamLog,
) -> None:
    log["t"].send_many([b"y"] * 8, partition=1)
    a = Client(log, "a")
    a.join()
    a.sync()
    assert result_of(a.service.describe_group("g")).type == "classic"
    with log.consumer("t", group="g") as consumer:
        assert consumer.poll(timeout=0) == []
        fails(a.heartbeat(), RebalanceInProgressError)
        result_of(a.commit(3))
        a.join()
        kept = result_of(a.sync()).partitions
        assert len(kept) == 1
        read = [(record.partition, record.offset) for record in consumer.until_end()]
        (partition,) = {0, 1} - {tp.partition for tp in kept}
        assert read == [(partition, offset) for offset in range(0 if partition else 3, 8)]
        assert result_of(a.service.list_groups(types=["consumer"])) == [("g", "consumer", "consumer", "Stable")]
    assert result_of(a.service.describe_group("g")).type == "classic"
    fails(a.heartbeat(), RebalanceInProgressError)
    joined = result_of(a.join())
    assert joined.leader == a.id
    assert log.group("g").committed()[TopicPartition("t", partition)] == 8
