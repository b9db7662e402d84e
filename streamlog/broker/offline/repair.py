"""A damaged log, copied as far as it is whole: what `streamlog.repair` and `streamlog repair` do.

It walks like `verify`, and every batch that verifies goes into a new directory, byte for byte and at its
offset; see `storage/recovery/rebuild.py` for what takes the place of the others. The damaged log is only read. A
topic that no metadata names any more comes back as `recovered-ID`, with the settings of a new topic.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar
from uuid import UUID

from ...config import TopicConfig
from ...errors import ConfigError, FormatError, LogLockedError, StorageError, StreamlogError
from ...records import columns
from ...records.batch import BatchHeader, seed_of
from ...records.decode import decode
from ...runtime.api import Disk
from ...runtime.disk import OsDisk, entropy, path_of
from ...runtime.disk_errors import require_disk_error
from ...storage.checkpoint import NAME as STATE_NAME
from ...storage.checkpoint import State, slots
from ...storage.files import as_storage_error, base_offset_of, swap_of
from ...storage.log import AppendRequest
from ...storage.recovery.rebuild import SegmentWriter
from ...storage.recovery.recovery import PreviousShutdown, open_log
from ...storage.segment import size_of
from ...storage.verify.check import FOREVER_OFFSET
from ...storage.verify.compare import whole_batches
from ...types import TopicPartition
from .. import metadata
from ..controller import GROUPS_TOPIC, METADATA_TOPIC, TRANSACTIONS_TOPIC
from ..log_directory import METADATA_CONFIG, METADATA_DIR, METADATA_ID
from ..lost_partitions import greatest_commits, known_ends
from ..metadata import Image, TopicView
from ..owner import OWNER_FILE, broker_names, new_owner, read_owner, write_owner
from .verify import Inspection, Problem, Progress, StrPath, coordinator_fault

_DIRECTORY = re.compile(r"([0-9a-f]{32})-(0|[1-9][0-9]{0,3})")
_SHOWN = 20

T = TypeVar("T")


@dataclass(frozen=True)
class RepairedPartition:
    """One partition of the new log, in a `RepairReport`.

    topic: str
        The topic's name.
    partition: int
        The partition's number.
    batches: int
        How many batches were copied.
    records: int
        How many records were copied.
    size_bytes: int
        Their size.
    log_start_offset: int
        The first offset.
    log_end_offset: int
        The offset after the last record.
    lost: tuple of Problem
        The damage by which the partition lost records.

    >>> RepairedPartition("orders", 0, 2, 8, 1734, 0, 8).lost
    ()
    """

    topic: str
    partition: int
    batches: int
    records: int
    size_bytes: int
    log_start_offset: int
    log_end_offset: int
    lost: tuple[Problem, ...] = ()


@dataclass(frozen=True)
class RepairReport:
    """What `repair` copied, and what is lost; `print(report)` shows it. The new log is whole either way.

    path: str
        The damaged log.
    into: str
        The new log.
    partitions: tuple of RepairedPartition
        The partitions of the new log, those of its own topics included.
    problems: tuple of Problem
        All that was wrong. `ok` is whether there is nothing.
    notes: tuple of Problem
        What an open would have put right by itself.
    recovered: tuple of str
        The topics whose names are lost, under their new names.
    restored: tuple of Problem
        The damage that cost nothing, because another replica had the records; the message says which.

    >>> print(RepairReport("data", "repaired", (RepairedPartition("orders", 0, 2, 8, 1734, 0, 8),)))
    data into repaired: nothing lost, 8 records copied
    """

    path: str
    into: str
    partitions: tuple[RepairedPartition, ...] = ()
    problems: tuple[Problem, ...] = ()
    notes: tuple[Problem, ...] = ()
    recovered: tuple[str, ...] = ()
    restored: tuple[Problem, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether nothing is lost or wrong."""
        return not self.problems

    @property
    def records(self) -> int:
        """The records that were copied, without those of the log's own topics."""
        return sum(each.records for each in self.partitions if not each.topic.startswith("__"))

    def __str__(self) -> str:
        verdict = "nothing lost" if self.ok else f"{len(self.problems)} problem{'s'[: len(self.problems) != 1]}"
        lines = [f"{self.path} into {self.into}: {verdict}, {self.records} records copied"]
        lines += [f"  {problem}" for problem in self.problems[:_SHOWN]]
        if len(self.problems) > _SHOWN:
            lines.append(f"  … and {len(self.problems) - _SHOWN} more")
        lines += [f"  restored: {problem}" for problem in self.restored[:_SHOWN]]
        if len(self.restored) > _SHOWN:
            lines.append(f"  … and {len(self.restored) - _SHOWN} more that were restored")
        if self.recovered:
            lines.append(f"  topics whose names are lost: {', '.join(self.recovered)}")
        return "\n".join(lines)


