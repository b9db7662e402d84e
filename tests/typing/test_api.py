"""The package is what `api.pyi` promises: the same names, members, parameters, defaults and types, and no others.

Both are compared as objects: an annotation of the stub is evaluated with the public names of the package.
"""

from __future__ import annotations

import ast
import builtins
import collections.abc
import datetime
import importlib.util
import inspect
import os
import re
import typing
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager
from functools import reduce
from operator import or_
from pathlib import Path
from types import UnionType
from typing import Any, NamedTuple

import pytest

import streamlog
from streamlog import testing, types
from streamlog.client.serde import DeByTopic

STUB = (Path(__file__).parent / "api.pyi").read_text(encoding="utf-8")

# -- what is not built yet -------------------------------------------------------------------------------
# What gets built is taken out here; it is then compared like everything else.

LATER = {
    "streamlog": set(),
}
# What only the comments of the stub name.
LATER_MODULES = {"streamlog.aio", "streamlog.mirror"}
LATER_IN_COMMENTS = {"streamlog": {"mirror"}, "StreamLog": {"sql_follow"}}

# -- what the package has beside the stub ----------------------------------------------------------------

# Names that the comments of the stub give, and what their results are made of.
IN_COMMENTS = {"errors", "retention", "serde", "verify", "repair", "Report", "RepairReport", "external_offsets"}
PARTS = {"Problem", "RepairedPartition", "ExternalOffsets", "RecordTuple", "Replayed", "SqlResult"}
EXPORTS = {"to_arrow", "to_pandas", "to_polars"}  # in a comment of the stub
MORE_MEMBERS = {
    "StreamLog": {
        "sql",  # in a comment of the stub
        *("attach", "detach"),  # for the listeners of other packages, such as Kafka's
        "reassignments",  # what is under way
        "replication_throttle_bytes_per_s",  # how fast replicas are copied
    },
    "Reassignment": {"cancel"},
    "RecordBatch": EXPORTS | {"buffers"},
    "Records": EXPORTS | {"from_iterable"},  # which is of itertools.chain
    "Topic": EXPORTS | {"scan", "mismatches", "plot_records", "plot_sizes"},
    "ConsumerGroup": {"plot_lag"},
    "StreamlogError": {"copy"},  # to raise an error that is kept
    "Workers": {"close"},  # in a comment of the stub, as for all handles
}
# Names of the stub that are its own means, not names of the library.
MEANS = {"K", "V", "T", "MaybeNone", "_Closing"}


class Class(NamedTuple):
    """A class of the stub, with what it inherits of other classes of the stub."""

    fields: dict[str, ast.AnnAssign]
    methods: dict[str, list[ast.FunctionDef]]

    @property
    def members(self) -> set[str]:
        return {*self.fields, *self.methods}


def read_class(node: ast.ClassDef, classes: dict[str, Class]) -> Class:
    made = Class({}, {})
    for base in node.bases:
        if isinstance(base, ast.Name) and base.id in classes:
            made.fields.update(classes[base.id].fields)
            made.methods.update(classes[base.id].methods)
    own: dict[str, list[ast.FunctionDef]] = {}
    for each in node.body:
        if isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name):
            made.fields[each.target.id] = each
        elif isinstance(each, ast.FunctionDef):
            own.setdefault(each.name, []).append(each)
    made.methods.update(own)
    return made


CLASSES: dict[str, Class] = {}
FUNCTIONS: dict[str, list[ast.FunctionDef]] = {}
ALIASES: dict[str, ast.expr] = {}
for _node in ast.parse(STUB).body:
    if isinstance(_node, ast.ClassDef):
        CLASSES[_node.name] = read_class(_node, CLASSES)
    elif isinstance(_node, ast.FunctionDef):
        FUNCTIONS.setdefault(_node.name, []).append(_node)
    elif isinstance(_node, ast.AnnAssign) and isinstance(_node.target, ast.Name) and _node.value is not None:
        ALIASES[_node.target.id] = _node.value
    elif isinstance(_node, ast.Assign) and isinstance(_node.targets[0], ast.Name):
        ALIASES[_node.targets[0].id] = _node.value

