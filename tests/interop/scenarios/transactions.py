"""Transactions: what readers see, fencing, offsets in them, time-outs, and how they are described."""

from __future__ import annotations

import time
from typing import Any

from ..wire import (
    TRANSACTIONAL,
    add_partitions,
    ask,
    batch,
    batches_of,
    create,
    end_txn,
    error_name,
    fetch,
    find_coordinator,
    init_producer,
    offset_of,
    produce,
    record,
    try_produce,
    until,
)
from . import scenario, short_scenario
from .groups import coordinated

COMMITTED = 1


def begin(bootstrap: str, name: str, timeout_ms: int = 60_000) -> tuple[int, int]:
    """A producer of a transactional id, its id and its epoch."""
    find_coordinator(bootstrap, name, 1)
    made = init_producer(bootstrap, name, timeout_ms)
    assert made.error_code == 0, error_name(made.error_code)
    return made.producer_id, made.producer_epoch


def send(bootstrap: str, name: str, producer: tuple[int, int], sequence: int, *values: bytes, topic: str = "") -> Any:
    """Send in the transaction. The answer of the partition."""
    rows = [record(each) for each in values or (b"v",)]
    data = batch(*rows, attributes=TRANSACTIONAL, producer=(*producer, sequence))
    return try_produce(bootstrap, topic or name, data, version=11, transactional_id=name)


def ended(bootstrap: str, name: str, producer: tuple[int, int], *, commits: bool, version: int = 3) -> Any:
    """End it, and wait until its markers are written."""
    answer = end_txn(bootstrap, name, producer, commits=commits, version=version)
    until(lambda: described(bootstrap, name).transaction_state in ("CompleteCommit", "CompleteAbort", "Empty"))
    return answer


def described(bootstrap: str, name: str) -> Any:
    (state,) = ask(bootstrap, "DescribeTransactions", 0, transactional_ids=[name]).transaction_states
    for each in state.topics:
        each.partitions = sorted(each.partitions)
    return state


def seen(bootstrap: str, topic: str, isolation: int) -> Any:
    answer = fetch(bootstrap, topic, 0, isolation=isolation)
    values = [(each["base_offset"], each["attributes"], [row["value"] for row in each["records"]]) for each in batches_of(answer.records)]  # fmt: skip
    answer.records = b""
    return answer, values


@short_scenario
def open_and_aborted(bootstrap: str) -> Any:
    """Readers of committed records get none of an open transaction, and the list of the aborted ones; markers as they are stored."""
    name = "open_and_aborted"
    create(bootstrap, name)
    producer = begin(bootstrap, name)
    found: dict[str, Any] = {}
    produce(bootstrap, name, batch(record(b"before")))
    found["added"] = add_partitions(bootstrap, name, producer, name)
    found["sent"] = send(bootstrap, name, producer, 0, b"a", b"b")
    produce(bootstrap, name, batch(record(b"beside")))
    found["open"] = [seen(bootstrap, name, each) for each in (0, COMMITTED)]
    found["latest"] = [offset_of(bootstrap, name, -1, isolation=each).offset for each in (0, COMMITTED)]
    found["aborted"] = ended(bootstrap, name, producer, commits=False)
    found["then"] = [seen(bootstrap, name, each) for each in (0, COMMITTED)]
    found["added again"] = add_partitions(bootstrap, name, producer, name)
    found["sent again"] = send(bootstrap, name, producer, 2, b"c")
    found["committed"] = ended(bootstrap, name, producer, commits=True)
    found["in the end"] = [seen(bootstrap, name, each) for each in (0, COMMITTED)]
    found["from the middle"] = fetch(bootstrap, name, 4, isolation=COMMITTED).aborted_transactions
    return found


@short_scenario
def zombies(bootstrap: str) -> Any:
    """A producer whose transactional id another one has taken is fenced, in each request."""
    name = "zombies"
    create(bootstrap, name)
    old = begin(bootstrap, name)
    found: dict[str, Any] = {"added": add_partitions(bootstrap, name, old, name)}
    found["sent"] = send(bootstrap, name, old, 0).error_code
    new = begin(bootstrap, name)
    found["same id"] = new[0] == old[0]
    found["epoch"] = new[1] - old[1]
    found["add, version 3"] = add_partitions(bootstrap, name, old, name)
    found["add, version 1"] = add_partitions(bootstrap, name, old, name, version=1)
    for version in (3, 7, 9, 12):
        data = batch(record(), attributes=TRANSACTIONAL, producer=(*old, 1))
        answer = try_produce(bootstrap, name, data, version=version, transactional_id=name)
        found[f"produce, version {version}"] = error_name(answer.error_code)
    for version in (1, 3, 5):
        found[f"end, version {version}"] = end_txn(bootstrap, name, old, commits=True, version=version)
    for version in (0, 3, 4):
        answer = ask(
            bootstrap, "AddOffsetsToTxn", version, transactional_id=name, producer_id=old[0], producer_epoch=old[1],
            group_id=name,
        )  # fmt: skip
        found[f"offsets, version {version}"] = error_name(answer.error_code)
    found["init with the old epoch"] = init_producer(bootstrap, name, producer_id=old[0], producer_epoch=old[1])
    found["reader"] = seen(bootstrap, name, COMMITTED)[1]
    return found


