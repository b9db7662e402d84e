"""The command `python -m benchmarks`; `--help` lists the options."""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks import report
from benchmarks.figures import Row
from benchmarks.run import Run
from benchmarks.workloads import BENCHMARKS
from streamlog.records.core import core


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="streamlog beside its peers, as ratios.")
    parser.add_argument("--quick", action="store_true", help="smaller inputs and fewer rounds, one to two minutes")
    parser.add_argument("--only", action="append", choices=list(BENCHMARKS), metavar="NAME", help="only this benchmark")
    parser.add_argument("--list", action="store_true", help="print the names of the benchmarks")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every sample to FILE")
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    parser.add_argument(
        "--both",
        action="store_true",
        help="measure each benchmark without the core in C too, right after it: a column more",
    )
    parser.add_argument(
        "--dir", type=Path, metavar="DIR", help="directory for the files (default: the system's temporary directory)"
    )
    return parser.parse_args(argv)


def _without_the_core(name: str, run: Run) -> dict[tuple[str, str], float]:
    """The figures of a benchmark in a process that does everything in Python, by work and peer."""
    found = run.directory / "pure.json"
    command = [sys.executable, "-m", "benchmarks", "--only", name, "--json", str(found), "--dir", str(run.directory)]
    environment = os.environ | {"STREAMLOG_PURE": "1"}
    subprocess.run(
        [*command, *(["--quick"] if run.quick else [])], check=True, env=environment, stdout=subprocess.DEVNULL
    )
    rows = json.loads(found.read_text(encoding="utf-8"))["rows"]
    figures = {(row["work"], row["peer_name"]): row["ratio"] if row["peer_name"] else row["streamlog"] for row in rows}
    return {row: figure for row, figure in figures.items() if figure is not None}


def _measure(names: Sequence[str], run: Run, both: bool) -> tuple[list[Row], dict[str, str]]:
    """The rows of the named benchmarks, and the error of each that failed; one failure does not stop the rest."""
    rows: list[Row] = []
    failures: dict[str, str] = {}
    for name in names:
        started = time.perf_counter()
        try:
            measured = list(BENCHMARKS[name](run))
            pure = _without_the_core(name, run) if both else {}
            rows += [replace(row, pure=pure.get((row.work, row.peer_name))) for row in measured]
        except Exception as error:
            traceback.print_exc()
            failures[name] = f"{type(error).__name__}: {error}"
        print(f"{name}: {time.perf_counter() - started:.1f} s", file=sys.stderr, flush=True)
    return rows, failures


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command. 0: everything was measured, whatever the figures. 1: a measurement failed."""
    arguments = _arguments(argv)
    if arguments.list:
        for name, benchmark in BENCHMARKS.items():
            print(f"{name:20}{(benchmark.__doc__ or '').splitlines()[0]}")
        return 0
    if arguments.both and core is None:
        print(
            "--both: there is no core to measure: it was not built, or STREAMLOG_PURE=1 leaves it out", file=sys.stderr
        )
        return 1
    with tempfile.TemporaryDirectory(prefix="streamlog-benchmarks-", dir=arguments.dir) as directory:
        run = Run(Path(directory), arguments.quick)
        rows, failures = _measure(arguments.only or list(BENCHMARKS), run, arguments.both)
    print(report.markdown_table(rows) if arguments.markdown else report.text_table(rows))
    for name, error in failures.items():
        print(f"{name} failed: {error}", file=sys.stderr)
    if arguments.json:
        report.write_json(arguments.json, rows, failures, arguments.quick)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
