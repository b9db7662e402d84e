"""With sync=True what is acknowledged is on the device of every in-sync broker, also while leaders move: power may be lost at any moment."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import streamlog
from streamlog import StreamLog, TopicPartition
from streamlog.testing import ManualClock, SimulatedDisk

from .test_broker_failures import eventually
from .test_groups_that_move import settled

PATH = "/data"
Moment = tuple[SimulatedDisk, SimulatedDisk, int, int]
"""What a power loss leaves, and a kill; how many records were acknowledged before, and how far the group had committed."""


def graft(target: SimulatedDisk, source: SimulatedDisk, directory: str) -> None:
    """Have a directory be as on another disk, and all of it on the device."""
    if target.exists(directory):
        target.rmtree(directory)
    target.makedirs(directory)
    for name in source.listdir(directory):
        path = f"{directory}/{name}"
        if source.is_dir(path):
            graft(target, source, path)
        else:
            file = target.open(path, create=True)
            file.pwrite([source.read(path)], 0)
            file.sync()
            file.close()
    target.sync_dir(directory)


class Run:
    """Sends and commits while leaders move and brokers stop; power is lost now and then, and what that leaves is kept."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.disk = SimulatedDisk(rng.randrange(1 << 30))
        self.moments: list[Moment] = []
        self.sent = self.committed = 0

    def run(self, steps: int) -> None:
        clock = ManualClock()
        with streamlog.open(PATH, brokers=3, sync=True, disk=self.disk, clock=clock) as log:
            log.create_topic("t")
            with log.consumer("t", group="g", enable_auto_commit=False) as member:
                for _ in range(steps):
                    self.step(log, member)

    def step(self, log: StreamLog, member: Any) -> None:
        what = self.rng.choices(("send", "move", "stop", "commit"), (8, 2, 1, 2))[0]
        if what == "send":
            assert log["t"].send(b"%d" % self.sent).result().offset == self.sent
            self.sent += 1
        elif what == "commit":
            while (
                member.poll(10 if member.position(TopicPartition("t", 0)) < self.sent else 0, max_records=9)
                if (member.assignment())
                else member.poll(10)
            ):
                pass
            member.commit()
            self.committed = log.group("g").committed().get(TopicPartition("t", 0), 0)
        else:
            topic = self.rng.choice(["t", "__consumer_offsets"])
            if topic not in log:
                return
            info = log[topic].partition(0)
            if what == "move":
                log.elect_leader(TopicPartition(topic, 0), self.rng.choice(info.isr))
            else:
                log.brokers[info.leader].stop()
                self.lose_power()
                log.brokers[info.leader].start()
                eventually(lambda: settled(log))
        self.lose_power()

    def lose_power(self) -> None:
        if self.rng.random() < 0.3:
            lost = self.disk.power_loss(self.rng.randrange(1 << 30))
            self.moments.append((lost, self.disk.kill(), self.sent, self.committed))


def check(disk: SimulatedDisk, sent: int, committed: int) -> None:
    with streamlog.open(PATH, disk=disk, sync=True, clock=ManualClock()) as log:
        found = [record.value for record in log["t"].read()]
        assert found[:sent] == [b"%d" % n for n in range(sent)], "an acknowledged record is lost"
        assert log.group("g").committed().get(TopicPartition("t", 0), 0) >= committed, "a commit has gone back"
        assert log["t"].send("next").result().offset == len(found)


def states(moment: Moment) -> Iterator[SimulatedDisk]:
    """Power is lost under all brokers; or under one, whichever that is."""
    lost, killed, _, _ = moment
    yield lost
    for broker in range(3):
        disk = lost.kill()
        for other in range(3):
            if other != broker:
                graft(disk, killed, f"{PATH}/broker-{other}")
        yield disk


@pytest.mark.slow
@pytest.mark.parametrize("number", range(3))
def test_nothing_acknowledged_is_lost(rng: random.Random, sampled: Callable[..., list[Any]], number: int) -> None:
    run = Run(rng)
    run.run(30)
    assert run.sent
    checked = 0
    for moment in run.moments:
        for disk in sampled(states(moment), 2):
            check(disk, *moment[2:])
            checked += 1
    assert checked
