"""Sending: from `Producer.send` to an encoded batch that the service appends, and the Delivery with its outcome.

- `producer`: the handle, and `send`. `send_many`: the columns of one call, checked and cut into batches.
- `topic_cache`: what a send needs to know of a topic: serializers, limits, `partitioner`, queues.
- `accumulator`: all queues of a producer, their memory, lingers and failed records. `partition_queue`: the batches of one
  partition, and their writing. `writer_turns`: which thread writes them. `sequences`: those of an idempotent producer. `transaction`: those of a
  transactional one. `owner`: what a queue needs of its producer. `batch`: records that will be written
  together. `errors`: what was not sent in time.
- `delivery`: the outcome of records, as the program sees it.

A module imports those below it; `batch` and `delivery` know their queue by a protocol. Locks are taken in this order: the
cache's, a queue's `draining` or `_completing`, a queue's `lock`, the accumulator's. Users' code runs under none but the
first, and a partitioner under a lock of its own.
"""
