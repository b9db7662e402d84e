"""Sending: from `producer.send` to an encoded batch that the service appends, and the Delivery that tells the outcome.

- `producer`: the handle.
- `topic_cache`, `routes`: what a send needs to know of a topic: serializers, partitioner, limits.
- `accumulator`: the producer's memory and its queues; `partition_queue`: the open batch of one partition.
- `send_many`: many records in one call. `batch`, `delivery`: records that are not in the log yet, and their outcome.
- `partitioner`: which partition a key goes to.
"""
