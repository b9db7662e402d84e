"""Other processes read a log while its owner writes, rolls, compacts, deletes, closes, is killed, and comes back."""

from __future__ import annotations

import gc
import json
import logging
import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

import streamlog
from streamlog import StreamLog, TopicPartition
from streamlog.runtime.disk import OsDisk
from tests.contents import values
from tests.times import LONG

from .held_files import held_files
from .owner_process import SOON, Child, Owner, eventually, received

# A reader that finds nothing new looks after 0.35 s whether another process has become the owner.
NOTICED = 0.5
# An owner that has locked the directory, and shows so in no other way before it gets a line.
SLOW_OWNER = """
    import sys, streamlog
    from streamlog.broker.log_directory import LogDirectory
    take_over = LogDirectory._take_over
    def slow(self, new):
        print("locked", flush=True)
        sys.stdin.readline()
        return take_over(self, new)
    LogDirectory._take_over = slow
    log = streamlog.open(sys.argv[1])
    log["t"].send(b"3")
    print("sent", flush=True)
    sys.stdin.readline()
    log.close()
"""


@pytest.fixture
def owner(child: Child, path: Path) -> Owner:
    """The owner of a log with a topic `t`."""
    made = Owner(child, path)
    made("t = log.create_topic('t')")
    return made


@pytest.fixture
def reader(path: Path, owner: Owner) -> Iterator[StreamLog]:
    with streamlog.open(path, read_only=True) as log:
        yield log


# Tailing


def test_what_the_owner_sends_is_received(owner: Owner, reader: StreamLog) -> None:
    with reader.consumer("t") as consumer:
        assert consumer.poll() == []
        for n in range(20):
            owner(f"t.send(b'{n}')")
            assert received(consumer, 1) == [b"%d" % n]
    assert values(reader) == [b"%d" % n for n in range(20)]


def test_a_loop_waits_for_the_owner(owner: Owner, reader: StreamLog) -> None:
    with reader.consumer("t") as consumer:
        owner("t.send_many([b'0', b'1'])")
        seen = []
        for record in consumer:
            seen.append(record.value)
            if len(seen) == 5:
                break
            owner(f"t.send(b'{len(seen) + 1}')")
    assert seen == [b"0", b"1", b"2", b"3", b"4"]


@pytest.mark.parametrize("sync", [False, True])
def test_what_was_acknowledged_is_there_soon(child: Child, path: Path, sync: bool) -> None:
    owner = Owner(child, path, sync=sync)
    owner("t = log.create_topic('t', partitions=3)")
    with streamlog.open(path, read_only=True) as reader, reader.consumer("t") as consumer:
        for n in range(10):
            owner(f"t.send_many([b'%d' % n for n in range({n})], partition={n % 3})")
            assert len(received(consumer, n)) == n


def test_many_readers_read_the_same(owner: Owner, path: Path, child: Child) -> None:
    code = """
    import sys, streamlog
    with streamlog.open(sys.argv[1], read_only=True) as log, log.consumer("t") as consumer:
        print("ready", flush=True)
        for record in consumer:
            if record.value == b"end":
                break
            print(record.value.decode(), flush=True)
    """
    readers = [child(code, path) for _ in range(3)]
    for process in readers:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    owner("t.send_many([b'%d' % n for n in range(100)] + [b'end'])")
    for process in readers:
        output, errors = process.communicate(timeout=60)
        assert (output.split(), errors) == ([str(n) for n in range(100)], "")


def test_bounded_reads_positions_times_and_columns_are_as_in_the_owner(owner: Owner, reader: StreamLog) -> None:
    owner("t.send_many([b'%d' % n for n in range(10)], timestamps_ms=[1000 * n for n in range(10)])")
    name = TopicPartition("t", 0)
    eventually(lambda: reader["t"].partition(0).high_watermark, 10)
    assert values(reader, start=3, end=5) == [b"3", b"4"]
    assert values(reader, start=datetime.fromtimestamp(8, UTC)) == [b"8", b"9"]
    assert [list(batch.values) for batch in reader["t"].read_batches(start=8)] == [[b"8", b"9"]]
    info = reader["t"].partition(0)
    assert (info.log_start_offset, info.high_watermark, info.log_end_offset, info.segments) == (0, 10, 10, 1)
    assert info.size_bytes == sum(file.stat().st_size for file in owner.path.glob("topics/*/*.log"))
    with reader.consumer("t") as consumer:
        assert consumer.end_offsets([name]) == {name: 10}
        found = consumer.offsets_for_times({name: 7500})[name]
        assert found is not None
        assert found.offset == 8
        consumer.poll()
        consumer.seek(name, 9)
        assert received(consumer, 1) == [b"9"]
        assert consumer.lag() == {name: 0}
    assert reader.metrics()["topics"]["t"]["0"]["log_end_offset"] == 10


