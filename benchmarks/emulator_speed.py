"""Time the emulator takes for a built module's causal forward: batch 1, 2 heads, head_dim 64, bf16.

    gen build --arch sm80
    python benchmarks/emulator_speed.py --path out --module flash_sm80

Measured around flash_attn_func, best of several, without checks and with all of them; launch and allocation are
contained. CPU time is that of one host thread (time.process_time), wall time (time.perf_counter) that of each number of
`--threads`. It says nothing about a GPU.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import subprocess
import sys
import time
import warnings
from pathlib import Path

SEQLENS = (256, 512, 1024, 2048)
CHECKS = ("none", "all")


def measure(path: Path, name: str, seqlen: int, repeats: int) -> dict[str, float]:
    """Return the best CPU and wall time in ms of this process's emulator settings, and a launch's warp instructions."""
    sys.path.insert(0, str(path))
    import torch

    module = importlib.import_module(name)
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, seqlen, 2, 64).to(torch.bfloat16) for _ in range(3))
    cpu = wall = float("inf")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", module.EmulationWarning)
        for _ in range(repeats + 1):  # the first loads the kernel
            start, start_cpu = time.perf_counter(), time.process_time()
            module.flash_attn_func(q, k, v, causal=True)
            cpu, wall = min(cpu, time.process_time() - start_cpu), min(wall, time.perf_counter() - start)
    counters = module.last_report()["counters"]
    return {"cpu_ms": cpu * 1e3, "wall_ms": wall * 1e3, "warp_instructions": counters.get("warp_instructions", 0)}


def measure_row(seqlen: int, threads: list[int]) -> dict[str, object]:
    """Measure a seqlen with each kind of checks and number of threads, each in a process of its own."""
    row: dict[str, object] = {"seqlen": seqlen, "label": "measured on this CPU"}
    for checks in CHECKS:
        for count in sorted({1, *threads}):
            command = [sys.executable, __file__, *sys.argv[1:], "--one", str(seqlen)]
            environment = os.environ | {"KERNELWRIGHT_EMULATE": f"a100,checks={checks},threads={count}"}
            done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True, text=True)
            result = json.loads(done.stdout.splitlines()[-1])
            if count == 1:
                row[f"checks_{checks}_cpu_ms"] = round(result["cpu_ms"], 2)
            if count in threads:
                row[f"checks_{checks}_threads_{count}_wall_ms"] = round(result["wall_ms"], 2)
            if checks == "all":
                row["warp_instructions"] = int(result["warp_instructions"])
    return row


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--path", type=Path, default=Path("out"), help="folder the module lies in (default: out)")
    parser.add_argument("--module", default="flash_sm80", help="the module (default: flash_sm80)")
    parser.add_argument("--repeats", type=int, default=7, help="launches, of which the best counts (default: 7)")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="numbers of host threads (default: 1 2)")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)  # a seqlen: measure it in this process
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(args.path, args.module, args.one, args.repeats)))
        return 0
    if not (args.path / args.module / "build_info.json").is_file():
        print(f"There is no module {args.module} in {args.path}. Make one: gen build --arch sm80", file=sys.stderr)
        return 1
    rows = [measure_row(seqlen, args.threads) for seqlen in SEQLENS]
    if args.json:
        print(json.dumps(rows, indent=1))
        return 0
    columns = [name for name in rows[0] if name.endswith("_ms")]
    print("measured on this CPU, ms; wall time by host threads")
    print("  ".join(["seqlen", "warp instructions", *columns]))
    for row in rows:
        times = "  ".join(f"{row[name]:>{len(name)}}" for name in columns)
        print(f"{row['seqlen']:>6}  {row['warp_instructions']:>17,}  {times}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
