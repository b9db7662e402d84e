"""Derived files are derived: with every one of them deleted, a log gives the same answers to everything."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from streamlog import StreamLog, TopicPartition
from streamlog.retention import MaxAge, MaxBytes, MaxRecords
from streamlog.testing import ManualClock

OpenLog = Callable[..., StreamLog]
SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {"partitions": 3},
    "table": {"cleanup_policy": "compact", "min_cleanable_dirty_ratio": 0.1},
    "aged": {"retention_ms": 10_000_000},
    "counted": {"retention_records": 1_000},
    "both": {"retention": MaxAge(10_000_000) & (MaxRecords(1_000) | MaxBytes(1 << 20))},
}


def rich(log: StreamLog, clock: ManualClock, rng: random.Random) -> None:
    """Topics of all kinds in small segments: times that go back, deleted and compacted records, commits."""
    for name, settings in SETTINGS.items():
        log.create_topic(name, segment_bytes=1024, **settings)
    for _ in range(120):
        name = rng.choice(list(SETTINGS))
        time = clock.time_ms() - rng.randrange(5_000)
        key = b"k%d" % rng.randrange(5)
        log[name].send(rng.randbytes(rng.randrange(150)), key=key, timestamp_ms=time)
        if rng.random() < 0.2:
            clock.advance(rng.randrange(500))
    log["plain"].delete_records({0: log["plain"].partition(0).log_end_offset // 3})
    log["table"].compact()
    with log.consumer("plain", "aged", group="g") as consumer:
        for _, record in zip(range(20), consumer.until_end(), strict=False):
            consumer.commit(record)


def answers(log: StreamLog) -> dict[str, Any]:
    """Everything that can be asked without changing anything."""
    found: dict[str, Any] = {"groups": {group.name: (dict(group.committed()), group.lag()) for group in log.groups()}}
    consumer = log.consumer(*SETTINGS)
    for topic in log.topics():
        records = [(r.partition, r.offset, r.timestamp, r.key, r.value, tuple(r.headers)) for r in topic.read()]
        places = [TopicPartition(topic.name, number) for number in range(topic.partitions)]
        times = sorted({time + late for _, _, time, *_ in records for late in (-1, 0, 1)})
        found[topic.name] = (
            records,
            [topic.partition(place.partition) for place in places],
            [consumer.offsets_for_times(dict.fromkeys(places, time)) for time in times],
            dict(topic.config),
        )
    consumer.close()
    return found


def decisions(log: StreamLog, clock: ManualClock) -> list[Any]:
    """What retention and compaction make of the log as time goes on and bounds change."""
    found: list[Any] = []
    for age in (20_000, 10_000, 4_000, 500):
        log["aged"].update_config(retention_ms=age)
        log["counted"].update_config(retention_records=age // 500)
        log["both"].update_config(retention=MaxAge(age) & (MaxRecords(age // 500) | MaxBytes(age)))
        clock.advance(300)
        log["table"].compact()
        found.append(
            [
                (topic.name, number, topic.partition(number).log_start_offset)
                for topic in log.topics()
                for number in range(topic.partitions)
            ]
        )
    return found


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("how", ["closed", "killed"])
def test_with_every_derived_file_deleted_all_answers_and_decisions_are_the_same(
    path: Path, tmp_path: Path, open_log: OpenLog, clock: ManualClock, seed: int, how: str
) -> None:
    log = open_log()
    rich(log, clock, random.Random(seed))
    if how == "closed":
        log.close()
    bare, full = tmp_path / "bare", tmp_path / "full"
    shutil.copytree(path, full)
    shutil.copytree(path, bare)
    derived = [file for file in bare.rglob("*") if file.suffix == ".index" or file.name == "published"]
    assert derived
    for file in derived:
        file.unlink()
    found = []
    for directory in (full, bare):
        its_clock = ManualClock(start_ms=clock.time_ms())
        opened = open_log(directory, clock=its_clock)
        found.append((answers(opened), decisions(opened, its_clock), answers(opened)))
        opened.close()
    assert found[0] == found[1]
    starts = [start for *_, start in found[0][1][-1]]
    assert any(starts), "retention never let anything go"