# What changes under a reader


def test_rolls_retention_and_deletions_are_followed(owner: Owner, reader: StreamLog) -> None:
    owner("t.update_config(segment_bytes=1024)")
    with reader.consumer("t", auto_offset_reset="none") as consumer:
        consumer.seek_to_beginning()
        for n in range(30):
            owner(f"t.send(b'{n:03}' * 200)")
            assert received(consumer, 1) == [b"%03d" % n * 200]
    owner("t.delete_records({0: 20})")
    assert values(reader) == [b"%03d" % n * 200 for n in range(20, 30)]
    assert reader["t"].partition(0).log_start_offset == 20
    owner("t.update_config(retention_records=5); t.apply_retention()")
    left = values(reader)
    assert left == [b"%03d" % n * 200 for n in range(30)][-len(left) :]
    assert len(left) < 10


def test_a_compaction_is_followed_before_and_while_files_are_open(owner: Owner, path: Path) -> None:
    owner("c = log.create_topic('c', cleanup_policy='compact', segment_bytes=1024)")
    owner("for n in range(40): c.send(b'%d' % n * 100, key=b'%d' % (n % 4))")
    with streamlog.open(path, read_only=True) as reader:
        eventually(lambda: reader["c"].partition(0).high_watermark, 40)
        records = reader["c"].read()
        first = next(records)
        owner("c.compact()")
        found = [first.offset, *(record.offset for record in records)]
        assert found == sorted(set(found))  # how many depends on what the owner's background work has compacted by then
        assert found[-4:] == [36, 37, 38, 39]
        assert [record.offset for record in reader["c"].read()] == [36, 37, 38, 39]
        owner("c.send(b'', key=b'0'); c.compact()")
        assert [record.offset for record in reader["c"].read()] == [37, 38, 39, 40]


def test_topics_appear_grow_and_go(owner: Owner, reader: StreamLog) -> None:
    assert list(reader) == ["t"]
    owner("u = log.create_topic('u', partitions=2)")
    eventually(lambda: list(reader), ["t", "u"])
    owner("u.add_partitions(3); u.send(b'x', partition=2)")
    eventually(lambda: reader["u"].partitions, 3)
    eventually(lambda: values(reader, "u"), [b"x"])
    handle = reader["u"]
    owner("log.delete_topic('u')")
    eventually(lambda: list(reader), ["t"])
    with pytest.raises(streamlog.UnknownTopicOrPartitionError):
        handle.read()
    owner("log.create_topic('u')")
    with pytest.raises(streamlog.UnknownTopicIdError):
        handle.read()
    assert values(reader, "u") == []


def test_a_reader_of_a_deleted_topic_raises_as_the_owner_does(owner: Owner, reader: StreamLog) -> None:
    owner("t.update_config(segment_bytes=1024); t.send_many([b'x' * 300] * 4000)")
    eventually(lambda: reader["t"].partition(0).high_watermark, 4000)
    records = reader["t"].read()
    next(records)
    owner("log.delete_topic('t')")
    with pytest.raises(streamlog.UnknownTopicOrPartitionError):
        list(records)
    owner("t = log.create_topic('t'); t.send(b'new')")
    eventually(lambda: values(reader), [b"new"])


def test_a_waiting_consumer_hears_of_new_topics(owner: Owner, reader: StreamLog) -> None:
    import re

    with reader.consumer(re.compile("new-.*")) as consumer:
        assert consumer.poll() == []
        owner("log.create_topic('new-one').send(b'x')")
        assert received(consumer, 1) == [b"x"]


