"""A view of another process's log does not go back: who has read to its end is never told that this is behind the log."""

from __future__ import annotations

import pytest

from streamlog.errors import OffsetOutOfRangeError

from .test_following import Along, MakeBox, alone, small, value


def test_a_view_that_was_never_made_says_of_no_offset_that_it_is_none(box: MakeBox) -> None:
    along = Along(small(box, 3))
    assert not along.log.is_known
    for offset in (0, 3, 1000):
        assert not along.log.fetch(offset, 100, along.log.high_watermark).data
    along.follow()
    assert along.log.is_known
    with pytest.raises(OffsetOutOfRangeError):
        along.log.fetch(1000, 100, along.log.high_watermark)


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
    along.log.follow(along.slot()._replace(high_watermark=3), 2, along.slot)
    assert along.log.high_watermark == 3
    assert not along.log.fetch(5, 100, 3).data
    with pytest.raises(OffsetOutOfRangeError):
        along.log.fetch(6, 100, 3)
    along.follow()
    assert along.values(4) == [value(4)]


def test_a_log_that_ends_earlier_than_it_did_is_told(box: MakeBox) -> None:
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
    b.append(value(3))  # by the next owner, and nobody may see it yet
    before = along.log.tail
    assert not along.log.salvage(None, verify=False, is_alone=lambda: False)
    assert along.log.tail is before
    assert along.log.is_known is known
    assert along.log.salvage(None, verify=False, is_alone=lambda: True)
    assert along.values() == [value(n) for n in range(4)]
