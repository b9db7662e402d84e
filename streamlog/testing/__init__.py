"""Shipped helpers for the tests of programs that use streamlog. Nothing in the library imports them.

`ManualClock` is given to `streamlog.open(clock=…)`: time stands still until the test advances it,
and everything that time drives has happened when `advance` returns. `Clock` is the protocol it follows.

`SimulatedDisk` and `FaultyDisk` are given to `streamlog.open(disk=…)`. The first is a file system in
memory that can say what a kill or a power loss would leave at any moment; the second lets chosen
calls fail, on real files or on simulated ones.

- `model`: files, directories, and what of them is on the device
- `crashes`: which states a crash may leave
- `simulated`, `handles`, `faults`: the two disks, and open files of the first
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
