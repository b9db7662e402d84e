"""What works on a directory as it lies: verify, repair, and damage done to a copy."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import streamlog
from streamlog.testing import SimulatedDisk

from .model import PATH, demand

if TYPE_CHECKING:
    from .program import Program

INTO = "/repaired"


class Offline:
    def __init__(self, program: Program) -> None:
        self._program = program

    def verify(self, rng: random.Random) -> None:
        """Nothing was damaged, whatever the disk refused and however often the machine went down."""
        report = streamlog.verify(PATH, disk=self._program.disk)
        demand(report.ok, f"verify: {report}")

    def repair(self, rng: random.Random) -> None:
        """A copy of the machine is repaired: all that is there is in the new log.

        A topic whose deletion was refused and could not be undone on the disk may be in it or not: the log reads it, and
        the files may say that it is gone.
        """
        copy = self._program.disk.kill()
        report = streamlog.repair(PATH, INTO, disk=copy)
        demand(report.ok, f"repair: {report}")
        with self._program.looking():
            expected = self._records(self._program.log_open())
        with streamlog.open(INTO, disk=copy, clock=self._program.clock) as log:
            found = self._records(log)
        going = {topic.name for topic in self._program.model.topics.values() if topic.going}
        expected = {place: records for place, records in expected.items() if place in found or place[0] not in going}
        demand(set(found) >= set(expected), f"repair kept {list(found)} of {list(expected)}")
        if not self._program.hurt:
            for place, records in expected.items():  # what is written and not synced yet may be there too
                kept = found[place]
                demand(kept[: len(records)] == records, f"repair of {place} kept {kept}, not {records}")

    def damage(self, rng: random.Random) -> None:
        """One byte of a copy that was closed is changed: verify says so."""
        copy = self._program.disk.kill()
        with streamlog.open(PATH, disk=copy, clock=self._program.clock) as log:
            starts = {
                f"{topic.id.hex}-{number}": topic.partition(number).log_start_offset
                for topic in log.topics() for number in range(topic.partitions)
            }  # fmt: skip
        files = [
            path for path in _files(copy, PATH) if path.endswith(".log") and copy.read(path) and _counts(path, starts)
        ]
        if not files:
            return
        path = rng.choice(files)
        data = copy.read(path)
        at = rng.randrange(len(data))
        file = copy.open(path)
        file.pwrite([bytes([data[at] ^ (1 << rng.randrange(8))])], at)
        file.close()
        self._program.note(f"byte {at} of {path}")
        demand(not streamlog.verify(PATH, disk=copy).ok, f"verify does not see that byte {at} of {path} was changed")

    @staticmethod
    def _records(log: streamlog.StreamLog) -> dict[tuple[str, int], list[tuple[object, ...]]]:
        return {
            (topic.name, number): [tuple(record) for record in topic.read(number)]
            for topic in log.topics() for number in range(topic.partitions)
        }  # fmt: skip


def _counts(path: str, starts: dict[str, int]) -> bool:
    """Whether all of a segment is at or past the log start; what is before may be anything."""
    *_, directory, name = path.split("/")
    return int(name.partition(".")[0]) >= starts.get(directory, 0)


def _files(disk: SimulatedDisk, directory: str) -> list[str]:
    found: list[str] = []
    for name in disk.listdir(directory):
        path = f"{directory}/{name}"
        found += _files(disk, path) if disk.is_dir(path) else [path]
    return found
