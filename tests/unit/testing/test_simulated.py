"""A simulated disk is a file system: what it answers, and what it refuses, is what the real one does."""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from streamlog.runtime.disk import OsDisk
from streamlog.testing import BusError, SimulatedDisk


def outcome(call: Callable[[], Any]) -> Any:
    """What a call gives: its value, or the errno that it fails with."""
    try:
        return call()
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    except ValueError:
        return "ValueError"


class Both:
    """The same calls on the real file system and on a simulated one; their outcomes must be equal."""

    NAMES = ("a", "b", "c", "dir", "dir/a", "dir/b", "dir/deep", "dir/deep/a", "a/below", "no/such")

    def __init__(self, root: Path, rng: random.Random) -> None:
        self.rng = rng
        self.disks: list[tuple[Any, str]] = [(OsDisk(), str(root)), (SimulatedDisk(), "")]
        self.files: list[tuple[Any, Any]] = []
        self.maps: list[tuple[Any, Any]] = []

    def same(self, what: str, calls: list[Callable[[], Any]]) -> tuple[Any, Any]:
        real, simulated = (outcome(call) for call in calls)
        if isinstance(real, (bytes, int, str, list, bool, type(None))):
            assert simulated == real, f"{what}: really {real!r}, simulated {simulated!r}"
        else:
            assert not isinstance(simulated, str), f"{what}: simulated {simulated!r}"
        return real, simulated

    def on_disk(self, method: str, *names: str, **options: Any) -> tuple[Any, Any]:
        return self.same(
            f"{method} {names} {options}",
            [
                lambda disk=disk, root=root: getattr(disk, method)(*(f"{root}/{name}" for name in names), **options)  # type: ignore[misc]
                for disk, root in self.disks
            ],
        )

    def on_file(self, method: str, *arguments: Any) -> None:
        if self.files:
            pair = self.rng.choice(self.files)
            what = f"{method} {arguments}"
            found = self.same(what, [lambda file=file: getattr(file, method)(*arguments) for file in pair])  # type: ignore[misc]
            if method == "map" and not isinstance(found[0], str):
                self.maps.append(found)

    def step(self) -> None:
        rng, name = self.rng, self.rng.choice(self.NAMES)
        what = rng.randrange(14)
        if what < 3:
            create = rng.random() < 0.7
            options = {"create": create, "exclusive": create and rng.random() < 0.3, "writable": rng.random() < 0.8}
            pair = self.on_disk("open", name, **options)
            if not isinstance(pair[0], str):
                self.files.append(pair)
        elif what < 5:
            size = rng.randrange(2000)
            self.on_file("pwrite", [rng.randbytes(size), b"tail"], rng.randrange(3000))
        elif what == 5:
            self.on_file("truncate", rng.randrange(3000))
        elif what == 6:
            self.on_file("pread", rng.randrange(3000), rng.randrange(3000))
        elif what == 7:
            self.on_file(rng.choice(("size", "sync")))
        elif what == 8:
            self.on_disk(rng.choice(("makedirs", "sync_dir", "exists")), name)
        elif what == 9:
            self.on_disk(rng.choice(("unlink", "listdir", "read")), name)
        elif what == 10:
            # Removing the directory that others still name is fine; the root stays.
            if self.on_disk("listdir", name)[0] != "ENOTDIR":
                self.on_disk("rmtree", name)
        elif what == 11:
            self.on_disk("rename", name, rng.choice(self.NAMES))
        elif what == 12:
            self.on_disk("write_atomic", name, data=rng.randbytes(50))
        elif self.files:
            self.on_file("close")


@pytest.mark.parametrize("seed", range(40))
def test_it_answers_and_refuses_as_the_real_file_system_does(tmp_path: Path, seed: int) -> None:
    both = Both(tmp_path, random.Random(seed))
    for _ in range(250):
        both.step()
    tree = sorted(
        os.path.relpath(os.path.join(at, name), tmp_path) for at, _, names in os.walk(tmp_path) for name in names
    )
    simulated = both.disks[1][0]
    assert {name: simulated.read(name) for name in tree} == {name: (tmp_path / name).read_bytes() for name in tree}
    assert simulated.used_bytes() == sum((tmp_path / name).stat().st_size for name in tree)


