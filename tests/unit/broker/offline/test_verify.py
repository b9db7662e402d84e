"""`verify` looks at a whole log: each kind of harm is a problem with its place, what the next open repairs is a note."""

from __future__ import annotations

import dataclasses
import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import msgpack
import pytest

import streamlog
from streamlog import StreamLog
from streamlog.broker.log_directory import METADATA_ID
from streamlog.broker.offline.verify import Problem, Report, verify
from streamlog.config import TopicConfig
from streamlog.records import columns
from streamlog.records.batch import seed_of
from streamlog.runtime.disk import OsDisk
from streamlog.storage.log import AppendRequest
from streamlog.storage.recovery.recovery import PreviousShutdown
from streamlog.storage.recovery.recovery import open_log as open_partition
from streamlog.storage.verify.check import FOREVER_OFFSET

pytestmark = pytest.mark.damaged
OpenLog = Callable[..., StreamLog]


@pytest.fixture
def closed(open_log: OpenLog, path: Path) -> Path:
    """A closed log: topic `t` of two partitions, a group with a committed offset."""
    with open_log() as log:
        topic = log.create_topic("t", partitions=2)
        topic.send_many([b"%d" % n for n in range(20)], partition=0)
        topic.send_many([b"%d" % n for n in range(10)], partition=1)
        with log.consumer("t", group="g") as consumer:
            for _ in range(30):
                consumer.poll()
            consumer.commit()
    return path


def directory(path: Path, topic: str, partition: int) -> Path:
    """Where a partition of `t` or of the groups' topic lies: the only topic with one, or with two partitions."""
    if topic == "__cluster_metadata":
        return path / "__cluster_metadata-0"
    by_id: dict[str, list[Path]] = {}
    for found in sorted((path / "topics").iterdir()):
        by_id.setdefault(found.name.split("-")[0], []).append(found)
    (found,) = [paths for paths in by_id.values() if len(paths) == (2 if topic == "t" else 1)]
    return found[partition]


def flip(file: Path, position: int) -> None:
    data = bytearray(file.read_bytes())
    data[position] ^= 1
    file.write_bytes(data)


def only(report: Report) -> Problem:
    (problem,) = report.problems
    return problem


# What is fine


def test_a_closed_log_is_ok_and_counted(closed: Path) -> None:
    report = verify(closed)
    assert report.ok and not report.notes
    assert (report.topics, report.partitions) == (1, 4)
    assert report.records >= 30
    assert report.size_bytes == sum(file.stat().st_size for file in closed.rglob("*.log"))
    assert str(closed) in str(report) and "ok" in str(report)


def test_an_open_log_is_ok_too(log: StreamLog, path: Path) -> None:
    topic = log.create_topic("t", partitions=2)
    for n in range(5):
        topic.send(b"%d" % n)
        assert verify(path).ok
    log.delete_topic("t")
    assert verify(path).ok


def test_verify_changes_nothing_and_asks_for_no_lock(closed: Path, open_log: OpenLog) -> None:
    before = {file: file.read_bytes() for file in closed.rglob("*") if file.is_file()}
    verify(closed)
    assert {file: file.read_bytes() for file in closed.rglob("*") if file.is_file()} == before
    with open_log():
        assert verify(closed).ok


def test_a_report_is_a_frozen_value(closed: Path) -> None:
    report = verify(closed)
    assert pickle.loads(pickle.dumps(report)) == report == verify(str(closed))
    with pytest.raises(dataclasses.FrozenInstanceError):
        report.records = 3  # type: ignore[misc]


def test_progress_grows_to_the_total(closed: Path) -> None:
    seen: list[tuple[int, int]] = []
    verify(closed, progress=lambda done, total: seen.append((done, total)))
    assert seen[0][0] == 0
    assert seen == sorted(seen)
    assert seen[-1] == (verify(closed).size_bytes,) * 2


def test_it_is_part_of_the_public_api() -> None:
    assert streamlog.verify is verify


@pytest.mark.parametrize("what", ["nothing", "empty", "strangers", "a file"])
def test_what_is_no_log_is_refused(tmp_path: Path, what: str) -> None:
    path = tmp_path / "x"
    if what != "nothing":
        path.mkdir()
    if what == "strangers":
        (path / "notes.txt").touch()
    if what == "a file":
        path = path / "f"
        path.touch()
    with pytest.raises(streamlog.FormatError, match=r"is not a log|no log"):
        verify(path)


# Damage


def test_a_damaged_batch_names_topic_partition_file_place_and_offsets(closed: Path) -> None:
    (file,) = directory(closed, "t", 1).glob("*.log")
    flip(file, -1)
    problem = only(verify(closed))
    assert problem == Problem(str(file), 0, "payload", problem.message, "t", 1, (0, 10), file.stat().st_size)
    assert "t-1: payload at" in str(problem) and "offsets 0 to 9" in str(problem)
    assert "1 problem (" in str(verify(closed))


