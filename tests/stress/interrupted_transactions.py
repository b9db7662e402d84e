"""The calls on transactions that `interrupts` interrupts. Their records are in a topic `x`, whose markers take offsets."""

from __future__ import annotations

import contextlib
from typing import Any

import streamlog
from streamlog import InvalidTxnStateError

from .interrupted_calls import T0, Action, Story


class OfTransactions(Action):
    """Each transaction is in `x` whole or not at all, and none holds readers back."""

    linger_ms = 0

    def __init__(self, story: Story) -> None:
        super().__init__(story)
        self.x = story.log.create_topic("x")
        self.producer = self.new_producer()
        self.number = 0
        self.committed: list[int] = []
        """The numbers of the transactions whose commit has returned."""
        self.aborted: list[int] = []
        OfTransactions.call(self)  # the internal topic is made

    def new_producer(self) -> streamlog.Producer:
        return self.story.log.producer(transactional_id="p", linger_ms=self.linger_ms)

    def prepare(self) -> None:
        self.story.send()

    def send(self) -> None:
        """Three records of the next transaction."""
        self.number += 1
        self.producer.send("x", f"{self.number}-0")
        self.producer.send_many("x", [f"{self.number}-1", f"{self.number}-2"])

    def call(self) -> None:
        with self.producer.transaction():
            self.send()
        self.committed.append(self.number)

    def after(self) -> None:
        OfTransactions.call(self)
        self.check()

    def check(self) -> None:
        found = [record.value.decode() for record in self.x.read()]
        numbers = [int(value.partition("-")[0]) for value in found[::3]]
        assert found == [f"{number}-{part}" for number in numbers for part in range(3)], found[-7:]
        assert numbers == sorted(set(numbers)), numbers[-5:]
        assert set(self.committed) <= set(numbers), set(self.committed) - set(numbers)
        assert not set(self.aborted) & set(numbers), set(self.aborted) & set(numbers)
        info = self.x.partition(0)
        assert info.last_stable_offset == info.high_watermark, info
        assert self.story.log.transactions() == []


class Transaction(OfTransactions):
    pass


class TransactionThatLingers(OfTransactions):
    linger_ms = 5


class TransactionSynced(OfTransactions):
    sync = True


class CommitATransaction(OfTransactions):
    """After an interrupt the program calls `commit_transaction` again, which goes on."""

    sent = 0

    def call(self) -> None:
        self.producer.begin_transaction()
        self.send()
        self.sent = self.number
        self.producer.commit_transaction()
        self.committed.append(self.number)

    def after(self) -> None:
        with contextlib.suppress(InvalidTxnStateError):  # there is none: the call came to its end, or had not begun
            if self.sent == self.number:
                self.producer.commit_transaction()
                self.committed.append(self.number)
            else:
                self.producer.abort_transaction()
        super().after()


class AbortATransaction(OfTransactions):
    def call(self) -> None:
        self.producer.begin_transaction()
        self.send()
        self.producer.abort_transaction()

    def after(self) -> None:
        self.aborted.append(self.number)
        with contextlib.suppress(InvalidTxnStateError):
            self.producer.abort_transaction()
        super().after()


class NewTransactionalProducer(OfTransactions):
    """One takes over from the one before, whose transaction is open."""

    def prepare(self) -> None:
        super().prepare()
        self.old = self.new_producer()
        self.old.begin_transaction()
        self.old.send("x", "zombie")

    def call(self) -> None:
        self.producer = self.new_producer()
        super().call()

    def after(self) -> None:
        self.producer = self.new_producer()
        self.old.close()
        super().after()


class TransactionOfAConsumer(Action):
    """What is read of `t`, what is made of it, and the offsets: each record once, in order."""

    def __init__(self, story: Story) -> None:
        super().__init__(story)
        self.x = story.log.create_topic("x")
        self.consumer = story.log.consumer("t", group="tx", enable_auto_commit=False)
        self.prepare()
        self.handle(2)  # the internal topics are made

    def prepare(self) -> None:
        self.story.send()
        self.story.send()

    def call(self) -> None:
        self.handle(2)

    def handle(self, most: int) -> int:
        with self.story.log.transaction("tx", consumer=self.consumer) as producer:
            records = self.consumer.poll(max_records=most)
            for record in records:
                producer.send("x", f"{record.offset}")
        return len(records)

    def after(self) -> None:
        while self.handle(500):
            continue
        self.check()

    def check(self) -> None:
        end = self.story.topic.partition(0).log_end_offset
        assert [int(record.value) for record in self.x.read()] == [*range(end)]
        assert self.story.log.group("tx").committed() == {T0: end}


class _GivenUp(Exception):
    """The program's own."""


class AbortedTransactionOfAConsumer(TransactionOfAConsumer):
    """The program gives up in the middle: the consumer is rewound, and gets the same records again."""

    def call(self) -> None:
        with (
            contextlib.suppress(_GivenUp),
            self.story.log.transaction("tx", consumer=self.consumer) as producer,
        ):
            for record in self.consumer.poll(max_records=2):
                producer.send("x", f"{record.offset}")
            raise _GivenUp


class RunAPipe(TransactionOfAConsumer):
    def __init__(self, story: Story) -> None:
        super().__init__(story)
        self.consumer.close()

    def call(self) -> None:
        streamlog.pipe(self.story.topic, _offset_of, self.x, group="tx", until_end=True)

    def after(self) -> None:
        self.call()
        self.check()


class RunAPipeWithDeadLetters(RunAPipe):
    """Of every second record the handler makes nothing: it is a dead letter, in the same transaction."""

    def __init__(self, story: Story) -> None:
        self.bad = story.log.create_topic("bad")
        super().__init__(story)
        self.done = self.x.partition(0).log_end_offset

    def call(self) -> None:
        streamlog.pipe(
            self.story.topic,
            _even_offset_of,
            self.x,
            group="tx",
            until_end=True,
            on_error="dead_letter",
            dead_letter_topic="bad",
        )

    def check(self) -> None:
        end = self.story.topic.partition(0).log_end_offset
        whole = [int(record.value) for record in self.x.read()]
        odd = [int(record.header("dead_letter.offset") or -1) for record in self.bad.read()]
        assert whole == [number for number in range(end) if not number % 2 or number < 2]
        assert odd == [number for number in range(2, end) if number % 2]
        assert self.story.log.group("tx").committed() == {T0: end}


def _even_offset_of(record: streamlog.Record[Any, Any]) -> bytes:
    if record.offset % 2:
        raise ValueError("odd")
    return b"%d" % record.offset


def _offset_of(record: streamlog.Record[Any, Any]) -> bytes:
    return b"%d" % record.offset


ACTIONS: tuple[type[Action], ...] = (
    Transaction, TransactionThatLingers, TransactionSynced, CommitATransaction, AbortATransaction, NewTransactionalProducer, TransactionOfAConsumer,
    AbortedTransactionOfAConsumer, RunAPipe, RunAPipeWithDeadLetters,
)  # fmt: skip
