"""ConsumerGroup.run and start: handlers in worker threads, retries, dead letters, stopping."""

from __future__ import annotations

import contextlib
import functools
import gc
import re
import subprocess
import threading
import time
import unittest.mock
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

import streamlog.client.workers
from streamlog import ClosedError, ConfigError, TopicPartition
from streamlog.testing import ManualClock
from tests.times import LONG

from .member_time import until_shared

InThread = Callable[[Callable[[], Any]], Future[Any]]
RunScript = Callable[..., "subprocess.CompletedProcess[str]"]
Record = streamlog.Record[Any, Any]
P0 = TopicPartition("t", 0)


class Trouble(Exception):
    """What a handler raises here."""


def fill(log: streamlog.StreamLog, count: int, *, partitions: int = 1) -> streamlog.Topic[Any, Any]:
    topic = log.create_topic("t", partitions=partitions)
    for partition in range(partitions):
        topic.send_many([str(n) for n in range(count)], partition=partition).result()
    return topic


def place(record: Record) -> tuple[int, int]:
    return record.partition, record.offset


class Failing:
    """A handler that fails at some offsets, for ever or a number of times, and remembers its calls."""

    def __init__(self, *offsets: int, times: float = float("inf")) -> None:
        self.offsets, self.times = offsets, times
        self.calls: list[int] = []

    def __call__(self, record: Record) -> None:
        self.calls.append(record.offset)
        if record.offset in self.offsets and self.calls.count(record.offset) <= self.times:
            raise Trouble(f"offset {record.offset} is no good")

    @property
    def handled(self) -> list[int]:
        return [offset for offset in self.calls if offset not in self.offsets]


# Handling


def test_run_until_end_handles_every_record_exactly_once_and_commits_it(log: streamlog.StreamLog) -> None:
    fill(log, 50, partitions=6)
    handled: list[Record] = []
    log.group("g").run(handled.append, "t", workers=4, until_end=True)
    assert Counter(map(place, handled)) == Counter((p, n) for p in range(6) for n in range(50))
    for partition in range(6):
        assert [record.offset for record in handled if record.partition == partition] == list(range(50))
    assert log.group("g").lag() == {TopicPartition("t", n): 0 for n in range(6)}
    assert log.group("g").members() == []


def test_records_sent_while_it_runs_are_handled_exactly_once(log: streamlog.StreamLog, in_thread: InThread) -> None:
    topic = log.create_topic("t", partitions=5)
    handled: list[Record] = []
    all_done = threading.Event()

    def handle(record: Record) -> None:
        handled.append(record)
        if len(handled) == 1500:
            all_done.set()

    def produce() -> None:
        for n in range(300):
            for partition in range(5):
                topic.send(str(n), partition=partition).result()

    with log.group("g").start(handle, "t", workers=3) as workers:
        in_thread(produce).result(timeout=LONG)
        assert all_done.wait(LONG)
        workers.stop()
        workers.wait(LONG)
    assert Counter(map(place, handled)) == Counter((p, n) for p in range(5) for n in range(300))
    assert log.group("g").lag() == {TopicPartition("t", n): 0 for n in range(5)}


@pytest.mark.parametrize("workers", [1, 2, 8])
def test_any_number_of_workers_will_do(log: streamlog.StreamLog, workers: int) -> None:
    fill(log, 20, partitions=3)
    handled: list[Record] = []
    log.group("g").run(handled.append, "t", workers=workers, until_end=True)
    assert len(handled) == len(set(map(place, handled))) == 60


def test_workers_run_at_the_same_time(log: streamlog.StreamLog) -> None:
    topic = log.create_topic("t", partitions=3)
    group = log.group("g")
    together, met = threading.Barrier(3), threading.Event()

    def handle(record: Record) -> None:
        together.wait(LONG)
        met.set()

    with group.start(handle, "t", workers=3):
        until_shared(group, 1, 1, 1)
        for partition in range(3):
            topic.send("x", partition=partition).result()
        assert met.wait(LONG)
    assert group.lag() == {TopicPartition("t", n): 0 for n in range(3)}


