"""`log.replay`: a topic sent to another one by event time, on the clock of the log."""

from __future__ import annotations

import ast
import errno
import math
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import streamlog
from streamlog import Replayed, StreamLog, Topic
from streamlog.testing import FaultyDisk, ManualClock, SimulatedDisk
from tests.times import LONG

InThread = Callable[[Callable[[], Any]], "Future[Any]"]


@pytest.fixture
def flights(log: StreamLog) -> Topic:
    """Two partitions: a flight each minute, in turn."""
    topic = log.create_topic("flights", partitions=2)
    for n in range(6):
        topic.send(f"flight {n}", key=str(n), partition=n % 2, timestamp_ms=n * 60_000, headers={"n": str(n)})
    return topic


def values(topic: Topic[Any, Any]) -> list[Any]:
    return [record.value for record in topic.read(order="time")]


def after_the_first(log: StreamLog, into: str, replaying: Future[Any]) -> None:
    """Wait until the first record is there: from then on the replay follows the clock."""
    with log.consumer(into) as consumer:
        assert consumer.poll(timeout=LONG), replaying


# Pace


def test_each_record_is_sent_when_its_time_has_come(
    log: StreamLog, flights: Topic, clock: ManualClock, in_thread: InThread
) -> None:
    live = log.create_topic("live", partitions=2)
    replaying = in_thread(lambda: log.replay("flights", speed=60, into="live"))  # a flight in each second
    after_the_first(log, "live", replaying)
    for n in range(1, 6):
        clock.advance(0.9)
        assert len(values(live)) == n
        clock.advance(0.1)
        assert values(live) == [b"flight %d" % each for each in range(n + 1)]
    assert replaying.result(LONG) == Replayed(6, {0: 3, 1: 3})


def test_what_is_due_meanwhile_is_sent_within_one_move_of_the_clock(
    log: StreamLog, flights: Topic, clock: ManualClock, in_thread: InThread
) -> None:
    live = log.create_topic("live", partitions=2)
    replaying = in_thread(lambda: log.replay("flights", speed=60, into=live))
    after_the_first(log, "live", replaying)
    clock.advance(3.5)
    assert len(values(live)) == 4
    clock.advance(3600)
    assert replaying.result(LONG).records == 6


def test_a_record_with_an_earlier_time_than_the_one_before_it_does_not_wait(
    log: StreamLog, clock: ManualClock, in_thread: InThread
) -> None:
    topic = log.create_topic("t")
    topic.send_many(["a", "b", "late", "c"], timestamps_ms=[1_000, 5_000, 2_000, 6_000])
    live = log.create_topic("live")
    replaying = in_thread(lambda: log.replay(topic, into="live"))
    after_the_first(log, "live", replaying)
    clock.advance(4)
    assert [record.value for record in live.read()] == [b"a", b"b", b"late"]
    clock.advance(1)
    assert [record.value for record in live.read()] == [b"a", b"b", b"late", b"c"]
    assert replaying.result(LONG).records == 4


def test_without_a_pace_nothing_is_waited_for(log: StreamLog, flights: Topic, clock: ManualClock) -> None:
    before = clock.monotonic()
    assert log.replay(flights, speed=math.inf, into="live") == Replayed(6, {0: 3, 1: 3})
    assert clock.monotonic() == before


# What is sent


def test_records_keep_everything_but_their_offsets(log: StreamLog, flights: Topic) -> None:
    flights.send(None, key="tombstone", partition=0, timestamp_ms=400_000)
    flights.send(b"\xff\x00", partition=1, timestamp_ms=400_000, headers=[("a", None), ("a", b"1")])
    log.replay("flights", speed=math.inf, into="live")

    def told(topic: Topic) -> list[Any]:
        return [(r.partition, r.timestamp, r.key, r.value, r.headers) for r in topic.read(order="time")]

    assert told(log["live"]) == told(flights)


def test_a_topic_that_is_not_there_is_created_like_the_source(log: StreamLog) -> None:
    log.create_topic("t", partitions=5, max_message_bytes=3_000_000)
    with log.producer(max_request_size=3_000_000) as producer:
        producer.send("t", b"x" * 2_500_000)
    log.replay("t", speed=math.inf, into="live")
    assert log["live"].partitions == 5
    assert [len(record.value) for record in log["live"].read()] == [2_500_000]


