"""The memory of a process and the time of the import, both measured in a process of their own."""

from collections.abc import Iterator
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from benchmarks.children import results_of
from benchmarks.figures import Row
from benchmarks.run import Run

REQUIRED = {"streamlog", "msgpack", "xxhash", "sortedcontainers"}
# Entries of `sys.modules` that Cython makes for msgpack; they are not packages.
CYTHON = ("cython_runtime", "_cython_")


def tail_memory(path: Path, topic: str, work: str) -> Row:
    """RssAnon of a process that opened the log at `path`, read its last records and followed new ones."""
    result = results_of("tail", [[str(path), topic]])[0]
    mebibytes = {name: kibibytes / 1024 for name, kibibytes in result.items()}
    note = f"after the import {mebibytes['imported']:.0f} MiB, at most {mebibytes['peak']:.0f} MiB"
    samples = {"streamlog": [mebibytes["tailed"]]}
    return Row(work, "MiB", mebibytes["peak"], goal=60.0, at_most=True, note=note, samples=samples)


def import_time(run: Run) -> Iterator[Row]:
    """Milliseconds of `import streamlog` in a fresh process whose bytecode is cached."""
    with TemporaryDirectory() as cache:
        # An installed package has bytecode; a checkout may run with PYTHONDONTWRITEBYTECODE.
        cached = {"PYTHONPYCACHEPREFIX": cache, "PYTHONDONTWRITEBYTECODE": ""}
        results = [results_of("importing", [[]], **cached)[0] for _ in range(1 + run.rounds)][1:]
    found = {name for result in results for name in result["modules"]} - REQUIRED
    foreign = sorted(name for name in found if not name.startswith(CYTHON))
    samples = {"streamlog": [1000 * result["seconds"] for result in results]}
    yield Row("import streamlog", "ms", median(samples["streamlog"]), goal=100.0, at_most=True, samples=samples)
    yield Row(
        "optional packages that it imports", "packages", len(foreign), goal=0.0, at_most=True, note=", ".join(foreign)
    )
