"""A consumer that waits is woken by an append, and has the record at once: nothing that a poll owes the group is left out."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

import streamlog
from streamlog.broker.waiting import ParkedFetch
from streamlog.client.membership import Membership

InThread = Callable[[Callable[[], Any]], Any]
LONG = 20.0


class Waiting:
    """Tells when a consumer waits for an append."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._waits = threading.Event()
        parked = ParkedFetch.on_done

        def on_done(fetch: ParkedFetch, callback: Callable[[Any], object]) -> None:
            parked(fetch, callback)
            self._waits.set()

        monkeypatch.setattr(ParkedFetch, "on_done", on_done)

    def until_it_waits(self) -> None:
        assert self._waits.wait(LONG), "nobody waits"


@pytest.mark.parametrize("group", [None, "g"], ids=["alone", "member"])
def test_a_record_wakes_who_waits_for_it(
    log: streamlog.StreamLog, in_thread: InThread, monkeypatch: pytest.MonkeyPatch, group: str | None
) -> None:
    topic = log.create_topic("t")
    with log.consumer("t", group=group) as consumer:
        assert consumer.poll() == []
        waiting = Waiting(monkeypatch)
        polled = in_thread(lambda: consumer.poll(LONG))
        waiting.until_it_waits()
        topic.send(b"x", b"k", headers={"h": b"1"})
        assert [(record.value, record.headers) for record in polled.result(LONG)] == [(b"x", (("h", b"1"),))]


def test_a_member_that_is_woken_has_its_full_poll_interval_from_then_on(
    log: streamlog.StreamLog, in_thread: InThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    topic = log.create_topic("t")
    renewed: list[str] = []
    unchanged = Membership.unchanged

    def renew(membership: Membership, topics: frozenset[str]) -> bool:
        renewed.append("sent" if sent else "before")
        return unchanged(membership, topics)

    sent: list[bytes] = []
    with log.consumer("t", group="g") as consumer:
        assert consumer.poll() == []
        monkeypatch.setattr(Membership, "unchanged", renew)
        waiting = Waiting(monkeypatch)
        polled = in_thread(lambda: consumer.poll(LONG))
        waiting.until_it_waits()
        sent.append(b"x")
        topic.send(b"x")
        assert [record.value for record in polled.result(LONG)] == [b"x"]
    assert renewed[-1] == "sent", renewed


def test_a_record_that_an_interrupt_kept_from_the_loop_comes_again(
    log: streamlog.StreamLog, in_thread: InThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    topic = log.create_topic("t")
    consumer = log.consumer("t", group="g")
    assert consumer.poll() == []
    cancel = ParkedFetch.cancel
    interrupts = [KeyboardInterrupt()]

    def interrupted(fetch: ParkedFetch) -> None:
        cancel(fetch)
        if interrupts and fetch.done():
            raise interrupts.pop()

    waiting = Waiting(monkeypatch)
    monkeypatch.setattr(ParkedFetch, "cancel", interrupted)
    looped = in_thread(lambda: next(consumer))
    waiting.until_it_waits()
    topic.send(b"0")
    assert isinstance(looped.exception(LONG), KeyboardInterrupt)
    topic.send(b"1")
    assert [next(consumer).value, next(consumer).value] == [b"0", b"1"]
    consumer.close()
    assert sum(log.group("g").committed().values()) == 1, "only the first one is finished"
