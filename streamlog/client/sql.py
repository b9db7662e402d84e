"""SQL over the topics of a log: the state that its queries share, and what a query gives."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from ..config import typed
from ..errors import ConfigError, SerializationError, message_of
from ..runtime.threads import inside, new_lock
from ..runtime.values import refuse_to_copy
from . import extras
from .arguments import to_ms
from .handle import Parent
from .topic import Topic

if TYPE_CHECKING:
    import pandas
    import polars
    import pyarrow

_SHOWN = 10  # rows in the repr of a result
_WIDTH = 500  # characters of a row in it
_SENT = 10_000  # rows that are sent together


class Queries:
    """What the queries of a log share: the handles with a schema, and the database that runs them. Thread-safe."""

    __reduce_ex__ = refuse_to_copy

    def __init__(self) -> None:
        self._with_schema: dict[str, Topic[Any, Any]] = {}
        self._database: Any = None
        self._lock = new_lock()

    def note(self, topic: Topic[Any, Any]) -> None:
        """From now on its topic is read with the schema of this handle."""
        self._with_schema[topic.name] = topic

    def run(self, log: Parent, query: str, tables: Mapping[str, Any] | None) -> SqlResult:
        """Run one SELECT; see `StreamLog.sql`."""
        sql = extras.sql()
        topics = {name: partial(self._handle, log, name) for name in log._use().image.topics}
        with inside(), self._lock:
            if self._database is None:
                self._database = sql.Database()
            database = self._database
        try:
            return SqlResult(database.query(query, topics, tables))
        except Exception:
            log._use()  # ClosedError, if that interrupted the query
            raise

    def close(self) -> None:
        """Let go of the database, whose threads would be there at the exit of the interpreter. Does nothing without one."""
        with inside(), self._lock:
            database, self._database = self._database, None
        if database is not None:
            database.close()

    def _handle(self, log: Parent, name: str) -> Topic[Any, Any]:
        """The handle by which a topic is read: the last one with a schema, if there is one."""
        topic: Topic[Any, Any] = Topic(log, name)
        found = self._with_schema.get(name)
        return topic if found is None or found.id != topic.id else found


class SqlResult:
    """The rows of a query, as a table in memory. Immutable.

    `fetchall()` gives tuples; `to_arrow`, `to_pandas` and `to_polars` tables; programs that take Arrow's data take it as it is.
    `len(result)` is the number of rows, `columns` their names; it iterates to tuples.

    >>> import streamlog
    >>> with streamlog.open() as log:
    ...     orders = log.create_topic("orders")
    ...     _ = orders.send_many(["9.50", "20.00"], ["alice", "bob"])
    ...     log.sql("SELECT key, count(*) AS n FROM orders GROUP BY key ORDER BY key").fetchall()
    [(b'alice', 1), (b'bob', 1)]
    """

    __slots__ = ("_table",)

    def __init__(self, table: pyarrow.Table) -> None:
        """For the library's own use."""
        self._table = table

    @property
    def columns(self) -> list[str]:
        """The names of the columns."""
        return list(self._table.column_names)

    def fetchall(self) -> list[tuple[Any, ...]]:
        """All rows as tuples."""
        return list(self)

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        for batch in self._table.to_batches():
            yield from zip(*[column.to_pylist() for column in batch.columns], strict=True)

    def __len__(self) -> int:
        """How many rows there are."""
        count: int = self._table.num_rows
        return count

    def to_arrow(self) -> pyarrow.Table:
        """The rows as a table of Arrow."""
        return self._table

    def to_pandas(self) -> pandas.DataFrame:
        """The rows as a data frame of pandas, which has to be installed."""
        extras.pandas()
        frame: pandas.DataFrame = self._table.to_pandas()
        return frame

    def to_polars(self) -> polars.DataFrame:
        """The rows as a data frame of polars, which has to be installed."""
        frame: polars.DataFrame = extras.polars().DataFrame(self._table)
        return frame

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        """For programs that take data of Arrow (the PyCapsule interface)."""
        stream: object = self._table.__arrow_c_stream__(requested_schema)
        return stream

    def send(self, topic: Topic[Any, Any]) -> None:
        """Send each row as a record, which are in the log on return: all of them, or, if it raises, the first ones.

        If a column is called `value`, it is the value; and if there are `key` and `timestamp`, they are those of the record, and no
        other column is left out in silence: ConfigError. Without a `value` the value is the whole row: a mapping from the
        names of the columns for the serde of the topic, and without a serde JSON.
        """
        names = self.columns
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ConfigError(
                f"The rows have {twice[0]!r} twice, and a record takes each name once. Name the columns apart: SELECT … AS ….",
                name="into",
            )
        if "value" in names:
            others = sorted(set(names) - {"key", "value", "timestamp"})
            if others:
                raise ConfigError(
                    f"The rows have a column value, so they are sent as records of key, value and timestamp, and {others[0]!r} is none "
                    f"of them. Leave it out, or give value another name to send whole rows.",
                    name="into",
                )
        with_serde = topic._value_serde is not None
        for batch in self._table.to_batches(max_chunksize=_SENT):
            columns = {name: batch.column(name).to_pylist() for name in names}
            if "value" in names:
                values: Sequence[Any] = columns["value"]
            else:
                rows = [dict(zip(names, row, strict=True)) for row in zip(*columns.values(), strict=True)]
                values = rows if with_serde else [_json_of(row) for row in rows]
            times: list[Any] | None = None
            if "value" in names and "timestamp" in names:
                times = [None if time is None else to_ms(time) for time in columns["timestamp"]]
            keys = columns["key"] if "value" in names and "key" in names else None
            topic.send_many(values, keys, timestamps_ms=times).result()

    def _repr_html_(self) -> str:
        """For notebooks: a table of the first rows, with the type of each column. It raises nothing."""
        html: str = extras.notebook().of_sql_result(self)
        return html

    def __repr__(self) -> str:
        """The names of the columns, and the first rows."""
        first = SqlResult(self._table.slice(0, _SHOWN))
        rows = [text if len(text) <= _WIDTH else f"{text[:_WIDTH]}…" for text in map(repr, first)]
        more = len(self) - len(rows)
        count = f"{len(self)} {'row' if len(self) == 1 else 'rows'}"
        shown = "\n".join(
            [f"<streamlog.SqlResult: {count} of {', '.join(self.columns)}", *(f"  {row}" for row in rows)]
        )
        return f"{shown}\n  … and {more} more>" if more > 0 else f"{shown}>"


def _json_of(row: Mapping[str, Any]) -> str:
    """A row as JSON: times as text in ISO 8601, decimals as text, bytes as the text that they are in UTF-8.

    Raises SerializationError for what JSON has not: NaN, infinities, other bytes.
    """
    try:
        return json.dumps(row, ensure_ascii=False, separators=(",", ":"), default=_as_text, allow_nan=False)
    except ValueError as error:
        name = next(name for name, value in row.items() if not _fits_json(value))
        raise SerializationError(
            f"A row is not JSON: its {name!r} is {typed(row[name])} ({message_of(error)}). Nothing more was sent. Convert it in the "
            f"query, as encode and hex do for bytes and nullif for NaN, or give into= a topic with a value_serde that takes it."
        ) from error


def _fits_json(value: Any) -> bool:
    try:
        json.dumps(value, default=_as_text, allow_nan=False)
    except ValueError:
        return False
    return True


def _as_text(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode("utf-8")
    if hasattr(value, "isoformat"):
        text: str = value.isoformat()
        return text
    return str(value)
