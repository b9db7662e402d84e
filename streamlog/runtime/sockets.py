"""Sockets to listen at, and what a forked child does with its copies of them."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

Socket: TypeAlias = socket.socket
MAX_PORT = 65_535
_BACKLOG = 100
_ATTEMPTS = 10
_NOT_OF_THIS_MACHINE = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)


def listen_at(host: str, port: int) -> list[Socket]:
    """A listening socket for each address of the host, all of one port: clients try the addresses in an order of their own.

    Blocks while the name is looked up. Raises OSError.
    """
    if port > MAX_PORT:  # that of a later broker
        raise _refused(errno.EINVAL, host, port, f"the highest port is {MAX_PORT}")
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (socket.gaierror, UnicodeError) as error:
        raise _refused(errno.EADDRNOTAVAIL, host, port, getattr(error, "strerror", None) or str(error)) from error
    addresses = list(dict.fromkeys((int(family), address) for family, _, _, _, address in found))
    for _ in range(_ATTEMPTS - 1):
        try:
            return bind_all(addresses, port)
        except OSError as error:
            # A port that is free for one address may be taken for the next one.
            if port or error.errno != errno.EADDRINUSE:
                raise
    return bind_all(addresses, port)


def bind_all(addresses: Sequence[tuple[int, Any]], port: int) -> list[Socket]:
    """A listening socket for each address, given as (family, socket address), all of the same port: any free one if `port` is 0.

    An address that this machine does not have (`localhost` may name one of IPv6 where there is none) is left out, unless it is the
    last of all. Raises OSError.
    """
    bound: list[Socket] = []
    refused: OSError | None = None
    try:
        for family, address in addresses:
            try:
                made = _bind(family, (address[0], port, *address[2:]))
            except OSError as error:
                if error.errno not in _NOT_OF_THIS_MACHINE:
                    raise
                refused = error
                continue
            bound.append(made)
            port = made.getsockname()[1]
    except BaseException:
        for each in bound:
            each.close()
        raise
    if not bound:
        raise refused or OSError(errno.EADDRNOTAVAIL, "the host has no address")
    return bound


def _bind(family: int, address: tuple[Any, ...]) -> Socket:
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        if os.name == "posix":  # elsewhere it would let two processes listen at one port
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        made.bind(address)
        made.listen(_BACKLOG)
        made.setblocking(False)
    except OSError as error:
        made.close()
        raise _refused(error.errno, address[0], address[1], error.strerror) from error
    except BaseException:
        made.close()
        raise
    return made


def _refused(number: int | None, host: str, port: int, reason: str | None) -> OSError:
    return OSError(
        number,
        f"cannot listen at {authority(host, port)} ({reason}); give an address of this machine and a port that is free",
    )


def authority(host: str, port: int) -> str:
    """Host and port as clients and URLs have them: `127.0.0.1:9092`, `[::1]:9092`."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def let_go_of(descriptors: Iterable[int]) -> None:
    """Have each descriptor be one of the null device."""
    null = os.open(os.devnull, os.O_RDWR)
    try:
        for each in descriptors:
            if each >= 0:
                os.dup2(null, each, inheritable=False)
    finally:
        os.close(null)
