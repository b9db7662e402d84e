"""`streamlog topic …`: create, list, describe, alter and delete topics."""

from __future__ import annotations

from contextlib import suppress
from operator import attrgetter
from typing import Annotated, Any

import typer

import streamlog

from ..config import TopicConfig, topic_changes
from ..errors import ConfigError, TopicAlreadyExistsError, UnknownTopicIdError, UnknownTopicOrPartitionError
from . import render as output
from .app import (
    Directory,
    Json,
    TopicName,
    Yes,
    app,
    confirm,
    deleted,
    is_log,
    log_paths,
    open_log,
    option,
    plural,
    topic_called,
    wants_json,
)
from .parse import parse_setting

topics = typer.Typer(no_args_is_help=True, help="Create, list, describe, alter and delete topics.")
app.add_typer(topics, name="topic")


@topics.command("create")
def topic_create(
    ctx: typer.Context,
    name: TopicName,
    partitions: Annotated[
        int | None,
        option("--partitions", "-p", metavar="N", min=1, max=10_000, help="Number of partitions.  [default: 1]"),
    ] = None,
    config: Annotated[
        list[str] | None,
        option("--config", "-X", metavar="NAME=VALUE", help="A setting, such as retention_ms=7d; may be repeated."),
    ] = None,
    factor: Annotated[
        int | None,
        option(
            "--replication-factor",
            "-r",
            metavar="N",
            min=1,
            max=100,
            help="Number of replicas of each partition.  [default: 3, or one for each broker]",
        ),
    ] = None,
    brokers: Annotated[
        int | None,
        option(
            "--brokers",
            metavar="N",
            min=1,
            max=100,
            help="Number of brokers of a log that is created, each a directory in it.  [default: 1]",
        ),
    ] = None,
    exist_ok: Annotated[bool, option("--exist-ok", help="Succeed if the topic exists with these settings.")] = False,
    directory: Directory = None,
    as_json: Json = False,
) -> None:
    """Create a topic, and the log too if there is none yet.

    The log is created in the directory of -d or STREAMLOG_DIR, or in the current directory if that is empty.
    """
    settings: dict[str, Any] = dict(map(parse_setting, config or ()))
    # A wrong setting is refused before the log is created.
    TopicConfig(**topic_changes(settings)[0])
    paths = log_paths(ctx, directory, create=True)
    if not any(map(is_log, paths)):
        _check_replication(factor, max(brokers or 1, len(paths)))
    with open_log(ctx, directory, create=True, brokers=brokers) as log:
        there = len(log.metrics()["brokers"])
        if brokers not in (None, there):
            raise ConfigError(
                f"This log has {there} {plural('broker', there)}, which cannot be changed here. Leave --brokers out."
            )
        _check_replication(factor, there)
        if factor is not None:
            settings["replication_factor"] = factor
        if name in log and not exist_ok:
            raise TopicAlreadyExistsError(
                f"Topic {name!r} exists already. Give --exist-ok to use it as it is.", topic=name
            )
        try:
            topic = log.create_topic(name, partitions=partitions, exist_ok=exist_ok, **settings)
        except TopicAlreadyExistsError as error:
            raise _other_settings(error) from None
        if wants_json(ctx, as_json):
            output.document(_described(topic))
        else:
            output.say(f"Topic {name} has {topic.partitions} {plural('partition', topic.partitions)}.")


def _check_replication(factor: int | None, brokers: int) -> None:
    if factor is not None and factor > brokers:
        raise ConfigError(
            f"--replication-factor {factor} needs as many brokers, and this log has {brokers}. Ask for fewer replicas, or "
            f"create a log of more brokers: streamlog -d NEW topic create --brokers {factor} NAME"
        )


def _other_settings(error: TopicAlreadyExistsError) -> TopicAlreadyExistsError:
    """The error of --exist-ok for a topic that has other settings, with the settings as they are typed."""
    if not error.differences:
        return error
    differ = "; ".join(
        f"{name} is {output.setting(name, has)}, not {output.setting(name, given)}"
        for name, (has, given) in error.differences.items()
    )
    return TopicAlreadyExistsError(
        f"Topic {error.topic!r} exists already with other settings: {differ}. Leave those out to use it as it is.",
        topic=error.topic,
    )