BUILT = sorted(set(CLASSES) - LATER["streamlog"] - MEANS)
ERRORS = set(re.findall(r"\b[A-Z]\w+Error\b", STUB)) - set(dir(builtins)) - set(ALIASES)
NAMES: dict[str, Any] = {
    **vars(typing),
    **vars(collections.abc),
    **{name: getattr(streamlog, name) for name in dir(streamlog)},
    **vars(builtins),
    "AbstractContextManager": AbstractContextManager,
    "datetime": datetime.datetime,
    "timedelta": datetime.timedelta,
    "PathLike": os.PathLike,
    "UUID": uuid.UUID,
    "re": re,
    **{name: getattr(types, name) for name in ("K", "V", "MaybeNone")},
    "T": typing.TypeVar("T"),
}


def value_of(annotation: ast.expr | None) -> Any:
    """What an annotation of the stub means in the package."""
    text = "None" if annotation is None else ast.unparse(annotation)
    made = eval(text, NAMES)
    return eval(made, NAMES) if isinstance(made, str) else made


def meaning(made: Any) -> Any:
    """A type in a form that can be compared: unions have no order, type variables are their names."""
    if isinstance(made, (typing.TypeVar, typing.ForwardRef)):
        return made.__name__ if isinstance(made, typing.TypeVar) else made.__forward_arg__
    if isinstance(made, list):
        return [meaning(each) for each in made]
    arguments = [each if isinstance(each, (str, int)) else meaning(each) for each in typing.get_args(made)]
    origin = typing.get_origin(made)
    if origin in (typing.Union, UnionType, typing.Literal):
        return "one of", sorted(arguments, key=repr)
    return (origin, arguments) if origin is not None else type(None) if made is None else made


def without(made: Any, *left_out: Any) -> Any:
    """A union without some of its members."""
    kept = [each for each in typing.get_args(made) if each not in left_out]
    return reduce(or_, kept) if typing.get_origin(made) in (typing.Union, UnionType) else made


class Parameter(NamedTuple):
    """`default` is NONE where there is none, and SOME where the stub says `...`."""

    kind: str
    default: object
    type: Any


NONE = object()
SOME = object()


def parameters_of_stub(node: ast.FunctionDef, *, method: bool) -> dict[str, Parameter]:
    given = node.args
    made: dict[str, Parameter] = {}

    def add(arg: ast.arg, kind: str, default: ast.expr | None) -> None:
        value = NONE
        if default is not None:
            literal = ast.literal_eval(default)
            value = SOME if literal is ... else literal
        made[arg.arg] = Parameter(kind, value, None if arg.annotation is None else value_of(arg.annotation))

    positional = [*given.posonlyargs, *given.args]
    defaults = [*[None] * (len(positional) - len(given.defaults)), *given.defaults]
    for arg, default in zip(positional, defaults, strict=True):
        add(arg, "POSITIONAL_ONLY" if arg in given.posonlyargs else "POSITIONAL_OR_KEYWORD", default)
    if given.vararg:
        add(given.vararg, "VAR_POSITIONAL", None)
    for arg, default in zip(given.kwonlyargs, given.kw_defaults, strict=True):
        add(arg, "KEYWORD_ONLY", default)
    if given.kwarg:
        add(given.kwarg, "VAR_KEYWORD", None)
    if method:
        del made["self"]
    return made


def parameters_of_package(function: Any) -> dict[str, Parameter]:
    hints = typing.get_type_hints(function)
    return {
        name: Parameter(each.kind.name, NONE if each.default is each.empty else each.default, hints.get(name))
        for name, each in inspect.signature(function).parameters.items()
        if name != "self"
    }


def differences(where: str, nodes: list[ast.FunctionDef], function: Any, *, method: bool = True) -> Iterator[str]:
    """What differs between the stub's function, which may be overloaded, and the package's."""
    promised: dict[str, Parameter] = {}
    for node in nodes:
        promised.update(parameters_of_stub(node, method=method))
    real = parameters_of_package(function)
    if list(promised) != list(real):
        yield f"{where}: parameters {list(promised)} in the stub, {list(real)} in the package"
        return
    overloaded = len(nodes) > 1 or bool(typing.get_overloads(function))
    for name, want in promised.items():
        have = real[name]
        if want.kind != have.kind:
            yield f"{where}({name}): {want.kind} in the stub, {have.kind} in the package"
        if want.default is SOME or overloaded:
            if want.default is not NONE and have.default is NONE:
                yield f"{where}({name}): no default in the package"
        elif want.default != have.default or type(want.default) is not type(have.default):
            yield f"{where}({name}): default {want.default!r} in the stub, {have.default!r} in the package"
        # `...` in the stub is None here, and a mapping is in a comment of the stub. A log is known by a protocol.
        kind = without(have.type, type(None), DeByTopic) if want.default is SOME else have.type
        if not overloaded and name != "log" and meaning(want.type) != meaning(kind):
            yield f"{where}({name}): {want.type} in the stub, {have.type} in the package"
    promise, returned = value_of(nodes[0].returns), typing.get_type_hints(function).get("return")
    if not overloaded and meaning(promise) != meaning(returned):
        yield f"{where}: returns {promise} in the stub, {returned} in the package"


