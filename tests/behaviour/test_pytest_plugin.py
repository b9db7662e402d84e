"""The fixtures that pytest has where streamlog is installed: what a test of a user's gets, and what a run costs that uses none."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

REPOSITORY = Path(__file__).resolve().parents[2]
IS_INSTALLED = bool(importlib.metadata.entry_points(group="pytest11", name="streamlog"))
# Of an environment that was made before the project had a plugin, the module is loaded by its name.
PLUGIN = "streamlog" if IS_INSTALLED else "streamlog.testing.pytest_plugin"


@pytest.fixture(autouse=True)
def of_this_tree(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))


def run(pytester: pytest.Pytester, *arguments: str) -> pytest.RunResult:
    return pytester.runpytest_inprocess("-p", PLUGIN, "-p", "no:cacheprovider", *arguments)


def run_alone(pytester: pytest.Pytester, *arguments: str) -> pytest.RunResult:
    """In an interpreter of its own."""
    return pytester.runpytest_subprocess("-p", PLUGIN, "-p", "no:cacheprovider", *arguments, timeout=100)


# -- isolation -------------------------------------------------------------------------------------------


def test_each_test_has_an_empty_log_of_its_own(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("""
        import pytest
        paths = []

        @pytest.mark.parametrize("n", range(3))
        def test_one(streamlog_log, n):
            assert list(streamlog_log) == []
            assert streamlog_log.groups() == []
            streamlog_log.create_topic("orders").send("9.50")
            with streamlog_log.consumer("orders", group="billing") as consumer:
                assert len(list(consumer.until_end())) == 1
            paths.append(streamlog_log.path)

        def test_their_directories_differ():
            assert len(set(paths)) == 3
    """)
    run(pytester).assert_outcomes(passed=4)


def test_the_log_of_a_test_that_passed_is_removed_and_that_of_one_that_failed_stays(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("""
        def test_passes(streamlog_log):
            streamlog_log.create_topic("passed")

        def test_fails(streamlog_log):
            streamlog_log.create_topic("failed").send("9.50")
            assert not streamlog_log.path
    """)
    base = pytester.path / "base"
    result = run(pytester, f"--basetemp={base}")
    result.assert_outcomes(passed=1, failed=1)
    (kept,) = [each for each in (base / "streamlog0").iterdir() if each.is_dir()]
    result.stdout.fnmatch_lines([f"*The test's log stays in {kept}"])
    import streamlog

    with streamlog.open(kept, read_only=True) as log:
        assert [record.value for record in log["failed"].read()] == [b"9.50"]


def test_a_client_of_kafka_and_the_log_of_the_test_see_the_same_records(pytester: pytest.Pytester) -> None:
    pytest.importorskip("confluent_kafka")
    pytester.makepyfile("""
        import pytest
        from confluent_kafka import Producer
        from streamlog.testing import records

        @pytest.mark.parametrize("n", range(2))
        def test_produce(streamlog_log, kafka_cluster, kafka_bootstrap_servers, n):
            assert kafka_bootstrap_servers == kafka_cluster.bootstrap_servers
            producer = Producer({"bootstrap.servers": kafka_bootstrap_servers})
            producer.produce("orders", str(n))
            assert producer.flush(30) == 0
            assert [record.value for record in records(streamlog_log, "orders")] == [str(n).encode()]
            assert streamlog_log["orders"].config["partitioner"] == "murmur2"
            assert streamlog_log.create_topic("ours").config["retention_ms"] == 7 * 24 * 3_600_000
    """)
    run(pytester).assert_outcomes(passed=2)


@pytest.mark.slow
def test_the_workers_of_xdist_have_clusters_of_their_own(pytester: pytest.Pytester) -> None:
    pytest.importorskip("xdist")
    pytester.makepyfile("""
        import pytest, streamlog

        @pytest.mark.parametrize("n", range(6))
        def test_one(streamlog_log, kafka_cluster, n):
            streamlog_log.create_topic("orders")
            assert kafka_cluster.bootstrap_servers.startswith("127.0.0.1:")
    """)
    run_alone(pytester, "-n", "2").assert_outcomes(passed=6)


# -- the clock -------------------------------------------------------------------------------------------


def test_the_clock_of_a_test_moves_its_log(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("""
        def test_retention(kafka_clock, streamlog_log, kafka_cluster):
            orders = streamlog_log.create_topic("orders")
            assert orders.send("old").result().timestamp == kafka_clock.time_ms()
            kafka_clock.advance(8 * 24 * 3600)
            assert list(orders.read()) == []

        def test_the_order_of_arguments_does_not_matter(streamlog_log, kafka_clock):
            kafka_clock.advance(3600)
            assert streamlog_log.create_topic("orders").send("x").result().timestamp == kafka_clock.time_ms()

        def test_another_test_has_the_real_clock(streamlog_log):
            import time
            sent = streamlog_log.create_topic("orders").send("x").result()
            assert abs(sent.timestamp / 1000 - time.time()) < 3600
    """)
    run(pytester).assert_outcomes(passed=3)


def test_the_records_of_a_client_are_of_the_present_and_age_with_the_clock(pytester: pytest.Pytester) -> None:
    pytest.importorskip("confluent_kafka")
    pytester.makepyfile("""
        from confluent_kafka import Producer
        from streamlog.testing import records

        def test_retention(kafka_clock, kafka_bootstrap_servers, streamlog_log):
            errors = []
            producer = Producer({"bootstrap.servers": kafka_bootstrap_servers})
            producer.produce("orders", "9.50", on_delivery=lambda error, _: errors.append(error))
            assert producer.flush(30) == 0 and errors == [None]
            assert len(records(streamlog_log, "orders")) == 1
            kafka_clock.advance(9 * 24 * 3600)
            assert records(streamlog_log, "orders") == []
    """)
    run(pytester).assert_outcomes(passed=1)


def test_a_clock_of_the_projects_own_is_the_logs(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("""
        import pytest
        from streamlog.testing import ManualClock

        @pytest.fixture
        def kafka_clock():
            return ManualClock(start_ms=5_000)

        def test_time(kafka_clock, streamlog_log):
            assert streamlog_log.create_topic("orders").send("x").result().timestamp == 5_000
    """)
    run(pytester).assert_outcomes(passed=1)


def test_a_clock_that_comes_too_late_fails_the_test(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("""
        def test_late(streamlog_log, request):
            request.getfixturevalue("kafka_clock")
    """)
    result = run(pytester)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*Have the test take it as an argument.*"])


# -- faults ----------------------------------------------------------------------------------------------


def test_a_fault_that_never_fired_fails_the_test_when_it_ends(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("""
        def test_none(kafka_cluster):
            pass

        def test_unfired(kafka_cluster):
            kafka_cluster.control.disconnect("Fetch", topic="orders")

        def test_optional(kafka_cluster):
            kafka_cluster.control.disconnect("Fetch", topic="orders", optional=True)

        def test_the_faults_of_another_test_are_gone(kafka_cluster):
            assert kafka_cluster.control.faults == []
    """)
    result = run(pytester)
    result.assert_outcomes(passed=4, errors=1)
    result.stdout.fnmatch_lines(
        [
            "*ERROR at teardown of test_unfired*",
            "*never fired: <Fault disconnect for Fetch, topic 'orders'*optional=True*",
        ]
    )


def test_a_fault_that_fired_does_not(pytester: pytest.Pytester) -> None:
    pytest.importorskip("confluent_kafka")
    pytester.makepyfile("""
        from confluent_kafka import Producer

        def test_fired(kafka_cluster, streamlog_log):
            fault = kafka_cluster.control.fail("Produce", "NOT_LEADER_OR_FOLLOWER", topic="orders")
            producer = Producer({"bootstrap.servers": kafka_cluster.bootstrap_servers})
            producer.produce("orders", "9.50")
            assert producer.flush(60) == 0
            assert fault.fired == 1
            assert [record.value for record in streamlog_log["orders"].read()] == [b"9.50"]
    """)
    run(pytester).assert_outcomes(passed=1)


def test_a_fault_of_a_factorys_cluster_fails_at_the_end_of_its_block_unless_the_block_fails(
    pytester: pytest.Pytester,
) -> None:
    pytester.makepyfile("""
        import pytest

        def test_unfired(kafka_cluster_factory):
            with kafka_cluster_factory() as cluster:
                cluster.control.disconnect("Fetch")

        def test_failed_itself(kafka_cluster_factory):
            with pytest.raises(KeyError):
                with kafka_cluster_factory() as cluster:
                    cluster.control.disconnect("Fetch")
                    raise KeyError
    """)
    result = run(pytester)
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*never fired: <Fault disconnect for Fetch*"])


# -- factories and settings ------------------------------------------------------------------------------


def test_factories_make_clusters_of_any_size_for_any_scope(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("""
        import pytest
        from streamlog.testing import ManualClock

        @pytest.fixture(scope="session")
        def cluster(kafka_cluster_factory):
            with kafka_cluster_factory(brokers=3) as cluster:
                yield cluster

        @pytest.fixture(scope="module")
        def log(streamlog_log_factory):
            with streamlog_log_factory(partitions=5, clock=ManualClock(start_ms=0)) as log:
                yield log

        seen = []

        @pytest.mark.parametrize("n", range(2))
        def test_shared(cluster, log, n):
            assert len(cluster.bootstrap_servers.split(",")) == 3
            seen.append(cluster.bootstrap_servers)
            assert log.create_topic("orders", exist_ok=True).partitions == 5
            assert log["orders"].send("x").result().offset >= 0

        def test_the_same(cluster, kafka_cluster):
            assert set(seen) == {cluster.bootstrap_servers}
            assert kafka_cluster.bootstrap_servers != cluster.bootstrap_servers

        def test_two_at_once(streamlog_log_factory, kafka_cluster_factory):
            with streamlog_log_factory() as first, streamlog_log_factory(brokers=2) as second:
                assert (len(first.brokers), len(second.brokers)) == (1, 2)
                with kafka_cluster_factory(second, auto_create_topics=False) as cluster:
                    assert len(cluster.bootstrap_servers.split(",")) == 2

        def test_a_log_has_its_own_brokers(streamlog_log, kafka_cluster_factory):
            with pytest.raises(ValueError, match="brokers"):
                kafka_cluster_factory(streamlog_log, brokers=3)

        @pytest.mark.parametrize("brokers", [0, "3"])
        def test_brokers_are_a_number_from_1_on(kafka_cluster_factory, brokers):
            with pytest.raises(ValueError, match="brokers"), kafka_cluster_factory(brokers=brokers):
                pass
    """)
    run(pytester).assert_outcomes(passed=7)


def test_settings_of_pytest_are_those_of_the_fixtures(pytester: pytest.Pytester) -> None:
    pytester.makeini("""
        [pytest]
        streamlog_brokers = 2
        streamlog_partitions = 3
        streamlog_auto_create_topics = false
        streamlog_initial_rebalance_delay_ms = 7
        streamlog_broker_config =
            log.retention.ms = 60000
            message.max.bytes=2000
    """)
    pytester.makepyfile("""
        import pytest, streamlog

        def test_settings(streamlog_log, kafka_cluster):
            assert len(streamlog_log.brokers) == len(kafka_cluster.bootstrap_servers.split(",")) == 2
            with pytest.raises(streamlog.UnknownTopicOrPartitionError):
                streamlog_log.producer().send("missing", "x")
            orders = streamlog_log.create_topic("orders")
            assert (orders.partitions, orders.config["retention_ms"], orders.config["max_message_bytes"]) == (3, 60_000, 2_000)

        def test_a_factory_may_say_otherwise(streamlog_log_factory):
            with streamlog_log_factory(brokers=1, partitions=1, auto_create_topics=True) as log:
                log.producer().send("missing", "x")
                assert (len(log.brokers), log["missing"].partitions) == (1, 1)
    """)
    run(pytester).assert_outcomes(passed=2)


def test_a_topic_that_a_client_makes_by_asking_has_the_partitions_of_the_settings(pytester: pytest.Pytester) -> None:
    pytest.importorskip("confluent_kafka")
    pytester.makepyfile("""
        from confluent_kafka import Producer

        def test_settings(streamlog_log, kafka_bootstrap_servers):
            producer = Producer({"bootstrap.servers": kafka_bootstrap_servers})
            producer.produce("orders", "9.50")
            assert producer.flush(30) == 0
            assert streamlog_log["orders"].partitions == 3
    """)
    run(pytester, "-o", "streamlog_partitions=3").assert_outcomes(passed=1)


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("streamlog_brokers=many", "*streamlog_brokers*not a number*many*"),
        ("streamlog_brokers=0", "*streamlog_brokers=0*the least is 1*"),
        ("streamlog_broker_config=retention", "*streamlog_broker_config*'retention'*NAME=VALUE*"),
        ("streamlog_broker_config=log.retentoin.ms=1", "*log.retentoin.ms*did you mean 'log.retention.ms'*"),
    ],
)
def test_a_setting_that_is_wrong_is_named(pytester: pytest.Pytester, setting: str, said: str) -> None:
    pytester.makepyfile("def test_one(streamlog_log): pass")
    result = run(pytester, "-o", setting)
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines([said])


def test_settings_and_fixtures_are_in_the_help_of_pytest(pytester: pytest.Pytester) -> None:
    from streamlog.testing.pytest_plugin import INI

    run(pytester, "--help").stdout.fnmatch_lines([f"*{name} (*" for name, *_ in INI])
    shown = run(pytester, "--fixtures").stdout.str()
    names = ["streamlog_log", "streamlog_log_factory", "kafka_cluster", "kafka_cluster_factory"]
    for name in [*names, "kafka_bootstrap_servers", "kafka_clock"]:
        assert f"\n{name} " in shown, name


# -- a run that uses none --------------------------------------------------------------------------------


def test_a_run_without_a_fixture_imports_nothing_of_the_library(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("""
        import sys

        def test_one():
            loaded = {each for each in sys.modules if each.partition(".")[0] == "streamlog"}
            assert "streamlog.testing.pytest_plugin" in loaded
            loaded -= {"streamlog", "streamlog.testing", "streamlog.testing.pytest_plugin", "streamlog.runtime"}
            assert loaded == {f"streamlog.runtime.{each}" for each in ("exits", "installation", "lazy", "values")}
            for name in ("asyncio", "msgpack", "xxhash", "sortedcontainers"):
                assert name not in sys.modules, name
    """)
    run_alone(pytester, "-p", "no:hypothesispytest", "-p", "no:anyio", "-p", "no:xdist").assert_outcomes(passed=1)


def test_the_modules_of_the_library_are_not_rewritten(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("""
        import importlib.machinery

        def test_one(streamlog_log):
            import streamlog.client.topic, streamlog.storage.log
            for module in (streamlog.client.topic, streamlog.storage.log):
                assert isinstance(module.__spec__.loader, importlib.machinery.SourceFileLoader)
    """)
    run_alone(pytester).assert_outcomes(passed=1)


@pytest.mark.skipif(not IS_INSTALLED, reason="the environment was made before the project had a plugin")
def test_a_run_can_leave_the_plugin_out(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_one(streamlog_log): pass")
    result = pytester.runpytest_inprocess("-p", "no:streamlog")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*fixture 'streamlog_log' not found*"])


@pytest.mark.skipif(not IS_INSTALLED, reason="the environment was made before the project had a plugin")
def test_pytest_loads_the_plugin_by_itself(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_one(streamlog_log): pass")
    pytester.runpytest_inprocess().assert_outcomes(passed=1)
