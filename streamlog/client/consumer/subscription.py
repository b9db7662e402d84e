"""What a consumer reads: topics and patterns, or partitions named one by one."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

from ...broker.metadata import Image
from ...errors import ConfigError, UnknownTopicOrPartitionError
from ...types import TopicPartition
from ..arguments import partition_of


class Subscription:
    """Names and patterns, resolved against the topics there are.

    `names` is the same frozenset object until something changes, so callers compare by identity.
    """

    def __init__(self) -> None:
        self.fixed: frozenset[str] = frozenset()
        self.patterns: tuple[re.Pattern[str], ...] = ()
        self.manual: tuple[TopicPartition, ...] | None = None
        self.names: frozenset[str] = frozenset()
        self._version = -1

    @property
    def empty(self) -> bool:
        return not self.fixed and not self.patterns and self.manual is None

    def subscribe(
        self, given: Iterable[Any], name_of: Callable[[Any], str], must_exist: Callable[[str], object]
    ) -> None:
        """Replace the subscription. Raises ConfigError, UnknownTopicOrPartitionError; then nothing changed."""
        names: set[str] = set()
        patterns: list[re.Pattern[str]] = []
        for one in given:
            if isinstance(one, re.Pattern):
                if not isinstance(one.pattern, str):
                    raise ConfigError(f"A pattern of topics is made of str, not bytes: {one!r}.")
                patterns.append(one)
            else:
                name = name_of(one)
                must_exist(name)
                names.add(name)
        if not names and not patterns:
            raise ConfigError("subscribe() takes at least one topic; unsubscribe() ends a subscription.")
        self.fixed, self.patterns, self.manual = frozenset(names), tuple(patterns), None
        self.names = frozenset(names)
        self._version = -1

    def assign(self, partitions: Iterable[TopicPartition], image: Image) -> None:
        chosen = tuple(dict.fromkeys(partition_of(p) for p in partitions))
        for name, number in chosen:
            view = image.topics.get(name)
            if view is None or not 0 <= number < view.partitions:
                raise UnknownTopicOrPartitionError(
                    f"There is no partition {number} of a topic {name!r}; look at log.topics().",
                    topic=name,
                    partition=number,
                )
        self.clear()
        self.manual = chosen

    def clear(self) -> None:
        self.fixed, self.patterns, self.manual = frozenset(), (), None
        self.names = frozenset()
        self._version = -1

    def resolve(self, image: Image) -> bool:
        """Match patterns anew if topics changed; whether there may be something new to read."""
        if image.version == self._version:
            return False
        self._version = image.version
        matched = {
            name for name, view in image.topics.items()
            if not view.internal and any(pattern.fullmatch(name) for pattern in self.patterns)
        }  # fmt: skip
        names = self.fixed | matched
        if names != self.names:
            self.names = names
        return True

    def partitions(self, image: Image) -> list[TopicPartition]:
        """Every partition this reads when nobody shares it. A topic that was deleted has none."""
        if self.manual is not None:
            return list(self.manual)
        views = [image.topics[name] for name in sorted(self.names) if name in image.topics]
        return [TopicPartition(view.name, n) for view in views for n in range(view.partitions)]