def test_a_topic_with_other_partitions_gets_records_by_their_keys(log: StreamLog) -> None:
    topic = log.create_topic("t", partitions=2)
    for n in range(40):
        topic.send(str(n), key=str(n % 5), partition=n % 5 % 2, timestamp_ms=n)
    live = log.create_topic("live", partitions=3)
    log.replay("t", speed=math.inf, into="live")
    by_key: dict[bytes, list[int]] = {}
    for record in live.read():
        by_key.setdefault(record.key, []).append(int(record.value))
    assert all(found == sorted(found) and len(found) == 8 for found in by_key.values())
    assert {r.partition for r in live.read() if r.key == b"1"} == {log["live"].send("x", key="1").result().partition}


def test_bytes_are_sent_as_they_are_whatever_the_serdes(log: StreamLog) -> None:
    log.create_topic("t").send("no json")
    topic = log.topic("t", value_serde=streamlog.serde.json)
    live = log.topic(log.create_topic("live").name, value_serde=streamlog.serde.json)
    log.replay(topic, speed=math.inf, into=live)
    assert values(log["live"]) == [b"no json"]


def test_it_ends_at_the_end_of_when_it_began(
    log: StreamLog, flights: Topic, clock: ManualClock, in_thread: InThread
) -> None:
    log.create_topic("live", partitions=2)
    replaying = in_thread(lambda: log.replay("flights", speed=60, into="live"))
    after_the_first(log, "live", replaying)
    flights.send("later", partition=0, timestamp_ms=500_000)
    clock.advance(10)
    assert replaying.result(LONG) == Replayed(6, {0: 3, 1: 3})
    done = log.replay("flights", speed=math.inf, into="live", start={0: 3, 1: 3})
    assert done == Replayed(1, {0: 4, 1: 3})
    assert values(log["live"])[-1] == b"later"
    assert log.replay("flights", speed=math.inf, into="live", start=done.next_offsets) == Replayed(0, {0: 4, 1: 3})


def test_the_bounds_are_those_of_a_read(log: StreamLog, flights: Topic) -> None:
    assert log.replay("flights", speed=math.inf, into="a", start=1, end=2) == Replayed(2, {0: 2, 1: 2})
    assert values(log["a"]) == [b"flight 2", b"flight 3"]
    assert log.replay("flights", speed=math.inf, into="b", start={1: 2}).records == 4
    assert values(log["b"]) == [b"flight 0", b"flight 2", b"flight 4", b"flight 5"]


def test_aborted_records_are_not_replayed(log: StreamLog) -> None:
    log.create_topic("t")
    with log.producer(transactional_id="p") as producer:
        for n in range(4):
            producer.begin_transaction()
            producer.send("t", str(n), timestamp_ms=n)
            producer.abort_transaction() if n % 2 else producer.commit_transaction()
    assert log.replay("t", speed=math.inf, into="live") == Replayed(2, {0: 8})
    assert values(log["live"]) == [b"0", b"2"]


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 50)), max_size=40), st.integers(1, 50))
def test_a_replay_in_pieces_is_the_whole(sent: list[tuple[int, int]], cut: int) -> None:
    with streamlog.open() as log:
        topic = log.create_topic("t", partitions=3)
        for n, (partition, timestamp) in enumerate(sent):
            topic.send(str(n), partition=partition, timestamp_ms=timestamp)
        first = {n: min(cut, topic.partition(n).log_end_offset) for n in range(3)}
        for partition, end in first.items():  # what an interrupted one would have sent, in another order
            for record in topic.read(partition, end=end):
                log.create_topic("live", partitions=3, exist_ok=True).send(record.value, partition=partition)
        done = log.replay("t", speed=math.inf, into="live", start=first)
        assert sorted(int(r.value) for r in log["live"].read()) == list(range(len(sent)))
        assert done.next_offsets == {n: topic.partition(n).log_end_offset for n in range(3)}


# What is refused


@pytest.mark.parametrize(
    "speed", [0, -1, math.nan, -math.inf, "3600", None, True, 10**400], ids=lambda each: str(each)[:9]
)
def test_a_speed_is_a_positive_number(log: StreamLog, flights: Topic, speed: Any) -> None:
    with pytest.raises(streamlog.ConfigError, match="speed="):
        log.replay("flights", speed=speed, into="live")
    assert "live" not in log


def test_a_topic_is_not_replayed_into_itself(log: StreamLog, flights: Topic) -> None:
    with pytest.raises(streamlog.ConfigError, match="into="):
        log.replay("flights", into=flights)


