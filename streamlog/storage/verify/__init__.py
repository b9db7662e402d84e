"""Every invariant of a partition's files, for `verify` and for the tests.

- `check`: a partition directory; `batch_check`: one batch; `findings`: what was found.
"""
