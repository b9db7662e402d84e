"""Serdes, to be used as serializers and deserializers: `bytes_`, `string`, `json`, `msgpack`.

>>> from streamlog import serde
>>> serde.json.deserialize(serde.json.serialize([1, "two"]))
[1, 'two']
"""

from .client.serde import Serde, bytes_, json, msgpack, string

__all__ = ["Serde", "bytes_", "json", "msgpack", "string"]
