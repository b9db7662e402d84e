"""Members of KIP-848's protocol: ConsumerGroupHeartbeat (68), ConsumerGroupDescribe (69).

The coordinator assigns, for these members as for those in Python: both may be in one group. A client says only what has changed
since its last heartbeat, and is sent its assignment when that has changed, so what each member has said and was sent is kept
here. A member that the listener does not know, after it was started again, gets UNKNOWN_MEMBER_ID, and joins again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from ..broker.api import Service
from ..broker.metadata import Image, TopicView
from ..coordinator import GroupDescription, Heartbeat, HeartbeatResult
from ..errors import MissingExtraError, StreamlogError
from ..runtime.api import Completion
from ..types import TopicPartition
from . import group_configs, messages
from .api_keys import ApiKey
from .apis import Call, Later, by_topic, coordinates, not_coordinator
from .errors import ErrorCode
from .errors import coordinator_code_of as code_of
from .groups import describe_each
from .patterns import matcher

_REBALANCE_MS = 45_000  # of a member that does not say it
_JOINING, _LEAVING, _LEAVING_FOR_A_WHILE = 0, -1, -2  # epochs of members (KIP-848)
# Kafka's names of assignors, and those of ours that do the same, in the member's order of preference.
_DEFAULT_ASSIGNOR = "uniform"
_ASSIGNORS = {"uniform": ("cooperative-sticky", "range"), "range": ("range", "cooperative-sticky")}
_NAMES = {ours[0]: kafkas for kafkas, ours in _ASSIGNORS.items()}
_CLASSIC_MEMBER, _CONSUMER_MEMBER = 0, 1  # types of members, in ConsumerGroupDescribe (KIP-1099)
_FIRST_WITH_OWN_IDS = 1  # that members choose themselves (KIP-1082)
_LEAST_KEPT = 64  # members, before those are looked for that have been silent for two sessions
_SHOWN = 100  # characters of a pattern, in an error


class _Member:
    """What a member has said of itself, and what it was sent last."""

    __slots__ = (
        "_matched",
        "_matches",
        "assignor",
        "epochs",
        "owned",
        "pattern",
        "rebalance_ms",
        "seen_s",
        "sent_assignment",
        "session_s",
        "static_id",
        "topics",
    )

    def __init__(self) -> None:
        self.topics: frozenset[str] = frozenset()
        self._matches: Callable[[str], bool] | None = None
        self._matched: tuple[Mapping[str, TopicView], frozenset[str]] | None = None
        """The topics that were compared with the pattern last, and those that match it."""
        self.pattern = ""
        self.assignor = _DEFAULT_ASSIGNOR
        self.static_id: str | None = None
        self.rebalance_ms = _REBALANCE_MS
        self.owned: frozenset[TopicPartition] = frozenset()
        self.sent_assignment: frozenset[TopicPartition] | None = None
        self.epochs: tuple[int, int] = (-1, -1)
        """The last two that it was answered: an answer may have been lost."""
        self.seen_s = 0.0
        self.session_s = 0.0

    def subscribe_to_pattern(self, pattern: str) -> None:
        """Raises what `matcher` raises."""
        if pattern == self.pattern:  # a client may say with each heartbeat what it said before
            return
        self._matches = matcher(pattern) if pattern else None
        self.pattern = pattern
        self._matched = None

    def subscribed(self, image: Image) -> frozenset[str]:
        matches = self._matches
        if matches is None:
            return self.topics
        if self._matched is None or self._matched[0] is not image.topics:
            names = [name for name, view in image.topics.items() if not view.internal and matches(name)]
            self._matched = image.topics, frozenset(names)
        return self.topics | self._matched[1]


class ConsumerGroups:
    """The members of one listener. It runs on the listener's thread."""

    def __init__(self, service: Service) -> None:
        self._seconds = service.real_seconds
        self._members: dict[tuple[str, str], _Member] = {}
        self._prune_at = _LEAST_KEPT
        self.handlers: Mapping[int, Callable[[Call], Any]] = {
            ApiKey.CONSUMER_GROUP_HEARTBEAT: self.heartbeat,
            ApiKey.CONSUMER_GROUP_DESCRIBE: self.describe,
        }

    # -- heartbeats ------------------------------------------------------------------------------------

    def heartbeat(self, call: Call) -> Any:
        request = call.request
        group, member_id, epoch = request.group_id, request.member_id, request.member_epoch
        if not coordinates(call, group):
            return _failed(ErrorCode.NOT_COORDINATOR, str(not_coordinator(call)))
        if not group:
            return _failed(ErrorCode.INVALID_REQUEST, "group_id is empty.")
        invalid = _invalid(call)
        if invalid is not None:
            return _failed(ErrorCode.INVALID_REQUEST, invalid)
        if epoch == _JOINING and self._is_taken(group, member_id, request.instance_id):
            return _failed(
                ErrorCode.UNRELEASED_INSTANCE_ID,
                f"Another member has the instance id {request.instance_id!r}: it has to leave first, or its session to end.",
            )
        if epoch < _JOINING:
            return self._leave(call)
        if epoch == _JOINING:
            known = _Member()
        else:
            found = self._members.get((group, member_id))
            if found is None:
                return self._not_there(request)
            if epoch not in found.epochs:
                return _failed(ErrorCode.FENCED_MEMBER_EPOCH, f"Epoch {epoch} of {member_id!r} is not its last one.")
            known = found
        refused = self._note(call, known)
        if refused is not None:
            return refused
        beat = Heartbeat(
            group, "" if epoch == _JOINING else member_id, epoch, known.static_id, call.client_id,
            known.subscribed(call.service.image), _ASSIGNORS[known.assignor], known.owned, known.session_s,
            known.rebalance_ms / 1000, remote=True, client_host=f"/{call.host}", wanted_id=member_id,
        )  # fmt: skip
        return Later(call.service.heartbeat(beat), partial(self._answered, call, known, beat))

    def _is_taken(self, group: str, member_id: str, instance_id: str | None) -> bool:
        """Whether another member, which is there, has this instance id."""
        now_s = self._seconds()
        return instance_id is not None and any(
            known.static_id == instance_id and now_s - known.seen_s < known.session_s
            for (name, other), known in self._members.items()
            if name == group and other != member_id
        )

    def _not_there(self, request: Any) -> Any:
        """The answer to a member that is not known: that another one took its place, after which it stops, or that it is to join again."""
        member_id, instance_id = request.member_id, request.instance_id
        if self._is_taken(request.group_id, member_id, instance_id):
            why = f"Another member has the instance id {instance_id!r} of {member_id!r} now: give each its own."
            return _failed(ErrorCode.FENCED_INSTANCE_ID, why)
        return _failed(ErrorCode.UNKNOWN_MEMBER_ID, f"{member_id!r} is no member of this group: join again.")

    def _note(self, call: Call, known: _Member) -> Any:
        """Note what the member says; the refusal, if it cannot be."""
        request, image = call.request, call.service.image
        if request.instance_id is not None:
            known.static_id = request.instance_id
        if request.rebalance_timeout_ms > 0:
            known.rebalance_ms = request.rebalance_timeout_ms
        if request.subscribed_topic_names is not None:
            known.topics = frozenset(request.subscribed_topic_names)
        if request.subscribed_topic_regex is not None:
            try:
                known.subscribe_to_pattern(request.subscribed_topic_regex)
            except (ValueError, MissingExtraError) as error:
                pattern = request.subscribed_topic_regex[:_SHOWN]
                return _failed(
                    ErrorCode.INVALID_REGULAR_EXPRESSION, f"{pattern!r} is not a regular expression: {error}"
                )
        if request.server_assignor is not None:
            if request.server_assignor not in _ASSIGNORS:
                return _failed(
                    ErrorCode.UNSUPPORTED_ASSIGNOR,
                    f"There is no assignor {request.server_assignor!r}, only {', '.join(_ASSIGNORS)}.",
                )
            known.assignor = request.server_assignor
        if request.topic_partitions is not None:
            known.owned = frozenset(
                TopicPartition(image.names[each.topic_id], number)
                for each in request.topic_partitions
                if each.topic_id in image.names
                for number in each.partitions
            )
        known.seen_s = self._seconds()
        session_ms = group_configs.number(image, call.settings, request.group_id, group_configs.SESSION_MS)
        known.session_s = session_ms / 1000
        return None

    def _answered(self, call: Call, known: _Member, beat: Heartbeat, done: Completion[HeartbeatResult]) -> Any:
        request = call.request
        try:
            result = done.result()
        except StreamlogError as error:
            code = code_of(error)
            if code == ErrorCode.FENCED_INSTANCE_ID:
                code = ErrorCode.UNRELEASED_INSTANCE_ID if request.member_epoch == _JOINING else code
            if code in (ErrorCode.UNKNOWN_MEMBER_ID, ErrorCode.FENCED_INSTANCE_ID):
                self._members.pop((request.group_id, request.member_id), None)
            return _failed(code, str(error))
        if result.member_epoch == _JOINING and not beat.member_id:
            # In a large group a target comes with the next heartbeat of any member: this is one, and the only one.
            again = beat._replace(member_id=result.member_id)
            return Later(call.service.heartbeat(again), partial(self._answered, call, known, again))
        self._keep(request.group_id, result.member_id, known)
        is_full = request.member_epoch == _JOINING or (
            request.topic_partitions is not None
            and request.rebalance_timeout_ms >= 0
            and (request.subscribed_topic_names is not None or request.subscribed_topic_regex is not None)
        )
        assignment = None
        if is_full or known.sent_assignment != result.assignment:
            assignment = _assignment(messages.ConsumerGroupHeartbeatResponse, call.service.image, result.assignment)
        known.sent_assignment = result.assignment
        known.epochs = (
            known.epochs if known.epochs[0] == result.member_epoch else (result.member_epoch, known.epochs[0])
        )
        return messages.ConsumerGroupHeartbeatResponse(
            member_id=result.member_id,
            member_epoch=result.member_epoch,
            heartbeat_interval_ms=group_configs.number(
                call.service.image, call.settings, request.group_id, group_configs.HEARTBEAT_MS
            ),
            assignment=assignment,
        )

    def _keep(self, group: str, member_id: str, known: _Member) -> None:
        self._members[group, member_id] = known
        if len(self._members) > self._prune_at:
            now_s = self._seconds()
            self._members = {
                each: member for each, member in self._members.items() if now_s - member.seen_s < 2 * member.session_s
            }
            self._prune_at = 2 * len(self._members) + _LEAST_KEPT

    def _leave(self, call: Call) -> Any:
        request = call.request
        if self._members.pop((request.group_id, request.member_id), None) is None:
            return self._not_there(request)
        left = call.service.leave_group(
            request.group_id, request.member_id, force=request.member_epoch != _LEAVING_FOR_A_WHILE
        )

        def respond(done: Completion[None]) -> Any:
            error = done.error()
            if error is not None:
                return _failed(code_of(error), str(error))
            return messages.ConsumerGroupHeartbeatResponse(
                member_id=request.member_id, member_epoch=request.member_epoch
            )

        return Later(left, respond)

    # -- descriptions ----------------------------------------------------------------------------------

    def describe(self, call: Call) -> Any:
        Response = messages.ConsumerGroupDescribeResponse
        describe = partial(_describe, call.service.image, self._members)
        return describe_each(call, call.request.group_ids, Response, describe)


