"""Kafka Streams 4.4 counts words exactly once on a listener, while its process is killed, ended and started again.

    python -m tests.interop.streams [--restarts N] [--seed N]

A Java program (WordCount.java) reads lines, counts their words through a repartition topic and a state store with its changelog, and
writes each new count, with exactly_once_v2. The driver sends lines all the time, and ends the program at random: every other time with
SIGKILL. In the end the last count of each word is how often it was sent, and no count of a word was written twice. Every other run of
the program has an empty state directory, so it restores its counts from the changelog.

On 2026-11-30, with `--restarts 2 --seed 1`, beside other work: 15,980 words sent and counted, 68 s.

Needs java, javac and mvn; without them it says so and exits with 0.
"""

from __future__ import annotations

import argparse
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import streamlog
from streamlog.kafka import Listener

HERE = Path(__file__).parent
WORDS = [f"word{n}" for n in range(20)]
PARTITIONS = 4
WAIT_S = 300.0
BUILD_S = 900


def build(to: Path) -> list[str]:
    shutil.copytree(HERE, to, dirs_exist_ok=True)
    for command in (
        ["mvn", "-B", "-q", "dependency:copy-dependencies", "-DoutputDirectory=libs"],
        ["javac", "-cp", "libs/*", "-d", "classes", "WordCount.java"],
    ):
        subprocess.run(command, cwd=to, check=True, timeout=BUILD_S)
    return ["java", "-XX:TieredStopAtLevel=1", "-cp", f"{to}/classes:{to}/libs/*", "WordCount"]


class Source:
    """Sends lines on a thread of its own, and knows how often each word was in them."""

    def __init__(self, log: streamlog.StreamLog, seed: int) -> None:
        self.words: Counter[str] = Counter()
        self._topic, self._rng = log["lines"], random.Random(seed)
        self._stops = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stops.wait(0.01):
            line = self._rng.choices(WORDS, k=5)
            self._topic.send(" ".join(line).encode(), partition=self._rng.randrange(PARTITIONS)).result()
            self.words.update(line)

    def stop(self) -> None:
        self._stops.set()
        self._thread.join()


def counts_in(log: streamlog.StreamLog) -> dict[str, list[int]]:
    """The counts of each word in the order in which they were written, of committed transactions alone."""
    found: dict[str, list[int]] = {}
    for record in log["counts"].read():
        found.setdefault((record.key or b"").decode(), []).append(int.from_bytes(record.value, "big"))
    return found


def latest(log: streamlog.StreamLog) -> Counter[str]:
    return Counter({word: counts[-1] for word, counts in counts_in(log).items()})


def await_progress(log: streamlog.StreamLog, program: subprocess.Popen[bytes], holds: int) -> None:
    """Until so many words are counted."""
    end_s = time.monotonic() + WAIT_S
    while latest(log).total() < holds:
        if program.poll() is not None:
            raise SystemExit(f"the program ended with {program.returncode}")
        if time.monotonic() > end_s:
            raise SystemExit(f"{latest(log).total()} of {holds} words were counted within {WAIT_S} s")
        time.sleep(0.1)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--restarts", type=int, default=4)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", type=Path, help="a directory for the program: it is kept, and used again")
    given = parser.parse_args()
    missing = [each for each in ("java", "javac", "mvn") if shutil.which(each) is None]
    if missing:
        print(f"skipped: there is no {', '.join(missing)}")
        return 0
    rng = random.Random(given.seed)
    began_s = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="streams-") as temporary:
        command = build(given.keep or Path(temporary) / "program")
        with streamlog.open() as log, Listener(log) as listener:
            for topic in ("lines", "counts"):
                log.create_topic(topic, partitions=PARTITIONS)
            source = Source(log, given.seed)
            for life in range(given.restarts + 1):
                state = Path(temporary) / f"state-{life // 2}"  # every other life has to restore its counts
                with (Path(temporary) / f"{life}.log").open("wb") as out:
                    program = subprocess.Popen(
                        [*command, listener.bootstrap_servers, str(state)], stdout=out, stderr=subprocess.STDOUT
                    )
                try:
                    before = latest(log).total()
                    await_progress(log, program, before + rng.randrange(100, 500))
                    if life == given.restarts:
                        source.stop()
                        await_progress(log, program, source.words.total())
                except SystemExit:
                    print(Path(out.name).read_text(errors="replace")[-5000:])
                    program.kill()
                    raise
                program.send_signal(signal.SIGTERM if life == given.restarts or life % 2 else signal.SIGKILL)
                program.wait(WAIT_S)
            wrong = {
                word: counts for word, counts in counts_in(log).items() if counts != sorted(set(counts))
            }  # a count of a word only grows, and is there once
            counted, sent = latest(log), source.words
    print(
        f"{sent.total()} words sent, {counted.total()} counted, {given.restarts} restarts, {time.monotonic() - began_s:.0f} s"
    )
    if counted != sent or wrong:
        print(f"FAILED: {counted - sent} too many, {sent - counted} too few, written twice or in disorder: {wrong}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
