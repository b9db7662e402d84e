"""What a program overrides to be told which partitions come and go."""

from __future__ import annotations

from collections.abc import Sequence

from ..types import TopicPartition


class RebalanceListener:
    """Told, inside `poll` and in the polling thread, which partitions come and go. Override what you need."""

    def on_partitions_assigned(self, partitions: Sequence[TopicPartition]) -> None:
        """These are ours from now on; their positions are set."""

    def on_partitions_revoked(self, partitions: Sequence[TopicPartition]) -> None:
        """These will be another member's; commit now what should be committed."""

    def on_partitions_lost(self, partitions: Sequence[TopicPartition]) -> None:
        """These are another member's already: a commit would be refused."""