@short_scenario
def ends_in_each_state(bootstrap: str) -> Any:
    """EndTxn where nothing is open, twice, the other way round, and of others."""
    name = "ends_in_each_state"
    create(bootstrap, name)
    producer = begin(bootstrap, name)
    found: dict[str, Any] = {"nothing open": end_txn(bootstrap, name, producer, commits=True)}
    found["added"] = add_partitions(bootstrap, name, producer, name)
    found["no record"] = ended(bootstrap, name, producer, commits=True)
    found["again"] = end_txn(bootstrap, name, producer, commits=True)
    found["the other way"] = end_txn(bootstrap, name, producer, commits=False)
    found["another producer"] = end_txn(bootstrap, name, (producer[0] + 100, 0), commits=True)
    found["a newer epoch"] = end_txn(bootstrap, name, (producer[0], 9), commits=True)
    found["an unknown id"] = end_txn(bootstrap, f"{name}.2", producer, commits=True)
    found["an empty id"] = end_txn(bootstrap, "", producer, commits=True)
    return found


@short_scenario
def second_generation(bootstrap: str) -> Any:
    """KIP-890: partitions are added by the first batch, and each end has the next epoch."""
    name = "second_generation"
    create(bootstrap, name)
    producer = begin(bootstrap, name)
    found: dict[str, Any] = {}

    def first(of: tuple[int, int], sequence: int, version: int = 12) -> Any:
        data = batch(record(), attributes=TRANSACTIONAL, producer=(*of, sequence))

        def sent() -> Any:
            answer = try_produce(bootstrap, name, data, version=version, transactional_id=name)
            return (
                None if error_name(answer.error_code) in ("CONCURRENT_TRANSACTIONS", "NOT_ENOUGH_REPLICAS") else answer
            )

        return until(sent)

    found["sent"] = first(producer, 0)
    end = ended(bootstrap, name, producer, commits=True, version=5)
    found["committed"] = end, end.producer_epoch - producer[1]
    following = end.producer_id, end.producer_epoch
    found["the old epoch"] = error_name(first(producer, 1).error_code)
    found["retried end"] = end_txn(bootstrap, name, producer, commits=True, version=5)
    found["retried end the other way"] = end_txn(bootstrap, name, producer, commits=False, version=5)
    found["the new epoch"] = first(following, 0)
    end = ended(bootstrap, name, following, commits=False, version=5)
    found["aborted"] = end, end.producer_epoch - following[1]
    found["nothing open"] = end_txn(bootstrap, name, (end.producer_id, end.producer_epoch), commits=False, version=5)
    found["seen"] = [seen(bootstrap, name, each)[1] for each in (0, COMMITTED)]
    return found


