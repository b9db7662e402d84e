"""The calls that `interrupts` interrupts, each with what it has to have left: how it is used again afterwards."""

from __future__ import annotations

import ast
import contextlib
import gc
import math
import time
from dataclasses import dataclass, field
from typing import Any, ClassVar

import streamlog
from streamlog import Record, TopicPartition
from streamlog.replication.commit import PATIENCE_MS
from streamlog.testing import ManualClock, SimulatedDisk
from tests.coordinated_writer import CoordinatedWriter, committed
from tests.times import LONG, START_MS

T0 = TopicPartition("t", 0)
_BROKERS = 3


@dataclass
class Story:
    """A log in memory, and what must and may be in its topic `t`, in the order of sending."""

    settings: dict[str, Any] = field(default_factory=dict)
    padding: int = 0
    sync: bool = False
    brokers: int | None = None
    sent: list[str] = field(default_factory=list)
    acknowledged: set[str] = field(default_factory=set)
    refused: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.disk = SimulatedDisk()
        self.clock = ManualClock(start_ms=START_MS)
        self.log = self.open()
        self.topic = self.log.create_topic("t", **self.settings)
        self._checked = 0
        self._found: list[str] = []

    def open(self) -> streamlog.StreamLog:
        brokers = None if self.disk.exists("data") else self.brokers  # some may have been added since
        return streamlog.open("data", disk=self.disk, clock=self.clock, sync=self.sync, brokers=brokers)

    def new(self, producer: str = "v") -> str:
        """A value to send; the first letter says through which producer."""
        value = f"{producer}{len(self.sent)}" + "." * self.padding
        self.sent.append(value)
        return value

    def send(self) -> None:
        value = self.new()
        self.topic.send(value).result()
        self.acknowledged.add(value)

    def check(self) -> None:
        """The log is used: what it holds is dense, in order, once, and all that was acknowledged."""
        with self.log.consumer() as reader:
            reader.assign([T0])
            reader.seek(T0, self._checked)
            for record in reader.until_end():
                assert record.offset == self._checked, (record, self._checked)
                self._checked += 1
                self._found.append(record.value.decode())
        places = {value: place for place, value in enumerate(self.sent)}
        for producer in {value[0] for value in self._found}:
            order = [places[value] for value in self._found if value[0] == producer]
            assert order == sorted(set(order)), f"out of order, or twice: {order[-8:]}"
        assert not self.refused & set(self._found), "refused, and there"
        missing = self.acknowledged - set(self._found)
        assert not missing, f"acknowledged and not there: {sorted(places[value] for value in missing)}"

    def end(self) -> None:
        """Close, verify, and look once more at what a new open finds."""
        self.log.close()
        self.verify()
        self.disk = self.disk.power_loss()  # it was closed
        self.log = self.open()
        self.topic = self.log["t"]
        self._checked, self._found = 0, []
        self.check()
        self.log.close()

    def verify(self) -> None:
        report = streamlog.verify("data", disk=self.disk)
        assert report.ok, report


class Action:
    """One kind of call to interrupt. A fresh one for each story; `prepare` and `after` are not interrupted."""

    settings: ClassVar[dict[str, Any]] = {}
    padding = 0
    sync = False
    brokers: int | None = None
    twice = True  # also with a second Ctrl-C while the first is handled
    fresh = False  # each interrupt on a log of its own

    def __init__(self, story: Story) -> None:
        self.story = story

    def prepare(self) -> None: ...
    def call(self) -> None:
        raise NotImplementedError

    def after(self) -> None:
        """The object that was interrupted is used again."""


class Send(Action):
    def call(self) -> None:
        self.story.send()


class SendThatRolls(Send):
    settings: ClassVar[dict[str, Any]] = {"segment_bytes": 1024}
    padding = 600


class SendWithKeyAndHeaders(Action):
    def call(self) -> None:
        value = self.story.new()
        self.story.topic.send(value, key="k", headers={"h": b"1"}).result()
        self.story.acknowledged.add(value)


class SendSynced(Send):
    sync = True


