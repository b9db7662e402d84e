"""What a person reads who makes a mistake with brokers: what happened, why, and what to do next."""

from __future__ import annotations

import copy
import os
import pickle
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

import streamlog
import streamlog.cli.records
import streamlog.cli.topics  # each adds its commands
from streamlog import StreamLog, StreamlogError
from streamlog.cli.app import app
from tests.times import LONG


def read(call: Callable[[], object]) -> str:
    """The message of the library's error that a call raises."""
    with pytest.raises(StreamlogError) as caught:
        call()
    return str(caught.value)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


# -- directories ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", [["a", "a"], ["a", "b", "b/../a"], ["a", "link"]], ids=str)
def test_a_directory_that_is_given_twice(here: Path, given: list[str]) -> None:
    os.symlink("a", "link")
    assert f"names the directory {here}/a twice" in read(lambda: streamlog.open(brokers=given))
    assert os.listdir() == ["link"]


@pytest.mark.parametrize("given", [["a", "a/b"], ["a/b/c", "x", "a"], ["/tmp/..", "a"]], ids=str)
def test_a_directory_inside_another_one(here: Path, given: list[str]) -> None:
    message = read(lambda: streamlog.open(brokers=given))
    assert "which is inside another broker's directory" in message
    assert "beside one another" in message
    assert os.listdir() == []


def test_a_name_that_begins_with_another_one_is_not_inside_it(here: Path) -> None:
    with streamlog.open(brokers=["a", "ab"]) as log:
        assert [broker.path for broker in log.brokers] == [f"{here}/a", f"{here}/ab"]


def test_a_list_of_directories_is_read_along(here: Path) -> None:
    with streamlog.open(brokers=["a", "b"]) as log:
        log.create_topic("t").send("x")
    with streamlog.open(brokers=["a", "b"], read_only=True) as log:
        assert [record.value for record in log["t"].read()] == [b"x"]


def test_a_strange_file_beside_the_brokers_keeps_no_log_from_opening_but_no_new_one_is_made_there(here: Path) -> None:
    streamlog.open("log", brokers=2).close()
    Path("log/.DS_Store").touch()
    streamlog.open("log").close()
    streamlog.open("log", brokers=2).close()
    Path("new").mkdir()
    Path("new/notes.txt").touch()
    assert "not empty and no log of several brokers (it has notes.txt)" in read(
        lambda: streamlog.open("new", brokers=2)
    )


