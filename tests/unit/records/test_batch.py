"""A batch's header: nothing in it is believed before its checksum, and that is tied to its partition."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamlog.errors import CorruptRecordError, FormatError
from streamlog.records import batch as batches
from streamlog.records import columns
from streamlog.records.batch import (
    FIXED_LEN,
    MAGIC,
    MAX_BATCH_LEN,
    MAX_HEADER_LEN,
    MAX_SEQUENCE,
    TRANSACTIONAL,
    BatchHeader,
    directory_entries,
    directory_of,
    first_and_last,
    header_fault,
    peek,
    read_header,
    restamp,
    seed_of,
    stamp,
    verify_payload,
)

SEED = seed_of(bytes(16), 0)


def stamped(value: bytes = b"value", **options: int) -> tuple[bytes, bytes]:
    """Header and payload of one record's batch at offset 7."""
    sealed = columns.seal(SEED, [b"key"], [value], 1000, count=1, **options)
    return stamp(sealed, SEED, 7, 3, 2000), sealed.payload


def header_of(data: bytes) -> BatchHeader:
    return read_header(data, 0, SEED, "x.log", 0)


def test_a_stamped_header_says_where_it_lies() -> None:
    header = header_of(stamped()[0])
    assert (header.base_offset, header.last_offset, header.next_offset) == (7, 7, 8)
    assert (header.leader_epoch, header.append_timestamp, header.base_timestamp) == (3, 2000, 1000)
    assert (header.form, header.codec, header.is_control, header.record_count) == (0, 0, False, 1)
    assert (header.producer_id, header.producer_epoch, header.base_sequence) == (-1, -1, -1)


@pytest.mark.parametrize("transactional", [True, False])
def test_a_batch_of_a_producer_says_so_in_its_header_alone(transactional: bool) -> None:
    sealed = columns.seal(SEED, None, [b"a", b"b"], 0, count=2)
    of_producer = sealed.sequenced(5, 2, MAX_SEQUENCE - 1, transactional=transactional)
    header = header_of(stamp(of_producer, SEED, 0, 0, 0) + of_producer.payload)
    assert (header.producer_id, header.producer_epoch, header.base_sequence) == (5, 2, MAX_SEQUENCE - 1)
    assert bool(header.attributes & TRANSACTIONAL) is transactional
    assert of_producer.payload is sealed.payload
    assert of_producer.next_sequence == 0


def test_the_length_that_a_sealed_batch_promises_is_what_it_takes() -> None:
    sealed = columns.seal(SEED, [b"key"], [b"v"], 0, count=1)
    assert sealed.length == len(stamp(sealed, SEED, 0, 0, 0)) + len(sealed.payload)


def test_under_log_append_time_the_header_has_the_time_of_the_append() -> None:
    header = header_of(stamped(attributes=batches.LOG_APPEND_TIME)[0])
    assert (header.base_timestamp, header.max_timestamp) == (2000, 2000)


@pytest.mark.parametrize(
    ("timestamps", "deltas", "expected"),
    [
        ([5, 9, 7, 9], None, (5, 9, 1)),
        ([5, 9, 7, 9], [0, 3, 4, 8], (5, 9, 3)),
        ([7, 7], None, (7, 7, 0)),
        ([7, 7], [2, 4], (7, 7, 2)),
        (7, [2, 4], (7, 7, 2)),
        ((), [], (-1, -1, -1)),
    ],
)
def test_the_header_has_the_least_and_the_greatest_timestamp_and_the_first_offset_of_the_greatest(
    timestamps: list[int] | int, deltas: list[int] | None, expected: tuple[int, int, int]
) -> None:
    count = 2 if isinstance(timestamps, int) else len(timestamps)
    sealed = columns.seal(SEED, None, None, timestamps, count=count, offset_deltas=deltas, last_offset_delta=8)
    header = header_of(stamp(sealed, SEED, 7, 0, 2000))
    assert (header.base_timestamp, header.max_timestamp, header.max_timestamp_delta) == expected


def test_under_log_append_time_the_first_record_has_the_greatest_timestamp() -> None:
    for count, delta in ((3, 0), (0, -1)):
        sealed = columns.seal(SEED, None, None, 1, count=count, last_offset_delta=3, attributes=batches.LOG_APPEND_TIME)
        assert header_of(stamp(sealed, SEED, 7, 0, 2000)).max_timestamp_delta == delta


def test_a_compacted_batch_keeps_its_place_and_times() -> None:
    before = header_of(stamped()[0])._replace(producer_id=9, producer_epoch=2, base_sequence=4)
    sealed = columns.seal(SEED, None, None, (), count=0, last_offset_delta=0)
    after = header_of(restamp(before, sealed, SEED))
    for name in (
        "base_offset",
        "last_offset_delta",
        "leader_epoch",
        "append_timestamp",
        "producer_id",
        "base_sequence",
    ):
        assert getattr(after, name) == getattr(before, name)
    assert after.record_count == 0


def test_any_flipped_bit_of_a_header_is_a_fault() -> None:
    data = stamped()[0]
    for position in range(len(data)):
        for bit in range(8):
            changed = bytearray(data)
            changed[position] ^= 1 << bit
            assert header_fault(bytes(changed), 0, SEED) is not None, (position, bit)


def test_a_header_cut_at_any_length_is_a_fault() -> None:
    data = stamped()[0]
    for length in range(len(data)):
        fault = header_fault(data[:length], 0, SEED)
        assert fault is not None and fault[0] == "the header is cut short"


