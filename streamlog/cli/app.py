"""What all commands share: the application, the options -d and --json, opening the log, errors as one line."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer
import typer.core

import streamlog

from ..errors import (
    ConfigError,
    FormatError,
    LogLockedError,
    StreamlogError,
    UnknownTopicOrPartitionError,
    did_you_mean,
)
from ..records.core import core
from ..runtime.disk import path_of
from ..types import TopicPartition
from . import render as output
from . import streams

OWNER_FILE = "streamlog.json"
_ORDER = ("topic", "produce", "consume", "group", "transactions", "broker", "top", "serve", "verify", "repair", "dump")


class Commands(typer.core.TyperGroup):
    """The root command. An error of a command becomes one line on stderr and an exit code."""

    def list_commands(self, ctx: Any) -> list[str]:
        return sorted(super().list_commands(ctx), key=_ORDER.index)

    def make_context(self, *arguments: Any, **more: Any) -> Any:
        with _errors_as_one_line():  # --help and --version print here
            return super().make_context(*arguments, **more)

    def invoke(self, ctx: Any) -> Any:
        with _errors_as_one_line():
            return super().invoke(ctx)


@contextmanager
def _errors_as_one_line() -> Iterator[None]:
    try:
        try:
            yield
        finally:
            sys.stdout.flush()  # what cannot be written is an error of the command
        return
    except KeyboardInterrupt:
        code = 130
    except BrokenPipeError:
        streams.abandon(sys.stdout)
        code = streams.BROKEN_PIPE
    except (StreamlogError, OSError) as error:
        with suppress(OSError):  # stderr may be the pipe that broke, or on the disk that is full
            output.fail(message_for_terminal(error))
        code = 1
    raise typer.Exit(code)


# How a library's message names what to do next → what to type.
_TO_TYPE = (
    ("streamlog.verify()", "`streamlog verify`"),
    ("streamlog.repair()", "`streamlog repair PATH NEW`"),
    ("on_corrupt='skip'", "--skip-corrupt"),
    ("into='", "'"),
    ("tls=, or allow_insecure=True", "or --allow-insecure"),
    ("give advertised_host", "give --advertised-host"),
    ("open the log with force=True", "open the log once in Python with streamlog.open(PATH, force=True)"),
    (
        "Open the log by its path, or by all its directories (brokers=[…])",
        "Give the log's directory with -d, or those of all its brokers, each with a -d of its own",
    ),
    ("to read this one alone, open it with read_only=True", "commands that only read work on this one alone"),
    ("to read only, open it with read_only=True", "commands that only read need no more than the right to read it"),
)


def message_for_terminal(error: Exception) -> str:
    """The error's message, with commands and options in place of the library's functions and parameters."""
    if isinstance(error, LogLockedError):
        return in_use(error)
    if isinstance(error, OSError) and not isinstance(error, StreamlogError) and error.filename is None:
        return f"The output could not be written: {error.strerror or type(error).__name__}."
    message = str(error) or type(error).__name__
    for call, command in _TO_TYPE:
        message = message.replace(call, command)
    return message


def in_use(error: LogLockedError) -> str:
    """The message of a log that another process has open."""
    return (
        f"{error.path} is in use by process {error.pid or 'unknown'}, and this command needs the log for itself. Close "
        f"the log there and try again. verify, dump, topic list and describe, group list and describe, transactions list and describe, broker list, top, and consume without "
        f"--group work while the log is in use."
    )


class Defaults(NamedTuple):
    """The options that were given before the command: `streamlog -d data --json topic list`."""

    directories: Sequence[Path] = ()
    as_json: bool = False


app = typer.Typer(
    name="streamlog",
    cls=Commands,
    no_args_is_help=True,
    rich_markup_mode=None,  # rich would draw boxes, which leave half of the width to the text
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Work with the topics, records and consumer groups of a log.",
    epilog="The log's directory is given with -d, before or after the command, or in the environment variable "
    "STREAMLOG_DIR; the default is the current directory. Where the brokers of a log lie apart, -d is repeated for each.",
)


def option(*names: str, help: str, **more: Any) -> Any:
    """An option whose help does not show the default."""
    return typer.Option(*names, help=help, show_default=False, **more)


Directory = Annotated[
    list[Path] | None,
    option("--dir", "-d", metavar="PATH", help="Directory of the log; repeated, those of its brokers."),
]
Json = Annotated[bool, option("--json", help="Print JSON.")]
Yes = Annotated[bool, option("--yes", "-y", help="Do not ask for confirmation.")]
TopicName = Annotated[str, typer.Argument(metavar="TOPIC", show_default=False, help="The name of the topic.")]
Partitions = Annotated[
    list[int] | None, option("--partition", "-p", metavar="N", help="Only this partition; may be repeated.")
]


def _print_version(wanted: bool) -> None:
    if wanted:
        output.say(f"streamlog {streamlog.__version__} ({'pure Python' if core is None else 'core in C'})")
        raise typer.Exit


@app.callback()
def root(
    ctx: typer.Context,
    directory: Directory = None,
    as_json: Json = False,
    version: Annotated[
        bool,
        option(
            "--version",
            callback=_print_version,
            is_eager=True,
            help="Print the version, and whether the core in C is in use, and exit.",
        ),
    ] = False,
) -> None:
    named = os.environ.get("STREAMLOG_DIR")
    ctx.obj = Defaults(directory or ([Path(named)] if named else []), as_json)


def wants_json(ctx: typer.Context, as_json: bool) -> bool:
    return as_json or ctx.obj.as_json


def log_path(ctx: typer.Context, directories: Sequence[Path] | None) -> Path:
    """The log's directory, for a command that takes one."""
    path, *others = log_paths(ctx, directories)
    if others:
        raise ConfigError("This command takes one directory: give -d once.")
    return path


