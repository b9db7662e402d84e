"""`streamlog.verify`: a check of every checksum and invariant of a broker directory.

Only reads, needs no lock, and works on a log that is open, in this process or another: then each
partition is looked at up to what was whole at the time.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

from ...coordinator import schema, transaction
from ...errors import FormatError, StorageError
from ...records.batch import BatchHeader, seed_of
from ...records.columns import BatchColumns
from ...runtime.api import Disk
from ...runtime.disk import OsDisk, path_of
from ...runtime.disk_errors import require_disk_error
from ...storage.files import as_storage_error
from ...storage.lost import is_lost
from ...storage.recovery.recovery import PreviousShutdown
from ...storage.verify.check import FOREVER_OFFSET, Checked, CheckRequest, Finding, check_partition
from ...storage.verify.compare import Difference, Replica, differences
from .. import metadata, presence
from ..controller import GROUPS_TOPIC, METADATA_TOPIC, TRANSACTIONS_TOPIC
from ..log_directory import METADATA_DIR, METADATA_ID, directory_of
from ..lost_partitions import known_high_watermarks
from ..metadata import BrokerRegistration, Image, LogRecord, TopicView
from ..owner import OWNER_FILE, OtherFormatError, broker_names, read_owner

Progress = Callable[[int, int], object]
_TOPIC_DIR = re.compile(r"([0-9a-f]{32})-(0|[1-9][0-9]*)")
_ROOT_FILES = {OWNER_FILE, "lock", "published", METADATA_DIR, "topics"}
_SHOWN = 20
# How a record of a coordinator's topic is decoded, and what the kind of problem is called.
_COORDINATORS: Mapping[str, tuple[Callable[[bytes, bytes | None], Any], str]] = {
    GROUPS_TOPIC: (schema.decode, "group"),
    TRANSACTIONS_TOPIC: (transaction.decode, "transaction"),
}


class StrPath(Protocol):
    """A path that is not a str, such as one of pathlib."""

    def __fspath__(self) -> str: ...


@dataclass(frozen=True)
class Problem:
    """One thing that is not as it should be, and what it costs. Its str is one line for a person.

    path: str
        The file, or the directory.
    position: int
        The byte in the file at which it begins.
    kind: str
        One word, to sort by, such as "payload" or "missing".
    message: str
        What is wrong.
    topic: str or None
        None if it belongs to no partition.
    partition: int or None
        None if it belongs to no partition.
    offsets_lost: tuple of two int, or None
        The offsets that cannot be read, from the first up to, not including, the second. None if no record is lost.
    size_bytes: int
        The length of what is damaged; 0 if it is not known.

    >>> print(Problem("topics/7f-0/0.log", 4096, "payload", "the checksum differs", "orders", 0, (10, 20), 812))
    orders-0: payload at topics/7f-0/0.log:4096: the checksum differs (lost: offsets 10 to 19)
    """

    path: str
    position: int
    kind: str
    message: str
    topic: str | None = None
    partition: int | None = None
    offsets_lost: tuple[int, int] | None = None
    size_bytes: int = 0

    def __str__(self) -> str:
        where = f"{self.topic}-{self.partition}: " if self.topic is not None else ""
        text = f"{where}{self.kind} at {self.path}:{self.position}: {self.message}"
        if self.offsets_lost is not None:
            start, end = self.offsets_lost
            if end == FOREVER_OFFSET:
                text += f" (lost: offsets {start} and on)"
            else:
                text += f" (lost: offset {start})" if end == start + 1 else f" (lost: offsets {start} to {end - 1})"
        return text


@dataclass(frozen=True)
class Report:
    """What `verify` found; `print(report)` shows it. The counts are of what is whole.

    path: str
        The log's directory.
    problems: tuple of Problem
        Damage. `ok` is whether there is none.
    notes: tuple of Problem
        What the next open puts right by itself, such as a torn tail after a kill, or an index to be rebuilt.
    topics: int
        How many topics there are.
    partitions: int
        How many partitions, with those of the log's own topics, here and below.
    segments: int
        How many segments.
    batches: int
        How many batches.
    records: int
        How many records.
    size_bytes: int
        The size of the segments.

    >>> report = Report("data", topics=1, partitions=4, segments=4, batches=2, records=8, size_bytes=1734)
    >>> report.ok
    True
    >>> print(report)
    data: ok (1 topics, 4 partitions, 4 segments, 2 batches, 8 records, 1734 bytes)
    """

    path: str
    problems: tuple[Problem, ...] = ()
    notes: tuple[Problem, ...] = ()
    topics: int = 0
    partitions: int = 0
    segments: int = 0
    batches: int = 0
    records: int = 0
    size_bytes: int = 0

    @property
    def ok(self) -> bool:
        """Whether nothing is lost or wrong."""
        return not self.problems

    def __str__(self) -> str:
        counts = (
            f"{self.topics} topics, {self.partitions} partitions, {self.segments} segments, {self.batches} batches, "
            f"{self.records} records, {self.size_bytes} bytes"
        )
        verdict = "ok" if self.ok else f"{len(self.problems)} problem{'s'[: len(self.problems) != 1]}"
        lines = [f"{self.path}: {verdict} ({counts})"]
        for title, found in (("problem", self.problems), ("note", self.notes)):
            lines += [f"  {title}: {entry}" for entry in found[:_SHOWN]]
            if len(found) > _SHOWN:
                lines.append(f"  … and {len(found) - _SHOWN} more {title}s")
        return "\n".join(lines)


def verify(path: str | StrPath, *, progress: Progress | None = None, disk: Disk | None = None) -> Report:
    """Check every checksum and invariant of the log in `path`, changing nothing; see `Report`.

    Of a log of several brokers, each directory is checked, also those outside of `path`; one that is missing is a problem, for its
    replicas are. So is a record that is not the same in all replicas of its partition, as far as it was committed.

    `progress(done_bytes, total_bytes)` is called about once a batch. The log may be open meanwhile. Cost:
    reads every byte once, one batch in memory at a time, and one set of records of the internal topics.

    Raises FormatError if `path` holds no log, or one of another format; StorageError if it
    cannot be read at all. Damage is reported, never raised.

    >>> import streamlog, tempfile
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     with streamlog.open(directory) as log:
    ...         _ = log.create_topic("orders").send("9.50")
    ...     report = streamlog.verify(directory)
    >>> report.ok, report.records >= 1
    (True, True)
    """
    real = disk if disk is not None else OsDisk()
    root = real.absolute(path_of(path))
    whole = Inspection(root, real, progress)
    names = whole.names(root)
    brokers = [] if OWNER_FILE in names else broker_names(names)
    if not any(_has_log(whole, f"{root}/{name}") for name in brokers):
        return whole.run()
    inspections = [_verify_broker(f"{root}/{name}", real, progress) for name in brokers]
    inspections += _verify_others(root, inspections, real, progress)
    reports = [each.report for each in inspections]
    different = _differences(real, inspections)
    counts = ("partitions", "segments", "batches", "records", "size_bytes")
    return Report(
        root,
        problems=(*(problem for report in reports for problem in report.problems), *different),
        notes=tuple(note for report in reports for note in report.notes),
        topics=max(report.topics for report in reports),
        **{name: sum(getattr(report, name) for report in reports) for name in counts},
    )


def _has_log(inspection: Inspection, path: str) -> bool:
    """Whether a log lies in this directory; or it cannot be read, which is a problem of the log's."""
    try:
        return inspection.exists(f"{path}/{OWNER_FILE}")
    except StorageError:
        return True


