"""Places to read, topics to subscribe to, partitions and offsets that are none."""

import re
from datetime import date

import streamlog
from streamlog import TopicPartition


def topics(log: streamlog.StreamLog) -> None:
    orders = log["orders"]
    orders.read(start="begin")  # E: arg-type, reportArgumentType
    orders.read(end="now")  # E: arg-type, reportArgumentType
    orders.read(start=date.today())  # E: arg-type, reportArgumentType
    orders.read(start=1.5)  # E: arg-type, reportArgumentType
    orders.read("0")  # E: arg-type, reportArgumentType
    orders.read(begin=0)  # E: call-arg, reportCallIssue
    orders.read(0, 7)  # E: call-arg, reportCallIssue
    orders.read(on_corrupt="ignore")  # E: arg-type, reportArgumentType
    orders.read(isolation_level="committed")  # E: arg-type, reportArgumentType
    orders.read(order="times")  # E: arg-type, reportArgumentType
    orders.at("2026-01-01")  # E: arg-type, reportArgumentType
    orders.head("3")  # E: arg-type, reportArgumentType
    log.replay("orders", into="live", speed="fast")  # E: arg-type, reportArgumentType
    log.replay("orders")  # E: call-arg, reportCallIssue
    orders.read_batches(start="begin")  # E: arg-type, reportArgumentType
    len(orders.read())  # E: arg-type, reportArgumentType
    log[0]  # E: index, reportArgumentType


def subscriptions(log: streamlog.StreamLog) -> None:
    log.consumer(["orders"])  # E: call-overload, reportArgumentType
    log.consumer(7)  # E: call-overload, reportArgumentType
    log.consumer(re.compile(b"orders"))  # E: arg-type, reportArgumentType
    consumer = log.consumer()
    consumer.subscribe(7)  # E: arg-type, reportArgumentType
    consumer.subscribe([7])  # E: list-item, reportArgumentType
    consumer.subscribe("orders", print)  # E: arg-type, reportArgumentType
    consumer.assign("orders")  # E: arg-type, reportArgumentType
    consumer.assign([("orders", "0")])  # E: list-item, reportArgumentType
    consumer.assign(TopicPartition("orders", "0"))  # E: arg-type, reportArgumentType


def polling(log: streamlog.StreamLog) -> None:
    consumer = log.consumer("orders")
    consumer.poll("1")  # E: arg-type, reportArgumentType
    consumer.poll(None)  # E: arg-type, reportArgumentType
    consumer.poll(timeout_ms=100)  # E: call-arg, reportCallIssue
    consumer.poll().value  # E: attr-defined, reportAttributeAccessIssue
    consumer.seek("orders", 7)  # E: arg-type, reportArgumentType
    consumer.seek(TopicPartition("orders", 0), "7")  # E: arg-type, reportArgumentType
    consumer.commit(7)  # E: arg-type, reportArgumentType
    consumer.commit({TopicPartition("orders", 0): "7"})  # E: arg-type, reportArgumentType
    consumer.offsets_for_times({TopicPartition("orders", 0): "today"})  # E: dict-item, reportArgumentType
    consumer.stopped()  # E: operator, reportCallIssue
