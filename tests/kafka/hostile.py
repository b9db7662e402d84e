"""Requests that make no sense: random fields, changed bytes, claimed lengths. All of it by a seed."""

from __future__ import annotations

import random

from streamlog.kafka import Listener, messages, protocol, schema

from .clients import asked
from .random_messages import random_message

LENGTHS = (
    b"\x7f\xff\xff\xff",
    b"\xff\xff\xff\xff",
    b"\x80\x00\x00\x00",
    b"\xff\xff\xff\xff\x07",
    b"\x80\x80\x80\x80\x08",
)
"""As an int32, and as a varint: the largest, -1, the least."""


def keys_of(listener: Listener) -> dict[int, tuple[int, int]]:
    """The versions of each API that the listener has."""
    answer = asked(listener, 18, 4, messages.ApiVersionsRequest(client_software_name="t", client_software_version="1"))
    known = {each.api_key: each for each in answer.api_keys}
    return {
        key: (max(3, each.min_version) if key == 0 else each.min_version, each.max_version)
        for key, each in known.items()
    }


def request(rng: random.Random, key: int, version: int) -> bytes:
    """A request with random fields, as it is sent; topics and groups that are there are named often."""
    name = schema.names()[key] + "Request"
    message = random_message(rng, name, version, most=2)
    header = messages.RequestHeader(request_api_key=key, request_api_version=version, correlation_id=1, client_id="c")
    return b"".join(bytes(each) for each in protocol.encode_request(header, message))


def mutated(rng: random.Random, data: bytes) -> bytes:
    """Some bytes of the body are others, or it is cut short, or longer; the size in front is right, so that it is read."""
    body = bytearray(data[4:])
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(10, len(body)) if len(body) > 10 else len(body) - 1
        match rng.randrange(4):
            case 0:
                body[at] = rng.randrange(256)
            case 1:
                claimed = rng.choice(LENGTHS)
                body[at : at + len(claimed)] = claimed
            case 2:
                del body[at:]
            case _:
                body[at:at] = rng.randbytes(rng.randint(1, 8))
    return len(body).to_bytes(4, "big") + bytes(body)
