"""Single requests of Kafka's protocol, written shortly, for scenarios that look at each field of the responses.

ask(bootstrap, "CreateTopics", 7, topics=[{"name": "t", "num_partitions": 1, "replication_factor": 1}])
produce(bootstrap, "t", batch(record(b"value")))
fetch(bootstrap, "t", 0)
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from struct import Struct, pack
from typing import Any

from kio.schema.errors import ErrorCode

from streamlog.kafka import messages, schema
from streamlog.records import compression, kafka_v2
from tests.kafka.clients import asked_at
from tests.kafka_batches import Row, kafka_payload

_KEYS = {name: key for key, name in schema.names().items()}
TRANSACTIONAL = kafka_v2.KAFKA_TRANSACTIONAL
WAIT_S = 30.0
NO_PRODUCER = (-1, -1, -1)


def error_name(code: int) -> str:
    """Kafka's name of an error: `UNKNOWN_TOPIC_OR_PARTITION`."""
    return ErrorCode(code).name.upper()


def ask(bootstrap: str, api: str, version: int, **fields: Any) -> Any:
    """The response to one request on a connection of its own. Structures in `fields` are given as dictionaries."""
    request = build(f"{api}Request", **fields)
    return asked_at(bootstrap.split(",")[0], _KEYS[api], version, request)


def build(name: str, **fields: Any) -> Any:
    """A message, or a structure in one: `build("FetchRequest", topics=[{"topic": "t"}])`."""
    top = getattr(messages, name)
    return _built(top, top, schema.definition(name).fields, fields)


def _built(top: Any, made: Any, known: Sequence[schema.Field], given: dict[str, Any]) -> Any:
    by_name = {each.name: each for each in known}
    values = {}
    for name, value in given.items():
        field = by_name[name]
        if field.fields and value is not None:
            inner = getattr(top, field.item)
            if field.is_array:
                value = [_built(top, inner, field.fields, each) for each in value]
            else:
                value = _built(top, inner, field.fields, value)
        values[name] = value
    return made(**values)


def answered(ask_it: Callable[[], Any]) -> Any:
    """The answer, or that there was none."""
    try:
        return ask_it()
    except TimeoutError:
        return "no answer"
    except (AssertionError, ConnectionError):
        return "closed"


def until(condition: Callable[[], Any], timeout_s: float = WAIT_S) -> Any:
    """What the condition is, once that is true; it is looked at again and again. Fails with the last one."""
    end = time.monotonic() + timeout_s
    while True:
        found = condition()
        if found:
            return found
        assert time.monotonic() < end, f"it did not come to be within {timeout_s} s: {found!r}"
        time.sleep(0.05)


def now_ms() -> int:
    return int(time.time() * 1000)


# -- topics ----------------------------------------------------------------------------------------------


def create(bootstrap: str, name: str, partitions: int = 1, **config: str) -> Any:
    """Create a topic; `retention__ms="1"` is `retention.ms`. Returns its result, and fails if there is an error."""
    topic = ask(bootstrap, "CreateTopics", 7, timeout_ms=30_000, topics=[_topic(name, partitions, config)]).topics[0]
    assert topic.error_code == 0, f"{name}: {error_name(topic.error_code)} {topic.error_message}"
    # The broker hears of it some time after the controller has made it.
    until(lambda: metadata_of(bootstrap, name).error_code == 0)
    until(lambda: not any(offset_of(bootstrap, name, -1, partition=each).error_code for each in range(partitions)))
    return topic


def _topic(name: str, partitions: int, config: dict[str, str]) -> dict[str, Any]:
    configs = [{"name": each.replace("__", "."), "value": value} for each, value in config.items()]
    return {"name": name, "num_partitions": partitions, "replication_factor": 1, "configs": configs}


def try_create(bootstrap: str, name: str, partitions: int = 1, factor: int = 1, *, version: int = 7, validate_only: bool = False, **config: str | None) -> str:  # fmt: skip
    """The name of the error of an attempt to create a topic."""
    topic = {**_topic(name, partitions, config), "replication_factor": factor}  # type: ignore[arg-type]
    answer = ask(
        bootstrap, "CreateTopics", version, timeout_ms=30_000, topics=[topic], validate_only=validate_only
    ).topics[0]
    return error_name(answer.error_code)


def metadata_of(bootstrap: str, name: str) -> Any:
    (topic,) = ask(bootstrap, "Metadata", 12, topics=[{"name": name}], allow_auto_topic_creation=False).topics
    return topic


def topic_id(bootstrap: str, name: str) -> bytes:
    return bytes(metadata_of(bootstrap, name).topic_id)


