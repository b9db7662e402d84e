"""Makes the golden files of the format: `python -m tests.golden.make` writes them to `tests/golden/v2/`.

Run it once per format version, never to make a failing test pass: a file here is what logs on other people's disks look
like. Until format 2 is frozen (`FORMAT.md` says when), `--force` replaces them together with a change of the format.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

from streamlog.broker import metadata
from streamlog.config import TopicConfig
from streamlog.coordinator import schema
from streamlog.records import columns
from streamlog.records.batch import LOG_APPEND_TIME, SealedBatch, seed_of
from streamlog.runtime.disk import OsDisk
from streamlog.storage import published
from streamlog.storage.log import AppendRequest, Log
from streamlog.storage.recovery.recovery import PreviousShutdown, open_log
from streamlog.types import TopicPartition

HERE = Path(__file__).resolve().parent
VERSION = "v2"
NOW = 1_700_000_000_000
TOPIC_ID = bytes(range(16))
PARTITION = 7
SEED = seed_of(TOPIC_ID, PARTITION)
NAMES = (
    "00000000000000000000.log",
    "00000000000000000000.index",
    "00000000000000000014.log",
    "00000000000000000014.index",
    "partition.state",
)


class Expected(NamedTuple):
    """A record that a golden segment holds."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]


EXPECTED = [
    Expected(0, NOW, b"key", b"value", ()),
    Expected(1, NOW, None, b"no key", ()),
    Expected(2, NOW, b"no value", None, ()),
    Expected(3, NOW, None, None, ()),
    Expected(4, NOW + 5, b"a", b"1", (("trace", b"\x00\xff"), ("none", None))),
    Expected(5, NOW - 5, b"b", b"", ()),
    Expected(6, NOW, b"", b"x" * 300, (("name ü", b""),)),
    Expected(7, NOW, b"gzip", b"y" * 200, ()),
    Expected(8, NOW, b"gzip", b"z" * 200, ()),
    Expected(9, NOW + 9, b"appended", b"at the log's time", ()),
    Expected(11, NOW, b"kept", b"between gaps", ()),
    Expected(14, NOW, b"after the roll", b"last", ()),
]


def batches() -> list[SealedBatch]:
    """One batch of every shape that version 2 writes; the last one goes into a second segment."""
    seal = columns.seal
    mixed = EXPECTED[4:7]
    return [
        seal(SEED, [b"key"], [b"value"], NOW, count=1),
        seal(SEED, None, [b"no key"], NOW, count=1),
        seal(SEED, [b"no value"], None, NOW, count=1),
        seal(SEED, None, None, NOW, count=1),
        seal(
            SEED,
            [record.key for record in mixed],
            [record.value for record in mixed],
            [record.timestamp for record in mixed],
            [record.headers for record in mixed],
            count=3,
        ),
        seal(SEED, [b"gzip", b"gzip"], [b"y" * 200, b"z" * 200], NOW, count=2, codec=1),
        seal(SEED, [b"appended"], [b"at the log's time"], 1, count=1, attributes=LOG_APPEND_TIME),
        seal(
            SEED, [b"kept"], [b"between gaps"], NOW, count=1, offset_deltas=[1], last_offset_delta=2, delete_horizon=NOW
        ),
        seal(SEED, None, None, (), count=0, last_offset_delta=0)._replace(
            producer_id=5, producer_epoch=2, base_sequence=9
        ),
        seal(SEED, [b"after the roll"], [b"last"], NOW, count=1),
    ]


def write(directory: Path) -> Log:
    """Write the golden partition into `directory`; the log, closed."""
    log = open_log(OsDisk(), str(directory), TOPIC_ID, PARTITION, SEED, TopicConfig(), PreviousShutdown(True, True))
    *first, last = batches()
    for batch in first:
        now = NOW + 9 if batch.attributes & LOG_APPEND_TIME else NOW
        log.append(AppendRequest([batch]), 3, now)
    log.roll(NOW)
    log.append(AppendRequest([last]), 3, NOW)
    log.advance_start(1)
    log.set_cleaned(4, NOW + 1)
    log.close()
    log.release()
    return log


