"""Where a listener answers otherwise than Apache Kafka does: on purpose, and why; and what is still to be mended."""

from __future__ import annotations

import re
from typing import NamedTuple


class Deliberate(NamedTuple):
    """`path`: of the value in the scenario's result; `*` stands for any part of one."""

    scenario: str
    path: str
    reason: str

    def is_at(self, path: str) -> bool:
        pattern = ".*".join(re.escape(each) for each in self.path.split("*"))
        return re.fullmatch(pattern, path) is not None


_NOT_BUILT = "What is not built is not advertised: ACLs, SASL, tokens, quotas, telemetry, share and streams groups."
_EPOCHS = "A group's first epoch is 1 here and 2 in Kafka: clients only compare them."
_SAYS_WHAT = "Kafka answers with an error that says nothing, or not at all; here the client learns what is wrong."
_START = "A refusal says where the log begins, also where Kafka has not looked at the log yet."
_RECORDS = "The message says what is wrong. Without a list of records, clients fail the records of the batch alike."
_NO_TIME = "Every record has a time from 1970 on: by it, it is found and retained."
_STATIC = "Kafka's new clusters set it for all brokers when they are formatted (KIP-966), to its default, 1; here it is the default."
_PROMPT = "The comparison starts Kafka with a shorter file.delete.delay.ms, so that it ends sooner."
_OFTEN = "A partition moves with its owner's next heartbeat: tests would wait for 5 s."

DELIBERATE: tuple[Deliberate, ...] = (
    Deliberate("advertised_versions", "version *.keys.*", _NOT_BUILT),
    Deliberate("advertised_versions", "version *.supported.*", _NOT_BUILT),
    Deliberate("advertised_versions", "version *.finalized.*", _NOT_BUILT),
    Deliberate("heartbeat_interval", "", _OFTEN),
    Deliberate("a_modern_member", "*_epoch", _EPOCHS),
    Deliberate("two_modern_members", "*[0]", _EPOCHS),
    Deliberate("static_modern_members", "*_epoch", _EPOCHS),
    Deliberate(
        "static_modern_members",
        "described.group_state",
        "What a static member that is away has is kept for it: nothing moves.",
    ),
    Deliberate(
        "heartbeats_that_are_refused",
        "a group that is not there",
        "Clients join again for UNKNOWN_MEMBER_ID, and give up for GROUP_ID_NOT_FOUND, as after a listener on another log.",
    ),
    Deliberate("mixed_with_an_unknown_protocol", "another type", _SAYS_WHAT),
    Deliberate("mixed_with_an_unknown_protocol", "bytes of its own", _SAYS_WHAT),
    Deliberate("odd_batches", "unknown codec.error_code", _SAYS_WHAT),
    Deliberate("odd_batches", "not compressed though it says so.error_code", _SAYS_WHAT),
    Deliberate("odd_batches", "null", _SAYS_WHAT),
    Deliberate("odd_batches", "*.log_start_offset", _START),
    Deliberate("produce_by_version", "zstd.6.log_start_offset", _START),
    Deliberate("refused_records", "*.record_errors[0]", _RECORDS),
    Deliberate("timestamps", "*.record_errors[0]", _RECORDS),
    Deliberate("timestamps_too_long_ago", "*.record_errors[0]", _RECORDS),
    Deliberate("timestamps", "minus one.*", _NO_TIME),
    Deliberate("timestamps", "negative.*", _NO_TIME),
    Deliberate("described_topic", "configs.min.insync.replicas.config_source", _STATIC),
    Deliberate("described_topic", "configs.file.delete.delay.ms.*", _PROMPT),
    Deliberate("configs_of_a_created_topic", "configs.min.insync.replicas.config_source", _STATIC),
    Deliberate("configs_of_a_created_topic", "configs.file.delete.delay.ms.*", _PROMPT),
    Deliberate("synonyms_of_configs", "min.insync.replicas.*", _STATIC),
    Deliberate("configs_of_the_broker", "min.insync.replicas.config_source", _STATIC),
    Deliberate("configs_of_brokers", "*.min.insync.replicas*", _STATIC),
    Deliberate("changing_configs", "no operation[0]", _SAYS_WHAT),
    Deliberate("client_metrics_subscriptions", "refused.no operation", _SAYS_WHAT),
    Deliberate("configs_of_a_group", "at first.consumer.heartbeat.interval.ms.*", _OFTEN),
    Deliberate("configs_of_a_group", "given.consumer.heartbeat.interval.ms.synonyms[1]*", _OFTEN),
)

# Each is Kafka's way to do it, and is to be done here. One that no longer differs is named at the end of a run.
TO_MEND: tuple[Deliberate, ...] = ()
