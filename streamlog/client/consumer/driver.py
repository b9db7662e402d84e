"""The blocking driver: it runs a consumer's core on the threads of the program."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, TypeVar

from ...errors import StreamlogError
from ...runtime.threads import current_thread_alive_check, get_ident, refuse_reentry, wait_for
from ...runtime.values import refuse_to_copy
from .access import Access
from .core import ConsumerCore
from .procedure import Bounded, ListenerCall, Procedure, ReleaseRequest, Wanted

logger = logging.getLogger("streamlog.client")

A = TypeVar("A")


class BlockingDriver:
    """See `procedure.Driver`. A member lives as long as the thread that polled it last.

    REQUIRES for `go_on` and `run`: the state lock, which is held while the thread waits for a Completion, and while a listener
    is called.
    """

    __reduce_ex__ = refuse_to_copy

    def __init__(self, access: Access) -> None:
        self._access = access
        self._thread = 0
        self._is_thread_alive: Callable[[], bool] = lambda: True

    # -- running -------------------------------------------------------------------------------------

    def go_on(self, core: ConsumerCore, take: Callable[[], A]) -> A | None:
        """After a step with something wanted: do that and step again, until it has records, or waits for them."""
        out: A | None = None
        while (wanted := core.wanted) is not None:
            procedure, core.procedure, core.wanted = core.procedure, None, None  # a listener may poll
            assert procedure is not None
            self._do(wanted, procedure)
            core.procedure = procedure
            out = core.step(take)
        return out

    def run(self, procedure: Procedure[None]) -> None:
        """Run a procedure to its end."""
        for wanted in procedure:
            self._do(wanted, procedure)

    def _do(self, wanted: Wanted, procedure: Procedure[Any]) -> None:
        """Do what a procedure waits for. Whatever is raised meanwhile, Ctrl-C too, ends the procedure."""
        try:
            if isinstance(wanted, ListenerCall):
                self._access.call_listener(wanted.method, wanted.partitions)
            elif isinstance(wanted, ReleaseRequest):
                wanted.release()
            elif isinstance(wanted, Bounded):
                wait_for(*wanted)
            else:
                wait_for(wanted, None)
        except BaseException as error:
            procedure.throw(error)
            raise

    def run_for_another(self, procedure: Callable[[], Procedure[None] | None]) -> None:
        state = self._access.state_for_another()
        if state is None:
            return
        with state:
            asked = procedure()
            if asked is not None:
                try:
                    self.run(asked)
                except StreamlogError as error:  # this member's own next poll raises it
                    logger.debug("a member could not hand over: %s", error)

    # -- liveness ------------------------------------------------------------------------------------

    @property
    def closed_error(self) -> StreamlogError | None:
        return self._access.closed_error

    def polled(self, ended: Callable[[], object]) -> None:
        refuse_reentry()
        here = get_ident()
        if here != self._thread or not self._is_thread_alive():  # idents are reused after a thread has ended
            self._thread = here
            self._is_thread_alive = current_thread_alive_check(ended)

    def is_alive(self) -> bool:
        return self._is_thread_alive()

    def is_elsewhere(self) -> bool:
        return self._access.owner != get_ident()
