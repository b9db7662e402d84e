"""The facts of Kafka's messages: which fields they have, of which types, in which versions.

They lie in `schema.txt`, a table that `tests/kafka/make_schema.py` makes from Kafka's own definitions and describes. The
table is read when a message is first asked for (0.1 ms for the index of all), and a definition is parsed when it is.
"""

from __future__ import annotations

import pkgutil
from functools import cache
from itertools import pairwise
from typing import NamedTuple

Versions = tuple[int, int]  # the first and the last; none if the last is less
NONE: Versions = (0, -1)
REQUEST, RESPONSE = "Request", "Response"
ZERO_UUID = bytes(16)

# The types of a fixed size, and how `struct` calls them.
FIXED = {
    "int8": "b",
    "int16": "h",
    "uint16": "H",
    "int32": "i",
    "uint32": "I",
    "int64": "q",
    "float64": "d",
    "bool": "?",
}


class Field(NamedTuple):
    """A field. `type`: one of FIXED, `string`, `bytes`, `records`, `uuid`, or the name of a structure; `[]` before it: an array.

    `nullable`, `tagged`: the versions in which it may be null, is tagged with `tag`. A `rigid` field has the classic form
    in flexible versions too. `fields`: those of its structure.
    """

    name: str
    type: str
    versions: Versions
    nullable: Versions
    default: str | None
    tag: int
    tagged: Versions
    rigid: bool
    fields: tuple[Field, ...]

    @property
    def item(self) -> str:
        """The type of one element of an array, and of what is no array the type."""
        return self.type.removeprefix("[]")

    @property
    def is_array(self) -> bool:
        return self.type.startswith("[]")


class Definition(NamedTuple):
    """A message. `key`: its API's; None for headers and data. From version `flexible` on it has compact lengths and tags."""

    name: str
    key: int | None
    versions: Versions
    flexible: int | None
    fields: tuple[Field, ...]

    def is_flexible(self, version: int) -> bool:
        return self.flexible is not None and version >= self.flexible


def within(version: int, versions: Versions) -> bool:
    return versions[0] <= version <= versions[1]


@cache
def _blocks() -> dict[str, list[str]]:
    """The lines of every message by its name."""
    text = (pkgutil.get_data(__package__, "schema.txt") or b"").decode()
    return {block.partition(" ")[0]: block.splitlines() for block in text.split("\n\n")[1:]}


@cache
def names() -> dict[int, str]:
    """The name of each API by its key: 1 is `Fetch`, whose messages are FetchRequest and FetchResponse."""
    heads = (lines[0].split() for lines in _blocks().values())
    return {int(key): name.removesuffix(REQUEST) for name, key, *_ in heads if name.endswith(REQUEST) and key != "-"}


def message_names() -> list[str]:
    """The names of all messages that the table has."""
    return list(_blocks())


@cache
def definition(name: str) -> Definition:
    """The definition of the message called `name`. Raises KeyError for one that the table does not have."""
    first, *lines = _blocks()[name]
    _, key, versions, flexible = first.split()
    span = _versions(versions)
    return Definition(
        name,
        None if key == "-" else int(key),
        span,
        None if flexible == "-" else int(flexible),
        _fields(lines, span),
    )


def _fields(lines: list[str], versions: Versions) -> tuple[Field, ...]:
    """The fields whose lines have the indentation of the first; `versions` are those of what holds them."""
    fields = []
    depth = lines[0].index(lines[0].strip()) if lines else 0
    starts = [at for at, line in enumerate(lines) if line[depth] != " "] + [len(lines)]
    for start, stop in pairwise(starts):
        fields.append(_field(lines[start].split(), lines[start + 1 : stop], versions))
    return tuple(fields)


def _field(words: list[str], inner: list[str], versions: Versions) -> Field:
    name, kind, *facts = words
    if facts and facts[0][0].isdigit():
        versions = _versions(facts.pop(0))
    nullable = tagged = NONE
    default, tag, rigid = None, -1, False
    while facts:
        fact = facts.pop(0)
        if fact == "=":
            default = facts.pop(0)
        elif fact == "null":
            nullable = _versions(facts.pop(0)) if facts and facts[0][0].isdigit() else versions
        elif fact == "tag":
            tag = int(facts.pop(0))
            tagged = _versions(facts.pop(0)) if facts and facts[0][0].isdigit() else versions
        else:
            rigid = True
    return Field(name, kind, versions, nullable, default, tag, tagged, rigid, _fields(inner, versions))


def _versions(text: str) -> Versions:
    low, high = text.split("-")
    return int(low), int(high)
