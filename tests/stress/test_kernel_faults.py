"""Errors that the kernel itself hands out: injected by strace, by a limit on the size of files, by a full disk.

The injectable file layer finds more of them and faster; these show that it does not lie.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import streamlog
from tests.times import LONG

from .processes import REPOSITORY, JournalReader, Zygote, head_of

pytestmark = pytest.mark.slow

RUNS = int(os.environ.get("STREAMLOG_STRESS_RUNS", "1"))  # of each fault, at other calls each time; more for a long run
_CHILD = "tests.stress.faulted_child"
FAULTS = [
    "fdatasync:error=EIO",
    "fsync:error=EIO",
    "pwrite64:error=ENOSPC",
    "pwritev2:error=ENOSPC",
    "pwrite64:error=EDQUOT",
    "pwrite64:error=EIO",
    "pwrite64:signal=SIGKILL",
    "fdatasync:signal=SIGKILL",
    "rename:signal=SIGKILL",
    "unlink:signal=SIGKILL",
]


def works(*command: str) -> bool:
    """Whether a program is there and is allowed to do this."""
    try:
        return subprocess.run(command, capture_output=True, timeout=LONG, check=False).returncode == 0
    except OSError:
        return False


@pytest.fixture(scope="session")
def strace() -> str:
    found = shutil.which("strace")
    if found is None or not works(found, "-f", "-qq", "-o", "/dev/null", "-e", "inject=fsync:error=EIO", "true"):
        pytest.skip("strace is not there, or may not trace here")
    return found


@pytest.fixture
def zygote(tmp_path: Path) -> Iterator[Zygote]:
    """Starts processes; what they print is shown with a failure."""
    errors = tmp_path / "stderr"
    with Zygote(errors, _CHILD) as zygote:
        yield zygote
    print(errors.read_text())


class Account:
    """What a process said of its records, and whether the log agrees."""

    def __init__(self, journal: Path) -> None:
        self.lines = JournalReader(journal).lines()
        self.sent = {(where, int(offset)): head for where, offset, head in self._said("sent")}
        self.refused = dict(self._said("refused"))
        self.deleted = {where: int(before) for where, before in self._said("deletes")}
        self.committed = {where: int(offset) for where, offset in self._said("committed")}

    def _said(self, word: str) -> list[list[str]]:
        return [line[1:] for line in self.lines if line[0] == word]

    def check(self, path: Path, *, may_keep_refused: bool) -> None:
        """Open the log without any fault and compare."""
        if not (path / "streamlog.json").exists():
            assert not self.sent
            return
        report = streamlog.verify(path)
        assert report.ok, report
        with streamlog.open(path) as log:
            stored = self._stored(log)
            committed = log.group("g").committed()
        heads = list(stored.values())
        assert len(set(heads)) == len(heads), "a record is there twice"
        for (where, offset), head in self.sent.items():
            name = where.rpartition("-")[0]
            if name == "plain" and offset >= self.deleted.get(where, 0):
                assert stored.get((where, offset)) == head, f"{head} was acknowledged at {where} {offset}"
            assert stored.get((where, offset)) in (None, head)
        if not may_keep_refused:
            assert not set(heads) & set(self.refused), "a record was refused and kept"
        for (topic, partition), offset in committed.items():
            assert offset >= self.committed.get(f"{topic}-{partition}", 0)
        assert streamlog.verify(path).ok

    @staticmethod
    def _stored(log: streamlog.StreamLog) -> dict[tuple[str, int], str]:
        found = {}
        for name in log:
            for record in log[name].read():
                head = head_of(record.value)
                assert head.startswith(f"{name}."), record
                found[f"{name}-{record.partition}", record.offset] = head
        return found


@pytest.mark.parametrize("fault", FAULTS)
def test_what_the_kernel_refuses_ends_in_typed_errors_and_an_intact_log(
    tmp_path: Path, path: Path, rng: random.Random, strace: str, fault: str
) -> None:
    for run in range(RUNS):
        journal = tmp_path / f"journal-{run}"
        shutil.rmtree(path, ignore_errors=True)
        when = rng.randrange(1, 60 if "pwrite" in fault else 20)
        inject = f"{fault}:when={when}{'+' * rng.randrange(2)}" if "error" in fault else f"{fault}:when={when}"
        done = subprocess.run(
            [strace, "-f", "-qq", "-o", "/dev/null", "-e", f"inject={inject}", "-e", f"trace={fault.partition(':')[0]}"]
            + [sys.executable, "-m", _CHILD, str(path), str(journal), str(rng.randrange(2**32))],
            cwd=REPOSITORY,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY), "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
            timeout=LONG,
            check=False,
        )
        account = Account(journal)
        if "SIGKILL" in fault:
            assert done.returncode in (0, -signal.SIGKILL), (inject, done)
        else:
            assert done.returncode == 0 and ["ended"] in account.lines, (inject, done)
        account.check(path, may_keep_refused="sync" in fault or "SIGKILL" in fault)


def test_no_consumer_sees_a_synced_record_before_its_sync_is_done(tmp_path: Path, path: Path, strace: str) -> None:
    delay_ms, count = 60, 8
    code = "import sys; from tests.stress import faulted_child; faulted_child.send_synced(*sys.argv[1:3], int(sys.argv[3]))"
    command = [strace, "-f", "-qq", "-o", "/dev/null", "-e", f"inject=fdatasync:delay_enter={delay_ms * 1000}"]
    command += ["-e", "trace=fdatasync", sys.executable, "-c", code, str(path), str(tmp_path / "journal"), str(count)]
    with subprocess.Popen(command, cwd=REPOSITORY, env={**os.environ, "PYTHONPATH": str(REPOSITORY)}) as sender:
        JournalReader(tmp_path / "journal").wait_for("ready", sender, LONG)
        took_ms = []
        with streamlog.open(path, read_only=True) as log, log.consumer("plain") as consumer:
            while len(took_ms) < count:
                records = consumer.poll(LONG)
                assert records, "the records do not come"
                took_ms += [(time.monotonic_ns() - int(head_of(record.value))) / 1e6 for record in records]
        assert sender.wait(LONG) == 0
    assert min(took_ms) >= delay_ms, took_ms


def test_a_file_that_may_not_grow_refuses_records_until_the_limit_is_lifted(
    tmp_path: Path, path: Path, rng: random.Random, zygote: Zygote
) -> None:
    arguments = (str(path), str(tmp_path / "journal"), rng.randrange(2**32), 20_000)
    assert zygote.start(f"{_CHILD}:under_a_file_limit", *arguments).wait(LONG) == 0
    account = Account(tmp_path / "journal")
    assert account.refused
    assert set(account.refused.values()) == {"DiskFullError"}
    assert any(line[0] == "sent" for line in account.lines[account.lines.index(["lifted"]) :])
    assert not any(line[0] == "refused" for line in account.lines[account.lines.index(["lifted"]) :])
    account.check(path, may_keep_refused=False)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one MiB."""
    mounted = tmp_path / "small"
    mounted.mkdir()
    if not works("mount", "-t", "tmpfs", "-o", "size=1m,nr_inodes=400", "tmpfs", str(mounted)):
        pytest.skip("only root may mount a small file system")
    yield mounted
    subprocess.run(["umount", str(mounted)], check=True)


def test_a_full_disk_refuses_records_loses_none_and_goes_on_when_there_is_space(
    tmp_path: Path, small_disk: Path, rng: random.Random, zygote: Zygote
) -> None:
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(300_000))
    path = small_disk / "data"
    arguments = (str(path), str(tmp_path / "journal"), rng.randrange(2**32), str(ballast))
    assert zygote.start(f"{_CHILD}:on_a_full_disk", *arguments).wait(LONG) == 0
    account = Account(tmp_path / "journal")
    said = [line[0] for line in account.lines]
    assert set(account.refused.values()) == {"DiskFullError"}
    for before, after in (("full", "freed"), ("reopened", "ended")):
        assert "sent" in said[said.index(before) : said.index(after)], f"nothing was accepted after {before}"
    account.check(path, may_keep_refused=False)
