"""The anonymous resident memory of a process that opens a log, reads its end and follows it."""

import json
import sys

import streamlog

LAST_RECORDS = 100_000
NEW_RECORDS = 1_000


def rss_anon() -> int:
    """KiB of anonymous memory of this process: without mapped files and page cache."""
    with open("/proc/self/status", encoding="ascii") as status:
        for line in status:
            if line.startswith("RssAnon:"):
                return int(line.split()[1])
    raise OSError("/proc/self/status has no RssAnon: this measurement needs Linux")


def main(path: str, topic: str) -> None:
    """Print RssAnon in KiB after the import, after tailing, and at its greatest."""
    imported = peak = rss_anon()
    partition = streamlog.TopicPartition(topic, 0)
    with streamlog.open(path) as log, log.consumer() as consumer, log.producer() as producer:
        consumer.assign([partition])
        end = consumer.end_offsets([partition])[partition]
        consumer.seek(partition, max(0, end - LAST_RECORDS))
        while consumer.position(partition) < end:
            consumer.poll(10.0)
            peak = max(peak, rss_anon())
        for number in range(NEW_RECORDS):
            producer.send(topic, b"%0100d" % number, b"%08d" % number)
            consumer.poll(10.0)
        tailed = rss_anon()
        if consumer.position(partition) != end + NEW_RECORDS:
            raise RuntimeError(f"the consumer is at {consumer.position(partition)}, not at {end + NEW_RECORDS}")
    print(json.dumps({"imported": imported, "tailed": tailed, "peak": max(peak, tailed)}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