def test_an_end_that_is_not_known_is_said_so() -> None:
    problem = Problem("x.log", 7, "header", "broken", "t", 0, (5, FOREVER_OFFSET))
    assert str(problem) == "t-0: header at x.log:7: broken (lost: offsets 5 and on)"


@pytest.mark.parametrize("clean", [True, False])
def test_a_missing_partition_directory_is_damage_however_the_log_was_left(closed: Path, clean: bool) -> None:
    shutil.rmtree(directory(closed, "t", 0))
    owner = closed / "streamlog.json"
    owner.write_text(json.dumps({**json.loads(owner.read_text()), "clean": clean}))
    problem = only(verify(closed))
    assert (problem.kind, problem.topic, problem.partition) == ("missing", "t", 0)


def test_a_missing_metadata_log_is_damage(closed: Path) -> None:
    shutil.rmtree(closed / "__cluster_metadata-0")
    kinds = {(problem.kind, problem.topic) for problem in verify(closed).problems}
    assert ("missing", "__cluster_metadata") in kinds


def test_with_damaged_metadata_partitions_are_reported_as_orphans(closed: Path) -> None:
    (file,) = directory(closed, "__cluster_metadata", 0).glob("*.log")
    for position in range(20, file.stat().st_size, 97):
        flip(file, position)
    report = verify(closed)
    assert {problem.topic for problem in report.problems if problem.topic} == {"__cluster_metadata"}
    assert {problem.kind for problem in report.problems if not problem.topic} <= {"orphan"}
    assert not report.ok


@pytest.mark.parametrize("content", ["", "[]", '{"format": 1}', "not json"])
def test_a_damaged_owner_file_is_damage(closed: Path, content: str) -> None:
    (closed / "streamlog.json").write_text(content)
    report = verify(closed)
    assert only(report).kind == "owner"
    assert report.records >= 30


def test_a_newer_format_is_refused(closed: Path) -> None:
    owner = closed / "streamlog.json"
    owner.write_text(json.dumps({**json.loads(owner.read_text()), "min_reader": 3}))
    with pytest.raises(streamlog.FormatError, match="newer"):
        verify(closed)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (msgpack.packb(["broker", 1]), b""),
        (msgpack.packb(["topic", "x"]), b"\xc1"),
        (msgpack.packb(["topic", "x"]), msgpack.packb({"id": 5})),
        (msgpack.packb(5), b""),
        (b"\xc1", None),
    ],
)
def test_a_metadata_record_that_makes_no_sense_is_damage(closed: Path, key: bytes, value: bytes) -> None:
    append(closed, "__cluster_metadata", key, value)
    assert [problem.kind for problem in verify(closed).problems] == ["metadata"]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (msgpack.packb([9, "g"]), b""),
        (msgpack.packb([1, "g"]), msgpack.packb([7])),
        (msgpack.packb([1, "g"]), msgpack.packb([0, 1, 2, 3, 4, 5, 6])),
        (msgpack.packb([2, "g"]), msgpack.packb([0])),
        (msgpack.packb([3, "g", "t", 0]), b"\xc1"),
        (b"\xc1", None),
    ],
)
def test_a_groups_record_that_makes_no_sense_is_damage(closed: Path, key: bytes, value: bytes) -> None:
    append(closed, "__consumer_offsets", key, value)
    assert [problem.kind for problem in verify(closed).problems] == ["group"]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (msgpack.packb([1, 0, "enrich-1"]), b""),
        (msgpack.packb([1, 0, "enrich-1"]), msgpack.packb([0, 7])),
        (msgpack.packb([1, 0]), None),
        (msgpack.packb([1]), b""),
        (b"\xc1", None),
    ],
)
def test_a_record_of_the_transactions_that_makes_no_sense_is_damage_and_repair_leaves_it_out(
    path: Path, tmp_path: Path, open_log: OpenLog, key: bytes, value: bytes | None
) -> None:
    with open_log() as log:
        log.create_topic("t", partitions=2)
        with log.producer(transactional_id="enrich-1") as producer, producer.transaction():
            producer.send("t", b"a", partition=0)
    assert verify(path).ok
    append(path, "__transaction_state", key, value)
    problem = only(verify(path))
    assert (problem.kind, problem.topic, problem.partition) == ("transaction", "__transaction_state", 0)
    report = streamlog.repair(path, tmp_path / "new")
    assert not report.ok
    assert verify(tmp_path / "new").ok
    with open_log(tmp_path / "new") as log:
        with log.producer(transactional_id="enrich-1") as producer, producer.transaction():
            producer.send("t", b"b", partition=0)
        assert [record.value for record in log["t"].read(0)] == [b"a", b"b"]


