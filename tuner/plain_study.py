"""The ledger without Optuna: a file of JSON lines, in which every point of the pool is tried, the default first."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from kernelwright.gen.spec import Variant
from kernelwright.tuner.errors import StudyExistsError
from kernelwright.tuner.interrupts import uninterrupted
from kernelwright.tuner.ledger import Identity, mend_journal, only_run, outcome_from, plain, require_same
from kernelwright.tuner.pool import Pool
from kernelwright.tuner.results import Outcome

SUFFIX = ".points.jsonl"


class PlainLedger:
    """Points in an order that the seed decides; outcomes are on the disk before the next point is tried."""

    def __init__(self, path: Path, order: list[Variant], told: list[Outcome]) -> None:
        self._path, self._outcomes = path, told
        tried = {outcome.variant for outcome in told}
        self._free = [variant for variant in order if variant not in tried]
        self._asked: list[Variant] = []

    @property
    def num_tried(self) -> int:
        return len(self._outcomes)

    @property
    def num_free(self) -> int:
        return len(self._free)

    def outcomes(self) -> list[Outcome]:
        """Return every finished point, in the order of the trials."""
        return list(self._outcomes)

    def ask(self, count: int) -> list[Variant]:
        """Return up to `count` points to try next."""
        taken, self._free = self._free[:count], self._free[count:]
        self._asked += taken
        return taken

    def tell(self, outcome: Outcome) -> None:
        """Keep what came of a point that was asked for."""
        with uninterrupted():
            self._asked.remove(outcome.variant)
            _append(self._path, plain(outcome))
            self._outcomes.append(outcome)

    def abandon(self) -> int:
        """Give back the points that were asked for and not told; return how many."""
        count = len(self._asked)
        self._free, self._asked = [*self._asked, *self._free], []
        return count


@contextmanager
def open_plain_ledger(path: Path, pool: Pool, identity: Identity, *, seed: int, resume: bool) -> Iterator[PlainLedger]:
    """Begin the study in a file, or continue it; nobody else may meanwhile.

    Raises:
        TunerError: if another run is at work in the file.
        StudyExistsError: if it has results and `resume` is not set.
        StudyChangedError: if it was made with another identity.
    """
    with only_run(path, "give another --out"):
        mend_journal(path)
        lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        told = [outcome_from(line) for line in lines[1:]]
        if told and not resume:
            raise StudyExistsError(f"{path} has {len(told)} finished points. Continue with --resume, or remove it")
        if told:
            require_same(path.name, str(path), lines[0], asdict(identity))
        else:
            path.unlink(missing_ok=True)
            _append(path, asdict(identity))
        yield PlainLedger(path, _order(pool, seed), told)


def _order(pool: Pool, seed: int) -> list[Variant]:
    points = list(pool.legal)
    random.Random(seed).shuffle(points)
    points.sort(key=lambda point: point != pool.default)
    return [pool.legal[point] for point in points]


def _append(path: Path, data: object) -> None:
    with path.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(data) + "\n")
        stream.flush()
        os.fsync(stream.fileno())
