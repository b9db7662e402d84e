"""A shard under members that are honest, lazy, stuck, fenced and crashed, with its log failing now and then.

After every step: all invariants of the shard hold, no partition is held by two members that the group knows,
replaying the log gives the same state, and so does replaying only the last record of each key.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count

from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    MultipleResults,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    rule,
)

from streamlog.coordinator import Heartbeat, Shard
from streamlog.coordinator.schema import JOINING_EPOCH, LogRecord
from streamlog.errors import (
    CommitFailedError,
    DiskFullError,
    FencedInstanceIdError,
    GroupNotEmptyError,
    StreamlogError,
    UnknownMemberIdError,
)
from streamlog.runtime.api import Completion
from streamlog.types import OffsetAndMetadata, TopicPartition

TOPICS = ["t", "u", "v"]
ASSIGNORS = [("range",), ("roundrobin", "range"), ("cooperative-sticky", "range"), ("sticky", "range")]
SESSION_S, POLL_S = 45.0, 300.0
RETENTION_MS = 200_000
GROUP = "g"


@dataclass(eq=False)
class Client:
    """What a consumer knows. `held` is what it would read from; `tenure` says since which change of owner."""

    topics: frozenset[str]
    assignors: tuple[str, ...]
    instance_id: str | None
    remote: bool
    id: str = ""
    epoch: int = 0
    held: frozenset[TopicPartition] = frozenset()
    tenure: dict[TopicPartition, int] = field(default_factory=dict)


@dataclass
class DelayedCommit:
    """A commit that was on its way while the group went on."""

    client: Client
    epoch: int
    partition: TopicPartition
    tenure: int
    owner_changes: int
    topic_id: bytes | None


class CoordinatorMachine(RuleBasedStateMachine):
    clients = Bundle("clients")
    commits = Bundle("commits")
    small_group = 16

    def __init__(self) -> None:
        super().__init__()
        self.log: list[LogRecord] = []
        self.topics: dict[str, int] = {}
        self.ids_of_topics: dict[str, bytes] = {}
        self.now_ms, self.now_s = 1_000_000, 0.0
        self.failing = False
        self.ids, self.tenures, self.incarnations = count(), count(), count()
        self.last_owner: dict[TopicPartition, Client] = {}
        self.owner_changes: dict[TopicPartition, int] = {}
        self.offsets: dict[TopicPartition, tuple[int, int, bytes]] = {}
        self.empty_since_ms: int | None = None
        self.had_members = False
        self.everybody: list[Client] = []

    # -- the world

    @initialize(
        target=clients,
        topics=st.dictionaries(st.sampled_from(TOPICS), st.integers(1, 5), min_size=1),
        assignors=st.sampled_from(ASSIGNORS),
        instance_id=st.sampled_from([None, "one"]),
    )
    def start(
        self, topics: dict[str, int], assignors: tuple[str, ...], instance_id: str | None
    ) -> MultipleResults[Client]:
        """Two members, settled: most of what can go wrong needs that much."""
        self.topics = topics
        self.ids_of_topics = {topic: self.new_topic_id() for topic in topics}
        self.incarnation = str(next(self.incarnations))
        self.shard = self.make()
        self.shard.loaded(self.now_ms, self.now_s)
        first = self.join(frozenset(TOPICS), assignors, instance_id, False)
        second = self.join(frozenset(TOPICS), assignors, None, False)
        self.settle()
        return multiple(first, second)

    def make(self) -> Shard:
        return Shard(
            self.append,
            self.topic_id,
            incarnation=self.incarnation,
            offsets_retention_ms=RETENTION_MS,
            new_id=lambda: f"m{next(self.ids)}",
            small_group=self.small_group,
        )

    def new_topic_id(self) -> bytes:
        return b"topic %d" % next(self.ids)

    def topic_id(self, topic: str) -> bytes | None:
        return self.ids_of_topics.get(topic)

    def append(self, records: Sequence[LogRecord]) -> Completion[int]:
        assert records, "an append of nothing"
        if self.failing:
            self.failing = False
            return Completion.failed(DiskFullError("full"))
        assert len({key for key, _ in records}) == len(records), "one request writes a key twice"
        self.log.extend(records)
        return Completion.of(len(self.log))

    def compacted(self) -> list[LogRecord]:
        last = {key: position for position, (key, _) in enumerate(self.log)}
        return [record for position, record in enumerate(self.log) if last[record[0]] == position]

    def known(self) -> dict[str, Client]:
        ids = {member.member_id for member in self.shard.describe(GROUP).members}
        return {client.id: client for client in self.everybody if client.id in ids and not self.away(client)}

    def away(self, client: Client) -> bool:
        return self.shard.snapshot()[GROUP][1][client.id].away

    # -- members

    @rule(
        target=clients,
        topics=st.frozensets(st.sampled_from(TOPICS), min_size=1),
        assignors=st.sampled_from(ASSIGNORS),
        instance_id=st.sampled_from([None, None, "one", "two"]),
        remote=st.booleans(),
    )
    def newcomer(
        self, topics: frozenset[str], assignors: tuple[str, ...], instance_id: str | None, remote: bool
    ) -> Client:
        return self.join(topics, assignors, instance_id, remote)

    def join(self, topics: frozenset[str], assignors: tuple[str, ...], instance_id: str | None, remote: bool) -> Client:
        client = Client(topics, assignors, instance_id, remote)
        self.everybody.append(client)
        self.heartbeat(client)
        return client

    def heartbeat(self, client: Client, *, polling: bool = True, adopt: bool = True) -> bool:
        """Returns whether it was answered. An evicted or fenced consumer holds nothing from then on."""
        request = Heartbeat(
            GROUP,
            client.id,
            client.epoch,
            client.instance_id,
            None,
            client.topics,
            client.assignors,
            client.held,
            SESSION_S,
            POLL_S,
            polling,
            client.remote,
        )
        was_known = client.id in self.known()
        answer = self.shard.heartbeat(request, self.topics, self.now_ms, self.now_s)
        if answer.error() is not None:
            if not isinstance(answer.error(), DiskFullError):
                assert isinstance(answer.error(), UnknownMemberIdError | FencedInstanceIdError)
                assert not was_known, "a member was refused that the group knew"
                client.id, client.epoch = "", 0
                self.hold(client, frozenset())
            return False
        result = answer.result()
        client.id, client.epoch = result.member_id, result.member_epoch
        assert result.assignment <= self.given(client)
        state = self.shard.snapshot()[GROUP][1][client.id]
        joins_later = state.member_epoch == JOINING_EPOCH
        assert result.stable == (self.given(client) == state.target and not joins_later)
        assert result.next_check_s is None or result.next_check_s > self.now_s or joins_later or not polling
        # a lazy one takes what it gets and lets nothing go
        self.hold(client, result.assignment if adopt else client.held & self.given(client) | result.assignment)
        return True

    def given(self, client: Client) -> frozenset[TopicPartition]:
        return frozenset(self.shard.snapshot()[GROUP][1][client.id].given)

    def hold(self, client: Client, partitions: frozenset[TopicPartition]) -> None:
        for partition in partitions - client.held:
            client.tenure[partition] = next(self.tenures)
            if self.last_owner.get(partition) is not client:
                self.last_owner[partition] = client
                self.owner_changes[partition] = self.owner_changes.get(partition, 0) + 1
        client.held = partitions

    @rule(client=clients)
    def poll(self, client: Client) -> None:
        before = client.held
        if self.heartbeat(client) and not before <= client.held:
            self.heartbeat(client)

    @rule(client=clients, polling=st.booleans())
    def heartbeat_and_let_nothing_go(self, client: Client, polling: bool) -> None:
        self.heartbeat(client, polling=polling, adopt=False)

    @rule(client=clients, polling=st.booleans())
    def heartbeat_once(self, client: Client, polling: bool) -> None:
        self.heartbeat(client, polling=polling)

    @rule(client=clients)
    def lose_an_answer(self, client: Client) -> None:
        self.hold(client, frozenset())

    @rule(client=clients, topics=st.frozensets(st.sampled_from(TOPICS), min_size=1))
    def subscribe(self, client: Client, topics: frozenset[str]) -> None:
        client.topics = topics

    @rule(client=clients)
    def give_everything_to_the_others_and_come_back(self, client: Client) -> None:
        topics, client.topics = client.topics, frozenset()
        self.settle()
        client.topics = topics
        self.settle()

    @rule(client=clients, force=st.booleans())
    def leave(self, client: Client, force: bool) -> None:
        left = self.shard.leave(GROUP, client.id, self.now_ms, self.now_s, force=force)
        if not isinstance(left.error(), DiskFullError):
            client.id, client.epoch = "", 0
            self.hold(client, frozenset())

    # -- topics, time, crashes, a full disk

    @rule(topic=st.sampled_from(TOPICS), partitions=st.integers(0, 6))
    def change_topic(self, topic: str, partitions: int) -> None:
        if not partitions:
            self.topics.pop(topic, None)
            self.ids_of_topics.pop(topic, None)
        else:
            if topic not in self.topics:
                self.ids_of_topics[topic] = self.new_topic_id()
            self.topics[topic] = max(partitions, self.topics.get(topic, 0))
        self.shard.metadata_changed(self.topics, self.now_ms, self.now_s)

    @rule(topic=st.sampled_from(TOPICS), partitions=st.integers(1, 6), told=st.booleans())
    def make_topic_anew(self, topic: str, partitions: int, told: bool) -> None:
        """Deleted, and another one is made under its name; a coordinator that learns of it late, or never, skips no record."""
        if topic not in self.topics:
            return
        self.topics[topic], self.ids_of_topics[topic] = partitions, self.new_topic_id()
        if told:
            self.shard.metadata_changed(self.topics, self.now_ms, self.now_s)

    @rule(seconds=st.sampled_from([1, 44, 45, 120, 300]))
    def wait(self, seconds: int) -> None:
        self.now_s += seconds
        self.now_ms += seconds * 1000

    @rule()
    def expire(self) -> None:
        if self.shard.expire(self.now_s, self.now_ms).error() is None:
            upcoming = self.shard.next_expiry_s()
            assert upcoming is None or upcoming > self.now_s

    @rule()
    def crash(self) -> None:
        """The process dies; another one opens the log."""
        self.failing = False
        self.incarnation = str(next(self.incarnations))
        self.shard = self.make()
        self.shard.replay(self.compacted())
        self.shard.loaded(self.now_ms, self.now_s).result()
        for client in self.everybody:
            if not client.remote:
                client.id, client.epoch = "", 0
                self.hold(client, frozenset())
        described = self.shard.describe(GROUP)
        assert all(member.member_id in self.known() or member.group_instance_id for member in described.members)

    @rule()
    def fail_the_next_append(self) -> None:
        self.failing = True

    # -- offsets

    @rule(target=commits, client=clients, choice=st.integers(0, 20))
    def start_a_commit(self, client: Client, choice: int) -> DelayedCommit | MultipleResults[DelayedCommit]:
        held = sorted(client.held)
        if not held:
            return multiple()
        partition = held[choice % len(held)]
        tenure, changes = client.tenure[partition], self.owner_changes[partition]
        return DelayedCommit(client, client.epoch, partition, tenure, changes, self.topic_id(partition.topic))

    @rule(client=clients, topic=st.sampled_from(TOPICS), number=st.integers(0, 5))
    def commit_anything(self, client: Client, topic: str, number: int) -> None:
        partition = TopicPartition(topic, number)
        if number == 0:
            partition = min(client.held, default=partition)
        tenure, changes = client.tenure.get(partition, -1), self.owner_changes.get(partition, 0)
        topic_id = self.topic_id(partition.topic)
        self.finish_a_commit(DelayedCommit(client, client.epoch, partition, tenure, changes, topic_id), 7)

    @rule(commit=commits, offset=st.integers(0, 100))
    def finish_a_commit(self, commit: DelayedCommit, offset: int) -> None:
        client, partition = commit.client, commit.partition
        positions = {partition: OffsetAndMetadata(offset)}
        ids = {partition: commit.topic_id} if commit.topic_id is not None else {}
        outcome = self.shard.commit(GROUP, client.id, commit.epoch, positions, self.now_ms, ids)
        if outcome.error() is None:
            assert client.id in self.known(), "a consumer that is not in the group committed"
            assert partition in self.given(client), "a member committed what it does not have"
            assert self.owner_changes[partition] == commit.owner_changes, "another one had it in between"
            assert self.topic_id(partition.topic) is not None, "an offset of no topic was committed"
            assert commit.topic_id in (None, self.topic_id(partition.topic)), (
                "an offset of a former topic was committed"
            )
            self.offsets[partition] = (offset, self.now_ms, self.ids_of_topics[partition.topic])
        elif isinstance(outcome.error(), CommitFailedError):
            same_topic = commit.topic_id is not None and commit.topic_id == self.topic_id(partition.topic)
            never_lost = same_topic and partition in client.held and client.tenure[partition] == commit.tenure
            assert not (never_lost and client.id in self.known()), "the owner was refused"
        else:
            assert isinstance(outcome.error(), DiskFullError)

    @rule(topic=st.sampled_from(TOPICS), offset=st.integers(0, 100))
    def reset(self, topic: str, offset: int) -> None:
        if topic not in self.topics:
            return
        partition = TopicPartition(topic, 0)
        outcome = self.shard.commit(GROUP, None, -1, {partition: OffsetAndMetadata(offset)}, self.now_ms)
        if outcome.error() is None:
            assert not self.shard.describe(GROUP).members
            self.offsets[partition] = (offset, self.now_ms, self.ids_of_topics[topic])
        else:
            assert isinstance(outcome.error(), GroupNotEmptyError | DiskFullError)

    @rule(wait_ms=st.sampled_from([0, RETENTION_MS // 2, RETENTION_MS]))
    def expire_offsets(self, wait_ms: int) -> None:
        self.now_ms += wait_ms
        snapshot = self.shard.snapshot().get(GROUP)
        members = snapshot[1].values() if snapshot is not None else []
        subscribed = frozenset().union(*(state.topics for state in members))
        if self.shard.expire_offsets(self.now_ms).error() is None:
            since = self.empty_since_ms or 0
            self.offsets = {
                tp: (offset, at, topic_id)
                for tp, (offset, at, topic_id) in self.offsets.items()
                if tp.topic in subscribed or max(at, since) + RETENTION_MS > self.now_ms
            }
            upcoming = self.shard.next_offset_expiry_ms()
            assert upcoming is None or upcoming > self.now_ms

    @rule()
    def delete_the_group(self) -> None:
        try:
            self.shard.delete_group(GROUP).result()
        except StreamlogError:
            return
        self.offsets = {}
        assert self.shard.describe(GROUP).state == "Dead"

    # -- what must hold

    @rule()
    def settle(self) -> None:
        """Once all members poll, a few rounds suffice; after that polls write nothing."""
        self.failing = False
        for _ in range(3):
            for client in list(self.known().values()):
                self.poll(client)
        members = self.known().values()
        assert self.shard.describe(GROUP).state in ("Stable", "Empty", "Dead")
        kept = [member for member in self.shard.describe(GROUP).members if member.member_id not in self.known()]
        everything = {
            TopicPartition(topic, number)
            for topic in frozenset[str]().union(*(client.topics for client in members))
            for number in range(self.topics.get(topic, 0))
        }
        held = [partition for client in members for partition in client.held]
        placed = [partition for member in kept for partition in member.assignment]
        assert everything <= {*held, *placed} and len(held) == len(set(held))
        before = len(self.log)
        for client in members:
            self.poll(client)
        assert len(self.log) == before

    @invariant()
    def the_shard_is_consistent(self) -> None:
        self.shard.check()
        members = self.shard.describe(GROUP).members
        if self.had_members and not members:
            self.empty_since_ms = self.now_ms
        if members:
            self.empty_since_ms = None
        self.had_members = bool(members)

    @invariant()
    def no_partition_is_held_twice(self) -> None:
        held: dict[TopicPartition, str] = {}
        for client in self.known().values():
            assert client.held <= self.given(client), f"{client.id} holds what it was not given"
            for partition in client.held:
                assert partition not in held, f"{partition} is held by {held[partition]} and {client.id}"
                held[partition] = client.id

    @invariant()
    def offsets_are_what_was_committed(self) -> None:
        committed = {tp: position.offset for tp, position in self.shard.committed(GROUP).items()}
        current = {
            tp: offset for tp, (offset, _, topic_id) in self.offsets.items() if topic_id == self.topic_id(tp.topic)
        }
        assert committed == current

    @rule(end=st.integers(0, 100))
    def recover_a_log_that_ends_early(self, end: int) -> None:
        """The machine lost the ends of all logs: offsets beyond them are lowered, those before are left alone."""
        ends = {TopicPartition(topic, number): end for topic in TOPICS for number in range(6)}
        outcome = self.shard.lower_offsets(ends)
        if outcome.error() is None:
            self.offsets = {tp: (min(offset, end), at, topic_id) for tp, (offset, at, topic_id) in self.offsets.items()}

    @invariant()
    def the_log_says_it_all(self) -> None:
        for records in (self.log, self.compacted()):
            replayed = self.make()
            replayed.replay(records)
            replayed.check()
            assert replayed.snapshot() == self.shard.snapshot()


class LargeGroupMachine(CoordinatorMachine):
    """Every group is a large one: members get their target at the heartbeat after the one that joins."""

    small_group = 1


TestCoordinator = CoordinatorMachine.TestCase
TestLargeGroup = LargeGroupMachine.TestCase
