"""What a tuning run says while it works, on stderr: a bar on a terminal, a line every few seconds elsewhere."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TextIO

from kernelwright.tuner.bursts import Burst
from kernelwright.tuner.results import FIGURE_FIELD, Kind, Label, Outcome

_EVERY_S = 5.0


class Progress:
    """Counts points and says how far the run is.

    Args:
        stream: usually stderr.
        label: of the figures; named in every line.
        total: points this study will have at most.
        tried: outcomes of earlier runs.
        budget_s: seconds of this run.
        predicted_s: how long it should take; said until there is a pace.
    """

    def __init__(
        self,
        stream: TextIO,
        *,
        label: Label,
        total: int,
        tried: list[Outcome],
        budget_s: float,
        predicted_s: float = float("inf"),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stream, self._label, self._total, self._clock = stream, label, total, clock
        self._started, self._budget_s, self._predicted_s = clock(), budget_s, predicted_s
        self._before = self._done = len(tried)
        self._failures = Counter(one.kind for one in tried if one.status != "ok")
        self._dropped = sum(bool(one.dropped) for one in tried)
        self._best = min((one.score for one in tried), default=float("inf"))
        self._last_line = self._started - _EVERY_S
        self._doing = ""
        self._bar: Any = None  # tqdm has no types
        if stream.isatty():
            from tqdm import tqdm

            self._bar = tqdm(total=total, initial=self._done, file=stream, unit="point", dynamic_ncols=True)

    def compiling(self, count: int) -> None:
        self._doing = f"compiling {count}"
        self._show(force=False)

    def finished(self, outcome: Outcome) -> None:
        self._done += 1
        self._doing = ""
        self._best = min(self._best, outcome.score)
        self._dropped += bool(outcome.dropped)
        if outcome.status != "ok":
            self._failures[outcome.kind] += 1
        self._show(force=self._done >= self._total)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()

    def line(self) -> str:
        """Return where the run is, in words."""
        parts = [f"{self._done}/{self._total} points"]
        if self._best < float("inf"):
            parts.append(f"best {self._best:,.0f} {FIGURE_FIELD[self._label]} ({self._label})")
        if self._dropped:
            parts.append(f"{self._dropped} dropped early on some shape")
        if self._failures:
            parts.append(_failures_text(self._failures))
        parts.append(f"{_duration(self._left_s())} left")
        return "; ".join([*parts, self._doing] if self._doing else parts)

    def _left_s(self) -> float:
        """Seconds to the end: at the pace so far, but no longer than the budget."""
        spent = self._clock() - self._started
        left = max(0.0, self._budget_s - spent)
        done = self._done - self._before
        expected = spent / done * (self._total - self._done) if done else self._predicted_s - spent
        return min(left, max(0.0, expected))

    def _show(self, *, force: bool) -> None:
        now = self._clock()
        if self._bar is not None:
            self._bar.n = self._done
            self._bar.set_postfix_str(self.line(), refresh=True)
        elif force or now - self._last_line >= _EVERY_S:
            self._last_line = now
            print(f"tuner: {self.line()}", file=self._stream, flush=True)


class FinalProgress:
    """Says how far a final is.

    Args:
        stream: usually stderr.
        keep: where bursts go.
        clock: seconds.
    """

    def __init__(
        self,
        stream: TextIO,
        keep: Callable[[Sequence[Burst]], None],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stream, self.keep, self._clock = stream, keep, clock
        self._started = self._last_line = clock()
        self._doing, self._left, self._visits = "", 0, 0
        self._failures: Counter[Kind] = Counter()

    def begins(self, doing: str, visits: int) -> None:
        self._doing, self._left = doing, visits
        self._show()

    def visited(self, failed: Kind | None) -> None:
        self._visits += 1
        self._left = max(0, self._left - 1)
        if failed is not None:
            self._failures[failed] += 1
        self._show()

    def line(self) -> str:
        """Return where the final is, in words."""
        parts = [f"final: {self._doing}", f"{self._visits} visits"]
        if self._failures:
            parts.append(_failures_text(self._failures))
        if self._visits:
            pace_s = (self._clock() - self._started) / self._visits
            parts.append(f"about {_duration(pace_s * self._left)} left")
        return "; ".join(parts)

    def _show(self) -> None:
        if self._clock() - self._last_line >= _EVERY_S:
            self._last_line = self._clock()
            print(f"tuner: {self.line()}", file=self._stream, flush=True)


def _failures_text(failures: Mapping[Kind, int]) -> str:
    return "failed: " + ", ".join(f"{kind} {count}" for kind, count in sorted(failures.items()))


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.1f} min"
