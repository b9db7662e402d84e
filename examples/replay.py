"""Records stay after they are read: read again by offset or by time, and let a group process some of them again.

    python examples/replay.py

A thermometer reports each minute. A group that processes the readings had a bug for a while. It is reset to the time at
which the bug appeared, and processes the same records again.
"""

from datetime import UTC, datetime, timedelta

import streamlog

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
READINGS = 60
BUG_SINCE = NOON + timedelta(minutes=40)


def as_ms(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)


def main() -> None:
    with streamlog.open() as log:
        topic = log.create_topic("temperature")
        topic.send_many(
            [str(minute % 7) for minute in range(READINGS)],
            timestamps_ms=[as_ms(NOON + timedelta(minutes=minute)) for minute in range(READINGS)],
        )

        by_offset = list(topic.read(0, start=10, end=13))
        print("offsets 10 to 12 (the end is exclusive):")
        for record in by_offset:
            print(f"  offset {record.offset}  {record.datetime:%H:%M}  {record.value.decode()} degrees")

        by_time = list(topic.read(0, start=NOON + timedelta(minutes=30), end=NOON + timedelta(minutes=33)))
        print("12:30 until 12:33:")
        for record in by_time:
            print(f"  offset {record.offset}  {record.datetime:%H:%M}  {record.value.decode()} degrees")

        group = log.group("sums")

        def work() -> list[int]:
            with log.consumer(topic, group="sums") as consumer:
                return [int(record.value) for record in consumer.until_end()]

        first = work()
        nothing = work()
        print(f"the group processed {len(first)} readings, and then, because it has committed them, {len(nothing)}")

        group.reset(topic, to=BUG_SINCE)
        print(f"reset to {BUG_SINCE:%H:%M}, it lags by {sum(group.lag().values())}")
        again = work()
        print(f"and processed {len(again)} again")

    assert [record.offset for record in by_offset] == [10, 11, 12]
    assert [record.offset for record in by_time] == [30, 31, 32]
    assert (len(first), nothing, again) == (READINGS, [], first[40:])


if __name__ == "__main__":
    main()
