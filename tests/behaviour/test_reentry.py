"""A signal handler, a finalizer or a logging handler that calls the log in the middle of another call of its thread: the
call ends, or is refused at once with nothing done; `stop` and `close` always work; nothing hangs."""

from __future__ import annotations

import itertools
import logging
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest

import streamlog
from streamlog import ClosedError, ReentrantCallError, TopicPartition
from streamlog.broker.waiting import FetchSession
from streamlog.replication.partition import Partition
from streamlog.runtime import threads
from streamlog.testing import Fault, FaultyDisk, ManualClock, SimulatedDisk
from tests.contents import values
from tests.sampling import Sampled
from tests.stress import interrupted_calls as calls
from tests.stress import reentry
from tests.times import LONG

RunScript = Callable[..., "subprocess.CompletedProcess[str]"]
RECORDS = "*/topics/*.log"


@contextmanager
def on_signal(handler: Callable[..., None]) -> Iterator[Callable[[], None]]:
    """A signal handler of the program's; what is given back has it run at once, as the signal would."""
    before = signal.signal(signal.SIGUSR1, handler)
    try:
        yield lambda: signal.raise_signal(signal.SIGUSR1)
    finally:
        signal.signal(signal.SIGUSR1, before)


def in_the_middle_of_a_send(
    log: streamlog.StreamLog, disk: DiskThatStrikes, act: Callable[[], object]
) -> list[BaseException]:
    """Send while a signal handler does something in the middle of the write; what it raised."""
    raised: list[BaseException] = []

    def handler(*_: object) -> None:
        try:
            act()
        except BaseException as error:
            raised.append(error)

    with on_signal(handler) as strike, reentry.at_most(LONG, lambda: "a call in the middle of a send"):
        disk.in_next_write = strike
        log["t"].send(b"interrupted").result(LONG)
    return raised


class DiskThatStrikes(FaultyDisk):
    """Has something done in the middle of the next write of records."""

    in_next_write: Callable[[], None] | None = None

    def _struck(self, op: str, path: str) -> Fault | None:
        if op == "pwrite" and fnmatchcase(path, RECORDS):
            strike, self.in_next_write = self.in_next_write, None
            if strike is not None:
                strike()
        return super()._struck(op, path)


@pytest.fixture
def disk() -> DiskThatStrikes:
    return DiskThatStrikes(SimulatedDisk())


@pytest.mark.parametrize("sync", [False, True])
@pytest.mark.parametrize(
    "what", ["send", "send_many", "commit", "flush", "sync", "result", "poll", "create_topic", "open"]
)
def test_a_call_in_the_middle_of_a_send_is_refused_with_nothing_done(
    disk: DiskThatStrikes, clock: ManualClock, what: str, sync: bool
) -> None:
    with streamlog.open("data", disk=disk, clock=clock, sync=sync) as log:
        topic = log.create_topic("t")
        producer, consumer = log.producer(linger_ms=60_000), log.consumer("t", group="g")
        topic.send(b"first")
        assert len(consumer.poll()) == 1
        lingering = producer.send("t", b"lingers")
        acts: dict[str, Callable[[], object]] = {
            "send": lambda: topic.send(b"refused"),
            "send_many": lambda: producer.send_many("t", [b"refused"]),
            "commit": consumer.commit,
            "flush": producer.flush,
            "sync": log.sync,
            "result": lingering.result,
            "poll": log.consumer("t", group="other").poll,
            "create_topic": lambda: log.create_topic("refused"),
            "open": lambda: streamlog.open("another", disk=disk, clock=clock),
        }
        (error,) = in_the_middle_of_a_send(log, disk, acts[what])
        assert isinstance(error, ReentrantCallError)
        assert error.retriable
        for said in ("signal handler", "Nothing was done", "stop() or close()"):
            assert said in str(error)
        acts[what]()  # what was refused can be done now
        assert lingering.result(LONG).offset >= 1
        found = values(log)
        assert found.count(b"refused") == (what in ("send", "send_many"))
        assert {b"first", b"interrupted", b"lingers"} <= set(found)
        assert log.group("g").committed() == ({TopicPartition("t", 0): 1} if what == "commit" else {})


