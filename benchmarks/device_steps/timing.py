"""Times of several calls that do the same work, taken in turn, each with a cold L2 cache.

A sample is taken by the tuner's `CudaTimer`: the cache is flushed, then one call runs between two events. Calls below
`GRAPH_BELOW_US` are captured into a CUDA graph first, so that several small kernels are not timed by their launches.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

from kernelwright.tuner.measure import CudaTimer, Timer

GRAPH_BELOW_US = 50.0
Call = Callable[[], object]
Method = Literal["events", "graph"]


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How many samples are taken of each call.

    Args:
        warm_up: samples before, which do not count.
        least: at least so many.
        most: at most so many; FlashAttention's own script takes 30.
        budget_s: between the two, what fits into this time for all calls together.
        graph_below_us: calls that take less are captured into a graph.
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
    samples_us: list[float] = field(default_factory=list)
    note: str = ""
    reason: str = ""

    def to_record(self) -> dict[str, Any]:  # Any: JSON
        """Return median, 10th and 90th percentile, and the raw samples; nulls where there are none."""
        figures = summarise(self.samples_us)
        raw = [round(one, 3) for one in self.samples_us]
        notes = {"method_note": self.note} if self.note else {}
        return {**figures, "method": self.method, "samples_us": raw, **notes}


def summarise(samples_us: list[float]) -> dict[str, float | None]:
    """Return `time_us` (the median), `p10_us` and `p90_us`."""
    if not samples_us:
        return dict.fromkeys(("time_us", "p10_us", "p90_us"))
    tenths = statistics.quantiles(samples_us, n=10, method="inclusive") if len(samples_us) > 1 else samples_us * 9
    figures = {"time_us": statistics.median(samples_us), "p10_us": tenths[0], "p90_us": tenths[8]}
    return {name: round(value, 3) for name, value in figures.items()}


def interleaved(
    calls: Mapping[str, Call], timer: Timer, limits: Limits, capture: Callable[[Call], Call] | None = None
) -> dict[str, Timing]:
    """Time calls in turn, so that a clock that drifts meets all of them alike; who is first changes every round.

    Args:
        calls: by name. One that raises is left out from then on, with its reason; the others go on.
        timer: takes one sample.
        limits: how many.
        capture: makes a graph's replay of a call; None leaves graphs out.
    """
    found = {name: Timing() for name in calls}
    running: dict[str, Call] = dict(calls)
    expected_us: dict[str, float] = {}
    for name, call in calls.items():
        _attempt(name, running, found, partial(_warm_up, name, call, timer, limits, expected_us))
    for name in list(running):
        if capture is not None and expected_us[name] < limits.graph_below_us:
            running[name] = _captured(running[name], capture, found[name])
    for number in range(rounds(sum(expected_us.values()), limits)):
        names = list(running)
        shift = number % max(1, len(names))
        for name in names[shift:] + names[:shift]:
            _attempt(name, running, found, partial(_sample, running[name], timer, found[name]))
    return found


def rounds(total_us: float, limits: Limits) -> int:
    """Return how often all calls are timed, if together they take so long."""
    fitting = int(limits.budget_s * 1e6 / max(total_us, 1e-3))
    return max(limits.least, min(limits.most, fitting))


def _attempt(name: str, running: dict[str, Call], found: dict[str, Timing], action: Call) -> None:
    try:
        action()
    except Exception as error:
        running.pop(name, None)
        found[name].samples_us.clear()
        found[name].reason = describe(error)


def _sample(call: Call, timer: Timer, timing: Timing) -> None:
    timing.samples_us.append(timer.sample_us(call))


def _warm_up(name: str, call: Call, timer: Timer, limits: Limits, expected_us: dict[str, float]) -> None:
    samples = [timer.sample_us(call) for _ in range(max(1, limits.warm_up))]
    expected_us[name] = samples[-1]


def _captured(call: Call, capture: Callable[[Call], Call], timing: Timing) -> Call:
    try:
        replay = capture(call)
    except Exception as error:
        timing.note = f"not captured into a graph: {describe(error)}"
        return call
    timing.method = "graph"
    return replay


def capture_graph(call: Call) -> Call:
    """Capture a call on the current GPU and return the graph's replay."""
    import torch

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # allocations and handles that may not be made while capturing
        call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    replay: Call = graph.replay
    return replay


def cuda_timer() -> CudaTimer:
    """Return a timer that flushes the current GPU's whole L2 cache."""
    import torch

    return CudaTimer(max(1, round(torch.cuda.get_device_properties(0).L2_cache_size / 2**20)))


def describe(error: BaseException) -> str:
    """Return an exception in one line of at most 300 characters."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]
