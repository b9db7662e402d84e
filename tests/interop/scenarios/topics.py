"""Topics: their names, how they are created, changed, deleted, and described."""

from __future__ import annotations

from typing import Any

from ..wire import (
    ask,
    batch,
    create,
    error_name,
    fetch,
    metadata_of,
    offset_of,
    produce,
    record,
    topic_id,
    try_create,
    try_produce,
    until,
)
from . import scenario, short_scenario


@short_scenario
def topic_names(bootstrap: str) -> Any:
    """Which names a topic may have."""
    names = {
        "empty": "", "dot": ".", "two dots": "..", "space": "topic names", "slash": "a/b", "comma": "a,b", "not ASCII": "tópico",
        "249": "n" * 249, "250": "n" * 250, "dots": "topic_names.a.b", "that collides": "topic.names_a.b", "dashes": "-topic_names-",
        "newline": "a\n",
    }  # fmt: skip
    return {each: try_create(bootstrap, name, validate_only=False) for each, name in names.items()}


@short_scenario
def names_in_metadata(bootstrap: str) -> Any:
    """What Metadata says of names that no topic can have, and of those that none has."""
    names = ["", ".", "a b", "n" * 250, "names_in_metadata"]
    found = {}
    for version in (4, 9, 12):
        wanted = [{"name": each} for each in names]
        topics = ask(bootstrap, "Metadata", version, topics=wanted, allow_auto_topic_creation=False).topics
        found[version] = {each.name: each for each in topics}
    return found


@short_scenario
def creating_topics(bootstrap: str) -> Any:
    """The result of CreateTopics, with the configuration of the topic."""
    config = [{"name": "retention.ms", "value": "1000"}, {"name": "cleanup.policy", "value": "compact"}]
    topic = {"name": "creating_topics", "num_partitions": 3, "replication_factor": 1, "configs": config}
    first = ask(bootstrap, "CreateTopics", 7, timeout_ms=30_000, topics=[topic]).topics[0]
    again = ask(bootstrap, "CreateTopics", 7, timeout_ms=30_000, topics=[topic]).topics[0]
    old = ask(bootstrap, "CreateTopics", 2, timeout_ms=30_000, topics=[{**topic, "name": "creating_topics.2"}])
    first.configs = []  # `described_topic` compares those
    return {"first": first, "again": again, "version 2": old}


@scenario
def configs_of_a_created_topic(bootstrap: str) -> Any:
    """What CreateTopics says of the configuration of the new topic."""
    config = [{"name": "retention.ms", "value": "1000"}, {"name": "cleanup.policy", "value": "compact"}]
    topic = {"name": "configs_of_a_created_topic", "num_partitions": 1, "replication_factor": 1, "configs": config}
    made = ask(bootstrap, "CreateTopics", 7, timeout_ms=30_000, topics=[topic]).topics[0]
    return {"code": made.topic_config_error_code, "configs": {each.name: each for each in made.configs}}


@short_scenario
def creations_that_are_refused(bootstrap: str) -> Any:
    """Numbers of partitions and replicas, requests that contradict themselves, and what is only validated."""
    name = "creations_that_are_refused"
    create(bootstrap, name)

    def assigned(assignments: Any, partitions: int = -1, factor: int = -1) -> str:
        topic = {
            "name": f"{name}.2", "num_partitions": partitions, "replication_factor": factor, "assignments": assignments,
        }  # fmt: skip
        request = {"topics": [topic], "timeout_ms": 30_000, "validate_only": True}
        return error_name(ask(bootstrap, "CreateTopics", 7, **request).topics[0].error_code)

    twice = {"name": f"{name}.3", "num_partitions": 1, "replication_factor": 1}
    return {
        "exists": try_create(bootstrap, name),
        "exists, validated": try_create(bootstrap, name, validate_only=True),
        "0 partitions": try_create(bootstrap, f"{name}.2", 0),
        "-2 partitions": try_create(bootstrap, f"{name}.2", -2),
        "0 replicas": try_create(bootstrap, f"{name}.2", 1, 0),
        "2 replicas": try_create(bootstrap, f"{name}.2", 1, 2),
        "-2 replicas": try_create(bootstrap, f"{name}.2", 1, -2),
        "defaults": try_create(bootstrap, f"{name}.2", -1, -1, validate_only=True),
        "not created": metadata_of(bootstrap, f"{name}.2").error_code,
        "twice": ask(bootstrap, "CreateTopics", 7, timeout_ms=30_000, topics=[twice, twice]).topics,
        "assigned": assigned([{"partition_index": 0, "broker_ids": [0]}]),
        "assigned to an unknown broker": assigned([{"partition_index": 0, "broker_ids": [9]}]),
        "assigned twice to a broker": assigned([{"partition_index": 0, "broker_ids": [0, 0]}]),
        "assigned with a gap": assigned([{"partition_index": 1, "broker_ids": [0]}]),
        "assigned and counted": assigned([{"partition_index": 0, "broker_ids": [0]}], 1, 1),
    }


