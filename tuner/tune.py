"""One tuning run from space to winner. Compiler, checks and clocks come in as arguments, so tests need none."""

from __future__ import annotations

import importlib.util
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import TextIO

from kernelwright.gen.devices import Device
from kernelwright.gen.spec import Variant
from kernelwright.tuner.choice import Choice, choose
from kernelwright.tuner.errors import StudyExistsError, TunerError
from kernelwright.tuner.export import StudyFacts, failures
from kernelwright.tuner.finals import hold_final
from kernelwright.tuner.ledger import Identity, Ledger, exists_text
from kernelwright.tuner.plain_study import PlainLedger, plain_order
from kernelwright.tuner.pool import Pool
from kernelwright.tuner.progress import FinalProgress, Progress
from kernelwright.tuner.report import plan_text, predicted_minutes
from kernelwright.tuner.results import Outcome
from kernelwright.tuner.search import Budget, End, search
from kernelwright.tuner.seeds import prior
from kernelwright.tuner.space import Point, Space
from kernelwright.tuner.store import SUFFIX, Store, StoredLedger, open_store
from kernelwright.tuner.strategy_names import StrategyName, default_strategy
from kernelwright.tuner.target import Gpu
from kernelwright.tuner.work import Work

_NAMES: dict[StrategyName, str] = {
    "exhaustive": "the model's order",
    "gp": "a Gaussian process",
    "forest": "a forest",
    "tpe": "TPE",
    "random": "chance",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What the user asked for.

    Args:
        space, device, pool: what to tune, for which GPU, and its legal points.
        out: folder for studies and builds.
        storage: Optuna's storage, a journal file or an URL; None for a journal in `out`.
        budget: when to stop.
        seed: of every random choice.
        jobs: compilations and judgements at a time.
        resume: continue an existing study.
        retry_quarantined: try what failed in earlier runs again.
        gpu: what measures, and the only device that the row is for; None for modelled figures.
        strategy: what chooses the points; None for what suits their number.
        first: points to try after the default and before any other, such as winners on other GPUs.
    """

    space: Space
    device: Device
    pool: Pool
    out: Path
    storage: str | None
    budget: Budget
    seed: int
    jobs: int
    resume: bool
    gpu: Gpu | None = None
    retry_quarantined: bool = False
    strategy: StrategyName | None = None
    first: tuple[Point, ...] = ()

    @property
    def where(self) -> str:
        """Where the study is: Optuna's storage, or the store alone."""
        if not has_optuna():
            return str(self.store)
        return self.storage or str(self.out / f"{self.space.study_name}.journal")

    @property
    def store(self) -> Path:
        """The file of every result."""
        return self.out / f"{self.space.study_name}{SUFFIX}"

    @property
    def num_planned(self) -> int:
        """Points the study will have in the end, if time allows."""
        return min(len(self.pool.legal), self.budget.trials)


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """How a study stands."""

    outcomes: list[Outcome]
    choice: Choice
    facts: StudyFacts


def tune(
    request: Request,
    identity: Identity,
    make_work: Callable[[], Work],
    *,
    today: Callable[[], date] = date.today,
    stream: TextIO = sys.stderr,
) -> Result:
    """Run or continue a study and choose its winner.

    Args:
        request: what to do.
        identity: what the figures depend on.
        make_work: called only if there is something to try; its executors are shut down at the end.
        today: the date in the evidence.
        stream: for the plan and progress.

    Raises:
        StudyExistsError, StudyChangedError: see `open_ledger`.
        TunerError: if no point succeeded.
        KeyboardInterrupt: after the unfinished points were given back.
    """
    strategy = _strategy(request)
    with _open_ledger(request, strategy, identity, stream) as ledger:
        end: End = "every point tried" if not ledger.num_free else "trials spent"
        left = max(0, request.num_planned - len(ledger.outcomes()))
        _say_plan(request, identity, strategy, left, stream)
        if left or _wants_final(identity, ledger.outcomes()):
            started = time.monotonic()
            print("tuner: preparing (a minute or two on a machine's first run)", file=stream, flush=True)
            work = make_work()
            seconds = request.budget.seconds - (time.monotonic() - started)
            try:
                if left:
                    end = _search(request, identity, ledger, work, left, seconds, stream)
                if work.timer is not None and _wants_final(identity, ledger.outcomes()):
                    print("tuner: timing the best against one another", file=stream, flush=True)
                    default = _default(request.pool)
                    watcher = FinalProgress(stream, ledger.keep_bursts)
                    ledger.settle(hold_final(ledger.outcomes(), work, work.timer, default, request.seed, watcher))
            finally:
                for executor in (work.judging, work.compiling):
                    executor.shutdown(cancel_futures=True)  # nothing of use is left in them
        outcomes = ledger.outcomes()
    choice = choose(outcomes, _default(request.pool))
    if choice is None:
        raise TunerError(_nothing_text(request, outcomes))
    facts = StudyFacts(
        study=request.space.study_name,
        space=request.space.name,
        identity=identity,
        seed=request.seed,
        num_points=len(request.pool.legal),
        end=end,
        gpu=request.gpu,
        day=today(),
    )
    return Result(outcomes=outcomes, choice=choice, facts=facts)


def _say_plan(request: Request, identity: Identity, strategy: StrategyName, left: int, stream: TextIO) -> None:
    text = plan_text(
        request.space,
        request.device,
        request.pool,
        identity.label,
        count=request.num_planned,
        left=left,
        jobs=request.jobs,
        by=f"by {_NAMES[strategy]}",
    )
    print(f"tuner: {text}", file=stream, flush=True)


def _search(
    request: Request,
    identity: Identity,
    ledger: StoredLedger,
    work: Work,
    left: int,
    seconds: float,
    stream: TextIO,
) -> End:
    progress = Progress(
        stream,
        label=identity.label,
        total=request.num_planned,
        tried=ledger.outcomes(),
        budget_s=seconds,
        predicted_s=60 * predicted_minutes(request.pool, left, request.jobs),
    )
    try:
        return search(ledger, work, request.device, replace(request.budget, seconds=seconds), watcher=progress)
    finally:
        progress.close()


def _wants_final(identity: Identity, outcomes: Sequence[Outcome]) -> bool:
    """Whether measured points have come since the last final. Modelled figures have no noise to decide about."""
    if identity.label != "measured" or all(one.status != "ok" for one in outcomes):
        return False
    return outcomes[-1].final == 0


def _strategy(request: Request) -> StrategyName:
    """Return the strategy that was asked for, or that suits the pool."""
    if not has_optuna():
        if request.strategy not in (None, "exhaustive", "random"):
            raise TunerError(
                f"--strategy {request.strategy} needs optuna, which is not installed. Install it, or leave it out"
            )
        return request.strategy or "exhaustive"
    return request.strategy or default_strategy(len(request.pool.legal), request.budget.trials)


def has_optuna() -> bool:
    """Whether Optuna can choose the points; without it every point is tried."""
    return importlib.util.find_spec("optuna") is not None


@contextmanager
def _open_ledger(
    request: Request, strategy: StrategyName, identity: Identity, stream: TextIO
) -> Iterator[StoredLedger]:
    """Yield the ledger of a study, on top of its store; see `store.open_store` and `study.open_ledger` for errors."""
    if not has_optuna():
        if request.storage:
            raise TunerError("--storage needs optuna, which is not installed. Install it, or leave --storage out")
        print("tuner: optuna is not installed: every point is tried, the most promising first", file=stream, flush=True)
    name, gpu = request.space.study_name, request.gpu
    fingerprint = None if gpu is None else {"name": gpu.name, "sm": gpu.sm, "driver": gpu.driver}
    with open_store(request.store, name, identity, fingerprint=fingerprint) as store:
        if store.num_others:
            print(f"tuner: {store.others_text()}", file=stream, flush=True)
        known = len(store.outcomes())
        if known and not request.resume:
            raise StudyExistsError(exists_text(name, known, str(request.store)))
        if request.retry_quarantined:
            freed = store.release_failed()
            print(f"tuner: {freed} points that failed earlier are tried again", file=stream, flush=True)
        with _open_study(request, strategy, identity, store) as ledger:
            yield StoredLedger(ledger, store)


@contextmanager
def _open_study(request: Request, strategy: StrategyName, identity: Identity, store: Store) -> Iterator[Ledger]:
    expected = prior(request.pool, request.device, request.space.shapes) if strategy == "exhaustive" else None
    if not has_optuna():
        yield PlainLedger(plain_order(request.pool, request.seed, request.first, expected))
        return
    import optuna

    from kernelwright.tuner.study import open_ledger, open_storage

    optuna.logging.set_verbosity(optuna.logging.WARNING)  # our progress says what its messages would
    with open_storage(request.where) as storage:
        ledger = open_ledger(
            storage,
            request.space.study_name,
            request.pool,
            identity,
            seed=request.seed,
            strategy=strategy,
            resume=request.resume,
            where=request.where,
            freed=store.freed,
            first=request.first,
            prior=expected,
        )
        try:
            yield ledger
        finally:
            ledger.close()


def _default(pool: Pool) -> Variant | None:
    return None if pool.default is None else pool.legal.get(pool.default)


def _nothing_text(request: Request, outcomes: list[Outcome]) -> str:
    if not outcomes:
        return f"study {request.space.study_name}: no point was tried within {request.budget.seconds / 60:g} min"
    counts = ", ".join(f"{kind} {count}" for kind, count in failures(outcomes).items())
    first = next(one for one in outcomes if one.status != "ok")
    return (
        f"study {request.space.study_name}: none of {len(outcomes)} points succeeded ({counts}). "
        f"For instance {first.variant.name}: {first.detail}"
    )
