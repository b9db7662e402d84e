"""Frames to messages and back: headers, versions, what is copied and what is not."""

from __future__ import annotations

import random
import struct
import subprocess
import sys

import pytest

from streamlog.kafka import messages, protocol
from streamlog.kafka.compiler import MAX_ELEMENTS, checker, source_of
from streamlog.kafka.protocol import MalformedMessageError
from tests.bytecodes import bytecodes
from tests.kafka.random_messages import every_version, random_message

Fetch = messages.FetchResponse


def header(key: int, version: int, client_id: str | None = "me") -> messages.RequestHeader:
    return messages.RequestHeader(
        request_api_key=key, request_api_version=version, correlation_id=7, client_id=client_id
    )


@pytest.mark.parametrize("name", dict.fromkeys(name for name, _ in every_version()))
def test_what_is_encoded_is_decoded(name: str) -> None:
    rng = random.Random(name)
    for _, version in (each for each in every_version() if each[0] == name):
        for most in (1, 3):
            message = random_message(rng, name, version, most)
            data = b"".join(protocol.encode(name, version, message))
            assert protocol.decode(name, version, data) == (message, len(data)), version
            assert protocol.decode(name, version, memoryview(b"ab" + data), 2)[0] == message
            assert checker(name, version)(data, 0, len(data)) == len(data)


@pytest.mark.parametrize(("key", "version", "size"), [(12, 3, 12), (12, 4, 13), (18, 3, 13)])
def test_a_request_has_the_header_of_its_version(key: int, version: int, size: int) -> None:
    """Version 1 of the header has no tagged fields, version 2 has, and the client's id is never compact."""
    request = messages.HeartbeatRequest(group_id="g") if key == 12 else messages.ApiVersionsRequest()
    frame = b"".join(protocol.encode_request(header(key, version), request))
    assert frame[:4] == struct.pack(">i", len(frame) - 4)
    found, at = protocol.decode_request_header(frame[4:])
    assert (at, found) == (size, header(key, version))
    assert protocol.decode_request(found, frame[4:], at) == request


def test_a_response_has_the_header_of_its_version_but_for_api_versions() -> None:
    classic = protocol.encode_response(header(12, 3), messages.HeartbeatResponse(error_code=27))
    flexible = protocol.encode_response(header(12, 4), messages.HeartbeatResponse(error_code=27))
    versions = protocol.encode_response(header(18, 3), messages.ApiVersionsResponse(error_code=1))
    assert b"".join(classic) == b"\0\0\0\x0a\0\0\0\x07\0\0\0\0\0\x1b"
    assert b"".join(flexible) == b"\0\0\0\x0c\0\0\0\x07\0\0\0\0\0\0\x1b\0"
    assert b"".join(versions)[4:10] == b"\0\0\0\x07\0\x01"
    for each, version in ((classic, 3), (flexible, 4)):
        assert protocol.decode_response(header(12, version), b"".join(each)[4:]).error_code == 27


def test_the_header_of_an_unknown_version_is_read_so_that_it_can_be_answered() -> None:
    frame = struct.pack(">hhih", 18, 99, 7, 2) + b"me" + b"\x00\x01"
    found, at = protocol.decode_request_header(frame)
    assert (found, at) == (header(18, 99), 12)
    with pytest.raises(ValueError, match="versions 0 to 5, not 99"):
        protocol.decode_request(found, frame, at)
    answer = messages.ApiVersionsResponse(error_code=35)
    assert b"".join(protocol.encode_response(found, answer, version=0))[8:10] == b"\0\x23"


def test_an_unknown_api_has_no_versions() -> None:
    assert protocol.versions_of(4) == (0, -1)
    assert protocol.versions_of(0) == (3, 13)
    found, at = protocol.decode_request_header(struct.pack(">hhih", 4, 0, 7, -1))
    assert found.client_id is None
    with pytest.raises(ValueError, match="key 4"):
        protocol.decode_request(found, b"", at)


def test_records_are_views_of_the_frame_and_buffers_are_encoded_without_a_copy() -> None:
    Produce = messages.ProduceRequest
    parts = [b"head", memoryview(b"payload")]
    data = Produce.PartitionProduceData(records=parts)
    request = Produce(topic_data=[Produce.TopicProduceData(name="t", partition_data=[data])])
    buffers = protocol.encode("ProduceRequest", 9, request)
    assert [each for each in buffers if each is parts[0] or each is parts[1]] == parts
    frame = bytearray(b"".join(buffers))
    decoded, _ = protocol.decode("ProduceRequest", 9, frame)
    records = decoded.topic_data[0].partition_data[0].records
    assert records == b"headpayload" and records.obj is frame


