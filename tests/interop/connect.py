"""Kafka Connect 4.3, unmodified, carries the lines of a file through a topic of a listener into another file, and goes on after restarts.

    python -m tests.interop.connect standalone  [--restarts N] [--seed N] [--sink-protocol classic|consumer]
    python -m tests.interop.connect distributed [--restarts N] [--seed N] [--sink-protocol classic|consumer]

The driver appends numbered lines to a file at random, some of them in two halves. FileStreamSource sends them to a topic of one
partition, FileStreamSink writes that to the other file. Workers are ended and started again meanwhile:

- `standalone`: one worker, ended with SIGTERM. The source's offsets lie in a file.
- `distributed`: two workers of one cluster, with exactly-once for sources. Connectors, offsets and states lie in three compacted
  topics, and the workers share the tasks in a group of the protocol type `connect`. One of the workers is ended at random, every
  other time with SIGKILL, and comes back when the other one has taken its tasks over.

In the end the topic has each line once, in order. So has the file of the sink, but that after a SIGKILL it may go back, and write
again what it had written since the last commit of its offsets; nothing is missing. The source's offset is the size of its file, and the group of
the sink has no lag.

On 2026-11-30, `distributed --restarts 6 --seed 2`: 6,039 lines, 80 s.

Needs java and mvn; without them it says so and exits with 0.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import streamlog
from streamlog.kafka import Listener

from . import apache_kafka

VERSION = "4.3.0"
"""The file connectors are published in no later one, and need a worker of their own version."""
ARTIFACTS = (
    f"org.apache.kafka:connect-runtime:{VERSION}",
    f"org.apache.kafka:connect-json:{VERSION}",
    f"org.apache.kafka:connect-file:{VERSION}",
    "org.apache.logging.log4j:log4j-slf4j-impl:2.25.5",
)
TOPIC, SOURCE, SINK = "lines", "source", "sink"
CLUSTER = "connect-workers"
OFFSETS = "connect-offsets"
WAIT_S = 300.0
MODES = ("standalone", "distributed")
PROTOCOLS = ("classic", "consumer")

WORKER: Mapping[str, str] = {
    "key.converter": "org.apache.kafka.connect.storage.StringConverter",
    "value.converter": "org.apache.kafka.connect.storage.StringConverter",
    "plugin.discovery": "service_load",
    "offset.flush.interval.ms": "1000",
}
DISTRIBUTED: Mapping[str, str] = {
    "group.id": CLUSTER,
    "config.storage.topic": "connect-configs",
    "offset.storage.topic": OFFSETS,
    "status.storage.topic": "connect-status",
    "config.storage.replication.factor": "1",
    "offset.storage.replication.factor": "1",
    "status.storage.replication.factor": "1",
    "offset.storage.partitions": "3",
    "status.storage.partitions": "2",
    "exactly.once.source.support": "enabled",
    "session.timeout.ms": "6000",
    "heartbeat.interval.ms": "500",
    "rebalance.timeout.ms": "10000",
    "scheduled.rebalance.max.delay.ms": "500",
}


def missing() -> list[str]:
    """The programs that it needs and that are not there."""
    return [each for each in ("java", "mvn") if shutil.which(each) is None]


class Settings(NamedTuple):
    mode: str
    restarts: int
    seed: int
    sink_protocol: str
    lines: range = range(50, 200)
    """How many come to the sink between two restarts: a number of these, at random."""


class Lines:
    """Appends numbered lines to a file on a thread of its own, until it is stopped."""

    def __init__(self, path: Path, seed: int) -> None:
        self.written: list[str] = []
        self._path, self._rng = path, random.Random(seed)
        self._stops = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        path.touch()
        self._thread.start()

    def _run(self) -> None:
        with self._path.open("a") as file:
            while not self._stops.wait(self._rng.choice((0.0, 0.005, 0.02))):
                # In ASCII: FileStreamSource counts characters, and after a restart skips as many bytes.
                letters = "".join(self._rng.choices("abcde ", k=self._rng.choice((0, 5, 50, 2000))))
                line = f"<{len(self.written)}:{letters}>"
                half = self._rng.randrange(len(line)) if self._rng.random() < 0.1 else 0
                if half:
                    file.write(line[:half])
                    file.flush()
                    self._stops.wait(0.02)
                file.write(line[half:] + "\n")
                file.flush()
                self.written.append(line)

    def stop(self) -> None:
        self._stops.set()
        self._thread.join()


class Worker:
    """A process of Connect, which can be started again after it has ended."""

    def __init__(self, folder: Path, main_class: str, *configs: Path, rest_port: int = 0) -> None:
        self.rest_port = rest_port
        self._log = folder / f"worker-{rest_port}.log"
        logging = folder / "log4j2.properties"
        logging.write_text(apache_kafka.LOGGING)
        self._command = apache_kafka.java(
            f"org.apache.kafka.connect.cli.{main_class}", *map(str, configs),
            artifacts=ARTIFACTS, options=[f"-Dlog4j2.configurationFile={logging}"],
        )  # fmt: skip
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def printed(self) -> str:
        return self._log.read_text(errors="replace")

    def start(self) -> None:
        with self._log.open("ab") as out:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT
            )

    def check(self) -> None:
        """Raises AssertionError if it has ended by itself, or one of its tasks has failed."""
        if self._process is not None:
            assert self._process.poll() is None, f"a worker ended with {self._process.returncode}"
        failed = [line for line in self.printed.splitlines() if "Task threw an uncaught" in line]
        assert not failed, failed

    def end(self, how: signal.Signals) -> None:
        """Does nothing if it has been ended before."""
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(how)
            try:
                process.wait(WAIT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                raise AssertionError(f"a worker did not end within {WAIT_S:.0f} s of {how.name}") from None


def connectors(files: tuple[Path, Path], sink_protocol: str) -> dict[str, dict[str, str]]:
    source, sink = map(str, files)
    package = "org.apache.kafka.connect.file.FileStream"
    return {
        SOURCE: {"connector.class": f"{package}SourceConnector", "tasks.max": "1", "file": source, "topic": TOPIC},
        SINK: {
            "connector.class": f"{package}SinkConnector",
            "tasks.max": "1",
            "file": sink,
            "topics": TOPIC,
            "consumer.override.group.protocol": sink_protocol,
        },
    }


def _write_properties(path: Path, values: Mapping[str, str]) -> Path:
    path.write_text("".join(f"{name}={value}\n" for name, value in values.items()))
    return path


@contextmanager
def standalone(folder: Path, servers: str, configs: Mapping[str, dict[str, str]]) -> Iterator[list[Worker]]:
    port = apache_kafka.free_port()
    values = {
        **WORKER,
        "bootstrap.servers": servers,
        "listeners": f"http://127.0.0.1:{port}",
        "offset.storage.file.filename": str(folder / "offsets"),
    }
    files = [_write_properties(folder / f"{name}.properties", {"name": name, **each}) for name, each in configs.items()]
    worker = Worker(
        folder, "ConnectStandalone", _write_properties(folder / "worker.properties", values), *files, rest_port=port
    )
    with ended([worker]):
        yield [worker]


@contextmanager
def distributed(folder: Path, servers: str, configs: Mapping[str, dict[str, str]]) -> Iterator[list[Worker]]:
    workers: list[Worker] = []
    with ended(workers):
        for _ in range(2):
            port = apache_kafka.free_port()
            values = {
                **WORKER,
                **DISTRIBUTED,
                "bootstrap.servers": servers,
                "listeners": f"http://127.0.0.1:{port}",
            }
            file = _write_properties(folder / f"worker-{port}.properties", values)
            workers.append(Worker(folder, "ConnectDistributed", file, rest_port=port))
        for name, config in configs.items():
            until(f"{name} is there", partial(_put, workers[0], name, config), workers)
        yield workers


def _put(worker: Worker, name: str, config: Mapping[str, str]) -> bool:
    """Create a connector. False if the cluster cannot do that now: it starts, or its tasks move."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{worker.rest_port}/connectors/{name}/config",
        json.dumps(config).encode(),
        {"Content-Type": "application/json"},
        method="PUT",
    )
    try:
        with urllib.request.urlopen(request, timeout=WAIT_S):
            return True
    except urllib.error.HTTPError as error:
        # 404 until its resources are there, 409 while the workers rebalance.
        assert error.code in (404, 409, 500, 503), (error.code, error.read().decode())
        return False
    except urllib.error.URLError:
        return False


