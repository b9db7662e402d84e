"""One group with members of three kinds: confluent-kafka by KIP-848, a client by the classic protocol, and a consumer in this process.

The classic one is of kafka-python, confluent-kafka or kafkajs. They join one after the other and leave one after the other, in every
order, while records come in all the time. Each record is handled by one member, once: it handles what it has polled and commits that
before it polls again. After each change every member handles records of each partition that it has then.
"""

from __future__ import annotations

import itertools
import json
import queue
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

import streamlog
from streamlog import TopicPartition
from streamlog.kafka import Listener

from .clients.driver import CLIENTS, Command, missing_of

confluent_kafka = pytest.importorskip("confluent_kafka", reason="confluent-kafka is not installed")
confluent_admin = pytest.importorskip("confluent_kafka.admin")
kafka = pytest.importorskip("kafka", reason="kafka-python is not installed")

WAIT_S = 60.0
PARTITIONS = 6
JOINS_AGAIN = (
    confluent_kafka.KafkaError.STALE_MEMBER_EPOCH,
    confluent_kafka.KafkaError.ILLEGAL_GENERATION,
    confluent_kafka.KafkaError.REBALANCE_IN_PROGRESS,
)
"""librdkafka joins again on a thread of its own, so a commit may have the generation of before."""
PAUSE_S = 0.005


class Member:
    """Polls on a thread of its own until it is stopped. What it handled goes to `handled`, of all members of the group."""

    def __init__(self, handled: list[int]) -> None:
        self.assigned: frozenset[int] = frozenset()
        self.last_of: dict[int, int] = {}
        """The last record that it has handled, by its partition."""
        self._handled = handled
        self._stops = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.open()
            while not self._stops.is_set():
                self.handle(self.step())
                self.commit()
                self.assigned = self.owned()
            self.close()
        except BaseException as error:
            self._failure = error
        self.assigned = frozenset()

    def handle(self, values: Sequence[bytes | str]) -> None:
        numbers = [int(value) for value in values]
        self._handled += numbers
        self.last_of |= {number % PARTITIONS: number for number in numbers}

    def stop(self) -> None:
        self._stops.set()
        self._thread.join(WAIT_S)
        assert not self._thread.is_alive()
        self.check()

    def check(self) -> None:
        if self._failure is not None:
            raise AssertionError(f"a member failed: {self._failure!r}") from self._failure

    def open(self) -> None: ...
    def step(self) -> list[bytes]: ...
    def commit(self) -> None: ...
    def owned(self) -> frozenset[int]: ...
    def close(self) -> None: ...


class ConfluentMember(Member):
    def __init__(self, listener: Listener, group: str, handled: list[int], **settings: Any) -> None:
        self._config = {
            "bootstrap.servers": listener.bootstrap_servers,
            "group.id": group,
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
            **settings,
        }
        self._topic = group
        super().__init__(handled)

    def open(self) -> None:
        self._consumer = confluent_kafka.Consumer(self._config)
        self._consumer.subscribe([self._topic])

    def step(self) -> list[bytes]:
        self._messages = self._consumer.consume(50, 0.05)
        for message in self._messages:
            assert message.error() is None, message.error()
        return [message.value() for message in self._messages]

    def commit(self) -> None:
        ends = {message.partition(): message.offset() + 1 for message in self._messages}
        if ends:
            offsets = [confluent_kafka.TopicPartition(self._topic, *end) for end in ends.items()]
            self._commit(offsets)

    def _commit(self, offsets: list[Any]) -> None:
        """Again, if the member's epoch has changed meanwhile: its partitions are its own until it polls."""
        for last in (*[False] * 20, True):
            try:
                for each in self._consumer.commit(offsets=offsets, asynchronous=False):
                    assert each.error is None, each.error
                return
            except confluent_kafka.KafkaException as error:
                if last or error.args[0].code() not in JOINS_AGAIN:
                    raise
                time.sleep(0.2)

    def owned(self) -> frozenset[int]:
        return frozenset(each.partition for each in self._consumer.assignment())

    def close(self) -> None:
        self._consumer.close()


class ClassicMember(Member):
    def __init__(self, listener: Listener, group: str, handled: list[int]) -> None:
        self._servers, self._topic = listener.bootstrap_servers, group
        super().__init__(handled)

    def open(self) -> None:
        self._consumer = kafka.KafkaConsumer(
            self._topic, bootstrap_servers=self._servers, group_id=self._topic, enable_auto_commit=False,
            auto_offset_reset="earliest", heartbeat_interval_ms=100,
        )  # fmt: skip

    def step(self) -> list[bytes]:
        self._records = self._consumer.poll(50)
        return [record.value for records in self._records.values() for record in records]

    def commit(self) -> None:
        if self._records:
            self._consumer.commit(
                {
                    partition: kafka.OffsetAndMetadata(records[-1].offset + 1, "", -1)
                    for partition, records in self._records.items()
                }
            )

    def owned(self) -> frozenset[int]:
        return frozenset(each.partition for each in self._consumer.assignment())

    def close(self) -> None:
        self._consumer.close()


