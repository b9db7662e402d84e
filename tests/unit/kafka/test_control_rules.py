"""Which faults fire for which requests: the rules alone, without a listener."""

from __future__ import annotations

import random
import threading
from typing import Any

import pytest

from streamlog import ConfigError
from streamlog.errors import ClosedError, RequestTimedOutError
from streamlog.kafka import error_responses, messages, protocol, schema
from streamlog.kafka.control import Control
from streamlog.kafka.errors import ErrorCode
from streamlog.kafka.faults import Asked, Fault, Rules, When, partitions_named, topic_and_partition
from streamlog.kafka.interceptor import Interceptor
from tests.kafka.random_messages import random_message

PRODUCE, FETCH, HEARTBEAT = 0, 1, 12


def new_control() -> Control:
    """Of a listener that is not started."""
    return Control(Interceptor(), lambda: None)


def asked(key: int = PRODUCE, *, broker: int = 0, client_id: str = "c", **partitions: set[int]) -> Asked:
    named = {topic: frozenset(numbers) for topic, numbers in partitions.items()}
    return Asked(key, 4, broker, client_id, named)


def pattern(fault: Fault, request: Asked, count: int) -> str:
    return "".join("x" if fault.fires(request) else "." for _ in range(count))


@pytest.mark.parametrize(
    ("facts", "fires"),
    [
        ({}, "x....."),
        ({"nth": 3}, "..x..."),
        ({"times": 2}, "xx...."),
        ({"nth": 2, "times": 3}, ".xxx.."),
        ({"times": "always"}, "xxxxxx"),
        ({"nth": 4, "times": "always"}, "...xxx"),
        ({"probability": 1.0}, "xxxxxx"),
        ({"probability": 1.0, "times": 2}, "xx...."),
    ],
)
def test_a_fault_fires_from_the_nth_request_on_so_many_times(facts: When, fires: str) -> None:
    fault = Fault("disconnect", PRODUCE, facts)
    assert pattern(fault, asked(), 6) == fires
    assert fault.fired == fires.count("x")


def test_requests_that_a_fault_is_not_meant_for_are_not_counted() -> None:
    fault = Fault("disconnect", PRODUCE, {"topic": "t", "nth": 2})
    assert [fault.fires(each) for each in (asked(t={0}), asked(FETCH, t={0}), asked(u={0}), asked(t={0}))] == [
        False, False, False, True,
    ]  # fmt: skip


def test_with_a_probability_the_seed_decides_which_requests() -> None:
    one, again, other = (Fault("disconnect", None, {"probability": 0.3, "seed": seed}) for seed in (5, 5, 6))
    found = pattern(one, asked(), 1000)
    assert pattern(again, asked(), 1000) == found
    assert pattern(other, asked(), 1000) != found
    assert 230 < found.count("x") < 370


@pytest.mark.parametrize(
    ("facts", "request_", "is_meant"),
    [
        ({}, asked(HEARTBEAT), False),
        ({"broker": 1}, asked(broker=1), True),
        ({"broker": 1}, asked(broker=0), False),
        ({"client_id": "shop"}, asked(client_id="shop"), True),
        ({"client_id": "shop"}, asked(client_id="till"), False),
        ({"topic": "t"}, asked(t={0}, u={1}), True),
        ({"topic": "t"}, asked(u={0}), False),
        ({"topic": "t", "partition": 1}, asked(t={0}, u={1}), False),
        ({"topic": "t", "partition": 1}, asked(t={0, 1}), True),
        ({"partition": 1}, asked(t={0}, u={1}), True),
        ({"partition": 2}, asked(t={0}, u={1}), False),
        ({"topic": "t", "partition": 1}, asked(t=set()), True),  # a request that names no partitions is for all
        ({"topic": "t", "partition": 1}, Asked(PRODUCE, 4, 0, "c", None), True),  # and one that names no topics
    ],
)
def test_a_fault_is_meant_for_some_requests(facts: When, request_: Asked, is_meant: bool) -> None:
    assert Fault("disconnect", PRODUCE, facts).fires(request_) is is_meant


def test_without_an_api_a_fault_is_meant_for_all() -> None:
    fault = Fault("delay", None, {"times": "always"})
    assert [fault.fires(asked(key)) for key in (PRODUCE, FETCH, HEARTBEAT)] == [True] * 3


