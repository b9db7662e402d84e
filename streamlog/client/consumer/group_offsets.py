"""What a transaction of a producer commits for a consumer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from ...types import OffsetAndMetadata, TopicPartition


class GroupOffsets(NamedTuple):
    """Offsets of a group, and the member that commits them: see `Service.txn_commit_offsets`."""

    group: str
    member_id: str | None
    member_epoch: int
    offsets: Mapping[TopicPartition, OffsetAndMetadata]
    topic_ids: Mapping[TopicPartition, bytes]
