"""SQL over topics: `log.sql`. Extra `sql`: duckdb.

DuckDB reads a topic as a dataset of pyarrow, which is asked for the columns of a query and for the rows that pass its filter. So only
those columns are decoded, and partitions, offsets and times that cannot pass are not read.

A query reads the topics and tables that it names, and nothing else: the database is in memory, has no access to files and loads no
extension; its settings are locked; a call is one SELECT.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

import duckdb
import pyarrow as pa
import pyarrow.dataset

from ..client.bounded_read import BoundedRead
from ..client.topic import Topic
from ..config import typed
from ..errors import ConfigError, UnknownTopicOrPartitionError, did_you_mean
from ..runtime.api import Completion
from ..runtime.disk import unused_temporary_path
from ..runtime.threads import inside, new_lock, new_thread, start_thread, wait_for
from .columns import NAMES
from .export import Layout, batches
from .prune import prune

T = TypeVar("T")
INTERRUPTED_S = 10.0
"""How long a query that was interrupted may take to end."""
INTERRUPTS = 100
"""How often it is interrupted in that time when the log is closed."""
MEMORY_LIMIT = "2GiB"
TEMPORARY_LIMIT = "8GiB"
_NEAR = re.compile(r'near "(\w+)"')
_WORD = re.compile(r"[A-Za-z_]\w*")
_OFFSET = re.compile(r'(?<![\w."])offset(?![\w"])(?!\s+[\d?$(])', re.IGNORECASE)  # not that of LIMIT 5 OFFSET 10
_NO_FIELD = re.compile(r"not found in FROM clause|Cannot extract field|does not have a column named")
_UNKNOWN_TABLE = re.compile(r"Table with name (.+) does not exist")


class Database:
    """A private database in memory, for the queries of one log. Thread-safe: each query has a connection of its own."""

    def __init__(self) -> None:
        self._lock = new_lock()
        self._running: dict[Any, Completion[None]] = {}
        self._is_closed = False
        self._connection = duckdb.connect(
            ":memory:",
            config={
                "enable_external_access": "false",
                "autoinstall_known_extensions": "false",
                "autoload_known_extensions": "false",
                "allow_community_extensions": "false",
                "python_enable_replacements": "false",
                "memory_limit": MEMORY_LIMIT,
                "temp_directory": unused_temporary_path(),
                "max_temp_directory_size": TEMPORARY_LIMIT,
            },
        )
        # As everywhere, a time without a zone is one of UTC: the default is the zone of the machine.
        self._connection.execute("SET GLOBAL TimeZone = 'UTC'")
        self._connection.execute("SET lock_configuration = true")

    def close(self) -> None:
        """Close it, and interrupt the queries that run. One that does not end in time closes the database when it does."""
        with inside(), self._lock:
            self._is_closed = True
            running = list(self._running.items())
        for connection, ended in running:
            for _ in range(INTERRUPTS):  # one that comes just before the query begins is forgotten
                with suppress(duckdb.Error):  # it has ended
                    connection.interrupt()
                if wait_for(ended, INTERRUPTED_S / INTERRUPTS):
                    break
        self._close_unused()

    def _begin(self) -> Any:
        """A connection of its own for a query."""
        with inside(), self._lock:
            connection = self._connection.cursor()
            self._running[connection] = Completion()
            return connection

    def _end(self, connection: Any) -> None:
        """The query of this connection has ended."""
        with suppress(duckdb.Error):  # busy, if an interrupt did not end it in time: it ends with its thread
            connection.close()
        with inside(), self._lock:
            ended = self._running.pop(connection)
        self._close_unused()
        ended.complete(None)

    def _close_unused(self) -> None:
        with inside(), self._lock:
            if self._is_closed and not self._running:
                self._connection.close()

    def query(self, text: str, topics: Mapping[str, Any], given: Mapping[str, Any] | None) -> pa.Table:
        """Run a SELECT over topics and tables: see `sources_of`. Raises ConfigError if it is anything else, what DuckDB raises, and what reading a topic does."""
        if not isinstance(text, str):
            raise ConfigError(f"log.sql takes one SELECT as text, not {typed(text)}.", name="query")
        connection = self._begin()
        sources: dict[str, Any] = {}
        try:
            require_one_select(connection, text)
            sources = sources_of(reads(connection, text), topics, given)

            def run() -> pa.Table:
                if self._is_closed:
                    raise duckdb.InterruptException("The log was closed.")
                for name, source in sources.items():
                    connection.register(name, source)
                # The database is shared: what EXPLAIN ANALYZE or a WITH would make or change in it is refused.
                connection.execute("BEGIN TRANSACTION READ ONLY")
                rows = connection.sql(text)
                return with_integers(pa.table(rows), [str(kind) for kind in rows.types])

            return _beside(run, connection.interrupt)
        except duckdb.CatalogException as error:
            unknown = _UNKNOWN_TABLE.search(str(error))
            if unknown is None:
                raise
            name = unknown[1]
            raise UnknownTopicOrPartitionError(
                f"There is no topic or table {name!r}{did_you_mean(name, [*topics, *sources])}. log.sql reads topics of this log, and "
                f"tables that it is given by name, such as tables={{{name!r}: data_frame}}."
                + "".join(f" {hint}" for hint in hints(error, text, topics, sources)),
                topic=name,
            ) from error
        except BaseException as error:
            for table in sources.values():
                if isinstance(table, TopicTable) and table.error is not None and table.error is not error:
                    raise table.error from None
            if isinstance(error, duckdb.Error):
                for hint in hints(error, text, topics, sources):
                    error.add_note(hint)
            raise
        finally:
            self._end(connection)


def _beside(work: Callable[[], T], interrupt: Callable[[], object]) -> T:
    """Do it on another thread, and interrupt it if a signal handler raises here meanwhile.

    DuckDB, on the thread that signals come to, makes another error of what their handlers raise.
    """
    done: Completion[T] = Completion()

    def run() -> None:
        try:
            made = work()
        except BaseException as error:
            done.fail(error)
        else:
            done.complete(made)

    start_thread(new_thread(run, "streamlog-sql", daemon=True))
    try:
        wait_for(done, None)
    except BaseException:
        interrupt()
        wait_for(done, INTERRUPTED_S)
        raise
    return done.result()


def require_one_select(connection: Any, text: str) -> None:
    """Raise ConfigError if the text is not one SELECT."""
    statements = connection.extract_statements(text)
    if len(statements) != 1:
        raise ConfigError(
            f"log.sql takes one SELECT; this has {len(statements)} statements. Call it once for each.", name="query"
        )
    kind = statements[0].type
    if kind not in (duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN):
        raise ConfigError(
            f"log.sql takes one SELECT, not {kind.name}: it only reads. To send the rows of a query to a topic, give "
            f"log.sql(query, into=topic).",
            name="query",
        )


def hints(error: Exception, text: str, topics: Iterable[str], sources: Mapping[str, Any]) -> list[str]:
    """What to do about an error of DuckDB, where that is known: it knows nothing of topics and their handles."""
    if isinstance(error, duckdb.PermissionException):
        return [
            "log.sql reads topics, and no files. Give what is in the file as a table: "
            "tables={'name': pandas.read_csv(path)}."
        ]
    if isinstance(error, duckdb.BinderException) and _NO_FIELD.search(str(error)):
        return [
            f"The values of {name} are bytes here. Of JSON, log.topic({name!r}, value_serde=streamlog.serde.json, schema='infer') makes "
            f"columns; after it, run the query again."
            for name, source in sources.items()
            if isinstance(source, TopicTable) and source.has_no_fields()
        ]
    found: list[str] = []
    near = _NEAR.search(str(error))
    if isinstance(error, duckdb.ParserException) and _OFFSET.search(text):
        found.append('The column offset is written in quotes, since SQL has a word of that name: "offset".')
    for name in topics:
        is_word = near is not None and near[1].lower() == name.lower()
        if is_word or (
            not _WORD.fullmatch(name) and re.search(rf'(?<![\w."-]){re.escape(name)}(?![\w."-])', text, re.I)
        ):
            found.append(f'The name of the topic {name} is written in quotes: "{name}".')
    return found


def with_integers(rows: pa.Table, kinds: Sequence[str]) -> pa.Table:
    """The rows, with the integers of 128 bits that DuckDB's sums are as int64, if they fit: Arrow has them as decimals only."""
    for at, kind in enumerate(kinds):
        if kind == "HUGEINT":
            try:
                column = rows.column(at).cast(pa.int64())
            except pa.ArrowInvalid:  # one does not fit
                continue
            rows = rows.set_column(at, rows.field(at).with_type(pa.int64()), column)
    return rows


