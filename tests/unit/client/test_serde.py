"""Serdes turn values into bytes and back, and settings into the function that a topic's records go through."""

import array
import copy
import json
import pickle
from datetime import UTC, datetime
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamlog import serde
from streamlog.client import serde as functions
from streamlog.client.serde import to_bytes
from streamlog.errors import ConfigError, SerializationError

# Untyped on purpose: programs without a type checker pass anything.
resolve_serializer: Any = functions.resolve_serializer
resolve_deserializer: Any = functions.resolve_deserializer

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=20,
)
MSGPACK = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | TEXT | st.binary(),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(TEXT | st.binary() | st.integers(0, 9), inner, max_size=4)
    ),
    max_leaves=20,
)


@given(TEXT)
def test_string_is_utf_8(text: str) -> None:
    assert serde.string.serialize(text) == text.encode()
    assert serde.string.deserialize(text.encode()) == text


@given(JSON)
def test_json_returns_what_it_was_given_and_others_can_read_it(value: Any) -> None:
    data = serde.json.serialize(value)
    assert serde.json.deserialize(data) == json.loads(data) == value


@given(MSGPACK)
def test_msgpack_returns_what_it_was_given(value: Any) -> None:
    data = serde.msgpack.serialize(value)
    assert type(data) is bytes
    assert serde.msgpack.deserialize(data) == value


@given(st.binary())
def test_bytes_are_left_alone(data: Any) -> None:
    assert serde.bytes_.serialize(data) is data
    assert serde.bytes_.serialize(memoryview(data)) == data
    assert serde.bytes_.deserialize(data) is data


def test_json_is_compact_and_keeps_letters_as_they_are() -> None:
    assert serde.json.serialize({"city": "Zürich", "n": [1, 2]}) == '{"city":"Zürich","n":[1,2]}'.encode()


def test_msgpack_keeps_text_and_bytes_apart() -> None:
    assert serde.msgpack.deserialize(serde.msgpack.serialize([b"a", "a"])) == [b"a", "a"]


@pytest.mark.parametrize("value", [float("nan"), {"delay": float("-inf")}])
def test_json_says_what_to_send_for_a_number_that_it_does_not_have(value: Any) -> None:
    with pytest.raises(ValueError, match="give None instead"):
        serde.json.serialize(value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "\ud800", {1, 2}, b"raw", object()])
