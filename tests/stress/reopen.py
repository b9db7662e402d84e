"""How long a large log takes to come back after a crash: open, first append, first read at the tail.

    python -m tests.stress.reopen --gib 10 --seed 1

A child writes a log in batches of 16 KiB and is killed; other children then open it, each under a line of the
table, append a record, read it and are killed too. In between the index files are removed, or the owner file is
made to say that the machine was booted since, so that payloads are verified from the recovery point on. The last
lines are a single segment of one GiB that was never sealed and lies wholly past the recovery point.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

GIB = 1 << 30
GOAL_S = 5.0
_BATCH_BYTES = 16_000  # with its header a little below 16 KiB; the default would make larger ones of many records
_VALUE_BYTES = 1_000
_CALL_RECORDS = 4_096
_ROW = "{:<48} {:>8} {:>8} {:>8} {:>8} {:>9}"


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def build(path: str, size: int, segment_bytes: int, seed: int) -> None:
    """Write `size` bytes of records and be killed."""
    import streamlog

    block = random.Random(seed).randbytes(_VALUE_BYTES * 64)
    values = [block[n * 97 : n * 97 + _VALUE_BYTES] for n in range(_CALL_RECORDS % 600 + 1)]
    log = streamlog.open(path)
    log.create_topic("t", segment_bytes=segment_bytes)
    producer = log.producer(batch_size=_BATCH_BYTES)
    sent = 0
    while sent < size:
        producer.send_many("t", values)
        sent += len(values) * _VALUE_BYTES
    os.kill(os.getpid(), signal.SIGKILL)


def measure(path: str) -> None:
    """Open, append, read at the tail; print the seconds of each and be killed."""
    import streamlog

    began = time.perf_counter()
    log = streamlog.open(path)
    opened = time.perf_counter()
    offset = log.topic("t").send(b"the first record after the crash").result().offset
    appended = time.perf_counter()
    record = next(iter(log.topic("t").read(start=offset)))
    read = time.perf_counter()
    assert record.value == b"the first record after the crash", record
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
    _say(json.dumps([opened - began, appended - opened, read - appended, peak]))
    os.kill(os.getpid(), signal.SIGKILL)


def _child(*arguments: object) -> str:
    """Run one of the above in a process of its own, which ends by SIGKILL."""
    command = [sys.executable, "-m", "tests.stress.reopen", "--child", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != -signal.SIGKILL:
        raise SystemExit(f"{arguments}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def _row(what: str, path: Path) -> float:
    opened, appended, read, peak = json.loads(_child("measure", path))
    total = float(opened + appended + read)
    _say(_ROW.format(what, *(f"{s:.2f} s" for s in (opened, appended, read, total)), f"{peak >> 20} MiB"))
    return total


def _remove_indexes(path: Path) -> int:
    files = list(path.rglob("*.index"))
    for file in files:
        file.unlink()
    return len(files)


def _reboot(path: Path) -> None:
    owner = path / "streamlog.json"
    data: dict[str, Any] = json.loads(owner.read_text())
    owner.write_text(json.dumps({**data, "boot_id": "another boot", "clean": False}))


def run(work: Path, gib: float, segment_gib: float, seed: int) -> bool:
    """Build and measure; whether every line that has a goal reached it."""
    _say(_ROW.format("after kill -9", "open", "append", "read", "together", "memory"))
    large, single = work / "large", work / "single"
    began = time.perf_counter()
    _child("build", large, int(gib * GIB), GIB, seed)
    built = time.perf_counter() - began
    size = sum(file.stat().st_size for file in large.rglob("*.log"))
    times = [_row(f"{size / GIB:.2f} GiB", large)]
    count = _remove_indexes(large)
    times.append(_row(f"the same, its {count} index files deleted", large))
    _reboot(large)
    _remove_indexes(large)
    times.append(_row("the same, and the machine was booted since", large))
    shutil.rmtree(large)
    _child("build", single, int(segment_gib * GIB * 0.96), 2 * GIB, seed)
    size = sum(file.stat().st_size for file in single.rglob("*.log"))
    times.append(_row(f"one segment of {size / GIB:.2f} GiB, nothing of it synced", single))
    _reboot(single)
    times.append(_row("the same, and the machine was booted since", single))
    shutil.rmtree(single)
    _say(
        f"\nbuilt in {built:.0f} s; {date.today()}, {os.cpu_count()} CPUs, Python {sys.version.split()[0]}, seed {seed}"
    )
    return max(times) < GOAL_S


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gib", type=float, default=10.0, help="size of the large log")
    parser.add_argument("--segment-gib", type=float, default=1.0, help="size of the segment that was never synced")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    parser.add_argument("--dir", help="where to build; a temporary directory by default")
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        role, path, *rest = options.child
        build(path, *map(int, rest)) if role == "build" else measure(path)
        return 1
    _say(f"seed {options.seed}")
    work = Path(tempfile.mkdtemp(prefix="streamlog-reopen-", dir=options.dir))
    try:
        return 0 if run(work, options.gib, options.segment_gib, options.seed) else 1
    finally:
        shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    raise SystemExit(main())
