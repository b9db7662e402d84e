"""Reading a log that another process owns.

- `published_writer`: the owner's side. It publishes in DIR/published how far each partition may be read.
- `published_reader`: the reader's side of that file, and who owns the directory now.
- `partition`: `TailedPartition`, one partition of such a log. `groups`: its consumer groups, replayed. `transactions`:
  its transactional ids.
- `service`: the Service protocol over such a log; `refusing`: the calls of it that would write.
"""
