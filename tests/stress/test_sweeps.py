"""`python -m tests.stress.sweeps` runs whole every sweep of which a run of the tests takes some cases."""

from __future__ import annotations

import re

from .processes import REPOSITORY
from .sweeps import FILES

BEHAVIOUR = REPOSITORY / "tests" / "behaviour"


def test_the_sweeps_are_all_the_files_that_sample_their_cases() -> None:
    samples = {path for path in BEHAVIOUR.glob("test_*.py") if re.search(r"\b(sampled|takes_all)\(", path.read_text())}
    assert {BEHAVIOUR / f"test_{name}.py" for name in FILES} == samples
