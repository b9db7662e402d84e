"""Bytes that are no message: a typed error or a message, soon, and for no more memory than their own size and 1 MiB."""

from __future__ import annotations

import random
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamlog.kafka import messages, protocol
from streamlog.kafka.protocol import MalformedMessageError
from tests.kafka.random_messages import every_version, random_message

MIB = 1 << 20
VERSIONS = every_version()
# What a length is replaced with: as int16, int32, and compact.
LENGTHS = [
    b"\x7f\xff", b"\x80\x00", b"\xff\xfe", b"\x7f\xff\xff\xff", b"\x80\x00\x00\x00", b"\x00\x10\x00\x00", b"\xff\xff\xff\xfe",
    b"\xff\xff\xff\xff\x07", b"\x80\x80\x80\x80\x08", b"\xff\xff\xff\xff\xff\x7f", b"\xff\xff\x03",
]  # fmt: skip


def decoded_within_bounds(name: str, version: int, data: bytes) -> object:
    """The message or the error; the memory taken for it is bounded."""
    protocol.compiler.decoder(name, version), protocol.compiler.checker(name, version)
    tracemalloc.start()
    try:
        try:
            return protocol.decode(name, version, data)[0]
        except MalformedMessageError as error:
            return error.with_traceback(None)
        finally:
            assert tracemalloc.get_traced_memory()[1] <= len(data) + MIB
    finally:
        tracemalloc.stop()


def message_of(rng: random.Random) -> tuple[str, int, bytes]:
    name, version = rng.choice(VERSIONS)
    return name, version, b"".join(protocol.encode(name, version, random_message(rng, name, version)))


@settings(max_examples=max(150, settings().max_examples))
@given(st.randoms(use_true_random=False), st.data())
def test_a_truncated_message_is_malformed(rng: random.Random, data: st.DataObject) -> None:
    name, version, whole = message_of(rng)
    cut = data.draw(st.integers(0, max(0, len(whole) - 1)))
    if whole:
        assert isinstance(decoded_within_bounds(name, version, whole[:cut]), MalformedMessageError)


@settings(max_examples=max(150, settings().max_examples))
@given(st.randoms(use_true_random=False), st.data())
def test_a_changed_length_is_found_or_harmless(rng: random.Random, data: st.DataObject) -> None:
    name, version, whole = message_of(rng)
    at = data.draw(st.integers(0, len(whole)))
    length = data.draw(st.sampled_from(LENGTHS) | st.binary(min_size=1, max_size=6))
    kept = data.draw(st.sampled_from([0, len(length)]))
    decoded_within_bounds(name, version, whole[:at] + length + whole[at + kept :])


@settings(max_examples=max(150, settings().max_examples))
@given(st.sampled_from(VERSIONS), st.binary(max_size=200))
def test_arbitrary_bytes_are_harmless(version: tuple[str, int], data: bytes) -> None:
    decoded_within_bounds(*version, data)


@given(st.binary(max_size=40))
def test_arbitrary_frames_are_harmless(frame: bytes) -> None:
    try:
        header, at = protocol.decode_request_header(frame)
        low, high = protocol.versions_of(header.request_api_key)
        if low <= header.request_api_version <= high:
            protocol.decode_request(header, frame, at)
    except MalformedMessageError:
        pass


@pytest.mark.parametrize("length", LENGTHS)
def test_every_byte_of_every_message_may_be_a_length(length: bytes) -> None:
    rng = random.Random(length)
    for name, version in VERSIONS[::7]:
        whole = b"".join(protocol.encode(name, version, random_message(rng, name, version, most=1)))
        for at in range(0, min(len(whole), 300), 3):
            try:
                protocol.decode(name, version, whole[:at] + length + whole[at + len(length) :])
            except MalformedMessageError:
                continue


@pytest.mark.parametrize(
    ("name", "version", "data"),
    [
        # 8 million tiny elements, then a byte too few: the elements are not made to find that out.
        pytest.param("MetadataRequest", 9, b"\x81\x80\x80\x04" + b"\x01\x00" * (8 << 20), id="compact"),
        pytest.param("MetadataRequest", 1, b"\x00\x0f\x00\x00" + bytes(2 * 0xF0000 - 1), id="classic"),
        pytest.param("MetadataRequest", 1, b"\x7f\xff\xff\xff" + bytes(1 << 20), id="claimed"),
        pytest.param("LeaveGroupRequest", 3, b"\x00\x00\x00\x02\x00\x00" + bytes((1 << 19) - 1), id="structures"),
        pytest.param("ApiVersionsRequest", 3, b"\x01\x01\xff\xff\xff\x03" + bytes(4 << 20), id="tags"),
        pytest.param("ListOffsetsRequest", 6, b"\xff\xff\xff\xff\x00\xff\xff\xff\x07" + bytes(16 << 20), id="nested"),
    ],
)
def test_a_large_malformed_message_takes_no_more_memory_than_its_size(name: str, version: int, data: bytes) -> None:
    result = decoded_within_bounds(name, version, data)
    assert isinstance(result, MalformedMessageError)


@pytest.mark.parametrize("count", [b"\xff\xff\xff\xff\x0f", b"\xff\xff\xff\x7f"])
def test_a_claimed_count_makes_nothing(count: bytes) -> None:
    """Six bytes of this kind made another codec take gigabytes."""
    with pytest.raises(MalformedMessageError, match="more elements than bytes are left"):
        protocol.decode("MetadataRequest", 12, count + b"\x00")


@pytest.mark.parametrize("is_checked", [False, True], ids=["decoded", "checked"])
def test_a_string_has_no_more_bytes_than_kafka_takes(is_checked: bool) -> None:
    def end(group_id: str) -> int:
        b = b"".join(protocol.encode("HeartbeatRequest", 4, messages.HeartbeatRequest(group_id=group_id)))
        if is_checked:
            return protocol.compiler.checker("HeartbeatRequest", 4)(b, 0, len(b)) - len(b)
        message, at = protocol.compiler.decoder("HeartbeatRequest", 4)(b, memoryview(b), 0, len(b))
        assert message.group_id == group_id
        return at - len(b)

    assert end("g" * 32_767) == 0
    with pytest.raises(MalformedMessageError, match="more than 32767 bytes"):
        end("g" * 32_768)


@pytest.mark.parametrize("version", [4, 7])
def test_the_message_of_an_error_ends_where_a_string_has_to(version: int) -> None:
    Response = messages.CreateTopicsResponse
    response = Response(topics=[Response.CreatableTopicResult(name="t", error_message="é" * 20_000)])
    encoded = b"".join(protocol.encode("CreateTopicsResponse", version, response))
    (topic,) = protocol.decode("CreateTopicsResponse", version, encoded)[0].topics
    assert topic.error_message == "é" * 16_383
