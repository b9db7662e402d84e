"""Changes of topics: each request becomes records of the metadata log, and replaying the records changes the image.

Pure: the caller appends the records, then replays them. Each function checks everything before it
returns, so a refused request changes nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, TypeAlias
from uuid import UUID

from ..config import FOREVER, TopicConfig, check_replication_factor, check_topic_name
from ..errors import (
    ConfigError,
    InvalidTopicError,
    NotEnoughReplicasError,
    NotLeaderError,
    TopicAlreadyExistsError,
    UnknownTopicOrPartitionError,
    did_you_mean,
)
from ..replication import election
from ..replication.replica_set import ALONE, NO_LEADER, PartitionRegistration
from ..types import TopicPartition
from .metadata import (
    BROKER_CONFIG,
    BrokerRegistration,
    Image,
    KafkaConfig,
    LogRecord,
    TopicView,
    broker_ids_record,
    broker_key,
    broker_record,
    config_record,
    partition_key,
    partition_record,
    topic_key,
    topic_record,
    view_of,
)

GROUPS_TOPIC = "__consumer_offsets"
TRANSACTIONS_TOPIC = "__transaction_state"
METADATA_TOPIC = "__cluster_metadata"
COORDINATOR_CONFIG = TopicConfig(cleanup_policy="compact", segment_bytes=4 << 20, max_message_bytes=1 << 24)
"""Of the topics of the groups' and of the transactions' coordinator."""
LogEnds: TypeAlias = Callable[[str, int], Mapping[int, tuple[int, int]]]
"""Of a partition: the replicas whose brokers run, each with the epoch of its last record and its end offset."""
_RESERVED = (GROUPS_TOPIC, METADATA_TOPIC, TRANSACTIONS_TOPIC)
MOST_REPLICAS = 3
"""How many replicas a partition has if nothing else is said and there are so many brokers."""


def find(image: Image, name: str) -> TopicView:
    view = image.topics.get(name)
    if view is None:
        raise unknown_topic(name, image)
    return view


def unknown_topic(name: str, image: Image) -> UnknownTopicOrPartitionError:
    hint = did_you_mean(name, [n for n, v in image.topics.items() if not v.internal])
    return UnknownTopicOrPartitionError(
        f"There is no topic {name!r}{hint}. Create it with log.create_topic({name!r}), or open the log with "
        f"auto_create_topics=True.",
        topic=name,
    )


def no_replica(name: TopicPartition, broker_id: int) -> NotLeaderError:
    """The error of a call at a replica that a reassignment has taken away."""
    return NotLeaderError(
        f"Broker {broker_id} has no replica of {name.topic}-{name.partition} any more: it was reassigned. Others have it; try again."
    )


def unknown_partition(name: TopicPartition) -> UnknownTopicOrPartitionError:
    return UnknownTopicOrPartitionError(
        f"There is no partition {name.partition} of topic {name.topic!r}: it was deleted, or never existed. "
        f"log.topics() lists the topics there are.",
        topic=name.topic,
        partition=name.partition,
    )


def create(
    image: Image,
    name: str,
    topic_id: UUID,
    partitions: int,
    config: TopicConfig,
    internal: bool,
    replicas: Sequence[tuple[int, ...]] = (),
    alive: Container[int] = (),
    explicit: frozenset[str] | None = None,
    kafka_config: Mapping[str, str] = MappingProxyType({}),
) -> list[LogRecord]:
    """`replicas`: those of each partition, the preferred leader first; of a log with one broker, none. `alive`: see `begun`.

    `explicit`, `kafka_config`: see `TopicView`. Without `explicit`, what is unusual is.
    """
    check_topic_name(name)
    if name in _RESERVED and not internal:
        raise InvalidTopicError(f"{name!r} is the name of an internal topic; choose another.")
    if name in image.topics:
        raise TopicAlreadyExistsError(
            f"Topic {name!r} exists already. Pass exist_ok=True to use it as it is, or delete it first.", topic=name
        )
    view = view_of(name, topic_id, partitions, config, internal)
    if explicit is not None:
        view = view._replace(explicit=explicit, kafka_config=kafka_config)
    return [
        topic_record(view),
        *(partition_record(topic_id.bytes, number, begun(brokers, alive)) for number, brokers in enumerate(replicas)),
    ]


def begun(replicas: tuple[int, ...], alive: Container[int]) -> PartitionRegistration:
    """A new partition: all replicas on brokers that run are in sync, for there is nothing to be had."""
    isr = tuple(broker for broker in replicas if broker in alive)
    if not isr:
        raise NotEnoughReplicasError(
            f"None of the brokers {replicas} runs that a new partition would be on, and those that run are about to leave the log. Start "
            f"one of them (Broker.start), or keep one of the others (Reassignment.cancel), and try again."
        )
    return PartitionRegistration(replicas, isr, isr[0], 0, 0)


def require_same(view: TopicView, partitions: int | None, settings: Mapping[str, Any]) -> None:
    """Raise TopicAlreadyExistsError if the topic has another number of partitions, or other settings, than those given."""
    there = {"partitions": view.partitions, **view.config.public()}
    stored = {"partitions": view.partitions, **dataclasses.asdict(view.config)}
    given = dict(settings) if partitions is None else {"partitions": partitions, **settings}
    differ = {
        name: (there[name], None if value == FOREVER else value)
        for name, value in given.items()
        if value != stored[name]
    }
    if differ:
        listed = "; ".join(f"{name} is {has!r}, not {value!r}" for name, (has, value) in differ.items())
        raise TopicAlreadyExistsError(
            f"Topic {view.name!r} exists already with other settings: {listed}. Leave those out to use it as it is, or change "
            f"it with log[{view.name!r}].update_config(…) or add_partitions(…).",
            topic=view.name,
            differences=differ,
        )


def alter(image: Image, name: str, changes: Mapping[str, Any], kafka: KafkaConfig | None = None) -> list[LogRecord]:
    """`kafka`: what a listener gives beside the changes; without it all changes are explicit."""
    view = _users_own(image, name)
    if changes.get("partitioner", view.config.partitioner) != view.config.partitioner:
        raise ConfigError(
            f"The partitioner of {name!r} cannot change: records of one key would be found in two partitions. "
            f"Create another topic and copy the records.",
            name="partitioner",
        )
    config = dataclasses.replace(view.config, **changes)
    if kafka is None:
        if "min_insync_replicas" in changes:
            check_insync(config.min_insync_replicas, len(image.partition(view.id_bytes, 0).replicas))
        return [topic_record(view._replace(config=config, explicit=view.explicit.union(changes)))]
    explicit = view.explicit.difference(changes).union(kafka.explicit)
    return [topic_record(view._replace(config=config, explicit=explicit, kafka_config=kafka.over(view.kafka_config)))]


def alter_kafka_config(image: Image, kind: str, name: str, changes: Mapping[str, str | None]) -> list[LogRecord]:
    """Change what Kafka's clients set for a group, a broker or a subscription to metrics; a text that is None is removed."""
    before = image.kafka_configs.get((kind, name), {})
    after = KafkaConfig(texts=changes).over(before)
    return [] if after == before else [config_record(kind, name, after)]


