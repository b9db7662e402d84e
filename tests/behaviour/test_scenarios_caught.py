"""Each scenario of `test_scenarios` with its bug put back in: the test fails, so that its passing means something.

A bug is what the system that had the scenario did, or what somebody might come to write here, done to this library
while the scenario runs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import pytest
from xxhash import xxh3_64_intdigest

from streamlog import StreamlogError
from streamlog.broker import log_directory, owner, service
from streamlog.client.producer import topic_cache
from streamlog.replication import partition
from streamlog.storage import (
    checkpoint,
    compaction,
    durability,
    files,
    index,
    log,
    log_transactions,
    producer_summary,
    replacement,
    retention,
    segment,
    transaction_events,
    transactions,
)  # fmt: skip
from streamlog.storage.index import Index, Stats
from streamlog.storage.recovery import power_loss
from streamlog.testing import SimulatedDisk
from streamlog.testing.handles import SimulatedFile

from . import test_scenarios as scenarios

Patch = pytest.MonkeyPatch


def is_of_topic(path: str) -> bool:
    """Not one of the log's own: with a bug there the topic itself would be gone, and the scenario not be met."""
    return "/topics/" in path


def a_directory_is_not_synced(patch: Patch) -> None:
    real = SimulatedDisk.sync_dir

    def sync_dir(disk: SimulatedDisk, path: str) -> None:
        if not is_of_topic(path):
            real(disk, path)

    patch.setattr(SimulatedDisk, "sync_dir", sync_dir)


def a_roll_does_not_sync_its_directory(patch: Patch) -> None:
    patch.setattr(durability.Durability, "sync_names", lambda self, tail: None)


def records_are_acknowledged_before_they_are_synced(patch: Patch) -> None:
    real = durability.Durability.sync

    def sync(self: Any, segment: Any) -> None:
        if not is_of_topic(segment.path):
            real(self, segment)

    patch.setattr(durability.Durability, "sync", sync)


def a_rewritten_file_is_renamed_unsynced(patch: Patch) -> None:
    def write_atomic(disk: SimulatedDisk, path: str, data: bytes) -> None:
        file = disk.open(path + ".tmp", create=True)
        file.truncate(0)
        file.pwrite([data], 0)
        file.close()
        disk.rename(path + ".tmp", path)
        disk.sync_dir(path[: path.rindex("/")])

    patch.setattr(SimulatedDisk, "write_atomic", write_atomic)


def the_state_is_never_synced(patch: Patch) -> None:
    real = checkpoint.StateFile.write

    def write(self: Any, state: Any, *, sync: bool) -> None:
        is_first = not self._sequence  # with that one unsynced there would be no partition
        real(self, state, sync=sync and (is_first or not is_of_topic(self._path)))

    patch.setattr(checkpoint.StateFile, "write", write)


def the_state_begins_again_with_every_write(patch: Patch) -> None:
    """One slot, emptied first: between the two there is no state."""

    def write(self: Any, state: Any, *, sync: bool) -> None:
        sequence = self._sequence + 2 - self._sequence % 2
        body = checkpoint._SLOT.pack(checkpoint.MAGIC, 1, sequence, self._topic_id, self._partition, *state)
        file = self._disk.open(self._path)
        file.truncate(0)
        file.pwrite([body + checkpoint._CHECK.pack(xxh3_64_intdigest(body))], 0)
        if sync:
            file.sync()
        file.close()
        self._sequence, self.state = sequence, state

    patch.setattr(checkpoint.StateFile, "write", write)


def the_old_segments_go_unsynced(patch: Patch) -> None:
    def finish(disk: SimulatedDisk, directory: str, low: int, high: int, names: Sequence[str]) -> None:
        for name in names:
            base = files.base_offset_of(name, "log")
            if base is not None and low <= base < high:
                disk.unlink(f"{directory}/{name}")
        disk.rename(f"{directory}/{files.swap_name(low, high)}", f"{directory}/{files.log_name(low)}")
        disk.sync_dir(directory)

    patch.setattr(replacement, "finish_swap", finish)


def a_compacted_file_is_not_synced(patch: Patch) -> None:
    real = SimulatedFile.sync

    def sync(self: SimulatedFile) -> None:
        if not self.path.endswith(".cleaned"):
            real(self)

    patch.setattr(SimulatedFile, "sync", sync)


def the_torn_end_stays_in_the_file(patch: Patch) -> None:
    patch.setattr(power_loss, "truncate", lambda disk, directory, end: None)


def the_log_goes_on_behind_the_zeros(patch: Patch) -> None:
    real = segment.Segment.make_active

    def make_active(self: Any, found: Any) -> None:
        real(self, found)
        self.size = self.file.size()

    patch.setattr(segment.Segment, "make_active", make_active)
    patch.setattr(power_loss, "truncate", lambda disk, directory, end: None)


def a_file_that_only_shrank_is_not_synced(patch: Patch) -> None:
    real = SimulatedFile.sync

    def sync(self: SimulatedFile) -> None:
        if any(op.kind != "truncate" for op in self._node.pending):
            real(self)

    patch.setattr(SimulatedFile, "sync", sync)


