"""A call of the log in the middle of another one of the same thread, at every place where Python can begin one.

    python -m tests.stress.reentry --seed 1

A signal handler runs where Python looks for signals (`interrupts` says where), a finalizer before any bytecode at all.
Either makes a call of its own there: it ends, or is refused with ReentrantCallError and has done nothing; what closes may
be put off until the interrupted call has ended. Nothing hangs, the interrupted call goes on as if nothing had been, and
the log has all that was acknowledged, and nothing that was refused.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import sys
from collections.abc import Callable
from datetime import date
from types import FrameType
from typing import Any

import streamlog
from streamlog import ClosedError, ConsumerStoppedError, ReentrantCallError

from . import interrupted_calls as calls
from . import interrupts
from .interrupted_calls import Action, Story
from .interrupts import LONGEST_S, Interrupter, at_most, say

# What the interrupted call may meet once the other one has closed what it works on.
CLOSED = (ClosedError, ConsumerStoppedError, StopIteration)
interrupts._OWN |= {__file__}  # type: ignore[attr-defined,operator]


class Intruder:
    """One call to make in the middle of another. `settle` looks whether it did all of its work, or none."""

    closes = False

    def __init__(self, story: Story, action: Action) -> None:
        self.story, self.action = story, action
        self.refused = self.ended = False

    def __call__(self) -> None:
        try:
            self.call()
        except ReentrantCallError:
            self.refused = True
        except ClosedError:  # its producer or log is closed, or was by the call that it interrupts
            assert isinstance(
                self.action, (calls.CloseTheLog, calls.CloseAProducer, calls.CloseAConsumer, calls.OpenTheLog)
            )
        else:
            self.ended = True

    def call(self) -> None:
        raise NotImplementedError

    def settle(self) -> None: ...


class SendInside(Intruder):
    """With the producer that is interrupted, if that is the topic's own."""

    def call(self) -> None:
        self.value = self.story.new("h")
        self.story.topic.send(self.value).result(LONGEST_S)

    def settle(self) -> None:
        if self.ended:
            self.story.acknowledged.add(self.value)
        if self.refused:
            self.story.refused.add(self.value)


class SendManyInside(SendInside):
    def call(self) -> None:
        self.value = self.story.new("h")
        self.story.topic.send_many([self.value]).result(LONGEST_S)


class LingerInside(SendInside):
    """A record that joins a batch, and is flushed: refused by one of the two, it may be there."""

    def __init__(self, story: Story, action: Action) -> None:
        super().__init__(story, action)
        self.producer = getattr(action, "producer", None) or story.log.producer(linger_ms=5)
        self.sent: Any = None

    def call(self) -> None:
        self.value = self.story.new("h")
        self.sent = self.producer.send("t", self.value.encode(), b"k")
        self.producer.flush(LONGEST_S)

    def settle(self) -> None:
        if self.sent is not None:
            self.sent.result(LONGEST_S)
            self.story.acknowledged.add(self.value)
        elif self.refused:
            self.story.refused.add(self.value)


class SyncInside(Intruder):
    def call(self) -> None:
        self.story.log.sync()


class ResultInside(Intruder):
    def __init__(self, story: Story, action: Action) -> None:
        super().__init__(story, action)
        value = story.new("r")
        self.value = value
        self.delivery = story.log.producer(linger_ms=60_000).send("t", value)

    def call(self) -> None:
        self.delivery.result(LONGEST_S)

    def settle(self) -> None:
        assert self.delivery.result(LONGEST_S).offset >= 0
        self.story.acknowledged.add(self.value)


class WithAConsumer(Intruder):
    """With the one that is interrupted, or one beside it."""

    def __init__(self, story: Story, action: Action) -> None:
        super().__init__(story, action)
        self.consumer = getattr(action, "consumer", None)
        if self.consumer is None or self.consumer._config.group is None:
            self.consumer = story.log.consumer("t", group="intruder")
            self.consumer.poll(max_records=1)


class CommitInside(WithAConsumer):
    def call(self) -> None:
        with contextlib.suppress(*CLOSED):
            self.consumer.commit()


class PollInside(Intruder):
    def __init__(self, story: Story, action: Action) -> None:
        super().__init__(story, action)
        self.consumer = story.log.consumer("t", group="intruder")

    def call(self) -> None:
        self.consumer.poll(max_records=1)


class StopInside(WithAConsumer):
    closes = True

    def call(self) -> None:
        self.consumer.stop()

    def settle(self) -> None:
        assert self.ended


class CloseAConsumerInside(WithAConsumer):
    closes = True

    def call(self) -> None:
        self.consumer.close()

    def settle(self) -> None:
        with contextlib.suppress(ClosedError):
            self.consumer.commit()
        assert self.consumer.closed


