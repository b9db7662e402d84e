"""A partition whose directory is gone is refused until somebody accepts the loss, and never gives an offset twice."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import streamlog
from streamlog import CorruptRecordError, StreamLog
from streamlog.testing import FaultyDisk, ManualClock, SimulatedDisk

OpenLog = Callable[..., StreamLog]
TOPICS = ("a", "b")


def make(log: StreamLog) -> None:
    """Two topics; of `a` ten records, the first seven handled by a group, which was closed after it."""
    for name in TOPICS:
        topic = log.create_topic(name)
        topic.send_many([b"%d" % n for n in range(10)]).result()
    with log.consumer("a", group="g", enable_auto_commit=False) as consumer:
        consumer.poll(max_records=10)
        consumer.commit({("a", 0): 7})


@pytest.fixture(params=["closed", "killed"])
def left(request: pytest.FixtureRequest, path: Path, open_log: OpenLog) -> Path:
    """The directory of a log that was closed, or whose owner was killed."""
    with open_log() as log:
        make(log)
        for name in TOPICS:
            (path / f"id-{name}").write_text(log[name]._view().id.hex)
    if request.param == "killed":
        owner = path / "streamlog.json"
        owner.write_text(json.dumps({**json.loads(owner.read_text()), "clean": False}))
    return path


def partition(path: Path, topic: str) -> Path:
    if topic in TOPICS:
        return path / "topics" / f"{(path / f'id-{topic}').read_text()}-0"
    known = {(path / f"id-{name}").read_text() for name in TOPICS}
    return next(each for each in (path / "topics").iterdir() if each.name[:32] not in known)


def remove(path: Path, topic: str) -> None:
    shutil.rmtree(partition(path, topic))


def empty(path: Path, topic: str) -> None:
    for file in partition(path, topic).iterdir():
        file.unlink()


def refused_every_time(path: Path, open_log: OpenLog, topics: set[str]) -> None:
    for _ in range(3):
        with pytest.raises(CorruptRecordError, match="lost"):
            open_log()
        problems = streamlog.verify(path).problems
        assert {problem.topic for problem in problems if problem.kind == "missing"} == topics


@pytest.mark.damaged
@pytest.mark.parametrize("harm", [remove, empty])
def test_a_lost_partition_is_refused_by_every_open_and_named_by_every_verify(
    left: Path, open_log: OpenLog, harm: Callable[[Path, str], None]
) -> None:
    harm(left, "a")
    refused_every_time(left, open_log, {"a"})


@pytest.mark.damaged
@pytest.mark.parametrize("harm", [remove, empty])
def test_a_lost_partition_is_refused_by_readers_in_other_processes_too(
    left: Path, open_log: OpenLog, harm: Callable[[Path, str], None]
) -> None:
    harm(left, "a")
    for _ in range(2):
        with open_log(read_only=True) as log:
            assert len(list(log["b"].read())) == 10
            with pytest.raises(CorruptRecordError):
                list(log["a"].read())


@pytest.mark.damaged
@pytest.mark.parametrize("harm", [remove, empty])
@pytest.mark.parametrize("published", [True, False], ids=["published", "unpublished"])
def test_the_loss_is_accepted_and_the_partition_goes_on_at_the_greatest_offset_known(
    left: Path, open_log: OpenLog, harm: Callable[[Path, str], None], published: bool
) -> None:
    harm(left, "a")
    if not published:
        (left / "published").unlink()
    refused_every_time(left, open_log, {"a"})
    log = open_log(force=True)
    assert list(log["a"].read()) == []
    known = 10 if published else 7  # without the file: what the group committed
    assert log["a"].send(b"next").result().offset == known
    assert [record.value for record in log["b"].read()] == [b"%d" % n for n in range(10)]
    log.close()
    with open_log() as log, log.consumer("a", group="g") as consumer:  # an ordinary partition from then on
        assert [record.value for record in consumer.until_end()] == [b"next"]
    assert streamlog.verify(left).ok


@pytest.mark.damaged
@pytest.mark.parametrize("refused", [0, 1, 3])
def test_what_the_owner_published_tells_where_a_lost_partition_ended(
    left: Path, open_log: OpenLog, refused: int
) -> None:
    """However often the log was refused before, and whoever is told of the loss first."""
    remove(left, "b")
    for _ in range(refused):
        with pytest.raises(CorruptRecordError):
            open_log()
    log = open_log(force=True)
    assert log["b"].send(b"next").result().offset == 10


@pytest.mark.damaged
def test_an_open_that_was_killed_forgets_no_end_of_a_lost_partition(clock: ManualClock) -> None:
    machine = SimulatedDisk()
    with streamlog.open("data", disk=machine, clock=clock) as log:
        make(log)
        where = f"/data/topics/{log['b']._view().id.hex}-0"
    machine.rmtree(where)
    first = len(machine.operations)
    with pytest.raises(CorruptRecordError):
        streamlog.open("data", disk=machine, clock=clock)
    for moment in range(first, len(machine.operations) + 1):
        with streamlog.open("data", disk=machine.state(f"{moment}/kill"), clock=clock, force=True) as log:
            assert log["b"].send(b"next").result().offset == 10, moment


@pytest.mark.damaged
def test_a_reader_does_not_take_what_is_kept_of_a_lost_partition_for_records(left: Path, open_log: OpenLog) -> None:
    remove(left, "b")
    with pytest.raises(CorruptRecordError):
        open_log()
    with open_log(read_only=True) as log:
        assert len(list(log["a"].read())) == 10
        with pytest.raises(CorruptRecordError):
            list(log["b"].read())


@pytest.mark.damaged
def test_what_is_left_of_the_state_tells_where_a_lost_partition_ended(left: Path, open_log: OpenLog) -> None:
    (left / "published").unlink()
    for file in partition(left, "b").glob("0*"):
        file.unlink()
    log = open_log(force=True)
    assert log["b"].send(b"next").result().offset == 10


@pytest.mark.damaged
def test_a_partition_without_a_segment_is_lost_unless_the_log_was_closed(left: Path, open_log: OpenLog) -> None:
    owner = json.loads((left / "streamlog.json").read_text())
    for file in partition(left, "b").glob("0*"):
        file.unlink()
    if owner["clean"]:
        for _ in range(3):
            with open_log() as log, pytest.raises(CorruptRecordError):
                list(log["b"].read())
            assert not streamlog.verify(left).ok
    else:
        refused_every_time(left, open_log, {"b"})


@pytest.mark.damaged
@pytest.mark.parametrize("harm", [remove, empty])
def test_lost_offsets_are_refused_and_accepted_like_any_partition(
    left: Path, open_log: OpenLog, harm: Callable[[Path, str], None]
) -> None:
    harm(left, "__consumer_offsets")
    refused_every_time(left, open_log, {"__consumer_offsets"})
    with open_log(force=True) as log:
        assert log.group("g").committed() == {}
        with log.consumer("a", group="g") as consumer:
            assert len(list(consumer.until_end())) == 10
    with open_log() as log:
        assert log.group("g").committed()["a", 0] == 10
    assert streamlog.verify(left).ok


@pytest.mark.damaged
def test_all_topics_lost_are_refused_and_accepted_like_any_partition(left: Path, open_log: OpenLog) -> None:
    shutil.rmtree(left / "topics")
    refused_every_time(left, open_log, {"a", "b", "__consumer_offsets"})
    with open_log(force=True) as log:
        assert [log[name].send(b"next").result().offset for name in TOPICS] == [10, 10]
    with open_log() as log:
        assert [[record.value for record in log[name].read()] for name in TOPICS] == [[b"next"], [b"next"]]
    assert streamlog.verify(left).ok


@pytest.mark.damaged
@pytest.mark.parametrize("harm", [remove, empty])
def test_repair_lists_a_lost_partition_and_has_it_go_on_where_it_ended(
    left: Path, tmp_path: Path, open_log: OpenLog, harm: Callable[[Path, str], None]
) -> None:
    harm(left, "a")
    with pytest.raises(CorruptRecordError):
        open_log()
    (left / "published").unlink()
    report = streamlog.repair(left, tmp_path / "new")
    (lost,) = [each for each in report.partitions if each.lost]
    assert (lost.topic, lost.log_end_offset, [problem.kind for problem in lost.lost]) == ("a", 7, ["missing"])
    with open_log(tmp_path / "new") as log:
        log["a"].send(b"next")
        with log.consumer("a", group="g") as consumer:
            assert [record.value for record in consumer.until_end()] == [b"next"]


@pytest.mark.damaged
@pytest.mark.parametrize("harm", [remove, empty])
def test_without_its_metadata_a_log_is_refused_by_force_too(
    left: Path, open_log: OpenLog, harm: Callable[[Path, str], None]
) -> None:
    directory = left / "__cluster_metadata-0"
    shutil.rmtree(directory)
    if harm is empty:
        directory.mkdir()
    for force in (False, True, False):
        with pytest.raises(CorruptRecordError, match="repair"):
            open_log(force=force)
        assert not streamlog.verify(left).ok
    assert len(list(left.glob("topics/*/*.log"))) == 3


def test_force_changes_nothing_where_nothing_is_lost(path: Path, open_log: OpenLog) -> None:
    with open_log(force=True) as log:
        make(log)
    with open_log(force=True) as log:
        assert open_log(path) is not log  # a second handle, with or without it
        assert [record.value for record in log["a"].read()] == [b"%d" % n for n in range(10)]


def test_force_and_reading_only_contradict_each_other(path: Path) -> None:
    streamlog.open(path).close()
    with pytest.raises(streamlog.ConfigError, match="force"):
        streamlog.open(path, read_only=True, force=True)


@pytest.mark.slow
def test_a_loss_is_accepted_whole_or_not_at_all(clock: ManualClock) -> None:
    """Whatever moment the machine goes down at, the partition is lost as before or goes on where it was said to."""
    machine = SimulatedDisk()
    with streamlog.open("data", disk=machine, clock=clock) as log:
        make(log)
        where = f"/data/topics/{log['a']._view().id.hex}-0"
    machine.rmtree(where)
    machine.unlink("/data/published")
    machine.sync_dir("/data")
    machine.sync_dir("/data/topics")
    first = len(machine.operations)
    with streamlog.open("data", disk=machine, clock=clock, force=True):
        pass
    outcomes = set()
    for name, state in machine.crashes(random=2, first=first):
        try:
            streamlog.open("data", disk=state, clock=clock).close()
            outcomes.add("accepted")
        except CorruptRecordError:
            outcomes.add("refused")
        with streamlog.open("data", disk=state, clock=clock, force=True) as again:
            assert again["a"].send(b"next").result().offset == 7, name
            assert len(list(again["b"].read())) == 10, name
        assert streamlog.verify("data", disk=state).ok, name
    assert outcomes == {"accepted", "refused"}


@pytest.mark.parametrize("op", ["write", "sync"])
def test_a_topic_that_cannot_be_made_is_not_there_afterwards(clock: ManualClock, op: str) -> None:
    """Its directories are made before the metadata names them, so a refusal on the way leaves nothing to take back."""
    for nth in range(1, 60):
        disk = FaultyDisk(SimulatedDisk())
        with streamlog.open("data", disk=disk, clock=clock) as log:
            log.create_topic("first")
            fault = disk.fail(op, errno.ENOSPC, nth=nth, path="*/topics/*")
            try:
                log.create_topic("t", partitions=3)
            except streamlog.DiskFullError:
                assert "t" not in log
            made = "t" in log
            disk.heal()
        with streamlog.open("data", disk=disk, clock=clock) as log:
            assert ("t" in log) == made
        report = streamlog.verify("data", disk=disk)
        assert report.ok and not report.notes, report
        if not fault.fired:
            return
    raise AssertionError("making a topic has more writes than were tried")
