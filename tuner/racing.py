"""Which of many candidates is fastest, from noisy clocks, at a fraction of the cost of timing all of them well.

A pure algorithm over `measure(candidate, repeats) -> samples`, which may raise `MeasureError`. The traps it is made
for: the first repeat of a burst is too fast or too slow, the clock drifts while candidates come and go, and the least
of many noisy figures is lucky rather than fast. So every burst begins with a sample that is thrown away; a reference
is re-timed between batches and everything is told relative to it; candidates are compared interleaved, in random
order; and what replaces the default must beat it in paired rounds, by more than the noise.
"""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Generic, Literal, TypeVar

C = TypeVar("C", bound=Hashable)

Phase = Literal["estimate", "halving", "final", "reference"]


class MeasureError(Exception):
    """A candidate that could not be timed; it leaves the race."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RaceSettings:
    """How a race is run.

    Args:
        burst: samples of one visit to a candidate, after the one that is thrown away.
        reference_burst: the same for the reference: it sets the level of a whole batch.
        batch: candidates between two looks at the reference.
        drift: relative change of the reference over a batch from which on the batch is repeated.
        repeats: times that a batch is repeated at most.
        hopeless: times the best from which on a candidate is dropped at once.
        margin: share above the best estimate within which candidates stay in the race after the estimate.
        share: of the candidates that stay at most after the estimate, where many are equally good.
        finalists: candidates of the final, the default not counted.
        rounds: paired rounds of the final.
        level: probability of error at which a difference counts.
    """

    burst: int = 3
    reference_burst: int = 16
    batch: int = 20
    drift: float = 0.03
    repeats: int = 2
    hopeless: float = 2.0
    margin: float = 0.20
    share: float = 0.20
    finalists: int = 8
    rounds: int = 12
    level: float = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Visit(Generic[C]):
    """The samples taken of one candidate in a row, raw.

    Args:
        candidate, phase, samples: what was timed, why, and what came of it.
        thrown: how many samples from the first on are not used.
        round: of the phase, from 0.
        level: of the reference while this was taken; 1 for the reference itself.
    """

    candidate: C
    phase: Phase
    round: int
    samples: tuple[float, ...]
    thrown: int = 1
    level: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RaceResult(Generic[C]):
    """How a race ended.

    Args:
        winner: what to use; the default where nothing beats it by more than the noise. None if nothing could be timed.
        tied: whether the default stays although something else looked faster.
        standing: the sentence that says so.
        ranking: the finalists, best first, with their figure relative to the best.
        visits: everything that was timed, references included; a batch stands after both looks around it.
        dropped: why each other candidate left the race.
        repeated: how many batches were repeated because the reference drifted.
    """

    winner: C | None
    tied: bool
    standing: str
    ranking: tuple[tuple[C, float], ...]
    visits: tuple[Visit[C], ...]
    dropped: dict[C, str]
    repeated: int

    @property
    def num_samples(self) -> int:
        return sum(len(visit.samples) for visit in self.visits)

    @property
    def time(self) -> float:
        """What the samples took, in their unit."""
        return sum(sum(visit.samples) for visit in self.visits)

    @property
    def references(self) -> tuple[tuple[float, ...], ...]:
        return tuple(visit.samples for visit in self.visits if visit.phase == "reference")


def race(
    candidates: Sequence[C],
    measure: Callable[[C, int], Sequence[float]],
    *,
    default: C | None,
    seed: int = 0,
    settings: RaceSettings | None = None,
) -> RaceResult[C]:
    """Find the fastest candidate.

    Args:
        candidates: each once.
        measure: times a candidate some times in a row; the lower the better.
        default: a candidate that stays unless it is clearly beaten; it is the reference too. None if there is none.
        seed: of every order.
        settings: see there.
    """
    return _Race(list(candidates), measure, default, random.Random(seed), settings or RaceSettings()).run()


@dataclass(slots=True)
class _Race(Generic[C]):
    candidates: list[C]
    measure: Callable[[C, int], Sequence[float]]
    default: C | None
    random: random.Random
    settings: RaceSettings
    visits: list[Visit[C]] = field(default_factory=list)
    dropped: dict[C, str] = field(default_factory=dict)
    figures: dict[C, list[float]] = field(default_factory=dict)  # of kept samples, relative to the reference
    best: float = 1.0  # the reference is a candidate
    repeated: int = 0

    def run(self) -> RaceResult[C]:
        reference = self._choose_reference()
        if reference is None:
            return self._result(None, False, "no candidate could be timed", [])
        order = self.random.sample(self.candidates, len(self.candidates))
        self._pass(order, reference, "estimate", 0)
        field_ = self._near(order)
        halving = 0
        while len(field_) > self.settings.finalists:
            for _ in range(min(1 + halving, 4)):
                self._pass(self.random.sample(field_, len(field_)), reference, "halving", halving)
            field_ = self._better_half([one for one in field_ if one not in self.dropped], halving)
            halving += 1
        finalists = [one for one in field_ if one not in self.dropped]
        if self.default is not None and self.default not in self.dropped and self.default not in finalists:
            finalists.append(self.default)
        return self._final(finalists, reference)

    def _choose_reference(self) -> C | None:
        """Return the default, or else the first candidate that can be timed."""
        first = [] if self.default is None else [self.default]
        for one in [*first, *self.candidates]:
            if one not in self.dropped and self._level(one) is not None:
                return one
        return None

    def _level(self, reference: C) -> float | None:
        samples = self._visit(reference, self.settings.reference_burst)
        if samples is None:
            return None
        self.visits.append(Visit(candidate=reference, phase="reference", round=0, samples=samples))
        return _middle(samples[1:])

    def _visit(self, one: C, repeats: int) -> tuple[float, ...] | None:
        try:
            samples = tuple(self.measure(one, 1 + repeats))
            if len(samples) == 1 + repeats and all(0 < value < math.inf for value in samples):
                return samples
            self.dropped[one] = "no time"
        except MeasureError as error:
            self.dropped[one] = str(error) or "no time"
        return None

    def _pass(self, order: Sequence[C], reference: C, phase: Phase, round_: int) -> None:
        """Visit candidates once each, in batches between two looks at the reference."""
        before = self._level(reference) or 1.0
        for start in range(0, len(order), self.settings.batch):
            batch = [one for one in order[start : start + self.settings.batch] if one not in self.dropped]
            for attempt in range(self.settings.repeats + 1):
                taken = self._batch(batch, before, phase)
                after = self._level(reference) or before  # a reference that died: go on at its last level
                if abs(after / before - 1) <= self.settings.drift or attempt == self.settings.repeats:
                    break
                self.repeated += 1
                self._keep(taken, before, after, phase, round_, counts=False)
                batch = [one for one in batch if one not in self.dropped]
                before = after
            self._keep(taken, before, after, phase, round_, counts=True)
            before = after

    def _batch(self, batch: Sequence[C], level: float, phase: Phase) -> list[tuple[C, tuple[float, ...], int]]:
        """Visit each candidate; return its samples, and how many of them are thrown away."""
        taken: list[tuple[C, tuple[float, ...], int]] = []
        for one in batch:
            limit = self.settings.hopeless * self.best * level
            looked: tuple[float, ...] = ()
            if phase == "estimate" and one != self.default:
                first = self._visit(one, 0)
                if first is None:
                    continue
                looked = first
                if looked[0] > limit:
                    taken.append((one, looked, 1))
                    continue
            samples = self._visit(one, self.settings.burst)
            if samples is not None:
                taken.append((one, looked + samples, len(looked) + 1))
        return taken

    def _keep(
        self,
        taken: Sequence[tuple[C, tuple[float, ...], int]],
        before: float,
        after: float,
        phase: Phase,
        round_: int,
        *,
        counts: bool,
    ) -> None:
        for place, (one, samples, thrown) in enumerate(taken):
            level = before + (after - before) * (place + 0.5) / len(taken)
            self.visits.append(
                Visit(candidate=one, phase=phase, round=round_, samples=samples, thrown=thrown, level=level)
            )
            if len(samples) == thrown:
                self.dropped[one] = f"more than {self.settings.hopeless:g} times the best at its first sample"
            elif counts:
                kept = self.figures.setdefault(one, [])
                kept += [sample / level for sample in samples[thrown:]]
                self.best = min(self.best, _middle(kept))

    def _near(self, order: Sequence[C]) -> list[C]:
        """Return those whose estimate is near the best, and not too many of them."""
        alive = {one: _middle(self.figures[one]) for one in order if one in self.figures and one not in self.dropped}
        limit = min(alive.values(), default=math.inf) * (1 + self.settings.margin)
        near = sorted((one for one, figure in alive.items() if figure <= limit), key=lambda one: alive[one])
        most = max(4 * self.settings.finalists, int(self.settings.share * len(order)))
        for one, figure in alive.items():
            if figure > limit:
                self.dropped[one] = f"estimate more than {self.settings.margin:.0%} above the best"
        for one in near[most:]:
            self.dropped[one] = f"estimate not among the best {most}"
        self._spare_default()
        return near[:most]

    def _better_half(self, alive: Sequence[C], halving: int) -> list[C]:
        order = sorted(alive, key=lambda one: _middle(self.figures[one]))
        keep = max(self.settings.finalists, len(order) // 2)
        for one in order[keep:]:
            self.dropped.setdefault(one, f"not in the better half of round {halving + 1}")
        self._spare_default()
        return order[:keep]

    def _spare_default(self) -> None:
        """The default is always in the final; only what cannot be timed at all is not."""
        if self.default is not None and self.default in self.figures:
            self.dropped.pop(self.default, None)

    def _final(self, finalists: list[C], reference: C) -> RaceResult[C]:
        """Compare in paired rounds: each visits every finalist once, in an order of its own."""
        rounds: dict[C, list[float]] = {one: [] for one in finalists}
        for number in range(self.settings.rounds):
            for one in self.random.sample(finalists, len(finalists)):
                samples = None if one in self.dropped else self._visit(one, self.settings.burst)
                if samples is None:
                    continue
                self.visits.append(Visit(candidate=one, phase="final", round=number, samples=samples))
                rounds[one].append(math.log(_middle(samples[1:])))
        whole = {one: logs for one, logs in rounds.items() if one not in self.dropped}
        if not whole:
            return self._result(None, False, "no candidate could be timed", [])
        means = {one: statistics.fmean(logs) for one, logs in whole.items()}
        order = sorted(whole, key=lambda one: means[one])
        ranking = [(one, math.exp(means[one] - means[order[0]])) for one in order]
        best = order[0]
        if self.default is None or self.default not in whole:
            why = "no default" if self.default is None else "the default could not be timed"
            return self._result(best, False, why, ranking)
        if best == self.default:
            return self._result(best, False, "is the default", ranking)
        differences = [a - b for a, b in zip(whole[best], whole[self.default], strict=True)]
        chance = signed_rank(differences)
        gain = 1 - math.exp(statistics.fmean(differences))
        noise = 2 * statistics.stdev(differences) / math.sqrt(len(differences)) if len(differences) > 1 else math.inf
        said = f"{gain:.1%} faster than the default over {len(differences)} paired rounds (p = {chance:.3g})"
        if chance <= self.settings.level and gain > noise:
            return self._result(best, False, said, ranking)
        return self._result(self.default, True, f"tied: the best is {said}, within the noise", ranking)

    def _result(self, winner: C | None, tied: bool, said: str, ranking: list[tuple[C, float]]) -> RaceResult[C]:
        finalists = {one for one, _ in ranking}
        return RaceResult(
            winner=winner,
            tied=tied,
            standing=said,
            ranking=tuple(ranking),
            visits=tuple(self.visits),
            dropped={one: why for one, why in self.dropped.items() if one not in finalists},
            repeated=self.repeated,
        )


def _middle(samples: Sequence[float]) -> float:
    """Return the mean of the middle half: nearly as sharp as the mean, and blind to outliers as the median."""
    ordered = sorted(samples)
    cut = len(ordered) // 4
    return statistics.fmean(ordered[cut : len(ordered) - cut])


def signed_rank(differences: Sequence[float]) -> float:
    """Return the one-sided p-value of Wilcoxon's signed-rank test that the differences lie below zero.

    Exact: the distribution of the rank sum is counted. Zeros are left out; equal sizes share the mean of their ranks
    (rounded to halves, so that sums stay countable).
    """
    sizes = sorted((abs(one), one > 0) for one in differences if one != 0)
    if not sizes:
        return 1.0
    ranks: list[int] = []  # doubled
    start = 0
    while start < len(sizes):
        stop = start
        while stop < len(sizes) and sizes[stop][0] == sizes[start][0]:
            stop += 1
        ranks += [start + 1 + stop] * (stop - start)
        start = stop
    above = sum(rank for rank, (_, positive) in zip(ranks, sizes, strict=True) if positive)
    counts = {0: 1}
    for rank in ranks:
        grown = dict(counts)
        for total, count in counts.items():
            grown[total + rank] = grown.get(total + rank, 0) + count
        counts = grown
    return float(sum(count for total, count in counts.items() if total <= above) / 2 ** len(ranks))
