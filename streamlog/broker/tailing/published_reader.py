"""The reader of DIR/published: its contents as they were last read, and which process owns the directory.

A look is one pread. A slot that does not verify is being written, and is read again by the next look. Whether the owner is
alive is checked only when the file has not changed for a while; no lock is taken for that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Set
from enum import Enum
from typing import Any

from ...errors import FormatError
from ...runtime.api import Disk, File
from ...runtime.disk_errors import require_disk_error
from ...runtime.values import refuse_to_copy
from ...storage.files import as_storage_error
from ...storage.published import CLOSED, EMPTY, NAME, OPEN, OPENING, SLOT_BYTES, Header, Slot, parse_header, parse_slot
from ..owner import OWNER_FILE, read_owner

# After how long without a change it is checked whether the owner is alive, and how often after that.
_SILENCE_S = 0.1
_ASK_AGAIN_S = 0.25
_MORE_BYTES = 32 * SLOT_BYTES
# Slots are compared in runs of so many bytes, and one by one only where a run differs: of 10,000 partitions few have changed.
_RUN_BYTES = 64 * SLOT_BYTES
_TRIES = 3


class Situation(Enum):
    """The state of the directory's owner, as far as a reader can find out."""

    OPENING = "an owner is opening it: what was known of it is still valid, and nothing new can be read yet"
    PUBLISHED = "the slots have the ends: an owner writes them, or wrote them when it closed the log"
    ALONE = "no process owns it, and the last owner did not publish the ends: the files have them"


