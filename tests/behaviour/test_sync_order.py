"""What reaches the device, and in which order, as the kernel sees it: the calls of a real program under strace.

A simulated disk shows what a missing sync costs; it cannot show that the real one is synced. Each rule below is
checked over every call of its kind that the program makes, and at least one has to be there.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import streamlog

_REPOSITORY = str(Path(streamlog.__file__).parents[1])
_CALLS = "openat,mkdir,rename,unlink,pwrite64,pwritev,pwritev2,ftruncate,fsync,fdatasync"
_NAMES = {"pwrite64": "write", "pwritev": "write", "pwritev2": "write", "fdatasync": "sync", "fsync": "sync"}
_LINE = re.compile(r"(\d+) +(\w+)\((.*)\) += (\d+)(?:<(.*)>)?$")
_DESCRIPTOR = re.compile(r"\d+<([^>]*)>")
_STRING = re.compile(r'"([^"]*)"')
_PHASE = "-phase-"

PROGRAM = """
import os, sys, streamlog
from streamlog.testing import ManualClock

def phase(name):
    os.mkdir(sys.argv[1] + "-phase-" + name)

clock = ManualClock()
phase("open")
log = streamlog.open(sys.argv[1], clock=clock)
phase("create")
kept = log.create_topic("kept", partitions=2, segment_bytes=4096, retention_bytes=8192)
compacted = log.create_topic("compacted", cleanup_policy="compact", segment_bytes=4096)
phase("send")
for n in range(20):
    kept.send(b"x" * 1000, partition=0)
    compacted.send(b"x" * 1000, key=b"%d" % (n % 3))