@contextmanager
def ended(workers: list[Worker]) -> Iterator[None]:
    """All are killed in the end. What they printed last is printed if that is by an exception."""
    try:
        yield
    except BaseException:
        for worker in workers:
            print(f"--- the worker at port {worker.rest_port}:\n{worker.printed[-6000:]}")
        raise
    finally:
        for worker in workers:
            worker.end(signal.SIGKILL)


def until(what: str, holds: Callable[[], bool], workers: Sequence[Worker]) -> None:
    end_s = time.monotonic() + WAIT_S
    while not holds():
        for worker in workers:
            worker.check()
        assert time.monotonic() < end_s, f"it was not within {WAIT_S:.0f} s that {what}"
        time.sleep(0.1)


TOKEN = re.compile(r"<(\d+):[^<>]*>\n?")


class Sunk(NamedTuple):
    """What the sink's file has: each line, and how often it went back to write lines again."""

    lines: list[str]
    rewinds: int

    @classmethod
    def of(cls, text: str) -> Sunk:
        """Raises AssertionError if a line is missing before a later one, or there is anything else. A line that a kill has torn is
        followed by one that was written again."""
        lines: list[str] = []
        rewinds, end, last = 0, 0, -1
        for found in TOKEN.finditer(text):
            number, line = int(found[1]), found[0].rstrip("\n")
            if number != len(lines):
                assert number < len(lines), f"{len(lines)} is missing before {number}"
                rewinds += number != last + 1
                assert lines[number] == line, (lines[number], line)
            else:
                lines.append(line)
            torn = text[end : found.start()]
            assert not torn or number <= last, f"{torn!r} before {number}"
            last, end = number, found.end()
        return cls(lines, rewinds)