@pytest.mark.parametrize(
    ("start", "error"),
    [
        ({2: 0}, streamlog.UnknownTopicOrPartitionError),
        ({0: 4}, streamlog.OffsetOutOfRangeError),
        (99, streamlog.OffsetOutOfRangeError),
        ("first", streamlog.ConfigError),
    ],
    ids=str,
)
def test_a_start_that_is_not_there_is_refused(log: StreamLog, flights: Topic, start: Any, error: Any) -> None:
    with pytest.raises(error):
        log.replay("flights", into="live", start=start)


def test_a_topic_that_is_not_there_cannot_be_replayed(log: StreamLog) -> None:
    with pytest.raises(streamlog.UnknownTopicOrPartitionError):
        log.replay("flights", into="live")
    assert list(log) == []


def test_a_record_that_the_target_refuses_ends_it_with_where_to_go_on(log: StreamLog) -> None:
    topic = log.create_topic("t")
    topic.send_many([b"1", b"2", b"x" * 5_000, b"4"], timestamps_ms=[0, 0, 0, 0])
    log.create_topic("live", max_message_bytes=1_000)
    with pytest.raises(streamlog.RecordTooLargeError) as error:
        log.replay("t", speed=math.inf, into="live")
    assert "start={0: 2}" in "".join(error.value.__notes__)
    assert values(log["live"]) == [b"1", b"2"]
    assert log.replay("t", speed=math.inf, into="live", start={0: 3}) == Replayed(1, {0: 4})


def test_a_write_that_fails_ends_it_with_a_place_from_which_nothing_is_missing(clock: ManualClock) -> None:
    disk = FaultyDisk(SimulatedDisk())
    with streamlog.open("data", disk=disk, clock=clock) as log:
        log.create_topic("t").send_many([str(n) for n in range(2_500)], timestamps_ms=[0] * 2_500)
        live = log.create_topic("live")
        live.send("before")
        full = disk.fail("pwrite", errno.ENOSPC, nth=2, path="*/topics/*.log")
        with pytest.raises(streamlog.DeliveryError) as error:
            log.replay("t", speed=math.inf, into="live")
        assert full.fired
        at = ast.literal_eval(error.value.__notes__[0].rpartition("start=")[2])
        assert 0 < at[0] < 2_500
        before = {record.value for record in live.read()}
        assert before >= {b"%d" % n for n in range(at[0])}
        assert before < {b"before", *(b"%d" % n for n in range(2_500))}
        assert log.replay("t", speed=math.inf, into="live", start=at) == Replayed(2_500 - at[0], {0: 2_500})
        assert {record.value for record in live.read()} == {b"before", *(b"%d" % n for n in range(2_500))}


# Its end


def test_closing_the_log_ends_it(open_log: Callable[..., StreamLog], clock: ManualClock, in_thread: InThread) -> None:
    log = open_log()
    log.create_topic("t").send_many(["1", "2"], timestamps_ms=[0, 10**9])
    log.create_topic("live")
    replaying = in_thread(lambda: log.replay("t", into="live"))
    after_the_first(log, "live", replaying)
    log.close()
    assert isinstance(replaying.exception(LONG), streamlog.ClosedError)
    clock.advance(10)  # it follows the clock no more


INTERRUPTED = """
import os, signal, sys, threading, streamlog

log = streamlog.open(sys.argv[1])
topic = log.create_topic("t", partitions=2)
topic.send_many([str(n) for n in range(3000)], timestamps_ms=[n // 1000 * 10**9 for n in range(3000)])
log.create_topic("live", partitions=2)

def interrupt():
    with log.consumer("live") as consumer:
        for n, record in enumerate(consumer):
            if n == 999:
                os.kill(os.getpid(), signal.SIGINT)
                return

threading.Thread(target=interrupt, daemon=True).start()
try:
    log.replay("t", into="live")
except KeyboardInterrupt as error:
    (note,) = error.__notes__
else:
    raise SystemExit("not interrupted")
sent = len(list(log["live"].read()))
assert sent == 1000, sent
at = eval(note.rpartition("start=")[2])
assert sum(at.values()) == 1000, note
done = log.replay("t", into="live", start=at, speed=float("inf"))
assert done.records == 2000, done
assert sorted(int(r.value) for r in log["live"].read()) == list(range(3000))
log.close()
print("good")
"""


