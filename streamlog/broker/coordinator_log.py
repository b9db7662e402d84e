"""A coordinator's state, and the partition of an internal topic that it comes from: appending to it, and loading it.

A coordinator's state is in its log: a request appends records, and replaying them changes the state. The log is loaded with the first
request, and again whenever another replica of the partition leads, or an interrupt may have left the state without the last records.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Generic, Protocol, TypeVar

from ..coordinator.schema import LogRecord
from ..coordinator.transaction import ProducerIdAndEpoch
from ..records import columns
from ..records.batch import TRANSACTIONAL
from ..records.single import SequencedFields
from ..replication.errors import fenced_is_closed
from ..replication.errors import late as late_acknowledgement
from ..replication.partition import Partition
from ..runtime.api import Completion
from ..runtime.threads import SideBySide, inside
from ..storage.log import AppendRequest
from ..storage.producer_state import following
from ..types import Clock

T = TypeVar("T")

COMMIT_TIMEOUT_MS = 5_000
"""How long (real time) an answer waits for the followers. Then the log is loaded again. Kafka's offsets.commit.timeout.ms."""


class State(Protocol):
    """A coordinator's state machine."""

    @property
    def ready(self) -> bool:
        """Whether it answers requests. False before it is loaded, and after an append that failed once it was replayed."""

    @property
    def written(self) -> int:
        """How many records were appended and then replayed, since it was made."""

    def elect(self) -> None:
        """Forget everything: the log is replayed next."""


class AppendAsCoordinator(Protocol):
    """See `Brokers.append_as_coordinator`."""

    def __call__(self, partition: Partition, append: Callable[[], T], beside: SideBySide, /) -> T: ...


class Host(Protocol):
    """What it needs of the broker it lives in."""

    clock: Clock

    def real_seconds(self) -> float: ...
    @property
    def append_as_coordinator(self) -> AppendAsCoordinator: ...


S = TypeVar("S", bound=State)


class CoordinatorLog(Generic[S]):
    """`make` makes the state from what appends its records. REQUIRES: the shard's lock for every call.

    To load it: `begin_loading`, replay the log up to the end that it gives, `loaded`.
    """

    def __init__(self, host: Host, make: Callable[[Callable[[Sequence[LogRecord]], Completion[int]]], S]) -> None:
        self._host = host
        self._beside = SideBySide()
        self.partition: Partition | None = None
        """The one it was loaded from last."""
        self.leader_epoch = 0
        """That in which it was loaded."""
        self.interrupted = False
        """Whether an exception interrupted a request, or loading: the state may lack records of its log then."""
        self.requires_in_sync = True
        """Whether an append is refused while fewer replicas are in sync than the topic asks for."""
        self._start = 0
        self.state = make(self.append)

    # -- loading -------------------------------------------------------------------------------------

    def is_loaded(self, partition: Partition) -> bool:
        return (
            not self.interrupted
            and partition is self.partition
            and partition.leader_epoch == self.leader_epoch
            and self.state.ready
        )

    def begin_loading(self, partition: Partition) -> tuple[int, Completion[int]]:
        """Have the state forget everything: the end of the log to replay, and what is done when that counts as written.

        The caller looks the partition up before it takes the lock: the lookup may finish an interrupted change of topics,
        which takes the metadata lock, which comes first, and notifies the groups, which take this one.
        """
        self.interrupted = True
        if partition.hides is not None:  # what was written last may be what cannot be read: nothing is set back
            raise partition.hides.copy()
        self._beside.await_interrupted()
        self.partition = partition
        self.leader_epoch = partition.leader_epoch
        start = self._start = self._start_of(partition)
        self.state.elect()
        partition.wake_followers()
        # What was appended before an interrupt and is not on the device yet counts too: the rest will follow it.
        end = partition.log.tail.end_offset if partition.log.durability.poison is None else partition.high_watermark
        deadline_ms = self._deadline_ms(partition)
        late = None if deadline_ms is None else late_acknowledgement(partition.name, start, end)
        return end, partition.await_high_watermark(end, 0, deadline_ms, late)

    def loaded(self) -> None:
        self.interrupted = False

    def _start_of(self, partition: Partition) -> int:
        """Where the log would end without what the state wrote."""
        return partition.log.tail.end_offset - self.state.written

    # -- requests ------------------------------------------------------------------------------------

    def run(self, request: Callable[[S], T]) -> T:
        """Make a request of the state. REQUIRES: it is loaded.

        An exception that interrupts it, from Ctrl-C or a signal handler, may leave the state without the last records of its log. One
        that is a StreamlogError may even be taken for what the append raised, so the end of the log is looked at too. The log
        is to be loaded before the next request then.
        """
        try:
            result = request(self.state)
        except BaseException:
            self.interrupted = True
            raise
        partition = self.partition
        # As `_start_of`, written out: it is part of each request.
        if partition is not None and partition.reader.tail.end_offset - self.state.written != self._start:
            self.interrupted = True
        return result

    def append(self, records: Sequence[LogRecord], producer: ProducerIdAndEpoch | None = None) -> Completion[int]:
        """Done when they count as written. `producer`: they are records of its transaction."""
        partition = self.partition
        assert partition is not None
        now = self._host.clock.time_ms()
        fields: SequencedFields | None = None
        if producer is not None:
            with fenced_is_closed(partition):
                fields = (*producer, _next_sequence(partition, producer, now), TRANSACTIONAL)
        if len(records) == 1 and partition.replicas is None:
            key, value = records[0]
            if value is not None:  # the usual case, in a third of the time
                return self.append_so(lambda partition: partition.append_one_later(key, value, now, now, fields))
        keys, values = [key for key, _ in records], [value for _, value in records]
        batch = columns.seal(partition.log.seed, keys, values, now, count=len(records))
        if fields is not None:
            batch = batch.sequenced(*fields[:3], transactional=True)
        write = AppendRequest([batch])
        if self.requires_in_sync:
            partition.require_in_sync()
        self.append_so(lambda partition: partition.append(write, now))
        return partition.acknowledge(write, self._deadline_ms(partition))

    def append_so(self, append: Callable[[Partition], T]) -> T:
        """What `append` returns, which appends to the partition in its own way."""
        partition = self.partition
        assert partition is not None
        return self._host.append_as_coordinator(partition, partial(append, partition), self._beside)

    def _deadline_ms(self, partition: Partition) -> int | None:
        """Until when (real time) an answer waits for followers; None without followers."""
        return None if partition.replicas is None else int(self._host.real_seconds() * 1000) + COMMIT_TIMEOUT_MS


def raise_closed(partition: Partition | None) -> None:
    """After a request failed with a StorageError: if the partition's broker was stopped meanwhile, say that instead."""
    if partition is not None and partition.closed is not None:
        raise partition.closed.copy() from None


def _next_sequence(partition: Partition, producer: ProducerIdAndEpoch, now_ms: int) -> int:
    """That of the producer's next record in the partition, where the coordinator alone writes its records."""
    with inside(), partition.lock:
        known = partition.log.producer_state(producer.producer_id, now_ms)
    if known is None or known.epoch != producer.producer_epoch or not known.batches:
        return 0
    return following(known.batches[-1].last_sequence)
