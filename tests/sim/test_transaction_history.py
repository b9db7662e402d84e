"""The checker of transactions takes what may be, and finds each anomaly by itself."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.transaction_history import Place, Transaction, TransactionHistory, Violation, check_effects

A, B, SOURCE = ("out", 0), ("out", 1), ("in", 0)


class Story:
    """A history in few words: records are `letters`, the offset of each is given."""

    def __init__(self) -> None:
        self.history = TransactionHistory()

    def transaction(
        self, records: str = "", transactional_id: str = "t", instance: int = 1, place: Place = A
    ) -> Transaction:
        made = self.history.begin(transactional_id, instance)
        self.send(made, records, place)
        return made

    def send(self, transaction: Transaction, records: str, place: Place = A) -> None:
        for head in records:
            self.history.sends(transaction, place, head)

    def commit(self, transaction: Transaction, *, answered: bool = True) -> None:
        self.history.commits(transaction)
        if answered:
            self.history.committed(transaction)

    def reads(self, records: str, place: Place = A, *, end: int | None = None) -> None:
        """A reader of committed records finds these; a dot for an offset at which it finds none."""
        self.history.see_committed(place, _at_offsets(records), len(records) if end is None else end)

    def reads_all(self, records: str, place: Place = A) -> None:
        self.history.see_all(place, _at_offsets(records))


def _at_offsets(records: str) -> list[tuple[int, str]]:
    return [(offset, head) for offset, head in enumerate(records) if head != "."]


@pytest.fixture
def story() -> Story:
    return Story()


def finds(what: str) -> pytest.RaisesExc[Violation]:
    return pytest.raises(Violation, match=what)


# -- what may be -----------------------------------------------------------------------------------------


def test_transactions_of_all_outcomes_are_seen_as_they_should_be(story: Story) -> None:
    first, aborted, other = story.transaction("ab"), story.transaction("c"), story.transaction("x", "u")
    story.send(first, "d", B)
    story.commit(first)
    story.reads("ab")
    story.history.aborted(aborted)
    story.commit(other)
    story.reads_all("ab.c.x")
    story.reads("ab...x")
    story.reads("d", B)
    story.history.settled()
    assert story.history.counts == {"committed": 2, "aborted": 1}


@pytest.mark.parametrize("is_there", [True, False])
def test_a_commit_without_an_answer_is_whole_or_nothing(story: Story, is_there: bool) -> None:
    undecided = story.transaction("ab")
    story.commit(undecided, answered=False)
    story.history.process_ended()
    story.reads("ab" if is_there else "")
    story.history.settled()
    if is_there:
        with finds("'b' .*missing|at 1 was seen"):
            story.reads("a")
    else:
        with finds("a at 0 is seen as committed"):
            story.reads("ab")


def test_what_is_committed_behind_an_open_transaction_is_hidden_until_that_ends(story: Story) -> None:
    first, other = story.transaction("ac"), story.transaction("b", "u")
    for offset, head in enumerate("abc"):
        story.history.acknowledged(head, offset)
    story.commit(first)
    story.reads("a", end=1)
    story.history.aborted(other)
    story.reads("a.c")
    story.history.settled()


def test_what_may_have_timed_out_hides_nothing_and_is_not_seen(story: Story) -> None:
    open_, other = story.transaction("a"), story.transaction("x", "u")
    story.history.acknowledged("a", 0)
    story.commit(other)
    story.history.may_be_over()
    story.reads(".x")
    with finds("a at 0 is seen as committed"):
        story.reads("ax")
    assert not open_.is_answered


# -- each anomaly ----------------------------------------------------------------------------------------


def _seen_before_it_is_decided(story: Story) -> None:
    story.transaction("a")
    story.reads("a")


def _seen_though_aborted(story: Story) -> None:
    aborted, other = story.transaction("a"), story.transaction("b", "u")
    story.history.aborted(aborted)
    story.commit(other)
    story.reads("ab")


def _seen_behind_an_open_one(story: Story) -> None:
    story.transaction("a")
    story.history.acknowledged("a", 0)
    story.commit(story.transaction("b", "u"))
    story.reads(".b")


def _half_of_it_in_a_partition(story: Story) -> None:
    story.commit(story.transaction("ab"), answered=False)
    story.history.acknowledged("b", 1)
    story.reads("a", end=2)


def _half_of_it_though_nothing_is_open(story: Story) -> None:
    story.commit(story.transaction("ab"), answered=False)
    story.reads("a")
    story.history.settled()


def _answered_and_not_there(story: Story) -> None:
    story.commit(story.transaction("a"))
    story.history.acknowledged("a", 0)
    story.reads(".")


def _in_one_partition_alone(story: Story) -> None:
    made = story.transaction("a")
    story.send(made, "b", B)
    story.commit(made, answered=False)
    story.reads("a")
    story.reads("", B)
    story.history.settled()


def _never_sent(story: Story) -> None:
    story.reads_all("a")


def _in_another_partition(story: Story) -> None:
    story.transaction("a", place=B)
    story.reads_all("a")


def _twice(story: Story) -> None:
    story.commit(story.transaction("a"))
    story.reads("aa")


def _in_another_order(story: Story) -> None:
    story.transaction("ab")
    story.reads_all("ba")


def _gone_again(story: Story) -> None:
    story.commit(story.transaction("ab"), answered=False)
    story.reads("ab")
    story.history._incomplete.clear()
    story.reads("")


def _another_record_at_its_offset(story: Story) -> None:
    story.transaction("ab")
    story.history.acknowledged("a", 0)
    story.reads_all("b")


def _written_behind_the_fence(story: Story) -> None:
    story.transaction("a")
    story.history.fenced("t", 2, {A: 0})
    story.reads_all("a")


def _committed_after_the_fence(story: Story) -> None:
    zombie = story.transaction("a")
    story.history.fenced("t", 2)
    story.commit(zombie)


def _begun_and_committed_after_the_fence(story: Story) -> None:
    story.history.fenced("t", 2)
    story.commit(story.transaction("a"))


def _a_zombie_behind_its_successor(story: Story) -> None:
    story.transaction("a")
    story.transaction("b", instance=2)
    story.reads_all("ba")


def _aborted_by_its_producer_and_answered_as_committed(story: Story) -> None:
    made = story.transaction("a")
    story.commit(made)
    story.history.aborted(made)


def _a_position_of_an_aborted_one(story: Story) -> None:
    made = story.transaction()
    story.history.positions(made, "g", {SOURCE: 3})
    story.history.aborted(made)
    story.history.see_position("g", SOURCE, 3)


def _a_position_before_it_is_decided(story: Story) -> None:
    made = story.transaction()
    story.history.positions(made, "g", {SOURCE: 3})
    story.history.see_position("g", SOURCE, 3)


def _a_position_of_nothing(story: Story) -> None:
    story.history.see_position("g", SOURCE, 3)


def _a_position_that_goes_back(story: Story) -> None:
    for position in (3, 5):
        made = story.transaction()
        story.history.positions(made, "g", {SOURCE: position})
        story.commit(made)
        story.history.see_position("g", SOURCE, position)
    story.history.see_position("g", SOURCE, 3)


def _records_without_the_position(story: Story) -> None:
    made = story.transaction("a")
    story.history.positions(made, "g", {SOURCE: 3})
    story.commit(made)
    story.reads("a")
    story.history.settled()


def _a_position_without_the_records(story: Story) -> None:
    made = story.transaction("a")
    story.history.positions(made, "g", {SOURCE: 3})
    story.commit(made, answered=False)
    story.history.see_position("g", SOURCE, 3)
    story.reads("")
    story.history.settled()


ANOMALIES = {
    _seen_before_it_is_decided: "a at 0 is seen as committed: .* open",
    _seen_though_aborted: "a at 0 is seen as committed: .* aborted",
    _seen_behind_an_open_one: "at 0 is the first record of",
    _half_of_it_in_a_partition: r"\['b'\] are missing",
    _half_of_it_though_nothing_is_open: r"\['b'\] are missing",
    _answered_and_not_there: r"\['a'\] are missing",
    _in_one_partition_alone: r"\['b'\] are missing",
    _never_sent: "never sent",
    _in_another_partition: "was sent to",
    _twice: "is twice",
    _in_another_order: "was sent later",
    _gone_again: "was seen, and now None",
    _another_record_at_its_offset: "are both at 0",
    _written_behind_the_fence: "fenced producer",
    _committed_after_the_fence: "a commit was answered",
    _begun_and_committed_after_the_fence: "a commit of a fenced producer",
    _a_zombie_behind_its_successor: "was sent later",
    _aborted_by_its_producer_and_answered_as_committed: "an abort was answered",
    _a_position_of_an_aborted_one: "given by .* aborted",
    _a_position_before_it_is_decided: "given by .* open",
    _a_position_of_nothing: "no transaction gave it",
    _a_position_that_goes_back: "had 5",
    _records_without_the_position: "has 0 of .*, and 3 in",
    _a_position_without_the_records: r"\['a'\] are missing",
}


@pytest.mark.parametrize("anomaly", ANOMALIES, ids=lambda anomaly: anomaly.__name__.strip("_"))
def test_an_anomaly_is_found(story: Story, anomaly: Callable[[Story], None]) -> None:
    with finds(ANOMALIES[anomaly]):
        anomaly(story)


# -- what compaction and retention take ------------------------------------------------------------------


def of_one_key(story: Story, records: str, *, commits: bool = True) -> None:
    made = story.transaction()
    for head in records:
        story.history.sends(made, A, head, "k")
    if commits:
        story.commit(made)
    else:
        story.history.aborted(made)


def compacted(story: Story, records: str) -> None:
    story.history.see_compacted(A, _at_offsets(records), len(records))


def test_compaction_leaves_the_last_committed_record_of_each_key(story: Story) -> None:
    of_one_key(story, "ab")
    of_one_key(story, "x", commits=False)
    compacted(story, "ab.")
    compacted(story, ".b..")
    of_one_key(story, "c")
    compacted(story, "....c.")
    story.history.settled()


def test_the_last_committed_record_of_a_key_that_compaction_took_is_found(story: Story) -> None:
    of_one_key(story, "ab")
    compacted(story, "ab")
    with finds("k was seen at 1, and now at 0"):
        compacted(story, "a.")


def test_an_aborted_record_that_compaction_took_for_a_value_is_found(story: Story) -> None:
    of_one_key(story, "a")
    of_one_key(story, "x", commits=False)
    with finds("x at 1 is seen as committed"):
        compacted(story, ".x")


def test_a_committed_record_that_compaction_took_before_it_was_seen_is_found(story: Story) -> None:
    of_one_key(story, "a")
    story.history.acknowledged("a", 0)
    with finds("are missing"):
        compacted(story, "..")


def test_retention_takes_what_lies_before_the_log_start_and_nothing_else(story: Story) -> None:
    story.commit(story.transaction("abc"))
    story.reads("abc")
    story.history.see_committed(A, [(1, "b"), (2, "c")], 3, 1)
    story.history.settled()
    with finds("c at 2 was seen"):
        story.history.see_committed(A, [(1, "b")], 3, 1)


def test_an_open_transaction_of_which_all_records_were_deleted_may_hide_nothing(story: Story) -> None:
    is_open = story.transaction("a")
    story.history.acknowledged("a", 0)
    story.commit(story.transaction("b", "u"))
    story.history.see_committed(A, [(1, "b")], 2, 1)
    story.send(is_open, "c")
    story.history.acknowledged("c", 2)
    with finds("at 1 is the first record of"):
        story.history.see_committed(A, [(1, "b")], 3, 1)


# -- pipes -----------------------------------------------------------------------------------------------

SOURCES = {("in", 0): {0: "a", 1: "b", 3: "c"}, ("in", 1): {0: "d"}}


def check(positions: tuple[int, int], *sinks: str) -> int:
    return check_effects(
        SOURCES,
        {("in", n): position for n, position in enumerate(positions)},
        {("out", n): list(heads) for n, heads in enumerate(sinks)},
        lambda place, offset, head: [head.upper(), head] if head != "b" else [],
    )


def test_each_record_before_the_position_has_its_effects_once() -> None:
    assert check((0, 0)) == 0
    assert check((1, 0), "Aa") == 1
    assert check((3, 0), "A", "a") == 2
    assert check((4, 1), "ADC", "dac") == 4


@pytest.mark.parametrize(
    ("positions", "sinks", "what"),
    [
        ((1, 0), ["A"], "effects .'a'.* are missing"),
        ((1, 0), ["AaA"], "is there twice"),
        ((1, 0), ["Aa", "a"], "is there twice"),
        ((1, 0), ["AaD"], "no record that the group has committed"),
        ((0, 0), ["b"], "no record that the group has committed"),
        ((4, 0), ["CcAa"], "behind"),
        ((1, 0), ["aA"], "behind"),
    ],
)
def test_what_a_pipe_has_not_done_exactly_once_is_found(
    positions: tuple[int, int], sinks: list[str], what: str
) -> None:
    with finds(what):
        check(positions, *sinks)
