"""Two logs that lead in turn and follow each other, against a list of (epoch, value) for each.

The follower asks as a fetcher of Kafka's does: it fetches with its last epoch (KIP-595), truncates to where the leader's
epoch ended or its own did, whichever is less, and asks again until nothing diverges.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from streamlog.storage import truncation
from tests.unit.storage.conftest import CLEAN, KILLED, POWER_LOST, Box

Model = list[tuple[int, bytes]]
sides = st.sampled_from([0, 1])


class Replicas(RuleBasedStateMachine):
    @initialize()
    def open_logs(self) -> None:
        self.directory = tempfile.TemporaryDirectory()
        self.logs = [Box(Path(self.directory.name) / str(n), segment_bytes=1024) for n in range(2)]
        self.models: list[Model] = [[], []]
        self.epoch = self.values = 0
        self.leader = 0

    @rule(leader=sides)
    def elect(self, leader: int) -> None:
        """Unclean at times: the new leader may not have what the old one acknowledged."""
        self.leader, self.epoch = leader, self.epoch + 1
        log = self.logs[leader].log
        log.assign_epoch(self.epoch, log.tail.end_offset)

    @rule(counts=st.lists(st.integers(1, 3), min_size=1, max_size=4), size=st.sampled_from([1, 300]))
    def append(self, counts: list[int], size: int) -> None:
        b, model = self.logs[self.leader], self.models[self.leader]
        for count in counts:
            values = [b"%d" % (self.values + n) * size for n in range(count)]
            self.values += count
            b.log.append(b.write(*values), self.epoch, b.now)
            model += [(self.epoch, value) for value in values]

    @rule(max_bytes=st.sampled_from([1, 700, 1 << 16]), fetches=st.integers(1, 9))
    def follow(self, max_bytes: int, fetches: int) -> None:
        leader, follower = self.logs[self.leader], self.logs[1 - self.leader]
        theirs, mine = self.models[self.leader], self.models[1 - self.leader]
        for _ in range(fetches):
            end, log = follower.log.tail.end_offset, follower.log
            last = log.leader_epochs.written(log.tail).latest
            diverging = None if last is None else leader.log.diverging_epoch(last, end)
            if diverging is not None:
                own = log.epoch_end_offset(diverging.epoch)
                end = truncation.truncate_to(
                    log, min(end, diverging.end_offset, own.end_offset if own is not None else end)
                )
                del mine[end:]
                continue
            if data := leader.log.reader.fetch(end, max_bytes, leader.log.tail.end_offset).data:
                end = log.append_as_follower(data)
                mine[:] = theirs[:end]

    @rule(side=sides, crash=st.sampled_from([CLEAN, KILLED, POWER_LOST]))
    def reopen(self, side: int, crash: object) -> None:
        b = self.logs[side]
        b.reopen(crash)  # type: ignore[arg-type]
        if side == self.leader:
            b.log.assign_epoch(self.epoch, b.log.tail.end_offset)

    @rule()
    def catch_up(self) -> None:
        self.follow(1 << 16, 60)
        files = [b"".join(path.read_bytes() for path in b.logs()) for b in self.logs]
        assert files[0] == files[1], "the follower has the bytes of its leader"

    @invariant()
    def logs_are_their_models(self) -> None:
        for b, model in zip(self.logs, self.models, strict=True):
            assert b.values() == [value for _, value in model]
            written = b.log.leader_epochs.written(b.log.tail).entries
            epochs = [epoch for epoch, _ in model]
            assert written == [(epoch, epochs.index(epoch)) for epoch in sorted(set(epochs))]

    def teardown(self) -> None:
        if hasattr(self, "logs"):
            for b in self.logs:
                assert not b.problems()
                b.log.release()
            self.directory.cleanup()


TestReplicas = Replicas.TestCase
TestReplicas.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