def _verify_broker(path: str, disk: Disk, progress: Progress | None) -> Inspection:
    inspection = Inspection(path, disk, progress)
    try:
        if inspection.exists(f"{path}/{OWNER_FILE}"):
            inspection.run()
        else:
            inspection.problem(
                path, "missing", "the directory of this broker is missing, or is empty, or has lost its owner file"
            )
    except StorageError as error:
        inspection.problem(path, "unreadable", str(error).partition(". ")[0])
    return inspection


def _verify_others(root: str, inspections: list[Inspection], disk: Disk, progress: Progress | None) -> list[Inspection]:
    """The brokers that the metadata names, and whose directories are not in `root`."""
    known: dict[int, BrokerRegistration] = {}
    for each in inspections:
        for broker in each.image.brokers.values():
            if broker.id not in known or broker.epoch > known[broker.id].epoch:
                known[broker.id] = broker
    for each in inspections:
        found = known.get(each.broker_id) if each.broker_id is not None else None
        if found is not None and found.directory_id not in ("", each.directory_id):
            each.problem(
                each.path, "replaced", f"this is an older directory of broker {found.id}, which got another one since"
            )
    here = {each.broker_id for each in inspections}
    looked_at = {each.path for each in inspections}
    paths = [presence.path_of(known[each], root) for each in sorted(known.keys() - here)]
    return [_verify_broker(path, disk, progress) for path in paths if path is not None and path not in looked_at]


