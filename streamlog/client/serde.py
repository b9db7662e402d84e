"""Keys, values and headers as bytes: the four Serdes of the library, and how a setting becomes a function.

A `Serde` is any object with `serialize` and `deserialize`. Neither is called with None: a missing key and a tombstone
are not values. Wherever a setting takes a Serde, it also takes a plain function, or a mapping from topic names to either.
`streamlog.serde` has the public names.

Whatever a serializer raises becomes a SerializationError, before anything is written.
"""

from __future__ import annotations

import json as _json
import re
from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeAlias, TypeVar

import msgpack as _msgpack

from ..config import shown, typed
from ..errors import ConfigError, SerializationError, message_of
from ..runtime.disk_errors import ends_in
from ..types import Bytes, HeaderTuple
from .handler import ASYNC, deferred

T = TypeVar("T")
Serialize: TypeAlias = Callable[[Any], Bytes]


class Serde(Protocol[T]):
    """How values of one type become bytes and back. A protocol: any object with these two methods is one.

    It is never called with None: a missing key and a tombstone are not values. It has to be thread-safe, because
    producers are. `streamlog.serde` has `bytes_`, `string`, `json` and `msgpack`. Given to `log.topic(name,
    value_serde=…)`, or as `value_serializer` of a producer, or as `value_deserializer` of a consumer.

    >>> import streamlog
    >>> class Cents:
    ...     def serialize(self, value):
    ...         return b"%d" % round(value * 100)
    ...     def deserialize(self, data):
    ...         return int(data) / 100
    >>> with streamlog.open(auto_create_topics=True) as log:
    ...     orders = log.topic("orders", value_serde=Cents())
    ...     _ = orders.send(9.50)
    ...     [record.value for record in orders.read()]
    [9.5]
    """

    def serialize(self, value: T, /) -> bytes:
        """The value as bytes. What it raises becomes a SerializationError of the send, which writes nothing."""

    def deserialize(self, data: bytes, /) -> T:
        """The value that the bytes mean. What it raises becomes a DeserializationError, which has the record."""


Ser: TypeAlias = Serde[Any] | Callable[[Any], Bytes] | Mapping[str, "Ser"]
"""What serializes; a mapping is by topic name."""
De: TypeAlias = Serde[T] | Callable[[bytes], T]
"""What deserializes to a T."""
DeByTopic: TypeAlias = Mapping[str, De[Any]]


class _Named:
    """A Serde whose repr, pickle and copy are its name in this module."""

    name: str

    def __repr__(self) -> str:
        return f"streamlog.serde.{self.name}"

    def __reduce__(self) -> str:
        return self.name


class BytesSerde(_Named):
    """Bytes as they are. Raises TypeError for a str; without a Serde a str is stored as UTF-8.

    >>> bytes_.serialize(bytearray(b"as it is"))
    b'as it is'
    """

    name = "bytes_"

    def serialize(self, value: bytes | bytearray | memoryview, /) -> bytes:
        if not isinstance(value, (bytes, bytearray, memoryview)):
            raise TypeError(f"streamlog.serde.bytes_ takes bytes, bytearray or memoryview, not {type(value).__name__}")
        return bytes(value)

    def deserialize(self, data: bytes, /) -> bytes:
        return data


class StringSerde(_Named):
    """str as UTF-8. Raises TypeError for any other type, UnicodeError for a str that UTF-8 cannot encode.

    >>> string.deserialize(string.serialize("Zürich"))
    'Zürich'
    """

    name = "string"

    def serialize(self, value: str, /) -> bytes:
        if not isinstance(value, str):
            raise TypeError(f"streamlog.serde.string takes str, not {type(value).__name__}")
        return value.encode("utf-8")

    def deserialize(self, data: bytes, /) -> str:
        return str(data, "utf-8")


