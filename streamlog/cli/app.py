"""What every command shares: the application, the options -d and --json, opening the log, errors as one line."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from importlib.metadata import version as package_version
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer
import typer.core

import streamlog

from ..errors import ConfigError, FormatError, StreamlogError, UnknownTopicOrPartitionError, did_you_mean
from ..types import TopicPartition
from . import render as output

OWNER_FILE = "streamlog.json"
_ORDER = ("topic", "produce", "consume", "group", "verify", "repair", "dump")


class Commands(typer.core.TyperGroup):
    """The root: every command's errors become one line on stderr and an exit code."""

    def list_commands(self, ctx: Any) -> list[str]:
        return sorted(super().list_commands(ctx), key=_ORDER.index)

    def invoke(self, ctx: Any) -> Any:
        try:
            try:
                return super().invoke(ctx)
            finally:
                sys.stdout.flush()  # here a broken pipe is still told from an error, at exit no longer
        except KeyboardInterrupt:
            code = 130
        except BrokenPipeError:
            _abandon_stdout()
            code = 141
        except (StreamlogError, OSError) as error:
            output.fail(str(error) or type(error).__name__)
            code = 1
        raise typer.Exit(code)


def _abandon_stdout() -> None:
    """Nobody reads any more: what is buffered would raise again when the interpreter flushes it."""
    try:
        sys.stdout.close()
    except OSError:
        return


class Defaults(NamedTuple):
    """What was given before the command: `streamlog -d data --json topic list`."""

    directory: Path | None = None
    as_json: bool = False


app = typer.Typer(
    name="streamlog",
    cls=Commands,
    no_args_is_help=True,
    rich_markup_mode=None,  # boxes leave the text of a long help half of the width
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Topics, records and consumer groups of a log in a directory.",
    epilog="The log is in -d PATH, given before or after the command; else in STREAMLOG_DIR; "
    "else in the current directory.",
)


def option(*names: str, help: str, **more: Any) -> Any:
    """An option whose default says nothing to a reader of the help, so it is not shown there."""
    return typer.Option(*names, help=help, show_default=False, **more)


Directory = Annotated[Path | None, option("--dir", "-d", metavar="PATH", help="The log's directory.")]
Json = Annotated[bool, option("--json", help="Write JSON.")]
Yes = Annotated[bool, option("--yes", "-y", help="Do not ask.")]
TopicName = Annotated[str, typer.Argument(metavar="TOPIC", show_default=False)]
Partitions = Annotated[
    list[int] | None, option("--partition", "-p", metavar="N", help="Only this one; may be repeated.")
]


def _print_version(wanted: bool) -> None:
    if wanted:
        output.say(f"streamlog {package_version('streamlog')}")
        raise typer.Exit


@app.callback()
def root(
    ctx: typer.Context,
    directory: Annotated[
        Path | None,
        option("--dir", "-d", metavar="PATH", envvar="STREAMLOG_DIR", help="The log's directory."),
    ] = None,
    as_json: Json = False,
    version: Annotated[
        bool, option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    ctx.obj = Defaults(directory, as_json)


def wants_json(ctx: typer.Context, as_json: bool) -> bool:
    return as_json or ctx.obj.as_json


def log_path(ctx: typer.Context, directory: Path | None) -> Path:
    """The directory that was asked for; the current one only if it is a log: none is ever made there unasked."""
    path: Path | None = directory or ctx.obj.directory
    if path is None:
        if not Path(OWNER_FILE).exists():
            raise ConfigError("Which log? Give its directory with -d PATH or in STREAMLOG_DIR.")
        path = Path(".")
    return path


def open_log(
    ctx: typer.Context, directory: Path | None, *, create: bool = False, read_only: bool = False
) -> streamlog.StreamLog:
    """The log; `read_only` for a command that only reads, which then works beside the log's owner, and changes nothing."""
    path = log_path(ctx, directory)
    if not create and not (path / OWNER_FILE).exists():
        raise FormatError(
            f"There is no log in {path}. Give another directory with -d, or make one with its first topic: "
            f"streamlog -d {path} topic create NAME",
            path=str(path),
        )
    return streamlog.open(path, read_only=read_only)


def topic_called(log: streamlog.StreamLog, name: str) -> streamlog.Topic[Any, Any]:
    """The topic, or an error that says what to type where the library's says what to call."""
    if name not in log:
        hint = did_you_mean(name, log) or f"; create it with: streamlog topic create {name}"
        raise UnknownTopicOrPartitionError(f"There is no topic {name!r}{hint}.", topic=name)
    return log[name]


def places_in(topic: streamlog.Topic[Any, Any], numbers: Iterable[int] | None) -> list[TopicPartition]:
    """The partitions with these numbers, or all of them."""
    count = topic.partitions
    wanted = sorted(set(numbers or range(count)))
    for number in wanted:
        if not 0 <= number < count:
            there = f"{count} {plural('partition', count)}, counted from 0"
            raise UnknownTopicOrPartitionError(f"Topic {topic.name!r} has no partition {number}: it has {there}.")
    return [TopicPartition(topic.name, number) for number in wanted]


def confirm(question: str, yes: bool) -> None:
    """Ask a person; a script is taken at its word."""
    if not yes and sys.stdin.isatty() and sys.stderr.isatty():
        typer.confirm(question, abort=True, err=True)


def deleted(names: Iterable[str], as_json: bool) -> None:
    if as_json:
        output.document({"deleted": list(names)})
    else:
        output.say(f"Deleted {', '.join(names)}.")


def plural(word: str, count: int) -> str:
    return word if count == 1 else word + "s"
