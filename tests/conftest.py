"""What every test shares: a clock that the test moves, and logs whose whole directory is checked when the test ends.

`streamlog` is imported inside the fixtures, so that a test of one low layer runs even while a layer above it does
not import.
"""

from __future__ import annotations

import gc
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
import warnings
import zlib
from collections.abc import Callable, Generator, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import hypothesis
import pytest

from tests.sampling import Sampled, takes_all
from tests.times import START_MS

if TYPE_CHECKING:
    import streamlog
    from streamlog.testing import ManualClock

T = TypeVar("T")
REPOSITORY = Path(__file__).resolve().parent.parent

# A failure prints a blob for @reproduce_failure; `--hypothesis-seed=N` replays a whole run of "thorough".
for name, examples, steps in (("quick", 15, 25), ("ci", 40, 40), ("thorough", 1000, 60)):
    hypothesis.settings.register_profile(
        name,
        max_examples=examples,
        stateful_step_count=steps,
        print_blob=True,
        derandomize=name != "thorough",  # as `rng` is
        # Both measure real time: beside other work they would fail tests by chance.
        deadline=None,
        suppress_health_check=[hypothesis.HealthCheck.too_slow],
    )
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--full",
        action="store_true",
        help="also the tests marked slow, and more of the cases of which the others take some; `.ci/run` does this once",
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the slow tests, unless they are asked for: by --full, by -m, or by the name of their file."""
    if config.option.full or config.option.markexpr:
        return
    named = {(config.invocation_params.dir / str(each).partition("::")[0]).resolve() for each in config.args}
    left_out = [item for item in items if item.get_closest_marker("slow") is not None and item.path not in named]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in set(left_out)]


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "damaged: harms the directory on purpose, so it is not checked at the end")
    config.addinivalue_line("markers", "looks_again: interrupts who was to wake a waiter, which then looks for itself")
    # Whatever is synced waits for the disk, several times as long beside other work, and tells nothing by it: power is lost
    # on simulated disks only. PYTEST_DEBUG_TEMPROOT=/tmp has the tests on a disk; those of stress are there always.
    memory = Path("/dev/shm")
    if memory.is_dir() and os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > 1 << 30:
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(memory))
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # A shell starts what it puts in the background (`pytest &`, nohup) deaf to Ctrl-C, and children inherit that.
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish() -> None:
    """Leave out of every garbage collection what stays to the end: the modules and thousands of tests."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _only_woken(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """No waiting call looks again by itself: a wake-up that is missing is a wait without end, which fails the test.

    Marked `looks_again`: a test that interrupts who was to wake, for which the looks are there.
    """
    if request.node.get_closest_marker("looks_again") is None:
        from streamlog.runtime.threads import longest_sleep

        for name in longest_sleep.__slots__:
            monkeypatch.setattr(longest_sleep, name, math.inf)


def _left_threads(before: set[threading.Thread], timeout_s: float) -> list[threading.Thread]:
    """The threads begun since that keep a process from ending, and do not end by themselves within `timeout_s`."""
    end = time.monotonic() + timeout_s
    left = [thread for thread in threading.enumerate() if thread not in before and not thread.daemon]
    for thread in left:
        thread.join(max(0.0, end - time.monotonic()))
    return [thread for thread in left if thread.is_alive()]


def _close_all_logs() -> None:
    import streamlog

    for log in [found for found in gc.get_objects() if type(found) is streamlog.StreamLog]:
        try:
            log.close()
        except Exception as error:
            warnings.warn(f"{log!r}, which a test left open, did not close: {error!r}", stacklevel=1)


_HAS_FAILED = pytest.StashKey[bool]()
_EXIT_STATUS = pytest.StashKey[int]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    item.stash[_HAS_FAILED] = item.stash.get(_HAS_FAILED, False) or report.failed
    return report


def _encodable(value: Any) -> Any:
    """What a report has, with an escape for each character that cannot be sent to another process."""
    if isinstance(value, dict):
        return {key: _encodable(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(_encodable, value))
    return value.encode("utf-8", "backslashreplace").decode("utf-8") if isinstance(value, str) else value


@pytest.hookimpl(wrapper=True)
def pytest_report_to_serializable() -> Generator[None, Any, Any]:
    """With -n a report goes to the process that prints it: a lone surrogate in what a test logged would end the run there."""
    return _encodable((yield))


@pytest.fixture(autouse=True)
def _no_thread_is_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """A test that leaves workers or other non-daemon threads behind fails, and they are ended by closing every log.

    The interpreter waits for such threads, so that a run in which one test failed beside its workers would never end.
    """
    before = set(threading.enumerate())
    yield
    left = _left_threads(before, 20.0)
    if not left:
        return
    closing = threading.Thread(target=_close_all_logs, daemon=True)  # it may wait for what never ends
    closing.start()
    closing.join(15.0)
    still = _left_threads(before, 1.0)
    told = f"The test left threads running: {[thread.name for thread in left]}; all logs were closed"
    told += f", and these run on: {[thread.name for thread in still]}." if still else ", which ended them."
    if request.node.stash.get(_HAS_FAILED, False):
        warnings.warn(told, stacklevel=1)
    else:
        pytest.fail(told, pytrace=False)


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    session.config.stash[_EXIT_STATUS] = int(exitstatus)


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    """Leave at once where threads that nothing could end would keep the interpreter from ending; their test has failed."""
    if _left_threads({threading.current_thread()}, 0.0) and config.stash.get(_EXIT_STATUS, 0):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(config.stash[_EXIT_STATUS])


@pytest.fixture
def clock() -> ManualClock:
    """A clock that stands still until the test moves it."""
    from streamlog.testing import ManualClock

    return ManualClock(start_ms=START_MS)


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> random.Random:
    """Random numbers, the same ones every time: a test that fails now and then says nothing about a change.

    STREAMLOG_TEST_SEED has others, a new seed for each test if it is `random`; it is printed with a failure.
    """
    given = os.environ.get("STREAMLOG_TEST_SEED", zlib.crc32(request.node.nodeid.encode()))
    seed = random.SystemRandom().randrange(2**32) if given == "random" else int(given)
    request.node.add_report_section("setup", "seed", f"STREAMLOG_TEST_SEED={seed}")
    return random.Random(seed)


@pytest.fixture
def sampled(rng: random.Random, pytestconfig: pytest.Config) -> Sampled:
    """`sampled(cases, n)` is every nth of them, from a random one on; all in `python -m tests.stress.sweeps`.

    `sampled(cases, n, full=m)` is every mth in a run with --full.
    """

    def sample(cases: Iterable[T], every: int, *, full: int = 0) -> list[T]:
        if takes_all():
            every = 1
        elif full and pytestconfig.option.full:
            every = full
        return list(cases)[rng.randrange(every) :: every]

    return sample


class LogOpener:
    """Opens logs for one test, reopens them as they were opened, closes and checks them at its end."""

    def __init__(self, path: Path, clock: ManualClock) -> None:
        self.path = path
        self._clock = clock
        self._opened: list[tuple[streamlog.StreamLog, Path, dict[str, Any]]] = []

    def __call__(self, path: Path | None = None, **options: Any) -> streamlog.StreamLog:
        """Open `path`, by default the test's own, on the test's clock unless another is given."""
        import streamlog

        path = self.path if path is None else path
        options.setdefault("clock", self._clock)
        log = streamlog.open(path, **options)
        self._opened.append((log, path, options))
        return log

    def reopen(self, log: streamlog.StreamLog, **changed: Any) -> streamlog.StreamLog:
        """Close `log` and open its directory again with the same options, but for those `changed`."""
        path, options = next((path, options) for opened, path, options in self._opened if opened is log)
        log.close()
        return self(path, **{**options, **changed})

    def close(self) -> None:
        for log, _, _ in reversed(self._opened):
            log.close()

    def directories(self) -> set[Path]:
        return {path for _, path, _ in self._opened} | {self.path}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the test's log lies; nothing is there yet."""
    return tmp_path / "data"


