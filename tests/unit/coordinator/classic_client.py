"""A member of a classic group as its coordinator sees it: a client that assigns by itself when it leads."""

from __future__ import annotations

from typing import Any

from streamlog.coordinator.messages import (
    ClassicGroupConfig,
    JoinGroup,
    JoinGroupResult,
    MemberIdentity,
    SyncGroup,
    SyncGroupResult,
)
from streamlog.runtime.api import Completion
from streamlog.types import TopicPartition

DEFAULTS = ClassicGroupConfig()


class Client:
    """Asks when a test has it ask. `asked` is the last answer, parked or not."""

    def __init__(
        self,
        world: Any,
        name: str = "c",
        *,
        instance_id: str | None = None,
        protocols: tuple[tuple[str, bytes], ...] | None = None,
        protocol_type: str = "consumer",
        session_timeout_s: float = 10.0,
        rebalance_timeout_s: float = 60.0,
        known_ids: bool = False,
        config: ClassicGroupConfig = DEFAULTS,
        skips: bool = False,
    ) -> None:
        self.world = world
        self.name = name
        self.instance_id = instance_id
        self.protocols = (("range", b"meta " + name.encode()),) if protocols is None else protocols
        self.protocol_type = protocol_type
        self.session_timeout_s = session_timeout_s
        self.rebalance_timeout_s = rebalance_timeout_s
        self.known_ids = known_ids
        self.config = config
        self.skips = skips
        self.id = ""
        self.joined: JoinGroupResult | None = None
        self.asked: Completion[Any] = Completion.of(None)

    @property
    def generation(self) -> int:
        return -1 if self.joined is None else self.joined.generation_id

    @property
    def leads(self) -> bool:
        return self.joined is not None and self.joined.leader == self.id

    def join(self) -> Completion[JoinGroupResult]:
        request = JoinGroup(
            "g", self.id, self.instance_id, self.name, "/10.0.0.1", self.protocol_type, self.protocols,
            self.session_timeout_s, self.rebalance_timeout_s, frozenset("t"), frozenset(), self.known_ids, self.skips, "test",
        )  # fmt: skip
        world = self.world
        self.asked = world.shard.join_group(request, self.config, world.topics, world.now_ms, world.now_s)
        self.asked.on_done(self._on_joined)
        world.wake()
        return self.asked

    def _on_joined(self, answer: Completion[JoinGroupResult]) -> None:
        if answer is self.asked and answer.error() is None:
            self.joined = answer.result()
            self.id = self.joined.member_id

    def sync(self, **given: Any) -> Completion[SyncGroupResult]:
        """The leader assigns to each member `part of ID`, and all partitions of t in turn."""
        assignments, partitions = {}, {}
        if self.leads:
            assert self.joined is not None
            ids = [member.member_id for member in self.joined.members]
            assignments = {each: b"part of " + each.encode() for each in ids}
            partitions = {
                each: frozenset(TopicPartition("t", number) for number in range(at, 4, len(ids)))
                for at, each in enumerate(ids)
            }
        request = SyncGroup(
            "g", self.id, self.instance_id, self.generation, assignments=assignments, partitions=partitions
        )
        self.asked = self.world.shard.sync_group(request._replace(**given), self.world.now_ms, self.world.now_s)
        self.world.wake()
        return self.asked

    def heartbeat(self, generation: int | None = None) -> Completion[None]:
        answer: Completion[None] = self.world.shard.classic_heartbeat(
            "g",
            self.id,
            self.instance_id,
            self.generation if generation is None else generation,
            self.world.now_ms,
            self.world.now_s,
        )
        self.world.wake()
        return answer

    def leave(self) -> Any:
        (error,) = self.world.leave_classic(MemberIdentity(self.id))
        return error


def stable(*clients: Client) -> None:
    """Have them all join, one after another, until the group has all of them and is stable."""
    for client in clients:
        client.join()
    for _ in range(2):
        for client in clients:
            if client.asked.done():
                client.join()
    for client in clients:
        client.sync()
    for client in clients:
        assert client.asked.done() and client.asked.error() is None, (client.name, client.asked.error())
