"""The loop of a tuning run: ask for points, compile a batch, judge its kernels, tell, until the budget is spent."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

from kernelwright.gen.devices import Device
from kernelwright.tuner.ledger import Ledger
from kernelwright.tuner.results import Outcome
from kernelwright.tuner.work import Work, judge_all

End = Literal["every point tried", "trials spent", "time spent"]


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
    ledger: Ledger,
    work: Work,
    device: Device,
    budget: Budget,
    *,
    batch_size: int,
    watcher: Watcher,
    clock: Callable[[], float] = time.monotonic,
) -> End:
    """Try points until none is left or the budget is spent, and say which.

    Points are compiled in small batches, so that the time limit and Ctrl-C are late by a batch at most. Whatever
    ends the search, what was finished is in the ledger and what was not is free to be tried again.
    """
    started = clock()
    tried_before = ledger.num_tried
    try:
        while True:
            tried = ledger.num_tried
            left_s = budget.seconds - (clock() - started)
            if tried >= budget.trials:
                return "trials spent" if ledger.num_free else "every point tried"
            count = min(batch_size, budget.trials - tried)
            if tried == tried_before:
                count = min(count, max(1, batch_size // 4))  # to learn the pace
            else:
                point_s = (clock() - started) / (tried - tried_before)
                count = min(count, int(left_s / point_s) if point_s > 0 else count)
            if left_s <= 0 or count < 1:
                return "time spent" if ledger.num_free else "every point tried"
            variants = ledger.ask(count)
            if not variants:
                return "every point tried"
            watcher.compiling(len(variants))
            compiled = work.compiling.submit(work.compiler.compile, variants).result()
            for outcome in judge_all(compiled, work, device):
                ledger.tell(outcome)
                watcher.finished(outcome)
                if clock() - started > budget.seconds:
                    break
            ledger.abandon()
    finally:
        ledger.abandon()
