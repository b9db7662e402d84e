"""The producers of a partition: DescribeProducers (61, version 0), KIP-664.

The leader's log says which producers it remembers, idempotent ones for a day, with the last sequence of their epoch, and where an open
transaction begins. `last_timestamp` is when the last batch was appended. The epoch of a transaction's coordinator is not kept: it is -1.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from ..config import check_topic_name
from ..errors import StreamlogError
from ..runtime.threads import result_of
from . import messages
from .api_keys import ApiKey
from .apis import Call, led_partition, topic_of
from .errors import code_of


def describe_producers(call: Call) -> Any:
    return call.blocking(partial(_describe_producers, call))


def _describe_producers(call: Call) -> Any:
    Response = messages.DescribeProducersResponse
    wanted: dict[str, dict[int, None]] = {}  # a partition that is named again is answered once
    for topic in call.request.topics:
        wanted.setdefault(topic.name, {}).update(dict.fromkeys(topic.partition_indexes))
    topics = []
    for name, numbers in wanted.items():
        partitions = []
        for number in numbers:
            partition = Response.PartitionResponse(partition_index=number, active_producers=[])
            partitions.append(partition)
            try:
                partition.active_producers = _producers(call, name, number)
            except StreamlogError as error:
                partition.error_code, partition.error_message = code_of(error), str(error)
        topics.append(Response.TopicResponse(name=name, partitions=partitions))
    return Response(topics=topics)


def _producers(call: Call, name: str, number: int) -> list[Any]:
    Producer = messages.DescribeProducersResponse.ProducerState
    image = call.service.image
    view = topic_of(image, check_topic_name(name), None)
    at = led_partition(call, image, view, number)
    return [
        Producer(
            producer_id=each.producer_id,
            producer_epoch=each.producer_epoch,
            last_sequence=each.last_sequence,
            last_timestamp=each.last_ms,
            coordinator_epoch=-1,
            current_txn_start_offset=each.first_offset,
        )
        for each in result_of(call.service.describe_producers(at))
    ]


handlers: dict[int, Callable[[Call], Any]] = {ApiKey.DESCRIBE_PRODUCERS: describe_producers}