def internal_records() -> dict[str, tuple[bytes, bytes]]:
    """A key and a value of each kind of record in the internal topics."""
    view = metadata.view_of("orders", UUID(bytes=TOPIC_ID), 4, TopicConfig(retention_ms=1000), False)
    kafka_view = view._replace(
        name="audit",
        explicit=frozenset({"retention_ms", "segment_ms"}),
        kafka_config={"flush.ms": "5", "segment.ms": " 7 "},
    )
    given = {TopicPartition("orders", 0): 3, TopicPartition("orders", 2): 4}
    member = schema.MemberState(
        member_id="m",
        instance_id=None,
        client_id="c",
        client_host="localhost",
        topics=frozenset({"orders"}),
        protocols=(("cooperative-sticky", b""), ("range", b"")),
        session_timeout_s=45.0,
        rebalance_timeout_s=300.0,
        remote=False,
        incarnation="1",
        member_epoch=4,
        given=given,
        target=frozenset(given),
    )
    classic = schema.MemberState(
        member_id="c-1",
        instance_id="one",
        client_id="c",
        client_host="/127.0.0.1",
        topics=frozenset({"orders"}),
        protocols=(("range", b"\x00\x01metadata"), ("roundrobin", b"")),
        session_timeout_s=10.0,
        rebalance_timeout_s=60.5,
        remote=True,
        incarnation="1",
        member_epoch=7,
        assignment=b"\x00\x01assigned",
    )
    return {
        "topic": metadata.topic_record(view),  # type: ignore[dict-item]
        "kafka_topic": metadata.topic_record(kafka_view),  # type: ignore[dict-item]
        "broker": metadata.broker_record(metadata.BrokerRegistration(1, bytes(range(16)), 3, "a")),  # type: ignore[dict-item]
        "partition": metadata.partition_record(  # type: ignore[dict-item]
            TOPIC_ID, 2, metadata.PartitionRegistration((0, 1, 2), (0, 2), 2, 4, 9)
        ),
        "group": (schema.group_key("g"), schema.group_value(schema.GroupState(4, "range", {"orders": 4}, None))),
        "member": (schema.member_key("g", "m"), schema.member_value(member)),
        "classic_group": (
            schema.group_key("k"),
            schema.group_value(
                schema.GroupState(7, "range", type=schema.CLASSIC, protocol_type="consumer", leader="c-1")
            ),
        ),
        "classic_member": (schema.member_key("k", "c-1"), schema.member_value(classic)),
        "offset": (
            schema.offset_key("g", TopicPartition("orders", 2)),
            schema.offset_value(schema.CommittedOffset(17, "note", None, NOW, TOPIC_ID)),
        ),
    }


PUBLISHED_HEADER = published.Header(incarnation=5, state=published.OPEN, pid=4711)
PUBLISHED_SLOT = published.Slot(
    seed=SEED,
    generation=3,
    rewrites=2,
    end_offset=5_000_000_015,
    high_watermark=5_000_000_014,
    last_stable_offset=5_000_000_013,
    log_start_offset=1,
    active_base=5_000_000_000,
    end_position=0xFEDC_BA98,
)


def published_file() -> bytes:
    """DIR/published with a header, a free slot and a slot in use."""
    return b"".join((published.pack_header(PUBLISHED_HEADER), published.EMPTY, published.pack_slot(PUBLISHED_SLOT)))


def files() -> dict[str, bytes]:
    """Name → bytes of every golden file, as today's writer makes them."""
    with tempfile.TemporaryDirectory() as directory:
        write(Path(directory) / "p")
        made: dict[str, Any] = {name: (Path(directory) / "p" / name).read_bytes() for name in NAMES}
    for name, (key, value) in internal_records().items():
        made[f"{name}.key"], made[f"{name}.value"] = key, value
    made["published"] = published_file()
    return made


if __name__ == "__main__":
    target = HERE / VERSION
    if target.exists() and "--force" not in sys.argv:
        sys.exit(f"{target} is there already: a format version is written once")
    target.mkdir(exist_ok=True)
    for name, data in files().items():
        (target / name).write_bytes(data)
