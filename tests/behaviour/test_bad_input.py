"""Bad input: a typed error that says what is wrong, and not a byte of the log changed."""

from __future__ import annotations

import errno
import itertools
import json
import os
import random
import shutil
import signal
import struct
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

import streamlog
from streamlog import ConfigError, StorageError, StreamLog, Topic
from streamlog.testing import FaultyDisk, ManualClock, SimulatedDisk

Authoritative = Callable[[], dict[str, bytes]]
OpenLog = Callable[..., StreamLog]
HOUR_MS = 3_600_000


@pytest.fixture
def filled(log: StreamLog) -> StreamLog:
    """A log with a plain topic of two partitions whose start has moved, and a compacted one."""
    topic = log.create_topic("t", partitions=2, segment_bytes=4096, max_message_bytes=10_000)
    for n in range(60):
        topic.send(b"%d" % n + b"." * 200, b"%d" % n, partition=n % 2)
    topic.delete_records({0: 5})
    log.create_topic("compacted", cleanup_policy="compact").send(b"v", b"k")
    return log


BAD_CALLS: dict[str, tuple[type[Exception], str, Callable[[StreamLog, Topic], object]]] = {
    "bad topic name": (streamlog.InvalidTopicError, "a/b", lambda log, t: log.create_topic("a/b")),
    "topic name with a newline": (streamlog.InvalidTopicError, "", lambda log, t: log.create_topic("orders\n")),
    "topic name that is too long": (streamlog.InvalidTopicError, "249", lambda log, t: log.create_topic("a" * 250)),
    "topic that exists": (streamlog.TopicAlreadyExistsError, "t", lambda log, t: log.create_topic("t")),
    "unknown topic": (streamlog.UnknownTopicOrPartitionError, "absent", lambda log, t: log["absent"]),
    "deleting an unknown topic": (
        streamlog.UnknownTopicOrPartitionError,
        "absent",
        lambda log, t: log.delete_topic("absent"),
    ),
    "oversized value": (streamlog.RecordTooLargeError, "10000", lambda log, t: t.send(b"x" * 10_001)),
    "oversized key": (streamlog.RecordTooLargeError, "10000", lambda log, t: t.send(b"", b"x" * 10_001)),
    "oversized headers": (
        streamlog.RecordTooLargeError,
        "10000",
        lambda log, t: t.send(b"", headers=[(f"h{n}", b"x" * 100) for n in range(101)]),
    ),
    "oversized header name": (
        streamlog.RecordTooLargeError,
        "10000",
        lambda log, t: t.send(b"", headers={"h" * 10_001: b""}),
    ),
    "oversized record among many": (
        streamlog.RecordTooLargeError,
        "10000",
        lambda log, t: t.send_many([b"x"] * 50 + [b"x" * 10_001]),
    ),
    "unknown partition to send to": (
        streamlog.UnknownTopicOrPartitionError,
        "7",
        lambda log, t: t.send(b"x", partition=7),
    ),
    "unknown partition to read": (streamlog.UnknownTopicOrPartitionError, "7", lambda log, t: t.read(7)),
    "unknown partition to delete from": (
        streamlog.UnknownTopicOrPartitionError,
        "7",
        lambda log, t: t.delete_records({0: 6, 7: 0}),
    ),
    "offset beyond the end": (streamlog.OffsetOutOfRangeError, "30", lambda log, t: t.read(0, start=31)),
    "offset before the start": (streamlog.OffsetOutOfRangeError, "5", lambda log, t: t.read(0, start=4)),
    "deletion beyond the end": (
        streamlog.OffsetOutOfRangeError,
        "30",
        lambda log, t: t.delete_records({1: 3, 0: 31}),
    ),
    "negative timestamp": (streamlog.InvalidTimestampError, "-1", lambda log, t: t.send(b"x", timestamp_ms=-1)),
    "timestamp too far ahead": (
        streamlog.InvalidTimestampError,
        "",
        lambda log, t: t.send(b"x", timestamp_ms=1_700_000_000_000 + HOUR_MS + 1),
    ),
    "timestamp too far ahead among many": (
        streamlog.InvalidTimestampError,
        "",
        lambda log, t: t.send_many([b"x", b"y"], timestamps_ms=[0, 2 * 1_700_000_000_000]),
    ),
    "timestamp that is no int": (
        (streamlog.StreamlogError, TypeError),  # type: ignore[dict-item]
        "",
        lambda log, t: t.send(b"x", timestamp_ms=datetime(2026, 1, 1)),  # type: ignore[arg-type]
    ),
    "value that is not bytes": (streamlog.SerializationError, "int", lambda log, t: t.send(7)),
    "value that is no text": (streamlog.SerializationError, "", lambda log, t: t.send("\ud800")),
    "one key for ever": (TypeError, "2 or more keys", lambda log, t: t.send_many([b"x"], itertools.repeat(b"k"))),
    "one timestamp for ever": (
        ValueError,
        "2 or more timestamps",
        lambda log, t: t.send_many([b"x"], timestamps_ms=itertools.repeat(0)),
    ),
    "a setting that is a parameter, of a topic": (
        ConfigError,
        "did you mean 'partitions'",
        lambda log, t: log.create_topic("n", partition=2),
    ),
    "a setting that is a parameter, of a log": (
        ConfigError,
        "did you mean 'read_only'",
        lambda log, t: streamlog.open("n", readonly=True),
    ),
    "a path with a scheme": (ConfigError, "without a scheme", lambda log, t: streamlog.open("kafka://localhost:9092")),
    "one string for many values": (TypeError, "", lambda log, t: t.send_many("abc")),
    "no key in a compacted topic": (streamlog.StreamlogError, "key", lambda log, t: log["compacted"].send(b"v")),
    "unknown codec": (
        (streamlog.ConfigError, streamlog.UnsupportedCompressionTypeError),  # type: ignore[dict-item]
        "rar",
        lambda log, t: t.update_config(compression_type="rar"),
    ),
    "unknown setting": (
        streamlog.ConfigError,
        "retention_ms",
        lambda log, t: t.update_config(**{"retention.ms": 5}),
    ),
    "setting out of range": (
        streamlog.ConfigError,
        "retention_bytes",
        lambda log, t: t.update_config(retention_bytes=-9),
    ),
    "one of two settings out of range": (
        streamlog.ConfigError,
        "retention_bytes",
        lambda log, t: t.update_config(retention_ms=5, retention_bytes=-9),
    ),
    "fewer partitions": (streamlog.StreamlogError, "2", lambda log, t: t.add_partitions(1)),
    "no acks and idempotence": (
        streamlog.ConfigError,
        "acks",
        lambda log, t: log.producer(acks=0, enable_idempotence=True),
    ),
    "linger longer than the delivery timeout": (
        streamlog.ConfigError,
        "delivery_timeout_ms",
        lambda log, t: log.producer(linger_ms=5000, delivery_timeout_ms=100),
    ),
    "record larger than the buffer": (
        streamlog.RecordTooLargeError,
        "1000",
        lambda log, t: log.producer(buffer_memory=1000).send("t", b"x" * 5000),
    ),
}


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("name", BAD_CALLS)
def test_bad_call_raises_and_changes_nothing(filled: StreamLog, authoritative: Authoritative, name: str) -> None:
    error, fact, use = BAD_CALLS[name]
    topic = filled["t"]
    before = authoritative()
    config = dict(topic.config)
    with pytest.raises(error) as caught:
        use(filled, topic)
    assert fact in str(caught.value)
    assert authoritative() == before
    assert dict(filled["t"].config) == config
    assert sorted(filled) == ["compacted", "t"]
    assert topic.send(b"life goes on", partition=0).result().offset == 30


