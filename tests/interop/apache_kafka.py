"""A single Apache Kafka (KRaft) on this machine, from its Maven artifacts, for what is compared with it.

    python -m tests.interop.apache_kafka prepare               # fetch the jars, once for a machine
    python -m tests.interop.apache_kafka start DIR [PORT]      # a new broker, or the one of this directory again
    python -m tests.interop.apache_kafka stop DIR

Java 17 or later and Maven have to be installed; which registry Maven asks is in its own settings. The jars lie in
`STREAMLOG_KAFKA_CACHE`, by default a directory of the user's cache. With `KAFKA_HOME`, a directory of Kafka as it is distributed,
the jars of its `libs` are taken, and Maven is not needed.

In tests: `with Broker(directory) as kafka: kafka.bootstrap_servers`, or `unavailable()` for the reason to skip them.
"""

from __future__ import annotations

import argparse
import base64
import fcntl
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

VERSION = "4.4.0"
ARTIFACTS = (
    f"org.apache.kafka:kafka_2.13:{VERSION}",
    # The broker logs through slf4j 1.7 to log4j 2, and depends on all of both but on this link.
    "org.apache.logging.log4j:log4j-slf4j-impl:2.25.5",
)
_FETCH_S = 240.0
_ATTEMPTS = 3
_START_S = 120.0
_STOP_S = 30.0
_HEAP = ("-Xms128m", "-Xmx512m")
_JVM = (*_HEAP, "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Djava.awt.headless=true")
_READY = "Kafka Server started"

SETTINGS: Mapping[str, str] = {
    # One broker has one replica of everything, and few internal partitions: each is opened at the start.
    "offsets.topic.replication.factor": "1",
    "offsets.topic.num.partitions": "5",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "transaction.state.log.num.partitions": "5",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    "share.coordinator.state.topic.num.partitions": "5",
}
PROMPT: Mapping[str, str] = {
    # What Kafka does now and then it does every second.
    "log.retention.check.interval.ms": "1000",
    "log.cleaner.backoff.ms": "1000",
    "log.segment.delete.delay.ms": "1000",
    "log.initial.task.delay.ms": "500",
    "transaction.abort.timed.out.transaction.cleanup.interval.ms": "1000",
}
LOGGING = """\
rootLogger.level = INFO
rootLogger.appenderRef.out.ref = out
appender.out.type = Console
appender.out.name = out
appender.out.layout.type = PatternLayout
appender.out.layout.pattern = [%d] %p %m (%c)%n
"""
_POM = """\
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>streamlog</groupId><artifactId>interop</artifactId><version>1</version><packaging>pom</packaging>
  <dependencies>
{}
  </dependencies>
</project>
"""
_DEPENDENCY = "    <dependency><groupId>{}</groupId><artifactId>{}</artifactId><version>{}</version></dependency>"


class KafkaError(Exception):
    """Apache Kafka could not be fetched, started or stopped."""


def unavailable() -> str | None:
    """Why Apache Kafka cannot run here; None if it can."""
    if shutil.which("java") is None:
        return "java is not installed, so Apache Kafka cannot run"
    if shutil.which("mvn") is None and not _is_fetched(_libraries(ARTIFACTS)):
        return "mvn is not installed, so Apache Kafka cannot be fetched"
    return None


# -- the jars --------------------------------------------------------------------------------------------


def cache() -> Path:
    """Where the jars lie."""
    given = os.environ.get("STREAMLOG_KAFKA_CACHE")
    if given:
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "streamlog-kafka"


def _libraries(artifacts: Sequence[str]) -> Path:
    home = os.environ.get("KAFKA_HOME")
    if home and tuple(artifacts) == ARTIFACTS:
        return Path(home) / "libs"
    _, name, version = artifacts[0].split(":")
    return cache() / f"{name}-{version}"


def _is_fetched(libraries: Path) -> bool:
    """A directory that is there is complete: it is renamed to its name when it is."""
    return libraries.is_dir() and any(libraries.glob("*.jar"))


