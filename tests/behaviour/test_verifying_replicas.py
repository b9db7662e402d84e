"""`verify` compares the replicas of a log of several brokers; `repair` takes from the others what is damaged in one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import streamlog
from streamlog.testing import ManualClock
from tests.sampling import Sampled

from .test_repair_from_replicas import files_of, filled, flip, killed, replica_of, segments, values


def test_replicas_that_are_the_same_verify(path: Path) -> None:
    with streamlog.open(path, brokers=3) as log:
        filled(log)
        log.create_topic("u", partitions=3, replication_factor=2).send_many([b"%d" % n for n in range(30)])
    report = streamlog.verify(path)
    assert (report.ok, report.notes) == (True, ()), report


def test_replicas_of_different_histories_are_reported(path: Path) -> None:
    with streamlog.open(path, brokers=2) as log:
        topic = log.create_topic("t", min_insync_replicas=1)
        topic.send("both")
    forked = path.with_name("forked")
    shutil.copytree(path, forked)
    for where, value in ((path, "one"), (forked, "another")):
        with streamlog.open(where) as log:
            log["t"].send(value)
    shutil.rmtree(replica_of(path, topic, 1))
    shutil.copytree(replica_of(forked, topic, 1), replica_of(path, topic, 1))
    report = streamlog.verify(path)
    [problem] = report.problems
    assert (problem.kind, problem.topic, problem.partition) == ("replicas", "t", 0)
    assert "brokers 0 and 1 differ from offset 1 to 1" in problem.message


def test_compacted_replicas_are_compared_by_record(path: Path, clock: ManualClock) -> None:
    with streamlog.open(path, brokers=3, clock=clock) as log:
        topic = log.create_topic("t", cleanup_policy="compact", segment_bytes=1024, min_cleanable_dirty_ratio=0.5)
        for n in range(40):
            topic.send(b"%d" % n * 50, key=b"%d" % (n % 5))
        topic.compact()
        sizes = {sum(file.stat().st_size for file in segments(path, topic, broker)) for broker in range(3)}
        assert len(sizes) > 1, "only the leader's is compacted"
    report = streamlog.verify(path)
    assert report.ok, report


@pytest.mark.slow
@pytest.mark.parametrize("clean", [True, False], ids=["closed", "killed"])
@pytest.mark.parametrize("broker", range(3))
def test_repair_takes_from_the_others_what_one_has_lost(
    path: Path, tmp_path: Path, sampled: Sampled, broker: int, clean: bool
) -> None:
    with streamlog.open(path, brokers=3) as log:
        topic, sent = filled(log)
        with log.consumer("t", group="g") as consumer:
            assert len(list(consumer.until_end())) == len(sent)
    if not clean:
        killed(path)
    kept = path.with_name("kept")
    shutil.copytree(path, kept)
    places = [(file, at) for file in files_of(path, topic, broker) for at in range(file.stat().st_size)]
    for number, (file, at) in enumerate(sampled(places, 700)):
        shutil.rmtree(path)
        shutil.copytree(kept, path)
        flip(file, at)
        into = tmp_path / f"into{number}"
        report = streamlog.repair(path, into)
        name = f"{file.relative_to(path)}, byte {at}: {report}"
        assert report.ok, name
        assert all("; taken from" in each.message for each in report.restored), name
        assert streamlog.verify(into).ok, name
        with streamlog.open(into) as log:
            assert values(log) == sent, name
            assert sum(log.group("g").lag().values()) == 0
            assert log["t"].send("next").result().offset == len(sent)


def test_repair_names_the_broker_that_it_took_from_and_counts_nothing_as_lost(path: Path, tmp_path: Path) -> None:
    with streamlog.open(path, brokers=3) as log:
        topic, sent = filled(log)
    flip(segments(path, topic, 0)[1], 100)
    flip(segments(path, topic, 1)[2], 5)
    segments(path, topic, 2)[0].unlink()
    report = streamlog.repair(path, tmp_path / "into")
    assert report.ok, report
    assert len(report.restored) == 3
    assert "taken from" in str(report)
    with streamlog.open(tmp_path / "into") as log:
        assert values(log) == sent
        assert log["t"].partition(0).isr == (0, 1, 2)


def test_what_all_replicas_have_lost_is_named(path: Path, tmp_path: Path) -> None:
    with streamlog.open(path, brokers=2) as log:
        topic, sent = filled(log)
    for broker in range(2):
        flip(segments(path, topic, broker)[1], 100)
    report = streamlog.repair(path, tmp_path / "into")
    assert not report.ok
    assert not report.restored
    assert len({each.offsets_lost for each in report.problems}) == 1
    [(start, end)] = {each.offsets_lost for each in report.problems if each.offsets_lost}
    with streamlog.open(tmp_path / "into") as log:
        assert values(log) == [value for n, value in enumerate(sent) if not start <= n < end]


def test_repair_fills_a_partition_and_an_owner_file_that_one_broker_has_lost(path: Path, tmp_path: Path) -> None:
    with streamlog.open(path, brokers=3) as log:
        topic, sent = filled(log)
    shutil.rmtree(replica_of(path, topic, 1))
    (path / "broker-2" / "streamlog.json").write_text("{")
    report = streamlog.repair(path, tmp_path / "into")
    owners = [json.loads((tmp_path / f"into/broker-{n}/streamlog.json").read_text()) for n in range(3)]
    assert [owner["broker_id"] for owner in owners] == [0, 1, 2]
    assert len({owner["cluster_id"] for owner in owners}) == 1
    assert [each.kind for each in report.problems] == ["owner"], report
    with streamlog.open(tmp_path / "into") as log:
        assert values(log) == sent
        assert log["t"].send("next").result().offset == len(sent)
    assert streamlog.verify(tmp_path / "into").ok


def test_a_topic_on_some_of_the_brokers_stays_there(path: Path, tmp_path: Path) -> None:
    with streamlog.open(path, brokers=3) as log:
        topic = log.create_topic("t", partitions=3, replication_factor=1)
        sent = [b"%d" % n for n in range(30)]
        for n, value in enumerate(sent):
            topic.send(value, partition=n % 3)
    report = streamlog.repair(path, tmp_path / "into")
    assert report.ok, report
    assert [each.topic for each in report.partitions].count("t") == 3
    with streamlog.open(tmp_path / "into") as log:
        assert sorted(values(log)) == sorted(sent)  # type: ignore[type-var]
