"""Totals in SQLite, exactly once: a process that is killed again and again counts no order twice, and none is missing.

    python examples/into_sqlite.py

Orders are read from a topic, and what each customer has spent is added up in a database. What the totals hold and how far
the topic was read change in one transaction of the database: `external_offsets(…).store(record)` is one more statement in
it. A process that is killed, at whatever place, leaves both as they were after its last commit, and the next one goes on
from there.

Here the process that reads is killed with SIGKILL six times on the way, each time in the middle of a transaction: an order
is in its total, its offset is not stored. At the end the totals have to be those that are computed from the orders
themselves, to the cent.
"""

import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import streamlog
from streamlog import TopicPartition, serde

ORDERS = 10_000
CUSTOMERS = [f"customer-{number:02}" for number in range(25)]
PARTITIONS = 4
KILLS = 6


def totals(database: sqlite3.Connection) -> dict[str, int]:
    return dict(database.execute("SELECT customer, cents FROM spent"))


def add_up(folder: Path, killed_after: int) -> None:
    """The process that is killed: add the orders to the totals, from where the database says up to the end of the topic.

    It kills itself after so many orders, so that it dies at the most dangerous place; 0: it lives.
    """
    database = sqlite3.connect(folder / "totals.db")
    offsets = streamlog.external_offsets(database, group="totals")
    with database:  # a transaction: commits at the end, rolls back on an exception
        offsets.create_table()
        database.execute("CREATE TABLE IF NOT EXISTS spent (customer TEXT PRIMARY KEY, cents INTEGER NOT NULL)")

    with (
        streamlog.open(folder / "log") as log,
        log.consumer(key_deserializer=serde.string, value_deserializer=serde.json, max_poll_records=100) as consumer,
    ):
        consumer.assign(TopicPartition("orders", number) for number in range(PARTITIONS))
        for partition, offset in offsets.load(consumer.assignment()).items():
            consumer.seek(partition, offset)
        handled = 0
        while records := consumer.poll():
            with database:
                for record in records:
                    database.execute(
                        "INSERT INTO spent VALUES (?, ?) ON CONFLICT DO UPDATE SET cents = cents + excluded.cents",
                        (record.key, record.value["cents"]),
                    )
                    handled += 1
                    if handled == killed_after:
                        os.kill(os.getpid(), signal.SIGKILL)
                    offsets.store(record)
    database.close()


def run_process(folder: Path, killed_after: int = 0) -> int:
    """Run `add_up` in a process of its own; how it ended."""
    return subprocess.run([sys.executable, __file__, folder, str(killed_after)]).returncode


def send_orders(log: streamlog.StreamLog, rng: random.Random) -> Counter[str]:
    """Send the orders; what each customer spends, computed without streamlog."""
    customers: Sequence[str] = rng.choices(CUSTOMERS, k=ORDERS)
    cents = [rng.randrange(100, 10_000) for _ in range(ORDERS)]
    log.create_topic("orders", partitions=PARTITIONS)
    with log.producer(value_serializer=serde.json) as producer:
        producer.send_many("orders", [{"cents": each} for each in cents], customers)
    expected: Counter[str] = Counter()
    for customer, each in zip(customers, cents, strict=True):
        expected[customer] += each
    return expected


def main() -> None:
    rng = random.Random(11)
    with tempfile.TemporaryDirectory(prefix="into-sqlite-") as name:
        folder = Path(name)
        with streamlog.open(folder / "log") as log:
            expected = send_orders(log, rng)
        print(f"{ORDERS:,} orders of {len(CUSTOMERS)} customers are in the log")

        whole = sum(expected.values())
        with closing(sqlite3.connect(folder / "totals.db")) as database:
            for kill in range(1, KILLS + 1):
                code = run_process(folder, killed_after=rng.randrange(200, 1_600))
                assert code == -signal.SIGKILL, code
                part = sum(totals(database).values())
                print(f"  kill -9 number {kill}: {part / 100:>10,.2f} of {whole / 100:,.2f} are added up")
                assert part < whole
            code = run_process(folder)
            assert code == 0, code
            found = totals(database)
        for customer, cents in Counter(found).most_common(3):
            print(f"  {customer} has spent {cents / 100:,.2f}")
        assert found == expected, "an order was counted twice, or not at all"
    print("All totals are those computed from the orders themselves: each order was counted once.")


if __name__ == "__main__":
    if len(sys.argv) == 3:
        add_up(Path(sys.argv[1]), int(sys.argv[2]))
    else:
        main()
