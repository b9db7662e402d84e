"""What forbids appending to a log, in the order in which it is reported.

- poison: a sync failed (`Durability.poison`). Only opening the log anew ends it.
- a block: the broker refuses appends for a reason of its own, until it takes the block back (`block`, `unblock`).
- another broker leads the partition (`not_leader`): what it has appended is appended here as it is.
- something unfinished: the disk was too full to truncate the torn end at opening, or a truncation failed half-way
  (`unfinished`). The next append retries it.
- damage: the end of the log is damaged, so the next offset is not known (`damage`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from ..errors import NotLeaderError, StreamlogError
from .durability import Durability


class Unfinished(NamedTuple):
    """What opening or a truncation could not do: why, and the call that does it, which raises if it still cannot."""

    error: StreamlogError
    finish: Callable[[], None]


class Refusals:
    """See the module. `current` is what an append raises, but for poison. REQUIRES: the partition's lock for every change."""

    def __init__(
        self, durability: Durability, damage: StreamlogError | None = None, unfinished: Unfinished | None = None
    ) -> None:
        self.damage = damage
        self.unfinished = unfinished
        self.not_leader: NotLeaderError | None = None
        self.current = damage if unfinished is None else unfinished.error
        self._blocks: list[StreamlogError] = []
        self._durability = durability

    @property
    def first(self) -> StreamlogError | None:
        """What an append raises, or None. Something unfinished counts, though the append may finish it."""
        return self._durability.poison or self.current

    @property
    def knows_end(self) -> bool:
        """Whether the offset of the next record is known, though the files may still have to be truncated there."""
        return self.damage is None and self._durability.poison is None

    @property
    def has_sound_end(self) -> bool:
        """Whether the log ends with a batch that verifies, also on the disk."""
        return self.damage is None and self.unfinished is None

    def block(self, error: StreamlogError) -> None:
        """Refuse appends with `error` until `unblock`."""
        self._blocks.append(error)
        self._update()

    def unblock(self, error: StreamlogError) -> None:
        """Take back a `block` with this error; others may be left."""
        if error in self._blocks:
            self._blocks.remove(error)
            self._update()

    def set_not_leader(self, error: NotLeaderError | None) -> None:
        """Refuse appends with `error`, because another broker leads the partition; None if this one does."""
        self.not_leader = error
        self._update()

    def _update(self) -> None:
        own = self.damage if self.unfinished is None else self.unfinished.error
        self.current = self._blocks[-1] if self._blocks else self.not_leader or own

    def require_end(self) -> None:
        """Finish what is unfinished; raise if that cannot be done, or the end of the log is not known."""
        self._durability.refuse_if_poisoned()
        if self.unfinished is not None:
            self.finish()
        elif self.damage is not None:
            raise self.damage.copy()

    def require_append(self) -> None:
        """Finish what is unfinished, if that is all that forbids appending; else raise what forbids it. REQUIRES: something does."""
        refusal = self.first
        assert refusal is not None
        if self.unfinished is None or refusal is not self.unfinished.error:
            raise refusal.copy()
        self.finish()

    def start(self, unfinished: Unfinished) -> None:
        """Do this; until it is done, by this call or else by the next append, it forbids appending. Damage is truncated by it."""
        self.damage, self.unfinished = None, unfinished
        self._update()
        self.finish()

    def finish(self) -> None:
        """REQUIRES: something is unfinished. Raises what it raises."""
        assert self.unfinished is not None
        self.unfinished.finish()
        # In one statement: an interrupt comes between two calls.
        self.unfinished, self.current = None, self._blocks[-1] if self._blocks else self.not_leader or self.damage
