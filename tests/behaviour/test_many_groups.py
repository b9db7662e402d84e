"""What it costs to show groups does not depend on how many others there are: counted in bytecodes of Python."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

import streamlog
from streamlog.kafka import consumer_groups, groups, messages
from streamlog.kafka.apis import Call, Endpoint, Settings
from streamlog.runtime.api import Completion
from streamlog.testing import ManualClock, SimulatedDisk
from tests.bytecodes import bytecodes

FEW, MANY = 10, 160


class Unlimited:
    """As much memory for answers as they want."""

    def answer_bytes(self) -> int:
        return 1 << 30

    def when_answerable(self) -> Completion[None]:
        return Completion.of(None)


class Log:
    """A log with groups that have committed, the first of which has a member."""

    def __init__(self) -> None:
        self.log = streamlog.open("/log", disk=SimulatedDisk(), clock=ManualClock())
        self.log.create_topic("t").send("x")
        self.names: list[str] = []
        self.consumer = self.log.consumer("t", group="g0")
        self.consumer.poll(timeout=0.0)

    def grow_to(self, count: int) -> None:
        for number in range(len(self.names), count):
            self.names.append(f"g{number}")
            if number:
                self.log.group(self.names[-1]).reset("t", to="latest")

    def answer(self, handler: Callable[[Call], Any], request: Any) -> Any:
        """What a listener's handler answers, on this thread."""
        call = Call(
            self.log._use(), Settings(True, {}, 1, {}), {0: Endpoint(0, "127.0.0.1", 9092)},
            lambda respond: Completion.of(respond()), 0, "127.0.0.1", "test", 5, request, Unlimited(),
        )  # fmt: skip
        later = handler(call)
        assert later.done.done()
        return later.respond(later.done)


@pytest.fixture
def log() -> Iterator[Log]:
    made = Log()
    yield made
    made.consumer.close()
    made.log.close()


def by_classic_clients(log: Log) -> list[str]:
    answer = log.answer(groups.describe_groups, messages.DescribeGroupsRequest(groups=log.names))
    return [each.group_id for each in answer.groups]


def by_modern_clients(log: Log) -> list[str]:
    describe = consumer_groups.ConsumerGroups(log.log._use()).describe
    answer = log.answer(describe, messages.ConsumerGroupDescribeRequest(group_ids=log.names))
    return [each.group_id for each in answer.groups]


def in_python(log: Log) -> list[str]:
    return [name for name in log.names if log.log.group(name).state]


@pytest.mark.parametrize("describe", [by_classic_clients, by_modern_clients, in_python])
def test_describing_all_groups_takes_time_in_proportion_to_how_many_there_are(
    log: Log, describe: Callable[[Log], list[str]]
) -> None:
    costs = []
    for count in (FEW, MANY):
        log.grow_to(count)
        assert describe(log) == log.names
        costs.append(bytecodes(lambda: describe(log)) / count)
    assert costs[1] < 1.2 * costs[0], costs
