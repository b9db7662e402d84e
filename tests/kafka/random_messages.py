"""Messages of Kafka's protocol with random fields, for tests of the codec."""

from __future__ import annotations

import random
from typing import Any

from streamlog.kafka import messages, schema
from streamlog.kafka.schema import Field, within

TEXTS = ("", "orders", "ü", "語" * 30, "x" * 200, "y" * 3000)
NUMBERS = {"int8": 8, "int16": 16, "int32": 32, "int64": 64}
KNOWN_ERRORS = tuple(range(100))  # of Kafka's error codes, these are known to every library


def every_version() -> list[tuple[str, int]]:
    """The name and version of every message of the table."""
    spans = {name: schema.definition(name).versions for name in schema.message_names()}
    return [(name, version) for name, (low, high) in spans.items() for version in range(low, high + 1)]


def random_message(rng: random.Random, name: str, version: int, most: int = 3) -> Any:
    """A message whose fields are random, those that `version` has; arrays have up to `most` elements."""
    found = schema.definition(name)
    return _struct(rng, messages.structures(name), found.name, found.fields, version, most)


def _struct(
    rng: random.Random, classes: dict[str, Any], name: str, fields: tuple[Field, ...], version: int, most: int
) -> Any:
    there = (field for field in fields if within(version, field.versions))
    # A tagged field often keeps its default, and then has no bytes.
    set_ = (field for field in there if not within(version, field.tagged) or rng.random() < 0.7)
    return classes[name](**{field.name: _value(rng, classes, field, version, most) for field in set_})


def _value(rng: random.Random, classes: dict[str, Any], field: Field, version: int, most: int) -> Any:
    if within(version, field.nullable) and rng.random() < 0.25:
        return None
    if field.is_array:
        return [_item(rng, classes, field, version, most) for _ in range(rng.randint(0, most))]
    return _item(rng, classes, field, version, most)


def _item(rng: random.Random, classes: dict[str, Any], field: Field, version: int, most: int) -> Any:
    if field.fields:
        return _struct(rng, classes, field.item, field.fields, version, most)
    if field.name.endswith("error_code"):
        return rng.choice(KNOWN_ERRORS)
    match field.item:
        case "bool":
            return rng.random() < 0.5
        case "float64":
            return rng.uniform(-1e9, 1e9)
        case "string":
            return rng.choice(TEXTS)
        case "uuid":
            return rng.randbytes(16)
        case "bytes" | "records":
            return rng.randbytes(rng.choice((0, 1, 70, 126, 127, 128, 300)))
        case "uint16" | "uint32":
            return rng.getrandbits(int(field.item[4:]))
    bits = NUMBERS[field.item]
    small = min(bits, rng.choice((8, bits)))  # as `send` has them, or the whole range
    if field.name.endswith("_ms"):
        return rng.randint(0, (1 << min(bits - 1, 40)) - 1)  # a time
    return rng.randint(-(1 << small - 1), (1 << small - 1) - 1)
