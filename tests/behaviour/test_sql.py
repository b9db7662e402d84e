"""SQL over topics: a query gives the rows that it would give over a copy of the records, and can read and change nothing else."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

import streamlog
from streamlog import ConfigError, CorruptRecordError, SerializationError, UnknownTopicOrPartitionError, serde
from tests.mixed_topics import fill
from tests.times import START_MS

pa = pytest.importorskip("pyarrow")
duckdb = pytest.importorskip("duckdb")
pl = pytest.importorskip("polars")
pd = pytest.importorskip("pandas")


@pytest.fixture(params=["compact", "delete"])
def mixed(log: streamlog.StreamLog, rng: random.Random, request: pytest.FixtureRequest) -> streamlog.Topic:
    """16 partitions with all kinds of batches; nulls, headers, aborted records and gaps among them."""
    made = log.create_topic("mixed", partitions=16, segment_bytes=1 << 14, cleanup_policy=request.param)
    fill(made, rng)
    return made


def test_a_topic_is_a_table(log: streamlog.StreamLog) -> None:
    log.create_topic("orders").send_many([b"9.50", b"20.00"], ["alice", "bob"], timestamps_ms=[START_MS, START_MS + 5])
    found = log.sql('SELECT partition, "offset", timestamp, key, value, headers FROM orders ORDER BY "offset"')
    assert found.columns == ["partition", "offset", "timestamp", "key", "value", "headers"]
    times = [datetime.fromtimestamp((START_MS + more) / 1000, UTC) for more in (0, 5)]
    assert found.fetchall() == [(0, 0, times[0], b"alice", b"9.50", []), (0, 1, times[1], b"bob", b"20.00", [])]
    assert len(found) == 2


def test_names_are_quoted_and_their_case_is_of_no_account(log: streamlog.StreamLog) -> None:
    for name in ("my.topic-1", "Orders", "select"):
        log.create_topic(name).send(name)
    assert log.sql('SELECT value FROM "my.topic-1"').fetchall() == [(b"my.topic-1",)]
    assert log.sql("SELECT value FROM ORDERS").fetchall() == [(b"Orders",)]
    assert log.sql('SELECT value FROM "select"').fetchall() == [(b"select",)]


def test_topics_that_differ_only_in_case_are_refused_until_one_is_named(log: streamlog.StreamLog) -> None:
    log.create_topic("orders").send("small")
    log.create_topic("Orders").send("large")
    with pytest.raises(ConfigError, match="'orders' and 'Orders' differ only in case"):
        log.sql("SELECT * FROM orders")
    assert log.sql("SELECT value FROM orders", tables={"orders": log["Orders"]}).fetchall() == [(b"large",)]
    with pytest.raises(ConfigError, match="does not tell apart"):
        log.sql("SELECT 1", tables={"a": log["orders"], "A": log["orders"]})


def test_a_name_that_is_unknown_is_said(log: streamlog.StreamLog) -> None:
    log.create_topic("orders")
    with pytest.raises(UnknownTopicOrPartitionError, match=r"'ordesr' .did you mean 'orders'"):
        log.sql("SELECT * FROM ordesr")


@pytest.mark.parametrize(
    ("query", "hint"),
    [
        ("SELECT offset FROM orders", r'in quotes.*"offset"'),
        ("SELECT key FROM orders WHERE offset > 2", r'in quotes.*"offset"'),
        ("SELECT * FROM my-orders", r'in quotes: "my-orders"'),
        ("SELECT * FROM group", r'in quotes: "group"'),
        ("SELECT price FROM orders", "log.topic.'orders', value_serde=streamlog.serde.json, schema='infer'"),
        ("SELECT value.price FROM orders", "schema='infer'"),
        ("SELECT * FROM read_csv('x.csv')", "tables={'name': pandas.read_csv"),
    ],
)
def test_an_error_of_duckdb_has_a_note_of_what_to_do(log: streamlog.StreamLog, query: str, hint: str) -> None:
    for name in ("orders", "my-orders", "group"):
        log.create_topic(name).send('{"price": 1}')
    with pytest.raises(duckdb.Error) as raised:
        log.sql(query)
    assert re.search(hint, "\n".join(raised.value.__notes__))


@pytest.mark.parametrize(
    "query", ["SELECT 1 FROM orders LIMITS 5 OFFSET 10", 'SELECT "offset", FROM FROM orders', "SELEC 1"]
)
def test_an_error_that_has_nothing_to_do_with_names_has_no_note(log: streamlog.StreamLog, query: str) -> None:
    log.create_topic("orders")
    log.create_topic("my-orders")
    with pytest.raises(duckdb.ParserException) as raised:
        log.sql(query)
    assert not hasattr(raised.value, "__notes__")


def test_a_column_that_is_misspelt_is_duckdbs_matter_where_the_topic_has_a_schema(log: streamlog.StreamLog) -> None:
    log.create_topic("orders").send('{"price": 1}')
    log.topic("orders", value_serde=serde.json, schema="infer")
    with pytest.raises(duckdb.BinderException, match='"price"') as raised:
        log.sql("SELECT prise FROM orders")
    assert not hasattr(raised.value, "__notes__")


def test_a_name_with_a_dot_that_is_not_quoted_is_said(log: streamlog.StreamLog) -> None:
    log.create_topic("my.orders")
    with pytest.raises(UnknownTopicOrPartitionError, match=r'in quotes: "my.orders"'):
        log.sql("SELECT * FROM my.orders")


def test_a_sum_of_integers_is_an_integer(log: streamlog.StreamLog) -> None:
    numbers = pa.table({"n": [1, 2], "large": [2**62, 2**62 - 1], "huge": [2**62, 2**62]})
    result = log.sql("SELECT sum(n) AS n, sum(large) AS large FROM t", tables={"t": numbers})
    assert result.to_arrow().schema == pa.schema({"n": pa.int64(), "large": pa.int64()})
    assert result.fetchall() == [(3, 2**63 - 1)]
    assert log.sql("SELECT sum(n) FROM t WHERE n > 5", tables={"t": numbers}).fetchall() == [(None,)]
    assert log.sql("SELECT sum(huge) AS s FROM t", tables={"t": numbers}).fetchall() == [(2**63,)], "more than 64 bits"


@pytest.mark.parametrize("zone", ["America/New_York", "Asia/Tokyo"])
def test_times_are_those_of_utc_wherever_the_machine_is(child: Any, zone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", zone)
    process = child("""
        import streamlog
        with streamlog.open() as log:
            log.create_topic("t").send("x", timestamp_ms=86_400_000)
            query = "SELECT timestamp, day(timestamp) FROM t WHERE timestamp = '1970-01-02'"
            [(time, day)] = log.sql(query).fetchall()
            print(time.isoformat(), day)
        """)
    output, errors = process.communicate(timeout=60)
    assert output.strip() == "1970-01-02T00:00:00+00:00 2", errors


def test_a_topic_for_the_rows_is_looked_up_before_the_query(log: streamlog.StreamLog) -> None:
    with pytest.raises(UnknownTopicOrPartitionError, match="'nowhere'"):
        log.sql("SELECT error('ran')", into="nowhere")


def test_only_topics_that_a_query_reads_are_looked_at(
    log: streamlog.StreamLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    from streamlog.frames import sql

    looked: list[str] = []
    opened = sql.TopicTable._opened

    def noting(table: Any) -> Any:
        found = opened(table)
        looked.extend({each.name.topic for each in found[0].ranges})
        return found

    monkeypatch.setattr(sql.TopicTable, "_opened", noting)
    for name in ("orders", "key", "value", "later", "Late.x"):
        log.create_topic(name).send("x", "orders")
    query = "WITH later AS (SELECT 1) SELECT count(value) /* Late.x */ FROM orders WHERE decode(key) = 'orders'"
    assert log.sql(query).fetchall() == [(1,)]
    assert set(looked) == {"orders"}
    assert log.sql("FROM query('SELECT count(*) FROM \"late.X\"')").fetchall() == [(1,)]


def test_tables_are_joined(log: streamlog.StreamLog) -> None:
    log.create_topic("orders").send_many([b"1", b"2", b"3"], ["a", "b", "a"])
    names = [{"id": "a", "name": "Alice"}, {"id": "b", "name": "Bob"}]
    query = "SELECT name, count(*) FROM orders JOIN people ON decode(key) = id GROUP BY name ORDER BY name"
    for people in (pd.DataFrame(names), pl.DataFrame(names), pa.Table.from_pylist(names)):
        assert log.sql(query, tables={"people": people}).fetchall() == [("Alice", 2), ("Bob", 1)]
    other = log.create_topic("other")
    other.send("x", "a")
    for table in (other, other.read(), next(other.read_batches()), log.sql("FROM other")):
        joined = log.sql("SELECT count(*) FROM orders JOIN t USING (key)", tables={"t": table})
        assert joined.fetchall() == [(2,)]


@pytest.mark.parametrize("table", [5, "orders", None, b"x", {"a": [1]}, [{"a": 1}], (1,)])
def test_what_is_no_table_is_refused(log: streamlog.StreamLog, table: Any) -> None:
    with pytest.raises(ConfigError, match="tables"):
        log.sql("SELECT 1", tables={"t": table})


def test_a_handle_with_a_schema_gives_typed_columns(log: streamlog.StreamLog) -> None:
    log.create_topic("flights")
    flights = log.topic("flights", value_serde=serde.json, schema="infer")
    flights.send_many([{"carrier": "AA", "delay": 5}, {"carrier": "UA", "delay": 1}, {"carrier": "AA", "delay": 8}])
    query = "SELECT carrier, avg(delay) FROM flights GROUP BY carrier ORDER BY carrier"
    assert log.sql(query).fetchall() == [("AA", 6.5), ("UA", 1.0)]
    log.delete_topic("flights")
    log.create_topic("flights").send(b"other")
    assert log.sql("SELECT value FROM flights").fetchall() == [(b"other",)]


def test_a_query_sees_one_moment_of_a_topic(log: streamlog.StreamLog) -> None:
    topic = log.create_topic("t")
    topic.send_many([b"x"] * 10)

    class Sends:
        """A table whose reading sends to the topic."""

        def __arrow_c_stream__(self, requested_schema: object = None) -> object:
            topic.send("later")
            return pa.table({"n": [1]}).__arrow_c_stream__(requested_schema)

    found = log.sql("SELECT (SELECT count(*) FROM t), (SELECT count(*) FROM t), n FROM s", tables={"s": Sends()})
    ((one, two, _),) = found.fetchall()
    assert one == two


# -- filters ---------------------------------------------------------------------------------------------


def literal(ms: float) -> str:
    moment = datetime.fromtimestamp(ms / 1000, UTC)
    return f"TIMESTAMPTZ '{moment:%Y-%m-%d %H:%M:%S.%f}+00'"


def condition(rng: random.Random, offsets: list[int], times: list[int], depth: int) -> str:
    kind = rng.randrange(11 if depth else 7)
    if kind == 0:
        return f"partition {rng.choice(['=', '<', '>=', '!='])} {rng.randrange(17)}"
    if kind == 1:
        return f'"offset" {rng.choice(["=", "<", ">=", "<="])} {rng.choice(offsets) + rng.randrange(-1, 2)}'
    if kind == 2:
        return f"timestamp {rng.choice(['<', '>', '<=', '>=', '=', '!='])} {literal(rng.choice(times) + rng.choice([0, 0, 1, -1, 0.3]))}"
    if kind == 3:
        return f"{rng.choice(['key', 'value', 'timestamp'])} IS {rng.choice(['', 'NOT'])} NULL"
    if kind == 4:
        return f"decode(key) IN ('key {rng.randrange(400)}', 'key {rng.randrange(400)}')"
    if kind == 5:
        return f'"offset" IN ({rng.choice(offsets)}, {rng.choice(offsets)}, NULL)'
    if kind == 6:
        low = rng.choice(times)
        return f"timestamp BETWEEN {literal(low)} AND {literal(low + rng.randrange(5))}"
    if kind == 7:
        return f"NOT ({condition(rng, offsets, times, depth - 1)})"
    joint = rng.choice(["AND", "OR"])
    return f"({condition(rng, offsets, times, depth - 1)}) {joint} ({condition(rng, offsets, times, depth - 1)})"


def test_random_conditions_give_the_rows_of_a_full_scan(
    log: streamlog.StreamLog, mixed: streamlog.Topic, rng: random.Random
) -> None:
    table = mixed.to_arrow()
    offsets = sorted(set(table["offset"].to_pylist()))
    times = sorted(set(table["timestamp"].cast(pa.int64()).to_pylist()))
    for _ in range(80):
        where = condition(rng, offsets, times, 3)
        columns = rng.choice(['partition, "offset"', "key", "count(*)", "*"])
        query = f"SELECT {columns} FROM {{}} WHERE {where} ORDER BY ALL"
        by_table = log.sql(query.format("copied"), tables={"copied": table}).to_arrow()
        assert log.sql(query.format("mixed")).to_arrow().equals(by_table), where


def test_times_out_of_order_are_all_found(log: streamlog.StreamLog, rng: random.Random) -> None:
    topic = log.create_topic("t", segment_bytes=1 << 14)
    times = [START_MS + rng.randrange(100_000) for _ in range(5_000)]
    for at in range(0, 5_000, 100):
        topic.send_many([b"%d" % n for n in range(100)], timestamps_ms=times[at : at + 100])
    for _ in range(20):
        low = START_MS + rng.randrange(100_000)
        high = low + rng.randrange(20_000)
        query = f"SELECT count(*) FROM t WHERE timestamp >= {literal(low)} AND timestamp < {literal(high)}"
        assert log.sql(query).fetchall() == [(sum(low <= each < high for each in times),)]


def test_a_filter_with_many_constants_is_asked_of_few_of_them(
    log: streamlog.StreamLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    from streamlog.frames import prune

    asked = 0
    ask = prune.may_pass

    def counting(*args: Any) -> list[int]:
        nonlocal asked
        asked += len(args[2])
        return ask(*args)

    monkeypatch.setattr(prune, "may_pass", counting)
    log.create_topic("t").send_many([b"x"] * 1_000)
    where = " OR ".join(f'"offset" BETWEEN {at} AND {at + 1}' for at in range(100, 900, 8))
    assert log.sql(f'SELECT count(*), min("offset"), max("offset") FROM t WHERE {where}').fetchall() == [
        (200, 100, 893)
    ]
    assert asked < 50


# -- what it may not -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "query",
    [
        "COPY (SELECT 1) TO 'stolen.csv'",
        "ATTACH 'stolen.db'",
        "INSTALL httpfs",
        "LOAD httpfs",
        "SET enable_external_access = true",
        "CREATE TABLE t (a int)",
        "DROP VIEW t",
        "PRAGMA enable_progress_bar",
        "SELECT 1; SELECT 2",
        "",
        "-- nothing",
    ],
)
def test_anything_but_one_select_is_refused(log: streamlog.StreamLog, query: str) -> None:
    log.create_topic("t")
    with pytest.raises(ConfigError, match="one SELECT"):
        log.sql(query)


@pytest.mark.parametrize(
    "query",
    [
        "SELECT * FROM read_text('{}')",
        "SELECT * FROM '{}'",
        "SELECT * FROM read_csv('{}')",
        "SELECT * FROM glob('{}')",
        "SELECT * FROM secret_variable",
        "SELECT getenv('HOME')",
    ],
)
def test_a_query_reads_no_file_and_no_variable(log: streamlog.StreamLog, tmp_path: Path, query: str) -> None:
    secret_variable = pa.table({"a": [1]})
    (tmp_path / "secret.csv").write_text("a\n1\n")
    with pytest.raises((duckdb.Error, UnknownTopicOrPartitionError)):
        log.sql(query.format(tmp_path / "secret.csv"))
    assert secret_variable.num_rows == 1


def test_settings_are_locked_and_memory_is_bounded(log: streamlog.StreamLog) -> None:
    settings = dict(log.sql("SELECT name, value FROM duckdb_settings()").fetchall())
    assert settings["enable_external_access"] == "false"
    assert settings["lock_configuration"] == "true"
    assert settings["autoload_known_extensions"] == "false"
    assert settings["memory_limit"] == "2.0 GiB"
    with pytest.raises(duckdb.Error):
        log.sql("SELECT list(a.range) FROM range(1000000000) a")


def test_one_query_leaves_nothing_to_the_next(log: streamlog.StreamLog) -> None:
    assert log.sql("SELECT n FROM mine", tables={"mine": pa.table({"n": [1]})}).fetchall() == [(1,)]
    with pytest.raises(UnknownTopicOrPartitionError):
        log.sql("SELECT n FROM mine")


@pytest.mark.parametrize(
    "query",
    [
        "EXPLAIN ANALYZE CREATE TABLE made AS SELECT 1",
        "EXPLAIN ANALYZE CREATE MACRO count(x) AS 5",
        "EXPLAIN ANALYZE CREATE SCHEMA made",
        "EXPLAIN ANALYZE CREATE SEQUENCE made",
    ],
)
def test_a_statement_inside_another_makes_nothing_in_the_database(log: streamlog.StreamLog, query: str) -> None:
    with pytest.raises(duckdb.Error, match="read-only"):
        log.sql(query)
    for kind in ("table", "schema", "sequence", "function"):
        assert log.sql(f"SELECT count(*) FROM duckdb_{kind}s() WHERE {kind}_name = 'made'").fetchall() == [(0,)]
    assert log.sql("SELECT count(*) FROM range(3)").fetchall() == [(3,)]


# -- errors and interrupts -------------------------------------------------------------------------------


@pytest.mark.damaged
def test_damage_is_raised_as_it_is_by_a_read(open_log: Any, path: Path) -> None:
    log = open_log()
    topic = log.create_topic("t", segment_bytes=1 << 14)
    for _ in range(20):
        topic.send_many([bytes(100)] * 100)
    log.close()
    first = min(path.glob("topics/*-0/*.log"))
    data = bytearray(first.read_bytes())
    data[500] ^= 1
    first.write_bytes(data)
    log = open_log()
    with pytest.raises(CorruptRecordError):
        log.sql("SELECT sum(octet_length(value)) FROM t")
    assert log.sql('SELECT count(*) FROM t WHERE "offset" >= 1000').fetchall() == [(1_000,)]


def test_a_topic_that_cannot_be_opened_raises_what_a_read_of_it_does(log: streamlog.StreamLog) -> None:
    other = streamlog.open()
    topic = other.create_topic("t")
    other.close()
    with pytest.raises(streamlog.ClosedError):
        log.sql("SELECT count(*) FROM x", tables={"x": topic})


def test_an_error_of_duckdb_is_its_own(log: streamlog.StreamLog) -> None:
    with pytest.raises(duckdb.ParserException):
        log.sql("SELEC 1")
    with pytest.raises(duckdb.ConversionException):
        log.sql("SELECT 'x'::INT")


class _Signals:
    """A serde that sends this process a signal at the thousandth value."""

    def __init__(self) -> None:
        self.left = 1_000

    def serialize(self, value: Any) -> bytes:
        return serde.json.serialize(value)

    def deserialize(self, data: bytes) -> Any:
        self.left -= 1
        if not self.left:
            os.kill(os.getpid(), signal.SIGUSR1)
        return serde.json.deserialize(data)


class Stop(BaseException):
    pass


@pytest.mark.parametrize("stop", [KeyboardInterrupt, Stop, ValueError])
def test_what_a_signal_handler_raises_ends_the_query_and_leaves_the_log_usable(
    log: streamlog.StreamLog, stop: type[BaseException]
) -> None:
    def handler(*_: object) -> None:
        raise stop

    log.create_topic("t").send_many([b'{"n": 1}'] * 2_000)
    schema = pa.schema([("n", pa.int64())])
    before = signal.signal(signal.SIGUSR1, handler)
    try:
        for _ in range(3):
            log.topic("t", value_serde=_Signals(), schema=schema)
            with pytest.raises(stop):
                log.sql("SELECT count(*) FROM t, range(1000000000) WHERE n > 0 AND range % 7 = n")
            log.topic("t", value_serde=serde.json, schema=schema)
            assert log.sql("SELECT sum(n) FROM t").fetchall() == [(2_000,)]
    finally:
        signal.signal(signal.SIGUSR1, before)


# -- results ---------------------------------------------------------------------------------------------


def test_a_result_is_a_table_for_every_program(log: streamlog.StreamLog) -> None:
    found = log.sql("SELECT range AS n, range * 2 AS twice FROM range(3)")
    assert list(found) == found.fetchall() == [(0, 0), (1, 2), (2, 4)]
    assert found.to_arrow().to_pydict() == {"n": [0, 1, 2], "twice": [0, 2, 4]}
    assert found.to_pandas()["twice"].tolist() == [0, 2, 4]
    assert found.to_polars()["twice"].to_list() == [0, 2, 4]
    assert pl.DataFrame(found)["n"].to_list() == [0, 1, 2]
    assert repr(log.sql("SELECT 1 AS a")) == "<streamlog.SqlResult: 1 row of a\n  (1,)>"
    many = repr(log.sql("SELECT repeat('x', 100000) AS a FROM range(50)"))
    assert len(many) < 10_000
    assert many.endswith("… and 40 more>")
    assert repr(log.sql("FROM range(100)")).endswith("  … and 90 more>")


def test_rows_are_sent_to_a_topic_as_json(log: streamlog.StreamLog) -> None:
    log.create_topic("orders").send_many([b"1", b"2", b"3"], ["a", "b", "a"])
    log.create_topic("counts")
    query = "SELECT decode(key) AS customer, count(*) AS n FROM orders GROUP BY key ORDER BY n"
    found = log.sql(query, into="counts")
    assert [json.loads(record.value) for record in log["counts"].read()] == [
        {"customer": "b", "n": 1},
        {"customer": "a", "n": 2},
    ]
    assert len(found) == 2


def test_rows_go_through_the_serde_of_the_topic(log: streamlog.StreamLog) -> None:
    log.create_topic("t")
    log.sql("SELECT 1 AS a, 'x' AS b", into=log.topic("t", value_serde=serde.msgpack))
    assert [record.value for record in log.topic("t", value_serde=serde.msgpack).read()] == [{"a": 1, "b": "x"}]


def test_columns_key_value_and_timestamp_make_records(log: streamlog.StreamLog) -> None:
    log.create_topic("t").send_many([b"1", None], ["a", "b"], timestamps_ms=[START_MS, START_MS + 1])
    log.create_topic("copy")
    log.sql('SELECT key, value, timestamp FROM t ORDER BY "offset"', into="copy")
    assert [(r.key, r.value, r.timestamp) for r in log["copy"].read()] == [
        (b"a", b"1", START_MS),
        (b"b", None, START_MS + 1),
    ]
    with pytest.raises(ConfigError, match="'partition'"):
        log.sql("SELECT value, partition FROM t", into="copy")
    assert len(list(log["copy"].read())) == 2


def test_a_closed_log_answers_no_query_and_its_results_stay(open_log: Any) -> None:
    log = open_log()
    log.create_topic("t").send("x")
    found = log.sql("SELECT count(*) FROM t")
    log.close()
    assert found.fetchall() == [(1,)]
    with pytest.raises(streamlog.ClosedError):
        log.sql("SELECT 1")


def test_a_log_that_is_closed_ends_the_queries_of_other_threads(open_log: Any) -> None:
    log = open_log()
    raised: list[BaseException] = []
    runs = threading.Event()

    class Begins:
        """A table that says when it is read."""

        def __arrow_c_stream__(self, requested_schema: object = None) -> object:
            def batches() -> Iterator[Any]:
                runs.set()
                yield pa.record_batch({"n": [7]})

            schema = pa.schema([("n", pa.int64())])
            return pa.RecordBatchReader.from_batches(schema, batches()).__arrow_c_stream__(requested_schema)

    def query() -> None:
        try:
            log.sql("SELECT count(*) FROM n, range(1000000000000) WHERE range % 11 = n", tables={"n": Begins()})
        except BaseException as error:
            raised.append(error)

    threads = [threading.Thread(target=query) for _ in range(2)]
    for thread in threads:
        thread.start()
    assert runs.wait(60)
    log.close()
    for thread in threads:
        thread.join(60)
    assert [type(error) for error in raised] == [streamlog.ClosedError] * 2


def test_a_process_that_has_run_queries_ends_by_itself(child: Any) -> None:
    program = """
