"""Requests that make no sense, a few hundred; `python -m tests.stress.kafka_fuzz` sends more."""

from __future__ import annotations

import random

import pytest

from .kafka_fuzz import run


@pytest.mark.slow
def test_whatever_is_sent_to_a_listener_others_are_served_and_memory_is_bounded(rng: random.Random) -> None:
    answered, _ = run(400, rng.randrange(2**32))
    assert answered > 20
