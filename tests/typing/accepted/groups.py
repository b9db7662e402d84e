"""Groups and their workers: handlers of typed records, settings of `run` and `start`, offsets."""

import re
import sqlite3
from datetime import UTC, datetime
from typing import Any, assert_type

import streamlog
from streamlog import ConsumerGroup, MemberInfo, OffsetAndMetadata, Record, TopicPartition, Workers, serde

DONE: list[object] = []


def handle(record: Record[bytes, dict[str, int]]) -> None:
    DONE.append(record.value["cents"])


def handle_any(record: Record[Any, Any]) -> str:
    """What a handler returns is ignored."""
    DONE.append(record.value)
    return "done"


def workers(log: streamlog.StreamLog, group: ConsumerGroup) -> None:
    orders = log.topic("orders", value_serde=serde.json)
    group.run(handle, orders, workers=2, on_error="dead_letter", retries=1, retry_backoff_ms=1, until_end=True)
    group.run(handle_any, re.compile("ord.*"), "orders", until_end=True, max_poll_records=10, on_error="skip")
    with group.start(
        lambda record: DONE.append(record.value), "orders", ordering="partition", until_end=True
    ) as running:
        assert_type(running, Workers)
        running.wait(timeout=30)


def offsets(group: ConsumerGroup) -> None:
    assert_type(group.committed(), dict[TopicPartition, int])
    assert_type(group.offsets(), dict[TopicPartition, OffsetAndMetadata])
    assert_type(group.members(), list[MemberInfo])
    print(group.lag(), group.state, group.name)
    group.reset("orders", to="earliest")
    group.reset(to=datetime.now(UTC))
    group.reset(to={TopicPartition("orders", 0): 1})


def positions(log: streamlog.StreamLog) -> None:
    first = TopicPartition("orders", 0)
    with log.consumer(group="other") as consumer:
        consumer.assign([first])
        consumer.seek(first, 1)
        consumer.commit({first: 1})
        consumer.commit({first: OffsetAndMetadata(1, "by hand")})
        print(consumer.offsets_for_times({first: datetime.now(UTC)}), consumer.offsets_for_times({first: 0}))
        for record in consumer.until_end(timeout=1.0):
            consumer.commit(record)
        consumer.commit()


def into_a_database(log: streamlog.StreamLog) -> None:
    database = sqlite3.connect(":memory:")
    offsets = streamlog.external_offsets(database, group="totals", table="progress")
    assert_type(offsets, streamlog.ExternalOffsets)
    offsets.create_table()
    orders = log.topic("orders", value_serde=serde.string)
    assert_type(offsets.load([TopicPartition("orders", 0)]), dict[TopicPartition, int])
    with database:
        for batch in orders.read_batches(0):
            offsets.store(batch)
    offsets.load({TopicPartition("orders", 1)})
    with database:
        for record in orders.read(1):
            offsets.store(record)
    database.close()


def main() -> None:
    with streamlog.open(partitions=2) as log:
        log.create_topic("orders").send_many(
            ['{"cents": 950}', '{"cents": 5}'], headers={"source": "web", "none": None}
        )
        log["orders"].send(b"{}", headers=[("a", b"1"), ("a", "2")])
        group = log.group("billing")
        workers(log, group)
        offsets(group)
        positions(log)
        into_a_database(log)


if __name__ == "__main__":
    main()
