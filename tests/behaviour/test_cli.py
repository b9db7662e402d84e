"""The command `streamlog`: what a person types, what comes out, and what the exit code says."""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import streamlog
import streamlog.cli.groups
import streamlog.cli.inspect
import streamlog.cli.records
import streamlog.cli.repair
import streamlog.cli.topics  # each adds its commands
from streamlog import TopicPartition
from streamlog.cli.app import app
from streamlog.records.core import core
from tests.times import LONG

DAY = 86_400_000
NEW_YEAR = 1_672_531_200_000  # 2023-01-01T00:00:00Z
MAIN = "import sys; from streamlog.cli import main; sys.exit(main())"

# A message in a terminal says what to type, not what to call.
NAMES_OF_THE_LIBRARY = re.compile(r"\w+=(?:True\b|\W)|streamlog\.(?:verify|repair)|lock_timeout")

Child = Callable[..., "subprocess.Popen[str]"]
OpenLog = Callable[..., streamlog.StreamLog]


class Terminal:
    """Runs commands on one directory, in this process."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def run(self, *arguments: object, stdin: str | bytes | None = None) -> Any:
        env = {"STREAMLOG_DIR": str(self.directory), "NO_COLOR": "1"}
        result = CliRunner().invoke(app, [str(a) for a in arguments], input=stdin, env=env, prog_name="streamlog")
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    def __call__(self, *arguments: object, stdin: str | bytes | None = None) -> str:
        """The command's output; it has to succeed."""
        result = self.run(*arguments, stdin=stdin)
        assert result.exit_code == 0, result.output
        return str(result.stdout)

    def lines(self, *arguments: object) -> list[str]:
        return self(*arguments).splitlines()

    def json(self, *arguments: object, stdin: str | None = None) -> Any:
        return json.loads(self(*arguments, "--json", stdin=stdin))

    def fails(self, *arguments: object, stdin: str | bytes | None = None) -> str:
        """The single line on stderr of a command that has to fail with 1."""
        result = self.run(*arguments, stdin=stdin)
        assert result.exit_code == 1, result.output
        (line,) = result.stderr.splitlines()
        assert line.startswith("streamlog: ")
        return str(line)


@pytest.fixture(autouse=True)
def buffered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Output as users have it: what is not flushed in time is lost, or fails when the interpreter exits."""
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)


@pytest.fixture
def terminal(path: Path, open_log: OpenLog) -> Terminal:
    """Commands on the test's directory, which is verified when the test ends."""
    return Terminal(path)


@pytest.fixture
def letters(terminal: Terminal) -> Terminal:
    """A topic `t` of one partition with a, b, c, d, e, one a day from 2023 on."""
    terminal("topic", "create", "t")
    records = [{"key": n, "value": v, "timestamp_ms": NEW_YEAR + n * DAY} for n, v in enumerate("abcde")]
    terminal.run("produce", "t", "--json", stdin="\n".join(map(json.dumps, records)))
    return terminal


# Topics


def test_a_topic_is_created_listed_described_and_deleted(terminal: Terminal) -> None:
    terminal("topic", "create", "orders", "--partitions", 3, "-X", "retention.ms=7d", "-X", "cleanup_policy=delete")
    (listed,) = terminal.json("topic", "list")
    assert (listed["name"], listed["partition_count"], listed["offsets"]) == ("orders", 3, 0)
    about = terminal.json("topic", "describe", "orders")
    assert about["config"]["retention_ms"] == 7 * DAY
    assert [p["partition"] for p in about["partitions"]] == [0, 1, 2]
    assert (terminal.directory / about["partitions"][2]["directory"]).is_dir()
    assert "orders" in terminal("topic", "list")
    described = terminal("topic", "describe", "orders")
    assert "retention_ms = 7d" in described and "segment_ms" not in described
    assert terminal.json("topic", "delete", "orders", "--yes") == {"deleted": ["orders"]}
    assert terminal.json("topic", "list") == []


def test_a_topic_is_altered_and_what_has_changed_is_shown(terminal: Terminal) -> None:
    terminal("topic", "create", "orders", "-X", "retention_records=5", "-X", "retention.ms=7d")
    altered = terminal.lines(
        "topic", "alter", "orders", "-X", "retention.ms=none", "-X", "max_message_bytes=1MiB", "-p", 3
    )
    assert altered == [
        "retention_ms = none (was 7d)",
        "segment_ms = 7d (was 21h)",
        "max_message_bytes = 1MiB (was 1048588)",
        "partitions = 3 (was 1)",
    ]
    about = terminal.json("topic", "describe", "orders")
    assert (about["config"]["retention_records"], about["config"]["retention_ms"]) == (5, None)
    assert about["partition_count"] == 3
    assert terminal.json("topic", "alter", "orders", "-X", "retention_records=6")["config"]["retention_records"] == 6
    assert terminal.lines("topic", "alter", "orders", "-X", "retention_records=6") == [
        "Topic orders has these settings already."
    ]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "topic alter orders -X retention_ms=7d"),
        (["-X", "retenton_ms=7d"], "did you mean 'retention_ms'"),
        (["-p", 2, "-X", "retention_ms=7d"], "has 2 partitions, and the number can only grow"),
        (["-X", "partitioner=sticky"], "partitioner of 'orders' cannot change"),
        (["-X", "min_insync_replicas=2"], "with 1 replicas of each partition"),
    ],
    ids=str,
)
def test_what_cannot_be_altered_changes_nothing(terminal: Terminal, arguments: list[object], said: str) -> None:
    terminal("topic", "create", "orders", "-p", 2)
    before = terminal.json("topic", "describe", "orders")
    assert said in terminal.fails("topic", "alter", "orders", *arguments)
    assert terminal.json("topic", "describe", "orders") == before
    assert "There is no topic 'ordres' (did you mean 'orders'?)" in terminal.fails("topic", "alter", "ordres", "-p", 5)