def test_use_after_close_changes_nothing(filled: StreamLog, authoritative: Authoritative) -> None:
    topic, producer = filled["t"], filled.producer(linger_ms=1000)
    filled.close()
    before = authoritative()
    for use in (lambda: topic.send(b"x"), lambda: producer.send("t", b"x"), lambda: topic.delete(), topic.compact):
        with pytest.raises(streamlog.ClosedError):
            use()
    assert authoritative() == before


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_use_after_fork_raises_and_touches_nothing(filled: StreamLog, authoritative: Authoritative) -> None:
    topic, producer, lingering = filled["t"], filled.producer(), filled.producer(linger_ms=1000)
    lingering.send("t", b"of the parent", partition=1)
    before = authoritative()
    uses: list[Callable[[], object]] = [
        lambda: topic.send(b"x"),
        topic.read,
        lambda: producer.send("t", b"x"),
        lambda: filled.create_topic("u"),
        lambda: filled["t"],
        lambda: list(filled),
        topic.compact,
        topic.delete,
        lingering.flush,
        lambda: filled.consumer("t"),
    ]
    child = os.fork()
    if child == 0:
        failed = 0
        for number, use in enumerate(uses, start=1):
            try:
                use()
                failed = failed or number
            except streamlog.ForkedError:
                pass
            except BaseException:
                failed = failed or 100 + number
        os._exit(failed)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0, "the number of the use that did not raise, +100 if another error"
    assert authoritative() == before
    lingering.flush()
    assert topic.send(b"life goes on", partition=0).result().offset == 30


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_child_that_outlives_its_parents_log_does_not_keep_the_lock(filled: StreamLog, open_log: OpenLog) -> None:
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(write)
        os.read(read, 1)
        os._exit(0)
    try:
        filled.close()
        assert "t" in open_log()
    finally:
        os.close(write)
        os.close(read)
        os.waitpid(child, 0)


