"""`streamlog verify` and `streamlog dump`: read the files of a log, without its lock."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, NamedTuple
from uuid import UUID

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from ..broker.log_directory import METADATA_DIR, METADATA_ID
from ..broker.offline.verify import Problem, Report
from ..broker.offline.verify import verify as check
from ..config import CODECS
from ..errors import ConfigError, CorruptRecordError, FormatError
from ..records.batch import CONTROL, LOG_APPEND_TIME, TRANSACTIONAL, BatchHeader, seed_of, verify_payload
from ..records.columns import records_of
from ..records.decode import decode
from ..runtime.disk import OsDisk
from ..storage.files import base_offset_of, swap_of
from ..storage.segment import Segment
from ..storage.verify.batch_check import batch_fault
from ..storage.verify.check import FOREVER_OFFSET
from ..types import Record
from . import render as output
from .app import OWNER_FILE, Directory, Json, app, is_log, log_path, plural, wants_json, what_is_there

_DIRECTORY = re.compile(r"([0-9a-f]{32})-(\d{1,9})")
_ROW = "{:>9}  {:>15}  {:>7}  {:>8}  {:<6}  {:<19}"
_FLAGS = {TRANSACTIONAL: "transactional", CONTROL: "control", LOG_APPEND_TIME: "log_append_time"}
_MARKERS = {0: "abort", 1: "commit"}  # by control type


class Found(NamedTuple):
    """One batch of a segment, or, with `header` None, a range of bytes in which no batch was found.

    `fault` says what is wrong with the batch; None if its checksums and columns are right. `raw` is the batch as
    stored.
    """

    position: int
    length: int
    header: BatchHeader | None
    fault: str | None
    raw: bytes


@app.command()
def verify(
    ctx: typer.Context,
    path: Annotated[
        Path | None, typer.Argument(metavar="PATH", show_default=False, help="Directory of the log, as with -d.")
    ] = None,
    directory: Directory = None,
    as_json: Json = False,
) -> None:
    """Check every checksum and invariant of a log. Changes nothing.

    Another process may have the log open. Notes are faults that the next open repairs by itself. Exits with 1 if
    there are problems: something is lost or wrong.
    """
    if path is not None and directory and [path] != directory:
        raise ConfigError(f"Two directories are given, {path} and {directory[0]}. Leave one of them out.")
    path = log_path(ctx, directory if path is None else [path])
    if nothing := what_is_there(path):
        raise FormatError(f"{nothing}. Give the directory of a log.", path=str(path))
    if not is_log(path):
        raise FormatError(
            f"There is no log in {path}: it has no {OWNER_FILE}. Give the directory of the log with -d. If this is a "
            f"log that has lost the file, copy its records into a new one: streamlog repair {path} NEW_DIRECTORY",
            path=str(path),
        )
    with progress_bar() as bar:
        task = bar.add_task("verify", total=None)
        report = check(path, progress=lambda done, total: bar.update(task, completed=done, total=total))
    if wants_json(ctx, as_json):
        output.document({"ok": report.ok, **asdict(report, dict_factory=lost_to_the_end_as_null)})
    else:
        _show_report(report)
    if not report.ok:
        raise typer.Exit(1)


def _show_report(report: Report) -> None:
    counts = {name: getattr(report, f"{name}s") for name in ("topic", "partition", "segment", "record")}
    counted = ", ".join(f"{count:,} {plural(name, count)}" for name, count in counts.items())
    problems = len(report.problems)
    verdict = "ok" if report.ok else f"DAMAGED, {problems:,} {plural('problem', problems)}"
    output.say(f"{verdict}: {counted}, {output.size(report.size_bytes)}", style="green" if report.ok else "bold red")
    for style, found in (("red", report.problems), ("dim", report.notes)):
        for entry in found:
            _show_problem(report, entry, style)
    if not report.ok and (Path(report.path) / OWNER_FILE).exists():  # what is damaged of one replica, others may have
        output.say(f"Copy what is not damaged into a new log with: streamlog repair {report.path} NEW_DIRECTORY")


def _show_problem(report: Report, entry: Problem, style: str) -> None:
    """One line with what is lost, and one with the file and the reason."""
    whose = f"{entry.topic}-{entry.partition}" if entry.topic is not None else "the log"
    lost = f", {offsets(entry.offsets_lost)} lost" if entry.offsets_lost is not None else ""
    output.say(f"  {'note: ' if style == 'dim' else ''}{whose}: {entry.kind}{lost}", style=style)
    output.say(f"    {entry.path.removeprefix(f'{report.path}/')}, byte {entry.position}: {entry.message}")


def offsets(lost: tuple[int, int]) -> str:
    """A range of offsets (from, up to but not including) in words."""
    start, end = lost
    if end == FOREVER_OFFSET:
        return f"offsets from {start} on"
    return f"offset {start}" if end == start + 1 else f"offsets {start} to {end - 1}"


def progress_bar() -> Progress:
    """A progress bar on stderr if that is a terminal. It disappears when it is done."""
    screen = output.console(stderr=True)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        TaskProgressColumn(),
        DownloadColumn(binary_units=True),
        TimeRemainingColumn(),
        console=screen,
        transient=True,
        disable=not screen.is_terminal,
    )


def lost_to_the_end_as_null(fields: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(fields)
    lost = made.get("offsets_lost")
    return {**made, "offsets_lost": (lost[0], None)} if lost and lost[1] == FOREVER_OFFSET else made


@app.command()
def dump(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE.log", show_default=False, help="A segment file.")],
    records: Annotated[bool, typer.Option("--records", "-r", help="Also show the records of each batch.")] = False,
    as_json: Json = False,
) -> None:
    """Show the batches of a segment file: offsets, sizes, checksums.

    Another process may have the log open. `streamlog topic describe` shows the directory of each partition's segments.
    Exits with 1 if a batch is damaged.
    """
    path = file.resolve()
    topic_id, partition = _partition_of(path)
    show = _show_json if wants_json(ctx, as_json) else _show_text
    if show is _show_text:
        sys.stdout.write(_ROW.format("byte", "offsets", "records", "size", "codec", "newest (UTC)") + "  state\n")
    batches = good = 0
    for found in _walk(path, seed_of(topic_id, partition)):
        show(found, _records(found, partition) if records and found.fault is None else None)
        batches += 1
        good += found.fault is None
    if show is _show_text:
        damaged = f", {batches - good} damaged" if batches != good else ""
        counted = f"{batches:,} {'batch' if batches == 1 else 'batches'}{damaged}"
        output.say(counted, style="bold red" if damaged else None)
    if batches != good:
        raise typer.Exit(1)


def _partition_of(path: Path) -> tuple[bytes, int]:
    """The topic's id and the partition's number, with which the checksums are seeded, from the directory's name."""
    if base_offset_of(path.name, "log") is None and swap_of(path.name) is None:
        raise FormatError(f"{path} is not a segment: the name of a segment is twenty digits and .log.", path=str(path))
    if path.parent.name == METADATA_DIR:
        return METADATA_ID.bytes, 0
    match = _DIRECTORY.fullmatch(path.parent.name)
    if match is None:
        raise FormatError(
            f"{path} is not in the directory of a partition. Its checksums depend on the name of that directory, "
            f"topics/ID-N. Put the file into a directory of this name.",
            path=str(path),
        )
    return UUID(match[1]).bytes, int(match[2])