@pytest.mark.parametrize(
    ("setting", "name", "value"),
    [
        ("retention_bytes=64MiB", "retention_bytes", 64 << 20),
        ("retention_bytes=none", "retention_bytes", None),
        ("retention_records=1000", "retention_records", 1000),
        ("segment.ms=1h", "segment_ms", 3_600_000),
        ("min_cleanable_dirty_ratio=0.2", "min_cleanable_dirty_ratio", 0.2),
        ("cleanup.policy=compact,delete", "cleanup_policy", "compact,delete"),
        ("unclean_leader_election=false", "unclean_leader_election", False),
    ],
)
def test_a_setting_is_typed_as_the_topic_wants_it(terminal: Terminal, setting: str, name: str, value: object) -> None:
    assert terminal.json("topic", "create", "t", "--config", setting)["config"][name] == value


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("retention_ms", "NAME=VALUE"),
        ("retention_ms=soon", "retention_ms='soon'"),
        ("retention_ms=7 moons", "retention_ms='7 moons'"),
        ("retenton_ms=7d", "did you mean 'retention_ms'"),
        ("cleanup_policy=compost", "'compact'"),
        ("retention=7d", "retention_ms"),
        ("partitions=3", "--partitions N"),
        ("replication.factor=3", "--replication-factor N"),
        ("segment_bytes=10", "1024 to 2147483648"),
        ("unclean_leader_election=perhaps", "true or false"),
    ],
)
def test_a_bad_setting_is_refused_and_no_directory_is_made_for_it(terminal: Terminal, setting: str, said: str) -> None:
    assert said in terminal.fails("topic", "create", "t", "--config", setting)
    assert not terminal.directory.exists()


def test_creating_a_topic_twice_is_refused_unless_that_is_fine(terminal: Terminal) -> None:
    terminal("topic", "create", "t")
    assert "'t' exists already. Give --exist-ok" in terminal.fails("topic", "create", "t")
    terminal("topic", "create", "t", "--exist-ok")


def test_no_topic_is_deleted_if_one_of_them_is_unknown(letters: Terminal) -> None:
    letters.fails("topic", "delete", "t", "nowhere", "-y")
    assert len(letters.json("topic", "list")) == 1


# Which directory


def test_the_directory_may_stand_before_or_after_the_command(terminal: Terminal, tmp_path: Path) -> None:
    here = tmp_path / "here"
    terminal("-d", here, "topic", "create", "t")
    assert len(terminal.json("topic", "list", "-d", here)) == 1
    assert not terminal.directory.exists()
    assert len(json.loads(terminal("-d", "elsewhere", "--json", "topic", "list", "--dir", here))) == 1


def test_the_first_topic_creates_the_log_in_an_empty_current_directory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    created = CliRunner().invoke(app, ["topic", "create", "t"], env={"STREAMLOG_DIR": None})
    assert (created.exit_code, created.stderr) == (0, "Created a log in the current directory.\n")
    again = CliRunner().invoke(app, ["topic", "create", "u"], env={"STREAMLOG_DIR": None})
    assert (again.exit_code, again.stderr) == (0, "")


