"""From a log that is open read-only to a `Sample`: what `streamlog top` looks at, in batches, with a bound on the time."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple

import streamlog

from ...errors import FormatError, StreamlogError, UnknownTopicOrPartitionError
from ...runtime.directory_lock import DirectoryLock
from ...types import Clock
from ..app import OWNER_FILE, is_log, plural
from ..brokers import described, state_of
from .sampler import BrokerRow, GroupSample, Sample, TopicSample

GROUPS_S = 0.2
"""How long groups are looked at for one sample. Where there are more, the next sample goes on with the others."""
_CONFIGS = 500
"""Of how many topics the settings are looked at again for one sample: they seldom change."""
_NAMED = 3
"""How many partitions a warning names."""


class Wanted(NamedTuple):
    """What is shown: topics and groups by name or shell pattern, all if there are none; internal topics too if `internal`."""

    topics: Sequence[str] = ()
    groups: Sequence[str] = ()
    internal: bool = False


class Source:
    """A log that is opened by `open_`, and opened again after it failed. `paths`: its directory, or those of its brokers."""

    def __init__(
        self, open_: Callable[[], streamlog.StreamLog], paths: Sequence[Path], clock: Clock, wanted: Wanted
    ) -> None:
        self._open = open_
        self._paths = paths
        self._clock = clock
        self._wanted = wanted
        self._log: streamlog.StreamLog | None = None
        self._was_open = False
        self._compacted: dict[object, bool] = {}
        self._last_config = ""
        self._last_group = ""

    def open(self) -> streamlog.StreamLog:
        """Open the log if it is not open. Raises what `open_` raises."""
        if self._log is None:
            self._log = self._open()
            self._was_open = True
        return self._log

    def close(self) -> None:
        log, self._log = self._log, None
        if log is not None:
            log.close()

    def gather(self) -> Sample:
        """The log as it is now. Raises StreamlogError or OSError; the next call opens the log anew.

        Cost: O(partitions), about 20 µs for each, and at most `GROUPS_S` for the groups.
        """
        try:
            for path in self._paths:
                if self._was_open and not is_log(path):
                    raise FormatError(f"There is no log in {path} any more.", path=str(path))
            return self._sample(self.open())
        except BaseException:
            with suppress(StreamlogError, OSError):  # the first error is the one to show
                self.close()
            raise

    def _sample(self, log: streamlog.StreamLog) -> Sample:
        numbers = log.metrics()
        at_s = self._clock.monotonic()  # what is looked at next takes its time
        shown = set(log)
        topics = {}
        for name, partitions in numbers["topics"].items():
            with suppress(UnknownTopicOrPartitionError):  # deleted since then
                topics[name] = self._topic(log.topic(name), partitions, name in shown)
        self._look_at_configs(log, topics)
        topics = {name: each._replace(is_compacted=self._compacted[each.id]) for name, each in topics.items()}
        names, groups = self._groups(log)
        paths = [Path(about["path"]) for about in numbers["brokers"].values() if about.get("path")]
        writer, warnings = _writer(paths)
        warnings += _lacking(numbers["topics"])
        if not any(each.is_shown for each in topics.values()) and self._wanted.topics:
            warnings.append(f"No topic is called {' or '.join(self._wanted.topics)}.")
        if not names and self._wanted.groups:
            warnings.append(f"No group is called {' or '.join(self._wanted.groups)}.")
        return Sample(at_s, self._clock.time_ms(), topics, groups, names, writer, _brokers(numbers), warnings)

    def _topic(
        self, topic: streamlog.Topic[Any, Any], partitions: Mapping[str, Mapping[str, Any]], is_user_s: bool
    ) -> TopicSample:
        ends = [
            (each["log_start_offset"], each["log_end_offset"], each["size_bytes"]) if "log_end_offset" in each else None
            for each in partitions.values()
        ]
        is_shown = (is_user_s or self._wanted.internal) and _matches(topic.name, self._wanted.topics)
        return TopicSample(topic.id, ends, is_shown)

    def _look_at_configs(self, log: streamlog.StreamLog, topics: Mapping[str, TopicSample]) -> None:
        """Whether topics are compacted: of new ones, and in turn of the others."""
        for name, found in topics.items():
            if found.id not in self._compacted:
                self._look_at_config(log, name, found.id)
        for name in _in_turn(sorted(topics), self._last_config)[:_CONFIGS]:
            self._look_at_config(log, name, topics[name].id)
            self._last_config = name
        there = {found.id for found in topics.values()}
        self._compacted = {each: is_compacted for each, is_compacted in self._compacted.items() if each in there}

    def _look_at_config(self, log: streamlog.StreamLog, name: str, topic_id: object) -> None:
        self._compacted.setdefault(topic_id, False)
        with suppress(UnknownTopicOrPartitionError):
            self._compacted[topic_id] = "compact" in log.topic(name).config["cleanup_policy"]

    def _groups(self, log: streamlog.StreamLog) -> tuple[list[str], dict[str, GroupSample]]:
        """The names of all groups that are wanted, and those that there was time to look at."""
        groups = {group.name: group for group in log.groups() if _matches(group.name, self._wanted.groups)}
        names = list(groups)
        found = {}
        end_s = self._clock.monotonic() + GROUPS_S
        for name in _in_turn(names, self._last_group):
            group = groups[name]
            committed, members, state = group.committed(), group.members(), group.state
            topics = {place.topic for place in committed}.union(
                place.topic for member in members for place in member.assignment
            )
            found[name] = GroupSample(state, len(members), committed, frozenset(topics))
            self._last_group = name
            if self._clock.monotonic() >= end_s:
                break
        return names, found


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return not patterns or any(name == pattern or fnmatchcase(name, pattern) for pattern in patterns)


def _in_turn(names: Sequence[str], last: str) -> list[str]:
    """The names, beginning after the one that was last."""
    return [name for name in names if name > last] + [name for name in names if name <= last]


def _writer(paths: Iterable[Path]) -> tuple[str, list[str]]:
    """Which process writes to these directories of brokers, and what is wrong with that."""
    pids = set()
    is_clean = True
    for path in paths:
        with suppress(OSError):  # it is gone, or may not be read
            pid = DirectoryLock(str(path / "lock")).holder()
            if pid is not None:
                pids.add(pid)
            with suppress(ValueError, KeyError, TypeError):  # being written
                is_clean = json.loads((path / OWNER_FILE).read_bytes())["clean"] and is_clean
    if pids:
        known = ", ".join(map(str, sorted(pids - {0})))
        return (
            "a process writes"
            if not known
            else f"process {known} writes"
            if len(pids) == 1
            else f"processes {known} write"
        ), []
    if is_clean:
        return "no process writes", []
    return "no process writes", ["The last process that wrote to the log ended without closing it."]


def _brokers(numbers: Mapping[str, Any]) -> list[BrokerRow]:
    """The brokers of a log of several."""
    if len(numbers["brokers"]) < 2:
        return []
    in_sync = dict.fromkeys(numbers["brokers"], 0)
    for partitions in numbers["topics"].values():
        for about in partitions.values():
            for broker in about["isr"]:
                in_sync[str(broker)] = in_sync.get(str(broker), 0) + 1
    rows = []
    for broker, about in numbers["brokers"].items():
        each = described(int(broker), {"leaders": 0, "replicas": 0, **about})
        rows.append(
            BrokerRow(
                each["id"], state_of(each), each["leaders"], each["replicas"], in_sync[broker], each["path"] or "-"
            )
        )
    return rows


def _lacking(topics: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> list[str]:
    """A line for each kind of partitions that lack something."""
    leaderless, behind, unread, elsewhere = [], [], [], 0
    for name, partitions in topics.items():
        for number, about in partitions.items():
            if about["leader"] < 0:
                leaderless.append(f"{name}-{number}")
            elif len(about["isr"]) < len(about["replicas"]):
                behind.append(f"{name}-{number} ({len(about['isr'])} of {len(about['replicas'])} in sync)")
            if "log_end_offset" not in about:
                failures = about.get("failures", {})
                if failures:
                    unread.append(f"{name}-{number}: {'; '.join(failures.values())}")
                else:
                    elsewhere += 1
    warnings = []
    if leaderless:
        warnings.append(f"{_partitions(leaderless)} without a leader: {_named(leaderless)}")
    if behind:
        warnings.append(f"{_partitions(behind)} under-replicated: {_named(behind)}")
    if unread:
        warnings.append(f"{_partitions(unread)} that cannot be read: {_named(unread[:1], len(unread) - 1)}")
    if elsewhere:
        warnings.append(f"{elsewhere:,} {plural('partition', elsewhere)} with no replica that can be read here")
    return warnings


def _partitions(found: Sequence[str]) -> str:
    return f"{len(found):,} {plural('partition', len(found))}"


def _named(found: Sequence[str], more: int = 0) -> str:
    more += max(0, len(found) - _NAMED)
    return ", ".join(found[:_NAMED]) + (f", … and {more:,} more" if more else "")
