"""The first sync that fails poisons its partition: it is never tried again, and the next open proves nothing by reading."""

from __future__ import annotations

import errno
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from typing import Any, cast

import pytest

import streamlog
from streamlog import DeliveryError, PoisonedLogError, ReentrantCallError, SerializationError
from streamlog.records import columns
from streamlog.records.core import core
from streamlog.testing import FaultyDisk, ManualClock, SimulatedDisk
from tests.contents import values

from .gated_disk import LONG, RECORDS, GatedDisk

InThread = Callable[[Callable[[], Any]], "Future[Any]"]
PATH = "/data"
# What encodes the batch of a sender.
SEAL = "seal" if core is None else "seal_rows"


@pytest.fixture
def machine() -> SimulatedDisk:
    return SimulatedDisk()


@pytest.fixture
def disk(machine: SimulatedDisk) -> FaultyDisk:
    return FaultyDisk(machine)


def open_on(disk: Any, clock: ManualClock, **options: Any) -> streamlog.StreamLog:
    return streamlog.open(PATH, disk=disk, clock=clock, **{"sync": True, **options})


def after_power_loss(machine: SimulatedDisk, clock: ManualClock) -> list[bytes]:
    with streamlog.open(PATH, disk=machine.power_loss("strict"), clock=clock) as log:
        return values(log)


def syncs(disk: FaultyDisk) -> int:
    return sum(1 for op, path in disk.calls if op == "sync" and path.endswith(".log") and "/topics/" in path)


def poisoned(disk: FaultyDisk, clock: ManualClock, **options: Any) -> streamlog.StreamLog:
    """A log with a record that was acknowledged, and one whose sync failed."""
    log = open_on(disk, clock, **options)
    topic = log.create_topic("t")
    topic.send(b"acknowledged")
    disk.fail("sync", errno.EIO, path=RECORDS)
    with pytest.raises(PoisonedLogError) as raised:
        topic.send(b"lost")
    error = raised.value
    assert error.errno == errno.EIO
    assert error.path.endswith(".log")
    assert isinstance(error.__cause__, OSError)
    assert not error.retriable
    for said in ("sync", "unknown", "close the log and open it again"):
        assert said in str(error)
    return log


@pytest.fixture
def close() -> Callable[[streamlog.StreamLog], None]:
    def close(log: streamlog.StreamLog) -> None:
        with pytest.raises(PoisonedLogError):
            log.close()
        log.close()  # said once

    return close


Close = Callable[[streamlog.StreamLog], None]


def test_a_partition_whose_sync_failed_accepts_nothing_more_and_syncs_never_again(
    disk: FaultyDisk, clock: ManualClock, close: Close
) -> None:
    log = poisoned(disk, clock)
    before = syncs(disk)
    topic = log["t"]
    for refused in (
        lambda: topic.send(b"more"),
        lambda: topic.send(b"more", headers={"a": "b"}),
        lambda: log.producer().send_many("t", [b"more"]).result(),
        lambda: log.producer(linger_ms=5).send("t", b"more").result(),
        log.sync,
    ):
        with pytest.raises((PoisonedLogError, streamlog.DeliveryError), match=r"A sync of .* failed"):
            refused()
    clock.advance(3600)
    close(log)
    assert syncs(disk) == before


def test_what_was_acknowledged_can_be_read_on_and_other_partitions_work(
    disk: FaultyDisk, clock: ManualClock, close: Close
) -> None:
    log = poisoned(disk, clock)
    assert values(log) == [b"acknowledged"]
    log.create_topic("other").send(b"fine")
    assert values(log, "other") == [b"fine"]
    close(log)


def test_a_failed_sync_fails_every_send_that_waited_for_it(
    machine: SimulatedDisk, clock: ManualClock, in_thread: InThread, close: Close
) -> None:
    faulty = FaultyDisk(machine)
    gated = GatedDisk(faulty)
    log = open_on(gated, clock)
    topic = log.create_topic("t")
    gated.hold()
    faulty.fail("sync", errno.EIO, path=RECORDS)
    sending = [in_thread(lambda n=n: topic.send(b"%d" % n)) for n in range(4)]
    gated.until_written(4)
    gated.until_held()
    gated.let_go()
    for each in sending:
        assert isinstance(each.exception(LONG), PoisonedLogError)
    assert gated.syncs == 1
    assert values(log) == []
    close(log)