def test_groups_can_be_looked_at(owner: Owner, reader: StreamLog) -> None:
    assert reader.groups() == []
    owner("t.send_many([b'%d' % n for n in range(10)])")
    owner("m = log.consumer('t', group='g'); m.poll(max_records=4); m.commit()")
    group = reader.group("g")
    eventually(group.committed, {TopicPartition("t", 0): 4})
    assert [group.name for group in reader.groups()] == ["g"]
    assert group.lag() == {TopicPartition("t", 0): 6}
    assert [member.assignment for member in group.members()] == [{TopicPartition("t", 0)}]
    owner("m.poll(max_records=1); m.commit()")
    eventually(group.committed, {TopicPartition("t", 0): 5})
    owner.close()
    assert group.committed() == {TopicPartition("t", 0): 5}
    assert reader.group("g").state == "Empty"


# Owners that go and come


def test_after_a_clean_close_everything_is_read(owner: Owner, reader: StreamLog, path: Path) -> None:
    owner("t.send_many([b'%d' % n for n in range(10)])")
    eventually(lambda: len(values(reader)), 10)
    owner("t.send(b'last')")
    owner.close()
    assert values(reader)[-1] == b"last"
    reader.close()
    with streamlog.open(path, read_only=True) as again:
        assert len(values(again)) == 11


@pytest.mark.slow
@pytest.mark.parametrize("derived", ["kept", "deleted", "garbage"])
@pytest.mark.parametrize("ending", ["close", "kill"])
def test_a_log_without_an_owner_is_read_to_its_end(owner: Owner, path: Path, ending: str, derived: str) -> None:
    owner("t.update_config(segment_bytes=1024)")
    owner("for n in range(20): t.send(b'%d' % n * 100)")
    getattr(owner, ending)()
    for file in [*path.rglob("*.index"), path / "published"]:
        if derived == "deleted":
            file.unlink()
        elif derived == "garbage":
            file.write_bytes(b"?" * 300)
    before = {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}
    with streamlog.open(path, read_only=True) as log:
        assert values(log) == [b"%d" % n * 100 for n in range(20)]
    assert {file: file.read_bytes() for file in path.rglob("*") if file.is_file()} == before


def test_records_that_a_killed_owner_did_not_publish_are_read(owner: Owner, path: Path) -> None:
    with streamlog.open(path, read_only=True) as reader, reader.consumer("t") as consumer:
        owner("t.send(b'0')")
        assert received(consumer, 1) == [b"0"]
        owner(
            "log._engine.service.brokers.all[0].publisher.abandon()"
        )  # as if it was killed before the next 5 ms were over
        owner("t.send_many([b'1', b'2'])")
        assert consumer.poll() == []
        owner.kill()
        assert received(consumer, 2) == [b"1", b"2"]
        assert values(reader) == [b"0", b"1", b"2"]


def test_a_torn_write_of_a_killed_owner_is_neither_read_nor_cut(owner: Owner, path: Path) -> None:
    owner("t.send(b'whole')")
    owner.kill()
    segment = next(path.glob("topics/*/*.log"))
    segment.write_bytes(segment.read_bytes() + segment.read_bytes()[:70])
    size = segment.stat().st_size
    with streamlog.open(path, read_only=True) as log:
        assert values(log) == [b"whole"]
    assert segment.stat().st_size == size


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["close", "kill"])
def test_an_owner_that_comes_back_is_followed_on(owner: Owner, reader: StreamLog, ending: str) -> None:
    with reader.consumer("t", auto_offset_reset="none") as consumer:
        consumer.seek_to_beginning()
        for life in range(4):
            owner(f"t.send(b'a{life}')")
            assert received(consumer, 1) == [b"a%d" % life]
            owner(f"t.send(b'b{life}')")
            getattr(owner, ending)()
            owner.open()
            owner(f"t = log['t']; t.send(b'c{life}')")
            assert received(consumer, 2) == [b"b%d" % life, b"c%d" % life]


@pytest.mark.slow
def test_a_reader_is_in_no_owners_way(owner: Owner, reader: StreamLog, path: Path, child: Child) -> None:
    with reader.consumer("t") as consumer:
        owner.kill()
        consumer.poll(0.4)  # long enough to notice that there is no owner
        seen = 0
        for _ in range(5):
            other = Owner(child, path)
            seen += len(consumer.poll(0.01))
            other("log['t'].send(b'x')")
            other.close()
        assert len(received(consumer, 5 - seen)) == 5 - seen


