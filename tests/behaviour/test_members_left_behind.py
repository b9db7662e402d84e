"""A member that the program does not use any more, and that keeps its partitions: found, named, and evicted.

So it is in a notebook whose cell was run twice: IPython keeps what the first run showed.
"""

from __future__ import annotations

import logging
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from statistics import median
from typing import Any

import pytest

import streamlog
from streamlog import StreamLog, TopicPartition
from tests.behaviour.member_time import PassingTime
from tests.bytecodes import bytecodes
from tests.times import LONG

InThread = Callable[[Callable[[], Any]], Future[Any]]
P0 = TopicPartition("t", 0)


def line_of(mark: str) -> str:
    """`file:line` of the line of this file that ends with a comment of this text."""
    text = Path(__file__).read_text().splitlines()
    return f"{__file__}:{next(n for n, line in enumerate(text, 1) if line.endswith('# ' + mark))}"


@pytest.fixture
def quiet() -> Iterator[list[warnings.WarningMessage]]:
    """The warnings of the test, each of them."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield caught


def run_cell(log: StreamLog, *topics: str, **config: Any) -> Any:
    return log.consumer(*(topics or ("t",)), group="g", **config)  # the cell


# The warning


@pytest.mark.parametrize("partitions", [1, 4])
def test_a_second_poll_with_nothing_names_the_member_that_has_everything(log: StreamLog, partitions: int) -> None:
    log.create_topic("t", partitions=partitions).send("1", partition=0)
    old = run_cell(log)
    assert len(old.poll()) == 1  # a record in hand, so its partitions stay with it until its next poll
    new = run_cell(log)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert new.poll() == [], "members that are polled in turn share at the second poll: no warning yet"
    (member,) = [each for each in log.group("g").members() if each.assignment]
    with pytest.warns(UserWarning) as caught:
        assert new.poll() == []
    (warning,) = caught
    message = str(warning.message)
    assert warning.filename == __file__, "it points at the program's line"
    assert message == (
        f"This consumer gets no records: another consumer of this program, polled by this same thread, has all partitions of "
        f"'t' in group 'g' ({member.member_id}, made at {line_of('the cell')}). close() what is no longer used (a notebook "
        f"keeps what a cell has shown, in Out), poll it too, or remove it: log.group('g').evict('{member.member_id}')."
    )
    old.close()
    assert [record.value for record in new.poll()] == [b"1"]
    new.close()


def test_the_warning_comes_once_for_each_consumer(log: StreamLog, quiet: list[Any]) -> None:
    log.create_topic("t")
    with run_cell(log) as old, run_cell(log) as new, run_cell(log) as third:
        old.poll()
        for _ in range(20):
            new.poll()
            new.poll_batches()
            list(new.until_end())
        assert len(quiet) == 1
        for _ in range(20):
            third.poll()
        assert len(quiet) == 2


def test_several_members_that_have_everything_together_are_named(log: StreamLog, quiet: list[Any]) -> None:
    log.create_topic("t", partitions=5)
    old = [run_cell(log) for _ in range(5)]
    for _ in range(3):
        for member in old:
            member.poll()
    assert [len(member.assignment()) for member in old] == [1] * 5
    with run_cell(log) as new:
        for _ in range(2):
            new.poll()
    (warning,) = quiet
    assert "5 other consumers of this program" in str(warning.message) and "; and 2 more)" in str(warning.message)
    for member in old:
        member.close()


def test_a_loop_without_an_end_is_warned_before_it_waits(
    log: StreamLog, monkeypatch: pytest.MonkeyPatch, quiet: list[Any]
) -> None:
    log.create_topic("t")
    time = PassingTime(log, monkeypatch)
    with run_cell(log) as old, run_cell(log, max_poll_interval_ms=10_000_000) as new:
        old.poll()
        seen: list[int] = []
        sleep = streamlog.client.consumer.consumer.RawGate.wait

        def wait(gate: Any, timeout: float | None = None) -> bool:
            seen.append(len(quiet))
            new.stop()
            return sleep(gate, timeout)

        monkeypatch.setattr(streamlog.client.consumer.consumer.RawGate, "wait", wait)
        assert list(new) == []
    assert seen == [1] and time.waits == []


def test_no_warning_where_other_threads_poll_the_others(log: StreamLog, quiet: list[Any]) -> None:
    """Members in threads of their own, as `start` makes them, stand by for each other on purpose."""
    log.create_topic("t").send("1")
    handled = threading.Event()
    with log.group("g").start(lambda record: handled.set(), "t", workers=3):
        assert handled.wait(LONG)
        with run_cell(log) as consumer:
            for _ in range(5):
                consumer.poll()
    assert quiet == []


def test_no_warning_for_a_member_that_has_partitions_or_none_to_wait_for(log: StreamLog, quiet: list[Any]) -> None:
    log.create_topic("t", partitions=2)
    log.create_topic("empty-u")
    with run_cell(log) as first, run_cell(log) as second, run_cell(log) as third, log.consumer("t") as alone:
        for _ in range(5):
            for consumer in (first, second, third, alone):  # more members than partitions, polled in turn
                consumer.poll()
    with run_cell(log) as reads, run_cell(log, "empty-u") as other:
        for _ in range(5):
            reads.poll()
            other.poll()
        other.assign([P0])
        for _ in range(5):
            other.poll()
    assert quiet == []


def test_where_warnings_are_errors_the_poll_raises_and_nothing_is_lost(log: StreamLog) -> None:
    topic = log.create_topic("t")
    with run_cell(log) as old, run_cell(log) as new:
        old.poll()
        new.poll()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with pytest.raises(UserWarning, match="gets no records"):
                new.poll()
        old.close()
        topic.send("1")
        assert [record.value for record in new.poll()] == [b"1"]


def test_a_member_that_stands_by_looks_for_the_others_seldom(log: StreamLog) -> None:
    """The cost of an idle poll does not grow with the members: they are looked at after 2, 4, 8, … polls."""
    log.create_topic("t").send("1")

    def cost(members: int) -> float:
        group, handled = f"of-{members}", threading.Event()
        with log.group(group).start(lambda record: handled.set(), "t", workers=1):  # another thread has the partition
            assert handled.wait(LONG)
            others = [log.consumer("t", group=group) for _ in range(members)]
            for _ in range(8):
                for other in others:
                    other.poll()
            taken = median(bytecodes(others[-1].poll) for _ in range(9))
        for other in others:
            other.close()
        return taken

    assert cost(60) <= cost(6) * 1.02


# Where a member was made


def test_members_say_which_line_of_the_program_made_them(log: StreamLog) -> None:
    topic = log.create_topic("t", partitions=8)
    made = {
        "a": log.consumer("t", group="g", client_id="a"),  # made by the log
        "b": log.group("g").consumer("t", client_id="b"),  # made by the group
        "c": streamlog.Consumer(log, "t", group="g", client_id="c"),  # made by the class
    }
    for consumer in made.values():
        consumer.poll()
    described = {member.client_id: member.created_at for member in log.group("g").members()}
    assert described == {
        "a": line_of("made by the log"),
        "b": line_of("made by the group"),
        "c": line_of("made by the class"),
    }
    topic.send("1")
    handled = threading.Event()
    workers = log.group("w").start(lambda record: handled.set(), "t", workers=1)  # made by start
    assert handled.wait(LONG)
    assert [member.created_at for member in log.group("w").members()] == [line_of("made by start")]
    workers.close()
    for consumer in made.values():
        consumer.close()


def test_a_member_of_another_process_was_made_at_an_unknown_place(
    log: StreamLog, path: Path, run_script: Callable[..., Any]
) -> None:
    log.create_topic("t")
    with run_cell(log) as consumer:
        consumer.poll()
        done = run_script(
            """
            import sys, streamlog

            with streamlog.open(sys.argv[1], read_only=True) as log:
                print([(member.client_id, member.created_at) for member in log.group("g").members()])
                try:
                    log.group("g").evict("x")
                except streamlog.ReadOnlyError as error:
                    print(error)
            """,
            log.path,
        )
    assert done.stderr == ""
    first, second = done.stdout.splitlines()
    assert first == "[('streamlog-consumer', None)]"
    assert second.startswith("Evicting a member of group 'g' writes to the log")


# Eviction


def test_an_evicted_members_partitions_move_at_once_and_its_records_come_again(log: StreamLog) -> None:
    log.create_topic("t").send_many(["1", "2"]).result()
    old, new = run_cell(log), run_cell(log)
    assert len(old.poll()) == 2
    assert new.poll() == []
    (member,) = [each for each in log.group("g").members() if each.assignment]
    log.group("g").evict(member.member_id)
    assert [record.value for record in new.poll()] == [b"1", b"2"]
    assert [each.assignment for each in log.group("g").members()] == [{P0}]
    with pytest.raises(streamlog.CommitFailedError, match="evicted by a call"):
        old.commit()
    old.close()
    new.commit()
    assert log.group("g").committed() == {P0: 2}
    new.close()


def test_an_evicted_member_that_polls_again_says_why_and_joins(
    log: StreamLog, caplog: pytest.LogCaptureFixture
) -> None:
    log.create_topic("t").send("1").result()
    with run_cell(log) as consumer:
        consumer.poll()
        (before,) = log.group("g").members()
        log.group("g").evict(before.member_id)
        assert log.group("g").members() == []
        with caplog.at_level(logging.WARNING, "streamlog"):
            assert [record.value for record in consumer.poll()] == [b"1"], "it was not committed"
        (after,) = log.group("g").members()
    assert after.member_id != before.member_id and after.assignment == {P0}
    assert "lost t-0: the program removed it with ConsumerGroup.evict" in caplog.text


def test_an_evicted_static_member_keeps_no_place(log: StreamLog) -> None:
    log.create_topic("t", partitions=2)
    static, other = run_cell(log, group_instance_id="i"), run_cell(log)
    for _ in range(3):
        static.poll()
        other.poll()
    (member,) = [each for each in log.group("g").members() if each.group_instance_id == "i"]
    log.group("g").evict(member.member_id)
    other.poll()
    assert len(other.assignment()) == 2
    assert len(log.group("g").members()) == 1
    static.close()
    other.close()


def test_a_static_member_that_is_away_is_evicted(log: StreamLog) -> None:
    log.create_topic("t")
    with run_cell(log, group_instance_id="i") as consumer:
        consumer.poll()
    (away,) = log.group("g").members()
    log.group("g").evict(away.member_id)
    assert log.group("g").members() == []


def test_evicting_a_member_that_is_not_there_names_those_that_are(log: StreamLog) -> None:
    log.create_topic("t")
    group = log.group("g")
    with pytest.raises(streamlog.errors.UnknownMemberIdError, match=r"'x'\. It has no members."):
        group.evict("x")
    with run_cell(log, client_id="mine") as consumer:
        consumer.poll()
        (member,) = group.members()
        with pytest.raises(streamlog.errors.UnknownMemberIdError) as caught:
            group.evict("x")
        assert (caught.value.group, caught.value.member_id) == ("g", "x")
        assert f"It has {member.member_id} (client_id 'mine', made at {line_of('the cell')})." in str(caught.value)
        with pytest.raises(streamlog.ConfigError, match="member_id"):
            group.evict(member)  # type: ignore[arg-type]
        assert len(group.members()) == 1


def test_an_evicted_member_that_waits_is_woken_and_joins(log: StreamLog, in_thread: InThread) -> None:
    topic = log.create_topic("t")
    with run_cell(log) as consumer:
        consumer.poll()
        polled = in_thread(lambda: consumer.poll(50))
        (member,) = log.group("g").members()
        log.group("g").evict(member.member_id)
        topic.send("1")
        assert [record.value for record in polled.result(50)] == [b"1"]
        assert member.member_id not in [each.member_id for each in log.group("g").members()]