def test_without_a_directory_the_current_one_is_taken_only_if_it_is_a_log(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    terminal("topic", "create", "t")
    arguments: dict[str, Any] = {"args": ["topic", "create", "u"], "env": {"STREAMLOG_DIR": None}}
    monkeypatch.chdir(tmp_path)
    refused = CliRunner().invoke(app, **arguments)
    assert refused.exit_code == 1
    assert "STREAMLOG_DIR" in refused.stderr
    monkeypatch.chdir(terminal.directory)
    assert CliRunner().invoke(app, **arguments).exit_code == 0
    assert len(terminal.json("topic", "list")) == 2


@pytest.mark.parametrize(
    "command", [["topic", "list"], ["produce", "t"], ["consume", "t"], ["group", "list"], ["topic", "delete", "t"]]
)
def test_looking_for_a_log_where_there_is_none_makes_none(terminal: Terminal, command: list[str]) -> None:
    assert "There is no log" in terminal.fails(*command, stdin="a\n")
    assert not terminal.directory.exists()


# Producing and consuming lines


def test_lines_are_records_and_records_are_lines(terminal: Terminal) -> None:
    terminal("topic", "create", "t")
    terminal("produce", "t", stdin="one\n\nthree, no newline")
    assert terminal("consume", "t") == "one\n\nthree, no newline\n"


def test_a_file_is_produced_byte_for_byte(terminal: Terminal, tmp_path: Path) -> None:
    terminal("topic", "create", "t")
    data = b"".join(bytes([n, 255 - n]) + b"\n" for n in range(256) if n not in (10, 245))
    (tmp_path / "lines").write_bytes(data)
    terminal("produce", "t", "-F", tmp_path / "lines")
    assert terminal.run("consume", "t").stdout_bytes == data


def test_a_separator_parts_key_from_value(terminal: Terminal) -> None:
    terminal("topic", "create", "t")
    terminal("produce", "t", "-k", r"\t", stdin="a\t1\tx\nno key\n\t2\n")
    assert terminal("consume", "t", "-k", ": ") == "a: 1\tx\n: no key\n: 2\n"
    keys = [json.loads(line)["key"] for line in terminal.lines("consume", "t", "--json")]
    assert keys == ["a", None, ""]


def test_empty_means_none_when_asked_for(terminal: Terminal) -> None:
    terminal("topic", "create", "t", "-X", "cleanup_policy=compact")
    terminal("produce", "t", "-k", ":", "-Z", stdin="a:1\na:\n")
    assert [json.loads(line)["value"] for line in terminal.lines("consume", "t", "--json")] == ["1", None]


def test_headers_partition_and_compression_come_from_the_command(terminal: Terminal) -> None:
    terminal("topic", "create", "t", "--partitions", 3)
    terminal("produce", "t", "-p", 2, "-H", "source=test", "-H", "empty=", "-z", "gzip", stdin="v\n")
    record = json.loads(terminal("consume", "t", "--json"))
    assert record["partition"] == 2
    assert record["headers"] == [["source", "test"], ["empty", ""]]


def test_json_lines_carry_key_headers_partition_and_time(terminal: Terminal) -> None:
    terminal("topic", "create", "t", "--partitions", 2)
    sent = {"key": "k", "value": "v", "headers": {"a": "1", "b": None}, "partition": 1, "timestamp_ms": NEW_YEAR}
    summary = terminal.json("produce", "t", stdin=json.dumps(sent) + "\n\n" + json.dumps({"value": {"x": [1, "é"]}}))
    assert summary["records"] == 2
    received = [json.loads(line) for line in terminal.lines("consume", "t", "--json")]
    assert {"topic": "t", "offset": 0, **sent, "headers": [["a", "1"], ["b", None]]} in received
    assert '{"x": [1, "é"]}' in [record["value"] for record in received]


def test_what_consume_writes_as_json_produce_reads_back(terminal: Terminal, open_log: OpenLog) -> None:
    with open_log() as log:
        original = log.create_topic("t", partitions=2)
        for value in (b"text", b"\xff\x00", None, b"", "é\n".encode()):
            original.send(value, value, headers=[("h", value), ("h", b"2")], partition=1, timestamp_ms=NEW_YEAR)
        log.create_topic("copy", partitions=2)
    terminal("produce", "copy", "--json", stdin=terminal("consume", "t", "--json"))
    with open_log() as log:
        assert [r[1:] for r in log["copy"].read()] == [r[1:] for r in log["t"].read()]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("not json", "not JSON"),
        ("[1]", "JSON object"),
        ('{"valeu": "v"}', "did you mean 'value'"),
        ('{"value": "v", "partition": "1"}', "partition has to be an integer"),
        ('{"value": "v", "partition": 9}', "9"),
        ('{"value": "v", "timestamp_ms": -5}', "-5"),
        ('{"value_base64": "%%%"}', "not base64"),
        ('{"value": "v", "headers": {"a": 1}}', "header 'a'"),
    ],
)
def test_a_bad_line_is_named_and_the_lines_before_it_are_kept(terminal: Terminal, line: str, said: str) -> None:
    terminal("topic", "create", "t")
    message = terminal.fails("produce", "t", "--json", stdin='{"value": "good"}\n' + line + '\n{"value": "never"}\n')
    assert "Line 2" in message
    assert said in message
    assert terminal("consume", "t") == "good\n"


def test_producing_to_what_is_not_there_names_it(letters: Terminal) -> None:
    assert "streamlog topic create u" in letters.fails("produce", "u", stdin="a\n")
    assert "no partition 7" in letters.fails("produce", "t", "-p", 7, stdin="a\n")
    assert len(letters.lines("consume", "t")) == 5


def test_a_record_that_is_too_large_is_named_by_its_line(letters: Terminal) -> None:
    message = letters.fails("produce", "t", stdin="small\n" + "x" * 2_000_000 + "\n")
    assert "Line 2" in message
    assert letters.lines("consume", "t")[-1] == "small"


# Where to start and where to stop


