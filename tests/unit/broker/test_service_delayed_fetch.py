"""A fetch of several partitions that waits: until there is enough, until something fails, or until it is expired."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from streamlog.broker.delayed_fetch import Answers, DelayedFetch, FetchRequest
from streamlog.broker.metadata import TopicIdPartition
from streamlog.errors import FencedLeaderEpochError, OffsetOutOfRangeError, UnknownTopicOrPartitionError
from streamlog.runtime.threads import result_of
from streamlog.storage.segment import Segment
from streamlog.types import TopicPartition

from .conftest import Tenant

EVERYTHING = 1 << 20


@pytest.fixture
def partitions(tenant: Tenant) -> list[TopicIdPartition]:
    first = tenant.create(partitions=3)
    return [first._replace(partition=number) for number in range(3)]


def fetch(tenant: Tenant, partitions: list[TopicIdPartition], *, min_bytes: int = 1, offset: int = 0) -> DelayedFetch:
    requests = [FetchRequest(at, offset, EVERYTHING) for at in partitions]
    return tenant.service.fetch_many(requests, "read_committed", min_bytes=min_bytes)


def answers_of(delayed: DelayedFetch) -> Answers:
    result_of(delayed)
    return delayed.read()


def values(delayed: DelayedFetch) -> list[list[bytes | None]]:
    """The values that each partition answered with."""
    answers = [answer.result() for answer in answers_of(delayed)]
    return [[value for batch in answer.batches() for value in batch.columns.values() or []] for answer in answers]


def waiters(tenant: Tenant) -> int:
    return sum(len(partition.waiters.callbacks) for partition in tenant.service._partitions.values())


def test_what_is_there_is_answered_at_once(tenant: Tenant, partitions: list[TopicIdPartition]) -> None:
    tenant.produce(partitions[1], b"a", b"b")
    assert values(fetch(tenant, partitions)) == [[], [b"a", b"b"], []]
    assert waiters(tenant) == 0


def test_a_fetch_that_waits_at_the_end_of_the_log_need_not_search_for_what_is_appended(
    tenant: Tenant, partitions: list[TopicIdPartition], monkeypatch: pytest.MonkeyPatch
) -> None:
    tenant.produce(partitions[0], b"a")
    delayed = fetch(tenant, partitions[:1], offset=1)
    with monkeypatch.context() as patch:
        patch.setattr(Segment, "locate", None)
        patch.setattr(Segment, "find_and_read", None)
        tenant.produce(partitions[0], b"b")
        assert values(delayed) == [[b"b"]]


def test_a_fetch_that_waits_where_a_segment_ends_has_what_comes_after_it(
    tenant: Tenant, partitions: list[TopicIdPartition]
) -> None:
    tenant.produce(partitions[0], b"a")
    delayed = fetch(tenant, partitions[:1], offset=1)
    tenant.service._partitions[TopicPartition("t", 0)].maintenance.roll(tenant.clock.time_ms())
    tenant.produce(partitions[0], b"b", b"c")
    assert values(delayed) == [[b"b", b"c"]]


def test_the_first_append_answers_and_nothing_is_left_waiting(
    tenant: Tenant, partitions: list[TopicIdPartition]
) -> None:
    delayed = fetch(tenant, partitions)
    assert not delayed.done()
    assert waiters(tenant) == 3
    tenant.produce(partitions[2], b"a")
    assert values(delayed) == [[], [], [b"a"]]
    assert waiters(tenant) == 0


def test_it_waits_until_all_together_have_enough(tenant: Tenant, partitions: list[TopicIdPartition]) -> None:
    size = tenant.seal(partitions[0], b"x" * 100).length
    delayed = fetch(tenant, partitions, min_bytes=3 * size)
    tenant.produce(partitions[0], b"x" * 100)
    tenant.produce(partitions[1], b"y" * 100)
    assert not delayed.done()
    tenant.produce(partitions[0], b"z" * 100)
    assert values(delayed) == [[b"x" * 100, b"z" * 100], [b"y" * 100], []]


def test_a_deadline_answers_with_what_there_is_and_what_comes_first_holds(
    tenant: Tenant, partitions: list[TopicIdPartition]
) -> None:
    late, early = fetch(tenant, partitions, min_bytes=EVERYTHING), fetch(tenant, partitions)
    tenant.produce(partitions[0], b"a")
    late.expire()
    early.expire()
    tenant.produce(partitions[0], b"b")
    assert values(late) == values(early) == [[b"a", b"b"], [], []], "what has grown is read when the answers are taken"
    assert waiters(tenant) == 0


def reads(tenant: Tenant, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Has the number of a partition for each time that it is read from now on."""
    read: list[int] = []
    fetch = tenant.service.fetch
    monkeypatch.setattr(
        tenant.service, "fetch", lambda at, *args, **given: read.append(at.partition) or fetch(at, *args, **given)
    )
    return read