def test_the_failure_of_a_lingering_record_is_raised_by_its_delivery_and_by_close(
    disk: FaultyDisk, clock: ManualClock
) -> None:
    log = open_on(disk, clock)
    log.create_topic("t")
    producer = log.producer(linger_ms=5)
    asked, unobserved = producer.send("t", b"1"), producer.send("t", b"2")
    disk.fail("sync", errno.EIO, path=RECORDS)
    clock.advance(0.01)
    assert isinstance(asked.exception(), PoisonedLogError)
    with pytest.raises(streamlog.DeliveryError) as raised:
        producer.flush()
    assert [record.value for record in raised.value.records] == [b"2"]
    assert unobserved.done()
    with pytest.raises(PoisonedLogError):
        log.close()


@pytest.mark.parametrize("reboot", [False, True])
def test_the_next_open_writes_anew_what_was_not_known_to_be_on_the_device(
    disk: FaultyDisk, machine: SimulatedDisk, clock: ManualClock, close: Close, reboot: bool
) -> None:
    close(poisoned(disk, clock))
    if reboot:
        machine = machine.power_loss("strict")
    with open_on(machine, clock) as log:
        # The same boot still has the bytes of the one that was not acknowledged: it may come back, but for good.
        expected = [b"acknowledged"] if reboot else [b"acknowledged", b"lost"]
        assert values(log) == expected
        assert log["t"].send(b"goes on").result().offset == len(expected)
        assert after_power_loss(machine, clock) == [*expected, b"goes on"]
        assert not [path for path in machine.listdir(f"{PATH}/topics") if "poison" in path]
        (directory,) = machine.listdir(f"{PATH}/topics")
        assert [n for n in machine.listdir(f"{PATH}/topics/{directory}") if not n.endswith((".log", ".index"))] == [
            "partition.state"
        ]


def test_a_process_killed_after_a_failed_sync_leaves_word_of_it(
    disk: FaultyDisk, machine: SimulatedDisk, clock: ManualClock, close: Close
) -> None:
    log = poisoned(disk, clock, sync=True)
    killed = machine.kill()
    close(log)
    with open_on(killed, clock) as again:
        assert values(again) == [b"acknowledged", b"lost"]
        assert after_power_loss(killed, clock) == [b"acknowledged", b"lost"]


@pytest.mark.parametrize("sync", [False, True])
def test_where_no_word_of_it_can_be_left_in_the_partition_it_is_left_in_the_owner_file(
    disk: FaultyDisk, machine: SimulatedDisk, clock: ManualClock, close: Close, sync: bool
) -> None:
    """Else the next open would take the kernel's word: it syncs without an error, and a power loss takes the bytes."""
    log = open_on(disk, clock, sync=sync)
    log.create_topic("t").send(b"acknowledged")
    (directory,) = machine.listdir(f"{PATH}/topics")
    disk.fail("any", errno.EIO, path=f"{PATH}/topics/{directory}*", times=None)
    close(log)
    disk.heal()
    assert not [name for name in machine.listdir(f"{PATH}/topics/{directory}") if name.startswith("poisoned")]
    with open_on(disk, clock, sync=sync) as log:
        assert values(log) == [b"acknowledged"]
        log.sync()
        assert after_power_loss(machine, clock) == [b"acknowledged"]
    copies = [path for op, path in disk.calls if op == "rename" and path.endswith(".log.tmp")]
    with open_on(disk, clock, sync=sync) as log:
        assert values(log) == [b"acknowledged"]
    assert [path for op, path in disk.calls if op == "rename" and path.endswith(".log.tmp")] == copies != []


