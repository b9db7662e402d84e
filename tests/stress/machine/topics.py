"""Topics: made, deleted, made again, grown, configured, retained, compacted, read."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import streamlog
from streamlog import StreamlogError

from .model import Settings, TopicModel, Violation, demand

if TYPE_CHECKING:
    from .program import Program

NAMES = ["a", "b", "c", "d"]
DEFAULTS: Settings = {
    "cleanup_policy": "delete", "retention_ms": None, "retention_bytes": None, "retention_records": None,
    "segment_bytes": 1024, "message_timestamp_type": "CreateTime",
}  # fmt: skip
LETTERS = ".dead-letters"
POLICIES = ["delete", "delete", "delete", "compact", "compact", "compact,delete"]
SECOND_MS = 1000


def settings_of(rng: random.Random) -> Settings:
    """Some settings of a topic, all of which are given to `create_topic`."""
    settings = {**DEFAULTS, "cleanup_policy": rng.choice(POLICIES), "segment_bytes": rng.choice([1024, 2048, 8192])}
    if rng.random() < 0.3:
        settings.update(_retention(rng))
    if rng.random() < 0.1:
        settings["message_timestamp_type"] = "LogAppendTime"
    return settings


def _retention(rng: random.Random) -> Settings:
    kind = rng.choice(["retention_ms", "retention_bytes", "retention_records"])
    value = {
        "retention_ms": [SECOND_MS, 60_000, 3_600_000],
        "retention_bytes": [2000, 8000],
        "retention_records": [0, 3, 20],
    }
    return {kind: rng.choice([None, *value[kind]])}


class Topics:
    def __init__(self, program: Program) -> None:
        self._program = program

    @property
    def _log(self) -> streamlog.StreamLog:
        assert self._program.log is not None
        return self._program.log

    def pick(self, rng: random.Random, *, letters: bool = False) -> tuple[Any, TopicModel] | None:
        """A topic that is there, and that the model knows. `letters`: one of dead letters too, which only workers send to."""
        with self._program.looking():
            topics = [(topic, self._program.model.topics.get(topic.id)) for topic in self._log.topics()]
        if not topics and not self._program.model.doomed:
            self._create(rng, rng.choice(NAMES))
            return self.pick(rng, letters=letters)
        known = [(topic, model) for topic, model in topics if model is not None and (letters or not model.dead_letters)]
        return rng.choice(known) if known else None

    # -- what there is -------------------------------------------------------------------------------

    def create(self, rng: random.Random) -> None:
        name = rng.choice(NAMES)
        self._create(rng, name)

    def _create(self, rng: random.Random, name: str) -> None:
        model, partitions, settings = self._program.model, rng.choice([1, 1, 2, 3]), settings_of(rng)
        self._program.note(f"{name}, {partitions} partitions, {settings}")
        if name in self._log:
            self._program.allow(streamlog.TopicAlreadyExistsError)
        if model.doomed:
            model.coming.setdefault(name, []).append((partitions, settings))
        given = {key: value for key, value in settings.items() if value != DEFAULTS[key] or key == "segment_bytes"}
        topic = self._log.create_topic(
            name, partitions=partitions, min_cleanable_dirty_ratio=0.2, delete_retention_ms=5000, **given
        )
        if not model.doomed:
            model.created(topic.id, name, partitions, settings)

    @contextmanager
    def _unless_unknown(self, uncertain: Callable[[], None]) -> Iterator[None]:
        """A refused change is void, unless its error says that it could not be undone on the disk: then, if the process
        dies, the next open goes by what the disk holds."""
        try:
            yield
        except streamlog.StreamlogError as error:
            if "could not be undone" in str(error):
                uncertain()
            raise

    def delete(self, rng: random.Random) -> None:
        found = self.pick(rng, letters=True)
        if found is None:
            return
        topic, model = found
        self._program.note(topic.name)
        model.going = model.going or self._program.model.doomed
        with self._unless_unknown(lambda: setattr(model, "going", True)):
            topic.delete() if rng.random() < 0.5 else self._log.delete_topic(topic.name)
        if not self._program.model.doomed:
            self._program.model.gone(model.id)
        self._program.producers.trouble()

    def recreate(self, rng: random.Random) -> None:
        """The name is used again at once."""
        found = self.pick(rng)
        if found is not None:
            topic, model = found
            model.going = model.going or self._program.model.doomed
            self._program.note(topic.name)
            with self._unless_unknown(lambda: setattr(model, "going", True)):
                topic.delete()
            if not self._program.model.doomed:
                self._program.model.gone(model.id)
            self._program.producers.trouble()
            self._create(rng, topic.name)

    def grow(self, rng: random.Random) -> None:
        found = self.pick(rng, letters=True)
        if found is None or found[0].partitions >= 5:
            return
        topic, model = found
        total = topic.partitions + rng.choice([1, 2])
        self._program.note(f"{topic.name} to {total}")
        if self._program.model.doomed:
            model.most_partitions = max(model.most_partitions, total)
        with self._unless_unknown(lambda: setattr(model, "most_partitions", max(model.most_partitions, total))):
            topic.add_partitions(total)
        if not self._program.model.doomed:
            model.grown_to(total)

    def configure(self, rng: random.Random) -> None:
        found = self.pick(rng, letters=True)
        if found is None:
            return
        topic, model = found
        change = _retention(rng) if rng.random() < 0.6 else {"cleanup_policy": rng.choice(POLICIES)}
        if rng.random() < 0.2 and not model.dead_letters:
            change["segment_bytes"] = rng.choice([1024, 4096])
        self._program.note(f"{topic.name}: {change}")
        new = [{**settings, **change} for settings in model.settings]
        if self._program.model.doomed:
            model.settings = model.settings + new
        if "compact" in change.get("cleanup_policy", ""):  # what lingers may have no key
            self._program.producers.trouble()
        with self._unless_unknown(lambda: setattr(model, "settings", model.settings + new)):
            topic.update_config(**change)
        if not self._program.model.doomed:
            model.settings = new

    # -- what goes -----------------------------------------------------------------------------------

    def retain(self, rng: random.Random) -> None:
        found = self.pick(rng, letters=True)
        if found is not None:
            self._program.note(found[0].name)
            found[0].apply_retention()

    def compact(self, rng: random.Random) -> None:
        found = self.pick(rng)
        if found is None:
            return
        topic, model = found
        self._program.note(topic.name)
        if not all("compact" in policy for policy in model.any_setting("cleanup_policy")):
            self._program.allow(streamlog.ConfigError)
        self._program.checker.retained()
        topic.compact()

    def delete_records(self, rng: random.Random) -> None:
        found = self.pick(rng)
        if found is None:
            return
        topic, model = found
        number = rng.randrange(min(topic.partitions, len(model.partitions)))
        partition, info = model.partitions[number], topic.partition(number)
        before = rng.randint(info.log_start_offset, info.high_watermark)
        self._program.note(f"{topic.name}-{number} before {before}")
        partition.start_limit = max(partition.start_limit, before)
        topic.delete_records({number: before})
        if not self._program.model.doomed:
            partition.start = max(partition.start, before)
            partition.durable_start = max(partition.durable_start, before)

    # -- what is read --------------------------------------------------------------------------------

    def read_some(self, rng: random.Random) -> None:
        """From somewhere in the middle, or from a time on: the same records as in a read of everything."""
        found = self.pick(rng, letters=True)
        if found is None:
            return
        topic, _ = found
        number = rng.randrange(topic.partitions)
        info = topic.partition(number)
        start = rng.randint(info.log_start_offset, info.high_watermark)
        end = rng.randint(start, info.high_watermark)
        self._program.note(f"{topic.name}-{number}, {start} to {end}")
        whole = list(topic.read(number))
        some = list(topic.read(number, start=start, end=end))
        demand(
            some == [r for r in whole if start <= r.offset < end], f"reading {start} to {end} gave {some}, not {whole}"
        )
        columns = [record for batch in topic.read_batches(number, start=start, end=end) for record in batch]
        demand(columns == some, f"read_batches gave {columns}, and read {some}")
        at_ms = self._program.clock.time_ms() - rng.choice([0, 1000, 100_000])
        at = datetime.fromtimestamp(at_ms / 1000, UTC)
        first = next((n for n, record in enumerate(whole) if record.timestamp >= at_ms), len(whole))
        later = list(topic.read(number, start=at))
        demand(later == whole[first:], f"reading from {at} gave {later}, not {whole[first:]}")

    def bad_input(self, rng: random.Random) -> None:
        """A typed error, and nothing changes."""
        found = self.pick(rng)
        if found is None:
            return
        topic, _ = found
        end = topic.partition(0).high_watermark
        start = topic.partition(0).log_start_offset
        calls: list[tuple[type[StreamlogError], Any]] = [
            (streamlog.InvalidTopicError, lambda: self._log.create_topic("no/name")),
            (streamlog.UnknownTopicOrPartitionError, lambda: topic.send(b"", b"k", partition=99)),
            (streamlog.UnknownTopicOrPartitionError, lambda: self._log["absent"]),
            (streamlog.OffsetOutOfRangeError, lambda: topic.delete_records({0: end + 7})),
            (streamlog.OffsetOutOfRangeError, lambda: topic.read(0, start=end + 1)),
            (
                streamlog.OffsetOutOfRangeError,
                lambda: topic.read(0, start=start - 1) if start else topic.read(0, start=-1),
            ),
            (streamlog.ConfigError, lambda: topic.update_config(retention=7)),
            (streamlog.ConfigError, lambda: self._log.producer(linger=5)),
            (streamlog.RecordTooLargeError, lambda: topic.send(b"x" * 1_100_000, b"k")),
            (streamlog.InvalidTimestampError, lambda: topic.send(b"x", b"k", timestamp_ms=1 << 60)),
            (streamlog.ConfigError, lambda: topic.add_partitions(0)),
        ]
        expected, call = rng.choice(calls)
        self._program.note(expected.__name__)
        try:
            call()
        except expected:
            return
        raise Violation(f"{expected.__name__} was due")
