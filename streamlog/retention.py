"""Retention policies: `MaxAge`, `MaxBytes`, `MaxRecords`, joined by `|` and `&`, or one of your own."""

from .storage.retention import All, Any, MaxAge, MaxBytes, MaxRecords
from .types import Policy

__all__ = ["All", "Any", "MaxAge", "MaxBytes", "MaxRecords", "Policy"]
