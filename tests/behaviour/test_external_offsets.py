"""Exactly once into a database of the user's: offsets that are stored in its own transactions."""

from __future__ import annotations

import copy
import pickle
import random
import re
import sqlite3
import subprocess
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import streamlog
from streamlog import CommitFailedError, ConfigError, ExternalOffsets, Record, TopicPartition

P0, P1 = TopicPartition("orders", 0), TopicPartition("orders", 1)


def record(offset: int, partition: int = 0, topic: str = "orders") -> Record[Any, Any]:
    return Record(topic, partition, offset, 1_000, None, b"9.50", ())


def offsets_of(connection: Any, group: str = "totals", **options: Any) -> ExternalOffsets:
    return streamlog.external_offsets(connection, group=group, **options)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A database with the table of offsets, and one for effects in which a number may stand twice."""
    path = tmp_path / "database"
    with connected(path) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        offsets_of(connection).create_table()
        connection.execute("CREATE TABLE effects (record INTEGER)")
    connection.close()
    return path


def connected(path: Path) -> sqlite3.Connection:
    """A connection that does not wait for a lock: two of them are used by turns in one thread."""
    return sqlite3.connect(path, timeout=0)


@pytest.fixture
def connect(path: Path) -> Iterator[Callable[[], sqlite3.Connection]]:
    made: list[sqlite3.Connection] = []

    def connect() -> sqlite3.Connection:
        made.append(connected(path))
        return made[-1]

    yield connect
    for connection in made:
        connection.close()


@pytest.fixture
def connection(connect: Callable[[], sqlite3.Connection]) -> sqlite3.Connection:
    return connect()


# -- storing and loading ---------------------------------------------------------------------------------


def test_a_partition_that_was_never_stored_has_no_offset(connection: sqlite3.Connection) -> None:
    assert offsets_of(connection).load([P0, P1]) == {}


def test_what_was_stored_is_loaded_as_the_next_offset(connection: sqlite3.Connection) -> None:
    offsets = offsets_of(connection)
    offsets.load([P0, ("orders", 1)])  # type: ignore[list-item]
    with connection:
        offsets.store(record(6))
        offsets.store(record(2, partition=1))
    with connection:
        offsets.store(record(7))
    assert offsets_of(connection).load([P1, P0]) == {P0: 8, P1: 3}


def test_only_the_partitions_that_are_asked_for_are_loaded(connection: sqlite3.Connection) -> None:
    offsets = offsets_of(connection)
    names = [TopicPartition(topic, number) for topic in ("orders", "clicks") for number in range(4)]
    offsets.load(names)
    with connection:
        for topic, number in names:
            offsets.store(record(number, number, topic))
    wanted = [TopicPartition("orders", 3), TopicPartition("clicks", 2), TopicPartition("orders", 1)]
    assert offsets.load(wanted) == {name: name.partition + 1 for name in wanted}
    assert list(offsets.load(wanted)) == wanted
    assert offsets.load(name for name in wanted) == offsets.load(set(wanted))
    assert offsets.load([]) == {}


def test_groups_and_tables_are_apart(connection: sqlite3.Connection) -> None:
    with connection:
        offsets_of(connection, table="main.of_my_own").create_table()
        made = [offsets_of(connection), offsets_of(connection, "other"), offsets_of(connection, table="of_my_own")]
        for number, offsets in enumerate(made):
            assert offsets.load([P0]) == {}
            offsets.store(record(number))
    assert [offsets.load([P0]) for offsets in made] == [{P0: 1}, {P0: 2}, {P0: 3}]


def test_nothing_is_committed_and_nothing_created_but_by_create_table(
    path: Path, connection: sqlite3.Connection
) -> None:
    statements: list[str] = []
    connection.set_trace_callback(statements.append)
    offsets = offsets_of(connection)
    offsets.load([P0])
    offsets.store(record(0))
    offsets.store(record(1))
    assert [statement.split()[0] for statement in statements] == ["SELECT", "BEGIN", "INSERT", "UPDATE"]
    connection.rollback()
    assert offsets_of(connected(path)).load([P0]) == {}
    del statements[:]
    offsets.create_table()
    offsets.create_table()  # there is one
    assert [statement.split()[0] for statement in statements] == ["CREATE", "CREATE"]


def test_a_batch_is_stored_through_its_end(connection: sqlite3.Connection) -> None:
    offsets = offsets_of(connection)
    offsets.load([P0])
    with streamlog.open() as log:
        orders = log.create_topic("orders", cleanup_policy="compact")
        orders.send_many(["1", "2", "3"], ["a", "b", "c"])
        orders.send_many(["4", "5"], ["b", "c"])
        orders.compact()
        first, second = orders.read_batches()
        assert (first.last_offset, first.next_offset) == (0, 3)
        with connection:
            offsets.store(first)
        assert offsets.load([P0]) == {P0: 3}
        with pytest.raises(CommitFailedError, match="stored already"):
            offsets.store(first)
        with connection:
            offsets.store(second)
        assert offsets.load([P0]) == {P0: 5}


def test_a_batch_replaces_what_was_stored_of_its_records_before_a_rollback(connection: sqlite3.Connection) -> None:
    offsets = offsets_of(connection)
    offsets.load([P0])
    with streamlog.open() as log:
        orders = log.create_topic("orders")
        orders.send_many(["1", "2", "3"])
        orders.send_many(["4", "5", "6"])
        for each in orders.read():
            offsets.store(each)
        connection.rollback()
        with connection:
            offsets.store(next(iter(orders.read_batches())))
            offsets.store(list(orders.read())[-1])
    assert offsets.load([P0]) == {P0: 6}


@pytest.mark.parametrize("factory", [sqlite3.Row, lambda cursor, row: dict(zip([c[0] for c in cursor.description], row, strict=True))])  # fmt: skip
def test_rows_may_be_what_the_program_wants_them_to_be(connection: sqlite3.Connection, factory: Any) -> None:
    connection.row_factory = factory
    offsets = offsets_of(connection)
    offsets.load([P0])
    offsets.store(record(4))
    assert offsets.load([P0]) == {P0: 5}


# -- the condition ---------------------------------------------------------------------------------------


def test_a_zombie_overwrites_nothing(connect: Callable[[], sqlite3.Connection]) -> None:
    old, new = connect(), connect()
    zombie, owner = offsets_of(old), offsets_of(new)
    zombie.load([P0])
    with old:
        zombie.store(record(0))
    assert owner.load([P0]) == {P0: 1}
    with new:
        owner.store(record(1))
    with pytest.raises(CommitFailedError, match=r"the database has 2, not 1: another consumer.*load\(\) again") as failed, old:  # fmt: skip
        zombie.store(record(1))
    assert not failed.value.retriable
    with pytest.raises(CommitFailedError), old:
        zombie.store(record(2))
    assert zombie.load([P0]) == {P0: 2}
    with old:
        zombie.store(record(2))
    assert owner.load([P0]) == {P0: 3}


def test_of_two_that_store_a_partition_for_the_first_time_one_fails(connect: Callable[[], sqlite3.Connection]) -> None:
    old, new = connect(), connect()
    zombie, owner = offsets_of(old), offsets_of(new)
    assert zombie.load([P0]) == owner.load([P0]) == {}
    with new:
        owner.store(record(0))
    with pytest.raises(CommitFailedError, match="had none when it was loaded") as failed, old:
        zombie.store(record(4))
    assert isinstance(failed.value.__cause__, sqlite3.IntegrityError)
    assert zombie.load([P0]) == {P0: 1}


def test_a_record_that_is_stored_already_is_refused(connection: sqlite3.Connection) -> None:
    offsets = offsets_of(connection)
    offsets.load([P0])
    for _ in range(2):  # in the transaction, and after it
        with connection:
            if not offsets.load([P0]):
                offsets.store(record(0))
                offsets.store(record(1))
            for offset in (0, 1):
                with pytest.raises(CommitFailedError):
                    offsets.store(record(offset))
    assert offsets.load([P0]) == {P0: 2}


def test_a_record_before_what_was_loaded_is_refused(connection: sqlite3.Connection) -> None:
    offsets = offsets_of(connection)
    offsets.load([P0])
    offsets.store(record(9))
    connection.commit()
    again = offsets_of(connection)
    assert again.load([P0]) == {P0: 10}
    with pytest.raises(CommitFailedError, match="before 10"):
        again.store(record(9))


def test_a_partition_that_was_not_loaded_is_refused(connection: sqlite3.Connection) -> None:
    offsets = offsets_of(connection)
    offsets.load([P0])
    with pytest.raises(ConfigError, match=r"orders-1 was not loaded: call load\(\)"):
        offsets.store(record(0, partition=1))


@pytest.mark.parametrize("offset", [2**63 - 1, 2**63, -1])
def test_a_record_with_an_offset_that_no_log_has_is_refused(connection: sqlite3.Connection, offset: int) -> None:
    offsets = offsets_of(connection)
    offsets.load([P0])
    with pytest.raises(ConfigError, match=f"{offset!r} is not an offset of one"):
        offsets.store(record(offset))
    offsets.store(record(2**63 - 2))
    assert offsets.load([P0]) == {P0: 2**63 - 1}


def test_a_name_that_is_no_utf8_is_refused_before_a_statement(connection: sqlite3.Connection) -> None:
    with pytest.raises(ConfigError, match=r"group='a\\ud800' cannot be stored in a database"):
        offsets_of(connection, group="a\ud800")
    offsets = offsets_of(connection, group="naïve 😀")
    with pytest.raises(ConfigError, match=r"topic='a\\ud800' cannot be stored in a database"):
        offsets.load([P0, TopicPartition("a\ud800", 0)])
    with pytest.raises(ConfigError, match="was not loaded"):
        offsets.store(record(0))
    offsets.load([P0])
    offsets.store(record(0))
    assert offsets.load([P0]) == {P0: 1}


@pytest.mark.parametrize("number", [-1, 2**31, 2**63])
def test_a_number_that_no_partition_has_is_refused(connection: sqlite3.Connection, number: int) -> None:
    with pytest.raises(ConfigError, match=f"has no partition {number}"):
        offsets_of(connection).load([TopicPartition("orders", number)])


def test_what_another_program_did_to_the_table_is_seen(connection: sqlite3.Connection) -> None:
    offsets = offsets_of(connection)
    offsets.load([P0])
    with connection:
        offsets.store(record(4))
        connection.execute("DELETE FROM streamlog_offsets")  # the program wants to handle everything again
    with pytest.raises(CommitFailedError, match="has no offset"):
        offsets.store(record(5))
    assert offsets.load([P0]) == {}
    with connection:
        offsets.store(record(0))
    assert offsets.load([P0]) == {P0: 1}


# -- rollbacks -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stored_before", [False, True])
def test_a_transaction_that_was_rolled_back_can_be_repeated(
    connection: sqlite3.Connection, stored_before: bool
) -> None:
    offsets = offsets_of(connection)
    offsets.load([P0])
    if stored_before:
        with connection:
            offsets.store(record(0))
    for _ in range(3):
        for offset in (1, 2, 5):
            offsets.store(record(offset))
        connection.rollback()
    with connection:
        for offset in (1, 2, 5):
            offsets.store(record(offset))
    assert offsets.load([P0]) == {P0: 6}


def test_the_record_after_one_that_was_rolled_back_is_refused(connection: sqlite3.Connection) -> None:
    offsets = offsets_of(connection)
    offsets.load([P0])
    for before in (0, 3):
        offsets.store(record(before))
        connection.rollback()
        with pytest.raises(CommitFailedError, match="rolled back" if before else "no offset"):
            offsets.store(record(before + 1))
        connection.rollback()
        for offset in range(before, before + 3):
            offsets.store(record(offset))
        connection.commit()


def test_after_a_rollback_and_a_load_the_records_may_be_stored_together(connection: sqlite3.Connection) -> None:
    offsets = offsets_of(connection)
    offsets.load([P0])
    with connection:
        offsets.store(record(0))
    for offset in (1, 2, 3):
        offsets.store(record(offset))
    connection.rollback()
    assert offsets.load([P0]) == {P0: 1}
    with connection:
        offsets.store(record(3))
    assert offsets.load([P0]) == {P0: 4}


def test_a_rollback_to_a_savepoint_is_one_too(connection: sqlite3.Connection) -> None:
    offsets = offsets_of(connection)
    offsets.load([P0])
    offsets.store(record(0))
    connection.execute("SAVEPOINT one")
    offsets.store(record(1))
    connection.execute("ROLLBACK TO one")
    with pytest.raises(CommitFailedError, match="rolled back"):
        offsets.store(record(2))
    offsets.store(record(1))
    offsets.store(record(2))
    connection.commit()
    assert offsets.load([P0]) == {P0: 3}


def test_what_was_loaded_from_a_transaction_that_is_rolled_back_then_is_no_trap(connection: sqlite3.Connection) -> None:
    offsets = offsets_of(connection)
    offsets.load([P0])
    offsets.store(record(0))
    assert offsets.load([P0]) == {P0: 1}  # not committed
    connection.rollback()
    with connection:
        offsets.store(record(0))
        offsets.store(record(1))
    assert offsets.load([P0]) == {P0: 2}


def test_a_commit_whose_answer_is_lost_does_not_double_the_record(connection: sqlite3.Connection) -> None:
    offsets = offsets_of(connection)
    offsets.load([P0])
    offsets.store(record(0))
    connection.commit()  # the program gets an error of the network here, and tries again
    with pytest.raises(CommitFailedError):
        offsets.store(record(0))
    assert offsets.load([P0]) == {P0: 1}


def test_offsets_that_are_long_stored_are_forgotten(connection: sqlite3.Connection) -> None:
    offsets = offsets_of(connection)
    offsets.load([P0])
    for offset in range(20_000):
        offsets.store(record(offset))
    connection.commit()
    with pytest.raises(CommitFailedError, match=r"before 1[0-9]{4}, the first offset"):
        offsets.store(record(0))
    with connection:
        offsets.store(record(20_000))
    assert offsets.load([P0]) == {P0: 20_001}


# -- two holders, and rollbacks, at random ---------------------------------------------------------------

# Compaction left gaps.
LOG = [0, 1, 2, 5, 6, 9, 10, 11, 12, 15, 16, 20, 21, 22, 23]
ACTIONS = (
    "load",
    "handle 1",
    "handle 2",
    "handle 3",
    "commit",
    "commit and hear of an error",
    "repeat",
    "skip",
    "reload",
)


class Holder:
    """A consumer as a program has it: records in hand, a transaction, and errors that it may handle wrongly."""

    def __init__(self, path: Path) -> None:
        self.connection = connected(path)
        self.offsets = offsets_of(self.connection)
        self.reload()

    def reload(self) -> None:
        self.connection.rollback()
        self.load()
        self.begin()

    def begin(self) -> None:
        self.began_at = self.position
        self.calls: list[int] = []

    def load(self) -> None:
        """Also in the middle of a transaction, which then sees what it has stored itself."""
        self.position = self.offsets.load([P0]).get(P0, 0)
        self.skipped = False
        self.to_repeat: list[int] = []

    def handle(self, count: int) -> bool:
        """Handle the next records, and store the last of them; whether it was stored, or could not be because of a lock."""
        if self.to_repeat:
            count = self.to_repeat.pop(0)
        records = [offset for offset in LOG if offset >= self.position][:count]
        if not records:
            return True
        try:
            self.connection.executemany("INSERT INTO effects VALUES (?)", [(offset,) for offset in records])
        except sqlite3.OperationalError:  # locked, or the snapshot is old
            self.reload()
            return True
        try:
            self.offsets.store(record(records[-1]))
        except CommitFailedError:
            return False
        self.position = records[-1] + 1
        self.calls.append(count)
        return True

    def commit(self) -> None:
        self.connection.commit()
        self.begin()

    def go_back(self) -> None:
        """Take the records of the transaction in hand again, to repeat its calls."""
        self.to_repeat = self.calls + self.to_repeat
        self.position = self.began_at
        self.begin()

    def skip(self) -> None:
        """Go on as if the transaction had not been rolled back."""
        self.skipped |= self.position != self.began_at
        self.begin()


def committed(connection: sqlite3.Connection) -> tuple[list[int], int]:
    effects = [row[0] for row in connection.execute("SELECT record FROM effects ORDER BY record")]
    return effects, offsets_of(connection).load([P0]).get(P0, 0)


@given(st.lists(st.tuples(st.integers(0, 1), st.sampled_from(ACTIONS)), max_size=60))
@example([(0, "handle 1"), (0, "skip"), (0, "handle 1"), (0, "commit")])
@example([(0, "handle 1"), (0, "commit"), (0, "handle 1"), (0, "skip"), (0, "handle 1"), (0, "commit")])
@example([(0, "handle 3"), (0, "repeat"), (1, "handle 1"), (1, "commit"), (0, "handle 3"), (0, "commit")])
@example([(0, "handle 2"), (0, "commit and hear of an error"), (0, "handle 2"), (0, "commit")])
def test_each_record_has_its_effect_once_whatever_two_holders_do(
    tmp_path_factory: pytest.TempPathFactory, steps: Sequence[tuple[int, str]]
) -> None:
    path = tmp_path_factory.mktemp("holders") / "database"
    watching = connected(path)
    watching.execute("PRAGMA journal_mode = WAL")
    watching.execute("PRAGMA synchronous = OFF")
    with watching:
        offsets_of(watching).create_table()
        watching.execute("CREATE TABLE effects (record INTEGER)")
    holders = [Holder(path), Holder(path)]
    for number, action in steps:
        holder = holders[number]
        if action.startswith("handle"):
            at_begin = committed(watching)[1]
            if not holder.handle(int(action[-1])):
                # It may fail only if the holder is a zombie, or goes on as if nothing had been rolled back.
                assert holder.skipped or at_begin != holder.began_at, "refused, and nothing was wrong"
                holder.reload()
        elif action == "load":
            holder.load()
        elif action == "commit":
            holder.commit()
        elif action == "commit and hear of an error":
            holder.connection.commit()
            holder.go_back()
        elif action == "reload":
            holder.reload()
        else:
            holder.connection.rollback()
            (holder.go_back if action == "repeat" else holder.skip)()
        effects, next_offset = committed(watching)
        assert effects == [offset for offset in LOG if offset < next_offset]
    for holder in holders:
        holder.connection.rollback()
    for holder in holders:
        holder.reload()
        while holder.position <= LOG[-1]:
            assert holder.handle(3)
        holder.commit()
    assert committed(watching) == (LOG, LOG[-1] + 1)
    for connection in (watching, *(holder.connection for holder in holders)):
        connection.close()


# -- with consumers --------------------------------------------------------------------------------------


def test_a_consumer_continues_where_the_database_says(connection: sqlite3.Connection) -> None:
    with streamlog.open() as log:
        log.create_topic("orders", partitions=2).send_many([str(n) for n in range(10)], partition=0).result()
        log["orders"].send("a", partition=1)
        seen: list[list[bytes]] = []
        for _ in range(3):
            offsets = offsets_of(connection)
            with log.consumer() as consumer:
                consumer.assign([P0, P1])
                for partition, offset in offsets.load(consumer.assignment()).items():
                    consumer.seek(partition, offset)
                seen.append([])
                for record in consumer.until_end():
                    with connection:
                        offsets.store(record)
                    seen[-1].append(record.value)
                    if len(seen[-1]) == 4:
                        break
        assert sorted(value for values in seen for value in values) == [*(b"%d" % n for n in range(10)), b"a"]


def test_a_member_that_lost_its_partitions_stores_nothing(connect: Callable[[], sqlite3.Connection]) -> None:
    class Loading(streamlog.RebalanceListener):
        def __init__(self, log: streamlog.StreamLog) -> None:
            self.connection = connect()
            self.offsets = offsets_of(self.connection)
            self.consumer = log.consumer(group="billing", enable_auto_commit=False)
            self.consumer.subscribe("orders", self)

        def on_partitions_assigned(self, partitions: Sequence[TopicPartition]) -> None:
            for partition, offset in self.offsets.load(partitions).items():
                self.consumer.seek(partition, offset)

        def handle(self, records: Sequence[Record[Any, Any]]) -> list[int]:
            with self.connection:
                for each in records:
                    self.connection.execute("INSERT INTO effects VALUES (?)", (each.offset,))
                    self.offsets.store(each)
            return [each.offset for each in records]

    with streamlog.open() as log:
        log.create_topic("orders").send_many(["1", "2", "3", "4"]).result()
        old, new = Loading(log), Loading(log)
        assert old.handle(old.consumer.poll(max_records=1)) == [0]
        in_hand = old.consumer.poll(max_records=2)
        assert new.consumer.poll() == []
        (member,) = [each for each in log.group("billing").members() if each.assignment]
        log.group("billing").evict(member.member_id)
        assert new.handle(new.consumer.poll(max_records=1)) == [1]
        with pytest.raises(CommitFailedError):
            old.handle(in_hand)
        assert new.handle(new.consumer.poll()) == [2, 3]
        effects = new.connection.execute("SELECT record FROM effects").fetchall()
        assert sorted(effects) == [(0,), (1,), (2,), (3,)]
        old.consumer.close()
        new.consumer.close()


CHILD = """
import sqlite3, sys, streamlog
database = sqlite3.connect(sys.argv[2])
offsets = streamlog.external_offsets(database, group="totals")
with streamlog.open(sys.argv[1]) as log, log.consumer() as consumer:
    consumer.assign([("orders", 0), ("orders", 1)])
    for partition, offset in offsets.load(consumer.assignment()).items():
        consumer.seek(partition, offset)
    for record in consumer.until_end():
        with database:
            database.execute("INSERT INTO effects VALUES (?)", (int(record.value),))
            print(record.value.decode(), flush=True)
            offsets.store(record)
