"""What the user holds: the log, topics, producers, consumers, groups.

One record's way in: `producer.send` finds the topic's `route` (serializers, partitioner, limits), puts
the record into the open batch of a `PartitionQueue` (`accumulator`), and whoever fills the batch, or
the linger's end, encodes it once and gives it to the service. A `Delivery` is a batch and an index.

One record's way out: `consumer.poll` hears the group (`membership`), asks the `reader` of each partition
it holds (`assignment`); the reader fetches bytes, `decode` verifies them and builds Records in C.

Only this package blocks, always on a raw lock of its own. It reaches the broker through
`broker/api.py` and nothing else, which `broker/opening.py` gives them.

- `streamlog`, `background`: opening, sharing and closing a log; what its handles share
- `topic`, `producer`, `consumer`, `group`, `workers`: the handles
- `route`, `routes`, `batch`, `accumulator`, `outbox`, `bulk`, `delivery`, `partitioner`, `serde`: sending
- `reading`, `sharing`, `positions`: what a consumer is made of, from the bottom up
- `subscription`, `membership`, `assignment`, `reader`, `decode`, `record_batch`: what those use
- `options`: settings as callers give them; `handle`: what all handles have in common
"""
