"""What a notebook shows of the handles: escaped, bounded, cheap, and never an error, whatever the records hold."""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import streamlog
from streamlog import StreamLog, Topic
from streamlog.client.consumer.fetcher import PartitionFetcher
from streamlog.runtime.threads import inside

HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "&lt;b&gt; & ' \"",
    "\x00\x01\x1b[31m\r\n\t\x7f\x9b",
    "\u202e\u2066\u200f\u061cevil\ufeff",
    "</td></table></div><h1>",
    "שלום",
    "a" * 100_000,
    "<" * 100_000,
    "\U0001f600" * 1_000,
    "`${alert(1)}` {{7*7}} $x^2$",
]


ALLOWED = {"div", "p", "b", "i", "small", "br", "table", "thead", "tbody", "tr", "th", "td"}


class Page(HTMLParser):
    """The tags and the text of a piece of HTML, which has to be well formed."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.cells: list[str] = []
        self.rows = 0
        self.text = ""
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in ALLOWED
        assert {name for name, _ in attrs} <= {"style", "dir"}
        if tag != "br":
            self.open.append(tag)
        self.rows += tag == "tr"
        if tag == "td":
            self.cells.append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data
        if "td" in self.open:
            self.cells[-1] += data

    def handle_comment(self, data: str) -> None:
        raise AssertionError(data)

    handle_decl = handle_pi = unknown_decl = handle_comment


def shown(value: Any, most: int = 60_000) -> Page:
    html = value._repr_html_()
    assert len(html) <= most
    assert html.isprintable(), "no control character, surrogate or mark of a direction"
    html.encode("utf-8")
    assert not re.search(r"color|font|background|rgb|#[0-9a-f]{3}", re.sub(r">[^<]*<", "><", html))
    return Page(html)


@pytest.fixture
def orders(log: StreamLog) -> Topic:
    topic = log.create_topic("orders", partitions=4, retention_ms=86_400_000)
    for n in range(30):
        topic.send(f"{n}.50", key=f"customer {n}", partition=n % 4, timestamp_ms=n * 1_000, headers={"h": str(n)})
    return topic


# What is shown


def test_a_log_shows_where_it_is_and_its_topics(log: StreamLog, orders: Topic, path: Path) -> None:
    page = shown(log)
    assert str(path) in page.text
    assert "1 topic, 1 broker" in page.text
    assert page.cells[:3] == ["orders", "4", "30"]
    with streamlog.open() as temporary:
        assert "temporary: 0 topics" in shown(temporary).text


def test_a_topic_shows_its_settings_and_partitions(log: StreamLog, orders: Topic) -> None:
    page = shown(orders)
    assert "orders: 4 partitions; keys and values are bytes" in page.text
    assert "retention_ms=86400000" in page.text
    assert page.cells[:6] == ["0", "0", "0", "0", "8", "8"]
    assert page.rows == 5
    typed = log.topic("orders", value_serde=streamlog.serde.json)
    assert "values by streamlog.serde.json" in shown(typed).text


def test_a_group_shows_its_state_members_and_lag(log: StreamLog, orders: Topic) -> None:
    group = log.group("billing")
    assert "billing: Dead, 0 members" in shown(group).text
    with group.consumer("orders", client_id="<me>") as consumer:
        consumer.commit(consumer.poll(max_records=1)[0])
        page = shown(group)
        assert "billing: Stable, 1 member, lag 29" in page.text
        assert "<me>" in page.cells
        assert "test_notebook_html.py" in page.text
        assert page.cells[4:8] == ["orders", "0", "1", "7"]
        assert page.cells[8:12] == ["orders", "1", "None", "8"]


def test_a_batch_shows_its_first_records(orders: Topic) -> None:
    orders.send_many([f"v{n}" for n in range(100)], partition=0, timestamps_ms=range(100))
    *_, batch = orders.read_batches(0)
    for each in (batch, pickle.loads(pickle.dumps(batch))):
        page = shown(each)
        assert "orders-0: 100 records, offsets 8 to 107" in page.text
        assert page.cells[4::5][:10] == [f"v{n}" for n in range(10)]
        assert "and 90 more records" in page.text


def test_a_read_shows_its_ranges_and_first_records_and_keeps_them(orders: Topic) -> None:
    for order in ("partition", "time"):
        read = orders.read(order=order)  # type: ignore[arg-type]
        whole = list(orders.read(order=order))  # type: ignore[arg-type]
        next(read)
        page = shown(read)
        assert "a read of 30 offsets" in page.text
        assert "0 [0, 8), 1 [0, 8), 2 [0, 7), 3 [0, 7)" in page.text
        assert page.cells[4::6] == [record.value.decode() for record in whole[:10]]
        assert shown(read).cells == page.cells
        assert list(read) == whole[1:]
        assert shown(read).cells == page.cells, "what was asked for, also at its end"
    assert "0 offsets" in shown(orders.read(start="latest")).text


def test_some_records_show_a_table_with_types(log: StreamLog, orders: Topic) -> None:
    page = shown(orders.head(20))
    assert "20 records of orders" in page.text
    assert page.cells[:6] == ["0", "0", "1970-01-01 00:00:00.000", "customer 0", "0.50", "h=0"]
    assert page.rows == 11
    assert "and 10 more records" in page.text
    assert "valuebytes" in page.text
    assert "0 records" in shown(orders.head(0)).text
    json = log.topic("orders", value_serde=streamlog.serde.json)
    page = shown(json.tail(1))
    assert page.cells[4] == "29.5"
    assert "valuefloat" in page.text


def test_rows_of_a_query_show_a_table_with_types(log: StreamLog, orders: Topic) -> None:
    pytest.importorskip("duckdb")
    query = 'SELECT "offset" + partition * 100 AS n, timestamp, key, value, 1.50 AS d, NULL AS nothing FROM orders ORDER BY timestamp'
    page = shown(log.sql(query))
    assert "30 rows of 6 columns" in page.text
    assert page.cells[:6] == ["0", "1970-01-01 00:00:00+00:00", "customer 0", "0.50", "1.50", "None"]
    assert page.rows == 11
    assert "and 20 more rows" in page.text
    for name, kind in (
        ("n", "int64"),
        ("timestamp", "timestamp[us, tz=UTC]"),
        ("value", "binary"),
        ("d", "decimal128(3, 2)"),
    ):
        assert f"{name}{kind}" in page.text
    assert "0 rows" in shown(log.sql("SELECT * FROM orders WHERE partition > 9")).text


def test_rows_of_a_query_are_shown_in_part_and_as_text(log: StreamLog) -> None:
    pa = pytest.importorskip("pyarrow")
    pytest.importorskip("duckdb")
    wide = pa.table({f"{HOSTILE[0]}{n}": HOSTILE for n in range(40)})
    page = shown(log.sql("FROM t", tables={"t": wide}), most=400_000)
    assert len(page.cells) == 10 * 30
    assert page.cells[0] == HOSTILE[0]
    assert "and 10 more columns" in page.text
    assert "<script>alert(1)</script>0" in page.text
    query = (
        "SELECT 'infinity'::TIMESTAMP AS a, [1, 2] AS b, {'x': 1} AS c, INTERVAL 3 DAYS AS d, DATE '2013-01-01' AS e"
    )
    page = shown(log.sql(query))
    assert page.cells[1:3] == ["[1, 2]", "{'x': 1}"]
    assert page.cells[4] == "2013-01-01"


def test_nothing_is_shown_as_such(log: StreamLog) -> None:
    topic = log.create_topic("t")
    topic.send(None, key="tombstone", timestamp_ms=0)
    topic.send("", timestamp_ms=0)
    page = shown(topic.head())
    assert page.cells == ["0", "0", "1970-01-01 00:00:00.000", "tombstone", "None"] + [
        *("0", "1", "1970-01-01 00:00:00.000", "None", "")
    ]


# What others have written


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: ascii(text[:20]))
def test_what_records_hold_is_text(log: StreamLog, text: str) -> None:
    topic = log.create_topic("t")
    topic.send(text, key=text, headers={text: text, "h": text}, timestamp_ms=0)
    typed = log.topic("t", value_serde=streamlog.serde.string)
    for value in (topic.head(), topic.read(), next(topic.read_batches()), typed.head()):
        page = shown(value)
        start = text[:8]
        assert start in page.cells[3] or ascii(start)[1:5] in page.cells[3] or "\\" in page.cells[3]
        assert len(page.cells) == 6
        assert all(len(cell) < 2_500 for cell in page.cells)


@pytest.mark.parametrize("text", HOSTILE[:7], ids=ascii)
def test_names_are_text(log: StreamLog, text: str, tmp_path: Path) -> None:
    group = log.group(text)
    group.reset(log.create_topic("t"), to="earliest")
    assert "Empty" in shown(group).text
    with log.consumer("t", group="g", client_id=text):
        shown(log.group("g"))
    name = text.replace("/", "_").replace("\x00", "")
    with streamlog.open(tmp_path / name) as other:
        assert "0 topics" in shown(other).text


TEXTS = st.one_of(st.text(), st.sampled_from(HOSTILE))


@given(
    st.lists(
        st.tuples(st.binary(max_size=400), st.binary(max_size=40), TEXTS, st.binary(max_size=9)), min_size=1, max_size=8
    )
)
def test_any_bytes_can_be_shown(records: list[tuple[bytes, bytes, str, bytes]]) -> None:
    with streamlog.open() as log:
        topic = log.create_topic("t")
        for value, key, name, header in records:
            topic.send(value, key=key, headers={name.encode("utf-8", "replace").decode(): header})
        for page in (shown(topic.head()), shown(topic.read()), shown(topic.read(order="time"))):
            assert page.rows == 1 + len(records)


class Hostile:
    """A value that a deserializer made, whose repr is of another's making."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def __repr__(self) -> str:
        if self.data == b"raise":
            raise ValueError("<b>")
        return "<script>\ud800\x00" + "x" * 10**6


