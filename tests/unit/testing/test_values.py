"""Records that a test makes, and those that it finds in a topic."""

from __future__ import annotations

import pytest

import streamlog
from streamlog.testing import ManualClock, make_record, records


def test_a_record_has_what_it_was_given_and_defaults_otherwise() -> None:
    made = make_record(topic="orders", key="alice", value={"amount": 1}, headers={"trace": "7f", "empty": None})
    assert type(made) is streamlog.Record
    assert made[:3] == ("orders", 0, 0)
    assert (made.key, made.value, made.headers) == ("alice", {"amount": 1}, (("trace", b"7f"), ("empty", None)))
    plain = make_record()
    assert plain.timestamp == ManualClock().time_ms()
    assert (plain.key, plain.value, plain.headers) == (None, b"", ())
    assert make_record(partition=1, offset=2, timestamp=3)[1:4] == (1, 2, 3)


def test_a_field_that_a_record_has_not_is_refused() -> None:
    with pytest.raises(TypeError, match="topik"):
        make_record(topik="orders")  # type: ignore[call-arg]
    with pytest.raises(streamlog.SerializationError, match="header"):
        make_record(headers=[("name", 1)])  # type: ignore[list-item]


def test_all_records_of_a_topic_are_listed_by_partition_and_offset(log: streamlog.StreamLog) -> None:
    orders = log.create_topic("orders", partitions=2)
    for n in range(3):
        orders.send(f"b{n}", partition=1)
        orders.send(f"a{n}", partition=0)
    assert [record.value for record in records(log, "orders")] == [b"a0", b"a1", b"a2", b"b0", b"b1", b"b2"]


def test_a_topic_with_a_serde_gives_its_own_values(log: streamlog.StreamLog) -> None:
    log.create_topic("orders")
    orders = log.topic("orders", value_serde=streamlog.serde.json)
    orders.send({"amount": 1})
    assert [record.value for record in records(log, orders)] == [{"amount": 1}]


def test_records_of_an_aborted_transaction_are_not_listed(log: streamlog.StreamLog) -> None:
    log.create_topic("orders").send("first")
    with log.producer(transactional_id="t") as producer:
        producer.begin_transaction()
        producer.send("orders", "aborted")
        producer.abort_transaction()
    assert [record.value for record in records(log, "orders")] == [b"first"]


@pytest.mark.parametrize("auto_create_topics", [False, True])
def test_a_topic_that_does_not_exist_is_an_error(auto_create_topics: bool) -> None:
    with streamlog.open(auto_create_topics=auto_create_topics) as log:
        log.create_topic("orders")
        with pytest.raises(streamlog.UnknownTopicOrPartitionError, match="did you mean 'orders'"):
            records(log, "orderz")
        assert list(log) == ["orders"]
