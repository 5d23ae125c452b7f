"""What a race costs and how well it chooses, against the least of 3-repeat medians, on recorded spaces with noise.

    python benchmarks/racing.py FILE [FILE ...] [--races 20] [--candidates N] [--holds P] [--seed 0] [--json]

FILE is a Kernel Tuner cache. Its means are the truth; the clock of benchmarks/noisy_clock.py is what both see. The cost
is compared with timing all candidates `--repeats` times each, in samples and in their summed time. Needs no GPU.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
for _folder in (ROOT / "benchmarks", ROOT / "src"):
    if str(_folder) not in sys.path:
        sys.path.insert(0, str(_folder))

from noisy_clock import HOLDS, NoisyClock  # noqa: E402

from kernelwright.tuner.racing import race  # noqa: E402
from kernelwright.tuner.recording import load_recording  # noqa: E402


def main(argv: Sequence[str] | None = None) -> int:
    """Run the races and print both regrets and the share of the cost."""
    parser = argparse.ArgumentParser(prog="racing.py", description="Races on recorded spaces with injected noise.")
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE")
    parser.add_argument("--races", type=int, default=20, help="races a file (default: 20)")
    parser.add_argument("--candidates", type=int, metavar="N", help="drawn for each race (default: all)")
    parser.add_argument("--repeats", type=int, default=32, help="of the full measurement (default: 32)")
    parser.add_argument("--holds", type=float, default=HOLDS, help="of noisy_clock.py (default: 0.5; 0: first only)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args(argv)
    found = {}
    for path in args.files:
        figures = load_recording(path).figures
        runs = [
            one_race(figures, args.candidates, args.repeats, args.holds, args.seed + number)
            for number in range(args.races)
        ]
        found[path.name] = {key: statistics.fmean(run[key] for run in runs) for key in runs[0]}
        found[path.name]["regret_max"] = max(run["regret"] for run in runs)
    if args.json:
        print(json.dumps(found, indent=1))
        return 0
    for name, row in found.items():
        print(
            f"{name}: mean regret {row['regret']:.2%} (largest {row['regret_max']:.2%}) by race at "
            f"{row['sample_share']:.1%} of the samples and {row['time_share']:.1%} of the time of {args.repeats} "
            f"repeats of all; {row['median_regret']:.2%} by the least median of 3"
        )
    return 0


def one_race(figures: Sequence[float], count: int | None, repeats: int, holds: float, seed: int) -> dict[str, float]:
    """Return the regrets of a race and of 3-repeat medians over the same candidates, and the race's shares of cost."""
    indices = list(range(len(figures)))
    if count is not None and count < len(indices):
        indices = random.Random(seed).sample(indices, count)
    finite = [index for index in indices if math.isfinite(figures[index])]
    best = min(figures[index] for index in finite)
    middle = sorted(finite, key=lambda index: figures[index])[len(finite) // 4]  # a default as hand rules give
    naive_clock = NoisyClock(figures, seed, period=3.0 * len(finite), holds=holds)
    medians = {index: statistics.median(naive_clock.measure(index, 3)) for index in finite}
    naive = min(medians, key=lambda index: medians[index])
    clock = NoisyClock(figures, seed + 1_000_000, period=6.0 * len(finite), holds=holds)
    result = race(indices, clock.measure, default=middle, seed=seed)
    assert result.winner is not None
    full_time = repeats * sum(figures[index] for index in finite)
    return {
        "regret": figures[result.winner] / best - 1,
        "median_regret": figures[naive] / best - 1,
        "sample_share": clock.num_samples / (repeats * len(finite)),
        "time_share": clock.spent / full_time,
        "repeated_batches": float(result.repeated),
    }


if __name__ == "__main__":
    sys.exit(main())
