"""Build the programs, run each beside a listener, and check what it has left in the log.

    python -m tests.interop.clients [--only NAME ...]

What is built lies in a temporary directory, and comes through the toolchains' own settings: mvn and javac, go, npm and pip. A
client whose toolchain is missing is skipped, and that is said. Exits with 1 if anything failed.
"""

from __future__ import annotations

import argparse
import importlib.util
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import streamlog
from streamlog.kafka import Listener, messages
from tests.kafka.clients import asked

HERE = Path(__file__).parent
RUN_S = 120
BUILD_S = 1200
"""Go compiles everything that its client needs, once."""
CODECS = ("none", "gzip", "snappy", "lz4", "zstd")
RECORDS, COMMITTED = 100, 80

Command = Sequence[str | Path]


class Client(NamedTuple):
    """How a client is built, and which variants of the scenarios it has."""

    tools: tuple[str, ...]
    """The programs that have to be there."""
    modules: tuple[str, ...]
    """Python's, likewise; pip brings them where the driver builds."""
    build: Callable[[Path], Command]
    """Build it in this directory; the command that runs it."""
    groups: tuple[str, ...]
    has_transactions: bool = True


def _run(*command: str | Path, where: Path) -> None:
    done = subprocess.run(command, cwd=where, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=BUILD_S)
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))} failed:\n{done.stdout.decode(errors='replace')[-2000:]}")


def _java(to: Path) -> Command:
    shutil.copytree(HERE / "java", to, dirs_exist_ok=True)
    _run("mvn", "-B", "-q", "dependency:copy-dependencies", "-DoutputDirectory=libs", where=to)
    _run("javac", "-cp", "libs/*", "-d", "classes", "Client.java", where=to)
    return ["java", "-XX:TieredStopAtLevel=1", "-Xshare:auto", "-cp", f"{to}/classes:{to}/libs/*", "Client"]


def _go(to: Path) -> Command:
    shutil.copytree(HERE / "go", to, dirs_exist_ok=True)
    _run("go", "build", "-o", "client", ".", where=to)
    return [to / "client"]


def _node(to: Path) -> Command:
    shutil.copytree(HERE / "node", to, dirs_exist_ok=True)
    _run("npm", "install", "--silent", "--no-audit", "--no-fund", where=to)
    return ["node", to / "client.js"]


def _python(program: str, *modules: str, packages: tuple[str, ...]) -> Callable[[Path], Command]:
    def build(to: Path) -> Command:
        if all(importlib.util.find_spec(each) for each in modules):
            return [sys.executable, HERE / program]
        _run(sys.executable, "-m", "venv", to, where=HERE)
        _run(to / "bin" / "python", "-m", "pip", "install", "-q", *packages, where=HERE)
        return [to / "bin" / "python", HERE / program]

    return build


def _python_client(
    program: str, modules: tuple[str, ...], packages: tuple[str, ...], groups: tuple[str, ...]
) -> Client:
    return Client((), modules, _python(program, *modules, packages=packages), groups)


CLIENTS = {
    "confluent-kafka": _python_client(
        "with_confluent.py",
        ("confluent_kafka",),
        ("confluent-kafka",),
        ("range", "roundrobin", "cooperative-sticky", "consumer"),
    ),
    "kafka-python": _python_client(
        "with_kafka_python.py",
        ("kafka", "lz4", "snappy", "zstandard"),
        ("kafka-python", "lz4", "python-snappy", "zstandard"),
        ("range", "roundrobin", "sticky"),
    ),
    "aiokafka": _python_client(
        "with_aiokafka.py", ("aiokafka", "cramjam"), ("aiokafka[all]",), ("range", "roundrobin", "sticky")
    ),
    "kcat": Client(("kcat",), (), lambda _: [sys.executable, HERE / "with_kcat.py"], ("range", "roundrobin")),
    "kafkajs": Client(("node", "npm"), (), _node, ("RoundRobinAssigner",)),
    "franz-go": Client(("go",), (), _go, ("range", "roundrobin", "sticky", "cooperative-sticky", "consumer")),
    "kafka-clients": Client(
        ("mvn", "javac", "java"),
        (),
        _java,
        ("RangeAssignor", "RoundRobinAssignor", "StickyAssignor", "CooperativeStickyAssignor", "consumer"),
    ),
}


def missing_of(client: Client) -> list[str]:
    return [each for each in client.tools if shutil.which(each) is None]


