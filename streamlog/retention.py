"""Retention policies: `MaxAge`, `MaxBytes`, `MaxRecords`, joined by `|` and `&`, or one of your own.

One of your own has a `name` and `expired(segments, now_ms)`; deriving it from `Policy` gives it `|` and `&`.
"""

from .storage.retention import All, Any, MaxAge, MaxBytes, MaxRecords
from .storage.retention import Joinable as Policy

__all__ = ["All", "Any", "MaxAge", "MaxBytes", "MaxRecords", "Policy"]
