"""Readers without a lock against all that changes a log under them: appends, rolls, compaction, deletion, syncs."""

from __future__ import annotations

import os
import random
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from streamlog.config import TopicConfig
from streamlog.errors import OffsetOutOfRangeError
from streamlog.records import columns
from streamlog.records.batch import read_header, seed_of, verify_payload
from streamlog.records.decode import decode
from streamlog.replication.partition import Partition
from streamlog.runtime.disk import OsDisk
from streamlog.runtime.threads import new_lock
from streamlog.storage.log import AppendRequest
from streamlog.storage.recovery.recovery import PreviousShutdown, open_log
from streamlog.storage.verify.check import CheckRequest, check_partition
from streamlog.types import TopicPartition
from tests.times import LONG

pytestmark = pytest.mark.slow
SECONDS = float(os.environ.get("STREAMLOG_STRESS_S", "1.5"))  # of each case; more for a long run
TOPIC_ID = bytes(16)
LEAST = 1000  # records that readers get
SEED = seed_of(TOPIC_ID, 0)
FIRST_MS = 1000


def value_at(offset: int) -> bytes:
    """What the record at an offset must hold, whatever happened to the files."""
    return b"%d:" % offset + b"z" * (offset % 97)


class Storm:
    """One partition and what several threads do to it until time is up or one of them finds something wrong."""

    def __init__(self, path: Path, rng: random.Random, *, compacted: bool) -> None:
        self.rng = rng
        self.compacted = compacted
        policy = "compact" if compacted else "delete"
        config = TopicConfig(segment_bytes=2048, cleanup_policy=policy)
        self.path = path
        self.log = open_log(OsDisk(), str(path), TOPIC_ID, 0, SEED, config, PreviousShutdown(True, True))
        self.partition = Partition(TopicPartition("t", 0), TOPIC_ID, self.log, new_lock)
        self.errors: list[BaseException] = []
        self.read = 0
        self._stop = threading.Event()

    def run(self, *actions: Callable[[], None]) -> None:
        threads = [threading.Thread(target=self._repeat, args=(action,)) for action in actions]
        for thread in threads:
            thread.start()
        end, latest = time.monotonic() + SECONDS, time.monotonic() + LONG
        while (self.read <= LEAST and time.monotonic() < latest) or time.monotonic() < end:
            if self._stop.wait(0.05):
                break
        self._stop.set()
        for thread in threads:
            thread.join()
        self.log.release()
        if self.errors:
            raise self.errors[0]

    def _repeat(self, action: Callable[[], None]) -> None:
        try:
            while not self._stop.is_set():
                action()
        except BaseException as error:
            self.errors.append(error)
            self._stop.set()

    def append(self) -> None:
        count = self.rng.randrange(1, 4)
        base = self.log.tail.end_offset  # this is the only writer
        keys = [b"k%d" % self.rng.randrange(30) for _ in range(count)]
        values = [value_at(base + n) for n in range(count)]
        times = [FIRST_MS + base + n for n in range(count)]
        self.partition.append(AppendRequest([columns.seal(SEED, keys, values, times, count=count)]), FIRST_MS)
        time.sleep(0.0005)

    def fetch(self) -> None:
        tail = self.log.tail
        offset = self.rng.randrange(tail.start_offset, tail.end_offset + 1)
        try:
            chunk = self.log.reader.fetch(offset, self.rng.choice([1, 3000, 100_000]), tail.end_offset)
        except OffsetOutOfRangeError:
            assert offset < self.log.tail.start_offset
            return
        assert chunk.data or offset == tail.end_offset
        at = 0
        while at < len(chunk.data):
            header = read_header(chunk.data, at, SEED, chunk.path, chunk.position + at)
            payload = memoryview(chunk.data)[at + header.header_len : at + header.batch_len]
            verify_payload(header, payload, SEED, chunk.path, chunk.position + at)
            assert header.last_offset >= offset
            full = decode(header, chunk.data, at).all()
            assert list(full.values) == [value_at(found) for found in full.offsets]
            assert list(full.timestamps) == [FIRST_MS + found for found in full.offsets]
            self.read += len(full.offsets)
            at += header.batch_len

    def find(self) -> None:
        tail = self.log.tail
        if tail.start_offset == tail.end_offset:
            return
        offset = self.rng.randrange(tail.start_offset, tail.end_offset)
        found = self.log.reader.find_time(FIRST_MS + offset, tail.end_offset)
        if not self.compacted and found is not None and found.offset != offset:
            assert found.offset > offset and self.log.tail.start_offset > offset

    def maintain(self) -> None:
        tail = self.log.tail
        if self.compacted:
            self.partition.maintenance.compact(FIRST_MS)
        elif tail.end_offset - tail.start_offset > 400:
            self.partition.delete_records(self.rng.randrange(tail.start_offset, tail.end_offset))
        with self.partition.maintenance.lock:
            self.log.durability.sync_sealed(self.log.tail)

    def check(self) -> None:
        question = CheckRequest(str(self.path), TOPIC_ID, 0, SEED, PreviousShutdown(False, True), self.compacted)
        findings = check_partition(OsDisk(), question).findings
        assert not [finding for finding in findings if not finding.is_note], findings
        self._stop.wait(0.05)


@pytest.fixture
def impatient() -> Iterator[None]:
    """Threads change places often."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


@pytest.mark.parametrize("compacted", [False, True], ids=["deleted", "compacted"])
@pytest.mark.usefixtures("impatient")
def test_readers_get_the_right_records_or_an_error_whatever_happens_to_the_files(
    tmp_path: Path, rng: random.Random, compacted: bool
) -> None:
    storm = Storm(tmp_path / "p", rng, compacted=compacted)
    storm.run(storm.append, storm.fetch, storm.fetch, storm.find, storm.maintain, storm.check)
    assert storm.read > LEAST
