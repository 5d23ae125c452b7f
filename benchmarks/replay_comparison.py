"""Our search strategies and Kernel Tuner's on the same recorded spaces, by the same counting rule.

    python benchmarks/replay_comparison.py FILE [FILE ...] [--repeats 100] [--slow-repeats N] [--budget 200] [--seed 0]
                                           [--jobs N] [--kernel-tuner-python PATH | --kernel-tuner-searches FOLDER]
                                           [--out benchmarks/results/replay]

An evaluation is a point of the recorded legal pool asked for the first time; recorded failures count. Kernel Tuner
1.5 runs in its own simulation mode, with default hyperparameters, in an interpreter that has it; without one its rows
are left out and said so. `--slow-repeats` is for TPE and Kernel Tuner, whose searches take longer; the number stands in
each row. `--kernel-tuner-searches` takes what kernel_tuner_searches.py printed before, with the same seed and budget,
from FOLDER/<name before the first dot>.<strategy>.jsonl, as many searches as are there. Writes README.md, replay.json
and, with matplotlib (the extra `plots`), a PNG for each file. Needs no GPU.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT / "src") not in sys.path:
    sys.path.insert(0, str(ROOT / "src"))

from kernelwright.tuner.recording import Recording, load_recording  # noqa: E402
from kernelwright.tuner.replay import NEAR, replay, summarise  # noqa: E402
from kernelwright.tuner.strategy_names import StrategyName, has_forest  # noqa: E402

OURS: tuple[StrategyName, ...] = ("gp", "forest", "tpe", "random")
THEIRS = ("adaptive_tabu_greywolf", "hybrid_vndx", "genetic_algorithm")


def main(argv: Sequence[str] | None = None) -> int:
    """Compare, write and print."""
    parser = argparse.ArgumentParser(prog="replay_comparison.py", description="Search strategies on recorded spaces.")
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE")
    parser.add_argument("--repeats", type=int, default=100)
    parser.add_argument("--slow-repeats", type=int, help="default: as --repeats")
    parser.add_argument("--budget", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--kernel-tuner-python", metavar="PATH", help="an interpreter with kernel_tuner 1.5")
    parser.add_argument("--kernel-tuner-searches", type=Path, metavar="FOLDER", help="searches that it made before")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "replay")
    args = parser.parse_args(argv)
    theirs = args.kernel_tuner_python or (sys.executable if importlib.util.find_spec("kernel_tuner") else None)
    found = {}
    for path in args.files:
        recording = load_recording(path)
        traces = dict(our_traces(path, recording, args))
        if args.kernel_tuner_searches is not None:
            traces |= earlier_traces(path, recording, args)
        elif theirs is None:
            print("replay_comparison: no kernel_tuner: its strategies are left out", file=sys.stderr)
        else:
            traces |= their_traces(path, recording, theirs, args)
        found[path.name] = describe(recording, traces, args.budget)
        draw(args.out / f"{path.name.split('.')[0]}.png", recording, traces, args.budget)
        args.out.mkdir(parents=True, exist_ok=True)
        (args.out / "replay.json").write_text(json.dumps(found, indent=1) + "\n")
        (args.out / "README.md").write_text(report(found, args))
    print(report(found, args))
    return 0


def our_traces(path: Path, recording: Recording, args: argparse.Namespace) -> dict[str, list[Sequence[int]]]:
    """Return the evaluations of every search of ours."""
    traces: dict[str, list[Sequence[int]]] = {}
    for name in OURS:
        if name == "forest" and not has_forest():
            print("replay_comparison: no scikit-learn: the forest is left out", file=sys.stderr)
            continue
        repeats = (args.slow_repeats or args.repeats) if name == "tpe" else args.repeats
        print(f"replay_comparison: {path.name}: {name}, {repeats} searches", file=sys.stderr, flush=True)
        searches = replay(path, recording, name, repeats=repeats, budget=args.budget, seed=args.seed, jobs=args.jobs)
        traces[f"kernelwright {name}"] = [search.points for search in searches]
    return traces


def their_traces(
    path: Path, recording: Recording, python: str, args: argparse.Namespace
) -> dict[str, list[Sequence[int]]]:
    """Return the evaluations of every search of Kernel Tuner's, up to the budget."""
    script = ROOT / "benchmarks" / "kernel_tuner_searches.py"
    traces: dict[str, list[Sequence[int]]] = {}
    for name in THEIRS:
        repeats = args.slow_repeats or args.repeats
        print(f"replay_comparison: {path.name}: Kernel Tuner {name}, {repeats} searches", file=sys.stderr, flush=True)
        command = [python, str(script), str(path), name, str(repeats), str(args.budget), str(args.seed)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            last = done.stderr.strip().splitlines()[-1:] or ["no message"]
            print(f"replay_comparison: Kernel Tuner {name} failed: {last[0]}", file=sys.stderr)
            continue
        traces[f"Kernel Tuner {name}"] = printed_traces(done.stdout, recording, args.budget)
    return traces


def earlier_traces(path: Path, recording: Recording, args: argparse.Namespace) -> dict[str, list[Sequence[int]]]:
    """Return those of searches of Kernel Tuner's that were printed to files before."""
    traces: dict[str, list[Sequence[int]]] = {}
    for name in THEIRS:
        file = args.kernel_tuner_searches / f"{path.name.split('.')[0]}.{name}.jsonl"
        printed = file.read_text() if file.exists() else ""
        if not printed:
            print(f"replay_comparison: {file}: no searches: left out", file=sys.stderr)
            continue
        traces[f"Kernel Tuner {name}"] = printed_traces(printed, recording, args.budget)
    return traces


def printed_traces(printed: str, recording: Recording, budget: int) -> list[Sequence[int]]:
    """Return the points of the searches that kernel_tuner_searches.py printed."""
    index = {",".join(str(value) for value in point): place for place, point in enumerate(recording.pool.points)}
    return [[index[key] for key in json.loads(line)][:budget] for line in printed.splitlines()]


def describe(recording: Recording, traces: dict[str, list[Sequence[int]]], budget: int) -> dict[str, Any]:
    """Return a file's figures as plain values."""
    return {
        "title": recording.title,
        "points": len(recording.pool),
        "failures": sum(recording.failures.values()),
        "within_5pct": sum(figure <= recording.optimum * (1 + NEAR) for figure in recording.figures),
        "strategies": [summarise(name, recording, searches, budget).plain() for name, searches in traces.items()],
    }


def report(found: dict[str, Any], args: argparse.Namespace) -> str:
    """Return the tables."""
    lines = [
        "# Search strategies on recorded spaces",
        "",
        f"`python benchmarks/replay_comparison.py` with seed {args.seed} and {args.budget} evaluations a search. An",
        "evaluation is a point of the recorded legal pool asked for the first time; recorded failures count. The",
        "optimum is the least mean of the recorded repeats, and searches are told the means. Kernel Tuner is 1.5 with",
        "its default hyperparameters, in its simulation mode. A search that ends early keeps its best.",
    ]
    for name, row in found.items():
        lines += [
            "",
            f"## {name}: {row['title']}",
            "",
            f"{row['points']:,} points, {row['failures']} of them failures; {row['within_5pct']} within 5 %.",
            "",
            "| strategy | searches | evaluations to 5 %: median (quartiles) | by 200 | mean regret | p90 regret |",
            "| --- | ---: | ---: | ---: | ---: | ---: |",
        ]
        for one in row["strategies"]:
            middle, low, high = (
                "never" if one[key] is None else f"{one[key]:g}"
                for key in ("median_evaluations_to_5pct", "p25_evaluations_to_5pct", "p75_evaluations_to_5pct")
            )
            lines.append(
                f"| {one['strategy']} | {one['repeats']} | {middle} ({low} to {high}) | {one['success_by_200']:.0%} | "
                f"{one['mean_regret']:.2%} | {one['p90_regret']:.2%} |"
            )
    return "\n".join([*lines, ""])


def draw(path: Path, recording: Recording, traces: dict[str, list[Sequence[int]]], budget: int) -> None:
    """Draw the median of the best found over the optimum against evaluations, if matplotlib is there."""
    if importlib.util.find_spec("matplotlib") is None:
        print("replay_comparison: no matplotlib: no plot", file=sys.stderr)
        return
    import matplotlib  # type: ignore[import-not-found, unused-ignore]

    matplotlib.use("Agg")
    from matplotlib import pyplot  # type: ignore[import-not-found, unused-ignore]

    figures = np.array(recording.figures)
    figure, axes = pyplot.subplots(figsize=(7, 4))
    for name, searches in traces.items():
        curves = []
        for points in searches:
            best = np.minimum.accumulate(figures[list(points)]) / recording.optimum
            curves.append(np.concatenate([best, np.full(budget - len(best), best[-1])]))
        middle = [statistics.median(curve[count] for curve in curves) for count in range(budget)]
        axes.plot(range(1, budget + 1), middle, label=name, linewidth=1.4)
    axes.axhline(1 + NEAR, color="grey", linewidth=0.6, linestyle=":")
    axes.set(
        xlabel="unique evaluations", ylabel="best found / optimum (median)", ylim=(0.99, 2.0), title=recording.title
    )
    axes.legend(fontsize=7)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, bbox_inches="tight")
    pyplot.close(figure)


if __name__ == "__main__":
    sys.exit(main())
