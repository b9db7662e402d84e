"""Python source that reads and writes one version of one of Kafka's messages, made from its definition.

`decoder`, `checker` and `encoder` each give one function, its loops nested as the message is, so that nothing is looked up
or decided while it runs: what varies by version is decided here. `source_of` shows the text, which is meant to be read:

    >>> print(source_of("ApiVersionsRequest", 3, "check"))  # doctest: +SKIP

What all of the code relies on: `b` is bytes or a bytearray and `v` a view of all of it; `p` is where to read, `e` the end
of `b`. A length is compared with `e` before bytes are taken, and a count, times the least size of an element, before
anything is made. Past the end `b[p]` and `unpack_from` raise IndexError and struct.error, which the caller of the code
turns into a MalformedMessageError.

A decoder makes objects as it goes, many times the size of the bytes of a tiny element. So a large message is walked by its
checker first, which makes nothing, and finds out what is malformed or has more elements than any honest one.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from ..errors import StreamlogError
from .messages import default_of, define, structures
from .schema import FIXED, ZERO_UUID, Definition, Field, definition, within

# The most elements of all arrays, and tagged fields, that a large message may have: it takes 8 MB to decode, and one or two seconds to
# answer, in which no other client is answered.
MAX_ELEMENTS = 50_000
MAX_STRING = (1 << 15) - 1
"""Bytes of a string, as Kafka has it, also in versions whose lengths could be greater."""
_MAX_VARINT = 5  # bytes, of a number of 32 bits
_SHORT = 2048  # lengths below have their bytes in a table; it takes 0.2 MB
_MESSAGE = "error_message"
_FEW = 8  # numbers in an array below which `_Arrays` has a function for it


class MalformedMessageError(StreamlogError, ValueError):
    """Bytes are not the message that they should be: Kafka closes the connection that they came from."""


# -- what the code calls ---------------------------------------------------------------------------------


def uvarint(b: bytes, p: int) -> tuple[int, int]:
    """An unsigned number at `p`, and where it ends."""
    number = 0
    for at in range(_MAX_VARINT):
        byte = b[p + at]
        number |= (byte & 127) << 7 * at
        if byte < 128:
            return number, p + at + 1
    raise MalformedMessageError(f"a number takes more than {_MAX_VARINT} bytes")


def length(b: bytes, p: int) -> tuple[int, int]:
    """A compact length at `p`, -1 for null, and where it ends."""
    number, p = uvarint(b, p)
    return number - 1, p


def string_length(b: bytes, p: int) -> tuple[int, int]:
    """`length` of a string."""
    number, p = length(b, p)
    if number > MAX_STRING:
        raise malformed("a string", f"has more than {MAX_STRING} bytes")
    return number, p


def skip_tags(b: bytes, p: int, e: int, left: int = MAX_ELEMENTS) -> tuple[int, int]:
    """Where the tagged fields at `p` end, none of which the version knows, and how many elements are `left` to have."""
    count, p = uvarint(b, p)
    left = counted(left, count)
    for _ in range(count):
        _, p = uvarint(b, p)
        size, p = uvarint(b, p)
        p += size
        if p > e:
            raise malformed("a tagged field", "runs past the end")
    return p, left


def counted(left: int, count: int) -> int:
    """How many elements may follow `count` of the `left`."""
    if count > left:
        raise malformed("the message", f"has more than {MAX_ELEMENTS} elements")
    return left - count


def put_uvarint(number: int) -> bytes:
    made = bytearray()
    while number > 127:
        made.append(number & 127 | 128)
        number >>= 7
    made.append(number)
    return bytes(made)


def put_length(number: int) -> bytes:
    return put_uvarint(number + 1)


def clipped(text: bytes) -> bytes:
    """The message of an error as far as a string goes: it may name what a client named, which is as long as a string may be."""
    return text if len(text) <= MAX_STRING else text[:MAX_STRING].decode(errors="ignore").encode()


# `put_length` would take 1 ms for all of them.
_LENGTHS = tuple(
    [bytes((number + 1,)) for number in range(127)]
    + [bytes((number + 1 & 127 | 128, number + 1 >> 7)) for number in range(127, _SHORT)]
)


class _Arrays(dict[str, tuple[Callable[..., bytes], ...]]):
    """Those that pack a few numbers, by the form of one: `struct.pack` takes twice as long."""

    def __missing__(self, code: str) -> tuple[Callable[..., bytes], ...]:
        self[code] = tuple(struct.Struct(f">{number}{code}").pack for number in range(_FEW))
        return self[code]


def malformed(field: str, what: str) -> MalformedMessageError:
    return MalformedMessageError(f"{field} {what}")


def null_refused(field: str, version: int) -> ValueError:
    return ValueError(f"{field} is None, which version {version} of the message has no form for")


_NAMES = {
    "ARRAYS": _Arrays(),
    "clipped": clipped,
    "counted": counted,
    "length": length,
    "malformed": malformed,
    "null_refused": null_refused,
    "put_length": put_length,
    "put_uvarint": put_uvarint,
    "skip_tags": skip_tags,
    "string_length": string_length,
    "uvarint": uvarint,
    "pack": struct.pack,
    "unpack_from": struct.unpack_from,
    "new": object.__new__,
    "LENGTHS": _LENGTHS,
    "ZERO_UUID": ZERO_UUID,
}


# -- the three functions of a message --------------------------------------------------------------------


@cache
def decoder(name: str, version: int) -> Callable[[Any, memoryview, int, int], tuple[Any, int]]:
    """(b, v, p, e) → the message at `p`, and where it ends."""
    made: Callable[[Any, memoryview, int, int], tuple[Any, int]] = _compiled(name, version, "decode")
    return made


@cache
def checker(name: str, version: int) -> Callable[[Any, int, int], int]:
    """(b, p, e) → where the message at `p` ends; nothing of it is kept."""
    made: Callable[[Any, int, int], int] = _compiled(name, version, "check")
    return made


@cache
def encoder(name: str, version: int) -> Callable[[Any, Callable[[Any], Any]], None]:
    """(message, append) → None: appends its bytes, buffer by buffer."""
    made: Callable[[Any, Callable[[Any], Any]], None] = _compiled(name, version, "encode")
    return made


def source_of(name: str, version: int, what: str) -> str:
    """The source of the function that does `what`: decode, check or encode."""
    return _generated(definition(name), version, what)[0]


def _compiled(name: str, version: int, what: str) -> Any:
    found = definition(name)
    if not within(version, found.versions):
        raise ValueError(f"{name} has the versions {found.versions[0]} to {found.versions[1]}, not {version}")
    source, forms = _generated(found, version, what)
    names: dict[str, Any] = dict(_NAMES)
    for each, structure in structures(name).items():
        names |= {each: structure, f"new_{each}": structure.DEFAULT}
    for each, form in forms.items():
        made = struct.Struct(form)
        names |= {f"pack_{each}": made.pack, f"unpack_{each}": made.unpack_from}
    return define(source, f"{what} {name} {version}", names)[what]


def _generated(found: Definition, version: int, what: str) -> tuple[str, dict[str, str]]:
    """The source, and the forms of `struct` that it packs or unpacks by their names in it."""
    if what == "encode":
        writer = _Writer(found, version)
        return writer.source(), writer.out.forms
    reader = _Reader(found, version, keeps=what == "decode")
    return reader.source(), reader.out.forms


class _Lines:
    """Source that grows. `forms`: the forms of `struct` that it uses, by the names that it uses them under."""

    def __init__(self) -> None:
        self.text: list[str] = []
        self.forms: dict[str, str] = {}
        self._depth = 0
        self._last = 0

    def __call__(self, line: str) -> None:
        self.text.append("    " * self._depth + line)

    @contextmanager
    def nested(self, head: str) -> Iterator[None]:
        self(head)
        self._depth += 1
        yield
        self._depth -= 1

    def form(self, fields: list[Field], end: str = "") -> str:
        """How code calls the form of these fields, and of what pads their `end`."""
        return self.named("".join(FIXED[field.type] for field in fields) + end)

    def named(self, form: str) -> str:
        name = form.replace("?", "o")
        self.forms[name] = f">{form}"
        return name

    def fresh(self, stem: str) -> str:
        """A name of its own for a variable that has to outlive what is nested."""
        self._last += 1
        return f"{stem}{self._last}"


def _runs(fields: list[Field]) -> Iterator[list[Field]]:
    """The fields in order; those of a fixed size that follow one another together, for one call."""
    run: list[Field] = []
    for field in fields:
        if field.type in FIXED:
            run.append(field)
            continue
        if run:
            yield run
            run = []
        yield [field]
    if run:
        yield run


class _Version:
    """What one version makes of fields."""

    def __init__(self, found: Definition, version: int) -> None:
        self.number = version
        self.flexible = found.is_flexible(version)

    def compact(self, field: Field) -> bool:
        return self.flexible and not field.rigid

    def is_null(self, field: Field) -> bool:
        return within(self.number, field.nullable)

    def untagged(self, fields: tuple[Field, ...]) -> list[Field]:
        return [each for each in fields if within(self.number, each.versions) and not self._is_tagged(each)]

    def tagged(self, fields: tuple[Field, ...]) -> list[Field]:
        return sorted((each for each in fields if self._is_tagged(each)), key=lambda each: each.tag)

    def _is_tagged(self, field: Field) -> bool:
        return within(self.number, field.tagged)

    def least(self, field: Field) -> int:
        """The least bytes that a field takes."""
        if field.is_array:
            return 1 if self.compact(field) else 4
        return 1 if field.fields and self.is_null(field) else self.least_item(field)

    def least_item(self, field: Field) -> int:
        """The least bytes that an element takes, and of what is no array the field, if it is not null."""
        if field.fields:
            return sum(map(self.least, self.untagged(field.fields))) + self.flexible
        if field.item in FIXED:
            return struct.calcsize(f">{FIXED[field.item]}")
        if field.item == "uuid":
            return len(ZERO_UUID)
        if self.compact(field):
            return 1
        return 2 if field.item == "string" else 4


class _Reader:
    """Source that decodes, or only checks unless it `keeps` what it reads.

    `keep`, among the methods' arguments, is the statement that keeps a value, with {} where the value goes.
    """

    def __init__(self, found: Definition, version: int, *, keeps: bool) -> None:
        self.found, self.version, self.keeps = found, _Version(found, version), keeps
        self.out = _Lines()

    def source(self) -> str:
        out = self.out
        with out.nested("def decode(b, v, p, e):" if self.keeps else f"def check(b, p, e, left={MAX_ELEMENTS}):"):
            self._struct(self.found.name, self.found.fields, "m = {}", "m")
            with out.nested("if p > e:"):
                out("raise malformed('the message', 'is cut short')")
            out("return m, p" if self.keeps else "return p")
        return "\n".join(out.text) + "\n"

    def _struct(self, name: str, fields: tuple[Field, ...], keep: str, variable: str) -> None:
        out = self.out
        untagged, tagged = self.version.untagged(fields), self.version.tagged(fields)
        if self.keeps:
            out(f"{variable} = new({name})")
            if keep != f"{variable} = {{}}":
                out(keep.format(variable))
            for field in fields:
                if field not in untagged:
                    out(f"{variable}.{field.name} = {default_of(field)}")
        for run in _runs(untagged):
            if run[0].type in FIXED:
                self._fixed(run, variable)
            else:
                self._field(run[0], variable)
        if self.version.flexible:
            self._tags(tagged, variable)

    def _fixed(self, run: list[Field], variable: str) -> None:
        form = self.out.form(run)
        if self.keeps:
            targets = ", ".join(f"{variable}.{field.name}" for field in run)
            self.out(f"{targets}{',' if len(run) == 1 else ''} = unpack_{form}(b, p)")
        self.out(f"p += {struct.calcsize(self.out.forms[form])}")

    def _tags(self, fields: list[Field], variable: str) -> None:
        """Tagged fields in any order; those that are unknown are skipped."""
        out = self.out
        tag, stop = out.fresh("tag"), out.fresh("stop")
        with out.nested("if not b[p]:"):
            out("p += 1")
        with out.nested("else:"):
            if not fields:
                out("p, _ = skip_tags(b, p, e)" if self.keeps else "p, left = skip_tags(b, p, e, left)")
                return
            out("n, p = uvarint(b, p)")
            if not self.keeps:
                out("left = counted(left, n)")
            with out.nested("for _ in range(n):"):
                out(f"{tag}, p = uvarint(b, p)")
                out(f"{stop}, p = uvarint(b, p)")
                out(f"{stop} += p")
                with out.nested(f"if {stop} > e:"):
                    out("raise malformed('a tagged field', 'runs past the end')")
                for field in fields:
                    with out.nested(f"if {tag} == {field.tag}:"):
                        if field.type in FIXED:
                            self._fixed([field], variable)
                        else:
                            self._field(field, variable)
                        with out.nested(f"if p != {stop}:"):
                            out(f"raise malformed({field.name!r}, 'has another length than its tag says')")
                out(f"p = {stop}")

    def _field(self, field: Field, variable: str) -> None:
        keep = f"{variable}.{field.name} = {{}}"
        if field.is_array:
            self._array(field, keep)
        elif field.fields:
            self._nullable_struct(field, keep)
        else:
            self._value(field, keep, nullable=self.version.is_null(field))

    def _nullable_struct(self, field: Field, keep: str) -> None:
        out, inner = self.out, self.out.fresh("m")
        if not self.version.is_null(field):
            self._struct(field.type, field.fields, keep, inner)
            return
        out("p += 1")
        with out.nested("if b[p - 1] > 127:"):
            out(keep.format("None") if self.keeps else "pass")
        with out.nested("else:"):
            self._struct(field.type, field.fields, keep, inner)

    def _length(self, n: str, *, compact: bool, short: bool) -> None:
        out = self.out
        if compact:
            out(f"{n} = b[p] - 1")
            out("p += 1")
            with out.nested(f"if {n} > 126:"):
                out(f"{n}, p = {'string_length' if short else 'length'}(b, p - 1)")
        else:
            form = "h" if short else "i"
            out(f"{n}, = unpack_{out.named(form)}(b, p)")
            out(f"p += {2 if short else 4}")

    @contextmanager
    def _unless_null(self, field: Field, n: str, keep: str, *, nullable: bool) -> Iterator[None]:
        out = self.out
        with out.nested(f"if {n} < 0:"):
            if nullable:
                out(keep.format("None") if self.keeps else "pass")
            else:
                out(f"raise malformed({field.name!r}, 'is null')")
        if not nullable:
            yield
            return
        with out.nested("else:"):
            yield

    def _array(self, field: Field, keep: str) -> None:
        out, n = self.out, self.out.fresh("n")
        least = max(1, self.version.least_item(field))
        self._length(n, compact=self.version.compact(field), short=False)
        with self._unless_null(field, n, keep, nullable=self.version.is_null(field)):
            with out.nested(f"if {n} > (e - p) // {least}:" if least > 1 else f"if {n} > e - p:"):
                out(f"raise malformed({field.name!r}, 'has more elements than bytes are left for')")
            if not self.keeps:
                out(f"left = counted(left, {n})")
            if field.item in FIXED:
                if self.keeps:
                    out(keep.format(f"unpack_from('>%d{FIXED[field.item]}' % {n}, b, p)"))
                out(f"p += {n}" if least == 1 else f"p += {n} * {least}")
                return
            append = ""
            if self.keeps:
                items = out.fresh("a")
                out(f"{items} = []")
                out(keep.format(items))
                append = f"{items}.append({{}})"
            with out.nested(f"for _ in range({n}):"):
                if field.fields:
                    self._struct(field.item, field.fields, append, out.fresh("m"))
                else:
                    self._value(field, append, nullable=False)

    def _value(self, field: Field, keep: str, *, nullable: bool) -> None:
        """A string, bytes, records or a uuid."""
        out = self.out
        if field.item == "uuid":
            out("q = p + 16")
            self._taken(field, keep)
            return
        self._length("n", compact=self.version.compact(field), short=field.item == "string")
        with self._unless_null(field, "n", keep, nullable=nullable):
            out("q = p + n")
            self._taken(field, keep)

    def _taken(self, field: Field, keep: str) -> None:
        out = self.out
        with out.nested("if q > e:"):
            out(f"raise malformed({field.name!r}, 'runs past the end')")
        if self.keeps:
            out(keep.format({"string": "b[p:q].decode()", "records": "v[p:q]"}.get(field.item, "bytes(b[p:q])")))
        elif field.item == "string":
            out("b[p:q].decode()")
        out("p = q")


class _Writer:
    """Source that encodes."""

    def __init__(self, found: Definition, version: int) -> None:
        self.found, self.version = found, _Version(found, version)
        self.out = _Lines()
        self._append = "w"

    def source(self) -> str:
        with self.out.nested("def encode(m, w):"):
            self._struct(self.found.fields, "m")
            if len(self.out.text) == 1:
                self.out("pass")
        return "\n".join(self.out.text) + "\n"

    def _write(self, expression: str) -> None:
        self.out(f"{self._append}({expression})")

    def _struct(self, fields: tuple[Field, ...], variable: str) -> None:
        untagged, tagged = self.version.untagged(fields), self.version.tagged(fields)
        ends = self.version.flexible and not tagged  # with the zero byte that counts no tagged field
        for run in _runs(untagged):
            if run[0].type in FIXED:
                last = ends and run[-1] is untagged[-1]
                form = self.out.form(run, "x" if last else "")
                self._write(f"pack_{form}({', '.join(f'{variable}.{field.name}' for field in run)})")
                ends = ends and not last
            else:
                self._field(run[0], variable)
        if tagged:
            self._tags(tagged, variable)
        elif ends:
            self._write(repr(b"\0"))

    def _tags(self, fields: list[Field], variable: str) -> None:
        """The tagged fields that differ from their defaults."""
        out = self.out
        tags, before = out.fresh("tags"), self._append
        out(f"{tags} = []")
        for field in fields:
            value, default = f"{variable}.{field.name}", default_of(field)
            differs = f"{value} is not None" if default == "None" else f"{value} != {default}"
            if field.is_array and default != "None":
                differs = f"{value} is None or len({value})"
            elif field.fields and default != "None":
                differs = f"{value} is not {default} and {differs}"
            with out.nested(f"if {differs}:"):
                parts = out.fresh("parts")
                out(f"{parts} = []")
                self._append = f"{parts}.append"
                if field.type in FIXED:
                    self._write(f"pack_{out.form([field])}({value})")
                else:
                    self._field(field, variable)
                self._append = before
                out(f"{parts} = b''.join({parts})")
                out(f"{tags}.append({put_uvarint(field.tag)!r} + put_uvarint(len({parts})) + {parts})")
        self._write(f"put_uvarint(len({tags})) + b''.join({tags}) if {tags} else b'\\0'")

    def _field(self, field: Field, variable: str) -> None:
        out, value = self.out, self.out.fresh("x")
        out(f"{value} = {variable}.{field.name}")
        if field.is_array:
            self._array(field, value)
        elif field.fields:
            self._nullable_struct(field, value)
        else:
            self._value(field, value, nullable=self.version.is_null(field))

    @contextmanager
    def _unless_null(self, field: Field, value: str, null: bytes, *, nullable: bool) -> Iterator[None]:
        with self.out.nested(f"if {value} is None:"):
            if nullable:
                self._write(repr(null))
            else:
                self.out(f"raise null_refused({field.name!r}, {self.version.number})")
        if not nullable:
            yield
            return
        with self.out.nested("else:"):
            yield

    def _nullable_struct(self, field: Field, value: str) -> None:
        nullable = self.version.is_null(field)
        with self._unless_null(field, value, b"\xff", nullable=nullable):
            if nullable:
                self._write(repr(b"\1"))
            self._struct(field.fields, value)

    def _length(self, n: str, *, compact: bool, short: bool) -> None:
        if compact:
            self._write(f"LENGTHS[{n}] if {n} < {_SHORT} else put_length({n})")
        else:
            form = "h" if short else "i"
            self._write(f"pack_{self.out.named(form)}({n})")

    def _array(self, field: Field, value: str) -> None:
        out, compact = self.out, self.version.compact(field)
        with self._unless_null(field, value, b"\0" if compact else b"\xff" * 4, nullable=self.version.is_null(field)):
            out(f"n = len({value})")
            self._length("n", compact=compact, short=False)
            if field.item in FIXED:
                code = FIXED[field.item]
                self._write(f"ARRAYS[{code!r}][n](*{value}) if n < {_FEW} else pack('>%d{code}' % n, *{value})")
                return
            item = out.fresh("m")
            with out.nested(f"for {item} in {value}:"):
                if field.fields:
                    self._struct(field.fields, item)
                else:
                    self._value(field, item, nullable=False)

    def _value(self, field: Field, value: str, *, nullable: bool) -> None:
        """A string, bytes, records or a uuid."""
        if field.item == "uuid":
            self._write(value)
            return
        out, compact, short = self.out, self.version.compact(field), field.item == "string"
        null = b"\0" if compact else b"\xff" * (2 if short else 4)
        with self._unless_null(field, value, null, nullable=nullable):
            if short:
                encoded = f"{value}.encode()"
                out(f"{value} = clipped({encoded})" if field.name == _MESSAGE else f"{value} = {encoded}")
            if field.item != "records":
                out(f"n = len({value})")
                self._length("n", compact=compact, short=short)
                self._write(value)
                return
            buffers = out.fresh("buffers")
            out(f"{buffers} = {value} if isinstance({value}, (list, tuple)) else ({value},)")
            out(f"n = sum(map(len, {buffers}))")
            self._length("n", compact=compact, short=False)
            with out.nested(f"for x in {buffers}:"):
                self._write("x")
