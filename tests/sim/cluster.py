"""A whole log of several brokers, with everything that uses it, on simulated disks, threads and time, from a seed.

    python -m tests.sim.cluster --seeds 20000 --steps 500 --seed 1     # the long run
    python -m tests.sim.cluster --seed 17                              # one seed, printed step by step
    python -m tests.sim.cluster --seed 17 --shrink                     # and without the steps that its violation does not need

A seed is a list of steps, made before the first one is done. Each has random sources of its own, for its choices and for the
order of the threads during it, so steps can be left out and the others stay what they are.

The log is the public one: `streamlog.open(brokers=…)` with producers (every acks, with and without a linger, one record and
many), readers, members of groups, commits, topics that come and go, records that are deleted, retention, compaction, elections,
reassignments. Its threads are those of `schedule`: one thread, in an order that the seed chooses.

What happens to it is in `faults`: a broker is stopped and started, added, retired; its disk fails (EIO), or is full; a byte of it
flips; its directory is removed or emptied, exchanged with that of another one, or an older copy; its follower is slow or stuck.
The wall clock jumps; the process is killed, or the power fails, at any call to a disk. A call that waits may find that such a
thing happens meanwhile.

After each step `history` looks at every replica. At the end all faults are over: then every partition has a leader, every
replica is in sync and has the same records within a bounded time, and every group can read to the end.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import random
import sys
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple
from unittest.mock import patch

import streamlog
from streamlog import StreamlogError, TopicPartition
from streamlog.broker import metrics, service, topics
from streamlog.client.background import registry
from streamlog.replication import scrub
from streamlog.runtime.threads import is_inside
from streamlog.testing import SimulatedDisk
from streamlog.testing.crashes import Found, _Survivors
from tests.times import START_MS

from .disks import Crash, Disk
from .expected import Expected
from .faults import LAG_MS, Faults
from .history import History, Sent, Violation, demand
from .schedule import Hang, Schedule, bounded
from .seeds import Simulation, main
from .steps import MUST_FIRE, STEPS, Step, generate

PATH = "/log"
# Simulated: within this all is well again, after the last fault.
_RECOVERS_S = 120
_RESTARTS_S = 30
_FLUSHING = ("flush", "close_producer", "reopen", "send", "send_many")
_REAL_S = 60
"""A seed takes no longer than this in real time, or it hangs."""


class Pending(NamedTuple):
    """A delivery that is not done: the id of its topic, what was sent; how many brokers had failed before, and unclean elections been."""

    delivery: Any
    topic_id: bytes
    names: list[bytes]
    failures: int
    unclean: int
    sent_s: float


class Producer(NamedTuple):
    number: int
    producer: Any
    acks: Any
    pending: list[Pending]
    is_hasty: bool
    """It gives up after a second."""


class Member(NamedTuple):
    number: int
    consumer: Any
    group: str | None
    given: dict[TopicPartition, int]
    """The next offset of each partition."""


class Cluster:
    """One seed. `fired` counts what happened, `story` tells it."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        rng = random.Random(f"a cluster {seed}")
        self.brokers: int | None = rng.choice([1, 2, 3, 3, 3, 4, 5])
        """How many the log has when it is made; later it knows."""
        self.path = PATH
        self.sync = rng.random() < 0.5
        self.fired: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()
        self.story: list[str] = [f"{self.brokers} brokers, sync={self.sync}"]
        self.schedule = Schedule(seed, START_MS)
        self.schedule.between = self._meanwhile
        self.schedule.check = self._stop_if_dead
        self.disk = Disk(SimulatedDisk(seed))
        self.history = History(self.fired)
        self.log: Any = None
        self.producers: list[Producer] = []
        self.members: list[Member] = []
        self.numbers = 0
        self.expected = Expected(self)
        self.faults = Faults(self)
        self._power_failed = False
        self.jumped_back_ms = 0
        self._busy = False
        self._rng = rng

    # -- the steps -----------------------------------------------------------------------------------

    def run(self, steps: Sequence[Step]) -> None:
        """Do them all, then have all faults end. Raises Violation."""
        with bounded(_REAL_S), quiet(), self.schedule.playing(), self._watching():
            try:
                for step in steps:
                    self.perform(step)
                self._begin(f"{self.seed}/end")
                self.story.append("the end of all faults")
                self.recover()
            finally:
                self._abandon()
        gc.collect()

    @contextlib.contextmanager
    def _watching(self) -> Iterator[None]:
        """The scrub comes every minute, and unclean elections are seen."""

        def changes(before: Any, after: Any, changed: Any) -> Any:
            self.history.elections(before, after)
            return metrics.isr_changes(before, after, changed)

        with (
            patch.object(scrub, "INTERVAL_MS", 60_000),
            patch.object(service, "START_MS", 10_000),
            patch.object(topics, "isr_changes", changes),
        ):
            yield

    def _stop_if_dead(self) -> None:
        if self.disk.dead:
            raise Crash

    def _begin(self, source: str) -> None:
        self._rng = random.Random(source)
        self.schedule.rng = random.Random(f"{source}/turns")

    def perform(self, step: Step) -> None:
        self.story.append(str(step))
        self._begin(f"{self.seed}/{step.number}")
        self.disk.calls_left = -1 if self.faults.lost else step.crashes_after
        try:
            if self.log is None:
                self._judged("open", self._open)
            if self.log is None:  # a disk fails
                if self._rng.random() < 0.3:
                    self.faults.do_heal(self._rng)
                return
            self._busy = True
            self._judged(step.kind, lambda: self._action(step.kind)(self._rng))
            self.disk.calls_left = -1
            self.schedule.turns(self._rng.choice([0, 0, 1, 2, 5]))
        except Crash:
            self.fired["power lost in a call" if step.power else "killed in a call"] += 1
            self._crashed(step.power)
        finally:
            self._busy = False
        self.disk.calls_left = -1
        self._look()

    def _action(self, kind: str) -> Callable[[random.Random], object]:
        """The method of a step."""
        found: Callable[[random.Random], object] = getattr(self, f"do_{kind}", None) or getattr(
            self.faults, f"do_{kind}"
        )
        return found

    def _judged(self, kind: str, call: Callable[[], object]) -> None:
        """Do something, and look whether the error that it raises may be."""
        began_s = self.schedule.now_s
        # Of what was sent before, a call that flushes says what became of it; closing the producer forgets it.
        pending = [each for producer in self.producers for each in producer.pending] if kind in _FLUSHING else []
        since_s = min([began_s, *(each.sent_s for each in pending)])
        self.expected.observe()
        try:
            call()
            self.expected.observe()
            self.expected.count(kind, began_s)
        except StreamlogError as error:
            self._judge(kind, error, since_s)
        except (Violation, Hang):
            raise
        except Exception as error:
            where = traceback.format_exc(limit=-6)
            raise Violation(f"{type(error).__name__} instead of a StreamlogError: {error}\n{where}") from error

    def _judge(self, kind: str, error: StreamlogError, since_s: float) -> None:
        name = type(error).__name__
        self.note(f"{name}: {error}")
        self.errors[name] += 1
        self.expected.observe()
        wrong = self.expected.judge(kind, error, since_s, hasty=any(each.is_hasty for each in self.producers))
        if wrong:
            where = "".join(traceback.format_exception(error, limit=-8))
            raise Violation(f"{kind} raised {type(wrong[0]).__name__}, which is not right here: {wrong[0]}\n{where}")

    def note(self, what: object) -> None:
        self.story.append(f"    {what}")

    def number(self) -> int:
        self.numbers += 1
        return self.numbers

    @property
    def service(self) -> Any:
        return self.log._engine.service

    @property
    def tail_lost(self) -> bool:
        """Whether the next open finds less than was acknowledged: the power failed, and nothing had to be on a device."""
        return self._power_failed and not self.sync

    # -- opening and dying ---------------------------------------------------------------------------

    def _open(self, *, force: bool = False) -> None:
        power_lost = self.tail_lost
        self.log = streamlog.open(
            PATH, brokers=self.brokers, disk=self.disk, clock=self.schedule.clock, sync=self.sync,
            replica_lag_time_max_ms=LAG_MS, force=force,
        )  # fmt: skip
        self.note("opened")
        self._power_failed = False
        self.brokers = None
        self.faults.opened()
        self.history.new_process()
        self.expected.observe()
        with self.looking():
            self.history.opened(self.service, power_lost=power_lost)
        if power_lost:
            self.history.commits_may_be_lost()

    def reopen(self) -> None:
        """Of an operator, who has all disks work again."""
        self._judged("reopen", self._close)
        self._open_without_the_lost()

    def _open_without_the_lost(self) -> None:
        """A directory was lost, and that could not be recorded before the log was closed, because every other disk failed then. So the
        open is refused, and says that force=True accepts what that one alone had: others had all when it was lost.
        """
        try:
            self._open()
        except streamlog.LogDirNotFoundError:
            if not self.faults.lost:
                raise
            self.fired["opened with force"] += 1
            self._open(force=True)

    def _crashed(self, power: bool) -> None:
        """The process died: its files are as a kill, or a power loss, left them, and the next one finds them so."""
        self._harvest()
        self._busy = False
        self.disk.dead = True
        files = self.disk.files
        boot, image = files._boot, files.image
        self._abandon()
        choice = self._rng.choice(["strict", "strict", "lax", "1", "2", "3"]) if power else "kill"
        self.note(f"the process is dead: {choice}")
        if power:
            image, boot = _Survivors(image, choice, f"{self.seed}/{len(self.story)}").build(), boot + 1
            self._power_failed = True
        self.disk = Disk(files._of(Found(f"{len(self.story)}/{choice}", image, boot, ())))
        self.schedule.new_process()
        self.faults.process_died()

    def _abandon(self) -> None:
        log, self.log = self.log, None
        self.producers, self.members = [], []
        self.disk.quiet = True
        for engine in list(registry._engines.values()):  # also one whose open did not return
            if engine.options.disk is self.disk:
                engine.abandon()
                registry._forget(engine)
                registry._places.pop(engine.place, None)  # which refers to the disk
        if log is not None:
            log._ended = True

    @contextlib.contextmanager
    def looking(self) -> Iterator[None]:
        before, self.disk.quiet = self.disk.quiet, True
        try:
            yield
        finally:
            self.disk.quiet = before

    def _look(self) -> None:
        self._harvest()
        if self.log is None:
            return
        with self.looking():
            self.faults.look()
            self._look_at_replicas()

    def _look_at_replicas(self) -> None:
        """What must be so now; less is promised of what a leader had alone that has failed since the last look."""
        for broker in self.service.brokers.all:
            if broker.failure is not None and not getattr(broker, "_noted", False):
                broker._noted = True
                self.fired["broker failed"] += 1
                self.note(f"broker {broker.id} has failed: {broker.failure}")
                self.history.leader_failed()
        self.history.look(self.service)

    # -- meanwhile -----------------------------------------------------------------------------------

    def _meanwhile(self) -> None:
        """A call waits: now and then another thread of the program does something."""
        rng = self.schedule.rng
        if not self._busy or is_inside() or rng.random() > 0.02 or self.disk.dead:
            return
        kind = rng.choice(["stop", "start", "elect", "hold", "eio", "rot"])
        self._busy = False
        self.fired["meanwhile"] += 1
        self.note(f"meanwhile {kind}")
        try:
            self._judged(kind, lambda: self._action(kind)(rng))
        finally:
            self._busy = True

    # -- the process ---------------------------------------------------------------------------------

    def do_kill(self, rng: random.Random) -> None:
        if self.faults.lost:
            return
        self.fired["killed"] += 1
        then = self.faults.while_closed(rng)
        self._crashed(power=False)
        then()

    def do_power(self, rng: random.Random) -> None:
        if self.faults.lost:
            return
        self.fired["power lost"] += 1
        then = self.faults.while_closed(rng)
        self._crashed(power=True)
        then()

    def do_reopen(self, rng: random.Random) -> None:
        if self.faults.lost:
            return
        then = self.faults.while_closed(rng)
        self._close()
        then()
        self.fired["reopened"] += 1

    def _close(self) -> None:
        strikes = self.disk.strikes
        log = self.log
        try:
            log.close()
        finally:
            self._harvest()
            self.log = None
            self.producers, self.members = [], []
            self.schedule.new_process()
        if self.disk.strikes == strikes:
            self.history.closed()

    def do_sync(self, rng: random.Random) -> None:
        strikes = self.disk.strikes
        self.log.sync()
        if self.disk.strikes == strikes and not self.faults.lost:
            with self.looking():
                self._look_at_replicas()
                self.history.synced(self.service)

    # -- time ----------------------------------------------------------------------------------------

    def do_threads(self, rng: random.Random) -> None:
        self.schedule.turns(rng.choice([1, 2, 3, 10, 100]))

    def do_elapse(self, rng: random.Random) -> None:
        seconds = rng.choice([0.001, 0.01, 0.2, 1, 1, 6, 25, 70])
        self.note(f"{seconds} s")
        self.schedule.elapse(seconds)

    def do_jump(self, rng: random.Random) -> None:
        ms = rng.choice([-3_600_000, -60_000, -1_000, 1_000, 60_000, 600_000])
        self.note(f"{ms} ms")
        self.schedule.clock.jump(ms)
        self.jumped_back_ms += max(0, -ms)
        self.fired["clock jumped"] += 1

    # -- topics --------------------------------------------------------------------------------------

    def topic(self, rng: random.Random) -> Any:
        topics = self.log.topics()
        return rng.choice(topics) if topics else None

    def partition(self, rng: random.Random) -> TopicPartition | None:
        topics = self.log.topics(internal=True)
        if not topics:
            return None
        topic = rng.choice(topics)
        return TopicPartition(topic.name, rng.randrange(topic.partitions))

    def registration(self, name: TopicPartition) -> Any:
        image = self.service.image
        return image.partition(image.topics[name.topic].id_bytes, name.partition)

    def do_create(self, rng: random.Random) -> None:
        if len(self.log.topics()) >= 3:
            return
        running = sum(broker.running for broker in self.log.brokers)
        factor = rng.randint(1, min(3, running))
        if rng.random() < 0.5:
            factor = min(3, running)
        settings: dict[str, Any] = {"min_insync_replicas": rng.randint(1, factor)} if rng.random() < 0.5 else {}
        if rng.random() < 0.3:
            settings["retention_records"] = rng.choice([20, 50])
        elif rng.random() < 0.2:
            settings |= {"cleanup_policy": "compact", "min_cleanable_dirty_ratio": 0.0}
        name = f"t{self.number()}"
        topic = self.log.create_topic(
            name,
            partitions=rng.choice([1, 1, 2, 3]),
            replication_factor=factor,
            segment_bytes=rng.choice([1024, 4096]),
            **settings | ({"unclean_leader_election": True} if rng.random() < 0.2 else {}),
        )
        self.note(f"{name}: {topic.partitions} partitions, {factor} replicas, {settings}")

    def do_delete(self, rng: random.Random) -> None:
        topic = self.topic(rng)
        if topic is not None:
            self.note(topic.name)
            topic.delete()
            self.fired["topic deleted"] += 1

    def do_delete_records(self, rng: random.Random) -> None:
        topic = self.topic(rng)
        if topic is None:
            return
        number = rng.randrange(topic.partitions)
        info = topic.partition(number)
        before = rng.randint(info.log_start_offset, max(info.log_start_offset, info.high_watermark))
        self.note(f"{topic.name}-{number} before {before}")
        topic.delete_records({number: before})
        self.fired["records deleted"] += 1

    def do_retain(self, rng: random.Random) -> None:
        topic = self.topic(rng)
        if topic is not None:
            topic.apply_retention()

    def do_compact(self, rng: random.Random) -> None:
        topics = [topic for topic in self.log.topics() if "compact" in topic.config["cleanup_policy"]]
        if topics:
            rng.choice(topics).compact()
            self.fired["compacted"] += 1

    def do_grow(self, rng: random.Random) -> None:
        topic = self.topic(rng)
        running = sum(broker.running for broker in self.log.brokers)
        if topic is not None and topic.partitions < 4 and len(topic.partition(0).replicas) <= running:
            topic.add_partitions(topic.partitions + 1)

    # -- producers -----------------------------------------------------------------------------------

    def do_open_producer(self, rng: random.Random) -> None:
        if len(self.producers) >= 3:
            return
        config: dict[str, Any] = {
            "acks": rng.choice([0, 1, "all", "all", "all"]),
            "linger_ms": rng.choice([0, 0, 5]),
            "batch_size": rng.choice([200, 1000, 16_384]),
            "delivery_timeout_ms": rng.choice([1_000, 30_000, 30_000]),
        }
        number = self.number()
        self.note(f"producer {number}: {config}")
        self.producers.append(
            Producer(number, self.log.producer(**config), config["acks"], [], config["delivery_timeout_ms"] < 2_000)
        )

    def _producer(self, rng: random.Random) -> Producer:
        if not self.producers:
            self.do_open_producer(rng)
        return rng.choice(self.producers)

    def _values(self, rng: random.Random, producer: Producer, count: int) -> list[bytes]:
        made = []
        for _ in range(count):
            number = self.number()
            name = b"%d.%d" % (producer.number, number)
            self.history.sent[name] = Sent(producer.number, number, producer.acks == "all")
            made.append(name + b":" + b"." * rng.choice([0, 0, 20, 120, 400]))
        return made

    def do_send(self, rng: random.Random) -> None:
        self._send(rng, 1)

    def do_send_many(self, rng: random.Random) -> None:
        self._send(rng, rng.choice([2, 5, 20]))

    def _send(self, rng: random.Random, count: int) -> None:
        producer, topic = self._producer(rng), self.topic(rng)
        if topic is None:
            return
        values = self._values(rng, producer, count)
        names = [value.partition(b":")[0] for value in values]
        partition = rng.randrange(topic.partitions)
        topic_id = topic.id.bytes
        self.note(f"{names[0].decode()}{f' and {count - 1} more' * (count > 1)} to {topic.name}-{partition}")
        key, failures, unclean = b"k%d" % rng.randrange(4), self.history.failures, self.history.unclean
        if count == 1:
            delivery: Any = producer.producer.send(topic.name, values[0], key, partition=partition)
        else:
            delivery = producer.producer.send_many(topic.name, values, [key] * count, partition=partition)
        producer.pending.append(Pending(delivery, topic_id, names, failures, unclean, self.schedule.now_s))

    def _harvest(self) -> None:
        """What became of what was sent."""
        for producer in self.producers:
            left = []
            for pending in producer.pending:
                if not pending.delivery.done():
                    left.append(pending)
                    continue
                error, count = pending.delivery.exception(), len(pending.names)
                if error is not None:
                    self.errors[f"delivery: {type(error).__name__}"] += 1
                    self.expected.observe()
                    wrong = self.expected.judge("send", error, pending.sent_s, hasty=producer.is_hasty)
                    demand(not wrong, f"{pending.names} to a topic could not be sent, which is not right here: {wrong}")
                    metadata = getattr(error, "metadata", None) or []
                else:
                    metadata = pending.delivery.result()
                    metadata = [metadata] if count == 1 else metadata
                for name, each in zip(pending.names, metadata, strict=False):
                    if each is not None and each.offset >= 0:
                        place = pending.topic_id, each.partition
                        self.history.acknowledged(place, each.offset, name, self._acks(producer, pending, place))
            producer.pending[:] = left

    def _acks(self, producer: Producer, pending: Pending, place: Any) -> Any:
        """What is promised: what one leader has acknowledged alone no longer when that has failed; nothing if it is replaced uncleanly."""
        known = self.history.partitions.get(place)
        if known is not None and known.unclean and pending.unclean != self.history.unclean:
            return 0
        return 0 if producer.acks == 1 and pending.failures != self.history.failures else producer.acks

    def do_flush(self, rng: random.Random) -> None:
        self._producer(rng).producer.flush()

    def do_close_producer(self, rng: random.Random) -> None:
        producer = self._producer(rng)
        try:
            producer.producer.close()
        finally:
            self._harvest()
            self.producers = [each for each in self.producers if each is not producer]

    # -- consumers -----------------------------------------------------------------------------------

    def do_join(self, rng: random.Random) -> None:
        members = [member for member in self.members if member.group is not None]
        if len(members) >= 4 or not self.log.topics():
            return
        group, number = rng.choice(["g", "g", "h"]), self.number()
        consumer = self.log.consumer(
            *sorted(topic.name for topic in self.log.topics()), group=group, enable_auto_commit=rng.random() < 0.7,
            auto_commit_interval_ms=1_000, max_poll_records=rng.choice([1, 5, 50]),
        )  # fmt: skip
        self.note(f"member {number} of {group}")
        self.members.append(Member(number, consumer, group, {}))

    def do_reader(self, rng: random.Random) -> None:
        readers = [member for member in self.members if member.group is None]
        topic = self.topic(rng)
        if len(readers) >= 2 or topic is None:
            return
        number = self.number()
        self.note(f"reader {number} of {topic.name}")
        self.members.append(Member(number, self.log.consumer(topic.name), None, {}))

    def _member(self, rng: random.Random, *, grouped: bool) -> Member | None:
        members = [member for member in self.members if (member.group is not None) == grouped]
        return rng.choice(members) if members else None

    def do_poll(self, rng: random.Random) -> None:
        self._poll(rng, self._member(rng, grouped=True))

    def do_read_on(self, rng: random.Random) -> None:
        self._poll(rng, self._member(rng, grouped=False))

    def _poll(self, rng: random.Random, member: Member | None) -> None:
        if member is None:
            return
        records = member.consumer.poll(rng.choice([0, 0, 0.005, 0.5]))
        self.note(f"{member.number} is given {len(records)} records")
        ids = {topic.name: topic.id.bytes for topic in self.log.topics()}
        for record in records:
            place = ids.get(record.topic, b""), record.partition
            if member.group is None:
                self.history.read(place, record)
                self._in_order(member, place, record)
            else:
                self.history.handed_out(member.group, place, record)
                self.fired["handed out"] += 1
        self._commits()

    def _in_order(self, member: Member, place: Any, record: Any) -> None:
        known, name = self.history.partitions.get(place), record.topic_partition
        expected, leader = member.given.get(name), self.service.brokers.leaders.get(name)
        if known is not None and expected is not None and not (known.compacted or known.unclean):
            start = known.start if leader is None else max(known.start, leader.reader.tail.start_offset)
            demand(
                expected <= record.offset <= max(expected, start),
                f"reader {member.number} got {name} {record.offset}, and {expected} was next (the log starts at {start})",
            )
        member.given[name] = record.offset + 1

    def do_commit(self, rng: random.Random) -> None:
        member = self._member(rng, grouped=True)
        if member is None:
            return
        self.note(f"member {member.number}")
        try:
            member.consumer.commit()
        except streamlog.CommitFailedError:
            self.errors["CommitFailedError"] += 1
            return
        self.fired["committed"] += 1
        self._commits()

    def _commits(self) -> None:
        with self.looking():
            for group in sorted({member.group for member in self.members if member.group is not None}):
                began_s = self.schedule.now_s
                try:
                    found = self.log.group(group).committed()
                except StreamlogError as error:
                    self._judge("poll", error, began_s)
                    continue
                self._look_at_replicas()
                ids = {topic.name: topic.id.bytes for topic in self.log.topics()}
                for name, offset in found.items():
                    if name.topic in ids:
                        self.history.committed(group, (ids[name.topic], name.partition), offset)

    def do_leave(self, rng: random.Random) -> None:
        if not self.members:
            return
        member = rng.choice(self.members)
        self.note(f"{member.number}")
        self.members = [each for each in self.members if each is not member]
        member.consumer.close()

    def do_read_all(self, rng: random.Random) -> None:
        topic = self.topic(rng)
        if topic is None:
            return
        topic_id, ends = topic.id.bytes, {n: topic.partition(n) for n in range(topic.partitions)}
        found: dict[int, list[int]] = {}
        for record in topic.read():
            self.history.read((topic_id, record.partition), record)
            found.setdefault(record.partition, []).append(record.offset)
        for number, info in ends.items():
            if "compact" not in topic.config["cleanup_policy"]:
                start = max(info.log_start_offset, topic.partition(number).log_start_offset)  # retention may have come
                wanted = [*range(start, info.high_watermark)]
                got = [each for each in found.get(number, []) if start <= each < info.high_watermark]
                demand(got == wanted, f"a read of {topic.name}-{number} gave {got} of {wanted}")

    # -- the end -------------------------------------------------------------------------------------

    def recover(self) -> None:
        """All faults are over: everything comes back within a bounded time. Raises Violation."""
        self.disk.heal()
        self.schedule.clock.jump(self.jumped_back_ms)  # what is due by the log's clock would come as much later
        for thread in self.schedule.threads:
            thread.held_until_s = 0.0
        if self.log is not None and len(self.log.brokers) == 1:  # where its only disk failed, an open recovers it
            self._judged("reopen", self._close)
        if self.log is None:
            self._open_without_the_lost()
        self.faults.exchange_back()
        self.log.replication_throttle_bytes_per_s = None
        self._start_all()
        self._look()
        began = self.schedule.now_s
        while problem := self._not_recovered():
            if self.schedule.now_s - began > _RECOVERS_S:
                if self.faults.flipped and not self.faults.must_be_repaired:
                    self.fired["damage of the last replica in sync"] += 1
                    return
                raise Violation(f"{_RECOVERS_S} s after the last fault {problem}")
            self.schedule.elapse(1.0)
            self._restart_poisoned(since_s=began)
            self._start_all()
            self._look()
        for name in sorted(self.log._engine.service.brokers.leaders):
            replicas = [
                broker.replicas.partitions[name]
                for broker in self.service.brokers.running
                if name in broker.replicas.partitions
            ]
            with self.looking():
                self.history.all_equal(replicas)
        self._end_clients()
        self._look()
        with contextlib.suppress(streamlog.PoisonedLogError):  # of the last broker that ran, which is never replaced
            self._close()
        self._open()
        self._look()
        self._close()

    def _restart_poisoned(self, since_s: float) -> None:
        """The operator stops a broker whose sync has failed, and which runs on for it has the only replica of a partition."""
        for broker in self.log.brokers if self.schedule.now_s - since_s > _RESTARTS_S else ():
            running = self.service.brokers.running
            if broker.running and len(running) > 1 and self.service.brokers.by_id(broker.id).replicas.is_faulty:
                with contextlib.suppress(streamlog.PoisonedLogError):  # it says so, and is closed all the same
                    broker.stop()
                self.fired["poisoned broker stopped"] += 1

    def _start(self, broker: Any) -> None:
        try:
            self.faults.start(broker)
        except streamlog.ConfigError:  # a broker that is retired has left the log before the start had its turn
            if broker.id in self.faults.ids():
                raise

    def _start_all(self) -> None:
        try:
            for broker in self.log.brokers:
                if not broker.running and broker.id in self.faults.ids():
                    self._start(broker)
            if self.faults.is_displaced:
                self.reopen()
        except StreamlogError:
            # The last broker that runs has a log that was poisoned: it is never replaced, and only an open recovers it.
            if not any(broker.replicas.is_faulty for broker in self.service.brokers.running):
                raise
            self.fired["recovered by an open"] += 1
            self.reopen()
            self.faults.lost.clear()

    def _not_recovered(self) -> str:
        image = self.service.image
        stopped = [broker.id for broker in self.service.brokers.all if not broker.running]
        if stopped or self.faults.lost:
            return f"brokers {stopped} do not run, and those without a directory are {self.faults.lost}"
        if self.faults.flipped and self.faults.must_be_repaired:
            return f"{self.faults.flipped} is not repaired"
        if left := self.log.reassignments():
            return f"{left} are not done"
        for view in image.topics.values():
            for number in range(view.partitions):
                registration = image.partition(view.id_bytes, number)
                leader = self.service.brokers.leaders.get((view.name, number))
                if leader is None:
                    return f"{view.name}-{number} has no leader ({registration})"
                if set(registration.isr) != set(registration.replicas) or registration.adding_replicas:
                    return f"{view.name}-{number} is not in sync: {registration}"
                if leader.high_watermark != leader.reader.tail.end_offset:
                    return f"{view.name}-{number} has a high watermark of {leader.high_watermark}, and ends at {leader.reader.tail.end_offset}"
        return ""

    def _end_clients(self) -> None:
        """Producers can be flushed, members can leave, and a member that is left reads everything."""
        for producer in self.producers:
            with contextlib.suppress(streamlog.DeliveryError):  # of what failed before
                producer.producer.close()
            self._harvest()
            demand(
                not producer.pending, f"producer {producer.number} is closed, and has no answer for {producer.pending}"
            )
        self.producers = []
        for member in self.members:
            member.consumer.close()
        groups = sorted(self.history.groups)
        self.members = []
        topics = sorted(topic.name for topic in self.log.topics())
        if not topics:
            return
        for group in groups:
            with self.log.consumer(*topics, group=group) as consumer:
                self.members = [Member(0, consumer, group, {})]
                ids = {topic.name: topic.id.bytes for topic in self.log.topics()}
                for record in consumer.until_end():
                    self.history.handed_out(group, (ids[record.topic], record.partition), record)
                self._look()
                for name in topics:
                    for number in range(self.log[name].partitions):
                        left = self.history.unread(group, (ids[name], number))
                        demand(not left, f"group {group} was never given {left} of {name}-{number}")
        self.members = []


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Faults are logged by the thousand."""
    disabled = logging.root.manager.disable
    if not logging.root.handlers:
        logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


# -- many seeds ------------------------------------------------------------------------------------------


SIMULATION = Simulation("tests.sim.cluster", str(__doc__).splitlines()[0], STEPS, MUST_FIRE, generate, Cluster)
simulate, explore = SIMULATION.simulate, SIMULATION.explore

if __name__ == "__main__":
    sys.exit(main(SIMULATION))