def test_run_until_end_of_an_empty_topic_returns(log: streamlog.StreamLog) -> None:
    log.create_topic("t", partitions=2)
    log.group("g").run(lambda record: pytest.fail("nothing was sent"), "t", until_end=True)


def test_run_until_end_stops_at_the_end_of_its_start(log: streamlog.StreamLog) -> None:
    topic = fill(log, 3)
    handled: list[int] = []

    def handle(record: Record) -> None:
        handled.append(record.offset)
        topic.send("more").result()

    log.group("g").run(handle, "t", workers=1, until_end=True)
    assert handled == [0, 1, 2]


def test_run_goes_on_where_the_group_left_off(log: streamlog.StreamLog) -> None:
    topic = fill(log, 3)
    handled: list[int] = []
    for _ in range(3):
        log.group("g").run(lambda record: handled.append(record.offset), "t", until_end=True)
        topic.send("more").result()
    assert handled == [0, 1, 2, 3, 4]


def test_options_reach_the_consumers(log: streamlog.StreamLog) -> None:
    fill(log, 3)
    values: list[int] = []
    log.group("g").run(
        lambda record: values.append(record.value), "t", until_end=True, value_deserializer=int, max_poll_records=1
    )
    assert values == [0, 1, 2]


@pytest.mark.parametrize(
    "options",
    [{"workers": 0}, {"on_error": "explode"}, {"retries": -1}, {"max_poll_record": 1}, {"auto_offset_reset": "x"}],
)
def test_bad_options_are_refused_before_anything_starts(log: streamlog.StreamLog, options: dict[str, Any]) -> None:
    fill(log, 1)
    with pytest.raises(ConfigError):
        log.group("g").start(lambda record: None, "t", **options)
    assert log.group("g").members() == []


# Handlers that would be called and never run


async def coroutine(record: Record) -> None:
    pytest.fail("nothing runs this")


async def async_generator(record: Record) -> Any:
    yield pytest.fail("nothing runs this")


def generator(record: Record) -> Any:
    yield pytest.fail("nothing runs this")


class Methods:
    def __init__(self, *_: object) -> None:
        pass

    async def coroutine(self, record: Record) -> None:
        pytest.fail("nothing runs this")

    def generator(self, record: Record) -> Any:
        yield pytest.fail("nothing runs this")

    @classmethod
    async def of_class(cls, record: Record) -> None:
        pytest.fail("nothing runs this")

    @staticmethod
    async def of_none(record: Record) -> None:
        pytest.fail("nothing runs this")

    async def __call__(self, record: Record) -> None:
        pytest.fail("nothing runs this")


class CalledAsGenerator:
    def __call__(self, record: Record, *_: object) -> Any:
        yield pytest.fail("nothing runs this")


class Inheriting(Methods):
    pass


class CalledThroughPartial:
    __call__ = functools.partial(coroutine)


NEVER_RUN: dict[str, Any] = {
    "coroutine": coroutine,
    "async generator": async_generator,
    "generator": generator,
    "bound method": Methods().coroutine,
    "bound generator method": Methods().generator,
    "class method": Methods.of_class,
    "static method": Methods().of_none,
    "object": Methods(),
    "inherited": Inheriting(),
    "object that is a generator": CalledAsGenerator(),
    "partial": functools.partial(coroutine),
    "partial of a partial of an object": functools.partial(functools.partial(CalledAsGenerator()), 1),
    "partial of a bound method": functools.partial(Methods().coroutine),
    "partial in a class": CalledThroughPartial(),
    "bound __call__": Methods().__call__,
    "mock": unittest.mock.AsyncMock(),
    "not callable": "a name",
    "nothing": None,
}


@pytest.mark.parametrize("call", ["run", "start"])
@pytest.mark.parametrize("name", NEVER_RUN)
def test_a_handler_that_would_never_run_is_refused_at_the_call(log: streamlog.StreamLog, name: str, call: str) -> None:
    fill(log, 3)
    with pytest.raises(ConfigError, match="handler"):
        getattr(log.group("g"), call)(NEVER_RUN[name], "t", until_end=True)
    assert log.group("g").members() == []
    assert log.group("g").committed() == {}


