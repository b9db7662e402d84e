"""aiokafka in the scenarios of the package's docstring: with_aiokafka.py BOOTSTRAP SCENARIO VARIANT."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRebalanceListener, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.coordinator.assignors.range import RangePartitionAssignor
from aiokafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor
from aiokafka.coordinator.assignors.sticky.sticky_assignor import StickyPartitionAssignor
from common import COMMITTED, COUNT, FIRST_MS, HOWS, WAIT_S, check_read, key, main, value

ASSIGNORS = {
    "range": RangePartitionAssignor,
    "roundrobin": RoundRobinPartitionAssignor,
    "sticky": StickyPartitionAssignor,
}


async def create(servers: str, topic: str, partitions: int = 1) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=servers)
    await admin.start()
    await admin.create_topics([NewTopic(topic, partitions, 1)])
    await admin.close()


async def read(servers: str, topic: str, count: int, isolation: str = "read_committed") -> list[Any]:
    consumer = AIOKafkaConsumer(
        bootstrap_servers=servers, isolation_level=isolation, auto_offset_reset="earliest", enable_auto_commit=False
    )
    await consumer.start()
    consumer.assign([TopicPartition(topic, 0)])
    found = [await asyncio.wait_for(consumer.getone(), WAIT_S) for _ in range(count)]
    await consumer.stop()
    return found


async def codecs(servers: str, codec: str) -> None:
    topic = f"codec-{codec}"
    await create(servers, topic)
    producer = AIOKafkaProducer(
        bootstrap_servers=servers, compression_type=None if codec == "none" else codec, linger_ms=50
    )
    await producer.start()
    sent = [await producer.send(topic, value(n), key(n), 0, FIRST_MS + n, [("n", b"%d" % n)]) for n in range(COUNT)]
    await asyncio.gather(*sent)
    await producer.stop()
    check_read((m.offset, m.timestamp, m.key, m.value, dict(m.headers)) for m in await read(servers, topic, COUNT))


async def transactions(servers: str, variant: str) -> None:
    for topic in ("tx", "tx-in", "tx-out"):
        await create(servers, topic)
    async with AIOKafkaProducer(bootstrap_servers=servers, transactional_id="t") as producer:
        for how in HOWS:
            await producer.begin_transaction()
            for n in range(10):
                await producer.send_and_wait("tx", f"{how} {n}".encode())
            await (producer.abort_transaction if how == "aborted" else producer.commit_transaction)()
    assert [m.value for m in await read(servers, "tx", 20)] == COMMITTED
    assert (await read(servers, "tx", 30, "read_uncommitted"))[10].value == b"aborted 0"

    async with AIOKafkaProducer(bootstrap_servers=servers) as plain:
        for n in range(10):
            await plain.send_and_wait("tx-in", b"%d" % n)
    consumer = AIOKafkaConsumer(
        "tx-in", bootstrap_servers=servers, group_id="tx-group", enable_auto_commit=False, auto_offset_reset="earliest"
    )
    async with consumer, AIOKafkaProducer(bootstrap_servers=servers, transactional_id="pipe") as pipe:
        done = 0
        while done < 10:
            for partition, records in (await consumer.getmany(timeout_ms=200)).items():
                async with pipe.transaction():
                    for record in records:
                        await pipe.send("tx-out", b"out " + record.value)
                    done += len(records)
                    await pipe.send_offsets_to_transaction({partition: done}, "tx-group")
    assert (await read(servers, "tx-out", 10))[9].value == b"out 9"


class Member(ConsumerRebalanceListener):
    def __init__(self, servers: str, topic: str, group: str, variant: str, values: list[int]) -> None:
        self.assigned: set[int] = set()
        self._values = values
        self._consumer = AIOKafkaConsumer(
            bootstrap_servers=servers, group_id=group, enable_auto_commit=False, auto_offset_reset="earliest",
            heartbeat_interval_ms=200, partition_assignment_strategy=[ASSIGNORS[variant]],
        )  # fmt: skip
        self._consumer.subscribe([topic], listener=self)
        self._stops = False
        self._task = asyncio.create_task(self._run())

    async def on_partitions_assigned(self, assigned: list[TopicPartition]) -> None:
        self.assigned |= {each.partition for each in assigned}

    async def on_partitions_revoked(self, revoked: list[TopicPartition]) -> None:
        self.assigned -= {each.partition for each in revoked}

    async def _run(self) -> None:
        await self._consumer.start()
        while not self._stops:
            for partition, records in (await self._consumer.getmany(timeout_ms=100)).items():
                self._values += [int(each.value) for each in records]
                await self._consumer.commit({partition: records[-1].offset + 1})
        await self._consumer.stop()

    async def stop(self) -> None:
        self._stops = True
        await asyncio.wait_for(self._task, WAIT_S)


async def until(what: str, holds: Callable[[], bool]) -> None:
    async def wait() -> None:
        while not holds():
            await asyncio.sleep(0.02)

    try:
        await asyncio.wait_for(wait(), WAIT_S)
    except TimeoutError:
        raise AssertionError(f"it never came to be that {what}") from None


async def group(servers: str, variant: str) -> None:
    topic, name = f"shared-{variant}", f"group-{variant}"
    await create(servers, topic, 4)
    values: list[int] = []
    async with AIOKafkaProducer(bootstrap_servers=servers) as producer:
        a, b = (Member(servers, topic, name, variant, values) for _ in range(2))
        await until("each has two partitions", lambda: len(a.assigned) == 2 == len(b.assigned))
        for n in range(40):
            await producer.send_and_wait(topic, b"%d" % n, partition=n % 4)
        await until("all 40 are handled", lambda: len(values) >= 40)
        await b.stop()
        for n in range(40, 80):
            await producer.send_and_wait(topic, b"%d" % n, partition=n % 4)
        await until("all 80 are handled", lambda: len(values) >= 80)
        assert len(a.assigned) == 4, a.assigned
        await a.stop()
    assert sorted(values) == list(range(80)), values
    async with AIOKafkaConsumer(bootstrap_servers=servers, group_id=name) as consumer:
        offsets = [await consumer.committed(TopicPartition(topic, n)) for n in range(4)]
    assert sum(offsets) == 80, offsets


def scenario(work: Callable[[str, str], Any]) -> Callable[[str, str], None]:
    return lambda servers, variant: asyncio.run(work(servers, variant))


main({"codecs": scenario(codecs), "transactions": scenario(transactions), "group": scenario(group)})
