"""Which replica leads each partition of a log with several brokers: the table, from the image and the brokers that run.

What waits at a leader whose broker is gone waits at the next one. At opening it is decided here who can lead, and up to where
records are known to be committed. Of a log with one broker the table is that broker's partitions, and nothing else here has
anything to do.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterable

from ..errors import NotLeaderError, RequestTimedOutError, StreamlogError
from ..replication.follower import follow_leader
from ..replication.partition import Partition
from ..replication.purgatory import REQUEST_TIMEOUT_MS
from ..replication.repairs import Peer
from ..replication.replica_set import NO_LEADER, PartitionRegistration, ReplicaFetch
from ..storage.tail import EMPTY
from ..types import TopicPartition
from . import controller, presence
from .broker import Broker
from .metadata import Image

logger = logging.getLogger("streamlog.broker")


class Leadership:
    """See the module. Changes REQUIRE the metadata lock; `table` is read without a lock. `running`: the brokers that run."""

    def __init__(
        self, table: dict[tuple[str, int], Partition], running: Callable[[], list[Broker]], now_ms: Callable[[], int]
    ) -> None:
        self.table = table
        self.offline_leaders: dict[tuple[str, int], Partition] = {}
        """The last leader of each partition that has none now, where its broker does not run: acknowledgements wait there."""
        self._running = running
        self._now_ms = now_ms
        self._counts: dict[str, int] = {}

    @property
    def topics(self) -> list[str]:
        """Those that `follow` was called for, and were not deleted then."""
        return list(self._counts)

    def follow(self, name: str, image: Image) -> None:
        """Have the table, and what fetches for the followers, be as the image says of a topic."""
        view = image.topics.get(name)
        count = 0 if view is None else view.partitions
        for number in range(max(count, self._counts.get(name, 0))):
            at = TopicPartition(name, number)
            running = self._running()
            replicas = [broker.replicas.partitions.get(at) for broker in running]
            before, leader = (
                self.table.get(at),
                next((each for each in replicas if each is not None and each.is_leader), None),
            )
            is_gone = before is not None and before.broker_id not in {broker.id for broker in running}
            if before is not None and is_gone:  # first: after an interrupt it is found again
                before.shut(_moved(at, leader))
                self.offline_leaders[at] = before
            if leader is None:
                self.table.pop(at, None)
            else:
                # The broker may have been gone before this one was recorded.
                last = before or self.offline_leaders.get(at)
                if last is not None and last is not leader:
                    leader.learn_high_watermark(last.high_watermark)  # first: readers that come to it see no less
                    _keep_deleted(leader, last.reader.tail.start_offset)
                self.table[at] = leader
            if before is not None and before is not leader:
                before.waiters.wake_all()
            if at in self.offline_leaders:
                self._hand_over(at, leader, is_deleted=number >= count)
            for broker, replica in zip(running, replicas, strict=True):
                if broker.fetcher is None:
                    continue
                if replica is None or replica is leader:
                    broker.fetcher.forget(at)
                else:
                    broker.fetcher.follow(replica)
        if view is None:
            self._counts.pop(name, None)
        else:
            self._counts[name] = count

    def _hand_over(self, at: TopicPartition, leader: Partition | None, *, is_deleted: bool) -> None:
        """Have what waits at the last leader of a partition, whose broker is gone, wait at the next one; or for the next one."""
        former = self.offline_leaders[at]
        if leader is not None:
            former.hand_over(leader)
        elif is_deleted:
            former.purgatory.fail(controller.unknown_partition(at))
        else:
            former.await_successor(self._now_ms() + REQUEST_TIMEOUT_MS, _no_successor(at))
            return
        del self.offline_leaders[at]

    def led_by(self, broker_id: int) -> list[Partition]:
        return [leader for leader in list(self.table.values()) if leader.broker_id == broker_id]

    def bound_waits(self, leaders: Iterable[Partition], error: StreamlogError) -> None:
        """What waits to be acknowledged at these leaders depends on a change that cannot be recorded: it ends all the same."""
        for leader in leaders:
            leader.await_successor(self._now_ms() + REQUEST_TIMEOUT_MS, _not_recorded(leader, error))

    def after_opening(self, image: Image, *, is_forced: bool) -> dict[tuple[str, int], PartitionRegistration]:
        """The partitions that need another leader, or another epoch: a member of the in-sync set is not here; or was not closed, so
        that it may have lost records; or the leader lacks what another one has, for its directory is an older copy.

        Of the members that are here the one with the greatest epoch and end leads, for it has what every other one has. It begins
        a new epoch, so that a follower which has more in the last one is found out. Without any of them there is no leader.
        A member whose log is damaged at its end leaves the set, if another one's is not: what it had there may have been committed.
        """
        changes: dict[tuple[str, int], PartitionRegistration] = {}
        replicas = {broker.id: broker.replicas.partitions for broker in self._running()}
        sound = {broker.id for broker in self._running() if broker.directory.crash.clean and not is_forced}
        skipped = presence.FORCED_EPOCHS if is_forced else 0
        for view in image.topics.values():
            for number in range(view.partitions):
                before = after = image.partition(view.id_bytes, number)
                found = {each: replicas[each][view.name, number] for each in before.isr if each in replicas}
                isr = tuple(each for each in found if found[each].log.refusals.damage is None) or tuple(found)
                if not isr:
                    if before.leader != NO_LEADER:
                        after = before._replace(leader=NO_LEADER)
                else:
                    ends = {each: (found[each].last_epoch() or 0, found[each].log.tail.end_offset) for each in isr}
                    order = sorted(isr, key=lambda each: (each != before.leader, before.replicas.index(each)))
                    leader = max(order, key=lambda each: ends[each])  # the first of several that are equal
                    if (isr, leader) != (before.isr, before.leader) or not sound.issuperset(before.isr):
                        after = before._replace(isr=isr, leader=leader)
                if after is not before:
                    changes[view.name, number] = after._replace(
                        leader_epoch=before.leader_epoch + 1 + skipped, partition_epoch=before.partition_epoch + 1
                    )
        return changes

    def log_ends(self, topic: str, number: int) -> dict[int, tuple[int, int]]:
        """See `controller.LogEnds`. A replica that cannot be read, or is damaged at its end, is none."""
        ends: dict[int, tuple[int, int]] = {}
        for broker in self._running():
            replica = broker.replicas.partitions.get((topic, number))
            if replica is not None and replica.log.refusals.damage is None:
                with contextlib.suppress(StreamlogError):
                    epoch = replica.last_epoch()
                    ends[broker.id] = -1 if epoch is None else epoch, replica.log.tail.end_offset
        return ends

    def catch_up(self, deadline_ms: int) -> None:
        """Fetch, on this thread, until the followers in sync have what their leaders have, or the deadline (real time) passes.

        After opening, readers see up to where that is known. What every member of the in-sync set has already is known without a fetch.
        """
        replicas = {broker.id: broker.replicas.partitions for broker in self._running()}
        for at, leader in list(self.table.items()):
            members = [replicas.get(each, {}).get(at) for each in leader.registration.isr]
            leader.learn_high_watermark(min(0 if each is None else _shared_end(leader, each) for each in members))
            _keep_deleted(
                leader, max((each.reader.tail.start_offset for each in members if each is not None), default=0)
            )
        while self._now_ms() < deadline_ms:
            for broker in self._running():
                if broker.fetcher is not None:
                    broker.fetcher.step(self._now_ms())
            if all(leader.high_watermark == leader.reader.tail.end_offset for leader in list(self.table.values())):
                return

    def wanted_isrs(self, now_ms: int, lag_ms: int) -> dict[tuple[str, int], PartitionRegistration]:
        """The changes of in-sync sets, and of leaders, that the leaders ask for now."""
        epochs = {broker.id: broker.epoch for broker in self._running()}
        wanted = [(at, leader.wanted(now_ms, lag_ms, epochs)) for at, leader in list(self.table.items())]
        return {at: after for at, after in wanted if after is not None}

    def announce_high_watermarks(self) -> None:
        """Have the followers take over the high watermarks of their leaders: readers in other processes read up to there.

        Only those that are known to have so much: another one may have other records there.
        """
        replicas = {broker.id: broker.replicas.partitions for broker in self._running()}
        for at, leader in list(self.table.items()):
            known = leader.replicas.followers if leader.replicas is not None else {}
            fetched = ReplicaFetch(EMPTY, leader.high_watermark, leader.reader.tail.start_offset, leader.leader_epoch)
            for broker_id, follower in known.items():
                replica = replicas.get(broker_id, {}).get(at)
                if (
                    replica is not None
                    and replica.leader_epoch == leader.leader_epoch
                    and replica.high_watermark < leader.high_watermark <= follower.end_offset
                ):
                    with contextlib.suppress(StreamlogError):  # it is about to be closed, and its readers see less
                        follow_leader(replica, fetched)

    def peers(self, replica: Partition) -> list[Peer]:
        """The other replicas of a partition that run, the leader first, and up to where they are known to be as this one.

        That is what the leader knows: a follower that has fetched in its epoch has the leader's log up to there. One that has
        not fetched since its broker started may have lost some. A member of the in-sync set has what is committed, and need
        not have fetched from this leader yet.
        """
        at = replica.name
        leader = self.table.get(at)
        known = None if leader is None else leader.replicas
        if leader is None or known is None or leader.topic_id != replica.topic_id:
            return []
        ends = {leader.broker_id: leader.reader.tail.end_offset}
        replicas = [leader]
        for broker in self._running():
            follower, here = known.followers.get(broker.id), broker.replicas.partitions.get(at)
            if follower is None or here is None:
                continue
            if follower.broker_epoch == broker.epoch:
                ends[broker.id] = follower.end_offset
            elif broker.id in known.registration.isr:
                ends[broker.id] = min(leader.high_watermark, here.reader.tail.end_offset)
            else:
                continue
            replicas.append(here)
        own = ends.get(replica.broker_id, 0)
        return [Peer(each, min(own, ends[each.broker_id])) for each in replicas if each is not replica]


def _keep_deleted(leader: Partition, start: int) -> None:
    """Have a new leader start where the last one did, or another in-sync replica does: what was deleted for readers stays deleted.

    It starts there already, unless that one led for too short a time for the others to follow. After an unclean election it may end
    before: what it has then is all that is left.
    """
    if leader.reader.tail.start_offset < start <= leader.high_watermark:
        try:
            leader.delete_before(start)
        except StreamlogError as error:  # whatever needs this disk next meets it too
            logger.warning("%s-%d begins before %d again: %s", *leader.name, start, error)


def _shared_end(leader: Partition, member: Partition) -> int:
    """How far another replica is known to have what the leader has, with `durable` on the device; 0 if it is not known.

    Records of the same offset and leader epoch are the same, and so is everything before them.
    """
    end = min(each.commit.synced_end if each.durable else each.reader.tail.end_offset for each in (leader, member))
    start = leader.reader.tail.start_offset
    if end <= start:
        return start
    epoch = leader.epoch_of(end - 1)
    return end if epoch is not None and epoch == member.epoch_of(end - 1) else 0


def _moved(at: TopicPartition, leader: Partition | None) -> NotLeaderError:
    now = "no broker leads it now" if leader is None else f"broker {leader.broker_id} leads it now"
    return NotLeaderError(f"The broker that led {at.topic}-{at.partition} does not run any more; {now}. Try again.")


def _not_recorded(leader: Partition, error: StreamlogError) -> RequestTimedOutError:
    return RequestTimedOutError(
        f"The leader of {leader.name.topic}-{leader.name.partition}, and its in-sync set, could not be recorded for "
        f"{REQUEST_TIMEOUT_MS // 1000} s ({error}). The records are in the log of broker {leader.broker_id}: sent again, they may be there twice."
    )


def _no_successor(name: TopicPartition) -> RequestTimedOutError:
    return RequestTimedOutError(
        f"The broker that led {name.topic}-{name.partition} does not run any more, and for {REQUEST_TIMEOUT_MS // 1000} s no other one of its "
        f"in-sync set has. The records are in its log: if it comes back they are read; sent again, they may be there twice."
    )
