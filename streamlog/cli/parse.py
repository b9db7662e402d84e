"""From what the user types to offsets, times, settings and records.

Everything here raises ConfigError or InvalidRecordError. The message quotes the text that is wrong.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple, Protocol

from ..config import CODECS, DURATIONS, SIZES, TopicConfig, scaled, unknown
from ..errors import ConfigError, InvalidRecordError, OffsetOutOfRangeError, did_you_mean
from ..types import OffsetAndTimestamp, ProducerRecord, TopicPartition

_WORDS = {"beginning": "beginning", "earliest": "beginning", "end": "end", "latest": "end", "stored": "stored"}
_UNLIMITED = ("none", "unlimited")
_EXAMPLES = "beginning, end, stored, 5, -10, @2026-01-01, @2026-01-01T12:00:00Z, @-1h or @1767225600000"
_SETTINGS = {field.name: field.default for field in dataclasses.fields(TopicConfig) if field.name != "retention"}
# Parameters of `create_topic` that --config does not take → what to do instead.
_NOT_SETTINGS = {
    "partitions": "the number of partitions is an option of its own: --partitions N.",
    "num_partitions": "the number of partitions is an option of its own: --partitions N.",
    "replication_factor": "the number of replicas is an option of its own: --replication-factor N.",
    "replicas": "the number of replicas is an option of its own: --replication-factor N.",
    "retention": "a retention policy is written in Python, and cannot be given here. Limit what the topic keeps with "
    "retention_ms=7d, retention_bytes=1GiB or retention_records=1000.",
}
_RECORD_FIELDS = ("key", "value", "headers", "partition", "timestamp_ms", "key_base64", "value_base64")
# `consume --json` writes these. A copy of the record gets its own.
_IGNORED_FIELDS = ("topic", "offset")


class Position(NamedTuple):
    """A position in a partition, as typed. `kind`: beginning, end, stored, offset, tail, or time (ms)."""

    kind: str
    value: int = 0


class Offsets(Protocol):
    """The methods of a consumer that `locate` calls."""

    def beginning_offsets(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]: ...
    def end_offsets(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]: ...
    def committed(self, partition: TopicPartition) -> int | None: ...
    def offsets_for_times(
        self, times: Mapping[TopicPartition, int]
    ) -> dict[TopicPartition, OffsetAndTimestamp | None]: ...


# -- offsets and times -----------------------------------------------------------------------------------


def parse_time(text: str, now_ms: int) -> int:
    """Milliseconds since the epoch: an ISO date or time (UTC unless it says otherwise), `-1h`, or the number itself.

    >>> parse_time("2026-01-01", 0), parse_time("2026-01-01T01:00:00+01:00", 0), parse_time("-1h", 7_200_000)
    (1767225600000, 1767225600000, 3600000)
    """
    if re.fullmatch(r"\d{5,}", text):
        return int(text)
    ago = re.fullmatch(r"-(\d+)(ms|[smhdw])", text)
    if ago is not None:
        return max(0, now_ms - int(ago[1]) * DURATIONS[ago[2]])
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigError(
            f"{text!r} is not a time: give 2026-01-01, 2026-01-01T12:00:00Z, -1h (an hour ago) or ms since 1970."
        ) from None
    return round((when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp() * 1000)


def parse_position(text: str, now_ms: int) -> Position:
    """A position, in the notation of kcat: a word, an offset, a count from the end, or `@` and a time.

    >>> parse_position("-10", 0), parse_position("earliest", 0), parse_position("@1970-01-02", 0).value
    (Position(kind='tail', value=10), Position(kind='beginning', value=0), 86400000)
    """
    if text in _WORDS:
        return Position(_WORDS[text])
    if text.startswith("@"):
        return Position("time", parse_time(text[1:], now_ms))
    if re.fullmatch(r"-?\d{1,18}", text):
        return Position("tail", -int(text)) if text.startswith("-") else Position("offset", int(text))
    raise ConfigError(f"{text!r} is not an offset{did_you_mean(text, _WORDS)}: give {_EXAMPLES}.")


def parse_codec(text: str) -> str:
    """A compression codec by its name. Raises ConfigError."""
    if text not in CODECS:
        raise ConfigError(f"{text!r} is not a codec{did_you_mean(text, CODECS)}: give one of {', '.join(CODECS)}.")
    return text


def parse_range(texts: Sequence[str], now_ms: int) -> tuple[Position | None, Position | None]:
    """The start and the end: at most one of each. An end is `e@TIME`; a start has any form, or is `s@TIME`."""
    start: Position | None = None
    end: Position | None = None
    for text in texts:
        if text.startswith("e@"):
            if end is not None:
                raise ConfigError(f"Two ends are given; {text!r} is the second.")
            end = parse_position(text[1:], now_ms)
        elif start is not None:
            raise ConfigError(f"Two starts are given; {text!r} is the second. An end is written e@TIME.")
        else:
            start = parse_position(text.removeprefix("s") if text.startswith("s@") else text, now_ms)
    return start, end


def locate(offsets: Offsets, partitions: Sequence[TopicPartition], position: Position) -> dict[TopicPartition, int]:
    """The offset of `position` in each partition, clipped to the partition's bounds.

    An offset for a single partition is not clipped: raises OffsetOutOfRangeError with a message that names the bounds.
    """
    first, last = offsets.beginning_offsets(partitions), offsets.end_offsets(partitions)
    if position.kind == "beginning":
        return first
    if position.kind == "end":
        return last
    if position.kind == "time":
        found = offsets.offsets_for_times(dict.fromkeys(partitions, position.value))
        return {p: last[p] if (there := found[p]) is None else there.offset for p in partitions}
    if position.kind == "offset" and len(partitions) == 1:
        [p] = partitions
        if not first[p] <= position.value <= last[p]:
            raise OffsetOutOfRangeError(
                f"Offset {position.value} is outside {p.topic}-{p.partition}, which holds {first[p]} up to, not including, "
                f"{last[p]}. Give -o an offset in that range, beginning or end.",
                log_start_offset=first[p],
                log_end_offset=last[p],
            )
        return {p: position.value}
    placed = dict(first)
    for p in partitions:
        at = offsets.committed(p) if position.kind == "stored" else position.value
        if at is not None:
            placed[p] = min(max(last[p] - at if position.kind == "tail" else at, first[p]), last[p])
    return placed


# -- settings --------------------------------------------------------------------------------------------


def parse_setting(text: str, altered: str | None = None) -> tuple[str, Any]:
    """`name=value` as a setting of a topic and its value. Kafka's names with dots are accepted. `altered`: a topic that is there.

    >>> parse_setting("retention.ms=7d"), parse_setting("segment_bytes=64MiB"), parse_setting("retention_bytes=none")
    (('retention_ms', 604800000), ('segment_bytes', 67108864), ('retention_bytes', None))
    """
    name, equals, value = text.partition("=")
    if not equals:
        raise ConfigError(f"{text!r} is not a setting: write NAME=VALUE, such as --config retention_ms=7d.")
    name = name.strip().replace(".", "_")
    if altered is not None and name in ("replication_factor", "replicas"):
        raise ConfigError(
            f"{text!r}: replicas are changed by another command: streamlog topic reassign {altered} --replication-factor "
            f"{value.strip() if value.strip().isdecimal() else 'N'}",
            name=name,
        )
    if name in _NOT_SETTINGS:
        raise ConfigError(f"{text!r}: {_NOT_SETTINGS[name]}", name=name)
    default = _SETTINGS.get(name)
    if name not in _SETTINGS:
        raise unknown(name, _SETTINGS, "topic", in_python=False)
    if isinstance(default, bool):
        flag = {"true": True, "false": False}.get(value.lower())
        if flag is None:
            raise ConfigError(f"{name}={value!r}: give true or false.", name=name)
        return name, flag
    if isinstance(default, float):
        try:
            return name, float(value)
        except ValueError:
            raise ConfigError(f"{name}={value!r}: give a number.", name=name) from None
    if isinstance(default, int):
        if value.lower() in _UNLIMITED:
            return name, None
        units = DURATIONS if name.endswith("_ms") else SIZES if name.endswith("_bytes") else {}
        number = scaled(value, units)
        if number is None:
            one_of = f", alone or with one of {', '.join(units)}" if units else ""
            raise ConfigError(f"{name}={value!r}: give a whole number{one_of}.", name=name)
        return name, number
    return name, value


def parse_header(text: str) -> tuple[str, bytes]:
    """`NAME=VALUE` as a header. A value may be any bytes.

    >>> parse_header("coupon=SPRING")
    ('coupon', b'SPRING')
    """
    name, equals, value = text.partition("=")
    if not equals:
        raise ConfigError(f"{text!r} is not a header: write NAME=VALUE.")
    try:
        name.encode()
    except UnicodeEncodeError:
        raise ConfigError(f"The name of the header {text!r} is not UTF-8. Only its value may be any bytes.") from None
    return name, typed_bytes(value)


def typed_bytes(text: str) -> bytes:
    r"""An argument as the bytes that were typed: Python has escaped those that are not UTF-8.

    >>> typed_bytes("\udcff")
    b'\xff'
    """
    return text.encode("utf-8", "surrogateescape")


def parse_separator(text: str) -> bytes:
    r"""A key separator. Escapes such as `\t` and `\x00` are decoded, because a shell does not decode them.

    >>> parse_separator(r"\t")
    b'\t'
    """
    try:
        separator = typed_bytes(text.encode("latin-1", "backslashreplace").decode("unicode_escape"))
    except UnicodeError:
        separator = typed_bytes(text)
    if not separator:
        raise ConfigError("The separator between key and value is empty. Give at least one character.")
    return separator


# -- lines that become records ---------------------------------------------------------------------------


def text_record(line: bytes, separator: bytes | None, *, null: bool) -> ProducerRecord:
    """A line, without its line end, as a record. Without the separator it has no key. `null`: empty means None.

    >>> text_record(b"alice:9.50", b":", null=False)[:2]
    (b'9.50', b'alice')
    """
    key: bytes | None = None
    value: bytes | None = line
    if separator is not None and separator in line:
        key, _, value = line.partition(separator)
    if null:
        key, value = key or None, value or None
    return ProducerRecord(value, key)


def json_record(line: bytes) -> ProducerRecord:
    """A record from a JSON object with any of value, key, headers, partition and timestamp_ms.

    A string becomes UTF-8, null becomes None, any other value its JSON text. `key_base64` and `value_base64` hold
    bytes. What `consume --json` prints is accepted.
    """
    try:
        data = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InvalidRecordError(f"This is not JSON: {error}.") from None
    if not isinstance(data, dict):
        raise InvalidRecordError(f"A record is a JSON object such as {{'key': 'k', 'value': 'v'}}, not {line[:40]!r}.")
    for name in data:
        if name not in _RECORD_FIELDS and name not in _IGNORED_FIELDS:
            hint = did_you_mean(name, _RECORD_FIELDS)
            raise InvalidRecordError(
                f"{name!r} is not a field of a record{hint}. The fields are: {', '.join(_RECORD_FIELDS)}."
            )
    return ProducerRecord(
        _field(data, "value"),
        _field(data, "key"),
        _headers(data.get("headers") or ()),
        _whole(data, "partition"),
        _whole(data, "timestamp_ms"),
    )


def _field(data: Mapping[str, Any], name: str) -> bytes | None:
    encoded = data.get(f"{name}_base64")
    if encoded is None:
        value = data.get(name)
        if value is None:
            return None
        return _utf8(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
    if data.get(name) is not None:
        raise InvalidRecordError(f"Both {name} and {name}_base64 are given. Leave one of them out.")
    return _unbase64(encoded)


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise InvalidRecordError(
            f"{text[:40]!r} has half of a surrogate pair, which UTF-8 cannot encode. Give the bytes as base64."
        ) from None


def _unbase64(text: object) -> bytes:
    try:
        return base64.b64decode(text if isinstance(text, str) else "?", validate=True)
    except (binascii.Error, ValueError):
        raise InvalidRecordError(f"{str(text)[:40]!r} is not base64.") from None


def _whole(data: Mapping[str, Any], name: str) -> int | None:
    value = data.get(name)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
        raise InvalidRecordError(f"{name} has to be an integer, not {value!r}.")
    return value


def _headers(given: object) -> tuple[tuple[str, bytes | None], ...]:
    """Headers from an object, or from an array of [name, value]. A value may be {"base64": …}."""
    pairs = list(given.items()) if isinstance(given, dict) else given
    headers: list[tuple[str, bytes | None]] = []
    for pair in pairs if isinstance(pairs, (list, tuple)) else (pairs,):
        if not isinstance(pair, (list, tuple)) or len(pair) != 2 or not isinstance(pair[0], str):
            raise InvalidRecordError(f"headers have to be an object or an array of [name, value], not {given!r}.")
        name, value = pair
        if isinstance(value, dict) and value.keys() == {"base64"}:
            headers.append((name, _unbase64(value["base64"])))
        elif value is None or isinstance(value, str):
            headers.append((name, None if value is None else _utf8(value)))
        else:
            raise InvalidRecordError(f"The header {name!r} is a string, null or {{'base64': …}}, not {value!r}.")
    return tuple(headers)
