"""Topics, reads and batches as data of Arrow: every program that takes it gets the records that `topic.read` gives."""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

import streamlog
from streamlog import ConfigError, CorruptRecordError, DeserializationError, MissingExtraError, serde
from tests.mixed_topics import fill
from tests.times import START_MS

pa = pytest.importorskip("pyarrow")
pl = pytest.importorskip("polars")
pd = pytest.importorskip("pandas")
duckdb = pytest.importorskip("duckdb")
nw = pytest.importorskip("narwhals")

COLUMNS = ["partition", "offset", "timestamp", "key", "value", "headers"]
Row = tuple[int, int, int, bytes | None, bytes | None, tuple[tuple[str, bytes | None], ...]]


def ms(moment: datetime) -> int:
    return round(moment.timestamp() * 1000)


def row(entry: dict[str, Any]) -> Row:
    headers = tuple((header["key"], header["value"]) for header in entry["headers"])
    return entry["partition"], entry["offset"], ms(entry["timestamp"]), entry["key"], entry["value"], headers


def expected(records: Any) -> list[Row]:
    return [(r.partition, r.offset, r.timestamp, r.key, r.value, tuple(r.headers)) for r in records]


def by_pyarrow(source: Any) -> list[Row]:
    return [row(entry) for entry in pa.table(source).to_pylist()]


def by_polars(source: Any) -> list[Row]:
    return [row(entry) for entry in pl.DataFrame(source).to_dicts()]


def by_pandas(source: Any) -> list[Row]:
    return [row(entry) for entry in pd.DataFrame.from_arrow(source).to_dict("records")]


def by_duckdb(source: Any) -> list[Row]:
    with duckdb.connect() as connection:
        return [row(entry) for entry in pa.table(connection.sql("FROM source")).to_pylist()]


def by_narwhals(source: Any) -> list[Row]:
    return [row(entry) for entry in nw.from_arrow(source, backend="pyarrow").rows(named=True)]


def by_to_arrow(source: Any) -> list[Row]:
    return [row(entry) for entry in source.to_arrow().to_pylist()]


def by_to_polars(source: Any) -> list[Row]:
    return [row(entry) for entry in source.to_polars().to_dicts()]


def by_to_pandas(source: Any) -> list[Row]:
    return [row(entry) for entry in source.to_pandas().to_dict("records")]


EVERY = [by_pyarrow, by_polars, by_pandas, by_duckdb, by_narwhals, by_to_arrow, by_to_polars, by_to_pandas]


@pytest.fixture(params=["compact", "delete"])
def topic(log: streamlog.StreamLog, rng: random.Random, request: pytest.FixtureRequest) -> streamlog.Topic:
    """16 partitions with all kinds of batches; nulls, headers, aborted records and gaps among them."""
    made = log.create_topic("mixed", partitions=16, segment_bytes=1 << 14, cleanup_policy=request.param)
    fill(made, rng)
    return made


@pytest.mark.parametrize("rows", EVERY)
def test_every_program_gets_the_records_of_a_topic(topic: streamlog.Topic, rows: Callable[[Any], list[Row]]) -> None:
    assert rows(topic) == expected(topic.read())


@pytest.mark.parametrize("rows", EVERY)
def test_every_program_gets_the_records_of_a_read_each_time(
    topic: streamlog.Topic, rows: Callable[[Any], list[Row]]
) -> None:
    read = topic.read(3, isolation_level="read_uncommitted")
    wanted = expected(topic.read(3, isolation_level="read_uncommitted"))
    assert rows(read) == wanted
    next(read)
    assert rows(read) == wanted
    assert expected(read) == wanted[1:]


@pytest.mark.parametrize("rows", EVERY)
def test_every_program_gets_the_records_of_a_batch(topic: streamlog.Topic, rows: Callable[[Any], list[Row]]) -> None:
    batch = max(topic.read_batches(), key=len)
    assert rows(batch) == expected(batch)


def test_a_batch_that_was_pickled_is_the_same(topic: streamlog.Topic) -> None:
    import pickle

    for batch in topic.read_batches():
        assert by_pyarrow(pickle.loads(pickle.dumps(batch))) == expected(batch)