@pytest.mark.parametrize(
    ("offsets", "expected"),
    [
        ([], "abcde"),
        (["beginning"], "abcde"),
        (["end"], ""),
        (["2"], "cde"),
        (["-2"], "de"),
        (["-99"], "abcde"),
        (["@2023-01-03"], "cde"),
        (["@2023-01-02T12:00:00Z"], "cde"),
        (["@2023-01-03T01:00:00+01:00"], "cde"),
        ([f"@{NEW_YEAR + 3 * DAY}"], "de"),
        (["@2030-01-01"], ""),
        (["s@2023-01-02", "e@2023-01-04"], "bc"),
        (["e@2023-01-03"], "ab"),
        (["3", "e@2023-01-02"], ""),
    ],
)
def test_offsets_are_written_as_in_kcat(letters: Terminal, offsets: list[str], expected: str) -> None:
    arguments = [part for offset in offsets for part in ("-o", offset)]
    assert "".join(letters.lines("consume", "t", *arguments)) == expected


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["-o", "begining"], "did you mean 'beginning'"),
        (["-o", "@yesterday"], "'yesterday' is not a time"),
        (["-o", "stored"], "-g GROUP"),
        (["-o", "1", "-o", "2"], "Two starts"),
        (["-o", "99"], "Offset 99 is outside t-0, which holds 0 up to, not including, 5"),
        (["-f", "-o", "99"], "Give -o an offset in that range"),
        (["-p", "7"], "7"),
        (["-f", "-o", "e@2023-01-01"], "contradict"),
    ],
)
def test_an_impossible_place_is_refused(letters: Terminal, arguments: list[str], said: str) -> None:
    assert said in letters.fails("consume", "t", *arguments)


def test_a_count_stops_early(letters: Terminal) -> None:
    assert letters.lines("consume", "t", "-c", 2) == ["a", "b"]
    assert letters.lines("consume", "t", "-c", 2, "-o", "-3", "--follow") == ["c", "d"]


