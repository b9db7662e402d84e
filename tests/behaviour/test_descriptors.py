"""A log of many partitions and many segments works with the descriptors that a process has."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest

LIMIT = 192
PARTITIONS = 300
SEGMENTS = 300


def run_with_few_descriptors(program: str, path: Path, limit: int = LIMIT) -> str:
    """What a program prints that may have `limit` descriptors; it fails the test if it fails."""
    prelude = f"""
        import resource, sys
        resource.setrlimit(resource.RLIMIT_NOFILE, ({limit}, {limit}))
        import streamlog
    """
    done = subprocess.run(
        [sys.executable, "-c", dedent(prelude) + dedent(program), str(path)],
        capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_more_partitions_than_descriptors_are_written_synced_and_read(tmp_path: Path) -> None:
    printed = run_with_few_descriptors(
        f"""
        with streamlog.open(sys.argv[1]) as log:
            topic = log.create_topic("t", partitions={PARTITIONS}, segment_bytes=1024)
            for value in (b"a" * 600, b"b" * 600):
                for partition in range({PARTITIONS}):
                    topic.send(value, partition=partition)
                log.sync()
            with log.consumer("t") as consumer:
                print(sum(1 for _ in consumer.until_end()))
        with streamlog.open(sys.argv[1]) as log, log.consumer("t") as consumer:
            print(sum(1 for _ in consumer.until_end()))
        """,
        tmp_path / "log",
    )
    assert printed.split() == [str(2 * PARTITIONS)] * 2


@pytest.mark.slow
def test_three_brokers_have_the_descriptors_of_one_process(tmp_path: Path) -> None:
    """Every replica of each partition is written, followed, closed and opened with fewer descriptors than partitions."""
    printed = run_with_few_descriptors(
        f"""
        import os

        with streamlog.open(sys.argv[1], brokers=3) as log:
            log.create_topic("t", partitions={PARTITIONS // 3}, segment_bytes=1024)
            with log.producer(linger_ms=1) as producer:
                for value in (b"a" * 600, b"b" * 600):
                    for partition in range({PARTITIONS // 3}):
                        producer.send("t", value, partition=partition)
            log.sync()
            print(len(os.listdir("/proc/self/fd")) <= {LIMIT})
        with streamlog.open(sys.argv[1]) as log:
            print(min(len(log["t"].partition(n).isr) for n in range({PARTITIONS // 3})))
            with log.consumer("t") as consumer:
                print(sum(1 for _ in consumer.until_end()))
        """,
        tmp_path / "log",
    )
    assert printed.split() == ["True", "3", str(2 * (PARTITIONS // 3))]


def test_sending_to_many_partitions_in_turn_opens_no_files_where_the_process_may_have_enough_descriptors(
    tmp_path: Path,
) -> None:
    printed = run_with_few_descriptors(
        f"""
        import os
        with streamlog.open(sys.argv[1]) as log, log.producer() as producer:
            log.create_topic("t", partitions={PARTITIONS})
            opened, os_open = [], os.open
            os.open = lambda *args: (opened.append(args), os_open(*args))[1]
            for _ in range(3):
                opened.clear()
                for partition in range({PARTITIONS}):
                    producer.send("t", b"x", partition=partition)
            print(len(opened))
        """,
        tmp_path / "log",
        limit=5 * PARTITIONS,
    )
    assert printed.strip() == "0"


def test_more_segments_than_descriptors_are_compacted_into_one(tmp_path: Path) -> None:
    printed = run_with_few_descriptors(
        f"""
        with streamlog.open(sys.argv[1]) as log:
            topic = log.create_topic("t", cleanup_policy="compact", segment_bytes=1024, min_cleanable_dirty_ratio=1.0)
            for n in range({SEGMENTS}):
                topic.send(b"%600d" % n, b"k%d" % (n % 10))
            assert log.metrics()["topics"]["t"]["0"]["segments"] >= {SEGMENTS}
            topic.update_config(segment_bytes=1 << 30)
            topic.compact()
            topic.compact()
            print(log.metrics()["topics"]["t"]["0"]["segments"], [int(record.value) for record in topic.read()])
        """,
        tmp_path / "log",
    )
    assert printed.strip() == f"2 {[*range(SEGMENTS - 10, SEGMENTS)]}"