def test_without_the_copy_the_kernels_word_would_be_taken_for_it(
    disk: FaultyDisk, machine: SimulatedDisk, clock: ManualClock, close: Close
) -> None:
    """What the marker is for: a sync of the old file succeeds, and the bytes never get to the device."""
    log = poisoned(disk, clock)
    (directory,) = machine.listdir(f"{PATH}/topics")
    (marker,) = [name for name in machine.listdir(f"{PATH}/topics/{directory}") if name.startswith("poisoned")]
    machine.unlink(f"{PATH}/topics/{directory}/{marker}")
    killed = machine.kill()
    close(log)
    with open_on(killed, clock) as again:
        assert values(again) == [b"acknowledged", b"lost"]
        assert after_power_loss(killed, clock) == [b"acknowledged"]


@pytest.mark.slow
def test_a_kill_at_any_moment_of_the_copying_loses_nothing(
    disk: FaultyDisk, machine: SimulatedDisk, clock: ManualClock, close: Close
) -> None:
    close(poisoned(disk, clock))
    done = len(machine.operations)
    open_on(machine, clock).close()
    for name, left in machine.crashes(random=2, first=done):
        with open_on(left, clock) as log:
            assert values(log)[:1] == [b"acknowledged"], name
            assert log["t"].send(b"goes on").result().offset == len(values(log)) - 1
            assert after_power_loss(left, clock) == values(log), name


def test_a_log_without_sync_is_poisoned_by_log_sync_and_reads_on_to_its_end(
    disk: FaultyDisk, machine: SimulatedDisk, clock: ManualClock, close: Close
) -> None:
    log = open_on(disk, clock, sync=False)
    for name in ("a", "b"):
        log.create_topic(name).send(b"1")
    disk.fail("sync", errno.EIO, path=f"*/{log['a'].id.hex}-0/*.log")
    with pytest.raises(PoisonedLogError):
        log.sync()
    with pytest.raises(PoisonedLogError):
        log["a"].send(b"2")
    assert values(log, "a") == [b"1"]
    assert log["b"].send(b"2").result().offset == 1
    with streamlog.open(PATH, disk=machine.power_loss("strict"), clock=clock) as left:
        assert values(left, "a") == []
        assert values(left, "b") == [b"1"]
    close(log)
    with open_on(machine, clock, sync=False) as again:
        assert values(again, "a") == [b"1"]
        assert again["a"].send(b"2").result().offset == 1


@pytest.mark.parametrize("sync", [False, True])
def test_the_background_sync_of_a_sealed_segment_poisons_too(
    disk: FaultyDisk, clock: ManualClock, close: Close, sync: bool
) -> None:
    log = open_on(disk, clock, sync=sync, segment_ms=60_000, retention_ms=600_000)
    topic = log.create_topic("t")
    topic.send_many([b"%d" % n * 300 for n in range(8)])
    disk.fail("sync", errno.EIO, path=RECORDS)
    clock.advance(120)
    with pytest.raises(PoisonedLogError):
        topic.send(b"more")
    assert len(values(log)) == 8
    close(log)
    with open_on(disk, clock, sync=sync) as again:
        assert len(values(again)) == 8
        again["t"].send(b"more")


def test_a_directory_that_cannot_be_synced_after_a_roll_poisons_too(
    disk: FaultyDisk, machine: SimulatedDisk, clock: ManualClock, close: Close
) -> None:
    log = open_on(disk, clock, segment_bytes=1024)
    topic = log.create_topic("t")
    topic.send(b"x" * 600)
    disk.fail("sync_dir", errno.EIO, path="*/topics/*")
    with pytest.raises(PoisonedLogError):
        topic.send(b"y" * 600)
    with pytest.raises(PoisonedLogError):
        topic.send(b"small")
    assert values(log) == [b"x" * 600]
    close(log)
    with open_on(machine, clock) as again:
        assert values(again)[:1] == [b"x" * 600]
        assert again["t"].send(b"z" * 600).result().offset == len(values(again)) - 1
        assert after_power_loss(machine, clock) == values(again)


