"""kafka-python in the scenarios of the package's docstring: with_kafka_python.py BOOTSTRAP SCENARIO VARIANT."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

from common import COMMITTED, COUNT, FIRST_MS, HOWS, WAIT_S, Member, check_read, key, main, share, value
from kafka import (
    ConsumerRebalanceListener,
    KafkaAdminClient,
    KafkaConsumer,
    KafkaProducer,
    OffsetAndMetadata,
    TopicPartition,
)
from kafka.admin import NewTopic
from kafka.coordinator.assignors.range import RangePartitionAssignor
from kafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor
from kafka.coordinator.assignors.sticky.sticky_assignor import StickyPartitionAssignor

ASSIGNORS = {
    "range": RangePartitionAssignor,
    "roundrobin": RoundRobinPartitionAssignor,
    "sticky": StickyPartitionAssignor,
}


def create(servers: str, topic: str, partitions: int = 1) -> None:
    with KafkaAdminClient(bootstrap_servers=servers) as admin:
        admin.create_topics([NewTopic(name=topic, num_partitions=partitions, replication_factor=1)])


def read(servers: str, topic: str, count: int, isolation: str = "read_committed") -> list[Any]:
    consumer = KafkaConsumer(bootstrap_servers=servers, isolation_level=isolation, auto_offset_reset="earliest")
    consumer.assign([TopicPartition(topic, 0)])
    found: list[Any] = []
    end = time.monotonic() + WAIT_S
    while len(found) < count:
        assert time.monotonic() < end, f"{len(found)} of {count} records came"
        for records in consumer.poll(200).values():
            found += records
    consumer.close()
    assert len(found) == count
    return found


def codecs(servers: str, codec: str) -> None:
    topic = f"codec-{codec}"
    create(servers, topic)
    producer = KafkaProducer(
        bootstrap_servers=servers, compression_type=None if codec == "none" else codec, linger_ms=50
    )
    for n in range(COUNT):
        producer.send(topic, value(n), key(n), [("n", b"%d" % n)], 0, FIRST_MS + n)
    producer.close()
    check_read((m.offset, m.timestamp, m.key, m.value, dict(m.headers)) for m in read(servers, topic, COUNT))


def transactions(servers: str, variant: str) -> None:
    for topic in ("tx", "tx-in", "tx-out"):
        create(servers, topic)
    producer = KafkaProducer(bootstrap_servers=servers, transactional_id="t")
    producer.init_transactions()
    for how in HOWS:
        producer.begin_transaction()
        for n in range(10):
            producer.send("tx", f"{how} {n}".encode())
        producer.flush()
        (producer.abort_transaction if how == "aborted" else producer.commit_transaction)()
    producer.close()
    assert [m.value for m in read(servers, "tx", 20)] == COMMITTED
    assert read(servers, "tx", 30, "read_uncommitted")[10].value == b"aborted 0"

    plain = KafkaProducer(bootstrap_servers=servers)
    for n in range(10):
        plain.send("tx-in", b"%d" % n)
    plain.close()
    pipe = KafkaProducer(bootstrap_servers=servers, transactional_id="pipe")
    pipe.init_transactions()
    consumer = KafkaConsumer(
        "tx-in", bootstrap_servers=servers, group_id="tx-group", enable_auto_commit=False, auto_offset_reset="earliest"
    )
    done = 0
    while done < 10:
        for partition, records in consumer.poll(200).items():
            pipe.begin_transaction()
            for record in records:
                pipe.send("tx-out", b"out " + record.value)
            done += len(records)
            pipe.send_offsets_to_transaction({partition: OffsetAndMetadata(done, "", -1)}, consumer.group_metadata())
            pipe.commit_transaction()
    consumer.close()
    pipe.close()
    assert read(servers, "tx-out", 10)[9].value == b"out 9"


class KafkaPythonMember(Member, ConsumerRebalanceListener):
    def __init__(self, servers: str, topic: str, group: str, variant: str, values: list[int]) -> None:
        super().__init__()
        self._values = values
        self._consumer = KafkaConsumer(
            bootstrap_servers=servers, group_id=group, enable_auto_commit=False, auto_offset_reset="earliest",
            heartbeat_interval_ms=200, partition_assignment_strategy=[ASSIGNORS[variant]],
        )  # fmt: skip
        self._consumer.subscribe([topic], listener=self)

    def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        self.assigned |= {each.partition for each in assigned}

    def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        self.assigned -= {each.partition for each in revoked}

    def step(self) -> None:
        for partition, records in self._consumer.poll(100).items():
            self._values += [int(each.value) for each in records]
            self._consumer.commit({partition: OffsetAndMetadata(records[-1].offset + 1, "", -1)})

    def close(self) -> None:
        self._consumer.close()


def group(servers: str, variant: str) -> None:
    topic, name = f"shared-{variant}", f"group-{variant}"
    create(servers, topic, 4)
    producer = KafkaProducer(bootstrap_servers=servers)

    def send(numbers: range) -> None:
        for n in numbers:
            producer.send(topic, b"%d" % n, partition=n % 4)
        producer.flush()

    def committed() -> int:
        consumer = KafkaConsumer(bootstrap_servers=servers, group_id=name)
        found = [consumer.committed(TopicPartition(topic, n)) for n in range(4)]
        consumer.close()
        return sum(each for each in found if each is not None)

    share(lambda values: KafkaPythonMember(servers, topic, name, variant, values), send, committed)
    producer.close()


main({"codecs": codecs, "transactions": transactions, "group": group})
