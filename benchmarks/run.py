"""One run of the benchmarks: where its files go, how large its inputs are."""

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
    """The choices of the command line that workloads ask for."""

    directory: Path
    quick: bool = False

    def size(self, full: int, quick: int) -> int:
        """How many records: `full`, or `quick` for a short run."""
        return quick if self.quick else full

    @property
    def rounds(self) -> int:
        """How often each side is measured."""
        return 3 if self.quick else 7

    def fresh(self, name: str) -> Path:
        """A path of this run that does not exist yet."""
        return self.directory / f"{name}-{next(_numbers)}"

    @contextmanager
    def scratch(self, name: str) -> Iterator[Path]:
        """A directory that is gone with all it holds when the block ends."""
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
    """Refuse the figure unless the topic's only partition holds exactly `count` records."""
    expect(f"log end offset of {topic}", log[topic].partition(0).log_end_offset, count)
