"""Where reading starts, and where it goes on when a position is outside the log."""

from typing import Any

import pytest

from streamlog.broker.waiting import FetchSession
from streamlog.client.consumer.offsets import OffsetFetcher
from streamlog.client.consumer.procedure import Procedure
from streamlog.client.consumer.subscription_state import SubscriptionState
from streamlog.config import ConsumerConfig
from streamlog.errors import OffsetOutOfRangeError
from streamlog.runtime.api import Completion
from streamlog.types import OffsetAndMetadata, TopicPartition

P = TopicPartition("t", 0)


class Log:
    """A service with one partition, which holds offsets 3 up to 9."""

    is_replicated = False

    def bounds(self, name: TopicPartition, isolation_level: str) -> Completion[tuple[int, int]]:
        return Completion.of((3, 9))

    def committed(self, group: str, names: Any, topic_ids: Any, *, require_stable: bool) -> Completion[Any]:
        return Completion.of({name: OffsetAndMetadata(5) for name in names})


class Fetcher:
    def __init__(self, position: int) -> None:
        self.name, self.position, self.queued = P, position, False

    def seek(self, offset: int) -> None:
        self.position = offset

    def bounds_if_out_of_range(self, position: int) -> tuple[int, int] | None:
        return None if 3 <= position <= 9 else (3, 9)


def offsets_of(policy: str, position: int = 4, group: str | None = None) -> tuple[OffsetFetcher, SubscriptionState]:
    state = SubscriptionState(FetchSession({}.get, lambda: None))
    state.add(Fetcher(position))  # type: ignore[arg-type]
    config = ConsumerConfig.of({"auto_offset_reset": policy, "group": group})
    return OffsetFetcher(Log(), config, state), state  # type: ignore[arg-type]


def value_of(procedure: Procedure[int]) -> int:
    """What a procedure returns that has nothing to wait for."""
    with pytest.raises(StopIteration) as ended:
        next(procedure)
    found: int = ended.value.value
    return found


@pytest.mark.parametrize(("policy", "start"), [("earliest", 3), ("latest", 9), ("none", -1)])
def test_reading_starts_at_the_committed_offset_or_where_the_policy_says(policy: str, start: int) -> None:
    offsets, _ = offsets_of(policy)
    assert value_of(offsets.start(P, OffsetAndMetadata(5))) == 5
    assert value_of(offsets.start(P, None)) == start


def test_nothing_is_committed_without_a_group() -> None:
    assert offsets_of("earliest")[0].committed([P]).result() == {}
    assert offsets_of("earliest", group="g")[0].committed([P]).result() == {P: OffsetAndMetadata(5)}


@pytest.mark.parametrize(("policy", "onward"), [("earliest", 3), ("latest", 9)])
@pytest.mark.parametrize("position", [0, 12])
def test_a_position_outside_the_log_moves(
    policy: str, onward: int, position: int, caplog: pytest.LogCaptureFixture
) -> None:
    offsets, state = offsets_of(policy, position)
    offsets.reset_out_of_range(state.fetchers[P])
    assert state.returned_positions([P]) == {P: onward}
    assert f"t-0: offset {position} is outside the log (3 to 9); going on at {onward}" in caplog.text


def test_a_position_inside_the_log_stays() -> None:
    offsets, state = offsets_of("latest", 4)
    offsets.reset_out_of_range(state.fetchers[P])
    assert state.returned_positions([P]) == {P: 4}


def test_without_a_policy_the_program_is_asked() -> None:
    offsets, state = offsets_of("none", 12)
    with pytest.raises(OffsetOutOfRangeError, match="offset 12 is not in it") as refused:
        offsets.reset_out_of_range(state.fetchers[P])
    assert (refused.value.log_start_offset, refused.value.log_end_offset) == (3, 9)
    with pytest.raises(OffsetOutOfRangeError, match="nothing is committed for it"):
        offsets_of("none", -1)[0].position(P)


@pytest.mark.parametrize(("position", "lag"), [(0, 6), (4, 5), (9, 0), (12, 0)])
def test_the_lag_counts_what_the_log_still_holds(position: int, lag: int) -> None:
    assert offsets_of("earliest", position)[0].lag() == {P: lag}
