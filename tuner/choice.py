"""Which variant a study ends with. What does not beat the default by more than the noise does not replace it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from kernelwright.gen.spec import Variant
from kernelwright.tuner.intervals import is_tied
from kernelwright.tuner.results import Outcome, contenders, ranked

Standing = Literal["better than default", "tied with default", "is the default", "default not available"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Which variant a study ends with.

    Args:
        winner: the best over all shapes; a table may take others on some of them.
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
        return self.runner_up is not None and is_tied(self.winner, self.runner_up, list(self.winner.figures))


def choose(outcomes: Sequence[Outcome], default: Variant | None) -> Choice | None:
    """Return the winner, None if nothing succeeded."""
    order = ranked(contenders(outcomes))
    if not order:
        return None
    base = next((one for one in order if one.variant == default), None)
    standing = standing_of(order[0], base, list(order[0].figures), is_first=True)
    winner = base if base is not None and standing == "tied with default" else order[0]
    runner_up = next((one for one in order if one != winner), None)
    return Choice(winner=winner, runner_up=runner_up, default=base, standing=standing)


def standing_of(winner: Outcome, default: Outcome | None, shapes: Sequence[str], *, is_first: bool) -> Standing:
    """Say how a kernel compares with the default on some shapes; `is_first`: no other is faster there."""
    if default is None:
        return "default not available"
    if winner is default:
        return "is the default" if is_first else "tied with default"
    return "tied with default" if is_tied(winner, default, shapes) else "better than default"
