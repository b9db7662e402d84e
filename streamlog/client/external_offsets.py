"""`external_offsets`: exactly once into a database of the user's, with offsets that are stored in its transactions.

A program that reads records and writes to a database has two places to keep in step: what it wrote, and how far it has
read. Here both are in the database and change in one transaction of the program's: `store` is one more statement of that
transaction, and `load` says where to read on. What the log's own groups have committed plays no part.

**The condition.** The row of a partition says: the effects of all records before `next_offset` are here, and no others.
`store` changes it from the offset before the record to the offset after it, by an UPDATE with the old offset in its WHERE
clause, or by an INSERT if there is no row yet. Two consumers that have the same record in hand, one of them a zombie, start
from the same offset. Only one of their transactions can commit: the UPDATE of the other one finds no row, its INSERT meets
the primary key, or the database raises an error of serialization. All isolation levels give this: no UPDATE overwrites a
row that another transaction has changed since the WHERE clause was evaluated.

**Rollbacks.** No driver says when a transaction is rolled back, perhaps to a savepoint. So the old offset is not "the last
one stored", but follows from the record: of the offsets that were loaded or stored here, the greatest at or before it. A
transaction that is repeated after a rollback stores the same records again, each from the offset it was stored from before.
A program that goes on as if nothing had been rolled back is refused, because the offset of the record before is not in the
database; otherwise that record's effect would be lost.

Rejected: an epoch in the table that each `load` raises, as Kafka's coordinator does for a transactional id. `load` would
write, and would fence nothing until the program commits; after a rollback two consumers would have the same epoch. And an
epoch does not refuse the record after one whose transaction was rolled back.
"""

from __future__ import annotations

import inspect
import re
import sys
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from typing import Any, NamedTuple, Protocol

from ..config import shown, text, typed
from ..errors import CommitFailedError, ConfigError
from ..runtime.values import refuse_to_copy
from ..types import Record, TopicPartition
from .arguments import LARGEST_OFFSET, partitions_of
from .consumer.record_batch import RecordBatch

_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}(\.[A-Za-z_][A-Za-z0-9_]{0,62})?")
# The known offset of a partition that has no row. It sorts before all offsets.
_NO_ROW = -1
# How many stored offsets of a partition are kept for a transaction that is repeated: at least this many.
_KEPT = 4096
# The largest number of a partition, as in Kafka: a signed integer of 32 bits, which every database's INTEGER holds.
_LARGEST_PARTITION = 2**31 - 1

# Names that no database reserves. A topic's name has at most 249 characters.
_CREATE = (
    "CREATE TABLE IF NOT EXISTS {table} (group_name VARCHAR(255) NOT NULL, topic VARCHAR(249) NOT NULL, "
    "topic_partition INTEGER NOT NULL, next_offset BIGINT NOT NULL, PRIMARY KEY (group_name, topic, topic_partition))"
)
_SELECT = (
    "SELECT topic_partition, next_offset FROM {table} WHERE group_name = :group_name AND topic = :topic "
    "AND topic_partition BETWEEN :first_partition AND :last_partition"
)
_INSERT = (
    "INSERT INTO {table} (group_name, topic, topic_partition, next_offset) "
    "VALUES (:group_name, :topic, :topic_partition, :next_offset)"
)
_UPDATE = (
    "UPDATE {table} SET next_offset = :next_offset WHERE group_name = :group_name AND topic = :topic "
    "AND topic_partition = :topic_partition AND next_offset = :known_offset"
)
_BY_WHOM = "another consumer has stored it, or this record is stored already"
# How a parameter is written in each of PEP 249's styles.
_MARKS = {
    "qmark": "?",
    "format": "%s",
    "numeric": ":{number}",
    "named": ":{name}",
    "pyformat": "%({name})s",
}


class Connection(Protocol):
    """What is used of a DB-API 2.0 connection (PEP 249)."""

    def cursor(self) -> Any: ...
    def commit(self) -> Any: ...
    def rollback(self) -> Any: ...


def external_offsets(connection: Connection, *, group: str, table: str = "streamlog_offsets") -> ExternalOffsets:
    """The offsets of a group in a database of yours, stored in your own transactions: exactly once into that database.

    `connection` is one of `sqlite3` or of any other DB-API 2.0 driver; it must not commit each statement by itself. `group`
    names the offsets, as the group of a consumer does. `table` is a plain SQL name, also `schema.table`; several groups share
    a table. `help(streamlog.ExternalOffsets)` says how it is used.

    Raises ConfigError for a connection that commits by itself (autocommit), for one that is no connection of a DB-API driver,
    and for a name that is none. A driver that does not say whether it is in autocommit is taken at PEP 249's word, by which it
    is not.

    >>> import sqlite3, streamlog
    >>> streamlog.external_offsets(sqlite3.connect(":memory:"), group="totals")
    <streamlog.ExternalOffsets group='totals' table='streamlog_offsets'>
    >>> streamlog.external_offsets(sqlite3.connect(":memory:", isolation_level=None), group="totals")
    Traceback (most recent call last):
    ...
    streamlog.errors.ConfigError: The connection commits each statement by itself (autocommit)...
    """
    return ExternalOffsets(connection, group, table)