def the_checksum_of_an_index_is_not_looked_at(patch: Patch) -> None:
    def stats_from(data: bytes, seed: int) -> Stats | None:
        if len(data) < index.HEADER_LEN:
            return None
        return Stats(*index._HEADER.unpack_from(data)[2:9])

    patch.setattr(index, "stats_from", stats_from)


def a_log_is_marked_clean_when_it_is_opened(patch: Patch) -> None:
    real = owner.write_owner
    patch.setattr(log_directory, "write_owner", lambda disk, path, kept: real(disk, path, {**kept, "clean": True}))


def a_crash_is_forgotten_when_recovery_begins(patch: Patch) -> None:
    real = owner.write_owner
    patch.setattr(
        log_directory, "write_owner", lambda disk, path, kept: real(disk, path, {**kept, "boot_id": disk.boot_id()})
    )


def the_recovery_point_is_ahead_of_the_log(patch: Patch) -> None:
    real = checkpoint.StateFile.write

    def write(self: Any, state: Any, *, sync: bool) -> None:
        point = state.recovery_point
        real(self, state._replace(recovery_point=point + 1 if point else 0), sync=sync)

    patch.setattr(checkpoint.StateFile, "write", write)


def retention_goes_by_the_strictest_bound(patch: Patch) -> None:
    patch.setattr(retention, "AnyOf", retention.AllOf)


def timestamps_have_no_bound(patch: Patch) -> None:
    real = topic_cache.CachedTopic.__init__

    def init(self: Any, *args: Any, **named: Any) -> None:
        real(self, *args, **named)
        self.after_max_ms = 1 << 62

    patch.setattr(topic_cache.CachedTopic, "__init__", init)


def the_index_takes_timestamps_as_they_come(patch: Patch) -> None:
    def add(self: Index, base_offset: int, position: int, max_timestamp: int) -> None:
        if not self.positions or position - self.positions[-1] >= index.INTERVAL:
            self.timestamps.append(max_timestamp)
            self.positions.append(position)
            self.offsets.append(base_offset)

    patch.setattr(Index, "add", add)


def a_start_in_the_middle_of_a_segment_is_rounded_down(patch: Patch) -> None:
    real = log.Log.advance_start

    def advance_start(self: Any, offset: int) -> Any:
        return real(self, max(base for base in self.tail.bases if base <= offset))

    patch.setattr(log.Log, "advance_start", advance_start)
    patch.setattr(service, "REQUEST_TIMEOUT_MS", 50)  # the call waits so long for what does not come


def the_start_is_kept_in_memory_only(patch: Patch) -> None:
    patch.setattr(log.Log, "store_start", lambda self, offset: None)


def files_go_before_the_start_is_on_the_device(patch: Patch) -> None:
    """And their directory is synced at once, so that they are gone for good."""
    the_state_is_never_synced(patch)
    real = log.Log.discard

    def discard(self: Any, segments: Sequence[Any]) -> None:
        real(self, segments)
        self.disk.sync_dir(self.directory)

    patch.setattr(log.Log, "discard", discard)


def recovery_cuts_at_damage(patch: Patch) -> None:
    patch.setattr(
        power_loss, "find_end", lambda segments, point, start, real=power_loss.find_end: real(segments, 0, start)
    )


def markers_go_with_the_first_pass(patch: Patch) -> None:
    patch.setattr(compaction._History, "is_marker_needed", lambda self, header: False)
    patch.setattr(compaction._Cleaner, "_wait_until", lambda self, horizon: None)
    real = compaction._Cleaner._clean_marker

    def clean_marker(self: Any, header: Any, full: Any, data: bytes, last: bool) -> None:
        if last:
            real(self, header, full, data, last)

    patch.setattr(compaction._Cleaner, "_clean_marker", clean_marker)


def compaction_knows_no_aborted_transactions(patch: Patch) -> None:
    real = compaction._History._note

    def note(self: Any, header: Any) -> None:
        real(self, header)
        self.transactions.aborted = transactions.AbortedTransactions()

    patch.setattr(compaction._History, "_note", note)


def a_compacted_segment_stores_no_aborted_transactions(patch: Patch) -> None:
    real = replacement.Replacement.swap_in

    def swap_in(self: Any, publish: Any) -> None:
        self._built.summary = producer_summary.ProducerSummary()
        real(self, publish)

    patch.setattr(replacement.Replacement, "swap_in", swap_in)


def a_segment_stores_no_aborted_transactions(patch: Patch) -> None:
    patch.setattr(transaction_events.TransactionEvents, "events", lambda self: [])


def what_is_stored_is_not_read(patch: Patch) -> None:
    patch.setattr(log_transactions, "note_segment", lambda transactions, segment, end: None)


def compaction_goes_on_past_what_is_open(patch: Patch) -> None:
    patch.setattr(partition.Partition, "last_stable_offset", property(lambda self: self.high_watermark))
    real = compaction._History.read

    def read(self: Any, log: Any, segments: Any) -> Any:
        yield from real(self, log, segments)
        return segments

    patch.setattr(compaction._History, "read", read)


