"""The main job, from an empty directory: create a topic, produce, consume in a group, close, reopen, continue.

Run it right after `pip install .`:

    python examples/quickstart.py

It needs only streamlog, and works in a temporary directory that it removes.
"""

import tempfile
from pathlib import Path

import streamlog

ORDERS = [
    ("alice", "9.50"),
    ("bob", "20.00"),
    ("alice", "3.25"),
    ("carol", "7.10"),
    ("bob", "1.99"),
    ("alice", "12.00"),
]
MORE_ORDERS = [("carol", "5.00"), ("dave", "8.40")]

Charge = tuple[str, str]


def produce(log: streamlog.StreamLog, orders: list[Charge]) -> None:
    """Send each order with its customer as the key: the orders of one customer share a partition and stay in order."""
    with log.producer() as producer:
        for customer, amount in orders:
            sent = producer.send("orders", amount, key=customer).result()
            print(f"  sent     {customer:<6} {amount:>6}  -> partition {sent.partition}, offset {sent.offset}")


def consume(log: streamlog.StreamLog, at_most: int | None = None) -> list[Charge]:
    """Charge what the group `billing` has not charged yet, at most `at_most` orders.

    The consumer commits by itself: a record is finished when the next one is asked for, and the last one when the block
    ends without an exception.
    """
    charged: list[Charge] = []
    with log.consumer("orders", group="billing") as consumer:
        for record in consumer.until_end():
            customer, amount = record.key.decode(), record.value.decode()
            charged.append((customer, amount))
            print(f"  charged  {customer:<6} {amount:>6}  <- partition {record.partition}, offset {record.offset}")
            if len(charged) == at_most:
                break
    return charged


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder) / "shop"

        print("1. Open a directory, create a topic with four partitions, send six orders.")
        with streamlog.open(directory) as log:
            log.create_topic("orders", partitions=4)
            produce(log, ORDERS)

            print("2. A consumer of the group 'billing' charges four of them and closes.")
            charged = consume(log, at_most=4)
            print(f"   The group lags by {sum(log.group('billing').lag().values())} records. The log is closed.")

        print("3. Later, perhaps in another process: reopen, send two more, and charge the rest.")
        with streamlog.open(directory) as log:
            produce(log, MORE_ORDERS)
            charged += consume(log)
            print(f"   The group lags by {sum(log.group('billing').lag().values())} records.")
            kept = sum(1 for _ in log["orders"].read())

    alice = [amount for customer, amount in charged if customer == "alice"]
    assert sorted(charged) == sorted(ORDERS + MORE_ORDERS), charged
    assert alice == ["9.50", "3.25", "12.00"], alice
    print("Every order was charged exactly once, those of each customer in the order of sending.")
    print(f"All {kept} records are still there and can be read again.")


if __name__ == "__main__":
    main()
