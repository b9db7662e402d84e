"""`streamlog.json`, the owner file: what identifies the directory, and how it was closed.

It is padded to one sector, so that it can also be written in place, whole or not at all: a full disk has no space for the
temporary file of an atomic write, and must not keep a log from being opened or closed.
"""

from __future__ import annotations

import errno
import json
import logging
import re
from collections.abc import Iterable
from typing import Any

from ..errors import FormatError, StorageError
from ..runtime.api import Disk
from ..runtime.disk_errors import ignored, require_disk_error
from ..storage.files import as_storage_error

logger = logging.getLogger("streamlog.broker")

# The format that is written, and the only one that is read; `storage/FORMAT.md` describes it.
FORMAT = 2
OWNER_FILE = "streamlog.json"
SECTOR_BYTES = 512
_BROKER = re.compile(r"broker-(0|[1-9][0-9]*)")
# The epochs of the metadata log that may be reserved, of 32 bits: an open adds some to the last one.
_EPOCHS_END = (1 << 31) - (1 << 20)
_NO_FILE = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP)
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


def broker_names(names: Iterable[str]) -> list[str]:
    """Those of the names in a log's directory that are its brokers' directories, in the order of their numbers."""
    return sorted(filter(_BROKER.fullmatch, names), key=lambda name: int(name[7:]))


def is_retired(disk: Disk, directory: str) -> bool:
    """Whether a broker's directory says that its log does not have the broker any more."""
    try:
        return read_owner(disk, f"{directory}/{OWNER_FILE}").get("retired") is True
    except (FormatError, StorageError):  # it is missing, or cannot be read: whatever opens it says so
        return False


class OtherFormatError(FormatError):
    """The directory is a log, of a format that this version does not read."""


def read_owner(disk: Disk, path: str) -> dict[str, Any]:
    """The owner file's contents.

    Raises FormatError if it is missing or damaged, OtherFormatError for a newer or older format, StorageError if the disk does
    not give it.
    """
    try:
        owner = json.loads(disk.read(path, 1 << 20))
        format_, min_reader = owner["format"], owner["min_reader"]
        for name, kind in (
            ("incarnation", int), ("boot_id", str), ("clean", bool), ("features", list), ("min_reader", int),
            ("format", int), ("broker_id", int), ("cluster_id", str), ("directory_id", str),
        ):  # fmt: skip
            if type(owner[name]) is not kind:
                raise ValueError(name)
        for name, end in (("incarnation", 1 << 62), ("broker_id", 1 << 31), ("metadata_epoch", _EPOCHS_END)):
            number = owner.get(name, 0)
            if type(number) is not int or not 0 <= number < end:
                raise ValueError(name)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise FormatError(
            f"{path} cannot be understood ({error}), so the directory is not a log, or a damaged one. Nothing was changed; "
            f"restore the file from a copy, or copy what is whole into a new log with streamlog.repair().",
            path=path,
        ) from error
    except OSError as error:
        if error.errno not in _NO_FILE:
            raise as_storage_error(error, "read", path) from error
        require_disk_error(error)
        raise FormatError(f"{path} cannot be read as a file of a log: {error.strerror or error}.", path=path) from error
    if format_ < FORMAT:
        raise OtherFormatError(
            f"{path} is of format {format_}, which streamlog 0.1 wrote; this streamlog reads format {FORMAT} only. Nothing "
            f"was changed. Read the log with streamlog 0.1, and send its records to a new log.",
            path=path,
        )
    if min_reader > FORMAT or owner["features"]:
        raise OtherFormatError(
            f"{path} is of format {format_} (readable from {min_reader} on, features {owner['features']}); this streamlog "
            f"knows format {FORMAT}. Open it with a newer streamlog.",
            path=path,
        )
    result: dict[str, Any] = owner
    return result


def new_owner(cluster_id: str, directory_id: str, broker_id: int = 0) -> dict[str, Any]:
    """The owner file of a new directory; `incarnation` counts the opens for writing."""
    return {
        "format": FORMAT,
        "min_reader": FORMAT,
        "features": [],
        "cluster_id": cluster_id,
        "broker_id": broker_id,
        "directory_id": directory_id,
        "incarnation": 0,
    }


def write_owner(disk: Disk, path: str, owner: dict[str, Any]) -> None:
    """Replace the owner file; it is on the device on return.

    On a full disk it is overwritten where it lies. Raises OSError if that cannot be done either: what an owner appends may
    be taken for damage of a log that was closed, unless the device says that it is in use.
    """
    data = json.dumps(owner, indent=1).encode()
    data += b" " * (SECTOR_BYTES - len(data) - 1) + b"\n"
    try:
        disk.write_atomic(path, data)
    except OSError as error:
        require_disk_error(error)
        if error.errno not in _NO_ROOM or len(data) > SECTOR_BYTES or not disk.exists(path):
            raise
        with ignored(OSError):
            disk.unlink(f"{path}.tmp")
        _overwrite(disk, path, data)


def _overwrite(disk: Disk, path: str, data: bytes) -> None:
    file = disk.open(path)
    try:
        before = file.pread(SECTOR_BYTES, 0)
        try:
            file.pwrite([data], 0)
        except OSError as error:
            require_disk_error(error)
            # Part of it may be there, before the rest of what was: no file of a log any more. A device writes a sector
            # whole or not at all, so what is written back is all that anybody finds.
            with ignored(OSError):
                file.pwrite([before], 0)
            raise
        if file.size() > len(data):
            file.truncate(len(data))
        file.sync()
    finally:
        file.close()
    # What failed may have been the last step, after the rename: then the name on the device is that of the file before.
    disk.sync_dir(path[: path.rindex("/")])