def test_what_is_deleted_while_it_is_listed_is_left_out(
    letters: Terminal, open_log: OpenLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    letters("topic", "create", "gone")
    letters("group", "reset", "g", "t", "gone", "-o", "beginning")
    partition = streamlog.Topic.partition

    def deleted(topic: streamlog.Topic[Any, Any], number: int) -> Any:
        if topic.name == "gone":
            raise streamlog.UnknownTopicOrPartitionError("There is no topic 'gone'.")
        return partition(topic, number)

    monkeypatch.setattr(streamlog.Topic, "partition", deleted)
    assert [topic["name"] for topic in letters.json("topic", "list")] == ["t"]
    assert [row["topic"] for row in letters.json("group", "describe", "g")["offsets"]] == ["t"]


@pytest.mark.parametrize(("when", "expected"), [("before", [*range(2000, 3000)]), ("all", [])])
def test_records_that_retention_deletes_before_consume_reads_them_are_left_out(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch, when: str, expected: list[int]
) -> None:
    with streamlog.open(terminal.directory) as log:
        topic = log.create_topic("t", segment_bytes=4096)
        topic.send_many([str(n) for n in range(3000)])

        def locate_then_delete(*arguments: Any) -> Any:
            found = locate(*arguments)
            topic.delete_records({0: 2000 if when == "before" else 3000})
            return found

        locate = streamlog.cli.records.locate
        monkeypatch.setattr(streamlog.cli.records, "locate", locate_then_delete)
        result = terminal.run("consume", "t", "-g", "g", "-o", "beginning")
    assert (result.exit_code, result.stderr) == (0, "")
    assert list(map(int, result.stdout.split())) == expected


def test_records_that_retention_deletes_while_consume_prints_are_left_out_and_said(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    with streamlog.open(terminal.directory) as log:
        topic = log.create_topic("t", segment_bytes=4096)
        topic.send_many(["x" * 500 for n in range(3000)])

        def write_then_delete(lines: Any, records: list[streamlog.Record]) -> None:
            write(lines, records)
            topic.delete_records({0: 2000})

        write = streamlog.cli.render.Lines.write
        monkeypatch.setattr(streamlog.cli.render.Lines, "write", write_then_delete)
        result = terminal.run("consume", "t", "-g", "g", "--json")
    assert result.exit_code == 0
    offsets = [json.loads(line)["offset"] for line in result.stdout.splitlines()]
    [gap] = [(a + 1, b - 1) for a, b in itertools.pairwise(offsets) if b != a + 1]
    assert (offsets[0], gap[1], offsets[-1]) == (0, 1999, 2999)
    assert result.stderr == f"streamlog: t-0: offsets {gap[0]} to 1999 were deleted before they were read.\n"


def test_partitions_are_merged_by_time_and_may_be_chosen(terminal: Terminal) -> None:
    terminal("topic", "create", "t", "--partitions", 3)
    records = [{"value": str(n), "partition": n % 3, "timestamp_ms": NEW_YEAR + n} for n in range(9)]
    terminal("produce", "t", "--json", stdin="\n".join(map(json.dumps, reversed(records))))
    terminal("produce", "t", "--json", stdin="\n".join(map(json.dumps, records)))
    assert terminal.lines("consume", "t", "-o", "3") == [str(n) for n in range(9)]
    assert terminal.lines("consume", "t", "-o", "3", "-p", 2, "-p", 0) == ["0", "2", "3", "5", "6", "8"]
    assert terminal.lines("consume", "t", "-o", "-1") == ["6", "7", "8"]


def test_the_long_format_shows_all_of_a_record_on_one_line(terminal: Terminal) -> None:
    terminal("topic", "create", "t")
    record = {"key": "k", "value_base64": "AAr/", "timestamp_ms": NEW_YEAR, "headers": {"h": "1"}}
    terminal("produce", "t", "--json", stdin=json.dumps(record) + '\n{"timestamp_ms": 0}\n')
    first, second = terminal.lines("consume", "t", "--format", "long", "-o", "beginning")
    assert first.split("  ") == ["0:0", "2023-01-01 00:00:00.000Z", "k", r"\x00\n\xff", "h=1"]
    assert second.split("  ") == ["0:1", "1970-01-01 00:00:00.000Z", "∅", "∅"]


# Groups


def test_a_group_goes_on_where_it_left_off(letters: Terminal) -> None:
    assert letters.lines("consume", "t", "-g", "g", "-c", 2) == ["a", "b"]
    assert letters.lines("consume", "t", "-g", "g") == ["c", "d", "e"]
    assert letters.lines("consume", "t", "-g", "g") == []
    letters("produce", "t", stdin="f\n")
    assert letters.lines("consume", "t", "-g", "g", "-f", "-c", 1) == ["f"]
    assert letters.lines("consume", "t", "-g", "g", "-o", "-1") == ["f"]


def test_places_that_were_deleted_mean_the_first_record_there_is(letters: Terminal, open_log: OpenLog) -> None:
    letters("consume", "t", "-g", "g", "-c", 1)
    with open_log() as log:
        log["t"].delete_records({0: 3})
    assert letters.lines("consume", "t", "-g", "g") == ["d", "e"]
    assert letters.lines("consume", "t", "-o", "-4") == ["d", "e"]
    assert "3" in letters.fails("consume", "t", "-o", "1")


def test_groups_are_listed_and_described_with_their_lag(letters: Terminal) -> None:
    letters("consume", "t", "-g", "g", "-c", 2)
    assert letters.json("group", "list") == [{"group": "g", "state": "Empty", "topics": ["t"], "lag": 3}]
    (row,) = letters.json("group", "describe", "g")["offsets"]
    assert (row["topic"], row["partition"], row["committed"], row["log_end_offset"], row["lag"]) == ("t", 0, 2, 5, 3)
    assert letters.lines("group", "describe", "g")[-1].split() == ["t", "0", "2", "5", "3"]
    assert letters.lines("group", "list")[-1].split() == ["g", "Empty", "t", "3"]


@pytest.mark.parametrize(
    ("offset", "rest"), [("beginning", "abcde"), ("end", ""), ("1", "bcde"), ("-1", "e"), ("@2023-01-04", "de")]
)
def test_a_group_is_reset(letters: Terminal, offset: str, rest: str) -> None:
    letters("consume", "t", "-g", "g", "-c", 2)
    (moved,) = letters.json("group", "reset", "g", "-o", offset)["offsets"]
    assert moved == {"topic": "t", "partition": 0, "from": 2, "to": 5 - len(rest)}
    assert "".join(letters.lines("consume", "t", "-g", "g")) == rest


def test_a_group_is_shown_by_its_name_whatever_that_is(letters: Terminal) -> None:
    for name in ("[red]", ":bomb:"):
        letters("group", "reset", name, "t", "-o", "end")
        assert letters("group", "describe", name).startswith(f"{name}  Empty")
        assert letters("group", "delete", name, "--yes") == f"Deleted {name}.\n"


def test_a_group_is_placed_before_it_ever_read(letters: Terminal) -> None:
    letters("group", "reset", "new", "t", "-o", "3")
    assert letters.lines("consume", "t", "-g", "new") == ["d", "e"]


def test_a_deleted_group_is_forgotten(letters: Terminal) -> None:
    letters("consume", "t", "-g", "g")
    letters("group", "delete", "g", "--yes")
    assert letters.json("group", "list") == []
    assert letters.lines("consume", "t", "-g", "g") == list("abcde")


def test_a_reset_of_a_group_that_has_not_committed_asks_for_the_topics(letters: Terminal, open_log: OpenLog) -> None:
    with open_log() as log, log.consumer("t", group="g", group_instance_id="i", enable_auto_commit=False) as consumer:
        consumer.poll()  # its place is kept, and the group with it
    assert "Name the topics" in letters.fails("group", "reset", "g", "-o", "end")


@pytest.mark.parametrize("command", [["describe"], ["reset", "-o", "end"], ["delete", "-y"]])
def test_a_group_that_is_not_there_is_refused(letters: Terminal, command: list[str]) -> None:
    letters("consume", "t", "-g", "billing")
    assert "did you mean 'billing'" in letters.fails("group", *command, "biling")


# Looking inside


def segment_of(directory: Path, topic: str, log: OpenLog) -> Path:
    with log() as opened:
        (file,) = (directory / "topics" / f"{opened[topic].id.hex}-0").glob("*.log")
    return file


def test_dump_shows_each_batch_and_its_records(letters: Terminal, open_log: OpenLog) -> None:
    file = segment_of(letters.directory, "t", open_log)
    batches = [json.loads(line) for line in letters.lines("dump", file, "--records", "--json")]
    assert [record["value"] for batch in batches for record in batch["records"]] == list("abcde")
    assert sum(batch["size_bytes"] for batch in batches) == file.stat().st_size
    assert all(batch["ok"] and batch["codec"] == "none" for batch in batches)
    shown = letters("dump", file, "-r")
    assert "0:4  2023-01-05 00:00:00.000Z  4  e" in shown
    assert "ok" in shown


def test_dump_shows_which_batches_are_of_a_transaction_and_how_it_ended(letters: Terminal, open_log: OpenLog) -> None:
    with open_log() as log, log.producer(transactional_id="x") as producer:
        producer.begin_transaction()
        producer.send("t", "f", partition=0)
        producer.commit_transaction()
        producer.begin_transaction()
        producer.send("t", "g", partition=0)
        producer.abort_transaction()
    file = segment_of(letters.directory, "t", open_log)
    flags = [json.loads(line)["flags"] for line in letters.lines("dump", file, "--json")]
    data, marker = ["transactional"], ["transactional", "control"]
    assert flags[-4:] == [data, [*marker, "commit"], data, [*marker, "abort"]]
    assert "ok, transactional, control, abort" in letters("dump", file)


@pytest.mark.damaged
@pytest.mark.parametrize("where", ["header", "payload", "tail"])
def test_dump_shows_damage_and_what_is_good_around_it(letters: Terminal, open_log: OpenLog, where: str) -> None:
    for value in "fg":
        letters("produce", "t", stdin=value + "\n")
    file = segment_of(letters.directory, "t", open_log)
    batches = [json.loads(line) for line in letters.lines("dump", file, "--json")]
    *whole, hit, last = batches  # one or more are of the letters before
    assert whole
    data = bytearray(file.read_bytes())
    if where == "tail":
        del data[-1]
    else:
        data[last["position"] - 1 if where == "payload" else hit["position"] + 20] ^= 1
    file.write_bytes(data)
    result = letters.run("dump", file, "--json")
    assert result.exit_code == 1
    after = [json.loads(line) for line in result.stdout.splitlines()]
    assert [batch["ok"] for batch in after] == [*[True] * len(whole), where == "tail", where != "tail"]
    assert sum(batch["size_bytes"] for batch in after) == len(data)
    shown = letters.run("dump", file)
    assert shown.exit_code == 1
    assert shown.stdout.count("DAMAGED") == 1
    assert "1 damaged" in shown.stdout


def test_dump_refuses_what_is_not_a_segment(letters: Terminal, tmp_path: Path) -> None:
    assert "is not a segment" in letters.fails("dump", letters.directory / "streamlog.json")
    stray = tmp_path / f"{0:020d}.log"
    stray.write_bytes(b"")
    assert "topics/ID-N" in letters.fails("dump", stray)
    assert "No such file" in letters.fails("dump", letters.directory / "__cluster_metadata-0" / f"{77:020d}.log")


@pytest.mark.damaged
def test_a_damaged_log_is_reported_with_what_to_type(letters: Terminal, open_log: OpenLog) -> None:
    file = segment_of(letters.directory, "t", open_log)
    data = bytearray(file.read_bytes())
    data[20] ^= 1
    file.write_bytes(data)
    said = letters.fails("consume", "t")
    assert "--skip-corrupt" in said and "`streamlog repair PATH NEW`" in said
    assert not NAMES_OF_THE_LIBRARY.search(said)


def test_verify_takes_a_path_as_repair_does(letters: Terminal, tmp_path: Path) -> None:
    assert letters.json("verify", letters.directory)["ok"] is True
    assert f"{tmp_path}/no does not exist" in letters.fails("verify", tmp_path / "no")
    assert "is a file" in letters.fails("verify", letters.directory / "streamlog.json")
    assert letters.fails("verify", tmp_path).startswith(f"streamlog: There is no log in {tmp_path}: ")
    assert "Two directories are given" in letters.fails("verify", letters.directory, "-d", tmp_path)


def test_verify_says_that_all_is_well(letters: Terminal) -> None:
    assert letters.json("verify")["ok"] is True
    assert "ok" in letters("verify").lower()


@pytest.mark.damaged
def test_verify_fails_when_a_byte_has_changed(letters: Terminal, open_log: OpenLog) -> None:
    file = segment_of(letters.directory, "t", open_log)
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    result = letters.run("verify")
    assert result.exit_code == 1
    assert file.name in result.stdout
    report = letters.run("verify", "--json")
    assert report.exit_code == 1
    assert json.loads(report.stdout)["ok"] is False


@pytest.mark.damaged
def test_repair_says_what_is_lost_and_copies_the_rest(letters: Terminal, open_log: OpenLog, tmp_path: Path) -> None:
    file = segment_of(letters.directory, "t", open_log)
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    result = letters.run("repair", str(letters.directory), str(tmp_path / "new"))
    assert result.exit_code == 1
    assert file.name in result.stdout and "payload" in result.stdout and "offset" in result.stdout
    again = letters.run("repair", str(tmp_path / "new"), str(tmp_path / "newer"))
    assert again.exit_code == 0
    assert "nothing lost" in again.stdout
    refused = letters.run("repair", str(letters.directory), str(tmp_path / "new"))
    assert refused.exit_code == 2
    assert "not empty" in refused.stderr
    report = letters.run("repair", str(letters.directory), str(tmp_path / "third"), "--json")
    assert report.exit_code == 1
    found = json.loads(report.stdout)
    assert found["ok"] is False and found["problems"][0]["path"] == str(file)


# As a process


def test_without_the_extra_the_command_says_which_one_to_install(child: Child) -> None:
    for package in ("typer", "rich"):
        process = child(f"import sys; sys.modules[{package!r}] = None; " + MAIN, "topic", "list")
        output, errors = process.communicate(timeout=60)
        assert process.returncode == 1
        assert output == ""
        assert "pip install 'streamlog-py[cli]'" in errors
        assert "Traceback" not in errors


def test_the_version_needs_no_metadata_of_an_installation(terminal: Terminal) -> None:
    assert terminal("--version") == f"streamlog {streamlog.__version__} ({'core in C' if core else 'pure Python'})\n"


def test_importing_streamlog_loads_no_package_of_the_extra(child: Child) -> None:
    process = child("import streamlog, sys; print({'typer', 'rich'} & set(sys.modules))")
    assert process.communicate(timeout=60)[0].strip() == "set()"


def test_the_module_runs_as_the_command_does(child: Child, path: Path) -> None:
    code = "import runpy, sys; sys.argv[0] = 'streamlog'; runpy.run_module('streamlog', run_name='__main__')"
    process = child(code, "-d", path, "topic", "list")
    output, errors = process.communicate(timeout=60)
    assert (process.returncode, output) == (1, "")
    assert errors.startswith("streamlog: There is no log")


def test_a_log_in_use_is_refused_with_the_pid_of_its_owner(child: Child, open_log: OpenLog, path: Path) -> None:
    with open_log() as log:
        log.create_topic("t")
        process = child(MAIN, "-d", path, "topic", "create", "u")
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert f"is in use by process {os.getpid()}" in errors
    assert not NAMES_OF_THE_LIBRARY.search(errors)
    assert "Traceback" not in errors


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "shown"),
    [
        (("topic", "list"), "t"),
        (("topic", "describe", "t"), "1"),
        (("consume", "t"), "hello"),
        (("group", "list"), "g"),
        (("group", "describe", "g"), "1"),
        (("verify",), "ok"),
    ],
    ids=lambda part: " ".join(part) if isinstance(part, tuple) else "",
)
def test_a_log_in_use_can_be_looked_at(
    child: Child, open_log: OpenLog, path: Path, command: tuple[str, ...], shown: str
) -> None:
    with open_log() as log:
        log.create_topic("t").send("hello")
        with log.consumer("t", group="g") as consumer:
            assert len(consumer.poll()) == 1
        process = child(MAIN, "-d", path, *command)
        output, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, "")
    assert shown in output