def sunk(path: Path) -> Sunk:
    return Sunk.of(path.read_text(errors="replace") if path.exists() else "")


def await_lines(path: Path, count: int, workers: Sequence[Worker]) -> None:
    until(f"{path.name} has {count} lines", lambda: len(sunk(path).lines) >= count, workers)


def source_offset(mode: str, folder: Path, log: streamlog.StreamLog) -> int:
    """Up to which byte of its file the source has committed what it read."""
    if mode == "standalone":
        (found,) = re.findall(rb'\{"position":(\d+)\}', (folder / "offsets").read_bytes())
        return int(found)
    last = {record.key: record.value for record in log[OFFSETS].read()}
    (value,) = (value for key, value in last.items() if json.loads(key or b"")[0] == SOURCE)
    position = json.loads(value)["position"]
    assert isinstance(position, int)
    return position


def run(settings: Settings, folder: Path) -> str:
    """One sentence on what was found. Raises AssertionError with what is not as it should be."""
    rng = random.Random(settings.seed)
    read, written = folder / "read.txt", folder / "written.txt"
    configs = connectors((read, written), settings.sink_protocol)
    kills = 0
    with streamlog.open() as log, Listener(log) as listener:
        log.create_topic(TOPIC, partitions=1)
        listener.control.clear_requests()  # from now on it keeps them
        lines = Lines(read, settings.seed)
        cluster = {"standalone": standalone, "distributed": distributed}[settings.mode]
        with cluster(folder, listener.bootstrap_servers, configs) as workers:
            for number in range(settings.restarts + 1):
                await_lines(written, len(sunk(written).lines) + rng.choice(settings.lines), workers)
                if number == settings.restarts:
                    break
                worker = rng.choice(workers)
                is_killed = settings.mode == "distributed" and number % 2 == 0
                kills += is_killed
                worker.end(signal.SIGKILL if is_killed else signal.SIGTERM)
                if settings.mode == "distributed":
                    await_lines(written, len(sunk(written).lines) + rng.choice(settings.lines), workers)
                worker.start()
            lines.stop()
            await_lines(written, len(lines.written), workers)
            if settings.mode == "distributed":
                assert {member.client_id for member in log.group(CLUSTER).members()}, "the workers are in no group"
            for worker in workers:
                worker.end(signal.SIGTERM)
        heartbeats = listener.control.requests("ConsumerGroupHeartbeat")
        assert bool(heartbeats) == (settings.sink_protocol == "consumer"), "the sink's group has another protocol"
        transactions = listener.control.requests("EndTxn")
        assert bool(transactions) == (settings.mode == "distributed"), "the source does not send as its mode asks for"
        check(settings, folder, log, lines.written, kills)
    return f"{len(lines.written)} lines, {settings.restarts} restarts, {kills} of them by SIGKILL"


def check(settings: Settings, folder: Path, log: streamlog.StreamLog, wanted: list[str], kills: int) -> None:
    carried = [record.value.decode() for record in log[TOPIC].read()]
    assert carried == wanted, f"the topic has {len(carried)} lines, and there are {len(wanted)}"
    found = sunk(folder / "written.txt")
    assert found.lines == wanted
    assert found.rewinds <= kills, f"the sink went back {found.rewinds} times"
    assert source_offset(settings.mode, folder, log) == (folder / "read.txt").stat().st_size
    (offset,) = log.group(f"connect-{SINK}").committed().values()
    left = [record.offset for record in log[TOPIC].read(start=offset)]
    assert left == [], f"the sink has committed {offset}, and these are after it: {left}"
    for group in (CLUSTER, f"connect-{SINK}"):
        assert not log.group(group).members(), group


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("mode", choices=MODES)
    parser.add_argument("--restarts", type=int, default=4)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--sink-protocol", choices=PROTOCOLS, default="classic")
    parser.add_argument("--keep", type=Path, help="a new directory for the files and the workers' logs: it is kept")
    given = parser.parse_args()
    if missing():
        print(f"skipped: there is no {', '.join(missing())}")
        return 0
    began_s = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="connect-") as temporary:
        folder = given.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        try:
            found = run(Settings(given.mode, given.restarts, given.seed, given.sink_protocol), folder)
        except AssertionError as error:
            print(f"FAILED, seed {given.seed}: {error}")
            return 1
    print(f"{given.mode}, sink by the {given.sink_protocol} protocol, seed {given.seed}: {found}, "
          f"{time.monotonic() - began_s:.0f} s")  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