def test_a_response_is_the_same_object_for_every_version() -> None:
    """A version leaves out what it has no place for."""
    topic = Fetch.FetchableTopicResponse(topic="t", topic_id=bytes(range(16)))
    response = Fetch(responses=[topic], node_endpoints=[Fetch.NodeEndpoint(node_id=1, host="h")])
    by_name, _ = protocol.decode("FetchResponse", 12, b"".join(protocol.encode("FetchResponse", 12, response)))
    by_id, _ = protocol.decode("FetchResponse", 16, b"".join(protocol.encode("FetchResponse", 16, response)))
    assert (by_name.responses[0].topic, by_name.responses[0].topic_id, by_name.node_endpoints) == ("t", bytes(16), ())
    assert (by_id.responses[0].topic, by_id.responses[0].topic_id) == ("", bytes(range(16)))
    assert by_id.node_endpoints == response.node_endpoints


def test_null_where_a_version_forbids_it_is_refused() -> None:
    response = messages.MetadataResponse(topics=[messages.MetadataResponse.MetadataResponseTopic(name=None)])
    assert protocol.encode("MetadataResponse", 12, response)
    with pytest.raises(ValueError, match="name is None, which version 11"):
        protocol.encode("MetadataResponse", 11, response)
    with pytest.raises(ValueError, match="topics is None"):
        protocol.encode("MetadataResponse", 12, messages.MetadataResponse(topics=None))
    with pytest.raises(MalformedMessageError, match="group_id is null"):
        protocol.decode("HeartbeatRequest", 0, b"\xff\xff" + bytes(20))


def test_a_number_that_its_field_cannot_hold_is_refused() -> None:
    with pytest.raises(ValueError, match="HeartbeatResponse of version 1 has a number that is too large"):
        protocol.encode("HeartbeatResponse", 1, messages.HeartbeatResponse(error_code=1 << 15))
    with pytest.raises(ValueError, match="too large"):
        protocol.encode("HeartbeatRequest", 1, messages.HeartbeatRequest(group_id="x" * (1 << 15)))


def test_a_tagged_field_that_keeps_its_default_has_no_bytes() -> None:
    plain, named = (
        len(b"".join(protocol.encode("FetchRequest", 12, messages.FetchRequest(cluster_id=each))))
        for each in (None, "c")
    )
    assert named - plain == 4
    assert (
        len(b"".join(protocol.encode("FetchRequest", 15, messages.FetchRequest(replica_state=Replica())))) == plain - 4
    )


def Replica() -> messages.FetchRequest.ReplicaState:
    return messages.FetchRequest.ReplicaState()


@pytest.mark.parametrize("length", [0, 1, 126, 127, 128, 2046, 2047, 2048, 20000])
def test_lengths_and_arrays_of_every_size(length: int) -> None:
    request = messages.HeartbeatRequest(group_id="x" * length)
    assert (
        protocol.decode("HeartbeatRequest", 4, b"".join(protocol.encode("HeartbeatRequest", 4, request)))[0] == request
    )
    Metadata = messages.MetadataResponse
    partition = Metadata.MetadataResponsePartition(replica_nodes=list(range(length)))
    response = Metadata(topics=[Metadata.MetadataResponseTopic(name="t", partitions=[partition])])
    for version in (1, 12):
        data = b"".join(protocol.encode("MetadataResponse", version, response))
        decoded, _ = protocol.decode("MetadataResponse", version, data)
        assert decoded.topics[0].partitions[0].replica_nodes == tuple(range(length))


def test_unknown_tagged_fields_are_skipped() -> None:
    data = b"".join(protocol.encode("HeartbeatResponse", 4, messages.HeartbeatResponse(error_code=27)))
    more = data[:-1] + b"\x02\x05\x03abc\xff\x01\x00"
    assert protocol.decode("HeartbeatResponse", 4, more) == (messages.HeartbeatResponse(error_code=27), len(more))
    assert checker("HeartbeatResponse", 4)(more, 0, len(more)) == len(more)
    request = b"".join(protocol.encode("FetchRequest", 12, messages.FetchRequest(cluster_id="c")))
    more = request[:-5] + b"\x02\x09\x01x" + request[-4:]
    assert protocol.decode("FetchRequest", 12, more) == (messages.FetchRequest(cluster_id="c"), len(more))


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        (b"\x01\x00\x03\x02cc", "another length than its tag says"),
        (b"\x01\x00\x7f\x02c", "runs past the end"),
        (b"\x01\x05\x7f\x02c", "runs past the end"),
        (b"\x01\x05\xff\xff\xff\xff\xff\x01", "more than 5 bytes"),
        (b"\xff\xff\xff\xff\x0f", "cut short"),
    ],
)
def test_tagged_fields_with_wrong_lengths_are_malformed(tags: bytes, message: str) -> None:
    request = b"".join(protocol.encode("FetchRequest", 12, messages.FetchRequest()))
    with pytest.raises(MalformedMessageError, match=message):
        protocol.decode("FetchRequest", 12, request[:-1] + tags)


