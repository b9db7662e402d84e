"""Nothing acknowledged is lost, and no reader sees two values at one offset, whatever happens to the replicas.

`python -m tests.sim.replicas --seeds 20000 --steps 500` does it for longer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest

from streamlog.replication.partition import Partition
from streamlog.replication.replica_set import PartitionRegistration, ReplicaSet
from streamlog.storage.leader_epochs import LeaderEpochCache

from . import replicas as simulation
from .replicas import Violation, run

SEEDS, STEPS = 25, 300
KINDS = [(False, False), (True, False), (False, True), (True, True)]


@pytest.mark.parametrize(("durable", "unclean"), KINDS)
def test_nothing_acknowledged_is_lost_by_replicas(durable: bool, unclean: bool) -> None:
    fired: Counter[str] = Counter()
    for seed in range(SEEDS):
        fired += run(seed, STEPS, durable=durable, unclean=unclean)
    wanted = {"acknowledged", "delete", "grew", "handed over", "kill", "lose", "moved", "not enough", "shrank", "start"}
    assert wanted | ({"unclean"} if unclean else set()) <= set(fired)


@pytest.mark.parametrize(("seed", "durable"), [(1115, True), (1778, False)])
def test_a_follower_without_a_record_does_not_ask_for_ever_where_the_logs_part(seed: int, durable: bool) -> None:
    """All it had was deleted, and the leader of an unclean election has never had its last epoch."""
    run(seed, STEPS, durable=durable, unclean=True)


# -- what is wrong on purpose is seen --------------------------------------------------------------------

Bug = Callable[[pytest.MonkeyPatch], object]


def truncates_to_its_high_watermark(patch: pytest.MonkeyPatch) -> None:
    """Scenario 1: that is behind what was committed, and who truncated to it may lead next (KIP-101)."""
    follow = Partition.follow

    def wrong(self: Partition, registration: PartitionRegistration, now_ms: int = 0) -> None:
        is_new = registration.leader_epoch > self.leader_epoch
        follow(self, registration, now_ms)
        if is_new and not self.is_leader:
            self.truncate_to(max(self.high_watermark, self.reader.tail.start_offset))

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

    def wrong(before: PartitionRegistration, alive: set[int], *, unclean: object = None) -> PartitionRegistration:
        if before.leader in alive or not alive:
            return before
        leader = min(alive)
        isr = (leader,)
        return before._replace(
            isr=isr, leader=leader, leader_epoch=before.leader_epoch + 1, partition_epoch=before.partition_epoch + 1
        )

    patch.setattr(simulation, "elect", wrong)
    patch.setattr(simulation.Simulation, "forgive", lambda self: None)


def who_came_back_joins_by_what_it_had(patch: pytest.MonkeyPatch) -> None:
    """KIP-903: it may have lost its directory."""
    may_join = ReplicaSet.may_join
    patch.setattr(ReplicaSet, "may_join", lambda self, high_watermark, epochs=None: may_join(self, high_watermark))


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
    take = Partition.take

    def wrong(self: Partition, *fetched: object) -> bool:
        durable, self.durable = self.durable, False
        try:
            return take(self, *fetched)  # type: ignore[arg-type]
        finally:
            self.durable = durable

    patch.setattr(Partition, "take", wrong)


def what_waited_is_acknowledged_by_whatever_leads_next(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Partition, "epoch_of", lambda self, offset: 0)


BUGS: list[Bug] = [
    truncates_to_its_high_watermark,
    the_leader_compares_offsets_alone,
    epochs_outlive_a_truncation,
    a_replica_outside_the_set_leads,
    who_came_back_joins_by_what_it_had,
    who_is_about_to_join_does_not_count,
    a_leader_acknowledges_alone,
    a_follower_does_not_sync,
    what_waited_is_acknowledged_by_whatever_leads_next,
]


def first_violation(most: int = 400) -> int | None:
    """The number of seeds, of each kind in turn, until one fails; None if none does."""
    for number in range(most):
        durable, unclean = KINDS[number % len(KINDS)]
        try:
            run(number, STEPS, durable=durable, unclean=unclean)
        except Violation:
            return number + 1
    return None


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: str(bug.__name__))
def test_a_bug_is_seen(bug: Bug, monkeypatch: pytest.MonkeyPatch) -> None:
    bug(monkeypatch)
    assert first_violation() is not None
