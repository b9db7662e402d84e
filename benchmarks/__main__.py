"""The command `python -m benchmarks`; `--help` lists the options."""

import argparse
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

from benchmarks import report
from benchmarks.figures import Row
from benchmarks.run import Run
from benchmarks.workloads import BENCHMARKS


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="streamlog beside its peers, as ratios.")
    parser.add_argument("--quick", action="store_true", help="smaller inputs and fewer rounds, one to two minutes")
    parser.add_argument("--only", action="append", choices=list(BENCHMARKS), metavar="NAME", help="only this benchmark")
    parser.add_argument("--list", action="store_true", help="print the names of the benchmarks")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every sample to FILE")
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    parser.add_argument(
        "--dir", type=Path, metavar="DIR", help="directory for the files (default: the system's temporary directory)"
    )
    return parser.parse_args(argv)


def _measure(names: Sequence[str], run: Run) -> tuple[list[Row], dict[str, str]]:
    """The rows of the named benchmarks, and the error of each that failed; one failure does not stop the rest."""
    rows: list[Row] = []
    failures: dict[str, str] = {}
    for name in names:
        started = time.perf_counter()
        try:
            rows.extend(BENCHMARKS[name](run))
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
    with tempfile.TemporaryDirectory(prefix="streamlog-benchmarks-", dir=arguments.dir) as directory:
        run = Run(Path(directory), arguments.quick)
        rows, failures = _measure(arguments.only or list(BENCHMARKS), run)
    print(report.markdown_table(rows) if arguments.markdown else report.text_table(rows))
    for name, error in failures.items():
        print(f"{name} failed: {error}", file=sys.stderr)
    if arguments.json:
        report.write_json(arguments.json, rows, failures, arguments.quick)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
