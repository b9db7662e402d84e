"""The table of Kafka's messages: what it is made from, and how it is read."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from streamlog.kafka import messages, schema
from streamlog.kafka.api_keys import ApiKey
from tests.kafka import make_schema


@pytest.mark.slow
def test_the_table_has_the_facts_of_kafkas_own_definitions(tmp_path: Path) -> None:
    if shutil.which("mvn") is None:
        pytest.skip("Maven, which fetches Kafka's definitions, is not installed")
    try:
        jar = make_schema.fetch_jar(tmp_path)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"Maven cannot fetch kafka-clients {make_schema.VERSION}: {error.stdout.decode()[-200:]}")
    assert make_schema.TABLE.read_text(encoding="utf-8") == make_schema.table(jar)


def test_an_api_has_the_stable_versions_of_kafka_4_4() -> None:
    assert schema.definition("FetchRequest").versions == (4, 18)
    assert schema.definition("InitProducerIdRequest").versions == (0, 5)  # 6 is not stable
    assert schema.definition("InitProducerIdResponse").versions == (0, 5)
    assert schema.names()[1] == "Fetch"
    assert set(schema.names()) == make_schema.KEYS == set(ApiKey)
    assert {each: name.upper() for each, name in schema.names().items()} == {
        each: each.name.replace("_", "") for each in ApiKey
    }


def test_requests_and_responses_have_the_same_versions() -> None:
    for name in schema.names().values():
        request, response = schema.definition(f"{name}Request"), schema.definition(f"{name}Response")
        assert (request.versions, request.key) == (response.versions, response.key), name


def test_a_field_has_what_its_line_says() -> None:
    fields = {each.name: each for each in schema.definition("FetchRequest").fields}
    cluster, replica, state = fields["cluster_id"], fields["replica_id"], fields["replica_state"]
    assert (cluster.type, cluster.versions, cluster.nullable, cluster.default) == ("string", (12, 18), (12, 18), "null")
    assert (cluster.tag, cluster.tagged) == (0, (12, 18))
    assert (replica.versions, replica.nullable, replica.default, replica.tag) == ((4, 14), schema.NONE, "-1", -1)
    assert [each.name for each in state.fields] == ["replica_id", "replica_epoch"]
    assert fields["topics"].is_array and fields["topics"].item == "FetchTopic"
    assert schema.definition("RequestHeader").fields[-1].rigid


def test_a_class_has_the_fields_of_all_versions_with_kafkas_defaults() -> None:
    request = messages.FetchRequest()
    assert (request.replica_id, request.max_bytes, request.cluster_id, request.topics) == (-1, 0x7FFFFFFF, None, ())
    assert request.replica_state == messages.FetchRequest.ReplicaState(replica_id=-1, replica_epoch=-1)
    assert messages.ApiVersionsRequest(client_software_name="x") != messages.ApiVersionsRequest()
    assert messages.HeartbeatRequest() != messages.HeartbeatResponse()
    assert (
        repr(messages.HeartbeatRequest(group_id="g", generation_id=3))
        == "HeartbeatRequest(group_id='g', generation_id=3)"
    )


def test_a_misspelled_field_or_message_is_refused() -> None:
    with pytest.raises(TypeError, match="eror_code"):
        messages.HeartbeatResponse(eror_code=1)
    with pytest.raises(AttributeError, match="eror_code"):
        messages.HeartbeatResponse().eror_code = 1
    with pytest.raises(AttributeError, match="HeartbeatReply"):
        messages.HeartbeatReply  # noqa: B018