def grow(
    image: Image, name: str, total: int, replicas: Sequence[tuple[int, ...]] = (), alive: Container[int] = ()
) -> list[LogRecord]:
    """`replicas`: those of each new partition; see `create`."""
    view = _users_own(image, name)
    if total <= view.partitions:
        raise ConfigError(
            f"Topic {name!r} has {view.partitions} partitions; the number can only grow, and total={total} is not greater.",
            name="total",
        )
    new = zip(range(view.partitions, total), replicas, strict=False)
    return [
        topic_record(view._replace(partitions=total)),
        *(partition_record(view.id_bytes, number, begun(brokers, alive)) for number, brokers in new),
    ]


def delete(image: Image, name: str) -> list[LogRecord]:
    view = _users_own(image, name)
    recorded = image.partitions.get(view.id_bytes, {})
    return [(topic_key(name), None), *((partition_key(view.id_bytes, number), None) for number in recorded)]


def alter_partitions(image: Image, changes: Mapping[tuple[str, int], PartitionRegistration]) -> list[LogRecord]:
    """Replace the leaders and in-sync sets of partitions (Kafka's AlterPartition).

    Each has the partition epoch after the one that it was made from. What was overtaken is left out, and so is what is about a
    partition that is gone: the caller looks again.
    """
    records = []
    for (name, number), after in changes.items():
        view = image.topics.get(name)
        if view is not None and image.partition(view.id_bytes, number).partition_epoch + 1 == after.partition_epoch:
            records.append(partition_record(view.id_bytes, number, after))
    return records


