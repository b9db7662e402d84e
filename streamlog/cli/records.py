"""`streamlog produce` and `streamlog consume`: from lines to records, and from records to lines."""

from __future__ import annotations

import heapq
import sys
from collections.abc import Iterator
from enum import StrEnum
from itertools import islice
from operator import attrgetter
from typing import Annotated, Any, BinaryIO

import typer

import streamlog

from ..config import CODECS
from ..errors import ConfigError, InvalidRecordError, OffsetOutOfRangeError, StreamlogError
from ..runtime.threads import SystemClock
from ..types import ProducerRecord, Record, TopicPartition
from . import render as output
from . import streams
from .app import Directory, Partitions, TopicName, app, open_log, option, places_in, plural, topic_called, wants_json
from .parse import Position, json_record, locate, parse_codec, parse_header, parse_range, parse_separator, text_record

_CHUNK = 500
_POLL_S = 1.0
_LINGER_MS = 5
_SHOWN = 3


class IsolationLevel(StrEnum):
    read_committed = "read_committed"
    read_uncommitted = "read_uncommitted"


def _separator(what: str) -> Any:
    return option("--key-separator", "-k", "-K", metavar="SEP", help=what)


@app.command()
def produce(
    ctx: typer.Context,
    topic: TopicName,
    file: Annotated[
        typer.FileBinaryRead | None,
        option("--file", "-F", metavar="FILE", help="Read this file instead of standard input."),
    ] = None,
    separator: Annotated[str | None, _separator("Separates key and value; \\t is a tab.")] = None,
    partition: Annotated[int | None, option("--partition", "-p", metavar="N", help="Send to this partition.")] = None,
    header: Annotated[
        list[str] | None,
        option("--header", "-H", metavar="NAME=VALUE", help="A header of every record; may be repeated."),
    ] = None,
    codec: Annotated[
        str | None, option("--compression", "-z", metavar="CODEC", help=f"One of {', '.join(CODECS)}.")
    ] = None,
    null: Annotated[
        bool, option("--null", "-Z", help="Send an empty key or value as null; a null value is a tombstone.")
    ] = False,
    directory: Directory = None,
    as_json: Annotated[
        bool, option("--json", help="Each line is a JSON object: value, key, headers, partition, timestamp_ms.")
    ] = False,
) -> None:
    """Send each line of standard input, or of a file, as one record."""
    as_json = wants_json(ctx, as_json)
    if as_json and (separator is not None or null):
        raise ConfigError(
            "-k and -Z do not go with --json: there the key is the field 'key', and null is null. Leave them out."
        )
    headers = tuple(map(parse_header, header or ()))
    parts_at = None if separator is None else parse_separator(separator)
    if file is None:
        streams.require_stdin()
    source = sys.stdin.buffer if file is None else file
    codec = None if codec is None else parse_codec(codec)
    with open_log(ctx, directory) as log:
        target = topic_called(log, topic)
        if partition is not None:
            places_in(target, [partition])  # raises before the first line is read
        before = _ends(target)
        if source.isatty():
            output.say("Each line is one record. Press Ctrl-D to end.", stderr=True, style="dim")
        producer = log.producer(linger_ms=_LINGER_MS, compression_type=codec)
        try:
            with producer:
                for number, line in enumerate(_lines(source), 1):
                    if as_json and not line.strip():
                        continue
                    try:
                        line = line.removesuffix(b"\n")
                        record = json_record(line) if as_json else text_record(line, parts_at, null=null)
                        _send(producer, target, record, headers, partition)
                    except (StreamlogError, TypeError, ValueError) as error:
                        before_it = " The lines before it are in the log." if number > 1 else ""
                        raise InvalidRecordError(f"Line {number}: {error}{before_it}") from error
        except KeyboardInterrupt:
            producer.close()  # the interrupt may have come just before that of the `with`; this sends the lines that were read
            _summarise(topic, list(map(range, before, _ends(target))), as_json)
            raise
        new = list(map(range, before, _ends(target)))
    _summarise(topic, new, as_json)


