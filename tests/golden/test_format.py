"""Logs on other disks stay readable: today's reader reads the golden files, its writer makes the same bytes."""

from __future__ import annotations

import re
import shutil
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgpack
import pytest

from streamlog.broker import metadata
from streamlog.config import TopicConfig
from streamlog.coordinator import schema
from streamlog.errors import FormatError
from streamlog.records import compression
from streamlog.records.batch import FIXED_LEN, VERSION, read_header, verify_payload
from streamlog.records.decode import decode
from streamlog.runtime.disk import OsDisk
from streamlog.storage import index as index_files
from streamlog.storage import published
from streamlog.storage.checkpoint import State, slots
from streamlog.storage.recovery.recovery import PreviousShutdown, open_log
from streamlog.storage.verify.check import CheckRequest, check_partition
from streamlog.types import TopicPartition

from . import make
from .make import EXPECTED, NAMES, NOW, PARTITION, SEED, TOPIC_ID

GOLDEN = Path(__file__).resolve().parent / make.VERSION
FORMAT = Path(__file__).resolve().parents[2] / "streamlog" / "storage" / "FORMAT.md"
LOGS = [name for name in NAMES if name.endswith(".log")]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A copy of the golden partition."""
    copy = tmp_path / "p"
    copy.mkdir()
    for name in NAMES:
        shutil.copy(GOLDEN / name, copy / name)
    return copy


def test_version_two_is_what_is_written() -> None:
    assert VERSION == 2, "a new version needs golden files of its own, and these must still be read"


def test_todays_reader_reads_every_record(directory: Path) -> None:
    log = open_log(OsDisk(), str(directory), TOPIC_ID, PARTITION, SEED, TopicConfig(), PreviousShutdown(True, True))
    assert (log.tail.start_offset, log.tail.end_offset, log.durability.recovery_point, log.cleaned_until) == (
        1,
        15,
        15,
        4,
    )
    found = []
    offset = 1
    while offset < 15:
        chunk = log.reader.fetch(offset, 1 << 20, 15)
        at = 0
        while at < len(chunk.data):
            header = read_header(chunk.data, at, SEED, "", 0)
            verify_payload(header, chunk.data[at + header.header_len : at + header.batch_len], SEED, "", 0)
            assert header.leader_epoch == 3
            found += [make.Expected(*row) for row in zip(*decode(header, chunk.data, at).all(), strict=True)]
            at += header.batch_len
            offset = header.next_offset
    log.release()
    assert [record for record in found if record.offset >= 1] == EXPECTED[1:]


def test_a_check_finds_nothing_in_it(directory: Path) -> None:
    question = CheckRequest(str(directory), TOPIC_ID, PARTITION, SEED, PreviousShutdown(True, True), gaps=True)
    assert check_partition(OsDisk(), question).findings == ()


def test_todays_writer_makes_the_same_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    # Another zlib may compress to other bytes; what was stored then is as good as what it makes now.
    stored = {zlib.decompress(data, wbits=31): data for data in _gzip_columns()}
    assert stored
    monkeypatch.setattr(compression, "compress", lambda codec, data: stored[bytes(data)])
    made = make.files()
    for name in (*NAMES, "group.key", "group.value", "member.key", "member.value", "offset.key", "offset.value"):
        assert made[name] == (GOLDEN / name).read_bytes(), name


def _gzip_columns() -> Iterator[bytes]:
    data = (GOLDEN / LOGS[0]).read_bytes()
    at = 0
    while at < len(data):
        header = read_header(data, at, SEED, "", 0)
        if header.codec == 1:
            start = at + header.header_len
            for n in range(data[at + FIXED_LEN]):
                entry = at + FIXED_LEN + 1 + 5 * n
                length = int.from_bytes(data[entry + 1 : entry + 5], "little")
                yield data[start + 4 : start + length]
                start += length
        at += header.batch_len


def test_the_index_and_the_state_say_what_they_said() -> None:
    loaded = index_files.from_bytes((GOLDEN / "00000000000000000000.index").read_bytes(), SEED)
    assert loaded is not None
    entries, stats = loaded
    assert (list(entries.offsets), list(entries.positions), list(entries.timestamps)) == ([0], [0], [NOW + 9])
    assert stats == (0, 14, (GOLDEN / LOGS[0]).stat().st_size, 11, NOW - 5, NOW + 9, NOW)
    found = slots((GOLDEN / "partition.state").read_bytes(), TOPIC_ID, PARTITION)
    assert found.newest == State(1, 15, 4, NOW + 1)
    assert not found.damaged


def test_the_records_of_the_internal_topics_mean_what_they_meant() -> None:
    stored = {path.name: path.read_bytes() for path in GOLDEN.glob("*.*")}
    image = metadata.replay(metadata.EMPTY, [(stored["topic.key"], stored["topic.value"])])
    assert image.topics["orders"].id_bytes == TOPIC_ID
    assert image.topics["orders"].partitions == 4
    assert image.topics["orders"].config.retention_ms == 1000
    assert (image.topics["orders"].explicit, image.topics["orders"].kafka_config) == ({"retention_ms"}, {})
    image = metadata.replay(metadata.EMPTY, [(stored["kafka_topic.key"], stored["kafka_topic.value"])])
    assert image.topics["audit"].explicit == {"retention_ms", "segment_ms"}
    assert image.topics["audit"].kafka_config == {"flush.ms": "5", "segment.ms": " 7 "}
    about_brokers = [(stored[f"{name}.key"], stored[f"{name}.value"]) for name in ("topic", "broker", "partition")]
    image = metadata.replay(metadata.EMPTY, about_brokers)
    assert image.brokers == {1: metadata.BrokerRegistration(1, bytes(range(16)), 3, "a", False)}
    assert image.partition(TOPIC_ID, 2) == metadata.PartitionRegistration((0, 1, 2), (0, 2), 2, 4, 9)
    records = make.internal_records()
    for name in ("group", "member", "offset", "classic_group", "classic_member"):
        assert schema.decode(stored[f"{name}.key"], stored[f"{name}.value"]) == schema.decode(*records[name])
    assert schema.decode(stored["group.key"], None) == schema.GroupRecord("g", None)
    assert schema.decode(stored["member.key"], None) == schema.MemberRecord("g", "m", None)
    committed = schema.CommittedOffset(17, "note", None, NOW, TOPIC_ID)
    assert schema.decode(stored["offset.key"], stored["offset.value"]) == schema.OffsetRecord(
        "g", TopicPartition("orders", 2), committed
    )


def test_published_is_written_and_read_as_it_was() -> None:
    data = (GOLDEN / "published").read_bytes()
    assert data == make.published_file()
    assert published.parse_header(data) == make.PUBLISHED_HEADER
    assert [published.parse_slot(data[at : at + 64]) for at in (64, 128)] == [None, make.PUBLISHED_SLOT]


def test_the_decoder_on_the_format_page_reads_every_record() -> None:
    code = re.search(r"## A decoder.*?```python\n(.*?)```", FORMAT.read_text(), re.DOTALL)
    assert code is not None
    scope: dict[str, Any] = {}
    exec(code[1], scope)
    decode: Callable[..., Iterator[tuple[Any, ...]]] = scope["records"]
    found = [record for name in LOGS for record in decode((GOLDEN / name).read_bytes(), TOPIC_ID, PARTITION)]
    assert found == [(*record[:4], [list(header) for header in record[4]]) for record in EXPECTED]
    assert len(code[1].strip().splitlines()) < 60


def test_a_batch_of_a_newer_version_is_refused_as_one() -> None:
    from streamlog.records import batch as batches

    data = bytearray((GOLDEN / LOGS[0]).read_bytes())
    header_len = int.from_bytes(data[5:7], "little")
    data[4] = 3
    digest = batches.xxh3_64_intdigest(bytes(data[:11] + data[15:header_len]), SEED) & 0xFFFFFFFF
    data[11:15] = digest.to_bytes(4, "little")
    with pytest.raises(FormatError, match="newer streamlog"):
        read_header(bytes(data), 0, SEED, "x.log", 0)


def test_a_metadata_record_of_an_unknown_kind_or_setting_is_refused() -> None:
    with pytest.raises(FormatError, match="newer streamlog"):
        metadata.replay(metadata.EMPTY, [(msgpack.packb(["acl", 1]), b"")])
    value = msgpack.packb({"id": TOPIC_ID, "partitions": 1, "internal": False, "config": {"new_setting": 1}})
    with pytest.raises(FormatError, match="new_setting"):
        metadata.replay(metadata.EMPTY, [(metadata.topic_key("t"), value)])
