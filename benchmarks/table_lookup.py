"""What finding the row of a table costs in the launcher, in tables of up to 1,000 rows.

    python benchmarks/table_lookup.py [--json] [--rows 1000] [--calls 20000] [--repeats 15]

Needs torch and a C compiler, no GPU: the stand-in driver of call_overhead.py answers every launch at once. Two calls of
different sizes alternate, so that the launcher's memory of the last call never answers. The look-up's cost is the time
of such a call less that of the same call with a table of one row, timed in turn; microseconds, the median of the
differences and the difference of the lowest.

    spread     rows of 2 dtypes, 8 head dimensions and 2 masks, as a tuned module has them; the last of a group answers
    one group  every row is of one problem, with disjoint bounds on seqlen_q; the last answers
    two sizes  as before, with bounds on seqlen_q and batch, of which only the last row's fit
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import timeit
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from call_overhead import IMAGE, import_module, kernel_record, make_module, row

from kernelwright.gen.spec import DTYPES

Rows = list[dict[str, object]]
Kernels = dict[str, dict[str, object]]
FIRST = 100  # tokens of the first bound; calls are longer than every bound but the last


def spread(count: int) -> tuple[Kernels, Rows]:
    """Rows of 32 problems in turn."""
    problems = [(dtype, dim, mask) for dtype in DTYPES for dim in range(32, 288, 32) for mask in (True, False)]
    kernels = {
        f"{dtype}_{dim}_{mask}": kernel_record(IMAGE, dtype, dim, is_causal=mask) for dtype, dim, mask in problems
    }
    names = list(kernels)
    each = count // len(names)
    rows = [row(name, {"seqlen_q": _bounds(index, each)}) for index in range(each) for name in names]
    return kernels, rows + [row(name, {}) for name in names[: count - len(rows)]]


def one_group(count: int) -> tuple[Kernels, Rows]:
    """Rows of one problem, by ascending length."""
    rows = [row("none", {"seqlen_q": _bounds(index, count)}) for index in range(count)]
    return {"none": kernel_record(IMAGE)}, rows


def two_sizes(count: int) -> tuple[Kernels, Rows]:
    """Rows whose lengths all fit, and whose batches do not but for the last."""
    rows = [row("none", {"seqlen_q": [1, None], "batch": [1000 + index, 1000 + index]}) for index in range(count - 1)]
    return {"none": kernel_record(IMAGE)}, [*rows, row("none", {"seqlen_q": [1, None], "batch": [1, 999]})]


LAYOUTS: dict[str, Callable[[int], tuple[Kernels, Rows]]] = {
    "spread": spread,
    "one group": one_group,
    "two sizes": two_sizes,
}


def _bounds(index: int, count: int) -> list[int | None]:
    low = FIRST + index if index else None
    return [low, FIRST + index] if index < count - 1 else [low, None]


def alternating_call(folder: Path, layout: str, count: int) -> Callable[[], None]:
    """Return a function that makes two calls through a new module with a table of `count` rows."""
    kernels, rows = LAYOUTS[layout](count) if count > 1 else one_group(1)
    make_module(folder, kernels, rows)
    attention = import_module(folder).flash_attn_func
    q, other = (torch.zeros(2, length, 2, 128, dtype=torch.bfloat16) for length in (FIRST + 5000, FIRST + 5001))
    out, other_out = torch.empty_like(q), torch.empty_like(other)

    def alternate() -> None:
        attention(q, q, q, None, True, out=out)
        attention(other, other, other, None, True, out=other_out)

    alternate()
    return alternate


def measure(calls: dict[str, Callable[[], None]], number: int, repeats: int) -> dict[str, list[float]]:
    """Return the times of one call, microseconds, round by round so that all meet the same disturbances."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            times[name].append(timeit.timeit(call, number=number) / number / 2 * 1e6)
    return times


def main() -> int:
    """Measure every layout and print one line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1000, help="of the table (default 1000)")
    parser.add_argument("--calls", type=int, default=20_000, help="calls per repeat (default 20000)")
    parser.add_argument("--repeats", type=int, default=15, help="repeats (default 15)")
    parser.add_argument("--json", action="store_true", help="print plain data")
    options = parser.parse_args()
    warnings.filterwarnings("ignore", message="CPU tensors run")
    with tempfile.TemporaryDirectory() as scratch:
        calls = {"base": alternating_call(Path(scratch) / "lookup_base", "one group", 1)}
        for index, layout in enumerate(LAYOUTS):
            calls[layout] = alternating_call(Path(scratch) / f"lookup_{index}", layout, options.rows)
        times = measure(calls, options.calls, options.repeats)
    found = [
        {
            "label": "measured",
            "layout": layout,
            "rows": options.rows,
            "lookup_us": round(statistics.median(a - b for a, b in zip(times[layout], times["base"], strict=True)), 3),
            "lowest_us": round(min(times[layout]) - min(times["base"]), 3),
            "call_us": round(statistics.median(times[layout]), 3),
        }
        for layout in LAYOUTS
    ]
    host = {"torch": torch.__version__, "python": platform.python_version(), "machine": platform.machine()}
    if options.json:
        print(json.dumps({"schema": 1, **host, "calls": options.calls, "repeats": options.repeats, "rows": found}))
        return 0
    print(f"measured, us per call, torch {host['torch']}, Python {host['python']}, {os.cpu_count()} cores")
    for one in found:
        print(
            f"  {one['layout']:<10} {one['rows']:>6} rows: look-up {one['lookup_us']:.2f} "
            f"(lowest {one['lowest_us']:.2f}) of {one['call_us']:.2f}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
