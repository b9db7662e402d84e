"""A log at work on a simulated disk, for the replay of its write trace: everything that writes, in a seeded order."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable
from copy import deepcopy
from errno import EIO, ENOSPC
from functools import partial
from typing import Any
from unittest.mock import patch
from uuid import UUID

import streamlog
from streamlog import TopicPartition
from streamlog.broker.api import ProduceRequest, Service
from streamlog.broker.metadata import TopicIdPartition
from streamlog.records.batch import seed_of
from streamlog.runtime.threads import result_of
from streamlog.testing import Fault, FaultyDisk, ManualClock, SimulatedDisk
from tests.kafka_batches import Row, kafka_batch
from tests.sim.schedule import Schedule
from tests.times import START_MS

from . import crash_transactions
from .crash_transactions import Mover, Moves
from .crash_truth import PATH, Event, Truth

RETENTION_MS = 60_000
KEYS = [b"a", b"b", b"c", b"d"]
GROUP = "readers"
WEIGHTS = {
    "send": 30, "send_many": 14, "linger": 6, "send_to_table": 20, "send_kafka": 8, "delete_records": 3, "compact": 4, "commit": 6,
    "consume": 3, "advance": 6, "apply_retention": 2, "sync": 4, "come_and_go": 3, "reopen": 2,
}  # fmt: skip
OF_TRANSACTIONS = {"move": 60}
OF_BROKERS = {"stop_and_start": 6, "elect": 6, "reassign": 4}

FAULTS = [
    ("sync", EIO), ("sync", EIO), ("sync", EIO), ("sync_dir", EIO), ("pwrite", ENOSPC), ("pwrite", EIO), ("create", ENOSPC),
    ("rename", EIO), ("unlink", EIO), ("truncate", EIO), ("pread", EIO), ("write", ENOSPC), ("any", EIO),
]  # fmt: skip
TABLE = {
    "cleanup_policy": "compact", "segment_bytes": 1024, "min_cleanable_dirty_ratio": 0.2, "delete_retention_ms": 5_000,
}  # fmt: skip


class Attached:
    """What a listener of Kafka's protocol would be: it has the log's Service."""

    def __init__(self, service: Service) -> None:
        self.service = service

    def close(self, timeout_s: float) -> None:
        """Nothing is open."""


class Workload:
    """Runs on `disk`; every event is a mark of the trace, and changes the truth as of that mark."""

    def __init__(
        self,
        disk: SimulatedDisk,
        seed: int,
        *,
        sync: bool,
        steps: int,
        before: Truth | None = None,
        fails: bool = False,
        brokers: int = 1,
        transactions: bool = False,
    ) -> None:
        self.disk = disk
        self.sync = sync
        self.brokers = brokers
        self.rng = random.Random(seed)
        self.before = before or Truth(START_MS)
        self.before.fails = fails
        self.truth = deepcopy(self.before)  # as of now, to know offsets
        self._schedule = Schedule(seed, self.truth.now_ms) if brokers > 1 else None
        self.clock = self._schedule.clock if self._schedule is not None else ManualClock(start_ms=self.truth.now_ms)
        self.events: list[Event] = []
        self.failures = 0
        self.passing: UUID | None = None
        self._weights = WEIGHTS | (OF_BROKERS if brokers > 1 else {}) | (OF_TRANSACTIONS if transactions else {})
        self._mover = Mover(self.rng, self._tell_moves)
        self._marks = len(disk.marks)
        self._faulty = FaultyDisk(disk)
        self._fault: Fault | None = None
        if fails:
            op, error = self.rng.choice(FAULTS)
            path = "*" if brokers == 1 else f"*/broker-{self.rng.randrange(brokers)}/*"
            self._fault = self._faulty.fail(
                op, error, nth=self.rng.randint(1, 80), times=5 if error == ENOSPC else 1, path=path,
                short=self.rng.randrange(300),
            )  # fmt: skip
        # Ids too, so that a seed gives the same trace.
        with patch("os.urandom", self.rng.randbytes) if self._schedule is None else self._schedule.playing():
            self._run(steps)

    def truth_at(self, marks: int, truth: Truth | None = None, done: int = 0) -> Truth:
        """The truth after so many marks, from one after `done` of them."""
        truth = truth or deepcopy(self.before)
        for event in self.events[max(0, done - self._marks) : max(0, marks - self._marks)]:
            event(truth)
        return truth

    def _tell(self, event: Event) -> None:
        event(self.truth)
        self.events.append(event)
        self.disk.mark(str(len(self.events)))

    def _tell_moves(self, event: Callable[[Moves], object]) -> None:
        self._tell(lambda truth: event(truth.moves))

    def _run(self, steps: int) -> None:
        names = self.rng.choices(list(self._weights), list(self._weights.values()), k=steps)
        todo = [self._begin, *(getattr(self, f"_{name}") for name in names), lambda: self.log.close()]
        for step in todo:
            try:
                step()
                self._recover_brokers()
            except streamlog.StreamlogError:
                self._start_over()
        self.log.close()

    def _recover_brokers(self) -> None:
        """A broker whose disk has failed is started again, and the threads have some turns."""
        if self._schedule is not None and not self.log.closed:
            for broker in self.log.brokers:
                broker.start()
            self._schedule.turns(self.rng.randrange(20))

    def _begin(self) -> None:
        fired = self._fired()
        self._open()
        if self._fired() > fired:  # open it is, but a partition whose sync failed shows no more than is on the device
            raise streamlog.StorageError("the disk failed while the log was opened")
        if self._marks or self.events:
            self._rise()
        known = {topic.name: topic.id for topic in self.log.topics()}
        self.events_id = known.get("events") or self._create("events", 2, retention_ms=RETENTION_MS, segment_bytes=1024)
        self.table_id = known.get("table") or self._create("table", 1, **TABLE)
        self.passing = known.get("passing")

    def _fired(self) -> int:
        return self._fault.fired if self._fault is not None else 0

    def _start_over(self) -> None:
        """The disk failed: what was not acknowledged may be there or not; opened again, the log says which."""
        self.failures += 1
        assert self.failures < 10, "every call fails"
        try:
            if hasattr(self, "log"):
                with contextlib.suppress(streamlog.StreamlogError):
                    self.log.close()
            self._begin()
        except streamlog.StreamlogError:
            self._start_over()

    def _rise(self) -> None:
        """After a crash: what is there is the truth from now on."""
        crash_transactions.settle(self.log, self._pause)
        contents = self.truth.compare(self.log, strong=True)
        found = {
            topic.id: (topic.name, topic.partitions, topic.name == "table", topic.config["retention_ms"])
            for topic in self.log.topics()
            if topic.name != crash_transactions.TOPIC
        }
        committed = {
            (group.name, name): offset for group in self.log.groups() for name, offset in group.committed().items()
        }
        self._tell(lambda truth: truth.reborn(contents, found, committed))
        is_there = crash_transactions.TOPIC in self.log
        moved = self.truth.moves.compare(self.log, strong=True)
        positions = {
            name.partition: offset for name, offset in self.log.group(crash_transactions.MOVERS).committed().items()
        }

        def reborn(moves: Moves) -> None:
            moves.created = is_there
            moves.reborn(moved, positions)

        self._tell_moves(reborn)

    def _pause(self) -> None:
        if self._schedule is None:
            self.clock.advance(crash_transactions.PAUSE_S)
        else:
            self._schedule.elapse(crash_transactions.PAUSE_S)

    def _open(self) -> None:
        self._mover.forget()
        self.log = streamlog.open(PATH, disk=self._faulty, clock=self.clock, sync=self.sync, brokers=self.brokers)

    def _reopen(self) -> None:
        self.log.close()
        if not self.sync:
            self._tell(Truth.synced)
        self._open()

    # -- topics --------------------------------------------------------------------------------------

    def _create(self, name: str, partitions: int, **config: Any) -> UUID:
        self._tell(lambda truth: truth.coming.add(name))
        topic = self.log.create_topic(name, partitions=partitions, **config)
        compacted, retention = config.get("cleanup_policy") == "compact", config.get("retention_ms")
        id = topic.id
        self._tell(lambda truth: truth.created(id, name, partitions, compacted, retention))
        return id

    def _come_and_go(self) -> None:
        """A topic is created, written to, deleted, and its name used again."""
        if self.passing is None:
            self.passing = self._create("passing", 1)
            made, count = self.passing, self.rng.randint(1, 4)
            self._send_to("passing", made, 0, [self._record() for _ in range(count)])
            self._tell(lambda truth: truth.committing_in(made, count))
            self.log.group(GROUP).reset("passing", to={TopicPartition("passing", 0): count})
            return
        id, self.passing = self.passing, None
        self._tell(lambda truth: setattr(truth.topics[id], "going", True))
        self.log.delete_topic("passing")
        self._tell(lambda truth: truth.deleted(id))

    # -- records -------------------------------------------------------------------------------------

    def _record(self, key: bytes | None = None) -> tuple[bytes | None, bytes | None]:
        size = self.rng.choice((0, 20, 100, 300, 600, 2500)) if self.rng.random() < 0.5 else 30
        return key, self.rng.randbytes(16) + b"." * size

    def _send_to(self, name: str, id: UUID, number: int, records: list[Any]) -> None:
        self._tell(lambda truth: truth.sending(id, number, records))
        if len(records) == 1:
            ((key, value),) = records
            self.log[name].send(value, key, partition=number).result()
        else:
            keys, values = [key for key, _ in records], [value for _, value in records]
            self.log[name].send_many(values, keys, partition=number).result()
        self._tell(lambda truth: truth.acknowledged(id, number))

    def _send(self) -> None:
        self._send_to("events", self.events_id, self.rng.randrange(2), [self._record(self.rng.choice(KEYS))])

    def _send_many(self) -> None:
        records = [self._record() for _ in range(self.rng.randint(2, 8))]
        self._send_to("events", self.events_id, self.rng.randrange(2), records)

    def _send_to_table(self) -> None:
        records = [self._record(self.rng.choice(KEYS)) for _ in range(self.rng.randint(1, 4))]
        if self.rng.random() < 0.15:
            records[-1] = (records[-1][0], None)
        self._send_to("table", self.table_id, 0, records)

    def _send_kafka(self) -> None:
        """A Kafka batch as a listener stores it, in either topic."""
        to_table = self.rng.random() < 0.5
        name, id, number = (
            ("table", self.table_id, 0) if to_table else ("events", self.events_id, self.rng.randrange(2))
        )
        records = [self._record(self.rng.choice(KEYS)) for _ in range(self.rng.randint(1, 6))]
        self._tell(lambda truth: truth.sending(id, number, records))
        rows = [Row(self.clock.time_ms(), key, value) for key, value in records]
        batch = kafka_batch(seed_of(id.bytes, number), rows, codec=self.rng.randrange(2))
        service: Service = self.log.attach(Attached).service
        result_of(service.produce(ProduceRequest(TopicIdPartition(name, number, id.bytes), [batch])))
        self._tell(lambda truth: truth.acknowledged(id, number))

    def _linger(self) -> None:
        number, records = self.rng.randrange(2), [self._record() for _ in range(self.rng.randint(1, 5))]
        id = self.events_id
        self._tell(lambda truth: truth.sending(id, number, records))
        with self.log.producer(linger_ms=1000, batch_size=500, compression_type="gzip") as producer:
            for key, value in records:
                producer.send("events", value, key, partition=number)
            producer.flush()
            self._tell(lambda truth: truth.acknowledged(id, number))

    # -- forgetting ----------------------------------------------------------------------------------

    def _delete_records(self) -> None:
        number = self.rng.randrange(2)
        info = self.log["events"].partition(number)
        before = self.rng.randint(info.log_start_offset, info.log_end_offset)
        self._tell(partial(Truth.deleting, id=self.events_id, number=number, before=before))
        self.log["events"].delete_records({number: before})
        self._tell(partial(Truth.deleted_records, id=self.events_id, number=number, before=before))

    def _compact(self) -> None:
        self.log["table"].compact()

    def _apply_retention(self) -> None:
        self.log["events"].apply_retention()

    def _advance(self) -> None:
        """Time goes by, and background work is done: syncs of sealed segments, retention, compaction."""
        seconds = self.rng.choice((0, 1, 10, 45))
        now = self.clock.time_ms() + seconds * 1000
        self._tell(lambda truth: setattr(truth, "now_ms", now))
        self.clock.advance(seconds)

    # -- groups --------------------------------------------------------------------------------------

    def _commit(self) -> None:
        name = TopicPartition("events", self.rng.randrange(2))
        info = self.log["events"].partition(name.partition)
        known = self.truth.commits.get((GROUP, name))
        low = max(info.log_start_offset, known.tried if known else 0)
        if low > info.log_end_offset:
            return
        offset = self.rng.randint(low, info.log_end_offset)
        self._tell(lambda truth: truth.committing(GROUP, name, offset))
        self.log.group(GROUP).reset("events", to={name: offset})
        self._tell(lambda truth: truth.committed(GROUP, name))

    def _consume(self) -> None:
        """A member reads to the end and commits, so that members are in the group's log too."""
        names = [TopicPartition("events", number) for number in range(2)]
        with self.log.consumer("events", group=GROUP, enable_auto_commit=False) as consumer:
            while consumer.poll(timeout=0):
                pass
            for name in names:
                end = self.log["events"].partition(name.partition).log_end_offset
                self._tell(partial(Truth.committing, group=GROUP, name=name, offset=end))
            consumer.commit()
            committed = self.log.group(GROUP).committed()
            for name in names:
                if name in committed:
                    self._tell(partial(Truth.committed, group=GROUP, name=name))

    def _sync(self) -> None:
        if not self.sync:
            self.log.sync()
            self._tell(Truth.synced)

    # -- transactions --------------------------------------------------------------------------------

    def _move(self) -> None:
        self._mover.step(self.log)

    # -- brokers -------------------------------------------------------------------------------------

    def _stop_and_start(self) -> None:
        broker = self.rng.choice(self.log.brokers)
        broker.stop()
        self._send()
        if self.rng.random() < 0.5:
            broker.start()
            self._send()

    def _any_partition(self) -> TopicPartition:
        return TopicPartition(*self.rng.choice([("events", 0), ("events", 1), ("table", 0)]))

    def _elect(self) -> None:
        name = self._any_partition()
        replicas = self.log[name.topic].partition(name.partition).replicas
        with contextlib.suppress(streamlog.NotLeaderError):  # not in sync
            self.log.elect_leader(name, self.rng.choice(replicas))

    def _reassign(self) -> None:
        name = self._any_partition()
        replicas = self.rng.sample(range(self.brokers), self.rng.randint(2, self.brokers))
        with contextlib.suppress(streamlog.ConfigError):  # fewer than have to be in sync
            self.log.reassign(name.topic, replicas={name.partition: replicas})
