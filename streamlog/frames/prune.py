"""What of a read can pass a filter: the partitions, offsets and times that are left.

The filter is not taken apart, it is asked: pyarrow simplifies it with what is known of some records, and tells whether any of them can
pass.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.fs

from ..client.bounded_read import BoundedRead
from .columns import TIMESTAMP

_FORMAT = ds.IpcFileFormat()
_FILES = pyarrow.fs.LocalFileSystem()
MAX_ASKED = 4_000_000
"""Characters of a filter, over all partitions, up to which it is asked of each: what that takes grows with both."""
# How pyarrow writes constants. One that is not found makes no difference to what passes: more is read.
_INTEGER = re.compile(r"(?<![\w.:-])-?\d{1,18}(?![\w.:-])")
_TIME = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(?:\.\d{1,6})?")


def may_pass(filter: Any, schema: pa.Schema, known: Sequence[Any]) -> list[int]:
    """Of several sets of records, of each of which something is known as an expression, the indexes of those that may have one that passes."""
    # Of the dataset only the expressions count: no file is opened.
    fragments = [
        _FORMAT.make_fragment(str(n), filesystem=_FILES, partition_expression=each) for n, each in enumerate(known)
    ]
    found = ds.FileSystemDataset(fragments, schema, _FORMAT, _FILES).get_fragments(filter)
    return [int(each.path) for each in found]


def prune(read: BoundedRead, filter: Any, schema: pa.Schema) -> BoundedRead:
    """The part of a read outside which no record passes."""
    partition, offset, timestamp = pc.field("partition"), pc.field("offset"), pc.field("timestamp")
    text = str(filter)
    left = list(read.ranges)
    if len(left) * len(text) <= MAX_ASKED:
        valid = partition.is_valid() & offset.is_valid() & timestamp.is_valid()
        of_partitions = [
            valid & (partition == each.name.partition) & (offset >= each.start) & (offset < each.end) for each in left
        ]
        left = [left[n] for n in may_pass(filter, schema, of_partitions)]
    first, last = bounds(filter, schema, offset, [pa.scalar(int(each), pa.int64()) for each in _INTEGER.findall(text)])
    earliest, latest = bounds(
        filter, schema, timestamp, [each for found in _TIME.findall(text) for each in _times(found)]
    )
    return read._replace(ranges=tuple(read.within(left, first, last, earliest, latest)))


def bounds(filter: Any, schema: pa.Schema, field: Any, constants: Iterable[pa.Scalar]) -> tuple[int | None, int | None]:
    """The least and the greatest value of a field with which a record may pass. None: none of the constants is such a bound.

    Where a filter compares with a constant of its own, that is a bound or none. The best is searched for by halves: where nothing
    below a constant passes, nothing below a lesser one does.
    """
    ordered = sorted({_value(each): each for each in constants}.items())

    def passes(known: Any) -> bool:
        return bool(may_pass(filter, schema, [field.is_valid() & known]))

    lows = bisect_left(ordered, True, key=lambda each: passes(field < each[1]))
    highs = bisect_left(ordered, True, key=lambda each: not passes(field > each[1]))
    return (ordered[lows - 1][0] if lows else None), (ordered[highs][0] if highs < len(ordered) else None)


def _value(scalar: pa.Scalar) -> int:
    value: int = scalar.value if hasattr(scalar, "value") else scalar.as_py()
    return value


def _times(text: str) -> list[pa.Scalar]:
    try:
        return [
            pa.scalar(text)
            .cast(pa.timestamp("us"))
            .cast(pa.timestamp("ms"), safe=False)
            .cast(pa.int64())
            .cast(TIMESTAMP)
        ]
    except (pa.ArrowInvalid, ValueError):
        return []
