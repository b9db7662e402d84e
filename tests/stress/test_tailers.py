"""Processes that follow a log while another changes it; `python -m tests.stress.tailers` does it for longer."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

import streamlog
from streamlog.storage.published import OPENING, parse_header
from tests.times import LONG

from .processes import Zygote
from .tailers import run

CHANGES = 200


@pytest.mark.slow
def test_followers_get_every_record_whole_whatever_its_owner_does(tmp_path: Path, rng: random.Random) -> None:
    tailing = run(CHANGES, rng.randrange(2**32), tmp_path)
    assert tailing.changes.total() >= CHANGES
    assert tailing.total("received") > CHANGES
    assert tailing.total("read_again")


def is_opening(published: Path) -> bool:
    header = parse_header(published.read_bytes())
    return header is not None and header.state == OPENING


def test_a_follower_that_missed_a_deletion_raises_while_the_next_owner_opens(path: Path, tmp_path: Path) -> None:
    count = 400
    with streamlog.open(path) as log:
        topic = log.create_topic("t", segment_bytes=1024)
        topic.send_many([b"%d" % n for n in range(count)])
        for _ in range(10):
            topic.apply_retention()
            topic.send_many([b"%d" % n for n in range(count, count + 40)])
            count += 40
    with Zygote(tmp_path / "stderr", "tests.stress.tail_owner") as zygote, streamlog.open(path, read_only=True) as tail:
        assert tail["t"].partition(0).log_start_offset == 0
        # The owner is another process: in this one the path stands for the reader's view.
        owner = zygote.start("tests.stress.tail_owner:delete_the_older_half", str(path))
        assert owner.wait(LONG) == 0
        zygote.start("tests.stress.tail_owner:open_for_ever", str(path))
        until = time.monotonic() + LONG
        while not is_opening(path / "published"):
            assert time.monotonic() < until
            time.sleep(0.01)
        with pytest.raises(streamlog.OffsetOutOfRangeError):
            list(tail["t"].read(0, start=0))
