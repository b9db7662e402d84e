"""Which brokers of a log are here when it is opened, and whether they are enough: what the metadata's newest copy says of it.

A broker's directory may be missing, or empty: a disk that is not mounted looks like that. Such a broker does not run, and keeps no
log from being opened; nothing is made in its place, because what is acknowledged may be on that disk. The log opens if more than
half of the recorded copies of the metadata are here: each change is in force only when half of them have it, so the newest
change is in one of these. Otherwise the missing ones may know of changes, and of records, that those here do not: `force=True`
accepts to lose them.

"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from ..errors import (
    ConfigError,
    CorruptRecordError,
    FormatError,
    LogDirNotFoundError,
    LogLockedError,
    PoisonedLogError,
    StorageError,
    StreamlogError,
)
from ..replication.partition import Partition
from ..runtime.values import refuse_to_copy
from . import metadata
from .broker import Broker
from .log_directory import LogDirectory
from .metadata import BrokerRegistration, Image
from .metadata_copies import newest, peers_of
from .owner import OWNER_FILE, OtherFormatError
from .replay import all_batches, all_records

logger = logging.getLogger("streamlog.broker")

FORCED_EPOCHS = 1 << 16
"""How far leader epochs go on in an open that was forced: what the missing copies have is of other epochs, whatever they did."""


def recorded_path(path: str, root: str | None) -> str:
    """A broker's directory as its record has it: a log that is moved, or copied, takes along what lies in its own directory."""
    return path[len(root) + 1 :] if root is not None and path.startswith(f"{root}/") else path


def root_of(image: Image, here: Mapping[int, str]) -> str | None:
    """The log's own directory, if the directories `here`, by broker, say where it is."""
    for broker_id, path in here.items():
        known = image.brokers.get(broker_id)
        if known is not None and known.path and path.endswith(f"/{known.path}"):
            return path[: -len(known.path) - 1]
    return None


def path_of(broker: BrokerRegistration, root: str | None) -> str | None:
    """Where a broker's directory was last; None if that is not known."""
    if not broker.path or broker.path.startswith("/"):
        return broker.path or None
    return None if root is None else f"{root}/{broker.path}"


def refusal(image: Image, directory: LogDirectory) -> FormatError | None:
    """Why this is not the directory of the broker that its owner file names; None if it is."""
    known = image.brokers.get(directory.broker_id)
    path = f"{directory.path}/{OWNER_FILE}"
    if known is None:
        return FormatError(
            f"{path} says that it is of broker {directory.broker_id}, and the log has no such broker (any more). It is left as it is.",
            path=path,
        )
    if known.directory_id in ("", directory.directory_id):
        return None
    return FormatError(
        f"{directory.path} is an older directory of broker {known.id}, which got another one since (the log records the directory id "
        f"{known.directory_id}, and {OWNER_FILE} has {directory.directory_id}). It is left as it is: bring back the other one; or "
        f"empty this one, and log.brokers[{known.id}].start() fills it from the other brokers.",
        path=path,
    )


def other_log(broker_id: int, directory: LogDirectory) -> FormatError:
    """The refusal to start a broker in a directory that is not its own."""
    return FormatError(
        f"{directory.path} is not the directory of broker {broker_id} of this log: its {OWNER_FILE} says that it is of broker "
        f"{directory.broker_id}, of log {directory.cluster_id}. It is left as it is. Bring back the broker's own directory; without one "
        f"at its place it is made anew.",
        path=f"{directory.path}/{OWNER_FILE}",
    )


def outdated(copies: Sequence[Partition]) -> set[int]:
    """The brokers whose directories are older copies: they ran on, and made changes that are not in them.

    A change is in force once it is in the directory of every broker that runs, so until it was fenced a broker has had all of them but the
    last, which may have been cut short. Nothing is known of the time in which such a broker ran alone.
    """
    latest = newest(list(copies))
    end = latest.log.tail.end_offset
    ends = {copy.broker_id: copy.log.tail.end_offset for copy in copies if copy.log.tail.end_offset < end}
    had: dict[int, int] = {}
    last = 0
    for header, records in all_batches(latest, end) if ends else ():
        for broker_id, is_fenced in metadata.fenced_in(records).items():
            if is_fenced:
                had.setdefault(broker_id, last)
            else:
                had.pop(broker_id, None)
        last = header.base_offset
    return {broker_id for broker_id, own_end in ends.items() if own_end < had.get(broker_id, last)}


