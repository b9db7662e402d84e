"""`streamlog transactions …`: list and describe what is open, and abort what hangs."""

from __future__ import annotations

import contextlib
from typing import Annotated, Any

import typer

import streamlog

from ..errors import InvalidTxnStateError, LogLockedError, StreamlogError, did_you_mean
from . import render as output
from .app import Directory, Json, Yes, app, confirm, open_log, wants_json

transactions = typer.Typer(no_args_is_help=True, help="List, describe and abort transactions.")
app.add_typer(transactions, name="transactions")

TransactionalId = Annotated[
    str, typer.Argument(metavar="ID", show_default=False, help="The transactional id of the producer.")
]


@transactions.command("list")
def transactions_list(ctx: typer.Context, directory: Directory = None, as_json: Json = False) -> None:
    """List the transactions that are open, or decided and not complete, the oldest first."""
    with open_log(ctx, directory, read_only=True) as log:
        found = sorted(log.transactions(), key=lambda each: -each.age_ms)
    if wants_json(ctx, as_json):
        output.document([_described(each) for each in found])
    else:
        rows = [
            (e.transactional_id, e.state, e.producer_id, e.producer_epoch, _age(e), len(e.partitions)) for e in found
        ]
        titles = ("id", "state", "producer", "epoch", "age", "partitions")
        output.table(titles, rows, left=("id", "state"))


@transactions.command("describe")
def transactions_describe(
    ctx: typer.Context, name: TransactionalId, directory: Directory = None, as_json: Json = False
) -> None:
    """Show an open transaction, and where each of its partitions is held back by it."""
    with open_log(ctx, directory, read_only=True) as log:
        found = _called(log, name)
        ends = []
        for topic, number in sorted(found.partitions):
            about = log.topic(topic).partition(number)
            ends.append((topic, number, about.last_stable_offset, about.high_watermark))
    if wants_json(ctx, as_json):
        names = ("topic", "partition", "last_stable_offset", "high_watermark")
        output.document({**_described(found), "partitions": [dict(zip(names, row, strict=True)) for row in ends]})
        return
    output.say(
        f"{output.name_of(name)}  {found.state}, producer {found.producer_id} with epoch {found.producer_epoch}, open for {_age(found)}"
    )
    output.table(("topic", "partition", "last stable", "high watermark"), ends, left=("topic",))


@transactions.command("abort")
def transactions_abort(
    ctx: typer.Context, name: TransactionalId, yes: Yes = False, directory: Directory = None, as_json: Json = False
) -> None:
    """Abort an open transaction, and fence its producer.

    Opening the log does so with those of processes that have ended. While one has the log open, only it can: by
    log.abort_transaction.
    """
    with open_log(ctx, directory, read_only=True) as log:
        found = _called(log, name)
        before = {each.transactional_id for each in log.transactions()} - {name}
    if found.state == "PrepareCommit":
        raise StreamlogError(
            f"The transaction of {name!r} is committed, so it cannot be aborted: it is complete once the log is open."
        )
    confirm(f"Abort the transaction of {name}?", yes)
    try:
        log = open_log(ctx, directory)
    except LogLockedError as error:
        raise StreamlogError(
            f"{error.path} is in use by process {error.pid or 'unknown'}, so that process alone can abort the transaction: by "
            f"log.abort_transaction({name!r}), by ending, or after the transaction's timeout."
        ) from error
    with log:
        with contextlib.suppress(InvalidTxnStateError):  # the open has aborted it, or completed it
            log.abort_transaction(name)
        ended = sorted(before - {each.transactional_id for each in log.transactions()})
    if wants_json(ctx, as_json):
        output.document({"aborted": name, "ended_by_opening": ended})
        return
    output.say(f"Aborted the transaction of {name}.")
    if ended:
        output.say(f"Opening the log has ended those of processes that are gone, too: {', '.join(ended)}.")


def _called(log: streamlog.StreamLog, name: str) -> streamlog.TransactionInfo:
    known = {each.transactional_id: each for each in log.transactions()}
    if name not in known:
        there = f". Open are those of: {', '.join(map(repr, sorted(known)))}" if known else "; none is open"
        raise StreamlogError(f"There is no open transaction of {name!r}{did_you_mean(name, known) or there}.")
    return known[name]


def _described(found: streamlog.TransactionInfo) -> dict[str, Any]:
    return {**found._asdict(), "partitions": [each._asdict() for each in sorted(found.partitions)]}


def _age(found: streamlog.TransactionInfo) -> str:
    return f"{found.age_ms / 1000:,.1f} s"
