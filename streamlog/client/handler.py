"""What a group's workers may call for each record: a plain function, or an object that is called like one.

A coroutine function or a generator function only makes an object when it is called; its body would never
run, and every record would be committed unhandled. Such handlers are refused at `run` and `start`, and one
that hides (a lambda that returns a coroutine) at its first record, which stays uncommitted.
"""

from __future__ import annotations

import inspect
from functools import partial
from types import AsyncGeneratorType, CoroutineType, FunctionType, GeneratorType, MethodType
from typing import Any

from ..config import shown
from ..errors import ConfigError

ASYNC = "an async function"
_UNRUN = (CoroutineType, GeneratorType, AsyncGeneratorType)
_DEEPEST = 100  # partials of partials, and objects whose `__call__` is an object


def check_handler(handler: Any) -> None:
    """Raise ConfigError for what cannot be called, or would be called without running."""
    if not callable(handler):
        raise ConfigError(
            f"handler={shown(handler)} cannot be called; give a function that takes a record.", name="handler"
        )
    kind = deferred(handler)
    if kind is not None:
        raise ConfigError(
            f"handler={shown(handler)} is {kind}: called, it only makes an object, and no record would be handled. "
            f"Give a plain function; one that runs async code itself may call asyncio.run.",
            name="handler",
        )


def deferred(function: Any) -> str | None:
    """What kind of function it is, if calling it runs nothing; None for one that runs when it is called."""
    for _ in range(_DEEPEST):
        if inspect.iscoroutinefunction(function):
            return ASYNC
        if inspect.isasyncgenfunction(function) or inspect.isgeneratorfunction(function):
            return "a generator function"
        if isinstance(function, partial):
            function = function.func
        elif isinstance(function, MethodType):
            function = function.__func__
        elif isinstance(function, FunctionType):
            return None
        else:
            function = inspect.getattr_static(type(function), "__call__", None)
            if not isinstance(function, (FunctionType, partial)):  # written in C, or found at run time only
                return None
    return None


def check_result(result: object) -> None:
    """Raise ConfigError for what a handler returned and nothing will ever run. It is closed, so that it does not warn."""
    if isinstance(result, _UNRUN):
        if not isinstance(result, AsyncGeneratorType):
            result.close()
        raise ConfigError(
            f"The handler returned {shown(result)}, which nothing runs, so its record is not handled. Give a plain function; "
            f"one that runs async code itself may call asyncio.run.",
            name="handler",
        )
