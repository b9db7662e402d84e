"""What a scenario found, so that two runs can be compared: ids and times by what they are, not by their values.

A result may hold dictionaries, lists, numbers, text, bytes and messages of the protocol. Of a message, every field counts but the
text of an error, which is each broker's own, and the time that a client is asked to wait.
"""

from __future__ import annotations

import time
from typing import Any

from streamlog.kafka.messages import Message

from .wire import error_name

LEFT_OUT = {"error_message", "throttle_time_ms"}
_IDS = {
    "member_id": "member",
    "leader": "member",
    "producer_id": "producer",
    "topic_id": "topic",
    "session_id": "session",
    "cluster_id": "cluster",
}
_NO_ID: tuple[Any, ...] = (-1, 0, "", None, bytes(16))
_TIMES = ("timestamp", "time_ms")
_SOON_MS = 120_000


class Normal:
    """Makes results comparable. One is used for one run of a scenario: the first member that is seen is `member 1`."""

    def __init__(self, bootstrap: str) -> None:
        self._host, _, self._port = bootstrap.split(",")[0].rpartition(":")
        self._seen: dict[tuple[str, Any], str] = {}
        self._counts: dict[str, int] = {}

    def of(self, value: Any, name: str = "") -> Any:
        if isinstance(value, Message):
            return {each: self.of(getattr(value, each), each) for each in value.__slots__ if each not in LEFT_OUT}
        if isinstance(value, dict):
            return {str(each): self.of(inner, str(each)) for each, inner in value.items() if each not in LEFT_OUT}
        if isinstance(value, (list, tuple)):
            return [self.of(each, name) for each in value]
        if name.endswith("error_code") and isinstance(value, int):
            return error_name(value)
        if name in _IDS and value not in _NO_ID:
            return self._id(_IDS[name], bytes(value) if isinstance(value, memoryview) else value)
        if name == "port" and str(value) == self._port:
            return "its port"
        if isinstance(value, memoryview):
            return bytes(value)
        if name.endswith(_TIMES) and isinstance(value, int) and abs(value - time.time() * 1000) < _SOON_MS:
            return "now"
        if isinstance(value, set | frozenset):
            return sorted(map(self.of, value), key=repr)
        return value

    def _id(self, kind: str, value: Any) -> str:
        if (kind, value) not in self._seen:
            self._counts[kind] = self._counts.get(kind, 0) + 1
            self._seen[kind, value] = f"{kind} {self._counts[kind]}"
        return self._seen[kind, value]


MISSING = "(nothing)"


def differences(kafka: Any, ours: Any, path: str = "") -> dict[str, tuple[Any, Any]]:
    """The paths at which two results differ, such as `topics[0].error_code`, and what each has there.

    What one of them has not at all is one difference.
    """
    found: dict[str, tuple[Any, Any]] = {}
    if isinstance(kafka, dict) and isinstance(ours, dict):
        for name in {**kafka, **ours}:
            inner = f"{path}.{name}" if path else name
            found.update(differences(kafka.get(name, MISSING), ours.get(name, MISSING), inner))
    elif isinstance(kafka, list) and isinstance(ours, list):
        for at in range(max(len(kafka), len(ours))):
            theirs, here = (each[at] if at < len(each) else MISSING for each in (kafka, ours))
            found.update(differences(theirs, here, f"{path}[{at}]"))
    elif kafka != ours or type(kafka) is not type(ours):
        found[path] = kafka, ours
    return found
