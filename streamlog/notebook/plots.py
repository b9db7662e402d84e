"""Plots of a topic and of a group, by altair. At most `MAX_ROWS` rows are handed over, however much there is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from types import ModuleType
from typing import TYPE_CHECKING, Any

from ..client.bounded_read import BoundedRead
from ..client.extras import require
from ..config import integer
from ..frames.export import reader
from ..types import PartitionInfo, TopicPartition

if TYPE_CHECKING:
    import altair

MAX_ROWS = 5_000
"""More are refused by altair; and nothing can be seen of more."""


def _altair() -> ModuleType:
    return require("altair", "streamlog-py[notebook]", "Plots")


def records_over_time(read: BoundedRead, bins: int) -> altair.Chart:
    """How many records of each partition there are in each of so many spans of time. Cost: two reads of the timestamps."""
    alt = _altair()
    bins = integer("bins", bins, 1, MAX_ROWS)
    first, last = _bounds(read)
    width = max(1, -(-(last - first + 1) // bins))
    apart = len(read.ranges) * bins <= MAX_ROWS  # else all partitions together
    counts = _counts(read, first, width)
    if not apart:
        together: Counter[tuple[int, int]] = Counter()
        for (_, span), count in counts.items():
            together[-1, span] += count
        counts = together
    # Times as milliseconds since the epoch, which Vega takes: a timestamp may be beyond what a datetime holds.
    rows = [
        {"from": first + span * width, "to": first + (span + 1) * width, "partition": partition, "records": count}
        for (partition, span), count in sorted(counts.items())
    ]
    encoding: dict[str, Any] = {
        "x": alt.X("from:T", title="time"),
        "x2": "to:T",
        "y": alt.Y("records:Q", title=f"records in {_duration(width)}", stack=True),
        "tooltip": ["from:T", "records:Q"],
    }
    if apart:
        encoding["color"] = "partition:N"
    chart: altair.Chart = alt.Chart(alt.Data(values=rows)).mark_bar().encode(**encoding)
    return chart


def _bounds(read: BoundedRead) -> tuple[int, int]:
    """The least and the greatest timestamp; (0, 0) without a record."""
    import pyarrow as pa
    import pyarrow.compute as pc

    least: list[int] = []
    greatest: list[int] = []
    for batch in reader(read, ["timestamp"]):
        found = pc.min_max(batch.column(0).cast(pa.int64()))
        least.append(found["min"].as_py())
        greatest.append(found["max"].as_py())
    return min(least, default=0), max(greatest, default=0)


def _counts(read: BoundedRead, first: int, width: int) -> Counter[tuple[int, int]]:
    """How many records each partition has in each span."""
    import pyarrow as pa
    import pyarrow.compute as pc

    counts: Counter[tuple[int, int]] = Counter()
    for batch in reader(read, ["partition", "timestamp"]):
        spans = pc.divide(pc.subtract(batch.column(1).cast(pa.int64()), first), width)
        partition = batch.column(0)[0].as_py()  # a batch has records of one
        for entry in pc.value_counts(spans).to_pylist():
            counts[partition, entry["values"]] += entry["counts"]
    return counts


def _duration(ms: int) -> str:
    for unit, name in ((86_400_000, "d"), (3_600_000, "h"), (60_000, "min"), (1_000, "s")):
        if ms >= unit:
            return f"{ms / unit:.3g} {name}"
    return f"{ms} ms"


def partition_sizes(partitions: list[PartitionInfo]) -> altair.Chart:
    """The bytes of each partition on disk; of too many, the largest."""
    alt = _altair()
    largest = sorted(partitions, key=lambda each: -each.size_bytes)[:MAX_ROWS]
    rows = [
        {"partition": each.partition, "bytes": each.size_bytes, "records": each.log_end_offset - each.log_start_offset}
        for each in sorted(largest)
    ]
    chart: altair.Chart = (
        alt.Chart(alt.Data(values=rows))
        .mark_bar()
        .encode(x="partition:O", y="bytes:Q", tooltip=["partition:O", "bytes:Q", "records:Q"])
    )
    return chart


def lag(lags: Mapping[TopicPartition, int]) -> altair.Chart:
    """The lag of a group in each partition; of too many, the largest."""
    alt = _altair()
    largest = sorted(lags.items(), key=lambda each: -each[1])[:MAX_ROWS]
    rows = [{"topic": topic, "partition": partition, "lag": count} for (topic, partition), count in sorted(largest)]
    chart: altair.Chart = (
        alt.Chart(alt.Data(values=rows))
        .mark_bar()
        .encode(
            x="partition:O", y="lag:Q", color="topic:N", xOffset="topic:N", tooltip=["topic:N", "partition:O", "lag:Q"]
        )
    )
    return chart
