"""What is known of where a lost partition ended, so that no offset is given twice: `open(force=True)` and `repair`.

The file `published` says how far the owner came with each partition, and groups committed offsets of it. Both may say
less than there was; a later offset does no harm.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ..coordinator import schema
from ..records.batch import seed_of
from ..runtime.api import Disk
from ..runtime.disk_errors import require_disk_error
from ..storage.published import NAME, Slot, kept_slots
from ..types import TopicPartition
from .controller import GROUPS_TOPIC
from .log_directory import LogDirectory
from .metadata import Image, LogRecord, TopicView
from .replay import all_records


def known_ends(disk: Disk, directory: str) -> dict[int, int]:
    """The end offset of each partition by its seed, read from the file `published` of a log's directory; empty if there is no such file."""
    return {seed: max(slot.end_offset, slot.log_start_offset) for seed, slot in _published(disk, directory).items()}


def known_high_watermarks(disk: Disk, directory: str) -> dict[int, int]:
    """The high watermark of each partition by its seed, likewise."""
    return {seed: slot.high_watermark for seed, slot in _published(disk, directory).items()}


def _published(disk: Disk, directory: str) -> dict[int, Slot]:
    try:
        data = disk.read(f"{directory}/{NAME}")
    except OSError as error:
        require_disk_error(error)
        return {}
    return kept_slots(data)


def greatest_commits(records: Iterable[LogRecord]) -> dict[TopicPartition, int]:
    """The greatest offset of each partition in the records of the groups' topic, also of groups that were deleted since."""
    greatest: dict[TopicPartition, int] = {}
    for key, value in records:
        record = schema.decode(key, value)
        if isinstance(record, schema.OffsetRecord) and record.state is not None:
            partition = record.partition
            greatest[partition] = max(greatest.get(partition, 0), record.state.offset)
    return greatest


def accept_losses(broker: LogDirectory, image: Image, published: Mapping[int, int]) -> None:
    """Have an empty partition in place of each one that is lost, at the greatest offset that is known of it.

    `published` are the `known_ends`. Raises CorruptRecordError if what the groups committed cannot be read.
    """
    groups = image.topics.get(GROUPS_TOPIC)
    views = sorted(image.topics.values(), key=lambda view: view is not groups)  # theirs first, for it is read then
    committed: Mapping[TopicPartition, int] | None = None
    for view in views:
        for number in range(view.partitions):
            if not broker.is_lost(view, number):
                continue
            if committed is None and groups is not None and view is not groups:
                committed = _committed(broker, groups)
            known = (committed or {}).get(TopicPartition(view.name, number), 0)
            broker.begin_again(view, number, max(known, published.get(seed_of(view.id_bytes, number), 0)))


def _committed(broker: LogDirectory, groups: TopicView) -> Mapping[TopicPartition, int]:
    partition = broker.open_partition(groups, 0)
    try:
        return greatest_commits(all_records(partition, partition.log.tail.end_offset))
    finally:
        partition.log.release()
