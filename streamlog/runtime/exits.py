"""Callbacks at the end of the interpreter.

The interpreter first waits for the non-daemon threads, then it calls the exit handlers, the last registered one first. So
an object that registers its callback when it is created is closed before all objects that existed then, and after all
that were created later.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
import threading
from collections.abc import Callable

from .values import raise_first

Callback = Callable[[], None]


class ExitCallbacks:
    """Callbacks that run in the order of exit handlers. REQUIRES: one thread at a time.

    `atexit` keeps a table entry for every handler that was ever registered, also after it was unregistered. So consecutive
    callbacks, with no handler of other code registered between them, share one handler. `atexit` may also never call a
    handler that is registered while the handlers run; a callback that is added that late runs in the handler of this module,
    which is registered when `streamlog` is imported, and so is called after those of the program.
    """

    def __init__(self) -> None:
        self._late = _late
        self._latest: list[Callback] = []
        self._registered = -1
        os.register_at_fork(after_in_child=self._after_fork)

    def add(self, callback: Callback) -> Callback:
        """Run `callback` at exit. Return a function that cancels it."""
        callbacks = self._current() if threading.main_thread().is_alive() else self._late
        callbacks.append(callback)

        def cancel() -> None:
            with contextlib.suppress(ValueError):  # it has run
                callbacks.remove(callback)

        return cancel

    def _current(self) -> list[Callback]:
        """The list that runs before all handlers registered so far, and after all that follow."""
        count = getattr(atexit, "_ncallbacks", lambda: -2)
        if count() != self._registered:
            self._latest = []
            atexit.register(_run_all, self._latest)
            self._registered = count()
        return self._latest

    def _after_fork(self) -> None:
        self._registered = -1  # multiprocessing may have cleared the table


def _run_all(callbacks: list[Callback]) -> None:
    """Run all callbacks, the last one first, even if some raise; then raise the first error."""
    errors: list[BaseException] = []
    while callbacks:
        try:
            callbacks.pop()()
        except BaseException as error:
            errors.append(error)
    raise_first(errors)


_late: list[Callback] = []
atexit.register(_run_all, _late)


def at_exit_of_forked_children(callback: Callback) -> None:
    """Run `callback` when a process that multiprocessing forked ends: it calls os._exit, which runs no exit handlers."""

    def run() -> None:
        if _is_multiprocessing_fork():
            try:
                _join_all()
            finally:
                callback()

    register = getattr(threading, "_register_atexit", None)
    if register is not None:
        with contextlib.suppress(RuntimeError):  # shutting down already
            register(run)


def _is_multiprocessing_fork() -> bool:
    module = sys.modules.get("multiprocessing.process")
    spawned = "--multiprocessing-fork" in sys.orig_argv  # despite the name, such a process runs its exit handlers
    return module is not None and module.parent_process() is not None and not spawned


def _join_all() -> None:
    """Wait for every non-daemon thread. The interpreter itself waits only after the callbacks registered with `threading`."""
    me, main = threading.current_thread(), threading.main_thread()
    while left := [t for t in threading.enumerate() if not t.daemon and t is not me and t is not main]:
        for thread in left:
            thread.join()