@pytest.mark.parametrize("on_error", ["stop", "skip", "dead_letter"])
@pytest.mark.parametrize("hidden", [coroutine, generator, async_generator])
def test_a_record_whose_handler_only_made_something_to_run_is_not_committed(
    log: streamlog.StreamLog, hidden: Any, on_error: str
) -> None:
    fill(log, 3)
    with pytest.raises(ConfigError, match="nothing runs"):
        log.group("g").run(lambda record: hidden(record), "t", retries=3, on_error=on_error, until_end=True)
    assert set(log.group("g").committed().values()) <= {0}
    assert "t.dead-letters" not in log


@pytest.mark.parametrize("handler", [print, functools.partial(print), Methods, unittest.mock.Mock(), {}.setdefault])
def test_any_other_callable_is_a_handler(log: streamlog.StreamLog, handler: Any) -> None:
    fill(log, 3)
    log.group("g").run(handler, "t", until_end=True)
    assert log.group("g").committed() == {P0: 3}


# Errors


def test_an_error_stops_the_run_and_reaches_the_caller_and_its_record_comes_again(log: streamlog.StreamLog) -> None:
    fill(log, 6)
    failing = Failing(3)
    with pytest.raises(Trouble, match="offset 3") as caught:
        log.group("g").run(failing, "t", workers=1, until_end=True)
    assert caught.value.__notes__ == ["The handler raised this for t-0 at offset 3, which is not finished."]
    assert failing.calls == [0, 1, 2, 3]
    assert log.group("g").committed() == {P0: 3}
    again = Failing()
    log.group("g").run(again, "t", until_end=True)
    assert again.calls == [3, 4, 5]


def test_an_error_of_one_worker_stops_the_others(log: streamlog.StreamLog) -> None:
    topic = fill(log, 3, partitions=4)

    def handle(record: Record) -> None:
        if place(record) == (2, 1):
            raise Trouble

    with pytest.raises(Trouble):
        log.group("g").run(handle, "t", workers=4)
    assert log.group("g").members() == []
    assert log.group("g").committed().get(TopicPartition("t", 2)) == 1
    assert topic.partitions == 4


def two_workers_one_failing(log: streamlog.StreamLog, calls: list[Record]) -> Any:
    """Two workers with a partition each, and then a record on which the handler fails; what its error ends."""
    topic = log.create_topic("t", partitions=2)
    group = log.group("g")

    def handle(record: Record) -> None:
        calls.append(record)
        raise Trouble

    workers = group.start(handle, "t", workers=2)
    until_shared(group, 1, 1)
    topic.send("x", partition=0).result()
    with pytest.raises(Trouble):
        workers.wait(LONG)
    workers.close()
    return group


def test_the_failing_record_goes_to_no_other_worker_before_all_are_stopped(
    log: streamlog.StreamLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Record] = []
    stop = streamlog.Workers.stop

    def slow_stop(workers: Any) -> None:
        until = time.monotonic() + 0.3
        while len(log.group("g").members()) < 2 and len(calls) < 2 and time.monotonic() < until:
            pass  # the member has left already: its record may be another's now
        stop(workers)

    monkeypatch.setattr(streamlog.Workers, "stop", slow_stop)
    group = two_workers_one_failing(log, calls)
    assert len(calls) == 1
    assert set(group.committed().values()) <= {0}


def test_a_worker_that_got_the_failing_record_just_before_it_was_stopped_leaves_it(
    log: streamlog.StreamLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Record] = []
    monkeypatch.setattr(streamlog.Consumer, "stop", lambda consumer: None)  # as if it came a moment too late
    group = two_workers_one_failing(log, calls)
    assert len(calls) == 1
    assert set(group.committed().values()) <= {0}


def test_wait_raises_the_error_of_the_handler(log: streamlog.StreamLog) -> None:
    fill(log, 3)
    workers = log.group("g").start(Failing(1), "t", workers=2)
    with pytest.raises(Trouble, match="offset 1"):
        workers.wait(LONG)
    with contextlib.suppress(Trouble):
        workers.close()
    assert log.group("g").committed() == {P0: 1}


