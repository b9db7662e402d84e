"""The programs of `clients` that this machine can build and run: Python's clients where they are installed, others where their tools are.

franz-go is left to the command, `python -m tests.interop.clients`: Go compiles it for minutes.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from .clients.driver import CLIENTS, Command, missing_of, run_scenario, scenarios_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

BUILT_SOON = [name for name in CLIENTS if name != "franz-go"]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Command | Exception]:
    return {}


@pytest.mark.parametrize(
    ("name", "scenario", "variant"),
    [(name, *each) for name in BUILT_SOON for each in scenarios_of(CLIENTS[name])],
)
def test_a_client_of_another_make_does_what_it_does_with_kafka(
    built: dict[str, Command | Exception],
    tmp_path_factory: pytest.TempPathFactory,
    name: str,
    scenario: str,
    variant: str,
) -> None:
    client = CLIENTS[name]
    missing = missing_of(client) + [each for each in client.modules if importlib.util.find_spec(each) is None]
    if missing:
        pytest.skip(f"{name} needs {', '.join(missing)}")
    if name not in built:
        where: Path = tmp_path_factory.mktemp(name)
        try:
            built[name] = client.build(where)
        except RuntimeError as error:  # its registry cannot be reached
            built[name] = error
    command = built[name]
    if isinstance(command, Exception):
        pytest.skip(f"{name} could not be built: {command}")
    run_scenario(command, scenario, variant)