def repair(
    path: str | StrPath, into: str | StrPath, *, progress: Progress | None = None, disk: Disk | None = None
) -> RepairReport:
    """Copy everything that verifies in the damaged log at `path` into a new log at `into`; see `RepairReport`.

    Records keep their topics, partitions, offsets and timestamps; groups keep what they committed. What is lost is
    in the report, and reading passes over it without an error. `path` is only read, and may be open nowhere. `into`
    is a directory that is new or empty. Of a log of several brokers, each broker's directory is copied, and what is damaged in
    one of them is taken from another replica that was in sync. `progress(done_bytes, total_bytes)` is called about once a batch. Cost: reads
    every byte once and writes what is whole; one batch in memory at a time, and the records of the internal topics.

    Raises ConfigError for an `into` that is not empty, or lies in `path`; LogLockedError while a process has the log
    open; FormatError if `path` holds no log, or one of another format; StorageError if it
    cannot be read at all; DiskFullError, StorageError if `into` cannot be written. What is there then is not a log, and
    can be removed.

    >>> import streamlog, tempfile, pathlib
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     with streamlog.open(f"{directory}/data") as log:
    ...         orders = log.create_topic("orders")
    ...         for price in "9.50", "1.00", "2.50":
    ...             _ = orders.send(price)
    ...     file = next(pathlib.Path(directory).glob("data/topics/*-0/*.log"))
    ...     whole = file.read_bytes()
    ...     _ = file.write_bytes(whole[:-1] + b"?")
    ...     report = streamlog.repair(f"{directory}/data", f"{directory}/repaired")
    ...     with streamlog.open(f"{directory}/repaired") as log:
    ...         values = [record.value for record in log["orders"].read()]
    >>> [problem.offsets_lost for problem in report.problems], values
    ([(2, 3)], [b'9.50', b'1.00'])
    """
    real = disk if disk is not None else OsDisk()
    source, target = real.absolute(path_of(path)), real.absolute(path_of(into, "into"))
    _check_target(real, source, target)
    try:
        return _repair(source, target, real, progress)
    except _Unwritable as error:
        raise error.as_storage_error from error.__cause__


def _repair(source: str, target: str, disk: Disk, progress: Progress | None) -> RepairReport:
    """Copy the log, or each broker of it that is there."""
    whole = Inspection(source, disk, None)
    names = whole.names(source)
    brokers = [] if OWNER_FILE in names else broker_names(names)
    here = [name for name in brokers if METADATA_DIR in whole.names(f"{source}/{name}")]
    if not here:
        return _Repair(source, target, disk, progress).repair()
    reports = []
    for name in here:
        others = [f"{source}/{other}" for other in here if other != name]
        reports.append(_Repair(f"{source}/{name}", f"{target}/{name}", disk, progress, others).repair())
    for name in [name for name in brokers if name not in here]:
        whole.problem(f"{source}/{name}", "missing", "the directory of this broker is empty; start it to fill it again")
    return RepairReport(
        source,
        target,
        tuple(each for report in reports for each in report.partitions),
        (*(each for report in reports for each in report.problems), *whole.report.problems),
        tuple(each for report in reports for each in report.notes),
        tuple(dict.fromkeys(each for report in reports for each in report.recovered)),
        tuple(each for report in reports for each in report.restored),
    )