@pytest.mark.parametrize("what", ["consumer", "producer", "workers", "log"])
def test_what_is_closed_in_the_middle_of_a_send_is_closed_when_it_has_ended(
    disk: DiskThatStrikes, clock: ManualClock, what: str
) -> None:
    with streamlog.open("data", disk=disk, clock=clock) as log:
        log.create_topic("t")
        log.create_topic("jobs")
        closing: dict[str, Any] = {
            "consumer": log.consumer("t", group="g"),
            "producer": log.producer(linger_ms=60_000),
            "workers": log.group("crew").start(lambda _: None, "jobs"),
            "log": log,
        }
        assert in_the_middle_of_a_send(log, disk, closing[what].close) == []
        assert closing[what].closed
    with streamlog.open("data", disk=disk, clock=clock) as log:
        assert values(log) == [b"interrupted"]


def test_workers_closed_in_the_middle_of_a_call_keep_no_background_work_waiting_for_their_handler(
    disk: DiskThatStrikes,
) -> None:
    """Their close waits for the record in hand; the background thread, which may be the one to close them, does not."""
    began, go_on = threading.Event(), threading.Event()

    def handle(_: Any) -> None:
        began.set()
        go_on.wait(LONG)

    with streamlog.open("data", disk=disk) as log:
        for name in ("t", "jobs"):
            log.create_topic(name)
        workers = log.group("crew").start(handle, "jobs", workers=1)
        log["jobs"].send(b"job")
        assert began.wait(LONG)
        with threads.inside():  # a signal handler, while this thread is in a call that has not ended yet
            workers.close()
            assert not workers.closed
            # The background thread was woken to close them; what it has to do besides is done all the same.
            ended = threading.Event()
            log._engine.service.timers.at(0, lambda now_ms: ended.set())
            assert ended.wait(LONG / 2)
        go_on.set()
        workers.wait(LONG)
    assert workers.closed


@pytest.mark.parametrize("what", ["close", "leave a block"])
def test_a_handler_that_closes_the_log_and_exits_has_the_program_exit(
    disk: DiskThatStrikes, clock: ManualClock, what: str
) -> None:
    """The close is put off until the interrupted call ends; here an exit ends it, and the consumer finds the log closed."""

    def stop(*_: object) -> None:
        log.close()
        raise SystemExit(3)

    with streamlog.open("data", disk=disk, clock=clock) as log, on_signal(stop) as strike:
        log.create_topic("t")
        consumer = log.consumer("t", group="g")
        disk.in_next_write = strike
        with pytest.raises(SystemExit), reentry.at_most(LONG, lambda: "a program that exits"):
            if what == "close":
                try:
                    log["t"].send(b"x")
                finally:
                    consumer.close()
            else:
                with consumer:
                    log["t"].send(b"x")
        assert consumer.closed
        assert log.closed


def test_a_block_that_ends_when_its_log_is_closing_ends_quietly(disk: DiskThatStrikes, clock: ManualClock) -> None:
    def stop(*_: object) -> None:
        log.close()
        raise InterruptedError

    with streamlog.open("data", disk=disk, clock=clock) as log, on_signal(stop) as strike:
        log.create_topic("t")
        with log.consumer("t", group="g") as consumer:
            disk.in_next_write = strike
            with pytest.raises(InterruptedError):
                log["t"].send(b"x")
        assert consumer.closed
        assert log.closed


def test_a_consumer_stops_at_once_in_the_middle_of_a_send(disk: DiskThatStrikes, clock: ManualClock) -> None:
    with streamlog.open("data", disk=disk, clock=clock) as log:
        log.create_topic("t")
        consumer = log.consumer("t")
        assert in_the_middle_of_a_send(log, disk, consumer.stop) == []
        assert consumer.poll(LONG) == []


