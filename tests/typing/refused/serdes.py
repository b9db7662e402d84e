"""Serdes and deserializers of the wrong kind, and records used as what they are not."""

import json
from dataclasses import dataclass
from typing import Any

import streamlog
from streamlog import Consumer, Record, Topic, serde


@dataclass(frozen=True)
class Order:
    cents: int


class OrderSerde:
    def serialize(self, value: Order) -> bytes:
        return b"%d" % value.cents

    def deserialize(self, data: bytes) -> Order:
        return Order(int(data))


class OnlySerializes:
    def serialize(self, value: Order) -> bytes:
        return b"%d" % value.cents


class NotCalled(OnlySerializes):
    def deserialize(self, data: bytes) -> Order:
        return Order(int(data))


def topics(log: streamlog.StreamLog) -> None:
    log.topic("orders", value_serde="json")  # E: call-overload, reportArgumentType
    log.topic("orders", value_serde=json.dumps)  # E: call-overload, reportArgumentType
    log.topic("orders", value_serde=NotCalled)  # E: call-overload, reportArgumentType
    log.topic("orders", value_serde=OnlySerializes())  # E: call-overload, reportArgumentType
    log.topic("orders", key_serde=7)  # E: call-overload, reportArgumentType
    log.topic("orders", serde=serde.json)  # E: call-overload, reportCallIssue
    log.topic("orders", serde.json)  # E: call-overload, reportCallIssue
    log.topic(7)  # E: call-overload, reportArgumentType
    strings: Topic[bytes, str] = log.topic("orders", value_serde=OrderSerde())  # E: arg-type, reportAssignmentType
    print(strings)


def values(log: streamlog.StreamLog) -> None:
    for plain in log["orders"].read():
        print(plain.value.cents)  # E: union-attr, reportAttributeAccessIssue
        print(plain.key + 1)  # E: operator, reportOperatorIssue
    for record in log.topic("orders", key_serde=serde.string, value_serde=OrderSerde()).read():
        print(record.value.sents)  # E: union-attr, reportAttributeAccessIssue
        print(record.value["cents"])  # E: index, reportIndexIssue
        print(record.key.decode())  # E: union-attr, reportAttributeAccessIssue
        print(record.headers["source"])  # E: call-overload, reportArgumentType
        print(record.ofset)  # E: attr-defined, reportAttributeAccessIssue
        record.offset = 7  # E: misc, reportAttributeAccessIssue
    for batch in log.topic("orders", value_serde=OrderSerde()).read_batches():
        print(batch.values[0].sents)  # E: union-attr, reportAttributeAccessIssue
        batch.next_offset = 7  # E: misc, reportAttributeAccessIssue


def consumers(log: streamlog.StreamLog) -> None:
    log.consumer("orders", value_deserializer="json")  # E: call-overload, reportArgumentType
    log.consumer("orders", value_deserializer=NotCalled)  # E: arg-type, reportArgumentType
    log.consumer("orders", value_deserializer={"orders": "json"})  # E: dict-item, reportArgumentType
    log.consumer("orders", key_deserializer=str.upper)  # E: arg-type, reportArgumentType
    log.consumer("orders", value_serde=OrderSerde())  # E: call-overload, reportCallIssue
    for record in log.consumer("orders", value_deserializer=OrderSerde()):
        print(record.value.sents)  # E: union-attr, reportAttributeAccessIssue
    for record in log.consumer(log.topic("orders", value_serde=OrderSerde())).poll():
        print(record.value.sents)  # E: union-attr, reportAttributeAccessIssue
    mine = OrderSerde()
    text: Consumer[Any, str] = log.consumer("orders", value_deserializer=mine)  # E: arg-type, reportAssignmentType
    print(text)


def handle(record: Record[bytes, Order]) -> None:
    print(record.value.sents)  # E: attr-defined, reportAttributeAccessIssue
