"""Serdes for keys and values: `bytes_`, `string`, `json`, `msgpack`, and `Serde`, the protocol of your own.

Given to `log.topic(name, key_serde=…, value_serde=…)`, `log.producer(value_serializer=…)` or
`log.consumer(…, value_deserializer=…)`. Without one, values are bytes, and a str that is sent becomes UTF-8.

>>> from streamlog import serde
>>> serde.json.deserialize(serde.json.serialize([1, "two"]))
[1, 'two']
"""

from .client.serde import Serde, bytes_, json, msgpack, string

__all__ = ["Serde", "bytes_", "json", "msgpack", "string"]