def older_copy(broker_id: int, path: str, alone: Sequence[str]) -> FormatError:
    """What is said of such a directory; `alone`: the partitions of which no other broker is here that was in sync."""
    needs = (
        f"No other broker that was in sync with {', '.join(alone)} is here, so these stay as they are, without a leader. Bring the newer "
        f"directory back, and open the log again; or accept the loss: with log.brokers[{broker_id}].start(), or an open with force=True."
        if alone
        else "It is brought up to date from the other brokers."
    )
    return FormatError(
        f"{path} is an older copy of the directory of broker {broker_id}, which has run since. What it alone has acknowledged in that time is "
        f"not in it. {needs}",
        path=path,
    )


def others_directory(broker_id: int, directory: LogDirectory) -> FormatError:
    """The refusal to start a broker in the directory of one that runs."""
    return FormatError(
        f"{directory.path}, where the directory of broker {broker_id} was, is that of broker {directory.broker_id} now, which runs there. "
        f"It is left as it is. Close the log and open it again: an open finds the directories of brokers by what is in them.",
        path=directory.path,
    )


def missing(broker_id: int, path: str) -> LogDirNotFoundError:
    """Why a broker whose directory is not there does not run."""
    return LogDirNotFoundError(
        f"The directory of broker {broker_id} is missing, or is empty (it may be a disk that is not mounted): {path}. Bring it back, and "
        f"start the broker, or open the log again. If it is lost, log.brokers[{broker_id}].start() makes it anew and fills it from "
        f"the other brokers.",
        path=path,
    )


def too_few_copies(
    image: Image, here: Mapping[int, str], absent: Mapping[int, StreamlogError]
) -> LogDirNotFoundError | None:
    """The refusal of an open with the brokers `here`, by their directories; None if they are enough. `absent`: why others do not run."""
    copies = image.copies or frozenset(image.brokers)  # where all are fenced, any one may have been the last that ran
    found = copies.intersection(here)
    if 2 * len(found) > len(copies):
        return None
    lacking = sorted(copies - found)
    named = " ".join(f"Broker {each}: {str(absent[each]).partition('. ')[0].rstrip('.')}." for each in lacking)
    return LogDirNotFoundError(
        f"{len(found)} of {len(copies)} copies of the log's metadata are here, and more than half are needed: the others may have later "
        f"changes, and records that were acknowledged since. {named} Those in {', '.join(here.values())} are here, and "
        f"nothing was changed there. Bring the others back and open again; or open with force=True: then what the missing directories alone "
        f"have (topics, settings, records) is lost, and is removed from them when they come back.",
        path=getattr(absent[lacking[0]], "path", ""),
    )


