"""The service of a reader, beside an owner in the same process: when it looks, whom it wakes, what it does while it cannot see."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from streamlog.broker.api import ProduceRequest
from streamlog.broker.log_directory import LogDirectory
from streamlog.broker.scheduler import Scheduler
from streamlog.broker.service import LocalService
from streamlog.broker.tailing import service as tailing
from streamlog.broker.tailing.service import TailingService
from streamlog.broker.waiting import FetchSession
from streamlog.errors import (
    ClosedError,
    ReadOnlyError,
    RequestTimedOutError,
    StorageError,
    UnknownLeaderEpochError,
    UnknownTopicOrPartitionError,
)
from streamlog.records import columns
from streamlog.records.batch import seed_of
from streamlog.runtime.disk import OsDisk
from streamlog.runtime.threads import RawGate, SystemClock, new_lock, real_monotonic, result_of
from streamlog.types import TopicPartition

NAME = TopicPartition("t", 0)


class Gate(RawGate):
    """Waiting takes no time; `meanwhile` is what happens then."""

    meanwhile: Callable[[], object] = staticmethod(lambda: None)

    def wait(self, timeout: float | None = None) -> bool:
        Gate.meanwhile()
        return False


class Scene:
    """An owner, and a reader whose clock stands still."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self.now = 100.0
        self.disk = OsDisk()
        self.own()
        created = self.owner.create_topic("t", settings={"segment_bytes": 1024})
        self.at = result_of(created).partition(0)
        self.reader = self.new_reader()
        self.reader.open()

    def own(self, *, sync: bool = False) -> None:
        broker = LogDirectory(self.path, OsDisk(), new_lock, RawGate, real_monotonic, sync=sync)
        broker.open(0.0)
        self.owner = LocalService(
            [broker], SystemClock(), Scheduler(new_lock(), new_lock()), Scheduler(new_lock(), new_lock()), {}, new_lock, RawGate, real_monotonic
        )  # fmt: skip
        self.owner.open()

    def new_reader(self) -> TailingService:
        return TailingService(
            self.path, self.disk, SystemClock(), Scheduler(new_lock(), new_lock()), new_lock, Gate, lambda: self.now
        )

    def send(self, *values: bytes, topic: str = "t") -> None:
        view = self.owner.image.topics[topic]
        batch = columns.seal(seed_of(view.id_bytes, 0), None, list(values), 1, count=len(values))
        assert self.owner.produce(ProduceRequest(view.partition(0), [batch])).error() is None

    def fetch(self, offset: int = 0, reader: TailingService | None = None) -> bytes:
        return bytes(result_of((reader or self.reader).fetch(self.at, offset, 1 << 16, "read_committed")).data)


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    Gate.meanwhile = staticmethod(lambda: None)
    made = Scene(tmp_path / "data")
    yield made
    made.reader.close()
    made.owner.close()


def test_a_read_that_would_come_back_empty_looks_again(scene: Scene) -> None:
    assert not scene.fetch()
    scene.send(b"x")  # the reader's clock stands still: what it saw last is not stale yet
    assert scene.fetch()


def test_reads_that_find_something_do_not_look_each_time(scene: Scene) -> None:
    scene.send(b"x")
    scene.fetch()
    looks: list[None] = []
    look = scene.reader._published.look
    scene.reader._published.look = lambda: looks.append(None) or look()  # type: ignore[method-assign, func-returns-value]
    for _ in range(10):
        assert scene.fetch()
        assert list(scene.reader.image.topics) == ["t"]
    assert looks == []
    scene.now += 0.002
    scene.fetch()
    assert len(looks) == 1


def session_of(scene: Scene, *names: TopicPartition) -> FetchSession:
    session = scene.reader.fetch_session(lambda: None)
    for name in names:
        session.watch(name)
    return session


def test_a_call_that_waits_is_woken_by_the_thread_which_then_sleeps(scene: Scene) -> None:
    nudges: list[None] = []
    scene.reader.nudge = lambda: nudges.append(None)
    assert scene.reader.tick(1_000) is None
    session = session_of(scene, NAME)
    session.begin_wait()
    assert len(nudges) == 1
    assert scene.reader.tick(1_000) == 1_005
    assert not session.ready
    scene.send(b"x")
    scene.reader.tick(1_005)
    assert list(session.ready) == [NAME]
    session.end_wait()
    assert scene.reader.tick(1_010) is None
    for other in [session_of(scene, NAME), session_of(scene)]:
        other.begin_wait()
        other.close()
    assert scene.reader.tick(1_015) is None


