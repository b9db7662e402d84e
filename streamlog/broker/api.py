"""The Service: everything that can be asked of a broker. It is four protocols in one: Topics, Records, Groups, Transactions.

Each call returns a Completion, done or not; only `client/` blocks on one. Exceptions are what a send or a poll does for
every record (`produce_one`, `renew`), and what is local by nature: the image, watching, metrics.

Before adding a call, see whether `image` (topics and their settings) or `partition_info` (offsets and sizes) suffices:
then a method of a handle is enough. A new call, such as one for administration, is a method of one of the four.
`LocalService` (`service.py`) implements it, and `TailingService` (`tailing/service.py`), which refuses it if it writes;
a read that both answer alike goes in `reading.py`. A change of one partition is a method of `replication/partition.py`
besides, a change of topics a function of `controller.py` besides, and a change of groups a request to the shard in
`coordinator/shard.py`. Users get the call as a method of a handle: `StreamLog`, `Topic` or `ConsumerGroup`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, Protocol

from ..coordinator import GroupDescription, GroupListing, Heartbeat, HeartbeatResult
from ..coordinator.messages import ClassicGroupConfig as ClassicGroupConfig
from ..coordinator.messages import JoinGroup as JoinGroup
from ..coordinator.messages import JoinGroupMember as JoinGroupMember
from ..coordinator.messages import JoinGroupResult as JoinGroupResult
from ..coordinator.messages import MemberIdentity as MemberIdentity
from ..coordinator.messages import SyncGroup as SyncGroup
from ..coordinator.messages import SyncGroupResult as SyncGroupResult
from ..coordinator.transaction import DEFAULT_TIMEOUT_MS
from ..coordinator.transaction import ProducerIdAndEpoch as ProducerIdAndEpoch
from ..errors import StreamlogError
from ..records.batch import SealedBatch
from ..records.single import SequencedFields
from ..replication.purgatory import REQUEST_TIMEOUT_MS as REQUEST_TIMEOUT_MS
from ..runtime.api import Completion, Timers
from ..storage.leader_epochs import EpochEnd
from ..storage.log import AppendRequest
from ..types import Clock, OffsetAndMetadata, OffsetAndTimestamp, PartitionInfo, TopicPartition
from .delayed_fetch import DelayedFetch, FetchRequest
from .descriptions import LogDirDescription, ProducerDescription, QuorumDescription
from .fetched import NOTHING, FetchResult
from .metadata import Image, KafkaConfig, NewTopic, TopicIdPartition, TopicView
from .reading import OffsetSpec
from .reassignments import Moves, Retirement, Targets
from .waiting import FetchSession


class ProduceRequest:
    """Encoded batches that are to be appended to one partition, all or none.

    `acks` is when `Service.produce` is done: 0, at once; 1, when what the leader promises by itself holds; "all", when
    readers may see the records. With `timeout_ms` (real time, from the append on) it fails with RequestTimedOutError, which is
    retriable, if that is not so by then: the records are in the log all the same, and readers may see them later. `base_offset`, `append_ms` (their timestamp under LogAppendTime) and `log_start_offset` are
    -1 until they are in the log.

    With a `leader_epoch` it fails with FencedLeaderEpochError, and nothing is appended, if the partition is in another one: a
    client whose last records wait to be acknowledged gives that in which they were appended, for they may be lost with their
    leader. Afterwards `leader_epoch` is the one of the append, or -1 if nothing can be lost so.

    The request is also how the caller asks what became of it after an interrupt: the log decides whether the batches were
    appended, not the line at which the caller was interrupted.
    """

    __slots__ = ("acks", "append", "log_start_offset", "partition", "timeout_ms")

    def __init__(
        self, partition: TopicIdPartition, batches: Sequence[SealedBatch], acks: Literal[0, 1, "all"] = "all",
        timeout_ms: int | None = None, leader_epoch: int = -1,
    ) -> None:  # fmt: skip
        self.partition = partition
        self.acks = acks
        self.timeout_ms = timeout_ms
        self.append = AppendRequest(batches, leader_epoch)
        self.log_start_offset = -1

    @property
    def batches(self) -> Sequence[SealedBatch]:
        return self.append.batches

    @property
    def base_offset(self) -> int:
        return self.append.base_offset

    @property
    def append_ms(self) -> int:
        return self.append.append_ms

    @property
    def is_repeated(self) -> bool:
        """Whether the log had the batches already: a producer sent them again."""
        return self.append.is_repeated

    @property
    def leader_epoch(self) -> int:
        return self.append.leader_epoch


class ProducerState(NamedTuple):
    """What a partition knows of a producer (KIP-664). `last_sequence`: -1 if none is known of this epoch."""

    producer_id: int
    producer_epoch: int
    last_sequence: int


class Listener(Protocol):
    """What serves others through a Service, as Kafka's protocol does; see `StreamLog.attach`."""

    def close(self, timeout_s: float) -> object:
        """Answer no more requests, and return within this time (real seconds). The service still answers meanwhile.

        It may be called again after an interrupt.
        """


