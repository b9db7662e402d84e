"""What a subscription names, as topics come and go."""

import re
from types import SimpleNamespace
from typing import Any

import pytest

from streamlog.client.consumer.subscription import Subscription
from streamlog.errors import ConfigError, UnknownTopicOrPartitionError
from streamlog.types import TopicPartition


def image(version: int, **partitions: int) -> Any:
    topics = {
        name: SimpleNamespace(name=name, partitions=count, internal=name.startswith("__"))
        for name, count in partitions.items()
    }
    return SimpleNamespace(version=version, topics=topics)


def subscribed(*given: Any) -> Subscription:
    subscription = Subscription()
    subscription.subscribe(given, str, lambda name: None)
    return subscription


def test_a_pattern_matches_whole_names_and_no_internal_topic() -> None:
    subscription = subscribed("b", re.compile("a.?|__.*"))
    assert subscription.resolve(image(1, a=1, aa=2, aaa=1, b=1, __offsets=1))
    assert subscription.names == {"a", "aa", "b"}
    assert subscription.partitions(image(1, aa=2, b=1)) == [
        TopicPartition("aa", 0),
        TopicPartition("aa", 1),
        TopicPartition("b", 0),
    ]


def test_the_names_are_the_same_object_until_they_change() -> None:
    subscription = subscribed(re.compile("a.*"))
    assert subscription.resolve(image(1, a=1))
    names = subscription.names
    assert not subscription.resolve(image(1, a=1))
    assert subscription.resolve(image(2, a=2)) and subscription.names is names
    assert subscription.resolve(image(3, a=2, ab=1)) and subscription.names == {"a", "ab"}


def test_what_is_refused_changes_nothing() -> None:
    subscription = subscribed("a")
    for given in ([], [re.compile(b"a")]):
        with pytest.raises(ConfigError):
            subscription.subscribe(given, str, lambda name: None)
    with pytest.raises(UnknownTopicOrPartitionError):
        subscription.assign([TopicPartition("a", 1)], image(1, a=1))
    assert subscription.names == {"a"} and subscription.manual is None


def test_assigned_partitions_are_kept_in_order_and_once() -> None:
    subscription = subscribed("a")
    subscription.assign([TopicPartition("b", 1), ("b", 0), TopicPartition("b", 1)], image(1, b=2))  # type: ignore[list-item]
    assert subscription.partitions(image(1, b=2)) == [TopicPartition("b", 1), TopicPartition("b", 0)]
    assert not subscription.empty and subscription.names == frozenset()


def test_only_a_new_or_a_cleared_subscription_is_empty() -> None:
    assert Subscription().empty
    subscription = subscribed("a")
    assert not subscription.empty
    subscription.assign([], image(1))
    assert not subscription.empty, "reading no partition is a choice too"
    subscription.clear()
    assert subscription.empty and subscription.manual is None
