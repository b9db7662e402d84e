"""The files of a partition directory: replacements that are finished again, and errors that say what happened."""

from __future__ import annotations

import errno
from collections.abc import Callable

from streamlog.errors import LogDirNotFoundError
from streamlog.runtime.owned_disk import StaleOwnerError
from streamlog.storage import compaction, files
from streamlog.storage.files import as_storage_error

from .conftest import Box, six_segments

MakeBox = Callable[..., Box]


def test_finishing_a_replacement_again_does_nothing(box: MakeBox) -> None:
    b = six_segments(box)
    before = b.names()
    files.finish_swap(b.disk, str(b.path), 0, 3, b.names())
    assert b.names() == before
    assert list(compaction._groups([], 100)) == []


def test_the_error_of_a_replaced_directory_says_so() -> None:
    try:
        raise StaleOwnerError(errno.ESTALE, "another log's", "/logs/data")
    except OSError as error:
        told = as_storage_error(error, "append to", "/logs/data/topics/x")
    assert isinstance(told, LogDirNotFoundError)
    assert "/logs/data: the directory of this log was removed, renamed or replaced" in str(told)
