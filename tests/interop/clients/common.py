"""What the Python programs have in common: run as files, with this directory first in the path."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping

COUNT = 100
FIRST_MS = 1_000_000_000_000
HOWS = ("committed", "aborted", "again")
WAIT_S = 30.0


def key(number: int) -> bytes:
    return b"key %d" % number


def value(number: int) -> bytes:
    return b"value %d %s" % (number, b"." * 200)


def check_read(found: Iterable[tuple[int, int, bytes, bytes, Mapping[str, bytes]]]) -> None:
    """What came back of a topic `codec-…`: offset, timestamp, key, value, headers of each record."""
    wanted = [(n, FIRST_MS + n, key(n), value(n), {"n": b"%d" % n}) for n in range(COUNT)]
    assert list(found) == wanted, list(found)


COMMITTED = [b"%s %d" % (how, n) for how in (b"committed", b"again") for n in range(10)]


def until(what: str, holds: Callable[[], bool], members: Iterable[Member] = ()) -> None:
    end = time.monotonic() + WAIT_S
    while not holds():
        for each in members:
            each.check()
        assert time.monotonic() < end, f"it never came to be that {what}"
        time.sleep(0.02)


class Member:
    """Runs `step` on a thread of its own until it is stopped, then `close`."""

    def __init__(self) -> None:
        self.assigned: set[int] = set()
        self._stops = False
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def step(self) -> None:
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError

    def start(self) -> None:
        self._thread.start()

    def _run(self) -> None:
        try:
            while not self._stops:
                self.step()
            self.close()
        except BaseException as error:
            self._failure = error

    def check(self) -> None:
        """Raises what has ended it."""
        if self._failure is not None:
            raise self._failure

    def stop(self) -> None:
        self._stops = True
        self._thread.join(WAIT_S)
        assert not self._thread.is_alive(), "a member did not end"
        self.check()


def share(join: Callable[[list[int]], Member], send: Callable[[range], None], committed: Callable[[], int]) -> None:
    """Two members, of which one leaves, handle 80 records once each. `committed`: the sum of the group's offsets."""
    values: list[int] = []
    a, b = join(values), join(values)
    a.start()
    b.start()
    until("each has two partitions", lambda: len(a.assigned) == 2 == len(b.assigned), (a, b))
    send(range(40))
    until("all 40 are handled", lambda: len(values) >= 40, (a, b))
    b.stop()
    send(range(40, 80))
    until("all 80 are handled", lambda: len(values) >= 80, (a,))
    assert len(a.assigned) == 4, a.assigned
    a.stop()
    assert sorted(values) == list(range(80)), values
    assert committed() == 80, committed()


def main(scenarios: Mapping[str, Callable[[str, str], None]]) -> None:
    servers, scenario, variant = sys.argv[1:]
    scenarios[scenario](servers, variant)
    print("ok")