@pytest.mark.parametrize(
    ("command", "lines"),
    [
        ("list", [["group", "state", "topics", "lag"], ["g", "Stable", "t", "3"]]),
        ("describe", [["t", "0", "-", "0", "0"], ["t", "1", "-", "3", "3"]]),
    ],
)
def test_a_group_that_has_not_committed_is_shown_with_what_waits_for_it(
    child: Child, open_log: OpenLog, path: Path, command: str, lines: list[list[str]]
) -> None:
    with open_log() as log:
        log.create_topic("t", partitions=2).send_many(["a", "b", "c"], partition=1)
        with log.consumer("t", group="g", enable_auto_commit=False) as consumer:
            consumer.poll()
            process = child(MAIN, "-d", path, "group", command, *["g"] * (command == "describe"))
            output, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, "")
    assert [line.split() for line in output.splitlines()[-2:]] == lines


def test_a_log_in_use_is_followed_as_its_owner_writes(child: Child, open_log: OpenLog, path: Path) -> None:
    with open_log() as log:
        topic = log.create_topic("t")
        process = child(MAIN, "-d", path, "consume", "t", "--follow", "--count", "3")
        assert process.stdout is not None
        for value in ("a", "b", "c"):
            topic.send(value)
            assert process.stdout.readline() == f"{value}\n"
        assert process.wait(timeout=LONG) == 0


