"""Opening, closing, owning a directory, and what is there after reopening."""

from __future__ import annotations

import copy
import gc
import json
import os
import pickle
import signal
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import streamlog
from streamlog import StreamLog

Child = Callable[..., "subprocess.Popen[str]"]
OpenLog = Callable[..., StreamLog]
Reopen = Callable[..., StreamLog]


def contents(directory: Path) -> dict[str, bytes]:
    return {str(file.relative_to(directory)): file.read_bytes() for file in directory.rglob("*") if file.is_file()}


# Where a log may be


def test_log_without_a_path_is_temporary() -> None:
    with streamlog.open() as log:
        log.create_topic("t").send(b"x")
        assert [record.value for record in log["t"].read()] == [b"x"]
        path = log.path
    assert path is None or not os.path.exists(path)


def test_two_temporary_logs_share_nothing() -> None:
    with streamlog.open() as one, streamlog.open() as other:
        one.create_topic("t")
        assert "t" not in other


@pytest.mark.parametrize("path", [None, ""])
def test_path_that_is_nothing_is_refused(path: Any) -> None:
    with pytest.raises(streamlog.ConfigError):
        streamlog.open(path)


@pytest.mark.parametrize("kind", [str, Path])
def test_absent_directory_is_created(tmp_path: Path, kind: type) -> None:
    with streamlog.open(kind(tmp_path / "new")) as log:
        assert (tmp_path / "new").is_dir()
        assert log.path is not None
        assert os.path.samefile(log.path, tmp_path / "new")


def test_empty_directory_becomes_a_log(open_log: OpenLog, path: Path) -> None:
    path.mkdir()
    open_log().create_topic("t")


def test_directory_that_is_no_log_is_refused_and_left_alone(path: Path) -> None:
    path.mkdir()
    (path / "thesis.txt").write_text("ten years of work")
    before = contents(path)
    with pytest.raises(streamlog.StreamlogError, match=str(path)):
        streamlog.open(path)
    assert contents(path) == before


def test_file_is_refused_and_left_alone(path: Path) -> None:
    path.write_text("ten years of work")
    with pytest.raises(streamlog.StreamlogError, match=str(path)):
        streamlog.open(path)
    assert path.read_text() == "ten years of work"


@pytest.mark.parametrize(
    "option", [{"read_only": True}, {"sync": True}, {"brokers": 3}, {"brokers": ["a", "b"]}], ids=str
)
def test_parameter_that_is_not_built_yet_is_refused(path: Path, option: dict[str, Any]) -> None:
    (name,) = option
    with pytest.raises(streamlog.ConfigError, match=name):
        streamlog.open(path, **option)
    assert not path.exists()


def test_defaults_of_parameters_that_are_not_built_yet_may_be_spelled_out(path: Path) -> None:
    with streamlog.open(path, read_only=False, sync=False, brokers=None) as log:
        log.create_topic("t", replication_factor=1)


def test_unknown_option_is_answered_with_the_name_that_was_meant(path: Path) -> None:
    with pytest.raises(streamlog.ConfigError, match="auto_create_topics"):
        streamlog.open(path, **{"auto.create.topics.enable": True})  # type: ignore[arg-type]
    with pytest.raises(streamlog.ConfigError, match="partitions"):
        streamlog.open(path, partition=3)  # type: ignore[call-arg]
    assert not path.exists()


def test_transactional_id_is_refused_until_transactions_are_built(log: StreamLog) -> None:
    with pytest.raises(streamlog.ConfigError, match="transactional_id"):
        log.producer(transactional_id="tx")


@pytest.mark.parametrize(
    "name", ["transaction", "transactions", "abort_transaction", "add_broker", "retire_broker", "reassign"]
)
def test_method_that_is_not_built_yet_is_absent(log: StreamLog, name: str) -> None:
    assert not hasattr(log, name)


# One directory, one owner


def test_second_open_in_one_process_is_the_same_log_with_a_handle_of_its_own(
    log: StreamLog, open_log: OpenLog, path: Path
) -> None:
    again = open_log()
    assert again is not log
    log.create_topic("t").send(b"x")
    assert [record.value for record in again["t"].read()] == [b"x"]
    log.close()
    assert log.closed
    assert not again.closed
    again["t"].send(b"y")
    assert [record.value for record in again["t"].read()] == [b"x", b"y"]
    with pytest.raises(streamlog.ClosedError):
        log["t"]


