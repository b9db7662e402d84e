"""A reader in another process finds the transactions of the log by itself, and looks at each header once."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streamlog.records.batch import read_header
from streamlog.storage import truncation
from streamlog.storage.tailed_segment import TailedSegment
from streamlog.storage.transactions import UNREAD

from .conftest import Box
from .counting_disk import Killed
from .test_tailing import Along
from .transactional import Transactional, committed

MakeBox = Callable[..., Box]


def seen_along(along: Along) -> list[tuple[int, bytes | None]]:
    """What a reader of committed records sees that follows `along`."""
    log = along.log
    high_watermark = log.high_watermark
    known = log.read_transactions(high_watermark)
    end = high_watermark
    if known is not None:
        end = known.last_stable_offset(high_watermark, log.tail.start_offset)
    found: list[tuple[int, bytes | None]] = []
    offset = log.tail.start_offset
    while offset < end:
        chunk = log.fetch(offset, 1 << 16, end)
        assert chunk.data
        at = 0
        while at < len(chunk.data):
            header = read_header(chunk.data, at, chunk.seed, chunk.path, chunk.position + at)
            at += header.batch_len
            offset = max(offset, header.next_offset)
            if not header.is_control and not (known is not None and known.aborted.have(header)):
                found += [(each, b"") for each in range(header.base_offset, header.next_offset) if header.record_count]
    return [each for each in found if each[0] >= log.tail.start_offset]


STEPS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["send", "commit", "abort"]), st.integers(1, 3)),
        st.tuples(
            st.sampled_from(["plain", "roll", "compact", "delete", "truncate", "look", "look"]), st.integers(1, 12)
        ),
    ),
    max_size=40,
)


@given(STEPS)
@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
def test_a_reader_that_looks_now_and_then_sees_what_the_owners_readers_see(box: MakeBox, steps: list[Any]) -> None:
    b = box(cleanup_policy="compact", segment_bytes=1024)
    t, along = Transactional(b), Along(b)
    along.log.may_have_transactions = True
    replicated = 0
    for kind, n in [*steps, ("look", 1)]:
        end = b.log.tail.end_offset
        if kind == "send":
            t.send(b"x" * 200, producer=n, keys=[b"%d" % end])
        elif kind in ("commit", "abort"):
            t.end(commit=kind == "commit", producer=n)
        elif kind == "plain":
            b.append(b"x" * 20 * n, keys=[b"%d" % end])
        elif kind == "roll":
            b.log.roll(b.now)
        elif kind == "compact":
            b.log.roll(b.now)
            b.partition.maintenance.compact(b.now)
            along.rewritten()
            replicated = b.log.tail.end_offset
        elif kind == "delete":
            b.partition.delete_records(max(b.log.tail.start_offset, end - n))
        elif kind == "truncate":
            truncation.truncate_to(b.log, max(replicated, b.log.tail.start_offset, end - n))
            b.forget_high_watermark()
            along.rewritten()
            for producer in (1, 2, 3):
                t.begin_epoch(producer)
        else:
            along.follow()
            assert seen_along(along) == [(offset, b"") for offset, _ in committed(b)]


def test_each_header_is_looked_at_once(box: MakeBox, monkeypatch: pytest.MonkeyPatch) -> None:
    b = box(segment_bytes=1 << 20)
    t, along = Transactional(b), Along(b)
    along.log.may_have_transactions = True
    positions: list[int] = []
    read = TailedSegment.read

    def counted(segment: TailedSegment, length: int, position: int) -> bytes:
        positions.append(position)
        return read(segment, length, position)

    monkeypatch.setattr(TailedSegment, "read", counted)
    ends = [0]
    for n in range(50):
        t.send(b"%d" % n * 100)
        along.follow()
        for _ in range(2):
            assert along.log.read_transactions(along.log.high_watermark) is not None
        ends.append(b.log.tail.end_position)
    assert positions == ends[:-1]


def test_without_a_coordinator_nothing_is_looked_for_unless_the_owner_says_that_something_is_unstable(
    box: MakeBox,
) -> None:
    b = box()
    t, along = Transactional(b), Along(b)
    b.append(b"a")
    along.follow()
    assert along.log.transactions is None
    t.send(b"b")
    slot = along.slot()
    along.log.follow(slot._replace(last_stable_offset=1), 1, along.slot)
    assert along.log.transactions is UNREAD


def test_a_look_that_was_interrupted_is_finished_by_the_next(box: MakeBox) -> None:
    b = box(segment_bytes=1024)
    t = Transactional(b)
    for n in range(6):
        t.send(b"%d" % n * 500)
        t.end(commit=bool(n % 2))
    for at in range(1, 100):
        along = Along(b)
        along.log.may_have_transactions = True
        along.follow()
        calls = iter(range(100))

        def before(call: str, path: str, calls: Any = calls, at: int = at) -> None:
            if next(calls) == at:
                raise Killed

        along.disk.before = before
        with suppress(Killed):
            along.log.read_transactions(along.log.high_watermark)
        is_over = next(calls) <= at
        along.disk.before = lambda call, path: None
        assert seen_along(along) == [(offset, b"") for offset, _ in committed(b)]
        if is_over:
            break
    assert at > 5
