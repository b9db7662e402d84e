"""The half of the Service protocol that writes, for a log that may only be read: each call says why not, and what to do."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from ...coordinator import Heartbeat, HeartbeatResult
from ...errors import ReadOnlyError
from ...runtime.api import Completion
from ...storage.tail import AppendRequest
from ...types import OffsetAndMetadata, TopicPartition
from ..metadata import TopicView


class RefusingService:
    """See `api.Service`. Every method raises ReadOnlyError and changes nothing."""

    _path: str
    durable = False

    def require_writable(self, what: str) -> NoReturn:
        raise ReadOnlyError(
            f"{what} writes to the log, and {self._path} was opened with read_only=True. Do it in the process that owns "
            f"the log, or open it here without read_only while no other process has it.",
            path=self._path,
        )

    def create_topic(
        self,
        name: str,
        partitions: int | None = None,
        settings: Mapping[str, Any] | None = None,
        *,
        exist_ok: bool = False,
    ) -> TopicView:
        self.require_writable(f"Creating topic {name!r}")

    def update_topic(self, name: str, settings: Mapping[str, Any]) -> None:
        self.require_writable(f"Changing the settings of {name!r}")

    def add_partitions(self, name: str, total: int) -> None:
        self.require_writable(f"Adding partitions to {name!r}")

    def delete_topic(self, name: str) -> None:
        self.require_writable(f"Deleting topic {name!r}")

    def produce(self, topic: TopicView, partition: int, write: AppendRequest) -> Completion[int]:
        self.require_writable(f"Sending to {topic.name!r}")

    def produce_one(
        self, topic: TopicView, partition: int, key: bytes | None, value: bytes, timestamp: int, now_ms: int
    ) -> int:
        self.require_writable(f"Sending to {topic.name!r}")

    def acknowledge(self, topic: TopicView, partition: int, offset: int) -> Completion[int]:
        self.require_writable(f"Sending to {topic.name!r}")

    def settle(self, topic: TopicView, partition: int, write: AppendRequest) -> None:
        """Nothing was ever appended."""

    def delete_records(self, partition: TopicPartition, before: int) -> int:
        self.require_writable(f"Deleting records of {partition[0]!r}")

    def apply_retention(self, name: str) -> None:
        self.require_writable(f"Applying the retention of {name!r}")

    def compact(self, name: str) -> None:
        self.require_writable(f"Compacting {name!r}")

    def sync(self) -> list[Completion[int]]:
        self.require_writable("Syncing")

    # -- groups --------------------------------------------------------------------------------------

    def heartbeat(self, request: Heartbeat) -> Completion[HeartbeatResult]:
        self.require_writable(f"Joining group {request.group!r}")

    def renew(self, group: str, member_id: str, seen_version: int) -> bool:
        return False

    def leave_group(self, group: str, member_id: str) -> Completion[None]:
        self.require_writable(f"Leaving group {group!r}")

    def watch_group(self, group: str, callback: Callable[[], object]) -> None:
        """Nobody here is a member, so there is nothing to be told."""

    def unwatch_group(self, group: str, callback: Callable[[], object]) -> None: ...

    def commit(
        self,
        group: str,
        member_id: str | None,
        member_epoch: int,
        offsets: Mapping[TopicPartition, OffsetAndMetadata],
        topic_ids: Mapping[TopicPartition, bytes] | None = None,
    ) -> Completion[None]:
        self.require_writable(f"Committing in group {group!r}")

    def delete_group(self, group: str) -> Completion[None]:
        self.require_writable(f"Deleting group {group!r}")
