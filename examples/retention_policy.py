"""A retention policy of your own: no record is deleted before it is archived, however old it is.

    python examples/retention_policy.py

A policy gets the sealed segments of one partition, oldest first, and returns how many of the oldest may be deleted.
Policies can be combined: `&` deletes what both would delete, `|` what either would. A manual clock lets days pass.
"""

from collections.abc import Sequence
from datetime import timedelta

import streamlog
from streamlog.retention import MaxAge, Policy
from streamlog.testing import ManualClock


class Archived(Policy):
    """Deletes segments that lie below the offset up to which the archive has all records."""

    name = "archived"

    def __init__(self) -> None:
        self.up_to = 0

    def expired(self, segments: Sequence[streamlog.SegmentInfo], now_ms: int) -> int:
        return sum(1 for segment in segments if segment.next_offset <= self.up_to)


def main() -> None:
    clock = ManualClock(start_ms=1_767_225_600_000)
    archived = Archived()
    with streamlog.open(clock=clock) as log:
        topic = log.create_topic(
            "audit",
            retention=MaxAge(timedelta(days=3)) & archived,
            segment_ms=timedelta(days=1),
        )
        for day in range(10):
            topic.send(f"day {day}")
            clock.advance(timedelta(days=1))

        def kept() -> list[str]:
            topic.apply_retention()
            return [record.value.decode() for record in topic.read()]

        nothing_archived = kept()
        print(f"ten days, nothing archived:      {len(nothing_archived)} records kept")
        archived.up_to = 4
        four_archived = kept()
        print(f"the first four days archived:    {len(four_archived)} kept, the oldest is {four_archived[0]!r}")
        archived.up_to = 10
        all_archived = kept()
        print(f"everything archived:             {len(all_archived)} kept, younger than three days")

    assert len(nothing_archived) == 10
    assert four_archived == [f"day {day}" for day in range(4, 10)]
    assert 0 < len(all_archived) <= 4 and all_archived == [f"day {day}" for day in range(10 - len(all_archived), 10)]


if __name__ == "__main__":
    main()
