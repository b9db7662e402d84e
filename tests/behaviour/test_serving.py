"""`streamlog serve`, and the settings of Kafka's brokers that a listener takes."""

from __future__ import annotations

import resource
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import streamlog
from streamlog import ConfigError
from streamlog.kafka import Listener, messages
from streamlog.kafka.errors import ErrorCode
from tests.kafka.clients import WAIT_S, asked_at

confluent_kafka = pytest.importorskip("confluent_kafka", reason="confluent-kafka is not installed")


def served(process: subprocess.Popen[str]) -> str:
    """The address that a process says it serves."""
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("Serving "):
            return line.split()[1].rstrip(".")
    raise AssertionError("it ended")


@pytest.mark.parametrize("options", [[], ["--kafka-defaults"]], ids=["library", "kafka"])
def test_processes_write_to_a_log_through_serve_until_ctrl_c(path: Path, options: list[str]) -> None:
    with streamlog.open(path) as log:
        log.create_topic("t")
    command = [sys.executable, "-m", "streamlog", "serve", "-d", str(path), "--port", "0", *options]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        address = served(process)
        producer = confluent_kafka.Producer({"bootstrap.servers": address})
        producer.produce("t", b"from another process")
        assert producer.flush(WAIT_S) == 0
        Request = messages.MetadataRequest
        (topic,) = asked_at(address, 3, 12, Request(topics=[Request.MetadataRequestTopic(name="new")])).topics
        assert topic.error_code == (ErrorCode.NONE if options else ErrorCode.UNKNOWN_TOPIC_OR_PARTITION)
        process.send_signal(signal.SIGINT)
        assert process.wait(WAIT_S) == 130
    with streamlog.open(path) as log:
        assert [record.value for record in log["t"].read()] == [b"from another process"]
        assert ("new" in log) == bool(options)


def test_a_server_has_all_descriptors_that_it_may_have(path: Path) -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    code = (
        "import resource, runpy, sys; resource.setrlimit(resource.RLIMIT_NOFILE, (100, int(sys.argv.pop(1)))); "
        "runpy.run_module('streamlog', run_name='__main__')"
    )
    command = [sys.executable, "-c", code, str(hard), "serve", "-d", str(path), "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        served(process)
        assert resource.prlimit(process.pid, resource.RLIMIT_NOFILE)[0] == hard
        process.send_signal(signal.SIGTERM)
        assert process.wait(WAIT_S) == 128 + signal.SIGTERM


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_server_that_was_stopped_ends_at_the_signal_that_came_meanwhile(path: Path, number: int) -> None:
    """As Ctrl-Z and `kill %1`. Which thread takes the signal is not known then."""
    command = [sys.executable, "-m", "streamlog", "serve", "-d", str(path), "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        served(process)
        for each in (signal.SIGSTOP, number, signal.SIGCONT):
            process.send_signal(each)
        assert process.wait(WAIT_S) == 128 + number


def test_other_machines_are_let_in_only_if_that_is_said(
    path: Path,
) -> None:
    refused = subprocess.run(
        [sys.executable, "-m", "streamlog", "serve", "-d", str(path), "--port", "0", "--host", "0.0.0.0"],
        capture_output=True, text=True, timeout=WAIT_S,
    )  # fmt: skip
    assert refused.returncode == 1
    assert "--allow-insecure" in refused.stderr
    assert not path.exists(), "nothing is created by a command that is refused"


def test_a_log_that_has_another_number_of_brokers_than_was_asked_for_says_so(path: Path) -> None:
    with streamlog.open(path):
        pass
    for brokers, said in ((3, "The log has 1 broker, not 3: --brokers is for a log that is created"), (1, "")):
        command = [
            sys.executable,
            "-m",
            "streamlog",
            "serve",
            "-d",
            str(path),
            "--port",
            "0",
            "--brokers",
            str(brokers),
        ]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr is not None
            first = process.stderr.readline()
            assert first.startswith(said or "Serving ")
            if said:
                served(process)
            process.send_signal(signal.SIGINT)
            assert process.wait(WAIT_S) == 130


def test_two_listeners_of_a_log_have_the_same_settings_of_groups() -> None:
    """They were those of the one that was started last, without a word."""
    given = {"group.max.size": "7"}
    with streamlog.open() as log, streamlog.open() as another, Listener(log, broker_config=given) as first:
        with pytest.raises(ConfigError, match=r"Another listener.*max_size"):
            Listener(log).start()
        with pytest.raises(ConfigError, match="initial_rebalance_delay_ms"):
            Listener(log, broker_config=given, initial_rebalance_delay_ms=7).start()
        assert first.bootstrap_servers
        with Listener(log, broker_config=given, auto_create_topics=False) as second, Listener(another):
            assert second.bootstrap_servers
            first.close()
            with pytest.raises(ConfigError, match="max_size"):
                first = Listener(log)
                first.start()
        with Listener(log):
            assert log._engine.service.classic_group_config.max_size > 7


def test_a_port_that_is_taken_is_said(path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        refused = subprocess.run(
            [sys.executable, "-m", "streamlog", "serve", "-d", str(path), "--port", port],
            capture_output=True, text=True, timeout=WAIT_S,
        )  # fmt: skip
    assert refused.returncode == 1
    assert f"streamlog: Cannot listen at 127.0.0.1:{port}" in refused.stderr


def made_by(listener: Listener, name: str) -> Any:
    Request = messages.MetadataRequest
    (topic,) = asked_at(
        listener.bootstrap_servers, 3, 12, Request(topics=[Request.MetadataRequestTopic(name=name)])
    ).topics
    return topic


def test_topics_that_are_made_have_the_settings_of_the_broker(path: Path) -> None:
    settings = {"num.partitions": "3", "log.retention.ms": "-1", "log.cleanup.policy": "delete, compact"}
    with streamlog.open() as log, Listener(log, broker_config=settings) as listener:
        assert len(made_by(listener, "t").partitions) == 3
        config = log["t"].config
        assert (config["retention_ms"], config["cleanup_policy"], config["partitioner"]) == (
            None,
            "compact,delete",
            "murmur2",
        )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num.partition": "3"}, "did you mean 'num.partitions'"),
        ({"num.partitions": "many"}, "not a number"),
        ({"log.retention.ms": "soon"}, "Not a number of type LONG"),
    ],
)
def test_a_setting_that_a_listener_does_not_have_is_refused(settings: dict[str, str], message: str) -> None:
    with streamlog.open() as log, pytest.raises(ConfigError, match=message):
        Listener(log, broker_config=settings)
