"""Device time of a call on a GPU, with a cold L2 cache, by events or by a graph.

`events`: the cache is flushed, then one call runs between two events. The flush keeps the GPU busy while the host
issues the call, so that the host's share does not count. That fails for short calls: the flush may be over before the
call is issued, events tell half microseconds, and what lies between an event and a launch is as long as the kernel.

`graph`: one graph holds `launches` times a flush and the call, another one the flushes alone. A sample is the
difference of their times over `launches`. Each launch meets the cache as cold as with events; what graphs and flushes
cost is in both and cancels. What a call finds dirty in the cache and must write back counts as its own, as with events.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

Call = Callable[[], object]
Method = Literal["events", "graph"]

GRAPH_BELOW_US = 50.0
"""Calls that take less are timed by graphs: events resolve half a microsecond (CUDA's manual), 1 % of this."""

_GRAPH_US = 400.0  # of calls in a graph, so that half a microsecond is an eighth of a per cent
_LAUNCHES = (4, 40)
_FLUSHES = 3  # samples of the flushes alone before the first sample; each later one adds one


class Timer(Protocol):
    """Measures one call of a function on the device, with a cold L2 cache."""

    def sample_us(self, call: Call) -> float: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How a call is sampled.

    Args:
        method: `graph` or `events`.
        sample_us: takes one sample.
        launches: of the call behind one sample.
        cost_us: what one sample takes on the device, about.
        note: why it is not sampled as it should be; "" if it is.
    """

    method: Method
    sample_us: Callable[[], float]
    launches: int = 1
    cost_us: float = 0.0
    note: str = ""


Capture = Callable[[Call, Timer, float], Sampling]
"""Makes the graphs of a call for a timer, from how long it takes in microseconds; raises if it cannot be captured."""


def method_for(expected_us: Sequence[float]) -> Method:
    """Return how to time calls that are compared with one another: all alike, so by the shortest of them."""
    return "graph" if min(expected_us, default=math.inf) < GRAPH_BELOW_US else "events"


def launches_for(expected_us: float) -> int:
    """Return how many launches a graph holds of a call that takes so long."""
    least, most = _LAUNCHES
    return max(least, min(most, math.ceil(_GRAPH_US / max(expected_us, 1e-3))))


def by_events(call: Call, timer: Timer, expected_us: float = 0.0, note: str = "") -> Sampling:
    """Sample a call between events."""
    return Sampling(method="events", sample_us=lambda: timer.sample_us(call), cost_us=expected_us, note=note)


def sampling_of(call: Call, timer: Timer, expected_us: float, method: Method, capture: Capture | None) -> Sampling:
    """Return how to sample a call by a method. What cannot be captured is sampled by events, with a note."""
    if method == "events" or capture is None:
        return by_events(call, timer, expected_us)
    try:
        return capture(call, timer, expected_us)
    except Exception as error:  # whatever a call does that a capture does not allow
        reason = " ".join(f"not captured into a graph: {type(error).__name__}: {error}".split())[:300]
        return by_events(call, timer, expected_us, reason)


def difference_sampling(
    filled: Call, flushes: Call, timer: Timer, launches: int, expected_us: float, count: int = _FLUSHES
) -> Sampling:
    """Sample by what `filled` takes longer than `flushes`, of which the median so far counts.

    Args:
        filled: runs a flush and the call, `launches` times.
        flushes: runs as many flushes.
        timer: times them, as calls.
        launches, expected_us: see `Sampling`.
        count: samples of the flushes to begin with.
    """
    timer.sample_us(filled)  # a graph's first replay uploads it
    timer.sample_us(flushes)
    alone = [timer.sample_us(flushes) for _ in range(count)]

    def sample_us() -> float:
        alone.append(timer.sample_us(flushes))
        return (timer.sample_us(filled) - statistics.median(alone)) / launches

    cost_us = 2 * statistics.median(alone) + launches * expected_us
    return Sampling(method="graph", sample_us=sample_us, launches=launches, cost_us=cost_us)
