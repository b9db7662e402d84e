"""One run of the benchmarks: the directory of its files and the sizes of its inputs."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import streamlog
from benchmarks.measure import expect

_numbers = count()


@dataclass(frozen=True)
class Run:
    """The options of the command line that workloads use."""

    directory: Path
    quick: bool = False

    def size(self, full: int, quick: int) -> int:
        """How many records: `full`, or `quick` for a short run."""
        return quick if self.quick else full

    @property
    def rounds(self) -> int:
        """How often each side is timed."""
        return 3 if self.quick else 7

    def fresh(self, name: str) -> Path:
        """A path of this run that does not exist yet."""
        return self.directory / f"{name}-{next(_numbers)}"

    @contextmanager
    def scratch(self, name: str) -> Iterator[Path]:
        """A directory that is deleted when the block ends."""
        path = self.fresh(name)
        path.mkdir()
        try:
            yield path
        finally:
            shutil.rmtree(path)

    @contextmanager
    def log(self) -> Iterator[streamlog.StreamLog]:
        """An empty log with the library's defaults, deleted when the block ends."""
        with self.scratch("log") as path, streamlog.open(path / "data") as log:
            yield log


@contextmanager
def fresh_topic(log: streamlog.StreamLog, **config: Any) -> Iterator[str]:
    """The name of a new topic of one partition, deleted with its files when the block ends."""
    name = f"records-{next(_numbers)}"
    log.create_topic(name, partitions=1, **config)
    try:
        yield name
    finally:
        log.delete_topic(name)


def expect_records(log: streamlog.StreamLog, topic: str, count: int) -> None:
    """Raise MeasurementError unless the topic's only partition has exactly `count` records."""
    expect(f"log end offset of {topic}", log[topic].partition(0).log_end_offset, count)
