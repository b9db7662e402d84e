"""Reading: Fetch and its sessions, offsets by time, epochs, and what is left after compaction."""

from __future__ import annotations

import socket
import struct
import time
from typing import Any

from streamlog.kafka import protocol
from tests.kafka.clients import frame_of

from ..wire import (
    answered,
    ask,
    batch,
    batches_of,
    build,
    create,
    error_name,
    fetch,
    now_ms,
    offset_of,
    produce,
    read,
    record,
    topic_id,
    until,
)
from . import scenario, short_scenario


@short_scenario
def fetch_positions(bootstrap: str) -> Any:
    """Fetch before, in, at and after what is there."""
    name = "fetch_positions"
    create(bootstrap, name)
    produce(bootstrap, name, *[batch(record(b"a"), record(b"b"), record(b"c"))] * 3)

    def at(offset: int, **given: Any) -> Any:
        answer = fetch(bootstrap, name, offset, **given)
        bases = [each["base_offset"] for each in batches_of(answer.records)]
        answer.records = b""
        return answer, bases

    return {offset: at(offset) for offset in (-1, 0, 1, 5, 8, 9, 10)} | {
        "by id": at(0, version=13),
        "no partition": fetch(bootstrap, name, 0, partition=1),
        "no topic": fetch(bootstrap, f"{name}.2", 0),
        "a little": at(0, partition_max_bytes=1),
        "one and a half": at(0, partition_max_bytes=120),
        "a little in all": at(0, max_bytes=1),
        "leader epoch 0": at(0, current_leader_epoch=0)[0].error_code,
        "newer leader epoch": at(0, current_leader_epoch=9)[0].error_code,
        "last fetched of a newer epoch": at(3, last_fetched_epoch=5),
        "last fetched": at(3, last_fetched_epoch=0),
    }


@scenario
def fetch_by_version(bootstrap: str) -> Any:
    """The same records in each version of Fetch."""
    name = "fetch_by_version"
    create(bootstrap, name)
    produce(bootstrap, name, batch(record(b"a")), batch(record(b"b"), codec=4))
    found = {}
    for version in (4, 5, 7, 9, 10, 11, 12, 13, 16, 17, 18):
        answer = fetch(bootstrap, name, 0, version=version)
        found[version] = batches_of(answer.records), answer.error_code
    return found


@short_scenario
def fetch_sessions(bootstrap: str) -> Any:
    """KIP-227: only what has changed is answered; sessions that are not known, and epochs that are not next."""
    name = "fetch_sessions"
    create(bootstrap, name, 2)
    produce(bootstrap, name, batch(record()), partition=0)

    def ask_for(session: int, epoch: int, *wanted: tuple[int, int], forgotten: tuple[int, ...] = ()) -> Any:
        partitions = [{"partition": each, "fetch_offset": at, "partition_max_bytes": 1000} for each, at in wanted]
        topics = [{"topic": name, "partitions": partitions}] if partitions else []
        left = [{"topic": name, "partitions": list(forgotten)}] if forgotten else []
        answer = ask(
            bootstrap, "Fetch", 12, max_wait_ms=0, min_bytes=0, max_bytes=10_000, session_id=session, session_epoch=epoch,
            topics=topics, forgotten_topics_data=left,
        )  # fmt: skip
        for topic in answer.responses:
            for each in topic.partitions:
                each.records = [batch["base_offset"] for batch in batches_of(each.records)]
        return answer

    first = ask_for(0, 0, (0, 0), (1, 0))
    session = first.session_id
    return {
        "first": first,
        "again": ask_for(session, 1),
        "from the end": ask_for(session, 2, (0, 1)),
        "nothing new": ask_for(session, 3),
        "after one more": (produce(bootstrap, name, batch(record()), partition=1), ask_for(session, 4)),
        "wrong epoch": ask_for(session, 9),
        "forgotten": ask_for(session, 5, forgotten=(1,)),
        "unknown session": ask_for(session + 1, 1),
        "closed": ask_for(session, -1),
        "after that": ask_for(session, 6),
    }


@short_scenario
def long_polls(bootstrap: str) -> Any:
    """A fetch waits for min_bytes, at most for max_wait_ms."""
    name = "long_polls"
    create(bootstrap, name)
    began = time.monotonic()
    empty = fetch(bootstrap, name, 0, max_wait_ms=700)
    waited = time.monotonic() - began
    began = time.monotonic()
    out_of_range = fetch(bootstrap, name, 5, max_wait_ms=20_000)
    at_once = time.monotonic() - began
    produce(bootstrap, name, batch(record()))
    began = time.monotonic()
    too_little = fetch(bootstrap, name, 0, max_wait_ms=700, min_bytes=100_000)
    waited_again = time.monotonic() - began
    return {
        "empty": empty,
        "waited": waited >= 0.6,
        "out of range": out_of_range.error_code,
        "at once": at_once < 10,
        "too little": len(batches_of(too_little.records)),
        "waited for more": waited_again >= 0.6,
    }