class Topics(Protocol):
    """What topics there are, and their settings.

    A change is made within the call, which takes some syncs (`compact` takes what it rewrites): its Completion is done on
    return. `Records.delete_records` deletes within the call too; with followers its Completion is done once they have, or at its
    deadline. A listener makes these calls on a thread that may block.
    """

    @property
    def image(self) -> Image:
        """All topics at one moment. Take it once; it is replaced whole."""

    @property
    def seen_image(self) -> Image:
        """`image` as it was seen last: a reader does not look at the files of the owner. For what must not fail or wait."""

    def on_metadata(self, callback: Callable[[], object]) -> None:
        """Call `callback` after each change to `image`. It must not block; what it raises is logged."""

    def off_metadata(self, callback: Callable[[], object]) -> None: ...

    def topic(self, name: str) -> Completion[TopicView]: ...
    def create_topic(
        self,
        name: str,
        partitions: int | None = None,
        settings: Mapping[str, Any] | None = None,
        *,
        exist_ok: bool = False,
        kafka: KafkaConfig | None = None,
        topic_id: bytes | None = None,
    ) -> Completion[TopicView]:
        """`kafka`: what a listener knows of the settings besides, some of which are defaults then; without it all of them are
        explicit. With it, `min_insync_replicas` may be more than there are replicas, as in Kafka.

        `topic_id`: 16 random bytes, the same in each attempt of one call. A topic that has it was created by an attempt before.
        """

    def validate_topic(
        self,
        name: str,
        partitions: int | None,
        settings: Mapping[str, Any] | None,
        *,
        kafka: KafkaConfig | None = None,
    ) -> Completion[NewTopic]:
        """What `create_topic` would make of these arguments, and fails as that would; nothing is created."""

    def update_topic(
        self, name: str, settings: Mapping[str, Any], *, kafka: KafkaConfig | None = None
    ) -> Completion[None]:
        """Change these settings; `kafka` as in `create_topic`. Those that are not explicit go back to a default."""

    def update_kafka_config(self, kind: str, name: str, changes: Mapping[str, str | None]) -> Completion[None]:
        """Change what Kafka's clients set for a group, a broker or a subscription (of a kind of `Image.kafka_configs`); None removes a setting."""

    def add_partitions(self, name: str, total: int) -> Completion[None]: ...
    def delete_topic(self, name: str) -> Completion[None]: ...
    def elect_leader(self, name: TopicPartition, broker_id: int | None = None) -> Completion[None]:
        """Have this broker lead a partition, or the preferred one; done when it does. See `LeaderMoves.begin`."""

    def reassign(
        self, topic: str, replicas: Mapping[int, Sequence[int]] | None, factor: int | None
    ) -> Completion[Targets]:
        """Begin to move the replicas of a topic; where each partition goes. See `Reassignments` for this and what follows."""

    def retire_broker(self, broker_id: int) -> Completion[Retirement]:
        """Begin to move what a broker has to others; at the end it is unregistered. See `Reassignments.retire`."""

    def cancel_reassignment(self, moves: Moves) -> Completion[None]: ...
    def reassignments(self) -> list[Moves]:
        """What is under way: for each topic where its partitions go, and each broker that is retired."""

    def reassignment_progress(self, moves: Moves) -> float: ...
    def await_reassignment(self, moves: Moves) -> Completion[None]: ...
    def describe_log_dir(self, broker_id: int) -> Completion[LogDirDescription]:
        """What is in the directory of a broker that runs. Blocks: it asks the file system for its space."""

    def describe_quorum(self) -> Completion[QuorumDescription]:
        """Which brokers have the metadata log, and how far each is."""

    def apply_retention(self, name: str) -> Completion[None]: ...
    def compact(self, name: str) -> Completion[None]: ...


