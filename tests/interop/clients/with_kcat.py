"""kcat in the scenarios of the package's docstring: with_kcat.py BOOTSTRAP SCENARIO VARIANT.

It has no call that creates topics: they are created when they are first used, and the driver has made those of several partitions.
Its transactions are one for all that it is given. A group's members are processes.
"""

from __future__ import annotations

import signal
import subprocess
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from common import COUNT, WAIT_S, key, main, until, value

FORMAT = "%o|%T|%k|%h|%s\\n"


def kcat(servers: str, *given: str, data: bytes | None = None) -> bytes:
    command = ["kcat", "-b", servers, "-q", *given]
    return subprocess.run(command, input=data, stdout=subprocess.PIPE, check=True, timeout=WAIT_S).stdout


def codecs(servers: str, codec: str) -> None:
    topic = f"codec-{codec}"
    before_ms = time.time_ns() // 1_000_000
    data = b"".join(b"%s|%s\n" % (key(n), value(n)) for n in range(COUNT))
    kcat(servers, "-P", "-t", topic, "-p", "0", "-z", codec, "-K", "|", "-H", "h=x", "-X", "linger.ms=50", data=data)
    found = kcat(servers, "-C", "-t", topic, "-o", "beginning", "-e", "-f", FORMAT).splitlines()
    assert len(found) == COUNT, found
    for n, line in enumerate(found):
        offset, timestamp, found_key, headers, found_value = line.split(b"|")
        assert (int(offset), found_key, headers, found_value) == (n, key(n), b"h=x", value(n)), line
        assert before_ms <= int(timestamp) <= time.time_ns() // 1_000_000


def transactions(servers: str, variant: str) -> None:
    data = b"".join(b"%d\n" % n for n in range(10))
    kcat(servers, "-P", "-t", "tx", "-p", "0", "-X", "transactional.id=t", data=data)
    read = ("-C", "-t", "tx", "-o", "beginning", "-e", "-X", "isolation.level=read_committed")
    assert kcat(servers, *read) == data


class Member:
    """A process; what it was assigned and what it has handled are in its output."""

    def __init__(self, servers: str, topic: str, group: str, variant: str, out: Path) -> None:
        self._out = out
        with out.open("wb") as to:
            self._process = subprocess.Popen(
                ["kcat", "-b", servers, "-u", "-X", f"partition.assignment.strategy={variant}", "-X",
                 "heartbeat.interval.ms=200", "-X", "auto.offset.reset=earliest", "-G", group, topic],
                stdout=to, stderr=out.with_suffix(".err").open("wb"),
            )  # fmt: skip

    def values(self) -> list[int]:
        return [int(line) for line in self._out.read_bytes().splitlines()]

    def assigned(self) -> int:
        """The partitions in the last line that tells of an assignment."""
        said = self._out.with_suffix(".err").read_text().splitlines()
        lines = [line for line in said if "rebalanced" in line]
        return lines[-1].count("[") if lines and "assigned" in lines[-1] else 0

    def stop(self) -> None:
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(WAIT_S)


def group(servers: str, variant: str) -> None:
    topic, name = f"shared-{variant}", f"group-{variant}"

    def send(numbers: range) -> None:
        for partition in range(4):
            data = b"".join(b"%d\n" % n for n in numbers if n % 4 == partition)
            kcat(servers, "-P", "-t", topic, "-p", str(partition), data=data)

    with TemporaryDirectory() as scratch:
        a, b = (Member(servers, topic, name, variant, Path(scratch) / each) for each in "ab")
        until("each has two partitions", lambda: a.assigned() == 2 == b.assigned())
        send(range(40))
        until("all 40 are handled", lambda: len(a.values() + b.values()) >= 40)
        b.stop()
        send(range(40, 80))
        until("all 80 are handled", lambda: len(a.values() + b.values()) >= 80)
        assert a.assigned() == 4
        a.stop()
        assert sorted(a.values() + b.values()) == list(range(80))


main({"codecs": codecs, "transactions": transactions, "group": group})