@pytest.mark.parametrize("data", [b"raise", b"long"])
def test_any_value_of_a_deserializer_can_be_shown(log: StreamLog, data: bytes) -> None:
    class Serde:
        def serialize(self, value: bytes) -> bytes:
            return value

        def deserialize(self, data: bytes) -> Any:
            nested: Any = Hostile(data)
            for _ in range(100):
                nested = {"<k>" * 100: nested, **{str(n): [nested] * 100 for n in range(3)}}
            return [nested] * 1_000

    topic: Topic[Any, Any] = log.topic(log.create_topic("t").name, value_serde=Serde())
    topic.send(data)
    assert len(shown(topic.head()).cells[4]) < 400
    flat: Topic[Any, Any] = log.topic(
        "t", value_serde=type("Flat", (Serde,), {"deserialize": lambda _, data: Hostile(data)})()
    )
    assert len(shown(flat.head()).cells[4]) < 400


def test_integers_of_any_size_are_shown(log: StreamLog) -> None:
    for n, value in enumerate((10**20, 10**5_000, -(10**40), True, float("nan"))):
        topic: Topic[Any, Any] = log.topic(
            log.create_topic(f"t{n}").name,
            value_serde=type(
                "S", (), {"serialize": lambda _, v: b"x", "deserialize": lambda _, d, value=value: value}
            )(),
        )
        topic.send(1)
        assert len(shown(topic.head()).cells[4]) < 400