phase("maintain")
clock.advance(1)
phase("retention")
kept.apply_retention()
phase("compact")
compacted.compact()
phase("configure")
kept.update_config(retention_bytes=4096)
kept.add_partitions(3)
phase("delete_records")
kept.delete_records({0: 19})
phase("commit")
log.group("g").reset(kept, to="earliest")
phase("sync")
kept.send(b"last", partition=0)
log.sync()
phase("synced")
phase("close")
log.close()
phase("reopen")
log = streamlog.open(sys.argv[1], clock=clock)
phase("append")
log["kept"].send(b"x")
log.close()
phase("end")
"""


class Call(NamedTuple):
    """One call that succeeded. `path`: what it is about; `target`: the new name of a rename."""

    name: str
    path: str
    target: str = ""

    @property
    def directory(self) -> str:
        return self.path.rpartition("/")[0]


def _parse(line: str) -> Call | None:
    match = _LINE.match(line)
    if match is None:
        return None
    _, name, arguments, _, opened = match.groups()
    strings = _STRING.findall(arguments)
    if name == "openat":
        return Call("create", opened) if "O_CREAT" in arguments else None
    if name == "rename":
        return Call("rename", strings[0], strings[1])
    if name in ("mkdir", "unlink"):
        return Call(name, strings[0])
    descriptor = _DESCRIPTOR.match(arguments)
    return Call(_NAMES.get(name, name), descriptor[1]) if descriptor is not None else None


def _phase_of(line: str) -> str | None:
    _, found, name = line.partition(_PHASE)
    return name.partition('"')[0] if found else None


class Trace:
    """The calls of one run, below one directory, in order."""

    def __init__(self, lines: list[str], root: Path) -> None:
        self.calls: list[Call] = []
        self.phases: dict[str, int] = {}
        for line in lines:
            assert "unfinished" not in line, f"a second thread made calls, so their order says nothing: {line}"
            phase = _phase_of(line)
            if phase is not None:
                self.phases[phase] = len(self.calls)
                continue
            call = _parse(line)
            if call is not None and (call.path + "/").startswith(f"{root}/"):
                self.calls.append(call)

    def of(self, name: str, part: str = "") -> Iterator[tuple[int, Call]]:
        """The calls with this name on paths that contain `part`, with their places."""
        return ((at, call) for at, call in enumerate(self.calls) if call.name == name and part in call.path)

    def last(self, name: str, path: str, before: int) -> int:
        """The place of the last such call before `before`; -1 if there is none."""
        return max((at for at, call in self.of(name) if at < before and call.path == path), default=-1)

    def next(self, name: str, path: str, after: int) -> int:
        """The place of the first such call after `after`; past the end if there is none."""
        return min((at for at, call in self.of(name) if at > after and call.path == path), default=len(self.calls))

    def phase(self, name: str) -> list[Call]:
        """The calls from this phase on, up to the next one."""
        start = self.phases[name]
        end = min((at for at in self.phases.values() if at > start), default=len(self.calls))
        return self.calls[start:end]


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Trace:
    strace = shutil.which("strace")
    if strace is None or subprocess.run([strace, "-qq", "-o", "/dev/null", "true"], check=False).returncode:
        pytest.skip("strace is not installed, or may not trace here")
    folder = tmp_path_factory.mktemp("traced")
    output, root = folder / "calls", folder / "data"
    program = folder / "program.py"
    program.write_text(textwrap.dedent(PROGRAM))
    subprocess.run(
        [strace, "-f", "-y", "-qq", "-z", "-s", "4096", "-o", output, "-e", f"trace={_CALLS}", "-e", "signal=none"]
        + [sys.executable, program, root],
        check=True,
        timeout=100,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [_REPOSITORY, os.environ.get("PYTHONPATH")]))},
    )
    return Trace(output.read_text().splitlines(), root)


def test_a_file_is_renamed_only_after_all_that_was_written_to_it_is_synced(trace: Trace) -> None:
    renames = list(trace.of("rename"))
    assert {call.path.rpartition(".")[2] for _, call in renames} >= {"tmp", "cleaned", "swap"}
    for at, call in renames:
        if not call.path.endswith(".swap"):  # that one was synced under its name before
            assert trace.last("sync", call.path, at) > trace.last("write", call.path, at) >= 0, call


def test_a_rename_is_synced_before_anything_is_removed_and_before_the_log_closes(trace: Trace) -> None:
    for at, call in trace.of("rename"):
        synced = trace.next("sync", call.directory, at)
        removed = min((n for n, gone in trace.of("unlink", call.directory) if n > at), default=len(trace.calls))
        assert synced < removed, call


def test_a_new_segment_has_its_name_on_the_device_before_anything_in_it_counts(trace: Trace) -> None:
    """Before it is synced itself, the recovery point comes to it, or a segment before it goes."""
    created = [(at, call) for at, call in trace.of("create") if call.path.endswith(".log")]
    assert len(created) > 10
    for at, call in created:
        named = trace.next("sync", call.directory, at)
        assert named < trace.next("sync", call.path, at), call
        before = max((n for n, other in trace.of("create", call.directory) if n < at), default=at)
        sealed = trace.calls[before].path
        if sealed.endswith(".log") and before < at:
            synced = trace.next("sync", sealed, at)
            assert synced < trace.next("sync", call.path, at) or synced == len(trace.calls), call
            assert named < trace.next("unlink", sealed, at), call


def test_a_partition_has_its_name_on_the_device_before_the_metadata_names_it(trace: Trace) -> None:
    made = [(at, call) for at, call in trace.of("mkdir", "/topics/")]
    assert len(made) >= 5
    for at, call in made:
        metadata = min(
            n for n, write in trace.of("write", "__cluster_metadata-0/") if n > at and write.path.endswith(".log")
        )
        assert at < trace.next("sync", call.directory, at) < metadata, call
        state = trace.next("sync", f"{call.path}/partition.state", at)
        assert state < metadata, call


def test_a_change_of_topics_is_on_the_device_when_the_call_returns(trace: Trace) -> None:
    for phase, changes in (("create", 2), ("configure", 2)):
        calls = [
            call for call in trace.phase(phase) if "__cluster_metadata-0/" in call.path and call.path.endswith(".log")
        ]
        assert [call.name for call in calls] == ["write", "sync"] * changes


def test_what_a_sealed_segment_holds_is_synced_before_the_recovery_point_says_so(trace: Trace) -> None:
    """Rule 7: the recovery point moves only after the sync that it claims."""
    maintained = trace.phase("maintain")
    segments = {call.path for call in maintained if call.name == "sync" and call.path.endswith(".log")}
    assert len(segments) > 5
    for directory in {path.rpartition("/")[0] for path in segments}:
        states = [(n, call.name) for n, call in enumerate(maintained) if call.path == f"{directory}/partition.state"]
        # The last state that is synced; what compaction looked at is written after it, as a hint, and is not.
        last = max(n for n, (_, name) in enumerate(states) if name == "sync")
        assert states[last - 1][1] == "write"
        synced = [n for n, call in enumerate(maintained) if call.name == "sync" and call.path in segments]
        assert max(n for n in synced if maintained[n].directory == directory) < states[last - 1][0]


@pytest.mark.parametrize("phase", ["retention", "delete_records"])
def test_the_log_start_is_synced_before_the_first_segment_is_unlinked(trace: Trace, phase: str) -> None:
    calls = trace.phase(phase)
    first = next(n for n, call in enumerate(calls) if call.name == "unlink" and call.path.endswith(".log"))
    state = f"{calls[first].directory}/partition.state"
    before = [call.name for call in calls[:first] if call.path == state]
    assert before[-2:] == ["write", "sync"]


def test_what_compaction_replaces_is_unlinked_only_when_the_replacement_is_on_the_device(trace: Trace) -> None:
    calls = trace.phase("compact")
    swap = next(n for n, call in enumerate(calls) if call.name == "rename" and call.path.endswith(".cleaned"))
    final = next(n for n, call in enumerate(calls) if call.name == "rename" and call.path.endswith(".swap"))
    directory = calls[swap].directory
    synced = [n for n, call in enumerate(calls) if call == Call("sync", directory)]
    gone = [
        n for n, call in enumerate(calls) if call.name == "unlink" and call.path.endswith(".log") and swap < n < final
    ]
    assert gone
    assert any(swap < n < min(gone) for n in synced), "the swap's name"
    assert any(max(gone) < n < final for n in synced), "the removals"
    assert calls[final + 1] == Call("sync", directory), "the final name"


def test_sync_makes_what_was_acknowledged_durable(trace: Trace) -> None:
    calls = [call for call in trace.phase("sync") if call.path.endswith(".log")]
    assert next(call.name for call in calls if "-0/" in call.path and "topics" in call.path) == "write"
    written = {call.path for call in calls if call.name == "write"}
    assert written and written <= {call.path for call in calls if call.name == "sync"}


def test_without_sync_a_send_waits_for_no_sync(trace: Trace) -> None:
    """40 sends, of which every fourth begins a segment. Before the first one, the id of its producer is on the device."""
    calls = trace.phase("send")
    assert sum(call.name == "create" and call.path.endswith(".log") for call in calls) > 5
    assert [call.path.split("/")[-2] for call in calls if call.name == "sync"] == ["__cluster_metadata-0"]


def test_the_mark_that_a_log_is_open_is_on_the_device_before_anything_is_written_to_it(trace: Trace) -> None:
    """A directory that is being made is no log before its first mark; from then on nothing is written without one."""
    for phase in ("open", "reopen"):
        calls = trace.phase(phase)
        mark = min(n for n, call in enumerate(calls) if "streamlog.json" in call.path and call.name == "sync")
        written = [n for n, call in enumerate(calls) if call.name == "write" and call.path.endswith(".log")]
        assert all(mark < n for n in written)
    assert "write" in [call.name for call in trace.phase("append") if call.path.endswith(".log")]


def test_a_closed_log_is_marked_clean_after_all_else_is_on_the_device(trace: Trace) -> None:
    calls = trace.phase("close")
    mark = max(n for n, call in enumerate(calls) if "streamlog.json" in call.path and call.name in ("write", "rename"))
    synced = [n for n, call in enumerate(calls) if call.name == "sync" and call.path.endswith((".log", ".state"))]
    assert synced and max(synced) < mark
    assert any(call.name == "sync" for call in calls[mark:])
