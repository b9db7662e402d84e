"""Reading a log that another process owns.

- `service`: the Service protocol over such a log; `refusing`: its answer to what would write.
- `published_writer`: the owner's side: how far others may read, in DIR/published. `published_reader`: the reader's.
- `groups`: the groups of such a log, replayed.
"""
