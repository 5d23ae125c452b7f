"""The ledger of a tuning run: an Optuna study in a journal file or a database, one trial a point."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState

from kernelwright.gen.spec import Variant
from kernelwright.tuner.errors import StudyExistsError, TunerError
from kernelwright.tuner.interrupts import uninterrupted
from kernelwright.tuner.lease import Lease
from kernelwright.tuner.ledger import (
    Identity,
    exists_text,
    is_json,
    mend_journal,
    only_run,
    outcome_from,
    plain,
    require_same,
)
from kernelwright.tuner.points import make_points
from kernelwright.tuner.pool import Pool
from kernelwright.tuner.results import Outcome
from kernelwright.tuner.sampler import FAILED_VALUE, PoolSampler, distributions
from kernelwright.tuner.space import Point, described
from kernelwright.tuner.strategies import make_strategy
from kernelwright.tuner.strategy_names import StrategyName

_CONSTRAINT = "succeeds"
"""Optuna's name for what a failed point violates, where the installed Optuna has constraints (from 5.0)."""


@contextmanager
def open_storage(storage: str) -> Iterator[Any]:  # Any: optuna is untyped to mypy
    """Yield Optuna's storage: of a database for an URL, else of a journal file, which is locked meanwhile.

    Raises:
        TunerError: if another run is at work in the file, or it cannot be used.
    """
    if "://" in storage:
        try:
            database = optuna.storages.RDBStorage(storage)
        except Exception as error:  # of Optuna, SQLAlchemy or any database's own package
            reason = str(error).splitlines()[0]
            raise TunerError(f"--storage {storage.split('://')[0]}://...: cannot be used: {reason}") from error
        yield database
        return
    path = Path(storage).absolute()  # Optuna's lock is a symbolic link to this very text, and must not dangle
    with only_run(path, "give another --storage"):
        path.with_name(f"{path.name}.lock").unlink(missing_ok=True)  # of a run that was killed
        mend_journal(path)
        try:
            yield optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(path)))
        except (ValueError, KeyError, AssertionError) as error:
            if path.exists() and not _is_journal(path):
                raise TunerError(
                    f"{path}: not a journal of studies ({error}). Move it, or give another --storage"
                ) from error
            raise


def _is_journal(path: Path) -> bool:
    return all(is_json(line) for line in path.read_bytes().splitlines())


class Ledger:
    """What has been tried, and what to try next."""

    def __init__(self, study: Any, pool: Pool, sampler: PoolSampler, lease: Lease | None = None) -> None:
        self._study, self._pool, self._sampler, self._lease = study, pool, sampler, lease
        self._distributions = distributions(pool.choices)
        self._asked: dict[str, Any] = {}

    @property
    def num_tried(self) -> int:
        return len(self._study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)))

    @property
    def num_free(self) -> int:
        """Points that nobody has tried or asked for."""
        return self._sampler.num_free(self._study)

    def outcomes(self) -> list[Outcome]:
        """Return every finished point, in the order of the trials."""
        trials = self._study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        return [outcome_from(trial.user_attrs["outcome"]) for trial in trials]

    def ask(self, count: int) -> list[Variant]:
        """Return up to `count` points to try next, none that was tried or asked for before."""
        self._renew()
        variants = []
        for _ in range(self._sampler.plan(self._study, count)):
            with uninterrupted():
                trial = self._study.ask(self._distributions)
                variant = self._pool.legal[tuple(trial.params[name] for name in self._pool.choices)]
                self._asked[variant.name] = trial
            variants.append(variant)
        return variants

    def tell(self, outcome: Outcome) -> None:
        """Keep what came of a point that was asked for."""
        self._renew()
        with uninterrupted():
            trial = self._asked.pop(outcome.variant.name)
            for name, value in self._attributes(outcome).items():
                trial.set_user_attr(name, value)
            if hasattr(trial, "set_constraint"):
                trial.set_constraint(_CONSTRAINT, float(outcome.status != "ok"))
            self._study.tell(trial, _value(outcome))

    def adopt(self, outcome: Outcome) -> None:
        """Take what came of a point elsewhere, as a finished trial."""
        trial = optuna.trial.create_trial(
            state=TrialState.COMPLETE,
            params=described(outcome.variant.schedule),
            distributions=self._distributions,
            value=_value(outcome),
            user_attrs=self._attributes(outcome),
        )
        with uninterrupted():
            self._study.add_trial(trial)

    def _attributes(self, outcome: Outcome) -> dict[str, Any]:  # Any: plain data
        return {
            "variant": outcome.variant.name,
            "status": outcome.status,
            "kind": outcome.kind,
            "label": self._study.user_attrs["label"],
            "outcome": plain(outcome),
        }

    def abandon(self) -> int:
        """Give back the points that were asked for and not told, as after Ctrl-C; return how many."""
        with uninterrupted():
            count = len(self._asked)
            for trial in self._asked.values():
                self._study.tell(trial, state=TrialState.FAIL)
            self._asked.clear()
        return count

    def close(self) -> None:
        """Let other runs work on the study."""
        if self._lease is not None:
            self._lease.give_back()

    def _renew(self) -> None:
        if self._lease is not None:
            self._lease.renew()


def _value(outcome: Outcome) -> float:
    return outcome.score if outcome.status == "ok" else FAILED_VALUE


def open_ledger(
    storage: Any,
    name: str,
    pool: Pool,
    identity: Identity,
    *,
    seed: int,
    strategy: StrategyName,
    resume: bool,
    where: str,
    freed: Collection[str] = (),
    first: Sequence[Point] = (),
    prior: Sequence[float] | None = None,
) -> Ledger:
    """Create the study `name`, or continue it.

    Args:
        storage: from `open_storage`.
        name: the study's name.
        pool: what may be tried.
        identity: must be the study's own where it exists.
        seed: of the strategy.
        strategy: chooses what to try.
        resume: whether an existing study may be continued.
        where: the storage as the user named it, for messages.
        freed: variants to be tried again; a study that has results of them is made anew, without results.
        first: points to try after the default and before any other; those outside the pool are left out.
        prior: for an exhaustive search, what to expect of each point of the pool: the lower, the earlier.

    Raises:
        StudyExistsError: if it has results and `resume` is not set.
        StudyChangedError: if it was made with another identity.
        TunerError: if another run is at work on it in a database; files are locked by `open_storage`.
    """
    points = make_points(pool.choices, list(pool.legal))
    wanted = [point for point in (pool.default, *first) if point in pool.legal]
    sampler = PoolSampler(points, pool.choices, make_strategy(strategy, points, seed, prior), wanted)
    with uninterrupted():
        study = optuna.create_study(
            storage=storage, study_name=name, direction="minimize", load_if_exists=True, sampler=sampler
        )
        done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        finished = len(done)
        if finished and not resume:
            raise StudyExistsError(exists_text(name, finished, where))
        known = dict(study.user_attrs)
        if finished:
            require_same(name, where, known, asdict(identity))
        lease = Lease(study, name) if "://" in where else None
        if lease is not None:
            lease.take()
        if any(trial.user_attrs.get("variant") in freed for trial in done):
            optuna.delete_study(study_name=name, storage=storage)
            study = optuna.create_study(storage=storage, study_name=name, direction="minimize", sampler=sampler)
            known = {}
            if lease is not None:
                lease.rewrite(study)
        for key, value in asdict(identity).items():
            if known.get(key) != value:
                study.set_user_attr(key, value)
        for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING, TrialState.WAITING)):
            storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)  # of a run that was killed
    return Ledger(study, pool, sampler, lease)