def classpath(artifacts: Sequence[str] = ARTIFACTS) -> str:
    """The jars of these Maven artifacts (`group:name:version`) and of all that they depend on, fetched with the first call.

    Raises KafkaError with what Maven printed.
    """
    libraries = _libraries(artifacts)
    if not _is_fetched(libraries):
        libraries.parent.mkdir(parents=True, exist_ok=True)
        with open(libraries.parent / "lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not _is_fetched(libraries):
                _fetch(artifacts, libraries)
    return os.pathsep.join(map(str, sorted(libraries.glob("*.jar"))))


def _fetch(artifacts: Sequence[str], libraries: Path) -> None:
    """A registry may be busy for a moment: it is asked some times."""
    printed = ""
    for _ in range(_ATTEMPTS):
        folder = Path(tempfile.mkdtemp(prefix="fetch.", dir=libraries.parent))
        try:
            dependencies = "\n".join(_DEPENDENCY.format(*each.split(":")) for each in artifacts)
            (folder / "pom.xml").write_text(_POM.format(dependencies))
            command = ["mvn", "-B", "-q", "-f", str(folder / "pom.xml"), "dependency:copy-dependencies",
                       "-DincludeScope=runtime", f"-DoutputDirectory={folder / 'libs'}"]  # fmt: skip
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=_FETCH_S,
            )  # fmt: skip
            printed = done.stdout
            if not done.returncode and _is_fetched(folder / "libs"):
                (folder / "libs").rename(libraries)
                return
        except FileNotFoundError:
            raise KafkaError("mvn is not installed, so Apache Kafka cannot be fetched. Install Maven.") from None
        except subprocess.TimeoutExpired as error:
            output = error.stdout or b""
            printed = f"it took more than {_FETCH_S:.0f} s. " + (
                output if isinstance(output, str) else output.decode(errors="replace")
            )
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    raise KafkaError(
        f"Maven could not fetch {', '.join(artifacts)} in {_ATTEMPTS} attempts, so nothing can be compared with Apache Kafka. Look at "
        f"its settings and at the network. It printed:\n{printed[-4000:]}"
    )


def java(*arguments: str, artifacts: Sequence[str] = ARTIFACTS, options: Sequence[str] = ()) -> list[str]:
    """The command that runs a class of these jars: `java(main_class, argument, …)`."""
    return ["java", *_JVM, *options, "-cp", classpath(artifacts), *arguments]


def _class_archive() -> Path:
    """A JVM that maps the classes as it left them the last time starts Kafka in less than half of the time."""
    version = subprocess.run(["java", "-version"], capture_output=True, text=True, check=True).stderr
    known = re.sub(r"\W+", "-", version.splitlines()[0] if version else "java")
    return cache() / f"classes-{VERSION}-{known.strip('-')}.jsa"


def mapped_classes() -> list[str]:
    """Options that map the classes `prepare` has kept, for programs whose class path begins with that of `java`."""
    archive = _class_archive()
    return [f"-XX:SharedArchiveFile={archive}", "-Xshare:auto"] if archive.exists() else []


def prepare() -> None:
    """Fetch the jars, and keep the loaded classes for faster starts. Does nothing where that was done. Raises KafkaError."""
    reason = unavailable()
    if reason is not None:
        raise KafkaError(reason)
    classpath()
    archive = _class_archive()
    if archive.exists():
        return
    archive.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="train.", dir=archive.parent) as folder:
        made = Path(folder) / "classes.jsa"
        with Broker(Path(folder) / "kafka", options=[f"-XX:ArchiveClassesAtExit={made}"]):
            pass
        if made.exists():
            made.rename(archive)


# -- the broker ------------------------------------------------------------------------------------------