def append(path: Path, topic: str, key: bytes, value: bytes | None) -> None:
    """Into a closed log, a record that no code of ours would write."""
    where = directory(path, topic, 0)
    topic_id = METADATA_ID.bytes if topic == "__cluster_metadata" else bytes.fromhex(where.name.split("-")[0])
    seed = seed_of(topic_id, 0)
    log = open_partition(
        OsDisk(), str(where), topic_id, 0, seed, TopicConfig(), PreviousShutdown(clean=True, same_boot=True)
    )
    log.append(AppendRequest([columns.seal(seed, [key], [value], 0, count=1)]), 0, 0)
    log.close()
    log.release()


# What the next open repairs


def test_the_end_of_a_killed_log_is_torn_and_gone_after_an_open(closed: Path, open_log: OpenLog) -> None:
    with open_log() as log:
        log["t"].send(b"more", partition=0)
        file = max(directory(closed, "t", 0).glob("*.log"))
        whole = file.read_bytes()
        copy = closed.with_name("copy")
        shutil.copytree(closed, copy)
    file = copy / file.relative_to(closed)
    file.write_bytes(whole[:-3])
    report = verify(copy)
    assert report.ok
    assert [note.kind for note in report.notes] == ["torn"]
    with open_log(copy):
        pass
    assert not verify(copy).notes


def test_orphans_and_strangers_are_notes(closed: Path, open_log: OpenLog) -> None:
    shutil.copytree(directory(closed, "t", 0), closed / "topics" / f"{'a' * 32}-0")
    (closed / "topics" / "notes.txt").touch()
    (closed / "readme").touch()
    (closed / "streamlog.json.tmp").touch()
    report = verify(closed)
    assert report.ok
    assert [note.kind for note in report.notes] == ["leftover", "leftover", "orphan", "leftover"]
    with open_log():
        pass
    assert "orphan" not in [note.kind for note in verify(closed).notes]


def test_a_long_list_is_cut_in_the_summary_and_not_in_the_report() -> None:
    problems = tuple(Problem("x", n, "payload", "broken") for n in range(50))
    text = str(Report("d", problems, problems[:1]))
    assert text.count("problem: ") == 20
    assert "and 30 more problems" in text
    assert text.count("note: ") == 1


# What cannot be read, and what goes away meanwhile


def test_a_file_where_a_partition_belongs_is_damage(closed: Path) -> None:
    where = directory(closed, "t", 1)
    shutil.rmtree(where)
    where.touch()
    problem = only(verify(closed))
    assert (problem.kind, problem.topic, problem.partition) == ("unreadable", "t", 1)


def test_a_partition_of_a_newer_format_is_damage_to_this_version(closed: Path) -> None:
    from streamlog.records import batch as batches

    where = directory(closed, "t", 1)
    (file,) = where.glob("*.log")
    data = bytearray(file.read_bytes())
    data[4] = 3
    seed = seed_of(bytes.fromhex(where.name.split("-")[0]), 1)
    end = int.from_bytes(data[5:7], "little")
    digest = batches.xxh3_64_intdigest(bytes(data[:11] + data[15:end]), seed) & 0xFFFFFFFF
    data[11:15] = digest.to_bytes(4, "little")
    file.write_bytes(data)
    problem = only(verify(closed))
    assert problem.kind == "format" and "newer streamlog" in problem.message


class Meanwhile(OsDisk):
    """A disk under whose reader something happens once, at the first listing of a name that ends so."""

    def __init__(self, ending: str, act: Callable[[], object]) -> None:
        self._ending = ending
        self._act: Callable[[], object] | None = act

    def listdir(self, path: str) -> list[str]:
        names = super().listdir(path)
        if path.endswith(self._ending) and self._act is not None:
            act, self._act = self._act, None
            act()
        return names


def test_a_topic_that_is_deleted_meanwhile_is_no_damage(log: StreamLog, path: Path) -> None:
    log.create_topic("t", partitions=2).send_many([b"x"] * 20)
    log.create_topic("stays").send(b"x")
    report = verify(path, disk=Meanwhile("-0", lambda: log.delete_topic("t")))
    assert report.ok, report
    assert not [note for note in report.notes if note.topic == "t"]


def test_a_group_that_commits_meanwhile_is_no_damage(log: StreamLog, path: Path) -> None:
    topic = log.create_topic("t")
    topic.send_many([b"x"] * 5)
    with log.consumer("t", group="g", enable_auto_commit=False) as consumer:
        for _ in range(3):
            consumer.poll()
        (groups,) = [found for found in (path / "topics").iterdir() if found != directory_of(path, log)]
        report = verify(path, disk=Meanwhile(groups.name, consumer.commit))
    assert report.ok, report


def directory_of(path: Path, log: StreamLog) -> Path:
    return path / "topics" / f"{log['t'].id.hex}-0"
