"""A write that waits for the disk holds up no other thread of the process.

Each file system is made in a file, and mounted; freezing it has every write to it wait until it is thawed, as while a snapshot of
the volume is taken. A write with RWF_NOWAIT waits too, on XFS, though it says that it does not; so nothing is written with the
interpreter's lock held. This needs root, the file system's mkfs, and fsfreeze.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import streamlog

LONG, FROZEN = 60.0, 2.0


def run(*command: object) -> None:
    subprocess.run(list(map(str, command)), check=True, capture_output=True, timeout=LONG)


@pytest.fixture(params=["xfs", "ext4"])
def mounted(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A directory of a file system of its own."""
    kind = request.param
    if os.geteuid() or not all(map(shutil.which, (f"mkfs.{kind}", "mount", "umount", "fsfreeze"))):
        pytest.skip(f"needs root, mkfs.{kind} and fsfreeze")
    image, directory = tmp_path / "image", tmp_path / "mounted"
    with image.open("wb") as file:
        file.truncate(400 << 20)
    directory.mkdir()
    run(f"mkfs.{kind}", "-q", image)
    try:
        run("mount", "-o", "loop", image, directory)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"{kind} cannot be mounted here: {error.stderr.decode().strip()}")
    try:
        yield directory
    finally:
        run("umount", "--lazy", directory)


@pytest.mark.parametrize("linger_ms", [0, 1])
def test_a_write_that_waits_for_the_disk_holds_up_no_other_thread(mounted: Path, linger_ms: int) -> None:
    with streamlog.open(mounted / "log") as log:
        topic = log.create_topic("t")
        with log.producer(linger_ms=linger_ms) as producer:
            producer.send(topic, b"before").result()
            # A process of its own thaws it: a sender that held the interpreter's lock would keep this one from doing so.
            script = 'fsfreeze --freeze "$0"; echo frozen; sleep "$1"; fsfreeze --unfreeze "$0"'
            command = ["sh", "-c", script, str(mounted), str(FROZEN)]
            with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as freezer:
                assert freezer.stdout is not None
                assert freezer.stdout.readline() == "frozen\n"
                sender = threading.Thread(target=lambda: producer.send(topic, b"frozen").result())
                sender.start()
                last, longest = time.monotonic(), 0.0
                while freezer.poll() is None:
                    now = time.monotonic()
                    longest, last = max(longest, now - last), now
            longest = max(longest, time.monotonic() - last)
            sender.join(LONG)
            assert not sender.is_alive()
            print(f"the longest that another thread stood still: {longest * 1000:.1f} ms")
            assert longest < FROZEN / 2, "the sender waited for the disk with the interpreter's lock held"
        assert [record.value for record in topic.read()] == [b"before", b"frozen"]
