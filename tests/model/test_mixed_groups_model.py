"""A group of classic, KIP-848 and Python members that come and go in any order, over simulated time.

After every step no partition has two owners that the group knows, and the log says what the shard says. Members that go on asking
all get somewhere within bounded time, with every partition at one of them. A record is handled once, unless its member was
lost before it could commit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from streamlog.coordinator import Heartbeat, Shard
from streamlog.coordinator.messages import ClassicGroupConfig, JoinGroup, JoinGroupResult, MemberIdentity, SyncGroup
from streamlog.coordinator.schema import LogRecord
from streamlog.errors import (
    CommitFailedError,
    IllegalGenerationError,
    MemberIdRequiredError,
    RebalanceInProgressError,
    UnknownMemberIdError,
)
from streamlog.runtime.api import Completion
from streamlog.types import OffsetAndMetadata, TopicPartition

GROUP, TOPICS = "g", {"t": 5}
EVERYTHING = frozenset(TopicPartition("t", number) for number in range(5))
SESSION_S, REBALANCE_S = 10.0, 20.0
LIMIT_ROUNDS = 120
"""Rounds of a second: a session, then a rebalance that waits for one that is gone, a few times over."""


@dataclass(eq=False)
class Client:
    """`held` is what it reads from, each partition at a position."""

    machine: MixedGroupsMachine
    held: dict[TopicPartition, int] = field(default_factory=dict)
    id: str = ""

    settled = False
    """Whether it waits for nothing."""
    is_unsure = False
    """Whether the coordinator may know nothing of its generation: that was not written before the groups were loaded again."""

    def act(self) -> None:
        """Handle a record of each partition, then what its client would do next."""
        self.machine.handle(self)
        self.step()

    def step(self) -> None:
        raise NotImplementedError

    def leave(self) -> None:
        raise NotImplementedError

    def epoch(self) -> int:
        raise NotImplementedError

    def hold(self, partitions: frozenset[TopicPartition]) -> None:
        """Commit what it gives up, and begin to read what it gets."""
        self.machine.commit(self, frozenset(self.held) - partitions)
        self.held = {each: self.held.get(each, -1) for each in partitions}
        self.machine.begin(self)

    def lose(self) -> None:
        """The group knows it no more, or its generation is over: what it has handled since the last commit comes again."""
        self.machine.lost(self)
        self.held = {}


@dataclass(eq=False)
class Modern(Client):
    """A KIP-848 member (`remote`), or one of this process."""

    remote: bool = False
    member_epoch: int = 0

    def epoch(self) -> int:
        return self.member_epoch

    def step(self) -> None:
        before = frozenset(self.held)
        if self.heartbeat() and not before <= frozenset(self.held):
            self.heartbeat()

    def heartbeat(self) -> bool:
        machine = self.machine
        request = Heartbeat(
            GROUP, self.id, self.member_epoch, None, None, frozenset("t"), ("cooperative-sticky", "range"),
            frozenset(self.held), SESSION_S, 300.0, True, self.remote,
        )  # fmt: skip
        answer = machine.shard.heartbeat(request, TOPICS, machine.now_ms, machine.now_s)
        machine.wake()
        if answer.error() is not None:
            assert isinstance(answer.error(), UnknownMemberIdError), answer.error()
            self.lose()
            self.id, self.member_epoch, self.settled = "", 0, False
            return False
        result = answer.result()
        self.hold(result.assignment) if self.id else None
        self.id, self.member_epoch, self.settled = result.member_id, result.member_epoch, result.stable
        self.hold(result.assignment)
        return True

    def leave(self) -> None:
        self.hold(frozenset())
        self.machine.shard.leave(GROUP, self.id, self.machine.now_ms, self.machine.now_s)
        self.machine.wake()


@dataclass(eq=False)
class Classic(Client):
    """An eager member revokes everything before it joins again, a cooperative one what it has to."""

    cooperative: bool = False
    generation: int = -1
    asked: Completion[Any] | None = None
    joined: JoinGroupResult | None = None
    rejoins: bool = True

    def epoch(self) -> int:
        return self.generation

    def step(self) -> None:
        if self.asked is not None:
            if not self.asked.done():
                return
            answer, self.asked = self.asked, None
            if not self.failed(answer):
                self.on_answer(answer.result())
            return
        if self.rejoins:
            self.join()
        elif self.joined is not None:
            self.sync(self.joined)
        else:
            self.heartbeat()

    def join(self) -> None:
        if not self.cooperative:
            self.hold(frozenset())
        machine = self.machine
        owned = frozenset(self.held)
        metadata = b"m" + bytes(sorted(each.partition for each in owned))
        names = ("cooperative-sticky",) if self.cooperative else ("range", "roundrobin")
        request = JoinGroup(
            GROUP, self.id, None, "c", "host", "consumer", tuple((name, metadata) for name in names), SESSION_S,
            REBALANCE_S, frozenset("t"), owned,
        )  # fmt: skip
        self.settled = False
        config = ClassicGroupConfig(initial_rebalance_delay_ms=500)
        self.asked = machine.shard.join_group(request, config, TOPICS, machine.now_ms, machine.now_s)
        machine.wake()

    def sync(self, joined: JoinGroupResult) -> None:
        machine = self.machine
        partitions = self.assign(joined) if joined.leader == self.id else {}
        request = SyncGroup(
            GROUP, self.id, None, joined.generation_id, joined.protocol_type, joined.protocol,
            dict.fromkeys(partitions, b"x"), partitions,
        )  # fmt: skip
        machine.bytes_of.update({(joined.generation_id, each): given for each, given in partitions.items()})
        self.asked = machine.shard.sync_group(request, machine.now_ms, machine.now_s)
        machine.wake()

    def assign(self, joined: JoinGroupResult) -> dict[str, frozenset[TopicPartition]]:
        ids = [member.member_id for member in joined.members]
        owners = {
            TopicPartition("t", number): member.member_id for member in joined.members for number in member.metadata[1:]
        }
        spread: dict[str, set[TopicPartition]] = {member_id: set() for member_id in ids}
        for at, partition in enumerate(sorted(EVERYTHING)):
            member_id = ids[at % len(ids)]
            if not self.cooperative or owners.get(partition, member_id) == member_id:
                spread[member_id].add(partition)
        return {member_id: frozenset(given) for member_id, given in spread.items()}

    def on_answer(self, result: Any) -> None:
        if isinstance(result, JoinGroupResult):
            self.id, self.generation, self.joined, self.rejoins = result.member_id, result.generation_id, result, False
            self.is_unsure = False
            return
        self.joined = None
        assignment = result.partitions
        if assignment is None:
            assignment = (
                self.machine.bytes_of.get((self.generation, self.id), frozenset()) if result.assignment else frozenset()
            )
        # A cooperative member that has to give up something joins again to say so.
        self.rejoins = self.cooperative and not frozenset(self.held) <= assignment
        self.hold(assignment)
        self.settled = not self.rejoins

    def heartbeat(self) -> None:
        machine = self.machine
        answer = machine.shard.classic_heartbeat(GROUP, self.id, None, self.generation, machine.now_ms, machine.now_s)
        machine.wake()
        self.failed(answer)

    def failed(self, answer: Completion[Any]) -> bool:
        error = answer.error()
        if error is None:
            return False
        self.settled, self.joined, self.rejoins = False, None, True
        if isinstance(error, MemberIdRequiredError):
            self.id = error.member_id
        elif isinstance(error, UnknownMemberIdError):
            self.lose()
            self.id, self.generation = "", -1
        elif isinstance(error, IllegalGenerationError):
            self.lose()
        else:
            assert isinstance(error, RebalanceInProgressError), error
        return True

    def leave(self) -> None:
        self.hold(frozenset())
        self.machine.shard.leave_classic_group(
            GROUP, [MemberIdentity(self.id)], self.machine.now_ms, self.machine.now_s
        )
        self.machine.wake()


class MixedGroupsMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.log: list[LogRecord] = []
        self.now_ms, self.now_s = 1_000_000, 0.0
        self.ids = count()
        self.incarnation = 0
        self.clients: list[Client] = []
        self.bytes_of: dict[tuple[int, str], frozenset[TopicPartition]] = {}
        self.handled: dict[TopicPartition, int] = dict.fromkeys(EVERYTHING, 0)
        self.unsure: set[TopicPartition] = set()  # a member may have been lost between a record and its commit
        self.open()

    @initialize(cooperative=st.booleans())
    def start(self, cooperative: bool) -> None:
        self.cooperative = cooperative

    def open(self) -> None:
        self.shard = Shard(
            self.append,
            lambda name: name.encode(),
            incarnation=str(self.incarnation),
            new_id=lambda: f"m{next(self.ids)}",
        )
        self.shard.replay(self.log)
        self.shard.loaded(self.now_ms, self.now_s)

    def append(self, records: Sequence[LogRecord]) -> Completion[int]:
        self.log.extend(records)
        return Completion.of(len(self.log))

    def wake(self) -> None:
        for wake in self.shard.take_wakeups():
            wake()

    # -- records

    def handle(self, client: Client) -> None:
        for partition in client.held:
            client.held[partition] += 1
            if partition not in self.unsure:
                self.handled[partition] = client.held[partition]

    def begin(self, client: Client) -> None:
        committed = self.shard.committed(GROUP)
        for partition, position in client.held.items():
            if position == -1:
                at = committed.get(partition)
                client.held[partition] = 0 if at is None else at.offset
                if partition in self.unsure:
                    self.unsure.discard(partition)
                    self.handled[partition] = client.held[partition]
                assert client.held[partition] == self.handled[partition], f"{partition}: a record comes twice, or never"

    def commit(self, client: Client, partitions: frozenset[TopicPartition]) -> None:
        offsets = {each: OffsetAndMetadata(client.held[each]) for each in partitions}
        if not offsets:
            return
        done = self.shard.commit(GROUP, client.id, client.epoch(), offsets, self.now_ms)
        if done.error() is not None:
            assert isinstance(done.error(), CommitFailedError | UnknownMemberIdError), done.error()
            assert client.id not in self.known() or client.is_unsure, done.error()
            self.unsure |= partitions

    def lost(self, client: Client) -> None:
        self.unsure |= client.held.keys()

    # -- rules

    @rule(kind=st.sampled_from(["classic", "classic", "python", "kip-848"]))
    @precondition(lambda self: len(self.clients) < 5)
    def newcomer(self, kind: str) -> None:
        if kind == "classic":
            client: Client = Classic(self, cooperative=self.cooperative)
        else:
            client = Modern(self, remote=kind == "kip-848")
        self.clients.append(client)
        client.act()

    @rule(data=st.data(), times=st.integers(1, 4))
    @precondition(lambda self: self.clients)
    def act(self, data: st.DataObject, times: int) -> None:
        client = data.draw(st.sampled_from(self.clients))
        for _ in range(times):
            client.act()

    @rule(rounds=st.integers(1, 4))
    def act_all(self, rounds: int) -> None:
        for _ in range(rounds):
            self.round()

    def round(self) -> None:
        for client in list(self.clients):
            client.act()
        self.later(1.0)

    @rule(seconds=st.sampled_from([0.5, 3.0, 9.0, 25.0]))
    def later(self, seconds: float) -> None:
        self.now_s += seconds
        self.now_ms += int(seconds * 1000)
        self.shard.expire(self.now_s, self.now_ms)
        self.wake()
        known = self.known()
        for client in self.clients:
            if client.id not in known:
                self.lost(client)

    @rule(data=st.data())
    @precondition(lambda self: self.clients)
    def leave(self, data: st.DataObject) -> None:
        client = data.draw(st.sampled_from(self.clients))
        self.clients.remove(client)
        client.leave()

    @rule(data=st.data())
    @precondition(lambda self: any(isinstance(client, Classic) or client.remote for client in self.clients))
    def crash(self, data: st.DataObject) -> None:
        client = data.draw(st.sampled_from([each for each in self.clients if isinstance(each, Classic) or each.remote]))
        self.clients.remove(client)
        client.lose()

    @rule()
    def load_again(self) -> None:
        self.shard.elect()
        self.wake()
        self.shard.replay(self.log)
        self.shard.loaded(self.now_ms, self.now_s)
        for client in self.clients:
            client.is_unsure = isinstance(client, Classic)
            if isinstance(client, Classic) and client.asked is not None:
                assert client.asked.done(), "an answer that no shard knows of"
                if client.asked.error() is not None:
                    client.asked = None  # and the client asks again

    @rule()
    def open_again(self) -> None:
        """Another process opens the log: the members that lived in the former one are gone."""
        self.incarnation += 1
        self.open()
        self.wake()
        for client in list(self.clients):
            client.is_unsure = isinstance(client, Classic)
            if isinstance(client, Classic):
                client.asked = None
            elif not client.remote:
                self.clients.remove(client)
                client.lose()

    @rule()
    def settle(self) -> None:
        for _ in range(LIMIT_ROUNDS):
            self.round()
            everybody = {client.id for client in self.clients}
            if all(client.settled for client in self.clients) and self.known() == everybody and self.is_shared():
                break
        assert all(client.settled for client in self.clients), [vars(client) for client in self.clients]
        if self.clients:
            assert self.is_shared(), [(client.id, client.held) for client in self.clients]
            modern = any(isinstance(client, Modern) for client in self.clients)
            assert self.shard.describe(GROUP).type == ("consumer" if modern else "classic")

    def is_shared(self) -> bool:
        held = sorted(partition for client in self.clients for partition in client.held)
        return held == sorted(EVERYTHING) or not self.clients

    # -- invariants

    def known(self) -> set[str]:
        return {member.member_id for member in self.shard.describe(GROUP).members}

    @invariant()
    def no_partition_has_two_owners(self) -> None:
        known = self.known()
        held = [partition for client in self.clients if client.id in known for partition in client.held]
        assert len(held) == len(set(held)), [(client.id, client.held) for client in self.clients]

    @invariant()
    def the_log_says_what_the_shard_says(self) -> None:
        self.shard.check()
        replayed = Shard(self.append, lambda name: name.encode(), incarnation="1", new_id=str)
        replayed.replay(self.log)
        assert replayed.snapshot() == self.shard.snapshot()


TestMixedGroups = MixedGroupsMachine.TestCase
TestMixedGroups.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