class JsonSerde(_Named):
    """JSON in UTF-8, without spaces.

    Raises TypeError for types that JSON does not have, and ValueError for NaN and infinities, which are not valid JSON.
    A tuple is read back as a list.

    >>> json.serialize({"city": "Zürich", "delay": 4}).decode()
    '{"city":"Zürich","delay":4}'
    """

    name = "json"
    # json.dumps with an option makes an encoder for each call.
    _encode = _json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode
    _decode = _json.JSONDecoder().decode

    def serialize(self, value: Any, /) -> bytes:
        try:
            return self._encode(value).encode("utf-8")
        except ValueError as error:
            if "Out of range" not in str(error):  # of a list that holds itself, say
                raise
            raise ValueError(
                "JSON has no NaN and no infinity; give None instead, in pandas by "
                "frame.astype(object).where(frame.notna(), None).to_dict('records')"
            ) from None

    def deserialize(self, data: bytes, /) -> Any:
        return self._decode(str(data, "utf-8"))


class MsgpackSerde(_Named):
    """msgpack, with str and bytes kept apart.

    Extension types, timestamps included, raise ValueError in both directions: their meaning is not in the data. A length in
    the data that is larger than the data raises ValueError too. A tuple is read back as a list, so it cannot be a key of a
    map.

    >>> msgpack.deserialize(msgpack.serialize({"id": 7, "raw": b"x"}))
    {'id': 7, 'raw': b'x'}
    """

    name = "msgpack"
    # The bytes that begin an extension. Most values have none of them, and need not be decoded to be checked.
    _maybe_extension = re.compile(rb"[\xc7-\xc9\xd4-\xd8]").search

    def serialize(self, value: Any, /) -> bytes:
        data: bytes = _msgpack.packb(value, use_bin_type=True)
        if self._maybe_extension(data):
            self.deserialize(data)  # raises for an extension, which could not be read again
        return data

    def deserialize(self, data: bytes, /) -> Any:
        # max_ext_len alone accepts empty extensions, and the hook alone accepts timestamps.
        return _msgpack.unpackb(data, raw=False, strict_map_key=False, max_ext_len=0, ext_hook=_refuse_extension)


def _refuse_extension(code: int, _: bytes) -> Any:
    raise ValueError(f"msgpack extension type {code} is refused; pack its fields as a list or a map instead")


bytes_ = BytesSerde()
string = StringSerde()
json = JsonSerde()
msgpack = MsgpackSerde()


def resolve_serializer(ser: Ser | None, topic: str, what: str = "value") -> Serialize | None:
    """The function that serializes for `topic`, or None if bytes are stored as they are (`to_bytes`).

    `what`, "key" or "value", names the setting in errors. A mapping is checked whole; one without the topic means None.
    Raises ConfigError for a setting that is neither a Serde, a function nor a mapping.
    """
    return _resolve(ser, topic, f"{what}_serializer", "serialize")


def resolve_deserializer(
    de: De[Any] | DeByTopic | None, topic: str, what: str = "value"
) -> Callable[[bytes], Any] | None:
    """The function that deserializes for `topic`, or None if bytes are returned as they are.

    Otherwise as `resolve_serializer`.
    """
    function = _resolve(de, topic, f"{what}_deserializer", "deserialize")
    # None saves a call for each record.
    return None if function == bytes_.deserialize else function


def _resolve(given: Any, topic: str, setting: str, method: str) -> Callable[[Any], Any] | None:
    if given is None:
        return None
    function = getattr(given, method, None)
    if callable(function) and not isinstance(given, type):
        return _plain(function, setting)
    if isinstance(given, Mapping):
        resolved = {name: _resolve(value, topic, f"{setting}[{name!r}]", method) for name, value in given.items()}
        return resolved.get(topic)
    if callable(given) and function is None:
        return _plain(given, setting)
    raise ConfigError(
        f"{setting} is {typed(given)}, which has no {method}() and cannot be called{_meant(given)}; give a Serde such as "
        f"streamlog.serde.json, a function, or a mapping from topic names to either.",
        name=setting.partition("[")[0],
    )


