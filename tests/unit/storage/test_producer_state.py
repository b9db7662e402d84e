"""A producer's batches are stored once, in order, whatever is sent again: the rules, without a log."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from streamlog.errors import InvalidRecordError, OutOfOrderSequenceError, ProducerFencedError
from streamlog.records.batch import CONTROL, MAX_SEQUENCE, SealedBatch
from streamlog.storage.producer_state import EXPIRATION_MS, KEPT_BATCHES, BatchMetadata, ProducerStates

NOW = 1_700_000_000_000
HOUR = 3_600_000


def batch(sequence: int, count: int = 1, *, producer: int = 7, epoch: int = 0, attributes: int = 0) -> SealedBatch:
    """What of a batch counts here."""
    return SealedBatch(b"", 0, b"", attributes, count, count - 1, NOW, NOW, 0, 0, producer, epoch, sequence)


def marker(epoch: int = 0, producer: int = 7) -> SealedBatch:
    return batch(-1, producer=producer, epoch=epoch, attributes=CONTROL)


class Journal:
    """The states, and a log of no more than the next offset."""

    def __init__(self, **options: Any) -> None:
        self.producers = ProducerStates(**options)
        self.end = 0
        self.now = NOW

    def send(self, *batches: SealedBatch) -> int:
        """As a log does it: check, append, note. The offset of the first."""
        repeated = self.producers.check(batches, self.now)
        if repeated is not None:
            return repeated.base_offset
        base_offset = self.end
        for each in batches:
            self.producers.note(each, self.end, self.now)
            self.end += each.last_offset_delta + 1
        return base_offset


@pytest.fixture
def log() -> Journal:
    return Journal()


# The next batch, and one that was sent before


def test_batches_that_follow_each_other_are_accepted(log: Journal) -> None:
    assert [log.send(batch(0, 3)), log.send(batch(3)), log.send(batch(4, 2))] == [0, 3, 4]


def test_duplicate_sequence_returns_the_original_offset(log: Journal) -> None:
    offsets = [log.send(batch(2 * n, 2)) for n in range(KEPT_BATCHES)]
    assert [log.send(batch(2 * n, 2)) for n in range(KEPT_BATCHES)] == offsets
    assert log.end == 2 * KEPT_BATCHES


def test_a_duplicate_has_the_append_time_of_the_original(log: Journal) -> None:
    log.send(batch(0))
    assert log.producers.check([batch(0)], NOW + 5) == BatchMetadata(0, 0, 0, NOW)


def test_a_batch_older_than_the_last_five_is_refused_not_stored_again(log: Journal) -> None:
    for n in range(KEPT_BATCHES + 1):
        log.send(batch(n))
    with pytest.raises(OutOfOrderSequenceError, match="older than the last 5"):
        log.send(batch(0))
    assert log.send(batch(1)) == 1


@pytest.mark.parametrize("sent", [batch(4), batch(2), batch(1, 2), batch(0, 2), batch(0, 4), batch(MAX_SEQUENCE)])
def test_a_gap_or_a_part_of_what_was_sent_is_out_of_order(log: Journal, sent: SealedBatch) -> None:
    log.send(batch(0, 3))
    with pytest.raises(OutOfOrderSequenceError) as error:
        log.send(sent)
    assert (error.value.expected, error.value.actual) == (3, sent.base_sequence)
    assert log.send(batch(3)) == 3


def test_sequences_go_on_at_zero_behind_the_largest(log: Journal) -> None:
    log.send(batch(MAX_SEQUENCE - 1, 4))
    assert log.send(batch(2)) == 4
    assert log.send(batch(MAX_SEQUENCE - 1, 4)) == 0
    other = Journal()
    other.send(batch(MAX_SEQUENCE))
    assert other.send(batch(0)) == 1
    assert Journal().send(batch(MAX_SEQUENCE), batch(0, 2), batch(2)) == 0


def test_producers_do_not_disturb_each_other(log: Journal) -> None:
    assert [log.send(batch(0, producer=p)) for p in (1, 2, 3)] == [0, 1, 2]
    assert [log.send(batch(0, producer=p)) for p in (3, 2, 1)] == [2, 1, 0]
    assert log.send(batch(1, producer=2)) == 3


def test_a_producer_that_is_not_known_may_begin_anywhere(log: Journal) -> None:
    """Scenario 11 (KIP-360): retention took what it wrote before, and that is no reason to stop it."""
    assert log.send(batch(5000)) == 0
    assert log.send(batch(5001)) == 1


# Epochs


def test_a_new_epoch_begins_at_sequence_zero(log: Journal) -> None:
    log.send(batch(0, 9))
    with pytest.raises(OutOfOrderSequenceError) as error:
        log.send(batch(9, epoch=1))
    assert error.value.expected == 0
    assert log.send(batch(0, epoch=1)) == 9
    assert log.send(batch(1, epoch=1)) == 10


def test_an_older_epoch_is_fenced_even_if_its_batch_would_be_a_duplicate(log: Journal) -> None:
    log.send(batch(0))
    log.send(batch(0, epoch=1))
    with pytest.raises(ProducerFencedError) as error:
        log.send(batch(0))
    assert (error.value.producer_epoch, error.value.current_epoch) == (0, 1)


def test_a_marker_does_not_count_in_sequence_but_its_epoch_fences(log: Journal) -> None:
    log.send(batch(0))
    assert log.send(marker()) == 1
    assert log.send(batch(1)) == 2
    log.send(marker(epoch=1))
    with pytest.raises(ProducerFencedError):
        log.send(batch(2))
    with pytest.raises(ProducerFencedError):
        log.send(marker())
    with pytest.raises(OutOfOrderSequenceError):
        log.send(batch(2, epoch=1))
    assert log.send(batch(0, epoch=1)) == 4


def test_behind_a_marker_that_is_all_that_is_left_any_sequence_may_come(log: Journal) -> None:
    """Scenario 11: retention deleted the records that the marker ended, so no false sequence error."""
    log.send(marker())
    assert log.send(batch(57)) == 1
    with pytest.raises(OutOfOrderSequenceError):
        log.send(batch(59))


# Several batches in one write


def test_a_write_of_several_batches_is_taken_or_recognised_as_a_whole(log: Journal) -> None:
    log.send(batch(0))
    batches = [batch(1, 2), batch(3), batch(4, 3)]
    assert log.send(*batches) == 1
    assert log.send(*batches) == 1
    assert log.send(batch(3)) == 3
    assert log.end == 7


def test_a_write_that_repeats_only_in_part_is_refused(log: Journal) -> None:
    log.send(batch(0), batch(1))
    for batches in ([batch(1), batch(2)], [batch(2), batch(1)], [batch(1), batch(0)]):
        with pytest.raises((OutOfOrderSequenceError, InvalidRecordError)):
            log.send(*batches)
    assert log.end == 2


def test_repeated_batches_that_lie_apart_are_refused_for_one_offset_could_not_tell_where(log: Journal) -> None:
    log.send(batch(0))
    log.send(batch(0, producer=8))
    log.send(batch(1))
    with pytest.raises(OutOfOrderSequenceError):
        log.send(batch(0), batch(1))


def test_a_write_whose_second_batch_alone_is_known_is_refused(log: Journal) -> None:
    log.send(batch(0, 2))
    log.send(batch(2))
    with pytest.raises(OutOfOrderSequenceError):
        log.send(batch(1), batch(2))


@pytest.mark.parametrize(
    ("batches", "why"),
    [
        ([batch(0), batch(2)], "sequence 2 of epoch 0 where 1 belongs"),
        ([batch(-1)], "sequence -1"),
        ([batch(0, epoch=-1)], "epoch -1"),
        ([batch(MAX_SEQUENCE + 1)], "sequence 2147483648"),
        ([batch(0), batch(1, producer=8)], "several producers"),
        ([batch(0), batch(1, epoch=1)], "several producers"),
        ([batch(-1, producer=-1), batch(0)], "mixes"),
        ([batch(0), batch(-1, producer=-1)], "mixes"),
        ([batch(0), marker()], "mixes"),
        ([marker(), batch(0)], "mixes"),
    ],
)
def test_a_write_whose_repetition_could_not_be_recognised_is_refused(
    log: Journal, batches: list[SealedBatch], why: str
) -> None:
    with pytest.raises(InvalidRecordError, match=why):
        log.send(*batches)
    assert len(log.producers) == 0


def test_a_write_of_more_batches_than_are_remembered_is_recognised_by_the_last_of_them(log: Journal) -> None:
    log.send(batch(0, 3))
    write = [batch(3 + 2 * n, 2) for n in range(KEPT_BATCHES + 4)]
    first = log.send(*write)
    assert log.send(*write) == first == 3
    with pytest.raises(OutOfOrderSequenceError):
        log.send(*write[:-1])
    with pytest.raises(OutOfOrderSequenceError):
        log.send(*write, batch(3 + 2 * len(write), 2))
    assert log.send(batch(3 + 2 * len(write))) == 3 + 2 * len(write)


# Silence, bounds and doubt


def test_a_producer_is_known_for_exactly_as_long_as_the_expiration(log: Journal) -> None:
    """Scenario 11: expired too early, a duplicate would be stored twice."""
    log.send(batch(0))
    log.now += EXPIRATION_MS
    assert log.send(batch(0)) == 0
    log.now += 1
    assert log.send(batch(0)) == 1


def test_all_producers_are_those_that_are_known_still(log: Journal) -> None:
    log.send(batch(0, producer=1))
    log.now += 1
    log.send(batch(0, producer=2))
    log.now += EXPIRATION_MS
    assert list(log.producers.all(log.now)) == [2]
    assert list(log.producers.all(log.now - 1)) == [1, 2]


def test_what_is_forgotten_by_time_frees_its_memory(log: Journal) -> None:
    for n in range(100):
        log.send(batch(0, producer=n))
        log.now += HOUR
    log.send(batch(0, producer=1000))
    assert len(log.producers) == 25


def test_one_silent_behind_another_that_the_clock_put_later_is_forgotten_too(log: Journal) -> None:
    log.now += 10 * EXPIRATION_MS
    log.send(batch(0, producer=1))
    log.now = NOW
    log.send(batch(3, producer=2, epoch=4))
    log.now += EXPIRATION_MS + 1
    assert log.send(batch(3, producer=2, epoch=3)) == 2
    assert log.send(batch(3, producer=2, epoch=3)) == 2


def test_above_the_bound_the_one_silent_for_longest_is_forgotten() -> None:
    log = Journal(max_producers=3)
    for n in (1, 2, 3):
        log.send(batch(0, producer=n))
    log.send(batch(1, producer=1))
    log.send(batch(0, producer=4))
    assert len(log.producers) == 3
    assert log.producers.get(2, NOW) is None
    assert log.send(batch(1, producer=1)) == 3
    assert log.send(batch(0, producer=3)) == 2


def test_what_is_noted_twice_counts_once(log: Journal) -> None:
    log.send(batch(0))
    log.send(batch(1))
    log.producers.note(batch(0), 0, NOW)
    log.producers.note(batch(1), 1, NOW)
    known = log.producers.get(7, NOW)
    assert known is not None and [kept.base_sequence for kept in known.batches] == [0, 1]


def test_behind_damage_a_producer_may_be_ahead_of_what_is_known_but_never_behind(log: Journal) -> None:
    """Scenario 11: what lies in a damaged header may have been anybody's next batch, so no false sequence error."""
    log.send(batch(0))
    log.send(batch(1))
    log.producers.mark_incomplete()
    assert log.send(batch(0)) == 0
    with pytest.raises(OutOfOrderSequenceError):
        log.send(batch(0, 2))
    assert log.send(batch(9)) == 2
    with pytest.raises(OutOfOrderSequenceError):
        log.send(batch(11))


