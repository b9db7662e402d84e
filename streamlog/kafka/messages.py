"""A class for each of Kafka's messages and for each structure in one, made from the table when it is first asked for.

    from streamlog.kafka import messages

    Response = messages.MetadataResponse
    Response(topics=[Response.MetadataResponseTopic(name="orders", error_code=0)])

A class has every field of every version, in snake_case, as a slot; a constructor takes fields by keyword and gives the
others Kafka's defaults. So a handler is written once for all versions: the fields that a version lacks have their
defaults in a decoded message, and are left out of an encoded one. Numbers, strings, bytes and arrays (lists or tuples) are
plain; a uuid is its 16 bytes; `records` is a view of the message that it came in, or when it is given any buffer, or a
list of buffers, which are not copied.
"""

from __future__ import annotations

import linecache
from functools import cache
from typing import Any

from .schema import FIXED, ZERO_UUID, Definition, Field, definition


class Message:
    """What all the classes have: fields as slots, equality by fields, and a repr that leaves out defaults."""

    __slots__: tuple[str, ...] = ()
    DEFAULT: Any  # what a field of this structure is if it is not set: it may not be changed

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return all(_plain(getattr(self, name)) == _plain(getattr(other, name)) for name in self.__slots__)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        default = type(self).DEFAULT
        given = ((name, getattr(self, name)) for name in self.__slots__)
        shown = (f"{name}={value!r}" for name, value in given if _plain(value) != _plain(getattr(default, name)))
        return f"{type(self).__name__}({', '.join(shown)})"


def _plain(value: Any) -> Any:
    """An array is the same as a list and as a tuple."""
    return list(value) if isinstance(value, tuple) else value


def __getattr__(name: str) -> Any:
    try:
        found = definition(name)
    except KeyError:
        raise AttributeError(f"Kafka has no message {name!r} here: see schema.txt") from None
    return _class_of(found)


def structures(message: str) -> dict[str, type[Message]]:
    """The classes of the structures in a message by their names, and of the message by its own."""
    top = __getattr__(message)
    return {message: top} | {name: made for name, made in vars(top).items() if isinstance(made, type)}


@cache
def _class_of(found: Definition) -> type[Message]:
    made: dict[str, type[Message]] = {}
    top = _make(found.name, found.fields, made)
    for name, inner in made.items():
        if inner is not top:
            inner.__qualname__ = f"{found.name}.{name}"
            setattr(top, name, inner)
    return top


def _make(name: str, fields: tuple[Field, ...], made: dict[str, type[Message]]) -> type[Message]:
    """The class of a structure, after those of the structures in it; a name that is used twice means one structure."""
    for field in fields:
        if field.fields and field.item not in made:
            _make(field.item, field.fields, made)
    space = {f"new_{each}": inner.DEFAULT for each, inner in made.items()} | {"ZERO_UUID": ZERO_UUID}
    parameters = "".join(f", {field.name}={default_of(field)}" for field in fields)
    body = "".join(f"    self.{field.name} = {field.name}\n" for field in fields) or "    pass\n"
    source = f"def __init__(self{', *' if fields else ''}{parameters}):\n{body}"
    members = {
        "__slots__": tuple(field.name for field in fields),
        "__init__": define(source, f"{name}.__init__", space)["__init__"],
        "__module__": __name__,
    }
    made[name] = type(name, (Message,), members)
    made[name].DEFAULT = made[name]()
    return made[name]


def default_of(field: Field) -> str:
    """The default of a field as an expression."""
    if field.default == "null" or field.type == "records":
        return "None"
    if field.is_array:
        return "()"
    if field.fields:
        return f"new_{field.type}"
    if field.type in FIXED:
        zero = {"bool": "False", "float64": "0.0"}.get(field.type, "0")
        return zero if field.default is None else field.default.capitalize()
    return {"string": "''", "bytes": "b''", "uuid": "ZERO_UUID"}[field.type]


def define(source: str, title: str, names: dict[str, Any]) -> dict[str, Any]:
    """Run source that was made from the table, and return what it defines with `names`; a traceback shows its lines."""
    title = f"<{title}>"
    linecache.cache[title] = (len(source), None, source.splitlines(keepends=True), title)
    exec(compile(source, title, "exec"), names)
    return names
