"""Settings: DescribeConfigs (32), AlterConfigs (33), IncrementalAlterConfigs (44), ListConfigResources (74). Those of topics can be
changed, and those of a broker read.

A topic's setting that has the value which topics get by themselves is said to be a default: which ones were given when the topic
was created is not known.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from ..broker.metadata import TopicView
from ..config import TopicConfig
from ..errors import ConfigError, InvalidTopicError, StreamlogError, UnknownTopicOrPartitionError
from ..runtime.threads import result_of
from . import messages, settings
from .apis import Call, topic_of
from .errors import ErrorCode, code_of

_TOPIC, _BROKER = 2, 4
_OF_TOPIC, _DEFAULT = 1, 5
_OF_STATIC_BROKER = 4
_SET, _DELETE, _APPEND, _SUBTRACT = 0, 1, 2, 3


# -- DescribeConfigs -------------------------------------------------------------------------------------


def describe_configs(call: Call) -> Any:
    Response = messages.DescribeConfigsResponse
    results = []
    for resource in call.request.resources:
        result = Response.DescribeConfigsResult(
            resource_type=resource.resource_type, resource_name=resource.resource_name, configs=[]
        )
        results.append(result)
        try:
            found = _described(call, resource)
        except StreamlogError as error:
            result.error_code, result.error_message = _code(error), str(error)
            continue
        wanted = resource.configuration_keys
        result.configs = [each for each in found if wanted is None or each.name in wanted]
    return Response(results=results)


def _described(call: Call, resource: Any) -> list[Any]:
    if resource.resource_type == _TOPIC:
        view = topic_of(call.service.image, resource.resource_name, None)
        usual = settings.to_kafka(_usual(call))
        return [
            _entry(name, text, _DEFAULT if text == usual[name] else _OF_TOPIC, read_only=view.internal)
            for name, text in settings.to_kafka(view.config).items()
        ]
    if resource.resource_type == _BROKER:
        if resource.resource_name not in {str(each) for each in call.endpoints} | {""}:
            raise ConfigError(f"There is no broker {resource.resource_name!r} that runs.", name="broker")
        own, usual = settings.of_broker(_usual(call)), settings.of_broker(TopicConfig(**settings.KAFKA_DEFAULTS))
        return [
            _entry(name, text, _DEFAULT if text == usual[name] else _OF_STATIC_BROKER, read_only=True)
            for name, text in own.items()
        ]
    raise ConfigError(f"Resources of type {resource.resource_type} have no settings here.", name="resource_type")


def _usual(call: Call) -> TopicConfig:
    """What a topic has that is made through the listener, where the client gives nothing."""
    return TopicConfig(**call.settings.topic_defaults)


def _entry(name: str, text: str, source: int, *, read_only: bool) -> Any:
    return messages.DescribeConfigsResponse.DescribeConfigsResourceResult(
        name=name,
        value=text,
        read_only=read_only,
        config_source=source,
        config_type=settings.type_of(name),
        synonyms=[],
    )


def _code(error: StreamlogError) -> ErrorCode:
    """What is wrong with a request, unless a setting is."""
    is_of_request = isinstance(error, ConfigError) and getattr(error, "name", "") in ("broker", "resource_type")
    return ErrorCode.INVALID_REQUEST if is_of_request else code_of(error)


# -- IncrementalAlterConfigs -----------------------------------------------------------------------------


def incremental_alter_configs(call: Call) -> Any:
    return call.blocking(partial(_altered, call, messages.IncrementalAlterConfigsResponse, _alter_topic))


def alter_configs(call: Call) -> Any:
    return call.blocking(partial(_altered, call, messages.AlterConfigsResponse, _set_topic))


def _altered(call: Call, Response: Any, alter: Callable[[Call, Any], None]) -> Any:
    """The response to a change of settings: each resource succeeds or fails by itself."""
    responses = []
    for resource in call.request.resources:
        answer = Response.AlterConfigsResourceResponse(
            resource_type=resource.resource_type, resource_name=resource.resource_name
        )
        responses.append(answer)
        try:
            alter(call, resource)
        except StreamlogError as error:
            answer.error_code, answer.error_message = _code(error), str(error)
    return Response(responses=responses)


def _set_topic(call: Call, resource: Any) -> None:
    """The older request: a topic has the settings that are given, and for all others its defaults."""
    view = _topic_to_alter(call, resource)
    given = {each.name: each.value for each in resource.configs}
    _change(call, view, settings.from_kafka({**settings.to_kafka(_usual(call)), **given}))


def _topic_to_alter(call: Call, resource: Any) -> TopicView:
    if resource.resource_type != _TOPIC:
        raise ConfigError("Only the settings of topics can be changed here.", name="resource_type")
    view = topic_of(call.service.image, resource.resource_name, None)
    if view.internal:
        raise InvalidTopicError(f"{view.name!r} belongs to the log itself.")
    names = [each.name for each in resource.configs]
    if len(set(names)) < len(names):
        raise ConfigError("A setting is in the request twice.", name="resource_type")
    return view


def _alter_topic(call: Call, resource: Any) -> None:
    view = _topic_to_alter(call, resource)
    now, usual = settings.to_kafka(view.config), settings.to_kafka(_usual(call))
    changes = settings.from_kafka({each.name: _text(view, each, now, usual) for each in resource.configs})
    _change(call, view, changes)


def _change(call: Call, view: TopicView, changes: Mapping[str, Any]) -> None:
    if call.request.validate_only:
        replace(view.config, **changes)
    else:
        result_of(call.service.update_topic(view.name, changes))


def _text(view: TopicView, change: Any, now: Mapping[str, str], usual: Mapping[str, str]) -> str:
    """What a setting is to be."""
    name, operation = change.name, change.config_operation
    if name not in now:
        settings.from_kafka({name: ""})  # raises
        raise UnknownTopicOrPartitionError(f"{view.name!r} has no setting {name!r}.")
    if operation == _SET and change.value is not None:
        return str(change.value)
    if operation == _DELETE:
        return usual[name]
    if operation in (_APPEND, _SUBTRACT) and settings.type_of(name) == settings.LIST and change.value is not None:
        listed = now[name].split(",")
        given = [each.strip() for each in change.value.split(",")]
        kept = [each for each in listed if operation == _APPEND or each not in given]
        return ",".join(kept + [each for each in given if operation == _APPEND and each not in kept])
    raise ConfigError(f"Operation {operation} with {change.value!r} cannot be applied to {name}.", name=name)


# -- ListConfigResources ---------------------------------------------------------------------------------


def list_config_resources(call: Call) -> Any:
    """Without types: all. The first version asks for those of client metrics, of which there are none."""
    Response = messages.ListConfigResourcesResponse
    wanted = call.request.resource_types or (_TOPIC, _BROKER)
    if call.version == 0:
        return Response(config_resources=[])
    named = [(_TOPIC, name) for name in call.service.image.topics] + [(_BROKER, str(each)) for each in call.endpoints]
    return Response(
        config_resources=[
            Response.ConfigResource(resource_name=name, resource_type=kind) for kind, name in named if kind in wanted
        ]
    )


handlers: dict[int, Callable[[Call], Any]] = {
    32: describe_configs,
    33: alter_configs,
    44: incremental_alter_configs,
    74: list_config_resources,
}
