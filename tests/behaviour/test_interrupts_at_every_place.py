"""Ctrl-C, or what else a signal handler raises, at every place of a call at which Python can deliver one leaves a log
that works, with all that was acknowledged, and commits nothing that was not handed out.

`tests/stress/interrupts.py` says which places these are and why. Calls of a few hundred places are swept at every third,
the long ones (opening, closing, topics, a first poll) at every so many, from a random place on; all are swept whole by
`python -m tests.stress.interrupts`. A place that leaves a lock held fails here with its name; nothing hangs.
"""

from __future__ import annotations

import random
from typing import Any

import pytest

from streamlog import Consumer, ConsumerGroup, Workers
from streamlog.client.consumer.subscription_state import SubscriptionState
from streamlog.runtime.threads import start_thread
from tests.stress import interrupted_calls as calls
from tests.stress.interrupts import ACTIONS, KINDS, sweep

pytestmark = pytest.mark.looks_again  # the thread that was interrupted may have been about to wake another one

WHOLE = (
    calls.Send,
    calls.SendThatRolls,
    calls.SendWithKeyAndHeaders,
    calls.SendSynced,
    calls.SendReplicated,
    calls.LogSync,
    calls.SendMany,
    calls.SendManyBatches,
    calls.SendManyThatLingers,
    calls.LingerAndFlush,
    calls.LingerBehindOthers,
    calls.Poll,
    calls.PollOfAMember,
    calls.PollBatches,
    calls.Loop,
    calls.UntilEnd,
    calls.Commit,
    calls.EndATransaction,
    calls.CloseAProducer,
    calls.SendSyncedToBrokers,
    calls.LingerToBrokers,
    calls.PollOfBrokers,
    calls.CommitToBrokers,
    calls.ElectALeader,
)
SAMPLED = tuple(kind for kind in ACTIONS if kind not in WHOLE)
# Those whose answer to a Ctrl-C may be interrupted by the next.
TWICE = (
    *WHOLE[:11],
    calls.Poll,
    calls.PollOfAMember,
    calls.PollBatches,
    calls.Loop,
    calls.UntilEnd,
    calls.Commit,
    calls.EndATransaction,
    calls.CloseAConsumer,
)
READING = (calls.Poll, calls.PollBatches, calls.Loop, calls.BlockAroundALoop, calls.CloseAConsumer)
SAMPLES = 20


@pytest.mark.slow
@pytest.mark.parametrize("kind", WHOLE, ids=lambda kind: kind.__name__)
def test_an_interrupt_anywhere_leaves_the_log_usable_and_loses_nothing(
    kind: type[calls.Action], rng: random.Random
) -> None:
    swept = sweep(kind, first=rng.randint(1, 3), step=3)
    assert swept.interrupts > 10, "the sweep has missed the call"


@pytest.mark.slow
@pytest.mark.parametrize("kind", SAMPLED, ids=lambda kind: kind.__name__)
def test_an_interrupt_in_a_long_call_leaves_the_log_usable_and_loses_nothing(
    kind: type[calls.Action], rng: random.Random
) -> None:
    places = min(sweep(kind, first=10**9).places for _ in range(2))  # the first call of a process may do more
    step = places // SAMPLES
    swept = sweep(kind, first=rng.randint(1, step), step=step)
    assert swept.interrupts >= SAMPLES // 2


def test_a_close_that_is_interrupted_as_it_takes_a_consumer_is_done_by_the_next_one() -> None:
    assert sweep(calls.CloseTheLog, within=Consumer._close_with_log.__code__).interrupts > 5


@pytest.mark.parametrize(
    "called", [ConsumerGroup.run, Workers._begin, start_thread], ids=lambda called: called.__qualname__
)
def test_workers_whose_start_is_interrupted_end_before_run_has_raised(called: Any) -> None:
    assert sweep(calls.RunWorkers, within=called.__code__).interrupts > 1


@pytest.mark.slow
@pytest.mark.parametrize("kind", TWICE, ids=lambda kind: kind.__name__)
def test_a_second_interrupt_while_the_first_is_handled_does_no_harm_either(
    kind: type[calls.Action], rng: random.Random
) -> None:
    swept = sweep(kind, first=rng.randint(1, 10), step=10, again=lambda: rng.choice((1, 2, 3, 5, 8)))
    assert swept.interrupts >= max(3, swept.places // 20), "the sweep has missed the call"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ACTIONS, ids=lambda kind: kind.__name__)
def test_what_else_ends_a_call_anywhere_does_no_more_harm_than_an_interrupt(
    kind: type[calls.Action], rng: random.Random
) -> None:
    step = sweep(kind, first=10**9).places // SAMPLES or 1
    sweep(kind, first=rng.randint(1, step), step=step, error=rng.choice(KINDS[1:]))


@pytest.mark.slow
@pytest.mark.parametrize("error", KINDS, ids=lambda error: error.__name__)
@pytest.mark.parametrize("kind", READING, ids=lambda kind: kind.__name__)
def test_no_exception_has_a_reader_commit_or_skip_what_it_did_not_hand_out(
    kind: type[calls.Action], error: type[BaseException], rng: random.Random
) -> None:
    step = sweep(kind, first=10**9).places // SAMPLES or 1
    sweep(kind, first=rng.randint(1, step), step=step, error=error)


def test_a_partition_whose_assignment_is_interrupted_is_read_once() -> None:
    assert sweep(calls.FirstPollOfAMember, within=SubscriptionState.add.__code__).interrupts > 1