class Broker:
    """Broker and controller in one process, at a port of this machine; its topics stay in `directory`.

    `settings` are added to `SETTINGS`; `options` are the JVM's. It ends with this process unless it `outlives` that. A context manager: the broker runs from `start()` to `stop()`, of which the first raises KafkaError.
    """

    def __init__(
        self,
        directory: Path,
        *,
        port: int = 0,
        settings: Mapping[str, str] | None = None,
        options: Sequence[str] = (),
        outlives: bool = False,
    ) -> None:
        self._directory = directory.absolute()
        self._port = port
        self._settings = {**SETTINGS, **(settings or {})}
        self._options = tuple(options)
        # So that a run that is killed leaves no broker.
        self._prefix = () if outlives or shutil.which("setpriv") is None else ("setpriv", "--pdeathsig", "TERM")
        self._process: subprocess.Popen[bytes] | None = None
        self.bootstrap_servers = ""

    @property
    def pid(self) -> int:
        """The broker's process. REQUIRES: it was started."""
        assert self._process is not None
        return self._process.pid

    @property
    def log_text(self) -> str:
        """What the broker has logged."""
        path = self._directory / "kafka.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def start(self) -> None:
        self._directory.mkdir(parents=True, exist_ok=True)
        port, controller_port = (self._port or free_port()), free_port()
        properties = self._directory / "server.properties"
        properties.write_text("".join(f"{name}={value}\n" for name, value in self._all(port, controller_port).items()))
        (self._directory / "log4j2.properties").write_text(LOGGING)
        options = [*self._options, f"-Dlog4j2.configurationFile={self._directory / 'log4j2.properties'}"]
        if not self._options:
            options += mapped_classes()
        self._format(properties, options if not self._options else options[-1:])
        with open(self._directory / "kafka.log", "wb") as output:
            self._process = subprocess.Popen(
                [*self._prefix, *java("kafka.Kafka", str(properties), options=options)],
                stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        (self._directory / "pid").write_text(str(self._process.pid))
        try:
            self._wait_until_ready()
        except BaseException:
            self.stop()
            raise
        self.bootstrap_servers = f"127.0.0.1:{port}"

    def _all(self, port: int, controller_port: int) -> dict[str, str]:
        return {
            "process.roles": "broker,controller",
            "node.id": "0",
            "listeners": f"PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}",
            "advertised.listeners": f"PLAINTEXT://127.0.0.1:{port}",
            "controller.listener.names": "CONTROLLER",
            "controller.quorum.voters": f"0@127.0.0.1:{controller_port}",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "log.dirs": str(self._directory / "data"),
            **self._settings,
        }

    def _format(self, properties: Path, options: Sequence[str]) -> None:
        if (self._directory / "data" / "meta.properties").exists():
            return
        cluster = base64.urlsafe_b64encode(os.urandom(16)).rstrip(b"=").decode().replace("-", "A")
        done = subprocess.run(
            java("kafka.tools.StorageTool", "format", "-t", cluster, "-c", str(properties), options=options),
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=_START_S,
        )  # fmt: skip
        if done.returncode:
            raise KafkaError(f"The directory of Apache Kafka could not be formatted:\n{done.stdout[-4000:]}")

    def _wait_until_ready(self) -> None:
        process = self._process
        assert process is not None
        end = time.monotonic() + _START_S
        while _READY not in self.log_text:
            if process.poll() is not None:
                raise KafkaError(f"Apache Kafka exited with {process.returncode}:\n{self.log_text[-4000:]}")
            if time.monotonic() > end:
                raise KafkaError(f"Apache Kafka was not ready after {_START_S:.0f} s:\n{self.log_text[-4000:]}")
            time.sleep(0.02)

    def stop(self) -> None:
        """Does nothing if it does not run. Terminates it, and kills it where that takes too long."""
        process, self._process = self._process, None
        (self._directory / "pid").unlink(missing_ok=True)
        if process is None:
            return
        process.terminate()
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def __enter__(self) -> Broker:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()


def free_port() -> int:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        port = bound.getsockname()[1]
        assert isinstance(port, int)
        return port


@contextmanager
def temporary(settings: Mapping[str, str] | None = None, options: Sequence[str] = ()) -> Iterator[Broker]:
    """A broker that leaves nothing. `options`: of the JVM, after those by which it starts soon."""
    with (
        tempfile.TemporaryDirectory(prefix="streamlog-apache-kafka-") as folder,
        Broker(Path(folder), settings=settings, options=options) as broker,
    ):
        yield broker


# -- the command -----------------------------------------------------------------------------------------


def _stop(directory: Path) -> None:
    """Stop the broker that another run of this command started in this directory, if it still runs."""
    path = directory.absolute() / "pid"
    try:
        pid = int(path.read_text())
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except (OSError, ValueError):
        return
    if str(directory.absolute()).encode() not in command:  # another process has the pid now
        return
    os.kill(pid, signal.SIGTERM)
    end = time.monotonic() + _STOP_S
    while Path(f"/proc/{pid}").exists():
        if time.monotonic() > end:
            os.kill(pid, signal.SIGKILL)
            end = time.monotonic() + _STOP_S
        time.sleep(0.05)
    path.unlink(missing_ok=True)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.interop.apache_kafka", description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("prepare", help="fetch the jars")
    start = commands.add_parser("start", help="start a broker, and print its address")
    start.add_argument("directory", type=Path)
    start.add_argument("port", type=int, nargs="?", default=0)
    start.add_argument("--prompt", action="store_true", help="retention and compaction act within some seconds")
    start.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a setting of the broker")
    commands.add_parser("stop", help="stop it").add_argument("directory", type=Path)
    given = parser.parse_args(arguments)
    try:
        if given.command == "prepare":
            prepare()
        elif given.command == "stop":
            _stop(given.directory)
        else:
            settings = {**(PROMPT if given.prompt else {}), **dict(each.split("=", 1) for each in given.set)}
            broker = Broker(given.directory, port=given.port, settings=settings, outlives=True)
            broker.start()
            print(broker.bootstrap_servers)
    except KafkaError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