@short_scenario
def offsets_in_transactions(bootstrap: str) -> Any:
    """Offsets of a group are committed with a transaction, or not at all; until then they are unstable."""
    name = "offsets_in_transactions"
    create(bootstrap, name, 2)
    coordinated(bootstrap, name)
    producer = begin(bootstrap, name)

    def commit(offset: int, of: tuple[int, int] = producer, version: int = 3, topic: str = name, **given: Any) -> str:
        answer = ask(
            bootstrap, "TxnOffsetCommit", version, transactional_id=name, group_id=name, producer_id=of[0],
            producer_epoch=of[1],
            topics=[{"name": topic, "partitions": [{"partition_index": 0, "committed_offset": offset, **given}]}],
            **({"generation_id_or_member_epoch": -1} if version >= 3 else {}),
        )  # fmt: skip
        return error_name(answer.topics[0].partitions[0].error_code)

    def committed(stable: bool) -> Any:
        groups = [{"group_id": name, "topics": [{"name": name, "partition_indexes": [0, 1]}]}]
        return ask(bootstrap, "OffsetFetch", 8, groups=groups, require_stable=stable).groups[0]

    def add() -> str:
        answer = until(
            lambda: (
                found
                if error_name(
                    (
                        found := ask(
                            bootstrap, "AddOffsetsToTxn", 3, transactional_id=name, producer_id=producer[0],
                            producer_epoch=producer[1], group_id=name,
                        )
                    ).error_code
                )
                != "CONCURRENT_TRANSACTIONS"
                else None
            )
        )  # fmt: skip
        return error_name(answer.error_code)

    found: dict[str, Any] = {"added": add()}
    found["written"] = commit(5, committed_metadata="m")
    found["a topic that is not there"] = commit(5, topic=f"{name}.2")
    found["too large a metadata"] = commit(5, committed_metadata="m" * 4097)
    found["open"] = [committed(each) for each in (False, True)]
    found["committed"] = ended(bootstrap, name, producer, commits=True)
    found["then"] = until(
        lambda: answer if (answer := committed(True)).topics[0].partitions[0].error_code == 0 else None
    )
    found["added again"] = add()
    found["written again"] = commit(7)
    found["aborted"] = ended(bootstrap, name, producer, commits=False)
    found["in the end"] = until(
        lambda: answer if (answer := committed(True)).topics[0].partitions[0].error_code == 0 else None
    )
    found["a member that is none"] = ask(
        bootstrap, "TxnOffsetCommit", 3, transactional_id=name, group_id=name, producer_id=producer[0],
        producer_epoch=producer[1], member_id="nobody", generation_id_or_member_epoch=4,
        topics=[{"name": name, "partitions": [{"partition_index": 0, "committed_offset": 1}]}],
    )  # fmt: skip
    return found


@scenario
def time_outs_of_transactions(bootstrap: str) -> Any:
    """A transaction that is not ended in its time is aborted, and its producer is fenced."""
    name = "time_outs_of_transactions"
    create(bootstrap, name)
    producer = begin(bootstrap, name, 1000)
    add_partitions(bootstrap, name, producer, name)
    send(bootstrap, name, producer, 0, b"late")
    until(lambda: described(bootstrap, name).transaction_state == "CompleteAbort")
    return {
        "seen": [seen(bootstrap, name, each)[1] for each in (0, COMMITTED)],
        "end": end_txn(bootstrap, name, producer, commits=True),
        "produce": error_name(send(bootstrap, name, producer, 1).error_code),
        "add": add_partitions(bootstrap, name, producer, name),
        "again": begin(bootstrap, name, 1000)[1] > producer[1],
    }


@short_scenario
def inits(bootstrap: str) -> Any:
    """InitProducerId: time-outs that are refused, epochs that go up, ids that are unknown."""
    name = "inits"
    find_coordinator(bootstrap, name, 1)
    first = init_producer(bootstrap, name)
    second = init_producer(bootstrap, name)
    return {
        "first": first,
        "epochs": second.producer_epoch - first.producer_epoch,
        "of the second": init_producer(
            bootstrap, name, producer_id=second.producer_id, producer_epoch=second.producer_epoch
        ),
        "of the second again": init_producer(
            bootstrap, name, producer_id=second.producer_id, producer_epoch=second.producer_epoch
        ),
        "of the first": init_producer(
            bootstrap, name, producer_id=first.producer_id, producer_epoch=first.producer_epoch
        ),
        "of the first, version 3": init_producer(
            bootstrap, name, version=3, producer_id=first.producer_id, producer_epoch=first.producer_epoch
        ),
        "of an unknown producer": init_producer(bootstrap, name, producer_id=999_999, producer_epoch=0),
        "15 minutes": init_producer(bootstrap, f"{name}.2", 900_000),
        "more": init_producer(bootstrap, f"{name}.3", 900_001),
        "0 ms": init_producer(bootstrap, f"{name}.4", 0),
        "an empty id": init_producer(bootstrap, ""),
        "no id": init_producer(bootstrap, None),
        "no id with a producer": init_producer(bootstrap, None, producer_id=5, producer_epoch=3),
        "old version": init_producer(bootstrap, f"{name}.5", version=1),
    }