def _walk(path: Path, seed: int) -> Iterator[Found]:
    """Every batch of the file, and every range of bytes that is not a batch, in order."""
    disk = OsDisk()
    file = disk.open(str(path), writable=False)
    size = file.size()
    segment = Segment(disk, str(path.parent), 0, seed)
    segment.path = str(path)
    segment.use_file(file)
    lost: CorruptRecordError | None = None
    for position, found in segment.scan(0, size):
        if lost is not None:
            yield Found(lost.position, position - lost.position, None, _why(lost), b"")
        lost = found if isinstance(found, CorruptRecordError) else None
        if not isinstance(found, CorruptRecordError):
            raw = segment.read(found.batch_len, position)
            yield Found(position, found.batch_len, found, _fault(raw, found, segment, position), raw)
    if lost is not None:
        yield Found(lost.position, size - lost.position, None, _why(lost), b"")


def _fault(raw: bytes, header: BatchHeader, segment: Segment, position: int) -> str | None:
    try:
        verify_payload(header, memoryview(raw)[header.header_len :], segment.seed, segment.path, position)
    except CorruptRecordError as error:
        return _why(error)
    return batch_fault(raw, header, gaps=True)


def _why(error: CorruptRecordError) -> str:
    """Only the reason: the line has the file and the position already."""
    return str(error).removeprefix(f"{error.path} is damaged at byte {error.position}: ").partition(". ")[0]


