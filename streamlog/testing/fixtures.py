"""What the fixtures of `pytest_plugin` do: logs and clusters for a test, a module or a session. See `TESTING.md`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import cached_property
from itertools import count
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest

from ..client.opening import open as open_log
from ..client.streamlog import StreamLog
from ..errors import ConfigError
from ..kafka import Listener
from ..kafka.settings import KAFKA_DEFAULTS, PARTITIONS, broker_config
from ..runtime.disk import OsDisk
from ..runtime.threads import SystemClock
from ..types import Clock
from .clock import ManualClock

_HAS_LOG = pytest.StashKey[bool]()


class Settings(NamedTuple):
    """The plugin's settings in pytest's file; see `pytest_plugin.INI`."""

    brokers: int
    partitions: int
    auto_create_topics: bool
    initial_rebalance_delay_ms: int
    broker_config: Mapping[str, str]


def settings_of(config: pytest.Config) -> Settings:
    """Fails the test that needs them for a value that is not one of its setting."""
    return Settings(
        _number(config, "streamlog_brokers", 1),
        _number(config, "streamlog_partitions", 1),
        config.getini("streamlog_auto_create_topics"),
        _number(config, "streamlog_initial_rebalance_delay_ms", 0),
        dict(_pair(line) for line in config.getini("streamlog_broker_config")),
    )


def _number(config: pytest.Config, name: str, low: int) -> int:
    try:
        number = int(config.getini(name))
    except (ValueError, TypeError, pytest.UsageError) as error:
        pytest.fail(f"{name} in pytest's settings is not a number: {error}", pytrace=False)
    if number < low:
        pytest.fail(f"{name}={number} in pytest's settings: the least is {low}", pytrace=False)
    return number


def _pair(line: str) -> tuple[str, str]:
    name, equals, value = line.partition("=")
    if not equals:
        pytest.fail(
            f"streamlog_broker_config in pytest's settings has the line {line!r}, not NAME=VALUE", pytrace=False
        )
    return name.strip(), value.strip()


class LogFactory:
    """Opens logs that are each in a directory of their own. The fixture `streamlog_log_factory`."""

    def __init__(self, session: pytest.Session, directories: pytest.TempPathFactory) -> None:
        self.settings = settings_of(session.config)
        self._session = session
        self._directories = directories
        self._numbers = count()

    @cached_property
    def _directory(self) -> Path:
        """One for all of this session: pytest looks through all that there are for each that it makes."""
        return self._directories.mktemp("streamlog")

    def __call__(
        self, *, brokers: int | None = None, clock: Clock | None = None, **options: Any
    ) -> AbstractContextManager[StreamLog]:
        """`with factory(brokers=3) as log:` opens a log, which is closed and removed at the end of the block.

        `options` are those of `streamlog.open`, settings of topics among them. What is not given is as pytest's settings say; topics
        have Kafka's defaults. The log is not synced to the device: it survives a killed process, but no power loss. If a test failed
        meanwhile its directory stays, for pytest to remove with its other temporary directories.
        """
        return self._open(self.settings.brokers if brokers is None else brokers, clock, options)

    @contextmanager
    def _open(self, brokers: int, clock: Clock | None, options: Mapping[str, Any]) -> Iterator[StreamLog]:
        settings = self.settings
        path = str(self._directory / str(next(self._numbers)))
        disk = OsDisk(syncs=False)
        topics = broker_config(settings.broker_config, KAFKA_DEFAULTS)
        defaults: dict[str, Any] = {
            "disk": disk,
            "auto_create_topics": settings.auto_create_topics,
            "partitions": topics.partitions if PARTITIONS in settings.broker_config else settings.partitions,
            **topics.topics,
        }
        failed = self._session.testsfailed
        with open_log(path, brokers=None if brokers == 1 else brokers, clock=clock, **{**defaults, **options}) as log:
            yield log
        if self._session.testsfailed == failed:
            disk.rmtree(path)


class ClusterFactory:
    """Starts clusters of Kafka, each a log with a listener. The fixture `kafka_cluster_factory`."""

    def __init__(self, config: pytest.Config, logs: LogFactory) -> None:
        self._logs = logs

    def __call__(
        self,
        log: StreamLog | None = None,
        *,
        brokers: int | None = None,
        clock: Clock | None = None,
        broker_config: Mapping[str, str] = MappingProxyType({}),
        **options: Any,
    ) -> AbstractContextManager[Listener]:
        """`with factory(brokers=3) as cluster:` starts a cluster, which is closed at the end of the block.

        It is the `streamlog.kafka.Listener` of `log`, or of a new log of so many brokers. `options` are those of the listener; what is
        not given is as pytest's settings say. If the block ends without an exception, a fault that was injected through
        `cluster.control` and never fired fails the test there, unless it is optional.
        """
        if log is not None and (brokers is not None or clock is not None):
            raise ConfigError(
                "A cluster of a log has the brokers and the clock of that log: give log, or brokers and clock.",
                name="log",
            )
        return self._start(log, brokers, clock, broker_config, options)

    @contextmanager
    def _start(
        self,
        log: StreamLog | None,
        brokers: int | None,
        clock: Clock | None,
        given: Mapping[str, str],
        options: Mapping[str, Any],
    ) -> Iterator[Listener]:
        settings = self._logs.settings
        defaults: dict[str, Any] = {
            "auto_create_topics": settings.auto_create_topics,
            "initial_rebalance_delay_ms": settings.initial_rebalance_delay_ms,
            "broker_config": {PARTITIONS: str(settings.partitions), **settings.broker_config, **given},
        }
        with ExitStack() as opened:
            if log is None:
                log = opened.enter_context(self._logs(brokers=brokers, clock=clock))
            cluster = opened.enter_context(Listener(log, **{**defaults, **options}))
            yield cluster
            refuse_unfired(cluster)


def refuse_unfired(cluster: Listener) -> None:
    """Fail the test if it injected a fault that never fired, unless that is optional: it does not test what it says."""
    unfired = cluster.control.unfired()
    if unfired:
        pytest.fail(
            f"Injected through the cluster's control, and never fired: {', '.join(map(repr, unfired))}. No client sent such a request, "
            f"so the test says nothing of it. Correct the fault or the test, or inject it with optional=True.",
            pytrace=False,
        )


def new_clock(item: pytest.Item) -> ManualClock:
    """The fixture `kafka_clock`. Fails a test that asks for it too late: its log has the real clock.

    It begins at the present: Kafka's clients stamp their records themselves, and a broker refuses those of the future.
    """
    if item.stash.get(_HAS_LOG, False):
        pytest.fail(
            "kafka_clock is asked for after the test's log was opened, which has the real clock. Have the test take it as an argument.",
            pytrace=False,
        )
    return ManualClock(SystemClock().time_ms())


@contextmanager
def log_of(request: pytest.FixtureRequest, logs: LogFactory) -> Iterator[StreamLog]:
    """The fixture `streamlog_log`: on the test's clock, if it has one."""
    clock = request.getfixturevalue("kafka_clock") if "kafka_clock" in request.fixturenames else None
    request.node.stash[_HAS_LOG] = True
    failed = request.session.testsfailed
    with logs(clock=clock) as log:
        yield log
        if request.session.testsfailed > failed:
            request.node.add_report_section("teardown", "streamlog", f"The test's log stays in {log.path}\n")
