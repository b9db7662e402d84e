"""A producer that does not wait is a bounded number of requests ahead of the followers that are in sync.

Without the bound, three threads that sent small batches with a linger were ten thousand records ahead of the followers after
ten seconds, and more all the time: acknowledgements came later and later, until the followers had left the in-sync set.
"""

from __future__ import annotations

import pytest

import streamlog
from streamlog.client.producer.partition_queue import MOST_IN_FLIGHT

from .test_replica_scenarios import T0, Brokers, brokers

COUNT = 8 * MOST_IN_FLIGHT
VALUES = [b"%03d" % n + b"." * 200 for n in range(COUNT)]
CONFIG = {"linger_ms": 5, "batch_size": 100}
"""Each record fills a batch, which is written at once."""


def create(b: Brokers) -> None:
    b.log.create_topic("t")
    b.log.elect_leader(T0, 0)
    b.send()
    b.settle()


def end_at(b: Brokers, broker: int) -> int:
    end: int = b.replica(broker).reader.tail.end_offset
    return end


def test_requests_that_the_followers_do_not_have_are_bounded_and_the_others_come_after_them() -> None:
    with brokers(3) as b:
        create(b)
        acknowledged: list[int] = []
        with b.log.producer(**CONFIG) as producer:
            b.hold(1, 2)
            for value in VALUES:
                producer.send("t", value).add_done_callback(lambda each: acknowledged.append(each.result().offset))
            assert end_at(b, 0) == MOST_IN_FLIGHT
            b.schedule.elapse(1.0)
            assert end_at(b, 0) == MOST_IN_FLIGHT
            assert not acknowledged
            b.release(1, 2)
            b.schedule.elapse(1.0)  # no call waits for them
            assert acknowledged == list(range(COUNT))
        assert [b.values_at(broker) for broker in range(3)] == 3 * [VALUES]


def test_a_flush_waits_for_the_followers_and_writes_what_was_held_back() -> None:
    with brokers(3) as b:
        create(b)
        with b.log.producer(**CONFIG) as producer:
            b.hold(1, 2)
            for value in VALUES:
                producer.send("t", value)
            with pytest.raises(streamlog.RequestTimedOutError):
                producer.flush(timeout=0.5)
            assert end_at(b, 0) == MOST_IN_FLIGHT
            b.release(1, 2)
            producer.flush()
            assert b.log["t"].partition(0).high_watermark == COUNT


def test_a_program_that_asks_for_a_delivery_has_what_was_held_back_written() -> None:
    with brokers(3) as b:
        create(b)
        with b.log.producer(**CONFIG) as producer:
            deliveries = [producer.send("t", value) for value in VALUES]
            assert deliveries[-1].result().offset == COUNT - 1


def test_what_the_leader_alone_acknowledges_waits_for_no_follower() -> None:
    with brokers(3) as b:
        create(b)
        with b.log.producer(**CONFIG, acks=1) as producer:
            b.hold(1, 2)
            for value in VALUES:
                producer.send("t", value)
            assert end_at(b, 0) == COUNT
            b.release(1, 2)


@pytest.mark.parametrize("idempotent", [True, False])
def test_what_was_held_back_is_kept_once_and_in_order_if_its_leader_fails(idempotent: bool) -> None:
    with brokers(3) as b:
        create(b)
        with b.log.producer(**CONFIG, enable_idempotence=idempotent) as producer:
            b.hold(1, 2)
            for value in VALUES:
                producer.send("t", value)
            b.fail(0)
            b.release(1, 2)
            producer.flush()
        assert b.values() == VALUES
        b.start(0)
        assert [b.values_at(broker) for broker in range(3)] == 3 * [VALUES]
