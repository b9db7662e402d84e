"""Transactions of many producers, on simulated disks, threads and time, from a seed.

    python -m tests.sim.transactions --seeds 5000 --seed 1        # the long run
    python -m tests.sim.transactions --seed 17 --shrink           # one seed, step by step; without the steps that it does not need

The log is the public one, of one broker or of three. Writers send to some partitions in transactions; two of them may have the
same transactional id. Workers of one group consume, transform and produce: each step does one part of that, so that transactions of several
producers, rebalances and failures come in between. Requests that were delayed arrive: an end, a partition, a batch or offsets of a
transaction that is over. Readers of committed, and of all, records read along. A topic is compacted meanwhile, and retention deletes records
of another one, before, in and after transactions.

What happens to it: transactions time out, producers are fenced or stop in the middle, an operator aborts; brokers are stopped, fail,
are slow; leaders move; the process is killed, or the power fails (under `sync=True`: without it nothing is promised), at any call to a
disk. A call that waits may find that such a thing happens meanwhile.

`tests/transaction_history.py` says what must be so. In the end all is well: nothing hangs, and every record had its effect once.
"""

from __future__ import annotations

import contextlib
import gc
import random
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from errno import EIO
from math import inf
from typing import Any
from unittest.mock import patch

import streamlog
from streamlog import StreamlogError, TopicPartition
from streamlog.broker.api import ProduceRequest
from streamlog.client.background import registry
from streamlog.client.retrying import answer_of
from streamlog.coordinator import transaction as states
from streamlog.records import columns
from streamlog.records.batch import seed_of
from streamlog.runtime.threads import is_inside
from streamlog.testing import SimulatedDisk
from streamlog.testing.crashes import Found, _Survivors
from streamlog.types import OffsetAndMetadata
from tests.times import START_MS
from tests.transaction_history import (
    Outcome,
    Place,
    Transaction,
    TransactionHistory,
    Violation,
    check_effects,
    demand,
)

from .cluster import quiet
from .disks import Crash, Disk
from .schedule import Hang, Schedule, bounded
from .seeds import Simulation, main
from .steps import Step

PATH = "/log"
STEPS = 200
LAG_MS = 10_000
GROUP = "g"
TOPICS = {"in": 2, "side": 2, "out": 2, "table": 1, "short": 1}
PLACES: list[Place] = [(topic, n) for topic, count in TOPICS.items() for n in range(count)]
# Of these, records go: compaction replaces those of the first, retention deletes those of the second.
GOING: dict[str, dict[str, Any]] = {
    "table": {"cleanup_policy": "compact", "min_cleanable_dirty_ratio": 0.0, "segment_bytes": 1024},
    "short": {"retention_records": 4, "segment_bytes": 1024},
}
KEPT = [place for place in PLACES if place[0] not in GOING]
KEYS = ("k", "l", "m")
# Simulated: within this, after the last fault and timeout, nothing is open or undecided.
_SETTLES_S = 120
# Simulated: so long after an open, nothing is open of the process before.
_ENDS_S = 2.0
_REAL_S = 60

WEIGHTS = {
    "open_writer": 3, "write": 40, "close_writer": 1, "plain": 2,
    "open_worker": 4, "work": 50, "close_worker": 4, "evict": 2, "reader": 2, "read": 8,
    "late": 10, "operator": 1,
    "threads": 6, "elapse": 6, "jump": 2, "settle": 2,
    "elect": 2, "stop": 2, "start": 5, "hold": 2, "eio": 1,
    "reopen": 1, "kill": 1, "power": 1,
}  # fmt: skip
MUST_FIRE = (
    "committed", "aborted", "fenced", "zombie refused", "timed out", "late end", "late partitions", "late batch", "late offsets",
    "worked", "rebalanced", "operator aborted", "settled", "read", "read all", "killed", "killed in a call", "power lost",
    "power lost in a call", "left undecided", "evicted", "reopened", "broker stopped", "disk failed", "meanwhile", "commit unanswered", "new producer id",
    "compacted", "deleted by retention", "compacted with one open",
)  # fmt: skip
"""What a run of some hundred seeds must have met, or it tests less than it says."""


def generate(seed: int, steps: int = STEPS) -> list[Step]:
    """The steps of a seed. Some seeds have no crash within a call, some none at all, some no fault of a broker."""
    rng = random.Random(f"transactions {seed}")
    weights = dict(WEIGHTS)
    rate = rng.choice([0.0, 0.0, 0.02, 0.08, 0.25])
    if rng.random() < 0.3:
        weights |= {"kill": 0, "power": 0, "reopen": 0}
        rate = 0.0
    if rng.random() < 0.5:
        weights |= {"eio": 4} if rng.random() < 0.5 else {"eio": 0}
    if rng.random() < 0.3:
        weights |= {"stop": 8, "start": 12, "elect": 6}
    kinds = rng.choices(list(weights), list(weights.values()), k=steps)
    kinds[:4] = ["open_writer", "open_worker", "write", "reader"]
    cleaning = random.Random(f"cleaning {seed}")
    kinds[4:] = [cleaning.choice(("compact", "retain")) if cleaning.random() < 0.05 else kind for kind in kinds[4:]]
    return [
        Step(n, kind, rng.randrange(1, rng.choice([5, 20, 60])) if rng.random() < rate else -1, rng.random() < 0.4)
        for n, kind in enumerate(kinds)
    ]


