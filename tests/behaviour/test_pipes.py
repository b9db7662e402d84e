"""`pipe` and `start_pipe`: what comes of each record is in the sink once, whatever happens meanwhile."""

from __future__ import annotations

import re
import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

import streamlog
from streamlog import ConfigError, ProducerRecord, Record, StreamLog
from streamlog.testing import ManualClock
from tests.times import LONG


@pytest.fixture
def log() -> Iterator[StreamLog]:
    with streamlog.open() as log:
        log.create_topic("in", partitions=2)
        log.create_topic("out", partitions=2)
        yield log


def upper(record: Record[Any, Any]) -> bytes:
    value: bytes = record.value
    return value.upper()


def run(log: StreamLog, handler: Any, **settings: Any) -> None:
    settings = {"group": "g", "until_end": True, **settings}
    streamlog.pipe(settings.pop("source", log["in"]), handler, settings.pop("sink", log["out"]), **settings)


def out(log: StreamLog, topic: str = "out") -> list[Any]:
    return sorted(record.value for record in log[topic].read())


# -- what a handler returns -------------------------------------------------------------------------------


def test_a_value_keeps_the_key_and_the_timestamp_of_its_record(log: StreamLog) -> None:
    log["in"].send("a", "k", timestamp_ms=5, headers={"h": "x"})
    run(log, upper)
    [record] = log["out"].read()
    assert (record.value, record.key, record.timestamp, record.headers) == (b"A", b"k", 5, ())


def test_records_without_keys_stay_so(log: StreamLog) -> None:
    log["in"].send_many([b"%d" % n for n in range(1000)])
    run(log, upper)
    found = list(log["out"].read())
    assert len(found) == 1000
    assert {record.key for record in found} == {None}


def test_records_of_one_key_keep_their_order(log: StreamLog) -> None:
    log["in"].send_many([b"%d" % n for n in range(1500)], [b"%d" % (n % 7) for n in range(1500)])
    run(log, lambda record: record.value, workers=2)
    seen: dict[bytes, list[int]] = {}
    for record in log["out"].read():
        seen.setdefault(record.key, []).append(int(record.value))
    assert {key: len(values) for key, values in seen.items()} == {b"%d" % k: len(range(k, 1500, 7)) for k in range(7)}
    assert all(values == sorted(values) for values in seen.values())


def test_none_sends_nothing_and_the_record_is_handled(log: StreamLog) -> None:
    log["in"].send("a")
    run(log, lambda record: None)
    assert out(log) == []
    assert sum(log.group("g").lag().values()) == 0


def test_a_producer_record_is_sent_as_it_is(log: StreamLog) -> None:
    log.create_topic("else")
    log["in"].send("a", "k", timestamp_ms=5)
    run(log, lambda record: ProducerRecord("v", "w", {"h": "x"}, 1, 7))
    run(log, lambda record: ProducerRecord("v", topic="else"), group="h")
    [record] = log["out"].read()
    assert record == ("out", 1, 0, 7, b"w", b"v", (("h", b"x"),))
    [record] = log["else"].read()
    assert (record.value, record.key) == (b"v", None)
    assert record.timestamp > 5


def test_a_list_is_several_outcomes(log: StreamLog) -> None:
    log.create_topic("else")
    log["in"].send_many(["a", "b"], ["k", "k"])
    run(
        log,
        lambda record: [
            record.value,
            ProducerRecord(record.value, topic="else"),
            ProducerRecord("x", "k"),
            None,
            record.value,
        ],
    )
    found = [record for record in log["out"].read() if record.key == b"k"]
    assert [record.value for record in found] == [b"a", b"x", b"a", b"b", b"x", b"b"]
    assert out(log, "else") == [b"a", b"b"]


