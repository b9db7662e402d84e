"""The steps of a seed of `cluster`: which there are, how often each is chosen, and what a run has to have met."""

from __future__ import annotations

import random
from typing import NamedTuple

STEPS = 500

WEIGHTS = {
    "send": 16, "send_many": 8, "open_producer": 3, "flush": 3, "close_producer": 1,
    "join": 4, "poll": 14, "commit": 4, "leave": 2, "reader": 3, "read_on": 8, "read_all": 1,
    "threads": 12, "elapse": 8, "jump": 2,
    "create": 2, "delete": 1, "delete_records": 2, "retain": 2, "compact": 2, "grow": 1,
    "elect": 4, "reassign": 3, "cancel": 1, "throttle": 2, "add": 1, "retire": 1,
    "stop": 4, "start": 8, "hold": 4, "eio": 2, "full": 2, "heal": 4, "lose": 1, "rot": 5, "copy": 1, "put_back": 3, "exchange": 2,
    "sync": 2, "reopen": 1, "kill": 1, "power": 1,
}  # fmt: skip
MUST_FIRE = (
    "acknowledged, acks=1", "acknowledged, acks=all", "read", "handed out", "committed",
    "broker stopped", "broker started", "follower held", "directory removed", "directory emptied", "directory rebuilt",
    "disk failed", "disk full", "broker failed", "clock jumped", "killed", "killed in a call", "power lost",
    "power lost in a call", "leader elected", "reassigned", "records deleted", "topic deleted", "meanwhile",
    "byte of a sealed segment flipped", "byte of an active segment flipped", "byte of the metadata flipped",
    "flipped byte repaired", "older directory put back", "directories exchanged", "broker added", "broker retired",
    "copying throttled", "unclean election", "calls that may not fail, of a cluster with a fault",
)  # fmt: skip
"""What a run of some hundred seeds must have met, or it tests less than it says."""


class Step(NamedTuple):
    number: int
    kind: str
    crashes_after: int
    """After so many calls to a disk the process dies; -1: it does not."""
    power: bool
    """It dies because the power fails."""

    def __str__(self) -> str:
        how = (
            ""
            if self.crashes_after < 0
            else f", and {'the power fails' if self.power else 'a kill'} at call {self.crashes_after}"
        )
        return f"{self.number}: {self.kind}{how}"


def generate(seed: int, steps: int = STEPS) -> list[Step]:
    """The steps of a seed. Some seeds have no crash within a call, some none at all, some no fault of a disk."""
    rng = random.Random(f"cluster {seed}")
    weights = dict(WEIGHTS)
    rate = rng.choice([0.0, 0.0, 0.01, 0.03])
    if rng.random() < 0.3:
        weights |= {"kill": 0, "power": 0}
        rate = 0.0
    if rng.random() < 0.3:
        weights |= {"eio": 0, "full": 0, "lose": 0, "rot": 0, "put_back": 0, "exchange": 0}
    if rng.random() < 0.3:
        weights |= {kind: 4 * weights[kind] for kind in ("elect", "stop", "hold", "start")}
    if rng.random() < 0.3:
        weights |= {kind: 4 * weights[kind] for kind in ("reassign", "cancel", "throttle", "add", "retire")}
    kinds = rng.choices(list(weights), list(weights.values()), k=steps)
    kinds[:3] = ["create", "open_producer", "join"]
    return [
        Step(n, kind, rng.randrange(1, 80) if rng.random() < rate else -1, rng.random() < 0.4)
        for n, kind in enumerate(kinds)
    ]
