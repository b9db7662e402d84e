"""Another distribution that ships the package `streamlog`, found beside this one.

This package is installed by the distribution `streamlog-py`. The distribution `streamlog` on PyPI is a different project,
and ships `streamlog/__init__.py` too: of two that are installed in one directory, the later one has overwritten the file,
and uninstalling either removes it. pip says nothing. So two places look: an import of this package, which sees the
metadata of the other one, and the command `streamlog`, which starts without passing through `__init__.py` as a name.
"""

from __future__ import annotations

import os
import sys
import warnings

_PACKAGE = __name__.partition(".")[0]
# Where this package is installed, and with it the metadata of every distribution in the same directory.
_SITE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

REMEDY = (
    "The distribution 'streamlog' on PyPI is another project, and overwrites files of 'streamlog-py', which this package "
    "belongs to. Run: pip uninstall streamlog streamlog-py, then: pip install streamlog-py"
)


def other_distribution(site: str = _SITE) -> str | None:
    """The name of the other distribution's metadata directory in `site`; None if it is not installed there.

    Cost: one listing of the directory, 0.1 ms for a hundred entries. `importlib.metadata` would take 12 ms to import.
    """
    try:
        names = os.listdir(site)
    except OSError:  # in an archive, for example
        return None
    found = [n for n in names if n.startswith("streamlog-") and n.endswith((".dist-info", ".egg-info"))]
    return found[0] if found else None


def warn_of_other_distribution() -> None:
    """Warn, with the line that imports the package, if the other distribution is installed beside it."""
    if (other := other_distribution()) is not None:
        warnings.warn(f"{other} is installed beside this package. {REMEDY}.", RuntimeWarning, stacklevel=3)


def is_overwritten() -> bool:
    """Whether `streamlog/__init__.py` is not this project's: it was overwritten, or removed with the other one."""
    return not hasattr(sys.modules[_PACKAGE], "StreamLog")
