"""Helpers for the tests of programs that use streamlog. The library itself does not import them.

pytest has the fixtures `streamlog_log`, `kafka_cluster` and others wherever streamlog is installed: see `TESTING.md` beside this
file. `make_record`, `records` and `wait_for_group` shorten tests.

Pass a `ManualClock` to `streamlog.open(clock=…)`: time stands still until the test calls `advance`, and when that returns,
all work that depends on time is done. `Clock` is its protocol.

Pass a `SimulatedDisk` or a `FaultyDisk` to `streamlog.open(disk=…)`. A simulated disk is a file system in memory that gives
the state that a kill or a power loss would leave at any moment. A faulty disk makes chosen calls fail, on real files or
on a simulated disk.

- `clock`: `ManualClock`.
- `pytest_plugin`: what pytest loads: the names of the fixtures and settings. `fixtures`: what they do, imported when a test uses one.
- `groups`: `wait_for_group`. `values`: `make_record`, `records`.
- `model`: files and directories, and what of them is on the device.
- `crashes`: the states that a crash may leave.
- `simulated`, `handles`: `SimulatedDisk`, and its open files.
- `faults`: `FaultyDisk`.

Each name is imported when it is first used: pytest imports this package in every run.
"""

from typing import TYPE_CHECKING

from ..runtime.lazy import lazy_names as _lazy_names

__all__ = [
    "BusError",
    "Clock",
    "Fault",
    "FaultyDisk",
    "ManualClock",
    "Op",
    "SimulatedDisk",
    "make_record",
    "records",
    "wait_for_group",
]

if TYPE_CHECKING:
    from ..types import Clock
    from .clock import ManualClock
    from .faults import Fault, FaultyDisk
    from .groups import wait_for_group
    from .handles import BusError
    from .model import Op
    from .simulated import SimulatedDisk
    from .values import make_record, records
else:
    _MODULES = {
        ".types": "Clock",
        "clock": "ManualClock",
        "faults": "Fault FaultyDisk",
        "groups": "wait_for_group",
        "handles": "BusError",
        "model": "Op",
        "simulated": "SimulatedDisk",
        "values": "make_record records",
    }
    __getattr__, __dir__ = _lazy_names(globals(), _MODULES)