@pytest.fixture(scope="module")
def instances() -> Iterator[dict[str, object]]:
    """An object of each class whose fields are attributes of its objects only."""
    with streamlog.open() as log:
        topic = log.create_topic("orders")
        topic.send("9.50")
        with log.producer() as producer, log.consumer("orders") as consumer:
            group = log.group("billing")
            with group.start(lambda record: None, "orders", until_end=True) as workers:
                made = [log, topic, producer, consumer, group, workers, topic.read(), next(iter(topic.read_batches()))]
                made += log.brokers
                yield {type(each).__name__: each for each in made}


def public_members(name: str, instances: dict[str, object]) -> set[str]:
    found = getattr(streamlog, name)
    if typing.is_typeddict(found):
        return set(typing.get_type_hints(found))
    builtin = next((base for base in (tuple, Exception) if issubclass(found, base)), object)
    names = {*dir(found), *getattr(instances.get(name), "__dict__", ())} - set(dir(builtin))
    if builtin is Exception:  # the stub says of all errors that they carry their fields
        fields = set(typing.get_type_hints(found))
        names = names - fields | CLASSES[name].members & fields
    return {each for each in names if not each.startswith("_")}


# -- names -----------------------------------------------------------------------------------------------


def test_every_name_of_the_stub_is_in_the_package() -> None:
    promised = {*CLASSES, *FUNCTIONS, *ALIASES, *ERRORS, *IN_COMMENTS} - LATER["streamlog"] - MEANS
    assert sorted(promised - set(streamlog.__all__)) == []


def test_every_public_name_of_the_package_is_in_the_stub() -> None:
    errors = {
        name for name in streamlog.__all__ if isinstance(getattr(streamlog, name), type(streamlog.StreamlogError))
    }
    errors = {name for name in errors if issubclass(getattr(streamlog, name), streamlog.StreamlogError)}
    assert sorted(set(streamlog.__all__) - {*CLASSES, *FUNCTIONS, *ALIASES, *IN_COMMENTS} - PARTS - errors) == []


def test_the_comments_of_the_stub_have_the_names_that_are_only_there() -> None:
    words = set(re.findall(r"\w+", STUB))
    assert sorted(name for names in LATER_IN_COMMENTS.values() for name in names - words) == []
    assert sorted(IN_COMMENTS - words - {"errors"}) == []


def test_each_module_has_the_names_that_the_stub_gives() -> None:
    modules = {
        streamlog.retention: {"Policy", "MaxAge", "MaxBytes", "MaxRecords"},
        streamlog.serde: {"bytes_", "string", "json", "msgpack"},
        testing: {"Clock", "ManualClock"},
    }
    for module, names in modules.items():
        assert sorted(names - set(module.__all__)) == [], module


@pytest.mark.parametrize("alias", sorted(set(ALIASES) - MEANS))
def test_an_alias_means_what_the_stub_says(alias: str) -> None:
    assert meaning(getattr(streamlog, alias)) == meaning(value_of(ALIASES[alias]))


# -- classes ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BUILT)
def test_a_class_has_the_members_of_the_stub_and_no_others(name: str, instances: dict[str, object]) -> None:
    promised = CLASSES[name].members - LATER.get(name, set())
    dunders = {each for each in promised if each.startswith("__")}
    assert sorted(each for each in dunders if not hasattr(getattr(streamlog, name), each)) == []
    more = {each for base in getattr(streamlog, name).__mro__ for each in MORE_MEMBERS.get(base.__name__, ())}
    assert public_members(name, instances) - more == promised - dunders