def test_behind_damage_a_new_epoch_may_have_begun_unseen(log: Journal) -> None:
    log.send(batch(0))
    log.producers.mark_incomplete()
    assert log.send(batch(4, epoch=1)) == 1
    with pytest.raises(ProducerFencedError):
        log.send(batch(1))


# Against a list of all batches


class Line(NamedTuple):
    producer: int
    epoch: int
    first: int
    last: int
    offset: int
    time: int


def verdict(lines: list[Line], sent: SealedBatch, now: int) -> int | str | None:
    """What is to be said of a batch, with all lines there ever were: an offset, an error, or None: it is new."""
    own = [line for line in lines if line.producer == sent.producer_id]
    for at in range(len(own) - 1, 0, -1):
        if own[at].time - own[at - 1].time > EXPIRATION_MS:
            own = own[at:]
            break
    if not own or now - own[-1].time > EXPIRATION_MS:
        return None
    if sent.producer_epoch < own[-1].epoch:
        return "fenced"
    own = [line for line in own if line.epoch == sent.producer_epoch]
    last = (sent.base_sequence + sent.last_offset_delta) % (1 << 31)
    for line in own[-KEPT_BATCHES:]:
        if (line.first, line.last) == (sent.base_sequence, last):
            return line.offset
    expected = (own[-1].last + 1) % (1 << 31) if own else 0
    return None if sent.base_sequence == expected else "gap"


