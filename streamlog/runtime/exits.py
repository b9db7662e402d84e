"""What runs when the interpreter ends.

First it waits for the non-daemon threads, then it calls the exit handlers, the last registered one first. So whatever
is registered when it is made is ended before all that was there before it, and after all that came later.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
import threading
from collections.abc import Callable

Callback = Callable[[], None]


class ExitCallbacks:
    """Callbacks in the order of exit handlers. REQUIRES: one thread at a time.

    `atexit` keeps a place in its table for every handler ever registered, called off or not. So callbacks that follow
    each other, with no handler of others between them, share one handler. And it may never call one that is registered
    while it is calling them: what comes that late is run by the first handler, the last to be called.
    """

    def __init__(self) -> None:
        self._late: list[Callback] = []
        atexit.register(_run_all, self._late)
        self._latest: list[Callback] = []
        self._registered = -1
        os.register_at_fork(after_in_child=self._after_fork)

    def add(self, callback: Callback) -> Callback:
        """Have `callback` run at exit; how to call that off."""
        callbacks = self._current() if threading.main_thread().is_alive() else self._late
        callbacks.append(callback)

        def call_off() -> None:
            with contextlib.suppress(ValueError):  # it has run
                callbacks.remove(callback)

        return call_off

    def _current(self) -> list[Callback]:
        """Those that run before all handlers registered until now, and after all to come."""
        count = getattr(atexit, "_ncallbacks", lambda: -2)
        if count() != self._registered:
            self._latest = []
            atexit.register(_run_all, self._latest)
            self._registered = count()
        return self._latest

    def _after_fork(self) -> None:
        self._registered = -1  # multiprocessing may have cleared the table


def _run_all(callbacks: list[Callback]) -> None:
    """Run the last one first, and each whatever the others raise; then raise the first error."""
    first: BaseException | None = None
    while callbacks:
        try:
            callbacks.pop()()
        except BaseException as error:
            first = first or error
    if first is not None:
        try:
            raise first
        finally:
            del first  # it refers to this frame


def at_exit_of_forked_children(callback: Callback) -> None:
    """Run `callback` when a process that multiprocessing forked ends: it leaves by os._exit, without its exit handlers."""

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
    spawned = "--multiprocessing-fork" in sys.orig_argv  # such a process ends as others do, in spite of the name
    return module is not None and module.parent_process() is not None and not spawned


def _join_all() -> None:
    """Wait for every non-daemon thread. The interpreter's own wait comes after what is registered with `threading`."""
    me, main = threading.current_thread(), threading.main_thread()
    while left := [t for t in threading.enumerate() if not t.daemon and t is not me and t is not main]:
        for thread in left:
            thread.join()
