"""The process that changes a log under its readers: appends, rolls, compactions, deletions, reopenings.

Every value says where it belongs and when it was sent. What only the owner knows is said to a journal: where each
life of the log begins, and at the end how the compacted topic stands.
"""

from __future__ import annotations

import json
import random
import signal
import time
from pathlib import Path
from typing import Any

import streamlog
from streamlog.broker.log_directory import LogDirectory

from .processes import Journal, value_of

TOPICS: dict[str, dict[str, Any]] = {
    "plain": {"partitions": 2, "segment_bytes": 2048, "retention_bytes": 1 << 15},
    "table": {"partitions": 1, "segment_bytes": 2048, "cleanup_policy": "compact"},
}
PASSING = "passing"
_KEYS = 20


def own(path: str, folder: str, seed: int, life: int) -> None:
    """Change the log at `path` until there is a file `stop`, then close it in good order; or be killed."""
    Owner(path, Path(folder), random.Random(f"{seed}.{life}"), life).run()


class Owner:
    """One process that owns the log. A life of the log is one opening of it; a process may have several."""

    def __init__(self, path: str, folder: Path, rng: random.Random, life: int) -> None:
        self.path = path
        self.folder = folder
        self.rng = rng
        self.life = life * 1000
        self.say = Journal(str(folder / f"owner-{life}"))
        self.open()

    def open(self) -> None:
        self.life += 1
        self.log = streamlog.open(self.path, sync=self.rng.random() < 0.1)
        self.ends: dict[tuple[str, int], int] = {}
        for name, settings in TOPICS.items():
            topic = self.log.create_topic(name, exist_ok=True, **settings)
            for partition in range(settings["partitions"]):
                self.ends[name, partition] = topic.partition(partition).high_watermark
                self.say("begins", self.life, f"{name}-{partition}", self.ends[name, partition])
        self.say("ready")

    def run(self) -> None:
        while not (self.folder / "stop").exists():
            for _ in range(self.rng.randrange(1, 8)):
                self.send()
            self.change()
            time.sleep(self.rng.choice([0.0, 0.001, 0.004]))
        for name, partition in self.ends:
            self.send(name, partition)
        state = {record.key.decode(): record.offset for record in self.log["table"].read()}
        ends = {f"{name}-{partition}": end for (name, partition), end in self.ends.items()}
        self.log.close()
        with open(self.folder / "final.new", "w") as file:
            json.dump({"table": state, "ends": ends}, file)
        (self.folder / "final.new").rename(self.folder / "final")

    def send(self, *to: Any) -> None:
        name, partition = to or self.rng.choice(list(self.ends))
        offset = self.ends[name, partition]
        head = f"{self.life}.{name}.{partition}.{offset}.{time.monotonic_ns()}"
        key = f"k{self.rng.randrange(_KEYS)}" if name == "table" else None
        sent = self.log[name].send(value_of(head, self.rng.randrange(200)), key, partition=partition).result()
        assert sent.offset == offset, f"{name}-{partition}: {sent.offset} after {offset - 1}"
        self.ends[name, partition] = offset + 1

    # -- changes -------------------------------------------------------------------------------------

    def change(self) -> None:
        """Do one thing to the files under the readers, and say what."""
        kinds = {
            self.apply_retention: 30,
            self.compact: 40,
            self.delete_records: 20,
            self.delete_or_create_topic: 8,
            self.reopen: 2,
        }
        kind = self.rng.choices(list(kinds), list(kinds.values()))[0]
        kind()
        self.say("change", kind.__name__)

    def apply_retention(self) -> None:
        self.log["plain"].apply_retention()

    def compact(self) -> None:
        self.log["table"].compact()

    def delete_records(self) -> None:
        partition = self.rng.randrange(TOPICS["plain"]["partitions"])
        info = self.log["plain"].partition(partition)
        if self.rng.random() < 0.3:
            before = self.rng.randrange(info.log_start_offset, info.high_watermark + 1)
        else:  # most of the time not far: readers that run behind are to be caught between two files
            before = min(info.high_watermark, info.log_start_offset + self.rng.randrange(20))
        self.log["plain"].delete_records({partition: before})

    def delete_or_create_topic(self) -> None:
        if PASSING in self.log:
            self.log.delete_topic(PASSING)
        else:
            topic = self.log.create_topic(PASSING, segment_bytes=1024)
            count = self.rng.randrange(1, 60)
            topic.send_many([value_of(f"{topic.id.hex}.{offset}.{count}", 40) for offset in range(count)])

    def reopen(self) -> None:
        self.log.close()
        self.open()


def open_for_ever(path: str) -> None:
    """Take the log, and be stuck before anything of it is brought back."""
    LogDirectory.open_metadata = lambda self: signal.pause()  # type: ignore[assignment]
    streamlog.open(path)


def delete_the_older_half(path: str) -> None:
    with streamlog.open(path) as log:
        end = log["t"].partition(0).high_watermark
        log["t"].delete_records({0: end // 2})
