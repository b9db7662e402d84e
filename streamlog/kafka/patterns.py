"""Regular expressions that clients send: RE2, as Kafka's are (RE2J). A match takes time in proportion to what it looks at, whatever the
pattern; Python's own would let a client stop the listener with one that backtracks. To compile one takes up to 0.1 ms for each
character, in which no other thread runs: so a pattern has a bound.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

from ..errors import MissingExtraError

MAX_PATTERN = 10_000
"""Characters of a pattern: the names of some hundred topics."""


def matcher(pattern: str) -> Callable[[str], bool]:
    """Whether the whole of a name matches. Raises ValueError for what is no pattern of RE2's, or too long, MissingExtraError without
    google-re2.
    """
    if len(pattern) > MAX_PATTERN:
        raise ValueError(f"it has {len(pattern):,} characters, and a pattern has at most {MAX_PATTERN:,}")
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
