"""A sender that waits for its record has the followers take it, on its own thread.

A record that is sent alone waits until every member of the in-sync set has it. Where the threads of the followers fetch it,
that takes four switches of threads, and each costs more than an append. So the sender, which would only wait, takes the turn
of each follower: it reads, appends, and notes at the leader what the follower has. Batches are left to the threads of the
followers, which work beside the sender.

- A follower has one turn, and the thread that has it is the only one that fetches for it. A sender does not wait for a turn that is taken. If
  the follower's own thread has it, that is called, and looks again before it sleeps. If another sender has it, that one looks
  at the end of the log again after it gave the turn back.
- Only the usual case is done here: the follower goes on where it read last, in the same leader epoch. The rest is left to the
  follower's thread: an election, a log that parts from the leader's, a batch that is damaged, a disk that fails or is slow. So
  no error of a follower reaches a sender. What a sender waits for is one write of the follower's: if that took long, the
  follower is left to its thread, until a fetch of that thread did not.
- With `sync=True` nothing is done here: each follower's thread syncs, side by side.
- A turn is taken under the mark of the thread (`inside`), and callbacks are called after it. Its place in the lock order is
  before the partitions' locks, of which one at a time is held.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from ..runtime.api import Gate
from ..runtime.threads import inside, was_released_meanwhile
from ..runtime.values import refuse_to_copy

LEFT, COVERED = -1, -2
"""Answers of `take`: the follower's own thread is to fetch; another sender has the turn, and looks again afterwards."""
# How often a sender looks for what others have appended meanwhile, before it leaves that to the followers' threads.
_LOOKS = 3


class Replica(Protocol):
    def follow_high_watermark(self, high_watermark: int) -> None: ...


class FollowerTurn(Protocol):
    """A follower of a leader, which calls it after an append: to have the follower's own thread fetch."""

    def __call__(self) -> None: ...

    def take(self, leader: object, leader_epoch: int) -> int:
        """Append what the leader has to the follower's log, if that is the usual case; the end of that log, LEFT or COVERED.

        Calls no callback. REQUIRES: `inside()`, and no lock.
        """

    @property
    def broker(self) -> tuple[int, int]:
        """The id and the epoch of the follower's broker."""

    @property
    def replica(self) -> Replica: ...
    def now_ms(self) -> int:
        """Real time."""


class Leader(Protocol):
    """What the turns need of a leader."""

    is_fenced: bool

    @property
    def followers(self) -> Mapping[int, FollowerTurn]: ...
    @property
    def high_watermark(self) -> int: ...
    @property
    def leader_epoch(self) -> int: ...
    @property
    def end_offset(self) -> int: ...
    def wake_followers(self) -> None: ...
    def note_followers(self, ends: Sequence[tuple[tuple[int, int], int]], leader_epoch: int, now_ms: int) -> None: ...
    def maybe_advance_high_watermark(self) -> None: ...


class FollowerTurns:
    """The followers of one leader, for the threads that wait for them. Thread-safe. It is a `Work`."""

    __reduce_ex__ = refuse_to_copy

    def __init__(self, leader: Leader) -> None:
        self._leader = leader

    def drive(self) -> bool:
        """Have the followers take what is in the leader's log; whether the high watermark has risen. See `Work`.

        Each of them has it on return, or its own thread was called, or another sender sees to it.
        """
        leader = self._leader
        before = leader.high_watermark
        try:
            for looks_left in range(_LOOKS - 1, -1, -1):
                if not self._look(leader, looks_left):
                    break
        except BaseException as error:  # an interrupt
            leader.wake_followers()
            if isinstance(error, RuntimeError) and leader.is_fenced and was_released_meanwhile(error):
                return False  # the next leader is waited for
            raise
        return leader.high_watermark > before

    def _look(self, leader: Leader, looks_left: int) -> bool:
        """Take the turns that are free; whether another look is due."""
        taken: list[tuple[FollowerTurn, int]] = []
        left: list[FollowerTurn] = []
        epoch = leader.leader_epoch
        with inside():
            self._take(leader, epoch, taken, left)
            if taken:
                ends = [(turn.broker, end) for turn, end in taken]
                leader.note_followers(ends, epoch, taken[0][0].now_ms())
        if taken:
            leader.maybe_advance_high_watermark()
            high_watermark = leader.high_watermark
            for turn, _ in taken:
                turn.replica.follow_high_watermark(high_watermark)
        # After the turns were given back: another sender that found them taken has appended before this.
        end_offset = leader.end_offset
        behind = [turn for turn, end in taken if end < end_offset]
        if not looks_left:
            left += behind
        for turn in left:
            turn()
        return bool(behind)

    @staticmethod
    def _take(
        leader: Leader, leader_epoch: int, taken: list[tuple[FollowerTurn, int]], left: list[FollowerTurn]
    ) -> None:
        """REQUIRES: `inside()`. The loop is in a function of its own: see `runtime/threads.py`."""
        for turn in list(leader.followers.values()):
            end = turn.take(leader, leader_epoch)
            if end >= 0:
                taken.append((turn, end))
            elif end == LEFT:
                left.append(turn)

    def on_turn(self, gate: Gate) -> None:
        """The threads of the followers, and other senders, have no turn to pass on."""

    def soon(self) -> None:
        self._leader.wake_followers()