def scenarios_of(client: Client) -> Iterator[tuple[str, str]]:
    for codec in CODECS:
        yield "codecs", codec
    if client.has_transactions:
        yield "transactions", "-"
    for variant in client.groups:
        yield "group", variant


def run_scenario(command: Command, scenario: str, variant: str) -> None:
    """Run a program beside a listener of its own. Raises AssertionError with what it printed if it failed, or left something else."""
    with streamlog.open() as log, Listener(log) as listener:
        if scenario == "group" and "with_kcat.py" in str(command[-1]):
            log.create_topic(f"shared-{variant}", partitions=4)
        listener.control.clear_requests()  # from now on it keeps them
        try:
            done = subprocess.run(
                [*command, listener.bootstrap_servers, scenario, variant],
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=RUN_S,
            )  # fmt: skip
        except subprocess.TimeoutExpired as error:
            printed = (error.output or b"").decode(errors="replace")
            raise AssertionError(f"did not end within {RUN_S} s: {printed[-3000:]}") from None
        printed = done.stdout.decode(errors="replace")
        assert done.returncode == 0 and printed.splitlines()[-1:] == ["ok"], printed[-3000:]
        {"codecs": _check_codec, "transactions": _check_transactions, "group": _check_group}[scenario](
            log, listener, variant
        )


def _check_codec(log: streamlog.StreamLog, listener: Listener, codec: str) -> None:
    """Python reads the same, and the batches lie there as the client has compressed them."""
    records = list(log[f"codec-{codec}"].read())
    assert [each.value for each in records] == [b"value %d %s" % (n, b"." * 200) for n in range(RECORDS)]
    assert [each.key for each in records] == [b"key %d" % n for n in range(RECORDS)]
    Fetch = messages.FetchRequest
    wanted = Fetch.FetchPartition(partition=0, partition_max_bytes=1 << 20)
    request = Fetch(max_bytes=1 << 20, topics=[Fetch.FetchTopic(topic=f"codec-{codec}", partitions=[wanted])])
    (answer,) = asked(listener, 1, 12, request).responses
    data = bytes(answer.partitions[0].records)
    found = set()
    while data:
        found.add(CODECS[data[22] & 7])
        data = data[12 + int.from_bytes(data[8:12], "big") :]
    assert found == {codec}, found


def _check_transactions(log: streamlog.StreamLog, listener: Listener, variant: str) -> None:
    committed = [record.value for record in log["tx"].read()]
    if "tx-out" in log:
        wanted = [b"%s %d" % (how, n) for how in (b"committed", b"again") for n in range(10)]
        assert committed[:20] == wanted, committed
        assert [record.value for record in log["tx-out"].read()] == [b"out %d" % n for n in range(10)]
        assert list(log.group("tx-group").committed().values()) == [10]
    else:
        assert committed == [b"%d" % n for n in range(10)], committed
    assert all(each.state != "Ongoing" for each in log.transactions()), log.transactions()


def _check_group(log: streamlog.StreamLog, listener: Listener, variant: str) -> None:
    group = log.group(f"group-{variant}")
    assert sum(group.committed().values()) == COMMITTED, group.committed()
    assert not group.members()
    heartbeats = listener.control.requests("ConsumerGroupHeartbeat")
    assert bool(heartbeats) == (variant == "consumer"), "the members do not use the protocol that was asked for"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", action="append", choices=CLIENTS, metavar="NAME", help=", ".join(CLIENTS))
    parser.add_argument("--keep", type=Path, help="a directory for what is built: it is kept, and used again")
    given = parser.parse_args()
    failures: list[str] = []
    with tempfile.TemporaryDirectory(prefix="clients-") as temporary:
        for name in given.only or CLIENTS:
            client = CLIENTS[name]
            missing = missing_of(client)
            if missing:
                print(f"{name:16} skipped: there is no {', '.join(missing)}")
                continue
            to = (given.keep or Path(temporary)) / name
            to.mkdir(parents=True, exist_ok=True)
            command = client.build(to)
            for scenario, variant in scenarios_of(client):
                began = time.monotonic()
                try:
                    run_scenario(command, scenario, variant)
                    outcome = "passed"
                except AssertionError as error:
                    outcome = "FAILED"
                    failures.append(f"{name}, {scenario} {variant}: {str(error).strip()}")
                print(f"{name:16} {scenario:12} {variant:26} {outcome} {time.monotonic() - began:5.1f} s", flush=True)
    print("\n".join(["", *failures]))
    return 1 if failures else 0
