"""What `streamlog top` shows of a frame: it fits, whatever there is, and no name moves the cursor."""

from __future__ import annotations

import io
import json
import random
from math import inf

import pytest
from rich.cells import cell_len
from rich.console import Console

from streamlog.cli.top.sampler import BrokerRow, Frame, GroupRow, TopicRow
from streamlog.cli.top.screen import (
    MOST_ROWS,
    PLAIN,
    Screen,
    as_json,
    catches_up,
    count,
    duration,
    rate,
    render,
    spark,
)

HOSTILE = ("[red]", ":bomb:", "\x1b[2J", "a\nb", "\r", "\u202eright", "\udcff", "名前", "e\u0301", "[/]", "x" * 300)


def topic(name: str, records_s: float | None = 1.0, *, compacted: bool = False) -> TopicRow:
    return TopicRow(name, 2, 1500, 150_000, records_s, records_s, [1.0, 2.0, 3.0], compacted)


def group(name: str, *topics: str) -> GroupRow:
    return GroupRow(name, "Stable", 2, 1000, [(each, 1000) for each in topics or ("orders",)], 5.0, 12.0, [5.0, 1.0])


def frame(
    topics: list[TopicRow],
    groups: list[GroupRow] | None = None,
    brokers: list[BrokerRow] | None = None,
    warnings: tuple[str, ...] = (),
) -> Frame:
    total = TopicRow("", 2 * len(topics), 1500, 150_000, 1.0, 1.0, [1.0, 2.0], False)
    return Frame(1_767_225_600_000, "process 12 writes", total, topics, groups or [], brokers or [], warnings)


def lines(
    shown: Frame, width: int = 80, height: int | None = 24, *, keys: bool = False, path: str = "/logs/shop"
) -> list[str]:
    """As they are on a terminal of this size, which cuts nothing: what is too wide or too high shows here."""
    out = io.StringIO()
    console = Console(file=out, width=10_000, height=10_000, markup=False, highlight=False, color_system=None)
    console.print(render(shown, Screen(path, width, height, keys=keys)), width=width)
    return out.getvalue().splitlines()


def test_a_frame_has_the_log_its_topics_and_its_groups() -> None:
    shown = lines(frame([topic("orders")], [group("billing")]), keys=True)
    assert shown[0].split() == ["streamlog", "top", "/logs/shop", "process", "12", "writes", "00:00:00Z"]
    assert shown[1].startswith("1 topic, 2 partitions, 1,500 records, 146.5 KiB, in 1.0/s, 1 B/s")
    assert shown[4].split()[:7] == ["orders", "2", "1,500", "146.5", "KiB", "1.0", "1"]
    assert shown[6].split()[:7] == ["group", "state", "members", "lag", "records/s", "catches", "up"]
    assert shown[7].split()[:7] == ["billing", "(orders)", "Stable", "2", "1,000", "5.0", "12s"]
    assert (len(shown), shown[-1].strip()) == (24, "q quit   space pause")


def test_a_group_of_several_topics_has_a_line_for_each() -> None:
    shown = lines(frame([], [group("billing", "orders", "refunds")]))
    at = next(at for at, line in enumerate(shown) if line.startswith("billing"))
    assert [line.split() for line in shown[at + 1 : at + 3]] == [["orders", "1,000"], ["refunds", "1,000"]]


def test_a_group_that_does_not_fit_whole_is_shown_without_some_of_its_topics() -> None:
    shown = lines(frame([], [group("first"), group("second", "a", "b", "c"), group("third")]), 80, 8)
    assert [line.split()[0] for line in shown[4:]] == ["first", "second", "a", "…"]
    assert shown[-1].strip() == "… and 1 more group"


def test_brokers_and_warnings_are_shown_where_there_are_some() -> None:
    brokers = [BrokerRow(0, "ok", 3, 5, 4, "/logs/shop/broker-0"), BrokerRow(1, "missing", 0, 5, 0, "-")]
    shown = lines(frame([topic("t")], brokers=brokers, warnings=("2 partitions under-replicated: t-0, t-1",)))
    assert shown[2].strip() == "! 2 partitions under-replicated: t-0, t-1"
    assert [line.split() for line in shown[5:7]] == [
        ["0", "ok", "3", "5", "4", "/logs/shop/broker-0"],
        ["1", "missing", "0", "5", "0", "-"],
    ]


def test_of_many_topics_and_groups_as_many_as_fit_are_shown_and_the_others_counted() -> None:
    many = frame([topic(f"t{n:05}") for n in range(10_000)], [group(f"g{n:03}") for n in range(500)])
    shown = lines(many)
    assert len(shown) == 24
    topics, groups = [[line for line in shown if line.startswith(kind)] for kind in ("t0", "g0")]
    assert len(topics) > 5 and len(groups) > 5
    more = [line.strip() for line in shown if line.startswith("… and")]
    assert more == [f"… and {10_000 - len(topics):,} more topics", f"… and {500 - len(groups):,} more groups"]
    assert len([line for line in lines(many, 200, 50) if line.startswith("t0")]) > len(topics)


