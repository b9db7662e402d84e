"""Changes of topics: each request becomes records of the metadata log, and replaying the records changes the image.

Pure: the caller appends the records, then replays them. Each function checks everything before it
returns, so a refused request changes nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from ..config import FOREVER, TopicConfig, check_topic_name
from ..errors import ConfigError, InvalidTopicError, TopicAlreadyExistsError, UnknownTopicOrPartitionError, did_you_mean
from .metadata import Image, LogRecord, TopicView, partition_key, partition_record, topic_key, topic_record, view_of

GROUPS_TOPIC = "__consumer_offsets"
METADATA_TOPIC = "__cluster_metadata"
_RESERVED = (GROUPS_TOPIC, METADATA_TOPIC, "__transaction_state")


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


def create(
    image: Image, name: str, topic_id: UUID, partitions: int, config: TopicConfig, internal: bool
) -> list[LogRecord]:
    check_topic_name(name)
    if name in _RESERVED and not internal:
        raise InvalidTopicError(f"{name!r} is the name of an internal topic; choose another.")
    if name in image.topics:
        raise TopicAlreadyExistsError(
            f"Topic {name!r} exists already. Pass exist_ok=True to use it as it is, or delete it first.", topic=name
        )
    return [topic_record(view_of(name, topic_id, partitions, config, internal))]


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


def alter(image: Image, name: str, changes: Mapping[str, Any]) -> list[LogRecord]:
    view = _users_own(image, name)
    if changes.get("partitioner", view.config.partitioner) != view.config.partitioner:
        raise ConfigError(
            f"The partitioner of {name!r} cannot change: records of one key would be found in two partitions. "
            f"Create another topic and copy the records.",
            name="partitioner",
        )
    return [topic_record(view._replace(config=dataclasses.replace(view.config, **changes)))]


def grow(image: Image, name: str, total: int) -> list[LogRecord]:
    view = _users_own(image, name)
    if total <= view.partitions:
        raise ConfigError(
            f"Topic {name!r} has {view.partitions} partitions; the number can only grow, and total={total} is not greater.",
            name="total",
        )
    return [topic_record(view_of(name, view.id, total, view.config, view.internal))]


def delete(image: Image, name: str) -> list[LogRecord]:
    view = _users_own(image, name)
    recorded = image.partitions.get(view.id_bytes, {})
    return [(topic_key(name), None), *((partition_key(view.id_bytes, number), None) for number in recorded)]


def alter_partition(image: Image, name: str, number: int, leader: int, isr: Sequence[int]) -> list[LogRecord]:
    """Replace a partition's leader and in-sync set. REQUIRES: a leader is in the set, and the set among the replicas."""
    view = find(image, name)
    before = image.partition(view.id_bytes, number)
    after = before._replace(
        isr=tuple(isr),
        leader=leader,
        leader_epoch=before.leader_epoch + (leader != before.leader),
        partition_epoch=before.partition_epoch + 1,
    )
    return [partition_record(view.id_bytes, number, after)]


def _users_own(image: Image, name: str) -> TopicView:
    view = find(image, name)
    if view.internal:
        raise InvalidTopicError(f"{name!r} is internal to the log; it cannot be changed or deleted.")
    return view
