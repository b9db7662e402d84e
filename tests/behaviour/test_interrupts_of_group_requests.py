"""Whatever comes into the middle of a request of a group, its coordinator says what its log says from the next one on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from streamlog import ReentrantCallError
from streamlog.coordinator.group import Group
from streamlog.coordinator.groups import Groups
from streamlog.replication.partition import Partition
from streamlog.testing import ManualClock, SimulatedDisk
from streamlog.types import TopicPartition

from .simulated_logs import T0, opened

T1 = TopicPartition("t", 1)

KINDS = [KeyboardInterrupt, SystemExit, TimeoutError, MemoryError, ReentrantCallError]


def strike(
    patch: pytest.MonkeyPatch, owner: type, name: str, error: type[BaseException], *, after: bool = False
) -> None:
    """Have the next call of a method end like one into which a signal handler of the program's raised."""
    method: Callable[..., Any] = getattr(owner, name)

    def struck(*args: Any, **options: Any) -> Any:
        patch.setattr(owner, name, method)
        if after:
            method(*args, **options)
        raise error("of the program's own")

    patch.setattr(owner, name, struck)


@pytest.mark.parametrize("error", KINDS)
@pytest.mark.parametrize(
    ("owner", "name", "after"),
    [
        (Partition, "append_one", True),  # of one record
        (Partition, "append", True),
        (Partition, "acknowledge", False),
        (Groups, "_replay", False),
        (Groups, "_replay", True),
    ],
)
def test_a_commit_that_was_interrupted_is_what_its_log_says(
    clock: ManualClock, monkeypatch: pytest.MonkeyPatch, error: type[BaseException], owner: type, name: str, after: bool
) -> None:
    disk = SimulatedDisk()
    with opened(disk, clock) as log:
        log.create_topic("t", partitions=2).send_many([b"1", b"2"], partition=0)
        offsets = {T0: 2} if name == "append_one" else {T0: 2, T1: 0}
        with log.consumer("t", group="g", enable_auto_commit=False) as consumer:
            consumer.poll()
            consumer.commit({T0: 1})
            strike(monkeypatch, owner, name, error, after=after)
            with pytest.raises(error):
                consumer.commit(offsets)
            said = log.group("g").committed()
            with opened(disk.kill(), clock) as left:
                assert left.group("g").committed() == said
            assert said == offsets, "it was in the log"


@pytest.mark.parametrize("error", KINDS)
@pytest.mark.parametrize(("owner", "name", "after"), [(Partition, "append", True), (Groups, "_replay", True)])
def test_a_join_that_was_interrupted_leaves_no_member_behind(
    clock: ManualClock, monkeypatch: pytest.MonkeyPatch, error: type[BaseException], owner: type, name: str, after: bool
) -> None:
    with opened(SimulatedDisk(), clock) as log:
        log.create_topic("t").send_many([b"1", b"2"])
        log.group("g").reset("t", to="earliest")
        with log.consumer("t", group="g") as consumer:
            strike(monkeypatch, owner, name, error, after=after)
            with pytest.raises(error):
                consumer.poll()
            assert len(consumer.poll()) == 2
            (member,) = log.group("g").members()
            assert member.assignment == {T0}


@pytest.mark.parametrize("error", KINDS)
@pytest.mark.parametrize(("owner", "name"), [(Groups, "_replay"), (Group, "recheck")])
def test_a_loading_that_was_interrupted_is_begun_again(
    clock: ManualClock, monkeypatch: pytest.MonkeyPatch, error: type[BaseException], owner: type, name: str
) -> None:
    """Else it would answer for members whose deadlines it does not know: one whose thread hangs would never be put out."""
    with opened(SimulatedDisk(), clock) as log:
        log.create_topic("t").send_many([b"1", b"2"])
        with log.consumer("t", group="g", max_poll_interval_ms=300_000) as consumer:
            consumer.poll()
            groups: Any = log._engine.service._groups.shards[0]  # type: ignore[attr-defined]
            groups._shard.elect()  # as after an append that failed when it was replayed already
            strike(monkeypatch, owner, name, error, after=True)
            with pytest.raises(error):
                log.group("g").committed()
            assert log.group("g").state == "Stable"
            assert groups._shard.next_expiry_s() is not None
