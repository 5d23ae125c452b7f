"""The final of a measured study: its best points timed against one another, on every shape.

The search's estimates order the points well enough to say which are worth it. On each shape those near the best are
raced (`racing.py`); the best of every race and the default then meet in rounds that visit each on every shape, in
random order. Only figures of these rounds are compared with one another and stand in tables.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Mapping, Sequence
from concurrent.futures import BrokenExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Protocol

from kernelwright.gen.spec import Variant
from kernelwright.runtime.timing import Method, method_for
from kernelwright.tuner.bursts import Burst, Part
from kernelwright.tuner.isolation import WorkerLostError
from kernelwright.tuner.racing import MeasureError, RaceSettings, race
from kernelwright.tuner.results import INVALIDITY, Kind, Outcome, Status, ranked
from kernelwright.tuner.work import Compiled, Timer, Work, loss_of, time_kernel

RACE = RaceSettings(rounds=4)
"""Of each shape. Its own final only has to say which few go on to the rounds."""

_MARGIN = 0.20  # above the best estimate of a shape: an estimate errs by no more, drift and first calls included
_MOST = 32  # candidates of one race
_FINALISTS = 8  # at least, the default among them, where so many were raced
_GO_ON = 3  # from each race at least
_ROUNDS = 12
_BURST = 3  # samples of a visit, after the one that is thrown away


class Watcher(Protocol):
    """Is told how a final goes, for people to see and for the store to keep."""

    def begins(self, doing: str, visits: int) -> None:
        """Hear what begins, and about how many visits are left from here on."""
        ...

    def visited(self, failed: Kind | None) -> None:
        """Hear of a visit, and the kind of its failure if it failed."""
        ...

    def keep(self, bursts: Sequence[Burst]) -> None:
        """Take the samples of a race or of a round, in order."""
        ...


def hold_final(
    outcomes: Sequence[Outcome], work: Work, timer: Timer, default: Variant | None, seed: int, watcher: Watcher
) -> list[Outcome]:
    """Return what the final says of those that were timed in it: figures of its rounds, or how they failed.

    Args:
        outcomes: of the search and of earlier finals.
        work, timer: where kernels are compiled and timed.
        default: is always in the final if it succeeded.
        seed: of every order.
        watcher: hears of everything at once.

    Raises:
        DeviceGivenUpError: if the device answers no more; nothing of the final counts then.
    """
    good = {one.variant: one for one in ranked(outcomes)}
    if not good:
        return []
    number = 1 + max(one.final for one in outcomes)
    shapes = list(next(iter(good.values())).figures)
    if default not in good:
        default = None
    fields = {shape: _near(good, shape, default) for shape in shapes}
    methods = {shape: method_for([one.figures[shape] for one in good.values()]) for shape in shapes}
    chosen = list(dict.fromkeys(one for near in fields.values() for one in near))
    watcher.begins(f"compiling {len(chosen)} kernels", _visits(fields, shapes))
    compiled = {one.variant: one for one in work.compiler.compile(chosen)}
    clock = _Clock(work, timer, compiled, methods, number, watcher)
    chance = random.Random(seed)
    try:
        rankings = _races(clock, fields, default, chance)
        clock.part = "rounds"
        rounds = _rounds(clock, _finalists(rankings, default), shapes, chance)
    finally:
        clock.hand_over()
    failed = [
        replace(
            good[one],
            status=status,
            detail=detail,
            figures={},
            samples={},
            states={},
            methods={},
            dropped={},
            final=number,
        )
        for one, (status, detail) in clock.failed.items()
    ]
    return failed + [
        replace(
            good[one],
            figures={shape: round(statistics.median(samples), 3) for shape, samples in timed.items()},
            samples={shape: tuple(samples) for shape, samples in timed.items()},
            states={shape: clock.states[one, shape] for shape in shapes if (one, shape) in clock.states},
            methods=dict(clock.methods),
            dropped={},
            final=number,
        )
        for one, timed in rounds.items()
        if one not in clock.failed
    ]


def _races(
    clock: _Clock, fields: Mapping[str, Sequence[Variant]], default: Variant | None, chance: random.Random
) -> list[list[Variant]]:
    """Race what is near the best on each shape; return who came in which order."""
    rankings, shapes = [], list(fields)
    for place, shape in enumerate(shapes):
        alive = [one for one in fields[shape] if one not in clock.failed]
        left = _visits({one: fields[one] for one in shapes[place:]}, shapes)
        clock.watcher.begins(f"racing {len(alive)} kernels on {shape} ({place + 1} of {len(shapes)})", left)
        found = race(alive, partial(clock.time, shape), default=default, seed=chance.getrandbits(32), settings=RACE)
        clock.hand_over()
        rankings.append([one for one, _ in found.ranking])
    return rankings


def _near(good: dict[Variant, Outcome], shape: str, default: Variant | None) -> list[Variant]:
    order = sorted(good, key=lambda one: good[one].figures[shape])
    limit = good[order[0]].figures[shape] * (1 + _MARGIN)
    near = [one for one in order[:_MOST] if good[one].figures[shape] <= limit]
    return near if default is None or default in near else [*near, default]


def _finalists(rankings: Sequence[Sequence[Variant]], default: Variant | None) -> list[Variant]:
    """Return the default, the first three of every race, and the next of each until there are eight."""
    found: dict[Variant, None] = {} if default is None else {default: None}
    for place in range(max(map(len, rankings), default=0)):
        if place >= _GO_ON and len(found) >= _FINALISTS:
            break
        found |= dict.fromkeys(ranking[place] for ranking in rankings if place < len(ranking))
    return list(found)


def _rounds(
    clock: _Clock, finalists: Sequence[Variant], shapes: Sequence[str], chance: random.Random
) -> dict[Variant, dict[str, list[float]]]:
    samples: dict[Variant, dict[str, list[float]]] = {one: {shape: [] for shape in shapes} for one in finalists}
    for number in range(_ROUNDS):
        left = (_ROUNDS - number) * len(shapes) * sum(one not in clock.failed for one in finalists)
        clock.watcher.begins(f"round {number + 1} of {_ROUNDS} between {len(finalists)} kernels", left)
        for shape in shapes:
            for one in chance.sample(list(finalists), len(finalists)):
                if one in clock.failed:
                    continue
                try:
                    samples[one][shape] += clock.time(shape, one, 1 + _BURST)[1:]
                except MeasureError:
                    continue  # the clock knows
        clock.hand_over()
    return samples


def _visits(fields: Mapping[str, Sequence[Variant]], shapes: Sequence[str]) -> int:
    """Return about how many visits these races and the rounds take: a first look and a burst each, halving, a final."""
    races = sum(2 * len(near) + len(near) + RACE.rounds * min(len(near), RACE.finalists) for near in fields.values())
    most = max((len(near) for near in fields.values()), default=0)
    return races + _ROUNDS * len(shapes) * min(max(_FINALISTS, _GO_ON * len(shapes)), most * len(shapes))


@dataclass(slots=True)
class _Clock:
    """Times kernels in the worker, and remembers those that cannot be timed.

    On a shape all are timed by one method: that of the shortest, or by events where what comes first, the reference of
    the first race, cannot be captured into a graph.
    """

    work: Work
    timer: Timer
    compiled: dict[Variant, Compiled]
    methods: dict[str, Method]
    number: int  # of the final
    watcher: Watcher
    part: Part = "race"
    bursts: list[Burst] = field(default_factory=list)  # not handed over yet
    settled: set[str] = field(default_factory=set)  # shapes
    failed: dict[Variant, tuple[Status, str]] = field(default_factory=dict)
    states: dict[tuple[Variant, str], dict[str, object]] = field(default_factory=dict)

    def hand_over(self) -> None:
        """Give the bursts since the last time to be kept."""
        self.watcher.keep(self.bursts)
        self.bursts = []

    def time(self, shape: str, one: Variant, repeats: int) -> Sequence[float]:
        """Return raw times.

        Raises:
            MeasureError: if there are none.
        """
        if one in self.failed:
            raise MeasureError(self.failed[one][1])
        try:
            samples = self._time(shape, one, repeats)
        except MeasureError:
            self.watcher.visited(INVALIDITY[self.failed[one][0]])
            raise
        self.watcher.visited(None)
        return samples

    def _time(self, shape: str, one: Variant, repeats: int) -> Sequence[float]:
        if self.compiled[one].fault:
            self.failed[one] = self.compiled[one].fault_status, self.compiled[one].fault
            raise MeasureError(self.compiled[one].fault)
        try:
            future = self.work.judging.submit(
                time_kernel, self.compiled[one], self.timer, shape, repeats, self.methods[shape]
            )
            timed = future.result(timeout=self.work.timeout_s)
        except TimeoutError as error:
            self.work.restart()
            self.failed[one] = loss_of("hung")
            raise MeasureError(self.failed[one][1]) from error
        except BrokenExecutor as error:
            self.work.restart()
            self.failed[one] = loss_of(error if isinstance(error, WorkerLostError) else "lost")
            raise MeasureError(self.failed[one][1]) from error
        if isinstance(timed, Outcome):
            self.failed[one] = timed.status, timed.detail
            raise MeasureError(timed.detail)
        self.bursts.append(
            Burst(
                variant=one,
                shape=shape,
                final=self.number,
                part=self.part,
                samples=tuple(timed.samples),
                method=timed.method,
                state=timed.state,
            )
        )
        if shape not in self.settled:
            self.settled.add(shape)
            self.methods[shape] = timed.method
        if timed.method != self.methods[shape]:
            self.failed[one] = "launch", f"timed by {timed.method}, the others by {self.methods[shape]}: {timed.note}"
            raise MeasureError(self.failed[one][1])
        if timed.state is not None:
            self.states[one, shape] = dict(timed.state)
        return timed.samples
