"""Markers: Kafka's bytes, and a header that says what they end."""

from __future__ import annotations

from struct import pack

import pytest

from streamlog.records.batch import TRANSACTIONAL, peek, seed_of, stamp, verify_payload
from streamlog.records.control import end_transaction_marker
from streamlog.records.decode import decode

SEED = seed_of(bytes(16), 0)


@pytest.mark.parametrize("commit", [False, True])
def test_a_marker_says_what_it_ends_how_and_who_decided(commit: bool) -> None:
    sealed = end_transaction_marker(SEED, 7, 3, 1000, commit=commit, coordinator_epoch=12)
    data = stamp(sealed, SEED, 40, 2, 1001) + sealed.payload
    header = peek(data)
    verify_payload(header, data[header.header_len :], SEED, "", 0)
    assert header.is_control and header.attributes & TRANSACTIONAL
    assert header.control_type == int(commit)
    assert (header.producer_id, header.producer_epoch, header.base_sequence) == (7, 3, -1)
    assert (header.base_offset, header.record_count, header.max_timestamp) == (40, 1, 1000)
    records = decode(header, data).all()
    assert list(records.keys) == [pack(">hh", 0, commit)]
    assert list(records.values) == [pack(">hi", 0, 12)]
