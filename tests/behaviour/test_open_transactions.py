"""Which transactions are open: `log.transactions`, `abort_transaction`, and the terminal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import streamlog
import streamlog.cli.transactions  # it adds its commands
from streamlog import ConfigError, InvalidTxnStateError, ProducerFencedError, TopicPartition
from streamlog.broker.service import LocalService
from streamlog.runtime.threads import result_of
from streamlog.testing import ManualClock
from tests.behaviour.owner_process import Child, Owner, eventually
from tests.coordinated_writer import CoordinatedWriter

from .test_cli import Terminal

T0 = TopicPartition("t", 0)


def test_a_transaction_is_listed_from_its_first_record_to_its_end(path: Path) -> None:
    clock = ManualClock()
    with (
        streamlog.open(path, clock=clock, auto_create_topics=True) as log,
        log.producer(transactional_id="a") as producer,
    ):
        assert log.transactions() == []
        with producer.transaction():
            assert log.transactions() == []
            producer.send("t", "1")
            clock.advance(2.5)
            [found] = log.transactions()
            assert (found.transactional_id, found.state, found.age_ms, found.partitions) == ("a", "Ongoing", 2500, {T0})
            assert found.producer_id >= 0
        assert log.transactions() == []


def test_a_transaction_is_aborted_from_outside_and_its_producer_fenced(path: Path) -> None:
    with streamlog.open(path, auto_create_topics=True) as log, log.producer(transactional_id="a") as producer:
        producer.begin_transaction()
        producer.send("t", "1")
        log.abort_transaction("a")
        assert log.transactions() == []
        with pytest.raises(ProducerFencedError):
            producer.commit_transaction()
        assert list(log["t"].read()) == []
        with pytest.raises(InvalidTxnStateError):
            log.abort_transaction("a")
        with pytest.raises(InvalidTxnStateError):
            log.abort_transaction("b")
        with pytest.raises(ConfigError):
            log.abort_transaction("")


def test_an_abort_waits_no_longer_for_a_partition_without_a_leader_than_any_call(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is decided: the marker is written once the partition has a leader."""
    with streamlog.open(brokers=2, replication_factor=1) as log:
        log.create_topic("t", partitions=2)
        with log.producer(transactional_id="a") as producer:
            producer.begin_transaction()
            producer.send("t", "1", partition=0)
            producer.send("t", "1", partition=1)
            leader = log._use().leader  # type: ignore[attr-defined]
            other = 1 - leader(TopicPartition("__transaction_state", 0)).broker_id
            log.brokers[other].stop()
            with monkeypatch.context() as patch:
                patch.setattr("streamlog.client.retrying.DEFAULT_API_TIMEOUT_S", 0.05)
                with pytest.raises(streamlog.RequestTimedOutError, match="no leader"):
                    log.abort_transaction("a")
            assert [each.state for each in log.transactions()] == ["PrepareAbort"]
            log.brokers[other].start()
            eventually(log.transactions, [])
            assert list(log["t"].read()) == []