class PublishedReader:
    """See the module. REQUIRES: one thread at a time calls `look`; any thread may read the attributes.

    `slots` is by seed; it is replaced, never changed. `stage` grows with every change of situation or owner.
    """

    __reduce_ex__ = refuse_to_copy

    def __init__(self, disk: Disk, directory: str, monotonic: Callable[[], float]) -> None:
        self._disk = disk
        self.directory = directory
        self._monotonic = monotonic
        self._lock = disk.lock(f"{directory}/lock")
        self._file: File | None = None
        self._data = b""
        self._header: Header | None = None
        self._parsed = b""
        self._by_index: dict[int, Slot] = {}
        self._changed_s = -_SILENCE_S
        self._asked_s = -_ASK_AGAIN_S
        self.slots: dict[int, Slot] = {}
        self.situation = Situation.OPENING
        self.stage = 0
        self.owner: dict[str, Any] = {}

    @property
    def incarnation(self) -> int:
        return self._header.incarnation if self._header is not None else 0

    @property
    def broker_id(self) -> int:
        return int(self.owner.get("broker_id", 0))

    @property
    def is_followed(self) -> bool:
        """Whether an owner has the directory open and publishes what it writes."""
        header = self._header
        return self.situation is Situation.PUBLISHED and header is not None and header.state == OPEN

    @property
    def is_gone(self) -> bool:
        """Whether the directory was removed since it was first looked at, or is not mounted any more."""
        try:
            return not self._disk.exists(f"{self.directory}/{OWNER_FILE}")
        except OSError as error:
            require_disk_error(error)
            return True

    @property
    def same_boot(self) -> bool:
        boot = self._disk.boot_id()
        return bool(boot) and self.owner.get("boot_id") == boot

    @property
    def is_clean(self) -> bool:
        return bool(self.owner.get("clean"))

    def trusted(self, seed: int) -> Slot | None:
        """The last slot that the owner which is gone published of a partition, if it is still valid."""
        return self.slots.get(seed) if self.incarnation == self.owner.get("incarnation") and self.same_boot else None

    def is_last(self, owner: dict[str, Any]) -> bool:
        """Whether no process has opened the directory after `owner` did. Opening it begins with writing the owner file."""
        return bool(self._owner()["incarnation"] == owner["incarnation"])

    def is_between(self) -> bool:
        """Whether the owner whose slots were read is gone, and the next one has not opened the log yet."""
        return self.situation is Situation.OPENING and parse_header(self._read()) == self._header is not None

    def close(self) -> None:
        self._file = None

    # -- looking -------------------------------------------------------------------------------------

    def look(self) -> Set[int] | None:
        """Read the file. The seeds of the slots that changed; None if the situation did. Raises FormatError, StorageError."""
        now = self._monotonic()
        data = self._read()
        if data == self._data:
            if now - self._changed_s >= _SILENCE_S and now - self._asked_s >= _ASK_AGAIN_S:
                self._asked_s = now
                return self._ask()
            return frozenset()
        header = parse_header(data)
        if header is None and data and now - self._changed_s < _SILENCE_S:  # being written
            return frozenset()
        self._changed_s = now
        before = self._header
        self._data, self._header = data, header
        changed = self._parse(data, anew=header is None or before is None or before.incarnation != header.incarnation)
        if header != before or self.situation is Situation.ALONE:
            self._asked_s = now
            return self._ask(changed)
        return changed

    def slot(self, seed: int) -> Slot | None:
        """The partition's slot as it is now; None if it has none any more, or the owner is another one."""
        data = self._read()
        header = parse_header(data)
        if header is None or header.incarnation != self.incarnation:
            return None
        wanted = seed.to_bytes(8, "little")  # what a slot begins with
        at = data.find(wanted, SLOT_BYTES)  # not slot by slot: this is called for each partition that is opened
        while at >= 0:
            if at % SLOT_BYTES == 0:
                found = parse_slot(data[at : at + SLOT_BYTES])
                if found is not None:
                    return found
            at = data.find(wanted, at + 1)
        return None

    def _read(self) -> bytes:
        try:
            file = self._file
            if file is None:
                file = self._file = self._disk.open(f"{self.directory}/{NAME}", writable=False)
            length = len(self._data) + _MORE_BYTES
            while True:
                data = file.pread(length, 0)
                if len(data) < length:
                    return data
                length *= 2
        except FileNotFoundError as error:
            require_disk_error(error)
            return b""
        except OSError as error:
            raise as_storage_error(error, "read", f"{self.directory}/{NAME}") from error

    def _parse(self, data: bytes, *, anew: bool) -> Set[int]:
        """Bring the slots up to `data`; the seeds of those that changed."""
        if anew:
            self._parsed, self._by_index = b"", {}
        changed: set[int] = set()
        found: dict[int, Slot] = {}
        moved = anew
        for at in self._differing(data):
            index, slot_bytes = at // SLOT_BYTES, data[at : at + SLOT_BYTES]
            old = self._by_index.pop(index, None)
            if old is not None:
                changed.add(old.seed)
            slot = parse_slot(slot_bytes)
            if slot is not None:
                self._by_index[index] = found[slot.seed] = slot
                changed.add(slot.seed)
            elif old is not None and slot_bytes != EMPTY:
                self._by_index[index] = old  # being written
                continue
            moved = moved or (old is not None and (slot is None or slot.seed != old.seed))
        end = len(data) // SLOT_BYTES
        if len(data) < len(self._parsed):
            for index in [index for index in self._by_index if index >= end]:
                changed.add(self._by_index.pop(index).seed)
                moved = True
        self._parsed = data
        if moved:  # a seed that is gone from one place may be at another
            self.slots = {slot.seed: slot for slot in self._by_index.values()}
        elif found:
            self.slots = {**self.slots, **found}
        return changed

    def _differing(self, data: bytes) -> Iterator[int]:
        """Where the slots are that differ from those that were parsed last."""
        before = self._parsed
        for run in range(0, len(data), _RUN_BYTES):
            if data[run : run + _RUN_BYTES] == before[run : run + _RUN_BYTES]:
                continue
            for at in range(max(run, SLOT_BYTES), min(run + _RUN_BYTES, len(data) - SLOT_BYTES + 1), SLOT_BYTES):
                if data[at : at + SLOT_BYTES] != before[at : at + SLOT_BYTES]:
                    yield at

    # -- the owner -----------------------------------------------------------------------------------

    def _ask(self, changed: Set[int] = frozenset()) -> Set[int] | None:
        """Find out which process owns the directory; None if that changed, otherwise `changed`."""
        before, owner = self.owner, self._owner()
        situation = self._situation(owner)
        if situation is self.situation and owner["incarnation"] == before.get("incarnation"):
            self.owner = owner
            return changed
        # In this order: a thread that reads the new owner reads the new situation too.
        self.situation = situation
        self.owner = owner
        self.stage += 1
        return None

    def _situation(self, owner: dict[str, Any]) -> Situation:
        """Which process has the directory open, by its owner file's content `owner`. The lock is checked after the
        file was read: if it is free, that process has ended."""
        header = self._header
        state, pid = OPENING, 0
        if header is not None and header.incarnation == owner["incarnation"]:
            state, pid = header.state, header.pid
        try:
            holder = self._lock.holder()
        except OSError as error:
            # A lock file that may not be read: nothing is known, so nothing beyond the slots is read
            require_disk_error(error)
            holder = pid
        # Held by another process, they are those of one that was killed, and the next one has not said so yet. What
        # the dead one did not publish may have been found in the files: they would take that back.
        if state == OPEN and holder in (pid, 0):  # 0: there was no room for the pid
            return Situation.PUBLISHED
        self._file = None  # no process writes it: it may have been replaced by the next look
        if state == CLOSED and (holder is not None or owner["clean"]):  # held, by an owner that is about to be gone
            return Situation.PUBLISHED
        return Situation.ALONE if holder is None else Situation.OPENING

    def _owner(self) -> dict[str, Any]:
        path = f"{self.directory}/{OWNER_FILE}"
        for left in reversed(range(_TRIES)):
            try:
                if not self._disk.exists(path):
                    break
                return read_owner(self._disk, path)
            except OSError as error:
                raise as_storage_error(error, "read", path) from error
            except FormatError:  # on a full disk it is written in place, and was perhaps read meanwhile
                if not left:
                    raise
        if self.owner:  # it was there before: the log was removed
            return self.owner
        raise FormatError(
            f"There is no log in {self.directory} (it has no {OWNER_FILE}), and read_only=True creates none. Give the "
            f"directory of a log, or have the process that is to write it open it first.",
            path=self.directory,
        )
