"""`streamlog repair`: copy what is not damaged into a new log."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from ..broker.offline.repair import RepairReport
from ..broker.offline.repair import repair as copy_whole
from ..errors import StreamlogError
from . import render as output
from .app import Json, app, message_for_terminal, plural, wants_json
from .inspect import lost_to_the_end_as_null, offsets, progress_bar


@app.command()
def repair(
    ctx: typer.Context,
    path: Annotated[Path, typer.Argument(metavar="PATH", show_default=False, help="Directory of the damaged log.")],
    into: Annotated[
        Path, typer.Argument(metavar="NEW", show_default=False, help="Directory of the new log; it is created.")
    ],
    as_json: Json = False,
) -> None:
    """Copy a damaged log into a new one, and list what is lost.

    PATH is only read. Every batch that verifies keeps its offsets, and groups keep their committed offsets. Of a log of
    several brokers, what is damaged on one of them is taken from another. Exits with 0 if nothing is lost, 1 if something
    is lost, 2 if the copy failed.
    """
    try:
        with progress_bar() as bar:
            task = bar.add_task("repair", total=None)
            report = copy_whole(path, into, progress=lambda done, total: bar.update(task, completed=done, total=total))
    except (StreamlogError, OSError) as error:
        output.fail(message_for_terminal(error))
        raise typer.Exit(2) from error
    if wants_json(ctx, as_json):
        output.document({"ok": report.ok, **asdict(report, dict_factory=lost_to_the_end_as_null)})
    else:
        _show(report)
    if not report.ok:
        raise typer.Exit(1)


def _show(report: RepairReport) -> None:
    for each in report.restored:
        output.say(f"restored: {each}")
    copied = f"{report.records:,} {plural('record', report.records)} copied into {report.into}"
    if report.ok:
        output.say(f"nothing lost: {copied}", style="green")
        return
    problems = len(report.problems)
    output.say(f"{copied}; {problems:,} {plural('problem', problems)}", style="bold red")
    rows = [
        (
            "" if problem.topic is None else f"{problem.topic}-{problem.partition}",
            offsets(problem.offsets_lost) if problem.offsets_lost is not None else "",
            output.size(problem.size_bytes) if problem.size_bytes else "",
            problem.kind,
            str(problem.position),
            problem.path.removeprefix(f"{report.path}/"),
        )
        for problem in report.problems
    ]
    columns = ["partition", "lost", "size", "what", "byte", "file"]
    output.table(columns, rows, left=["partition", "lost", "what", "file"])
    for name in report.recovered:
        output.say(f"The name of a topic is lost. Its records are in the topic {name}.")
