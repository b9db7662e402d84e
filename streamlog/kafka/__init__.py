"""Kafka's wire protocol in front of the same service that the Python objects use.

What there is of it:

- `listener`: `Listener`, its thread and its sockets. `connection`: frames, one request at a time, and the bounds.
- `control`: what a test does to clients, as `Listener.control`. `interceptor`: what becomes of their requests then. `faults`: what
  goes wrong for them, and for which requests. `error_responses`: the response of each API and version that says that a request failed.
- `patterns`: regular expressions of clients.
- `api_keys`: Kafka's APIs by their keys. `apis`: what a handler of a request is given, and what most handlers ask of it. `errors`:
  Kafka's codes for the errors of the library. `settings`: Kafka's names;
  `broker_configs`: those of brokers, `static_settings`: which of them cannot be changed; `group_configs`: those of groups; `client_metrics`: of
  subscriptions to metrics; `loggers`: the levels of the library's loggers.
- One file for each family of APIs: `produce`, `fetch`, `metadata`, `topics`, `configs`, `coordinators`, `groups`, `consumer_groups`, `offsets`,
  `transactions`, `producers`, `log_dirs`, `reassignments`, `quorum`. `loading`: requests that wait for the groups. What is not built is
  not advertised.
- `schema`, `schema.txt`: the facts of Kafka's messages, made from Kafka's own definitions.
- `messages`: a class for each message and structure. `compiler`: code that reads and writes a version of one, made when it
  is first seen.
- `protocol`: frames with headers to messages and back.

How a request becomes a response:

    header, at = protocol.decode_request_header(frame)         # frame: the bytes after the size
    low, high = protocol.versions_of(header.request_api_key)   # (0, -1) for an unknown API
    request = protocol.decode_request(header, frame, at)       # request.topics[0].partitions[0].fetch_offset
    Response = messages.FetchResponse                          # a constructor takes keywords, and has Kafka's defaults
    partition = Response.PartitionData(partition_index=0, high_watermark=7, records=[head, payload])
    response = Response(responses=[Response.FetchableTopicResponse(topic="orders", partitions=[partition])])
    connection.reply(protocol.encode_response(header, response))

A handler is written once for all versions: a decoded message has the defaults of the fields that its version lacks, and
an encoded one leaves out what the version has no place for. Only a value that is null where the version forbids it is
refused, with ValueError. Malformed bytes raise MalformedMessageError, and a connection that sent such is closed.

Records stay bytes. `records/kafka_wire.py` makes of the records of a Produce request the batch that `service.produce` takes, and
of a stored batch, of any form, the bytes that a Fetch response has:

    batch = kafka_wire.sealed(seed_of(at.topic_id, at.partition), data.records, max_bytes=…, max_uncompressed=…)
    service.produce(ProduceRequest(at, [batch], …))
    for fetched in service.fetch(at, offset, max_bytes, isolation_level).result().batches():
        records += kafka_wire.served(fetched.header, fetched.columns)

`sealed` says which error of Kafka each of its errors is. It does not know the version of the request: zstd in Produce below
version 7, or in a Fetch below 10 of a topic whose own codec is zstd, is UNSUPPORTED_COMPRESSION_TYPE (76), which the handler answers.
"""

from .control import Control as Control
from .faults import Fault as Fault
from .faults import When as When
from .interceptor import SeenRequest as SeenRequest
from .listener import Listener as Listener
