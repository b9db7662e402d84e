"""The brokers' directories: AlterReplicaLogDirs (34, versions 1 and 2), DescribeLogDirs (35, versions 1 to 5).

Each broker answers for its own directory, of which it has one, so no replica moves to another one on it, or is in a "future" one. The lag of a replica is what it
lacks of the partition's high watermark. `total_bytes` and `usable_bytes` are those of the file system, where the log is in files. Without
topics in the request (null) all replicas are described; what is asked for and is not there is left out, as in Kafka.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from ..broker.descriptions import ReplicaDescription
from ..errors import StreamlogError
from ..runtime.threads import result_of
from . import messages
from .api_keys import ApiKey
from .apis import Call
from .errors import ErrorCode, code_of


def describe_log_dirs(call: Call) -> Any:
    return call.blocking(partial(_describe_log_dirs, call))


def _describe_log_dirs(call: Call) -> Any:
    Response = messages.DescribeLogDirsResponse
    wanted = call.request.topics
    try:
        found = result_of(call.service.describe_log_dir(call.broker_id))
    except StreamlogError as error:
        return Response(error_code=code_of(error), results=[])
    asked = None if wanted is None else {each.topic: set(each.partitions) for each in wanted}
    by_topic: dict[str, list[ReplicaDescription]] = {}
    for replica in found.replicas:
        topic, number = replica.partition
        if asked is None or number in asked.get(topic, ()):
            by_topic.setdefault(topic, []).append(replica)
    result = Response.DescribeLogDirsResult(
        log_dir=found.path,
        total_bytes=found.total_bytes,
        usable_bytes=found.usable_bytes,
        topics=[
            Response.DescribeLogDirsTopic(name=name, partitions=[_described(each) for each in replicas])
            for name, replicas in by_topic.items()
        ],
    )
    return Response(results=[result])


def _described(replica: ReplicaDescription) -> Any:
    return messages.DescribeLogDirsResponse.DescribeLogDirsPartition(
        partition_index=replica.partition.partition,
        partition_size=replica.size_bytes,
        offset_lag=replica.offset_lag,
    )


def alter_replica_log_dirs(call: Call) -> Any:
    Response = messages.AlterReplicaLogDirsResponse
    own = call.service.broker_paths().get(call.broker_id, "")
    results: dict[str, Any] = {}
    for directory in call.request.dirs:
        for topic in directory.topics:
            result = results.setdefault(
                topic.name, Response.AlterReplicaLogDirTopicResult(topic_name=topic.name, partitions=[])
            )
            for number in topic.partitions:
                code = ErrorCode.NONE if directory.path == own else ErrorCode.LOG_DIR_NOT_FOUND
                image = call.service.image
                view = image.topics.get(topic.name)
                if view is None or not 0 <= number < view.partitions:
                    code = ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
                elif call.broker_id not in image.partition(view.id_bytes, number).replicas:
                    code = ErrorCode.REPLICA_NOT_AVAILABLE
                result.partitions.append(
                    Response.AlterReplicaLogDirPartitionResult(partition_index=number, error_code=code)
                )
    return Response(results=list(results.values()))


handlers: dict[int, Callable[[Call], Any]] = {
    ApiKey.ALTER_REPLICA_LOG_DIRS: alter_replica_log_dirs,
    ApiKey.DESCRIBE_LOG_DIRS: describe_log_dirs,
}