def _invalid(call: Call) -> str | None:
    """What is wrong with a request, whatever the group is."""
    request = call.request
    epoch = request.member_epoch
    if not request.member_id and (epoch != _JOINING or call.version >= _FIRST_WITH_OWN_IDS):
        return "member_id is empty."
    if epoch < _LEAVING_FOR_A_WHILE:
        return f"member_epoch={epoch} means nothing."
    if request.instance_id == "" or request.rack_id == "":
        return "An instance_id or a rack_id is not empty: leave it out."
    if epoch == _LEAVING_FOR_A_WHILE and request.instance_id is None:
        return "Only a member with an instance_id leaves for a while."
    if epoch == _JOINING:
        if request.rebalance_timeout_ms < 0:
            return "A member that joins says its rebalance_timeout_ms."
        if request.topic_partitions is None or request.topic_partitions:
            return "A member that joins says that it owns no partitions."
        if request.subscribed_topic_names is None and not request.subscribed_topic_regex:
            return "A member that joins subscribes to something."
    return None


def _failed(code: ErrorCode, why: str) -> Any:
    return messages.ConsumerGroupHeartbeatResponse(error_code=code, error_message=why)


def _assignment(Response: Any, image: Image, partitions: frozenset[TopicPartition], *, has_names: bool = False) -> Any:
    """Partitions by the ids of their topics, as a response has them; those of topics that were deleted since are left out."""
    return Response.Assignment(
        topic_partitions=[
            Response.TopicPartitions(
                topic_id=image.topics[name].id_bytes, partitions=numbers, **({"topic_name": name} if has_names else {})
            )
            for name, numbers in by_topic(partitions).items()
            if name in image.topics
        ]
    )


