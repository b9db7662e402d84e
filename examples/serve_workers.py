"""Processes write to one log, and share a group, through `streamlog serve`; some are killed, and nothing acknowledged is lost.

    pip install 'streamlog-py[kafka,cli]' confluent-kafka
    python examples/serve_workers.py

One process owns the log. Four others send numbered records, and note each that was acknowledged; three others share a group
and note what they read. Every process is killed once, without a warning, and started again. At the end each record
that was acknowledged has been read.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

RECORDS = 300  # of each producer
PRODUCERS, CONSUMERS = 4, 3


def produce(address: str, number: int, notes: Path) -> None:
    """Send records; go on behind the last one that was noted as acknowledged."""
    from confluent_kafka import Producer

    with notes.open("a+") as noted:
        noted.seek(0)
        first = 1 + max((int(line) for line in noted), default=-1)
        producer = Producer({"bootstrap.servers": address, "enable.idempotence": True, "linger.ms": 1})

        def acknowledged(error: Any, message: Any) -> None:
            if error is None:
                noted.write(f"{message.value().decode().partition(':')[2]}\n")
                noted.flush()

        for record in range(first, RECORDS):
            producer.produce("numbers", f"{number}:{record}", key=str(number), on_delivery=acknowledged)
            producer.poll(0.005)
        producer.flush()


def consume(address: str, notes: Path) -> None:
    """Note what the group is given, before it is committed: what is read again after a kill is noted twice."""
    from confluent_kafka import Consumer

    consumer = Consumer(
        {
            "bootstrap.servers": address,
            "group.id": "readers",
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
            "session.timeout.ms": 6000,
            "heartbeat.interval.ms": 200,
        }
    )
    consumer.subscribe(["numbers"])
    with notes.open("a") as noted:
        while True:
            messages = consumer.consume(50, timeout=0.2)
            values = [value for each in messages if each.error() is None and (value := each.value()) is not None]
            if values:
                noted.write("".join(f"{value.decode()}\n" for value in values))
                noted.flush()
                consumer.commit(asynchronous=False)


def start(*arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, __file__, *map(str, arguments)], text=True)


def read(files: list[Path]) -> set[str]:
    return {line for file in files if file.exists() for line in file.read_text().splitlines()}


def main(directory: Path) -> None:
    command = [sys.executable, "-m", "streamlog", "-d", str(directory / "log")]
    subprocess.run([*command, "topic", "create", "numbers", "--partitions", "6"], check=True, capture_output=True)
    server = subprocess.Popen([*command, "serve", "--port", "0"], stderr=subprocess.PIPE, text=True)
    assert server.stderr is not None
    address = server.stderr.readline().split()[1].rstrip(".")
    print(f"serving {address}")
    sent = [directory / f"sent-{number}" for number in range(PRODUCERS)]
    received = [directory / f"received-{number}" for number in range(CONSUMERS)]
    workers: list[tuple[Any, ...]] = [("produce", address, number, sent[number]) for number in range(PRODUCERS)]
    workers += [("consume", address, received[number]) for number in range(CONSUMERS)]
    processes = [start(*each) for each in workers]
    for at, each in enumerate(workers):  # kill each once, and start it again
        time.sleep(0.3)
        processes[at].kill()
        processes[at].wait()
        processes[at] = start(*each)
    print(f"killed and started again: {PRODUCERS} producers and {CONSUMERS} consumers")
    for producer in processes[:PRODUCERS]:
        assert producer.wait(60) == 0
    acknowledged = {f"{number}:{record}" for number, file in enumerate(sent) for record in read([file])}
    deadline = time.monotonic() + 60
    while not acknowledged <= read(received) and time.monotonic() < deadline:
        time.sleep(0.1)
    missing = acknowledged - read(received)
    for consumer in processes[PRODUCERS:]:
        consumer.kill()
        consumer.wait()
    server.terminate()
    server.wait(30)
    print(f"{len(acknowledged):,} records were acknowledged, and {len(missing)} of them were not read")
    assert not missing
    assert len(acknowledged) == PRODUCERS * RECORDS


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["produce", address, number, notes]:
            produce(address, int(number), Path(notes))
        case ["consume", address, notes]:
            consume(address, Path(notes))
        case _:
            with tempfile.TemporaryDirectory() as temporary:
                main(Path(temporary))
