"""`tuner replay`: strategies compared on a recorded space."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from kernelwright.build.jobs import usable_cores
from kernelwright.tuner.errors import UsageError
from kernelwright.tuner.recording import Recording, load_recording
from kernelwright.tuner.replay import NEAR, Summary, replay, summarise
from kernelwright.tuner.strategy_names import StrategyName, default_strategy, parse_strategy

_EVERY_S = 5.0


def run_replay(args: argparse.Namespace) -> int:
    """Replay, and print what was found."""
    _check(args)
    recording = load_recording(args.file)
    names = _names(args.strategy, recording, args.budget)
    summaries = []
    for name in names:
        traces = replay(
            args.file,
            recording,
            name,
            repeats=args.repeats,
            budget=args.budget,
            seed=args.seed,
            jobs=args.jobs or usable_cores(),
            noisy=args.noise,
            done=_teller(name, args.repeats),
        )
        summaries.append(summarise(name, recording, [trace.points for trace in traces], args.budget))
    print(json.dumps(_plain(args, recording, summaries), indent=1) if args.json else replay_text(recording, summaries))
    return 0


def _check(args: argparse.Namespace) -> None:
    for option in ("repeats", "budget"):
        if getattr(args, option) < 1:
            raise UsageError(f"--{option} must be at least 1, got {getattr(args, option)}")
    if args.jobs is not None and args.jobs < 1:
        raise UsageError(f"--jobs must be at least 1, got {args.jobs}")
    if not 0 <= args.seed < 1 << 32:
        raise UsageError(f"--seed must be from 0 to 4294967295, got {args.seed}")


def _names(wanted: Sequence[str] | None, recording: Recording, budget: int) -> list[StrategyName]:
    if not wanted:
        return [default_strategy(len(recording.pool), budget)]
    return [parse_strategy(one) for one in dict.fromkeys(wanted)]


def _teller(name: str, repeats: int) -> Callable[[int], None]:
    """Return what says on stderr how far a replay is, every few seconds and at its end."""
    last = time.monotonic()

    def tell(count: int) -> None:
        nonlocal last
        if count == repeats or time.monotonic() - last >= _EVERY_S:
            last = time.monotonic()
            print(f"tuner: {name}: {count}/{repeats} searches", file=sys.stderr, flush=True)

    return tell


def _plain(args: argparse.Namespace, recording: Recording, summaries: Sequence[Summary]) -> dict[str, object]:
    return {
        "file": Path(args.file).name,
        "title": recording.title,
        "points": len(recording.pool),
        "failures": dict(recording.failures),
        "optimum_ms": recording.optimum,
        "optimum_by": "mean of the recorded repeats",
        "within_5pct": sum(figure <= recording.optimum * (1 + NEAR) for figure in recording.figures),
        "counting": "unique points of the recorded pool; recorded failures count",
        "told": "median of 3 drawn repeats" if args.noise else "mean of the recorded repeats",
        "seed": args.seed,
        "strategies": {one.strategy: one.plain() for one in summaries},
    }


def replay_text(recording: Recording, summaries: Sequence[Summary]) -> str:
    """Return what was found, for people."""
    failed = ", ".join(f"{kind} {count}" for kind, count in sorted(recording.failures.items())) or "none"
    near = sum(figure <= recording.optimum * (1 + NEAR) for figure in recording.figures)
    lines = [
        f"{recording.title}: {len(recording.pool)} points (failures: {failed}), "
        f"best mean {recording.optimum:.4g} ms, {near} within {NEAR:.0%} of it",
        f"{'strategy':<12} searches  evaluations to 5 % (median, quartiles)  reached by 200  mean regret",
    ]
    for one in summaries:
        data = one.plain()
        middle, low, high = (
            "never" if data[key] is None else f"{data[key]:g}"
            for key in ("median_evaluations_to_5pct", "p25_evaluations_to_5pct", "p75_evaluations_to_5pct")
        )
        lines.append(
            f"{one.strategy:<12} {one.repeats:>8}  {f'{middle} ({low} to {high})':>38}  "
            f"{one.success_by_200:>14.0%}  {data['mean_regret']:>11.2%}"
        )
    return "\n".join(lines)
