"""The sweeps of the tests, whole: every place, fault, byte or crash of which a run of the tests takes some.

    python -m tests.stress.sweeps

It runs the files that sample what they sweep, each case of it. What `pytest` takes for options may follow.
"""

from __future__ import annotations

import os
import sys

import pytest

from .processes import REPOSITORY

FILES = ("refused_changes", "joining_anywhere", "power_loss", "damage", "sending_together", "reentry")


def main() -> int:
    os.environ["STREAMLOG_SWEEPS"] = "whole"
    files = [str(REPOSITORY / "tests" / "behaviour" / f"test_{name}.py") for name in FILES]
    return int(pytest.main(["--timeout=1800", *files, *sys.argv[1:]]))


if __name__ == "__main__":
    sys.exit(main())
