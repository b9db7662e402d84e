"""Sealed segments are mapped where a mapping can be populated; elsewhere they are read with pread."""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from streamlog import StreamLog
from streamlog.runtime import disk as disks
from streamlog.runtime.disk import OsDisk, OsMapping, PreadMapping, can_populate


@pytest.fixture
def old_kernel(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A kernel that does not know MADV_POPULATE_READ."""
    monkeypatch.setattr(disks, "_MADV_POPULATE_READ", 9999)
    can_populate.cache_clear()
    yield
    can_populate.cache_clear()


@pytest.mark.usefixtures("old_kernel")
def test_an_old_kernel_is_found_out_without_a_file() -> None:
    assert not can_populate()


@pytest.mark.usefixtures("old_kernel")
def test_where_no_mapping_can_be_populated_none_is_made(
    open_log: Callable[..., StreamLog], monkeypatch: pytest.MonkeyPatch
) -> None:
    can_populate()

    def refuse(*arguments: Any) -> Any:
        raise AssertionError("a bare mapping")

    monkeypatch.setattr(mmap, "mmap", refuse)
    sent = [b"%d" % n + b"." * 300 for n in range(60)]
    topic = open_log(segment_bytes=2048).create_topic("t")
    topic.send_many(sent).result()
    assert [record.value for record in topic.read()] == sent
    assert next(iter(topic.read(start=31))).value == sent[31]


@pytest.mark.usefixtures("old_kernel")
def test_what_stands_for_a_mapping_lives_on_when_the_file_is_closed_or_removed(tmp_path: Path) -> None:
    file = OsDisk().open(str(tmp_path / "f"), create=True)
    file.pwrite([b"0123456789"], 0)
    mapping = file.map(8)
    assert isinstance(mapping, PreadMapping)
    file.close()
    (tmp_path / "f").unlink()
    assert [mapping.read(4, 2), mapping.read(100, 6), mapping.read(4, 8), mapping.read(4, 100)] == [
        b"2345", b"67", b"", b"",
    ]  # fmt: skip


@pytest.mark.usefixtures("old_kernel")
def test_what_stands_for_a_mapping_is_refused_beyond_the_files_end_as_one_is(tmp_path: Path) -> None:
    file = OsDisk().open(str(tmp_path / "f"), create=True)
    file.pwrite([b"x"], 0)
    with pytest.raises(ValueError, match="greater than file size"):
        file.map(2)


def descriptors_of(file: Path) -> int:
    return [os.path.realpath(entry) for entry in Path("/proc/self/fd").iterdir()].count(str(file))


@pytest.mark.usefixtures("old_kernel")
def test_its_descriptor_goes_with_it(tmp_path: Path) -> None:
    file = OsDisk().open(str(tmp_path / "f"), create=True)
    file.pwrite([b"x"], 0)
    assert descriptors_of(tmp_path / "f") == 1
    mapping = file.map(1)
    assert descriptors_of(tmp_path / "f") == 2
    del mapping
    assert descriptors_of(tmp_path / "f") == 1


class Broken:
    """A mapping whose pages the disk cannot read."""

    def __len__(self) -> int:
        return 10

    def madvise(self, *arguments: int) -> None:
        raise OSError(errno.EFAULT, "Bad address")


def test_a_page_that_cannot_be_read_is_an_error_and_no_signal() -> None:
    with pytest.raises(OSError, match="could not read a mapped range") as caught:
        OsMapping(Broken(), "f").read(1, 0)  # type: ignore[arg-type]
    assert caught.value.errno == errno.EIO


@pytest.mark.parametrize("syncs", [True, False])
def test_a_disk_that_does_not_sync_never_waits_for_the_device(
    open_log: Callable[..., StreamLog], path: Path, monkeypatch: pytest.MonkeyPatch, syncs: bool
) -> None:
    calls: list[int] = []
    for name in ("fsync", "fdatasync"):
        monkeypatch.setattr(os, name, calls.append)
    log = open_log(disk=OsDisk(syncs=syncs), sync=True)
    log.create_topic("t").send("x")
    log.sync()
    log.close()
    assert bool(calls) is syncs
    monkeypatch.undo()
    with open_log(path) as again:  # a process that is killed leaves everything all the same
        assert [record.value for record in again["t"].read()] == [b"x"]