def test_a_call_that_would_wait_for_a_thread_that_waits_for_this_one_is_refused(
    disk: DiskThatStrikes, clock: ManualClock
) -> None:
    """Another thread holds its own producer's turn and waits for the partition, which the interrupted call holds."""
    with streamlog.open("data", disk=disk, clock=clock) as log:
        log.create_topic("t")
        other = log.producer()
        other.send("t", b"first")
        (queue,) = other._accumulator.queues.values()
        threads: list[threading.Thread] = []

        def act() -> None:
            thread = threading.Thread(target=other.send, args=["t", b"of a thread"])
            thread.start()
            threads.append(thread)
            while not queue.draining.locked():
                pass
            other.send("t", b"refused")

        (error,) = in_the_middle_of_a_send(log, disk, act)
        assert isinstance(error, ReentrantCallError)
        threads[0].join(LONG)
        assert sorted(values(log)) == [b"first", b"interrupted", b"of a thread"]


def test_a_call_in_the_middle_of_a_brokers_stop_is_refused_for_it_would_wait_for_the_stop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The partitions that the broker leads take no records from the first moment of its stop on, which is in the interrupted thread."""
    errors: list[BaseException] = []
    with streamlog.open(brokers=3) as log:
        log.create_topic("t").send(b"x")
        consumer = log.consumer("t", group="g")
        assert len(consumer.poll(LONG)) == 1

        def act(*_: object) -> None:
            try:
                consumer.commit()
            except BaseException as error:
                errors.append(error)

        block = Partition.block

        def block_and_strike(partition: Partition, error: streamlog.StreamlogError) -> None:
            block(partition, error)
            monkeypatch.setattr(Partition, "block", block)
            strike()

        leader = log["__consumer_offsets"].partition(0).leader
        with on_signal(act) as strike, reentry.at_most(LONG, lambda: "a commit in the middle of a broker's stop"):
            monkeypatch.setattr(Partition, "block", block_and_strike)
            log.brokers[leader].stop()
        assert [type(error) for error in errors] == [ReentrantCallError]
        consumer.commit()  # another broker coordinates the group now
        assert not log.brokers[leader].running
        assert log.group("g").committed() == {TopicPartition("t", 0): 1}


def test_a_finalizer_that_sends_in_the_middle_of_a_send_neither_hangs_nor_loses_either(
    disk: DiskThatStrikes, clock: ManualClock
) -> None:
    with streamlog.open("data", disk=disk, clock=clock) as log:
        topic = log.create_topic("t")
        sent: list[bytes] = []

        class Sends:
            def __del__(self) -> None:
                try:
                    topic.send(b"finalizer's")
                    sent.append(b"finalizer's")
                except ReentrantCallError:
                    pass

        def act() -> None:
            Sends()

        assert in_the_middle_of_a_send(log, disk, act) == []
        Sends()
        assert sent == [b"finalizer's"]
        assert values(log) == [b"interrupted", b"finalizer's"]


def test_a_logging_handler_that_sends_does_not_hang(disk: DiskThatStrikes, clock: ManualClock) -> None:
    with streamlog.open("data", disk=disk, clock=clock) as log:
        topic = log.create_topic("t")
        refused: list[str] = []

        class Ships(logging.Handler):
            def emit(self, record: logging.LogRecord) -> None:
                try:
                    topic.send(record.getMessage())
                except ReentrantCallError:
                    refused.append(record.getMessage())

        ships = Ships()
        logger = logging.getLogger("streamlog")
        logger.addHandler(ships)
        try:
            with reentry.at_most(LONG, lambda: "a logging handler that sends"):
                disk.fail("pwrite", path="*published")  # it is logged under the publisher's lock
                topic.send(b"x")
        finally:
            logger.removeHandler(ships)
        assert len(refused) == 1
        assert values(log) == [b"x"]


@pytest.mark.parametrize("what", ["consumer", "log"])
def test_a_handler_that_closes_ends_a_waiting_poll(path: Path, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    log = streamlog.open(path)
    log.create_topic("t")
    consumer = log.consumer("t", group="g")
    with on_signal(lambda *_: (consumer if what == "consumer" else log).close()) as strike:
        strikes(monkeypatch, strike)
        with reentry.at_most(LONG, lambda: "a poll whose consumer was closed"):
            try:
                assert consumer.poll(LONG * 10) == []
            except ClosedError:
                assert what == "log"
    assert consumer.closed
    log.close()
    assert log.closed
    with streamlog.open(path) as log, log.consumer("t", group="g") as consumer:
        log["t"].send(b"x")
        assert len(consumer.poll(LONG)) == 1, "the partition is not free"


def strikes(monkeypatch: pytest.MonkeyPatch, strike: Callable[[], None]) -> None:
    """Have a signal come as a consumer begins to wait."""
    begin_wait = FetchSession.begin_wait

    def begin_wait_and_strike(session: FetchSession) -> None:
        begin_wait(session)
        strike()

    monkeypatch.setattr(FetchSession, "begin_wait", begin_wait_and_strike)


def test_a_handler_that_closes_ends_a_waiting_loop(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with streamlog.open(path) as log:
        log.create_topic("t").send(b"x")
        consumer = log.consumer("t", group="g")
        got: list[bytes] = []
        with on_signal(lambda *_: consumer.close()) as strike, reentry.at_most(LONG, lambda: "a loop that was closed"):
            strikes(monkeypatch, strike)
            got += [record.value for record in consumer]
        assert got == [b"x"]
        assert consumer.closed
        assert log.group("g").committed() == {TopicPartition("t", 0): 1}


def test_a_deserializer_that_uses_its_own_consumer_is_refused_and_may_look(log: streamlog.StreamLog) -> None:
    log.create_topic("t").send(b"x")
    seen: list[object] = []

    def deserialize(value: bytes) -> bytes:
        seen.append(consumer.assignment())
        with pytest.raises(ReentrantCallError):
            consumer.commit()
        with pytest.raises(ReentrantCallError):
            consumer.seek_to_beginning()
        return value

    consumer = log.consumer("t", group="g", value_deserializer=deserialize)
    assert [record.value for record in consumer.poll()] == [b"x"]
    assert seen == [{TopicPartition("t", 0)}]


SIGNALLED = """
import itertools, os, signal, sys, threading, time, streamlog
from streamlog import ReentrantCallError, StreamlogError
from tests.sampling import Sampled

