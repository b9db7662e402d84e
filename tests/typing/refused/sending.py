"""What cannot be sent so, and outcomes that are used as records."""

from datetime import datetime

import streamlog
from streamlog import ProducerRecord


def records(log: streamlog.StreamLog, now: datetime) -> None:
    orders = log["orders"]
    orders.send("9.50", headers={"cents": 950})  # E: arg-type, reportArgumentType
    orders.send("9.50", headers={b"source": "web"})  # E: arg-type, reportArgumentType
    orders.send("9.50", headers=[("cents", 950)])  # E: list-item, reportArgumentType
    orders.send("9.50", headers=["source", "web"])  # E: list-item, reportArgumentType
    orders.send("9.50", headers="source")  # E: arg-type, reportArgumentType
    orders.send("9.50", headers=7)  # E: arg-type, reportArgumentType
    orders.send("9.50", partition="0")  # E: arg-type, reportArgumentType
    orders.send("9.50", timestamp_ms=now)  # E: arg-type, reportArgumentType
    orders.send("9.50", timestamp=7)  # E: call-arg, reportCallIssue
    orders.send_many(None)  # E: arg-type, reportArgumentType
    orders.send_many(["1"], keys=7)  # E: arg-type, reportArgumentType
    orders.send_many(["1"], timestamps_ms=["7"])  # E: list-item, reportArgumentType
    orders.send_many(["1"], headers={"cents": 950})  # E: arg-type, reportArgumentType
    ProducerRecord("9.50", headers={"cents": 950})  # E: arg-type, reportArgumentType


def producers(log: streamlog.StreamLog) -> None:
    producer = log.producer(linger_ms=5)
    producer.send(7, "9.50")  # E: arg-type, reportArgumentType
    producer.send(["orders"], "9.50")  # E: arg-type, reportArgumentType
    producer.send(log.group("orders"), "9.50")  # E: arg-type, reportArgumentType
    producer.send()  # E: call-arg, reportCallIssue
    producer.send("orders", "9.50", headers={"cents": 950})  # E: arg-type, reportArgumentType
    producer.flush("1")  # E: arg-type, reportArgumentType


def deliveries(log: streamlog.StreamLog) -> None:
    delivery = log["orders"].send("9.50")
    print(delivery.offset)  # E: attr-defined, reportAttributeAccessIssue
    print(delivery.result().ofset)  # E: attr-defined, reportAttributeAccessIssue
    print(delivery.result("1"))  # E: arg-type, reportArgumentType
    print(log["orders"].send_many(["9.50"]).result().offset)  # E: attr-defined, reportAttributeAccessIssue
    delivery.add_done_callback(lambda: None)  # E: arg-type, reportArgumentType