# Damage


@pytest.fixture
def closed(open_log: OpenLog, path: Path) -> Path:
    """The directory of partition 0 of a closed topic: 200 records in batches of ten, several segments."""
    log = open_log()
    topic = log.create_topic("t", segment_bytes=4096)
    for start in range(0, 200, 10):
        topic.send_many([b"%d" % n + b"." * 90 for n in range(start, start + 10)])
    log.close()
    (partition,) = {segment.parent for segment in (path / "topics").rglob("*.log")}
    return partition


def batch_positions(segment: Path) -> list[tuple[int, int]]:
    """Where each batch begins, and its length, by its magic: the payloads hold digits and dots alone."""
    data = segment.read_bytes()
    starts = []
    at = 0
    while (at := data.find(data[:4], at)) >= 0:
        starts.append(at)
        at += 4
    return [(start, end - start) for start, end in zip(starts, [*starts[1:], len(data)], strict=True)]


def flip(segment: Path, position: int) -> None:
    data = bytearray(segment.read_bytes())
    data[position] ^= 0x40
    segment.write_bytes(data)


@pytest.mark.damaged
@pytest.mark.parametrize("segment_number", [0, 1, -1], ids=["first segment", "second segment", "active segment"])
def test_flipped_byte_names_file_position_and_both_checksums(
    closed: Path, open_log: OpenLog, segment_number: int
) -> None:
    segment = sorted(closed.glob("*.log"))[segment_number]
    position, length = batch_positions(segment)[0]
    flip(segment, position + length - 5)
    topic = open_log()["t"]
    base = int(segment.stem)
    records = topic.read()
    good: list[Any] = []
    with pytest.raises(streamlog.CorruptRecordError, match=segment.name) as error:
        good.extend(iter(lambda: next(records), None))
    assert Path(error.value.path).name == segment.name
    assert error.value.position == position
    assert error.value.expected != error.value.actual
    good_before = [record.offset for record in topic.read(end=base)]
    assert good_before == list(range(base))


@pytest.mark.damaged
def test_skipping_leaves_out_exactly_the_damaged_batch_and_logs_it(
    closed: Path, open_log: OpenLog, caplog: pytest.LogCaptureFixture
) -> None:
    segment = sorted(closed.glob("*.log"))[1]
    position, length = batch_positions(segment)[1]
    flip(segment, position + length - 5)
    lost = range(int(segment.stem) + 10, int(segment.stem) + 20)
    topic = open_log()["t"]
    expected = [n for n in range(200) if n not in lost]
    assert [record.offset for record in topic.read(on_corrupt="skip")] == expected
    assert [o for b in topic.read_batches(on_corrupt="skip") for o in b.offsets] == expected
    assert any(segment.name in entry.getMessage() for entry in caplog.records if entry.name.startswith("streamlog"))


@pytest.mark.damaged
@pytest.mark.parametrize("seed", range(12))
def test_no_flipped_byte_ever_becomes_a_wrong_record(closed: Path, open_log: OpenLog, seed: int) -> None:
    random_ = random.Random(seed)
    segment = random_.choice(sorted(closed.glob("*.log")))
    flip(segment, random_.randrange(segment.stat().st_size))
    right = {n: b"%d" % n + b"." * 90 for n in range(200)}
    with pytest.raises(streamlog.StreamlogError):
        for record in open_log()["t"].read():
            assert right.pop(record.offset) == record.value


