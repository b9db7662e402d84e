"""A group against its invariants: one thread, members that come, go, poll, commit and forget in any order.

The model is one number per partition: the offset that must come next. It moves on when that record is
handed out, and back only to what a member left unfinished. So every record is delivered, in order,
exactly once unless it was abandoned, and then exactly once more.
"""

from __future__ import annotations

import gc
import sys
import warnings
from collections import Counter
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

import streamlog
from streamlog import TopicPartition
from streamlog.testing import ManualClock

TOPICS = {"a": 3, "b": 2, "c": 1}
PARTITIONS = {TopicPartition(name, n) for name, count in TOPICS.items() for n in range(count)}
MOST_MEMBERS = 4
topic_sets = st.sets(st.sampled_from(sorted(TOPICS)), min_size=1)
member_index = st.integers(0, MOST_MEMBERS - 1)


class Member:
    """A consumer, and the first offset of each partition that it has in hand."""

    def __init__(self, consumer: Any, topics: set[str]) -> None:
        self.consumer = consumer
        self.topics = topics
        self.in_hand: dict[TopicPartition, int] = {}


class GroupMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.log = streamlog.open(clock=ManualClock(start_ms=1_700_000_000_000))
        self.group = self.log.group("g")
        self.members: list[Member] = []
        self.end = dict.fromkeys(PARTITIONS, 0)
        self.next = dict.fromkeys(PARTITIONS, 0)
        self.committed: dict[TopicPartition, int] = {}
        for name, count in TOPICS.items():
            self.log.create_topic(name, partitions=count)

    def teardown(self) -> None:
        if sys.exc_info()[0] is not None:
            self.log.close()
            return
        try:
            for member in self.members:
                self.poll_member(member)
                member.consumer.commit()
                member.in_hand.clear()
                member.consumer.close()
            self.members.clear()
            last = Member(self.log.consumer(*TOPICS, group="g"), set(TOPICS))
            for _ in range(1000):
                if not self.poll_member(last):
                    break
            last.consumer.close()
            assert self.next == self.end, "not every record was delivered"
            committed = self.group.committed()
            assert {key: committed.get(key, 0) for key in PARTITIONS} == self.end
        finally:
            self.log.close()

    # What happens

    @rule(partition=st.sampled_from(sorted(PARTITIONS)), count=st.integers(1, 5))
    def produce(self, partition: TopicPartition, count: int) -> None:
        values = [str(self.end[partition] + n) for n in range(count)]
        self.log[partition.topic].send_many(values, partition=partition.partition).result()
        self.end[partition] += count

    @precondition(lambda self: len(self.members) < MOST_MEMBERS)
    @rule(topics=topic_sets, most=st.integers(1, 4), interval=st.sampled_from([0, 3_600_000]))
    def join(self, topics: set[str], most: int, interval: int) -> None:
        consumer = self.log.consumer(
            *sorted(topics), group="g", max_poll_records=most, auto_commit_interval_ms=interval
        )
        self.members.append(Member(consumer, topics))

    @precondition(lambda self: self.members)
    @rule(index=member_index, batches=st.booleans())
    def poll(self, index: int, batches: bool) -> None:
        self.poll_member(self.member(index), batches=batches)

    @precondition(lambda self: self.members)
    @rule(index=member_index)
    def commit(self, index: int) -> None:
        member = self.member(index)
        member.consumer.commit()
        for partition in member.in_hand:
            assert self.group.committed()[partition] == self.next[partition]
        member.in_hand.clear()

    @precondition(lambda self: self.members)
    @rule(index=member_index, topics=topic_sets)
    def subscribe(self, index: int, topics: set[str]) -> None:
        member = self.member(index)
        member.consumer.subscribe(sorted(topics))
        member.topics = topics

    @precondition(lambda self: self.members)
    @rule(index=member_index)
    def leave_well(self, index: int) -> None:
        member = self.member(index)
        self.members.remove(member)
        with member.consumer:
            pass

    @precondition(lambda self: self.members)
    @rule(index=member_index)
    def leave_with_records_in_hand(self, index: int) -> None:
        member = self.member(index)
        self.members.remove(member)
        member.consumer.close()
        for partition, offset in member.in_hand.items():
            self.next[partition] = offset

    @precondition(lambda self: self.members)
    @rule(index=member_index)
    def forget(self, index: int) -> None:
        """A collected member may not even have committed all that it had finished."""
        member = self.member(index)
        self.members.remove(member)
        had = member.consumer.assignment() | set(member.in_hand)
        in_hand = dict(member.in_hand)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            del member
            gc.collect()
        for partition in had:
            committed = self.group.committed().get(partition, 0)
            assert committed <= in_hand.get(partition, self.next[partition])
            self.next[partition] = committed

    @precondition(lambda self: not self.members)
    @rule(to_earliest=st.booleans())
    def reset(self, to_earliest: bool) -> None:
        self.group.reset(*TOPICS, to="earliest" if to_earliest else "latest")
        self.next = dict.fromkeys(PARTITIONS, 0) if to_earliest else dict(self.end)
        self.committed = dict(self.next)

    @precondition(lambda self: self.members)
    @rule()
    def three_rounds_settle_the_group(self) -> None:
        """The last one to join changes the target in the first; in the second all give up, in the third all take."""
        for _ in range(3):
            for member in self.members:
                self.poll_member(member)
        wanted = {partition for member in self.members for partition in PARTITIONS if partition.topic in member.topics}
        assert set(self.owners()) == wanted
        for member in self.members:
            assert {partition.topic for partition in member.consumer.assignment()} <= member.topics

    # What must always hold

    @invariant()
    def no_partition_has_two_owners(self) -> None:
        assert all(count == 1 for count in self.owners().values())
        described = Counter(partition for member in self.group.members() for partition in member.assignment)
        assert all(count == 1 for count in described.values())

    @invariant()
    def committed_offsets_never_go_back_nor_past_what_was_delivered(self) -> None:
        committed = self.group.committed()
        for partition, offset in committed.items():
            assert self.committed.get(partition, 0) <= offset <= self.next[partition]
        assert set(self.committed) <= set(committed)
        self.committed = committed

    @invariant()
    def nothing_in_hand_is_committed_by_itself(self) -> None:
        committed = self.group.committed()
        for member in self.members:
            for partition, offset in member.in_hand.items():
                assert committed.get(partition, 0) <= offset

    # Helpers

    def member(self, index: int) -> Member:
        return self.members[index % len(self.members)]

    def owners(self) -> Counter[TopicPartition]:
        return Counter(partition for member in self.members for partition in member.consumer.assignment())

    def poll_member(self, member: Member, *, batches: bool = False) -> list[Any]:
        if batches:
            records = [record for batch in member.consumer.poll_batches() for record in batch]
        else:
            records = member.consumer.poll()
        member.in_hand.clear()
        for record in records:
            partition = record.topic_partition
            assert record.offset == self.next[partition], (partition, record.offset, self.next[partition])
            assert record.value == str(record.offset).encode()
            assert partition.topic in member.topics
            member.in_hand.setdefault(partition, record.offset)
            self.next[partition] += 1
        return records


TestGroup = GroupMachine.TestCase
