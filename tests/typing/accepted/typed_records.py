"""A serde types the topic, what is read of it, its consumers and their records; so does a deserializer."""

import json
from dataclasses import asdict, dataclass
from typing import Any, assert_type

import streamlog
from streamlog import Consumer, Record, RecordBatch, Records, RecordTuple, Serde, Topic, serde


@dataclass(frozen=True)
class Order:
    customer: str
    cents: int


class OrderSerde:
    """A serde is any object with these two methods; it need not inherit."""

    def serialize(self, value: Order) -> bytes:
        return json.dumps(asdict(value)).encode()

    def deserialize(self, data: bytes) -> Order:
        return Order(**json.loads(data))


@dataclass(frozen=True)
class Refund:
    reason: str


class RefundSerde(Serde[Refund]):
    def serialize(self, value: Refund, /) -> bytes:
        return value.reason.encode()

    def deserialize(self, data: bytes, /) -> Refund:
        return Refund(data.decode())


def order_of(data: bytes) -> Order:
    return OrderSerde().deserialize(data)


def topics(log: streamlog.StreamLog) -> None:
    orders = log.topic("orders", value_serde=OrderSerde())
    assert_type(orders, Topic[bytes | Any, Order | Any])
    assert_type(log.topic("orders", key_serde=serde.string), Topic[str | Any, bytes | Any])
    assert_type(log.topic("orders", key_serde=serde.string, value_serde=OrderSerde()), Topic[str | Any, Order | Any])
    assert_type(log.topic("refunds", value_serde=RefundSerde()), Topic[bytes | Any, Refund | Any])
    assert_type(Topic(log, "orders", value_serde=OrderSerde()), Topic[bytes | Any, Order])

    orders.send(Order("alice", 950), key="alice")
    assert_type(orders.read(), Records[bytes | Any, Order | Any])
    assert_type(orders.read(order="time"), Records[bytes | Any, Order | Any])
    assert_type(orders.tail(3), RecordTuple[bytes | Any, Order | Any])
    assert_type(orders.tail(3)[:2], RecordTuple[bytes | Any, Order | Any])
    assert_type(orders.tail(3)[0], Record[bytes | Any, Order | Any])
    for record in orders.read():
        assert_type(record, Record[bytes | Any, Order | Any])
        if record.value is not None:
            print(record.value.cents + 1)
    for batch in orders.read_batches():
        assert_type(batch, RecordBatch[bytes | Any, Order | Any])
        for record in batch:
            print(record.value.customer.upper())


def consumers(log: streamlog.StreamLog) -> None:
    with log.consumer("orders", value_deserializer=OrderSerde()) as consumer:
        assert_type(consumer, Consumer[bytes | Any, Order | Any])
        for record in consumer.until_end():
            assert_type(record.value, Order | Any)
            print(record.value.cents)
    with log.consumer("orders", key_deserializer=serde.string, value_deserializer=order_of) as consumer:
        assert_type(consumer, Consumer[str | Any, Order | Any])
    with log.consumer("orders", value_deserializer=json.loads) as loaded:
        print([document.value["cents"] for document in loaded.until_end()])
    with log.consumer("orders", value_deserializer=serde.json) as parsed:
        for document in parsed.until_end():
            print(document.value["cents"])
    with Consumer(log, "orders", value_deserializer=OrderSerde()) as made:
        assert_type(made, Consumer[bytes | Any, Order])


def consumers_of_topics(log: streamlog.StreamLog) -> None:
    """A consumer of Topics uses their serdes. Its own deserializers go first."""
    orders = log.topic("orders", key_serde=serde.string, value_serde=OrderSerde())
    with log.consumer(orders, group="billing") as consumer:
        assert_type(consumer, Consumer[str | Any, Order | Any])
        for record in consumer.until_end():
            print(record.key.upper(), record.value.cents)
    with log.consumer(log.topic("orders", value_serde=OrderSerde())) as alone:
        assert_type(alone, Consumer[bytes | Any, Order | Any])
    with log.consumer(orders, log.topic("refunds", key_serde=serde.string, value_serde=RefundSerde())) as both:
        for either in both.until_end():
            if isinstance(either.value, Refund):
                print(either.value.reason)
    with log.consumer(log["orders"], value_deserializer=OrderSerde()) as consumer_of_bytes:
        assert_type(consumer_of_bytes, Consumer[bytes | Any, Order | Any])


def consumers_by_topic(log: streamlog.StreamLog) -> None:
    """Deserializers by topic name make values of several types."""
    with log.consumer(
        "orders", "refunds", value_deserializer={"orders": OrderSerde(), "refunds": RefundSerde()}
    ) as both:
        assert_type(both, Consumer[Any, Any])
        for record in both.until_end():
            if record.topic == "refunds":
                print(record.value.reason)
    with log.consumer("orders", key_deserializer={"orders": bytes.decode}, value_deserializer=OrderSerde()) as mapped:
        assert_type(mapped, Consumer[Any, Order | Any])
    one: Record[bytes | None, Order | None] = Record("orders", 0, 0, 0, None, Order("bob", 1), ())
    assert_type(one.value, Order | None)


def main() -> None:
    with streamlog.open() as log:
        log.create_topic("orders")
        log.create_topic("refunds")
        topics(log)
        consumers(log)
        consumers_of_topics(log)
        consumers_by_topic(log)


if __name__ == "__main__":
    main()
