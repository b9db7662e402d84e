"""Retention policies: `MaxAge`, `MaxBytes`, `MaxRecords`, combined with `|` and `&`, and `Policy`, the base class of your own.

A topic takes one as `retention=`, beside its limits `retention_ms`, `retention_bytes` and `retention_records`: each of
these may delete what the others would keep. The implementation is `storage/retention.py`.

>>> import streamlog
>>> from datetime import timedelta
>>> week_but_1000 = MaxAge(timedelta(days=7)) & MaxRecords(1000)  # a week, and at least 1000 records
>>> with streamlog.open() as log:
...     log.create_topic("audit", retention=week_but_1000).config["retention"]
'(max_age(604800000) & max_records(1000))'
"""

from .storage.retention import AllOf, AnyOf, MaxAge, MaxBytes, MaxRecords
from .storage.retention import Combinable as Policy

__all__ = ["AllOf", "AnyOf", "MaxAge", "MaxBytes", "MaxRecords", "Policy"]