def test_a_close_whose_sync_fails_does_not_call_the_log_clean(
    disk: FaultyDisk, machine: SimulatedDisk, clock: ManualClock, close: Close
) -> None:
    log = open_on(disk, clock, sync=False)
    log.create_topic("t").send(b"1")
    disk.fail("sync", errno.EIO, path=RECORDS)
    close(log)
    with open_on(machine, clock) as again:
        assert values(again) == [b"1"]
        assert after_power_loss(machine, clock) == [b"1"]


def test_metadata_whose_sync_failed_refuses_changes_and_the_topic_is_not_there(
    disk: FaultyDisk, machine: SimulatedDisk, clock: ManualClock, close: Close
) -> None:
    log = open_on(disk, clock)
    log.create_topic("t").send(b"1")
    disk.fail("sync", errno.EIO, path="*__cluster_metadata*.log")
    for _ in range(2):
        with pytest.raises(PoisonedLogError):
            log.create_topic("new")
    assert list(log) == ["t"]
    log["t"].send(b"2")
    close(log)
    with open_on(machine, clock) as again:
        assert values(again) == [b"1", b"2"]
        again.create_topic("newer")


def test_a_commit_whose_sync_failed_is_no_commit(disk: FaultyDisk, clock: ManualClock, close: Close) -> None:
    log = open_on(disk, clock)
    log.create_topic("t").send_many([b"1", b"2"])
    consumer = log.consumer("t", group="g", enable_auto_commit=False)
    consumer.poll(0)
    disk.fail("sync", errno.EIO, path=RECORDS)
    with pytest.raises(PoisonedLogError):
        consumer.commit()
    with pytest.raises(streamlog.StreamlogError):
        consumer.commit()
    close(log)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO])
@pytest.mark.parametrize("op", ["pwrite", "truncate", "create"])
def test_a_write_that_fails_is_no_poison_and_goes_on_when_the_cause_is_gone(
    disk: FaultyDisk, machine: SimulatedDisk, clock: ManualClock, number: int, op: str
) -> None:
    with open_on(disk, clock, segment_bytes=1024) as log:
        topic = log.create_topic("t")
        topic.send(b"1" * 600)
        disk.fail(op, number, path=RECORDS, times=2)
        if op == "truncate":
            disk.fail("pwrite", number, path=RECORDS, short=20)
        for _ in range(2):
            size = 100 if op == "truncate" else 600
            with pytest.raises((streamlog.DiskFullError, streamlog.StorageError)) as raised:
                topic.send(b"2" * size)
            assert raised.value.errno == number
        assert values(log) == [b"1" * 600]
        assert topic.send(b"3" * 600).result().offset == 1
        assert after_power_loss(machine, clock) == [b"1" * 600, b"3" * 600]


@contextmanager
def on_signal(handler: Callable[..., None]) -> Iterator[Callable[[], None]]:
    """A signal handler of the program's; what is given back has it run at once, as the signal would."""
    before = signal.signal(signal.SIGUSR1, handler)
    try:
        yield lambda: signal.raise_signal(signal.SIGUSR1)
    finally:
        signal.signal(signal.SIGUSR1, before)


@pytest.mark.parametrize(
    ("error", "code"),
    [(TimeoutError, errno.ETIMEDOUT), (ConnectionResetError, errno.ECONNRESET), (OSError, errno.ENOSPC)],
)
@pytest.mark.parametrize(("method", "where"), [("sync", RECORDS), ("pwrite", RECORDS), ("pwrite", "*published")])
@pytest.mark.parametrize("linger_ms", [0, 60_000])
def test_an_oserror_of_a_signal_handler_passes_through_and_harms_no_record(
    machine: SimulatedDisk, clock: ManualClock, error: type[OSError], code: int, method: str, where: str, linger_ms: int
) -> None:
    disk = FaultyDisk(machine)
    with open_on(disk, clock) as log:
        log.create_topic("t")
        producer = log.producer(linger_ms=linger_ms)
        others = log.producer(linger_ms=60_000)
        lingering = others.send("t", b"another's")
        producer.send("t", b"first").result(LONG)

        def handler(*_: object) -> None:
            raise error(code, "of the program's own")

        with on_signal(handler) as strike:
            disk.fail(method, cast(Any, strike), path=where)
            with pytest.raises(error) as raised:
                producer.send("t", b"second").result(LONG)
        assert type(raised.value) is error
        assert lingering.result(LONG).offset >= 0
        assert producer.send("t", b"third").result(LONG).offset >= 2
        log.sync()
        found = values(log)
        assert [value for value in found if value != b"second"] == [b"first", b"another's", b"third"]
        assert found.count(b"second") <= 1