log = streamlog.open(sys.argv[1])
topic = log.create_topic("t")
producer = log.producer(linger_ms=1)
consumer = log.consumer("t", group="g")
sent, refused, acknowledged = itertools.count(), [], []
over = False

def others():
    with log.producer() as mine:
        while not over:
            mine.send("t", "of a thread").result()

thread = threading.Thread(target=others)
thread.start()

def handler(*_):
    value = f"handler's {{next(sent)}}"
    for call in (lambda: topic.send(value).result(), consumer.commit, log.sync, producer.flush):
        try:
            call()
            if call.__name__ == "<lambda>":
                acknowledged.append(value)
        except ReentrantCallError:
            if call.__name__ == "<lambda>":
                refused.append(value)

signal.signal(signal.SIGALRM, handler)
signal.setitimer(signal.ITIMER_REAL, 0.0007, 0.0013)
count = 0
while len(acknowledged) + len(refused) < 300:
    count += 1
    topic.send(f"main {{count}}").result()
    producer.send("t", f"lingers {{count}}")
    consumer.poll(0.001)
    {more}
signal.setitimer(signal.ITIMER_REAL, 0)
over = True
thread.join()
signal.signal(signal.SIGTERM, lambda *_: log.close())
for _ in range(50):
    topic.send("again").result()