class PythonMember(Member):
    def __init__(self, log: streamlog.StreamLog, group: str, handled: list[int]) -> None:
        self._log, self._topic = log, group
        super().__init__(handled)

    def open(self) -> None:
        self._consumer = self._log.consumer(self._topic, group=self._topic, enable_auto_commit=False)

    def step(self) -> list[bytes]:
        return [record.value for record in self._consumer.poll(0.05)]

    def commit(self) -> None:
        self._consumer.commit()

    def owned(self) -> frozenset[int]:
        return frozenset(each.partition for each in self._consumer.assignment())

    def close(self) -> None:
        self._consumer.close()


class NodeMember(Member):
    """A process of kafkajs, which commits by itself: see `clients/node/member.js`."""

    def __init__(self, program: Command, listener: Listener, group: str, handled: list[int]) -> None:
        self._command = [*program, listener.bootstrap_servers, group, group]
        self._said: queue.SimpleQueue[dict[str, list[Any]]] = queue.SimpleQueue()
        self._owned: frozenset[int] = frozenset()
        super().__init__(handled)

    def open(self) -> None:
        self._process = subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        for line in self._process.stdout or ():
            self._said.put(json.loads(line))

    def step(self) -> list[str]:
        try:
            said = self._said.get(timeout=0.05)
        except queue.Empty:
            assert self._process.poll() is None, f"the program ended with {self._process.returncode}"
            return []
        if "assigned" in said:
            self._owned = frozenset(said["assigned"])
        return said.get("handled", [])

    def owned(self) -> frozenset[int]:
        return self._owned

    def close(self) -> None:
        try:
            assert self._process.stdin is not None
            self._process.stdin.close()
            assert self._process.wait(WAIT_S) == 0
            self._reader.join(WAIT_S)
            while not self._said.empty():
                self.handle(self.step())
        finally:
            self._process.kill()


@pytest.fixture(scope="module")
def log() -> Iterator[streamlog.StreamLog]:
    with streamlog.open() as log:
        yield log


@pytest.fixture(scope="module")
def listener(log: streamlog.StreamLog) -> Iterator[Listener]:
    with Listener(log) as listener:
        yield listener


class Source:
    """Sends numbers to the partitions in turn, on a thread of its own, until it is stopped."""

    def __init__(self, topic: streamlog.Topic[Any, Any]) -> None:
        self.sent = 0
        self._topic = topic
        self._stops = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stops.wait(PAUSE_S):
            self._topic.send(b"%d" % self.sent, partition=self.sent % PARTITIONS).result()
            self.sent += 1

    def stop(self) -> None:
        self._stops.set()
        self._thread.join(WAIT_S)


def until(what: Callable[[], str], holds: Callable[[], bool], members: list[Member]) -> None:
    end = time.monotonic() + WAIT_S
    while not holds():
        for member in members:
            member.check()
        assert time.monotonic() < end, what()
        time.sleep(0.01)


def share_all(members: list[Member], source: Source) -> dict[int, Member]:
    """Wait until the members share all partitions evenly, no two have the same, and each has handled a record of each of its own that
    was sent after that. The owners."""

    def owners() -> dict[int, Member]:
        """Empty if they do not share them all."""
        parts = [(member, member.assigned) for member in members]
        sizes = [len(part) for _, part in parts]
        found = {partition: member for member, part in parts for partition in part}
        is_even = min(sizes) >= 1 and max(sizes) - min(sizes) <= 1
        return found if is_even and sum(sizes) == len(found) == PARTITIONS else {}

    until(lambda: f"the members have {[sorted(each.assigned) for each in members]}", lambda: bool(owners()), members)
    sent = source.sent

    def are_handling() -> bool:
        found = owners()
        return bool(found) and all(member.last_of.get(n, -1) >= sent for n, member in found.items())

    until(
        lambda: (
            f"after {sent} the members, of {[sorted(each.assigned) for each in members]}, have handled "
            f"{[each.last_of for each in members]} last"
        ),
        are_handling,
        members,
    )
    return owners()


KINDS = ("consumer", "classic", "python")
ORDERS = list(itertools.permutations(KINDS))
KAFKA_PYTHON, KAFKAJS = "kafka-python", "kafkajs"
STRATEGIES = ("range", "cooperative-sticky")


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("leave", ORDERS, ids="-".join)
@pytest.mark.parametrize("join", ORDERS, ids="-".join)
def test_members_of_three_kinds_handle_each_record_once(
    log: streamlog.StreamLog, listener: Listener, join: tuple[str, ...], leave: tuple[str, ...]
) -> None:
    run(log, listener, join, leave, KAFKA_PYTHON)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("join", ORDERS, ids="-".join)
