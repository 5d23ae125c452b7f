"""How busy the scheduler keeps its workers, with the real sampler and storage and a study that is already long.

    python benchmarks/scheduler.py FILE [--workers 16] [--seconds 2] [--trials 400] [--before 5000] [--strategy forest]
                                        [--journal] [--faults] [--json]

FILE is a recorded space (a Kernel Tuner cache). A measurement is a sleep of `--seconds`, in real time and not scaled;
its figure is the recorded one. `--before` finished trials are put into the Optuna study first. Busy is the workers'
summed sleep over workers times the time from the first measurement's start to the moment the last point was handed
out. With `--faults` some workers are lost, hang or answer wrongly. Needs no GPU.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import BrokenExecutor, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT / "src") not in sys.path:
    sys.path.insert(0, str(ROOT / "src"))

import optuna  # noqa: E402

from kernelwright.tuner.recording import Recording, load_recording  # noqa: E402
from kernelwright.tuner.sampler import FAILED_VALUE, PoolSampler, distributions  # noqa: E402
from kernelwright.tuner.scheduler import Done, Schedule, Stage  # noqa: E402
from kernelwright.tuner.strategies import make_strategy  # noqa: E402
from kernelwright.tuner.strategy_names import default_strategy, parse_strategy  # noqa: E402

_HANG_S = 5.0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the schedule and print how busy the workers were."""
    parser = argparse.ArgumentParser(prog="scheduler.py", description="How busy the scheduler keeps its workers.")
    parser.add_argument("file", type=Path, metavar="FILE")
    parser.add_argument("--workers", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=2.0, help="of one measurement, slept in real time")
    parser.add_argument("--trials", type=int, default=400, help="to be measured")
    parser.add_argument("--before", type=int, default=5000, help="finished trials in the study")
    parser.add_argument("--strategy", help="default: as tuner run")
    parser.add_argument("--journal", action="store_true", help="Optuna's journal file in place of memory")
    parser.add_argument("--faults", action="store_true", help="lose and hang workers, spoil results")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args(argv)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    recording = load_recording(args.file)
    name = parse_strategy(args.strategy) if args.strategy else default_strategy(len(recording.pool), args.trials)
    with tempfile.TemporaryDirectory() as folder:
        clerk = StudyClerk.open(recording, name, args, Path(folder) / "study.journal" if args.journal else None)
        workers = Workers(recording, args.seconds, faults=args.faults, seed=args.seed)
        found = run(clerk, workers, args.workers, args.trials) | {"strategy": name, "before": args.before}
    print(json.dumps(found, indent=1) if args.json else text(found))
    return 0


def text(found: dict[str, Any]) -> str:
    return (
        f"{found['told']} points by {found['workers']} workers of {found['seconds']:g} s (real sleep), "
        f"{found['before']} finished trials before, strategy {found['strategy']}: {found['busy']:.1%} busy; asking "
        f"took {found['ask_ms']:.0f} ms a point, telling {found['tell_ms']:.0f} ms; lost {found['lost']}, told twice "
        f"{found['told_twice']}, measured twice {found['measured_twice']}; faults {found['faults']}"
    )


@dataclass(slots=True)
class StudyClerk:
    """A recorded space's points as trials of an Optuna study."""

    recording: Recording
    study: Any  # Any: optuna is untyped to mypy
    sampler: PoolSampler
    index: dict[Any, int]
    limit: int
    asked: dict[int, Any] = field(default_factory=dict)
    told: Counter[int] = field(default_factory=Counter)
    ask_s: float = 0.0
    tell_s: float = 0.0

    @classmethod
    def open(cls, recording: Recording, name: Any, args: argparse.Namespace, journal: Path | None) -> StudyClerk:
        pool = recording.pool
        choices = dict(zip(pool.names, pool.choices, strict=True))
        sampler = PoolSampler(pool, choices, make_strategy(name, pool, args.seed))
        storage = None
        if journal is not None:
            storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(journal)))
        study = optuna.create_study(storage=storage, sampler=sampler)
        order = random.Random(args.seed).sample(range(len(pool)), args.before)
        print(f"scheduler: adding {len(order)} finished trials", file=sys.stderr, flush=True)
        study.add_trials(
            [
                optuna.trial.create_trial(
                    value=min(recording.figures[index], FAILED_VALUE),
                    params=dict(zip(pool.names, pool.points[index], strict=True)),
                    distributions=distributions(choices),
                )
                for index in order
            ]
        )
        return cls(recording=recording, study=study, sampler=sampler, index=pool.index(), limit=args.trials)

    def ask(self, count: int) -> list[int]:
        started = time.monotonic()
        items = []
        for _ in range(self.sampler.plan(self.study, min(count, self.limit - len(self.asked)))):
            trial = self.study.ask(self.sampler.infer_relative_search_space(None, None))
            item = self.index[tuple(trial.params[name] for name in self.recording.pool.names)]
            assert item not in self.asked, "asked twice"
            self.asked[item] = trial
            items.append(item)
        self.ask_s += time.monotonic() - started
        return items

    def tell(self, item: int, result: float) -> None:
        started = time.monotonic()
        self.told[item] += 1
        self.study.tell(self.asked[item], min(result, FAILED_VALUE))
        self.tell_s += time.monotonic() - started