@short_scenario
def invalid_topic_configs(bootstrap: str) -> Any:
    """Values of configurations that CreateTopics takes, and those that it refuses."""
    values = {
        "retention__ms": ["x", "-1", "-2", "", "9223372036854775807", "9223372036854775808", " 5 "],
        "retention__bytes": ["-1", "-2", "1"],
        "segment__bytes": ["1048575", "1048576", "13", "2147483648"],
        "segment__ms": ["0", "1"],
        "cleanup__policy": ["", "compact", "delete,compact", "compact, delete", "keep", "compact,compact"],
        "compression__type": ["producer", "gzip", "snappy", "lz4", "zstd", "uncompressed", "none", "brotli"],
        "compression__gzip__level": ["1", "10"],
        "min__insync__replicas": ["0", "1", "3"],
        "message__timestamp__type": ["LogAppendTime", "CreateTime", "createtime", "x"],
        "message__timestamp__after__max__ms": ["-1", "0", "1"],
        "message__timestamp__before__max__ms": ["-1", "0"],
        "max__message__bytes": ["-1", "0", "1"],
        "min__cleanable__dirty__ratio": ["0", "1", "1.1", "-0.1"],
        "unclean__leader__election__enable": ["true", "TRUE", "yes"],
        "delete__retention__ms": ["-1", "0"],
        "min__compaction__lag__ms": ["-1", "0"],
        "max__compaction__lag__ms": ["0", "1"],
        "flush__messages": ["0", "1"],
        "index__interval__bytes": ["-1", "0"],
        "segment__index__bytes": ["3", "4"],
        "segment__jitter__ms": ["-1", "0"],
        "file__delete__delay__ms": ["-1", "0"],
        "preallocate": ["maybe", "false"],
        "remote__storage__enable": ["true", "false"],
        "local__retention__ms": ["-3", "-2"],
        "leader__replication__throttled__replicas": ["*", "0:1", "x"],
        "no__such__config": ["1"],
    }  # fmt: skip
    name = "invalid_topic_configs"
    return {
        config: {value: try_create(bootstrap, name, validate_only=True, **{config: value}) for value in each}
        for config, each in values.items()
    } | {
        "null": try_create(bootstrap, name, validate_only=True, retention__ms=None),
        "a lag above the other": try_create(
            bootstrap, name, validate_only=True, min__compaction__lag__ms="10", max__compaction__lag__ms="5"
        ),
    }


@short_scenario
def deleting_topics(bootstrap: str) -> Any:
    """DeleteTopics by name and by id, of topics that are not there, and twice in one request."""
    name = "deleting_topics"
    for number in range(4):
        create(bootstrap, f"{name}.{number}")
    known = topic_id(bootstrap, f"{name}.1")

    def delete(version: int, **given: Any) -> Any:
        return ask(bootstrap, "DeleteTopics", version, timeout_ms=30_000, **given).responses

    first = {
        "by name": delete(6, topics=[{"name": f"{name}.0"}]),
        "by id": delete(6, topics=[{"name": None, "topic_id": known}]),
        "older": delete(3, topic_names=[f"{name}.2"]),
        "twice": delete(6, topics=[{"name": f"{name}.3"}, {"name": f"{name}.3"}]),
    }
    until(lambda: metadata_of(bootstrap, f"{name}.0").error_code)
    return {
        **first,
        "again": delete(6, topics=[{"name": f"{name}.0"}]),
        "again by id": error_name(delete(6, topics=[{"name": None, "topic_id": known}])[0].error_code),
        "a name that none can have": delete(6, topics=[{"name": "a b"}]),
        "after it": {
            "produce": error_name(try_produce(bootstrap, f"{name}.0", batch(record())).error_code),
            "fetch": error_name(fetch(bootstrap, f"{name}.0", 0).error_code),
            "list": error_name(offset_of(bootstrap, f"{name}.0", -1).error_code),
        },
    }


