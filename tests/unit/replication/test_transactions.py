"""Transactions of a partition with replicas: a marker counts once it is replicated, and a follower knows what its leader does."""

from __future__ import annotations

from pathlib import Path

import pytest

from streamlog.errors import NotEnoughReplicasError, NotLeaderError, ProducerFencedError
from streamlog.records import columns
from streamlog.replication.partition import Partition
from streamlog.replication.replica_set import PartitionRegistration
from streamlog.replication.transactions import TransactionMarker
from streamlog.storage.log import AppendRequest

from .pair import LED_BY_0, LED_BY_1, NAME, NOW, SEED, Pair

PRODUCER = 7


@pytest.fixture(params=[False, True], ids=["", "durable"])
def pair(tmp_path: Path, request: pytest.FixtureRequest) -> Pair:
    return Pair(tmp_path, durable=request.param)


def send(pair: Pair, sequence: int, epoch: int = 0, *, producer: int = PRODUCER) -> int:
    sealed = columns.seal(SEED, None, [b"x"], NOW, count=1)
    write = AppendRequest([sealed.sequenced(producer, epoch, sequence, transactional=True)])
    return pair.leader.append(write, NOW)


def replicate(pair: Pair) -> None:
    for _ in range(4):
        pair.fetcher.wake(NAME)
        pair.fetcher.step(NOW)
        if pair.leader.durable:
            pair.leader.commit.sync()


def unstable(replica: Partition) -> int:
    return replica.last_stable_offset


def test_a_marker_counts_once_every_replica_in_sync_has_it(pair: Pair) -> None:
    send(pair, 0)
    replicate(pair)
    assert pair.leader.high_watermark == 1 and pair.leader.last_stable_offset == 0
    done = pair.leader.append_marker(TransactionMarker(PRODUCER, 1, True, 0), NOW)
    assert not done.done()
    assert pair.leader.last_stable_offset == 0, (
        "the records are replicated, but another leader would not know the outcome"
    )
    replicate(pair)
    assert done.result() == 1
    assert pair.leader.last_stable_offset == pair.follower.last_stable_offset == 2
    send(pair, 0, 1)
    pair.leader.append_marker(TransactionMarker(PRODUCER, 2, False, 0), NOW)
    replicate(pair)
    assert pair.leader.last_stable_offset == pair.follower.last_stable_offset == 4
    for replica in pair.replicas:
        known = replica.read_transactions()
        assert known is not None and [each[:3] for each in known.aborted] == [(PRODUCER, 2, 3)]
        assert len(known.unstable) <= 1


def test_after_a_failover_the_new_leader_knows_what_is_open_and_the_marker_comes_again(pair: Pair) -> None:
    send(pair, 0)
    replicate(pair)
    lost = pair.leader.append_marker(TransactionMarker(PRODUCER, 1, False, 0), NOW)
    assert not lost.done()
    stable = pair.leader.last_stable_offset
    pair.lead(LED_BY_1)
    assert pair.leader.last_stable_offset == stable == 0
    done = pair.leader.append_marker(TransactionMarker(PRODUCER, 1, False, 0, is_bumped=True), NOW)
    replicate(pair)
    assert done.done() and pair.leader.last_stable_offset == 2
    assert pair.follower.last_stable_offset == 2
    assert pair.follower.end_offset == 2


def test_a_marker_needs_the_leader_and_enough_replicas_in_sync(pair: Pair) -> None:
    send(pair, 0)
    with pytest.raises(NotLeaderError):
        pair.follower.append_marker(TransactionMarker(PRODUCER, 1, True, 0), NOW)
    pair.lead(PartitionRegistration((0, 1), (0,), 0, 1, 2))
    with pytest.raises(NotEnoughReplicasError):
        pair.leader.append_marker(TransactionMarker(PRODUCER, 1, True, 0), NOW)
    pair.lead(LED_BY_0._replace(partition_epoch=3))
    pair.leader.append_marker(TransactionMarker(PRODUCER, 2, True, 0), NOW)
    send(pair, 0, 2)
    for epoch in (1, 2):
        with pytest.raises(ProducerFencedError):
            pair.leader.append_marker(TransactionMarker(PRODUCER, epoch, True, 0, is_bumped=True), NOW)


def test_what_ended_is_forgotten_once_it_is_replicated(pair: Pair) -> None:
    for epoch in range(50):
        send(pair, 0, epoch)
        pair.leader.append_marker(TransactionMarker(PRODUCER, epoch + 1, True, 0), NOW)
        replicate(pair)
    for replica in pair.replicas:
        known = replica.reader.transactions
        assert known is None or len(known.unstable) <= 2
