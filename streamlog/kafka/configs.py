"""Settings: DescribeConfigs (32, versions 1 to 4), AlterConfigs (33, 0 to 2), IncrementalAlterConfigs (44, 0 and 1),
ListConfigResources (74, 0 and 1).

All settings of topics that Kafka has are known (`settings`), and no others: those that the library does not act on are checked, kept and
given back, as they were written. A setting comes from the topic (DYNAMIC_TOPIC_CONFIG) if it was given, through Python or
through Kafka's protocol, whatever its value. Else it comes from the broker: a topic gets the defaults when it is created, and
keeps them. Then it has the source that the broker's setting has (`broker_configs`), if it has its value still; if not it is
DEFAULT_CONFIG if it is Kafka's default, else STATIC_BROKER_CONFIG.

`group_configs` has the settings of groups, `client_metrics` those of subscriptions to metrics (CLIENT_METRICS), and `loggers` the levels
of loggers (BROKER_LOGGER).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple, TypeAlias

from ..broker.controller import least_in_sync
from ..broker.metadata import BROKER_CONFIG, CLIENT_METRICS_CONFIG, GROUP_CONFIG, KafkaConfig, TopicView
from ..config import TopicConfig, check_topic_name
from ..errors import ConfigError, InvalidTopicError, StreamlogError
from ..runtime.threads import new_lock, result_of
from . import broker_configs, client_metrics, group_configs, loggers, messages, settings
from .api_keys import ApiKey
from .apis import Call, Endpoint, Handler, Settings, topic_of
from .errors import ErrorCode, code_of
from .settings import (
    DEFAULT,
    INTERNAL_SEGMENT_BYTES,
    LIST,
    OF_ALL_BROKERS,
    OF_BROKER_ITSELF,
    OF_CLIENT_METRICS,
    OF_GROUP,
    OF_LOGGER,
    OF_STATIC_BROKER,
    OF_TOPIC,
    Described,
    Setting,
    Synonym,
)

_TOPIC, _BROKER, _BROKER_LOGGER, _CLIENT_METRICS, _GROUP = 2, 4, 8, 16, 32
_KINDS = frozenset({_TOPIC, _BROKER, _BROKER_LOGGER, _CLIENT_METRICS, _GROUP})
_KEPT = {GROUP_CONFIG: _GROUP, CLIENT_METRICS_CONFIG: _CLIENT_METRICS}
"""Resources that there are as long as something is set for them."""
_KINDS_KEPT = {number: kind for kind, number in _KEPT.items()}
_FIRST_WITH_KINDS = 1  # ListConfigResources; version 0 lists client metrics alone (KIP-1142)
_SET, _DELETE, _APPEND, _SUBTRACT = 0, 1, 2, 3
_MANY_RESOURCES = 10
"""To describe a resource takes a ms and more: of a request with more than these that is left to a thread that may block."""
_MOST_UNSET = 1_000
"""Groups and subscriptions, of any name, that have nothing set, in one request: each is answered with hundreds of times what it is asked in."""
_SEGMENT_BYTES = "segment.bytes"
_MIN_INSYNC = "min.insync.replicas"
_REQUEST = "request"
"""The `name` of a ConfigError about the request, and not about a setting."""


# -- what a topic has ------------------------------------------------------------------------------------


def described(
    config: TopicConfig, explicit: frozenset[str], texts: Mapping[str, str], listener: Settings
) -> list[Described]:
    """All settings of a topic, by name. `explicit`, `texts`: see `TopicView`."""
    given = given_texts(config, explicit, texts)
    usual = TopicConfig(**listener.topic_defaults)
    found = []
    for name, setting in settings.TOPIC.items():
        chain = broker_configs.of_topic(name, setting, listener, usual)
        if name in given:
            of_topic = (name, given[name], OF_TOPIC)
            found.append(Described(name, given[name], OF_TOPIC, [of_topic, *chain]))
        elif name != INTERNAL_SEGMENT_BYTES:
            found.append(_not_given(name, setting, config, given, listener, chain))
    return found


def given_texts(config: TopicConfig, explicit: frozenset[str], texts: Mapping[str, str]) -> dict[str, str]:
    """The settings that were given for a topic. A text that has another value by now is replaced."""
    found = {}
    small = texts.get(INTERNAL_SEGMENT_BYTES)
    if small is not None and settings.value_of(INTERNAL_SEGMENT_BYTES, small) != config.segment_bytes:
        small = None
    for name, setting in settings.TOPIC.items():
        text = texts.get(name)
        if (setting.field == "segment_bytes" and small is not None) or not setting.field:
            if text is not None:
                found[name] = text
        elif text is not None and settings.value_of(name, text) == getattr(config, setting.field):
            found[name] = text
        elif setting.field in explicit and name != INTERNAL_SEGMENT_BYTES:
            found[name] = settings.to_kafka(name, config)
    return found


def _not_given(
    name: str,
    setting: Setting,
    config: TopicConfig,
    given: Mapping[str, str],
    listener: Settings,
    chain: list[Synonym],
) -> Described:
    if not setting.field or (name == _SEGMENT_BYTES and INTERNAL_SEGMENT_BYTES in given):
        text, source = (chain[0][1], chain[0][2]) if chain else (setting.default, DEFAULT)
        return Described(name, text, source, chain)
    text = settings.to_kafka(name, config)
    of_broker = (chain[0][1] if chain else None) or ""
    if chain and (text == of_broker or settings.value_of(name, of_broker) == getattr(config, setting.field)):
        return Described(name, chain[0][1], chain[0][2], chain)
    defaults = [each for each in chain if each[2] == DEFAULT]
    if text == setting.default:
        return Described(name, text, DEFAULT, defaults)
    return Described(name, text, OF_STATIC_BROKER, [(setting.broker, text, OF_STATIC_BROKER), *defaults])


# -- DescribeConfigs -------------------------------------------------------------------------------------


def describe_configs(call: Call) -> Any:
    """A resource that is named several times is answered once."""
    resources = {
        (each.resource_type, each.resource_name, tuple(each.configuration_keys or ())): each
        for each in call.request.resources
    }
    respond = partial(_describe_configs, call, [*resources.values()])
    return call.blocking(respond) if len(resources) > _MANY_RESOURCES else respond()


def _describe_configs(call: Call, resources: list[Any]) -> Any:
    Response = messages.DescribeConfigsResponse
    results = []
    kept, unset = call.service.image.kafka_configs, 0
    for resource in resources:
        kind, name = _KINDS_KEPT.get(resource.resource_type), resource.resource_name
        unset += kind is not None and (kind, name) not in kept
        result = Response.DescribeConfigsResult(
            resource_type=resource.resource_type, resource_name=resource.resource_name, configs=[]
        )
        results.append(result)
        try:
            if unset > _MOST_UNSET and kind is not None:
                raise ConfigError(
                    f"The request names more than {_MOST_UNSET:,} groups or subscriptions that have nothing set. Ask for them in several.",
                    name=_REQUEST,
                )
            found = _described(call, resource)
        except StreamlogError as error:
            result.error_code, result.error_message = _code(error), str(error)
            continue
        wanted = resource.configuration_keys  # in Kafka's clients none, and an empty list, both ask for all
        result.configs = [each for each in found if not wanted or each.name in wanted]
    return Response(results=results)


def _described(call: Call, resource: Any) -> list[Any]:
    name = resource.resource_name
    if resource.resource_type == _TOPIC:
        check_topic_name(name)
        view = topic_of(call.service.image, name, None)
        texts = {each: settings.normal(each, text) for each, text in view.kafka_config.items()}
        found = described(view.config, view.explicit, texts, call.settings)
        return [_entry(call, _shown(each, read_only=view.internal), settings.TOPIC[each.name]) for each in found]
    if resource.resource_type == _BROKER:
        if not name:
            return [_entry(call, *each) for each in broker_configs.of_all(call)]
        return [_entry(call, *each) for each in broker_configs.described(call, _require_broker(call, name))]
    if resource.resource_type == _GROUP:
        return [_entry(call, each, group_configs.KNOWN[each.name]) for each in _of_group(call, name)]
    if resource.resource_type == _CLIENT_METRICS:
        return [_entry(call, each, client_metrics.KNOWN[each.name]) for each in _of_client_metrics(call, name)]
    if resource.resource_type == _BROKER_LOGGER:
        _require_broker(call, name)
        levels = loggers.levels().items()
        return [_entry(call, Described(each, level, OF_LOGGER, []), loggers.SETTING) for each, level in levels]
    raise ConfigError(f"Resources of type {resource.resource_type} have no settings here.", name=_REQUEST)


def _shown(found: Described, *, read_only: bool) -> Described:
    """A topic's setting as DescribeConfigs has it: a text of the broker's is in its synonyms as it was given."""
    if found.text is not None and found.source in (OF_BROKER_ITSELF, OF_ALL_BROKERS):
        found = found._replace(text=settings.normal(found.name, found.text))
    return found._replace(read_only=read_only)


def _require_broker(call: Call, name: str) -> Endpoint:
    at = next((each for each in call.endpoints.values() if str(each.broker_id) == name), None)
    if at is None:
        raise ConfigError(f"There is no broker {name!r} that runs.", name=_REQUEST)
    return at


def _of_group(call: Call, name: str) -> Iterator[Described]:
    _require_group(name)
    given = group_configs.given(call.service.image, name)
    for each, setting in group_configs.KNOWN.items():
        chain: list[Synonym] = []
        if each in given:
            chain.append((each, settings.normal_of(each, setting, given[each]), OF_GROUP))
        chain += broker_configs.changed(setting.broker, call.settings)
        if setting.broker in call.settings.broker_config:
            chain.append((setting.broker, call.settings.broker_config[setting.broker], OF_STATIC_BROKER))
        chain.append((setting.broker, setting.default, DEFAULT))
        yield Described.by(each, chain)


def _of_client_metrics(call: Call, name: str) -> Iterator[Described]:
    _require_subscription(name)
    given = client_metrics.given(call.service.image, name)
    for each, setting in client_metrics.KNOWN.items():
        if each in given:
            text = settings.normal_of(each, setting, given[each])
            yield Described.by(each, [(each, text, OF_CLIENT_METRICS)])
        else:
            yield Described(each, setting.default, DEFAULT, [])


def _require_group(name: str) -> None:
    if not name:
        raise ConfigError("The name of a group is not empty.", name=_REQUEST)


def _require_subscription(name: str) -> None:
    if not name:
        raise ConfigError("The name of a subscription to clients' metrics is not empty.", name=_REQUEST)


def _entry(call: Call, found: Described, setting: Setting) -> Any:
    Result = messages.DescribeConfigsResponse.DescribeConfigsResourceResult
    Synonym = messages.DescribeConfigsResponse.DescribeConfigsSynonym
    synonyms = found.synonyms if call.request.include_synonyms else ()
    return Result(
        name=found.name,
        value=found.text,
        read_only=found.read_only,
        is_sensitive=found.is_sensitive,
        config_source=found.source,
        config_type=setting.type,
        synonyms=[Synonym(name=name, value=text, source=source) for name, text, source in synonyms],
        documentation=setting.documentation if call.request.include_documentation else None,
    )


def _code(error: StreamlogError) -> ErrorCode:
    """What is wrong with a request, unless a setting is."""
    is_of_request = isinstance(error, ConfigError) and getattr(error, "name", "") == _REQUEST
    return ErrorCode.INVALID_REQUEST if is_of_request else code_of(error)


# -- AlterConfigs, IncrementalAlterConfigs ---------------------------------------------------------------


class Kind(NamedTuple):
    """What a change that adds to a list has to know: a setting, by its name, and what there is where none is given. Both raise ConfigError."""

    setting: Callable[[str], Setting]
    default: Callable[[str], str]


TextsAfter: TypeAlias = Callable[[Any, Mapping[str, str], Kind], dict[str, str]]
"""What a request gives a resource: from its resource, and the settings that are given now."""


class Configs:
    """The handlers. Changes are made one after another, for some begin from what a topic has."""

    def __init__(self) -> None:
        self._lock = new_lock()
        self.handlers: dict[int, Handler] = {
            ApiKey.DESCRIBE_CONFIGS: describe_configs,
            ApiKey.ALTER_CONFIGS: partial(self._alter, _replaced, messages.AlterConfigsResponse),
            ApiKey.INCREMENTAL_ALTER_CONFIGS: partial(self._alter, _altered, messages.IncrementalAlterConfigsResponse),
            ApiKey.LIST_CONFIG_RESOURCES: list_config_resources,
        }

    def _alter(self, texts_after: TextsAfter, Response: Any, call: Call) -> Any:
        return call.blocking(partial(self._answer, texts_after, Response, call))

    def _answer(self, texts_after: TextsAfter, Response: Any, call: Call) -> Any:
        """The response to a change of settings: each resource succeeds or fails by itself."""
        resources = call.request.resources
        times = Counter((each.resource_type, each.resource_name) for each in resources)
        responses = []
        for resource in resources:
            kind, name = resource.resource_type, resource.resource_name
            answer = Response.AlterConfigsResourceResponse(resource_type=kind, resource_name=name, error_message=None)
            responses.append(answer)
            try:
                if times[kind, name] > 1:
                    raise ConfigError(f"Each resource must appear at most once: {name!r}.", name=_REQUEST)
                with self._lock:
                    if kind == _GROUP:
                        _change_group(call, resource, texts_after)
                    elif kind == _CLIENT_METRICS:
                        _change_client_metrics(call, resource, texts_after)
                    elif kind == _BROKER:
                        _change_broker(call, resource, texts_after)
                    elif kind == _BROKER_LOGGER:
                        _change_loggers(call, resource, is_incremental=texts_after is _altered)
                    else:
                        _change_topic(call, resource, texts_after)
            except StreamlogError as error:
                answer.error_code, answer.error_message = _code(error), str(error)
        return Response(responses=responses)


def _change_topic(call: Call, resource: Any, texts_after: TextsAfter) -> None:
    view = _topic_to_alter(call, resource)
    before = given_texts(view.config, view.explicit, view.kafka_config)
    after = texts_after(resource, before, Kind(settings.topic_setting, partial(_default, listener=call.settings)))
    settings.check_together(after)
    touched = dict.fromkeys([*_names(resource), *(name for name in before if name not in after)])
    if _SEGMENT_BYTES in touched and INTERNAL_SEGMENT_BYTES in after:  # which goes before it
        touched[INTERNAL_SEGMENT_BYTES] = None
    if INTERNAL_SEGMENT_BYTES in touched and INTERNAL_SEGMENT_BYTES not in after:
        touched[_SEGMENT_BYTES] = None
    given = {name: after[name] for name in touched if name in after}
    fields = settings.from_kafka(given)
    changes = dict(fields)
    for name in [name for name in touched if name in settings.TOPIC and name not in after]:
        field = settings.TOPIC[name].field
        if field and field not in fields:
            changes[field] = _usual(call, view, name)
    kafka = KafkaConfig(frozenset(fields), {name: after.get(name) for name in touched})
    if call.request.validate_only:
        replace(view.config, **changes)
    else:
        result_of(call.service.update_topic(view.name, changes, kafka=kafka))


def _topic_to_alter(call: Call, resource: Any) -> TopicView:
    if resource.resource_type != _TOPIC:
        raise ConfigError(
            "Only the settings of topics, groups, brokers, loggers and subscriptions to clients' metrics can be changed here.",
            name=_REQUEST,
        )
    check_topic_name(resource.resource_name)
    view = topic_of(call.service.image, resource.resource_name, None)
    if view.internal:
        raise InvalidTopicError(f"{view.name!r} belongs to the log itself.")
    _require_different(resource)
    return view


def _change_group(call: Call, resource: Any, texts_after: TextsAfter) -> None:
    name = resource.resource_name
    _require_group(name)
    _require_different(resource)
    before = group_configs.given(call.service.image, name)
    of_broker = partial(group_configs.of_broker, listener=call.settings)
    after = texts_after(resource, before, Kind(group_configs.setting, of_broker))
    group_configs.check(after, call.settings)
    _keep(call, GROUP_CONFIG, name, before, after)


def _change_client_metrics(call: Call, resource: Any, texts_after: TextsAfter) -> None:
    name = resource.resource_name
    _require_subscription(name)
    _require_different(resource)
    before = client_metrics.given(call.service.image, name)
    after = texts_after(resource, before, Kind(client_metrics.to_change, lambda _: ""))
    client_metrics.check(after, _REQUEST)
    _keep(call, CLIENT_METRICS_CONFIG, name, before, after)


def _keep(call: Call, kind: str, name: str, before: Mapping[str, str], after: Mapping[str, str]) -> None:
    changes = {
        each: after.get(each) for each in dict.fromkeys([*before, *after]) if after.get(each) != before.get(each)
    }
    if not call.request.validate_only:
        result_of(call.service.update_kafka_config(kind, name, changes))


def _change_broker(call: Call, resource: Any, texts_after: TextsAfter) -> None:
    """Of one broker, or of all: the resource without a name."""
    name = resource.resource_name
    if name:
        _require_broker(call, name)
    _require_different(resource)
    before = broker_configs.given(call.service.image, name)
    after = texts_after(resource, before, Kind(broker_configs.setting, broker_configs.default))
    try:
        broker_configs.check(after)
    except ConfigError as error:
        raise ConfigError(str(error), name=_REQUEST) from error
    if name and _MIN_INSYNC in _names(resource):
        raise ConfigError(
            f"{_MIN_INSYNC} of one broker cannot be altered: it is that of all brokers.", name=_MIN_INSYNC
        )
    _keep(call, BROKER_CONFIG, name, before, after)


def _change_loggers(call: Call, resource: Any, *, is_incremental: bool) -> None:
    """Set or unset levels: all of them, or none if one cannot be."""
    _require_broker(call, resource.resource_name)
    if not is_incremental:
        raise ConfigError("The levels of loggers are changed with IncrementalAlterConfigs alone.", name=_REQUEST)
    _require_different(resource)
    changes: dict[str, str | None] = {}
    for change in resource.configs:
        if change.config_operation not in (_SET, _DELETE):
            raise ConfigError("The level of a logger is set or deleted.", name=_REQUEST)
        changes[change.name] = _not_null(change) if change.config_operation == _SET else None
        loggers.check(change.name, changes[change.name])
    if loggers.ROOT in changes and changes[loggers.ROOT] is None:
        raise ConfigError("Removing the log level of the root logger is not allowed.", name=_REQUEST)
    if not call.request.validate_only:
        loggers.change(changes)


def _require_different(resource: Any) -> None:
    names = _names(resource)
    if len(set(names)) < len(names):
        raise ConfigError("Error due to duplicate config keys: a setting is in the request twice.", name=_REQUEST)


def _names(resource: Any) -> list[str]:
    return [each.name for each in resource.configs]


def _usual(call: Call, view: TopicView, name: str) -> Any:
    """The field of a setting that is not given any more."""
    defaults = broker_configs.topic_defaults(call.settings)
    if name == _MIN_INSYNC and "min_insync_replicas" not in defaults:
        return least_in_sync(len(call.service.image.partition(view.id_bytes, 0).replicas))
    name = _SEGMENT_BYTES if name == INTERNAL_SEGMENT_BYTES else name
    return settings.value_of(name, settings.to_kafka(name, TopicConfig(**defaults)))


def _replaced(resource: Any, before: Mapping[str, str], kind: Kind) -> dict[str, str]:
    """The older request: a resource has the settings that are given, and for all others its defaults."""
    return {each.name: _not_null(each) for each in resource.configs}


def _not_null(change: Any) -> str:
    if change.value is None:
        raise ConfigError(f"Null value not supported for : {change.name}", name=_REQUEST)
    return str(change.value)


def _altered(resource: Any, before: Mapping[str, str], kind: Kind) -> dict[str, str]:
    after = dict(before)
    for change in resource.configs:
        name, operation = change.name, change.config_operation
        if operation == _DELETE:
            after.pop(name, None)
        elif operation == _SET:
            after[name] = _not_null(change)
        elif operation in (_APPEND, _SUBTRACT):
            if kind.setting(name).type != LIST:
                verb = "APPEND to" if operation == _APPEND else "SUBTRACT from"
                raise ConfigError(f"Can't {verb} key {name} because its type is not LIST.", name=name)
            listed = settings.items(name, after[name] if name in after else kind.default(name))
            elements = _not_null(change).split(",")
            after[name] = ",".join(_with(listed, elements) if operation == _APPEND else _without(listed, elements))
        else:
            raise ConfigError(f"There is no operation {operation} on a setting.", name=_REQUEST)
    return after


def _default(name: str, listener: Settings) -> str:
    setting = settings.TOPIC[name]
    chain = broker_configs.of_topic(name, setting, listener, TopicConfig(**listener.topic_defaults))
    return (chain[0][1] if chain else setting.default) or ""


def _with(listed: list[str], elements: list[str]) -> list[str]:
    known = set(listed)
    return listed + [each for each in map(str.strip, elements) if each not in known]


def _without(listed: list[str], elements: list[str]) -> list[str]:
    gone = set(map(str.strip, elements))
    return [each for each in listed if each not in gone]


# -- ListConfigResources ---------------------------------------------------------------------------------


def list_config_resources(call: Call) -> Any:
    """Without types: all. The first version asks for those of client metrics."""
    Response = messages.ListConfigResourcesResponse
    wanted = call.request.resource_types or _KINDS
    if call.version < _FIRST_WITH_KINDS:
        wanted = [_CLIENT_METRICS]
    if not set(wanted) <= _KINDS:
        return Response(error_code=ErrorCode.UNSUPPORTED_VERSION)
    image = call.service.image
    named = [(_TOPIC, name) for name in image.topics]
    named += [(kind, str(each)) for kind in (_BROKER, _BROKER_LOGGER) for each in call.endpoints]
    named += [(_KEPT[kind], name) for kind, name in image.kafka_configs if kind in _KEPT]
    return Response(
        config_resources=[
            Response.ConfigResource(resource_name=name, resource_type=kind) for kind, name in named if kind in wanted
        ]
    )