STEP = st.tuples(
    st.sampled_from([1, 2, 3]),
    st.sampled_from([-2, -1, 0, 0, 0, 0, 1]),  # the epoch, less the producer's last
    st.sampled_from(["next", "next", "next", "gap", "zero", *[f"again {n}" for n in range(1, 8)]]),
    st.integers(1, 3),
    st.sampled_from([0, 1, 10 * HOUR, EXPIRATION_MS, EXPIRATION_MS + 1]),
)


@given(st.lists(STEP, max_size=60), st.sampled_from([0, MAX_SEQUENCE - 4]))
@example([(1, 0, "next", 1, 0)] * 7 + [(1, 0, f"again {n}", 1, 0) for n in range(1, 8)], MAX_SEQUENCE - 4)
@settings(max_examples=300, deadline=None)
def test_the_answers_are_those_of_a_list_of_all_batches(steps: list[Any], begin: int) -> None:
    producers, lines, now, end = ProducerStates(), list[Line](), NOW, 0
    noted: list[Callable[[ProducerStates], None]] = []
    for producer, up, kind, count, wait in steps:
        now += wait
        own = [line for line in lines if line.producer == producer]
        last = own[-1] if own else Line(producer, 500, 0, begin - 1, 0, 0)
        epoch = last.epoch + up
        sequence = (last.last + 1) % (1 << 31)
        if kind == "gap":
            sequence = (sequence + count) % (1 << 31)
        elif kind == "zero" or up > 0:
            sequence = 0
        elif kind != "next" and len(own) >= (back := int(kind.split()[1])):
            epoch, sequence = own[-back].epoch, own[-back].first
            count = (own[-back].last - sequence) % (1 << 31) + 1
        sent = batch(sequence, count, producer=producer, epoch=epoch)
        expected = verdict(lines, sent, now)
        for each in (producers, rebuilt(noted)):
            try:
                repeated = each.check([sent], now)
                answer: int | str | None = None if repeated is None else repeated.base_offset
            except ProducerFencedError:
                answer = "fenced"
            except OutOfOrderSequenceError:
                answer = "gap"
            assert answer == expected, (sent, own)
        if expected is None:
            lines.append(Line(producer, epoch, sequence, (sequence + count - 1) % (1 << 31), end, now))
            noted.append(lambda p, sent=sent, end=end, now=now: p.note(sent, end, now))  # type: ignore[misc]
            producers.note(sent, end, now)
            end += count


def rebuilt(noted: list[Callable[[ProducerStates], None]]) -> ProducerStates:
    """What a walk over the log comes to."""
    producers = ProducerStates()
    for note in noted:
        note(producers)
    return producers


def test_a_producer_with_an_open_transaction_is_not_forgotten_however_the_clock_jumps() -> None:
    """`has_open` says which: eviction of idle producers spares them."""
    open_ones = {7}
    log = Journal(max_producers=2, has_open=open_ones.__contains__)
    assert log.send(batch(0)) == 0
    log.now += 100 * HOUR
    for producer in (8, 9, 10):
        log.send(batch(0, producer=producer))
    assert len(log.producers) == 2
    assert log.send(batch(0)) == 0, "it is known, so what is sent again is found"
    with pytest.raises(OutOfOrderSequenceError):
        log.send(batch(2))
    open_ones.clear()
    log.now += 100 * HOUR
    log.producers.expire(log.now)
    assert not len(log.producers)


def test_if_every_producer_has_an_open_transaction_none_is_forgotten() -> None:
    log = Journal(max_producers=1, has_open=lambda producer_id: True)
    for producer in (7, 8, 9):
        log.send(batch(0, producer=producer))
    assert len(log.producers) == 3