class SendReplicated(Send):
    """The sender has the followers of two other brokers take the record. An interrupt there leaves it to their threads."""

    brokers = _BROKERS


class LogSync(Action):
    def prepare(self) -> None:
        self.story.send()

    def call(self) -> None:
        self.story.log.sync()

    def after(self) -> None:
        self.story.log.sync()
        acknowledged = len(self.story.acknowledged)
        with streamlog.open("data", disk=self.story.disk.power_loss(), clock=self.story.clock) as left:
            assert left["t"].partition(0).log_end_offset >= acknowledged


class SendMany(Action):
    def call(self) -> None:
        values = [self.story.new() for _ in range(3)]
        self.story.topic.send_many(values).result()
        self.story.acknowledged.update(values)


class SendManyBatches(Action):
    """Several batches in one write, each with an index entry, of another length every time; then read at every offset."""

    def __init__(self, story: Story) -> None:
        super().__init__(story)
        self.producer = story.log.producer(batch_size=1)

    def call(self) -> None:
        size = 5_000 + 700 * (len(self.story.sent) % 7)
        values = [self.story.new("m").ljust(size, ".") for _ in range(3)]
        self.story.sent[-3:] = values
        self.producer.send_many("t", values).result()
        self.story.acknowledged.update(values)

    def after(self) -> None:
        self.story.send()  # another producer's record is where the interrupted write was
        self.producer.flush()
        end = self.story.log["t"].partition(0).log_end_offset
        with self.story.log.consumer() as reader:
            reader.assign([T0])
            for offset in range(max(0, end - 8), end):
                reader.seek(T0, offset)
                assert [record.offset for record in reader.poll(max_records=1)] == [offset]


class SendManyThatLingers(Action):
    """Full batches of a producer with a linger, whose next record, sent alone, is none of theirs."""

    def __init__(self, story: Story) -> None:
        super().__init__(story)
        self.producer = story.log.producer(linger_ms=5, batch_size=20)

    def prepare(self) -> None:
        self._send()

    def call(self) -> None:
        values = [self.story.new("m").ljust(30, ".") for _ in range(3)]
        self.story.sent[-3:] = values
        self.producer.send_many("t", values, ["k"] * 3)

    def after(self) -> None:
        self._send()

    def _send(self) -> None:
        value = self.story.new("m")
        self.producer.send("t", value.encode(), b"k").result()
        self.story.acknowledged.add(value)


class LingerAndFlush(Action):
    """Batches of two records: of three sent, two are written by the sender and one by the flush."""

    batch_size = 20
    records = 3

    def __init__(self, story: Story) -> None:
        super().__init__(story)
        self.producer = story.log.producer(linger_ms=5, batch_size=self.batch_size)
        self.sent: list[tuple[str, Any]] = []

    def send(self, value: str) -> Any:
        return self.producer.send("t", value)

    def call(self) -> None:
        for _ in range(self.records):
            value = self.story.new()
            self.sent += [(value, self.send(value))]
        self.producer.flush()

    def after(self) -> None:
        """A linger still ends by itself."""
        value = self.story.new()
        self.sent.append((value, self.send(value)))
        # With sync, a batch whose flush was interrupted is synced when the log has waited for a caller that syncs.
        self.story.clock.advance(0.006 + (PATIENCE_MS / 1000 if self.sync else 0))
        for value, delivery in self.sent:
            assert delivery.done(), f"{value} lingers for ever"
            assert delivery.result().offset >= 0
            self.story.acknowledged.add(value)
        self.sent.clear()


class LingerBehindOthers(LingerAndFlush):
    """Bytes with a key, for a batch that is open already: they join it by a way of their own. The third one fills it."""

    batch_size = 30
    records = 4

    def send(self, value: str) -> Any:
        return self.producer.send("t", value.encode(), b"k")


class LingerAndFlushSynced(LingerAndFlush):
    sync = True


class LingerBehindOthersSynced(LingerBehindOthers):
    sync = True


