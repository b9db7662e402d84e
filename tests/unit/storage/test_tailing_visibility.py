"""A view of a log of another process never goes back: a read at its end does not raise that the offset is out of range."""

from __future__ import annotations

import pytest

from streamlog.errors import OffsetOutOfRangeError
from streamlog.records.batch import read_header
from streamlog.storage.files import swap_name
from streamlog.storage.tail import EMPTY

from .test_tailing import Along, MakeBox, small, value
from .test_tailing_without_owner import alone


def test_a_view_that_was_never_made_says_of_no_offset_that_it_is_none(box: MakeBox) -> None:
    along = Along(small(box, 3))
    assert not along.log.is_known
    for offset in (0, 3, 1000):
        assert not along.log.fetch(offset, 100, along.log.high_watermark).data
    along.follow()
    assert along.log.is_known
    with pytest.raises(OffsetOutOfRangeError):
        along.log.fetch(1000, 100, along.log.high_watermark)


def test_how_much_a_fetch_would_bring_is_said_without_a_read_of_a_view_that_was_made(box: MakeBox) -> None:
    b = box()
    b.append(value(0))
    along = Along(b)
    assert along.log.size_after(along.log.fetch(0, 100, 0), 1 << 20) is None
    along.follow()
    read = along.log.fetch(0, 1 << 20, 1)
    assert along.log.place_at_end(1) is EMPTY
    assert along.log.size_after(read, 1 << 20) == len(read.data) == b.log.tail.end_position
    b.append(value(1))
    along.follow()
    assert along.log.size_after(read, 1 << 20) == b.log.tail.end_position


def test_a_slot_that_was_read_before_the_one_that_is_followed_changes_nothing(box: MakeBox) -> None:
    b = box()
    along = Along(b)
    slots = []
    for n in range(3):
        b.append(value(n))
        slots.append(along.slot())
    along.follow()
    hidden = slots[2]._replace(high_watermark=2)
    for older in (slots[0], slots[1], hidden):
        assert along.log.follow(older, along.incarnation, along.slot)
        assert along.log.tail.end_offset == along.log.high_watermark == 3
    assert along.values() == [value(n) for n in range(3)]


def test_a_reader_waits_for_what_is_in_the_log_and_may_not_be_seen_any_more(box: MakeBox) -> None:
    b = box()
    for n in range(5):
        b.append(value(n))
    along = Along(b)
    along.follow()
    hidden = along.slot()._replace(high_watermark=3)
    along.log.follow(hidden, 2, lambda: hidden)
    assert along.log.high_watermark == 3
    assert not along.log.fetch(5, 100, 3).data
    with pytest.raises(OffsetOutOfRangeError):
        along.log.fetch(6, 100, 3)
    along.follow()
    assert along.values(4) == [value(4)]


def test_a_log_that_ends_earlier_than_it_did_is_reported(box: MakeBox) -> None:
    b = box()
    for n in range(3):
        b.append(value(n))
    along = Along(b)
    shorter = along.slot()
    for n in range(3, 5):
        b.append(value(n))
    along.follow()
    assert len(along.values()) == 5
    along.log.follow(shorter, 2, lambda: shorter)  # its files were put back from a copy
    with pytest.raises(OffsetOutOfRangeError) as raised:
        along.log.fetch(5, 100, along.log.high_watermark)
    assert (raised.value.log_start_offset, raised.value.log_end_offset) == (0, 3)


@pytest.mark.parametrize("known", [False, True])
def test_what_was_found_while_the_next_owner_was_at_work_does_not_count(box: MakeBox, known: bool) -> None:
    b = small(box, 3)
    along = alone(b)
    if known:
        along.follow()
    b.append(value(3))  # by the next owner, and not visible yet
    before = along.log.tail
    assert not along.log.follow_files(None, verify=False, is_alone=lambda: False)
    assert along.log.tail is before
    assert along.log.is_known is known
    assert along.log.follow_files(None, verify=False, is_alone=lambda: True)
    assert along.values() == [value(n) for n in range(4)]


# -- an owner went on and is gone, and the next one opens: there is no news, and the files are others


