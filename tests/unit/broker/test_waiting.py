"""A fetch session names the partitions that were appended to since they were watched."""

from streamlog.broker.waiting import FetchSession
from streamlog.replication.listeners import Waiters
from streamlog.types import TopicPartition

A, B, GONE = TopicPartition("t", 0), TopicPartition("t", 1), TopicPartition("t", 2)


class Partition:
    def __init__(self) -> None:
        self.waiters = Waiters()


class Scene:
    def __init__(self) -> None:
        self.partitions = {A: Partition(), B: Partition()}
        self.woken = self.nudged = 0
        self.waiting: set[FetchSession] = set()
        self.session = FetchSession(self.partitions.get, self._wake, self.waiting, self._nudge)

    def _wake(self) -> None:
        self.woken += 1

    def _nudge(self) -> None:
        self.nudged += 1

    def append(self, name: TopicPartition) -> None:
        self.partitions[name].waiters.wake()


def test_an_append_to_a_watched_partition_makes_it_ready_once() -> None:
    scene = Scene()
    scene.session.watch(A)
    scene.session.watch(A)
    scene.append(A)
    scene.append(A)
    scene.append(B)
    assert list(scene.session.ready) == [A]
    assert scene.woken == 0, "the reader does not wait"


def test_a_reader_that_waits_is_woken() -> None:
    scene = Scene()
    scene.session.watch(A)
    scene.session.begin_wait()
    assert (scene.waiting, scene.nudged) == ({scene.session}, 1)
    scene.append(A)
    assert scene.woken == 1
    scene.session.end_wait()
    assert scene.waiting == set()


def test_a_partition_that_is_not_there_is_ready_so_that_the_reader_learns_it() -> None:
    scene = Scene()
    scene.session.watch(GONE)
    assert list(scene.session.ready) == [GONE]


def test_a_session_that_ended_leaves_no_callback() -> None:
    scene = Scene()
    for name in (A, B):
        scene.session.watch(name)
    scene.session.unwatch(A)
    scene.session.unwatch(A)
    scene.append(A)
    assert not scene.session.ready
    scene.session.begin_wait()
    scene.session.close()
    scene.session.close()
    scene.append(B)
    assert not scene.session.ready and scene.waiting == set()


def test_a_reader_can_be_sent_to_look_at_all_it_watches() -> None:
    scene = Scene()
    for name in (A, B):
        scene.session.watch(name)
    scene.session.wake()
    assert (list(scene.session.ready), scene.woken) == ([A, B], 1)
