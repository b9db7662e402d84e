"""Requests of every API and version with random fields and changed bytes are decoded, and sent to a listener.

    python -m tests.stress.kafka_fuzz --rounds 20000 --seed 1
    python -m tests.stress.kafka_fuzz --atheris --rounds 1000000 --seed 1     (needs the package atheris)

Whatever is sent: the answer is one of Kafka's, or the connection is closed; a frame takes no more memory than its size and 1 MiB to
decode; the process grows by no more than MEMORY in all; and others are served afterwards. With `--atheris` libFuzzer looks for the
bytes, by the branches that they reach in the decoders, and nothing is sent. A failure prints its round; `--only ROUND` with the same seed does it
again.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import random
import resource
import socket
import sys
import tracemalloc
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import streamlog
from streamlog.kafka import Listener, compiler, protocol, schema
from streamlog.kafka.compiler import MalformedMessageError
from tests.kafka.clients import WAIT_S
from tests.kafka.hostile import LENGTHS, keys_of, mutated, request

MEMORY = 128 << 20
SPARE = 1 << 20
_WARM_UP = 200
_ANSWER_S = 0.05


class Violation(AssertionError):
    """Something came out that never may."""


class Errors(logging.Handler):
    """What the listener did not foresee."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(f"{record.getMessage()} {record.exc_info}")


def frames(seed: int, number: int, versions: dict[int, tuple[int, int]]) -> tuple[bytes, bool]:
    """The frame of a round, and whether it is whole: one in eight only claims a length, and sends less."""
    rng = random.Random(f"{seed}/{number}")
    key = rng.choice(sorted(versions))
    made = request(rng, key, rng.randint(*versions[key]))
    if rng.randrange(8) == 0:
        return rng.choice(LENGTHS)[:4] + made[4:], False
    return (mutated(rng, made) if rng.randrange(4) else made), True


def decode(frame: bytes | memoryview) -> None:
    """Decode a request without its size. Raises MalformedMessageError, as the listener expects."""
    header, at = protocol.decode_request_header(frame)
    low, high = protocol.versions_of(header.request_api_key)
    if low <= header.request_api_version <= high:
        protocol.decode_request(header, frame, at)


def check_decoding(frame: bytes) -> None:
    tracemalloc.reset_peak()
    before, _ = tracemalloc.get_traced_memory()
    with suppress(MalformedMessageError):
        decode(frame[4:])
    _, peak = tracemalloc.get_traced_memory()
    if peak - before > 2 * len(frame) + SPARE:  # this function's own copy is one of the two
        raise Violation(f"decoding {len(frame)} bytes took {peak - before}")


def check_sending(address: tuple[str, int], frame: bytes) -> bool:
    """Whether it was answered."""
    with suppress(OSError), socket.create_connection(address, WAIT_S) as connection:
        connection.sendall(frame)
        connection.settimeout(_ANSWER_S)
        return bool(connection.recv(1 << 16))
    return False


def grown_to() -> int:
    """The most memory that this process has had, in bytes."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most << 10


def run(rounds: int, seed: int, only: int | None = None) -> tuple[int, int]:
    """How many were answered, and by how many bytes the process grew. Raises Violation."""
    answered, before = 0, 0
    errors = Errors()
    logger = logging.getLogger("streamlog")
    logger.addHandler(errors)
    try:
        with streamlog.open() as log, Listener(log, auto_create_topics=False) as listener:
            log.create_topic("orders", partitions=2)
            versions = keys_of(listener)
            host, _, port = listener.bootstrap_servers.rpartition(":")
            tracemalloc.start()
            for number in range(rounds) if only is None else [only]:
                frame, is_whole = frames(seed, number, versions)
                try:
                    if is_whole and number >= _WARM_UP:  # by then the decoders were made
                        check_decoding(frame)
                    answered += check_sending((host, int(port)), frame)
                    if errors.messages:
                        raise Violation(errors.messages[0])
                    if number == _WARM_UP:
                        before = grown_to()
                    if before and grown_to() - before > MEMORY:
                        raise Violation(f"the process grew by {grown_to() - before} bytes")
                except Violation as violation:
                    raise Violation(f"round {number} of seed {seed}: {violation}\n{frame.hex()}") from violation
            tracemalloc.stop()
            if not keys_of(listener):
                raise Violation("others are not served any more")
            log.create_topic("afterwards").send(
                b"after"
            ).result()  # a request may have deleted "orders", or changed its settings
    finally:
        logger.removeHandler(errors)
    return answered, grown_to() - before if before else 0


def run_atheris(rounds: int, seed: int) -> None:
    """The first two bytes choose the API and the version, so that the decoders are reached; each is instrumented when it is made."""
    atheris: Any = importlib.import_module("atheris")
    compiled = compiler._compiled

    def instrumented(*arguments: Any) -> Any:
        return atheris.instrument_func(compiled(*arguments))

    compiler._compiled = instrumented
    keys = sorted(key for key in schema.names() if protocol.versions_of(key)[1] >= 0)

    def one(data: bytes) -> None:
        if len(data) < 2:
            return
        key = keys[data[0] % len(keys)]
        low, high = protocol.versions_of(key)
        with suppress(MalformedMessageError):
            protocol.decode(schema.names()[key] + "Request", low + data[1] % (high - low + 1), data[2:])

    options = [f"-runs={rounds}", f"-seed={seed}", "-max_len=4096", "-rss_limit_mb=1024"]
    atheris.Setup([sys.argv[0], *options], atheris.instrument_func(one))
    atheris.Fuzz()


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))
    parser.add_argument("--only", type=int)
    parser.add_argument("--atheris", action="store_true")
    given = parser.parse_args(arguments)
    print(f"seed {given.seed}", flush=True)
    if given.atheris:
        run_atheris(given.rounds, given.seed)
        return
    answered, grown = run(given.rounds, given.seed, given.only)
    print(f"{given.rounds} rounds, {answered} answered, memory grew by {grown >> 20} MiB")


if __name__ == "__main__":
    logging.getLogger("streamlog").propagate = False
    main()
