"""Handlers, settings of workers, and offsets of groups that would not work."""

import sqlite3
from datetime import date

import streamlog
from streamlog import Record


def handle(record: Record[bytes, bytes]) -> None:
    print(record)


def handle_two(key: bytes, value: bytes) -> None:
    print(key, value)


def workers(group: streamlog.ConsumerGroup) -> None:
    group.run(handle, "orders", on_error="dead-letter")  # E: arg-type, reportArgumentType
    group.run(handle, "orders", on_error="ignore")  # E: arg-type, reportArgumentType
    group.run(handle, "orders", workers="4")  # E: arg-type, reportArgumentType
    group.run(handle, "orders", worker=4)  # E: call-arg, reportCallIssue
    group.run(handle, "orders", retry=3)  # E: call-arg, reportCallIssue
    group.run(handle, "orders", max_poll_record=7)  # E: call-arg, reportCallIssue
    group.run(handle, "orders", auto_offset_reset="earlist")  # E: arg-type, reportArgumentType
    group.run(handle, "orders", ordering="none")  # E: arg-type, reportArgumentType
    group.run(handle, "orders", group="billing")  # E: call-arg, reportCallIssue
    group.run(handle, ["orders"])  # E: arg-type, reportArgumentType
    group.run("orders", handle)  # E: arg-type, reportArgumentType
    group.run(handle_two, "orders")  # E: arg-type, reportArgumentType
    group.start(handle, "orders", on_error="dead-letter")  # E: arg-type, reportArgumentType
    group.start(handle, "orders", max_poll_record=7)  # E: call-arg, reportCallIssue
    group.start(handle, ["orders"])  # E: arg-type, reportArgumentType
    group.start(handle, "orders").wait("1")  # E: arg-type, reportArgumentType
    group.consumer(["orders"])  # E: arg-type, reportArgumentType


def offsets(group: streamlog.ConsumerGroup) -> None:
    group.reset()  # E: call-arg, reportCallIssue
    group.reset("orders", to="begin")  # E: arg-type, reportArgumentType
    group.reset("orders", to=date.today())  # E: arg-type, reportArgumentType
    group.reset("orders", to=7)  # E: arg-type, reportArgumentType
    group.reset(["orders"], to="latest")  # E: arg-type, reportArgumentType
    group.state = "Empty"  # E: misc, reportAttributeAccessIssue


def into_a_database(database: sqlite3.Connection, log: streamlog.StreamLog, record: Record[bytes, bytes]) -> None:
    streamlog.external_offsets(database)  # E: call-arg, reportCallIssue
    streamlog.external_offsets(database, "totals")  # E: call-arg, reportCallIssue
    streamlog.external_offsets("totals.db", group="totals")  # E: arg-type, reportArgumentType
    streamlog.external_offsets(log, group="totals")  # E: arg-type, reportArgumentType
    offsets = streamlog.external_offsets(database, group="totals")
    offsets.load("orders")  # E: arg-type, reportArgumentType
    offsets.store(record.offset)  # E: arg-type, reportArgumentType
