"""Follow a topic as it grows, in threads of your own, and stop them cleanly.

    python examples/follow.py

`for record in consumer` waits for more records and does not end by itself. `consumer.stop()`, which any thread and any
signal handler may call, ends the loop after the present record. Consumers without a group each get every record: here
two read the same topic.
"""

import threading

import streamlog

LINES = [f"line {number}" for number in range(1, 6)]


def main() -> None:
    seen: dict[str, list[str]] = {"screen": [], "archive": []}
    everything = {name: threading.Event() for name in seen}

    def follow(name: str, consumer: streamlog.Consumer) -> None:
        with consumer:
            for record in consumer:
                seen[name].append(record.value.decode())
                print(f"  {name:<8} {seen[name][-1]}")
                if len(seen[name]) == len(LINES):
                    everything[name].set()

    with streamlog.open() as log:
        topic = log.create_topic("console")
        consumers = {name: log.consumer(topic) for name in seen}
        threads = [threading.Thread(target=follow, args=item) for item in consumers.items()]
        for thread in threads:
            thread.start()
        for line in LINES:
            topic.send(line)

        arrived = all(event.wait(timeout=10) for event in everything.values())
        for consumer in consumers.values():
            consumer.stop()
        for thread in threads:
            thread.join(timeout=10)

    assert arrived, seen
    assert seen == {"screen": LINES, "archive": LINES}, seen
    assert not any(thread.is_alive() for thread in threads)
    print("Both saw every line, in order, and both stopped.")


if __name__ == "__main__":
    main()
