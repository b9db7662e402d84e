"""The sequences of an idempotent producer in one partition (KIP-98): each record has the one after the record before it.

Where it is not known what is in the log (`in_doubt`: an interrupt, or a leader that has lost records), the log is asked. So a
sequence is never used for two records, of which the log would drop the second one. Kafka's clients cannot ask, and go on in a
new epoch (KIP-360).
"""

from __future__ import annotations

from collections.abc import Sequence

from ...broker.api import ProducerIdAndEpoch, Service
from ...broker.metadata import TopicIdPartition
from ...errors import StreamlogError
from ...records.batch import MAX_SEQUENCE, TRANSACTIONAL, SealedBatch
from ...records.single import SequencedFields
from ...runtime.threads import result_of
from ...runtime.values import refuse_to_copy


class Sequences:
    """What the next record gets. REQUIRES: the queue's `draining`, for all of it. `service` is asked in doubt.

    `one` is the next single record. `Producer` sets `in_doubt` while it writes it.
    """

    __slots__ = ("attributes", "in_doubt", "one", "producer", "service")
    __reduce_ex__ = refuse_to_copy

    def __init__(self, producer: ProducerIdAndEpoch, service: Service, *, transactional: bool = False) -> None:
        self.producer = producer
        self.service = service
        self.attributes = TRANSACTIONAL if transactional else 0
        self.one: SequencedFields = (*producer, 0, self.attributes)
        self.in_doubt = transactional  # until `begin`: no single record is written outside of a transaction

    def begin(self, producer: ProducerIdAndEpoch) -> None:
        """Begin a transaction, which has an epoch of its own: its first record has the sequence 0. May be done twice."""
        if producer != self.producer:
            self.producer = producer
            self.go_on_at(0)
        self.in_doubt = False

    def go_on_at(self, sequence: int) -> None:
        """The first record that is not in the log yet has this sequence."""
        self.one = (*self.producer, sequence, self.attributes)

    def stamp(self, batches: Sequence[SealedBatch]) -> list[SealedBatch]:
        """The batches with the sequences that follow."""
        stamped: list[SealedBatch] = []
        sequence = self.one[2]
        for each in batches:
            stamped.append(each.sequenced(*self.producer, sequence, transactional=bool(self.attributes)))
            sequence = stamped[-1].next_sequence
        return stamped

    def resolve(self, at: TopicIdPartition, before: SealedBatch | None) -> StreamlogError | None:
        """In doubt, ask the log which sequence comes next; the error if it does not answer.

        `before`: the next batch as it was sent before. It keeps its sequences, unless what came before it is lost too.
        """
        if not self.in_doubt:
            return None
        try:
            known = result_of(self.service.producer_state(at, self.producer.producer_id))
        except StreamlogError as error:
            return error
        # A producer that the log does not know has written nothing, or so long ago that it is believed.
        if known is not None and known.producer_epoch == self.producer.producer_epoch:
            sequence = known.last_sequence + 1 & MAX_SEQUENCE
            if before is None or before.base_sequence - sequence & MAX_SEQUENCE < MAX_SEQUENCE // 2:
                self.go_on_at(sequence)
        self.in_doubt = False
        return None
