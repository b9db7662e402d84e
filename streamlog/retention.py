"""Retention policies: `MaxAge`, `MaxBytes`, `MaxRecords`, joined by `|` and `&`, or one of your own.

One of your own has a `name` and `expired(segments, now_ms)`; deriving it from `Policy` gives it `|` and `&`.
"""

from .storage.retention import AllOf, AnyOf, MaxAge, MaxBytes, MaxRecords
from .storage.retention import Combinable as Policy

__all__ = ["AllOf", "AnyOf", "MaxAge", "MaxBytes", "MaxRecords", "Policy"]