@pytest.fixture
def open_log(path: Path, clock: ManualClock, request: pytest.FixtureRequest) -> Iterator[LogOpener]:
    """Opens logs that are closed, and whose directories are verified, when the test ends."""
    opener = LogOpener(path, clock)
    yield opener
    opener.close()
    if request.node.get_closest_marker("damaged") is None:
        for directory in opener.directories():
            assert_consistent(directory)


@pytest.fixture
def log(open_log: LogOpener) -> streamlog.StreamLog:
    """An empty log in a directory of its own."""
    return open_log()


@pytest.fixture
def reopen(open_log: LogOpener) -> Callable[..., streamlog.StreamLog]:
    """`reopen(log)` closes a log and opens it again as it was opened."""
    return open_log.reopen


def assert_consistent(directory: Path) -> None:
    """Fail with the report's own words if any checksum or invariant of the directory does not hold."""
    import streamlog

    if not (directory / "streamlog.json").exists():
        return
    report = streamlog.verify(directory)
    assert report.ok, f"{directory} is damaged:\n{report}"


@pytest.fixture
def child() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """`child(code, *args)` runs Python code in a process of its own that does not outlive the test."""
    started: list[subprocess.Popen[str]] = []

    def start(code: str, *args: object) -> subprocess.Popen[str]:
        search_path = os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")]))
        process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(code), *map(str, args)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": search_path},
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.fixture
def lines_until_killed() -> Callable[[subprocess.Popen[str], int], list[str]]:
    """`lines_until_killed(process, n)` kills it after n lines; every line that it printed whole is returned."""

    def kill(process: subprocess.Popen[str], lines: int) -> list[str]:
        assert process.stdout is not None
        assert process.stderr is not None
        printed = [process.stdout.readline() for _ in range(lines)]
        process.kill()
        # Not communicate(): it would pass over what readline() has read ahead.
        printed += process.stdout.read().splitlines(keepends=True)
        assert process.wait() == -signal.SIGKILL, process.stderr.read()
        return [line for line in printed if line.endswith("\n")]

    return kill


@pytest.fixture
def authoritative(path: Path) -> Callable[[], dict[str, bytes]]:
    """`authoritative()` is the content of every file that is not derived from others, by its path."""

    def snapshot() -> dict[str, bytes]:
        return {
            str(file.relative_to(path)): file.read_bytes()
            for file in sorted(path.rglob("*"))
            if file.is_file() and (file.suffix == ".log" or file.name in ("streamlog.json", "partition.state"))
        }

    return snapshot
