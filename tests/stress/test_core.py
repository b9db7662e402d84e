"""The core in C under sanitizers, some hundred rounds; `python -m tests.stress.core` does it for longer."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest

from streamlog.records.core import core

from . import core as stress

pytestmark = pytest.mark.slow


def test_random_and_harmful_batches_break_nothing_in_the_core(rng: random.Random) -> None:
    try:
        printed = stress.run(400, rng.randrange(2**32))
    except stress.Missing as missing:
        pytest.skip(str(missing))
    records = re.fullmatch(r"(\d+) records\n", printed)
    assert records is not None and int(records[1]) > 4000


def test_the_sanitizers_see_a_read_past_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The core without one of its checks: the process ends."""
    source = (stress.PACKAGE / "_core.c").read_text()
    check = "    if (left - opening < length)\n        return -1;\n"
    assert check in source
    package = tmp_path / "streamlog"
    package.mkdir()
    (package / "_core.c").write_text(source.replace(check, ""))
    for path in stress.PACKAGE.iterdir():
        if path.suffix != ".so" and path.name not in ("_core.c", "__pycache__"):
            (package / path.name).symlink_to(path)
    monkeypatch.setattr(stress, "PACKAGE", package)
    try:
        with pytest.raises(AssertionError, match="AddressSanitizer"):
            stress.run(2000, 1)
    except stress.Missing as missing:
        pytest.skip(str(missing))


@pytest.mark.skipif(core is None, reason="the core in C was not built, or STREAMLOG_PURE=1 leaves it out")
def test_no_operation_of_the_core_leaves_anything_behind() -> None:
    assert stress.leaks(4000) == []