@short_scenario
def offsets_by_time(bootstrap: str) -> Any:
    """ListOffsets by a timestamp: the first record at or after it, inside batches too."""
    name = "offsets_by_time"
    create(bootstrap, name)
    base = now_ms() - 100_000
    times = ([10, 20, 30], [25, 40], [40, 50])
    for each in times:
        produce(bootstrap, name, batch(*[record(timestamp=base + at) for at in each]))

    def found(timestamp: int) -> Any:
        answer = offset_of(bootstrap, name, base + timestamp)
        return (
            answer.offset,
            answer.timestamp - base if answer.timestamp >= 0 else answer.timestamp,
            answer.leader_epoch,
        )

    return {at: found(at) for at in (0, 10, 11, 20, 26, 30, 31, 40, 41, 50, 51)}


@short_scenario
def special_offsets(bootstrap: str) -> Any:
    """ListOffsets of -1 to -6, of partitions with and without records, and that are not there."""
    name = "special_offsets"
    create(bootstrap, name, 2)
    rows = [record(timestamp=at) for at in (now_ms() - 5, now_ms() + 5, now_ms() - 9)]
    produce(bootstrap, name, batch(*rows), batch(record(timestamp=now_ms() - 50_000)))
    ask(
        bootstrap, "DeleteRecords", 2, timeout_ms=9000,
        topics=[{"name": name, "partitions": [{"partition_index": 0, "offset": 1}]}],
    )  # fmt: skip
    found: dict[str, Any] = {
        f"{partition}: {which}": offset_of(bootstrap, name, which, partition=partition, version=10)
        for partition in (0, 1)
        for which in (-1, -2, -3, -4, -5)
    }
    return found | {
        "-6": offset_of(bootstrap, name, -6, version=11),
        "-7": offset_of(bootstrap, name, -7, version=11),
        "no partition": offset_of(bootstrap, name, -1, partition=2),
        "no topic": offset_of(bootstrap, f"{name}.2", -1),
        "older": {version: offset_of(bootstrap, name, -1, version=version) for version in (1, 2, 4, 6)},
        "greatest of an old version": offset_of(bootstrap, name, -3, version=6),
    }


@short_scenario
def leader_epochs(bootstrap: str) -> Any:
    """OffsetForLeaderEpoch: where an epoch ends."""
    name = "leader_epochs"
    create(bootstrap, name)
    produce(bootstrap, name, batch(record()), batch(record()))

    def end(epoch: int, current: int = -1, topic: str = name, partition: int = 0) -> Any:
        wanted = {"partition": partition, "current_leader_epoch": current, "leader_epoch": epoch}
        return ask(
            bootstrap, "OffsetForLeaderEpoch", 4, replica_id=-1, topics=[{"topic": topic, "partitions": [wanted]}]
        ).topics

    return {
        "of the leader": end(0),
        "of a later one": end(5),
        "of none": end(-1),
        "newer than the leader": end(0, 9),
        "no topic": end(0, topic=f"{name}.2"),
        "no partition": end(0, partition=4),
    }


@scenario
def compaction(bootstrap: str) -> Any:
    """A compacted topic keeps the last record of a key, at its offset, and then no tombstone either."""
    name = "compaction"
    create(
        bootstrap, name, cleanup__policy="compact", segment__ms="200", min__cleanable__dirty__ratio="0.01",
        delete__retention__ms="200",
    )  # fmt: skip
    for number in range(10):
        produce(bootstrap, name, batch(record(b"%d" % number, b"k"), record(b"x", b"k%d" % number)))
    produce(bootstrap, name, batch(record(None, b"k0")), batch(record(None, b"k")))

    def kept() -> Any:
        time.sleep(0.3)
        produce(bootstrap, name, batch(record(b"", b"roll")))
        rows = [each for found in read(bootstrap, name) for each in found["records"] if each["key"] != b"roll"]
        is_done = all(each["key"] not in (b"k", b"k0") for each in rows)
        return [(each["offset"], each["key"], each["value"]) for each in rows] if is_done else None

    return until(kept, 60)


@scenario
def an_emptied_compacted_tail(bootstrap: str) -> Any:
    """Where compaction has taken the last records of a segment a reader comes to the end nevertheless."""
    name = "an_emptied_compacted_tail"
    create(
        bootstrap, name, cleanup__policy="compact", segment__ms="200", min__cleanable__dirty__ratio="0.01",
        delete__retention__ms="0",
    )  # fmt: skip
    produce(bootstrap, name, batch(record(b"1", b"k")), batch(record(b"1", b"l")))
    time.sleep(0.4)
    produce(bootstrap, name, batch(record(None, b"l")), batch(record(None, b"k")))

    def emptied() -> Any:
        time.sleep(0.3)
        produce(bootstrap, name, batch(record(b"", b"roll")))
        rows = [each for found in read(bootstrap, name) for each in found["records"]]
        return all(each["key"] == b"roll" for each in rows)

    until(emptied, 60)
    # The last segment that was compacted away may be at the end of what the reader is given.
    end = offset_of(bootstrap, name, -1).offset
    found = read(bootstrap, name)
    return {
        "the reader came to the end": found[-1]["base_offset"] + found[-1]["last_offset_delta"] + 1 == end,
        "earliest": offset_of(bootstrap, name, -2).offset,
    }


