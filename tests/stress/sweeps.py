"""The sweeps of the tests, whole: every place, fault, byte or crash of which a run of the tests takes some.

    python -m tests.stress.sweeps

It runs the files that sample what they sweep, each case of it. What `pytest` takes for options may follow.
"""

from __future__ import annotations

import os
import sys

import pytest

from tests.sampling import SWEEPS, WHOLE

from .processes import REPOSITORY

FILES = (
    "commits_past_the_end",
    "damage",
    "failing_calls",
    "joining_at_every_place",
    "missing_brokers",
    "power_loss",
    "power_loss_of_brokers",
    "power_loss_of_transactions",
    "reentry",
    "refused_changes",
    "repair_from_replicas",
    "sending_together",
    "verifying_replicas",
)


def main() -> int:
    os.environ[SWEEPS] = WHOLE
    files = [str(REPOSITORY / "tests" / "behaviour" / f"test_{name}.py") for name in FILES]
    return int(pytest.main(["--timeout=1800", *files, *sys.argv[1:]]))


if __name__ == "__main__":
    sys.exit(main())
