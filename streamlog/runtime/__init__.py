"""Files, time and threads: the only package that uses os, time, threading, socket and mmap.

- `api`: the protocols that all other packages use instead, and `Completion`.
- `disk`: the real files and directories. `owned_disk`: the same for the owner of a directory, guarded against a
  replacement of the directory. `directory_lock`: who may write to a directory. `disk_errors`: whether an OSError came
  from the disk.
- `threads`: locks, gates, waiting, the background thread. `exits`: callbacks at the end of the interpreter.
- `sockets`: sockets to listen at, and a forked child's copies of them.
- `keyboard`: the keys of a terminal, as they are typed, and one wait for them, for a time, and for signals.
- `interpreter_lock`: refuses a Python that runs without its lock. `FREE_THREADING.md` lists what rests on that lock.
- `installation`: another distribution that ships a package of this name.
- `values`: refusal of copy and pickle. `lazy`: names of a package that are imported when they are first used.

Nothing here calls the packages above while it holds a lock.
"""