def reassign(image: Image, name: str, targets: Mapping[int, tuple[int, ...]]) -> list[LogRecord]:
    """Put partitions on their way to other replicas: see `election.reassign`.

    A `min_insync_replicas` that is the default of the replication factor follows it: down now, up when the new replicas are in
    sync. Raises ConfigError if another one, which the old factor reached, is more than the new one.
    """
    view = find(image, name)
    before = [image.partition(view.id_bytes, number) for number in range(view.partitions)]
    after = [
        election.reassign(each, targets.get(number, election.target_of(each))) for number, each in enumerate(before)
    ]
    old, new = (min(len(election.target_of(each)) for each in partitions) for partitions in (before, after))
    least = view.config.min_insync_replicas
    if least == least_in_sync(old) and (new < old or not any(each.adding_replicas for each in after)):
        least = least_in_sync(new)
    if least <= old:  # else Kafka's client asked for more than there were
        check_insync(least, new)
    return [*_with_least(view, least), *_changed(view, before, after)]


def finish_reassignment(image: Image, name: str) -> list[LogRecord]:
    """Have replicas leave where what a reassignment adds is in sync: see `election.finish`. None for a topic that is gone."""
    view = image.topics.get(name)
    if view is None:
        return []
    before = [image.partition(view.id_bytes, number) for number in range(view.partitions)]
    after = [election.finish(each) for each in before]
    finished = [each for each, then in zip(before, after, strict=True) if then is not each]
    least = view.config.min_insync_replicas
    if finished and not any(each.adding_replicas for each in after):
        old = min(len(each.replicas) - len(each.adding_replicas) for each in finished)
        new = min(len(election.target_of(each)) for each in after)
        if least == least_in_sync(old) and new > old:
            least = least_in_sync(new)
    return [*_with_least(view, least), *_changed(view, before, after)]


def _with_least(view: TopicView, least: int) -> list[LogRecord]:
    if least == view.config.min_insync_replicas:
        return []
    return [topic_record(view._replace(config=dataclasses.replace(view.config, min_insync_replicas=least)))]


def _changed(
    view: TopicView, before: list[PartitionRegistration], after: list[PartitionRegistration]
) -> list[LogRecord]:
    return [
        partition_record(view.id_bytes, number, then)
        for number, (each, then) in enumerate(zip(before, after, strict=True))
        if then is not each
    ]


def least_in_sync(factor: int) -> int:
    """`min_insync_replicas` of a topic that does not say it."""
    return max(1, factor - 1)


def register_brokers(image: Image, brokers: Iterable[BrokerRegistration]) -> list[LogRecord]:
    """Brokers that are here from now on, each with a new epoch (KRaft's RegisterBroker)."""
    records = []
    for broker in brokers:
        known = image.brokers.get(broker.id)
        if known is not None:
            broker = broker._replace(epoch=known.epoch + 1, retiring=known.retiring)
        records.append(broker_record(broker))
    return records