def effects(place: Place, offset: int, head: str) -> list[str]:
    """What a worker makes of a record: nothing, one record or two."""
    return [f"{place[1]}/{offset}/{n}" for n in range((1, 2, 1, 0)[offset % 4])]


class Writer:
    """A producer with a transactional id, and the transaction that it has open."""

    def __init__(self, producer: Any, transactional_id: str, instance: int, timeout_ms: int) -> None:
        self.producer = producer
        self.id = transactional_id
        self.instance = instance
        self.timeout_ms = timeout_ms
        self.transaction: Transaction | None = None
        self.pending: list[tuple[str, Any]] = []
        self.is_zombie = self.is_fatal = False

    @property
    def now(self) -> Any:
        """Its producer id and epoch."""
        return self.producer._transactional().producer

    def __str__(self) -> str:
        return f"{self.id} ({self.instance})"


class Worker:
    """A member of the group that consumes, transforms and produces; `phase` says what it does next."""

    def __init__(self, writer: Writer, consumer: Any) -> None:
        self.writer = writer
        self.consumer = consumer
        self.records: list[Any] = []
        self.phase = "poll"


class Reader:
    def __init__(self, consumer: Any, committed: bool) -> None:
        self.consumer = consumer
        self.committed = committed
        self.given: dict[Place, list[int]] = {place: [] for place in PLACES}


class Late:
    """A request of a transaction that was delayed."""

    def __init__(self, writer: Writer, transaction: Transaction, producer: Any) -> None:
        self.id = writer.id
        self.transaction = transaction
        self.producer = producer


