"""Our codec against kio's, an independent one: random messages of every API and version that kio has are the same bytes."""

from __future__ import annotations

import io
import random
from typing import Any

import pytest

from streamlog.kafka import protocol
from tests.kafka.random_messages import every_version, random_message

pytest.importorskip("kio", reason="kio, which these tests compare with, is not installed")
from kio.index import load_entity_schema
from kio.schema.index import schema_name_map
from kio.serial import entity_reader, entity_writer
from kio.static.constants import EntityType

EACH = 8


def entity(name: str, version: int) -> Any:
    """kio's class for a version of a message; None if it has none."""
    kind = EntityType.header if name.endswith("Header") else EntityType.data
    stem = name
    for suffix, of_suffix in (("Request", EntityType.request), ("Response", EntityType.response)):
        if name.endswith(suffix):
            stem, kind = name.removesuffix(suffix), of_suffix
    stem = "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in stem).lstrip("_")
    there = schema_name_map.get(stem, {}).get(version, {})
    return load_entity_schema(stem, version, kind) if kind in there else None


KNOWN = [(name, version, entity(name, version)) for name, version in every_version()]


def test_kio_has_nearly_every_message() -> None:
    """So that the comparison below means something. What it lacks is of a Kafka newer than it."""
    lacking = {name for name, _, known in KNOWN if known is None}
    assert len([known for _, _, known in KNOWN if known]) > 400, sorted(lacking)


@pytest.mark.parametrize("name", dict.fromkeys(name for name, _, known in KNOWN if known))
def test_random_messages_have_the_bytes_that_kio_gives_them(name: str) -> None:
    rng = random.Random(name)
    for _, version, known in (each for each in KNOWN if each[0] == name and each[2]):
        read, write = entity_reader(known), entity_writer(known)
        for _ in range(EACH):
            message = random_message(rng, name, version)
            ours = b"".join(protocol.encode(name, version, message))
            theirs, size = read(ours, 0)
            written = io.BytesIO()
            write(written, theirs)
            assert (written.getvalue(), size) == (ours, len(ours)), (version, message)
            decoded, end = protocol.decode(name, version, written.getvalue())
            assert (decoded, end) == (message, len(ours)), version
