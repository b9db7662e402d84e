"""What a person reads who makes a mistake: what happened, why, and what to do next."""

from __future__ import annotations

import os
import time
import traceback
from collections.abc import Callable, Iterator
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import streamlog
from streamlog import StreamLog, StreamlogError, Topic, TopicPartition

PACKAGE = os.path.dirname(streamlog.__file__)
OpenLog = Callable[..., StreamLog]
# One of each kind that programs give by mistake.
WRONG: list[Any] = [
    None, "1", "7d", b"1", -1, 1.5, 10**30, float("nan"), True, object(), [], {}, ["t"], date(2026, 1, 1),
    datetime(2026, 1, 1), timedelta(days=1), time,
]  # fmt: skip


class Bench:
    """A log in which mistakes are made: one object of each kind that a program holds."""

    def __init__(self, log: StreamLog) -> None:
        self.log = log
        self.topic: Topic = log.create_topic("t", partitions=2)
        self.compacted = log.create_topic("compacted", cleanup_policy="compact")
        self.topic.send_many(["a", "b", "c"])
        self.producer = log.producer()
        self.lingering = log.producer(linger_ms=100)
        self.consumer = log.consumer("t")
        self.member = log.consumer("t", group="g")
        self.member.poll()
        self.group = log.group("g")
        self.idle = log.group("idle")


@pytest.fixture
def bench(log: StreamLog) -> Bench:
    return Bench(log)


ARGUMENTS: dict[str, Callable[[Bench, Any], object]] = {
    "open(path)": lambda b, x: streamlog.open(x) if not isinstance(x, str) else None,
    "open(clock=)": lambda b, x: streamlog.open(clock=x),
    "open(disk=)": lambda b, x: streamlog.open(disk=x),
    "open(retention_ms=)": lambda b, x: streamlog.open(retention_ms=x),
    "create_topic": lambda b, x: b.log.create_topic(x, exist_ok=True),
    "create_topic(partitions=)": lambda b, x: b.log.create_topic("u", partitions=x, exist_ok=True),
    "topic": lambda b, x: b.log.topic(x),
    "delete_topic": lambda b, x: b.log.delete_topic(x),
    "consumer": lambda b, x: b.log.consumer(x),
    "producer(linger_ms=)": lambda b, x: b.log.producer(linger_ms=x),
    "send(topic)": lambda b, x: b.producer.send(x, "v"),
    "send(topic) with a linger": lambda b, x: b.lingering.send(x, "v"),
    "send(value)": lambda b, x: b.producer.send("t", x),
    "send(value) with a linger": lambda b, x: b.lingering.send("t", x),
    "send(key)": lambda b, x: b.producer.send("t", "v", x),
    "send(headers=)": lambda b, x: b.producer.send("t", "v", headers=x),
    "send(headers={name: x})": lambda b, x: b.producer.send("t", "v", headers={"name": x}),
    "send(partition=)": lambda b, x: b.producer.send("t", "v", partition=x),
    "send(timestamp_ms=)": lambda b, x: b.producer.send("t", "v", timestamp_ms=x),
    "send_many(topic)": lambda b, x: b.producer.send_many(x, ["v"]),
    "send_many([x])": lambda b, x: b.producer.send_many("t", ["v", x]),
    "send_many(keys=[x])": lambda b, x: b.producer.send_many("t", ["v"], [x]),
    "send_many(headers=)": lambda b, x: b.producer.send_many("t", ["v"], headers=x),
    "send_many(partition=)": lambda b, x: b.producer.send_many("t", ["v"], partition=x),
    "send_many(timestamps_ms=[x])": lambda b, x: b.producer.send_many("t", ["v"], timestamps_ms=[x]),
    "flush": lambda b, x: b.producer.flush(x),
    "poll(timeout)": lambda b, x: b.consumer.poll(min(x, 0) if type(x) is int else x),
    "poll(max_records=)": lambda b, x: b.consumer.poll(0, x),
    "commit({partition: x})": lambda b, x: b.member.commit({TopicPartition("t", 0): x}),
    "result": lambda b, x: b.lingering.send("t", "v").result(x),
    "group.reset(to=)": lambda b, x: b.idle.reset("t", to=x),
    "verify": lambda b, x: streamlog.verify(x) if not isinstance(x, str) else None,
}


def chain(error: BaseException) -> Iterator[BaseException]:
    """The errors that a traceback shows above `error`, the nearest first."""
    while True:
        below = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
        if below is None:
            return
        yield below
        error = below


def raised_by_us(error: BaseException) -> bool:
    """Whether code of the library raised it, and not the program's, the standard library's or the operating system."""
    frames = traceback.extract_tb(error.__traceback__)
    return not isinstance(error, OSError) and (not frames or frames[-1].filename.startswith(PACKAGE))


def read(call: Callable[[], object]) -> str:
    """The message of the library's error that a call raises."""
    with pytest.raises(StreamlogError) as caught:
        call()
    return str(caught.value)


@pytest.mark.parametrize("name", ARGUMENTS)
def test_an_error_of_the_library_shows_no_other_one_of_its_own(bench: Bench, name: str) -> None:
    for value in WRONG:
        try:
            result = ARGUMENTS[name](bench, value)
        except StreamlogError as error:
            assert not [each for each in chain(error) if raised_by_us(each)], f"{name} with {value!r}"
            assert str(error).endswith("."), f"{name} with {value!r}: {error}"
        else:
            if isinstance(result, StreamLog):
                result.close()


def test_an_error_that_the_program_caused_is_shown_as_the_cause(bench: Bench) -> None:
    def fails(_: object) -> bytes:
        raise LookupError("the program's")

    def pairs() -> Iterator[tuple[str, bytes]]:
        yield "a", b"1"
        raise ValueError("the program's")

    with bench.log.producer(value_serializer=fails) as producer:
        with pytest.raises(streamlog.SerializationError) as caught:
            producer.send("t", "v")
        assert isinstance(caught.value.__cause__, LookupError)
    with pytest.raises(streamlog.SerializationError) as caught:
        bench.producer.send("t", "v", headers=pairs())
    assert isinstance(caught.value.__cause__, ValueError)


# -- what a path names -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "given", ["kafka://host:9092", Path("kafka://host:9092"), Path("S3://bucket/key"), "file:///x"]
)
@pytest.mark.parametrize("call", [streamlog.open, streamlog.verify, lambda path: streamlog.repair(path, "new")])
def test_a_url_makes_no_directory(
    given: Any, call: Callable[[Any], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    message = read(lambda: call(given))
    scheme = str(given).split(":")[0].lower()
    assert f"cannot open {scheme}:// urls" in message.lower()
    assert "directory" in message
    assert not list(tmp_path.iterdir())
