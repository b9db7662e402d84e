"""Opening a partition again, after a close or a crash.

- `recovery`: `open_log`, from the files of a partition directory back to a log.
- `power_loss`: where a log ends after a crash of the machine, and its truncation.
- `resync`: writing the files again after a failed sync.
- `rebuild`: `SegmentWriter`, which `streamlog.repair` uses to write a new directory from intact batches.
"""