def record_alone(image: Image) -> list[LogRecord]:
    """The partitions of a log that had one broker, and has others now: from now on it is recorded which broker has them."""
    return [
        partition_record(view.id_bytes, number, ALONE)
        for view in image.topics.values()
        for number in range(view.partitions)
        if number not in image.partitions.get(view.id_bytes, {})
    ]


def open_brokers(
    image: Image, here: Sequence[BrokerRegistration], moved: Mapping[int, str] = MappingProxyType({})
) -> list[LogRecord]:
    """The log is opened with these brokers: they register, and those that are not here are fenced.

    `moved`: the paths at which some of these are looked for from now on.
    """
    ids = {broker.id for broker in here}
    absent = [broker for broker in image.brokers.values() if broker.id not in ids]
    gone = [(broker, broker._replace(path=moved.get(broker.id, broker.path))) for broker in absent]
    return [
        *register_brokers(image, here),
        *(_fenced(after) for before, after in gone if not before.fenced or after.path != before.path),
    ]


def _fenced(broker: BrokerRegistration) -> LogRecord:
    return broker_record(broker._replace(fenced=True, epoch=broker.epoch + 1))


def retire_broker(image: Image, broker_id: int, ranks: Mapping[int, int]) -> list[LogRecord]:
    """A broker is to leave the log: its replicas move to others, then it is unregistered. Nothing changes if it is about to leave.

    `ranks`: the brokers that may get replicas, 0 for those that run. Raises ConfigError if the others are too few for a topic,
    or if a partition would be lost with it.
    """
    broker = image.brokers.get(broker_id)
    if broker is None:
        there = ", ".join(map(str, sorted(image.brokers)))
        raise ConfigError(f"There is no broker {broker_id}: this log has {there or '0 alone'}.", name="broker_id")
    if broker.retiring:
        return []
    others = [each for each in ranks if each != broker_id]
    if 0 not in [ranks[each] for each in others]:
        raise ConfigError(
            f"Broker {broker_id} cannot be retired: no other one runs that could take what it has. Start or add one first.",
            name="broker_id",
        )
    for view in image.topics.values():
        for number in range(view.partitions):
            partition = image.partition(view.id_bytes, number)
            factor = len(election.target_of(partition))
            if factor > len(others) and not view.internal:
                raise ConfigError(
                    f"Broker {broker_id} cannot be retired: topic {view.name!r} has {factor} replicas, and {len(others)} "
                    f"broker{'s' * (len(others) > 1)} would be left. Add one first, or give it fewer: log.reassign({view.name!r}, "
                    f"replication_factor={len(others)}).",
                    name="broker_id",
                )
            if ranks.get(broker_id) != 0 and set(partition.isr) == {broker_id}:
                raise ConfigError(
                    f"Broker {broker_id} does not run, and has the only replica of {view.name}-{number} that is in sync: its records would "
                    f"be lost. Start it first, or delete the topic.",
                    name="broker_id",
                )
    return [broker_record(broker._replace(retiring=True, epoch=broker.epoch + 1))]


def keep_broker(image: Image, broker_id: int) -> list[LogRecord]:
    """A broker that was about to leave the log stays."""
    broker = image.brokers.get(broker_id)
    if broker is None or not broker.retiring:
        return []
    return [broker_record(broker._replace(retiring=False, epoch=broker.epoch + 1))]


def unregister_broker(image: Image, broker_id: int) -> list[LogRecord]:
    """A broker is no part of the log any more (KRaft's UnregisterBroker). None for one that has replicas, or stays."""
    broker = image.brokers.get(broker_id)
    if broker is None or not broker.retiring or any(True for _ in replicas_on(image, broker_id)):
        return []
    records = [(broker_key(broker_id), None), broker_ids_record(image.next_broker_id)]
    if (BROKER_CONFIG, str(broker_id)) in image.kafka_configs:
        records.append(config_record(BROKER_CONFIG, str(broker_id), {}))
    return records


