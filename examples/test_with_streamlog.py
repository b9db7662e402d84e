"""Testing an application that uses Kafka: a fixture of pytest is a cluster, in the process of the tests, new for each of them.

    pip install 'streamlog-py[kafka]' confluent-kafka pytest
    pytest examples/test_with_streamlog.py       # or: python examples/test_with_streamlog.py

`Shop` and `Billing` stand for your application: they use confluent-kafka, and know nothing of streamlog. The tests after them are
those that it would have with a Kafka in a container, but for the fixture `kafka_bootstrap_servers`, which is there wherever
streamlog is installed. The other fixtures do what a container cannot: `kafka_clock` moves time, `streamlog_log` looks into the log, and
`kafka_cluster.control` makes requests fail.
"""

from __future__ import annotations

import json
import sys
import threading
from contextlib import closing
from datetime import timedelta

import pytest
from confluent_kafka import Consumer, KafkaException, Message, Producer

from streamlog import StreamLog
from streamlog.kafka import Listener
from streamlog.testing import ManualClock, records, wait_for_group

# -- the application -------------------------------------------------------------------------------------


class Shop:
    """Takes orders."""

    def __init__(self, servers: str) -> None:
        self._producer = Producer({"bootstrap.servers": servers, "enable.idempotence": True, "linger.ms": 0})

    def order(self, customer: str, amount: int) -> None:
        """Returns when the order is in Kafka. Raises KafkaException if it is not."""
        failed: list[KafkaException] = []

        def delivered(error: object, message: Message) -> None:
            if error is not None:
                failed.append(KafkaException(error))

        self._producer.produce("orders", json.dumps({"amount": amount}), key=customer, on_delivery=delivered)
        if self._producer.flush(30):
            raise TimeoutError("Kafka did not answer")
        if failed:
            raise failed[0]


class Billing:
    """One worker of the group `billing`: an invoice for each order."""

    def __init__(self, servers: str) -> None:
        self._consumer = Consumer(
            {
                "bootstrap.servers": servers,
                "group.id": "billing",
                "auto.offset.reset": "earliest",
                "enable.auto.commit": False,
            }
        )
        self._consumer.subscribe(["orders"])
        self._producer = Producer({"bootstrap.servers": servers, "linger.ms": 0})
        self.tax = 19

    def handle_one(self, timeout: float = 30.0) -> bool:
        """Write the invoice for the next order; whether there was one. Commits when the invoice is in Kafka."""
        message = self._consumer.poll(timeout)
        if message is None:
            return False
        if message.error() is not None:
            raise KafkaException(message.error())
        amount = int(json.loads(message.value() or b"{}")["amount"])
        total = amount + amount * self.tax // 100
        self._producer.produce("invoices", json.dumps({"total": total}), key=message.key())
        if self._producer.flush(30):
            raise TimeoutError("Kafka did not answer")
        self._consumer.commit(message=message, asynchronous=False)
        return True

    def close(self) -> None:
        self._consumer.close()


# -- its tests -------------------------------------------------------------------------------------------


def invoices(servers: str, count: int) -> list[tuple[str, int]]:
    """The first so many, as another application reads them."""
    consumer = Consumer({"bootstrap.servers": servers, "group.id": "accounting", "auto.offset.reset": "earliest"})
    consumer.subscribe(["invoices"])
    with closing(consumer):
        messages = consumer.consume(count, timeout=30)
    return [((each.key() or b"").decode(), json.loads(each.value() or b"{}")["total"]) for each in messages]


def test_every_order_has_an_invoice(kafka_bootstrap_servers: str) -> None:
    shop = Shop(kafka_bootstrap_servers)
    shop.order("alice", 100)
    shop.order("bob", 200)
    with closing(Billing(kafka_bootstrap_servers)) as billing:
        assert [billing.handle_one(), billing.handle_one()] == [True, True]
    assert invoices(kafka_bootstrap_servers, 2) == [("alice", 119), ("bob", 238)]


def test_an_order_that_a_worker_failed_on_goes_to_the_next_one(kafka_bootstrap_servers: str) -> None:
    Shop(kafka_bootstrap_servers).order("alice", 100)
    with closing(Billing(kafka_bootstrap_servers)) as broken:
        del broken.tax
        with pytest.raises(AttributeError):
            broken.handle_one()
    with closing(Billing(kafka_bootstrap_servers)) as billing:
        assert billing.handle_one()
    assert invoices(kafka_bootstrap_servers, 1) == [("alice", 119)]


def test_two_workers_share_the_orders(kafka_bootstrap_servers: str, streamlog_log: StreamLog) -> None:
    streamlog_log.create_topic("orders", partitions=4)
    stop = threading.Event()

    def work() -> None:
        with closing(Billing(kafka_bootstrap_servers)) as billing:
            while not stop.is_set():
                billing.handle_one(timeout=0.05)

    workers = [threading.Thread(target=work) for _ in range(2)]
    for worker in workers:
        worker.start()
    try:
        members = wait_for_group(streamlog_log, "billing", members=2, timeout=60)
        assert sorted(len(member.assignment) for member in members) == [2, 2]
        shop = Shop(kafka_bootstrap_servers)
        for n in range(20):
            shop.order(f"customer {n}", n)
        assert len(invoices(kafka_bootstrap_servers, 20)) == 20
    finally:
        stop.set()
        for worker in workers:
            worker.join()


def test_orders_are_kept_for_a_week(
    kafka_bootstrap_servers: str, kafka_clock: ManualClock, streamlog_log: StreamLog
) -> None:
    Shop(kafka_bootstrap_servers).order("alice", 100)
    kafka_clock.advance(timedelta(days=6))
    assert len(records(streamlog_log, "orders")) == 1
    kafka_clock.advance(timedelta(days=3))  # records go by segments, each of which has those of some hours
    assert records(streamlog_log, "orders") == []


def test_an_order_is_written_once_when_its_answer_is_lost(kafka_cluster: Listener, streamlog_log: StreamLog) -> None:
    lost = kafka_cluster.control.drop_response("Produce", topic="orders")
    Shop(kafka_cluster.bootstrap_servers).order("alice", 100)
    assert lost.fired == 1  # which the fixture checks too: a fault that never fires fails the test
    assert len(records(streamlog_log, "orders")) == 1


if __name__ == "__main__":
    sys.exit(pytest.main([__file__, "-v", "-p", "no:cacheprovider"]))
