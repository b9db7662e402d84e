"""The subscriptions to metrics of clients (KIP-714), which are the resources CLIENT_METRICS, under Kafka's names.

They are checked, kept and given back, for tools that administrate them. No client is asked for metrics: as by a broker of Kafka's without
a receiver for them, that is not advertised.
"""

from __future__ import annotations

from collections.abc import Mapping

from ..broker.metadata import CLIENT_METRICS_CONFIG, Image
from ..errors import ConfigError
from . import settings
from .patterns import matcher
from .settings import INT, LIST, STRING, Setting

_INTERVAL_MS, _MATCH = "interval.ms", "match"
_LEAST_MS, _MOST_MS = 100, 3_600_000
_CLIENTS_BY = (
    "client_instance_id", "client_id", "client_software_name", "client_software_version", "client_source_address",
    "client_source_port",
)  # fmt: skip
_SHOWN = 200  # characters of what a client gave, in a message
KNOWN: Mapping[str, Setting] = {
    _INTERVAL_MS: Setting(INT, "300000", "How often a client sends its metrics."),
    _MATCH: Setting(LIST, "", "Which clients do: name=pattern, …, by their ids, software and addresses; all if it is empty."),
    "metrics": Setting(LIST, "", "Which metrics: how their names begin, or * for all."),
}  # fmt: skip


def given(image: Image, subscription: str) -> Mapping[str, str]:
    return image.kafka_configs.get((CLIENT_METRICS_CONFIG, subscription), {})


def to_change(name: str) -> Setting:
    """What a change of a part has to know of a setting: as in Kafka, nothing is added to these lists, they are set as a whole."""
    return Setting(STRING, None, "")


def check(texts: Mapping[str, str], request: str) -> None:
    """Raises ConfigError for settings that a subscription cannot have; by the name `request` where Kafka says INVALID_REQUEST."""
    for name, text in texts.items():
        known = KNOWN.get(name)
        if known is None:
            raise ConfigError(f"Unknown client metrics configuration: {name[:_SHOWN]}", name=request)
        value = settings.check(name, known, text)
        if name == _INTERVAL_MS and not _LEAST_MS <= value <= _MOST_MS:
            raise ConfigError(
                f"Invalid value {value} for {name}, it must be from {_LEAST_MS} to {_MOST_MS}.", name=request
            )
        if name == _MATCH:
            for each in value:
                _check_match(each)


def _check_match(text: str) -> None:
    by, *patterns = text.split("=")
    if len(patterns) != 1 or by.strip() not in _CLIENTS_BY:
        raise ConfigError(
            f"Illegal client matching pattern: {text[:_SHOWN]}. Give name=pattern, where the name is one of {', '.join(_CLIENTS_BY)}.",
            name=_MATCH,
        )
    try:
        matcher(patterns[0].strip())
    except ValueError as error:
        raise ConfigError(f"Illegal client matching pattern: {text[:_SHOWN]}: {error}", name=_MATCH) from error