def test_the_serdes_of_the_topics_are_used_and_a_kept_key_has_the_same_bytes(log: StreamLog) -> None:
    json = streamlog.serde.json
    source = log.topic("in", key_serde=json, value_serde=json)
    sink = log.topic("out", key_serde=json, value_serde=json)
    source.send({"price": 2}, ["k"])
    seen = []

    def handler(record: Record[Any, Any]) -> Any:
        seen.append((record.key, record.value))
        return [{"price": record.value["price"] * 2}, ProducerRecord("own", "key")]

    run(log, handler, source=source, sink=sink)
    assert seen == [(["k"], {"price": 2})]
    assert {record.key: record.value for record in log["out"].read()} == {b'"key"': b'"own"', b'["k"]': b'{"price":4}'}


# -- errors -------------------------------------------------------------------------------------------------


def fails_on(*bad: bytes) -> Any:
    def handler(record: Record[Any, Any]) -> bytes:
        if record.value in bad:
            raise ValueError(f"cannot: {record.value!r}")
        return upper(record)

    return handler


def test_an_error_stops_the_pipe_after_what_was_finished_is_committed(log: StreamLog) -> None:
    log["in"].send_many(["a", "b", "?", "d"], partition=0)
    with pytest.raises(ValueError, match="cannot"):
        run(log, fails_on(b"?"))
    assert out(log) == [b"A", b"B"]
    assert log.group("g").committed()["in", 0] == 2  # type: ignore[index]
    run(log, upper)
    assert out(log) == [b"?", b"A", b"B", b"D"]


def test_an_error_that_stops_a_pipe_says_of_which_record_it_is(log: StreamLog) -> None:
    log["in"].send_many(["a", "?"], partition=1)
    for retries in (0, 1):
        with pytest.raises(ValueError, match="cannot") as caught:
            run(log, fails_on(b"?"), retries=retries, retry_backoff_ms=0)
        assert caught.value.__notes__ == ["The handler raised this for in-1 at offset 1, which is not finished."]
    with pytest.raises(streamlog.DeserializationError, match="offset 1 of in-1"):
        run(log, upper, source=log.topic("in", value_serde=streamlog.serde.json))


@pytest.mark.parametrize(
    ("result", "says"),
    [
        (5, "in-1 at offset 1 cannot be sent: 5: The value is of type int"),
        ((ProducerRecord("x"),), "type tuple, .* Several outcomes of a record are a list"),
        ([b"fine", ProducerRecord(b"x", key=7)], "in-1 at offset 1 cannot be sent: 7: The key is of type int"),
        (ProducerRecord(b"x", topic="none"), "in-1 at offset 1 cannot be sent: There is no topic 'none'"),
    ],
)
def test_a_result_that_cannot_be_sent_is_named_with_its_record(
    log: StreamLog, result: Any, says: str, caplog: pytest.LogCaptureFixture
) -> None:
    log["in"].send_many(["a", "?"], partition=1)

    def handler(record: Record[Any, Any]) -> Any:
        return result if record.value == b"?" else record.value

    with pytest.raises(streamlog.StreamlogError, match=says) as caught:
        run(log, handler)
    assert not re.search(r"(values|keys)\[", str(caught.value))
    run(log, handler, on_error="skip")
    assert re.search(says, caplog.text)
    assert out(log) == [b"a"]


def test_a_record_that_fails_is_skipped(log: StreamLog) -> None:
    log["in"].send_many(["a", "?", "d"], partition=0)
    run(log, fails_on(b"?"), on_error="skip")
    assert out(log) == [b"A", b"D"]
    assert sum(log.group("g").lag().values()) == 0


def test_a_record_that_fails_becomes_a_dead_letter_in_the_same_transaction(log: StreamLog) -> None:
    log["in"].send("?", "k", partition=0, headers={"mine": "1"}, timestamp_ms=7)
    run(log, fails_on(b"?"), on_error="dead_letter")
    [letter] = log["in.dead-letters"].read()
    assert (letter.value, letter.key, letter.timestamp, letter.header("mine")) == (b"?", b"k", 7, b"1")
    assert (letter.header("dead_letter.topic"), letter.header("dead_letter.offset")) == (b"in", b"0")
    assert b"ValueError" in (letter.header("dead_letter.error") or b"")
    assert out(log) == []