def test_a_directory_that_is_gone_says_how_its_broker_is_started_again(
    here: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with streamlog.open("log", brokers=2) as log:
        shutil.rmtree("log/broker-1")
        end = time.monotonic() + LONG
        while log.brokers[1].running:
            assert time.monotonic() < end
        (said,) = [each.getMessage() for each in caplog.records if "broker 1 has failed" in each.getMessage()]
    assert f"its directory {here}/log/broker-1 was removed, renamed or replaced. " in said
    assert "log.brokers[1].start()" in said


# -- what objects show ---------------------------------------------------------------------------------


def test_a_broker_shows_whether_it_runs(path: Path) -> None:
    with streamlog.open(path, brokers=2) as log:
        log.brokers[1].stop()
        first, second = log.brokers
        assert repr(first) == f"<streamlog.Broker 0 '{path}/broker-0': running>"
        assert repr(second) == f"<streamlog.Broker 1 '{path}/broker-1': stopped>"
    assert repr(first) == f"<streamlog.Broker 0 '{path}/broker-0': the log is closed>"
    with streamlog.open(path, read_only=True) as reader:
        assert repr(reader.brokers[0]).startswith("<streamlog.Broker 0 ")
    with streamlog.open() as log:
        assert repr(log.brokers[0]) == "<streamlog.Broker 0 temporary: running>"


def test_brokers_are_equal_by_log_and_id_and_are_not_copied(path: Path) -> None:
    with streamlog.open(path, brokers=2) as log, streamlog.open(path) as again, streamlog.open() as other:
        assert log.brokers == again.brokers
        assert len({*log.brokers, *again.brokers, *other.brokers}) == 3
        for refused in (copy.copy, copy.deepcopy, pickle.dumps):
            with pytest.raises(TypeError):
                refused(log.brokers[0])


# -- arguments -----------------------------------------------------------------------------------------

SAYS: dict[str, tuple[Callable[[StreamLog], object], tuple[str, ...]]] = {
    "open(brokers='3')": (
        lambda log: streamlog.open(brokers="3"),
        ("brokers='3' (str)", "a number of brokers, such as 3", "a list of their directories"),
    ),
    "open(brokers=0)": (lambda log: streamlog.open(brokers=0), ("brokers=0 is out of range: 1 to 100.",)),
    "open(brokers=[])": (lambda log: streamlog.open(brokers=[]), ("brokers=[] names no directory.",)),
    "open(brokers=[a, 3])": (
        lambda log: streamlog.open(brokers=["a", 3]),  # type: ignore[list-item]
        ("brokers[1]=3 (int) names no directory: give a str or a pathlib.Path.",),
    ),
    "open(path, brokers=[a])": (lambda log: streamlog.open("p", brokers=["a"]), ("leave the path out",)),
    "open(broker=3)": (
        lambda log: streamlog.open(broker=3),  # type: ignore[call-arg]
        ("'broker' is not a setting of a log (did you mean 'brokers'?)",),
    ),
    "Kafka's name for the lag": (
        lambda log: streamlog.open(**{"replica.lag.time.max.ms": 5}),  # type: ignore[arg-type]
        ("did you mean 'replica_lag_time_max_ms'?",),
    ),
    "create_topic(replicas=3)": (
        lambda log: log.create_topic("u", replicas=3),  # type: ignore[call-arg]
        ("did you mean 'replication_factor'?",),
    ),
    "create_topic(min_isr=2)": (
        lambda log: log.create_topic("u", min_isr=2),  # type: ignore[call-arg]
        ("did you mean 'min_insync_replicas'?",),
    ),
    "replication_factor=5 of 2": (
        lambda log: log.create_topic("u", replication_factor=5),
        ("replication_factor=5 needs as many brokers", "ask for fewer replicas"),
    ),
    "min_insync_replicas=4": (
        lambda log: log.create_topic("u", min_insync_replicas=4),
        ("min_insync_replicas=4 with 2 replicas", "no record could be sent with acks='all'"),
    ),
    "update_config(replication_factor=1)": (
        lambda log: log["t"].update_config(replication_factor=1),  # type: ignore[call-arg]
        ("log.reassign(topic, replication_factor=…) changes it",),
    ),
    "elect_leader of a broker that is stopped": (
        lambda log: (log.brokers[1].stop(), log.elect_leader(("t", 0), 1)),  # type: ignore[func-returns-value, arg-type]
        ("Broker 1 does not run, so it cannot lead t-0", "log.brokers[1].start()"),
    ),
    "stop of the last broker": (
        lambda log: [broker.stop() for broker in log.brokers],  # type: ignore[func-returns-value]
        ("Broker 1 is the last one that is running", "Start another one first, or close the log."),
    ),
}


@pytest.mark.parametrize("name", SAYS)
def test_a_message_says_what_was_given_and_what_is_accepted(here: Path, name: str) -> None:
    call, phrases = SAYS[name]
    with streamlog.open("log", brokers=2) as log:
        log.create_topic("t")
        message = read(lambda: call(log))
    assert message.endswith(".")
    for phrase in phrases:
        assert phrase in message, message
    assert os.listdir() == ["log"]


def test_in_a_terminal_the_directory_of_one_broker_says_what_to_type(here: Path) -> None:
    with streamlog.open("log", brokers=2) as log:
        log.create_topic("t").send("x")
    ran = CliRunner().invoke(app, ["-d", "log/broker-1", "topic", "create", "u"], env={"STREAMLOG_DIR": None})
    assert ran.exit_code == 1
    assert (
        "Give the log's directory with -d, or those of all its brokers, each with a -d of its own; commands that only read work"
        in " ".join(ran.stderr.split())
    )
    assert CliRunner().invoke(app, ["-d", "log/broker-1", "consume", "t"], env={"STREAMLOG_DIR": None}).stdout == "x\n"


def test_a_record_that_too_few_replicas_could_take_says_why(path: Path) -> None:
    with streamlog.open(path, brokers=2, min_insync_replicas=2) as log:
        log.create_topic("t")
        log.brokers[1].stop()
        with log.producer(delivery_timeout_ms=1) as producer, pytest.raises(streamlog.DeliveryTimeoutError) as caught:
            producer.send("t", "x")
    assert str(caught.value).startswith("1 record was not delivered to t-0 within 1 ms (delivery_timeout_ms).")
    assert "1 in-sync replica, brokers [0], and its min_insync_replicas is 2" in str(caught.value)
    assert isinstance(caught.value.__cause__, streamlog.NotEnoughReplicasError)
