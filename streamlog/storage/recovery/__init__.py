"""From the files of a partition back to a log, after a close or a crash.

- `recovery`: opening a partition; `rebuild`: what is derived, from the batches.
- `power_loss`: where the whole batches go on after damage; `resync`: what a failed sync or a power loss leaves.
"""