class Poll(Action):
    """A poll that is interrupted has handed out nothing, so the next one gives the same records."""

    group: str | None = None

    def __init__(self, story: Story) -> None:
        super().__init__(story)
        self.consumer = story.log.consumer("t", group=self.group)
        self.got: list[Record[Any, Any]] = []

    def prepare(self) -> None:
        self.story.send()
        self.story.send()

    def call(self) -> None:
        self.got += self.consumer.poll(max_records=1)

    def after(self) -> None:
        for _ in range(3):
            self.got += self.consumer.poll()
        offsets = [record.offset for record in self.got]
        end = self.story.log["t"].partition(0).log_end_offset
        assert offsets == [*range(end - len(offsets), end)], (offsets, end)
        self.got = self.got[-1:]


class PollOfAMember(Poll):
    group = "g"


class FirstPollOfAMember(Poll):
    """It joins the group, and with it the internal topic is made."""

    group = "g"
    fresh = True


class PollBatches(PollOfAMember):
    def __init__(self, story: Story) -> None:
        super().__init__(story)
        self.batches: list[Any] = []

    def call(self) -> None:
        self.batches += self.consumer.poll_batches(max_records=1)

    def after(self) -> None:
        self.got += [record for batch in self.batches for record in batch]
        self.batches.clear()
        super().after()


class Loop(Action):
    """A call for the next record that was interrupted has handed out none; what it took ahead is never committed."""

    def __init__(self, story: Story) -> None:
        super().__init__(story)
        self.consumer = story.log.consumer("t", group="g", auto_commit_interval_ms=0, max_poll_records=2)
        self.consumer.poll()  # it joins, and the internal topic is made
        self.got: list[int] = []

    def prepare(self) -> None:
        for _ in range(3):
            self.story.send()

    def call(self) -> None:
        for _ in range(3):
            self.got.append(next(self.consumer).offset)

    def after(self) -> None:
        assert (self.consumer.committed(T0) or 0) <= self.consumer.position(T0) == len(self.got)
        self.got += [record.offset for record in self.consumer.until_end()]
        assert self.got == [*range(self.story.log["t"].partition(0).log_end_offset)], self.got[-8:]


class UntilEnd(Loop):
    def call(self) -> None:
        for record in self.consumer.until_end():
            self.got.append(record.offset)


class BlockAroundALoop(Loop):
    """Whatever ends the block: it commits no more than what was handed out, and the next member goes on there."""

    def call(self) -> None:
        self.consumer.close()
        self.consumer = self.story.log.consumer("t", group="g", max_poll_records=2)
        with self.consumer as consumer:
            for record in consumer.until_end():
                if record.offset == len(self.got):
                    self.got.append(record.offset)
                else:
                    assert record.offset < len(self.got), f"{len(self.got)} was skipped"

    def after(self) -> None:
        self.consumer.close()
        assert self.story.log.group("g").committed().get(T0, 0) <= len(self.got)


class Commit(PollOfAMember):
    def __init__(self, story: Story) -> None:
        super().__init__(story)
        self.before = 0

    def prepare(self) -> None:
        super().prepare()
        self.got = self.consumer.poll()

    def call(self) -> None:
        self.consumer.commit()

    def after(self) -> None:
        position = self.consumer.position(T0)
        committed = self.consumer.committed(T0) or 0
        assert committed in (self.before, position), (self.before, committed, position)
        self.consumer.commit()
        assert self.consumer.committed(T0) == position
        assert self.story.log.group("g").committed() == {T0: position}
        self.before = position


class EndATransaction(Action):
    """A commit, asked for as a client does: one that was interrupted is asked for again, and is done once."""

    def __init__(self, story: Story) -> None:
        super().__init__(story)
        story.log.create_topic("transactional", exist_ok=True)
        self.writer = CoordinatedWriter(story.log)
        self.values: list[bytes] = []

    def prepare(self) -> None:
        self.before = self.writer.producer
        self.values.append(b"%d" % len(self.values))
        self.writer.send("transactional", self.values[-1])
        self.writer.commit_offsets("g", {T0: len(self.values)})

    def call(self) -> None:
        self.writer.commit()

    def after(self) -> None:
        if self.writer.producer == self.before:
            self.writer.commit()
        assert self.writer.producer.producer_epoch == self.before.producer_epoch + 1
        assert committed(self.story.log, "transactional") == self.values
        assert self.story.log.group("g").committed() == {T0: len(self.values)}
        self.story.log.sync()  # a marker may have been written twice
        partition = self.story.log["transactional"].partition(0)
        assert partition.last_stable_offset == partition.log_end_offset