@pytest.mark.damaged
@pytest.mark.parametrize("seed", range(5))
def test_verify_finds_a_flipped_byte_wherever_it_is(closed: Path, path: Path, seed: int) -> None:
    assert streamlog.verify(path).ok
    random_ = random.Random(seed)
    segment = random_.choice(sorted(closed.glob("*.log")))
    flip(segment, random_.randrange(segment.stat().st_size))
    report = streamlog.verify(path)
    assert not report.ok
    assert segment.name in str(report)


@pytest.mark.damaged
@pytest.mark.parametrize("segment_number", [0, 1])
def test_hostile_length_is_refused_without_the_memory_it_asks_for(
    closed: Path, open_log: OpenLog, segment_number: int
) -> None:
    segment = sorted(closed.glob("*.log"))[segment_number]
    data = bytearray(segment.read_bytes())
    struct.pack_into("<I", data, 7, 0xFFFFFFF0)
    segment.write_bytes(data)
    with pytest.raises(streamlog.StreamlogError, match=segment.name):
        list(open_log()["t"].read())


@pytest.mark.damaged
def test_segment_missing_in_the_middle_is_never_passed_over_in_silence(closed: Path, open_log: OpenLog) -> None:
    _, missing, *_ = sorted(closed.glob("*.log"))
    missing.unlink()
    with pytest.raises(streamlog.StreamlogError):
        list(open_log()["t"].read())


@pytest.mark.damaged
def test_segment_cut_short_in_the_middle_is_damage_and_stays_as_it_is(closed: Path, open_log: OpenLog) -> None:
    segment = sorted(closed.glob("*.log"))[1]
    data = segment.read_bytes()[:-7]
    segment.write_bytes(data)
    with pytest.raises(streamlog.StreamlogError):
        list(open_log()["t"].read())
    assert segment.read_bytes() == data


@pytest.mark.damaged
def test_file_of_zeros_is_no_segment(closed: Path, open_log: OpenLog) -> None:
    segment = sorted(closed.glob("*.log"))[1]
    segment.write_bytes(bytes(segment.stat().st_size))
    with pytest.raises(streamlog.StreamlogError):
        list(open_log()["t"].read())


@pytest.mark.damaged
def test_batch_of_another_topic_is_never_read(closed: Path, open_log: OpenLog, path: Path) -> None:
    with open_log() as log:
        other = log.create_topic("other", segment_bytes=4096)
        for _ in range(20):
            other.send_many([b"other" * 19] * 10)
    foreign = next(d for d in (path / "topics").iterdir() if d != closed)
    victim, source = sorted(closed.glob("*.log"))[0], sorted(foreign.glob("*.log"))[0]
    victim.write_bytes(source.read_bytes())
    with pytest.raises(streamlog.StreamlogError):
        list(open_log()["t"].read())


def test_batch_inside_a_value_is_never_taken_for_a_batch(log: StreamLog, open_log: OpenLog, path: Path) -> None:
    topic = log.create_topic("t")
    topic.send(b"first")
    (segment,) = (path / "topics").rglob("*.log")
    topic.send_many([segment.read_bytes()] * 3)
    log.close()
    values = [record.value for record in open_log()["t"].read()]
    assert values == [b"first", *values[1:]]
    assert len(values) == 4


@pytest.mark.damaged
@pytest.mark.parametrize("damage", ["unlink", "empty", "zeros", "garbage"])
def test_damaged_partition_state_never_brings_deleted_records_back(
    closed: Path, open_log: OpenLog, damage: str
) -> None:
    with open_log() as log:
        log["t"].delete_records({0: 105})
    state = closed / "partition.state"
    if damage == "unlink":
        state.unlink()
    else:
        state.write_bytes({"empty": b"", "zeros": bytes(state.stat().st_size), "garbage": b"\xa5" * 500}[damage])
    try:
        records = list(open_log()["t"].read())
    except streamlog.StreamlogError:
        return
    assert records[0].offset >= 105


# A full disk

FULL = """
    import os, resource, signal, sys, streamlog
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    log = streamlog.open(sys.argv[1])
    topic = log.create_topic("t", exist_ok=True)
    acknowledged = 0
    for limit in (5_000, 5_001, 20_000):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        try:
            while True:
                topic.send(b"x" * 333)
                acknowledged += 1
        except streamlog.StreamlogError as error:
            print(type(error).__name__, acknowledged, flush=True)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    topic.send(b"after")
    print(len(list(topic.read())) - acknowledged, flush=True)
    log.close()
"""


