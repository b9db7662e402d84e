"""A member that joins at any place of another's call for its next record: each record is handled once.

A newcomer takes partitions from a member that has nothing in hand, and a loop takes its next record without a lock. So
the newcomer polls before each instruction of that call, on the thread of the call: it must come out as if it had come
before or after. Some of the instructions are tried, from a random one on; all by `python -m tests.stress.sweeps`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import streamlog
from streamlog.client.consumer import consumer as consumer_module
from tests.sampling import Sampled

# No frame of these files holds a lock of the log's while it runs.
_FILES = tuple(
    f"{Path(consumer_module.__file__).parent}/{name}.py"
    for name in ("access", "consumer", "coordinator", "subscription_state")
)


def at_place(nth: int, call: Callable[[], Any], other: Callable[[], None]) -> bool:
    """Make `call`, with `other` before its `nth` instruction; whether it has that many."""
    places = 0

    def enter(frame: FrameType, event: str, arg: object) -> Any:
        if frame.f_code.co_filename not in _FILES:
            return None
        frame.f_trace = trace  # before what follows, which Python 3.13 ignores of a frame without one
        frame.f_trace_lines = False
        frame.f_trace_opcodes = True
        return trace

    def trace(frame: FrameType, event: str, arg: object) -> Any:
        nonlocal places
        if event == "opcode":
            places += 1
            if places == nth:
                other()
        return trace

    before = sys.gettrace()
    sys.settrace(enter)
    try:
        call()
    finally:
        sys.settrace(before)
    return places >= nth


class Member:
    """Commits every record as soon as it has it, so between two calls it has nothing in hand."""

    def __init__(self, log: streamlog.StreamLog, name: str) -> None:
        self.consumer = log.consumer(name, group=name, enable_auto_commit=False)
        self.seen: list[tuple[int, int]] = []

    def handle(self, records: Iterator[streamlog.Record[Any, Any]] | list[streamlog.Record[Any, Any]]) -> None:
        for record in records:
            self.seen.append((record.partition, record.offset))
            self.consumer.commit(record)

    def poll(self) -> None:
        self.handle(self.consumer.poll(max_records=1))


@pytest.mark.parametrize("how", ["next", "until_end", "poll"])
def test_a_member_that_joins_at_any_place_of_a_call_takes_no_record_that_is_handed_out(
    log: streamlog.StreamLog, how: str, monkeypatch: pytest.MonkeyPatch, sampled: Sampled
) -> None:
    monkeypatch.setattr(consumer_module, "real_monotonic", lambda: 0.0)  # a loop renews its place by time
    moved = 0
    found = True
    numbers = iter(sampled(range(1, 10_000), 12 if how == "poll" else 4))  # which has many more instructions
    while found:
        nth = next(numbers)
        name = f"t{nth}"
        topic = log.create_topic(name, partitions=2)
        for partition in range(2):
            topic.send_many(["x"] * 4, partition=partition).result()
        first, second = Member(log, name), Member(log, name)
        records = first.consumer.until_end() if how == "until_end" else first.consumer
        first.handle([next(records), next(records)])

        taken: list[Any] = []

        def call() -> None:
            taken.extend(first.consumer.poll(max_records=1) if how == "poll" else [next(records)])  # noqa: B023

        found = at_place(nth, call, second.poll)
        first.handle(taken)
        moved += bool(second.seen)
        for _ in range(8):
            first.poll()
            second.poll()
        assert sorted(first.seen + second.seen) == [(p, n) for p in range(2) for n in range(4)], f"at instruction {nth}"
        first.consumer.close()
        second.consumer.close()
        topic.delete()
    assert nth > 20 and moved, "no instruction of the call was met"
