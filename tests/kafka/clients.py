"""What tests ask a listener, as confluent-kafka does it and as single requests."""

from __future__ import annotations

import socket
import struct
from typing import Any

from streamlog.kafka import Listener, messages, protocol

WAIT_S = 20.0
SETTINGS: dict[str, Any] = {"group.id": "none", "enable.auto.commit": False}


def consumed(listener: Listener, topic: str, count: int, offset: int = 0, **settings: Any) -> list[Any]:
    """Read so many messages of partition 0 with confluent-kafka, from an offset on."""
    import confluent_kafka

    consumer = confluent_kafka.Consumer(SETTINGS | {"bootstrap.servers": listener.bootstrap_servers} | settings)
    try:
        consumer.assign([confluent_kafka.TopicPartition(topic, 0, offset)])
        found: list[Any] = []
        while len(found) < count:
            message = consumer.poll(WAIT_S)
            assert message is not None, f"{len(found)} of {count} messages came"
            assert message.error() is None, message.error()
            found.append(message)
        return found
    finally:
        consumer.close()


def asked(listener: Listener, key: int, version: int, request: Any) -> Any:
    """The response of the first broker to one request on a connection of its own."""
    return asked_at(listener.bootstrap_servers.split(",")[0], key, version, request)


def asked_at(address: str, key: int, version: int, request: Any) -> Any:
    host, _, port = address.rpartition(":")
    header = messages.RequestHeader(
        request_api_key=key, request_api_version=version, correlation_id=7, client_id="test"
    )
    with socket.create_connection((host, int(port)), WAIT_S) as connection:
        connection.sendall(b"".join(protocol.encode_request(header, request)))
        return protocol.decode_response(header, frame_of(connection))


def frame_of(connection: socket.socket) -> bytes:
    (size,) = struct.unpack(">i", received(connection, 4))
    return received(connection, size)


def received(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = connection.recv(size - len(data))
        assert more, "the connection was closed"
        data += more
    return data


def errors_in(message: Any) -> list[int]:
    """Every error code in a response that is none of 0, wherever it is."""
    found = []
    for name in message.__slots__:
        value = getattr(message, name)
        if name.endswith("error_code") and value:
            found.append(value)
        for each in value if isinstance(value, (list, tuple)) else [value]:
            if isinstance(each, messages.Message):
                found += errors_in(each)
    return found
