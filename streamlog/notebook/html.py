"""What a notebook shows of a log, a topic, a group, a batch, a read, some records and the rows of a query: a line and a table, as HTML.

A notebook shows the value of each cell, so this is cheap, and never raises: what cannot be read is a line of text. It never
waits for long either: it asks the service of the log, whose calls do not wait for a leader as those of the handles do.

Keys, values, names and errors are text of others. All of it is escaped, and cut: `CELL` characters of a cell, `RECORDS`
records or rows of a query, `COLUMNS` columns, `ROWS` rows of any other table. What is not printable is shown as Python escapes it, so no control character,
surrogate or mark of a direction of writing gets into the page. There are no colours and no fonts: the page's own count.
"""

from __future__ import annotations

import codecs
import reprlib
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from decimal import Decimal
from functools import wraps
from html import escape
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

from ..client.topic import Topic
from ..errors import RequestTimedOutError, describe
from ..runtime.api import Completion
from ..runtime.threads import wait_for
from ..types import PartitionInfo, Record, TopicPartition

if TYPE_CHECKING:
    from ..client.group import ConsumerGroup
    from ..client.record_tuple import RecordTuple
    from ..client.sql import SqlResult
    from ..client.streamlog import StreamLog
    from ..client.topic import Records

T = TypeVar("T")

RECORDS = 10
"""How many records a table has."""
ROWS = 20
"""How many rows every other table has: topics, partitions, members."""
COLUMNS = 30
"""How many columns of the rows of a query are shown."""
CELL = 200
"""How many characters of a value are shown."""
_LINE = 500  # of a line of text, such as an error
_PARTITIONS = 500  # that are looked at
_ANSWER_S = 0.5  # how long (real seconds) an answer of the coordinator is waited for

_CELL_STYLE = "text-align: left; vertical-align: top; overflow-wrap: anywhere"

_short = reprlib.Repr()
_short.maxlevel = 4
_short.maxdict = _short.maxlist = _short.maxtuple = _short.maxset = _short.maxfrozenset = _short.maxdeque = 12
_short.maxstring = _short.maxlong = _short.maxother = CELL


# -- text ------------------------------------------------------------------------------------------------


def printable(text: str, most: int = CELL) -> str:
    """The text, cut to so many characters, with an escape for each that is not printable."""
    shown = "".join(each if each.isprintable() else _escaped(each) for each in text[:most])
    return shown if len(text) <= most else f"{shown}… ({len(text):,} characters)"


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def text_of(value: object) -> str:
    """A key or a value in a line: bytes that are UTF-8 as their text, other bytes and other values as their repr, shortened."""
    if isinstance(value, (bytes, bytearray, memoryview)):
        return _text_of_bytes(bytes(value))
    if isinstance(value, str):
        return printable(value)
    try:
        return printable(_short.repr(value))
    except Exception:
        return f"a {type(value).__name__} that cannot be shown"


def _text_of_bytes(data: bytes) -> str:
    start = data[: 4 * CELL]  # no character has more bytes
    try:
        # Not `final` if it is cut: the last character may be cut too.
        text = codecs.getincrementaldecoder("utf-8")().decode(start, final=len(start) == len(data))
    except UnicodeDecodeError:
        start = data[: CELL // 4]
        return repr(start) if len(start) == len(data) else f"{start!r}… ({len(data):,} bytes)"
    if len(start) == len(data) and len(text) <= CELL:
        return printable(text)
    return f"{printable(text[:CELL])}… ({len(data):,} bytes)"


def type_of(values: Iterable[object]) -> str:
    """The types of these values, each once, None left out: what a column holds."""
    names = dict.fromkeys(type(value).__name__ for value in values if value is not None)
    return printable(", ".join(islice(names, 4)), 80)


def size_of(count: int) -> str:
    """A number of bytes in a unit that keeps it short."""
    size = float(count)
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:,.1f} TiB"