class Records(Protocol):
    """What is in the partitions: encoded batches go in, and come out as batches that decode themselves."""

    def produce(self, request: ProduceRequest) -> Completion[int]:
        """Append; the base offset, when `request.acks` says, or RequestTimedOutError after `request.timeout_ms`.

        Fails with InvalidRecordError, RecordTooLargeError, InvalidTimestampError, CorruptRecordError for batches that the
        topic does not take. NotLeaderError, NotEnoughReplicasError and FencedLeaderEpochError say that the records are in no
        log that counts, also where they come after the append: they can be sent again.
        """

    def produce_one(
        self, partition: TopicIdPartition, key: bytes | None, value: bytes, timestamp: int, now_ms: int,
        sequenced: SequencedFields | None = None,
    ) -> int:  # fmt: skip
        """Append one record, as it is: not compressed, with its own timestamp. Returns its offset, or raises.

        `sequenced`: the fields of a `SequencedRecord`, of an idempotent producer. One that is in the log already is not
        appended again: its offset is the one that it has. Raises OutOfOrderSequenceError, ProducerFencedError.

        `now_ms` is the service's clock, which the caller has just read. REQUIRES: not `acknowledges_later`.
        """

    def produce_one_later(
        self, partition: TopicIdPartition, key: bytes | None, value: bytes, timestamp: int, now_ms: int,
        sequenced: SequencedFields | None = None,
    ) -> Completion[int]:  # fmt: skip
        """`produce_one` with acks="all": done with the record's offset once readers may see it. It is in the log on return, or
        this raises. Errors are as those of `produce`."""

    def settle(self, request: ProduceRequest) -> Completion[int] | None:
        """After an interrupt: what `produce` would have returned, or None if it was not appended."""

    def sync(self) -> Completion[None]:
        """Done when all that is in the partitions now is on the device. All are tried; the first error counts."""

    def fetch(
        self,
        partition: TopicIdPartition,
        offset: int,
        max_bytes: int,
        isolation_level: str,
        after: FetchResult = NOTHING,
        *,
        current_leader_epoch: int | None = None,
        last_fetched_epoch: int | None = None,
        replica_id: int = -1,
    ) -> Completion[FetchResult]:
        """Whole batches from the one that holds `offset` on, and where the partition stands. It does not wait.

        - `max_bytes`: about so much; one batch comes whole, however large; none is read with 0. `after`: the result that was read to its end
          just before, so that nothing has to be searched.
        - `current_leader_epoch`: fails with FencedLeaderEpochError or UnknownLeaderEpochError if the partition is at another.
        - `last_fetched_epoch`: the leader epoch of the record before `offset`. If the log parts from that, the result has a
          `diverging_epoch` and no batches (KIP-595).
        - `replica_id`: a replica, from 0 on, reads past the high watermark to the end of the log.

        Fails with OffsetOutOfRangeError, and with UnknownTopicIdError if another topic has the name now.
        """

    def fetch_many(
        self, requests: Sequence[FetchRequest], isolation_level: str, *, min_bytes: int = 1,
        max_wait_ms: int | None = None, replica_id: int = -1, max_bytes: int | None = None,
    ) -> DelayedFetch:  # fmt: skip
        """`fetch` of several partitions: a Fetch request with long polling.

        It waits until they have `min_bytes` together, one fails, `max_wait_ms` (real time, None for no limit) have passed, or
        the caller gives it up (`expire`). Then its `read` has a done Completion for each request, in their order, and no more than
        `max_bytes` of all together, but for a first batch that is larger: what comes after that was not read.
        """

    def fetch_session(self, wake: Callable[[], object]) -> FetchSession:
        """Which of a reader's partitions may have new records. `wake` is called from any thread, and must not block."""

    def fetch_elsewhere(
        self, partition: TopicIdPartition, offset: int, max_bytes: int, isolation_level: str, damage: StreamlogError
    ) -> Completion[FetchResult]:
        """What `fetch` would bring, from another replica that has it, after `damage` was met at `offset`; it is verified.

        The damaged batch is repaired in the background: so it may be the same replica that has it. Fails with `damage` if none has
        the batch, and with OffsetOutOfRangeError if it was deleted meanwhile.
        """

    def after_damage(self, partition: TopicPartition, offset: int) -> Completion[int]:
        """Where to go on reading after the damaged batch at `offset`."""

    def bounds(self, partition: TopicPartition, isolation_level: str) -> Completion[tuple[int, int]]:
        """The first offset, and the end (exclusive) that a reader may see."""

    def find_offset(
        self,
        partition: TopicPartition,
        spec: OffsetSpec,
        isolation_level: str,
        current_leader_epoch: int | None = None,
    ) -> Completion[OffsetAndTimestamp | None]:
        """An offset, and the timestamp of the record there: -1 for "earliest" and "latest". None if there is no such record.

        Fails with FencedLeaderEpochError or UnknownLeaderEpochError if the partition is not at `current_leader_epoch`.
        """

    def end_for_time(self, partition: TopicPartition, timestamp: int, end_offset: int) -> Completion[int]:
        """An offset up to `end_offset` from which on every record is later than `timestamp` (ms): not the first such one, but near.

        Cost: the first time, the headers of the segments that have an earlier record. Where one is damaged, `end_offset`.
        """

    def has_every_offset(self, partition: TopicPartition, start: int, end: int) -> Completion[bool]:
        """Whether readers see a record at each offset from `start` up to `end`: then so many are counted without reading them."""

    def epoch_end_offset(
        self, partition: TopicPartition, leader_epoch: int, current_leader_epoch: int | None = None
    ) -> Completion[EpochEnd | None]:
        """Where a leader epoch ended in the log (OffsetForLeaderEpoch, KIP-101).

        The largest epoch that is not above `leader_epoch`, and its end; None if the log has no such epoch. Fails as
        `find_offset` does.
        """

    def partition_info(self, partition: TopicPartition) -> Completion[PartitionInfo]: ...
    def producer_state(self, partition: TopicIdPartition, producer_id: int) -> Completion[ProducerState | None]:
        """What the leader's log knows of a producer; None if it has no record of it, or forgot it."""

    def describe_producers(self, partition: TopicPartition) -> Completion[list[ProducerDescription]]:
        """The producers that the leader's log knows of (KIP-664). May read the headers of what was written in the last day."""

    def delete_records(self, partition: TopicPartition, before: int) -> Completion[int]: ...


