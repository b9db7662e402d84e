"""The flights of a year go on being counted while each of three brokers is taken away, twice, and brought back.

    pip install '.[examples]'
    python examples/failover.py            # on a terminal: live; its output in a file or a pipe: plain lines
    python examples/failover.py --seconds 60

A log of three brokers has three directories, and every partition has a replica in each. One after the other, each broker

- is stopped (`Broker.stop`) and started again: it fetches what was sent meanwhile;
- loses its directory, as if its disk had gone: the log notices, and goes on without it. `Broker.start` makes the
  directory anew, and the broker fetches everything.

The stream of `flights.py` is sent meanwhile with `acks="all"`, so a flight is in every replica that is in sync when
`send_many` returns, and a group of three consumers computes the mean delay of each carrier. Nothing in the sender and in the
consumers knows of brokers. After each outage the leaders move back (`elect_leader`).

At the end every flight must have been counted, once, the means must be those that are computed from the CSV without
streamlog, and the three replicas must be whole. The exit code is 0 only if all of it is so.
"""

import argparse
import logging
import shutil
import sys
import tempfile
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import Any

from flights import (
    EVENTS,
    CheckFailed,
    DelayMember,
    Departure,
    check_equal,
    compute_without_streamlog,
    load_departures,
    merge,
    wait_until,
)

import streamlog
from streamlog import serde

TOPIC = "departures"
GROUP = "delays"
BROKERS = 3
PARTITIONS = 6
MEMBERS = 3
CHUNK = 500


class Story:
    """What has happened, in lines: the last ones are shown live, or each is printed when it comes."""

    def __init__(self) -> None:
        self._start = time.monotonic()
        self.lines: deque[str] = deque(maxlen=12)
        self.prints = True

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._start

    def tell(self, line: str) -> None:
        self.lines.append(f"{self.seconds:6.2f} s  {line}")
        if self.prints:
            print(self.lines[-1], flush=True)


class Said(logging.Handler):
    """Puts what the log says by itself, through `logging`, into the story."""

    def __init__(self, story: Story) -> None:
        super().__init__(logging.WARNING)
        self._story = story

    def emit(self, record: logging.LogRecord) -> None:
        self._story.tell(f"  the log: {record.getMessage().partition('. ')[0]}")


class Stream:
    """The sender: a thread that sends the departures in their order, in `seconds` if it can."""

    def __init__(self, departures: Sequence[Departure], seconds: float) -> None:
        self._departures = departures
        self._seconds = seconds
        self.sent = 0
        self.slowest_ms = 0.0
        # How far it may go before the next outage begins or ends, so that on a slow machine too every outage has its share.
        self.limit = 0

    def run(self, log: streamlog.StreamLog, given_up: Event) -> None:
        start = time.monotonic()
        with log.producer(acks="all", value_serializer=serde.json) as producer:
            for at in range(0, len(self._departures), CHUNK):
                while self.sent >= self.limit or time.monotonic() - start < self._seconds * at / EVENTS:
                    if given_up.wait(0.002):
                        return
                self._send(producer, self._departures[at : at + CHUNK])

    def _send(self, producer: streamlog.Producer, chunk: Sequence[Departure]) -> None:
        began = time.monotonic()
        producer.send_many(
            TOPIC,
            [departure.value for departure in chunk],
            [departure.tail for departure in chunk],
            timestamps_ms=[departure.time_ms for departure in chunk],
        )
        self.slowest_ms = max(self.slowest_ms, _ms_since(began))
        self.sent += len(chunk)


class Counters:
    """The group: three members, each a thread with sums of its own."""

    def __init__(self) -> None:
        self.members = [DelayMember() for _ in range(MEMBERS)]
        self.by_partition: Counter[int] = Counter()

    def run(self, log: streamlog.StreamLog, member: DelayMember, finished: Event) -> None:
        with log.consumer(
            TOPIC, group=GROUP, value_deserializer=serde.json, enable_auto_commit=False, max_poll_records=4000
        ) as consumer:
            while not finished.is_set():
                if batches := consumer.poll_batches(timeout=0.1):
                    for batch in batches:
                        member.handle(batch)
                        self.by_partition[batch.partition] += len(batch)
                    consumer.commit()

    def counted(self) -> int:
        return sum(len(member.events) for member in self.members)

    def check(self) -> None:
        """Check by its number that each flight was counted once, and the sums against the CSV."""
        times = Counter(event for member in self.members for event in member.events)
        missing = [event for event in range(EVENTS) if event not in times]
        again = [event for event, count in times.items() if count > 1]
        if missing or again:
            raise CheckFailed(
                f"{len(missing):,} flights were never counted {missing[:5]}, {len(again):,} more than once {again[:5]}"
            )
        check_equal("delays", merge(self.members), compute_without_streamlog()[0])


