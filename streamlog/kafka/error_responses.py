"""Responses that say that a request, or a part of it, failed: for every API and version, from the table of Kafka's messages.

Kafka has `getErrorResponse` written out for each of its requests. Here `shape_of` finds in the definitions of a request and its
response where error codes are: in the response itself (JoinGroup), in the parts of an array that answers an array of the request
(DeleteTopics), in parts of parts (Produce), or at several of these levels (Fetch, OffsetFetch).

`answer` puts codes there. Parts that are refused are taken out of the request, which is answered without them, so they have no
effect, and are put into the response with the fields that name them and nothing else, as Kafka does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple, TypeAlias

from . import messages, protocol
from .api_keys import ApiKey
from .apis import CLOSE, Later
from .errors import ErrorCode
from .schema import REQUEST, RESPONSE, Field, within

# The fields that name what a part of a request, or of a response, is about.
_NAMES = (
    "name", "topic", "topic_name", "topic_id", "index", "partition", "partition_index", "partition_id", "group_id",
    "member_id", "group_instance_id", "transactional_id", "resource_type", "resource_name", "feature", "key",
)  # fmt: skip
_INDEXES = ("partition", "partition_index", "partition_id")  # that name the same in requests and responses
# Not `topic_config_error_code` of CreateTopics: why the settings of a topic that was created are not shown.
_CODES = ("error_code", "partition_error_code")
_BROKERS = ("node_id", "port", "leader_id")
_NONE = -1

# What is wrong with the whole request. Where a response has codes at several levels, these are in the outermost one, others in the
# innermost.
_OF_REQUESTS = frozenset({
    ErrorCode.COORDINATOR_LOAD_IN_PROGRESS, ErrorCode.COORDINATOR_NOT_AVAILABLE, ErrorCode.NOT_COORDINATOR,
    ErrorCode.INVALID_GROUP_ID, ErrorCode.GROUP_ID_NOT_FOUND, ErrorCode.GROUP_AUTHORIZATION_FAILED,
    ErrorCode.CLUSTER_AUTHORIZATION_FAILED, ErrorCode.TRANSACTIONAL_ID_AUTHORIZATION_FAILED, ErrorCode.NOT_CONTROLLER,
    ErrorCode.UNSUPPORTED_VERSION, ErrorCode.INVALID_REQUEST, ErrorCode.FETCH_SESSION_ID_NOT_FOUND,
    ErrorCode.INVALID_FETCH_SESSION_EPOCH, ErrorCode.FETCH_SESSION_TOPIC_ID_ERROR, ErrorCode.STALE_MEMBER_EPOCH,
    ErrorCode.ILLEGAL_GENERATION, ErrorCode.FENCED_MEMBER_EPOCH,
})  # fmt: skip
_OF_MEMBERS = frozenset({ErrorCode.UNKNOWN_MEMBER_ID, ErrorCode.FENCED_INSTANCE_ID})


class Shape(NamedTuple):
    """Where a response, or a part of one, has its codes. The names are those of fields."""

    make: Any
    """The class of it."""
    code: str | None
    message: str | None
    same: tuple[tuple[str, str], ...]
    """The fields that name it, and those of the request that they are taken from; "" for an element that is no structure."""
    texts: frozenset[str]
    """Those of them that are "" in the response where the request has null: it names a topic by its id, say."""
    blank: tuple[tuple[str, int], ...]
    """The fields that say that there is none by -1: offsets, times, brokers."""
    array: str | None
    """The array of the parts that have codes."""
    wanted: str | None
    """The array of the request that it answers, if it answers one."""
    part: Shape | None


Names: TypeAlias = Mapping[str, Any]
"""The fields that name a part, with their values."""
Place: TypeAlias = tuple[Names, ...]
"""A part of a response: the names of what it is in, from the outermost on, and its own."""


class Refusal(NamedTuple):
    """An error that a request is to be answered with, at this depth: 0 is the response itself, 1 the parts of it, 2 theirs."""

    code: int
    depth: int
    selects: Callable[[Place], bool]
    """Whether it is for this part."""
    after: bool
    """The request takes effect all the same, and is answered with the error then."""
    message: str = ""


# -- where the codes are ---------------------------------------------------------------------------------


@cache
def shape_of(key: int, version: int) -> Shape:
    """Raises KeyError for an API that is not in the table."""
    request, response = protocol.api_definition(key, REQUEST), protocol.api_definition(key, RESPONSE)
    if request is None or response is None:
        raise KeyError(key)
    classes = messages.structures(response.name)
    return _shape(classes[response.name], _of(response.fields, version), _of(request.fields, version), version, classes)


def _of(fields: Sequence[Field], version: int) -> list[Field]:
    return [each for each in fields if within(version, each.versions)]


def _shape(
    make: Any, fields: list[Field], asked: list[Field] | Field | None, version: int, classes: Mapping[str, Any]
) -> Shape:
    """`asked`: the fields of the structure of the request that this one answers; of an element that is none, its array."""
    names = {each.name for each in fields}
    array = next((each for each in fields if each.is_array and _has_code(each.fields, version)), None)
    wanted = part = None
    if array is not None:
        inner = _of(array.fields, version)
        candidates = [each for each in asked if each.is_array] if isinstance(asked, list) else []
        for candidate in candidates:
            of = _of(candidate.fields, version) if candidate.fields else candidate
            if _same(inner, of):
                wanted = candidate.name
                break
        part = _shape(classes[array.item], inner, of if wanted else None, version, classes)
    return Shape(
        make,
        next((each for each in _CODES if each in names), None),
        "error_message" if "error_message" in names else None,
        _same(fields, asked),
        frozenset(each.name for each in fields if each.type == "string" and not within(version, each.nullable)),
        tuple(
            (each.name, _NONE)
            for each in fields
            if (each.type == "int64" and each.default is None) or each.name in _BROKERS
        ),
        None if array is None else array.name,
        wanted,
        part,
    )


def _has_code(fields: Sequence[Field], version: int) -> bool:
    return any(each.name in _CODES or _has_code(each.fields, version) for each in _of(fields, version))


def _same(fields: list[Field], asked: list[Field] | Field | None) -> tuple[tuple[str, str], ...]:
    """Which fields name the same thing."""
    named = [each for each in fields if each.name in _NAMES and not each.is_array]
    if asked is None:
        return tuple((each.name, "") for each in named)
    if isinstance(asked, Field):
        return tuple((each.name, "") for each in named if each.type == asked.item)
    given = {each.name for each in asked}
    found = []
    for each in named:
        alike = [each.name, *(_INDEXES if each.name in _INDEXES else ())]
        found += [(each.name, name) for name in alike if name in given][:1]
    return tuple(found)


def levels(shape: Shape) -> Iterator[tuple[int, Shape, bool]]:
    """The depths at which a response has codes, with their shapes, and whether the request names the parts there."""
    depth, at, is_named = 0, shape, True
    while True:
        if at.code is not None:
            yield depth, at, is_named
        if at.part is None:
            return
        is_named = is_named and at.wanted is not None
        depth, at = depth + 1, at.part


def depth_of(key: int, version: int, code: int, *, of_partition: bool = False) -> int:
    """The level at which a response has this code. `of_partition`: it is meant for one partition."""
    found = list(levels(shape_of(key, version)))
    has_partitions = any(name in (*_INDEXES, "index") for name, _ in found[-1][1].same)
    if of_partition and has_partitions and code not in _OF_REQUESTS:
        return found[-1][0]
    usable = [each for each in found if each[2]] or found
    if code in _OF_MEMBERS:
        return next((depth for depth, at, _ in usable if depth and "member_id" in dict(at.same)), usable[0][0])
    # A request of several transactions (KIP-890): what is wrong with one of them is said of each of its partitions.
    is_of_request = code in _OF_REQUESTS and key != ApiKey.ADD_PARTITIONS_TO_TXN
    return usable[0][0] if is_of_request else usable[-1][0]


# -- answering -------------------------------------------------------------------------------------------


def answer(
    key: int, version: int, request: Any, refusals: Sequence[Refusal], respond: Callable[[], Any], *, answers: bool = True
) -> Any:  # fmt: skip
    """What the request is answered with: the refusals, and what `respond` makes of what they leave of it. `request` is changed.

    `answers`: False for a request that has no answer, such as Produce with acks=0: then the connection is closed, as Kafka does.
    The first refusal of a part counts.
    """
    shape = shape_of(key, version)
    whole = next((each for each in refusals if each.depth == 0), None)
    if whole is not None:
        if not answers:
            response: Any = CLOSE
        else:
            response = _filled(shape, _names(shape, request, is_request=True), whole)
        return then(respond(), lambda _: response) if whole.after else response
    places: list[tuple[Place, Refusal]] = []
    later: list[Refusal] = []  # of which parts is only known from the response
    is_changed = False
    for refusal in refusals:
        found = None if refusal.after else _places(shape, request, refusal.depth, is_request=True)
        if found is None:
            later.append(refusal)
            continue
        found = [place for place in found if refusal.selects(place)]
        places += [(place, refusal) for place in found]
        _take(shape, request, refusal.depth, found)
        is_changed = is_changed or bool(found)
    is_used_up = is_changed and not getattr(request, shape.wanted or "")

    def fill(response: Any) -> Any:
        if response is None or response is CLOSE or not answers:
            return CLOSE
        if key == ApiKey.METADATA and is_used_up:
            response.topics = []  # in version 0 a request for no topic is one for all
        for refusal in later:
            known = _places(shape, response, refusal.depth, is_request=False) or []
            places.extend((place, refusal) for place in known if refusal.selects(place))
        done: set[Any] = set()
        for place, refusal in places:
            mark = _mark(place)
            if mark not in done:
                done.add(mark)
                _put(shape, response, place, refusal)
        return response

    if (
        is_used_up and not later and key != ApiKey.METADATA
    ):  # of which a client needs the brokers, whatever becomes of the topics
        return fill(shape.make())
    return then(respond(), fill)


def then(response: Any, change: Callable[[Any], Any]) -> Any:
    """`change` of the response, once it is there."""
    if isinstance(response, Later):
        return Later(response.done, lambda done: then(response.respond(done), change))
    return change(response)


def places_of(key: int, version: int, request: Any, depth: int | None = None) -> list[Place] | None:
    """The parts that a request names at a depth, by default the innermost; None if it names none, as one for all topics does."""
    shape = shape_of(key, version)
    if depth is None:
        depth, at = 0, shape
        while at.wanted is not None and at.part is not None:
            depth, at = depth + 1, at.part
    return _places(shape, request, depth, is_request=True)


def _places(shape: Shape, message: Any, depth: int, *, is_request: bool) -> list[Place] | None:
    """The parts of a request, or of a response, at a depth. None if an array of it is null, or a request has none of these."""
    if depth == 0:
        return [()]
    array = shape.wanted if is_request else shape.array
    elements = None if array is None else getattr(message, array)
    if elements is None or shape.part is None:
        return None
    found: list[Place] = []
    for element in elements:
        inner = _places(shape.part, element, depth - 1, is_request=is_request)
        if inner is None:
            return None
        names = _names(shape.part, element, is_request=is_request)
        found += [(names, *place) for place in inner]
    return found


def _names(shape: Shape, element: Any, *, is_request: bool) -> Names:
    if not is_request:
        return {name: getattr(element, name) for name, _ in shape.same}
    found = {name: getattr(element, of) if of else element for name, of in shape.same}
    return {name: "" if value is None and name in shape.texts else value for name, value in found.items()}


def _mark(place: Place) -> Any:
    return tuple(tuple(each.items()) for each in place)


def _take(shape: Shape, request: Any, depth: int, places: Sequence[Place]) -> None:
    """Take parts out of a request, and what has no parts left then."""
    taken = {_mark(place) for place in places}

    def without(at: Shape, message: Any, depth: int, above: Place) -> bool:
        """Whether anything is left."""
        if depth == 0:
            return _mark(above) not in taken
        assert at.part is not None
        assert at.wanted is not None
        elements = getattr(message, at.wanted)
        left = [
            each
            for each in elements
            if without(at.part, each, depth - 1, (*above, _names(at.part, each, is_request=True)))
        ]
        if len(left) < len(elements):
            setattr(message, at.wanted, left)
        return bool(left) or not elements

    without(shape, request, depth, ())


def _put(shape: Shape, response: Any, place: Place, refusal: Refusal) -> None:
    """Put an error into the response, in the part that is there for this place or in a new one."""
    at, message = shape, response
    for number, names in enumerate(place):
        assert at.array is not None
        assert at.part is not None
        elements = list(getattr(message, at.array) or ())
        setattr(message, at.array, elements)
        at = at.part
        known = next((n for n, each in enumerate(elements) if _names(at, each, is_request=False) == names), None)
        if number == len(place) - 1:
            made = _filled(at, names, refusal)
            if known is None:
                elements.append(made)
            else:
                elements[known] = made
        elif known is None:
            message = at.make(**names)
            elements.append(message)
        else:
            message = elements[known]


def _filled(shape: Shape, names: Names, refusal: Refusal) -> Any:
    assert shape.code is not None
    made = shape.make(**{**dict(shape.blank), **names, shape.code: refusal.code})
    if shape.message is not None:
        setattr(made, shape.message, refusal.message)
    return made
