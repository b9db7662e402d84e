"""Readers in other processes see a transaction when it commits, and none that aborted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import streamlog
from tests.contents import values

from .owner_process import Child, Owner, eventually, received


@pytest.mark.parametrize("sync", [False, True])
def test_a_reader_waits_for_the_end_of_a_transaction_and_skips_what_was_aborted(
    child: Child, path: Path, sync: bool
) -> None:
    owner = Owner(child, path, sync=sync)
    owner("t = log.create_topic('t', partitions=1)")
    with streamlog.open(path, read_only=True) as reader, reader.consumer("t") as consumer:
        assert consumer.poll() == []
        owner("p = log.producer(transactional_id='x')")
        for n in range(3):
            owner("p.begin_transaction()")
            owner(f"_ = p.send('t', b'{n}-a'), p.send_many('t', [b'{n}-b', b'{n}-c'])")
            owner(f"_ = t.send(b'{n}-plain')")
            eventually(lambda: reader["t"].partition(0).high_watermark, 5 * n + 4)
            assert reader["t"].partition(0).last_stable_offset == 5 * n
            assert consumer.poll() == []
            owner("p.commit_transaction()" if n != 1 else "p.abort_transaction()")
            expected = [b"%d-a" % n, b"%d-b" % n, b"%d-c" % n] if n != 1 else []
            assert received(consumer, len(expected) + 1) == [*expected, b"%d-plain" % n]
        owner("p.begin_transaction()")
        owner("_ = p.send('t', b'open')")
        eventually(lambda: reader["t"].partition(0).high_watermark, 16)
        assert len(values(reader)) == 9
    with streamlog.open(path, read_only=True) as reader:
        assert len(values(reader)) == 9
    owner("p.abort_transaction()")
    owner("log.close()")
    with streamlog.open(path, read_only=True) as reader:
        assert len(values(reader)) == 9
        assert [each for each in reader["t"].read(0, isolation_level="read_uncommitted") if each.value == b"1-a"]


@pytest.mark.parametrize("isolation_level", ["read_committed", "read_uncommitted"])
def test_a_reader_of_a_log_all_of_whose_transactions_were_committed_finds_them_by_its_first_read(
    path: Path, isolation_level: Any
) -> None:
    with streamlog.open(path) as log:
        log.create_topic("t", partitions=1)
        producer = log.producer(transactional_id="x")
        with producer.transaction():
            producer.send("t", b"a")
    with streamlog.open(path, read_only=True) as reader:
        assert [each.value for each in reader["t"].read(0, isolation_level=isolation_level)] == [b"a"]
    with (
        streamlog.open(path, read_only=True) as reader,
        reader.consumer("t", isolation_level=isolation_level) as consumer,
    ):
        assert received(consumer, 1) == [b"a"]