def reads(connection: Any, text: str) -> Callable[[str], bool]:
    """Whether a SELECT may read the table with a name in small letters."""
    try:
        return {each.lower() for each in connection.get_table_names(text)}.__contains__
    except duckdb.BinderException:  # JOIN … USING needs to know the columns: all names that the text has anywhere
        lower = text.lower()
        return lambda name: name in lower and re.search(rf"(?<!\w){re.escape(name)}(?!\w)", lower) is not None


def sources_of(
    is_read: Callable[[str], bool], topics: Mapping[str, Any], tables: Mapping[str, Any] | None
) -> dict[str, Any]:
    """The topics that a query reads, and the given tables. Names differ in more than case.

    No other topic is looked at: it may have a partition without a leader. `topics`: by name, what gives the handle on the topic.
    Raises ConfigError.
    """
    given = {} if tables is None else tables
    if not isinstance(given, Mapping):
        raise ConfigError(f"tables is a mapping from names to tables, not {typed(tables)}.", name="tables")
    found: dict[str, Any] = {}
    names: dict[str, str] = {}
    for name, table in given.items():
        if not isinstance(name, str) or not name:
            raise ConfigError(f"tables has the name {typed(name)}; a table's name is a str.", name="tables")
        if name.lower() in names:
            raise ConfigError(
                f"tables has {names[name.lower()]!r} and {name!r}, which SQL does not tell apart.", name="tables"
            )
        names[name.lower()] = name
        found[name] = TopicTable(table._bounded) if isinstance(table, Topic) else _checked(name, table)
    of_tables = frozenset(names)
    for name, topic in topics.items():
        key = name.lower()
        if key in of_tables or not is_read(key):
            continue
        if key in names:
            raise ConfigError(
                f"The topics {names[key]!r} and {name!r} differ only in case, and SQL does not tell them apart; say which one is meant: "
                f"log.sql(…, tables={{{name!r}: log[{name!r}]}}).",
                name="query",
            )
        names[key] = name
        found[name] = TopicTable(topic()._bounded)
    return found


