"""Verification of a partition directory, for `streamlog.verify` and for the tests. It changes nothing on disk.

- `check`: all files of a partition directory, every checksum and every invariant.
- `batch_check`: one batch whose checksums are right: do its columns decode and agree with its header?
- `compare`: the replicas of a partition, with each other.
- `findings`: the request, the findings, and the result of a check.
"""
