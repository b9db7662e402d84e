"""confluent-kafka in the scenarios of the package's docstring: with_confluent.py BOOTSTRAP SCENARIO VARIANT."""

from __future__ import annotations

import time
from typing import Any

from common import COMMITTED, COUNT, FIRST_MS, HOWS, WAIT_S, Member, check_read, key, main, share, value
from confluent_kafka import Consumer, ConsumerGroupTopicPartitions, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic


def create(servers: str, topic: str, partitions: int = 1) -> None:
    admin = AdminClient({"bootstrap.servers": servers})  # what was asked ends with it
    (done,) = admin.create_topics([NewTopic(topic, partitions, 1)]).values()
    done.result(WAIT_S)


def consumer_of(servers: str, **settings: Any) -> Any:
    config = {"bootstrap.servers": servers, "group.id": "none", "auto.offset.reset": "earliest"}
    return Consumer(config | {"enable.auto.commit": False} | settings)


def read(servers: str, topic: str, count: int, isolation: str = "read_committed") -> list[Any]:
    consumer = consumer_of(servers, **{"isolation.level": isolation})
    consumer.assign([TopicPartition(topic, 0, 0)])
    found: list[Any] = []
    while len(found) < count:
        messages = consumer.consume(count - len(found), WAIT_S)
        assert messages, f"{len(found)} of {count} records came"
        for message in messages:
            assert message.error() is None, message.error()
            found.append(message)
    consumer.close()
    return found


def codecs(servers: str, codec: str) -> None:
    topic = f"codec-{codec}"
    create(servers, topic)
    producer = Producer({"bootstrap.servers": servers, "compression.type": codec, "linger.ms": 50})
    for n in range(COUNT):
        producer.produce(topic, value(n), key(n), 0, timestamp=FIRST_MS + n, headers={"n": str(n)})
    assert producer.flush(WAIT_S) == 0
    found = read(servers, topic, COUNT)
    check_read((m.offset(), m.timestamp()[1], m.key(), m.value(), dict(m.headers())) for m in found)


def transactions(servers: str, variant: str) -> None:
    for topic in ("tx", "tx-in", "tx-out"):
        create(servers, topic)
    producer = Producer({"bootstrap.servers": servers, "transactional.id": "t"})
    producer.init_transactions(WAIT_S)
    for how in HOWS:
        producer.begin_transaction()
        for n in range(10):
            producer.produce("tx", f"{how} {n}")
        producer.flush(WAIT_S)  # an abort drops what has not been sent
        (producer.abort_transaction if how == "aborted" else producer.commit_transaction)(WAIT_S)
    assert [m.value() for m in read(servers, "tx", 20)] == COMMITTED
    assert read(servers, "tx", 30, "read_uncommitted")[10].value() == b"aborted 0"

    plain = Producer({"bootstrap.servers": servers})
    for n in range(10):
        plain.produce("tx-in", str(n))
    assert plain.flush(WAIT_S) == 0
    pipe = Producer({"bootstrap.servers": servers, "transactional.id": "pipe"})
    pipe.init_transactions(WAIT_S)
    consumer = consumer_of(servers, **{"group.id": "tx-group"})
    consumer.subscribe(["tx-in"])
    done = 0
    while done < 10:
        messages = consumer.consume(10, 0.1)
        if not messages:
            continue
        pipe.begin_transaction()
        for message in messages:
            pipe.produce("tx-out", b"out " + message.value())
        done += len(messages)
        pipe.send_offsets_to_transaction([TopicPartition("tx-in", 0, done)], consumer.consumer_group_metadata(), WAIT_S)
        pipe.commit_transaction(WAIT_S)
    consumer.close()
    assert read(servers, "tx-out", 10)[9].value() == b"out 9"

    old, young = (Producer({"bootstrap.servers": servers, "transactional.id": "fenced"}) for _ in range(2))
    old.init_transactions(WAIT_S)
    old.begin_transaction()
    old.produce("tx", b"of a fenced producer")
    old.flush(WAIT_S)
    young.init_transactions(WAIT_S)
    try:
        old.commit_transaction(WAIT_S)
    except KafkaException as error:
        assert error.args[0].code() in (KafkaError._FENCED, KafkaError.PRODUCER_FENCED), error
    else:
        raise AssertionError("the older producer was not fenced")


COMMITS = 500
JOINS_AGAIN = (KafkaError.STALE_MEMBER_EPOCH, KafkaError.ILLEGAL_GENERATION, KafkaError.REBALANCE_IN_PROGRESS)


class ConfluentMember(Member):
    def __init__(self, servers: str, topic: str, group: str, variant: str, values: list[int]) -> None:
        super().__init__()
        self._values = values
        config = (
            {"group.protocol": "consumer"}
            if variant == "consumer"
            else {"partition.assignment.strategy": variant, "heartbeat.interval.ms": 200}
        )
        self._consumer = consumer_of(servers, **{"group.id": group}, **config)
        self._consumer.subscribe([topic], on_assign=self._on_assign, on_revoke=self._on_revoke)

    def _on_assign(self, consumer: Any, partitions: list[Any]) -> None:
        self.assigned |= {each.partition for each in partitions}

    def _on_revoke(self, consumer: Any, partitions: list[Any]) -> None:
        self.assigned -= {each.partition for each in partitions}

    def step(self) -> None:
        message = self._consumer.poll(0.05)
        if message is not None:
            assert message.error() is None, message.error()
            self._values.append(int(message.value()))
            self._commit(message)

    def _commit(self, message: Any) -> None:
        """librdkafka joins again on a thread of its own, so a commit may have the generation of before: it is sent again then."""
        for _ in range(COMMITS):
            try:
                self._consumer.commit(message, asynchronous=False)
                return
            except KafkaException as error:
                if error.args[0].code() not in JOINS_AGAIN:
                    raise
            time.sleep(0.02)
        raise AssertionError(f"a commit was refused {COMMITS} times")

    def close(self) -> None:
        self._consumer.close()


def group(servers: str, variant: str) -> None:
    topic, name = f"shared-{variant}", f"group-{variant}"
    create(servers, topic, 4)
    producer = Producer({"bootstrap.servers": servers})

    def send(numbers: range) -> None:
        for n in numbers:
            producer.produce(topic, str(n), partition=n % 4)
        assert producer.flush(WAIT_S) == 0

    def committed() -> int:
        asked = [ConsumerGroupTopicPartitions(name, [TopicPartition(topic, n) for n in range(4)])]
        admin = AdminClient({"bootstrap.servers": servers})
        (done,) = admin.list_consumer_group_offsets(asked).values()
        return sum(each.offset for each in done.result(WAIT_S).topic_partitions)

    share(lambda values: ConfluentMember(servers, topic, name, variant, values), send, committed)


main({"codecs": codecs, "transactions": transactions, "group": group})
