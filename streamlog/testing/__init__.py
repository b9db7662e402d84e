"""Helpers for the tests of programs that use streamlog. The library itself does not import them.

Pass a `ManualClock` to `streamlog.open(clock=…)`: time stands still until the test calls `advance`, and when that returns,
all work that depends on time is done. `Clock` is its protocol.

Pass a `SimulatedDisk` or a `FaultyDisk` to `streamlog.open(disk=…)`. A simulated disk is a file system in memory that gives
the state that a kill or a power loss would leave at any moment. A faulty disk makes chosen calls fail, on real files or
on a simulated disk.

- `clock`: `ManualClock`.
- `model`: files and directories, and what of them is on the device.
- `crashes`: the states that a crash may leave.
- `simulated`, `handles`: `SimulatedDisk`, and its open files.
- `faults`: `FaultyDisk`.
"""

from ..runtime.disk_errors import disk_modules
from ..types import Clock
from .clock import ManualClock
from .faults import Fault, FaultyDisk
from .handles import BusError
from .model import Op
from .simulated import SimulatedDisk

disk_modules.update(f"{__name__}.{module}" for module in ("crashes", "faults", "handles", "model", "simulated"))

__all__ = ["BusError", "Clock", "Fault", "FaultyDisk", "ManualClock", "Op", "SimulatedDisk"]
