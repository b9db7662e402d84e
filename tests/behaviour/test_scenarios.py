"""Ways in which logs of this kind lost data elsewhere, one test each; the number is that of the scenario.

They take no fixtures, so that `test_scenarios_caught` can run each of them with its bug put back in. Scenario 11, lost
producer state, has its tests beside the producer state itself.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from struct import pack

import pytest

import streamlog
from streamlog import CorruptRecordError, InvalidTimestampError, OffsetOutOfRangeError
from streamlog.testing import ManualClock, SimulatedDisk
from tests.contents import values

from .simulated_logs import (
    LARGE,
    PATH,
    START_MS,
    T0,
    Marks,
    check_sent,
    contents,
    crashed,
    opened,
    partition_files,
    send,
)

HOUR_MS = 3_600_000
MAX_TIMESTAMP_AT = 48  # in an index file; storage/FORMAT.md


# 5


@pytest.mark.slow
def test_a_new_segment_survives_a_power_loss_at_any_moment_of_a_roll() -> None:
    """5. The file was synced, its directory was not: the whole file vanished (KAFKA-3968)."""
    disk = SimulatedDisk()
    mark = Marks(disk)
    with opened(disk, sync=True) as log:
        topic = log.create_topic("t", segment_bytes=1024)
        begin = len(disk.operations)
        send(topic, mark, range(4))
    for name, left in crashed(disk, first=begin):
        check_sent(name, left)


# 6


@pytest.mark.slow
def test_what_is_written_down_about_a_log_survives_a_power_loss_while_it_is_rewritten() -> None:
    """6. A checkpoint that was rewritten without a sync was corrupt after a crash of the machine (KAFKA-16541)."""
    disk = SimulatedDisk()
    mark = Marks(disk)
    with opened(disk, sync=True) as log:
        topic = log.create_topic("t", segment_bytes=1024)
        begin = len(disk.operations)
        send(topic, mark, range(3))
        for before in (1, 2):
            mark("asked to delete before", before)
            topic.delete_records({0: before})
            mark("deleted before", before)
        with log.consumer("t", group="g", enable_auto_commit=False) as consumer:
            consumer.poll()
            mark("asked to commit", 3)
            consumer.commit()
            mark("committed", 3)
    with opened(disk, sync=True) as log:
        send(log["t"], mark, range(3, 5))
    for name, left in crashed(disk, first=begin):
        check_sent(name, left)


@pytest.mark.slow
def test_compacted_segments_take_the_place_of_the_old_ones_whole_or_not_at_all() -> None:
    """6. Several files become one: a power loss keeps any of the renames and unlinks that were not synced."""
    disk = SimulatedDisk()
    with opened(disk, sync=True) as log:
        topic = log.create_topic("t", segment_bytes=1024, cleanup_policy="compact", min_cleanable_dirty_ratio=0.0)
        for n in range(8):  # most of it goes, so that what is left of several segments fits into one
            topic.send(b"%d" % n + b"." * 300, key="first" if not n else "again").result()
        topic.compact()
        topic.send(b"last", key="again").result()
        begin = len(disk.operations)
        topic.compact()
        expected = {record.key: record.value for record in topic.read()}
        swaps = [op.to for op in disk.operations[begin:] if op.kind == "rename" and op.to.endswith(".swap")]
        assert any(int(high) - int(low) > 2 for low, high in (name[:-5].split("-") for name in swaps)), swaps
    for name, left in disk.crashes(2, harsh=6, first=begin):
        with opened(left) as log:
            records = list(log["t"].read())
            offsets = [record.offset for record in records]
            assert offsets == sorted(set(offsets)), f"{name}: {offsets}"
            assert {record.key: record.value for record in records} == expected, name
        report = streamlog.verify(PATH, disk=left)
        assert report.ok, f"{name}: {report}"


# 7


@pytest.mark.parametrize("zeros", [1, 7, 64, 512, 4096, 70_000])
def test_a_tail_of_zeros_is_never_read_as_records(zeros: int) -> None:
    """7. The zeros of a preallocated file, or of a size that outlived its data, were read (KAFKA-13664, 20841)."""
    disk = SimulatedDisk()
    with opened(disk, sync=True) as log:
        topic = log.create_topic("t")
        for n in range(3):
            topic.send(b"%d" % n).result()
        left = disk.power_loss()
    (file,) = partition_files(left, ".log")
    handle = left.open(file)
    handle.truncate(handle.size() + zeros)
    handle.sync()
    for round_ in range(2):
        with opened(left) as log:
            assert values(log) == [b"0", b"1", b"2", b"next"][: 3 + round_]
            if not round_:
                assert log["t"].send(b"next").result().offset == 3
    report = streamlog.verify(PATH, disk=left)
    assert report.ok
    assert all(".log.cut-" in note.path for note in report.notes), "the zeros are gone, not between records"


# 8


@pytest.mark.slow
def test_a_cut_is_on_the_device_before_the_log_counts_as_closed() -> None:
    """8. The torn end came back after the clean shutdown that followed its cut (KAFKA-21000, 20979)."""
    disk = SimulatedDisk()
    with opened(disk, sync=True) as log:
        topic = log.create_topic("t")
        for n in range(3):
            topic.send(b"%d" % n).result()
        left = disk.power_loss()
    (file,) = partition_files(left, ".log")
    handle = left.open(file)
    whole = handle.pread(handle.size(), 0)
    handle.pwrite([whole[: len(whole) // 3 - 10]], len(whole))  # most of the first batch: torn
    handle.sync()
    begin = len(left.operations)
    with opened(left) as log:
        assert values(log) == [b"0", b"1", b"2"]
    for name, later in left.crashes(3, first=begin):
        with opened(later) as log:
            assert values(log) == [b"0", b"1", b"2"], name
            assert log["t"].send(b"next").result().offset == 3, name
        assert streamlog.verify(PATH, disk=later).ok, name


# 9


def zero_timestamps(data: bytes) -> bytes:
    return data[:MAX_TIMESTAMP_AT] + pack("<q", 0) + data[MAX_TIMESTAMP_AT + 8 :]


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "timestamps of 0": zero_timestamps,
    "all zeros": lambda data: bytes(len(data)),
    "padded with zeros": lambda data: data + bytes(4096),
    "cut": lambda data: data[: len(data) // 2],
    "empty": lambda data: b"",
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_an_index_without_its_timestamps_never_makes_retention_delete_live_data(kind: str) -> None:
    """9. A padded time index read timestamp 0, and everything was too old (KAFKA-10207, 19200). We pad nothing."""
    disk, clock = SimulatedDisk(), ManualClock(start_ms=START_MS)
    with opened(disk, clock) as log:
        topic = log.create_topic("t", segment_bytes=1024, retention_ms=HOUR_MS)
        for n in range(5):
            topic.send(b"%d" % n + LARGE).result()
        everything = values(log)
    files = partition_files(disk, ".index")
    assert len(files) >= 4
    for file in files:
        data = DAMAGE[kind](disk.read(file))
        disk.unlink(file)
        disk.write_atomic(file, data)
    with opened(disk, clock) as log:
        clock.advance(60)
        log["t"].apply_retention()
        assert values(log) == everything
        clock.advance(2 * HOUR_MS // 1000)
        log["t"].apply_retention()
        assert values(log) == []


# 10


@pytest.mark.slow
def test_a_recovery_that_is_itself_cut_short_is_done_again() -> None:
    """10. The clean marker was there before recovery had finished, so the next start looked at nothing (KAFKA-10101)."""
    disk = SimulatedDisk()
    mark = Marks(disk)
    with opened(disk, sync=True) as log:
        topic = log.create_topic("t", segment_bytes=4096)
        send(topic, mark, range(3))
        left = disk.power_loss()
    (file,) = partition_files(left, ".log")
    handle = left.open(file)
    handle.pwrite([b"\xff" * 300], handle.size())
    handle.sync()
    begin = len(left.operations)
    with opened(left, sync=True) as log:
        send(log["t"], Marks(left), range(3, 5))
    for name, again in crashed(left, first=begin, kills=True):
        check_sent(name, again)


@pytest.mark.slow
@pytest.mark.parametrize("sync", [False, True], ids=["plain", "sync"])
def test_nothing_written_down_ever_vouches_for_more_than_is_on_the_device(sync: bool) -> None:
    """10. The recovery point passed the end of the log (KAFKA-15375)."""
    disk, clock = SimulatedDisk(), ManualClock(start_ms=START_MS)
    mark = Marks(disk)
    with opened(disk, clock, sync=sync) as log:
        topic = log.create_topic("t", segment_bytes=1024)
        begin = len(disk.operations)
        topic.send(b"0" + LARGE).result()
        topic.send(b"1" + LARGE).result()
        clock.advance(60)  # what is sealed is synced in the background
        topic.send(b"2" + LARGE).result()
        log.sync()
        mark("sent", 2)
    mark("closed", 1)
    for name, left in crashed(disk, first=begin):
        check_sent(name, left)
    with opened(disk.power_loss(), clock) as log:
        assert len(values(log)) == 3, "a closed log was not on the device"


# 14


def in_transactions(log: streamlog.StreamLog, rounds: range) -> dict[bytes, bytes]:
    """In each round a transaction that commits and one that aborts, of the same keys, in segments of their own; what was committed."""
    table: dict[bytes, bytes] = {}
    with log.producer(transactional_id="x") as producer:
        for n in rounds:
            producer.begin_transaction()
            for key in (b"k%d" % (n % 3), b"l"):
                producer.send("t", b"kept %d" % n + LARGE, key=key)
                table[key] = b"kept %d" % n + LARGE
            producer.commit_transaction()
            producer.begin_transaction()
            for key in (b"k%d" % (n % 3), b"l"):
                producer.send("t", b"aborted %d" % n + LARGE, key=key)
            producer.abort_transaction()
    return table


def committed_table(log: streamlog.StreamLog) -> dict[bytes, bytes]:
    found = list(log["t"].read())
    assert not [record for record in found if record.value.startswith(b"aborted")]
    return {record.key: record.value for record in found}


def test_aborted_records_are_never_taken_for_values_however_often_the_log_is_compacted_and_opened() -> None:
    """14. Compaction lost what said that records were aborted, or took them for the last value of their key (KAFKA-8522, 13727)."""
    disk, clock = SimulatedDisk(), ManualClock(start_ms=START_MS)
    table: dict[bytes, bytes] = {}
    with opened(disk, clock) as log:
        log.create_topic(
            "t",
            partitions=1,
            cleanup_policy="compact",
            segment_bytes=1024,
            delete_retention_ms=HOUR_MS,
            retention_ms=-1,
        )
    for n in range(4):
        with opened(disk, clock) as log:
            assert committed_table(log) == table
            table |= in_transactions(log, range(3 * n, 3 * n + 3))
            assert committed_table(log) == table
            log["t"].compact()
            assert committed_table(log) == table
        clock.advance(2 * HOUR_MS / 1000 if n % 2 else 1)
        with opened(disk, clock) as log:
            assert committed_table(log) == table
            log["t"].compact()
            assert committed_table(log) == table
            if n == 2:
                table[b"m"] = b"kept" + LARGE
                log["t"].send(table[b"m"], b"m")
                with log.producer(transactional_id="y") as open_one:
                    open_one.begin_transaction()
                    open_one.send("t", b"aborted too" + LARGE, key=b"m")
                    table |= in_transactions(log, range(20, 22))
                    log["t"].compact()
                    open_one.abort_transaction()
                assert committed_table(log) == table


@pytest.mark.slow
def test_aborted_records_stay_aborted_after_a_crash_at_any_moment_of_a_compaction() -> None:
    """14."""
    disk, clock = SimulatedDisk(), ManualClock(start_ms=START_MS)
    with opened(disk, clock, sync=True) as log:
        log.create_topic("t", partitions=1, cleanup_policy="compact", segment_bytes=1024)
        table = in_transactions(log, range(4))
        begin = len(disk.operations)
        log["t"].compact()
    for name, left in crashed(disk, first=begin):
        with opened(left, ManualClock(start_ms=START_MS)) as log:
            assert committed_table(log) == table, name


# 16


def test_timestamps_of_the_future_do_not_keep_what_is_too_large() -> None:
    """16. A timestamp far ahead kept its segment, and all behind it, for ever (KIP-937, KAFKA-14991)."""
    disk, clock = SimulatedDisk(), ManualClock(start_ms=START_MS)
    century = 100 * 365 * 24 * HOUR_MS
    with opened(disk, clock) as log:
        topic = log.create_topic(
            "t",
            segment_bytes=1024,
            retention_bytes=2048,
            retention_ms=HOUR_MS,
            message_timestamp_after_max_ms=2 * century,
        )
        topic.send(b"0" + LARGE, timestamp_ms=START_MS + century).result()
        for n in range(1, 8):
            topic.send(b"%d" % n + LARGE).result()
        clock.advance(60)
        left = contents(log)
        assert max(left) == 7
        assert min(left) > 0, "a record of the next century kept everything"
        assert log["t"].partition(0).size_bytes < 4096


def test_a_timestamp_further_ahead_than_the_topic_allows_is_refused() -> None:
    """16. The bound of KIP-937."""
    with opened(SimulatedDisk()) as log:
        topic = log.create_topic("t", message_timestamp_after_max_ms=1000)
        assert topic.send(b"just", timestamp_ms=START_MS + 1000).result().offset == 0
        for send_it in (
            lambda: topic.send(b"far", timestamp_ms=START_MS + 1001).result(),
            lambda: topic.send_many([b"near", b"far"], timestamps_ms=[START_MS, START_MS + 1001]).result(),
        ):
            with pytest.raises(InvalidTimestampError):
                send_it()
        assert values(log) == [b"just"]


@pytest.mark.parametrize("seed", range(3))
def test_timestamps_that_go_back_are_found_all_the_same(seed: int) -> None:
    """16. The time index had them in the order of offsets, and a search by halves went astray (KAFKA-14991)."""
    rng = random.Random(seed)
    disk = SimulatedDisk()
    times = [START_MS - rng.randrange(HOUR_MS) for _ in range(120)]
    with opened(disk) as log:
        topic = log.create_topic("t", segment_bytes=16_384)
        for time in times:
            topic.send(LARGE, timestamp_ms=time).result()
        _check_times(log, times, rng)
    with opened(disk) as log:
        _check_times(log, times, rng)
    for file in partition_files(disk, ".index"):
        disk.unlink(file)
    with opened(disk) as log:
        _check_times(log, times, rng)


def _check_times(log: streamlog.StreamLog, times: list[int], rng: random.Random) -> None:
    with log.consumer() as consumer:
        consumer.assign([T0])
        for wanted in [*rng.sample(times, 20), min(times) - 1, max(times), max(times) + 1]:
            first = next(((n, time) for n, time in enumerate(times) if time >= wanted), None)
            found = consumer.offsets_for_times({T0: wanted})[T0]
            assert (found and (found.offset, found.timestamp)) == first


# 17


def _batches_of_three() -> SimulatedDisk:
    """Twelve records in four batches, two to a segment, as a kill leaves them."""
    disk = SimulatedDisk()
    with opened(disk) as log:
        topic = log.create_topic("t", segment_bytes=1024)
        for first in range(0, 12, 3):
            topic.send_many([b"%d" % n + b"." * 130 for n in range(first, first + 3)]).result()
        left = disk.kill()
    assert len(partition_files(left, ".log")) >= 2
    return left


@pytest.mark.parametrize("before", range(13))
def test_records_may_be_deleted_up_to_anywhere_and_stay_deleted(before: int) -> None:
    """17. A start in the middle of a batch, or above the last segment's first offset, could not be read from
    (KAFKA-6975, 9133)."""
    disk = _batches_of_three()
    expected = [*range(before, 12)]
    with opened(disk) as log:
        log["t"].delete_records({0: before})
        assert list(contents(log)) == expected
        killed = disk.kill()
        lost = disk.power_loss()
    with opened(lost) as log:
        assert log["t"].partition(0).log_start_offset == before  # the records were never synced
        assert [*contents(log)] == expected[: len(contents(log))]
    for left in (killed, disk):
        with opened(left) as log:
            assert list(contents(log)) == expected
            with log.consumer("t", group=f"g{before}") as consumer:
                assert [record.offset for record in consumer.until_end()] == expected
                if before:
                    consumer.seek(T0, before - 1)
                    assert [record.offset for record in consumer.until_end()] == expected
            assert log["t"].send(b"next").result().offset == 12
            if before:
                with pytest.raises(OffsetOutOfRangeError):
                    log["t"].read(start=before - 1)
        assert streamlog.verify(PATH, disk=left).ok


@pytest.mark.slow
def test_deleting_records_is_not_undone_by_a_power_loss_at_any_moment() -> None:
    """17, 6. The raised start is on the device before the first file goes."""
    disk = _batches_of_three()
    mark = Marks(disk)
    begin = len(disk.operations)
    with opened(disk) as log:
        for before in (2, 6, 10):
            mark("asked", before)
            log["t"].delete_records({0: before})
            mark("deleted", before)
    for name, left in crashed(disk, first=begin, kills=True):
        with opened(left) as log:
            start = log["t"].partition(0).log_start_offset
            assert Marks.last(left, "deleted") <= start <= max(0, Marks.last(left, "asked")), name
            assert list(contents(log)) == [*range(start, log["t"].partition(0).log_end_offset)], name


def test_damage_is_never_taken_for_what_a_crash_tore() -> None:
    """7, 10. A record that was on the device once and is damaged now is reported, also after a power loss."""
    disk = SimulatedDisk()
    with opened(disk, sync=True) as log:
        topic = log.create_topic("t")
        for n in range(3):
            topic.send(b"%d" % n).result()
        log.close()
    with opened(disk, sync=True) as log:
        log["t"].send(b"3").result()
        left = disk.power_loss()
    (file,) = partition_files(left, ".log")
    handle = left.open(file)
    handle.pwrite([b"\xff"], 30)
    with opened(left) as log:
        with pytest.raises(CorruptRecordError):
            values(log)
        assert [record.value for record in log["t"].read(on_corrupt="skip")] == [b"1", b"2", b"3"]
