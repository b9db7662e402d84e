"""Compression: chosen by producer or topic, seen only in the size of the files."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import pytest

import streamlog
from streamlog import StreamLog, Topic

needs_cramjam = pytest.mark.skipif(importlib.util.find_spec("cramjam") is None, reason="needs the extra `compression`")
CODECS = ["gzip", *(pytest.param(codec, marks=needs_cramjam) for codec in ("snappy", "lz4", "zstd"))]
VALUES = [b"%d of a thousand values that are all very much alike" % n for n in range(1000)]


def send_all(log: StreamLog, topic: str, **config: Any) -> None:
    with log.producer(linger_ms=1000, **config) as producer:
        producer.send_many(topic, VALUES[:500], (b"key-%d" % n for n in range(500)))
        for value in VALUES[500:]:
            producer.send(topic, value, headers={"h": value[:3]}, timestamp_ms=7)
        producer.send(topic, None, b"tombstone")
        producer.send(topic, b"", None)


def assert_all_there(topic: Topic) -> None:
    records = list(topic.read())
    assert [record.value for record in records] == [*VALUES, None, b""]
    assert [record.offset for record in records] == list(range(1002))
    assert records[499].key == b"key-499"
    assert (records[700].header("h"), records[700].timestamp) == (b"700", 7)
    assert records[-2].key == b"tombstone"
    assert [record for batch in topic.read_batches() for record in batch] == records
    assert [record.offset for record in topic.read(start=250, end=260)] == list(range(250, 260))


@pytest.mark.parametrize("codec", CODECS)
def test_compressed_records_come_back_and_take_less_room(
    log: StreamLog, reopen: Callable[..., StreamLog], codec: str
) -> None:
    plain, small = log.create_topic("plain"), log.create_topic("small")
    send_all(log, "plain")
    send_all(log, "small", compression_type=codec)
    assert_all_there(plain)
    assert_all_there(small)
    assert small.partition(0).size_bytes < plain.partition(0).size_bytes / 2
    assert_all_there(reopen(log)["small"])


@pytest.mark.parametrize("codec", CODECS)
def test_topic_compresses_for_producers_that_do_not(log: StreamLog, codec: str) -> None:
    plain, small = log.create_topic("plain"), log.create_topic("small", compression_type=codec)
    send_all(log, "plain")
    send_all(log, "small")
    assert_all_there(small)
    assert small.config["compression_type"] == codec
    assert small.partition(0).size_bytes < plain.partition(0).size_bytes / 2


@pytest.mark.parametrize("codec", CODECS)
def test_codecs_may_be_mixed_in_one_topic(log: StreamLog, codec: str) -> None:
    topic = log.create_topic("t")
    for n, compression in enumerate([None, codec, "gzip", "none", codec]):
        with log.producer(compression_type=compression) as producer:
            producer.send_many("t", [b"%d" % n * 100] * 10)
    assert [record.value for record in topic.read()] == [b"%d" % n * 100 for n in range(5) for _ in range(10)]


@pytest.mark.parametrize("codec", CODECS)
def test_compressed_topic_is_compacted(log: StreamLog, codec: str) -> None:
    topic = log.create_topic("t", cleanup_policy="compact", compression_type=codec)
    topic.send_many(VALUES, [b"key-%d" % (n % 10) for n in range(1000)])
    topic.compact()
    assert [(r.offset, r.value) for r in topic.read()] == [(n, VALUES[n]) for n in range(990, 1000)]


@pytest.mark.parametrize("codec", ["brotli", "", "GZIP!", 7], ids=repr)
def test_unknown_codec_is_refused(log: StreamLog, codec: Any) -> None:
    topic = log.create_topic("t")
    for use in (
        lambda: log.producer(compression_type=codec),
        lambda: log.create_topic("u", compression_type=codec),
        lambda: topic.update_config(compression_type=codec),
    ):
        with pytest.raises((streamlog.ConfigError, streamlog.UnsupportedCompressionTypeError), match="compression"):
            use()
    assert list(log) == ["t"]


def test_missing_extra_is_named_and_gzip_needs_none(path: Any, child: Callable[..., Any]) -> None:
    code = """
        import sys
        sys.modules["cramjam"] = None
        import streamlog
        with streamlog.open(sys.argv[1]) as log:
            log.create_topic("t")
            with log.producer(compression_type="gzip") as producer:
                producer.send("t", b"x" * 1000)
            for codec in ("snappy", "lz4", "zstd"):
                try:
                    with log.producer(compression_type=codec) as producer:
                        producer.send("t", b"x" * 1000)
                except streamlog.MissingExtraError as error:
                    assert isinstance(error, ImportError)
                    print(codec, "compression" in str(error))
            for make in (lambda: log.create_topic("z", compression_type="zstd"), lambda: log["t"].update_config(compression_type="lz4")):
                try:
                    make()
                except streamlog.MissingExtraError as error:
                    print("refused", "pip install 'streamlog-py[compression]'" in str(error))
            print("z" in log, log["t"].config["compression_type"])
            print(len(list(log["t"].read())))
    """
    output, complaint = child(code, path).communicate()
    codecs = ["snappy", "True", "lz4", "True", "zstd", "True"]
    assert output.split() == [*codecs, "refused", "True", "refused", "True", "False", "producer", "1"], complaint
