"""Which leader wrote what part of a log: the table, without a log."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamlog.errors import NotLeaderError
from streamlog.storage.leader_epochs import EpochEnd, EpochStart, LeaderEpochs


def epochs(*entries: tuple[int, int]) -> LeaderEpochs:
    return LeaderEpochs([EpochStart(*entry) for entry in entries])


def test_an_epoch_begins_where_the_log_ends() -> None:
    table = LeaderEpochs()
    assert table.latest is None
    table.begin(3, 0)
    table.begin(3, 10)
    table.begin(7, 20)
    assert table.entries == [(3, 0), (7, 20)]
    assert table.latest == 7


def test_an_epoch_that_goes_back_is_refused() -> None:
    table = epochs((0, 0), (5, 10))
    with pytest.raises(NotLeaderError) as error:
        table.begin(4, 20)
    assert (error.value.leader_epoch, error.value.current_epoch) == (4, 5)
    assert table.entries == [(0, 0), (5, 10)]


def test_an_epoch_in_which_nothing_was_written_is_replaced() -> None:
    table = epochs((0, 0), (5, 10))
    table.begin(4, 10)
    assert table.entries == [(0, 0), (4, 10)]


def test_epochs_are_cut_with_the_log() -> None:
    """KAFKA-10706: an epoch that outlives its records sends followers to an offset that never was."""
    table = epochs((0, 0), (2, 10), (5, 20))
    table.cut(20)
    assert table.entries == [(0, 0), (2, 10)]
    table.cut(5)
    assert table.entries == [(0, 0)]
    table.cut(0)
    assert table.entries == []


def test_the_first_epoch_begins_where_the_log_does() -> None:
    table = epochs((0, 0), (2, 10), (5, 20))
    table.raise_start(0)
    assert table.entries == [(0, 0), (2, 10), (5, 20)]
    table.raise_start(12)
    assert table.entries == [(2, 12), (5, 20)]
    table.raise_start(20)
    assert table.entries == [(5, 20)]
    table.raise_start(25)
    assert table.entries == [(5, 25)]


@pytest.mark.parametrize(
    ("epoch", "end"),
    [
        (-1, None),
        (0, EpochEnd(0, 5)),  # older than all there is: where the first begins
        (1, EpochEnd(1, 10)),
        (2, EpochEnd(1, 10)),  # never was here: the one before
        (4, EpochEnd(4, 30)),
        (6, EpochEnd(4, 30)),
        (7, EpochEnd(7, 99)),
        (8, None),  # newer than all there is
    ],
)
def test_an_epoch_ended_where_the_next_began_and_the_last_one_at_the_end(epoch: int, end: EpochEnd | None) -> None:
    assert epochs((1, 5), (4, 10), (7, 30)).end_offset_for(epoch, 99) == end


def test_a_log_without_batches_knows_no_epoch() -> None:
    assert LeaderEpochs().end_offset_for(0, 0) is None


@given(st.lists(st.tuples(st.integers(0, 2), st.sampled_from(["append", "cut", "start"]), st.integers(0, 30))))
@settings(max_examples=300, deadline=None)
def test_the_answers_are_those_of_a_list_with_an_epoch_for_every_offset(steps: list[tuple[int, str, int]]) -> None:
    table, log, start, epoch = LeaderEpochs(), list[int](), 0, 0
    for up, kind, number in steps:
        if kind == "append":
            epoch += up
            table.begin(epoch, len(log))
            log += [epoch] * (1 + number % 4)
        elif kind == "cut":
            del log[max(start, len(log) - number) :]
            table.cut(len(log))
        else:
            start = min(len(log), start + number % 3)
            table.raise_start(start)
        if start == len(log):
            continue
        kept = log[start:]
        assert table.entries == [(e, start + kept.index(e)) for e in sorted(set(kept))]
        for asked in range(epoch + 2):
            below = [e for e in kept if e <= asked]
            above = [start + at for at, e in enumerate(kept) if e > asked]
            answer = table.end_offset_for(asked, len(log))
            if asked == kept[-1]:
                assert answer == (asked, len(log))
            elif not above:
                assert answer is None
            else:
                assert answer == (below[-1] if below else asked, above[0])