"""


@pytest.mark.slow
def test_a_process_that_is_killed_on_the_way_handles_each_record_once(
    tmp_path: Path,
    path: Path,
    rng: random.Random,
    child: Callable[..., subprocess.Popen[str]],
    lines_until_killed: Callable[[subprocess.Popen[str], int], list[str]],
) -> None:
    with streamlog.open(tmp_path / "log") as log:
        orders = log.create_topic("orders", partitions=2)
        for partition in range(2):
            orders.send_many([str(n) for n in range(partition, 2_000, 2)], partition=partition)
    for _ in range(5):
        lines_until_killed(child(CHILD, tmp_path / "log", path), rng.randrange(1, 100))
    last = child(CHILD, tmp_path / "log", path)
    output, errors = last.communicate(timeout=60)
    assert (last.returncode, errors) == (0, "")
    assert len(output.splitlines()) >= 1_000, "it was killed on the way"
    with connected(path) as connection:
        assert sorted(connection.execute("SELECT record FROM effects")) == [(n,) for n in range(2_000)]
        assert offsets_of(connection).load([P0, P1]) == {P0: 1_000, P1: 1_000}
    connection.close()


# -- connections -----------------------------------------------------------------------------------------


FORMS = {
    "qmark": r"\?",
    "format": r"%s",
    "numeric": r":(\d+)\b",
    "named": r":([a-z_]+)\b",
    "pyformat": r"%\(([a-z_]+)\)s",
}


class Driver:
    """A DB-API driver with a paramstyle of its own, over sqlite3, which is strict about what it gets."""

    def __init__(self, paramstyle: str, monkeypatch: pytest.MonkeyPatch) -> None:
        driver = types.ModuleType("driver_of_this_test")
        driver.paramstyle = paramstyle  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, driver.__name__, driver)
        form, by_name = FORMS[paramstyle], paramstyle in ("named", "pyformat")

        class IntegrityError(Exception):
            pass

        class Cursor:
            def __init__(self, cursor: sqlite3.Cursor) -> None:
                self._cursor = cursor
                self.rowcount = -1

            def execute(self, sql: str, parameters: Any = None) -> None:
                marks = [found.group(1) if found.groups() else found.group() for found in re.finditer(form, sql)]
                if parameters is None:
                    assert marks == [] and "%" not in sql
                elif by_name:
                    assert type(parameters) is dict and sorted(parameters) == sorted(marks)
                    parameters = [parameters[name] for name in marks]
                else:
                    assert type(parameters) is tuple and len(parameters) == len(marks)
                    assert paramstyle != "numeric" or marks == [str(n + 1) for n in range(len(marks))]
                plain = re.sub(form, "?", sql)
                assert re.search(r"[:%]", plain) is None
                try:
                    self._cursor.execute(plain, parameters or ())
                except sqlite3.IntegrityError as error:
                    raise IntegrityError(str(error)) from None
                self.rowcount = self._cursor.rowcount

            def fetchall(self) -> list[Any]:
                return [list(row) for row in self._cursor.fetchall()]

            def close(self) -> None:
                self._cursor.close()

        class Connection:
            __module__ = f"{driver.__name__}.connections"

            def __init__(self, connection: sqlite3.Connection) -> None:
                self._connection = connection

            def cursor(self) -> Cursor:
                return Cursor(self._connection.cursor())

            def commit(self) -> None:
                self._connection.commit()

            def rollback(self) -> None:
                self._connection.rollback()

        self.connection: Any = Connection
        self.cursor: Any = Cursor


@pytest.fixture(params=list(FORMS))
def driver(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Driver:
    return Driver(request.param, monkeypatch)


def test_every_paramstyle_is_known(driver: Driver, connect: Callable[[], sqlite3.Connection]) -> None:
    first, second = (offsets_of(driver.connection(connect()), "it's :x %s ?") for _ in range(2))
    first.create_table()
    assert first.load([P0]) == second.load([P0]) == {}
    first.store(record(0))
    first.store(record(1))
    first._connection.commit()
    with pytest.raises(CommitFailedError, match="had none"):
        second.store(record(0))
    second._connection.rollback()
    assert second.load([P1, P0]) == {P0: 2}
    first.store(record(2))
    first._connection.commit()
    with pytest.raises(CommitFailedError, match="the database has 3, not 2"):
        second.store(record(2))


def test_errors_of_the_database_are_raised_as_they_are(connect: Callable[[], sqlite3.Connection]) -> None:
    connection, other = connect(), connect()
    with pytest.raises(sqlite3.OperationalError, match="no such table"):
        offsets_of(connection, table="nowhere").load([P0])
    offsets = offsets_of(connection)
    offsets.load([P0])
    other.execute("INSERT INTO effects VALUES (1)")
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        offsets.store(record(0))
    other.rollback()
    offsets.store(record(0))  # a failed statement changed nothing here
    connection.commit()
    connection.close()
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        offsets.store(record(1))


@pytest.mark.parametrize("driver", ["qmark"], indirect=True)
@pytest.mark.parametrize("rowcount", [-1, None])
def test_a_driver_that_does_not_count_rows_is_refused(
    driver: Driver, connection: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch, rowcount: int | None
) -> None:
    monkeypatch.setattr(driver.cursor, "rowcount", property(lambda self: rowcount, lambda self, value: None), raising=False)  # fmt: skip
    offsets = offsets_of(driver.connection(connection))
    offsets.load([P0])
    with pytest.raises(ConfigError, match="rowcount"):
        offsets.store(record(0))


def test_an_update_that_sees_more_than_a_select_says_so(connect: Callable[[], sqlite3.Connection], monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    """As in MySQL, where a SELECT reads the snapshot of the transaction, and an UPDATE what is committed."""
    driver = Driver("qmark", monkeypatch)
    monkeypatch.setattr(driver.cursor, "fetchall", lambda self: [(0, 1)])
    offsets = offsets_of(driver.connection(connect()))
    offsets.load([P0])
    with pytest.raises(CommitFailedError, match="since the transaction began"):
        offsets.store(record(1))


@pytest.mark.parametrize(
    "options",
    [
        {"isolation_level": None},
        pytest.param(
            {"autocommit": True}, marks=pytest.mark.skipif(sys.version_info < (3, 12), reason="of Python 3.12")
        ),
    ],
)
def test_a_connection_of_sqlite3_that_commits_by_itself_is_refused(options: dict[str, Any]) -> None:
    connection = sqlite3.connect(":memory:", **options)
    with pytest.raises(
        ConfigError, match=r"Make it by sqlite3.connect\(path\), without isolation_level=None"
    ) as refused:
        offsets_of(connection)
    assert refused.value.name == "connection"
    connection.close()


def test_a_connection_that_begins_to_commit_by_itself_is_refused_then(connection: sqlite3.Connection) -> None:
    offsets = offsets_of(connection)
    offsets.load([P0])
    connection.isolation_level = None
    for call in (lambda: offsets.load([P0]), lambda: offsets.store(record(0))):
        with pytest.raises(ConfigError, match="autocommit"):
            call()
    connection.isolation_level = "IMMEDIATE"
    offsets.store(record(0))


@pytest.mark.skipif(sys.version_info < (3, 12), reason="of Python 3.12")
def test_a_connection_that_is_always_in_a_transaction_is_right() -> None:
    connection: Any = sqlite3.connect(":memory:", isolation_level=None, autocommit=False)  # type: ignore[call-arg,unused-ignore]
    offsets = offsets_of(connection)
    offsets.create_table()
    offsets.load([P0])
    offsets.store(record(0))
    connection.commit()
    assert offsets.load([P0]) == {P0: 1}
    connection.close()


@pytest.mark.parametrize("driver", ["pyformat"], indirect=True)
@pytest.mark.parametrize(
    ("attributes", "is_right"),
    [
        ({"autocommit": True}, False),
        ({"autocommit": 1}, False),
        ({"autocommit": False, "isolation_level": None}, True),
        ({"autocommit": lambda self, on: None, "get_autocommit": lambda self: True}, False),
        ({"autocommit": lambda self, on: None, "get_autocommit": lambda self: 0}, True),
        ({"autocommit": lambda self, on: None}, True),
        ({}, True),
    ],
)
def test_other_drivers_are_asked_whether_they_commit_by_themselves(
    driver: Driver, connection: sqlite3.Connection, attributes: dict[str, Any], is_right: bool
) -> None:
    for name, value in attributes.items():
        setattr(driver.connection, name, value)
    if is_right:
        assert offsets_of(driver.connection(connection)).load([P0]) == {}
    else:
        with pytest.raises(ConfigError, match=r"connect\(\) with autocommit off"):
            offsets_of(driver.connection(connection))


def test_what_is_no_connection_of_a_driver_is_refused(connection: sqlite3.Connection) -> None:
    class Wrapped:
        def __init__(self, connection: sqlite3.Connection) -> None:
            self.cursor, self.commit, self.rollback = connection.cursor, connection.commit, connection.rollback

    class Awaited:
        def cursor(self) -> None: ...
        async def commit(self) -> None: ...
        async def rollback(self) -> None: ...

    wrong: list[tuple[Any, str]] = [
        ("orders.db", "is no DB-API connection, such as sqlite3.connect"),
        (None, "SQLAlchemy"),
        (sqlite3.Connection, "no DB-API"),
        (Wrapped(connection), "the driver's own connection"),
        (Awaited(), "await"),
    ]
    for given_connection, message in wrong:
        with pytest.raises(ConfigError, match=message) as refused:
            offsets_of(given_connection)
        assert refused.value.name == "connection"


class OurConnection(sqlite3.Connection):
    pass


def test_a_connection_of_a_class_of_the_programs_own_is_right() -> None:
    connection = sqlite3.connect(":memory:", factory=OurConnection)
    assert offsets_of(connection).create_table() is None
    connection.close()


# -- arguments -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "table", ["", "a b", "a;b", "offsets; DROP TABLE effects", "a.b.c", "1a", ".a", "a.", 'a"', "tablé", "a\n", "a" * 64, None, b"a", 1]
)  # fmt: skip
def test_the_name_of_a_table_is_a_plain_one(connection: sqlite3.Connection, table: Any) -> None:
    with pytest.raises(ConfigError, match="is not a plain SQL name") as refused:
        offsets_of(connection, table=table)
    assert refused.value.name == "table"


@pytest.mark.parametrize("group", ["", None, 1])
def test_a_group_has_a_name(connection: sqlite3.Connection, group: Any) -> None:
    with pytest.raises(ConfigError, match="group has to be a str"):
        offsets_of(connection, group)


def test_names_are_parameters(connection: sqlite3.Connection) -> None:
    offsets = offsets_of(connection, "'; DROP TABLE effects; --")
    offsets.load([P0])
    with connection:
        offsets.store(record(0))
    assert offsets.load([P0]) == {P0: 1}
    assert connection.execute("SELECT COUNT(*) FROM effects").fetchone() == (0,)


def test_bad_arguments_are_refused(connection: sqlite3.Connection) -> None:
    offsets = offsets_of(connection)
    for partitions in (P0, "orders", None, [0], [("orders", "0")]):
        with pytest.raises(ConfigError):
            offsets.load(partitions)  # type: ignore[arg-type]
    offsets.load([P0])
    for wrong in (None, P0, {P0: 1}, ("orders", 0, 5)):
        with pytest.raises(ConfigError, match="a Record or a RecordBatch"):
            offsets.store(wrong)  # type: ignore[arg-type]
    assert offsets.load([P0]) == {}


def test_it_cannot_be_copied(connection: sqlite3.Connection) -> None:
    offsets = offsets_of(connection)
    for make in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError):
            make(offsets)
    assert repr(offsets) == "<streamlog.ExternalOffsets group='totals' table='streamlog_offsets'>"
