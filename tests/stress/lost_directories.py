"""Between two lives of a process that has several brokers: the directory of one of them is removed, emptied, or taken away and brought back."""

from __future__ import annotations

import random
import shutil
from collections.abc import Sequence
from pathlib import Path


class LostDirectories:
    """`lost` is the directory that is not as its broker left it; None once all brokers have started.

    A process says "level" when every replica is in sync, and "hurts" when it is about to stop a broker: any one of the directories may
    be lost where it has said "level" last. `is_away`: the process must not make a new one.
    """

    def __init__(self, path: Path, away: Path, brokers: int, rng: random.Random) -> None:
        shutil.rmtree(away, ignore_errors=True)  # that of a log before this one
        self._path = path
        self._away = away
        self._brokers = brokers
        self._rng = rng
        self._is_level = False
        self.is_away = False
        self.lost: Path | None = None

    def note(self, said: Sequence[Sequence[str]]) -> None:
        """Take in what a process has said."""
        levels = [line[0] == "level" for line in said if line[0] in ("level", "hurts")]
        self._is_level = bool(levels) and levels[-1]
        if levels:  # all brokers have started
            self.lost = None

    def bring_back(self) -> None:
        if self.is_away and self.lost is not None:
            self._away.rename(self.lost)
            self.is_away, self.lost = False, None

    def lose_one(self) -> bool:
        """Bring back what is away, then lose one if that may be, now and then; whether it did."""
        self.bring_back()
        if not self._is_level or self._rng.random() < 0.2:
            return False
        self.lost = self._path / f"broker-{self._rng.randrange(self._brokers)}"
        how = self._rng.choice(("remove", "empty", "take away"))
        self.is_away = how == "take away"
        if self.is_away:
            self.lost.rename(self._away)
        else:
            shutil.rmtree(self.lost)
        if how == "empty":
            self.lost.mkdir()
        self._is_level = False
        return True
