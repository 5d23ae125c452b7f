"""The loop of a tuning run: points through compile, verify and score, side by side, until the budget is spent."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, Protocol

from kernelwright.gen.devices import Device
from kernelwright.gen.spec import Variant
from kernelwright.tuner.errors import DeviceGivenUpError
from kernelwright.tuner.results import Outcome
from kernelwright.tuner.scheduler import Loss, Schedule, Stage
from kernelwright.tuner.store import StoredLedger
from kernelwright.tuner.work import Work, compile_point, loss_of, score_kernel, verify_kernel

End = Literal["every point tried", "trials spent", "time spent"]

_COMPILE_S = 3600.0  # for a point; compilers have a deadline of their own


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """When to stop.

    Args:
        trials: finished points of the study, those of earlier runs included.
        seconds: of this run.
    """

    trials: int
    seconds: float


class Watcher(Protocol):
    """Is told what happens, for people to see."""

    def compiling(self, count: int) -> None: ...

    def finished(self, outcome: Outcome) -> None: ...


def search(
    ledger: StoredLedger,
    work: Work,
    device: Device,
    budget: Budget,
    *,
    watcher: Watcher,
    clock: Callable[[], float] = time.monotonic,
) -> End:
    """Try points until none is left or the budget is spent, and say which.

    Time that is up, and Ctrl-C, are late by what is running. Whatever ends the search, what was finished is in the
    ledger and what was not is free to be tried again.
    """
    until = clock() + budget.seconds
    best = Best()
    for outcome in ledger.outcomes():
        best.take(outcome)
    schedule: Schedule[Variant, Outcome] = Schedule(
        clerk=_Clerk(ledger, budget.trials - ledger.num_tried, watcher),
        stages=_stages(work, device, best),
        failed=_failed,
        batch=work.compilers,
        keep=partial(_keep, ledger, watcher, best),
        stop=lambda: clock() >= until,
        clock=clock,
    )
    try:
        schedule.run()
    finally:
        ledger.abandon()
    if not ledger.num_free:
        return "every point tried"
    return "trials spent" if ledger.num_tried >= budget.trials else "time spent"


class _Clerk:
    """Asks the ledger for no more points than there are trials, and tells it what came of them."""

    def __init__(self, ledger: StoredLedger, left: int, watcher: Watcher) -> None:
        self._ledger, self._left, self._watcher = ledger, left, watcher

    def ask(self, count: int) -> Sequence[Variant]:
        found = self._ledger.ask(min(count, self._left)) if self._left > 0 else []
        self._left -= len(found)
        if found:
            self._watcher.compiling(len(found))
        return found

    def tell(self, item: Variant, result: Outcome) -> None:
        assert result.variant == item
        self._ledger.tell(result)


class Best:
    """The best figure of each shape so far, against which a scorer may give up on others early."""

    def __init__(self) -> None:
        self._figures: dict[str, float] = {}

    def take(self, outcome: Outcome) -> None:
        """Count an outcome; rough figures count for nothing, and nor do failures, which have none."""
        for shape, figure in outcome.figures.items():
            if shape not in outcome.dropped:
                self._figures[shape] = min(figure, self._figures.get(shape, figure))

    def figures(self) -> dict[str, float]:
        """Return what is known at this moment."""
        return dict(self._figures)


def _keep(ledger: StoredLedger, watcher: Watcher, best: Best, outcome: Outcome) -> None:
    ledger.keep(outcome)
    best.take(outcome)
    watcher.finished(outcome)


def _failed(variant: Variant, stage: str, error: BaseException | Loss) -> Outcome:
    """Make a result of what a stage raised, unless it says something about us or the device rather than a kernel."""
    if isinstance(error, DeviceGivenUpError) or (isinstance(error, BaseException) and stage == "compile"):
        raise error
    if isinstance(error, AssertionError):
        raise error
    status, detail = loss_of(error)
    return Outcome(variant=variant, status=status, detail=detail)


def _stages(work: Work, device: Device, best: Best) -> list[Stage]:
    judging = partial(
        Stage,
        executor=work.judging,
        workers=work.judges,
        timeout_s=work.timeout_s,
        restart=work.restart,
    )
    return [
        Stage(
            name="compile",
            work=partial(compile_point, compiler=work.compiler, device=device),
            executor=work.compiling,
            workers=work.compilers,
            timeout_s=_COMPILE_S,
        ),
        judging(name="verify", work=partial(verify_kernel, verifier=work.verifier, device=device)),
        judging(name="time", work=partial(score_kernel, scorer=work.scorer), known=lambda: (best.figures(),)),
    ]