def replicas_on(image: Image, broker_id: int) -> Iterator[tuple[TopicPartition, PartitionRegistration]]:
    """The partitions of which a broker has a replica, or gets one. O(all partitions)."""
    for topic_id, numbers in image.partitions.items():
        name = image.names.get(topic_id)
        if name is not None:
            for number, partition in numbers.items():
                if broker_id in partition.replicas:
                    yield TopicPartition(name, number), partition


def fence_broker(image: Image, broker_id: int, alive: Container[int], ends_of: LogEnds) -> list[LogRecord]:
    """A broker does not run any more: it is fenced, leaves in-sync sets that have other members, and others lead for it."""
    return [_fenced(image.brokers[broker_id]), *elections(image, alive, ends_of)]


def replace_directory(image: Image, broker_id: int, directory_id: str) -> list[LogRecord]:
    """A broker that does not run gets a new directory: what it had counts nowhere.

    An in-sync set of which it was the last member is empty then.
    """
    broker = image.brokers[broker_id]
    records = [broker_record(broker._replace(fenced=True, epoch=broker.epoch + 1, directory_id=directory_id))]
    for topic_id, numbers in image.partitions.items():
        for number, before in numbers.items():
            if broker_id in before.isr:
                isr = tuple(each for each in before.isr if each != broker_id)
                after = before._replace(isr=isr, partition_epoch=before.partition_epoch + 1)
                if before.leader == broker_id:
                    after = after._replace(leader=NO_LEADER, leader_epoch=before.leader_epoch + 1)
                records.append(partition_record(topic_id, number, after))
    return records


def elections(image: Image, alive: Container[int], ends_of: LogEnds) -> list[LogRecord]:
    """The partitions whose leader, or in-sync set, changes because only these brokers run.

    A topic with `unclean_leader_election` gets the best leader there is where no member of the in-sync set runs.
    """
    records = []
    for topic_id, numbers in image.partitions.items():
        view = image.topics[image.names[topic_id]]
        for number, before in numbers.items():
            ends: Mapping[int, tuple[int, int]] = {}
            if view.config.unclean_leader_election and not any(each in alive for each in before.isr):
                ends = {each: end for each, end in ends_of(view.name, number).items() if each in before.replicas}
            after = election.elect(before, alive, unclean=ends)
            if after is not before:
                records.append(partition_record(topic_id, number, after))
    return records


def check_insync(least: int, factor: int) -> None:
    """Raise ConfigError if a topic would never take a record with acks="all"."""
    if least > factor:
        raise ConfigError(
            f"min_insync_replicas={least} with {factor} replicas of each partition: no record could be "
            f"sent with acks='all'. Ask for fewer, or for a replication_factor of {least}.",
            name="min_insync_replicas",
        )


def check_factor(wanted: int | None, count: int) -> int:
    """How many replicas a partition has on so many brokers. Raises ConfigError if that is fewer than `wanted`."""
    if wanted is None:
        return min(count, MOST_REPLICAS)
    if check_replication_factor(wanted) > count:
        raise ConfigError(
            f"replication_factor={wanted} needs as many brokers, and this log has {count}. Open a log with more brokers "
            f"(streamlog.open(path, brokers={wanted})), add one to a log of several (log.add_broker), or ask for fewer replicas.",
            name="replication_factor",
        )
    return wanted


def no_leader(image: Image, name: TopicPartition) -> NotLeaderError:
    """The error of a call about a partition that no broker leads."""
    isr = image.partition(find(image, name.topic).id_bytes, name.partition).isr
    return NotLeaderError(
        f"{name.topic}-{name.partition} has no leader: none of its in-sync replicas (brokers {isr}) is running. Start one of "
        f"them; the call can be repeated then."
    )


def _users_own(image: Image, name: str) -> TopicView:
    view = find(image, name)
    if view.internal:
        raise InvalidTopicError(f"{name!r} is internal to the log; it cannot be changed or deleted.")
    return view
