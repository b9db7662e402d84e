"""The rows of a batch that is open: a list, or what the core in C packs as they come."""

from __future__ import annotations

from streamlog.records import columns
from streamlog.records.core import core

ROWS = [(b"alice", b"9.50", 1_000), (None, b"3.20", 1_001)]


def test_rows_are_kept_in_their_order() -> None:
    rows = columns.new_rows()
    for row in ROWS:
        rows.append(row)
    assert len(rows) == len(ROWS)
    assert list(rows[0:2]) == ROWS


def test_only_rows_that_the_core_has_packed_are_sealed_as_they_are() -> None:
    rows = columns.new_rows()
    for row in ROWS:
        rows.append(row)
    made = columns.seal_rows(7, rows, len(ROWS), 0)
    if core is None:
        assert made is None
        return
    assert made is not None
    sealed, timestamps = made
    assert timestamps == [1_000, 1_001]
    assert sealed == columns.seal(7, [b"alice", None], [b"9.50", b"3.20"], [1_000, 1_001], count=2)
