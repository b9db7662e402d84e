"""What the user holds: the log, topics, producers, consumers, groups.

One record's way in: `producer.send` finds the topic's `route` (serializers, partitioner, limits), puts
the record into the open batch of a `PartitionQueue` (`accumulator`), and whoever fills the batch, or
the linger's end, encodes it once and gives it to the service. A `Delivery` is a batch and an index.

One record's way out: `consumer.poll` hears the group (`membership`), asks the `reader` of each partition
it holds (`assignment`); the reader fetches bytes, `decode` verifies them and builds Records in C.

Only this package blocks, always on a raw lock of its own. It reaches the broker through
`broker/api.py` and nothing else; `engine` is where the two are put together.

- `streamlog`, `engine`: opening, sharing and closing a directory
- `topic`, `producer`, `consumer`, `group`, `workers`: the handles
- `route`, `accumulator`, `delivery`, `partitioner`, `serde`: sending
- `subscription`, `membership`, `assignment`, `reader`, `decode`, `record_batch`: reading
"""
