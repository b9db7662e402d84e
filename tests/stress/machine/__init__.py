"""A random machine over the whole public API, on disks that fail and machines that crash.

    python -m tests.stress.machine --seeds 10000 --seed 1      # the long run
    python -m tests.stress.machine --seed 17                   # one seed, printed step by step
    python -m tests.stress.machine --seed 17 --keep 3,8-11     # some of its operations, as a shrunk failure names them

A seed gives a list of operations, made before the first one is done. Each has a random source of its own, from which it
takes its choices (which topic, which member, how many records) when it is done, so operations can be left out and the
others stay what they are: that is how a failure shrinks. Everything runs on one thread under a `ManualClock`, on a
`SimulatedDisk` below a disk that fails, with ids from the seed; workers, which are threads, take turns in an order that
the seed decides. So a seed does the same every time.

Any operation may meet a fault of the disk (an errno at the Nth call of a kind, on some kind of file, for one operation or
for several; a short write; a disk that is full) and may be the last one of its process: the machine is then put as a
kill or a power loss left it at some disk call *within* that operation.

The model knows what was **sent** (every record carries a number), what was **acknowledged**, **handed out**,
**committed** and **refused**:

- A record that was acknowledged has the offset it was acknowledged at, for ever; every read of an offset gives the same
  record; nothing is stored that was never sent; nothing twice; a producer's records keep their order. A kill loses
  nothing acknowledged, a power loss nothing that was acknowledged with `sync=True` or before `log.sync()`. What was
  refused, or sent when the process died, may be stored or not.
- The log starts where `delete_records` or the topic's retention allows it to, and nowhere else. Compaction takes only
  records that a later one of their key replaced, and tombstones.
- Topics, their settings and their partitions are what the last call that returned made them; a refused change is void,
  a change in which the process died was made whole or not at all.
- A group's committed offset is the last one that was committed; it never goes back unless it is told to, never lies
  beyond the log's end, and no record that is still there and was never handed out lies before it. A record that was
  finished is not handed out again unless something disturbed the group.
- `verify` says ok, and says so no more when a byte of a closed log was changed; `repair` copies all that is whole.
- Every error is a `StreamlogError` that says something, and none comes where the disk has not failed, but for those that
  a call asks for.

An operation in which the process is to die is **doomed**: what it sends and tries counts as tried, and nothing that it is
told counts as a promise, because the crash may have come before. The next open shows which of it came to be.

- `operations`: what a seed is made of; `program`: does it, crashes, opens again
- `model`: what must be so; `checker`: whether it is
- `topics`, `producers`, `members`, `workers`, `followers`, `offline`: the operations, by what they use
- `turns`: threads that take turns; `repeatable`: time, ids and orders that are the same every time; `shrink`: fewer
  operations that still fail
"""
