"""What a leader knows of its followers: the end of what all have, who lags, who may join."""

from __future__ import annotations

from streamlog.replication.replica_set import PartitionRegistration, ReplicaSet

REGISTRATION = PartitionRegistration((0, 1, 2), (0, 1, 2), 0, 3, 7)


def test_the_end_is_the_least_of_the_members_and_of_no_other_replica() -> None:
    replicas = ReplicaSet(0, REGISTRATION._replace(isr=(0, 1)), epoch_start=0, now_ms=0)
    assert replicas.in_sync_end(10) == -1, "a member that has not fetched from this leader"
    replicas.fetched(1, 8, leader_end=10, now_ms=1, broker_epoch=5)
    assert replicas.in_sync_end(10) == 8
    replicas.fetched(1, 12, leader_end=12, now_ms=2, broker_epoch=5)
    assert replicas.in_sync_end(11) == 11, "its own end, where that is what is on the device"


def test_who_is_about_to_join_counts_at_once_and_who_is_about_to_leave_until_it_is_known() -> None:
    """The greatest set that may be in force (KIP-497)."""
    replicas = ReplicaSet(0, REGISTRATION._replace(isr=(0, 1)), epoch_start=0, now_ms=0)
    replicas.fetched(1, 10, 10, 1, broker_epoch=5)
    replicas.fetched(2, 10, 10, 1, broker_epoch=5)
    replicas.begin_joining((2,))
    assert replicas.wanted(leaving=(1,)) == (0, 2)
    replicas.fetched(2, 11, 20, 2, broker_epoch=5)
    replicas.fetched(1, 12, 20, 2, broker_epoch=5)
    assert replicas.in_sync_end(20) == 11
    replicas.update(REGISTRATION._replace(isr=(0, 1), partition_epoch=8), now_ms=3)  # the controller refused
    assert replicas.in_sync_end(20) == 12


def test_a_follower_has_caught_up_if_it_fetches_from_what_was_the_end_at_its_last_fetch() -> None:
    """Under a steady load it never fetches from the end as it is when the fetch arrives."""
    replicas = ReplicaSet(0, REGISTRATION, epoch_start=0, now_ms=0)
    for now_ms in range(0, 1000, 100):
        replicas.fetched(1, now_ms, leader_end=now_ms + 100, now_ms=now_ms, broker_epoch=5)
        replicas.fetched(2, 5, leader_end=now_ms + 100, now_ms=now_ms, broker_epoch=5)
    assert replicas.lagging(1000, now_ms=900, lag_ms=200) == (2,)
    assert replicas.lagging(1000, now_ms=900, lag_ms=900) == (), "not longer than that"


def test_a_follower_that_has_everything_does_not_lag_however_long_ago_it_fetched() -> None:
    replicas = ReplicaSet(0, REGISTRATION, epoch_start=0, now_ms=0)
    replicas.fetched(1, 10, 10, 0, broker_epoch=5)
    assert replicas.lagging(10, now_ms=10**6, lag_ms=100) == (2,)


def test_who_joins_has_what_was_committed_and_what_the_leader_began_with() -> None:
    """A new leader's high watermark may be behind what was committed (KIP-279)."""
    replicas = ReplicaSet(0, REGISTRATION._replace(isr=(0,)), epoch_start=10, now_ms=0)
    replicas.fetched(1, 9, 20, 1, broker_epoch=5)
    replicas.fetched(2, 12, 20, 1, broker_epoch=5)
    assert replicas.may_join(high_watermark=5) == (2,)
    assert replicas.may_join(high_watermark=13) == ()
    replicas.begin_joining((2,))
    assert replicas.may_join(high_watermark=5) == (), "it is asked for already"


def test_a_fetch_of_who_is_no_replica_any_more_changes_nothing() -> None:
    replicas = ReplicaSet(0, REGISTRATION._replace(replicas=(0, 1), isr=(0, 1)), epoch_start=0, now_ms=0)
    replicas.fetched(2, 10, 10, 0, broker_epoch=5)
    assert set(replicas.followers) == {1}


def test_what_is_known_of_a_follower_outlives_a_change_of_the_set() -> None:
    replicas = ReplicaSet(0, REGISTRATION, epoch_start=0, now_ms=0)
    replicas.fetched(1, 10, 10, 5, broker_epoch=5)
    replicas.update(REGISTRATION._replace(isr=(0, 1), partition_epoch=8), now_ms=9)
    assert replicas.in_sync_end(10) == 10


def test_who_came_back_joins_only_after_a_fetch() -> None:
    """Its directory may be another one: what it had before does not count (KIP-903)."""
    replicas = ReplicaSet(0, REGISTRATION._replace(isr=(0,)), epoch_start=0, now_ms=0)
    replicas.fetched(1, 10, 10, 1, broker_epoch=5)
    assert replicas.may_join(10, {0: 1, 1: 5}) == (1,)
    assert replicas.may_join(10, {0: 1, 1: 8}) == ()
    assert replicas.may_join(10, {0: 1}) == (), "it is not alive"


def test_followers_that_are_stuck_at_the_high_watermark_leave_and_stay_away_until_they_fetch() -> None:
    everyone = (0, 1, 2)
    replicas = ReplicaSet(0, PartitionRegistration(everyone, everyone, 0, 0, 0), 0, 0)
    for broker, now_ms in ((1, 5), (2, 20)):
        replicas.fetched(broker, 1, 1, now_ms, 0)
    lag_ms, end, epochs = 10, 2, {0: 0, 1: 0, 2: 0}

    def decide(now_ms: int) -> tuple[int, ...]:
        replicas.begin_joining(replicas.may_join(1, epochs, end, now_ms - lag_ms))
        isr = replicas.wanted(replicas.lagging(end, now_ms, lag_ms))
        replicas.update(replicas.registration._replace(isr=isr), now_ms)
        return isr

    assert [decide(now_ms) for now_ms in (16, 31, 40)] == [(0, 2), (0,), (0,)]
    replicas.fetched(1, 1, end, 41, 0)
    assert decide(42) == (0, 1)


def test_a_fetch_that_a_broker_sent_before_it_registered_again_says_nothing_of_what_it_has() -> None:
    """It may have lost its directory in between, and have caught up as far as the high watermark since."""
    replicas = ReplicaSet(0, PartitionRegistration((0, 1), (0, 1), 0, 1, 1), epoch_start=0, now_ms=0)
    replicas.fetched(1, 5, leader_end=9, now_ms=1, broker_epoch=4)
    replicas.fetched(1, 9, leader_end=9, now_ms=2, broker_epoch=3)
    assert replicas.in_sync_end(9) == 5