class Operator:
    """Takes the brokers away and brings them back, one after the other, while the stream goes on."""

    def __init__(
        self, log: streamlog.StreamLog, stream: Stream, story: Story, workers: Sequence[Future[None]], lost: Path
    ) -> None:
        self._log = log
        self._topic = log[TOPIC]
        self._stream = stream
        self._story = story
        self._workers = workers
        self._lost = lost
        self.outages = 0
        self.slowest_return_ms = 0.0

    def run(self) -> None:
        outages = [(broker, how) for broker in self._log.brokers for how in (self._stop, self._remove_directory)]
        parts = 2 * len(outages) + 1
        for number, (broker, take_away) in enumerate(outages):
            self._reach(2 * number + 1, parts)
            take_away(broker)
            self._reach(2 * number + 2, parts)
            self._bring_back(broker)

    def _reach(self, part: int, parts: int) -> None:
        """Wait until so many parts of the stream are sent, and let it go on to the end of the next one."""
        self._stream.limit = EVENTS * (part + 1) // parts
        self._wait(lambda: self._stream.sent >= EVENTS * part // parts, "the stream goes on")

    def _wait(self, reached: Callable[[], bool], what: str) -> None:
        wait_until(reached, self._workers, what)

    def _stop(self, broker: streamlog.Broker) -> None:
        led, began = self._led_by(broker), time.monotonic()
        broker.stop()
        self._tell_moved(f"broker {broker.id} is stopped", led, began)

    def _remove_directory(self, broker: streamlog.Broker) -> None:
        led, began = self._led_by(broker), time.monotonic()
        lost = self._lost / f"broker-{broker.id}"
        Path(str(broker.path)).rename(lost)  # gone at once, like a disk
        self._story.tell(f"the directory of broker {broker.id} is removed")
        self._wait(lambda: not broker.running, f"the log notices that the directory of broker {broker.id} is gone")
        shutil.rmtree(lost)
        self._tell_moved(f"broker {broker.id} is out", led, began)

    def _tell_moved(self, what: str, led: Sequence[int], began: float) -> None:
        self.outages += 1
        moved = ", ".join(f"{number} to {self._topic.partition(number).leader}" for number in led)
        self._story.tell(
            f"{what} after {_ms_since(began):.0f} ms; its partitions are led by others: {moved or 'it had none'}"
        )

    def _bring_back(self, broker: streamlog.Broker) -> None:
        began, is_empty = time.monotonic(), not Path(str(broker.path)).exists()
        broker.start()
        self._story.tell(
            f"broker {broker.id} is started{' with a new directory' * is_empty}, and fetches what it lacks"
        )
        self._wait(self._is_in_sync, "every replica is in sync")
        self.slowest_return_ms = max(self.slowest_return_ms, _ms_since(began))
        back = f"broker {broker.id} has everything after {_ms_since(began):.0f} ms"
        for number in range(PARTITIONS):
            self._log.elect_leader(streamlog.TopicPartition(TOPIC, number))  # the preferred one
        self._story.tell(f"{back}, and leads {', '.join(map(str, self._led_by(broker)))} again")

    def _led_by(self, broker: streamlog.Broker) -> list[int]:
        return [number for number in range(PARTITIONS) if self._topic.partition(number).leader == broker.id]

    def _is_in_sync(self) -> bool:
        replication = self._log.metrics()["replication"]
        return not replication["under_replicated_partitions"] and not replication["offline_partitions"]


def _ms_since(began: float) -> float:
    return (time.monotonic() - began) * 1000


class Board:
    """What is shown live: the brokers, the partitions, the story."""

    def __init__(self, log: streamlog.StreamLog, stream: Stream, counters: Counters, story: Story) -> None:
        self._log = log
        self._stream = stream
        self._counters = counters
        self._story = story

    def __rich__(self) -> Any:
        from rich.console import Group
        from rich.panel import Panel
        from rich.progress_bar import ProgressBar
        from rich.table import Table

        metrics = self._log.metrics()
        partitions: dict[str, Any] = metrics["topics"][TOPIC]
        sent, counted = self._stream.sent, self._counters.counted()
        total = Table.grid(padding=(0, 2))
        total.add_row("in the log", ProgressBar(EVENTS, sent, width=50), f"{sent:>9,}")
        total.add_row("counted", ProgressBar(EVENTS, counted, width=50), f"{counted:>9,}")

        brokers = Table("broker", "state", "leads", "in sync", "behind", "for", "directory", expand=True)
        for number, broker in metrics["brokers"].items():
            in_sync = sum(int(number) in each["isr"] for each in partitions.values())
            leads = sum(int(number) == each["leader"] for each in partitions.values())
            behind, ms = f"{broker['lag_records']:,}", f"{broker['lag_ms']:,} ms"
            state = _state(broker, in_sync)
            brokers.add_row(number, state, str(leads), f"{in_sync} of {PARTITIONS}", behind, ms, broker["path"])

        table = Table("partition", "leader", "epoch", "in sync", "records", "counted", expand=True)
        for number, each in partitions.items():
            leader = "none" if each["leader"] < 0 else str(each["leader"])
            end, seen = f"{each.get('log_end_offset', 0):,}", f"{self._counters.by_partition[int(number)]:,}"
            table.add_row(number, leader, str(each["leader_epoch"]), ", ".join(map(str, each["isr"])), end, seen)
        return Group(total, brokers, table, Panel("\n".join(self._story.lines), title="what happened"))


def _state(broker: dict[str, Any], in_sync: int) -> str:
    if broker["running"]:
        return "[green]in sync" if in_sync == PARTITIONS else "[yellow]catching up"
    return "[red]stopped" if Path(broker["path"]).exists() else "[red]directory gone"


@contextmanager
def shown(board: Board, story: Story) -> Iterator[None]:
    """Show the board on a terminal, if rich is installed; else the lines of the story are printed."""
    try:
        from rich.live import Live
    except ImportError:
        yield
        return
    if not sys.stdout.isatty():
        yield
        return
    story.prints = False
    with Live(board, refresh_per_second=10):
        yield


def stream_flights(path: Path, departures: Sequence[Departure], seconds: float, story: Story) -> Counters:
    """Send and count all departures, while the brokers come and go; the counters."""
    with (
        tempfile.TemporaryDirectory(dir=path.parent, prefix="lost-") as lost,
        streamlog.open(path, brokers=BROKERS) as log,
        ThreadPoolExecutor(MEMBERS + 1) as pool,
    ):
        log.create_topic(TOPIC, partitions=PARTITIONS)
        stream, counters, finished = Stream(departures, seconds), Counters(), Event()
        workers = [pool.submit(counters.run, log, member, finished) for member in counters.members]
        workers.append(pool.submit(stream.run, log, finished))
        operator = Operator(log, stream, story, workers, Path(lost))
        try:
            with shown(Board(log, stream, counters, story), story):
                operator.run()
                wait_until(lambda: counters.counted() >= EVENTS, workers, "every flight is counted")
        finally:
            finished.set()
        for worker in workers:
            worker.result()
        story.prints = True
        story.tell(f"{operator.outages} outages; {stream.sent:,} flights sent, {counters.counted():,} counted")
        story.tell(
            f"the slowest send of {CHUNK} flights took {stream.slowest_ms:.0f} ms, the slowest return of a broker "
            f"{operator.slowest_return_ms:.0f} ms"
        )
        if lag := sum(log.group(GROUP).lag().values()):
            raise CheckFailed(f"the group still lags by {lag} records")
    return counters


def run(seconds: float) -> None:
    print(f"reading the data set: {EVENTS:,} flights")
    departures = load_departures()
    with tempfile.TemporaryDirectory(prefix="failover-") as folder:
        path = Path(folder) / "log"
        print(f"{BROKERS} brokers in {path}, {PARTITIONS} partitions with a replica on each")
        story = Story()
        said = Said(story)
        logging.getLogger("streamlog").addHandler(said)
        try:
            counters = stream_flights(path, departures, seconds, story)
        finally:
            logging.getLogger("streamlog").removeHandler(said)
        counters.check()
        report = streamlog.verify(path)
        if not report.ok:
            raise CheckFailed(f"the directories are damaged:\n{report}")
    print(
        "checked: every flight was counted once, the delays equal those computed from the CSV, all replicas are whole"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, help="how long to send for  [default: 30 on a terminal, else 8]")
    seconds = parser.parse_args().seconds
    try:
        run(seconds if seconds is not None else 30.0 if sys.stdout.isatty() else 8.0)
    except CheckFailed as failure:
        print(f"failover: FAILED: {failure}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