class ExternalOffsets:
    """How far a group has read, in a table of the user's database. Made by `streamlog.external_offsets`.

    Each record has its effect once, whatever is killed or raised on the way: `load` says where to begin, and each transaction
    has what the program writes for some records, and a `store` of them, or of the last one of each partition.

    >>> import sqlite3, streamlog
    >>> database = sqlite3.connect(":memory:")
    >>> offsets = streamlog.external_offsets(database, group="totals")
    >>> with database:  # commits at the end, rolls back on an exception
    ...     offsets.create_table()
    ...     _ = database.execute("CREATE TABLE spent (customer PRIMARY KEY, cents DEFAULT 0)")
    >>> with streamlog.open() as log:
    ...     _ = log.create_topic("orders").send_many(["950", "2000", "325"], ["alice", "bob", "alice"])
    ...     with log.consumer() as consumer:
    ...         consumer.assign([("orders", 0)])
    ...         for partition, offset in offsets.load(consumer.assignment()).items():
    ...             consumer.seek(partition, offset)
    ...         for record in consumer.until_end():
    ...             with database:
    ...                 _ = database.execute("INSERT OR IGNORE INTO spent (customer) VALUES (?)", (record.key,))
    ...                 _ = database.execute(
    ...                     "UPDATE spent SET cents = cents + ? WHERE customer = ?", (int(record.value), record.key)
    ...                 )
    ...                 offsets.store(record)
    >>> database.execute("SELECT * FROM spent").fetchall()
    [(b'alice', 1275), (b'bob', 2000)]

    In a consumer group with `enable_auto_commit=False` the same happens in `RebalanceListener.on_partitions_assigned`: load
    the partitions that it is given, and seek. A partition without a row begins where the consumer would begin anyway.

    After CommitFailedError, and after any error of the database, roll back, `load` again and seek to what it returns; also
    after a commit of which it is not known whether it arrived. A transaction that was rolled back may instead be repeated
    with the same records and the same calls. Errors of the database are raised as they are.

    No call commits or rolls back. Like its connection, an object is for one thread at a time: each thread makes both for
    itself. Rows go by the name of the topic: when a topic is deleted and created anew, delete its rows, or use another group.
    A log without `sync=True` may lose its last records in a power loss, when the database still has their effects: call
    `log.sync()` before each commit where that matters.
    """

    __reduce_ex__ = refuse_to_copy  # a copy would not know what is stored through the other one

    def __init__(self, connection: Connection, group: str, table: str) -> None:
        """For the library's own use: see `streamlog.external_offsets`."""
        text("group", group)
        _require_utf8("group", group)
        if not isinstance(table, str) or _IDENTIFIER.fullmatch(table) is None:
            raise ConfigError(
                f"table={typed(table)} is not a plain SQL name: letters, digits and underscores, such as 'streamlog_offsets', "
                f"perhaps after a schema and a dot.",
                name="table",
            )
        style = _paramstyle(connection)
        _refuse_autocommit(connection)
        self._connection = connection
        self._group = group
        self._table = table
        self._select = _Statement.of(_SELECT, table, style)
        self._insert = _Statement.of(_INSERT, table, style)
        self._update = _Statement.of(_UPDATE, table, style)
        # Of each partition the offsets that its row had when it was loaded, and that were stored since; ascending.
        self._known: dict[TopicPartition, list[int]] = {}

    def create_table(self) -> None:
        """Create the table, if there is none. A part of the transaction, where the database has that for DDL: commit it.

        No other call changes the schema, so a program that makes its tables by other means leaves this one out. The columns
        are `group_name` and `topic` (text), `topic_partition` (integer), which together are the primary key, and
        `next_offset` (64-bit integer); all are NOT NULL. Text has to be compared exactly: choose a binary collation where the
        database ignores case, as MySQL does.
        """
        with closing(self._connection.cursor()) as cursor:
            cursor.execute(_CREATE.format(table=self._table))

    def load(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        """Where to go on reading, of the partitions that have a row: the NEXT offset of each, as `Consumer.seek` takes it.

        The calls of `store` that follow are conditional on it, so load a partition each time it is assigned. One SELECT per
        topic. With most drivers it begins a transaction: end that before a long wait.

        Raises ConfigError for what are no partitions, also for names and numbers that no topic has, and for a connection in
        autocommit.
        """
        wanted = partitions_of(partitions)
        _refuse_autocommit(self._connection)
        numbers: dict[str, list[int]] = {}
        for topic, number in wanted:
            _require_utf8("topic", topic)
            if not 0 <= number <= _LARGEST_PARTITION:
                raise ConfigError(f"{topic!r} has no partition {number}: they are numbered from 0.", name="partitions")
            numbers.setdefault(topic, []).append(number)
        found = {
            TopicPartition(topic, number): offset
            for topic, of_topic in numbers.items()
            for number, offset in self._rows(topic, min(of_topic), max(of_topic))
        }
        for name in wanted:
            offset = found.get(name, _NO_ROW)
            # Those before it stay: the row may hold what this transaction stored and may still be rolled back.
            self._known[name] = [known for known in self._known.get(name, ()) if known < offset] + [offset]
        return {name: found[name] for name in wanted if name in found}

    def store(self, record: Record[Any, Any] | RecordBatch[Any, Any]) -> None:
        """Store in the current transaction that a partition was handled through this record, or this whole batch.

        One UPDATE, or an INSERT for the first one of a partition; it is not committed here. The program has to write the
        effects of the record, and of all that it has read since the last one stored, in the same transaction.

        Raises CommitFailedError if the row is not as it was loaded, or stored since: another consumer has handled the record,
        or what was stored before was rolled back. Roll back then, because the record's effect is in the database already, or
        that of an earlier one is missing. Raises ConfigError for a partition that was not loaded.
        """
        if isinstance(record, Record):
            name, first, next_offset = record.topic_partition, record.offset, record.offset + 1
        elif isinstance(record, RecordBatch):
            name, first = TopicPartition(record.topic, record.partition), record.base_offset
            next_offset = record.next_offset
        else:
            raise ConfigError(f"store() takes a Record or a RecordBatch, not {typed(record)}.", name="record")
        if not (0 <= first < next_offset <= LARGEST_OFFSET):
            raise ConfigError(
                f"store() takes a record that was read from a log: {shown(first)} is not an offset of one.",
                name="record",
            )
        known = self._known.get(name)
        if known is None:
            raise ConfigError(
                f"{name.topic}-{name.partition} was not loaded: call load() with it when it is assigned, and seek to what it "
                f"returns. What is stored is conditional on what was loaded."
            )
        _refuse_autocommit(self._connection)
        at = bisect_right(known, first) - 1
        if at < 0:
            why = (
                f"the record is before {known[0]}, the first offset that is known here, so it is handled already, or more than "
                f"{_KEPT:,} were stored since the load; if the topic was created anew, or its log has lost its end, delete the row"
            )
            raise self._failed(name, next_offset, why)
        if known[at] == _NO_ROW:
            changed = self._insert_row(name, next_offset)
        else:
            changed = self._run(self._update, name, next_offset=next_offset, known_offset=known[at])
        if changed is None or changed < 0:
            raise ConfigError(
                "The driver does not say how many rows a statement has changed (cursor.rowcount), so that a consumer which has "
                "lost its partition could not be refused. Roll back, and use another driver.",
                name="connection",
            )
        if changed != 1:
            raise self._failed(name, next_offset, self._why_not(name, known[: at + 1]))
        known[at + 1 :] = [next_offset]
        if len(known) > 2 * _KEPT:
            del known[:-_KEPT]

    def _insert_row(self, name: TopicPartition, next_offset: int) -> Any:
        try:
            return self._run(self._insert, name, next_offset=next_offset)
        except Exception as error:
            # By the name that PEP 249 gives it: the driver's module is not always the one that has its errors.
            if all(kind.__name__ != "IntegrityError" for kind in type(error).__mro__):
                raise
            why = f"the database has an offset, and had none when it was loaded: {_BY_WHOM}"
            raise self._failed(name, next_offset, why) from error

    def _run(self, statement: _Statement, name: TopicPartition, **offsets: int) -> Any:
        """Execute a statement for one partition; how many rows it has changed, as the driver says."""
        values = {"group_name": self._group, "topic": name.topic, "topic_partition": name.partition, **offsets}
        with closing(self._connection.cursor()) as cursor:
            statement.execute(cursor, values)
            return cursor.rowcount

    def _why_not(self, name: TopicPartition, known: Sequence[int]) -> str:
        """Why no row has the last of the offsets that are known before a record."""
        *before, wanted = known
        there = dict(self._rows(name.topic, name.partition, name.partition)).get(name.partition, _NO_ROW)
        if there == wanted:  # by a snapshot that is older than the UPDATE
            return "another consumer has stored one since the transaction began"
        has = "no offset" if there == _NO_ROW else str(there)
        if there in before:
            return f"the database has {has}, because the transaction that stored {wanted} was rolled back"
        return f"the database has {has}, not {wanted}: {_BY_WHOM}"

    def _failed(self, name: TopicPartition, next_offset: int, why: str) -> CommitFailedError:
        return CommitFailedError(
            f"Offset {next_offset} of {name.topic}-{name.partition} was not stored for group {self._group!r}: {why}. Roll "
            f"back, call load() again, and seek to what it returns."
        )

    def _rows(self, topic: str, first: int, last: int) -> list[tuple[int, int]]:
        """Partition and next offset of the rows of a topic, from partition `first` to `last`."""
        values = {"group_name": self._group, "topic": topic, "first_partition": first, "last_partition": last}
        with closing(self._connection.cursor()) as cursor:
            self._select.execute(cursor, values)
            rows = cursor.fetchall()
        return [_two_ints(row) for row in rows]

    def __repr__(self) -> str:
        return f"<streamlog.ExternalOffsets group={self._group!r} table={self._table!r}>"


class _Statement(NamedTuple):
    """A statement in a driver's paramstyle, and the names of its parameters in their order."""

    sql: str
    names: tuple[str, ...]
    by_name: bool

    @classmethod
    def of(cls, template: str, table: str, style: str) -> _Statement:
        """From a template with `{table}` and parameters such as `:topic`, each of which is there once."""
        names: list[str] = []

        def mark(found: re.Match[str]) -> str:
            names.append(found[1])
            return _MARKS[style].format(name=found[1], number=len(names))

        sql = re.sub(r":(\w+)", mark, template.format(table=table))
        return cls(sql, tuple(names), style in ("named", "pyformat"))

    def execute(self, cursor: Any, values: Mapping[str, Any]) -> None:
        if self.by_name:
            cursor.execute(self.sql, {name: values[name] for name in self.names})
        else:
            cursor.execute(self.sql, tuple(values[name] for name in self.names))


def _require_utf8(name: str, value: str) -> None:
    """Raise ConfigError for a text that no database stores: one with half of a surrogate pair, as of a file's name."""
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ConfigError(f"{name}={shown(value)} cannot be stored in a database: {error}.", name=name) from None


def _two_ints(row: Any) -> tuple[int, int]:
    """The columns of a row, which is a sequence, or a mapping in the order of the columns where the program asked for that."""
    partition, offset = row.values() if isinstance(row, Mapping) else row
    return int(partition), int(offset)


def _paramstyle(connection: Any) -> str:
    """The `paramstyle` of the driver's module, found by the classes of the connection. Raises ConfigError."""
    methods = [getattr(connection, name, None) for name in ("cursor", "commit", "rollback")]
    if isinstance(connection, type) or not all(callable(method) for method in methods):
        raise ConfigError(
            f"connection={typed(connection)} is no DB-API connection, such as sqlite3.connect(path) returns: it needs "
            f"cursor(), commit() and rollback(). Of SQLAlchemy it is connection.connection.dbapi_connection.",
            name="connection",
        )
    if any(inspect.iscoroutinefunction(method) for method in methods):
        raise ConfigError(
            f"connection={typed(connection)} is used with `await`: give a connection whose methods are plain ones.",
            name="connection",
        )
    for kind in type(connection).__mro__:
        module = kind.__module__
        while module:
            style = getattr(sys.modules.get(module), "paramstyle", None)
            if style in _MARKS:
                return str(style)
            module = module.rpartition(".")[0]
    raise ConfigError(
        f"The driver of connection={shown(connection)} is not known: neither the module {type(connection).__module__!r} nor "
        f"one above it has a `paramstyle` (PEP 249). Give the driver's own connection, not an object around it.",
        name="connection",
    )


def _refuse_autocommit(connection: Any) -> None:
    """Raise ConfigError for a connection that commits each statement by itself, as far as it can be known.

    psycopg, pyodbc, oracledb and others have an attribute `autocommit`; PyMySQL and mysqlclient a method of this name, and
    `get_autocommit()`. The `autocommit` of sqlite3, from Python 3.12 on, is -1 by default: then `isolation_level` counts.
    """
    mode = getattr(connection, "autocommit", None)
    if callable(mode):
        asked = getattr(connection, "get_autocommit", None)
        mode = asked() if callable(asked) else None
    is_sqlite = hasattr(connection, "total_changes")  # `isolation_level` is None by default elsewhere
    if is_sqlite and mode in (None, -1):
        mode = connection.isolation_level is None
    if mode is not None and mode == 1:
        how = (
            "sqlite3.connect(path), without isolation_level=None and without autocommit=True"
            if is_sqlite
            else "its driver's connect() with autocommit off, or set it off before the transaction begins"
        )
        raise ConfigError(
            f"The connection commits each statement by itself (autocommit), so an offset could not be stored in one "
            f"transaction with what the program writes. Make it by {how}.",
            name="connection",
        )
