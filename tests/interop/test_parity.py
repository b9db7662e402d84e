"""A listener answers as Apache Kafka does: the short form of `python -m tests.interop.parity`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

pytest.importorskip("confluent_kafka", reason="confluent-kafka is not installed")
pytest.importorskip("kafka", reason="kafka-python is not installed")

from tests.interop import apache_kafka, parity
from tests.interop.deliberate import DELIBERATE, TO_MEND, Deliberate
from tests.interop.parity import Outcome
from tests.interop.scenarios import Scenario

SCENARIOS = parity.all_scenarios()
SHORT = [each for each in SCENARIOS.values() if each.is_short]
ONE = Scenario("one", lambda bootstrap: None, is_short=True)


@pytest.fixture(scope="module")
def results() -> Iterator[dict[str, parity.Compared]]:
    """All short scenarios are run at once."""
    reason = apache_kafka.unavailable()
    if reason is not None:
        pytest.skip(reason)
    apache_kafka.prepare()
    with parity.both() as (kafka, ours):
        yield {each.scenario.name: each for each in parity.run(SHORT, kafka, ours)}


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", [each.name for each in SHORT])
def test_a_listener_answers_as_apache_kafka_does(name: str, results: dict[str, parity.Compared]) -> None:
    assert not results[name].wrong, "\n".join(results[name].wrong)


def test_a_scenario_that_is_alone_runs_after_the_others_with_none_beside_it() -> None:
    begun: list[str] = []
    ended: list[str] = []
    found: dict[str, tuple[set[str], set[str]]] = {}

    def named(name: str, *, is_alone: bool) -> Scenario:
        def run(bootstrap: str) -> None:
            begun.append(name)
            found.setdefault(name, (set(begun), set(ended)))
            ended.append(name)

        return Scenario(name, run, is_short=True, is_alone=is_alone)

    chosen = [named("alone", is_alone=True), named("a", is_alone=False), named("b", is_alone=False)]
    chosen.append(named("alone, too", is_alone=True))
    assert [each.scenario.name for each in parity.run(chosen, "", "")] == ["a", "b", "alone", "alone, too"]
    assert found["alone"] == ({"a", "b", "alone"}, {"a", "b"})
    assert found["alone, too"][1] == {"a", "b", "alone"}
    assert ended.count("alone, too") == 2


def test_there_are_enough_scenarios_and_each_listed_difference_is_of_one() -> None:
    assert len(SCENARIOS) >= 60
    assert {each.scenario for each in (*DELIBERATE, *TO_MEND)} <= set(SCENARIOS)
    assert all(each.reason for each in DELIBERATE)


def compared(kafka: object, ours: object) -> list[str]:
    return parity.compare(ONE, Outcome(kafka, "", 0.0), Outcome(ours, "", 0.0)).wrong


@pytest.mark.parametrize(
    ("kafka", "ours", "path"),
    [
        ({"a": 1}, {"a": 2}, "a"),
        ({"a": [1, 2]}, {"a": [1]}, "a[1]"),
        ({"a": {"b": None}}, {"a": {"b": ""}}, "a.b"),
        ({"a": 1}, {}, "a"),
        ({}, {"a": 1}, "a"),
        (True, 1, ""),
    ],
)
def test_each_difference_is_found(kafka: object, ours: object, path: str) -> None:
    (wrong,) = compared(kafka, ours)
    assert wrong.startswith(f"{path}: Kafka ")
    assert compared(kafka, kafka) == []


def test_a_deliberate_difference_is_none_and_one_that_does_not_occur_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parity, "DELIBERATE", (Deliberate("one", "a[*].b", "so"),))
    assert compared({"a": [{"b": 1}]}, {"a": [{"b": 2}]}) == []
    assert compared({"a": [{"c": 1}]}, {"a": [{"c": 2}]}) != []
    assert compared({"a": []}, {"a": []}) == ["a[*].b: it is listed as deliberate, and does not differ"]


def test_a_scenario_that_fails_on_either_side_is_found() -> None:
    broken, fine = Outcome(None, "Traceback", 0.0), Outcome(None, "", 0.0)
    for kafka, ours in ((broken, fine), (fine, broken), (broken, broken)):
        assert parity.compare(ONE, kafka, ours).wrong
