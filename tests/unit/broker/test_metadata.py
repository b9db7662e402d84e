"""Brokers, partitions and leaders in the image: recorded, replayed in any order that compaction leaves, and applied."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any
from uuid import UUID

import msgpack
import pytest

import streamlog
from streamlog.broker import controller, metadata
from streamlog.broker.metadata import (
    ALONE,
    EMPTY,
    NO_LEADER,
    BrokerRegistration,
    Image,
    LogRecord,
    PartitionRegistration,
    broker_record,
    partition_key,
    partition_record,
    topic_key,
    topic_record,
    view_of,
)
from streamlog.config import TopicConfig
from streamlog.errors import FormatError, NotLeaderError, StreamlogError
from streamlog.testing import ManualClock, SimulatedDisk
from streamlog.types import TopicPartition

ID = UUID(int=7)
TOPIC = topic_record(view_of("t", ID, 2, TopicConfig(), False))
SHARED = PartitionRegistration((0, 1, 2), (0, 2), 2, leader_epoch=4, partition_epoch=9)


def image_of(*records: LogRecord) -> Image:
    return metadata.replay(EMPTY, records)


def test_what_is_known_of_a_topics_partitions_is_copied_once_however_many_records_there_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    copied = 0

    def counting(given: Mapping[Any, Any]) -> dict[Any, Any]:
        nonlocal copied
        copied += len(given)
        return dict(given)

    before = image_of(TOPIC, *(partition_record(ID.bytes, number, SHARED) for number in range(200)))
    later = SHARED._replace(leader_epoch=5, partition_epoch=10)
    records = [partition_record(ID.bytes, number, later) for number in range(200)]
    monkeypatch.setattr(metadata, "dict", counting, raising=False)
    after = metadata.replay(before, records)
    assert copied < 210, "once for all, and the topics and brokers"
    assert set(after.partitions[ID.bytes].values()) == {later}
    assert set(before.partitions[ID.bytes].values()) == {SHARED}, "an image does not change"


def test_a_broker_has_its_directory_and_its_copy_counts_while_it_is_not_fenced() -> None:
    first = BrokerRegistration(1, bytes(16), epoch=3, directory_id="7f" * 16, path="broker-1")
    away = BrokerRegistration(2, bytes(16), epoch=0, fenced=True, path="/disk/b")
    image = image_of(broker_record(first), broker_record(away), broker_record(BrokerRegistration(3, bytes(16), 1)))
    assert image.brokers[1] == first
    assert image.brokers[2] == away
    assert image.copies == {1, 3}


# The image


def test_a_partition_without_a_record_is_led_by_the_only_broker() -> None:
    image = image_of(TOPIC)
    assert image.partition(ID.bytes, 1) == ALONE
    assert image.partitions == {}


@pytest.mark.parametrize("topic_first", [True, False], ids=["topic first", "topic last, as compaction may leave it"])
def test_a_partition_has_the_replicas_and_the_leader_of_its_record(topic_first: bool) -> None:
    record = partition_record(ID.bytes, 1, SHARED)
    image = image_of(*([TOPIC, record] if topic_first else [record, TOPIC]))
    assert image.partition(ID.bytes, 1) == SHARED
    assert image.partition(ID.bytes, 0) == ALONE


def test_a_reassignment_is_in_the_record_while_it_is_under_way() -> None:
    moving = SHARED._replace(adding_replicas=(1,), removing_replicas=(2,))
    assert image_of(TOPIC, partition_record(ID.bytes, 1, moving)).partition(ID.bytes, 1) == moving
    _, value = partition_record(ID.bytes, 1, SHARED)
    assert value is not None
    assert set(msgpack.unpackb(value)) == {"v", "replicas", "isr", "leader", "leader_epoch", "partition_epoch"}


def test_a_deleted_topic_takes_the_records_of_its_partitions_along() -> None:
    image = image_of(TOPIC, partition_record(ID.bytes, 1, SHARED), (topic_key("t"), None))
    assert image.partitions == {}
    other = topic_record(view_of("t", UUID(int=8), 1, TopicConfig(), False))
    image = image_of(TOPIC, partition_record(ID.bytes, 1, SHARED), other)
    assert image.partitions == {}, "the tombstone was compacted away"
    assert image.names == {UUID(int=8).bytes: "t"}


def test_the_tombstone_of_a_partition_makes_it_one_without_a_record() -> None:
    image = image_of(TOPIC, partition_record(ID.bytes, 1, SHARED), (partition_key(ID.bytes, 1), None))
    assert image.partition(ID.bytes, 1) == ALONE
    assert image.partitions == {}


def test_what_clients_set_for_a_group_is_replaced_by_its_last_record_and_goes_with_its_last_setting() -> None:
    def after(image: Image, changes: Mapping[str, str | None], name: str = "g") -> Image:
        return metadata.replay(image, controller.alter_kafka_config(image, metadata.GROUP_CONFIG, name, changes))

    image = after(after(after(EMPTY, {"a": "1", "b": "2"}), {"a": None, "c": "3"}), {"a": "4"}, "h")
    assert image.kafka_configs == {("group", "g"): {"b": "2", "c": "3"}, ("group", "h"): {"a": "4"}}
    assert controller.alter_kafka_config(image, metadata.GROUP_CONFIG, "h", {"a": "4", "b": None}) == []
    assert after(image, {"b": None, "c": None}).kafka_configs == {("group", "h"): {"a": "4"}}
    newer = msgpack.packb(["config", "group", "g"]), msgpack.packb({"v": 1, "texts": {}})
    with pytest.raises(FormatError, match="newer"):
        image_of(newer)


def test_a_broker_is_what_it_registered_last() -> None:
    first = BrokerRegistration(1, bytes(16), epoch=3, rack="a")
    again = BrokerRegistration(1, bytes(range(16)), epoch=4, fenced=True)
    image = image_of(broker_record(first), broker_record(again), broker_record(BrokerRegistration(2, bytes(16), 1)))
    assert image.brokers == {1: again, 2: BrokerRegistration(2, bytes(16), 1)}
    gone = metadata.replay(image, [(broker_record(again)[0], None)])
    assert list(gone.brokers) == [2]
    assert image.brokers[1] == again, "an image does not change"


def changed(record: LogRecord, **fields: Any) -> LogRecord:
    key, value = record
    assert value is not None
    return key, msgpack.packb({**msgpack.unpackb(value), **fields})


@pytest.mark.parametrize(
    "record",
    [
        changed(partition_record(ID.bytes, 0, SHARED), v=1),
        changed(partition_record(ID.bytes, 0, SHARED), observers=[3]),
        changed(broker_record(BrokerRegistration(1, bytes(16), 1)), v=1),
    ],
)
def test_a_record_of_a_newer_form_is_refused(record: LogRecord) -> None:
    with pytest.raises(FormatError, match="newer"):
        image_of(TOPIC, record)


@pytest.mark.parametrize(
    "record",
    [
        partition_record(ID.bytes, 0, SHARED._replace(isr=(0, 3))),
        partition_record(ID.bytes, 0, SHARED._replace(leader=1)),
        partition_record(ID.bytes, 0, SHARED._replace(adding_replicas=(3,))),
        partition_record(ID.bytes, 0, SHARED._replace(adding_replicas=(1,), removing_replicas=(1,))),
        partition_record(ID.bytes, 0, SHARED._replace(replicas=(0, 2, 2))),
        partition_record(ID.bytes, 0, SHARED._replace(leader_epoch=3, partition_epoch=10)),
        partition_record(ID.bytes, 0, SHARED._replace(partition_epoch=8)),
        broker_record(BrokerRegistration(1, bytes(16), epoch=3)),
        changed(partition_record(ID.bytes, 0, SHARED), isr=None),
        (msgpack.packb(["partition", ID.bytes]), partition_record(ID.bytes, 0, SHARED)[1]),
    ],
)
def test_a_record_that_contradicts_itself_or_goes_back_is_refused(record: LogRecord) -> None:
    image = image_of(TOPIC, partition_record(ID.bytes, 0, SHARED), broker_record(BrokerRegistration(1, bytes(16), 3)))
    with pytest.raises(FormatError, match="makes no sense"):
        metadata.replay(image, [record])


@pytest.mark.parametrize(
    "config",
    [{"retention": 5}, {"retention": b"max_age(1)"}, {"min_insync_replicas": "x"}, {"unclean_leader_election": 1.5}],
    ids=str,
)
def test_a_topic_of_which_a_setting_makes_no_sense_is_refused(config: dict[str, Any]) -> None:
    assert TOPIC[1] is not None
    with pytest.raises(StreamlogError):
        image_of(changed(TOPIC, config={**msgpack.unpackb(TOPIC[1])["config"], **config}))


# What follows it


class Broker:
    """A log of one broker, whose metadata a test changes as a controller would."""

    def __init__(self) -> None:
        self.disk = SimulatedDisk()
        self.log = self.open()
        self.log.create_topic("t", partitions=2)

    def open(self) -> streamlog.StreamLog:
        return streamlog.open("/log", disk=self.disk, clock=ManualClock())

    @property
    def service(self) -> Any:
        return self.log._engine.service

    @property
    def image(self) -> Image:
        image: Image = self.service.image
        return image

    def elect(self, leader: int, number: int = 0) -> None:
        if self.image.partition(self.log["t"].id.bytes, number) == ALONE:
            self.write(
                [partition_record(self.log["t"].id.bytes, number, PartitionRegistration((0, 1), (0, 1), 0, 0, 0))]
            )
        before = self.image.partition(self.log["t"].id.bytes, number)
        after = before._replace(
            leader=leader,
            leader_epoch=before.leader_epoch + (leader != before.leader),
            partition_epoch=before.partition_epoch + 1,
        )
        self.service._topics.alter_partitions({("t", number): after})

    def write(self, records: list[LogRecord]) -> None:
        self.service._topics._change(lambda image: records)

    def reopen(self) -> None:
        self.log.close()
        self.log = self.open()

    def send(self, value: str, number: int = 0) -> int:
        with self.log.producer(acks=1) as producer:  # no follower is there
            return producer.send("t", value, partition=number).result().offset


@pytest.fixture
def broker() -> Iterator[Broker]:
    made = Broker()
    yield made
    made.log.close()


@pytest.mark.parametrize("reopened", [False, True])
def test_a_partition_that_another_broker_leads_takes_no_records_and_is_read(broker: Broker, reopened: bool) -> None:
    assert broker.send("before") == 0
    broker.elect(1)
    if reopened:
        broker.reopen()
    with pytest.raises(NotLeaderError, match="broker 1 is its leader in epoch 1"):
        broker.send("refused")
    assert broker.send("another partition", 1) == 0
    assert [record.value for record in broker.log["t"].read()] == [b"before", b"another partition"]
    broker.elect(0)
    assert broker.send("after") == 1
    assert broker.service._partitions["t", 0].leader_epoch == 2


def test_a_partition_without_a_leader_takes_no_records(broker: Broker) -> None:
    broker.elect(NO_LEADER)
    with pytest.raises(NotLeaderError, match="it has no leader in epoch 1"):
        broker.send("refused")


def test_a_log_that_leads_nothing_is_closed_clean(broker: Broker) -> None:
    broker.elect(1)
    broker.reopen()
    assert broker.service.brokers.all[0].directory.crash.clean
    assert not broker.service._partitions["t", 0].is_leader


def test_a_new_in_sync_set_leaves_the_leader_epoch_alone(broker: Broker) -> None:
    broker.elect(1)
    broker.elect(1)
    registration = broker.image.partition(broker.log["t"].id.bytes, 0)
    assert (registration.leader, registration.leader_epoch, registration.partition_epoch) == (1, 1, 2)


def test_deleting_a_topic_leaves_no_record_of_its_partitions(broker: Broker) -> None:
    broker.elect(1)
    broker.elect(1, number=1)
    broker.log.delete_topic("t")
    assert broker.image.partitions == {}
    broker.reopen()
    assert broker.image.partitions == {}
    assert broker.image.topics == {}


def test_a_log_of_one_broker_records_no_leader(broker: Broker) -> None:
    broker.send("x")
    broker.reopen()
    assert broker.image.partitions == broker.image.brokers == {}


def test_the_error_for_a_partition_that_is_not_there_names_it_and_says_what_to_do() -> None:
    error = controller.unknown_partition(TopicPartition("t", 3))
    assert (error.topic, error.partition) == ("t", 3)  # type: ignore[attr-defined]
    assert "log.topics()" in str(error)
