"""The bounds that a message names are those that hold."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from streamlog.config import ConsumerConfig, ProducerConfig, TopicConfig, check_partitions, topic_changes
from streamlog.errors import ConfigError

Make = Callable[[str, int], object]


def topic(name: str, value: int) -> object:
    return TopicConfig(**topic_changes({name: value})[0])


def producer(name: str, value: int) -> object:
    return ProducerConfig.of({name: value})


def consumer(name: str, value: int) -> object:
    return ConsumerConfig.of({name: value})


def partitions(_: str, value: int) -> object:
    return check_partitions(value)


def numbers(make: Make, config: Any) -> list[tuple[Make, str]]:
    """The settings that take an int, without those of features that have one value only."""
    fields = config.__dataclass_fields__.values()
    return [(make, field.name) for field in fields if field.type == "int" and field.name != "min_insync_replicas"]


@pytest.mark.parametrize(
    ("make", "name"),
    [
        *numbers(topic, TopicConfig),
        *numbers(producer, ProducerConfig),
        *numbers(consumer, ConsumerConfig),
        (partitions, "partitions"),
    ],
)
def test_the_bounds_in_the_message_are_those_that_hold(make: Make, name: str) -> None:
    for refused in (-(2**64), 2**64):
        with pytest.raises(ConfigError) as raised:
            make(name, refused)
        found = re.search(r"out of range: (-?\d+) to (\d+)", str(raised.value))
        assert found is not None, str(raised.value)
        low, high = int(found[1]), int(found[2])
        make(name, low)
        make(name, high)
        for value in (low - 1, high + 1):
            with pytest.raises(ConfigError, match="out of range"):
                make(name, value)