def _check_target(disk: Disk, source: str, target: str) -> None:
    if target == source or target.startswith(f"{source.rstrip('/')}/"):
        raise ConfigError(f"into={target!r} lies in the damaged log itself; give a directory beside it.", name="into")
    try:
        empty = not disk.exists(target) or not disk.listdir(target)
    except OSError as error:
        require_disk_error(error)
        raise ConfigError(f"into={target!r} cannot be used ({error.strerror or error}).", name="into") from error
    if not empty:
        raise ConfigError(f"into={target!r} is not empty; give a new directory, or an empty one.", name="into")


class _Unwritable(Exception):
    """The new directory cannot be written: no damage of the old one, so nothing on the way may take it for that."""

    def __init__(self, as_storage_error: StreamlogError) -> None:
        super().__init__(str(as_storage_error))
        self.as_storage_error = as_storage_error


class _Repair:
    """One repair of one broker directory: the copier of an inspection of it."""

    def __init__(self, path: str, into: str, disk: Disk, progress: Progress | None, others: Sequence[str] = ()) -> None:
        """`others`: the directories of the other brokers of the log."""
        self._others = others
        self._copied: tuple[str, bytes, int] | None = None  # the directory of the partition that is copied now
        self._image: Image | None = None
        self._taken: dict[tuple[int, int], str] = {}
        self._restored: list[Problem] = []
        self.path = path
        self.into = into
        self.disk = disk
        self._inspection = Inspection(path, disk, progress, self)
        self._owner_found: dict[str, Any] = {}
        self._rebuilt: SegmentWriter | None = None
        self._partitions: list[RepairedPartition] = []
        self._nameless: dict[str, list[int]] = {}
        self._views: dict[str, TopicView] = {}
        self._recovered: list[str] = []
        self._published: dict[int, int] | None = None

    def repair(self) -> RepairReport:
        disk, path, inspection = self.disk, self.path, self._inspection
        names = set(inspection.names(path))
        if not names & {OWNER_FILE, METADATA_DIR, "topics"}:
            raise FormatError(f"{path} is not a log. Give the directory that was opened.", path=path)
        self._refuse_owner()
        self._read_owner()
        if not self._owner_found:
            self._take_identity()
        self._write(partial(disk.makedirs, f"{self.into}/topics"))
        inspection.inspect(inspection.names(f"{path}/topics"))
        self._name_the_nameless()
        self._refuse_owner()
        self._write(self._finish)
        report = inspection.report
        return RepairReport(
            path, self.into, tuple(self._partitions), report.problems, report.notes, tuple(self._recovered),
            tuple(self._restored),
        )  # fmt: skip

    def _refuse_owner(self) -> None:
        """Raise LogLockedError if a process has the log open. Called before and after: taking the lock would write."""
        path = f"{self.path}/lock"
        pid = self.disk.lock(path).holder() if self._inspection.exists(path) else None
        if pid is not None:
            raise LogLockedError(
                f"{self.path} is in use by process {pid}: what it writes meanwhile would be missed. Close the "
                f"log there, then repair.",
                path=self.path,
                pid=pid,
            )

    def _read_owner(self) -> None:
        inspection, path = self._inspection, f"{self.path}/{OWNER_FILE}"
        if not inspection.exists(path):
            inspection.problem(path, "owner", "it is missing")
            return
        inspection.read_owner()
        # Only the end of the last write is called torn; everything else that does not verify is reported.
        inspection.shutdown = PreviousShutdown(clean=inspection.shutdown.clean, same_boot=True)
        if not inspection.report.problems:
            self._owner_found = read_owner(self.disk, path)

    def _take_identity(self) -> None:
        """The owner file is lost: the name of the directory, and the other brokers, say whose it was."""
        for other in self._others:
            try:
                owner = read_owner(self.disk, f"{other}/{OWNER_FILE}")
            except (FormatError, StorageError):
                continue
            broker_id = self._inspection.broker_id = int(self.path[self.path.rindex("-") + 1 :])
            self._owner_found = {**owner, "broker_id": broker_id}
            return

    def _write(self, step: Callable[[], T]) -> T:
        try:
            return step()
        except OSError as error:
            raise _Unwritable(as_storage_error(error, "write", self.into)) from error

    # -- partitions ----------------------------------------------------------------------------------

    def keep(self, topic: str, base_offset: int, header: BatchHeader, data: bytes) -> str | None:
        fault = _content_fault(topic, header, data)
        if fault is None and self._rebuilt is not None:
            fault = self._write(partial(self._rebuilt.keep, base_offset, header, data))
        return fault

    def recover(self, topic: str, start: int, end: int) -> list[tuple[BatchHeader, bytes]]:
        """Take the lost batches from offset `start` up to `end` from the first replica that has all of them.

        Its history has to be the same before them: see `compare.whole_batches`.
        """
        if self._rebuilt is None or self._copied is None:
            return []
        directory, topic_id, number = self._copied
        start = max(start, self._rebuilt.next_offset)
        for other in self._in_sync(topic_id, number):
            found = self._batches_of(other + directory.removeprefix(self.path), topic_id, number, start, end)
            if found is None or (end != FOREVER_OFFSET and not _covers(found, start, end, gaps=self._rebuilt.gaps)):
                continue
            kept = [each for each in found if self._write(partial(self._rebuilt.fill, *each)) is None]
            self._taken[start, end] = other
            return kept
        return []

    def _batches_of(
        self, directory: str, topic_id: bytes, number: int, start: int, end: int
    ) -> list[tuple[BatchHeader, bytes]] | None:
        assert self._rebuilt is not None
        found: list[tuple[BatchHeader, bytes]] = []
        least = self._rebuilt.last_epoch
        try:
            for header, data in whole_batches(self.disk, directory, seed_of(topic_id, number), start, least):
                if header.base_offset >= end:
                    break
                if header.base_offset < start or (least is not None and header.leader_epoch < least):
                    return None
                found.append((header, data))
        except (OSError, StreamlogError) as error:  # damaged there too
            if isinstance(error, OSError):
                require_disk_error(error)
            return None if end == FOREVER_OFFSET else found
        return found

    def _in_sync(self, topic_id: bytes, number: int) -> list[str]:
        """The directories of the other brokers that were in sync with a partition, its leader's first."""
        ids = {self._broker_of(path): path for path in self._others}
        if self._image is None or topic_id not in self._image.partitions:
            return list(ids.values())
        registration = self._image.partition(topic_id, number)
        order = (registration.leader, *registration.isr)
        return [ids[each] for each in dict.fromkeys(order) if each in ids]

    def _broker_of(self, path: str) -> int:
        try:
            broker_id: int = read_owner(self.disk, f"{path}/{OWNER_FILE}")["broker_id"]
        except (FormatError, StorageError):
            return -1 - self._others.index(path)
        return broker_id

    def on_change(self) -> None:
        raise _Unwritable(
            StorageError(
                f"{self.path} changed while it was being copied: something else works on it. Find out what, remove "
                f"{self.into}, then repair again.",
                path=self.path,
                errno=0,
            )
        )

    @contextmanager
    def copying(self, topic: str, number: int, directory: str, topic_id: bytes, gaps: bool) -> Iterator[None]:
        known = len(self._inspection.report.problems)
        state, start = self._state(directory, topic_id, number)
        rebuilt = self._rebuilt = self._new(
            directory, topic_id, number, start, gaps=gaps or (state is not None and state.cleaned_until > 0)
        )
        self._copied = (directory, topic_id, number)
        yield
        self._copied = None
        end = self._write(partial(rebuilt.finish, state))
        self._rebuilt = None
        problems = self._without_restored(known)
        self._partitions.append(
            RepairedPartition(
                topic, number, rebuilt.batches, rebuilt.records, rebuilt.size_bytes, start, end,
                tuple(problem for problem in problems if problem.offsets_lost is not None),
            )
        )  # fmt: skip

    def _without_restored(self, known: int) -> tuple[Problem, ...]:
        """The problems of a partition after the first `known` of all, without those that another replica has made good."""
        report = self._inspection.report
        left: list[Problem] = []
        for problem in report.problems[known:]:
            lost = problem.offsets_lost
            other = (
                None
                if lost is None
                else next((o for (a, b), o in self._taken.items() if lost[1] == b and a <= max(a, lost[0])), None)
            )
            if other is None:
                left.append(problem)
            else:
                self._restored.append(
                    replace(problem, message=f"{problem.message}; taken from {other}", offsets_lost=None)
                )
        self._taken = {}
        self._inspection.report = replace(report, problems=(*report.problems[:known], *left))
        return tuple(left)

    def _new(self, directory: str, topic_id: bytes, number: int, start: int, *, gaps: bool) -> SegmentWriter:
        target = self.into + directory.removeprefix(self.path)
        seed = seed_of(topic_id, number)
        return self._write(partial(SegmentWriter, self.disk, target, topic_id, number, seed, start, gaps=gaps))

    def _state(self, directory: str, topic_id: bytes, number: int) -> tuple[State | None, int]:
        """The state, and the log start: that of the first segment, if there is no state."""
        state: State | None = None
        bases: list[int] = []
        try:
            names = self.disk.listdir(directory)
            found = [base_offset_of(name, "log") for name in names] + [(swap_of(name) or (None,))[0] for name in names]
            bases = sorted(base for base in found if base is not None)
            state = slots(self.disk.read(f"{directory}/{STATE_NAME}", 1 << 16), topic_id, number).newest
        except OSError as error:
            require_disk_error(error)
            state = None  # the check reports it
        if state is None:
            return None, bases[0] if bases else 0
        return state, max(0, state.log_start_offset)

    def on_missing(self, directory: str, view: TopicView, number: int) -> None:
        if self._others and self._take_whole(directory, view, number):
            return
        self._make_empty(view.name, number, directory, view.id_bytes, self._greatest_known(directory, view, number))

    def _take_whole(self, directory: str, view: TopicView, number: int) -> bool:
        """Copy a partition that is lost here from another broker; whether one has it."""
        for other in self._in_sync(view.id_bytes, number):
            there = other + directory.removeprefix(self.path)
            state, start = self._state(there, view.id_bytes, number)
            if state is None:
                continue
            problems = self._inspection.report.problems
            known = len(problems) - sum(problem.path == directory for problem in problems[-1:])
            self._rebuilt = self._new(directory, view.id_bytes, number, start, gaps=state.cleaned_until > 0)
            self._copied = (directory, view.id_bytes, number)
            self.recover(view.name, start, FOREVER_OFFSET)
            rebuilt, self._rebuilt, self._copied = self._rebuilt, None, None
            end = self._write(partial(rebuilt.finish, None))
            self._taken = {(0, FOREVER_OFFSET): other} if self._taken else {}
            self._partitions.append(
                RepairedPartition(
                    view.name, number, rebuilt.batches, rebuilt.records, rebuilt.size_bytes, start, end,
                    self._without_restored(known),
                )
            )  # fmt: skip
            return True
        return False

    def _greatest_known(self, directory: str, view: TopicView, number: int) -> int:
        """The offset at which a lost partition goes on: what groups committed of it must not lie beyond its end."""
        state, start = self._state(directory, view.id_bytes, number)
        if self._published is None:
            self._published = known_ends(self.disk, self.path)
        found = self._inspection.coordinator_records[GROUPS_TOPIC].found
        records = [record for record in found if coordinator_fault(GROUPS_TOPIC, record) is None]
        return max(
            start,
            state.recovery_point if state is not None else 0,
            self._published.get(seed_of(view.id_bytes, number), 0),
            greatest_commits(records).get(TopicPartition(view.name, number), 0),
        )

    def _make_empty(self, topic: str, number: int, directory: str, topic_id: bytes, offset: int = 0) -> None:
        lost = tuple(problem for problem in self._inspection.report.problems if problem.path == directory)
        rebuilt = self._new(directory, topic_id, number, offset, gaps=False)
        self._write(partial(rebuilt.finish, None))
        self._partitions.append(RepairedPartition(topic, number, 0, 0, 0, offset, offset, lost))

    # -- metadata ------------------------------------------------------------------------------------

    def on_metadata(self, image: Image | None) -> None:
        if image is None:
            empty = self._new(f"{self.path}/{METADATA_DIR}", METADATA_ID.bytes, 0, 0, gaps=True)
            self._write(partial(empty.finish, None))
        else:
            self._views = dict(image.topics)
            self._image = image

    def on_unnamed(self, name: str) -> None:
        match = _DIRECTORY.fullmatch(name)
        if match is not None:
            self._nameless.setdefault(match[1], []).append(int(match[2]))

    def _name_the_nameless(self) -> None:
        """Copy the partitions that the damaged metadata does not name, and write metadata that does.

        Not those that never had a record: a change that was refused, or cut short, may have left them.
        """
        by_id = {view.id.hex: view for view in self._views.values()}
        for topic_hex, numbers in sorted(self._nameless.items()):
            if not any(self._had_records(topic_hex, number) for number in numbers):
                continue
            view = by_id.get(topic_hex)
            name = view.name if view is not None else f"recovered-{topic_hex}"
            topic_id = UUID(topic_hex)
            count = max(numbers) + 1
            config, internal = (view.config, view.internal) if view is not None else (TopicConfig(), False)
            wanted = metadata.view_of(name, topic_id, count, config, internal)
            if view is not None:
                wanted = view._replace(partitions=count)
            for number in range(view.partitions if view is not None else 0, count):
                directory = f"{self.path}/topics/{topic_hex}-{number}"
                if number in numbers:
                    self._inspection.partition(name, number, directory, topic_id.bytes, config.compacts, None)
                else:
                    self._make_empty(name, number, directory, topic_id.bytes)
            self._write(partial(self._add_topic, wanted))
            if view is None:
                self._recovered.append(name)

    def _had_records(self, topic_hex: str, number: int) -> bool:
        directory = f"{self.path}/topics/{topic_hex}-{number}"
        state, start = self._state(directory, UUID(topic_hex).bytes, number)
        if start or (state is not None and state.recovery_point):
            return True
        try:
            return any(
                size_of(self.disk, f"{directory}/{name}") for name in self.disk.listdir(directory) if name != STATE_NAME
            )
        except OSError as error:
            require_disk_error(error)
            return True  # it cannot be read, which is reported

    def _add_topic(self, view: TopicView) -> None:
        seed = seed_of(METADATA_ID.bytes, 0)
        directory = f"{self.into}/{METADATA_DIR}"
        log = open_log(self.disk, directory, METADATA_ID.bytes, 0, seed, METADATA_CONFIG, PreviousShutdown(True, True))
        try:
            key, value = metadata.topic_record(view)
            log.append(AppendRequest([columns.seal(seed, [key], [value], 0, count=1)]), 0, 0)
            log.close()
        finally:
            log.release()

    def _finish(self) -> None:
        """Write the owner file last: without it a directory is not a log, so half a repair is never taken for one."""
        found = self._owner_found
        broker_id, directory_id = found.get("broker_id", 0), entropy(16).hex()
        known = self._image.brokers.get(broker_id) if self._image is not None and self._others else None
        if known is not None and known.directory_id:  # the metadata knows the brokers of a log of several by that
            directory_id = known.directory_id
        owner = new_owner(str(found.get("cluster_id", entropy(16).hex())), directory_id, broker_id)
        for directory in (f"{self.into}/topics", self.into):
            self.disk.sync_dir(directory)
        written = {**owner, "incarnation": 1, "boot_id": self.disk.boot_id(), "clean": True}
        write_owner(self.disk, f"{self.into}/{OWNER_FILE}", written)
        self.disk.sync_dir(self.into[: self.into.rindex("/")] or "/")


def _covers(found: list[tuple[BatchHeader, bytes]], start: int, end: int, *, gaps: bool) -> bool:
    """Whether these are all the batches from offset `start` up to `end`; with `gaps`, some may have been compacted."""
    if gaps:
        return bool(found)
    for header, _ in found:
        if header.base_offset != start:
            return False
        start = header.next_offset
    return start >= end


def _content_fault(topic: str, header: BatchHeader, data: bytes) -> str | None:
    """What would keep the new log from opening: a record of the log's own topics that makes no sense."""
    if topic not in (METADATA_TOPIC, GROUPS_TOPIC, TRANSACTIONS_TOPIC) or header.is_control:
        return None
    full = decode(header, data).all()
    for key, value in zip(full.keys, full.values, strict=True):
        if key is None:
            continue
        if topic != METADATA_TOPIC:
            fault = coordinator_fault(topic, (key, value))
            if fault is not None:
                return fault
            continue
        try:
            metadata.replay(metadata.EMPTY, [(key, value)])
        except FormatError as error:
            return str(error).rstrip(".")
    return None