def test_ctrl_c_while_following_is_quiet_and_keeps_what_was_shown(
    letters: Terminal, child: Child, open_log: OpenLog
) -> None:
    process = child(MAIN, "-d", letters.directory, "consume", "t", "-f", "-g", "g")
    assert process.stdout is not None
    assert [process.stdout.readline() for _ in range(5)] == [f"{v}\n" for v in "abcde"]
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (130, "")
    with open_log() as log:
        assert log.group("g").committed() in ({}, {TopicPartition("t", 0): 5})


def test_ctrl_c_while_producing_says_how_many_records_were_sent(
    terminal: Terminal, child: Child, open_log: OpenLog
) -> None:
    terminal("topic", "create", "t")
    process = child(MAIN, "-d", terminal.directory, "produce", "t")
    assert process.stdin is not None
    process.stdin.write("".join(f"{n}\n" for n in range(2000)))  # more than it reads ahead
    process.stdin.flush()
    with streamlog.open(terminal.directory, read_only=True) as reader:
        deadline = time.monotonic() + LONG
        while not reader["t"].partition(0).high_watermark:
            assert time.monotonic() < deadline
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    with open_log() as log:
        assert (process.returncode, errors) == (130, f"{log['t'].partition(0).log_end_offset:,} records sent to t.\n")


