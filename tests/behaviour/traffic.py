"""A producer and a consumer that run while brokers, replicas and leaders move; at the end all that was acknowledged is there."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from streamlog import StreamLog, StreamlogError
from tests.times import LONG


def values(log: StreamLog, topic: str = "t") -> list[bytes | None]:
    return [record.value for record in log[topic].read()]


def remove(directory: Path) -> None:
    """Remove a directory that a log has open: at once, for the log may be making files in it meanwhile."""
    shutil.rmtree(directory.rename(directory.with_name(f"{directory.name}-removed")))


class Traffic:
    """A producer and a consumer of one topic that run until they are stopped."""

    def __init__(self, log: StreamLog, topic: str = "t") -> None:
        self._log, self._topic = log, topic
        self._stopping = False
        self._errors: list[BaseException] = []
        self.acknowledged: list[bytes] = []
        self.read: list[bytes | None] = []
        self._threads = [threading.Thread(target=self._run, args=[each]) for each in (self._produce, self._consume)]
        for thread in self._threads:
            thread.start()

    def _run(self, work: object) -> None:
        try:
            work()  # type: ignore[operator]
        except BaseException as error:
            self._errors.append(error)

    def _produce(self) -> None:
        with self._log.producer() as producer:
            while not self._stopping:
                value = b"%d" % len(self.acknowledged)
                try:
                    producer.send(self._topic, value).result()
                except StreamlogError as error:
                    if not error.retriable:
                        raise
                else:
                    self.acknowledged.append(value)

    def _consume(self) -> None:
        with self._log.consumer(self._topic) as consumer:
            while self._threads[0].is_alive() or len(self.read) < len(self.acknowledged):
                self.read += [record.value for record in consumer.poll(0.1)]

    def until(self, count: int) -> None:
        """Wait for so many more records to be acknowledged."""
        wanted = len(self.acknowledged) + count
        while len(self.acknowledged) < wanted and not self._errors:
            threading.Event().wait(0.001)

    def stop(self) -> None:
        self._stopping = True
        for thread in self._threads:
            thread.join(60)
        assert not self._errors
        assert not any(thread.is_alive() for thread in self._threads)


@contextmanager
def traffic(log: StreamLog, topic: str = "t") -> Iterator[Traffic]:
    """Records that are sent and read meanwhile; at the end all that was acknowledged is there, once and in order."""
    running = Traffic(log, topic)
    try:
        yield running
        running.until(20)
    finally:
        running.stop()
    assert values(log, topic) == running.acknowledged
    assert running.read == running.acknowledged


def eventually(look: Callable[[], Any], what: str = "it did not come to that") -> None:
    """Look until it is so: the background has to do its work first."""
    end = time.monotonic() + LONG
    while not look():
        assert time.monotonic() < end, what
        threading.Event().wait(0.002)
