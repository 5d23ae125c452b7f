"""What compiling kernels cost, against what the plan predicted: CPU seconds, peak memory, size of PTX and cubin.

    gen build --arch sm80 --profile all_head_dims --name flash_all --out out/all
    python benchmarks/build_cost.py out/all [OUT...]

CPU seconds and memory are those of the compiler when it compiled a kernel, recorded beside it (a kernel from the cache
keeps its first record). The fit, over kernels that differ enough for one, is what `kernelwright.gen.plan.COSTS` holds.
Nothing here concerns a GPU's time.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np

from kernelwright.gen.plan import cost_terms, predict_cost
from kernelwright.gen.spec import Variant

QUANTITIES = ("cpu_seconds", "peak_mib", "size_kib")


def read_reports(folder: Path) -> list[tuple[Variant, dict[str, float]]]:
    """Return each kernel compiled in an out folder and what it cost."""
    found = []
    for path in sorted((folder / "obj").glob("flash_*.json")):
        report = json.loads(path.read_text())
        size = sum(path.with_suffix(suffix).stat().st_size for suffix in (".ptx", ".cubin"))
        cost = {
            "cpu_seconds": report["cpu_s"],
            "peak_mib": report["peak_rss_kib"] / 1024,
            "size_kib": size / 1024,
            "spill_bytes": report["spill_store_bytes"] + report["spill_load_bytes"],
        }
        found.append((Variant.parse(report["variant"]), cost))
    return found


def summarise(reports: list[tuple[Variant, dict[str, float]]]) -> dict[str, object]:
    """Return per quantity the range, the error of the prediction, and a fresh fit of relative errors."""
    terms = [cost_terms(variant) for variant, _ in reports]
    names = [name for name in terms[0] if any(one[name] for one in terms)]
    matrix = np.array([[one[name] for name in names] for one in terms], dtype=float)
    summary: dict[str, object] = {
        "kernels": len(reports),
        "spilling": [variant.name for variant, cost in reports if cost["spill_bytes"]],
    }
    for quantity in QUANTITIES:
        actual = np.array([cost[quantity] for _, cost in reports])
        predicted = np.array([getattr(predict_cost(variant), quantity) for variant, _ in reports])
        weighted = matrix / actual[:, None]
        fit, _, rank, _ = np.linalg.lstsq(weighted, np.ones(len(actual)), rcond=None)
        summary[quantity] = {
            "min": round(float(actual.min()), 3),
            "max": round(float(actual.max()), 3),
            "sum": round(float(actual.sum()), 1),
            "predicted_sum": round(float(predicted.sum()), 1),
            "mean_error_percent": round(float(np.abs(predicted / actual - 1).mean() * 100), 1),
            "fit": {name: float(f"{one:.3g}") for name, one in zip(names, fit, strict=True)}
            if rank == len(names) < len(actual)
            else "too few different kernels",
        }
    return summary


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, nargs="+", help="out folders of gen build")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    found = {variant.name: (variant, cost) for out in args.out for variant, cost in read_reports(out)}
    reports = list(found.values())
    if not reports:
        print(f"{args.out[0]}: no reports of compiled kernels in obj/; run gen build --out OUT", file=sys.stderr)
        return 1
    operations = dict.fromkeys(variant.operation for variant, _ in reports)
    summary = {name: summarise([one for one in reports if one[0].operation == name]) for name in operations}
    if args.json:
        print(json.dumps(summary, indent=1))
        return 0
    for operation, one in summary.items():
        print(f"{operation}: {one['kernels']} kernels; spilling: {one['spilling'] or 'none'} (static)")
        for quantity in QUANTITIES:
            print(f"{quantity:12} {one[quantity]}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
