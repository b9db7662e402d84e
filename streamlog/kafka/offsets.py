"""What groups have committed: OffsetCommit (8), OffsetFetch (9), OffsetDelete (47).

A commit is all or nothing as far as its partitions are there: each that is not there fails by itself. An offset that was never
committed is -1, and no error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from ..errors import (
    CommitFailedError,
    GroupIdNotFoundError,
    GroupNotEmptyError,
    IllegalGenerationError,
    StaleMemberEpochError,
    StreamlogError,
    UnstableOffsetCommitError,
)
from ..runtime.api import AllDone, Completion
from ..types import OffsetAndMetadata, TopicPartition
from . import messages
from .api_keys import ApiKey
from .apis import Call, Later, by_topic, coordinates, epoch_or_none, partition_of, topic_of
from .errors import ErrorCode
from .errors import coordinator_code_of as code_of
from .schema import ZERO_UUID

MAX_METADATA = 4096
"""Of an offset, in UTF-16 code units, as Java counts the length of a string (Kafka's offset.metadata.max.bytes)."""
_FIRST_COMMIT_WITH_IDS = _FIRST_FETCH_WITH_IDS = 10  # of topics (KIP-848)
_FIRST_FETCH_OF_GROUPS = 8  # of several (KIP-709)
_FIRST_FETCH_WITH_ERROR = 2  # of the whole response
_FIRST_COMMIT_WITH_EPOCHS = 9  # STALE_MEMBER_EPOCH and GROUP_ID_NOT_FOUND (KIP-848)
_NONE = -1


class Commit:
    """The offsets in a request, OffsetCommit or TxnOffsetCommit: those that can be committed, and the codes of all."""

    def __init__(self, call: Call, topics: Iterable[Any], *, by_id: bool) -> None:
        self.offsets: dict[TopicPartition, OffsetAndMetadata] = {}
        self.topic_ids: dict[TopicPartition, bytes] = {}
        self.codes: dict[tuple[Any, int], ErrorCode] = {}
        """By the topic's name, or its id, and the partition."""
        self.has_partitions = False
        """Whether one of the partitions is there: then the coordinator checks the member, as Kafka's does."""
        self._topics, self._by_id = topics, by_id
        image = call.service.image
        for topic in topics:
            for each in topic.partitions:
                key = (topic.topic_id if by_id else topic.name), each.partition_index
                try:
                    view = topic_of(image, topic.name, topic.topic_id if by_id else None)
                    at = partition_of(view, each.partition_index)
                except StreamlogError as error:
                    self.codes[key] = code_of(error)
                    continue
                self.has_partitions = True
                metadata = each.committed_metadata or ""
                if len(metadata.encode("utf-16-le")) > 2 * MAX_METADATA:
                    self.codes[key] = ErrorCode.OFFSET_METADATA_TOO_LARGE
                    continue
                self.codes[key] = ErrorCode.NONE
                epoch = epoch_or_none(each.committed_leader_epoch)
                self.offsets[at] = OffsetAndMetadata(each.committed_offset, metadata, epoch)
                self.topic_ids[at] = view.id_bytes

    def fail(self, code: ErrorCode) -> None:
        """Those that could have been committed were not, nor those whose metadata is too long: that is checked last."""
        checked = (ErrorCode.NONE, ErrorCode.OFFSET_METADATA_TOO_LARGE)
        self.codes = {key: code if known in checked else known for key, known in self.codes.items()}

    def results(self, topic_result: Callable[..., Any], partition_result: Callable[..., Any]) -> list[Any]:
        """The topics of the response, with the code of each partition."""
        return [
            topic_result(
                name=topic.name,
                topic_id=topic.topic_id,
                partitions=[
                    partition_result(
                        partition_index=each.partition_index,
                        error_code=self.codes[topic.topic_id if self._by_id else topic.name, each.partition_index],
                    )
                    for each in topic.partitions
                ],
            )
            for topic in self._topics
        ]


def offset_commit(call: Call) -> Any:
    request = call.request
    by_id = call.version >= _FIRST_COMMIT_WITH_IDS
    commit = Commit(call, request.topics, by_id=by_id)
    done: Completion[None] = Completion.of(None)
    if not coordinates(call, request.group_id):
        commit.fail(ErrorCode.NOT_COORDINATOR)
    elif commit.has_partitions:
        done = call.service.commit(
            request.group_id,
            request.member_id,
            request.generation_id_or_member_epoch,
            commit.offsets,
            commit.topic_ids,
            instance_id=request.group_instance_id,
            by_epoch=True,
            knows_epochs=call.version >= _FIRST_COMMIT_WITH_EPOCHS,
        )
    return Later(done, partial(_committed, call, commit))


def _committed(call: Call, commit: Commit, done: Completion[None]) -> Any:
    error = done.error()
    if error is not None:
        knows_epochs = call.version >= _FIRST_COMMIT_WITH_EPOCHS
        # Without epochs in the request only a member that has them gets this error.
        is_too_old = isinstance(error, StaleMemberEpochError) and not knows_epochs
        code = commit_code(error, knows_epochs=knows_epochs)
        commit.fail(ErrorCode.UNSUPPORTED_VERSION if is_too_old else code)
    Response = messages.OffsetCommitResponse
    return Response(topics=commit.results(Response.OffsetCommitResponseTopic, Response.OffsetCommitResponsePartition))


def commit_code(error: BaseException, *, knows_epochs: bool) -> ErrorCode:
    """What a client knows what to do about: a classic one joins again; one of the newer protocol heartbeats, and commits again."""
    if isinstance(error, GroupNotEmptyError):
        return ErrorCode.UNKNOWN_MEMBER_ID
    if isinstance(error, StaleMemberEpochError | GroupIdNotFoundError) and not knows_epochs:
        return ErrorCode.ILLEGAL_GENERATION
    if isinstance(error, CommitFailedError) and not isinstance(
        error, IllegalGenerationError
    ):  # of a topic that was deleted
        return ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
    return code_of(error)


# -- OffsetFetch -----------------------------------------------------------------------------------------


def offset_fetch(call: Call) -> Any:
    request = call.request
    Response = messages.OffsetFetchResponse
    if call.version < _FIRST_FETCH_OF_GROUPS:
        found = _Fetched(call, request.group_id, request.topics)
        return _when_known([found], lambda: _of_one_group(found))
    # All that a group has committed, which may be much, is answered once, however often it is asked for.
    wanted = {(each.group_id, at if each.topics is not None else None): each for at, each in enumerate(request.groups)}
    groups = [_Fetched(call, each.group_id, each.topics, _member_of(each)) for each in wanted.values()]
    return _when_known(
        groups, lambda: Response(groups=[each.group(by_id=call.version >= _FIRST_FETCH_WITH_IDS) for each in groups])
    )


def _when_known(groups: list[_Fetched], respond: Callable[[], Any]) -> Later:
    """Respond when it is known what each group has committed, and where some of it is not decided, what else it has."""

    def read_others(_: Completion[Any]) -> Later:
        for each in groups:
            each.read_others()
        return Later(AllDone([each.done for each in groups]), lambda _: respond())

    return Later(AllDone([each.done for each in groups]), read_others)


def _member_of(group: Any) -> tuple[str, int] | None:
    """The member that asks, and its epoch (from version 9 on); None for an administrator."""
    is_member = group.member_id is not None or group.member_epoch >= 0
    return (group.member_id or "", group.member_epoch) if is_member else None


def _of_one_group(found: _Fetched) -> Any:
    group = found.group(by_id=False)
    Response = messages.OffsetFetchResponse
    topics = []
    for topic in group.topics:
        partitions = [
            Response.OffsetFetchResponsePartition(
                partition_index=each.partition_index,
                committed_offset=each.committed_offset,
                committed_leader_epoch=each.committed_leader_epoch,
                metadata=each.metadata,
                error_code=each.error_code,
            )
            for each in topic.partitions
        ]
        topics.append(Response.OffsetFetchResponseTopic(name=topic.name, partitions=partitions))
    if group.error_code and found.call.version < _FIRST_FETCH_WITH_ERROR:  # it can only be said of each partition
        topics = [
            Response.OffsetFetchResponseTopic(
                name=topic.name,
                partitions=[
                    Response.OffsetFetchResponsePartition(
                        partition_index=number, committed_offset=_NONE, metadata="", error_code=group.error_code
                    )
                    for number in topic.partition_indexes
                ],
            )
            for topic in found.call.request.topics or ()
        ]
    return Response(topics=topics, error_code=group.error_code)


class _Fetched:
    """What one group has committed; `done` when it is known."""

    def __init__(self, call: Call, group_id: str, topics: Any, member: tuple[str, int] | None = None) -> None:
        self.call = call
        self._group_id = group_id
        self._topics = topics
        self._member = member
        self._image = call.service.image
        self._unstable: frozenset[TopicPartition] = frozenset()
        self.done: Completion[dict[TopicPartition, OffsetAndMetadata]] = Completion.of({})
        self._is_elsewhere = not coordinates(call, group_id)
        if self._is_elsewhere:
            return
        self._partitions: list[TopicPartition] | None = None
        if topics is not None:
            self._partitions = [
                TopicPartition(name, number)
                for topic in topics
                if (name := self._name(topic)) is not None
                for number in topic.partition_indexes
            ]
        self.done = call.service.committed(
            group_id, self._partitions, require_stable=call.request.require_stable, member=member
        )

    def read_others(self) -> None:
        """If `done` has failed for partitions whose offsets a transaction has not decided, `done` is what the others have.

        Of what becomes unstable meanwhile, what was committed before is the answer: it was stable when `done` failed.
        """
        error = self.done.error()
        if isinstance(error, UnstableOffsetCommitError):
            self._unstable = frozenset(TopicPartition(*each) for each in error.partitions)
            self.done = self.call.service.committed(self._group_id, self._partitions, member=self._member)

    def _name(self, topic: Any) -> str | None:
        if self.call.version >= _FIRST_FETCH_WITH_IDS:
            return self._image.names.get(topic.topic_id)
        return str(topic.name)

    def group(self, *, by_id: bool) -> Any:
        """REQUIRES: `done`."""
        Response = messages.OffsetFetchResponse
        error = self.done.error()
        code = ErrorCode.NONE if error is None else code_of(error)
        if self._is_elsewhere:
            code = ErrorCode.NOT_COORDINATOR
        found = {} if error is not None else self.done.result()
        answered = Response.OffsetFetchResponseGroup(group_id=self._group_id, error_code=code)
        if code:
            return answered
        wanted = self._topics
        if wanted is None:
            asked: list[tuple[str | None, bytes, Any]] = [
                (topic, self._id_of(topic), numbers) for topic, numbers in by_topic(found).items()
            ]
        else:
            asked = [
                (self._name(each), getattr(each, "topic_id", ZERO_UUID), each.partition_indexes) for each in wanted
            ]
        topics = []
        for name, topic_id, numbers in asked:
            partitions = []
            for number in numbers:
                partition = Response.OffsetFetchResponsePartitions(
                    partition_index=number, committed_offset=_NONE, committed_leader_epoch=_NONE, metadata=""
                )
                partitions.append(partition)
                if name is None:
                    partition.error_code = ErrorCode.UNKNOWN_TOPIC_ID
                    continue
                if (name, number) in self._unstable:
                    partition.error_code = ErrorCode.UNSTABLE_OFFSET_COMMIT
                    continue
                committed = found.get(TopicPartition(name, number))
                if committed is not None:
                    epoch = committed.leader_epoch
                    partition.committed_offset, partition.metadata = committed.offset, committed.metadata
                    partition.committed_leader_epoch = _NONE if epoch is None else epoch
            topics.append(
                Response.OffsetFetchResponseTopics(
                    name="" if by_id else name or "", topic_id=topic_id if by_id else ZERO_UUID, partitions=partitions
                )
            )
        answered.topics = topics
        return answered

    def _id_of(self, name: str) -> bytes:
        view = self._image.topics.get(name)
        return ZERO_UUID if view is None else view.id_bytes


# -- OffsetDelete ----------------------------------------------------------------------------------------


def offset_delete(call: Call) -> Any:
    request = call.request
    Response = messages.OffsetDeleteResponse
    if not request.group_id:
        return Response(error_code=ErrorCode.INVALID_GROUP_ID)
    if not coordinates(call, request.group_id):
        return Response(error_code=ErrorCode.NOT_COORDINATOR)
    known = call.service.image.topics
    wanted = [
        TopicPartition(topic.name, each.partition_index)
        for topic in request.topics
        if topic.name in known
        for each in topic.partitions
    ]
    return Later(call.service.delete_offsets(request.group_id, wanted), partial(_deleted, call))


def _deleted(call: Call, done: Completion[dict[TopicPartition, StreamlogError]]) -> Any:
    Response = messages.OffsetDeleteResponse
    error = done.error()
    if error is not None:
        return Response(error_code=code_of(error))
    kept, known = done.result(), call.service.image.topics
    topics = []
    for topic in call.request.topics:
        missing = ErrorCode.NONE if topic.name in known else ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
        partitions = []
        for each in topic.partitions:
            refused = kept.get(TopicPartition(topic.name, each.partition_index))
            partitions.append(
                Response.OffsetDeleteResponsePartition(
                    partition_index=each.partition_index,
                    error_code=missing if refused is None else code_of(refused),
                )
            )
        topics.append(Response.OffsetDeleteResponseTopic(name=topic.name, partitions=partitions))
    return Response(topics=topics)


handlers = {ApiKey.OFFSET_COMMIT: offset_commit, ApiKey.OFFSET_FETCH: offset_fetch, ApiKey.OFFSET_DELETE: offset_delete}