def test_the_classic_member_may_be_one_of_confluent_kafka(
    log: streamlog.StreamLog, listener: Listener, join: tuple[str, ...], strategy: str
) -> None:
    run(log, listener, join, join, strategy)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("join", ORDERS, ids="-".join)
def test_the_classic_member_may_be_one_of_kafkajs(
    log: streamlog.StreamLog, listener: Listener, kafkajs: Command, join: tuple[str, ...]
) -> None:
    run(log, listener, join, join, KAFKAJS, kafkajs)


@pytest.fixture(scope="module")
def kafkajs(tmp_path_factory: pytest.TempPathFactory) -> Command:
    """The command that runs `member.js`."""
    client = CLIENTS[KAFKAJS]
    missing = missing_of(client)
    if missing:
        pytest.skip(f"kafkajs needs {', '.join(missing)}")
    where = tmp_path_factory.mktemp("kafkajs")
    try:
        client.build(where)
    except RuntimeError as error:  # its registry cannot be reached
        pytest.skip(f"kafkajs could not be built: {error}")
    return ["node", where / "member.js"]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_group_of_kafkajs_moves_to_the_new_protocol_and_back_while_records_come(
    log: streamlog.StreamLog, listener: Listener, kafkajs: Command
) -> None:
    """Members of each kind come before those of the other one go, as a rolling upgrade of an application has it, and its rollback."""
    group = "migrated"
    topic = log.create_topic(group, partitions=PARTITIONS)
    admin = confluent_admin.AdminClient({"bootstrap.servers": listener.bootstrap_servers})
    handled: list[int] = []
    members: dict[str, Member] = {}
    owners: dict[int, Member] = {}
    source = Source(topic)

    def changed(kind: Any) -> None:
        """Wait for the members' new parts: some partition moved, and the group has the type that it is to have."""
        nonlocal owners
        before, owners = owners, share_all(list(members.values()), source)
        assert owners != before
        listed = admin.list_consumer_groups().result(WAIT_S).valid
        assert [each.type for each in listed if each.group_id == group] == [kind]

    classic, modern = confluent_kafka.ConsumerGroupType.CLASSIC, confluent_kafka.ConsumerGroupType.CONSUMER
    try:
        for name in ("js1", "js2"):
            members[name] = NodeMember(kafkajs, listener, group, handled)
            changed(classic)
        members["confluent"] = ConfluentMember(listener, group, handled, **{"group.protocol": "consumer"})
        changed(modern)
        members["python"] = PythonMember(log, group, handled)
        changed(modern)
        for name in ("js1", "js2"):
            members.pop(name).stop()
            changed(modern)
        for name in ("js3", "js4"):
            members[name] = NodeMember(kafkajs, listener, group, handled)
            changed(modern)
        members.pop("confluent").stop()
        changed(modern)
        members.pop("python").stop()
        changed(classic)
        members.pop("js3").stop()
        changed(classic)
        finish(log, group, source, members, handled)
    finally:
        source.stop()
        for member in members.values():
            member.stop()


def run(
    log: streamlog.StreamLog,
    listener: Listener,
    join: tuple[str, ...],
    leave: tuple[str, ...],
    classic: str,
    program: Command = (),
) -> None:
    group = f"{classic}.{'-'.join(join)}.{'-'.join(leave)}"
    topic = log.create_topic(group, partitions=PARTITIONS)
    handled: list[int] = []

    def make(kind: str) -> Member:
        if kind == "python":
            return PythonMember(log, group, handled)
        if kind == "consumer":
            return ConfluentMember(listener, group, handled, **{"group.protocol": "consumer"})
        if classic == KAFKA_PYTHON:
            return ClassicMember(listener, group, handled)
        if classic == KAFKAJS:
            return NodeMember(program, listener, group, handled)
        settings = {"partition.assignment.strategy": classic, "heartbeat.interval.ms": 100}
        return ConfluentMember(listener, group, handled, **settings)

    members: dict[str, Member] = {}
    source = Source(topic)
    try:
        for kind in join:
            members[kind] = make(kind)
            share_all(list(members.values()), source)
        for kind in leave[:-1]:
            members.pop(kind).stop()
            share_all(list(members.values()), source)
        finish(log, group, source, members, handled)
    finally:
        source.stop()
        for member in members.values():
            member.stop()


def finish(
    log: streamlog.StreamLog, group: str, source: Source, members: dict[str, Member], handled: list[int]
) -> None:
    """Wait until all are handled, end the members that are left, and check that each record was handled once and is committed."""
    source.stop()
    until(
        lambda: f"{len(handled)} of {source.sent} were handled",
        lambda: len(handled) >= source.sent,
        list(members.values()),
    )
    while members:
        members.popitem()[1].stop()
    times = Counter(handled)
    assert {number: count for number, count in times.items() if count > 1} == {}
    assert sorted(times) == list(range(source.sent))
    committed = log.group(group).committed()
    assert committed == {TopicPartition(group, n): log[group].partition(n).high_watermark for n in range(PARTITIONS)}
    assert log.group(group).state == "Empty"
