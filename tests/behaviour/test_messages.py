"""What a person reads who makes a mistake: what happened, why, and what to do next."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import pickle
import re
import shutil
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import streamlog
import streamlog.cli.inspect
import streamlog.cli.records
import streamlog.cli.repair
import streamlog.cli.topics  # each adds its commands
from streamlog import StreamLog, StreamlogError, Topic, TopicPartition
from streamlog.broker.service import WATCH_MS
from streamlog.cli.app import app
from streamlog.testing import FaultyDisk, ManualClock

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
    "send_many(values)": lambda b, x: b.producer.send_many("t", x),
    "send_many(keys=)": lambda b, x: b.producer.send_many("t", ["v"], x),
    "send_many(timestamps_ms=)": lambda b, x: b.producer.send_many("t", ["v"], timestamps_ms=x),
    "send_many(topic)": lambda b, x: b.producer.send_many(x, ["v"]),
    "send_many([x])": lambda b, x: b.producer.send_many("t", ["v", x]),
    "send_many(keys=[x])": lambda b, x: b.producer.send_many("t", ["v"], [x]),
    "send_many(headers=)": lambda b, x: b.producer.send_many("t", ["v"], headers=x),
    "send_many(partition=)": lambda b, x: b.producer.send_many("t", ["v"], partition=x),
    "send_many(timestamps_ms=[x])": lambda b, x: b.producer.send_many("t", ["v"], timestamps_ms=[x]),
    "flush": lambda b, x: b.producer.flush(x),
    "poll(timeout)": lambda b, x: b.consumer.poll(min(x, 0) if isinstance(x, (int, float)) and x is not True else x),
    "poll(max_records=)": lambda b, x: b.consumer.poll(0, x),
    "commit({partition: x})": lambda b, x: b.member.commit({TopicPartition("t", 0): x}),
    "result": lambda b, x: b.lingering.send("t", "v").result(x),
    "group.reset(to=)": lambda b, x: b.idle.reset("t", to=x),
    "group.reset(topic)": lambda b, x: b.idle.reset(x, to="earliest"),
    "group.reset(to={partition: x})": lambda b, x: b.idle.reset(to={TopicPartition("t", 0): x}),
    "group.lag": lambda b, x: b.idle.lag(x),
    "group.evict": lambda b, x: b.idle.evict(x),
    "group": lambda b, x: b.log.group(x).members(),
    "run(handler)": lambda b, x: b.idle.run(x, "t", until_end=True) if x is not str else None,
    "run(topic)": lambda b, x: b.idle.run(print, x, until_end=True),
    **{
        f"run({name}=)": lambda b, x, name=name: b.idle.run(lambda _: None, "t", **{"until_end": True, name: x})  # type: ignore[misc]
        for name in ("workers", "retries", "retry_backoff_ms", "on_error", "until_end", "group")
    },
    "read(partition)": lambda b, x: b.topic.read(x),
    "read(start=)": lambda b, x: b.topic.read(start=x),
    "read(end=)": lambda b, x: b.topic.read(0, end=x),
    "read(isolation_level=)": lambda b, x: b.topic.read(isolation_level=x),
    "read_batches(start=)": lambda b, x: b.topic.read_batches(start=x),
    "partition": lambda b, x: b.topic.partition(x),
    "add_partitions": lambda b, x: b.compacted.add_partitions(x),
    "delete_records": lambda b, x: b.topic.delete_records(x),
    "delete_records({0: x})": lambda b, x: b.topic.delete_records({0: x}),
    "update_config(retention_bytes=)": lambda b, x: b.topic.update_config(retention_bytes=x),
    "topic(value_serde=)": lambda b, x: b.log.topic("t", value_serde=x),
    "consumer(value_deserializer=)": lambda b, x: b.log.consumer("t", value_deserializer=x),
    "consumer(group=)": lambda b, x: b.log.consumer("t", group=x),
    "consumer(listener=)": lambda b, x: b.log.consumer("t", group="h", listener=x),
    "consumer(strategy=)": lambda b, x: b.log.consumer("t", group="h", partition_assignment_strategy=x),
    "producer(partitioner=)": lambda b, x: b.log.producer(partitioner=x),
    "subscribe": lambda b, x: b.log.consumer().subscribe(x),
    "subscribe(listener=)": lambda b, x: b.log.consumer(group="h").subscribe("t", x),
    "assign": lambda b, x: b.log.consumer().assign(x),
    "seek(partition)": lambda b, x: b.consumer.seek(x, 0),
    "seek(offset)": lambda b, x: b.consumer.seek(TopicPartition("t", 0), x),
    "position": lambda b, x: b.consumer.position(x),
    "pause": lambda b, x: b.consumer.pause(x),
    "committed": lambda b, x: b.member.committed(x),
    "commit": lambda b, x: b.member.commit(x),
    "end_offsets": lambda b, x: b.consumer.end_offsets(x),
    "offsets_for_times": lambda b, x: b.consumer.offsets_for_times(x),
    "offsets_for_times({partition: x})": lambda b, x: b.consumer.offsets_for_times({TopicPartition("t", 0): x}),
    "until_end": lambda b, x: b.consumer.until_end(x),
    "producer.close": lambda b, x: b.log.producer().close(x),
    "repair(into=)": lambda b, x: streamlog.repair("nowhere", x) if not isinstance(x, str) else None,
    "Producer": lambda b, x: streamlog.Producer(x),
    "Consumer": lambda b, x: streamlog.Consumer(x, "t"),
    "Topic": lambda b, x: Topic(x, "t"),
    "ConsumerGroup": lambda b, x: streamlog.ConsumerGroup(x, "g"),
    "StreamLog": lambda b, x: StreamLog(x),
    "MaxAge": lambda b, x: streamlog.retention.MaxAge(x),
    "ManualClock": lambda b, x: ManualClock(x),
    "verify": lambda b, x: streamlog.verify(x) if not isinstance(x, str) else None,
}


def chain(error: BaseException, before: BaseException | None) -> Iterator[BaseException]:
    """The errors that a traceback shows above `error`, the nearest first, without those of `before` the call.

    A test that interrupted the library between two bytecodes may leave the interpreter in the middle of a handler: every error
    of this thread has that handler's as its context from then on.
    """
    while True:
        below = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
        if below is None or below is before:
            return
        yield below
        error = below


def handled_now() -> BaseException | None:
    """What any error that is raised now gets for its context. REQUIRES: outside a handler."""
    try:
        raise ValueError
    except ValueError as error:
        return error.__context__


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
    before = handled_now()
    for value in WRONG:
        try:
            result = ARGUMENTS[name](bench, value)
        except StreamlogError as error:
            assert not [each for each in chain(error, before) if raised_by_us(each)], f"{name} with {value!r}"
            assert str(error).endswith("."), f"{name} with {value!r}: {error}"
        else:
            if isinstance(result, StreamLog):
                result.close()


def test_an_error_of_a_poll_or_of_a_changed_log_shows_no_other_one_either(open_log: OpenLog, path: Path) -> None:
    before = handled_now()
    log = open_log()
    log.create_topic("t", partitions=2).send_many(["a", "b"], partition=0)
    log.create_topic("gone").send("v")
    by_hand, strict = log.consumer(), log.consumer("t", auto_offset_reset="none")
    by_hand.assign([TopicPartition("gone", 0)])
    by_hand.poll()
    handle = log["gone"]
    log.delete_topic("gone")
    calls: list[Callable[[], object]] = [
        by_hand.poll, strict.poll, lambda: next(strict), lambda: handle.send("v"), handle.read,
        lambda: log.create_topic("t"), lambda: log.create_topic("t", partitions=5, exist_ok=True),
    ]  # fmt: skip
    for call in calls:
        with pytest.raises(StreamlogError) as caught:
            call()
        assert not list(chain(caught.value, before))


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


# -- what a message says -----------------------------------------------------------------------------

SAYS: dict[str, tuple[Callable[[Bench], object], tuple[str, ...]]] = {
    # settings
    "open(readonly=True)": (
        lambda b: streamlog.open("data", readonly=True),  # type: ignore[call-arg]
        ("'readonly' is not a setting of a log", "did you mean 'read_only'?"),
    ),
    "a duration in the notation of the terminal": (
        lambda b: b.log.create_topic("u", retention_ms="7d"),  # type: ignore[arg-type]
        ("int of milliseconds or a timedelta", "'7d' (str)", "retention_ms=604_800_000"),
    ),
    "a size in the notation of the terminal": (
        lambda b: b.log.create_topic("u", segment_bytes="64MiB"),  # type: ignore[arg-type]
        ("int of bytes", "'64MiB' (str)", "segment_bytes=67_108_864"),
    ),
    "a timedelta where there is an int": (
        lambda b: b.log.producer(linger_ms=timedelta(seconds=2)),  # type: ignore[arg-type]
        ("int of milliseconds, not", "(timedelta)", "linger_ms=2_000"),
    ),
    "a float that is whole": (
        lambda b: b.log.producer(linger_ms=5.0),  # type: ignore[arg-type]
        ("5.0 (float)", "linger_ms=5."),
    ),
    "a number as text": (
        lambda b: b.log.consumer("t", max_poll_records="10"),  # type: ignore[arg-type]
        ("has to be an int, not '10' (str)", "max_poll_records=10"),
    ),
    "a count out of range": (
        lambda b: b.log.consumer("t", max_poll_records=0),
        ("max_poll_records=0 is out of range: 1 to ",),
    ),
    "a flag as text": (
        lambda b: streamlog.open("data", read_only="yes"),  # type: ignore[arg-type]
        ("read_only='yes' (str) is not one of False, True.",),
    ),
    "another tool's word for earliest": (
        lambda b: b.log.consumer("t", auto_offset_reset="beginning"),  # type: ignore[arg-type]
        ("auto_offset_reset='beginning' is not one of", "did you mean 'earliest'?"),
    ),
    "Kafka's number for all": (
        lambda b: b.log.producer(acks=-1),  # type: ignore[arg-type]
        ("acks=-1 is not one of 0, 1, 'all'", "did you mean 'all'?"),
    ),
    "a server": (
        lambda b: b.log.producer(**{"bootstrap.servers": "host:9092"}),  # type: ignore[arg-type]
        ("'bootstrap.servers' is not a setting of a producer", "streamlog.open(path)", "no servers"),
    ),
    "a setting of the workers": (
        lambda b: b.log.consumer("t", on_error="skip"),  # type: ignore[call-arg]
        ("'on_error' is not a setting of a consumer", "log.group(name).run(handler, topic, …)"),
    ),
    "a misspelt setting of the workers": (
        lambda b: b.group.run(print, "t", retry=3),  # type: ignore[call-arg]
        ("'retry' is not a setting of a worker", "did you mean 'retries'?", "retry_backoff_ms, session_timeout_ms"),
    ),
    "workers that cannot deserialize": (
        lambda b: b.idle.run(print, b.log.topic("t", value_serde=streamlog.serde.json), until_end=True),
        ("The deserializer failed on the record at offset", "workers go on after it with on_error='skip'"),
    ),
    "workers without topics": (lambda b: b.idle.run(print), ("topics after the handler",)),
    "a group for a consumer of a group": (
        lambda b: b.group.consumer("t", group="other"),
        ("group= is this group's own name",),
    ),
    "partitions as a change of settings": (
        lambda b: b.topic.update_config(partitions=5),  # type: ignore[call-arg]
        ("'partitions' is not a setting of a topic: ", "topic.add_partitions(total)"),
    ),
    "another library's end of a loop": (
        lambda b: b.log.consumer("t", consumer_timeout_ms=1000),  # type: ignore[call-overload]
        ("'consumer_timeout_ms' is not a setting of a consumer: ", "until_end(timeout=…)"),
    ),
    "another tool's way to the beginning": (
        lambda b: b.log.consumer("t", from_beginning=True),  # type: ignore[call-overload]
        ("'from_beginning' is not a setting of a consumer: ", "reset(to='earliest')"),
    ),
    "SQL's words for exist_ok": (
        lambda b: b.log.create_topic("t", if_not_exists=True),  # type: ignore[call-arg]
        ("'if_not_exists' is not a setting of a topic", "did you mean 'exist_ok'?"),
    ),
    "a dict without a serializer": (
        lambda b: b.topic.send({"amount": 5}),
        ("value is of type dict", "log.producer(value_serializer=streamlog.serde.json)", "log.topic(name, value_serde="),
    ),
    "reset of a group with a member": (
        lambda b: b.group.reset("t", to="earliest"),
        ("group 'g': it has 1 member. Close its consumers first", "evict(member_id)"),
    ),
    "deletion of no group": (lambda b: b.idle.delete(), ("There is no group 'idle'", "Check the name.")),
    "a setting of a producer": (
        lambda b: b.log.create_topic("u", linger_ms=5),  # type: ignore[call-arg]
        ("'linger_ms' is not a setting of a topic", "log.producer(linger_ms=…)"),
    ),
    "a serde when a topic is created": (
        lambda b: b.log.create_topic("u", value_serde=streamlog.serde.json),  # type: ignore[call-arg]
        ("'value_serde' is not a setting of a topic", "log.topic(name, value_serde=…)"),
    ),
    "a module as clock": (
        lambda b: streamlog.open(clock=time),  # type: ignore[arg-type]
        ("clock=<module 'time' (built-in)> (module)", "time_ms() and monotonic()", "streamlog.testing.ManualClock"),
    ),
    "a class as clock": (
        lambda b: streamlog.open(clock=ManualClock),  # type: ignore[arg-type]
        ("(type)", "object with time_ms() and monotonic()"),
    ),
    "a class as listener": (
        lambda b: b.log.consumer("t", group="g", listener=streamlog.RebalanceListener),  # type: ignore[arg-type]
        ("RebalanceListener", "Give an object"),
    ),
    "until_end that is not a bool": (
        lambda b: b.idle.run(print, "t", until_end=None),  # type: ignore[arg-type]
        ("until_end=None is not one of True, False.",),
    ),
    "a dead-letter topic without dead letters": (
        lambda b: b.idle.run(print, "t", dead_letter_topic="dead"),
        ("dead_letter_topic='dead' has no effect with on_error='stop'", "on_error='dead_letter'"),
    ),
    "a handler after its topic": (
        lambda b: b.idle.run("t", print),  # type: ignore[arg-type]
        ("handler='t' (str) cannot be called", "and the topics after it"),
    ),
    "a codec in capitals": (
        lambda b: b.log.producer(compression_type="GZIP"),
        ("compression_type='GZIP' is not one of", "did you mean 'gzip'?"),
    ),
    "policies in Kafka's other order": (
        lambda b: b.log.create_topic("u", cleanup_policy="delete,compact"),  # type: ignore[arg-type]
        ("did you mean 'compact,delete'?",),
    ),
    "a time in seconds": (
        lambda b: b.topic.send("v", timestamp_ms=1.7e9),  # type: ignore[arg-type]
        ("int of milliseconds since the epoch", "int(time.time() * 1000)", "(float)"),
    ),
    "a header whose name UTF-8 cannot encode": (
        lambda b: b.topic.send("v", headers={"\ud800": b""}),
        ("name of a header", "UTF-8 cannot encode"),
    ),
    "poll(max_records=0)": (lambda b: b.consumer.poll(0, 0), ("max_records=0 is not a positive int.",)),
    "a str for the serde of bytes": (
        lambda b: b.log.topic("t", value_serde=streamlog.serde.bytes_).send("v"),
        ("value serializer failed on a str", "takes bytes, bytearray or memoryview"),
    ),
    "ManualClock(None)": (lambda b: ManualClock(None), ("start_ms has to be an int", "not None")),  # type: ignore[arg-type]
    "advance('1')": (lambda b: ManualClock().advance("1"), ("advance('1' (str))", "timedelta")),  # type: ignore[arg-type]
    "jump(a timedelta)": (
        lambda b: ManualClock().jump(timedelta(seconds=1)),  # type: ignore[arg-type]
        ("int of milliseconds", "write ms=1_000"),
    ),
    "attach(None)": (lambda b: b.log.attach(None), ("makes a listener", "not None")),  # type: ignore[arg-type]
    # constructors without a log
    "StreamLog('d')": (
        lambda b: StreamLog("d"),  # type: ignore[arg-type]
        ("streamlog.open(path)", "'d' (str)"),
    ),
    "Producer('d')": (
        lambda b: streamlog.Producer("d"),  # type: ignore[arg-type]
        ("takes an open log first, not 'd' (str)", "log.producer(…)"),
    ),
    "Consumer('d', 't')": (
        lambda b: streamlog.Consumer("d", "t"),  # type: ignore[arg-type]
        ("takes an open log first, not 'd' (str)", "log.consumer(topic, …)"),
    ),
    "Topic('d', 't')": (
        lambda b: Topic("d", "t"),  # type: ignore[arg-type]
        ("takes an open log first, not 'd' (str)", "log.topic(name)"),
    ),
    "ConsumerGroup('d', 'g')": (
        lambda b: streamlog.ConsumerGroup("d", "g"),  # type: ignore[arg-type]
        ("takes an open log first, not 'd' (str)", "log.group(name)"),
    ),
    # topics and partitions
    "a list of topics": (
        lambda b: b.log.consumer(["t"]),  # type: ignore[arg-type]
        ("name or a Topic, not ['t'] (list)", "give each as an argument"),
    ),
    "a pattern as a str": (
        lambda b: b.log.consumer("order.*"),
        ("'order.*' is not a valid name of a topic.", "For a pattern, give re.compile('order.*')."),
    ),
    "a name as bytes": (lambda b: b.log.delete_topic(b"t"), ("has to be a str, not b't' (bytes).",)),  # type: ignore[arg-type]
    "read('0')": (
        lambda b: b.topic.read("0"),  # type: ignore[arg-type]
        ("Topic 't' has partitions 0 to 1", "ints, not '0' (str)"),
    ),
    "read(True)": (lambda b: b.topic.read(True), ("ints, not True (bool)",)),
    "read(2)": (lambda b: b.topic.read(2), ("Topic 't' has partitions 0 to 1, and no 2.",)),
    "send(partition='1')": (
        lambda b: b.topic.send("v", partition="1"),  # type: ignore[arg-type]
        ("partitions 0 to 1", "ints, not '1' (str)"),
    ),
    "partition(None)": (lambda b: b.compacted.partition(None), ("has partition 0 only", "not None")),  # type: ignore[arg-type]
    "seek('t')": (
        lambda b: b.consumer.seek("t", 0),  # type: ignore[arg-type]
        ("TopicPartition", "('orders', 0), not 't' (str)"),
    ),
    "assign(one partition)": (
        lambda b: b.consumer.assign(TopicPartition("t", 0)),  # type: ignore[arg-type]
        ("iterable, such as [TopicPartition('orders', 0)]", "(TopicPartition)"),
    ),
    "assign(None)": (lambda b: b.consumer.assign(None), ("iterable", "not None")),  # type: ignore[arg-type]
    # offsets and times
    "read(start=a date)": (
        lambda b: b.topic.read(start=date(2026, 1, 1)),  # type: ignore[arg-type]
        ("start=datetime.date(2026, 1, 1) (date) names no offset", "aware datetime"),
    ),
    "read(start=None)": (lambda b: b.topic.read(start=None), ("start=None names no offset", "'earliest'")),  # type: ignore[arg-type]
    "read(end='end')": (
        lambda b: b.topic.read(end="end"),  # type: ignore[arg-type]
        ("end='end' (str) names no offset", "did you mean 'latest'?"),
    ),
    "read(start=a naive datetime)": (
        lambda b: b.topic.read(start=datetime(2026, 1, 1)),
        ("has no time zone", "tzinfo=datetime.UTC", "astimezone() makes one of a local time"),
    ),
    "reset(to=5)": (
        lambda b: b.idle.reset("t", to=5),  # type: ignore[arg-type]
        ("to=5 (int) names no offset", "mapping of TopicPartition"),
    ),
    "delete_records(5)": (
        lambda b: b.topic.delete_records(5),  # type: ignore[arg-type]
        ("mapping of partition number to offset", "5 (int)"),
    ),
    "offsets_for_times(None)": (
        lambda b: b.consumer.offsets_for_times(None),  # type: ignore[arg-type]
        ("mapping of TopicPartition to a time, not None.",),
    ),
    "poll(None)": (
        lambda b: b.consumer.poll(None),  # type: ignore[arg-type]
        ("timeout=None", "number of seconds", "loop over the consumer waits without a limit"),
    ),
    "poll('1')": (lambda b: b.consumer.poll("1"), ("timeout='1' (str) is not a number of seconds",)),  # type: ignore[arg-type]
    "poll(a timedelta)": (
        lambda b: b.consumer.poll(timedelta(seconds=1)),  # type: ignore[arg-type]
        ("(timedelta)", ".total_seconds()"),
    ),
    "send(headers='x')": (
        lambda b: b.topic.send("v", headers="x"),  # type: ignore[arg-type]
        ("headers= takes a mapping", "pairs", "not 'x' (str)."),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SAYS)
def test_a_message_says_what_was_given_and_what_is_accepted(bench: Bench, name: str) -> None:
    call, phrases = SAYS[name]
    message = read(lambda: call(bench))
    assert message.endswith(".")
    for phrase in phrases:
        assert phrase in message, message


def test_durations_are_ints_or_timedeltas_wherever_none_means_unlimited(log: StreamLog) -> None:
    topic = log.create_topic("t", retention_ms=timedelta(days=7), segment_ms=timedelta(hours=1))
    assert topic.config["retention_ms"] == 604_800_000
    topic.update_config(delete_retention_ms=timedelta(seconds=1))
    assert topic.config["delete_retention_ms"] == 1000


def test_a_closed_handle_says_how_its_log_is_opened_again(open_log: OpenLog, path: Path) -> None:
    log = open_log()
    topic, producer, consumer = log.create_topic("t"), log.producer(), log.consumer("t")
    log.close()
    uses: list[Callable[[], object]] = [
        log.topics, lambda: topic.send("v"), topic.read, lambda: producer.send("t", "v"), consumer.poll, log.groups,
    ]  # fmt: skip
    for use in uses:
        assert f"streamlog.open({str(path)!r})" in read(use)


@pytest.mark.parametrize("error", [errno.EACCES, errno.EROFS])
def test_a_directory_that_cannot_be_written_can_be_read_only(open_log: OpenLog, path: Path, error: int) -> None:
    open_log().close()
    disk = FaultyDisk()
    disk.fail("lock", error)
    assert "to read only, open it with read_only=True" in read(lambda: streamlog.open(path, disk=disk))
    disk.fail("makedirs", error)
    assert "read_only" not in read(lambda: streamlog.open(path / "new", disk=disk))


def test_a_closed_temporary_log_says_that_it_is_gone() -> None:
    log = streamlog.open()
    log.close()
    assert "temporary, and was removed when it was closed" in read(log.topics)


def test_the_terminal_refuses_a_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = CliRunner().invoke
    for arguments, environment in (
        (["-d", "kafka://host:9092", "topic", "create", "t"], {}),
        (["topic", "create", "t"], {"STREAMLOG_DIR": "kafka://host:9092"}),
        (["topic", "list", "-d", "kafka://host:9092"], {}),
        (["verify", "kafka://host:9092"], {}),
    ):
        result = run(app, arguments, env={"STREAMLOG_DIR": None, **environment})
        assert result.exit_code == 1
        assert "cannot open kafka:// URLs" in result.stderr
    assert run(app, ["repair", "kafka://host:9092", "new"]).exit_code == 2
    assert not list(tmp_path.iterdir())


# -- send_many ---------------------------------------------------------------------------------------


class Unpicklable:
    def __reduce__(self) -> Any:
        raise RuntimeError("not to be pickled")

    def __repr__(self) -> str:
        return "<an order>"


ODD = Unpicklable()
LARGE = b"x" * 2_000_000
AT_FAULT: dict[str, tuple[Callable[[Bench, Any], object], type[StreamlogError], int, Any, str]] = {
    "value": (
        lambda b, p: p.send_many("t", ["a", b"b", ODD, "c"]),
        streamlog.SerializationError, 2, ODD, "values[2], <an order>: The value is of type Unpicklable",
    ),
    "value of an iterator": (
        lambda b, p: p.send_many("t", iter(["a", 7])), streamlog.SerializationError, 1, 7, "values[1], 7: ",
    ),
    "key": (
        lambda b, p: p.send_many("t", ["a", "b"], ["k", 1.5]), streamlog.SerializationError, 1, 1.5, "keys[1], 1.5: The key",
    ),
    "value that the serializer refuses": (
        lambda b, p: p.send_many(b.log.topic("t", value_serde=streamlog.serde.json), [1, {2}, 3]),
        streamlog.SerializationError, 1, {2}, "values[1], {2}: The value serializer failed on a set",
    ),
    "missing key": (
        lambda b, p: p.send_many("compacted", ["a", "b"], ["k", None]),
        streamlog.InvalidRecordError, 1, None, "keys[1], None: Topic 'compacted' is compacted",
    ),
    "no keys": (
        lambda b, p: p.send_many("compacted", ["a"]), streamlog.InvalidRecordError, 0, None, "keys[0], None: ",
    ),
    "timestamp": (
        lambda b, p: p.send_many("t", ["a", "b"], timestamps_ms=iter([1, -1])),
        streamlog.InvalidTimestampError, 1, -1, "timestamps_ms[1], -1: ",
    ),
    "large value": (
        lambda b, p: p.send_many("t", ["a", LARGE, "c"]), streamlog.RecordTooLargeError, 1, LARGE, "values[1], b'xxx",
    ),
}  # fmt: skip


@pytest.mark.parametrize("linger_ms", [0, 50])
@pytest.mark.parametrize("what", AT_FAULT)
def test_send_many_names_the_record_at_fault(bench: Bench, what: str, linger_ms: int) -> None:
    call, kind, index, value, says = AT_FAULT[what]
    before = [bench.topic.partition(n).log_end_offset for n in range(2)]
    with bench.log.producer(linger_ms=linger_ms) as producer, pytest.raises(kind) as caught:
        call(bench, producer)
    error: Any = caught.value
    assert (error.index, error.value) == (index, value)
    assert str(error).startswith(says)
    assert len(str(error)) < 500
    assert [bench.topic.partition(n).log_end_offset for n in range(2)] == before
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.index) == (str(error), index)
    assert again.value == (value if isinstance(value, (str, bytes, int, float)) else None)


@pytest.mark.parametrize(
    "call",
    [
        lambda p: p.send_many("t", None),
        lambda p: p.send_many("t", 5),
        lambda p: p.send_many("t", ["a"], 5),
        lambda p: p.send_many("t", ["a"], timestamps_ms=5),
    ],
)
def test_send_many_of_what_has_no_items_says_what_it_takes(bench: Bench, call: Callable[[Any], object]) -> None:
    message = read(lambda: call(bench.producer))
    assert "send_many takes an iterable of" in message
    assert "one for each record, not" in message
    assert "None" in message or "5 (int)" in message


def test_what_the_programs_iterable_raises_passes_through_send_many(bench: Bench) -> None:
    def values() -> Iterator[str]:
        yield "a"
        raise TypeError("the program's")

    with pytest.raises(TypeError, match="the program's"):
        bench.producer.send_many("t", values())


# -- what was silent ---------------------------------------------------------------------------------


def test_exist_ok_with_other_settings_lists_those_that_differ(log: StreamLog) -> None:
    log.create_topic("t", partitions=2, retention_ms=60_000)
    with pytest.raises(streamlog.TopicAlreadyExistsError) as caught:
        log.create_topic("t", partitions=5, retention_ms=None, retention_bytes=1000, exist_ok=True)
    for phrase in (
        "'t' exists already with other settings", "partitions is 2, not 5", "retention_ms is 60000, not None",
        "retention_bytes is None, not 1000", "Leave those out", "update_config", "add_partitions",
    ):  # fmt: skip
        assert phrase in str(caught.value)
    assert caught.value.differences is not None
    assert set(caught.value.differences) == {"partitions", "retention_ms", "retention_bytes"}
    assert log["t"].partitions == 2


def test_exist_ok_with_the_same_settings_or_none_returns_the_topic(open_log: OpenLog, path: Path) -> None:
    settings: dict[str, Any] = {
        "retention_ms": timedelta(minutes=1),
        "segment_ms": None,
        "cleanup_policy": "compact,delete",
    }
    log = open_log(partitions=3)
    topic = log.create_topic("t", partitions=2, **settings)
    assert log.create_topic("t", partitions=2, exist_ok=True, **settings) == topic
    assert log.create_topic("t", exist_ok=True).partitions == 2  # the default of open() is for new topics
    assert log.create_topic("t", exist_ok=True, retention_ms=60_000) == topic


def test_exist_ok_is_a_bool(log: StreamLog) -> None:
    assert "exist_ok='yes' (str) is not one of True, False." in read(lambda: log.create_topic("t", exist_ok="yes"))  # type: ignore[arg-type]


def test_the_terminal_creates_a_topic_that_exists_with_exist_ok(tmp_path: Path) -> None:
    run, where = CliRunner().invoke, ["-d", str(tmp_path / "log")]
    assert run(app, [*where, "topic", "create", "t", "-p", "3"]).exit_code == 0
    assert run(app, [*where, "topic", "create", "t", "--exist-ok"]).exit_code == 0
    result = run(app, [*where, "topic", "create", "t", "--exist-ok", "-p", "2"])
    assert result.exit_code == 1
    assert "partitions is 3, not 2" in result.stderr
    assert "update_config" not in result.stderr


@pytest.mark.parametrize(
    ("given", "phrases"),
    [
        (
            "json",
            ("value_serde='json' (str) is not a Serde", "serialize() and deserialize()", "mean streamlog.serde.json?"),
        ),
        (json, ("(module)", "did you mean streamlog.serde.json?")),
        (streamlog.serde, ("(module)", "give one such as streamlog.serde.json")),
        (type(streamlog.serde.json), ("did you mean an object of that class, JsonSerde()?",)),
        ({"t": "json"}, ("'json' (str) is not a Serde",)),
        (5, ("5 (int)",)),
    ],
    ids=str,
)
def test_what_is_not_a_serde_is_refused_when_the_handle_is_made(
    log: StreamLog, given: Any, phrases: tuple[str, ...]
) -> None:
    log.create_topic("t")
    message = read(lambda: log.topic("t", value_serde=given))
    for phrase in phrases:
        assert phrase in message, message
    assert "key_serde=" in read(lambda: Topic(log, "t", key_serde=given))


@pytest.mark.parametrize("group", [None, "g"])
def test_a_poll_of_a_deleted_topic_warns_once(log: StreamLog, group: str | None) -> None:
    log.create_topic("kept")
    log.create_topic("orders").send("v")
    with log.consumer("orders", "kept", group=group) as consumer:
        assert len(consumer.poll()) == 1
        log.delete_topic("orders")
        with pytest.warns(UserWarning) as caught:
            assert consumer.poll() == []
        message = str(caught[0].message)
        assert "Topic 'orders', which this consumer reads, was deleted: no more records come from there" in message
        assert (
            "Created again, it is read as new; otherwise close the consumer, or subscribe() to other topics" in message
        )
        assert caught[0].filename == __file__
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert consumer.poll() == []
            log.create_topic("orders").send("w")
            assert [record.value for record in consumer.poll()] == [b"w"]
        log.delete_topic("orders")
        with pytest.warns(UserWarning, match="'orders', which this consumer reads, was deleted"):
            consumer.poll()


def test_a_loop_over_a_deleted_topic_warns_before_it_waits(log: StreamLog) -> None:
    log.create_topic("orders").send("v")
    with log.consumer("orders") as consumer:
        next(consumer)
        log.delete_topic("orders")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with pytest.raises(UserWarning, match="'orders', which this consumer reads, was deleted"):
                next(consumer)


def test_sends_into_a_removed_directory_raise_from_the_next_look_on(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log = streamlog.open(path)
    log.create_topic("t")
    producer = log.producer()
    producer.send("t", "v")
    shutil.rmtree(path)
    due: Any = log._engine.service
    due.timers.run_due(due.clock.time_ms() + WATCH_MS)
    for send in (lambda: producer.send("t", "w"), lambda: producer.send_many("t", ["w"])):
        message = read(send)
        for phrase in (
            str(path),
            "was removed, renamed or replaced",
            "Close every handle on the log, then open the path again",
        ):
            assert phrase in message
    assert "was removed, renamed or replaced" in caplog.text
    with contextlib.suppress(StreamlogError):
        log.close()


def test_a_log_looks_after_its_directory_once_a_second(path: Path) -> None:
    with streamlog.open(path) as log:
        service: Any = log._engine.service
        looks: list[int] = []
        service.check_owned = lambda: looks.append(0)
        for n in range(1, 50):
            service.timers.run_due(service.clock.time_ms() + WATCH_MS + n * 100)
        assert 4 <= len(looks) <= 7


def test_the_terminal_names_its_own_options(tmp_path: Path) -> None:
    run, where = CliRunner().invoke, ["-d", str(tmp_path / "log"), "topic", "create", "t"]
    assert "'--partitions' / '-p': Input should be greater than or equal to 1" in run(app, [*where, "-p", "0"]).stderr
    for setting in ("linger_ms=5", "value_serde=json", "on_error=skip"):
        message = run(app, [*where, "--config", setting]).stderr
        assert f"{setting.split('=')[0]!r} is not a setting of a topic" in message
        assert "log." not in message
    message = run(app, ["-d", str(tmp_path / "log"), "produce", "t", "-z", "zst"], input="v").stderr
    assert "'zst' is not a codec (did you mean 'zstd'?): give one of none, gzip, snappy, lz4, zstd." in message
    assert run(app, where).exit_code == 0
    message = run(app, ["repair", str(tmp_path / "log"), str(tmp_path)]).stderr
    assert f"'{tmp_path}' is not empty; give a new directory" in message
    assert "into=" not in message


def test_asking_for_the_subscription_hides_no_new_topic_from_the_next_poll(log: StreamLog) -> None:
    log.create_topic("a1")
    with log.consumer(re.compile("a.*")) as consumer:
        consumer.poll()
        log.create_topic("a2").send("v")
        assert consumer.subscription() == {"a1", "a2"}
        assert [record.topic for record in consumer.poll()] == ["a2"]


def test_a_topic_is_in_its_log_until_it_is_deleted(log: StreamLog) -> None:
    topic = log.create_topic("t")
    with streamlog.open() as other:
        assert topic in log
        assert other.create_topic("t") not in log
    log.delete_topic("t")
    log.create_topic("t")
    assert topic not in log
    assert None not in log
