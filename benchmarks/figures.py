"""A row of the table: one kind of work, streamlog's figure, a peer's, their ratio, the goal."""

from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

from benchmarks.measure import Samples


@dataclass(frozen=True)
class Row:
    """One row. `figure` is compared with the goal: the ratio, or streamlog's own figure if there is no peer.

    The goal of a rate is a least value. With `at_most` the figure is a time or a size, and the goal a greatest value.
    """

    work: str
    unit: str
    streamlog: float | None
    peer_name: str = ""
    peer: float | None = None
    goal: float | None = None
    at_most: bool = False
    note: str = ""
    pure: float | None = None
    """`figure` in a process without the core in C, if that was measured."""
    samples: Samples = field(default_factory=dict)

    @property
    def ratio(self) -> float | None:
        """streamlog's figure over the peer's."""
        return self.streamlog / self.peer if self.streamlog is not None and self.peer else None

    @property
    def figure(self) -> float | None:
        """What is compared with the goal."""
        return self.ratio if self.peer_name else self.streamlog

    @property
    def verdict(self) -> str:
        """ok, miss, skipped, or empty without a goal."""
        if self.figure is None:
            return "skipped"
        if self.goal is None:
            return ""
        return "ok" if (self.figure <= self.goal if self.at_most else self.figure >= self.goal) else "miss"

    def as_json(self) -> dict[str, Any]:
        """The row and what is derived from it, for json.dump."""
        return asdict(self) | {"ratio": self.ratio, "verdict": self.verdict}


def rate_row(
    work: str,
    samples: Samples,
    peer: str,
    *,
    counts: dict[str, int],
    unit: str = "records/s",
    goal: float | None = None,
    note: str = "",
    scale: float = 1.0,
    ours: str = "streamlog",
) -> Row:
    """A row of rates from the median seconds of two sides.

    `counts`: how much each side did in one round; `scale` converts that to `unit`.
    """
    rates = {name: scale * counts[name] / median(samples[name]) for name in (ours, peer)}
    return Row(work, unit, rates[ours], peer, rates[peer], goal, note=note, samples=pick(samples, ours, peer))


def flat_row(work: str, samples: Samples, small: str, unit: str, per_second: float, goal: float = 2.0) -> Row:
    """A row of the median time of a large case beside a small one, the sides "large" and "small".

    `small` says how small; `per_second` turns the seconds of a sample into `unit`.
    """
    figures = {name: per_second * median(samples[name]) for name in ("large", "small")}
    return Row(work, unit, figures["large"], f"at {small}", figures["small"], goal, at_most=True, samples=samples)


def skipped(
    work: str, samples: Samples, peer: str, module: str, count: int, unit: str = "records/s", ours: str = "streamlog"
) -> Row:
    """A row with streamlog's rate only: the peer is not installed."""
    rate = count / median(samples[ours])
    return Row(work, unit, rate, peer, note=f"{module} is not installed", samples=pick(samples, ours))


def pick(samples: Samples, *names: str) -> Samples:
    """The samples of the sides in a row."""
    return {name: samples[name] for name in names}