def check_serde(given: Any, parameter: str) -> None:
    """Raise ConfigError for what serves neither direction; one that serves a single one is refused when the other is needed."""
    for value in given.values() if isinstance(given, Mapping) else (given,):
        works = any(callable(getattr(value, method, None)) for method in ("serialize", "deserialize"))
        if value is not None and (not (works or callable(value)) or (works and isinstance(value, type))):
            raise ConfigError(
                f"{parameter}={typed(value)} is not a Serde, an object with serialize() and deserialize(){_meant(value)}; "
                f"give one such as streamlog.serde.json.",
                name=parameter,
            )


def _meant(given: Any) -> str:
    """`" (did you mean streamlog.serde.json?)"` for a serde's name, or for a class; or an empty string."""
    if isinstance(given, type) and callable(getattr(given, "serialize", None)):
        return f" (did you mean an object of that class, {given.__name__}()?)"
    name = given if isinstance(given, str) else getattr(given, "__name__", "")
    serdes = {"json": json, "string": string, "str": string, "bytes": bytes_, "bytes_": bytes_, "msgpack": msgpack}
    return f" (did you mean {serdes[name]!r}?)" if isinstance(name, str) and name in serdes else ""


def _plain(function: Callable[[Any], Any], setting: str) -> Callable[[Any], Any]:
    """`function`. Raises ConfigError for an async one, which only makes a coroutine; a generator may be what is wanted."""
    kind = deferred(function)
    if kind == ASYNC:
        raise ConfigError(
            f"{setting}={shown(function)} is {kind}, and nothing would run it; give a plain one.", name=setting
        )
    return function


def to_bytes(value: Any, what: str) -> bytes | None:
    """A key, value or header as it is stored: bytes, or None. A str becomes UTF-8; bytes are not copied.

    Raises SerializationError (a TypeError) for other types. `what`, such as "key", names the thing in the message.

    >>> to_bytes("é", "value")
    b'\\xc3\\xa9'
    """
    if value is None or type(value) is bytes:
        return value
    if isinstance(value, str):
        try:
            return value.encode("utf-8")
        except UnicodeEncodeError as error:
            raise SerializationError(f"The {what} is a str that UTF-8 cannot encode: {error}.") from None
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value)
    remedy = (
        f"give a serializer: log.producer({what}_serializer=streamlog.serde.json), or "
        f"log.topic(name, {what}_serde=streamlog.serde.json)"
        if what in ("key", "value")
        else "convert it first"
    )
    raise SerializationError(
        f"The {what} is of type {type(value).__name__}, and a log holds bytes (bytes, bytearray, memoryview, "
        f"str as UTF-8, or None); {remedy}."
    )


def serialize(serializer: Serialize, item: Any, what: str) -> Any:
    """What the program's serializer makes of `item`, not checked. Raises SerializationError for whatever that raises."""
    try:
        return serializer(item)
    except Exception as error:
        raise SerializationError(
            f"The {what} serializer failed on a {type(item).__name__}: {message_of(error)}. The record was not sent."
        ) from (None if ends_in(error, "streamlog") else error)


def header_tuple(headers: Any) -> HeaderTuple:
    """Headers as they are stored, from a mapping or from pairs. Raises SerializationError.

    >>> header_tuple({"trace": "7f", "empty": None})
    (('trace', b'7f'), ('empty', None))
    """
    pairs = headers.items() if isinstance(headers, Mapping) else headers
    made: list[tuple[str, bytes | None]] = []
    try:
        for name, value in pairs:
            if not isinstance(name, str):
                raise SerializationError(f"A header's name is a str, not {typed(name)}.")
            name.encode()  # a lone surrogate is a str that cannot be written as UTF-8
            made.append((name, to_bytes(value, f"header {name!r}")))
    except UnicodeEncodeError as error:
        raise SerializationError(f"The name of a header is a str that UTF-8 cannot encode: {error}.") from None
    except (TypeError, ValueError) as error:
        if isinstance(error, SerializationError):
            raise
        raise SerializationError(
            f"headers= takes a mapping, such as {{'trace': b'7f'}}, or pairs, such as [('trace', b'7f')], of str to bytes, "
            f"str or None, not {typed(headers)}."
        ) from (None if ends_in(error, "streamlog") else error)  # an iterable of the program's may have raised it
    return tuple(made)