# Bounds


def test_what_is_large_is_shown_in_part(log: StreamLog) -> None:
    for n in range(60):
        log.create_topic(f"topic-{n:03}")
    large = log.create_topic("a-large-one", partitions=1_000)
    page = shown(log)
    assert page.rows == 21
    assert "and 41 more topics" in page.text
    assert page.cells[:4] == ["a-large-one", "1000", "not counted", "not counted"]
    page = shown(large)
    assert page.rows == 21
    assert "and 980 more partitions" in page.text
    page = shown(large.read())
    assert page.rows == 0
    large.send_many([b"x"] * 5_000)
    page = shown(large.read())
    assert page.rows == 11
    assert "and 980 more" in page.text
    with log.consumer("a-large-one", group="g") as consumer:
        consumer.poll()
        consumer.commit()
        page = shown(log.group("g"))
        assert page.rows == 2 + 21
        assert "and 994 more" in page.text


def test_a_read_by_time_of_very_many_partitions_shows_none_of_them(log: StreamLog) -> None:
    topic = log.create_topic("t", partitions=501)
    for number in range(501):
        topic.send("x", partition=number)
    page = shown(topic.read(order="time"))
    assert page.rows == 0
    assert "not shown" in page.text
    assert shown(topic.read()).rows == 11


def test_a_read_is_shown_at_the_cost_of_a_few_records(log: StreamLog, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []
    take = PartitionFetcher.take
    monkeypatch.setattr(
        PartitionFetcher, "take", lambda self, out, n: taken.append(found := take(self, out, n)) or found
    )
    decoded: list[bytes] = []

    class Serde:
        def serialize(self, value: bytes) -> bytes:
            return value

        def deserialize(self, data: bytes) -> Any:
            decoded.append(data)
            return data

    topic: Topic[Any, Any] = log.topic(log.create_topic("t", partitions=2).name, value_serde=Serde())
    for partition in range(2):
        topic.send_many([b"x"] * 20_000, partition=partition, timestamps_ms=range(20_000))
    for read in (topic.read(), topic.read(order="time"), next(topic.read_batches())):
        taken.clear()
        decoded.clear()
        shown(read)
        assert sum(taken) <= 1_100
        assert len(decoded) <= 11


# Never an error


def everything(log: StreamLog, topic: Topic) -> list[Any]:
    return [
        log,
        topic,
        log.group("g"),
        topic.read(),
        topic.read(order="time"),
        topic.head(),
        next(topic.read_batches()),
    ]


def test_what_is_closed_or_deleted_says_so(log: StreamLog, orders: Topic) -> None:
    values = everything(log, orders)
    log.delete_topic("orders")
    assert "deleted" in shown(orders).text
    assert "UnknownTopic" in shown(values[3]).text
    again = log.create_topic("orders")
    assert "deleted" in shown(orders).text
    assert "deleted" not in shown(again).text
    assert "Unknown" in shown(values[3]).text
    for value in values:
        shown(value)
    log.close()
    texts = [shown(value).text for value in values]
    assert "closed" in texts[0]
    assert "closed" in texts[1]
    assert "closed" in texts[2]
    assert "ClosedError" in texts[3]
    assert "10 records" in texts[5]
    shown(again)


def test_in_the_middle_of_another_call_it_is_a_line(log: StreamLog, orders: Topic) -> None:
    values = everything(log, orders)
    with inside():  # as in a signal handler, or a finalizer
        texts = [shown(value).text for value in values]
    assert "ReentrantCallError" in texts[0]
    assert "10 records" in texts[5]


@pytest.mark.damaged
def test_a_damaged_batch_is_a_line_below_the_records_before_it(log: StreamLog, path: Path) -> None:
    topic = log.create_topic("t")
    for n in range(5):
        topic.send(b"%d" % n * 100, timestamp_ms=n)
    log.sync()
    (file,) = (each for each in path.rglob("*.log") if b"3" * 100 in each.read_bytes())
    file.write_bytes(file.read_bytes().replace(b"3" * 100, b"3" * 50 + b"!" + b"3" * 49))
    page = shown(topic.read())
    assert "CorruptRecordError" in page.text
    assert page.rows == 4
    page = shown(topic.read(order="time"))
    assert "CorruptRecordError" in page.text
    shown(topic)
    shown(log)


def test_a_deserializer_that_fails_is_a_line(log: StreamLog) -> None:
    log.create_topic("t").send_many(["1", "2", "<no json>"], timestamps_ms=[1, 2, 3])
    topic = log.topic("t", value_serde=streamlog.serde.json)
    for value in (topic.read(), topic.read(order="time")):
        page = shown(value)
        assert "DeserializationError" in page.text
        assert page.cells[4::5] == ["1", "2"]
    assert "DeserializationError" in shown(next(topic.read_batches())).text


def test_without_a_leader_nothing_is_waited_for(open_log: Callable[..., StreamLog]) -> None:
    log = open_log(brokers=2)
    topic = log.create_topic("t", replication_factor=1, partitions=2)
    topic.send_many(["a"] * 10, partition=0)
    topic.send_many(["b"] * 10, partition=1)
    log.create_topic("u", replication_factor=2).send("x")
    read = topic.read()
    with log.consumer("t", group="g") as consumer:
        consumer.poll()
        consumer.commit()
    stopped = topic.partition(0).leader
    log.brokers[stopped].stop()
    assert "no broker leads it" in shown(topic).text
    assert "1 partition without a leader" in shown(log).text
    assert f"of which {stopped} does not run" in shown(log).text
    shown(read)
    shown(log.group("g"))
    log.brokers[stopped].start()


def test_an_interrupt_is_no_error_of_what_is_shown(orders: Topic, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    read = orders.read()
    monkeypatch.setattr(PartitionFetcher, "take", interrupted)
    with pytest.raises(KeyboardInterrupt):
        read._repr_html_()
