"""From a producing thread to a consumer that waits in another thread."""

from collections.abc import Iterator
from queue import SimpleQueue

from benchmarks.figures import Row
from benchmarks.measure import MeasurementError, handover_p50, interleave
from benchmarks.records import records
from benchmarks.run import Run, fresh_topic
from benchmarks.workloads.consume import WAIT_SECONDS


def producer_to_consumer(run: Run) -> Iterator[Row]:
    """One record sent with linger 0 to a consumer that waits in `poll`, beside a put to a waiting get; the best p50."""
    count = run.size(3000, 1000)
    _keys, values = records(count)
    with run.log() as log, fresh_topic(log) as topic:

        def through_streamlog() -> float:
            with log.producer() as producer, log.consumer(topic, auto_offset_reset="latest") as consumer:
                # The first poll of a consumer finds its position; it does not belong to a handover.
                consumer.poll(0.0)

                def take() -> None:
                    if not consumer.poll(WAIT_SECONDS):
                        raise MeasurementError("the waiting consumer was never woken")

                return handover_p50(lambda number: producer.send(topic, values[number]), take, count)

        def through_queue() -> float:
            queue: SimpleQueue[bytes] = SimpleQueue()
            return handover_p50(lambda number: queue.put(values[number]), queue.get, count)

        samples = interleave({"streamlog": through_streamlog, "SimpleQueue": through_queue}, run.rounds)
    ours, peer = (1e6 * min(samples[name]) for name in ("streamlog", "SimpleQueue"))
    yield Row("thread to waiting thread, p50", "µs", ours, "SimpleQueue", peer, 3.0, at_most=True, samples=samples)