class Presence:
    """The brokers of a log with several while it is opened: `all` are those that were given, and then those that the metadata names.

    `new_broker`: one with this directory and id, which is not open. `root`: see `Brokers`.
    """

    __reduce_ex__ = refuse_to_copy

    def __init__(
        self, brokers: list[Broker], new_broker: Callable[[str, int], Broker], root: str | None, *, is_replicated: bool
    ) -> None:
        self.all = brokers
        self.root = root
        self.is_forced = False
        """Whether the log was opened without enough copies of its metadata."""
        self.moved: dict[int, str] = {}
        """Where brokers are looked for that are not here, and at whose place another one is, which was elsewhere before."""
        self._new_broker = new_broker
        self._is_replicated = is_replicated
        self._given = [] if root is not None else [broker.directory.path for broker in brokers]

    @property
    def running(self) -> list[Broker]:
        return [broker for broker in self.all if broker.running]

    def copies(self) -> list[Partition]:
        """The metadata logs of those that run."""
        return [copy for broker in self.running if (copy := broker.replicas.metadata) is not None]

    def take_directories(self, lock_timeout: float, check: Callable[[int], object] = lambda brokers: None) -> None:
        """Open the directories that are there; those of a new log are made. A broker of which that fails does not run.

        `check` gets the number of a new log's brokers before anything is made. Raises what opening a directory raises, if the log has
        one broker, or is new; LogLockedError, and OtherFormatError.
        """
        there: list[Broker] = []
        for broker in self.all if self._is_replicated else ():
            broker.running = False
            try:
                if broker.directory.is_there():
                    there.append(broker)
            except (FormatError, StorageError) as error:
                broker.failure = error
        if not there and (failures := [each.failure for each in self.all if each.failure is not None]):
            raise failures[0]
        if not there:
            check(len(self.all))
        try:
            for broker in self.all:
                if there:
                    self._take(broker, lock_timeout)
                else:  # all directories are there before the first of them becomes a log's
                    broker.running = True
                    broker.directory.open(lock_timeout)
        except BaseException:
            for broker in self.running:
                broker.drop(untouched=True)
            raise

    def _take(self, broker: Broker, lock_timeout: float) -> None:
        """Open the directory of a broker, and its copy of the metadata log, unless there is a reason for it not to run."""
        if broker.failure is not None:
            return
        try:
            if not broker.directory.is_there():
                return
            broker.running = True  # first: it is closed, whatever comes in between
            broker.directory.open(lock_timeout)
            broker.open_metadata()
        except (LogLockedError, OtherFormatError):
            raise
        except (FormatError, StorageError, CorruptRecordError, PoisonedLogError) as error:
            self._leave_out(broker, error)

    @staticmethod
    def _leave_out(broker: Broker, failure: StreamlogError) -> None:
        if broker.running:
            broker.drop(untouched=True)
        broker.failure = failure

    def find(
        self, lock_timeout: float, *, force: bool = False, count: int | None = None,
        check: Callable[[int], object] = lambda brokers: None,
    ) -> None:  # fmt: skip
        """Find the brokers, and open the copies of the metadata log that are here.

        `count` is how many brokers the log should have, or None; `check` gets how many it has. Raises ConfigError for another number,
        and for directories of different logs; LogDirNotFoundError if too few of them are here, unless `force` is given.
        """
        there = self.running
        self._require_one_log(there)
        image = self._find_others(lock_timeout)
        if image.brokers:
            self._call_the_roll(image)
            check(len(self.all))
            if count not in (None, len(self.all)):
                raise other_count(self.root or self.all[0].directory.path, len(self.all), count)
            self._find_older_copies(image, force=force)
            self._require_copies(image, force=force)
        else:
            self._make_new(lock_timeout)

    def _make_new(self, lock_timeout: float) -> None:
        """The log is new, or its creation was cut short: no broker was registered, so nothing is in any directory that is missing."""
        for broker in self.all:
            if not broker.running:
                if broker.failure is not None:
                    raise broker.failure
                broker.running = True
                broker.directory.open(lock_timeout)
        self._require_one_log(self.all)
        self._require_one_each(self.all)
        cluster_id = next((each.directory.cluster_id for each in self.all if not each.directory.is_new), None)
        for broker in self.all:
            if broker.directory.is_new:
                broker.directory.join(cluster_id or self.all[0].directory.cluster_id)
                broker.open_metadata()

    def _find_others(self, lock_timeout: float) -> Image:
        """Open also the directories that the metadata names and that were not given; what its newest copy says."""
        while True:
            copies = self.copies()
            for copy in copies:
                copy.maintenance.repairs.peers = partial(peers_of, copy, copies)
            image = metadata.EMPTY
            if copies:
                latest = newest(copies)
                image = metadata.replay(image, all_records(latest, latest.log.tail.end_offset))
            own = [broker.directory for broker in self.running if refusal(image, broker.directory) is None]
            here = {directory.broker_id: directory.path for directory in own}
            self.root = self.root or root_of(image, here)
            looked_at = {broker.directory.path for broker in self.all}
            recorded = [
                (each.id, path) for each in image.brokers.values() if (path := path_of(each, self.root)) is not None
            ]
            found = [(broker_id, path) for broker_id, path in recorded if broker_id not in here]
            if found and looked_at.issuperset(path for _, path in found):  # two may have been exchanged
                found = [(broker_id, path) for broker_id, path in recorded if here.get(broker_id) != path]
            new = [(broker_id, path) for broker_id, path in found if path not in looked_at]
            if not new:
                return image
            for broker_id, path in new:
                broker = self._new_broker(path, broker_id)
                broker.running = False
                self.all.append(broker)
                self._take(broker, lock_timeout)
            self._require_one_log(self.running)

    def _call_the_roll(self, image: Image) -> None:
        """Have `all` be the brokers that the metadata names, in the order of their ids; those that are not here do not run."""
        for broker in self.running:
            failure = refusal(image, broker.directory)
            if failure is not None:
                self._leave_out(broker, failure)
        self._require_one_each(self.running)
        here = {broker.id: broker for broker in self.running}
        absent = {broker.directory.path: broker for broker in self.all if not broker.running}
        recorded = {path for known in image.brokers.values() if (path := path_of(known, self.root)) is not None}
        # Directories that were given, and in which no log lies: for brokers whose own ones were not given.
        empty = [
            path for path in self._given if path in absent and path not in recorded and absent[path].failure is None
        ]
        brokers = []
        for known in sorted(image.brokers.values()):
            path = path_of(known, self.root)
            if known.id not in here and path is not None and (place := self._place_left_for(image, path)) is not None:
                path = self.moved[known.id] = place
            if known.id not in here and (path is None or (empty and path not in self._given)):
                path = empty.pop(0) if empty else f"{self.root or ''}/broker-{known.id}"
            brokers.append(here.get(known.id) or self._absent(known.id, path or "", absent.pop(path or "", None)))
        for left in absent.values():
            if left.failure is not None:
                logger.warning("%s is no broker of this log: %s", left.directory.path, left.failure)
        spare = [path for path in self._given if path in absent and absent[path].failure is None]
        if spare:
            raise _too_many(spare, len(self._given), len(brokers))
        self.all[:] = brokers

    def _place_left_for(self, image: Image, path: str) -> str | None:
        """The place that a broker has left which is at `path` now, the place of another one; None if it is at its own.

        Directories that were exchanged are found by what is in them, and one of them may not be readable now. The other one's record
        will name its new place: without this nothing would name the old one, and no later open would look there.
        """
        owners = {broker.directory.path: broker.id for broker in self.running}
        place: str | None = path
        for _ in owners:
            if place not in owners:
                break
            place = path_of(image.brokers[owners[place]], self.root)
        return None if place == path or place in owners else place

    def _absent(self, broker_id: int, path: str, before: Broker | None) -> Broker:
        """A broker that is not here; `before` is what is known of its directory."""
        broker = self._new_broker(path, broker_id)
        broker.running = False
        owner = next((each.directory for each in self.running if each.directory.path == path), None)
        is_not_here = missing(broker_id, path) if owner is None else others_directory(broker_id, owner)
        broker.failure = (before.failure if before is not None else None) or is_not_here
        return broker

    def _find_older_copies(self, image: Image, *, force: bool) -> None:
        """A broker whose directory is an older copy does not run if only it can lead a partition, unless `force` is given."""
        older = outdated(self.copies())
        whole = {broker.id for broker in self.running} - older
        for broker in [each for each in self.running if each.id in older]:
            alone = [
                f"{image.names.get(topic_id, '?')}-{number}"
                for topic_id, partitions in image.partitions.items()
                for number, partition in partitions.items()
                if broker.id in partition.isr and not whole.intersection(partition.isr)
            ]
            failure = older_copy(broker.id, broker.directory.path, alone)
            if alone and not force:
                self._leave_out(broker, failure)
            else:
                logger.warning("%s", failure)

    def _require_copies(self, image: Image, *, force: bool) -> None:
        here = {broker.id: broker.directory.path for broker in self.running}
        absent = {broker.id: broker.failure for broker in self.all if broker.failure is not None}
        refused = too_few_copies(image, here, absent)
        if refused is not None and not force:
            raise refused
        self.is_forced = refused is not None
        for broker_id, failure in absent.items():
            logger.warning("broker %d does not run: %s", broker_id, failure)
        if refused is not None:
            logger.warning("the log is opened all the same, as force=True says: %s", refused)

    @staticmethod
    def _require_one_log(brokers: list[Broker]) -> None:
        logs: dict[str, list[str]] = {}
        for directory in [broker.directory for broker in brokers]:
            if not directory.is_new:
                logs.setdefault(directory.cluster_id, []).append(directory.path)
        if len(logs) > 1:
            belongings = "; ".join(
                f"{', '.join(paths)} to log {cluster_id}" for cluster_id, paths in sorted(logs.items())
            )
            raise ConfigError(
                f"The directories do not belong to one log: {belongings}. Nothing was changed. Give those that were given when it was "
                f"created, and take away what belongs to another one.",
                name="brokers",
            )

    @staticmethod
    def _require_one_each(brokers: list[Broker]) -> None:
        owners: dict[int, list[str]] = {}
        for directory in [broker.directory for broker in brokers]:
            owners.setdefault(directory.broker_id, []).append(directory.path)
        for broker_id, paths in owners.items():
            if len(paths) > 1:
                raise ConfigError(
                    f"{' and '.join(paths)} are all directories of broker {broker_id}: copies of one another. Nothing was changed. Take away "
                    f"those that are older.",
                    name="brokers",
                )


def other_count(path: str, has: int, wanted: int | None) -> ConfigError:
    """The refusal of an open with another number of brokers than the log has."""
    return ConfigError(
        f"{path} is a log of {has} broker{'s' * (has > 1)}, and was opened with brokers={wanted}. Leave `brokers` out: an open finds "
        f"out by itself.{' log.add_broker() adds one to an open log.' if wanted is not None and 1 < has < wanted else ''}",
        name="brokers",
    )


def _too_many(spare: list[str], given: int, has: int) -> ConfigError:
    """The refusal of a list of directories of which some are those of no broker."""
    one = len(spare) == 1
    return ConfigError(
        f"This is a log of {has} brokers, and was opened with {given} directories. {', '.join(spare)} "
        f"{'is' if one else 'are'} empty, and no broker's that is missing. Nothing was changed. Leave {'it' if one else 'them'} out; to "
        f"have more brokers, add {'it' if one else 'each'} to the open log: log.add_broker({spare[0]!r}).",
        name="brokers",
    )
