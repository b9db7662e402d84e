"""FindCoordinator (10): which broker a client sends its requests about a group, or about a transactional id, to.

The internal topic is created with the first request, as in Kafka: its leaders are the coordinators.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from ..errors import StreamlogError
from ..runtime.threads import result_of
from . import messages
from .api_keys import ApiKey
from .apis import Call
from .errors import ErrorCode

_GROUP, _TRANSACTION = 0, 1  # types of keys
_FIRST_WITH_SEVERAL = 4  # keys (KIP-699)


def find_coordinator(call: Call) -> Any:
    return call.blocking(partial(_find_coordinator, call))


def _find_coordinator(call: Call) -> Any:
    request = call.request
    Response = messages.FindCoordinatorResponse
    keys = request.coordinator_keys if call.version >= _FIRST_WITH_SEVERAL else [request.key]
    found = [_coordinator(call, key, request.key_type) for key in keys]
    if call.version >= _FIRST_WITH_SEVERAL:
        return Response(coordinators=found)
    (one,) = found
    return Response(
        node_id=one.node_id, host=one.host, port=one.port, error_code=one.error_code, error_message=one.error_message
    )


def _coordinator(call: Call, key: str, kind: int) -> Any:
    answer = messages.FindCoordinatorResponse.Coordinator(key=key, node_id=-1, host="", port=-1)
    if kind not in (_GROUP, _TRANSACTION):
        answer.error_code = ErrorCode.INVALID_REQUEST
        answer.error_message = f"There is no coordinator of key type {kind}: {_GROUP} is that of a group, {_TRANSACTION} of a transactional id."
        return answer
    try:
        broker_id = result_of(call.service.find_coordinator(key, of_transactions=kind == _TRANSACTION))
    except StreamlogError as error:  # whatever it is, the client is to ask again, as with Kafka
        answer.error_code, answer.error_message = ErrorCode.COORDINATOR_NOT_AVAILABLE, str(error)
        return answer
    endpoint = call.endpoints.get(broker_id)
    if endpoint is None:
        answer.error_code = ErrorCode.COORDINATOR_NOT_AVAILABLE
        answer.error_message = f"Broker {broker_id}, which is the coordinator, has just started or stopped. Ask again."
        return answer
    answer.node_id, answer.host, answer.port = endpoint
    return answer


handlers = {ApiKey.FIND_COORDINATOR: find_coordinator}