# -- records ---------------------------------------------------------------------------------------------


def record(value: bytes | None = b"v", key: bytes | None = None, *, timestamp: int = 0, headers: Any = ()) -> Row:
    """`timestamp` 0: now."""
    return Row(timestamp or now_ms(), key, value, headers)


def batch(
    *records: Row, codec: int = 0, attributes: int = 0, producer: tuple[int, int, int] = NO_PRODUCER,
    base_offset: int = 0, last_delta: int | None = None, count: int | None = None, magic: int = 2, spoil: bool = False,
) -> bytes:  # fmt: skip
    """A record batch as a producer makes it; what is given besides the records makes it an odd one. `spoil`: its CRC is wrong."""
    payload, _ = kafka_payload(records, codec, attributes, producer, last_delta)
    if count is not None:
        body = bytearray(payload[5:])
        body[36:40] = pack(">i", count)
        payload = pack(">bI", 2, kafka_v2.crc32c(bytes(body))) + bytes(body)
    if magic != 2 or spoil:
        payload = pack(">b", magic) + payload[1:-1] + bytes([payload[-1] ^ spoil])
    return pack(">qii", base_offset, len(payload) + 4, -1) + payload


def try_produce(
    bootstrap: str, topic: str, records: bytes | None, *, partition: int = 0, acks: int = -1, version: int = 12,
    transactional_id: str | None = None,
) -> Any:  # fmt: skip
    """The response for the partition."""
    names: dict[str, Any] = {"name": topic} if version < 13 else {"topic_id": topic_id(bootstrap, topic)}
    response = ask(
        bootstrap, "Produce", version, acks=acks, timeout_ms=10_000, transactional_id=transactional_id,
        topic_data=[{**names, "partition_data": [{"index": partition, "records": records}]}],
    )  # fmt: skip
    return response.responses[0].partition_responses[0]


def produce(bootstrap: str, topic: str, *batches: bytes, partition: int = 0, **given: Any) -> list[int]:
    """The offsets of the batches. Fails if there is an error."""
    offsets = []
    for each in batches:
        answer = try_produce(bootstrap, topic, each, partition=partition, **given)
        assert answer.error_code == 0, error_name(answer.error_code)
        offsets.append(answer.base_offset)
    return offsets


def fetch(
    bootstrap: str, topic: str, offset: int, *, partition: int = 0, version: int = 12, isolation: int = 0, max_wait_ms: int = 200,
    min_bytes: int = 1, max_bytes: int = 50 << 20, partition_max_bytes: int = 1 << 20, **partition_fields: Any,
) -> Any:  # fmt: skip
    """The response for the partition, to a request without a session."""
    names: dict[str, Any] = {"topic": topic} if version < 13 else {"topic_id": topic_id(bootstrap, topic)}
    wanted = {
        "partition": partition, "fetch_offset": offset, "partition_max_bytes": partition_max_bytes,
        **partition_fields,
    }  # fmt: skip
    response = ask(
        bootstrap, "Fetch", version, replica_id=-1, max_wait_ms=max_wait_ms, min_bytes=min_bytes, max_bytes=max_bytes,
        isolation_level=isolation, session_epoch=-1, topics=[{**names, "partitions": [wanted]}],
    )  # fmt: skip
    return response.responses[0].partitions[0]


def batches_of(records: Any) -> list[dict[str, Any]]:
    """Each batch that was fetched: its header, and its records."""
    data = bytes(records or b"")
    found = []
    while len(data) >= _HEAD.size:
        base, length, leader_epoch, magic, crc, attributes, last, first_ms, greatest_ms, *producer, count = (
            _HEAD.unpack_from(data)
        )
        rows = data[_HEAD.size : _HEAD_BEFORE_LENGTH + length]
        if _HEAD_BEFORE_LENGTH + length > len(data):
            break
        if attributes & 7:
            rows = compression.decompress_up_to(attributes & 7, rows, 1 << 24)
        found.append(
            {
                "base_offset": base, "leader_epoch": leader_epoch, "magic": magic, "attributes": attributes,
                "last_offset_delta": last, "base_timestamp": first_ms, "max_timestamp": greatest_ms,
                "producer_id": producer[0], "producer_epoch": producer[1], "base_sequence": producer[2], "count": count,
                "is_intact": crc == kafka_v2.crc32c(data[_CRC_FROM : _HEAD_BEFORE_LENGTH + length]),
                "records": _rows(rows, count, base, first_ms),
            }
        )  # fmt: skip
        data = data[_HEAD_BEFORE_LENGTH + length :]
    return found


