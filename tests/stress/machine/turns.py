"""Threads that take turns: one runs at a time, and a seed decides which one is next.

A thread gives its turn away where it would wait (for a gate of the library, or for a thread to end), when it ends, and
where it is asked to (`Turns.pause`). Where everyone waits, the shortest wait is over: no time goes by. So a run with
several threads is the same whenever it is repeated, and ends at once where no thread would ever wake another.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

from streamlog.client import workers
from streamlog.runtime.threads import RawGate

from .model import Violation

_HANGS_S = 30.0
_MOST_TIMEOUTS = 5_000


@dataclass
class Player:
    """One thread: `turn` is released for it to go on, `may_go` says whether what it waits for has come."""

    turn: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    may_go: Callable[[], bool] = lambda: True
    timeout: float | None = None
    ended: bool = False


class Turns:
    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._players: list[Player] = []
        self._by_thread: dict[int, Player] = {}
        self._timeouts = 0
        self.failure: Violation | None = None

    @contextmanager
    def playing(self) -> Iterator[None]:
        """The calling thread, and those that are started until the block ends, take turns."""
        self._join(threading.get_ident())
        wait, start, join = RawGate.wait, threading.Thread.start, threading.Thread.join

        def gate_wait(gate: RawGate, timeout: float | None = None) -> bool:
            if threading.get_ident() not in self._by_thread:
                return wait(gate, timeout)
            return gate.is_open() or self._wait(gate.is_open, timeout)

        def thread_start(thread: threading.Thread) -> None:
            if threading.get_ident() in self._by_thread:
                self._take_in(thread)
            start(thread)

        def thread_join(thread: threading.Thread, timeout: float | None = None) -> None:
            if threading.get_ident() in self._by_thread and hasattr(thread, "player"):
                self._wait(lambda: thread.player.ended, timeout)
            join(thread, timeout)

        with (
            patch.object(RawGate, "wait", gate_wait),
            patch.object(workers, "start_thread", lambda thread: thread.start()),  # without a thread that has no turn
            patch.object(threading.Thread, "start", thread_start),
            patch.object(threading.Thread, "join", thread_join),
        ):
            yield

    def pause(self) -> None:
        """Let somebody else go on, maybe."""
        player = self._by_thread.get(threading.get_ident())
        if player is not None:
            player.may_go, player.timeout = lambda: True, None
            self._pass_on(player)

    # -- inside --------------------------------------------------------------------------------------

    def _join(self, ident: int) -> Player:
        player = Player()
        self._players.append(player)
        self._by_thread[ident] = player
        return player

    def _take_in(self, thread: Any) -> None:
        """Have a thread that is about to start wait for its first turn, and give the turn away when it ends."""
        player, run = Player(), thread.run
        self._players.append(player)
        thread.player = player

        def playing() -> None:
            self._by_thread[threading.get_ident()] = player
            self._await(player)
            try:
                run()
            finally:
                player.ended = True
                del self._by_thread[threading.get_ident()]
                self._next().turn.release()

        thread.run = playing

    def _wait(self, may_go: Callable[[], bool], timeout: float | None) -> bool:
        player = self._by_thread[threading.get_ident()]
        player.may_go, player.timeout = may_go, timeout
        self._pass_on(player)
        return may_go()

    def _pass_on(self, player: Player) -> None:
        chosen = self._next()
        if chosen is not player:
            chosen.turn.release()
            self._await(player)

    def _await(self, player: Player) -> None:
        if not player.turn.acquire(timeout=_HANGS_S):
            self._fail("a thread that had the turn waits for something that is nobody's turn")

    def _next(self) -> Player:
        players = [player for player in self._players if not player.ended]
        ready = [player for player in players if player.may_go()]
        if ready:
            return self._rng.choice(ready)
        waiting = [player for player in players if player.timeout is not None]
        self._timeouts += 1
        if not waiting or self._timeouts > _MOST_TIMEOUTS:
            self._fail("every thread waits, and none can wake them")
        return min(waiting, key=lambda player: player.timeout or 0.0)

    def _fail(self, message: str) -> None:
        self.failure = self.failure or Violation(message)
        raise self.failure
