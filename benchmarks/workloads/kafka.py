"""A client of Kafka's, confluent-kafka, with the listener, beside the same client with librdkafka's mock and with Apache Kafka.

Apache Kafka takes part where KAFKA_HOME names a directory of it as it is distributed. The mock wakes no fetch that waits, so each
record would take half a second, and keeps few records: it takes part in what is left.
"""

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from itertools import count
from statistics import median, quantiles
from typing import Any

import streamlog
from benchmarks.children import ROOT
from benchmarks.figures import Row, pick, rate_row
from benchmarks.measure import MeasurementError, Samples, Side, expect, interleave, optional, stopwatch
from benchmarks.run import Run

ASSIGN_GOAL_MS = 50.0
SUBSCRIBE_GOAL_MS = 350.0
SUBSCRIBE_AT_ONCE_GOAL_MS = 250.0
P50_GOAL, P99_GOAL = 0.7, 0.3
RATE_GOAL = 1.3

LISTENER, SERVE, MOCK, APACHE = "streamlog", "streamlog serve", "librdkafka's mock", "Apache Kafka"
WAIT_S = 60.0
_MOST_AHEAD_KB = 2_097_151
"""The most that librdkafka takes."""
KAFKAS_OWN_JVM = ("-XX:-UseSerialGC", "-XX:+UseG1GC", "-XX:MaxGCPauseMillis=20", "-XX:TieredStopAtLevel=4", "-Xmx1g")
"""As its start script has it, where it is not timed how soon Kafka starts."""
_names = count()

Server = Callable[[], AbstractContextManager[str]]
"""Starts a server, gives its address, and ends it."""


class Client:
    """confluent-kafka with one server, in the few ways that the benchmarks use it."""

    def __init__(self, module: Any, address: str) -> None:
        self._module = module
        self._config = {"bootstrap.servers": address, "log_level": 0}

    def producer(self, linger_ms: int = 5, records: int = 0) -> Any:
        return self._module.Producer(
            self._config | {"linger.ms": linger_ms, "acks": "all", "queue.buffering.max.messages": records + 100_000}
        )

    def consumer(self, **config: Any) -> Any:
        defaults = {"group.id": f"group-{next(_names)}", "auto.offset.reset": "earliest", "enable.auto.commit": False}
        return self._module.Consumer(self._config | defaults | config)

    def assigned(self, topic: str, records: int = 0) -> Any:
        """A consumer of partition 0 of the topic, from its start, which may hold so many records that were not polled yet.

        librdkafka fetches ahead, and once it has as many records or bytes as it may hold, it pauses for 1 s
        (fetch.queue.backoff.ms): a server that is faster than the application would be measured as the slower one.
        """
        ahead = {"queued.min.messages": records + 100_000, "queued.max.messages.kbytes": _MOST_AHEAD_KB}
        consumer = self.consumer(**ahead if records else {})
        consumer.assign([self._module.TopicPartition(topic, 0, 0)])
        return consumer


def first_record(run: Run) -> Iterator[Row]:
    """From before a log and its listener are started to the first record that was sent and read through it."""
    module = optional("confluent_kafka")
    for work, delay_ms, goal in (
        ("start to first record, assign", 100, ASSIGN_GOAL_MS),
        ("start to first record, subscribe", 100, SUBSCRIBE_GOAL_MS),
        ("start to first record, subscribe, rebalance delay 0", 0, SUBSCRIBE_AT_ONCE_GOAL_MS),
    ):
        if module is None:
            yield Row(work, "ms", None, note="confluent_kafka is not installed")
            continue
        servers = _servers(run, module, {LISTENER, MOCK, APACHE}, delay_ms)
        sides = {name: _first_record(module, server, "assign" in work) for name, server in servers.items()}
        samples = interleave(sides, run.rounds)
        yield Row(work, "ms", 1e3 * median(samples[LISTENER]), goal=goal, at_most=True, samples=pick(samples, LISTENER))
        for peer in (MOCK, APACHE):
            yield _time_row(work, samples, peer, 1e3, "ms")


