"""`streamlog broker …`: list, add and retire brokers; `streamlog topic reassign` and `elect`: move replicas and leaders."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

import streamlog

from ..errors import ConfigError
from ..types import TopicPartition
from . import render as output
from .app import (
    OWNER_FILE,
    Directory,
    Json,
    Partitions,
    TopicName,
    Yes,
    app,
    confirm,
    open_log,
    option,
    places_in,
    topic_called,
    wants_json,
)
from .topics import topics

brokers = typer.Typer(no_args_is_help=True, help="List, add and retire the brokers of a log.")
app.add_typer(brokers, name="broker")

# How often a line says how far a reassignment is.
_LOOK_S = 1.0
Throttle = Annotated[
    int | None,
    option("--throttle", metavar="BYTES", min=1, help="Copy so many bytes in a second, for each broker, at most."),
]


@brokers.command("list")
def broker_list(ctx: typer.Context, directory: Directory = None, as_json: Json = False) -> None:
    """List the brokers, what each has, and which are missing."""
    with open_log(ctx, directory, read_only=True) as log:
        found = [described(int(broker), about) for broker, about in log.metrics()["brokers"].items()]
    if wants_json(ctx, as_json):
        output.document(found)
    else:
        rows = [(b["id"], state_of(b), b["leaders"], b["replicas"], b["path"] or "-") for b in found]
        output.table(("broker", "state", "leaders", "replicas", "path"), rows, left=("state", "path"))


def described(broker_id: int, about: dict[str, Any]) -> dict[str, Any]:
    path = about.get("path")
    return {
        "id": broker_id,
        "path": path,
        "running": about.get("running", True),
        "retiring": about.get("retiring", False),
        "missing": path is None or not (Path(path) / OWNER_FILE).exists(),
        "leaders": about["leaders"],
        "replicas": about["replicas"],
    }


def state_of(broker: dict[str, Any]) -> str:
    """In one word what is to be known of a broker first."""
    if broker["missing"]:
        return "missing"
    return "retiring" if broker["retiring"] else "ok" if broker["running"] else "stopped"


@brokers.command("add")
def broker_add(
    ctx: typer.Context,
    path: Annotated[
        Path, typer.Argument(metavar="PATH", show_default=False, help="An empty directory, or one that is made.")
    ],
    directory: Directory = None,
    as_json: Json = False,
) -> None:
    """Add a broker in a directory of its own. New topics use it; `topic reassign` moves what is there."""
    with open_log(ctx, directory) as log:
        added = log.add_broker(path)
    if wants_json(ctx, as_json):
        output.document({"id": added.id, "path": added.path})
    else:
        output.say(f"Broker {added.id} is in {added.path}.")


@brokers.command("retire")
def broker_retire(
    ctx: typer.Context,
    broker_id: Annotated[int, typer.Argument(metavar="BROKER", show_default=False, help="The number of the broker.")],
    throttle: Throttle = None,
    yes: Yes = False,
    directory: Directory = None,
    as_json: Json = False,
) -> None:
    """Move what a broker has to the others, and take it out of the log. Its directory is left.

    If it is interrupted, it goes on when the log is opened the next time.
    """
    with open_log(ctx, directory) as log:
        confirm(f"Retire broker {broker_id}?", yes)
        there = {broker.id: broker.path for broker in log.brokers}
        _wait(log, log.retire_broker(broker_id), throttle)
        is_found = any((broker.path or "").startswith(f"{log.path}/") for broker in log.brokers)
    if wants_json(ctx, as_json):
        output.document({"retired": broker_id, "path": there[broker_id]})
    else:
        what = (
            "can be removed"
            if is_found
            else "has to stay: the log is found by it, since no other broker lies beside it"
        )
        output.say(f"Retired broker {broker_id}. Its directory {there[broker_id]} {what}.")


@topics.command("reassign")
def topic_reassign(
    ctx: typer.Context,
    name: TopicName,
    factor: Annotated[
        int | None,
        option("--replication-factor", "-r", metavar="N", min=1, max=100, help="Number of replicas of each partition."),
    ] = None,
    replicas: Annotated[
        list[str] | None,
        option(
            "--replicas",
            metavar="N=BROKERS",
            help="The brokers of partition N, the preferred leader first, such as 0=2,1; may be repeated.",
        ),
    ] = None,
    throttle: Throttle = None,
    directory: Directory = None,
    as_json: Json = False,
) -> None:
    """Move partitions of a topic to other brokers, or change how many replicas they have.

    If it is interrupted, it goes on when the log is opened the next time.
    """
    if (factor is None) == (not replicas):
        raise ConfigError("Give either --replication-factor or --replicas.")
    wanted = None if not replicas else dict(map(_parse_replicas, replicas))
    with open_log(ctx, directory) as log:
        topic = topic_called(log, name)
        if wanted is not None:
            places_in(topic, wanted)
        _wait(log, log.reassign(topic, replicas=wanted, replication_factor=factor), throttle)
        placed = {n: list(topic.partition(n).replicas) for n in range(topic.partitions)}
    if wants_json(ctx, as_json):
        output.document({"topic": name, "replicas": {str(n): brokers for n, brokers in placed.items()}})
    else:
        rows = [(n, ", ".join(map(str, brokers))) for n, brokers in placed.items()]
        output.table(("partition", "replicas"), rows, left=("replicas",))


@topics.command("elect")
def topic_elect(
    ctx: typer.Context,
    name: TopicName,
    partition: Partitions = None,
    broker: Annotated[
        int | None, option("--broker", metavar="BROKER", min=0, help="The broker.  [default: the preferred one]")
    ] = None,
    directory: Directory = None,
    as_json: Json = False,
) -> None:
    """Have a broker lead partitions of a topic, by default the first of their replicas."""
    with open_log(ctx, directory) as log:
        topic = topic_called(log, name)
        places = places_in(topic, partition)
        for place in places:
            log.elect_leader(place, broker)
        leaders = _leaders(topic, places)
    if wants_json(ctx, as_json):
        output.document({"topic": name, "leaders": {str(n): leader for n, leader in leaders.items()}})
    else:
        output.table(("partition", "leader"), list(leaders.items()))


def _leaders(topic: streamlog.Topic[Any, Any], places: list[TopicPartition]) -> dict[int, int]:
    return {place.partition: topic.partition(place.partition).leader for place in places}


def _parse_replicas(text: str) -> tuple[int, list[int]]:
    """`partition=broker,broker` as numbers.

    >>> _parse_replicas("0=2,1")
    (0, [2, 1])
    """
    number, _, listed = text.partition("=")
    try:
        return int(number), [int(broker) for broker in listed.split(",")]
    except ValueError:
        raise ConfigError(f"{text!r} names no replicas: write N=BROKERS, such as --replicas 0=2,1.") from None


def _wait(log: streamlog.StreamLog, moving: streamlog.Reassignment, throttle: int | None) -> None:
    """Wait until it is done, and say on stderr how far it is."""
    log.replication_throttle_bytes_per_s = throttle
    said = 0
    while not moving.done():
        try:
            moving.wait(_LOOK_S)
        except TimeoutError:
            now = int(100 * moving.progress)
            if now > said:
                output.say(f"{now}%", stderr=True)
                said = now