def test_a_change_that_one_reader_found_wakes_all_readers_that_wait_for_it(scene: Scene) -> None:
    scene.owner.create_topic("u")
    scene.reader.look()
    both = session_of(scene, NAME), session_of(scene, NAME, TopicPartition("u", 0))
    other = session_of(scene, TopicPartition("u", 0))
    scene.send(b"x")
    scene.fetch()
    assert [list(session.ready) for session in (*both, other)] == [[NAME], [NAME], []]


def test_listeners_hear_of_topics_once(scene: Scene) -> None:
    heard: list[list[str]] = []

    def listener() -> None:
        heard.append(sorted(scene.reader._image.topics))

    scene.reader.on_metadata(listener)
    scene.owner.create_topic("u")
    scene.send(b"x")
    scene.reader.look()
    scene.reader.look()
    assert heard == [["t", "u"]]
    scene.reader.off_metadata(listener)
    scene.reader.off_metadata(listener)
    scene.owner.delete_topic("u")
    scene.reader.look()
    assert len(heard) == 1


def test_a_deleted_topic_wakes_waiting_calls_and_fails_reads(scene: Scene) -> None:
    scene.send(*[b"%d" % n * 100 for n in range(100)])
    assert scene.fetch()
    session = session_of(scene, NAME)
    partition = scene.reader._partitions[NAME]
    scene.owner.delete_topic("t")
    session.begin_wait()
    scene.reader.tick(0)
    assert list(session.ready) == [NAME]
    assert isinstance(partition.closed, UnknownTopicOrPartitionError)
    with pytest.raises(UnknownTopicOrPartitionError):
        scene.fetch()
    with pytest.raises(UnknownTopicOrPartitionError):
        result_of(scene.reader.bounds(NAME, "read_committed"))
    with pytest.raises(UnknownTopicOrPartitionError, match="partition 7"):
        scene.owner.create_topic("t")
        result_of(scene.reader.bounds(TopicPartition("t", 7), "read_committed"))


@pytest.mark.parametrize("opened", [True, False])
def test_a_read_of_a_topic_deleted_meanwhile_raises_that_the_topic_is_deleted(scene: Scene, opened: bool) -> None:
    scene.send(b"x")
    if opened:
        scene.fetch()
    scene.send(b"y" * 1000)  # a segment that the reader has not listed
    scene.send(b"z" * 1000)
    scene.now += 1
    listdir = scene.disk.listdir

    def deleted_meanwhile(path: str) -> list[str]:
        scene.disk.listdir = listdir  # type: ignore[method-assign]
        scene.owner.delete_topic("t")
        return listdir(path)

    scene.disk.listdir = deleted_meanwhile  # type: ignore[method-assign]
    if opened:
        assert scene.fetch()  # out of the file that is open
        scene.now += 1
    with pytest.raises(UnknownTopicOrPartitionError):
        scene.fetch()


def test_a_directory_that_fails_for_another_reason_is_an_error(scene: Scene) -> None:
    scene.send(b"x")

    def refuse(path: str) -> list[str]:
        raise PermissionError(13, "no", path)

    scene.disk.listdir = refuse  # type: ignore[method-assign]
    with pytest.raises(StorageError):
        scene.fetch()


def test_while_an_owner_is_opening_what_was_known_is_read_on(scene: Scene) -> None:
    scene.send(b"x")
    data = scene.fetch()
    publisher = scene.owner.brokers.all[0].publisher
    scene.owner.close()
    publisher.open(2, 1)
    broker = LogDirectory(scene.path, OsDisk(), new_lock, RawGate, real_monotonic)
    broker.open(0.0)
    scene.now += 1
    assert scene.fetch() == data
    assert not scene.fetch(1)
    waiting = scene.new_reader()
    with pytest.raises(RequestTimedOutError) as raised:
        Gate.meanwhile = staticmethod(lambda: setattr(scene, "now", scene.now + 1))
        waiting.open()
    assert raised.value.retriable
    broker.close(clean=True)
    publisher.close(clean=True)
    Gate.meanwhile = staticmethod(scene.own)
    scene.own()
    scene.send(b"y")
    scene.now += 1
    assert scene.fetch(1)
    waiting.open()
    assert list(waiting.image.topics) == ["t"]
    waiting.close()


