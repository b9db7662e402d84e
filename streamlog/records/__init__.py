"""One batch of records as bytes: what is written, replicated, fetched and verified.

- `batch`: the header that every batch begins with, and the checksums that show that it is whole and in its place.
- `columns`: payload form 0, one msgpack array per column. `kafka_v2`: payload form 1, a Kafka record batch as it came.
- `kafka_wire`: a Kafka client's batch is checked and sealed, and a stored batch of any form is served as one.
- `decode`: the one way from a verified batch to its columns, whatever its form.
- `single`: a batch of one record, encoded directly. `control`: the markers that end transactions.
- `compression`: the codecs, by Kafka's numbers.
- `core`: what of this is done in C instead, where `streamlog/_core.c` was built.

All are pure functions of their arguments. Batches are made by `client/producer/batch.py`,
stamped with their offsets by `storage/log.py`, and decoded by `client/consumer/decode.py` only when a reader
wants records. `storage/FORMAT.md` describes the bytes without this code.
"""
