"""Times as callers give them."""

from __future__ import annotations

from datetime import datetime
from typing import Any


def to_ms(at: Any) -> int:
    """Milliseconds since the epoch from an int or an aware datetime. Raises ValueError for a naive one."""
    if isinstance(at, datetime):
        if at.tzinfo is None or at.utcoffset() is None:
            raise ValueError(
                f"{at!r} has no time zone, so it names no moment; pass an aware datetime, such as "
                f"datetime(..., tzinfo=datetime.UTC)."
            )
        whole = at.replace(microsecond=0)
        # Rounded up: a record at or after a moment is at or after the next whole millisecond.
        return round(whole.timestamp()) * 1000 + -(-at.microsecond // 1000)
    if isinstance(at, bool) or not isinstance(at, int):
        raise ValueError(f"{at!r} is no time: pass an int of milliseconds since the epoch, or an aware datetime.")
    return at
