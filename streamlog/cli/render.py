"""From values to what the user sees: tables, JSON, records as lines.

A terminal gets colour, and escapes instead of bytes that would move the cursor. A pipe gets plain text that is not
wrapped or cut, and values byte for byte.
"""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from rich.color import ColorSystem
from rich.console import Console
from rich.style import Style
from rich.table import Table
from rich.text import Text

from ..config import DURATIONS, SIZES
from ..types import Record

# The units of settings, the smallest first.
_SHOWN_DURATIONS = {unit: ms for unit, ms in DURATIONS.items() if unit != "w"}
_PIPE_WIDTH = 10_000
_DIM, _KEY, _PLACE = Style(dim=True), Style(color="cyan"), Style(color="green")


class Format(StrEnum):
    """How `consume` writes a record."""

    text = "text"
    long = "long"
    json = "json"


class _Console(Console):
    def on_broken_pipe(self) -> None:
        raise BrokenPipeError  # rich would exit at once, before the log is closed


def console(*, stderr: bool = False) -> Console:
    """A rich console on the present stdout or stderr, without markup and emoji: names may contain brackets, or be `:bomb:`."""
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else _PIPE_WIDTH
    return _Console(stderr=stderr, width=width, markup=False, emoji=False, highlight=False)


def say(text: str, *, stderr: bool = False, style: str | None = None) -> None:
    """Print one line of text. Only the terminal wraps it, so that it can be copied."""
    console(stderr=stderr).print(text, style=style, soft_wrap=True)


def fail(message: str) -> None:
    """Print one line on stderr that says what failed."""
    line = Text("streamlog: ", style="bold red").append(" ".join(message.split()), style="default not bold")
    console(stderr=True).print(line, soft_wrap=True)


def document(data: Any) -> None:
    """Print a JSON document on stdout."""
    _put(json.dumps(data, indent=2, ensure_ascii=False))


def json_line(data: Any) -> None:
    """Print one line of JSON on stdout."""
    _put(json.dumps(data, ensure_ascii=False))


def _put(text: str) -> None:
    # JSON is UTF-8 in every locale.
    sys.stdout.flush()
    sys.stdout.buffer.write(text.encode("utf-8", "backslashreplace") + b"\n")


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, left: Sequence[str] = ()) -> None:
    """Print a table. Columns are aligned to the right, those named in `left` to the left."""
    grid = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for column in columns:
        grid.add_column(column, justify="left" if column in left else "right", overflow="fold")
    for row in rows:
        grid.add_row(*(Text(name_of(cell) if isinstance(cell, str) else f"{cell:,}") for cell in row))
    console().print(grid)


def size(count: int) -> str:
    """A number of bytes in a readable unit.

    >>> size(900), size(1_300_000)
    ('900 B', '1.2 MiB')
    """
    if count < 1024:
        return f"{count} B"
    power = min((count.bit_length() - 1) // 10, 4)
    return f"{count / 1024**power:.1f} {'KMGT'[power - 1]}iB"


def setting(name: str, value: object) -> str:
    """A setting of a topic as the option --config takes it, in the largest unit that divides it.

    >>> setting("retention_ms", 604_800_000), setting("segment_bytes", 1536), setting("retention_bytes", None)
    ('7d', '1536', 'none')
    """
    if value is None:
        return "none"
    if isinstance(value, int) and value > 0:
        units = _SHOWN_DURATIONS if name.endswith("_ms") else SIZES if name.endswith("_bytes") else {}
        for unit, scale in reversed(units.items()):
            if value % scale == 0:
                return f"{value // scale}{unit}"
    return str(value).lower() if isinstance(value, bool) else str(value)


def moment(ms: int) -> str:
    """A timestamp in UTC. One outside of the calendar stays a number.

    >>> moment(1_767_225_600_000)
    '2026-01-01 00:00:00.000Z'
    """
    if ms < 0:
        return "-"
    try:
        when = datetime.fromtimestamp(ms // 1000, UTC).replace(microsecond=ms % 1000 * 1000)
    except (OverflowError, ValueError, OSError):
        return str(ms)
    return when.isoformat(sep=" ", timespec="milliseconds").replace("+00:00", "Z")


# -- records as lines ------------------------------------------------------------------------------------


def printable(data: bytes, keep: str = "") -> str:
    r"""`data` as text. Invalid UTF-8 and unprintable characters are escaped, except those in `keep`.

    >>> printable("Zürich \x1b[2J".encode() + b"\xff")
    'Zürich \\x1b[2J\\xff'
    """
    text = data.decode("utf-8", "backslashreplace")
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in keep else c.encode("unicode_escape").decode() for c in text)


def name_of(text: str) -> str:
    r"""A name as text. Half of a surrogate pair, which a name of a group may have, is escaped.

    >>> name_of("billing \udcff")
    'billing \\udcff'
    """
    return printable(text.encode("utf-8", "backslashreplace"))


def _json_value(name: str, data: bytes | None) -> tuple[str, str | None]:
    try:
        return name, None if data is None else data.decode()
    except UnicodeDecodeError:
        return f"{name}_base64", base64.b64encode(data or b"").decode()


def _json_header(name: str, data: bytes | None) -> list[Any]:
    field, value = _json_value(name, data)
    return [name, value if field == name else {"base64": value}]


def record_fields(record: Record[bytes | None, bytes | None]) -> dict[str, Any]:
    """A record as JSON fields, which `produce --json` accepts. Invalid UTF-8 becomes `key_base64`, `value_base64`."""
    return {
        "topic": record.topic,
        "partition": record.partition,
        "offset": record.offset,
        "timestamp_ms": record.timestamp,
        **dict([_json_value("key", record.key), _json_value("value", record.value)]),
        "headers": [_json_header(*header) for header in record.headers],
    }


class Lines:
    """Prints records as lines on stdout, in one of the formats."""

    def __init__(self, format_: Format, separator: bytes | None = None) -> None:
        self._out = sys.stdout.buffer
        self._terminal = sys.stdout.isatty()
        self._separator = separator
        self._console = console()
        self._encode = {Format.text: self._text, Format.long: self._long, Format.json: self._json}[format_]

    def write(self, records: Iterable[Record[Any, Any]]) -> None:
        self._out.write(b"".join([self._encode(record) + b"\n" for record in records]))
        self._out.flush()

    def _text(self, record: Record[Any, Any]) -> bytes:
        line: bytes = record.value or b""
        if self._separator is not None:
            line = (record.key or b"") + self._separator + line
        return printable(line, keep="\t\n").encode() if self._terminal else line

    def _long(self, record: Record[Any, Any]) -> bytes:
        return long_line(self._console, record).encode()

    def _json(self, record: Record[Any, Any]) -> bytes:
        return json.dumps(record_fields(record), ensure_ascii=False).encode()


def long_line(screen: Console, record: Record[Any, Any]) -> str:
    """A whole record on one line: partition and offset, time, key, value, headers. `∅` is None."""

    coloured = screen.color_system is not None and not screen.no_color

    def styled(style: Style, text: str) -> str:
        return style.render(text, color_system=ColorSystem.STANDARD) if coloured else text

    def shown(data: bytes | None) -> str:
        return "∅" if data is None else printable(data)

    parts = [
        styled(_PLACE, f"{record.partition}:{record.offset}"),
        styled(_DIM, moment(record.timestamp)),
        styled(_KEY, shown(record.key)),
        shown(record.value),
    ]
    parts += [styled(_DIM, f"{name_of(name)}={shown(data)}") for name, data in record.headers]
    return "  ".join(parts)