def test_a_class_is_what_the_stub_says_it_is() -> None:
    for node in ast.parse(STUB).body:
        if isinstance(node, ast.ClassDef) and node.name in BUILT:
            bases = [value_of(base) for base in node.bases if ast.unparse(base) in {*BUILT, *dir(builtins)}]
            found = getattr(streamlog, node.name)
            assert all(issubclass(found, base) for base in bases if not typing.is_typeddict(base)), node.name


@pytest.mark.parametrize("name", BUILT)
def test_a_class_has_the_methods_of_the_stub(name: str) -> None:
    found = getattr(streamlog, name)
    wrong: list[str] = []
    for method, nodes in CLASSES[name].methods.items():
        if method in LATER.get(name, set()) or (method.startswith("__") and method != "__init__"):
            continue
        member = inspect.getattr_static(found, method)
        if isinstance(member, property):
            wrong += [] if any("property" in ast.unparse(node.decorator_list[0]) for node in nodes) else [method]
            member = member.fget
        wrong += differences(f"{name}.{method}", nodes, member)
    assert wrong == []


@pytest.mark.parametrize("name", BUILT)
def test_the_fields_of_a_class_have_the_types_of_the_stub(name: str) -> None:
    found = getattr(streamlog, name)
    fields = {field: node for field, node in CLASSES[name].fields.items() if field not in LATER.get(name, set())}
    hints = typing.get_type_hints(found)
    wrong = []
    for field, node in fields.items():
        member = inspect.getattr_static(found, field, None)
        if isinstance(member, property):
            have = typing.get_type_hints(member.fget)["return"]
        elif field in hints:
            have = hints[field]
        else:
            continue  # an attribute that `__init__` sets; the programs that mypy and pyright check use it
        if meaning(have) != meaning(value_of(node.annotation)):
            wrong.append(f"{name}.{field}: {ast.unparse(node.annotation)} in the stub, {have} in the package")
    assert wrong == []
    if issubclass(found, tuple) and not typing.is_typeddict(found):
        assert found._fields == tuple(fields)
        defaults = {field: ast.literal_eval(node.value) for field, node in fields.items() if node.value is not None}
        assert found._field_defaults == defaults


def test_a_handle_is_made_as_the_stub_says() -> None:
    for name, nodes in FUNCTIONS.items():
        if name not in LATER["streamlog"]:
            assert list(differences(name, nodes, getattr(streamlog, name), method=False)) == []


@pytest.mark.parametrize("error", sorted(ERRORS))
def test_an_error_of_the_stub_has_its_bases_and_its_fields(error: str) -> None:
    found = getattr(streamlog, error)
    assert issubclass(found, streamlog.StreamlogError)
    text = " ".join(line.strip("# ") for line in STUB.splitlines())
    for inside in re.findall(rf"\b{error}(?: and \w+)? ?\(([^)]*)\)", text):
        words = inside.replace(",", " ").split()
        bases = {getattr(builtins, word) for word in words if word.endswith("Error") and hasattr(builtins, word)}
        fields = {word[1:].rstrip(":") for word in words if re.fullmatch(r"\.[a-z_]+:?", word)}
        assert all(issubclass(found, base) for base in bases)
        assert sorted(fields - set(typing.get_type_hints(found))) == []


# -- later -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("owner", sorted({*LATER, *LATER_IN_COMMENTS}))
def test_what_is_not_built_yet_is_not_there(owner: str) -> None:
    """If this fails, one of these was built: take it out of LATER, so that it is compared with the stub."""
    found = streamlog if owner == "streamlog" else getattr(streamlog, owner)
    later = {*LATER.get(owner, set()), *LATER_IN_COMMENTS.get(owner, set())}
    assert sorted(name for name in later if hasattr(found, name)) == []


@pytest.mark.parametrize("module", sorted(LATER_MODULES))
def test_a_module_that_is_not_built_yet_is_not_there(module: str) -> None:
    assert importlib.util.find_spec(module) is None


def test_only_what_the_stub_promises_is_left_for_later() -> None:
    assert sorted(LATER["streamlog"] - {*CLASSES, *FUNCTIONS}) == []
    for owner in LATER:
        assert owner == "streamlog" or sorted(LATER[owner] - CLASSES[owner].members) == []
