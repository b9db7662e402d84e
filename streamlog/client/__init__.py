"""The public handles: the log, topics, producers, consumers, groups, workers.

A record is sent by `producer/`: `Producer.send` looks up the topic, puts the record into the open batch of its partition
and returns a `Delivery`. The thread that fills the batch, or the end of the linger, encodes the batch and gives it to the
service. A record is read by `consumer/`: `Consumer.poll` renews the membership, fetches encoded batches from each
partition that is assigned, verifies them and makes Records.

Everything goes through the `Service` of `broker/api.py`, which `broker/opening.py` makes. Only this package blocks: it
waits for the service's Completions on raw locks, so that Ctrl-C ends a wait.

- `streamlog`: the log; `opening`: `open`; `background`, `cleanup`: what the handles of a log share, and closes that are deferred
- `bounded_read`: what `topic.read` reads, as a value that can be begun again
- `time_order`: partitions merged by time, from the front and from the end; `record_tuple`: what `head`, `tail` and `at` of a topic give
- `topic`, `group`, `reassignment`, `producer/producer`, `consumer/consumer`, `workers`, `broker`: the other handles;
  `handle`: what all have in common
- `transaction`: a scope in which records consumed and produced count together. `pipe`: workers that do so for each record
- `replay`: a topic sent to another one by event time
- `record_handler`, `dead_letters`, `handler`: how workers handle a record, and which handlers they accept
- `external_offsets`: offsets in a database of the user's, stored in its transactions
- `worker_time`: their pauses before a retry, and how they follow a clock that a test moves
- `sql`: queries over topics, and what one gives
- `extras`: where their methods find what an extra implements, in packages above this one
- `arguments`, `config_types`: arguments and settings as callers give them; `serde`: keys, values and headers as bytes
- `call_site`: the line of the program that called; `retrying`: calls that wait while a partition has no leader
"""