def test_a_write_beyond_the_end_leaves_a_hole_of_zeros() -> None:
    file = SimulatedDisk().open("/a", create=True)
    file.pwrite([b"end"], 5)
    assert file.pread(100, 0) == b"\0\0\0\0\0end"


def test_a_file_without_a_name_stays_readable_through_its_open_descriptors() -> None:
    disk = SimulatedDisk()
    file = disk.open("/a", create=True)
    file.pwrite([b"old"], 0)
    mapping = file.map(3)
    disk.write_atomic("/a", b"new")
    file.pwrite([b"O"], 0)
    assert (file.pread(3, 0), mapping.read(3, 0), disk.read("/a")) == (b"Old", b"Old", b"new")
    disk.unlink("/a")
    assert mapping.read(3, 0) == b"Old"


def test_a_mapping_shows_what_is_written_later_and_ends_where_it_was_made_to_end() -> None:
    file = SimulatedDisk().open("/a", create=True)
    file.pwrite([b"abcdef"], 0)
    mapping = file.map(4)
    file.pwrite([b"XY"], 3)
    assert mapping.read(100, 0) == b"abcX"
    assert mapping.read(100, 4) == b""


def test_reading_a_mapping_of_a_file_that_was_cut_is_as_loud_as_the_signal_it_would_be() -> None:
    file = SimulatedDisk().open("/a", create=True)
    file.pwrite([b"abcdef"], 0)
    mapping = file.map(6)
    file.truncate(2)
    assert mapping.read(2, 0) == b"ab"
    with pytest.raises(BusError, match=r"truncated to 2.*SIGBUS"):
        mapping.read(3, 0)


def test_a_second_lock_is_refused_with_the_holders_pid_until_it_is_released() -> None:
    disk = SimulatedDisk()
    first, second = disk.lock("lock"), disk.lock("/lock")
    assert first.acquire() is None
    assert second.acquire() == os.getpid()
    first.release()
    assert second.acquire() is None
    second.release()


def test_locks_die_with_the_process_or_the_power() -> None:
    disk = SimulatedDisk()
    lock = disk.lock("lock")
    lock.acquire()
    assert disk.kill().lock("lock").acquire() is None
    assert disk.power_loss("lax").lock("lock").acquire() is None
    lock.release()


def test_two_disks_are_two_worlds_under_one_path(clock: Any) -> None:
    import streamlog

    first, second = SimulatedDisk(), SimulatedDisk()
    with (
        streamlog.open("data", disk=first, clock=clock) as one,
        streamlog.open("data", disk=second, clock=clock) as two,
    ):
        one.create_topic("orders").send("in the first")
        assert "orders" not in two
    assert not os.path.exists("data")


def test_one_path_of_one_disk_is_opened_once_with_one_disk(clock: Any) -> None:
    import streamlog
    from streamlog.testing import FaultyDisk

    disk = SimulatedDisk()
    with streamlog.open("data", disk=disk, clock=clock) as log:
        with streamlog.open("/data/../data/", disk=disk, clock=clock) as again:
            again.create_topic("orders")
        assert "orders" in log
        with pytest.raises(streamlog.ConfigError, match="another disk"):
            streamlog.open("data", disk=FaultyDisk(disk), clock=clock)


def test_a_log_without_a_path_is_temporary_on_a_simulated_disk_too(clock: Any) -> None:
    import streamlog

    disk = SimulatedDisk()
    with streamlog.open(disk=disk, clock=clock) as log:
        log.create_topic("orders").send("x")
        assert disk.used_bytes() > 0
    assert disk.used_bytes() == 0


def test_what_is_no_disk_is_refused(clock: Any) -> None:
    import streamlog

    with pytest.raises(streamlog.ConfigError, match="not a disk"):
        streamlog.open("data", disk="C:", clock=clock)


def test_verify_looks_at_a_simulated_disk(clock: Any) -> None:
    import streamlog

    disk = SimulatedDisk()
    with streamlog.open("data", disk=disk, clock=clock) as log:
        log.create_topic("orders").send("x")
    report = streamlog.verify("data", disk=disk)
    assert report.ok
    assert report.records > 0
