"""Without a serde, keys and values are bytes, or None: no check for it is forced, and none is refused."""

from collections.abc import Sequence
from typing import Any, assert_type

import streamlog
from streamlog import Consumer, Delivery, Record, RecordBatch, RecordMetadata, Records, Topic, TopicPartition


def main() -> None:
    with streamlog.open(partitions=2) as log:
        topic = log.create_topic("orders", exist_ok=True)
        assert_type(topic, Topic[bytes | Any, bytes | Any])
        assert_type(topic, Topic)
        assert_type(log["orders"], Topic)
        assert_type(log.topic("orders"), Topic)
        assert_type(log.topics(), list[Topic])

        with log.producer() as producer:
            assert_type(producer.send("orders", "9.50", key="alice"), Delivery[RecordMetadata])
            assert_type(producer.send(topic, b"9.50", "alice", partition=1).result().offset, int)
            assert_type(producer.send_many(topic, ["1", "2"]), Delivery[Sequence[RecordMetadata]])
        topic.send(None, "alice").result(timeout=1.0)

        assert_type(topic.read(), Records[bytes | Any, bytes | Any])
        for record in topic.read(0, start="earliest", end=1):
            assert_type(record, Record[bytes | Any, bytes | Any])
            key: bytes | None = record.key
            print(key, record.value and len(record.value), record.header("source") or b"")
            if record.key is not None and record.value is not None:
                print(record.key.decode().upper(), float(record.value))
        for batch in topic.read_batches():
            assert_type(batch, RecordBatch[bytes | Any, bytes | Any])
            assert_type(batch.keys, Sequence[bytes | Any])

        with log.consumer("orders", group="billing") as consumer:
            assert_type(consumer, Consumer[bytes | Any, bytes | Any])
            assert_type(consumer.poll(0.1), list[Record[bytes | Any, bytes | Any]])
            for record in consumer.until_end():
                assert_type(record.value, bytes | Any)
                consumer.commit(record)
            assert_type(consumer.assignment(), set[TopicPartition])


if __name__ == "__main__":
    main()
