"""Positions follow what was returned to the program, wherever a call raises; commits follow what it has finished."""

from typing import Any

import pytest

from streamlog.client.consumer.subscription_state import NOTHING, SubscriptionState
from streamlog.errors import CorruptRecordError, StreamlogError
from streamlog.types import Record, TopicPartition

A, B = TopicPartition("t", 0), TopicPartition("t", 1)


class Fetcher:
    """Gives the records up to `end`; those of `gaps` are not there, and at `damaged` it raises."""

    def __init__(self, name: TopicPartition, end: int, gaps: tuple[int, ...] = (), damaged: int | None = None) -> None:
        self.name, self.end, self.gaps, self.damaged = name, end, gaps, damaged
        self.position = 0

    def seek(self, offset: int) -> None:
        self.position = offset

    def take(self, out: list[Any], n: int) -> None:
        before = len(out)
        while self.position < self.end and len(out) - before < n:
            if self.position == self.damaged:
                if len(out) > before:
                    return
                raise CorruptRecordError("it is damaged", path="", position=0, expected=0, actual=0)
            if self.position not in self.gaps:
                out.append(Record(*self.name, self.position, 0, None, b"", ()))
            self.position += 1


def state_of(*fetchers: Fetcher) -> SubscriptionState:
    state = SubscriptionState()
    for fetcher in fetchers:
        state.add(fetcher)  # type: ignore[arg-type]
    return state


def returned(state: SubscriptionState, n: int) -> list[int]:
    """A poll that ends: what `Consumer.poll` does."""
    state.finish()
    out = state.take(n)
    state.returned = state.polled
    return [record.offset for record in out]


def iterated(state: SubscriptionState, n: int = 500, ends: Any = None) -> int | None:
    """The next record of an iteration that ends: what `Consumer.__next__` does."""
    state.finish()
    if not state.prefetch(n, ends):
        return None
    prefetched = state.next_prefetched()
    offset = prefetched.records[prefetched.at].offset
    prefetched.at += 1
    return offset


def test_a_poll_is_returned_at_once_and_finished_by_the_next_one() -> None:
    state = state_of(Fetcher(A, 5))
    assert returned(state, 3) == [0, 1, 2]
    assert (state.returned_positions(), state.finished_positions()) == ({A: 3}, {A: 0})
    assert returned(state, 3) == [3, 4]
    assert (state.returned_positions(), state.finished_positions()) == ({A: 5}, {A: 3})
    state.finish()
    assert state.finished_positions() == {A: 5}


def test_what_a_poll_took_before_it_was_interrupted_is_taken_again() -> None:
    state = state_of(Fetcher(A, 5))
    state.finish()
    state.take(3)  # and a Ctrl-C, before it was noted as returned
    assert state.returned_positions() == {A: 0}
    state.finish()
    assert state.finished_positions() == {A: 0}
    assert returned(state, 2) == [0, 1]


def test_an_iteration_finishes_each_record_when_the_next_one_is_asked_for() -> None:
    state = state_of(Fetcher(A, 3))
    assert iterated(state) == 0
    assert (state.returned_positions(), state.finished_positions()) == ({A: 1}, {A: 0})
    assert iterated(state) == 1
    assert state.finished_positions() == {A: 1}
    assert [iterated(state), iterated(state)] == [2, None]
    assert state.returned_positions() == state.finished_positions() == {A: 3}


def test_a_record_that_was_prefetched_and_not_returned_is_read_again() -> None:
    state = state_of(Fetcher(A, 5))
    assert iterated(state) == 0
    state.finish()
    assert state.prefetch(500, None)
    state.next_prefetched()  # and a Ctrl-C, before `at` was moved past it
    state.finish()
    assert state.returned_positions() == {A: 1}
    assert returned(state, 2) == [1, 2], "a poll goes on where the iteration was"


