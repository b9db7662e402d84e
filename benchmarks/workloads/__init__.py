"""The benchmarks by name, in the order of the table. One module per kind of work."""

from collections.abc import Callable, Iterator

from benchmarks.figures import Row
from benchmarks.run import Run
from benchmarks.workloads import (
    codecs,
    consume,
    durable,
    exactly_once,
    footprint,
    frames,
    handover,
    kafka,
    large_values,
    many,
    produce,
    random_read,
    replication,
    scale,
    sqlite,
    threads,
    together,
)

Benchmark = Callable[[Run], Iterator[Row]]

BENCHMARKS: dict[str, Benchmark] = {
    "send_many": produce.send_many,
    "send_linger": produce.send_linger,
    "send_acknowledged": produce.send_acknowledged,
    "threads": threads.four_threads,
    "sync": durable.send_synced,
    "poll": consume.poll,
    "large_values": large_values.one_kib,
    "handover": handover.producer_to_consumer,
    "replication": replication.cost,
    "replication_latency": replication.latency,
    "idempotence": exactly_once.idempotence,
    "transactions": exactly_once.transactions,
    "read_committed": exactly_once.read_committed,
    "pipe": exactly_once.pipes,
    "kafka_first_record": kafka.first_record,
    "kafka_end_to_end": kafka.end_to_end,
    "kafka_throughput": kafka.throughput,
    "random_read": random_read.random_offsets,
    "scale": scale.flatness,
    "many_topics": many.many_topics,
    "many_partitions": many.many_partitions,
    "many_segments": many.many_segments,
    "many_ahead": many.many_ahead,
    "waking": together.waking,
    "idle": together.idle,
    "linger_late": together.linger_beside_compaction,
    "beside_computing": together.beside_computing,
    "fairness": together.fairness,
    "joining": together.joining,
    "opening": together.opening,
    "import": footprint.import_time,
    "sqlite": sqlite.insert_and_select,
    "arrow": frames.arrow,
    "sql": frames.sql,
    "codecs": codecs.compression,
}
