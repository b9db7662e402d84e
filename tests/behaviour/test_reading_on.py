"""Who reads along goes on where it was, whatever becomes of the owner: no record comes a second time."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

import streamlog
from streamlog import StreamLog, TopicPartition

from .beside import SOON, Child, Owner, eventually, received, values

# Longer than it takes a reader to ask who has the directory (0.35 s), when there is nothing new.
NOTICED = 0.5
SLOW = """
    import sys, streamlog
    from streamlog.broker.log_directory import LogDirectory
    take_over = LogDirectory._take_over
    def slow(self, new):
        print("locked", flush=True)
        sys.stdin.readline()
        return take_over(self, new)
    LogDirectory._take_over = slow
    log = streamlog.open(sys.argv[1])
    log["t"].send(b"3")
    print("sent", flush=True)
    sys.stdin.readline()
    log.close()
"""


@pytest.fixture
def owner(child: Child, path: Path) -> Owner:
    """The owner of a log with a topic `t`."""
    made = Owner(child, path)
    made("t = log.create_topic('t', partitions=2)")
    return made


@pytest.fixture
def reader(path: Path, owner: Owner) -> Iterator[StreamLog]:
    with streamlog.open(path, read_only=True) as log:
        yield log


@pytest.mark.parametrize("way", ["poll", "poll_batches"])
def test_an_owner_that_has_only_just_come_does_not_take_back_what_the_one_before_did_not_publish(
    owner: Owner, reader: StreamLog, path: Path, child: Child, way: str
) -> None:
    def come(count: int) -> list[bytes]:
        found: list[bytes] = []
        while len(found) < count:
            got = getattr(consumer, way)(SOON)
            assert got, f"after {found} nothing came"
            found += [value for each in got for value in (each.values if way == "poll_batches" else [each.value])]
        return found

    with reader.consumer("t") as consumer:
        owner("t.send(b'0', partition=0)")
        assert come(1) == [b"0"]
        owner("log._engine.service.publisher.abandon()")  # as if it was killed before the next 5 ms were over
        owner("t.send_many([b'1', b'2'], partition=0)")
        owner.kill()
        assert come(2) == [b"1", b"2"]
        process = child(SLOW, path)
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == "locked\n"  # it has not said so anywhere else yet
        assert consumer.poll(NOTICED) == []
        assert values(reader) == [b"0", b"1", b"2"]
        assert reader["t"].partition(0).high_watermark == 3
        process.stdin.write("go on\n")
        process.stdin.flush()
        assert come(1) == [b"3"]
        assert process.stdout.readline() == "sent\n"
        assert process.communicate("and end\n", timeout=60) == ("", "")


def test_a_position_that_was_deleted_moves_and_no_other_does(
    owner: Owner, reader: StreamLog, caplog: pytest.LogCaptureFixture
) -> None:
    owner("t.send_many([b'%d' % n for n in range(9)], partition=0); t.send_many([b'x', b'y'], partition=1)")
    eventually(lambda: [reader["t"].partition(n).high_watermark for n in (0, 1)], [9, 2])
    with reader.consumer() as consumer:
        consumer.assign([TopicPartition("t", 0), TopicPartition("t", 1)])
        consumer.seek(TopicPartition("t", 1), 2)
        # As an owner does whose disk refuses to sync: it shows no more than what is known to be on the device.
        owner("p = log._engine.service._partitions['t', 1]; p.durable, p.commit.synced_end = True, 1")
        owner("p.listener.changed(rewritten=True)")
        eventually(lambda: reader["t"].partition(1).high_watermark, 1)
        owner("t.delete_records({0: 7})")
        eventually(lambda: reader["t"].partition(0).log_start_offset, 7)
        with caplog.at_level(logging.WARNING, "streamlog"):
            assert received(consumer, 2) == [b"7", b"8"]
        assert [record.message for record in caplog.records] == [
            "t-0: offset 0 is outside the log (7 to 9); going on at 7 (auto_offset_reset='earliest')"
        ]
        assert consumer.position(TopicPartition("t", 1)) == 2
        owner("p.durable = False; p.listener.changed(); t.send(b'z', partition=1)")
        assert received(consumer, 1) == [b"z"]
