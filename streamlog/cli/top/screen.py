"""From a `Frame` to what is printed of it: lines that fit a width and a height, or JSON. Without a terminal.

Names of topics and groups, paths and messages are text from elsewhere: they are shown as `Text`, never as markup, and what would
move the cursor is escaped.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf, isinf
from typing import Any, NamedTuple

from rich.cells import cell_len, set_cell_size
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ..app import plural
from ..render import moment, name_of, size
from .sampler import Frame, GroupRow, TopicRow

MOST_ROWS = 100
"""How many topics, and groups, are printed where no height limits them."""
_TOPICS_OF_A_GROUP = 5
_WARNINGS = 4
_BARS = "▁▂▃▄▅▆▇█"
_ASCII_BARS = "_.-:=+*#"
_LEAST_BARS, _MOST_BARS = 8, 60
_KEYS = "q quit   space pause"


class Style(NamedTuple):
    """What the output can show: `bars` of a sparkline, the lowest first, and an ellipsis."""

    bars: str = _BARS
    ellipsis: str = "…"


UNICODE = Style()
PLAIN = Style(_ASCII_BARS, "...")


class Screen(NamedTuple):
    """What is the same on every frame. `height` None: as many lines as it takes. `keys`: whether there are any."""

    path: str
    width: int
    height: int | None = None
    style: Style = UNICODE
    keys: bool = False


def render(frame: Frame, screen: Screen, *, is_paused: bool = False) -> RenderableType:
    """The frame as lines, each no wider than the screen's width, and together no more than its height."""
    left = 10_000 if screen.height is None else screen.height
    lines: list[RenderableType] = [_title(frame, screen, is_paused)]
    if left > 1:
        lines.append(_totals(frame, screen))
    left -= len(lines)
    footer = screen.keys and left > 3
    left -= footer
    for warning in frame.warnings[: min(_WARNINGS, left)]:
        lines.append(_line(f"! {warning}", screen, "yellow"))
        left -= 1
    sections = _sections(frame, screen)
    for section, height in zip(sections, _shares(left, [2 + section.height for section in sections]), strict=True):
        if height > 2:
            lines += [Text(""), section.render(height - 2, screen)]
            left -= height
    if footer:
        lines += [Text("")] * left
        lines.append(_line(_KEYS, screen, "dim"))
    return Group(*lines)