def test_skip_leaves_the_record_behind_and_goes_on(log: streamlog.StreamLog) -> None:
    fill(log, 6)
    failing = Failing(1, 5)
    log.group("g").run(failing, "t", on_error="skip", until_end=True)
    assert failing.calls == [0, 1, 2, 3, 4, 5]
    assert log.group("g").committed() == {P0: 6}


def test_a_record_is_tried_again_in_its_order_before_it_counts_as_failed(log: streamlog.StreamLog) -> None:
    fill(log, 4)
    failing = Failing(1, times=2)
    log.group("g").run(failing, "t", workers=1, retries=2, retry_backoff_ms=1, until_end=True)
    assert failing.calls == [0, 1, 1, 1, 2, 3]
    assert log.group("g").committed() == {P0: 4}


def test_after_its_retries_the_error_counts(log: streamlog.StreamLog) -> None:
    fill(log, 4)
    failing = Failing(1)
    with pytest.raises(Trouble):
        log.group("g").run(failing, "t", workers=1, retries=2, retry_backoff_ms=1, until_end=True)
    assert failing.calls == [0, 1, 1, 1]
    assert log.group("g").committed() == {P0: 1}


def test_a_stop_does_not_wait_for_the_retries(log: streamlog.StreamLog) -> None:
    fill(log, 1)
    tried = threading.Event()

    def handle(record: Record) -> None:
        tried.set()
        raise Trouble

    workers = log.group("g").start(handle, "t", workers=1, retries=5, retry_backoff_ms=600_000)
    assert tried.wait(LONG)
    workers.stop()
    with contextlib.suppress(Trouble):
        workers.wait(LONG)
    with contextlib.suppress(Trouble):
        workers.close()
    assert log.group("g").committed().get(P0, 0) == 0


def test_a_record_that_will_not_deserialize_is_an_error_like_the_handlers(log: streamlog.StreamLog) -> None:
    log.create_topic("t").send_many(["0", "one", "2"]).result()
    log.create_topic("dead")
    values: list[int] = []
    log.group("g").run(
        lambda record: values.append(record.value),
        "t",
        workers=1,
        until_end=True,
        on_error="dead_letter",
        dead_letter_topic="dead",
        value_deserializer=int,
    )
    assert values == [0, 2]
    assert [record.value for record in log["dead"].read()] == [b"one"]


# Dead letters


def test_a_dead_letter_keeps_key_value_and_headers_and_says_what_went_wrong(log: streamlog.StreamLog) -> None:
    topic = log.create_topic("t")
    headers = [("trace", b"1"), ("trace", b"2"), ("none", None)]
    topic.send_many(["a", "b"]).result()
    topic.send("bad", "key", headers=headers).result()
    topic.send("c").result()
    dead = log.create_topic("dead")
    log.group("g").run(
        Failing(2), "t", workers=1, on_error="dead_letter", dead_letter_topic="dead", until_end=True, retries=0
    )
    (letter,) = dead.read()
    assert (letter.key, letter.value) == (b"key", b"bad")
    assert letter.headers[:3] == tuple(headers)
    told = b" ".join(value or b"" for _, value in letter.headers[3:])
    assert b"Trouble" in told
    assert b"offset 2 is no good" in told
    assert log.group("g").committed() == {P0: 4}


def test_a_record_goes_to_the_dead_letters_only_after_its_retries(log: streamlog.StreamLog) -> None:
    fill(log, 3)
    dead = log.create_topic("dead")
    failing = Failing(1)
    log.group("g").run(
        failing,
        "t",
        workers=1,
        on_error="dead_letter",
        dead_letter_topic="dead",
        retries=2,
        retry_backoff_ms=1,
        until_end=True,
    )
    assert failing.calls == [0, 1, 1, 1, 2]
    assert [record.value for record in dead.read()] == [b"1"]


def test_dead_letters_are_written_before_their_record_is_committed(log: streamlog.StreamLog) -> None:
    fill(log, 20, partitions=3)
    dead = log.create_topic("dead", partitions=2)

    def handle(record: Record) -> None:
        if record.offset % 2:
            raise Trouble

    log.group("g").run(handle, "t", workers=3, on_error="dead_letter", dead_letter_topic="dead", until_end=True)
    assert len(list(dead.read())) == 30
    assert log.group("g").lag() == {TopicPartition("t", n): 0 for n in range(3)}


