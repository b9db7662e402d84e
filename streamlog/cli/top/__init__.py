"""`streamlog top`: what a log's topics and groups do now, in a terminal, refreshed.

- `command`: the command, its options, and the loop: gather, sample, show, wait for a key or the next time.
- `source`: from a log that is open read-only to a `Sample`: offsets, committed offsets, brokers, who writes.
- `sampler`: from samples to a `Frame`: rates, histories, lag, when a group catches up. Without I/O and clocks.
- `screen`: from a frame to what is printed, at a width and a height, or as JSON. Without a terminal.

The terminal's keys are in `runtime/keyboard.py`.
"""
