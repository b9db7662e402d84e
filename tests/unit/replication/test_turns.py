"""A sender that waits for its record takes the turns of the followers: what it does, and what it leaves to their threads."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from streamlog.errors import StorageError
from streamlog.replication import fetcher, follower
from streamlog.replication.fetcher import RETRY_MS, SLOW_S, Following
from streamlog.replication.partition import Partition
from streamlog.runtime.api import Completion
from tests.bytecodes import bytecodes
from tests.unit.replication.pair import LED_BY_0, LED_BY_1, NAME, NOW, Pair


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    """A follower that has everything, and goes on in the leader's epoch."""
    made = Pair(tmp_path)
    made.send()
    made.fetcher.step(0)
    made.nudges = 0
    return made


def send_one(pair: Pair) -> Completion[int]:
    return pair.leader.append_one_later(b"k", b"v", NOW, NOW)


def drive(done: Completion[Any]) -> bool:
    assert done.work is not None
    return done.work.drive()


def following(pair: Pair) -> Following:
    return pair.fetcher._followed[NAME]


def ends(pair: Pair) -> list[tuple[int, int]]:
    return [(replica.reader.tail.end_offset, replica.high_watermark) for replica in pair.replicas]


def in_the_middle(patch: pytest.MonkeyPatch, call: Callable[[], object]) -> None:
    """Have `call` called, as another thread would, after a sender has read for a follower and before each append."""

    def before(append: Callable[..., int]) -> Callable[..., int]:
        def appended(*arguments: Any) -> int:
            call()
            return append(*arguments)

        return appended

    for append in ("append_in_turn", "append_copy"):
        patch.setattr(follower, append, before(getattr(follower, append)))


def once(call: Callable[[], object]) -> Callable[[], object]:
    calls = [call]
    return lambda: calls.pop()() if calls else None


def test_the_sender_has_the_follower_take_its_record_and_no_thread_is_woken(pair: Pair) -> None:
    done = send_one(pair)
    assert not done.done()
    assert drive(done)
    assert done.result() == 1
    assert ends(pair) == [(2, 2), (2, 2)]
    assert not drive(done), "there is nothing left to do"
    assert pair.nudges == 0


def test_what_the_sender_does_for_a_record_is_bounded(pair: Pair) -> None:
    """2,300 bytecodes with one follower, those of the test's disk among them. A fetch by its thread takes 3,000 alone."""
    for _ in range(3):
        drive(send_one(pair))
    assert bytecodes(lambda: drive(send_one(pair))) < 2_500
    assert pair.leader.high_watermark == 5


def test_a_turn_that_the_followers_own_thread_has_is_left_to_it(pair: Pair) -> None:
    done = send_one(pair)
    with following(pair).turn:
        assert not drive(done)
    assert pair.nudges == 1
    pair.fetcher.step(0)
    assert done.result() == 1


