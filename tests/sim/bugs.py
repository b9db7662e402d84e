"""Bugs of replication, most of them ones that Kafka had, to be put back in: the simulations and the scenarios have to see them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from streamlog.broker import brokers, controller, leader_moves
from streamlog.replication import election, follower
from streamlog.replication.partition import Partition
from streamlog.replication.replica_set import NO_LEADER, PartitionRegistration, ReplicaSet
from streamlog.storage.leader_epochs import LeaderEpochCache

from . import replicas

Bug = Callable[[pytest.MonkeyPatch], object]


def truncates_to_its_high_watermark(patch: pytest.MonkeyPatch) -> None:
    """Scenario 1: that is behind what was committed, and who truncated to it may lead next (KIP-101)."""
    follow = Partition.follow

    def wrong(self: Partition, registration: PartitionRegistration, now_ms: int = 0) -> None:
        is_new = registration.leader_epoch > self.leader_epoch
        follow(self, registration, now_ms)
        if is_new and not self.is_leader:
            follower.truncate_to(self, max(self.high_watermark, self.reader.tail.start_offset))

    patch.setattr(Partition, "follow", wrong)


def the_leader_compares_offsets_alone(patch: pytest.MonkeyPatch) -> None:
    """Scenario 2: two logs of the same length that part before are taken for the same (KIP-279)."""
    patch.setattr(Partition, "diverging_epoch", lambda self, last_epoch, offset: None)


def epochs_outlive_a_truncation(patch: pytest.MonkeyPatch) -> None:
    """Scenario 3: the log says that it has an epoch whose records it lost (KAFKA-10706)."""
    patch.setattr(LeaderEpochCache, "truncated", lambda self: None)
    patch.setattr(
        LeaderEpochCache, "written", lambda self, tail: self._epochs or _remembered(self, tail)
    )  # and are not cut off at the end of the log, as they are otherwise


def _remembered(cache: LeaderEpochCache, tail: object) -> object:
    from streamlog.storage import leader_epochs

    cache._epochs = leader_epochs.LeaderEpochs(leader_epochs._read(tail))  # type: ignore[arg-type]
    return cache._epochs


def a_replica_outside_the_set_leads(patch: pytest.MonkeyPatch) -> None:
    """Scenario 4, KIP-966: the last member has what the others lack."""
    real = election.elect

    def wrong(before: PartitionRegistration, alive: Any, *, unclean: Any = None) -> PartitionRegistration:
        after = real(before, alive, unclean=unclean)
        others = [broker for broker in before.replicas if broker in alive]
        if after.leader != NO_LEADER or not others:
            return after
        return before._replace(
            isr=(others[0],),
            leader=others[0],
            leader_epoch=before.leader_epoch + 1,
            partition_epoch=before.partition_epoch + 1,
        )

    patch.setattr(election, "elect", wrong)
    patch.setattr(replicas.Simulation, "forgive", lambda self: None)


def who_came_back_joins_by_what_it_had(patch: pytest.MonkeyPatch) -> None:
    """KIP-903: it may have lost its directory."""
    may_join = ReplicaSet.may_join
    patch.setattr(ReplicaSet, "may_join", lambda self, high_watermark, *_, **__: may_join(self, high_watermark))


def who_is_about_to_join_does_not_count(patch: pytest.MonkeyPatch) -> None:
    """The high watermark passes what a member has that joined meanwhile (KIP-497)."""
    patch.setattr(
        ReplicaSet,
        "_members",
        lambda self: [self.followers[each] for each in self.registration.isr if each in self.followers],
    )


def a_leader_acknowledges_alone(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(ReplicaSet, "in_sync_end", lambda self, own_end: own_end)


def a_follower_does_not_sync(patch: pytest.MonkeyPatch) -> None:
    """With sync=True its fetch says that it has on the device what a power loss takes."""
    patch.setattr(follower, "sync", lambda replica: None)


def what_waited_is_acknowledged_by_whatever_leads_next(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Partition, "epoch_of", lambda self, offset: 0)


def a_follower_takes_no_batch_that_begins_before_its_start(patch: pytest.MonkeyPatch) -> None:
    """Scenario 17: records were deleted up to the middle of the batch (KAFKA-6975)."""
    append_fetched = follower.append_fetched

    def wrong(replica: Partition, fetched: Any) -> bool:
        if fetched.diverging_epoch is not None or not fetched.data:
            return append_fetched(replica, fetched)
        replica.leader_high_watermark = fetched.high_watermark
        follower.append(replica, fetched.data, fetched.leader_epoch)
        if replica.durable:
            replica.commit.sync()
        follower.follow_leader(replica, fetched)
        return True

    patch.setattr(follower, "append_fetched", wrong)


def a_follower_deletes_nothing(patch: pytest.MonkeyPatch) -> None:
    """Scenario 17: it keeps what its leader has deleted, and leads next."""
    patch.setattr(follower, "follow_log_start", lambda replica, leader_log_start: replica.log.tail.start_offset)


def whoever_led_leads_after_a_crash(patch: pytest.MonkeyPatch) -> None:
    """Scenario 4: it may have lost what other members have."""
    patch.setattr(brokers.Brokers, "leaders_after_opening", lambda self, image: {})


def a_new_leader_forgets_what_was_committed(patch: pytest.MonkeyPatch) -> None:
    """Its readers see less than those of the leader before (KIP-207)."""
    patch.setattr(Partition, "learn_high_watermark", lambda self, committed: None)


def a_stopped_leader_waits_for_no_follower(patch: pytest.MonkeyPatch) -> None:
    """What acks=1 promised is lost with it."""
    patch.setattr(Partition, "is_replicated", property(lambda self: True))


def a_move_waits_for_no_follower(patch: pytest.MonkeyPatch) -> None:
    """A planned move of the leader loses what the next one does not have."""
    patch.setattr(leader_moves.LeaderMove, "end", property(lambda self: 0, lambda self, end: None), raising=False)


def a_lost_directory_counts_as_what_it_had(patch: pytest.MonkeyPatch) -> None:
    """A broker that was started on an empty directory stays a member of the in-sync sets."""
    real = controller.replace_directory
    patch.setattr(controller, "replace_directory", lambda *given: real(*given)[:1])
