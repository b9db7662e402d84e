"""What a consumer is to read: topics and patterns, or partitions named one by one."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

from ...broker.metadata import Image
from ...errors import ConfigError, InvalidTopicError, UnknownTopicOrPartitionError
from ...types import TopicPartition
from ..arguments import partitions_of


class Subscription:
    """Topic names and patterns, matched against the topics that exist; or, in `manual`, the partitions of `assign()`.

    `names` is the same frozenset object until it changes, so callers compare it by identity.
    """

    def __init__(self) -> None:
        self.fixed: frozenset[str] = frozenset()
        self.patterns: tuple[re.Pattern[str], ...] = ()
        self.manual: tuple[TopicPartition, ...] | None = None
        self.names: frozenset[str] = frozenset()
        self.empty = True
        self._version = -1

    def subscribe(
        self, given: Iterable[Any], name_of: Callable[[Any], str], must_exist: Callable[[str], object]
    ) -> None:
        """Replace the subscription.

        Raises ConfigError, InvalidTopicError, UnknownTopicOrPartitionError; then nothing changed.
        """
        names: set[str] = set()
        patterns: list[re.Pattern[str]] = []
        for one in given:
            if isinstance(one, re.Pattern):
                if not isinstance(one.pattern, str):
                    raise ConfigError(
                        f"A pattern matches topic names, so it is compiled from a str, not from bytes: {one!r}."
                    )
                patterns.append(one)
            else:
                name = name_of(one)
                try:
                    must_exist(name)
                except InvalidTopicError as error:
                    raise InvalidTopicError(f"{error} For a pattern, give re.compile({name[:260]!r}).") from None
                names.add(name)
        if not names and not patterns:
            raise ConfigError("subscribe() takes at least one topic; unsubscribe() ends a subscription.")
        self.fixed, self.patterns, self.manual = frozenset(names), tuple(patterns), None
        self.names = frozenset(names)
        self.empty = False
        self._version = -1

    def assign(self, partitions: Iterable[TopicPartition], image: Image) -> None:
        chosen = tuple(dict.fromkeys(partitions_of(partitions)))
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
        self.empty = False

    def clear(self) -> None:
        self.fixed, self.patterns, self.manual = frozenset(), (), None
        self.names = frozenset()
        self.empty = True
        self._version = -1

    def resolve(self, image: Image) -> bool:
        """Match the patterns again if topics changed; whether they did."""
        if image.version == self._version:
            return False
        self._version = image.version
        names = self.matching(image)
        if names != self.names:
            self.names = names
        return True

    def matching(self, image: Image) -> frozenset[str]:
        """The names subscribed to, and those that the patterns match now."""
        matched = {
            name for name, view in image.topics.items()
            if not view.internal and any(pattern.fullmatch(name) for pattern in self.patterns)
        }  # fmt: skip
        return self.fixed | matched

    def partitions(self, image: Image) -> list[TopicPartition]:
        """All partitions of the subscription, as a consumer without a group reads them. A deleted topic has none."""
        if self.manual is not None:
            return list(self.manual)
        views = [image.topics[name] for name in sorted(self.names) if name in image.topics]
        return [TopicPartition(view.name, n) for view in views for n in range(view.partitions)]