def test_a_lazy_frame_has_the_records_that_there_were_at_the_scan(topic: streamlog.Topic) -> None:
    frame = topic.scan()
    wanted = expected(topic.read())
    topic.send("later", "key", partition=0)
    for _ in range(2):
        assert [row(entry) for entry in frame.collect().to_dicts()] == wanted


def test_a_stream_has_the_records_that_there_were_when_it_was_asked_for(log: streamlog.StreamLog) -> None:
    topic = log.create_topic("t")
    topic.send_many([b"%d" % n for n in range(200_000)])
    reader = pa.RecordBatchReader.from_stream(topic)
    first = reader.read_next_batch()
    topic.send_many([b"later"] * 1_000)
    assert first.num_rows + reader.read_all().num_rows == 200_000


def test_a_batch_of_arrow_is_bounded(log: streamlog.StreamLog) -> None:
    topic = log.create_topic("t")
    topic.send_many([b"%d" % n for n in range(150_000)])
    topic.send_many([bytes(1_000_000)] * 20)
    for batch in pa.RecordBatchReader.from_stream(topic):
        assert batch.num_rows < 1 << 17
        assert batch.nbytes < 1 << 25


def test_columns_can_be_chosen(topic: streamlog.Topic) -> None:
    keys = topic.to_arrow(["key", "offset"])
    assert keys.column_names == ["key", "offset"]
    assert keys.column("key").to_pylist() == [record.key for record in topic.read()]
    assert topic.to_arrow([]).num_rows == len(list(topic.read()))
    with pytest.raises(ConfigError, match="did you mean 'key'"):
        topic.to_arrow(["kye"])
    with pytest.raises(ConfigError, match="columns is a list of names"):
        topic.to_arrow("key")


def test_an_empty_topic_has_columns_and_no_rows(log: streamlog.StreamLog) -> None:
    topic = log.create_topic("t", partitions=3)
    for rows in EVERY:
        assert rows(topic) == []
    assert topic.to_arrow().column_names == COLUMNS


def test_times_long_ago_and_far_ahead_are_kept(log: streamlog.StreamLog) -> None:
    topic = log.create_topic("t")
    topic.update_config(message_timestamp_after_max_ms=None)
    times = [0, 1, START_MS, 253_402_300_799_999]
    topic.send_many([b"x"] * len(times), timestamps_ms=times)
    assert pa.table(topic).column("timestamp").cast(pa.int64()).to_pylist() == times


def test_keys_and_values_of_text_serdes_are_text(log: streamlog.StreamLog) -> None:
    log.create_topic("t").send_many(["Zürich", None, '{"a":1}'], ["k", None, "ü"])
    topic = log.topic("t", key_serde=serde.string, value_serde=serde.json)
    assert topic.to_arrow(["key", "value"]).to_pydict() == {
        "key": ["k", None, "ü"],
        "value": ["Zürich", None, '{"a":1}'],
    }


@pytest.mark.parametrize("with_header", [False, True])
def test_text_that_is_not_utf_8_is_refused(log: streamlog.StreamLog, with_header: bool) -> None:
    topic = log.create_topic("t")
    topic.send("good")
    topic.send(b"\xff\xfe", headers={"h": b""} if with_header else None)
    with pytest.raises(DeserializationError, match="value at offset 1 of t-0 is not text in UTF-8") as caught:
        log.topic("t", value_serde=serde.string).to_arrow()
    assert caught.value.record.value == b"\xff\xfe"
    assert topic.to_arrow().num_rows == 2


# -- values with a schema --------------------------------------------------------------------------------


def typed(log: streamlog.StreamLog, values: list[Any], schema: Any = "infer", **options: Any) -> streamlog.Topic:
    log.create_topic("t").send_many([value if value is None else json.dumps(value) for value in values])
    return log.topic("t", value_serde=serde.json, schema=schema, **options)