def test_a_sender_that_finds_another_one_at_work_leaves_its_record_to_that(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    others: list[Completion[int]] = []

    def another() -> None:
        others.append(send_one(pair))
        assert not drive(others[0])
        assert not others[0].done()

    in_the_middle(monkeypatch, once(another))
    done = send_one(pair)
    assert drive(done)
    assert (done.result(), others[0].result()) == (1, 2)
    assert pair.nudges == 0


def test_a_sender_works_for_others_within_a_bound(pair: Pair) -> None:
    """Each append of the follower meets another record that has come meanwhile. The rest is its own thread's."""
    others: list[Completion[int]] = []

    def another() -> None:
        others.append(send_one(pair))
        assert len(others) < 10

    done = send_one(pair)
    with pytest.MonkeyPatch.context() as patch:
        in_the_middle(patch, another)
        drive(done)
    assert done.result() == 1
    assert pair.nudges == 1
    pair.fetcher.step(0)
    assert all(other.done() for other in others)


def test_an_error_of_the_followers_disk_is_for_its_own_thread_to_say(pair: Pair) -> None:
    pair.disk.fail("pwrite", errno.EIO, path="*/1/*.log", times=1)
    done = send_one(pair)
    assert not drive(done)
    assert not pair.failed
    assert pair.fetcher.step(0) == RETRY_MS
    assert [type(error) for error in pair.failed] == [StorageError]
    pair.fetcher.step(RETRY_MS)
    assert done.result() == 1


def test_a_follower_whose_disk_is_slow_is_left_to_its_thread_until_that_finds_it_fast(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(fetcher, "real_monotonic", lambda: now[0])
    in_the_middle(monkeypatch, once(lambda: now.append(now.pop() + 2 * SLOW_S)))
    assert drive(send_one(pair))
    done = send_one(pair)
    assert not drive(done)
    assert pair.nudges == 1
    pair.fetcher.step(0)
    assert done.result() == 2
    assert drive(send_one(pair))
    assert pair.nudges == 1


def test_while_a_disk_does_not_answer_a_sender_no_other_one_waits_for_it(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other one sends to another partition of the same broker, whose turn is free."""
    now = [5.0]
    monkeypatch.setattr(fetcher, "real_monotonic", lambda: now[0])
    assert pair.fetcher.begin_turn(5.0)
    done = send_one(pair)
    now[0] += 2 * SLOW_S
    assert not drive(done)
    assert pair.nudges == 1


def test_a_follower_outside_the_in_sync_set_is_called_and_not_waited_for(pair: Pair) -> None:
    pair.lead(LED_BY_0._replace(isr=(0,), partition_epoch=2))
    pair.fetcher.step(0)
    nudges = pair.nudges
    assert send_one(pair).result() == 1
    assert pair.nudges == nudges + 1


def test_what_was_read_before_an_election_is_taken_by_no_follower_after_it(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = pair.leader
    in_the_middle(monkeypatch, once(lambda: pair.lead(LED_BY_1)))
    done = send_one(pair)
    assert not drive(done)
    assert pair.leader.reader.tail.end_offset == 1
    pair.send(b"instead")
    pair.fetcher.step(0)
    assert done.error() is not None
    assert before.last_epoch() == 2


def test_what_a_follower_took_counts_in_the_epoch_alone_in_which_it_was_read(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The leader is elected again, with another set of replicas, between the append and its note of it."""
    note = Partition.note_followers

    def noted(leader: Partition, *arguments: Any) -> None:
        pair.lead(LED_BY_0._replace(leader_epoch=2, partition_epoch=2))
        note(leader, *arguments)

    monkeypatch.setattr(Partition, "note_followers", noted)
    done = send_one(pair)
    assert not drive(done)
    assert pair.leader.high_watermark == 1
    pair.fetcher.step(0)
    assert done.result() == 1


def test_a_record_whose_sender_does_not_wait_is_fetched_by_the_followers_threads(pair: Pair) -> None:
    done = send_one(pair)
    assert done.work is not None
    done.work.soon()
    assert pair.nudges == 1
    pair.fetcher.step(0)
    assert done.result() == 1


def test_an_interrupt_of_the_sender_leaves_the_rest_to_the_followers_threads(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    in_the_middle(monkeypatch, once(interrupt))
    done = send_one(pair)
    with pytest.raises(KeyboardInterrupt):
        drive(done)
    assert not following(pair).turn.locked()
    pair.fetcher.step(0)
    assert done.result() == 1


def test_a_second_interrupt_as_a_turn_ends_does_not_leave_it_taken(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    done = send_one(pair)
    with monkeypatch.context() as patch:
        in_the_middle(patch, interrupt)
        patch.setattr(pair.fetcher, "end_turn", interrupt)
        with pytest.raises(KeyboardInterrupt):
            drive(done)
    assert not following(pair).turn.locked()
    pair.fetcher.step(0)
    assert done.result() == 1
    nudges = pair.nudges
    assert drive(send_one(pair)), "the interrupted turn is not taken for one that lasts"
    assert pair.nudges == nudges


def test_an_interrupted_append_is_looked_for_by_the_followers_threads(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The record is in the log, and its sender does not come to wait for it."""

    def interrupt(*_: object, **named: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Partition, "await_high_watermark", interrupt)
    with pytest.raises(KeyboardInterrupt):
        send_one(pair)
    pair.fetcher.step(0)
    assert ends(pair) == [(2, 2), (2, 2)]


def test_with_sync_the_threads_of_the_followers_sync_side_by_side(tmp_path: Path) -> None:
    pair = Pair(tmp_path, durable=True)
    pair.fetcher.step(0)
    nudges = pair.nudges
    done = send_one(pair)
    assert done.work is pair.leader.commit
    assert pair.nudges == nudges + 1
