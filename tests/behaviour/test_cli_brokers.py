"""The commands of the terminal for brokers, replicas and leaders."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import streamlog
import streamlog.cli.brokers  # it adds its commands

from .test_cli import Terminal


@pytest.fixture
def fleet(path: Path) -> Terminal:
    """A log of three brokers with a topic `t` of three partitions, on two of them each."""
    with streamlog.open(path, brokers=3) as log:
        log.create_topic("t", partitions=3, replication_factor=2).send_many([b"%d" % n for n in range(30)])
    return Terminal(path)


def test_brokers_are_listed_with_what_they_have(fleet: Terminal) -> None:
    found = fleet.json("broker", "list")
    assert [(b["id"], b["leaders"], b["replicas"]) for b in found] == [(0, 1, 2), (1, 1, 2), (2, 1, 2)]
    assert [b["path"] for b in found] == [str(fleet.directory / f"broker-{n}") for n in range(3)]
    assert [(b["running"], b["retiring"], b["missing"]) for b in found] == [(True, False, False)] * 3
    header, first, *_ = fleet.lines("broker", "list")
    assert header.split() == ["broker", "state", "leaders", "replicas", "path"]
    assert first.split() == ["0", "ok", "1", "2", str(fleet.directory / "broker-0")]
    shutil.rmtree(fleet.directory / "broker-2")
    assert [line.split()[1] for line in fleet.lines("broker", "list")[1:]] == ["ok", "ok", "missing"]


def test_a_log_of_one_broker_has_one_in_the_list(path: Path) -> None:
    terminal = Terminal(path)
    terminal("topic", "create", "t", "-p", 2)
    (broker,) = terminal.json("broker", "list")
    assert (broker["id"], broker["path"], broker["leaders"]) == (0, str(path), 2)
    assert "has one broker" in terminal.fails("broker", "add", path.parent / "new")
    assert "has one broker" in terminal.fails("broker", "retire", 0, "--yes")


def test_a_broker_is_added_gets_replicas_and_another_is_retired(fleet: Terminal) -> None:
    disk = fleet.directory.parent / "disk2"
    assert fleet.json("broker", "add", disk) == {"id": 3, "path": str(disk)}
    assert [(b["path"], b["missing"]) for b in fleet.json("broker", "list")][3] == (str(disk), False)
    assert "not an empty directory" in fleet.fails("broker", "add", fleet.directory)
    moved = fleet.json("topic", "reassign", "t", "--replicas", "0=3,1", "--replicas", "2=3,2")
    assert moved["topic"] == "t"
    assert (moved["replicas"]["0"], moved["replicas"]["2"]) == ([3, 1], [3, 2])
    assert fleet.json("topic", "elect", "t", "-p", 2, "--broker", 2) == {"topic": "t", "leaders": {"2": 2}}
    assert fleet.json("topic", "elect", "t")["leaders"]["2"] == 3
    said = fleet("broker", "retire", 0, "--yes", "--throttle", 100_000_000)
    assert said == f"Retired broker 0. Its directory {fleet.directory / 'broker-0'} can be removed.\n"
    assert [b["id"] for b in fleet.json("broker", "list")] == [1, 2, 3]
    assert sorted(map(int, fleet.lines("consume", "t"))) == list(range(30))
    assert len(fleet.json("topic", "reassign", "t", "-r", 3)["replicas"]["1"]) == 3
    assert "has 3 replicas, and 2 brokers would be left" in fleet.fails("broker", "retire", 1, "-y")


def test_wrong_replicas_are_one_line(fleet: Terminal) -> None:
    for wrong in ("0", "0=", "x=1", "0=1,y"):
        assert "names no replicas: write N=BROKERS" in fleet.fails("topic", "reassign", "t", "--replicas", wrong)
    assert "either --replication-factor or --replicas" in fleet.fails("topic", "reassign", "t")
    assert "has no partition 7" in fleet.fails("topic", "reassign", "t", "--replicas", "7=1")
    assert "There is no broker 9" in fleet.fails("broker", "retire", 9, "-y")
    assert "Broker 9 has no replica" in fleet.fails("topic", "elect", "t", "--broker", 9)


def test_the_brokers_of_a_log_may_lie_apart(tmp_path: Path) -> None:
    places = [tmp_path / "disk1", tmp_path / "disk2"]
    apart, where = Terminal(tmp_path / "none"), ["-d", places[0], "-d", places[1]]
    apart(*where, "topic", "create", "t", "-r", 2)
    assert [broker["path"] for broker in apart.json("broker", "list", *where)] == list(map(str, places))
    apart("produce", "t", *where, stdin="x\ny\n")
    assert apart.lines(*where, "consume", "t") == ["x", "y"]
    assert apart.json("topic", "describe", "t", "-d", places[0])["name"] == "t", "to read, one of them is enough"
    assert "all its brokers, each with a -d of its own" in apart.fails("produce", "t", "-d", places[0], stdin="z")
    assert "There is no log in" in apart.fails("produce", "t", "-d", tmp_path / "a", "-d", tmp_path / "b", stdin="z")
    assert "give -d once" in apart.fails("verify", *where)
    assert "log.add_broker" in apart.fails("produce", "t", *where, "-d", tmp_path / "new", stdin="z")


def test_replicas_are_not_a_setting_that_is_altered(fleet: Terminal) -> None:
    said = fleet.fails("topic", "alter", "t", "-X", "replication_factor=3")
    assert "streamlog topic reassign t --replication-factor 3" in said
    assert "reassign t --replication-factor N" in fleet.fails("topic", "alter", "t", "-X", "replicas=some")