import streamlog
log = streamlog.open()
log.create_topic("t").send_many([b"x"] * 1_000)
print(log.sql("SELECT count(*) FROM t").fetchall(), flush=True)
"""
    process = child(program)
    output, _ = process.communicate(timeout=60)
    assert (output.strip(), process.returncode) == ("[(1000,)]", 0)


@pytest.mark.parametrize("column", ["'NaN'::DOUBLE", "'-inf'::FLOAT", "'\\xFF'::BLOB", "[{'a': 'inf'::DOUBLE}]"])
def test_a_row_that_is_not_json_is_refused(log: streamlog.StreamLog, column: str) -> None:
    topic = log.create_topic("t")
    with pytest.raises(SerializationError, match="'wrong'"):
        log.sql(f"SELECT 1 AS fine, {column} AS wrong", into=topic)
    assert len(list(topic.read())) == 0


def test_columns_with_one_name_are_not_sent(log: streamlog.StreamLog) -> None:
    topic = log.create_topic("t")
    for query in ("SELECT 1 AS a, 2 AS a", "SELECT 'x' AS value, 'y' AS value"):
        with pytest.raises(ConfigError, match="twice"):
            log.sql(query, into=topic)


def test_the_topic_for_the_rows_is_looked_up_before_the_query_runs(log: streamlog.StreamLog) -> None:
    with pytest.raises(UnknownTopicOrPartitionError, match="nowhere"):
        log.sql("SELECT error('it ran')", into="nowhere")