@pytest.mark.parametrize("sync", [False, True])
@pytest.mark.parametrize("method", ["pwrite", "sync"])
def test_a_refused_call_in_a_signal_handler_fails_no_records(
    machine: SimulatedDisk, clock: ManualClock, method: str, sync: bool
) -> None:
    """A handler that lets the ReentrantCallError out raises an error of ours, which is no answer of the log's."""
    disk = FaultyDisk(machine)
    with open_on(disk, clock, sync=sync) as log:
        log.create_topic("t")
        others = log.producer(linger_ms=60_000)
        lingering = others.send("t", b"another's")

        def handler(*_: object) -> None:
            log["t"].send(b"refused")

        with on_signal(handler) as strike:
            fault = disk.fail(method, cast(Any, strike), path=RECORDS)
            with suppress(ReentrantCallError):
                others.flush(LONG)
            assert fault.fired or not sync
        disk.heal()
        others.flush(LONG)
        assert lingering.result(LONG).offset == 0
        assert values(log) == [b"another's"]
        assert log["t"].send(b"next").result().offset == 1


def test_a_handlers_error_while_a_name_is_looked_for_does_not_make_the_file_absent(
    machine: SimulatedDisk, clock: ManualClock
) -> None:
    disk = FaultyDisk(machine)
    with open_on(disk, clock) as log:
        log.create_topic("t").send(b"kept")

    def handler(*_: object) -> None:
        raise FileNotFoundError(errno.ENOENT, "of the program's own")

    for op in ("exists", "listdir", "open", "pread", "size", "sync", "pwrite"):
        for nth in range(1, 40):
            with on_signal(handler) as strike:
                fault = disk.fail(op, cast(Any, strike), nth=nth)
                try:
                    open_on(disk, clock).close()
                except FileNotFoundError as error:
                    assert "of the program's own" in str(error)
                disk.heal()
            if not fault.fired:
                break
        else:
            pytest.fail(f"the open never ended without a handler in {op}")
    with open_on(disk, clock) as log:
        assert values(log) == [b"kept"]


@pytest.mark.parametrize("error", [TimeoutError, ValueError, MemoryError])
def test_an_exception_of_a_handler_while_records_are_encoded_fails_no_lingering_batch(
    machine: SimulatedDisk, clock: ManualClock, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    with open_on(machine, clock) as log:
        log.create_topic("t")
        producer = log.producer(linger_ms=60_000)
        lingering = producer.send("t", b"another's", b"k")
        seal = getattr(columns, SEAL)

        def handler(*_: object) -> None:
            raise error("of the program's own")

        with on_signal(handler) as strike:

            def interrupted_seal(*args: Any, **options: Any) -> Any:
                monkeypatch.undo()
                strike()
                return seal(*args, **options)

            monkeypatch.setattr(columns, SEAL, interrupted_seal)
            with pytest.raises(error, match="of the program's own"):
                producer.flush(LONG)
        assert lingering.result(LONG).offset == 0
        assert values(log) == [b"another's"]


def test_a_record_that_can_never_be_encoded_fails_and_blocks_no_other(
    machine: SimulatedDisk, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_on(machine, clock) as log:
        log.create_topic("t")
        producer = log.producer(linger_ms=60_000)
        bad = producer.send("t", b"bad", b"k")

        def never(*_: Any, **__: Any) -> Any:
            raise ValueError("code of the record's own")

        monkeypatch.setattr(columns, SEAL, never)
        with pytest.raises(ValueError, match="own"):
            producer.flush(LONG)
        with pytest.raises(DeliveryError):
            producer.flush(LONG)
        monkeypatch.undo()
        assert isinstance(bad.exception(), SerializationError)
        assert producer.send("t", b"good").result(LONG).offset == 0