def test_a_reader_that_leaves_the_pipe_is_not_an_error(terminal: Terminal, child: Child) -> None:
    terminal("topic", "create", "t")
    terminal("produce", "t", stdin="x" * 100 + "\n" + ("y" * 100 + "\n") * 5000)
    process = child(MAIN, "-d", terminal.directory, "consume", "t")
    assert process.stdout is not None
    assert process.stdout.readline().startswith("x")
    process.stdout.close()
    assert process.wait(timeout=LONG) == 141
    assert process.stderr is not None
    assert process.stderr.read() == ""


@pytest.mark.slow
@pytest.mark.parametrize("command", [["topic", "list"], ["topic", "list", "--json"], ["topic", "describe", "t"]])
def test_a_reader_that_was_never_there_is_no_error_either(letters: Terminal, child: Child, command: list[str]) -> None:
    process = child("import sys; sys.stdin.readline(); " + MAIN, "-d", letters.directory, *command)
    assert process.stdout is not None
    process.stdout.close()
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()
    assert process.wait(timeout=LONG) == 141
    assert process.stderr is not None
    assert process.stderr.read() == ""


def test_the_terminal_works_on_a_log_of_several_brokers(path: Path) -> None:
    where = ["-d", str(path)]
    with streamlog.open(path, brokers=3) as log:
        log.create_topic("orders", replication_factor=3).send("9.50")
    assert CliRunner().invoke(app, [*where, "consume", "orders"]).stdout == "9.50\n"
    assert CliRunner().invoke(app, [*where, "produce", "orders"], input="1\n").exit_code == 0
    created = CliRunner().invoke(app, [*where, "topic", "create", "audit"])
    assert (created.exit_code, created.stderr) == (0, "")  # it is not a new log
    verified = CliRunner().invoke(app, ["verify", str(path)])
    assert (verified.exit_code, verified.stdout[:21]) == (0, "ok: 2 topics, 9 parti"), (
        "the metadata and two, three times"
    )
    assert CliRunner().invoke(app, ["verify", str(path / "broker-0")]).exit_code == 0


def test_a_log_of_several_brokers_is_created_and_described(path: Path) -> None:
    terminal = Terminal(path)
    said = terminal.fails("topic", "create", "t", "--brokers", 2, "--replication-factor", 3)
    assert "--replication-factor 3 needs as many brokers" in said
    assert not path.exists()
    created = terminal.run("topic", "create", "t", "-p", 2, "--brokers", 3)
    assert "Created a log of 3 brokers in" in created.stderr
    assert [each["replicas"] for each in terminal.json("topic", "describe", "t")["partitions"]] == [
        [0, 1, 2],
        [1, 2, 0],
    ]
    about = terminal.json("topic", "create", "u", "--replication-factor", 2, "--brokers", 3)
    (partition,) = about["partitions"]
    assert (partition["leader"], len(partition["replicas"])) == (partition["replicas"][0], 2)
    assert partition["isr"] == partition["replicas"]
    assert "This log has 3 brokers" in terminal.fails("topic", "create", "v", "--brokers", 2)
    terminal("produce", "u", stdin="x\n")
    assert terminal("consume", "u") == "x\n"
    header, row = terminal.lines("topic", "describe", "u")[-4:-2]
    assert header.split()[-4:] == ["leader", "replicas", "in", "sync"]
    ids = ", ".join(map(str, partition["replicas"]))
    assert re.search(rf" {partition['leader']} +{ids} +{ids} *$", row)
    assert {each["name"] for each in terminal.json("topic", "list")} == {"t", "u"}


def test_a_log_of_one_broker_shows_no_replicas(letters: Terminal) -> None:
    assert "leader" not in letters("topic", "describe", "t")
    assert letters.json("topic", "describe", "t")["partitions"][0]["isr"] == [0]