def test_an_append_reads_the_partitions_that_have_grown_and_no_other(
    tenant: Tenant, partitions: list[TopicIdPartition], monkeypatch: pytest.MonkeyPatch
) -> None:
    delayed = fetch(tenant, partitions, min_bytes=EVERYTHING)
    read = reads(tenant, monkeypatch)
    for number in (1, 1, 2):
        tenant.produce(partitions[number], b"a")
    assert read == [], "what has grown is counted"
    delayed.expire()
    assert values(delayed) == [[], [b"a", b"a"], [b"a"]]
    assert read == [1, 2]


def test_however_many_appends_it_takes_what_they_bring_is_read_a_few_times_and_counted_else(
    tenant: Tenant, partitions: list[TopicIdPartition], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each append had all of it read again: a thousand of them, half a million batches."""
    size = tenant.seal(partitions[0], b"x" * 100).length
    tenant.produce(partitions[0], b"x" * 100)
    delayed = fetch(tenant, partitions, min_bytes=1000 * size)
    read = reads(tenant, monkeypatch)
    for n in range(998):
        tenant.produce(partitions[n % 2], b"x" * 100)
    assert not delayed.done()
    tenant.produce(partitions[0], b"x" * 100)
    assert [len(found) for found in values(delayed)] == [501, 499, 0]
    assert sorted(read) == [0, 1]


def test_a_partition_whose_leader_changes_while_its_bytes_are_counted_is_asked_again(
    tenant: Tenant, partitions: list[TopicIdPartition]
) -> None:
    tenant.produce(partitions[0], b"a")
    request = FetchRequest(partitions[0], 0, EVERYTHING, current_leader_epoch=0)
    delayed = tenant.service.fetch_many([request], "read_committed", min_bytes=EVERYTHING)
    tenant.produce(partitions[0], b"b")
    assert not delayed.done()
    tenant.service._partitions[TopicPartition("t", 0)].leader_epoch = 1
    tenant.produce(partitions[0], b"c")
    assert [type(answer.error()) for answer in answers_of(delayed)] == [FencedLeaderEpochError]


def test_a_segment_that_is_deleted_while_its_bytes_are_counted_is_asked_for_again(
    tenant: Tenant, partitions: list[TopicIdPartition]
) -> None:
    tenant.produce(partitions[0], b"a")
    delayed = fetch(tenant, partitions[:1], min_bytes=EVERYTHING)
    partition = tenant.service._partitions[TopicPartition("t", 0)]
    partition.maintenance.roll(tenant.clock.time_ms())
    tenant.produce(partitions[0], b"b")
    result_of(tenant.service.delete_records(TopicPartition("t", 0), 2))
    tenant.produce(partitions[0], b"c")
    assert [type(answer.error()) for answer in answers_of(delayed)] == [OffsetOutOfRangeError]


def test_a_partition_that_fails_answers_for_all(tenant: Tenant, partitions: list[TopicIdPartition]) -> None:
    gone = partitions[0]._replace(partition=7)
    errors = [answer.error() for answer in answers_of(fetch(tenant, [partitions[0], gone]))]
    assert [type(error) for error in errors] == [type(None), UnknownTopicOrPartitionError]
    out = answers_of(fetch(tenant, partitions, offset=5))
    assert [type(answer.error()) for answer in out] == [OffsetOutOfRangeError] * 3


def test_deleting_a_topic_answers_the_fetches_that_wait_for_it(
    tenant: Tenant, partitions: list[TopicIdPartition]
) -> None:
    delayed = fetch(tenant, partitions)
    result_of(tenant.service.delete_topic("t"))
    errors = [answer.error() for answer in answers_of(delayed)]
    assert any(isinstance(error, UnknownTopicOrPartitionError) for error in errors)


def test_a_log_that_diverged_is_answered_at_once(tenant: Tenant, partitions: list[TopicIdPartition]) -> None:
    for epoch in (0, 3):
        tenant.service._partitions[TopicPartition("t", 0)].leader_epoch = epoch
        tenant.produce(partitions[0], b"a")
    request = FetchRequest(partitions[0], 2, EVERYTHING, last_fetched_epoch=1)
    delayed = tenant.service.fetch_many([request], "read_committed", replica_id=2)
    assert [answer.result().diverging_epoch for answer in answers_of(delayed)] == [(0, 1)]


def test_no_append_is_missed_whatever_threads_do_at_once(tenant: Tenant, partitions: list[TopicIdPartition]) -> None:
    size = tenant.seal(partitions[0], b"x").length
    for _ in range(30):
        ends = [tenant.service._partitions[TopicPartition("t", n)].reader.tail.end_offset for n in range(3)]
        requests = [FetchRequest(at, end, EVERYTHING) for at, end in zip(partitions, ends, strict=True)]
        delayed = tenant.service.fetch_many(requests, "read_committed", min_bytes=12 * size)
        threads = [
            threading.Thread(target=lambda at=at: [tenant.produce(at, b"x") for _ in range(4)]) for at in partitions
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert delayed.done()
        assert [len(found) for found in values(delayed)] == [4, 4, 4]


def fetch_bounded(
    tenant: Tenant, partitions: list[TopicIdPartition], max_bytes: int, *, min_bytes: int = 1
) -> DelayedFetch:
    requests = [FetchRequest(at, 0, EVERYTHING) for at in partitions]
    return tenant.service.fetch_many(requests, "read_committed", min_bytes=min_bytes, max_bytes=max_bytes)


def test_of_what_is_past_the_bound_nothing_is_read_but_where_it_stands(
    tenant: Tenant, partitions: list[TopicIdPartition], monkeypatch: pytest.MonkeyPatch
) -> None:
    for at in partitions:
        for _ in range(3):
            tenant.produce(at, b"x" * 1000)
    size = tenant.seal(partitions[0], b"x" * 1000).length
    read: list[int] = []
    fetch_of = tenant.service.fetch

    def counted(*arguments: Any, **named: Any) -> Any:
        answer = fetch_of(*arguments, **named)
        read.append(answer.result().size)
        return answer

    monkeypatch.setattr(tenant.service, "fetch", counted)
    first, second, third = [each.result() for each in answers_of(fetch_bounded(tenant, partitions, 4 * size))]
    assert (first.size, second.size, third.size) == (3 * size, size, 0)
    assert first.high_watermark == third.high_watermark == 3
    assert sum(read) == 4 * size
    whole = [each.result().size for each in answers_of(fetch_bounded(tenant, partitions, 1))]
    assert whole == [size, 0, 0], "the first batch comes whole"


def test_one_that_waits_holds_no_bytes_and_answers_within_its_bound(
    tenant: Tenant, partitions: list[TopicIdPartition]
) -> None:
    size = tenant.seal(partitions[0], b"x" * 1000).length
    tenant.produce(partitions[0], b"x" * 1000)
    tenant.produce(partitions[2], b"y" * 1000)
    waiting = fetch_bounded(tenant, partitions, 2 * size, min_bytes=3 * size)
    assert not waiting.done()
    assert [each.result().size for each in waiting._found] == [0, 0, 0]
    tenant.produce(partitions[1], b"z" * 1000)
    assert [each.result().size for each in answers_of(waiting)] == [size, size, 0]
