"""What the user holds: the log, topics, producers, consumers, groups.

One record's way in: `producer.send` finds the topic's `route` (serializers, partitioner, limits), puts
the record into the open batch of a `PartitionQueue` (`accumulator`), and whoever fills the batch, or
the linger's end, encodes it once and gives it to the service. A `Delivery` is a batch and an index.

One record's way out: `Consumer.poll` has its `coordinator` look at the group, then asks the `fetcher` of each assigned
partition (`subscription_state`); the fetcher gets bytes, `decode` verifies them and builds Records in C.

Only this package blocks, always on a raw lock of its own. It reaches the broker through
`broker/api.py` and nothing else, which `broker/opening.py` gives them.

- `streamlog`, `background`: opening, sharing and closing a log; what its handles share
- `topic`, `producer`, `consumer/`, `group`, `workers`: the handles
- `route`, `routes`, `batch`, `accumulator`, `outbox`, `bulk`, `delivery`, `partitioner`, `serde`: sending
- `cleanup`: work left for later, for objects that were collected, or closed in the middle of a call
- `options`: settings as callers give them; `handle`: what all handles have in common
"""