def _shares(total: int, wants: Sequence[int]) -> list[int]:
    """Share lines between sections: each gets what it wants, or as much as the others that want more."""
    shares = [0] * len(wants)
    for at, index in enumerate(sorted(range(len(wants)), key=wants.__getitem__)):
        shares[index] = min(wants[index], total // (len(wants) - at))
        total -= shares[index]
    return shares


# -- sections --------------------------------------------------------------------------------------------


class _Section(NamedTuple):
    """A table. `entries` are those of its rows that belong together: a group, and below it its topics."""

    what: str
    titles: Sequence[str]
    left: Sequence[str]
    entries: Sequence[Sequence[Sequence[str]]]
    total: int
    histories: Sequence[Sequence[float]] | None = None

    @property
    def height(self) -> int:
        """How many lines it takes to show all, without the titles."""
        return sum(map(len, self.entries)) + (self.total > len(self.entries))

    def render(self, height: int, screen: Screen) -> RenderableType:
        """The titles, and as many entries as fit into `height` lines."""
        left = height if self.height <= height else height - 1
        entries: list[Sequence[Sequence[str]]] = []
        for entry in self.entries:
            if left <= 0:
                break
            entries.append(entry[:left])  # of the last group perhaps not every topic
            left -= len(entry)
        shown = len(entries)
        rows = [row for entry in entries for row in entry]
        grid = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
        for title in self.titles:
            is_left = title in self.left
            # Columns that may wrap are those that are made narrower; their cells are cut all the same.
            grid.add_column(Text(title, no_wrap=True), justify="left" if is_left else "right", no_wrap=not is_left)
        cells = [[_cell(text) for text in row] for row in rows]
        bars = self._bars(rows, screen)
        if bars:
            grid.add_column(Text("trend", no_wrap=True), no_wrap=True)
            histories = [
                spark(self.histories[at] if self.histories and not number else (), bars, screen.style)
                for at, entry in enumerate(entries)
                for number in range(len(entry))
            ]
            cells = [[*row, Text(history, style="cyan")] for row, history in zip(cells, histories, strict=True)]
        for row in cells:
            grid.add_row(*row)
        if shown == self.total:
            return grid
        more = f"{screen.style.ellipsis} and {self.total - shown:,} more {plural(self.what, self.total - shown)}"
        return Group(grid, _line(more, screen, "dim"))

    def _bars(self, rows: Sequence[Sequence[str]], screen: Screen) -> int:
        """How wide a sparkline can be, beside the columns at their full width; 0 if there is no space for one, or no height.

        What has no height is a pipe: a script reads it.
        """
        if self.histories is None or screen.height is None:
            return 0
        widths = [max(map(cell_len, column)) + 2 for column in zip(self.titles, *rows, strict=True)]
        widths[0] = min(widths[0], max(14, screen.width // 4))
        bars = min(screen.width - sum(widths), _MOST_BARS)
        return bars if bars >= _LEAST_BARS else 0


def _sections(frame: Frame, screen: Screen) -> list[_Section]:
    sections = []
    if frame.brokers:
        rows = [
            [
                [
                    str(broker.id),
                    broker.state,
                    f"{broker.leaders:,}",
                    f"{broker.replicas:,}",
                    f"{broker.in_sync:,}",
                    name_of(broker.path),
                ]
            ]
            for broker in frame.brokers[:MOST_ROWS]
        ]
        titles = ("broker", "state", "leaders", "replicas", "in sync", "path")
        sections.append(_Section("broker", titles, ("state", "path"), rows, len(frame.brokers)))
    most = MOST_ROWS if screen.height is None else screen.height
    topics = frame.topics[:most]
    titles = ("topic", "partitions", "records", "size", "records/s", "bytes/s")
    entries = [[_topic_cells(row)] for row in topics]
    histories = [row.history for row in topics]
    sections.append(_Section("topic", titles, ("topic",), entries, len(frame.topics), histories))
    groups = frame.groups[:most]
    titles = ("group", "state", "members", "lag", "records/s", "catches up")
    entries = [_group_cells(row, screen) for row in groups]
    histories = [row.history for row in groups]
    sections.append(_Section("group", titles, ("group", "state"), entries, len(frame.groups), histories))
    return [section for section in sections if section.total]


def _topic_cells(row: TopicRow) -> list[str]:
    bound = "≤ " if row.is_compacted else ""
    return [
        name_of(row.name),
        f"{row.partitions:,}",
        bound + count(row.records),
        size(row.size_bytes),
        rate(row.records_s),
        "-" if row.bytes_s is None else size(round(row.bytes_s)),
    ]


def _group_cells(row: GroupRow, screen: Screen) -> list[list[str]]:
    """The group; and where it reads several topics, each with its lag below it."""
    name = name_of(row.name)
    lines = [[name, row.state, f"{row.members:,}", count(row.lag), rate(row.records_s), catches_up(row)]]
    if len(row.lag_by_topic) == 1:
        lines[0][0] += f"  ({name_of(row.lag_by_topic[0][0])})"
        return lines
    shown = row.lag_by_topic[:_TOPICS_OF_A_GROUP]
    lines += [[f"  {name_of(topic)}", "", "", count(lag), "", ""] for topic, lag in shown]
    if more := len(row.lag_by_topic) - len(shown):
        others = sum(lag for _, lag in row.lag_by_topic[len(shown) :])
        lines.append(
            [f"  {screen.style.ellipsis} and {more:,} more {plural('topic', more)}", "", "", count(others), "", ""]
        )
    return lines


def _title(frame: Frame, screen: Screen, is_paused: bool) -> Text:
    end = f"  {frame.writer}  {moment(frame.time_ms)[11:19]}Z"
    if is_paused:
        end += "  paused"
    start = "streamlog top  "
    left = screen.width - len(start) - cell_len(end)
    path = name_of(screen.path)
    if cell_len(path) > left:  # its end says more than its beginning
        kept = set_cell_size(path[::-1], max(0, left - len(screen.style.ellipsis))).rstrip()[::-1]
        path = screen.style.ellipsis + kept if kept else ""
    return Text.assemble((start, "bold"), path, (end, "dim"), no_wrap=True, overflow="crop")


def _totals(frame: Frame, screen: Screen) -> Text:
    total = frame.total
    topics = len(frame.topics)
    bound = "≤ " if total.is_compacted else ""
    parts = [
        f"{topics:,} {plural('topic', topics)}",
        f"{total.partitions:,} {plural('partition', total.partitions)}",
        f"{bound}{count(total.records)} {plural('record', total.records)}",
        size(total.size_bytes),
    ]
    if total.records_s is not None:
        parts.append(f"in {rate(total.records_s)}/s, {size(round(total.bytes_s or 0))}/s")
    text = ", ".join(parts)
    bars = min(screen.width - cell_len(text) - 2, _MOST_BARS)
    line = _line(text, screen)
    if bars >= _LEAST_BARS and screen.height is not None:
        line.append("  " + spark(total.history, bars, screen.style), "cyan")
    return line


def _line(text: str, screen: Screen, style: str = "") -> Text:
    text = name_of(" ".join(text.split(" ")))
    if cell_len(text) > screen.width:
        text = set_cell_size(text, max(0, screen.width - len(screen.style.ellipsis))) + screen.style.ellipsis
    return Text(text, style=style, no_wrap=True, overflow="crop")


def _cell(text: str) -> Text:
    return Text(text, no_wrap=True, overflow="ellipsis")


# -- values ----------------------------------------------------------------------------------------------


def spark(values: Sequence[float], width: int, style: Style = UNICODE) -> str:
    """The last values as bars, the greatest of them at full height; without values, nothing.

    >>> spark([0, 1, 2, 4, 8], 4)
    '▂▃▅█'
    """
    last = list(values[-width:])
    greatest = max(last, default=0)
    if greatest <= 0:
        return ""
    steps = len(style.bars) - 1
    bars = "".join(style.bars[min(steps, round(max(0.0, value) / greatest * steps))] for value in last)
    return bars.rjust(width)


def count(number: float) -> str:
    """A number in at most six characters.

    >>> count(9_999), count(12_345), count(1_234_567), count(999_999), count(10**30)
    ('9,999', '12.3k', '1.23M', '1.00M', '> 10^15')
    """
    if number < 10_000:
        return f"{number:,.0f}"
    for unit in "kMGT":
        number /= 1000
        if number < 999.5:
            digits = 2 if number < 9.995 else 1 if number < 99.95 else 0
            return f"{number:.{digits}f}{unit}"
    return "> 10^15"


def rate(number: float | None) -> str:
    """How many in a second.

    >>> rate(None), rate(0.0), rate(0.04), rate(2.5), rate(1234.5)
    ('-', '0', '0.04', '2.5', '1,234')
    """
    if number is None:
        return "-"
    if number >= 9.95 or number == 0:
        return count(number)
    return f"{number:.1f}" if number >= 0.1 else f"{number:.2f}" if number >= 0.01 else "< 0.01"


def duration(seconds: float) -> str:
    """
    >>> duration(0.4), duration(75), duration(7_300), duration(200_000)
    ('1s', '1m 15s', '2h 1m', '2d 7h')
    """
    whole = max(1, round(seconds))
    for unit, smaller, length, parts in (("d", "h", 86_400, 3_600), ("h", "m", 3_600, 60), ("m", "s", 60, 1)):
        if whole >= length:
            return f"{whole // length:,}{unit} {whole % length // parts}{smaller}"
    return f"{whole}s"


def catches_up(row: GroupRow) -> str:
    """When the group has no lag any more, as it is shown."""
    if not row.lag:
        return ""
    if row.catch_up_s is None:
        return "-"
    if isinf(row.catch_up_s):
        return "never"
    return duration(row.catch_up_s) if row.catch_up_s else "keeps up"


# -- JSON ------------------------------------------------------------------------------------------------


def as_json(frame: Frame, path: str) -> dict[str, Any]:
    """The whole frame, with numbers as they are. A rate is null before the second sample; `catch_up_s` too if it is never."""
    return {
        "path": path,
        "time_ms": frame.time_ms,
        "writer": frame.writer,
        "warnings": list(frame.warnings),
        "brokers": [broker._asdict() for broker in frame.brokers],
        "topics": [
            {
                "name": row.name,
                "partition_count": row.partitions,
                "offsets": row.records,
                "size_bytes": row.size_bytes,
                "records_per_s": row.records_s,
                "bytes_per_s": row.bytes_s,
            }
            for row in frame.topics
        ],
        "groups": [
            {
                "group": row.name,
                "state": row.state,
                "members": row.members,
                "lag": row.lag,
                "lag_by_topic": dict(row.lag_by_topic),
                "records_per_s": row.records_s,
                "catch_up_s": None if row.catch_up_s == inf else row.catch_up_s,
            }
            for row in frame.groups
        ],
    }