def test_a_transaction_whose_commit_is_decided_is_not_aborted(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = ManualClock()
    with streamlog.open(clock=clock) as log:
        log.create_topic("t")
        writer = CoordinatedWriter(log, "a")
        writer.send("t", b"1")

        def refused(*args: Any) -> Any:
            raise streamlog.NotLeaderError("an election is under way")

        with monkeypatch.context() as patch:
            patch.setattr(LocalService, "append_marker", refused)
            writer.service.end_txn("a", writer.producer, True)
            assert [each.state for each in log.transactions()] == ["PrepareCommit"]
            with pytest.raises(InvalidTxnStateError, match="committed"):
                log.abort_transaction("a")
        clock.advance(2)
        assert log.transactions() == []
        assert [record.value for record in log["t"].read()] == [b"1"]


def left_open(path: Path) -> None:
    """A log with a transaction of a producer in another process, which is open."""
    with streamlog.open(path) as log:
        log.create_topic("t")
        service = log._use()
        producer = result_of(service.init_producer_id("far", remote=True))
        result_of(service.add_partitions_to_txn("far", producer, [T0]))


def test_the_terminal_lists_describes_and_aborts(path: Path) -> None:
    terminal = Terminal(path)
    left_open(path)
    [found] = terminal.json("transactions", "list")
    assert (found["transactional_id"], found["state"], found["partitions"]) == (
        "far",
        "Ongoing",
        [{"topic": "t", "partition": 0}],
    )
    header, line = terminal.lines("transactions", "list")
    assert header.split() == ["id", "state", "producer", "epoch", "age", "partitions"]
    assert line.split()[:2] == ["far", "Ongoing"]
    assert terminal.json("transactions", "describe", "far")["partitions"] == [
        {"topic": "t", "partition": 0, "last_stable_offset": 0, "high_watermark": 0}
    ]
    first, header, line = terminal.lines("transactions", "describe", "far")
    assert first.startswith("far  Ongoing, producer ")
    assert line.split()[:2] == ["t", "0"]
    assert "did you mean 'far'" in terminal.fails("transactions", "describe", "fat")
    assert terminal("transactions", "abort", "far", "--yes") == "Aborted the transaction of far.\n"
    assert terminal.json("transactions", "list") == []
    assert "none is open" in terminal.fails("transactions", "describe", "far")
    assert terminal.fails("transactions", "abort", "far", "--yes")


def test_the_terminal_lists_while_another_process_has_the_log_open(path: Path, child: Child) -> None:
    owner = Owner(child, path)
    owner("log.create_topic('t'); producer = log.producer(transactional_id='a')")
    terminal = Terminal(path)
    eventually(lambda: terminal.json("transactions", "list"), [])
    owner("producer.begin_transaction(); producer.send('t', '1')")
    eventually(lambda: [each["transactional_id"] for each in terminal.json("transactions", "list")], ["a"])
    owner("producer.commit_transaction()")
    eventually(lambda: terminal.json("transactions", "list"), [])


def test_the_terminal_says_what_an_open_transaction_holds_back(path: Path, child: Child) -> None:
    owner = Owner(child, path)
    owner("log.create_topic('t', partitions=2); producer = log.producer(transactional_id='a')")
    owner("log['t'].send('0', partition=0); producer.begin_transaction(); producer.send('t', '1', partition=0)")
    owner("log['t'].send('2', partition=0); log['t'].send('3', partition=1)")
    terminal = Terminal(path)
    eventually(lambda: terminal.json("topic", "describe", "t")["partitions"][0]["high_watermark"], 3)
    assert [p["last_stable_offset"] for p in terminal.json("topic", "describe", "t")["partitions"]] == [1, 1]
    shown = terminal.run("consume", "t")
    assert sorted(shown.stdout.split()) == ["0", "3"]
    [line] = shown.stderr.splitlines()
    assert line.startswith("streamlog: open transactions hold back t-0 from offset 1. `streamlog transactions list`")
    everything = terminal.run("consume", "t", "--isolation-level", "read_uncommitted")
    assert (sorted(everything.stdout.split()), everything.stderr) == (["0", "1", "2", "3"], "")
    header = next(line for line in terminal.lines("topic", "describe", "t") if "partition" in line)
    assert header.split("  ")[-1].strip() == "last stable"
    refused = terminal.fails("transactions", "abort", "a", "--yes")
    assert f"in use by process {owner.process.pid}" in refused
    assert "log.abort_transaction('a')" in refused
    owner("producer.commit_transaction()")
    eventually(lambda: terminal.run("consume", "t").stderr, "")
    assert "last stable" not in terminal("topic", "describe", "t")


def test_an_abort_in_the_terminal_says_what_opening_the_log_has_ended(path: Path, child: Child) -> None:
    owner = Owner(child, path)
    owner("log.create_topic('t'); producers = [log.producer(transactional_id=name) for name in 'abc']")
    owner("for each in producers: each.begin_transaction(); each.send('t', '1')")
    owner.process.kill()
    owner.process.wait()
    terminal = Terminal(path)
    first, second = terminal.lines("transactions", "abort", "b", "--yes")
    assert first == "Aborted the transaction of b."
    assert second.endswith(": a, c.")


def test_the_terminal_aborts_what_a_killed_process_has_left_open(path: Path, child: Child) -> None:
    """Opening the log does it already."""
    owner = Owner(child, path)
    owner("log.create_topic('t'); producer = log.producer(transactional_id='a')")
    owner("producer.begin_transaction(); producer.send('t', '1')")
    owner.process.kill()
    owner.process.wait()
    terminal = Terminal(path)
    assert "did you mean 'a'" in terminal.fails("transactions", "abort", "aa", "--yes")
    assert terminal("transactions", "abort", "a", "--yes") == "Aborted the transaction of a.\n"
    assert terminal.json("transactions", "list") == []
    assert "none is open" in terminal.fails("transactions", "abort", "a", "--yes")


def _reader(path: Path) -> Any:
    return streamlog.open(path, read_only=True)


def test_a_reader_lists_and_aborts_nothing(path: Path) -> None:
    left_open(path)
    with _reader(path) as log:
        assert [each.transactional_id for each in log.transactions()] == ["far"]
        with pytest.raises(streamlog.ReadOnlyError):
            log.abort_transaction("far")