def test_what_comes_after_a_disconnection_or_an_error_of_the_whole_is_not_counted() -> None:
    rules = Rules()
    kinds: list[Any] = [
        ("delay", {}), ("error", {"code": ErrorCode.NOT_LEADER_OR_FOLLOWER}), ("disconnect", {}), ("drop_response", {}),
    ]  # fmt: skip
    faults = [Fault(kind, None, {}, **facts) for kind, facts in kinds]
    for each in faults:
        rules.add(each)
    assert rules.decide(asked(t={0})) == faults[:3]  # the error is one of partitions
    assert rules.decide(asked(t={0})) == faults[3:]
    whole = Fault("error", HEARTBEAT, {}, code=ErrorCode.NOT_COORDINATOR)
    later = Fault("drop_response", HEARTBEAT, {})
    rules.add(whole)
    rules.add(later)
    assert rules.decide(asked(HEARTBEAT)) == [whole]
    assert rules.decide(asked(HEARTBEAT)) == [later]


def test_a_fault_that_has_fired_as_often_as_it_may_is_not_looked_at_any_more() -> None:
    rules = Rules()
    once, always = Fault("delay", None, {}), Fault("delay", None, {"times": "always"})
    rules.add(once)
    rules.add(always)
    rules.decide(asked())
    assert rules.active == (always,)


def test_a_thread_waits_until_a_fault_has_fired() -> None:
    fault = Fault("disconnect", PRODUCE, {})
    with pytest.raises(RequestTimedOutError, match="has not fired within"):
        fault.wait(0.001)
    waiting = threading.Thread(target=fault.wait)
    waiting.start()
    fault.fires(asked())
    waiting.join(20)
    assert not waiting.is_alive()
    fault.wait(0)


def test_faults_that_never_fired_are_listed_unless_they_may_not() -> None:
    control = new_control()
    one, two = control.disconnect("Produce"), control.disconnect("Fetch")
    control.disconnect("Fetch", optional=True)
    with control.delay("Heartbeat", 5) as three:
        pass
    assert control.unfired() == [one, two, three]
    one.fires(asked())
    assert control.unfired() == [two, three]
    one.remove()
    two.remove()
    assert control.unfired() == [two, three]
    assert one not in control.faults
    control.clear()
    assert (control.unfired(), control.faults) == ([], [])


def test_a_fault_is_removed_at_the_end_of_its_block() -> None:
    control = new_control()
    with control.disconnect("Produce", times="always") as fault:
        assert control._interceptor.rules.decide(asked()) == [fault]
    assert control._interceptor.rules.decide(asked()) == []


@pytest.mark.parametrize(
    "error", ["NOT_LEADER_OR_FOLLOWER", "not_leader_or_follower", 6, ErrorCode.NOT_LEADER_OR_FOLLOWER]
)
@pytest.mark.parametrize("api", ["Produce", "produce", 0])
def test_apis_and_errors_have_kafkas_names_and_numbers(api: Any, error: Any) -> None:
    fault = new_control().fail(api, error)
    assert (fault.key, fault.code) == (PRODUCE, ErrorCode.NOT_LEADER_OR_FOLLOWER)


