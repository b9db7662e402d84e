"""Opens a log over and over, waiting up to 2 s for it, and holds it for 25 ms: how many opens were refused."""

import json
import sys
import time

import streamlog

LOCK_TIMEOUT_SECONDS = 2.0
HELD_SECONDS = 0.025


def main(path: str, times: int) -> None:
    """Print the number of refused opens and the longest wait in seconds."""
    refused, longest = 0, 0.0
    for _ in range(times):
        started = time.perf_counter()
        try:
            with streamlog.open(path, lock_timeout=LOCK_TIMEOUT_SECONDS):
                longest = max(longest, time.perf_counter() - started)
                time.sleep(HELD_SECONDS)
        except streamlog.LogLockedError:
            refused += 1
            longest = max(longest, time.perf_counter() - started)
    print(json.dumps({"refused": refused, "longest": longest}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
