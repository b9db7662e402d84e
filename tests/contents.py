"""What a log, a topic or a directory contains, in a form that a test can compare."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from streamlog import StreamLog, Topic


def values(log: StreamLog, topic: str = "t", **bounds: Any) -> list[Any]:
    """The values of the records of a topic, partition after partition. `bounds` are those of `Topic.read`."""
    return [record.value for record in log[topic].read(**bounds)]


def values_of(topic: Topic[Any, Any]) -> list[Any]:
    """The values of the records of a topic, partition after partition."""
    return [record.value for record in topic.read()]


def file_contents(directory: Path) -> dict[str, bytes]:
    """The bytes of every file below `directory`, by its path from there."""
    return {
        str(file.relative_to(directory)): file.read_bytes() for file in sorted(directory.rglob("*")) if file.is_file()
    }