def test_other_spelling_of_the_path_is_the_same_log(
    log: StreamLog, open_log: OpenLog, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log.create_topic("t")
    monkeypatch.chdir(path.parent)
    (path.parent / "link").symlink_to(path)
    for spelling in (Path("data"), path.parent / "." / "data", Path("../") / path.parent.name / "data", Path("link")):
        assert "t" in open_log(spelling)


@pytest.mark.parametrize("option", [{"auto_create_topics": True}, {"partitions": 5}, {"clock": None}], ids=str)
def test_second_open_with_other_options_is_refused(log: StreamLog, open_log: OpenLog, option: dict[str, Any]) -> None:
    with pytest.raises(streamlog.ConfigError):
        open_log(**option)
    log.create_topic("t")


def test_files_close_with_the_last_handle(log: StreamLog, open_log: OpenLog, path: Path, child: Child) -> None:
    again = open_log()
    code = """
        import sys, streamlog
        try:
            streamlog.open(sys.argv[1]).close()
            print("opened")
        except streamlog.LogLockedError:
            print("locked")
    """
    log.close()
    assert child(code, path).communicate()[0].strip() == "locked"
    again.close()
    assert child(code, path).communicate()[0].strip() == "opened"


OWNER = """
    import sys, streamlog
    with streamlog.open(sys.argv[1]) as log:
        log.create_topic("t", exist_ok=True)
        print("ready", flush=True)
        sys.stdin.read()
"""


def test_second_process_is_refused_with_the_owners_pid(path: Path, child: Child, open_log: OpenLog) -> None:
    owner = child(OWNER, path)
    assert owner.stdout is not None
    assert owner.stdout.readline() == "ready\n"
    for options in ({}, {"lock_timeout": 0.05}):
        with pytest.raises(streamlog.LogLockedError, match=str(owner.pid)) as refusal:
            open_log(**options)
        assert refusal.value.pid == owner.pid
    owner.communicate("")
    assert owner.returncode == 0
    assert list(open_log()) == ["t"]


def test_lock_timeout_waits_for_the_owner_to_leave(path: Path, child: Child, open_log: OpenLog) -> None:
    owner = child(OWNER, path)
    assert owner.stdout is not None
    assert owner.stdin is not None
    assert owner.stdout.readline() == "ready\n"
    owner.stdin.close()
    assert list(open_log(lock_timeout=30.0)) == ["t"]
    owner.stdin = None


def test_directory_of_a_killed_owner_is_free(path: Path, child: Child, open_log: OpenLog) -> None:
    owner = child(OWNER, path)
    assert owner.stdout is not None
    assert owner.stdout.readline() == "ready\n"
    owner.kill()
    owner.wait()
    assert list(open_log()) == ["t"]


# Closing


def test_close_twice_is_close_once(log: StreamLog) -> None:
    producer = log.producer()
    assert not producer.closed
    producer.close()
    producer.close()
    assert producer.closed
    assert not log.closed
    log.close()
    log.close()
    assert log.closed


def test_closed_log_says_so_whatever_it_is_asked(log: StreamLog) -> None:
    topic = log.create_topic("t")
    producer = log.producer()
    log.close()
    uses: list[Callable[[], object]] = [
        lambda: log.create_topic("u"),
        lambda: log.topic("t"),
        lambda: log["t"],
        lambda: "t" in log,
        lambda: list(log),
        log.topics,
        lambda: log.delete_topic("t"),
        log.producer,
        lambda: log.consumer("t"),
        log.sync,
        lambda: topic.send(b"x"),
        lambda: topic.send_many([b"x"]),
        topic.read,
        topic.read_batches,
        topic.compact,
        topic.apply_retention,
        lambda: topic.partition(0),
        lambda: topic.delete_records({0: 0}),
        lambda: topic.update_config(retention_ms=1),
        topic.delete,
        lambda: producer.send("t", b"x"),
        lambda: producer.send_many("t", [b"x"]),
        producer.flush,
        log.__enter__,
    ]
    for use in uses:
        with pytest.raises(streamlog.ClosedError):
            use()


def test_closing_the_log_closes_what_was_made_from_it(log: StreamLog) -> None:
    log.create_topic("t")
    producer, consumer = log.producer(), log.consumer("t")
    log.close()
    assert producer.closed
    assert consumer.closed


def test_with_block_closes_and_lets_exceptions_through(path: Path) -> None:
    with pytest.raises(ZeroDivisionError), streamlog.open(path) as log:
        log.create_topic("t").send(b"x")
        raise ZeroDivisionError
    assert log.closed
    with streamlog.open(path) as log:
        assert [record.value for record in log["t"].read()] == [b"x"]


def test_reader_stops_with_closed_error_when_the_log_closes_under_it(log: StreamLog) -> None:
    topic = log.create_topic("t", segment_bytes=5000)
    topic.send_many([b"x" * 1000] * 1000)
    records = topic.read()
    next(records)
    log.close()
    with pytest.raises(streamlog.ClosedError):
        for _ in records:
            pass


def test_forgotten_log_warns_and_gives_the_directory_back(path: Path) -> None:
    log = streamlog.open(path)
    log.create_topic("t").send(b"x")
    with pytest.warns(ResourceWarning):
        del log
        gc.collect()
    with streamlog.open(path, partitions=2) as log:
        assert [record.value for record in log["t"].read()] == [b"x"]


def test_forgotten_producer_warns_and_its_records_are_not_lost(log: StreamLog) -> None:
    topic = log.create_topic("t")
    producer = log.producer(linger_ms=1000)
    producer.send("t", b"x")
    with pytest.warns(ResourceWarning):
        del producer
        gc.collect()
    log.close()
    with streamlog.open(str(log.path)) as log:
        assert [record.value for record in log["t"].read()] == [b"x"]
    del topic


# Pickling


def test_handles_refuse_to_pickle(log: StreamLog) -> None:
    topic = log.create_topic("t")
    with log.producer() as producer, log.consumer("t") as consumer:
        for handle in (log, topic, producer, consumer, log.group("g"), topic.send(b"x"), topic.read()):
            with pytest.raises(TypeError):
                pickle.dumps(handle)


def test_values_pickle(log: StreamLog) -> None:
    topic = log.create_topic("t")
    metadata = topic.send(b"v", b"k", headers={"h": b"1"}).result()
    (record,) = topic.read()
    values = [
        metadata,
        record,
        topic.partition(0),
        record.topic_partition,
        streamlog.ProducerRecord(b"v"),
        streamlog.OffsetAndMetadata(3),
        streamlog.OffsetAndTimestamp(3, 4),
    ]
    for value in values:
        again = pickle.loads(pickle.dumps(value))
        assert again == value
        assert type(again) is type(value)
        assert copy.deepcopy(value) == value


def test_batches_pickle(log: StreamLog) -> None:
    topic = log.create_topic("t")
    topic.send_many([b"a", None, b"c"], [b"1", b"2", None], headers={"h": b"1"})
    (batch,) = topic.read_batches()
    again = pickle.loads(pickle.dumps(batch))
    assert list(again) == list(batch)
    assert (again.base_offset, again.last_offset, again.next_offset) == (0, 2, 3)


def test_errors_pickle_with_their_fields(log: StreamLog) -> None:
    topic = log.create_topic("t", max_message_bytes=500)
    topic.send(b"x")
    causes: list[Callable[[], object]] = [
        lambda: log["u"],
        lambda: log.create_topic("t"),
        lambda: log.create_topic("a b"),
        lambda: topic.read(0, start=99),
        lambda: topic.send(b"x" * 1000),
        lambda: topic.send(7),
        lambda: topic.send(b"x", timestamp_ms=-5),
        lambda: topic.send(b"x", partition=9),
        lambda: log.producer(linger=5),  # type: ignore[call-arg]
    ]
    for cause in causes:
        with pytest.raises(streamlog.StreamlogError) as caught:
            cause()
        error = caught.value
        again = pickle.loads(pickle.dumps(error))
        assert type(again) is type(error)
        assert str(again) == str(error)
        assert again.retriable == error.retriable
        assert vars(again) == vars(error)


# Reopening


def fill(log: StreamLog) -> None:
    plain = log.create_topic("plain", partitions=3, segment_bytes=2000)
    for n in range(120):
        plain.send(b"v%d" % n, b"k%d" % n, headers={"n": str(n)}, timestamp_ms=1_600_000_000_000 + n * 7 % 50)
    plain.send_many([b"x" * 300, None, b""] * 30, [None, b"", b"k"] * 30)
    log.create_topic("empty", retention_bytes=5000)
    plain.delete_records({0: plain.partition(0).log_end_offset // 2})


def state(log: StreamLog) -> dict[str, Any]:
    return {
        topic.name: (
            topic.id,
            topic.partitions,
            dict(topic.config),
            [
                (info.log_start_offset, info.high_watermark, info.log_end_offset)
                for info in map(topic.partition, range(topic.partitions))
            ],
            list(topic.read()),
        )
        for topic in log.topics()
    }


def test_everything_is_there_after_reopening(log: StreamLog, reopen: Reopen) -> None:
    fill(log)
    before = state(log)
    assert len(before["plain"][-1]) > 100
    log = reopen(log)
    assert state(log) == before
    assert state(reopen(log)) == before


def test_everything_is_there_without_the_derived_files(log: StreamLog, open_log: OpenLog, path: Path) -> None:
    fill(log)
    before = state(log)
    log.close()
    derived = [file for file in path.rglob("*") if file.suffix == ".index" or file.name == "published"]
    assert derived, "tiny segments were sealed, so there is at least one index"
    for file in derived:
        file.unlink()
    log = open_log()
    assert state(log) == before
    at = log["plain"].partition(1).log_end_offset // 2
    (record, *_) = log["plain"].read(1, start=at)
    assert record.offset == at


def test_offsets_go_on_after_reopening(log: StreamLog, reopen: Reopen) -> None:
    log.create_topic("t").send_many([b"x"] * 5)
    for expected in (5, 6, 7):
        log = reopen(log)
        assert log["t"].send(b"y").result().offset == expected


WRITER = """
    import sys, streamlog
    log = streamlog.open(sys.argv[1])
    topic = log.create_topic("t", partitions=2, segment_bytes=4000, exist_ok=True)
    lingering = log.producer(linger_ms=1)
    n = int(sys.argv[2])
    while True:
        n += 1
        if n % 10 == 0:
            acknowledged = topic.send_many([f"{n}.{i}" for i in range(5)], partition=n % 2).result()
            values = [f"{n}.{i}" for i in range(5)]
        elif n % 10 == 1:
            deliveries = [lingering.send("t", f"{n}.{i}", partition=1) for i in range(5)]
            lingering.flush()
            acknowledged = [delivery.result() for delivery in deliveries]
            values = [f"{n}.{i}" for i in range(5)]
        else:
            acknowledged = [topic.send(str(n), partition=n % 2).result()]
            values = [str(n)]
        for metadata, value in zip(acknowledged, values):
            print(metadata.partition, metadata.offset, value, flush=True)
"""


def test_nothing_acknowledged_is_lost_by_kill_9(path: Path, child: Child, open_log: OpenLog) -> None:
    acknowledged: dict[tuple[int, int], str] = {}
    for round_, lines in enumerate((1, 37, 150, 411)):
        writer = child(WRITER, path, round_ * 1_000_000)
        assert writer.stdout is not None
        printed = [writer.stdout.readline() for _ in range(lines)]
        writer.send_signal(signal.SIGKILL)
        rest, complaint = writer.communicate()
        assert writer.returncode == -signal.SIGKILL, complaint
        for line in "".join([*printed, rest]).splitlines(keepends=True):
            if line.endswith("\n"):
                partition, offset, value = line.split()
                assert acknowledged.setdefault((int(partition), int(offset)), value) == value, "offset given twice"
        with open_log() as log:
            stored = {(r.partition, r.offset): r.value.decode() for r in log["t"].read()}
            assert acknowledged.items() <= stored.items()
            ends = [log["t"].partition(n).log_end_offset for n in range(2)]
            assert sorted(stored) == [(n, offset) for n in range(2) for offset in range(ends[n])]
            assert len(set(stored.values())) == len(stored)


def test_topics_made_before_kill_9_are_there_with_their_config(path: Path, child: Child, open_log: OpenLog) -> None:
    code = """
        import os, signal, sys, streamlog
        log = streamlog.open(sys.argv[1])
        log.create_topic("kept", partitions=3, retention_ms=12345)
        log.create_topic("changed").update_config(retention_bytes=777)
        log.create_topic("grown").add_partitions(4)
        log.create_topic("gone").delete()
        topic = log.create_topic("trimmed")
        topic.send_many([b"x"] * 10)
        topic.delete_records({0: 4})
        os.kill(os.getpid(), signal.SIGKILL)
    """
    killed = child(code, path)
    _, complaint = killed.communicate()
    assert killed.returncode == -signal.SIGKILL, complaint
    log = open_log()
    assert sorted(log) == ["changed", "grown", "kept", "trimmed"]
    assert (log["kept"].partitions, log["kept"].config["retention_ms"]) == (3, 12345)
    assert log["changed"].config["retention_bytes"] == 777
    assert log["grown"].partitions == 4
    assert log["trimmed"].partition(0).log_start_offset == 4
    assert [record.offset for record in log["trimmed"].read()] == list(range(4, 10))


def test_exit_without_close_loses_nothing(path: Path, child: Child, open_log: OpenLog) -> None:
    code = """
        import sys, streamlog
        log = streamlog.open(sys.argv[1])
        log.create_topic("t").send(b"at once")
        producer = log.producer(linger_ms=60_000)
        producer.send("t", b"lingering")
    """
    forgetful = child(code, path)
    _, complaint = forgetful.communicate()
    assert forgetful.returncode == 0, complaint
    assert [record.value for record in open_log()["t"].read()] == [b"at once", b"lingering"]


# Strangers in the directory


def test_files_are_for_the_owner_alone(log: StreamLog, path: Path) -> None:
    before = os.umask(0)
    try:
        fill(log)
        log["plain"].compact()
        log.close()
    finally:
        os.umask(before)
    modes = {item: stat.S_IMODE(item.stat().st_mode) for item in [path, *path.rglob("*")]}
    assert {item: oct(mode) for item, mode in modes.items() if item.is_dir() and mode != 0o700} == {}
    assert {item: oct(mode) for item, mode in modes.items() if item.is_file() and mode != 0o600} == {}


def planted_places(path: Path) -> list[Path]:
    (first, *_) = sorted((path / "topics").rglob("*.log"))
    return [path / "streamlog.json", path / "lock", first, first.parent / "partition.state"]


def use(log: StreamLog) -> None:
    for topic in log.topics():
        for _ in topic.read():
            pass
        topic.send(b"one more", partition=0)


@pytest.mark.damaged
@pytest.mark.parametrize("place", [0, 1, 2, 3], ids=["streamlog.json", "lock", "segment", "partition.state"])
@pytest.mark.parametrize("kind", ["symlink", "fifo", "directory"])
def test_planted_file_is_refused(log: StreamLog, open_log: OpenLog, path: Path, kind: str, place: int) -> None:
    fill(log)
    log.close()
    victim = planted_places(path)[place]
    outside = path.parent / "outside"
    victim.rename(outside)
    if kind == "symlink":
        victim.symlink_to(outside)
    elif kind == "fifo":
        os.mkfifo(victim)
    else:
        victim.mkdir()
    before = outside.read_bytes()
    with pytest.raises(streamlog.StreamlogError, match=victim.name):
        use(open_log())
    assert outside.read_bytes() == before


@pytest.mark.damaged
def test_planted_partition_directory_is_refused(log: StreamLog, open_log: OpenLog, path: Path) -> None:
    fill(log)
    log.close()
    victim = planted_places(path)[2].parent
    outside = path.parent / "outside"
    victim.rename(outside)
    victim.symlink_to(outside, target_is_directory=True)
    before = contents(outside)
    with pytest.raises(streamlog.StreamlogError, match=victim.name):
        use(open_log())
    assert contents(outside) == before


@pytest.mark.damaged
def test_link_planted_where_the_next_segment_goes_is_never_written_through(log: StreamLog, path: Path) -> None:
    topic = log.create_topic("t", segment_bytes=1024)
    topic.send(b"first")
    outside = path.parent / "outside"
    outside.write_bytes(b"somebody else's")
    (partition,) = {segment.parent for segment in (path / "topics").rglob("*.log")}
    for offset in range(1, 40):
        (partition / f"{offset:020d}.log").symlink_to(outside)
    try:
        for _ in range(30):
            topic.send(b"x" * 100)
    except streamlog.StreamlogError:
        pass
    assert outside.read_bytes() == b"somebody else's"


def rewrite_owner_file(path: Path, **changes: Any) -> None:
    owner = path / "streamlog.json"
    owner.write_text(json.dumps({**json.loads(owner.read_text()), **changes}))


@pytest.mark.damaged
def test_newer_format_is_refused(log: StreamLog, open_log: OpenLog, path: Path) -> None:
    fill(log)
    log.close()
    rewrite_owner_file(path, format=999, min_reader=999)
    before = contents(path)
    with pytest.raises(streamlog.FormatError, match="999"):
        open_log()
    assert contents(path) == before


@pytest.mark.damaged
@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"format": "new"}', "\x00" * 100], ids=ascii)
def test_owner_file_that_makes_no_sense_is_refused(
    log: StreamLog, open_log: OpenLog, path: Path, text: str, authoritative: Callable[[], dict[str, bytes]]
) -> None:
    fill(log)
    log.close()
    (path / "streamlog.json").write_text(text)
    before = authoritative()
    with pytest.raises(streamlog.StreamlogError, match="streamlog.json"):
        open_log()
    assert authoritative() == before
