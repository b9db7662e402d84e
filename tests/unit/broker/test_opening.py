"""What a path names, and which engine it is opened with."""

from __future__ import annotations

from typing import Any

import pytest

import streamlog
from streamlog import ConfigError
from streamlog.broker import opening
from streamlog.testing import SimulatedDisk


@pytest.mark.parametrize("url", ["kafka://localhost:9092", "KAFKA://h", "s3+http://bucket/key"])
def test_a_url_of_an_unknown_scheme_is_refused_with_what_is_supported(url: str) -> None:
    disk = SimulatedDisk()
    with pytest.raises(ConfigError, match=r"Supported: the path of a directory, without a scheme\.") as caught:
        streamlog.open(url, disk=disk)
    assert caught.value.name == "path"
    assert not disk.exists("/kafka:")


@pytest.mark.parametrize("path", ["./kafka://h", "a/kafka://h", "1://h", "c:/data"])
def test_a_path_without_a_scheme_is_a_directory(path: str) -> None:
    with streamlog.open(path, disk=SimulatedDisk()) as log:
        assert log.create_topic("t").send("x").result().offset == 0


def test_a_scheme_of_its_own_is_opened_by_its_opener(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def locate(path: str | None, options: Any) -> opening.Location:
        seen.append(path)
        return opening.Location(SimulatedDisk(), "/data", False, ("/data",))

    directory = opening.OPENERS[""]
    monkeypatch.setitem(opening.OPENERS, "here", opening.Opener(locate, directory.connect))
    with streamlog.open("here://anything") as log:
        log.create_topic("t")
        assert log.path == "/data"
    assert seen == ["here://anything"]
    with pytest.raises(ConfigError, match="without a scheme, here://"):
        streamlog.open("there://anything")