@pytest.mark.slow
@pytest.mark.parametrize("way", ["poll", "poll_batches"])
def test_an_owner_that_has_only_just_come_does_not_take_back_what_the_one_before_did_not_publish(
    owner: Owner, reader: StreamLog, path: Path, child: Child, way: str
) -> None:
    def receive(count: int) -> list[bytes]:
        found: list[bytes] = []
        while len(found) < count:
            got = getattr(consumer, way)(SOON)
            assert got, f"after {found} nothing came"
            found += [value for each in got for value in (each.values if way == "poll_batches" else [each.value])]
        return found

    with reader.consumer("t") as consumer:
        owner("t.send(b'0', partition=0)")
        assert receive(1) == [b"0"]
        owner(
            "log._engine.service.brokers.all[0].publisher.abandon()"
        )  # as if it was killed before the next 5 ms were over
        owner("t.send_many([b'1', b'2'], partition=0)")
        owner.kill()
        assert receive(2) == [b"1", b"2"]
        process = child(SLOW_OWNER, path)
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == "locked\n"
        assert consumer.poll(NOTICED) == []
        assert values(reader) == [b"0", b"1", b"2"]
        assert reader["t"].partition(0).high_watermark == 3
        process.stdin.write("go on\n")
        process.stdin.flush()
        assert receive(1) == [b"3"]
        assert process.stdout.readline() == "sent\n"
        assert process.communicate("and end\n", timeout=60) == ("", "")


def test_a_position_that_was_deleted_moves_and_no_other_does(
    owner: Owner, reader: StreamLog, caplog: pytest.LogCaptureFixture
) -> None:
    owner("t.add_partitions(2)")
    owner("t.send_many([b'%d' % n for n in range(9)], partition=0); t.send_many([b'x', b'y'], partition=1)")
    eventually(lambda: [reader["t"].partition(n).high_watermark for n in (0, 1)], [9, 2])
    with reader.consumer() as consumer:
        consumer.assign([TopicPartition("t", 0), TopicPartition("t", 1)])
        consumer.seek(TopicPartition("t", 1), 2)
        # As an owner does whose disk refuses to sync: it shows no more than what is known to be on the device.
        owner("p = log._engine.service._partitions['t', 1]; p._in_sync_end = lambda: 1; p.high_watermark = 1")
        owner("p.listener.changed(rewritten=True)")
        eventually(lambda: reader["t"].partition(1).high_watermark, 1)
        owner("t.delete_records({0: 7})")
        eventually(lambda: reader["t"].partition(0).log_start_offset, 7)
        with caplog.at_level(logging.WARNING, "streamlog"):
            assert received(consumer, 2) == [b"7", b"8"]
        assert [record.message for record in caplog.records] == [
            "t-0: offset 0 is outside the log (7 to 9); going on at 7 (auto_offset_reset='earliest')"
        ]
        assert consumer.position(TopicPartition("t", 1)) == 2
        owner("del p._in_sync_end; p.listener.changed(); t.send(b'z', partition=1)")
        assert received(consumer, 1) == [b"z"]


# Where there is nothing to read, or nothing to be read


def test_a_directory_that_is_no_log_is_refused_and_left_as_it_was(path: Path) -> None:
    for make in (lambda: None, path.mkdir, lambda: (path / "photo").write_text("holiday")):
        make()
        with pytest.raises(streamlog.FormatError, match="read_only=True creates none"):
            streamlog.open(path, read_only=True)
    assert [file.name for file in path.iterdir()] == ["photo"]


def test_a_newer_format_is_refused(path: Path, open_log: Callable[..., StreamLog]) -> None:
    open_log().close()
    about = json.loads((path / "streamlog.json").read_text())
    (path / "streamlog.json").write_text(json.dumps({**about, "min_reader": 99}))
    with pytest.raises(streamlog.FormatError, match="newer"):
        streamlog.open(path, read_only=True)
    (path / "streamlog.json").write_text(json.dumps(about))


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"auto_create_topics": True}, "auto_create_topics"),
        ({"sync": True}, "sync"),
        ({"partitions": 3}, "partitions"),
        ({"retention_ms": 5}, "retention_ms"),
    ],
    ids=str,
)
def test_what_a_reader_could_not_apply_is_refused(path: Path, options: dict[str, Any], name: str) -> None:
    with pytest.raises(streamlog.ConfigError, match=name):
        streamlog.open(path, read_only=True, **options)
    assert not path.exists()