def _exchange(bootstrap: str, data: bytes, timeout_s: float = 5.0) -> bytes | str:
    """What a broker answers to these bytes: a frame, `closed`, or `no answer`."""
    host, _, port = bootstrap.split(",")[0].rpartition(":")
    with socket.create_connection((host, int(port)), timeout_s) as connection:
        connection.sendall(data)
        return answered(lambda: frame_of(connection))  # type: ignore[no-any-return]


def _request(key: int, version: int, body: bytes = b"") -> bytes:
    frame = struct.pack(">hhih", key, version, 5, -1) + body
    return struct.pack(">i", len(frame)) + frame


@short_scenario
def requests_that_are_none(bootstrap: str) -> Any:
    """Garbage, unknown APIs and unknown versions: the connection is closed, and the next one is served."""
    frame = b"\x00\x01\x00\x0c" + b"\xff" * 20
    return {
        "garbage": _exchange(bootstrap, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n" + b"\0" * 100),
        "a size of 2^31-1": _exchange(bootstrap, b"\x7f\xff\xff\xff" + b"\0" * 100),
        "a negative size": _exchange(bootstrap, b"\xff\xff\xff\xff" + b"\0" * 100),
        "an empty frame": _exchange(bootstrap, b"\0\0\0\0"),
        "a broken fetch": _exchange(bootstrap, struct.pack(">i", len(frame)) + frame),
        "an unknown API": _exchange(bootstrap, _request(999, 0)),
        "an unknown version": _exchange(bootstrap, _request(3, 99)),
        "Produce 0": _exchange(bootstrap, _request(0, 0, b"\0\1\0\0\0\0\0\0\0\0")),
        "an unknown version of ApiVersions": _exchange(bootstrap, _request(18, 99, b"\0")),
        "served afterwards": error_name(ask(bootstrap, "ApiVersions", 0).error_code),
    }


@short_scenario
def advertised_versions(bootstrap: str) -> Any:
    """ApiVersions: each API with its first and last version; features."""
    found: dict[str, Any] = {}
    for version in (0, 3, 4):
        answer = ask(bootstrap, "ApiVersions", version, client_software_name="parity", client_software_version="1")
        found[f"version {version}"] = {
            "keys": {each.api_key: (each.min_version, each.max_version) for each in answer.api_keys},
            "supported": {each.name: (each.min_version, each.max_version) for each in answer.supported_features},
            "finalized": {each.name: each.max_version_level for each in answer.finalized_features},
        }
    bad = ask(bootstrap, "ApiVersions", 3, client_software_name="a b", client_software_version="")
    return {**found, "odd name": error_name(bad.error_code)}


@scenario
def pipelined_requests(bootstrap: str) -> Any:
    """Requests of one connection are answered in their order, one that waits before one that need not."""
    name = "pipelined_requests"
    create(bootstrap, name)
    wanted = [{"topic": name, "partitions": [{"partition": 0, "fetch_offset": 0, "partition_max_bytes": 100}]}]
    waits = build("FetchRequest", max_wait_ms=300, min_bytes=1, max_bytes=100, session_epoch=-1, topics=wanted)
    host, _, port = bootstrap.split(",")[0].rpartition(":")
    with socket.create_connection((host, int(port)), 20) as connection:
        for number, (key, version, request) in enumerate(
            [(1, 12, waits), (18, 0, build("ApiVersionsRequest")), (3, 1, build("MetadataRequest", topics=[]))]
        ):
            header = build(
                "RequestHeader", request_api_key=key, request_api_version=version, correlation_id=number, client_id="p"
            )
            connection.sendall(b"".join(protocol.encode_request(header, request)))
        return [struct.unpack_from(">i", frame_of(connection))[0] for _ in range(3)]


@scenario
def many_partitions_in_one_fetch(bootstrap: str) -> Any:
    """The bytes of a fetch are shared out: one partition after the other, the first at least one batch."""
    name = "many_partitions_in_one_fetch"
    create(bootstrap, name, 3)
    for partition in range(3):
        produce(bootstrap, name, batch(record(b"x" * 1000)), batch(record(b"y" * 1000)), partition=partition)
    known = topic_id(bootstrap, name)

    def sizes(max_bytes: int, partition_max_bytes: int) -> list[int]:
        partitions = [
            {"partition": each, "fetch_offset": 0, "partition_max_bytes": partition_max_bytes} for each in range(3)
        ]
        answer = ask(
            bootstrap, "Fetch", 13, max_wait_ms=200, min_bytes=1, max_bytes=max_bytes, session_epoch=-1,
            topics=[{"topic_id": known, "partitions": partitions}],
        )  # fmt: skip
        return [len(batches_of(each.records)) for each in answer.responses[0].partitions]

    return {
        "all": sizes(1 << 20, 1 << 20),
        "one each": sizes(1 << 20, 1200),
        "two in all": sizes(2400, 1 << 20),
        "less than one": sizes(10, 10),
    }
