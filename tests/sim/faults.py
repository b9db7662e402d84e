"""What happens to the brokers of a simulated cluster, and to their disks; and what an operator does about it.

One fault at a time takes away, or damages, what a replica has (`is_delicate`): its directory is removed or emptied, a byte of
it flips, an older copy of it is put back. Others have it all then, so nothing may be lost. Everything else may come meanwhile.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from streamlog import FormatError
from streamlog.broker.log_directory import METADATA_ID
from streamlog.records.batch import read_header, seed_of

from .disks import Flipped, Tree
from .history import PartitionHistory, Place

if TYPE_CHECKING:
    from .cluster import Cluster

LAG_MS = 10_000
MOST_BROKERS = 6


class Target(NamedTuple):
    """Bytes that may flip, from `begin` to `end` of a segment: of records from `start_offset` to `end_offset`."""

    place: Place
    start_offset: int
    end_offset: int
    compacted: bool
    path: str = ""
    begin: int = 0
    end: int = 0


class Faults:
    """Each `do_` is a step. `lost`: brokers whose directory is not there. `full`, `broken`: those whose disk fails."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self.lost: set[int] = cluster.history.gone
        self.full: set[int] = set()
        self.broken: set[int] = set()
        self.flipped: Flipped | None = None
        self.target: Target | None = None
        """Where it is."""
        self._deleted: list[Flipped] = []
        """Bytes of records that were deleted before they were repaired: a replica may have them for a while."""
        self._before = 0
        self.copies: dict[int, Tree] = {}
        """Of the directories of brokers, made at some time."""
        self.put_back: set[int] = set()
        """Brokers whose directory is an older copy, and that were not started since."""
        self.exchanged: tuple[int, int] | None = None
        """Brokers that do not run, each of which has the directory of the other one."""
        self.retiring: dict[int, str] = {}
        """Their directories, by broker."""

    def process_died(self) -> None:
        """The next one finds disks that work."""
        self.full.clear()
        self.broken.clear()

    def opened(self) -> None:
        """A log that is opened finds the directories of its brokers by what is in them."""
        self.exchanged = None
        self._forgive_damage()
        self.put_back -= {broker.id for broker in self._cluster.service.brokers.running}

    def _forgive_damage(self) -> None:
        """What the damaged replica alone had may be lost: at opening another one leads, or its end is taken for torn by a crash."""
        known = self._damaged()
        if known is None or self.flipped is None:
            return
        known.alone.clear()
        whole = {
            broker.id
            for broker in self._cluster.service.brokers.all
            if not self.flipped.path.startswith(f"{broker.directory.path}/")
        }
        if known.isr and not whole & set(known.isr):
            self._forgive(known)

    def _forgive_damage_of(self, broker: Any) -> None:
        """The same of a broker that comes back, after a sync of it failed say, and is the last one in sync: what is on its device past
        the last sync counts as far as it is whole. When the byte flipped another one was in sync, which is not any more.
        """
        known = self._damaged()
        if known is None or self.flipped is None or self.target is None:
            return
        isr = self._cluster.service.image.partition(*self.target.place).isr
        if self.flipped.path.startswith(f"{broker.path}/") and tuple(isr) == (broker.id,):
            self._forgive(known)

    def _damaged(self) -> PartitionHistory | None:
        """The partition of the replica of which a byte is flipped."""
        if self.flipped is None or self.target is None:
            return None
        return self._cluster.history.partitions.get(self.target.place)

    def _forgive(self, known: PartitionHistory) -> None:
        assert self.target is not None
        history = self._cluster.history
        known.forgive(0)
        for group in history.groups.values():
            group.committed.pop(self.target.place, None)
        if known.internal:
            history.commits_may_be_lost()
        self._cluster.fired["damage of the last replica in sync"] += 1

    # -- what there is -------------------------------------------------------------------------------

    @property
    def is_delicate(self) -> bool:
        return bool(self.lost or self.flipped or self._deleted or self.put_back or self.exchanged or self.is_displaced)

    @property
    def is_displaced(self) -> bool:
        """Whether the directory of one broker is at the place of another one, whose own was not found at the open: see `start`."""
        if self._cluster.log is None:
            return False
        paths = [broker.directory.path for broker in self._cluster.service.brokers.all]
        return len(set(paths)) < len(paths)

    def directory(self, broker: int) -> str:
        return str(self._cluster.service.brokers.by_id(broker).directory.path)

    def choose(self, rng: random.Random, *, running: bool) -> Any:
        brokers = [broker for broker in self._cluster.log.brokers if broker.running == running]
        return rng.choice(brokers) if brokers else None

    def ids(self) -> list[int]:
        return [broker.id for broker in self._cluster.service.brokers.all]

    def others_have_all(self, broker_id: int) -> bool:
        """Whether each partition has another member in sync that runs, and half of the copies of the metadata are left."""
        service = self._cluster.service
        return self._have_all(service.image, {broker.id for broker in service.brokers.running}, broker_id)

    @staticmethod
    def _have_all(image: Any, running: set[int], broker_id: int) -> bool:
        running = running - {broker_id}
        copies = image.copies or frozenset(image.brokers)
        return len(running & copies) * 2 > len(copies) - (broker_id in copies) and all(
            set(image.partition(view.id_bytes, number).isr) & running
            or broker_id not in image.partition(view.id_bytes, number).isr
            for view in image.topics.values()
            for number in range(view.partitions)
        )

    # -- brokers -------------------------------------------------------------------------------------

    def do_stop(self, rng: random.Random) -> None:
        cluster = self._cluster
        broker = self.choose(rng, running=True)
        if broker is None or sum(each.running for each in cluster.log.brokers) < 2:
            return
        cluster.note(f"broker {broker.id}")
        led = cluster.service.brokers.leadership.led_by(broker.id)
        if any(cluster.schedule.is_held(each.path) for each in cluster.log.brokers):
            cluster.history.leader_failed()
        broker.stop()
        cluster.fired["broker stopped"] += 1
        cluster.fired["leader stopped"] += bool(led)

    def do_start(self, rng: random.Random) -> None:
        broker = self.choose(rng, running=False)
        if broker is None:
            return
        self._cluster.note(f"broker {broker.id}")
        self.start(broker)

    def start(self, broker: Any) -> None:
        """Start a broker, with its own directory, on a disk that works."""
        cluster = self._cluster
        if self.exchanged is not None and broker.id in self.exchanged:
            try:
                broker.start()
            except FormatError:
                cluster.fired["exchanged directory refused"] += 1
            self.exchange_back()
        self._heal(broker.id)
        self._forgive_damage_of(broker)
        try:
            broker.start()
        except FormatError:
            if self.is_displaced:
                # Exchanged while the log was closed, and this one could not be read at the open: the next one finds it.
                cluster.fired["exchanged directory refused"] += 1
                return
            if broker.id not in self.put_back:
                raise
            cluster.fired["older directory refused"] += 1  # it got another one since the copy was made
            cluster.disk.files.rmtree(broker.path)
            broker.start()
        cluster.fired["broker started"] += 1
        self.put_back.discard(broker.id)
        if broker.id in self.lost:
            self.lost.discard(broker.id)
            cluster.fired["directory rebuilt"] += 1

    def _heal(self, broker: int) -> None:
        self.full.discard(broker)
        self.broken.discard(broker)
        self._cluster.disk.heal_under(self.directory(broker))

    def do_heal(self, rng: random.Random) -> None:
        cluster = self._cluster
        cluster.disk.heal()
        self.full.clear()
        self.broken.clear()

    def do_hold(self, rng: random.Random) -> None:
        """A follower is slow, or stuck for so long that it leaves the in-sync set."""
        cluster = self._cluster
        broker = rng.choice(cluster.log.brokers)
        seconds = rng.choice([0.01, 0.5, 5.0, 15.0, 60.0])
        cluster.note(f"the follower of broker {broker.id} does nothing for {seconds} s")
        cluster.schedule.hold(broker.path, seconds)
        cluster.fired["follower held"] += 1

    # -- disks that fail -----------------------------------------------------------------------------

    def do_eio(self, rng: random.Random) -> None:
        cluster = self._cluster
        broker = rng.choice(self.ids())
        op = rng.choice(["sync", "pwrite", "write", "sync_dir", "create", "pread"])
        times = rng.choice([1, 1, 3, None])
        cluster.note(f"EIO at {op} of broker {broker}, {times or 'all'} times")
        self.broken.add(broker)
        cluster.disk.break_at(self.directory(broker), op, rng.choice([1, 2, 5]), times)
        cluster.fired["disk failed"] += 1

    def do_full(self, rng: random.Random) -> None:
        cluster = self._cluster
        broker = rng.choice(self.ids())
        cluster.note(f"the disk of broker {broker} is full")
        self.full.add(broker)
        cluster.disk.fill(self.directory(broker), [rng.choice([0, 0, 30]), 0])
        cluster.fired["disk full"] += 1

    # -- directories ---------------------------------------------------------------------------------

    def do_lose(self, rng: random.Random) -> None:
        """A directory is removed, or emptied."""
        cluster = self._cluster
        if len(self.ids()) < 2 or self.is_delicate:
            return
        broker = rng.choice(cluster.log.brokers)
        if not self.others_have_all(broker.id):
            return
        cluster.disk.calls_left = -1
        is_emptied = rng.random() < 0.4
        cluster.note(f"the directory of broker {broker.id} is {'emptied' if is_emptied else 'removed'}")
        path = self.directory(broker.id)
        self.lost.add(broker.id)
        cluster.disk.files.rmtree(path)
        cluster.disk.files.makedirs(path) if is_emptied else None
        cluster.disk.files.sync_dir(path.rpartition("/")[0] or "/")
        cluster.history.leader_failed()
        cluster.fired["directory emptied" if is_emptied else "directory removed"] += 1
        cluster.schedule.elapse(0.01)  # it is noticed: else another one could fail that has what it had
        while broker.running:
            cluster.schedule.elapse(0.01)

    def do_copy(self, rng: random.Random) -> None:
        """The program copies a directory, while it is in use or not."""
        cluster = self._cluster
        broker = rng.choice(self.ids())
        if (
            len(self.ids()) > 1
            and not self.is_displaced
            and broker not in self.lost
            and not (self.flipped or self._deleted)  # the copy would be damaged, and put back later
            and not (self.exchanged and broker in self.exchanged)
        ):
            cluster.note(f"a copy of the directory of broker {broker}")
            self.copies[broker] = cluster.disk.copy(self.directory(broker))

    def do_put_back(self, rng: random.Random) -> None:
        """An older copy of the directory of a broker that does not run is put in its place."""
        cluster = self._cluster
        candidates = [each for each in sorted(self.copies) if each in self.ids()]
        if not candidates or self.is_delicate:
            return
        broker = cluster.service.brokers.by_id(rng.choice(candidates))
        if broker.running or broker.is_leaving or not self.others_have_all(broker.id):
            return
        self._put_back(broker.id, self.directory(broker.id))

    def _leaves_enough_copies(self, broker: int) -> bool:
        """Whether an open has enough copies of the metadata with the older directory of a broker: one that got another directory since
        has none there."""
        image = self._cluster.service.image
        owner = self.copies[broker].get("streamlog.json")
        if isinstance(owner, bytes) and json.loads(owner)["directory_id"] == image.brokers[broker].directory_id:
            return True
        copies = image.copies or frozenset(image.brokers)
        others = {each.id for each in self._cluster.service.brokers.running} - {broker}
        return 2 * len(others & copies) > len(copies)

    def _put_back(self, broker: int, path: str) -> None:
        cluster = self._cluster
        cluster.note(f"the directory of broker {broker} is an older copy")
        cluster.disk.put(path, self.copies.pop(broker))
        cluster.history.leader_failed()
        self.put_back.add(broker)
        cluster.fired["older directory put back"] += 1

    def do_exchange(self, rng: random.Random) -> None:
        """Two brokers that do not run have each the directory of the other one: one is started so, and refuses it."""
        stopped = [each for each in self._cluster.service.brokers.all if not (each.running or each.is_leaving)]
        if len(stopped) < 2 or self.is_delicate or self._cluster.log.reassignments():
            return
        one, other = rng.sample(stopped, 2)
        self._cluster.note(f"brokers {one.id} and {other.id} have the directories of each other")
        self.exchanged = one.id, other.id
        self._exchange(one.directory.path, other.directory.path)

    def exchange_back(self) -> None:
        if self.exchanged is not None:
            one, other = self.exchanged
            self.exchanged = None
            self._cluster.disk.exchange(self.directory(one), self.directory(other))

    def _exchange(self, path: str, other: str) -> None:
        self._cluster.disk.exchange(path, other)
        self._cluster.fired["directories exchanged"] += 1

    def while_closed(self, rng: random.Random) -> Callable[[], None]:
        """What will be done to the directories once the log is closed, or its process is dead. REQUIRES: it is open."""
        choice = rng.random()
        ids = self.ids()
        if len(ids) < 2 or self.is_delicate or choice > 0.5:
            return lambda: None
        if choice < 0.25 and self._cluster.log.reassignments():
            return lambda: None
        if choice < 0.25:
            one, other = (self.directory(each) for each in rng.sample(ids, 2))

            def exchange() -> None:
                if not self.is_delicate:  # a byte may have flipped meanwhile
                    self._exchange(one, other)

            return exchange
        candidates = [
            each
            for each in sorted(self.copies)
            if each in ids and self.others_have_all(each) and self._leaves_enough_copies(each)
        ]
        if not candidates:
            return lambda: None
        broker = rng.choice(candidates)
        service, path = self._cluster.service, self.directory(broker)
        running = {each.id for each in service.brokers.running}

        def put_back() -> None:
            # Closing may have taken others out of the set, a byte may have flipped, and the power may have taken what others had.
            if self._have_all(service.image, running, broker) and not self.is_delicate and not self._cluster.tail_lost:
                self._put_back(broker, path)

        return put_back

    # -- bytes ---------------------------------------------------------------------------------------

    def do_rot(self, rng: random.Random) -> None:
        """A byte of one replica flips, in a batch that another replica has which is in sync, and runs."""
        cluster = self._cluster
        if self.is_delicate or len(self.ids()) < 2 or cluster.log.reassignments():
            return
        brokers = cluster.service.brokers
        broker = rng.choice(brokers.all)
        running = [each.id for each in brokers.running if each is not broker]
        if rng.random() < 0.1:
            # Where a copy that is damaged does not count, there have to be enough others.
            found = list(self._metadata(broker)) if len(running) > 2 and broker.running else []
        else:
            found = list(self._replicas(broker, set(running)))
        if not found:
            return
        target, kind = rng.choice(found)
        position = rng.randrange(target.begin, target.end)
        cluster.note(f"byte {position} of {target.path} flips ({kind})")
        self.flipped = cluster.disk.flip(target.path, seed_of(*target.place), position, 1 << rng.randrange(8))
        self.target = target
        cluster.history.damaged = (target.path,)
        self._before = self._happened()
        cluster.fired[f"byte {kind} flipped"] += 1

    def _replicas(self, broker: Any, running: set[int]) -> Iterator[tuple[Target, str]]:
        """The segments of a broker, each with the part that others have, and what kind of segment it is."""
        image, brokers = self._cluster.service.image, self._cluster.service.brokers
        for view in image.topics.values():
            for number in range(view.partitions):
                leader = brokers.leaders.get((view.name, number))
                registration = image.partition(view.id_bytes, number)
                if leader is None or broker.id not in registration.replicas or not running & set(registration.isr):
                    continue
                directory = f"{broker.directory.path}/topics/{view.id_bytes.hex()}-{number}"
                if self._cluster.disk.files.is_dir(directory):
                    place = view.id_bytes, number
                    compacted = view.config.compacts or view.internal
                    least = leader.reader.tail.start_offset
                    yield from self._segments(directory, Target(place, least, leader.high_watermark, compacted))

    def _segments(self, directory: str, target: Target) -> Iterator[tuple[Target, str]]:
        files = self._cluster.disk.files
        names = [name for name in files.listdir(directory) if name.endswith(".log")]
        for name in names:
            path = f"{directory}/{name}"
            data, at, begin = files.read(path), 0, 0
            while at < len(data):
                header = read_header(data, at, seed_of(*target.place), path, at)
                if header.next_offset > target.end_offset:
                    break
                at += header.batch_len
                if header.next_offset <= target.start_offset:
                    begin = at
            if begin < at:
                found = target._replace(path=path, begin=begin, end=at, end_offset=header.next_offset)
                yield found, "of an active segment" if name == names[-1] else "of a sealed segment"

    def _metadata(self, broker: Any) -> Iterator[tuple[Target, str]]:
        directory = f"{broker.directory.path}/__cluster_metadata-0"
        files = self._cluster.disk.files
        for name in files.listdir(directory):
            if name.endswith(".log") and (size := len(files.read(f"{directory}/{name}"))):
                place = METADATA_ID.bytes, 0
                yield Target(place, 0, 1 << 62, False, f"{directory}/{name}", 0, size), "of the metadata"

    @property
    def _is_deleted(self) -> bool:
        """Whether all that may be damaged was deleted; nothing reads it any more."""
        known = self._cluster.history.partitions.get(self.target.place) if self.target is not None else None
        return known is not None and self.target is not None and self.target.end_offset <= known.start

    @property
    def _lacks_its_end(self) -> bool:
        """Whether the damaged replica was opened without what was damaged, and has not got it from another one yet."""
        for broker in self._cluster.service.brokers.running:
            if self.flipped is not None and self.flipped.path.startswith(f"{broker.directory.path}/"):
                for replica in broker.replicas.partitions.values():
                    if f"/{replica.topic_id.hex()}-{replica.name.partition}/" in self.flipped.path:
                        return replica.log.refusals.damage is not None
        return False

    def _happened(self) -> int:
        """How much has happened to the brokers."""
        return sum(
            self._cluster.fired[each] for each in ("broker stopped", "follower held", "disk failed", "disk full")
        )

    @property
    def must_be_repaired(self) -> bool:
        """Whether another replica can fill it: not of a topic that is compacted, before that one has been compacted as far. And not
        if the others were stopped, or slow, until the damaged one was the last in sync.
        """
        return self.target is not None and not self.target.compacted and self._before == self._happened()

    def look(self) -> None:
        """What has become of it: damage is repaired, brokers have left."""
        cluster = self._cluster
        if self.flipped is not None and self._is_deleted:
            self._deleted.append(self.flipped)
        is_whole = self.flipped is not None and not cluster.disk.is_flipped(self.flipped) and not self._lacks_its_end
        if self.flipped is not None and (is_whole or self._is_deleted):
            cluster.note(f"{self.flipped.path} is whole again")
            self.flipped = None
            cluster.fired["flipped byte repaired"] += 1
        self._deleted = [each for each in self._deleted if cluster.disk.is_flipped(each)]
        cluster.history.damaged = tuple(each.path for each in (*self._deleted, self.flipped) if each is not None)
        here = self.ids()
        if any(each.fetcher is not None and each.fetcher._throttled for each in cluster.service.brokers.running):
            cluster.fired["copying throttled"] += 1
        for broker in [each for each in self.retiring if each not in here]:
            path = self.retiring.pop(broker)
            cluster.note(f"broker {broker} is retired")
            cluster.fired["broker retired"] += 1
            self.lost.discard(broker)
            self.put_back.discard(broker)
            self.copies.pop(broker, None)
            brokers = cluster.service.brokers
            is_anothers = any(each.directory.path == path for each in brokers.all)
            if cluster.disk.files.is_dir(path) and not is_anothers and brokers.are_found:
                cluster.disk.files.rmtree(path)

    # -- brokers that come and go --------------------------------------------------------------------

    def do_add(self, rng: random.Random) -> None:
        cluster = self._cluster
        service = cluster.service
        if not 2 <= len(self.ids()) < MOST_BROKERS:
            return
        number = service.image.next_broker_id
        path = rng.choice([f"{service.brokers.root}/broker-{number}", f"/disk-{cluster.number()}"])
        if cluster.disk.files.is_dir(path):  # an attempt that a crash has cut short
            cluster.disk.files.rmtree(path)
        cluster.note(f"broker {number} in {path}")
        cluster.log.add_broker(path)
        cluster.fired["broker added"] += 1

    def do_retire(self, rng: random.Random) -> None:
        cluster = self._cluster
        ids = self.ids()
        if len(ids) < 3 or self.exchanged or self.flipped:
            return
        broker = rng.choice(ids)
        path = self.directory(broker)
        inside = [each for each in ids if self.directory(each).startswith(f"{cluster.path}/")]
        if inside == [broker]:  # an open with the path of the log would not find any
            return
        cluster.note(f"broker {broker}")
        cluster.log.retire_broker(broker)
        self.retiring[broker] = path

    def do_throttle(self, rng: random.Random) -> None:
        rate = rng.choice([None, 200, 2_000, 1_000_000])
        self._cluster.note(f"{rate} bytes/s")
        self._cluster.log.replication_throttle_bytes_per_s = rate

    def do_elect(self, rng: random.Random) -> None:
        cluster = self._cluster
        found = cluster.partition(rng)
        if found is None:
            return
        replicas = cluster.registration(found).replicas
        broker = rng.choice([None, *replicas])
        cluster.note(f"{found} to {broker}")
        before = cluster.registration(found).leader
        cluster.log.elect_leader(found, broker)
        cluster.fired["leader elected"] += cluster.registration(found).leader != before

    def do_reassign(self, rng: random.Random) -> None:
        cluster = self._cluster
        topic, ids = cluster.topic(rng), self.ids()
        if topic is None or len(ids) < 2 or self.flipped:  # the replica that is damaged may be the one that stays
            return
        if rng.random() < 0.4:
            factor = rng.randint(1, min(3, len(ids)))
            cluster.note(f"{topic.name} to {factor} replicas")
            cluster.log.reassign(topic, replication_factor=factor)
        else:
            number = rng.randrange(topic.partitions)
            replicas = rng.sample(ids, rng.randint(1, min(3, len(ids))))
            cluster.note(f"{topic.name}-{number} to {replicas}")
            cluster.log.reassign(topic, replicas={number: replicas})
        cluster.fired["reassigned"] += 1

    def do_cancel(self, rng: random.Random) -> None:
        moving = self._cluster.log.reassignments()
        if moving and not self.flipped:
            rng.choice(moving).cancel()
            self._cluster.fired["reassignment cancelled"] += 1