def test_a_value_that_cannot_be_deserialized_is_a_dead_letter_with_its_bytes(log: StreamLog) -> None:
    log["in"].send("{", partition=0)
    run(
        log,
        upper,
        source=log.topic("in", value_serde=streamlog.serde.json),
        on_error="dead_letter",
        dead_letter_topic="bad",
    )
    assert [letter.value for letter in log["bad"].read()] == [b"{"]


def test_a_result_that_cannot_be_sent_is_a_failure_of_its_record(log: StreamLog) -> None:
    log["in"].send_many(["a", "?", "c"], partition=0)

    def handler(record: Record[Any, Any]) -> Any:
        return object() if record.value == b"?" else record.value

    with pytest.raises(streamlog.SerializationError):
        run(log, handler)
    assert out(log) == [b"a"]
    run(log, handler, on_error="dead_letter")
    assert out(log) == [b"a", b"c"]
    assert [letter.value for letter in log["in.dead-letters"].read()] == [b"?"]


def test_a_topic_of_a_result_that_there_is_not_is_a_failure_of_its_record(log: StreamLog) -> None:
    log["in"].send_many(["a", "b"], partition=0)
    run(
        log, lambda record: ProducerRecord("x", topic="none") if record.value == b"a" else record.value, on_error="skip"
    )
    assert out(log) == [b"b"]


def test_a_sink_that_is_deleted_stops_the_pipe_and_skips_nothing(log: StreamLog) -> None:
    log["in"].send_many(["a", "b"], partition=0)
    sink = log["out"]

    def handler(record: Record[Any, Any]) -> bytes:
        if "out" in log:
            log.delete_topic("out")
        return upper(record)

    with pytest.raises(streamlog.UnknownTopicOrPartitionError):
        run(log, handler, sink=sink, on_error="skip")
    assert sum(log.group("g").lag("in").values()) == 2


def test_a_handler_is_called_again_before_it_counts_as_failed(log: StreamLog) -> None:
    log["in"].send_many(["a", "?", "c"], partition=0)
    calls: Counter[bytes] = Counter()

    def handler(record: Record[Any, Any]) -> bytes:
        calls[record.value] += 1
        if record.value == b"?" and calls[b"?"] < 3:
            raise ValueError
        return upper(record)

    run(log, handler, retries=2, retry_backoff_ms=1)
    assert calls == {b"a": 1, b"?": 3, b"c": 1}
    assert out(log) == [b"?", b"A", b"C"]


def test_what_is_finished_is_committed_before_a_pause(log: StreamLog) -> None:
    log["in"].send_many(["a", "b", "?"], partition=0)
    paused: list[list[Any]] = []

    def handler(record: Record[Any, Any]) -> bytes:
        if record.value == b"?":
            if not paused:
                paused.append([])
                raise ValueError
            paused[0] = out(log)
        return upper(record)

    run(log, handler, retries=1, retry_backoff_ms=1)
    assert paused == [[b"A", b"B"]]


@pytest.mark.parametrize("kind", ["async", "generator", "neither"])
def test_handlers_that_nothing_would_run_are_refused(log: StreamLog, kind: str) -> None:
    async def coroutine(record: Any) -> None: ...
    def generator(record: Any) -> Any:
        yield 1

    handler = {"async": coroutine, "generator": generator, "neither": 5}[kind]
    with pytest.raises(ConfigError, match="handler"):
        run(log, handler)


def test_a_coroutine_that_comes_out_is_refused(log: StreamLog) -> None:
    async def coroutine(record: Any) -> None: ...

    log["in"].send("a")
    with pytest.raises(ConfigError, match="nothing runs"):
        run(log, lambda record: coroutine(record), on_error="skip")
    assert sum(log.group("g").lag("in").values()) == 1


def test_arguments_are_checked(log: StreamLog) -> None:
    with streamlog.open() as other:
        foreign = other.create_topic("out")
        for settings in (
            {"source": "in"},
            {"sink": "out"},
            {"sink": foreign},
            {"group": ""},
            {"workers": 0},
            {"on_error": "ignore"},
            {"dead_letter_topic": "x"},
            {"retries": -1},
        ):
            with pytest.raises(ConfigError):
                run(log, upper, **settings)


