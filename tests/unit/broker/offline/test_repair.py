"""`streamlog.repair`: everything that verifies comes into the new log at its offset, and the report says exactly what is lost."""

from __future__ import annotations

import dataclasses
import errno
import json
import pickle
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import streamlog
from streamlog import Problem, RepairReport, StreamLog, TopicPartition, repair, verify
from streamlog.errors import ConfigError, DiskFullError, FormatError, LogLockedError, StorageError
from streamlog.testing import FaultyDisk, ManualClock, SimulatedDisk
from tests.contents import file_contents

OpenLog = Callable[..., StreamLog]
Row = tuple[str, int, int, int, Any, Any]


@pytest.fixture
def damaged(path: Path, open_log: OpenLog, clock: ManualClock) -> Path:
    """A closed log that a test may harm: `t` in small segments on two partitions, `c` compacted, a group."""
    log = open_log()
    log.create_topic("t", partitions=2, segment_bytes=2048)
    log.create_topic("c", segment_bytes=1024, cleanup_policy="compact")
    for n in range(60):
        log["t"].send(b"%d" % n * 40, key=b"k%d" % (n % 7), partition=n % 2, headers=[("n", b"%d" % n)])
        log["c"].send(b"%d" % n * 20, key=b"k%d" % (n % 5))
        clock.advance(5)
    with log.consumer("t", group="g") as consumer:
        for _, record in zip(range(25), consumer.until_end(), strict=False):
            consumer.commit(record)
    log.close()
    return path


def rows(log: StreamLog, topic: str, **how: Any) -> list[Row]:
    found = [(r.topic, r.partition, r.offset, r.timestamp, r.key, r.value) for r in log[topic].read(**how)]
    return sorted(found)


def everything(path: Path, open_log: OpenLog, **how: Any) -> tuple[list[Row], dict[TopicPartition, int]]:
    """All records, and where the group is."""
    log = open_log(path)
    found = [row for topic in log for row in rows(log, topic, **how)]
    committed = dict(log.group("g").committed()) if "g" in {group.name for group in log.groups()} else {}
    log.close()
    return found, committed


def segments(path: Path, number: int) -> list[Path]:
    """The segments of partition `number` of `t`, which has two partitions, so is the topic with a directory -1."""
    (other,) = path.glob("topics/*-1")
    return sorted((other.parent / f"{other.name[:-1]}{number}").glob("*.log"))


