"""Positions follow what was returned to the program, wherever a call raises; commits follow what it has finished."""

from typing import Any

import pytest

from streamlog.broker.waiting import FetchSession
from streamlog.client.consumer.subscription_state import NOTHING, EndOffsets, SubscriptionState
from streamlog.errors import CorruptRecordError, StreamlogError
from streamlog.replication.listeners import Waiters
from streamlog.storage.tail import UNKNOWN_END
from streamlog.types import Record, TopicPartition

A, B = TopicPartition("t", 0), TopicPartition("t", 1)


class Fetcher:
    """Gives the records up to `log_end`; those of `gaps` are not there, and at `damaged` it raises."""

    def __init__(self, name: TopicPartition, end: int, gaps: tuple[int, ...] = (), damaged: int | None = None) -> None:
        self.name, self.log_end, self.gaps, self.damaged = name, end, gaps, damaged
        self.waiters = Waiters()
        self.queued = False
        self.fetches = 0
        self.seek(0)

    def seek(self, offset: int) -> None:
        self.position = offset
        self.end = UNKNOWN_END

    def release(self) -> None: ...

    def append(self, n: int) -> None:
        self.log_end += n
        self.waiters.wake()

    def take(self, out: list[Any], n: int) -> int:
        before = len(out)
        self.fetches += 1
        self.end = self.log_end
        while self.position < self.end and len(out) - before < n:
            if self.position == self.damaged:
                self.end = UNKNOWN_END
                if len(out) > before:
                    break
                raise CorruptRecordError("it is damaged", path="", position=0, expected=0, actual=0)
            if self.position not in self.gaps:
                out.append(Record(*self.name, self.position, 0, None, b"", ()))
            self.position += 1
        return len(out) - before


def state_of(*fetchers: Fetcher) -> SubscriptionState:
    state = SubscriptionState(FetchSession({each.name: each for each in fetchers}.get, lambda: None))
    for fetcher in fetchers:
        state.add(fetcher)  # type: ignore[arg-type]
    return state


def returned_positions(state: SubscriptionState) -> dict[TopicPartition, int]:
    return state.returned_positions(state.fetchers)


def finished_positions(state: SubscriptionState) -> dict[TopicPartition, int]:
    return state.finished_positions(state.fetchers)


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
    assert (returned_positions(state), finished_positions(state)) == ({A: 3}, {A: 0})
    assert returned(state, 3) == [3, 4]
    assert (returned_positions(state), finished_positions(state)) == ({A: 5}, {A: 3})
    state.finish()
    assert finished_positions(state) == {A: 5}


def test_what_a_poll_took_before_it_was_interrupted_is_taken_again() -> None:
    state = state_of(Fetcher(A, 5))
    state.finish()
    state.take(3)  # and a Ctrl-C, before it was noted as returned
    assert returned_positions(state) == {A: 0}
    state.finish()
    assert finished_positions(state) == {A: 0}
    assert returned(state, 2) == [0, 1]


def test_an_iteration_finishes_each_record_when_the_next_one_is_asked_for() -> None:
    state = state_of(Fetcher(A, 3))
    assert iterated(state) == 0
    assert (returned_positions(state), finished_positions(state)) == ({A: 1}, {A: 0})
    assert iterated(state) == 1
    assert finished_positions(state) == {A: 1}
    assert [iterated(state), iterated(state)] == [2, None]
    assert returned_positions(state) == finished_positions(state) == {A: 3}


def test_a_record_that_was_prefetched_and_not_returned_is_read_again() -> None:
    state = state_of(Fetcher(A, 5))
    assert iterated(state) == 0
    state.finish()
    assert state.prefetch(500, None)
    state.next_prefetched()  # and a Ctrl-C, before `at` was moved past it
    state.finish()
    assert returned_positions(state) == {A: 1}
    assert returned(state, 2) == [1, 2], "a poll goes on where the iteration was"


def test_an_iteration_ends_before_the_end_offsets_and_passes_gaps() -> None:
    state = state_of(Fetcher(A, 6, gaps=(1, 4, 5)))
    ends = EndOffsets({A: 5})
    assert [iterated(state, ends=ends) for _ in range(4)] == [0, 2, 3, None]
    assert returned_positions(state) == {A: 5}
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
    assert returned_positions(state) == {A: 2}


def test_an_error_in_one_partition_waits_until_the_records_of_another_were_returned() -> None:
    state = state_of(Fetcher(B, 1), Fetcher(A, 5, damaged=0))
    assert returned(state, 9) == [0]
    with pytest.raises(StreamlogError):
        returned(state, 9)
    assert returned_positions(state) == {A: 0, B: 1}


@pytest.mark.parametrize("how", ["poll", "iteration"])
def test_a_seek_drops_what_is_in_hand_and_what_was_prefetched(how: str) -> None:
    state = state_of(Fetcher(A, 9))
    assert returned(state, 3) if how == "poll" else iterated(state) == 0
    state.seek(A, 7)
    assert state.polled is None and state.in_hand is None and state.prefetched is NOTHING
    assert returned_positions(state) == finished_positions(state) == {A: 7}
    assert returned(state, 9) == [7, 8]


def test_a_paused_partition_keeps_its_position_and_gives_nothing() -> None:
    state = state_of(Fetcher(A, 3), Fetcher(B, 3))
    assert iterated(state) == 0
    first = state.prefetched.name
    state.pause([first])
    assert state.prefetched is NOTHING and returned_positions(state)[first] == 1
    assert [iterated(state), iterated(state), iterated(state), iterated(state)] == [0, 1, 2, None]