def test_a_batch_of_another_topic_or_partition_never_verifies() -> None:
    header, payload = stamped()
    for seed in (seed_of(bytes(16), 1), seed_of(b"\1" + bytes(15), 0)):
        assert header_fault(header, 0, seed) is not None
        with pytest.raises(CorruptRecordError, match="payload"):
            verify_payload(header_of(header), payload, seed, "x.log", 5)


@pytest.mark.parametrize(
    ("at", "size", "value", "words"),
    [
        (5, 2, 0, "header's length"),
        (5, 2, FIXED_LEN, "header's length"),
        (5, 2, MAX_HEADER_LEN + 1, "header's length"),
        (7, 4, 0, "batch's length"),
        (7, 4, MAX_BATCH_LEN + 1, "batch's length"),
        (7, 4, 2**32 - 1, "batch's length"),
    ],
)
def test_an_impossible_length_is_refused_before_it_is_used(at: int, size: int, value: int, words: str) -> None:
    data = bytearray(stamped()[0])
    data[at : at + size] = value.to_bytes(size, "little")
    with pytest.raises(CorruptRecordError, match=words) as error:
        read_header(bytes(data), 0, SEED, "x.log", 99)
    assert (error.value.path, error.value.position) == ("x.log", 99)


@given(st.binary(max_size=400))
def test_bytes_of_anything_are_no_batch(data: bytes) -> None:
    assert header_fault(data, 0, SEED) is not None
    assert header_fault(MAGIC + data, 0, SEED) is not None


@pytest.mark.parametrize(("version", "attributes"), [(3, 0), (2, 2), (2, 15)])
def test_a_newer_version_or_payload_form_is_refused_as_one(version: int, attributes: int) -> None:
    data = bytearray(stamped(attributes=attributes)[0])
    data[4] = version
    digest = batches.xxh3_64_intdigest(bytes(data[:11] + data[15:]), SEED) & 0xFFFFFFFF
    data[11:15] = digest.to_bytes(4, "little")
    with pytest.raises(FormatError, match="newer streamlog"):
        read_header(bytes(data), 0, SEED, "x.log", 0)


def test_a_corrupt_payload_names_file_place_and_both_checksums() -> None:
    header, payload = stamped()
    with pytest.raises(CorruptRecordError) as error:
        verify_payload(header_of(header), payload[:-1] + b"!", SEED, "x.log", 17)
    assert (error.value.path, error.value.position) == ("x.log", 17)
    assert error.value.expected == peek(header).payload_hash != error.value.actual
    assert "x.log" in str(error.value) and "17" in str(error.value)


def test_the_directory_lists_columns_in_payload_order() -> None:
    data, payload = stamped()
    entries = directory_entries(data + payload, 0, header_of(data))
    assert [kind for kind, _ in entries] == [columns.KEYS, columns.VALUES]
    assert sum(length for _, length in entries) == len(payload)
    assert directory_of([]) == b"\0"


@pytest.mark.parametrize("directory", [b"\0", b"\1", directory_of([(3, 1)]), directory_of([(3, 1), (4, 2**32 - 1)])])
def test_a_directory_that_does_not_add_up_is_refused(directory: bytes) -> None:
    sealed = columns.seal(SEED, [b"key"], [b"v"], 0, count=1)._replace(directory=directory)
    data = stamp(sealed, SEED, 0, 0, 0)
    with pytest.raises(ValueError, match=r"directory|add up"):
        directory_entries(data, 0, header_of(data))


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"base_offset": -1}, "offsets"),
        ({"base_offset": 1 << 62}, "offsets"),
        ({"last_offset_delta": -1}, "offsets"),
        ({"record_count": (1 << 22) + 1}, "number of records"),
        ({"record_count": (1 << 25) + 1, "attributes": 1 << 4, "uncompressed_len": (1 << 32) - 1}, "number of records"),
    ],
)
def test_a_header_with_right_checksums_and_impossible_numbers_is_damage(changed: dict[str, int], why: str) -> None:
    header, payload = stamped()
    fields = header_of(header + payload)._replace(**changed)
    forged = bytearray(header)
    batches._HEADER.pack_into(forged, 0, *fields)
    digest = batches.xxh3_64_intdigest(bytes(forged[:11] + forged[15:]), SEED) & 0xFFFFFFFF  # type: ignore[attr-defined]
    forged[11:15] = digest.to_bytes(4, "little")
    with pytest.raises(CorruptRecordError, match=why):
        header_of(bytes(forged) + payload)


def test_a_batch_of_very_many_records_of_nothing_has_a_byte_for_each_and_is_read() -> None:
    count = (1 << 22) + 1
    sealed = columns.seal(SEED, None, None, 1000, count=count)
    assert len(sealed.payload) > count
    assert header_of(stamp(sealed, SEED, 0, 0, 0) + sealed.payload).record_count == count


def test_the_first_and_the_last_of_several_batches_are_found_without_the_others() -> None:
    sealed = [columns.seal(SEED, None, [b"x" * n], 1, count=1) for n in (10, 500, 30)]
    data = b"".join(stamp(each, SEED, n, 0, 1) + each.payload for n, each in enumerate(sealed))
    first, last = first_and_last(data)
    assert (first.base_offset, last.base_offset) == (0, 2)
    first, last = first_and_last(data[: sealed[0].length])
    assert first == last