def log_paths(ctx: typer.Context, directories: Sequence[Path] | None, *, create: bool = False) -> list[Path]:
    """The log's directory, or those of its brokers. The default is the current directory if a log is in it, or with `create` if it
    is empty.
    """
    paths: list[Path] = list(directories or ctx.obj.directories)
    for path in paths:
        path_of(path)  # refuses a URL
    if not paths:
        path = Path(".")
        if not is_log(path):
            no_log = "There is no log in the current directory"
            if not create:
                raise ConfigError(f"{no_log}. Give the log's directory with -d PATH, or in STREAMLOG_DIR.")
            if any(path.iterdir()):
                raise ConfigError(
                    f"{no_log}, and other files are in it. Create the log in a directory of its own, given with -d PATH "
                    f"or in STREAMLOG_DIR."
                )
        paths = [path]
    return paths


def is_log(path: Path) -> bool:
    """Whether a log is in `path`, of one broker or of several."""
    return (path / OWNER_FILE).exists() or any(path.glob(f"broker-*/{OWNER_FILE}"))


def what_is_there(path: Path) -> str:
    """Why no log can be in `path`: a sentence for a message, or an empty text if it is a directory."""
    if not path.exists():
        return f"{path} does not exist"
    return "" if path.is_dir() else f"{path} is a file, and a log is a directory"


def open_log(
    ctx: typer.Context,
    directory: Sequence[Path] | None,
    *,
    create: bool = False,
    read_only: bool = False,
    brokers: int | None = None,
) -> streamlog.StreamLog:
    """Open the log. `read_only`: the command only reads, so it works while another process has the log open.

    `brokers`: how many a log that is created has.
    """
    path, *others = paths = log_paths(ctx, directory, create=create)
    is_new = not any(map(is_log, paths))
    if is_new and path.exists() and not path.is_dir():
        raise FormatError(f"{what_is_there(path)}. Give the log's directory with -d.", path=str(path))
    if is_new and not create:
        raise FormatError(
            f"There is no log in {path}. Give another directory with -d, or create a log with its first topic: "
            f"streamlog -d {path} topic create NAME",
            path=str(path),
        )
    if others:
        log = streamlog.open(read_only=read_only, brokers=paths)
    else:
        log = streamlog.open(path, read_only=read_only, brokers=brokers if is_new else None)
    if is_new:
        count = len(paths) if others else brokers or 1
        of_several = f" of {count} brokers" if count > 1 else ""
        where = "the current directory" if path == Path(".") else ", ".join(map(str, paths))
        output.say(f"Created a log{of_several} in {where}.", stderr=True)
    return log


def topic_called(log: streamlog.StreamLog, name: str) -> streamlog.Topic[Any, Any]:
    """The topic. Raises UnknownTopicOrPartitionError with the command that creates it."""
    if name not in log:
        hint = did_you_mean(name, log) or f"; create it with: streamlog topic create {name}"
        raise UnknownTopicOrPartitionError(f"There is no topic {name!r}{hint}.", topic=name)
    return log[name]


def places_in(topic: streamlog.Topic[Any, Any], numbers: Iterable[int] | None) -> list[TopicPartition]:
    """The partitions with these numbers; all partitions of the topic if there are none."""
    count = topic.partitions
    wanted = sorted(set(numbers or range(count)))
    for number in wanted:
        if not 0 <= number < count:
            there = f"{count} {plural('partition', count)}, numbered from 0"
            raise UnknownTopicOrPartitionError(f"Topic {topic.name!r} has no partition {number}: it has {there}.")
    return [TopicPartition(topic.name, number) for number in wanted]


def confirm(question: str, yes: bool) -> None:
    """Ask for confirmation if a person types: stdin and stderr are terminals."""
    if not yes and sys.stdin.isatty() and sys.stderr.isatty():
        try:
            typer.confirm(question, abort=True, err=True)
        except typer.Abort as abort:  # which click makes of Ctrl-C too
            if isinstance(abort.__context__, KeyboardInterrupt):
                raise KeyboardInterrupt from None
            raise


def deleted(names: Iterable[str], as_json: bool) -> None:
    if as_json:
        output.document({"deleted": list(names)})
    else:
        output.say(f"Deleted {', '.join(names)}.")


def plural(word: str, count: int) -> str:
    return word if count == 1 else word + "s"
