"""Bytes to messages and back: what a listener, or a client, of Kafka's protocol calls.

A frame is a request or a response without the four bytes of its size. It opens with a header; which version of the header
goes with which version of an API is decided here. The bodies are the classes of `messages`.

    header, at = decode_request_header(frame)
    request = decode_request(header, frame, at)
    reply = encode_response(header, messages.HeartbeatResponse(error_code=27))

What is decoded keeps no memory of the frame but for `records`, which are views of it. What is encoded comes as a list of
buffers with the size in front, where `records` are the buffers that the response was given.
"""

from __future__ import annotations

from functools import cache
from struct import Struct
from struct import error as struct_error
from typing import Any

from ..types import Buffer
from . import compiler, schema
from .api_keys import ApiKey
from .compiler import MalformedMessageError
from .schema import REQUEST, RESPONSE, Definition, definition

_SIZE = Struct(">i")
_KEY_AND_VERSION = Struct(">hh")
# A smaller message costs less than 1 MiB, whatever is in it: it is decoded without a look at all of it first.
_CHECKED_FROM = 8192


@cache
def api_definition(key: int, direction: str) -> Definition | None:
    """The request or the response of an API; None for one that is not in the table."""
    name = schema.names().get(key)
    return None if name is None else definition(name + direction)


def versions_of(key: int) -> schema.Versions:
    """The first and the last version of an API that are known; (0, -1) for an API that is not."""
    found = api_definition(key, REQUEST)
    return schema.NONE if found is None else found.versions


def decode(name: str, version: int, data: Buffer, at: int = 0) -> tuple[Any, int]:
    """The message called `name` that begins at `at`, and where it ends.

    Cost: about 2 µs and 0.5 µs a field or element; the first time for a version, some ms. Raises MalformedMessageError,
    ValueError for a message or version that is not known.
    """
    b = data if isinstance(data, (bytes, bytearray)) else bytes(data)
    try:
        if len(b) - at > _CHECKED_FROM:
            compiler.checker(name, version)(b, at, len(b))
        message, end = compiler.decoder(name, version)(b, memoryview(b), at, len(b))
    except (IndexError, struct_error) as error:
        raise MalformedMessageError(f"{name} of version {version} is cut short: {error}") from error
    except UnicodeDecodeError as error:
        raise MalformedMessageError(f"{name} of version {version} has a string that is no UTF-8: {error}") from error
    except MalformedMessageError as error:
        raise MalformedMessageError(f"{name} of version {version}: {error}") from error
    return message, end


def encode(name: str, version: int, message: Any) -> list[Buffer]:
    """The bytes of a message, as buffers to be written one after the other.

    `message` is of the class that `messages` has under `name`, or has its fields. Raises ValueError for a value that the
    version has no form for, or for a version that is not known.
    """
    buffers: list[Buffer] = []
    try:
        compiler.encoder(name, version)(message, buffers.append)
    except struct_error as error:
        raise ValueError(
            f"{name} of version {version} has a number that is too large for its field: {error}"
        ) from error
    return buffers


# -- requests and responses ------------------------------------------------------------------------------


def decode_request_header(frame: Buffer) -> tuple[Any, int]:
    """The RequestHeader of a frame, and where the body begins.

    The header is there for an unknown API or version too, so that an answer can be given: then its tagged fields, which
    only a known version says are there, are left for the body. Raises MalformedMessageError.
    """
    if len(frame) < _KEY_AND_VERSION.size:
        raise MalformedMessageError(f"a request of {len(frame)} bytes is shorter than its header")
    key, version = _KEY_AND_VERSION.unpack_from(frame)
    return decode("RequestHeader", _request_header_version(key, version), frame)


def decode_request(header: Any, frame: Buffer, at: int) -> Any:
    """The request that begins at `at`. Bytes after it are ignored, as Kafka does.

    Raises MalformedMessageError; ValueError unless `versions_of` its API has the version.
    """
    found = _known(header.request_api_key, REQUEST)
    return decode(found.name, header.request_api_version, frame, at)[0]


def encode_response(header: Any, response: Any, version: int | None = None) -> list[Buffer]:
    """The frame that answers the request of `header`, its size in front; `version`: another than the request's."""
    key = header.request_api_key
    version = header.request_api_version if version is None else version
    head = encode("ResponseHeader", _response_header_version(key, version), header)
    return _framed(head + encode(_known(key, RESPONSE).name, version, response))


def encode_request(header: Any, request: Any) -> list[Buffer]:
    """The frame of a request, for a client: its size, `header`, a RequestHeader, and the request."""
    key, version = header.request_api_key, header.request_api_version
    head = encode("RequestHeader", _request_header_version(key, version), header)
    return _framed(head + encode(_known(key, REQUEST).name, version, request))


def decode_response(header: Any, frame: Buffer) -> Any:
    """The response in a frame that answers the request of `header`, for a client. Raises MalformedMessageError."""
    key, version = header.request_api_key, header.request_api_version
    answer, at = decode("ResponseHeader", _response_header_version(key, version), frame)
    if answer.correlation_id != header.correlation_id:
        raise MalformedMessageError(f"response {answer.correlation_id} came where {header.correlation_id} was awaited")
    return decode(_known(key, RESPONSE).name, version, frame, at)[0]


def _framed(buffers: list[Buffer]) -> list[Buffer]:
    return [_SIZE.pack(sum(map(len, buffers))), *buffers]


def _known(key: int, direction: str) -> Definition:
    found = api_definition(key, direction)
    if found is None:
        raise ValueError(f"there is no API of key {key} here")
    return found


def _request_header_version(key: int, version: int) -> int:
    found = api_definition(key, REQUEST)
    return 2 if found and schema.within(version, found.versions) and found.is_flexible(version) else 1


def _response_header_version(key: int, version: int) -> int:
    """The answer to ApiVersions has no tagged fields, so that a client reads it before it knows any version."""
    return 1 if key != ApiKey.API_VERSIONS and _known(key, RESPONSE).is_flexible(version) else 0