def test_ctrl_c_ends_it_at_once_and_leaves_what_was_sent(
    path: Path, run_script: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    done = run_script(INTERRUPTED, path)
    assert (done.stdout, done.stderr, done.returncode) == ("good\n", "", 0)


ANYWHERE = """
import os, signal, sys, streamlog
import decimal  # imported a second time, after an interrupt of the first, its C library writes a line to stderr

signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGINT))
sys.unraisablehook = lambda lost: None if lost.exc_type is KeyboardInterrupt else sys.__unraisablehook__(lost)
log = streamlog.open(sys.argv[1])
topic = log.create_topic("t", partitions=2)
topic.send_many([str(n) for n in range(200_000)], timestamps_ms=range(200_000))
for n, delay in enumerate((0.0005, 0.001, 0.003, 0.01, 0.02, 0.05) * 3):
    log.create_topic(f"live{n}", partitions=2)
    notes = []
    try:
        signal.setitimer(signal.ITIMER_REAL, delay, 1.0)
        log.replay("t", into=f"live{n}", speed=2_000)
    except KeyboardInterrupt as error:
        notes = getattr(error, "__notes__", [])
    else:
        raise SystemExit("it came to its end")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    sent = len(list(log[f"live{n}"].read()))
    if notes:
        at = eval(notes[0].rpartition("start=")[2])
        assert sum(at.values()) <= sent <= sum(at.values()) + 1, (notes, sent)
topic.send("afterwards").result()
assert len(topic.tail(3)) == 3
log.close()
print("good")
"""


@pytest.mark.slow
def test_ctrl_c_anywhere_leaves_the_log_usable(
    path: Path, run_script: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    done = run_script(ANYWHERE, path)
    assert (done.stdout, done.stderr, done.returncode) == ("good\n", "", 0)


# Progress


class Terminal:
    """A stderr that is a terminal."""

    def __init__(self, fails: bool = False) -> None:
        self.written = ""
        self.fails = fails

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> None:
        if self.fails:
            raise OSError("gone")
        self.written += text

    def flush(self) -> None: ...


def test_progress_is_one_line_of_a_terminal(log: StreamLog, flights: Topic, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    log.replay("flights", speed=math.inf, into="live")
    assert terminal.written.endswith("\n")
    assert terminal.written.count("\n") == 1
    lines = terminal.written.strip().split("\r")
    assert lines[-1] == "replay of flights into live: 6 records, done"
    assert all(len(line) <= 79 for line in lines)
    terminal.written = ""
    log.replay("flights", speed=math.inf, into="live", progress=False)
    assert terminal.written == ""


def test_a_terminal_that_is_gone_does_not_end_it(
    log: StreamLog, flights: Topic, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal(fails=True))
    assert log.replay("flights", speed=math.inf, into="live").records == 6


@pytest.mark.parametrize("stderr", [None, open(os.devnull, "w")], ids=["none", "a file"])  # noqa: SIM115
def test_without_a_terminal_nothing_is_shown(
    log: StreamLog, flights: Topic, monkeypatch: pytest.MonkeyPatch, stderr: Any
) -> None:
    monkeypatch.setattr(sys, "stderr", stderr)
    assert log.replay("flights", speed=math.inf, into="live").records == 6


def test_in_a_notebook_progress_is_one_output_that_is_replaced(log: StreamLog, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []

    class Handle:
        def update(self, content: dict[str, str], raw: bool) -> None:
            shown[-1] = content["text/plain"]

    class Display:
        def display(self, content: dict[str, str], raw: bool, display_id: bool) -> Handle:
            assert raw
            assert display_id
            shown.append(content["text/plain"])
            return Handle()

    class Shell:
        kernel = True

    class IPython:
        def get_ipython(self) -> Shell:
            return Shell()

    monkeypatch.setitem(sys.modules, "IPython", IPython())  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "IPython.display", Display())  # type: ignore[arg-type]
    log.create_topic("t").send_many(["x"] * 5_000, timestamps_ms=[0] * 5_000)
    log.replay("t", speed=math.inf, into="live")
    assert shown == ["replay of t into live: 5,000 records, done"]


def test_in_marimo_progress_is_the_output_of_the_cell(
    log: StreamLog, flights: Topic, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[str] = []

    class Output:
        def replace(self, content: str) -> None:
            shown.append(content)

    class Marimo:
        output = Output()

        def running_in_notebook(self) -> bool:
            return True

        def plain_text(self, text: str) -> str:
            return text

    monkeypatch.setitem(sys.modules, "IPython", None)  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "marimo", Marimo())  # type: ignore[arg-type]
    log.replay(flights, speed=math.inf, into="live")
    assert shown == ["replay of flights into live: 6 records, done"]


def test_progress_is_true_or_false(log: StreamLog, flights: Topic) -> None:
    with pytest.raises(streamlog.ConfigError, match="progress="):
        log.replay("flights", into="live", progress="yes")  # type: ignore[arg-type]
