"""The token bucket counts bytes exactly, however the clock is read, and follows a rate that changes."""

from __future__ import annotations

import random

from streamlog.replication.throttle import BURST_S, ReplicationQuota, ReplicationThrottle


class Bucket:
    def __init__(self, rate: int | None) -> None:
        self.now = 5.0
        self.waits: list[int] = []
        self.quota = ReplicationQuota()
        self.throttle = ReplicationThrottle(self.quota, lambda: self.now, self.waits.append)
        self.throttle.available()
        self.quota.bytes_per_s = rate
        self.throttle.available()


def test_without_a_limit_there_is_none() -> None:
    bucket = Bucket(None)
    bucket.throttle.spend(1 << 40)
    assert bucket.throttle.available() is None
    bucket.throttle.wait()
    assert not bucket.waits


def test_over_any_time_what_is_spent_is_the_rate_times_the_time_to_the_byte() -> None:
    rng = random.Random(7)
    bucket, spent, most = Bucket(999_983), 0, 0
    for _ in range(20_000):
        bucket.now += rng.choice((0.0001, 0.0037, 0.051))
        available = bucket.throttle.available()
        assert available is not None
        if available > 0:
            count = rng.randint(1, available + 4000)
            most = max(most, count - available)
            bucket.throttle.spend(count)
            spent += count
    left = bucket.throttle.available()
    assert left is not None
    granted = 999_983 * round((bucket.now - 5.0) * 1e9) // 10**9
    assert granted - spent == left, "no rounding adds up"
    assert -4000 <= left <= 999_983 * BURST_S


def test_what_was_not_used_for_long_is_lost_but_for_the_burst() -> None:
    bucket = Bucket(1000)
    bucket.now += 60
    assert bucket.throttle.available() == 1000 * BURST_S
    bucket.throttle.spend(1000 * BURST_S)
    assert bucket.throttle.available() == 0
    bucket.now += 0.25
    assert bucket.throttle.available() == 250


def test_a_batch_that_is_larger_than_what_was_left_is_waited_for_afterwards() -> None:
    bucket = Bucket(1000)
    bucket.now += 0.001
    bucket.throttle.spend(5001)
    bucket.throttle.wait()
    assert bucket.waits == [5001]
    bucket.now += 5.0
    assert bucket.throttle.available() == 0
    bucket.now += 0.001
    assert bucket.throttle.available() == 1


def test_a_rate_that_changes_counts_from_then_on() -> None:
    bucket = Bucket(1000)
    bucket.throttle.spend(1_000_000)
    bucket.quota.bytes_per_s = 2000
    assert bucket.throttle.available() == 0
    bucket.now += 0.5
    assert bucket.throttle.available() == 1000
    bucket.quota.bytes_per_s = None
    assert bucket.throttle.available() is None
