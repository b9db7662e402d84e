"""Python objects as values: a serde of your own, a typed topic, headers.

    python examples/typed_topic.py

A serde is an object with `serialize` and `deserialize`; streamlog.serde has bytes_, string, json and msgpack. It is not
called for keys and values that are None (no key, tombstone).
"""

import json
from dataclasses import asdict, dataclass

import streamlog
from streamlog import serde


@dataclass(frozen=True)
class Order:
    customer: str
    cents: int


class OrderSerde:
    """An order as JSON, checked before it is sent."""

    def serialize(self, value: Order, /) -> bytes:
        if value.cents < 0:
            raise ValueError(f"an order cannot cost {value.cents} cents")
        return json.dumps(asdict(value)).encode()

    def deserialize(self, data: bytes, /) -> Order:
        return Order(**json.loads(data))


def main() -> None:
    with streamlog.open() as log:
        log.create_topic("orders", partitions=2)
        orders = log.topic("orders", key_serde=serde.string, value_serde=OrderSerde())

        placed = [Order("alice", 950), Order("bob", 2000), Order("alice", 325)]
        for order in placed:
            sent = orders.send(order, key=order.customer, headers={"source": "web", "version": "2"}).result()
            print(f"sent {order} to partition {sent.partition}")

        try:
            orders.send(Order("mallory", -1), key="mallory")
            raise AssertionError("it was sent")
        except streamlog.SerializationError as error:  # a TypeError too
            print(f"refused: {error}")

        read: list[Order] = []
        for record in orders.read():
            read.append(record.value)
            print(f"read {record.value} from {(record.header('source') or b'').decode()} at {record.datetime:%H:%M:%S}")

    assert sorted(read, key=lambda order: placed.index(order)) == placed
    assert [order for order in read if order.customer == "alice"] == [placed[0], placed[2]]


if __name__ == "__main__":
    main()
