"""Retention policies are pure: the oldest sealed segments and the time in, how many may go out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamlog.config import TopicConfig
from streamlog.errors import ConfigError, StorageError
from streamlog.storage.retention import (
    AllOf,
    AnyOf,
    Combinable,
    MaxAge,
    MaxBytes,
    MaxRecords,
    checked,
    named,
    policy_of,
)
from streamlog.types import SegmentInfo

from .conftest import KILLED, NOW, Box

MakeBox = Callable[..., Box]


def infos(*rows: tuple[int, int, int]) -> list[SegmentInfo]:
    """Segments of (bytes, records, latest time)."""
    return [SegmentInfo(n, n + 1, size, records, 0, latest) for n, (size, records, latest) in enumerate(rows)]


SEGMENTS = infos((10, 1, 100), (20, 2, 300), (30, 3, 200), (40, 4, 400))


@pytest.mark.parametrize(("now", "count"), [(150, 0), (151, 1), (350, 1), (351, 3), (450, 3), (451, 4)])
def test_by_age_the_oldest_go_until_one_is_young_enough(now: int, count: int) -> None:
    assert MaxAge(50).expired(SEGMENTS, now) == count
    assert MaxAge(timedelta(milliseconds=50)).expired(SEGMENTS, now) == count


@pytest.mark.parametrize(("size", "count"), [(101, 0), (100, 0), (90, 1), (89, 1), (70, 2), (40, 3), (39, 3), (0, 4)])
def test_by_size_the_oldest_go_while_what_stays_is_large_enough(size: int, count: int) -> None:
    assert MaxBytes(size).expired(SEGMENTS, 0) == count


@pytest.mark.parametrize(("records", "count"), [(10, 0), (9, 1), (7, 2), (4, 3), (0, 4)])
def test_by_records_the_oldest_go_while_enough_stay(records: int, count: int) -> None:
    assert MaxRecords(records).expired(SEGMENTS, 0) == count


def test_or_lets_go_what_either_lets_go_and_and_what_both_do() -> None:
    age, size = MaxAge(50), MaxBytes(70)
    assert (age | size).expired(SEGMENTS, 151) == 2
    assert (age & size).expired(SEGMENTS, 151) == 1
    assert isinstance(age | size, AnyOf) and isinstance(age & size, AllOf)


@pytest.mark.parametrize("answer", [-3, 99])
def test_an_answer_out_of_bounds_is_held_within_them(answer: int) -> None:
    assert checked(_Fixed(answer), SEGMENTS, 0) == max(0, min(answer, 4))


@pytest.mark.parametrize("answer", [True, 1.0, None, "1"])
def test_an_answer_that_is_no_int_is_an_error(answer: object) -> None:
    with pytest.raises(TypeError, match="fixed"):
        checked(_Fixed(answer), SEGMENTS, 0)


class _Fixed:
    name = "fixed"

    def __init__(self, answer: object) -> None:
        self.answer = answer

    def expired(self, segments: Sequence[SegmentInfo], now_ms: int) -> int:
        return self.answer  # type: ignore[return-value]


simple = st.one_of(
    st.integers(0, 10**12).map(MaxAge), st.integers(0, 10**12).map(MaxBytes), st.integers(0, 10**12).map(MaxRecords)
)
policies = st.recursive(simple, lambda inner: st.one_of(st.builds(AnyOf, inner, inner), st.builds(AllOf, inner, inner)))


@given(policies)
def test_a_policy_of_ours_is_rebuilt_from_its_name(policy: object) -> None:
    assert named(policy.name) == policy  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "name", ["", "fixed", "max_age()", "max_age(-1)", "()", "(max_age(1))", "(max_age(1) | x)", "(x & max_age(1))"]
)
def test_any_other_name_is_a_policy_of_the_users_own(name: str) -> None:
    assert named(name) is None


def test_settings_become_the_policy_that_lets_go_what_any_of_them_does() -> None:
    assert policy_of(TopicConfig(), None) is None
    assert policy_of(TopicConfig(retention_ms=5), None) == MaxAge(5)
    assert policy_of(TopicConfig(retention_bytes=6, retention_records=7), None) == AnyOf(MaxBytes(6), MaxRecords(7))
    assert policy_of(TopicConfig(cleanup_policy="compact", retention_ms=5), None) is None
    custom = _Fixed(1)
    assert policy_of(TopicConfig(retention="fixed"), custom) is custom
    assert policy_of(TopicConfig(retention="fixed", retention_ms=5), custom) == AnyOf(MaxAge(5), custom)


def test_a_policy_that_is_named_but_not_given_deletes_nothing_whatever_else_is_set() -> None:
    assert policy_of(TopicConfig(retention="fixed", retention_ms=5), None) is None


# In a log


def test_retention_removes_files_and_moves_the_start(box: MakeBox) -> None:
    b = box(segment_bytes=1024, retention_ms=1000)
    for n in range(6):
        b.now = NOW + n * 300
        b.append(b"x" * 500)
    assert b.partition.maintenance.apply_retention(NOW + 1501).result() == 2
    assert (b.log.tail.start_offset, len(b.logs())) == (2, 4)
    b.reopen(KILLED)
    assert [entry.offset for entry in b.read()] == [2, 3, 4, 5]
    assert b.partition.maintenance.apply_retention(NOW + 1501).result() == 2


def test_maintenance_sleeps_until_there_is_something_to_delete(box: MakeBox) -> None:
    b = box(segment_bytes=1024, retention_ms=1000, segment_ms=10_000)
    assert b.partition.maintenance.step(NOW) is None
    b.append(b"x" * 600)
    assert b.partition.maintenance.step(NOW) == NOW + 10_000
    b.append(b"x" * 600)
    assert b.partition.maintenance.step(NOW) == NOW + 1001
    assert b.partition.maintenance.step(NOW + 1000) == NOW + 1001
    assert b.partition.maintenance.step(NOW + 1001) == NOW + 10_000
    assert b.log.tail.start_offset == 1
    assert b.partition.maintenance.step(NOW + 10_000) is None
    assert b.read() == []


def test_a_policy_that_is_missing_does_not_keep_maintenance_busy(box: MakeBox) -> None:
    b = box(segment_bytes=1024, retention_ms=1000, retention="mine")
    for _ in range(3):
        b.append(b"x" * 600)
    assert b.partition.maintenance.step(NOW + 5000) is None
    assert len(b.read()) == 3


def test_a_policy_that_calls_back_into_the_partition_is_not_locked_out(box: MakeBox) -> None:
    b = box(segment_bytes=1024, retention="calls back")

    class CallsBack:
        name = "calls back"

        def expired(self, segments: Sequence[SegmentInfo], now_ms: int) -> int:
            b.partition.delete_records(1)
            return 0

    b.partition.maintenance.custom_policy = CallsBack()
    for _ in range(3):
        b.append(b"x" * 600)
    assert b.partition.maintenance.apply_retention(NOW).result() == 1
    assert b.log.tail.start_offset == 1


def test_a_policy_that_raises_deletes_nothing_and_is_asked_again(
    box: MakeBox, caplog: pytest.LogCaptureFixture
) -> None:
    b = box(segment_bytes=1024, retention="bad")
    b.partition.maintenance.custom_policy = _Fixed("not a number")
    for _ in range(3):
        b.append(b"x" * 600)
    deadline = b.partition.maintenance.step(NOW)
    assert deadline is not None and deadline > NOW
    assert "fixed" in caplog.text
    assert len(b.read()) == 3
    b.log.config = TopicConfig()


def test_maintenance_of_a_log_that_cannot_be_rolled_does_not_keep_busy(box: MakeBox) -> None:
    b = box(segment_ms=1000, retention_ms=10_000)
    b.append(b"x")
    error = StorageError("blocked", path="", errno=0)
    b.partition.block(error)
    assert b.partition.maintenance.step(NOW + 5000) is None
    b.partition.unblock(error)


def test_maintenance_of_a_closed_partition_touches_no_file(box: MakeBox) -> None:
    from streamlog.errors import ClosedError

    b = box(segment_bytes=1024)
    for _ in range(3):
        b.append(b"x" * 600)
    b.partition.shut(ClosedError("closed"))
    b.log.release()
    before = {path.name: path.read_bytes() for path in b.path.iterdir()}
    assert b.partition.maintenance.step(NOW) is None
    assert {path.name: path.read_bytes() for path in b.path.iterdir()} == before


class _Mine(Combinable):
    name = "mine"


def test_a_policy_of_ones_own_joins_others_from_either_side() -> None:
    mine, plain = _Fixed(3), MaxBytes(100)
    assert (plain | mine).expired(SEGMENTS, 0) == 3
    assert (mine | plain).expired(SEGMENTS, 0) == 3
    assert (mine & plain).expired(SEGMENTS, 0) == (plain & mine).expired(SEGMENTS, 0) == 0
    with pytest.raises(TypeError, match="_Mine"):
        _Mine().expired(SEGMENTS, 0)


def test_an_unlimited_age_is_no_policy() -> None:
    for age in (None, 2**63 - 1):
        with pytest.raises(ConfigError, match="leave this policy out"):
            MaxAge(age)  # type: ignore[arg-type]