@topics.command("list")
def topic_list(
    ctx: typer.Context,
    internal: Annotated[bool, option("--internal", help="Include the internal topics.")] = False,
    directory: Directory = None,
    as_json: Json = False,
) -> None:
    """List the topics."""
    with open_log(ctx, directory, read_only=True) as log:
        described = []
        for topic in sorted(log.topics(internal=internal), key=attrgetter("name")):
            with suppress(UnknownTopicOrPartitionError, UnknownTopicIdError):  # deleted since they were listed
                described.append(_described(topic))
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
    """Show the partitions and settings of a topic.

    Without --json only settings that are not the default, and the last stable offsets only while a transaction holds readers back:
    consumers get nothing from there on until it ends.
    """
    with open_log(ctx, directory, read_only=True) as log:
        topic = topic_called(log, name)
        about = _described(topic)
        several = len(log.metrics()["brokers"]) > 1
        directory_of_n = f"topics/{topic.id.hex}-N"
        segments = f"{directory_of_n} of each of its replicas" if several else f"{log.path}/{directory_of_n}"
    if wants_json(ctx, as_json):
        output.document(about)
        return
    output.say(name, style="bold")
    for setting, value in _settings_that_differ(about["config"]).items():
        output.say(f"{setting} = {output.setting(setting, value)}")
    fields = ("partition", "log_start_offset", "log_end_offset", "size_bytes", "segments")
    rows = [[output.size(p[f]) if f == "size_bytes" else p[f] for f in fields] for p in about["partitions"]]
    columns = ["partition", "start", "end", "size", "segments"]
    if any(
        p["last_stable_offset"] < p["high_watermark"] for p in about["partitions"]
    ):  # a transaction holds readers back
        columns.append("last stable")
        for row, p in zip(rows, about["partitions"], strict=True):
            row.append(p["last_stable_offset"])
    if several:
        columns += ["leader", "replicas", "in sync"]
        for row, p in zip(rows, about["partitions"], strict=True):
            row += [_leader(p["leader"]), _ids(p["replicas"]), _ids(p["isr"])]
    output.say("")
    output.table(columns, rows, left=("replicas", "in sync"))
    output.say("")
    output.say(f"The segments of partition N are in {segments}", style="dim")


@topics.command("alter")
def topic_alter(
    ctx: typer.Context,
    name: TopicName,
    config: Annotated[
        list[str] | None,
        option("--config", "-X", metavar="NAME=VALUE", help="A setting, such as retention_ms=7d; may be repeated."),
    ] = None,
    partitions: Annotated[
        int | None,
        option("--partitions", "-p", metavar="N", min=1, max=10_000, help="Grow to so many partitions."),
    ] = None,
    directory: Directory = None,
    as_json: Json = False,
) -> None:
    """Change settings of a topic, or give it more partitions.

    The other settings stay. With more partitions, later records of a key may go to another partition than earlier ones.
    """
    settings: dict[str, Any] = dict(parse_setting(text, name) for text in config or ())
    if not settings and partitions is None:
        raise ConfigError(f"Nothing to change. Give settings, such as: streamlog topic alter {name} -X retention_ms=7d")
    with open_log(ctx, directory) as log:
        topic = topic_called(log, name)
        before = {**topic.config, "partitions": topic.partitions}
        if partitions is not None and partitions <= topic.partitions:  # before a setting is changed
            raise ConfigError(
                f"Topic {name!r} has {topic.partitions} {plural('partition', topic.partitions)}, and the number can only grow."
            )
        if settings:
            topic.update_config(**settings)
        if partitions is not None:
            topic.add_partitions(partitions)
        after = {**topic.config, "partitions": topic.partitions}
        if wants_json(ctx, as_json):
            output.document(_described(topic))
            return
    changes = {each: value for each, value in after.items() if value != before[each]}
    for each, value in changes.items():
        output.say(f"{each} = {output.setting(each, value)} (was {output.setting(each, before[each])})")
    if not changes:
        output.say(f"Topic {name} has these settings already.")


@topics.command("delete")
def topic_delete(
    ctx: typer.Context,
    names: Annotated[list[str], typer.Argument(metavar="TOPIC", show_default=False, help="The names of the topics.")],
    yes: Yes = False,
    directory: Directory = None,
    as_json: Json = False,
) -> None:
    """Delete topics and all their records."""
    with open_log(ctx, directory) as log:
        for name in names:
            topic_called(log, name)  # none is deleted unless all exist
        confirm(f"Delete {', '.join(names)} and all records?", yes)
        for name in names:
            log.delete_topic(name)
    deleted(names, wants_json(ctx, as_json))


def _settings_that_differ(config: dict[str, Any]) -> dict[str, Any]:
    """The settings that are not the default. That of `segment_ms` and `segment_bytes` depends on the retention."""
    limits = {name: config[name] for name in ("retention_ms", "retention_bytes", "retention_records")}
    defaults = TopicConfig().public()
    derived = TopicConfig(**topic_changes(limits)[0]).public()
    defaults |= {name: derived[name] for name in ("segment_ms", "segment_bytes")}
    return {name: value for name, value in config.items() if value != defaults[name]}


def _leader(broker: int) -> str:
    return "none" if broker < 0 else str(broker)


def _ids(brokers: list[int]) -> str:
    return ", ".join(map(str, brokers))


def _count(described: dict[str, Any]) -> str:
    """The number of records. In a compacted topic it is an upper bound, because offsets have gaps."""
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
                "last_stable_offset": info.last_stable_offset,
                "size_bytes": info.size_bytes,
                "segments": info.segments,
                "leader": info.leader,
                "leader_epoch": info.leader_epoch,
                "replicas": list(info.replicas),
                "isr": list(info.isr),
                "directory": f"topics/{topic.id.hex}-{info.partition}",
            }
            for info in infos
        ],
    }
