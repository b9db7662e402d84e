"""Which handlers a group's workers accept: plain functions, and objects that are called like one.

A coroutine function or a generator function only makes an object when it is called. Its body would never run, and every
record would be committed unhandled. `run` and `start` refuse such handlers. One that cannot be recognized, such as a
lambda that returns a coroutine, is refused at its first record, which is not committed.
"""

from __future__ import annotations

import inspect
from functools import partial
from types import AsyncGeneratorType, CoroutineType, FunctionType, GeneratorType, MethodType
from typing import Any

from ..config import shown, typed
from ..errors import ConfigError

ASYNC = "an async function"
_UNRUN = (CoroutineType, GeneratorType, AsyncGeneratorType)
_DEEPEST = 100  # partials of partials, and objects whose `__call__` is an object


def check_handler(handler: Any) -> None:
    """Raise ConfigError for a handler that cannot be called, or whose body a call does not run."""
    if not callable(handler):
        raise ConfigError(
            f"handler={typed(handler)} cannot be called; give a function that takes a record, and the topics after it.",
            name="handler",
        )
    kind = deferred(handler)
    if kind is not None:
        raise ConfigError(
            f"handler={shown(handler)} is {kind}: called, it only makes an object, and no record would be handled. "
            f"Give a plain function; one that runs async code itself may call asyncio.run.",
            name="handler",
        )


def deferred(function: Any) -> str | None:
    """What kind of function it is, if a call does not run its body; None if a call runs it."""
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
            if not isinstance(function, (FunctionType, partial)):  # written in C, or only found when it is called
                return None
    return None


def check_result(result: object) -> None:
    """Raise ConfigError for a coroutine or generator that a handler returned, and close it, so that it does not warn."""
    if isinstance(result, _UNRUN):
        if not isinstance(result, AsyncGeneratorType):
            result.close()
        raise ConfigError(
            f"The handler returned {shown(result)}, which nothing runs, so its record is not handled. Give a plain function; "
            f"one that runs async code itself may call asyncio.run.",
            name="handler",
        )