# -- ConsumerGroupDescribe -------------------------------------------------------------------------------


def _describe(
    image: Image, members: Mapping[tuple[str, str], _Member], described: Any, group: GroupDescription
) -> None:
    """`members`: what they have said."""
    Response = messages.ConsumerGroupDescribeResponse
    if group.state == "Dead" or group.type != "consumer":
        why = "not found" if group.state == "Dead" else "is not a consumer group"
        described.error_code, described.error_message = ErrorCode.GROUP_ID_NOT_FOUND, f"Group {group.name} {why}."
        described.group_state = ""
        return
    shown = partial(_assignment, Response, image, has_names=True)
    described.group_state = group.state
    described.group_epoch = described.assignment_epoch = group.epoch
    described.assignor_name = _NAMES.get(group.protocol, group.protocol) or _DEFAULT_ASSIGNOR
    described.members = [
        Response.Member(
            member_id=each.member_id,
            instance_id=each.group_instance_id,
            member_epoch=each.member_epoch,
            client_id=each.client_id or "",
            client_host=each.client_host,
            subscribed_topic_names=sorted(each.topics if said is None else said.topics),
            subscribed_topic_regex="" if said is None else said.pattern,
            assignment=shown(each.assignment),
            target_assignment=shown(each.target),
            member_type=_CLASSIC_MEMBER if each.is_classic else _CONSUMER_MEMBER,
        )
        for each, said in ((each, members.get((group.name, each.member_id))) for each in group.members)
    ]