def test_bytes_after_a_request_are_ignored() -> None:
    frame = struct.pack(">hhihh", 12, 0, 7, -1, 1) + b"g" + bytes(6) + b"more"
    found, at = protocol.decode_request_header(frame)
    assert protocol.decode_request(found, frame, at) == messages.HeartbeatRequest(group_id="g")


def test_more_elements_than_any_honest_message_has_are_refused() -> None:
    topics = MAX_ELEMENTS + 1
    data = struct.pack(">i", topics) + bytes(2 * topics)
    with pytest.raises(MalformedMessageError, match=f"more than {MAX_ELEMENTS} elements"):
        protocol.decode("MetadataRequest", 1, data)
    assert len(protocol.decode("MetadataRequest", 1, struct.pack(">i", 10000) + bytes(20000))[0].topics) == 10000


def test_a_response_to_another_request_is_malformed() -> None:
    frame = b"".join(protocol.encode_response(header(12, 3), messages.HeartbeatResponse()))[4:]
    other = messages.RequestHeader(request_api_key=12, request_api_version=3, correlation_id=8)
    with pytest.raises(MalformedMessageError, match="response 7 came where 8 was awaited"):
        protocol.decode_response(other, frame)


def test_the_source_of_a_version_can_be_read() -> None:
    assert "m.group_id = b[p:q].decode()" in source_of("HeartbeatRequest", 4, "decode")


# -- cost, counted -----------------------------------------------------------------------------------------


def fetch_request(partitions: int) -> bytes:
    Request = messages.FetchRequest
    topic = Request.FetchTopic(topic="t", partitions=[Request.FetchPartition(partition=n) for n in range(partitions)])
    return b"".join(protocol.encode("FetchRequest", 12, Request(topics=[topic])))


def metadata(partitions: int) -> messages.MetadataResponse:
    Response = messages.MetadataResponse
    made = [Response.MetadataResponsePartition(replica_nodes=[0], isr_nodes=[0]) for _ in range(partitions)]
    return Response(topics=[Response.MetadataResponseTopic(name="t", partitions=made)])


def test_what_a_partition_of_a_fetch_request_costs() -> None:
    """50 bytecodes; no call of Python for a field or a structure."""
    few, many = fetch_request(1), fetch_request(101)
    costs = [bytecodes(lambda data=data: protocol.decode("FetchRequest", 12, data)) for data in (few, few, many)]
    assert (costs[2] - costs[1]) / 100 < 60


def test_what_a_partition_of_a_metadata_response_costs() -> None:
    """145 bytecodes, three arrays among them."""
    few, many = metadata(1), metadata(101)
    costs = [
        bytecodes(lambda given=given: protocol.encode("MetadataResponse", 12, given)) for given in (few, few, many)
    ]
    assert (costs[2] - costs[1]) / 100 < 170


def test_records_cost_nothing_by_their_size() -> None:
    Produce = messages.ProduceRequest

    def cost(size: int) -> int:
        data = Produce.PartitionProduceData(records=bytes(size))
        request = Produce(topic_data=[Produce.TopicProduceData(name="t", partition_data=[data])])
        frame = b"".join(protocol.encode("ProduceRequest", 9, request))
        protocol.decode("ProduceRequest", 9, frame)
        return bytecodes(lambda: protocol.decode("ProduceRequest", 9, frame))

    assert cost(10_000_000) == cost(20_000_000)


def test_importing_the_codec_imports_no_other_package_and_compiles_nothing() -> None:
    code = (
        "import sys, streamlog; streamlog.open; before = set(sys.modules); import streamlog.kafka.protocol as p; "
        "from streamlog.records import kafka_wire; "
        "print(sorted({each.partition('.')[0] for each in set(sys.modules) - before} - set(sys.stdlib_module_names)), "
        "p.compiler.decoder.cache_info().currsize)"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed == "['streamlog'] 0\n"