def test_json_refuses_what_other_readers_could_not_read(value: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        serde.json.serialize([value])


@pytest.mark.parametrize("value", [1, b"raw", ["text"]])
def test_string_takes_nothing_but_str(value: Any) -> None:
    with pytest.raises(TypeError, match=f"takes str, not {type(value).__name__}"):
        serde.string.serialize(value)


@pytest.mark.parametrize("value", [1, "text", [1, 2]])
def test_bytes_takes_nothing_but_bytes(value: Any) -> None:
    with pytest.raises(TypeError, match=f"not {type(value).__name__}"):
        serde.bytes_.serialize(value)


EXTENSIONS = [
    msgpack.ExtType(5, b""),
    msgpack.ExtType(5, b"four"),
    msgpack.ExtType(9, b"x" * 300),
    msgpack.Timestamp(1, 2),
]


@pytest.mark.parametrize("extension", EXTENSIONS, ids=repr)
def test_msgpack_extension_types_are_neither_written_nor_read(extension: Any) -> None:
    with pytest.raises(ValueError, match="ext"):
        serde.msgpack.serialize({"deep": [extension]})
    with pytest.raises(ValueError, match="ext"):
        serde.msgpack.deserialize(msgpack.packb({"deep": [extension]}))


def test_msgpack_takes_bytes_that_look_like_an_extension() -> None:
    value = [bytes(range(256)), "שלום ﷺ Привет"]
    assert serde.msgpack.deserialize(serde.msgpack.serialize(value)) == value


@pytest.mark.parametrize("value", [datetime(2026, 1, 1, tzinfo=UTC), {1, 2}, 2**64, object()])
def test_msgpack_refuses_what_it_has_no_form_for(value: Any) -> None:
    with pytest.raises((TypeError, ValueError, OverflowError)):
        serde.msgpack.serialize(value)


@pytest.mark.parametrize(
    "hostile",
    [
        b"",
        b"\xc1",
        b"\xc0\xc0",
        b"\xdd\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
        b"\xdb\x00\x00\x00\x02a",
        b"\xa1\xff",
        b"\x91" * 100_000,
    ],
    ids=["empty", "reserved", "two values", "huge list", "huge bytes", "cut string", "no UTF-8", "deep nesting"],
)
def test_hostile_msgpack_is_a_value_error(hostile: bytes) -> None:
    try:
        value = serde.msgpack.deserialize(hostile)
    except ValueError:
        return
    pytest.fail(f"deserialised to {value!r}")


@pytest.mark.parametrize("name", ["bytes_", "string", "json", "msgpack"])
def test_a_serde_is_shown_pickled_and_copied_by_its_name(name: str) -> None:
    one = getattr(serde, name)
    assert repr(one) == f"streamlog.serde.{name}"
    assert pickle.loads(pickle.dumps(one)) is copy.deepcopy(one) is one


def test_no_serializer_means_bytes_go_through() -> None:
    assert resolve_serializer(None, "t") is None
    assert resolve_deserializer(None, "t") is None
    assert resolve_deserializer(serde.bytes_, "t") is None


def test_a_serde_and_a_function_both_serialize() -> None:
    assert resolve_serializer(serde.json, "t")([1]) == b"[1]"
    assert resolve_deserializer(serde.json, "t")(b"[1]") == [1]
    assert resolve_serializer(str.encode, "t")("x") == b"x"
    assert resolve_deserializer(int, "t")(b"12") == 12


def test_an_object_with_only_one_direction_serves_that_direction() -> None:
    class OnlyOut:
        def serialize(self, value: Any) -> bytes:
            return b"out"

    assert resolve_serializer(OnlyOut(), "t")(1) == b"out"
    with pytest.raises(ConfigError, match=r"value_deserializer is .*OnlyOut.* no deserialize\(\)"):
        resolve_deserializer(OnlyOut(), "t")


def test_a_mapping_chooses_by_topic_and_leaves_other_topics_raw() -> None:
    by_topic = {"orders": serde.json, "names": str.encode, "raw": None}
    assert resolve_serializer(by_topic, "orders")([1]) == b"[1]"
    assert resolve_serializer(by_topic, "names")("x") == b"x"
    assert resolve_serializer(by_topic, "raw") is None
    assert resolve_serializer(by_topic, "elsewhere") is None
    assert resolve_deserializer({"orders": serde.json}, "orders")(b"[1]") == [1]


@pytest.mark.parametrize("wrong", ["json", 7, json, [serde.json], b"x"])
def test_what_cannot_serialize_is_refused_by_the_name_of_its_setting(wrong: Any) -> None:
    with pytest.raises(ConfigError, match=r"key_serializer is .*streamlog\.serde\.json"):
        resolve_serializer(wrong, "t", "key")
    with pytest.raises(ConfigError, match="value_deserializer is "):
        resolve_deserializer(wrong, "t")


def test_a_wrong_entry_of_a_mapping_is_refused_whichever_topic_is_asked_for() -> None:
    with pytest.raises(ConfigError, match=r"value_serializer\['orders'\] is 'json'"):
        resolve_serializer({"orders": "json"}, "elsewhere")


def test_bytes_like_values_and_text_become_bytes() -> None:
    data = b"as it is"
    assert to_bytes(data, "value") is data
    assert to_bytes(None, "value") is None
    assert to_bytes("Zürich", "key") == "Zürich".encode()
    for other in (bytearray(data), memoryview(data), memoryview(data + data)[:8], type("Sub", (bytes,), {})(data)):
        assert to_bytes(other, "value") == data
        assert type(to_bytes(other, "value")) is bytes
    assert to_bytes(memoryview(b"abcdef")[::2], "value") == b"ace"


@pytest.mark.parametrize("value", [7, 1.5, ["x"], {"a": 1}, (b"x",), True, object(), array.array("B", b"x")])
@pytest.mark.parametrize("what", ["key", "value"])
def test_any_other_type_is_refused_with_the_serializer_to_pass(value: Any, what: str) -> None:
    with pytest.raises(
        SerializationError,
        match=rf"The {what} is of type {type(value).__name__}.*{what}_serializer=streamlog\.serde\.json",
    ) as caught:
        to_bytes(value, what)
    assert isinstance(caught.value, TypeError)


def test_a_header_is_refused_without_naming_a_serializer_that_does_not_exist() -> None:
    with pytest.raises(SerializationError, match="The header 'trace' is of type int") as caught:
        to_bytes(7, "header 'trace'")
    assert "serializer" not in str(caught.value)


def test_text_that_utf_8_cannot_hold_is_refused() -> None:
    with pytest.raises(SerializationError, match="UTF-8 cannot encode"):
        to_bytes("\ud800", "value")
