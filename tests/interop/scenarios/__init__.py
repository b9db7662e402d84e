"""What is asked of Apache Kafka and of a listener alike, by what it is about: a file each.

    @scenario
    def offsets_by_time(bootstrap: str) -> Any:
        \"\"\"ListOffsets by a timestamp: the first record at or after it.\"\"\"
        …
        return {"at 5": offset_of(bootstrap, "offsets_by_time", 5)}

Each names what it creates after itself: all run on the same two brokers, some at once, each once on each of them.
What changes the settings of all topics, or of a broker, is `alone`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple


class Scenario(NamedTuple):
    """`is_short`: it is one of those that run with the tests. `is_alone`: no other runs beside it."""

    name: str
    run: Callable[[str], Any]
    is_short: bool
    is_alone: bool = False


REGISTERED: dict[str, Scenario] = {}


def scenario(run: Callable[[str], Any]) -> Callable[[str], Any]:
    return _register(run, is_short=False)


def short_scenario(run: Callable[[str], Any]) -> Callable[[str], Any]:
    """One of those that run with the tests."""
    return _register(run, is_short=True)


def alone(run: Callable[[str], Any]) -> Callable[[str], Any]:
    """It changes what others depend on: it runs after them, and by itself. Above the other decorator."""
    REGISTERED[run.__name__] = REGISTERED[run.__name__]._replace(is_alone=True)
    return run


def _register(run: Callable[[str], Any], *, is_short: bool) -> Callable[[str], Any]:
    assert run.__doc__, f"{run.__name__} says what it asks"
    assert run.__name__ not in REGISTERED, f"there are two scenarios {run.__name__}"
    REGISTERED[run.__name__] = Scenario(run.__name__, run, is_short)
    return run