class Groups(Protocol):
    """Consumer groups: their members, and how far each group has read."""

    def heartbeat(self, request: Heartbeat) -> Completion[HeartbeatResult]: ...
    def renew(self, group: str, member_id: str, seen_version: int) -> bool:
        """A poll in place of a heartbeat; False if the member has to send a heartbeat. Takes no lock."""

    def leave_group(self, group: str, member_id: str, *, force: bool = False) -> Completion[None]:
        """Remove a member. The place of a static one is kept for its session timeout, unless `force`.

        Fails with UnknownMemberIdError.
        """

    classic_group_config: ClassicGroupConfig
    """The bounds and delays of classic groups. A face of the service that has them as settings replaces this."""

    def join_group(self, request: JoinGroup) -> Completion[JoinGroupResult]:
        """A member of a classic group joins, or joins again; see `ClassicGroupManager` for this and what follows.

        Parked until all members have joined, or the rebalance timeout (real time) is over: never for longer.
        """

    def sync_group(self, request: SyncGroup) -> Completion[SyncGroupResult]:
        """What a member was assigned; parked until the leader has sent that, or the rebalance ends otherwise."""

    def classic_heartbeat(
        self, group: str, member_id: str, instance_id: str | None, generation_id: int
    ) -> Completion[None]:
        """A member of a classic group is alive. Fails with RebalanceInProgressError if it has to join again."""

    def leave_classic_group(
        self, group: str, members: Sequence[MemberIdentity]
    ) -> Completion[list[StreamlogError | None]]:
        """Members of a classic group leave: the error of each, or None."""

    def groups_loaded(self) -> bool:
        """Whether the next request about a group need not load the log of the groups, as the first one after an open, or after another
        broker has come to lead it, does. Takes no lock: it may be otherwise a moment later.
        """

    def load_groups(self) -> Completion[None]:
        """Load the log of the groups, if it is not. Blocks: it reads all of it."""

    def rebalance_group(self, group: str) -> Completion[None]:
        """Have a group rebalance, though nothing has changed: a classic one by its barrier, in another one members get the partitions
        of others that subscribe to the same topics. Does nothing if it rebalances already. Fails with GroupIdNotFoundError.
        """

    def find_coordinator(self, key: str, *, of_transactions: bool = False) -> Completion[int]:
        """The broker that coordinates a group, or a transactional id; the internal topic is created if there is none yet.

        Fails with NotLeaderError while there is none.
        """

    def watch_group(self, group: str, callback: Callable[[], object], member_id: str | None = None) -> None:
        """Call `callback` after each change that this member, or without one any member, can act on."""

    def unwatch_group(self, group: str, callback: Callable[[], object], member_id: str | None = None) -> None: ...
    def commit(
        self,
        group: str,
        member_id: str | None,
        member_epoch: int,
        offsets: Mapping[TopicPartition, OffsetAndMetadata],
        topic_ids: Mapping[TopicPartition, bytes] | None = None,
        *,
        instance_id: str | None = None,
        by_epoch: bool = False,
        knows_epochs: bool = True,
    ) -> Completion[None]:
        """Commit, all or nothing. `topic_ids`: the topics of the offsets, by default those that have the names now.

        Fails with CommitFailedError if one of them was deleted, even if another topic has its name now. `by_epoch`: Kafka's
        rules about the member, its epoch and `instance_id`, and `knows_epochs`: see `OffsetMetadataManager.commit`.
        """

    def committed(
        self,
        group: str,
        partitions: Iterable[TopicPartition] | None,
        topic_ids: Mapping[TopicPartition, bytes] | None = None,
        *,
        require_stable: bool = False,
        member: tuple[str, int] | None = None,
    ) -> Completion[dict[TopicPartition, OffsetAndMetadata]]:
        """What is committed for the topics of these ids, by default those that have the names now.

        `require_stable`: fails with UnstableOffsetCommitError, which is retriable, while a transaction that is not decided has
        offsets of one of these partitions (KIP-447). Without it what was decided before is the answer.

        `member`: who asks, and its epoch. Fails with UnknownMemberIdError or StaleMemberEpochError if the group has members and
        that is none, or has another epoch; one of a classic group is not looked at.

        Done once what it says is replicated, as are `describe_group` and `list_groups`: no failover takes it back. Fails as a
        commit does that is not replicated in time.
        """

    def describe_group(self, group: str) -> Completion[GroupDescription]: ...
    def list_groups(self, states: Iterable[str] = (), types: Iterable[str] = ()) -> Completion[list[GroupListing]]:
        """All groups by name, or those that are in one of these states and of one of these types."""

    def delete_offsets(
        self, group: str, partitions: Iterable[TopicPartition]
    ) -> Completion[dict[TopicPartition, StreamlogError]]:
        """Delete what is committed for these partitions (KIP-496). The answer has an error for each that was kept.

        Those are the partitions of topics that members subscribe to. Fails with GroupIdNotFoundError.
        """

    def delete_group(self, group: str) -> Completion[None]: ...


