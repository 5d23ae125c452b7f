"""What is known about a point after it was tried. Failures are results with a kind, and are kept."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

from kernelwright.gen.spec import Variant
from kernelwright.runtime.timing import Method

Label = Literal["modelled", "measured"]
Status = Literal["ok", "compile", "spill", "launch", "wrong", "timeout"]
"""`illegal` points are counted when the pool is made and never tried."""

STATUSES: tuple[Status, ...] = get_args(Status)

Kind = Literal["correct", "constraints", "compile", "runtime", "timeout", "correctness"]
"""What became of a point, in the words of the T4 format for tuning results; stores, tables and reports use these."""

INVALIDITY: dict[Status, Kind] = {
    "ok": "correct",
    "compile": "compile",
    "spill": "constraints",  # a rule of ours that only the compiler can check
    "launch": "runtime",
    "wrong": "correctness",
    "timeout": "timeout",
}

FIGURE_FIELD: dict[Label, str] = {"modelled": "model_cycles", "measured": "time_us"}
"""The name of a figure says what it is; the two are never compared."""

TIE = 0.02
"""Figures closer than this are ties: neither model nor clock tells them apart reliably."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """A point after it was tried.

    Args:
        variant: what was tried.
        status: `ok`, or the kind of failure.
        detail: why it failed; "" if it did not.
        figures: by shape name, model cycles or microseconds by the study's label; empty unless `ok`.
        registers: of a thread, from ptxas.
        spill_bytes: spill stores and loads of a thread, from ptxas.
        blocks_per_sm: thread blocks that an SM holds.
        verified: the check that it passed, as a table records it.
        seconds: how long trying it took, compiling aside.
        samples: the raw times behind each figure, by shape name; none for modelled figures.
        states: clocks, power and throttle reasons of the GPU after the samples of a shape, where it tells them.
        methods: how the samples of a shape were taken, events or graph; none for modelled figures.
        dropped: of each shape on which few samples were taken, why: it is far behind. Its figure there is a rough one.
        final: the number of the study's final that the figures are from, from 1; 0 for the search's own estimate.
    """

    variant: Variant
    status: Status
    detail: str = ""
    figures: Mapping[str, float] = field(default_factory=dict)
    registers: int = 0
    spill_bytes: int = 0
    blocks_per_sm: int = 0
    verified: Mapping[str, object] | None = None
    seconds: float = 0.0
    samples: Mapping[str, Sequence[float]] = field(default_factory=dict)
    states: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    methods: Mapping[str, Method] = field(default_factory=dict)
    dropped: Mapping[str, str] = field(default_factory=dict)
    final: int = 0

    @property
    def kind(self) -> Kind:
        """What became of it, in the words of tables and reports."""
        return INVALIDITY[self.status]

    @property
    def score(self) -> float:
        """The geometric mean of the figures: doubling any one shape weighs the same. Infinite for a failure."""
        if self.status != "ok" or not self.figures:
            return math.inf
        return math.exp(sum(math.log(figure) for figure in self.figures.values()) / len(self.figures))


def contenders(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Return the points that succeeded and whose figures may be compared: those of the last final, if there was one.

    The estimates of a search are minutes apart, in which a GPU's clock changes; finalists are timed in turn.
    """
    last = max((one.final for one in outcomes), default=0)
    return [one for one in outcomes if one.status == "ok" and one.final == last]


def ranked(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Return the points that succeeded, best first, the contenders before all others; equal scores by name."""
    last = max((one.final for one in outcomes), default=0)
    good = [one for one in outcomes if one.status == "ok"]
    return sorted(good, key=lambda one: (one.final != last, one.score, one.variant.name))
