"""Who writes to a partition: DescribeProducers (61, version 0), KIP-664.

The leader's log says which producers it remembers, idempotent ones for a day, with the last sequence of their epoch, and where an open
transaction begins. `last_timestamp` is when the last batch was appended. The epoch of a transaction's coordinator is not kept: it is -1.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from ..config import check_topic_name
from ..errors import NotLeaderError, StreamlogError, UnknownTopicOrPartitionError
from ..runtime.threads import result_of
from ..types import TopicPartition
from . import messages
from .apis import Call, leads, topic_of
from .errors import code_of


def describe_producers(call: Call) -> Any:
    return call.blocking(partial(_describe_producers, call))


def _describe_producers(call: Call) -> Any:
    Response = messages.DescribeProducersResponse
    topics = []
    for topic in call.request.topics:
        partitions = []
        for number in topic.partition_indexes:
            partition = Response.PartitionResponse(partition_index=number, active_producers=[])
            partitions.append(partition)
            try:
                partition.active_producers = _producers(call, topic.name, number)
            except StreamlogError as error:
                partition.error_code, partition.error_message = code_of(error), str(error)
        topics.append(Response.TopicResponse(name=topic.name, partitions=partitions))
    return Response(topics=topics)


def _producers(call: Call, name: str, number: int) -> list[Any]:
    Producer = messages.DescribeProducersResponse.ProducerState
    image = call.service.image
    view = topic_of(image, check_topic_name(name), None)
    if not 0 <= number < view.partitions:
        raise UnknownTopicOrPartitionError(f"{name!r} has no partition {number}.")
    if not leads(call, image, view, number):
        raise NotLeaderError(f"Broker {call.broker_id} does not lead {name}-{number}.")
    return [
        Producer(
            producer_id=each.producer_id,
            producer_epoch=each.producer_epoch,
            last_sequence=each.last_sequence,
            last_timestamp=each.last_ms,
            coordinator_epoch=-1,
            current_txn_start_offset=each.first_offset,
        )
        for each in result_of(call.service.describe_producers(TopicPartition(name, number)))
    ]


handlers: dict[int, Callable[[Call], Any]] = {61: describe_producers}
