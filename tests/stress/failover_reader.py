"""A process that reads a log of several brokers by its path while those come and go; see `failover`."""

from __future__ import annotations

import gc
import json
import time
from collections import Counter
from pathlib import Path

import streamlog
from streamlog import StreamLog, TopicPartition

from .failover_ledger import Ledger
from .processes import Journal, head_of
from .soak_follower import Size

_EVERY_S = 0.5
LONGEST_S = 60.0


def follow(path: str, folder: str, partitions: list[list[object]]) -> None:
    """Read along until everything has come that the file `ends` of `folder` says; what was read goes to the files `known-…`.

    What fails is opened again, and counts. Every record has to be the one that was at its offset before.
    """
    say, ledger = Journal(f"{folder}/reader"), Ledger()
    names = [TopicPartition(str(topic), int(str(number))) for topic, number in partitions]
    positions = dict.fromkeys(names, 0)
    errors: Counter[str] = Counter()
    final, until = Path(folder) / "ends", None
    look_at = time.monotonic() + _EVERY_S
    log: StreamLog | None = None
    while True:
        try:
            if log is None:
                log = streamlog.open(path, read_only=True)
                consumer = log.consumer()
                consumer.assign(names)
                for name, offset in positions.items():
                    consumer.seek(name, offset)
            for record in consumer.poll(timeout=0.05):
                name, due = record.topic_partition, positions[record.topic_partition]
                if record.offset < due:
                    errors["went back"] += 1
                if record.offset > due:
                    start = consumer.beginning_offsets([name])[name]
                    assert record.offset <= start, f"offset {record.offset} of {name} came where {due} was due"
                ledger[name].know(record.offset, head_of(record.value))
                positions[name] = record.offset + 1
        except streamlog.StreamlogError as error:
            errors[type(error).__name__] += 1
            if log is not None:
                log.close()
                log = None
            time.sleep(0.05)
        if time.monotonic() >= look_at:
            gc.collect()
            say(*Size.now())
            look_at += _EVERY_S
        if final.exists():
            until = until or time.monotonic() + LONGEST_S
            ends = json.loads(final.read_text())
            if all(positions[name] >= ends[f"{name.topic}-{name.partition}"] for name in names):
                break
            assert time.monotonic() < until, f"of {ends} only {positions} came; {errors}"
    if log is not None:
        log.close()
    for name in names:
        Path(f"{folder}/known-{name.topic}-{name.partition}").write_bytes(ledger[name].known().tobytes())
    Path(f"{folder}/errors").write_text(json.dumps(errors))
