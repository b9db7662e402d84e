"""What the handles on one log share in this process, and the work that its background thread does for them."""

from __future__ import annotations

from collections.abc import Callable

from ..broker.registry import Registry
from ..runtime.threads import get_ident
from .cleanup import Cleanup
from .consumer.membership import LocalMembers


class Background:
    """The `ClientWork` of an engine; see `broker/opening.py`."""

    def __init__(self) -> None:
        self.cleanup = Cleanup()
        self.local_members = LocalMembers(self.cleanup)

    def wake_with(self, nudge: Callable[[], None]) -> None:
        self.cleanup.nudge = nudge

    def clean_up(self) -> None:
        self.local_members.clean_up()

    def run_due(self, now_ms: int) -> int | None:
        self.cleanup.background_thread = get_ident()
        self.cleanup.run_deferred_closes()
        return self.local_members.run_due(now_ms)


registry: Registry[Background] = Registry(Background)
"""The logs that this process has open."""
