"""What is there after close, after an exit without close, after kill -9."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from streamlog import StreamLog
from tests.contents import fill_with_everything

Child = Callable[..., "subprocess.Popen[str]"]
OpenLog = Callable[..., StreamLog]
Reopen = Callable[..., StreamLog]


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
    fill_with_everything(log)
    before = state(log)
    assert len(before["plain"][-1]) > 100
    log = reopen(log)
    assert state(log) == before
    assert state(reopen(log)) == before


def test_everything_is_there_without_the_derived_files(log: StreamLog, open_log: OpenLog, path: Path) -> None:
    fill_with_everything(log)
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


@pytest.mark.damaged
@pytest.mark.parametrize("damage", ["empty", "zeros", "garbage", "cut", "of another segment"])
def test_damaged_derived_files_change_no_answer(log: StreamLog, open_log: OpenLog, path: Path, damage: str) -> None:
    fill_with_everything(log)
    before = state(log)
    log.close()
    derived = [file for file in path.rglob("*") if file.suffix == ".index" or file.name == "published"]
    other = derived[-1].read_bytes()
    for file in derived:
        data = file.read_bytes()
        changed = {"empty": b"", "zeros": bytes(len(data)), "garbage": b"\xa5" * len(data), "cut": data[:-3]}
        file.write_bytes(changed.get(damage, other))
    log = open_log()
    assert state(log) == before
    info = log["plain"].partition(1)
    for at in range(info.log_start_offset, info.log_end_offset, 13):
        assert next(log["plain"].read(1, start=at)).offset == at
    (first, *_) = log["plain"].read(1)
    assert next(log["plain"].read(1, start=first.datetime)).timestamp >= first.timestamp


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


@pytest.mark.slow
def test_nothing_acknowledged_is_lost_by_kill_9(
    path: Path, child: Child, lines_until_killed: Callable[..., list[str]], open_log: OpenLog
) -> None:
    acknowledged: dict[tuple[int, int], str] = {}
    for round_, lines in enumerate((1, 37, 150, 411)):
        writer = child(WRITER, path, round_ * 1_000_000)
        for line in lines_until_killed(writer, lines):
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
