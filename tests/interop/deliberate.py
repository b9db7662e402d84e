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

DELIBERATE: tuple[Deliberate, ...] = (
    Deliberate("advertised_versions", "version *.keys.*", _NOT_BUILT),
    Deliberate("advertised_versions", "version *.supported.*", _NOT_BUILT),
    Deliberate("advertised_versions", "version *.finalized.*", _NOT_BUILT),
    Deliberate(
        "heartbeat_interval", "", "A partition moves with its owner's next heartbeat: tests would wait for 5 s."
    ),
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
    Deliberate("timestamps", "minus one.*", _NO_TIME),
    Deliberate("timestamps", "negative.*", _NO_TIME),
)

# Each is Kafka's way to do it, and is to be done here. What no longer differs may be left out; it does not fail.
TO_MEND: tuple[Deliberate, ...] = (
    Deliberate("stale_members", "commit of another group", "commits of a group that is not there"),
    Deliberate("two_classic_members", "while it joins.members[*", "the last assignment, while the next is made"),
    Deliberate("offsets_of_groups", "4096*", "the bound of an offset's metadata counts characters, and 4096 pass"),
    Deliberate("offsets_of_groups", "fetched.*", "the same"),
    Deliberate("deleting_groups", "offsets of no topic.*", "OffsetDelete of a topic that is not there"),
    Deliberate("a_modern_member", "commits.*", "commits by the epochs of members of KIP-848"),
    Deliberate("a_modern_member", "fetches.*", "fetches by the epochs of members of KIP-848"),
    Deliberate("static_modern_members", "the old one", "FENCED_INSTANCE_ID for the member that was replaced"),
    Deliberate("ends_in_each_state", "*.error_code", "INVALID_PRODUCER_ID_MAPPING"),
    Deliberate("adding_to_transactions", "a*", "INVALID_PRODUCER_ID_MAPPING"),
    Deliberate("offsets_in_transactions", "open[1].*", "UNSTABLE_OFFSET_COMMIT of those partitions alone that are"),
    Deliberate("described_transactions", "*.transaction_start_time_ms", "the start of a transaction that has ended"),
    Deliberate("timestamps_too_long_ago", "*", "message.timestamp.before.max.ms"),
    Deliberate("codecs_of_topics", "*", "compression.type=uncompressed, and batches compressed anew"),
    Deliberate("not_enough_replicas", "*", "min.insync.replicas above the number of replicas"),
    Deliberate("records_that_go_by_age", "*", "retention of the segment that is written to"),
    Deliberate("transactional_batches_by_version", "*", "TRANSACTION_ABORTABLE; a plain batch in an open transaction"),
    Deliberate("requests_that_are_none", "an empty frame", "an empty frame"),
    Deliberate("creations_that_are_refused", "assigned*", "replicas assigned by hand"),
    Deliberate("adding_partitions", "*assigned*", "replicas assigned by hand"),
    Deliberate("deleting_topics", "twice*", "a topic twice in one request"),
    Deliberate("deleting_records", "compacted.*", "POLICY_VIOLATION"),
    Deliberate("topic_names", "that collides", "names that differ in . and _ alone"),
    Deliberate("invalid_topic_configs", "*", "settings"),
    Deliberate("described_topic", "*", "settings"),
    Deliberate("configs_of_a_created_topic", "*", "settings"),
    Deliberate("synonyms_of_configs", "*", "settings"),
    Deliberate("documentation_of_configs", "*", "settings"),
    Deliberate("some_configs", "*", "settings"),
    Deliberate("changing_configs", "*", "settings"),
    Deliberate("replacing_configs", "*", "settings"),
    Deliberate("configs_of_the_broker", "*", "settings"),
    Deliberate("changing_the_broker", "*", "settings"),
    Deliberate("config_resources", "*", "settings"),
    Deliberate("java_admin", "*", "settings"),
    Deliberate("java_consuming", "*", "the bound of an offset's metadata"),
)
