"""A log and its listener, for test modules that say `log = temporary_log`: clients of other processes live in real time."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import streamlog
from streamlog.kafka import Listener


@pytest.fixture
def temporary_log() -> Iterator[streamlog.StreamLog]:
    with streamlog.open() as log:
        yield log


@pytest.fixture
def log_of_three_brokers() -> Iterator[streamlog.StreamLog]:
    with streamlog.open(brokers=3) as log:
        yield log


@pytest.fixture
def listener_of_log(log: streamlog.StreamLog) -> Iterator[Listener]:
    with Listener(log, initial_rebalance_delay_ms=20) as listener:
        yield listener