class EndATransactionSynced(EndATransaction):
    sync = True


class EndATransactionOfBrokers(EndATransaction):
    brokers = _BROKERS


class CloseAProducer(LingerAndFlush):
    def prepare(self) -> None:
        self.producer = self.story.log.producer(linger_ms=60_000, batch_size=20)
        for _ in range(3):
            value = self.story.new()
            self.sent.append((value, self.producer.send("t", value)))

    def call(self) -> None:
        self.producer.close()

    def after(self) -> None:
        self.producer.close()
        for value, delivery in self.sent:
            assert delivery.done(), f"{value} was left behind"
            assert delivery.result().offset >= 0
            self.story.acknowledged.add(value)
        self.sent.clear()


class CloseAConsumer(PollOfAMember):
    """The next member has the partition at once."""

    def prepare(self) -> None:
        super().prepare()
        self.consumer = self.story.log.consumer("t", group="g")
        self.consumer.poll(max_records=1)

    def call(self) -> None:
        self.consumer.close()

    def after(self) -> None:
        self.consumer.close()
        with self.story.log.consumer("t", group="g") as following:
            assert following.poll(), "the partition is not free"


class RunWorkers(Action):
    """Whatever interrupts it: when it has raised, no worker runs, and what they have handled is what is committed."""

    twice = False  # the second one ends the wait for the workers

    def __init__(self, story: Story) -> None:
        super().__init__(story)
        self.handled: list[int] = []
        self.group = story.log.group("crew")

    def prepare(self) -> None:
        self.story.send()

    def call(self) -> None:
        self.group.run(self._handle, "t", workers=2, until_end=True)

    def _handle(self, record: Record[Any, Any]) -> None:
        self.handled.append(record.offset)

    def after(self) -> None:
        assert self.group.members() == []
        assert sum(self.group.committed().values()) == len(self.handled)
        self.call()
        assert self.handled == list(range(len(self.story.sent)))


class CloseTheLog(LingerAndFlush):
    fresh = True

    def prepare(self) -> None:
        self.story.send()
        value = self.story.new()
        self.sent.append((value, self.producer.send("t", value)))
        self.consumer = self.story.log.consumer("t", group="g")
        self.consumer.poll()

    def call(self) -> None:
        self.story.log.close()

    def after(self) -> None:
        self.story.log.close()
        self.story.log = self.story.open()
        self.story.topic = self.story.log["t"]
        for value, delivery in self.sent:
            if delivery.done() and delivery.exception() is None:
                self.story.acknowledged.add(value)


class OpenTheLog(Action):
    fresh = True
    # What the second then leaves locked the real disk gives back when it is collected; a simulated one keeps it.
    twice = False

    def prepare(self) -> None:
        self.story.send()
        self.story.log.close()

    def call(self) -> None:
        self.story.open().close()

    def after(self) -> None:
        gc.collect()
        self.story.log = self.story.open()
        self.story.topic = self.story.log["t"]


class TopicsComeGrowAndGo(Action):
    def __init__(self, story: Story) -> None:
        super().__init__(story)
        self.number = 0

    def prepare(self) -> None:
        self.number += 1

    def call(self) -> None:
        topic = self.story.log.create_topic(f"topic-{self.number}", partitions=1)
        topic.add_partitions(2)
        topic.delete()

    def after(self) -> None:
        log, name = self.story.log, f"topic-{self.number}"
        found = {each.name: each.partitions for each in log.topics()}
        log.create_topic("another").delete()  # what came of the interrupted change is seen before the next one
        assert {each.name: each.partitions for each in log.topics()} == found
        topic = log.create_topic(name, exist_ok=True)
        for partition in range(topic.partitions):
            topic.send("x", partition=partition).result()
            assert [record.value for record in topic.read(partition)] == [b"x"]
        topic.delete()
        assert list(log) == ["t"]


