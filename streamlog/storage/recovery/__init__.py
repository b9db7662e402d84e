"""From the files of a partition back to a log, after a close or a crash.

- `recovery`: opening a partition; `rebuild`: what is derived, from the batches.
- `resync`: where the whole batches go on after damage; `power_loss`: what a failed sync or a power loss leaves.
"""
