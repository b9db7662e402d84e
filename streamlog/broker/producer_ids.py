"""Producer ids: each is given out once, for as long as the log exists.

They are allocated in blocks (KIP-730): one record of the metadata log, which is on the device before the first id of its block
is used. The rest of a block is lost when the log is closed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from ..runtime.api import Lock
from ..runtime.threads import inside
from ..runtime.values import refuse_to_copy

BLOCK = 1000


class ProducerIdManager:
    """Gives out producer ids. Thread-safe; the lock is a leaf.

    `allocate` gives a block of so many ids, durably; it raises what a change of the metadata raises.
    """

    __reduce_ex__ = refuse_to_copy

    def __init__(self, allocate: Callable[[int], range], lock: Lock) -> None:
        self._allocate = allocate
        self._lock = lock
        self._block: Iterator[int] = iter(())

    def next_id(self) -> int:
        """An id that was never given out. Cost: one sync in `BLOCK` calls."""
        while True:
            # An iterator that several threads share gives each number once only if the interpreter has its lock.
            with inside(), self._lock:
                producer_id = next(self._block, None)
            if producer_id is not None:
                return producer_id
            self._block = iter(self._allocate(BLOCK))  # two threads at once may waste a block
