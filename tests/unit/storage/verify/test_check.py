"""The check of a partition directory finds every kind of harm, names it, changes nothing, and knows a note from damage."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from streamlog.records.batch import (
    BatchHeader,
    directory_of,
    hash_payload,
    peek,
)
from streamlog.runtime.disk import OsDisk
from streamlog.storage import index as index_files
from streamlog.storage.verify.check import FOREVER_OFFSET, Finding

from ..conftest import CLEAN, KILLED, PARTITION, POWER_LOST, SEED, TOPIC_ID, Box
from ..counting_disk import segments_on_counting_disk

pytestmark = pytest.mark.damaged
MakeBox = Callable[..., Box]


@pytest.fixture
def snapshot() -> Iterator[Callable[[Path], None]]:
    """Directories that must be, at the end, as they were when they were shown."""
    seen: dict[Path, dict[str, bytes]] = {}

    def take(path: Path) -> None:
        seen[path] = {file.name: file.read_bytes() for file in path.iterdir()}

    yield take
    for path, before in seen.items():
        assert {file.name: file.read_bytes() for file in path.iterdir()} == before


def segmented(make: MakeBox, **config: Any) -> Box:
    b = make(segment_bytes=1024, **config)
    for n in range(8):
        b.append(b"%d" % n * 150, b"y" * 150, keys=[b"k%d" % n, b"l"])
    return b


def only(b: Box, crash: Any = CLEAN) -> Finding:
    (finding,) = b.check(crash).findings
    assert isinstance(finding, Finding)
    return finding


def rewrite(b: Box, **fields: Any) -> None:
    """Append a batch whose header says something else than its columns, with checksums that fit."""
    write = b.write(b"x", b"y", keys=[b"k", b"l"], timestamps=[b.now, b.now + 1])
    sealed = write.batches[0]._replace(**fields)
    write.batches = [sealed._replace(payload_hash=hash_payload(sealed.payload, SEED))]
    b.log.append(write, 0, b.now)


# What is fine


def test_a_whole_log_is_counted_and_nothing_is_found(box: MakeBox, snapshot: Callable[[Path], None]) -> None:
    b = segmented(box)
    b.close()
    snapshot(b.path)
    found = b.check(CLEAN)
    assert found.findings == ()
    assert (found.segments, found.batches, found.records) == (len(b.logs()), 8, 16)
    assert found.size_bytes == sum(path.stat().st_size for path in b.logs())


def test_an_open_log_is_whole_too(box: MakeBox) -> None:
    b = segmented(box)
    assert b.check(KILLED).findings == ()
    b.log.durability.sync_sealed(b.log.tail)
    assert b.check(KILLED).findings == ()
    b.reopen(CLEAN)
    b.append(b"beyond what the index of the last close knows")
    assert b.check(KILLED).findings == ()


def test_progress_adds_up_to_the_bytes_of_the_segments(box: MakeBox) -> None:
    b = segmented(box)
    done: list[int] = []
    found = b.check(KILLED, progress=done.append)
    assert sum(done) == found.size_bytes
    assert len(done) == 8


def test_each_whole_batch_is_shown_to_the_visitor(box: MakeBox) -> None:
    b = segmented(box)
    keys: list[Any] = []
    b.check(KILLED, visit=lambda header, columns: keys.extend(columns.keys()))
    assert keys == [key for n in range(8) for key in (b"k%d" % n, b"l")]


def test_gaps_are_fine_where_compaction_ran_and_nowhere_else(box: MakeBox) -> None:
    b = segmented(box, cleanup_policy="compact")
    b.log.roll(b.now)
    b.partition.maintenance.compact(b.now)
    assert b.check(KILLED).findings == ()
    assert b.check(KILLED, gaps=False).findings == (), "the state remembers that it was compacted once"
    b.log.set_cleaned(0, None)
    assert {finding.kind for finding in b.check(KILLED, gaps=False).findings} == {"columns"}


# Damage


def test_a_damaged_payload_names_its_batch_and_offsets(box: MakeBox) -> None:
    b = segmented(box)
    b.close()
    path = b.logs()[1]
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    finding = only(b)
    assert (finding.path, finding.position, finding.kind) == (str(path), len(data) // 2, "payload")
    assert finding.lost == (6, 8)


@pytest.mark.parametrize("last", [False, True])
def test_a_damaged_header_loses_what_lies_between_its_neighbours(box: MakeBox, last: bool) -> None:
    b = segmented(box)
    b.close()
    path = b.logs()[-1 if last else 1]
    data = bytearray(path.read_bytes())
    at = len(data) // 2
    data[at + 30] ^= 1
    path.write_bytes(data)
    finding = only(b)
    assert (finding.position, finding.kind) == (at, "header")
    assert finding.lost == ((14, 16) if last else (6, 8))


def test_damage_at_the_end_of_a_log_that_was_not_closed_may_have_cost_more(box: MakeBox) -> None:
    b = segmented(box)
    b.log.release()
    path = b.logs()[-1]
    data = bytearray(path.read_bytes())
    data[len(data) // 2 + 30] ^= 1
    path.write_bytes(data)
    assert only(b, KILLED).lost == (14, FOREVER_OFFSET)


def test_damage_in_records_that_were_deleted_is_a_note(box: MakeBox) -> None:
    b = segmented(box)
    b.log.advance_start(2)
    b.close()
    path = b.logs()[0]
    data = bytearray(path.read_bytes())
    data[200] ^= 1
    path.write_bytes(data)
    finding = only(b)
    assert (finding.is_note, finding.lost) == (True, None)


@pytest.mark.parametrize("crash", [KILLED, POWER_LOST], ids=["killed", "power lost"])
def test_a_torn_tail_is_a_note_after_a_crash_and_damage_after_a_close(box: MakeBox, crash: Any) -> None:
    b = segmented(box)
    b.log.release()
    path = b.logs()[-1]
    path.write_bytes(path.read_bytes()[:-5])
    finding = only(b, crash)
    assert (finding.kind, finding.is_note) == ("torn", True)
    assert "will be truncated" in finding.message
    assert not only(b, CLEAN).is_note


def test_after_a_power_loss_a_payload_at_the_end_is_torn_too(box: MakeBox) -> None:
    b = segmented(box)
    b.log.release()
    path = b.logs()[-1]
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert only(b, POWER_LOST).kind == "torn"
    assert only(b, KILLED).kind == "payload"


def test_a_swapped_and_a_foreign_segment_are_found(box: MakeBox) -> None:
    b = segmented(box)
    b.close()
    first, second = b.logs()[:2]
    data = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(data)
    assert {problem.kind for problem in b.problems(CLEAN)} >= {"offsets"}
    other = Path(b.path).with_name("other")
    b.path.rename(other)
    assert b.check(CLEAN, directory=str(other), seed=SEED + 1).findings


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"record_count": -1}, "counts -1 records"),
        ({"record_count": 3}, "only 2 offsets"),
        ({"record_count": 3, "last_offset_delta": 2}, "do not decode"),
        ({"last_offset_delta": 4}, "nothing was compacted"),
        ({"attributes": 1 << 20}, "unknown bits"),
        ({"attributes": 1}, "payload form 1"),
        ({"attributes": 9 << 4}, "do not decode"),
        ({"base_timestamp": 5}, "timestamps run from"),
        ({"max_timestamp": 5}, "timestamps run from"),
        ({"max_timestamp_delta": 0}, "offset 2 has the greatest timestamp, the header says 1"),
        ({"max_timestamp_delta": -1}, "offset 2 has the greatest timestamp"),
        (
            {"record_count": 0, "payload": b"", "directory": directory_of([]), "uncompressed_len": 0},
            "no record that has the greatest timestamp",
        ),
        ({"uncompressed_len": 5}, "uncompressed"),
        ({"payload": b"\x92\x01\x02", "directory": directory_of([(4, 3)]), "uncompressed_len": 3}, "timestamps"),
        ({"payload": b"\x90", "directory": directory_of([(9, 1)])}, "lists the kinds"),
        ({"payload": b"\x90\x90", "directory": directory_of([(4, 1), (4, 1)])}, "lists the kinds"),
        ({"payload": b"\xc1", "directory": directory_of([(4, 1)])}, "do not decode"),
        ({"payload": b"\x92\xa1a\xa1b", "directory": directory_of([(1, 5)])}, "do not decode"),
        ({"directory": directory_of([(4, 1)])}, "do not decode"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_batch_that_contradicts_itself_is_found(box: MakeBox, fields: dict[str, Any], words: str) -> None:
    b = box()
    b.append(b"before")
    rewrite(b, **fields)
    finding = b.check(KILLED).findings[0]
    assert words in finding.message
    assert finding.kind == "columns"


def test_columns_of_the_wrong_types_are_found(box: MakeBox) -> None:
    import msgpack

    def batch(b: Box, kind: int, column: list[Any], **fields: Any) -> str:
        payload = msgpack.packb(column)
        rewrite(
            b, payload=payload, directory=directory_of([(kind, len(payload))]), uncompressed_len=len(payload),
            base_timestamp=b.now, max_timestamp=b.now, max_timestamp_delta=0, **fields,
        )  # fmt: skip
        return b.check(KILLED).findings[-1].message

    b = box(cleanup_policy="compact")
    assert "value is not bytes" in batch(b, 4, ["text", b""])
    assert "key is not bytes" in batch(b, 3, [1, b""])
    for headers in ([(1, b"")], [("a",)], ["ab"], "ab", [("a", "b")]):
        assert "headers are not pairs" in batch(b, 5, [headers, []])
    assert "do not grow" in batch(b, 1, [1, 0])
    assert "outside" in batch(b, 1, [0, 7])
    assert "outside" in batch(b, 1, [-1, 1])


def test_offsets_that_go_back_and_epochs_that_go_back_are_found(box: MakeBox) -> None:
    b = box()
    b.log.append(b.write(b"x"), 5, b.now)
    b.log.leader_epochs.current = 4  # an append would refuse it
    b.log.append(b.write(b"y"), 4, b.now)
    assert [finding.kind for finding in b.check(KILLED).findings] == ["epoch"]
    data = b.logs()[0].read_bytes()
    with b.logs()[0].open("ab") as file:
        file.write(data[: len(data) // 2])
    assert "offsets" in [finding.kind for finding in b.check(KILLED).findings]


def test_offsets_missing_between_batches_are_found(box: MakeBox) -> None:
    b = box()
    ends = []
    for _ in range(3):
        b.append(b"x")
        ends.append(b.log.tail.end_position)
    b.log.release()
    data = b.logs()[0].read_bytes()
    b.logs()[0].write_bytes(data[: ends[0]] + data[ends[1] :])
    finding = only(b, KILLED)
    assert (finding.kind, finding.lost) == ("missing", (1, 2))


def test_a_segment_that_cannot_be_opened_or_read_is_found(box: MakeBox, monkeypatch: pytest.MonkeyPatch) -> None:
    from streamlog.runtime.disk import OsFile

    b = segmented(box)
    b.close()
    real = OsFile.pread

    def pread(file: OsFile, length: int, position: int) -> bytes:
        if file.path.endswith(b.logs()[1].name):
            raise OSError(5, "Input/output error")
        return real(file, length, position)

    monkeypatch.setattr(OsFile, "pread", pread)
    finding = only(b)
    assert (finding.kind, finding.lost) == ("unreadable", (4, 8))


# Derived and left-over files


@pytest.mark.parametrize("harm", ["garbage", "contradicts"])
def test_a_wrong_index_is_a_note_and_a_missing_one_is_nothing(box: MakeBox, harm: str) -> None:
    b = segmented(box)
    b.close()
    path = b.logs()[0].with_suffix(".index")
    loaded = index_files.from_bytes(path.read_bytes(), SEED)
    assert loaded is not None
    loaded[0].timestamps[0] -= 1
    path.write_bytes(b"garbage" if harm == "garbage" else index_files.to_bytes(loaded[0], loaded[1], SEED))
    finding = only(b)
    assert (finding.kind, finding.is_note, finding.path) == ("index", True, str(path))
    path.unlink()
    assert b.check(CLEAN).findings == ()


def test_left_over_files_are_notes(box: MakeBox) -> None:
    b = segmented(box)
    b.close()
    for name in (f"{0:020d}.cleaned", "x.index.tmp", f"{99:020d}.index", f"{0:020d}.log.cut-5", "notes.txt"):
        (b.path / name).write_bytes(b"?")
    findings = b.check(CLEAN).findings
    assert sorted((finding.kind, finding.is_note) for finding in findings) == [("cut", True)] + [("leftover", True)] * 4


def test_an_empty_segment_of_an_interrupted_roll_is_a_note(box: MakeBox) -> None:
    b = box()
    for _ in range(3):
        b.append(b"x")
    (b.path / f"{1:020d}.log").touch()
    b.log.roll(b.now)
    b.append(b"y")
    assert [(finding.kind, finding.is_note) for finding in b.check(KILLED).findings] == [("leftover", True)]


def test_a_finished_swap_counts_in_place_of_what_it_replaces(box: MakeBox) -> None:
    b = segmented(box)
    b.close()
    first, second = b.logs()[:2]
    end = int(b.logs()[2].stem)
    swap = b.path / f"{0:020d}-{end:020d}.swap"
    swap.write_bytes(first.read_bytes() + second.read_bytes())
    second.unlink()
    found = b.check(CLEAN)
    assert [(finding.kind, finding.is_note) for finding in found.findings] == [("leftover", True)] * len(found.findings)
    assert found.records == 16
    b.open(CLEAN)
    assert [entry.offset for entry in b.read()] == [*range(16)]


def test_a_state_that_is_missing_is_damage_and_one_that_is_behind_is_not(box: MakeBox) -> None:
    b = segmented(box)
    b.log.release()
    assert b.check(KILLED).findings == ()
    (b.path / "partition.state").unlink()
    assert only(b, KILLED).kind == "state"


# A directory that changes meanwhile


class Restless:
    """A disk under whose reader something else happens at the nth listing."""

    def __init__(self, disk: Any, act: Callable[[], object], times: int) -> None:
        self._disk = disk
        self._act = act
        self.left = times

    def __getattr__(self, name: str) -> Any:
        return getattr(self._disk, name)

    def listdir(self, path: str) -> list[str]:
        names: list[str] = self._disk.listdir(path)
        if self.left:
            self.left -= 1
            self._act()
        return names


@pytest.mark.parametrize("times", [1, 3, 1000])
def test_a_log_that_changes_under_the_check_is_checked_again(box: MakeBox, times: int) -> None:
    from streamlog.storage.verify.check import CheckRequest, check_partition

    b = segmented(box)
    restarts: list[int] = []

    def act() -> None:
        b.append(b"z" * 900)

    question = CheckRequest(str(b.path), TOPIC_ID, PARTITION, SEED, KILLED, False, restart=lambda: restarts.append(1))
    found = check_partition(Restless(OsDisk(), act, times), question)
    assert restarts
    if times == 1000:
        assert [finding.kind for finding in found.findings] == ["busy"]
    else:
        assert (found.findings, found.records) == ((), 16 + times)


def test_a_directory_that_is_removed_under_the_check_is_nothing(box: MakeBox) -> None:
    import shutil

    from streamlog.storage.verify.check import CheckRequest, check_partition

    b = segmented(box)
    question = CheckRequest(str(b.path), TOPIC_ID, PARTITION, SEED, KILLED, False)
    found = check_partition(Restless(OsDisk(), lambda: shutil.rmtree(b.path, ignore_errors=True), 1), question)
    assert found == (0, 0, 0, 0, ())


def test_a_state_file_that_was_closed_is_not_written(box: MakeBox) -> None:
    b = box()
    b.log.release()
    with pytest.raises(AssertionError, match="closed"):
        b.log.advance_start(0 + 1)


@pytest.mark.damaged
def test_what_a_copy_cannot_take_is_found_as_a_lost_record(box: MakeBox) -> None:
    b, _ = segments_on_counting_disk(box)
    b.close()
    kept: list[tuple[int, int]] = []

    def keep(base_offset: int, header: Any, data: bytes) -> str | None:
        if header.base_offset == 3:
            return "it makes no sense"
        kept.append((base_offset, header.base_offset))
        return None

    checked = b.check(CLEAN, keep=keep)
    assert kept == [(n // 2 * 2, n) for n in range(8) if n != 3]
    (finding,) = checked.findings
    assert (finding.kind, finding.lost) == ("record", (3, 4))
    assert finding.path == str(b.logs()[1])
    assert "it makes no sense" in finding.message
    assert checked.records == 7


def test_a_directory_without_anything_is_whole(tmp_path: Path, box: MakeBox) -> None:
    b = box()
    b.log.release()
    for path in b.path.iterdir():
        path.unlink()
    assert b.check(KILLED) == (0, 0, 0, 0, ())
    b.open(CLEAN)


@pytest.mark.damaged
@pytest.mark.parametrize("visits", [True, False])
def test_lost_batches_are_asked_for_in_order_and_visited(box: MakeBox, visits: bool) -> None:
    b = box()
    for n in range(3):
        b.append(b"%d" % n)
    whole = b.logs()[0].read_bytes()
    batch = peek(whole[len(whole) // 3 :])
    b.logs()[0].write_bytes(whole[: len(whole) // 3] + b"?" + whole[len(whole) // 3 + 1 :])
    calls: list[Any] = []

    def recover(start: int, end: int) -> list[tuple[BatchHeader, bytes]]:
        calls.append((start, end))
        return [(batch, whole[len(whole) // 3 : 2 * len(whole) // 3])]

    def visit(header: BatchHeader, columns: Any) -> None:
        calls.append(header.base_offset)

    b.check(KILLED, recover=recover, visit=visit if visits else None)
    assert calls == ([0, (1, 2), 1, 2] if visits else [(1, 2)])
