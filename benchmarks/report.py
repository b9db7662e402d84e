"""The table as plain text for a terminal, as Markdown for benchmarks/README.md, as JSON for a later comparison."""

import json
import os
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.figures import Row

HEADINGS = ("work", "streamlog", "beside", "ratio", "goal", "")
NUMERIC = {1, 3, 4, 6}
PURE = "in Python"


def quantity(value: float | None, unit: str) -> str:
    """A figure with its unit and three significant digits: 2.61M records/s, 812 MB/s, 14.2 µs."""
    if value is None:
        return "-"
    for factor, prefix in ((1e6, "M"), (1e3, "k")):
        if unit.endswith("/s") and unit != "MB/s" and value >= factor:
            return f"{_significant(value / factor)}{prefix} {unit}"
    return f"{_significant(value)} {unit}"


def _significant(value: float) -> str:
    return f"{value:.0f}" if value >= 100 or value == 0 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _goal(row: Row) -> str:
    if row.goal is None:
        return ""
    value = f"{row.goal:.2f}" if row.peer_name else quantity(row.goal, row.unit)
    return f"≤ {value}" if row.at_most else value


def headings(rows: Sequence[Row]) -> tuple[str, ...]:
    """The headings; one more if the figures without the core in C were measured."""
    return (*HEADINGS, PURE) if any(row.pure is not None for row in rows) else HEADINGS


def cells(row: Row, columns: int = len(HEADINGS)) -> tuple[str, ...]:
    """The cells of a row, one for each heading."""
    beside = row.peer_name + (f" {quantity(row.peer, row.unit)}" if row.peer is not None else "")
    ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
    verdict = f"{row.verdict}: {row.note}" if row.verdict == "skipped" else row.verdict
    pure = "" if row.pure is None else f"{row.pure:.2f}" if row.peer_name else quantity(row.pure, row.unit)
    return (row.work, quantity(row.streamlog, row.unit), beside, ratio, _goal(row), verdict, pure)[:columns]


def text_table(rows: Sequence[Row]) -> str:
    """The rows in aligned columns, followed by the notes."""
    names = headings(rows)
    table = [names, *(cells(row, len(names)) for row in rows)]
    widths = [max(len(line[column]) for line in table) for column in range(len(names))]
    lines = [
        "  ".join(
            cell.rjust(width) if column in NUMERIC else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in table
    ]
    lines.insert(1, "  ".join("-" * width for width in widths if width))
    notes = [f"{row.work}: {row.note}" for row in rows if row.note and row.verdict != "skipped"]
    return "\n".join((*lines, *(("", *notes) if notes else ())))


def markdown_table(rows: Sequence[Row]) -> str:
    """The rows as a Markdown table."""
    names = headings(rows)
    lines = ["| " + " | ".join(names) + " |", "|---|---:|---|---:|---:|---|" + "---:|" * (len(names) > len(HEADINGS))]
    lines += ["| " + " | ".join(cells(row, len(names))) + " |" for row in rows]
    return "\n".join(lines)


def machine() -> dict[str, Any]:
    """The properties of the machine that the figures depend on."""
    return {
        "python": platform.python_version(),
        "implementation": platform.python_implementation(),
        "system": platform.system(),
        "architecture": platform.machine(),
        "processors": os.cpu_count(),
        "switch_interval": sys.getswitchinterval(),
    }


def write_json(path: Path, rows: Sequence[Row], failures: dict[str, str], quick: bool) -> None:
    """Write everything that was measured, with all samples."""
    content = {"machine": machine(), "quick": quick, "rows": [row.as_json() for row in rows], "failures": failures}
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
