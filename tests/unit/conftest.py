"""What a unit test puts in the place of a file call, a function of its own often, counts as the disk."""

from __future__ import annotations

import pytest

from streamlog.runtime import disk_errors


@pytest.fixture(autouse=True)
def file_calls_of_the_test_are_the_disks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk_errors, "disk_modules", {*disk_errors.disk_modules, request.module.__name__})
