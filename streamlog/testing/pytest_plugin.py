"""What pytest loads in every run where streamlog is installed: the names of the fixtures and of the settings. See `TESTING.md`.

Nothing of the library is imported here but empty packages: a run that uses no fixture pays less than a millisecond for it.
What the fixtures do is in `fixtures`, which the first test that asks for one imports.

`-p no:streamlog` leaves the plugin out of a run. Where plugins are not loaded by themselves (PYTEST_DISABLE_PLUGIN_AUTOLOAD),
`-p streamlog` loads it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from ..client.streamlog import StreamLog
    from ..kafka import Listener
    from .clock import ManualClock
    from .fixtures import ClusterFactory, LogFactory

# pytest 8.4 and later have numbers, which its own files in TOML need; before, they are text.
_NUMBER = "int" if pytest.version_tuple >= (8, 4) else "string"
INI: tuple[tuple[str, str, Any, str], ...] = (
    ("streamlog_brokers", _NUMBER, "1", "brokers of the logs that the fixtures make"),
    ("streamlog_partitions", _NUMBER, "1", "partitions of a topic that is made without a number of them"),
    ("streamlog_auto_create_topics", "bool", True, "whether a topic that is asked for and is not there is created"),
    (
        "streamlog_initial_rebalance_delay_ms",
        _NUMBER,
        "100",
        "how long a classic group's first members wait for others",
    ),
    ("streamlog_broker_config", "linelist", [], "settings of the brokers as Kafka has them, NAME=VALUE in each line"),
)


def pytest_addoption(parser: pytest.Parser, pluginmanager: pytest.PytestPluginManager) -> None:
    _leave_the_library_as_it_is(pluginmanager)
    for name, kind, default, text in INI:
        parser.addini(name, f"streamlog's fixtures: {text}", type=kind, default=default)  # type: ignore[arg-type]


def _leave_the_library_as_it_is(pluginmanager: pytest.PytestPluginManager) -> None:
    """Keep pytest from rewriting the assert statements of the whole library.

    It does so with every module of a distribution that has a plugin, and keeps compiled files of its own. In a new container, or
    where it may not write them, it would parse and compile the whole library for the first fixture: 2 s of processor time, where
    the import takes 0.3 s. pytest has no setting for that but a word in the docstring of every module, which it reads after
    it has parsed the module. If a later pytest names this set otherwise, only the time is lost.
    """
    marked = getattr(pluginmanager.rewrite_hook, "_must_rewrite", None)
    if isinstance(marked, set):
        marked.discard("streamlog")


@pytest.fixture(scope="session")
def streamlog_log_factory(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LogFactory:
    """Opens logs, each in a directory of its own: `with streamlog_log_factory(brokers=3) as log:`. In a fixture of any scope."""
    from .fixtures import LogFactory

    return LogFactory(request.session, tmp_path_factory)


@pytest.fixture(scope="session")
def kafka_cluster_factory(request: pytest.FixtureRequest, streamlog_log_factory: LogFactory) -> ClusterFactory:
    """Starts clusters: `with kafka_cluster_factory(brokers=3) as cluster:`. In a fixture of any scope."""
    from .fixtures import ClusterFactory

    return ClusterFactory(request.config, streamlog_log_factory)


@pytest.fixture
def kafka_clock(request: pytest.FixtureRequest) -> ManualClock:
    """A clock that begins at the present and stands still until the test moves it. The test's log and cluster have it too."""
    from .fixtures import new_clock

    return new_clock(request.node)


@pytest.fixture
def streamlog_log(request: pytest.FixtureRequest, streamlog_log_factory: LogFactory) -> Iterator[StreamLog]:
    """An empty log of this test alone, in a temporary directory."""
    from .fixtures import log_of

    with log_of(request, streamlog_log_factory) as log:
        yield log


@pytest.fixture
def kafka_cluster(streamlog_log: StreamLog, kafka_cluster_factory: ClusterFactory) -> Iterator[Listener]:
    """A Kafka cluster of this test alone: the started `streamlog.kafka.Listener` of `streamlog_log`."""
    with kafka_cluster_factory(streamlog_log) as cluster:
        yield cluster


@pytest.fixture
def kafka_bootstrap_servers(kafka_cluster: Listener) -> str:
    """The addresses of `kafka_cluster`, for the setting bootstrap.servers of a client."""
    return kafka_cluster.bootstrap_servers
