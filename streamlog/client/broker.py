"""A broker of a log, as its user sees it."""

from __future__ import annotations

from collections.abc import Callable

from ..broker.api import Service

# How long `start` waits for the directory: the log may be about to close it, because its disk failed.
_CLOSING_S = 10.0


class Broker:
    """One broker of a log: a directory with a replica of some partitions. `log.brokers` lists them.

    A log of several brokers goes on without one of them: others lead its partitions. A broker whose directory vanishes, or
    whose disk fails, is stopped by the log; `running` says so. Every method is thread-safe.

    - `id`: its number in the log. `path`: its directory; None in a temporary log. `running`: whether it takes part.
    - `stop`, `start`.

    >>> import streamlog
    >>> with streamlog.open(brokers=3) as log:
    ...     orders = log.create_topic("orders")
    ...     _ = orders.send("9.50")
    ...     log.brokers[0].stop()
    ...     _ = orders.send("20.00")
    ...     log.brokers[0].start()
    ...     [broker.running for broker in log.brokers], [record.value for record in orders.read()]
    ([True, True, True], [b'9.50', b'20.00'])
    """

    def __init__(self, use: Callable[[], Service], broker_id: int, path: str | None) -> None:
        """For the library's own use: see `StreamLog.brokers`."""
        self._use = use
        self.id = broker_id
        self.path = path

    @property
    def running(self) -> bool:
        """Whether it takes part: it was not stopped, and its disk has not failed since it started."""
        return self._use().is_running(self.id)

    def stop(self) -> None:
        """Stop it. The partitions that it leads move to replicas that have everything, and its files are closed.

        Waits at most 5 s (real time) until they have. Partitions of which it has the only replica take no records until it is
        started. Does nothing if it does not run. Raises ConfigError if it is the last one that runs.
        """
        self._use().stop_broker(self.id)

    def start(self) -> None:
        """Start it again. It fetches what it lacks, and is in sync when it has caught up.

        A directory that is missing, or empty, is made anew: then it fetches everything. Does nothing if it runs. Raises what
        opening a directory raises.
        """
        self._use().start_broker(self.id, _CLOSING_S)

    def __repr__(self) -> str:
        where = "temporary" if self.path is None else self.path
        return f"<streamlog.Broker {self.id} at {where}>"
