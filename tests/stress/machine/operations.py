"""What a seed is made of: operations, the faults that they meet, the crashes that end them."""

from __future__ import annotations

import random
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from errno import EIO, ENOSPC

STEPS = 100
WEIGHTS = {
    "topics.create": 5, "topics.delete": 3, "topics.recreate": 2, "topics.grow": 2, "topics.configure": 4,
    "topics.retain": 3, "topics.compact": 5, "topics.delete_records": 4, "topics.read_some": 3, "topics.bad_input": 2,
    "producers.send": 12, "producers.send_many": 8, "producers.open": 4, "producers.flush": 4, "producers.close": 2,
    "producers.send_alone": 8,
    "members.join": 8, "members.poll": 18, "members.loop": 7, "members.commit": 6, "members.seek": 2,
    "members.pause": 2, "members.subscribe": 2, "members.leave": 5, "members.assign": 2, "members.detonate": 3,
    "members.reset": 3, "members.delete_group": 1,
    "workers.run": 5,
    "clock.advance": 8, "clock.jump": 2,
    "followers.look": 4, "followers.close": 1,
    "offline.verify": 2, "offline.repair": 1, "offline.damage": 1,
    "log.reopen": 4, "log.sync": 3, "log.switch_sync": 1,
}  # fmt: skip
FAULTS = [
    ("sync", EIO), ("sync", EIO), ("sync_dir", EIO), ("pwrite", ENOSPC), ("pwrite", ENOSPC), ("pwrite", EIO),
    ("create", ENOSPC), ("rename", EIO), ("unlink", EIO), ("truncate", EIO), ("pread", EIO), ("map_read", EIO),
    ("write", ENOSPC), ("any", EIO), ("capacity", ENOSPC),
]  # fmt: skip
PLACES = ["any", "any", "topics", "topics", "offsets", "metadata", "owner"]
CRASHES = ["kill", "kill", "kill", "kill-half", "strict", "strict", "lax", "0", "1", "harsh-0"]


@dataclass(frozen=True)
class FaultPlan:
    """Which calls to the disk fail: the `nth` of a kind on a kind of file, `times` times, for `lasting` operations."""

    op: str
    errno: int
    place: str
    nth: int
    times: int | None
    short: int
    lasting: int

    def __str__(self) -> str:
        name = {EIO: "EIO", ENOSPC: "ENOSPC"}[self.errno]
        return f"{name} at {self.op} {self.nth} of {self.place}, {self.times or 'all'} times, for {self.lasting} operations"


@dataclass(frozen=True)
class CrashPlan:
    """How the process ends: what is left, and after which part of the operation's changes to the disk."""

    left: str
    after: float

    def __str__(self) -> str:
        return f"{self.left} after {self.after:.0%}"


@dataclass(frozen=True)
class Operation:
    """One thing that is done; `source` seeds its choices."""

    number: int
    kind: str
    source: str
    fault: FaultPlan | None = None
    crash: CrashPlan | None = None

    def rng(self) -> random.Random:
        return random.Random(self.source)

    def __str__(self) -> str:
        fault = f" [{self.fault}]" if self.fault else ""
        crash = f" [{self.crash}]" if self.crash else ""
        return f"{self.number}: {self.kind}{fault}{crash}"


def generate(seed: int, steps: int = STEPS, without: Collection[str] = ()) -> list[Operation]:
    """The operations of a seed.

    `without` leaves out kinds ("members.seek"), areas ("members"), "faults" or those of a kind, errno or place, "crashes"
    or "power" losses alone, groups by their names.
    """
    rng = random.Random(f"machine {seed}")
    faults, crashes = rng.choice([(0.0, 0.0), (0.0, 0.06), (0.08, 0.0), (0.08, 0.06), (0.2, 0.1)])
    kinds = rng.choices(list(WEIGHTS), list(WEIGHTS.values()), k=steps)
    kinds[:4] = ["topics.create", "topics.create", "members.join", "producers.open"]
    made = []
    for number, kind in enumerate(kinds):
        fault = _fault(rng) if rng.random() < faults else None
        crash = CrashPlan(rng.choice(CRASHES), rng.random()) if rng.random() < crashes else None
        if kind in without or kind.partition(".")[0] in without:
            continue
        if fault is not None and not {"faults", _name(fault), fault.op, fault.place}.isdisjoint(without):
            fault = None
        if "crashes" in without or (crash is not None and "power" in without and "kill" not in crash.left):
            crash = None
        made.append(Operation(number, kind, f"{seed}/{number}", fault, crash))
    return made


def _name(fault: FaultPlan) -> str:
    return "EIO" if fault.errno == EIO else "ENOSPC"


def _fault(rng: random.Random) -> FaultPlan:
    op, errno = rng.choice(FAULTS)
    place = rng.choice(PLACES)
    short = rng.choice([0, 0, 0, 30, 200])
    return FaultPlan(
        op,
        errno,
        place,
        rng.choice([1, 1, 1, 2, 3, 5, 9, 20]),
        rng.choice([1, 1, 1, 3, None]),
        short
        if place in ("topics", "offsets", "metadata")
        else 0,  # the owner file is one sector, written whole or not at all
        rng.choice([1, 1, 1, 2, 4]),
    )


def parse_numbers(text: str) -> set[int]:
    """The numbers in "3,8-11"."""
    numbers: set[int] = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        numbers.update(range(int(first), int(last or first) + 1))
    return numbers


def format_numbers(numbers: Iterable[int]) -> str:
    """As `parse_numbers` reads them."""
    parts: list[list[int]] = []
    for number in sorted(numbers):
        if parts and parts[-1][1] == number - 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in parts)