class ABrokerIsAdded(Action):
    """Afterwards it is there, or it is not, or it does not run and can be started; and it can be retired."""

    brokers = 2

    def __init__(self, story: Story) -> None:
        super().__init__(story)
        self.number = 0

    def prepare(self) -> None:
        self.number += 1

    def call(self) -> None:
        self.story.log.add_broker(f"added-{self.number}")

    def after(self) -> None:
        log = self.story.log
        for broker in log.brokers:
            broker.start()
        topic = log.create_topic("another", replication_factor=len(log.brokers))
        topic.send("x").result()
        topic.delete()
        for broker in log.brokers[2:]:
            log.retire_broker(broker.id).wait(LONG)
        assert len(log.brokers) == 2


class BackgroundWork(Action):
    """What a ManualClock runs on the thread that advances it: roll, compaction, retention."""

    settings: ClassVar[dict[str, Any]] = {"segment_bytes": 1024}
    padding = 300

    def __init__(self, story: Story) -> None:
        super().__init__(story)
        self.other = story.log.create_topic(
            "other",
            cleanup_policy="compact,delete",
            segment_ms=1000,
            retention_ms=60_000,
            min_cleanable_dirty_ratio=0.0,
        )
        self.count = 0
        for _ in range(12):  # until there is as much to do as ever after
            self.prepare()
            story.clock.advance(10)

    def prepare(self) -> None:
        self.story.send()
        self.count += 1
        self.other.send(str(self.count), key=str(self.count % 3)).result()

    def call(self) -> None:
        self.story.clock.advance(10)

    def after(self) -> None:
        self.story.clock.advance(10)
        records = list(self.other.read())
        last = {record.key: int(record.value) for record in records}
        newest = {str(n % 3).encode(): n for n in range(max(1, self.count - 5), self.count + 1)}
        assert last == newest, (last, newest)
        assert len(records) <= 12, "the background work has stopped"


class OfBrokers(Action):
    """Three brokers, their followers on threads of their own. Whatever was interrupted, all run and are in sync afterwards."""

    brokers = _BROKERS

    def after(self) -> None:
        log = self.story.log
        for broker in log.brokers:
            broker.start()
        until = time.monotonic() + LONG
        while any(log.metrics()["replication"][f"{what}_partitions"] for what in ("offline", "under_replicated")):
            assert time.monotonic() < until, f"not in sync: {log.metrics()}"
            time.sleep(0.001)
        assert not log.reassignments()


class SendSyncedToBrokers(OfBrokers):
    sync = True

    def call(self) -> None:
        self.story.send()


class LingerToBrokers(LingerAndFlush):
    brokers = _BROKERS

    def after(self) -> None:
        """The last record lingers, and the followers have to fetch it."""
        value = self.story.new()
        self.sent.append((value, self.send(value)))
        self.story.clock.advance(0.006)
        for value, delivery in self.sent:
            assert delivery.result(LONG).offset >= 0
            self.story.acknowledged.add(value)
        self.sent.clear()


class PollOfBrokers(Poll):
    brokers = _BROKERS


class CommitToBrokers(Commit):
    brokers = _BROKERS


class CreateATopicOnBrokers(OfBrokers):
    def call(self) -> None:
        self.story.log.create_topic("other", partitions=2, exist_ok=True)

    def after(self) -> None:
        super().after()
        topic = self.story.log.create_topic("other", partitions=2, exist_ok=True)
        for partition in range(2):
            topic.send("x", partition=partition).result()
            assert [record.value for record in topic.read(partition)] == [b"x"]
        topic.delete()