def counted(number: int, what: str) -> str:
    """`1 partition`, `2 partitions`."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


# -- HTML ------------------------------------------------------------------------------------------------


def line(*parts: str) -> str:
    """A paragraph of parts that are HTML already."""
    return f"<p>{''.join(parts)}</p>"


def strong(text: str) -> str:
    return f"<b>{escape(printable(text, _LINE))}</b>"


def plain(text: str) -> str:
    return escape(printable(text, _LINE))


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], types: Sequence[str] | None = None) -> str:
    """A table. `columns` and `types` are the names and the types of its columns, which may be ''. Numbers are aligned to the right."""
    heads = "".join(
        f'<th style="text-align: left">{plain(name)}{f"<br><small>{plain(kind)}</small>" if kind else ""}</th>'
        for name, kind in zip(columns, types or [""] * len(columns), strict=True)
    )
    body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows)
    return f"<table><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>"


def _cell(value: object) -> str:
    if value is None:
        return f'<td style="{_CELL_STYLE}"><i>None</i></td>'
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 10**30:
        return f'<td style="text-align: right; vertical-align: top">{value}</td>'
    # Text may be written from the right: then only its own cell is.
    return f'<td dir="auto" style="{_CELL_STYLE}">{escape(text_of(value))}</td>'


def more(count: int, what: str) -> str:
    """A line that says how many rows are left out; '' if none are."""
    return line(f"… and {plain(counted(count, f'more {what}'))}") if count > 0 else ""


def error_line(error: BaseException) -> str:
    return line("<i>", plain(describe(error)), "</i>")


def never_raises(show: Callable[[Any], str]) -> Callable[[Any], str]:
    """An error, other than Ctrl-C, in place of what is shown: a notebook would print a traceback of the library instead."""

    @wraps(show)
    def shown(value: Any) -> str:
        try:
            return f"<div>{show(value)}</div>"
        except Exception as error:
            return f"<div>{line(strong(type(value).__name__))}{error_line(error)}</div>"

    return shown


# -- records ---------------------------------------------------------------------------------------------

_COLUMNS = ("partition", "offset", "timestamp", "key", "value", "headers")


def _table_of_records(records: Sequence[Record[Any, Any]]) -> str:
    types = (
        *("int", "int", "UTC, ms"),
        type_of(record.key for record in records),
        type_of(record.value for record in records),
        "",
    )
    columns, kinds = list(_COLUMNS), list(types)
    rows: list[list[object]] = [
        [record.partition, record.offset, _moment(record), record.key, record.value, _headers(record)]
        for record in records
    ]
    if not any(record.headers for record in records):
        columns, kinds, rows = columns[:-1], kinds[:-1], [row[:-1] for row in rows]
    return table(columns, rows, kinds)


def _moment(record: Record[Any, Any]) -> str:
    try:
        return record.datetime.replace(tzinfo=None).isoformat(" ", "milliseconds")
    except (ValueError, OverflowError, OSError):  # no year that a calendar of Python has
        return str(record.timestamp)


def _headers(record: Record[Any, Any]) -> str:
    shown = [
        f"{printable(name, 40)}={'None' if value is None else text_of(value)}" for name, value in record.headers[:8]
    ]
    more_of_them = len(record.headers) - len(shown)
    return ", ".join(shown) + (f" and {more_of_them} more" if more_of_them > 0 else "")


@never_raises
def of_records(records: Records[Any, Any]) -> str:
    """A read: its ranges and the first records. It does not take them from the read: they are read once more."""
    read = records._read
    if read is None:
        return line(strong("Records"))
    ranges = [(name.partition, start, max(start, end)) for name, start, end, _ in read.ranges]
    topic = read.ranges[0].name.topic
    offsets = sum(stop - start for _, start, stop in ranges)
    shown = ", ".join(f"{number} [{start}, {stop})" for number, start, stop in ranges[:ROWS])
    if len(ranges) > ROWS:
        shown += f" and {len(ranges) - ROWS} more"
    if read.order == "time":
        shown += ", by time"
    head = line(strong("Records"), plain(f" of {topic}: a read of {counted(offsets, 'offset')}, of partition {shown}"))
    if not offsets:
        return head
    if read.order == "time" and sum(start < stop for _, start, stop in ranges) > _PARTITIONS:
        return head + line(
            "Its first records are not shown: a record of each partition would have to be read for that."
        )
    found: list[Record[Any, Any]] = []
    failed = ""
    try:
        found.extend(read.first(RECORDS + 1, retries=False))
    except Exception as error:
        failed = error_line(error)
    rows = found[:RECORDS]
    note = line("It begins with these; the read itself is left where it is.") if len(found) > RECORDS else ""
    return head + (_table_of_records(rows) if rows else "") + note + failed


@never_raises
def of_record_tuple(records: RecordTuple[Any, Any]) -> str:
    """What `head`, `tail` and `at` return: the first of them."""
    topic = f" of {records[0].topic}" if records else ""
    head = line(strong(counted(len(records), "record")), plain(topic))
    if not records:
        return head
    return head + _table_of_records(records[:RECORDS]) + more(len(records) - RECORDS, "record")


@never_raises
def of_batch(batch: Any) -> str:
    """A RecordBatch: the first of its records, of which only these are deserialized."""
    last = f"{batch.base_offset} to {batch.last_offset}" if len(batch) else f"none before {batch.next_offset}"
    head = line(
        strong("RecordBatch"),
        plain(f" of {batch.topic}-{batch.partition}: {counted(len(batch), 'record')}, offsets {last}"),
    )
    if not len(batch):
        return head
    try:
        return head + _table_of_records(batch._first(RECORDS)) + more(len(batch) - RECORDS, "record")
    except Exception as error:
        return head + error_line(error)


# -- rows of a query -------------------------------------------------------------------------------------


@never_raises
def of_sql_result(result: SqlResult) -> str:
    """The rows of a query: the first of them, with the type of each column."""
    data = result.to_arrow()
    shown = data.select(list(range(min(COLUMNS, data.num_columns)))).slice(0, RECORDS)
    head = line(
        strong(counted(data.num_rows, "row")),
        plain(f" of {counted(data.num_columns, 'column')}, the result of a query"),
    )
    kinds = [printable(str(field.type), 80) for field in shown.schema]
    columns = [_entries(column) for column in shown.columns]
    return (
        head
        + table(shown.column_names, zip(*columns, strict=True), kinds)
        + more(data.num_columns - COLUMNS, "column")
        + more(data.num_rows - RECORDS, "row")
    )


def _entries(column: Any) -> list[object]:
    found: list[object] = []
    for entry in column:
        try:
            value = entry.as_py()
        except (ValueError, OverflowError):  # a time that Python's calendar does not have, such as infinity
            value = f"a {type(entry).__name__} out of range"
        if hasattr(value, "isoformat") or isinstance(value, (Decimal, timedelta)):
            value = str(value)
        found.append(value)
    return found


# -- handles ---------------------------------------------------------------------------------------------


@never_raises
def of_log(log: StreamLog) -> str:
    """A log: its directory, its brokers, its first topics."""
    where = "temporary" if log.path is None else log.path
    if log.closed:
        return line(strong("StreamLog"), plain(f" {where}: closed"))
    names = list(log)
    brokers = log.brokers
    stopped = [str(broker.id) for broker in brokers if not broker.running]
    state = f", of which {', '.join(stopped[:ROWS])} does not run" if stopped else ""
    head = line(
        strong("StreamLog"),
        plain(f" {where}: {counted(len(names), 'topic')}, {counted(len(brokers), 'broker')}{state}"),
    )
    if not names:
        return head
    rows: list[list[object]] = []
    left = _PARTITIONS
    for name in names[:ROWS]:
        row, partitions = _row_of_topic(log, name, left)
        rows.append(row)
        left -= partitions
    return head + table(("topic", "partitions", "offsets in use", "size"), rows) + more(len(names) - ROWS, "topic")


def _row_of_topic(log: StreamLog, name: str, most: int) -> tuple[list[object], int]:
    """The row, and how many partitions were looked at for it: none of a topic that has more than `most`."""
    try:
        topic: Topic[Any, Any] = Topic(log, name)
        partitions = topic.partitions
        if partitions > most:
            return [name, partitions, "not counted", "not counted"], 0
        infos = [topic.partition(number) for number in range(partitions)]
    except Exception as error:
        return [name, "", describe(error), ""], 0
    offline = sum(info.leader < 0 for info in infos)
    if offline:
        return [name, partitions, f"{counted(offline, 'partition')} without a leader", ""], partitions
    size = size_of(sum(info.size_bytes for info in infos))
    return [name, partitions, sum(map(_offsets_in, infos)), size], partitions


def _offsets_in(info: PartitionInfo) -> int:
    return max(0, info.high_watermark - info.log_start_offset)


@never_raises
def of_topic(topic: Topic[Any, Any]) -> str:
    """A topic: the settings that were given for it, and its first partitions."""
    view = topic._seen()
    if isinstance(view, str):
        return line(strong("Topic"), plain(f" {topic.name}: {view}"))
    settings = topic.config
    given = ", ".join(f"{name}={text_of(settings[name])}" for name in sorted(view.explicit) if name in settings)
    serdes = [(name, serde) for name, serde in (("key", topic._key_serde), ("value", topic._value_serde)) if serde]
    types = ", ".join(f"{name}s by {text_of(serde)}" for name, serde in serdes) or "keys and values are bytes"
    rows = [_row_of_partition(topic, number) for number in range(min(ROWS, view.partitions))]
    columns = ("partition", "leader", "in sync", "log start", "high watermark", "offsets in use", "size")
    return (
        line(strong("Topic"), plain(f" {topic.name}: {counted(view.partitions, 'partition')}; {types}"))
        + (line(plain(given)) if given else "")
        + table(columns, rows)
        + more(view.partitions - ROWS, "partition")
    )


def _row_of_partition(topic: Topic[Any, Any], number: int) -> list[object]:
    try:
        info = topic.partition(number)
    except Exception as error:
        return [number, "", "", "", "", describe(error), ""]
    in_sync = ", ".join(map(str, info.isr[:ROWS]))
    if info.leader < 0:
        return [number, "none", in_sync, "", "", "no broker leads it, so it cannot be read now", ""]
    ends = (info.log_start_offset, info.high_watermark, _offsets_in(info))
    return [number, info.leader, in_sync, *ends, size_of(info.size_bytes)]


@never_raises
def of_group(group: ConsumerGroup) -> str:
    """A group: its state, its members, and its lag in the partitions where that is greatest."""
    log: Any = group._log
    if log.closed:
        return line(strong("ConsumerGroup"), plain(f" {group.name}: the log is closed"))
    service = log._use(retries=False)
    described = _soon(service.describe_group(group.name))
    members = described.members
    head = f" {group.name}: {described.state}, {counted(len(members), 'member')}"
    try:
        committed = {name: at.offset for name, at in _soon(service.committed(group.name, None)).items()}
        lag = group._lag_of(service, described, committed)
    except Exception as error:  # a partition without a leader, say
        return line(strong("ConsumerGroup"), plain(head)) + _members(group, members) + error_line(error)
    head += f", lag {sum(lag.values()):,}"
    return line(strong("ConsumerGroup"), plain(head)) + _members(group, members) + _lags(lag, committed)


def _members(group: ConsumerGroup, members: Sequence[Any]) -> str:
    if not members:
        return ""
    local = group._log._local_members.others(group.name, None)
    made = {member.member_id: member.created_at for member in local}
    rows = (
        [member.member_id, member.client_id, made.get(member.member_id), _partitions(member.assignment)]
        for member in members[:ROWS]
    )
    columns = ("member", "client", "made at", "partitions")
    return table(columns, rows) + more(len(members) - ROWS, "member")


def _partitions(assignment: Iterable[TopicPartition]) -> str:
    names = sorted(assignment)
    shown = ", ".join(f"{topic}-{number}" for topic, number in names[:6])
    return shown + (f" and {len(names) - 6} more" if len(names) > 6 else "")


def _lags(lag: dict[TopicPartition, int], committed: dict[TopicPartition, int]) -> str:
    if not lag:
        return ""
    names = sorted(lag, key=lambda name: (-lag[name], name))[:ROWS]
    rows = ([name.topic, name.partition, committed.get(name), lag[name]] for name in sorted(names))
    return table(("topic", "partition", "committed", "lag"), rows) + more(len(lag) - ROWS, "partition")


def _soon(answer: Completion[T]) -> T:
    """Raises RequestTimedOutError if it takes long, as where a partition of the coordinator has no leader."""
    if not wait_for(answer, _ANSWER_S):
        raise RequestTimedOutError(f"The coordinator has not answered for {_ANSWER_S} s. Show it again later.")
    return answer.result()