class TransactionDescription(NamedTuple):
    """A transactional id at one moment. `state`: Kafka's, see `coordinator/transaction.py`.

    `partitions` are those of the transaction that is open or being completed, of which there is none otherwise; `start_ms` (the log's
    clock) also says when the one that ended last began. It is -1 of a producer that has not begun one.
    """

    transactional_id: str
    state: str
    producer_id: int
    producer_epoch: int
    timeout_ms: int
    start_ms: int
    partitions: frozenset[TopicPartition]


class Transactions(Protocol):
    """Producer ids, and transactions: what a producer writes to several partitions counts whole, or not at all.

    A producer with a transactional id asks `init_producer_id` once, then for each transaction `add_partitions_to_txn` before its
    first record of a partition, `add_offsets_to_txn` and `txn_commit_offsets` for what it has consumed, and `end_txn`. It goes on
    with the id and epoch of the last answer, and its sequences begin at 0 again with each.

    A request whose answer was lost may be made again. With an older epoch it fails with ProducerFencedError, and never touches a
    later transaction. All may fail with NotCoordinatorError and CoordinatorLoadInProgressError, which are retriable.
    """

    def init_producer_id(
        self,
        transactional_id: str | None = None,
        timeout_ms: int = DEFAULT_TIMEOUT_MS,
        *,
        current: ProducerIdAndEpoch | None = None,
        remote: bool = False,
    ) -> Completion[ProducerIdAndEpoch]:
        """An id for a producer, and its epoch. Without a `transactional_id`: an id that no other producer ever had or gets.

        With one, it fences the producers that had it before; their open transaction is aborted first, one that was decided is
        completed. With `current`, the producer that has these goes on with a new epoch, unless another one fenced it (KIP-360).
        A transaction that is open for longer than `timeout_ms` is aborted, and its producer fenced. A `remote` producer is in
        another process than the log: its open transaction outlives that.
        """

    def add_partitions_to_txn(
        self,
        transactional_id: str,
        producer: ProducerIdAndEpoch,
        partitions: Sequence[TopicPartition],
        groups: Sequence[str] = (),
    ) -> Completion[None]:
        """Add partitions to the producer's transaction, which begins with the first. Comes before its records there are sent.

        `groups`: those whose offsets it is to commit too, for which there is no `add_offsets_to_txn` then: one record fewer.

        Fails with ProducerFencedError (`timed_out` if that is why), ConcurrentTransactionsError (retriable) and
        UnknownTopicOrPartitionError.
        """

    def add_offsets_to_txn(self, transactional_id: str, producer: ProducerIdAndEpoch, group: str) -> Completion[None]:
        """`add_partitions_to_txn` for the offsets of a group."""

    def txn_commit_offsets(
        self,
        transactional_id: str,
        producer: ProducerIdAndEpoch,
        group: str,
        member_id: str | None,
        member_epoch: int,
        offsets: Mapping[TopicPartition, OffsetAndMetadata],
        topic_ids: Mapping[TopicPartition, bytes] | None = None,
        *,
        instance_id: str | None = None,
        by_epoch: bool = False,
    ) -> Completion[None]:
        """Commit offsets of a group with the producer's transaction: they count when that is committed. Checks as `Groups.commit`,
        but no `member_id` is needed while the group has members (as in Kafka).

        Fails with InvalidTxnStateError if the group is not in the transaction.
        """

    def end_txn(
        self, transactional_id: str, producer: ProducerIdAndEpoch, commit: bool, *, bump: bool = True
    ) -> Completion[ProducerIdAndEpoch]:
        """Commit or abort the producer's transaction; done, with the id and epoch for the next one, when readers may see all of it.

        Before the outcome is decided, all records of the transaction are replicated, and on the device under `sync=True`. Once it
        is decided that is final, whatever is raised here: after an interrupt, or if it takes too long, ask again with the same
        producer. Fails with InvalidTxnStateError if it was decided otherwise, or if there is nothing to commit; an abort of
        nothing is taken. `bump=False`: the producer keeps its epoch, for clients of the older protocol.
        """

    def list_transactions(self) -> Completion[list[TransactionDescription]]:
        """All transactional ids of which this log knows, in their order."""

    def describe_transaction(self, transactional_id: str) -> Completion[TransactionDescription | None]: ...
    def abort_transaction(self, transactional_id: str) -> Completion[None]:
        """Abort an open transaction, and fence its producer; done when it is complete. Completes one whose abort is decided.

        Fails with InvalidTxnStateError if there is no open transaction of this id, or its commit is decided.
        """