def test_a_reader_that_comes_while_the_log_is_opened_waits_for_it(scene: Scene) -> None:
    scene.send(b"x")
    scene.owner.close()
    broker = LogDirectory(scene.path, OsDisk(), new_lock, RawGate, real_monotonic)
    broker.open(0.0)
    reader = scene.new_reader()

    def finish() -> None:
        Gate.meanwhile = staticmethod(lambda: None)
        broker.close(clean=True)
        scene.own()
        scene.now += 1

    Gate.meanwhile = staticmethod(finish)
    reader.open()
    assert result_of(reader.bounds(NAME, "read_committed")) == (0, 1)
    reader.close()


def test_an_error_in_the_thread_is_raised_by_the_call_that_waits(scene: Scene) -> None:
    session = session_of(scene, NAME)
    session.begin_wait()

    def refuse() -> Any:
        raise StorageError("no", path="", errno=5)

    scene.reader._published.look = refuse  # type: ignore[method-assign]
    assert scene.reader.tick(0) == 5
    assert list(session.ready) == [NAME]
    with pytest.raises(StorageError):
        scene.fetch()
    session.close()


def test_offsets_and_epochs_are_those_of_the_owner(scene: Scene) -> None:
    scene.send(b"x", b"y")
    reader = scene.reader
    assert result_of(reader.find_offset(NAME, "latest", "read_committed")) == (2, -1)
    assert result_of(reader.find_offset(NAME, "max_timestamp", "read_committed")) == (0, 1)
    assert result_of(reader.epoch_end_offset(NAME, 0)) == (0, 2)
    assert isinstance(reader.epoch_end_offset(NAME, 0, 1).error(), UnknownLeaderEpochError)


def test_what_would_write_is_refused(scene: Scene) -> None:
    at = scene.owner.image.topics["t"].partition(0)
    reader = scene.reader
    refused = [
        reader.produce(ProduceRequest(at, [])),
        reader.produce_one_later(at, None, b"", 0, 0),
        reader.init_producer_id(),
        reader.delete_offsets("g", [NAME]),
        reader.delete_topic("t"),
    ]
    assert [type(answer.error()) for answer in refused] == [ReadOnlyError] * len(refused)
    with pytest.raises(ReadOnlyError):
        reader.produce_one(at, None, b"x", 1, 1)


def test_groups_without_an_offsets_topic_are_none(scene: Scene) -> None:
    assert result_of(scene.reader.list_groups()) == []
    assert result_of(scene.reader.committed("g", None)) == {}
    assert result_of(scene.reader.describe_group("g")).state == "Dead"


def test_a_closed_service_refuses_and_wakes(scene: Scene) -> None:
    session = session_of(scene, NAME)
    scene.reader.close()
    assert list(session.ready) == [NAME]
    assert scene.reader.tick(0) is None
    assert list(scene.reader.image.topics) == ["t"]
    for use in (scene.fetch, scene.reader.look, lambda: result_of(scene.reader.topic("t")), scene.reader.metrics):
        with pytest.raises(ClosedError):
            use()
    scene.reader.abandon()


def test_a_change_of_one_topic_is_replayed_without_the_records_of_the_others(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    replayed: list[bytes] = []
    every = tailing.all_records

    def counted(*arguments: Any, **options: Any) -> Iterator[tuple[bytes, bytes | None]]:
        for record in every(*arguments, **options):
            replayed.append(record[0])
            yield record

    monkeypatch.setattr(tailing, "all_records", counted)
    for number in range(50):
        scene.owner.create_topic(f"u{number}")
        scene.reader.look()
    assert len(scene.reader.image.topics) == 51
    assert len(replayed) <= 51
    versions = [scene.reader.image.version]
    for change in (
        lambda: scene.owner.update_topic("u7", {"retention_ms": 60_000}),
        lambda: scene.owner.delete_topic("u8"),
        lambda: scene.owner.add_partitions("u9", 2),
    ):
        change()
        scene.reader.look()
        versions.append(scene.reader.image.version)
    assert len(replayed) <= 54
    assert versions == sorted(set(versions))
    assert scene.reader.image.topics == scene.owner.image.topics
    assert scene.reader.image.names == scene.owner.image.names


def test_a_new_owner_has_the_whole_metadata_replayed(scene: Scene) -> None:
    scene.owner.create_topic("u")
    scene.reader.look()
    scene.owner.close()
    scene.own()
    scene.owner.delete_topic("u")
    scene.owner.create_topic("v")
    scene.reader.look()
    assert scene.reader.image.topics == scene.owner.image.topics