class Row(NamedTuple):
    number: str
    scenario: Callable[[], None]
    bug: Callable[[Patch], None]


ROLL = scenarios.test_a_new_segment_survives_a_power_loss_at_any_moment_of_a_roll
REWRITTEN = scenarios.test_what_is_written_down_about_a_log_survives_a_power_loss_while_it_is_rewritten
COMPACTED = scenarios.test_compacted_segments_take_the_place_of_the_old_ones_whole_or_not_at_all
ZEROS = partial(scenarios.test_a_tail_of_zeros_is_never_read_as_records, 512)
CUT = scenarios.test_a_cut_is_on_the_device_before_the_log_counts_as_closed
INDEX = partial(
    scenarios.test_an_index_without_its_timestamps_never_makes_retention_delete_live_data, "timestamps of 0"
)
RECOVERY = scenarios.test_a_recovery_that_is_itself_cut_short_is_done_again
VOUCHES = partial(scenarios.test_nothing_written_down_ever_vouches_for_more_than_is_on_the_device, True)
VOUCHES_PLAIN = partial(scenarios.test_nothing_written_down_ever_vouches_for_more_than_is_on_the_device, False)
FUTURE = scenarios.test_timestamps_of_the_future_do_not_keep_what_is_too_large
BOUND = scenarios.test_a_timestamp_further_ahead_than_the_topic_allows_is_refused
BACKWARDS = partial(scenarios.test_timestamps_that_go_back_are_found_all_the_same, 0)
DELETED = partial(scenarios.test_records_may_be_deleted_up_to_anywhere_and_stay_deleted, 7)
ABORTED = scenarios.test_aborted_records_are_never_taken_for_values_however_often_the_log_is_compacted_and_opened
ABORTED_CRASHED = scenarios.test_aborted_records_stay_aborted_after_a_crash_at_any_moment_of_a_compaction
DELETED_LOST = scenarios.test_deleting_records_is_not_undone_by_a_power_loss_at_any_moment
DAMAGE = scenarios.test_damage_is_never_taken_for_what_a_crash_tore

ROWS = (
    Row("5", ROLL, a_directory_is_not_synced),
    Row("5", ROLL, a_roll_does_not_sync_its_directory),
    Row("5", ROLL, records_are_acknowledged_before_they_are_synced),
    Row("6", REWRITTEN, a_rewritten_file_is_renamed_unsynced),
    Row("6", REWRITTEN, the_state_is_never_synced),
    Row("6", REWRITTEN, the_state_begins_again_with_every_write),
    Row("6", DELETED_LOST, the_state_begins_again_with_every_write),
    Row("6", COMPACTED, the_old_segments_go_unsynced),
    Row("6", COMPACTED, a_compacted_file_is_not_synced),
    Row("7", ZEROS, the_torn_end_stays_in_the_file),
    Row("7", ZEROS, the_log_goes_on_behind_the_zeros),
    Row("8", CUT, a_file_that_only_shrank_is_not_synced),
    Row("9", INDEX, the_checksum_of_an_index_is_not_looked_at),
    Row("10", RECOVERY, a_log_is_marked_clean_when_it_is_opened),
    Row("10", RECOVERY, a_crash_is_forgotten_when_recovery_begins),
    Row("10", VOUCHES, the_recovery_point_is_ahead_of_the_log),
    Row("10", VOUCHES_PLAIN, records_are_acknowledged_before_they_are_synced),
    Row("10", DAMAGE, recovery_cuts_at_damage),
    Row("14", ABORTED, markers_go_with_the_first_pass),
    Row("14", ABORTED, compaction_knows_no_aborted_transactions),
    Row("14", ABORTED, a_compacted_segment_stores_no_aborted_transactions),
    Row("14", ABORTED, a_segment_stores_no_aborted_transactions),
    Row("14", ABORTED, what_is_stored_is_not_read),
    Row("14", ABORTED, compaction_goes_on_past_what_is_open),
    Row("14", ABORTED_CRASHED, compaction_knows_no_aborted_transactions),
    Row("16", FUTURE, retention_goes_by_the_strictest_bound),
    Row("16", BOUND, timestamps_have_no_bound),
    Row("16", BACKWARDS, the_index_takes_timestamps_as_they_come),
    Row("17", DELETED, a_start_in_the_middle_of_a_segment_is_rounded_down),
    Row("17", DELETED, the_start_is_kept_in_memory_only),
    Row("17", DELETED_LOST, files_go_before_the_start_is_on_the_device),
)


@pytest.mark.slow
@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.number}: {row.bug.__name__}")
def test_the_scenario_fails_with_its_bug(row: Row, monkeypatch: Patch) -> None:
    with monkeypatch.context() as patch:
        row.bug(patch)
        with pytest.raises((AssertionError, StreamlogError, pytest.fail.Exception)):
            row.scenario()
