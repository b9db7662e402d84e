"""Each scenario of `test_replica_scenarios` with its bug put back in: the test fails, so that its passing means something."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import pytest

from streamlog import StreamlogError
from tests.sim import bugs
from tests.sim.schedule import Hang

from . import test_replica_scenarios as scenarios
from . import test_scenarios_caught as alone


class Row(NamedTuple):
    number: str
    scenario: Callable[[], None]
    bug: bugs.Bug


FAILOVERS = scenarios.test_after_two_failovers_in_a_row_all_replicas_have_what_the_last_leader_has
BEHIND = scenarios.test_a_follower_that_does_not_know_what_is_committed_keeps_it_and_may_lead
EPOCHS = scenarios.test_a_log_that_was_truncated_knows_no_epoch_whose_records_it_lost
MEMBER = scenarios.test_only_a_member_of_the_last_in_sync_set_leads
DEVICE = scenarios.test_the_last_member_has_on_its_device_what_was_acknowledged
ROLL = scenarios.test_a_new_segment_of_a_follower_survives_a_power_loss_at_any_moment
ANEW = scenarios.test_a_replica_that_begins_anew_fetches_from_the_middle_of_a_batch
START = scenarios.test_a_follower_takes_over_a_log_start_that_lies_in_the_middle_of_a_batch

ROWS = (
    Row("1", BEHIND, bugs.truncates_to_its_high_watermark),
    Row("2", FAILOVERS, bugs.the_leader_compares_offsets_alone),
    Row("3", EPOCHS, bugs.epochs_outlive_a_truncation),
    Row("4", MEMBER, bugs.a_replica_outside_the_set_leads),
    Row("4", DEVICE, bugs.a_follower_does_not_sync),
    Row("5", ROLL, alone.a_directory_is_not_synced),
    Row("5", ROLL, alone.a_roll_does_not_sync_its_directory),
    Row("5", ROLL, bugs.a_follower_does_not_sync),
    Row("17", ANEW, bugs.a_follower_takes_no_batch_that_begins_before_its_start),
    Row("17", START, bugs.a_follower_deletes_nothing),
)


@pytest.mark.parametrize(
    "row",
    # With this bug the follower and the leader never agree, and it takes the schedule 9 s to see that.
    [pytest.param(row, marks=pytest.mark.slow) if row.scenario is EPOCHS else row for row in ROWS],
    ids=lambda row: f"{row.number}: {row.bug.__name__}",
)
def test_the_scenario_fails_with_its_bug(row: Row, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        row.bug(patch)
        with pytest.raises((AssertionError, StreamlogError, Hang)):
            row.scenario()