def test_a_partition_that_is_removed_leaves_nothing() -> None:
    state = state_of(Fetcher(A, 3), Fetcher(B, 3))
    assert len(returned(state, 6)) == 6
    state.pause([A])
    state.remove([A, A])
    assert state.assigned() == {B} and state.paused == set()
    assert (returned_positions(state), finished_positions(state)) == ({B: 3}, {B: 0})
    state.remove([B])
    assert state.polled is None and returned_positions(state) == {}


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
    state.finish_through({A: 2})
    assert finished_positions(state) == {A: 2} and returned_positions(state) == {A: 4}
    state.finish_through({A: 100})  # past what was returned: no further than that
    assert finished_positions(state) == {A: 4} and state.polled is None
    assert iterated(state) == 4
    state.finish_through({A: 4})
    assert state.in_hand is not None
    state.finish_through({A: 5})
    assert state.in_hand is None


def test_a_commit_finishes_nothing_that_was_not_returned() -> None:
    state = state_of(Fetcher(A, 9))
    state.take(4)  # a listener commits in the middle of the poll
    state.finish_through({A: 4})
    assert finished_positions(state) == {A: 0}


def test_only_partitions_with_appends_are_fetched_from_however_many_are_assigned() -> None:
    names = [TopicPartition("t", n) for n in range(50)]
    fetchers = [Fetcher(name, 0) for name in names]
    state = state_of(*fetchers)
    assert returned(state, 9) == []
    assert [each.fetches for each in fetchers] == [1] * 50
    for _ in range(3):
        fetchers[7].append(2)
        assert len(returned(state, 9)) == 2
        assert returned(state, 9) == []
    assert [each.fetches for each in fetchers] == [1 + 3 * (n == 7) for n in range(50)], "one fetch for each append"


def test_an_append_after_the_fetch_is_found_by_the_next_call() -> None:
    fetcher = Fetcher(A, 0)
    state = state_of(fetcher)
    take = fetcher.take

    def take_before_an_append(out: list[Any], n: int) -> int:
        taken = take(out, n)
        fetcher.take = take  # type: ignore[method-assign]
        fetcher.append(1)
        return taken

    fetcher.take = take_before_an_append  # type: ignore[method-assign]
    assert returned(state, 9) == []
    assert returned(state, 9) == [0]


def test_a_call_that_raised_leaves_its_partition_in_the_queue() -> None:
    fetcher = Fetcher(A, 3)
    state = state_of(fetcher)
    state.finish()
    state.take(9)  # all there is, and a Ctrl-C
    state.finish()
    assert returned(state, 9) == [0, 1, 2]
    assert returned(state, 9) == []


def test_an_append_of_which_nothing_was_heard_is_found_by_looking_again() -> None:
    fetchers = [Fetcher(TopicPartition("t", n), 0) for n in range(5)]
    state = state_of(*fetchers)
    assert returned(state, 9) == []
    fetchers[4].log_end = 1  # and a Ctrl-C kept the sender from calling the waiters
    for _ in fetchers:
        assert state.look_again() == 1
    assert returned(state, 9) == [0]
    fetchers[3].log_end = fetchers[4].log_end = 2
    state.look_again(everywhere=True)
    assert sorted(returned(state, 9)) == [0, 1, 1]
    state.finish()
    fetchers[2].log_end = 1
    ends = EndOffsets({each.name: each.log_end for each in fetchers})
    assert not state.prefetch(9, ends)
    assert state.look_again_before(ends) and state.prefetch(9, ends)


def test_a_partition_that_was_removed_and_added_again_is_read_once() -> None:
    fetcher, again = Fetcher(A, 2), Fetcher(A, 2)
    state = state_of(fetcher)
    state.remove([A])
    state.add(again)  # type: ignore[arg-type]
    assert returned(state, 9) == [0, 1]
    assert returned(state, 9) == []
    assert fetcher.fetches == 0
    assert not state.session.watched.keys() - {A}


def test_what_moved_since_it_was_committed_is_known() -> None:
    state = state_of(*[Fetcher(TopicPartition("u", n), 0) for n in range(9)], Fetcher(B, 5))
    state.committed(finished_positions(state))
    assert state.uncommitted() == []
    assert len(returned(state, 2)) == 2
    assert state.uncommitted() == [B]
    state.finish()
    assert state.uncommitted() == [B]
    state.committed({B: 1})
    assert state.uncommitted() == [B]
    state.committed({B: 2})
    assert state.uncommitted() == []
    assert iterated(state) == 2
    assert state.uncommitted() == [B]


def test_a_poll_that_returns_at_once_takes_what_its_fetches_have_brought_news_of() -> None:
    """A reader of another process's log hears of appends only when it fetches."""
    fetchers = [Fetcher(TopicPartition("t", n), 0) for n in range(5)]
    state = state_of(*fetchers)
    assert returned(state, 9) == []
    for each in fetchers:
        take = each.take

        def take_with_news(out: list[Any], n: int, take: Any = take) -> int:
            if not fetchers[3].log_end:
                fetchers[3].append(1)
            taken: int = take(out, n)
            return taken

        each.take = take_with_news  # type: ignore[method-assign]
    state.finish()
    assert [record.partition for record in state.take(9, None, True)] == [3]
