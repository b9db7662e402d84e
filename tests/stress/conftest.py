"""What is stressed lies on a real file system, where the other tests may lie in memory."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def tmp_path(request: pytest.FixtureRequest) -> Iterator[Path]:
    """A directory that stays when the test fails."""
    failed = request.session.testsfailed
    folder = Path(tempfile.mkdtemp(prefix="streamlog-stress-"))
    yield folder
    if request.session.testsfailed == failed:
        shutil.rmtree(folder)