def test_no_room_is_a_typed_error_and_the_log_goes_on_when_there_is_room(
    path: Path, child: Callable[..., Any], open_log: OpenLog
) -> None:
    output, complaint = child(FULL, path).communicate()
    *refusals, last = output.split("\n")[:-1]
    assert [line.split()[0] for line in refusals] == ["DiskFullError"] * 3, complaint
    assert last == "1", complaint
    acknowledged = int(refusals[-1].split()[1])
    assert acknowledged > 10
    values = [record.value for record in open_log()["t"].read()]
    assert values == [b"x" * 333] * acknowledged + [b"after"]


def test_interrupted_sends_leave_whole_records(path: Path, child: Callable[..., Any], open_log: OpenLog) -> None:
    code = """
        import sys, streamlog
        log = streamlog.open(sys.argv[1])
        topic = log.create_topic("t")
        n = acknowledged = 0
        print("ready", flush=True)
        try:
            while True:
                topic.send(b"%d" % n)
                n += 1
                if n == 200:
                    print("go", flush=True)
        except KeyboardInterrupt:
            pass
        topic.send(b"after")
        values = [record.value for record in topic.read()]
        assert values[:n] == [b"%d" % i for i in range(n)], "a record that was acknowledged is missing"
        assert values[-1] == b"after" and len(values) in (n + 1, n + 2), (n, len(values))
        log.close()
        print("whole")
    """
    process = child(code, path)
    assert process.stdout.readline() == "ready\n"
    assert process.stdout.readline() == "go\n"
    process.send_signal(signal.SIGINT)
    assert process.stdout.read() == "whole\n", process.stderr.read()
    assert next(iter(open_log()["t"].read())).value == b"0"


@pytest.mark.parametrize("bad", [3, b"data", "a\0b", "a\ud800", ""], ids=repr)
def test_what_names_no_directory_is_refused_as_such(bad: Any, tmp_path: Path) -> None:
    for call in (
        lambda: streamlog.open(bad),
        lambda: streamlog.open(bad, read_only=True),
        lambda: streamlog.verify(bad),
        lambda: streamlog.repair(bad, tmp_path / "new"),
        lambda: streamlog.repair(tmp_path, bad),
    ):
        with pytest.raises(ConfigError, match="names") as raised:
            call()
        assert raised.value.name in ("path", "into")
    assert not [*tmp_path.iterdir()]


def _check(call: str, **options: Any) -> Any:
    return streamlog.verify("/log", **options) if call == "verify" else streamlog.repair("/log", "/new", **options)


@pytest.mark.parametrize("call", ["verify", "repair"])
@pytest.mark.parametrize("place", ["/log", "/log/topics"])
def test_a_log_that_cannot_be_read_at_all_is_a_typed_error(call: str, place: str) -> None:
    machine = SimulatedDisk()
    streamlog.open("/log", disk=machine, clock=ManualClock()).close()
    disk = FaultyDisk(machine)
    disk.fail("listdir", errno.EACCES, path=place)
    with pytest.raises(StorageError, match=f"Could not read {place}: ") as raised:
        _check(call, disk=disk)
    assert (raised.value.errno, raised.value.path) == (errno.EACCES, place)


@pytest.mark.parametrize("call", ["verify", "repair"])
def test_what_the_callers_own_progress_raises_comes_out_as_it_is(call: str) -> None:
    machine = SimulatedDisk()
    streamlog.open("/log", disk=machine, clock=ManualClock()).close()

    def progress(done: int, total: int) -> None:
        raise BrokenPipeError(errno.EPIPE, "the terminal is gone")

    with pytest.raises(BrokenPipeError):
        _check(call, disk=machine, progress=progress)


@pytest.mark.damaged
@pytest.mark.parametrize("clean", [True, False])
def test_a_file_in_the_place_of_the_topics_is_a_problem(path: Path, tmp_path: Path, clean: bool) -> None:
    with streamlog.open(path) as log:
        log.create_topic("t").send(b"x")
    owner = json.loads((path / "streamlog.json").read_text())
    (path / "streamlog.json").write_text(json.dumps({**owner, "clean": clean}))
    shutil.rmtree(path / "topics")
    (path / "topics").write_text("x")
    assert not streamlog.verify(path).ok
    assert not streamlog.repair(path, tmp_path / "new").ok