def test_the_fields_of_a_schema_are_columns(log: streamlog.StreamLog) -> None:
    schema = pa.schema([("price", pa.float64()), ("offset", pa.string()), ("at", pa.timestamp("ms"))])
    topic = typed(log, [{"price": 9.5, "offset": "its own", "at": "2026-11-30T12:00:00"}, None, {"more": 1}], schema)
    table = topic.to_arrow()
    assert table.column_names == [*COLUMNS, "price", "at"]
    assert table.column("offset").to_pylist() == [0, 1, 2]
    assert table.column("price").to_pylist() == [9.5, None, None]
    assert table.column("at").to_pylist() == [datetime(2026, 11, 30, 12), None, None]
    assert table.column("value").to_pylist() == [
        {"price": 9.5, "offset": "its own", "at": datetime(2026, 11, 30, 12)},
        None,
        {"price": None, "offset": None, "at": None},
    ]


def test_fields_are_inferred_from_the_first_records(log: streamlog.StreamLog) -> None:
    values = [{"n": n, "x": n / 2 if n % 2 else n, "deep": {"list": [n], "no": None}} for n in range(1_000)]
    topic = typed(log, [*values, {"late": True, "n": 1}])
    fields = topic.to_arrow().schema.field("value").type
    assert fields == pa.struct(
        [
            ("n", pa.int64()),
            ("x", pa.float64()),
            ("deep", pa.struct([("list", pa.list_(pa.int64())), ("no", pa.string())])),
        ]
    )


def test_fields_that_were_inferred_stay(log: streamlog.StreamLog) -> None:
    topic = typed(log, [{"n": 1}])
    before = topic.to_arrow().schema
    topic.send({"n": 2, "more": "x"})
    assert topic.to_arrow().schema == before
    assert "more" in log.topic("t", value_serde=serde.json, schema="infer").to_arrow().column_names


def test_a_lazy_frame_has_the_columns_that_it_was_made_with(log: streamlog.StreamLog) -> None:
    log.create_topic("t")
    topic = log.topic("t", value_serde=serde.json, schema="infer")
    topic.send(None)
    frame = topic.scan()
    topic.send({"a": 1})
    assert "a" in topic.to_arrow().column_names
    assert frame.collect()["value"].to_list() == [None]


def test_a_topic_without_values_has_no_fields_yet(log: streamlog.StreamLog) -> None:
    topic = typed(log, [])
    assert topic.to_arrow().column_names == COLUMNS
    topic.send({"n": 2})
    assert topic.to_arrow().column("n").to_pylist() == [2]


MISFITS: list[Any] = [{"n": 1}, {"n": "one"}, [1], {"n": 2.5}, None, {"n": 3}]


def test_a_value_that_does_not_fit_raises(log: streamlog.StreamLog) -> None:
    schema = pa.schema([("n", pa.int64())])
    topic = typed(log, MISFITS, schema)
    with pytest.raises(DeserializationError, match=r"offset 2 of t-0 does not fit the schema: it is \[1\]") as caught:
        topic.to_arrow()
    assert caught.value.record.offset == 2
    with pytest.raises(DeserializationError, match=r"offset 1 of t-0.*field 'n' is 'one'"):
        log.topic("t", value_serde=serde.json, schema=schema).read(end=2).to_arrow()


@pytest.mark.parametrize("with_headers", [False, True])
def test_values_that_do_not_fit_are_null_and_counted(log: streamlog.StreamLog, with_headers: bool) -> None:
    topic = typed(log, MISFITS, pa.schema([("n", pa.int64())]), on_mismatch="null")
    log["t"].send("no JSON", headers={"h": b""} if with_headers else None)
    assert topic.to_arrow().column("n").to_pylist() == [1, None, None, None, None, 3, None]
    assert topic.mismatches == 4
    assert topic.to_arrow(["key"]).num_rows == 7
    assert topic.mismatches == 4


def test_times_as_text_and_as_numbers_may_be_in_one_column(log: streamlog.StreamLog) -> None:
    log.create_topic("t").send_many(
        [b'{"at": "1970-01-01T00:00:02"}', b'{"at": 3000}', b'{"at": null}', b'{"at": true}']
    )
    schema = pa.schema([("at", pa.timestamp("ms"))])
    topic = log.topic("t", value_serde=serde.json, schema=schema, on_mismatch="null")
    assert topic.to_arrow()["at"].cast(pa.int64()).to_pylist() == [2_000, 3_000, None, None]