@short_scenario
def adding_to_transactions(bootstrap: str) -> Any:
    """AddPartitionsToTxn: all or none; and of producers that are unknown."""
    name = "adding_to_transactions"
    create(bootstrap, name, 2)
    producer = begin(bootstrap, name)
    topics = [{"name": name, "partitions": [0, 7]}, {"name": f"{name}.2", "partitions": [0]}]
    answer = ask(
        bootstrap, "AddPartitionsToTxn", 3, v3_and_below_transactional_id=name, v3_and_below_producer_id=producer[0],
        v3_and_below_producer_epoch=producer[1], v3_and_below_topics=topics,
    )  # fmt: skip
    return {
        "some are not there": {
            (topic.name, each.partition_index): error_name(each.partition_error_code)
            for topic in answer.results_by_topic_v3_and_below
            for each in topic.results_by_partition
        },
        "another producer": add_partitions(bootstrap, name, (producer[0] + 50, 0), name),
        "an unknown id": add_partitions(bootstrap, f"{name}.2", producer, name),
        "a newer epoch": add_partitions(bootstrap, name, (producer[0], 5), name),
        "one": add_partitions(bootstrap, name, producer, name, 1),
        "it again": add_partitions(bootstrap, name, producer, name, 1),
        "state": described(bootstrap, name),
    }


@short_scenario
def described_transactions(bootstrap: str) -> Any:
    """DescribeTransactions and ListTransactions of each state."""
    name = "described_transactions"
    create(bootstrap, name, 2)
    producer = begin(bootstrap, name)

    def listed(**given: Any) -> Any:
        answer = ask(bootstrap, "ListTransactions", 1, **{"duration_filter": -1, **given})
        mine = [each for each in answer.transaction_states if each.transactional_id == name]
        return mine, answer.unknown_state_filters

    found: dict[str, Any] = {"empty": (described(bootstrap, name), listed())}
    add_partitions(bootstrap, name, producer, name, 0, 1)
    found["open"] = described(bootstrap, name)
    found["listed"] = {
        "all": listed(), "ongoing": listed(state_filters=["Ongoing"]), "empty": listed(state_filters=["Empty"]),
        "no such": listed(state_filters=["Open"]), "its producer": listed(producer_id_filters=[producer[0]]),
        "another": listed(producer_id_filters=[producer[0] + 7]), "long": listed(duration_filter=1_000_000),
    }  # fmt: skip
    ended(bootstrap, name, producer, commits=True)
    found["committed"] = described(bootstrap, name)
    add_partitions(bootstrap, name, producer, name, 0)
    ended(bootstrap, name, producer, commits=False)
    found["aborted"] = described(bootstrap, name)
    found["unknown"] = described(bootstrap, f"{name}.2")
    found["empty id"] = described(bootstrap, "")
    return found


@scenario
def an_open_transaction_of_the_one_before(bootstrap: str) -> Any:
    """A producer that begins again aborts what it left open, and what it wrote is not seen."""
    name = "an_open_transaction_of_the_one_before"
    create(bootstrap, name)
    first = begin(bootstrap, name)
    add_partitions(bootstrap, name, first, name)
    send(bootstrap, name, first, 0, b"lost")
    second = begin(bootstrap, name)
    add_partitions(bootstrap, name, second, name)
    sent = send(bootstrap, name, second, 0, b"kept")
    ended(bootstrap, name, second, commits=True)
    return {"sent": sent, "epochs": second[1] - first[1], "seen": seen(bootstrap, name, COMMITTED)}


@scenario
def sequences_in_transactions(bootstrap: str) -> Any:
    """Gaps and duplicates of a transactional producer."""
    name = "sequences_in_transactions"
    create(bootstrap, name)
    producer = begin(bootstrap, name)
    add_partitions(bootstrap, name, producer, name)
    return {
        "not from 0": error_name(send(bootstrap, name, producer, 3).error_code),
        "first": send(bootstrap, name, producer, 0).base_offset,
        "again": send(bootstrap, name, producer, 0).base_offset,
        "gap": error_name(send(bootstrap, name, producer, 5).error_code),
        "commit": ended(bootstrap, name, producer, commits=True).error_code,
        "at the end": offset_of(bootstrap, name, -1).offset,
    }


@scenario
def markers_follow(bootstrap: str) -> Any:
    """After EndTxn has answered, the offset to which committed records go moves at once or soon."""
    name = "markers_follow"
    create(bootstrap, name)
    producer = begin(bootstrap, name)
    add_partitions(bootstrap, name, producer, name)
    send(bootstrap, name, producer, 0)
    code = end_txn(bootstrap, name, producer, commits=True).error_code
    end = time.monotonic() + 20
    while (last := offset_of(bootstrap, name, -1, isolation=COMMITTED).offset) < 2 and time.monotonic() < end:
        time.sleep(0.02)
    return code, last
