"""Requests that need the groups wait until these are loaded: once for all of them, on a thread that may block.

The first request about groups after an open, and after another broker has come to lead them, loads all that groups have written. On the listener's
thread it would hold up every other request.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from ..runtime.api import Completion
from ..runtime.threads import result_of
from .apis import Call, Handler, Later


class Loading:
    """One listener's. It runs on the listener's thread."""

    def __init__(self) -> None:
        self._loaded: Completion[Any] = Completion.of(None)
        """Of the last time; not done while the groups are loaded."""

    def before(self, handlers: Mapping[int, Handler]) -> dict[int, Handler]:
        """These handlers, each called once the groups are loaded. If they cannot be, the handler meets the error and answers with it."""

        def answer(handler: Handler, call: Call) -> Any:
            if self._loaded.done():
                if call.service.groups_loaded():
                    return handler(call)
                self._loaded = call.blocking(lambda: result_of(call.service.load_groups())).done
            return Later(self._loaded, lambda _: handler(call))

        return {key: partial(answer, handler) for key, handler in handlers.items()}
