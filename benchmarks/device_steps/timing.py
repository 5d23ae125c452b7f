"""Times of several calls that do the same work, taken in turn, each with a cold L2 cache.

Samples are those of `runtime/timing.py`. Where one of the calls is so short that events would time its launch, all are
captured into graphs, so that they are compared alike.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from kernelwright.runtime.timing import (
    GRAPH_BELOW_US,
    Call,
    Capture,
    Method,
    Sampling,
    Timer,
    by_events,
    sampling_of,
)


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How many samples are taken of each call.

    Args:
        warm_up: samples before, which do not count.
        least: at least so many.
        most: at most so many; FlashAttention's own script takes 30.
        budget_s: between the two, what fits into this time for all calls together.
        graph_below_us: where a call takes less, all are captured into graphs.
    """

    warm_up: int = 3
    least: int = 7
    most: int = 30
    budget_s: float = 1.0
    graph_below_us: float = GRAPH_BELOW_US


@dataclass(kw_only=True)
class Timing:
    """The samples of one call, in the order they were taken. `reason` says why there are none."""

    method: Method = "events"
    launches: int = 1
    samples_us: list[float] = field(default_factory=list)
    note: str = ""
    reason: str = ""

    def to_record(self) -> dict[str, Any]:  # Any: JSON
        """Return median, 10th and 90th percentile, and the raw samples; nulls where there are none."""
        figures = summarise(self.samples_us)
        raw = [round(one, 3) for one in self.samples_us]
        notes = {"method_note": self.note} if self.note else {}
        return {**figures, "method": self.method, "launches": self.launches, "samples_us": raw, **notes}


def summarise(samples_us: list[float]) -> dict[str, float | None]:
    """Return `time_us` (the median), `p10_us` and `p90_us`."""
    if not samples_us:
        return dict.fromkeys(("time_us", "p10_us", "p90_us"))
    tenths = statistics.quantiles(samples_us, n=10, method="inclusive") if len(samples_us) > 1 else samples_us * 9
    figures = {"time_us": statistics.median(samples_us), "p10_us": tenths[0], "p90_us": tenths[8]}
    return {name: round(value, 3) for name, value in figures.items()}


def interleaved(
    calls: Mapping[str, Call], timer: Timer, limits: Limits, capture: Capture | None = None
) -> dict[str, Timing]:
    """Time calls in turn, so that a clock that drifts meets all of them alike; who is first changes every round.

    Args:
        calls: by name. One that raises is left out from then on, with its reason; the others go on.
        timer: takes one sample.
        limits: how many.
        capture: makes the graphs of a call; None leaves graphs out.
    """
    found = {name: Timing() for name in calls}
    running: dict[str, Sampling] = {name: by_events(call, timer) for name, call in calls.items()}
    expected_us: dict[str, float] = {}
    for name, sampling in list(running.items()):
        _attempt(name, running, found, partial(_warm_up, name, sampling, limits, expected_us))
    shortest = min((expected_us[name] for name in running), default=limits.graph_below_us)
    method: Method = "graph" if shortest < limits.graph_below_us else "events"
    for name in running:
        running[name] = sampling_of(calls[name], timer, expected_us[name], method, capture)
        found[name].method, found[name].launches = running[name].method, running[name].launches
        found[name].note = running[name].note
    for number in range(rounds(sum(one.cost_us for one in running.values()), limits)):
        names = list(running)
        shift = number % max(1, len(names))
        for name in names[shift:] + names[:shift]:
            _attempt(name, running, found, partial(_sample, running[name], found[name]))
    return found


def rounds(total_us: float, limits: Limits) -> int:
    """Return how often all calls are timed, if together they take so long."""
    fitting = int(limits.budget_s * 1e6 / max(total_us, 1e-3))
    return max(limits.least, min(limits.most, fitting))


def _attempt(name: str, running: dict[str, Sampling], found: dict[str, Timing], action: Call) -> None:
    try:
        action()
    except Exception as error:
        running.pop(name, None)
        found[name].samples_us.clear()
        found[name].reason = describe(error)


def _sample(sampling: Sampling, timing: Timing) -> None:
    timing.samples_us.append(sampling.sample_us())


def _warm_up(name: str, sampling: Sampling, limits: Limits, expected_us: dict[str, float]) -> None:
    samples = [sampling.sample_us() for _ in range(max(1, limits.warm_up))]
    expected_us[name] = samples[-1]


def describe(error: BaseException) -> str:
    """Return an exception in one line of at most 300 characters."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]