class Unprintable(Exception):
    def __str__(self) -> str:
        raise Trouble("and no message either")

    __repr__ = __str__


@pytest.mark.parametrize("on_error", ["skip", "dead_letter"])
@pytest.mark.parametrize("where", ["handler", "deserializer"])
def test_an_error_whose_message_cannot_be_made_stops_nothing(
    log: streamlog.StreamLog, caplog: pytest.LogCaptureFixture, on_error: str, where: str
) -> None:
    fill(log, 3)

    def fail(_: Any) -> Any:
        raise Unprintable

    deserializer = {"value_deserializer": fail} if where == "deserializer" else {}
    log.group("g").run(fail, "t", on_error=on_error, until_end=True, **deserializer)
    assert log.group("g").committed() == {P0: 3}
    told = [record for record in caplog.records if "failed on t-0 at offset" in record.getMessage()]
    assert len(told) == 3
    assert all(record.exc_info is not None and record.exc_info[2] is not None for record in told)  # the traceback
    if on_error == "dead_letter":
        letters = list(log["t.dead-letters"].read())
        assert [letter.value for letter in letters] == [b"0", b"1", b"2"]
        assert b"__str__ raises" in (letters[0].header("dead_letter.error") or b"")


def test_an_error_whose_message_cannot_be_made_reaches_the_caller(log: streamlog.StreamLog) -> None:
    fill(log, 1)

    def fail(_: Any) -> None:
        raise Unprintable

    with pytest.raises(Unprintable):
        log.group("g").run(fail, "t", until_end=True)


def test_a_dead_letter_says_where_its_error_was_raised(
    log: streamlog.StreamLog, caplog: pytest.LogCaptureFixture
) -> None:
    fill(log, 1)

    def deep(depth: int) -> None:
        if depth:
            deep(depth - 1)
        raise Trouble("x" * 100_000 + "\ud800")

    def handle(record: Record) -> None:
        deep(50)

    log.group("g").run(handle, "t", on_error="dead_letter", until_end=True)
    (letter,) = log["t.dead-letters"].read()
    frames = letter.header("dead_letter.traceback")
    assert frames is not None
    assert 0 < len(frames) <= 4096
    assert frames.rstrip().splitlines()[-1] == b'    raise Trouble("x" * 100_000 + "\\ud800")'
    assert letter.header("dead_letter.offset") == b"0"
    assert len(letter.header("dead_letter.error") or b"") <= 4096
    assert "in deep" in caplog.text


def largest(topic: streamlog.Topic[Any, Any], **also: Any) -> int:
    """Send the largest record that the topic takes; its value's length."""
    size = int(topic.config["max_message_bytes"])
    with topic._log.producer(max_request_size=1 << 29, buffer_memory=1 << 30) as producer:
        while True:
            try:
                producer.send(topic, b"x" * size, **also)
            except streamlog.RecordTooLargeError as error:
                size -= error.size - error.max_size
            else:
                return size


@pytest.mark.parametrize("there", ["made", "before", "before, with a name", "limit lowered"])
@pytest.mark.parametrize("limit", [1000, 1_048_588, 3_000_000])
def test_whatever_the_source_took_can_be_a_dead_letter(log: streamlog.StreamLog, there: str, limit: int) -> None:
    topic = log.create_topic("t", max_message_bytes=limit)
    headers = {"a header of the record's own": b"h" * 20}
    size = largest(topic, headers=headers, key=b"k")
    name = "dead" if "name" in there else "t.dead-letters"
    if there.startswith("before"):
        log.create_topic(name, max_message_bytes=50)
    if there == "limit lowered":
        topic.update_config(max_message_bytes=10)
    options = {"dead_letter_topic": name} if "name" in there else {}
    log.group("g").run(Failing(0), "t", on_error="dead_letter", until_end=True, **options)
    (letter,) = log[name].read()
    assert (letter.key, len(letter.value)) == (b"k", size)
    assert letter.headers[0] == ("a header of the record's own", b"h" * 20)
    assert letter.header("dead_letter.error") == b"Trouble: offset 0 is no good"
    assert log.group("g").committed() == {P0: 1}


