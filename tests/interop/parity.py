"""The same scenarios against Apache Kafka and against a listener, compared field by field.

    python -m tests.interop.parity                  # all
    python -m tests.interop.parity --only NAME      # one, with what each answered

A scenario is a function of `tests/interop/scenarios` that is given a bootstrap address. What differs on purpose is in `deliberate.py`,
with its reason; a difference that is not there fails, and so does one that is there and does not occur.
"""

from __future__ import annotations

import argparse
import importlib
import pkgutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from pprint import pformat
from typing import Any, NamedTuple
from unittest.mock import patch

import streamlog
from streamlog.kafka import Listener
from streamlog.replication import maintenance

from . import apache_kafka, scenarios
from .deliberate import DELIBERATE, TO_MEND, Deliberate
from .results import Normal, differences
from .scenarios import Scenario

REBALANCE_DELAY_MS = 100
AT_ONCE = 4
MOST_S = 300.0
"""From when the one before has ended: one that hangs is said to, and the process is ended at the end."""


class Outcome(NamedTuple):
    """What one scenario found: `raised` is a traceback where it could not be run to its end."""

    result: Any
    raised: str
    seconds: float


class Compared(NamedTuple):
    """One scenario on both sides. `wrong`: the differences that are not listed, and the deliberate ones that did not occur."""

    scenario: Scenario
    kafka: Outcome
    ours: Outcome
    wrong: list[str]
    deliberate: int = 0
    """How many values differ on purpose."""
    open: tuple[str, ...] = ()
    """The differences that are listed in `TO_MEND`."""
    mended: tuple[str, ...] = ()
    """The paths in `TO_MEND` at which nothing differs."""

    @property
    def verdict(self) -> str:
        """`same`, `deliberate` (but for what differs on purpose), `open` (but for what is to be mended), or `DIFFERS`."""
        if self.wrong:
            return "DIFFERS"
        return "open" if self.open else "deliberate" if self.deliberate else "same"


def all_scenarios() -> dict[str, Scenario]:
    for found in pkgutil.iter_modules(scenarios.__path__):
        importlib.import_module(f"{scenarios.__name__}.{found.name}")
    return dict(scenarios.REGISTERED)


@contextmanager
def both() -> Iterator[tuple[str, str]]:
    """The addresses of a fresh Apache Kafka and of a listener to a fresh log, both with Kafka's defaults."""
    settings = {**apache_kafka.PROMPT, "group.initial.rebalance.delay.ms": str(REBALANCE_DELAY_MS)}
    with ExitStack() as opened:
        kafka = opened.enter_context(apache_kafka.temporary(settings))
        folder = opened.enter_context(tempfile.TemporaryDirectory(prefix="streamlog-parity-"))
        log = opened.enter_context(streamlog.open(Path(folder) / "data"))
        # As often as Kafka, by `PROMPT`, looks for segments that have expired.
        opened.enter_context(patch.object(maintenance, "ACTIVE_EXPIRY_INTERVAL_MS", 1_000))
        listener = opened.enter_context(Listener(log, initial_rebalance_delay_ms=REBALANCE_DELAY_MS))
        yield kafka.bootstrap_servers, listener.bootstrap_servers


def _run(scenario: Scenario, bootstrap: str) -> Outcome:
    began = time.monotonic()
    try:
        return Outcome(Normal(bootstrap).of(scenario.run(bootstrap)), "", time.monotonic() - began)
    except Exception:
        return Outcome(None, traceback.format_exc(), time.monotonic() - began)