def test_sections_that_need_less_leave_their_lines_to_the_others() -> None:
    shown = lines(frame([topic("t")], [group(f"g{n:02}") for n in range(50)]))
    assert (
        len([line for line in shown if line.startswith("g")]) == 24 - 2 - 3 - 2
    )  # title, totals, topics, blank and more


def test_a_pipe_gets_a_bounded_number_of_whole_rows_without_sparklines() -> None:
    name = "x" * 200
    many = frame([topic(f"{name}{n:03}") for n in range(150)], [group(f"g{n:03}") for n in range(120)])
    shown = lines(many, width=10_000, height=None)
    assert f"{name}000" in shown[4]
    assert len(shown) == 2 + 2 * (2 + MOST_ROWS + 1)
    assert "▁" not in "".join(shown)


@pytest.mark.parametrize("width", [1, 10, 40, 60, 80, 200])
@pytest.mark.parametrize("height", [1, 2, 3, 5, 8, 24, 60])
def test_every_frame_fits_its_screen(width: int, height: int) -> None:
    rng = random.Random(width * 1000 + height)

    def name() -> str:
        return "".join(rng.choice(HOSTILE) for _ in range(rng.randrange(1, 4)))

    for _ in range(10):
        topics = [topic(name(), rng.choice([None, 0.0, 1e9]), compacted=bool(n % 2)) for n in range(rng.randrange(30))]
        groups = [group(name(), *(name() for _ in range(rng.randrange(1, 9)))) for _ in range(rng.randrange(20))]
        brokers = [BrokerRow(n, "ok", 1, 1, 1, name()) for n in range(rng.choice([0, 3, 40]))]
        shown = lines(
            frame(topics, groups, brokers, tuple(name() for _ in range(rng.randrange(6)))),
            width,
            height,
            keys=bool(rng.randrange(2)),
            path=name(),
        )
        assert len(shown) <= height
        assert max(map(cell_len, shown), default=0) <= width
        assert all(line.isprintable() for line in shown)


def test_names_are_shown_as_they_are_and_escaped_where_they_would_move_the_cursor() -> None:
    for name, expected in (
        ("[red]x[/]", "[red]x[/]"),
        (":bomb:", ":bomb:"),
        ("a\x1b[2Jb\n", "a\\x1b[2Jb\\n"),
        ("\udcff", "\\udcff"),
    ):
        shown = "\n".join(lines(frame([topic(name)], [group(name, name)]), 120, path=name))
        assert shown.count(expected) == 4
        warned = lines(frame([], warnings=(f"lost {name}",)))
        assert expected in warned[2]


def test_without_unicode_bars_and_ellipsis_are_ascii() -> None:
    out = io.StringIO()
    many = frame([topic(f"t{n}") for n in range(100)])
    Console(file=out, width=80, color_system=None).print(render(many, Screen("/x", 80, 24, PLAIN)))
    assert out.getvalue().isascii() and "... and" in out.getvalue() and "#" in out.getvalue()


def test_a_sparkline_shows_the_last_values_at_the_right() -> None:
    assert spark([], 5) == spark([0.0, 0.0], 5) == ""
    assert spark([1.0, 8.0], 5) == "   ▂█"
    assert spark([99.0, 0.0, 7.0], 2) == "▁█"


@pytest.mark.parametrize(
    "number", [0, 0.004, 0.04, 0.4, 9.94, 9.96, 99.4, 9_999.4, 9_999.6, 99_950, 999_949, 10**14, 10**18]
)
def test_numbers_stay_short(number: float) -> None:
    assert len(rate(number)) <= 7
    assert len(count(number)) <= 7


def test_when_a_group_catches_up_is_shown_in_words() -> None:
    row = group("g")
    shown = [catches_up(row._replace(catch_up_s=s)) for s in (None, 0.0, 0.2, 59.6, 86_400.0, inf)]
    assert shown == ["-", "keeps up", "1s", "1m 0s", "1d 0h", "never"]
    assert catches_up(row._replace(lag=0)) == ""
    assert duration(10**9) == "11,574d 1h"


def test_the_json_of_a_frame_has_everything_and_no_infinity() -> None:
    shown = frame([topic(f"t{n}") for n in range(300)], [group("g", "a", "b")._replace(catch_up_s=inf)])
    document = json.loads(json.dumps(as_json(shown, "/logs/shop"), allow_nan=False))
    assert len(document["topics"]) == 300
    assert document["groups"] == [
        {
            "group": "g",
            "state": "Stable",
            "members": 2,
            "lag": 1000,
            "lag_by_topic": {"a": 1000, "b": 1000},
            "records_per_s": 5.0,
            "catch_up_s": None,
        }
    ]