def _lines(source: BinaryIO) -> Iterator[bytes]:
    try:
        yield from source
    except OSError as error:
        name = "standard input" if source is sys.stdin.buffer else source.name
        raise OSError(error.errno, error.strerror, name) from error


def _ends(topic: streamlog.Topic[Any, Any]) -> list[int]:
    return [topic.partition(n).log_end_offset for n in range(topic.partitions)]


def _send(
    producer: streamlog.Producer,
    topic: streamlog.Topic[Any, Any],
    record: ProducerRecord,
    headers: tuple[tuple[str, bytes], ...],
    partition: int | None,
) -> None:
    producer.send(
        topic,
        record.value,
        record.key,
        headers=(*headers, *record.headers),
        partition=record.partition if partition is None else partition,
        timestamp_ms=record.timestamp_ms,
    )


def _summarise(topic: str, new: list[range], as_json: bool) -> None:
    """Print what was sent: all that is new in each partition, because only this process can write to the log."""
    count = sum(map(len, new))
    if as_json:
        offsets = {str(n): {"first_offset": at[0], "last_offset": at[-1]} for n, at in enumerate(new) if at}
        output.document({"topic": topic, "records": count, "partitions": offsets})
    else:
        output.say(f"{count:,} {plural('record', count)} sent to {topic}.", stderr=True)


@app.command()
def consume(
    ctx: typer.Context,
    topic: TopicName,
    offset: Annotated[
        list[str] | None,
        option(
            "--offset",
            "-o",
            metavar="OFFSET",
            help="Where to start, or where to end (e@TIME); see above. Default: beginning, with -g stored.",
        ),
    ] = None,
    partition: Partitions = None,
    count: Annotated[
        int | None,
        option("--count", "-c", "--max-messages", metavar="N", min=1, help="Stop after N records."),
    ] = None,
    follow: Annotated[
        bool, option("--follow/--exit", "-f/-e", help="At the end, wait for more records, or exit (the default).")
    ] = False,
    group: Annotated[
        str | None,
        option("--group", "-g", metavar="GROUP", help="Start at the committed offsets of this group, and commit."),
    ] = None,
    format_: Annotated[
        output.Format, option("--format", help="Only the value, the whole record, or JSON.")
    ] = output.Format.text,
    separator: Annotated[str | None, _separator("Print the key and SEP before the value.")] = None,
    isolation: Annotated[
        IsolationLevel,
        option("--isolation-level", help="read_uncommitted: also the records of open and aborted transactions."),
    ] = IsolationLevel.read_committed,
    skip_corrupt: Annotated[bool, option("--skip-corrupt", help="Skip damaged batches.")] = False,
    directory: Directory = None,
    as_json: Annotated[bool, option("--json", help="The same as --format json.")] = False,
) -> None:
    """Print the records of a topic, one per line, merged by timestamp.

    A pipe gets the values byte for byte; on a terminal, bytes that cannot be shown are escaped. Another process may
    have the log open, and --follow prints what it writes. Only -g, which commits, needs the log to be free.

    \b
    OFFSET is one of
      beginning, end, stored   stored: the committed offset of the group of -g
      5, -10                   offset 5; the last ten records of each partition
      @2026-01-01, @2026-01-01T12:00:00Z, @1767225600000, @-1h
                               the first record at or after this time (UTC)
      s@TIME, e@TIME           start and end: -o s@2026-01-01 -o e@2026-02-01
    """
    streams.require_stdout()
    start, end = parse_range(offset or (), SystemClock().time_ms())
    if end is not None and follow:
        raise ConfigError("An end (e@TIME) and --follow contradict each other. Leave one of them out.")
    if start is not None and start.kind == "stored" and group is None:
        raise ConfigError("-o stored needs a group: -g GROUP.")
    lines = output.Lines(
        output.Format.json if wants_json(ctx, as_json) else format_,
        None if separator is None else parse_separator(separator),
    )
    with open_log(ctx, directory, read_only=group is None) as log:
        source = topic_called(log, topic)
        places = places_in(source, partition)
        reading = _reading(isolation, skip_corrupt)
        with log.consumer(group=group, enable_auto_commit=False, **reading) as consumer:
            consumer.assign(places)
            begin = start or Position("stored" if group else "beginning")
            starts = locate(consumer, places, begin)
            stops = locate(consumer, places, end or Position("end"))
            held = [] if end or isolation is IsolationLevel.read_uncommitted else _held_back(source, places)
            reads = _following(consumer, starts, count) if follow else _bounded(source, starts, stops, count, reading)
            if follow:
                _say_held_back(held)
            for records in reads:
                lines.write(records)
                if group is not None:
                    consumer.commit({r.topic_partition: r.offset + 1 for r in records})
            if not follow:
                _say_held_back(held)


