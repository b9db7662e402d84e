"""What may be copied, and what may not."""

from __future__ import annotations

from typing import Any, NoReturn, SupportsIndex


def refuse_to_copy(self: Any, protocol: SupportsIndex) -> NoReturn:
    """As `__reduce_ex__`: neither copy, deepcopy nor pickle makes a second owner of a descriptor, a lock or a thread.

    It is asked before anything is made. A half-made copy would let go of what the original holds when it is collected.
    """
    raise TypeError(
        f"a {type(self).__name__} owns a lock, a thread or an open file, so it cannot be copied or pickled; copy records, and "
        f"what result() gives"
    )