def flip(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 0x10
    path.write_bytes(data)


# What is copied


def test_of_a_log_that_is_whole_nothing_is_lost(damaged: Path, tmp_path: Path, open_log: OpenLog) -> None:
    before = file_contents(damaged)
    report = repair(damaged, tmp_path / "new")
    assert report.ok and report.problems == () and report.recovered == ()
    assert file_contents(damaged) == before
    copied = file_contents(tmp_path / "new")
    logs = {name: data for name, data in before.items() if name.endswith((".log", ".index"))}
    assert {name: copied[name] for name in logs} == logs, "byte for byte"
    assert everything(tmp_path / "new", open_log) == everything(damaged, open_log)
    assert verify(tmp_path / "new").ok


@pytest.mark.damaged
@pytest.mark.parametrize(
    "harm", ["header", "payload", "middle gone", "first gone", "last gone", "cut short", "garbage"]
)
def test_what_can_be_read_by_skipping_is_what_is_copied(
    damaged: Path, tmp_path: Path, open_log: OpenLog, harm: str
) -> None:
    files = segments(damaged, 0)
    assert len(files) > 3
    if harm in ("header", "payload"):
        flip(files[1], 20 if harm == "header" else -1)
    elif harm.endswith("gone"):
        files[{"middle": 1, "first": 0, "last": -1}[harm.partition(" ")[0]]].unlink()
    elif harm == "cut short":
        files[1].write_bytes(files[1].read_bytes()[: files[1].stat().st_size // 2 + 10])
    else:
        files[1].write_bytes(b"\xa5" * 3000)
    report = repair(damaged, tmp_path / "new")
    assert not report.ok
    found, committed = everything(tmp_path / "new", open_log)
    assert (found, committed) == everything(damaged, open_log, on_corrupt="skip")
    assert verify(tmp_path / "new").ok
    (partition,) = [each for each in report.partitions if each.lost]
    assert (partition.topic, partition.partition, partition.log_end_offset) == ("t", 0, 30)
    lost = {offset for problem in partition.lost for offset in range(*problem.offsets_lost or (0, 0))}
    kept = {row[2] for row in found if row[:2] == ("t", 0)}
    assert lost | kept == set(range(30)) and not lost & kept, "what is reported as lost is what is lost"
    assert partition.records == len(kept)


@pytest.mark.damaged
def test_a_record_sent_to_the_new_log_gets_the_offset_it_would_have_had(
    damaged: Path, tmp_path: Path, open_log: OpenLog
) -> None:
    segments(damaged, 1)[-1].unlink()
    repair(damaged, tmp_path / "new")
    log = open_log(tmp_path / "new")
    assert log["t"].send(b"on", partition=1).result().offset == 30
    assert [row[2] for row in rows(log, "t") if row[1] == 1][-1] == 30


@pytest.mark.damaged
def test_a_consumer_reads_over_what_is_lost_and_finds_times_behind_it(
    damaged: Path, tmp_path: Path, open_log: OpenLog
) -> None:
    times = {row[2]: row[3] for row in everything(damaged, open_log)[0] if row[:2] == ("t", 0)}
    segments(damaged, 0)[1].unlink()
    repair(damaged, tmp_path / "new")
    log = open_log(tmp_path / "new")
    with log.consumer("t") as consumer:
        offsets = [record.offset for record in consumer.until_end() if record.partition == 0]
        found = consumer.offsets_for_times({TopicPartition("t", 0): times[25]})[TopicPartition("t", 0)]
    assert offsets == sorted(offsets) and offsets[0] == 0 and offsets[-1] == 29 and len(offsets) < 30
    assert found is not None and (found.offset, found.timestamp) == (25, times[25])


@pytest.mark.damaged
def test_deleted_records_do_not_come_back_unless_the_state_that_says_so_is_lost(
    damaged: Path, tmp_path: Path, open_log: OpenLog
) -> None:
    log = open_log(damaged)
    log["t"].delete_records({0: 13})
    log.close()
    flip(segments(damaged, 1)[0], -1)
    report = repair(damaged, tmp_path / "new")
    assert [row[2] for row in everything(tmp_path / "new", open_log)[0] if row[:2] == ("t", 0)] == list(range(13, 30))
    assert [each.log_start_offset for each in report.partitions if (each.topic, each.partition) == ("t", 0)] == [13]
    first = segments(damaged, 0)[0]
    (first.parent / "partition.state").write_bytes(b"\xa5" * 8192)
    report = repair(damaged, tmp_path / "newer")
    assert "state" in {problem.kind for problem in report.problems}
    offsets = [row[2] for row in everything(tmp_path / "newer", open_log)[0] if row[:2] == ("t", 0)]
    assert offsets == list(range(int(first.stem), 30))


# Metadata and the owner


@pytest.mark.damaged
@pytest.mark.parametrize("harm", ["all of it", "one topic", "missing"])
def test_topics_whose_names_are_lost_are_recovered_under_their_ids(
    damaged: Path, tmp_path: Path, open_log: OpenLog, harm: str
) -> None:
    before, _ = everything(damaged, open_log)
    metadata = next(damaged.glob("__cluster_metadata-0/*.log"))
    if harm == "missing":
        shutil.rmtree(metadata.parent)
    else:
        flip(metadata, 200)
        if harm == "all of it":
            metadata.write_bytes(b"\0" * metadata.stat().st_size)
    report = repair(damaged, tmp_path / "new")
    assert {"orphan"} <= {problem.kind for problem in report.problems}
    found, _ = everything(tmp_path / "new", open_log)
    assert len(report.recovered) >= 1
    assert all(name.startswith("recovered-") for name in report.recovered)
    kept = [row[1:] for row in before]
    assert all(row in [other[1:] for other in found] for row in kept)
    assert verify(tmp_path / "new").ok


@pytest.mark.damaged
@pytest.mark.parametrize("content", [None, b"", b"garbage"])
def test_without_its_owner_file_a_log_can_be_repaired(
    damaged: Path, tmp_path: Path, open_log: OpenLog, content: bytes | None
) -> None:
    expected = everything(damaged, open_log)
    owner = damaged / "streamlog.json"
    owner.unlink() if content is None else owner.write_bytes(content)
    report = repair(damaged, tmp_path / "new")
    assert [problem.kind for problem in report.problems] == ["owner"]
    assert everything(tmp_path / "new", open_log) == expected


@pytest.mark.damaged
def test_a_partition_whose_directory_is_missing_is_empty_and_reported(
    damaged: Path, tmp_path: Path, open_log: OpenLog
) -> None:
    shutil.rmtree(segments(damaged, 1)[0].parent)
    report = repair(damaged, tmp_path / "new")
    (problem,) = report.problems
    assert (problem.topic, problem.partition, problem.kind) == ("t", 1, "missing")
    log = open_log(tmp_path / "new")
    assert [row[1] for row in rows(log, "t")] == [0] * 30
    assert log["t"].send(b"x", partition=1).result().offset == 30


def test_the_cluster_keeps_its_id_and_the_directory_gets_its_own(damaged: Path, tmp_path: Path) -> None:
    repair(damaged, tmp_path / "new")
    old, new = (json.loads((path / "streamlog.json").read_text()) for path in (damaged, tmp_path / "new"))
    assert old["cluster_id"] == new["cluster_id"] and old["directory_id"] != new["directory_id"]


# What is refused


@pytest.mark.parametrize("into", ["", "topics", "deeper/down"])
def test_a_target_in_the_damaged_log_is_refused(damaged: Path, into: str) -> None:
    before = file_contents(damaged)
    with pytest.raises(ConfigError, match="into"):
        repair(damaged, damaged / into)
    assert file_contents(damaged) == before


def test_a_target_that_is_not_empty_is_refused(damaged: Path, tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "mine.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for into in ("new", "file"):
        with pytest.raises(ConfigError, match="into"):
            repair(damaged, tmp_path / into)
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["mine.txt"]


def test_an_empty_target_is_used(damaged: Path, tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    assert repair(str(damaged), str(tmp_path / "new")).ok


def test_what_is_no_log_is_refused(tmp_path: Path) -> None:
    (tmp_path / "some").mkdir()
    for path in ("some", "none"):
        with pytest.raises(FormatError):
            repair(tmp_path / path, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_log_that_is_open_is_refused_and_left_alone(damaged: Path, tmp_path: Path, open_log: OpenLog) -> None:
    open_log(damaged)
    with pytest.raises(LogLockedError) as caught:
        repair(damaged, tmp_path / "new")
    assert caught.value.pid > 0
    assert not (tmp_path / "new").exists()


@pytest.mark.damaged
def test_a_newer_log_is_refused(damaged: Path, tmp_path: Path) -> None:
    owner = damaged / "streamlog.json"
    owner.write_text(json.dumps({**json.loads(owner.read_text()), "min_reader": 99}))
    with pytest.raises(FormatError, match="newer"):
        repair(damaged, tmp_path / "new")


@pytest.mark.parametrize("room", [0, 600, 3000, 9000])
def test_a_target_that_is_full_is_no_damage_and_leaves_nothing_that_opens(clock: ManualClock, room: int) -> None:
    machine = SimulatedDisk()
    with streamlog.open("data", disk=machine, clock=clock) as log:
        for n in range(40):
            log.create_topic("t", segment_bytes=2048, exist_ok=True).send(b"%d" % n * 200)
    disk = FaultyDisk(machine)
    disk.capacity = disk.used + room
    with pytest.raises((DiskFullError, StorageError)):
        repair("/data", "/new", disk=disk)
    if machine.exists("/new"):
        with pytest.raises(FormatError):
            streamlog.open("/new", disk=machine, clock=clock)


@pytest.mark.parametrize("nth", range(1, 16, 2))
def test_a_write_that_fails_in_the_target_is_no_damage_of_the_source(clock: ManualClock, nth: int) -> None:
    machine = SimulatedDisk()
    with streamlog.open("data", disk=machine, clock=clock) as log:
        for n in range(40):
            log.create_topic("t", segment_bytes=2048, exist_ok=True).send(b"%d" % n * 200)
    disk = FaultyDisk(machine)
    fault = disk.fail("write", errno.EIO, path="/new/*.log", nth=nth)
    with pytest.raises(StorageError, match="/new"):
        repair("/data", "/new", disk=disk)
    assert fault.fired


# The report


@pytest.mark.damaged
def test_the_report_is_a_frozen_value_that_pickles_and_reads_well(damaged: Path, tmp_path: Path) -> None:
    flip(segments(damaged, 0)[1], -1)
    seen: list[tuple[int, int]] = []
    report = repair(damaged, tmp_path / "new", progress=lambda done, total: seen.append((done, total)))
    assert pickle.loads(pickle.dumps(report)) == report
    with pytest.raises(dataclasses.FrozenInstanceError):
        report.path = "x"  # type: ignore[misc]
    assert seen[-1][0] == seen[-1][1] > 0 and [done for done, _ in seen] == sorted(done for done, _ in seen)
    (problem,) = report.problems
    assert problem.size_bytes > 0 and problem.position > 0 and problem.path.endswith(".log")
    assert f"1 problem, {report.records} records copied" in str(report)
    assert str(report).splitlines()[1].strip() == str(problem)
    assert problem.offsets_lost is not None
    assert f"lost: offset {problem.offsets_lost[0]}" in str(report)


def test_a_long_list_of_problems_is_cut_in_the_text_only() -> None:
    problems = tuple(Problem("f", n, "header", "bad", "t", 0, (n, n + 1)) for n in range(50))
    report = RepairReport("a", "b", problems=problems, recovered=("recovered-1",))
    assert "… and 30 more" in str(report) and "recovered-1" in str(report)


@pytest.mark.damaged
@pytest.mark.parametrize("seed", range(5))
def test_whatever_is_harmed_the_copy_is_whole_and_reads_like_the_original_with_skipping(
    damaged: Path, tmp_path: Path, open_log: OpenLog, seed: int
) -> None:
    rng = random.Random(seed)
    files = sorted(damaged.glob("topics/*/*.log"))
    for _ in range(rng.randrange(1, 6)):
        file = rng.choice(files)
        if not file.exists() or not file.stat().st_size:
            continue
        harm = rng.choice(["flip", "flip", "cut", "unlink", "zeros"])
        if harm == "flip":
            flip(file, rng.randrange(file.stat().st_size))
        elif harm == "cut":
            file.write_bytes(file.read_bytes()[: rng.randrange(file.stat().st_size)])
        elif harm == "unlink":
            file.unlink()
        else:
            data = bytearray(file.read_bytes())
            at = rng.randrange(len(data))
            data[at : at + 600] = bytes(len(data[at : at + 600]))
            file.write_bytes(data)
    repair(damaged, tmp_path / "new")
    assert verify(tmp_path / "new").ok
    log = open_log(tmp_path / "new")
    copied = [row for topic in ("t", "c") for row in rows(log, topic)]
    log.close()
    shutil.copytree(damaged, tmp_path / "copy")
    original = open_log(tmp_path / "copy")
    assert copied == [row for topic in ("t", "c") for row in rows(original, topic, on_corrupt="skip")], seed
