"""How fast reassignments copy: a token bucket for each broker, of the bytes that its new replicas fetch (KIP-73).

Only replicas that a reassignment adds, and that are not in sync yet, are throttled: a follower that is in sync, or was, must
keep up with its leader. Time is that of the log's clock, so that a test can move it.
"""

from __future__ import annotations

from collections.abc import Callable

# What a broker that fetched nothing for a while may fetch at once: so many seconds of the rate.
BURST_S = 1
_NS = 1_000_000_000


class ReplicationQuota:
    """`bytes_per_s` that each broker may fetch for replicas that reassignments add; None for no limit. It may change at any time."""

    def __init__(self) -> None:
        self.bytes_per_s: int | None = None


class ReplicationThrottle:
    """The token bucket of one broker. Not thread-safe: the thread that fetches has it.

    What is spent never exceeds the rate times the time, but for `BURST_S` and the last fetch: a batch comes whole, and one that
    is larger than what was left is waited for afterwards. It counts from one moment on in whole bytes, so no rounding adds up.

    `monotonic`: the log's clock, in seconds. `later` has the thread look again after so many ms of it.

    >>> quota, now = ReplicationQuota(), [0.0]
    >>> throttle = ReplicationThrottle(quota, lambda: now[0], later=print)
    >>> throttle.available() is None
    True
    >>> quota.bytes_per_s = 1000
    >>> throttle.available()
    0
    >>> now[0] = 0.5
    >>> throttle.available()
    500
    >>> throttle.spend(700)
    >>> throttle.wait()
    201
    """

    def __init__(self, quota: ReplicationQuota, monotonic: Callable[[], float], later: Callable[[int], object]) -> None:
        self._quota = quota
        self._monotonic = monotonic
        self._later = later
        self._rate: int | None = None
        self._since_ns = 0
        self._spent = 0

    def available(self) -> int | None:
        """How many bytes may be fetched now; 0 or less if that has to wait, None if there is no limit."""
        rate = self._quota.bytes_per_s
        if rate != self._rate:
            self._rate, self._since_ns, self._spent = rate, self._now_ns(), 0
        if rate is None:
            return None
        granted = rate * (self._now_ns() - self._since_ns) // _NS
        self._spent = max(self._spent, granted - rate * BURST_S)
        return granted - self._spent

    def spend(self, count: int) -> None:
        """So many bytes were fetched."""
        self._spent += count

    def wait(self) -> None:
        """Have the thread look again when there is something available."""
        left = self.available()
        if left is not None and self._rate is not None:
            self._later(-(-(1 - left) * 1000 // self._rate))

    def _now_ns(self) -> int:
        return round(self._monotonic() * _NS)
