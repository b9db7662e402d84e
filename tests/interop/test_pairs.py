"""Two members of kafka-python that join a new group at the same moment, again and again."""

from __future__ import annotations

import threading
import time

import pytest

import streamlog
from streamlog.kafka import Listener
from tests.kafka.clients import WAIT_S

kafka = pytest.importorskip("kafka", reason="kafka-python is not installed")

PAIRS = 50


class Pair:
    """Two members; each is polled until both have one of the two partitions."""

    def __init__(self, servers: str, group: str) -> None:
        self.assigned: list[set[int]] = [set(), set()]
        self.shares = threading.Event()
        self._servers, self._group = servers, group
        self._start = threading.Barrier(2)

    def run(self, index: int) -> None:
        consumer = kafka.KafkaConsumer(
            "t", bootstrap_servers=self._servers, group_id=self._group, heartbeat_interval_ms=100
        )
        self._start.wait(WAIT_S)
        end_s = time.monotonic() + WAIT_S
        while not self.shares.is_set() and time.monotonic() < end_s:
            consumer.poll(50)
            self.assigned[index] = {each.partition for each in consumer.assignment()}
            if sorted(self.assigned) in ([{0}, {1}], [{1}, {0}]):
                self.shares.set()
        consumer.close()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_each_of_fifty_pairs_that_join_at_once_shares_its_topic() -> None:
    """With no initial rebalance delay some pairs are lost: a member that joins during the first one's rebalance gets nothing."""
    with streamlog.open() as log, Listener(log) as listener:
        log.create_topic("t", partitions=2).send_many([b"a", b"b"]).result()
        for number in range(PAIRS):
            pair = Pair(listener.bootstrap_servers, f"g{number}")
            threads = [threading.Thread(target=pair.run, args=(n,), daemon=True) for n in range(2)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(3 * WAIT_S)
            assert not any(thread.is_alive() for thread in threads), f"pair {number} has {pair.assigned}"
            assert pair.shares.is_set(), f"pair {number} has {pair.assigned}"
