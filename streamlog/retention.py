"""Retention policies: `MaxAge`, `MaxBytes`, `MaxRecords`, combined with `|` and `&`, and the base class of your own.

A policy of your own has a `name` and `expired(segments, now_ms)`, which returns how many of the oldest sealed segments
may be deleted. If it inherits from `Policy`, it can be combined too. The implementation is `storage/retention.py`.

>>> (MaxAge(60_000) | MaxBytes(1 << 30)).name
'(max_age(60000) | max_bytes(1073741824))'
"""

from .storage.retention import AllOf, AnyOf, MaxAge, MaxBytes, MaxRecords
from .storage.retention import Combinable as Policy

__all__ = ["AllOf", "AnyOf", "MaxAge", "MaxBytes", "MaxRecords", "Policy"]