def _differences(disk: Disk, inspections: list[Inspection]) -> list[Problem]:
    """Where the replicas of a partition have other records than the first of them, before the least of their high watermarks.

    A replica whose high watermark is not known, because its broker has not published it, is not compared.
    """
    found: list[Problem] = []
    marks = {each.path: known_high_watermarks(disk, each.path) for each in inspections}
    views = {view.id: view for each in inspections for view in each.image.topics.values()}
    for view in sorted(views.values(), key=lambda view: view.name):
        for number in range(view.partitions):
            seed = seed_of(view.id_bytes, number)
            replicas = [
                Replica(each.broker_id, directory, marks[each.path][seed])
                for each in inspections
                if each.broker_id is not None
                and seed in marks[each.path]
                and each.exists(directory := f"{each.path}/{directory_of(view, number)}")
            ]
            try:
                found += [_different(view.name, number, each) for each in differences(disk, replicas, seed)]
            except OSError as error:  # the check of the directory reports it
                require_disk_error(error)
    return found


def _different(topic: str, number: int, found: Difference) -> Problem:
    one, other = found.brokers
    message = f"brokers {one} and {other} differ from offset {found.start} to {found.end - 1}: {found.why}"
    return Problem(found.path, found.position, "replicas", message, topic, number)


class Copier(Protocol):
    """Copies the log while an inspection checks it: the inspection calls it with each part that it comes to."""

    def on_metadata(self, image: Image | None) -> None:
        """The metadata log was read; None if it is missing."""

    def on_unnamed(self, name: str) -> None:
        """A partition directory `name` that the metadata does not name, and the metadata is damaged."""

    def on_missing(self, directory: str, view: TopicView, number: int) -> None:
        """A partition whose directory, or every segment in it, is missing."""

    def copying(
        self, topic: str, number: int, directory: str, topic_id: bytes, gaps: bool
    ) -> AbstractContextManager[None]:
        """Held while the partition is checked. `gaps`: a compaction may have removed offsets."""

    def keep(self, topic: str, base_offset: int, header: BatchHeader, data: bytes) -> str | None:
        """Copy a batch that verifies; what is wrong with it, or None. See `CheckRequest.keep`."""

    def recover(self, topic: str, start: int, end: int) -> Iterable[tuple[BatchHeader, bytes]]:
        """Copy lost batches from elsewhere, and give them."""

    def on_change(self) -> None:
        """The directory of a partition changed during the check, which begins again."""