def _records(found: Found, partition: int) -> list[Record[Any, Any]]:
    """The records of a batch. REQUIRES: the batch has no fault."""
    assert found.header is not None
    return list(records_of(Record, "", partition, decode(found.header, found.raw)))


def _codec(header: BatchHeader) -> str:
    """The name of the codec; its number if it is unknown, which is a fault of the batch."""
    return CODECS[header.codec] if header.codec < len(CODECS) else str(header.codec)


def _show_text(found: Found, records: list[Record[Any, Any]] | None) -> None:
    header = found.header
    if header is None:
        sys.stdout.flush()
        output.say(f"{found.position:>9}  DAMAGED, {found.length:,} bytes: {found.fault}", style="red")
        return
    offsets = f"{header.base_offset}–{header.last_offset}" if header.last_offset_delta else str(header.base_offset)
    newest = output.moment(header.max_timestamp)[:19]
    row = _ROW.format(found.position, offsets, header.record_count, header.batch_len, _codec(header), newest)
    flags = "".join(f", {name}" for name in _flags(header))
    if found.fault is None:
        sys.stdout.write(f"{row}  ok{flags}\n")
    else:
        sys.stdout.flush()
        output.say(f"{row}  DAMAGED{flags}: {found.fault}", style="red")
    screen = output.console()
    for record in records or ():
        sys.stdout.write(f"{'':>12}{output.long_line(screen, record)}\n")


def _flags(header: BatchHeader) -> list[str]:
    """What is special about a batch; of a marker also how it ends the transaction."""
    names = [name for bit, name in _FLAGS.items() if header.attributes & bit]
    if header.is_control and header.control_type in _MARKERS:
        names.append(_MARKERS[header.control_type])
    return names


def _show_json(found: Found, records: list[Record[Any, Any]] | None) -> None:
    header = found.header
    line: dict[str, Any] = {"position": found.position, "size_bytes": found.length, "ok": found.fault is None}
    if found.fault is not None:
        line["fault"] = found.fault
    if header is not None:
        line |= {
            "base_offset": header.base_offset,
            "last_offset": header.last_offset,
            "record_count": header.record_count,
            "codec": _codec(header),
            "uncompressed_bytes": header.uncompressed_len,
            "base_timestamp_ms": header.base_timestamp,
            "max_timestamp_ms": header.max_timestamp,
            "append_timestamp_ms": header.append_timestamp,
            "leader_epoch": header.leader_epoch,
            "producer_id": header.producer_id,
            "producer_epoch": header.producer_epoch,
            "base_sequence": header.base_sequence,
            "form": header.form,
            "flags": _flags(header),
        }
    if records is not None:
        line["records"] = [{k: v for k, v in output.record_fields(r).items() if k != "topic"} for r in records]
    output.json_line(line)
