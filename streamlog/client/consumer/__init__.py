"""Reading: from the topics a consumer subscribes to, to the records that `poll` and an iteration return.

A `Consumer` is made of parts. Each has its own state; they share two locks, which are explained in `access`.

- `consumer`: the handle, and how it waits on a thread of the program.
- `core`: what a consumer does in a step, and what it waits for after one; without I/O, locks and threads. A step is
  `coordinator.poll()` and then a fetch. `procedure`: work that may have to wait, as the core steps it.
- `driver`: runs the core on the threads of the program. `access`: the two locks, and which thread may use the consumer now.
- `subscription_state`: the subscription, the assigned partitions, positions, paused partitions, records in hand.
  `subscription`: topics, patterns or partitions as the program names them.
- `coordinator`: the consumer's side of its group: join, revoke, take over, commit, leave. `listener`: called for it.
  `membership`: one member's heartbeats, and the members of this process.
- `transactional`: a consumer whose offsets are committed by the transactions of a producer; `group_offsets`: what they commit.
- `offsets`: where partitions begin and end, what is committed, where reading starts.
- `fetcher`: fetches one partition. `decode`, `record_batch`: bytes as Records, and as columns.

`Topic.read` uses `fetcher` and what is below it.
"""