def test_one_field_gives_the_same_as_all(log: streamlog.StreamLog) -> None:
    topic = typed(
        log,
        [{"a": 1, "b": "x"}, {"a": 2, "b": 5}],
        pa.schema([("a", pa.int64()), ("b", pa.string())]),
        on_mismatch="null",
    )
    assert topic.to_arrow(["a"]).to_pydict()["a"] == topic.to_arrow()["a"].to_pylist() == [1, None]


@pytest.mark.parametrize(
    ("value", "type_"),
    [
        (2.5, pa.int64()),
        (True, pa.int64()),
        ([1, 2.5], pa.list_(pa.int64())),
        ([1, 2.5], pa.large_list(pa.int64())),
        ([1, 2.5], pa.list_(pa.int64(), 2)),
        ({"n": 2.5}, pa.struct([("n", pa.int64())])),
        (1 << 63, pa.int64()),
        (300, pa.int8()),
        (5, pa.string()),
        ("yes", pa.bool_()),
        ("soon", pa.timestamp("ms")),
    ],
)
def test_no_value_is_made_to_fit(log: streamlog.StreamLog, value: Any, type_: Any) -> None:
    with pytest.raises(DeserializationError, match="field 'x'"):
        typed(log, [{"x": value}], pa.schema([("x", type_)])).to_arrow()


@pytest.mark.parametrize("rows", ["to_polars", "scan", "duckdb", "batches"])
def test_typed_columns_reach_every_program(log: streamlog.StreamLog, rows: str) -> None:
    topic = typed(log, [{"n": 1, "deep": {"x": [1]}}, None])
    if rows == "to_polars":
        found = topic.to_polars()["n"].to_list()
    elif rows == "scan":
        found = topic.scan().select("n").collect()["n"].to_list()
    elif rows == "batches":
        found = [n for batch in topic.read_batches() for n in batch.to_arrow()["n"].to_pylist()]
    else:
        found = [n for (n,) in duckdb.sql("SELECT n FROM topic").fetchall()]
    assert found == [1, None]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"schema": "guess", "value_serde": serde.json}, "'infer'"),
        ({"schema": pa.schema([]), "value_serde": serde.json}, "no field"),
        ({"schema": pa.schema([("a", pa.int8()), ("a", pa.int8())]), "value_serde": serde.json}, "twice"),
        ({"schema": "infer"}, "value_serde"),
        ({"schema": "infer", "value_serde": serde.json, "on_mismatch": "ignore"}, "on_mismatch"),
    ],
)
def test_a_schema_that_cannot_be_is_refused(log: streamlog.StreamLog, options: dict[str, Any], message: str) -> None:
    log.create_topic("t")
    with pytest.raises(ConfigError, match=message):
        log.topic("t", **options)


# -- what does not go well -------------------------------------------------------------------------------


@pytest.mark.damaged
def test_damage_is_raised_and_never_exported(open_log: Any, path: Path) -> None:
    log = open_log()
    topic = log.create_topic("t")
    topic.send_many([b"%d" % n for n in range(1_000)])
    log.close()
    (segment,) = path.glob("topics/*-0/*.log")
    data = bytearray(segment.read_bytes())
    data[-5] ^= 1
    segment.write_bytes(data)
    log = open_log()
    with pytest.raises(CorruptRecordError):
        log["t"].to_arrow()


def test_a_closed_log_has_no_export(open_log: Any) -> None:
    log = open_log()
    topic = log.create_topic("t")
    topic.send("x")
    read = topic.read()
    log.close()
    for source in (topic, read):
        with pytest.raises(streamlog.ClosedError):
            source.to_arrow()