@scenario
def a_topic_made_again(bootstrap: str) -> Any:
    """A topic of a deleted one's name is another: it is empty, and has another id."""
    name = "a_topic_made_again"
    create(bootstrap, name)
    before = topic_id(bootstrap, name)
    produce(bootstrap, name, batch(record()), batch(record()))
    ask(bootstrap, "DeleteTopics", 6, timeout_ms=30_000, topics=[{"name": name}])
    until(lambda: metadata_of(bootstrap, name).error_code)
    create(bootstrap, name, 2)
    by_old_id = ask(bootstrap, "Metadata", 12, topics=[{"name": None, "topic_id": before}]).topics[0]
    wanted = [{"topic_id": before, "partitions": [{"partition": 0, "fetch_offset": 0, "partition_max_bytes": 1000}]}]
    fetched = ask(bootstrap, "Fetch", 13, max_wait_ms=0, max_bytes=1000, session_epoch=-1, topics=wanted)
    return {
        "is another": topic_id(bootstrap, name) != before,
        "partitions": len(metadata_of(bootstrap, name).partitions),
        "latest": offset_of(bootstrap, name, -1),
        "metadata by the old id": error_name(by_old_id.error_code),
        "fetch by the old id": fetched.responses,
    }


@short_scenario
def adding_partitions(bootstrap: str) -> Any:
    """CreatePartitions: more, fewer, as many, only validated, assigned."""
    name = "adding_partitions"
    create(bootstrap, name, 2)

    def more(count: int, topic: str = name, **given: Any) -> Any:
        only = given.pop("validate_only", False)
        wanted = [{"name": topic, "count": count, "assignments": None, **given}]
        (result,) = ask(bootstrap, "CreatePartitions", 3, topics=wanted, timeout_ms=30_000, validate_only=only).results
        return error_name(result.error_code)

    return {
        "as many": more(2),
        "fewer": more(1),
        "none": more(0),
        "negative": more(-1),
        "only validated": more(4, validate_only=True),
        "still": len(metadata_of(bootstrap, name).partitions),
        "more": more(3),
        "now": until(lambda: len(metadata_of(bootstrap, name).partitions) == 3),
        "a topic that is not there": more(3, f"{name}.2"),
        "assigned": more(4, assignments=[{"broker_ids": [0]}]),
        "too few assigned": more(6, assignments=[{"broker_ids": [0]}]),
        "assigned to an unknown broker": more(5, assignments=[{"broker_ids": [7]}]),
    }


@short_scenario
def metadata_of_topics(bootstrap: str) -> Any:
    """Metadata by name, by id, of each version that has something new."""
    name = "metadata_of_topics"
    create(bootstrap, name, 2)
    known = topic_id(bootstrap, name)
    by_name = {
        version: ask(bootstrap, "Metadata", version, topics=[{"name": name}])
        for version in (0, 1, 5, 7, 8, 9, 10, 12, 13)
    }
    return {
        **by_name,
        "by id": ask(bootstrap, "Metadata", 12, topics=[{"name": None, "topic_id": known}]).topics,
        "by an unknown id": ask(bootstrap, "Metadata", 12, topics=[{"name": None, "topic_id": b"x" * 16}]).topics,
        "none": ask(bootstrap, "Metadata", 12, topics=[]).topics,
        "twice": ask(bootstrap, "Metadata", 12, topics=[{"name": name}, {"name": name}]).topics,
    }


@short_scenario
def topics_made_by_asking(bootstrap: str) -> Any:
    """A topic that Metadata asks for is created, where the request lets it."""
    name = "topics_made_by_asking"

    def asked(topic: str, version: int = 12, *, creates: bool = True) -> Any:
        wanted = [{"name": topic}]
        given = {"allow_auto_topic_creation": creates} if version >= 4 else {}
        return ask(bootstrap, "Metadata", version, topics=wanted, **given).topics[0]

    without = error_name(asked(f"{name}.1", creates=False).error_code)
    first = asked(name)
    made = until(lambda: asked(name) if not asked(name).error_code else None)
    old = asked(f"{name}.0", 1)
    return {
        "without": without,
        "is created": error_name(first.error_code) in ("NONE", "UNKNOWN_TOPIC_OR_PARTITION", "LEADER_NOT_AVAILABLE"),
        "then": made,
        "of version 1": error_name(old.error_code) in ("NONE", "UNKNOWN_TOPIC_OR_PARTITION", "LEADER_NOT_AVAILABLE"),
        "a name that none can have": error_name(asked("a b").error_code),
        "produce does not create": error_name(try_produce(bootstrap, f"{name}.2", batch(record())).error_code),
        "and it was not": error_name(asked(f"{name}.2", creates=False).error_code),
    }