def _first_record(module: Any, server: Server, assign: bool) -> Side:
    def side() -> float:
        topic = f"topic-{next(_names)}"
        with stopwatch() as watch, ExitStack() as stack:
            client = Client(module, stack.enter_context(server()))
            producer = client.producer()
            producer.produce(topic, b"value", partition=0)
            expect("records that are left", producer.flush(WAIT_S), 0)
            consumer = client.assigned(topic) if assign else client.consumer()
            if not assign:
                consumer.subscribe([topic])
            _read(consumer, 1)
            read_at = time.perf_counter()
            stack.callback(consumer.close)
        return watch.seconds - (time.perf_counter() - read_at)  # the servers' and clients' ends do not count

    return side


def end_to_end(run: Run) -> Iterator[Row]:
    """One record after another, from `produce` to the return of `poll` in the same thread."""
    module = optional("confluent_kafka")
    work = "produce to poll, one record at a time"
    if module is None:
        yield Row(work, "µs", None, note="confluent_kafka is not installed")
        return
    records = run.size(2000, 300)
    with _running(run, module, {LISTENER, SERVE, APACHE}) as clients:
        p99: Samples = {name: [] for name in clients}
        sides = {name: _one_by_one(client, records, p99[name]) for name, client in clients.items()}
        p50 = interleave(sides, run.rounds)
    for name in p99:
        del p99[name][0]  # of the round that does not count
    for label, samples, goal in (("p50", p50, P50_GOAL), ("p99", p99, P99_GOAL)):
        for ours in (LISTENER, SERVE):
            beside = f"{work}, {label}{'' if ours == LISTENER else ', serve'}"
            yield _time_row(beside, samples, APACHE, 1e6, "µs", goal if ours == LISTENER else None, ours)


def _one_by_one(client: Client, records: int, p99: list[float]) -> Side:
    def side() -> float:
        topic = f"topic-{next(_names)}"
        producer = client.producer(linger_ms=0)
        producer.produce(topic, b"first", partition=0)
        producer.flush(WAIT_S)
        times = []
        with closing(client.assigned(topic)) as consumer:
            _read(consumer, 1)
            for _ in range(records):
                started = time.perf_counter()
                producer.produce(topic, bytes(100), partition=0)
                message = consumer.poll(WAIT_S)
                times.append(time.perf_counter() - started)
                if message is None or message.error():
                    raise MeasurementError("a record that was sent did not come")
                producer.poll(0)
        p99.append(quantiles(times, n=100)[98])
        return median(times)

    return side


def throughput(run: Run) -> Iterator[Row]:
    """Produce many records, then consume them."""
    module = optional("confluent_kafka")
    for size, label, full, quick in ((100, "100 B", 200_000, 20_000), (1024, "1 KiB", 100_000, 10_000)):
        works = {"produce": f"confluent-kafka produce, {label}", "consume": f"confluent-kafka consume, {label}"}
        if module is None:
            for work in works.values():
                yield Row(work, "records/s", None, note="confluent_kafka is not installed")
            continue
        records = run.size(full, quick)
        value = os.urandom(size)
        with _running(run, module, {LISTENER, SERVE, MOCK, APACHE}) as clients:
            topics: dict[str, str] = {}
            producing = {name: _produce(client, name, topics, value, records) for name, client in clients.items()}
            consuming = {
                name: _consume(client, name, topics, records) for name, client in clients.items() if name != MOCK
            }
            samples = {"produce": interleave(producing, run.rounds), "consume": interleave(consuming, run.rounds)}
        counts = dict.fromkeys(clients, records)
        for kind, work in works.items():
            for ours in (LISTENER, SERVE):
                name = work if ours == LISTENER else f"{work}, serve"
                for peer in (MOCK, APACHE) if kind == "produce" else (APACHE,):
                    goal = RATE_GOAL if (ours, peer) == (LISTENER, APACHE) else None
                    if peer in clients:
                        yield rate_row(name, samples[kind], peer, counts=counts, goal=goal, ours=ours)
                    else:
                        rate = records / median(samples[kind][ours])
                        yield Row(name, "records/s", rate, peer, note=_NO_APACHE, samples=pick(samples[kind], ours))