def test_a_record_with_no_room_for_more_headers_is_a_dead_letter_without_them(
    log: streamlog.StreamLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if no record could be larger than the topic's largest are: half a gigabyte is no size for a test."""
    from streamlog.client import dead_letters

    topic = log.create_topic("t", max_message_bytes=5000)
    monkeypatch.setattr(dead_letters, "LARGEST_RECORD", 5000)
    log.create_topic("t.dead-letters", max_message_bytes=5000)
    topic.send(b"x" * 2000)  # room for all the headers
    topic.send(b"x" * 4400)  # for those that say where it came from
    size = largest(topic)  # for none
    log.group("g").run(Failing(0, 1, 2), "t", on_error="dead_letter", until_end=True)
    letters = list(log["t.dead-letters"].read())
    assert [len(letter.value) for letter in letters] == [2000, 4400, size]
    assert [sorted(name.partition(".")[2] for name, _ in letter.headers) for letter in letters] == [
        ["error", "offset", "partition", "timestamp", "topic", "traceback"],
        ["offset", "partition", "timestamp", "topic"],
        [],
    ]


@pytest.mark.parametrize("there", ["made", "before"])
def test_a_dead_letter_whose_time_its_topic_refuses_keeps_it_in_a_header(
    log: streamlog.StreamLog, clock: ManualClock, there: str
) -> None:
    topic = log.create_topic("t", message_timestamp_after_max_ms=None)
    ahead = clock.time_ms() + 100 * 86_400_000
    topic.send("early", timestamp_ms=0)
    topic.send("far ahead", timestamp_ms=ahead)
    if there == "before":
        log.create_topic("t.dead-letters")
    log.group("g").run(Failing(0, 1), "t", on_error="dead_letter", until_end=True)
    letters = {letter.value: letter for letter in log["t.dead-letters"].read()}
    assert letters[b"early"].timestamp == 0
    assert letters[b"far ahead"].timestamp == (ahead if there == "made" else clock.time_ms())
    assert letters[b"far ahead"].header("dead_letter.timestamp") == str(ahead).encode()
    assert log.group("g").committed() == {P0: 2}


def test_dead_letters_of_a_topic_with_the_longest_name_have_a_topic(log: streamlog.StreamLog) -> None:
    names = ["a" * 249, "a" * 248 + "b", "c" * 236]
    for name in names:
        log.create_topic(name).send(name)
        log.group("g").run(Failing(0), name, on_error="dead_letter", until_end=True)
    found = {record.value.decode(): topic.name for topic in log.topics() for record in topic.read() if record.headers}
    assert sorted(found) == sorted(names)
    assert found["c" * 236] == "c" * 236 + ".dead-letters"
    assert all(name.endswith(".dead-letters") for name in found.values())


def test_dead_letters_are_kept_one_by_one_where_new_topics_are_compacted(open_log: Any) -> None:
    log = open_log(cleanup_policy="compact")
    log.create_topic("t", cleanup_policy="delete").send_many(["a", "b"])
    log.group("g").run(Failing(0, 1), "t", on_error="dead_letter", until_end=True)
    assert [letter.value for letter in log["t.dead-letters"].read()] == [b"a", b"b"]


@pytest.mark.parametrize(
    ("topics", "options"),
    [
        (["t"], {"dead_letter_topic": "t"}),
        (["t", "u"], {"dead_letter_topic": "u"}),
        ([re.compile("[tu]")], {"dead_letter_topic": "u"}),
        ([re.compile("[a-z]")], {"dead_letter_topic": "n"}),
        ([re.compile("t.*")], {}),
        (["t"], {"dead_letter_topic": "compacted"}),
        (["u"], {}),
        (["t"], {"dead_letter_topic": "no/name"}),
    ],
)
def test_a_dead_letter_topic_that_would_be_read_again_or_forgets_is_refused(
    log: streamlog.StreamLog, topics: list[Any], options: dict[str, Any]
) -> None:
    fill(log, 1)
    log.create_topic("u")
    for name in ("compacted", "u.dead-letters"):
        log.create_topic(name, cleanup_policy="compact")
    with pytest.raises((ConfigError, streamlog.InvalidTopicError), match=r"dead|no/name"):
        log.group("g").run(Failing(0), *topics, on_error="dead_letter", until_end=True, **options)
    assert log.group("g").members() == []


def test_a_topic_with_a_serde_is_handled_by_it_and_its_dead_letters_are_bytes(log: streamlog.StreamLog) -> None:
    log.create_topic("t").send_many(['{"n": 1}', "no json", '{"n": 3}'])
    values: list[Any] = []
    log.group("g").run(
        lambda record: values.append(record.value),
        log.topic("t", value_serde=streamlog.serde.json),
        on_error="dead_letter",
        until_end=True,
    )
    assert values == [{"n": 1}, {"n": 3}]
    assert [letter.value for letter in log["t.dead-letters"].read()] == [b"no json"]


def test_runs_with_dead_letters_leave_nothing_behind(log: streamlog.StreamLog) -> None:
    topic = log.create_topic("t")
    for n in range(3):
        topic.send(str(n))
        log.group("g").run(Failing(n), "t", on_error="dead_letter", until_end=True)
        gc.collect()
        producers = [child for child in log._children if isinstance(child, streamlog.Producer)]
        assert producers == [log._topic_producer()]


# Stopping


def test_stop_finishes_the_record_in_hand_and_takes_no_new_one(log: streamlog.StreamLog) -> None:
    fill(log, 5)
    in_hand, go_on = threading.Event(), threading.Event()
    handled: list[int] = []

    def handle(record: Record) -> None:
        in_hand.set()
        go_on.wait(LONG)
        handled.append(record.offset)

    workers = log.group("g").start(handle, "t", workers=1)
    assert in_hand.wait(LONG)
    workers.stop()
    workers.stop()
    go_on.set()
    workers.wait(LONG)
    assert handled == [0]
    assert log.group("g").committed() == {P0: 1}
    assert log.group("g").members() == []
    workers.close()


def test_leaving_the_block_stops_and_joins(log: streamlog.StreamLog) -> None:
    fill(log, 5, partitions=2)
    before = set(threading.enumerate())
    started = threading.Event()
    with log.group("g").start(lambda record: started.set(), "t", workers=3) as workers:
        assert started.wait(LONG)
        assert not workers.closed
    assert workers.closed
    assert log.group("g").members() == []
    assert not [thread for thread in set(threading.enumerate()) - before if thread.is_alive()]
    workers.close()


def test_workers_with_nothing_to_do_stop_at_once(log: streamlog.StreamLog) -> None:
    log.create_topic("t", partitions=2)
    with log.group("g").start(lambda record: None, "t", workers=2):
        pass  # a worker that is not woken waits without end


def test_wait_returns_when_until_end_is_reached(log: streamlog.StreamLog) -> None:
    fill(log, 5, partitions=2)
    handled: list[Record] = []
    workers = log.group("g").start(handled.append, "t", workers=2, until_end=True)
    workers.wait(LONG)
    assert len(handled) == 10
    workers.close()


def test_closing_the_log_stops_its_workers(tmp_path: Path, clock: ManualClock) -> None:
    log = streamlog.open(tmp_path / "data", clock=clock)
    fill(log, 3)
    handled: list[int] = []
    done = threading.Event()

    def handle(record: Record) -> None:
        handled.append(record.offset)
        if record.offset == 2:
            done.set()

    workers = log.group("g").start(handle, "t", workers=2)
    assert done.wait(LONG)
    log.close()
    with contextlib.suppress(ClosedError):
        workers.wait(LONG)
    assert workers.closed
    with streamlog.open(tmp_path / "data", clock=clock) as again:
        again.group("g").run(lambda record: handled.append(record.offset), "t", until_end=True)
    assert handled == [0, 1, 2]


def test_ctrl_c_finishes_the_records_in_hand_and_the_rest_come_again(path: Path, run_script: RunScript) -> None:
    done = run_script(
        """
        import os, signal, sys, threading
        from collections import Counter
        import streamlog

        log = streamlog.open(sys.argv[1])
        topic = log.create_topic("t", partitions=4)
        for partition in range(4):
            topic.send_many([str(n) for n in range(200)], partition=partition).result()
        handled = []

        def handle(record):
            handled.append((record.partition, record.offset))
            if len(handled) == 100:
                os.kill(os.getpid(), signal.SIGINT)

        try:
            log.group("g").run(handle, "t", workers=3)
        except KeyboardInterrupt:
            pass
        assert log.group("g").members() == [], log.group("g").members()
        assert sum(log.group("g").committed().values()) == len(handled), (log.group("g").committed(), len(handled))
        log.group("g").run(handle, "t", workers=3, until_end=True)
        counts = Counter(handled)
        assert len(counts) == 800 and set(counts.values()) == {1}
        names = [thread.name for thread in threading.enumerate() if not thread.daemon]
        assert names == ["MainThread"], names
        log.close()
        """,
        path,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


@pytest.mark.parametrize("begun", [True, False], ids=["its thread had begun", "its thread had not"])
def test_an_interrupt_while_workers_are_started_leaves_none(
    log: streamlog.StreamLog, monkeypatch: pytest.MonkeyPatch, begun: bool
) -> None:
    fill(log, 10, partitions=2)
    may_begin = threading.Event()
    threads: list[threading.Thread] = []

    def start_and_interrupt(thread: Any) -> None:
        threads.append(thread)
        if len(threads) == 1:
            start(thread)
            return
        run = thread.run
        thread.run = lambda: may_begin.wait(LONG) and run()
        start(thread)
        if begun:
            may_begin.set()
            until_shared(log.group("g"), 1, 1)
        raise KeyboardInterrupt

    start = streamlog.client.workers.start_thread
    monkeypatch.setattr(streamlog.client.workers, "start_thread", start_and_interrupt)
    with pytest.raises(KeyboardInterrupt):
        log.group("g").start(lambda record: None, "t", workers=3)
    assert log.group("g").members() == []
    may_begin.set()
    for thread in threads:
        thread.join(LONG)
        assert not thread.is_alive()
    assert log.group("g").members() == []


def test_ctrl_c_ends_idle_workers(path: Path, run_script: RunScript) -> None:
    done = run_script(
        """
        import os, signal, sys
        import streamlog

        signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGINT))
        with streamlog.open(sys.argv[1]) as log:
            log.create_topic("t", partitions=2)
            try:
                signal.setitimer(signal.ITIMER_REAL, 0.1)
                log.group("g").run(print, "t", workers=2)
            except KeyboardInterrupt:
                pass
            log["t"].send("x").result()
            log.group("g").run(lambda record: print(record.value), "t", workers=2, until_end=True)
        """,
        path,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["b'x'"]
    assert done.stderr == ""


# -- workers inside a handler ------------------------------------------------------------------------


@pytest.mark.parametrize("waits", ["run", "wait", "its own"])
def test_a_handler_that_would_wait_for_its_own_group_is_refused(log: streamlog.StreamLog, waits: str) -> None:
    topic = fill(log, 3, partitions=2)
    group = log.group("g")
    made: list[streamlog.Workers] = []
    is_made = threading.Event()

    def handle(_: Record) -> None:
        assert is_made.wait(LONG)
        if waits == "run":
            group.run(print, topic, workers=2, until_end=True)
        elif waits == "wait":
            with group.start(print, "t", workers=2, until_end=True) as inner:
                inner.wait()
        else:
            made[0].wait()

    with pytest.raises(
        ConfigError, match=r"group 'g' waits for workers of the same group that read t too\..* group of their own"
    ):
        made.append(group.start(handle, topic, workers=1, until_end=True))
        is_made.set()
        with made[0]:
            made[0].wait(LONG)
    assert group.members() == []
    assert group.committed().get(P0, 0) == 0


def test_a_handler_may_run_another_group_or_other_topics_of_its_own(log: streamlog.StreamLog) -> None:
    topic = fill(log, 1)
    other = log.create_topic("other")
    other.send("x")
    seen: list[Record] = []

    def handle(_: Record) -> None:
        log.group("inner").run(seen.append, topic, workers=1, until_end=True)
        log.group("g").run(seen.append, other, workers=1, until_end=True)

    log.group("g").run(handle, topic, workers=1, until_end=True)
    assert [record.value for record in seen] == [b"0", b"x"]
