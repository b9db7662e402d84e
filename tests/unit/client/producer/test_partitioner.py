"""Every partitioner's answers: the vectors of other clients, and the same for many records as one by one."""

import zlib
from collections import Counter
from operator import index
from typing import Any, cast

import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from streamlog.client.producer.partitioner import make_partitioner, murmur2
from streamlog.config import PARTITIONERS
from streamlog.errors import ConfigError

HASHES = ["xxhash", "murmur2", "crc32"]
KEYS = st.lists(st.none() | st.binary(max_size=40), max_size=30)


def by_length(topic: str, key: Any, count: int) -> int:
    return len(key or b"") % count


@pytest.mark.parametrize(
    ("key", "count", "java", "librdkafka"),
    [(b"TT0124", 15, 10, 9), (b"fd7af248-ce5c-46a5-93d7-1c0c9005b99d", 32, 26, 23), (b"21", 10, 0, 2)],
)
def test_keys_go_where_java_and_librdkafka_send_them(key: Any, count: int, java: int, librdkafka: int) -> None:
    assert make_partitioner("murmur2").partition("t", key, count) == java
    assert make_partitioner("crc32").partition("t", key, count) == librdkafka


@pytest.mark.parametrize(
    ("data", "signed"),
    [
        (b"21", -973932308),
        (b"foobar", -790332482),
        (b"a-little-bit-long-string", -985981536),
        (b"a-little-bit-longer-string", -1486304829),
        (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        (b"abc", 479470107),
    ],
)
def test_murmur2_hashes_as_java_does(data: Any, signed: int) -> None:
    assert murmur2(data) == signed % 2**32


@given(st.binary(max_size=60), st.integers(1, 100))
def test_each_hash_partitioner_takes_its_hash_modulo_the_count(key: Any, count: int) -> None:
    expected = {
        "xxhash": xxhash.xxh64_intdigest(key, seed=0),
        "murmur2": murmur2(key) & 0x7FFFFFFF,
        "crc32": zlib.crc32(key),
    }
    for name, hashed in expected.items():
        assert make_partitioner(name).partition("t", key, count) == hashed % count


@pytest.mark.parametrize("spec", [*PARTITIONERS, by_length])
@given(
    calls=st.lists(st.tuples(st.sampled_from("ab"), KEYS, st.integers(1, 7), st.booleans()), max_size=6),
    start=st.integers(0, 50),
)
def test_many_records_go_where_they_would_go_one_by_one(spec: Any, calls: Any, start: int) -> None:
    many, single = make_partitioner(spec, start), make_partitioner(spec, start)
    for topic, keys, count, batch_ends in calls:
        expected = [single.partition(topic, key, count) for key in keys]
        assert many.partition_many(topic, keys, count) == expected
        assert all(0 <= p < count for p in expected)
        without = [single.partition(topic, None, count) for _ in keys]
        assert many.partition_many(topic, None, count, len(keys)) == without
        if batch_ends:
            many.on_new_batch(topic, count)
            single.on_new_batch(topic, count)


@pytest.mark.parametrize("spec", [*HASHES, "sticky"])
def test_records_without_a_key_stay_on_a_partition_until_its_batch_is_done(spec: Any) -> None:
    partitioner = make_partitioner(spec)
    visited = []
    for _ in range(6):
        stays = {partitioner.partition("t", None, 3) for _ in range(10)}
        visited.append(stays.pop())
        assert not stays
        partitioner.on_new_batch("t", 3)
    assert visited == [0, 1, 2, 0, 1, 2]


@pytest.mark.parametrize("spec", [*HASHES, "sticky"])
def test_unbatched_records_without_a_key_take_the_partitions_in_turn(spec: Any) -> None:
    partitioner = make_partitioner(spec, 1, unbatched=True)
    assert [partitioner.partition("t", None, 3) for _ in range(4)] == [1, 2, 0, 1]
    assert partitioner.partition_many("t", None, 3, 2) == [2, 2]
    assert partitioner.partition_many("t", [None, None], 3) == [0, 0]
    assert partitioner.partition("t", None, 3) == 1


def test_sticky_ignores_keys() -> None:
    partitioner = make_partitioner("sticky", start=1)
    assert partitioner.partition_many("t", [b"a", b"b", None, b"c"], 4) == [1, 1, 1, 1]


@pytest.mark.parametrize("spec", HASHES)
def test_a_key_stays_on_its_partition_when_batches_end(spec: Any) -> None:
    partitioner = make_partitioner(spec)
    before = [partitioner.partition("t", b"%d" % i, 5) for i in range(20)]
    partitioner.on_new_batch("t", 5)
    assert [partitioner.partition("t", b"%d" % i, 5) for i in range(20)] == before


@pytest.mark.parametrize("spec", HASHES)
def test_an_empty_key_is_a_key(spec: Any) -> None:
    partitioner = make_partitioner(spec)
    before = partitioner.partition("t", b"", 7)
    partitioner.on_new_batch("t", 7)
    assert partitioner.partition("t", b"", 7) == before


@pytest.mark.parametrize("spec", HASHES)
def test_keys_spread_over_all_partitions(spec: Any) -> None:
    spread = Counter(make_partitioner(spec).partition_many("t", [b"key-%d" % i for i in range(8000)], 8))
    assert set(spread) == set(range(8))
    assert max(spread.values()) < 1.3 * min(spread.values())


def test_round_robin_takes_turns_whatever_the_key_and_apart_for_each_topic() -> None:
    partitioner = make_partitioner("round_robin", start=2)
    assert [partitioner.partition("a", key, 3) for key in (b"x", None, b"x", b"x")] == [2, 0, 1, 2]
    assert partitioner.partition_many("b", [b"x"] * 4, 3) == [2, 0, 1, 2]
    partitioner.on_new_batch("a", 3)
    assert partitioner.partition_many("a", None, 3, 2) == [0, 1]


@pytest.mark.parametrize("spec", ["sticky", "round_robin", "xxhash"])
def test_producers_that_start_apart_do_not_meet(spec: Any) -> None:
    assert [make_partitioner(spec, start).partition("t", None, 4) for start in range(6)] == [0, 1, 2, 3, 0, 1]


def test_partitions_that_are_added_are_used() -> None:
    partitioner = make_partitioner("sticky", start=1)
    for _ in range(3):
        partitioner.on_new_batch("t", 2)
    assert partitioner.partition("t", None, 2) == 0
    partitioner.on_new_batch("t", 4)
    partitioner.on_new_batch("t", 4)
    assert partitioner.partition("t", None, 4) == 2


def test_a_function_is_given_topic_key_and_count() -> None:
    seen = []

    def last(topic: str, key: Any, count: int) -> int:
        seen.append((topic, key, count))
        return count - 1

    partitioner = make_partitioner(last)
    assert partitioner.partition("t", None, 3) == 2
    assert partitioner.partition_many("t", [b"a", None], 4) == [3, 3]
    assert partitioner.partition_many("t", None, 1, 1) == [0]
    partitioner.on_new_batch("t", 3)
    assert seen == [("t", None, 3), ("t", b"a", 4), ("t", None, 4), ("t", None, 1)]


def test_an_integer_of_another_library_is_taken() -> None:
    class Int64:
        def __index__(self) -> int:
            return 2

    answer = make_partitioner(cast(Any, lambda topic, key, count: Int64())).partition("t", b"k", 3)
    assert answer == 2
    assert type(answer) is int is type(index(answer))


@pytest.mark.parametrize("answer", [-1, 3, 10**20, None, "1", 1.0, True])
def test_an_answer_that_is_no_partition_is_refused_with_the_range(answer: Any) -> None:
    def crooked(topic: str, key: Any, count: int) -> Any:
        return answer

    with pytest.raises(ConfigError, match=r"crooked returned .* for topic 'orders'; it must return an int from 0 to 2"):
        make_partitioner(crooked).partition("orders", b"k", 3)


@pytest.mark.parametrize(
    ("name", "meant"), [("murmur", "murmur2"), ("round-robin", "round_robin"), ("XXHASH", "xxhash")]
)
def test_a_misspelt_name_is_refused_with_the_nearest(name: str, meant: str) -> None:
    with pytest.raises(ConfigError, match=f"did you mean '{meant}'"):
        make_partitioner(name)


def test_what_is_neither_name_nor_function_is_refused() -> None:
    with pytest.raises(ConfigError, match="partitioner is a int, 3"):
        make_partitioner(cast(Any, 3))


@pytest.mark.parametrize("name", PARTITIONERS)
def test_every_name_that_a_setting_may_have_is_known(name: str) -> None:
    assert make_partitioner(name).partition("t", b"k", 1) == 0