def compare(scenario: Scenario, kafka: Outcome, ours: Outcome) -> Compared:
    listed = [each for each in DELIBERATE if each.scenario == scenario.name]
    to_mend = [each for each in TO_MEND if each.scenario == scenario.name]
    wrong = [f"it failed on {side}:\n{each.raised}" for side, each in (("Kafka", kafka), ("ours", ours)) if each.raised]
    if wrong:
        is_known = not kafka.raised and any(each.is_at("") for each in to_mend)
        return (
            Compared(scenario, kafka, ours, [], open=tuple(wrong))
            if is_known
            else Compared(scenario, kafka, ours, wrong)
        )
    deliberate = 0
    still_open: list[str] = []
    met: set[Deliberate] = set()
    for path, (theirs, here) in differences(kafka.result, ours.result).items():
        reasons = [each for each in (*listed, *to_mend) if each.is_at(path)]
        met.update(reasons)
        text = f"{path}: Kafka {theirs!r}, ours {here!r}"
        if not reasons:
            wrong.append(text)
        elif any(each in listed for each in reasons):
            deliberate += 1
        else:
            still_open.append(text)
    wrong += [f"{each.path}: it is listed as deliberate, and does not differ" for each in listed if each not in met]
    mended = tuple(each.path for each in to_mend if each not in met)
    return Compared(scenario, kafka, ours, wrong, deliberate, tuple(still_open), mended)


def run(chosen: Sequence[Scenario], kafka: str, ours: str) -> Iterator[Compared]:
    """Run the scenarios, some at once, each on both sides side by side; then those that run alone."""
    together = [each for each in chosen if not each.is_alone]
    for beside in together, *([each] for each in chosen if each.is_alone):
        with ThreadPoolExecutor(AT_ONCE * 2) as pool:
            started = [(each, pool.submit(_run, each, kafka), pool.submit(_run, each, ours)) for each in beside]
            for scenario, theirs, here in started:
                yield compare(scenario, _outcome(theirs), _outcome(here))


def _outcome(running: Future[Outcome]) -> Outcome:
    try:
        return running.result(MOST_S)
    except TimeoutError:
        return Outcome(None, f"it did not end within {MOST_S} s", MOST_S)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.interop.parity", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--only", action="append", metavar="NAME", help="these scenarios, with what each side answered")
    parser.add_argument("--short", action="store_true", help="those that run with the tests")
    parser.add_argument("--quiet", action="store_true", help="not what each side answered")
    given = parser.parse_args(arguments)
    known = all_scenarios()
    for name in given.only or ():
        if name not in known:
            parser.error(f"there is no scenario {name!r}; there are {', '.join(known)}")
    chosen = [known[name] for name in given.only] if given.only else list(known.values())
    if given.short:
        chosen = [each for each in chosen if each.is_short]
    try:
        apache_kafka.prepare()
    except apache_kafka.KafkaError as error:
        print(error, file=sys.stderr)
        return 2
    verdicts: Counter[str] = Counter()
    mended: list[str] = []
    with both() as (kafka, ours):
        for each in run(chosen, kafka, ours):
            verdicts[each.verdict] += 1
            mended += [f"{each.scenario.name}: {path or 'it fails'}" for path in each.mended]
            counts = f" ({each.deliberate} deliberate, {len(each.open)} open)" if each.deliberate or each.open else ""
            print(
                f"{each.scenario.name:44} {each.kafka.seconds:6.2f} s {each.ours.seconds:6.2f} s  {each.verdict}{counts}"
            )
            for line in (*each.wrong, *(f"open: {line}" for line in each.open)):
                print("   ", line.replace("\n", "\n    "))
            if given.only and not given.quiet:
                print(
                    "Kafka:",
                    pformat(each.kafka.result, width=160),
                    "ours:",
                    pformat(each.ours.result, width=160),
                    sep="\n",
                )
            sys.stdout.flush()
    print(summary(verdicts, mended))
    return 1 if verdicts["DIFFERS"] else 0


def summary(verdicts: Counter[str], mended: Sequence[str]) -> str:
    """How many scenarios ended how, and what `TO_MEND` need not list any more."""
    lines = [
        f"{verdicts.total()} scenarios: {verdicts['same']} same, {verdicts['deliberate']} same but for what is deliberate, "
        f"{verdicts['open']} open, {verdicts['DIFFERS']} differ in what is not listed"
    ]
    lines += [f"listed in TO_MEND, and no longer different: {each}" for each in mended]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
