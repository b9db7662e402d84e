"""Waiting until a consumer group has shared the partitions among its members."""

from __future__ import annotations

from ..client.arguments import seconds
from ..client.handle import time_left
from ..client.streamlog import StreamLog
from ..config import integer
from ..runtime.threads import RawGate
from ..types import MemberInfo

_LOOK_S = 0.005


def wait_for_group(log: StreamLog, group: str, *, timeout: float = 10, members: int = 1) -> list[MemberInfo]:
    """Wait until a group is stable, and return its members: each has its partitions, and none is moving.

    Without it a test that sends too early, or asks too early who has which partition, passes or fails by chance. `members`: at
    least so many have joined; give it where several join, because a group is stable between the first and the second. The members
    may be Kafka's clients or the log's own consumers; all must go on polling meanwhile, or nothing moves.

    `timeout`: seconds of real time, under a `ManualClock` too. Raises TimeoutError, which says how the group was then.

    >>> import streamlog
    >>> from streamlog.testing import wait_for_group
    >>> with streamlog.open() as log:
    ...     _ = log.create_topic("orders", partitions=2)
    ...     with log.group("billing").start(print, "orders", workers=2):
    ...         members = wait_for_group(log, "billing", members=2)
    ...         sorted(len(member.assignment) for member in members)
    [1, 1]
    """
    left = time_left(seconds(timeout))
    count = integer("members", members, 1)
    handle = log.group(group)
    while True:
        before = handle._describe()
        if before.state == "Stable" and len(before.members) >= count:
            found = handle.members()
            if handle._describe() == before:  # so they had these partitions in that state
                return found
        if left() == 0.0:
            break
        RawGate().wait(min(_LOOK_S, left()))
    who = ", ".join(f"{each.member_id} with {len(each.assignment)} partitions" for each in before.members) or "none"
    raise TimeoutError(
        f"Group {group!r} is not stable with {count} members or more after {timeout} s: its state is {before.state}, its members are: {who}. "
        f"Is each member subscribed, and does it go on polling?"
    )
