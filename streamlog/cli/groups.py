"""`streamlog group …`: list, describe, reset and delete consumer groups."""

from __future__ import annotations

from contextlib import suppress
from operator import attrgetter
from typing import Annotated, Any

import typer

import streamlog

from ..errors import ConfigError, GroupIdNotFoundError, UnknownTopicOrPartitionError, did_you_mean
from ..runtime.threads import SystemClock
from . import render as output
from .app import (
    Directory,
    Json,
    Partitions,
    Yes,
    app,
    confirm,
    deleted,
    open_log,
    option,
    places_in,
    plural,
    topic_called,
    wants_json,
)
from .parse import locate, parse_position

groups = typer.Typer(no_args_is_help=True, help="List, describe, reset and delete consumer groups.")
app.add_typer(groups, name="group")

GroupName = Annotated[str, typer.Argument(metavar="GROUP", show_default=False, help="The name of the group.")]


@groups.command("list")
def group_list(ctx: typer.Context, directory: Directory = None, as_json: Json = False) -> None:
    """List the groups and their lag."""
    with open_log(ctx, directory, read_only=True) as log:
        found: list[dict[str, Any]] = [
            {
                "group": group.name,
                "state": group.state,
                "topics": sorted({place.topic for place in lag}),
                "lag": sum(lag.values()),
            }
            for group in sorted(log.groups(), key=attrgetter("name"))
            for lag in [group.lag()]
        ]
    if wants_json(ctx, as_json):
        output.document(found)
    elif not found:
        output.say("There are no groups.", stderr=True)
    else:
        rows = [(g["group"], g["state"], ", ".join(g["topics"]), g["lag"]) for g in found]
        output.table(("group", "state", "topics", "lag"), rows, left=("group", "state", "topics"))


@groups.command("describe")
def group_describe(ctx: typer.Context, name: GroupName, directory: Directory = None, as_json: Json = False) -> None:
    """Show committed offsets, lag and members of a group."""
    with open_log(ctx, directory, read_only=True) as log:
        group = _group(log, name)
        lags, offsets = group.lag(), group.offsets()
        rows = []
        for place, lag in lags.items():
            with suppress(UnknownTopicOrPartitionError):  # deleted since the lag was read
                at = offsets.get(place)
                row = {
                    "topic": place.topic,
                    "partition": place.partition,
                    "committed": None if at is None else at.offset,
                    "log_end_offset": log[place.topic].partition(place.partition).high_watermark,
                    "lag": lag,
                    "metadata": "" if at is None else at.metadata,
                }
                rows.append(row)
        members = [
            {"member_id": m.member_id, "client_id": m.client_id, "assignment": sorted(m.assignment)}
            for m in group.members()
        ]
        state = group.state
    if wants_json(ctx, as_json):
        output.document({"group": name, "state": state, "members": members, "offsets": rows})
        return
    there = f"{len(members)} {plural('member', len(members))}"
    output.say(f"{output.name_of(name)}  {state}, {there}, lag {sum(lags.values()):,}")
    columns = ["topic", "partition", "committed", "log_end_offset", "lag", "metadata"]
    if not any(row["metadata"] for row in rows):
        columns.remove("metadata")
    titles = [c.replace("log_end_offset", "log end") for c in columns]
    output.table(
        titles, [["-" if row[c] is None else row[c] for c in columns] for row in rows], left=("topic", "metadata")
    )


def _group(log: streamlog.StreamLog, name: str) -> streamlog.ConsumerGroup:
    """The group. Raises GroupIdNotFoundError if there is none: `log.group` returns a handle for any name."""
    known = [group.name for group in log.groups()]
    if name not in known:
        there = f". The groups are: {', '.join(sorted(known))}" if known else "; there are no groups yet"
        raise GroupIdNotFoundError(f"There is no group {name!r}{did_you_mean(name, known) or there}.")
    return log.group(name)


@groups.command("reset")
def group_reset(
    ctx: typer.Context,
    name: GroupName,
    offset: Annotated[
        str,
        option(
            "--offset",
            "-o",
            metavar="OFFSET",
            help="beginning, end, 5, -10 (ten before the end), @2026-01-01, @-1h or @EPOCH_MS.",
        ),
    ],
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="TOPIC",
            help="The topics. Default: all in which the group has committed offsets.",
            show_default=False,
        ),
    ] = None,
    partition: Partitions = None,
    directory: Directory = None,
    as_json: Json = False,
) -> None:
    """Set the committed offsets of a group. If topics are given, the group need not exist."""
    position = parse_position(offset, SystemClock().time_ms())
    if position.kind == "stored":
        raise ConfigError("-o stored is the offset that the group has already. Give another one.")
    with open_log(ctx, directory) as log, log.consumer() as consumer:
        group = log.group(name) if names else _group(log, name)
        before = group.committed()
        if not names and not before:
            raise ConfigError(f"Group {name!r} has not committed anything. Name the topics whose offsets to set.")
        chosen = [topic_called(log, topic) for topic in names or sorted({place.topic for place in before})]
        places = [place for topic in chosen for place in places_in(topic, partition)]
        offsets = locate(consumer, places, position)
        group.reset(to=offsets)
    moved = [{"topic": p.topic, "partition": p.partition, "from": before.get(p), "to": to} for p, to in offsets.items()]
    if wants_json(ctx, as_json):
        output.document({"group": name, "offsets": moved})
    else:
        rows = [["-" if cell is None else cell for cell in row.values()] for row in moved]
        output.table(("topic", "partition", "from", "to"), rows, left=("topic",))


@groups.command("delete")
def group_delete(
    ctx: typer.Context,
    names: Annotated[list[str], typer.Argument(metavar="GROUP", show_default=False, help="The names of the groups.")],
    yes: Yes = False,
    directory: Directory = None,
    as_json: Json = False,
) -> None:
    """Delete groups and their committed offsets. The records stay."""
    with open_log(ctx, directory) as log:
        found = [_group(log, name) for name in names]
        confirm(f"Delete {', '.join(names)} and the committed offsets?", yes)
        for group in found:
            group.delete()
    deleted(names, wants_json(ctx, as_json))
