"""Names of a package that are imported when they are first used (PEP 562), so that importing the package costs next to nothing.

pytest imports its plugins in every run, `streamlog.testing.pytest_plugin` among them, and with it `streamlog`: a run that uses no
fixture must not pay for the whole library.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from typing import Any


def lazy_names(
    namespace: dict[str, Any], modules: Mapping[str, str], submodules: Iterable[str] = ()
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """`__getattr__` and `__dir__` for the package whose globals are `namespace`.

    modules: for each module, relative to the package, the names that are taken of it, with spaces between. submodules: those that
    are names of the package themselves. A name is kept in the namespace, so each is looked up here once. Several threads may
    ask for one at the same time: the import system has them wait for each other, and the package has no import cycles.
    """
    package = namespace["__name__"]
    found_in = {name: module for module, names in modules.items() for name in names.split()}
    whole = frozenset(submodules)

    def get(name: str) -> Any:
        if name in found_in:
            value = getattr(import_module(f".{found_in[name]}", package), name)
        elif name in whole:
            value = import_module(f".{name}", package)
        else:
            # With both, Python suggests the name that was meant.
            raise AttributeError(f"module {package!r} has no attribute {name!r}", name=name, obj=sys.modules[package])
        namespace[name] = value
        return value

    def names() -> list[str]:
        return sorted({*namespace, *namespace["__all__"]})

    return get, names