def _produce(client: Client, name: str, topics: dict[str, str], value: bytes, records: int) -> Side:
    def side() -> float:
        topics[name] = topic = f"topic-{next(_names)}"
        producer = client.producer(records=records)
        producer.produce(topic, b"first", partition=0)
        producer.flush(WAIT_S)
        with stopwatch() as watch:
            for _ in range(records):
                producer.produce(topic, value, partition=0)
            expect("records that are left", producer.flush(WAIT_S), 0)
        return watch.seconds

    return side


def _consume(client: Client, name: str, topics: dict[str, str], records: int) -> Side:
    def side() -> float:
        with closing(client.assigned(topics[name], records)) as consumer:
            _read(consumer, 1)  # connected, and its position is known
            with stopwatch() as watch:
                _read(consumer, records)
        return watch.seconds

    return side


def _read(consumer: Any, records: int) -> None:
    left = records
    while left:
        found = consumer.consume(min(left, 10_000), WAIT_S)
        if not found or any(each.error() for each in found):
            raise MeasurementError(f"{left} of {records} records did not come: {[str(each.error()) for each in found]}")
        left -= len(found)


_NO_APACHE = "KAFKA_HOME is not set"


def _time_row(
    work: str,
    samples: Samples,
    peer: str,
    per_second: float,
    unit: str,
    goal: float | None = None,
    ours: str = LISTENER,
) -> Row:
    figure = per_second * median(samples[ours])
    if peer not in samples:
        return Row(work, unit, figure, peer, note=_NO_APACHE, samples=pick(samples, ours))
    other = per_second * median(samples[peer])
    return Row(work, unit, figure, peer, other, goal, at_most=True, samples=pick(samples, ours, peer))


# -- the servers -------------------------------------------------------------------------------------------


@contextmanager
def _running(run: Run, module: Any, names: set[str]) -> Iterator[Mapping[str, Client]]:
    with ExitStack() as stack:
        servers = _servers(run, module, names, 100, KAFKAS_OWN_JVM)
        yield {name: Client(module, stack.enter_context(server())) for name, server in servers.items()}


def _servers(run: Run, module: Any, names: set[str], delay_ms: int, jvm: Sequence[str] = ()) -> dict[str, Server]:
    @contextmanager
    def listener() -> Iterator[str]:
        from streamlog.kafka import Listener

        with (
            run.scratch("listener") as path,
            streamlog.open(path / "data") as log,
            Listener(log, initial_rebalance_delay_ms=delay_ms) as serving,
        ):
            yield serving.bootstrap_servers

    @contextmanager
    def serve() -> Iterator[str]:
        with run.scratch("serve") as path:
            command = [sys.executable, "-m", "streamlog", "-d", str(path / "data"), "serve", "--port", "0"]
            server = subprocess.Popen(
                [*command, "--kafka-defaults"], stderr=subprocess.PIPE, text=True, cwd=ROOT, stdin=subprocess.DEVNULL
            )
            try:
                assert server.stderr is not None
                said = (re.match(r"Serving ([\d.:]+\d)", line) for line in server.stderr)
                address = next(filter(None, said), None)
                if address is None:
                    raise MeasurementError("streamlog serve ended and did not say where it serves")
                yield address[1]
            finally:
                server.terminate()
                server.wait(WAIT_S)

    @contextmanager
    def mock() -> Iterator[str]:
        owner = module.Producer({"bootstrap.servers": "mock", "test.mock.num.brokers": 1, "log_level": 0})
        broker = next(iter(owner.list_topics(timeout=WAIT_S).brokers.values()))
        yield f"{broker.host}:{broker.port}"
        owner.flush(0)

    @contextmanager
    def apache() -> Iterator[str]:
        from tests.interop import apache_kafka

        delay = {"group.initial.rebalance.delay.ms": str(delay_ms), "num.partitions": "1"}
        with apache_kafka.temporary(delay, jvm) as broker:
            yield broker.bootstrap_servers

    servers: dict[str, Server] = {LISTENER: listener, SERVE: serve, MOCK: mock}
    if os.environ.get("KAFKA_HOME"):
        servers[APACHE] = apache
    return {name: server for name, server in servers.items() if name in names}
