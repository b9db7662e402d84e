"""Regular expressions that clients send: RE2, as Kafka's are (RE2J). A match takes time in proportion to what it looks at, whatever the
pattern; Python's own would let a client stop the listener with one that backtracks.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

from ..errors import MissingExtraError


def matcher(pattern: str) -> Callable[[str], bool]:
    """Whether the whole of a name matches. Raises ValueError for what is no pattern of RE2's, MissingExtraError without google-re2."""
    try:
        re2 = import_module("re2")
    except ImportError as error:
        raise MissingExtraError(
            "Patterns of clients need the package google-re2, which is not installed; run: pip install 'streamlog-py[kafka]'"
        ) from error
    options = re2.Options()
    options.log_errors = False
    try:
        compiled = re2.compile(pattern, options)
    except re2.error as error:
        why = error.args[0] if error.args else ""
        raise ValueError(why.decode("utf-8", "replace") if isinstance(why, bytes) else str(why)) from error
    return lambda name: compiled.fullmatch(name) is not None