@dataclass(slots=True)
class Workers:
    """Measurements that sleep, and what may go wrong with them."""

    recording: Recording
    seconds: float
    faults: bool
    seed: int
    slept: float = 0.0
    first: float = math.inf
    last: float = 0.0
    finished: Counter[int] = field(default_factory=Counter)
    happened: Counter[str] = field(default_factory=Counter)
    _lock: Any = field(default_factory=threading.Lock)

    def compile(self, item: int) -> int:
        time.sleep(self.seconds / 20)
        return item

    def verify(self, item: int) -> int | Done[float]:
        time.sleep(self.seconds / 20)
        if self._fault(item) == "wrong":
            with self._lock:
                self.happened["wrong"] += 1
            return Done(math.inf)
        return item

    def measure(self, item: int) -> float:
        started = time.monotonic()
        with self._lock:
            self.first, self.last = min(self.first, started), max(self.last, started)
        fault = self._fault(item)
        if fault == "killed":
            with self._lock:
                self.happened["killed"] += 1
                first_time = self.happened[f"killed {item}"] == 0
                self.happened[f"killed {item}"] += 1
            if first_time:
                raise BrokenExecutor("the worker was killed")
        if fault == "hang":
            with self._lock:
                self.happened["hang"] += 1
            time.sleep(_HANG_S + 3 * self.seconds)
            return math.nan  # comes too late for anybody
        time.sleep(self.seconds)
        with self._lock:
            self.slept += time.monotonic() - started
            self.finished[item] += 1
        return self.recording.figures[item]

    def _fault(self, item: int) -> str:
        draw = random.Random(f"{self.seed}/{item}").random() if self.faults else 1.0
        return "killed" if draw < 0.05 else "hang" if draw < 0.08 else "wrong" if draw < 0.13 else ""


def run(clerk: StudyClerk, workers: Workers, count: int, trials: int) -> dict[str, Any]:
    """Measure `trials` points and return what was seen."""
    with ThreadPoolExecutor(4) as builders, ThreadPoolExecutor(4) as checkers, ThreadPoolExecutor(4 * count) as timers:
        stages = [
            Stage(name="compile", work=workers.compile, executor=builders, workers=4),
            Stage(name="verify", work=workers.verify, executor=checkers, workers=4),
            Stage(
                name="time",
                work=workers.measure,
                executor=timers,
                workers=count,
                timeout_s=2 * workers.seconds + 2.0,
                shared=False,
            ),
        ]
        schedule: Schedule[int, float] = Schedule(
            clerk=clerk, stages=stages, failed=lambda item, stage, why: math.inf, batch=count
        )
        told = schedule.run()
    # From the first start to the last start every worker could be at work; what ran on after it counts in proportion.
    window = workers.last - workers.first + workers.seconds
    possible = count * (workers.last - workers.first) + workers.seconds * min(count, told)
    return {
        "told": told,
        "workers": count,
        "seconds": workers.seconds,
        "window_s": round(window, 2),
        "busy": min(1.0, workers.slept / possible),
        "ask_ms": 1e3 * clerk.ask_s / max(1, len(clerk.asked)),
        "tell_ms": 1e3 * clerk.tell_s / max(1, told),
        "lost": len(clerk.asked.keys() - clerk.told.keys()),
        "told_twice": sum(times > 1 for times in clerk.told.values()),
        "measured_twice": sum(times > 1 for times in workers.finished.values()),
        "faults": {name: times for name, times in workers.happened.items() if " " not in name},
    }


if __name__ == "__main__":
    sys.exit(main())
