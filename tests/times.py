"""The time at which the clocks of the tests start, and the bounds of the tests' waits."""

from __future__ import annotations

START_MS = 1_700_000_000_000  # in November 2023

# A wait of a test ends as soon as what it waits for has happened. These bounds only end a test that would wait for ever:
LONG = 60.0  # for a wait in another thread or process
FOREVER = 3600.0  # for a wait in the test's own thread, which the timeout of pytest ends before
