"""Misspelt settings, and settings of the wrong kind."""

import time

import streamlog
from streamlog import ConsumerConfig, TopicConfig


def opening() -> None:
    streamlog.open("data", readonly=True)  # E: call-arg, reportCallIssue
    streamlog.open("data", True)  # E: call-arg, reportCallIssue
    streamlog.open(7)  # E: arg-type, reportArgumentType
    streamlog.open(None)  # E: arg-type, reportArgumentType
    streamlog.open(clock=time)  # E: arg-type, reportArgumentType
    streamlog.open(brokers=3.0)  # E: arg-type, reportArgumentType
    streamlog.open(lock_timeout="1")  # E: arg-type, reportArgumentType
    streamlog.open(partitions="4")  # E: arg-type, reportArgumentType


def topics(log: streamlog.StreamLog) -> None:
    log.create_topic("orders", retention_ms="7d")  # E: arg-type, reportArgumentType
    log.create_topic("orders", retention_days=7)  # E: call-arg, reportCallIssue
    log.create_topic("orders", cleanup_policy="compacted")  # E: arg-type, reportArgumentType
    log.create_topic("orders", retention=7)  # E: arg-type, reportArgumentType
    log.create_topic("orders", 4)  # E: call-arg, reportCallIssue
    log["orders"].update_config(segment_byte=1 << 20)  # E: call-arg, reportCallIssue
    log["orders"].delete_records({"0": 7})  # E: dict-item, reportArgumentType
    settings: TopicConfig = {"retention_msec": 7}  # E: typeddict-unknown-key, reportAssignmentType
    print(settings)


def producers(log: streamlog.StreamLog) -> None:
    log.producer(linger=5)  # E: call-arg, reportCallIssue
    log.producer(linger_ms="5")  # E: arg-type, reportArgumentType
    log.producer(acks=2)  # E: arg-type, reportArgumentType
    log.producer(acks="1")  # E: arg-type, reportArgumentType
    log.producer(partitioner=7)  # E: arg-type, reportArgumentType
    log.producer(partitioner=len)  # E: arg-type, reportArgumentType
    log.producer(value_serializer="json")  # E: arg-type, reportArgumentType
    log.producer(value_serializer=len)  # E: arg-type, reportArgumentType
    log.producer(value_serializer={"orders": "json"})  # E: dict-item, reportArgumentType


def consumers(log: streamlog.StreamLog) -> None:
    log.consumer("orders", enable_autocommit=False)  # E: call-overload, reportCallIssue
    log.consumer("orders", auto_offset_reset="earlist")  # E: call-overload, reportArgumentType
    log.consumer("orders", isolation_level="committed")  # E: call-overload, reportArgumentType
    log.consumer("orders", on_corrupt="ignore")  # E: call-overload, reportArgumentType
    log.consumer("orders", max_poll_records="7")  # E: call-overload, reportArgumentType
    log.consumer("orders", listener=print)  # E: call-overload, reportArgumentType
    log.consumer("orders", group=7)  # E: call-overload, reportArgumentType
    settings: ConsumerConfig = {"auto_offset_reset": "begin"}  # E: typeddict-item, reportAssignmentType
    print(settings)
