"""Kafka Connect on a listener: the short form of `python -m tests.interop.connect`, and what that finds in a sink's file."""

from __future__ import annotations

from pathlib import Path

import pytest

from . import apache_kafka, connect
from .connect import Settings, Sunk


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("mode", "sink_protocol"), [("standalone", "classic"), ("distributed", "consumer")])
def test_connect_carries_each_line_of_a_file_once_and_goes_on_after_a_restart(
    tmp_path: Path, mode: str, sink_protocol: str
) -> None:
    missing = connect.missing()
    if missing:
        pytest.skip(f"Connect needs {', '.join(missing)}")
    try:
        apache_kafka.classpath(connect.ARTIFACTS)
    except apache_kafka.KafkaError as error:  # its registry cannot be reached
        pytest.skip(str(error))
    connect.run(Settings(mode, restarts=2, seed=1, sink_protocol=sink_protocol), tmp_path)


@pytest.mark.parametrize(
    ("text", "lines", "rewinds"),
    [
        ("", [], 0),
        ("<0:a>\n<1:b>\n", ["<0:a>", "<1:b>"], 0),
        ("<0:a>\n<1:b>\n<2:c", ["<0:a>", "<1:b>"], 0),
        ("<0:a>\n<1:b>\n<0:a>\n<1:b>\n<2:c>\n", ["<0:a>", "<1:b>", "<2:c>"], 1),
        ("<0:a>\n<1:b><0:a>\n<1:b>\n", ["<0:a>", "<1:b>"], 1),
        ("<0:a>\n<1:b><2:<1:b>\n<2:c>\n", ["<0:a>", "<1:b>", "<2:c>"], 1),
        ("<0:a>\n<0:a>\n<0:a>\n", ["<0:a>"], 2),
    ],
)
def test_a_sink_may_go_back_and_write_lines_again(text: str, lines: list[str], rewinds: int) -> None:
    assert Sunk.of(text) == (lines, rewinds)


@pytest.mark.parametrize(
    "text",
    ["<1:a>\n", "<0:a>\n<2:c>\n", "<0:a>\n<0:b>\n", "<0:a>\n\n<1:b>\n", "<0:a>\n<1:<1:b>\n", "x<0:a>\n"],
    ids=[
        "the first is missing",
        "one is missing",
        "another text",
        "an empty line",
        "torn, and not written again",
        "else",
    ],
)
def test_a_line_that_a_sink_has_lost_or_changed_is_found(text: str) -> None:
    with pytest.raises(AssertionError):
        Sunk.of(text)