def test_an_iteration_ends_before_the_end_offsets_and_passes_gaps() -> None:
    state = state_of(Fetcher(A, 6, gaps=(1, 4, 5)))
    ends = {A: 5}
    assert [iterated(state, ends=ends) for _ in range(4)] == [0, 2, 3, None]
    assert state.returned_positions() == {A: 5}
    assert iterated(state_of(Fetcher(A, 3, gaps=(0, 1, 2)))) is None


def test_partitions_take_turns_to_be_first() -> None:
    state = state_of(Fetcher(A, 9), Fetcher(B, 9))
    seen = []
    for _ in range(4):
        state.finish()
        seen.append(state.take(1)[0].partition)
        state.returned = state.polled
    assert sorted(seen) == [0, 0, 1, 1]


def test_an_error_waits_until_the_records_before_it_were_returned() -> None:
    state = state_of(Fetcher(A, 5, damaged=2))
    assert returned(state, 9) == [0, 1]
    with pytest.raises(StreamlogError):
        returned(state, 9)
    assert state.returned_positions() == {A: 2}


def test_an_error_in_one_partition_waits_until_the_records_of_another_were_returned() -> None:
    state = state_of(Fetcher(A, 5, damaged=0), Fetcher(B, 1))  # the first turn is the second's
    assert returned(state, 9) == [0]
    with pytest.raises(StreamlogError):
        returned(state, 9)
    assert state.returned_positions() == {A: 0, B: 1}


@pytest.mark.parametrize("how", ["poll", "iteration"])
def test_a_seek_drops_what_is_in_hand_and_what_was_prefetched(how: str) -> None:
    state = state_of(Fetcher(A, 9))
    assert returned(state, 3) if how == "poll" else iterated(state) == 0
    state.seek(A, 7)
    assert state.polled is None and state.in_hand is None and state.prefetched is NOTHING
    assert state.returned_positions() == state.finished_positions() == {A: 7}
    assert returned(state, 9) == [7, 8]


def test_a_paused_partition_keeps_its_position_and_gives_nothing() -> None:
    state = state_of(Fetcher(A, 3), Fetcher(B, 3))
    assert iterated(state) == 0
    first = state.prefetched.name
    state.pause([first])
    assert state.prefetched is NOTHING and state.returned_positions()[first] == 1
    assert state.fetchable() == [B if first == A else A]
    assert [iterated(state), iterated(state), iterated(state), iterated(state)] == [0, 1, 2, None]


def test_a_partition_that_is_removed_leaves_nothing() -> None:
    state = state_of(Fetcher(A, 3), Fetcher(B, 3))
    assert len(returned(state, 6)) == 6
    state.pause([A])
    state.remove([A, A])
    assert state.assigned() == {B} and state.paused == set()
    assert (state.returned_positions(), state.finished_positions()) == ({B: 3}, {B: 0})
    state.remove([B])
    assert state.polled is None and state.returned_positions() == {}


def test_partitions_can_go_without_asking_only_while_no_record_is_in_hand() -> None:
    state = state_of(Fetcher(A, 3))
    assert state.end_lock_free()
    assert iterated(state) == 0
    assert state.lock_free is state.prefetched
    assert not state.end_lock_free()
    assert state.lock_free is NOTHING
    state.finish()
    assert state.end_lock_free()
    returned(state, 1)
    assert not state.end_lock_free()


def test_a_commit_finishes_the_records_before_it() -> None:
    state = state_of(Fetcher(A, 9))
    returned(state, 4)
    state.finish_through(A, 2)
    assert state.finished_positions() == {A: 2} and state.returned_positions() == {A: 4}
    state.finish_through(A, 100)  # past what was returned: no further than that
    assert state.finished_positions() == {A: 4} and state.polled is None
    assert iterated(state) == 4
    state.finish_through(A, 4)
    assert state.in_hand is not None
    state.finish_through(A, 5)
    assert state.in_hand is None


def test_a_commit_finishes_nothing_that_was_not_returned() -> None:
    state = state_of(Fetcher(A, 9))
    state.take(4)  # a listener commits in the middle of the poll
    state.finish_through(A, 4)
    assert state.finished_positions() == {A: 0}