def behind(make: MakeBox, *, sealed: int, between: bool) -> Along:
    """A view of 6 records that has no file open yet, and a log that was compacted into one file of 9 since; `sealed` of
    the 6 were in a file of their own."""
    b = make(cleanup_policy="compact")
    for n in range(6):
        if n and n == sealed:
            b.log.roll(b.now)
        b.append(value(n), keys=[b"k%d" % n])
    along = Along(b)
    along.follow()
    along.log.renew = lambda failed: along.log.relist(lambda: between)
    for n in range(6, 9):
        b.append(value(n), keys=[b"k%d" % (n - 4)])  # of 2 to 4; there is one more of 0, 1 and 5
    b.log.roll(b.now)
    assert b.partition.maintenance.compact(b.now) is not None
    assert len(b.logs()) == 2
    b.append(value(9), keys=[b"k5"])
    return along


def seen(along: Along, start: int) -> tuple[list[int], int]:
    """The offsets that a reader is given from `start` on, and where it is when nothing more comes."""
    found = []
    position = start
    while (chunk := along.log.fetch(position, 1 << 16, along.log.high_watermark)).data:
        at = 0
        while at < len(chunk.data):
            header = read_header(chunk.data, at, chunk.seed, chunk.path, chunk.position + at)
            if header.next_offset > position:
                found += [header.base_offset] * header.record_count
                position = header.next_offset
            at += header.batch_len
    return found, position


@pytest.mark.parametrize("start", [0, 1, 4])
def test_between_two_owners_all_that_was_sealed_is_seen(box: MakeBox, start: int) -> None:
    along = behind(box, sealed=3, between=True)
    assert seen(along, start) == ([offset for offset in (0, 1, 5, 6, 7, 8) if offset >= start], 9)
    along.follow()
    assert seen(along, 9) == ([9], 10)


@pytest.mark.parametrize(("start", "expected"), [(0, [0, 1, 5]), (1, [1, 5]), (4, [5]), (6, [])])
@pytest.mark.parametrize("between", [True, False])
def test_a_file_that_holds_more_than_may_be_seen_is_read_as_far_as_that(
    box: MakeBox, start: int, expected: list[int], between: bool
) -> None:
    along = behind(box, sealed=0, between=between)  # the name is the same, so the replacement is not noticed
    assert seen(along, start) == (expected, 6)
    along.follow()
    assert seen(along, 6) == ([6, 7, 8, 9], 10)


def test_while_the_owner_lives_a_file_that_is_newer_than_its_word_is_read_as_far_as_that(box: MakeBox) -> None:
    along = behind(box, sealed=3, between=False)
    assert seen(along, 2) == ([5], 6)
    along.follow()
    assert seen(along, 6) == ([6, 7, 8, 9], 10)


def test_where_nothing_that_may_be_seen_is_left_a_reader_waits(box: MakeBox) -> None:
    along = behind(box, sealed=0, between=False)
    assert seen(along, 0) == ([0, 1, 5], 6)
    b = along.box
    for n in (0, 1, 5):
        b.append(value(n), keys=[b"k%d" % n])
    b.log.roll(b.now)
    assert b.partition.maintenance.compact(b.now) is not None
    along.log.release()
    assert seen(along, 0) == ([], 0)
    along.follow()
    assert seen(along, 0) == ([6, 7, 8, 10, 11, 12], 13)


def test_a_swap_that_a_killed_owner_left_is_read_while_the_next_one_finishes_it(box: MakeBox) -> None:
    b = small(box, 9, cleanup_policy="compact")
    b.log.roll(b.now)
    assert b.partition.maintenance.compact(b.now) is not None
    left = [value(n) for n in (6, 7, 8)]
    assert [entry.value for entry in b.read()] == left
    segment = b.logs()[0]
    swap = segment.with_name(swap_name(0, int(b.logs()[1].stem)))
    segment.rename(swap)
    along = alone(b)
    assert along.log.follow_files(None, verify=False, is_alone=lambda: True)
    swap.rename(segment)
    along.log.renew = lambda failed: along.log.relist(lambda: True)
    assert along.values() == left
    along.follow()
    assert along.values() == left
