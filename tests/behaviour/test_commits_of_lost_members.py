"""A member that was evicted from its group commits nothing, also when the group has no other member."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from streamlog import CommitFailedError, RebalanceListener, StreamLog, TopicPartition

from .member_time import Liveness

T0 = TopicPartition("t", 0)


class CommitsWhatIsLost(RebalanceListener):
    """A listener that commits where it should not."""

    def __init__(self) -> None:
        self.refused: list[CommitFailedError] = []

    def on_partitions_lost(self, partitions: Sequence[TopicPartition]) -> None:
        try:
            self.consumer.commit()
        except CommitFailedError as error:
            self.refused.append(error)


def test_a_member_that_was_put_out_cannot_move_back_what_a_later_member_committed(log: StreamLog) -> None:
    log.create_topic("t").send_many([b"%d" % n for n in range(10)])
    liveness, listener = Liveness(log), CommitsWhatIsLost()
    late = log.consumer("t", group="g", max_poll_interval_ms=1000, enable_auto_commit=False, listener=listener)
    listener.consumer = late
    assert len(late.poll(max_records=3)) == 3
    liveness.pass_ms(2000)
    with log.consumer("t", group="g") as heir:
        assert len(list(heir.until_end())) == 10
    assert log.group("g").committed() == {T0: 10}
    assert late.poll() == [], "it joins again, behind the commit of the other"
    assert len(listener.refused) == 1
    assert "evicted from the group" in str(listener.refused[0]) and "poll" in str(listener.refused[0])
    assert log.group("g").committed() == {T0: 10}


def test_a_member_that_was_put_out_commits_again_once_it_has_joined(log: StreamLog) -> None:
    topic = log.create_topic("t")
    topic.send_many([b"%d" % n for n in range(3)])
    liveness = Liveness(log)
    with log.consumer("t", group="g", max_poll_interval_ms=1000, enable_auto_commit=False) as consumer:
        assert len(consumer.poll()) == 3
        liveness.pass_ms(2000)
        with pytest.raises(CommitFailedError, match="poll again to rejoin"):
            log.group("g").members()
            consumer.commit()
        assert len(consumer.poll()) == 3, "nothing was committed, so it reads them again"
        consumer.commit()
        assert log.group("g").committed() == {T0: 3}