@pytest.mark.parametrize(
    ("inject", "message"),
    [
        (lambda control: control.fail("Prodcue", 6), "no API 'Prodcue' here .did you mean 'Produce'"),
        (lambda control: control.fail(9999, 6), "no API of key 9999"),
        (lambda control: control.fail(None, 6), "by Kafka.s name or key, not None"),
        (lambda control: control.fail("Produce", "NOT_LEADER"), "has no error 'NOT_LEADER'"),
        (lambda control: control.fail("Produce", 12345), "by Kafka.s name or code"),
        (lambda control: control.fail("Produce", 0), "NONE is no error"),
        (lambda control: control.fail("Heartbeat", 16, topic="t"), "Heartbeat name no topics"),
        (lambda control: control.fail("Produce", 6, times=0), "times"),
        (lambda control: control.fail("Produce", 6, times="ever"), "times"),
        (lambda control: control.fail("Produce", 6, nth=0), "nth"),
        (lambda control: control.fail("Produce", 6, topic=7), "topic"),
        (lambda control: control.fail("Produce", 6, broker=-1), "broker"),
        (lambda control: control.fail("Produce", 6, probability=0), "above 0 and at most 1"),
        (lambda control: control.fail("Produce", 6, seed=1), "A seed is for a probability"),
        (lambda control: control.fail("Produce", 6, topics="t"), "no setting 'topics' .did you mean 'topic'"),
        (lambda control: control.delay("Produce", 3_600_001), "delay_ms"),
        (lambda control: control.max_versions({"Produce": 99}), "Produce"),
        (lambda control: control.max_versions({"ApiVersions": None}), "cannot be taken away"),
        (lambda control: control.max_versions({"Produce": 7, PRODUCE: 8}), "Produce is given twice"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused(inject: Any, message: str) -> None:
    control = new_control()
    with pytest.raises(ConfigError, match=message):
        inject(control)
    assert control.faults == []


def test_a_seed_that_was_not_given_is_0() -> None:
    assert new_control().delay(None, 1, probability=0.5).seed == 0


def test_a_test_asserts_that_a_fault_fired() -> None:
    fault = new_control().disconnect("Fetch")
    with pytest.raises(AssertionError, match="did not fire"):
        fault.assert_fired()
    assert fault.fires(Asked(1, 12, 0, "me", {}))
    fault.assert_fired()


def test_what_needs_a_listener_says_so_without_one() -> None:
    with pytest.raises(ClosedError, match="not started"):
        new_control().advance(1)


def test_the_lowest_of_several_pins_counts_until_it_is_removed() -> None:
    control = new_control()
    with control.max_versions({"Produce": 9}):
        with control.max_versions({"Produce": 7, "Fetch": 11}):
            assert (control._interceptor.max_version(PRODUCE, 13), control._interceptor.max_version(FETCH, 18)) == (
                7,
                11,
            )
        assert (control._interceptor.max_version(PRODUCE, 13), control._interceptor.max_version(FETCH, 18)) == (9, 18)
    assert control._interceptor.max_version(PRODUCE, 13) == 13


def test_topics_are_known_by_their_ids_and_resources_by_their_type() -> None:
    Produce = messages.ProduceRequest
    data = [Produce.TopicProduceData(topic_id=b"a" * 16, partition_data=[Produce.PartitionProduceData(index=3)])]
    assert partitions_named(0, 13, Produce(topic_data=data), {b"a" * 16: "t"}) == {"t": {3}}
    assert partitions_named(0, 13, Produce(topic_data=data), {}) == {}
    Alter = messages.AlterConfigsRequest
    resources = [
        Alter.AlterConfigsResource(resource_type=kind, resource_name=name) for kind, name in ((2, "t"), (4, "0"))
    ]
    assert partitions_named(33, 2, Alter(resources=resources), {}) == {"t": frozenset()}
    Fetch = messages.OffsetFetchRequest
    groups = [
        Fetch.OffsetFetchRequestGroup(
            group_id=group, topics=[Fetch.OffsetFetchRequestTopics(name="t", partition_indexes=[n, 7])]
        )
        for n, group in enumerate("gh")
    ]
    assert partitions_named(9, 8, Fetch(groups=groups), {}) == {"t": {0, 1, 7}}
    assert partitions_named(20, 5, messages.DeleteTopicsRequest(topic_names=["a", "b"]), {}) == {
        "a": frozenset(),
        "b": frozenset(),
    }
    assert partitions_named(3, 12, messages.MetadataRequest(topics=None), {}) is None
    assert partitions_named(12, 4, messages.HeartbeatRequest(), {}) == {}


@pytest.mark.parametrize(("name", "key"), [(name, key) for key, name in sorted(schema.names().items())])
def test_what_a_request_names_is_what_its_response_would_have_errors_for(name: str, key: int) -> None:
    rng = random.Random(name)
    low, high = protocol.versions_of(key)
    for version in range(low, high + 1):
        for _ in range(20):
            request = random_message(rng, f"{name}Request", version)
            named = partitions_named(key, version, request, {})
            places = error_responses.places_of(key, version, request)
            if named is None or places is None:
                continue
            found = [topic_and_partition(place, {}) for place in places]
            assert {topic for topic, _ in found if topic} <= named.keys(), version
            assert {(topic, number) for topic, number in found if topic and number is not None} == {
                (topic, number) for topic, numbers in named.items() for number in numbers
            }, version