class Inspection:
    """One walk over one broker directory. A `copier` copies what is whole on the way."""

    def __init__(self, path: str, disk: Disk, progress: Progress | None, copier: Copier | None = None) -> None:
        self.path = path
        self.disk = disk
        self.progress = progress
        self._copier = copier
        self.done = self.total = 0
        self.report = Report(path)
        self.shutdown = PreviousShutdown(clean=False, same_boot=True)
        self.coordinator_records = {topic: Records() for topic in _COORDINATORS}
        self.broker_id: int | None = None
        """None while it is not known: then every partition is looked for."""
        self.directory_id = ""
        self.image = metadata.EMPTY
        """What its copy of the metadata says."""

    def run(self) -> Report:
        path = self.path
        names = set(self.names(path))
        if OWNER_FILE not in names:
            message = f"{path} is not a log: it has no {OWNER_FILE}. Give the directory that was opened."
            raise FormatError(message, path=path)
        self.read_owner()
        for name in sorted(names - _ROOT_FILES):
            what = "an unfinished write" if name.endswith(".tmp") else "not a file of a log"
            self._note(f"{path}/{name}", "leftover", what)
        self.inspect(self.names(f"{path}/topics"))
        return self.report

    def names(self, directory: str) -> list[str]:
        """The names in a directory; none if it does not exist. Raises StorageError."""
        try:
            return self.disk.listdir(directory)
        except OSError as error:
            require_disk_error(error)
            if error.errno == errno.ENOTDIR and directory != self.path:
                self.problem(directory, "unreadable", "it is not a directory")
                return []
            if error.errno in (errno.ENOENT, errno.ENOTDIR):
                return []
            raise as_storage_error(error, "read", directory) from error

    def exists(self, path: str) -> bool:
        """Raises StorageError, as `names`."""
        try:
            return self.disk.exists(path)
        except OSError as error:
            raise as_storage_error(error, "read", path) from error

    def inspect(self, topic_dirs: list[str]) -> None:
        """Check the metadata log and every partition. `topic_dirs` are the names in `topics/`."""
        path = self.path
        self.total = sum(self._size(f"{path}/{name}") for name in [METADATA_DIR, *(f"topics/{n}" for n in topic_dirs)])
        self._step(0)
        image = self._metadata()
        if self._copier is not None:
            self._copier.on_metadata(image)
        self._topics(image, topic_dirs)
        if self.progress is not None:
            self.progress(self.total, self.total)

    def read_owner(self) -> None:
        owner_path = f"{self.path}/{OWNER_FILE}"
        try:
            owner = read_owner(self.disk, owner_path)
        except OtherFormatError:
            raise
        except (FormatError, StorageError) as error:
            self.problem(owner_path, "owner", str(error).partition(". ")[0])
            return
        self.broker_id, self.directory_id = owner["broker_id"], owner["directory_id"]
        boot = self.disk.boot_id()
        self.shutdown = PreviousShutdown(clean=owner["clean"], same_boot=bool(boot) and owner["boot_id"] == boot)

    def _size(self, directory: str) -> int:
        """The bytes of the segments in a partition directory, as far as they can be read."""
        total = 0
        try:
            for name in self.disk.listdir(directory):
                if name.endswith((".log", ".swap")):
                    file = self.disk.open(f"{directory}/{name}", writable=False)
                    total += file.size()
                    file.close()
        except OSError as error:
            require_disk_error(error)
            return total
        return total

    def _step(self, n: int) -> None:
        self.done += n
        if self.progress is not None:
            self.total = max(self.total, self.done)
            self.progress(self.done, self.total)

    # -- metadata and topics -------------------------------------------------------------------------

    def _metadata(self) -> Image | None:
        directory = f"{self.path}/{METADATA_DIR}"
        if self._is_lost(directory, METADATA_ID.bytes, 0):
            self.problem(directory, "missing", "the metadata log is missing: no topic is known", METADATA_TOPIC, 0)
            return None
        records = Records()
        self.partition(METADATA_TOPIC, 0, directory, METADATA_ID.bytes, True, records)
        image = metadata.EMPTY
        for record in records.found:
            try:
                image = metadata.replay(image, [record])
            except FormatError as error:
                self.problem(directory, "metadata", str(error).rstrip("."), METADATA_TOPIC, 0)
        self.image = image
        return image

    def _topics(self, image: Image | None, topic_dirs: list[str]) -> None:
        views = {view.id.hex: view for view in image.topics.values()} if image is not None else {}
        self.report = replace(self.report, topics=sum(not view.internal for view in views.values()))
        for name in topic_dirs:
            match = _TOPIC_DIR.fullmatch(name)
            view = views.get(match[1]) if match is not None else None
            if match is None or view is None or int(match[2]) >= view.partitions:
                self._stranger(name, match is not None, image is not None and not self._hurt(METADATA_TOPIC))
        # The groups first: the end of a lost partition may be known from what they committed.
        for view in sorted(views.values(), key=lambda view: view.name != GROUPS_TOPIC):
            for number in range(view.partitions):
                if image is not None and self._is_elsewhere(image, view, number):
                    continue
                directory = f"{self.path}/{directory_of(view, number)}"
                if self._is_lost(directory, view.id_bytes, number):
                    self._absent(directory, view, number)
                    continue
                records = self.coordinator_records.get(view.name)
                self.partition(view.name, number, directory, view.id_bytes, view.config.compacts, records)
                for record in records.found if records is not None else ():
                    self._coordinator_record(view.name, number, directory, record)

    def _is_elsewhere(self, image: Image, view: TopicView, number: int) -> bool:
        """Whether the partition is on other brokers. A repair copies all that there is."""
        if self.broker_id is None or self.broker_id in image.partition(view.id_bytes, number).replicas:
            return False
        return self._copier is None or not self.exists(f"{self.path}/{directory_of(view, number)}")

    def _is_lost(self, directory: str, topic_id: bytes, number: int) -> bool:
        try:
            return is_lost(self.disk, directory, topic_id, number, was_clean=self.shutdown.clean)
        except OSError as error:  # the check reports it
            require_disk_error(error)
            return False

    def _hurt(self, topic: str) -> bool:
        return any(problem.topic == topic for problem in self.report.problems)

    def _stranger(self, name: str, is_partition: bool, trusted: bool) -> None:
        path = f"{self.path}/topics/{name}"
        if not is_partition:
            self._note(path, "leftover", "not a directory of a partition")
        elif trusted:
            message = "no topic has this partition: it was being made, or deleted; the next open removes it"
            self._note(path, "orphan", message)
        else:
            self.problem(path, "orphan", "the metadata that would say which topic this belongs to is damaged")
            if self._copier is not None:
                self._copier.on_unnamed(name)

    def _absent(self, directory: str, view: TopicView, number: int) -> None:
        if not self._is_gone(view.name):
            message = "the partition's directory is missing, or no segment is in it any more: its records are lost"
            self.problem(directory, "missing", message, view.name, number, (0, FOREVER_OFFSET))
        if self._copier is not None:
            self._copier.on_missing(directory, view, number)

    def _is_gone(self, topic: str) -> bool:
        """Whether the topic was deleted since the metadata was read, which happens in a log that is open."""
        records = Records()
        if self.shutdown.clean:
            return False
        request = self._request(METADATA_TOPIC, 0, f"{self.path}/{METADATA_DIR}", METADATA_ID.bytes, True, records)
        check_partition(self.disk, request._replace(progress=None))
        try:
            return topic not in metadata.replay(metadata.EMPTY, records.found).topics
        except FormatError:
            return False

    def _coordinator_record(self, topic: str, number: int, directory: str, record: LogRecord) -> None:
        fault = coordinator_fault(topic, record)
        if fault is not None:
            self.problem(directory, _COORDINATORS[topic][1], fault, topic, number)

    # -- partitions ----------------------------------------------------------------------------------

    def _request(
        self, topic: str, number: int, directory: str, topic_id: bytes, gaps: bool, records: Records | None
    ) -> CheckRequest:
        start = self.done

        def restart() -> None:
            self.done = start
            if records is not None:
                records.found.clear()

        visit = records.visit if records is not None else None
        seed = seed_of(topic_id, number)
        request = CheckRequest(directory, topic_id, number, seed, self.shutdown, gaps, visit, self._step, restart)
        if self._copier is None:
            return request
        return request._replace(
            keep=partial(self._copier.keep, topic),
            restart=self._copier.on_change,
            recover=partial(self._copier.recover, topic),
        )

    def partition(
        self, topic: str, number: int, directory: str, topic_id: bytes, gaps: bool, records: Records | None
    ) -> None:
        """Check one partition, and report what is wrong with it. `records` collects its keyed records."""
        copier = self._copier
        with copier.copying(topic, number, directory, topic_id, gaps) if copier is not None else nullcontext():
            self._check(self._request(topic, number, directory, topic_id, gaps, records), topic)

    def _check(self, request: CheckRequest, topic: str) -> None:
        directory, number = request.directory, request.partition
        try:
            checked = check_partition(self.disk, request)
        except FormatError as error:
            self.problem(directory, "format", str(error), topic, number)
            return
        except OSError as error:
            require_disk_error(error)
            self.problem(directory, "unreadable", error.strerror or str(error), topic, number, (0, FOREVER_OFFSET))
            return
        self._count(checked)
        for finding in checked.findings:
            self._found(finding, topic, number)

    def _count(self, checked: Checked) -> None:
        report = self.report
        self.report = replace(
            report,
            partitions=report.partitions + 1,
            segments=report.segments + checked.segments,
            batches=report.batches + checked.batches,
            records=report.records + checked.records,
            size_bytes=report.size_bytes + checked.size_bytes,
        )

    def _found(self, finding: Finding, topic: str, number: int) -> None:
        path, position, kind, message, lost, _, size = finding
        made = Problem(path, position, kind, message, topic, number, lost, size)
        if finding.is_note:
            self.report = replace(self.report, notes=(*self.report.notes, made))
        else:
            self.report = replace(self.report, problems=(*self.report.problems, made))

    def problem(
        self, path: str, kind: str, message: str, topic: str | None = None, partition: int | None = None,
        lost: tuple[int, int] | None = None,
    ) -> None:  # fmt: skip
        made = Problem(path, 0, kind, message, topic, partition, lost)
        self.report = replace(self.report, problems=(*self.report.problems, made))

    def _note(self, path: str, kind: str, message: str, topic: str | None = None, partition: int | None = None) -> None:
        made = Problem(path, 0, kind, message, topic, partition)
        self.report = replace(self.report, notes=(*self.report.notes, made))


def coordinator_fault(topic: str, record: LogRecord) -> str | None:
    """What is wrong with a record of the topic of the groups, or of the transactions, or None. A record of a newer version is
    not looked into."""
    key, value = record
    try:
        _COORDINATORS[topic][0](key, value)
    except FormatError as error:
        return f"the record of key {key!r} makes no sense: {error}"
    return None


class Records:
    """Collects the keyed records of an internal topic, in order."""

    def __init__(self) -> None:
        self.found: list[LogRecord] = []

    def visit(self, header: BatchHeader, columns: BatchColumns) -> None:
        if header.is_control:
            return
        full = columns.all()
        self.found += [(key, value) for key, value in zip(full.keys, full.values, strict=True) if key is not None]
