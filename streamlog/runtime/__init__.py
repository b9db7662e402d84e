"""The doors to the world: the only users of os, time, threading and mmap.

- `api`: the protocols that everything above is handed, and `Completion`.
- `disk`: files and directories as they really are.
- `threads`: locks, gates, the background thread, exit and fork.

No lock is held in here while anything above is called.
"""
