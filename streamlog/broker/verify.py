"""Every checksum and invariant of a broker directory: what `streamlog.verify` and `streamlog verify` say.

Only reads, needs no lock, and works on a log that is open, in this process or another: then each
partition is looked at up to what was whole at the time.
"""

from __future__ import annotations

import os.path
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from os import PathLike

from ..coordinator import schema
from ..errors import FormatError, StreamlogError
from ..records.batch import BatchHeader, seed_of
from ..records.columns import BatchColumns
from ..runtime import disk as real_disk
from ..runtime.api import Disk
from ..storage.check import Checked, Finding, Question, check_partition
from ..storage.recovery import Crash
from . import metadata
from .broker import METADATA_DIR, METADATA_ID, OWNER_FILE, read_owner
from .controller import GROUPS_TOPIC, METADATA_TOPIC