os.kill(os.getpid(), signal.SIGTERM)
try:
    while True:
        consumer.poll(5)
except streamlog.ClosedError:
    pass
except streamlog.ConsumerStoppedError:
    pass
log.close()
with streamlog.open(sys.argv[1]) as log:
    found = [record.value.decode() for record in log["t"].read()]
assert set(acknowledged) <= set(found), set(acknowledged) - set(found)
assert not set(refused) & set(found), set(refused) & set(found)
assert len([v for v in found if v.startswith("main")]) == count
assert len([v for v in found if v.startswith("lingers")]) == count
"""


@pytest.mark.slow
@pytest.mark.parametrize("more", ["pass", "consumer.commit()", "log.create_topic(f'x{count}').delete()"])
def test_a_timer_whose_handler_sends_commits_and_syncs_beside_a_thread_that_sends(
    path: Path, run_script: RunScript, more: str
) -> None:
    done = run_script(SIGNALLED.format(more=more), path)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


@pytest.mark.slow
@pytest.mark.parametrize("kind", calls.ACTIONS, ids=lambda kind: kind.__name__)
def test_a_call_anywhere_in_another_ends_or_is_refused_with_nothing_done(
    kind: type[calls.Action], rng: random.Random, sampled: Sampled
) -> None:
    """At a place or none of each pair of calls; `python -m tests.stress.reentry` looks at many of each."""
    pairs = sampled(itertools.product(reentry.INTRUDERS, (False, True)), 7, full=5)
    for intruder, finalizer in pairs:
        reentry.sweep(kind, intruder, finalizer=finalizer, first=rng.randrange(10**6), samples=1)


def test_the_sweep_would_find_a_call_that_is_not_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Blind:
        def _is_owned(self) -> bool:
            return False

        def __enter__(self) -> None: ...
        def __exit__(self, *_: object) -> None: ...

    class SendAgain(
        calls.Send
    ):  # the first one gets an id for the producer: it waits once more, after the sweep's alarm
        def prepare(self) -> None:
            super().prepare()
            self.story.send()

    monkeypatch.setattr(reentry, "LONGEST_S", 0.2)
    monkeypatch.setattr(threads.this_thread, "mark", Blind())
    # The alarm may come in the callback of a weak reference, from which nothing is raised: there pytest fails a test by itself.
    found: list[str] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda lost: found.append(str(lost.exc_value)))
    try:
        reentry.sweep(SendAgain, reentry.SendInside, finalizer=False, first=0, samples=60)
    except AssertionError as error:
        found.append(str(error))
    assert any("still waiting" in each for each in found), found


def test_a_read_in_the_middle_of_a_look_at_another_processs_log_is_refused(path: Path) -> None:
    with streamlog.open(path) as owner:
        owner.create_topic("t").send(b"x")
    errors: list[BaseException] = []
    with streamlog.open(path, read_only=True) as log:
        service: Any = log._engine.service
        look = service._published.look

        def act(*_: object) -> None:
            service._published.look = look
            try:
                service.look()
            except BaseException as error:
                errors.append(error)

        with on_signal(act) as strike, reentry.at_most(LONG, lambda: "a read in the middle of a look"):

            def interrupted() -> Any:
                strike()
                return look()

            service._published.look = interrupted
            service.look()
        assert values(log) == [b"x"]
    assert [type(error) for error in errors] == [ReentrantCallError]


def test_a_lock_that_knows_its_owner_refuses_it_and_makes_others_wait() -> None:
    lock = threads.OwnedLock()
    with lock:
        with pytest.raises(ReentrantCallError), lock:
            pass
        others: list[bool] = []
        thread = threading.Thread(target=lambda: others.append(lock.acquire(False)))
        thread.start()
        thread.join(LONG)
        assert others == [False]
    with lock:
        assert lock._is_owned()
    assert not lock._is_owned()