class Service(Topics, Records, Groups, Transactions, Protocol):
    """See the module. What fails, fails its Completion with a StreamlogError.

    A call in the middle of another one of its thread raises ReentrantCallError at once, having done nothing.
    """

    clock: Clock
    acknowledges_later: bool
    """Whether `produce_one` returns before the record counts as acknowledged: with `sync=True`, and where there are replicas."""
    is_replicated: bool
    """Whether the log has several brokers."""
    durable: bool
    """Whether what is acknowledged is on the device: `sync=True`."""
    real_seconds: Callable[[], float]
    """The time by which members live and die: monotonic, and real under a clock that a test moves too."""

    @property
    def timers(self) -> Timers:
        """Work by deadline, on the log's clock."""

    def require_writable(self, what: str) -> None:
        """Raise ReadOnlyError if this log was opened to be read only; `what` would have been written, as a sentence begins."""

    @property
    def cluster_id(self) -> str:
        """What names the log, wherever its directories are: Kafka's cluster id."""

    def broker_paths(self) -> dict[int, str]:
        """The directory of each broker of the log, by its id."""

    def add_broker(self, path: str) -> int:
        """Have an empty directory be that of a new broker; its id. Blocks while it is made. Raises ConfigError for others."""

    replication_throttle: int | None
    """How many bytes in a second each broker fetches for replicas that reassignments add; None: no limit. See `throttle`."""

    def is_running(self, broker_id: int) -> bool: ...
    def stop_broker(self, broker_id: int) -> None:
        """Have others lead what a broker leads, and close it. Blocks while they catch up. Raises ConfigError for the last one."""

    def start_broker(self, broker_id: int) -> None:
        """Have a broker that does not run take part again; it follows. Raises what opening its directory raises."""

    def metrics(self) -> dict[str, Any]: ...