@short_scenario
def described_partitions(bootstrap: str) -> Any:
    """DescribeTopicPartitions: in pages, and of topics that are not there."""
    name = "described_partitions"
    create(bootstrap, f"{name}.a", 3)
    create(bootstrap, f"{name}.b", 2)
    names = [{"name": f"{name}.b"}, {"name": f"{name}.a"}, {"name": f"{name}.c"}]

    def described(**given: Any) -> Any:
        return ask(
            bootstrap, "DescribeTopicPartitions", 0, **{"topics": names, "response_partition_limit": 100, **given}
        )

    return {
        "all": described(),
        "a page": described(response_partition_limit=2),
        "the next": described(response_partition_limit=2, cursor={"topic_name": f"{name}.a", "partition_index": 2}),
        "from a later topic": described(cursor={"topic_name": f"{name}.b", "partition_index": 0}),
        "a name that none can have": described(topics=[{"name": "a b"}]),
        "no limit": described(response_partition_limit=0),
    }


@short_scenario
def deleting_records(bootstrap: str) -> Any:
    """DeleteRecords: bounds, the high watermark, compacted topics, and what readers see afterwards."""
    name = "deleting_records"
    create(bootstrap, name)
    create(bootstrap, f"{name}.compacted", cleanup__policy="compact")
    create(bootstrap, f"{name}.both", cleanup__policy="compact,delete")
    for each in (name, f"{name}.compacted", f"{name}.both"):
        produce(bootstrap, each, *[batch(record(key=b"k"), record(key=b"l")) for _ in range(5)])

    def delete(offset: int, topic: str = name, partition: int = 0) -> Any:
        wanted = [{"name": topic, "partitions": [{"partition_index": partition, "offset": offset}]}]
        return ask(bootstrap, "DeleteRecords", 2, topics=wanted, timeout_ms=10_000).topics[0].partitions[0]

    return {
        "past the end": delete(11),
        "negative": delete(-2),
        "in a batch": delete(3),
        "earliest": offset_of(bootstrap, name, -2),
        "below it": fetch(bootstrap, name, 2),
        "backwards": delete(1),
        "still": offset_of(bootstrap, name, -2),
        "all": delete(-1),
        "then": [offset_of(bootstrap, name, -2), offset_of(bootstrap, name, -1)],
        "compacted": delete(3, f"{name}.compacted"),
        "compacted and deleted": delete(3, f"{name}.both"),
        "a topic that is not there": delete(0, f"{name}.2"),
        "a partition that is not there": delete(0, partition=1),
    }


@short_scenario
def electing_leaders(bootstrap: str) -> Any:
    """ElectLeaders where the leader is what it should be: ELECTION_NOT_NEEDED."""
    name = "electing_leaders"
    create(bootstrap, name)

    def elect(kind: int, topic: str, *partitions: int) -> Any:
        wanted = [{"topic": topic, "partitions": list(partitions)}]
        return ask(bootstrap, "ElectLeaders", 2, election_type=kind, topic_partitions=wanted, timeout_ms=10_000)

    return {
        "preferred": elect(0, name, 0),
        "unclean": elect(1, name, 0),
        "a partition that is not there": elect(0, name, 1),
        "a topic that is not there": elect(0, f"{name}.2", 0),
        "all": [
            each.partition_result
            for each in ask(
                bootstrap, "ElectLeaders", 2, election_type=0, topic_partitions=None, timeout_ms=10_000
            ).replica_election_results
            if each.partition_result
        ],
    }


@short_scenario
def described_cluster(bootstrap: str) -> Any:
    """DescribeCluster: its brokers and its controller."""
    return {
        "brokers": ask(bootstrap, "DescribeCluster", 1, endpoint_type=1),
        "fenced too": ask(bootstrap, "DescribeCluster", 2, endpoint_type=1, include_fenced_brokers=True),
        "older": ask(bootstrap, "DescribeCluster", 0),
        "authorized": ask(bootstrap, "DescribeCluster", 1, endpoint_type=1, include_cluster_authorized_operations=True),
        "controllers": error_name(ask(bootstrap, "DescribeCluster", 1, endpoint_type=2).error_code),
        "no type": error_name(ask(bootstrap, "DescribeCluster", 1, endpoint_type=3).error_code),
    }


@scenario
def authorized_operations(bootstrap: str) -> Any:
    """What a client is told that it may do, where it asks."""
    name = "authorized_operations"
    create(bootstrap, name)
    return ask(
        bootstrap, "Metadata", 9, topics=[{"name": name}], allow_auto_topic_creation=False,
        include_topic_authorized_operations=True, include_cluster_authorized_operations=True,
    )  # fmt: skip
