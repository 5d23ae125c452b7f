"""What is known about a point after it was tried. Failures are results with a kind, and are kept."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

from kernelwright.gen.spec import Variant

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

Standing = Literal["better than default", "tied with default", "is the default", "default not available"]

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


def ranked(outcomes: list[Outcome]) -> list[Outcome]:
    """Return the points that succeeded, best first; equal scores by name."""
    good = [outcome for outcome in outcomes if outcome.status == "ok"]
    return sorted(good, key=lambda outcome: (outcome.score, outcome.variant.name))


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Which variant a study ends with.

    Args:
        winner: what the table gets.
        runner_up: the best of the others, or None.
        default: the hand ladder's variant, if it was tried and succeeded.
        standing: how the winner compares with the default, in words for people and tables.
    """

    winner: Outcome
    runner_up: Outcome | None
    default: Outcome | None
    standing: Standing

    @property
    def is_tied(self) -> bool:
        """Whether the runner-up is as good as the winner."""
        return self.runner_up is not None and abs(self.runner_up.score / self.winner.score - 1) <= TIE


def choose(outcomes: list[Outcome], default: Variant | None) -> Choice | None:
    """Return the winner, None if nothing succeeded. What does not clearly beat the default does not replace it."""
    order = ranked(outcomes)
    if not order:
        return None
    base = next((outcome for outcome in order if outcome.variant == default), None)
    standing = _standing(order[0], base)
    winner = base if base is not None and standing == "tied with default" else order[0]
    runner_up = next((outcome for outcome in order if outcome != winner), None)
    return Choice(winner=winner, runner_up=runner_up, default=base, standing=standing)


def _standing(best: Outcome, default: Outcome | None) -> Standing:
    if default is None:
        return "default not available"
    if default == best:
        return "is the default"
    return "tied with default" if default.score <= best.score * (1 + TIE) else "better than default"