def test_without_pyarrow_the_message_says_what_to_install(
    log: streamlog.StreamLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    topic = log.create_topic("t")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'streamlog-py\[arrow\]'"):
        topic.to_arrow()
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(MissingExtraError, match="pip install 'pandas'"):
        topic.to_pandas()


# -- lazy frames -----------------------------------------------------------------------------------------


def test_random_predicates_give_the_rows_of_a_full_scan(topic: streamlog.Topic, rng: random.Random) -> None:
    frame = topic.to_polars()
    offsets = sorted(frame["offset"].to_list())

    def predicate(depth: int) -> Any:
        kind = rng.randrange(8 if depth else 5)
        if kind == 0:
            return pl.col("partition") == rng.randrange(17)
        if kind == 1:
            return pl.col("offset") >= rng.choice(offsets)
        if kind == 2:
            at = START_MS * 1000 + rng.randrange(-2_000, 11_000)
            return pl.col("timestamp") < datetime.fromtimestamp(at / 1_000_000, UTC)
        if kind == 3:
            return rng.choice([pl.col("key").is_null(), pl.col("value").is_null()])
        if kind == 4:
            return pl.col("key").is_in([b"key %d" % rng.randrange(400) for _ in range(20)])
        if kind == 5:
            return ~predicate(depth - 1)
        return predicate(depth - 1) & predicate(depth - 1) if kind == 6 else predicate(depth - 1) | predicate(depth - 1)

    for _ in range(60):
        wanted = predicate(3)
        assert topic.scan().filter(wanted).collect().equals(frame.filter(wanted)), str(wanted)
        n = rng.choice([0, 1, 7, 5_000])
        assert topic.scan().filter(wanted).head(n).collect().equals(frame.filter(wanted).head(n)), str(wanted)
        assert topic.scan().head(n).filter(wanted).collect().equals(frame.head(n).filter(wanted)), str(wanted)
        assert topic.scan().filter(wanted).select("key").collect().equals(frame.filter(wanted).select("key"))


@pytest.mark.parametrize("n", [0, 1, 65_536, 65_537, 150_000, 200_000])
def test_the_head_of_a_lazy_frame_has_so_many_rows(log: streamlog.StreamLog, n: int) -> None:
    topic = log.create_topic("t", partitions=2)
    for partition in range(2):
        topic.send_many([b"x"] * 75_000, partition=partition)
    assert topic.scan().head(n).collect().height == min(n, 150_000)


@pytest.mark.parametrize(
    ("values", "expected", "kind"),
    [
        ([b"9.50", None], [b"9.50", None], pa.large_binary()),
        (["9.50", None], ["9.50", None], pa.large_string()),
        ([None, None], [None, None], pa.large_binary()),
        ([1, 2.5], [1.0, 2.5], pa.float64()),
        ([{"a": 1}, {"b": None}], [{"a": 1, "b": None}, {"a": None, "b": None}], None),
        ([{"a": 1}, {"a": "x"}], ["{'a': 1}", "{'a': 'x'}"], pa.large_string()),
        ([1, "x", None], ["1", "'x'", None], pa.large_string()),
        ([10**30], [repr(10**30)], pa.large_string()),
        ([{1, 2}], ["{1, 2}"], None),
    ],
    ids=str,
)
def test_some_records_are_a_table_of_what_they_hold(
    log: streamlog.StreamLog, values: list[object], expected: list[object], kind: pa.DataType | None
) -> None:
    topic = log.create_topic("t")
    topic.send_many([b"x"] * len(values), timestamps_ms=range(len(values)))
    kept = iter(values)
    records = log.topic("t", value_serde=FromList(kept)).head()
    found = records.to_arrow()
    assert found.column_names == list(topic.to_arrow().column_names)
    for name in ("partition", "offset", "timestamp", "key", "headers"):
        assert found.column(name).to_pylist() == topic.to_arrow().column(name).to_pylist()
        assert found.schema.field(name).type == topic.to_arrow().schema.field(name).type
    if isinstance(values[0], set):
        return
    assert found.column("value").to_pylist() == expected
    assert kind is None or found.schema.field("value").type == kind


class FromList:
    """A serde that reads these values, one after another, whatever the bytes are."""

    def __init__(self, values: Iterator[object]) -> None:
        self._values = values

    def serialize(self, value: object, /) -> bytes:
        raise NotImplementedError

    def deserialize(self, data: bytes, /) -> object:
        return next(self._values)


def test_some_records_are_data_frames(log: streamlog.StreamLog) -> None:
    topic = log.create_topic("t")
    topic.send("9.50", key="alice", headers={"h": b"x", "n": None}, timestamp_ms=5)
    assert topic.head(0).to_arrow().schema == topic.to_arrow().schema
    for found in (topic.head().to_pandas(), topic.head().to_polars()):
        assert found["value"][0] == b"9.50"
    assert topic.head().to_arrow().column("headers").to_pylist() == topic.to_arrow().column("headers").to_pylist()
    assert topic.head().to_polars().equals(topic.to_polars())