def test_a_temporary_log_cannot_be_read_only() -> None:
    with pytest.raises(streamlog.ConfigError, match="path"):
        streamlog.open(read_only=True)


def test_one_process_opens_a_log_in_one_way(open_log: Callable[..., StreamLog], path: Path) -> None:
    with open_log() as log:
        log.create_topic("t")
        with pytest.raises(streamlog.ConfigError, match="for writing already") as raised:
            streamlog.open(path, read_only=True)
        assert "Use that handle" in str(raised.value)
    with streamlog.open(path, read_only=True):
        with pytest.raises(streamlog.ConfigError, match="for reading only already"):
            streamlog.open(path)
        with streamlog.open(path, read_only=True) as again:
            assert list(again) == ["t"]


def test_a_second_writer_is_shown_the_way(owner: Owner, path: Path) -> None:
    with pytest.raises(streamlog.LogLockedError, match="read_only=True") as raised:
        streamlog.open(path)
    assert raised.value.pid == owner.process.pid


WRITES: dict[str, Callable[[StreamLog], object]] = {
    "create_topic": lambda log: log.create_topic("u"),
    "create_topic, exist_ok": lambda log: log.create_topic("t", exist_ok=True),
    "delete_topic": lambda log: log.delete_topic("t"),
    "producer": lambda log: log.producer(),
    "Producer": lambda log: streamlog.Producer(log, linger_ms=5),
    "send": lambda log: log["t"].send(b"x"),
    "send_many": lambda log: log["t"].send_many([b"x"]),
    "update_config": lambda log: log["t"].update_config(retention_ms=1),
    "add_partitions": lambda log: log["t"].add_partitions(5),
    "apply_retention": lambda log: log["t"].apply_retention(),
    "compact": lambda log: log["t"].compact(),
    "delete_records": lambda log: log["t"].delete_records({0: 1}),
    "delete": lambda log: log["t"].delete(),
    "sync": lambda log: log.sync(),
    "consumer in a group": lambda log: log.consumer("t", group="g"),
    "group.consumer": lambda log: log.group("g").consumer("t"),
    "group.start": lambda log: log.group("g").start(print, "t"),
    "group.run": lambda log: log.group("g").run(print, "t", until_end=True),
    "group.reset": lambda log: log.group("g").reset("t", to="earliest"),
    "group.delete": lambda log: log.group("g").delete(),
}


@pytest.mark.parametrize("write", WRITES)
def test_every_call_that_writes_is_refused_and_says_what_to_do(
    open_log: Callable[..., StreamLog], path: Path, write: str
) -> None:
    with open_log() as log:
        log.create_topic("t").send(b"x")
        log.consumer("t", group="g").poll()
    before = {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}
    with streamlog.open(path, read_only=True) as log:
        with pytest.raises(streamlog.ReadOnlyError, match="read_only=True") as raised:
            WRITES[write](log)
        assert "process that owns" in str(raised.value)
        assert not raised.value.retriable
    assert {file: file.read_bytes() for file in path.rglob("*") if file.is_file()} == before


class ReadersDisk(OsDisk):
    """Refuses whatever would change something."""

    def open(self, path: str, *, create: bool = False, exclusive: bool = False, writable: bool = True) -> Any:
        assert not create
        assert not exclusive
        assert not writable, path
        return super().open(path, writable=False)

    def _refuse(self, *args: Any) -> Any:
        raise AssertionError(f"a reader changes {args}")

    makedirs = rename = unlink = rmtree = sync_dir = write_atomic = new_temporary_directory = _refuse


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["", "close", "kill"])
def test_a_reader_changes_nothing_at_all(owner: Owner, path: Path, ending: str) -> None:
    owner("t.update_config(segment_bytes=1024); t.send_many([b'%d' % n * 300 for n in range(20)])")
    owner("m = log.consumer('t', group='g'); list(m.until_end()); m.commit()")
    if ending:
        getattr(owner, ending)()
        for file in path.rglob("*.index"):
            file.unlink()
    with streamlog.open(path, read_only=True, disk=ReadersDisk()) as log, log.consumer("t") as consumer:
        assert len(received(consumer, 20)) == 20
        eventually(log.group("g").committed, {TopicPartition("t", 0): 20})
        assert consumer.poll(0.4) == []


