"""The retention policies of topics that are objects: a topic's record can store the name of one, and not the object."""

from __future__ import annotations

import logging
from uuid import UUID

from ..storage.retention import named
from ..types import Policy
from .metadata import TopicView

logger = logging.getLogger("streamlog.broker")


class RetentionPolicies:
    """A policy object for each topic that names one. REQUIRES: the metadata lock, for `find` and changes of `given`.

    `given` has the policies by topic: those that were passed to a call, and those of the library, found by name. One may be
    of a former topic, or of a change that was refused, so `of` compares the name. `default` is the policy that `open` got.
    """

    def __init__(self, default: Policy | None) -> None:
        self.given: dict[str, Policy] = {}
        self._default = default
        self._warned: set[UUID] = set()

    def of(self, view: TopicView) -> Policy | None:
        """The policy of this topic, if it is known."""
        policy = self.given.get(view.name)
        return policy if policy is not None and policy.name == view.config.retention else None

    def find(self, view: TopicView) -> None:
        """Make the topic's policy known to `of`, if it is the default or one of the library's; otherwise log a warning."""
        wanted = view.config.retention
        if wanted is None or self.of(view) is not None:
            return
        default = self._default
        found = default if default is not None and default.name == wanted else named(wanted)
        if found is not None:
            self.given[view.name] = found
        elif view.id not in self._warned:
            self._warned.add(view.id)
            logger.warning(
                "topic %r was created with the retention policy %r, an object that cannot be stored: nothing is deleted "
                "from it until the policy is given again (create_topic(..., exist_ok=True, retention=policy))",
                view.name,
                wanted,
            )
