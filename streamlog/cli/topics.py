"""`streamlog topic …` and `streamlog group …`: create, look at, move, delete."""

from __future__ import annotations

from operator import attrgetter
from typing import Annotated, Any

import typer

import streamlog

from ..config import TopicConfig, topic_changes
from ..errors import ConfigError, GroupIdNotFoundError, TopicAlreadyExistsError, did_you_mean
from ..runtime.threads import SystemClock
from . import render as output
from .app import (
    Directory,
    Json,
    Partitions,
    TopicName,
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
from .parse import locate, parse_position, parse_setting

topics = typer.Typer(no_args_is_help=True, help="Create, describe, list and delete topics.")
groups = typer.Typer(no_args_is_help=True, help="Look at consumer groups and their lag; reset and delete them.")
app.add_typer(topics, name="topic")
app.add_typer(groups, name="group")

GroupName = Annotated[str, typer.Argument(metavar="GROUP", show_default=False)]


# -- topics ----------------------------------------------------------------------------------------------


@topics.command("create")
def topic_create(
    ctx: typer.Context,
    name: TopicName,
    partitions: Annotated[int, option("--partitions", "-p", metavar="N", help="How many; else one.")] = 1,
    config: Annotated[
        list[str] | None,
        option("--config", "-c", metavar="NAME=VALUE", help="A setting, as in -c retention_ms=7d; may be repeated."),
    ] = None,
    exist_ok: Annotated[bool, option("--exist-ok", help="It may be there already.")] = False,
    directory: Directory = None,
    as_json: Json = False,
) -> None:
    """Create a topic, and the log with it if there is none."""
    settings: dict[str, Any] = dict(map(parse_setting, config or ()))
    # Refused before a directory is made for it.
    TopicConfig(**topic_changes(settings)[0])
    with open_log(ctx, directory, create=True) as log:
        if name in log and not exist_ok:
            raise TopicAlreadyExistsError(
                f"Topic {name!r} exists already; use it as it is with --exist-ok.", topic=name
            )
        topic = log.create_topic(name, partitions=partitions, exist_ok=exist_ok, **settings)
        if wants_json(ctx, as_json):
            output.document(_described(topic))
        else:
            output.say(f"Topic {name} has {topic.partitions} {plural('partition', topic.partitions)}.")


@topics.command("list")
def topic_list(
    ctx: typer.Context,
    internal: Annotated[bool, option("--internal", help="Those of streamlog's own too.")] = False,
    directory: Directory = None,
    as_json: Json = False,
) -> None:
    """List the topics."""
    with open_log(ctx, directory, read_only=True) as log:
        described = [_described(topic) for topic in sorted(log.topics(internal=internal), key=attrgetter("name"))]
    if wants_json(ctx, as_json):
        output.document([{k: v for k, v in topic.items() if k not in ("config", "partitions")} for topic in described])
    elif not described:
        output.say("There are no topics.", stderr=True)
    else:
        rows = [
            (t["name"], t["partition_count"], _count(t), output.size(t["size_bytes"]), t["config"]["cleanup_policy"])
            for t in described
        ]
        output.table(("topic", "partitions", "records", "size", "cleanup"), rows, left=("topic", "cleanup"))


@topics.command("describe")
def topic_describe(ctx: typer.Context, name: TopicName, directory: Directory = None, as_json: Json = False) -> None:
    """Show a topic's partitions and changed settings.

    With --json all settings.
    """
    with open_log(ctx, directory, read_only=True) as log:
        topic = topic_called(log, name)
        about = _described(topic)
        segments = f"{log.path}/topics/{topic.id.hex}-N"
    if wants_json(ctx, as_json):
        output.document(about)
        return
    defaults = TopicConfig().public()
    output.say(name, style="bold")
    for setting, value in about["config"].items():
        if value != defaults[setting]:
            output.say(f"{setting} = {value}")
    fields = ("partition", "log_start_offset", "log_end_offset", "size_bytes", "segments")
    rows = [[output.size(p[f]) if f == "size_bytes" else p[f] for f in fields] for p in about["partitions"]]
    output.say("")
    output.table(("partition", "start", "end", "size", "segments"), rows)
    output.say("")
    output.say(f"The segments of partition N are in {segments}", style="dim")


@topics.command("delete")
def topic_delete(
    ctx: typer.Context,
    names: Annotated[list[str], typer.Argument(metavar="TOPIC", show_default=False)],
    yes: Yes = False,
    directory: Directory = None,
    as_json: Json = False,
) -> None:
    """Delete topics with all their records."""
    with open_log(ctx, directory) as log:
        for name in names:
            topic_called(log, name)  # all are there before one is deleted
        confirm(f"Delete {', '.join(names)} with all records?", yes)
        for name in names:
            log.delete_topic(name)
    deleted(names, wants_json(ctx, as_json))


def _count(described: dict[str, Any]) -> str:
    """Compaction leaves gaps, so there the offsets only bound the records."""
    bound = "≤ " if "compact" in described["config"]["cleanup_policy"] else ""
    return f"{bound}{described['offsets']:,}"


def _described(topic: streamlog.Topic[Any, Any]) -> dict[str, Any]:
    infos = [topic.partition(n) for n in range(topic.partitions)]
    return {
        "name": topic.name,
        "id": str(topic.id),
        "partition_count": topic.partitions,
        "offsets": sum(info.high_watermark - info.log_start_offset for info in infos),
        "size_bytes": sum(info.size_bytes for info in infos),
        "config": dict(topic.config),
        "partitions": [
            {
                "partition": info.partition,
                "log_start_offset": info.log_start_offset,
                "log_end_offset": info.log_end_offset,
                "high_watermark": info.high_watermark,
                "size_bytes": info.size_bytes,
                "segments": info.segments,
                "directory": f"topics/{topic.id.hex}-{info.partition}",
            }
            for info in infos
        ],
    }


# -- groups ----------------------------------------------------------------------------------------------


@groups.command("list")
def group_list(ctx: typer.Context, directory: Directory = None, as_json: Json = False) -> None:
    """List the groups and how far behind they are."""
    with open_log(ctx, directory, read_only=True) as log:
        found: list[dict[str, Any]] = [
            {
                "group": group.name,
                "state": group.state,
                "topics": sorted({place.topic for place in group.committed()}),
                "lag": sum(group.lag().values()),
            }
            for group in sorted(log.groups(), key=attrgetter("name"))
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
    """Show where a group is in each partition, and its lag."""
    with open_log(ctx, directory, read_only=True) as log:
        group = _group(log, name)
        lags = group.lag()
        rows = [
            {
                "topic": place.topic,
                "partition": place.partition,
                "committed": at.offset,
                "log_end_offset": log[place.topic].partition(place.partition).high_watermark,
                "lag": lags.get(place),
                "metadata": at.metadata,
            }
            for place, at in sorted(group.offsets().items())
        ]
        members = [
            {"member_id": m.member_id, "client_id": m.client_id, "assignment": sorted(m.assignment)}
            for m in group.members()
        ]
        state = group.state
    if wants_json(ctx, as_json):
        output.document({"group": name, "state": state, "members": members, "offsets": rows})
        return
    there = f"{len(members)} {plural('member', len(members))}"
    output.say(f"{output.printable(name.encode())}  {state}, {there}, lag {sum(lags.values()):,}")
    columns = ["topic", "partition", "committed", "log_end_offset", "lag", "metadata"]
    if not any(row["metadata"] for row in rows):
        columns.remove("metadata")
    titles = [c.replace("log_end_offset", "log end") for c in columns]
    output.table(
        titles, [["-" if row[c] is None else row[c] for c in columns] for row in rows], left=("topic", "metadata")
    )


def _group(log: streamlog.StreamLog, name: str) -> streamlog.ConsumerGroup:
    """A handle on a group that is there; a handle alone needs none, which would make a typo look like an empty one."""
    known = [group.name for group in log.groups()]
    if name not in known:
        there = f": the groups are {', '.join(sorted(known))}" if known else ": there are none yet"
        raise GroupIdNotFoundError(f"No group is called {name!r}{did_you_mean(name, known) or there}.")
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
            help="beginning, end, 5, -10 (ten before the end), @2026-01-01, @-1h, @EPOCH_MS.",
        ),
    ],
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="TOPIC", help="Default: all it has committed in.", show_default=False),
    ] = None,
    partition: Partitions = None,
    directory: Directory = None,
    as_json: Json = False,
) -> None:
    """Move a group: its next record is the one at OFFSET. It need not exist yet if topics are named."""
    position = parse_position(offset, SystemClock().time_ms())
    if position.kind == "stored":
        raise ConfigError("A group is at its stored offset already; give another one.")
    with open_log(ctx, directory) as log, log.consumer() as consumer:
        group = log.group(name) if names else _group(log, name)
        before = group.committed()
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
    names: Annotated[list[str], typer.Argument(metavar="GROUP", show_default=False)],
    yes: Yes = False,
    directory: Directory = None,
    as_json: Json = False,
) -> None:
    """Forget groups and their offsets; the records stay."""
    with open_log(ctx, directory) as log:
        found = [_group(log, name) for name in names]
        confirm(f"Forget {', '.join(names)} and their offsets?", yes)
        for group in found:
            group.delete()
    deleted(names, wants_json(ctx, as_json))
