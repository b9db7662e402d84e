"""The command `streamlog`: topics, records and groups of a log from a terminal. Needs the extra `cli`.

- `main`: the entry point. Prints what to install if the extra is missing.
- `app`: what all commands share: the application, its options, opening the log, errors as one line.
- `topics`, `groups`, `transactions`, `brokers`: `streamlog topic …`, `streamlog group …` and `streamlog broker …`.
- `records`: `produce` and `consume`.
- `top`: `streamlog top`, a package. `serve`: `serve`. `inspect`: `verify` and `dump`. `repair`: `repair`.
- `streams`: the standard streams: closed ones, readers that have gone.
- `parse`: from what the user types to offsets, times, settings and records.
- `render`: from values to what the user sees: tables, JSON, records as lines.

`import streamlog` does not import this package, so it loads neither typer nor rich. A session is in `COMMANDS.md`.
"""

from .main import main

__all__ = ["main"]
