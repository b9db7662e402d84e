"""A broker of a log, as its user sees it."""

from __future__ import annotations

from typing import Any

from ..errors import StreamlogError
from .handle import Parent


class Broker:
    """One broker of a log: a directory with a replica of some partitions. `log.brokers` lists them. Thread-safe.

    A log of several brokers goes on without one of them: others lead its partitions. If the directory of a broker vanishes, or
    its disk fails, the log stops that broker, and logs why (logger `streamlog`).

    - `id`: its number in the log. `path`: its directory; None in a temporary log. `running`: whether it takes part.
    - `stop`, `start`: take it out, and have it take part again.
    - How far it is behind, and what it leads: `log.metrics()["brokers"]`. In-sync sets: `Topic.partition`.

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

    def __init__(self, log: Parent, broker_id: int, path: str | None) -> None:
        """For the library's own use: see `StreamLog.brokers`."""
        self._log = log
        self.id = broker_id
        self.path = path

    @property
    def running(self) -> bool:
        """Whether it takes part: it was not stopped, and its disk has not failed since it started. False with `read_only=True`."""
        return self._log._use().is_running(self.id)

    def stop(self) -> None:
        """Stop it: other replicas lead its partitions, it leaves the in-sync sets, and its files are closed and synced.

        Producers and consumers go on. Waits at most 5 s (real time) until a replica in sync has everything, for each partition
        that it leads. Partitions of which it has the only replica take no records, and cannot be read, until it is started.
        Does nothing if it does not run. Raises ConfigError if it is the last one that runs: nothing could be recorded then.
        """
        self._log._use().stop_broker(self.id)

    def start(self) -> None:
        """Start it again. It fetches what it lacks from the leaders, and joins the in-sync sets when it has caught up (KIP-903).

        A directory that is missing or empty is made anew, and the broker fetches everything: only this call does that, and
        never `open`, because it may be a disk that is not mounted. What no other replica has is lost for good then. Returns
        before the broker has caught up; leaderships stay where they are (`StreamLog.elect_leader` moves them back). Does
        nothing if it runs. Raises what opening a directory raises: FormatError if it is another broker's, another log's, an
        older one of this broker, or something else; StorageError, LogLockedError.
        """
        self._log._use().start_broker(self.id)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Broker) and other.id == self.id and other._log._same_log(self._log)

    def __hash__(self) -> int:
        return hash((self._log._identity(), self.id))

    def __reduce__(self) -> Any:
        """Raise TypeError: a handle cannot be pickled."""
        raise TypeError("a Broker is a handle on an open log and cannot be copied or pickled; pass its id")

    def __repr__(self) -> str:
        where = "temporary" if self.path is None else repr(self.path)
        return f"<streamlog.Broker {self.id} {where}{self._state()}>"

    def _state(self) -> str:
        service = self._log._if_open()
        if service is None:
            return ": the log is closed"
        try:
            service.require_writable("A repr")
        except StreamlogError:  # another process owns the log
            return ""
        return ": running" if service.is_running(self.id) else ": stopped"
