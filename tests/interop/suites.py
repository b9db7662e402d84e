"""Run the test suites of Kafka's clients, as their authors wrote them, against a listener.

    python -m tests.interop.suites --confluent-kafka-python DIR --kafka-python DIR --franz-go DIR [-k WORD]

Each DIR is a snapshot of that client's repository: a work tree, or a git directory. It is copied to a temporary directory,
with a virtual environment of its own where the client is Python's, and nothing in DIR changes. The Python clients come from their
registry, in the version of today; franz-go is built from its snapshot. `-k` picks tests by name, as pytest and `go test` do.
Prints for each suite what passed, failed and was skipped, and the names of what failed; the exit code is 1 if anything failed.

What they found is in `tests/interop/README.md`.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import streamlog
from streamlog.kafka import Listener

SUITE_S = 1500
"""A whole suite; a single test has less, by the options below."""


class Outcome(NamedTuple):
    passed: int
    failed: tuple[str, ...]
    skipped: int


def copied(snapshot: Path, to: Path) -> Path:
    """The files of a snapshot, a work tree or a git directory, in a new directory."""
    if (snapshot / "HEAD").is_file() and (snapshot / "objects").is_dir():
        to.mkdir()
        archive = subprocess.Popen(["git", "--git-dir", snapshot, "archive", "HEAD"], stdout=subprocess.PIPE)
        with tarfile.open(fileobj=archive.stdout, mode="r|") as files:
            files.extractall(to, filter="data")
        if archive.wait():
            raise SystemExit(f"{snapshot} could not be read as a git directory")
        return to
    shutil.copytree(snapshot, to, symlinks=True, ignore=shutil.ignore_patterns(".git"))
    return to


def python_of(directory: Path, *packages: str | Path) -> Path:
    """An interpreter with these packages; one that an earlier suite has made is used again."""
    python = directory / "bin" / "python"
    if python.exists():
        return python
    subprocess.run([sys.executable, "-m", "venv", directory], check=True)
    subprocess.run([python, "-m", "pip", "install", "-q", *packages], check=True)
    return python


def run(command: Sequence[str | Path], where: Path, env: Mapping[str, str], log: Path) -> str:
    """What the suite printed; its end does not come later than SUITE_S."""
    with log.open("w") as out:
        try:
            subprocess.run(
                command, cwd=where, env={**os.environ, **env}, stdout=out, stderr=subprocess.STDOUT, timeout=SUITE_S
            )
        except subprocess.TimeoutExpired:
            out.write(f"\nFAILED the suite did not end within {SUITE_S} s\n")
    return log.read_text(errors="replace")


def pytest_outcome(printed: str) -> Outcome:
    lines = printed.splitlines()
    failed = [line.split(" ", 1)[1] for line in lines if line.startswith(("FAILED ", "ERROR "))]
    sums = [line for line in lines if re.search(r"\d+ (passed|failed|skipped|error).* in [\d.]+s", line)]
    counts = {what: int(count) for count, what in re.findall(r"(\d+) (passed|skipped)", sums[-1] if sums else "")}
    return Outcome(counts.get("passed", 0), tuple(dict.fromkeys(failed)), counts.get("skipped", 0))


def go_outcome(printed: str) -> Outcome:
    """Of the tests at the top: a test with subtests is one."""
    ended = re.findall(r"^--- (PASS|FAIL|SKIP): (\S+)", printed, re.MULTILINE)
    failed = [name for how, name in ended if how == "FAIL"]
    begun = re.findall(r"^=== RUN +(Test[^/\s]+)$", printed, re.MULTILINE)
    failed += [name for name in begun if name not in {each for _, each in ended}]
    hows = [how for how, _ in ended]
    return Outcome(hows.count("PASS"), tuple(failed), hows.count("SKIP"))


PYTEST = ("-m", "pytest", "-q", "-rfE", "--timeout=120", "--timeout-method=signal", "-p", "no:cacheprovider")
BROKER = {"num.partitions": "4", "group.min.session.timeout.ms": "1000", "min.insync.replicas": "1"}
"""As the brokers that the suites of kafka-python and confluent-kafka-python start have it."""

CONFLUENT_IGNORED = (
    "schema_registry", "serialization", "share_consumer", "share_consumer_oauth", "share_consumer_sasl",
    "integration_test.py",
)  # fmt: skip


def confluent(files: Path, scratch: Path, servers: str, pick: str | None, protocol: str) -> Outcome:
    venv = scratch / "confluent-venv"
    packages: list[str | Path] = ["confluent-kafka[schemaregistry,avro,json,protobuf,rules]", "pytest-timeout"]
    packages += ["-r", files / "requirements" / "requirements-tests.txt"]
    packages += [*(files / "tests" / "trivup").glob("trivup-*.tar.gz")]
    python = python_of(venv, *packages)
    shutil.rmtree(files / "src", ignore_errors=True)  # the client is the one that is installed
    tests = files / "tests" / "integration"
    ignored = [f"--ignore={tests / each}" for each in CONFLUENT_IGNORED]
    command = [python, *PYTEST, *ignored, *(("-k", pick) if pick else ()), tests]
    env = {"BROKERS": servers, "TEST_CONSUMER_GROUP_PROTOCOL": protocol}
    return pytest_outcome(run(command, files, env, scratch / f"confluent-{protocol}.log"))


def kafka_python(files: Path, scratch: Path, servers: str, pick: str | None) -> Outcome:
    python = python_of(
        scratch / "kafka-python-venv", files, "pytest", "pytest-mock", "pytest-timeout", "py", "lz4", "python-snappy",
        "zstandard", "crc32c", "xxhash",
    )  # fmt: skip
    command = [python, *PYTEST, *(("-k", pick) if pick else ()), files / "test" / "integration"]
    root = scratch / "no-kafka"  # the suite asks that there be one, and uses the one at KAFKA_URI
    root.mkdir(exist_ok=True)
    env = {
        "KAFKA_URI": f"kafka://{servers.split(',')[0]}",
        "KAFKA_VERSION": "4.3.0",
        "KAFKA_ROOT": str(root),
    }
    return pytest_outcome(run(command, files, env, scratch / "kafka-python.log"))


def kgo(files: Path, scratch: Path, servers: str, pick: str | None) -> Outcome:
    env = {"KGO_SEEDS": servers, "KGO_TEST_RF": "1", "KGO_TEST_RECORDS": "50000", "KGO_LOG_LEVEL": "none"}
    command: list[str | Path] = ["go", "test", "-v", "-count=1", "-timeout", f"{SUITE_S - 60}s"]
    command += ["-run", pick] if pick else []
    return go_outcome(run([*command, "./pkg/kgo"], files, env, scratch / "kgo.log"))


SUITES = {
    "confluent-kafka-python": {
        "confluent-kafka, classic": lambda *given: confluent(*given, "classic"),
        "confluent-kafka, consumer": lambda *given: confluent(*given, "consumer"),
    },
    "kafka-python": {"kafka-python": kafka_python},
    "franz-go": {"franz-go, kgo": kgo},
}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    for name in SUITES:
        parser.add_argument(f"--{name}", type=Path, metavar="DIR")
    parser.add_argument("-k", dest="pick", help="tests by name")
    parser.add_argument(
        "--keep", type=Path, help="a directory for all that is made: it is kept, with the suites' output"
    )
    given = parser.parse_args()
    failed = 0
    with tempfile.TemporaryDirectory(prefix="suites-") as temporary:
        scratch = given.keep or Path(temporary)
        scratch.mkdir(parents=True, exist_ok=True)
        for name, runs in SUITES.items():
            snapshot = getattr(given, name.replace("-", "_"))
            if snapshot is None:
                continue
            files = scratch / name
            if not files.exists():
                copied(snapshot, files)
            for title, suite in runs.items():
                with streamlog.open() as log, Listener(log, broker_config=BROKER) as listener:
                    outcome = suite(files, scratch, listener.bootstrap_servers, given.pick)
                print(f"{title}: {outcome.passed} passed, {len(outcome.failed)} failed, {outcome.skipped} skipped")
                for each in outcome.failed:
                    print(f"    {each}")
                sys.stdout.flush()
                failed += len(outcome.failed)
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