_HEAD = Struct(">qiibIhiqqqhii")
_HEAD_BEFORE_LENGTH = 12
_CRC_FROM = 21


def _rows(data: bytes, count: int, base: int, first_ms: int) -> list[dict[str, Any]]:
    rows = []
    at = 0

    def sized(at: int) -> tuple[bytes | None, int]:
        size, at = kafka_v2.varint(data, at)
        return (None, at) if size < 0 else (data[at : at + size], at + size)

    for _ in range(count):
        _, at = kafka_v2.varint(data, at)
        time_delta, at = kafka_v2.varint(data, at + 1)
        delta, at = kafka_v2.varint(data, at)
        key, at = sized(at)
        value, at = sized(at)
        left, at = kafka_v2.varint(data, at)
        headers = []
        for _ in range(left):
            name, at = sized(at)
            content, at = sized(at)
            headers.append((name, content))
        rows.append({"offset": base + delta, "timestamp": first_ms + time_delta, "key": key, "value": value, "headers": headers})  # fmt: skip
    return rows


def read(bootstrap: str, topic: str, *, partition: int = 0, **given: Any) -> list[dict[str, Any]]:
    """All batches of a partition from its start."""
    offset, found = 0, []
    while True:
        answer = fetch(bootstrap, topic, offset, partition=partition, **given)
        assert answer.error_code == 0, error_name(answer.error_code)
        more = [
            each for each in batches_of(answer.records) if each["base_offset"] + each["last_offset_delta"] >= offset
        ]
        if not more:
            return found
        found += more
        offset = more[-1]["base_offset"] + more[-1]["last_offset_delta"] + 1


def offset_of(bootstrap: str, topic: str, timestamp: int, *, partition: int = 0, isolation: int = 0, version: int = 7) -> Any:  # fmt: skip
    """The response of ListOffsets for one partition."""
    wanted = {"partition_index": partition, "timestamp": timestamp, "current_leader_epoch": -1}
    response = ask(
        bootstrap, "ListOffsets", version, replica_id=-1, isolation_level=isolation,
        topics=[{"name": topic, "partitions": [wanted]}],
    )  # fmt: skip
    return response.topics[0].partitions[0]


# -- producers and transactions --------------------------------------------------------------------------


def init_producer(bootstrap: str, transactional_id: str | None = None, timeout_ms: int = 60_000, version: int = 4, **given: Any) -> Any:  # fmt: skip
    """The response to InitProducerId, asked again while the transaction before is being ended."""

    def asked() -> Any:
        answer = ask(
            bootstrap, "InitProducerId", version, transactional_id=transactional_id, transaction_timeout_ms=timeout_ms, **given
        )  # fmt: skip
        return None if error_name(answer.error_code) in _AGAIN else answer

    return until(asked)


_AGAIN = ("CONCURRENT_TRANSACTIONS", "COORDINATOR_LOAD_IN_PROGRESS", "COORDINATOR_NOT_AVAILABLE", "NOT_COORDINATOR")


def find_coordinator(bootstrap: str, key: str, kind: int = 0) -> Any:
    """The coordinator of a group (0) or of a transactional id (1), once it is there: then it answers requests."""

    def asked() -> Any:
        (answer,) = ask(bootstrap, "FindCoordinator", 4, key_type=kind, coordinator_keys=[key]).coordinators
        return None if answer.error_code else answer

    return until(asked)


def add_partitions(bootstrap: str, transactional_id: str, producer: tuple[int, int], topic: str, *partitions: int, version: int = 3) -> Any:  # fmt: skip
    """The code of the first partition."""

    def asked() -> Any:
        topics = [{"name": topic, "partitions": list(partitions or (0,))}]
        if version < 4:
            answer = ask(
                bootstrap, "AddPartitionsToTxn", version, v3_and_below_transactional_id=transactional_id,
                v3_and_below_producer_id=producer[0], v3_and_below_producer_epoch=producer[1], v3_and_below_topics=topics,
            ).results_by_topic_v3_and_below  # fmt: skip
        code = error_name(answer[0].results_by_partition[0].partition_error_code)
        return None if code in _AGAIN else code

    return until(asked)


def end_txn(
    bootstrap: str, transactional_id: str, producer: tuple[int, int], *, commits: bool, version: int = 3
) -> Any:
    def asked() -> Any:
        answer = ask(
            bootstrap, "EndTxn", version, transactional_id=transactional_id, producer_id=producer[0], producer_epoch=producer[1],
            committed=commits,
        )  # fmt: skip
        return None if error_name(answer.error_code) in _AGAIN else answer

    return until(asked)