class StopABroker(OfBrokers):
    def __init__(self, story: Story) -> None:
        super().__init__(story)
        self.number = 0

    @property
    def broker(self) -> streamlog.Broker:
        return self.story.log.brokers[self.number % _BROKERS]

    def prepare(self) -> None:
        self.number += 1
        self.story.send()

    def call(self) -> None:
        self.broker.stop()

    def after(self) -> None:
        self.story.send()
        super().after()


class StartABroker(StopABroker):
    def prepare(self) -> None:
        super().prepare()
        self.broker.stop()
        self.story.send()

    def call(self) -> None:
        self.broker.start()


class ElectALeader(StopABroker):
    def call(self) -> None:
        with contextlib.suppress(streamlog.NotLeaderError):  # the election that was interrupted before goes on
            self.story.log.elect_leader(T0, self.broker.id)


class MoveReplicas(StopABroker):
    """From two of the brokers to another two."""

    def replicas(self) -> list[int]:
        return [self.broker.id, (self.broker.id + 1) % _BROKERS]

    def call(self) -> None:
        self.story.log.reassign("t", replicas={0: self.replicas()}).wait(LONG)

    def after(self) -> None:
        for moving in self.story.log.reassignments():
            moving.wait(LONG)
        super().after()
        self.story.log.reassign("t", replicas={0: self.replicas()}).wait(LONG)
        assert sorted(self.story.topic.partition(0).replicas) == sorted(self.replicas())


class LookAtATopic(Action):
    """Some records by time, and all: nothing is kept, so the next one has them all."""

    def prepare(self) -> None:
        self.story.send()

    def call(self) -> None:
        topic = self.story.topic
        topic.head(2)
        topic.tail(2)
        list(topic.read(order="time"))

    def after(self) -> None:
        whole = list(self.story.topic.read())
        assert list(self.story.topic.read(order="time")) == whole
        assert list(self.story.topic.tail(3)) == whole[-3:]


class Replay(Action):
    """A replay that is interrupted has sent what the note of the exception says, and one record more at most."""

    def __init__(self, story: Story) -> None:
        super().__init__(story)
        self.story.log.create_topic("live")
        self.replayed: dict[int, int] = {0: 0}
        self.notes: list[str] | None = None

    def prepare(self) -> None:
        for _ in range(3):
            self.story.send()

    def call(self) -> None:
        self.notes = None
        try:
            self.replayed = dict(
                self.story.log.replay(
                    "t", into="live", speed=math.inf, start=self.replayed, progress=False
                ).next_offsets
            )
        except BaseException as error:
            self.notes = getattr(error, "__notes__", [])
            raise

    def after(self) -> None:
        sent = [record.value.decode() for record in self.story.log["live"].read()]
        if self.notes:
            self.replayed = ast.literal_eval(self.notes[0].rpartition("start=")[2])
        elif self.notes is not None and len(sent) > self.replayed[0]:  # it came after the end
            self.replayed = {0: len(self.story.sent)}
        assert len(sent) - self.replayed[0] in (0, 1), (sent[-3:], self.replayed, self.notes)
        assert sent == self.story.sent[: len(sent)]
        self.replayed = {0: len(sent)}


ACTIONS: tuple[type[Action], ...] = (
    Send, SendThatRolls, SendWithKeyAndHeaders, SendSynced, SendReplicated, LogSync, SendMany, SendManyBatches, SendManyThatLingers, LingerAndFlush, LingerBehindOthers, LingerAndFlushSynced, LingerBehindOthersSynced,
    Poll, PollOfAMember, FirstPollOfAMember, PollBatches, Loop, UntilEnd, BlockAroundALoop, Commit, EndATransaction, EndATransactionSynced, EndATransactionOfBrokers, CloseAProducer, CloseAConsumer, RunWorkers, CloseTheLog, OpenTheLog, TopicsComeGrowAndGo, ABrokerIsAdded, BackgroundWork,
    SendSyncedToBrokers, LingerToBrokers, PollOfBrokers, CommitToBrokers, CreateATopicOnBrokers, StopABroker, StartABroker, ElectALeader, MoveReplicas,
    LookAtATopic, Replay,
)  # fmt: skip