def _checked(name: str, table: Any) -> Any:
    if isinstance(table, (str, bytes, int, float, Mapping, list, tuple)) or table is None:
        raise ConfigError(
            f"tables[{name!r}] is {typed(table)}; give a topic, a data frame, or what else has data of Arrow, such as "
            f"pandas.DataFrame(…) or topic.head().to_arrow().",
            name="tables",
        )
    if hasattr(table, "__arrow_c_stream__") and not isinstance(table, (pa.Table, pa.RecordBatch)):
        return pa.table(table) if type(table).__module__.startswith("streamlog") else table
    return table


class TopicTable(pyarrow.dataset.Dataset):  # type: ignore[misc]  # pyarrow has no types
    """A topic as DuckDB reads it. It is never handed out: what it inherits from Dataset ends the interpreter, as there is none inside.

    The records are those that there are when it is first asked for its schema.
    """

    def __init__(self, bounded: Any) -> None:
        self._bounded = bounded
        self._read: BoundedRead | None = None
        self._layout: Layout | None = None
        self.error: BaseException | None = None

    def _opened(self) -> tuple[BoundedRead, Layout]:
        if self._read is None or self._layout is None:
            self._read = self._bounded()
            self._layout = Layout(self._read)
        return self._read, self._layout

    @property
    def schema(self) -> pa.Schema:
        with self._noted():
            return self._opened()[1].schema

    @contextmanager
    def _noted(self) -> Iterator[None]:
        """Keep what is raised: DuckDB makes a text of it."""
        try:
            yield
        except BaseException as error:
            if not isinstance(error, GeneratorExit):
                self.error = error
            raise

    def has_no_fields(self) -> bool:
        """Whether it was read, and has the columns of every topic only."""
        return self._layout is not None and self._layout.schema.names == list(NAMES)

    def scanner(self, columns: Sequence[str] | None = None, filter: Any = None, **_: Any) -> _Scanner:
        return _Scanner(self, columns, filter)

    def batches(self, schema: pa.Schema, filter: Any) -> Iterator[pa.RecordBatch]:
        """The rows that pass the filter, as DuckDB takes them."""
        with self._noted():
            read, layout = self._opened()
            if filter is None:
                yield from batches(read, layout, schema)
                return
            needed = layout.select(list(dict.fromkeys([*schema.names, *columns_of(filter, layout.schema)])))
            for batch in batches(prune(read, filter, layout.schema), layout, needed):
                found = batch.filter(filter)
                if len(found):
                    yield found.select(schema.names)


class _Scanner:
    """One scan of a topic, for these columns and rows."""

    def __init__(self, table: TopicTable, columns: Sequence[str] | None, filter: Any) -> None:
        self._table = table
        schema = table.schema
        self.projected_schema = schema if columns is None else pa.schema([schema.field(name) for name in columns])
        self._filter = filter

    def to_reader(self) -> pa.RecordBatchReader:
        return pa.RecordBatchReader.from_batches(
            self.projected_schema, self._table.batches(self.projected_schema, self._filter)
        )


def columns_of(filter: Any, schema: pa.Schema) -> list[str]:
    """The columns that a filter needs: those without which it cannot be evaluated."""
    text = str(filter)
    return [name for name in schema.names if name in text]