class CloseAProducerInside(Intruder):
    closes = True

    def __init__(self, story: Story, action: Action) -> None:
        super().__init__(story, action)
        self.producer = getattr(action, "producer", None) or story.topic._log._topic_producer()

    def call(self) -> None:
        self.producer.close()

    def settle(self) -> None:
        with contextlib.suppress(ClosedError):
            self.story.log.topics()
        assert self.producer.closed


class CloseTheLogInside(Intruder):
    closes = True

    def call(self) -> None:
        self.story.log.close()

    def settle(self) -> None:
        with contextlib.suppress(ClosedError):
            self.story.log.topics()
        assert self.story.log.closed


class CreateATopicInside(Intruder):
    def call(self) -> None:
        self.story.log.create_topic("inside").delete()


INTRUDERS: tuple[type[Intruder], ...] = (
    SendInside, SendManyInside, LingerInside, SyncInside, ResultInside, CommitInside, PollInside, StopInside,
    CloseAConsumerInside, CloseAProducerInside, CloseTheLogInside, CreateATopicInside,
)  # fmt: skip


class Entrance(Interrupter):
    """Has a handler, or a finalizer, make a call at one place."""

    def __init__(self, *, finalizer: bool) -> None:
        super().__init__()
        self.finalizer = finalizer
        self.call: Callable[[], None] = lambda: None

    def _raise(self, *_: object) -> None:
        sys.settrace(None)
        self.call()

    def _strike(self) -> None:
        if self.finalizer:
            self.call()  # Python traces nothing meanwhile
        else:
            super()._strike()

    def _is_place(self, frame: FrameType) -> bool:
        return self.finalizer or super()._is_place(frame)


def enter(kind: type[Action], intruder: type[Intruder], nth: int, *, finalizer: bool) -> tuple[int, bool]:
    """One call with another in the middle: how many places it has, and whether the other was refused."""
    story = Story(dict(kind.settings), kind.padding, kind.sync, kind.brokers)
    action = kind(story)
    if isinstance(action, calls.OpenTheLog):  # `prepare` closes the log
        inner = intruder(story, action)
        action.prepare()
    else:
        action.prepare()
        inner = intruder(story, action)
    entrance = Entrance(finalizer=finalizer)
    entrance.call = inner

    def place() -> str:
        return f"{intruder.__name__} in {kind.__name__}, place {nth}: {entrance.where}"

    with at_most(LONGEST_S, place):
        try:
            try:
                hit = entrance.interrupt(action.call, nth)
            except CLOSED:
                assert intruder.closes, "the interrupted call met something closed"
                hit = True
            if hit:
                inner.settle()
            check(story, action, closed=intruder.closes or isinstance(action, calls.CloseTheLog))
        except BaseException as error:
            error.add_note(place())
            raise
    return entrance.places, inner.refused


def check(story: Story, action: Action, *, closed: bool) -> None:
    """The log is used, closed, verified, opened again."""
    if closed:
        with contextlib.suppress(streamlog.StreamlogError):
            story.log.close()
        story.log = story.open()
        story.topic = story.log["t"]
    else:
        action.after()
        story.send()
    story.check()
    story.end()


def sweep(
    kind: type[Action], intruder: type[Intruder], *, finalizer: bool, first: int, samples: int
) -> tuple[int, int]:
    """At `samples` places of the call (all, if it has no more), the first of them `first` in so many; places, refusals."""
    places, _ = enter(kind, intruder, 10**9, finalizer=finalizer)
    assert places, "nothing was traced"
    step = max(1, places // samples)
    refused = 0
    for nth in range(1 + first % step, places + 1, step):
        refused += enter(kind, intruder, nth, finalizer=finalizer)[1]
    return places, refused


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    parser.add_argument("--samples", type=int, default=200, help="places of each pair of calls")
    parser.add_argument("--only", default="", help="the name of one action")
    parser.add_argument("--intruder", default="", help="the name of one intruder")
    chosen = parser.parse_args()
    rng = random.Random(chosen.seed)
    say(f"python -m tests.stress.reentry --seed {chosen.seed} --samples {chosen.samples}, {date.today()}")
    for kind in calls.ACTIONS:
        for intruder in INTRUDERS:
            if chosen.only not in ("", kind.__name__) or chosen.intruder not in ("", intruder.__name__):
                continue
            for finalizer in (False, True):
                first = rng.randrange(10**6)
                places, refused = sweep(kind, intruder, finalizer=finalizer, first=first, samples=chosen.samples)
                how = "finalizer" if finalizer else "handler"
                say(f"{kind.__name__:>24} {intruder.__name__:<22} {how:<9}: {places:,} places, {refused:,} refused")


if __name__ == "__main__":
    main()
