"""Transactional ids of a log that another process owns: what their coordinator's topic says of them now."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from ...coordinator.transaction import TransactionMetadata, decode
from ...runtime.values import refuse_to_copy
from ..api import TransactionDescription
from ..reading import Readable
from ..replay import all_records
from ..transaction_coordinator import description_of


class Host(Protocol):
    """What this needs of the service it is part of."""

    def transactions_partitions(self) -> Iterable[Readable]:
        """The partitions of the transactions' topic, as they are now; none before the first transactional id."""


class TailedTransactionalIds:
    """Thread-safe. Each call reads the topic from its beginning: O(its records), of which compaction leaves few."""

    __reduce_ex__ = refuse_to_copy

    def __init__(self, host: Host) -> None:
        self._host = host

    def all(self) -> list[TransactionDescription]:
        found: dict[str, TransactionMetadata | None] = {}
        for partition in self._host.transactions_partitions():
            found.update(record for key, value in all_records(partition) if (record := decode(key, value)) is not None)
        return [description_of(each) for _, each in sorted(found.items()) if each is not None]

    def describe(self, transactional_id: str) -> TransactionDescription | None:
        return next((each for each in self.all() if each.transactional_id == transactional_id), None)