class World:
    """One seed. `fired` counts what happened, `story` tells it."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        rng = random.Random(f"transactions of {seed}")
        self.brokers = rng.choice([1, 1, 3])
        self.sync = rng.random() < 0.5
        self.last_epoch = rng.choice([3, states.LAST_EPOCH])
        """A producer goes on under another id then."""
        self.fired: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()
        self.story: list[str] = [f"{self.brokers} brokers, sync={self.sync}"]
        self.schedule = Schedule(seed, START_MS)
        self.schedule.between = self._meanwhile
        self.schedule.check = self._stop_if_dead
        self.disk = Disk(SimulatedDisk(seed))
        self.history = TransactionHistory()
        self.log: Any = None
        self.writers: list[Writer] = []
        self.workers: list[Worker] = []
        self.readers: list[Reader] = []
        self.late: list[Late] = []
        self.numbers = 0
        self.troubled = 0.0
        self._began: dict[Transaction, tuple[float, int]] = {}
        """When each one began, by the log's monotonic clock, and its timeout."""
        self._busy = False
        self._making = ""
        """The transactional id of a producer that is being made: none other is made meanwhile, so it is known which one is the newest."""
        self._rng = rng

    # -- the steps -----------------------------------------------------------------------------------

    def run(self, steps: Sequence[Step]) -> None:
        """Do them all, then have all faults end. Raises Violation."""
        last_epoch = patch.object(states, "LAST_EPOCH", self.last_epoch)
        with bounded(_REAL_S), quiet(), self.schedule.playing(), last_epoch:
            try:
                for step in steps:
                    self.perform(step)
                self._begin(f"{self.seed}/end")
                self.story.append("the end of all faults")
                self._finish()
            finally:
                self._abandon()
        gc.collect()

    def _stop_if_dead(self) -> None:
        if self.disk.dead:
            raise Crash

    def _begin(self, source: str) -> None:
        self._rng = random.Random(source)
        self.schedule.rng = random.Random(f"{source}/turns")

    def perform(self, step: Step) -> None:
        if step.kind == "power" and not self.sync:
            return
        self.story.append(str(step))
        self._begin(f"{self.seed}/{step.number}")
        self.disk.calls_left = -1 if step.power and not self.sync else step.crashes_after
        try:
            if self.log is None:
                self._judged(self._open)
            if self.log is None:  # a disk fails
                self._heal()
                return
            self._busy = True
            self._judged(lambda: getattr(self, f"do_{step.kind}")(self._rng))
            self.disk.calls_left = -1
            self.schedule.turns(self._rng.choice([0, 0, 1, 2, 5]))
            self._busy = False
            if self.log is not None and self._rng.random() < 0.3:
                self._judged(self._look)
        except Crash:
            self.fired["power lost in a call" if step.power else "killed in a call"] += 1
            self._crashed(step.power)
        finally:
            self._busy = False
        self.disk.calls_left = -1

    def _judged(self, call: Callable[[], object], *allowed: type[StreamlogError]) -> bool:
        """Do something; whether it raised nothing. An error is a violation unless it is one of these, or all is not well."""
        try:
            call()
            return True
        except StreamlogError as error:
            self.note(f"{type(error).__name__}: {error}")
            self.errors[type(error).__name__] += 1
            if not self.is_troubled and not isinstance(error, allowed):
                where = "".join(traceback.format_exception(error, limit=-8))
                raise Violation(f"{type(error).__name__} though all is well: {error}\n{where}") from error
            return False
        except (Violation, Hang):
            raise
        except Exception as error:
            where = traceback.format_exc(limit=-6)
            raise Violation(f"{type(error).__name__} instead of a StreamlogError: {error}\n{where}") from error

    @property
    def is_troubled(self) -> bool:
        """Whether something is wrong, or was a moment ago, so that a call may fail with an error."""
        if self.log is None or self.schedule.now_s < self.troubled:
            return True
        return any(not broker.running for broker in self.service.brokers.all)

    def trouble(self, seconds: float = 30.0) -> None:
        self.troubled = max(self.troubled, self.schedule.now_s + seconds)

    def note(self, what: object) -> None:
        self.story.append(f"    {what}")

    def number(self) -> int:
        self.numbers += 1
        return self.numbers

    @property
    def service(self) -> Any:
        return self.log._engine.service

    # -- opening and dying ---------------------------------------------------------------------------

    def _open(self) -> None:
        self.log = streamlog.open(
            PATH, brokers=self.brokers, disk=self.disk, clock=self.schedule.clock, sync=self.sync,
            replica_lag_time_max_ms=LAG_MS,
        )  # fmt: skip
        self.trouble(1.0)
        for name, partitions in TOPICS.items():
            self.log.create_topic(
                name, partitions=partitions, exist_ok=True, **GOING.get(name, {"segment_bytes": 4096})
            )
        self.note("opened")

    def _crashed(self, power: bool) -> None:
        """The process died: its files are as a kill, or a power loss, left them, and the next one finds them so."""
        self._busy = False
        self.disk.dead = True
        files = self.disk.files
        boot, image = files._boot, files.image
        self._abandon()
        choice = self._rng.choice(["strict", "strict", "lax", "1", "2", "3"]) if power else "kill"
        self.note(f"the process is dead: {choice}")
        if power:
            image, boot = _Survivors(image, choice, f"{self.seed}/{len(self.story)}").build(), boot + 1
        self.disk = Disk(files._of(Found(f"{len(self.story)}/{choice}", image, boot, ())))
        self._process_ended()

    def _process_ended(self) -> None:
        self.schedule.new_process()
        self.history.process_ended()
        self._began.clear()
        self.trouble(1.0)

    def _abandon(self) -> None:
        log, self.log = self.log, None
        self._forget_clients()
        self.disk.quiet = True
        for engine in list(registry._engines.values()):  # also one whose open did not return
            if engine.options.disk is self.disk:
                engine.abandon()
                registry._forget(engine)
                registry._places.pop(engine.place, None)  # which refers to the disk
        if log is not None:
            log._ended = True

    def _forget_clients(self) -> None:
        self.writers, self.workers, self.readers = [], [], []

    @contextlib.contextmanager
    def looking(self) -> Iterator[None]:
        before, self.disk.quiet = self.disk.quiet, True
        try:
            yield
        finally:
            self.disk.quiet = before

    def _close(self) -> None:
        for writer in self.writers:
            self._drops(writer)
        self._may_be_over()
        log = self.log
        try:
            log.close()
        finally:
            self.log = None
            self._forget_clients()
            self._process_ended()

    def do_reopen(self, rng: random.Random) -> None:
        self._close()
        self.fired["reopened"] += 1

    def do_kill(self, rng: random.Random) -> None:
        self.fired["killed"] += 1
        self._crashed(power=False)

    def do_power(self, rng: random.Random) -> None:
        self.fired["power lost"] += 1
        self._crashed(power=True)

    # -- brokers -------------------------------------------------------------------------------------

    def _meanwhile(self) -> None:
        """A call waits: now and then another thread of the program does something."""
        rng = self.schedule.rng
        if not self._busy or is_inside() or rng.random() > 0.03 or self.disk.dead:
            return
        kind = rng.choice(["stop", "start", "elect", "hold", "operator", "fence"])
        self._busy = False
        self.fired["meanwhile"] += 1
        self.note(f"meanwhile {kind}")
        before, self.troubled = self.troubled, inf  # the call that waits may have to go on before this one can
        try:
            self._judged(lambda: getattr(self, f"do_{kind}")(rng))
        finally:
            self._busy, self.troubled = True, before
            self.trouble()

    def _broker(self, rng: random.Random, *, running: bool) -> Any:
        brokers = [broker for broker in self.log.brokers if broker.running == running]
        return rng.choice(brokers) if brokers else None

    def do_stop(self, rng: random.Random) -> None:
        broker = self._broker(rng, running=True)
        if broker is None or sum(each.running for each in self.log.brokers) < 2:
            return
        self.note(f"broker {broker.id}")
        self.trouble(1.0)
        broker.stop()
        self.fired["broker stopped"] += 1

    def do_start(self, rng: random.Random) -> None:
        broker = self._broker(rng, running=False)
        if broker is not None:
            self.note(f"broker {broker.id}")
            self.disk.heal()
            broker.start()
            self.trouble(1.0)

    def do_hold(self, rng: random.Random) -> None:
        """A follower is slow, or stuck for so long that it leaves the in-sync set."""
        broker = rng.choice(self.log.brokers)
        seconds = rng.choice([0.01, 0.5, 5.0, 15.0])
        self.note(f"the follower of broker {broker.id} does nothing for {seconds} s")
        self.schedule.hold(broker.path, seconds)
        self.trouble(seconds + LAG_MS / 500)

    def do_eio(self, rng: random.Random) -> None:
        """The disk of one of several brokers fails, while all of them run."""
        if self._broker(rng, running=False) is not None or self.brokers < 2:
            return
        broker = rng.randrange(self.brokers)
        op = rng.choice(["sync", "pwrite", "write", "sync_dir"])
        self.note(f"EIO at {op} of broker {broker}")
        self.disk.fail(
            op, EIO, path=f"{PATH}/broker-{broker}/*", nth=rng.choice([1, 2, 5]), times=rng.choice([1, None])
        )
        self.trouble(60.0)
        self.fired["disk failed"] += 1

    def do_elect(self, rng: random.Random) -> None:
        topics = self.log.topics(internal=True)
        topic = rng.choice(topics)
        place = TopicPartition(topic.name, rng.randrange(topic.partitions))
        broker = rng.choice(self.log.brokers).id
        self.note(f"{place} to {broker}")
        self.trouble(1.0)
        self.log.elect_leader(place, broker)

    def _heal(self) -> None:
        self.disk.heal()
        self.trouble(1.0)

    # -- time ----------------------------------------------------------------------------------------

    def do_threads(self, rng: random.Random) -> None:
        self.schedule.turns(rng.choice([1, 2, 3, 10, 100]))

    def do_elapse(self, rng: random.Random) -> None:
        seconds = rng.choice([0.001, 0.01, 0.2, 1, 1, 6, 25])
        self.note(f"{seconds} s")
        self.schedule.elapse(seconds)

    def do_jump(self, rng: random.Random) -> None:
        ms = rng.choice([-3_600_000, -1_000, 1_000, 600_000])
        self.note(f"{ms} ms")
        self.schedule.clock.jump(ms)

    def _may_be_over(self) -> None:
        """What is open for so long may have been timed out, or is within the next call. By the log's clock, as the coordinator
        measures it: where it lags behind real time, it catches up within a transaction that began since."""
        now_s = self.schedule.clock_catches_up_to_s
        for transaction, (began_s, timeout_ms) in self._began.items():
            if now_s - began_s >= timeout_ms / 1000 * 0.95 - 0.1:
                transaction.may_be_over = True

    # -- writers -------------------------------------------------------------------------------------

    def _produce_as(self, rng: random.Random, transactional_id: str) -> Writer:
        instance, timeout_ms = self.number(), rng.choice([1_500, 10_000, 60_000])
        linger_ms = rng.choice([0, 0, 5, 60_000])
        self.note(f"{transactional_id} ({instance}), linger_ms={linger_ms}, transaction_timeout_ms={timeout_ms}")
        self.history.may_be_over(transactional_id)
        self._making = transactional_id
        try:
            producer = self.log.producer(
                transactional_id=transactional_id, linger_ms=linger_ms, transaction_timeout_ms=timeout_ms
            )
        finally:
            self._making = ""
        self.history.fenced(transactional_id, instance, self._ends())
        for writer in self._all_writers():
            if writer.id == transactional_id and not writer.is_zombie:
                writer.is_zombie = True
                self._over(writer)
                self.fired["fenced"] += 1
        return Writer(producer, transactional_id, instance, timeout_ms)

    def _ends(self) -> dict[Place, int]:
        leaders = self.service.brokers.leaders
        return {place: leaders[place].reader.tail.end_offset for place in PLACES if leaders.get(place) is not None}

    def _all_writers(self) -> list[Writer]:
        return [*self.writers, *(worker.writer for worker in self.workers)]

    def do_open_writer(self, rng: random.Random) -> None:
        if len(self.writers) < 6:
            self.writers.append(self._produce_as(rng, rng.choice(["a", "b", "b"])))

    def do_fence(self, rng: random.Random) -> None:
        """Another producer of an id that has a transaction open."""
        writers = [each for each in self._all_writers() if each.transaction is not None and not each.is_zombie]
        if not self._making and writers and len(self.writers) < 8:
            self.writers.append(self._produce_as(rng, rng.choice(writers).id))

    def _writer(self, rng: random.Random) -> Writer:
        if not self.writers:
            self.do_open_writer(rng)
        return rng.choice(self.writers)

    def do_write(self, rng: random.Random) -> None:
        writer = self._writer(rng)
        if writer.transaction is None:
            self._begin_transaction(writer)
        elif rng.random() < 0.65:
            topic = rng.choice(["in", "in", "side", *GOING])
            count = rng.choice([1, 1, 1, 2, 5])
            heads = [f"{writer.id}.{writer.instance}.{self.number()}" for _ in range(count)]
            self._send(rng, writer, (topic, rng.randrange(TOPICS[topic])), heads)
        elif rng.random() < 0.7:
            self._commit(writer)
        else:
            self._abort(writer)

    def _begin_transaction(self, writer: Writer) -> bool:
        self.note(f"{writer} begins")
        if not self._judged(writer.producer.begin_transaction, *self._refusals(writer)):
            self._fail(writer)
            return False
        writer.transaction = self.history.begin(writer.id, writer.instance)
        self._began[writer.transaction] = self.schedule.clock.monotonic(), writer.timeout_ms
        return True

    def _refusals(self, writer: Writer) -> tuple[type[StreamlogError], ...]:
        """The errors that its calls may raise though all is well."""
        self._may_be_over()
        transaction = writer.transaction
        if writer.is_zombie or writer.is_fatal or (transaction is not None and transaction.may_be_over):
            return (streamlog.ProducerFencedError, streamlog.InvalidTxnStateError, streamlog.DeliveryError)
        return ()

    def _send(self, rng: random.Random, writer: Writer, place: Place, heads: list[str]) -> bool:
        transaction = writer.transaction
        assert transaction is not None
        self.note(f"{writer} sends {heads} to {place}")
        keys = [rng.choice(KEYS) if place[0] == "table" else None for _ in heads]
        for head, key in zip(heads, keys, strict=True):
            self.history.sends(transaction, place, head, key)
        values = [f"{head}:{'.' * rng.choice([0, 0, 30, 300])}" for head in heads]
        deliveries: list[Any] = []
        producer = writer.producer

        def send() -> None:
            if len(values) == 1:
                deliveries.append(producer.send(place[0], values[0], keys[0], partition=place[1]))
            else:
                deliveries.append(producer.send_many(place[0], values, keys, partition=place[1]))

        if not self._judged(send, *self._refusals(writer)):
            for head in heads:
                self.history.refused(head)
            if writer.is_zombie:
                self.fired["zombie refused"] += 1
            return False
        self._may_be_over()
        writer.pending.append((heads, deliveries[0]))  # type: ignore[arg-type]
        self._harvest(writer)
        return True

    def _harvest(self, writer: Writer) -> None:
        """What became of what was sent."""
        left = []
        for heads, delivery in writer.pending:
            if not delivery.done():
                left.append((heads, delivery))
            elif delivery.exception() is None:
                found = delivery.result()
                for head, metadata in zip(heads, [found] if len(heads) == 1 else found, strict=True):
                    self.history.acknowledged(head, metadata.offset)
        writer.pending = left

    def _commit(self, writer: Writer) -> bool:
        transaction = writer.transaction
        assert transaction is not None
        self.note(f"{writer} commits")
        late = self._remember(writer, transaction)
        self.history.commits(transaction)
        done = self._judged(writer.producer.commit_transaction, *self._refusals(writer))
        self._harvest(writer)
        if done:
            self.history.committed(transaction)
            self.fired["committed"] += 1
            self._ended(writer, late)
        else:
            self.fired["commit unanswered"] += 1
            self._fail(writer)
        return done

    def _abort(self, writer: Writer) -> None:
        transaction = writer.transaction
        assert transaction is not None
        self.note(f"{writer} aborts")
        late = self._remember(writer, transaction)
        allowed = self._refusals(writer)
        if transaction.outcome is Outcome.DECIDING:
            allowed += (streamlog.InvalidTxnStateError,)  # it is committed
        if self._judged(writer.producer.abort_transaction, *allowed):
            self.history.aborted(transaction)
            self.fired["aborted"] += 1
            self._ended(writer, late)
        else:
            self._fail(writer)

    def _remember(self, writer: Writer, transaction: Transaction) -> Late:
        late = Late(writer, transaction, writer.now)
        self.late.append(late)
        del self.late[:-12]
        return late

    def _ended(self, writer: Writer, late: Late) -> None:
        self.fired["new producer id"] += writer.now.producer_id != late.producer.producer_id
        self._began.pop(late.transaction, None)
        writer.transaction, writer.pending = None, []

    def _fail(self, writer: Writer) -> None:
        """A call was refused: it may be that nothing more can be done with the producer, or with its transaction."""
        state = writer.producer._transactional().state.value
        if state == "fenced":
            writer.is_fatal = True
            self.fired["zombie refused"] += writer.is_zombie
            self.fired["timed out"] += not writer.is_zombie
        if state == "fenced" or (state == "ready" and writer.transaction is not None):
            self._over(writer)
            writer.transaction, writer.pending = None, []

    def _over(self, writer: Writer) -> None:
        """Nothing of its transaction is known any more, or something else has ended it."""
        if writer.transaction is not None:
            writer.transaction.may_be_over = True

    def _drops(self, writer: Writer) -> None:
        """The producer is closed, which aborts."""
        self._over(writer)
        if writer.transaction is not None and writer.transaction.outcome is Outcome.OPEN:
            self.history.aborted(writer.transaction)

    def do_close_writer(self, rng: random.Random) -> None:
        if not self.writers:
            return
        writer = self.writers.pop(rng.randrange(len(self.writers)))
        self.note(str(writer))
        self._drops(writer)
        self._judged(writer.producer.close, *self._refusals(writer), streamlog.DeliveryError)

    def do_plain(self, rng: random.Random) -> None:
        """A record outside of any transaction."""
        head, place = f"plain.{self.number()}", ("side", rng.randrange(2))
        alone = self.history.begin("plain", 1)
        alone.may_be_over = False
        self.history.sends(alone, place, head)
        self.history.commits(alone)
        delivery = self.log[place[0]].send(f"{head}:", partition=place[1])
        self.history.acknowledged(head, delivery.result().offset)

    # -- workers -------------------------------------------------------------------------------------

    def do_open_worker(self, rng: random.Random) -> None:
        if len(self.workers) < 3:
            name = f"p{rng.randrange(3)}"
            writer = self._produce_as(rng, name)
            consumer = self.log.consumer(
                "in", group=GROUP, enable_auto_commit=False, max_poll_records=rng.choice([1, 2, 5, 500])
            )
            self.workers.append(Worker(writer, consumer))
            self.fired["rebalanced"] += len(self.workers) > 1

    def do_close_worker(self, rng: random.Random) -> None:
        if self.workers:
            undecided = [worker for worker in self.workers if worker.phase == "commit"]
            worker = rng.choice(undecided if undecided and rng.random() < 0.7 else self.workers)
            self.workers.remove(worker)
            self.note(str(worker.writer))
            if worker.phase == "commit" and rng.random() < 0.7:
                # It has left the group, and what it has sent is not decided: who gets its partitions has to wait for that.
                self.writers.append(worker.writer)
                self._judged(worker.consumer.close)
                self.fired["left undecided"] += 1
            else:
                self._close_worker(rng, worker)

    def do_evict(self, rng: random.Random) -> None:
        """The group takes a member for dead: what it has in hand goes to others, and it goes on."""
        group = self.log.group(GROUP)
        members = sorted(member.member_id for member in group.members())
        if members:
            group.evict(rng.choice(members))
            self.fired["evicted"] += 1

    def _close_worker(self, rng: random.Random, worker: Worker) -> None:
        self._drops(worker.writer)
        closes = [worker.consumer.close, worker.writer.producer.close]
        for close in closes if rng.random() < 0.5 else closes[::-1]:
            self._judged(close, *self._refusals(worker.writer), streamlog.DeliveryError)

    def do_work(self, rng: random.Random) -> None:
        if not self.workers:
            self.do_open_worker(rng)
            return
        worker = rng.choice(self.workers)
        if worker.writer.is_fatal:
            self.workers.remove(worker)
            self.note(f"{worker.writer} is replaced")
            self._close_worker(rng, worker)
            return
        for _ in range(rng.choice([1, 1, 2, 4])):
            if not getattr(self, f"_{worker.phase}_as")(rng, worker):
                return

    def _poll_as(self, rng: random.Random, worker: Worker) -> bool:
        worker.records = worker.consumer.poll(rng.choice([0, 0, 0.01]))
        for record in worker.records:
            self.history.given((record.topic, record.partition), record.offset, head_of(record))
        if not worker.records:
            return False
        self.note(f"{worker.writer} is given {[(each.partition, each.offset) for each in worker.records]}")
        worker.phase = "begin"
        return True

    def _begin_as(self, rng: random.Random, worker: Worker) -> bool:
        if worker.writer.transaction is not None:  # a commit of which no answer is known
            return self._give_up(rng, worker)
        if not self._begin_transaction(worker.writer):
            return False
        worker.phase = "send"
        return True

    def _send_as(self, rng: random.Random, worker: Worker) -> bool:
        for record in worker.records:
            made = effects((record.topic, record.partition), record.offset, "")
            for n, effect in enumerate(made):
                place = "out", (record.offset + n) % 2
                if not self._send(rng, worker.writer, place, [f"{effect}@{self.number()}"]):
                    return self._give_up(rng, worker)
        worker.phase = "offsets"
        return True

    def _offsets_as(self, rng: random.Random, worker: Worker) -> bool:
        transaction = worker.writer.transaction
        assert transaction is not None
        positions: dict[Place, int] = {}
        for record in worker.records:
            positions[record.topic, record.partition] = record.offset + 1
        given = None
        if rng.random() < 0.5 and {tuple(each) for each in worker.consumer.assignment()} == set(positions):
            # Behind the last record there may be markers, and records that were aborted.
            positions = {place: worker.consumer.position(TopicPartition(*place)) for place in positions}
        else:
            given = {TopicPartition(*place): position for place, position in positions.items()}
        self.note(f"{worker.writer} sends offsets {positions}")
        self.history.positions(transaction, GROUP, positions)
        allowed = (*self._refusals(worker.writer), streamlog.CommitFailedError)
        if not self._judged(
            lambda: worker.writer.producer.send_offsets_to_transaction(given, worker.consumer), *allowed
        ):
            return self._give_up(rng, worker)
        worker.phase = "commit"
        return True

    def _commit_as(self, rng: random.Random, worker: Worker) -> bool:
        if not self._commit(worker.writer):
            return self._give_up(rng, worker)
        self.fired["worked"] += 1
        worker.phase = "poll"
        return True

    def _give_up(self, rng: random.Random, worker: Worker) -> bool:
        """Abort what is open, and go back to what the group has committed. It is tried again if that fails."""
        if worker.writer.transaction is not None and not worker.writer.is_fatal:
            self._abort(worker.writer)
            if worker.writer.transaction is not None and not worker.writer.is_fatal:
                worker.phase = "begin"
                return False
        worker.phase = "poll" if self._judged(lambda: self._rewind(worker)) else "begin"
        return False

    @staticmethod
    def _rewind(worker: Worker) -> None:
        for name in sorted(worker.consumer.assignment()):
            committed = worker.consumer.committed(name)
            if committed is None:
                worker.consumer.seek_to_beginning(name)
            else:
                worker.consumer.seek(name, committed)

    # -- requests that come late ---------------------------------------------------------------------

    def do_late(self, rng: random.Random) -> None:
        """One of an earlier transaction of its id, or of an earlier producer, arrives."""
        if not self.late:
            return
        late = rng.choice(self.late)
        now = answer_of(self.service.describe_transaction(late.id))
        if now is None or (now.producer_id, now.producer_epoch) == tuple(late.producer):
            return  # it is that of its present transaction
        getattr(self, f"_late_{rng.choice(['end', 'end', 'end', 'partitions', 'batch', 'offsets'])}")(rng, late)

    def _late_end(self, rng: random.Random, late: Late) -> None:
        """Only what was decided so before is answered."""
        commit = rng.random() < 0.5
        self.note(f"a late {'commit' if commit else 'abort'} of {late.transaction}")
        if commit:
            self.history.commits(late.transaction)
        allowed = (
            streamlog.ProducerFencedError,
            streamlog.InvalidTxnStateError,
            streamlog.ConcurrentTransactionsError,
        )
        if self._judged(
            lambda: answer_of(self.service.end_txn(late.id, late.producer, commit)),
            *allowed,
        ):
            (self.history.committed if commit else self.history.aborted)(late.transaction)
        self.fired["late end"] += 1

    def _is_refused(self, what: str, call: Callable[[], object]) -> None:
        taken = self._judged(
            call,
            streamlog.ProducerFencedError,
            streamlog.InvalidTxnStateError,
            streamlog.ConcurrentTransactionsError,
            streamlog.OutOfOrderSequenceError,
            streamlog.CommitFailedError,
        )
        demand(not taken, f"a late request was taken: {what}")
        self.fired[what] += 1

    def _late_partitions(self, rng: random.Random, late: Late) -> None:
        name = TopicPartition("side", rng.randrange(2))
        self.note(f"late partitions of {late.transaction}")
        self._is_refused(
            "late partitions",
            lambda: answer_of(self.service.add_partitions_to_txn(late.id, late.producer, [name])),
        )

    def _late_batch(self, rng: random.Random, late: Late) -> None:
        """To a partition of the transaction, where a marker has fenced it, or to another one, where the coordinator refuses it."""
        place = rng.choice([place for place in KEPT if place[0] != "out"])
        self.note(f"a late batch of {late.transaction} to {place}")
        at = self.log[place[0]]._view().partition(place[1])
        head = f"late.{self.number()}"
        self.history.sends(late.transaction, place, head)
        self.history.refused(head)
        batch = columns.seal(
            seed_of(at.topic_id, place[1]), None, [head.encode()], self.service.clock.time_ms(), count=1
        )
        sealed = batch.sequenced(*late.producer, rng.choice([0, 1000]), transactional=True)
        offsets: list[int] = []
        try:
            self._is_refused(
                "late batch", lambda: offsets.append(answer_of(self.service.produce(ProduceRequest(at, [sealed]))))
            )
        except Violation:
            if not any(each == offset for each in late.transaction.first.values() for offset in offsets):
                raise

    def _late_offsets(self, rng: random.Random, late: Late) -> None:
        self.note(f"late offsets of {late.transaction}")
        offsets = {TopicPartition("in", 0): OffsetAndMetadata(10**6, "", None)}
        if rng.random() < 0.5:
            self._is_refused(
                "late offsets", lambda: answer_of(self.service.add_offsets_to_txn(late.id, late.producer, GROUP))
            )
        else:
            self._is_refused(
                "late offsets",
                lambda: answer_of(self.service.txn_commit_offsets(late.id, late.producer, GROUP, None, -1, offsets)),
            )

    def do_operator(self, rng: random.Random) -> None:
        transactional_id = rng.choice(["a", "b", "p0", "p1"])
        self.note(transactional_id)
        self.history.may_be_over(transactional_id)
        if self._judged(
            lambda: answer_of(self.service.abort_transaction(transactional_id)), streamlog.InvalidTxnStateError
        ):
            self.fired["operator aborted"] += 1

    # -- what goes -----------------------------------------------------------------------------------

    def do_compact(self, rng: random.Random) -> None:
        self.log["table"].compact()
        self.fired["compacted"] += 1
        info = self.log["table"].partition(0)
        self.fired["compacted with one open"] += info.last_stable_offset < info.high_watermark

    def do_retain(self, rng: random.Random) -> None:
        before = self.log["short"].partition(0).log_start_offset
        self.log["short"].apply_retention()
        self.fired["deleted by retention"] += self.log["short"].partition(0).log_start_offset > before

    # -- readers -------------------------------------------------------------------------------------

    def do_reader(self, rng: random.Random) -> None:
        if len(self.readers) < 2:
            committed = rng.random() < 0.7
            level = "read_committed" if committed else "read_uncommitted"
            consumer = self.log.consumer(isolation_level=level, max_poll_records=rng.choice([1, 3, 500]))
            consumer.assign([TopicPartition(*place) for place in PLACES])
            self.readers.append(Reader(consumer, committed))

    def do_read(self, rng: random.Random) -> None:
        if not self.readers:
            return
        reader = rng.choice(self.readers)
        for record in reader.consumer.poll(rng.choice([0, 0.01])):
            place = record.topic, record.partition
            before = reader.given[place][-1:]
            demand(not before or before[0] < record.offset, f"a reader got {place} {record.offset} after {before}")
            reader.given[place].append(record.offset)
            if reader.committed:
                self.history.given(place, record.offset, head_of(record))
            self.fired["read" if reader.committed else "read all"] += 1

    def _check_readers(self) -> None:
        """Nothing was passed over."""
        for reader in self.readers:
            if not reader.committed:
                continue
            for place in KEPT:
                given = reader.given[place]
                wanted = [offset for offset in self.history.contents(place) if given and offset <= given[-1]]
                demand(given == wanted, f"a reader was given {given} of {place}, and {wanted} are committed")

    # -- looking -------------------------------------------------------------------------------------

    def _look(self) -> None:
        """Read all there is. Raises Violation."""
        self._may_be_over()
        with self.looking():
            for writer in self._all_writers():
                self._harvest(writer)
            for place in PLACES:
                topic, number = self.log[place[0]], place[1]
                if self.service.brokers.leaders.get(place) is None:
                    continue
                info = topic.partition(number)
                if place[0] == "table":
                    self.history.see_compacted(place, pairs(topic.read(number)), info.last_stable_offset)
                else:
                    self.history.see_committed(
                        place, pairs(topic.read(number)), info.last_stable_offset, info.log_start_offset
                    )
                self.history.see_all(place, pairs(topic.read(number, isolation_level="read_uncommitted")))
            for name, position in self.log.group(GROUP).committed().items():
                self.history.see_position(GROUP, (name.topic, name.partition), position)

    def do_settle(self, rng: random.Random) -> None:
        """Every producer goes, and what is decided is completed; then all there is must fit."""
        for worker in self.workers:
            self._close_worker(rng, worker)
        self.workers = []
        while self.writers:
            self.do_close_writer(rng)
        if not self.is_troubled:
            self._settled()

    def _settled(self) -> None:
        began = self.schedule.now_s
        while problem := self._unsettled():
            if self.schedule.now_s - began > _SETTLES_S:
                raise Violation(f"{_SETTLES_S} s later {problem}")
            self.schedule.elapse(1.0)
        self._look()
        self.history.settled()
        self._check_readers()
        self._check_effects()
        self.fired["settled"] += 1

    def _unsettled(self) -> str:
        for place in PLACES:
            info = self.log[place[0]].partition(place[1])
            if info.last_stable_offset != info.log_end_offset:
                return f"{place} is stable up to {info.last_stable_offset}, and ends at {info.log_end_offset}"
        listed = answer_of(self.service.list_transactions())
        return ", ".join(f"{each}" for each in listed if each.state in ("Ongoing", "PrepareCommit", "PrepareAbort"))

    def _check_effects(self) -> int:
        committed = self.log.group(GROUP).committed()
        return check_effects(
            {("in", n): self.history.contents(("in", n)) for n in range(TOPICS["in"])},
            {tuple(name): position for name, position in committed.items()},
            {
                ("out", n): [head.partition("@")[0] for head in self.history.contents(("out", n)).values()]
                for n in range(TOPICS["out"])
            },
            effects,
        )

    # -- the end -------------------------------------------------------------------------------------

    def _finish(self) -> None:
        """All faults are over: everything is decided within a bounded time, and then every record has its effect once."""
        self.disk.heal()
        for thread in self.schedule.threads:
            thread.held_until_s = 0.0
        if self.log is None:
            self._open()
        try:
            for broker in self.log.brokers:
                if not broker.running:
                    broker.start()
        except StreamlogError:  # the last one that ran has a poisoned log: only an open recovers it
            with contextlib.suppress(StreamlogError):
                self._close()
            self._open()
        self.schedule.elapse(30.0)
        self.troubled = 0.0
        rng = self._rng
        self.do_settle(rng)
        self.do_open_worker(rng)
        for _ in range(2000):
            worker = self.workers[0]
            if worker.phase == "poll" and not self._work_is_left():
                break
            self.do_work(rng)
            self.schedule.elapse(0.01)
        else:
            raise Violation("a worker does not come to the end of its records")
        self.do_settle(rng)
        done = self._check_effects()
        total = sum(len(self.history.contents(("in", n))) for n in range(TOPICS["in"]))
        demand(done == total, f"{done} of {total} records had their effect")
        with contextlib.suppress(streamlog.PoisonedLogError):
            self._close()
        self._open()
        self._settled()
        self._leave_open(rng)
        self._open()
        self.schedule.elapse(_ENDS_S)
        demand(not (problem := self._unsettled()), f"{_ENDS_S} s after the log was opened {problem}")
        self._settled()
        self._close()

    def _leave_open(self, rng: random.Random) -> None:
        """The process dies in the middle of a transaction that has a long timeout."""
        self.history.may_be_over("a")
        producer = self.log.producer(transactional_id="a", transaction_timeout_ms=600_000)
        writer = Writer(producer, "a", self.number(), 600_000)
        self.history.fenced("a", writer.instance, self._ends())
        self._begin_transaction(writer)
        self._send(rng, writer, ("side", 0), [f"left.{self.number()}"])
        self._crashed(power=False)

    def _work_is_left(self) -> bool:
        committed = self.log.group(GROUP).committed()
        self._look()
        return any(
            max(self.history.contents(("in", n)), default=-1) >= committed.get(TopicPartition("in", n), 0)
            for n in range(TOPICS["in"])
        )


def head_of(record: Any) -> str:
    return str(record.value.partition(b":")[0].decode())


def pairs(records: Any) -> list[tuple[int, str]]:
    return [(record.offset, head_of(record)) for record in records]


# -- many seeds ------------------------------------------------------------------------------------------


SIMULATION = Simulation("tests.sim.transactions", str(__doc__).splitlines()[0], STEPS, MUST_FIRE, generate, World)
simulate, explore = SIMULATION.simulate, SIMULATION.explore

if __name__ == "__main__":
    sys.exit(main(SIMULATION))
