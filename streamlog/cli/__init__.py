"""The command `streamlog`: a log's topics, records and groups from a terminal. Needs the extra `cli`.

- `main`: the entry point, which says so when the extra is missing.
- `app`: what the commands share: the application, opening the log, errors as one line.
- `records`: produce and consume; `topics`: topics and groups.
- `inspect`, `repair`: verify and dump; repair.
- `parse`: what a user types: offsets and times, settings, lines that become records.
- `render`: what a user sees: tables, JSON, records as lines.

`import streamlog` never imports these, so it never loads typer or rich.
"""

from .main import main

__all__ = ["main"]
