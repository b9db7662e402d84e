"""The history of kills takes what a compacted partition may show after one, and finds each loss by itself."""

from __future__ import annotations

import pytest

from .kill_history import TableHistory, Violation
from .processes import value_of


class Story:
    """A history in few words: a report is one letter for each offset, the key of the record there; a dot where there is none.

    A capital letter is a tombstone of its key. All records are of one thread, in the order of their offsets.
    """

    def __init__(self, brokers: int) -> None:
        self.history = TableHistory("table-0", brokers)

    def sends(self, keys: str, start: int = 0) -> None:
        """These are acknowledged."""
        for offset, letter in enumerate(keys, start):
            if letter.isupper():
                self.history.buries(letter.lower())
            self.history.sent(offset, _head(offset, letter), letter.lower())

    def finds(self, keys: str, directory: str = "one", *, numbers: dict[int, int] | None = None) -> None:
        """A report of what the leader has in this directory; the record at an offset has its number, or that of `numbers`."""
        records = [
            (offset, letter.lower(), _value((numbers or {}).get(offset, offset), letter))
            for offset, letter in enumerate(keys)
            if letter != "."
        ]
        self.history.check({"log_start": 0, "end": len(keys), "directory": directory, "records": records})


def _head(number: int, letter: str) -> str:
    return f"1.0.table.0.{number}" + "t" * letter.isupper()


def _value(number: int, letter: str) -> str:
    head = _head(number, letter)
    return head if letter.isupper() else value_of(head, 8).decode()


@pytest.fixture
def story() -> Story:
    return Story(brokers=3)


@pytest.fixture
def alone() -> Story:
    return Story(brokers=1)


def finds(what: str) -> pytest.RaisesExc[Violation]:
    return pytest.raises(Violation, match=what)


# -- what may be -----------------------------------------------------------------------------------------


def test_what_a_later_record_of_its_key_replaced_may_go(story: Story, alone: Story) -> None:
    for each in (story, alone):
        each.sends("abab")
        each.finds("abab")
        each.finds(".bab")
        each.finds("..abc")


def test_another_leader_that_compacted_less_may_have_it_again(story: Story) -> None:
    story.sends("abab")
    story.finds("..ab", "one")
    story.finds("abab", "two")
    story.finds("..ab", "one")


def test_nobody_need_have_seen_it_before_if_it_was_replaced_by_then(story: Story) -> None:
    """Nothing of it was acknowledged: the process was killed, and the first report comes after the leader has compacted."""
    story.finds("....ab", "one")
    story.finds("aAbbabc", "two")


def test_a_follower_that_fetched_what_was_compacted_may_have_older_records_than_are_gone(story: Story) -> None:
    story.finds("aaa", "one")
    story.finds("a.a", "two")


def test_a_tombstone_of_one_broker_may_go_and_its_key_with_it(alone: Story) -> None:
    alone.sends("abA")
    alone.finds(".bA")
    alone.finds(".b.")
    alone.finds(".b.b")
    alone.finds("...ba")


# -- what may not be -------------------------------------------------------------------------------------


def test_a_record_that_was_hidden_for_a_while_is_found(story: Story) -> None:
    story.finds("ab.", "one")
    with finds("1.0.table.0.2 appeared at 2 after what follows it; the record of c before was at None"):
        story.finds("abc", "two")


def test_a_record_that_was_hidden_while_an_older_one_of_its_key_was_there_is_found(story: Story) -> None:
    story.finds("ab.", "one")
    with finds("appeared at 2 .* the record of a before was at 0"):
        story.finds("aba", "two")


def test_a_record_that_was_hidden_before_its_successor_was_there_is_found(story: Story) -> None:
    """The report before the last one should have had it: what replaced it came later."""
    story.finds("b.", "one")
    story.finds("b.a", "one")
    with finds("appeared at 1 .* the record of a before was at None"):
        story.finds("baa", "two")


def test_a_record_that_comes_back_in_the_directory_that_had_compacted_it_is_found(story: Story, alone: Story) -> None:
    for each in (story, alone):
        each.sends("aba")
        each.finds("aba")
        each.finds(".ba")
        with finds("appeared at 0 .* in the directory that had compacted it"):
            each.finds("aba")


def test_it_is_found_too_if_another_directory_led_meanwhile(story: Story) -> None:
    story.finds(".ba", "one")
    story.finds("aba", "two")
    with finds("appeared at 0 .* in the directory that had compacted it"):
        story.finds("aba", "one")


def test_the_last_record_of_a_key_that_is_gone_is_found(story: Story, alone: Story) -> None:
    for each in (story, alone):
        each.sends("aba")
        with finds("a is back at .0., 1.0.table.0.2 at 2 is gone"):
            each.finds("ab.")


def test_a_key_that_is_gone_is_found(story: Story, alone: Story) -> None:
    for each in (story, alone):
        each.finds("ab")
        with finds("b=1.0.table.0.1 at 1 is lost"):
            each.finds("a.")


def test_a_lost_record_of_a_key_that_was_gone_before_is_found(alone: Story) -> None:
    alone.sends("abA")
    alone.finds(".b.")
    alone.sends("a", start=3)
    with finds("a=1.0.table.0.3 at 3 is lost"):
        alone.finds(".b..")


def test_the_value_before_a_tombstone_that_is_there_again_is_found(alone: Story) -> None:
    alone.sends("aA")
    alone.finds("aA")
    with finds("a is back at .0., 1.0.table.0.1t at 1 is gone"):
        alone.finds("a.")


def test_a_tombstone_of_several_brokers_that_is_gone_is_found(story: Story) -> None:
    story.sends("abA")
    story.finds("abA")
    with finds("a=1.0.table.0.0 at 0 is lost"):
        story.finds(".b.", "two")


def test_an_older_record_than_one_that_the_directory_had_and_removed_is_found(story: Story) -> None:
    story.finds("aaa")
    with finds("a is back at .0., 1.0.table.0.1 at 1 is gone"):
        story.finds("a.a")


def test_a_record_that_is_there_twice_is_found_though_the_first_one_is_compacted(story: Story, alone: Story) -> None:
    for each in (story, alone):
        each.finds("aab")
        with finds("1.0.table.0.0 at 3 is twice or late"):
            each.finds(".aba", numbers={3: 0})


def test_another_record_at_an_offset_is_found(story: Story) -> None:
    story.finds("ab", "one")
    with finds("1 held b=1.0.table.0.1, and now"):
        story.finds("aa", "two")


def test_an_end_that_goes_back_is_found(story: Story) -> None:
    story.finds("ab", "one")
    with finds("the end went back from 2 to 1"):
        story.finds("a", "two")


def test_what_was_acknowledged_past_the_end_is_found(story: Story) -> None:
    story.sends("ab")
    with finds("1.0.table.0.1, acknowledged at 1, is past the end"):
        story.finds("a")