def _reading(isolation: IsolationLevel, skip_corrupt: bool) -> dict[str, Any]:
    """The settings of what reads the records."""
    return {"isolation_level": isolation.value, "on_corrupt": "skip" if skip_corrupt else "raise"}


def _held_back(topic: streamlog.Topic[Any, Any], places: list[TopicPartition]) -> list[str]:
    """The partitions in which a transaction that is open keeps readers from the end, and from which offset on."""
    infos = [topic.partition(place.partition) for place in places]
    return [
        f"{topic.name}-{info.partition} from offset {info.last_stable_offset}"
        for info in infos
        if info.last_stable_offset < info.high_watermark
    ]


def _say_held_back(held: list[str]) -> None:
    if held:
        more = f" and {len(held) - _SHOWN} more" if len(held) > _SHOWN else ""
        output.say(
            f"streamlog: open transactions hold back {', '.join(held[:_SHOWN])}{more}. `streamlog transactions list` shows them; "
            f"--isolation-level read_uncommitted prints the records.",
            stderr=True,
        )


def _bounded(
    topic: streamlog.Topic[Any, Any],
    starts: dict[TopicPartition, int],
    stops: dict[TopicPartition, int],
    count: int | None,
    reading: dict[str, Any],
) -> Iterator[list[Record[Any, Any]]]:
    """The records from `starts` up to `stops`, merged by timestamp. Each partition keeps its order."""
    reads = [_one(topic, place.partition, start, stops[place], reading) for place, start in starts.items()]
    merged = islice(heapq.merge(*reads, key=attrgetter("timestamp")) if len(reads) > 1 else reads[0], count)
    while records := list(islice(merged, _CHUNK)):
        yield records


def _one(
    topic: streamlog.Topic[Any, Any], partition: int, start: int, stop: int, reading: dict[str, Any]
) -> Iterator[Record[Any, Any]]:
    """The records of a partition from `start` up to `stop`. Those that are deleted before they are read are left out.

    The owner of the log may apply retention at any moment: after the start was looked up, and while records are printed.
    """
    begun = False
    while start < stop:
        try:
            for record in topic.read(partition, start=start, end=stop, **reading):
                begun, start = True, record.offset + 1
                yield record
            return
        except OffsetOutOfRangeError as error:
            if error.log_start_offset <= start:  # it is not retention: the log ends before `stop`
                raise
            left = min(error.log_start_offset, stop)
            if begun:
                lost = f"offsets {start} to {left - 1}"
                output.say(
                    f"streamlog: {topic.name}-{partition}: {lost} were deleted before they were read.", stderr=True
                )
            start = left


def _following(
    consumer: streamlog.Consumer[Any, Any], starts: dict[TopicPartition, int], count: int | None
) -> Iterator[list[Record[Any, Any]]]:
    """The records from `starts` on, at most `count` if given. Yields what there is before it waits for more."""
    for place, start in starts.items():
        consumer.seek(place, start)
    while count is None or count > 0:
        records = consumer.poll(_POLL_S, max_records=_CHUNK if count is None else min(count, _CHUNK))
        if records:
            yield records
            count = None if count is None else count - len(records)