# -- workers ------------------------------------------------------------------------------------------------


def test_a_pipe_that_is_started_waits_for_records_and_stops(log: StreamLog) -> None:
    with log.consumer("out") as reader:
        with streamlog.start_pipe(log["in"], upper, log["out"], group="g", workers=2) as workers:
            log["in"].send("a")
            assert [record.value for record in reader.poll(timeout=10)] == [b"A"]
            log["in"].send("b")
            assert [record.value for record in reader.poll(timeout=10)] == [b"B"]
        assert workers.closed
    assert sum(log.group("g").lag().values()) == 0


def test_stopping_commits_what_is_finished_and_begins_no_further_record(log: StreamLog) -> None:
    log["in"].send_many(["a", "b", "c"], partition=0)
    holder: list[Any] = []
    ready = threading.Event()

    def handler(record: Record[Any, Any]) -> bytes:
        ready.wait(10)
        if record.value == b"b":
            holder[0].stop()
        return upper(record)

    with streamlog.start_pipe(log["in"], handler, log["out"], group="g") as workers:
        holder.append(workers)
        ready.set()
        workers.wait(timeout=10)
    assert out(log) == [b"A", b"B"]
    assert log.group("g").committed()["in", 0] == 2  # type: ignore[index]


def test_two_pipes_of_one_group_share_its_partitions(log: StreamLog) -> None:
    seen: set[int] = set()

    def handler(record: Record[Any, Any]) -> bytes:
        seen.add(threading.get_ident())
        return upper(record)

    with (
        streamlog.start_pipe(log["in"], handler, log["out"], group="g"),
        streamlog.start_pipe(log["in"], handler, log["out"], group="g"),
        log.consumer("out") as reader,
    ):
        found: list[bytes] = []
        for round_ in range(50):
            log["in"].send_many([b"%d" % round_] * 4)
        end = time.monotonic() + 20
        while len(found) < 200 and time.monotonic() < end:
            found += [record.value for record in reader.poll(timeout=1)]
    assert Counter(found) == {b"%d" % n: 4 for n in range(50)}


def test_members_that_come_and_go_lose_and_double_nothing(log: StreamLog) -> None:
    total = 3000
    log["in"].send_many([b"%d" % n for n in range(total)])

    handled = 0
    some = threading.Event()  # have been handled since the members began

    def handler(record: Record[Any, Any]) -> bytes:
        nonlocal handled
        value: bytes = record.value
        handled += 1
        if not handled % 100 or handled >= total:
            some.set()
        return value

    while sum(log.group("g").lag("in").values()):
        some.clear()
        with (
            streamlog.start_pipe(log["in"], handler, log["out"], group="g"),
            streamlog.start_pipe(log["in"], handler, log["out"], group="g", workers=2),
        ):
            assert some.wait(LONG) or not sum(log.group("g").lag("in").values())
    assert Counter(record.value for record in log["out"].read()) == {b"%d" % n: 1 for n in range(total)}


def test_a_pipe_follows_a_clock_that_a_test_moves() -> None:
    clock = ManualClock()
    with streamlog.open(clock=clock, partitions=1) as log:
        log.create_topic("in")
        log.create_topic("out")
        failed: list[int] = []

        def handler(record: Record[Any, Any]) -> bytes:
            if not failed:
                failed.append(1)
                raise ValueError
            return upper(record)

        with streamlog.start_pipe(log["in"], handler, log["out"], group="g", retries=1, retry_backoff_ms=60_000):
            log["in"].send("a")
            clock.advance(59)
            assert out(log) == []
            clock.advance(2)
            assert out(log) == [b"A"]
            log["in"].send("b")
            clock.advance(0.001)
            assert out(log) == [b"A", b"B"]


def test_a_transaction_has_no_more_than_500_records(log: StreamLog) -> None:
    log["in"].send_many([b"x"] * 1200, partition=0)
    run(log, lambda record: ProducerRecord(record.value, partition=0))
    markers = log["out"].partition(0).log_end_offset - 1200
    assert markers == 3
