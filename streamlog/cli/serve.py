"""`streamlog serve`: Kafka's clients, and other processes, use the log."""

from __future__ import annotations

import os
import signal
from typing import Annotated

import typer

from ..errors import ConfigError, StreamlogError
from ..runtime.disk import raise_descriptor_limit
from . import render as output
from .app import Directory, app, open_log, option, plural

_UNLIMITED = {"log.retention.ms": "-1"}


@app.command("serve")
def serve(
    ctx: typer.Context,
    port: Annotated[
        int,
        option(
            "--port", "-P", metavar="N", min=0, max=65_535, help="Port of broker 0, broker n has N + n (9092); 0: any."
        ),
    ] = 9092,
    host: Annotated[str, option("--host", metavar="ADDRESS", help="Where to listen (127.0.0.1).")] = "127.0.0.1",
    advertised_host: Annotated[
        str | None, option("--advertised-host", metavar="NAME", help="Where clients are told to come to.")
    ] = None,
    kafka_defaults: Annotated[
        bool,
        option(
            "--kafka-defaults", help="As a broker of Kafka: topics are created when they are used, and kept for 7 days."
        ),
    ] = False,
    allow_insecure: Annotated[
        bool, option("--allow-insecure", help="Let other machines in, without any check of who they are.")
    ] = False,
    brokers: Annotated[
        int | None, option("--brokers", metavar="N", min=1, help="Brokers of a log that is created.")
    ] = None,
    directory: Directory = None,
) -> None:
    """Serve the log to Kafka's clients, until Ctrl-C."""
    from ..kafka import Listener
    from ..kafka.listener import check_hosts

    check_hosts(host, advertised_host, is_open=allow_insecure)  # before a log is created
    raise_descriptor_limit()  # many clients, and no other program in this process
    with open_log(ctx, directory, create=True, brokers=brokers) as log:
        if brokers not in (None, there := len(log.brokers)):
            said = f"The log has {there} {plural('broker', there)}, not {brokers}: --brokers is for a log that is created, in one directory."
            output.say(said, stderr=True)
        listener = Listener(
            log,
            host=host,
            port=port,
            advertised_host=advertised_host,
            auto_create_topics=kafka_defaults,
            broker_config={} if kafka_defaults else _UNLIMITED,
            allow_insecure=allow_insecure,
        )
        try:
            listener.start()
        except StreamlogError:
            raise
        except OSError as error:  # of the socket; one without a file's name would pass for one of the output
            message = error.strerror or str(error)
            raise ConfigError(f"{message[:1].upper()}{message[1:]}.", name="port") from error
        with listener:
            signal.signal(signal.SIGTERM, _end)  # what a service manager sends: the log is closed as with Ctrl-C
            reach = "Whoever reaches it" if allow_insecure else "Every user of this machine"
            output.say(
                f"Serving {listener.bootstrap_servers}. {reach} can read and write all of it. Ctrl-C ends it.",
                stderr=True,
            )
            _wait()


def _wait() -> None:
    """Until a signal's handler raises. `signal.pause` sleeps on where another thread takes the signal, as after a stop (Ctrl-Z)."""
    read, write = os.pipe()
    os.set_blocking(write, False)
    signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    while True:
        os.read(read, 1)


def _end(number: int, frame: object) -> None:
    raise SystemExit(128 + number)