def test_a_directory_that_may_only_be_read_is_read(open_log: Callable[..., StreamLog], path: Path) -> None:
    with open_log() as log:
        log.create_topic("t").send(b"x")
    code = """
    import os, sys, streamlog
    assert not os.access(sys.argv[1], os.W_OK), "it may be written"
    with streamlog.open(sys.argv[1], read_only=True) as log:
        print([record.value for record in log["t"].read()])
    """
    command = [sys.executable, "-c", textwrap.dedent(code), str(path)]
    if os.geteuid() == 0:  # who may write everywhere, unless this is taken away
        setpriv = shutil.which("setpriv") or pytest.skip("needs setpriv, of util-linux, when run by root")
        command = [setpriv, "--bounding-set=-dac_override,-dac_read_search", *command]
    places = [path, *(file for file in path.rglob("*") if file.is_dir())]
    for place in places:
        place.chmod(0o500)
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)
    finally:
        for place in places:
            place.chmod(0o700)
    assert (done.stdout, done.stderr) == ("[b'x']\n", "")


# Handles


def test_a_closed_reader_refuses_calls_and_wakes_the_polls_that_wait(
    owner: Owner, path: Path, in_thread: Callable[[Callable[[], Any]], Any]
) -> None:
    log = streamlog.open(path, read_only=True)
    topic, consumer = log["t"], log.consumer("t")
    waiting = in_thread(lambda: consumer.poll(60))
    log.close()
    with pytest.raises(streamlog.ClosedError):
        waiting.result(timeout=LONG)
    for use in (topic.read, lambda: list(log), log.groups, log.metrics, lambda: log.consumer("t")):
        with pytest.raises(streamlog.ClosedError):
            use()
    log.close()


def test_a_closed_reader_leaves_no_file_open(owner: Owner, path: Path) -> None:
    owner("t.update_config(segment_bytes=1024); t.send_many([b'%d' % n * 300 for n in range(20)])")
    log = streamlog.open(path, read_only=True)
    eventually(lambda: len(values(log)), 20)
    log.close()
    gc.collect()
    assert held_files(path) == []


def test_a_forgotten_reader_warns_and_the_directory_can_be_opened_otherwise(
    open_log: Callable[..., StreamLog], path: Path
) -> None:
    open_log().close()
    log = streamlog.open(path, read_only=True)
    with pytest.warns(ResourceWarning):
        del log
        gc.collect()
    with open_log() as owned:
        owned.create_topic("t")


def test_a_reader_in_a_forked_child_refuses_and_the_child_opens_its_own(owner: Owner, path: Path, child: Child) -> None:
    owner("t.send(b'x')")
    process = child(
        """
        import os, sys, warnings, streamlog
        warnings.simplefilter("ignore", DeprecationWarning)
        log = streamlog.open(sys.argv[1], read_only=True)
        topic, consumer = log["t"], log.consumer("t")
        if os.fork() == 0:
            for use in (topic.read, consumer.poll, lambda: list(log)):
                try:
                    use()
                except streamlog.ForkedError:
                    continue
                os._exit(1)
            with streamlog.open(sys.argv[1], read_only=True) as own:
                assert [record.value for record in own["t"].read()] == [b"x"]
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.wait()[1]) == 0
        print([record.value for record in topic.read()])
        log.close()
        """,
        path,
    )
    output, errors = process.communicate(timeout=60)
    assert (output, errors) == ("[b'x']\n", "")


def test_a_reader_reads_no_file_while_no_call_waits(owner: Owner, path: Path) -> None:
    class Counting(ReadersDisk):
        reads = 0

        def open(self, *args: Any, **options: Any) -> Any:
            file = super().open(*args, **options)
            counting, pread = self, file.pread

            class Counted:
                path, size, map, close = file.path, file.size, file.map, file.close

                def pread(self, length: int, position: int) -> bytes:
                    counting.reads += 1
                    data: bytes = pread(length, position)
                    return data

            return Counted()

    disk = Counting()
    with streamlog.open(path, read_only=True, disk=disk) as log, log.consumer("t") as consumer:
        while (waited := disk.reads) <= 3:
            consumer.poll(0.05)
        owner("for n in range(20_000): t.send(b'x')")  # takes a tenth of a second or more
        assert disk.reads <= waited + 1
